"""eccNET: the published fixations, what is faster and must not differ, and what a user can get wrong."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from gazekit import InputError
from gazekit.backbones.vgg16 import LAYERS, EccentricVGG16
from gazekit.displays import SearchDisplays
from gazekit.models import create_model
from gazekit.models.eccnet import PUBLISHED, area_weights, correlation, cropped, gaussian_kernel

SIDE, CELL, GREY = 198, 49, 27
CELLS = torch.zeros(16, SIDE, SIDE, dtype=torch.bool)
for number in range(16):
    top, left = CELL * (number // 4), CELL * (number % 4)
    CELLS[number, top : top + CELL, left : left + CELL] = True
TARGET = (8 * torch.arange(31))[:, None].expand(31, 31).to(torch.uint8)
# Occupied cells and the target's.
SCENES = {"A": ((0, 3, 5, 6, 10, 15), 10), "B": ((1, 2, 4, 7, 8, 9, 11, 12, 13, 14), 4), "C": ((6,), 6)}
SMALL = {"backbone": "mobilenetv2_100", "weights": None, "taps": ["blocks.2.0.bn1", "blocks.3.0.bn1"]}

# Fixations after the initial one as (row, column), of the published TensorFlow code with the weights below.
REFERENCE = {
    ("eccnet", "nl"): {
        "A": "(155,123) (21,131) (61,28) (22,52) (62,156) (150,147)",
        "B": "(123,107) (68,68) (29,29) (53,133) (157,157) (54,147) (47,92) (135,0) (96,40)",
        "C": "(28,107) (49,115)",
    },
    ("eccnet", "l"): {
        "A": "(155,123) (116,68) (61,29) (22,117) (15,62) (150,147)",
        "B": "(60,123) (116,116) (29,29) (69,69) (157,157) (54,147) (47,92) (103,0) (96,24)",
        "C": "(107,123) (36,100) (29,93) (69,70) (109,94) (102,147)",
    },
    ("eccnet_18_17", "nl"): {
        "A": "(155,123) (68,20) (0,108) (88,195) (176,13) (98,195) (98,13) (122,69) (194,77) (0,85) (135,98)",
    },
    ("noecc", "nl"): {"A": "(123,107)", "B": "(76,12)", "C": "(76,107)"},
    ("ivsn", "nl"): {"A": "(60,76) (132,116)", "B": "(139,60) (100,21)", "C": "(76,107)"},
}


def displays(names="ABC", max_fixations=17):
    images, masks = [], []
    for name in names:
        occupied, target = SCENES[name]
        image = torch.full((SIDE, SIDE), GREY, dtype=torch.uint8)
        for cell in occupied:
            row, column = CELL * (cell // 4) + 9, CELL * (cell % 4) + 9
            image[row : row + 31, column : column + 31] = TARGET if cell == target else TARGET.T
        images.append(image.expand(3, SIDE, SIDE))
        masks.append(CELLS[target])
    targets = TARGET.expand(len(names), 3, 31, 31).clone()
    return SearchDisplays(tuple(names), torch.stack(images), targets, torch.stack(masks), CELLS, GREY, max_fixations)


@pytest.fixture(scope="session")
def seeded_weights(tmp_path_factory):
    """The weights of the reference runs: He-normal of NumPy's legacy generator, in the layout of Keras."""
    rng, state, before = np.random.RandomState(0), {}, 3
    for name in LAYERS:
        after = min(512, 32 * 2 ** int(name[4]))
        kernel = rng.standard_normal((3, 3, before, after)) * np.sqrt(2 / (9 * before))
        state[f"{name}.weight"] = torch.from_numpy(kernel.astype(np.float32)).permute(3, 2, 0, 1).contiguous()
        state[f"{name}.bias"] = torch.zeros(after)
        before = after
    path = tmp_path_factory.mktemp("weights") / "seeded.safetensors"
    save_file(state, path)
    return str(path)


def fixations(paths, row):
    return " ".join(f"({r},{c})" for r, c in paths.row_column()[row][paths.valid[row]][1:].tolist())


def hold_reference(variant, layer_weights, names, weights, **kwargs):
    model = create_model(
        "eccnet", variant=variant, weights=weights, layer_weights=layer_weights, compat="vsa2021", **kwargs
    )
    paths = model.search(displays(names))
    for row, name in enumerate(names):
        assert fixations(paths, row) == REFERENCE[variant, layer_weights][name]
        assert paths.n_fixations[row] == REFERENCE[variant, layer_weights][name].count("(")


@pytest.mark.parametrize(("variant", "names"), [("noecc", "ABC"), ("ivsn", "ABC")])
def test_reference_fixations_of_short_searches(seeded_weights, variant, names):
    hold_reference(variant, "nl", names, seeded_weights)


