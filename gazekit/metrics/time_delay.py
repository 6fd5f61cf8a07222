"""Time-delay embedding (TDE): how far each window of k fixations of one path is from the nearest of the other.

Definition: Wang, Chen, Wang, Jiang, Fang & Yao (2011), CVPR, 441-448. The scaled form (STDE) averages exp(-TDE) over
window lengths on coordinates divided by the longer side of the image; the string-based form (SBTDE) compares windows
of grid cells by their edit distance, as NeVA does (Schwinn, Precup, Eskofier & Zanca 2022).

Two inner distances are in circulation: the square root of the summed squares over the window, divided by k ("l2",
FixaTons; the default), and the sum of the distances divided by k ("sum", the collection of Chen et al. and ScanDMM).
They agree for k = 1 and differ by up to the square root of k.

None of these is symmetric: the windows of a, the model's path, each look for their nearest in b, the human's, and
windows of b that none of them is near to are not punished.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import Any, Literal

import torch
from torch import Tensor

from gazekit.errors import InputError
from gazekit.metrics.edit_distance import check_lengths, in_order_of_length, length_chunks
from gazekit.metrics.grid_strings import check_strings, grid_symbols
from gazekit.metrics.mean_over_trials import MeanOverTrials
from gazekit.metrics.path_pairs import PathPairs, check_pairs

Inner = Literal["l2", "sum"]
Reduce = Literal["mean", "max"]
# Numbers per block of pairs; 8 MB in double precision.
_BLOCK = 2**20


def time_delay_distance(
    a_px: Tensor,
    a_valid: Tensor,
    b_px: Tensor,
    b_valid: Tensor,
    *,
    k: int,
    inner: Inner = "l2",
    reduce: Reduce = "mean",
) -> Tensor:
    """TDE of each pair for windows of k fixations, in px; lower is better.

    From 0 up; not symmetric: the windows of a look for those of b. Chance depends on the data.

    Args:
        a_px: (P, N, 2) the model's fixations as (x, y) px.
        a_valid: (P, N) bool, True ... True False ...
        b_px: (P, M, 2) the human's.
        b_valid: (P, M) bool.
        k: Window length.
        inner: Distance of two windows, "l2" or "sum"; both are divided by k.
        reduce: Over the windows of a: "mean", or "max" (a directed Hausdorff distance of windows).

    Returns:
        (P,) in the type of the positions (integers give float64); NaN where a path has fewer than k fixations.

    Raises:
        InputError: Shapes do not fit, a valid position is not finite, or an option is unknown.

    """
    _check_options(inner, reduce)
    check_lengths([k], "k")
    pairs = check_pairs(a_px, a_valid, b_px, b_valid)
    return _by_windows(pairs, inner, reduce, k, lambda distance, n, m: distance[0])


def scaled_time_delay(
    a_px: Tensor,
    a_valid: Tensor,
    b_px: Tensor,
    b_valid: Tensor,
    *,
    size_wh_px: tuple[int, int],
    inner: Inner = "l2",
    reduce: Reduce = "mean",
) -> Tensor:
    """STDE of each pair: mean of exp(-TDE) over all window lengths that fit both paths; higher is better.

    Above 0 and at most 1, which it is if all windows of a occur in b; not symmetric; needs one fixation. Positions
    are divided by the longer side of the image. Chance depends on the data.

    Args:
        a_px: (P, N, 2) the model's fixations as (x, y) px.
        a_valid: (P, N) bool, True ... True False ...
        b_px: (P, M, 2) the human's.
        b_valid: (P, M) bool.
        size_wh_px: Image size.
        inner: Distance of two windows, "l2" or "sum"; both are divided by k.
        reduce: Over the windows of a, "mean" or "max".

    Returns:
        (P,) in the type of the positions (integers give float64); 0 where one path is empty, NaN where both are.

    Raises:
        InputError: Shapes do not fit, a valid position is not finite, or an option is unknown.

    """
    _check_options(inner, reduce)
    if len(size_wh_px) != 2 or not all(0 < size < float("inf") for size in size_wh_px):
        raise InputError(f"size_wh_px must be two positive numbers; got {size_wh_px}")
    pairs = check_pairs(a_px, a_valid, b_px, b_valid)
    side_px = max(size_wh_px)

    def mean_over_lengths(distance: Tensor, n: Tensor, m: Tensor) -> Tensor:
        # NaN: windows that long do not fit this pair.
        total = (-distance / side_px).exp_().nan_to_num_(0.0).sum(0)
        return (total / torch.minimum(n, m)).masked_fill((n == 0) ^ (m == 0), 0.0)

    return _by_windows(pairs, inner, reduce, None, mean_over_lengths)


def string_time_delay(
    a_px: Tensor,
    a_valid: Tensor,
    b_px: Tensor,
    b_valid: Tensor,
    *,
    size_wh_px: tuple[int, int],
    bins_wh: tuple[int, int] = (4, 4),
    k: Collection[int] = range(1, 11),
    transpositions: bool = True,
    reduce: Reduce = "mean",
) -> Tensor:
    """SBTDE of each pair, mean over the window lengths k; 0 to 1, lower is better.

    The distance of two windows is the edit distance of their grid cells, divided by k. Not symmetric: the windows of
    a look for those of b. Needs as many fixations as the largest k. Chance depends on the data.

    Args:
        a_px: (P, N, 2) the model's fixations as (x, y) px.
        a_valid: (P, N) bool, True ... True False ...
        b_px: (P, M, 2) the human's.
        b_valid: (P, M) bool.
        size_wh_px: Image size that the grid divides.
        bins_wh: Cells per row and per column.
        k: Window lengths.
        transpositions: Count two swapped neighbours as one edit, not two.
        reduce: Over the windows of a, "mean" or "max".

    Returns:
        (P,) in the type of the positions (integers give float64); NaN where a path is shorter than the largest k.

    Raises:
        InputError: Shapes do not fit, a valid position is not finite, or an option is unknown.

    """
    pairs = check_pairs(a_px, a_valid, b_px, b_valid)
    a, b = (
        grid_symbols(px, valid, size_wh_px=size_wh_px, bins_wh=bins_wh)
        for px, valid in ((pairs.a_px, a_valid), (pairs.b_px, b_valid))
    )
    distance = string_time_delay_symbols(a, a_valid, b, b_valid, k=k, transpositions=transpositions, reduce=reduce)
    return distance.mean(1).to(pairs.a_px.dtype)


def string_time_delay_symbols(
    a: Tensor,
    a_valid: Tensor,
    b: Tensor,
    b_valid: Tensor,
    *,
    k: Collection[int] = range(1, 11),
    transpositions: bool = True,
    reduce: Reduce = "mean",
) -> Tensor:
    """(P, K) SBTDE of each pair of strings for each window length; see :func:`string_time_delay`.

    Args:
        a: (P, N) integers, the model's string.
        a_valid: (P, N) bool, True ... True False ...
        b: (P, M) the human's.
        b_valid: (P, M) bool.
        k: K window lengths.
        transpositions: Count two swapped neighbours as one edit, not two.
        reduce: Over the windows of a, "mean" or "max".

    Returns:
        (P, K) float64; NaN where a string has no window of the length.

    Raises:
        InputError: Shapes or types do not fit, or an option is unknown.

    """
    check_strings(a, a_valid, b, b_valid)
    _check_options("l2", reduce)
    lengths = check_lengths(k, "k")
    n, m = a_valid.sum(1), b_valid.sum(1)
    order = in_order_of_length(n, m)
    n, m, a, b = n[order], m[order], a[order].T, b[order].T
    found = torch.full((len(n), len(lengths)), torch.nan, dtype=torch.float64, device=a.device)
    for pairs, (n_max, m_max) in length_chunks(n, m, lambda n_max, m_max: n_max * m_max + 1):
        own, other = a[:n_max, pairs].contiguous(), b[:m_max, pairs].contiguous()
        for length, distance in _window_edits(own, other, max(lengths), transpositions):
            if length not in lengths:
                continue
            start = torch.arange(len(distance), device=m.device)[:, None]
            outside = (start + length > m[pairs])[:, None]
            nearest = distance.masked_fill(outside, torch.iinfo(distance.dtype).max).amin(0).double() / length
            value = _over_windows(nearest[None], n[pairs], m[pairs], [length], reduce)
            found[pairs, lengths.index(length)] = value[0]
    found = found[:, [lengths.index(length) for length in lengths]]
    return torch.empty_like(found).index_copy_(0, order, found)


def _check_options(inner: str, reduce: str) -> None:
    if inner not in ("l2", "sum"):
        raise InputError(f"inner must be 'l2' or 'sum'; got {inner!r}")
    if reduce not in ("mean", "max"):
        raise InputError(f"reduce must be 'mean' or 'max'; got {reduce!r}")


def _by_windows(
    pairs: PathPairs, inner: Inner, reduce: Reduce, k: int | None, score: Callable[[Tensor, Tensor, Tensor], Tensor]
) -> Tensor:
    """(P,) scores from the TDE of every window length, or of length k alone.

    Args:
        pairs: To be scored.
        inner: Distance of two windows.
        reduce: Over the windows of a.
        k: Window length; None: all that fit.
        score: (K, p) TDE, NaN where the length does not fit, and (p,) lengths n and m -> (p,).

    """
    order = in_order_of_length(pairs.n, pairs.m)
    n, m = pairs.n[order], pairs.m[order]
    a, b = pairs.a_px[order].permute(2, 1, 0), pairs.b_px[order].permute(2, 1, 0)
    found = [a.new_zeros(0)]
    # Roots and exponentials of a whole block at once: PyTorch splits even small ones over threads, which a busy
    # machine makes wait for each other.
    for block, longest in length_chunks(n, m, lambda n_max, m_max: n_max * min(n_max, m_max) + 1, _BLOCK):
        lengths = list(range(1, max(1, min(longest)) + 1)) if k is None else [k]
        nearest = a.new_zeros(len(lengths), max(1, longest[0]), block.stop - block.start)
        for part, (n_max, m_max) in length_chunks(n[block], m[block], lambda n_max, m_max: 2 * n_max * m_max + 1):
            rows = slice(block.start + part.start, block.start + part.stop)
            gap = b[:, :m_max, None, rows] - a[:, None, :n_max, rows]
            cost = gap[0].square().addcmul_(gap[1], gap[1])
            if inner == "sum":
                cost.sqrt_()
            # A window that leaves the path of b is nobody's nearest.
            cost.masked_fill_((torch.arange(m_max, device=m.device)[:, None] >= m[rows])[:, None], torch.inf)
            for length, value in _nearest_windows(cost, lengths[-1]):
                if k in (length, None):
                    nearest[length - lengths[0], : len(value), part] = value
        if inner == "l2":
            nearest.sqrt_()
        nearest /= torch.tensor(lengths, device=n.device)[:, None, None]
        found.append(score(_over_windows(nearest, n[block], m[block], lengths, reduce), n[block], m[block]))
    scores = torch.cat(found)
    return torch.empty_like(scores).index_copy_(0, order, scores)


def _nearest_windows(cost: Tensor, longest: int) -> Iterator[tuple[int, Tensor]]:
    """Each k, and (N - k + 1, p) the smallest sum of (M, N, p) costs over k steps, over the windows of b."""
    n_other, n_own = cost.shape[:2]
    window = cost.clone()
    for k in range(1, min(longest, n_other, n_own) + 1):
        if k > 1:
            window = window[: n_other - k + 1, : n_own - k + 1].add_(cost[k - 1 :, k - 1 :])
        yield k, window.amin(0)


def _over_windows(nearest: Tensor, n: Tensor, m: Tensor, lengths: list[int], reduce: Reduce) -> Tensor:
    """(K, p) mean or maximum of (K, N, p) over the windows within the n fixations of a; NaN without any."""
    k = torch.tensor(lengths, device=n.device)[:, None]
    start = torch.arange(nearest.shape[1], device=n.device)[:, None]
    nearest = nearest.masked_fill((start + k[..., None]) > n, 0.0)
    value = nearest.sum(1) / (n - k + 1) if reduce == "mean" else nearest.amax(1)
    return value.masked_fill(torch.minimum(n, m) < k, torch.nan)


def _window_edits(own: Tensor, other: Tensor, longest: int, transpositions: bool) -> Iterator[tuple[int, Tensor]]:
    """Each k, and (M - k + 1, N - k + 1, p) the edit distances of all windows of k symbols.

    The table of an edit distance is built from its corner, so the one for the windows that start at (i, j) serves
    windows of every length. All starting points go through their tables together, one cell after the other.
    """
    n_other, n_own = len(other), len(own)
    longest = min(longest, n_other, n_own)
    # As small as the distances allow: the work is moving these numbers about.
    dtype = torch.int8 if longest + 2 <= torch.iinfo(torch.int8).max else torch.int32
    differ = (other[:, None] != own[None]).to(dtype)
    swapped = differ.new_zeros(())
    if transpositions:
        # Where two neighbours do not match crosswise, swapping them costs one more, which never beats two other edits.
        swapped = differ[1:, :-1] | differ[:-1, 1:]
    before: list[list[Tensor]] = []
    for s in range(longest + 1):
        row: list[Tensor] = []
        for t in range(longest + 1):
            across, down = n_own - max(s, t) + 1, n_other - max(s, t) + 1
            if s == 0 or t == 0:
                row.append(differ.new_full((1, 1, 1), s + t).expand(down, across, own.shape[1]))
                continue
            cell = torch.minimum(before[-1][t][:down, :across], row[-1][:down, :across]) + 1
            matched = before[-1][t - 1][:down, :across] + differ[s - 1 :, t - 1 :][:down, :across]
            torch.minimum(cell, matched, out=cell)
            if transpositions and s > 1 and t > 1:
                crossed = before[-2][t - 2][:down, :across] + swapped[s - 2 :, t - 2 :][:down, :across] + 1
                torch.minimum(cell, crossed, out=cell)
            row.append(cell)
        before = [*before[-1:], row]
        if s > 0:
            yield s, row[s]


class TimeDelayDistance(MeanOverTrials):
    """Mean :func:`time_delay_distance` over pairs that have a window; the keyword arguments are the function's."""

    is_differentiable, higher_is_better = False, False

    def __init__(self, *, k: int, inner: Inner = "l2", reduce: Reduce = "mean", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.options: dict[str, Any] = {"k": k, "inner": inner, "reduce": reduce}

    def update(self, a_px: Tensor, a_valid: Tensor, b_px: Tensor, b_valid: Tensor) -> None:
        self.add(time_delay_distance(a_px, a_valid, b_px, b_valid, **self.options))


class ScaledTimeDelay(MeanOverTrials):
    """Mean :func:`scaled_time_delay` over pairs; the keyword arguments are those of the function."""

    is_differentiable, higher_is_better = False, True

    def __init__(
        self, *, size_wh_px: tuple[int, int], inner: Inner = "l2", reduce: Reduce = "mean", **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.options: dict[str, Any] = {"size_wh_px": size_wh_px, "inner": inner, "reduce": reduce}

    def update(self, a_px: Tensor, a_valid: Tensor, b_px: Tensor, b_valid: Tensor) -> None:
        self.add(scaled_time_delay(a_px, a_valid, b_px, b_valid, **self.options))


class StringTimeDelay(MeanOverTrials):
    """Mean :func:`string_time_delay` over pairs that are long enough; the keyword arguments are the function's."""

    is_differentiable, higher_is_better = False, False

    def __init__(
        self,
        *,
        size_wh_px: tuple[int, int],
        bins_wh: tuple[int, int] = (4, 4),
        k: Collection[int] = range(1, 11),
        transpositions: bool = True,
        reduce: Reduce = "mean",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.options: dict[str, Any] = {"size_wh_px": size_wh_px, "bins_wh": bins_wh, "k": k}
        self.options |= {"transpositions": transpositions, "reduce": reduce}

    def update(self, a_px: Tensor, a_valid: Tensor, b_px: Tensor, b_valid: Tensor) -> None:
        self.add(string_time_delay(a_px, a_valid, b_px, b_valid, **self.options))
