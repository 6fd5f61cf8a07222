"""Geometric path distances against SciPy, similaritymeasures and slow loops, and their laws."""

from __future__ import annotations

import copy
import math
import warnings
from functools import lru_cache

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from scipy.spatial.distance import directed_hausdorff as scipy_hausdorff

from gazekit.errors import InputError
from gazekit.metrics import path_distance
from gazekit.metrics.path_distance import (
    DTW,
    DirectedHausdorff,
    DiscreteFrechet,
    Euclidean,
    Eyenalysis,
    Hausdorff,
    MannanDistance,
    MannanSimilarity,
    directed_hausdorff,
    discrete_frechet,
    dtw,
    euclidean,
    eyenalysis,
    hausdorff,
    mannan_distance,
    mannan_similarity,
)
from gazekit.metrics.path_pairs import Paths, pairwise, prefix
from tests.conftest import REAL_DATA, needs_osie

IMAGE = (800.0, 600.0)
# Function, parameters, class.
CASES = {
    "dtw": (dtw, {}, DTW),
    "dtw_mean": (dtw, {"normalize": True}, DTW),
    "frechet": (discrete_frechet, {}, DiscreteFrechet),
    "directed": (directed_hausdorff, {}, DirectedHausdorff),
    "hausdorff": (hausdorff, {}, Hausdorff),
    "truncated": (euclidean, {}, Euclidean),
    "resampled": (euclidean, {"unequal": "resample"}, Euclidean),
    "eyenalysis": (eyenalysis, {}, Eyenalysis),
    "eyenalysis_mean": (eyenalysis, {"normalize": "sum"}, Eyenalysis),
    "mannan": (mannan_distance, {"size_wh_px": IMAGE}, MannanDistance),
    "mannan_index": (mannan_similarity, {"size_wh_px": IMAGE, "n_random": 200}, MannanSimilarity),
}
IN_PX = [name for name in CASES if not name.startswith("mannan")]
BLIND_TO_ORDER = ["directed", "hausdorff", "eyenalysis", "eyenalysis_mean", "mannan", "mannan_index"]
BEST = {name: 100.0 if name == "mannan_index" else 0.0 for name in CASES}
# Both sides are float64: sums of up to 30 distances of up to 1,000 px in another order; the index has its random
# reference in the denominator, good to 1e-14.
EXACT = {"rtol": 1e-12, "atol": 1e-10}


def score(name: str, *pair: torch.Tensor) -> torch.Tensor:
    function, parameters, _ = CASES[name]
    return function(*pair, **parameters)


def close(got, want, **tolerance) -> None:
    torch.testing.assert_close(got, want, equal_nan=True, **{**EXACT, **tolerance})


def path(*fixations: tuple[float, float]) -> tuple[torch.Tensor, torch.Tensor]:
    px = torch.tensor(fixations, dtype=torch.float64).reshape(1, -1, 2)
    return px, torch.ones(px.shape[:2], dtype=torch.bool)


P = path((0, 0), (1, 0), (2, 0))
Q = path((0, 1), (2, 1))


@pytest.mark.parametrize(
    ("found", "want"),
    [
        (lambda: dtw(*P, *Q), 3.4142136),
        # Three aligned pairs.
        (lambda: dtw(*P, *Q, normalize=True), 3.4142136 / 3),
        (lambda: discrete_frechet(*P, *Q), 1.4142136),
        (lambda: directed_hausdorff(*P, *Q), 1.4142136),
        (lambda: directed_hausdorff(*Q, *P), 1.0),
        (lambda: hausdorff(*P, *Q), 1.4142136),
        (lambda: eyenalysis(*P, *Q), 1.8047379),
        (lambda: eyenalysis(*P, *Q, normalize="sum"), 5.4142136 / 5),
        (lambda: mannan_distance(*P, *Q, size_wh_px=(10, 10)), 0.0763763),
        (lambda: euclidean(*P, *Q), (1 + math.sqrt(2)) / 2),
        # Q becomes (0, 1), (1, 1), (2, 1).
        (lambda: euclidean(*P, *Q, unequal="resample"), 1.0),
    ],
)
def test_golden(found, want):
    # The numbers are given with 7 digits.
    assert found().tolist() == [pytest.approx(want, rel=0, abs=6e-8)]


