"""Laws that every registered model keeps; a model that is added to the registry is found by itself."""

from __future__ import annotations

import copy
import math
import pickle
import warnings
import zlib
from dataclasses import replace
from functools import lru_cache

import numpy as np
import pandas as pd
import pytest
import pytorch_lightning as L
import torch
from torch.nn import functional as F

from gazekit import InputError
from gazekit.backbones import Backbone
from gazekit.batch import SearchTask, TrialBatch
from gazekit.models import MODELS, GazeModel, create_model, load_model

# Constructor arguments for models that would otherwise look for weights, or be large.
_READOUT = {"weights": None, "members": 2, "hidden": 8}
# A narrow field: the maps are small.
_ECCNET = {"backbone": "mobilenetv2_100", "weights": None, "taps": ["blocks.2.0.bn1", "blocks.3.0.bn1"], "field_px": 40}
TINY_CLIP = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}
_SMALL = {"size_px": 32, "fovea": {"blur_kernel_px": 9, "blur_sigma_px": 3.0}, "search": {"iterations": 15}}
ARGUMENTS = {
    "saliency_readout": _READOUT,
    "next_fixation": {"static_args": _READOUT},
    "oat": {"width": 48, "n_heads": 2, "n_layers": 1, "hidden": 32, "crop_hw_px": [34, 34]},
    "codebook": {"weights": None},
    "eccnet": _ECCNET,
    "g_eymol": {"side_px": 48},
    "neva": {"task": "pixels", **_SMALL},
    "nevaclip": {"clip": TINY_CLIP, "weights": None, "fovea": _SMALL["fovea"], "search": _SMALL["search"]},
}

STIMULI = ("hill", "lake", "moor", "reef")
SUBJECTS = ("ann", "bob", "cem")
# Never square, so that a swap of x and y shows; one wide, one tall.
WIDE, TALL = (320, 240), (200, 264)
PX_PER_DVA_OF_WIDTH = 12.0 / 320.0

# Float32 sums over 77,000 pixels, around log-densities of -11: their rounding is a few 1e-6.
SUMS_TO_ONE = 1e-4
# The same float32 numbers in other batch shapes: matrix products and convolutions sum in another order.
REORDERED = {"rtol": 0.0, "atol": 2e-4}

every_model = pytest.mark.parametrize("name", sorted(MODELS))
CLASSES = {name: MODELS.load(name) for name in sorted(MODELS)}
trained_models = pytest.mark.parametrize(
    "name", [name for name, cls in CLASSES.items() if cls.training_step is not L.LightningModule.training_step]
)
# The others replay recorded scanpaths.
models_that_draw = pytest.mark.parametrize(
    "name", [name for name, cls in CLASSES.items() if cls.sample is GazeModel.sample or cls.is_scanpath()]
)


def rng_of(*parts):
    return np.random.default_rng(zlib.crc32("/".join(map(str, parts)).encode()))


def relative_path(stimulus, subject):
    """(n, 2) fixations in widths and heights; three to five, as the pair of names decides."""
    # People agree about an image, so that leaving one of them out of it matters.
    attractive = rng_of(stimulus).uniform(0.1, 0.9, (3, 2))
    rng = rng_of(stimulus, subject)
    where = rng.integers(0, 3, rng.integers(3, 6))
    return (attractive[where] + rng.normal(0.0, 0.03, (len(where), 2))).clip(0.0, 0.999)


def picture(stimulus, size_wh_px):
    width, height = size_wh_px
    coarse = torch.from_numpy(rng_of("picture", stimulus).random((1, 3, 6, 8))).float()
    return F.interpolate(coarse, (height, width), mode="bicubic", align_corners=False).clamp(0.0, 1.0)[0]


def make_batch(stimuli=STIMULI[:2], subjects=SUBJECTS, size_wh_px=WIDE, padding=0, trials=None):
    """A batch whose content depends on the names alone, however it is put together."""
    trials = [(s, who) for s in stimuli for who in subjects] if trials is None else trials
    paths = [relative_path(*trial) * size_wh_px for trial in trials]
    longest = max(map(len, paths)) + padding
    valid = torch.tensor([[t < len(path) for t in range(longest)] for path in paths])
    # What stands in the padding must not matter: a place far outside.
    xy = torch.full((len(paths), longest, 2), -1e6)
    for row, path in enumerate(paths):
        xy[row, : len(path)] = torch.from_numpy(path).float()
    return TrialBatch(
        stimulus=tuple(stimuli),
        size_wh_px=size_wh_px,
        px_per_dva=PX_PER_DVA_OF_WIDTH * size_wh_px[0],
        image=torch.stack([picture(s, size_wh_px) for s in stimuli]),
        features=None,
        stimulus_of_trial=torch.tensor([list(stimuli).index(s) for s, _ in trials]),
        subject=tuple(who for _, who in trials),
        trial=torch.tensor([STIMULI.index(s) * len(SUBJECTS) + SUBJECTS.index(who) for s, who in trials]),
        xy_px=xy,
        duration_s=valid.float() * 0.2,
        valid=valid,
        search=search_task([s for s, _ in trials]),
    )


