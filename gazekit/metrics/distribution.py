"""Comparisons of a predicted map with an empirical fixation density: CC, SIM and KL divergence.

Definitions as in pysaliency 0.2.22 and the Tuebingen benchmark; for SIM and KLD both maps are turned into
densities by the rule of :func:`gazekit.density.to_density`, block by block.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from gazekit.errors import InputError
from gazekit.metrics import compiled
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
    return _compare(predicted, empirical, _CC)


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
    return _compare(predicted, empirical, _SIM)


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
    return _compare(predicted, empirical, _KLD_MIT if regularization == "mit" else _KLD_FLOOR)


class _Affine(NamedTuple):
    """What maps become before they are compared: x -> (x - shift) * scale + offset, each (b, 1)."""

    shift: Tensor | None  # None for 0
    scale: Tensor
    offset: Tensor | None  # None for 0
    finite: Tensor  # (b,) bool: neither NaN nor infinity in the map

    def blocks(self, x: Tensor, n_rows: int) -> Iterator[Tensor]:
        for block in blocks(x, n_rows):
            scaled = (block if self.shift is None else block - self.shift) * self.scale
            yield scaled if self.offset is None else scaled + self.offset


class _Comparison(NamedTuple):
    """Two maps are prepared, and a term of them is summed over the pixels: block by block, or by compiled passes."""

    prepare: Callable[[Tensor], _Affine]
    term: Callable[[Tensor, Tensor], Tensor]
    prepare_row: Callable[[compiled.Floats], compiled.Affine]
    sum_rows: Callable[[compiled.Floats, compiled.Floats, compiled.Affine, compiled.Affine], float]


def _compare(predicted: Tensor, empirical: Tensor, comparison: _Comparison) -> Tensor:
    """(B,) scores; a map that all trials share is prepared once."""
    if predicted.ndim != 3 or predicted.shape != empirical.shape:
        raise InputError(
            f"predicted and empirical must both be (B, H, W); got {tuple(predicted.shape)} and "
            f"{tuple(empirical.shape)}: resize the prediction, and expand a map that serves all trials"
        )
    n_trials = len(predicted)
    if is_shared(predicted) and is_shared(empirical):
        predicted, empirical = predicted[:1], empirical[:1]
    score = _by_rows if compiled.usable(predicted, empirical) else _by_blocks
    return score(predicted, empirical, comparison).expand(n_trials)


def _by_blocks(predicted: Tensor, empirical: Tensor, comparison: _Comparison) -> Tensor:
    scores: list[Tensor] = []
    sides = (_pieces(maps, comparison.prepare) for maps in (predicted, empirical))
    for (p, p_finite), (q, _) in zip(*sides, strict=False):
        _check_finite(p_finite.tolist(), sum(map(len, scores)))
        scores.append(block_sum(map(comparison.term, p, q)))  # NaN by itself where the empirical map is not finite
    return torch.cat(scores)


def _by_rows(predicted: Tensor, empirical: Tensor, comparison: _Comparison) -> Tensor:
    """Map by map, so that it stays in the cache from one pass over it to the next."""
    shared = [
        comparison.prepare_row(compiled.rows(maps[:1].flatten(1))[0]) if is_shared(maps) else None
        for maps in (predicted, empirical)
    ]
    sides = [
        compiled.rows(maps[:1].flatten(1)) * len(maps) if is_shared(maps) else compiled.rows(maps.flatten(1))
        for maps in (predicted, empirical)
    ]

    def score(pair: tuple[compiled.Floats, compiled.Floats]) -> tuple[float, bool]:
        to_p, to_q = (
            comparison.prepare_row(x) if known is None else known for x, known in zip(pair, shared, strict=True)
        )
        # NaN by itself where the empirical map is not finite.
        return comparison.sum_rows(*pair, to_p, to_q), math.isfinite(to_p[0])

    scores = [score(pair) for pair in zip(*sides, strict=True)]
    _check_finite([finite for _, finite in scores], 0)
    return torch.tensor([value for value, _ in scores], dtype=torch.float64)


def _check_finite(finite: list[bool], first: int) -> None:
    if not all(finite):
        raise InputError(f"predicted map of trial {first + finite.index(False)} holds NaN or infinity")


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
    lowest = block_min(blocks(x))[:, None]
    # NaN is not positive either.
    low = None if (lowest.detach() >= 0).all() else lowest.clamp(max=0.0)
    mass = block_sum(blocks(x) if low is None else (block - low for block in blocks(x)))[:, None]
    mass = mass + floor * x.shape[1]
    empty = mass == 0  # becomes uniform
    scale = mass.where(~empty, torch.ones_like(mass)).reciprocal()
    offset = (floor * scale).masked_fill(empty, 1.0 / x.shape[1]) if floor or empty.any() else None
    return _Affine(low, scale, offset, mass.detach().isfinite()[:, 0])


def _standard_row(x: compiled.Floats) -> compiled.Affine:
    """:func:`_standard` of one map; the shift is not finite where the map is not."""
    mean, variance = compiled.moments(x)
    shift = mean if math.isfinite(variance) else math.nan
    varied = variance > 0 and (variance > (1e-9 * mean) ** 2 or bool(x.min() < x.max()))
    return shift, (variance * len(x)) ** -0.5 if varied else math.nan, 0.0


def _density_row(x: compiled.Floats, floor: float = 0.0) -> compiled.Affine:
    """:func:`_density` of one map; the shift is not finite where the map is not."""
    low = min(float(x.min()), 0.0)
    mass = compiled.total(x, low) + floor * len(x)
    if not math.isfinite(mass):
        return math.nan, math.nan, math.nan
    return (low, 1.0 / mass, floor / mass) if mass else (low, 1.0, 1.0 / len(x))


def _mit_divergence(p: Tensor, q: Tensor) -> Tensor:
    return q * log(q / (p + _MIT_EPSILON) + _MIT_EPSILON)


def _divergence(p: Tensor, q: Tensor) -> Tensor:
    return q * log(q / p)


_CC = _Comparison(_standard, torch.mul, _standard_row, compiled.product_sum)
_SIM = _Comparison(_density, torch.minimum, _density_row, compiled.least_sum)
_KLD_MIT = _Comparison(
    _density, _mit_divergence, _density_row, partial(compiled.divergence, epsilon=_MIT_EPSILON)
)  # fmt: skip
_KLD_FLOOR = _Comparison(
    partial(_density, floor=_FLOOR), _divergence, partial(_density_row, floor=_FLOOR),
    partial(compiled.divergence, epsilon=0.0),
)  # fmt: skip


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
