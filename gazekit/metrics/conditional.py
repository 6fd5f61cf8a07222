"""Scores of scanpath models: the density before each fixation, given those before, scores that fixation.

The definitions are those of the map metrics, applied to one map per fixation (Kuemmerer, Bethge & Wallis
2022, Journal of Vision 22(5):7, and pysaliency). Options give the numbers published for HAT (Yang et al. 2024):
sample SD in the NSS, an epsilon inside both logarithms of the gain, and an AUC that is compressed into its upper half.

A forced first fixation carries no information: mark it False in `valid`.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from gazekit.errors import InputError
from gazekit.metrics.auc import mean_rank, one_threshold
from gazekit.metrics.fixated import fixated, fixated_steps
from gazekit.metrics.information import check_log_density, check_same_grid, mean_gain
from gazekit.metrics.mean_over_trials import MeanOverTrials
from gazekit.metrics.nss import mean_z_score
from gazekit.metrics.pixel_sums import exp


def conditional_nss(log_density: Tensor, xy_px: Tensor, valid: Tensor, *, ddof: Literal[0, 1] = 0) -> Tensor:
    """NSS of the conditional density per trial, in SDs; chance is 0, higher is better.

    The density is standardised, not its logarithm. A uniform density scores 0.

    Args:
        log_density: (B, T, H, W) natural-log density before each fixation, summing to one. What stands
            where `valid` is False is not read.
        xy_px: (B, T, 2) fixations as (x, y) px from the top-left corner.
        valid: (B, T) bool, False where a fixation is padding or not to be scored.
        ddof: 0 for the population SD, 1 for the sample's.

    Returns:
        (B,) float64 mean over valid fixations; NaN for a trial without any. Differentiable.

    Raises:
        InputError: Shapes do not fit, a valid fixation lies outside the map, the exponentials of a map
            that scores a fixation do not sum to one within 1e-3, or `ddof` is neither 0 nor 1.

    """
    if ddof not in (0, 1):
        raise InputError(f"ddof must be 0 or 1; got {ddof!r}")
    seen = fixated_steps(log_density, xy_px, valid, "log_density")
    check_log_density(seen)
    n_pixels = seen.maps.shape[1]
    score: Tensor = mean_z_score(seen, exp) * ((n_pixels - ddof) / n_pixels) ** 0.5
    return score


def conditional_auc(
    log_density: Tensor, xy_px: Tensor, valid: Tensor, *, variant: Literal["rank", "trapezoid"] = "rank"
) -> Tensor:
    """AUC of the conditional density per trial, all pixels as negatives, half credit for ties.

    In [0, 1], chance is 0.5, higher is better. The variant ``trapezoid`` has the one threshold of the fixated pixel:
    the area under (0, 0), (fp, 1), (1, 1), with fp the share of the other pixels that reach its value. It lies in
    [0.5, 1], and chance is 0.75.

    Args:
        log_density: (B, T, H, W) natural-log density before each fixation, summing to one. What stands
            where `valid` is False is not read.
        xy_px: (B, T, 2) fixations as (x, y) px from the top-left corner.
        valid: (B, T) bool, False where a fixation is padding or not to be scored.
        variant: ``rank``, or ``trapezoid`` as published for HAT.

    Returns:
        (B,) float64 mean over valid fixations; NaN for a trial without any. Not differentiable.

    Raises:
        InputError: Shapes do not fit, a valid fixation lies outside the map, the exponentials of a map
            that scores a fixation do not sum to one within 1e-3, or the variant is unknown.

    """
    if variant not in ("rank", "trapezoid"):
        raise InputError(f"variant must be 'rank' or 'trapezoid'; got {variant!r}")
    seen = fixated_steps(log_density.detach(), xy_px, valid, "log_density")
    check_log_density(seen)
    return mean_rank(seen) if variant == "rank" else one_threshold(seen)


def conditional_information_gain(
    log_density: Tensor, baseline_log_density: Tensor, xy_px: Tensor, valid: Tensor, *, eps: float = 0.0
) -> Tensor:
    """Information gain of the conditional density over a baseline per trial, in bits per fixation.

    Unbounded; 0 is as good as the baseline, higher is better.

    Args:
        log_density: (B, T, H, W) natural-log density before each fixation, summing to one. What stands
            where `valid` is False is not read.
        baseline_log_density: (B, H, W) or (B, T, H, W) the same for the baseline, on the same grid.
        xy_px: (B, T, 2) fixations as (x, y) px from the top-left corner.
        valid: (B, T) bool, False where a fixation is padding or not to be scored.
        eps: Added to both densities before the logarithm; 2.2204e-16 in numbers published for HAT, by which a
            fixation without density costs some 40 bits rather than everything.

    Returns:
        (B,) float64 mean over valid fixations; NaN for a trial without any, -inf if any fixation has no
        density and `eps` is 0. Differentiable.

    Raises:
        InputError: Shapes do not fit, a valid fixation lies outside the map, the exponentials of a map
            that scores a fixation do not sum to one within 1e-3, the baseline gives no density to a
            fixation, or `eps` is negative.

    """
    if not eps >= 0.0:
        raise InputError(f"eps must be 0 or more; got {eps!r}")
    check_same_grid(log_density, baseline_log_density)
    if baseline_log_density.ndim not in (3, 4):
        raise InputError(
            f"baseline_log_density must be (B, H, W) or (B, T, H, W); got {tuple(baseline_log_density.shape)}"
        )
    seen = fixated_steps(log_density, xy_px, valid, "log_density")
    match = fixated if baseline_log_density.ndim == 3 else fixated_steps
    return mean_gain(seen, match(baseline_log_density, xy_px, valid, "baseline_log_density"), valid, eps)


class ConditionalNSS(MeanOverTrials):
    """Mean :func:`conditional_nss` over trials."""

    is_differentiable, higher_is_better = True, True

    def update(self, log_density: Tensor, xy_px: Tensor, valid: Tensor) -> None:
        self.add(conditional_nss(log_density, xy_px, valid))


class ConditionalAUC(MeanOverTrials):
    """Mean :func:`conditional_auc` over trials."""

    is_differentiable, higher_is_better = False, True

    def update(self, log_density: Tensor, xy_px: Tensor, valid: Tensor) -> None:
        self.add(conditional_auc(log_density, xy_px, valid))


class ConditionalInformationGain(MeanOverTrials):
    """Mean :func:`conditional_information_gain` over trials, in bits per fixation."""

    is_differentiable, higher_is_better = True, True

    def update(self, log_density: Tensor, baseline_log_density: Tensor, xy_px: Tensor, valid: Tensor) -> None:
        self.add(conditional_information_gain(log_density, baseline_log_density, xy_px, valid))
