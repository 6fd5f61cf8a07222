"""The simulated set: the same everywhere, labelled, split by photograph, inside its images."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from gazekit import InputError
from gazekit.datasets import Card, load
from gazekit.datasets.readers import simulated
from gazekit.datasets.readers.simulated import priority_map


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("simulated")


@pytest.fixture(scope="module")
def data(folder):
    return load("simulated", root=folder)


def test_two_folders_give_the_same(tmp_path, monkeypatch):
    """Images made afresh, found again or made elsewhere: every number and every pixel is the same."""
    # Two photographs say as much as nine about that, and take a fifth of the time.
    monkeypatch.setattr(simulated, "_PHOTOGRAPHS", ("coins", "rocket"))
    first, again = load("simulated", root=tmp_path / "a"), load("simulated", root=tmp_path / "a")
    np.random.seed(5)  # noqa: NPY002  the global state must not matter
    elsewhere = load("simulated", root=tmp_path / "b")
    assert len(first.fixations) > 500
    for other in (again, elsewhere):
        assert other.fixations.equals(first.fixations)
        assert other.trials.equals(first.trials)
        assert other.fingerprint() == first.fingerprint()
    for ours, theirs in zip(first.stimuli["path"], elsewhere.stimuli["path"], strict=True):
        assert ours != theirs
        with Image.open(ours) as a, Image.open(theirs) as b:
            assert np.array_equal(np.asarray(a), np.asarray(b))


def test_counts_are_those_of_the_card(data):
    expected = data.card.expect
    assert len(data.stimuli) == expected["stimuli"]
    assert len(data.trials) == expected["trials"]
    assert data.trials["subject"].nunique() == expected["subjects"]
    assert set(data.fixations["trial"]) == set(data.trials["trial"])
    lengths = data.fixations.groupby("trial").size()
    assert lengths.min() >= 3
    # Poisson around 8 over 432 trials: the mean errs by 0.14.
    assert lengths.mean() == pytest.approx(data.card.content["observer"]["mean_fixations"], abs=0.6)


def test_it_says_that_it_is_simulated(data):
    assert data.card.simulated
    assert data.card.label == "simulated (SIMULATED)"
    assert "SIMULATED" in repr(data)
    assert "SIMULATED" in data.card.content["title"]
    assert not Card.read("osie").simulated
    assert "SIMULATED" not in Card.read("osie").label


def test_splits_share_no_photograph(data):
    splits = data.stimuli.groupby("group")["split"].nunique()
    assert (splits == 1).all()
    assert set(data.stimuli["split"]) == {"train", "val", "test"}
    assert len(data.split("all").stimuli) == len(data.stimuli)
    names = [set(data.split(name).stimuli["stimulus"]) for name in ("train", "val", "test")]
    assert sum(map(len, names)) == len(set.union(*names))
    assert set(data.split("val").stimuli["group"]) == {"rocket"}


def test_fixations_lie_inside_and_are_timed(data):
    fixations = data.fixations
    width, height = data.screen.size_wh_px
    assert (width, height) == (400, 300)
    assert fixations["x_px"].between(0, width, inclusive="left").all()
    assert fixations["y_px"].between(0, height, inclusive="left").all()
    # Both halves of both axes are used: no axis is stuck or swapped.
    assert fixations["x_px"].max() > height
    assert (fixations["duration_s"] > 0).all()
    onsets = fixations.groupby("trial")["t_s"]
    assert (onsets.first() == 0).all()
    previous_end = (fixations["t_s"] + fixations["duration_s"]).groupby(fixations["trial"]).shift()
    later = fixations["fixation"] > 0
    np.testing.assert_allclose(fixations["t_s"][later], previous_end[later], rtol=1e-9)


def test_the_observer_looks_where_its_priority_is(data):
    """Density of the priority map at the first fixations, in multiples of chance."""
    observer = data.card.content["observer"]
    gains = []
    for stimulus, path in zip(data.stimuli["stimulus"][:12], data.stimuli["path"][:12], strict=True):
        rgb = np.asarray(Image.open(path).convert("RGB"), float) / 255
        priority = priority_map(rgb, data.screen.px_per_dva, observer)
        assert priority.sum() == pytest.approx(1.0)
        first = data.fixations[(data.fixations["stimulus"] == stimulus) & (data.fixations["fixation"] == 0)]
        x, y = first[["x_px", "y_px"]].to_numpy().astype(int).T
        gains.append(np.log(priority[y, x] * priority.size).mean())
        # The expectation of the same under the map itself; with x and y swapped it would be near or below 0.
    assert np.mean(gains) > 0.5


def test_inhibition_keeps_the_eye_moving(data):
    step = data.fixations.groupby("trial")[["x_px", "y_px"]].diff().dropna()
    amplitude_dva = np.hypot(step["x_px"], step["y_px"]) / data.screen.px_per_dva
    assert 2.0 < amplitude_dva.median() < 8.0


def test_views_have_the_size_of_the_card(data):
    for path, width, height in data.stimuli[["path", "width_px", "height_px"]].to_numpy()[::9]:
        with Image.open(path) as image:
            assert image.size == (width, height) == data.screen.size_wh_px


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match=r"cannot be written .*give a folder that can") as caught:
        load("simulated", root=tmp_path / "file")
    assert "\n" not in str(caught.value)
