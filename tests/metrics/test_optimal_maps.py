"""The map for each metric: what it is, and that it wins in its metric when fixations come from the density."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from scipy.optimize import linprog
from torch import Tensor

from gazekit.density import fixation_density, normalize_log_density
from gazekit.errors import InputError
from gazekit.metrics import auc, auc_judd, cc, kld, nss, optimal_maps, shuffled_auc, sim
from gazekit.metrics.optimal_maps import saliency_map_for

NAMES = ["auc", "auc_judd", "sauc", "nss", "cc", "kld", "sim"]
SIGMA_PX = 2.5
N_FIXATIONS = 25


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def hills(*hills_px: tuple[float, float, float, float]) -> Tensor:
    """(1, 30, 44) sum of Gaussians given as x, y, SD, height."""
    y, x = torch.arange(30.0, dtype=torch.float64)[:, None], torch.arange(44.0, dtype=torch.float64)
    return sum(h * torch.exp(-((x - a) ** 2 + (y - b) ** 2) / (2 * s**2)) for a, b, s, h in hills_px)[None]


CENTER = hills((22, 15, 9, 1))
CENTERBIAS = normalize_log_density((CENTER + 0.02).log())
LOG_DENSITY = normalize_log_density((hills((9, 8, 1.5, 2), (33, 20, 3, 1), (24, 12, 1, 3)) + 0.1 * CENTER + 0.01).log())
OPTIONS = {"centerbias": CENTERBIAS, "sigma_px": SIGMA_PX, "n_fixations": N_FIXATIONS}


def draw(log_density: Tensor, *shape: int, seed: int) -> Tensor:
    """Fixations from a density, at the centers of their pixels."""
    n = int(np.prod(shape))
    place = torch.multinomial(log_density.exp().flatten(), n, replacement=True, generator=seeded(seed))
    return (torch.stack([place % 44, place // 44], -1) + 0.5).double().view(*shape, 2)


@pytest.fixture(scope="module")
def scores() -> dict[tuple[str, str], Tensor]:
    """(metric, map) -> scores of 300 trials, higher being better, of every map in every metric."""
    xy_px = draw(LOG_DENSITY, 300, N_FIXATIONS, seed=1)
    fixations = (xy_px, torch.ones(xy_px.shape[:2], dtype=torch.bool))
    others = draw(CENTERBIAS, 2000, seed=2)
    empirical = fixation_density(*fixations, (44, 30), SIGMA_PX)
    maps = {name: saliency_map_for(name, LOG_DENSITY, **OPTIONS) for name in NAMES}
    maps["log-density"] = LOG_DENSITY
    functions = {
        "auc": lambda m: auc(m, *fixations),
        "auc_judd": lambda m: auc_judd(m, *fixations),
        "sauc": lambda m: shuffled_auc(m, *fixations, others),
        "nss": lambda m: nss(m, *fixations),
        "cc": lambda m: cc(m, empirical),
        "kld": lambda m: -kld(m, empirical),
        "sim": lambda m: sim(m, empirical),
    }
    return {
        (metric, name): function(smap.expand(300, -1, -1))
        for metric, function in functions.items()
        for name, smap in maps.items()
    }


# Maps that share an order (AUC), or that the definition makes the same.
SAME = {
    "auc": {"auc_judd", "nss", "log-density"},
    "auc_judd": {"auc", "nss", "log-density"},
    "nss": {"auc", "auc_judd"},
    "cc": {"kld"},
    "kld": {"cc"},
}


@pytest.mark.parametrize("metric", NAMES)
def test_the_map_for_a_metric_wins_in_it(scores, metric):
    own = scores[metric, metric]
    for other in [*NAMES, "log-density"]:
        gain = own - scores[metric, other]
        if other == metric or other in SAME.get(metric, ()):
            assert gain.abs().max() < 1e-9  # an order is kept, up to ties by rounding
            continue
        standard_error = gain.std() / len(gain) ** 0.5
        if (metric, other) == ("cc", "sim"):  # both are near the best for CC
            assert gain.mean() > -3 * standard_error
        else:
            # Paired over trials; all of these are 9 and more.
            assert gain.mean() > 5 * standard_error


def test_gains_over_the_plain_density_are_worth_it(scores):
    """Half of what a run of 300 trials gave, so that a map that is only nearly right shows."""
    for metric, least in {"sauc": 0.015, "cc": 0.08, "kld": 0.08, "sim": 0.05}.items():
        assert (scores[metric, metric] - scores[metric, "nss"]).mean() > least
    # The optimised map for SIM is better than the blurred density, the best guess without optimising.
    assert (scores["sim", "sim"] - scores["sim", "cc"]).mean() > 0.005


def test_density_maps():
    for name in ("nss", "auc", "auc_judd"):
        assert torch.equal(saliency_map_for(name, LOG_DENSITY), LOG_DENSITY.exp())


def test_ratio():
    got = saliency_map_for("sauc", LOG_DENSITY, CENTERBIAS)
    ratio = LOG_DENSITY.exp() / CENTERBIAS.exp()
    torch.testing.assert_close(got, ratio / ratio.max(), rtol=1e-12, atol=0)
    # A ratio beyond float32 is no matter.
    steep = normalize_log_density(-200 * (1 - CENTER.float() / CENTER.max()))
    got = saliency_map_for("sauc", LOG_DENSITY.float(), steep.float())
    assert got.isfinite().all()
    assert got.max() == 1.0
    # Without any density there is nothing to look for.
    holes = normalize_log_density(LOG_DENSITY.masked_fill(CENTER > 0.5, -torch.inf))
    assert (saliency_map_for("sauc", holes, CENTERBIAS)[CENTER > 0.5] == 0).all()
    assert torch.equal(saliency_map_for("nss", holes), holes.exp())


@pytest.mark.parametrize("name", ["cc", "kld"])
def test_blurred(name):
    density = LOG_DENSITY.exp()[0].numpy()
    expected = gaussian_filter(density, SIGMA_PX, mode="nearest", truncate=4)
    got = saliency_map_for(name, LOG_DENSITY, sigma_px=SIGMA_PX)[0]
    np.testing.assert_allclose(got, expected / expected.sum(), rtol=1e-11, atol=1e-15)  # sums in another order


def test_blurred_is_the_empirical_density_of_very_many_fixations():
    xy_px = draw(LOG_DENSITY, 1, 200_000, seed=3)
    empirical = fixation_density(xy_px, torch.ones(xy_px.shape[:2], dtype=torch.bool), (44, 30), SIGMA_PX)
    blurred = saliency_map_for("kld", LOG_DENSITY, sigma_px=SIGMA_PX)
    assert kld(blurred, empirical).item() < 1e-3


def sampled(log_density: Tensor, sigma_px: float, n_fixations: int, n_samples: int, seed: int) -> Tensor:
    """(n_samples, H, W) empirical densities as drawn for SIM: each uniform number finds its pixel by itself."""
    height, width = log_density.shape[-2:]
    uniform = torch.rand(n_samples, n_fixations, generator=seeded(seed), dtype=torch.float64).numpy()
    edges = np.cumsum(log_density.exp().double().numpy().ravel())
    place = np.array([[int(np.sum(edges <= u * edges[-1])) for u in row] for row in uniform])
    xy_px = torch.from_numpy(np.stack([place % width, place // width], -1) + 0.5)
    return fixation_density(xy_px, torch.ones(place.shape, dtype=torch.bool), (width, height), sigma_px)


def best_sim(densities: np.ndarray) -> float:
    """Highest mean SIM of any density with these, as a linear programme: t <= p, t <= q, p sums to one."""
    n_samples, n_pixels = densities.shape
    n_shared = n_samples * n_pixels
    cost = np.concatenate([np.zeros(n_pixels), np.full(n_shared, -1 / n_samples)])
    below = np.hstack([np.tile(-np.eye(n_pixels), (n_samples, 1)), np.eye(n_shared)])
    total = np.concatenate([np.ones(n_pixels), np.zeros(n_shared)])[None]
    bounds = [(0, None)] * n_pixels + [(0, q) for q in densities.ravel()]
    return -linprog(cost, A_ub=below, b_ub=np.zeros(n_shared), A_eq=total, b_eq=[1.0], bounds=bounds).fun


@pytest.mark.parametrize(("n_samples", "n_fixations"), [(1, 3), (2, 1), (6, 4), (9, 2)])
@pytest.mark.parametrize("seed", [0, 1])
def test_best_for_sim_is_the_optimum_of_the_sample(n_samples, n_fixations, seed):
    log_density = normalize_log_density(torch.randn(1, 5, 7, generator=seeded(seed), dtype=torch.float64) * 2)
    best = saliency_map_for(
        "sim", log_density, sigma_px=0.8, n_fixations=n_fixations, n_samples=n_samples, generator=seeded(seed)
    )
    densities = sampled(log_density[0], 0.8, n_fixations, n_samples, seed)
    got = torch.minimum(best, densities).sum((1, 2)).mean().item()
    # Samples are built in single precision.
    assert got == pytest.approx(best_sim(densities.flatten(1).numpy()), abs=1e-6)
    assert best.sum().item() == pytest.approx(1.0, abs=1e-12)
    assert (best >= 0).all()


def test_best_for_sim_in_pieces(monkeypatch):
    whole = saliency_map_for("sim", LOG_DENSITY, **OPTIONS, n_samples=30)
    monkeypatch.setattr(optimal_maps, "_CHUNK", 30 * 44 * 7)  # bands of 7 rows, the last one of 2
    monkeypatch.setattr(optimal_maps, "_IN_CACHE", 4 * 25 * 44)  # 4 samples at a time, the last 2
    # Only float32 products may sum in another order.
    torch.testing.assert_close(
        saliency_map_for("sim", LOG_DENSITY, **OPTIONS, n_samples=30), whole, rtol=1e-4, atol=1e-9
    )


def test_best_for_sim_of_many_fixations_is_the_blurred_density():
    blurred = saliency_map_for("cc", LOG_DENSITY, sigma_px=SIGMA_PX)
    distance = [
        1 - sim(saliency_map_for("sim", LOG_DENSITY, sigma_px=SIGMA_PX, n_fixations=n, n_samples=40), blurred).item()
        for n in (5, 50, 1000)
    ]
    assert distance == sorted(distance, reverse=True)
    assert distance[-1] < 0.03 < distance[0]


def test_best_for_sim_with_one_possible_place():
    # All samples are one: the map is that, and no 0 / 0 appears.
    log_density = torch.full((1, 9, 12), -torch.inf)
    log_density[0, 4, 5] = 0.0
    best = saliency_map_for("sim", log_density, sigma_px=1.0, n_fixations=3, n_samples=20)
    xy_px = torch.tensor([[[5.0, 4.0]]])
    expected = fixation_density(xy_px, torch.ones(1, 1, dtype=torch.bool), (12, 9), 1.0, torch.float32)
    torch.testing.assert_close(best, expected, rtol=1e-5, atol=1e-9)


def test_seeds():
    before = torch.get_rng_state()
    first = saliency_map_for("sim", LOG_DENSITY, **OPTIONS, n_samples=20)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(saliency_map_for("sim", LOG_DENSITY, **OPTIONS, n_samples=20, generator=seeded(0)), first)
    assert not torch.equal(saliency_map_for("sim", LOG_DENSITY, **OPTIONS, n_samples=20, generator=seeded(1)), first)


@pytest.mark.parametrize("name", NAMES)
def test_batches_shapes_and_types(name):
    options = {**OPTIONS, "n_samples": 10}
    both = torch.cat([LOG_DENSITY, CENTERBIAS])
    pair = saliency_map_for(name, both, **{**options, "centerbias": CENTERBIAS.expand(2, -1, -1)})
    assert pair.shape == both.shape
    # One after the other with the same stream of random numbers.
    source = seeded()
    for one, expected in zip(both, pair, strict=True):
        got = saliency_map_for(name, one[None], **options, generator=source)
        torch.testing.assert_close(got[0], expected, rtol=1e-12, atol=0)
    assert (pair >= 0).all()
    if name != "sauc":
        torch.testing.assert_close(pair.sum((1, 2)), torch.ones(2, dtype=torch.float64), rtol=1e-12, atol=0)
    # A static model stays one map.
    shared = saliency_map_for(
        name, LOG_DENSITY.expand(5, -1, -1), **{**options, "centerbias": CENTERBIAS.expand(5, -1, -1)}
    )
    assert shared.shape == (5, 30, 44)
    assert shared.stride(0) == 0
    torch.testing.assert_close(shared[4], pair[0], rtol=1e-12, atol=0)
    single = saliency_map_for(name, LOG_DENSITY.float(), **options)
    assert single.dtype == torch.float32
    # exp of a number near 10 costs a digit of seven; a sampled place may move to the next pixel.
    torch.testing.assert_close(single.double(), pair[:1], rtol=1e-4 if name != "sim" else 0.5, atol=1e-6)
    empty = saliency_map_for(name, LOG_DENSITY[:0], **{**options, "centerbias": CENTERBIAS[:0]})
    assert empty.shape == (0, 30, 44)


@pytest.mark.parametrize("name", ["nss", "auc", "sauc", "cc", "kld"])
def test_differentiable(name):
    log_density = LOG_DENSITY.clone().requires_grad_()
    saliency_map_for(name, log_density, **OPTIONS)[0, 5, 5].backward()
    assert log_density.grad.isfinite().all()
    assert log_density.grad[0, 5, 5] > 0


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("ig", {}, "'ig' scores the log-density itself"),
        ("ll", {}, "'ll' scores the log-density itself"),
        ("sims", {}, "no map for the metric named 'sims'; did you mean 'sim'"),
        ("nss", {"log_density": LOG_DENSITY.exp()}, "log_density of trial 0 is not a log-density.* sum to"),
        ("nss", {"log_density": LOG_DENSITY * 1e4}, "is not a log-density"),
        ("nss", {"log_density": LOG_DENSITY.masked_fill(CENTER > 0.9, torch.nan)}, "sum to nan"),
        ("nss", {"log_density": LOG_DENSITY[0]}, r"log_density must be \(B, H, W\) natural logs"),
        ("nss", {"log_density": LOG_DENSITY.long()}, "natural logs; got torch.int64"),
        ("nss", {"log_density": torch.cat([LOG_DENSITY, LOG_DENSITY + 1])}, "log_density of trial 1"),
        ("sauc", {"centerbias": None}, "needs centerbias"),
        ("sauc", {"centerbias": CENTERBIAS.exp()}, "centerbias of trial 0 is not a log-density"),
        ("sauc", {"centerbias": CENTERBIAS.expand(2, -1, -1)}, "expand one that serves all trials"),
        ("sauc", {"centerbias": normalize_log_density(CENTERBIAS[:, 1:])}, "resize_log_density"),
        (
            "sauc",
            {"centerbias": normalize_log_density(CENTERBIAS.masked_fill(CENTER > 0.9, -torch.inf))},
            "mix it with a uniform density first",
        ),
        ("cc", {"sigma_px": None}, "the map for 'cc' needs sigma_px.* got None"),
        ("kld", {"sigma_px": 0.0}, "needs sigma_px.* got 0.0"),
        ("sim", {"sigma_px": float("nan")}, "needs sigma_px"),
        ("sim", {"n_fixations": None}, "needs n_fixations, at least 1; got None"),
        ("sim", {"n_fixations": 0}, "needs n_fixations, at least 1; got 0"),
        ("sim", {"n_samples": 0}, "needs n_samples, at least 1; got 0"),
    ],
)
def test_input_errors(name, change, message):
    arguments = {"log_density": LOG_DENSITY, **OPTIONS, **change}
    with pytest.raises(InputError, match=message):
        saliency_map_for(name, **arguments)
