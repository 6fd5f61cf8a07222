"""Checking, chunking and aligning pairs of paths."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from gazekit.errors import InputError
from gazekit.metrics import path_pairs
from gazekit.metrics.path_pairs import (
    PathPairs,
    Paths,
    align,
    align_counted,
    aligned_cells,
    all_pairs,
    check_pairs,
    distances,
    distinct_paths,
    map_by_length,
    pairwise,
    prefix,
)

# Both sides add the same float64 numbers, in another order at most.
EXACT = {"rtol": 1e-12, "atol": 1e-12}


def random_pairs(seed: int, n_pairs: int = 400, sizes: tuple[int, int] = (7, 5), lowest: int = 0):
    """Right-padded pairs of different widths, with lengths from `lowest` up; the padding holds NaN and 1e9."""
    rng = np.random.default_rng(seed)
    sides = []
    for size in sizes:
        valid = np.arange(size) < rng.integers(lowest, size + 1, (n_pairs, 1))
        xy = rng.uniform(0, 100, (n_pairs, size, 2))
        xy[~valid] = rng.choice([np.nan, 1e9], (~valid).sum())[:, None]
        sides += [torch.tensor(xy), torch.tensor(valid)]
    return sides


def costs(seed: int, ties: bool, n_pairs: int = 500):
    rng = np.random.default_rng(seed)
    n, m = torch.tensor(rng.integers(0, 7, n_pairs)), torch.tensor(rng.integers(0, 6, n_pairs))
    cost = rng.integers(0, 3, (n_pairs, 6, 5)).astype(float) if ties else rng.uniform(0, 1, (n_pairs, 6, 5))
    cost = torch.tensor(cost)
    # What stands outside must not matter.
    outside = ~(prefix(n, 6)[:, :, None] & prefix(m, 5)[:, None])
    return cost.masked_fill(outside, math.nan), n, m


def monotone_paths(n: int, m: int):
    """All of them, as lists of cells; preferred moves first at each step from the end."""
    if (n, m) == (1, 1):
        yield [(0, 0)]
        return
    for di, dj in ((1, 1), (0, 1), (1, 0)):
        if n > di and m > dj:
            for path in monotone_paths(n - di, m - dj):
                yield [*path, (n - 1, m - 1)]


@pytest.mark.parametrize("ties", [False, True])
def test_alignments_are_the_best_of_all_paths(ties):
    cost, n, m = costs(0, ties, 250)
    total, cells = align_counted(cost, n, m)
    largest = align(cost, n, m, "max")
    row, column, count = aligned_cells(cost, n, m)
    torch.testing.assert_close(align(cost, n, m), total, equal_nan=True, rtol=0, atol=0)
    several = 0
    for p in range(len(n)):
        if n[p] == 0 or m[p] == 0:
            assert total[p].isnan()
            assert largest[p].isnan()
            assert count[p] == 0
            continue
        paths = list(monotone_paths(int(n[p]), int(m[p])))
        sums = [sum(cost[p, i, j].item() for i, j in path) for path in paths]
        cheapest = min(sums)
        assert total[p].item() == pytest.approx(cheapest, rel=1e-12)
        best = [path for path, s in zip(paths, sums, strict=True) if s <= cheapest + 1e-9]
        assert cells[p] == min(map(len, best))
        assert largest[p] == min(max(cost[p, i, j].item() for i, j in path) for path in paths)
        walk = list(zip(row[: count[p], p].tolist(), column[: count[p], p].tolist(), strict=True))
        # Generated in the order of preference from the end: the first one is the one.
        assert walk[::-1] == best[0]
        several += len(best) > 1
    assert (several > 50) == ties
    assert total.isfinite().sum() > 100


def test_longest_walk():
    # Only costs below 0 make a path turn a corner that it could cut.
    cost = torch.ones(1, 3, 4).index_fill(1, torch.tensor([0]), -1.0).index_fill(2, torch.tensor([3]), -1.0)
    row, column, count = aligned_cells(cost, torch.tensor([3]), torch.tensor([4]))
    assert count.tolist() == [6]
    assert row[:, 0].tolist() == [2, 1, 0, 0, 0, 0]
    assert column[:, 0].tolist() == [3, 3, 3, 2, 1, 0]


def test_distances_do_not_cancel():
    # The matrix-product formula loses all digits here.
    a = torch.tensor([[[1e6, 1e6], [1e6 + 1, 1e6]]])
    assert distances(a, a).tolist() == [[[0, 1], [1, 0]]]
    a, b = torch.rand(3, 4, 3, dtype=torch.float64), torch.rand(3, 2, 3, dtype=torch.float64)
    torch.testing.assert_close(distances(a, b), torch.cdist(a, b), **EXACT)


def test_check_pairs_drops_what_is_padding():
    a, av, b, bv = random_pairs(3)
    seconds = torch.where(av, torch.rand(a.shape[:2], dtype=torch.float64), -1.0)
    pairs = check_pairs(a, av, b, bv, seconds, bv.double())
    torch.testing.assert_close(pairs.a_valid, av)
    torch.testing.assert_close(pairs.b_valid, bv)
    assert (pairs.a_px[~av] == 0).all()
    assert (pairs.b_px[~bv] == 0).all()
    torch.testing.assert_close(pairs.a_px[av], a[av], rtol=0, atol=0)
    assert (pairs.a_duration_s[~av] == 0).all()
    torch.testing.assert_close(pairs.a_duration_s[av], seconds[av], rtol=0, atol=0)
    assert pairs.n.tolist() == av.sum(1).tolist()


@pytest.mark.parametrize(
    ("given", "dtype"),
    [((torch.float32, torch.float32), torch.float32), ((torch.float64, torch.float32), torch.float64),
     ((torch.int64, torch.int64), torch.float64), ((torch.int32, torch.float32), torch.float32)],
)  # fmt: skip
def test_types(given, dtype):
    valid = torch.ones(2, 3, dtype=torch.bool)
    pairs = check_pairs(torch.ones(2, 3, 2, dtype=given[0]), valid, torch.ones(2, 3, 2, dtype=given[1]), valid)
    assert pairs.a_px.dtype == pairs.b_px.dtype == pairs.distances().dtype == dtype


def test_input_errors():
    a, v = torch.rand(2, 3, 2), torch.ones(2, 3, dtype=torch.bool)
    seconds = torch.rand(2, 3)

    def broken(at: tuple[int, ...], value: float, of: torch.Tensor = a) -> torch.Tensor:
        of = of.clone()
        of[at] = value
        return of

    gap = v.clone()
    gap[1, 1] = False
    cases = [
        ((a[0], v, a, v), r"expected a_px \(P, T, 2\)"),
        ((a, v[:, :2], a, v), "expected a_px"),
        ((a, v, a[..., :1], v), "expected b_px"),
        ((a, v, a[:1], v[:1]), r"one P for both paths; got \(1, 3, 2\) and \(1, 3\) where a_px is \(2, 3, 2\)"),
        ((a, v.float(), a, v), "a_valid must be bool"),
        ((a, v, a, gap), "pair 1: b_valid has a gap"),
        ((broken((1, 2, 0), math.nan), v, a, v), r"pair 1, fixation 2 of a_px: \(x, y\) = \[nan,"),
        ((a, v, broken((0, 1, 1), math.inf), v), "pair 0, fixation 1 of b_px"),
        ((a.half(), v, a, v), "float16"),
        ((a, v, a.bool(), v), "torch.bool"),
        ((a.to(torch.complex64), v, a, v), "complex64"),
        ((a, v, a, v, seconds), "both paths or for neither"),
        ((a, v, a, v, None, seconds), "both paths or for neither"),
        ((a, v, a, v, seconds[:, :2], seconds), r"a_duration_s must be \(2, 3\)"),
        ((a, v, a, v, seconds, broken((1, 0), math.nan, seconds)), "pair 1, fixation 0 of b_duration_s: nan s"),
        ((a, v, a, v, broken((0, 2), -0.5, seconds), seconds), "pair 0, fixation 2 of a_duration_s: -0.5 s"),
    ]
    for arguments, message in cases:
        with pytest.raises(InputError, match=message) as caught:
            check_pairs(*arguments)
        assert "\n" not in str(caught.value)


def digest(part: PathPairs) -> torch.Tensor:
    """Tells a pair from every other one, whatever the padding."""
    seconds = 0 if part.a_duration_s is None else part.a_duration_s.sum(1) * 3 + part.b_duration_s.sum(1) * 5
    return torch.stack([part.a_px.sum((1, 2)) + part.b_px.sum((1, 2)) * 2 + seconds, (part.n - part.m).double()], 1)


@pytest.mark.parametrize("cells", [1, 40, 2**17])
@pytest.mark.parametrize("timed", [False, True])
def test_map_puts_pairs_back_in_order(monkeypatch, cells, timed):
    monkeypatch.setattr(path_pairs, "_CPU_CELLS", cells)
    a, av, b, bv = random_pairs(4)
    pairs = check_pairs(a, av, b, bv, *((av.double(), bv.double() / 3) if timed else ()))
    sizes = []

    def noted(part: PathPairs) -> torch.Tensor:
        n_pairs, rows, columns = part.distances().shape
        sizes.append(n_pairs * rows * columns if n_pairs > 1 else 1)
        assert rows == max(1, int(part.n.max()))
        assert columns == max(1, int(part.m.max()))
        return digest(part)

    torch.testing.assert_close(pairs.map(noted), digest(pairs), **EXACT)
    assert max(sizes) <= cells
    # Chunks are filled: of 400 pairs of 12 cells on average, 40 cells hold more than one.
    assert len(sizes) <= {1: 400, 40: 250, 2**17: 1}[cells]


def test_map_by_length_with_shared_paths():
    paths = torch.arange(12.0).reshape(3, 4)
    n = torch.tensor([4, 1, 2])
    i, j = torch.tensor([0, 0, 2, 1, 2]), torch.tensor([1, 2, 2, 0, 0])

    def ends(n, m, a, b):
        return a[0].gather(1, n[:, None] - 1)[:, 0] * 100 + b[0].gather(1, m[:, None] - 1)[:, 0]

    got = map_by_length(ends, n[i], n[j], [paths], [paths], i, j)
    assert got.tolist() == [304, 309, 909, 403, 903]


@pytest.mark.parametrize("sizes", [(3, 2), (0, 2), (0, 0)])
@pytest.mark.parametrize("n_pairs", [0, 2])
def test_nothing_at_all(sizes, n_pairs):
    a, b = (torch.zeros(n_pairs, size, 2) for size in sizes)
    av, bv = (torch.zeros(n_pairs, size, dtype=torch.bool) for size in sizes)
    pairs = check_pairs(a, av, b, bv)
    score = pairs.map(lambda part: align(part.distances(), part.n, part.m))
    assert score.shape == (n_pairs,)
    assert score.isnan().all()
    total, cells = pairs.map(
        lambda part: torch.stack(align_counted(part.distances(), part.n, part.m), 1)
    ).unbind(1)  # fmt: skip
    assert total.isnan().all()
    assert len(cells) == n_pairs
    assert pairs.map(lambda part: aligned_cells(part.distances(), part.n, part.m)[2]).tolist() == [0] * n_pairs


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_distinct_paths(monkeypatch, dtype):
    rng = np.random.default_rng(5)
    few = torch.tensor(rng.uniform(0, 9, (6, 4, 2))).to(dtype)
    which = torch.tensor(rng.integers(0, 6, 50))
    n = which % 2
    rows, row = distinct_paths(few[which], n)
    assert len(rows) == len(which.unique())
    torch.testing.assert_close(few[which][rows][row], few[which], rtol=0, atol=0)
    # The same points and another length are another path.
    rows, row = distinct_paths(few[which], torch.arange(50))
    assert len(rows) == 50
    # Sums of bits may agree by chance; then nothing is merged.
    real = torch.randint
    monkeypatch.setattr(torch, "randint", lambda *args, **kwargs: torch.zeros_like(real(*args, **kwargs)))
    swapped = torch.tensor([[1.0, 2.0], [2.0, 1.0]], dtype=dtype)
    rows, row = distinct_paths(swapped)
    torch.testing.assert_close(swapped[rows][row], swapped, rtol=0, atol=0)


def last_distance(a_px, a_valid, b_px, b_valid, a_duration_s=None, b_duration_s=None, *, scale_px=1.0):
    """Not symmetric, and with a value of its own for each duration."""
    pairs = check_pairs(a_px, a_valid, b_px, b_valid, a_duration_s, b_duration_s)
    seconds = 0 if pairs.a_duration_s is None else pairs.a_duration_s.sum(1) - 2 * pairs.b_duration_s.sum(1)
    return scale_px * (pairs.distances()[:, 0].sum(1) + seconds)


@pytest.mark.parametrize("block", [1, 4, 1000])
@pytest.mark.parametrize("timed", [False, True])
def test_pairwise_is_a_loop(monkeypatch, block, timed):
    monkeypatch.setattr(path_pairs, "_BLOCK", block)
    a, av, b, bv = random_pairs(6, 5, lowest=1)
    one = Paths(a, av, av.double() if timed else None)
    two = Paths(b[:3], bv[:3], bv[:3].double() * 2 if timed else None)
    for first, second in ((one, two), (one, None)):
        other = first if second is None else second
        got = pairwise(last_distance, first, second, scale_px=2.0)
        assert got.shape == (5, len(other.px))
        for i, j in itertools.product(range(5), range(len(other.px))):
            seconds = (first.duration_s[[i]], other.duration_s[[j]]) if timed else ()
            pair = (first.px[[i]], first.valid[[i]], other.px[[j]], other.valid[[j]])
            want = last_distance(*pair, *seconds, scale_px=2.0)[0]
            torch.testing.assert_close(got[i, j], want, **EXACT)


def test_pairwise_symmetric():
    a, av, _, _ = random_pairs(7, 6, (9, 1))

    def warp(*pair):
        pairs = check_pairs(*pair)
        return pairs.map(lambda part: align(part.distances(), part.n, part.m))

    whole = pairwise(warp, Paths(a, av))
    torch.testing.assert_close(pairwise(warp, Paths(a, av), symmetric=True), whole, equal_nan=True, **EXACT)
    assert (whole.diagonal()[av.any(1)] == 0).all()
    with pytest.raises(InputError, match="leave b out"):
        pairwise(warp, Paths(a, av), Paths(a, av), symmetric=True)
    assert pairwise(warp, Paths(a[:0], av[:0]), symmetric=True).shape == (0, 0)
    assert pairwise(warp, Paths(a, av), Paths(a[:0], av[:0])).shape == (6, 0)


def test_all_pairs():
    i, j = all_pairs(5)
    assert list(zip(i.tolist(), j.tolist(), strict=True)) == list(itertools.combinations(range(5), 2))
    assert len(all_pairs(1)[0]) == len(all_pairs(0)[0]) == 0


def test_gradients_end_here():
    a, av, b, bv = random_pairs(8)
    pairs = check_pairs(a.requires_grad_(), av, b, bv, av.double().requires_grad_(), bv.double())
    assert not pairs.map(lambda part: align(part.distances(), part.n, part.m)).requires_grad
    assert not pairs.a_duration_s.requires_grad


def test_a_thousand_fixations():
    a = torch.rand(2, 1000, 2, dtype=torch.float64)
    valid = prefix(torch.tensor([1000, 999]), 1000)
    pairs = check_pairs(a, valid, a, valid)
    row, column, count = aligned_cells(pairs.distances(), pairs.n, pairs.m)
    assert count.tolist() == [1000, 999]
    assert (row == column).all()
    assert align(pairs.distances(), pairs.n, pairs.m).tolist() == [0, 0]
