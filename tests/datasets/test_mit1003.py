"""MIT1003: a made-up release in the authors' format, every option, damage, and the real counts where they are."""

import warnings

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from gazekit import InputError
from gazekit.datasets import Card, PartialDataWarning, load
from gazekit.datasets.check import check
from gazekit.datasets.fixation_detection import detect_fixations
from gazekit.datasets.readers.mit1003 import natural
from tests.conftest import REAL_DATA

needs_mit1003 = pytest.mark.skipif(
    not (REAL_DATA / "mit1003" / "DATA").is_dir(),
    reason="MIT1003 is not on this machine; set GAZEKIT_DATA to test with it",
)
LONG = "i12june05_" + "a_street_in_boston_" * 4 + "p1010764"
# Natural order; as text, i12 comes before i5. MATLAB cannot name a variable like the last one.
SIZES_WH_PX = {
    "i5june05_static_street_boston_p1010764": (1024, 768),
    LONG: (405, 1024),
    "i1011319098": (1024, 700),
    "istatic-outdoor.2": (600, 600),
}
SUBJECTS = ("CNG", "ajs")
FIRST, *_, SQUARE = SIZES_WH_PX
# The forced one, inside, a blink, inside; then the same with a first fixation that is a blink.
USUAL = ((202, 384, 60), (300.5, 300.25, 70), (-20, -20, 50), (100, 500, 80))
BLINK_FIRST = ((-32, -32, 60), (300.5, 300.25, 70), (100, 500, 80))


def gaze(*stays, n_columns=3):
    """Samples of staying at each (x, y) for n samples, with a straight saccade of six samples between two."""
    parts = []
    for i, (x, y, n) in enumerate(stays):
        if i:
            part = np.linspace(0, 1, 8)[1:-1, None]
            parts.append(np.array([stays[i - 1][:2]]) * (1 - part) + np.array([[x, y]]) * part)
        parts.append(np.tile(np.array([[x, y]], float), (n, 1)))
    xy = np.concatenate(parts)
    return np.column_stack([xy, np.zeros((len(xy), n_columns - 2))])


def recorded(eye_data):
    """The struct of one recording; DATA is an array of structs, of which the first one counts."""
    data = np.zeros((1, 2), dtype=[("numCalPoints", object), ("filename", object), ("eyeData", object)])
    data[0, 0] = (np.array([[9]]), "raw", eye_data)
    data[0, 1] = (np.array([[9]]), "raw", np.ones((4, 3)))
    return {"trialNumber": 3, "imgName": "an image", "DATA": data}


def write_recording(folder, subject, stimulus, eye_data, variable=None):
    path = folder / "DATA" / subject / f"{stimulus}.mat"
    name = variable or stimulus.replace("-", "_").replace(".", "_")[:63]
    savemat(path, {name: recorded(eye_data)}, long_field_names=True)
    return path


def write_release(folder, edit=None):
    """Two subjects on four images; `edit`: (subject, stimulus) -> gaze samples."""
    rng = np.random.default_rng(5)
    (folder / "ALLSTIMULI").mkdir(parents=True)
    for stimulus, size in SIZES_WH_PX.items():
        grey = Image.fromarray(rng.integers(0, 256, (6, 8), dtype=np.uint8))
        grey.resize(size).save(folder / "ALLSTIMULI" / f"{stimulus}.jpeg")
    for subject in SUBJECTS:
        (folder / "DATA" / subject).mkdir(parents=True)
        for stimulus in SIZES_WH_PX:
            stays = BLINK_FIRST if (subject, stimulus) == ("ajs", FIRST) else USUAL
            write_recording(folder, subject, stimulus, (edit or {}).get((subject, stimulus), gaze(*stays)))


