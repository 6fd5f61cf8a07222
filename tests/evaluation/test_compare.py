"""Paired comparisons of two score tables: by hand, against slow loops, what is refused, and the files written."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from PIL import Image

from gazekit import InputError
from gazekit.datasets import load
from gazekit.datasets.readers import simulated
from gazekit.evaluation import compare, evaluate, paired_difference, runner
from gazekit.evaluation.compare import compare_scores, difference_figure, run_compare
from gazekit.evaluation.intervals import MIN_IMAGES
from gazekit.evaluation.protocol import Protocol
from gazekit.metrics import METRICS

HEAD = {
    "role": "model", "seen_in_training": False, "dataset": "toy", "simulated": False, "protocol": "toy_viewing v1",
    "split": "test", "checkpoint": "abc", "commit": "12f",
}  # fmt: skip


def table(rows, model="m", **changes):
    """Rows of stimulus, subject, n_fixations, NSS; trials are numbered by (stimulus, subject)."""
    frame = pd.DataFrame(rows, columns=["stimulus", "subject", "n_fixations", "nss"])
    frame["trial"] = pd.factorize(frame["stimulus"] + "/" + frame["subject"], sort=True)[0]
    return frame.assign(model=model, **{**HEAD, **changes})


def crossed_tables(n_images=24, n_subjects=4, seed=0, missing=0.0, spread=0.3):
    """Every subject on every image; images and subjects differ, and so do the numbers of fixations."""
    rng = np.random.default_rng(seed)
    image, subject = rng.normal(2.0, 1.0, n_images), rng.normal(0.0, 0.5, n_subjects)
    slope = rng.normal(0.2, 0.5, n_subjects)
    rows_a, rows_b = [], []
    for i in range(n_images):
        for s in range(n_subjects):
            n = int(rng.integers(1, 9))
            shared = image[i] + subject[s]
            a, b = shared + slope[s] + rng.normal(0, spread), shared + rng.normal(0, spread)
            a, b = (np.nan if rng.random() < missing else x for x in (a, b))
            rows_a.append((f"i{i:02d}", f"s{s}", n, a))
            rows_b.append((f"i{i:02d}", f"s{s}", n, b))
    return table(rows_a), table(rows_b, "w")


def only(compared, metric="nss"):
    rows = compared[compared["metric"] == metric]
    assert len(rows) == 1
    return rows.iloc[0]


def ends(row):
    return row["low"], row["high"]


# By hand


HAND_A = [("a", "s", 1, 1.0), ("a", "t", 3, 2.0), ("b", "s", 2, 5.0)]
HAND_B = [("a", "s", 1, 0.0), ("a", "t", 3, 1.0), ("b", "s", 2, 1.0)]


def test_macro_is_the_mean_of_image_means():
    row = only(compare_scores(table(HAND_A), table(HAND_B, "w")))
    # Image a: (1 * 1 + 3 * 2) / 4 = 1.75 and 0.75; image b: 5 and 1.
    assert (row["mean_a"], row["mean_b"], row["difference"]) == pytest.approx((3.375, 0.875, 2.5))
    assert (row["model_a"], row["model_b"], row["paired_by"]) == ("m", "w", "trial")
    assert (row["n_images"], row["n_pairs"], row["n_total"]) == (2, 3, 3)


def test_micro_is_the_mean_of_all_fixations_or_of_all_trials():
    row = only(compare_scores(table(HAND_A), table(HAND_B, "w"), reduction="micro"))
    # (1 * 1 + 3 * 2 + 2 * 5) / 6 and (0 + 3 + 2) / 6.
    assert (row["mean_a"], row["mean_b"], row["difference"]) == pytest.approx((17 / 6, 5 / 6, 2.0))
    whole = (x.rename(columns={"nss": "cc"}) for x in (table(HAND_A), table(HAND_B, "w")))
    row = only(compare_scores(*whole, reduction="micro"), "cc")
    assert (row["mean_a"], row["mean_b"], row["difference"]) == pytest.approx((8 / 3, 2 / 3, 2.0))


def test_categories_weigh_the_same_whatever_their_size():
    task = {"a": "search", "b": "search", "c": "view"}
    a = table([("a", "s", 1, 1.0), ("b", "s", 1, 2.0), ("c", "s", 1, 9.0)])
    b = table([("a", "s", 1, 0.0), ("b", "s", 1, 0.0), ("c", "s", 1, 0.0)], "w")
    a, b = (x.assign(task=x["stimulus"].map(task)) for x in (a, b))
    assert only(compare_scores(a, b))["difference"] == pytest.approx(4.0)
    assert only(compare_scores(a, b, by="task"))["difference"] == pytest.approx((1.5 + 9.0) / 2)
    # An image in two categories counts in each.
    twice = [x.assign(task=["search", "view", "view"], stimulus=["a", "a", "c"]) for x in (a, b)]
    row = only(compare_scores(*twice, by="task"))
    assert row["n_images"] == 3
    assert row["difference"] == pytest.approx((1.0 + (2.0 + 9.0) / 2) / 2)


@pytest.mark.parametrize("metric", ["cc", "kld"])
def test_scores_of_whole_trials_weigh_trials_equally(metric):
    a, b = (x.rename(columns={"nss": metric}) for x in (table(HAND_A), table(HAND_B, "w")))
    assert only(compare_scores(a, b), metric)["mean_a"] == pytest.approx((1.5 + 5.0) / 2)


def test_a_pair_with_an_undefined_side_is_dropped_and_counted():
    nan = np.nan
    a = table([("a", "s", 1, 1.0), ("a", "t", 3, nan), ("b", "s", 2, 5.0), ("c", "s", 2, 7.0)])
    b = table([("a", "s", 1, 0.0), ("a", "t", 3, 9.0), ("b", "s", 2, 1.0), ("c", "s", 2, nan)], "w")
    row = only(compare_scores(a, b))
    # The nine and the seven have no partner: neither may move a mean.
    assert (row["mean_a"], row["mean_b"], row["difference"]) == pytest.approx((3.0, 0.5, 2.5))
    counts = ["n_images", "n_pairs", "n_total", "n_valid_a", "n_total_a", "n_valid_b", "n_total_b"]
    assert row[counts].tolist() == [2, 2, 4, 3, 4, 3, 4]


def test_without_any_pair_nothing_is_made_up():
    a, b = table(HAND_A), table(HAND_B, "w").assign(nss=np.nan)
    for options in ({}, {"reduction": "micro"}, {"crossed": True}):
        row = only(compare_scores(a, b, **options))
        assert row[["mean_a", "mean_b", "difference", "low", "high"]].isna().all()
        assert (row["n_images"], row["n_pairs"], row["favors"]) == (0, 0, "")


def test_a_category_without_a_pair_leaves_the_mean_undefined():
    a, b = crossed_tables(40)
    a, b = (x.assign(task=np.where(x["stimulus"] < "i20", "p", "q")) for x in (a, b))
    a.loc[a["task"] == "q", "nss"] = np.nan
    row = only(compare_scores(a, b, by="task"))
    assert row[["difference", "low", "high"]].isna().all()


@pytest.mark.parametrize("options", [{}, {"reduction": "micro"}, {"crossed": True}])
def test_infinitely_bad_images_are_not_hidden(options):
    a, b = crossed_tables()
    a.loc[3, "nss"] = -np.inf
    row = only(compare_scores(a, b, **options))
    assert row["difference"] == -np.inf
    assert row["low"] == -np.inf
    # On both sides: how much worse one is than the other is not known.
    b.loc[3, "nss"] = -np.inf
    row = only(compare_scores(a, b, **options))
    assert row["mean_a"] == row["mean_b"] == -np.inf
    assert row[["difference", "low", "high"]].isna().all()


def test_lower_is_better_turns_the_favor():
    a, b = crossed_tables()
    a, b = a.assign(kld=a["nss"] + 3), b.assign(kld=b["nss"])
    a["nss"] += 3
    compared = compare_scores(a, b)
    assert only(compared, "nss")[["favors", "higher_is_better"]].tolist() == ["a", True]
    assert only(compared, "kld")[["favors", "higher_is_better"]].tolist() == ["b", False]
    mirrored = compare_scores(b, a)
    assert only(mirrored, "nss")["favors"] == "b"
    assert only(mirrored, "kld")["favors"] == "a"
    alike = only(compare_scores(a, a.assign(model="again")))
    assert (alike["difference"], *ends(alike), alike["favors"]) == (0.0, 0.0, 0.0, "")


# Against slow loops


def draw(n, n_resamples, seed):
    """The package's numbers of how often each is drawn; their use is spelled out below."""
    return np.random.default_rng(seed).multinomial(n, [1 / n] * n, size=n_resamples)


