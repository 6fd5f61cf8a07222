"""Protocols of scanpaths, searches and looks at objects, against one plain loop per definition.

Models are files of scanpaths that the tests wrote, so that both sides of every comparison are known.
"""

from __future__ import annotations

import json
import math
from dataclasses import replace

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
    against_each_other,
    against_people,
    assert_column,
    box_of,
    column_of,
    common,
    comparing,
    distance,
    dtw_of,
    fixations_until,
    letters,
    levenshtein,
    made_up,
    make_world,
    mean,
    people,
    rules,
    run,
    search_scores,
    searching,
    sed_of,
    tde_of,
    trials_on,
    write_model,
)

import gazekit.metrics as gm
from gazekit import InputError
from gazekit.evaluation import Protocol, runner
from gazekit.evaluation.published import published_rows, published_table
from gazekit.evaluation.summary import summary_of
from gazekit.models.human import shuffled_partner
from gazekit.resources import resource_names

SEARCH = (
    "search_accuracy", "tfp_auc", "auc_perf", "scanpath_ratio", "search_fixations", "search_fixations_all",
    "starts_on_target", "search_length",
)  # fmt: skip
OF_ANY_LENGTH = tuple(name for name in SEARCH if name not in ("tfp_auc", "auc_perf"))
BOX = ("target_left_px", "target_top_px", "target_right_px", "target_bottom_px")
OBJECTS = ("object_correct", "object_length", "object_search", "object_refix", "object_revisit")


@pytest.fixture(scope="module")
def world():
    return make_world()


def started(path, start):
    """A model's path, the initial fixation of its own replaced by the one that it is given."""
    return [start, *path[1:]]


# Searches


@pytest.mark.parametrize(("hit", "fovea"), [("point", None), ("fovea", [40, 16])])
def test_every_search_column_is_that_of_a_loop(world, tmp_path, hit, fovea):
    made = made_up(world)
    protocol = rules(first_fixation="recorded", search=searching(4, hit, fovea, SEARCH))
    evaluation = run(world, protocol, tmp_path / "out", [write_model(tmp_path / "m.csv", made)])
    paths = people(world)
    looked, modelled = ({name: {} for name in SEARCH} for _ in range(2))
    for image in IMAGES:
        for trial in trials_on(world, image):
            own = search_scores(paths[trial], box_of(image), 5, hit, fovea)
            of_model = [
                search_scores(started(path, paths[trial][0]), box_of(image), 5, hit, fovea) for path in made[image]
            ]
            for name in SEARCH:
                looked[name][trial] = own[name]
                modelled[name][trial] = mean([score[name] for score in of_model])
    for name in SEARCH:
        assert_column(evaluation, "human", name, looked[name])
        assert_column(evaluation, "m", name, modelled[name])
    # The scene has failures, successes and late successes; otherwise the loop above says little.
    assert {0.0, 1.0} == set(looked["search_accuracy"].values())
    assert any(0 < value < 1 for value in modelled["search_accuracy"].values())


def test_points_on_the_edge_of_the_box_do_not_count(tmp_path):
    left, top, right, bottom = box_of("i0")
    edge = [[5.0, 5.0], [left, top + 5], [right, bottom - 5], [left + 5, bottom], [right - 0.01, bottom - 0.01]]
    data = make_world(images=("i0",), edit={("i0", subject): edge for subject in SUBJECTS})
    protocol = rules(search=searching(6, scores=["search_fixations"]))
    assert set(column_of(run(data, protocol, tmp_path), "human", "search_fixations").values()) == {5.0}
    # A fovea that touches the box does.
    touching = [[5.0, 5.0], [left - 10.01, top + 5], [left - 10.0, top + 5]]
    data = make_world(images=("i0",), edit={("i0", subject): touching for subject in SUBJECTS})
    protocol = rules(search=searching(6, "fovea", [20, 4], ["search_fixations"]))
    assert set(column_of(run(data, protocol, tmp_path), "human", "search_fixations").values()) == {3.0}


FAR = (5.0, 5.0)


def searches_of(image, steps):
    """A path that reaches the target with that fixation; seven fixations far from it for infinity."""
    left, top, right, bottom = box_of(image)
    if steps == math.inf:
        return [FAR] * 7
    return [FAR] * (steps - 1) + [((left + right) / 2, (top + bottom) / 2)]


def test_the_published_example_of_the_cumulative_curve(tmp_path):
    """People need 1, 2 and 4 fixations or fail, the model 2, 2 or fails twice, within 6 saccades."""
    steps = dict(zip(SUBJECTS, (1, 2, 4, math.inf), strict=True))
    data = make_world(images=("i0",), edit={("i0", s): searches_of("i0", n) for s, n in steps.items()})
    model = write_model(tmp_path / "m.csv", {"i0": [searches_of("i0", n) for n in (2, 2, math.inf, math.inf)]})
    protocol = rules(
        search=searching(6, scores=("tfp_auc", "search_accuracy", "auc_perf", "search_fixations_all")),
        overall=["probability_mismatch"],
    )
    evaluation = run(data, protocol, tmp_path / "out", [model])
    summary = summary_of(evaluation).set_index(["model", "metric"])["mean"]
    assert summary["human", "tfp_auc"] == 4.25
    assert summary["m", "tfp_auc"] == 3.0
    assert summary["m", "probability_mismatch"] == 1.25
    assert summary["human", "search_accuracy"] == 0.75
    # The trapezoid over .25 .5 .5 .75 .75 .75 .75, and the mean of 1, 2, 4 and, for the failure, 7.
    assert summary["human", "auc_perf"] == pytest.approx((4.25 - 0.5) / 6, abs=1e-12)
    assert summary["human", "search_fixations_all"] == 3.5
    curve = evaluation.scores[evaluation.scores["model"] == "human"][[f"found_by_{k}" for k in range(1, 8)]].mean()
    assert curve.tolist() == [0.25, 0.5, 0.5, 0.75, 0.75, 0.75, 0.75]


def limited(table):
    """The first two of the four people on each image were allowed 2 saccades, the others 5."""
    return table.assign(max_saccades=[2 if s in SUBJECTS[:2] else 5 for s in table["subject"]])


def test_limits_are_those_of_each_trial(tmp_path):
    data = make_world(trial_edit=limited, lengths=(5, 9), seed=8)
    # A searcher stops where the trial ends.
    allowed = dict(zip(data.trials["trial"], data.trials["max_saccades"] + 1, strict=True))
    made = made_up(data)
    protocol = rules(
        first_fixation="recorded", search=searching("trial", scores=OF_ANY_LENGTH),
        paths=comparing({"dtw": MEAN, "dtw.best": {"reduce": "best"}}),
    )  # fmt: skip
    evaluation = run(data, protocol, tmp_path / "out", [write_model(tmp_path / "m.csv", made)])
    paths = people(data)
    for name in OF_ANY_LENGTH:
        looked, modelled = {}, {}
        for image in IMAGES:
            for trial in trials_on(data, image):
                looked[trial] = search_scores(paths[trial], box_of(image), allowed[trial])[name]
                each = [started(path, paths[trial][0]) for path in made[image]]
                modelled[trial] = mean([search_scores(path, box_of(image), allowed[trial])[name] for path in each])
        assert_column(evaluation, "human", name, looked)
        assert_column(evaluation, "m", name, modelled)
    # A person who had to stop after 2 saccades is not compared with a trial that allowed 5; the other way round, only
    # what the shorter trial allowed is compared.
    among, of_model = {}, {}
    for image in IMAGES:
        trials = trials_on(data, image)
        for j in trials:
            others = [i for i in trials if i != j and allowed[i] >= allowed[j]]
            among[j] = mean([dtw_of(paths[i][: allowed[j]], paths[j][: allowed[j]]) for i in others])
        cut = {j: [started(path, paths[j][0])[: allowed[j]] for path in made[image]] for j in trials}
        of_model |= against_people(cut, {j: paths[j][: allowed[j]] for j in trials}, dtw_of, "mean")
    assert_column(evaluation, "human", "dtw", among)
    assert_column(evaluation, "m", "dtw", of_model)


