"""A small rendered world to grow networks in: shaded bumps lit from above, upright and mostly straight contours.

One picture shows one object of a known class, often with clutter around it. Three regularities of the world are there
on purpose, because search asymmetries have been blamed on them: light comes from above, contours are straight far more
often than curved, and they stand upright or lie flat. :mod:`gazekit.stimuli.diet` takes one of them away from the very
same pictures.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gazekit.errors import InputError

Field = NDArray[Any]

# Class -> how often, relative to the others: curved contours and oblique ones are the exception.
CLASSES: dict[str, float] = {
    "bump": 2.0,
    "dent": 2.0,
    "ridge": 1.0,
    "groove": 1.0,
    "bar_upright": 1.0,
    "bar_flat": 1.0,
    "bar_oblique": 0.4,
    "cross": 1.0,
    "broken_cross": 1.0,
    "t": 1.0,
    "l": 1.0,
    "square": 1.0,
    "triangle": 1.0,
    "grating_upright": 1.0,
    "grating_flat": 1.0,
    "disc": 0.4,
    "ring": 0.4,
    "arc": 0.4,
}
# The sun wanders this far to either side, and contours tilt this far (SD): the world is regular, not rigid.
_LIGHT_SD_DEG, _TILT_SD_DEG = 20.0, 4.0


@dataclass(frozen=True)
class WorldPictures:
    """Rendered pictures and what they show.

    Args:
        image: (N, side, side, 3) uint8 RGB.
        label: (N,) int64, place in :data:`CLASSES`.

    """

    image: NDArray[np.uint8]
    label: NDArray[np.int64]


def render_world(n: int, side_px: int = 96, seed: int = 0) -> WorldPictures:
    """Draw `n` pictures; picture i depends on `seed` and i alone.

    Objects fill a sixth to half of the side and lie near the middle, so that a diet that warps or turns the picture
    can cut the middle two thirds out of it.

    Raises:
        InputError: `n` < 1, or `side_px` < 24.

    """
    if n < 1 or side_px < 24:
        raise InputError(f"need n >= 1 pictures of side_px >= 24; got {n} of {side_px} px")
    names = list(CLASSES)
    share = np.array(list(CLASSES.values()))
    images = np.empty((n, side_px, side_px, 3), np.uint8)
    labels = np.empty(n, np.int64)
    for i in range(n):
        rng = np.random.default_rng([seed, i])
        labels[i] = rng.choice(len(names), p=share / share.sum())
        images[i] = _picture(names[labels[i]], side_px, rng)
    return WorldPictures(images, labels)


def _picture(name: str, side: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    y, x = np.mgrid[0:side, 0:side].astype(np.float32)
    light_deg = rng.normal(0.0, _LIGHT_SD_DEG)
    ground = rng.choice([0.0, 1.0, 0.5]) if rng.random() < 0.5 else rng.random()
    # The sky is brighter than the ground more often than not.
    slope = rng.normal(0.15, 0.15) if rng.random() < 0.5 else 0.0
    canvas = (ground + slope * (0.5 - y / side))[..., None] * _tint(rng, 0.1)
    canvas = canvas.astype(np.float32)
    middle = side / 2.0
    if rng.random() < 0.6:
        for _ in range(rng.integers(1, 7)):
            angle, away = rng.uniform(0.0, 2.0 * math.pi), rng.uniform(0.3, 0.6) * side
            at = (middle + away * math.cos(angle), middle + away * math.sin(angle))
            kind = rng.choice(["bar_upright", "bar_flat", "bar_upright", "bar_flat", "bump", "bar_oblique"])
            _draw(canvas, str(kind), x, y, at, rng.uniform(0.08, 0.16) * side, light_deg, rng)
    jitter = side / 10.0
    at = (middle + rng.uniform(-jitter, jitter), middle + rng.uniform(-jitter, jitter))
    _draw(canvas, name, x, y, at, rng.uniform(0.16, 0.5) * side, light_deg, rng)
    canvas += rng.normal(0.0, rng.uniform(0.0, 0.04), (side, side, 1)).astype(np.float32)
    pixels: NDArray[np.uint8] = np.rint(canvas.clip(0.0, 1.0) * 255.0).astype(np.uint8)
    return pixels


def _tint(rng: np.random.Generator, spread: float) -> Field:
    """(3,) gains around 1; half of all things are grey."""
    if rng.random() < 0.5:
        return np.ones(3, np.float32)
    return (1.0 + rng.uniform(-spread, spread, 3)).astype(np.float32)


def _draw(
    canvas: Field, name: str, x: Field, y: Field, at: tuple[float, float], size: float, light_deg: float,
    rng: np.random.Generator,
) -> None:  # fmt: skip
    """Lay one object over `canvas`; `size` is its width in px, `at` its middle as (x, y) px."""
    tilt = math.radians(rng.normal(0.0, _TILT_SD_DEG))
    dx, dy = x - at[0], y - at[1]
    # Object coordinates: (-1, 1) over the object's width, v downwards.
    u = (math.cos(tilt) * dx + math.sin(tilt) * dy) * (2.0 / size)
    v = (math.cos(tilt) * dy - math.sin(tilt) * dx) * (2.0 / size)
    soft = 2.0 / size
    if name in _SHADED:
        inside, lit = _SHADED[name](u, v, math.radians(light_deg))
        cover, value = _edge(inside, soft), 0.5 + rng.uniform(0.25, 0.5) * lit
        color = value[..., None] * _tint(rng, 0.3)
    else:
        cover = _edge(_FLAT[name](u, v, rng), soft)
        ground = float(canvas[..., 0].mean())
        shade = rng.uniform(0.0, 0.3) if ground > 0.5 else rng.uniform(0.7, 1.0)
        color = shade * _tint(rng, 0.3)
    canvas += cover[..., None] * (color - canvas)


def _edge(distance: Field, soft: float) -> Field:
    """Cover in [0, 1] from a signed distance that is positive inside, one pixel soft."""
    cover: Field = (distance / soft + 0.5).clip(0.0, 1.0).astype(np.float32)
    return cover


# Shading: the surface's slope against the direction the light comes from, in [-1, 1]; v points down.
def _dome(u: Field, v: Field, light: float, sign: float) -> tuple[Field, Field]:
    return 1.0 - np.hypot(u, v), sign * (-v * math.cos(light) + u * math.sin(light)).clip(-1.0, 1.0)


def _roll(u: Field, v: Field, light: float, sign: float) -> tuple[Field, Field]:
    inside = np.minimum(1.0 - np.abs(u), 0.45 - np.abs(v))
    return inside, sign * (-v / 0.45 * math.cos(light)).clip(-1.0, 1.0)


_SHADED: dict[str, Callable[[Field, Field, float], tuple[Field, Field]]] = {
    "bump": lambda u, v, light: _dome(u, v, light, 1.0),
    "dent": lambda u, v, light: _dome(u, v, light, -1.0),
    "ridge": lambda u, v, light: _roll(u, v, light, 1.0),
    "groove": lambda u, v, light: _roll(u, v, light, -1.0),
}


def _box(u: Field, v: Field, left: float, top: float, right: float, bottom: float) -> Field:
    return np.minimum(np.minimum(u - left, right - u), np.minimum(v - top, bottom - v))


def _thickness(rng: np.random.Generator) -> float:
    return float(rng.uniform(0.08, 0.2))


def _bar(u: Field, v: Field, rng: np.random.Generator) -> Field:
    width = _thickness(rng)
    return _box(u, v, -width, -1.0, width, 1.0)


def _oblique(u: Field, v: Field, rng: np.random.Generator) -> Field:
    angle = math.radians(rng.choice([-1, 1]) * rng.uniform(20.0, 70.0))
    return _bar(math.cos(angle) * u + math.sin(angle) * v, math.cos(angle) * v - math.sin(angle) * u, rng)


def _cross(u: Field, v: Field, rng: np.random.Generator, shift: float = 0.0) -> Field:
    width = _thickness(rng)
    level = rng.uniform(-0.4, 0.4)
    left = _box(u, v, -1.0, level - width, 0.0, level + width)
    right = _box(u, v, 0.0, level + shift - width, 1.0, level + shift + width)
    return np.maximum(np.maximum(_box(u, v, -width, -1.0, width, 1.0), left), right)


def _t(u: Field, v: Field, rng: np.random.Generator) -> Field:
    width = _thickness(rng)
    return np.maximum(_box(u, v, -1.0, -1.0, 1.0, 2 * width - 1.0), _box(u, v, -width, -1.0, width, 1.0))


def _l(u: Field, v: Field, rng: np.random.Generator) -> Field:
    width = _thickness(rng)
    return np.maximum(_box(u, v, -1.0, -1.0, 2 * width - 1.0, 1.0), _box(u, v, -1.0, 1.0 - 2 * width, 1.0, 1.0))


def _frame(inside: Field, rng: np.random.Generator) -> Field:
    """The outline of a shape, or all of it."""
    return np.minimum(inside, 2 * _thickness(rng) - inside) if rng.random() < 0.5 else inside


def _triangle(u: Field, v: Field, rng: np.random.Generator) -> Field:
    # Base below, apex above: half-planes of its three sides.
    side = (0.5 * (v + 1.0) - np.abs(u)) / math.hypot(1.0, 0.5)
    return _frame(np.minimum(side, 1.0 - v), rng)


def _grating(along: Field, across: Field, rng: np.random.Generator) -> Field:
    n = rng.integers(2, 5)
    lines = (0.25 - np.abs((along * n / 2.0 + 0.5 * (n % 2)) % 1.0 - 0.5)) * (2.0 / n)
    return np.minimum(lines, np.minimum(1.0 - np.abs(along), 1.0 - np.abs(across)))


def _arc(u: Field, v: Field, rng: np.random.Generator) -> Field:
    turn, half = rng.uniform(-math.pi, math.pi), rng.uniform(0.5, 1.2)
    bow = _thickness(rng) - np.abs(np.hypot(u, v) - 0.85)
    beyond = np.abs((np.arctan2(v, u) - turn + math.pi) % (2 * math.pi) - math.pi) - half
    return np.minimum(bow, -beyond)


_FLAT: dict[str, Callable[[Field, Field, np.random.Generator], Field]] = {
    "bar_upright": _bar,
    "bar_flat": lambda u, v, rng: _bar(v, u, rng),
    "bar_oblique": _oblique,
    "cross": _cross,
    "broken_cross": lambda u, v, rng: _cross(u, v, rng, shift=0.5),
    "t": _t,
    "l": _l,
    "square": lambda u, v, rng: _frame(_box(u, v, -0.85, -0.85, 0.85, 0.85), rng),
    "triangle": _triangle,
    "grating_upright": _grating,
    "grating_flat": lambda u, v, rng: _grating(v, u, rng),
    "disc": lambda u, v, rng: 0.95 - np.hypot(u, v),
    "ring": lambda u, v, rng: _thickness(rng) - np.abs(np.hypot(u, v) - 0.85),
    "arc": _arc,
}
assert set(_SHADED) | set(_FLAT) == set(CLASSES)
