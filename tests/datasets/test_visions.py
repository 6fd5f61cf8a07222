"""ViSioNS JSON: a made-up folder in the benchmark's format, the writer, the way there and back, and every damage."""

import json
import math
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from gazekit import InputError
from gazekit.datasets import Card, GazeDataset, PartialDataWarning, load
from gazekit.datasets.visions_writer import _milliseconds, write_visions
from gazekit.geometry import Screen
from gazekit.tables import TARGET_BOX
from tests.datasets import test_coco_search18

CARD = {
    "name": "tiny_visions",
    "title": "Made-up search in the format of ViSioNS",
    "citation": "none",
    "license": {"data": "CC0", "images": "CC0"},
    "task": "visual_search",
    "format": "visions",
    "forced_initial": True,
    "screen": None,
    "images": "optional",
    "manual": "Made up by the tests.",
    "needs": ["dataset_info.json", "trials_properties.json", "human_scanpaths"],
    "expect": {"stimuli": 3, "subjects": 2},
    "split": {"by": "stimulus", "seed": 1, "val": 0.2, "test": 0.2},
    "known_issues": ["It is made up."],
}
LOSSLESS = {"clip": False, "crop_at_target": False, "drop_single": False, "recompute_found": False}
# Image -> target's file, [row1, column1, row2, column2], (width, height), start (row, column), category.
IMAGES = {
    "room_1.jpg": ("t1.png", [40, 150, 60, 181], (201, 99), (49, 100), "cup"),
    "room_2.jpg": ("t2.png", [5, 7, 25, 17], (121, 163), (80, 61), "TBD"),
    "room_10.png": ("t3.png", [100, 10, 120, 40], (150, 131), (65, 74), "potted plant"),
}


def scanpath(subject, image, xs, ys, ts, found, **more):
    _, box, (width, height), _, category = IMAGES[image]
    return {
        "subject": subject,
        "dataset": "Tiny Dataset",
        "image_height": height,
        "image_width": width,
        "screen_height": 200,
        "screen_width": 300,
        "receptive_height": 10,
        "receptive_width": 14,
        "target_found": found,
        "target_bbox": box,
        "X": xs,
        "Y": ys,
        "T": ts,
        "target_object": category,
        "max_fixations": 13,
    } | more


def released():
    """File name -> content."""
    content = {
        "dataset_info.json": {
            "dataset_name": "Tiny Dataset",
            "number_of_images": 3,
            "image_height": 163,
            "image_width": 201,
            "max_scanpath_length": 13,
            "receptive_size": [10, 14],
            "mean_target_size": [20, 24],
            "images_dir": "images/",
            "targets_dir": "targets/",
            "scanpaths_dir": "human_scanpaths/",
        },
        "trials_properties.json": [
            {
                "image": image,
                "target": target,
                "dataset": "Tiny Dataset",
                "target_matched_row": box[0],
                "target_matched_column": box[1],
                "target_height": box[2] - box[0],
                "target_width": box[3] - box[1],
                "image_height": height,
                "image_width": width,
                "initial_fixation_row": start[0],
                "initial_fixation_column": start[1],
                "target_object": category,
            }
            for image, (target, box, (width, height), start, category) in IMAGES.items()
        ],
        "human_scanpaths/subj01_scanpaths.json": {
            # T of the whole path, as the benchmark's conversion leaves it.
            "room_1.jpg": scanpath("01", "room_1.jpg", [99.3, 155.0], [50.1, 45.4], [302, 29, 178, 411], True),
            "room_10.png": scanpath("01", "room_10.png", [70, 9, 149.9], [60, 3, 130.5], [201, 333, 87], False),
        },
        "human_scanpaths/subj12_scanpaths.json": {
            "room_2.jpg": scanpath("12", "room_2.jpg", [60.0, 12.2], [82.7, 9.1], [250, 246], True, max_fixations=5),
            "room_1.jpg": scanpath("12", "room_1.jpg", [101.0], [49.9], [1449], False),
        },
    }
    return json.loads(json.dumps(content))


