"""Normalized scanpath saliency (NSS): the map at the fixations, in SDs above its mean.

Definition: Peters, Iyer, Itti & Koch (2005), Vision Research 45, 2397-2416, with the population SD as in
pysaliency and the Tuebingen benchmark (the older MIT code divides by the number of pixels less one).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from gazekit.metrics import compiled
from gazekit.metrics.fixated import Fixated, fixated
from gazekit.metrics.mean_over_trials import MeanOverTrials
from gazekit.metrics.pixel_sums import moments


def nss(saliency: Tensor, xy_px: Tensor, valid: Tensor) -> Tensor:
    """NSS per trial, in SDs; unbounded, chance is 0, higher is better.

    Unchanged by positive affine rescaling of the map. A constant map scores 0.

    Args:
        saliency: (B, H, W) predicted map, on any affine scale.
        xy_px: (B, T, 2) fixations as (x, y) px from the top-left corner.
        valid: (B, T) bool, False where the scanpath is padding.

    Returns:
        (B,) float64 mean over fixations; NaN for a trial without any. Differentiable in `saliency`.

    Raises:
        InputError: Shapes do not fit, a valid fixation lies outside the map, or a map is not finite.

    """
    return mean_z_score(fixated(saliency, xy_px, valid))


def mean_z_score(seen: Fixated, transform: Callable[[Tensor], Tensor] | None = None) -> Tensor:
    """(B,) mean of the standardised values at the fixations, after an elementwise `transform`."""
    per_map = []
    n_rows = compiled.ROWS_AT_ONCE if transform is None and compiled.usable(seen.maps) else None
    for rows, chunk in seen.chunks(n_rows):
        if chunk is None:  # any finite moments will do: no valid fixation reads them
            per_map.append(seen.maps.new_ones(rows.stop - rows.start, 3, dtype=torch.float64))
            continue
        mean, variance, varied = moments(chunk, transform)
        seen.raise_for(rows, ~variance.detach().isfinite(), "the map holds NaN or infinity")
        per_map.append(torch.stack([mean, variance.sqrt(), varied.double()], -1))
    mean, sd, varied = torch.cat(per_map)[..., None].unbind(1)
    values = seen.values().double()
    return seen.trial_mean(((values if transform is None else transform(values)) - mean) / sd * varied)


class NSS(MeanOverTrials):
    """Mean :func:`nss` over trials, leaving out trials without a fixation."""

    is_differentiable, higher_is_better = True, True

    def update(self, saliency: Tensor, xy_px: Tensor, valid: Tensor) -> None:
        self.add(nss(saliency, xy_px, valid))