def test_people_on_another_image_who_were_allowed_less_say_nothing(tmp_path):
    """Chance for a trial that allowed 5 saccades is not that of people who had to stop after 2."""
    data = make_world(trial_edit=lambda t: t.assign(max_saccades=[2 if i == "i0" else 5 for i in t["stimulus"]]))
    protocol = rules(
        first_fixation="recorded", controls=["shuffled_human"], ceiling=None,
        search=searching("trial", scores=["search_accuracy"]), paths=comparing({"dtw": MEAN}),
    )  # fmt: skip
    scores = run(data, protocol, tmp_path).scores
    of_short = [image for image in IMAGES if shuffled_partner(IMAGES, image) == "i0"]
    missing = scores.groupby("stimulus")[["search_accuracy", "dtw"]].apply(lambda part: part.isna().all(axis=None))
    assert [image for image in IMAGES if missing[image]] == of_short


def test_both_must_find_the_target_where_only_those_count(world, tmp_path):
    made = made_up(world)
    protocol = rules(
        first_fixation="recorded", search=searching(4),
        paths=comparing({"dtw": {"reduce": "mean", "only": "both_found"}, "dtw.all": MEAN}, cut_at_target=True),
    )  # fmt: skip
    evaluation = run(world, protocol, tmp_path / "out", [write_model(tmp_path / "m.csv", made)])
    paths = people(world)
    looked, modelled = ({"dtw": {}, "dtw.all": {}} for _ in range(2))
    for image in IMAGES:
        box, trials = box_of(image), trials_on(world, image)

        def until(path, box=box):
            steps = fixations_until(path[:5], box)
            return path[: int(min(5, steps))]

        def both(a, b, box=box):
            found = [fixations_until(path, box) < math.inf for path in (a, b)]
            return dtw_of(a, b) if all(found) else math.nan

        humans = {j: until(paths[j]) for j in trials}
        of_model = {j: [until(started(path, paths[j][0])) for path in made[image]] for j in trials}
        looked["dtw"] |= against_each_other(humans, both, "mean")
        looked["dtw.all"] |= against_each_other(humans, dtw_of, "mean")
        modelled["dtw"] |= against_people(of_model, humans, both, "mean")
        modelled["dtw.all"] |= against_people(of_model, humans, dtw_of, "mean")
    for name in ("dtw", "dtw.all"):
        assert_column(evaluation, "human", name, looked[name])
        assert_column(evaluation, "m", name, modelled[name])
    assert any(math.isnan(value) for value in looked["dtw"].values())
    # That a pair is not wanted is no failure to score it.
    assert set(column_of(evaluation, "human", "pairs_scored").values()) == {1.0}


# Who is compared with whom


def test_ceiling_excludes_self_and_uses_the_models_reduction(world, tmp_path):
    """A person is compared with everybody else; a model that copies a person is not flattered by the ceiling's rule."""
    paths = people(world)
    made = made_up(world)
    kinds = {"dtw": MEAN, "tde": MEAN, "dtw.best": {"reduce": "best"}, "tde.best": {"reduce": "best"}}
    protocol = rules(paths=comparing(kinds))
    evaluation = run(world, protocol, tmp_path / "out", [write_model(tmp_path / "m.csv", made)])
    for name, kind in kinds.items():
        metric = dtw_of if name.startswith("dtw") else tde_of
        looked, modelled, with_self = {}, {}, {}
        for image in IMAGES:
            humans = {j: paths[j] for j in trials_on(world, image)}
            looked |= against_each_other(humans, metric, kind["reduce"])
            with_self |= {j: mean([metric(humans[i], humans[j]) for i in humans]) for j in humans}
            modelled |= against_people(dict.fromkeys(humans, made[image]), humans, metric, kind["reduce"])
        assert_column(evaluation, "human", name, looked)
        assert_column(evaluation, "m", name, modelled)
        # The trap: with oneself among the others everybody looks better, and the best one is oneself.
        got = column_of(evaluation, "human", name)
        if kind["reduce"] == "mean":
            assert mean(with_self.values()) < mean(got.values()) - 1e-3
        assert min(value for value in got.values() if not math.isnan(value)) > 0.0


def test_everybody_who_made_the_same_scanpath_is_as_good_as_people(tmp_path):
    data = make_world(edit={(image, s): searches_of(image, 4) for image in IMAGES for s in SUBJECTS})
    model = write_model(tmp_path / "m.csv", {image: [searches_of(image, 4)] for image in IMAGES})
    protocol = rules(paths=comparing({"dtw": MEAN, "dtw.best": {"reduce": "best"}, "ss_grid": MEAN}))
    scores = run(data, protocol, tmp_path / "out", [model]).scores
    assert (scores[["dtw", "dtw.best"]] == 0.0).all(axis=None)
    assert (scores["ss_grid"] == 1.0).all()


def test_best_of_n_uses_equal_numbers_of_references(tmp_path):
    """Among more people the closest one is closer: a model may choose among as many as a person can, and no more."""
    data = make_world(seed=21)
    paths = people(data)
    made = made_up(data, seed=22)
    protocol = rules(
        paths=comparing({"dtw.best": {"reduce": "best"}, "dtw.all": {"reduce": "best_of_all"}, "dtw": MEAN})
    )
    evaluation = run(data, protocol, tmp_path / "out", [write_model(tmp_path / "m.csv", made)])
    fair, published = {}, {}
    for image in IMAGES:
        humans = {j: paths[j] for j in trials_on(data, image)}
        for j in humans:
            references = [k for k in humans if k != j]
            assert len(references) == len(SUBJECTS) - 1
            fair[j] = mean([min(dtw_of(path, humans[k]) for k in references) for path in made[image]])
            published[j] = mean([min(dtw_of(path, humans[k]) for k in humans) for path in made[image]])
    assert_column(evaluation, "m", "dtw.best", fair)
    assert_column(evaluation, "m", "dtw.all", published)
    # The trap: with one more person to choose from the same model is better, and the mean is another number.
    assert mean(published.values()) < mean(fair.values()) - 1.0
    assert mean(fair.values()) < mean(column_of(evaluation, "m", "dtw").values()) - 1.0
    # People, who would choose among one fewer, have no such score.
    assert all(math.isnan(value) for value in column_of(evaluation, "human", "dtw.all").values())
    # One person did what the model does: it is the best of all, but not where that person is left out.
    parts = []
    for (image, subject), part in data.fixations.groupby(["stimulus", "subject"], sort=False):
        xy = np.array(made[image][0][: len(part)])
        parts.append(part.assign(x_px=xy[:, 0], y_px=xy[:, 1]) if subject == "s1" else part)
    copied = replace(data, fixations=pd.concat(parts))
    copier = write_model(tmp_path / "c.csv", {i: [made[i][0][: len(paths[trials_on(data, i)[0]])]] for i in IMAGES})
    evaluation = run(copied, protocol, tmp_path / "out2", [copier])
    best = column_of(evaluation, "c", "dtw.best")
    assert set(column_of(evaluation, "c", "dtw.all").values()) == {0.0}
    assert [best[trials_on(data, image)[0]] > 0.0 for image in IMAGES] == [True] * 6
    assert all(best[trial] == 0.0 for image in IMAGES for trial in trials_on(data, image)[1:])


