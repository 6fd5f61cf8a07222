"""Saccade amplitudes and directions of a population, and how far those of a model are from people's.

Scores of two samples of saccades, not of pairs of scanpaths: pool the saccades of many trials first.
Directions run counterclockwise as they are seen: 0 is rightwards, 90 degrees is up (y grows downwards).

Distances: Jensen-Shannon divergence of histograms, in bits (Lin 1991); Wasserstein-1 without bins, for
directions on the circle (Rabin, Delon & Gousseau 2011), where the way around may be the shorter one.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from gazekit.errors import InputError
from gazekit.metrics.search import check_scanpaths

_FULL_TURN_DEG = 360.0


class Saccades(NamedTuple):
    """Saccades of many trials, pooled; the three may differ in length.

    Args:
        amplitude_dva: (n,) degrees of visual angle.
        direction_deg: (k,) in (-180, 180], 0 rightwards and 90 up; saccades of no length have none.
        turn_deg: (m,) relative angle: direction less that of the saccade before, in [-180, 180), 0 straight on
            (forward), -180 back (return).

    """

    amplitude_dva: Tensor
    direction_deg: Tensor
    turn_deg: Tensor


def saccades(xy_px: Tensor, valid: Tensor, *, px_per_dva: float | Tensor, skip_first_saccade: bool = False) -> Saccades:
    """Amplitudes, directions and turns between successive fixations.

    Args:
        xy_px: (B, T, 2) fixations as (x, y) px.
        valid: (B, T) bool, fixations first, then padding.
        px_per_dva: Pixels per degree of visual angle, of all trials or (B,).
        skip_first_saccade: Leave out the saccade that starts from a first fixation forced by the design.

    Raises:
        InputError: Shapes or types do not fit, padding is not on the right, a fixation is not finite, or
            `px_per_dva` is not positive.

    """
    xy_px = check_scanpaths(xy_px, valid)
    scale = torch.as_tensor(px_per_dva, device=xy_px.device, dtype=xy_px.dtype)
    if scale.shape not in ((), valid.shape[:1]) or not ((scale > 0) & scale.isfinite()).all():
        raise InputError(
            f"px_per_dva must be positive, for all or for each of {len(valid)} trials; got {scale.tolist()}"
        )
    if skip_first_saccade:
        xy_px, valid = xy_px[:, 1:], valid[:, 1:]
    if valid.shape[1] < 2:
        return Saccades(*(xy_px.new_zeros(0) for _ in range(3)))
    dx, down = xy_px.diff(dim=1).unbind(-1)
    valid = valid[:, 1:]
    amplitude = torch.hypot(dx, down) / scale.reshape(-1, 1)
    direction = torch.rad2deg(torch.atan2(0.0 - down, dx))  # not -0.0: leftwards is 180, never -180
    moved = valid & (amplitude > 0)
    turn = (direction.diff(dim=1) + 180.0).remainder(_FULL_TURN_DEG) - 180.0
    return Saccades(amplitude[valid], direction[moved], turn[moved[:, 1:] & moved[:, :-1]])


def amplitude_histogram(amplitude_dva: Tensor, *, bin_dva: float = 0.5, max_dva: float = 30.0) -> Tensor:
    """Counts of amplitudes in bins of `bin_dva` up to `max_dva`; whatever is larger goes to the last bin.

    Args:
        amplitude_dva: (n,) of 0 or more.
        bin_dva: Width; lower edges belong to the bin.
        max_dva: Upper edge of the last bin.

    Returns:
        (number of bins,) long.

    Raises:
        InputError: An amplitude is negative or not finite, or `max_dva` is not a multiple of `bin_dva`.

    """
    n_bins = _n_bins(bin_dva, max_dva)
    _check_sample(amplitude_dva, "amplitude_dva")
    if (amplitude_dva < 0).any():
        raise InputError(f"amplitudes are 0 or more; got {amplitude_dva.min().item():g}")
    edges = torch.arange(1, n_bins, device=amplitude_dva.device, dtype=torch.float64) * max_dva / n_bins
    return torch.bucketize(amplitude_dva.double(), edges, right=True).bincount(minlength=n_bins)


def direction_histogram(direction_deg: Tensor, *, n_bins: int = 36) -> Tensor:
    """Counts of directions or turns in `n_bins` bins around the circle, the first one centered on 0.

    Bins are centered on the cardinal directions since many saccades are purely horizontal or vertical:
    an edge there would hand them to either side by rounding.

    Args:
        direction_deg: (n,) of any range.
        n_bins: At least 2.

    Returns:
        (n_bins,) long.

    Raises:
        InputError: A direction is not finite, or `n_bins` is too small.

    """
    if n_bins < 2:
        raise InputError(f"n_bins must be 2 or more; got {n_bins}")
    _check_sample(direction_deg, "direction_deg")
    turns = direction_deg.double().remainder(_FULL_TURN_DEG) * (n_bins / _FULL_TURN_DEG)
    return ((turns + 0.5).floor().long() % n_bins).bincount(minlength=n_bins)


def js_divergence(counts_a: Tensor, counts_b: Tensor, *, smoothing: float = 1e-9) -> Tensor:
    """Jensen-Shannon divergence of two histograms, in bits; lower is better.

    Range [0, 1]: 0 for equal distributions, 1 for disjoint ones (up to the smoothing). Symmetric. Small
    samples of one population differ too: compare with two halves of the human data.

    Args:
        counts_a: (..., K) of 0 or more.
        counts_b: (..., K), in the same bins.
        smoothing: Added to every probability of both, which are then normalised again.

    Returns:
        (...) float64; NaN where a histogram is empty.

    Raises:
        InputError: Numbers of bins differ, a count is negative, or `smoothing` is.

    """
    if counts_a.shape[-1:] != counts_b.shape[-1:] or not smoothing >= 0:
        raise InputError(
            f"histograms of {tuple(counts_a.shape)} and {tuple(counts_b.shape)} bins with smoothing {smoothing}; "
            f"use the same bins and a smoothing of 0 or more"
        )
    densities = []
    for counts in (counts_a.double(), counts_b.double()):
        if (counts < 0).any():
            raise InputError("a histogram holds a negative count")
        smooth = counts / counts.sum(-1, keepdim=True) + smoothing
        densities.append(smooth / smooth.sum(-1, keepdim=True))
    p, q = densities
    middle = (p + q) / 2
    divergence = torch.xlogy(p, p) + torch.xlogy(q, q) - 2 * torch.xlogy(middle, middle)
    return (divergence.sum(-1) / (2 * math.log(2))).clamp(min=0.0)


def wasserstein(a: Tensor, b: Tensor) -> Tensor:
    """Wasserstein-1 distance of two samples: the mean shift that turns one into the other; lower is better.

    In the unit of the samples, range [0, inf), symmetric. For amplitudes; :func:`circular_wasserstein_deg` is
    the one for directions.

    Args:
        a: (n,) finite values.
        b: (m,) finite values.

    Returns:
        () float64; NaN if either is empty.

    Raises:
        InputError: A sample is not 1-D or not finite.

    """
    _check_sample(a, "a")
    _check_sample(b, "b")
    if len(a) == 0 or len(b) == 0:
        return a.new_tensor(torch.nan, dtype=torch.float64)
    places, gap = _cdf_gap(a.double(), b.double())
    return (gap[:-1].abs() * places.diff()).sum()


def circular_wasserstein_deg(a_deg: Tensor, b_deg: Tensor) -> Tensor:
    """Wasserstein-1 distance of two samples of directions on the circle, in degrees; lower is better.

    Range [0, 180], symmetric, unchanged when both turn together.

    Args:
        a_deg: (n,) finite directions of any range.
        b_deg: (m,) finite directions.

    Returns:
        () float64; NaN if either is empty.

    Raises:
        InputError: A sample is not 1-D or not finite.

    """
    _check_sample(a_deg, "a_deg")
    _check_sample(b_deg, "b_deg")
    if len(a_deg) == 0 or len(b_deg) == 0:
        return a_deg.new_tensor(torch.nan, dtype=torch.float64)
    places, gap = _cdf_gap(*(sample.double().remainder(_FULL_TURN_DEG) for sample in (a_deg, b_deg)))
    width = torch.cat([places.diff(), places[:1] + _FULL_TURN_DEG - places[-1:]])
    # On the circle a constant flow all around is free to choose; the best is the weighted median of the gap.
    order = gap.argsort()
    flow = gap[order][
        torch.searchsorted(width[order].cumsum(0), width.new_tensor([_FULL_TURN_DEG / 2])).clamp(max=len(gap) - 1)
    ]
    return ((gap - flow).abs() * width).sum()


class _Samples(Metric):
    is_differentiable, higher_is_better, full_state_update = False, False, False

    def __init__(self, skip_first_saccade: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.skip_first_saccade = skip_first_saccade

    def _saccades(self, xy_px: Tensor, valid: Tensor, px_per_dva: float | Tensor) -> Saccades:
        return saccades(xy_px, valid, px_per_dva=px_per_dva, skip_first_saccade=self.skip_first_saccade)


class AmplitudeDivergence(_Samples):
    """:func:`js_divergence` of the amplitudes of a model and of people, in bits.

    Args:
        bin_dva: As in :func:`amplitude_histogram`.
        max_dva: As in :func:`amplitude_histogram`.
        smoothing: As in :func:`js_divergence`.
        kwargs: `skip_first_saccade` of :func:`saccades`; those of torchmetrics.

    """

    counts: Tensor

    def __init__(self, bin_dva: float = 0.5, max_dva: float = 30.0, smoothing: float = 1e-9, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.bin_dva, self.max_dva, self.smoothing = bin_dva, max_dva, smoothing
        # Row 0 is the model, row 1 the humans.
        counts = torch.zeros(2, _n_bins(bin_dva, max_dva), dtype=torch.long)
        self.add_state("counts", counts, dist_reduce_fx="sum")

    def update(self, xy_px: Tensor, valid: Tensor, *, px_per_dva: float | Tensor, human: bool) -> None:
        amplitude_dva = self._saccades(xy_px, valid, px_per_dva).amplitude_dva
        self.counts[int(human)] += amplitude_histogram(amplitude_dva, bin_dva=self.bin_dva, max_dva=self.max_dva)

    def compute(self) -> Tensor:
        return js_divergence(self.counts[0], self.counts[1], smoothing=self.smoothing)


class DirectionDivergence(_Samples):
    """:func:`js_divergence` of the directions of a model and of people, in bits.

    Args:
        n_bins: As in :func:`direction_histogram`.
        smoothing: As in :func:`js_divergence`.
        relative: Compare the turns between successive saccades instead of the directions.
        kwargs: `skip_first_saccade` of :func:`saccades`; those of torchmetrics.

    """

    counts: Tensor

    def __init__(self, n_bins: int = 36, smoothing: float = 1e-9, relative: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.n_bins, self.smoothing, self.relative = n_bins, smoothing, relative
        self.add_state("counts", torch.zeros(2, n_bins, dtype=torch.long), dist_reduce_fx="sum")

    def update(self, xy_px: Tensor, valid: Tensor, *, human: bool) -> None:
        found = self._saccades(xy_px, valid, 1.0)  # angles know no scale
        angle_deg = found.turn_deg if self.relative else found.direction_deg
        self.counts[int(human)] += direction_histogram(angle_deg, n_bins=self.n_bins)

    def compute(self) -> Tensor:
        return js_divergence(self.counts[0], self.counts[1], smoothing=self.smoothing)


class _KeptSamples(_Samples):
    """All values of a model and of people, float64 also where a process has none: it sends an empty list then."""

    model: list[Tensor]
    human: list[Tensor]

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("model", [], dist_reduce_fx="cat")
        self.add_state("human", [], dist_reduce_fx="cat")
        self.set_dtype(torch.float64)


class AmplitudeWasserstein(_KeptSamples):
    """:func:`wasserstein` of the amplitudes of a model and of people, in degrees of visual angle; keeps them all."""

    def update(self, xy_px: Tensor, valid: Tensor, *, px_per_dva: float | Tensor, human: bool) -> None:
        (self.human if human else self.model).append(self._saccades(xy_px, valid, px_per_dva).amplitude_dva)

    def compute(self) -> Tensor:
        return wasserstein(_pooled(self.model), _pooled(self.human))


class DirectionWasserstein(_KeptSamples):
    """:func:`circular_wasserstein_deg` of directions, or with `relative` of turns; keeps them all."""

    def __init__(self, relative: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.relative = relative

    def update(self, xy_px: Tensor, valid: Tensor, *, human: bool) -> None:
        found = self._saccades(xy_px, valid, 1.0)  # angles know no scale
        (self.human if human else self.model).append(found.turn_deg if self.relative else found.direction_deg)

    def compute(self) -> Tensor:
        return circular_wasserstein_deg(_pooled(self.model), _pooled(self.human))


def _pooled(samples: list[Tensor] | Tensor) -> Tensor:
    pooled: Tensor = dim_zero_cat(samples) if len(samples) else torch.zeros(0, dtype=torch.float64)
    return pooled


def _n_bins(bin_dva: float, max_dva: float) -> int:
    n_bins = round(max_dva / bin_dva) if bin_dva > 0 and math.isfinite(max_dva) else 0
    if n_bins < 1 or not math.isclose(n_bins * bin_dva, max_dva):
        raise InputError(f"max_dva must be a multiple of bin_dva; got {max_dva} and {bin_dva}")
    return n_bins


def _check_sample(sample: Tensor, name: str) -> None:
    if sample.ndim != 1:
        raise InputError(f"{name} must be a 1-D sample; got {tuple(sample.shape)}")
    if not sample.isfinite().all():
        raise InputError(f"{name} holds NaN or infinity at {int((~sample.isfinite()).nonzero()[0])}; leave them out")


def _cdf_gap(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Sorted values of both samples, and the cumulative share of `a` less that of `b` from each of them on."""
    places = torch.cat([a, b]).sort().values
    shares = [torch.searchsorted(s.sort().values, places, right=True).double() / len(s) for s in (a, b)]
    return places, shares[0] - shares[1]
