"""Foveation: an image that is sharp where the eye is, blurred elsewhere, and keeps some of what was seen.

The blurred part is a residual ``b = G * x - x`` that is computed once per image. A fovea at ``p`` is a Gaussian
``m(p)`` of height one, memory ``M`` sums the foveas of the past, and what is seen is ``x + b clip(1 - M - m(p), 0,
1)``. Both Gaussians are separable: a blur of K x K taps is two of K, and a fovea is an outer product of two vectors.
The scheme is that of NeVA (Schwinn, Precup, Eskofier & Zanca 2022, Gaze Meets ML); positions here are (x, y) in px of
the image.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from gazekit.errors import InputError


@dataclass(frozen=True)
class Foveation:
    """How an image is blurred, how far the fovea reaches, and how much stays in memory.

    Args:
        sigma_px: SD of the fovea along x and along y, in px of the image.
        blur_sigma_px: SD of the peripheral blur, in px; 0 does not blur.
        blur_kernel_px: Taps of the blur per axis, odd; the Gaussian is cut there and sums to one again.
        retention: Share of memory that a further fixation leaves: 0 keeps the last fovea only, 1 keeps all.

    Raises:
        InputError: A size is negative or not finite, the kernel is even, or retention is outside [0, 1].

    """

    sigma_px: tuple[float, float]
    blur_sigma_px: float = 10.0
    blur_kernel_px: int = 41
    retention: float = 0.0

    def __post_init__(self) -> None:
        if not all(math.isfinite(s) and s > 0 for s in self.sigma_px):
            raise InputError(f"the fovea's SD must be positive and finite, found {self.sigma_px} px")
        if not (math.isfinite(self.blur_sigma_px) and self.blur_sigma_px >= 0):
            raise InputError(f"the blur's SD must be finite and not negative, found {self.blur_sigma_px} px")
        if self.blur_kernel_px < 1 or self.blur_kernel_px % 2 == 0:
            raise InputError(f"the blur's kernel must have an odd number of taps, found {self.blur_kernel_px}")
        if not 0.0 <= self.retention <= 1.0:
            raise InputError(f"retention must lie in [0, 1], found {self.retention}")

    @classmethod
    def from_dva(cls, sigma_dva: float, blur_sigma_dva: float, px_per_dva: float, retention: float = 0.0) -> Foveation:
        """The same in degrees of visual angle, for an image of `px_per_dva`; the blur is cut at 3 SD.

        Raises:
            InputError: `px_per_dva` is not known (NaN) or not positive, or as the class.

        """
        if not (math.isfinite(px_per_dva) and px_per_dva > 0):
            raise InputError(
                f"a fovea in degrees needs the viewing geometry, found px_per_dva = {px_per_dva}; "
                "give the fovea in px, or a dataset whose card states its screen"
            )
        sigma, blur = sigma_dva * px_per_dva, blur_sigma_dva * px_per_dva
        return cls((sigma, sigma), blur, 2 * math.ceil(3.0 * blur) + 1, retention)

    def blurred(self, image: Tensor) -> Tensor:
        """(B, C, H, W) -> the same, blurred; the border is mirrored without repeating the edge.

        Raises:
            InputError: The image is smaller than the kernel's reach, so that it cannot be mirrored.

        """
        reach = self.blur_kernel_px // 2
        height, width = image.shape[-2:]
        if reach == 0 or self.blur_sigma_px == 0:
            return image
        if min(height, width) <= reach:
            raise InputError(
                f"an image of {width}x{height} px is too small for a blur that reaches {reach} px; "
                f"give an image of at least {reach + 1} px per side, or a smaller blur_kernel_px"
            )
        taps = torch.arange(self.blur_kernel_px, dtype=torch.float64) - reach
        kernel = torch.exp(-taps.square() / (2.0 * self.blur_sigma_px**2))
        kernel = (kernel / kernel.sum()).to(image)
        rows = image.reshape(-1, 1, height, width)
        rows = F.conv2d(F.pad(rows, (0, 0, reach, reach), mode="reflect"), kernel.view(1, 1, -1, 1))
        rows = F.conv2d(F.pad(rows, (reach, reach, 0, 0), mode="reflect"), kernel.view(1, 1, 1, -1))
        return rows.view_as(image)

    def residual(self, image: Tensor) -> Tensor:
        """(B, C, H, W) -> ``G * x - x``: what full blur adds to the image."""
        # Blur does not care for a constant; without it a flat image's residual is zero to the last bit, and no slope is
        # made of rounding.
        relative = image - image.amin((-2, -1), keepdim=True)
        return self.blurred(relative) - relative

    def _profiles(self, xy_px: Tensor, size_wh_px: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Offsets (B, W) and (B, H) of the pixels' centers from the position, in SDs, and the Gaussians there."""
        dx, dy = (
            (torch.arange(n, device=xy_px.device, dtype=xy_px.dtype) + 0.5 - xy_px[:, axis, None]) / self.sigma_px[axis]
            for axis, n in enumerate(size_wh_px)
        )
        return dx, dy, torch.exp(-0.5 * dx.square()), torch.exp(-0.5 * dy.square())

    def fovea(self, xy_px: Tensor, size_wh_px: tuple[int, int]) -> Tensor:
        """(B, 2) positions -> (B, 1, H, W) foveas, one at the position and falling to zero."""
        _, _, gx, gy = self._profiles(xy_px, size_wh_px)
        return (gy[:, :, None] * gx[:, None, :])[:, None]

    def seen(self, image: Tensor, residual: Tensor, memory: Tensor, fovea: Tensor) -> Tensor:
        """The foveated image: `image` where fovea or memory are, blurred where neither is.

        Args:
            image: (B, C, H, W).
            residual: (B, C, H, W) of :meth:`residual`.
            memory: (B, 1, H, W), 0 where nothing was seen.
            fovea: (B, 1, H, W) of :meth:`fovea`.

        """
        return torch.addcmul(image, residual, (1.0 - memory - fovea).clamp_(0.0, 1.0))

    def remember(self, memory: Tensor, fovea: Tensor) -> Tensor:
        """Memory after a fixation; it is not clipped, only what is seen is."""
        return memory * self.retention + fovea

    def position_gradient(self, image_gradient: Tensor, residual: Tensor, memory: Tensor, xy_px: Tensor) -> Tensor:
        """(B, 2) derivative of a loss by the position, per px, from its derivative by the image that is seen.

        Exact: the chain rule through :meth:`seen` and :meth:`fovea`, written as two weighted sums instead of a graph.
        """
        height, width = image_gradient.shape[-2:]
        dx, dy, gx, gy = self._profiles(xy_px, (width, height))
        open_ = 1.0 - memory[:, 0] - gy[:, :, None] * gx[:, None, :]
        # At the bounds themselves the derivative passes, as PyTorch's clamp has it.
        weight = (image_gradient * residual).sum(1) * ((open_ >= 0.0) & (open_ <= 1.0))
        along_x = torch.einsum("bhw,bh,bw->b", weight, gy, gx * dx) / self.sigma_px[0]
        along_y = torch.einsum("bhw,bh,bw->b", weight, gy * dy, gx) / self.sigma_px[1]
        return -torch.stack([along_x, along_y], -1)