def test_the_best_is_the_highest_where_higher_is_better(tmp_path):
    data = make_world(seed=5)
    paths, made = people(data), made_up(data)
    protocol = rules(paths=comparing({"ss_grid.best": {"reduce": "best", "options": {"bins_wh": [5, 5]}}}))
    evaluation = run(data, protocol, tmp_path / "out", [write_model(tmp_path / "m.csv", made)])

    def score(a, b):
        return common(letters(a), letters(b)) / max(len(a), len(b))

    looked, modelled = {}, {}
    for image in IMAGES:
        humans = {j: paths[j] for j in trials_on(data, image)}
        looked |= against_each_other(humans, score, "best", max)
        modelled |= against_people(dict.fromkeys(humans, made[image]), humans, score, "best", max)
    assert_column(evaluation, "human", "ss_grid.best", looked)
    assert_column(evaluation, "m", "ss_grid.best", modelled)


def test_too_short_scanpaths_are_left_out_on_both_sides(tmp_path):
    """With a least length some people have no score, and are no reference either; how many pairs remain is said."""
    data = make_world(seed=2)
    paths, made = people(data), made_up(data)
    for image in IMAGES[:2]:
        made[image][0] = made[image][0][:2]
    kinds = {
        "dtw": {"reduce": "mean", "at_least": 4, "first": 3},
        "dtw.best": {"reduce": "best", "at_least": 3, "first": 3},
        "sed": {"reduce": "mean", "first": 2},
    }
    evaluation = run(data, rules(paths=comparing(kinds)), tmp_path / "out", [write_model(tmp_path / "m.csv", made)])

    def cut(path):
        return path[:3]

    def whole(a, b):
        return dtw_of(a, b) if min(len(a), len(b)) >= 3 else math.nan

    looked, modelled, of_two, best, best_looked = {}, {}, {}, {}, {}
    for image in IMAGES:
        humans = {j: paths[j] for j in trials_on(data, image)}
        first = {j: cut(path) for j, path in humans.items()}
        of_model = {j: [cut(path) for path in made[image]] for j in humans}
        # Four fixations are wanted of the first three: nobody has them.
        looked |= dict.fromkeys(humans, math.nan)
        modelled |= dict.fromkeys(humans, math.nan)
        of_two |= against_each_other({j: path[:2] for j, path in humans.items()}, sed_of, "mean")
        able = {j: path for j, path in first.items() if len(path) >= 3}
        best |= dict.fromkeys(humans, math.nan) | against_people(of_model, able, whole, "best")
        best_looked |= dict.fromkeys(humans, math.nan) | against_each_other(able, whole, "best")
    assert_column(evaluation, "human", "dtw", looked)
    assert_column(evaluation, "m", "dtw", modelled)
    assert_column(evaluation, "human", "sed", of_two)
    assert_column(evaluation, "m", "dtw.best", best)
    assert_column(evaluation, "human", "dtw.best", best_looked)
    assert set(column_of(evaluation, "human", "pairs_scored").values()) == {0.0}


def test_people_on_another_image_are_all_of_them(world, tmp_path):
    """Chance is every scanpath of the partner image, the one cyclic shuffle of all images, in the frame of this one."""
    kinds = {"dtw": MEAN, "dtw.best": {"reduce": "best"}, "tde": MEAN}
    protocol = rules(first_fixation="recorded", paths=comparing(kinds), controls=["shuffled_human"])
    evaluation = run(world, protocol, tmp_path)
    paths = people(world)
    assert {shuffled_partner(IMAGES, image) for image in IMAGES} == set(IMAGES)
    for name, kind in kinds.items():
        metric, expected = tde_of if name == "tde" else dtw_of, {}
        for image in IMAGES:
            partner = shuffled_partner(IMAGES, image)
            assert partner != image
            humans = {j: paths[j] for j in trials_on(world, image)}
            shown = {j: [started(paths[i], humans[j][0]) for i in trials_on(world, partner)] for j in humans}
            expected |= against_people(shown, humans, metric, kind["reduce"])
        assert_column(evaluation, "shuffled_human", name, expected)


def test_the_partner_may_lie_outside_of_the_split(tmp_path):
    data = make_world(split={"by": "stimulus", "val": [], "test": ["i1"]})
    protocol = rules(split="test", paths=comparing({"dtw": MEAN}), controls=["shuffled_human"])
    evaluation = run(data, protocol, tmp_path)
    paths = people(data)
    partner = shuffled_partner(IMAGES, "i1")
    humans = {j: paths[j] for j in trials_on(data, "i1")}
    expected = against_people({j: [paths[i] for i in trials_on(data, partner)] for j in humans}, humans, dtw_of, "mean")
    assert_column(evaluation, "shuffled_human", "dtw", expected)


def test_a_single_image_has_no_partner(tmp_path):
    data = make_world(images=("i0",))
    protocol = rules(paths=comparing({"dtw": MEAN}), controls=["shuffled_human"])
    scores = run(data, protocol, tmp_path).scores
    assert scores.loc[scores["model"] == "shuffled_human", "dtw"].isna().all()


def test_people_may_be_named_as_a_model(world, tmp_path):
    protocol = rules(paths=comparing({"dtw": MEAN}), ceiling=None)
    try:
        scores = run(world, protocol, tmp_path, ["human"]).scores
    except InputError:
        return
    expected = {}
    for image in IMAGES:
        expected |= against_each_other({j: people(world)[j] for j in trials_on(world, image)}, dtw_of, "mean")
    got = scores.set_index("trial")["dtw"]
    assert all(got[trial] == pytest.approx(value) for trial, value in expected.items())


def test_people_are_the_ceiling_and_no_control():
    """As a control they would be compared with their own recordings."""
    for changes in ({"controls": ["human"]}, {"ceiling": "uniform"}, {"ceiling": "shuffled_human"}):
        with pytest.raises(InputError, match=r"human is the ceiling|expected human, or null"):
            rules(paths=comparing({"dtw": MEAN}), **changes)


# Frames, rules for fixations, lengths

MAPS = {
    "metrics": ["nss", "ll"], "baseline": "center_bias", "empirical": "subject", "empirical_sigma_dva": 1.0,
    "shuffled_from": "all_other_images", "controls": ["uniform", "center_bias"],
}  # fmt: skip
FRAME = (120, 40)


def scaled(data, fx, fy):
    """The same data on stimuli of another size, every position multiplied."""
    fixations = data.fixations.assign(x_px=data.fixations["x_px"] * fx, y_px=data.fixations["y_px"] * fy)
    trials = data.trials.copy()
    for column in [name for name in trials if name.endswith("_px")]:
        trials[column] *= fx if column.split("_")[1] in ("left", "right", "x") else fy
    width, height = int(SIZE[0] * fx), int(SIZE[1] * fy)
    stimuli = data.stimuli.assign(width_px=width, height_px=height)
    return replace(data, fixations=fixations, trials=trials, stimuli=stimuli)


