"""Splits: stable, disjoint, by any column; and the parts of a dataset that they make."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from gazekit import InputError
from gazekit.datasets import Card, GazeDataset, PartialDataWarning, load
from gazekit.datasets.split import SPLITS, SplitRule, check_split_name
from gazekit.geometry import Screen
from gazekit.tables import TRIAL_EXTRAS, check_fixations, check_objects, check_stimuli, check_trials


def made_up(n_stimuli: int = 40, n_subjects: int = 12, seed: int = 0) -> GazeDataset:
    """Every subject on every stimulus, with targets, an extra column of each kind, and objects."""
    rng = np.random.default_rng(seed)
    stimuli = pd.DataFrame(
        {
            "stimulus": [f"im{number:03d}" for number in range(n_stimuli)],
            "path": "",
            "width_px": 320,
            "height_px": 200,
            "layout": [number % 7 for number in range(n_stimuli)],
        }
    )
    pairs = [(subject, stimulus) for subject in range(n_subjects) for stimulus in range(n_stimuli)]
    trials = pd.DataFrame(
        {
            "trial": np.arange(len(pairs)) * 3 + 5,  # numbers need not be dense
            "subject": [f"s{subject:02d}" for subject, _ in pairs],
            "stimulus": [f"im{stimulus:03d}" for _, stimulus in pairs],
            "task": "search",
            "target": [["cup", "fork", "knife", "bowl", ""][(a + b) % 5] for a, b in pairs],
            "target_present": pd.array([[True, False, None][(a + b) % 3] for a, b in pairs], dtype="boolean"),
            "response_time_s": [np.nan if (a * b) % 4 == 1 else 0.5 + a for a, b in pairs],
            "max_saccades": pd.array([None if a == 1 else a for a, _ in pairs], dtype="Int64"),
            "caption": [f"a cup, “{a}”" for a, _ in pairs],
        }
    )
    rows = trials.loc[trials.index.repeat(rng.integers(1, 4, len(trials))), ["trial", "subject", "stimulus"]]
    fixations = rows.reset_index(drop=True)
    fixations["fixation"] = fixations.groupby("trial").cumcount()
    fixations["x_px"], fixations["y_px"] = rng.uniform(0, 320, len(rows)), rng.uniform(0, 200, len(rows))
    fixations["t_s"], fixations["duration_s"] = np.nan, rng.uniform(0.1, 0.5, len(rows))
    objects = pd.DataFrame({"stimulus": stimuli["stimulus"], "object": 0, "left_px": 1.0, "top_px": 2.0})
    objects["right_px"], objects["bottom_px"] = 30.5, 40.0
    objects["label"] = "cup"
    content = {
        "name": "made_up",
        "title": "A made-up release",
        "citation": "None.",
        "license": {"data": "none stated"},
        "forced_initial": False,
        "screen": None,
        "format": "tables",
        "images": "optional",
        "source_units": {"duration": "s"},
        "expect": {"stimuli": n_stimuli, "subjects": n_subjects},
        "split": {"by": "stimulus", "seed": 3, "val": 0.2, "test": 0.3},
    }
    card = Card.from_content(content, Path("made_up.yaml"))
    fixations = check_fixations(fixations, "made_up")
    trials = check_trials(trials, fixations, "made_up")
    stimuli = check_stimuli(stimuli, "made_up")
    trials, stimuli = card.split_rule.assign(trials, stimuli, "made_up")
    return GazeDataset(fixations, trials, stimuli, card, check_objects(objects, stimuli, "made_up"))


@pytest.fixture(scope="module")
def data():
    return made_up()


def rule(**parts) -> SplitRule:
    return SplitRule.read({"by": "stimulus", "seed": 1, "val": 0.1, "test": 0.2, **parts}, "split")


def consistent(part: GazeDataset) -> None:
    """Every row of every table refers to rows that are there, and rows count from 0."""
    assert set(part.fixations["trial"]) <= set(part.trials["trial"])
    assert set(part.trials["stimulus"]) <= set(part.stimuli["stimulus"])
    if part.objects is not None:
        assert set(part.objects["stimulus"]) <= set(part.stimuli["stimulus"])
    for name in ("fixations", "trials", "stimuli"):
        table = getattr(part, name)
        assert table.index.equals(pd.RangeIndex(len(table))), name


def test_each_value_keeps_its_place_when_the_data_grow_or_change_order():
    names = pd.Series([f"im{number}" for number in range(500)])
    whole = rule().of(names)
    assert rule().of(names[:50]).equals(whole[:50])
    shuffled = names.sample(frac=1, random_state=1)
    assert rule().of(shuffled).sort_index().equals(whole)
    assert not rule(seed=2).of(names).equals(whole)
    # Where the bounds move, only values between the old and the new one do.
    wider = rule(test=0.25, val=0.05).of(names)
    assert (wider[whole == "test"] == "test").all()
    assert (wider[whole == "train"] == "train").all()


def test_the_place_of_a_name_is_that_of_all_versions():
    """Fixed once and for all: another hash would put other images into every published split."""
    assert rule().of(pd.Series(["1001", "1002", "1003", "1004", "1005", "1006", "1007", "1008"])).tolist() == _PLACES


# By hand: sha256sum of "1/1001" starts with 87a8, which is 0.53 of 10000; and so on.
_PLACES = ["train", "train", "train", "train", "test", "test", "train", "val"]


@pytest.mark.parametrize(("val", "test"), [(0.1, 0.2), (0.0, 0.5), (0.3, 0.0), (0.0, 0.0), (0.45, 0.5), (0, 0.5)])
def test_fractions_hold_on_average(val, test):
    split = rule(val=val, test=test).of(pd.Series([f"im{number}" for number in range(20_000)]))
    for name, fraction in (("val", val), ("test", test), ("train", 1 - val - test)):
        # Five standard errors of a binomial proportion.
        assert (split == name).mean() == pytest.approx(fraction, abs=5 * np.sqrt(0.25 / 20_000))
        assert fraction > 0 or (split != name).all()


def test_listed_values_go_where_they_are_listed():
    by_list = SplitRule.read({"by": "stimulus", "val": ["b", 7], "test": ["a", "not here"]}, "split")
    found = by_list.of(pd.Series(["a", "b", "c", "7"]))
    assert found.tolist() == ["test", "val", "train", "val"]
    assert by_list.of(pd.Series([7, 8, 7])).tolist() == ["val", "train", "val"]
    assert SplitRule.read({"by": "stimulus", "val": [], "test": []}, "split").of(pd.Series(["a"])).tolist() == ["train"]


@pytest.mark.parametrize("by", ["stimulus", "layout"])
def test_by_a_column_of_the_stimuli_each_stimulus_has_one_split(data, by):
    divided = data.resplit({"by": by, "seed": 4, "val": 0.25, "test": 0.25})
    assert set(divided.stimuli["split"]) == set(SPLITS)
    assert (divided.stimuli.groupby(by)["split"].nunique() == 1).all()
    of_stimulus = divided.stimuli.set_index("stimulus")["split"]
    assert (divided.trials["split"] == divided.trials["stimulus"].map(of_stimulus)).all()
    disjoint_and_whole(divided)


@pytest.mark.parametrize(
    "by", ["subject", "target", "trial", "target_present", "response_time_s", "max_saccades", "caption"]
)
def test_by_a_column_of_the_trials_trials_are_disjoint(data, by):
    """Values may be missing, and are then one more value."""
    divided = data.resplit({"by": by, "seed": 8, "val": 0.3, "test": 0.3})
    assert set(divided.trials["split"]) <= set(SPLITS)
    assert (divided.stimuli["split"] == "").all()
    assert (divided.trials.groupby(by, dropna=False)["split"].nunique() == 1).all()
    disjoint_and_whole(divided)


def disjoint_and_whole(divided: GazeDataset) -> None:
    names = [name for name in SPLITS if (divided.trials["split"] == name).any()]
    parts = {name: divided.split(name) for name in names}
    for name, part in parts.items():
        consistent(part)
        assert set(part.trials["split"]) == {name}
    assert sorted(trial for part in parts.values() for trial in part.trials["trial"]) == sorted(divided.trials["trial"])
    assert sum(len(part.fixations) for part in parts.values()) == len(divided.fixations)


def test_by_subject_one_stimulus_is_in_several_splits(data):
    divided = data.resplit({"by": "subject", "val": ["s03"], "test": ["s01", "s04"]})
    train, val, test = (divided.split(name) for name in SPLITS)
    assert set(test.trials["subject"]) == {"s01", "s04"}
    assert set(val.trials["subject"]) == {"s03"}
    assert set(train.trials["subject"]).isdisjoint({"s01", "s03", "s04"})
    assert set(train.stimuli["stimulus"]) == set(test.stimuli["stimulus"]) == set(data.stimuli["stimulus"])
    assert set(train.fixations["trial"]).isdisjoint(test.fixations["trial"])


def test_resplit_changes_the_split_and_nothing_else(data):
    before = data.trials.copy(), data.stimuli.copy()
    divided = data.resplit({"by": "subject", "seed": 1, "val": 0.2, "test": 0.2})
    assert data.trials.equals(before[0])
    assert data.stimuli.equals(before[1])
    assert divided.fixations.equals(data.fixations)
    assert divided.trials.drop(columns="split").equals(data.trials.drop(columns="split"))
    back = divided.resplit({"by": "stimulus", "seed": 3, "val": 0.2, "test": 0.3})
    pd.testing.assert_frame_equal(back.trials, data.trials)
    pd.testing.assert_frame_equal(back.stimuli, data.stimuli)


@pytest.mark.parametrize("name", ["train", "val", "test", "train+val", "val+train", "test+train+val", "all"])
def test_names_and_sums_of_splits(data, name):
    wanted = set(SPLITS) if name == "all" else set(name.split("+"))
    assert check_split_name(name) == wanted
    part = data.split(name)
    consistent(part)
    assert set(part.trials["split"]) == wanted
    assert part.trials["trial"].tolist() == data.trials.loc[data.trials["split"].isin(wanted), "trial"].tolist()
    assert part.fixations["x_px"].tolist() == data.fixations.loc[
        data.fixations["trial"].isin(part.trials["trial"]), "x_px"
    ].tolist()  # fmt: skip


@pytest.mark.parametrize("name", ["tset", "", "train+", "train,val", "Train", " val", "all+none"])
def test_an_unknown_split_is_one_line(data, name):
    with pytest.raises(InputError, match=r"^no split named '.*'; known: all, train, val, test, or joined by \+$"):
        data.split(name)


def test_an_empty_split_is_one_line(data):
    divided = data.resplit({"by": "stimulus", "val": [], "test": ["im001"]})
    with pytest.raises(InputError, match="made_up: split 'val' holds none of the 40 stimuli here"):
        divided.split("val")
    by_subject = data.resplit({"by": "subject", "val": [], "test": ["s01"]})
    with pytest.raises(InputError, match="split 'val' holds none"):
        by_subject.split("val")


@pytest.mark.parametrize(
    "wrong",
    [None, 5, "stimulus", [], {}, {"by": "stimulus"}, {"by": "stimulus", "seed": 1, "val": 0.1},
     {"by": "stimulus", "seed": 1, "val": 0.1, "test": 0.2, "train": 0.7}, {"by": "stimulus", "val": 0.1, "test": 0.2},
     {"by": "stimulus", "seed": 1, "val": ["a"], "test": ["b"]}, {"by": "stimulus", "val": ["a"], "test": ["a", "b"]},
     {"by": "stimulus", "val": "a", "test": ["b"]}, {"by": "stimulus", "val": ["1"], "test": [1]},
     {"by": "stimulus", "seed": 1, "val": 0.5, "test": 0.5}, {"by": "stimulus", "seed": 1, "val": -0.1, "test": 0.2},
     {"by": "stimulus", "seed": 1, "val": 1.2, "test": 0.2},
     {"by": "stimulus", "seed": 1, "val": float("nan"), "test": 0.2},
     {"by": "stimulus", "seed": 1, "val": "0.1", "test": 0.2}, {"by": "stimulus", "seed": "1", "val": 0.1, "test": 0.2},
     {"by": "stimulus", "seed": 1.5, "val": 0.1, "test": 0.2},
     {"by": "stimulus", "seed": None, "val": 0.1, "test": 0.2},
     {"by": "stimulus", "seed": 1, "val": None, "test": 0.2}, {"by": "stimulus", "val": None, "test": None},
     {"by": None, "val": [], "test": []}, {"by": ["stimulus"], "seed": 1, "val": 0.1, "test": 0.2},
     {"by": {"a": 1}, "seed": 1, "val": 0.1, "test": 0.2}, {"by": 5, "seed": 1, "val": 0.1, "test": 0.2}],
    ids=str,
)  # fmt: skip
def test_a_bad_rule_is_one_line(data, wrong):
    with pytest.raises(InputError, match="split") as caught:
        data.resplit(wrong)
    assert len(str(caught.value).splitlines()) == 1


def test_an_unknown_column_is_one_line_that_lists_the_known_ones(data):
    with pytest.raises(InputError, match=r"made_up: cannot split by 'subjects'; columns are \[.*'subject', .*'target'"):
        data.resplit({"by": "subjects", "seed": 1, "val": 0.1, "test": 0.2})


def test_a_released_split_is_taken_as_it_is(data):
    released = data.stimuli.assign(released_split=["train", "validation", "test"] * 13 + ["train"])
    by_release = SplitRule.read({"by": "released_split", "val": ["validation"], "test": ["test"]}, "split")
    trials, stimuli = by_release.assign(data.trials, released, "made_up")
    assert stimuli["split"].tolist() == ["train", "val", "test"] * 13 + ["train"]
    assert len(trials) == len(data.trials)


def test_splits_are_text_in_every_table(data):
    for by in ("stimulus", "subject"):
        for table in (
            data.resplit({"by": by, "seed": 1, "val": 0.1, "test": 0.2}),
            data.resplit({"by": by, "val": ["s01"], "test": []}),
        ):
            assert table.trials["split"].dtype == table.stimuli["split"].dtype == data.trials["stimulus"].dtype


def test_subset_by_each_of_the_three(data):
    by_stimulus = data.subset(stimuli=["im004", "im001"])
    consistent(by_stimulus)
    # The order is the dataset's.
    assert by_stimulus.stimuli["stimulus"].tolist() == ["im001", "im004"]
    assert set(by_stimulus.trials["stimulus"]) == set(by_stimulus.objects["stimulus"]) == {"im001", "im004"}
    by_subject = data.subset(subjects=["s02"])
    consistent(by_subject)
    assert set(by_subject.fixations["subject"]) == {"s02"}
    assert len(by_subject.stimuli) == len(by_subject.objects) == len(data.stimuli)
    chosen = data.trials["trial"].iloc[[3, 200]].tolist()
    by_trial = data.subset(trials=chosen)
    consistent(by_trial)
    assert by_trial.trials["trial"].tolist() == chosen
    assert set(by_trial.stimuli["stimulus"]) == set(by_trial.objects["stimulus"]) == set(by_trial.trials["stimulus"])
    both = data.subset(stimuli=["im001"], subjects=["s02", "s03"])
    assert len(both.trials) == 2


def test_subset_keeps_numbers_types_and_the_original(data):
    n_before = len(data.fixations)
    part = data.subset(subjects=["s02"])
    assert set(part.trials["trial"]) <= set(data.trials["trial"])
    assert (part.trials.dtypes == data.trials.dtypes).all()
    assert len(data.fixations) == n_before


@pytest.mark.parametrize(
    ("chosen", "match"),
    [({"stimuli": ["im001", "im999", "x"]}, r"no stimulus named 'im999' \(2 unknown"),
     ({"subjects": ["s99"]}, "no subject named 's99'"), ({"trials": [5, 6]}, "no trial named 6"),
     ({"stimuli": [1]}, "no stimulus named 1")],
)  # fmt: skip
def test_an_unknown_part_is_one_line(data, chosen, match):
    with pytest.raises(InputError, match=match):
        data.subset(**chosen)


def test_an_unknown_geometry_is_one_line_and_can_be_given(data):
    with pytest.raises(InputError, match=r"made_up: .*does not state the viewing geometry.*with_screen"):
        _ = data.screen
    screen = Screen.from_card({"size_wh_px": [320, 200], "measured_px_per_dva": 20})
    assert data.with_screen(screen).screen == screen
    assert data.card.screen is None


def test_the_fingerprint_follows_every_row_and_no_path(data):
    same = data.fingerprint()
    assert made_up().fingerprint() == same
    moved = dataclasses.replace(data, stimuli=data.stimuli.assign(path="/elsewhere/a.jpg"))
    assert moved.fingerprint() == same
    changes = [
        dataclasses.replace(data, fixations=data.fixations.assign(x_px=data.fixations["x_px"] + 1e-9)),
        dataclasses.replace(data, fixations=data.fixations[:-1]),
        dataclasses.replace(data, fixations=data.fixations[::-1]),
        dataclasses.replace(data, trials=data.trials.assign(caption="other")),
        dataclasses.replace(data, stimuli=data.stimuli.assign(width_px=321)),
        data.resplit({"by": "stimulus", "seed": 4, "val": 0.2, "test": 0.3}),
        data.subset(subjects=["s01"]),
        dataclasses.replace(data, objects=data.objects.assign(right_px=31.0)),
        dataclasses.replace(data, objects=None),
        dataclasses.replace(data, fixations=data.fixations.rename(columns={"x_px": "y_px", "y_px": "x_px"})),
    ]
    prints = [changed.fingerprint() for changed in changes]
    assert same not in prints
    assert len(set(prints)) == len(prints)


def assert_same_tables(found: GazeDataset, expected: GazeDataset) -> None:
    for name in ("fixations", "trials", "stimuli", "objects"):
        ours, theirs = getattr(found, name), getattr(expected, name)
        if theirs is None:
            assert ours is None
        else:
            # Nothing is rounded on the way: every bit and every type is the same.
            pd.testing.assert_frame_equal(ours, theirs, check_exact=True)


def test_to_parquet_and_back(data, tmp_path):
    data.to_parquet(tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "fixations.parquet", "trials.parquet", "stimuli.parquet", "objects.parquet", "card.yaml",
    }  # fmt: skip
    again = GazeDataset.from_parquet(tmp_path / "out")
    assert_same_tables(again, data)
    assert again.fingerprint() == data.fingerprint()
    assert set(TRIAL_EXTRAS) & set(data.trials) == set(TRIAL_EXTRAS) & set(again.trials)


def test_load_reads_what_to_parquet_wrote(data, tmp_path):
    data.to_parquet(tmp_path / "out")
    assert_same_tables(load(tmp_path / "out"), data)


@pytest.mark.parametrize("by", ["subject", "layout"])
def test_a_resplit_dataset_keeps_its_split_on_disk(data, tmp_path, by):
    divided = data.resplit({"by": by, "seed": 9, "val": 0.3, "test": 0.3})
    divided.to_parquet(tmp_path / "out")
    assert_same_tables(GazeDataset.from_parquet(tmp_path / "out"), divided)
    assert_same_tables(load(tmp_path / "out"), divided)


def test_a_given_geometry_is_kept_on_disk(data, tmp_path):
    screen = Screen.from_card({"size_wh_px": [320, 200], "measured_px_per_dva": 20})
    data.with_screen(screen).to_parquet(tmp_path / "out")
    assert load(tmp_path / "out").screen == screen


def test_a_part_on_disk_is_known_as_a_part(data, tmp_path):
    part = data.subset(subjects=["s01"], stimuli=["im000", "im001"])
    part.to_parquet(tmp_path / "out")
    with pytest.warns(PartialDataWarning, match="2 of 40 stimuli .*1 of 12 subjects"):
        again = load(tmp_path / "out")
    assert_same_tables(again, part)


@pytest.mark.parametrize("lost", ["fixations.parquet", "card.yaml", "stimuli.parquet"])
def test_a_damaged_folder_is_one_line(data, tmp_path, lost):
    data.to_parquet(tmp_path / "out")
    for damage in (lambda path: path.write_bytes(path.read_bytes()[:50]), lambda path: path.unlink()):
        damage(tmp_path / "out" / lost)
        with pytest.raises(InputError) as caught:
            GazeDataset.from_parquet(tmp_path / "out")
        assert len(str(caught.value).splitlines()) == 1


def test_what_cannot_be_written_leaves_no_part(data, tmp_path):
    data.to_parquet(tmp_path / "out")
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    broken = dataclasses.replace(data, trials=data.trials.assign(odd=[object()] * len(data.trials)))
    with pytest.raises(Exception, match="object"):
        broken.to_parquet(tmp_path / "out")
    after = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert after["trials.parquet"] == before["trials.parquet"]
    assert after.keys() == before.keys()


def test_a_given_geometry_is_told_and_may_be_a_cards_block():
    data = load("simulated")
    block = {"size_wh_px": [400, 300], "measured_px_per_dva": 20}
    changed = data.with_screen(block)
    assert changed.screen.px_per_dva == 20
    assert changed.changes[-1] == "The screen was given by the user (20 px per dva), not by the release."
    for wrong in (None, 32, "32 px"):
        with pytest.raises(InputError, match="expected a Screen"):
            data.with_screen(wrong)


def test_folds_test_and_validate_every_value_once():
    data = made_up()
    rules = [{"by": "stimulus", "seed": 3, "folds": 5, "fold": fold} for fold in range(5)]
    parts = [data.resplit(rule).stimuli.set_index("stimulus")["split"] for rule in rules]
    for name in ("test", "val"):
        counts = sum((part == name).astype(int) for part in parts)
        assert (counts == 1).all()
    # The next fold validates.
    for part, following in zip(parts, [*parts[1:], parts[0]], strict=True):
        assert (part == "val").equals(following == "test")
    # A value keeps its fold when others leave.
    fewer = data.subset(stimuli=data.stimuli["stimulus"].tolist()[::3]).resplit(rules[0]).stimuli
    assert (fewer.set_index("stimulus")["split"] == parts[0].loc[fewer["stimulus"]]).all()


@pytest.mark.parametrize(
    "rule",
    [
        {"by": "stimulus", "seed": 0, "folds": 2, "fold": 0}, {"by": "stimulus", "seed": 0, "folds": 5, "fold": 5},
        {"by": "stimulus", "folds": 5, "fold": 0}, {"by": "stimulus", "seed": 0, "folds": 5, "fold": 0, "val": 0.1},
        {"by": "stimulus", "seed": 0, "folds": 5, "fold": 1.0}, {"by": 3, "seed": 0, "folds": 5, "fold": 1},
    ],
)  # fmt: skip
def test_folds_that_are_none(rule):
    with pytest.raises(InputError, match="fold"):
        SplitRule.read(rule, "split")