def trials_of(a, b, by_trial=True):
    """Per image and side its scored trials: subject, fixations, score; only pairs, where trials are paired."""
    found = {}
    partner = [x.set_index("trial")["nss"] for x in (b, a)]
    for side, rows in enumerate((a, b)):
        for row in rows.to_dict("records"):
            other = partner[side][row["trial"]] if by_trial else 0.0
            if not np.isnan(row["nss"] + other):
                found.setdefault(row["stimulus"], ([], []))[side].append(
                    (row["subject"], row["n_fixations"], row["nss"])
                )
    return found


def loop(trials, reduction, images, subjects_a, subjects_b):
    """One resample, trial by trial: `images` and `subjects` say how often each name was drawn."""
    means, tops, belows = ([], []), [0.0, 0.0], [0.0, 0.0]
    for name, times in images.items():
        sides = []
        for drawn, scored in zip((subjects_a, subjects_b), trials[name], strict=True):
            every = [(n, x) for who, n, x in scored for _ in range(drawn[who])]
            sides.append((sum(n * x for n, x in every), sum(n for n, _ in every)))
        if sides[0][1] and sides[1][1]:
            for _ in range(times):
                for k, (top, below) in enumerate(sides):
                    means[k].append(top / below)
                    tops[k] += top
                    belows[k] += below
    if not means[0]:
        return np.nan
    if reduction == "macro":
        return sum(means[0]) / len(means[0]) - sum(means[1]) / len(means[1])
    return tops[0] / belows[0] - tops[1] / belows[1]


