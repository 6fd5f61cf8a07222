"""Tile order: the tokens of a grid arranged so that each n-D tile is one run of memory."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from gazekit.errors import InputError
from gazekit.kernels.window import ceil_div, check_tile


class TileLayout:
    """A permutation of grid tokens into tiles, with zeros where a tile reaches past the grid.

    Each axis is padded and seen as (rest, tile, dilation); tokens are ordered by dilation group, then by tile, then
    within the tile, row-major over the axes in each. Norms, projections, MLPs and residuals commute with it:
    permute once after the patch embedding, and back once at the end.

    Args:
        grid: Tokens per axis.
        tile: Edge of a tile, per axis or one for all.
        dilation: Interleaved groups per axis.

    """

    def __init__(self, grid: Sequence[int], tile: Sequence[int] | int = 8, dilation: Sequence[int] | int = 1) -> None:
        self.grid = tuple(grid)
        if not self.grid or min(self.grid) < 1:
            raise InputError(f"TileLayout: expected at least one token per axis, found grid {self.grid}")
        self.tile = check_tile("TileLayout", self.grid, tile)
        self.dilation = check_tile("TileLayout", self.grid, dilation)
        self.rest = tuple(
            ceil_div(ceil_div(length, d), t) for length, t, d in zip(self.grid, self.tile, self.dilation, strict=True)
        )
        self.padded = tuple(r * t * d for r, t, d in zip(self.rest, self.tile, self.dilation, strict=True))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TileLayout) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    def __repr__(self) -> str:
        return f"TileLayout(grid={self.grid}, tile={self.tile}, dilation={self.dilation})"

    @property
    def _key(self) -> tuple[tuple[int, ...], ...]:
        return self.grid, self.tile, self.dilation

    @property
    def n_tokens(self) -> int:
        """Tokens in tile order, padding included."""
        return math.prod(self.padded)

    @property
    def tokens_per_tile(self) -> int:
        return math.prod(self.tile)

    @property
    def n_tiles(self) -> int:
        return self.n_tokens // self.tokens_per_tile

    def to_tiles(self, x: Tensor) -> Tensor:
        """(B, *grid, ...) -> (B, n_tokens, ...) in tile order; padding is zero.

        Raises:
            InputError: `x` does not have the layout's grid.

        """
        n = len(self.grid)
        if tuple(x.shape[1 : n + 1]) != self.grid:
            raise InputError(f"TileLayout: expected (B, {', '.join(map(str, self.grid))}, ...), found {tuple(x.shape)}")
        rest = x.shape[n + 1 :]
        if self.padded != self.grid:
            # From the last axis to the first, as F.pad wants; the trailing axes stay.
            x = x.reshape(x.shape[0], *self.grid, -1)
            pad = [0, 0]
            for length, padded in zip(reversed(self.grid), reversed(self.padded), strict=True):
                pad += [0, padded - length]
            x = F.pad(x, pad)
        split = [part for r, t, d in zip(self.rest, self.tile, self.dilation, strict=True) for part in (r, t, d)]
        x = x.reshape(x.shape[0], *split, -1)
        group, tile, within = ([3 * axis + at for axis in range(n)] for at in (3, 1, 2))
        return x.permute(0, *group, *tile, *within, 3 * n + 1).reshape(x.shape[0], self.n_tokens, *rest)

    def from_tiles(self, x: Tensor) -> Tensor:
        """(B, n_tokens, ...) in tile order -> (B, *grid, ...); what stood in the padding is dropped.

        Raises:
            InputError: `x` does not have the layout's number of tokens.

        """
        if x.ndim < 2 or x.shape[1] != self.n_tokens:
            raise InputError(f"TileLayout: expected (B, {self.n_tokens}, ...) in tile order, found {tuple(x.shape)}")
        n, rest = len(self.grid), x.shape[2:]
        x = x.reshape(x.shape[0], *self.dilation, *self.rest, *self.tile, -1)
        back = [1 + part * n + axis for axis in range(n) for part in (1, 2, 0)]
        x = x.permute(0, *back, 3 * n + 1).reshape(x.shape[0], *self.padded, -1)
        x = x[(slice(None), *(slice(length) for length in self.grid))]
        return x.reshape(x.shape[0], *self.grid, *rest)

    def rows(self) -> Tensor:
        """(n_tokens,) row-major index of the grid token in each place of the tile order; -1 in padding."""
        index = torch.arange(1, math.prod(self.grid) + 1).reshape(1, *self.grid)
        return self.to_tiles(index)[0] - 1
