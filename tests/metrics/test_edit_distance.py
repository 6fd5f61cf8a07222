"""String edit distance: golden numbers, rapidfuzz and loops as oracles, laws, both algorithms, edge cases."""

from __future__ import annotations

import importlib
import itertools
import warnings

import numpy as np
import pytest
import torch

from gazekit.errors import InputError
from gazekit.metrics.edit_distance import (
    EditDistance,
    PrefixEditDistance,
    SymbolEditDistance,
    cluster_edit_distance,
    edit_distance,
    edit_distance_symbols,
    prefix_edit_distance,
    prefix_edit_distance_symbols,
    semantic_edit_distance,
)
from gazekit.metrics.grid_strings import grid_symbols
from tests.conftest import REAL_DATA, needs_osie

module = importlib.import_module("gazekit.metrics.edit_distance")  # the package has a function of this name

GRID = {"size_wh_px": (40, 30), "bins_wh": (4, 3)}


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


def random_paths(seed, n_pairs=50, longest=9):
    rng = np.random.default_rng(seed)
    out = []
    for _ in "ab":
        xy = rng.uniform(0, 1, (n_pairs, longest, 2)) * [40, 30]
        valid = np.arange(longest) < rng.integers(0, longest + 1, n_pairs)[:, None]
        xy[~valid] = np.nan
        out += [torch.from_numpy(xy), torch.from_numpy(valid)]
    return out


def text_of(symbols, valid):
    return [
        "".join(chr(65 + s) for s in row[:n]) for row, n in zip(symbols.tolist(), valid.sum(1).tolist(), strict=True)
    ]


def oracle(a, b, transpositions):
    """The table, filled cell by cell."""
    table = np.zeros((len(a) + 1, len(b) + 1), dtype=int)
    table[:, 0], table[0] = range(len(a) + 1), range(len(b) + 1)
    for i in range(1, len(a) + 1):
        for j in range(1, len(b) + 1):
            table[i, j] = min(table[i - 1, j] + 1, table[i, j - 1] + 1, table[i - 1, j - 1] + (a[i - 1] != b[j - 1]))
            if transpositions and i > 1 and j > 1 and a[i - 1] == b[j - 2] and a[i - 2] == b[j - 1]:
                table[i, j] = min(table[i, j], table[i - 2, j - 2] + 1)
    return table[-1, -1]


@pytest.fixture(params=["bits", "table"])
def algorithm(request, monkeypatch):
    """Short strings go by bits, long ones by the table: every test that asks for this runs on both."""
    if request.param == "table":
        monkeypatch.setattr(module, "LONGEST_IN_BITS", -1)


def test_golden(algorithm):
    for transpositions, expected in ((False, 2), (True, 1)):
        got = edit_distance_symbols(*string("ABCD"), *string("ACBD"), transpositions=transpositions)
        assert got.item() == expected
    assert edit_distance_symbols(*string(""), *string("AB")).item() == 2
    # Optimal string alignment, not the unrestricted distance (2): nothing is edited twice.
    assert edit_distance_symbols(*string("CA"), *string("ABC"), transpositions=True).item() == 3


def test_golden_prefixes(monkeypatch):
    for bits in (62, -1):
        monkeypatch.setattr(module, "LONGEST_IN_BITS", bits)
        for transpositions, expected in ((False, [0, 0, 1, 2]), (True, [0, 0, 1, 1])):
            got = prefix_edit_distance_symbols(
                *string("ABCD"), *string("ABDC"), lengths=range(1, 5), transpositions=transpositions
            )
            assert got.tolist() == [expected]


@pytest.mark.parametrize("transpositions", [False, True])
@pytest.mark.parametrize("n_symbols", [2, 4, 25])
def test_loops(algorithm, transpositions, n_symbols):
    a, av, b, bv = strings(n_symbols, 300, 9, n_symbols, 12)
    got = edit_distance_symbols(a, av, b, bv, transpositions=transpositions)
    expected = [oracle(x, y, transpositions) for x, y in zip(text_of(a, av), text_of(b, bv), strict=True)]
    assert got.tolist() == expected
    assert got.dtype == torch.float64


