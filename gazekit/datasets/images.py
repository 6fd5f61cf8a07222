"""Stimulus images: size without decoding, and decoding to arrays and tensors with one clear error."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from gazekit.errors import InputError

# What stimuli come as. Pillow knows many more; PostScript is a program, which it would have run.
_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")


@contextmanager
def _opened(path: Path | str) -> Iterator[Image.Image]:
    """The image, opened with Pillow's limit on its size as an error rather than a warning."""
    try:
        with warnings.catch_warnings():
            # Pillow also warns about what harms no pixel: odd transparency, damaged EXIF.
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=_FORMATS) as image:
                yield image
    # Damaged headers make Pillow raise far more than its own errors: ValueError, struct.error, IndexError, ...
    except Exception as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: not a readable image ({reason}); replace the file") from error


def image_size_wh_px(path: Path | str) -> tuple[int, int]:
    """Width and height from the file's header.

    Raises:
        InputError: The file is missing, not an image, or claims more pixels than Pillow's limit.

    """
    with _opened(path) as image:
        return image.size


def read_rgb(path: Path | str, size_wh_px: tuple[int, int] | None = None) -> NDArray[np.uint8]:
    """(H, W, 3) RGB, resized with antialiasing where a size is given.

    Grey images repeat their channel; transparency is dropped. EXIF orientation is not applied:
    fixations refer to the pixels as stored.

    Raises:
        InputError: The file is missing, truncated, not an image, or claims more pixels than Pillow's limit.

    """
    with _opened(path) as image:
        if image.mode.startswith("I"):
            # Grey of 16 bits, which Pillow would cut off at 255.
            image = Image.fromarray((np.asarray(image).astype(np.int64).clip(0, 65535) // 257).astype(np.uint8))
        rgb = image.convert("RGB")
        if size_wh_px is not None and rgb.size != tuple(size_wh_px):
            rgb = rgb.resize(size_wh_px, Image.Resampling.BICUBIC)
        return np.array(rgb, dtype=np.uint8)


def read_image(path: Path | str, size_wh_px: tuple[int, int] | None = None) -> Tensor:
    """(3, H, W) float32 RGB in [0, 1]; otherwise as :func:`read_rgb`."""
    return to_tensor(read_rgb(path, size_wh_px))


def to_tensor(rgb: NDArray[np.uint8]) -> Tensor:
    """(H, W, 3) bytes -> (3, H, W) float32 in [0, 1]."""
    return torch.from_numpy(rgb).permute(2, 0, 1).float().div_(255.0)