def percentiles(draws):
    return tuple(np.nanpercentile(draws, [2.5, 97.5]))


def counted(names, counts):
    return dict(zip(names, counts, strict=True))


@pytest.mark.parametrize("crossed", [False, True])
@pytest.mark.parametrize("reduction", ["macro", "micro"])
def test_intervals_equal_a_slow_loop(reduction, crossed):
    a, b = crossed_tables(26, 3, missing=0.25)
    row = only(compare_scores(a, b, reduction=reduction, crossed=crossed, n_resamples=60, seed=5))
    defined = a["nss"].notna() & b["nss"].notna()
    names, people = sorted(set(a.loc[defined, "stimulus"])), sorted(set(a["subject"]))
    # Some images have no pair at all, some resamples of subjects none on an image.
    assert 20 <= len(names) < 26
    assert row["n_images"] == len(names)
    drawn = draw(len(names), 60, 5)
    trials = trials_of(a, b)
    if crossed:
        subjects = [counted(people, row) for row in draw(3, 60, compare.stream_seed(5, 0))]
    else:
        subjects = [dict.fromkeys(people, 1)] * 60
    every = [
        loop(trials, reduction, counted(names, images), who, who) for images, who in zip(drawn, subjects, strict=True)
    ]
    once = dict.fromkeys(people, 1)
    # The same draws in float64: only the order of sums differs.
    assert row["difference"] == pytest.approx(loop(trials, reduction, dict.fromkeys(names, 1), once, once), abs=1e-12)
    assert ends(row) == pytest.approx(percentiles(every), abs=1e-12)


@pytest.mark.parametrize("reduction", ["macro", "micro"])
@pytest.mark.parametrize("crossed", [False, True])
def test_intervals_with_categories_equal_a_slow_loop(reduction, crossed):
    a, b = crossed_tables(21, 3, missing=0.1)
    task = {name: "pqr"[i % 3] if i < 15 else "p" for i, name in enumerate(sorted(set(a["stimulus"])))}
    a, b = (x.assign(task=x["stimulus"].map(task)) for x in (a, b))
    row = only(compare_scores(a, b, by="task", reduction=reduction, crossed=crossed, n_resamples=50, seed=1))
    people = sorted(set(a["subject"]))
    who = (
        [counted(people, x) for x in draw(3, 50, compare.stream_seed(1, 0))]
        if crossed
        else [dict.fromkeys(people, 1)] * 50
    )
    total = np.zeros(50)
    for k, name in enumerate("pqr"):
        x, y = a[a["task"] == name], b[b["task"] == name]
        trials = trials_of(x, y)
        images = sorted(trials)
        counts = draw(len(images), 50, compare.stream_seed(1, 2 + k))
        total += [loop(trials, reduction, counted(images, c), s, s) / 3 for c, s in zip(counts, who, strict=True)]
    assert ends(row) == pytest.approx(percentiles(total), abs=1e-12)


