"""From scores per trial to one number per model: means, chance, shares, scores over all trials, notes; by loops."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from path_world import (
    IMAGES,
    MEAN,
    SIZE,
    SUBJECTS,
    box_of,
    column_of,
    comparing,
    fixations_until,
    made_up,
    make_world,
    mean,
    people,
    rules,
    run,
    search_scores,
    searching,
    trials_on,
    write_model,
    written,
)

import gazekit.metrics as gm
from gazekit.evaluation import runner
from gazekit.evaluation.command import run_evaluation
from gazekit.evaluation.compare import run_compare
from gazekit.evaluation.summary import notes, summary_of

TARGETS = {image: "cup" if image in ("i0", "i2", "i4") else "fork" for image in IMAGES}


def value(summary, model, metric, column="mean"):
    rows = summary[(summary["model"] == model) & (summary["metric"] == metric)]
    assert len(rows) == 1
    return float(rows[column].iloc[0])


def uneven(**options):
    """Some people saw some images only: one on i0, two on i1, all four on the others; "cup" has the small one."""
    data = make_world(images=IMAGES[:5], **options)
    return data.subset(trials=[t for t in data.trials["trial"] if t not in (1, 2, 3, 6, 7)])


# Means


def by_hand(scores, trials, how, by=None, weights=None):
    """Mean of the scores of trials: over images of the mean over trials, or over trials; then over categories."""
    weights = weights or dict.fromkeys(scores, 1.0)
    groups = {}
    for trial, score in scores.items():
        if math.isnan(score):
            continue
        image = trials.loc[trial, "stimulus"]
        category = trials.loc[trial, by] if by else ""
        groups.setdefault(category, {}).setdefault(image, []).append((score, weights[trial]))
    over = []
    for images in groups.values():
        if how == "macro":
            over.append(mean([sum(s * w for s, w in some) / sum(w for _, w in some) for some in images.values()]))
        else:
            every = [pair for some in images.values() for pair in some]
            over.append(sum(s * w for s, w in every) / sum(w for _, w in every))
    return sum(over) / len(over)


MAPS = {
    "metrics": ["nss"], "baseline": "center_bias", "empirical": "subject", "empirical_sigma_dva": 1.0,
    "shuffled_from": "all_other_images",
}  # fmt: skip


@pytest.mark.parametrize("how", ["macro", "micro"])
@pytest.mark.parametrize("by", [None, "target"])
def test_reductions_are_those_of_a_loop(tmp_path, how, by):
    data = uneven()
    protocol = rules(
        **MAPS, controls=["center_bias"], paths=comparing({"dtw": MEAN, "sed": MEAN}), search=searching(4),
        reduction=how, by=by, pooled=["sed"],
    )  # fmt: skip
    evaluation = run(data, protocol, tmp_path)
    summary, trials = summary_of(evaluation), data.trials.set_index("trial")
    n_fixations = column_of(evaluation, "center_bias", "n_fixations")
    for model in ("human", "center_bias"):
        for metric in ("dtw", "sed", "search_accuracy", "nss"):
            scores = column_of(evaluation, model, metric)
            weights = n_fixations if metric == "nss" else None
            pooled = metric == "sed"
            expected = by_hand(scores, trials, "micro" if pooled else how, None if pooled else by, weights)
            assert value(summary, model, metric) == pytest.approx(expected, rel=1e-12), (model, metric)
            assert value(summary, model, metric, "n_valid") == sum(not math.isnan(score) for score in scores.values())
            assert value(summary, model, metric, "n_total") == len(trials)
    # The four ways are four numbers here; otherwise the loop above says little.
    scores = column_of(evaluation, "center_bias", "dtw")
    ways = {round(by_hand(scores, trials, h, b), 6) for h in ("macro", "micro") for b in (None, "target")}
    assert len(ways) == 4


def test_the_interval_resamples_images_within_their_category(tmp_path):
    """Of two categories with constant scores no resample moves the mean; pooled, the shares of categories would."""
    edit = {(i, s): [(5.0, 5.0)] * (3 if TARGETS[i] == "cup" else 6) for i in IMAGES for s in SUBJECTS}
    data = make_world(edit=edit)
    # At least 20 images in all and 5 in a category are wanted for an interval: copies of these.
    parts = []
    for k in range(4):
        names = {image: f"{image}_{k}" for image in IMAGES}
        tables = {}
        for name in ("fixations", "trials", "stimuli"):
            table = getattr(data, name)
            table = table.assign(stimulus=table["stimulus"].map(names))
            tables[name] = table.assign(trial=table["trial"] + 100 * k) if "trial" in table else table
        parts.append(tables)
    joined = {name: pd.concat([part[name] for part in parts], ignore_index=True) for name in parts[0]}
    data = replace(data, **joined)
    common = {"search": searching(9, scores=["search_length"])}
    summary = summary_of(run(data, rules(by="target", **common), tmp_path / "1"))
    assert [value(summary, "human", "search_length", k) for k in ("mean", "low", "high")] == [4.5, 4.5, 4.5]
    summary = summary_of(run(data, rules(**common), tmp_path / "2"))
    low, middle, high = (value(summary, "human", "search_length", k) for k in ("low", "mean", "high"))
    assert low < middle == 4.5 < high


# Chance and the share of the ceiling


def test_the_share_of_the_ceiling_is_from_chance_to_people(tmp_path):
    data = make_world()
    model = write_model(tmp_path / "m.csv", made_up(data))
    protocol = rules(
        first_fixation="recorded", controls=["uniform", "shuffled_human"], chance="shuffled_human",
        paths=comparing({"dtw": MEAN, "ss_grid": MEAN}),
        search=searching(4, scores=["search_accuracy", "search_fixations"]),
    )  # fmt: skip
    evaluation = run(data, protocol, tmp_path / "out", [model])
    summary = summary_of(evaluation)
    trials = data.trials.set_index("trial")
    beaten = []
    for metric, sign in (("dtw", -1), ("ss_grid", 1), ("search_accuracy", 1)):
        means = {
            name: by_hand(column_of(evaluation, name, metric), trials, "macro")
            for name in ("m", "uniform", "shuffled_human", "human")
        }
        room = means["human"] - means["shuffled_human"]
        for name, score in means.items():
            assert value(summary, name, metric, "chance") == pytest.approx(means["shuffled_human"], rel=1e-12)
            share = (score - means["shuffled_human"]) / room if sign * room > 0 else math.nan
            assert value(summary, name, metric, "of_ceiling") == pytest.approx(share, rel=1e-9, nan_ok=True)
        beaten.append(sign * room > 0)
    assert beaten[2]
    # What has no better direction has no share; the human value is the best one.
    assert math.isnan(value(summary, "m", "search_fixations", "of_ceiling"))


def test_no_share_where_people_do_not_beat_chance(tmp_path):
    """Everybody looks at every image in a way of their own: another image's people are as good, and oneself is one."""
    ways = {s: [(20.0 + 50 * k, 20.0), (30.0 + 50 * k, 120.0), (40.0, 30.0 * k)] for k, s in enumerate(SUBJECTS)}
    data = make_world(edit={(image, s): way for image in IMAGES for s, way in ways.items()})
    protocol = rules(controls=["uniform", "shuffled_human"], chance="shuffled_human", paths=comparing({"dtw": MEAN}))
    evaluation = run(data, protocol, tmp_path)
    summary = summary_of(evaluation)
    assert value(summary, "shuffled_human", "dtw") < value(summary, "human", "dtw")
    assert summary["of_ceiling"].isna().all()
    assert "human does not beat chance in DTW, so there is no share of the ceiling" in notes(evaluation, summary)


