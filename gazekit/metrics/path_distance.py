"""Geometric distances of two scanpaths: DTW, Frechet, Hausdorff, Euclidean, Eyenalysis, Mannan.

All take P right-padded pairs, see :func:`~gazekit.metrics.path_pairs.check_pairs`, need one fixation on each side
(NaN otherwise), never use durations, and keep fixations outside the picture. Lower is better, 0 is best and chance
depends on data and screen, except for :func:`mannan_similarity`.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, Literal

import torch
from torch import Tensor

from gazekit.errors import InputError
from gazekit.metrics.mean_over_trials import MeanOverTrials
from gazekit.metrics.path_pairs import PathPairs, align, align_counted, check_pairs, distances, prefix

# Cells of the distance tables between random paths that are worked on at a time.
_RANDOM_CELLS = 2**20


def dtw(a_px: Tensor, a_valid: Tensor, b_px: Tensor, b_valid: Tensor, *, normalize: bool = False) -> Tensor:
    """(P,) dynamic time warping distance in px: the cheapest monotone alignment, summed.

    An alignment starts at both first and ends at both last fixations, moves on along either path or both, and pays
    the Euclidean distance of each aligned pair. Range [0, inf), symmetric; as a sum it grows with length.

    Args:
        a_px: (P, N, 2) fixations as (x, y) px.
        a_valid: (P, N) bool, True ... True False ... False.
        b_px: (P, M, 2).
        b_valid: (P, M) bool.
        normalize: Divide by the number of aligned pairs; where several alignments cost the same, by the fewest.

    Returns:
        (P,); NaN where a path is empty.

    Raises:
        InputError: See :func:`~gazekit.metrics.path_pairs.check_pairs`.

    """

    def score(part: PathPairs) -> Tensor:
        if not normalize:
            return align(part.distances(), part.n, part.m)
        total, cells = align_counted(part.distances(), part.n, part.m)
        return total / cells

    return check_pairs(a_px, a_valid, b_px, b_valid).map(score)


def discrete_frechet(a_px: Tensor, a_valid: Tensor, b_px: Tensor, b_valid: Tensor) -> Tensor:
    """(P,) discrete Frechet distance in px: as :func:`dtw`, with the largest distance in place of the sum.

    Definition: Eiter & Mannila (1994), TR CD-TR 94/64, TU Wien. Range [0, inf), symmetric.

    Args:
        a_px: (P, N, 2) fixations as (x, y) px.
        a_valid: (P, N) bool, True ... True False ... False.
        b_px: (P, M, 2).
        b_valid: (P, M) bool.

    Returns:
        (P,); NaN where a path is empty.

    Raises:
        InputError: See :func:`~gazekit.metrics.path_pairs.check_pairs`.

    """
    pairs = check_pairs(a_px, a_valid, b_px, b_valid)
    return pairs.map(lambda part: align(part.distances(), part.n, part.m, "max"))


def directed_hausdorff(a_px: Tensor, a_valid: Tensor, b_px: Tensor, b_valid: Tensor) -> Tensor:
    """(P,) px from the fixation of `a` that is farthest from `b` to the nearest one of `b`.

    Range [0, inf); blind to order; not symmetric: what `b` visits beyond `a` does not count.

    Args:
        a_px: (P, N, 2) fixations as (x, y) px.
        a_valid: (P, N) bool, True ... True False ... False.
        b_px: (P, M, 2).
        b_valid: (P, M) bool.

    Returns:
        (P,); NaN where a path is empty.

    Raises:
        InputError: See :func:`~gazekit.metrics.path_pairs.check_pairs`.

    """

    def score(part: PathPairs) -> Tensor:
        return _where_both(part, _nearest(part)[0].amax(1))

    return check_pairs(a_px, a_valid, b_px, b_valid).map(score)


def hausdorff(a_px: Tensor, a_valid: Tensor, b_px: Tensor, b_valid: Tensor) -> Tensor:
    """(P,) Hausdorff distance in px: the larger :func:`directed_hausdorff` of the two directions.

    Range [0, inf); blind to order; symmetric.

    Args:
        a_px: (P, N, 2) fixations as (x, y) px.
        a_valid: (P, N) bool, True ... True False ... False.
        b_px: (P, M, 2).
        b_valid: (P, M) bool.

    Returns:
        (P,); NaN where a path is empty.

    Raises:
        InputError: See :func:`~gazekit.metrics.path_pairs.check_pairs`.

    """

    def score(part: PathPairs) -> Tensor:
        to_b, to_a = _nearest(part)
        return _where_both(part, torch.maximum(to_b.amax(1), to_a.amax(1)))

    return check_pairs(a_px, a_valid, b_px, b_valid).map(score)


def euclidean(
    a_px: Tensor,
    a_valid: Tensor,
    b_px: Tensor,
    b_valid: Tensor,
    *,
    unequal: Literal["truncate", "resample"] = "truncate",
) -> Tensor:
    """(P,) mean distance in px between fixations of the same rank.

    Range [0, inf), symmetric.

    Args:
        a_px: (P, N, 2) fixations as (x, y) px.
        a_valid: (P, N) bool, True ... True False ... False.
        b_px: (P, M, 2).
        b_valid: (P, M) bool.
        unequal: Paths of different lengths: "truncate" the longer one, or "resample" the shorter one to as many
            points, by linear interpolation at equal steps of the index (a single fixation is repeated).

    Returns:
        (P,); NaN where a path is empty.

    Raises:
        InputError: `unequal` is unknown; see :func:`~gazekit.metrics.path_pairs.check_pairs`.

    """
    if unequal not in ("truncate", "resample"):
        raise InputError(f"unequal must be 'truncate' or 'resample'; got {unequal!r}")

    def score(part: PathPairs) -> Tensor:
        length = torch.minimum(part.n, part.m) if unequal == "truncate" else torch.maximum(part.n, part.m)
        size = max(part.a_px.shape[1], part.b_px.shape[1])
        a, b = (_resampled(*side, length, size, unequal) for side in ((part.a_px, part.n), (part.b_px, part.m)))
        apart = (a - b).square().sum(-1).sqrt()
        return _where_both(part, (apart * prefix(length, size)).sum(1) / length)

    return check_pairs(a_px, a_valid, b_px, b_valid).map(score)


def eyenalysis(
    a_px: Tensor, a_valid: Tensor, b_px: Tensor, b_valid: Tensor, *, normalize: Literal["max", "sum"] = "max"
) -> Tensor:
    """(P,) Eyenalysis distance in px: every fixation to the nearest one of the other path, both ways.

    Definition: Mathot, Cristino, Gilchrist & Theeuwes (2012), Journal of Eye Movement Research 5(1):4, here for
    positions alone. Range [0, inf); blind to order; symmetric.

    Args:
        a_px: (P, N, 2) fixations as (x, y) px.
        a_valid: (P, N) bool, True ... True False ... False.
        b_px: (P, M, 2).
        b_valid: (P, M) bool.
        normalize: What the n + m distances are divided by: "max", the larger of n and m (as published), or
            "sum", n + m, which makes it a mean.

    Returns:
        (P,); NaN where a path is empty.

    Raises:
        InputError: `normalize` is unknown; see :func:`~gazekit.metrics.path_pairs.check_pairs`.

    """
    if normalize not in ("max", "sum"):
        raise InputError(f"normalize must be 'max' or 'sum'; got {normalize!r}")

    def score(part: PathPairs) -> Tensor:
        to_b, to_a = _nearest(part)
        number = torch.maximum(part.n, part.m) if normalize == "max" else part.n + part.m
        return _where_both(part, (to_b.sum(1) + to_a.sum(1)) / number)

    return check_pairs(a_px, a_valid, b_px, b_valid).map(score)


def mannan_distance(
    a_px: Tensor, a_valid: Tensor, b_px: Tensor, b_valid: Tensor, *, size_wh_px: tuple[float, float]
) -> Tensor:
    """(P,) Mannan distance: root mean square distance to the nearest fixation, relative to the image's diagonal.

    Definition: Mannan, Ruddock & Wooding (1995), Spatial Vision 9, 363-386; either path weighs the same.
    Range [0, 1] inside the image; blind to order; symmetric.

    Args:
        a_px: (P, N, 2) fixations as (x, y) px.
        a_valid: (P, N) bool, True ... True False ... False.
        b_px: (P, M, 2).
        b_valid: (P, M) bool.
        size_wh_px: Width and height of the image.

    Returns:
        (P,); NaN where a path is empty.

    Raises:
        InputError: The size is not positive; see :func:`~gazekit.metrics.path_pairs.check_pairs`.

    """
    diagonal_px = _diagonal_px(size_wh_px)

    def score(part: PathPairs) -> Tensor:
        to_b, to_a = (near.square().sum(1) for near in _nearest(part))
        return _where_both(part, (to_b / part.n + to_a / part.m).div(2).sqrt() / diagonal_px)

    return check_pairs(a_px, a_valid, b_px, b_valid).map(score)


def mannan_similarity(
    a_px: Tensor,
    a_valid: Tensor,
    b_px: Tensor,
    b_valid: Tensor,
    *,
    size_wh_px: tuple[float, float],
    n_random: int = 1000,
    seed: int = 0,
) -> Tensor:
    """(P,) Mannan's index of similarity in percent: 100 for equal places, about 0 for random ones; higher is better.

    100 (1 - D / D_r), with D the :func:`mannan_distance` and D_r its mean over random pairs of paths of the same two
    lengths, uniform in the image. Range (-inf, 100]; blind to order; symmetric. The same lengths, image, `n_random`
    and `seed` have the same D_r whatever else is in the batch.

    Args:
        a_px: (P, N, 2) fixations as (x, y) px.
        a_valid: (P, N) bool, True ... True False ... False.
        b_px: (P, M, 2).
        b_valid: (P, M) bool.
        size_wh_px: Width and height of the image.
        n_random: Random pairs that D_r is the mean of.
        seed: Of the random pairs.

    Returns:
        (P,); NaN where a path is empty.

    Raises:
        InputError: The size or `n_random` is not positive; see :func:`~gazekit.metrics.path_pairs.check_pairs`.

    """
    if n_random < 1:
        raise InputError(f"n_random must be at least 1 pair of random paths; got {n_random}")
    found = mannan_distance(a_px, a_valid, b_px, b_valid, size_wh_px=size_wh_px)
    n, m = a_valid.sum(1), b_valid.sum(1)
    longest = max(1, *torch.cat([n, m]).tolist()) if len(n) else 1
    # In steps of 8, so that a stream of batches meets a table that is there already.
    random = _mannan_of_random_paths(-(-longest // 8) * 8, tuple(size_wh_px), n_random, seed).to(found.device)
    expected = random[(n - 1).clamp(min=0), (m - 1).clamp(min=0)]
    return (100 * (1 - found.double() / expected)).to(found.dtype)


@lru_cache(maxsize=16)
def _mannan_of_random_paths(longest: int, size_wh_px: tuple[float, float], n_random: int, seed: int) -> Tensor:
    """(L, L) float64 mean Mannan distance of random paths of 1 ... L fixations; symmetric.

    The first fixations of long random paths serve as the short ones.
    """
    # Step by step: drawing longer paths leaves their first steps as they were.
    draw = torch.rand(longest, n_random, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    xy = draw * draw.new_tensor([*size_wh_px, *size_wh_px])
    total, length = draw.new_zeros(longest, longest), torch.arange(1, longest + 1, dtype=torch.float64)
    for part in torch.split(xy, max(1, _RANDOM_CELLS // longest**2), 1):
        square = distances(part[..., :2].transpose(0, 1), part[..., 2:].transpose(0, 1)).square()
        # At (i, j): to the nearest of the first j + 1 fixations, then summed over the first i + 1.
        to_b = square.cummin(2).values.cumsum(1) / length[:, None]
        to_a = square.cummin(1).values.cumsum(2) / length
        total += (to_b + to_a).div_(2).sqrt_().sum(0)
    return (total + total.T) / (2 * n_random * _diagonal_px(size_wh_px))


def _nearest(part: PathPairs) -> tuple[Tensor, Tensor]:
    """(p, N) px from each fixation of `a` to the nearest of `b`, and (p, M) the other way; 0 in the padding."""
    apart, a_valid, b_valid = part.distances(), part.a_valid, part.b_valid
    to_b = apart.masked_fill(~b_valid[:, None], torch.inf).amin(2).masked_fill_(~a_valid, 0.0)
    to_a = apart.masked_fill(~a_valid[..., None], torch.inf).amin(1).masked_fill_(~b_valid, 0.0)
    return to_b, to_a


def _where_both(part: PathPairs, score: Tensor) -> Tensor:
    return score.masked_fill((part.n == 0) | (part.m == 0), torch.nan)


def _resampled(px: Tensor, n: Tensor, length: Tensor, size: int, how: Literal["truncate", "resample"]) -> Tensor:
    """(p, T, 2) paths of n fixations -> (p, size, 2), of which the first `length` are of use."""
    step = torch.arange(size, device=px.device).expand(len(px), size)
    last = (n - 1).clamp(min=0)[:, None]
    if how == "truncate":
        return _at(px, torch.minimum(step, last))
    # In whole numbers, so that a path that has the length already stays exactly as it is.
    spacing = (length - 1).clamp(min=1)[:, None]
    low = torch.minimum(step * last // spacing, last)
    weight = ((step * last % spacing).to(px.dtype) / spacing)[..., None]
    return torch.lerp(_at(px, low), _at(px, torch.minimum(low + 1, last)), weight)


def _at(px: Tensor, index: Tensor) -> Tensor:
    return px.gather(1, index[..., None].expand(*index.shape, 2))


def _diagonal_px(size_wh_px: tuple[float, float]) -> float:
    if len(size_wh_px) != 2 or not all(0 < side < math.inf for side in size_wh_px):
        raise InputError(f"size_wh_px must be a positive width and height; got {size_wh_px}")
    return math.hypot(*size_wh_px)


class DTW(MeanOverTrials):
    """Mean :func:`dtw` over pairs, leaving out those with an empty path."""

    is_differentiable, higher_is_better = False, False

    def __init__(self, normalize: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.normalize = normalize

    def update(self, a_px: Tensor, a_valid: Tensor, b_px: Tensor, b_valid: Tensor) -> None:
        self.add(dtw(a_px, a_valid, b_px, b_valid, normalize=self.normalize))


class DiscreteFrechet(MeanOverTrials):
    """Mean :func:`discrete_frechet` over pairs, leaving out those with an empty path."""

    is_differentiable, higher_is_better = False, False

    def update(self, a_px: Tensor, a_valid: Tensor, b_px: Tensor, b_valid: Tensor) -> None:
        self.add(discrete_frechet(a_px, a_valid, b_px, b_valid))


class DirectedHausdorff(MeanOverTrials):
    """Mean :func:`directed_hausdorff` over pairs, leaving out those with an empty path."""

    is_differentiable, higher_is_better = False, False

    def update(self, a_px: Tensor, a_valid: Tensor, b_px: Tensor, b_valid: Tensor) -> None:
        self.add(directed_hausdorff(a_px, a_valid, b_px, b_valid))


class Hausdorff(MeanOverTrials):
    """Mean :func:`hausdorff` over pairs, leaving out those with an empty path."""

    is_differentiable, higher_is_better = False, False

    def update(self, a_px: Tensor, a_valid: Tensor, b_px: Tensor, b_valid: Tensor) -> None:
        self.add(hausdorff(a_px, a_valid, b_px, b_valid))


class Euclidean(MeanOverTrials):
    """Mean :func:`euclidean` over pairs, leaving out those with an empty path."""

    is_differentiable, higher_is_better = False, False

    def __init__(self, unequal: Literal["truncate", "resample"] = "truncate", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.unequal = unequal

    def update(self, a_px: Tensor, a_valid: Tensor, b_px: Tensor, b_valid: Tensor) -> None:
        self.add(euclidean(a_px, a_valid, b_px, b_valid, unequal=self.unequal))


class Eyenalysis(MeanOverTrials):
    """Mean :func:`eyenalysis` over pairs, leaving out those with an empty path."""

    is_differentiable, higher_is_better = False, False

    def __init__(self, normalize: Literal["max", "sum"] = "max", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.normalize = normalize

    def update(self, a_px: Tensor, a_valid: Tensor, b_px: Tensor, b_valid: Tensor) -> None:
        self.add(eyenalysis(a_px, a_valid, b_px, b_valid, normalize=self.normalize))


class MannanDistance(MeanOverTrials):
    """Mean :func:`mannan_distance` over pairs, leaving out those with an empty path."""

    is_differentiable, higher_is_better = False, False

    def __init__(self, size_wh_px: tuple[float, float], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.size_wh_px = size_wh_px

    def update(self, a_px: Tensor, a_valid: Tensor, b_px: Tensor, b_valid: Tensor) -> None:
        self.add(mannan_distance(a_px, a_valid, b_px, b_valid, size_wh_px=self.size_wh_px))


class MannanSimilarity(MeanOverTrials):
    """Mean :func:`mannan_similarity` over pairs, leaving out those with an empty path."""

    is_differentiable, higher_is_better = False, True

    def __init__(self, size_wh_px: tuple[float, float], n_random: int = 1000, seed: int = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.size_wh_px, self.n_random, self.seed = size_wh_px, n_random, seed

    def update(self, a_px: Tensor, a_valid: Tensor, b_px: Tensor, b_valid: Tensor) -> None:
        score = mannan_similarity(
            a_px, a_valid, b_px, b_valid, size_wh_px=self.size_wh_px, n_random=self.n_random, seed=self.seed
        )
        self.add(score)