def write_release(folder, edit=None, images=True):
    """A made-up folder of ViSioNS in `folder`, with its card; `edit` is called with the content by file name."""
    content = released()
    if edit:
        edit(content)
    for name, value in content.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(value, indent=4), encoding="utf-8")
    (folder / "card.yaml").write_text(yaml.safe_dump(CARD), encoding="utf-8")
    if images:
        for place in ("images", "targets"):
            (folder / place).mkdir(exist_ok=True)
        for image, (target, box, size, _, _) in IMAGES.items():
            Image.new("RGB", size, (90, 120, 150)).save(folder / "images" / image)
            Image.new("RGB", (box[3] - box[1], box[2] - box[0])).save(folder / "targets" / target)


def read(tmp_path, edit=None, images=False):
    write_release(tmp_path / "tiny", edit, images)
    return load(tmp_path / "tiny")


def refused(folder, match):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PartialDataWarning)
        with pytest.raises(InputError, match=match) as caught:
            load(folder)
    assert "\n" not in str(caught.value)


# --- reading ----------------------------------------------------------------------------------------


def test_values_survive_exactly(tmp_path):
    data = read(tmp_path, images=True)
    assert data.stimuli["stimulus"].tolist() == ["room_1", "room_2", "room_10"]
    assert data.stimuli[["width_px", "height_px"]].to_numpy().tolist() == [[201, 99], [121, 163], [150, 131]]
    assert [Path(path).name for path in data.stimuli["path"]] == list(IMAGES)
    trials = data.trials
    assert trials["subject"].tolist() == ["s01", "s01", "s12", "s12"]
    assert trials["stimulus"].tolist() == ["room_1", "room_10", "room_2", "room_1"]
    # Rows come first in the files.
    assert trials[list(TARGET_BOX)].iloc[0].tolist() == [150, 40, 181, 60]
    assert trials[["start_x_px", "start_y_px"]].iloc[0].tolist() == [100, 49]
    assert trials[["fovea_width_px", "fovea_height_px"]].iloc[0].tolist() == [14, 10]
    assert trials["found"].tolist() == [True, False, True, False]
    assert trials["target_present"].all()
    assert trials["max_saccades"].tolist() == [12, 12, 4, 12]
    assert [Path(path).name for path in trials["target_path"]] == ["t1.png", "t3.png", "t2.png", "t1.png"]
    path = data.fixations[data.fixations["trial"] == 1]
    assert path[["x_px", "y_px", "duration_s"]].to_numpy().tolist() == [
        [70, 60, 0.201],
        [9, 3, 0.333],
        [149.9, 130.5, 0.087],
    ]
    assert path["t_s"].isna().all()


def test_longer_durations_are_cut_and_said_so(tmp_path):
    data = read(tmp_path)
    assert data.fixations.loc[data.fixations["trial"] == 0, "duration_s"].tolist() == [0.302, 0.029]
    assert data.changes[0].startswith("T was longer than X and Y in 1 trials and was cut to their length")


def test_a_target_without_a_category_is_named_after_its_image(tmp_path):
    data = read(tmp_path)
    assert data.trials["target"].tolist() == ["cup", "potted plant", "t2", "cup"]
    assert "target_object is 'TBD' in 1 trials; target is the name of the target's image instead" in data.changes
    assert set(data.trials["target_path"]) == {""}


def test_paths_of_models_have_no_durations(tmp_path):
    def timeless(content):
        del content["human_scanpaths/subj12_scanpaths.json"]["room_2.jpg"]["T"]

    data = read(tmp_path, timeless)
    assert data.fixations.loc[data.fixations["trial"] == 2, "duration_s"].isna().all()
    assert "1 trials have no T; their durations are NaN" in data.changes