def write_maps(folder, points):
    (folder / "ALLFIXATIONMAPS").mkdir(exist_ok=True)
    for stimulus, (width, height) in SIZES_WH_PX.items():
        dots = np.zeros((height, width), np.uint8)
        for x, y in points:
            dots[y, x] = 255
        Image.fromarray(dots).save(folder / "ALLFIXATIONMAPS" / f"{stimulus}_fixPts.jpg", quality=75)


@pytest.fixture
def release(tmp_path):
    write_release(tmp_path / "mit1003")
    return tmp_path / "mit1003"


def load_tiny(folder, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PartialDataWarning)
        return load("mit1003", root=folder, cache=False, **options)


def refused(folder, match, **options):
    with pytest.raises(InputError, match=match) as caught:
        load_tiny(folder, **options)
    assert "\n" not in str(caught.value)


def trial(data, subject="CNG", stimulus=FIRST):
    return data.fixations.query("subject == @subject and stimulus == @stimulus")


def change(data, what):
    (line,) = [line for line in data.changes if what in line]
    return int(line.split()[0])


def test_reads_the_authors_format(release):
    with pytest.warns(PartialDataWarning, match="4 of 1003 stimuli"):
        data = load("mit1003", root=release.parent)
    assert data.stimuli["stimulus"].tolist() == list(SIZES_WH_PX)
    assert list(zip(data.stimuli["width_px"], data.stimuli["height_px"], strict=True)) == list(SIZES_WH_PX.values())
    # Image by image, subjects in the order of their names.
    assert data.trials["subject"].tolist() == list(SUBJECTS) * 4
    assert data.screen.px_per_dva == 35
    assert set(data.trials["task"]) == {"free_viewing"}
    assert [f for f in check(data) if f.deviates] == []


def test_values_survive_exactly(release):
    """Medians, onsets and durations by hand: positions count from 1, and so do the samples of onsets."""
    data = load_tiny(release, outside="keep", first_fixation="keep")
    seen, found = trial(data), detect_fixations(gaze(*USUAL)[:, :2])
    assert seen[["x_px", "y_px"]].to_numpy().tolist() == [list(stay[:2]) for stay in USUAL]
    assert seen["t_s"].iloc[0] == 1 / 240
    np.testing.assert_allclose(seen["t_s"], (found.start + 1) / 240, rtol=1e-15)
    np.testing.assert_allclose(seen["duration_s"], (found.stop - found.start) / 240, rtol=1e-15)
    assert len(set(found.stop - found.start)) > 2


def test_by_default_the_first_fixation_and_those_outside_are_dropped(release):
    data = load_tiny(release)
    assert trial(data)["x_px"].tolist() == [300.5, 100.0]
    # One first fixation is dropped even where it is invalid: the next one stays, as published.
    assert trial(data, "ajs")["x_px"].tolist() == [300.5, 100.0]
    assert change(data, "were detected") == 7 * 4 + 3
    assert change(data, "first fixations") == 8
    assert change(data, "outside 0 < x") == 7
    assert len(data.fixations) == 31 - 8 - 7


def test_first_fixation_kept(release):
    data = load_tiny(release, first_fixation="keep")
    assert trial(data)["x_px"].tolist() == [202.0, 300.5, 100.0]
    assert trial(data, "ajs")["x_px"].tolist() == [300.5, 100.0]
    assert change(data, "outside 0 < x") == 8


def test_an_invalid_first_fixation_replaced_by_the_center(release):
    data = load_tiny(release, first_fixation="replace")
    seen = trial(data, "ajs")
    assert seen["x_px"].tolist() == [512.0, 300.5, 100.0]
    assert seen["y_px"].iloc[0] == 384.0
    assert seen["t_s"].iloc[0] == 0.0
    found = detect_fixations(gaze(*BLINK_FIRST)[:, :2])
    assert seen["duration_s"].iloc[0] == (found.stop - found.start)[0] / 240
    # A valid one is not touched, wherever it lies.
    assert trial(data)["t_s"].iloc[0] == 1 / 240
    assert change(data, "replaced by its center") == 1
    assert change(data, "outside 0 < x") == 7