# Scores over all trials


def curve_of(paths, box, limit):
    steps = [fixations_until(path[:limit], box) for path in paths]
    return [sum(n <= k for n in steps) / len(steps) for k in range(1, limit + 1)]


def mean_curve(curves, by_target):
    """Mean over the images of a target, then over targets; or over images."""
    groups = {}
    for image, curve in curves.items():
        groups.setdefault(TARGETS[image] if by_target else "", []).append(curve)
    means = [np.mean(group, axis=0) for group in groups.values()]
    return np.mean(means, axis=0)


@pytest.mark.parametrize("by", [None, "target"])
def test_probability_mismatch_is_that_of_a_loop(tmp_path, by):
    data = make_world().subset(stimuli=list(IMAGES[:5]))
    made = {image: paths for image, paths in made_up(data).items() if image != "i5"}
    protocol = rules(search=searching(4), overall=["probability_mismatch"], by=by)
    summary = summary_of(run(data, protocol, tmp_path / "o", [write_model(tmp_path / "m.csv", made)]))
    paths = people(data)
    human = mean_curve({i: curve_of([paths[j] for j in trials_on(data, i)], box_of(i), 5) for i in IMAGES[:5]}, by)
    model = mean_curve({i: curve_of(made[i], box_of(i), 5) for i in IMAGES[:5]}, by)
    expected = sum(abs(a - b) for a, b in zip(model, human, strict=True))
    assert expected > 0.1
    assert value(summary, "m", "probability_mismatch") == pytest.approx(expected, abs=1e-12)


