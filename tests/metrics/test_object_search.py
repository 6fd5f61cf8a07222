"""Object-level search behaviour: golden numbers, real cover collages, an oracle of runs, laws and errors."""

from __future__ import annotations

import itertools
import warnings

import numpy as np
import pytest
import torch
from torch import Tensor

from gazekit.errors import InputError
from gazekit.metrics.object_search import ObjectBehavior, ObjectSearch, behavior_delta, object_behavior
from tests.conftest import REAL_DATA

NAN = float("nan")
needs_amazon = pytest.mark.skipif(
    not (REAL_DATA / "amazon_covers").is_dir(),
    reason="Amazon covers are not on this machine; set GAZEKIT_DATA to test with them",
)


def stacked(behavior: ObjectBehavior) -> Tensor:
    return torch.stack(list(behavior), -1)


def trial(*numbers: int, target: int = 7) -> list[float]:
    ids = torch.tensor([numbers], dtype=torch.long).reshape(1, -1)
    return stacked(object_behavior(ids, torch.ones_like(ids, dtype=torch.bool), torch.tensor([target])))[0].tolist()


def test_golden():
    # Exact: one division each.
    assert trial(3, 3, 5, 3, 7) == [1, 5, 0.6, 0.2, 0.2]


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        ((3,), [0, 1, 1, 0, 0]),
        ((7,), [1, 1, 1, 0, 0]),
        ((7, 7, 7, 7), [1, 4, 0.25, 0.75, 0]),
        ((7, 1), [0, 2, 1, 0, 0]),  # the target was seen but not last
        ((0, 1, 0, 1, 0), [0, 5, 0.4, 0, 0.6]),
        # A run that comes back: one revisit, then refixations.
        ((3, 5, 3, 3), [0, 4, 0.5, 0.25, 0.25]),
    ],
)
def test_by_hand(numbers, expected):
    assert trial(*numbers) == expected


def oracle(ids: list[int], target: int) -> list[float]:
    """Runs by itertools, visited objects in a set."""
    if not ids:
        return [NAN] * 5
    seen, search, refix, revisit = set(), 0, 0, 0
    for number, run in itertools.groupby(ids):
        refix += len(list(run)) - 1
        if number in seen:
            revisit += 1
        else:
            search += 1
            seen.add(number)
    n = len(ids)
    return [NAN if target < 0 else float(ids[-1] == target), n, search / n, refix / n, revisit / n]


def random_trials(seed: int, n_trials: int = 600, n_steps: int = 14) -> tuple[Tensor, Tensor, Tensor]:
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, rng.integers(1, 9, (n_trials, 1)), (n_trials, n_steps))
    valid = np.arange(n_steps) < rng.integers(0, n_steps + 1, n_trials)[:, None]
    ids[~valid] = rng.integers(-5, 99, (~valid).sum())
    return torch.from_numpy(ids), torch.from_numpy(valid), torch.from_numpy(rng.integers(-1, 5, n_trials))


def test_oracle():
    for seed in range(4):
        ids, valid, target = random_trials(seed)
        want = [oracle(i[v].tolist(), int(t)) for i, v, t in zip(ids, valid, target, strict=True)]
        np.testing.assert_array_equal(stacked(object_behavior(ids, valid, target)), want)


def test_laws():
    ids, valid, target = random_trials(9)
    behavior = object_behavior(ids, valid, target)
    known = valid.any(1)
    total = (behavior.search + behavior.refix + behavior.revisit)[known]
    # Three quotients round.
    torch.testing.assert_close(total, torch.ones(int(known.sum())).double(), rtol=1e-15, atol=0)
    want = stacked(behavior)
    loop = torch.cat([stacked(object_behavior(*(t[b : b + 1] for t in (ids, valid, target)))) for b in range(60)])
    torch.testing.assert_close(loop, want[:60], rtol=0, atol=0, equal_nan=True)
    for b in range(60):  # padded = unpadded
        alone = stacked(object_behavior(ids[b : b + 1, valid[b]], valid[b : b + 1, valid[b]], target[b : b + 1]))
        torch.testing.assert_close(alone[0], want[b], rtol=0, atol=0, equal_nan=True)
    # The numbers are names: any other names do.
    names = torch.randperm(99, generator=torch.Generator().manual_seed(0))
    renamed = object_behavior(names[ids.clamp(min=0)], valid, names[target.clamp(min=0)].where(target >= 0, -1))
    torch.testing.assert_close(stacked(renamed), want, rtol=0, atol=0, equal_nan=True)


