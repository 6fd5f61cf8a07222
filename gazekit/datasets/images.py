"""Stimulus images: size without decoding, and decoding to tensors with one clear error."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from gazekit.errors import InputError


def image_size_wh_px(path: Path | str) -> tuple[int, int]:
    """Width and height from the file's header.

    Raises:
        InputError: The file is missing or not an image.

    """
    try:
        with Image.open(path) as image:
            return image.size
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise InputError(f"{path}: not a readable image ({error}); replace the file") from error


def read_image(path: Path | str, size_wh_px: tuple[int, int] | None = None) -> Tensor:
    """(3, H, W) float32 RGB in [0, 1], resized with antialiasing where a size is given.

    Grey images repeat their channel; transparency is dropped. EXIF orientation is not applied:
    fixations refer to the pixels as stored.

    Raises:
        InputError: The file is missing, truncated or not an image.

    """
    try:
        with Image.open(path) as image:
            rgb = image.convert("RGB")
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError, SyntaxError) as error:
        raise InputError(f"{path}: not a readable image ({error}); replace the file") from error
    if size_wh_px is not None and rgb.size != tuple(size_wh_px):
        rgb = rgb.resize(size_wh_px, Image.Resampling.BICUBIC)
    pixels = torch.from_numpy(np.array(rgb, dtype=np.uint8))
    return pixels.permute(2, 0, 1).float().div_(255.0)
