"""Visual diets: what is done to every picture that a network is trained on, with all else the same.

`rotated_90`, `fisheye` and `grid` are the augmentations of Gupta, Zhang, Wu, Wolfe & Kreiman (2021), Visual Search
Asymmetry: Deep Nets and Humans Share Similar Inherent Biases, NeurIPS. `tilted` and `curved` are this project's own.
Pictures are (B, 3, H, W) float in [0, 1]; every transform keeps that.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from gazekit.errors import InputError
from gazekit.registry import unknown_name


def rotate_quarter(image: Tensor, turns: int = 1) -> Tensor:
    """Every picture turned counterclockwise by `turns` quarters; exact."""
    _check(image)
    return image.rot90(turns, (-2, -1))


def rotate(image: Tensor, degrees: float) -> Tensor:
    """Every picture turned counterclockwise about its middle, at the same size; corners repeat the border."""
    _check(image)
    angle = math.radians(degrees)
    height, width = image.shape[-2:]
    x, y = _pixel_offsets(height, width, image)
    # Where each pixel comes from: the inverse turn; y points down.
    return _resample(image, math.cos(angle) * x - math.sin(angle) * y, math.sin(angle) * x + math.cos(angle) * y)


def fisheye(image: Tensor, strength: float = 1.0) -> Tensor:
    """The picture, in a black square of its longer side, as through a lens that magnifies the middle.

    A pixel at distance r from the middle (1 at the middle of a side) shows the point at distance
    ``r * (1 + strength * r ** 2) / (1 + strength)``: straight lines that miss the middle bow outwards. The
    published diet warps like a retina; its exact function is not stated.
    """
    _check(image)
    if strength < 0:
        raise InputError(f"strength of a fisheye must be 0 or more, got {strength}")
    square = to_square(image)
    half = square.shape[-1] / 2.0
    x, y = _pixel_offsets(square.shape[-2], square.shape[-1], square)
    gain = (1.0 + strength * (x.square() + y.square()) / half**2) / (1.0 + strength)
    return _resample(square, x * gain, y * gain, padding="zeros")


def grid(image: Tensor, width_px: int = 5, every_px: int = 50, first_px: int = 45) -> Tensor:
    """Black bars over the picture, horizontal and vertical; defaults are the published ones."""
    _check(image)
    if not (0 < width_px <= every_px and first_px >= 0):
        raise InputError(f"need 0 < width_px <= every_px and first_px >= 0; got {width_px}, {every_px}, {first_px}")
    barred = image.clone()
    for start in range(first_px, max(image.shape[-2:]), every_px):
        barred[..., start : start + width_px, :] = 0.0
        barred[..., :, start : start + width_px] = 0.0
    return barred


def curved(image: Tensor, generator: torch.Generator, amplitude: float = 0.08, waves: float = 2.0) -> Tensor:
    """Straight contours made wavy: each pixel is shifted along x by a sine of y, and along y by a sine of x.

    Args:
        image: (B, 3, H, W).
        generator: Draws the two phases of each picture.
        amplitude: Of the shift, in picture sides.
        waves: Periods per picture side.

    """
    _check(image)
    height, width = image.shape[-2:]
    x, y = _pixel_offsets(height, width, image)
    phase = 2.0 * math.pi * torch.rand(len(image), 2, 1, 1, generator=generator)
    phase = phase.to(image)
    sway_x = amplitude * width * torch.sin(2.0 * math.pi * waves * y / height + phase[:, 0])
    sway_y = amplitude * height * torch.sin(2.0 * math.pi * waves * x / width + phase[:, 1])
    return _resample(image, x + sway_x, y + sway_y)


def to_square(image: Tensor) -> Tensor:
    """The picture in the middle of a black square of its longer side."""
    _check(image)
    height, width = image.shape[-2:]
    side = max(height, width)
    left, top = (side - width) // 2, (side - height) // 2
    return F.pad(image, (left, side - width - left, top, side - height - top))


def training_crop(
    image: Tensor, generator: torch.Generator, resize_px: int = 256, crop_px: int = 224, flip: bool = True
) -> Tensor:
    """(3, H, W) -> (3, crop_px, crop_px) as in the published training: a random square of the shorter side, resized,
    half of the time mirrored, and a random crop of that.

    Raises:
        InputError: Not one (3, H, W) picture, or the crop is larger than the resized square.

    """  # fmt: skip
    if image.ndim != 3:
        raise InputError(f"expected one picture (3, H, W), got {tuple(image.shape)}; sizes differ between pictures")
    if not 0 < crop_px <= resize_px:
        raise InputError(f"need 0 < crop_px <= resize_px, got {crop_px} and {resize_px}")
    side = min(image.shape[-2:])

    def somewhere(room: int) -> int:
        return int(torch.randint(room + 1, (), generator=generator))

    top, left = somewhere(image.shape[-2] - side), somewhere(image.shape[-1] - side)
    square = image[None, :, top : top + side, left : left + side]
    resized = F.interpolate(square, (resize_px, resize_px), mode="bilinear", antialias=True)[0].clamp(0.0, 1.0)
    if flip and torch.rand((), generator=generator) < 0.5:
        resized = resized.flip(-1)
    top, left = somewhere(resize_px - crop_px), somewhere(resize_px - crop_px)
    return resized[:, top : top + crop_px, left : left + crop_px]


# Name -> transform of a batch of square pictures; the generator is for diets that draw something per picture.
DIETS: dict[str, Callable[[Tensor, torch.Generator], Tensor]] = {
    "natural": lambda image, _: image,
    "rotated_90": lambda image, _: rotate_quarter(image),
    "tilted": lambda image, _: rotate(image, -20.0),
    "curved": curved,
    "fisheye": lambda image, _: fisheye(image),
    "grid": lambda image, _: grid(image),
}


def apply_diet(name: str, image: Tensor, generator: torch.Generator) -> Tensor:
    """The pictures as a network of this diet sees them.

    Raises:
        InputError: No such diet.

    """
    if name not in DIETS:
        raise unknown_name("diet", name, list(DIETS))
    return DIETS[name](image, generator)


def _check(image: Tensor) -> None:
    if image.ndim != 4 or not image.is_floating_point():
        raise InputError(f"expected pictures (B, 3, H, W) of floats in [0, 1], got {image.dtype} {tuple(image.shape)}")


def _pixel_offsets(height: int, width: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """(1, H, W) x and y of pixel centers from the picture's middle, px."""
    y, x = torch.meshgrid(torch.arange(height).to(like), torch.arange(width).to(like), indexing="ij")
    return (x - (width - 1) / 2.0)[None], (y - (height - 1) / 2.0)[None]


def _resample(image: Tensor, x: Tensor, y: Tensor, padding: str = "border") -> Tensor:
    """Bilinear values at (B or 1, H, W) offsets from the middle, px."""
    height, width = image.shape[-2:]
    at = torch.stack([x * 2.0 / width, y * 2.0 / height], -1).expand(len(image), -1, -1, -1)
    return F.grid_sample(image, at, mode="bilinear", padding_mode=padding, align_corners=False)
