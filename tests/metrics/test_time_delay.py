"""Time-delay distances: golden numbers, loops over windows as the oracle, laws, edge cases and errors."""

from __future__ import annotations

import importlib
import itertools
import math
import warnings

import numpy as np
import pytest
import torch

from gazekit.errors import InputError
from gazekit.metrics import time_delay as module
from gazekit.metrics.grid_strings import grid_symbols
from gazekit.metrics.time_delay import (
    ScaledTimeDelay,
    StringTimeDelay,
    TimeDelayDistance,
    scaled_time_delay,
    string_time_delay,
    string_time_delay_symbols,
    time_delay_distance,
)
from tests.conftest import REAL_DATA, needs_osie

chunks_module = importlib.import_module("gazekit.metrics.edit_distance")  # the package has a function of this name

SIZE = {"size_wh_px": (40, 30)}
# The same float64 sums in another order, and a root.
SAME = {"rtol": 1e-12, "atol": 1e-12, "equal_nan": True}
PRINTED = {"rel": 0.0, "abs": 6e-8}


def path(*xy):
    return torch.tensor([xy], dtype=torch.float64).reshape(1, -1, 2), torch.ones(1, len(xy), dtype=torch.bool)


def string(text):
    return torch.tensor([[ord(c) for c in text]], dtype=torch.long), torch.ones(1, len(text), dtype=torch.bool)


HUMAN, MODEL = path((0, 0), (3, 4), (6, 8)), path((0, 0), (3, 0), (6, 8))


def random_paths(seed, n_pairs=60, longest=8, longest_b=10):
    rng = np.random.default_rng(seed)
    out = []
    for size in (longest, longest_b):
        xy = rng.uniform(0, 1, (n_pairs, size, 2)) * [40, 30]
        valid = np.arange(size) < rng.integers(0, size + 1, n_pairs)[:, None]
        xy[~valid] = np.nan
        out += [torch.from_numpy(xy), torch.from_numpy(valid)]
    return out


def lists(values, valid):
    return [row[: int(n)] for row, n in zip(values.tolist(), valid.sum(1).tolist(), strict=True)]


def windows(items, k):
    return [items[i : i + k] for i in range(len(items) - k + 1)]


def far(p, q, inner):
    steps = [math.dist(x, y) for x, y in zip(p, q, strict=True)]
    return (math.sqrt(sum(s * s for s in steps)) if inner == "l2" else sum(steps)) / len(p)


def edits(p, q, transpositions):
    table = [[i + j for j in range(len(q) + 1)] for i in range(len(p) + 1)]
    for i in range(1, len(p) + 1):
        for j in range(1, len(q) + 1):
            table[i][j] = min(table[i - 1][j] + 1, table[i][j - 1] + 1, table[i - 1][j - 1] + (p[i - 1] != q[j - 1]))
            if transpositions and i > 1 and j > 1 and p[i - 1] == q[j - 2] and p[i - 2] == q[j - 1]:
                table[i][j] = min(table[i][j], table[i - 2][j - 2] + 1)
    return table[-1][-1] / len(p)


def oracle(model, human, k, distance, reduce="mean"):
    if k > min(len(model), len(human)):
        return math.nan
    nearest = [min(distance(w, v) for v in windows(human, k)) for w in windows(model, k)]
    return max(nearest) if reduce == "max" else sum(nearest) / len(nearest)


def test_golden():
    for inner in ("l2", "sum"):
        got = [time_delay_distance(*MODEL, *HUMAN, k=k, inner=inner).item() for k in (1, 2, 3)]
        assert got == pytest.approx([1.0, 2.0, 1.3333333], **PRINTED)
    assert time_delay_distance(*MODEL, *HUMAN, k=1, reduce="max").item() == pytest.approx(3.0, **PRINTED)
    # Roles swapped.
    assert time_delay_distance(*HUMAN, *MODEL, k=1).item() == pytest.approx(1.3333333, **PRINTED)
    assert scaled_time_delay(*MODEL, *HUMAN, size_wh_px=(10, 7)).item() == pytest.approx(0.8662472, **PRINTED)
    # The longer side, whichever it is.
    assert scaled_time_delay(*MODEL, *HUMAN, size_wh_px=(7, 10)).item() == pytest.approx(0.8662472, **PRINTED)
    moved = (HUMAN[0] + torch.tensor([0.0, 1.0]), HUMAN[1])
    for inner, expected in (("l2", 0.9268230), ("sum", 0.9048374)):
        got = scaled_time_delay(*moved, *HUMAN, size_wh_px=(10, 10), inner=inner).item()
        assert got == pytest.approx(expected, **PRINTED)


