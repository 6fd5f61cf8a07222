"""Search designs: one target among distractors, drawn at several set sizes, in degrees of visual angle."""

from __future__ import annotations

import dataclasses
import io
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from gazekit.displays import SearchDisplays
from gazekit.errors import InputError
from gazekit.stimuli.drawings import Drawing, as_versions

Item = Drawing | Sequence[Drawing]
# An item's versions: drawn at random, or the i-th item has the i-th of them.
Versions = Literal["random", "in_turn"]
# Cells in use: anywhere, or next to each other, so that items are as dense on small displays as on large ones.
Placement = Literal["scattered", "compact"]
_CHOICES = {
    "versions": ("random", "in_turn"),
    "placement": ("scattered", "compact"),
    "target_area": ("cell", "jittered"),
}


@dataclass(frozen=True)
class PlacedItem:
    """One item on a display.

    Args:
        cell: Number of its cell, row by row.
        box_px: Left, top, right, bottom, half-open.
        drawing: What it looks like.
        is_target: Whether it is what is searched for.

    """

    cell: int
    box_px: tuple[int, int, int, int]
    drawing: Drawing
    is_target: bool


@dataclass(frozen=True)
class DrawnDisplay:
    """One display as pixels, and what stands where on it.

    Args:
        name: ``CONDITION/SETSIZE/TRIAL``.
        image: (H, W, 3) uint8 RGB.
        target: (side, side, 3) uint8, the target in the version that the display has.
        items: In the order in which they were placed.
        set_size: How many.
        target_box_px: Left, top, right, bottom of the target's item; None on a target-absent display.
        target_area_px: What counts as the target, its cell; None likewise.

    """

    name: str
    image: NDArray[np.uint8]
    target: NDArray[np.uint8]
    items: tuple[PlacedItem, ...]
    set_size: int
    target_box_px: tuple[int, int, int, int] | None
    target_area_px: tuple[int, int, int, int] | None


class Condition(Protocol):
    """What the laboratory needs of a condition: drawn from a design, or read from a folder."""

    @property
    def name(self) -> str: ...

    @property
    def set_sizes(self) -> tuple[int, ...]: ...

    def displays(self, set_size: int) -> SearchDisplays:
        """All target-present displays of one set size."""

    def fingerprint(self) -> str:
        """Short digest of everything that decides what the displays show."""


