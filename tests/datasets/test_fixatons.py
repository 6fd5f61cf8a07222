"""FixaTons folders: both layouts, their oddities and damage; and a dataset written and read back without loss."""

import shutil
import warnings

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from gazekit import InputError
from gazekit.datasets import Card, GazeDataset, load
from gazekit.datasets.fixatons_writer import write_fixatons
from gazekit.geometry import Screen

CARD = {
    "name": "tiny_fixatons",
    "title": "A made-up FixaTons folder",
    "citation": "none",
    "license": {"data": "CC0-1.0", "images": "CC0-1.0"},
    "forced_initial": False,
    "format": "fixatons",
    "screen": None,
    "expect": {"subjects": 3, "stimuli": 4, "trials": 5, "fixations": 8},
    "split": {"by": "stimulus", "val": [], "test": ["tree"]},
}
SIZES_WH_PX = {"beach.jpg": (41, 23), "tree.PNG": (17, 30), "a_subject_b.jpeg": (33, 19), "unseen.bmp": (12, 8)}
SCANPATHS = {
    ("beach", "ana"): "10.5 3.25 0.1 0.3\n40.75 22.5 0.35 0.65\n0 0 0.7 0.7\n",
    ("beach", "ben"): "  1e1\t2.0   0.0 .25\r\n\r\n-3.5 5 0.3 0.4",
    ("tree", "ana"): "8 29.999 0.016 0.032\n16.5 1 0.05 1.25\n",
    ("tree", "carl.txt"): "",
    ("a_subject_b", "ben"): "3.3333333333333335 7.1 0.2 0.4",
}


def write_release(folder, newer=False):
    """A made-up collection; of four images one was seen by nobody, one trial is empty, .DS_Store lies about."""
    folder.mkdir(parents=True, exist_ok=True)
    stimuli, scanpaths = ("stimuli", "scanpaths") if newer else ("STIMULI", "SCANPATHS")
    for part in (stimuli, scanpaths):
        (folder / part).mkdir()
        (folder / part / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
    rng = np.random.default_rng(3)
    for name, (width, height) in SIZES_WH_PX.items():
        Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(folder / stimuli / name)
    for (stimulus, subject), text in SCANPATHS.items():
        path = folder / scanpaths / (f"{stimulus}_subject_{subject}" if newer else f"{stimulus}/{subject}")
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(text.encode())
    # Maps follow from the scanpaths; nothing in them is read.
    for part in ("FIXATION_MAPS", "SALIENCY_MAPS"):
        (folder / (part.lower() if newer else part)).mkdir()
        (folder / (part.lower() if newer else part) / "beach.png").write_bytes(b"not an image")
    needs = [stimuli, scanpaths]
    (folder / "card.yaml").write_text(yaml.safe_dump(CARD | {"needs": needs}), encoding="utf-8")


@pytest.fixture(params=[False, True], ids=["older", "newer"])
def release(tmp_path, request):
    write_release(tmp_path / "tiny", newer=request.param)
    return tmp_path / "tiny"


def test_values_survive_exactly_in_both_layouts(release):
    data = load(release)
    fixations = data.fixations
    trial = fixations[(fixations["stimulus"] == "beach") & (fixations["subject"] == "ana")]
    assert trial["x_px"].tolist() == [10.5, 40.75, 0.0]
    assert trial["y_px"].tolist() == [3.25, 22.5, 0.0]
    assert trial["t_s"].tolist() == [0.1, 0.35, 0.7]
    # As the decimal numbers differ: the floats give 0.19999999999999998.
    assert trial["duration_s"].tolist() == [0.2, 0.3, 0.0]
    assert trial["fixation"].tolist() == [0, 1, 2]
    other = fixations[(fixations["stimulus"] == "beach") & (fixations["subject"] == "ben")]
    # A fixation outside the image is kept.
    assert other[["x_px", "y_px", "t_s", "duration_s"]].to_numpy().tolist() == [[10, 2, 0, 0.25], [-3.5, 5, 0.3, 0.1]]
    # The word between image and subject may be part of either name.
    assert fixations[fixations["stimulus"] == "a_subject_b"]["subject"].tolist() == ["ben"]
    assert fixations[fixations["stimulus"] == "a_subject_b"]["x_px"].tolist() == [3.3333333333333335]
    sizes = data.stimuli.set_index("stimulus")[["width_px", "height_px"]]
    assert sizes.loc["tree"].tolist() == [17, 30]
    assert dict(zip(data.stimuli["stimulus"], data.stimuli["split"], strict=True))["tree"] == "test"


def test_an_empty_file_is_an_empty_trial(release):
    data = load(release)
    assert len(data.trials) == 5
    empty = data.trials[~data.trials["trial"].isin(data.fixations["trial"])]
    assert empty[["stimulus", "subject"]].to_numpy().tolist() == [["tree", "carl.txt"]]


def test_hidden_files_and_unseen_images_are_reported(release):
    (release / "card.yaml").rename(release / "c.yaml")
    folder = next(path for path in release.iterdir() if path.name.lower() == "stimuli")
    (folder / "Thumbs.db").write_bytes(b"")
    (release / "c.yaml").rename(release / "card.yaml")
    changes = load(release).changes
    assert [change.split(" (first")[0] for change in changes] == [
        "2 hidden files were left out",
        "1 files that are neither image nor scanpath were left out",
        "1 images have no scanpath; they are listed as stimuli without a trial.",
    ]
    assert "DS_Store" in changes[0]
    assert "Thumbs.db" in changes[1]


def refused(folder, match):
    with warnings.catch_warnings(), pytest.raises(InputError, match=match) as caught:
        load(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("1 2 3", "line 1 is '1 2 3', expected rows of 'x y start end'"),
        ("1 2 0 1\n1 2 3 4 5", "line 2 is '1 2 3 4 5'"),
        ("x y start end\n1 2 0 1", "line 1 is 'x y start end'"),
        ("1,2,0,1", "line 1 is '1,2,0,1'"),
        ("nan 2 0 1", "line 1 is 'nan"),
        ("1 2 0 inf", "line 1 is '1 2 0 inf'"),
        ("1_0 2 0 1", "line 1 is '1_0"),
        ("1 2 0.5 0.25", r"line 1 ends at 0\.25 s, before it starts at 0\.5 s"),
        ("1 2 0 1".encode("utf-16").decode("latin-1"), "line 1 is "),
        ("\0\0\0\0", "line 1 is "),
    ],
)
def test_rows_that_are_none(tmp_path, text, match):
    write_release(tmp_path / "tiny")
    (tmp_path / "tiny" / "SCANPATHS" / "beach" / "ana").write_bytes(text.encode("latin-1"))
    refused(tmp_path / "tiny", f"ana: {match}.*replace it with the original")


