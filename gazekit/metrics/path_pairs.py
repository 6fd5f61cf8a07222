"""Pairs of scanpaths: checking them, cutting them into chunks of like length, aligning them.

A path metric checks its arguments once, then scores chunks of pairs that are trimmed to their longest path:

    pairs = check_pairs(a_px, a_valid, b_px, b_valid)
    return pairs.map(lambda part: align(part.distances(), part.n, part.m))

All pairs go through a dynamic programme together, one anti-diagonal after the other. Tensors whose last
axis in memory is the pair are the quick ones: :meth:`PathPairs.distances` makes such, shown as (P, N, M).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from gazekit.errors import InputError

# Cells of the (pairs, N, M) working copies: 1 MB each in float64 stay in the cache of a CPU; a GPU wants more.
_CPU_CELLS, _GPU_CELLS = 2**17, 2**22
# Expanded pairs that `pairwise` holds at a time.
_BLOCK = 2**15
_BITS = {4: torch.int32, 8: torch.int64}


class Paths(NamedTuple):
    """Scanpaths to be paired.

    Args:
        px: (B, T, 2) fixations as (x, y) px.
        valid: (B, T) bool, False where the scanpath is padding.
        duration_s: (B, T), or None where the metric takes no durations.

    """

    px: Tensor
    valid: Tensor
    duration_s: Tensor | None = None


@dataclass(frozen=True)
class PathPairs:
    """P checked pairs of scanpaths, without gradients, finite everywhere and 0 in the padding.

    Args:
        a_px: (P, N, 2) float32 or float64.
        b_px: (P, M, 2), same type.
        n: (P,) long, fixations of the first path.
        m: (P,) long, fixations of the second path.
        a_duration_s: (P, N), same type, or None.
        b_duration_s: (P, M), same type, or None.

    """

    a_px: Tensor
    b_px: Tensor
    n: Tensor
    m: Tensor
    a_duration_s: Tensor | None = None
    b_duration_s: Tensor | None = None

    @property
    def a_valid(self) -> Tensor:
        """(P, N) bool."""
        return prefix(self.n, self.a_px.shape[1])

    @property
    def b_valid(self) -> Tensor:
        """(P, M) bool."""
        return prefix(self.m, self.b_px.shape[1])

    def distances(self) -> Tensor:
        """(P, N, M) Euclidean distances in px, with the pairs last in memory; padding stands at (0, 0)."""
        return distances(self.a_px, self.b_px)

    def map(self, function: Callable[[PathPairs], Tensor]) -> Tensor:
        """Score chunks of pairs of like length with `function`, (p, ...) each, and put them back in order."""
        a, b = [self.a_px], [self.b_px]
        durations = self.a_duration_s is not None and self.b_duration_s is not None
        if self.a_duration_s is not None and self.b_duration_s is not None:
            a, b = [*a, self.a_duration_s], [*b, self.b_duration_s]

        def part(n: Tensor, m: Tensor, a: list[Tensor], b: list[Tensor]) -> Tensor:
            return function(PathPairs(a[0], b[0], n, m, a[1] if durations else None, b[1] if durations else None))

        return map_by_length(part, self.n, self.m, a, b)


def check_pairs(
    a_px: Tensor,
    a_valid: Tensor,
    b_px: Tensor,
    b_valid: Tensor,
    a_duration_s: Tensor | None = None,
    b_duration_s: Tensor | None = None,
) -> PathPairs:
    """P pairs of scanpaths, ready to be compared; what the padding holds is dropped unread.

    Args:
        a_px: (P, N, 2) fixations as (x, y) px; float32, float64, or integers, which become float64.
        a_valid: (P, N) bool, True ... True False ... False in each row.
        b_px: (P, M, 2).
        b_valid: (P, M) bool.
        a_duration_s: (P, N), or None.
        b_duration_s: (P, M), or None; both or neither.

    Raises:
        InputError: Shapes or types do not fit, `valid` is not a prefix, or a valid fixation has a position
            that is not finite or a duration that is negative or not finite.

    """
    for name, px, valid in (("a", a_px, a_valid), ("b", b_px, b_valid)):
        if px.ndim != 3 or px.shape[-1] != 2 or valid.shape != px.shape[:2] or len(px) != len(a_px):
            raise InputError(
                f"expected {name}_px (P, T, 2) and {name}_valid (P, T) with one P for both paths; "
                f"got {tuple(px.shape)} and {tuple(valid.shape)} where a_px is {tuple(a_px.shape)}"
            )
        if valid.dtype != torch.bool:
            raise InputError(f"{name}_valid must be bool, True where there is a fixation; got {valid.dtype}")
        broken = (valid[:, 1:] & ~valid[:, :-1]).any(1)
        if broken.any():
            raise InputError(
                f"pair {int(broken.nonzero()[0])}: {name}_valid has a gap; fixations come first, then padding only"
            )
    if (a_duration_s is None) != (b_duration_s is None):
        raise InputError("give durations for both paths or for neither")
    inputs = [t for t in (a_px, b_px, a_duration_s, b_duration_s) if t is not None]
    dtype = _common_float(inputs)
    a, b = (_finite(px, valid, name, dtype) for name, px, valid in (("a", a_px, a_valid), ("b", b_px, b_valid)))
    a_s, b_s = (
        None if s is None else _durations(s, valid, name, dtype)
        for name, s, valid in (("a", a_duration_s, a_valid), ("b", b_duration_s, b_valid))
    )
    return PathPairs(a, b, a_valid.sum(1), b_valid.sum(1), a_s, b_s)


def _common_float(tensors: list[Tensor]) -> torch.dtype:
    for tensor in tensors:
        if tensor.is_complex() or tensor.dtype in (torch.bool, torch.float16, torch.bfloat16):
            raise InputError(f"positions and durations must be float32, float64 or integers; got {tensor.dtype}")
    floats = {t.dtype for t in tensors if t.is_floating_point()}
    return torch.float32 if floats == {torch.float32} else torch.float64


def _finite(px: Tensor, valid: Tensor, name: str, dtype: torch.dtype) -> Tensor:
    px = px.detach().to(dtype).masked_fill(~valid[..., None], 0.0)
    if not px.isfinite().all():
        pair, step = (~px.isfinite()).any(-1).nonzero()[0].tolist()
        raise InputError(
            f"pair {pair}, fixation {step} of {name}_px: (x, y) = {px[pair, step].tolist()} px is not finite; "
            f"drop such fixations before pairing, which changes the saccades"
        )
    return px


def _durations(duration_s: Tensor, valid: Tensor, name: str, dtype: torch.dtype) -> Tensor:
    if duration_s.shape != valid.shape:
        raise InputError(
            f"{name}_duration_s must be {tuple(valid.shape)} as {name}_valid; got {tuple(duration_s.shape)}"
        )
    duration_s = duration_s.detach().to(dtype).masked_fill(~valid, 0.0)
    usable = duration_s.isfinite() & (duration_s >= 0)
    if not usable.all():
        pair, step = (~usable).nonzero()[0].tolist()
        raise InputError(
            f"pair {pair}, fixation {step} of {name}_duration_s: {duration_s[pair, step].item()} s is not a duration; "
            f"drop the fixation, or give no durations where the metric can do without"
        )
    return duration_s


def prefix(n: Tensor, size: int) -> Tensor:
    """(P,) lengths -> (P, size) bool, True for the first n."""
    return torch.arange(size, device=n.device) < n[:, None]


def distances(a: Tensor, b: Tensor) -> Tensor:
    """(P, N, D) and (P, M, D) points -> (P, N, M) Euclidean distances, with the pairs last in memory.

    Differences are squared and added as they stand, without the cancellation of the matrix-product formula.
    """
    a, b = a.permute(2, 1, 0).contiguous(), b.permute(2, 1, 0).contiguous()
    square = (a[0][:, None] - b[0]).square_()
    for along_a, along_b in zip(a[1:], b[1:], strict=True):
        gap = along_a[:, None] - along_b
        square.addcmul_(gap, gap)
    return square.sqrt_().permute(2, 0, 1)


def map_by_length(
    function: Callable[[Tensor, Tensor, list[Tensor], list[Tensor]], Tensor],
    n: Tensor,
    m: Tensor,
    a: list[Tensor],
    b: list[Tensor],
    a_row: Tensor | None = None,
    b_row: Tensor | None = None,
) -> Tensor:
    """Cut P pairs into chunks of like length, call `function` on each, put the results back in order.

    Args:
        function: (n, m, a, b) of p pairs -> (p, ...). The tensors are trimmed to the longest path of the chunk
            (to length 1 where all are empty).
        n: (P,) long, lengths of the first paths.
        m: (P,) long, lengths of the second paths.
        a: Tensors (P, N, ...) that belong to the first paths.
        b: Tensors (P, M, ...) that belong to the second paths.
        a_row: (P,) long: pair p has row a_row[p] of the tensors in `a`, which then are (D, N, ...) for D distinct
            paths (see :func:`distinct_paths`); None: pair p has row p.
        b_row: The same for `b`.

    """
    order = torch.argsort(torch.maximum(n, m) * (4 * (a[0].shape[1] + b[0].shape[1]) + 4) + (n - m))
    # One transfer: where the chunks end is for the host to decide.
    lengths = torch.stack([n[order], m[order]]).cpu()
    cells = _GPU_CELLS if n.is_cuda else _CPU_CELLS
    results: list[Tensor] = []
    start = 0
    while start < len(order) or not results:
        longest, stop = [1, 1], start + 1
        if start < len(order):
            # Paths grow along the order: the first pair bounds how many fit, the longest ones among these decide.
            first = lengths[:, start].clamp(min=1)
            stop = start + max(1, cells // int(first.prod()))
            longest = lengths[:, start:stop].amax(1).clamp(min=1).tolist()
            stop = start + max(1, min(stop - start, cells // (longest[0] * longest[1])))
            longest = lengths[:, start:stop].amax(1).clamp(min=1).tolist()
        rows = order[start:stop]
        part_a = [_trimmed(t, rows if a_row is None else a_row[rows], longest[0]) for t in a]
        part_b = [_trimmed(t, rows if b_row is None else b_row[rows], longest[1]) for t in b]
        results.append(function(n[rows], m[rows], part_a, part_b))
        start = stop
    found = torch.cat(results)
    return torch.empty_like(found).index_copy_(0, order, found)


def distinct_paths(*tensors: Tensor) -> tuple[Tensor, Tensor]:
    """Which rows of (P, ...) tensors are the same path, so that what depends on one path is worked out once.

    Returns:
        (D,) long, one row for each distinct path, and (P,) long, which of the D each row is.

    """
    n_rows = len(tensors[0])
    rows = torch.arange(n_rows, device=tensors[0].device)
    # Sorting whole rows would cost more than it saves: rows are told apart by a sum of their bits, then compared.
    key = torch.zeros_like(rows)
    generator = torch.Generator().manual_seed(0)
    for tensor in tensors:
        bits = tensor.contiguous().view(_BITS[tensor.element_size()]).reshape(n_rows, math.prod(tensor.shape[1:]))
        weights = torch.randint(-(2**63), 2**63 - 1, (bits.shape[1],), generator=generator) | 1
        key += (bits * weights.to(bits.device)).sum(1)  # wraps around, as it may
    ordered, order = key.sort(stable=True)
    first = torch.ones_like(ordered, dtype=torch.bool)
    first[1:] = ordered[1:] != ordered[:-1]
    which = torch.empty_like(rows).index_copy_(0, order, first.cumsum(0) - 1)
    picked = order[first]
    same = all(torch.equal(t, t[picked][which]) for t in tensors)
    return (picked, which) if same else (rows, rows)


def _trimmed(tensor: Tensor, rows: Tensor, longest: int) -> Tensor:
    """Some rows, cut or padded along the second axis to `longest` steps."""
    part = tensor[:, :longest][rows]
    missing = longest - part.shape[1]
    return part if missing == 0 else pad(part, (0, 0) * (part.ndim - 2) + (0, missing))


def align(cost: Tensor, n: Tensor, m: Tensor, how: Literal["sum", "max"] = "sum") -> Tensor:
    """(P,) cost of the cheapest monotone path from cell (0, 0) to cell (n - 1, m - 1); NaN where n or m is 0.

    A path moves by (1, 1), (0, 1) or (1, 0) and pays every cell it visits, the first included.

    Args:
        cost: (P, N, M) float; cells past n or m do not matter.
        n: (P,) long, rows in use.
        m: (P,) long, columns in use.
        how: "sum" of the costs (dynamic time warping) or their "max" (discrete Frechet).

    """
    return _at_end(_warped(cost, how), n, m).masked_fill((n == 0) | (m == 0), torch.nan)


def align_counted(cost: Tensor, n: Tensor, m: Tensor) -> tuple[Tensor, Tensor]:
    """(P,) :func:`align` by sum, and (P,) long the fewest cells that a path of that cost visits."""
    table = _warped(cost, "sum")
    rows, columns = cost.shape[1:]
    flat = table.flatten(0, 1)
    # More than any path has, yet far from the largest float32 integer.
    count = torch.full_like(flat, 2.0**23)
    count[0] = 0
    for low, high, k in _anti_diagonals(rows, columns):
        before = [_diagonal(flat, columns + 1, *cells) for cells in _before(low, high, k)]
        cheapest = torch.minimum(torch.minimum(before[0], before[1]), before[2])
        fewest = _diagonal(count, columns + 1, low, high, k)
        for value, cells in zip(before, _before(low, high, k), strict=True):
            steps = _diagonal(count, columns + 1, *cells) + 1
            torch.minimum(fewest, steps.masked_fill_(value > cheapest, 2.0**23), out=fewest)
    total = _at_end(table, n, m).masked_fill((n == 0) | (m == 0), torch.nan)
    return total, _at_end(count.view(table.shape), n, m).long()


def aligned_cells(cost: Tensor, n: Tensor, m: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The cells of the cheapest path of :func:`align` by sum, walked from its end (n - 1, m - 1) to (0, 0).

    Of several cheapest paths, the walk back prefers (1, 1), then (0, 1), then (1, 0) at each step. To break ties
    from the start instead, reverse both paths before.

    Returns:
        Row and column, (L, P) long, L the longest path; and (P,) long the cells of each path, none where n or m
        is 0. Entries past the end are 0.

    """
    table = _warped(cost, "sum")
    width, n_pairs = table.shape[1], table.shape[2]
    flat = table.flatten(0, 1)
    steps = torch.tensor([[width + 1], [1], [width]], device=flat.device)
    at = ((n * width) + m).masked_fill((n == 0) | (m == 0), 0)
    walked = []
    for _ in range(table.shape[0] + width - 3):
        walked.append(at)
        diagonal, left, up = flat.gather(0, (at - steps).clamp_(min=0))
        step = torch.where(left <= up, 1, width).masked_fill_(diagonal <= torch.minimum(left, up), width + 1)
        at = (at - step).clamp_(min=0)  # cell 0 is before the start: paths that got there stay
    path = torch.stack(walked) if walked else at.new_zeros(0, n_pairs)
    count = (path > 0).sum(0)
    path = path[: int(count.max())] if n_pairs else path
    row, column = path.div(width, rounding_mode="floor"), path % width
    return (row - 1).clamp_(min=0), (column - 1).clamp_(min=0), count