def search_task(stimuli):
    """On each stimulus its own picture is searched for, whoever looks."""
    n, distinct = len(stimuli), list(dict.fromkeys(stimuli))
    return SearchTask(
        target=tuple(f"part of {s}" for s in stimuli),
        present=torch.ones(n, dtype=torch.bool),
        box_px=torch.zeros(n, 4),
        has_box=torch.zeros(n, dtype=torch.bool),
        start_xy_px=torch.zeros(n, 2),
        has_start=torch.zeros(n, dtype=torch.bool),
        max_saccades=torch.full((n,), -1),
        template=torch.stack([picture(f"part of {s}", (28, 24)) for s in distinct]),
        template_of_trial=torch.tensor([distinct.index(s) for s in stimuli]),
    )


def tables():
    rows = [
        (who, s, i * len(SUBJECTS) + j, k, x * WIDE[0], y * WIDE[1], np.nan, 0.2)
        for i, s in enumerate(STIMULI)
        for j, who in enumerate(SUBJECTS)
        for k, (x, y) in enumerate(relative_path(s, who))
    ]
    columns = ["subject", "stimulus", "trial", "fixation", "x_px", "y_px", "t_s", "duration_s"]
    stimuli = pd.DataFrame({"stimulus": STIMULI, "path": "", "width_px": WIDE[0], "height_px": WIDE[1]})
    return pd.DataFrame(rows, columns=columns), stimuli


def build(name):
    """A model that is ready to predict, every trainable number moved off its starting value."""
    torch.manual_seed(3)
    model = create_model(name, **ARGUMENTS.get(name, {}))
    fixations, stimuli = tables()
    if model.fits_fixations:
        model.fit_fixations(fixations, stimuli, 12.0)
    else:
        model.prepare_fit((make_batch([s]) for s in STIMULI), fixations, stimuli, "made_up")
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                # Layers that start at zero would hide the history, and stop gradients.
                parameter.add_(0.2 * torch.randn_like(parameter))
    return model.eval()


@lru_cache(maxsize=16)
def built(name):
    """Shared by the tests that only look."""
    return build(name)


def mass(log_density):
    return log_density.double().flatten(-2).logsumexp(-1)


@torch.no_grad()
def log_density(name, batch):
    return built(name).log_density(batch)


@torch.no_grad()
def conditional(name, batch):
    return built(name).conditional_log_density(batch)


# Densities


@every_model
@pytest.mark.parametrize("size_wh_px", [WIDE, TALL])
def test_log_density_is_one_over_the_pixels(name, size_wh_px):
    batch = make_batch(size_wh_px=size_wh_px)
    got = log_density(name, batch)
    assert got.shape == (len(batch), size_wh_px[1], size_wh_px[0])
    assert got.isfinite().all()
    torch.testing.assert_close(mass(got), torch.zeros(len(batch), dtype=torch.double), rtol=0, atol=SUMS_TO_ONE)


@every_model
@pytest.mark.parametrize("size_wh_px", [WIDE, TALL])
def test_conditional_log_density_is_one_before_every_fixation(name, size_wh_px):
    batch = make_batch(size_wh_px=size_wh_px, padding=1)
    got = conditional(name, batch)
    assert got.shape == (*batch.valid.shape, size_wh_px[1], size_wh_px[0])
    at = mass(got)[batch.valid]
    assert got[batch.valid].isfinite().all()
    torch.testing.assert_close(at, torch.zeros_like(at), rtol=0, atol=SUMS_TO_ONE)


