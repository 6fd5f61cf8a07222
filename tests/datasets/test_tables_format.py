"""Plain tables: what a lab writes by hand, what to_parquet writes, and how each broken rule is told."""

import random
import warnings
from contextlib import contextmanager

import numpy as np
import pandas as pd
import pyarrow
import pytest
import yaml
from PIL import Image
from pyarrow import parquet

from gazekit import InputError
from gazekit.datasets import Card, GazeDataset, PartialDataWarning, load
from gazekit.datasets.readers.tables import read_tables
from tests.conftest import write_release as write_osie

CARD = {
    "name": "mylab",
    "title": "A made-up study",
    "citation": "nobody",
    "license": {"data": "CC0", "images": "CC0"},
    "format": "tables",
    "task": "free_viewing",
    "forced_initial": False,
    "screen": {"size_wh_px": [60, 40], "measured_px_per_dva": 10},
    "needs": ["fixations.csv"],
    "expect": {},
    "split": {"by": "stimulus", "seed": 1, "val": 0.1, "test": 0.2},
}
FIXATIONS = """subject,stimulus,x_px,y_px,t_s,duration_s,pupil,note
001,bus,10.5,20.25,0,0.2,3.5,
001,bus,0.1,39.9,0.25,0.3,,blink
001,sub/car,5,6,,,4,
2,sub/car,7,8,0.1,0.123456789012345,4,
2,bus,41,1,0.2,0.1,4,007
"""


def write_release(folder):
    """Two subjects on two stimuli, one in a folder of its own, and a third image that nobody saw."""
    (folder / "images" / "sub").mkdir(parents=True)
    for name, size in (("bus.png", (41, 40)), ("sub/car.jpg", (30, 17)), ("unseen.png", (9, 5))):
        Image.new("RGB", size, (90, 120, 30)).save(folder / "images" / name)
    (folder / "images" / "Thumbs.db").write_bytes(b"no image")
    (folder / "fixations.csv").write_text(FIXATIONS, encoding="utf-8")
    write_card(folder)


def write_card(folder, **changes):
    (folder / "card.yaml").write_text(yaml.safe_dump(CARD | changes), encoding="utf-8")


@pytest.fixture
def lab(tmp_path):
    write_release(tmp_path / "lab")
    return tmp_path / "lab"


def refused(folder, match):
    with pytest.raises(InputError, match=match) as caught:
        load(folder, cache=False)
    assert "\n" not in str(caught.value)


def edit(folder, old, new, name="fixations.csv"):
    text = (folder / name).read_text(encoding="utf-8")
    assert old in text
    (folder / name).write_text(text.replace(old, new), encoding="utf-8")


def test_a_card_and_one_csv_make_a_dataset(lab):
    data = load(lab)
    assert data.fixations["subject"].tolist() == ["001", "001", "001", "2", "2"]
    assert data.fixations["trial"].tolist() == [0, 0, 1, 2, 3]
    assert data.fixations["fixation"].tolist() == [0, 1, 0, 0, 0]
    assert data.fixations["x_px"].tolist() == [10.5, 0.1, 5, 7, 41]
    assert data.fixations["duration_s"].tolist()[3] == 0.123456789012345
    assert np.isnan(data.fixations["t_s"].iloc[2])
    np.testing.assert_array_equal(data.fixations["pupil"], [3.5, np.nan, 4, 4, 4])
    assert data.fixations["note"].tolist() == ["", "blink", "", "", "007"]
    assert data.trials["task"].unique().tolist() == ["free_viewing"]
    assert data.stimuli["stimulus"].tolist() == ["bus", "unseen", "sub/car"]
    assert data.stimuli[["width_px", "height_px"]].to_numpy().tolist() == [[41, 40], [9, 5], [30, 17]]
    assert data.changes == (
        "Without a column 'trial', all rows of a subject on a stimulus are one trial.",
        "1 of 5 fixations lie outside their stimulus and are kept.",
    )
    assert set(data.stimuli["split"]) <= {"train", "val", "test"}


