"""The map that a density model should be scored with, which differs from metric to metric.

Definition: Kuemmerer, Wallis & Bethge (2018), Saliency Benchmarking Made Easy (ECCV), as in section 3 there:
for each metric the map of highest expected score if fixations were drawn from the model's own density.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from gazekit.density import exp_shared, gaussian_operators
from gazekit.errors import InputError
from gazekit.metrics.fixated import is_shared
from gazekit.metrics.pixel_sums import block_sum, blocks, exp
from gazekit.registry import unknown_name

MapMetric = Literal["auc", "auc_judd", "sauc", "nss", "cc", "kld", "sim"]

# As for the information metrics: rounding of a float32 log_softmax is far below, other maps are far above.
_SUM_TOLERANCE = 1e-3
# Values of sampled densities held at a time (32 MB, of which two copies exist), and made at a time.
_CHUNK, _IN_CACHE = 2**23, 2**17


def saliency_map_for(
    metric: MapMetric,
    log_density: Tensor,
    centerbias: Tensor | None = None,
    sigma_px: float | None = None,
    *,
    n_fixations: int | None = None,
    n_samples: int = 200,
    generator: torch.Generator | None = None,
) -> Tensor:
    """The map to score with `metric`, for a model that predicts a density.

    - "nss", "auc", "auc_judd": the density itself. It is the best map for NSS, and for AUC with every pixel as
      a negative, where any increasing transform would do as well.
    - "sauc": the density divided by that of the negatives, `centerbias`; scaled to a maximum of 1.
    - "kld", "cc": the density blurred with the kernel of the empirical densities: their mean, which is the best map
      for KL divergence and close to the best for CC.
    - "sim": the density of highest mean SIM with `n_samples` sampled empirical densities of `n_fixations` each.
      SIM is concave and separable in the pixels, so instead of an ascent by gradient each pixel takes the same
      quantile of its sampled values, the one at which the map sums to one: exact for the sample. Samples are
      built twice and sorted per pixel: about 3 s for 200 samples of 100 fixations on 800 x 600 px.

    Args:
        metric: Name as in :data:`gazekit.metrics.METRICS`.
        log_density: (B, H, W) natural-log density over pixels, summing to one.
        centerbias: (B, H, W) natural-log density of the fixations on other images; for "sauc".
        sigma_px: SD of the Gaussian in the empirical densities; for "kld", "cc" and "sim".
        n_fixations: Fixations in each empirical density, of all subjects together; for "sim".
        n_samples: Sampled empirical densities; for "sim".
        generator: Source of the sampled fixations; for "sim". None for a new one on the CPU with seed 0.

    Returns:
        (B, H, W) map of the dtype of `log_density`; a density except for "sauc". Not differentiable for "sim".

    Raises:
        InputError: The metric has no such map, an argument that it needs is missing or not positive, shapes
            differ, or the exponentials of a log-density do not sum to one within 1e-3, or the center bias
            is -inf somewhere.

    """
    if metric not in get_args(MapMetric):
        if metric in ("ll", "ig"):
            raise InputError(f"{metric!r} scores the log-density itself, not a map made from it")
        raise unknown_name("map for the metric", metric, list(get_args(MapMetric)))
    _check(log_density, "log_density")
    if metric == "sauc":
        return _ratio(log_density, centerbias)
    if metric in ("auc", "auc_judd", "nss"):
        return exp_shared(log_density)
    if sigma_px is None or not 0 < sigma_px < math.inf:
        raise InputError(f"the map for {metric!r} needs sigma_px, that of the empirical densities; got {sigma_px}")
    one = log_density[:1] if is_shared(log_density) else log_density
    if metric != "sim":
        return _blurred(one, sigma_px).expand_as(log_density)
    for name, number in (("n_fixations", n_fixations), ("n_samples", n_samples)):
        if number is None or number < 1:
            raise InputError(f"the map for 'sim' needs {name}, at least 1; got {number}")
    assert n_fixations is not None
    source = torch.Generator().manual_seed(0) if generator is None else generator
    maps = [_best_for_sim(x, sigma_px, n_fixations, n_samples, source) for x in one.detach()]
    return (torch.stack(maps) if maps else one).expand_as(log_density)


def _check(log_density: Tensor, name: str) -> None:
    """Raise an InputError unless these are (B, H, W) log-densities."""
    if log_density.ndim != 3 or not log_density.is_floating_point():
        raise InputError(
            f"{name} must be (B, H, W) natural logs; got {log_density.dtype} of shape {tuple(log_density.shape)}"
        )
    for trial, x in enumerate(log_density[:1] if is_shared(log_density) else log_density):
        with np.errstate(over="ignore"):  # infinite is far from 1, too
            total = block_sum(exp(block) for block in blocks(x.detach().reshape(1, -1))).item()
        if not abs(total - 1.0) <= _SUM_TOLERANCE:  # NaN is not within
            raise InputError(
                f"{name} of trial {trial} is not a log-density: the exponentials of its pixels sum to {total:.6g}, "
                f"not 1; give natural logs and normalise them with gazekit.density.normalize_log_density"
            )


def _ratio(log_density: Tensor, centerbias: Tensor | None) -> Tensor:
    if centerbias is None:
        raise InputError("the map for 'sauc' needs centerbias, the log-density of fixations on other images")
    _check(centerbias, "centerbias")
    if centerbias.shape != log_density.shape:
        raise InputError(
            f"log_density is {tuple(log_density.shape)} but centerbias {tuple(centerbias.shape)}; bring it to the "
            f"same grid with gazekit.density.resize_log_density, and expand one that serves all trials"
        )
    if centerbias.isinf().any():
        raise InputError("centerbias is -inf somewhere: no ratio to it is defined; mix it with a uniform density first")
    shared = is_shared(log_density) and is_shared(centerbias)
    ratio = log_density[:1] - centerbias[:1] if shared else log_density - centerbias
    # AUC asks for the order only, and the largest ratio might not be a number of this dtype.
    return (ratio - ratio.amax((-2, -1), keepdim=True)).exp().to(log_density.dtype).expand_as(log_density)


def _blurred(log_density: Tensor, sigma_px: float) -> Tensor:
    """(B, H, W) density filtered as :func:`gazekit.density.fixation_density` filters fixations."""
    height, width = log_density.shape[-2:]
    gy, gx = gaussian_operators((width, height), sigma_px, like=log_density.new_empty(0, dtype=torch.float64))
    smooth = gy @ log_density.double().exp() @ gx.T
    return (smooth / smooth.sum((-2, -1), keepdim=True)).to(log_density.dtype)


def _best_for_sim(
    log_density: Tensor, sigma_px: float, n_fixations: int, n_samples: int, source: torch.Generator
) -> Tensor:
    """(H, W) density of highest mean SIM with sampled empirical densities.

    The derivative of the mean SIM by a pixel's value is the share of samples above that value. At the best
    density it is the same for all pixels: each lies between the k-th and the next of its ordered samples, for
    the one k where the sum over pixels passes one.
    """
    sampled = _SampledDensities(log_density, sigma_px, n_fixations, n_samples, source)
    masses = torch.zeros(n_samples + 1, dtype=torch.float64, device=log_density.device)
    for rows in sampled.bands():
        masses[1:] += sampled.ordered(rows).sum((0, 1), dtype=torch.float64)
    # The sums average one, so the last is at least one.
    k = int((masses[1:-1] <= 1.0).sum())
    share = (1.0 - masses[k]) / (masses[k + 1] - masses[k]).clamp(min=torch.finfo(masses.dtype).tiny)
    share = share.clamp(0.0, 1.0)  # equal samples leave rounding over rounding
    best = torch.empty_like(log_density, dtype=torch.float64)
    for rows in sampled.bands():
        ordered = sampled.ordered(rows).double()
        lower = ordered[..., k - 1] if k else 0.0
        best[rows] = lower + share * (ordered[..., k] - lower)
    return (best / best.sum()).to(log_density.dtype)


class _SampledDensities:
    """Empirical densities of fixations drawn from a density, in horizontal bands that fit in memory.

    In single precision, as :func:`gazekit.density.fixation_density` can be: far below what sampling loses.
    """

    def __init__(
        self, log_density: Tensor, sigma_px: float, n_fixations: int, n_samples: int, source: torch.Generator
    ) -> None:
        self.height, self.width = log_density.shape
        like = log_density.new_empty(0, dtype=torch.float64)
        gy, gx = gaussian_operators((self.width, self.height), sigma_px, like=like)
        cumulative = log_density.double().exp().flatten().cumsum(0)
        uniform = torch.rand(n_samples, n_fixations, generator=source, device=source.device, dtype=torch.float64)
        place = torch.searchsorted(cumulative, uniform.to(cumulative.device) * cumulative[-1], right=True)
        place = place.clamp(max=cumulative.numel() - 1)
        self.row, self.column = place // self.width, place % self.width
        self.total = (gy.sum(0)[self.row] * gx.sum(0)[self.column]).sum(-1).float()[:, None, None]
        self.from_row, self.to_column = gy.float(), gx.T.float().contiguous()

    def bands(self) -> list[slice]:
        height = max(1, _CHUNK // (len(self.row) * self.width))
        return [slice(top, top + height) for top in range(0, self.height, height)]

    def ordered(self, rows: slice) -> Tensor:
        """(h, W, n_samples) values in these rows, each pixel's in ascending order."""
        to_row, n_samples = self.from_row[rows].T.contiguous(), len(self.row)
        values = to_row.new_empty(n_samples, to_row.shape[1], self.width)
        step = max(1, _IN_CACHE // (self.row.shape[1] * self.width))
        for some in (slice(i, i + step) for i in range(0, n_samples, step)):
            weights = to_row[self.row[some]] / self.total[some]
            torch.bmm(weights.mT, self.to_column[self.column[some]], out=values[some])
        values = values.permute(1, 2, 0).contiguous()
        # NumPy's sort is several times faster than PyTorch's on a CPU.
        return values.sort(-1).values if values.is_cuda else torch.from_numpy(np.sort(values.numpy(), axis=-1))
