"""The search model around the codebook: goals, options, placements, and a made-up search that it has to learn."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from gazekit import InputError
from gazekit.models import create_model, load_model
from gazekit.models.base import seed_of
from gazekit.models.codebook import Codebook
from tests.models.test_bottleneck import n_parameters
from tests.models.test_model_laws import STIMULI, TINY_CLIP, make_batch, picture, save, tables, training_loss

SMALL = {"backbone": "mobilenetv2_035", "weights": None, "width": 16, "hidden": 8}
# The laws' reason: matrix products sum in another order.
REORDERED = {"rtol": 0.0, "atol": 2e-4}


def built(seed=3, **options):
    torch.manual_seed(seed)
    model = create_model("codebook", **{**SMALL, **options})
    fixations, stimuli = tables()
    model.prepare_fit((make_batch([s]) for s in STIMULI), fixations, stimuli, "made_up")
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.2 * torch.randn_like(parameter))
    return model.eval()


def looking_for(batch, picture_of=None, name=None):
    """The batch with everybody looking for something else."""
    search = batch.search
    if picture_of is not None:
        search = replace(
            search, template=picture(picture_of, (28, 24))[None], template_of_trial=torch.zeros(len(batch)).long()
        )
    if name is not None:
        search = replace(search, target=(name,) * len(batch))
    return replace(batch, search=search)


GOALS = {
    "image": ({}, {"picture_of": "a bell"}, {"picture_of": "a cup"}),
    "category": ({"categories": ["bell", "cup"]}, {"name": "bell"}, {"name": "cup"}),
    "word": ({"clip": TINY_CLIP, "clip_weights": None}, {"name": "bell"}, {"name": "cup"}),
}


@pytest.mark.parametrize("goal", GOALS)
@pytest.mark.parametrize("placement", ["cell", "global"])
@torch.no_grad()
def test_another_goal_lets_other_things_through(goal, placement):
    options, first, second = GOALS[goal]
    model, batch = built(goal=goal, placement=placement, **options), make_batch(STIMULI[:1])
    batches = [looking_for(batch, **first), looking_for(batch, **second)]
    steps = [model.conditional_log_density(b)[batch.valid] for b in batches]
    later = torch.cat([torch.arange(int(n)) for n in batch.valid.sum(1)]) > 0
    assert (steps[0] - steps[1])[later].abs().amax() > 1e-3
    if placement == "cell":
        weights = [model.scene(b)[1] for b in batches]
        assert weights[0].shape[-1] == 256
        assert (weights[0] - weights[1]).abs().max() > 1e-4
    # The same goal twice is the same, though the model kept what it saw.
    again = model.conditional_log_density(batches[0])[batch.valid]
    assert torch.equal(again, steps[0])


@torch.no_grad()
def test_without_a_goal_nothing_depends_on_it():
    model, batch = built(goal="none"), make_batch(STIMULI[:1])
    one, other = (model.scene(looking_for(batch, picture_of=p, name=p))[1] for p in ("a bell", "a cup"))
    assert torch.equal(one, other)
    # And a model that would use one sees the scene alone where there is none.
    model = built()
    free = replace(batch, search=None)
    assert model.conditional_log_density(free).isfinite().all()
    assert (model.scene(free)[1] - model.scene(batch)[1]).abs().max() > 1e-4


@torch.no_grad()
def test_trials_with_different_goals_in_one_batch():
    batch = make_batch(STIMULI[:1])
    search = replace(
        batch.search, template=torch.stack([picture(p, (28, 24)) for p in ("a bell", "a cup")]),
        template_of_trial=torch.tensor([0, 1, 0]),
    )  # fmt: skip
    mixed, model = replace(batch, search=search), built()
    together, maps = model.conditional_log_density(mixed), model.log_density(mixed)
    assert not torch.equal(maps[0], maps[1])
    assert torch.equal(maps[0], maps[2])
    for row in range(len(batch)):
        alone = mixed.trials(row, row + 1)
        n = int(batch.valid[row].sum())
        torch.testing.assert_close(together[row, :n], model.conditional_log_density(alone)[0, :n], **REORDERED)
        torch.testing.assert_close(maps[row], model.log_density(alone)[0], **REORDERED)


@torch.no_grad()
def test_the_place_of_the_target_is_not_used():
    batch, model = make_batch(STIMULI[:1]), built()
    told = replace(
        batch.search, box_px=torch.tensor([[10.0, 20.0, 60.0, 70.0]]).expand(len(batch), 4),
        has_box=torch.ones(len(batch), dtype=torch.bool),
    )  # fmt: skip
    with_box = replace(batch, search=told)
    assert torch.equal(model.conditional_log_density(with_box), model.conditional_log_density(batch))


@torch.no_grad()
def test_a_scene_without_cached_features_is_encoded_once():
    model, batch = built(), make_batch(STIMULI[:1])
    cached = replace(batch, image=None, features=model.encode(batch.image))
    seen: list[tuple[int, ...]] = []
    model.backbone.register_forward_hook(lambda _, inputs, __: seen.append(tuple(inputs[0].shape)))
    maps = model.conditional_log_density(batch)
    scene = tuple(model._resized(batch.image).shape)
    assert seen.count(scene) == 1
    torch.testing.assert_close(maps, model.conditional_log_density(cached), **REORDERED)


@torch.no_grad()
def test_scanpaths_begin_where_the_design_put_the_eye():
    batch, model = make_batch(STIMULI[:1]), built()
    start = torch.tensor([[40.0, 200.0]]).expand(len(batch), 2)
    search = replace(batch.search, start_xy_px=start, has_start=torch.ones(len(batch), dtype=torch.bool))
    given = replace(batch, search=search)
    first = model.sample(given, 200, 2, torch.Generator().manual_seed(0)).xy_px[:, :, 0]
    # Half a degree is 6 px here, and positions are drawn on a grid of 9 px.
    assert (first.mean(1) - start).abs().max() < 5
    assert first.std(1).max() < 15
    free = model.sample(batch, 200, 2, torch.Generator().manual_seed(0)).xy_px[:, :, 0]
    assert free.std(1).min() > 15


@pytest.mark.parametrize("bottleneck", ["codebook", "linear", "none"])
@pytest.mark.parametrize("placement", ["cell", "global"])
@pytest.mark.parametrize("attention", ["none", "plain", "gated"])
def test_every_option_trains_and_is_restored(bottleneck, placement, attention, tmp_path):
    if placement == "global" and attention != "none":
        with pytest.raises(InputError, match="attention: none"):
            built(placement=placement, attention=attention)
        return
    model = built(bottleneck=bottleneck, placement=placement, attention=attention, usage_weight=1e-2).train()
    batch = make_batch(STIMULI[:2])
    loss = training_loss(model, batch)
    loss.backward()
    without = [name for name, p in model.named_parameters() if p.requires_grad and not (p.grad.abs() > 0).any()]
    assert not without, f"without a gradient: {without}"
    # Noise depends on seed, epoch and stimulus alone.
    assert torch.equal(training_loss(model, batch).detach(), loss.detach())
    restored = Codebook.from_checkpoint(torch.load(save(model, tmp_path / "m.ckpt"), weights_only=True))
    restored.load_state_dict(torch.load(tmp_path / "m.ckpt", weights_only=True)["state_dict"])
    with torch.no_grad():
        found, expected = (m.eval().conditional_log_density(batch) for m in (restored, model))
    assert torch.equal(found, expected)


@pytest.mark.parametrize("goal", ["category", "word"])
def test_goals_without_a_picture_are_restored(goal, tmp_path):
    options, first, _ = GOALS[goal]
    model, batch = built(goal=goal, **options), looking_for(make_batch(STIMULI[:1]), **first)
    checkpoint = torch.load(save(model, tmp_path / "m.ckpt"), weights_only=True)
    restored = Codebook.from_checkpoint(checkpoint)
    restored.load_state_dict(checkpoint["state_dict"])
    with torch.no_grad():
        assert torch.equal(restored.eval().conditional_log_density(batch), model.conditional_log_density(batch))


def test_kept_features_train_as_new_ones_do():
    """With cached features a scene is described once per training; the loss is the same."""
    model, batch = built().train(), make_batch(STIMULI[:2])
    with torch.no_grad():
        cached = replace(batch, image=None, features=model.encode(batch.image))
    losses = [training_loss(model, b).item() for b in (batch, cached, cached)]
    assert losses[1] == losses[2]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


def test_a_target_in_the_scene_is_found_by_likeness():
    """Frozen features alone, before any training: the cell where a cut-out was made is most like it."""
    scene = picture("a lake", (320, 240))
    left, top, side = 160, 96, 64
    cut = scene[:, top : top + side, left : left + side]
    batch = make_batch(STIMULI[:1])
    search = replace(batch.search, template=cut[None], template_of_trial=torch.zeros(len(batch)).long())
    batch = replace(batch, image=scene[None], search=search)
    model = built()
    goals = model._goals(batch)
    with torch.no_grad():
        maps = model.encode(scene[None])
        _, match = model._cells(maps[: len(maps) // 2], goals)
    h, w = match.shape[1:3]
    at = match[0, ..., 0].flatten().argmax().item()
    found = (at % w) / (w - 1) * 320, (at // w) / (h - 1) * 240
    assert abs(found[0] - (left + side / 2)) <= 40
    assert abs(found[1] - (top + side / 2)) <= 40


BOX = (160.0, 96.0, 224.0, 160.0)


def cut_out(stimulus="a lake", box_px=BOX):
    """Everybody looks for what lies in the box, and the batch says where that is."""
    batch, scene = make_batch(STIMULI[:1]), picture(stimulus, (320, 240))
    left, top, right, bottom = map(int, box_px)
    n = len(batch)
    search = replace(
        batch.search, template=scene[None, :, top:bottom, left:right], template_of_trial=torch.zeros(n).long(),
        box_px=torch.tensor([box_px]).expand(n, 4), has_box=torch.ones(n, dtype=torch.bool),
    )  # fmt: skip
    return replace(batch, image=scene[None], search=search)


def in_box(log_density, box_px=BOX):
    left, top, right, bottom = map(int, box_px)
    return log_density.exp()[..., top:bottom, left:right].sum((-2, -1))


@torch.no_grad()
def test_cells_are_as_fine_as_asked_for():
    batch = make_batch(STIMULI[:1])
    # 320 x 240 px are described at 289 x 225, 32 k + 1 px per side.
    assert built(cell_px=32).scene(batch)[0].hw == (8, 10)
    assert built(cell_px=16).scene(batch)[0].hw == (15, 19)


@torch.no_grad()
def test_likeness_relative_to_the_scene_is_in_its_standard_deviations():
    batch, found = cut_out(), {}
    for match in ("relative", "cosine"):
        model = built(match=match)
        maps = model.encode(batch.image)
        maps = [model.standardized(m, n) for n, m in enumerate(maps[: len(maps) // 2])]
        # On a tap with the cells' stride nothing is pooled.
        found[match] = model._match(maps, model._goals(batch))[0, 0]
    cosine = found["cosine"]
    expected = (cosine - cosine.mean()) / cosine.std()
    torch.testing.assert_close(found["relative"], expected, rtol=0.0, atol=1e-4)
    assert found["relative"].max() > 2.0


@pytest.mark.parametrize("bottleneck", ["codebook", "linear", "none"])
def test_training_learns_where_the_target_is_from_what_passes(bottleneck):
    """Two targets of one scene: the box decides in training, the picture of the target decides afterwards."""
    torch.manual_seed(0)
    model = create_model("codebook", **{**SMALL, "bottleneck": bottleneck, "dropout": 0.0})
    fixations, stimuli = tables()
    model.prepare_fit((make_batch([s]) for s in STIMULI), fixations, stimuli, "made_up")
    other = (32.0, 128.0, 96.0, 192.0)
    batches = [cut_out(), cut_out(box_px=other)]
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    model.train()
    for _ in range(25):
        for batch in batches:
            optimizer.zero_grad()
            training_loss(model, batch).backward()
            optimizer.step()
    model.eval()
    with torch.no_grad():
        for batch, box in zip(batches, (BOX, other), strict=True):
            scene, _, _ = model.scene(batch)
            p = model.decoder.target_log_probability(scene).exp()[0]
            x, y = (scene.xy_dva * batch.working_px_per_dva).unbind(-1)
            inside = (box[0] <= x) & (x < box[2]) & (box[1] <= y) & (y < box[3])
            assert p[inside].sum() > 0.8
            # The place itself is not looked at: without boxes the answer is the same.
            told = replace(batch.search, box_px=torch.zeros(len(batch), 4), has_box=torch.zeros(len(batch)).bool())
            assert torch.equal(model.scene(replace(batch, search=told))[0].passed, scene.passed)


@torch.no_grad()
def test_an_eager_model_goes_for_the_target_sooner(monkeypatch):
    model, batch = built(), cut_out()

    def sure_of_the_place(scene):
        at = scene.nearest_node(torch.tensor([192.0, 128.0]) / batch.working_px_per_dva)
        log_p = torch.full(scene.passed.shape[:2], -20.0)
        log_p[:, at] = 0.0
        return log_p.log_softmax(-1)

    monkeypatch.setattr(model.decoder, "target_log_probability", sure_of_the_place)
    box, share, hits = tuple(BOX), [], []
    for eagerness in (0.0, 2.0, 6.0):
        model.adjust(eagerness=eagerness)
        steps = model.conditional_log_density(batch)[batch.valid]
        torch.testing.assert_close(steps.exp().sum((1, 2)), torch.ones(len(steps)), rtol=0.0, atol=1e-4)
        share.append(in_box(steps, box)[1])
        xy = model.sample(batch, 40, 4, torch.Generator().manual_seed(0)).xy_px[:, :, 1:]
        low, high = torch.tensor(box[:2]), torch.tensor(box[2:])
        hits.append(((low <= xy) & (xy < high)).all(-1).any(-1).float().mean())
    assert share[0] < share[1] < share[2]
    assert hits[0] < hits[1] < hits[2]
    # Not in training, and not without a goal.
    losses = []
    for eagerness in (0.0, 6.0):
        model.adjust(eagerness=eagerness)
        losses.append(training_loss(model.train(), batch).item())
        model.eval()
    assert losses[0] == losses[1]
    free = replace(batch, search=None)
    eager = model.conditional_log_density(free)
    model.adjust(eagerness=0.0)
    torch.testing.assert_close(eager, model.conditional_log_density(free), rtol=0.0, atol=1e-4)


def test_only_a_model_that_finds_can_be_eager():
    for options in ({"find_weight": 0.0}, {"goal": "none"}, {"placement": "global"}):
        with pytest.raises(InputError, match="eagerness needs a model that was trained to find"):
            built(**options).adjust(eagerness=1.0)
    with pytest.raises(InputError, match="no 'haste' to set after training; it has: eagerness"):
        built().adjust(haste=1.0)
    with pytest.raises(InputError, match="eagerness is 'much', expected a finite number"):
        built().adjust(eagerness="much")


@torch.no_grad()
def test_a_mirrored_scene_has_its_target_on_the_other_side():
    model = built()
    batch, mirrored = cut_out(), cut_out(box_px=(320 - BOX[2], BOX[1], 320 - BOX[0], BOX[3]))
    scene, _, goals = model.scene(batch)
    found = [
        float(model._finding(scene, goals, b, torch.tensor([mirror])))
        for b, mirror in ((batch, False), (batch, True), (mirrored, False), (mirrored, True))
    ]
    assert found[0] != pytest.approx(found[1], abs=1e-3)
    assert found[1] == pytest.approx(found[2], abs=1e-4)
    assert found[0] == pytest.approx(found[3], abs=1e-4)


def test_checkpoints_from_before_the_finer_cells_are_restored(tmp_path):
    model = built(cell_px=32, match="cosine", find_weight=0.0)
    checkpoint = torch.load(save(model, tmp_path / "m.ckpt"), weights_only=True)
    for name in ("cell_px", "match", "find_weight"):
        del checkpoint["hyper_parameters"][name]
    torch.save(checkpoint, tmp_path / "former.ckpt")
    batch = make_batch(STIMULI[:1])
    with torch.no_grad():
        expected = model.conditional_log_density(batch)
        assert torch.equal(load_model(tmp_path / "former.ckpt").conditional_log_density(batch), expected)


def test_the_gain_over_the_prior_is_that_of_the_maps():
    model, batch = built(), make_batch(STIMULI[:2])
    gain = model.gain_over_prior(batch)
    with torch.no_grad():
        model.decoder.out.weight.zero_()
        model.decoder.static.weight.zero_()
        model.decoder.prior_weight.fill_(1.0)
        for p in model.decoder.context.parameters():
            p.zero_()
        model.decoder.go[2].weight.zero_()
        model.decoder.go[2].bias.fill_(-30.0)
    assert gain.abs().min() > 1e-3
    # Nothing but the prior gains nothing over it (its nodes are a coarser grid, normalised anew).
    assert model.gain_over_prior(batch).abs().max() < 0.2


def test_wrong_arguments_and_unknown_targets():
    for options, match in (
        ({"goal": "sound"}, "no goal named 'sound'"),
        ({"placement": "cells"}, "did you mean 'cell'"),
        ({"attention": "open"}, "no attention of the decoder named 'open'"),
        ({"goal": "category"}, "needs categories"),
        ({"bottleneck": "vq"}, "no bottleneck named 'vq'"),
        ({"match": "sum"}, "no match of a target's picture named 'sum'"),
        ({"cell_px": 24}, "cell_px is 24, expected the stride of one of the taps: 16, 32"),
    ):
        with pytest.raises(InputError, match=match):
            create_model("codebook", **{**SMALL, **options})
    model = built(goal="category", categories=["bell", "cup"])
    with pytest.raises(InputError, match=r"no category named 'cop'; did you mean 'cup'\?"):
        model.scene(looking_for(make_batch(STIMULI[:1]), name="cop"))


def test_a_picture_of_the_target_is_not_done_without():
    """Searches without one would train as free viewing, and nobody would notice."""
    batch = make_batch(STIMULI[:1])
    none = replace(batch.search, template=None, template_of_trial=torch.full((3,), -1))
    one = replace(batch.search, target=("bell", "cup", "cup"), template_of_trial=torch.tensor([0, -1, 0]))
    for search, name in ((none, "part of hill"), (one, "cup")):
        with pytest.raises(InputError, match=rf"there is none of target '{name}'; train one with goal"):
            built().scene(replace(batch, search=search))


def test_the_published_size_of_the_whole_map():
    model = create_model("codebook", weights=None, placement="global", bottleneck_options={"normalize": False})
    assert n_parameters(model.bottleneck) == 423_074


# What the review of a loss would ask


def mirrored(batch):
    """The same searches of mirrored scenes."""
    width = batch.size_wh_px[0]
    box = batch.search.box_px
    search = replace(
        batch.search, template=batch.search.template.flip(-1),
        box_px=torch.stack([width - box[:, 2], box[:, 1], width - box[:, 0], box[:, 3]], 1),
    )  # fmt: skip
    xy = torch.stack([width - batch.xy_px[..., 0], batch.xy_px[..., 1]], -1)
    return replace(batch, image=batch.image.flip(-1), xy_px=xy, search=search)


def mirrors(seed, stimulus):
    return bool(torch.rand((), generator=torch.Generator().manual_seed(seed_of(seed, 0, stimulus))) < 0.5)


def test_training_mirrors_scene_fixations_box_and_target_alike():
    batch = cut_out()
    # All fixations and no noise, so that a seed decides about mirroring alone.
    options = {"bottleneck": "linear", "dropout": 0.0, "fixations_per_stimulus": 1000}
    as_it_is, flipped = (
        next(s for s in range(50) if mirrors(s, batch.stimulus[0]) is is_so) for is_so in (False, True)
    )
    model = built(**options, seed=3).train()
    losses = []
    for seed, shown in ((as_it_is, batch), (flipped, batch), (as_it_is, mirrored(batch)), (flipped, mirrored(batch))):
        model.hparams["seed"] = seed
        losses.append(training_loss(model, shown).item())
    assert losses[0] == pytest.approx(losses[3], abs=2e-4)
    assert losses[1] == pytest.approx(losses[2], abs=2e-4)
    assert abs(losses[0] - losses[1]) > 2e-3
    # A cut-out of the scene is most like the scene it was cut from, mirrored or not.
    unlike = replace(batch, search=replace(batch.search, template=batch.search.template.flip(-1)))
    model.hparams["seed"] = as_it_is
    assert abs(training_loss(model, unlike).item() - losses[0]) > 1e-4


def terms_of(model, batch):
    """Loss, and what is logged of its parts."""
    logged = {}
    model.log = lambda name, value, **_: logged.update({name: value.item()})
    return model.training_step(batch, 0).item(), logged


def test_terms_of_the_loss_weigh_what_they_are_said_to():
    batch, found = cut_out(), {}
    for find, usage in ((0.0, 0.0), (0.3, 0.0), (0.7, 0.0), (0.0, 0.5), (0.0, 1.0)):
        model = built(find_weight=0.5).train()
        model.hparams.update(find_weight=find, usage_weight=usage)
        found[find, usage] = terms_of(model, batch)
    alone, logged = found[0.0, 0.0]
    assert alone == pytest.approx(logged["train/nll_nats_per_node"])
    for weight in (0.3, 0.7):
        loss, parts = found[weight, 0.0]
        assert loss == pytest.approx(alone + weight * parts["train/find_nats"], abs=1e-5)
    # A low entropy per cell and a high one of the mean lower the loss: their difference is the negative of what the
    # codes tell about the cells, which no mixture makes positive.
    usage = found[0.0, 1.0][0] - alone
    assert usage < -1e-4
    assert found[0.0, 0.5][0] - alone == pytest.approx(usage / 2, abs=1e-5)


def test_dropout_keeps_the_mean_of_channels(monkeypatch):
    model, kept = built(dropout=0.5, bottleneck="linear").train(), []
    original = model._fused
    monkeypatch.setattr(model, "_fused", lambda cells, goals, keep: kept.append(keep) or original(cells, goals, keep))
    training_loss(model, make_batch(STIMULI[:1]))
    assert set(kept[0].unique().tolist()) == {0.0, 2.0}
    assert kept[0].mean().item() == pytest.approx(1.0, abs=0.15)


@torch.no_grad()
def test_a_trial_without_a_box_does_not_hide_that_of_the_others():
    batch, model = cut_out(), built()
    scene, _, goals = model.scene(batch)
    no = torch.tensor([False])
    whole = float(model._finding(scene, goals, batch, no))
    for row in (0, len(batch) - 1):
        box, has_box, present = batch.search.box_px.clone(), batch.search.has_box.clone(), batch.search.present.clone()
        box[row], has_box[row] = 0.0, False
        unboxed = replace(batch, search=replace(batch.search, box_px=box, has_box=has_box))
        assert float(model._finding(scene, goals, unboxed, no)) == pytest.approx(whole, abs=1e-6)
        present[row], box[row] = False, torch.tensor([300.0, 200, 310, 210])
        absent = replace(batch, search=replace(batch.search, box_px=box, present=present))
        assert float(model._finding(scene, goals, absent, no)) == pytest.approx(whole, abs=1e-6)


@pytest.mark.parametrize("placement", ["cell", "global"])
def test_nobody_looked_is_no_reason_for_nan(placement):
    model = built(placement=placement)
    batch = cut_out()
    unseen = replace(batch, valid=torch.zeros_like(batch.valid))
    loss = training_loss(model.train(), unseen)
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    model.eval()
    logged = []
    model.log = lambda name, value, *, batch_size, sync_dist: logged.append((float(value), batch_size))
    model.validation_step(unseen, 0)
    model.validation_step(batch, 1)
    assert logged[0] == (0.0, 0)
    assert logged[1][0] == pytest.approx(float(model.gain_over_prior(batch)), abs=1e-6)
    assert logged[1][1] == 1
    assert model.sample(batch, 2, 0, torch.Generator().manual_seed(0)).xy_px.shape == (len(batch), 2, 0, 2)


def test_one_first_fixation_says_nothing_of_where_people_begin():
    model, (fixations, stimuli) = built(), tables()
    before = model.start.clone()
    one = fixations[(fixations["fixation"] > 0) | (fixations["trial"] == fixations["trial"].iloc[0])]
    model.prepare_fit((make_batch([s]) for s in STIMULI), one, stimuli, "made_up")
    assert torch.equal(model.start, before)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dropout": 1.0}, r"dropout is 1\.0, expected a share from 0 to below 1"),
        ({"find_weight": -1.0}, r"find_weight is -1\.0, expected a number of 0 or more"),
        ({"fixations_per_stimulus": 0}, "fixations_per_stimulus is 0, expected a whole number of 1 or more"),
        ({"lr": -1e-3}, r"lr is -0\.001, expected a number above 0"),
    ],
)
def test_numbers_out_of_range_are_said(options, message):
    with pytest.raises(InputError, match=message):
        create_model("codebook", **{**SMALL, **options})
