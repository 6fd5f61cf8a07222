"""What holds for every metric: laws of batches, of fixations, of precision, and of edge cases."""

from __future__ import annotations

import importlib
import warnings

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from metric_scenes import Scene, make_scene

import gazekit.metrics as gm
from gazekit.density import normalize_log_density
from gazekit.errors import InputError
from gazekit.metrics import METRICS, compiled
from gazekit.metrics.auc import _count_by_sort

CLASSES = {
    "nss": gm.NSS,
    "auc": gm.AUC,
    "auc_judd": gm.AUCJudd,
    "sauc": gm.ShuffledAUC,
    "cc": gm.CC,
    "sim": gm.SIM,
    "kld": gm.KLD,
    "ll": gm.LogLikelihood,
    "ig": gm.InformationGain,
    "cnss": gm.ConditionalNSS,
    "cauc": gm.ConditionalAUC,
    "cig": gm.ConditionalInformationGain,
}
WITH_FIXATIONS = [name for name, info in METRICS.items() if info.needs != "empirical"]
CONDITIONAL = [name for name, info in METRICS.items() if info.needs == "conditional"]
RANKS = ["auc", "auc_judd", "sauc"]
DIFFERENTIABLE = ["nss", "ll", "ig", "cc", "sim", "kld", "cnss", "cig"]
# The same float64 sums in another order.
SAME = {"rtol": 1e-11, "atol": 1e-12, "equal_nan": True}


def close(got: torch.Tensor, expected: torch.Tensor, **tolerance) -> None:
    torch.testing.assert_close(got, expected, **{**SAME, **tolerance})


def test_every_metric_has_a_class():
    assert set(CLASSES) == set(METRICS)
    for name, info in METRICS.items():
        assert info.name == name
        assert CLASSES[name].higher_is_better is info.higher_is_better
        assert CLASSES[name].is_differentiable is (name in DIFFERENTIABLE)


def test_unknown_name():
    with pytest.raises(InputError, match="no metric named 'nsss'; did you mean 'nss'"):
        METRICS["nsss"]
    assert "nsss" not in METRICS


@pytest.mark.parametrize("name", METRICS)
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 2**16), ties=st.booleans())
def test_batch_is_loop(name, seed, ties):
    scene = make_scene(seed, ties=ties)
    one_by_one = torch.cat([scene.trials([b]).score(name) for b in range(4)])
    close(scene.score(name), one_by_one)


@pytest.mark.parametrize("name", WITH_FIXATIONS)
def test_padding_is_ignored(name):
    scene = make_scene(1)
    for b in range(4):
        keep = scene.valid[b]
        one = scene.trials([b])
        short = one.with_(xy_px=one.xy_px[:, keep], valid=one.valid[:, keep], steps=one.steps[:, keep])
        close(one.score(name), short.score(name))
    # What stands in the padding is never read.
    noise = scene.with_(xy_px=scene.xy_px.masked_fill(~scene.valid[..., None], torch.nan))
    if name in CONDITIONAL:
        noise = noise.with_(steps=scene.steps.masked_fill(~scene.valid[..., None, None], torch.nan))
    close(noise.score(name), scene.score(name), rtol=0, atol=0)


@pytest.mark.parametrize("name", WITH_FIXATIONS)
def test_order_of_fixations(name):
    scene = make_scene(2)
    order = [3, 0, 4, 1, 2]
    moved = scene.with_(xy_px=scene.xy_px[:, order], valid=scene.valid[:, order], steps=scene.steps[:, order])
    close(moved.score(name), scene.score(name))


@pytest.mark.parametrize("name", ["cnss", "cauc", "cig"])
def test_each_step_scores_its_own_fixation(name):
    scene = make_scene(2)
    assert not torch.allclose(scene.with_(steps=scene.steps.flip(1)).score(name), scene.score(name))


@pytest.mark.parametrize("name", WITH_FIXATIONS)
def test_swapped_axes_fail(name):
    scene = make_scene(3, n_trials=6)
    scene.xy_px[0, 0] = torch.tensor([28.0, 0.0])  # x runs further than y does
    with pytest.raises(InputError, match="outside the 29x13 px map"):
        scene.with_(xy_px=scene.xy_px.flip(-1)).score(name)


