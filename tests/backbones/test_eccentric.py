"""Eccentric pooling: published values, one window at a time in NumPy, and plain pooling as a special case."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gazekit import InputError
from gazekit.backbones.eccentric import EccentricPool2d, padding_before, rings_of, same_pool2d, vgg16_pools
from gazekit.backbones.search_features import TappedFeatures


def ramps(side):
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    return torch.stack([y, x, (7 * y + 13 * x) % 17])[None].float()


def test_published_values_of_stage_4():
    pooled = EccentricPool2d(0.16, 4.0)(ramps(101))[0]
    expected = {
        (0, 0): (2, 2, 8.04), (0, 25): (2, 50.5, 8.35), (25, 25): (50.5, 50.5, 7), (25, 33): (50, 66, 8.5555553),
        (25, 34): (50, 68, 8.1111107), (25, 50): (50.5, 98.5, 8.375), (50, 50): (98.5, 98.5, 8.625),
        (10, 40): (20.5, 80.5, 8.0277777),
    }  # fmt: skip
    for (row, column), values in expected.items():
        # Printed with eight digits, of single precision.
        assert pooled[:, row, column].tolist() == pytest.approx(values, rel=2e-7)
    assert pooled[2].double().sum().item() == pytest.approx(20801.7436, abs=2e-3)


def test_published_values_of_stage_3():
    pooled = EccentricPool2d(0.07, 8.0)(ramps(131)[:, 2:])
    assert pooled.double().sum().item() == pytest.approx(34847.5766, abs=2e-3)


@pytest.mark.parametrize(
    ("n_out", "px_per_dva", "slope", "kernels"),
    [
        (66, 8, 0.07, "2 3 3 4 4 5"),
        (101, 8, 0.07, "2 3 3 4 4 5 5 6 6 7"),
        (152, 8, 0.07, "2 3 3 4 4 5 5 6 6 7 8 8 9 9 10 10"),
        (170, 8, 0.07, "2 3 3 4 4 5 5 6 6 7 8 8 9 9 10 10 11 12 12"),
        (33, 4, 0.16, "2 3 3 4 5 5"),
        (51, 4, 0.16, "2 3 3 4 5 5 6 6 7 8"),
        (76, 4, 0.16, "2 3 3 4 5 5 6 6 7 8 8 9 10 10 11 12"),
        (85, 4, 0.16, "2 3 3 4 5 5 6 6 7 8 8 9 10 10 11 12 12 13 14"),
        (12, 4, 0.16, "2"),
    ],
)
def test_published_rings(n_out, px_per_dva, slope, kernels):
    assert list(rings_of(n_out, px_per_dva, slope, 4.0, 1.0).kernel) == [int(k) for k in kernels.split()]


def test_published_areas_of_rings():
    rings = rings_of(51, 4.0, 0.16, 4.0, 1.0)
    place = torch.arange(51) - 25
    squared = place[:, None].square() + place.square()
    ring = torch.bucketize(squared, torch.tensor([r * r for r in rings.radius]), right=True) - 1
    assert ring.flatten().bincount().tolist() == [193, 112, 132, 172, 184, 212, 240, 268, 276, 812]


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("mode", ["avg", "max"])
def test_every_window_by_itself(mode, stride):
    torch.manual_seed(0)
    x = torch.randn(1, 2, 37, 45, dtype=torch.float64)
    layer = EccentricPool2d(0.3, 2.0, fovea_radius_dva=2.0, stride=stride, mode=mode)
    got, kernels = layer(x)[0].numpy(), layer.kernels(37, 45)
    assert len(kernels.unique()) > 4
    reduce = np.mean if mode == "avg" else np.max
    for row, column in np.ndindex(*kernels.shape):
        k = int(kernels[row, column])
        r, c = (stride * i - padding_before(n, k, stride) for i, n in ((row, 37), (column, 45)))
        window = x[0, :, max(r, 0) : r + k, max(c, 0) : c + k].numpy()
        # Both in double; differences of sums over the whole map lose a few digits.
        np.testing.assert_allclose(got[:, row, column], reduce(window, (1, 2)), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("spacing", ["rings", "continuous"])
def test_a_constant_stays_one(spacing):
    x = torch.full((1, 1, 101, 90), 3.3)
    # Exactly in rings: sums of a single-precision constant are exact in double.
    tolerance = 0.0 if spacing == "rings" else 1e-6
    assert (EccentricPool2d(0.16, 4.0, spacing=spacing)(x) - 3.3).abs().max() <= tolerance


@pytest.mark.parametrize("mode", ["avg", "max"])
def test_without_slope_it_is_plain_pooling(mode):
    x = torch.randn(2, 3, 61, 80)
    plain = {"avg": torch.nn.functional.avg_pool2d, "max": torch.nn.functional.max_pool2d}[mode]
    got = EccentricPool2d(0.0, 4.0, mode=mode)(x)
    torch.testing.assert_close(got[..., :-1, :], plain(x, 2))
    assert torch.equal(got, same_pool2d(x, 2, 2, mode))


def test_continuous_windows_are_the_mean_over_the_area_they_cover():
    x = torch.rand(1, 1, 40, 40, dtype=torch.float64)
    layer = EccentricPool2d(0.4, 1.5, fovea_radius_dva=2.0, spacing="continuous")
    got, side = layer(x)[0, 0], layer.kernels(40, 40)
    fine = 50
    enlarged = x[0, 0].repeat_interleave(fine, 0).repeat_interleave(fine, 1)
    for row, column in ((10, 10), (3, 12), (17, 6)):
        half = float(side[row, column]) / 2
        r, c = 2 * row + 1, 2 * column + 1
        low, high = (round((v - half) * fine) for v in (r, c)), (round((v + half) * fine) for v in (r, c))
        (r0, c0), (r1, c1) = low, high
        window = enlarged[max(r0, 0) : r1, max(c0, 0) : c1]
        # Edges are rounded to a fiftieth of a cell here.
        assert got[row, column].item() == pytest.approx(window.mean().item(), abs=0.01)


@pytest.mark.parametrize("spacing", ["rings", "continuous"])
def test_gradients_are_those_of_finite_differences(spacing):
    x = torch.rand(1, 1, 14, 13, dtype=torch.float64, requires_grad=True)
    layer = EccentricPool2d(0.5, 1.0, fovea_radius_dva=2.0, spacing=spacing)
    assert torch.autograd.gradcheck(layer, x)


def test_parts_of_a_map_are_parts_of_the_whole():
    x = torch.rand(1, 2, 101, 101)
    for mode in ("avg", "max"):
        layer = EccentricPool2d(0.16, 4.0, mode=mode)
        whole, box = layer(x), (3, 17, 30, 51)
        needed = layer.needed((101, 101), box)
        piece = x[..., needed[0] : needed[1], needed[2] : needed[3]]
        got = layer.part(piece, (101, 101), (needed[0], needed[2]), box)
        # Single precision of a mean, from sums that begin elsewhere.
        torch.testing.assert_close(got, whole[..., 3:17, 30:51], rtol=1e-6, atol=0)
        changed = x.clone()
        changed[..., 40:44, 60:70] += 1.0
        r0, r1, c0, c1 = layer.reached((101, 101), (40, 44, 60, 70))
        differs = (layer(changed) != whole).any(1)[0]
        assert differs[r0:r1, c0:c1].any()
        differs[r0:r1, c0:c1] = False
        assert not differs.any()


def test_small_pictures_lie_in_the_fovea():
    x = torch.randn(1, 2, 112, 112)
    for layer in vgg16_pools(30.0)[1:2]:
        assert torch.equal(layer(x), same_pool2d(x, 2))
    assert [pool.px_per_dva for pool in vgg16_pools(30.0)] == [30, 15, 8, 4, 2]


def test_any_network_can_be_given_a_fovea():
    torch.manual_seed(0)
    taps = ["layer1", "layer2", "layer3"]
    picture = torch.randint(0, 256, (1, 3, 320, 320), dtype=torch.uint8)
    torch.manual_seed(0)
    with_fovea = TappedFeatures("torchvision/resnet18", taps, weights=None)
    torch.manual_seed(0)
    without = TappedFeatures("torchvision/resnet18", taps, weights=None, eccentric=False)
    pairs = list(zip(with_fovea.search_maps(picture, 12.0), without.search_maps(picture, 12.0), strict=True))
    # The first tap lies before any blur; in the others the periphery differs and the fovea does not.
    assert torch.equal(*pairs[0])
    for a, b in pairs[1:]:
        assert not torch.allclose(a[..., 0, :], b[..., 0, :])
    middle = pairs[1][0].shape[-1] // 2
    assert torch.equal(pairs[1][0][..., middle, middle], pairs[1][1][..., middle, middle])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mode": "mean"}, "no pooling mode named 'mean'"),
        ({"spacing": "ring"}, r"did you mean 'rings'\?"),
        ({"mode": "max", "spacing": "continuous"}, "use spacing='rings'"),
        ({"slope": -1.0}, "slope >= 0"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(InputError, match=message):
        EccentricPool2d(**{"slope": 0.1, "px_per_dva": 4.0, **arguments})
