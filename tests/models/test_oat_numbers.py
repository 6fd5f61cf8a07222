"""OAT by values: where paths begin, the pixels, what is scored, when paths end; number types, arguments, no trials."""

from __future__ import annotations

import re
from dataclasses import replace

import pandas as pd
import pytest
import torch

from gazekit import InputError
from gazekit.batch import ObjectLayout
from gazekit.datasets.datamodule import StimulusItems
from gazekit.datasets.grid_search import grid_search
from gazekit.models import create_model
from gazekit.models.base import marginal_generator
from gazekit.models.model_file import model_from_file
from gazekit.models.oat import Oat, crops_of
from gazekit.models.oat_network import OatNetwork, ObjectCNN
from gazekit.models.object_maps import target_objects, territories
from gazekit.proposals import Proposals
from tests.models.test_oat import TINY, tiny


def served(columns=4, rows=3, n=2, subjects=2, pictures=None, size_wh_px=(160, 105)):
    data = grid_search(
        n, subjects, columns=columns, rows=rows, size_wh_px=size_wh_px, slip=0.2, seed=5, pictures=pictures
    )
    items = StimulusItems(data, with_search=True, with_objects=True, decode=pictures is not None)
    return items.collate([items[i] for i in range(n)])


@pytest.fixture(scope="module")
def batch(tmp_path_factory):
    """Two displays of 4 x 3 objects with pictures, two readers each."""
    return served(pictures=tmp_path_factory.mktemp("p"))


def on_object(log_density, batch):
    """(..., H, W) of one stimulus with whole cells -> (..., N) probability of each object."""
    p, boxes = log_density.double().exp(), batch.objects.box_px[0].round().long().tolist()
    return torch.stack([p[..., top:bottom, left:right].sum((-2, -1)) for left, top, right, bottom in boxes], -1)


# What goes into the network


@torch.no_grad()
def test_paths_begin_in_the_middle_of_the_arrangement():
    """Row 3 and column 7 of 6 x 14, as in the published code."""
    model = tiny(appearance="none", n_places=14)
    start = model.scene(served(14, 6)).layouts.start
    expected = model.network.position(torch.tensor([[3, 7]]), torch.tensor([False]))
    assert torch.equal(start[:, 12:], expected.expand(2, -1))
    others = [model.network.position(torch.tensor([[r, c]]), torch.tensor([False])) for r, c in ((2, 7), (3, 6))]
    assert not any(torch.equal(start[:1, 12:], other) for other in others)


@torch.no_grad()
def test_scales_of_pixels(batch):
    seen = []
    color = torch.tensor([0.2, 0.4, 0.6])
    plain = replace(batch, image=color[None, :, None, None].expand_as(batch.image))
    for scale, given in (("unit", plain), ("bgr255", plain), ("minmax", batch)):
        model = tiny(pixel_scale=scale)
        model.look.register_forward_pre_hook(lambda _, crops: seen.append(crops[0]))
        model.scene(given)
    unit, bgr, minmax = seen
    torch.testing.assert_close(unit[0, 3, :, 7, 9], color)
    torch.testing.assert_close(bgr[0, 3, :, 7, 9], torch.tensor([153.0, 102.0, 51.0]))
    crops = crops_of(batch.image, batch.objects.box_px, (34, 34))
    crop = crops[1, 5]
    torch.testing.assert_close(minmax[1, 5], (crop - crop.min()) / (crop.max() - crop.min()))


@torch.no_grad()
def test_the_crop_at_the_box_goes_before_a_picture_of_the_target(batch):
    model = tiny()
    expected = model.teacher_forced(batch)[0]
    template = torch.rand(2, 3, 20, 30, generator=torch.Generator().manual_seed(0))
    has_box = torch.tensor([True, True, False, False])
    search = replace(batch.search, template=template, template_of_trial=torch.tensor([0, 0, 1, 1]), has_box=has_box)
    got = model.teacher_forced(replace(batch, search=search))[0]
    torch.testing.assert_close(got[:2], expected[:2], atol=1e-6, rtol=0)
    # The others see the picture.
    assert (got[2:, 0] - expected[2:, 0]).abs().max() > 1e-3


@torch.no_grad()
def test_nowhere_is_no_place():
    network = OatNetwork(width=60, n_heads=2, n_layers=1, hidden=16, n_places=5)
    place = torch.tensor([[network.nowhere, network.nowhere], [4, 4]])
    nowhere, last = network.position(place, torch.tensor([True, True]))
    assert not nowhere[:20].any()
    assert last[:10].any()
    # The flag is told all the same.
    assert torch.equal(nowhere[20:], last[20:])


