"""Drawings of single items: what a target or a distractor looks like, as pixels and as SVG.

A drawing fills a square box and knows nothing of the display that it is put on. Boxes are scaled to whole pixels, so
that at the published sizes every pixel is the published one.
"""

from __future__ import annotations

import base64
import io
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import map_coordinates

from gazekit.errors import InputError
from gazekit.registry import unknown_name

Pixels = NDArray[np.float64]
# How a box can be mirrored: the four versions of the crosses and letters.
Mirror = Literal["none", "upside_down", "transposed", "transposed_mirrored"]
MIRRORS: tuple[Mirror, ...] = ("none", "upside_down", "transposed", "transposed_mirrored")


class Drawing(ABC):
    """Anything that can be drawn into a square box."""

    @abstractmethod
    def ink(self, side_px: int) -> tuple[Pixels, Pixels]:
        """Grey values (h, w) or (h, w, 3) in [0, 255], and how much of the ground they cover, (h, w) in [0, 1]."""

    @abstractmethod
    def svg(self, side: float, background: int, contrast: float) -> str:
        """Elements inside a box from (0, 0) to (side, side)."""

    def pixels(self, side_px: int, background: int, contrast: float = 1.0) -> NDArray[np.uint8]:
        """(side, side, 3) uint8 on a ground of grey `background`; `contrast` scales the difference from it."""
        value, cover = self.ink(side_px)
        if value.ndim == 2:
            value = np.repeat(value[..., None], 3, axis=2)
        mixed = background + contrast * cover[..., None] * (value - background)
        pixels: NDArray[np.uint8] = np.rint(mixed.clip(0.0, 255.0)).astype(np.uint8)
        return pixels

    def turned(self, degrees: float) -> Drawing:
        """Counterclockwise about the middle of the box."""
        return Turned(self, degrees)

    def versions(self) -> tuple[Drawing, ...]:
        """As drawn, upside down, transposed, and transposed and mirrored."""
        return tuple(Mirrored(self, mirror) for mirror in MIRRORS)


@dataclass(frozen=True)
class Strokes(Drawing):
    """Upright rectangles of one grey.

    Args:
        rectangles: Left, top, right, bottom each, half-open, in units of `box`.
        box: Side of the box.
        grey: 0 to 255.

    """

    rectangles: tuple[tuple[float, float, float, float], ...]
    box: float
    grey: float = 0.0

    def ink(self, side_px: int) -> tuple[Pixels, Pixels]:
        cover = np.zeros((side_px, side_px))
        for rectangle in self.rectangles:
            left, top, right, bottom = (_whole(edge * side_px / self.box) for edge in rectangle)
            cover[top : max(bottom, top + 1), left : max(right, left + 1)] = 1.0
        return np.full_like(cover, self.grey), cover

    def svg(self, side: float, background: int, contrast: float) -> str:
        scale, fill = side / self.box, _grey(self.grey, background, contrast)
        return "".join(
            f'<rect x="{left * scale:g}" y="{top * scale:g}" width="{(right - left) * scale:g}" '
            f'height="{(bottom - top) * scale:g}" fill="{fill}"/>'
            for left, top, right, bottom in self.rectangles
        )


@dataclass(frozen=True)
class Arc(Drawing):
    """Part of a circle's outline, with round ends; angles in degrees, clockwise from the right.

    Args:
        center: (x, y) of the circle, in units of `box`; it may lie outside.
        radius: In units of `box`.
        from_deg: Where the arc begins.
        to_deg: Where it ends.
        thickness: In units of `box`.
        box: Side of the box.
        grey: 0 to 255.

    """

    center: tuple[float, float]
    radius: float
    from_deg: float
    to_deg: float
    thickness: float
    box: float
    grey: float = 0.0

    def ink(self, side_px: int) -> tuple[Pixels, Pixels]:
        scale = side_px / self.box
        y, x = np.mgrid[0:side_px, 0:side_px].astype(float)
        dx, dy = x - self.center[0] * scale, y - self.center[1] * scale
        angle = np.degrees(np.arctan2(dy, dx))
        within = (angle - self.from_deg) % 360.0 <= self.to_deg - self.from_deg
        distance = np.where(within, np.abs(np.hypot(dx, dy) - self.radius * scale), np.inf)
        for end in (self.from_deg, self.to_deg):
            end_x, end_y = (self.radius * scale * f(math.radians(end)) for f in (math.cos, math.sin))
            distance = np.minimum(distance, np.hypot(dx - end_x, dy - end_y))
        cover = (distance <= self.thickness * scale / 2.0).astype(float)
        return np.full_like(cover, self.grey), cover

    def svg(self, side: float, background: int, contrast: float) -> str:
        scale = side / self.box
        ends = [
            (self.center[0] + self.radius * math.cos(a), self.center[1] + self.radius * math.sin(a))
            for a in (math.radians(self.from_deg), math.radians(self.to_deg))
        ]
        (x0, y0), (x1, y1) = ((x * scale, y * scale) for x, y in ends)
        large = int(self.to_deg - self.from_deg > 180.0)
        radius = self.radius * scale
        return (
            f'<path d="M {x0:g} {y0:g} A {radius:g} {radius:g} 0 {large} 1 {x1:g} {y1:g}" fill="none" '
            f'stroke-linecap="round" stroke="{_grey(self.grey, background, contrast)}" '
            f'stroke-width="{self.thickness * scale:g}"/>'
        )


