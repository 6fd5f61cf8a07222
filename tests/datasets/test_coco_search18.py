"""COCO-Search18: a made-up release always, pysaliency's counts where the data are, and every kind of damage."""

import json
import warnings

import numpy as np
import pytest
from PIL import Image

from gazekit import InputError
from gazekit.datasets import PartialDataWarning, load
from gazekit.tables import TARGET_BOX
from tests.conftest import REAL_DATA

needs_coco_search18 = pytest.mark.skipif(
    not (REAL_DATA / "coco_search18").is_dir(), reason="COCO-Search18 is not on this machine; set GAZEKIT_DATA"
)
TRAIN, VALID = (f"coco_search18_fixations_TP_{part}_split1.json" for part in ("train", "validation"))
TRAIN_2, VALID_2 = (f"coco_search18_fixations_TP_{part}_split2.json" for part in ("train", "validation"))
TEST, ABSENT = "coco_search18_fixations_TP_test.json", "coco_search18_fixations_TA_trainval.json"
ABSENT_TEST = "coco_search18_fixations_TA_test.json"
# Category folders as the archives have them; the first image was shown for two targets and as an absent trial.
IMAGES = {
    "images": ["bottle/000000000009.jpg", "stop sign/000000000009.jpg", "stop sign/000000000025.jpg"],
    "coco_search18_images_TA": ["tv/000000000009.jpg", "tv/000000000042.jpg"],
}


def trial(name, subject, task, xs, ys, ts, split, **more):
    """A record with the keys and in the order of the authors' files."""
    record = {"name": f"{name:012d}.jpg", "subject": subject, "task": task, "condition": "present"}
    record |= {"bbox": [1000, 400, 201, 99], "X": xs, "Y": ys, "T": ts, "length": len(xs), "correct": 1}
    return record | {"RT": 920, "split": split} | more


def absent(name, subject, xs, ys, ts, split, task="tv", **more):
    record = trial(name, subject, task, xs, ys, ts, split, condition="absent", **more)
    return {key: value for key, value in record.items() if key != "bbox"}


def released():
    """File name -> its trials; the test file is the version with X and Y cut."""
    train = [
        trial(
            9, 2, "bottle", [848.3, 738.5, 1154.2, 1300.0], [530.0, 360.3, 448.8, 90.6], [168, 157, 67, 208], "train"
        ),
        trial(9, 10, "stop sign", [840.0, 1500.5], [525.5, 700.25], [250, 29], "train", correct=0, RT=2066),
    ]
    valid = [
        # Outside the frame, and a response time that was not taken.
        trial(25, 1, "stop sign", [840.1, -3.5, 1100.0], [524.0, 20.0, 1050.0], [202, 91, 300], "valid", RT=None),
    ]
    cut = trial(61, 2, "tv", [910.9, 1100.5], [338.6, 450.3], [203, 79, 178, 294], "test", fixOnTarget=True)
    whole = trial(61, 3, "tv", [844.4, 700.8], [531.4, 475.8], [35, 171], "test", fixOnTarget=False)
    return {
        TRAIN: train,
        VALID: valid,
        TRAIN_2: [record | {"split": "train"} for record in valid],
        VALID_2: [record | {"split": "valid"} for record in train],
        TEST: [{key: value for key, value in record.items() if key != "RT"} for record in (cut, whole)],
        ABSENT: [
            absent(9, 2, [846.0, 300.0], [520.0, 300.0], [310, 1415], "valid", RT=1725),
            absent(42, 1, [833.3, 1679.9], [540.2, 1049.9], [99, 101], "train", correct=0),
        ],
    }


def write_release(folder, edit=None, without=(TRAIN_2, VALID_2), images=IMAGES):
    """A made-up COCO-Search18 in `folder`; `edit` is called with the trials by file name.

    Without the files of split2, which are not opened unless they are asked for.
    """
    content = released()
    if edit:
        edit(content)
    folder.mkdir(parents=True, exist_ok=True)
    for name, trials in content.items():
        if name not in without:
            (folder / name).write_text(json.dumps(trials, indent=4), encoding="utf-8")
    for top, names in images.items():
        for name in names:
            path = folder / top / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (1680, 1050), 128).save(path, quality=10)


def load_tiny(folder, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PartialDataWarning)
        return load("coco_search18", root=folder, **options)


