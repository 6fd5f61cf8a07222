"""Scanpaths out of a file, scored as those of a model; whatever else such a file may hold is one line."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from path_world import (
    IMAGES,
    MEAN,
    against_people,
    assert_column,
    column_of,
    comparing,
    dtw_of,
    made_up,
    make_world,
    people,
    rules,
    run,
    searching,
    trials_on,
    write_model,
)

from gazekit import InputError
from gazekit.evaluation.runner import check_models, read_scanpaths
from gazekit.evaluation.summary import notes, summary_of

COLUMNS = ["dtw", "sed", "tde", "search_accuracy", "scanpath_ratio"]


@pytest.fixture(scope="module")
def world():
    return make_world()


def every_part(first_fixation):
    return {
        "first_fixation": first_fixation,
        "paths": comparing({"dtw": MEAN, "sed": MEAN, "tde": {"reduce": "best"}}),
        "search": searching(4, scores=["search_accuracy", "scanpath_ratio"]),
    }


@pytest.mark.parametrize("first_fixation", ["keep", "recorded", "design", "center"])
@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_the_scanpaths_of_a_run_score_as_the_model_did(world, tmp_path, first_fixation, kind):
    protocol = rules(controls=["uniform"], **every_part(first_fixation))
    evaluation = run(world, protocol, tmp_path / "one")
    drawn = pd.read_parquet(tmp_path / "one" / "samples.parquet").query("model == 'uniform'")
    path = tmp_path / f"again.{kind}"
    drawn.to_parquet(path) if kind == "parquet" else drawn.to_csv(path, index=False)
    again = run(world, protocol, tmp_path / "two", [path])
    for name in COLUMNS:
        assert_column(again, "again", name, column_of(evaluation, "uniform", name))
    # They stand in the new table of scanpaths as they were.
    kept = again.samples.query("model == 'again'")
    columns = ["stimulus", "target", "sample", "fixation", "x_px", "y_px"]
    pd.testing.assert_frame_equal(
        kept[columns].reset_index(drop=True), drawn[columns].reset_index(drop=True), check_dtype=False, rtol=1e-12
    )


def test_the_scanpaths_of_a_run_without_search_score_as_the_model_did(world, tmp_path):
    protocol = rules(first_fixation="drop", controls=["uniform"], paths=comparing({"dtw": MEAN}))
    evaluation = run(world, protocol, tmp_path / "one")
    path = tmp_path / "again.parquet"
    pd.read_parquet(tmp_path / "one" / "samples.parquet").query("model == 'uniform'").to_parquet(path)
    again = run(world, protocol, tmp_path / "two", [path])
    assert_column(again, "again", "dtw", column_of(evaluation, "uniform", "dtw"))


def test_a_csv_without_targets_has_an_empty_column(world, tmp_path):
    """As samples.parquet of free viewing becomes when it is saved as CSV."""
    protocol = rules(controls=["uniform"], paths=comparing({"dtw": MEAN}))
    evaluation = run(world, protocol, tmp_path / "one")
    path = tmp_path / "again.csv"
    evaluation.samples.query("model == 'uniform'").to_csv(path, index=False)
    assert set(read_scanpaths(path)["target"]) == {""}


def test_a_table_of_fixations_is_one_of_scanpaths(world, tmp_path):
    """People's own fixations as a model: every trial is a scanpath, told apart by trial."""
    path = tmp_path / "people.parquet"
    world.fixations.to_parquet(path)
    evaluation = run(world, rules(paths=comparing({"dtw": MEAN, "multimatch_duration": MEAN})), tmp_path / "o", [path])
    paths, expected = people(world), {}
    for image in IMAGES:
        humans = {j: paths[j] for j in trials_on(world, image)}
        expected |= against_people({j: list(humans.values()) for j in humans}, humans, dtw_of, "mean")
    assert_column(evaluation, "people", "dtw", expected)
    # Durations count where the table has them.
    timed = evaluation.scores.query("model == 'people'")["multimatch_duration"]
    assert timed.notna().any()
    path = tmp_path / "untimed.parquet"
    world.fixations.drop(columns="duration_s").to_parquet(path)
    evaluation = run(world, rules(paths=comparing({"multimatch_duration": MEAN})), tmp_path / "p", [path])
    assert evaluation.scores.query("model == 'untimed'")["multimatch_duration"].isna().all()


