"""AUC-Borji and the old MIT shuffled AUC: sampled negatives and few thresholds, to compare with old tables.

Both are compatibility modes; prefer the exact ranks of :func:`gazekit.metrics.auc` and
:func:`gazekit.metrics.shuffled_auc`, which need neither random numbers nor thresholds. Definitions as in the
code of the old MIT benchmark: the map is rescaled to [0, 1], the thresholds are 0, 0.1, ..., 1, the curve is
the polygon through (0, 0) and, for each threshold, the shares of negatives and of fixated pixels at or above
it, and the area is averaged over repeated draws of negatives. A pixel fixated repeatedly counts once there,
and so here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gazekit.errors import InputError
from gazekit.metrics.fixated import Fixated, check_fixations, fixated, is_shared, pixel_index
from gazekit.metrics.mean_over_trials import MeanOverTrials


def auc_borji(
    saliency: Tensor,
    xy_px: Tensor,
    valid: Tensor,
    *,
    generator: torch.Generator | None = None,
    n_repeats: int = 100,
    n_steps: int = 10,
) -> Tensor:
    """AUC-Borji per trial; in [0, 1], chance is 0.5, higher is better.

    Negatives are as many pixels as the trial fixates, drawn uniformly with replacement from the whole map,
    anew in each repetition. Unchanged by positive affine rescaling of the map, up to its rounding, but not by
    other increasing transforms: the thresholds lie on a linear scale, so that a peaked density may score
    near 0.5 where its ranks are almost perfect. A constant map scores 0.5 (NaN in the old code).

    Args:
        saliency: (B, H, W) predicted map, on any affine scale.
        xy_px: (B, T, 2) fixations as (x, y) px from the top-left corner.
        valid: (B, T) bool, False where the scanpath is padding.
        generator: Source of the negatives, which are drawn trial after trial on its device. None for a new
            one on the CPU with seed 0: no global state is read or changed, and the score is the same on
            every device.
        n_repeats: Draws of negatives to average over; 100 in the old code.
        n_steps: Steps from the threshold 0 to 1; 10 in the old code.

    Returns:
        (B,) float64; NaN for a trial with fewer than 2 distinct fixated pixels. Not differentiable.

    Raises:
        InputError: Shapes do not fit, a valid fixation lies outside the map, a map is not finite, or
            `n_repeats` or `n_steps` is below 1.

    """
    _check_counts(n_repeats=n_repeats, n_steps=n_steps)
    source = _generator(generator)
    seen = fixated(saliency.detach(), xy_px, valid, merge=False)

    def negatives(trial: int, n_fixated: int) -> Tensor:
        return torch.randint(seen.maps.shape[1], (n_repeats, n_fixated), generator=source, device=source.device)

    return _mean_area(seen, negatives, n_steps, fewest=2)


def shuffled_auc_mit(
    saliency: Tensor,
    xy_px: Tensor,
    valid: Tensor,
    image: Tensor,
    image_xy_px: Tensor,
    image_valid: Tensor,
    *,
    generator: torch.Generator | None = None,
    n_others: int = 10,
    n_repeats: int = 100,
    n_steps: int = 10,
) -> Tensor:
    """Shuffled AUC of the old MIT benchmark per trial; in [0, 1], chance is 0.5, higher is better.

    Negatives come from the pixels fixated on `n_others` random other images, each pixel once: in each
    repetition a random subset of as many as the trial fixates, or of all if there are fewer. As for
    :func:`auc_borji`, only affine rescaling leaves the score as it is, and a constant map scores 0.5.

    Args:
        saliency: (B, H, W) predicted map, on any affine scale.
        xy_px: (B, T, 2) fixations as (x, y) px from the top-left corner.
        valid: (B, T) bool, False where the scanpath is padding.
        image: (B,) long, the place of each trial's own image among the I images, which is left out.
        image_xy_px: (I, M, 2) all fixations on each image, already scaled to the size of the map.
        image_valid: (I, M) bool.
        generator: Source of images and subsets; None for a new one on the CPU with seed 0.
        n_others: Images to take negatives from; 10 in the old code.
        n_repeats: Draws of subsets to average over; 100 in the old code.
        n_steps: Steps from the threshold 0 to 1; 10 in the old code.

    Returns:
        (B,) float64; NaN for a trial without a fixation or without a negative. Not differentiable.

    Raises:
        InputError: Shapes do not fit, a valid fixation (here or on another image) lies outside the map, a
            map is not finite, there are not `n_others` other images, or a number is below 1.

    """
    _check_counts(n_others=n_others, n_repeats=n_repeats, n_steps=n_steps)
    source = _generator(generator)
    seen = fixated(saliency.detach(), xy_px, valid, merge=False)
    n_images = len(image_xy_px)
    check_fixations(image_xy_px, image_valid, n_images, "of images (I, M")
    if image.shape != valid.shape[:1] or image.is_floating_point() or not ((image >= 0) & (image < n_images)).all():
        raise InputError(
            f"image must be ({len(valid)},) whole numbers from 0 to {n_images - 1}, each trial's own image; "
            f"got {image.dtype} {tuple(image.shape)}"
        )
    if n_others >= n_images:
        raise InputError(f"n_others = {n_others} other images are asked for, but there are {n_images - 1}; lower it")
    height, width = saliency.shape[-2:]
    pixels = pixel_index(image_xy_px, image_valid, (width, height), ("image", "fixation"))
    own = image.tolist()

    def negatives(trial: int, n_fixated: int) -> Tensor:
        others = torch.randperm(n_images - 1, generator=source, device=source.device)[:n_others].to(pixels.device)
        others = others + (others >= own[trial])
        distinct = pixels[others][image_valid[others]].unique()
        keys = torch.rand(n_repeats, len(distinct), generator=source, device=source.device)
        drawn: Tensor = distinct[keys.argsort(1)[:, :n_fixated].to(distinct.device)]
        return drawn

    return _mean_area(seen, negatives, n_steps, fewest=1)


def _mean_area(seen: Fixated, negatives: Callable[[int, int], Tensor], n_steps: int, fewest: int) -> Tensor:
    """(B,) mean area over the rows of `negatives(trial, number of distinct fixated pixels)`."""
    # Whole fractions, not multiples of a rounded step: 153 / 255 of an 8-bit map must reach 0.6.
    thresholds = torch.arange(n_steps + 1, dtype=torch.float64, device=seen.maps.device) / n_steps
    score = thresholds.new_full((len(seen.maps),), torch.nan)
    shared, extremes = is_shared(seen.maps), None
    for trial, keep in enumerate(seen.valid):
        fixated_pixels = seen.index[trial, keep].unique()
        if len(fixated_pixels) < fewest:
            continue
        if extremes is None or not shared:
            extremes = _extremes(seen, trial)
        drawn = negatives(trial, len(fixated_pixels)).to(fixated_pixels.device)
        if drawn.shape[1]:
            hit_rate, false_rate = (
                _reached(_rescaled(seen.maps[trial][pixels], *extremes), thresholds)
                for pixels in (fixated_pixels[None], drawn)
            )
            score[trial] = -torch.trapezoid(hit_rate.expand_as(false_rate), false_rate).mean()
    return score


def _extremes(seen: Fixated, trial: int) -> tuple[Tensor, Tensor]:
    low, high = seen.maps[trial].aminmax()  # NaN if there is one
    finite = low.isfinite() & high.isfinite()
    seen.raise_for(slice(trial, trial + 1), ~finite[None], "the map holds NaN or infinity, and has no scale")
    return low.double(), high.double()


def _rescaled(values: Tensor, low: Tensor, high: Tensor) -> Tensor:
    span = high - low
    return (values.double() - low) / span.where(span > 0, torch.ones_like(span))


def _reached(values: Tensor, thresholds: Tensor) -> Tensor:
    """(R, K) values -> (R, n_steps + 2) shares at or above each threshold, falling to 0 above them all."""
    ordered = values.sort(1).values
    below = torch.searchsorted(ordered, thresholds.expand(len(values), -1).contiguous())
    return torch.nn.functional.pad(1.0 - below.double() / values.shape[1], (0, 1))


def _generator(generator: torch.Generator | None) -> torch.Generator:
    return torch.Generator().manual_seed(0) if generator is None else generator


def _check_counts(**counts: int) -> None:
    for name, count in counts.items():
        if count < 1:
            raise InputError(f"{name} must be at least 1; got {count}")


class AUCBorji(MeanOverTrials):
    """Mean :func:`auc_borji` over trials, leaving out those with fewer than 2 distinct fixated pixels.

    The negatives come from one generator, seeded when the metric is made and not by `reset`: the same
    updates in the same order give the same number. On several ranks give each its own seed.
    """

    is_differentiable, higher_is_better = False, True

    def __init__(self, seed: int = 0, n_repeats: int = 100, n_steps: int = 10, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        _check_counts(n_repeats=n_repeats, n_steps=n_steps)
        self.n_repeats, self.n_steps = n_repeats, n_steps
        self.generator = torch.Generator().manual_seed(seed)

    def update(self, saliency: Tensor, xy_px: Tensor, valid: Tensor) -> None:
        self.add(
            auc_borji(saliency, xy_px, valid, generator=self.generator, n_repeats=self.n_repeats, n_steps=self.n_steps)
        )


class ShuffledAUCMIT(MeanOverTrials):
    """Mean :func:`shuffled_auc_mit` over trials, leaving out those without a fixation or a negative.

    Random numbers as in :class:`AUCBorji`.
    """

    is_differentiable, higher_is_better = False, True

    def __init__(
        self, seed: int = 0, n_others: int = 10, n_repeats: int = 100, n_steps: int = 10, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        _check_counts(n_others=n_others, n_repeats=n_repeats, n_steps=n_steps)
        self.n_others, self.n_repeats, self.n_steps = n_others, n_repeats, n_steps
        self.generator = torch.Generator().manual_seed(seed)

    def update(
        self,
        saliency: Tensor,
        xy_px: Tensor,
        valid: Tensor,
        image: Tensor,
        image_xy_px: Tensor,
        image_valid: Tensor,
    ) -> None:
        counts = {"n_others": self.n_others, "n_repeats": self.n_repeats, "n_steps": self.n_steps}
        self.add(
            shuffled_auc_mit(
                saliency, xy_px, valid, image, image_xy_px, image_valid, generator=self.generator, **counts
            )
        )
