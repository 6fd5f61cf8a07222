"""Passes over the pixels of a map, compiled by numba: one read of the map in place of one per operation.

On a CPU a map metric is bound by memory traffic. Here each pass reads a map once, in its own precision, and sums in
float64. They serve maps that want no gradient; the same numbers come from PyTorch where numba is not installed, on a
GPU, in half precision and for gradients, as the tests hold.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Floats = NDArray[np.floating]
# Shift, scale and offset.
Affine = tuple[float, float, float]
# Nothing is copied, so that many maps may be given at a time.
ROWS_AT_ONCE = 64
# Smaller maps are worked on many at a time instead.
MIN_PIXELS = 2**14

# Pixels per partial sum: rounding then grows with the number of blocks, not of pixels.
_BLOCK = 4096
_LOG_2 = math.log(2.0)
# Sums may be reordered, so that they become vector instructions; NaN and infinity keep their meaning.
_REORDER = {"reassoc", "contract", "nsz"}
# Entries of the table by which a pixel finds its place among the fixated values; 256 kB, the cache of a core.
_TABLE_BITS = 16


@cache
def _numba() -> ModuleType | None:
    try:
        import numba
    except ImportError:
        return None
    return numba  # type: ignore[no-any-return]


def usable(*maps: Tensor) -> bool:
    """Whether the compiled passes can read these (b, ...) maps, and are worth it."""
    for each in maps:
        wants_gradient = each.requires_grad and torch.is_grad_enabled()
        if each.device.type != "cpu" or each.dtype not in (torch.float32, torch.float64) or wants_gradient:
            return False
    return bool(len(maps[0])) and maps[0][0].numel() >= MIN_PIXELS and _numba() is not None


def rows(maps: Tensor) -> list[Floats]:
    """(b, P) maps as b contiguous rows."""
    return list(maps.detach().contiguous().numpy())


def moments(x: Floats) -> tuple[float, float]:
    """(P,) -> mean and population variance; NaN if the map holds NaN or infinity."""
    shift = _center(x)
    total, squares = _compiled(_moment_sums)(x, shift)
    mean = total / len(x)
    return shift + mean, max(squares / len(x) - mean * mean, 0.0) if math.isfinite(squares) else math.nan


def total(x: Floats, shift: float = 0.0) -> float:
    """(P,) -> the sum of the values less `shift`."""
    return float(_compiled(_moment_sums)(x, shift)[0])


def product_sum(x: Floats, y: Floats, to_x: Affine, to_y: Affine) -> float:
    """Sum over pixels of the product of two maps, each made (value - shift) * scale + offset."""
    return float(_compiled(_product_sum)(x, y, *to_x, *to_y))


def least_sum(x: Floats, y: Floats, to_x: Affine, to_y: Affine) -> float:
    """Sum over pixels of the lesser of two maps, each made (value - shift) * scale + offset."""
    return float(_compiled(_least_sum)(x, y, *to_x, *to_y))


def divergence(x: Floats, y: Floats, to_x: Affine, to_y: Affine, epsilon: float) -> float:
    """Sum over pixels of q log(q / (p + epsilon) + epsilon), p and q made of x and y as above.

    q / (p + epsilon) + epsilon must be a positive normal number wherever q is a number.
    """
    return float(_compiled(_divergence_sum)(x, y, *to_x, *to_y, epsilon))


def places(sample: Floats, wanted: Floats) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """How many of the sample are below, and equal to, each of the wanted values, which are sorted and distinct.

    Neither may hold NaN.
    """
    whole: Any = np.int32 if sample.dtype == np.float32 else np.int64
    sign, lower = 8 * sample.itemsize - 1, int(np.iinfo(whole).max)
    bits = (wanted + 0.0).view(whole)  # without a negative zero
    # Integers in the order of the numbers: the bits, the lower ones of a negative number inverted.
    keys = [int(key) for key in bits ^ ((bits >> sign) & lower)]
    # Python's integers: the span of 64-bit keys may take 65.
    shift = max(0, (keys[-1] - keys[0]).bit_length() - _TABLE_BITS)
    low = keys[0] >> shift
    buckets = np.array([(key >> shift) - low for key in keys])
    # The first wanted value that is in a bucket or beyond it.
    table = np.searchsorted(buckets, np.arange(buckets[-1] + 1), side="left").astype(np.int32)
    between, equal = _compiled(_count_places)(sample, sample.view(whole), wanted, table, low, shift, sign, lower)
    return np.cumsum(between) + np.cumsum(equal) - equal, equal


def _center(x: Floats) -> float:
    """A number near the mean: what is summed is then small, and its square loses no digits."""
    some = float(x[:: max(1, len(x) // 64)].mean(dtype=np.float64))
    return some if math.isfinite(some) else 0.0


@cache
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    numba = _numba()
    assert numba is not None
    options = {"nogil": True, "error_model": "numpy", "fastmath": function is not _count_places and _REORDER}
    try:
        return numba.njit(cache=True, **options)(function)  # type: ignore[no-any-return]
    except RuntimeError:  # no folder to keep compiled code in
        return numba.njit(**options)(function)  # type: ignore[no-any-return]


# Compiled: loops over one row, in blocks, simple enough to become vector instructions.


def _moment_sums(x, shift):  # type: ignore[no-untyped-def]
    total, squares = 0.0, 0.0
    for start in range(0, len(x), _BLOCK):
        block = x[start : start + _BLOCK]
        part, part_squares = 0.0, 0.0
        for i in range(len(block)):
            value = block[i] - shift
            part += value
            part_squares += value * value
        total += part
        squares += part_squares
    return total, squares


def _product_sum(x, y, shift_x, scale_x, offset_x, shift_y, scale_y, offset_y):  # type: ignore[no-untyped-def]
    total = 0.0
    for start in range(0, len(x), _BLOCK):
        block_x, block_y = x[start : start + _BLOCK], y[start : start + _BLOCK]
        part = 0.0
        for i in range(len(block_x)):
            part += ((block_x[i] - shift_x) * scale_x + offset_x) * ((block_y[i] - shift_y) * scale_y + offset_y)
        total += part
    return total


def _least_sum(x, y, shift_x, scale_x, offset_x, shift_y, scale_y, offset_y):  # type: ignore[no-untyped-def]
    total = 0.0
    for start in range(0, len(x), _BLOCK):
        block_x, block_y = x[start : start + _BLOCK], y[start : start + _BLOCK]
        part = 0.0
        for i in range(len(block_x)):
            a, b = (block_x[i] - shift_x) * scale_x + offset_x, (block_y[i] - shift_y) * scale_y + offset_y
            part += a if a < b else b
        total += part
    return total


def _divergence_sum(  # type: ignore[no-untyped-def]
    x, y, shift_x, scale_x, offset_x, shift_y, scale_y, offset_y, epsilon
):
    total = 0.0
    for start in range(0, len(x), _BLOCK):
        block_x, block_y = x[start : start + _BLOCK], y[start : start + _BLOCK]
        part = 0.0
        for i in range(len(block_x)):
            p, q = (block_x[i] - shift_x) * scale_x + offset_x, (block_y[i] - shift_y) * scale_y + offset_y
            # The logarithm of a positive normal number, so that the loop has no call in it: r = 2**e m with m in
            # [sqrt(1/2), sqrt(2)), and log m = 2 artanh(s), s = (m - 1) / (m + 1), abs(s) < 0.172. The first term
            # that is left out is below 1e-17.
            r = q / (p + epsilon) + epsilon
            bits = np.float64(r).view(np.int64)
            e = (bits >> 52) - 1023
            m = np.int64((bits & 0xFFFFFFFFFFFFF) | 0x3FF0000000000000).view(np.float64)
            large = m > 1.4142135623730951
            m = 0.5 * m if large else m
            e = e + 1 if large else e
            s = (m - 1.0) / (m + 1.0)
            z = s * s
            series = 1.0 / 17.0 + z * (1.0 / 19.0 + z * (1.0 / 21.0))
            series = 1.0 / 11.0 + z * (1.0 / 13.0 + z * (1.0 / 15.0 + z * series))
            series = 1.0 / 5.0 + z * (1.0 / 7.0 + z * (1.0 / 9.0 + z * series))
            part += q * (e * _LOG_2 + 2.0 * s * (1.0 + z * (1.0 / 3.0 + z * series)))
        total += part
    return total


def _count_places(sample, bits, wanted, table, low, shift, sign, lower):  # type: ignore[no-untyped-def]
    between = np.zeros(len(wanted), dtype=np.int64)  # above the wanted value before, and below this one
    equal = np.zeros(len(wanted), dtype=np.int64)
    least, greatest = wanted[0], wanted[-1]
    below = 0
    for i in range(len(sample)):
        value = sample[i]
        if value < least:
            below += 1
        elif value <= greatest:
            # A negative zero has the bits of another number.
            key = (bits[i] ^ ((bits[i] >> sign) & lower)) if value != 0.0 else 0
            at = table[(key >> shift) - low]
            while wanted[at] < value:
                at += 1
            if wanted[at] == value:
                equal[at] += 1
            else:
                between[at] += 1
    between[0] += below
    return between, equal
