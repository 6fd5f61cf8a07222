"""The unsupervised models against their definitions: small cases by hand, slow loops, known geometry."""

import math

import numpy as np
import pytest
import torch

from gazekit import InputError
from gazekit.batch import TrialBatch
from gazekit.models import create_model
from gazekit.models.base import GazeModel
from gazekit.models.g_eymol import GEymol, detect_fixations
from gazekit.models.itti_koch import promote, saliency_map, winner_take_all


def batch_of(image):
    height, width = image.shape[-2:]
    return TrialBatch(
        ("a",), (width, height), 24.0, image[None], None, torch.tensor([0]), ("x",), torch.tensor([0]),
        torch.zeros(1, 1, 2), torch.zeros(1, 1), torch.ones(1, 1, dtype=torch.bool),
    )  # fmt: skip


class Given(GazeModel):
    """A fixed density."""

    def __init__(self, density):
        super().__init__()
        self.density = density / density.sum()

    def log_density(self, batch):
        return self.density.log()[None].expand(len(batch), -1, -1)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


# Itti-Koch


def spot(color=(1.0, 1.0, 1.0), ground=0.2, at=(200, 96), size_wh=(320, 256), radius=14):
    image = torch.full((3, size_wh[1], size_wh[0]), ground)
    y, x = torch.meshgrid(torch.arange(size_wh[1]), torch.arange(size_wh[0]), indexing="ij")
    inside = (x - at[0]) ** 2 + (y - at[1]) ** 2 <= radius**2
    return torch.where(inside, torch.tensor(color)[:, None, None], image)


@pytest.mark.parametrize("color", [(1.0, 1.0, 1.0), (0.5, 0.05, 0.05), (0.05, 0.05, 0.5)])
def test_a_spot_that_differs_is_where_saliency_is(color):
    saliency = saliency_map(spot(color)[None])[0]
    assert saliency.shape == (16, 20)
    row, column = divmod(int(saliency.argmax()), 20)
    # Within the spot's radius and one cell of 16 px.
    assert math.hypot((column + 0.5) * 16 - 200, (row + 0.5) * 16 - 96) < 14 + 16


def test_an_odd_orientation_stands_out():
    y, x = torch.meshgrid(torch.arange(256.0), torch.arange(320.0), indexing="ij")
    upright, tilted = 0.5 + 0.4 * torch.cos(x * 0.25), 0.5 + 0.4 * torch.cos(y * 0.25)
    odd = (x - 224).abs().maximum((y - 128).abs()) < 24
    saliency = saliency_map(torch.where(odd, tilted, upright).expand(3, -1, -1)[None])[0]
    # A grating that breaks off at the image's border is an odd place, too.
    saliency[:, [0, 1, -2, -1]] = 0.0
    row, column = divmod(int(saliency.argmax()), 20)
    assert abs((column + 0.5) * 16 - 224) < 48
    assert abs((row + 0.5) * 16 - 128) < 48


def test_promotion_by_hand():
    """N of the paper: scaled to [0, 1], times the square of one minus the mean of the other local maxima."""
    lone, rival = torch.zeros(1, 1, 9, 9), torch.zeros(1, 1, 9, 9)
    lone[..., 2, 2] = 4.0
    rival[..., 2, 2], rival[..., 6, 6] = 4.0, 3.0
    assert promote(lone)[0, 0, 2, 2].item() == pytest.approx(1.0)
    got = promote(rival)[0, 0]
    assert got[2, 2].item() == pytest.approx((1.0 - 0.75) ** 2)
    assert got[6, 6].item() == pytest.approx(0.75 * (1.0 - 0.75) ** 2)
    assert promote(torch.full((1, 1, 9, 9), 3.0)).abs().max() == 0.0


def test_a_flat_image_is_as_likely_everywhere():
    log_density = create_model("itti_koch").log_density(batch_of(torch.full((3, 240, 320), 0.4)))
    torch.testing.assert_close(log_density, torch.full_like(log_density, -math.log(320 * 240)), rtol=0, atol=1e-4)