def test_curves_are_shares_of_trials_where_trials_weigh_the_same(tmp_path):
    """By definition a curve is a share of trials, and the area under it one of the columns."""
    data = uneven(seed=9)
    protocol = rules(search=searching(4, scores=["tfp_auc"]), overall=["probability_mismatch"], reduction="micro")
    made = {image: [[(3.0, 3.0)] * 5] for image in IMAGES[:5]}
    summary = summary_of(run(data, protocol, tmp_path / "o", [write_model(tmp_path / "m.csv", made)]))
    # The model never finds anything: the mismatch is the area under people's curve.
    assert value(summary, "m", "probability_mismatch") == pytest.approx(value(summary, "human", "tfp_auc"), abs=1e-12)


def ranks(values):
    """Average ranks."""
    return [sum(v < x for v in values) + (sum(v == x for v in values) + 1) / 2 for x in values]


def pearson(a, b):
    a, b = np.asarray(a) - np.mean(a), np.asarray(b) - np.mean(b)
    return float((a * b).sum() / math.sqrt((a * a).sum() * (b * b).sum()))


def steps_on(paths, image, limit=5):
    return mean([search_scores(path, box_of(image), limit)["search_fixations_all"] for path in paths])


def test_search_correlation_is_over_images(tmp_path):
    data = make_world(seed=17)
    made = made_up(data)
    protocol = rules(search=searching(4), overall=["search_correlation"])
    summary = summary_of(run(data, protocol, tmp_path / "o", [write_model(tmp_path / "m.csv", made)]))
    paths = people(data)
    human = [steps_on([paths[j] for j in trials_on(data, image)], image) for image in IMAGES]
    model = [steps_on(made[image], image) for image in IMAGES]
    expected = pearson(ranks(human), ranks(model))
    assert value(summary, "m", "search_correlation") == pytest.approx(expected, abs=1e-12)
    assert abs(expected - pearson(human, model)) > 1e-3
    assert value(summary, "m", "search_correlation", "chance") == 0.0


def test_image_correlation_asks_where_people_are_alike(tmp_path):
    data = make_world(seed=19)
    model = write_model(tmp_path / "m.csv", made_up(data))
    protocol = rules(paths=comparing({"dtw": MEAN}), overall=["image_correlation.dtw"])
    evaluation = run(data, protocol, tmp_path / "o", [model])
    per_image = {
        name: [mean([column_of(evaluation, name, "dtw")[t] for t in trials_on(data, image)]) for image in IMAGES]
        for name in ("human", "m")
    }
    summary = summary_of(evaluation)
    expected = pearson(per_image["human"], per_image["m"])
    assert value(summary, "m", "image_correlation.dtw") == pytest.approx(expected, abs=1e-12)