def test_scanpath_of_no_image(release):
    """As the collection's own migration to the newer layout leaves them: images renamed, scanpaths not."""
    folder = next(path for path in release.iterdir() if path.name.lower() == "stimuli")
    (folder / "tree.PNG").rename(folder / "image_004.png")
    refused(release, "no image named 'tree' in ")


def test_two_images_of_one_name(release):
    folder = next(path for path in release.iterdir() if path.name.lower() == "stimuli")
    shutil.copy(folder / "beach.jpg", folder / "beach.png")
    refused(release, r"beach\.png: a second image named 'beach'")


def test_a_name_that_can_be_cut_in_two_ways(tmp_path):
    write_release(tmp_path / "tiny", newer=True)
    shutil.copy(tmp_path / "tiny" / "stimuli" / "beach.jpg", tmp_path / "tiny" / "stimuli" / "a.jpg")
    refused(tmp_path / "tiny", "could be of image 'a' or 'a_subject_b'; rename")


def test_missing_and_doubled_folders(tmp_path):
    write_release(tmp_path / "tiny")
    card = yaml.safe_load((tmp_path / "tiny" / "card.yaml").read_text())
    (tmp_path / "tiny" / "card.yaml").write_text(yaml.safe_dump(card | {"needs": ["STIMULI"]}))
    (tmp_path / "tiny" / "SCANPATHS").rename(tmp_path / "scanpaths")
    refused(tmp_path / "tiny", "expected one folder SCANPATHS or scanpaths, found none")
    shutil.copytree(tmp_path / "scanpaths", tmp_path / "tiny" / "SCANPATHS")
    shutil.copytree(tmp_path / "scanpaths", tmp_path / "tiny" / "Scanpaths")
    if len(list((tmp_path / "tiny").glob("[Ss][Cc]*"))) == 2:  # where the system tells the two apart
        refused(tmp_path / "tiny", "expected one folder .* found SCANPATHS and Scanpaths")


def test_a_folder_where_a_file_belongs_and_a_broken_image(tmp_path):
    write_release(tmp_path / "tiny")
    (tmp_path / "tiny" / "SCANPATHS" / "beach" / "deep").mkdir()
    refused(tmp_path / "tiny", "deep: cannot be read")
    (tmp_path / "tiny" / "SCANPATHS" / "beach" / "deep").rmdir()
    (tmp_path / "tiny" / "STIMULI" / "beach.jpg").write_text("not an image")
    refused(tmp_path / "tiny", r"beach\.jpg: not a readable image")


