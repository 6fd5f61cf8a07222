"""Recurrence quantification: which fixations of two scanpaths, or of one, come to the same place, and when.

Cross-recurrence as in Anderson, Anderson, Kingstone & Bischof (2015), Behavior Research Methods 47,
1377-1392; recurrence of a scanpath with itself as in Anderson, Bischof, Laidlaw, Risko & Kingstone (2013),
Behavior Research Methods 45, 842-856. Lines are runs of neighbouring recurrent points without a gap, on all
diagonals, the main one included.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric

from gazekit.errors import InputError
from gazekit.metrics.path_pairs import PathPairs, check_pairs, distances, prefix


class Recurrence(NamedTuple):
    """Four measures per pair, in percent.

    Args:
        rec: (P,) recurrent points among all, in [0, 100]; higher is more alike.
        det: (P,) recurrent points on diagonal lines (the same order), in [0, 100]; higher is more alike.
        lam: (P,) on horizontal and vertical lines (one long stay against several fixations), in [0, 100].
        corm: (P,) mean signed distance from the main diagonal, in [-100, 100]; positive where the second path
            comes to a place later than the first.

    """

    rec: Tensor
    det: Tensor
    lam: Tensor
    corm: Tensor


def cross_recurrence(
    a_px: Tensor,
    a_valid: Tensor,
    b_px: Tensor,
    b_valid: Tensor,
    *,
    radius_px: float = 64.0,
    min_line_fixations: int = 2,
) -> Recurrence:
    """Cross-recurrence of pairs of scanpaths, both cut to the length N of the shorter one.

    With ``c_ij = 1`` where fixation i of a and j of b are at most `radius_px` apart and C their number:
    ``rec = 100 C / N^2``; ``det = 100 / C`` times the points on diagonal lines of at least
    `min_line_fixations`; ``lam = 100 / (2 C)`` times (points on horizontal lines + points on vertical lines);
    ``corm = 100 / ((N - 1) C) sum (j - i) c_ij``. Swapping the paths leaves rec, det and lam as they are and
    changes the sign of corm. There is no chance level: compare with paths of other images.

    Args:
        a_px: (P, N, 2) fixations as (x, y) px.
        a_valid: (P, N) bool, fixations first, then padding.
        b_px: (P, M, 2).
        b_valid: (P, M) bool.
        radius_px: Fixations this close count as the same place; about 2 degrees of visual angle in the
            literature, which is 64 px where an image of 1024 px spans 32 degrees. Set it for your screen.
        min_line_fixations: Length from which a run is a line; 2 in the literature.

    Returns:
        (P,) each, NaN where either path has fewer than 2 fixations. Without a recurrent point rec is 0 and
        the others are NaN.

    Raises:
        InputError: As :func:`gazekit.metrics.path_pairs.check_pairs`, or a parameter is out of range.

    """
    _check_parameters(radius_px, min_line_fixations)
    pairs = check_pairs(a_px, a_valid, b_px, b_valid)
    # Only the common part is compared, and two equal lengths make equal chunks.
    shared = torch.minimum(pairs.n, pairs.m)
    steps = min(pairs.a_px.shape[1], pairs.b_px.shape[1])
    pairs = PathPairs(pairs.a_px[:, :steps], pairs.b_px[:, :steps], shared, shared)
    found = pairs.map(lambda part: _measures(part, radius_px, min_line_fixations, upper=False))
    return Recurrence(*found.to(pairs.a_px.dtype).unbind(-1))


def self_recurrence(
    xy_px: Tensor, valid: Tensor, *, radius_px: float = 64.0, min_line_fixations: int = 2
) -> Recurrence:
    """Recurrence of each scanpath with itself: refixations and their order.

    Only points with j > i count. With R their number: ``rec = 100 * 2 R / (N (N - 1))``, ``det`` over the
    diagonals above the main one, ``lam = 100 (horizontal + vertical) / (2 R)``, ``corm = 100 / ((N - 1) R)
    sum (j - i) c_ij``, which is in (0, 100]: large where the eye returns late. None of them is better when
    higher; they describe.

    Args:
        xy_px: (P, N, 2) fixations as (x, y) px.
        valid: (P, N) bool, fixations first, then padding.
        radius_px: As in :func:`cross_recurrence`.
        min_line_fixations: As in :func:`cross_recurrence`.

    Returns:
        (P,) each, NaN where a path has fewer than 2 fixations. Without a recurrent point rec is 0 and the
        others are NaN.

    Raises:
        InputError: As :func:`cross_recurrence`.

    """
    _check_parameters(radius_px, min_line_fixations)
    pairs = check_pairs(xy_px, valid, xy_px, valid)
    found = pairs.map(lambda part: _measures(part, radius_px, min_line_fixations, upper=True))
    return Recurrence(*found.to(pairs.a_px.dtype).unbind(-1))


class _MeanRecurrence(Metric):
    is_differentiable, higher_is_better, full_state_update = False, None, False

    total: Tensor
    n_valid: Tensor
    n_total: Tensor

    def __init__(self, radius_px: float = 64.0, min_line_fixations: int = 2, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        _check_parameters(radius_px, min_line_fixations)
        self.radius_px, self.min_line_fixations = radius_px, min_line_fixations
        self.add_state("total", torch.zeros(4, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("n_valid", torch.zeros(4, dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("n_total", torch.tensor(0), dist_reduce_fx="sum")

    def add(self, scores: Recurrence) -> None:
        score = torch.stack(list(scores), -1).double()
        self.total += score.nan_to_num(0.0).sum(0)
        self.n_valid += (~score.isnan()).sum(0)
        self.n_total += len(score)

    def compute(self) -> Recurrence:
        return Recurrence(*(self.total / self.n_valid).unbind())


class CrossRecurrence(_MeanRecurrence):
    """Mean of each measure of :func:`cross_recurrence` over the pairs for which it is defined.

    Read `n_valid` (rec, det, lam, corm) of `n_total` beside the means.
    """

    def update(self, a_px: Tensor, a_valid: Tensor, b_px: Tensor, b_valid: Tensor) -> None:
        lines: dict[str, Any] = {"radius_px": self.radius_px, "min_line_fixations": self.min_line_fixations}
        self.add(cross_recurrence(a_px, a_valid, b_px, b_valid, **lines))


class SelfRecurrence(_MeanRecurrence):
    """Mean of each measure of :func:`self_recurrence` over the scanpaths for which it is defined."""

    def update(self, xy_px: Tensor, valid: Tensor) -> None:
        lines: dict[str, Any] = {"radius_px": self.radius_px, "min_line_fixations": self.min_line_fixations}
        self.add(self_recurrence(xy_px, valid, **lines))


def _check_parameters(radius_px: float, min_line_fixations: int) -> None:
    if not 0 <= radius_px < math.inf:
        raise InputError(f"radius_px must be 0 or more and finite; got {radius_px}")
    if not isinstance(min_line_fixations, int) or min_line_fixations < 2:
        raise InputError(f"min_line_fixations must be an integer of 2 or more; got {min_line_fixations!r}")


def _measures(pairs: PathPairs, radius_px: float, min_line: int, upper: bool) -> Tensor:
    """(p, 4) float64 of pairs whose paths have one length; `upper` for a path with itself."""
    n = pairs.n.double()
    # float64: whether a distance equals the radius must not hang on the type of the input.
    near = distances(pairs.a_px.double(), pairs.b_px.double()).permute(1, 2, 0) <= radius_px  # (N, N, p)
    inside = prefix(pairs.n, len(near)).mT
    near &= inside[:, None] & inside[None]
    step = torch.arange(len(near), device=near.device)
    lag = step - step[:, None]  # j - i
    if upper:
        near &= (lag > 0)[..., None]
    count = _count(near)
    diagonal = _count(_on_lines(near, min_line, 1, 1))
    straight = _count(_on_lines(near, min_line, 0, 1)) + _count(_on_lines(near, min_line, 1, 0))
    # A diagonal holds its points at one lag.
    lag_sum = torch.einsum("ij,ijp->p", lag.double(), near.double())
    possible = n * (n - 1) / 2 if upper else n * n
    found = torch.stack(
        [count / possible, diagonal / count, straight / (2 * count), lag_sum / ((n - 1) * count)], dim=-1
    )
    return (100 * found).masked_fill((n < 2)[:, None], torch.nan)


def _count(points: Tensor) -> Tensor:
    return points.flatten(0, 1).sum(0, dtype=torch.int32).double()


def _on_lines(points: Tensor, length: int, di: int, dj: int) -> Tensor:
    """The points on runs of at least `length` in direction (di, dj): an opening by a line."""
    if length > len(points):
        return torch.zeros_like(points)
    # starts: a run of `reach` points begins here; the reach doubles.
    starts, reach = points, 1
    while reach < length:
        shift = min(reach, length - reach)
        starts = starts & _moved(starts, -shift * di, -shift * dj)
        reach += shift
    lines, reach = starts, 1
    while reach < length:
        shift = min(reach, length - reach)
        lines = lines | _moved(lines, shift * di, shift * dj)
        reach += shift
    return lines


def _moved(points: Tensor, di: int, dj: int) -> Tensor:
    """(N, N, p) moved by (di, dj), which have one sign, with False coming in."""
    moved = torch.zeros_like(points)
    n = len(points)
    if di >= 0 and dj >= 0:
        moved[di:, dj:] = points[: n - di, : n - dj]
    else:
        moved[: di or None, : dj or None] = points[-di:, -dj:]
    return moved
