"""Search asymmetry: slopes of reaction time over set size, and how much harder A among B is than B among A.

Definitions, constants and human data: Gupta, Zhang, Wu, Wolfe & Kreiman (2021), Visual Search Asymmetry:
Deep Nets and Humans Share Similar Inherent Biases, NeurIPS.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric

from gazekit.errors import InputError

# A regression on people's reaction times in another search data set (Gupta et al. 2021).
MS_PER_FIXATION = 252.359
MS_WITHOUT_FIXATION = 376.271
# Resampled trials that the bootstrap holds at a time: 16 MB.
_RESAMPLED = 2**21


@dataclass(frozen=True)
class HumanCondition:
    """People's search times for one target among one kind of distractors.

    Args:
        name: As the conditions of the reference implementation are called.
        slope_ms_per_item: As printed.
        set_sizes: Items on the display.
        rt_ms: Mean reaction times at `set_sizes`; empty where the source gives slope and intercept only.
        intercept_ms: Where the source gives it, else None.

    """

    name: str
    slope_ms_per_item: float
    set_sizes: tuple[int, ...]
    rt_ms: tuple[float, ...] = ()
    intercept_ms: float | None = None


@dataclass(frozen=True)
class HumanAsymmetry:
    """One of the six tasks: which condition people find hard, and their asymmetry index as printed."""

    task: str
    easy: HumanCondition
    hard: HumanCondition
    index: float


# Digitised by Gupta et al. (2021) from the studies that they reproduce. With heterogeneous distractors the
# easy orientation is the one that is hard with homogeneous ones.
HUMAN_ASYMMETRY: tuple[HumanAsymmetry, ...] = (
    HumanAsymmetry(
        "curvature",
        HumanCondition("curve_in_lines", 0.80, (8, 16, 32), (510.0, 516.4, 529.2)),
        HumanCondition("line_in_curves", 7.59, (8, 16, 32), (565.0, 640.0, 750.0)),
        0.809,
    ),
    HumanAsymmetry(
        "lighting",
        HumanCondition("top_down", 4.21, (1, 6, 12), (426.67, 432.0, 472.0)),
        HumanCondition("left_right", 23.88, (1, 6, 12), (488.0, 674.67, 754.67)),
        0.701,
    ),
    HumanAsymmetry(
        "intersection",
        HumanCondition("non_cross", 45.0, (3, 6, 9), intercept_ms=510.0),
        HumanCondition("cross", 96.0, (3, 6, 9), intercept_ms=541.0),
        0.362,
    ),
    HumanAsymmetry(
        "letters",
        HumanCondition("Ts", 14.0, (3, 6, 9), intercept_ms=499.0),
        HumanCondition("Ls", 33.0, (3, 6, 9), intercept_ms=474.0),
        0.404,
    ),
    HumanAsymmetry(
        "orientation_homogeneous",
        HumanCondition("homo_t20", 2.38, (1, 4, 8, 12), (414.74, 437.89, 441.05, 444.21)),
        HumanCondition("homo_t0", 9.86, (1, 4, 8, 12), (431.58, 547.37, 552.63, 557.89)),
        0.611,
    ),
    HumanAsymmetry(
        "orientation_heterogeneous",
        HumanCondition("hetero_t0", 23.73, (1, 4, 8, 12), (431.58, 568.42, 633.68, 707.37)),
        HumanCondition("hetero_t20", 71.12, (1, 4, 8, 12), (526.32, 831.58, 1084.21, 1326.32)),
        0.500,
    ),
)


def reaction_time_ms(
    n_fix_after_initial: Tensor,
    max_fixations: Tensor | int,
    *,
    ms_per_fixation: float = MS_PER_FIXATION,
    ms_without_fixation: float = MS_WITHOUT_FIXATION,
) -> Tensor:
    """Reaction time that a number of fixations stands for, in ms; lower is a quicker search.

    Args:
        n_fix_after_initial: (B,) fixations after the initial one until the target, so 0 if the eye was on it at
            the start (one less than ``n_fix_incl_initial`` of :func:`gazekit.metrics.search.fixations_to_target`);
            inf where it was never found.
        max_fixations: Number, or (B,), that stands for never found: the number of items in the published
            protocol. A target found later than that keeps its number.
        ms_per_fixation: Slope of the regression.
        ms_without_fixation: Its intercept.

    Returns:
        (B,) float; NaN where the number is NaN.

    Raises:
        InputError: A number is negative, or `max_fixations` does not fit.

    """
    n_fix = n_fix_after_initial if n_fix_after_initial.is_floating_point() else n_fix_after_initial.double()
    limit = torch.as_tensor(max_fixations, device=n_fix.device).to(n_fix.dtype)
    if limit.shape not in ((), n_fix.shape) or not (limit >= 0).all() or limit.isinf().any():
        raise InputError(f"max_fixations must be 0 or more, for all or for each of {len(n_fix)}; got {limit.tolist()}")
    if (n_fix < 0).any():
        raise InputError(
            f"a trial has {n_fix[n_fix < 0][0].item():g} fixations; they are counted from 0 after the initial"
        )
    return ms_without_fixation + ms_per_fixation * n_fix.where(~n_fix.isposinf(), limit)


def set_size_slope(rt_ms: Tensor, set_size: Tensor) -> Tensor:
    """Slope of the mean reaction time per set size over set size, by ordinary least squares.

    Each set size counts the same, however many trials it has. Near 0: the target pops out.

    Args:
        rt_ms: (B,) reaction times of one condition; NaN is left out.
        set_size: (B,) items on the display of each trial.

    Returns:
        () float64, ms per item; NaN with fewer than 2 set sizes.

    Raises:
        InputError: Shapes do not fit, or a reaction time is infinite.

    """
    sizes, cells = _cells(rt_ms, set_size)
    return _slope(torch.stack([cell.mean() for cell in cells]) if cells else rt_ms.new_zeros(0).double(), sizes)


def asymmetry_index(hard_slope: Tensor, easy_slope: Tensor) -> Tensor:
    """(hard - easy) / (hard + easy) of two slopes clipped at 0; 0 where both are 0; NaN where either is NaN.

    Range [-1, 1]; people have about 0.56 averaged over the six tasks of :data:`HUMAN_ASYMMETRY`, 0 is no
    asymmetry, negative is reversed. People say which condition is hard, never the model. Antisymmetric.
    Two slopes near 0 can give anything: print them, and the interval of :func:`asymmetry_interval`.

    Args:
        hard_slope: (...) ms per item.
        easy_slope: (...) ms per item.

    """
    hard, easy = hard_slope.clamp(min=0.0), easy_slope.clamp(min=0.0)
    total = hard + easy
    return ((hard - easy) / total).masked_fill(total == 0, 0.0)


class Interval(NamedTuple):
    """A value with its percentile bootstrap interval."""

    value: Tensor
    low: Tensor
    high: Tensor


class AsymmetryInterval(NamedTuple):
    """Asymmetry index and slopes (ms per item) with their intervals."""

    asymmetry: Interval
    hard_slope: Interval
    easy_slope: Interval


def asymmetry_interval(
    hard_rt_ms: Tensor,
    hard_set_size: Tensor,
    easy_rt_ms: Tensor,
    easy_set_size: Tensor,
    *,
    n_resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> AsymmetryInterval:
    """Asymmetry index and both slopes of one task, with percentile intervals from resampled trials.

    Trials are drawn with replacement inside each set size x condition, as many as there are. With one trial
    in each the interval has no width and says nothing.

    Args:
        hard_rt_ms: (B,) of the condition that is hard for people; NaN is left out.
        hard_set_size: (B,) items.
        easy_rt_ms: (C,) of the other condition.
        easy_set_size: (C,) items.
        n_resamples: Bootstrap samples.
        confidence: Mass of the interval.
        seed: Of a generator of its own, on the CPU, so that every device draws the same trials.

    Returns:
        () float64 each; NaN where a condition has fewer than 2 set sizes.

    Raises:
        InputError: As :func:`set_size_slope`, or a parameter is out of range.

    """
    if n_resamples < 1 or not 0 < confidence < 1:
        raise InputError(f"need n_resamples >= 1 and 0 < confidence < 1; got {n_resamples} and {confidence}")
    generator = torch.Generator().manual_seed(seed)
    points, draws = [], []
    for rt_ms, set_size in ((hard_rt_ms, hard_set_size), (easy_rt_ms, easy_set_size)):
        points.append(set_size_slope(rt_ms, set_size))
        draws.append(resampled_slopes(rt_ms, set_size, n_resamples, generator))
    tail = (1 - confidence) / 2
    levels = points[0].new_tensor([tail, 1 - tail])

    def interval(value: Tensor, samples: Tensor) -> Interval:
        low, high = samples.quantile(levels)
        return Interval(value, low, high)

    return AsymmetryInterval(
        interval(asymmetry_index(points[0], points[1]), asymmetry_index(draws[0], draws[1])),
        interval(points[0], draws[0]),
        interval(points[1], draws[1]),
    )


def resampled_slopes(rt_ms: Tensor, set_size: Tensor, n_resamples: int, generator: torch.Generator) -> Tensor:
    """Slopes of bootstrap samples: trials drawn with replacement inside each set size, as many as there are.

    Args:
        rt_ms: (B,) reaction times of one condition; NaN is left out.
        set_size: (B,) items.
        n_resamples: How many.
        generator: On the CPU.

    Returns:
        (n_resamples,) float64, ms per item; NaN with fewer than 2 set sizes.

    Raises:
        InputError: As :func:`set_size_slope`.

    """
    sizes, cells = _cells(rt_ms, set_size)
    means = [_resampled_means(cell, n_resamples, generator) for cell in cells]
    return _slope(torch.stack(means, -1) if means else rt_ms.new_zeros(n_resamples, 0).double(), sizes)


class AsymmetryIndex(Metric):
    """:func:`asymmetry_index` of one task, fed with trials of both conditions in any order.

    Read `slopes` beside the index. The final score of a model is the mean over the six tasks.

    Args:
        set_sizes: Those of the task.
        kwargs: Of torchmetrics.

    """

    is_differentiable, higher_is_better, full_state_update = False, None, False

    totals_ms: Tensor
    n_trials: Tensor
    set_sizes: Tensor

    def __init__(self, set_sizes: Sequence[int], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if len(set(set_sizes)) != len(set_sizes) or len(set_sizes) < 2:
            raise InputError(f"set_sizes must be two or more different numbers; got {list(set_sizes)}")
        self.register_buffer("set_sizes", torch.tensor(list(set_sizes)))
        # Row 0 is the hard condition, row 1 the easy one.
        self.add_state("totals_ms", torch.zeros(2, len(set_sizes), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("n_trials", torch.zeros(2, len(set_sizes), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, rt_ms: Tensor, set_size: Tensor, *, hard: bool) -> None:
        _check_trials(rt_ms, set_size)
        at = set_size[:, None] == self.set_sizes
        if not at.any(1).all():
            trial = int((~at.any(1)).nonzero()[0])
            raise InputError(f"trial {trial}: set size {set_size[trial].item()} is not in {self.set_sizes.tolist()}")
        row, column, known = 0 if hard else 1, at.long().argmax(1), ~rt_ms.isnan()
        self.totals_ms[row].index_add_(0, column, rt_ms.double().nan_to_num(0.0))
        self.n_trials[row].index_add_(0, column, known.long())

    def slopes(self) -> Tensor:
        """(2,) ms per item, hard and easy; set sizes without trials are left out."""
        rows = []
        for total, n_trials in zip(self.totals_ms, self.n_trials, strict=True):
            seen = n_trials > 0
            rows.append(_slope(total[seen] / n_trials[seen], self.set_sizes[seen].double()))
        return torch.stack(rows)

    def compute(self) -> Tensor:
        hard, easy = self.slopes().unbind()
        return asymmetry_index(hard, easy)


def _check_trials(rt_ms: Tensor, set_size: Tensor) -> None:
    if rt_ms.ndim != 1 or set_size.shape != rt_ms.shape:
        raise InputError(f"expected rt_ms (B,) and set_size (B,); got {tuple(rt_ms.shape)} and {tuple(set_size.shape)}")
    if rt_ms.isinf().any():
        trial = int(rt_ms.isinf().nonzero()[0])
        raise InputError(f"trial {trial}: reaction time is infinite; reaction_time_ms replaces a target never found")


def _cells(rt_ms: Tensor, set_size: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Distinct set sizes, float64, and the float64 reaction times at each."""
    _check_trials(rt_ms, set_size)
    known = ~rt_ms.isnan()
    rt_ms, set_size = rt_ms[known].double(), set_size[known]
    sizes = torch.unique(set_size)
    return sizes.double(), [rt_ms[set_size == size] for size in sizes]


def _slope(mean_rt_ms: Tensor, set_size: Tensor) -> Tensor:
    """(..., S) means at (S,) set sizes -> (...) least-squares slope; NaN for S < 2."""
    centered = set_size - set_size.mean()
    slope = (mean_rt_ms * centered).sum(-1) / (centered.square().sum() if len(set_size) > 1 else torch.nan)
    # Equal means leave a rest of rounding, of which the asymmetry index would make 1 or -1.
    return slope.masked_fill(slope.abs() < 1e-9, 0.0)


def _resampled_means(values: Tensor, n_resamples: int, generator: torch.Generator) -> Tensor:
    """(n_resamples,) means of as many values, drawn with replacement."""
    n, means, left = len(values), [], n_resamples
    while left:
        rows = min(left, max(1, _RESAMPLED // n))
        drawn = torch.randint(n, (rows, n), generator=generator)
        means.append(values[drawn.to(values.device)].mean(1))
        left -= rows
    return torch.cat(means)