def test_paths_and_maps_share_the_protocols_frame(world, tmp_path):
    """All in the frame: maps, fixations, start, target box; the trap leaves one of them behind."""
    fx, fy = FRAME[0] / SIZE[0], FRAME[1] / SIZE[1]
    made = made_up(world)
    model = write_model(tmp_path / "m.csv", made)
    parts = {
        **MAPS,
        "first_fixation": "design",
        "search": searching(4, "fovea", [10, 6], SEARCH),
        "paths": comparing({"dtw": MEAN, "sed": MEAN, "multimatch_position": MEAN}),
        "controls": ["uniform", "center_bias", "shuffled_human"],
    }
    evaluation = run(world, rules(grid=list(FRAME), **parts), tmp_path / "grid", [model])
    # By hand: multiplied positions, loops in px of the frame.
    paths, expected, left_behind, searched = people(world), {}, {}, {}
    starts = world.trials.set_index("trial")[["start_x_px", "start_y_px"]]
    for image in IMAGES:

        def to(path):
            return [(x * fx, y * fy) for x, y in path]

        humans = {j: paths[j][:5] for j in trials_on(world, image)}
        own = {j: [started(path, tuple(starts.loc[j]))[:5] for path in made[image]] for j in humans}
        framed = {j: [to(path) for path in own[j]] for j in humans}
        expected |= against_people(framed, {j: to(path) for j, path in humans.items()}, dtw_of, "mean")
        left_behind |= against_people(own, humans, dtw_of, "mean")
        left, top, right, bottom = box_of(image)
        box = (left * fx, top * fy, right * fx, bottom * fy)
        searched |= {
            j: mean([search_scores(p, box, 5, "fovea", (10, 6))["scanpath_ratio"] for p in framed[j]]) for j in humans
        }
    assert_column(evaluation, "m", "dtw", expected)
    assert_column(evaluation, "m", "scanpath_ratio", searched)
    assert mean(left_behind.values()) > 1.5 * mean(expected.values())
    # Everything at once: the same as on a dataset that was in this frame all along.
    small = {image: [[(x * fx, y * fy) for x, y in path] for path in some] for image, some in made.items()}
    again = run(
        scaled(world, fx, fy), rules(**parts), tmp_path / "small", [write_model(tmp_path / "s" / "m.csv", small)]
    )
    exact = [*SEARCH, "dtw", "sed", "multimatch_position", "pairs_scored"]
    for name in ("human", "m", "shuffled_human"):
        for column in exact:
            assert_column(evaluation, name, column, column_of(again, name, column), 1e-6)
    flat = column_of(evaluation, "uniform", "ll")
    assert all(value == pytest.approx(-math.log(FRAME[0] * FRAME[1]), abs=1e-5) for value in flat.values())
    center = [mean(column_of(e, "center_bias", "nss").values()) for e in (evaluation, again)]
    assert center[0] == pytest.approx(center[1], rel=0.05)


@pytest.mark.parametrize("rule", ["keep", "drop", "recorded", "design", "center"])
def test_first_fixations_of_people_and_models(world, tmp_path, rule):
    made = made_up(world)
    protocol = rules(first_fixation=rule, paths=comparing({"dtw": MEAN, "path_length_error": MEAN}))
    evaluation = run(world, protocol, tmp_path / "out", [write_model(tmp_path / "m.csv", made)])
    paths = people(world)
    starts = world.trials.set_index("trial")[["start_x_px", "start_y_px"]]
    looked, modelled, longer = {}, {}, {}
    for image in IMAGES:
        humans, of_model = {}, {}
        for j in trials_on(world, image):
            middle = (SIZE[0] / 2, SIZE[1] / 2)
            start = {"recorded": paths[j][0], "design": tuple(starts.loc[j]), "center": middle}.get(rule)
            humans[j] = {"drop": paths[j][1:], "center": [middle, *paths[j][1:]]}.get(rule, paths[j])
            of_model[j] = [{"keep": path, "drop": path[1:]}.get(rule) or started(path, start) for path in made[image]]
        looked |= against_each_other(humans, dtw_of, "mean")
        modelled |= against_people(of_model, humans, dtw_of, "mean")
        longer |= against_people(of_model, humans, lambda a, b: abs(len(a) - len(b)), "mean")
    assert_column(evaluation, "human", "dtw", looked)
    assert_column(evaluation, "m", "dtw", modelled)
    assert_column(evaluation, "m", "path_length_error", longer)


@pytest.mark.parametrize(
    ("rule", "given", "length"),
    [("keep", "median", 5), ("drop", "median", 4), ("center", "median", 5), ("center", 9, 9), ("keep", 3, 3)],
)
def test_models_make_as_many_fixations_as_the_protocol_says(tmp_path, rule, given, length):
    """The median of people, the initial fixation counted where it is part of scanpaths."""
    counts = dict(zip(SUBJECTS, (3, 5, 5, 8), strict=True))
    data = make_world(edit={(i, s): [FAR] * n for i in IMAGES for s, n in counts.items()})
    protocol = rules(
        first_fixation=rule, controls=["uniform"], paths=comparing({"path_length_error": MEAN}, length=given)
    )
    evaluation = run(data, protocol, tmp_path)
    error = column_of(evaluation, "uniform", "path_length_error")
    own = {s: n - (rule == "drop") for s, n in counts.items()}
    subjects = data.trials.set_index("trial")["subject"]
    assert error == {trial: abs(length - own[subjects[trial]]) for trial in error}
    counted = evaluation.samples.groupby(["stimulus", "sample"])["fixation"].agg(["min", "max", "size"])
    given_or_left_out = rule != "keep"
    assert (counted["min"] == int(given_or_left_out)).all()
    assert (counted["size"] == length - int(rule == "center")).all()


@pytest.mark.parametrize("start", ["recorded", "keep"])
@pytest.mark.parametrize("rule", ["drop", "clip"])
def test_fixations_outside_the_image(tmp_path, rule, start):
    outside = [[-20.0, 30.0], [50.0, 60.0], [300.0, 200.0], [90.0, 60.0]]
    inside = [[60.0, 30.0], [50.0, 80.0], [90.0, 20.0]]
    data = make_world(images=("i0", "i1"), edit={("i0", "s1"): outside, ("i0", "s2"): inside})
    protocol = rules(first_fixation=start, out_of_image=rule, paths=comparing({"dtw": MEAN}))
    evaluation = run(data, protocol, tmp_path)
    clipped = [(0.0, 30.0), (50.0, 60.0), (240.0, 160.0), (90.0, 60.0)]
    # Where a scanpath starts is not dropped where models are told so.
    kept = {("drop", "recorded"): [0, 1, 3], ("drop", "keep"): [1, 3]}.get((rule, start), [0, 1, 2, 3])
    paths = people(data)
    first = trials_on(data, "i0")[0]
    humans = {j: paths[j] for j in trials_on(data, "i0")}
    humans[first] = [clipped[k] for k in kept]
    expected = against_each_other(humans, dtw_of, "mean")
    got = column_of(evaluation, "human", "dtw")
    assert all(got[j] == pytest.approx(value, abs=1e-4) for j, value in expected.items())
    with pytest.raises(InputError, match=r"2 fixations outside their image.*drop or clip"):
        run(data, rules(first_fixation=start, paths=comparing({"dtw": MEAN})), tmp_path)