def test_rows_in_any_order_are_the_same_scanpaths(world, tmp_path):
    path = write_model(tmp_path / "m.csv", made_up(world))
    protocol = rules(paths=comparing({"dtw": MEAN}))
    ordered = run(world, protocol, tmp_path / "one", [path])
    table = pd.read_csv(path)
    table.sample(frac=1.0, random_state=0).to_csv(path, index=False)
    shuffled = run(world, protocol, tmp_path / "two", [path])
    assert_column(shuffled, "m", "dtw", column_of(ordered, "m", "dtw"), 1e-12)


def test_images_without_a_scanpath_have_no_score_and_others_are_left_out(world, tmp_path):
    made = made_up(world)
    made = {**{image: made[image] for image in IMAGES[:3]}, "elsewhere": made["i4"]}
    path = write_model(tmp_path / "m.csv", made)
    evaluation = run(world, rules(paths=comparing({"dtw": MEAN}), search=searching(4)), tmp_path / "o", [path])
    rows = evaluation.scores.query("model == 'm'").set_index("stimulus")
    assert rows.loc[list(IMAGES[:3]), ["dtw", "search_accuracy"]].notna().all(axis=None)
    assert rows.loc[list(IMAGES[3:]), ["dtw", "search_accuracy"]].isna().all(axis=None)
    assert evaluation.record["models"]["m"]["stimuli"] == 3
    summary = summary_of(evaluation).set_index(["model", "metric"])
    assert tuple(summary.loc[("m", "dtw"), ["n_images", "n_valid", "n_total"]]) == (3, 12, 24)


def test_that_images_are_missing_is_not_called_too_short(world, tmp_path):
    made = {image: some for image, some in made_up(world).items() if image in IMAGES[:3]}
    evaluation = run(
        world, rules(paths=comparing({"dtw": MEAN})), tmp_path / "o", [write_model(tmp_path / "m.csv", made)]
    )
    said = [line for line in notes(evaluation, summary_of(evaluation)) if line.startswith("m")]
    assert said
    assert not any("too short" in line for line in said)


def test_targets_that_the_protocol_does_not_ask_for(world, tmp_path):
    """Scanpaths of searches, scored where nothing is said to be searched for: one line, or scores."""
    made = made_up(world)
    path = write_model(tmp_path / "m.csv", {(image, "cup"): some for image, some in made.items()})
    try:
        evaluation = run(world, rules(paths=comparing({"dtw": MEAN})), tmp_path / "o", [path])
    except InputError:
        return
    assert evaluation.scores.query("model == 'm'")["dtw"].notna().all()


def test_a_file_has_no_score_of_maps(world, tmp_path):
    maps = {
        "metrics": ["nss"], "baseline": "center_bias", "empirical": "subject", "empirical_sigma_dva": 1.0,
        "shuffled_from": "all_other_images", "controls": ["uniform"],
    }  # fmt: skip
    path = write_model(tmp_path / "m.csv", made_up(world))
    evaluation = run(world, rules(paths=comparing({"dtw": MEAN}), **maps), tmp_path / "o", [path])
    rows = evaluation.scores.query("model == 'm'")
    assert rows["nss"].isna().all()
    assert rows["dtw"].notna().all()
    assert "m has no NSS" in notes(evaluation, summary_of(evaluation))


GOOD = pd.DataFrame(
    {"stimulus": ["i0", "i0", "i1", "i1"], "sample": [0, 0, 0, 0], "fixation": [0, 1, 0, 1],
     "x_px": [9.0, 50.0, 20.0, 70.0], "y_px": [9.0, 50.0, 20.0, 70.0]}
)  # fmt: skip


def saved(tmp_path, table, name="bad.csv"):
    path = tmp_path / name
    table.to_parquet(path) if path.suffix == ".parquet" else table.to_csv(path, index=False)
    return path


def refused(path, match):
    for ask in (lambda: read_scanpaths(path), lambda: check_models([str(path)])):
        with pytest.raises(InputError, match=match) as caught:
            ask()
        text = str(caught.value)
        assert "\n" not in text
        assert path.name in text


@pytest.mark.parametrize("column", ["stimulus", "fixation", "x_px", "y_px"])
def test_a_missing_column(tmp_path, column):
    refused(saved(tmp_path, GOOD.drop(columns=column)), rf"missing column \['{column}'\], found \[")


def test_what_tells_scanpaths_apart_is_missing(tmp_path):
    refused(saved(tmp_path, GOOD.drop(columns="sample")), r"expected a column trial, sample or subject")