@pytest.mark.parametrize("transpositions", [False, True])
@pytest.mark.parametrize(("n_pairs", "longest"), [(5000, 18), (1000, 62), (200, 63), (400, 64), (60, 130)])
def test_rapidfuzz(transpositions, n_pairs, longest):
    distance = pytest.importorskip("rapidfuzz.distance")
    a, av, b, bv = strings(longest, n_pairs, longest, 4)
    got = edit_distance_symbols(a, av, b, bv, transpositions=transpositions)
    peer = (distance.OSA if transpositions else distance.Levenshtein).distance
    assert got.tolist() == [peer(x, y) for x, y in zip(text_of(a, av), text_of(b, bv), strict=True)]
    swapped = edit_distance_symbols(b, bv, a, av, transpositions=transpositions)
    assert torch.equal(got, swapped)


@pytest.mark.parametrize("transpositions", [False, True])
def test_prefixes_are_distances_of_prefixes(algorithm, transpositions):
    a, av, b, bv = strings(5, 400, 8, 3, 10)
    lengths = [7, 1, 3, 8, 9, 3]  # any order; one longer than a
    got = prefix_edit_distance_symbols(a, av, b, bv, lengths=lengths, transpositions=transpositions)
    for column, k in zip(got.T, lengths, strict=True):
        long = (av.sum(1) >= k) & (bv.sum(1) >= k)
        expected = edit_distance_symbols(a[:, :k], av[:, :k], b[:, :k], bv[:, :k], transpositions=transpositions)
        assert torch.equal(column[long], expected[long])
        assert column[~long].isnan().all()
        assert long.any() == (k < 9)


def test_path_is_grid_then_string():
    a, av, b, bv = random_paths(0)
    x, y = (grid_symbols(*p, **GRID) for p in ((a, av), (b, bv)))
    for options in ({}, {"transpositions": True}, {"normalize": True}):
        got = edit_distance(a, av, b, bv, **GRID, **options)
        torch.testing.assert_close(got, edit_distance_symbols(x, av, y, bv, **options), rtol=0, atol=0)
    got = prefix_edit_distance(a, av, b, bv, **GRID, lengths=range(1, 6))
    torch.testing.assert_close(
        got, prefix_edit_distance_symbols(x, av, y, bv, lengths=range(1, 6)).mean(1), rtol=0, atol=0, equal_nan=True
    )
    assert 5 < int(got.isnan().sum()) < 45
    # The centres of the cells as clusters, and their numbers as labels, make the same strings up to names.
    centers = torch.tensor([[x + 5.0, y + 5.0] for y in range(0, 30, 10) for x in range(0, 40, 10)])
    labels = grid_symbols(
        torch.tensor([[[x, y] for y in range(30) for x in range(40)]]), torch.ones(1, 1200, dtype=torch.bool), **GRID
    ).view(30, 40)
    expected = edit_distance(a, av, b, bv, **GRID)
    assert torch.equal(cluster_edit_distance(a, av, b, bv, centers_px=centers), expected)
    assert torch.equal(semantic_edit_distance(a, av, b, bv, labels=labels + 1), expected)


def test_defaults():
    """5x5 cells, Levenshtein, unnormalised; 4x4 and transpositions for prefixes."""
    a, av, b, bv = random_paths(1, longest=12)
    size = {"size_wh_px": (40, 30)}
    explicit = edit_distance(a, av, b, bv, **size, bins_wh=(5, 5), transpositions=False, normalize=False)
    assert torch.equal(edit_distance(a, av, b, bv, **size), explicit)
    explicit = prefix_edit_distance(a, av, b, bv, **size, bins_wh=(4, 4), lengths=range(1, 11), transpositions=True)
    torch.testing.assert_close(prefix_edit_distance(a, av, b, bv, **size), explicit, equal_nan=True)