def test_scanpaths_end_on_the_target_where_the_protocol_cuts_them(world, tmp_path):
    made = made_up(world)
    model = write_model(tmp_path / "m.csv", made)
    paths = people(world)
    for cut in (False, True):
        protocol = rules(
            search=searching(3), paths=comparing({"path_length_error": MEAN, "dtw": MEAN}, cut_at_target=cut)
        )
        evaluation = run(world, protocol, tmp_path / f"{cut}", [model])
        looked, modelled = {}, {}
        for image in IMAGES:
            box = box_of(image)

            def until(path, box=box, cut=cut):
                return path[: int(min(4, fixations_until(path[:4], box) if cut else 4))]

            humans = {j: until(paths[j]) for j in trials_on(world, image)}
            looked |= against_each_other(humans, dtw_of, "mean")
            modelled |= against_people({j: [until(p) for p in made[image]] for j in humans}, humans, dtw_of, "mean")
        assert_column(evaluation, "human", "dtw", looked)
        assert_column(evaluation, "m", "dtw", modelled)


def test_a_trial_without_a_fixation_has_no_score(tmp_path):
    data = make_world(edit={("i0", "s1"): []})
    protocol = rules(first_fixation="recorded", search=searching(4, scores=SEARCH))
    evaluation = run(data, protocol, tmp_path / "out", [write_model(tmp_path / "m.csv", made_up(data))])
    empty = evaluation.scores[evaluation.scores["trial"] == 0].set_index("model")
    assert empty.loc["human", list(SEARCH)].isna().all()
    assert empty.loc["m", list(SEARCH)].isna().all()


def test_a_search_counts_the_initial_fixation(world, tmp_path):
    """Either the count stays that of the definition, or a protocol without the first fixation scores no searches."""
    try:
        protocol = rules(first_fixation="drop", search=searching(4, scores=["search_fixations_all"]))
        evaluation = run(world, protocol, tmp_path)
    except InputError:
        return
    expected = {
        j: search_scores(people(world)[j], box_of(image), 5)["search_fixations_all"]
        for image in IMAGES
        for j in trials_on(world, image)
    }
    assert_column(evaluation, "human", "search_fixations_all", expected)


def test_trials_without_a_target_are_a_group_of_their_own(tmp_path):
    data = make_world(trial_edit=lambda t: t.assign(target=["" if s == "s1" else "cup" for s in t["subject"]]))
    scores = run(data, rules(search=searching(4)), tmp_path).scores
    assert not scores.duplicated(["model", "trial"]).any()


def test_searches_for_different_targets_are_not_compared(tmp_path):
    """Two people searched for one thing on the image, two for another: each has one other person to be like."""
    data = make_world(
        trial_edit=lambda t: t.assign(target=["cup" if s in SUBJECTS[:2] else "hat" for s in t["subject"]])
    )
    made = made_up(data, n=4)
    by_target = {(i, t): made[i][k : k + 2] for i in IMAGES for t, k in (("cup", 0), ("hat", 2))}
    model = write_model(tmp_path / "m.csv", by_target)
    protocol = rules(search=searching(9), paths=comparing({"dtw": MEAN}), controls=["uniform"])
    evaluation = run(data, protocol, tmp_path / "out", [model])
    paths, looked, modelled = people(data), {}, {}
    for image in IMAGES:
        four = trials_on(data, image)
        for pair, target in ((four[:2], "cup"), (four[2:], "hat")):
            humans = {j: paths[j] for j in pair}
            looked |= against_each_other(humans, dtw_of, "mean")
            modelled |= against_people(dict.fromkeys(pair, by_target[image, target]), humans, dtw_of, "mean")
    assert_column(evaluation, "human", "dtw", looked)
    assert_column(evaluation, "m", "dtw", modelled)
    # A model is asked once per image and target.
    drawn = evaluation.samples[evaluation.samples["model"] == "uniform"]
    assert len(drawn.groupby(["stimulus", "target"])) == 2 * len(IMAGES)
    one = drawn[drawn["stimulus"] == "i0"].groupby("target")[["x_px", "y_px"]].apply(lambda p: p.to_numpy().tolist())
    assert one["cup"] != one["hat"]


# Objects


# Columns and rows of a layout whose cells differ in size.
COLUMNS, ROWS = (0, 20, 100, 150, 240), (0, 60, 90, 160)
EVEN = ((0, 60, 120, 180, 240), (0, 160 / 3, 320 / 3, 160))


def cells(data):
    """Boxes of the objects: a grid of 4 x 3 cells of different sizes, numbered row by row."""
    boxes = [
        (image, 4 * row + column, COLUMNS[column], ROWS[row], COLUMNS[column + 1], ROWS[row + 1])
        for image in data.stimuli["stimulus"]
        for row in range(3)
        for column in range(4)
    ]
    return pd.DataFrame(boxes, columns=["stimulus", "object", "left_px", "top_px", "right_px", "bottom_px"])


def object_at(x, y, columns=EVEN[0], rows=EVEN[1]):
    column = max(k for k in range(4) if columns[k] <= x)
    return max(k for k in range(3) if rows[k] <= y) * 4 + column


def center_of(number, columns=EVEN[0], rows=EVEN[1]):
    row, column = divmod(number, 4)
    return ((columns[column] + columns[column + 1]) / 2, (rows[row] + rows[row + 1]) / 2)


def behavior(numbers, target):
    """Of the fixated objects: ends on the target, length, shares of search, refixation and revisit."""
    search = refix = revisit = 0
    for k, number in enumerate(numbers):
        if k and number == numbers[k - 1]:
            refix += 1
        elif number in numbers[:k]:
            revisit += 1
        else:
            search += 1
    n = len(numbers)
    return dict(zip(OBJECTS, (float(numbers[-1] == target), float(n), search / n, refix / n, revisit / n), strict=True))


def test_the_published_example_of_looks_at_objects(tmp_path):
    """Objects 3, 3, 5, 3, 7 with target 7: search .6, refixation .2, revisit .2, and it ends on the target."""
    numbers = [3, 3, 5, 3, 7]
    assert behavior(numbers, 7) == dict(zip(OBJECTS, (1.0, 5.0, 0.6, 0.2, 0.2), strict=True))
    x, y = center_of(7)
    corners = {"target_left_px": x - 5, "target_top_px": y - 5, "target_right_px": x + 5, "target_bottom_px": y + 5}
    data = make_world(
        edit={(image, s): [center_of(n) for n in numbers] for image in IMAGES for s in SUBJECTS},
        trial_edit=lambda table: table.assign(**corners),
    )
    protocol = rules(objects={"grid": [4, 3], "scores": list(OBJECTS)}, overall=["object_delta"])
    other = [2, 2, 2, 5, 2, 5, 9, 7, 7, 1]
    model = write_model(tmp_path / "m.csv", {image: [[center_of(n) for n in other]] for image in IMAGES})
    evaluation = run(data, protocol, tmp_path / "out", [model])
    summary = summary_of(evaluation).set_index(["model", "metric"])["mean"]
    for name, value in behavior(numbers, 7).items():
        assert summary["human", name] == pytest.approx(value, abs=1e-12), name
    mine = behavior(other, 7)
    delta = sum(abs(mine[name] - value) / value for name, value in behavior(numbers, 7).items()) / 5
    assert summary["m", "object_delta"] == pytest.approx(delta, abs=1e-12)
    assert summary["human", "object_delta"] == 0.0


