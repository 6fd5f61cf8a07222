"""Between a picture and the square image that a network takes: resized as a whole, or its middle cut out."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from gazekit.errors import InputError
from gazekit.models.fovea_search import from_px, to_px

Fit = Literal["squash", "crop"]


@dataclass(frozen=True)
class SquareFrame:
    """A square of `side_px` that shows a picture of `size_wh_px`.

    Args:
        size_wh_px: Width and height of the picture.
        side_px: Side of the square.
        fit: ``squash`` shows the whole picture, each axis with its own scale; ``crop``, as CLIP's own preprocessing,
            the square in the middle, so that nothing beside it can be looked at.

    Raises:
        InputError: The picture has fewer than two pixels along an axis, or `fit` is unknown.

    """

    size_wh_px: tuple[int, int]
    side_px: int
    fit: Fit = "squash"

    def __post_init__(self) -> None:
        width, height = self.size_wh_px
        if min(width, height) < 2:
            raise InputError(f"an image of {width}x{height} px holds nothing to look at; give at least 2x2 px")
        if self.fit not in ("squash", "crop"):
            raise InputError(f"fit is {self.fit!r}, expected 'squash' or 'crop'")

    @property
    def _shown_px(self) -> tuple[float, float]:
        """Width and height, in px of the picture, of what the square shows."""
        width, height = self.size_wh_px
        return (width, height) if self.fit == "squash" else (min(width, height),) * 2

    def show(self, image: Tensor) -> Tensor:
        """(S, 3, H, W) RGB in [0, 1] -> (S, 3, side, side); bicubic, antialiased."""
        if image.ndim != 4 or image.shape[1] != 3:
            raise InputError(f"expected RGB images (S, 3, H, W) in [0, 1], found shape {tuple(image.shape)}")
        height, width = image.shape[-2:]
        size = (self.side_px, self.side_px)
        if self.fit == "crop":
            short = min(width, height)
            size = (self.side_px * height // short, self.side_px * width // short)
        resized = F.interpolate(image, size, mode="bicubic", antialias=True, align_corners=False).clamp(0.0, 1.0)
        top, left = ((n - self.side_px) // 2 for n in resized.shape[-2:])
        return resized[..., top : top + self.side_px, left : left + self.side_px]

    def to_picture(self, p: Tensor) -> Tensor:
        """(..., 2) positions in [-1, 1] of the square -> (..., 2) px of the picture."""
        size = torch.tensor(self.size_wh_px, dtype=p.dtype, device=p.device)
        shown = torch.tensor(self._shown_px, dtype=p.dtype, device=p.device)
        return (size - shown) / 2.0 + to_px(p, (self.side_px, self.side_px)) * shown / self.side_px

    def from_picture(self, xy_px: Tensor) -> Tensor:
        """Inverse of :meth:`to_picture`."""
        size = torch.tensor(self.size_wh_px, dtype=xy_px.dtype, device=xy_px.device)
        shown = torch.tensor(self._shown_px, dtype=xy_px.dtype, device=xy_px.device)
        return from_px((xy_px - (size - shown) / 2.0) * self.side_px / shown, (self.side_px, self.side_px))

    def round_sigma_px(self, sigma_px: float) -> tuple[float, float]:
        """SDs along x and y of a Gaussian that is round in the picture and covers as much of it as `sigma_px`."""
        width, height = self._shown_px
        stretch = math.sqrt(height / width)
        return sigma_px * stretch, sigma_px / stretch

    def scale(self) -> tuple[float, float]:
        """Px of the square per px of the picture, along x and y."""
        width, height = self._shown_px
        return self.side_px / width, self.side_px / height