def test_edge_cases():
    nothing = object_behavior(torch.zeros(2, 0).long(), torch.zeros(2, 0).bool(), torch.zeros(2).long())
    assert stacked(nothing).isnan().all()
    assert stacked(nothing).shape == (2, 5)
    assert stacked(
        object_behavior(torch.zeros(0, 3).long(), torch.zeros(0, 3).bool(), torch.zeros(0).long())
    ).shape == (
        0,
        5,
    )
    long = torch.arange(1000)[None] % 500
    got = object_behavior(long, torch.ones(1, 1000).bool(), torch.tensor([499]))
    assert stacked(got)[0].tolist() == [1, 1000, 0.5, 0, 0.5]
    int32 = object_behavior(long.int(), torch.ones(1, 1000).bool(), torch.tensor([499]).int())
    assert stacked(int32)[0].tolist() == [1, 1000, 0.5, 0, 0.5]


def test_class_and_delta():
    ids, valid, target = random_trials(3)
    metric = ObjectSearch()
    metric.update(ids[:100], valid[:100], target[:100])
    metric.update(ids[100:], valid[100:], target[100:])
    scores = stacked(object_behavior(ids, valid, target)).numpy()
    # Sums in another order.
    np.testing.assert_allclose(torch.stack(list(metric.compute())), np.nanmean(scores, 0), rtol=1e-12)
    assert metric.n_valid.tolist() == (~np.isnan(scores)).sum(0).tolist()
    assert int(metric.n_valid[0]) < int(metric.n_valid[1]) < int(metric.n_total) == len(ids)
    human = ObjectBehavior(*torch.tensor([0.8, 10, 0.5, 0.4, 0.1], dtype=torch.float64))
    model = ObjectBehavior(*torch.tensor([0.6, 15, 0.5, 0.3, 0.2], dtype=torch.float64))
    assert behavior_delta(model, human).item() == pytest.approx((0.25 + 0.5 + 0 + 0.25 + 1) / 5, abs=1e-15)
    assert behavior_delta(human, human).item() == 0
    assert behavior_delta(human, model).item() != pytest.approx(behavior_delta(model, human).item())
    assert behavior_delta(model, human._replace(revisit=torch.tensor(0.0).double())).isinf()
    zero = torch.tensor(0.0).double()
    assert behavior_delta(model._replace(revisit=zero), human._replace(revisit=zero)).isnan()


@needs_amazon
def test_amazon_covers():
    from gazekit.datasets import PartialDataWarning, load
    from gazekit.datasets.objects import object_of_fixation

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PartialDataWarning)
        data = load("amazon_covers", root=REAL_DATA)
    fixations, trials = data.fixations, data.trials
    numbers = object_of_fixation(fixations, data.objects)
    # The target's cell is that of the center of its box.
    centers = trials.assign(
        x_px=(trials["target_left_px"] + trials["target_right_px"]) / 2,
        y_px=(trials["target_top_px"] + trials["target_bottom_px"]) / 2,
    )
    target = object_of_fixation(centers, data.objects)
    rows = fixations["trial"].map({name: row for row, name in enumerate(trials["trial"])}).to_numpy()
    steps = fixations["fixation"].to_numpy()
    ids = torch.full((len(trials), steps.max() + 1), -1)
    ids[torch.tensor(rows), torch.tensor(steps)] = torch.tensor(numbers)
    metric = ObjectSearch()
    metric.update(ids, ids >= 0, torch.tensor(target))
    assert int(metric.n_total) == 480
    assert metric.n_valid.tolist() == [480] * 5
    expected = [0.835417, 15.077083, 0.778919, 0.168691, 0.052389]
    # The references are printed with six decimals.
    assert [m.item() for m in metric.compute()] == pytest.approx(expected, abs=6e-7)


IDS, VALID, TARGET = torch.tensor([[1, 2, 3]]), torch.ones(1, 3).bool(), torch.tensor([3])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: object_behavior(IDS, VALID.long(), TARGET), "valid must be"),
        (lambda: object_behavior(IDS, torch.tensor([[False, True, True]]), TARGET), "trial 0: valid has a gap"),
        (lambda: object_behavior(IDS.double(), VALID, TARGET), "object_number must be"),
        (lambda: object_behavior(IDS[:, :2], VALID, TARGET), "object_number must be"),
        (lambda: object_behavior(IDS, VALID, TARGET.double()), "target must be"),
        (lambda: object_behavior(IDS, VALID, IDS), "target must be"),
        (lambda: object_behavior(IDS - 2, VALID, TARGET), "trial 0, fixation 0: object number -1"),
    ],
)
def test_errors(call, message):
    with pytest.raises(InputError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
