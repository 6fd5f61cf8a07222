"""The screen in front of the eye: pixels, centimetres and degrees of visual angle (dva)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gazekit.errors import InputError


@dataclass(frozen=True)
class Screen:
    """A flat display: either its physical size and viewing distance, or pixels per degree alone.

    Args:
        size_wh_px: Width and height of the display area in pixels.
        size_wh_cm: Width and height of the same area in centimetres, if known.
        distance_cm: Eye-to-screen distance in centimetres, if known.
        measured_px_per_dva: Pixels per degree as the authors report it, for data sets that give
            no physical size; it takes precedence over the value derived from the geometry.

    Raises:
        InputError: A size is not positive, or neither a geometry nor pixels per degree is given.

    """

    size_wh_px: tuple[int, int]
    size_wh_cm: tuple[float, float] | None = None
    distance_cm: float | None = None
    measured_px_per_dva: float | None = None

    def __post_init__(self) -> None:
        given = [*self.size_wh_px, *(self.size_wh_cm or ()), self.distance_cm, self.measured_px_per_dva]
        if any(value is not None and not value > 0 for value in given):
            raise InputError(f"screen sizes and distances must be positive, found {self}")
        physical = self.size_wh_cm is not None and self.distance_cm is not None
        if not physical and self.measured_px_per_dva is None:
            raise InputError(
                "a screen needs size_wh_cm and distance_cm, or measured_px_per_dva; "
                f"found {self.size_wh_cm=}, {self.distance_cm=}, {self.measured_px_per_dva=}"
            )

    @classmethod
    def from_card(cls, screen: Mapping[str, Any]) -> Screen:
        """The screen of a dataset card's ``screen`` block."""
        known = {"size_wh_px", "size_wh_cm", "distance_cm", "measured_px_per_dva"}
        if unknown := set(screen) - known:
            raise InputError(f"card, screen: unknown key {sorted(unknown)}; known: {sorted(known)}")
        sizes: dict[str, Any] = {k: tuple(screen[k]) for k in ("size_wh_px", "size_wh_cm") if screen.get(k)}
        scalars = {k: screen[k] for k in ("distance_cm", "measured_px_per_dva") if screen.get(k)}
        return cls(**sizes, **scalars)

    @property
    def px_per_dva(self) -> float:
        """Pixels in the one degree around the straight-ahead point."""
        if self.measured_px_per_dva is not None:
            return self.measured_px_per_dva
        assert self.size_wh_cm is not None
        assert self.distance_cm is not None
        # Horizontal pixels; a display with non-square pixels needs to_dva.
        px_per_cm = self.size_wh_px[0] / self.size_wh_cm[0]
        return 2.0 * self.distance_cm * math.tan(math.radians(0.5)) * px_per_cm

    def to_dva(self, xy_px: ArrayLike) -> NDArray[np.float64]:
        """(..., 2) pixels -> (..., 2) angles right of and below the screen's center, in dva.

        With a known geometry the angle is exact, ``atan(offset_cm / distance_cm)`` per axis; with
        pixels per degree alone it is the linear approximation that the number stands for.
        """
        offset_px = np.asarray(xy_px, dtype=np.float64) - np.asarray(self.size_wh_px) / 2.0
        if self.size_wh_cm is None or self.distance_cm is None:
            return offset_px / self.px_per_dva
        offset_cm = offset_px * np.asarray(self.size_wh_cm) / np.asarray(self.size_wh_px)
        exact: NDArray[np.float64] = np.degrees(np.arctan(offset_cm / self.distance_cm))
        return exact

    def to_px(self, xy_dva: ArrayLike) -> NDArray[np.float64]:
        """Inverse of :meth:`to_dva`: (..., 2) angles from the center -> (..., 2) pixels."""
        angle = np.asarray(xy_dva, dtype=np.float64)
        if self.size_wh_cm is None or self.distance_cm is None:
            offset_px = angle * self.px_per_dva
        else:
            offset_cm = np.tan(np.radians(angle)) * self.distance_cm
            offset_px = offset_cm * np.asarray(self.size_wh_px) / np.asarray(self.size_wh_cm)
        return offset_px + np.asarray(self.size_wh_px) / 2.0