# Tables have a border: cell (i, j) of a table is about the first i and the first j elements, so that element
# i - 1 and element j - 1 meet there. Anti-diagonal k holds the cells with i + j = k.


def _pairs_last(cost: Tensor) -> tuple[Tensor, int, int, int]:
    """(P, N, M) -> (N * M, P), N, M and P."""
    n_pairs, rows, columns = cost.shape
    return cost.permute(1, 2, 0).reshape(rows * columns, n_pairs), rows, columns, n_pairs


def _anti_diagonals(rows: int, columns: int) -> Iterator[tuple[int, int, int]]:
    """First row, last row and k of each anti-diagonal, without the border."""
    for k in range(2, rows + columns + 1):
        if max(1, k - columns) <= min(rows, k - 1):
            yield max(1, k - columns), min(rows, k - 1), k


def _before(low: int, high: int, k: int) -> list[tuple[int, int, int]]:
    """Where (1, 1), (0, 1) and (1, 0) come from, for :func:`_diagonal`."""
    return [(low - 1, high - 1, k - 2), (low, high, k - 1), (low - 1, high - 1, k - 1)]


def _diagonal(flat: Tensor, width: int, low: int, high: int, k: int) -> Tensor:
    """The cells (i, k - i), low <= i <= high, of a table with rows of `width`: a view (high - low + 1, P)."""
    step = width - 1
    return flat[low * step + k : high * step + k + 1 : max(1, step)]