@pytest.mark.parametrize("boxes", ["grid", "table"])
def test_looks_at_objects_are_those_of_a_loop(tmp_path, boxes):
    data = make_world(seed=13)
    data = replace(data, objects=cells(data)) if boxes == "table" else data
    made = made_up(data)
    kinds = {"object_ss": MEAN, "object_sed": MEAN, "dtw": {"reduce": "mean", "positions": "objects"}, "dtw.px": MEAN}
    protocol = rules(
        objects={"grid": [4, 3] if boxes == "grid" else None, "scores": list(OBJECTS)}, paths=comparing(kinds)
    )
    evaluation = run(data, protocol, tmp_path / "out", [write_model(tmp_path / "m.csv", made)])
    paths = people(data)
    layout = EVEN if boxes == "grid" else (COLUMNS, ROWS)

    def numbers(path):
        return [object_at(*xy, *layout) for xy in path]

    def ss(a, b):
        return common(numbers(a), numbers(b)) / max(len(a), len(b))

    def sed(a, b):
        return float(levenshtein(numbers(a), numbers(b)))

    def on_centers(a, b):
        return dtw_of([center_of(n, *layout) for n in numbers(a)], [center_of(n, *layout) for n in numbers(b)])

    metrics = {"object_ss": ss, "object_sed": sed, "dtw": on_centers, "dtw.px": dtw_of}
    looked, modelled = ({name: {} for name in (*metrics, *OBJECTS)} for _ in range(2))
    for image in IMAGES:
        left, top, right, bottom = box_of(image)
        target = object_at((left + right) / 2, (top + bottom) / 2, *layout)
        humans = {j: paths[j] for j in trials_on(data, image)}
        for name, metric in metrics.items():
            looked[name] |= against_each_other(humans, metric, "mean")
            modelled[name] |= against_people(dict.fromkeys(humans, made[image]), humans, metric, "mean")
        for j, path in humans.items():
            own = behavior(numbers(path), target)
            each = [behavior(numbers(path), target) for path in made[image]]
            for name in OBJECTS:
                looked[name][j] = own[name]
                modelled[name][j] = mean([score[name] for score in each])
    for name in looked:
        assert_column(evaluation, "human", name, looked[name])
        assert_column(evaluation, "m", name, modelled[name])


def test_objects_without_a_target_have_no_correct_one(tmp_path):
    nowhere = dict.fromkeys(("target_left_px", "target_top_px", "target_right_px", "target_bottom_px"), math.nan)
    data = make_world(trial_edit=lambda t: t.assign(**nowhere))
    evaluation = run(data, rules(objects={"grid": [4, 3], "scores": list(OBJECTS)}), tmp_path)
    assert evaluation.scores["object_correct"].isna().all()
    assert evaluation.scores["object_search"].notna().all()


def test_a_dataset_without_boxes_says_how_to_go_on(world, tmp_path):
    with pytest.raises(InputError, match=r"'mine' needs objects.*objects\.grid: \[columns, rows\]"):
        run(world, rules(objects={"grid": None, "scores": list(OBJECTS)}), tmp_path)


# Clusters


def test_clusters_are_everybodys_and_serve_model_and_people(world, tmp_path):
    """One alphabet per image, of all people's fixations, also those after the compared part."""
    made = made_up(world)
    protocol = rules(paths=comparing({"ss": MEAN, "ss.first_3": {"reduce": "mean", "first": 3}}))
    evaluation = run(world, protocol, tmp_path / "out", [write_model(tmp_path / "m.csv", made)])
    paths = people(world)
    looked, modelled = ({"ss": {}, "ss.first_3": {}} for _ in range(2))
    for image in IMAGES:
        humans = {j: paths[j] for j in trials_on(world, image)}
        longest = max(map(len, humans.values()))
        xy, valid = (
            torch.zeros(len(humans), longest, 2, dtype=torch.float64),
            torch.zeros(len(humans), longest, dtype=torch.bool),
        )
        for row, path in enumerate(humans.values()):
            xy[row, : len(path)], valid[row, : len(path)] = torch.tensor(path), True
        centers = gm.fit_alphabet(xy, valid).centers_px.tolist()

        def score(a, b, centers=centers):
            a, b = (
                [min(range(len(centers)), key=lambda c: distance(xy, centers[c])) for xy in path] for path in (a, b)
            )
            return common(a, b) / max(len(a), len(b))

        for name, n in (("ss", 99), ("ss.first_3", 3)):
            cut = {j: path[:n] for j, path in humans.items()}
            looked[name] |= against_each_other(cut, score, "mean")
            modelled[name] |= against_people({j: [p[:n] for p in made[image]] for j in humans}, cut, score, "mean")
    for name in looked:
        assert_column(evaluation, "human", name, looked[name])
        assert_column(evaluation, "m", name, modelled[name])


# Sampled scanpaths


def test_the_same_scanpaths_whoever_else_is_scored(world, tmp_path):
    made = write_model(tmp_path / "m.csv", made_up(world))
    parts = {"first_fixation": "recorded", "paths": comparing({"dtw": MEAN})}
    alone = run(world, rules(controls=["uniform"], **parts), tmp_path / "1")
    among = run(world, rules(controls=["center_bias", "shuffled_human", "uniform"], **parts), tmp_path / "2", [made])
    one, two = (e.samples[e.samples["model"] == "uniform"].reset_index(drop=True) for e in (alone, among))
    assert len(one)
    assert one.equals(two)
    assert column_of(alone, "uniform", "dtw") == column_of(among, "uniform", "dtw")
    # Another split holds other images, but the same scanpaths on those of both; another seed other ones.
    parts["paths"] = comparing({"dtw": MEAN}, length=5)
    few = make_world(split={"by": "stimulus", "val": [], "test": ["i4", "i2"]})
    part = run(few, rules(split="test", controls=["uniform"], **parts), tmp_path / "3").samples
    whole = run(world, rules(controls=["uniform"], **parts), tmp_path / "4").samples
    part, whole = (table[table["model"] == "uniform"] for table in (part, whole))
    kept = whole[whole["stimulus"].isin(["i4", "i2"])]
    assert part.reset_index(drop=True).equals(kept.reset_index(drop=True))
    parts["samples"] = {"per_stimulus": 3, "seed": 1}
    reseeded = run(world, rules(controls=["uniform"], **parts), tmp_path / "5").samples
    assert not np.allclose(reseeded["x_px"], whole["x_px"])


def test_scores_are_of_the_scanpaths_in_the_table(world, tmp_path):
    """What stands in samples.parquet is what was scored."""
    protocol = rules(first_fixation="recorded", controls=["uniform"], paths=comparing({"dtw": MEAN}))
    evaluation = run(world, protocol, tmp_path)
    samples = pd.read_parquet(tmp_path / "samples.parquet")
    expected, paths = {}, people(world)
    for image in IMAGES:
        humans = {j: paths[j] for j in trials_on(world, image)}
        drawn = samples[(samples["model"] == "uniform") & (samples["stimulus"] == image)]
        made = [
            [None, *part[["x_px", "y_px"]].itertuples(index=False, name=None)] for _, part in drawn.groupby("sample")
        ]
        assert len(made) == 3
        expected |= against_people(
            {j: [started(p, humans[j][0]) for p in made] for j in humans}, humans, dtw_of, "mean"
        )
    assert_column(evaluation, "uniform", "dtw", expected)