def test_golden_strings():
    for transpositions, expected, mean in (
        (True, [0, 1 / 3, 1 / 3, 1 / 4], 0.2291667),
        (False, [0, 1 / 3, 1 / 2, 1 / 2], 0.3333333),
    ):
        got = string_time_delay_symbols(*string("ABDC"), *string("ABCD"), k=range(1, 5), transpositions=transpositions)
        assert got[0].tolist() == pytest.approx(expected, abs=1e-12)
        assert got.mean().item() == pytest.approx(mean, **PRINTED)


@pytest.mark.parametrize("inner", ["l2", "sum"])
@pytest.mark.parametrize("reduce", ["mean", "max"])
def test_loops(inner, reduce):
    a, av, b, bv = random_paths(0)
    pairs = list(zip(lists(a, av), lists(b, bv), strict=True))

    def distance(p, q):
        return far(p, q, inner)

    for k in (1, 2, 5, 8, 9):
        got = time_delay_distance(a, av, b, bv, k=k, inner=inner, reduce=reduce)
        np.testing.assert_allclose(got, [oracle(x, y, k, distance, reduce) for x, y in pairs], **SAME)
        assert (~got.isnan()).any() == (k < 9)
    got = scaled_time_delay(a, av, b, bv, **SIZE, inner=inner, reduce=reduce)
    expected = []
    for x, y in pairs:
        fits = range(1, min(len(x), len(y)) + 1)
        each = [math.exp(-oracle(x, y, k, distance, reduce) / 40) for k in fits]
        expected.append(sum(each) / len(each) if each else (0.0 if x or y else math.nan))
    np.testing.assert_allclose(got, expected, **SAME)


@pytest.mark.parametrize("transpositions", [False, True])
@pytest.mark.parametrize("reduce", ["mean", "max"])
@pytest.mark.parametrize("n_symbols", [2, 5])
def test_loops_over_strings(transpositions, reduce, n_symbols):
    rng = np.random.default_rng(n_symbols)
    a, b = (torch.from_numpy(rng.integers(0, n_symbols, (60, size))) for size in (7, 9))
    _, av, _, bv = random_paths(n_symbols, longest=7, longest_b=9)
    lengths = [3, 1, 7, 2, 8, 3]
    got = string_time_delay_symbols(a, av, b, bv, k=lengths, transpositions=transpositions, reduce=reduce)
    pairs = list(zip(lists(a, av), lists(b, bv), strict=True))
    for column, k in zip(got.T, lengths, strict=True):
        expected = [oracle(x, y, k, lambda p, q: edits(p, q, transpositions), reduce) for x, y in pairs]
        np.testing.assert_allclose(column, expected, **SAME)


def test_path_is_grid_then_string():
    a, av, b, bv = random_paths(2)
    x, y = (grid_symbols(*p, **SIZE, bins_wh=(4, 3)) for p in ((a, av), (b, bv)))
    got = string_time_delay(a, av, b, bv, **SIZE, bins_wh=(4, 3), k=(1, 2, 4))
    expected = string_time_delay_symbols(x, av, y, bv, k=(1, 2, 4)).mean(1)
    torch.testing.assert_close(got, expected, **SAME)
    # 4x4 cells, windows of 1 to 10, transpositions.
    a, av, b, bv = random_paths(2, longest=13, longest_b=13)
    explicit = {"bins_wh": (4, 4), "k": range(1, 11), "transpositions": True, "reduce": "mean"}
    torch.testing.assert_close(
        string_time_delay(a, av, b, bv, **SIZE), string_time_delay(a, av, b, bv, **SIZE, **explicit), **SAME
    )


def test_long_windows_of_strings():
    """Past 127 an 8-bit distance would wrap around."""
    a, b = torch.zeros(1, 150, dtype=torch.long), torch.ones(1, 150, dtype=torch.long)
    keep = torch.ones(1, 150, dtype=torch.bool)
    assert string_time_delay_symbols(a, keep, b, keep, k=[150, 100], transpositions=False).tolist() == [[1.0, 1.0]]
    assert string_time_delay_symbols(a, keep, a, keep, k=[126, 127, 128]).tolist() == [[0.0, 0.0, 0.0]]
    assert string_time_delay_symbols(a[:, :126], keep[:, :126], b, keep, k=[126]).tolist() == [[1.0]]


