"""Checking a copy against its card: every measure by hand, every kind of deviation, known and unknown parts."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from gazekit import InputError
from gazekit.datasets import Card, GazeDataset, PartialDataWarning, load
from gazekit.datasets.check import MEASURES, Finding, check, names_digest
from tests.datasets import test_amazon_covers

BOX = ["target_left_px", "target_top_px", "target_right_px", "target_bottom_px"]


def dataset(expect, parts=(), **tables) -> GazeDataset:
    """Two stimuli (100x80 and 60x90 px), two subjects, four trials, one of them empty."""
    fixations = pd.DataFrame(
        [
            ("a", "one", 0, 0, 10.0, 20.0, 0.0, 0.100),
            ("a", "one", 0, 1, 13.0, 24.0, 0.2, 0.300),
            ("a", "two", 1, 0, 60.0, 90.0, 0.0, 0.200),
            ("b", "one", 2, 0, 50.5, 40.0, 0.0, 0.500),
            ("b", "one", 2, 1, 50.5, 40.0, 0.6, 0.100),
            ("b", "one", 2, 2, 56.5, 48.0, 0.8, 0.250),
        ],
        columns=["subject", "stimulus", "trial", "fixation", "x_px", "y_px", "t_s", "duration_s"],
    )
    trials = pd.DataFrame({"trial": range(4), "subject": list("aabb"), "stimulus": ["one", "two", "one", "two"]})
    trials["task"], trials["split"] = "visual_search", "train"
    trials["found"] = pd.array([True, False, True, None], dtype="boolean")
    trials["max_saccades"] = pd.array([1, 2, 1, 2], dtype="Int64")
    trials[BOX] = [[12, 22, 20, 30], [0, 0, 10, 10], [40, 30, 55, 46], [0, 0, 10, 10]]
    trials["start_x_px"], trials["start_y_px"] = [10.0, 0, 50.5, 0], [23.0, 0, 40, 0]
    stimuli = pd.DataFrame({"stimulus": ["one", "two"], "path": "", "width_px": [100, 60], "height_px": [80, 90]})
    stimuli["split"], stimuli["kind"] = "train", ["x", "y"]
    content = {
        "name": "made", "title": "Made", "citation": "none", "license": {"data": "none", "images": "none"},
        "screen": None, "forced_initial": False, "images": "optional", "expect": expect, "parts": list(parts),
        "split": {"by": "stimulus", "seed": 1, "val": 0.1, "test": 0.1},
    }  # fmt: skip
    from pathlib import Path

    made = {"fixations": fixations, "trials": trials, "stimuli": stimuli} | tables
    return GazeDataset(**made, card=Card.from_content(content, Path("made.yaml")))


BY_HAND = {
    "subjects": 2,
    "stimuli": 2,
    "trials": 4,
    "fixations": 6,
    "empty_trials": 1,
    # (60, 90) lies on the far corner of a 60x90 image: outside of [0, W), inside of [1, W].
    "fixations_outside": 1,
    "fixations_outside_1_to_n": 0,
    "fixations_per_trial": {"mean": 1.5, "min": 0, "max": 3, "median": 1.5, "sd": 1.118},
    "fixations_on_first_stimulus": 5,
    "lengths_on_first_stimulus": [2, 3],
    "x_px": {"mean": 40.083, "min": 10, "max": 60, "median": 50.5, "sd": 20.501},
    "y_px": {"mean": 43.7},
    "t_s": {"max": 0.8},
    "duration_s": {"median": 0.225, "q25": 0.125, "q75": 0.2875},
    "first_duration_s": {"max": 0.5, "mean": 0.2667},
    "first_trial": {"stimulus": "one", "subject": "a", "x_px": [10.0, 13.0], "duration_s": [0.1]},
    "saccade_px": {"max": 10, "min": 0, "mean": 5.0},
    "start_distance_px": {"min": 0, "median": 3.0},
    "width_px": {"min": 60, "max": 100},
    "height_px": {"mean": 85},
    "target_box_px": {"width": 10.75, "height": 11},
    # Trial 2 makes two saccades where one was allowed.
    "trials_over_limit": 1,
    "trials_by": {"max_saccades": {1: 2, 2: 2}, "subject": {"a": 2}},
    "fixations_by": {"max_saccades": {1: 5, 2: 1}},
    "stimuli_by": {"kind": {"x": 1, "y": 1}},
    "subjects_by_trials": {2: 2},
    "found_rate_by": {"max_saccades": {1: 1.0, 2: 0.0}},
    # Trial 0 ends in its box; trial 2 ends 2 px right of and below it.
    "found_ending_near_target": {"margin_px": 0, "found": 2, "ending": 1},
    "trials_ending_on_target": 1,
    "trials_reaching_target": 2,
}


def test_every_measure_by_hand():
    assert set(BY_HAND) == set(MEASURES)
    findings = check(dataset(BY_HAND))
    assert not [str(finding) for finding in findings if finding.deviates]
    assert sum(finding.expected is not None for finding in findings) >= len(BY_HAND)


@pytest.mark.parametrize("key", sorted(BY_HAND))
def test_every_measure_can_deviate(key):
    def altered(value):
        if isinstance(value, dict):
            return {name: altered(inner) for name, inner in value.items()}
        if isinstance(value, list):
            return [altered(inner) for inner in value]
        return f"not {value}" if isinstance(value, str) else value + 1

    findings = check(dataset({**BY_HAND, "stimuli": 2, key: altered(BY_HAND[key])}))
    deviating = [finding.what for finding in findings if finding.deviates]
    if key == "stimuli":
        assert "counts and moments of this part are not known" in findings[0].found
    else:
        assert deviating
        assert all(what.startswith(key) for what in deviating)


def test_numbers_agree_to_the_digits_of_the_card():
    measured = 240.5 / 6  # the mean of x, 40.08333...
    for expected, fits in ((40.1, True), (40.08, True), (40.0833, True), (40.09, False), (40, True), (41, False)):
        (finding,) = [f for f in check(dataset({"stimuli": 2, "x_px": {"mean": expected}})) if f.what == "x_px mean"]
        assert finding.deviates is not fits, (expected, measured)


def test_margin_around_the_target():
    for margin, ending in ((1.0, 1), (2.0, 2)):
        expect = {"found_ending_near_target": {"margin_px": margin, "found": 2, "ending": ending}}
        assert not [f for f in check(dataset(expect)) if f.deviates]


def test_a_known_part_is_held_to_its_own_numbers():
    whole = {"stimuli": 7, "fixations": 70, "x_px": {"max": 60}}
    part = {"names_sha256": names_digest(dataset({})), "stimuli": 2, "fixations": 6}
    findings = check(dataset(whole, [part]))
    assert "this part is known" in findings[0].found
    assert not [f for f in findings if f.deviates]
    findings = check(dataset(whole, [{**part, "fixations": 7}]))
    assert [str(f) for f in findings if f.deviates] == ["fixations: 6 (expected 7)"]


def test_an_unknown_part_is_held_to_bounds_alone():
    whole = {"stimuli": 7, "fixations": 70, "empty_trials": 0, "x_px": {"mean": 3.0, "min": 5, "max": 59}}
    findings = check(dataset(whole))
    deviating = [str(f) for f in findings if f.deviates]
    assert deviating == ["empty_trials: 1 (expected 0)", "x_px max: 60 (expected at most 59)"]


def test_oddities_are_told_without_being_expected():
    told = {f.what: f.found for f in check(dataset({"stimuli": 2}))}
    assert told["fixations outside their stimulus"] == "1"
    assert told["trials without a fixation"] == "1"
    data = dataset({"stimuli": 2})
    fixations = data.fixations.copy()
    fixations.loc[4, ["t_s", "duration_s"]] = fixations.loc[3, ["t_s", "duration_s"]]
    told = {f.what: f.found for f in check(replace(data, fixations=fixations))}
    assert told["fixations that repeat the one before"] == "1"
    twice = replace(data, trials=data.trials.assign(stimulus=["one", "one", "one", "two"]))
    assert "trials of one subject on one stimulus and task, beyond the first" in {f.what for f in check(twice)}


def test_a_card_that_expects_what_cannot_be_measured():
    with pytest.raises(InputError, match=r"made\.yaml: cannot measure 'pupil'; known: duration_s,"):
        check(dataset({"stimuli": 2, "pupil": 3}))


def test_findings_read_as_sentences():
    assert str(Finding("trials", "4", "4")) == "trials: 4 as expected"
    assert str(Finding("trials", "4", "5", True)) == "trials: 4 (expected 5)"
    assert str(Finding("copy", "whole")) == "copy: whole"


def test_the_command_lists_deviations_and_fails(tmp_path):
    from click.testing import CliRunner

    from gazekit.cli import main

    folder = tmp_path / "amazon_covers"
    test_amazon_covers.write_release(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PartialDataWarning)
        fine = CliRunner().invoke(main, ["data", "check", "amazon_covers", "--data-root", str(tmp_path)])
        assert fine.exit_code == 0, fine.output
        assert "3 of 100 stimuli; counts and moments of this part are not known" in fine.output
        card = (load("amazon_covers", root=folder).card.path).read_text(encoding="utf-8")
        own = folder / "card.yaml"
        own.write_text(card.replace("stimuli: 100\n", "stimuli: 3\n"), encoding="utf-8")
        text = own.read_text(encoding="utf-8").replace("name: amazon_covers\n", "name: mine\nformat: amazon_covers\n")
        own.write_text(text, encoding="utf-8")
        wrong = CliRunner().invoke(main, ["data", "check", str(folder)])
    assert wrong.exit_code == 1
    assert "DEVIATES trials: 6 (expected 600)" in wrong.output
    assert "findings deviate from the card" in wrong.output


def test_show_draws_what_it_is_asked_for(tmp_path):
    from click.testing import CliRunner
    from PIL import Image

    from gazekit.cli import main
    from gazekit.datasets.show import show

    out = tmp_path / "figure.png"
    run = CliRunner().invoke(main, ["data", "show", "simulated", "--trials", "2", "--out", str(out)])
    assert run.exit_code == 0, run.output
    assert np.asarray(Image.open(out).convert("L")).std() > 20
    figure = show(dataset({}), trials=9)
    drawn = [axis for axis in figure.axes if axis.axison]
    assert len(drawn) == 3  # the empty trial has nothing to show
    titles = {axis.get_title() for axis in drawn}
    assert "one, b, 3 fixations" in titles
    for axis in drawn:  # y runs down, and the whole stimulus is in the frame
        top, bottom = axis.get_ylim()[1], axis.get_ylim()[0]
        assert top <= 0 < 80 <= bottom
    refused = CliRunner().invoke(main, ["data", "show", "simulated", "--out", str(tmp_path / "figure.docx")])
    assert refused.exit_code == 1
    assert "cannot write a figure as '.docx'" in refused.output
    with pytest.raises(InputError, match="cannot show 0 trials"):
        show(dataset({}), trials=0)


def test_list_says_what_is_here_and_the_table_does_not_depend_on_it(monkeypatch, tmp_path):
    from gazekit.datasets.overview import as_markdown, as_text, entries

    test_amazon_covers.write_release(tmp_path / "amazon_covers")
    before = as_markdown(entries())
    monkeypatch.setenv("GAZEKIT_DATA", str(tmp_path))
    text = as_text(entries())
    assert f"{tmp_path / 'amazon_covers'} (0.0 MB)" in text
    assert "simulated (SIMULATED)" in text
    assert "not here; gazekit data fetch osie" in text
    assert as_markdown(entries()) == before
    assert str(tmp_path) not in before


def test_the_tables_in_the_documentation_are_those_that_the_command_prints():
    from pathlib import Path

    from click.testing import CliRunner

    from gazekit.cli import main

    printed = CliRunner().invoke(main, ["data", "list", "--markdown"]).output
    written = (Path(__file__).parents[2] / "docs" / "datasets.md").read_text(encoding="utf-8")
    for table in printed.strip().split("\n\n"):
        assert table in written, "docs/datasets.md is out of date: paste what 'gazekit data list --markdown' prints"