def test_order():
    there_and_back, there = path((0, 0), (4, 0), (0, 0)), path((0, 0), (4, 0), (4, 0))
    assert hausdorff(*there_and_back, *there).tolist() == [0]
    assert discrete_frechet(*there_and_back, *there).tolist() == [4]
    assert dtw(*there_and_back, *there).tolist() == [4]


def test_width_is_not_height():
    a, b = path((0, 0)), path((3, 4))
    assert mannan_distance(*a, *b, size_wh_px=(30, 40)).tolist() == [pytest.approx(0.1)]
    # A wide image has its random paths wide: the same distance is of another rank.
    wide, tall = (mannan_similarity(*path((0, 0)), *path((0, 300)), size_wh_px=wh) for wh in ((800, 20), (400, 400)))
    assert wide != tall


def random_pairs(seed: int, n_pairs: int, sizes: tuple[int, int] = (15, 11), lowest: int = 1, grid: bool = False):
    rng = np.random.default_rng(seed)
    sides = []
    for size in sizes:
        px = rng.integers(0, 3, (n_pairs, size, 2)) * 100.0 if grid else rng.uniform(0, IMAGE, (n_pairs, size, 2))
        sides += [torch.tensor(px), prefix(torch.tensor(rng.integers(lowest, size + 1, n_pairs)), size)]
    return sides


def fewest_cells(apart: np.ndarray) -> tuple[float, int]:
    """Cheapest sum, and the fewest cells among paths of that sum: the textbook loop on (sum, cells)."""
    n, m = apart.shape
    best = {}
    for i in range(n):
        for j in range(m):
            before = [best[c] for c in ((i - 1, j - 1), (i, j - 1), (i - 1, j)) if c in best]
            total, cells = min(before) if before else (0.0, 0)
            best[i, j] = (total + apart[i, j], cells + 1)
    return best[n - 1, m - 1]


def resampled(points: np.ndarray, size: int) -> np.ndarray:
    at = np.linspace(0, len(points) - 1, size)
    return np.stack([np.interp(at, np.arange(len(points)), points[:, axis]) for axis in (0, 1)], 1)


def slowly(name: str, a: np.ndarray, b: np.ndarray) -> float:
    """The definition for one pair, in NumPy."""
    apart = cdist(a, b)
    n, m = apart.shape
    near_a, near_b = apart.min(1), apart.min(0)
    if name in ("dtw", "dtw_mean"):
        total, cells = fewest_cells(apart)
        return total / cells if name == "dtw_mean" else total
    if name == "frechet":
        largest = np.full((n, m), np.inf)
        for i in range(n):
            for j in range(m):
                options = [largest[c] for c in ((i - 1, j - 1), (i, j - 1), (i - 1, j)) if min(c) >= 0]
                largest[i, j] = max(apart[i, j], min(options, default=0.0))
        return largest[-1, -1]
    if name == "directed":
        return scipy_hausdorff(a, b)[0]
    if name == "hausdorff":
        return max(scipy_hausdorff(a, b)[0], scipy_hausdorff(b, a)[0])
    if name == "truncated":
        k = min(n, m)
        return np.linalg.norm(a[:k] - b[:k], axis=1).mean()
    if name == "resampled":
        k = max(n, m)
        return np.linalg.norm(resampled(a, k) - resampled(b, k), axis=1).mean()
    if name.startswith("eyenalysis"):
        return (near_a.sum() + near_b.sum()) / (n + m if name == "eyenalysis_mean" else max(n, m))
    assert name == "mannan"
    return math.sqrt((n * (near_b**2).sum() + m * (near_a**2).sum()) / (2 * n * m * (IMAGE[0] ** 2 + IMAGE[1] ** 2)))


def check_with(oracle, name: str, a, av, b, bv, **tolerance) -> None:
    got = score(name, a, av, b, bv)
    want = [oracle(p[k].numpy(), q[o].numpy()) for p, k, q, o in zip(a, av, b, bv, strict=True)]
    close(got, torch.tensor(want, dtype=torch.float64), **tolerance)


@pytest.mark.parametrize("name", [name for name in CASES if name != "mannan_index"])
def test_definition(name):
    check_with(lambda a, b: slowly(name, a, b), name, *random_pairs(0, 500))
    # Ties, repeated fixations, and paths that cross.
    check_with(lambda a, b: slowly(name, a, b), name, *random_pairs(1, 200, (6, 7), grid=name != "dtw_mean"))