def test_identity_range_and_asymmetry():
    a, av, b, bv = random_paths(3, n_pairs=200, longest=9, longest_b=9)
    n, m = av.sum(1), bv.sum(1)
    own = time_delay_distance(a, av, a, av, k=3)
    assert (own[n >= 3] == 0).all()
    assert own[n < 3].isnan().all()
    stde = scaled_time_delay(a, av, a, av, **SIZE)
    torch.testing.assert_close(stde[n > 0], torch.ones(int((n > 0).sum())).double())
    assert stde[n == 0].isnan().all()
    sbtde = string_time_delay(a, av, a, av, **SIZE, k=(1, 3))
    assert (sbtde[n >= 3] == 0).all()
    got, back = time_delay_distance(a, av, b, bv, k=2), time_delay_distance(b, bv, a, av, k=2)
    assert torch.equal(got.isnan(), back.isnan())
    assert ((got - back).abs()[~got.isnan()] > 1e-6).float().mean() > 0.9
    score = scaled_time_delay(a, av, b, bv, **SIZE)
    assert torch.equal(score.isnan(), (n == 0) & (m == 0))
    assert (score[(n == 0) ^ (m == 0)] == 0).all()
    both = (n > 0) & (m > 0)
    assert ((score[both] > 0) & (score[both] <= 1)).all()
    # A part of the human path is found in it, and not the other way round.
    part = path((0, 0), (3, 4))
    assert time_delay_distance(*part, *HUMAN, k=2).item() == 0
    assert time_delay_distance(*HUMAN, *part, k=2).item() > 0
    # Bounds of the two inner distances.
    l2, total = (time_delay_distance(a, av, b, bv, k=4, inner=inner) for inner in ("l2", "sum"))
    known = ~l2.isnan()
    assert ((l2 <= total + 1e-12) & (total <= 2 * l2 + 1e-12))[known].all()


def test_batch_is_loop_and_padding_is_ignored(monkeypatch):
    a, av, b, bv = random_paths(4)

    def scores(a, av, b, bv):
        return torch.stack(
            [
                time_delay_distance(a, av, b, bv, k=2),
                time_delay_distance(a, av, b, bv, k=3, inner="sum", reduce="max"),
                scaled_time_delay(a, av, b, bv, **SIZE),
                string_time_delay(a, av, b, bv, **SIZE, k=(1, 2, 3)),
            ],
            1,
        )

    got = scores(a, av, b, bv)
    for p in range(len(a)):
        n, m = int(av[p].sum()), int(bv[p].sum())
        one = slice(p, p + 1)
        alone = scores(a[one, :n], av[one, :n], b[one, :m], bv[one, :m])
        torch.testing.assert_close(alone[0], got[p], **SAME)
    other = [torch.nn.functional.pad(t.nan_to_num(1e9), (0, 0, 0, 3), value=-7.0) for t in (a, b)]
    keep = [torch.nn.functional.pad(v, (0, 3)) for v in (av, bv)]
    monkeypatch.setattr(module, "_BLOCK", 500)
    monkeypatch.setattr(chunks_module, "_CPU_CHUNK", 200)
    torch.testing.assert_close(scores(other[0], keep[0], other[1], keep[1]), got, **SAME)


def test_edges():
    a, av, b, bv = random_paths(5)
    for empty in (a[:0], av[:0], b[:0], bv[:0]), (a[:, :0], av[:, :0], b[:, :0], bv[:, :0]):
        n = len(empty[0])
        for got in (
            time_delay_distance(*empty, k=1),
            scaled_time_delay(*empty, **SIZE),
            string_time_delay(*empty, **SIZE),
        ):
            assert got.shape == (n,)
            assert got.isnan().all()
    same = path(*[(1, 1)] * 5)
    assert time_delay_distance(*same, *same, k=5).item() == 0
    assert scaled_time_delay(*same, *same, **SIZE).item() == 1


def test_a_thousand_fixations():
    rng = np.random.default_rng(6)
    a, b = (torch.from_numpy(rng.uniform(0, 30, (1, n, 2))) for n in (1000, 800))
    keep = torch.ones(1, 1000, dtype=torch.bool)
    got = time_delay_distance(a, keep, b, keep[:, :800], k=3).item()
    gap = (a[0, :, None] - b[0, None]).square().sum(-1)
    window = gap[:-2, :-2] + gap[1:-1, 1:-1] + gap[2:, 2:]
    assert got == pytest.approx((window.amin(1).sqrt() / 3).mean().item(), rel=1e-12)
    assert 0 < scaled_time_delay(a[:, :300], keep[:, :300], b, keep[:, :800], **SIZE).item() < 1
    assert 0 < string_time_delay(a, keep, b, keep[:, :800], **SIZE, k=[3]).item() < 1


def test_single_precision():
    a, av, b, bv = (t.float() if t.is_floating_point() else t for t in random_paths(7, n_pairs=200))
    twice = (a.double(), av, b.double(), bv)
    # Differences and squares below 2,500, rounded at 6e-8; the root halves the relative error.
    for got, expected in (
        (time_delay_distance(a, av, b, bv, k=3), time_delay_distance(*twice, k=3)),
        (scaled_time_delay(a, av, b, bv, **SIZE), scaled_time_delay(*twice, **SIZE)),
        (string_time_delay(a, av, b, bv, **SIZE, k=[2]), string_time_delay(*twice, **SIZE, k=[2])),
    ):
        assert got.dtype == torch.float32
        torch.testing.assert_close(got.double(), expected, rtol=1e-6, atol=1e-6, equal_nan=True)


