"""Search asymmetry: golden numbers, people's slopes and indices as printed, the bootstrap, laws and errors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from gazekit.errors import InputError
from gazekit.metrics.asymmetry import (
    HUMAN_ASYMMETRY,
    AsymmetryIndex,
    asymmetry_index,
    asymmetry_interval,
    reaction_time_ms,
    set_size_slope,
)

NAN, INF = float("nan"), float("inf")


def t(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize(
    ("hard", "easy", "expected"), [(6, 2, 0.5), (3, -1, 1), (-2, -1, 0), (0, 0, 0), (2, 6, -0.5), (-1, 3, -1)]
)
def test_golden_index(hard, easy, expected):
    assert asymmetry_index(t(hard), t(easy)).item() == expected
    assert asymmetry_index(t(easy), t(hard)).item() == -expected


def test_index_of_unknown_slopes():
    assert asymmetry_index(t(NAN, 1, 0), t(1, NAN, NAN)).isnan().all()


def test_golden_reaction_time():
    got = reaction_time_ms(t(0, 1, 2, INF, NAN), 12)
    assert got[:4].tolist() == pytest.approx([376.271, 628.630, 880.989, 376.271 + 12 * 252.359], abs=1e-9)
    assert got[4].isnan()
    # Never found: as many fixations as there were items on that display.
    each = reaction_time_ms(t(INF, INF, 20), torch.tensor([1, 6, 12]))
    assert each.tolist() == pytest.approx([628.630, 376.271 + 6 * 252.359, 376.271 + 20 * 252.359], abs=1e-9)
    assert reaction_time_ms(torch.tensor([2]), 5, ms_per_fixation=1.0, ms_without_fixation=10.0).item() == 12
    assert reaction_time_ms(torch.tensor([2.0]), 5).dtype == torch.float32


def rt_of(condition) -> tuple[Tensor, Tensor]:
    """Mean reaction times where the source gives them, else those on its line."""
    sizes = t(*condition.set_sizes)
    if condition.rt_ms:
        return t(*condition.rt_ms), sizes
    return condition.intercept_ms + condition.slope_ms_per_item * sizes, sizes


def test_people():
    """Slopes and indices of the published table, from the reaction times, to the digits printed."""
    assert len(HUMAN_ASYMMETRY) == 6
    found = []
    for task in HUMAN_ASYMMETRY:
        slopes = []
        for condition in (task.hard, task.easy):
            slope = set_size_slope(*rt_of(condition))
            # Printed with two decimals; 4.21 of top_down is 4.205 from the times printed with as many.
            assert slope.item() == pytest.approx(condition.slope_ms_per_item, abs=0.0055)
            slopes.append(slope)
        assert task.hard.slope_ms_per_item > task.easy.slope_ms_per_item
        index = asymmetry_index(*slopes).item()
        assert round(index, 3) == task.index
        found.append(index)
    assert round(float(np.mean(found)), 3) == 0.564
    # What is easy among equal distractors is hard among unequal ones.
    homogeneous, heterogeneous = HUMAN_ASYMMETRY[4:]
    assert homogeneous.easy.name.endswith("t20")
    assert heterogeneous.easy.name.endswith("t0")


def test_published_fixations():
    """Mean fixations of the published model per set size, L among T's: every set size counts the same."""
    sizes, n_fix = t(3, 6, 9), t(1.75, 2.72, 4.11)
    slope = set_size_slope(reaction_time_ms(n_fix, 9), sizes).item()
    assert slope == pytest.approx(252.359 * (4.11 - 1.75) / 6, abs=1e-9)  # three equal steps


def trials(seed: int, slope: float, sizes: tuple[int, ...] = (1, 4, 8, 12), n: int = 30) -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(seed)
    size = rng.permutation(np.repeat(sizes, n))
    return torch.from_numpy(500 + slope * size + rng.normal(0, 80, len(size))), torch.from_numpy(size)


def test_slope_oracle():
    rng = np.random.default_rng(0)
    for seed in range(50):
        rt, size = trials(seed, rng.normal(0, 20))
        keep = torch.from_numpy(rng.random(len(rt)) < 0.4)  # unequal numbers of trials
        rt, size = rt[keep], size[keep]
        means = [rt[size == s].mean() for s in (1, 4, 8, 12)]
        want = np.polyfit([1, 4, 8, 12], means, 1)[0]
        # polyfit solves by SVD; values are some hundreds.
        assert set_size_slope(rt, size).item() == pytest.approx(want, abs=1e-9)
        unknown = torch.cat([rt, t(NAN, NAN)])
        assert set_size_slope(unknown, torch.cat([size, torch.tensor([4, 99])])).item() == pytest.approx(want, abs=1e-9)
        shuffled = torch.randperm(len(rt))
        assert set_size_slope(rt[shuffled], size[shuffled]).item() == pytest.approx(want, abs=1e-9)
        # Shifting all times changes nothing, scaling them scales.
        assert set_size_slope(3 * rt + 700, size).item() == pytest.approx(3 * want, abs=1e-9)
        # float32 rounds times of a thousand to 1e-4, over a dozen items.
        assert set_size_slope(rt.float(), size).item() == pytest.approx(want, abs=1e-4)


def test_slope_undefined():
    assert set_size_slope(t(), t()).isnan()
    assert set_size_slope(t(400, 500), t(4, 4)).isnan()
    assert set_size_slope(t(400, NAN), t(4, 8)).isnan()
    assert set_size_slope(t(400, 500), t(4, 8)).item() == 25