def read(tmp_path, edit=None, without=(TRAIN_2, VALID_2), images=None, **options):
    write_release(tmp_path / "release", edit, without, images or {})
    return load_tiny(tmp_path / "release", **options)


def refused(folder, match, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PartialDataWarning)
        with pytest.raises(InputError, match=match) as caught:
            load("coco_search18", root=folder, **options)
    assert "\n" not in str(caught.value)


def test_values_survive_exactly(tmp_path):
    data = read(tmp_path)
    row = data.trials.query("stimulus == '000000000009' and target == 'bottle'").iloc[0]
    path = data.fixations[data.fixations["trial"] == row["trial"]]
    assert path["x_px"].tolist() == [848.3, 738.5, 1154.2, 1300.0]
    assert path["y_px"].tolist() == [530.0, 360.3, 448.8, 90.6]
    assert path["duration_s"].tolist() == [0.168, 0.157, 0.067, 0.208]
    assert path["fixation"].tolist() == [0, 1, 2, 3]
    assert path["t_s"].isna().all()
    assert row[list(TARGET_BOX)].tolist() == [1000, 400, 1201, 499]
    assert (row["subject"], row["task"], row["target_present"], row["correct"]) == ("s02", "visual_search", True, True)
    assert row["response_time_s"] == 0.920
    assert (row["released_split"], row["split"]) == ("train", "train")


def test_trials_of_all_files_in_their_order(tmp_path):
    trials = read(tmp_path).trials
    assert trials["subject"].tolist() == ["s02", "s10", "s01", "s02", "s03", "s02", "s01"]
    assert trials["target"].tolist() == ["bottle", "stop sign", "stop sign", "tv", "tv", "tv", "tv"]
    assert trials["target_present"].tolist() == [True] * 5 + [False] * 2
    assert trials["correct"].tolist() == [True, False, True, True, True, True, False]
    assert trials["released_split"].tolist() == ["train", "train", "valid", "test", "test", "valid", "train"]
    assert trials["split"].tolist() == ["train", "train", "val", "test", "test", "val", "train"]
    # The target is not there: it has no box and cannot be found. Only the test file has the flag.
    assert trials[list(TARGET_BOX)].isna().all(axis=1).tolist() == [False] * 5 + [True] * 2
    assert trials["found"].isna().tolist() == [True, True, True, False, False, True, True]
    assert trials["found"].dropna().tolist() == [True, False]
    # null, or no RT at all as in the test file.
    assert trials["response_time_s"].isna().tolist() == [False, False, True, True, True, False, False]


def test_an_image_is_one_stimulus_whatever_it_was_shown_for(tmp_path):
    data = read(tmp_path, images=IMAGES)
    assert data.stimuli["stimulus"].tolist() == ["000000000009", "000000000025", "000000000061", "000000000042"]
    assert (data.trials["stimulus"] == "000000000009").sum() == 3
    assert set(zip(data.stimuli["width_px"], data.stimuli["height_px"], strict=True)) == {(1680, 1050)}
    places = ["/".join(path.split("/")[-3:]) for path in data.stimuli["path"]]
    # One of the two copies; one that the release lacks; one that only the target-absent archive has.
    assert places == [
        "images/bottle/000000000009.jpg",
        "images/stop sign/000000000025.jpg",
        "",
        "coco_search18_images_TA/tv/000000000042.jpg",
    ]


def test_one_image_in_train_and_in_valid_is_in_both_splits(tmp_path):
    data = read(tmp_path)
    assert "000000000009" in set(data.split("train").trials["stimulus"]) & set(data.split("val").trials["stimulus"])
    apart = data.resplit({"by": "stimulus", "seed": 1, "val": 0.3, "test": 0.3})
    assert apart.trials.groupby("stimulus")["split"].nunique().eq(1).all()


@pytest.mark.parametrize(("condition", "n"), [("both", 7), ("present", 5), ("absent", 2)])
def test_condition(tmp_path, condition, n):
    data = read(tmp_path, condition=condition)
    assert len(data.trials) == n
    # What is there of the release does not depend on what is chosen of it.
    assert len(data.stimuli) == 4


def test_release_split2_has_its_own_division(tmp_path):
    trials = read(tmp_path, without=(TRAIN, VALID), release="split2").trials
    assert trials["released_split"].tolist()[:3] == ["train", "valid", "valid"]
    assert trials["stimulus"].tolist()[:3] == ["000000000025", "000000000009", "000000000009"]
    assert len(trials) == 7