def test_every_column_may_be_left_out_but_four(lab):
    (lab / "fixations.csv").write_text("y_px,x_px,stimulus,subject\n1,2,bus,s\n", encoding="utf-8")
    data = load(lab)
    assert data.fixations[["x_px", "y_px"]].to_numpy().tolist() == [[2, 1]]
    assert data.fixations[["t_s", "duration_s"]].isna().all(axis=None)


def test_further_columns_are_numbers_only_where_they_are_not_names(lab):
    (lab / "fixations.csv").write_text(
        "subject,stimulus,x_px,y_px,block,code,gain\n1,bus,1,2,3,007,1.5\n1,bus,3,4,12,010,\n", encoding="utf-8"
    )
    table = load(lab).fixations
    assert table["code"].tolist() == ["007", "010"]
    assert table["block"].tolist() == [3, 12]
    assert table["block"].dtype == np.int64
    np.testing.assert_array_equal(table["gain"], [1.5, np.nan])


def test_more_values_than_columns(lab):
    (lab / "fixations.csv").write_text("subject,stimulus,x_px,y_px\n1,bus,1,2,3\n1,bus,3,4,5\n", encoding="utf-8")
    refused(lab, r"fixations\.csv: not a readable CSV file .*expected commas and one header line")


def test_files_as_spreadsheets_write_them(lab):
    """A byte order mark, Windows line ends, quotes and blank lines."""
    text = 'subject, stimulus ,x_px,y_px\r\n"Müller, A.",bus,1,2\r\n\r\n"Müller, A.",bus,3,4\r\n\r\n'
    (lab / "fixations.csv").write_bytes(b"\xef\xbb\xbf" + text.encode())
    data = load(lab)
    assert data.fixations["subject"].tolist() == ["Müller, A."] * 2
    edit(lab, ",3,4", ",3,oops")
    refused(lab, r"fixations\.csv: row 1: y_px is 'oops', expected a number")


def test_trials_stimuli_and_objects(lab):
    (lab / "trials.csv").write_text(
        "subject,stimulus,target,target_present,response_time_s,max_saccades,block\n"
        "2,bus,007,true,1.5,,3\n001,bus,,,,4,1\n001,sub/car,x,FALSE,0.5,,1\n2,sub/car,,0,,,2\n2,tram,,1,,6,2\n",
        encoding="utf-8",
    )
    (lab / "stimuli.csv").write_text(
        "stimulus,width_px,height_px,path,kind\nbus,41,40,,a\nsub/car,60,34,,b\ntram,5,7,elsewhere/tram.png,b\n",
        encoding="utf-8",
    )
    (lab / "objects.csv").write_text(
        "stimulus,object,left_px,top_px,right_px,bottom_px,label\nbus,0,1,2,3.5,4,wheel\nbus,1,0,0,2,2,door\n",
        encoding="utf-8",
    )
    write_card(lab, images="optional")
    data = load(lab)
    assert data.trials["trial"].tolist() == [0, 1, 2, 3, 4]
    # Trials without a number are numbered by row, and the fixations find theirs by subject and stimulus.
    assert data.fixations["trial"].tolist() == [1, 1, 2, 3, 0]
    assert data.trials["target"].tolist() == ["007", "", "x", "", ""]
    assert data.trials["target_present"].tolist() == [True, pd.NA, False, False, True]
    assert data.trials["max_saccades"].tolist() == [pd.NA, 4, pd.NA, pd.NA, 6]
    assert data.trials["block"].tolist() == [3, 1, 1, 2, 2]
    # Shown at twice its size; the table says which size positions refer to.
    assert data.stimuli.loc[1, ["width_px", "height_px"]].tolist() == [60, 34]
    assert [bool(path) for path in data.stimuli["path"]] == [True, True, False]
    assert data.objects["right_px"].tolist() == [3.5, 2]
    write_card(lab)
    refused(lab, r"stimuli\.csv: no image for stimulus 'tram' \(1 of 3 stimuli have none\)")


