"""Sequence score: golden numbers, loops as the oracle, the alphabet's rule, laws, edge cases and errors."""

from __future__ import annotations

import importlib
import itertools
import sys

import numpy as np
import pytest
import torch

from gazekit.errors import InputError
from gazekit.metrics.grid_strings import cluster_symbols, grid_symbols, label_symbols
from gazekit.metrics.sequence_score import (
    BANDWIDTH_FACTORS,
    GridSequenceScore,
    SequenceScore,
    SymbolSequenceScore,
    fit_alphabet,
    needleman_wunsch_symbols,
    semantic_sequence_score,
    sequence_score,
    sequence_score_symbols,
    ss_grid,
    stack_alphabets,
)

bits_module = importlib.import_module("gazekit.metrics.edit_distance")  # the package has a function of this name
module = importlib.import_module("gazekit.metrics.sequence_score")  # the package has a function of this name

GRID = {"size_wh_px": (40, 30), "bins_wh": (4, 3)}
# float64 sums of some dozen terms in the same order but for the last addition.
SAME = {"rtol": 1e-13, "atol": 1e-13}


def string(text):
    return torch.tensor([[ord(c) for c in text]], dtype=torch.long), torch.ones(1, len(text), dtype=torch.bool)


def strings(seed, n_pairs, longest, n_symbols, longest_b=None):
    rng = np.random.default_rng(seed)
    out = []
    for size in (longest, longest_b or longest):
        symbols = rng.integers(0, n_symbols, (n_pairs, size))
        valid = np.arange(size) < rng.integers(0, size + 1, n_pairs)[:, None]
        symbols[~valid] = rng.choice([0, -7, 10**9], (~valid).sum())
        out += [torch.from_numpy(symbols), torch.from_numpy(valid)]
    return out


def rows(symbols, valid):
    return [row[:n] for row, n in zip(symbols.tolist(), valid.sum(1).tolist(), strict=True)]


def random_paths(seed, n_pairs=50, longest=9):
    rng = np.random.default_rng(seed)
    out = []
    for _ in "ab":
        xy = rng.uniform(0, 1, (n_pairs, longest, 2)) * [40, 30]
        valid = np.arange(longest) < rng.integers(0, longest + 1, n_pairs)[:, None]
        xy[~valid] = np.nan
        out += [torch.from_numpy(xy), torch.from_numpy(valid)]
    return out


def oracle(a, b, score, gap, border):
    """The table, filled cell by cell; the port's border is i + 1 gaps."""
    extra = 1 if border == "port" else 0
    table = np.zeros((len(a) + 1, len(b) + 1))
    table[:, 0] = (np.arange(len(a) + 1) + extra) * gap
    table[0] = (np.arange(len(b) + 1) + extra) * gap
    for i, x in enumerate(a, 1):
        for j, y in enumerate(b, 1):
            table[i, j] = max(table[i - 1, j - 1] + score(x, y), table[i - 1, j] + gap, table[i, j - 1] + gap)
    return table[-1, -1]


@pytest.fixture(params=["bits", "table"])
def algorithm(request, monkeypatch):
    if request.param == "table":
        monkeypatch.setattr(module, "LONGEST_IN_BITS", -1)


def test_golden(algorithm):
    for a, b, expected in (("ABCD", "ACBD", 0.75), ("AABB", "AB", 0.5), ("ABCD", "ABCD", 1), ("ABCD", "EFG", 0)):
        assert sequence_score_symbols(*string(a), *string(b)).item() == expected