@pytest.mark.parametrize("crossed", [False, True])
@pytest.mark.parametrize("reduction", ["macro", "micro"])
def test_groups_of_subjects_are_paired_by_image(reduction, crossed):
    whole, _ = crossed_tables(23, 5, missing=0.3, seed=2)
    whole.loc[(whole["stimulus"] == "i04") & (whole["subject"] < "s2"), "nss"] = np.nan
    a, b = whole[whole["subject"] < "s2"], whole[whole["subject"] >= "s2"]
    row = only(compare_scores(a, b, reduction=reduction, crossed=crossed, n_resamples=60))
    both = [set(x.loc[x["nss"].notna(), "stimulus"]) for x in (a, b)]
    names = sorted(both[0] & both[1])
    assert "i04" not in names
    assert (row["paired_by"], row["n_images"], row["n_pairs"], row["n_total"]) == ("image", *[len(names)] * 2, 23)
    assert (row["n_total_a"], row["n_total_b"]) == (46, 69)
    trials = trials_of(a, b, by_trial=False)
    two, three = ["s0", "s1"], ["s2", "s3", "s4"]
    if crossed:
        ours = [counted(two, x) for x in draw(2, 60, compare.stream_seed(0, 0))]
        theirs = [counted(three, x) for x in draw(3, 60, compare.stream_seed(0, 1))]
    else:
        ours, theirs = [dict.fromkeys(two, 1)] * 60, [dict.fromkeys(three, 1)] * 60
    every = [
        loop(trials, reduction, counted(names, c), x, y)
        for c, x, y in zip(draw(len(names), 60, 0), ours, theirs, strict=True)
    ]
    assert ends(row) == pytest.approx(percentiles(every), abs=1e-12)


def test_agrees_with_the_reports_paired_difference():
    a, b = crossed_tables(30, missing=0.0)
    row = only(compare_scores(a, b, seed=3))
    rule = {"draws": 2000, "level": 0.95, "seed": 3}
    expected = paired_difference(pd.concat([a, b]), "nss", "m", "w", rule)
    assert (row["difference"], *ends(row)) == pytest.approx(expected, rel=1e-9)


def test_draws_in_pieces_are_the_same_draws(monkeypatch):
    a, b = crossed_tables()
    whole = compare_scores(a, b, crossed=True, n_resamples=100)
    monkeypatch.setattr(compare, "_DRAWS_AT_ONCE", 7)
    pd.testing.assert_frame_equal(compare_scores(a, b, crossed=True, n_resamples=100), whole)


# Laws


def test_order_of_rows_and_sides():
    a, b = crossed_tables(missing=0.1)
    row = only(compare_scores(a, b))
    shuffled = only(compare_scores(a.sample(frac=1, random_state=0), b.sample(frac=1, random_state=1)))
    assert (shuffled["difference"], *ends(shuffled)) == pytest.approx((row["difference"], *ends(row)), abs=1e-12)
    turned = only(compare_scores(b, a))
    assert (turned["difference"], *ends(turned)) == pytest.approx(
        (-row["difference"], -row["high"], -row["low"]), abs=1e-12
    )


def test_intervals_are_seeded():
    a, b = crossed_tables()
    for options in ({}, {"crossed": True}):
        first, again, other = (ends(only(compare_scores(a, b, seed=s, **options))) for s in (0, 0, 1))
        assert first == again != other


def test_pairing_cancels_what_images_share():
    rng = np.random.default_rng(0)
    difficulty = rng.normal(0.0, 5.0, 40)
    better = difficulty + 0.25 + rng.normal(0, 0.1, 40)
    a = table([(f"i{k:02d}", "s", 3, x) for k, x in enumerate(better)])
    b = table([(f"i{k:02d}", "s", 3, x) for k, x in enumerate(difficulty)], "w")
    paired = only(compare_scores(a, b))
    # The same images of one another's tables put in another order: means unchanged, pairs gone.
    unpaired = only(compare_scores(a, b.assign(nss=rng.permutation(b["nss"]))))
    assert paired["difference"] == pytest.approx(unpaired["difference"])
    # SD 0.1 against 5 * sqrt(2).
    assert (unpaired["high"] - unpaired["low"]) > 30 * (paired["high"] - paired["low"])
    assert paired["favors"] == "a"
    assert unpaired["favors"] == ""


def test_resampling_subjects_widens_what_differs_between_them():
    a, b = crossed_tables(60, 5, spread=0.05)
    images, both = (only(compare_scores(a, b, crossed=crossed)) for crossed in (False, True))
    # The gain of A is a subject's own (SD 0.5) and the same on every image: only subjects make it uncertain.
    assert both["high"] - both["low"] > 5 * (images["high"] - images["low"])
    assert both["difference"] == images["difference"]