def winner_by_loop(saliency, size_wh_px, length, radius, fixations):
    h, w = saliency.shape
    path = []
    for k in range(length):
        best, where = -math.inf, None
        for row in range(h):
            for column in range(w):
                x, y = (column + 0.5) * size_wh_px[0] / w, (row + 0.5) * size_wh_px[1] / h
                if any(math.dist((x, y), at) <= radius for at in path[max(0, k - fixations) : k]):
                    continue
                if saliency[row, column] > best:
                    best, where = saliency[row, column], (x, y)
        path.append(where)
    return np.array(path)


@pytest.mark.parametrize("fixations", [2, 14])
def test_winner_takes_all_equals_a_loop(fixations):
    saliency = torch.rand(3, 12, 16, generator=generator(3))
    got = winner_take_all(saliency, (320, 240), 8, radius_px=40.0, fixations=fixations)
    for row in range(3):
        expected = winner_by_loop(saliency[row].numpy(), (320, 240), 8, 40.0, fixations)
        np.testing.assert_allclose(got[row].numpy(), expected)


def test_inhibition_that_covers_everything_lets_go():
    path = winner_take_all(torch.rand(1, 4, 5, generator=generator()), (50, 40), 4, radius_px=500.0, fixations=9)[0]
    assert torch.equal(path, path[:1].expand_as(path))


# Any density with inhibition of return


def test_inhibited_density_by_definition():
    density = torch.rand(20, 30, generator=generator(1), dtype=torch.float64) + 0.1
    model = create_model("inhibited", base=Given(density), sigma_dva=0.1, retention=0.5, strength=0.9)
    batch = batch_of(torch.rand(3, 20, 30))
    path = torch.tensor([[[5.2, 3.1], [20.0, 15.5], [8.0, 8.0]]])
    batch = batch.__class__(**{**batch.__dict__, "xy_px": path, "valid": torch.ones(1, 3, dtype=torch.bool)})
    got = model.conditional_log_density(batch)[0]
    for t in range(3):
        expected = np.zeros((20, 30))
        for row in range(20):
            for column in range(30):
                total = 0.0
                for k in range(t):
                    sq = (column + 0.5 - path[0, k, 0].item()) ** 2 + (row + 0.5 - path[0, k, 1].item()) ** 2
                    total += 0.5 ** (t - 1 - k) * math.exp(-sq / (2.0 * 2.4**2))
                expected[row, column] = density[row, column].item() * (1.0 - 0.9 * min(1.0, total))
        expected /= expected.sum()
        np.testing.assert_allclose(got[t].exp().numpy(), expected, rtol=1e-5)


def test_inhibited_paths_return_less_than_chance():
    density = torch.ones(60, 80)
    sizes = {}
    for strength in (0.0, 0.99):
        model = create_model("inhibited", base=Given(density), sigma_dva=0.5, retention=1.0, strength=strength)
        xy = model.sample(batch_of(torch.rand(3, 60, 80)), 200, 2, generator()).xy_px[0]
        sizes[strength] = (xy[:, 1] - xy[:, 0]).norm(dim=-1).lt(8.0).float().mean().item()
    assert sizes[0.99] < 0.4 * sizes[0.0]


@pytest.mark.parametrize("name", ["inhibited", "cle"])
def test_a_base_that_is_no_map(name):
    with pytest.raises(InputError, match="must be trained or fitted first"):
        create_model(name, base="center_bias")
    with pytest.raises(InputError, match="does not exist"):
        create_model(name, base="nowhere.ckpt")
    with pytest.raises(InputError, match="scanpath model"):
        create_model(name, base=create_model("inhibited"))


# Constrained Levy exploration


def test_levy_walk_starts_in_the_center_and_prefers_saliency():
    density = torch.full((120, 160), 1e-6)
    density[20:50, 100:140] = 1.0
    model = create_model("cle", base=Given(density), temperature=5.0)
    xy = model.sample(batch_of(torch.rand(3, 120, 160)), 60, 80, generator()).xy_px[0]
    assert torch.equal(xy[:, 0], torch.tensor([80.0, 60.0]).expand(60, 2))
    x, y = xy[:, 40:].unbind(-1)
    share = ((x >= 100) & (x < 140) & (y >= 20) & (y < 50)).float().mean().item()
    # The region is 6 % of the image; once in it, a fall of 100 units is refused at this temperature.
    assert share > 0.7