def test_ties_take_the_fewest_pairs():
    # Whole numbers, so that sums are exact and ties are ties.
    rng = np.random.default_rng(2)
    a, b = (torch.tensor(np.stack([rng.integers(0, 3, (300, 6)), np.zeros((300, 6))], -1)) for _ in range(2))
    valid = torch.ones(300, 6, dtype=torch.bool)
    check_with(lambda p, q: slowly("dtw_mean", p, q), "dtw_mean", a, valid, b, valid)
    close(score("dtw_mean", a, valid, b, valid), score("dtw_mean", b, valid, a, valid))


@pytest.mark.parametrize("name", ["dtw", "frechet"])
def test_similaritymeasures(name):
    library = pytest.importorskip("similaritymeasures")
    oracle = {"dtw": lambda a, b: library.dtw(a, b)[0], "frechet": library.frechet_dist}[name]
    check_with(oracle, name, *random_pairs(3, 1000))


@lru_cache
def osie_pairs(n_pairs: int):
    from gazekit.datasets import PartialDataWarning, load

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PartialDataWarning)
        table = load("osie", root=REAL_DATA).fixations
    names = table["stimulus"].drop_duplicates()[:40]
    groups = [g for _, g in table[table["stimulus"].isin(names)].groupby("trial", sort=False)]
    longest = max(map(len, groups))
    px = torch.tensor(np.stack([np.pad(g[["x_px", "y_px"]], ((0, longest - len(g)), (0, 0))) for g in groups]))
    valid = prefix(torch.tensor([len(g) for g in groups]), longest)
    i = torch.randperm(len(groups), generator=torch.Generator().manual_seed(0))[:n_pairs]
    j = (i // 15) * 15 + (i + 1) % 15  # another subject on the same image
    return px[i], valid[i], px[j], valid[j]


@needs_osie
@pytest.mark.parametrize("name", [name for name in CASES if name != "mannan_index"])
def test_definition_on_real_pairs(name):
    check_with(lambda a, b: slowly(name, a, b), name, *osie_pairs(200))


@needs_osie
def test_people_look_at_the_same_places():
    pairs = osie_pairs(500)
    similarity = mannan_similarity(*pairs, size_wh_px=IMAGE)
    assert 35 < similarity.mean() < 60
    assert (similarity > 0).double().mean() > 0.9


def test_mannan_index_is_the_distance_relative_to_random_paths():
    rng = np.random.default_rng(4)
    for n, m in ((1, 1), (3, 7), (7, 3), (10, 10)):
        draws = [slowly("mannan", *(rng.uniform(0, IMAGE, (k, 2)) for k in (n, m))) for _ in range(3000)]
        a, b = (torch.tensor(rng.uniform(0, IMAGE, (1, k, 2))) for k in (n, m))
        pair = (a, torch.ones(1, n, dtype=torch.bool), b, torch.ones(1, m, dtype=torch.bool))
        distance = mannan_distance(*pair, size_wh_px=IMAGE).item()
        got = mannan_similarity(*pair, size_wh_px=IMAGE, n_random=3000).item()
        reference = distance / (1 - got / 100)
        # Two means of 3,000 independent draws each (6,000 on our side): five standard errors.
        assert reference == pytest.approx(np.mean(draws), abs=5 * np.std(draws) * math.sqrt(1 / 3000 + 1 / 3000))


def test_mannan_index_of_chance_is_zero():
    rng = np.random.default_rng(5)
    a, b = (torch.tensor(rng.uniform(0, IMAGE, (4000, k, 2))) for k in (6, 9))
    valid = torch.ones(4000, 9, dtype=torch.bool)
    got = mannan_similarity(a, valid[:, :6], b, valid, size_wh_px=IMAGE)
    # Of our sample of 4,000 and of the reference of at least 1,000.
    assert got.mean().item() == pytest.approx(0, abs=5 * got.std().item() * math.sqrt(1 / 4000 + 1 / 1000))


def test_mannan_index_is_seeded():
    pair = random_pairs(6, 40)
    path_distance._mannan_of_random_paths.cache_clear()
    want = mannan_similarity(*pair, size_wh_px=IMAGE, n_random=50)
    path_distance._mannan_of_random_paths.cache_clear()
    state = torch.get_rng_state()
    close(mannan_similarity(*pair, size_wh_px=IMAGE, n_random=50, seed=0), want, rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.allclose(mannan_similarity(*pair, size_wh_px=IMAGE, n_random=50, seed=1), want)
    # Longer paths beside it leave a pair's score as it is: 40 fixations need a larger table.
    a, av, b, bv = pair
    more = torch.cat([a, torch.rand(40, 40, 2, dtype=torch.float64)], 1)
    valid = torch.cat([av, torch.zeros(40, 40, dtype=torch.bool)], 1)
    long = torch.ones(1, 55, dtype=torch.bool)
    both = mannan_similarity(
        torch.cat([more, more[:1]]), torch.cat([valid, long]), torch.cat([b, b[:1]]), torch.cat([bv, bv[:1]]),
        size_wh_px=IMAGE, n_random=50,
    )  # fmt: skip
    close(both[:-1], want)


@pytest.mark.parametrize("name", CASES)
def test_identity_and_symmetry(name):
    a, av, b, bv = random_pairs(7, 200)
    assert (score(name, a, av, a, av) == BEST[name]).all()
    there, back = score(name, a, av, b, bv), score(name, b, bv, a, av)
    if name == "directed":
        assert not torch.allclose(there, back)
        close(torch.maximum(there, back), score("hausdorff", a, av, b, bv), rtol=0, atol=0)
    else:
        close(there, back)
    assert ((there < 100) if name == "mannan_index" else (there > 0)).all()


@pytest.mark.parametrize("name", CASES)
def test_invariances(name):
    a, av, b, bv = random_pairs(8, 150)
    want = score(name, a, av, b, bv)
    # Adding a power of two leaves rounding alone.
    close(score(name, a + 512, av, b + 512, bv), want)
    turned = score(name, a.flip(-1), av, b.flip(-1), bv)
    close(turned, want)
    if name in IN_PX:
        close(score(name, a * 4, av, b * 4, bv), want * 4)

    # Reversing both paths changes nothing where no path is cut short.
    def reverse(px, valid):
        rank = valid.sum(1, keepdim=True) - 1 - torch.arange(px.shape[1])
        return px.gather(1, rank.clamp(min=0)[..., None].expand_as(px))

    backwards = reverse(a, av), reverse(b, bv)
    reversed_both = score(name, backwards[0], av, backwards[1], bv)
    if name != "truncated":
        close(reversed_both, want)
    reversed_one = score(name, backwards[0], av, b, bv)
    if name in BLIND_TO_ORDER:
        close(reversed_one, want)
    else:
        assert (reversed_one != want).double().mean() > 0.5


def test_between_the_distances():
    pair = random_pairs(9, 300)
    far, frechet, summed, mean = (score(name, *pair) for name in ("hausdorff", "frechet", "dtw", "dtw_mean"))
    assert (far <= frechet + 1e-9).all()
    assert (frechet <= summed + 1e-9).all()
    assert (mean <= frechet + 1e-9).all()
    assert (score("directed", *pair) <= far).all()


@pytest.mark.parametrize("name", CASES)
def test_noise_makes_it_worse(name):
    rng = np.random.default_rng(10)
    a, valid, _, _ = random_pairs(10, 300)
    means = []
    for sigma_px in (0.0, 5.0, 20.0, 80.0, 320.0):
        noisy = a + torch.tensor(rng.normal(0, sigma_px, a.shape))
        means.append(score(name, a, valid, noisy, valid).mean())
    steps = torch.stack(means).diff()
    assert ((steps < 0) if name == "mannan_index" else (steps > 0)).all()


@pytest.mark.parametrize("name", CASES)
def test_batch_is_loop_and_padding_does_not_matter(name):
    a, av, b, bv = random_pairs(11, 60, lowest=0)
    want = score(name, a, av, b, bv)
    assert want.isnan().tolist() == (~(av.any(1) & bv.any(1))).tolist()
    assert 0 < want.isnan().sum() < 30
    for row in range(60):
        alone = a[[row]][:, av[row]], av[[row]][:, av[row]], b[[row]][:, bv[row]], bv[[row]][:, bv[row]]
        close(score(name, *alone)[0], want[row])
    filled = score(name, a.masked_fill(~av[..., None], math.nan), av, b.masked_fill(~bv[..., None], 1e9), bv)
    close(filled, want, rtol=0, atol=0)


@pytest.mark.parametrize("name", CASES)
def test_float32(name):
    a, av, b, bv = random_pairs(12, 300)
    got = score(name, a.float(), av, b.float(), bv)
    assert got.dtype == torch.float32
    # Positions of up to 800 px are rounded by up to 3e-5 px, and so is each step of sums of up to 26 terms that
    # reach 16,000 px (by 1e-3). The index divides by a reference and multiplies by 100.
    close(got.double(), score(name, a, av, b, bv), rtol=1e-5, atol=1e-3)
    whole = score(name, a.long(), av, b.long(), bv)
    assert whole.dtype == torch.float64
    close(whole, score(name, a.long().double(), av, b.long().double(), bv), rtol=0, atol=0)


@pytest.mark.parametrize("name", CASES)
def test_edges(name):
    one, other = path((10, 20)), path((13, 24))
    nothing = path()
    assert score(name, *one, *one).tolist() == [BEST[name]]
    if name in IN_PX:
        want = {"eyenalysis": 10.0}.get(name, 5.0)
        assert score(name, *one, *other).tolist() == [pytest.approx(want)]
        # Outside the screen is as good a place as any.
        assert score(name, *path((-10, -20)), *path((-13, -24))).tolist() == [pytest.approx(want)]
    for pair in ((one, nothing), (nothing, one), (nothing, nothing)):
        assert score(name, *pair[0], *pair[1]).isnan().all()
    still = path(*[(10, 20)] * 7)
    assert score(name, *still, *one).tolist() == [BEST[name]]
    assert score(name, *(t[:0] for t in (*one, *other))).shape == (0,)
    if name != "mannan_index":  # its reference alone compares 10^9 fixations
        long = torch.rand(1, 1000, 2, dtype=torch.float64)
        valid = torch.ones(1, 1000, dtype=torch.bool)
        assert score(name, long, valid, long, valid).tolist() == [0]
        assert score(name, long, valid, *one).isfinite().all()


@pytest.mark.parametrize("name", CASES)
def test_class_counts_and_averages(name):
    function, parameters, kind = CASES[name]
    a, av, b, bv = random_pairs(13, 90, lowest=0)
    whole = function(a, av, b, bv, **parameters)
    metric, other = kind(**parameters), kind(**parameters)
    for part, which in ((slice(0, 50), metric), (slice(50, 80), other), (slice(80, 90), metric)):
        which.update(a[part], av[part], b[part], bv[part])
    # Two processes: sums of sums.
    for state in ("total", "n_valid", "n_total"):
        setattr(metric, state, getattr(metric, state) + getattr(other, state))
    close(metric.compute(), whole.nanmean())
    assert metric.n_total == 90
    assert metric.n_valid == (~whole.isnan()).sum() < 90
    assert kind.higher_is_better is (name == "mannan_index")
    assert kind.is_differentiable is False
    close(copy.deepcopy(metric).compute(), metric.compute(), rtol=0, atol=0)


def test_pairwise():
    a, av, _, _ = random_pairs(14, 7, lowest=0)
    matrix = pairwise(dtw, Paths(a, av), symmetric=True, normalize=True)
    close(matrix, pairwise(dtw, Paths(a, av), normalize=True))
    directed = pairwise(directed_hausdorff, Paths(a, av))
    close(torch.maximum(directed, directed.T), pairwise(hausdorff, Paths(a, av), symmetric=True))


def test_input_errors():
    a, av, b, bv = random_pairs(15, 5)
    with pytest.raises(InputError, match="unequal must be 'truncate' or 'resample'; got 'cut'"):
        euclidean(a, av, b, bv, unequal="cut")
    with pytest.raises(InputError, match="normalize must be 'max' or 'sum'; got 'mean'"):
        eyenalysis(a, av, b, bv, normalize="mean")
    for metric in (mannan_distance, mannan_similarity):
        for size in ((0, 5), (5, math.nan), (5,), (math.inf, 5)):
            with pytest.raises(InputError, match="size_wh_px must be a positive width and height"):
                metric(a, av, b, bv, size_wh_px=size)
    with pytest.raises(InputError, match="n_random must be at least 1"):
        mannan_similarity(a, av, b, bv, size_wh_px=IMAGE, n_random=0)
    a[3, 0, 0] = math.nan
    for name in CASES:
        with pytest.raises(InputError, match="pair 3, fixation 0 of a_px"):
            score(name, a, av, b, bv)