def test_box_of_the_trial_counts_and_a_contradiction_is_said(tmp_path):
    def other(content):
        content["trials_properties.json"][0]["target_width"] += 1

    data = read(tmp_path, other)
    assert data.trials[list(TARGET_BOX)].iloc[0].tolist() == [150, 40, 181, 60]
    assert any(change.startswith("the box of 2 trials differs") for change in data.changes)


def test_subject_without_a_number_keeps_its_name(tmp_path):
    def named(content):
        records = content.pop("human_scanpaths/subj12_scanpaths.json")
        content["human_scanpaths/subjajs_scanpaths.json"] = {k: v | {"subject": "ajs"} for k, v in records.items()}

    assert set(read(tmp_path, named).trials["subject"]) == {"s01", "ajs"}


def in_trial(image="room_1.jpg", file="human_scanpaths/subj01_scanpaths.json", lose=None, **fields):
    def edit(content):
        content[file][image] |= fields
        content[file][image].pop(lose, None)

    return edit


def in_properties(entry=0, lose=None, **fields):
    def edit(content):
        content["trials_properties.json"][entry] |= fields
        content["trials_properties.json"][entry].pop(lose, None)

    return edit


def in_info(**fields):
    return lambda content: content["dataset_info.json"].update(fields)


DAMAGE = {
    "T shorter": (in_trial(T=[1]), "subj01_scanpaths.json: 'room_1.jpg': 2 X and 1 T, expected as many T or more"),
    "Y shorter": (in_trial(Y=[1.0]), "2 X and 1 Y, expected equally many"),
    "no X": (in_trial(lose="X"), "X is missing, expected a list of numbers"),
    "null": (in_trial(X=[1.0, None]), "X is .1.0, None., expected a list of numbers"),
    "text": (in_trial(Y=["1", "2"]), "Y is .*expected a list of numbers"),
    "huge": (in_trial(X=[1, 10**400]), "X is .*expected a list of numbers"),
    "nested": (in_trial(X=[[1, 2]]), "X is .*expected a list of numbers"),
    "T null": (in_trial(T=None), "T is None, expected a list of numbers"),
    "negative T": (in_trial(T=[100, -3]), "T holds -3, expected durations in ms"),
    "flat box": (in_trial(target_bbox=[40, 150, 40, 181]), "target_bbox is .*expected .row1, column1, row2, column2"),
    "box of three": (in_trial(target_bbox=[40, 150, 60]), "target_bbox is"),
    "flag": (in_trial(target_found=1), "target_found is 1, expected true or false"),
    "subject": (in_trial(subject="02"), "subject is '02', expected '01' as in the file's name"),
    "size": (in_trial(image_width=99, image_height=201), "the image is 99 by 201 px, expected 201x99"),
    "limit": (in_trial(max_fixations="80"), "max_fixations is '80', expected a number"),
    "limit of half": (in_trial(max_fixations=2.5), "max_fixations is 2.5, expected a number of fixations"),
    "category": (in_trial(target_object=["cup"]), "target_object is ..cup.., expected text"),
    "no fovea": (in_trial(lose="receptive_width"), "receptive_width is missing, expected a number"),
    "unknown image": (
        lambda content: content["human_scanpaths/subj01_scanpaths.json"].update({"other.jpg": {}}),
        "'other.jpg': this image is not in trials_properties.json",
    ),
    "list for a trial": (
        lambda content: content["human_scanpaths/subj01_scanpaths.json"].update({"room_2.jpg": []}),
        "'room_2.jpg': not the authors' file .a list.",
    ),
    "list of trials": (
        lambda content: content.update({"human_scanpaths/subj01_scanpaths.json": []}),
        "subj01_scanpaths.json: not the authors' file .a list.",
    ),
    "image elsewhere": (
        in_properties(image="../room_1.jpg"),
        "entry 0: image is '../room_1.jpg', expected a file name",
    ),
    "target elsewhere": (in_properties(target="/etc/passwd"), "target is '/etc/passwd', expected a file name"),
    "no image": (in_properties(lose="image"), "image is missing, expected text"),
    "image twice": (in_properties(1, image="room_1.png"), "there was an image named 'room_1' before"),
    "size 0": (in_properties(image_width=0), "the image is 0 by 99 px, expected whole numbers above 0"),
    "no start": (in_properties(lose="initial_fixation_row"), "initial_fixation_row is missing"),
    "box is text": (in_properties(target_matched_row="40"), "target_matched_row is '40', expected a number"),
    "properties": (
        lambda content: content.update({"trials_properties.json": {}}),
        "trials_properties.json: not the auth",
    ),
    "folder above": (in_info(scanpaths_dir=".."), "scanpaths_dir is '..', expected the name of a folder beside it"),
    "folder below": (in_info(images_dir="a/b/"), "images_dir is 'a/b/', expected the name of a folder"),
    "folder absolute": (in_info(targets_dir="/tmp"), "targets_dir is '/tmp'"),
    "no folder": (in_info(images_dir=None), "images_dir is None"),
    "folder not here": (in_info(scanpaths_dir="others/"), "others: cannot be read"),
    "info": (lambda content: content.update({"dataset_info.json": []}), "dataset_info.json: not the authors' file"),
}