def test_categories_of_one_size_are_drawn_independently():
    rng = np.random.default_rng(0)
    effect = rng.normal(0.0, 1.0, 30)
    n = 4
    names = [(k, f"c{c}") for c in range(n) for k in range(30)]
    a = table([(f"{c}i{k:02d}", "s", 1, effect[k]) for k, c in names])
    b = table([(f"{c}i{k:02d}", "s", 1, 0.0) for k, c in names], "w")
    a, b = (x.assign(task=x["stimulus"].str[:2]) for x in (a, b))
    one = [x[x["task"] == "c0"] for x in (a, b)]
    whole, single = only(compare_scores(a, b, by="task")), only(compare_scores(*one))
    # The mean of four alike and independent categories has half the standard error of one; drawn
    # together they would have the same. 2000 draws know the width to some 3 %.
    ratio = (whole["high"] - whole["low"]) / (single["high"] - single["low"])
    assert ratio == pytest.approx(0.5, rel=0.1)


def test_categories_are_resampled_within():
    """What differs between categories alone leaves no uncertainty."""
    a = table([(f"{c}{k:02d}", "s", 1, {"x": 5.0, "y": -3.0}[c]) for c in "xy" for k in range(15)])
    b = a.assign(model="w", nss=0.0)
    a, b = (x.assign(task=x["stimulus"].str[:1]) for x in (a, b))
    row = only(compare_scores(a, b, by="task"))
    assert (row["difference"], *ends(row)) == pytest.approx((1.0, 1.0, 1.0))
    assert only(compare_scores(a, b))["high"] > 1.5


def test_intervals_cover_the_truth():
    n_runs, hits = 100, 0
    rng = np.random.default_rng(1)
    for _ in range(n_runs):
        image, gain = rng.normal(0, 3, 30), rng.normal(0.3, 1.0, 30)
        a = table([(f"i{k:02d}", "s", 2, x) for k, x in enumerate(image + gain)])
        row = only(compare_scores(a, a.assign(nss=image, model="w"), n_resamples=300))
        hits += row["low"] <= 0.3 <= row["high"]
    # 95 % nominal; the percentile bootstrap of 30 values loses some 1.5 %, the standard error is 2.3 %.
    assert 0.87 < hits / n_runs < 0.99


# Few images


@pytest.mark.parametrize(("n_images", "has_one"), [(MIN_IMAGES - 1, False), (MIN_IMAGES, True)])
def test_few_images_have_values_instead_of_an_interval(n_images, has_one):
    a, b = crossed_tables(n_images)
    row = only(compare_scores(a, b))
    assert np.isfinite(ends(row)).tolist() == [has_one, has_one]
    assert len(row["values"]) == (0 if has_one else n_images)
    if not has_one:
        assert np.mean(row["values"]) == pytest.approx(row["difference"])
        assert row["favors"] == ""


@pytest.mark.parametrize(("smallest", "has_one"), [(4, False), (5, True)])
def test_a_tiny_category_takes_the_interval_away(smallest, has_one):
    a, b = crossed_tables(30)
    a, b = (x.assign(task=np.where(x["stimulus"] < f"i{smallest:02d}", "p", "q")) for x in (a, b))
    row = only(compare_scores(a, b, by="task"))
    assert np.isfinite(row["low"]) == has_one
    assert len(row["values"]) == (0 if has_one else 30)


# What is refused


def refused(a, b, match, **options):
    with pytest.raises(InputError, match=match) as caught:
        compare_scores(a, b, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("column", "ours", "theirs"),
    [
        ("dataset", "toy", "osie"), ("protocol", "toy_viewing v1", "toy_viewing v2"), ("split", "test", "val"),
        ("data_fingerprint", "aa", "bb"), ("first_fixation", "drop", "keep"), ("out_of_image", "drop", "clip"),
        ("grid", "stimulus", "[200, 150]"), ("baseline", "center_bias", "uniform"), ("empirical", "subject", "pooled"),
        ("empirical_sigma_dva", "1.0", "2.0"), ("shuffled_from", "all_other_images", "none"),
    ],
)  # fmt: skip
def test_other_conditions_are_refused(column, ours, theirs):
    a, b = table(HAND_A).assign(**{column: ours}), table(HAND_B, "w").assign(**{column: theirs})
    refused(a, b, rf"A and B differ in {column}: '{re.escape(ours)}' and '{re.escape(theirs)}'")
    compare_scores(a, b.assign(**{column: ours}))