@pytest.fixture
def simulated(tmp_path):
    """Makes 12 images, 8 subjects and 96 trials; numbers with all digits that a float has."""
    folder = tmp_path / "images"
    folder.mkdir()
    rng = np.random.default_rng(1)
    names = [f"{1001 + i}" for i in range(12)]
    for name in names:
        Image.fromarray(rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)).save(folder / f"{name}.png")
    trials = pd.DataFrame([(f"s{s}", name) for name in names for s in range(8)], columns=["subject", "stimulus"])
    trials = trials.assign(trial=range(96), task="free_viewing")
    fixations = trials.loc[np.repeat(range(96), 7)].reset_index(drop=True)
    fixations["fixation"] = fixations.groupby("trial").cumcount()
    fixations["x_px"], fixations["y_px"] = rng.uniform(-1, 40, len(fixations)), rng.uniform(0, 30, len(fixations))
    fixations["t_s"] = rng.uniform(0, 5, len(fixations))
    fixations["duration_s"] = rng.uniform(0, 1, len(fixations)) ** 9
    stimuli = pd.DataFrame({"stimulus": names, "path": [str(folder / f"{name}.png") for name in names]})
    stimuli = stimuli.assign(width_px=40, height_px=30)
    screen = {"size_wh_px": [40, 30], "size_wh_cm": [20.0, 15.0], "distance_cm": 57.3}
    content = CARD | {"simulated": True, "screen": screen}
    card = Card.from_content(content, tmp_path / "card.yaml")
    rule = {"by": "stimulus", "seed": 1, "val": 0.2, "test": 0.3}

    def make(**changes):
        return GazeDataset(fixations.assign(**changes), trials, stimuli, card).resplit(rule)

    return make


KEY = ["stimulus", "subject", "fixation"]


def by_key(fixations):
    return fixations.sort_values(KEY).reset_index(drop=True)[[*KEY, "x_px", "y_px", "t_s", "duration_s"]]


def test_a_round_trip_loses_no_bit(simulated, tmp_path):
    data = simulated()
    back = load(write_fixatons(data, tmp_path / "new" / "out"))
    pd.testing.assert_frame_equal(by_key(back.fixations), by_key(data.fixations), check_exact=True)
    # The split, the screen and the word SIMULATED travel with the data.
    split = back.stimuli.set_index("stimulus")["split"]
    assert split.to_dict() == data.stimuli.set_index("stimulus")["split"].to_dict()
    assert back.screen == data.screen
    assert back.card.simulated
    for name, path in zip(data.stimuli["stimulus"], data.stimuli["path"], strict=True):
        copied = back.stimuli.set_index("stimulus").loc[name, "path"]
        with Image.open(path) as a, Image.open(copied) as b:
            assert np.array_equal(np.asarray(a), np.asarray(b))


def test_the_release_itself_survives_a_round_trip(release, tmp_path):
    data = load(release)
    back = load(write_fixatons(data, tmp_path / "out"))
    pd.testing.assert_frame_equal(by_key(back.fixations), by_key(data.fixations), check_exact=True)
    assert len(back.trials) == len(data.trials)  # the empty one too
    assert set(back.stimuli["stimulus"]) == set(data.stimuli["stimulus"])
    assert (tmp_path / "out" / "SCANPATHS" / "beach" / "ana").read_text().splitlines()[0] == "10.5 3.25 0.1 0.3"
    # No screen, no width: saliency maps are left out.
    assert not (tmp_path / "out" / "SALIENCY_MAPS").exists()


def test_maps_mark_the_pixel_of_each_fixation_inside(tmp_path):
    write_release(tmp_path / "tiny")
    write_fixatons(load(tmp_path / "tiny"), tmp_path / "out", sigma_px=2.0)
    with Image.open(tmp_path / "out" / "FIXATION_MAPS" / "beach.png") as image:
        fixated = np.asarray(image)
    assert fixated.shape == (23, 41)
    # One of the five lies outside the image.
    assert np.argwhere(fixated == 255).tolist() == [[0, 0], [2, 10], [3, 10], [22, 40]]
    assert set(np.unique(fixated)) == {0, 255}
    with Image.open(tmp_path / "out" / "SALIENCY_MAPS" / "tree.png") as image:
        saliency = np.asarray(image)
    assert saliency.shape == (30, 17)
    assert saliency.max() == 255
    # A Gaussian of SD 2 px falls to exp(-1/2) two pixels away; the other fixation is far.
    assert saliency[29, 8] in (254, 255)
    assert saliency[29, 10] / saliency[29, 8] == pytest.approx(np.exp(-0.5), abs=0.01)
    with Image.open(tmp_path / "out" / "SALIENCY_MAPS" / "unseen.png") as image:
        assert not np.asarray(image).any()


