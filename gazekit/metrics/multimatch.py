"""MultiMatch: five similarities of two scanpaths, after aligning their saccades.

Definition: Jarodzka, Holmqvist & Nystroem (2010), ETRA, 211-218; Dewhurst et al. (2012), Behavior Research
Methods 44, 1079-1100; in detail as in the Python package multimatch-gaze 0.1.3 (Wagner, Halchenko & Hanke
2019, JOSS 4, 1525), which our tests use as the oracle. Random paths already reach 0.85 and more in shape, length
and position: never show a value without that of chance beside it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import pad

from gazekit.errors import InputError
from gazekit.metrics.mean_over_trials import MeanOverTrials
from gazekit.metrics.path_pairs import aligned_cells, check_pairs, distances, distinct_paths, map_by_length, prefix

#: What the last axis of :func:`multimatch` holds, in order.
DIMENSIONS = ("shape", "direction", "length", "position", "duration")

_SHORTEST = 3
# Fixations that are simplified at a time: enough to hide the cost of a call, few enough to stay in the cache.
_CPU_FIXATIONS, _GPU_FIXATIONS = 2**15, 2**22


@dataclass(frozen=True)
class Simplification:
    """When small or straight-on saccades are merged before paths are compared.

    The defaults are those of the literature (Dewhurst et al. 2012); many papers use them, the package
    multimatch-gaze and the scanpath-model literature do not simplify.

    Args:
        direction_deg: Two saccades merge if the angle between them is smaller ...
        amplitude_px: ... or if the first is shorter than this; None: a tenth of the screen's diagonal.
        duration_s: Either only around a fixation that is shorter than this.

    """

    direction_deg: float = 45.0
    amplitude_px: float | None = None
    duration_s: float = 0.3


@dataclass(frozen=True)
class _Saccades:
    """P paths as saccades: (P, S, 2) vectors and starts, (P, S) durations of the fixations where they start.

    `n` (P,) counts the saccades, `last_s` (P,) is the duration of the fixation where the last one ends.
    """

    vector: Tensor
    start: Tensor
    duration_s: Tensor
    last_s: Tensor
    n: Tensor

    def of(self, rows: Tensor | slice) -> _Saccades:
        return _Saccades(*(t[rows] for t in (self.vector, self.start, self.duration_s, self.last_s, self.n)))


def multimatch(
    a_px: Tensor,
    a_valid: Tensor,
    b_px: Tensor,
    b_valid: Tensor,
    a_duration_s: Tensor | None = None,
    b_duration_s: Tensor | None = None,
    *,
    size_wh_px: tuple[float, float],
    simplify: Simplification | None = None,
    short: Literal["nan", "pad"] = "nan",
) -> Tensor:
    """Similarities (shape, direction, length, position, duration) of P pairs; higher is better, 1 for equal paths.

    Saccades are aligned along the cheapest monotone path through the matrix of their vector differences; each
    similarity is 1 less the median difference of the aligned saccades: of their vectors (relative to twice
    the screen's diagonal), angles (to pi), lengths, starting points (to the diagonal), and of the durations of the
    fixations where they start (to the longer one). The last fixation's duration does not count.

    Range [0, 1] for paths on the screen; chance depends on data and screen and is high. Needs 3 fixations each.
    Symmetric up to ties: of several cheapest alignments, the one that from the start moves diagonally where it
    can, else on along b, else along a. A saccade of length 0 points to the right.

    Args:
        a_px: (P, N, 2) fixations as (x, y) px.
        a_valid: (P, N) bool, True ... True False ... False.
        b_px: (P, M, 2).
        b_valid: (P, M) bool.
        a_duration_s: (P, N), or None: then the fifth similarity is NaN.
        b_duration_s: (P, M), or None.
        size_wh_px: Width and height of what was looked at, the unit of distances.
        simplify: How to simplify the paths first; None: not at all.
        short: Paths of fewer than 3 fixations: "nan" leaves the pair without a score; "pad" appends fixations
            at (1, 1) px, 1 s long, up to 3, as the protocols of HAT, Gazeformer and ScanDiff do. Such a score
            measures the padding: it is for comparison with their numbers only.

    Returns:
        (P, 5) in the order of :data:`DIMENSIONS`; NaN for a pair with a path that is too short. Computed in
        float64 whatever the input: the alignment is not continuous.

    Raises:
        InputError: See :func:`~gazekit.metrics.path_pairs.check_pairs`; the screen or a threshold is not
            positive; paths are to be simplified without durations.

    """
    pairs = check_pairs(a_px, a_valid, b_px, b_valid, a_duration_s, b_duration_s)
    diagonal_px = _diagonal_px(size_wh_px)
    if short not in ("nan", "pad"):
        raise InputError(f"short must be 'nan' or 'pad'; got {short!r}")
    timed = pairs.a_duration_s is not None
    if simplify is not None:
        if not timed:
            raise InputError("simplifying merges around short fixations: give a_duration_s and b_duration_s")
        _check_thresholds(simplify)
    sides = [
        _distinct_saccades(px, n, duration_s, simplify, short == "pad", diagonal_px)
        for px, n, duration_s in (
            (pairs.a_px, pairs.n, pairs.a_duration_s),
            (pairs.b_px, pairs.m, pairs.b_duration_s),
        )
    ]
    (a, n, a_row), (b, m, b_row) = sides
    difference = map_by_length(_median_differences, n, m, [a], [b], a_row, b_row)
    scale = difference.new_tensor([2 * diagonal_px, math.pi, diagonal_px, diagonal_px, 1.0 if timed else math.nan])
    return (1 - difference / scale).to(pairs.a_px.dtype)


def multimatch_average(
    a_px: Tensor,
    a_valid: Tensor,
    b_px: Tensor,
    b_valid: Tensor,
    a_duration_s: Tensor | None = None,
    b_duration_s: Tensor | None = None,
    *,
    size_wh_px: tuple[float, float],
    simplify: Simplification | None = None,
    short: Literal["nan", "pad"] = "nan",
    dimensions: Sequence[str] = DIMENSIONS[:4],
) -> Tensor:
    """(P,) mean of some similarities of :func:`multimatch`; by default of all but duration.

    The four-dimensional mean is what ViSioNS calls AvgMM.

    Raises:
        InputError: A dimension is unknown, or what :func:`multimatch` raises.

    """
    if not dimensions or set(dimensions) - set(DIMENSIONS):
        raise InputError(f"dimensions must be some of {list(DIMENSIONS)}; got {list(dimensions)}")
    score = multimatch(
        a_px, a_valid, b_px, b_valid, a_duration_s, b_duration_s,
        size_wh_px=size_wh_px, simplify=simplify, short=short,
    )  # fmt: skip
    return score[:, [DIMENSIONS.index(name) for name in dimensions]].mean(1)


class MultiMatch(MeanOverTrials):
    """Mean of each similarity of :func:`multimatch` over the pairs for which it is defined.

    `compute` gives a dictionary with the names of :data:`DIMENSIONS`; `n_valid` counts for each dimension.
    The arguments are the keyword parameters of :func:`multimatch`.
    """

    is_differentiable, higher_is_better = False, True

    def __init__(
        self,
        size_wh_px: tuple[float, float],
        simplify: Simplification | None = None,
        short: Literal["nan", "pad"] = "nan",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.size_wh_px, self.simplify, self.short = size_wh_px, simplify, short
        self.add_state("total", torch.zeros(5, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("n_valid", torch.zeros(5, dtype=torch.long), dist_reduce_fx="sum")

    def update(
        self,
        a_px: Tensor,
        a_valid: Tensor,
        b_px: Tensor,
        b_valid: Tensor,
        a_duration_s: Tensor | None = None,
        b_duration_s: Tensor | None = None,
    ) -> None:
        score = multimatch(
            a_px, a_valid, b_px, b_valid, a_duration_s, b_duration_s,
            size_wh_px=self.size_wh_px, simplify=self.simplify, short=self.short,
        )  # fmt: skip
        known = ~score.isnan()
        self.total += score.double().masked_fill(~known, 0.0).sum(0)
        self.n_valid += known.sum(0)
        self.n_total += len(score)

    def compute(self) -> dict[str, Tensor]:  # type: ignore[override]
        return dict(zip(DIMENSIONS, (self.total / self.n_valid).unbind(), strict=True))


def _diagonal_px(size_wh_px: tuple[float, float]) -> float:
    if len(size_wh_px) != 2 or not all(0 < side < math.inf for side in size_wh_px):
        raise InputError(f"size_wh_px must be a positive width and height; got {size_wh_px}")
    return math.hypot(*size_wh_px)


def _check_thresholds(simplify: Simplification) -> None:
    for name in ("direction_deg", "amplitude_px", "duration_s"):
        value = getattr(simplify, name)
        if value is not None and not value >= 0:
            raise InputError(f"Simplification: {name} must not be negative; got {value}")


def _saccades(px: Tensor, n: Tensor, duration_s: Tensor, padded: bool) -> _Saccades:
    """Fixations to saccades; paths that are too short have none, or are padded to three fixations."""
    missing = max(0, _SHORTEST - px.shape[1])
    px, duration_s = pad(px, (0, 0, 0, missing)), pad(duration_s, (0, missing))
    if padded:
        added = ~prefix(n, px.shape[1]) & prefix(n.new_tensor([_SHORTEST]), px.shape[1])
        px, duration_s = px.masked_fill(added[..., None], 1.0), duration_s.masked_fill(added, 1.0)
        n = n.clamp(min=_SHORTEST)
    n = torch.where(n >= _SHORTEST, n, 1) - 1
    last_s = duration_s.gather(1, n[:, None])[:, 0]
    return _Saccades(px[:, 1:] - px[:, :-1], px[:, :-1], duration_s[:, :-1], last_s, n)


def _distinct_saccades(
    px: Tensor, n: Tensor, duration_s: Tensor | None, simplify: Simplification | None, padded: bool, diagonal_px: float
) -> tuple[Tensor, Tensor, Tensor]:
    """P paths -> (D, S, 7) of the distinct ones, (P,) their number of saccades and (P,) which of the D each is."""
    lasting = torch.zeros_like(px[..., 0]) if duration_s is None else duration_s
    picked, row = distinct_paths(px, n, lasting)
    path = _saccades(px[picked].double(), n[picked], lasting[picked].double(), padded)
    if simplify is not None:
        path = _simplified(path, simplify, diagonal_px)
    return _from_last(path), path.n[row], row


def _from_last(path: _Saccades) -> Tensor:
    """(P, S, 7) vector, angle, length, start and duration of each saccade, the last one first.

    Backwards, because the alignment breaks ties from its end and is to break them from the first saccade.
    """
    x, y = path.vector.unbind(-1)
    table = torch.stack([x, y, torch.atan2(y, x), (x * x + y * y).sqrt(), *path.start.unbind(-1), path.duration_s], -1)
    backwards = path.n[:, None] - 1 - torch.arange(table.shape[1], device=table.device)
    return table.gather(1, backwards.clamp_(min=0)[..., None].expand_as(table))


def _median_differences(n: Tensor, m: Tensor, a: list[Tensor], b: list[Tensor]) -> Tensor:
    """(p, 5) median differences of the aligned saccades, NaN where there are none."""
    (path_a,), (path_b,) = a, b
    row, column, count = aligned_cells(distances(path_a[..., :2], path_b[..., :2]), n, m)
    first, second = _along(path_a, row), _along(path_b, column)
    x, y, angle, length, start_x, start_y, duration = (first - second).unbind(-1)
    turn = angle.abs()
    longer = torch.maximum(first[..., 6], second[..., 6])
    difference = [
        (x * x + y * y).sqrt_(),
        torch.minimum(turn, 2 * math.pi - turn),
        length.abs(),
        (start_x * start_x + start_y * start_y).sqrt_(),
        # Two fixations of no duration last equally long.
        (duration.abs() / longer).masked_fill_(longer == 0, 0.0),
    ]
    return _median(torch.stack(difference), count).T


def _along(path: Tensor, index: Tensor) -> Tensor:
    """(p, S, K) features and (L, p) steps -> (p, L, K)."""
    n_pairs, size, features = path.shape
    flat = index.T + size * torch.arange(n_pairs, device=index.device)[:, None]
    return path.reshape(-1, features).index_select(0, flat.flatten()).view(n_pairs, len(index), features)


def _median(value: Tensor, count: Tensor) -> Tensor:
    """(K, p, L) -> (K, p) median of the first `count` (p,) entries, NaN without any."""
    if value.shape[-1] == 0:
        return value.new_full(value.shape[:-1], torch.nan)
    ordered = value.masked_fill(~prefix(count, value.shape[-1]), torch.inf).sort(-1).values
    middle = torch.stack([(count - 1).clamp(min=0) // 2, (count // 2).clamp(max=value.shape[-1] - 1)], -1)
    return ordered.gather(-1, middle.expand(len(value), -1, -1)).mean(-1).masked_fill(count == 0, torch.nan)


def _simplified(path: _Saccades, how: Simplification, diagonal_px: float) -> _Saccades:
    """Merge by direction, then by amplitude, and again until the number of fixations no longer falls."""
    amplitude_px = diagonal_px / 10 if how.amplitude_px is None else how.amplitude_px
    fixations = _GPU_FIXATIONS if path.n.is_cuda else _CPU_FIXATIONS
    rows = max(1, fixations // max(1, path.vector.shape[1]))
    parts = []
    for start in range(0, max(1, len(path.n)), rows):
        part = path.of(slice(start, start + rows))
        part = _Saccades(*(t.clone() for t in vars(part).values()))
        active = part.n.nonzero()[:, 0]
        count = part.n[active]
        while len(active):
            straight = _merged_straight(part.of(active), how.direction_deg, how.duration_s)
            after, last_merged = _merged_short(straight, amplitude_px, how.duration_s)
            for old, new in zip(vars(part).values(), vars(after).values(), strict=True):
                old[active] = new
            # As in multimatch-gaze, the fixation before a merged last saccade is counted until the next round.
            now = after.n + last_merged
            fell = now != count
            active, count = active[fell], now[fell]
        parts.append(part)
    return _Saccades(*(torch.cat(field) for field in zip(*(vars(part).values() for part in parts), strict=True)))


def _merged_straight(path: _Saccades, direction_deg: float, duration_s: float) -> _Saccades:
    """The direction pass: merge saccades that go on in about the same direction after a short fixation."""
    following, length = _next(path.vector), path.vector.norm(dim=-1)
    product = length * _next(length)
    cosine = (path.vector * following).sum(-1) / product
    # The angle with a saccade of length 0 is taken as 0; rounding must not carry the cosine past 1.
    angle_deg = cosine.masked_fill(product == 0, 1.0).clamp_(-1.0, 1.0).acos().rad2deg()
    return _merge(path, (angle_deg < direction_deg) & (_next(path.duration_s) < duration_s))


def _merged_short(path: _Saccades, amplitude_px: float, duration_s: float) -> tuple[_Saccades, Tensor]:
    """The amplitude pass: merge short saccades beside a short fixation; and (P,) whether the last one was merged."""
    steps = torch.arange(path.vector.shape[1], device=path.n.device)
    is_last = steps == path.n[:, None] - 1
    end_s = torch.where(is_last, path.last_s[:, None], _next(path.duration_s))
    short = (path.vector.norm(dim=-1) < amplitude_px) & ((path.duration_s < duration_s) | (end_s < duration_s))
    taken = _taken(short & ~is_last & prefix(path.n, len(steps)))
    absorbed = taken.roll(1, 1)
    # A lone saccade has nothing to merge with.
    last = (short & is_last & ~absorbed).any(1) & (path.n > 1)
    final = path.n.clamp(min=1)[:, None, None].expand(-1, 1, 2) - 1
    both = path.vector.gather(1, final) + path.vector.gather(1, (final - 1).clamp(min=0))
    merged = _keep(path, taken, ~absorbed & ~(is_last & last[:, None]))
    # It overwrites the last vector that is kept, be that a sum already.
    final = merged.n.clamp(min=1)[:, None, None].expand(-1, 1, 2) - 1
    vector = merged.vector.scatter(1, final, torch.where(last[:, None, None], both, merged.vector.gather(1, final)))
    return replace(merged, vector=vector), last


def _merge(path: _Saccades, wanted: Tensor) -> _Saccades:
    """Merge the (P, S) wanted saccades with their followers, from the first one on."""
    taken = _taken(wanted & prefix(path.n - 1, wanted.shape[1]))
    return _keep(path, taken, ~taken.roll(1, 1))


def _taken(wanted: Tensor) -> Tensor:
    """(P, S) of those wanted, every one that its predecessor has not swallowed; the last one must not be wanted."""
    taken = wanted.clone()
    for step in range(1, wanted.shape[1]):
        taken[:, step] &= ~taken[:, step - 1]
    return taken


def _keep(path: _Saccades, taken: Tensor, kept: Tensor) -> _Saccades:
    """Add to the saccades that are taken their followers, and move those that are kept to the front."""
    vector = path.vector + _next(path.vector) * taken[..., None]
    kept = kept & prefix(path.n, kept.shape[1])
    order = (~kept).to(torch.uint8).argsort(dim=1, stable=True)
    pairs = order[..., None].expand_as(vector)
    n = kept.sum(1)
    return _Saccades(
        vector.gather(1, pairs), path.start.gather(1, pairs), path.duration_s.gather(1, order), path.last_s, n
    )


def _next(value: Tensor) -> Tensor:
    """(P, S, ...) -> the same one step on, the first one at the end."""
    return value.roll(-1, 1)
