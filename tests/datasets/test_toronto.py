"""Toronto: a miniature of fixated pixels, and every kind of damage."""

import warnings

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from gazekit import InputError
from gazekit.datasets import PartialDataWarning, load
from tests.conftest import REAL_DATA

needs_toronto = pytest.mark.skipif(
    not (REAL_DATA / "toronto").is_dir(), reason="Toronto is not on this machine; set GAZEKIT_DATA to test with it"
)
# Column and row of each fixated pixel; the corners, and two images with one row or column in common.
FIXATED = [[(0, 0), (680, 0), (340, 255), (12, 510), (680, 510)], [(1, 7), (5, 7), (3, 8)], [], [(680, 3)]]


def as_maps(fixated, dtype=np.uint8):
    maps = np.empty((1, len(fixated)), object)
    for i, pixels in enumerate(fixated):
        maps[0, i] = np.zeros((511, 681), dtype)
        for x, y in pixels:
            maps[0, i][y, x] = 1
    return maps


def write_release(folder):
    """Made-up maps of four images, one without a fixation, as the authors' file holds them (compressed)."""
    release = folder / "eyetrackingdata" / "fixdens"
    (release / "Original Image Set").mkdir(parents=True)
    for number in range(1, len(FIXATED) + 1):
        Image.new("RGB", (681, 511), (number, 9, 9)).save(release / "Original Image Set" / f"{number}.jpg")
    # The recordings of each subject are not in pixels, and not read.
    (release / "Raw" / "subject1").mkdir(parents=True)
    (release / "Raw" / "subject1" / "1.fix").write_text("Fixation Listing\n\n1 99999 99999 0.1\n")
    savemat(release / "origfixdata.mat", {"white": as_maps(FIXATED)}, do_compression=True)


@pytest.fixture
def release(tmp_path):
    write_release(tmp_path / "toronto")
    return tmp_path / "toronto"


@pytest.fixture
def mat(release):
    return release / "eyetrackingdata" / "fixdens" / "origfixdata.mat"


def load_tiny(folder):
    with pytest.warns(PartialDataWarning, match="of 120 stimuli"):
        return load("toronto", root=folder)


def test_positions_are_pixel_indices_in_raster_order(release):
    data = load_tiny(release)
    assert data.trials[["subject", "stimulus"]].to_numpy().tolist() == [
        ["all", "1"],
        ["all", "2"],
        ["all", "3"],
        ["all", "4"],
    ]
    for number, pixels in enumerate(FIXATED, start=1):
        found = data.fixations[data.fixations["stimulus"] == str(number)]
        raster = sorted(pixels, key=lambda xy: (xy[1], xy[0]))
        assert list(zip(found["x_px"], found["y_px"], strict=True)) == raster
        assert found["fixation"].tolist() == list(range(len(pixels)))
    assert data.fixations[["t_s", "duration_s"]].isna().all(axis=None)
    assert "all subjects together" in data.changes[0]
    assert data.stimuli["path"].iloc[1].endswith("Original Image Set/2.jpg")


def test_any_value_but_zero_is_a_fixated_pixel_whatever_the_type(release, mat):
    maps = as_maps(FIXATED, float) * 0.5
    savemat(mat, {"white": maps})
    halves = load_tiny(release).fixations
    savemat(mat, {"white": np.array(as_maps(FIXATED, bool))})
    assert load_tiny(release).fixations.equals(halves)


def test_a_map_that_is_turned_is_refused_not_read(release, mat):
    maps = as_maps(FIXATED)
    maps[0, 1] = maps[0, 1].T
    savemat(mat, {"white": maps})
    refused(release, r"image 2: not the authors' file \(a matrix of 511x681\), expected a 681x511 px map")


def refused(folder, match):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PartialDataWarning)
        with pytest.raises(InputError, match=match) as caught:
            load("toronto", root=folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("variables", "match"),
    [
        ({"other": as_maps(FIXATED)}, "no cell array of that name"),
        ({"white": np.zeros((511, 681))}, "no cell array of that name"),
        ({"white": "text"}, "no cell array of that name"),
        ({"white": np.empty((0, 0), object)}, "holds no trial"),
        ({"white": np.full((1, 121), "x", object)}, "121 cells"),
        ({"white": np.full((1, 3), "x", object)}, "image 1: .*no matrix of numbers"),
    ],
)
def test_another_file(release, mat, variables, match):
    savemat(mat, variables)
    refused(release, f"{match}.*gazekit data fetch toronto")


def test_nan_in_a_map(release, mat):
    maps = as_maps(FIXATED, float)
    maps[0, 2][5, 5] = np.nan
    savemat(mat, {"white": maps})
    refused(release, "image 3: .*NaN in the map")


def test_truncated_or_not_matlab(release, mat):
    whole = mat.read_bytes()
    for content in (b"", whole[:90], whole[: len(whole) // 2], whole[:-1], b"PK\3\4" * 100):
        mat.write_bytes(content)
        refused(release, "origfixdata.mat: not the authors' file")


def test_missing_and_wrong_images(release):
    images = release / "eyetrackingdata" / "fixdens" / "Original Image Set"
    (images / "2.jpg").unlink()
    refused(release, r"2\.jpg: image missing \(1 of 4")
    Image.new("RGB", (511, 681)).save(images / "2.jpg")
    refused(release, r"2\.jpg: image is 511x681 px, expected 681x511")


@needs_toronto
def test_counts_and_moments_of_pysaliency():
    """Numbers of pysaliency's own test, for a whole copy."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PartialDataWarning)
        data = load("toronto", root=REAL_DATA)
    if len(data.stimuli) != 120:
        pytest.skip(f"this copy holds {len(data.stimuli)} images, the numbers are those of 120")
    xy = data.fixations[["x_px", "y_px"]]
    assert len(xy) == 11199
    # Summation order alone may differ.
    assert xy.mean().tolist() == pytest.approx([345.7466738101616, 244.11393874453077], rel=1e-9)
    assert xy.std(ddof=0).tolist() == pytest.approx([132.7479359296397, 82.89667109045186], rel=1e-9)
    assert (data.fixations["stimulus"] == "1").sum() == 130