def test_several_models_in_one_file(tmp_path):
    refused(saved(tmp_path, GOOD.assign(model=["a", "a", "b", "b"])), r"scanpaths of 2 models; give a file with one")
    assert len(read_scanpaths(saved(tmp_path, GOOD.assign(model="a"))))


@pytest.mark.parametrize(
    ("column", "value"), [("x_px", np.nan), ("y_px", np.inf), ("fixation", np.nan), ("x_px", "left"), ("y_px", "")]
)
def test_a_position_that_is_none(tmp_path, column, value):
    table = GOOD.astype({column: object})
    table.loc[2, column] = value
    refused(saved(tmp_path, table), r"row 2 has no finite fixation, x_px, y_px: \['i1'")


def test_a_fixation_given_twice(tmp_path):
    refused(
        saved(tmp_path, GOOD.assign(fixation=[0, 1, 1, 1])), r"fixation 1 of sample 0 on stimulus i1 is given twice"
    )
    # Two people are two scanpaths; two samples, too.
    table = GOOD.assign(fixation=[0, 0, 0, 0], sample=[0, 1, 0, 1])
    assert len(read_scanpaths(saved(tmp_path, table))["trial"].unique()) == 4
    table = table.drop(columns="sample").assign(subject=["a", "b", "a", "b"])
    assert len(read_scanpaths(saved(tmp_path, table))["trial"].unique()) == 4


def test_files_that_are_no_table(tmp_path):
    (tmp_path / "text.parquet").write_text("not a table")
    refused(tmp_path / "text.parquet", r"is not a table of scanpaths")
    (tmp_path / "empty.csv").write_text("")
    refused(tmp_path / "empty.csv", r"is not a table of scanpaths")
    (tmp_path / "ragged.csv").write_text("stimulus,sample\na,1\nb,2,3,4\n")
    refused(tmp_path / "ragged.csv", r"is not a table of scanpaths")
    (tmp_path / "bytes.csv").write_bytes(b"\xff\xfe\x00\x81")
    refused(tmp_path / "bytes.csv", r"bytes\.csv")
    refused(tmp_path / "nowhere.csv", r"no file .*nowhere\.csv; expected a table of scanpaths")
    (tmp_path / "folder.csv").mkdir()
    refused(tmp_path / "folder.csv", r"no file .*folder\.csv")


def test_no_known_image(world, tmp_path):
    path = saved(tmp_path, GOOD.assign(stimulus=["a", "a", "b", "b"]))
    for table in (path, saved(tmp_path, GOOD.iloc[:0], "none.csv")):
        with pytest.raises(
            InputError, match=r"none of its \d stimuli is in world; expected names such as 'i0'"
        ) as caught:
            run(world, rules(paths=comparing({"dtw": MEAN})), tmp_path / "o", [table])
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "table",
    [
        pytest.param(GOOD.assign(duration_s=["long", "0.2", "0.2", "0.2"]), id="duration in words"),
        pytest.param(GOOD.assign(duration_s=[-0.2, 0.2, 0.2, 0.2]), id="negative duration"),
        pytest.param(GOOD.assign(duration_s=[200.0, 250.0, 180.0, 300.0]), id="duration in milliseconds"),
        pytest.param(GOOD.assign(fixation=[0, 0.5, 0, 1]), id="half a fixation"),
        pytest.param(GOOD.assign(fixation=[-1, 0, 0, 1]), id="a fixation before the first"),
        pytest.param(GOOD.assign(fixation=[0, 2, 0, 7]), id="fixations left out"),
        pytest.param(GOOD.assign(x_px=[9.0, 5000.0, 20.0, 70.0]), id="outside where nothing may be"),
    ],
)
def test_values_that_a_table_of_people_could_not_have(world, tmp_path, table):
    path = saved(tmp_path, table)
    protocol = rules(first_fixation="recorded", paths=comparing({"multimatch_duration": MEAN, "dtw": MEAN}))
    with pytest.raises(InputError) as caught:
        run(world, protocol, tmp_path / "o", [path])
    assert "\n" not in str(caught.value)


def test_numbers_as_text(tmp_path):
    n = 12
    table = pd.DataFrame(
        {"stimulus": "i0", "sample": 0, "fixation": [str(k) for k in range(n)], "x_px": np.arange(n) + 1.0, "y_px": 5.0}
    )
    try:
        got = read_scanpaths(saved(tmp_path, table, "text.parquet"))
    except InputError:
        return
    assert got["x_px"].tolist() == table["x_px"].tolist()