@dataclass(frozen=True)
class ShadedDisc(Drawing):
    """A disc with a staircase of greys, black at the top to white at the bottom.

    Args:
        box: Side of the box; the disc's radius is ``(box - 1) / 2``, its edge left out.
        row: Height of a step, in units of `box`.
        step: Grey levels per step.

    """

    box: float = 31.0
    row: float = 2.0
    step: float = 17.0

    def _levels(self) -> list[tuple[float, float, float]]:
        """Top, bottom and grey of each step, in units of the box."""
        tops = np.arange(0.0, self.box, self.row)
        return [(t, min(t + self.row, self.box), min(255.0, self.step * k)) for k, t in enumerate(tops)]

    def ink(self, side_px: int) -> tuple[Pixels, Pixels]:
        y, x = np.mgrid[0:side_px, 0:side_px].astype(float)
        middle, radius = (side_px - 1) / 2.0, (self.box - 1) / 2.0 * side_px / self.box
        cover = (np.hypot(x - middle, y - middle) < radius).astype(float)
        value = (self.step * np.floor(y * self.box / side_px / self.row + 1e-9)).clip(0.0, 255.0)
        return value, cover

    def svg(self, side: float, background: int, contrast: float) -> str:
        scale, middle = side / self.box, side / 2.0
        radius = (self.box - 1) / 2.0 * scale
        parts = []
        for top, bottom, grey in self._levels():
            y0, y1 = (min(max(edge * scale, middle - radius), middle + radius) for edge in (top, bottom))
            if y1 - y0 < 1e-9:
                continue
            h0, h1 = (math.sqrt(max(0.0, radius**2 - (edge - middle) ** 2)) for edge in (y0, y1))
            arc = f"A {radius:g} {radius:g} 0 0 1"
            parts.append(
                f'<path d="M {middle - h0:g} {y0:g} L {middle + h0:g} {y0:g} {arc} {middle + h1:g} {y1:g} '
                f'L {middle - h1:g} {y1:g} {arc} {middle - h0:g} {y0:g} Z" fill="{_grey(grey, background, contrast)}"/>'
            )
        return "".join(parts)


@dataclass(frozen=True)
class Picture(Drawing):
    """A picture of one's own, scaled to the box; what is transparent shows the ground.

    Args:
        path: PNG or any other image file.

    Raises:
        InputError: The file cannot be read.

    """

    path: str

    def _open(self) -> Image.Image:
        try:
            with Image.open(Path(self.path).expanduser()) as image:
                return image.convert("RGBA")
        except (OSError, ValueError) as error:
            raise InputError(f"item picture {self.path!r} cannot be read ({error})") from error

    def ink(self, side_px: int) -> tuple[Pixels, Pixels]:
        scaled = self._open().resize((side_px, side_px), Image.Resampling.LANCZOS)
        values = np.asarray(scaled, dtype=float)
        return values[..., :3], values[..., 3] / 255.0

    def svg(self, side: float, background: int, contrast: float) -> str:
        picture = np.asarray(self._open(), dtype=float)
        mixed = background + contrast * (picture[..., :3] - background)
        buffer = io.BytesIO()
        rgba = np.concatenate([mixed.clip(0.0, 255.0), picture[..., 3:]], -1)
        Image.fromarray(np.rint(rgba).astype(np.uint8), "RGBA").save(buffer, "PNG")
        data = base64.b64encode(buffer.getvalue()).decode()
        where = f'width="{side:g}" height="{side:g}" preserveAspectRatio="none"'
        return f'<image {where} href="data:image/png;base64,{data}"/>'