def test_correct_only(tmp_path):
    data = read(tmp_path, correct_only=True)
    assert data.trials["correct"].all()
    assert len(data.trials) == 5
    assert "2 trials with a wrong answer were left out (correct_only)" in data.changes


def test_fixated_target_only_goes_by_the_flag_and_else_by_the_box(tmp_path):
    # The flag wins over the box: it is what the published filter reads.
    def flag_contradicts_box(content):
        content[TEST][1]["fixOnTarget"] = True

    data = read(tmp_path, flag_contradicts_box, fixated_target_only=True)
    # Left out are the trial of subject 10 and the one of image 25, neither of which comes into the box.
    assert data.trials["subject"].tolist() == ["s02", "s02", "s03", "s02", "s01"]
    assert "2 trials without a fixation on their target were left out (fixated_target_only)" in data.changes
    assert any(change.startswith("3 trials have no flag fixOnTarget") for change in data.changes)


@pytest.mark.parametrize(
    ("x", "y", "kept"), [(1000.5, 400.5, 1), (1000.0, 450.0, 0), (1201.0, 450.0, 0), (1100.0, 499.0, 0)]
)
def test_the_edge_of_the_box_is_not_on_the_target(tmp_path, x, y, kept):
    def at_the_edge(content):
        content[VALID] = [trial(25, 1, "cup", [840.0, x], [525.0, y], [100, 100], "valid")]

    data = read(tmp_path, at_the_edge, fixated_target_only=True)
    assert (data.trials["target"] == "cup").sum() == kept


def test_drop_outside(tmp_path):
    def gone(content):
        content[VALID].append(trial(25, 4, "cup", [-1.0], [5.0], [100], "valid"))

    kept = read(tmp_path / "a", gone)
    assert kept.fixations["x_px"].min() == -3.5
    data = read(tmp_path / "b", gone, drop_outside=True)
    path = data.fixations[data.fixations["stimulus"] == "000000000025"]
    assert path[["x_px", "y_px", "duration_s"]].to_numpy().tolist() == [[840.1, 524.0, 0.202]]
    assert "3 fixations outside the 1680x1050 px were dropped (drop_outside)" in data.changes
    assert any(change.startswith("1 trials without a fixation inside") for change in data.changes)
    # The last pixel's outer edge is still inside.
    assert 1679.9 in data.fixations["x_px"].tolist()


def test_cut_at_target_ends_with_the_first_fixation_in_the_box(tmp_path):
    data = read(tmp_path, cut_at_target=True)
    path = data.fixations[data.fixations["trial"] == 0]
    assert path["x_px"].tolist() == [848.3, 738.5, 1154.2]
    assert path["duration_s"].tolist() == [0.168, 0.157, 0.067]
    assert "1 trials were ended with the first fixation on their target (cut_at_target)" in data.changes


def test_older_test_file_is_cut_and_said_so(tmp_path):
    data = read(tmp_path)
    path = data.fixations[(data.fixations["stimulus"] == "000000000061") & (data.fixations["subject"] == "s02")]
    assert path["duration_s"].tolist() == [0.203, 0.079]
    (change,) = data.changes
    assert change.startswith(f"{TEST} is the version of before July 2022")
    assert change.endswith("in 1 of 2 trials")


def test_complete_test_file_is_said_to_be_complete(tmp_path):
    def complete(content):
        content[TEST] = content[TEST][1:]
        content[ABSENT_TEST] = [absent(61, 1, [840.0], [525.0], [100], "test")]

    changes = read(tmp_path, complete).changes
    assert [change.split(":")[0] for change in changes] == [
        f"{TEST} is the complete version",
        f"{ABSENT_TEST} is the complete version",
    ]


@pytest.mark.parametrize("name", [TRAIN, VALID, TEST, ABSENT])
def test_any_one_of_the_files_is_enough(tmp_path, name):
    data = read(tmp_path, without=set(released()) - {name})
    assert len(data.trials) == len(released()[name])


def test_older_archive_of_absent_trials_unpacks_to_a_folder(tmp_path):
    write_release(tmp_path, images={})
    (tmp_path / "coco_search18_fixations_TA").mkdir()
    (tmp_path / ABSENT).rename(tmp_path / "coco_search18_fixations_TA" / ABSENT)
    assert len(load_tiny(tmp_path).trials) == 7


