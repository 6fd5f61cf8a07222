"""String edit distance (SED) of scanpaths, and the alignment of strings behind every score on symbols.

Definition: Levenshtein (1966), Soviet Physics Doklady 10, 707-710; with transpositions the restricted form, also
called optimal string alignment, in which no substring is edited twice. A scanpath becomes a string on a grid:
Brandt & Stark (1997), Journal of Cognitive Neuroscience 9, 27-38.

Grids and distances that are in use under this name: 5x5 without transpositions (the metric collection of Chen et
al. and ScanDMM; the default here), 4x4 with transpositions (FixaTons, NeVA, which averages over prefixes), 10x10
without (ScanDiff), clusters without (FED of Gazeformer), and labels without (SemFED).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gazekit.errors import InputError
from gazekit.metrics.grid_strings import check_strings, cluster_symbols, grid_symbols, label_symbols
from gazekit.metrics.mean_over_trials import MeanOverTrials
from gazekit.metrics.path_pairs import check_pairs

# Numbers in a working copy. On a CPU well below the size from which PyTorch splits an operation over threads:
# all copies stay in the cache, and a busy machine does not make small operations wait for a second core.
_CPU_CHUNK, _GPU_CHUNK = 2**14, 2**22
# Symbols of a string that fit the bits of a number, with its sign bit and a carry to spare.
LONGEST_IN_BITS = 62


def edit_distance(
    a_px: Tensor,
    a_valid: Tensor,
    b_px: Tensor,
    b_valid: Tensor,
    *,
    size_wh_px: tuple[int, int],
    bins_wh: tuple[int, int] = (5, 5),
    transpositions: bool = False,
    normalize: bool = False,
) -> Tensor:
    """Edit distance of each pair on a grid, in edits; lower is better.

    From 0 to the longer length; symmetric; defined from length 0 on: the distance to an empty path is the length.
    Chance depends on the grid and the lengths. Positions outside the image count for the nearest cell.

    Args:
        a_px: (P, N, 2) fixations as (x, y) px.
        a_valid: (P, N) bool, True ... True False ...
        b_px: (P, M, 2).
        b_valid: (P, M) bool.
        size_wh_px: Image size that the grid divides.
        bins_wh: Cells per row and per column.
        transpositions: Count two swapped neighbours as one edit, not two.
        normalize: Divide by the longer length; two empty paths then have distance 0.

    Returns:
        (P,) in the type of the positions (integers give float64); never NaN.

    Raises:
        InputError: Shapes do not fit, or a valid position is not finite.

    """
    pairs = check_pairs(a_px, a_valid, b_px, b_valid)
    a, b = (
        grid_symbols(px, valid, size_wh_px=size_wh_px, bins_wh=bins_wh)
        for px, valid in ((pairs.a_px, a_valid), (pairs.b_px, b_valid))
    )
    distance = edit_distance_symbols(a, a_valid, b, b_valid, transpositions=transpositions, normalize=normalize)
    return distance.to(pairs.a_px.dtype)


def prefix_edit_distance(
    a_px: Tensor,
    a_valid: Tensor,
    b_px: Tensor,
    b_valid: Tensor,
    *,
    size_wh_px: tuple[int, int],
    bins_wh: tuple[int, int] = (4, 4),
    lengths: Collection[int] = range(1, 11),
    transpositions: bool = True,
) -> Tensor:
    """Mean edit distance of the first k fixations of both paths over the lengths k, as in NeVA; lower is better.

    From 0 to the mean length; symmetric; needs as many fixations as the largest length. See :func:`edit_distance`
    for the arguments in common.

    Args:
        a_px: (P, N, 2) fixations as (x, y) px.
        a_valid: (P, N) bool.
        b_px: (P, M, 2).
        b_valid: (P, M) bool.
        size_wh_px: Image size that the grid divides.
        bins_wh: Cells per row and per column.
        lengths: Of the prefixes, in fixations.
        transpositions: Count two swapped neighbours as one edit, not two.

    Returns:
        (P,) in the type of the positions; NaN where a path is shorter than the largest length.

    Raises:
        InputError: Shapes do not fit, a valid position is not finite, or a length is not positive.

    """
    pairs = check_pairs(a_px, a_valid, b_px, b_valid)
    a, b = (
        grid_symbols(px, valid, size_wh_px=size_wh_px, bins_wh=bins_wh)
        for px, valid in ((pairs.a_px, a_valid), (pairs.b_px, b_valid))
    )
    distance = prefix_edit_distance_symbols(a, a_valid, b, b_valid, lengths=lengths, transpositions=transpositions)
    return distance.mean(1).to(pairs.a_px.dtype)


def cluster_edit_distance(
    a_px: Tensor,
    a_valid: Tensor,
    b_px: Tensor,
    b_valid: Tensor,
    *,
    centers_px: Tensor,
    centers_valid: Tensor | None = None,
    image: Tensor | None = None,
    normalize: bool = False,
) -> Tensor:
    """Edit distance of each pair over the clusters of its image (FED of Gazeformer), in edits; lower is better.

    See :func:`edit_distance` for range and edge cases, :func:`~gazekit.metrics.grid_strings.cluster_symbols` for
    the clusters and :func:`~gazekit.metrics.sequence_score.fit_alphabet` for where they come from.
    """
    pairs = check_pairs(a_px, a_valid, b_px, b_valid)
    a, b = (
        cluster_symbols(px, valid, centers_px=centers_px, centers_valid=centers_valid, image=image)
        for px, valid in ((pairs.a_px, a_valid), (pairs.b_px, b_valid))
    )
    return edit_distance_symbols(a, a_valid, b, b_valid, normalize=normalize).to(pairs.a_px.dtype)


def semantic_edit_distance(
    a_px: Tensor,
    a_valid: Tensor,
    b_px: Tensor,
    b_valid: Tensor,
    *,
    labels: Tensor,
    unlabelled: Collection[int] = (),
    image: Tensor | None = None,
    normalize: bool = False,
) -> Tensor:
    """Edit distance of each pair over the labels under its fixations (SemFED), in edits; lower is better.

    See :func:`edit_distance` for range and edge cases, :func:`~gazekit.metrics.grid_strings.label_symbols` for
    the labels.
    """
    pairs = check_pairs(a_px, a_valid, b_px, b_valid)
    a, b = (
        label_symbols(px, valid, labels=labels, unlabelled=unlabelled, image=image)
        for px, valid in ((pairs.a_px, a_valid), (pairs.b_px, b_valid))
    )
    return edit_distance_symbols(a, a_valid, b, b_valid, normalize=normalize).to(pairs.a_px.dtype)


def edit_distance_symbols(
    a: Tensor, a_valid: Tensor, b: Tensor, b_valid: Tensor, *, transpositions: bool = False, normalize: bool = False
) -> Tensor:
    """Edit distance of each pair of strings, whatever their symbols mean; see :func:`edit_distance`.

    Args:
        a: (P, N) integers.
        a_valid: (P, N) bool, True ... True False ...
        b: (P, M).
        b_valid: (P, M) bool.
        transpositions: Count two swapped neighbours as one edit, not two.
        normalize: Divide by the longer length; two empty strings then have distance 0.

    Returns:
        (P,) float64; never NaN.

    Raises:
        InputError: Shapes or types do not fit.

    """
    check_strings(a, a_valid, b, b_valid)
    distance = _distances(a, a_valid, b, b_valid, transpositions, None)
    if not normalize:
        return distance
    return distance / torch.maximum(a_valid.sum(1), b_valid.sum(1)).clamp(min=1)


def prefix_edit_distance_symbols(
    a: Tensor,
    a_valid: Tensor,
    b: Tensor,
    b_valid: Tensor,
    *,
    lengths: Collection[int] = range(1, 11),
    transpositions: bool = True,
) -> Tensor:
    """(P, K) float64 edit distance of the first k symbols of both strings, for each length k.

    Args:
        a: (P, N) integers.
        a_valid: (P, N) bool, True ... True False ...
        b: (P, M).
        b_valid: (P, M) bool.
        lengths: K lengths of prefixes.
        transpositions: Count two swapped neighbours as one edit, not two.

    Returns:
        (P, K) float64; NaN where a string is shorter than the length.

    Raises:
        InputError: Shapes or types do not fit, or a length is not positive.

    """
    check_strings(a, a_valid, b, b_valid)
    return _distances(a, a_valid, b, b_valid, transpositions, check_lengths(lengths, "lengths"))


def check_lengths(lengths: Collection[int], name: str) -> list[int]:
    """The lengths as a list; InputError unless there are some, and all are positive whole numbers."""
    wanted = list(lengths)
    if not wanted or any(not isinstance(k, int) or k < 1 for k in wanted):
        raise InputError(f"{name} must be one or more positive whole numbers, as range(1, 11); got {lengths!r}")
    return wanted


def _distances(
    a: Tensor, a_valid: Tensor, b: Tensor, b_valid: Tensor, transpositions: bool, prefixes: list[int] | None
) -> Tensor:
    if a.shape[1] > LONGEST_IN_BITS:
        edits = Scoring(gap=-1.0, match=0.0, mismatch=-1.0, swap=-1.0 if transpositions else None)
        return 0.0 - align_strings(a, a_valid, b, b_valid, edits, prefixes)
    return by_bits(
        a, a_valid, b, b_valid, lambda n, m, matches: _distances_by_bits(n, m, matches, transpositions, prefixes)
    )


def _distances_by_bits(
    n: Tensor, m: Tensor, matches: Iterator[Tensor], transpositions: bool, prefixes: list[int] | None
) -> Tensor:
    """Edit distances by the bit-parallel algorithm of Hyyrö (2003), Nordic Journal of Computing 10, 29-39.

    Bit i of a number says how the table changes from row i to row i + 1, in the column of the symbol of b at hand:
    `rises` by one or `falls` by one. Bits past the end of a only carry upwards, so they need no care.
    """
    rises, falls = torch.full_like(n, -1), torch.zeros_like(n)
    last_rises, last_falls = rises, falls
    flat_before, match_before = torch.full_like(n, -1), torch.zeros_like(n)
    by_length = {} if prefixes is None else {k: torch.full_like(n, torch.nan, dtype=torch.float64) for k in prefixes}
    for j, match in enumerate(matches, start=1):
        flat = (((match & rises) + rises) ^ rises) | match | falls  # no change along the diagonal
        if transpositions:
            flat |= ((~flat_before & match) << 1) & match_before
            flat_before, match_before = flat, match
        rises_right = ((falls | ~(flat | rises)) << 1) | 1
        falls_right = (flat & rises) << 1
        rises, falls = falls_right | ~(flat | rises_right), rises_right & flat
        in_use = j <= m
        last_rises, last_falls = torch.where(in_use, rises, last_rises), torch.where(in_use, falls, last_falls)
        if j in by_length and j <= LONGEST_IN_BITS:
            distance = j + count_bits(rises, torch.full_like(n, j)) - count_bits(falls, torch.full_like(n, j))
            by_length[j] = distance.double().masked_fill(torch.minimum(n, m) < j, torch.nan)
    if prefixes is not None:
        return torch.stack([by_length[k] for k in prefixes], 1)
    return (m + count_bits(last_rises, n) - count_bits(last_falls, n)).double()


def by_bits(
    a: Tensor,
    a_valid: Tensor,
    b: Tensor,
    b_valid: Tensor,
    score: Callable[[Tensor, Tensor, Iterator[Tensor]], Tensor],
) -> Tensor:
    """Score pairs of strings by a bit-parallel algorithm, chunk by chunk.

    Args:
        a: (P, N) integers, N at most LONGEST_IN_BITS.
        a_valid: (P, N) prefix mask.
        b: (P, M).
        b_valid: (P, M) prefix mask.
        score: (p,) lengths n, m and, per symbol of b, (p,) numbers whose bit i says that it equals symbol i of a
            -> (p, ...) scores.

    """
    n, m = a_valid.sum(1), b_valid.sum(1)
    order = in_order_of_length(n, m)
    n, m, pattern, text = n[order], m[order], a[order].T, b[order].T
    bit = (1 << torch.arange(len(pattern), device=a.device))[:, None]
    found = [score(n[:0], m[:0], iter(()))]
    for pairs, (n_max, m_max) in length_chunks(n, m, lambda n_max, m_max: n_max + 1):
        own, other = pattern[:n_max, pairs].contiguous(), text[:m_max, pairs].contiguous()
        found.append(score(n[pairs], m[pairs], (((own == symbol) * bit[:n_max]).sum(0) for symbol in other)))
    scores = torch.cat(found)
    return torch.empty_like(scores).index_copy_(0, order, scores)


def count_bits(bits: Tensor, n: Tensor) -> Tensor:
    """How many of the lowest n bits are set, n at most LONGEST_IN_BITS."""
    bits = bits & ((1 << n) - 1)
    bits = bits - ((bits >> 1) & 0x5555555555555555)
    bits = (bits & 0x3333333333333333) + ((bits >> 2) & 0x3333333333333333)
    return (((bits + (bits >> 4)) & 0x0F0F0F0F0F0F0F0F) * 0x0101010101010101) >> 56


@dataclass(frozen=True)
class Scoring:
    """What an alignment of two strings earns; the best one earns most.

    Args:
        gap: For a symbol without a partner.
        match: For two equal symbols.
        mismatch: For two different ones.
        table: Earnings by the sum of the two codes and `origin`, instead of the two above; the strings hold codes.
        origin: See `table`.
        swap: For two neighbours that match crosswise; None: no such thing.

    """

    gap: float
    match: float = 1.0
    mismatch: float = 0.0
    table: Tensor | None = None
    origin: int = 0
    swap: float | None = None


def align_strings(
    a: Tensor, a_valid: Tensor, b: Tensor, b_valid: Tensor, scoring: Scoring, prefixes: list[int] | None = None
) -> Tensor:
    """What the best alignment of each pair earns; what stands in the padding does not matter.

    All pairs of a chunk go along the anti-diagonals of the table together, and only the last few are kept: pairs
    of strings of 60 symbols, as ScanMatch has them, never need their 3,600 costs in memory.

    Args:
        a: (P, N) long.
        a_valid: (P, N) prefix mask.
        b: (P, M) long.
        b_valid: (P, M) prefix mask.
        scoring: What to earn.
        prefixes: Lengths k; then the result is (P, K) for the first k symbols of both, NaN where there are fewer.

    Returns:
        (P,) or (P, K) in the type of the table; float64 without one.

    """
    n, m = a_valid.sum(1), b_valid.sum(1)
    code = torch.int64 if scoring.table is None else torch.int32
    a, b = a.masked_fill(~a_valid, 0).to(code) + scoring.origin, b.masked_fill(~b_valid, 0).to(code)
    dtype = torch.float64 if scoring.table is None else scoring.table.dtype
    found = torch.empty((len(a),) if prefixes is None else (len(a), len(prefixes)), dtype=dtype, device=a.device)
    order = in_order_of_length(n, m)
    n, m, a, b = n[order], m[order], a[order].T, b[order].T
    for pairs, (n_max, m_max) in length_chunks(n, m, lambda n_max, m_max: n_max + 1):
        a_part, b_part = a[:n_max, pairs].contiguous(), b[:m_max, pairs].flip(0).contiguous()
        found[pairs] = _align_chunk(a_part, b_part, n[pairs], m[pairs], scoring, prefixes, dtype)
    return torch.empty_like(found).index_copy_(0, order, found)


def in_order_of_length(n: Tensor, m: Tensor) -> Tensor:
    """(P,) pair numbers such that pairs of like length are neighbours."""
    most = int(m.max()) + 1 if len(m) else 1
    return (torch.maximum(n, m) * most + m).argsort()


def length_chunks(
    n: Tensor, m: Tensor, size: Callable[[int, int], int], budget: int | None = None
) -> Iterator[tuple[slice, tuple[int, int]]]:
    """Chunks of pairs in order of length, with the longest n and m among them.

    Sort the pairs once and slice them: picking rows by number costs more, chunk by chunk, than the work on them.

    Args:
        n: (P,) lengths, in order.
        m: (P,) lengths, in the same order.
        size: (longest n, longest m) -> numbers per pair in a working copy.
        budget: Numbers in a working copy; None: what stays in the cache.

    """
    lengths = torch.stack([n, m]).cpu()
    if budget is None:
        budget = _GPU_CHUNK if n.is_cuda else _CPU_CHUNK
    start = 0
    while start < len(n):
        longest = lengths[:, start].tolist()
        stop = len(n)
        # The longer the chunk, the longer its longest pair: shrink it until it fits.
        while stop - start > (fits := max(1, budget // size(*longest))):
            stop = start + fits
            longest = lengths[:, start:stop].amax(1).tolist()
        longest_n, longest_m = lengths[:, start:stop].amax(1).tolist()
        yield slice(start, stop), (longest_n, longest_m)
        start = stop


def _align_chunk(
    a: Tensor,
    b_reversed: Tensor,
    n: Tensor,
    m: Tensor,
    scoring: Scoring,
    prefixes: list[int] | None,
    dtype: torch.dtype,
) -> Tensor:
    """Scores of p pairs from (N, p) codes and (M, p) codes in reverse, so that an anti-diagonal is a slice of both.

    Row i of the d-th diagonal is the best score of the first i symbols of a with the first d - i of b.
    """
    n_max, n_pairs = a.shape
    m_max = len(b_reversed)
    kept = 3 if scoring.swap is None else 5
    diagonals = [torch.empty(n_max + 1, n_pairs, dtype=dtype, device=a.device) for _ in range(kept)]
    earned = torch.empty(min(n_max, m_max), n_pairs, dtype=dtype, device=a.device)
    summed = torch.empty(earned.shape, dtype=a.dtype, device=a.device)
    prices = torch.tensor([scoring.match, scoring.mismatch], dtype=dtype, device=a.device)
    end, total = n + m, torch.zeros(n_pairs, dtype=dtype, device=a.device)
    by_length = {} if prefixes is None else {k: torch.full_like(total, torch.nan) for k in prefixes}
    for d in range(n_max + m_max + 1):
        here = diagonals[d % kept]
        if d <= m_max:
            here[0] = d * scoring.gap
        if d <= n_max:
            here[d] = d * scoring.gap
        first, stop = max(1, d - m_max), min(n_max + 1, d)  # rows with a symbol of a and one of b
        if first < stop:
            one_less, two_less = diagonals[(d - 1) % kept], diagonals[(d - 2) % kept]
            a_here, b_here = a[first - 1 : stop - 1], b_reversed[m_max - d + first : m_max - d + stop]
            cells, pays = here[first:stop], earned[: stop - first]
            if scoring.table is None:
                torch.where(a_here == b_here, prices[0], prices[1], out=pays)
            else:
                index = torch.add(a_here, b_here, out=summed[: stop - first])
                torch.index_select(scoring.table, 0, index.view(-1), out=pays.view(-1))
            torch.add(two_less[first - 1 : stop - 1], pays, out=cells)
            gapped = torch.maximum(one_less[first - 1 : stop - 1], one_less[first:stop], out=pays)
            torch.maximum(cells, gapped.add_(scoring.gap) if scoring.gap else gapped, out=cells)
            if scoring.swap is not None:
                _allow_swaps(here, diagonals[(d - 4) % kept], a, b_reversed, d, scoring.swap)
        torch.where(end == d, here.gather(0, n[None])[0], total, out=total)
        if d % 2 == 0 and d // 2 in by_length and d // 2 <= n_max:
            long_enough = torch.minimum(n, m) >= d // 2
            by_length[d // 2] = here[d // 2].masked_fill(~long_enough, torch.nan)
    return total if prefixes is None else torch.stack([by_length[k] for k in prefixes], 1)


def _allow_swaps(here: Tensor, four_less: Tensor, a: Tensor, b_reversed: Tensor, d: int, swap: float) -> None:
    """Let the cells of diagonal d also match their last two symbols crosswise."""
    n_max, m_max = len(a), len(b_reversed)
    first, stop = max(2, d - m_max), min(n_max + 1, d - 1)
    if first >= stop:
        return
    at = m_max - d
    crossed = a[first - 1 : stop - 1] == b_reversed[at + first + 1 : at + stop + 1]
    crossed &= a[first - 2 : stop - 2] == b_reversed[at + first : at + stop]
    better = (four_less[first - 2 : stop - 2] + swap).masked_fill_(~crossed, -torch.inf)
    cells = here[first:stop]
    torch.maximum(cells, better, out=cells)


class EditDistance(MeanOverTrials):
    """Mean :func:`edit_distance` over pairs; the keyword arguments are those of the function."""

    is_differentiable, higher_is_better = False, False

    def __init__(
        self,
        *,
        size_wh_px: tuple[int, int],
        bins_wh: tuple[int, int] = (5, 5),
        transpositions: bool = False,
        normalize: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.options: dict[str, Any] = {"size_wh_px": size_wh_px, "bins_wh": bins_wh}
        self.options |= {"transpositions": transpositions, "normalize": normalize}

    def update(self, a_px: Tensor, a_valid: Tensor, b_px: Tensor, b_valid: Tensor) -> None:
        self.add(edit_distance(a_px, a_valid, b_px, b_valid, **self.options))


class PrefixEditDistance(MeanOverTrials):
    """Mean :func:`prefix_edit_distance` over pairs that are long enough."""

    is_differentiable, higher_is_better = False, False

    def __init__(
        self,
        *,
        size_wh_px: tuple[int, int],
        bins_wh: tuple[int, int] = (4, 4),
        lengths: Collection[int] = range(1, 11),
        transpositions: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.options: dict[str, Any] = {"size_wh_px": size_wh_px, "bins_wh": bins_wh}
        self.options |= {"lengths": lengths, "transpositions": transpositions}

    def update(self, a_px: Tensor, a_valid: Tensor, b_px: Tensor, b_valid: Tensor) -> None:
        self.add(prefix_edit_distance(a_px, a_valid, b_px, b_valid, **self.options))


class SymbolEditDistance(MeanOverTrials):
    """Mean :func:`edit_distance_symbols` over pairs: clusters (FED), labels (SemFED), objects (OAT)."""

    is_differentiable, higher_is_better = False, False

    def __init__(self, *, transpositions: bool = False, normalize: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.options: dict[str, Any] = {"transpositions": transpositions, "normalize": normalize}

    def update(self, a: Tensor, a_valid: Tensor, b: Tensor, b_valid: Tensor) -> None:
        self.add(edit_distance_symbols(a, a_valid, b, b_valid, **self.options))