def test_a_mixture_is_refused():
    a = table(HAND_A).assign(split=["test", "val", "test"])
    refused(a, table(HAND_B), r"A mixes 2 values of split, \['test', 'val'\]")


def test_other_stimuli_are_refused():
    b = table(HAND_B).replace({"stimulus": {"b": "z"}})
    refused(table(HAND_A), b, r"differ in stimuli: 2 and 2, 1 in common \(only in A: 'b', only in B: 'z'\)")
    refused(table(HAND_A), table(HAND_B[:2]), r"differ in stimuli: 2 and 1, 1 in common \(only in A: 'b'\)")


def test_other_trials_are_refused():
    refused(
        table(HAND_A), table(HAND_B).assign(trial=[0, 1, 7]), r"differ in trials: 3 and 3, 2 in common .*'b', 's', 7"
    )
    refused(table(HAND_A), pd.concat([table(HAND_B)] * 2), r"B lists a trial of 'm' twice: stimulus 'a', subject 's'")


def test_subjects_that_overlap_are_refused():
    b = table(HAND_B).replace({"subject": {"t": "u"}})
    refused(table(HAND_A), b, "A has 2 subjects and B 2, 1 of them in both")


def test_another_first_fixation_rule_shows_in_the_table_itself():
    b = table(HAND_B)
    b["n_fixations"] += [0, 1, 0]
    refused(
        table(HAND_A),
        b,
        r"differ in the fixations scored on 1 of 3 trials \(stimulus 'a', subject 't', trial '1': 3 and 4\)",
    )


def test_no_common_metric_is_refused():
    a, b = table(HAND_A), table(HAND_B).rename(columns={"nss": "cc"})
    refused(a, b, r"no metric in common: A has \['nss'\], B has \['cc'\]")


def test_several_models_need_a_choice():
    both = pd.concat([table(HAND_A), table(HAND_B, "w")])
    refused(both, table(HAND_B), r"A holds 2 models, \['m', 'w'\]; say which: --model-a NAME")
    refused(table(HAND_B), both, r"B holds 2 models, .*--model-b NAME")
    refused(both, both, "no model \\(in A\\) named 'x'", model_a="x", model_b="m")
    row = only(compare_scores(both, both, model_a="m", model_b="w"))
    assert (row["model_a"], row["model_b"], row["difference"]) == ("m", "w", 2.5)
    # Controls and people stand in every table; the one model among them is meant.
    beside = pd.concat([table(HAND_A), table(HAND_B, "human", role="ceiling")])
    assert only(compare_scores(beside, table(HAND_B)))["model_a"] == "m"


def test_columns_of_categories_are_checked():
    a, b = table(HAND_A, task="p"), table(HAND_B, "w", task="p")
    for name in ("category", "subject", "nss"):
        refused(a, b, f"A has no column of categories named '{name}'; it has .*'task'", by=name)
    refused(a, b.drop(columns="task"), "B has no column of categories named 'task'", by="task")
    refused(a, b.assign(task=["p", None, "p"]), "B has 1 of 3 trials without a task", by="task")
    other = b.assign(task=["p", "q", "p"])
    refused(a, other, "differ in task at stimulus 'a', subject 't', trial '1': 'p' and 'q'", by="task")
    group = other.assign(subject="other", trial=[7, 8, 9])
    refused(a, group, r"differ in images of each task: 2 and 3, 2 in common \(only in B: \('q', 'a'\)\)", by="task")


def test_options_are_checked():
    a, b = table(HAND_A), table(HAND_B, "w")
    refused(a, b, "no reduction named 'median'; known: macro, micro", reduction="median")
    refused(a, b, "expected n_resamples >= 1 and seed >= 0, found 0 and 0", n_resamples=0)
    refused(a, b, "expected n_resamples >= 1 and seed >= 0, found 2000 and -1", seed=-1)
    one = [x[x["subject"] == "s"] for x in (a, b)]
    refused(*one, "needs at least 2 on each side, found 1", crossed=True)
    refused(a.drop(columns=["trial", "split"]), b, r"A is not a score table.*lacks the columns \['trial', 'split'\]")
    refused(a, b[:0], "B holds no scores")


# The figure


def drawn(axis):
    """(x data, marker, color) of every line of an axis."""
    return [(np.asarray(line.get_xdata()), line.get_marker(), to_hex(line.get_color())) for line in axis.lines]


