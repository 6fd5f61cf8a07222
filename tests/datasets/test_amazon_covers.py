"""Amazon covers: a made-up release in the true format, its defects, damage, and the real counts where they are."""

import copy
import json
import warnings

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from gazekit import InputError
from gazekit.datasets import PartialDataWarning, load
from gazekit.datasets.check import check
from gazekit.datasets.objects import object_of_fixation
from tests.conftest import REAL_DATA

needs_amazon = pytest.mark.skipif(
    not (REAL_DATA / "amazon_covers").is_dir(),
    reason="Amazon covers are not on this machine; set GAZEKIT_DATA to test with them",
)
COLLAGES = {
    "2.jpg": {
        "fixations": {"1": [[100, 50], [2550, 1595]], "2": [[183, 267]]},
        "ground_truth": [{"xmin": 2184, "ymin": 22, "xmax": 2339, "ymax": 262}],
        "size": {"width": 2560, "height": 1600},
        "target": "target_0.jpg",
    },
    "10.jpg": {
        "fixations": {"1": [[5, 7]], "2": [[8, 9], [10, 11], [12, 13]]},
        "ground_truth": [{"xmin": 10, "ymin": 20, "xmax": 160, "ymax": 250}],
        "size": {"width": 2544, "height": 1590},
        "target": "target_4.jpg",
    },
    "1.jpg": {
        "fixations": {"1": [[1, 2], [3, 4]], "2": [[0, 0]]},
        "ground_truth": [{"xmin": 400, "ymin": 300, "xmax": 560, "ymax": 540}],
        "size": {"width": 2541, "height": 1585},
        "target": "target_2.jpg",
    },
}


def write_release(folder, collages=COLLAGES, images=False):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "Amazon.json").write_text(json.dumps(collages), encoding="utf-8")
    if images:
        (folder / "images").mkdir()
        for name, collage in collages.items():
            Image.new("RGB", (collage["size"]["width"], collage["size"]["height"])).save(folder / "images" / name)


def load_tiny(folder):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PartialDataWarning)
        return load("amazon_covers", root=folder, cache=False)


def refused(folder, match):
    with pytest.raises(InputError, match=match) as caught:
        load_tiny(folder)
    assert "\n" not in str(caught.value)


def changed(path, value, collage="10.jpg"):
    collages = copy.deepcopy(COLLAGES)
    place = collages[collage]
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return collages


def test_values_survive_exactly(tmp_path):
    write_release(tmp_path)
    data = load_tiny(tmp_path)
    assert data.stimuli["stimulus"].tolist() == ["1", "2", "10"]
    assert data.stimuli["target"].tolist() == ["target_2", "target_0", "target_4"]
    trial = data.trials.query("stimulus == '10' and subject == 's2'").iloc[0]
    rows = data.fixations[data.fixations["trial"] == trial["trial"]]
    assert rows[["x_px", "y_px"]].to_numpy().tolist() == [[8, 9], [10, 11], [12, 13]]
    assert rows[["t_s", "duration_s"]].isna().all(axis=None)
    box = ["target_left_px", "target_top_px", "target_right_px", "target_bottom_px"]
    assert trial[box].tolist() == [10, 20, 160, 250]
    sizes = data.stimuli.set_index("stimulus")[["width_px", "height_px"]]
    assert sizes.loc["10"].tolist() == [2544, 1590]
    assert (data.stimuli["path"] == "").all()


def test_images_are_used_where_they_are(tmp_path):
    write_release(tmp_path, images=True)
    assert load_tiny(tmp_path).stimuli["path"].str.endswith(".jpg").all()
    Image.new("RGB", (100, 80)).save(tmp_path / "images" / "10.jpg")
    refused(tmp_path, r"10\.jpg: image is 100x80 px, expected 2544x1590")


def test_the_grid_has_84_cells_numbered_row_by_row(tmp_path):
    write_release(tmp_path)
    data = load_tiny(tmp_path)
    cells = data.objects[data.objects["stimulus"] == "2"].set_index("object")
    assert len(cells) == 84
    assert cells.loc[15, ["left_px", "top_px"]].tolist() == pytest.approx([2560 / 14, 1600 / 6])
    assert cells.loc[83, ["right_px", "bottom_px"]].tolist() == pytest.approx([2560, 1600])
    on = data.fixations["stimulus"] == "2"
    # (183, 267) is just beyond the first cell in both directions; the last one is in the far corner.
    assert object_of_fixation(data.fixations[on], data.objects).tolist() == [0, 83, 15]


def test_own_boxes_replace_the_grid_and_the_nearest_center_counts_between_them(tmp_path):
    write_release(tmp_path)
    rows = [("2", 0, 0, 0, 100, 100), ("2", 1, 2000, 1000, 2200, 1300)]
    columns = ["stimulus", "object", "left_px", "top_px", "right_px", "bottom_px"]
    pd.DataFrame(rows, columns=columns).to_csv(tmp_path / "objects.csv", index=False)
    data = load_tiny(tmp_path)
    on = data.fixations["stimulus"] == "2"
    assert object_of_fixation(data.fixations[on], data.objects).tolist() == [0, 1, 0]
    assert (object_of_fixation(data.fixations[~on], data.objects) == -1).all()
    (tmp_path / "objects.csv").write_text("stimulus,object\n2,0\n")
    refused(tmp_path, "objects: missing column")