@dataclass(frozen=True)
class Turned(Drawing):
    """A drawing turned counterclockwise, about pixel ``(side / 2, side / 2)`` as in the published displays."""

    drawing: Drawing
    degrees: float

    def ink(self, side_px: int) -> tuple[Pixels, Pixels]:
        value, cover = self.drawing.ink(side_px)
        if self.degrees % 360.0 == 0.0:
            return value, cover
        angle, middle = math.radians(self.degrees), side_px / 2.0
        y, x = np.mgrid[0:side_px, 0:side_px] - middle
        at = [math.sin(angle) * x + math.cos(angle) * y + middle, math.cos(angle) * x - math.sin(angle) * y + middle]

        def look(plane: Pixels) -> Pixels:
            turned: Pixels = map_coordinates(plane, at, order=1, mode="constant", cval=0.0)
            return turned

        turned_cover = look(cover)
        planes = value[..., None] if value.ndim == 2 else value
        # Values count by how much they cover, so that the empty corners do not darken an edge.
        mixed = np.stack([look(planes[..., c] * cover) for c in range(planes.shape[-1])], -1)
        shown = mixed / np.where(turned_cover > 0, turned_cover, 1.0)[..., None]
        # Published displays are 8-bit after turning.
        return shown[..., 0] if value.ndim == 2 else shown, np.rint(turned_cover * 255.0) / 255.0

    def svg(self, side: float, background: int, contrast: float) -> str:
        inner = self.drawing.svg(side, background, contrast)
        return f'<g transform="rotate({-self.degrees:g} {side / 2:g} {side / 2:g})">{inner}</g>'


@dataclass(frozen=True)
class Mirrored(Drawing):
    """A drawing in one of its four versions."""

    drawing: Drawing
    mirror: Mirror

    def __post_init__(self) -> None:
        if self.mirror not in MIRRORS:
            raise unknown_name("mirror", self.mirror, list(MIRRORS))

    def ink(self, side_px: int) -> tuple[Pixels, Pixels]:
        value, cover = self.drawing.ink(side_px)
        return self._mirrored(value), self._mirrored(cover)

    def _mirrored(self, plane: Pixels) -> Pixels:
        if self.mirror == "none":
            return plane
        if self.mirror == "upside_down":
            return plane[::-1]
        transposed = plane.swapaxes(0, 1)
        return transposed if self.mirror == "transposed" else transposed[:, ::-1]

    def svg(self, side: float, background: int, contrast: float) -> str:
        matrix = {
            "none": "1 0 0 1 0 0",
            "upside_down": f"1 0 0 -1 0 {side:g}",
            "transposed": "0 1 1 0 0 0",
            "transposed_mirrored": f"0 1 -1 0 {side:g} 0",
        }[self.mirror]
        return f'<g transform="matrix({matrix})">{self.drawing.svg(side, background, contrast)}</g>'


def bar(degrees: float = 0.0, length: float = 60 / 69, width: float = 9 / 69, grey: float = 0.0) -> Drawing:
    """An upright bar turned counterclockwise by `degrees`; `length` and `width` in box sides."""
    x, y = (1.0 - width) / 2.0, (1.0 - length) / 2.0
    # On whole pixels of a box of 69, where the published bar lies.
    return Turned(Strokes(((x * 69, y * 69, (1 - x) * 69, (1 - y) * 69),), 69.0, grey), degrees)


def arc(degrees: float = 0.0, grey: float = 255.0) -> Drawing:
    """The arc of the curvature task, open at the top, turned counterclockwise."""
    # Published as a stroke of thickness 5, which OpenCV draws 6.8 wide: 19 of its 302 pixels differ from these.
    return Turned(Arc((24.0, -2.0), 30.0, 52.0, 127.0, 6.8, 48.0, grey), degrees)


def line(degrees: float = 0.0, grey: float = 255.0) -> Drawing:
    """The flat line of the curvature task, turned counterclockwise."""
    return Turned(Strokes(((6.0, 21.0, 42.0, 27.0),), 48.0, grey), degrees)