@pytest.mark.parametrize("edit_and_match", DAMAGE.values(), ids=DAMAGE)
def test_damage_is_one_clear_line(tmp_path, edit_and_match):
    edit, match = edit_and_match
    write_release(tmp_path / "tiny", edit, images=False)
    refused(tmp_path / "tiny", f"{match}.*; get it again")


@pytest.mark.parametrize("name", list(released()))
def test_file_that_is_no_such_json(tmp_path, name):
    write_release(tmp_path / "tiny", images=False)
    content = (tmp_path / "tiny" / name).read_bytes()
    for wrong in (b"", content[:-3], b"null", content.decode().encode("utf-16"), b"\xff\xd8\xff"):
        (tmp_path / "tiny" / name).write_bytes(wrong)
        refused(tmp_path / "tiny", f"{Path(name).name}: not the authors' file")


def test_no_subjects(tmp_path):
    write_release(tmp_path / "tiny", images=False)
    for path in (tmp_path / "tiny" / "human_scanpaths").iterdir():
        path.unlink()
    refused(tmp_path / "tiny", "no subjNN_scanpaths.json here, expected one per subject")


def test_image_of_another_size(tmp_path):
    write_release(tmp_path / "tiny")
    Image.new("L", (99, 201)).save(tmp_path / "tiny" / "images" / "room_1.jpg")
    refused(tmp_path / "tiny", r"room_1\.jpg: image is 99x201 px, expected 201x99")


# --- writing ----------------------------------------------------------------------------------------


def dataset(trials, stimuli=("a", "b"), size_wh_px=(100, 80)):
    """A dataset in memory; `trials` are (subject, stimulus, [(x, y, duration in s), ...], columns)."""
    fixations, rows = [], []
    for number, (subject, stimulus, path, columns) in enumerate(trials):
        box = dict(zip(TARGET_BOX, (50.0, 40.0, 60.0, 44.0), strict=True))
        row = {"trial": number, "subject": subject, "stimulus": stimulus, "task": "visual_search", "found": False}
        rows.append({**row, "target": "cup", "target_present": True, **box, **columns})
        fixations += [
            {"subject": subject, "stimulus": stimulus, "trial": number, "fixation": i, "x_px": x, "y_px": y,
             "t_s": math.nan, "duration_s": duration} for i, (x, y, duration) in enumerate(path)
        ]  # fmt: skip
    columns = ["subject", "stimulus", "trial", "fixation", "x_px", "y_px", "t_s", "duration_s"]
    sizes = pd.DataFrame({"stimulus": list(stimuli), "path": "", "width_px": size_wh_px[0], "height_px": size_wh_px[1]})
    card = Card.from_content(CARD, Path("card.yaml"))
    return GazeDataset(pd.DataFrame(fixations, columns=columns), pd.DataFrame(rows), sizes, card)