def test_the_decoder_s_input_is_dropped_out():
    torch.manual_seed(0)
    network = OatNetwork(width=24, n_heads=2, n_layers=1, hidden=16, dropout=0.0, n_places=5).train()
    network.dropout.p = 0.5
    place = torch.tensor([[[0, 0], [0, 1], [1, 0]]])
    tokens = network.tokens(torch.randn(1, 3, 12), place, torch.zeros(1, 3, dtype=torch.bool))
    layouts = network.encode(
        torch.cat([tokens, tokens[:, :1]], 1), torch.ones(1, 4, dtype=torch.bool), tokens, tokens[:, 0]
    )
    objects = torch.tensor([[2, 1]])
    assert not torch.equal(network.decode(layouts, objects), network.decode(layouts, objects))
    network.eval()
    assert torch.equal(network.decode(layouts, objects), network.decode(layouts, objects))


# What is predicted


@torch.no_grad()
def test_the_truth_is_what_was_looked_at_next_and_the_end(batch):
    valid = batch.valid.clone()
    valid[1] = False
    _, truth = tiny(appearance="none").teacher_forced(replace(batch, valid=valid))
    looked = batch.objects.under(batch.xy_px, batch.stimulus_of_trial)
    for row in range(len(batch)):
        path = looked[row][valid[row]].tolist()
        # 12 objects: the end is number 12; a trial without a fixation teaches nothing.
        expected = [*path, 12] if path else []
        assert truth[row].tolist() == expected + [-100] * (truth.shape[1] - len(expected))


@torch.no_grad()
def test_a_map_before_each_fixation_is_of_the_objects_before_it():
    batch = served(n=1, subjects=1, size_wh_px=(160, 105))
    model = tiny(appearance="none")
    scores, _ = model.teacher_forced(batch)
    n = int(batch.valid[0].sum())
    expected = scores[0, :n, :12].double().softmax(-1)
    got = on_object(model.conditional_log_density(batch)[0, :n], batch)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)
    # Before the first and the second fixation something else is known.
    assert (expected[0] - expected[1]).abs().max() > 1e-3


@torch.no_grad()
def test_the_map_is_the_mean_over_all_fixations_of_sampled_paths():
    batch = served(n=1, subjects=1)
    model = tiny(appearance="none")
    _, valid, log_p = model.walk(batch, model.marginal_paths, model.marginal_length, marginal_generator(batch))
    each = log_p[0, ..., :12][valid[0]].double().softmax(-1)
    torch.testing.assert_close(on_object(model.log_density(batch)[0], batch), each.mean(0), atol=1e-5, rtol=0)
    first = log_p[0, :, 0, :12].double().softmax(-1).mean(0)
    assert (first - each.mean(0)).abs().max() > 1e-3


@torch.no_grad()
def test_paths_are_no_longer_than_those_trained_on():
    batch = served(n=1)
    fixations = pd.DataFrame({"trial": [4, 4, 4, 7], "x_px": 0.0})
    stimuli = pd.DataFrame({"stimulus": ["a"]})
    model, fixed = tiny(appearance="none"), tiny(appearance="none", longest=5)
    for one, expected in ((model, 3), (fixed, 5)):
        assert int(one.most) == (60 if one is model else 5)
        one.prepare_fit([], fixations, stimuli, "made_up")
        assert int(one.most) == expected
        assert one.walk(batch, 2, 20, torch.Generator())[0].shape[2] == expected
        # Asked for more fixations than that, it gives padding.
        paths = one.sample(batch, 2, 20, torch.Generator())
        assert paths.xy_px.shape == (2, 2, 20, 2)
        assert not paths.valid[..., expected:].any()


# Training


def loss_of(model, batch, index=0):
    model.train().log = lambda *_, **__: None
    return model.training_step(batch, index)


def test_other_units_rest_in_each_epoch(monkeypatch):
    batch, model = served(), tiny(appearance="none", dropout=0.5)
    losses = []
    for epoch in (0, 1, 0):
        monkeypatch.setattr(Oat, "current_epoch", epoch)
        losses.append(float(loss_of(model, batch).detach()))
    assert losses[0] == losses[2]
    assert losses[0] != losses[1]