def _in_border(*rectangles: tuple[float, float, float, float], grey: float) -> Drawing:
    """Strokes in a square of 165 with a border of 6 around it."""
    return Strokes(tuple((a + 6.0, b + 6.0, c + 6.0, d + 6.0) for a, b, c, d in rectangles), 177.0, grey)


def cross(grey: float = 0.0) -> Drawing:
    """Two crossing strokes."""
    return _in_border((74, 0, 90, 165), (0, 49, 165, 66), grey=grey)


def broken_cross(grey: float = 0.0) -> Drawing:
    """The same strokes without a crossing: the halves of the flat one are shifted against each other."""
    return _in_border((74, 0, 90, 165), (0, 49, 82, 66), (82, 99, 165, 115), grey=grey)


def letter_l(grey: float = 0.0) -> Drawing:
    """An L."""
    return _in_border((0, 0, 16, 165), (0, 148, 165, 165), grey=grey)


def letter_t(grey: float = 0.0) -> Drawing:
    """A T."""
    return _in_border((74, 0, 90, 165), (0, 0, 165, 16), grey=grey)


def disc(bright: str = "bottom") -> Drawing:
    """The shaded disc of the lighting task with its bright side at the bottom, top, right or left."""
    mirrors: dict[str, Mirror] = {"bottom": "none", "top": "upside_down", "right": "transposed"}
    if bright == "left":
        return Mirrored(Mirrored(ShadedDisc(), "upside_down"), "transposed")
    if bright not in mirrors:
        raise unknown_name("bright side of a disc", bright, [*mirrors, "left"])
    return Mirrored(ShadedDisc(), mirrors[bright])


def picture(path: str) -> Drawing:
    """A picture file of one's own."""
    return Picture(str(path))


# What a design file can name.
DRAWINGS: dict[str, Any] = {
    "bar": bar,
    "arc": arc,
    "line": line,
    "cross": cross,
    "broken_cross": broken_cross,
    "letter_l": letter_l,
    "letter_t": letter_t,
    "disc": disc,
    "picture": picture,
}


def drawing_from(spec: Any) -> tuple[Drawing, ...]:
    """Versions of an item from a design file: ``bar``, ``{bar: {degrees: 20}}``, or a list of these.

    ``{letter_t: {versions: all}}`` gives the four mirrored versions.

    Raises:
        InputError: Not such a thing, or arguments that the drawing does not take.

    """
    if isinstance(spec, list) and spec:
        return tuple(version for one in spec for version in drawing_from(one))
    if isinstance(spec, str):
        spec = {spec: {}}
    if not isinstance(spec, dict) or len(spec) != 1:
        raise InputError(
            f"an item is a name or one name with arguments, such as {{bar: {{degrees: 20}}}}; found {spec!r}"
        )
    name, arguments = next(iter(spec.items()))
    if name not in DRAWINGS:
        raise unknown_name("item drawing", name, list(DRAWINGS))
    arguments = dict(arguments or {}) if isinstance(arguments, dict | None) else {"": arguments}
    versions = arguments.pop("versions", None)
    if versions not in (None, "all"):
        raise InputError(f"item {name!r}: versions is {versions!r}, expected 'all' or nothing")
    try:
        drawn: Drawing = DRAWINGS[name](**arguments)
    except TypeError as error:
        raise InputError(f"item {name!r} does not take these arguments: {error}") from error
    return drawn.versions() if versions == "all" else (drawn,)


def as_versions(item: Drawing | Sequence[Drawing]) -> tuple[Drawing, ...]:
    """One drawing, or its versions, as a tuple.

    Raises:
        InputError: Neither.

    """
    versions = (item,) if isinstance(item, Drawing) else tuple(item)
    if not versions or not all(isinstance(version, Drawing) for version in versions):
        raise InputError(f"an item is a drawing or its versions (see gazekit.stimuli.drawings), found {item!r}")
    return versions


def _whole(edge: float) -> int:
    """The nearest whole pixel, halves up."""
    return math.floor(edge + 0.5 - 1e-9)


def _grey(value: float, background: int, contrast: float) -> str:
    level = round(min(255.0, max(0.0, background + contrast * (value - background))))
    return f"#{level:02x}{level:02x}{level:02x}"
