"""Each metric against its definition, written slowly and another way."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from metric_scenes import Scene, make_scene
from sklearn.metrics import roc_auc_score

from gazekit.density import fixation_density, to_density
from gazekit.metrics import METRICS, auc, auc_judd, cc, kld, nss, shuffled_auc, sim

# Both sides are float64: only the order of summation may differ.
EXACT = {"rtol": 1e-11, "atol": 1e-12}


def fixated_pixels(scene: Scene, trial: int) -> list[tuple[int, int, int]]:
    """(step, row, column) of the valid fixations."""
    steps = [k for k, keep in enumerate(scene.valid[trial].tolist()) if keep]
    return [(k, int(scene.xy_px[trial, k, 1]), int(scene.xy_px[trial, k, 0])) for k in steps]


def z(smap: np.ndarray, row: int, column: int) -> float:
    return (smap[row, column] - np.mean(smap)) / np.std(smap)


def rank(value: float, negatives: np.ndarray) -> float:
    """Share of pairs won, one at a time."""
    return np.mean([1.0 if value > other else 0.5 if value == other else 0.0 for other in np.ravel(negatives)])


def judd(smap: np.ndarray, pixels: list[tuple[int, int]]) -> float:
    """The published loop, without jitter and with ties counted at each threshold."""
    fixated = np.array([smap[p] for p in pixels])
    mask = np.ones(smap.shape, bool)
    for p in pixels:
        mask[p] = False
    negatives = smap[mask]
    points = [(np.mean(negatives >= t), np.mean(fixated >= t)) for t in sorted(fixated, reverse=True)]
    corners = itertools.pairwise([(0.0, 0.0), *points, (1.0, 1.0)])
    return sum((x1 - x0) * (y0 + y1) / 2 for (x0, y0), (x1, y1) in corners)


def density(smap: np.ndarray) -> np.ndarray:
    smap = smap - min(smap.min(), 0.0)
    return smap / smap.sum() if smap.sum() > 0 else np.full(smap.shape, 1 / smap.size)


def oracle_of_trial(name: str, scene: Scene, b: int) -> float:
    pixels = fixated_pixels(scene, b)
    smap, empirical, steps = scene.maps[b].numpy(), scene.empirical[b].numpy(), scene.steps[b].numpy()
    logp, base = scene.log_density[b].numpy(), scene.baseline[b].numpy()
    pairs = list(zip(density(smap).ravel(), density(empirical).ravel(), strict=True))
    others = smap[scene.other_xy_px[:, 1].long().numpy(), scene.other_xy_px[:, 0].long().numpy()]
    eps = 2.2204e-16
    return {
        "nss": lambda: np.mean([z(smap, r, c) for _, r, c in pixels]),
        "auc": lambda: np.mean([rank(smap[r, c], smap) for _, r, c in pixels]),
        "auc_judd": lambda: judd(smap, [(r, c) for _, r, c in pixels]),
        "sauc": lambda: np.mean([rank(smap[r, c], others) for _, r, c in pixels]),
        "cc": lambda: np.corrcoef(smap.ravel(), empirical.ravel())[0, 1],
        "sim": lambda: sum(min(p, q) for p, q in pairs),
        "kld": lambda: sum(q * np.log(eps + q / (p + eps)) for p, q in pairs),
        "ll": lambda: np.mean([logp[r, c] for _, r, c in pixels]),
        "ig": lambda: np.mean([np.log2(np.exp(logp[r, c]) / np.exp(base[r, c])) for _, r, c in pixels]),
        "cnss": lambda: np.mean([z(np.exp(steps[k]), r, c) for k, r, c in pixels]),
        "cauc": lambda: np.mean([rank(steps[k, r, c], steps[k]) for k, r, c in pixels]),
        "cig": lambda: np.mean([np.log2(np.exp(steps[k, r, c] - base[r, c])) for k, r, c in pixels]),
    }[name]()


def oracle(name: str, scene: Scene) -> np.ndarray:
    return np.array([oracle_of_trial(name, scene, b) for b in range(len(scene.maps))])


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("size_hw", [(1, 7), (13, 29), (31, 8)])
@pytest.mark.parametrize("name", METRICS)
def test_definition(name, size_hw, ties):
    scene = make_scene(seed=3, size_hw=size_hw, ties=ties)
    np.testing.assert_allclose(scene.score(name), oracle(name, scene), **EXACT)


@pytest.mark.parametrize("kind", ["gaussian", "ties", "skewed", "one bin", "infinite", "subnormal", "half"])
@pytest.mark.parametrize("n_fixations", [3, 24, 25, 200])
def test_counting_many_pixels(kind, n_fixations):
    """Every way of counting, on a map large enough for all of them, against sorting in float64."""
    rng = np.random.default_rng(5)
    height, width = 230, 310
    smap = rng.standard_normal((height, width)).astype(np.float32)
    if kind == "ties":
        smap = np.round(smap * 3)
    elif kind == "skewed":
        smap = np.exp(smap * 6)
    elif kind == "one bin":
        smap[0, 0] = 1e30
    elif kind == "infinite":
        smap[:100] = -np.inf
    elif kind == "subnormal":
        smap = np.round(smap * 300) * np.float32(1e-45)
    elif kind == "half":
        smap = smap.astype(np.float16)
    xy_px = torch.from_numpy(rng.random((1, n_fixations, 2)) * [width, height])
    valid = torch.ones(1, n_fixations, dtype=torch.bool)
    ordered = np.sort(smap.astype(np.float64), axis=None)
    values = smap[xy_px[0, :, 1].long(), xy_px[0, :, 0].long()].astype(np.float64)
    low, high = np.searchsorted(ordered, values, "left"), np.searchsorted(ordered, values, "right")
    expected = np.mean((low + high) / 2) / smap.size
    for dtype in (torch.from_numpy(smap).dtype, torch.float64):
        got = auc(torch.from_numpy(smap)[None].to(dtype), xy_px, valid)
        # Counts are exact; only the mean rounds.
        assert got.item() == pytest.approx(expected, abs=1e-13)


@pytest.mark.parametrize("ties", [False, True])
def test_roc_auc_score(ties):
    scene = make_scene(seed=8, ties=ties)
    for b in range(len(scene.maps)):
        smap = scene.maps[b].numpy()
        positives = np.array([smap[r, c] for _, r, c in fixated_pixels(scene, b)])
        others = smap[scene.other_xy_px[:, 1].long(), scene.other_xy_px[:, 0].long()]
        for name, negatives in (("auc", smap.ravel()), ("sauc", others)):
            labels = np.r_[np.ones(len(positives)), np.zeros(len(negatives))]
            expected = roc_auc_score(labels, np.r_[positives, negatives])
            # scikit-learn integrates a curve; the sum rounds differently.
            assert scene.score(name)[b].item() == pytest.approx(expected, abs=1e-12)


def test_pysaliency_maps():
    metrics = pytest.importorskip("pysaliency.metrics")
    scene = make_scene(seed=11)
    for b in range(len(scene.maps)):
        smap, empirical = scene.maps[b].numpy(), scene.empirical[b].numpy()
        xs, ys = scene.xy_px[b, scene.valid[b]].numpy().T
        one = scene.trials([b])
        with np.errstate(divide="ignore"):  # it takes the log of the pixel without density
            mit_kld = metrics.MIT_KLDiv(smap, empirical)
        pairs = (
            (one.score("nss"), metrics.NSS(smap, xs, ys).mean()),
            (one.score("cc"), metrics.CC(smap, empirical)),
            (one.score("sim"), metrics.SIM(smap, empirical)),
            (one.score("kld"), mit_kld),
            (kld(one.maps, one.empirical, "floor"), metrics.image_based_kl_divergence(smap, empirical)),
        )
        for got, expected in pairs:
            np.testing.assert_allclose(got.item(), expected, **EXACT)


@pytest.mark.parametrize("ties", [False, True])
def test_pysaliency_roc(ties, monkeypatch):
    pytest.importorskip("pysaliency")
    from pysaliency import roc

    # pysaliency 0.2.22 calls the name that NumPy 2.4 dropped.
    monkeypatch.setattr(np, "trapz", np.trapezoid, raising=False)
    scene = make_scene(seed=12, ties=ties)
    for b in range(len(scene.maps)):
        smap = scene.maps[b].numpy()
        pixels = [(r, c) for _, r, c in fixated_pixels(scene, b)]
        positives = np.array([smap[p] for p in pixels])
        mask = np.ones(smap.shape, bool)
        mask[tuple(np.transpose(pixels))] = False
        others = smap[scene.other_xy_px[:, 1].long(), scene.other_xy_px[:, 0].long()]
        one = scene.trials([b])
        pairs = (
            (one.score("auc"), roc.general_rocs_per_positive(positives, smap.ravel()).mean()),
            (one.score("sauc"), roc.general_rocs_per_positive(positives, others).mean()),
            (one.score("auc_judd"), roc.general_roc(positives, smap[mask], judd=1)[0]),
        )
        for got, expected in pairs:
            np.testing.assert_allclose(got.item(), expected, **EXACT)


@pytest.mark.parametrize("shift", [-0.3, 0.0, 2.0])
def test_densities_follow_to_density(shift):
    # Large enough that one map is summed in several blocks; one map is zero, one constant and negative.
    rng = np.random.default_rng(2)
    predicted = torch.from_numpy(rng.random((4, 190, 211))) + shift
    predicted[1], predicted[2] = 0.0, -3.0
    empirical = torch.from_numpy(rng.random((4, 190, 211)) ** 4)
    p, q = to_density(predicted), to_density(empirical)
    np.testing.assert_allclose(sim(predicted, empirical), torch.minimum(p, q).sum((1, 2)), **EXACT)
    eps = 2.2204e-16
    expected = (q * torch.log(eps + q / (p + eps))).sum((1, 2))
    np.testing.assert_allclose(kld(predicted, empirical), expected, **EXACT)
    np.testing.assert_allclose(
        cc(predicted, empirical)[[0, 3]],
        [np.corrcoef(predicted[i].ravel(), empirical[i].ravel())[0, 1] for i in (0, 3)],
        **EXACT,
    )


def test_perfect_prediction():
    scene = make_scene(seed=4)
    empirical = fixation_density(scene.xy_px, scene.valid, (29, 13), sigma_px=2.0)
    # Rounding of sums of 377 terms near one.
    np.testing.assert_allclose(cc(empirical, empirical), np.ones(4), atol=1e-13)
    np.testing.assert_allclose(sim(empirical, empirical), np.ones(4), atol=1e-13)
    np.testing.assert_allclose(kld(empirical, empirical, "floor"), np.zeros(4), atol=1e-13)
    assert (nss(empirical, scene.xy_px, scene.valid) > 1).all()


def test_shuffled_auc_with_negatives_per_trial():
    scene = make_scene(seed=6, n_trials=3)
    rng = np.random.default_rng(0)
    others = torch.from_numpy(rng.random((3, 12, 2)) * [29, 13])
    kept = torch.from_numpy(rng.random((3, 12)) < 0.6)
    for shared in (False, True):
        maps = scene.maps[:1].expand(3, -1, -1) if shared else scene.maps
        got = shuffled_auc(maps, scene.xy_px, scene.valid, others, kept)
        expected = [oracle("sauc", scene.with_(maps=maps, other_xy_px=others[b, kept[b]]))[b] for b in range(3)]
        np.testing.assert_allclose(got, expected, **EXACT)


def test_auc_judd_exceeds_rank_only_by_its_gaps():
    # A fixation on every level leaves no gap between thresholds: both definitions agree, but for negatives.
    smap = torch.tensor([[[0.0, 0.0, 1.0, 1.0, 2.0, 2.0]]])
    xy_px = torch.tensor([[[0.0, 0.0], [2.0, 0.0], [4.0, 0.0]]])
    valid = torch.ones(1, 3, dtype=torch.bool)
    # By hand: one positive and one negative per level.
    assert auc_judd(smap, xy_px, valid).item() == pytest.approx(0.5, abs=1e-14)
