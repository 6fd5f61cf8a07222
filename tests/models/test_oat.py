"""OAT as a model of batches: what it is told of the target, which objects it sees, and the controls beside it."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from gazekit import InputError
from gazekit.batch import ObjectLayout
from gazekit.datasets.datamodule import StimulusItems
from gazekit.datasets.grid_search import grid_search
from gazekit.metrics import object_symbols
from gazekit.models import create_model, load_model
from gazekit.models.oat import crops_of
from gazekit.models.object_maps import layout_of, points_on_objects, territories
from tests.models.test_model_laws import save

TINY = {"width": 24, "n_heads": 2, "n_layers": 1, "hidden": 16, "n_places": 6, "n_objects": 12, "crop_hw_px": (34, 34)}


@pytest.fixture(scope="module")
def batch(tmp_path_factory):
    """Four displays of 4 x 3 objects with pictures, two readers each, who slip."""
    data = grid_search(
        4, 2, columns=4, rows=3, size_wh_px=(160, 105), slip=0.2, seed=5, pictures=tmp_path_factory.mktemp("p")
    )
    items = StimulusItems(data, with_search=True, with_objects=True)
    return items.collate([items[i] for i in range(4)])


def tiny(seed=0, **arguments):
    torch.manual_seed(seed)
    model = create_model("oat", **{**TINY, **arguments})
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def another_target(batch):
    """The same trials, searched for the object after the target."""
    box = batch.search.box_px
    target = batch.objects.under((box[:, None, :2] + box[:, None, 2:]) / 2, batch.stimulus_of_trial)[:, 0]
    box = batch.objects.box_px[batch.stimulus_of_trial, (target + 1) % 12]
    return replace(batch, search=replace(batch.search, box_px=box)), target


# What is known of the target


@pytest.mark.parametrize("appearance", ["none", "id", "cnn"])
@pytest.mark.parametrize(("position", "flag"), list(itertools.product([False, True], repeat=2)))
@torch.no_grad()
def test_the_model_knows_of_the_target_what_it_is_told(batch, appearance, position, flag):
    model = tiny(appearance=appearance, target_position=position, target_flag=flag)
    moved, target = another_target(batch)
    before, truth = model.teacher_forced(batch)
    after, _ = model.teacher_forced(moved)
    changed = (before - after).abs().amax(-1) > 1e-5
    looked = batch.objects.under(batch.xy_px, batch.stimulus_of_trial)
    if position or appearance == "cnn":
        assert changed[:, 0].all(), "the target is told before anybody looks"
    elif flag:
        # Not until one of the two is looked at; then at once.
        either = (looked == target[:, None]) | (looked == ((target + 1) % 12)[:, None])
        reached = (either & batch.valid).cumsum(1) > 0
        expected = F.pad(reached, (1, 0))
        known = truth >= 0
        assert torch.equal(changed[known], expected[known])
    else:
        assert not changed.any()


@torch.no_grad()
def test_the_look_of_the_target_is_a_crop_or_a_picture_of_it(batch):
    """Where no box is known a picture of the target stands in, and the two are the same look."""
    model = tiny(appearance="cnn")
    box = batch.search.box_px
    template = crops_of(batch.image, box.view(4, 2, 4)[:, :1], (34, 34))[:, 0]
    no_box = replace(
        batch.search, has_box=torch.zeros(8, dtype=torch.bool), template=template,
        template_of_trial=batch.stimulus_of_trial,
    )  # fmt: skip
    # Only the first score: later ones also know that the target was looked at.
    expected = model.teacher_forced(batch)[0][:, 0]
    torch.testing.assert_close(
        model.teacher_forced(replace(batch, search=no_box))[0][:, 0], expected, atol=1e-5, rtol=0
    )
    with pytest.raises(InputError, match="neither the box of their target nor a picture"):
        model.teacher_forced(replace(batch, search=replace(no_box, template=None)))
    with pytest.raises(InputError, match="is of pictures, and there are none"):
        model.teacher_forced(replace(batch, image=None))


CATEGORIES = tuple(f"object_{number}" for number in range(12))


@pytest.mark.parametrize("appearance", ["none", "cnn"])
@torch.no_grad()
def test_a_category_is_all_that_is_told_of_the_target(batch, appearance, tmp_path):
    model = tiny(appearance=appearance, categories=CATEGORIES, target_flag=False)
    scores, _ = model.teacher_forced(batch)
    # Neither where the target is nor how it looks.
    assert torch.equal(model.teacher_forced(another_target(batch)[0])[0], scores)
    target = tuple(CATEGORIES[(CATEGORIES.index(name) + 1) % 12] for name in batch.search.target)
    other = replace(batch, search=replace(batch.search, target=target))
    assert ((model.teacher_forced(other)[0] - scores).abs().amax((1, 2)) > 1e-4).all()
    # It need not be there, and it may be absent in some trials of a batch and present in others.
    absent = replace(batch.search, present=torch.zeros(8, dtype=torch.bool), has_box=torch.zeros(8, dtype=torch.bool))
    assert torch.equal(model.teacher_forced(replace(batch, search=absent))[0], scores)
    flagged = tiny(appearance=appearance, categories=CATEGORIES)
    some = replace(batch.search, present=torch.arange(8) % 2 == 0)
    changed = (flagged.teacher_forced(replace(batch, search=some))[0] - flagged.teacher_forced(batch)[0]).abs()
    assert (changed.amax((1, 2)) > 1e-5).tolist() == [False, True] * 4
    # Searches for different things on one display are apart.
    mixed = replace(batch, search=replace(batch.search, target=target[:1] + batch.search.target[1:]))
    together = model.teacher_forced(mixed)[0]
    torch.testing.assert_close(together[0], model.teacher_forced(other)[0][0], atol=1e-5, rtol=0)
    torch.testing.assert_close(together[1:], scores[1:], atol=1e-5, rtol=0)
    restored = load_model(save(model, tmp_path / "oat.ckpt"))
    assert torch.equal(restored.teacher_forced(batch)[0], scores)
    assert restored.provenance()["categories"] == list(CATEGORIES)


def test_a_category_that_the_model_does_not_know(batch):
    model = tiny(appearance="none", categories=["object_1", "object_1", "cup"])
    assert model.know.num_embeddings == 2
    search = replace(batch.search, target=("cap",) * 8)
    with pytest.raises(InputError, match=r"no category that oat was built for named 'cap'; did you mean 'cup'\?"):
        model.scene(replace(batch, search=search))
    with pytest.raises(InputError, match="built for targets of some categories, and the trials are no searches"):
        model.scene(replace(batch, search=None))


# Settings


@pytest.mark.parametrize(
    "arguments",
    [
        {"appearance": "cnn", "special": "ones", "pixel_scale": "bgr255", "target_position": True},
        {"appearance": "cnn", "pixel_scale": "minmax"}, {"appearance": "id"}, {"appearance": "none"},
        {"appearance": "id", "target_position": True}, {"appearance": "none", "target_flag": False},
        {"appearance": "cnn", "categories": CATEGORIES, "target_flag": False},
        {"appearance": "none", "categories": CATEGORIES, "target_position": True},
        {"appearance": "none", "gate": "head"}, {"appearance": "none", "gate": "element"},
        {"appearance": "backbone", "backbone": "gazekit/small_vgg", "weights": None},
    ],
    ids=str,
)  # fmt: skip
def test_every_setting_trains_all_that_it_has(batch, arguments):
    model = tiny(**arguments).train()
    model.log = lambda *_, **__: None
    loss = model.training_step(batch, 0)
    loss.backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert parameter.grad.abs().max() > 0, name
    # The same units rest in the same step of the same epoch.
    assert torch.equal(model.training_step(batch, 0), loss)
    assert not torch.equal(model.training_step(batch, 1), loss)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"appearance": "cmn"}, "no appearance of objects named 'cmn'; did you mean 'cnn'"),
        ({"special": "one"}, "no special token named 'one'; did you mean 'ones'"),
        ({"pixel_scale": "bgr"}, "no pixel scale named 'bgr'"),
        ({"special": "ones", "appearance": "id"}, "an image for the cnn, and appearance is 'id'"),
        ({"width": 25}, "width is 25, expected a multiple of 2 and of the 2 heads"),
    ],
)
def test_wrong_settings(arguments, message):
    with pytest.raises(InputError, match=message):
        tiny(**arguments)


def test_more_objects_than_the_model_knows(batch):
    with pytest.raises(InputError, match=r"in 4 rows or columns, and the model knows 3; build it with n_places=4"):
        tiny(appearance="none", n_places=3).teacher_forced(batch)
    with pytest.raises(InputError, match=r"12 objects, and the model has learned 10; build it with n_objects=12"):
        tiny(appearance="id", n_objects=10).teacher_forced(batch)


# Objects and batches


@torch.no_grad()
def test_layouts_of_different_sizes_in_one_batch(batch):
    """A stimulus with fewer objects scores as it does alone."""
    there = batch.objects.there.clone()
    there[1, 9:] = False
    at = batch.objects.box_px[batch.stimulus_of_trial, 2]
    fewer = replace(batch, objects=replace(batch.objects, there=there), search=replace(batch.search, box_px=at))
    alone = fewer.trials(2, 4).stimulus_alone(1)
    objects = alone.objects
    nine = ObjectLayout(objects.box_px[:, :9], objects.place[:, :9], objects.there[:, :9])
    alone = replace(alone, objects=nine)
    model = tiny(appearance="cnn", target_position=True)
    steps = int(alone.valid.sum()) + 1
    scores, expected = model.teacher_forced(fewer)[0][2, :steps], model.teacher_forced(alone)[0][0, :steps]
    torch.testing.assert_close(scores[:, :9], expected[:, :9], atol=1e-5, rtol=0)
    # The end keeps its score though its number is another.
    torch.testing.assert_close(scores[:, 12:], expected[:, 9:], atol=1e-5, rtol=0)
    path, valid, _ = model.walk(fewer, 50, 20, torch.Generator().manual_seed(0))
    assert (path[2:4][valid[2:4]] < 9).all()


def test_objects_under_fixations_are_those_of_the_evaluation(batch):
    """Two implementations of one rule, on boxes that overlap and leave gaps."""
    rng = torch.Generator().manual_seed(0)
    low = torch.rand(2, 9, 2, generator=rng) * 80
    boxes = torch.cat([low, low + 5 + torch.rand(2, 9, 2, generator=rng) * 30], -1)
    layout = ObjectLayout(boxes, torch.zeros(2, 9, 2, dtype=torch.long), torch.ones(2, 9, dtype=torch.bool))
    xy, stimulus = torch.rand(6, 40, 2, generator=rng) * 130 - 5, torch.tensor([0, 1, 0, 0, 1, 1])
    expected = object_symbols(
        xy.double(), torch.ones(6, 40, dtype=torch.bool), boxes_px=boxes.double(), image=stimulus
    )  # fmt: skip
    assert torch.equal(layout.under(xy, stimulus), expected)
    assert len(expected.unique()) == 9


def test_points_lie_on_their_objects(batch):
    """Also where boxes overlap; and every pixel belongs to the object under its middle."""
    boxes = torch.tensor([[[0.0, 0.0, 60.0, 50.0], [40.0, 20.0, 100.0, 80.0], [120.0, 10.0, 150.0, 100.0]]])
    layout = ObjectLayout(boxes, torch.zeros(1, 3, 2, dtype=torch.long), torch.ones(1, 3, dtype=torch.bool))
    one = replace(batch.trials(0, 1).stimulus_alone(0), objects=layout)
    objects = torch.arange(3).repeat_interleave(200).view(1, 3, 200)
    # A quarter of the second box is covered: eight draws miss the rest once in 65,000 points.
    uniform = torch.rand(8, 1, 3, 200, 2, generator=torch.Generator().manual_seed(1))
    xy = points_on_objects(objects, torch.tensor([0]), layout, uniform, one)
    assert torch.equal(layout.under(xy.flatten(1, 2), torch.tensor([0])).view(1, 3, 200), objects)
    (territory,) = territories(layout, one.size_wh_px)
    y, x = torch.meshgrid(torch.arange(105) + 0.5, torch.arange(160) + 0.5, indexing="ij")
    under = layout.under(torch.stack([x, y], -1).view(1, -1, 2), torch.tensor([0])).view(105, 160)
    assert torch.equal(territory.owner, under)
    for i in range(3):
        share = territory.log_share[territory.owner == i].double().exp().sum()
        assert share.item() == pytest.approx(1.0, abs=1e-5)


def test_crops_are_the_pictures_in_the_boxes():
    """A box of whole pixels, at its own size, is cut out as it is; a larger one is averaged bilinearly."""
    image = torch.rand(1, 3, 40, 60, generator=torch.Generator().manual_seed(0))
    box = torch.tensor([[[10.0, 4.0, 34.0, 22.0], [0.0, 0.0, 60.0, 40.0]]])
    crops = crops_of(image, box, (18, 24))
    torch.testing.assert_close(crops[0, 0], image[0, :, 4:22, 10:34], atol=1e-5, rtol=0)
    expected = F.interpolate(image, (18, 24), mode="bilinear", align_corners=False)[0]
    torch.testing.assert_close(crops[0, 1], expected, atol=1e-5, rtol=0)


def test_photographs_are_divided_into_cells(batch):
    plain = replace(batch, objects=None)
    layout = layout_of(plain, (5, 2))
    assert layout.box_px.shape == (4, 10, 4)
    assert layout.place[0, -1].tolist() == [1, 4]
    assert layout.box_px[0, -1].tolist() == pytest.approx([128.0, 52.5, 160.0, 105.0])


# Controls


def control(name, **arguments):
    data = grid_search(6, 3, columns=4, rows=3, size_wh_px=(160, 105), seed=2)
    return create_model(name, **arguments).fit_fixations(data.fixations, data.stimuli, float("nan")).eval(), data


def served(data, rows, **options):
    items = StimulusItems(data, with_search=True, with_objects=True, decode=False, **options)
    return items.collate([items[i] for i in rows])


@pytest.mark.parametrize("name", ["object_random", "object_center", "object_near_target"])
def test_controls_draw_their_distribution_and_people_s_length(name):
    model, data = control(name)
    one = served(data, [1]).trials(0, 1)
    made = model.sample(one, 6000, 60, torch.Generator().manual_seed(0))
    lengths = data.fixations.groupby("trial").size()
    others = data.trials.set_index("trial")["stimulus"] != one.stimulus[0]
    mean = lengths[others.reindex(lengths.index)].mean()
    # A geometric number from 1 on has an SD of about its mean; five standard errors.
    assert made.valid.sum(2).double().mean().item() == pytest.approx(mean, abs=5 * mean / np.sqrt(6000))
    number = one.objects.under(made.xy_px[0], one.stimulus_of_trial.expand(6000))
    share = torch.bincount(number[made.valid[0]], minlength=12) / made.valid.sum()
    p = model.log_probabilities(one)[0].exp()
    assert ((share - p).abs() < 5 * (p / made.valid.sum()).sqrt()).all()
    target = int(one.objects.under((one.search.box_px[:, None, :2] + 1), one.stimulus_of_trial))
    if name == "object_random":
        assert p.tolist() == pytest.approx([1 / 12] * 12)
    elif name == "object_center":
        # The two middle cells of the middle row.
        assert set(p.topk(2).indices.tolist()) == {5, 6}
    else:
        assert int(p.argmax()) == target


def test_similar_objects_are_likelier(batch):
    model, _ = control("object_similar")
    p = model.log_probabilities(batch)
    _, target = another_target(batch)
    assert torch.equal(p.argmax(1), target)
    with pytest.raises(InputError, match="object_similar compares pictures, and there are none"):
        model.log_probabilities(replace(batch, image=None))


def test_salient_objects_are_likelier(batch):
    model, _ = control("object_salient")
    p = model.log_probabilities(batch).exp()
    density = model.base.log_density(batch.trials(0, 1).stimulus_alone(0))[0].double().exp()
    # The mass of the map on the first object, rows 0 to 34, columns 0 to 39.
    assert p[0, 0].item() == pytest.approx(float(density[:35, :40].sum()), rel=1e-3)