@pytest.mark.parametrize("name", ["nss", "cc"])
def test_affine_invariance(name):
    scene = make_scene(4)
    # Adding 1e3 to values near one costs three of sixteen digits.
    close(scene.with_(maps=scene.maps * 7 + 1e3).score(name), scene.score(name), rtol=1e-9, atol=1e-9)
    close(scene.with_(maps=-scene.maps).score(name), -scene.score(name))


@pytest.mark.parametrize("name", RANKS)
def test_monotone_invariance(name):
    scene = make_scene(5, ties=True)
    close(scene.with_(maps=(scene.maps / 3).exp()).score(name), scene.score(name), rtol=0, atol=0)


@pytest.mark.parametrize("name", ["auc", "sauc", "cauc"])
def test_ranks_are_antisymmetric(name):
    scene = make_scene(5, ties=True)
    turned = scene.with_(maps=-scene.maps, steps=normalize_log_density(-scene.steps))
    # Renormalising may part ties by rounding, so only where it is not needed is this exact.
    close(turned.score(name), 1 - scene.score(name), atol=1e-12 if name != "cauc" else 1e-2, rtol=0)


@pytest.mark.parametrize("name", ["sim", "kld"])
def test_scale_invariance(name):
    scene = make_scene(6)
    positive = scene.with_(maps=scene.maps.exp())
    close(positive.with_(maps=positive.maps * 9, empirical=scene.empirical * 5).score(name), positive.score(name))


def test_argument_order():
    scene = make_scene(7)
    positive = scene.maps.exp()
    close(gm.cc(positive, scene.empirical), gm.cc(scene.empirical, positive))
    close(gm.sim(positive, scene.empirical), gm.sim(scene.empirical, positive))
    assert not torch.allclose(gm.kld(positive, scene.empirical), gm.kld(scene.empirical, positive))


def in_float32(scene: Scene) -> Scene:
    return Scene(**{k: v.float() if v.is_floating_point() else v for k, v in scene.__dict__.items()})


@pytest.mark.parametrize("name", METRICS)
def test_float32(name):
    scene = in_float32(make_scene(8))
    again = Scene(**{k: v.double() if v.is_floating_point() else v for k, v in scene.__dict__.items()})
    got = scene.score(name)
    assert got.dtype == torch.float64
    # The same numbers in both; only normalising the log-densities of the scene rounds in float32.
    exact = METRICS[name].needs in ("map", "empirical")
    close(got, again.score(name), **(SAME if exact else {"rtol": 0, "atol": 1e-6}))


def test_float32_with_a_large_offset():
    # In float32, the variance of these values would keep no digit.
    scene = make_scene(8)
    maps = (scene.maps + 1e4).float()
    close(gm.nss(maps, scene.xy_px, scene.valid), gm.nss(maps.double(), scene.xy_px, scene.valid))


@pytest.mark.parametrize("name", [n for n in METRICS if n not in CONDITIONAL])
def test_shared_map_equals_copies(name):
    scene = make_scene(9)
    first = scene.with_(maps=scene.maps[:1].expand(4, -1, -1), baseline=scene.baseline[:1].expand(4, -1, -1))
    arguments = [a.contiguous() for a in first.arguments(name)]
    assert first.maps.stride(0) == 0
    close(first.score(name), METRICS[name].function(*arguments))
    if METRICS[name].needs == "log_density":
        shared = [normalize_log_density(first.maps[:1]).expand(4, -1, -1), *first.arguments(name)[1:]]
        close(METRICS[name].function(*shared), METRICS[name].function(*arguments))


@pytest.mark.parametrize("name", ["cc", "sim", "kld"])
def test_shared_empirical_map(name):
    scene = make_scene(9)
    for maps in (scene.maps, scene.maps[:1].expand(4, -1, -1)):
        shared = scene.with_(maps=maps, empirical=scene.empirical[:1].expand(4, -1, -1))
        close(shared.score(name), METRICS[name].function(maps.contiguous(), shared.empirical.contiguous()))