@pytest.mark.parametrize(("n_symbols", "longest"), [(2, 9), (5, 18), (4, 62), (4, 70)])
def test_longest_common_subsequence(algorithm, n_symbols, longest):
    a, av, b, bv = strings(0, 5000 // longest**2 + 50, longest, n_symbols)
    got = needleman_wunsch_symbols(a, av, b, bv)
    expected = [
        oracle(x, y, lambda p, q: float(p == q), 0.0, "standard") for x, y in zip(rows(a, av), rows(b, bv), strict=True)
    ]
    assert got.tolist() == expected
    share = sequence_score_symbols(a, av, b, bv)
    torch.testing.assert_close(share, got / torch.maximum(av.sum(1), bv.sum(1)), equal_nan=True, **SAME)


def test_rapidfuzz(algorithm):
    peer = pytest.importorskip("rapidfuzz.distance").LCSseq.similarity
    a, av, b, bv = strings(1, 5000, 18, 6)
    got = needleman_wunsch_symbols(a, av, b, bv)
    assert got.tolist() == [peer(x, y) for x, y in zip(rows(a, av), rows(b, bv), strict=True)]


@pytest.mark.parametrize("border", ["standard", "port"])
@pytest.mark.parametrize("gap", [0.0, -0.3, -2.0])
def test_any_costs(gap, border):
    rng = np.random.default_rng(2)
    a, av, b, bv = strings(2, 200, 8, 5, 11)
    table = rng.standard_normal((5, 5))  # not symmetric: swapped roles must show
    pairs = list(zip(rows(a, av), rows(b, bv), strict=True))
    got = needleman_wunsch_symbols(a, av, b, bv, substitution=torch.from_numpy(table), gap=gap, border=border)
    expected = [oracle(x, y, lambda p, q: table[p, q], gap, border) for x, y in pairs]
    np.testing.assert_allclose(got, expected, **SAME)
    got = needleman_wunsch_symbols(a, av, b, bv, match=1.5, mismatch=-0.7, gap=gap, border=border)
    expected = [oracle(x, y, lambda p, q: 1.5 if p == q else -0.7, gap, border) for x, y in pairs]
    np.testing.assert_allclose(got, expected, **SAME)
    assert needleman_wunsch_symbols(a, av, b, bv, substitution=torch.eye(5)).dtype == torch.float32


def test_paths_are_encoded_then_scored():
    a, av, b, bv = random_paths(3)
    x, y = (grid_symbols(*p, **GRID) for p in ((a, av), (b, bv)))
    expected = sequence_score_symbols(x, av, y, bv)
    torch.testing.assert_close(ss_grid(a, av, b, bv, **GRID), expected, equal_nan=True, **SAME)
    rng = np.random.default_rng(3)
    image = torch.from_numpy(rng.integers(0, 3, 50))
    clusters = {"centers_px": torch.from_numpy(rng.uniform(0, 30, (3, 4, 2))), "image": image}
    clusters["centers_valid"] = torch.arange(4) < torch.tensor([[4], [2], [3]])
    x, y = (cluster_symbols(*p, **clusters) for p in ((a, av), (b, bv)))
    expected = sequence_score_symbols(x, av, y, bv)
    torch.testing.assert_close(sequence_score(a, av, b, bv, **clusters), expected, equal_nan=True, **SAME)
    maps = {"labels": torch.from_numpy(rng.integers(0, 4, (3, 30, 40))), "image": image, "unlabelled": (0,)}
    x, y = (label_symbols(*p, **maps) for p in ((a, av), (b, bv)))
    expected = sequence_score_symbols(x, av, y, bv)
    torch.testing.assert_close(semantic_sequence_score(a, av, b, bv, **maps), expected, equal_nan=True, **SAME)


def test_identity_symmetry_and_empty_paths(algorithm):
    a, av, b, bv = random_paths(4, n_pairs=200)
    n, m = av.sum(1), bv.sum(1)
    got = ss_grid(a, av, b, bv, **GRID)
    torch.testing.assert_close(got, ss_grid(b, bv, a, av, **GRID), equal_nan=True, rtol=0, atol=0)
    own = ss_grid(a, av, a, av, **GRID)
    assert (own[n > 0] == 1).all()
    assert own[n == 0].isnan().all()
    one_empty, both = (n == 0) ^ (m == 0), (n == 0) & (m == 0)
    assert int(one_empty.sum()) > 10
    assert int(both.sum()) > 0
    assert (got[one_empty] == 0).all()
    assert torch.equal(got.isnan(), both)
    assert ((got[~both] >= 0) & (got[~both] <= 1)).all()
    assert ss_grid(a[:0], av[:0], b[:0], bv[:0], **GRID).shape == (0,)
    assert ss_grid(a[:, :0], av[:, :0], b, bv, **GRID)[m > 0].eq(0).all()


def test_batch_is_loop_and_padding_is_ignored(algorithm):
    a, av, b, bv = random_paths(5)
    got = ss_grid(a, av, b, bv, **GRID)
    for p in range(len(a)):
        x, y = a[p : p + 1, : av[p].sum()], b[p : p + 1, : bv[p].sum()]
        keep = [torch.ones(z.shape[:2], dtype=torch.bool) for z in (x, y)]
        torch.testing.assert_close(ss_grid(x, keep[0], y, keep[1], **GRID)[0], got[p], equal_nan=True, rtol=0, atol=0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bits_module, "_CPU_CHUNK", 1)
        torch.testing.assert_close(ss_grid(a, av, b, bv, **GRID), got, equal_nan=True, rtol=0, atol=0)
    single = ss_grid(a.float(), av, b.float(), bv, **GRID)
    assert single.dtype == torch.float32
    # One division is rounded to float32; the cells are the same unless a position was rounded across an edge.
    torch.testing.assert_close(
        single.double(),
        ss_grid(a.float().double(), av, b.float().double(), bv, **GRID),
        rtol=1e-7,
        atol=0,
        equal_nan=True,
    )


def test_a_thousand_fixations():
    peer = pytest.importorskip("rapidfuzz.distance").LCSseq.similarity
    rng = np.random.default_rng(6)
    a, b = (torch.from_numpy(rng.integers(0, 4, (1, 1000))) for _ in "ab")
    keep = torch.ones(1, 1000, dtype=torch.bool)
    assert needleman_wunsch_symbols(a, keep, b, keep).item() == peer(a[0].tolist(), b[0].tolist())
    assert sequence_score_symbols(a * 0, keep, b[:, :250] * 0, keep[:, :250]).item() == 0.25


def test_more_noise_lower_score():
    rng = np.random.default_rng(0)
    a = torch.from_numpy(rng.uniform(0, 1, (400, 10, 2)) * [40, 30])
    keep = torch.ones(400, 10, dtype=torch.bool)
    noise = torch.from_numpy(rng.standard_normal((400, 10, 2)))
    mean = [ss_grid(a, keep, a + s * noise, keep, **GRID).mean().item() for s in (0, 1, 3, 9, 27)]
    assert mean[0] == 1
    assert all(x > y for x, y in itertools.pairwise(mean))


def humans(seed=0, n_subjects=12):
    """Paths among three blobs, so that a good alphabet has three letters."""
    rng = np.random.default_rng(seed)
    blobs = np.array([[100, 100], [400, 120], [250, 400]])
    xy = blobs[rng.integers(0, 3, (n_subjects, 10))] + rng.normal(0, 12, (n_subjects, 10, 2))
    valid = np.arange(10) < rng.integers(6, 11, n_subjects)[:, None]
    xy[~valid] = np.nan
    return torch.from_numpy(xy), torch.from_numpy(valid)


def test_alphabet_rule():
    """The choice among the seven bandwidths, made again with scikit-learn and loops over saccades."""
    cluster = pytest.importorskip("sklearn.cluster")
    assert BANDWIDTH_FACTORS == (0.2, 0.5, 0.8, 1.0, 1.2, 1.5, 1.8)
    xy, valid = humans()
    got = fit_alphabet(xy, valid)
    pool = xy[valid].numpy()
    bandwidth = cluster.estimate_bandwidth(pool)
    scores = []
    for factor in BANDWIDTH_FACTORS:
        fitted = cluster.MeanShift(bandwidth=factor * bandwidth).fit(pool)
        between = within = 0
        for path, keep in zip(xy.numpy(), valid.numpy(), strict=True):
            letters = fitted.predict(path[keep])
            between += sum(x != y for x, y in itertools.pairwise(letters))
            within += sum(x == y for x, y in itertools.pairwise(letters))
        scores.append((between - within) / len(fitted.cluster_centers_))
        if factor == got.factor:
            np.testing.assert_array_equal(got.centers_px, fitted.cluster_centers_)
            chosen = fitted.predict(pool)
    assert got.score == max(scores)
    assert got.factor == BANDWIDTH_FACTORS[scores.index(max(scores))]
    assert got.bandwidth_px == got.factor * bandwidth
    assert len(got.centers_px) == 3
    assert len(set(scores)) > 2  # the rule had something to choose
    np.testing.assert_array_equal(cluster_symbols(xy, valid, centers_px=got.centers_px)[valid], chosen)


def test_alphabets_of_several_images():
    pytest.importorskip("sklearn")
    data = [humans(0), humans(1, 9)]
    alphabets = [fit_alphabet(*humans(0)), fit_alphabet(*humans(1, 9), factors=[0.2])]
    assert len(alphabets[0].centers_px) != len(alphabets[1].centers_px)
    centers, known = stack_alphabets(alphabets)
    assert known.sum(1).tolist() == [len(alphabet.centers_px) for alphabet in alphabets]
    xy = torch.cat([x for x, _ in data])
    valid = torch.cat([v for _, v in data])
    image = torch.tensor([0] * 12 + [1] * 9)
    other = torch.arange(21).roll(1)
    other[0], other[12] = 11, 20  # within the image
    got = sequence_score(xy, valid, xy[other], valid[other], centers_px=centers, centers_valid=known, image=image)
    for which, part in ((0, slice(0, 12)), (1, slice(12, 21))):
        alone = sequence_score(
            xy[part], valid[part], xy[other[part]], valid[other[part]], centers_px=alphabets[which].centers_px
        )
        assert torch.equal(got[part], alone)
    with pytest.raises(InputError, match="no alphabet"):
        stack_alphabets([])


def test_alphabet_errors(monkeypatch):
    pytest.importorskip("sklearn")
    xy, valid = humans()
    same = torch.ones(3, 9, 2)
    all_valid = torch.ones(3, 9, dtype=torch.bool)
    for call, message in (
        (lambda: fit_alphabet(same, all_valid), "27 fixations give no bandwidth"),
        (lambda: fit_alphabet(xy, valid & False), "0 fixations give no bandwidth"),
        (lambda: fit_alphabet(xy, valid, factors=[]), "one or more positive"),
        (lambda: fit_alphabet(xy, valid, factors=[-1.0]), "one or more positive"),
        (lambda: fit_alphabet(xy, valid | True), "is not finite"),
    ):
        with pytest.raises(InputError, match=message):
            call()
    monkeypatch.setitem(sys.modules, "sklearn.cluster", None)
    with pytest.raises(InputError, match="need scikit-learn: pip install scikit-learn; or use ss_grid"):
        fit_alphabet(xy, valid)


def test_classes():
    a, av, b, bv = random_paths(7, n_pairs=40)
    x, y = (grid_symbols(*p, **GRID) for p in ((a, av), (b, bv)))
    expected = sequence_score_symbols(x, av, y, bv)
    centers = torch.tensor([[5.0, 5.0], [30.0, 20.0]])
    for metric, pair, extra, score in (
        (GridSequenceScore(**GRID), (a, b), {}, expected),
        (SymbolSequenceScore(), (x, y), {}, expected),
        (SequenceScore(), (a, b), {"centers_px": centers}, sequence_score(a, av, b, bv, centers_px=centers)),
    ):
        for part in (slice(0, 7), slice(7, 40)):
            metric.update(pair[0][part], av[part], pair[1][part], bv[part], **extra)
        torch.testing.assert_close(metric.compute(), score.nanmean(), rtol=1e-12, atol=0)
        assert (int(metric.n_total), int(metric.n_valid)) == (40, int((~score.isnan()).sum()))
        assert metric.higher_is_better is True


def test_errors():
    x, valid = string("ABC")
    square = torch.zeros(3, 3)
    for options, message in (
        ({"gap": 0.1}, "at most 0"),
        ({"gap": float("nan")}, "at most 0"),
        ({"border": "matlab"}, "'standard' or 'port'"),
        ({"substitution": square[:2]}, r"\(K, K\) floats"),
        ({"substitution": square.long()}, r"\(K, K\) floats"),
        ({"substitution": square}, "a of pair 0, fixation 0: symbol 65 is not in 0 ... 2"),
    ):
        with pytest.raises(InputError, match=message):
            needleman_wunsch_symbols(x, valid, x, valid, **options)
    with pytest.raises(InputError, match="b of pair 0, fixation 1: symbol -1"):
        needleman_wunsch_symbols(x * 0, valid, torch.tensor([[0, -1, 0]]), valid, substitution=square)