@every_model
def test_the_map_follows_what_the_model_looks_at(name):
    batch = make_batch(STIMULI[:2])
    got = log_density(name, batch)
    first, second = got[0], got[len(SUBJECTS)]
    if name == "uniform":
        assert got.unique().tolist() == pytest.approx([-math.log(WIDE[0] * WIDE[1])])
    elif name in ("center_search", "chance_search", "object_random", "object_center", "object_near_target"):
        assert torch.equal(first, second)
    else:
        # Another image gives another map, beyond any rounding.
        assert (first - second).abs().max() > 0.01
    if built(name).feature_spec(None) is not None:
        # The pixels decide, not the name; step 0 has no history.
        swapped = conditional(name, replace(batch, image=batch.image.flip(0)))[0, 0]
        torch.testing.assert_close(swapped, conditional(name, batch)[len(SUBJECTS), 0], **REORDERED)
    # One map per stimulus, unless the model says that it depends on who looks.
    same = torch.equal(got[0], got[1])
    assert same != built(name).per_subject


@every_model
def test_a_batch_equals_its_stimuli_one_by_one(name):
    together = make_batch(STIMULI[:3])
    maps, steps = log_density(name, together), conditional(name, together)
    for row, stimulus in enumerate(STIMULI[:3]):
        of = slice(row * len(SUBJECTS), (row + 1) * len(SUBJECTS))
        alone = make_batch([stimulus])
        at = steps[of, : alone.valid.shape[1]][alone.valid]
        torch.testing.assert_close(at, conditional(name, alone)[alone.valid], **REORDERED)
        torch.testing.assert_close(maps[of], log_density(name, alone), **REORDERED)


@every_model
def test_a_batch_equals_its_trials_one_by_one(name):
    together = make_batch(STIMULI[:1])
    maps, steps = log_density(name, together), conditional(name, together)
    for row in range(len(together)):
        alone = together.trials(row, row + 1)
        torch.testing.assert_close(maps[row : row + 1], log_density(name, alone), **REORDERED)
        torch.testing.assert_close(steps[row][alone.valid[0]], conditional(name, alone)[alone.valid], **REORDERED)


@every_model
def test_a_stimulus_without_trials_does_no_harm(name):
    together = make_batch(STIMULI[:2])
    first_only = together.trials(0, len(SUBJECTS))
    assert first_only.stimulus == STIMULI[:2]
    expected = log_density(name, make_batch(STIMULI[:1]))
    torch.testing.assert_close(log_density(name, first_only), expected, **REORDERED)


@every_model
def test_no_trials_have_no_maps_and_no_scanpaths(name):
    nobody = make_batch(padding=1).trials(0, 0)
    steps = nobody.valid.shape[1]
    assert log_density(name, nobody).shape == (0, WIDE[1], WIDE[0])
    assert conditional(name, nobody).shape == (0, steps, WIDE[1], WIDE[0])
    paths = sample(name, nobody, n=3, length=4)
    assert (paths.xy_px.shape, paths.valid.shape) == ((0, 3, 4, 2), (0, 3, 4))


@every_model
def test_the_order_of_trials_does_not_matter(name):
    trials = [(s, who) for s in STIMULI[:2] for who in SUBJECTS]
    # Interleaves the stimuli and reverses the subjects.
    order = [5, 0, 4, 2, 3, 1]
    straight, mixed = make_batch(trials=trials), make_batch(trials=[trials[i] for i in order])
    torch.testing.assert_close(log_density(name, straight)[order], log_density(name, mixed), **REORDERED)
    got, expected = conditional(name, mixed), conditional(name, straight)[order]
    torch.testing.assert_close(got[mixed.valid], expected[mixed.valid], **REORDERED)


@every_model
def test_padding_does_not_matter(name):
    short, long = make_batch(), make_batch(padding=3)
    steps = conditional(name, long)[:, : short.valid.shape[1]]
    torch.testing.assert_close(steps[short.valid], conditional(name, short)[short.valid], **REORDERED)
    torch.testing.assert_close(log_density(name, long), log_density(name, short), **REORDERED)


@every_model
def test_a_trial_without_fixations_still_has_a_map(name):
    batch = make_batch()
    valid = batch.valid.clone()
    valid[0] = False
    empty = replace(batch, valid=valid)
    torch.testing.assert_close(log_density(name, empty), log_density(name, batch), **REORDERED)
    torch.testing.assert_close(conditional(name, empty)[1:][valid[1:]], conditional(name, batch)[1:][valid[1:]])