def written(folder, data, **options):
    """What was said, and subject -> image -> record."""
    said = write_visions(data, folder, **{"fovea_wh_px": (6, 4), **options})
    files = sorted((folder / "human_scanpaths").iterdir())
    return said, {path.stem.split("_")[0]: json.loads(path.read_text()) for path in files}


def reread(folder):
    (folder / "card.yaml").write_text(yaml.safe_dump(CARD | {"expect": {}}), encoding="utf-8")
    return load(folder)


def assert_same_trials(data, again):
    """Same positions, durations, boxes and flags; order of trials and names of stimuli aside."""
    for one, other in zip(
        *(d.trials.sort_values(["subject", "stimulus", "target"]).itertuples() for d in (data, again)), strict=True
    ):
        assert one.subject == other.subject
        assert [getattr(one, edge) for edge in TARGET_BOX] == [getattr(other, edge) for edge in TARGET_BOX]
        assert one.found == other.found
        assert one.target == other.target
        values = [
            d.fixations.loc[d.fixations["trial"] == row.trial, ["x_px", "y_px", "duration_s"]].to_numpy()
            for d, row in ((data, one), (again, other))
        ]
        np.testing.assert_array_equal(*values)


def test_round_trip_of_the_format_is_lossless(tmp_path):
    data = read(tmp_path, images=True)
    assert write_visions(data, tmp_path / "again", fovea_wh_px=(14, 10), **LOSSLESS) == ()
    again = reread(tmp_path / "again")
    assert_same_trials(data, again)
    columns = ["max_saccades", "start_x_px", "start_y_px", "fovea_width_px", "fovea_height_px"]
    pd.testing.assert_frame_equal(data.trials[columns], again.trials[columns])
    assert again.changes == ()
    assert again.stimuli[["stimulus", "width_px", "height_px"]].to_numpy().tolist() == (
        data.stimuli[["stimulus", "width_px", "height_px"]].iloc[[0, 2, 1]].to_numpy().tolist()
    )
    for old, new in zip(data.stimuli["path"].iloc[[0, 2, 1]], again.stimuli["path"], strict=True):
        assert Path(old).read_bytes() == Path(new).read_bytes()
    for old, new in zip(data.trials["target_path"], again.trials["target_path"], strict=True):
        assert Path(old).read_bytes() == Path(new).read_bytes()


def test_round_trip_of_awkward_values(tmp_path):
    # Outside the image, more digits than print shows, an empty trial, a box off whole pixels, any length.
    rng = np.random.default_rng(3)
    long = [
        (x, y, int(ms) / 1000) for x, y, ms in zip(*rng.normal(40, 60, (2, 50)), rng.integers(1, 3000, 50), strict=True)
    ]
    box = dict(zip(TARGET_BOX, (1 / 3, 0.1, 77.7, 2.5), strict=True))
    data = dataset(
        [("s01", "a", long, {"found": True}), ("s02", "a", [], {}), ("ajs", "b", [(-5.25, 90.0, 0.0295)], box)]
    )
    write_visions(data, tmp_path, fovea_wh_px=(6, 4), **LOSSLESS)
    assert_same_trials(data, reread(tmp_path))


def test_milliseconds_give_back_the_seconds_that_were_made_of_milliseconds():
    rng = np.random.default_rng(0)
    for ms in [*range(3000), *rng.uniform(0, 5000, 3000).tolist()]:
        assert _milliseconds(ms / 1000.0) / 1000.0 == ms / 1000.0
    assert isinstance(_milliseconds(0.029), int)  # though 0.029 * 1000 is not 29


