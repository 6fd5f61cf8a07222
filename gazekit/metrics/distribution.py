"""Comparisons of a predicted map with an empirical fixation density: CC, SIM and KL divergence.

Definitions as in pysaliency 0.2.22 and the Tuebingen benchmark; for SIM and KLD both maps are turned into
densities by the rule of :func:`gazekit.density.to_density`, block by block.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from gazekit.errors import InputError
from gazekit.metrics.fixated import is_shared, rows_per_chunk
from gazekit.metrics.mean_over_trials import MeanOverTrials
from gazekit.metrics.pixel_sums import block_min, block_sum, blocks, log, moments

Regularization = Literal["mit", "floor"]

# The MIT code's eps, as the benchmark writes it (close to, but not, 2**-52).
_MIT_EPSILON = 2.2204e-16
# pysaliency's default `minimum_value`.
_FLOOR = 1e-20


def cc(predicted: Tensor, empirical: Tensor) -> Tensor:
    """Pearson correlation (CC) of the pixels per trial; in [-1, 1], chance is 0, higher is better.

    Symmetric, and unchanged by positive affine rescaling of either map.

    Args:
        predicted: (B, H, W) predicted map, on any affine scale.
        empirical: (B, H, W) empirical fixation density, on any affine scale.

    Returns:
        (B,) float64; NaN where either map is constant (pysaliency gives 0 for a constant prediction) or
        the empirical one is not finite, as for a trial without fixations. Differentiable.

    Raises:
        InputError: The shapes differ, or a predicted map is not finite.

    """
    return _compare(predicted, empirical, _standard, torch.mul)


def sim(predicted: Tensor, empirical: Tensor) -> Tensor:
    """Similarity (SIM) per trial, the mass that two densities share; in [0, 1], higher is better.

    Symmetric; 1 only for equal densities. Chance depends on the densities.

    Args:
        predicted: (B, H, W) predicted map; made a density.
        empirical: (B, H, W) empirical fixation density; normalised again.

    Returns:
        (B,) float64; NaN where the empirical map is not finite, as for a trial without fixations.
        Differentiable almost everywhere.

    Raises:
        InputError: The shapes differ, or a predicted map is not finite.

    """
    return _compare(predicted, empirical, _density, torch.minimum)


def kld(predicted: Tensor, empirical: Tensor, regularization: Regularization = "mit") -> Tensor:
    """KL divergence of the prediction from the empirical density per trial, in nats; lower is better.

    The sum over pixels of q log(q / p) with q the empirical and p the predicted density: at least 0 (up to
    the regularization), 0 for equal densities, not symmetric. Chance depends on the densities.

    Args:
        predicted: (B, H, W) predicted map; made a density.
        empirical: (B, H, W) empirical fixation density; normalised again.
        regularization: "mit" for q log(eps + q / (p + eps)) with eps = 2.2204e-16, as in benchmark tables;
            "floor" for pysaliency's default of 1e-20 added to both maps before they are normalised. Where
            the prediction has zeros the two differ by much.

    Returns:
        (B,) float64 nats; NaN where the empirical map is not finite, as for a trial without fixations.
        Differentiable.

    Raises:
        InputError: The shapes differ, a predicted map is not finite, or the regularization is unknown.

    """
    _check_regularization(regularization)
    if regularization == "mit":
        return _compare(predicted, empirical, _density, _mit_divergence)
    return _compare(predicted, empirical, partial(_density, floor=_FLOOR), _divergence)


class _Affine(NamedTuple):
    """What a map becomes before it is compared: x -> (x - shift) * scale + offset, each (b, 1)."""

    shift: Tensor | None  # None for 0
    scale: Tensor
    offset: Tensor | None  # None for 0
    finite: Tensor  # (b,) bool: neither NaN nor infinity in the map

    def blocks(self, x: Tensor, n_rows: int) -> Iterator[Tensor]:
        for block in blocks(x, n_rows):
            scaled = (block if self.shift is None else block - self.shift) * self.scale
            yield scaled if self.offset is None else scaled + self.offset


def _compare(
    predicted: Tensor,
    empirical: Tensor,
    prepare: Callable[[Tensor], _Affine],
    term: Callable[[Tensor, Tensor], Tensor],
) -> Tensor:
    """(B,) sums over pixels of a term of the two prepared maps; a shared map is prepared once."""
    if predicted.ndim != 3 or predicted.shape != empirical.shape:
        raise InputError(
            f"predicted and empirical must both be (B, H, W); got {tuple(predicted.shape)} and "
            f"{tuple(empirical.shape)}: resize the prediction, and expand a map that serves all trials"
        )
    n_trials = len(predicted)
    if is_shared(predicted) and is_shared(empirical):
        predicted, empirical = predicted[:1], empirical[:1]
    scores: list[Tensor] = []
    for (p, p_finite), (q, _) in zip(_pieces(predicted, prepare), _pieces(empirical, prepare), strict=False):
        if not p_finite.all():
            trial = sum(map(len, scores)) + int((~p_finite).nonzero()[0])
            raise InputError(f"predicted map of trial {trial} holds NaN or infinity")
        scores.append(block_sum(map(term, p, q)))  # NaN by itself where the empirical map is not finite
    return torch.cat(scores).expand(n_trials)


def _pieces(maps: Tensor, prepare: Callable[[Tensor], _Affine]) -> Iterator[tuple[Iterable[Tensor], Tensor]]:
    """For some maps at a time their prepared blocks, and which are finite; a shared map repeats without end."""
    shared = is_shared(maps)
    # The same for both maps of a comparison, shared or not, so that their blocks match.
    n_rows = rows_per_chunk(maps)
    for chunk in (maps[:1],) if shared else maps.split(n_rows):
        x = chunk.flatten(1)
        affine = prepare(x)
        if shared:
            yield from itertools.repeat((list(affine.blocks(x, n_rows)), affine.finite))
        yield affine.blocks(x, n_rows), affine.finite


def _standard(x: Tensor) -> _Affine:
    """Mean 0 and length 1, so that a product is a correlation; NaN where constant."""
    mean, variance, varied = moments(x)
    scale = (variance * x.shape[1]).rsqrt().masked_fill(~varied, torch.nan)[:, None]
    return _Affine(mean[:, None], scale, None, variance.detach().isfinite())


def _density(x: Tensor, floor: float = 0.0) -> _Affine:
    """:func:`gazekit.density.to_density` of the map, after adding a floor to it."""
    least = block_min(blocks(x))[:, None]
    # NaN is not positive either.
    low = None if (least.detach() >= 0).all() else least.clamp(max=0.0)
    total = block_sum(blocks(x) if low is None else (block - low for block in blocks(x)))[:, None]
    total = total + floor * x.shape[1]
    empty = total == 0  # becomes uniform
    scale = total.where(~empty, torch.ones_like(total)).reciprocal()
    offset = (floor * scale).masked_fill(empty, 1.0 / x.shape[1]) if floor or empty.any() else None
    return _Affine(low, scale, offset, total.detach().isfinite()[:, 0])


def _mit_divergence(p: Tensor, q: Tensor) -> Tensor:
    return q * log(q / (p + _MIT_EPSILON) + _MIT_EPSILON)


def _divergence(p: Tensor, q: Tensor) -> Tensor:
    return q * log(q / p)


def _check_regularization(regularization: str) -> None:
    if regularization not in get_args(Regularization):
        raise InputError(f"regularization must be one of {get_args(Regularization)}; got {regularization!r}")


class CC(MeanOverTrials):
    """Mean :func:`cc` over trials, leaving out those with a constant map."""

    is_differentiable, higher_is_better = True, True

    def update(self, predicted: Tensor, empirical: Tensor) -> None:
        self.add(cc(predicted, empirical))


class SIM(MeanOverTrials):
    """Mean :func:`sim` over trials."""

    is_differentiable, higher_is_better = True, True

    def update(self, predicted: Tensor, empirical: Tensor) -> None:
        self.add(sim(predicted, empirical))


class KLD(MeanOverTrials):
    """Mean :func:`kld` over trials, in nats."""

    is_differentiable, higher_is_better = True, False

    def __init__(self, regularization: Regularization = "mit", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        _check_regularization(regularization)
        self.regularization = regularization

    def update(self, predicted: Tensor, empirical: Tensor) -> None:
        self.add(kld(predicted, empirical, self.regularization))