def test_fixations_outside_kept(release):
    data = load_tiny(release, outside="keep")
    assert trial(data)["x_px"].tolist() == [300.5, -20.0, 100.0]
    assert not [line for line in data.changes if "outside 0 < x" in line]


def test_the_edge_of_the_image_is_outside(tmp_path):
    """0 < x < W and 0 < y < H on one-based positions: 0 and W themselves are off."""
    stays = ((512, 384, 60), (0, 300, 70), (400, 0, 60), (1024, 300, 60), (400, 768, 70), (1023.5, 767.5, 80))
    write_release(tmp_path / "mit1003", {("CNG", FIRST): gaze(*stays)})
    assert trial(load_tiny(tmp_path))["x_px"].tolist() == [1023.5]
    assert trial(load_tiny(tmp_path, outside="keep"))["x_px"].tolist() == [0, 400, 1024, 400, 1023.5]


def test_a_recording_without_a_position_is_an_empty_trial(tmp_path):
    write_release(tmp_path / "mit1003", {("CNG", FIRST): np.full((700, 3), np.nan)})
    for outside in ("drop", "keep"):
        data = load_tiny(tmp_path, first_fixation="keep", outside=outside)
        assert trial(data).empty
        assert len(data.trials) == 8
        assert change(data, "without a position") == 1
    assert trial(load_tiny(tmp_path, first_fixation="replace"))["x_px"].tolist() == [512.0]


def test_onesize(release):
    data = load_tiny(release, stimuli="onesize")
    assert data.stimuli["stimulus"].tolist() == [FIRST]
    assert set(data.trials["stimulus"]) == {FIRST}
    assert change(data, "images that are not 1024x768 px") == 3
    assert change(data, "left out, were not read") == 6
    (release / "ALLSTIMULI" / f"{FIRST}.jpeg").unlink()
    refused(release, "none of 3 images is 1024x768 px", stimuli="onesize")


def test_two_sizes_scales_fixations_with_their_frame(release):
    data, own = load_tiny(release, size="two_sizes"), load_tiny(release)
    assert data.stimuli[["width_px", "height_px"]].to_numpy().tolist() == [
        [1024, 768], [768, 1024], [1024, 768], [768, 1024],
    ]  # fmt: skip
    scales = {FIRST: (1, 1), LONG: (768 / 405, 1), "i1011319098": (1, 768 / 700), SQUARE: (768 / 600, 1024 / 600)}
    for stimulus, scale in scales.items():
        np.testing.assert_allclose(
            trial(data, stimulus=stimulus)[["x_px", "y_px"]],
            trial(own, stimulus=stimulus)[["x_px", "y_px"]].to_numpy() * scale,
            rtol=1e-12,
        )
    # Which fixations are inside is decided in the image itself.
    assert len(data.fixations) == len(own.fixations)
    assert change(data, "of 4 stimuli") == 3


def test_two_sizes_and_the_data_module_agree(release):
    """The image is served in the frame in which the fixations are."""
    from gazekit.datasets.datamodule import StimulusItems

    items = StimulusItems(load_tiny(release, size="two_sizes"))
    assert [tuple(items[i].image.shape[1:]) for i in range(4)] == [(768, 1024), (1024, 768), (768, 1024), (1024, 768)]