@every_model
def test_only_the_past_moves_the_next_map(name):
    batch = make_batch(STIMULI[:1], SUBJECTS[:1])
    before = conditional(name, batch)
    n = int(batch.valid.sum())
    for t in range(n):
        moved = batch.xy_px.clone()
        moved[0, t] = torch.tensor(WIDE) - moved[0, t]
        after = conditional(name, replace(batch, xy_px=moved))
        # What comes later must not leak back, not even in the last bit.
        assert torch.equal(after[0, : t + 1], before[0, : t + 1]), f"fixation {t} changes a map before it"
        change = (after - before)[0, t + 1 : n].abs().amax((-2, -1))
        if built(name).is_scanpath():
            assert (change > 1e-3).all(), f"fixation {t} does not reach the maps after it: {change.tolist()}"
        else:
            assert (change == 0).all()


def test_a_mirrored_image_has_the_mirrored_map():
    """The readout averages over the image and its mirror image, so the two are treated alike."""
    model = build("saliency_readout")
    with torch.no_grad():
        model.log_prior.copy_((model.log_prior + model.log_prior.flip(-1)) / 2.0)
        batch = make_batch(STIMULI[:1])
        got = model.log_density(replace(batch, image=batch.image.flip(-1)))
        expected = model.log_density(batch).flip(-1)
    torch.testing.assert_close(got, expected, **REORDERED)
    # The image itself is not symmetric: without averaging the two would differ.
    assert (expected - expected.flip(-1)).abs().max() > 0.01


# Scanpaths


@torch.no_grad()
def sample(name, batch, seed=0, n=3, length=4):
    return built(name).sample(batch, n, length, torch.Generator().manual_seed(seed))


@every_model
@pytest.mark.parametrize("size_wh_px", [WIDE, TALL])
def test_samples_lie_in_the_image(name, size_wh_px):
    batch = make_batch(size_wh_px=size_wh_px)
    paths = sample(name, batch, n=5, length=7)
    assert paths.xy_px.shape == (len(batch), 5, 7, 2)
    assert paths.valid.shape == (len(batch), 5, 7)
    assert paths.valid.dtype == torch.bool
    assert paths.valid[..., 0].all()
    # Right-padded: nothing after the end.
    assert (paths.valid[..., 1:] <= paths.valid[..., :-1]).all()
    xy = paths.xy_px[paths.valid]
    assert (xy >= 0).all()
    assert (xy < torch.tensor(size_wh_px)).all()


@every_model
def test_samples_are_seeded(name):
    batch = make_batch()
    first, again, other = sample(name, batch), sample(name, batch), sample(name, batch, seed=1)
    assert torch.equal(first.xy_px, again.xy_px)
    assert torch.equal(first.valid, again.valid)
    assert torch.equal(first.xy_px, other.xy_px) == CLASSES[name].deterministic
    # The state of the global generator is neither used nor moved.
    torch.manual_seed(11)
    state = torch.get_rng_state()
    assert torch.equal(sample(name, batch).xy_px, first.xy_px)
    assert torch.equal(torch.get_rng_state(), state)


@every_model
def test_samples_do_not_look_at_the_batchs_fixations(name):
    batch = make_batch()
    moved = replace(batch, xy_px=torch.tensor(WIDE) - batch.xy_px)
    assert torch.equal(sample(name, moved).xy_px, sample(name, batch).xy_px)