def test_more_noise_farther():
    rng = np.random.default_rng(0)
    a = torch.from_numpy(rng.uniform(0, 1, (300, 10, 2)) * [40, 30])
    keep = torch.ones(300, 10, dtype=torch.bool)
    noise = torch.from_numpy(rng.standard_normal((300, 10, 2)))
    for sign, score in (
        (1, lambda b: time_delay_distance(b, keep, a, keep, k=2)),
        (-1, lambda b: scaled_time_delay(b, keep, a, keep, **SIZE)),
        (1, lambda b: string_time_delay(b, keep, a, keep, **SIZE)),
    ):
        mean = [sign * score(a + s * noise).mean().item() for s in (0, 1, 3, 9, 27)]
        assert all(x < y for x, y in itertools.pairwise(mean))


@needs_osie
def test_oracle_on_real_scanpaths():
    from gazekit.datasets import PartialDataWarning, load

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PartialDataWarning)
        table = load("osie", root=REAL_DATA).fixations
    names = sorted(table["stimulus"].unique())[:2]
    groups = [g for _, g in table[table["stimulus"].isin(names)].groupby(["stimulus", "subject"])]
    xy = [torch.tensor(g[["x_px", "y_px"]].to_numpy()) for g in groups]
    px = torch.nn.utils.rnn.pad_sequence(xy, batch_first=True)
    valid = torch.arange(px.shape[1]) < torch.tensor([[len(p)] for p in xy])
    other = torch.arange(len(xy)).roll(1)
    got = time_delay_distance(px, valid, px[other], valid[other], k=4)
    strings = grid_symbols(px, valid, size_wh_px=(800, 600), bins_wh=(4, 4))
    text = string_time_delay(px, valid, px[other], valid[other], size_wh_px=(800, 600), k=range(1, 7))
    letters = lists(strings, valid)
    for i, j in enumerate(other.tolist()):
        expected = oracle(xy[i].tolist(), xy[j].tolist(), 4, lambda p, q: far(p, q, "l2"))
        assert got[i].item() == pytest.approx(expected, rel=1e-11)
        each = [oracle(letters[i], letters[j], k, lambda p, q: edits(p, q, True)) for k in range(1, 7)]
        assert text[i].item() == pytest.approx(sum(each) / 6, rel=1e-11, nan_ok=True)
    assert 20 < got.mean().item() < 200


def test_classes():
    a, av, b, bv = random_paths(8, n_pairs=40)
    for metric, function, options, higher in (
        (TimeDelayDistance, time_delay_distance, {"k": 2, "inner": "sum", "reduce": "max"}, False),
        (ScaledTimeDelay, scaled_time_delay, {**SIZE, "inner": "sum", "reduce": "max"}, True),
        (StringTimeDelay, string_time_delay, {**SIZE, "k": [1, 2], "bins_wh": (3, 2), "transpositions": False}, False),
    ):
        mean = metric(**options)
        for rows in (slice(0, 7), slice(7, 40)):
            mean.update(a[rows], av[rows], b[rows], bv[rows])
        expected = function(a, av, b, bv, **options)
        torch.testing.assert_close(mean.compute(), expected.nanmean(), rtol=1e-12, atol=0)
        assert (int(mean.n_total), int(mean.n_valid)) == (40, int((~expected.isnan()).sum()))
        assert mean.higher_is_better is higher


def test_errors():
    symbols, valid = string("ABC")
    for call, message in (
        (lambda: time_delay_distance(*MODEL, *HUMAN, k=0), "positive whole"),
        (lambda: time_delay_distance(*MODEL, *HUMAN, k=2, inner="l1"), "'l2' or 'sum'"),
        (lambda: time_delay_distance(*MODEL, *HUMAN, k=2, reduce="min"), "'mean' or 'max'"),
        (lambda: time_delay_distance(MODEL[0] * torch.nan, MODEL[1], *HUMAN, k=2), "pair 0, fixation 0"),
        (lambda: scaled_time_delay(*MODEL, *HUMAN, size_wh_px=(0, 10)), "two positive numbers"),
        (lambda: string_time_delay(*MODEL, *HUMAN, **SIZE, k=[]), "one or more"),
        (lambda: string_time_delay_symbols(symbols, valid, symbols, valid, reduce="min"), "'mean' or 'max'"),
        (lambda: string_time_delay_symbols(symbols.double(), valid, symbols, valid), "integers"),
    ):
        with pytest.raises(InputError, match=message):
            call()
