"""COCO-FreeView: a made-up release always, pysaliency's counts where the data are, and every kind of damage."""

import json
import warnings

import pytest
from PIL import Image

from gazekit import InputError
from gazekit.datasets import PartialDataWarning, load
from tests.conftest import REAL_DATA
from tests.datasets import test_coco_search18 as search

needs_coco_freeview = pytest.mark.skipif(
    not (REAL_DATA / "coco_freeview").is_dir(), reason="COCO-FreeView is not on this machine; set GAZEKIT_DATA"
)
TRAINVAL, TEST = (f"COCOFreeView_fixations_{part}.json" for part in ("trainval", "test"))


def trial(name, subject, xs, ys, ts, split, **more):
    record = {"name": f"{name:012d}.jpg", "subject": subject, "X": xs, "Y": ys, "T": ts, "length": len(xs)}
    return record | {"split": split} | more


def released():
    return [
        trial(9, 1, [841.2, 300.5, 1679.99], [524.9, 100.25, 1049.0], [199, 204, 29], "train"),
        trial(9, 10, [839.0, 1680.0], [530.0, 20.0], [250, 310], "train"),
        trial(25, 1, [840.0, 900.5], [525.0, -2.5], [180, 246], "valid"),
        trial(42, 10, [843.7], [520.1], [5012], "train"),
    ]


def write_release(
    folder, trials=None, images=("images/bottle/000000000009.jpg", "coco_search18_images_TA/tv/000000000042.jpg")
):
    """A made-up COCO-FreeView in `folder`, with two of its three images."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / TRAINVAL).write_text(json.dumps(released() if trials is None else trials), encoding="utf-8")
    for name in images:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (1680, 1050), 128).save(folder / name, quality=10)


def load_tiny(folder, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PartialDataWarning)
        return load("coco_freeview", root=folder, **options)


def refused(folder, match, **options):
    with pytest.raises(InputError, match=match) as caught:
        load_tiny(folder, **options)
    assert "\n" not in str(caught.value)


def test_values_survive_exactly(tmp_path):
    write_release(tmp_path)
    data = load_tiny(tmp_path)
    assert data.changes == ()
    path = data.fixations[data.fixations["trial"] == 0]
    assert path[["x_px", "y_px", "duration_s"]].to_numpy().tolist() == [
        [841.2, 524.9, 0.199],
        [300.5, 100.25, 0.204],
        [1679.99, 1049.0, 0.029],
    ]
    assert path["t_s"].isna().all()
    # Fixations outside the frame are kept.
    assert data.fixations["x_px"].max() == 1680.0
    assert data.fixations["y_px"].min() == -2.5
    trials = data.trials
    assert trials["subject"].tolist() == ["s01", "s10", "s01", "s10"]
    assert trials["stimulus"].tolist() == ["000000000009", "000000000009", "000000000025", "000000000042"]
    assert trials["released_split"].tolist() == ["train", "train", "valid", "train"]
    assert trials["split"].tolist() == ["train", "train", "val", "train"]
    assert set(trials["task"]) == {"free_viewing"}
    assert [path.rsplit("/", 1)[-1] for path in data.stimuli["path"]] == ["000000000009.jpg", "", "000000000042.jpg"]
    assert set(data.stimuli["width_px"]) == {1680}
    assert set(data.stimuli["height_px"]) == {1050}


def test_drop_outside(tmp_path):
    write_release(tmp_path, [*released(), trial(25, 2, [-1.0], [5.0], [100], "valid")])
    data = load_tiny(tmp_path, drop_outside=True)
    assert len(data.trials) == 4
    assert data.fixations.groupby("trial").size().tolist() == [3, 1, 1, 1]
    assert data.changes == (
        "3 fixations outside the 1680x1050 px were dropped (drop_outside)",
        "1 trials without a fixation inside the 1680x1050 px were left out (drop_outside)",
    )
    refused(tmp_path, "drop_outside is 1, expected True or False", drop_outside=1)


def test_withheld_file_is_read_where_somebody_has_it(tmp_path):
    write_release(tmp_path)
    (tmp_path / TEST).write_text(json.dumps([trial(61, 3, [840.0], [525.0], [300], "test")]))
    assert load_tiny(tmp_path).trials["split"].tolist() == ["train", "train", "val", "train", "test"]
    (tmp_path / TRAINVAL).unlink()
    assert load_tiny(tmp_path).trials["split"].tolist() == ["test"]
    (tmp_path / TEST).unlink()
    refused(tmp_path, r"no trial in any of COCOFreeView_fixations_trainval\.json.*gazekit data fetch coco_freeview")


def test_one_image_has_one_place_in_both_datasets(tmp_path):
    write_release(tmp_path / "view")
    search.write_release(tmp_path / "search")
    rule = {"by": "stimulus", "seed": 3, "val": 0.3, "test": 0.3}
    both = [
        data.resplit(rule).stimuli for data in (load_tiny(tmp_path / "view"), search.load_tiny(tmp_path / "search"))
    ]
    places = [stimuli.set_index("stimulus")["split"] for stimuli in both]
    shared = places[0].index.intersection(places[1].index)
    assert len(shared) == 3
    assert places[0][shared].equals(places[1][shared])
    assert places[0].nunique() > 1


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        # The cut T of one test file of COCO-Search18 is no defect of this release.
        ({"T": [1, 2, 3, 4]}, "trial 0: 3 X, 3 Y, 4 T and length 3, expected equally many"),
        ({"Y": [1.0]}, "3 X, 1 Y"),
        ({"X": [1.0, None, 3.0]}, "X is .*expected a list of numbers"),
        ({"T": [1, -1, 1]}, "T holds -1"),
        ({"split": None}, "split is None"),
        ({"subject": 1.0}, r"subject is 1\.0, expected a number from 1"),
        ({"name": "..\\secret.jpg"}, "name is .*expected the file name of an image"),
        ({"condition": "present"}, "a trial of visual search, expected free viewing"),
    ],
)
def test_damaged_trial(tmp_path, fields, match):
    trials = released()
    trials[0] |= fields
    write_release(tmp_path, trials, images=())
    refused(tmp_path, f"{match}.*; fetch it again with 'gazekit data fetch coco_freeview'")


def test_a_file_of_coco_search18_under_this_name_is_refused(tmp_path):
    write_release(tmp_path, search.released()[search.VALID], images=())
    refused(tmp_path, "trial 0: a trial of visual search")


def test_truncated_file_and_another_list(tmp_path):
    write_release(tmp_path, images=())
    content = (tmp_path / TRAINVAL).read_bytes()
    for wrong in (b"", content[:50], content[:-1], b"[1]", b"{}", content.decode().encode("utf-16")):
        (tmp_path / TRAINVAL).write_bytes(wrong)
        refused(tmp_path, r"COCOFreeView_fixations_trainval\.json.*: not the authors' file .*expected a list of trials")


@needs_coco_freeview
def test_counts_of_the_distributed_file():
    """pysaliency's numbers."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PartialDataWarning)
        data = load("coco_freeview", root=REAL_DATA)
    for split, n_images, n_fixations in (("train", 3714, 572_184), ("valid", 603, 92_821)):
        trials = data.trials[data.trials["released_split"] == split]
        assert trials["stimulus"].nunique() == n_images
        assert data.fixations["trial"].isin(trials["trial"]).sum() == n_fixations
