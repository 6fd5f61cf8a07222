"""From a plan to a report: the command, that a killed run goes on, plans of one's own, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import yaml
from click.testing import CliRunner

from gazekit.asymmetry import PlannedModel, PlannedTask, read_plan, run_plan
from gazekit.asymmetry import run as running
from gazekit.cli import main
from gazekit.errors import InputError
from gazekit.models import create_model
from gazekit.resources import resource_names
from gazekit.stimuli import SearchDesign, asymmetry, bar, export_condition

OWN = {
    "name": "own",
    "title": "Tilted among upright",
    "tasks": [
        {
            "name": "tilt", "set_sizes": [2, 4], "trials": 3, "field_dva": 4.0, "grid": 2, "item_dva": 1.0,
            "like": "orientation_homogeneous",
            "easy": {"name": "tilted", "target": {"bar": {"degrees": 20}}, "distractors": ["bar"]},
            "hard": "upright",
        }
    ],
    "models": {
        "chance": {"model": "chance_search", "seeds": [0, 1]}, "serial": {"model": "chance_search", "among": "items"},
    },
    "scoring": {"draws": 50},
}  # fmt: skip


def write(folder, plan=OWN, name="own.yaml"):
    path = folder / name
    path.write_text(yaml.safe_dump(plan), encoding="utf-8")
    return path


def but(**changes):
    return OWN | changes


def gazekit(*words):
    run = CliRunner().invoke(main, ["asymmetry", *map(str, words)])
    if run.exception and not isinstance(run.exception, SystemExit):
        raise run.exception
    return run


@pytest.mark.parametrize("name", resource_names("asymmetry"))
def test_shipped_plans_are_sound(name):
    plan = read_plan(name)
    assert plan.name == name
    assert plan.title
    for model in plan.models:
        assert model.name


def test_run_report_and_what_they_write(tmp_path):
    out = tmp_path / "out"
    run = gazekit("run", write(tmp_path), "--out", out)
    assert run.exit_code == 0, run.output
    assert "tilt" in run.output
    assert "searches missed the target" in run.output
    trials = pd.read_parquet(out / "trials.parquet")
    # Two seeds of one searcher and one of the other, 2 conditions, 2 set sizes, 3 displays.
    assert trials.groupby("model").size().to_dict() == {"chance": 24, "serial": 12}
    # Among 4 cells each is looked at once at most: never missed.
    assert trials["found"].all()
    assert trials["n_fixations"].between(1, 4).all()
    paths = pd.read_parquet(out / "fixations.parquet")
    counts = paths.groupby(["model", "seed", "condition", "set_size", "trial"]).size()
    keys = ["model", "seed", "condition", "set_size", "trial"]
    assert (counts.sort_index() - 1 == trials.set_index(keys)["n_fixations"].sort_index()).all()
    report = (out / "report.html").read_text(encoding="utf-8")
    for part in ("tilted", "upright", "chance", "serial", "<svg"):
        assert part in report
    for name in ("functions.png", "indices.png", "slopes.png", "displays.png", "tasks.csv", "slopes.csv", "models.csv"):
        assert (out / name).stat().st_size > 50
    before = (out / "tasks.csv").read_text()
    (out / "tasks.csv").unlink()
    again = gazekit("report", tmp_path / "own.yaml", "--out", out)
    assert again.exit_code == 0, again.output
    assert (out / "tasks.csv").read_text() == before


def test_a_broken_off_run_goes_on_and_gives_the_same(tmp_path, monkeypatch):
    plan = read_plan(write(tmp_path))
    whole = run_plan(plan, tmp_path / "whole")
    searched = []
    search = type(create_model("chance_search")).search

    def counted(self, displays, *args, **kwargs):
        searched.append(displays.name)
        if len(searched) == 4:
            raise KeyboardInterrupt
        return search(self, displays, *args, **kwargs)

    monkeypatch.setattr("gazekit.models.search_controls.ChanceSearch.search", counted)
    with pytest.raises(KeyboardInterrupt):
        run_plan(plan, tmp_path / "broken")
    # A part that was half written is not taken for a whole one.
    part = sorted((tmp_path / "broken" / "parts").glob("*.parquet"))[0]
    part.write_bytes(part.read_bytes()[:40])
    resumed = run_plan(plan, tmp_path / "broken")
    pd.testing.assert_frame_equal(resumed.trials, whole.trials)
    pd.testing.assert_frame_equal(resumed.fixations, whole.fixations)
    # Twelve parts in all, of which three were finished and one of these damaged; one was tried twice.
    assert len(searched) == 12 + 1 + 1
    run_plan(plan, tmp_path / "broken")
    assert len(searched) == 14
    monkeypatch.setattr(running, "_code", lambda: "other")
    run_plan(plan, tmp_path / "broken")
    assert len(searched) == 26


def test_serial_search_without_memory_failures_takes_half_of_the_items(tmp_path):
    easy = SearchDesign("a", bar(20), [bar(0)], (1, 4, 8), 40, field_dva=6.0, grid=3, item_dva=1.0)
    plan = replace(
        read_plan(write(tmp_path)),
        tasks=(PlannedTask(asymmetry("t", easy, "b"), None),),
        models=(PlannedModel("serial", "chance_search", {"among": "items"}),),
    )
    means = run_plan(plan).trials.groupby("set_size")["n_fixations"].mean()
    # (n + 1) / 2, from 80 searches: SDs of the mean 0, 0.12, 0.26.
    np.testing.assert_allclose(means, [1.0, 2.5, 4.5], atol=0.8)


def test_folders_of_displays_made_elsewhere(tmp_path):
    easy = SearchDesign("tilted", bar(20), [bar(0)], (2, 4), 3, field_dva=4.0, grid=2, item_dva=1.0)
    for design in (easy, easy.swapped("upright")):
        export_condition(design, tmp_path / "displays")
    tasks = [{"name": "tilt", "easy": {"folder": "displays/tilted"}, "hard": {"folder": "displays/upright"}}]
    plan = read_plan(write(tmp_path, but(tasks=tasks)))
    drawn = read_plan(write(tmp_path, OWN, "drawn.yaml"))
    pd.testing.assert_frame_equal(run_plan(plan).trials, run_plan(drawn).trials)


def test_export_command(tmp_path):
    run = gazekit("export", write(tmp_path), "--absent", "--out", tmp_path / "d")
    assert run.exit_code == 0, run.output
    assert "tilt: 24 displays" in run.output
    assert len(list((tmp_path / "d" / "tilt" / "tilted" / "svg").glob("*.svg"))) == 12
    assert (tmp_path / "d" / "plan.yaml").is_file()


def test_list_command():
    run = gazekit("list")
    assert "six_tasks" in run.output
    assert "visual_diet" in run.output


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"tasks": []}, "expected a list"),
        ({"tasks": ["lightning"]}, "did you mean 'lighting'"),
        ({"tasks": [{"easy": {}}]}, "a task lacks its name"),
        ({"tasks": ["lighting", "lighting"]}, "each with its own name"),
        ({"tasks": [{"name": "curvature", "grid": 2}]}, "do not fit"),
        ({"tasks": [OWN["tasks"][0] | {"set_sizes": [2, 9]}]}, "9 items do not fit the grid of 2x2"),
        ({"tasks": [OWN["tasks"][0] | {"item_dva": 9.0}]}, "must have a pixel and fit the display"),
        ({"tasks": [OWN["tasks"][0] | {"hard": {"name": "x"}}]}, "lacks .'target', 'distractors'."),
        ({"tasks": [OWN["tasks"][0] | {"like": "tilt"}]}, "no published task named 'tilt'"),
        ({"tasks": [OWN["tasks"][0] | {"gird": 3}]}, "did you mean 'grid'"),
        ({"models": {"a": {}}}, "says not which model"),
        ({"models": {"a": {"model": "chanse_search"}}}, "did you mean 'chance_search'"),
        ({"models": {"a": {"model": "uniform"}}}, "uniform does not search"),
        ({"models": {"a": {"model": "chance_search", "amung": 1}}}, "amung"),
        ({"models": {"a": {"model": "chance_search", "seeds": 3}}}, "expected a list of whole numbers"),
        ({"models": {"a": {"model": "eccnet", "diets": ["sweet"]}}}, "no diet named 'sweet'"),
        ({"scoring": {"miss": "zero"}}, "expected 'exclude' or 'set_size'"),
        ({"scoring": {"draws": 0}}, "draws >= 1"),
        ({"scroing": {}}, "did you mean 'scoring'"),
    ],
)
def test_a_wrong_plan_is_one_clear_line(tmp_path, changes, says):
    with pytest.raises(InputError, match=says) as error:
        run_plan(read_plan(write(tmp_path, but(**changes))))
    assert "\n" not in str(error.value)


def test_wrong_words_on_the_command_line(tmp_path):
    plan = write(tmp_path)
    for words, says in (
        (("run", "six_taks"), "did you mean 'six_tasks'"),
        (("run", plan, "--model", "nobody"), "no model named 'nobody'"),
        (("run", plan, "--task", "nothing"), "has no task 'nothing'"),
        (("run", plan, "--trials", "0"), "--trials is 0"),
        (("report", plan, "--out", tmp_path / "nowhere"), "no finished run"),
    ):
        run = gazekit(*words)
        assert run.exit_code == 1
        assert says in run.output
        assert run.output.strip().count("\n") == 0