def _warped(cost: Tensor, how: Literal["sum", "max"]) -> Tensor:
    """(N + 1, M + 1, P) table of the cheapest monotone paths."""
    flat, rows, columns, n_pairs = _pairs_last(cost)
    table = torch.full(((rows + 1) * (columns + 1), n_pairs), torch.inf, dtype=flat.dtype, device=flat.device)
    table[0] = 0 if how == "sum" else -torch.inf
    for low, high, k in _anti_diagonals(rows, columns):
        diagonal, left, up = (_diagonal(table, columns + 1, *cells) for cells in _before(low, high, k))
        here = _diagonal(table, columns + 1, low, high, k)
        cell = _diagonal(flat, columns, low - 1, high - 1, k - 2)
        torch.minimum(left, up, out=here)
        torch.minimum(here, diagonal, out=here)
        if how == "sum":
            here.add_(cell)
        else:
            torch.maximum(here, cell, out=here)
    return table.view(rows + 1, columns + 1, n_pairs)


def _at_end(table: Tensor, n: Tensor, m: Tensor) -> Tensor:
    """(N + 1, M + 1, P) -> (P,) the cell (n, m) of each pair."""
    return table.flatten(0, 1).gather(0, (n * table.shape[1] + m)[None])[0]


def all_pairs(n: int, device: torch.device | str | None = None) -> tuple[Tensor, Tensor]:
    """Indices i < j of the n (n - 1) / 2 unordered pairs of n paths."""
    i, j = torch.triu_indices(n, n, 1, device=device)
    return i, j