def test_crop_ends_with_the_first_overlap_of_the_fovea(tmp_path):
    # The box is x 50 to 60, y 40 to 44, half a fovea 3 by 2: x 47 just touches, x 46.9 does not.
    data = dataset([
        ("s01", "a", [(10, 10, 0.2), (46.9, 42, 0.1), (47, 42, 0.05), (55, 42, 0.3)], {}),
        ("s02", "a", [(10, 10, 0.2), (55, 37.9, 0.1), (63.0, 46.0, 0.5), (0, 0, 0.3)], {}),
        ("s03", "a", [(10, 10, 0.2), (63.1, 42, 0.1), (55, 46.1, 0.5)], {"found": True}),
    ])  # fmt: skip
    said, files = written(tmp_path, data)
    records = [files[f"subj0{n}"]["a.jpg"] for n in (1, 2, 3)]
    assert [record["X"] for record in records] == [[10, 46.9, 47], [10, 55, 63], [10, 63.1, 55]]
    # T is as long as X: the benchmark's own files are not.
    assert [record["T"] for record in records] == [[200, 100, 50], [200, 100, 500], [200, 100, 500]]
    assert [record["target_found"] for record in records] == [True, True, False]
    assert "2 trials were ended with their first fixation on the target (crop_at_target)" in said
    assert "target_found differs from the source's flag in 3 trials (recompute_found)" in said


def test_halves_of_an_odd_fovea_are_rounded_down(tmp_path):
    data = dataset(
        [("s01", "a", [(10, 10, 0.2), (47, 42, 0.1)], {}), ("s02", "a", [(10, 10, 0.2), (46.6, 42, 0.1)], {})]
    )
    _, files = written(tmp_path, data, fovea_wh_px=(7, 5))
    assert [files[name]["a.jpg"]["target_found"] for name in ("subj01", "subj02")] == [True, False]


def test_source_flag_is_kept_when_asked_for(tmp_path):
    data = dataset([("s01", "a", [(10, 10, 0.2), (55, 42, 0.1), (0, 0, 0.1)], {"found": False})])
    _, files = written(tmp_path, data, recompute_found=False)
    assert files["subj01"]["a.jpg"]["target_found"] is False
    _, files = written(tmp_path, data, crop_at_target=False)
    # Not cropped, the last fixation decides, and it is off the target.
    assert files["subj01"]["a.jpg"]["target_found"] is False


def test_single_fixations_are_left_out_after_cropping(tmp_path):
    trials = [
        ("s01", "a", [(55, 42, 0.2), (1, 1, 0.1)], {}),  # on the target from the start
        ("s01", "b", [(1, 1, 0.2), (2, 2, 0.1)], {}),
        ("s02", "b", [], {}),
    ]
    said, files = written(tmp_path / "a", dataset(trials))
    assert list(files["subj01"]) == ["b.jpg"]
    assert files["subj02"] == {}
    assert "2 trials of fewer than two fixations were left out (drop_single)" in said
    _, files = written(tmp_path / "b", dataset(trials), drop_single=False)
    assert {name: list(records) for name, records in files.items()} == {
        "subj01": ["a.jpg", "b.jpg"],
        "subj02": ["b.jpg"],
    }


def test_truncation_and_limits(tmp_path):
    trials = [
        ("s01", "a", [(1, 1, 0.1), (2, 2, 0.1), (3, 3, 0.1), (55, 42, 0.1)], {"max_saccades": 12}),
        ("s02", "a", [(1, 1, 0.1), (2, 2, 0.1)], {"max_saccades": 1}),
        ("s03", "a", [(1, 1, 0.1), (2, 2, 0.1)], {"max_saccades": pd.NA}),
    ]
    said, files = written(tmp_path / "a", dataset(trials), max_fixations=3)
    records = [files[f"subj0{n}"]["a.jpg"] for n in (1, 2, 3)]
    assert [record["max_fixations"] for record in records] == [3, 2, 3]
    assert records[0]["X"] == [1, 2, 3]
    # The fixation on the target was cut away.
    assert records[0]["target_found"] is False
    assert said == ("1 trials were truncated to 3 fixations (max_fixations)",)
    assert json.loads((tmp_path / "a" / "dataset_info.json").read_text())["max_scanpath_length"] == 3
    _, files = written(tmp_path / "b", dataset(trials))
    assert [files[f"subj0{n}"]["a.jpg"]["max_fixations"] for n in (1, 2, 3)] == [13, 2, 4]