@pytest.mark.parametrize("rows", ["trials", "steps", "both", "neither"])
@pytest.mark.parametrize("name", CONDITIONAL)
def test_static_model_expanded(name, rows):
    scene = make_scene(10)
    steps = {
        "trials": scene.steps[:1].expand(4, -1, -1, -1),
        "steps": scene.steps[:, :1].expand(-1, 5, -1, -1),
        "both": scene.steps[:1, :1].expand(4, 5, -1, -1),
        "neither": scene.steps,
    }[rows]
    baseline = scene.baseline[:, None].expand(-1, 5, -1, -1)
    for base in (baseline, baseline.contiguous(), scene.baseline):
        changed = scene.with_(steps=steps, baseline=base)
        close(changed.score(name), changed.with_(steps=steps.contiguous()).score(name))
    if rows == "steps":
        flat = {"cnss": "nss", "cauc": "auc", "cig": "ig"}[name]
        maps = steps[:, 0].exp() if name == "cnss" else steps[:, 0]
        close(scene.with_(steps=steps).score(name), scene.with_(maps=maps).score(flat))


# Where each metric does its work over whole maps.
HEAVY = {
    "nss": "gazekit.metrics.nss.moments",
    "auc": "gazekit.metrics.auc._count",
    "auc_judd": "gazekit.metrics.auc._count",
    "sauc": "gazekit.metrics.auc._count",
    "ll": "gazekit.metrics.information.blocks",
    "cc": "gazekit.metrics.distribution._CC",
    "sim": "gazekit.metrics.distribution._SIM",
    "cc, compiled": "gazekit.metrics.distribution._CC",
    "sim, compiled": "gazekit.metrics.distribution._SIM",
    "cnss": "gazekit.metrics.nss.moments",
    "cauc": "gazekit.metrics.auc._count",
}


def count_maps(case: str, scene: Scene, monkeypatch) -> int:
    """How many maps the metric works through."""
    path, attribute = HEAVY[case].rsplit(".", 1)
    name, _, way = case.partition(", ")
    owner = importlib.import_module(path)
    original, seen = getattr(owner, attribute), []

    def spied(function):
        def spy(maps, *args, **kwargs):
            seen.append(len(maps) if maps.ndim > 1 else 1)
            return function(maps, *args, **kwargs)

        return spy

    if way:
        pytest.importorskip("numba", reason="numba is not installed: there are no compiled passes")
        monkeypatch.setattr(compiled, "MIN_PIXELS", 1)
        spy = original._replace(prepare_row=spied(original.prepare_row))
    elif name in ("cc", "sim"):
        spy = original._replace(prepare=spied(original.prepare))
    else:
        spy = spied(original)
    monkeypatch.setattr(owner, attribute, spy)
    METRICS[name].function(*scene.arguments(name))
    monkeypatch.undo()
    return sum(seen)


@pytest.mark.parametrize("case", HEAVY)
def test_shared_map_is_worked_once(case, monkeypatch):
    scene, name = make_scene(9, n_trials=6), case.partition(", ")[0]
    other = 6 if METRICS[name].needs == "empirical" else 0  # the empirical maps
    if name == "ll":
        arguments = (scene.log_density[:1].expand(6, -1, -1), scene.xy_px, scene.valid)
        monkeypatch.setattr(Scene, "arguments", lambda self, name: arguments)
    shared = scene.with_(maps=scene.maps[:1].expand(6, -1, -1), steps=scene.steps[:1, :1].expand(6, 5, -1, -1))
    assert count_maps(case, shared, monkeypatch) == 1 + other


@pytest.mark.parametrize("name", ["cnss", "cauc"])
def test_padded_steps_cost_nothing(name, monkeypatch):
    # Maps so large that each is worked on alone.
    monkeypatch.setattr("gazekit.metrics.fixated._CPU_CHUNK", 13 * 29)
    scene = make_scene(10)
    assert count_maps(name, scene, monkeypatch) == scene.valid.sum() < scene.valid.numel()