@models_that_draw
def test_first_fixations_follow_the_density(name):
    batch = make_batch(STIMULI[:1], SUBJECTS[:1])
    n = 4000
    xy = sample(name, batch, n=n, length=1).xy_px[0, :, 0]
    share, _, _ = np.histogram2d(*xy.T.numpy()[::-1], bins=(4, 5), range=((0, WIDE[1]), (0, WIDE[0])))
    density = conditional(name, batch)[0, 0].double().exp().numpy()
    expected = density.reshape(4, WIDE[1] // 4, 5, WIDE[0] // 5).sum((1, 3))
    # Five standard errors of a share, and 0.01 for nodes drawn whole where the map is interpolated.
    np.testing.assert_array_less(np.abs(share / n - expected), 5 * np.sqrt(expected / n) + 0.01)


@every_model
def test_prediction_does_not_depend_on_the_rest_of_the_epoch(name):
    batch = make_batch(STIMULI[:1])
    model = built(name)
    first = model.predict_step(batch, 0)
    model.predict_step(make_batch(STIMULI[1:2]), 1)
    again = model.predict_step(batch, 2)
    assert first.xy_px.shape == (1, model.predict_paths, model.predict_length, 2)
    assert torch.equal(first.xy_px, again.xy_px)


# Training


def training_loss(model, batch):
    model.log = lambda *_, **__: None
    return model.training_step(batch, 0)


@every_model
def test_what_trains_has_a_training_step(name):
    """And what is fitted or fixed has no parameter that an optimiser would leave as it was."""
    trains = any(p.requires_grad for p in built(name).parameters())
    assert trains == (CLASSES[name].training_step is not L.LightningModule.training_step)


@trained_models
def test_every_trainable_parameter_gets_a_gradient(name):
    model = build(name).train()
    training_loss(model, make_batch(STIMULI[:3])).backward()
    trainable = {key: p for key, p in model.named_parameters() if p.requires_grad}
    for key, parameter in trainable.items():
        assert parameter.grad is not None, f"{key} gets no gradient"
        assert parameter.grad.isfinite().all(), f"{key} gets a gradient that is not finite"
        assert parameter.grad.abs().max() > 0, f"{key} gets a gradient of zero"
    frozen = [key for key, p in model.named_parameters() if p.grad is not None and key not in trainable]
    assert not frozen, f"frozen, yet with a gradient: {frozen}"


@trained_models
def test_a_step_lowers_the_loss(name):
    model, batch = build(name).train(), make_batch(STIMULI[:3])
    trainable = [p for p in model.parameters() if p.requires_grad]
    before = training_loss(model, batch)
    before.backward()
    # The same epoch draws the same dropout and nodes, so the loss is one function of the weights.
    assert torch.equal(training_loss(model, batch).detach(), before.detach())
    norm = torch.stack([p.grad.square().sum() for p in trainable]).sum().sqrt()
    with torch.no_grad():
        for parameter in trainable:
            parameter.sub_(1e-2 * parameter.grad / norm)
    # A step of length 0.01 down the gradient: first order must win over curvature.
    assert training_loss(model, batch) < before.detach() - 2e-3 * norm


@trained_models
def test_frozen_backbones_rest_while_training(name):
    backbones = [m for m in built(name).modules() if isinstance(m, Backbone)]
    if not backbones:
        pytest.skip(f"{name} has no backbone")
    model = build(name).train()
    backbone = next(m for m in model.modules() if isinstance(m, Backbone))
    assert model.training
    assert not any(m.training for m in backbone.modules())
    assert not any(p.requires_grad for p in backbone.parameters())
    for key, module in model.named_modules():
        parameters = list(module.parameters())
        if parameters and not any(p.requires_grad for p in parameters):
            assert not module.training, f"{key} is frozen, yet in training mode"
    before = copy.deepcopy(backbone.state_dict())
    training_loss(model, make_batch(STIMULI[:2])).backward()
    # Running means of batch normalisation are buffers: they would move without any gradient.
    for key, value in backbone.state_dict().items():
        assert torch.equal(value, before[key]), f"{key} moved"


@every_model
def test_cached_features_give_the_same_map(name):
    model = built(name)
    if model.feature_spec(None) is None:
        with pytest.raises(TypeError, match="no features"):
            model.encode(torch.zeros(1, 3, 64, 64))
        return
    batch = make_batch(STIMULI[:2])
    with torch.no_grad():
        cached = replace(batch, image=None, features=model.encode(batch.image))
    torch.testing.assert_close(log_density(name, cached), log_density(name, batch), **REORDERED)


# Checkpoints


def save(model, path):
    with warnings.catch_warnings():
        # Lightning advises about hardware and loggers, which is not the subject here.
        warnings.simplefilter("ignore")
        trainer = L.Trainer(accelerator="cpu", devices=1, logger=False, enable_checkpointing=False, max_epochs=1)
        trainer.strategy.connect(model)
        trainer.save_checkpoint(path)
    return path


@every_model
def test_a_checkpoint_restores_the_model(name, tmp_path):
    model = build(name)
    path = save(model, tmp_path / "model.ckpt")
    batch = make_batch(STIMULI[:2])
    with torch.no_grad():
        expected, steps = model.log_density(batch), model.conditional_log_density(batch)
    torch.manual_seed(99)  # nothing of the restored model may come from fresh random weights
    restored = load_model(path, expect=name)
    assert type(restored) is type(model)
    assert not restored.training
    with torch.no_grad():
        assert torch.equal(restored.log_density(batch), expected)
        assert torch.equal(restored.conditional_log_density(batch), steps)
    assert restored.provenance() == model.provenance()
    assert restored.feature_spec(WIDE) == model.feature_spec(WIDE)
    again, once = (m.sample(batch, 2, 3, torch.Generator().manual_seed(0)).xy_px for m in (restored, model))
    assert torch.equal(again, once)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("saliency_readout", {**_READOUT, "lr": 0.123, "members": 1}),
        ("next_fixation", {"static_args": {**_READOUT, "members": 1}, "lr": 0.123, "seed": 5}),
        ("shuffled_human", {"seed": 5}),
    ],
)
def test_a_checkpoint_restores_hyper_parameters(name, arguments, tmp_path):
    path = save(create_model(name, **arguments), tmp_path / "model.ckpt")
    restored = load_model(path)
    for key, value in arguments.items():
        if key not in ("weights", "static_args"):
            assert restored.hparams[key] == value
    readout = getattr(restored, "static", restored)
    assert getattr(readout, "members", 1) == 1


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A small whole checkpoint, to be damaged in copies."""
    return save(build("center_bias"), tmp_path_factory.mktemp("saved") / "whole.ckpt")


def refused(match, path, **kwargs):
    with pytest.raises(InputError, match=match) as caught:
        load_model(path, **kwargs)
    assert "\n" not in str(caught.value)


def test_unknown_model_names_the_nearest():
    with pytest.raises(InputError, match=r"no model named 'next_fixaton'; did you mean 'next_fixation'\? known: cent"):
        create_model("next_fixaton")
    # Nothing is near: no guess, but still everything that there is.
    with pytest.raises(InputError, match=r"no model named 'zzz'; known: .*uniform"):
        create_model("zzz")


def test_missing_checkpoint(tmp_path):
    refused(r"nowhere\.ckpt' does not exist; give a \.ckpt file or one of: .*center_bias", tmp_path / "nowhere.ckpt")
    refused("does not exist", tmp_path)  # a folder is no checkpoint


def test_checkpoint_of_another_model(saved):
    refused(r"checkpoint of model 'center_bias', expected 'human'", saved, expect="human")


@pytest.mark.parametrize("keep", [0, 10, 200, 0.5, -10])
def test_truncated_checkpoint(saved, tmp_path, keep):
    content = saved.read_bytes()
    path = tmp_path / "cut.ckpt"
    path.write_bytes(content[: int(keep * len(content)) if isinstance(keep, float) else keep])
    refused(r"cut\.ckpt: (not a readable checkpoint|holds more than)", path)


def test_checkpoint_that_is_a_text_file(tmp_path):
    path = tmp_path / "notes.ckpt"
    path.write_text("these are notes, not weights")
    refused(r"notes\.ckpt: ", path)


class _Opened:
    """Writes a file when it is unpickled, as a malicious checkpoint would."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return (open, (str(self.target), "w"))


