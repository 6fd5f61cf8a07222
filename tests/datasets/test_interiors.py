"""Interiors: a made-up release in the authors' format, its defects, damage, and the real counts where they are."""

import warnings

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from gazekit import InputError
from gazekit.datasets import PartialDataWarning, load
from gazekit.datasets.check import check
from gazekit.datasets.datamodule import StimulusItems
from tests.conftest import REAL_DATA

needs_interiors = pytest.mark.skipif(
    not (REAL_DATA / "interiors").is_dir(), reason="Interiors is not on this machine; set GAZEKIT_DATA to test with it"
)
IMAGES = ("grayscale_1_oliva.jpg", "grayscale_2_kitchen.jpg", "grayscale_13_other.jpg")
FIELDS = (
    "subj", "image_name", "target_name", "trial_order", "image_size", "screen_size", "screen_rect", "target_center",
    "target_rect", "nsaccades_allowed", "initial_position", "target_found", "search_rt", "objetive_rt",
    "subjetive_rt", "objetive_pos", "subjetive_size", "old", "x", "y", "t", "dur", "initial_distance",
    "final_target_distance",
)  # fmt: skip


def record(subject, image, order, rng, **changes):
    n = int(rng.integers(2, 7))
    duration = rng.integers(80, 500, (1, n)).astype(np.uint16)
    left, top = int(rng.integers(0, 900)), int(rng.integers(0, 600))
    values = {
        "subj": subject,
        "image_name": image,
        "target_name": image.replace(".jpg", "_template_1.jpg"),
        "trial_order": np.uint8([[order]]),
        "image_size": np.uint16([[768, 1024]]),
        "screen_size": np.uint16([[960, 1280]]),
        "screen_rect": np.int16([[-128, -96, 1152, 864]]),
        "target_center": np.uint16([[left + 36, top + 36]]),
        "target_rect": np.uint16([[left, top, left + 72, top + 72]]),
        "nsaccades_allowed": np.uint8([[4]]),
        "initial_position": np.uint16([[500, 300]]),
        "target_found": np.uint8([[order % 2]]),
        "search_rt": np.array([[1.25]]),
        "x": rng.uniform(0, 1024, (1, n)).round(1),
        "y": rng.uniform(0, 768, (1, n)).round(1),
        "t": (228_727 + np.cumsum(duration) - duration + 30 * np.arange(n)).astype(np.int32)[None],
        "dur": duration,
    } | changes
    return tuple(values.get(name, np.zeros((1, 1))) for name in FIELDS)


def write_release(folder, edit=None):
    """Two subjects on three images; `edit`: (subject, trial) -> fields that replace those of that trial."""
    rng = np.random.default_rng(11)
    for name in ("images", "templates", "sinfo_subj"):
        (folder / name).mkdir(parents=True)
    for image in IMAGES:
        grey = Image.fromarray(rng.integers(0, 256, (6, 8), dtype=np.uint8))
        grey.resize((1024, 768)).save(folder / "images" / image)
        grey.resize((72, 72)).save(folder / "templates" / image.replace(".jpg", "_template_1.jpg"))
    for number, initials in ((1, "AFR"), (12, "ZB")):
        trials = np.empty((1, len(IMAGES)), dtype=[(name, object) for name in FIELDS])
        for order, image in enumerate(IMAGES):
            trials[0, order] = record(initials, image, order + 1, rng, **(edit or {}).get((number, order), {}))
        savemat(folder / "sinfo_subj" / f"info_per_subj_{number}.mat", {"info_per_subj": trials})


def load_tiny(folder):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PartialDataWarning)
        return load("interiors", root=folder, cache=False)


def refused(folder, match):
    with pytest.raises(InputError, match=match) as caught:
        load_tiny(folder)
    assert "\n" not in str(caught.value)


BY_HAND = {
    "x": np.array([[624.5, 508.6, 1024.0]]),
    "y": np.array([[759.9, 435.0, 768.0]]),
    "t": np.int32([[228727, 230222, 230387]]),
    "dur": np.uint16([[1449, 130, 244]]),
    "target_rect": np.uint16([[229, 560, 301, 632]]),
    "initial_position": np.uint16([[618, 755]]),
    "nsaccades_allowed": np.uint8([[12]]),
    "target_found": np.uint8([[1]]),
    "screen_size": np.uint16([[1024, 1280]]),
}


def test_values_survive_exactly(tmp_path):
    write_release(tmp_path, {(12, 1): BY_HAND})
    data = load_tiny(tmp_path)
    trial = data.trials.query("subject == 's12' and stimulus == 'grayscale_2_kitchen'").iloc[0]
    rows = data.fixations[data.fixations["trial"] == trial["trial"]]
    assert rows["x_px"].tolist() == [624.5, 508.6, 1024.0]
    assert rows["y_px"].tolist() == [759.9, 435.0, 768.0]
    assert rows["duration_s"].tolist() == [1.449, 0.130, 0.244]
    assert rows["tracker_time_s"].tolist() == [228.727, 230.222, 230.387]
    assert rows["t_s"].isna().all()  # the files do not say when the image appeared
    box = ["target_left_px", "target_top_px", "target_right_px", "target_bottom_px"]
    assert trial[box].tolist() == [229.0, 560.0, 301.0, 632.0]
    assert trial[["start_x_px", "start_y_px"]].tolist() == [618.0, 755.0]
    assert (trial["max_saccades"], bool(trial["found"]), trial["screen_px"]) == (12, True, "1280x1024")
    assert trial["target"] == "grayscale_2_kitchen_template_1"
    assert trial["response_time_s"] == 1.25
    assert set(data.stimuli["width_px"]) == {1024}
    assert data.trials["task"].unique().tolist() == ["visual_search"]