def test_a_correlation_over_less_than_half_of_the_images(tmp_path):
    """A model that finds few targets has the score on some images only; the correlation is over those."""
    data = make_world(seed=19)
    made = made_up(data)
    model = write_model(tmp_path / "m.csv", {image: made[image] for image in IMAGES[:3]})
    protocol = rules(paths=comparing({"dtw": MEAN}), overall=["image_correlation.dtw"])
    evaluation = run(data, protocol, tmp_path / "o", [model])
    per_image = {
        name: [mean([column_of(evaluation, name, "dtw")[t] for t in trials_on(data, image)]) for image in IMAGES[:3]]
        for name in ("human", "m")
    }
    expected = pearson(per_image["human"], per_image["m"])
    assert value(summary_of(evaluation), "m", "image_correlation.dtw") == pytest.approx(expected, abs=1e-12)


FIVE = ["object_correct", "object_length", "object_search", "object_refix", "object_revisit"]


def test_the_delta_of_objects_is_of_means(tmp_path):
    data = make_world(seed=23, lengths=(5, 9))
    model = write_model(tmp_path / "m.csv", made_up(data))
    protocol = rules(objects={"grid": [4, 3], "scores": FIVE}, overall=["object_delta"])
    evaluation = run(data, protocol, tmp_path / "o", [model])
    trials = data.trials.set_index("trial")
    means = {
        name: [by_hand(column_of(evaluation, name, column), trials, "macro") for column in FIVE]
        for name in ("m", "human")
    }
    expected = mean([abs(a - b) / b for a, b in zip(means["m"], means["human"], strict=True)])
    assert value(summary_of(evaluation), "m", "object_delta") == pytest.approx(expected, abs=1e-12)


def saccades_by_hand(paths):
    """Amplitudes in degrees (10 px each) and directions in degrees, up positive, of all saccades of all paths."""
    amplitudes, directions = [], []
    for path in paths:
        for (x, y), (u, v) in pairwise(path):
            amplitudes.append(math.hypot(u - x, v - y) / 10.0)
            directions.append(math.degrees(math.atan2(-(v - y), u - x)))
    return amplitudes, directions


def js_of(a, b, width, low):
    """Jensen-Shannon divergence, bits, of two samples in bins of that width, each smoothed by 1e-9."""

    def histogram(values):
        counts = {}
        for x in values:
            counts[math.floor((x - low) / width)] = counts.get(math.floor((x - low) / width), 0) + 1
        return counts

    one, two = histogram(a), histogram(b)
    total = 0.0
    for k in one.keys() | two.keys():
        p, q = one.get(k, 0) / len(a), two.get(k, 0) / len(b)
        m = (p + q) / 2
        total += sum(0.5 * r * math.log2(r / m) for r in (p, q) if r > 0)
    return total


def test_divergence_of_saccades_is_that_of_pooled_ones(tmp_path):
    data = make_world(seed=29, lengths=(6, 7))
    made = made_up(data)
    protocol = rules(paths=comparing({"dtw": MEAN}), overall=["amplitude_js", "direction_js"])
    summary = summary_of(run(data, protocol, tmp_path / "o", [write_model(tmp_path / "m.csv", made)]))
    human = saccades_by_hand(people(data).values())
    model = saccades_by_hand([path for some in made.values() for path in some])
    assert len(human[0]) == 5 * 24
    amplitude = js_of(model[0], human[0], 0.5, 0.0)
    # Bins are centered on the cardinal directions, so that the last one is also the first.
    around = [[(angle + 5.0) % 360.0 for angle in side[1]] for side in (model, human)]
    direction = js_of(*around, 10.0, 0.0)
    assert value(summary, "m", "amplitude_js") == pytest.approx(amplitude, abs=1e-6)
    assert value(summary, "m", "direction_js") == pytest.approx(direction, abs=1e-6)
    assert 0.05 < amplitude < 1.0