# Splits, resumption


def test_protocol_refuses_a_split_by_trial(tmp_path):
    """Trials on one image in training and test: a model would be scored on images that it was trained on."""
    data = make_world(split={"by": "trial", "seed": 1, "val": 0.2, "test": 0.4})
    parts = data.trials.groupby("stimulus")["split"].nunique()
    assert (parts > 1).any()
    protocol = rules(split="test", paths=comparing({"dtw": MEAN}))
    with pytest.raises(InputError, match=r"split by trial.*by stimulus or by subject, or --split all") as caught:
        run(data, protocol, tmp_path)
    assert "\n" not in str(caught.value)
    # Everything at once leaves nothing to leak from.
    assert len(run(data, protocol, tmp_path, split="all").scores) == len(data.trials)


@pytest.mark.parametrize("maps", [False, True])
def test_only_the_trials_that_the_protocol_wants(tmp_path, maps):
    """On every image one person's answer was wrong: neither is the trial scored, nor are others compared with it."""
    data = make_world(trial_edit=lambda t: t.assign(correct=[s != "s2" for s in t["subject"]]))
    made = made_up(data)
    protocol = rules(**(MAPS if maps else {}), trials={"correct": True}, paths=comparing({"dtw": MEAN}))
    evaluation = run(data, protocol, tmp_path / "out", [write_model(tmp_path / "m.csv", made)])
    paths, looked, modelled = people(data), {}, {}
    wrong = set(data.trials.loc[data.trials["subject"] == "s2", "trial"])
    for image in IMAGES:
        humans = {j: paths[j] for j in trials_on(data, image) if j not in wrong}
        looked |= against_each_other(humans, dtw_of, "mean")
        modelled |= against_people(dict.fromkeys(humans, made[image]), humans, dtw_of, "mean")
    assert_column(evaluation, "human", "dtw", looked)
    assert_column(evaluation, "m", "dtw", modelled)


def test_people_on_another_image_did_what_the_protocol_asks_for(tmp_path):
    """Searches that ended in a wrong answer are scored nowhere, and are not what people do on another image either."""
    wanted = IMAGES[:4]
    data = make_world(trial_edit=lambda t: t.assign(correct=[i in wanted for i in t["stimulus"]]))
    protocol = rules(trials={"correct": True}, paths=comparing({"dtw": MEAN}), controls=["shuffled_human"])
    evaluation = run(data, protocol, tmp_path)
    paths, expected = people(data), {}
    for image in wanted:
        humans = {j: paths[j] for j in trials_on(data, image)}
        shown = [paths[i] for i in trials_on(data, shuffled_partner(wanted, image))]
        expected |= against_people(dict.fromkeys(humans, shown), humans, dtw_of, "mean")
    assert_column(evaluation, "shuffled_human", "dtw", expected)


def test_a_split_by_subject_scores_those_subjects_among_themselves(tmp_path):
    data = make_world(split={"by": "subject", "val": [], "test": ["s1", "s3", "s4"]})
    evaluation = run(data, rules(split="test", paths=comparing({"dtw": MEAN})), tmp_path)
    expected = {}
    for image in IMAGES:
        humans = {j: people(data)[j] for j in trials_on(data, image) if j % 4 != 1}
        expected |= against_each_other(humans, dtw_of, "mean")
    assert_column(evaluation, "human", "dtw", expected)


SMALL = {"first_fixation": "recorded", "controls": ["uniform", "shuffled_human"]}


@pytest.fixture
def pieces(monkeypatch):
    """Who was scored, piece by piece."""
    done, score = [], runner._Judge.run_piece

    def counted(self, contestant, rows):
        done.append(contestant.name)
        return score(self, contestant, rows)

    monkeypatch.setattr(runner._Judge, "run_piece", counted)
    return done


def test_a_second_run_of_paths_scores_nothing_again(world, tmp_path, pieces):
    model = write_model(tmp_path / "m.csv", made_up(world))
    protocol = rules(**SMALL, paths=comparing({"dtw": MEAN, "sed": MEAN}), search=searching(4, scores=SEARCH))
    first = run(world, protocol, tmp_path / "out", [model])
    assert pieces == ["uniform", "shuffled_human", "m", "human"]
    pieces.clear()
    again = run(world, protocol, tmp_path / "out", [model])
    assert pieces == []
    assert again.scores.equals(first.scores)
    assert again.samples.equals(first.samples)
    # Another table of scanpaths under the same name is another model.
    write_model(model, made_up(world, seed=99))
    other = run(world, protocol, tmp_path / "out", [model])
    assert pieces == ["m"]
    assert not other.scores.equals(first.scores)


@pytest.mark.parametrize(
    "change",
    [
        {"paths": comparing({"dtw": {"reduce": "best"}})},
        {"paths": comparing({"dtw": {"reduce": "mean", "first": 3}})},
        {"paths": comparing({"dtw": MEAN}, length=3)},
        {"search": searching(3)},
        {"search": searching(4, "fovea", [9, 9])},
        {"samples": {"per_stimulus": 4, "seed": 0}},
    ],
)
def test_any_rule_that_moves_a_score_makes_it_anew(world, tmp_path, pieces, change):
    before = {**SMALL, "paths": comparing({"dtw": MEAN}), "search": searching(4)}
    run(world, rules(**before), tmp_path)
    pieces.clear()
    run(world, rules(**{**before, **change}), tmp_path)
    assert len(pieces) == 3


def test_pieces_of_other_trials_on_the_same_images_are_not_reused(tmp_path):
    data = make_world(split={"by": "subject", "val": ["s1", "s2"], "test": ["s3", "s4"]})
    protocol = rules(paths=comparing({"dtw": MEAN}))
    run(data, protocol, tmp_path / "out", split="val")
    got = run(data, protocol, tmp_path / "out", split="test").scores
    fresh = run(data, protocol, tmp_path / "fresh", split="test").scores
    assert got["trial"].tolist() == fresh["trial"].tolist()


