"""Search displays and what a search on them gives: shared by generators of stimuli, searchers and scoring."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gazekit.errors import InputError


@dataclass(frozen=True)
class SearchDisplays:
    """B displays of one size, each with the picture of its target: what a searcher is given.

    Pictures are 8-bit, since what is erased and what lies around a display is filled with one 8-bit value.

    With `cells`, items stand in known places (a grid, a ring): only cells are looked at, each once, and a cell that
    was looked at is erased. Without, the eye may land anywhere on the display ("free" search in a scene).

    Args:
        name: B names, for messages and tables.
        image: (B, 3, H, W) uint8 RGB.
        target: (B, 3, h, w) uint8 RGB, what is searched for.
        target_mask: (B, H, W) bool, True on the target: in a grid its whole cell, in a scene its box.
        cells: (N, H, W) bool, all places where an item may be, occupied or not, in the order in which a pixel is
            looked up; shared by the B displays. None: free search.
        background: 0 to 255, the grey around the display and in erased cells.
        max_fixations: Fixations after the initial one that a search may take.
        px_per_dva: Pixels per degree of visual angle.
        start_xy_px: (B, 2) float, the initial fixation; None is the middle of the display.
        window_px: Side of the square around a fixation within which the target counts as found in free search (and
            with ``oracle="window"``), and which is not fixated again in free search.

    Raises:
        InputError: A shape or type does not fit, a display has no target, the target is larger than the display, or a
            mask has another size than the display.

    """

    name: tuple[str, ...]
    image: Tensor
    target: Tensor
    target_mask: Tensor
    cells: Tensor | None
    background: int
    max_fixations: int
    px_per_dva: float = 30.0
    start_xy_px: Tensor | None = None
    window_px: int = 10

    def __post_init__(self) -> None:
        for what, picture in (("image", self.image), ("target", self.target)):
            if picture.ndim != 4 or picture.shape[1] != 3 or picture.dtype != torch.uint8:
                raise InputError(
                    f"search displays: {what} must be (B, 3, height, width) uint8 RGB; got {tuple(picture.shape)} "
                    f"{str(picture.dtype).removeprefix('torch.')}"
                )
        n, _, height, width = self.image.shape
        if n < 1 or len(self.name) != n or len(self.target) != n:
            raise InputError(
                f"search displays: as many names and targets as images; got {len(self.name)} names, "
                f"{len(self.target)} targets, {n} images"
            )
        if self.target.shape[2] > height or self.target.shape[3] > width:
            raise InputError(
                f"search display {self.name[0]!r}: the target, {self.target.shape[3]}x{self.target.shape[2]} px, is "
                f"larger than the display, {width}x{height} px; crop or shrink the target"
            )
        self._check_masks(n, height, width)
        if not 0 <= self.background <= 255:
            raise InputError(f"search displays: background is {self.background}, expected 0 to 255")
        if self.max_fixations < 1 or self.window_px < 1 or not self.px_per_dva > 0:
            raise InputError(
                f"search displays: max_fixations, window_px and px_per_dva must be positive; got {self.max_fixations}, "
                f"{self.window_px}, {self.px_per_dva}"
            )
        if self.start_xy_px is not None:
            self._check_start(n, height, width)

    def _check_masks(self, n: int, height: int, width: int) -> None:
        masks = [("target_mask", self.target_mask)] + ([] if self.cells is None else [("cells", self.cells)])
        for what, mask in masks:
            if mask.ndim != 3 or mask.dtype != torch.bool:
                raise InputError(
                    f"search displays: {what} must be (n, height, width) bool; got {tuple(mask.shape)} "
                    f"{str(mask.dtype).removeprefix('torch.')}"
                )
            if mask.shape[1:] != (height, width):
                raise InputError(
                    f"search display {self.name[0]!r}: {what} is {mask.shape[2]}x{mask.shape[1]} px, the display "
                    f"{width}x{height} px; draw both at one size"
                )
        if len(self.target_mask) != n:
            raise InputError(f"search displays: {len(self.target_mask)} target masks for {n} displays")
        if self.cells is not None and (not len(self.cells) or not self.cells.flatten(1).any(1).all()):
            raise InputError("search displays: each of the cells needs at least one pixel, and there must be a cell")
        without = ~self.target_mask.flatten(1).any(1)
        if without.any():
            row = int(without.nonzero()[0])
            raise InputError(f"search display {self.name[row]!r} has no target: its target_mask is empty")

    def _check_start(self, n: int, height: int, width: int) -> None:
        start = self.start_xy_px
        assert start is not None
        if start.shape != (n, 2) or not start.is_floating_point():
            raise InputError(f"search displays: start_xy_px must be ({n}, 2) float; got {tuple(start.shape)}")
        inside = (start >= 0).all(1) & (start[:, 0] < width) & (start[:, 1] < height)
        if not inside.all():
            row = int((~inside).nonzero()[0])
            raise InputError(
                f"search display {self.name[row]!r}: starts at {start[row].tolist()} px, outside {width}x{height} px"
            )

    def __len__(self) -> int:
        return len(self.name)

    @property
    def size_wh_px(self) -> tuple[int, int]:
        return self.image.shape[3], self.image.shape[2]

    @property
    def device(self) -> torch.device:
        return self.image.device

    def start_row_column(self) -> Tensor:
        """(B, 2) long, the pixel of the initial fixation as (row, column)."""
        if self.start_xy_px is not None:
            return self.start_xy_px.floor().long().flip(-1)
        height, width = self.image.shape[-2:]
        return torch.tensor([height // 2, width // 2], device=self.device).expand(len(self), 2)

    def pick(self, rows: slice | Tensor) -> SearchDisplays:
        """Some of the displays."""
        index = torch.arange(len(self))[rows.cpu() if isinstance(rows, Tensor) else rows]
        at = index.to(self.device)
        return replace(
            self,
            name=tuple(self.name[i] for i in index.tolist()),
            image=self.image[at],
            target=self.target[at],
            target_mask=self.target_mask[at],
            start_xy_px=None if self.start_xy_px is None else self.start_xy_px[at],
        )

    def to(self, device: torch.device | str) -> SearchDisplays:
        """The same displays on `device`."""
        return replace(
            self,
            image=self.image.to(device),
            target=self.target.to(device),
            target_mask=self.target_mask.to(device),
            cells=None if self.cells is None else self.cells.to(device),
            start_xy_px=None if self.start_xy_px is None else self.start_xy_px.to(device),
        )


@dataclass(frozen=True)
class SearchPaths:
    """The searches of B displays.

    Args:
        xy_px: (B, T, 2) float fixations as (x, y) px, the initial one first, each in the middle of its pixel.
        valid: (B, T) bool, False after a search's end.
        n_fixations: (B,) float, fixations after the initial one until the target was found (0: the eye was on it at
            the start); inf where it was not. What :func:`gazekit.metrics.asymmetry.reaction_time_ms` takes.
        said_yes: (B,) bool, the searcher said that it found the target. Differs from `found` only where it recognises
            the target by itself: a false alarm ends a search that has not found the target.
        priority: (B, T - 1, H, W) float map before each fixation after the initial one, NaN where there was no step;
            or None where it was not asked for.

    """

    xy_px: Tensor
    valid: Tensor
    n_fixations: Tensor
    said_yes: Tensor
    priority: Tensor | None = None

    @property
    def found(self) -> Tensor:
        """(B,) bool."""
        return self.n_fixations.isfinite()

    def row_column(self) -> Tensor:
        """(B, T, 2) long, each fixation's pixel as (row, column)."""
        return self.xy_px.floor().long().flip(-1)