def test_without_images_the_screen_is_the_size(lab):
    for path in sorted((lab / "images").rglob("*.*")):
        path.unlink()
    refused(lab, r"fixations\.csv: no image for stimulus 'bus' \(2 of 2 stimuli have none\)")
    write_card(lab, images="optional")
    data = load(lab)
    assert data.stimuli[["path", "width_px", "height_px"]].to_numpy().tolist() == [["", 60, 40]] * 2
    write_card(lab, images="optional", screen=None)
    refused(lab, "size of stimulus 'bus' is not known; give width_px and height_px")


def same(data, again):
    for name in ("fixations", "trials", "stimuli"):
        pd.testing.assert_frame_equal(getattr(again, name), getattr(data, name), check_exact=True)
    assert (again.objects is None) == (data.objects is None)
    if data.objects is not None:
        pd.testing.assert_frame_equal(again.objects, data.objects, check_exact=True)
    assert again.fingerprint() == data.fingerprint()


def test_what_to_parquet_writes_comes_back_equal(lab, tmp_path):
    test_trials_stimuli_and_objects(lab)
    write_card(lab, images="optional")
    data = load(lab)
    data.to_parquet(tmp_path / "copy")
    same(data, load(tmp_path / "copy"))
    same(data, load(tmp_path / "copy"))  # from the cache
    part = data.subset(subjects=["2"])
    part.to_parquet(tmp_path / "part")
    same(part, load(tmp_path / "part"))


def test_another_datasets_tables_come_back_equal(tmp_path):
    write_osie(tmp_path / "data")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PartialDataWarning)
        data = load("osie", root=tmp_path / "data")
        data.to_parquet(tmp_path / "copy")
        again = load(tmp_path / "copy")
        same(data, again)
        # On another machine the images are put beside the tables, or are not there.
        (tmp_path / "data").rename(tmp_path / "moved")
        gone = load(tmp_path / "copy", cache=False)
        assert (gone.stimuli["path"] == "").all()
        assert gone.fingerprint() == data.fingerprint()
        (tmp_path / "moved" / "osie" / "stimuli").rename(tmp_path / "copy" / "images")
        back = load(tmp_path / "copy", cache=False)
    assert back.stimuli["path"].str.contains("copy/images/100").all()
    assert isinstance(again, GazeDataset)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("x_px,y_px", "x_px,Y", r"no column 'y_px', found .*; rename 'Y' to 'y_px'"),
        ("subject,", "participant,", "no column 'subject'.*rename 'participant' to 'subject'"),
        ("0.1,39.9", "left,39.9", r"fixations\.csv: row 1 \(line 3\): x_px is 'left', expected a number"),
        ("0.1,39.9", ",39.9", r"row 1 \(line 3\): x_px is nan, expected a finite position"),
        ("0.1,39.9", "0.1,inf", r"row 1 \(line 3\): y_px is inf, expected a finite position"),
        ("0.1,39.9", "1_0,39.9", "x_px is '1_0', expected a number"),
        ("0.25,0.3", "0.25,-0.3", r"row 1 \(line 3\): duration_s is -0.3, expected no negative"),
        ("2,bus", ",bus", r"row 4 \(line 6\): subject is missing"),
        ("2,bus", "2,buss", r"row 4 \(line 6\): stimulus 'buss' is not among the 3 stimuli.*did you mean 'bus'"),
        ("2,bus", "2,bus.png", "stimulus 'bus.png' is not among.*did you mean 'bus'"),
        ("2,bus", "001,bus", r"row 4 \(line 6\): subject '001' is back on stimulus 'bus'.*add a column 'trial'"),
        ("0.25,0.3", "0.25,0.3,4,5,6", "not a readable CSV file"),
        ("note\n", "pupil\n", "column 'pupil' is there twice"),
        ("note\n", "\n", "a column has no name"),
        (",", ";", "separated by ';', expected commas"),
    ],
)
def test_a_broken_rule_is_told_with_file_row_and_column(lab, old, new, message):
    edit(lab, old, new)
    refused(lab, message)


