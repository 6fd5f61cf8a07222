"""Area under the ROC curve: how well a map separates fixated from other places.

All variants are P(s+ > s-) + P(s+ = s-) / 2, with s+ the map at a fixation; they differ in the places s-
that a fixation competes with. Definitions as in pysaliency 0.2.22; AUC-Judd after Judd, Durand & Torralba
(2012), MIT-CSAIL-TR-2012-001, without the random jitter of that code.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gazekit.metrics import compiled
from gazekit.metrics.fixated import Fixated, check_fixations, fixated, is_shared, pixel_index
from gazekit.metrics.mean_over_trials import MeanOverTrials

# Up to this many values, comparing the whole sample with each is faster than any sorting (measured
# at 480,000 float32: 0.1 ms per value against 3 ms).
_FEW = 24
# Smaller samples are sorted outright; larger ones are first thinned by a histogram of this many bins.
_LARGE, _N_BINS = 2**15, 2**16


def auc(saliency: Tensor, xy_px: Tensor, valid: Tensor) -> Tensor:
    """AUC per trial with every pixel as a negative; in [0, 1], chance is 0.5, higher is better.

    Computed per fixation and averaged; a fixation repeated on one pixel counts repeatedly, and ties give
    half credit. Unchanged by any increasing transform of the map. A constant map scores 0.5.

    Args:
        saliency: (B, H, W) predicted map, on any scale; -inf is a value like others.
        xy_px: (B, T, 2) fixations as (x, y) px from the top-left corner.
        valid: (B, T) bool, False where the scanpath is padding.

    Returns:
        (B,) float64 mean over fixations; NaN for a trial without any. Not differentiable.

    Raises:
        InputError: Shapes do not fit, a valid fixation lies outside the map, or a map holds NaN.

    """
    return mean_rank(fixated(saliency.detach(), xy_px, valid))


def auc_judd(saliency: Tensor, xy_px: Tensor, valid: Tensor) -> Tensor:
    """AUC-Judd per trial; in [0, 1], chance is 0.5, higher is better.

    Negatives are the pixels that the trial did not fixate. Thresholds lie at the fixated values only, and
    the curve is the polygon through (0, 0), one point per threshold, and (1, 1): where no negative lies
    between two fixated values this exceeds the rank definition of :func:`auc`. A constant map scores 0.5.

    Args:
        saliency: (B, H, W) predicted map, on any scale; -inf is a value like others.
        xy_px: (B, T, 2) fixations as (x, y) px from the top-left corner.
        valid: (B, T) bool, False where the scanpath is padding.

    Returns:
        (B,) float64; NaN for a trial without fixations or one that fixates every pixel. Not differentiable.

    Raises:
        InputError: Shapes do not fit, a valid fixation lies outside the map, or a map holds NaN.

    """
    seen = fixated(saliency.detach(), xy_px, valid)
    below, _ = _pixel_counts(seen)
    n_pixels = seen.maps.shape[1]
    reached = n_pixels - seen.per_trial(below)  # pixels at or above each threshold
    value, index = seen.per_trial(seen.values()), seen.per_trial(seen.index)
    # Axes: trial, threshold, fixation.
    above = (value[:, None, :] >= value[:, :, None]) & valid[:, None, :]
    earlier = torch.ones_like(above).tril(-1)
    repeated = ((index[:, None, :] == index[:, :, None]) & valid[:, None, :] & earlier).any(-1)
    first = valid & ~repeated
    n_negatives = n_pixels - first.sum(1, keepdim=True)
    false_rate = (reached - (above & first[:, None, :]).sum(-1)).double() / n_negatives
    hit_rate = above.sum(-1).double() / valid.sum(1, keepdim=True)
    # Both rates fall as the threshold rises, so each can be sorted alone. Padding becomes more of (1, 1).
    ends = torch.tensor([0.0, 1.0], dtype=torch.float64, device=value.device).expand(len(value), 2)
    x, y = (
        torch.cat([ends, rate.where(valid, torch.ones_like(rate))], 1).sort(1).values for rate in (false_rate, hit_rate)
    )
    # Without negatives the false rate, and so the area, is 0 / 0.
    return torch.trapezoid(y, x, dim=1).masked_fill(~valid.any(1), torch.nan)


def shuffled_auc(
    saliency: Tensor, xy_px: Tensor, valid: Tensor, other_xy_px: Tensor, other_valid: Tensor | None = None
) -> Tensor:
    """Shuffled AUC (sAUC) per trial; in [0, 1], chance is 0.5, higher is better.

    Negatives are fixations made on other images, so that a map of the center bias alone scores about 0.5.
    Duplicates count repeatedly, and ties give half credit. A constant map scores 0.5.

    Args:
        saliency: (B, H, W) predicted map, on any scale; -inf is a value like others.
        xy_px: (B, T, 2) fixations as (x, y) px from the top-left corner.
        valid: (B, T) bool, False where the scanpath is padding.
        other_xy_px: (M, 2) fixations on other images, for all trials, or (B, M, 2) for each; already
            scaled to the size of the map.
        other_valid: (M,) or (B, M) bool; None where all are valid.

    Returns:
        (B,) float64 mean over fixations; NaN for a trial without fixations or without negatives. Not
        differentiable.

    Raises:
        InputError: Shapes do not fit, a valid fixation (here or on another image) lies outside the map,
            or a map holds NaN at one of the places compared.

    """
    if other_valid is None:
        other_valid = torch.ones(other_xy_px.shape[:-1], dtype=torch.bool, device=other_xy_px.device)
    if other_xy_px.ndim == 3 and is_shared(other_xy_px) and (is_shared(other_valid) or other_valid.ndim == 1):
        other_xy_px, other_valid = other_xy_px[0], other_valid[0] if other_valid.ndim == 2 else other_valid
    for_all = other_xy_px.ndim == 2
    if for_all:
        other_xy_px, other_valid = other_xy_px[None], other_valid[None]
    check_fixations(other_xy_px, other_valid, 1 if for_all else len(saliency), "of other images (B, M")
    seen = fixated(saliency.detach(), xy_px, valid, merge=for_all)
    height, width = saliency.shape[-2:]
    where = pixel_index(other_xy_px, other_valid, (width, height), ("negatives of trial", "fixation"))
    kept = [index if keep.all() else index[keep] for index, keep in zip(where, other_valid, strict=True)]
    value, valid_rows = seen.values(), seen.valid.any(1).tolist()
    score = torch.full_like(value, torch.nan, dtype=torch.float64)
    for row, row_valid in enumerate(valid_rows):
        negatives = kept[0 if for_all else row]
        if row_valid and len(negatives):
            sample, keep = _take(seen.maps[row], negatives), seen.valid[row]
            positives = value[row, keep]
            broken = _holds_nan(sample) | _holds_nan(positives)
            seen.raise_for(slice(row, row + 1), broken[None], "the map holds NaN")
            below, equal = _count(sample, positives)
            score[row, keep] = (below + 0.5 * equal.double()) / len(negatives)
    return seen.trial_mean(score)


def mean_rank(seen: Fixated) -> Tensor:
    """(B,) mean share of pixels below the fixated one, ties counting half."""
    below, equal = _pixel_counts(seen)
    return seen.trial_mean((below + 0.5 * equal.double()) / seen.maps.shape[1])


def one_threshold(seen: Fixated) -> Tensor:
    """(B,) mean area under (0, 0), (fp, 1), (1, 1), fp the share of the other pixels that reach the fixated value."""
    below, _ = _pixel_counts(seen)
    n_pixels = seen.maps.shape[1]
    false_rate = (n_pixels - below - 1).double() / (n_pixels - 1)
    return seen.trial_mean(1.0 - false_rate / 2.0)


def _pixel_counts(seen: Fixated) -> tuple[Tensor, Tensor]:
    """(G, K) numbers of pixels below and equal to each fixated one; 0 where not valid."""
    values = seen.values()
    below, equal = torch.zeros_like(seen.index), torch.zeros_like(seen.index)
    rows = seen.valid.any(1).nonzero()[:, 0].tolist()
    for row in rows:
        keep = seen.valid[row]
        seen.raise_for(slice(row, row + 1), _holds_nan(seen.maps[row])[None], "the map holds NaN")
        below[row, keep], equal[row, keep] = _count(seen.maps[row], values[row, keep])
    return below, equal


def _holds_nan(values: Tensor) -> Tensor:
    # NaN survives a minimum.
    return values.amin().isnan() if values.is_cuda else torch.tensor(bool(np.isnan(_array(values).min())))


def _take(values: Tensor, index: Tensor) -> Tensor:
    if values.is_cuda:
        return values.index_select(0, index)
    return torch.from_numpy(_array(values)[index.numpy()])


def _count(sample: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """(P,) sample, (K,) values, neither with NaN -> (K,) long: how many of P are below, and equal."""
    if sample.is_cuda:
        return _count_by_sort(sample, values)
    # NumPy's comparisons and sort are several times faster than PyTorch's on a CPU.
    wanted, back = np.unique(_array(values), return_inverse=True)
    if compiled.usable(sample[None]) and len(wanted):
        below, equal = compiled.places(compiled.rows(sample[None])[0], wanted)
        return torch.from_numpy(below[back]), torch.from_numpy(equal[back])
    below, not_above = _count_on_cpu(_array(sample), wanted)
    return torch.from_numpy(below[back]), torch.from_numpy((not_above - below)[back])


def _count_by_sort(sample: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    ordered = sample.sort().values
    below = torch.searchsorted(ordered, values, right=False)
    return below, torch.searchsorted(ordered, values, right=True) - below


def _count_on_cpu(sample: NDArray[np.floating], wanted: NDArray[np.floating]) -> tuple[NDArray[np.int64], ...]:
    """How many of the sample are below, and not above, each of the distinct values."""
    if len(wanted) <= _FEW:
        below = np.array([np.count_nonzero(sample < value) for value in wanted], dtype=np.int64)
        not_above = np.array([np.count_nonzero(sample <= value) for value in wanted], dtype=np.int64)
        return below, not_above
    offset = np.zeros(len(wanted), dtype=np.int64)
    if len(sample) > _LARGE:
        sample, offset = _thin(sample, wanted)
    ordered = np.sort(sample)
    below = offset + np.searchsorted(ordered, wanted, side="left")
    return below, offset + np.searchsorted(ordered, wanted, side="right")


def _thin(sample: NDArray[np.floating], wanted: NDArray[np.floating]) -> tuple[NDArray[np.floating], NDArray[np.int64]]:
    """Leave out of the sample what shares no histogram bin with a wanted value.

    Exact: binning is monotone even with its rounding, so whatever is left out lies on the same side of a
    wanted value as its bin does.

    Returns:
        The part of the sample that is left, and per wanted value how many were left out below it.

    """
    low, high = sample.min(), sample.max()
    with np.errstate(all="ignore"):
        scale = (_N_BINS - 1) / (high - low)
    if not (np.isfinite(scale) and scale > 0):  # a range of 0, subnormal, or infinite
        return sample, np.zeros(len(wanted), dtype=np.int64)

    def bin_of(values: NDArray[np.floating]) -> NDArray[np.int32]:
        bins: NDArray[np.int32] = ((values.clip(low, high) - low) * scale).astype(np.int32)
        return bins

    bins, wanted_bins = bin_of(sample), bin_of(wanted)
    near = np.zeros(_N_BINS + 1, dtype=bool)  # one more: rounding may lift the top above the last bin
    near[wanted_bins] = True
    counts = np.bincount(bins, minlength=len(near))
    left_out_below = np.cumsum(np.where(near, 0, counts))
    return sample[near[bins]], left_out_below[wanted_bins]


def _array(values: Tensor) -> NDArray[np.floating]:
    # NumPy knows no bfloat16; float32 holds every half-precision number exactly.
    return (values.float() if values.dtype in (torch.bfloat16, torch.float16) else values).numpy()


class AUC(MeanOverTrials):
    """Mean :func:`auc` over trials, leaving out trials without a fixation."""

    is_differentiable, higher_is_better = False, True

    def update(self, saliency: Tensor, xy_px: Tensor, valid: Tensor) -> None:
        self.add(auc(saliency, xy_px, valid))


class AUCJudd(MeanOverTrials):
    """Mean :func:`auc_judd` over trials, leaving out trials without a fixation."""

    is_differentiable, higher_is_better = False, True

    def update(self, saliency: Tensor, xy_px: Tensor, valid: Tensor) -> None:
        self.add(auc_judd(saliency, xy_px, valid))


class ShuffledAUC(MeanOverTrials):
    """Mean :func:`shuffled_auc` over trials, leaving out trials without a fixation or a negative."""

    is_differentiable, higher_is_better = False, True

    def update(
        self,
        saliency: Tensor,
        xy_px: Tensor,
        valid: Tensor,
        other_xy_px: Tensor,
        other_valid: Tensor | None = None,
    ) -> None:
        self.add(shuffled_auc(saliency, xy_px, valid, other_xy_px, other_valid))