def pairwise(
    metric: Callable[..., Tensor], a: Paths, b: Paths | None = None, *, symmetric: bool = False, **parameters: Any
) -> Tensor:
    """(n, m, ...) scores of every path of `a` with every path of `b`; with every path of `a` where b is None.

    Args:
        metric: A path metric of this package: (P, N, 2), (P, N), (P, M, 2), (P, M), then durations if there are
            any, to (P, ...).
        a: n paths.
        b: m paths, or None.
        symmetric: Score i < j only and mirror it. The diagonal is scored: a path that is too short has no score
            with itself either.
        parameters: For the metric.

    Raises:
        InputError: `symmetric` with two different sets, or what the metric raises.

    """
    if symmetric and b is not None:
        raise InputError("symmetric=True is for the pairs within one set of paths; leave b out")
    other = a if b is None else b
    rows, columns, device = len(a.px), len(other.px), a.px.device
    if symmetric:
        i, j = all_pairs(rows, device)
        diagonal = torch.arange(rows, device=device)
        i, j = torch.cat([diagonal, i]), torch.cat([diagonal, j])
    else:
        cell = torch.arange(rows * columns, device=device)
        i, j = cell.div(max(1, columns), rounding_mode="floor"), cell % max(1, columns)
    blocks = zip(torch.split(i, _BLOCK), torch.split(j, _BLOCK), strict=True)
    score = torch.cat([_score(metric, a, other, *block, **parameters) for block in blocks])
    matrix = score.new_empty(rows, columns, *score.shape[1:])
    matrix[i, j] = score
    if symmetric:
        matrix[j, i] = score
    return matrix


def _score(metric: Callable[..., Tensor], a: Paths, b: Paths, i: Tensor, j: Tensor, **parameters: Any) -> Tensor:
    durations = {} if a.duration_s is None else {"a_duration_s": a.duration_s[i]}
    if b.duration_s is not None:
        durations["b_duration_s"] = b.duration_s[j]
    return metric(a.px[i], a.valid[i], b.px[j], b.valid[j], **durations, **parameters)