def test_given_numbers_are_checked(lab):
    text = "subject,stimulus,trial,fixation,x_px,y_px\na,bus,4,0,1,1\na,bus,4,1,2,2\nb,bus,9,0,3,3\n"
    (lab / "fixations.csv").write_text(text, encoding="utf-8")
    assert load(lab).fixations["trial"].tolist() == [4, 4, 9]
    for old, new, message in (
        ("4,1,2,2", "4,2,2,2", r"row 1 \(line 3\): fixation is 2, expected 1.*sort the rows"),
        ("b,bus,9", "b,bus,4", r"row 2 \(line 4\): trial 4 is of subject 'a' and of 'b'.*ngroup"),
        ("a,bus,4,1", "a,sub/car,4,1", "trial 4 is of stimulus 'bus' and of 'sub/car'"),
        ("b,bus,9", "b,bus,9.5", "trial is 9.5, expected a whole number"),
        ("b,bus,9", "b,bus,", "trial is nan, expected a whole number"),
        ("b,bus,9", "b,bus,T9", "trial is 'T9', expected a number; number the labels.*factorize"),
    ):
        (lab / "fixations.csv").write_text(text.replace(old, new), encoding="utf-8")
        refused(lab, message)
    from_one = text.replace("4,1,2", "4,2,2").replace(",0,", ",1,")
    (lab / "fixations.csv").write_text(from_one, encoding="utf-8")
    refused(lab, "fixation is 1, expected 0.*subtract 1, or leave the column out")


def test_durations_in_milliseconds(lab):
    (lab / "fixations.csv").write_text("subject,stimulus,x_px,y_px,duration_s\na,bus,1,1,250\n", encoding="utf-8")
    refused(lab, r"duration_s looks like milliseconds \(median 250\), expected seconds; divide them by 1000")
    write_card(lab, source_units={"duration": "s"})
    assert load(lab).fixations["duration_s"].tolist() == [250]


def test_a_trial_table_must_fit(lab):
    trials = lab / "trials.csv"
    trials.write_text("subject,stimulus\n001,bus\n001,sub/car\n2,bus\n", encoding="utf-8")
    refused(
        lab, r"fixations\.csv: row 3 \(line 5\): the trial table lists no trial of subject '2' on stimulus 'sub/car'"
    )
    trials.write_text("subject,stimulus\n001,bus\n001,bus\n", encoding="utf-8")
    refused(lab, "lists several trials of subject '001' on stimulus 'bus'; add the column")
    trials.write_text("trial,subject,stimulus\n1,001,bus\n1,2,bus\n", encoding="utf-8")
    refused(lab, "lists")
    trials.write_text("subject,stimulus,found\n001,bus,maybe\n", encoding="utf-8")
    refused(lab, r"trials\.csv: row 0 \(line 2\): found is 'maybe', expected true, false or nothing")
    trials.write_text("subject,stimulus,max_saccades\n001,bus,1.5\n", encoding="utf-8")
    refused(lab, "max_saccades is 1.5, expected a whole number")


def test_a_stimulus_table_must_fit(lab):
    stimuli = lab / "stimuli.csv"
    for text, message in (
        ("stimulus,width_px\nbus,3\n", "has width_px alone"),
        ("stimulus,width_px,height_px\nbus,20,41\n", r"bus\.png: image is 41x40 px, the stimulus table says 20x41"),
        ("stimulus,width_px,height_px\nbus,0,41\n", "stimulus 'bus' is 0 x 41 px, expected positive whole numbers"),
        ("stimulus,width_px,height_px\nbus,,41\n", "expected positive whole numbers"),
        ("stimulus\nbus\nbus\n", "stimulus 'bus' is listed twice"),
        ("stimulus,path\nbus,../../etc/passwd\n", r"row 0 \(line 2\): path .* leaves the folder"),
        ("name\nbus\n", "no column 'stimulus'"),
    ):
        stimuli.write_text(text, encoding="utf-8")
        refused(lab, message)


