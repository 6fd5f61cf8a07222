"""Fixated pixels: which map scores which fixation, and the values found there.

A map that serves many fixations reaches a metric as an expanded view (stride 0). It is recognised
here and kept once, so that whatever a metric derives from a map is derived once per distinct map.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from gazekit.density import pixel_of
from gazekit.errors import InputError

# Elements of a float64 working copy: 4 MB stay in the cache of a CPU; a GPU wants more.
_CPU_CHUNK, _GPU_CHUNK = 2**19, 2**24
_INDEX_PIECE = 2**14 - 2**9


@dataclass(frozen=True)
class Fixated:
    """G distinct maps of P pixels and the K fixations that each of them scores.

    Args:
        maps: (G, P) the distinct maps.
        index: (G, K) long, the fixated pixel; 0 where not valid.
        valid: (G, K) bool.
        shape: B and T of the scanpaths.
        steps_first: True where the G maps belong to steps, so that (G, K) is (T, B).
        name: What the maps are called in error messages.

    """

    maps: Tensor
    index: Tensor
    valid: Tensor
    shape: tuple[int, int]
    steps_first: bool
    name: str

    def values(self) -> Tensor:
        """(G, K) map values at the fixations; whatever pixel 0 holds where not valid."""
        return self.maps.gather(1, self.index)

    def per_trial(self, score: Tensor) -> Tensor:
        """(G, K) -> (B, T)."""
        n_trials, n_steps = self.shape
        return score.reshape(n_steps, n_trials).mT if self.steps_first else score.reshape(n_trials, n_steps)

    def trial_mean(self, score: Tensor) -> Tensor:
        """(G, K) score per fixation -> (B,) float64 mean over valid fixations, NaN without any."""
        return mean_over_valid(self.per_trial(score), self.per_trial(self.valid))

    def chunks(self, n_rows: int | None = None) -> Iterator[tuple[slice, Tensor | None]]:
        """The maps in pieces of `n_rows`, by default small enough for working copies; None where nothing is fixated.

        Padded steps of a conditional density thus cost nothing, and may hold anything.
        """
        needed = self.valid.any(1).tolist()
        start = 0
        for chunk in self.maps.split(n_rows or rows_per_chunk(self.maps)):
            rows = slice(start, start + len(chunk))
            start = rows.stop
            yield rows, chunk if any(needed[rows]) else None

    def raise_for(self, rows: slice, broken: Tensor, what: str) -> None:
        """Raise an InputError for the first fixated map among `rows` that is `broken`."""
        broken = broken & self.valid[rows].any(1)
        if broken.any():
            row = rows.start + int(broken.nonzero()[0])
            fixations = torch.zeros_like(self.valid)
            fixations[row] = self.valid[row]
            trial, step = self.per_trial(fixations).nonzero()[0].tolist()
            raise InputError(f"{self.name} of trial {trial}, fixation {step}: {what}")


def rows_per_chunk(maps: Tensor) -> int:
    """How many of the (G, ...) maps to work on at a time."""
    n_pixels = max(1, maps[:1].numel())
    return max(1, (_GPU_CHUNK if maps.is_cuda else _CPU_CHUNK) // n_pixels)


def is_shared(maps: Tensor, dim: int = 0) -> bool:
    """True if `dim` is an expanded one: every entry along it is the same memory."""
    return maps.shape[dim] > 1 and maps.stride(dim) == 0


def mean_over_valid(score: Tensor, valid: Tensor) -> Tensor:
    """(B, T) -> (B,) float64 mean over the valid entries, NaN without any; -inf stays -inf."""
    score = score.double()
    return score.where(valid, torch.zeros_like(score)).sum(1) / valid.sum(1)


def pixel_index(
    xy_px: Tensor, valid: Tensor, size_wh_px: tuple[int, int], what: tuple[str, str] = ("trial", "fixation")
) -> Tensor:
    """(B, T, 2) positions -> (B, T) long index into the flat map, 0 where not valid.

    Raises:
        InputError: A valid position is not finite or lies outside the map.

    """
    # In pieces below the size from which PyTorch splits an operation over threads.
    piece = max(1, _INDEX_PIECE // max(1, len(xy_px)))
    pieces = zip(xy_px.split(piece, 1), valid.split(piece, 1), strict=True)
    return torch.cat([_index(*p, size_wh_px, what, i * piece) for i, p in enumerate(pieces)], 1)


def _index(xy_px: Tensor, valid: Tensor, size_wh_px: tuple[int, int], what: tuple[str, str], start: int) -> Tensor:
    width, height = size_wh_px
    x, y = xy_px.unbind(-1)
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)  # NaN is not inside
    if not (inside | ~valid).all():
        trial, step = (valid & ~inside).nonzero()[0].tolist()
        raise InputError(
            f"{what[0]} {trial}, {what[1]} {start + step}: (x, y) = {xy_px[trial, step].tolist()} px is outside the "
            f"{width}x{height} px map; scale fixations and map to one size first, or mark it invalid"
        )
    row, column = pixel_of(xy_px)
    index = row * width + column
    return index.where(valid, torch.zeros_like(index))


def check_fixations(xy_px: Tensor, valid: Tensor, n_trials: int, axes: str = "(B, T") -> None:
    """Raise an InputError unless xy_px is (B, T, 2) and valid (B, T) bool for B trials."""
    fits = xy_px.ndim == 3 and xy_px.shape[-1] == 2 and xy_px.shape[0] == n_trials
    if not fits or valid.shape != xy_px.shape[:-1]:
        raise InputError(
            f"expected positions {axes}, 2) and valid {axes}) for B = {n_trials} maps; "
            f"got {tuple(xy_px.shape)} and {tuple(valid.shape)}"
        )
    if valid.dtype != torch.bool:
        raise InputError(f"valid must be bool, True where there is a fixation; got {valid.dtype}")


def fixated(maps: Tensor, xy_px: Tensor, valid: Tensor, name: str = "saliency", merge: bool = True) -> Fixated:
    """Match (B, H, W) maps with the fixations of B trials.

    Args:
        maps: (B, H, W), one map per trial.
        xy_px: (B, T, 2) fixations as (x, y) px.
        valid: (B, T) bool.
        name: The maps' argument name, for messages.
        merge: Keep a map shared by all trials once; False keeps one row per trial all the same.

    Raises:
        InputError: Shapes or types do not fit, or a valid fixation lies outside the map.

    """
    if maps.ndim != 3:
        raise InputError(f"{name} must be (B, H, W), one map per trial; got {tuple(maps.shape)}")
    check_fixations(xy_px, valid, len(maps))
    height, width = maps.shape[-2:]
    index = pixel_index(xy_px, valid, (width, height))
    shape = (index.shape[0], index.shape[1])
    if merge and is_shared(maps):
        maps, index, valid = maps[:1], index.reshape(1, -1), valid.reshape(1, -1)
    return Fixated(_real(maps, name).flatten(1), index, valid, shape, False, name)


def fixated_steps(maps: Tensor, xy_px: Tensor, valid: Tensor, name: str) -> Fixated:
    """Match (B, T, H, W) maps, one per fixation, with the fixations of B trials.

    A static model expanded over steps, over trials or over both keeps its maps once.

    Raises:
        InputError: Shapes or types do not fit, or a valid fixation lies outside the map.

    """
    if maps.ndim != 4:
        raise InputError(f"{name} must be (B, T, H, W), one map per fixation; got {tuple(maps.shape)}")
    check_fixations(xy_px, valid, len(maps))
    if maps.shape[1] != xy_px.shape[1]:
        raise InputError(f"{name} has {maps.shape[1]} steps but xy_px has {xy_px.shape[1]}; give one map per fixation")
    n_trials, n_steps, height, width = maps.shape
    if is_shared(maps, 1) or n_steps == 1:
        return fixated(maps[:, 0], xy_px, valid, name)
    index = pixel_index(xy_px, valid, (width, height))
    if steps_first := is_shared(maps, 0):
        maps, index, valid = maps[0], index.mT, valid.mT
    else:
        maps, index, valid = maps.flatten(0, 1), index.reshape(-1, 1), valid.reshape(-1, 1)
    return Fixated(_real(maps, name).flatten(1), index, valid, (n_trials, n_steps), steps_first, name)


def _real(maps: Tensor, name: str) -> Tensor:
    if maps.is_complex():
        raise InputError(f"{name} must be real; got {maps.dtype}")
    return maps if maps.is_floating_point() else maps.double()
