"""Information: log-likelihood of fixations under a density, and its gain over a baseline.

Definitions: Kuemmerer, Wallis & Bethge (2015), PNAS 112, 16054-16059. Values are per pixel: compare models
only on one pixel grid (:func:`gazekit.density.resize_log_density` changes it).
"""

from __future__ import annotations

import math

import numpy as np
from torch import Tensor

from gazekit.errors import InputError
from gazekit.metrics.fixated import Fixated, fixated, mean_over_valid
from gazekit.metrics.mean_over_trials import MeanOverTrials
from gazekit.metrics.pixel_sums import block_sum, blocks, exp

# A float32 log_softmax over a million pixels sums to one within 1e-4; a saliency map, or a density that
# was resized without renormalising, is off by far more.
_SUM_TOLERANCE = 1e-3


def log_likelihood(log_density: Tensor, xy_px: Tensor, valid: Tensor) -> Tensor:
    """Log-likelihood per trial in nats per fixation, at most 0; higher is better.

    A uniform density scores minus the log of the number of pixels.

    Args:
        log_density: (B, H, W) natural-log density over pixels, summing to one; -inf is no density.
        xy_px: (B, T, 2) fixations as (x, y) px from the top-left corner.
        valid: (B, T) bool, False where the scanpath is padding.

    Returns:
        (B,) float64 mean over fixations; NaN for a trial without any, -inf if any fixation has no
        density. Differentiable.

    Raises:
        InputError: Shapes do not fit, a valid fixation lies outside the map, or the exponentials of a map
            that scores a fixation do not sum to one within 1e-3.

    """
    seen = fixated(log_density, xy_px, valid, "log_density")
    return mean_over_valid(log_density_at(seen), valid)


def information_gain(log_density: Tensor, baseline_log_density: Tensor, xy_px: Tensor, valid: Tensor) -> Tensor:
    """Information gain (IG) over a baseline per trial, in bits per fixation; unbounded, higher is better.

    0 is as good as the baseline, which is all that chance can mean here.

    Args:
        log_density: (B, H, W) natural-log density over pixels, summing to one; -inf is no density.
        baseline_log_density: (B, H, W) the same for the baseline, on the same grid.
        xy_px: (B, T, 2) fixations as (x, y) px from the top-left corner.
        valid: (B, T) bool, False where the scanpath is padding.

    Returns:
        (B,) float64 mean over fixations; NaN for a trial without any, -inf if any fixation has no
        density. Differentiable.

    Raises:
        InputError: Shapes do not fit, a valid fixation lies outside the map, the exponentials of a map
            that scores a fixation do not sum to one within 1e-3, or the baseline gives no density to a
            fixation.

    """
    check_same_grid(log_density, baseline_log_density)
    seen = fixated(log_density, xy_px, valid, "log_density")
    baseline = fixated(baseline_log_density, xy_px, valid, "baseline_log_density")
    return mean_gain(seen, baseline, valid)


def mean_gain(seen: Fixated, baseline: Fixated, valid: Tensor, eps: float = 0.0) -> Tensor:
    """(B,) mean gain in bits over the valid fixations, `eps` added to both densities."""
    reference = log_density_at(baseline)
    if eps:
        gained = (log_density_at(seen).exp() + eps).log() - (reference.exp() + eps).log()
        return mean_over_valid(gained, valid) / math.log(2)
    if not (impossible := ~reference.detach().isfinite() & valid).any():
        return mean_over_valid(log_density_at(seen) - reference, valid) / math.log(2)
    trial, step = impossible.nonzero()[0].tolist()
    raise InputError(
        f"{baseline.name} is -inf at trial {trial}, fixation {step}: no gain over it is defined; mix the "
        f"baseline with a uniform density first"
    )


def log_density_at(seen: Fixated) -> Tensor:
    """(B, T) float64 log-density at the fixations, after checking that the maps are log-densities."""
    check_log_density(seen)
    return seen.per_trial(seen.values().double())


def check_log_density(seen: Fixated) -> None:
    """Raise an InputError unless the exponentials of every map that scores a fixation sum to one."""
    for rows, chunk in seen.chunks():
        if chunk is None:
            continue
        with np.errstate(over="ignore"):  # infinite is far from 1, too
            total = block_sum(exp(x) for x in blocks(chunk.detach()))
        unnormalised = ~(total - 1.0).abs().le(_SUM_TOLERANCE)  # NaN is not within
        unnormalised &= seen.valid[rows].any(1)
        worst = total[int(unnormalised.int().argmax())]
        seen.raise_for(
            rows,
            unnormalised,
            f"not a log-density: the exponentials of its pixels sum to {worst:.6g}, not 1; give natural "
            f"logs and normalise them with gazekit.density.normalize_log_density",
        )


def check_same_grid(log_density: Tensor, baseline_log_density: Tensor) -> None:
    if log_density.shape[-2:] != baseline_log_density.shape[-2:]:
        raise InputError(
            f"log_density is {tuple(log_density.shape)} but baseline_log_density "
            f"{tuple(baseline_log_density.shape)}; bring both to one grid with gazekit.density.resize_log_density"
        )


class LogLikelihood(MeanOverTrials):
    """Mean :func:`log_likelihood` over trials, in nats per fixation."""

    is_differentiable, higher_is_better = True, True

    def update(self, log_density: Tensor, xy_px: Tensor, valid: Tensor) -> None:
        self.add(log_likelihood(log_density, xy_px, valid))


class InformationGain(MeanOverTrials):
    """Mean :func:`information_gain` over trials, in bits per fixation."""

    is_differentiable, higher_is_better = True, True

    def update(self, log_density: Tensor, baseline_log_density: Tensor, xy_px: Tensor, valid: Tensor) -> None:
        self.add(information_gain(log_density, baseline_log_density, xy_px, valid))