def test_figure_shows_differences_and_directions():
    a, b = crossed_tables()
    a, b = a.assign(kld=a["nss"] + 3, cc=a["nss"]), b.assign(kld=b["nss"], cc=a["nss"])
    compared = compare_scores(a, b)
    figure = difference_figure(compared)
    assert len(figure.axes) == 3
    for axis, (_, row) in zip(figure.axes, compared.iterrows(), strict=True):
        info = METRICS[row["metric"]]
        assert axis.get_title("left").startswith(info.label)
        assert axis.get_title("right") == ("A better →" if info.higher_is_better else "← A better")
        zero, span, point = drawn(axis)
        assert (zero[0] == 0).all()
        np.testing.assert_allclose(span[0], ends(row))
        np.testing.assert_allclose(point[0], [row["difference"]])
        left, right = axis.get_xlim()
        assert left == -right
        assert left < row["low"]
        assert row["high"] < right
        # KLD favors B, CC is the same.
        assert point[2] == {"a": "#0072b2", "b": "#d55e00", "": "#5a5a5a"}[row["favors"]]
    assert only(compared, "kld")["favors"] == "b"
    assert "A: m    B: w" in figure.get_supxlabel()
    assert not figure.get_suptitle()


def test_figure_of_simulated_data_says_so():
    a, b = crossed_tables()
    for changed in ((a.assign(simulated=True), b), (a, b.assign(simulated=True))):
        compared = compare_scores(*changed)
        assert compared["simulated"].all()
        assert difference_figure(compared).get_suptitle() == "SIMULATED"


def test_figure_of_few_images_draws_them():
    figure = difference_figure(compare_scores(*crossed_tables(7)))
    assert [len(x) for x, marker, _ in drawn(figure.axes[0]) if marker == "o"] == [7, 1]
    assert "interval over" not in figure.get_supxlabel()


@pytest.mark.parametrize("bad", [np.nan, -np.inf])
def test_figure_of_undefined_differences(tmp_path, bad):
    a, b = crossed_tables()
    figure = difference_figure(compare_scores(a.assign(nss=bad), b))
    figure.savefig(tmp_path / "x.png")
    assert ("–" if np.isnan(bad) else "-inf") in figure.axes[0].get_title("left")


# The command


def write(folder, scores, **rules):
    folder.mkdir()
    scores.to_parquet(folder / "scores.parquet", index=False)
    protocol = {"first_fixation": "drop", "grid": "stimulus", "metrics": ["nss"], **rules}
    (folder / "evaluation.json").write_text(json.dumps({"protocol": protocol, "data": {"fingerprint": "f"}}))
    return folder / "scores.parquet"


def test_command_prints_and_writes(tmp_path, capsys):
    a, b = crossed_tables(missing=0.1)
    a["cc"] = 1.0
    a.loc[:3, "seen_in_training"] = True
    one, two = write(tmp_path / "a", a), write(tmp_path / "b", b.assign(commit="456"))
    run_compare(one, two, tmp_path / "out", n_resamples=200)
    row = only(compare_scores(a, b, n_resamples=200))
    text = capsys.readouterr().out
    line = next(line for line in text.splitlines() if line.startswith("NSS ↑"))
    for shown in (f"{row['difference']:+.4f}", f"{row['low']:+.4f} to {row['high']:+.4f}", f"{row['mean_a']:.3f}"):
        assert shown in line
    assert f"{row['n_pairs']} / 96" in line
    assert f"{row['n_valid_a']} / 96" in line
    for note in (
        "A was trained on 1 of the scored images", "only A has CC", "A was scored at commit 12f, B at 456",
    ):  # fmt: skip
        assert f"note: {note}" in text
    assert "SIMULATED" not in text
    written = pd.read_csv(tmp_path / "out" / "comparison.csv")
    for key in ("mean_a", "mean_b", "difference", "low", "high", "n_images", "seed", "checkpoint_a", "commit_a"):
        assert written[key].item() == row[key], key
    with Image.open(tmp_path / "out" / "comparison.png") as image:
        assert image.format == "PNG"
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["comparison.csv", "comparison.png"]


def test_command_prints_single_images_where_they_are_few(tmp_path, capsys):
    paths = [write(tmp_path / name, x) for name, x in zip("ab", crossed_tables(3), strict=True)]
    run_compare(*paths, tmp_path / "out")
    values = only(compare_scores(*crossed_tables(3)))["values"]
    assert f"on each image: {' '.join(f'{x:+.4f}' for x in values)}" in capsys.readouterr().out
    text = pd.read_csv(tmp_path / "out" / "comparison.csv")["values"].item()
    assert tuple(map(float, text.split(";"))) == values


