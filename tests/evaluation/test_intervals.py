"""Means over images and their bootstrap intervals, by hand and against a slow loop."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from gazekit.evaluation import paired_difference, summarize
from gazekit.evaluation.intervals import MIN_IMAGES, image_means, interval

RULE = {"resample": "stimulus", "draws": 400, "level": 0.9, "seed": 3}


def table(*rows):
    """Rows of model, stimulus, n_fixations, score; the score stands under several metrics."""
    frame = pd.DataFrame(rows, columns=["model", "stimulus", "n_fixations", "nss"])
    return frame.assign(auc=frame["nss"], cc=frame["nss"], sim=frame["nss"], kld=frame["nss"], auc_judd=frame["nss"])


def one_trial_per_image(**scores):
    return table(*[(model, f"i{k:03d}", 5, x) for model, xs in scores.items() for k, x in enumerate(xs)])


def row_of(summary, model, metric="nss"):
    return summary[(summary["model"] == model) & (summary["metric"] == metric)].iloc[0]


# Aggregation


def test_an_image_weights_its_trials_by_their_fixations():
    scores = table(("m", "a", 1, 1.0), ("m", "a", 3, 2.0), ("m", "b", 10, 5.0))
    means = image_means(scores, "nss")
    assert means["m", "a"] == pytest.approx(1.75)  # (1 * 1 + 3 * 2) / 4
    assert means["m", "b"] == pytest.approx(5.0)
    # Over images every image counts the same, however many fixations it has.
    assert row_of(summarize(scores, ("nss",), None, RULE), "m")["mean"] == pytest.approx(3.375)


@pytest.mark.parametrize("metric", ["cc", "sim", "kld", "auc_judd"])
def test_scores_of_whole_trials_weight_trials_equally(metric):
    scores = table(("m", "a", 1, 1.0), ("m", "a", 3, 2.0))
    assert image_means(scores, metric)["m", "a"] == pytest.approx(1.5)


def test_trials_without_a_score_are_left_out_and_counted():
    nan = np.nan
    scores = table(
        ("m", "a", 1, 1.0), ("m", "a", 9, nan), ("m", "a", 0, nan), ("m", "b", 2, nan), ("m", "c", 2, 4.0),
        ("w", "a", 1, 0.0), ("w", "b", 1, 0.0), ("w", "c", 1, 0.0),
    )  # fmt: skip
    means = image_means(scores, "nss")
    assert means["m", "a"] == pytest.approx(1.0)
    assert np.isnan(means["m", "b"])
    summary = summarize(scores, ("nss", "cc"), None, RULE)
    for metric in ("nss", "cc"):
        row = row_of(summary, "m", metric)
        assert row["mean"] == pytest.approx(2.5)
        assert (row["n_images"], row["n_valid"], row["n_total"]) == (2, 2, 5)
    assert row_of(summary, "w")["n_images"] == 3


def test_every_model_and_metric_has_one_row():
    summary = summarize(table(("m", "a", 1, 1.0), ("w", "a", 1, 2.0)), ("nss", "cc"), None, RULE)
    assert sorted(zip(summary["model"], summary["metric"], strict=True)) == [
        ("m", "cc"), ("m", "nss"), ("w", "cc"), ("w", "nss"),
    ]  # fmt: skip


def test_models_are_not_mixed():
    scores = table(("m", "a", 1, 1.0), ("w", "a", 7, 9.0), ("m", "b", 1, 3.0), ("w", "b", 7, 9.0))
    summary = summarize(scores, ("nss",), None, RULE)
    assert row_of(summary, "m")["mean"] == pytest.approx(2.0)
    assert row_of(summary, "w")["mean"] == pytest.approx(9.0)


# Intervals


def bootstrap_oracle(values, rule, *more):
    """Draws by draws, image by image: the same numbers of each image, the rest spelled out."""
    n = len(values)
    counts = np.random.default_rng(rule["seed"]).multinomial(n, [1 / n] * n, size=rule["draws"])
    draws = []
    for count in counts:
        drawn = [values[i] for i in range(n) for _ in range(count[i]) if not np.isnan(values[i])]
        draws.append(sum(drawn) / len(drawn) if drawn else np.nan)
    half = 50 * (1 - rule["level"])
    return np.nanpercentile(draws, half), np.nanpercentile(draws, 100 - half), np.array(draws)


@pytest.mark.parametrize("missing", [0, 7])
def test_intervals_equal_a_slow_loop(missing):
    rng = np.random.default_rng(0)
    values = rng.normal(1.0, 0.5, 31)
    values[:missing] = np.nan
    row = row_of(summarize(one_trial_per_image(m=values), ("nss",), None, RULE), "m")
    low, high, _ = bootstrap_oracle(values, RULE)
    # The same draws in float64: only the order of sums differs.
    assert row["low"] == pytest.approx(low, rel=1e-12)
    assert row["high"] == pytest.approx(high, rel=1e-12)
    assert row["low"] < row["mean"] < row["high"]


def test_intervals_are_seeded():
    scores = one_trial_per_image(m=np.random.default_rng(0).normal(size=25))
    first, again = (row_of(summarize(scores, ("nss",), None, RULE), "m") for _ in range(2))
    other = row_of(summarize(scores, ("nss",), None, {**RULE, "seed": 4}), "m")
    assert (first["low"], first["high"]) == (again["low"], again["high"])
    assert (first["low"], first["high"]) != (other["low"], other["high"])


def test_a_higher_level_is_wider():
    scores = one_trial_per_image(m=np.random.default_rng(0).normal(size=25))
    narrow, wide = (row_of(summarize(scores, ("nss",), None, {**RULE, "level": x}), "m") for x in (0.5, 0.99))
    assert wide["low"] < narrow["low"] < narrow["high"] < wide["high"]


def test_intervals_cover_the_truth():
    rng = np.random.default_rng(1)
    n_runs, hits = 300, 0
    for _ in range(n_runs):
        scores = one_trial_per_image(m=rng.normal(0.3, 1.0, 40))
        row = row_of(summarize(scores, ("nss",), None, {**RULE, "draws": 200}), "m")
        hits += row["low"] <= 0.3 <= row["high"]
    # 90 % nominal. The percentile bootstrap of 40 values loses a point or two, 200 draws another;
    # the standard error over 300 runs is 1.7 %.
    assert 0.83 < hits / n_runs < 0.95


@pytest.mark.parametrize(("n_images", "has_one"), [(MIN_IMAGES - 1, False), (MIN_IMAGES, True)])
def test_few_images_have_a_mean_and_no_interval(n_images, has_one):
    assert MIN_IMAGES == 20
    rng = np.random.default_rng(0)
    scores = one_trial_per_image(m=rng.normal(1, 1, n_images), people=rng.normal(3, 1, n_images))
    row = row_of(summarize(scores, ("nss",), "people", RULE), "m")
    assert np.isfinite(row[["mean", "of_ceiling"]].astype(float)).all()
    for key in ("low", "high", "of_ceiling_low", "of_ceiling_high"):
        assert np.isfinite(row[key]) == has_one
    assert np.isfinite(paired_difference(scores, "nss", "m", "people", RULE)).tolist() == [True, has_one, has_one]


def test_too_few_scored_images_of_many_have_no_interval():
    """Twenty-five images, but a score on five: the interval of five means says no more than without the rest."""
    values = np.full(25, np.nan)
    values[:5] = [1.0, 2.0, 3.0, 4.0, 5.0]
    row = row_of(summarize(one_trial_per_image(m=values, w=np.ones(25)), ("nss",), None, RULE), "m")
    assert row["n_images"] == 5
    assert np.isnan(row["low"])


def test_interval_of_draws():
    assert interval(np.arange(101.0), 0.9) == pytest.approx((5.0, 95.0))
    assert interval(np.array([np.nan, 1.0, np.nan]), 0.9) == (1.0, 1.0)
    assert np.isnan(interval(np.array([np.nan]), 0.9)).all()


def test_an_infinitely_bad_image_is_not_hidden():
    values = np.ones(25)
    values[3] = -np.inf
    row = row_of(summarize(one_trial_per_image(m=values), ("nss",), None, RULE), "m")
    assert row["mean"] == -np.inf
    # No finite lower end: an interval around finite draws alone would hide the image.
    assert not np.isfinite(row["low"])


# Share of the ceiling


def test_share_of_the_ceiling_by_hand():
    scores = one_trial_per_image(people=[0.8, 1.0], m=[0.7, 0.7], worse=[0.4, 0.4], better=[1.0, 1.2])
    summary = summarize(scores, ("auc", "nss", "sim"), "people", RULE)
    # AUC: chance is 0.5, the ceiling 0.9.
    assert row_of(summary, "m", "auc")["of_ceiling"] == pytest.approx(0.5)
    # Never clipped: below chance is negative, above the ceiling more than one.
    assert row_of(summary, "worse", "auc")["of_ceiling"] == pytest.approx(-0.25)
    assert row_of(summary, "better", "auc")["of_ceiling"] == pytest.approx(1.5)
    assert row_of(summary, "people", "auc")["of_ceiling"] == pytest.approx(1.0)
    # NSS: chance is 0.
    assert row_of(summary, "m", "nss")["of_ceiling"] == pytest.approx(0.7 / 0.9)
    # SIM has no fixed chance level.
    assert np.isnan(row_of(summary, "m", "sim")["of_ceiling"])
    for ceiling in (None, "nobody"):
        assert summarize(scores, ("auc",), ceiling, RULE)["of_ceiling"].isna().all()


@pytest.mark.parametrize("n_images", [6, 30])
def test_a_ceiling_that_hardly_beats_chance_is_no_measure_for_anybody(n_images):
    """A mean of 0.05 with an SD of one; also where images, or those that this model is scored on, are too few."""
    people = np.tile([1.05, -0.95], n_images // 2)
    few = np.where(np.arange(n_images) < 4, 0.5, np.nan)
    summary = summarize(one_trial_per_image(people=people, m=np.full(n_images, 0.5), few=few), ("nss",), "people", RULE)
    assert row_of(summary, "people")["mean"] == pytest.approx(0.05)
    assert summary["of_ceiling"].isna().all()
    clear = summarize(one_trial_per_image(people=people + 3.0, m=few), ("nss",), "people", RULE)
    assert clear["of_ceiling"].notna().all()


def test_share_of_the_ceiling_resamples_both_together():
    rng = np.random.default_rng(0)
    difficulty = rng.normal(2.0, 1.0, 30)
    scores = one_trial_per_image(people=difficulty, m=difficulty / 2)
    row = row_of(summarize(scores, ("nss",), "people", RULE), "m")
    # Half the ceiling on every image is half of it in every resample.
    assert row["of_ceiling_low"] == pytest.approx(0.5)
    assert row["of_ceiling_high"] == pytest.approx(0.5)
    # And against the loop, where they are not proportional.
    other = rng.normal(1.0, 0.5, 30)
    row = row_of(summarize(one_trial_per_image(people=difficulty, m=other), ("nss",), "people", RULE), "m")
    ratio = bootstrap_oracle(other, RULE)[2] / bootstrap_oracle(difficulty, RULE)[2]
    assert row["of_ceiling_low"] == pytest.approx(np.percentile(ratio, 5), rel=1e-12)
    assert row["of_ceiling_high"] == pytest.approx(np.percentile(ratio, 95), rel=1e-12)


# Differences


def test_paired_difference_cancels_what_images_share():
    difficulty = np.random.default_rng(0).normal(0.0, 5.0, 30)
    scores = one_trial_per_image(m=difficulty + 0.25, w=difficulty)
    difference, low, high = paired_difference(scores, "nss", "m", "w", RULE)
    # The same difference on every image, in float64 around 5.
    assert (difference, low, high) == pytest.approx((0.25, 0.25, 0.25), abs=1e-12)
    assert paired_difference(scores, "nss", "w", "m", RULE)[0] == pytest.approx(-0.25)


def test_paired_difference_equals_a_slow_loop():
    rng = np.random.default_rng(2)
    m, w = rng.normal(1.0, 1.0, 28), rng.normal(0.5, 1.0, 28)
    m[4] = np.nan
    both = np.delete(m - w, 4)
    difference, low, high = paired_difference(one_trial_per_image(m=m, w=w), "nss", "m", "w", RULE)
    expected_low, expected_high, _ = bootstrap_oracle(both, RULE)
    assert difference == pytest.approx(both.mean())
    assert (low, high) == pytest.approx((expected_low, expected_high), rel=1e-12)
