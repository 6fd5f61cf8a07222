"""Windows of generalized neighborhood attention: who sees whom, on which tiles, and what that can save.

The definition is that of Hassani et al. (2025), "Generalized Neighborhood Attention", arXiv 2504.16922, as NATTEN
computes it. Per axis of length L, with window k, stride s, dilation d: tokens with the same ``i mod d`` form a
group, in which ``i' = i div d`` counts and ``L_g`` tokens lie. The s tokens of a stride group share the window
of their leader::

    not causal   leader = min((i' div s) s + s div 2, L_g - 1)
                 start  = clamp(leader - k div 2, 0, L_g - k),   end = start + k
    causal       leader = min((i' div s) s + s - 1, L_g - 1)
                 start  = max(leader - k + 1, 0),                end = i' + 1

* At borders the window slides inward; it is never cut or zero-padded. Without causality every query sees
  exactly k keys per axis, corners included (convolutions and locally masked attention see fewer).
* Even windows reach k/2 back and k/2 - 1 ahead.
* ``s = k`` that divides L gives blocks that do not overlap; where it does not divide L, the last window is
  shifted inward and overlaps its neighbor.
* Causal with s > 1: between k - s + 1 and k keys within a stride group, and fewer for the first tokens.
* On a grid a key is seen if it is seen along every axis.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from gazekit.errors import InputError


@dataclass(frozen=True, order=True)
class Window:
    """What a query sees along one axis of a grid.

    Args:
        size: Keys per window (k), at least 1; the length of the axis sees all of it.
        stride: Neighboring queries that share a window (s), 1 to `size`.
        dilation: Step between the keys of a window (d); `size` times `dilation` must fit on the axis.
        causal: Hide what comes later on this axis.

    """

    size: int
    stride: int = 1
    dilation: int = 1
    causal: bool = False

    def __post_init__(self) -> None:
        if self.size < 1 or self.dilation < 1 or not 1 <= self.stride <= self.size:
            raise InputError(
                f"{self}: expected size >= 1, dilation >= 1 and a stride from 1 to the size; a larger stride would "
                "leave keys that nobody sees"
            )


def check_windows(kernel: str, grid: Sequence[int], windows: Sequence[Window | int]) -> tuple[Window, ...]:
    """One window per axis of `grid`; a bare number is the size of one with stride 1.

    Raises:
        InputError: Another number of windows than axes, or one that does not fit on its axis.

    """
    given = [Window(w) if isinstance(w, int) else w for w in windows]
    if len(given) != len(grid):
        raise InputError(f"{kernel}: grid {tuple(grid)} needs {len(grid)} windows, one per axis, found {len(given)}")
    for axis, (length, window) in enumerate(zip(grid, given, strict=True)):
        if window.size * window.dilation > length:
            raise InputError(
                f"{kernel}: axis {axis} of grid {tuple(grid)} has {length} tokens, too few for {window}; size times "
                f"dilation may be at most {length}"
            )
    return tuple(given)


def axis_bounds(length: int, window: Window) -> tuple[Tensor, Tensor]:
    """(length,) first key and one past the last key of each query, in its dilation group's count of tokens."""
    k, s, d = window.size, window.stride, window.dilation
    i = torch.arange(length)
    group_length = (length - i % d + d - 1) // d
    i = i // d
    if window.causal:
        leader = torch.minimum(i // s * s + s - 1, group_length - 1)
        return (leader - k + 1).clamp(min=0), i + 1
    leader = torch.minimum(i // s * s + s // 2, group_length - 1)
    start = torch.minimum((leader - k // 2).clamp(min=0), group_length - k)
    return start, start + k


def axis_mask(length: int, window: Window) -> Tensor:
    """(length, length) bool, True where query i sees key j along one axis."""
    start, end = axis_bounds(length, window)
    j = torch.arange(length)
    same_group = j % window.dilation == j[:, None] % window.dilation
    at = j // window.dilation
    return same_group & (start[:, None] <= at) & (at < end[:, None])


def window_mask(grid: Sequence[int], windows: Sequence[Window | int]) -> Tensor:
    """(N, N) bool over the tokens of `grid` in row-major order, True where query i may see key j."""
    mask = torch.ones(1, 1, dtype=torch.bool)
    for length, window in zip(grid, check_windows("window_mask", grid, windows), strict=True):
        along = axis_mask(length, window)
        n, m = mask.shape[0], along.shape[0]
        mask = (mask[:, None, :, None] & along[None, :, None, :]).reshape(n * m, n * m)
    return mask


# Tiles


@dataclass(frozen=True)
class AxisTiles:
    """One axis cut into query and key tiles, per dilation group; integers are tokens or tiles within a group.

    A key tile u is needed by query tile t iff ``lo[t] <= u < hi[t]``, and every pair of a query and a key in
    both is allowed iff ``full_lo[t] <= u < full_hi[t]``; exact, as both bounds of a window are monotone.

    Args:
        query_length: (d,) queries.
        key_length: (d,) keys.
        start: (d, n_q * tile_q) first key of each query; 0 where the tile reaches past the group.
        end: (d, n_q * tile_q) one past its last key; 0 there too.
        lo: (d, n_q), as are `hi`, `full_lo`, `full_hi`.
        n_keys: Key tiles per group.

    """

    query_length: Tensor
    key_length: Tensor
    start: Tensor
    end: Tensor
    lo: Tensor
    hi: Tensor
    full_lo: Tensor
    full_hi: Tensor
    n_keys: int

    @property
    def n_queries(self) -> int:
        """Query tiles per group."""
        return int(self.lo.shape[1])


@lru_cache(maxsize=256)
def axis_tiles(length: int, window: Window, tile_q: int, tile_k: int) -> AxisTiles:
    """Which key tiles each query tile needs along one axis."""
    start, end = axis_bounds(length, window)
    return tiles_of_bounds(start, end, length, window.dilation, tile_q, tile_k)


def tiles_of_bounds(start: Tensor, end: Tensor, n_keys: int, dilation: int, tile_q: int, tile_k: int) -> AxisTiles:
    """The same for any bounds that never fall from one query of a dilation group to its next.

    Args:
        start: (n_queries,) first key of each query, in its group's count; monotone, as is `end`.
        end: (n_queries,) one past its last key.
        n_keys: Tokens of the key axis.
        dilation: Interleaved groups, of queries and keys alike.
        tile_q: Queries per tile.
        tile_k: Keys per tile.

    """
    d, n_queries = dilation, len(start)
    n_q, n_k = (ceil_div(ceil_div(n, d), t) for n, t in ((n_queries, tile_q), (n_keys, tile_k)))
    i = torch.arange(n_queries)
    starts, ends = (torch.zeros(d, n_q * tile_q, dtype=torch.long) for _ in range(2))
    starts[i % d, i // d], ends[i % d, i // d] = start, end
    query_length, key_length = ((n - torch.arange(d) + d - 1) // d for n in (n_queries, n_keys))
    first = torch.arange(n_q) * tile_q
    last = torch.minimum(first + tile_q, query_length[:, None]) - 1
    real = last >= first
    first, last = first.expand(d, -1).where(real, 0), last.where(real, 0)
    start_a, end_a = starts.gather(1, first), ends.gather(1, first)
    start_b, end_b = starts.gather(1, last), ends.gather(1, last)
    lo = start_a // tile_k
    hi = torch.maximum(-(-end_b // tile_k), lo)
    full_lo = -(-start_b // tile_k)
    full_hi = torch.where(end_a == key_length[:, None], -(-key_length[:, None] // tile_k), end_a // tile_k)
    full_hi = torch.maximum(full_hi, full_lo)
    lo, hi, full_lo, full_hi = (x.masked_fill(~real, 0) for x in (lo, hi, full_lo, full_hi))
    return AxisTiles(query_length, key_length, starts, ends, lo, hi, full_lo, full_hi, n_k)


def ceil_div(a: int, b: int) -> int:
    return -(-a // b)


# What it can save


@dataclass(frozen=True)
class SpeedupEstimate:
    """What a window pattern saves against dense attention, by exact counting.

    Args:
        flop: Query-key pairs of dense attention per allowed pair: what no kernel can exceed.
        tile: Tile pairs of dense attention per tile pair that is visited: what a tiled kernel can reach.
        worst_tile: The same for the query tile that visits most: bounds the slowest program.
        full_fraction: Share of the visited tile pairs that need no mask; 1 where the pattern falls on tiles.

    """

    flop: float
    tile: float
    worst_tile: float
    full_fraction: float

    @property
    def perfect(self) -> bool:
        """Whether every visited tile pair is full."""
        return self.full_fraction == 1.0


def estimate_speedup(
    grid: Sequence[int],
    windows: Sequence[Window | int],
    tile_q: Sequence[int] | int = 8,
    tile_k: Sequence[int] | int | None = None,
) -> SpeedupEstimate:
    """Count what windows save on a grid cut into tiles.

    Args:
        grid: Tokens per axis.
        windows: One per axis.
        tile_q: Edge of a query tile, per axis or one for all.
        tile_k: Edge of a key tile; default as `tile_q`.

    """
    given = check_windows("estimate_speedup", grid, windows)
    edges_q = check_tile("estimate_speedup", grid, tile_q)
    edges_k = edges_q if tile_k is None else check_tile("estimate_speedup", grid, tile_k)
    dense = visited = full = pairs = worst = 1
    keys = 1
    for length, window, tq, tk in zip(grid, given, edges_q, edges_k, strict=True):
        tiles = axis_tiles(length, window, tq, tk)
        n_k = -(-length // tk)
        dense *= -(-length // tq) * n_k
        keys *= n_k
        visits = tiles.hi - tiles.lo
        visited *= int(visits.sum())
        worst *= int(visits.max())
        full *= int((tiles.full_hi - tiles.full_lo).sum())
        start, end = axis_bounds(length, window)
        pairs *= int((end - start).sum())
    return SpeedupEstimate(math.prod(grid) ** 2 / pairs, dense / visited, keys / worst, full / visited)


@dataclass(frozen=True)
class Suggestion:
    """Windows for a grid and what they save."""

    windows: tuple[Window, ...]
    estimate: SpeedupEstimate


def suggest_windows(
    grid: Sequence[int], size: Sequence[int] | int, tile: Sequence[int] | int = 8, n: int = 5
) -> list[Suggestion]:
    """Windows of at least `size` that run fast on tiles, the fastest first; none is beaten in both size and speed.

    Strides that fall on the tiles let whole tiles be computed without a mask: on 8x8 tiles a window of 24 with
    stride 8 costs half of one with stride 1. Only non-causal windows without dilation are searched, up to twice
    the size asked for.

    Args:
        grid: Tokens per axis.
        size: Smallest window, per axis or one for all; axes shorter than it are seen whole.
        tile: Edge of a tile, per axis or one for all.
        n: At most so many.

    """
    edges = check_tile("suggest_windows", grid, tile)
    sizes = (size,) * len(grid) if isinstance(size, int) else tuple(size)
    if len(sizes) != len(grid) or min(sizes) < 1:
        raise InputError(f"suggest_windows: expected a size of at least 1 per axis of {tuple(grid)}, found {size}")
    options: list[tuple[tuple[Window, ...], float, int]] = [((), 1.0, 1)]
    for length, wanted, edge in zip(grid, sizes, edges, strict=True):
        wanted = min(wanted, length)
        along = []
        for k in range(wanted, min(2 * wanted, length) + 1):
            fastest: tuple[float, Window] | None = None
            for s in range(1, k + 1):
                tiles = axis_tiles(length, Window(k, s), edge, edge)
                cost = float((tiles.hi - tiles.lo).sum())
                # The smallest of the strides that cost the same: the least blocky.
                if fastest is None or cost < fastest[0]:
                    fastest = (cost, Window(k, s))
            assert fastest is not None
            along.append(fastest)
        options = [
            ((*chosen, window), cost * c, keys * window.size) for chosen, cost, keys in options for c, window in along
        ]
    options.sort(key=lambda option: (option[1], -option[2]))
    best: list[Suggestion] = []
    most_keys = 0
    for windows, _, keys in options:
        if keys > most_keys:
            best.append(Suggestion(windows, estimate_speedup(grid, windows, edges)))
            most_keys = keys
    return best[:n]


def check_tile(kernel: str, grid: Sequence[int], tile: Sequence[int] | int) -> tuple[int, ...]:
    """The edge of a tile along every axis of `grid`.

    Raises:
        InputError: Another number of edges than axes, or one below 1.

    """
    edges = (tile,) * len(grid) if isinstance(tile, int) else tuple(tile)
    if len(edges) != len(grid) or min(edges) < 1:
        raise InputError(f"{kernel}: grid {tuple(grid)} needs a tile edge of at least 1 per axis, found {tile}")
    return edges