def test_one_degree_is_the_width_where_the_screen_is_known(tmp_path):
    write_release(tmp_path / "tiny")
    data = load(tmp_path / "tiny")
    write_fixatons(data, tmp_path / "a", sigma_px=3.5)
    write_fixatons(data.with_screen(Screen((41, 30), measured_px_per_dva=3.5)), tmp_path / "b")
    for name in ("beach", "tree"):
        a, b = ((tmp_path / part / "SALIENCY_MAPS" / f"{name}.png").read_bytes() for part in "ab")
        assert a == b


def test_onsets_are_summed_only_on_demand(simulated, tmp_path):
    data = simulated(t_s=np.nan)
    with pytest.raises(InputError, match=r"fixations have no onsets.*onsets='from_durations'"):
        write_fixatons(data, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    back = load(write_fixatons(data, tmp_path / "out", onsets="from_durations")).fixations
    np.testing.assert_array_equal(by_key(back)["duration_s"], by_key(data.fixations)["duration_s"])
    ends = back["t_s"] + back["duration_s"]
    following = back["fixation"] > 0
    assert (back.loc[~following, "t_s"] == 0).all()
    # Sums of floats against sums of decimals: equal but for rounding.
    np.testing.assert_allclose(back.loc[following, "t_s"], ends.shift()[following], rtol=0, atol=1e-14)


def cannot(data, folder, match, **options):
    with pytest.raises(InputError, match=match) as caught:
        write_fixatons(data, folder, **options)
    assert "\n" not in str(caught.value)
    assert not list(folder.parent.glob("*.part"))


def test_what_cannot_be_written(simulated, tmp_path):
    out = tmp_path / "out"
    data = simulated()
    cannot(simulated(duration_s=np.nan), out, "fixations have no durations, and FixaTons needs")
    cannot(data, out, "no way to get onsets named 'guess'.*known: from_durations, released", onsets="guess")
    cannot(data, out, "sigma_px is -1, expected a positive number", sigma_px=-1)

    def changed(**tables):
        parts = {name: getattr(data, name) for name in ("fixations", "trials", "stimuli")} | tables
        return type(data)(**parts, card=data.card)

    first = data.stimuli["stimulus"].iloc[0]
    cannot(
        changed(stimuli=data.stimuli.assign(path="")), out, f"stimulus '{first}' has no image .*get the images first"
    )
    cannot(changed(stimuli=data.stimuli.assign(path="/nowhere.png")), out, r"has no image \(/nowhere\.png\)")
    twice = pd.concat([data.trials, data.trials.iloc[[0]].assign(trial=10**6)])
    cannot(changed(trials=twice), out, "has more than one trial on stimulus")
    for name in ("../up", ".hidden", "a/b", ""):
        trials = data.trials.assign(subject=name)
        cannot(changed(trials=trials), out, "cannot be the name of a file")
    trials = data.trials.assign(subject=["ab", "AB"] * (len(data.trials) // 2))
    cannot(changed(trials=trials), out, "differs from another in case alone")
    out.mkdir()
    (out / "mine").write_text("")
    cannot(data, out, "is there already")
    assert (out / "mine").exists()


def test_a_write_that_fails_leaves_nothing(simulated, tmp_path, monkeypatch):
    def full(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr("gazekit.datasets.fixatons_writer.shutil.copyfile", full)
    before = sorted(tmp_path.iterdir())
    data = simulated()
    with pytest.raises(OSError, match="no space left"):
        write_fixatons(data, tmp_path / "out")
    assert sorted(tmp_path.iterdir()) == before


def test_a_split_by_trial_is_said_to_be_lost(simulated, tmp_path):
    data = simulated().resplit({"by": "trial", "seed": 1, "val": 0.2, "test": 0.2})
    back = load(write_fixatons(data, tmp_path / "out"))
    assert set(back.trials["split"]) == {"train"}
    assert "split is lost" in back.card.content["known_issues"][-1]
    data = simulated().resplit({"by": "subject", "seed": 1, "val": 0.2, "test": 0.3})
    back = load(write_fixatons(data, tmp_path / "by_subject"))
    splits = [
        table.drop_duplicates("subject").set_index("subject")["split"].sort_index()
        for table in (data.trials, back.trials)
    ]
    pd.testing.assert_series_equal(*splits)