def test_clip(tmp_path):
    data = dataset([("s01", "a", [(-3, 85, 0.1), (99.5, 79.5, 0.1), (100, 2, 0.1)], {})])
    said, files = written(tmp_path, data)
    assert files["subj01"]["a.jpg"]["X"] == [0, 99.5, 99]
    assert files["subj01"]["a.jpg"]["Y"] == [79, 79.5, 2]
    assert "2 fixations outside their image were moved onto its nearest pixel (clip)" in said


def test_every_key_of_the_format(tmp_path):
    path = [(30.0, 20.0, 0.1), (1.0, 1.0, 0.1)]
    data = dataset([("s01", "a", path, {}), ("s02", "a", [(34.0, 23.0, 0.1), (2.0, 2.0, 0.2)], {})])
    screen = Screen(size_wh_px=(400, 300), measured_px_per_dva=30)
    _, files = written(tmp_path, replace(data, card=replace(data.card, screen=screen)))
    assert files["subj01"]["a.jpg"] == {
        "subject": "01",
        "dataset": "tiny_visions",
        "image_height": 80,
        "image_width": 100,
        "screen_height": 300,
        "screen_width": 400,
        "receptive_height": 4,
        "receptive_width": 6,
        "target_found": False,
        "target_bbox": [40, 50, 44, 60],
        "X": [30.0, 1.0],
        "Y": [20.0, 1.0],
        "T": [100, 100],
        "target_object": "cup",
        "max_fixations": 2,
    }
    assert json.loads((tmp_path / "trials_properties.json").read_text()) == [
        {
            "image": "a.jpg",
            "target": "a_target.png",
            "dataset": "tiny_visions",
            "target_matched_row": 40,
            "target_matched_column": 50,
            "target_height": 4,
            "target_width": 10,
            "image_height": 80,
            "image_width": 100,
            # The mean of the first fixations, as no column says where the design put the eye.
            "initial_fixation_row": 22,
            "initial_fixation_column": 32,
            "target_object": "cup",
        }
    ]
    assert json.loads((tmp_path / "dataset_info.json").read_text()) == {
        "dataset_name": "tiny_visions",
        "number_of_images": 1,
        "image_height": 80,
        "image_width": 100,
        "max_scanpath_length": 2,
        "receptive_size": [4, 6],
        "mean_target_size": [4, 10],
        "images_dir": "images/",
        "targets_dir": "targets/",
        "scanpaths_dir": "human_scanpaths/",
    }


def test_durations_that_are_not_known_are_not_made_up(tmp_path):
    data = dataset([("s01", "a", [(1, 1, math.nan), (2, 2, 0.1)], {})])
    said, files = written(tmp_path, data)
    assert "T" not in files["subj01"]["a.jpg"]
    assert said == ("1 trials are written without T, for their durations are not all known",)
    assert reread(tmp_path).fixations["duration_s"].isna().all()


