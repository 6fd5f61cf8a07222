"""ScanMatch: golden numbers, loops as the oracle, laws, edge cases and errors."""

from __future__ import annotations

import importlib
import itertools
import math
import warnings

import numpy as np
import pytest
import torch

from gazekit.errors import InputError
from gazekit.metrics.grid_strings import grid_symbols
from gazekit.metrics.scanmatch import ScanMatch, scanmatch, scanmatch_symbols
from gazekit.metrics.sequence_score import needleman_wunsch_symbols
from tests.conftest import REAL_DATA, needs_osie

bits_module = importlib.import_module("gazekit.metrics.edit_distance")  # the package has a function of this name
module = importlib.import_module("gazekit.metrics.scanmatch")  # the package has a function of this name

SMALL = {"size_wh_px": (40, 30), "bins_wh": (4, 3), "threshold_bins": 2.0}
# The same float64 table but for the order of a handful of additions and one division.
SAME = {"rtol": 1e-12, "atol": 1e-13, "equal_nan": True}
PRINTED = {"rel": 0.0, "abs": 6e-8}


def path(*xy):
    return torch.tensor([xy], dtype=torch.float64).reshape(1, -1, 2), torch.ones(1, len(xy), dtype=torch.bool)


A = path((5, 5), (15, 5), (35, 25))  # 0, 1, 11


def random_paths(seed, n_pairs=60, longest=9, size=(40, 30)):
    rng = np.random.default_rng(seed)
    out = []
    for _ in "ab":
        xy = rng.uniform(-0.1, 1.1, (n_pairs, longest, 2)) * size
        ms = rng.integers(10, 400, (n_pairs, longest))
        valid = np.arange(longest) < rng.integers(0, longest + 1, n_pairs)[:, None]
        xy[~valid] = np.nan
        out.append([torch.from_numpy(xy), torch.from_numpy(valid), torch.from_numpy(ms / 1000.0)])
    (a, av, a_s), (b, bv, b_s) = out
    return a, av, b, bv, a_s, b_s


def oracle(a, b, size, bins, threshold, gap, border="standard", a_ms=None, b_ms=None):
    """One pair, step by step as the definition."""
    strings = []
    for xy, ms in ((a, a_ms), (b, b_ms)):
        string = []
        for t, (x, y) in enumerate(xy):
            x, y = min(max(x, 0), size[0] - 1), min(max(y, 0), size[1] - 1)
            cell = (math.floor(x / (size[0] / bins[0])), math.floor(y / (size[1] / bins[1])))
            string += [cell] * (1 if ms is None else round(ms[t] / 50))  # Python rounds half to even
        strings.append(string)
    if any(len(xy) and not string for xy, string in zip((a, b), strings, strict=True)) or not (len(a) or len(b)):
        return math.nan
    p, q = strings
    if not p or not q:
        return 0.0
    extra = 1 if border == "port" else 0
    table = [[gap * (i + j + extra) if i * j == 0 else 0.0 for j in range(len(q) + 1)] for i in range(len(p) + 1)]
    for i in range(1, len(p) + 1):
        for j in range(1, len(q) + 1):
            earned = threshold - math.dist(p[i - 1], q[j - 1])
            table[i][j] = max(table[i - 1][j - 1] + earned, table[i - 1][j] + gap, table[i][j - 1] + gap)
    return table[-1][-1] / (threshold * max(len(p), len(q)))


def lists(xy, valid):
    return [row[: int(n)] for row, n in zip(xy.tolist(), valid.sum(1).tolist(), strict=True)]


def test_golden():
    assert scanmatch(*A, *path((5, 5), (25, 5), (35, 25)), **SMALL).item() == pytest.approx(0.8333333, **PRINTED)
    short = path((5, 5), (35, 25))
    assert scanmatch(*A, *short, **SMALL).item() == pytest.approx(0.6666667, **PRINTED)
    assert scanmatch(*A, *short, **SMALL, gap=-0.5).item() == pytest.approx(0.5833333, **PRINTED)
    assert scanmatch(*A, *short, **SMALL, gap=-0.5, border="port").item() == pytest.approx(0.5, **PRINTED)
    assert scanmatch(*path((5, 5)), *path((35, 25)), **SMALL).item() == 0
    assert scanmatch(*A, *A, **SMALL).item() == 1


