"""Densities over pixels: Gaussian fixation densities, normalisation, and change of grid.

A fixation density here is what ``scipy.ndimage.gaussian_filter(histogram, sigma, mode="nearest",
truncate=4)`` gives, divided by its sum. The filter is linear and separable, so a trial's few
fixations need two thin matrix products instead of a filtered image.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
from scipy.ndimage import gaussian_filter1d
from torch import Tensor
from torch.nn import functional as F


@lru_cache(maxsize=64)
def _gaussian_operator(n: int, sigma_px: float) -> Tensor:
    """(n, n) float64 matrix that filters an n-vector; column j is the response to pixel j."""
    return torch.from_numpy(gaussian_filter1d(np.eye(n), sigma_px, axis=0, mode="nearest", truncate=4.0))


def gaussian_operators(
    size_wh_px: tuple[int, int], sigma_px: float, like: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The (H, H) and (W, W) matrices of the separable filter; ``Gy @ histogram @ Gx.T`` filters."""
    width, height = size_wh_px
    gy, gx = _gaussian_operator(height, float(sigma_px)), _gaussian_operator(width, float(sigma_px))
    return (gy, gx) if like is None else (gy.to(like), gx.to(like))


def pixel_of(xy_px: Tensor) -> tuple[Tensor, Tensor]:
    """(..., 2) positions -> (row, column) of the pixel that each falls in (its floor)."""
    column, row = xy_px.floor().long().unbind(-1)
    return row, column


def count_fixations(xy_px: Tensor, valid: Tensor, size_wh_px: tuple[int, int]) -> Tensor:
    """(B, T, 2) fixations -> (B, H, W) float64 counts per pixel; invalid ones are left out."""
    width, height = size_wh_px
    row, column = pixel_of(xy_px)
    index = (row * width + column).where(valid, torch.zeros_like(row))
    counts = torch.zeros(len(xy_px), height * width, dtype=torch.float64, device=xy_px.device)
    return counts.scatter_add_(1, index, valid.to(counts.dtype)).view(-1, height, width)


def fixation_mass(xy_px: Tensor, valid: Tensor, size_wh_px: tuple[int, int], sigma_px: float) -> Tensor:
    """(B, T, 2) fixations -> (B, H, W) float64 sum of their filtered unit masses, not normalised.

    Masses add over fixations, so that "everyone but one" is a difference of two of them.
    """
    gy, gx = gaussian_operators(size_wh_px, sigma_px, like=torch.empty(0, dtype=torch.float64, device=xy_px.device))
    row, column = pixel_of(xy_px)
    row, column = row.where(valid, torch.zeros_like(row)), column.where(valid, torch.zeros_like(column))
    weights = gy.T[row] * valid[..., None]
    return weights.transpose(1, 2) @ gx.T[column]


def fixation_density(
    xy_px: Tensor, valid: Tensor, size_wh_px: tuple[int, int], sigma_px: float, dtype: torch.dtype = torch.float64
) -> Tensor:
    """(B, T, 2) fixations -> (B, H, W) density summing to one; NaN for a trial without any.

    Single precision is four times as fast and exact enough to compare a map with; to subtract
    densities from each other take double.
    """
    gy, gx = gaussian_operators(size_wh_px, sigma_px, like=torch.empty(0, dtype=torch.float64, device=xy_px.device))
    row, column = pixel_of(xy_px)
    row, column = row.where(valid, torch.zeros_like(row)), column.where(valid, torch.zeros_like(column))
    # What a fixation's kernel sums to is known beforehand, so the map itself need not be summed.
    total = (gy.sum(0)[row] * gx.sum(0)[column] * valid).sum(-1)
    weights = gy.T[row] * (valid / total[:, None])[..., None]
    return weights.to(dtype).transpose(1, 2) @ gx.T[column].to(dtype)


def exp_shared(log_density: Tensor) -> Tensor:
    """The density; a map shared by all trials stays one map seen through a stride of 0."""
    if log_density.stride(0) == 0:
        return log_density[:1].exp().expand_as(log_density)
    return log_density.exp()


def normalize_log_density(log_density: Tensor) -> Tensor:
    """Shift (..., H, W) log values so that their exponentials sum to one."""
    return log_density - log_density.flatten(-2).logsumexp(-1)[..., None, None]


def resize_log_density(log_density: Tensor, size_wh_px: tuple[int, int]) -> Tensor:
    """(B, h, w) log-density -> (B, H, W) log-density per pixel of the new grid.

    Interpolated bilinearly in log space (piecewise exponential), then renormalised: without that
    the values would be off by the log of the ratio of the areas.
    """
    width, height = size_wh_px
    if log_density.shape[-2:] == (height, width):
        return normalize_log_density(log_density)
    larger = F.interpolate(log_density[:, None], size=(height, width), mode="bilinear", align_corners=False)
    return normalize_log_density(larger[:, 0])


def uniform_log_density(size_wh_px: tuple[int, int]) -> float:
    """Natural log of one over the number of pixels."""
    return -math.log(size_wh_px[0] * size_wh_px[1])


def to_density(saliency: Tensor) -> Tensor:
    """(..., H, W) map on any scale -> density summing to one.

    A negative minimum is subtracted first; a map that sums to zero becomes uniform. (The rule of
    the Tuebingen benchmark's code; the older MIT code rescales to [0, 1] first.)
    """
    low = saliency.amin((-2, -1), keepdim=True).clamp(max=0.0)
    shifted = saliency - low
    total = shifted.sum((-2, -1), keepdim=True)
    n_pixels = saliency.shape[-1] * saliency.shape[-2]
    uniform = torch.full_like(shifted, 1.0 / n_pixels)
    return torch.where(total > 0, shifted / total.where(total > 0, torch.ones_like(total)), uniform)