@pytest.mark.parametrize("name", DIFFERENTIABLE)
@pytest.mark.parametrize("shared", [False, True])
def test_gradient(name, shared):
    scene = make_scene(12, n_trials=2, n_steps=2, size_hw=(2, 3))
    info = METRICS[name]
    raw = scene.steps if info.needs == "conditional" else scene.maps.exp()
    if shared:
        raw = raw[:1]
    raw = raw.detach().clone().requires_grad_()

    def score(leaf: torch.Tensor) -> torch.Tensor:
        full = leaf.expand(2, *leaf.shape[1:])
        if info.needs == "log_density" or info.needs == "conditional":
            full = normalize_log_density(leaf).expand(2, *leaf.shape[1:])
        return info.function(full, *scene.arguments(name)[1:])

    assert torch.autograd.gradcheck(score, (raw,))


def test_gradient_survives_padding_and_flat_maps():
    scene = make_scene(13)
    valid = scene.valid.clone()
    valid[0] = False
    maps = scene.maps.clone()
    maps[1] = 2.0
    for name in ("nss", "ll", "cnss"):
        leaf = (scene.steps if name == "cnss" else maps).clone().requires_grad_()
        density = leaf if name == "nss" else normalize_log_density(leaf)
        METRICS[name].function(density, scene.xy_px, valid).nansum().backward()
        assert leaf.grad.isfinite().all()


@pytest.mark.parametrize("name", WITH_FIXATIONS)
def test_trial_without_fixation(name):
    scene = make_scene(14)
    scene.valid[2] = False
    score = scene.score(name)
    assert score.isnan().tolist() == [False, False, True, False]
    assert scene.with_(valid=torch.zeros_like(scene.valid)).score(name).isnan().all()