def test_folders_that_contradict_themselves(lab):
    Image.new("RGB", (5, 6)).save(lab / "images" / "bus.jpg")
    refused(lab, r"bus\.png: the same stimulus name as bus\.jpg")
    (lab / "images" / "bus.jpg").unlink()
    pd.DataFrame({"subject": ["a"]}).to_parquet(lab / "fixations.parquet")
    refused(lab, r"holds both fixations\.parquet and fixations\.csv")
    (lab / "fixations.csv").unlink()
    (lab / "fixations.parquet").unlink()
    with pytest.raises(InputError, match=r"holds neither fixations\.csv nor fixations\.parquet"):
        read_tables(lab, Card.read(lab / "card.yaml"))


def test_parquet_may_hold_numbers_as_names(tmp_path):
    write_release(tmp_path / "lab")
    (tmp_path / "lab" / "fixations.csv").unlink()
    write_card(tmp_path / "lab", needs=["fixations.parquet"], images="optional")
    frame = pd.DataFrame({"subject": [7, 7, 8], "stimulus": [1.0, 1.0, 2.0], "x_px": [1, 2, 3], "y_px": [4, 5, 6]})
    frame.set_index("subject").to_parquet(tmp_path / "lab" / "fixations.parquet")
    data = load(tmp_path / "lab")
    assert data.fixations["subject"].tolist() == ["7", "7", "8"]
    assert data.fixations["stimulus"].tolist() == ["1", "1", "2"]


def test_parquet_with_text_that_is_no_text(lab, tmp_path):
    load(lab, cache=False).to_parquet(tmp_path / "copy")
    for name in ("fixations", "stimuli"):
        path = tmp_path / "copy" / f"{name}.parquet"
        table = parquet.read_table(path)
        at = table.column_names.index("stimulus")
        broken = pyarrow.array([b"\xff\xfe"] * len(table), pyarrow.binary()).view(pyarrow.string())
        parquet.write_table(table.set_column(at, "stimulus", broken), path)
        refused(tmp_path / "copy", rf"{name}\.parquet: not a readable Parquet file")
        parquet.write_table(table, path)


def test_damage_of_any_kind_is_one_line(lab):
    content = (lab / "fixations.csv").read_bytes()
    for broken in (
        b"",
        b"\n",
        b"\0" * 50,
        content.decode().encode("utf-16"),
        b"subject",
        content[:40],
        b"\xff" + content,
    ):
        (lab / "fixations.csv").write_bytes(broken)
        refused(lab, r"fixations\.csv")


@contextmanager
def suppress_one_line_errors():
    try:
        yield
    except InputError as error:
        if "\n" in str(error):
            raise


@pytest.mark.parametrize("seed", range(12))
def test_fuzzed_tables_load_or_are_refused_in_one_line(lab, tmp_path, seed):
    chance = random.Random(seed)
    folder = lab
    if seed % 2:
        load(lab, cache=False).to_parquet(tmp_path / "copy")
        folder = tmp_path / "copy"
    else:
        (lab / "trials.csv").write_text("subject,stimulus,found\n001,bus,\n001,sub/car,1\n2,sub/car,0\n2,bus,1\n")
        (lab / "stimuli.csv").write_text("stimulus,path\nbus,\nsub/car,\n")
    path = chance.choice([p for p in sorted(folder.iterdir()) if p.is_file() and p.name != "card.yaml"])
    content = bytearray(path.read_bytes())
    for _ in range(12):
        broken = bytearray(content)
        for _ in range(chance.choice([1, 3])):
            at = chance.randrange(len(broken))
            broken[at : at + chance.choice([0, 1, 1, 4])] = chance.choice(
                [b"\xff", b",", b"-", b"\n", b'"', b"9", b"\0", b"nan"]
            )
        path.write_bytes(broken if chance.random() < 0.8 else content[: chance.randrange(len(content))])
        with suppress_one_line_errors():
            load(folder, cache=False)