def test_directions_are_binned_as_the_metric_does(tmp_path):
    data = make_world(seed=29, lengths=(6, 7))
    made = made_up(data)
    protocol = rules(paths=comparing({"dtw": MEAN}), overall=["direction_js"])
    summary = summary_of(run(data, protocol, tmp_path / "o", [write_model(tmp_path / "m.csv", made)]))
    sides = [
        gm.direction_histogram(torch.tensor(saccades_by_hand(paths)[1], dtype=torch.float64))
        for paths in ([path for some in made.values() for path in some], people(data).values())
    ]
    expected = float(gm.js_divergence(*sides))
    assert value(summary, "m", "direction_js") == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    "first_fixation",
    [
        "keep",
        "drop",
        "center",
    ],
)
def test_a_model_that_looks_as_people_do_makes_their_saccades(tmp_path, first_fixation):
    """Exact copies of all scanpaths, made of as many saccades as those of people."""
    middle = [SIZE[0] / 2, SIZE[1] / 2]
    data = make_world(seed=31, lengths=(5, 8))
    edit = {
        (row.stimulus, row.subject): [middle, *map(list, people(data)[row.trial])] for row in data.trials.itertuples()
    }
    data = make_world(edit=edit)
    data.fixations.to_parquet(tmp_path / "copy.parquet")
    protocol = rules(
        first_fixation=first_fixation, paths=comparing({"dtw": MEAN}), overall=["amplitude_js", "direction_js"]
    )
    summary = summary_of(run(data, protocol, tmp_path / "o", [tmp_path / "copy.parquet"]))
    assert value(summary, "copy", "amplitude_js") == pytest.approx(0.0, abs=1e-9)
    assert value(summary, "copy", "direction_js") == pytest.approx(0.0, abs=1e-9)


def test_people_are_one_half_against_the_other(tmp_path):
    """Of two people there is one way to halve them, so that the value for people is known."""
    data = make_world(seed=37).subset(subjects=["s1", "s3"])
    model = write_model(tmp_path / "m.csv", made_up(data))
    protocol = rules(
        search=searching(4), paths=comparing({"dtw": MEAN}),
        overall=["probability_mismatch", "search_correlation", "amplitude_js"],
    )  # fmt: skip
    summary = summary_of(run(data, protocol, tmp_path / "o", [model]))
    paths, sides = people(data), []
    for subject in ("s1", "s3"):
        own = data.trials.loc[data.trials["subject"] == subject].set_index("stimulus")["trial"]
        sides.append({image: paths[int(own[image])] for image in IMAGES})
    curves = [mean_curve({i: curve_of([side[i]], box_of(i), 5) for i in IMAGES}, False) for side in sides]
    mismatch = sum(abs(a - b) for a, b in zip(*curves, strict=True))
    assert value(summary, "human", "probability_mismatch") == pytest.approx(mismatch, abs=1e-12)
    rank = [ranks([steps_on([side[image]], image) for image in IMAGES]) for side in sides]
    assert value(summary, "human", "search_correlation") == pytest.approx(pearson(*rank), abs=1e-12)


def test_halves_are_many_and_of_people(tmp_path):
    """Four people are halved in three ways: the value lies among theirs, close to the mean, and no model is in it."""
    data = make_world(seed=41)
    protocol = rules(search=searching(4), overall=["probability_mismatch"])
    summary = summary_of(run(data, protocol, tmp_path / "1"))
    paths = people(data)
    found = []
    for other in (1, 2, 3):
        curves = []
        for half in ({0, other}, {1, 2, 3} - {other}):
            per_image = {
                image: curve_of([paths[j] for j in trials_on(data, image) if j % 4 in half], box_of(image), 5)
                for image in IMAGES
            }
            curves.append(mean_curve(per_image, False))
        found.append(sum(abs(a - b) for a, b in zip(*curves, strict=True)))
    got = value(summary, "human", "probability_mismatch")
    assert min(found) < got < max(found)
    assert got == pytest.approx(mean(found), abs=3 * np.std(found) / 10)
    model = write_model(tmp_path / "m.csv", made_up(data))
    again = summary_of(run(data, protocol, tmp_path / "2", [model]))
    assert value(again, "human", "probability_mismatch") == got