def test_reference_fixations_with_eccentricity(seeded_weights):
    hold_reference("eccnet", "nl", "AC", seeded_weights)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variant", "layer_weights", "names"), [("eccnet", "nl", "B"), ("eccnet", "l", "ABC"), ("eccnet_18_17", "nl", "A")]
)
def test_reference_fixations_of_long_searches(seeded_weights, variant, layer_weights, names):
    hold_reference(variant, layer_weights, names, seeded_weights)


@pytest.mark.slow
def test_reference_search_of_the_deepest_layer_that_takes_long(seeded_weights):
    model = create_model("eccnet", variant="eccnet_18_17", weights=seeded_weights, compat="vsa2021")
    paths = model.search(displays("C"))
    assert paths.n_fixations.tolist() == [16.0]
    assert paths.row_column()[0, 16].tolist() == [92, 136]


def test_first_correlations_of_the_reference(seeded_weights):
    expected = {
        "min": (601752, 481514, 76704.6), "max": (1.09613e6, 1.16112e6, 261998), "mean": (1.05087e6, 1.098e6, 238048),
    }  # fmt: skip
    model = create_model("eccnet", weights=seeded_weights)
    shown = displays("A")
    begun = model.begin(shown)
    # The kernels are 1x1 here: vectors.
    assert [k.sum().item() for k in begun.kernels] == pytest.approx([7282.10, 8387.43, 2221.79], rel=1e-5)
    assert [k.max().item() for k in begun.kernels] == pytest.approx([149.136, 105.378, 18.7416], rel=1e-5)
    maps = model.maps(shown, shown.image, shown.start_row_column())
    layers = [correlation(m, k)[0] for m, k in zip(maps, begun.kernels, strict=True)]
    for name, values in expected.items():
        # Printed with six digits.
        assert [getattr(layer, name)().item() for layer in layers] == pytest.approx(values, rel=5e-6)
    where = [divmod(int(layer.argmax()), 33) for layer in layers]
    assert where == [(21, 19), (23, 23), (8, 7)]


def test_pasting_into_the_background_changes_no_value(seeded_weights):
    shown = displays("C")
    for kwargs in ({}, {"eccentric": False, "pool": "max"}):
        network = EccentricVGG16(seeded_weights, **kwargs)
        known = network.background_maps(524, GREY, 30.0)
        for fixation in ([99, 99], [0, 197]):
            crop = cropped(shown.image, torch.tensor([fixation]) - 262, 524, GREY)
            whole = network.search_maps(crop, 30.0)
            for a, b in zip(network.search_maps_on_background(known, crop, 30.0), whole, strict=True):
                # The same sums over the same numbers; a convolution may order them by the size of its input.
                assert (a - b).abs().max() <= 2e-6 * b.abs().max()