def test_no_file_at_all(tmp_path):
    write_release(tmp_path, without=released())
    refused(tmp_path, r"no trial in any of .*TP_train_split1\.json.*gazekit data fetch coco_search18")


def test_only_the_other_release_is_here(tmp_path):
    write_release(tmp_path, without=[VALID_2, TRAIN_2, TEST, ABSENT])
    refused(tmp_path, "TP_train_split2", release="split2")


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"condition": "presnt"}, "no condition of coco_search18 named 'presnt'; did you mean 'present'"),
        ({"release": "split3"}, "no release of coco_search18 named 'split3'.*split1, split2"),
        ({"correct_only": 1}, "correct_only is 1, expected True or False"),
        ({"drop_outside": "yes"}, "drop_outside is 'yes'"),
        ({"cut": True}, "no option for dataset coco_search18 named 'cut'"),
    ],
)
def test_unknown_options(tmp_path, options, match):
    write_release(tmp_path, images={})
    refused(tmp_path, match, **options)


def change(file, number, **fields):
    def edit(content):
        content[file][number] |= fields

    return edit


def lose(file, number, key):
    def edit(content):
        del content[file][number][key]

    return edit


DAMAGE = {
    "T longer, but not in a test file": (change(TRAIN, 0, T=[1, 2, 3, 4, 5]), "trial 0: 4 X, 4 Y, 5 T and length 4"),
    "T shorter": (change(TEST, 0, T=[1]), "2 X, 2 Y, 1 T and length 2, expected equally many"),
    "X shorter": (change(TEST, 0, X=[840.0]), "1 X, 2 Y, 4 T"),
    "length": (change(TEST, 0, length=3), "2 X, 2 Y, 4 T and length 3"),
    "length is no number": (change(TRAIN, 0, length="4"), "length '4'"),
    "no X": (lose(TRAIN, 1, "X"), r"TP_train_split1\.json: trial 1: X is missing, expected a list of numbers"),
    "null in X": (
        change(TRAIN, 0, X=[1.0, None, 2.0, 3.0]),
        r"X is \[1\.0, None, 2\.0, 3\.0\], expected a list of num",
    ),
    "text in Y": (change(TRAIN, 0, Y=["1", 1, 1, 1]), "Y is .*expected a list of numbers"),
    "true in T": (change(TRAIN, 0, T=[True, 1, 1, 1]), "T is .*expected a list of numbers"),
    "nested X": (change(TRAIN, 0, X=[[1, 2, 3, 4]]), "X is .*expected a list of numbers"),
    "infinite X": (change(TRAIN, 0, X=[1.0, 2.0, 10**400, 4.0]), "X is .*expected a list of numbers"),
    "negative T": (change(TRAIN, 0, T=[1, -2, 3, 4]), "T holds -2, expected durations in ms"),
    "path": (change(TRAIN, 0, name="../000000000009.jpg"), r"name is '\.\./000000000009\.jpg', expected the file name"),
    "path behind a name": (change(TRAIN, 0, name="000000000009.jpg/../x"), "name is '000000000009.jpg/../x'"),
    "absolute path": (change(TRAIN, 0, name="/000000000009.jpg"), "name is '/0"),
    "name is a number": (change(TRAIN, 0, name=9), "name is 9"),
    "subject": (change(TRAIN, 0, subject="2"), "subject is '2', expected a number from 1"),
    "subject 0": (change(TRAIN, 0, subject=0), "subject is 0"),
    "category": (change(TRAIN, 0, task="zebra"), "task is 'zebra', expected one of .*bottle"),
    "condition": (change(TRAIN, 0, condition="absent"), "condition is 'absent', expected 'present'"),
    "condition of another file": (change(ABSENT, 0, condition="present"), "condition is 'present', expected 'absent'"),
    "split": (change(TRAIN, 0, split="training"), "split is 'training', expected one of train, valid, test"),
    "no box": (lose(TRAIN, 0, "bbox"), "bbox is missing"),
    "box of three": (change(TRAIN, 0, bbox=[1, 2, 3]), r"bbox is \[1, 2, 3\], expected x, y, width and height"),
    "flat box": (change(TRAIN, 0, bbox=[1, 2, 3, 0]), "expected x, y, width and height"),
    "correct": (change(TRAIN, 0, correct=None), "correct is None, expected 0 or 1"),
    "flag": (change(TEST, 0, fixOnTarget=1), "fixOnTarget is 1, expected true or false"),
    "RT": (change(TRAIN, 0, RT="920"), "RT is '920', expected a number"),
    "negative RT": (change(TRAIN, 0, RT=-1), "RT is -1, expected a time in ms"),
    "a list for a trial": (lambda content: content[TRAIN].append([1]), "trial 2: not the authors' file .a list."),
}