@pytest.mark.parametrize("legacy", [False, True])
def test_checkpoint_with_a_pickled_object_is_not_run(tmp_path, legacy):
    path, touched = tmp_path / "evil.ckpt", tmp_path / "touched"
    content = {"gazekit_model": "uniform", "state_dict": {}, "hyper_parameters": _Opened(touched)}
    if legacy:
        path.write_bytes(pickle.dumps(content, protocol=2))
    else:
        torch.save(content, path)
    refused(r"evil\.ckpt: holds more than tensors and plain values", path)
    assert not touched.exists()


def test_checkpoint_of_other_software(tmp_path):
    for content in ({"state_dict": {}}, [1, 2], torch.zeros(3)):
        torch.save(content, tmp_path / "other.ckpt")
        refused(r"other\.ckpt: not a checkpoint written by gazekit", tmp_path / "other.ckpt")


def edited(path, out, **changes):
    checkpoint = torch.load(path, weights_only=True)
    torch.save({**checkpoint, **changes}, out)
    return out


def test_weights_that_do_not_fit(tmp_path, saved):
    refused(r"weights do not fit model 'uniform'", edited(saved, tmp_path / "a.ckpt", gazekit_model="uniform"))
    refused(
        r"no model named 'unifrom'; did you mean 'uniform'", edited(saved, tmp_path / "b.ckpt", gazekit_model="unifrom")
    )


@pytest.mark.parametrize("changes", [{"hyper_parameters": {"sigma": 1}}, {"gazekit_model": "saliency_readout"}])
def test_checkpoint_that_lacks_what_its_model_needs(tmp_path, saved, changes):
    """A name or argument edited by hand, or written by another version."""
    refused(r"odd\.ckpt: ", edited(saved, tmp_path / "odd.ckpt", **changes))