def test_gaussians_and_enlargement_are_those_of_opencv():
    # Printed with seven digits.
    assert gaussian_kernel(5, 1.0).tolist()[:3] == pytest.approx([0.0544887, 0.2442013, 0.4026199], abs=6e-8)
    assert gaussian_kernel(7, 5.0).tolist()[:4] == pytest.approx([0.128956, 0.1425185, 0.1513313, 0.1543884], abs=6e-8)
    assert gaussian_kernel(3, 0.0).tolist() == [0.25, 0.5, 0.25]
    index, share = area_weights(100, 1600)
    assert torch.equal(index, torch.arange(1600) // 16)
    assert not share.any()
    index, share = area_weights(51, 806)
    # Only a pixel across a border of two cells is mixed.
    assert int((share > 0).sum()) == 50
    assert (index[share > 0] + 1 == index[1:][(share > 0)[:-1]]).all()


def test_a_batch_is_its_displays_one_by_one():
    model = create_model("eccnet", **SMALL, compat="vsa2021")
    together = model.search(displays("ABC", 5))
    for row, name in enumerate("ABC"):
        alone = model.search(displays(name, 5))
        assert fixations(alone, 0) == fixations(together, row)


def test_landing_in_the_middle_of_the_block_stays_in_the_cell():
    model = create_model("eccnet", **SMALL)
    paths = model.search(displays("AB", 12))
    for row in range(2):
        at = paths.row_column()[row][paths.valid[row]][1:]
        cells = [int(CELLS[:, r, c].nonzero()[0]) for r, c in at.tolist()]
        # Each cell at most once, and the last one is the target's if it was found.
        assert len(set(cells)) == len(cells)
        assert paths.found[row] == (cells[-1] == SCENES["AB"[row]][1])


def test_a_map_that_is_one_on_the_target_finds_it_at_once():
    class Knows(type(create_model("pixel_match"))):
        def begin(self, shown):
            return shown.target_mask.double()

        def attraction(self, begun, now):
            return replace(super().attraction(begun, now), value=begun[now.rows])

    assert Knows().search(displays()).n_fixations.tolist() == [1.0, 1.0, 1.0]


def test_a_map_of_zeros_goes_to_the_first_pixel_for_ever_in_compat_mode():
    class Blind(type(create_model("pixel_match"))):
        def begin(self, shown):
            return torch.zeros_like(shown.target_mask, dtype=torch.double)

    model = Blind(compat="vsa2021")
    model.forgets, model.test_initial = False, False
    paths = model.search(displays("A", 4))
    assert fixations(paths, 0) == "(0,0) (0,0) (0,0) (0,0)"
    assert not paths.found.any()


def test_the_square_oracle_reaches_into_the_next_cell():
    shown = replace(displays("A", 1), start_xy_px=torch.tensor([[97.5, 120.5]]))
    for oracle, found in (("cell", False), ("window", True)):
        # Column 97 is the last of cell 9; the square of 10 px around it reaches into cell 10, the target's.
        paths = create_model("chance_search", oracle=oracle, test_initial=True).search(shown)
        assert bool(paths.n_fixations[0] == 0) == found


def test_the_last_fixation_is_tested_unless_compatible():
    model, shown = create_model("pixel_match"), displays("C", 1)
    assert model.search(shown).found.all()
    model.test_last = False
    assert not model.search(shown).found.any()


def test_learned_recognition_tells_targets_from_other_items():
    shown = displays("AB", 6)
    # With random weights the target is less like itself in a display than the distractors are: a trained network.
    taps = ["stage3.relu2", "stage4.relu2", "stage5.relu2"]
    model = create_model("eccnet", backbone="gazekit/small_vgg", taps=taps, recognition="learned")
    with pytest.raises(InputError, match="needs calibrate_recognition"):
        model.search(shown)
    assert model.calibrate_recognition(shown) > 0.9
    paths = model.search(shown)
    # A false alarm ends a search without finding the target.
    assert (paths.said_yes >= paths.found).all()
    assert bool(((paths.valid.sum(1) < 7) <= paths.said_yes).all())


def test_like_published_takes_the_settings_of_an_experiment():
    model = create_model("eccnet", **SMALL).like_published("curvature")
    assert (model.surround, model.layer_weights) == (PUBLISHED["curvature"].surround, "nl")
    with pytest.raises(
        InputError, match=r"no published search experiment named 'curvatur'; did you mean 'curvature'\?"
    ):
        model.like_published("curvatur")


def test_keras_weights_are_read(tmp_path, seeded_weights):
    h5py = pytest.importorskip("h5py")
    network = EccentricVGG16(seeded_weights)
    with h5py.File(tmp_path / "keras.h5", "w") as file:
        for name, convolution in network.convolutions.items():
            layer = f"block{name[4]}_conv{name[6]}"
            group = file.create_group(f"{layer}/{layer}")
            group["kernel:0"] = convolution.weight.permute(2, 3, 1, 0).numpy()
            group["bias:0"] = convolution.bias.numpy()
    again = EccentricVGG16(tmp_path / "keras.h5")
    again.save_weights(tmp_path / "converted.safetensors")
    converted = EccentricVGG16(tmp_path / "converted.safetensors")
    for key, value in network.convolutions.state_dict().items():
        assert torch.equal(again.convolutions.state_dict()[key], value)
        assert torch.equal(converted.convolutions.state_dict()[key], value)


def test_torchvision_weights_come_blue_first(tmp_path):
    from torchvision.models import vgg16

    state = vgg16(weights=None).features.state_dict()
    torch.save({f"features.{key}": value for key, value in state.items()}, tmp_path / "vgg16.pt")
    first = EccentricVGG16(tmp_path / "vgg16.pt").convolutions["conv1_1"].weight
    assert torch.equal(first, state["0.weight"].flip(1))


WRONG = [
    ({"variant": "eccnett"}, r"no variant of eccnet named 'eccnett'; did you mean 'eccnet'\?"),
    ({"landing": "corner"}, "no rule for landing named 'corner'"),
    ({"compat": "vsa2020"}, r"did you mean 'vsa2021'\?"),
    ({"layer_weights": [1.0]}, "2 layers need as many weights"),
    ({"layers": [False, False]}, "layers must say for each of 2 layers"),
    ({"surround": [[4, 1.0], [5, 1.0]]}, "sizes are odd"),
    ({"taps": ["blocks.6"]}, "has stride 32; a search needs layers of stride 16 or less"),
    ({"taps": [8, 16]}, "name the layers to tap"),
    ({"backbone": "vgg16", "taps": None, "weights": "nowhere.h5"}, "'nowhere.h5' does not exist"),
    ({"backbone": "resnet18", "taps": None}, "name the layers of 'resnet18' to tap"),
]


@pytest.mark.parametrize(("arguments", "message"), WRONG)
def test_wrong_arguments_are_one_clear_line(arguments, message):
    with pytest.raises(InputError, match=message) as caught:
        create_model("eccnet", **{**SMALL, **arguments})
    assert "\n" not in str(caught.value)


def test_wrong_displays_are_one_clear_line():
    shown = displays("A")
    for change, message in (
        ({"target_mask": torch.zeros_like(shown.target_mask)}, "display 'A' has no target"),
        ({"target": torch.zeros(1, 3, 200, 31, dtype=torch.uint8)}, "31x200 px, is larger than the display, 198x198"),
        ({"target_mask": shown.target_mask[:, :100]}, "target_mask is 198x100 px, the display 198x198 px"),
        ({"cells": CELLS[:, :, :50]}, "cells is 50x198 px"),
        ({"image": shown.image.float()}, "image must be (B, 3, height, width) uint8"),
        ({"start_xy_px": torch.tensor([[198.0, 3.0]])}, "outside 198x198 px"),
        ({"background": 256}, "background is 256"),
    ):
        with pytest.raises(InputError, match=re.escape(message)) as caught:
            replace(shown, **change)
        assert "\n" not in str(caught.value)


# Controls


def test_published_chance_hits_as_often_as_a_uniform_pixel_does():
    n = 400
    shown = displays("A", 1).pick(torch.zeros(n, dtype=torch.long))
    paths = create_model("chance_search", compat="vsa2021").search(shown)
    # The initial fixation lies in the target's cell here, and the published control asks about it.
    assert (paths.n_fixations == 0).all()
    # An interior cell is hit within a square of side 49 + 9.
    model = create_model("chance_search", compat="vsa2021")
    model.test_initial = False
    found = model.search(shown).found.double().mean()
    expected = ((CELL + 9) / SIDE) ** 2
    # Four standard errors; pixels outside all cells are left out, which is 2% of them.
    assert abs(found - expected) < 4 * np.sqrt(expected * (1 - expected) / n) + 0.02 * expected


def test_chance_that_remembers_needs_half_the_cells():
    n = 100
    shown = displays("A", 16).pick(torch.zeros(n, dtype=torch.long))
    paths = create_model("chance_search").search(shown)
    assert paths.found.all()
    # Uniform on 1 to 16: mean 8.5, SD 4.6; four standard errors.
    assert abs(paths.n_fixations.mean() - 8.5) < 4 * 4.61 / np.sqrt(n)
    items = create_model("chance_search", among="items").search(shown)
    assert abs(items.n_fixations.mean() - 3.5) < 4 * 1.71 / np.sqrt(n)


def test_chance_in_a_scene_goes_anywhere_it_has_not_been_alike():
    n, side = 3000, 6
    blank = torch.zeros(n, 3, side, side, dtype=torch.uint8)
    nothing = torch.zeros(n, side, side, dtype=torch.bool)
    shown = SearchDisplays(
        ("scene",) * n, blank, blank[:, :, :1, :1], nothing | True, None, 0, 5,
        start_xy_px=torch.full((n, 2), 0.5), window_px=3,
    )  # fmt: skip
    paths = create_model("chance_search").search(
        shown, oracle=lambda xy, rows: torch.zeros_like(rows, dtype=torch.bool)
    )
    column, row = paths.xy_px[:, 1].floor().long().unbind(-1)
    counts = torch.bincount(row * side + column, minlength=side * side).view(side, side)
    # A square of 3 px around the corner holds four places.
    assert counts[:2, :2].sum() == 0
    left = counts[counts > 0].double()
    assert len(left) == side * side - 4
    # Chi-square of 31 degrees of freedom: above 61 once in a thousand.
    assert ((left - n / 32).square() / (n / 32)).sum() < 61.1
    # Nobody comes back, also when hardly anything is left.
    far = (paths.xy_px[:, :, None] - paths.xy_px[:, None]).abs().amax(-1)
    pairs = paths.valid[:, :, None] & paths.valid[:, None] & ~torch.eye(6, dtype=torch.bool)
    assert (far[pairs] > 1).all()


def test_published_controls_are_one_row_early():
    shown = displays("ABC")
    early = create_model("pixel_match", compat="vsa2021").search(shown)
    # The initial fixation touches the target's cell in A (row 0) and C (row 2), which come out at rows 2 and 1.
    assert early.n_fixations.tolist() == [1.0, 0.0, 0.0]
    assert create_model("pixel_match").search(shown).n_fixations.tolist() == [1.0, 1.0, 1.0]


def test_saliency_searches_alike_whatever_the_target():
    shown = displays("AB", 6)
    model = create_model("saliency_search")
    other = replace(shown, target=shown.target.transpose(2, 3).contiguous())
    a, b = model.search(shown), model.search(other)
    assert torch.equal(a.xy_px, b.xy_px)
