"""Which tiles of keys each tile of queries visits: boxes of an n-D grid, or lists.

A plan is made once, outside of any forward pass, and says for every tile of ``tile_q`` consecutive queries
which keys it needs. :class:`BoxPlan` keeps a few integers per axis tile, for windows and for ranges of keys that
move along with the queries; :class:`ListPlan` keeps a list per query tile, for everything else.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from itertools import product

import torch
from torch import Tensor

from gazekit.errors import InputError
from gazekit.kernels.tile_layout import TileLayout
from gazekit.kernels.window import AxisTiles, Window, axis_tiles, check_tile, check_windows, tiles_of_bounds


@dataclass(frozen=True)
class Gather:
    """Query tiles that need equally many keys, for engines that gather them.

    Args:
        query_rows: (n, tile_q) rows of q; -1 where a tile reaches past the grid.
        key_rows: (n, U) rows of k and v.
        limits: None where every query sees every gathered key; else per axis (n, tile_q) first and one past the
            last place that a query sees, and (n, U) the places of the keys.
        allowed: The same as (n, tile_q, U) bool, for plans without axes.

    """

    query_rows: Tensor
    key_rows: Tensor
    limits: tuple[tuple[Tensor, Tensor, Tensor], ...] | None = None
    allowed: Tensor | None = None

    @property
    def masked(self) -> bool:
        return self.limits is not None or self.allowed is not None

    def mask(self, some: slice) -> Tensor | None:
        """(c, tile_q, U) bool for some of the tiles, or None where all is allowed."""
        if self.allowed is not None:
            return self.allowed[some]
        if self.limits is None:
            return None
        mask: Tensor | None = None
        for start, end, at in self.limits:
            at = at[some, None]
            along = (start[some, :, None] <= at) & (at < end[some, :, None])
            mask = along if mask is None else mask.logical_and_(along)
        return mask

    def to(self, device: torch.device) -> Gather:
        limits = self.limits and tuple((s.to(device), e.to(device), a.to(device)) for s, e, a in self.limits)
        allowed = None if self.allowed is None else self.allowed.to(device)
        return Gather(self.query_rows.to(device), self.key_rows.to(device), limits, allowed)


class BlockPlan(ABC):
    """What :func:`gazekit.kernels.block_sparse_attention` visits; make one with the functions of this module.

    Attributes:
        n_queries: Rows of q.
        n_keys: Rows of k and v.
        tile_q: Queries per tile.
        tile_k: Keys per tile.
        batch: 1, or the number of batch items that have a plan of their own.
        heads: 1, or the number of query heads that have a plan of their own.

    """

    n_queries: int
    n_keys: int
    tile_q: int
    tile_k: int
    batch: int = 1
    heads: int = 1

    @abstractmethod
    def gathers(self, item: int = 0, head: int = 0) -> list[Gather]:
        """The key tiles that each query tile sees."""

    def gathers_on(self, device: torch.device, item: int = 0, head: int = 0) -> list[Gather]:
        """Gathers on a device, kept for the next call."""
        key = (str(device), item, head)
        cache: dict[tuple[str, int, int], list[Gather]] = self.__dict__.setdefault("_gathers", {})
        if key not in cache:
            cache[key] = [gather.to(device) for gather in self.gathers(item, head)]
        return cache[key]

    @cached_property
    def covers_queries(self) -> bool:
        """Whether every query, padding included, is in a tile that sees some key."""
        cpu = torch.device("cpu")
        return all(
            sum(int((gather.query_rows >= 0).sum()) for gather in self.gathers_on(cpu, *pair)) == self.n_queries
            for pair in product(range(self.batch), range(self.heads))
        )

    def dense_mask(self) -> Tensor:
        """(batch, heads, n_queries, n_keys) bool, True where a query may see a key; for small plans."""
        mask = torch.zeros(self.batch, self.heads, self.n_queries, self.n_keys, dtype=torch.bool)
        for item, head in product(range(self.batch), range(self.heads)):
            for gather in self.gathers(item, head):
                seen = gather.mask(slice(None))
                if seen is None:
                    seen = torch.ones(*gather.query_rows.shape, gather.key_rows.shape[1], dtype=torch.bool)
                n, q, k = seen.nonzero(as_tuple=True)
                rows = gather.query_rows[n, q]
                mask[item, head, rows[rows >= 0], gather.key_rows[n, k][rows >= 0]] = True
        return mask


# Boxes


@dataclass(frozen=True, eq=False)
class BoxPlan(BlockPlan):
    """Per query tile a box of key tiles, kept as a few integers per axis.

    Args:
        axes: One table per axis.
        edges_q: Edge of a query tile per axis.
        edges_k: Edge of a key tile per axis.
        grid_q: Queries per axis.
        grid_k: Keys per axis.
        dilation: Interleaved groups per axis.
        tiled: Whether rows are in tile order, padding included; else in the row-major order of the grid, which
            only engines that gather can take.

    """

    axes: tuple[AxisTiles, ...]
    edges_q: tuple[int, ...]
    edges_k: tuple[int, ...]
    grid_q: tuple[int, ...]
    grid_k: tuple[int, ...]
    dilation: tuple[int, ...]
    tiled: bool = True
    n_queries: int = field(init=False)
    n_keys: int = field(init=False)
    tile_q: int = field(init=False)
    tile_k: int = field(init=False)

    def __post_init__(self) -> None:
        layouts = self.layout_q, self.layout_k
        for name, layout, grid in zip("qk", layouts, (self.grid_q, self.grid_k), strict=True):
            object.__setattr__(self, f"tile_{name}", layout.tokens_per_tile)
            rows = layout.n_tokens if self.tiled else math.prod(grid)
            object.__setattr__(self, "n_queries" if name == "q" else "n_keys", rows)

    @cached_property
    def layout_q(self) -> TileLayout:
        return TileLayout(self.grid_q, self.edges_q, self.dilation)

    @cached_property
    def layout_k(self) -> TileLayout:
        return TileLayout(self.grid_k, self.edges_k, self.dilation)

    def gathers(self, item: int = 0, head: int = 0) -> list[Gather]:
        # Where each grid token stands in q and k.
        rows_q, rows_k = self.layout_q.rows(), self.layout_k.rows()
        tiles = torch.arange(len(rows_q)).view(-1, self.tile_q)
        query_rows = tiles.masked_fill(rows_q.view_as(tiles) < 0, -1) if self.tiled else rows_q.view_as(tiles)
        if self.tiled:
            place_k = torch.empty(math.prod(self.grid_k), dtype=torch.long)
            place_k[rows_k[rows_k >= 0]] = (rows_k >= 0).nonzero()[:, 0]
        alike = [
            _alike(axis, edge, d, length)
            for axis, edge, d, length in zip(self.axes, self.edges_q, self.dilation, self.grid_k, strict=True)
        ]
        n = len(self.axes)
        found = []
        for kinds in product(*alike):
            # Axis a of n: tiles along axis a, what belongs to a tile along axis n + a.
            def along(x: Tensor, axis: int) -> Tensor:
                shape = [1] * (2 * n)
                shape[axis], shape[n + axis] = x.shape
                return x.reshape(shape)

            tile = sum(
                along(kind.group[:, None], axis) * math.prod(self.dilation[axis + 1 :]) * self._n_rest
                + along(kind.tile[:, None], axis) * math.prod(self.layout_q.rest[axis + 1 :])
                for axis, kind in enumerate(kinds)
            )
            assert isinstance(tile, Tensor)
            strides = [math.prod(self.grid_k[axis + 1 :]) for axis in range(n)]
            key = sum(along(kind.keys, axis) * strides[axis] for axis, kind in enumerate(kinds))
            assert isinstance(key, Tensor)
            n_tiles, shape = tile.numel(), key.shape
            key = key.reshape(n_tiles, -1)
            limits = None
            if any(kind.partial for kind in kinds):
                counts, queries = shape[:n], (*shape[:n], *self.edges_q)
                limits = tuple(
                    (
                        along(kind.start, axis).expand(queries).reshape(n_tiles, -1),
                        along(kind.end, axis).expand(queries).reshape(n_tiles, -1),
                        along(kind.at, axis).expand(*counts, *shape[n:]).reshape(n_tiles, -1),
                    )
                    for axis, kind in enumerate(kinds)
                    if kind.partial
                )
            found.append(Gather(query_rows[tile.flatten()], place_k[key] if self.tiled else key, limits))
        return found

    @property
    def _n_rest(self) -> int:
        return math.prod(self.layout_q.rest)


@dataclass(frozen=True)
class _Alike:
    """Axis tiles whose queries see, together, equally many keys: (n,) group, tile; (n, U) keys ..."""

    partial: bool
    group: Tensor
    tile: Tensor
    keys: Tensor  # tokens along the axis
    at: Tensor  # the same in the group's count
    start: Tensor  # (n, edge)
    end: Tensor


def _alike(axis: AxisTiles, edge: int, dilation: int, n_keys: int) -> list[_Alike]:
    kinds: dict[tuple[int, bool], list[tuple[int, int, int]]] = defaultdict(list)
    start = axis.start.view(dilation, -1, edge)
    end = axis.end.view(dilation, -1, edge)
    for group in range(dilation):
        for tile in range(axis.n_queries):
            real = min(edge, int(axis.query_length[group]) - tile * edge)
            if real <= 0:
                continue
            s, e = start[group, tile, :real], end[group, tile, :real]
            first, last = int(s[0]), max(int(e[-1]), int(s[0]))
            partial = real < edge or bool((s != first).any() or (e != last).any())
            kinds[last - first, partial].append((group, tile, first))
    found = []
    for (size, partial), members in kinds.items():
        if not size:
            continue
        groups, tiles, firsts = torch.tensor(members).unbind(1)
        at = firsts[:, None] + torch.arange(size)
        keys = at * dilation + groups[:, None]
        found.append(_Alike(partial, groups, tiles, keys, at, start[groups, tiles], end[groups, tiles]))
    return found


def plan_windows(
    grid: Sequence[int],
    windows: Sequence[Window | int],
    tile_q: Sequence[int] | int = 8,
    tile_k: Sequence[int] | int | None = None,
    *,
    tiled: bool = True,
) -> BoxPlan:
    """The plan of generalized neighborhood attention on a grid; kept for the next call with the same arguments.

    Args:
        grid: Tokens per axis.
        windows: One per axis, see :class:`~gazekit.kernels.Window`.
        tile_q: Edge of a query tile, per axis or one for all.
        tile_k: Edge of a key tile; default as `tile_q`.
        tiled: Rows are in the order of :class:`~gazekit.kernels.TileLayout`; else in row-major grid order.

    Raises:
        InputError: A window does not fit on its axis.

    """
    given = check_windows("plan_windows", grid, windows)
    edges_q = check_tile("plan_windows", grid, tile_q)
    edges_k = edges_q if tile_k is None else check_tile("plan_windows", grid, tile_k)
    return _plan_windows(tuple(grid), given, edges_q, edges_k, tiled)


@lru_cache(maxsize=128)
def _plan_windows(
    grid: tuple[int, ...],
    windows: tuple[Window, ...],
    edges_q: tuple[int, ...],
    edges_k: tuple[int, ...],
    tiled: bool,
) -> BoxPlan:
    axes = tuple(axis_tiles(*axis) for axis in zip(grid, windows, edges_q, edges_k, strict=True))
    return BoxPlan(axes, edges_q, edges_k, grid, grid, tuple(w.dilation for w in windows), tiled)


def plan_ranges(start: Tensor, end: Tensor, n_keys: int, tile_q: int = 64, tile_k: int = 64) -> BoxPlan:
    """Query i sees keys ``start[i] <= j < end[i]``; neither bound may fall from one query to the next.

    Sequences packed into one row (the bounds of the query's own sequence), bands that are cut at the border, causal
    attention (0 and i + 1) and combinations of them. Rows keep their order; q and k are padded to whole tiles by
    the engines that need it.

    Args:
        start: (n_queries,) integers from 0 to `n_keys`.
        end: (n_queries,) likewise; a query with ``end <= start`` sees nothing.
        n_keys: Rows of k.
        tile_q: Queries per tile.
        tile_k: Keys per tile.

    Raises:
        InputError: Bounds of other lengths, outside the keys, or that fall.

    """
    start, end = start.long().cpu(), end.long().cpu()
    if start.ndim != 1 or start.shape != end.shape or not len(start):
        raise InputError(f"plan_ranges: expected start and end of shape (n,), found {start.shape} and {end.shape}")
    for name, bound in (("start", start), ("end", end)):
        if bound.min() < 0 or bound.max() > n_keys:
            raise InputError(f"plan_ranges: {name} must lie in 0..{n_keys}, found {int(bound.min())}..{bound.max()}")
        if (falls := (bound.diff() < 0).nonzero()).numel():
            i = int(falls[0])
            raise InputError(
                f"plan_ranges: {name} falls from {int(bound[i])} at query {i} to {int(bound[i + 1])}; sort the "
                "queries, or use plan_blocks"
            )
    axis = tiles_of_bounds(start, end, n_keys, 1, tile_q, tile_k)
    return BoxPlan((axis,), (tile_q,), (tile_k,), (len(start),), (n_keys,), (1,), tiled=False)


def plan_band(
    n_queries: int, n_keys: int | None = None, before: int | None = None, after: int | None = None, **tiles: int
) -> BoxPlan:
    """Query i sees keys from ``i - before`` to ``i + after``, cut at the borders; None sees all on that side.

    ``plan_band(n, after=0)`` is causal attention, ``plan_band(n, before=w - 1, after=0)`` a causal window of w.
    """
    M = n_queries if n_keys is None else n_keys
    i = torch.arange(n_queries)
    start = torch.zeros_like(i) if before is None else (i - before).clamp(0, M)
    end = torch.full_like(i, M) if after is None else (i + after + 1).clamp(0, M)
    return plan_ranges(start, end, M, **tiles)


# Lists


@dataclass(frozen=True, eq=False)
class ListPlan(BlockPlan):
    """Per query tile a list of runs of keys; a key may be in one run of a tile only.

    Args:
        n_queries: Rows of q.
        n_keys: Rows of k.
        tile_q: Queries per tile.
        tile_k: The longest run.
        offsets: (batch, heads, n_tiles + 1) where each tile's runs begin in the two lists.
        first: (R,) first row of each run.
        count: (R,) rows in it, 1 to `tile_k`.
        causal: Query i sees keys j <= i only.
        batch: As in :class:`BlockPlan`.
        heads: As in :class:`BlockPlan`.

    """

    n_queries: int
    n_keys: int
    tile_q: int
    tile_k: int
    offsets: Tensor
    first: Tensor
    count: Tensor
    causal: bool = False
    batch: int = 1
    heads: int = 1

    @property
    def n_tiles(self) -> int:
        return -(-self.n_queries // self.tile_q)

    def gathers(self, item: int = 0, head: int = 0) -> list[Gather]:
        offsets = self.offsets[item, head]
        by_size: dict[int, list[int]] = defaultdict(list)
        rows: dict[int, Tensor] = {}
        for tile in range(self.n_tiles):
            runs = range(int(offsets[tile]), int(offsets[tile + 1]))
            parts = [torch.arange(int(self.first[r]), int(self.first[r] + self.count[r])) for r in runs]
            keys = torch.cat(parts) if parts else torch.arange(0)
            if self.causal:
                keys = keys[keys < (tile + 1) * self.tile_q]
            if len(keys):
                rows[tile] = keys
                # Rounded up, so that tiles with nearly as many keys go together.
                by_size[-(-len(keys) // self.tile_k)].append(tile)
        found = []
        for size, tiles in by_size.items():
            U = size * self.tile_k
            key_rows, there = torch.zeros(len(tiles), U, dtype=torch.long), torch.zeros(len(tiles), U, dtype=torch.bool)
            for at, tile in enumerate(tiles):
                key_rows[at, : len(rows[tile])] = rows[tile]
                there[at, : len(rows[tile])] = True
            query_rows = torch.tensor(tiles)[:, None] * self.tile_q + torch.arange(self.tile_q)
            real = query_rows < self.n_queries
            allowed = there[:, None] & real[:, :, None]
            if self.causal:
                allowed &= key_rows[:, None] <= query_rows[:, :, None]
            query_rows = query_rows.masked_fill(~real, -1)
            whole = allowed.flatten(1).all(1)
            for some in (whole, ~whole):
                if some.any():
                    masked = None if some is whole else allowed[some]
                    found.append(Gather(query_rows[some], key_rows[some], allowed=masked))
        return found


def plan_blocks(
    blocks: Tensor, n_queries: int, n_keys: int, tile_q: int = 64, tile_k: int = 64, *, causal: bool = False
) -> ListPlan:
    """The plan of a block mask.

    Args:
        blocks: ([[B | 1,] H | 1,] ceil(n_queries / tile_q), ceil(n_keys / tile_k)) bool, True where a tile of
            queries sees a tile of keys.
        n_queries: Rows of q.
        n_keys: Rows of k.
        tile_q: Queries per tile.
        tile_k: Keys per tile.
        causal: Within what is visited, query i sees keys j <= i only.

    Raises:
        InputError: A mask of another shape or dtype.

    """
    expected = -(-n_queries // tile_q), -(-n_keys // tile_k)
    if blocks.dtype != torch.bool or not 2 <= blocks.ndim <= 4 or tuple(blocks.shape[-2:]) != expected:
        raise InputError(
            f"plan_blocks: expected a bool mask (..., {expected[0]}, {expected[1]}) for {n_queries} queries and "
            f"{n_keys} keys in tiles of {tile_q} and {tile_k}, found {blocks.dtype} {tuple(blocks.shape)}"
        )
    blocks = blocks.cpu().reshape((1,) * (4 - blocks.ndim) + tuple(blocks.shape))
    if causal:
        last_query = (torch.arange(expected[0]) + 1) * tile_q - 1
        blocks = blocks & (torch.arange(expected[1]) * tile_k <= last_query[:, None])
    per_tile = blocks.sum(-1)
    batch, heads = blocks.shape[:2]
    ends = per_tile.flatten().cumsum(0).view(batch, heads, -1)
    offsets = torch.cat([ends[..., :1] - per_tile[..., :1], ends], -1)
    first = blocks.nonzero()[:, -1] * tile_k
    count = (n_keys - first).clamp(max=tile_k)
    return ListPlan(n_queries, n_keys, tile_q, tile_k, offsets, first, count, causal, batch, heads)


def plan_runs(
    runs: Sequence[Sequence[tuple[int, int]]], n_queries: int, n_keys: int, tile_q: int = 64, tile_k: int = 64,
    *, causal: bool = False,
) -> ListPlan:  # fmt: skip
    """The plan of runs of keys that start anywhere.

    Args:
        runs: Per query tile its runs as (first row, number of rows); they may not overlap.
        n_queries: Rows of q.
        n_keys: Rows of k.
        tile_q: Queries per tile.
        tile_k: Longer runs are cut into pieces of this size.
        causal: Within what is visited, query i sees keys j <= i only.

    Raises:
        InputError: Another number of tiles, a run outside the keys, or two that overlap: its keys would count twice.

    """
    if len(runs) != -(-n_queries // tile_q):
        raise InputError(
            f"plan_runs: {n_queries} queries in tiles of {tile_q} need {-(-n_queries // tile_q)} lists, "
            f"found {len(runs)}"
        )
    first: list[int] = []
    count: list[int] = []
    offsets = [0]
    for tile, of_tile in enumerate(runs):
        end = 0
        for begin, n in sorted(of_tile):
            if begin < 0 or n < 1 or begin + n > n_keys:
                raise InputError(f"plan_runs: tile {tile}: run ({begin}, {n}) is not within the {n_keys} keys")
            if begin < end:
                raise InputError(
                    f"plan_runs: tile {tile}: run ({begin}, {n}) overlaps the one before, to row {end - 1}"
                )
            end = begin + n
            for at in range(begin, end, tile_k):
                first.append(at)
                count.append(min(tile_k, end - at))
        offsets.append(len(first))
    return ListPlan(
        n_queries, n_keys, tile_q, tile_k, torch.tensor(offsets).view(1, 1, -1), torch.tensor(first, dtype=torch.long),
        torch.tensor(count, dtype=torch.long), causal,
    )  # fmt: skip