def test_maps(release):
    points = [(3, 2), (4, 2), (17, 5), (399, 599)]
    write_maps(release, points)
    data = load_tiny(release, source="maps")
    assert set(data.trials["subject"]) == {"all"}
    assert len(data.trials) == 4
    for stimulus in SIZES_WH_PX:
        seen = trial(data, "all", stimulus)
        assert list(zip(seen["x_px"], seen["y_px"], strict=True)) == points
        assert seen[["t_s", "duration_s"]].isna().all(axis=None)
    assert any("raster order" in line for line in data.changes)
    path = release / "ALLFIXATIONMAPS" / f"{SQUARE}_fixPts.jpg"
    Image.new("L", (400, 600)).save(path)
    refused(release, "map is 400x600 px, expected 600x600 px", source="maps")
    Image.new("L", (600, 600), 255).save(path)
    refused(release, "360000 white pixels, expected 1 to 1000 points", source="maps")
    Image.new("L", (600, 600), 0).save(path)
    refused(release, " 0 white pixels", source="maps")
    path.write_bytes(b"not an image")
    refused(release, "_fixPts.jpg: not a readable image", source="maps")
    path.unlink()
    refused(release, "_fixPts.jpg: map of the fixated points missing", source="maps")


@pytest.mark.parametrize("options", [{"first_fixation": "keep"}, {"outside": "keep"}])
def test_maps_have_no_first_fixation(release, options):
    write_maps(release, [(3, 2)])
    refused(release, "source='maps' has no first fixation and none outside", source="maps", **options)


@pytest.mark.parametrize("option", ["first_fixation", "stimuli", "size", "outside", "source"])
@pytest.mark.parametrize("value", ["kep", True, None, ("keep",)])
def test_unknown_option_values(release, option, value):
    refused(release, f"option {option} named .*known: ", **{option: value})


def test_recordings_beside_the_expected_ones(release):
    """The order of the images and the calibration are not recordings; recordings without an image are counted."""
    before = load_tiny(release)
    for name in ("shuff_stimnames", "CalibrationData"):
        savemat(release / "DATA" / "ajs" / f"{name}.mat", {"x": np.eye(2)})
    (release / "DATA" / ".svn").mkdir()
    (release / "DATA" / "fixations.data").write_text("of another program")
    (release / "ALLSTIMULI" / "Thumbs.db").write_text("of a file manager")
    assert load_tiny(release).changes == before.changes
    write_recording(release, "ajs", "i99", gaze(*USUAL))
    data = load_tiny(release)
    assert data.fingerprint() == before.fingerprint()
    assert change(data, "images that are not here") == 1


def test_archives_unpacked_into_folders_of_their_own(release):
    before = load_tiny(release)
    for name in ("ALLSTIMULI", "DATA"):
        (release / name).rename(release / "aside")
        (release / name).mkdir()
        (release / "aside").rename(release / name / name)
    assert load_tiny(release).fixations.equals(before.fixations)


def test_the_name_of_the_variable(release):
    """It ends after 63 characters, may be altered where it is the only one, and must be there."""
    assert change(load_tiny(release), "another name") == 2  # the one with a hyphen and a dot
    path = write_recording(release, "ajs", "i1011319098", gaze(*USUAL), variable="somebody_elses")
    assert change(load_tiny(release), "another name") == 3
    savemat(path, {"one": recorded(gaze(*USUAL)), "two": np.eye(2)})
    refused(release, r"i1011319098\.mat: not the authors' file \(2 variables, none of them 'i1011319098'\)")
    savemat(path, {"i1011319098": recorded(gaze(*USUAL)), "two": np.eye(2)})
    load_tiny(release)
    savemat(path, {})
    refused(release, r"i1011319098\.mat: not the authors' file")


@pytest.mark.parametrize(
    "samples",
    [
        np.zeros((0, 3)), np.ones((3, 700)), np.ones((700, 1)), np.ones((2, 3, 4)), np.ones((70, 3)) * 1j,
        np.array([["a", "b"]], dtype=object), "text", np.array([]),
    ],
)  # fmt: skip
def test_samples_that_are_none(tmp_path, samples):
    write_release(tmp_path / "mit1003", {("ajs", FIRST): samples})
    refused(tmp_path, rf"ajs.{FIRST}\.mat: not the authors' file \(.*\), expected one struct")