@pytest.mark.parametrize("temporal", [False, True])
@pytest.mark.parametrize(("gap", "border"), [(0.0, "standard"), (-0.4, "standard"), (-0.4, "port"), (-3.0, "port")])
def test_loops(temporal, gap, border):
    a, av, b, bv, a_s, b_s = random_paths(0, n_pairs=100, longest=7)
    options = {"size_wh_px": (40, 30), "bins_wh": (7, 5), "threshold_bins": 3.5, "gap": gap, "border": border}
    if temporal:
        options |= {"temporal_bin_s": 0.05, "a_duration_s": a_s, "b_duration_s": b_s}
    got = scanmatch(a, av, b, bv, **options)
    ms = [None, None] if not temporal else [(s * 1000).round().long().tolist() for s in (a_s, b_s)]
    expected = [
        oracle(x, y, (40, 30), (7, 5), 3.5, gap, border, *(m and m[k] for m in ms))
        for k, (x, y) in enumerate(zip(lists(a, av), lists(b, bv), strict=True))
    ]
    np.testing.assert_allclose(got, expected, **SAME)
    assert np.isnan(expected).sum() < 20


def test_offsets_number_the_substitution_table():
    """The small table by offset gives what the full table of cell against cell gives."""
    a, av, b, bv, *_ = random_paths(1, n_pairs=300)
    x, y = (grid_symbols(*p, size_wh_px=(40, 30), bins_wh=(4, 3)) for p in ((a, av), (b, bv)))
    cell = torch.tensor([[k % 4, k // 4] for k in range(12)]).double()
    table = 2.0 - torch.cdist(cell, cell, compute_mode="donot_use_mm_for_euclid_dist")
    full = needleman_wunsch_symbols(x, av, y, bv, substitution=table, gap=-0.2)
    n, m = av.sum(1), bv.sum(1)
    both = (n > 0) & (m > 0)
    got = scanmatch_symbols(x, av, y, bv, bins_wh=(4, 3), threshold_bins=2.0, gap=-0.2)
    torch.testing.assert_close(got[both], (full / (2.0 * torch.maximum(n, m)))[both], rtol=1e-12, atol=1e-13)


def test_defaults():
    """16x12 cells, threshold 3.5, gap 0, no durations, standard border."""
    a, av, b, bv, *_ = random_paths(2)
    explicit = {"bins_wh": (16, 12), "threshold_bins": 3.5, "gap": 0.0, "temporal_bin_s": None, "border": "standard"}
    got = scanmatch(a, av, b, bv, size_wh_px=(40, 30))
    torch.testing.assert_close(got, scanmatch(a, av, b, bv, size_wh_px=(40, 30), **explicit), **SAME)


def test_threshold_too_small_counts_exact_matches_only():
    a, av, b, bv, *_ = random_paths(3)
    x, y = (grid_symbols(*p, size_wh_px=(40, 30), bins_wh=(4, 3)) for p in ((a, av), (b, bv)))
    got = scanmatch(a, av, b, bv, **{**SMALL, "threshold_bins": 0.5})
    expected = needleman_wunsch_symbols(x, av, y, bv) / torch.maximum(av.sum(1), bv.sum(1))
    torch.testing.assert_close(got, expected, **SAME)


def test_repetition_counts_time():
    """0, 1, 11 with 0.1, 0.2, 0.1 s over 0.1 s is 0, 1, 1, 11."""
    durations = {
        "temporal_bin_s": 0.1,
        "a_duration_s": torch.tensor([[0.1, 0.2, 0.1]]),
        "b_duration_s": torch.full((1, 4), 0.1),
    }
    b = path((5, 5), (15, 5), (15, 5), (35, 25))
    assert scanmatch(*A, *b, **SMALL, **durations).item() == 1
    assert scanmatch(*A, *b, **SMALL).item() == 0.75


def test_empty_strings():
    """NaN where fixations leave no symbol; 0 against an empty path; NaN for two empty paths."""
    empty = path()
    nothing = torch.zeros(1, 0)
    brief, long = torch.full((1, 3), 0.025), torch.full((1, 3), 0.2)  # 0.5 bins round to 0
    bins = {"temporal_bin_s": 0.05, **SMALL}
    assert scanmatch(*A, *A, **bins, a_duration_s=brief, b_duration_s=long).isnan().item()
    assert scanmatch(*A, *A, **bins, a_duration_s=brief, b_duration_s=brief).isnan().item()
    assert scanmatch(*A, *A, **bins, a_duration_s=brief * 1.01, b_duration_s=brief * 1.01).item() == 1
    assert scanmatch(*A, *empty, **bins, a_duration_s=brief, b_duration_s=nothing).isnan().item()
    assert scanmatch(*A, *empty, **bins, a_duration_s=long, b_duration_s=nothing).item() == 0
    assert scanmatch(*empty, *A, **SMALL).item() == 0
    assert scanmatch(*empty, *A, **SMALL, gap=-1.0, border="port").item() == 0
    assert scanmatch(*empty, *empty, **SMALL).isnan().item()
    a, av, b, bv, *_ = random_paths(4)
    assert scanmatch(a[:0], av[:0], b[:0], bv[:0], **SMALL).shape == (0,)
    none = torch.zeros(0, a.shape[1])
    assert scanmatch(a[:0], av[:0], b[:0], bv[:0], **bins, a_duration_s=none, b_duration_s=none).shape == (0,)


def test_identity_symmetry_and_range():
    a, av, b, bv, a_s, b_s = random_paths(5, n_pairs=300)
    n, m = av.sum(1), bv.sum(1)
    for time in ({}, {"temporal_bin_s": 0.05, "a_duration_s": a_s, "b_duration_s": b_s}):
        back = {} if not time else {**time, "a_duration_s": b_s, "b_duration_s": a_s}
        own = {} if not time else {**time, "b_duration_s": a_s}
        got = scanmatch(a, av, b, bv, **SMALL, **time)
        torch.testing.assert_close(got, scanmatch(b, bv, a, av, **SMALL, **back), **SAME)
        known = ~got.isnan()
        assert int(known.sum()) > 250
        assert ((got[known] >= 0) & (got[known] <= 1 + 1e-12)).all()
        itself = scanmatch(a, av, a, av, **SMALL, **own)
        torch.testing.assert_close(itself[~itself.isnan()], torch.ones(int((~itself.isnan()).sum())).double())
        assert itself[n == 0].isnan().all()
    assert (scanmatch(a, av, b, bv, **SMALL, gap=-5.0)[(n > 0) & (m > 0)] < 0).any()


def test_batch_is_loop_and_padding_is_ignored(monkeypatch):
    a, av, b, bv, a_s, b_s = random_paths(6)
    time = {"temporal_bin_s": 0.05, "a_duration_s": a_s, "b_duration_s": b_s}
    got = scanmatch(a, av, b, bv, **SMALL, **time)
    for p in range(len(a)):
        n, m = int(av[p].sum()), int(bv[p].sum())
        one = slice(p, p + 1)
        alone = {**time, "a_duration_s": a_s[one, :n], "b_duration_s": b_s[one, :m]}
        alone = scanmatch(a[one, :n], av[one, :n], b[one, :m], bv[one, :m], **SMALL, **alone)
        torch.testing.assert_close(alone[0], got[p], rtol=0, atol=0, equal_nan=True)
    noise = {"a_duration_s": a_s.masked_fill(~av, torch.nan), "b_duration_s": b_s.masked_fill(~bv, -1e9)}
    wide = [torch.nn.functional.pad(t, (0, 0, 0, 3), value=1e9) for t in (a, b)]
    keep = [torch.nn.functional.pad(t, (0, 3)) for t in (av, bv)]
    noise = {k: torch.nn.functional.pad(v, (0, 3), value=1e9) for k, v in noise.items()}
    monkeypatch.setattr(module, "_BLOCK", 7)
    monkeypatch.setattr(bits_module, "_CPU_CHUNK", 50)
    padded = scanmatch(wide[0], keep[0], wide[1], keep[1], **SMALL, temporal_bin_s=0.05, **noise)
    torch.testing.assert_close(padded, got, rtol=0, atol=0, equal_nan=True)


def test_single_precision():
    a, av, b, bv, a_s, b_s = (t.float() if t.is_floating_point() else t for t in random_paths(7, n_pairs=200))
    time = {"temporal_bin_s": 0.05, "a_duration_s": a_s, "b_duration_s": b_s}
    got = scanmatch(a, av, b, bv, **SMALL, **time)
    assert got.dtype == torch.float32
    twice = {k: v.double() if torch.is_tensor(v) else v for k, v in time.items()}
    expected = scanmatch(a.double(), av, b.double(), bv, **SMALL, **twice)
    # Same strings; some hundred sums of numbers near 1, each rounded at 6e-8, divided by their number.
    torch.testing.assert_close(got.double(), expected, rtol=0, atol=2e-6, equal_nan=True)


def test_a_thousand_fixations_and_equal_ones():
    rng = np.random.default_rng(8)
    a = torch.from_numpy(rng.uniform(0, 30, (1, 1000, 2)))
    keep = torch.ones(1, 1000, dtype=torch.bool)
    assert scanmatch(a, keep, a, keep, **SMALL).item() == pytest.approx(1, abs=1e-12)
    same = torch.zeros(1, 1000, 2)
    assert scanmatch(same, keep, same[:, :250], keep[:, :250], **SMALL).item() == 0.25


def test_more_noise_lower_score():
    rng = np.random.default_rng(0)
    a = torch.from_numpy(rng.uniform(0, 1, (400, 10, 2)) * [40, 30])
    keep = torch.ones(400, 10, dtype=torch.bool)
    noise = torch.from_numpy(rng.standard_normal((400, 10, 2)))
    mean = [scanmatch(a, keep, a + s * noise, keep, **SMALL).mean().item() for s in (0, 1, 3, 9, 27)]
    assert mean[0] == pytest.approx(1, abs=1e-12)
    assert all(x > y for x, y in itertools.pairwise(mean))


@needs_osie
def test_osie_worked_example():
    """First 20 images in name order, all 105 pairs of subjects: 0.40027 without durations, 0.39933 with 50 ms."""
    from gazekit.datasets import PartialDataWarning, load

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PartialDataWarning)
        table = load("osie", root=REAL_DATA).fixations
    names = sorted(table["stimulus"].unique())[:20]
    groups = [group for _, group in table[table["stimulus"].isin(names)].groupby(["stimulus", "subject"])]
    assert len(groups) == 300
    xy = [torch.tensor(group[["x_px", "y_px"]].to_numpy()) for group in groups]
    durations = [torch.tensor(group["duration_s"].to_numpy()) for group in groups]
    px, seconds = (torch.nn.utils.rnn.pad_sequence(t, batch_first=True) for t in (xy, durations))
    valid = torch.arange(px.shape[1]) < torch.tensor([[len(path)] for path in xy])
    one, other = torch.triu_indices(15, 15, 1)
    i, j = ((15 * torch.arange(20)[:, None] + k).flatten() for k in (one, other))
    size = {"size_wh_px": (800, 600)}
    got = scanmatch(px[i], valid[i], px[j], valid[j], **size)
    assert len(got) == 2100
    assert got.mean().item() == pytest.approx(0.40027, abs=5e-6)
    time = {"temporal_bin_s": 0.05, "a_duration_s": seconds[i], "b_duration_s": seconds[j]}
    timed = scanmatch(px[i], valid[i], px[j], valid[j], **size, **time)
    assert timed.mean().item() == pytest.approx(0.39933, abs=5e-6)
    for k in range(0, 2100, 150):
        a, b = xy[i[k]].tolist(), xy[j[k]].tolist()
        ms = [(durations[index[k]] * 1000).round().long().tolist() for index in (i, j)]
        assert got[k].item() == pytest.approx(oracle(a, b, (800, 600), (16, 12), 3.5, 0.0), rel=1e-12)
        assert timed[k].item() == pytest.approx(
            oracle(a, b, (800, 600), (16, 12), 3.5, 0.0, "standard", *ms), rel=1e-12
        )


def test_class():
    a, av, b, bv, a_s, b_s = random_paths(9, n_pairs=40)
    for bins in (None, 0.05):
        metric = ScanMatch(**SMALL, gap=-0.1, temporal_bin_s=bins)
        time = {} if bins is None else {"a_duration_s": a_s, "b_duration_s": b_s}
        for rows in (slice(0, 7), slice(7, 40)):
            metric.update(a[rows], av[rows], b[rows], bv[rows], **{k: v[rows] for k, v in time.items()})
        expected = scanmatch(a, av, b, bv, **SMALL, gap=-0.1, temporal_bin_s=bins, **time)
        torch.testing.assert_close(metric.compute(), expected.nanmean(), rtol=1e-12, atol=0)
        assert (int(metric.n_total), int(metric.n_valid)) == (40, int((~expected.isnan()).sum()))
        assert metric.higher_is_better is True


def test_errors():
    seconds = torch.full((1, 3), 0.2)
    symbols, valid = torch.tensor([[0, 12, 3]]), A[1]
    for call, message in (
        (lambda: scanmatch(*A, *A, **SMALL, temporal_bin_s=0.05), "give all three or none"),
        (lambda: scanmatch(*A, *A, **SMALL, a_duration_s=seconds, b_duration_s=seconds), "give all three or none"),
        (lambda: scanmatch(*A, *A, **SMALL, temporal_bin_s=0.05, a_duration_s=seconds), "both paths or for neither"),
        (
            lambda: scanmatch(*A, *A, **SMALL, temporal_bin_s=0.05, a_duration_s=seconds, b_duration_s=-seconds),
            "pair 0, fixation 0",
        ),
        (
            lambda: scanmatch(*A, *A, **SMALL, temporal_bin_s=0.05, a_duration_s=seconds * 1000, b_duration_s=seconds),
            "divide ms by 1000",
        ),
        (lambda: scanmatch(*A, *A, **SMALL, gap=0.5), "at most 0"),
        (lambda: scanmatch(*A, *A, **SMALL, border="x"), "'standard' or 'port'"),
        (lambda: scanmatch(*A, *A, **{**SMALL, "threshold_bins": 0.0}), "threshold_bins must be positive"),
        (lambda: scanmatch(A[0] * torch.nan, A[1], *A, **SMALL), "pair 0, fixation 0"),
        (lambda: scanmatch_symbols(symbols, valid, symbols, valid, bins_wh=(4, 3)), "fixation 1: 12 is no cell of 4x3"),
    ):
        with pytest.raises(InputError, match=message):
            call()