@pytest.mark.parametrize("edit_and_match", DAMAGE.values(), ids=DAMAGE)
def test_damaged_trial(tmp_path, edit_and_match):
    edit, match = edit_and_match
    write_release(tmp_path, edit, images={})
    refused(tmp_path, f"{match}.*; fetch it again with 'gazekit data fetch coco_search18'")


@pytest.mark.parametrize(
    "content",
    [b"", b"{}", b"[1, 2", b"null", b'[{"X": [NaN]}]', "[]".encode("utf-16"), b"\xff\xd8\xff\xe0", b"[" * 100_000],
)
def test_not_such_a_file(tmp_path, content):
    write_release(tmp_path, images={})
    (tmp_path / TRAIN).write_bytes(content)
    refused(tmp_path, r"TP_train_split1\.json.*: not the authors' file .*expected a list of trials")


def test_truncated_file(tmp_path):
    write_release(tmp_path, images={})
    content = (tmp_path / VALID).read_bytes()
    for keep in (1, 40, len(content) // 2, len(content) - 1):
        (tmp_path / VALID).write_bytes(content[:keep])
        refused(tmp_path, "TP_validation_split1.json: not the authors' file")


def test_a_copy_in_the_frame_of_512_by_320_is_refused(tmp_path):
    def rescale(content):
        for record in content[TRAIN]:
            record["X"] = [x * 512 / 1680 for x in record["X"]]
            record["Y"] = [y * 320 / 1050 for y in record["Y"]]

    write_release(tmp_path, rescale, images={})
    refused(
        tmp_path, r"positions reach only \(457, 213\) px: a copy scaled to 512x320, expected the frame of 1680x1050"
    )


def test_a_box_of_an_absent_target_is_left_out_and_said_so(tmp_path):
    data = read(tmp_path, change(ABSENT, 0, bbox=[0, 0, 0, 0]))
    assert data.trials.loc[~data.trials["target_present"], list(TARGET_BOX)].isna().all(axis=None)
    assert "1 target-absent trials have a box, which is left out" in data.changes


def test_split_of_the_trial_counts_and_a_contradiction_is_said(tmp_path):
    data = read(tmp_path, change(TRAIN, 0, split="valid"))
    assert data.trials["released_split"].iloc[0] == "valid"
    assert f"{TRAIN}: 1 trials name another split than the file does; the trial's own is used" in data.changes


def test_a_repeated_trial_is_kept_and_said_so(tmp_path):
    data = read(tmp_path, lambda content: content[TRAIN].append(content[TRAIN][0]))
    assert len(data.trials) == 8
    assert any(change.startswith("1 trials repeat the subject, image and target") for change in data.changes)


def test_image_of_another_size(tmp_path):
    write_release(tmp_path)
    Image.new("L", (640, 480)).save(tmp_path / "images" / "bottle" / "000000000009.jpg")
    refused(tmp_path, r"000000000009\.jpg: image is 640x480 px, expected 1680x1050")


def test_image_that_is_not_an_image(tmp_path):
    write_release(tmp_path)
    (tmp_path / "coco_search18_images_TA" / "tv" / "000000000042.jpg").write_text("not an image")
    refused(tmp_path, r"000000000042\.jpg: not a readable image")


@needs_coco_search18
def test_counts_of_the_distributed_files():
    """pysaliency's numbers for split1: images and fixations of both conditions together."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PartialDataWarning)
        data = load("coco_search18", root=REAL_DATA)
    assert np.isfinite(data.fixations["duration_s"]).all()
    for split, n_images, n_fixations in (("train", 3714, 207_970), ("valid", 623, 31_761)):
        trials = data.trials[data.trials["released_split"] == split]
        if set(trials["target_present"]) != {True, False}:
            pytest.skip(f"this copy lacks trials of {split}")
        assert trials["stimulus"].nunique() == n_images
        assert data.fixations["trial"].isin(trials["trial"]).sum() == n_fixations