def test_empty_paths_and_paths_beyond_the_limit_are_kept(tmp_path):
    empty = {name: np.zeros((1, 0)) for name in ("x", "y", "t", "dur")}
    long = {name: np.full((1, 9), 7.0) for name in ("x", "y", "t", "dur")} | {"nsaccades_allowed": np.uint8([[2]])}
    write_release(tmp_path, {(1, 0): empty, (1, 1): long})
    data = load_tiny(tmp_path)
    assert data.fixations.groupby("trial").size().get(0) is None
    assert (data.fixations["trial"] == 1).sum() == 9
    assert len(data.trials) == 6
    found = {finding.what: finding.found for finding in check(data)}
    assert found["trials without a fixation"] == "1"


def test_the_geometry_is_not_guessed(tmp_path):
    write_release(tmp_path)
    with pytest.raises(InputError, match="does not state the viewing geometry"):
        _ = load_tiny(tmp_path).screen


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"x": np.zeros((1, 2)), "y": np.zeros((1, 3)), "t": np.zeros((1, 3)), "dur": np.zeros((1, 3))}, "2 x, 3 y"),
        ({"x": np.full((1, 2), np.nan), "y": np.ones((1, 2)), "t": np.ones((1, 2)), "dur": np.ones((1, 2))}, "finite"),
        ({"target_rect": np.uint16([[229, 560, 301]])}, r"trial 2: not the authors' file"),
        ({"target_rect": np.uint16([[301, 560, 229, 632]])}, "no proper box"),
        ({"image_name": "../../etc/passwd"}, "is not the name of a file"),
        ({"target_name": "/etc/passwd"}, "is not the name of a file"),
        ({"image_name": "grayscale_99_oliva.jpg"}, r"grayscale_99_oliva\.jpg: image missing \(1 of 4"),
        ({"image_size": np.uint16([[1024, 768]])}, "image_size 768x1024 differs from another trial's"),
        ({"target_found": np.uint8([[7]])}, "target_found is 7"),
        ({"search_rt": np.zeros((0, 0))}, r"trial 2: not the authors' file"),
    ],
)
def test_a_wrong_field_is_named(tmp_path, change, match):
    write_release(tmp_path, {(12, 1): change})
    refused(tmp_path, match)


def test_damaged_and_foreign_files(tmp_path):
    write_release(tmp_path)
    path = tmp_path / "sinfo_subj" / "info_per_subj_12.mat"
    whole = path.read_bytes()
    for keep in (0, 100, 200, len(whole) // 2, len(whole) - 3):
        path.write_bytes(whole[:keep])
        refused(tmp_path, r"info_per_subj_12\.mat: not the authors' file")
    savemat(path, {"fixations": np.eye(3)})
    refused(tmp_path, r"info_per_subj_12\.mat: not the authors' file .*expected a struct array 'info_per_subj'")
    path.write_bytes(whole)
    path.rename(path.with_name("info_per_subj_12 (copy).mat"))
    refused(tmp_path, r"\(copy\)\.mat: unexpected file")


def test_template_of_another_size(tmp_path):
    write_release(tmp_path)
    Image.new("L", (70, 72)).save(tmp_path / "templates" / "grayscale_2_kitchen_template_1.jpg")
    refused(tmp_path, r"grayscale_2_kitchen_template_1\.jpg: image is 70x72 px, expected 72x72")


def test_targets_shrink_with_the_scene(tmp_path):
    write_release(tmp_path, {(12, 1): BY_HAND})
    data = load_tiny(tmp_path)
    whole, half = (
        StimulusItems(data, size, with_search=True).collate([StimulusItems(data, size, with_search=True)[0]])
        for size in (None, (512, 192))
    )
    height, width = whole.search.template.shape[-2:]
    assert half.search.template.shape[-2:] == (height // 4, width // 2)
    # A size of one's own stays what it is.
    own = StimulusItems(data, (512, 192), with_search=True, template_size_wh_px=(9, 7))
    assert own.collate([own[0]]).search.template.shape[-2:] == (7, 9)


@needs_interiors
def test_every_count_and_moment_of_the_real_part():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PartialDataWarning)
        data = load("interiors", root=REAL_DATA)
    findings = check(data, decode_images=False)
    if "not known" in findings[0].found:
        pytest.skip("this copy holds other images than the part whose numbers are known")
    assert not [str(finding) for finding in findings if finding.deviates]
    assert sum(finding.expected is not None for finding in findings) >= 27
    # The design puts the target's center inside its box, and x before y: the boxes are 72 px squares.
    assert ((data.trials["target_right_px"] - data.trials["target_left_px"]) == 72).all()
