"""Search among discrete objects: is the last one the target, and are objects looked at anew, on, or again.

A scanpath is read as a sequence of object numbers (shelves, cover collages; see
:func:`gazekit.datasets.objects.object_of_fixation`). Definition: the behavioural measures of OAT, the
Object-level Attention Transformer.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric

from gazekit.errors import InputError
from gazekit.metrics.search import check_valid


class ObjectBehavior(NamedTuple):
    """Five numbers per trial, or their means over trials; none is better when higher, the human one is best.

    Args:
        correct: 1 if the last fixated object is the target, else 0.
        length: Fixations, the initial one included.
        search: Share of fixations that reach an object for the first time.
        refix: Share that stay on the object of the fixation before.
        revisit: Share that come back to an object left before. search + refix + revisit = 1.

    """

    correct: Tensor
    length: Tensor
    search: Tensor
    refix: Tensor
    revisit: Tensor


def object_behavior(object_number: Tensor, valid: Tensor, target: Tensor) -> ObjectBehavior:
    """Correctness, length, and the shares of search, refixation and revisit of each trial.

    Args:
        object_number: (B, T) integers of 0 or more, the object under each fixation.
        valid: (B, T) bool, fixations first, then padding.
        target: (B,) integers, the number of the target; -1 where there is none.

    Returns:
        (B,) float64 each; NaN for a trial without a fixation, `correct` also where there is no target.

    Raises:
        InputError: Shapes or types do not fit, padding is not on the right, or a fixation has no object.

    """
    _check(object_number, valid, target)
    length = valid.sum(1)
    # Padding repeats the first object, so that it adds no distinct one.
    known = object_number.where(valid, object_number[:, :1]) if valid.shape[1] else object_number
    ordered = known.sort(1).values
    n_objects = (ordered[:, 1:] != ordered[:, :-1]).sum(1) + 1
    changes = (object_number[:, 1:] != object_number[:, :-1]) & valid[:, 1:]
    n_runs = changes.sum(1) + 1
    # The first visit of an object opens a run; every other run comes back to an object.
    counts = torch.stack([n_objects, length - n_runs, n_runs - n_objects])
    share = (counts / length.double()).masked_fill(length == 0, torch.nan)
    if valid.shape[1] == 0:
        correct = torch.full_like(share[0], torch.nan)
    else:
        last = known.gather(1, (length - 1).clamp(min=0)[:, None])[:, 0]
        correct = (last == target).double().masked_fill((length == 0) | (target < 0), torch.nan)
    return ObjectBehavior(correct, length.double().masked_fill(length == 0, torch.nan), *share.unbind())


def behavior_delta(model: ObjectBehavior, human: ObjectBehavior) -> Tensor:
    """OAT's delta: mean over the five measures of abs(model - human) / human; 0 is best, lower is better.

    Unbounded, not symmetric, and dominated by the measure whose human value is smallest (revisits are about
    5 percent): report the five numbers beside it. A human value of 0 makes it infinite, or NaN where the
    model's is 0 too.

    Args:
        model: Means over trials, from :class:`ObjectSearch`.
        human: Likewise, on the same trials.

    Returns:
        Tensor of the shape of one measure.

    """
    a, b = (torch.stack(list(behavior)) for behavior in (model, human))
    return ((a - b).abs() / b).mean(0)


class ObjectSearch(Metric):
    """Mean of each measure of :func:`object_behavior` over the trials for which it is defined.

    Read `n_valid` (in the order of :class:`ObjectBehavior`) of `n_total` beside the means.
    """

    is_differentiable, higher_is_better, full_state_update = False, None, False

    total: Tensor
    n_valid: Tensor
    n_total: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("total", torch.zeros(5, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("n_valid", torch.zeros(5, dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("n_total", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, object_number: Tensor, valid: Tensor, target: Tensor) -> None:
        score = torch.stack(list(object_behavior(object_number, valid, target)), -1)
        self.total += score.nan_to_num(0.0).sum(0)
        self.n_valid += (~score.isnan()).sum(0)
        self.n_total += len(score)

    def compute(self) -> ObjectBehavior:
        return ObjectBehavior(*(self.total / self.n_valid).unbind())


def _check(object_number: Tensor, valid: Tensor, target: Tensor) -> None:
    check_valid(valid)
    for name, numbers, shape in (("object_number", object_number, valid.shape), ("target", target, valid.shape[:1])):
        if numbers.shape != shape or numbers.is_floating_point() or numbers.dtype == torch.bool:
            raise InputError(f"{name} must be {tuple(shape)} integers; got {tuple(numbers.shape)} {numbers.dtype}")
    without = (object_number < 0) & valid
    if without.any():
        trial, step = without.nonzero()[0].tolist()
        raise InputError(
            f"trial {trial}, fixation {step}: object number {int(object_number[trial, step])}; leave out trials on "
            f"stimuli without objects"
        )