def test_the_object_under_a_fixation_against_a_loop(tmp_path):
    rng = np.random.default_rng(3)
    corner = rng.uniform(0, 900, (40, 2))
    size = rng.uniform(20, 200, (40, 2))
    columns = ["left_px", "top_px", "right_px", "bottom_px"]
    objects = pd.DataFrame(np.hstack([corner, corner + size]), columns=columns)
    objects.insert(0, "object", range(40))
    objects.insert(0, "stimulus", "a")
    points = pd.DataFrame(rng.uniform(-50, 1200, (300, 2)), columns=["x_px", "y_px"]).assign(stimulus="a")
    expected = []
    for x, y in points[["x_px", "y_px"]].to_numpy():
        inside = [o.object for o in objects.itertuples() if o.left_px <= x < o.right_px and o.top_px <= y < o.bottom_px]
        centers = (objects[["left_px", "top_px"]].to_numpy() + objects[["right_px", "bottom_px"]].to_numpy()) / 2
        expected.append(inside[0] if inside else int(((centers - (x, y)) ** 2).sum(1).argmin()))
    assert object_of_fixation(points, objects).tolist() == expected


@pytest.mark.parametrize(
    ("collages", "match"),
    [
        (changed(["fixations", "2"], [[1, 2], [3]]), r"10\.jpg"),
        (changed(["fixations", "2"], [[1, 2, 3]]), r"10\.jpg, subject 2: fixations are not \[x, y\] pairs"),
        (changed(["fixations", "2"], [["a", "b"]]), r"10\.jpg: not the authors' file"),
        (changed(["fixations", "2"], [[1, None]]), r"10\.jpg|finite"),
        (changed(["fixations", "2"], []), "trials have no fixation"),
        (changed(["fixations", "2"], [[5000, 5]]), r"1 fixations lie outside .*stimulus 10, subject s2"),
        (changed(["ground_truth"], []), r"10\.jpg: not the authors' file"),
        (changed(["ground_truth", 0, "xmax"], 5), "no proper box"),
        (changed(["size", "width"], -4), r"10\.jpg: not the authors' file .*size is -4"),
        (changed(["target"], "../target_1.jpg"), r"10\.jpg: not the authors' file .*target is"),
        ({**COLLAGES, "../x.jpg": COLLAGES["1.jpg"]}, "is not the name of a file"),
        ({**COLLAGES, "1.png": COLLAGES["1.jpg"]}, "same name but for its ending"),
        ([1, 2], "holds a list"),
        ({}, "holds no trial"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, collages, match):
    write_release(tmp_path, collages)
    refused(tmp_path, match)


def test_not_json(tmp_path):
    write_release(tmp_path)
    path = tmp_path / "Amazon.json"
    whole = path.read_bytes()
    broken = (whole[:-10], b"", whole.decode().encode("utf-16"), whole.replace(b"[1, 2]", b"[1, NaN]"), b"[" * 200_000)
    for content in broken:
        path.write_bytes(content)
        refused(tmp_path, r"Amazon\.json: not the authors' file")


def test_splits_by_collage_and_by_target_keep_them_together(tmp_path):
    write_release(tmp_path)
    data = load_tiny(tmp_path)
    assert data.trials.groupby("stimulus")["split"].nunique().max() == 1
    by_target = data.resplit({"by": "target", "val": ["target_0"], "test": ["target_4"]})
    assert by_target.split("test").stimuli["stimulus"].tolist() == ["10"]
    assert len(by_target.split("test").objects) == 84


@needs_amazon
def test_every_count_and_moment_of_the_real_part():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PartialDataWarning)
        data = load("amazon_covers", root=REAL_DATA)
    findings = check(data)
    if "not known" in findings[0].found:
        pytest.skip("this copy holds other collages than the part whose numbers are known")
    assert not [str(finding) for finding in findings if finding.deviates]
    assert sum(finding.expected is not None for finding in findings) >= 20
    # Each cover is in one cell of the grid: no target's center lies near the edge of its cell.
    targets = data.trials.drop_duplicates("stimulus")
    x = (targets["target_left_px"] + targets["target_right_px"]) / 2
    y = (targets["target_top_px"] + targets["target_bottom_px"]) / 2
    sizes = data.stimuli.set_index("stimulus").loc[targets["stimulus"]]
    column = x.to_numpy() / (sizes["width_px"].to_numpy() / 14) % 1
    row = y.to_numpy() / (sizes["height_px"].to_numpy() / 6) % 1
    assert column.min() > 0.25
    assert column.max() < 0.75
    assert row.min() > 0.25
    assert row.max() < 0.75