def test_pieces_made_for_another_median_are_not_reused(tmp_path):
    """All trials of one image are in both runs, those of another one only in the second; models make other lengths."""
    lengths = {"i0": 3, "i1": 8, "i2": 8}
    data = make_world(
        images=("i0", "i1", "i2"), edit={(i, s): [FAR] * n for i, n in lengths.items() for s in SUBJECTS},
        split={"by": "stimulus", "val": ["i0"], "test": ["i1", "i2"]},
    )  # fmt: skip
    protocol = rules(controls=["uniform"], paths=comparing({"path_length_error": MEAN}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "_PIECE", 1)
        run(data, protocol, tmp_path / "out", split="val")
        got = run(data, protocol, tmp_path / "out", split="all").scores
        fresh = run(data, protocol, tmp_path / "fresh", split="all").scores
    assert got["path_length_error"].tolist() == fresh["path_length_error"].tolist()


# Published numbers


def test_published_numbers_of_two_servers_never_share_a_table(tmp_path):
    """The same metric by other rules is another number: one protocol per table, and per report."""
    content = {
        "protocol": "tuebingen", "title": "t",
        "rows": [{
            "model": "m", "role": "model", "metric": "auc", "value": 0.8, "dataset": "mit1003", "split": "all",
            "status": "unverified", "source": "somewhere",
        }],
    }  # fmt: skip
    path = tmp_path / "t.yaml"
    path.write_text(yaml.safe_dump(content))
    assert [row.protocol for row in published_table(path)] == ["tuebingen"]
    content["rows"].append({**content["rows"][0], "protocol": "osie_free_viewing"})
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(
        InputError, match=r"t\.yaml, row 2 is of protocol 'osie_free_viewing' in a table of 'tuebingen'"
    ):
        published_table(path)
    # Of the shipped ones, no two protocols come together either, on whatever data.
    for protocol in ("irl2020", "oat2024", "tuebingen"):
        for dataset in ("coco_search18", "amazon_covers"):
            assert {row.protocol for row in published_rows(dataset, protocol)} <= {protocol}
    assert published_rows("coco_search18", "irl2020")
    assert published_rows("coco_search18", "hat2024") == []
    assert published_rows("osie", "irl2020") == []


# Every shipped protocol


def shipped_world(**columns):
    """A made-up dataset that has what every shipped protocol needs, of the trials that it asks for."""
    rng = np.random.default_rng(4)

    def edit(table):
        made = {"start_x_px": 120.0, "start_y_px": 80.0, "max_saccades": rng.integers(9, 13, len(table))}
        table = table.assign(**{**made, **columns})
        return table if table["target_present"].all() else table.assign(**dict.fromkeys(BOX, math.nan))

    data = make_world(lengths=(11, 13), seed=6, images=IMAGES[:3], trial_edit=edit)
    return replace(data, objects=cells(data))


def shipped(name):
    """With a mark where it does not run, or where it is another one over again."""
    marks = []
    if name in ("osie_free_viewing", "tuebingen", "irl2020"):
        marks.append(pytest.mark.slow)  # seconds, by rules that others have
    return pytest.param(name, marks=marks)


@pytest.mark.parametrize("name", [shipped(name) for name in resource_names("evaluation")])
def test_every_shipped_protocol_runs_to_its_end(tmp_path, name):
    protocol = Protocol.read(name)
    data = shipped_world(**protocol.trials)
    short = {"intervals": {**protocol.intervals, "draws": 20}, "samples": {"per_stimulus": 2, "seed": 0}}
    if "sim" in protocol.metrics and protocol.scored_map != "density":
        short["metric_options"] = {**protocol.metric_options, "sim": {"n_samples": 2}}
    protocol = replace(protocol, **short)
    evaluation = run(data, protocol, tmp_path, split="all")
    summary = summary_of(evaluation)
    assert set(evaluation.scores["protocol"]) == set(summary["protocol"]) == {protocol.label}
    rows = summary[summary["model"] == "human"].set_index("metric")["mean"]
    # People have every score but those that would compare them with themselves.
    nothing = {metric for metric, value in rows.items() if not np.isfinite(value)}
    left_out = {"cc", "sim", "kld"} if protocol.empirical == "pooled" else set()
    assert nothing == left_out | {name for name in rows.index if name.endswith("best_of_all")}
    assert set(rows.index) == {*protocol.columns, *protocol.overall}
    assert len(evaluation.scores) == len(data.trials) * len(evaluation.contestants)


def without(*columns):
    return lambda data: replace(data, trials=data.trials.drop(columns=list(columns)))


@pytest.mark.parametrize(
    ("name", "lack", "match"),
    [
        ("irl2020", without(*BOX), r"'irl2020' needs the trial column 'target_left_px'"),
        ("irl2020", without("correct"), r"wants trials with correct: True, and world has no such column"),
        ("hat2024", without("found"), r"wants trials with found: True, and world has no such column"),
        ("hat2024", without("target"), r"averages by target, and world has no such column"),
        ("interiors_search", without("max_saccades"), r"needs the trial column 'max_saccades'"),
        ("interiors_search", without("target"), r"no target"),
        ("visions2022", without("start_x_px", "start_y_px"), r"needs the trial column 'start_x_px'"),
        ("visions2022", without(*BOX), r"needs the trial column 'target_left_px'"),
        ("oat2024", lambda data: replace(data, objects=None), r"needs objects, and this dataset has no boxes"),
        ("oat2024", lambda data: replace(data, objects=cells(data).query("stimulus != 'i1'")), r"no objects on .*'i1'"),
    ],
)  # fmt: skip
def test_a_dataset_that_lacks_something_is_one_line(tmp_path, name, lack, match):
    data = lack(shipped_world())
    no_maps = {"metrics": (), "metric_options": {}, "pooled": ()}
    no_maps |= dict.fromkeys(("baseline", "empirical", "empirical_sigma_dva", "shuffled_from"))
    with pytest.raises(InputError, match=match) as caught:
        summary_of(run(data, replace(Protocol.read(name), **no_maps), tmp_path))
    assert "\n" not in str(caught.value)


def test_amplitudes_in_degrees_need_the_geometry(tmp_path):
    protocol = rules(paths=comparing({"sed": MEAN}), overall=["amplitude_js"])
    with pytest.raises(InputError, match=r"does not state the viewing geometry") as caught:
        summary_of(run(make_world(screen=False), protocol, tmp_path))
    assert "\n" not in str(caught.value)
    # Directions are the same in pixels.
    directions = rules(paths=comparing({"sed": MEAN}), overall=["direction_js"])
    assert summary_of(run(make_world(screen=False), directions, tmp_path))["mean"].notna().all()


def test_that_the_geometry_is_not_known_is_said_before_anything_is_scored(tmp_path, pieces):
    protocol = rules(paths=comparing({"dtw": MEAN}), overall=["amplitude_js"])
    with pytest.raises(InputError, match="viewing geometry"):
        summary_of(run(make_world(screen=False), protocol, tmp_path))
    assert pieces == []


def test_a_dataset_of_ones_own_counts_nothing_in_its_card(tmp_path):
    evaluation = run(make_world(counted=False), rules(paths=comparing({"dtw": MEAN})), tmp_path)
    assert evaluation.record["data"]["stimuli_scored"] == len(IMAGES)


def test_one_trial_without_a_start_is_said_in_words(tmp_path):
    data = make_world(trial_edit=lambda t: t.assign(start_x_px=t["start_x_px"].where(t["trial"] != 3)))
    protocol = rules(first_fixation="design", search=searching(4, scores=SEARCH), controls=["uniform"])
    try:
        scores = run(data, protocol, tmp_path).scores
    except InputError as error:
        assert "start" in str(error)  # noqa: PT017
        return
    assert scores.loc[(scores["trial"] == 3) & (scores["model"] == "uniform"), "scanpath_ratio"].isna().all()


def test_the_record_says_by_which_rules(world, tmp_path):
    protocol = rules(
        paths=comparing({"dtw.first": {"reduce": "best", "first": 3}}), search=searching(4, "fovea", [9, 8])
    )
    run(world, protocol, tmp_path)
    record = json.loads((tmp_path / "evaluation.json").read_text())["protocol"]
    assert record["paths"]["scores"]["dtw.first"]["reduce"] == "best"
    assert record["paths"]["scores"]["dtw.first"]["first"] == 3
    assert record["search"] == {
        "max_saccades": 4,
        "hit": "fovea",
        "fovea_size_wh_px": [9, 8],
        "scores": ["search_accuracy"],
    }