@dataclass(frozen=True)
class SearchDesign:
    """One condition: a target among distractors on a grid of cells.

    Args:
        name: Of the condition, such as ``tilted_among_upright``.
        target: A drawing, or its versions.
        distractors: Kinds of distractors, each a drawing or its versions. Kinds are used as equally often as the set
            size allows.
        set_sizes: Items on a display, the target among them.
        trials: Displays per set size.
        field_dva: Side of the square display, or its width and height.
        grid: Cells per side, or columns and rows.
        item_dva: Side of an item's box.
        jitter_dva: An item's box is shifted in its cell by up to this (half-open) along both axes; None: all the room
            that the cell leaves.
        background: Grey of the ground, 0 to 255.
        contrast: Scales how much items differ from the ground; 1 is as drawn.
        px_per_dva: Pixels per degree.
        versions: How an item's version is chosen, see :data:`Versions`.
        placement: Which cells are used, see :data:`Placement`.
        target_area: What counts as the target: its ``cell``, or a square of a cell's size at the ``jittered`` place of
            the item, as in the published lighting task.
        jpeg_quality: 1 to 95: the displays go through JPEG, as the published ones did; None: lossless.
        max_fixations: That a search may take; None: one more than there are cells, as published.
        window_px: See :class:`gazekit.displays.SearchDisplays`.
        seed: Display i of a set size depends on it, the condition's name, the set size and i alone.

    Raises:
        InputError: A value out of range: a set size that does not fit the grid, an item larger than its cell or than
            the display, and so on.

    """

    name: str
    target: Item
    distractors: Sequence[Item]
    set_sizes: tuple[int, ...] = (1, 4, 8, 12)
    trials: int = 30
    field_dva: float | tuple[float, float] = 11.3
    grid: int | tuple[int, int] = 4
    item_dva: float = 2.3
    jitter_dva: float | None = None
    background: int = 255
    contrast: float = 1.0
    px_per_dva: float = 30.0
    versions: Versions = "random"
    placement: Placement = "scattered"
    target_area: Literal["cell", "jittered"] = "cell"
    jpeg_quality: int | None = None
    max_fixations: int | None = None
    window_px: int = 10
    seed: int = 0
    # Derived, in pixels.
    size_wh_px: tuple[int, int] = field(init=False, repr=False)
    cell_wh_px: tuple[int, int] = field(init=False, repr=False)
    grid_wh: tuple[int, int] = field(init=False, repr=False)
    item_px: int = field(init=False, repr=False)
    jitter_wh_px: tuple[int, int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        def put(name: str, value: object) -> None:
            object.__setattr__(self, name, value)

        put("target", as_versions(self.target))
        if isinstance(self.distractors, Drawing) or not self.distractors:
            raise InputError(
                f"{self._at('distractors')} must be a list of one or more items, found {self.distractors!r}"
            )
        put("distractors", tuple(as_versions(kind) for kind in self.distractors))
        put("set_sizes", tuple(self.set_sizes))
        for key, known in _CHOICES.items():
            if getattr(self, key) not in known:
                raise InputError(f"{self._at(key)} is {getattr(self, key)!r}, expected one of {list(known)}")
        if not self.px_per_dva > 0 or self.trials < 1 or not 0 <= self.background <= 255 or not self.contrast >= 0:
            raise InputError(
                f"{self._at('px_per_dva, trials, background, contrast')} must be positive, 1 or more, 0 to 255, 0 or "
                f"more; found {self.px_per_dva}, {self.trials}, {self.background}, {self.contrast}"
            )
        if self.jpeg_quality is not None and not 1 <= self.jpeg_quality <= 95:
            raise InputError(f"{self._at('jpeg_quality')} is {self.jpeg_quality}, expected 1 to 95 or none")
        field_wh = _pair(self.field_dva)
        grid = tuple(int(n) for n in _pair(self.grid))
        if min(field_wh) <= 0 or min(grid) < 1:
            raise InputError(f"{self._at('field_dva and grid')} must be positive, found {self.field_dva}, {self.grid}")
        put("size_wh_px", tuple(self._px(side) for side in field_wh))
        put("grid_wh", grid)
        put("item_px", self._px(self.item_dva))
        width, height = self.size_wh_px
        if self.item_px < 1 or self.item_px > min(width, height):
            raise InputError(
                f"{self._at('item_dva')} is {self.item_dva} ({self.item_px} px), the display {width}x{height} px: a "
                "target must have a pixel and fit the display"
            )
        put("cell_wh_px", (width // grid[0], height // grid[1]))
        if self.item_px > min(self.cell_wh_px):
            raise InputError(
                f"{self._at('item_dva')}: an item of {self.item_px} px does not fit a cell of {self.cell_wh_px[0]}x"
                f"{self.cell_wh_px[1]} px; fewer cells, a larger field, or smaller items"
            )
        room = [side / n - self.item_dva for side, n in zip(field_wh, grid, strict=True)]
        jitter = [max(1, self._px(free if self.jitter_dva is None else self.jitter_dva)) for free in room]
        for free, cell in zip(jitter, self.cell_wh_px, strict=True):
            if free - 1 > cell - self.item_px:
                raise InputError(
                    f"{self._at('jitter_dva')} is {self.jitter_dva}: items of {self.item_px} px would leave their "
                    f"cells of {cell} px; at most {(cell - self.item_px + 1) / self.px_per_dva:.3g}"
                )
        put("jitter_wh_px", tuple(jitter))
        self._check_set_sizes()

    def _check_set_sizes(self) -> None:
        sizes, n_cells = self.set_sizes, self.grid_wh[0] * self.grid_wh[1]
        if not sizes or len(set(sizes)) != len(sizes) or not all(isinstance(n, int) for n in sizes):
            raise InputError(f"{self._at('set_sizes')} must be different whole numbers, found {list(sizes)}")
        if wrong := [n for n in sizes if not 1 <= n <= n_cells]:
            raise InputError(
                f"{self._at('set_sizes')}: {wrong[0]} items do not fit the grid of {self.grid_wh[0]}x{self.grid_wh[1]} "
                f"cells; 1 to {n_cells}"
            )

    def _at(self, key: str) -> str:
        return f"search design {self.name!r}: {key}"

    def _px(self, dva: float) -> int:
        # Cut, as published; the small amount keeps 2.3 * 30 from being 68.
        return int(dva * self.px_per_dva + 1e-6)

    @property
    def n_cells(self) -> int:
        return self.grid_wh[0] * self.grid_wh[1]

    @property
    def density_per_dva2(self) -> float:
        """Cells per square degree: what items can be as dense as."""
        return self.n_cells / (self.size_wh_px[0] * self.size_wh_px[1] / self.px_per_dva**2)

    def cell_box_px(self, cell: int) -> tuple[int, int, int, int]:
        """Left, top, right, bottom of a cell; the grid starts at the top left, and what is left over is no cell's."""
        column, row = cell % self.grid_wh[0], cell // self.grid_wh[0]
        width, height = self.cell_wh_px
        return column * width, row * height, (column + 1) * width, (row + 1) * height

    def swapped(self, name: str) -> SearchDesign:
        """Target and distractors change places: the other half of an asymmetry.

        Raises:
            InputError: There are several kinds of distractors.

        """
        if len(self.distractors) != 1:
            raise InputError(f"{self._at('distractors')}: {len(self.distractors)} kinds; only one kind can be swapped")
        return self.but(name=name, target=self.distractors[0], distractors=(self.target,))

    def but(self, **changes: object) -> SearchDesign:
        """The same design with some values changed."""
        names = {f.name for f in dataclasses.fields(self) if f.init}
        if unknown := set(changes) - names:
            raise InputError(f"{self._at(sorted(unknown)[0])} is unknown; known: {', '.join(sorted(names))}")
        return SearchDesign(**({name: getattr(self, name) for name in names} | changes))  # type: ignore[arg-type]

    def draw(self, set_size: int, trial: int, present: bool = True) -> DrawnDisplay:
        """Display `trial` of a set size; with ``present=False`` a distractor stands where the target would.

        Raises:
            InputError: The set size is not one of the design's.

        """
        if set_size not in self.set_sizes:
            raise InputError(f"{self._at('set_sizes')} are {list(self.set_sizes)}, asked for {set_size}")
        rng = np.random.default_rng([self.seed, zlib.crc32(self.name.encode()), set_size, trial])
        cells = self._cells(set_size, rng)
        kinds = _balanced(len(self.distractors), set_size, rng)
        target_at = int(rng.integers(set_size))
        items = []
        for i, cell in enumerate(cells):
            is_target = present and i == target_at
            versions = self.target if is_target else self.distractors[kinds[i]]
            assert isinstance(versions, tuple)
            chosen = int(rng.integers(len(versions)))
            drawing = versions[i % len(versions) if self.versions == "in_turn" else chosen]
            left, top, _, _ = self.cell_box_px(cell)
            left, top = left + int(rng.integers(self.jitter_wh_px[0])), top + int(rng.integers(self.jitter_wh_px[1]))
            items.append(PlacedItem(cell, (left, top, left + self.item_px, top + self.item_px), drawing, is_target))
        shown = items[target_at]
        wanted = shown.drawing if present else self.target[0]  # type: ignore[index]
        area = self.cell_box_px(shown.cell)
        if self.target_area == "jittered":
            area = self._at_jittered_place(shown.box_px)
        return DrawnDisplay(
            name=f"{self.name}/{set_size}/{trial}" + ("" if present else "/absent"),
            image=self._through_jpeg(self._paint(items)),
            target=_pixels(wanted, self.item_px, self.background, self.contrast),
            items=tuple(items),
            set_size=set_size,
            target_box_px=shown.box_px if present else None,
            target_area_px=area if present else None,
        )

    def _at_jittered_place(self, box: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
        right, bottom = (min(a + b, c) for a, b, c in zip(box[:2], self.cell_wh_px, self.size_wh_px, strict=True))
        return box[0], box[1], right, bottom

    def _cells(self, n: int, rng: np.random.Generator) -> list[int]:
        if self.placement == "scattered":
            return [int(cell) for cell in rng.permutation(self.n_cells)[:n]]
        columns, rows = self.grid_wh
        # The n cells nearest to a random place, ties in random order.
        place = rng.uniform(0.0, 1.0, 2) * (columns, rows) - 0.5
        away = [np.hypot(c % columns - place[0], c // columns - place[1]) for c in range(self.n_cells)]
        order = np.argsort(away, kind="stable")[:n]
        return [int(cell) for cell in rng.permutation(order)]

    def _paint(self, items: Sequence[PlacedItem]) -> NDArray[np.uint8]:
        width, height = self.size_wh_px
        image = np.full((height, width, 3), self.background, np.uint8)
        for item in items:
            left, top, right, bottom = item.box_px
            image[top:bottom, left:right] = _pixels(item.drawing, self.item_px, self.background, self.contrast)
        return image

    def _through_jpeg(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        if self.jpeg_quality is None:
            return image
        buffer = io.BytesIO()
        grey = (image == image[..., :1]).all()
        Image.fromarray(image[..., 0] if grey else image).save(buffer, "JPEG", quality=self.jpeg_quality)
        return np.asarray(Image.open(io.BytesIO(buffer.getvalue())).convert("RGB"))

    def displays(self, set_size: int) -> SearchDisplays:
        """All displays of one set size, as a searcher takes them."""
        drawn = [self.draw(set_size, trial) for trial in range(self.trials)]
        return SearchDisplays(
            name=tuple(display.name for display in drawn),
            image=_as_tensor([display.image for display in drawn]),
            target=_as_tensor([display.target for display in drawn]),
            target_mask=torch.stack([self._mask(display.target_area_px) for display in drawn]),
            cells=torch.stack([self._mask(self.cell_box_px(cell)) for cell in range(self.n_cells)]),
            background=self.background,
            max_fixations=self.max_fixations or self.n_cells + 1,
            px_per_dva=self.px_per_dva,
            window_px=self.window_px,
        )

    def _mask(self, box: tuple[int, int, int, int] | None) -> torch.Tensor:
        width, height = self.size_wh_px
        mask = torch.zeros(height, width, dtype=torch.bool)
        if box is not None:
            mask[box[1] : box[3], box[0] : box[2]] = True
        return mask

    def fingerprint(self) -> str:
        """Digest of the design, and of its pictures if it has any."""
        crc = zlib.crc32(repr(self).encode())
        for item in (self.target, *self.distractors):
            for drawing in as_versions(item):
                for plane in drawing.ink(self.item_px):
                    crc = zlib.crc32(np.ascontiguousarray(plane).tobytes(), crc)
        return f"{crc:08x}"


def _pair(value: float | tuple[float, float]) -> tuple[float, float]:
    return (value, value) if isinstance(value, int | float) else (value[0], value[1])


def _balanced(n_kinds: int, n: int, rng: np.random.Generator) -> list[int]:
    """N kinds in random order, each as often as the others or once more."""
    whole = np.tile(np.arange(n_kinds), n // n_kinds)
    rest = rng.permutation(n_kinds)[: n % n_kinds]
    return [int(kind) for kind in rng.permutation(np.concatenate([whole, rest]))]


@lru_cache(maxsize=256)
def _pixels(drawing: Drawing, side_px: int, background: int, contrast: float) -> NDArray[np.uint8]:
    pixels = drawing.pixels(side_px, background, contrast)
    pixels.setflags(write=False)
    return pixels


def _as_tensor(pictures: Sequence[NDArray[np.uint8]]) -> torch.Tensor:
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous()