@pytest.mark.parametrize("dtype", [np.float32, np.int16, np.uint16])
def test_samples_of_any_number_type_and_without_a_third_column(tmp_path, dtype):
    samples = gaze((512, 384, 60), (300, 300, 70), (100, 500, 80), n_columns=2).astype(dtype)
    write_release(tmp_path / "mit1003", {("CNG", FIRST): samples})
    assert trial(load_tiny(tmp_path))["x_px"].tolist() == [300.0, 100.0]


@pytest.mark.parametrize("value", [np.inf, -np.inf, 1e300, np.nan])
def test_samples_far_off(tmp_path, value):
    samples = gaze(*USUAL)
    samples[90:200, 0] = value
    write_release(tmp_path / "mit1003", {("CNG", FIRST): samples})
    for outside in ("drop", "keep"):
        assert np.isfinite(load_tiny(tmp_path, outside=outside).fixations["x_px"]).all()


@pytest.mark.parametrize(
    "content",
    [
        {FIRST: np.eye(3)},
        {FIRST: {"DATA": np.eye(3)}},
        {FIRST: {"DATA": {"somethingElse": 1}}},
        {FIRST: {"data": 1}},
        {FIRST: np.empty((0, 0), dtype=[("DATA", object)])},
    ],
)
def test_another_mat_file(release, content):
    savemat(release / "DATA" / "ajs" / f"{FIRST}.mat", content, long_field_names=True)
    refused(release, rf"ajs.{FIRST}\.mat: not the authors' file.*gazekit data fetch mit1003")


def test_truncated_recording(release):
    path = release / "DATA" / "CNG" / "i1011319098.mat"
    whole = path.read_bytes()
    for keep in (0, 60, 130, len(whole) // 2, len(whole) - 5):
        path.write_bytes(whole[:keep])
        refused(release, r"i1011319098\.mat: not the authors' file")


def test_missing_files(release):
    (release / "DATA" / "ajs" / f"{LONG}.mat").unlink()
    refused(release, rf"ajs.{LONG}\.mat: recording missing \(1 of this subject's 4 are\)")
    (release / "DATA").rename(release / "aside")
    refused(release, "DATA: no such folder; fetch it again")
    write_maps(release, [(3, 2)])
    refused(release, "or read the fixation maps with source='maps'")
    (release / "DATA").mkdir()
    refused(release, "DATA: holds no subject's folder")
    for path in (release / "ALLSTIMULI").iterdir():
        path.unlink()
    refused(release, "ALLSTIMULI: holds no .jpeg")
    (release / "ALLSTIMULI").rmdir()
    refused(release, "lacks ALLSTIMULI")


def test_image_that_is_not_an_image(release):
    (release / "ALLSTIMULI" / "i1011319098.jpeg").write_text("not an image")
    refused(release, r"i1011319098\.jpeg: not a readable image")


def test_natural_order():
    assert sorted(["i10", "i9b", "a", "i9a", "i09", "7", "B"], key=natural) == [
        "7",
        "B",
        "a",
        "i09",
        "i9a",
        "i9b",
        "i10",
    ]


def test_an_image_is_in_the_same_split_as_in_capmit1003(release):
    assert Card.read("mit1003").split_rule == Card.read("capmit1003").split_rule
    assert Card.read("mit1003").split_rule.by == "stimulus"
    data = load_tiny(release)
    assert (data.trials.groupby("stimulus")["split"].nunique() == 1).all()


@needs_mit1003
@pytest.mark.slow
def test_counts_and_moments_of_the_release():
    """pysaliency's numbers for the default; other copies are skipped."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PartialDataWarning)
        data = load("mit1003", root=REAL_DATA)
    if len(data.stimuli) != 1003:
        pytest.skip(f"this copy holds {len(data.stimuli)} images, the numbers are those of 1003")
    assert [str(f) for f in check(data, decode_images=False) if f.deviates] == []
    onesize = load_tiny(REAL_DATA, stimuli="onesize")
    assert (len(onesize.stimuli), len(onesize.fixations)) == (463, 48771)
