"""A user's own table: renamed, converted and checked, and each broken rule told in one line."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from gazekit import InputError
from gazekit.datasets import Card, load
from gazekit.datasets.from_frame import from_dataframe
from gazekit.geometry import Screen

ONE_TRIAL = "Without a column 'trial', all rows of a subject on a stimulus are one trial."

SCREEN = {"size_wh_px": [100, 60], "measured_px_per_dva": 12.5}


def frame(**columns):
    table = {
        "subject": ["a", "a", "b", "b"],
        "stimulus": ["i", "i", "i", "k"],
        "x_px": [1.5, 2.0, 3.0, 99.9],
        "y_px": [1.0, 2.0, 59.0, 4.0],
        "t_s": [0.0, 0.3, 0.1, 0.0],
        "duration_s": [0.2, 0.3, np.nan, 0.1],
    }
    return pd.DataFrame({key: value for key, value in (table | columns).items() if value is not None})


def build(table=None, **arguments):
    return from_dataframe(frame() if table is None else table, **({"name": "mine", "screen": SCREEN} | arguments))


def refused(match, table=None, **arguments):
    with pytest.raises(InputError, match=match) as caught:
        build(table, **arguments)
    assert "\n" not in str(caught.value)


def test_a_standard_table_is_taken_as_it_is():
    table = frame(pupil=[1, 2, 3, 4])
    before = table.copy()
    data = build(table)
    pd.testing.assert_frame_equal(table, before)  # the user's frame is theirs
    assert data.fixations["trial"].tolist() == [0, 0, 1, 2]
    assert data.fixations["fixation"].tolist() == [0, 1, 0, 0]
    pd.testing.assert_frame_equal(data.fixations[list(before.columns)], before, check_exact=True)
    assert data.trials["task"].tolist() == ["free_viewing"] * 3
    assert data.stimuli[["stimulus", "path", "width_px", "height_px"]].to_numpy().tolist() == [
        ["i", "", 100, 60],
        ["k", "", 100, 60],
    ]
    assert data.screen.px_per_dva == 12.5
    assert not data.card.forced_initial
    assert data.card.split_rule.by == "stimulus"
    assert data.changes == (ONE_TRIAL,)
    assert data.split("all") is data


def test_columns_are_renamed_and_units_converted():
    table = frame(x_px=None, subject=None, duration_s=None).assign(
        X=[1.5, 2.0, 3.0, 99.9], who=[1, 1, 2, 2], dur=[200, 300.5, np.nan, 100]
    )
    data = build(
        table.rename(columns={"t_s": "begin"}),
        columns={"X": "x_px", "who": "subject", "dur": "duration_s", "begin": "t_s"},
        units={"duration_s": "ms", "t_s": "s"},
    )
    assert data.fixations["subject"].tolist() == ["1", "1", "2", "2"]
    np.testing.assert_array_equal(data.fixations["duration_s"], [0.2, 0.3005, np.nan, 0.1])
    assert data.fixations["t_s"].tolist() == [0.0, 0.3, 0.1, 0.0]
    assert set(data.changes) == {"duration_s was given in ms and is converted to seconds.", ONE_TRIAL}


def test_index_and_missing_times():
    table = frame(t_s=None, duration_s=None).set_index(["subject", "stimulus"])
    data = build(table)
    assert data.fixations["subject"].tolist() == ["a", "a", "b", "b"]
    assert data.fixations[["t_s", "duration_s"]].isna().all(axis=None)
    shuffled_index = frame().set_axis([9, 9, 3, 1])
    assert build(shuffled_index).fixations["x_px"].tolist() == [1.5, 2.0, 3.0, 99.9]


def test_images_from_a_folder_or_a_mapping(tmp_path):
    for name, size in (("i.png", (101, 60)), ("k.jpg", (30, 17)), ("more.png", (2, 2))):
        Image.new("RGB", size).save(tmp_path / name)
    data = build(images=tmp_path, screen=None)
    assert data.stimuli["width_px"].tolist() == [101, 30]
    assert data.stimuli["path"].tolist() == [str(tmp_path / "i.png"), str(tmp_path / "k.jpg")]
    assert data.changes[-1] == "1 of 4 fixations lie outside their stimulus and are kept."
    with_suffix = frame(stimulus=["i.png", "i.png", "i.png", "k.jpg"])
    assert build(with_suffix, images=tmp_path).stimuli["height_px"].tolist() == [60, 17]
    by_name = {"i": tmp_path / "i.png", "k": str(tmp_path / "more.png")}
    assert build(images=by_name).stimuli["width_px"].tolist() == [101, 2]
    refused(r"no image for stimulus 'k' \(1 of 2", images={"i": tmp_path / "i.png"})
    refused(r"nowhere: no such folder", images=tmp_path / "nowhere")
    refused(r"gone\.png: image of stimulus 'k' missing", images=by_name | {"k": tmp_path / "gone.png"})
    refused("no image for stimulus 'moer'.*did you mean 'more'", frame(stimulus="moer", t_s=None), images=tmp_path)
    (tmp_path / "i.png").write_text("no image")
    refused(r"i\.png: not a readable image", images=tmp_path)


def test_all_tables_together_and_saved(tmp_path):
    trials = pd.DataFrame(
        {
            "trial": [10, 20, 30, 40],
            "subject": ["a", "b", "b", "c"],
            "stimulus": ["i", "i", "k", "k"],
            "found": [True, None, False, True],
        }
    )
    stimuli = pd.DataFrame({"stimulus": ["i", "k", "l"], "width_px": [100, 120, 5], "height_px": [60, 50, 5]})
    objects = pd.DataFrame(
        {"stimulus": ["k"], "object": [0], "left_px": [1], "top_px": [2], "right_px": [3], "bottom_px": [4]}
    )
    data = build(
        trials=trials,
        stimuli=stimuli,
        objects=objects,
        screen=Screen((100, 60), size_wh_cm=(40.0, 24.0), distance_cm=57.0),
        task="visual_search",
        forced_initial=True,
        split={"by": "subject", "val": [], "test": ["b"]},
        card={"title": "Mine", "license": {"data": "CC0"}, "known_issues": ["none known"]},
    )
    assert data.fixations["trial"].tolist() == [10, 10, 20, 30]
    assert data.trials["task"].tolist() == ["visual_search"] * 4  # the fourth has no fixation
    assert data.trials["found"].tolist() == [True, pd.NA, False, True]
    assert len(data.stimuli) == 3
    assert data.split("test").trials["subject"].unique().tolist() == ["b"]
    assert data.card.forced_initial
    data.to_parquet(tmp_path / "mine")
    again = load(tmp_path / "mine")
    for name in ("fixations", "trials", "stimuli", "objects"):
        pd.testing.assert_frame_equal(getattr(again, name), getattr(data, name))
    assert again.screen == data.screen
    assert again.card.content["title"] == "Mine"


def test_a_whole_card_may_be_given():
    card = Card.read("osie")
    data = build(name="osie", card=card, screen=None)
    assert data.card is card
    refused("screen is given beside a card", name="osie", card=card)
    refused("the card is that of 'osie'", card=card, screen=None)
    refused("expected a Card or a mapping", card="osie")
    refused("no card key .*'licence'; did you mean 'license'", card={"licence": {}})
    refused("name is ''", name="")
    refused("expected {by: COLUMN", split={"by": "stimulus"})
    refused("cannot split by 'age'", split={"by": "age", "val": [], "test": []})
    refused("screen is 3", screen=3)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"x_px": None, "X": [1.0] * 4}, r"no column 'x_px', found .*; did you mean columns=\{'X': 'x_px'\}\?"),
        ({"subject": None, "Participant": ["a"] * 4}, r"did you mean columns=\{'Participant': 'subject'\}\?"),
        ({"stimulus": None, "stimuls": ["a"] * 4}, r"did you mean columns=\{'stimuls': 'stimulus'\}\?"),
        ({"y_px": None}, r"mine, fixations: no column 'y_px', found \['subject', .*'duration_s'\]$"),
        ({"duration_s": None, "duration": [200] * 4}, r"no column 'duration_s', but one named 'duration'; give"),
        ({"x_px": ["1", "2", "left", "4"]}, "row 2: x_px is 'left', expected a number"),
        ({"x_px": [True, False, True, True]}, "row 0: x_px is True, expected a number"),
        ({"x_px": [[1], [2], [3], [4]]}, r"row 0: x_px is \[1\], expected a number"),
        ({"x_px": [1, 2 + 1j, 3, 4]}, "row 0: x_px is .*expected a number"),
        ({"y_px": [1, 2, np.nan, 4]}, "row 2: y_px is nan, expected a finite position"),
        ({"y_px": [1, 2, None, 4]}, "row 2: y_px is nan, expected a finite position"),
        ({"t_s": [0, np.inf, 0, 0]}, "row 1: t_s is inf, expected seconds"),
        ({"duration_s": [0.1, 0.2, -0.1, 0.1]}, "row 2: duration_s is -0.1, expected no negative duration"),
        ({"duration_s": [200, 300, 250, 100]}, r"duration_s looks like milliseconds \(median 225\).*units="),
        ({"t_s": [0.0, 300.0, 0.0, 0.0]}, r"t_s looks like milliseconds \(median step within a trial 300\)"),
        ({"t_s": [-0.1, 0.3, 0.0, 0.0]}, "row 0: t_s is -0.1, expected seconds from stimulus onset"),
        ({"t_s": [0.3, 0.1, 0.0, 0.0]}, "row 1: t_s goes back to 0.1 within trial 0; sort the rows"),
        ({"subject": ["a", None, "b", "b"]}, "row 1: subject is missing"),
        ({"stimulus": ["i", " ", "i", "i"]}, "row 1: stimulus is missing"),
        ({"stimulus": ["i", "k", "i", "k"], "subject": "a"}, "row 2: subject 'a' is back on stimulus 'i'"),
        ({"fixation": [1, 2, 1, 1]}, "row 0: fixation is 1, expected 0.*subtract 1"),
        ({"fixation": [1, 0, 0, 0]}, "row 0: fixation is 1, expected 0.*sort the rows"),
        ({"fixation": [0, 1.5, 0, 0]}, "row 1: fixation is 1.5, expected a whole number"),
        ({"trial": [1, 1, 1, 2]}, "row 2: trial 1 is of subject 'a' and of 'b'.*groupby"),
        ({"trial": [1, 1, 2, 2]}, "row 3: trial 2 is of stimulus 'i' and of 'k'"),
        ({"trial": ["T1", "T1", "T2", "T3"]}, "row 0: trial is 'T1', expected a number; number the labels.*factorize"),
        ({"x_px": 1.0, "y_px": 1.0, "t_s": [0, 0, 0, 0], "duration_s": 0.2}, "row 1: the same as an earlier row"),
    ],
)  # fmt: skip
def test_a_broken_rule_names_the_row_and_what_to_do(columns, message):
    refused(message, frame(**columns))


def test_ways_out_of_rules_that_suspect():
    slow = frame(duration_s=[20.0, 30.0, 25.0, 60.0])
    assert build(slow, units={"duration_s": "s"}).fixations["duration_s"].tolist() == [20, 30, 25, 60]
    assert build(frame(t_s=[0, 300, 0, 0]), units={"t_s": "ms"}).fixations["t_s"].tolist() == [0, 0.3, 0, 0]
    same = frame(x_px=1.0, y_px=1.0, t_s=None, duration_s=0.2, fixation=[0, 1, 0, 0])
    assert len(build(same).fixations) == 4
    # Positions alone may agree by chance.
    assert len(build(frame(x_px=1.0, y_px=1.0, t_s=None, duration_s=None)).fixations) == 4


def test_arguments_that_do_not_fit():
    refused(r"columns=\{'XX': 'x_px'\}: no column 'XX'", columns={"XX": "x_px"})
    refused("column 'x_px' is there twice", columns={"y_px": "x_px"})
    refused("units=.*only t_s and duration_s can have one", units={"x_px": "ms"})
    refused("units=.*expected one of 's', 'ms', 'us'", units={"t_s": "min"})
    refused("units=.*no column 't_s'", frame(t_s=None), units={"t_s": "ms"})
    refused("fixations is a list, expected a pandas DataFrame", [])
    refused("holds no fixation", frame().iloc[:0])
    refused("trials is a dict", trials={})
    refused("size of stimulus 'i' is not known", screen=None)
    stimuli = pd.DataFrame({"stimulus": ["i"], "width_px": [9], "height_px": [9]})
    refused("row 3: stimulus 'k' is not among the 1 stimuli", stimuli=stimuli)
    trials = pd.DataFrame({"subject": ["a", "b"], "stimulus": ["i", "i"]})
    refused("row 3: the trial table lists no trial of subject 'b' on stimulus 'k'", trials=trials)
    refused("an object has no box|left_px is nan|no proper box", objects=pd.DataFrame(
        {"stimulus": ["k"], "object": [0], "left_px": [np.nan], "top_px": [2], "right_px": [3], "bottom_px": [4]}
    ))  # fmt: skip


def test_large_tables_are_quick():
    n = 300_000
    table = pd.DataFrame(
        {
            "subject": np.repeat(np.arange(100), n // 100).astype(str),
            "stimulus": np.tile(np.repeat(np.arange(300), 10), 100).astype(str),
            "x_px": np.random.default_rng(0).random(n) * 100,
            "y_px": 3.0,
            "t_s": np.tile(np.arange(10) * 0.3, n // 10),
        }
    )
    data = build(table)
    assert len(data.trials) == 30_000


def test_positions_that_are_fractions_are_refused(tmp_path):
    table = pd.DataFrame({"subject": "a", "stimulus": "k", "x_px": [0.1, 0.9], "y_px": [0.5, 1.0]})
    with pytest.raises(InputError, match=r"between 0 and 1, which look like fractions .* multiply them") as caught:
        from_dataframe(table, name="mine", screen={"size_wh_px": [400, 300], "measured_px_per_dva": 30})
    assert "\n" not in str(caught.value)
    within = table.assign(x_px=[0.1, 1.9])
    assert (
        len(from_dataframe(within, name="mine", screen={"size_wh_px": [400, 300], "measured_px_per_dva": 30}).trials)
        == 1
    )


@pytest.mark.parametrize(("named", "wanted"), [("fix", "fixation"), ("TRIAL_INDEX", "trial"), ("trial_id", "trial")])
def test_numbers_under_another_name_are_not_passed_over(named, wanted):
    table = pd.DataFrame({"subject": "a", "stimulus": "k", "x_px": [10.0, 20], "y_px": [5.0, 6], named: [0, 1]})
    with pytest.raises(InputError, match=rf"no column '{wanted}', but one named '{named}'; give columns="):
        from_dataframe(table, name="mine", screen={"size_wh_px": [400, 300], "measured_px_per_dva": 30})