def test_levy_jumps_are_cauchy_where_nothing_constrains_them():
    """On a flat map each jump is accepted unless it leaves the image: half of them are shorter than the scale."""
    model = create_model("cle", base="uniform", drift=0.5)
    flat, center, rng = np.zeros((3000, 3000)), np.array([1500.0, 1500.0]), np.random.default_rng(0)
    steps = np.array([model._next(flat, flat, center, 10.0, rng) - center for _ in range(4000)])
    length = np.hypot(*steps.T)
    # The median of |Cauchy| is its scale. Five standard errors of a share are 0.04.
    assert np.mean(length < 10.0) == pytest.approx(0.5, abs=0.04)
    assert np.mean(length < 10.0 * math.tan(0.45 * math.pi)) == pytest.approx(0.9, abs=0.03)
    angle = np.arctan2(*steps.T)
    assert abs(np.exp(1j * angle).mean()) < 0.08


def test_levy_walk_without_temperature_never_falls():
    density = torch.rand(120, 160, generator=generator(2))
    model = create_model("cle", base=Given(density), temperature=0.0)
    xy = model.sample(batch_of(torch.rand(3, 120, 160)), 20, 6, generator()).xy_px[0]
    value = density[xy[..., 1].long(), xy[..., 0].long()]
    assert (value[:, 1:] >= value[:, :-1]).all()


# G-Eymol


def test_the_field_is_the_sum_over_masses():
    """By the definition, pixel by pixel; a force points from the gaze to the mass."""
    model = GEymol(side_px=224)
    mass_map = torch.zeros(1, 30, 40)
    mass_map[0, 5, 33], mass_map[0, 22, 8] = 1.0, 0.4
    field = model.field(mass_map)[0]
    for row, column in ((0, 0), (15, 20), (29, 39), (5, 32)):
        expected = np.zeros(2)
        for y, x, m in ((5, 33, 1.0), (22, 8, 0.4)):
            offset = np.array([x - column, y - row], float)
            expected += 0.2 * m * 23.0 * offset / (offset @ offset + 22.0)
        np.testing.assert_allclose(field[:, row, column].numpy(), expected, atol=1e-4)


def test_gaze_falls_to_what_attracts_it_and_then_moves_on():
    image = torch.maximum(spot(at=(250, 60), radius=20), spot(at=(60, 180), radius=12))
    xy = create_model("g_eymol", side_px=64).sample(batch_of(image), 6, 8, generator()).xy_px[0]
    for x, y in ((250.0, 60.0), (60.0, 180.0)):
        # What was looked at is inhibited, so that the other spot has its turn.
        nearest = (xy - torch.tensor([x, y])).norm(dim=-1).min(1).values
        assert (nearest < 40.0).float().mean() > 0.8


def test_a_smaller_frame_moves_alike():
    image = spot(ground=0.5, at=(250, 60), radius=20)
    first = [
        create_model("g_eymol", side_px=side).sample(batch_of(image), 4, 3, generator(1)).xy_px[0, :, 0]
        for side in (64, 128)
    ]
    assert (first[0] - first[1]).norm(dim=-1).max() < 20.0  # px of 320: the spot's radius


def test_fixations_of_a_known_gaze():
    stay, jump = torch.tensor([10.0, 10.0]), torch.tensor([60.0, 10.0])
    path = torch.stack([stay, stay + 1.0, stay, jump, jump + 2.0, jump, torch.tensor([90.0, 90.0])])
    found = torch.stack(detect_fixations(path, 7.0))
    assert found.tolist() == [[10.0, 10.0], [60.0, 10.0]]


@pytest.mark.parametrize(
    ("name", "arguments", "match"),
    [
        ("itti_koch", {"ior_radius": 0.0}, "ior_radius > 0"),
        ("inhibited", {"strength": 1.0}, r"strength in \[0, 1\)"),
        ("cle", {"temperature": -1.0}, "temperature >= 0"),
        ("g_eymol", {"attraction": 0.0}, "attraction > 0"),
    ],
)
def test_arguments_that_cannot_be(name, arguments, match):
    with pytest.raises(InputError, match=match):
        create_model(name, **arguments)