@pytest.mark.parametrize("name", METRICS)
def test_empty_batch_and_empty_scanpaths(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scene = make_scene(14)
        assert scene.trials(slice(0, 0)).score(name).shape == (0,)
        if name in WITH_FIXATIONS:
            empty = scene.with_(xy_px=scene.xy_px[:, :0], valid=scene.valid[:, :0], steps=scene.steps[:, :0])
            assert empty.score(name).isnan().tolist() == [True] * 4


@pytest.mark.parametrize("value", [0.0, 0.1, -3.7, 1e6 + 0.1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_constant_map(value, dtype):
    scene = make_scene(15).with_(maps=torch.full((4, 13, 29), value, dtype=dtype))
    assert scene.score("nss").tolist() == [0.0] * 4
    for name in RANKS:
        # Sums of halves; the trapezoid of the diagonal.
        close(scene.score(name), torch.full((4,), 0.5, dtype=torch.float64))
    assert scene.score("cc").isnan().all()
    assert scene.with_(maps=scene.empirical, empirical=scene.maps).score("cc").isnan().all()
    assert scene.score("sim").isfinite().all()
    assert scene.score("kld").isfinite().all()
    uniform = torch.full((4, 5, 13, 29), -np.log(13 * 29), dtype=torch.float64)
    assert scene.with_(steps=uniform).score("cnss").tolist() == [0.0] * 4
    assert scene.with_(steps=uniform).score("cauc").tolist() == [0.5] * 4


@pytest.mark.parametrize("xy", [(-0.4, 3.0), (3.0, -1e-9), (29.0, 3.0), (3.0, 13.0), (float("nan"), 3.0), (1e30, 3.0)])
@pytest.mark.parametrize("name", WITH_FIXATIONS)
def test_fixation_outside(name, xy):
    scene = make_scene(16)
    scene.valid[2, 1] = True
    scene.xy_px[2, 1] = torch.tensor(xy)
    with pytest.raises(InputError, match=r"trial 2, fixation 1: \(x, y\) = .* outside the 29x13 px map; scale"):
        scene.score(name)


def test_last_pixel_is_inside():
    smap = torch.zeros(1, 13, 29)
    smap[0, 12, 28] = 1.0
    xy_px = torch.tensor([[[28.99, 12.99]]])
    assert gm.auc(smap, xy_px, torch.tensor([[True]])).item() == pytest.approx(1 - 0.5 / (13 * 29))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", METRICS)
def test_broken_prediction(name, bad):
    scene = make_scene(17)
    scene.valid[2] = True
    scene.xy_px[2] = torch.tensor([5.5, 6.5])
    scene.maps[2, 6, 5] = bad
    scene.steps[2, 0, 6, 5] = bad
    if bad == float("inf") and name in RANKS:
        assert scene.score(name)[2] > 0.99  # infinite is merely the highest rank
        return
    message = "trial 2.*(not a log-density|holds NaN)"
    with pytest.raises(InputError, match=message):
        scene.score(name)


def test_nan_away_from_the_fixations_is_found():
    scene = make_scene(17)
    scene.maps[3, 0, 0] = torch.nan
    scene.xy_px[3] = torch.tensor([5.5, 6.5])
    for name in ("nss", "auc", "auc_judd", "cc", "sim", "kld"):
        with pytest.raises(InputError, match=r"trial 3.*NaN"):
            scene.score(name)


@pytest.mark.parametrize("name", ["cc", "sim", "kld"])
def test_broken_empirical_map_is_nan(name):
    scene = make_scene(18)
    scene.empirical[1] = torch.nan
    scene.empirical[2, 3, 4] = torch.inf
    assert scene.score(name).isnan().tolist() == [False, True, True, False]


@pytest.mark.parametrize("name", ["ll", "ig", "cig"])
def test_zero_density_at_a_fixation(name):
    scene = make_scene(19)
    scene.valid[1, 0] = True
    scene.xy_px[1, 0] = torch.tensor([5.5, 6.5])
    scene.maps[1, 6, 5] = -torch.inf
    scene.steps[1, 0, 6, 5] = -torch.inf
    score = scene.with_(steps=normalize_log_density(scene.steps)).score(name)
    assert score[1].item() == -torch.inf
    assert score[[0, 2, 3]].isfinite().all()
    metric = CLASSES[name]()
    metric.update(*scene.with_(steps=normalize_log_density(scene.steps)).arguments(name))
    assert metric.compute().item() == -torch.inf
    assert metric.n_valid == 4


@pytest.mark.parametrize("name", ["ig", "cig"])
def test_baseline_without_density(name):
    scene = make_scene(19)
    scene.valid[1, 0] = True
    scene.xy_px[1, 0] = torch.tensor([5.5, 6.5])
    scene.baseline[1, 6, 5] = -torch.inf
    with pytest.raises(InputError, match="baseline_log_density is -inf at trial 1, fixation 0"):
        scene.with_(baseline=normalize_log_density(scene.baseline)).score(name)


@pytest.mark.parametrize("off", [0.002, -0.002])
@pytest.mark.parametrize("name", ["ll", "ig", "cnss", "cauc", "cig"])
def test_not_a_log_density(name, off):
    scene = make_scene(20)
    arguments = list(scene.arguments(name))
    arguments[0] = arguments[0].clone()
    arguments[0][1] += off
    with pytest.raises(
        InputError, match=r"log_density of trial 1, fixation 0: not a log-density: .*normalize_log_density"
    ):
        METRICS[name].function(*arguments)
    arguments[0][1] -= off * 0.8  # 4e-4 is within rounding
    METRICS[name].function(*arguments)


@pytest.mark.parametrize("name", ["ig", "cig"])
def test_baseline_is_checked_too(name):
    scene = make_scene(20)
    with pytest.raises(InputError, match="baseline_log_density of trial 0, fixation 0: not a log-density"):
        scene.with_(baseline=scene.baseline.exp()).score(name)
    with pytest.raises(InputError, match="resize_log_density"):
        scene.with_(baseline=scene.baseline[..., :-1]).score(name)


def test_shapes_and_types():
    scene = make_scene(21)
    with pytest.raises(InputError, match=r"saliency must be \(B, H, W\).*got \(13, 29\)"):
        gm.nss(scene.maps[0], scene.xy_px, scene.valid)
    with pytest.raises(InputError, match=r"valid \(B, T\) for B = 4 maps; got \(4, 5, 2\) and \(4, 4\)"):
        gm.nss(scene.maps, scene.xy_px, scene.valid[:, 1:])
    with pytest.raises(InputError, match="valid must be bool"):
        gm.nss(scene.maps, scene.xy_px, scene.valid.long())
    with pytest.raises(InputError, match=r"B = 3 maps"):
        gm.auc(scene.maps[:3], scene.xy_px, scene.valid)
    with pytest.raises(InputError, match="predicted and empirical must both be"):
        gm.cc(scene.maps, scene.empirical[:, 1:])
    with pytest.raises(InputError, match="regularization must be one of"):
        gm.kld(scene.maps, scene.empirical, "none")
    with pytest.raises(InputError, match="regularization must be one of"):
        gm.KLD("none")
    with pytest.raises(InputError, match=r"must be \(B, T, H, W\)"):
        gm.conditional_nss(scene.log_density, scene.xy_px, scene.valid)
    with pytest.raises(InputError, match="has 4 steps but xy_px has 5"):
        gm.conditional_auc(scene.steps[:, 1:], scene.xy_px, scene.valid)
    with pytest.raises(InputError, match="baseline_log_density must be"):
        gm.conditional_information_gain(scene.steps, scene.baseline[0], scene.xy_px, scene.valid)
    others = scene.other_xy_px.clone()
    others[7, 0] = 29.0
    with pytest.raises(InputError, match=r"negatives of trial 0, fixation 7: .*outside"):
        gm.shuffled_auc(scene.maps, scene.xy_px, scene.valid, others)
    with pytest.raises(InputError, match="of other images"):
        gm.shuffled_auc(scene.maps, scene.xy_px, scene.valid, scene.other_xy_px[:, :1])
    with pytest.raises(InputError, match="must be real"):
        gm.nss(scene.maps.to(torch.complex128), scene.xy_px, scene.valid)


def test_integer_maps():
    scene = make_scene(21, ties=True)
    whole = scene.with_(maps=scene.maps.long())
    for name in ("nss", "auc", "auc_judd", "sauc", "cc", "sim", "kld"):
        close(whole.score(name), scene.score(name), rtol=0, atol=0)


def test_shuffled_auc_without_negatives():
    scene = make_scene(22)
    none = torch.zeros(40, dtype=torch.bool)
    assert gm.shuffled_auc(scene.maps, scene.xy_px, scene.valid, scene.other_xy_px, none).isnan().all()


def test_auc_judd_without_negatives():
    smap, valid = torch.tensor([[[1.0, 2.0]]]), torch.ones(1, 2, dtype=torch.bool)
    assert gm.auc_judd(smap, torch.tensor([[[0.0, 0.0], [1.0, 0.0]]]), valid).isnan().all()


def test_negatives_shared_or_per_trial_agree():
    scene = make_scene(22)
    each = scene.other_xy_px.expand(4, -1, -1)
    for others in (each, each.contiguous()):
        close(gm.shuffled_auc(scene.maps, scene.xy_px, scene.valid, others), scene.score("sauc"))


def test_the_sort_used_on_accelerators():
    rng = np.random.default_rng(1)
    sample = torch.from_numpy(rng.integers(0, 9, 200).astype(np.float32))
    below, equal = _count_by_sort(sample, torch.tensor([-1.0, 3.0, 3.0, 8.0, 9.0]))
    assert below.tolist() == [int((sample < v).sum()) for v in (-1, 3, 3, 8, 9)]
    assert equal.tolist() == [int((sample == v).sum()) for v in (-1, 3, 3, 8, 9)]


@pytest.mark.parametrize("name", METRICS)
def test_class_is_the_mean_over_valid_trials(name):
    scene = make_scene(23, n_trials=6)
    scene.valid[4] = False
    scene.empirical[4] = torch.nan
    score = scene.score(name)
    whole, split = CLASSES[name](), CLASSES[name]()
    whole.update(*scene.arguments(name))
    for rows in ([5, 0], [4], [1, 2, 3]):
        split.update(*scene.trials(rows).arguments(name))
    assert (int(whole.n_valid), int(whole.n_total)) == (5, 6)
    assert (int(split.n_valid), int(split.n_total)) == (5, 6)
    close(whole.compute(), score.nanmean())
    close(split.compute(), whole.compute())
    # Two ranks, each with some of the trials.
    left, right = CLASSES[name](), CLASSES[name]()
    left.update(*scene.trials([0, 1, 2, 3]).arguments(name))
    right.update(*scene.trials([4, 5]).arguments(name))
    left.merge_state(right)
    close(left.compute(), whole.compute())
    assert (int(left.n_valid), int(left.n_total)) == (5, 6)


@pytest.mark.parametrize("name", METRICS)
def test_class_with_nothing_valid(name):
    scene = make_scene(24)
    metric = CLASSES[name]()
    metric.update(
        *scene.with_(valid=torch.zeros_like(scene.valid), empirical=scene.empirical * torch.nan).arguments(name)
    )
    assert metric.compute().isnan()
    assert (int(metric.n_valid), int(metric.n_total)) == (0, 4)
    metric.reset()
    assert int(metric.n_total) == 0


def test_class_options_reach_the_function():
    scene = make_scene(25)
    metric = gm.KLD(regularization="floor")
    metric.update(scene.maps, scene.empirical)
    close(metric.compute(), gm.kld(scene.maps, scene.empirical, "floor").mean())
    assert not torch.isclose(metric.compute(), gm.kld(scene.maps, scene.empirical).mean())


@pytest.mark.parametrize("name", METRICS)
def test_accelerator_agrees(name):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    scene = make_scene(26, size_hw=(120, 290))
    moved = Scene(**{k: v.cuda() for k, v in scene.__dict__.items()})
    # float64 on both; only the order of summation differs.
    close(moved.score(name).cpu(), scene.score(name), atol=1e-10, rtol=1e-10)


def test_long_lists_of_positions():
    """Positions are looked up in pieces; the seams must not show."""
    rng = np.random.default_rng(3)
    scene = make_scene(27)
    others = torch.from_numpy(rng.random((40_000, 2)) * [29, 13])
    row, column = others[:, 1].long(), others[:, 0].long()
    values = scene.maps[0][row, column]
    mine = scene.maps[0, 6, 5]
    expected = ((values < mine).double().mean() + 0.5 * (values == mine).double().mean()).item()
    at, valid = torch.tensor([[[5.5, 6.5]]]), torch.ones(1, 1, dtype=torch.bool)
    # Counts are exact; two divisions round.
    assert gm.shuffled_auc(scene.maps[:1], at, valid, others).item() == pytest.approx(expected, abs=1e-14)
    others[39_000, 0] = -1.0
    with pytest.raises(InputError, match="fixation 39000: "):
        gm.shuffled_auc(scene.maps[:1], at, valid, others)


def test_nan_among_the_negatives():
    scene = make_scene(28)
    column, row = scene.other_xy_px[4].long().tolist()
    scene.maps[1, row, column] = torch.nan
    with pytest.raises(InputError, match=r"trial 1.*holds NaN"):
        scene.score("sauc")


def test_message_gives_the_sum_of_the_map_it_names():
    scene = make_scene(29)
    maps = scene.log_density
    maps[0] += 5.0
    maps[1] += np.log(2.0)
    valid = scene.valid.clone()
    valid[0] = False
    with pytest.raises(InputError, match=r"trial 1, .* sum to 2, not 1"):
        gm.log_likelihood(maps, scene.xy_px, valid)


@pytest.mark.parametrize("metric", [gm.cc, gm.sim, gm.kld])
def test_one_shared_map_against_many_equals_copies_of_it_at_any_size(metric):
    """Large enough for several blocks per map and several maps per block: their cuts must agree."""
    generator = torch.Generator().manual_seed(3)
    for height, width in ((30, 41), (300, 401)):
        one = torch.rand(1, height, width, generator=generator)
        many = torch.rand(5, height, width, generator=generator)
        # The same float64 sums over other blocks.
        torch.testing.assert_close(
            metric(one.expand(5, -1, -1), many), metric(one.repeat(5, 1, 1), many), rtol=1e-12, atol=0
        )
        torch.testing.assert_close(
            metric(many, one.expand(5, -1, -1)), metric(many, one.repeat(5, 1, 1)), rtol=1e-12, atol=0
        )