def test_identity_range_and_empty_paths(algorithm):
    a, av, b, bv = random_paths(2, n_pairs=200)
    n, m = av.sum(1), bv.sum(1)
    got = edit_distance(a, av, b, bv, **GRID)
    assert not edit_distance(a, av, a, av, **GRID).any()
    assert not edit_distance(a, av, a, av, **GRID).signbit().any()
    assert ((got >= (n - m).abs()) & (got <= torch.maximum(n, m))).all()
    assert torch.equal(got[m == 0], n[m == 0].double())
    assert int((m == 0).sum()) > 5
    share = edit_distance(a, av, b, bv, **GRID, normalize=True)
    torch.testing.assert_close(share * torch.maximum(n, m), got)
    assert (share[(n == 0) & (m == 0)] == 0).all()
    none = edit_distance(a[:, :0], av[:, :0], b[:, :0], bv[:, :0], **GRID)
    assert torch.equal(none, torch.zeros(200).double())
    assert edit_distance(a[:0], av[:0], b[:0], bv[:0], **GRID).shape == (0,)


def test_triangle_inequality(algorithm):
    a, av, b, bv = strings(3, 500, 7, 3)
    c, cv = b.roll(1, 0), bv.roll(1, 0)
    ab, bc, ac = (
        edit_distance_symbols(*x, *y) for x, y in (((a, av), (b, bv)), ((b, bv), (c, cv)), ((a, av), (c, cv)))
    )
    assert (ac <= ab + bc).all()


def test_a_thousand_fixations_and_equal_ones():
    distance = pytest.importorskip("rapidfuzz.distance")
    a, av, b, bv = strings(4, 2, 1000, 5)
    av[:], bv[:] = True, True
    a, b = a.abs() % 5, b.abs() % 5
    got = edit_distance_symbols(a, av, b, bv)
    peer = [distance.Levenshtein.distance(x, y) for x, y in zip(text_of(a, av), text_of(b, bv), strict=True)]
    assert got.tolist() == peer
    same = torch.zeros(1, 1000, 2)
    assert edit_distance(same, av[:1], same[:, :400], av[:1, :400], **GRID).item() == 600


def test_batch_is_loop_and_padding_is_ignored(algorithm):
    a, av, b, bv = random_paths(5)
    got = edit_distance(a, av, b, bv, **GRID)
    for p in range(len(a)):
        x, y = a[p : p + 1, : av[p].sum()], b[p : p + 1, : bv[p].sum()]
        keep = [torch.ones(z.shape[:2], dtype=torch.bool) for z in (x, y)]
        assert edit_distance(x, keep[0], y, keep[1], **GRID).item() == got[p]
    other = [t.masked_fill(~v[..., None], 1e9) for t, v in ((a, av), (b, bv))]
    assert torch.equal(edit_distance(other[0], av, other[1], bv, **GRID), got)
    # Chunks of one pair.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_CPU_CHUNK", 1)
        assert torch.equal(edit_distance(a, av, b, bv, **GRID), got)


def test_types():
    a, av, b, bv = random_paths(6)
    clean = [t.nan_to_num() for t in (a, b)]
    got = edit_distance(clean[0].float(), av, clean[1].float(), bv, **GRID)
    assert got.dtype == torch.float32
    same = edit_distance(clean[0].float().double(), av, clean[1].float().double(), bv, **GRID)
    assert torch.equal(got.double(), same)
    whole = edit_distance(clean[0].long(), av, clean[1].long(), bv, **GRID)
    assert whole.dtype == torch.float64


def test_more_noise_more_edits():
    rng = np.random.default_rng(0)
    a = torch.from_numpy(rng.uniform(0, 1, (400, 10, 2)) * [40, 30])
    keep = torch.ones(400, 10, dtype=torch.bool)
    noise = torch.from_numpy(rng.standard_normal((400, 10, 2)))
    mean = [edit_distance(a, keep, a + s * noise, keep, **GRID).mean().item() for s in (0, 1, 3, 9, 27)]
    assert mean[0] == 0
    assert all(x < y for x, y in itertools.pairwise(mean))