def test_nothing_is_learned_where_nobody_looked():
    batch, model = served(), tiny(appearance="none", dropout=0.0)
    nobody = replace(batch, valid=torch.zeros_like(batch.valid))
    loss = loss_of(model, nobody)
    assert float(loss.detach()) == 0.0
    loss.backward()
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())
    assert any(p.grad is not None for p in model.parameters())
    # The mean is over what people looked at, the end included.
    with torch.no_grad():
        scores, truth = model.teacher_forced(batch)
    chance = scores.log_softmax(-1).gather(-1, truth.clamp(min=0)[..., None])[..., 0]
    assert float(loss_of(model, batch).detach()) == pytest.approx(-float(chance[truth >= 0].mean()), abs=1e-5)


# Number types


@pytest.mark.parametrize("appearance", ["none", "cnn"])
@pytest.mark.parametrize("how", ["float64", "bfloat16", "mixed"])
@torch.no_grad()
def test_other_types_of_numbers(batch, appearance, how):
    model = tiny(appearance=appearance)
    expected = model.walk(batch, 5, 8, torch.Generator().manual_seed(0))
    if how == "mixed":
        with torch.autocast("cpu", torch.bfloat16):
            got = model.walk(batch, 5, 8, torch.Generator().manual_seed(0))
            maps = model.conditional_log_density(batch)[batch.valid], model.log_density(batch)
    else:
        model.to(getattr(torch, how))
        got = model.walk(batch, 5, 8, torch.Generator().manual_seed(0))
        maps = model.conditional_log_density(batch)[batch.valid], model.log_density(batch)
    assert got[2].dtype == (torch.float64 if how == "float64" else torch.float32)
    for one in maps:
        mass = one.double().flatten(1).logsumexp(1)
        # Maps are float32 whatever the network is.
        torch.testing.assert_close(mass, torch.zeros_like(mass), atol=1e-4, rtol=0)
    if how == "float64":
        assert torch.equal(got[0], expected[0])
    # Eight bits of a number are kept: the first fixation has nearly the same probabilities.
    error = (got[2] - expected[2])[:, :, 0, :12].abs().max()
    assert error < (1e-5 if how == "float64" else 0.1)


# No trials


@torch.no_grad()
def test_nothing_is_predicted_of_no_trials(batch):
    for appearance in ("none", "cnn"):
        model, none = tiny(appearance=appearance), batch.trials(0, 0)
        scores, truth = model.teacher_forced(none)
        steps = batch.valid.shape[1] + 1
        assert (scores.shape, truth.shape) == ((0, steps, 14), (0, steps))
        assert [value.shape for value in model.walk(none, 3, 5, torch.Generator())] == [
            (0, 3, 5), (0, 3, 5), (0, 3, 5, 14)
        ]  # fmt: skip


# Arguments


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"width": "abc"}, "width is 'abc', expected a whole number of 1 or more"),
        ({"width": 0}, "width is 0, expected a whole number of 1 or more"),
        ({"width": 24.0}, r"width is 24\.0, expected a whole number"),
        ({"n_heads": 0}, "n_heads is 0, expected a whole number of 1 or more"),
        ({"n_layers": 0}, "n_layers is 0"),
        ({"hidden": 0}, "hidden is 0"),
        ({"n_places": 0}, "n_places is 0"),
        ({"n_objects": 0, "appearance": "id"}, "n_objects is 0"),
        ({"dropout": 1.0}, r"dropout is 1\.0, expected a share from 0 to below 1"),
        ({"dropout": -0.1}, r"dropout is -0\.1"),
        ({"dropout": "0.1"}, r"dropout is '0\.1'"),
        ({"lr": 0.0}, r"lr is 0\.0, expected a number above 0"),
        ({"lr": "1e-4"}, "lr is '1e-4'"),
        ({"lr": float("nan")}, "lr is nan"),
        ({"longest": 0}, "longest is 0, expected a whole number of 1 or more"),
        ({"longest": -3}, "longest is -3"),
        ({"validation_paths": -1}, "validation_paths is -1, expected a whole number of 0 or more"),
        ({"grid": (0, 3)}, r"grid is \(0, 3\), expected columns and rows, two whole numbers of 1 or more"),
        ({"grid": (3,)}, r"grid is \(3,\), expected"),
        ({"grid": "86"}, "grid is '86', expected"),
        ({"crop_hw_px": (28, 40), "appearance": "cnn"}, r"crop_hw_px is \(28, 40\), .* of 29 or more"),
        ({"proposals": 60}, "proposals of objects are 60; expected superpixels"),
    ],
    ids=str,
)
def test_wrong_numbers_are_one_line(arguments, message):
    with pytest.raises(InputError, match=message) as caught:
        create_model("oat", **{**TINY, "appearance": "none", **arguments})
    assert "\n" not in str(caught.value)