def test_interval():
    hard, easy = trials(1, 30), trials(2, 10)
    got = asymmetry_interval(*hard, *easy, seed=3)
    assert got.hard_slope.value == set_size_slope(*hard)
    assert got.asymmetry.value == asymmetry_index(set_size_slope(*hard), set_size_slope(*easy))
    for interval in got:
        assert interval.low < interval.value < interval.high
    # The formula for a slope over 4 means of 30 trials: SD 80 / sqrt(30 * Sxx), Sxx = 68.75; 95 % is 1.96 SD
    # either way. The sample's own SD and the percentiles are known to about 10 %.
    width = 2 * 1.96 * 80 / np.sqrt(30 * 68.75)
    for interval in got[1:]:
        assert (interval.high - interval.low).item() == pytest.approx(width, rel=0.2)
    assert got == asymmetry_interval(*hard, *easy, seed=3)
    assert got.asymmetry.low != asymmetry_interval(*hard, *easy, seed=4).asymmetry.low
    narrow = asymmetry_interval(*hard, *easy, confidence=0.5, seed=3).asymmetry
    assert got.asymmetry.low < narrow.low < narrow.high < got.asymmetry.high


def test_interval_covers():
    """Over repetitions, 95 % intervals hold the truth about 95 % of the time."""
    inside = 0
    for seed in range(100):
        got = asymmetry_interval(*trials(seed, 30), *trials(seed + 1000, 10), n_resamples=300, seed=seed)
        inside += bool(got.asymmetry.low <= 0.5 <= got.asymmetry.high)
    # Binomial(100, 0.94) is below 86 with probability 0.001; seeds are fixed anyhow.
    assert 86 <= inside < 100


def test_interval_resamples_inside_cells():
    """With one value per set size and condition there is nothing to draw, so no width."""
    sizes = torch.tensor([1, 4, 8]).repeat(5)
    got = asymmetry_interval(10.0 * sizes, sizes, 5.0 * sizes, sizes, n_resamples=50)
    for interval, value in zip(got, (1 / 3, 10, 5), strict=True):
        assert [part.item() for part in interval] == pytest.approx([value] * 3, abs=1e-12)
    none = asymmetry_interval(t(400), t(4), t(400, 500), t(4, 8), n_resamples=10)
    assert all(part.isnan() for part in (*none.asymmetry, *none.hard_slope))
    assert none.easy_slope.value.item() == 25
    empty = asymmetry_interval(t(), t(), t(400, 500), t(4, 8), n_resamples=10)
    assert empty.asymmetry.value.isnan()


def test_large_cells_are_drawn_in_parts(monkeypatch):
    hard, easy = trials(1, 30), trials(2, 10)
    whole = asymmetry_interval(*hard, *easy, n_resamples=100)
    monkeypatch.setattr("gazekit.metrics.asymmetry._RESAMPLED", 70)
    parts = asymmetry_interval(*hard, *easy, n_resamples=100)
    for a, b in zip(whole, parts, strict=True):
        torch.testing.assert_close(torch.stack(list(a)), torch.stack(list(b)), rtol=1e-12, atol=0)


def test_class():
    hard, easy = trials(1, 30), trials(2, 10)
    hard[0][5] = NAN
    metric = AsymmetryIndex((1, 4, 8, 12))
    for part in (slice(0, 31), slice(31, None)):
        metric.update(easy[0][part], easy[1][part], hard=False)
        metric.update(hard[0][part], hard[1][part], hard=True)
    slopes = torch.stack([set_size_slope(*hard), set_size_slope(*easy)])
    # Sums in another order.
    torch.testing.assert_close(metric.slopes(), slopes, rtol=1e-10, atol=0)
    torch.testing.assert_close(metric.compute(), asymmetry_index(*slopes), rtol=1e-10, atol=0)
    assert int(metric.n_trials.sum()) == 239
    unseen = AsymmetryIndex((1, 4, 8, 12, 99))
    unseen.update(*hard, hard=True)
    unseen.update(*easy, hard=False)
    torch.testing.assert_close(unseen.compute(), metric.compute(), rtol=1e-12, atol=0)
    only = AsymmetryIndex((1, 4, 8, 12))
    only.update(*hard, hard=True)
    assert only.compute().isnan()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: reaction_time_ms(t(-1, 2), 4), "a trial has -1 fixations"),
        (lambda: reaction_time_ms(t(1, 2), torch.tensor([1, 2, 3])), "max_fixations must be"),
        (lambda: reaction_time_ms(t(1, 2), -3), "max_fixations must be"),
        (lambda: reaction_time_ms(t(1, 2), t(3, INF)), "max_fixations must be"),
        (lambda: set_size_slope(t(1, 2), t(1)), r"expected rt_ms \(B,\)"),
        (lambda: set_size_slope(t(1, INF), t(1, 2)), "trial 1: reaction time is infinite"),
        (lambda: asymmetry_interval(t(1), t(1), t(1), t(1), n_resamples=0), "n_resamples >= 1"),
        (lambda: asymmetry_interval(t(1), t(1), t(1), t(1), confidence=1.0), "confidence < 1"),
        (lambda: AsymmetryIndex((3,)), "two or more different"),
        (lambda: AsymmetryIndex((3, 3)), "two or more different"),
        (lambda: AsymmetryIndex((3, 6)).update(t(1, 2), t(3, 4), hard=True), "trial 1: set size 4"),
    ],
)
def test_errors(call, message):
    with pytest.raises(InputError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