@needs_osie
def test_osie_worked_example():
    """First 20 images in name order, all 105 pairs of subjects: 7.47143, as printed."""
    xy, valid, pairs = osie_pairs()
    i, j = pairs
    got = edit_distance(xy[i], valid[i], xy[j], valid[j], size_wh_px=(800, 600))
    assert len(got) == 2100
    assert got.mean().item() == pytest.approx(7.47143, abs=5e-6)
    distance = pytest.importorskip("rapidfuzz.distance")
    text = text_of(grid_symbols(xy, valid, size_wh_px=(800, 600), bins_wh=(5, 5)), valid)
    expected = [distance.Levenshtein.distance(text[x], text[y]) for x, y in zip(i.tolist(), j.tolist(), strict=True)]
    assert got.tolist() == expected


def osie_pairs():
    from gazekit.datasets import PartialDataWarning, load

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PartialDataWarning)
        table = load("osie", root=REAL_DATA).fixations
    names = sorted(table["stimulus"].unique())[:20]
    groups = table[table["stimulus"].isin(names)].groupby(["stimulus", "subject"])
    found = [torch.tensor(group[["x_px", "y_px"]].to_numpy()) for _, group in groups]
    assert len(found) == 300
    xy = torch.nn.utils.rnn.pad_sequence(found, batch_first=True)
    valid = torch.arange(xy.shape[1]) < torch.tensor([[len(path)] for path in found])
    one, other = torch.triu_indices(15, 15, 1)
    image = 15 * torch.arange(20)[:, None]
    return xy, valid, ((image + one).flatten(), (image + other).flatten())


def test_classes():
    a, av, b, bv = random_paths(7, n_pairs=40)
    x, y = (grid_symbols(*p, **GRID) for p in ((a, av), (b, bv)))
    lengths = range(1, 5)
    for metric, function, pair in (
        (EditDistance(**GRID, transpositions=True), lambda *p: edit_distance(*p, **GRID, transpositions=True), (a, b)),
        (EditDistance(**GRID, normalize=True), lambda *p: edit_distance(*p, **GRID, normalize=True), (a, b)),
        (
            PrefixEditDistance(**GRID, lengths=lengths),
            lambda *p: prefix_edit_distance(*p, **GRID, lengths=lengths),
            (a, b),
        ),
        (SymbolEditDistance(normalize=True), lambda *p: edit_distance_symbols(*p, normalize=True), (x, y)),
    ):
        for rows in (slice(0, 7), slice(7, 40)):
            metric.update(pair[0][rows], av[rows], pair[1][rows], bv[rows])
        expected = function(pair[0], av, pair[1], bv)
        torch.testing.assert_close(metric.compute(), expected.nanmean(), rtol=1e-12, atol=0)
        assert int(metric.n_total) == 40
        assert int(metric.n_valid) == int((~expected.isnan()).sum())
        assert metric.higher_is_better is False


def test_errors():
    a, av, b, bv = random_paths(8, n_pairs=3)
    broken = a.clone()
    broken[1, 0] = torch.nan
    av = av.clone()
    av[1, 0] = True
    x, valid = string("ABC")
    cases = [
        (lambda: edit_distance(broken, av, b, bv, **GRID), "pair 1, fixation 0"),
        (lambda: edit_distance(a, ~av, b, bv, **GRID), "gap"),
        (lambda: edit_distance(a.nan_to_num(), av, b, bv, size_wh_px=(4, 3)), "does not fit 4x3 px"),
        (lambda: edit_distance_symbols(x.double(), valid, x, valid), "a must be .* integers"),
        (lambda: edit_distance_symbols(x, valid, x.expand(2, 3), valid.expand(2, 3)), "as many strings"),
        (lambda: edit_distance_symbols(x, valid, x, torch.tensor([[True, False, True]])), "pair 0, fixation 2"),
        (lambda: prefix_edit_distance_symbols(x, valid, x, valid, lengths=[0]), "positive whole"),
        (lambda: prefix_edit_distance_symbols(x, valid, x, valid, lengths=[]), "one or more"),
    ]
    for call, message in cases:
        with pytest.raises(InputError, match=message):
            call()