def test_several_targets_on_one_image_of_coco_search18(tmp_path):
    """The present trials of a dataset as it comes: one image, two targets, no image of the target."""
    test_coco_search18.write_release(tmp_path / "coco")
    data = test_coco_search18.load_tiny(tmp_path / "coco", condition="present")
    with pytest.raises(InputError, match="not every trial has the flag found"):
        write_visions(data, tmp_path / "no", fovea_wh_px=(52, 52), **LOSSLESS)
    options = LOSSLESS | {"recompute_found": True}
    said = write_visions(data, tmp_path / "out", fovea_wh_px=(52, 52), **options)
    assert "1 images are further copies, for several things were searched for on one" in said
    again = reread(tmp_path / "out")
    names = {"000000000009", "000000000009_2", "000000000025", "000000000061"}
    assert set(again.stimuli["stimulus"]) == names
    # The target is cut from the image: 201 by 99 px, as the box says.
    with Image.open(tmp_path / "out" / "targets" / "000000000009_2_target.png") as target:
        assert target.size == (201, 99)
    assert again.trials["target"].tolist() == ["stop sign", "bottle", "tv", "tv", "stop sign"]


@pytest.mark.parametrize(
    ("trials", "options", "match"),
    [
        ([("s01", "a", [(1, 1, 1)], {"target_present": False})], {}, "target-present trials with the target's box"),
        ([("s01", "a", [(1, 1, 1)], {"target_left_px": math.nan})], {}, "target-present trials with the target's box"),
        ([("s01", "a", [(1, 1, 1)], {})], {}, "no trial is left to write"),
        ([("s01", "a", [(1, 1, 1), (2, 2, 2)], {})] * 2, {}, "trial 1 repeats subject 's01' on stimulus 'a'"),
        ([("7", "a", [(1, 1, 1), (2, 2, 2)], {})], {}, "subject '7' is no name for a ViSioNS file"),
        ([("s/1", "a", [(1, 1, 1), (2, 2, 2)], {})], {}, "subject 's/1' is no name"),
        ([("s01", "../a", [(1, 1, 1), (2, 2, 2)], {})], {}, "stimulus '../a' cannot be written"),
        ([("s01", "a", [(1, 1, 1), (2, 2, 2)], {})], {"fovea_wh_px": 52}, "fovea_wh_px is 52, expected width and"),
        ([("s01", "a", [(1, 1, 1), (2, 2, 2)], {})], {"fovea_wh_px": (5, 0)}, "fovea_wh_px is"),
        ([("s01", "a", [(1, 1, 1), (2, 2, 2)], {})], {"max_fixations": 0}, "max_fixations is 0"),
    ],
)  # fmt: skip
def test_what_the_format_cannot_hold_is_refused_and_nothing_is_written(tmp_path, trials, options, match):
    data = dataset(trials, stimuli=("a", "b", "../a"))
    with pytest.raises(InputError, match=match):
        write_visions(data, tmp_path / "out", **{"fovea_wh_px": (6, 4), **options})
    assert not (tmp_path / "out").exists()


def test_scanpaths_of_another_dataset_are_not_mixed_in(tmp_path):
    path = [(1, 1, 0.1), (2, 2, 0.2)]
    written(tmp_path, dataset([("s01", "a", path, {}), ("s02", "a", path, {})]))
    written(tmp_path, dataset([("s01", "b", path, {}), ("s02", "b", path, {})]))
    with pytest.raises(InputError, match=r"holds subj02_scanpaths\.json of another dataset"):
        written(tmp_path, dataset([("s01", "a", path, {})]))


def test_an_image_that_is_gone_is_one_line(tmp_path):
    data = dataset([("s01", "a", [(1, 1, 0.1), (2, 2, 0.2)], {})])
    data.stimuli["path"] = str(tmp_path / "gone.jpg")
    with pytest.raises(InputError, match=r"gone\.jpg: cannot be copied .*copy_images=False") as caught:
        write_visions(data, tmp_path / "out", fovea_wh_px=(6, 4))
    assert "\n" not in str(caught.value)
    # Without dataset_info.json the folder is no dataset.
    assert not (tmp_path / "out" / "dataset_info.json").exists()
    assert write_visions(data, tmp_path / "out", fovea_wh_px=(6, 4), copy_images=False) == ()
    assert not [*(tmp_path / "out").glob("images/*"), *(tmp_path / "out").glob("targets/*")]
