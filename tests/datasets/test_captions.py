"""Exchanged captions: who gets whose, that nobody keeps their own, and that nothing else changes."""

import pandas as pd
import pytest

from gazekit import InputError
from gazekit.datasets import load
from gazekit.datasets.captions import CONDITIONS, with_captions_of
from gazekit.datasets.datamodule import CaptionDataModule


@pytest.fixture
def told(tmp_path, tiny_osie):
    data = load("osie", root=tiny_osie)
    captions = [f"{s} by {who}" for s, who in zip(data.trials["stimulus"], data.trials["subject"], strict=True)]
    return data.__class__(**{**data.__dict__, "trials": data.trials.assign(caption=captions)})


pytestmark = pytest.mark.filterwarnings("ignore:osie. 6 of 700")


def parts(data):
    split = data.trials["caption"].str.split(" by ", expand=True)
    return pd.DataFrame({"stimulus": data.trials["stimulus"], "subject": data.trials["subject"]}), split


def test_own_captions_stay(told):
    assert with_captions_of(told, "subject").trials.equals(told.trials)


def test_another_subject_of_the_same_stimulus(told):
    trial, said = parts(with_captions_of(told, "other_subject"))
    assert (said[0] == trial["stimulus"]).all()
    assert (said[1] != trial["subject"]).all()
    # A circle: everybody's caption is used once.
    assert not said.duplicated().any()


def test_another_stimulus(told):
    trial, said = parts(with_captions_of(told, "other_stimulus"))
    assert (said[0] != trial["stimulus"]).all()
    pairs = set(zip(trial["stimulus"], said[0], strict=True))
    assert len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs}) == trial["stimulus"].nunique()


def test_no_caption(told):
    assert (with_captions_of(told, "none").trials["caption"] == "").all()


@pytest.mark.parametrize("condition", CONDITIONS[1:3])
def test_the_exchange_is_seeded_and_changes_nothing_else(told, condition):
    first, again, other = (with_captions_of(told, condition, seed) for seed in (0, 0, 1))
    assert first.trials.equals(again.trials)
    assert not first.trials.equals(other.trials)
    assert first.trials.drop(columns="caption").equals(told.trials.drop(columns="caption"))
    assert first.fixations is told.fixations


def test_a_lone_caption_has_no_other(told):
    alone = told.trials.copy()
    alone.loc[alone["subject"] != alone["subject"].iloc[0], "caption"] = ""
    data = told.__class__(**{**told.__dict__, "trials": alone})
    assert (with_captions_of(data, "other_subject").trials["caption"] == "").all()
    only = alone.copy()
    only.loc[only["stimulus"] != only["stimulus"].iloc[0], "caption"] = ""
    lone = told.__class__(**{**told.__dict__, "trials": only})
    with pytest.raises(InputError, match="at least 2 stimuli with captions, found 1"):
        with_captions_of(lone, "other_stimulus")


def test_what_cannot_be(told, tiny_osie):
    with pytest.raises(InputError, match=r"no caption condition named 'other_subjekt'; did you mean 'other_subject'"):
        with_captions_of(told, "other_subjekt")
    with pytest.raises(InputError, match="the trials have no caption"):
        with_captions_of(load("osie", root=tiny_osie), "none")
    with pytest.raises(InputError, match="the trials have no caption"):
        CaptionDataModule(captions_of="none", dataset="osie", root=str(tiny_osie)).items("test")