def test_command_reads_the_rules_beside_the_scores(tmp_path):
    a, b = crossed_tables()
    one, two = write(tmp_path / "a", a), write(tmp_path / "b", b, first_fixation="keep")
    with pytest.raises(InputError, match="differ in first_fixation: 'drop' and 'keep'"):
        run_compare(one, two, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_command_without_a_record_says_what_was_not_checked(tmp_path, capsys):
    a, b = crossed_tables()
    one, two = write(tmp_path / "a", a), write(tmp_path / "b", b)
    (tmp_path / "b" / "evaluation.json").unlink()
    run_compare(one, two, tmp_path / "out")
    assert re.findall(r"no evaluation.json lies beside (\w)", capsys.readouterr().out) == ["B"]


def test_command_compares_groups_of_subjects_in_one_file(tmp_path, capsys):
    path = write(tmp_path / "a", crossed_tables()[0])
    run_compare(path, path, tmp_path / "out", subjects_a=["s0", "s3"], subjects_b=["s1", "s2"])
    written = pd.read_csv(tmp_path / "out" / "comparison.csv")
    assert written[["paired_by", "n_total_a", "n_total_b"]].iloc[0].tolist() == ["image", 48, 48]
    assert "paired by image" in capsys.readouterr().out
    with pytest.raises(InputError, match=r"no subject \(in .*\) named 's9'"):
        run_compare(path, path, tmp_path / "out", subjects_a=["s9"])


def test_command_refuses_what_is_no_comparison(tmp_path):
    path = write(tmp_path / "a", crossed_tables()[0])
    with pytest.raises(InputError, match="A and B are the same scores, 'm'"):
        run_compare(path, path, tmp_path / "out")
    with pytest.raises(InputError, match=r"no score table .*none\.parquet"):
        run_compare(path, tmp_path / "none.parquet", tmp_path / "out")
    (tmp_path / "text.parquet").write_text("stimulus,nss\n")
    with pytest.raises(InputError, match=r"text\.parquet is not a score table"):
        run_compare(path, tmp_path / "text.parquet", tmp_path / "out")
    pd.DataFrame({"x": [1]}).to_parquet(tmp_path / "other.parquet")
    with pytest.raises(InputError, match=r"other\.parquet is not a score table .*lacks the columns"):
        run_compare(path, tmp_path / "other.parquet", tmp_path / "out")


def test_command_on_a_real_evaluation(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(simulated, "_PHOTOGRAPHS", ("coins", "rocket", "coffee", "chelsea"))
    data = load("simulated", root=tmp_path / "simulated")
    few = data.subset(subjects=["sim01", "sim02"])
    monkeypatch.setattr(runner, "load", lambda name, root=None: few)
    protocol = replace(
        Protocol.read("simulated_free_viewing"),
        split="all",
        metrics=("nss", "kld"),
        controls=("uniform",),
        chance=None,
        grid=(40, 30),
    )
    scores = evaluate(protocol, [], tmp_path / "one").scores
    kept = replace(protocol, first_fixation="keep")
    evaluate(kept, [], tmp_path / "kept")
    out = tmp_path / "out"
    run_compare(tmp_path / "one", tmp_path / "one", out, model_a="human", model_b="uniform", crossed=True)
    assert "SIMULATED DATA, no person was measured" in capsys.readouterr().out
    written = pd.read_csv(out / "comparison.csv").set_index("metric")
    # An edit distance between scanpaths of different lengths favors nobody here.
    assert (written.loc[["nss", "kld", "multimatch_position"], "favors"] == "a").all()
    gap = scores[scores["model"] == "human"]["nss"].mean() - scores[scores["model"] == "uniform"]["nss"].mean()
    # Another weighting of the same trials.
    assert written.loc["nss", "difference"] == pytest.approx(gap, rel=0.3)
    assert written["simulated"].all()
    with pytest.raises(InputError, match="differ in first_fixation: 'drop' and 'keep'"):
        run_compare(tmp_path / "one", tmp_path / "kept", out, model_a="human", model_b="human")
    bare = [pd.read_parquet(tmp_path / name / "scores.parquet") for name in ("one", "kept")]
    with pytest.raises(InputError, match="differ in the fixations scored"):
        compare_scores(*bare, model_a="human", model_b="human")