def test_the_smallest_crop():
    assert ObjectCNN(8, (29, 29))(torch.rand(2, 3, 29, 29)).shape == (2, 8)
    with pytest.warns(UserWarning, match="zero-element"):
        assert ObjectCNN(8, (28, 29)).fc.in_features == 0


@pytest.mark.parametrize(("line", "message"), [("width: abc", "width is 'abc'"), ("proposals: 60", "objects are 60")])
def test_wrong_numbers_in_a_model_file(tmp_path, line, message):
    for name in ("oat", *(["object_salient"] if "proposals" in line else [])):
        path = tmp_path / "mine.yaml"
        path.write_text(f"model: {name}\n{line}\n")
        with pytest.raises(InputError, match=re.escape(message)):
            model_from_file(path)


def test_a_control_takes_a_grid_of_two_numbers():
    with pytest.raises(InputError, match=r"grid is \[3\], expected columns and rows"):
        create_model("object_center", grid=[3])
    with pytest.raises(InputError, match="proposals of objects are None"):
        Proposals.parse(None)


# Objects and pixels


def test_an_absent_target_is_on_no_object(batch):
    """Though there may be a box: of where it would be, or of its copy in the other picture of a pair."""
    absent = replace(batch.search, present=torch.tensor([True, False, True, False]))
    found, expected = (target_objects(replace(batch, search=s), batch.objects) for s in (absent, batch.search))
    assert (expected >= 0).all()
    assert found.tolist() == [int(expected[0]), -1, int(expected[2]), -1]


def test_one_look_in_twenty_lands_beside_its_object():
    boxes = torch.tensor([[[10.0, 10.0, 30.0, 40.0], [50.0, 10.0, 90.0, 30.0]]])
    layout = ObjectLayout(boxes, torch.tensor([[[0, 0], [0, 1]]]), torch.ones(1, 2, dtype=torch.bool))
    (territory,) = territories(layout, (100, 60))
    p = territory.log_share.double().exp()
    assert p[10:40, 10:30].sum().item() == pytest.approx(0.95, abs=1e-6)
    assert p[10:30, 50:90].sum().item() == pytest.approx(0.95, abs=1e-6)
    assert p.sum().item() == pytest.approx(2.0, abs=1e-5)


# Controls


def centers_wh(batch):
    return batch.objects.center_px[0].double() / torch.tensor(batch.size_wh_px)


def test_the_middle_attracts_with_an_sd_of_a_quarter():
    batch = served(n=1, subjects=1)
    p = create_model("object_center").log_probabilities(batch)[0].double().exp()
    expected = torch.exp(-0.5 * ((centers_wh(batch) - 0.5) / 0.25).square().sum(-1))
    torch.testing.assert_close(p, expected / expected.sum(), atol=1e-6, rtol=0)


def test_the_target_attracts_with_an_sd_of_two_steps():
    batch = served(n=1, subjects=1)
    p = create_model("object_near_target").log_probabilities(batch)[0].double().exp()
    target = int(target_objects(batch, batch.objects))
    place = batch.objects.place[0].double()
    expected = torch.exp(-0.5 * ((place - place[target]) / 2.0).square().sum(-1))
    torch.testing.assert_close(p, expected / expected.sum(), atol=1e-6, rtol=0)


def test_likeness_is_multiplied_with_the_gain(batch):
    one, two = (create_model("object_similar", gain=gain).logits(batch, batch.objects) for gain in (1.0, 3.5))
    torch.testing.assert_close(two, 3.5 * one)
    # A correlation: that of the target with itself is 1.
    target = target_objects(batch, batch.objects)
    torch.testing.assert_close(one.gather(1, target[:, None]), torch.ones(4, 1), atol=1e-5, rtol=0)
    assert one.abs().max() < 1 + 1e-5


def test_where_no_box_is_known_a_picture_of_the_target_is_compared(batch):
    crops = crops_of(batch.image, batch.objects.box_px, (35, 40))
    search = replace(
        batch.search, has_box=torch.tensor([True, False, False, True]),
        template=torch.stack([crops[0, 7], crops[1, 2]]), template_of_trial=torch.tensor([0, 0, 1, 1]),
    )  # fmt: skip
    found = create_model("object_similar").log_probabilities(replace(batch, search=search)).argmax(1)
    target = target_objects(batch, batch.objects)
    assert target[0] != 7
    assert target[3] != 2
    # A box goes before the picture.
    assert found.tolist() == [int(target[0]), 7, 2, int(target[3])]