def test_one_person_has_no_halves(tmp_path):
    data = make_world().subset(subjects=["s2"])
    protocol = rules(search=searching(4), overall=["probability_mismatch"])
    model = write_model(tmp_path / "m.csv", made_up(data))
    summary = summary_of(run(data, protocol, tmp_path / "o", [model]))
    assert math.isnan(value(summary, "human", "probability_mismatch"))
    assert value(summary, "m", "probability_mismatch") > 0


# Notes


def test_how_many_people_and_how_many_pairs_are_said(tmp_path):
    data = uneven()
    protocol = rules(controls=["uniform"], paths=comparing({"dtw": {"reduce": "mean", "at_least": 5}}, length=9))
    evaluation = run(data, protocol, tmp_path)
    said = notes(evaluation, summary_of(evaluation))
    assert "people per image: 1 to 4, median 4" in said
    lengths = {j: len(path) for j, path in people(data).items()}
    shares = []
    for image in IMAGES[:5]:
        shares += [float(lengths[j] >= 5) for j in trials_on(data, image)]
    assert 0 < np.mean(shares) < 1
    # Of a person j, the share of the others' scanpaths that can be compared with hers; nobody alone is in it.
    pairs = []
    for image in IMAGES[:5]:
        trials = trials_on(data, image)
        for j in trials:
            others = [float(lengths[i] >= 5 and lengths[j] >= 5) for i in trials if i != j]
            pairs += [np.mean(others)] if others else []
    short = "of its pairs of scanpaths have no score in some column (too short)"
    assert f"human: {1 - np.mean(pairs):.0%} {short}" in said
    # A model that loses no more than people do is not blamed; one whose own scanpaths are too short is.
    assert not [line for line in said if line.startswith("uniform")]
    brief = replace(protocol, paths=replace(protocol.paths, length=4))
    evaluation = run(data, brief, tmp_path / "brief")
    assert f"uniform: 100% {short}" in notes(evaluation, summary_of(evaluation))


def test_what_is_missing_is_said(tmp_path):
    protocol = rules(controls=["uniform"], paths=comparing({"multimatch_duration": MEAN, "dtw": MEAN}))
    evaluation = run(make_world(), protocol, tmp_path)
    said = notes(evaluation, summary_of(evaluation))
    assert "uniform has no MultiMatch duration" in said
    assert not any(line.startswith("human has no") for line in said)


def test_nothing_special_needs_no_words(tmp_path):
    protocol = rules(controls=["uniform"], search=searching(4))
    evaluation = run(make_world(), protocol, tmp_path)
    assert notes(evaluation, summary_of(evaluation)) == []


# Where scores leave


def test_every_score_leaves_with_the_name_of_its_protocol(tmp_path, capsys):
    data = make_world()
    protocol = written(
        controls=["uniform", "shuffled_human"], chance="shuffled_human", paths=comparing({"dtw": MEAN}),
        search=searching(4, scores=["tfp_auc"]), overall=["probability_mismatch"],
    )  # fmt: skip
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(protocol))
    out = tmp_path / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "load", lambda name, root=None: data)
        run_evaluation(str(path), [str(write_model(tmp_path / "m.csv", made_up(data)))], out)
    printed = capsys.readouterr().out
    assert "mine v1 on" in printed
    for label in ("DTW ↓", "TFP-AUC ↑", "probability mismatch ↓"):
        assert label in printed
    assert set(pd.read_parquet(out / "scores.parquet")["protocol"]) == {"mine v1"}
    summary = pd.read_csv(out / "summary.csv")
    assert set(summary["protocol"]) == {"mine v1"}
    assert set(summary["metric"]) == {"dtw", "tfp_auc", "probability_mismatch"}
    report = (out / "report.html").read_text(encoding="utf-8")
    assert "mine v1" in report
    assert report.count("<svg") >= 4  # three scores and the cumulative curve
    run_compare(out, out, tmp_path / "compared", model_a="m", model_b="uniform")
    assert "mine v1" in capsys.readouterr().out
    assert set(pd.read_csv(tmp_path / "compared" / "comparison.csv")["protocol"]) == {"mine v1"}
