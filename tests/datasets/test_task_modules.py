"""Data modules for search and captions: what a batch carries, in the frame in which it is served."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from gazekit import InputError
from gazekit.datasets import PartialDataWarning, load
from gazekit.datasets.datamodule import CaptionDataModule, ScanpathDataModule, SearchDataModule, StimulusItems
from gazekit.datasets.images import read_image
from tests.datasets import test_amazon_covers, test_interiors


@pytest.fixture
def interiors(tmp_path):
    folder = tmp_path / "interiors"
    test_interiors.write_release(folder, {(12, 1): test_interiors.BY_HAND})
    return folder


def module(kind, root, dataset="interiors", **kwargs):
    """A data module whose data are read, so that the warning about missing images is out of the way."""
    splits = {"train_split": "all", "val_split": "all", "test_split": "all"}
    made = kind(dataset=dataset, root=str(root), num_workers=0, **{**splits, **kwargs})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PartialDataWarning)
        assert len(made.data.trials)
    return made


def by_stimulus(made):
    return {batch.stimulus[0]: batch for batch in made.stimulus_batches("test")}


def test_search_batches_say_what_was_searched_for(interiors):
    batch = by_stimulus(module(SearchDataModule, interiors, size_wh_px=(512, 192)))["grayscale_2_kitchen"]
    task = batch.search
    row = batch.subject.index("s12")
    assert task.target == ("grayscale_2_kitchen_template_1",) * 2
    assert task.present.all()
    assert task.has_box.all()
    assert task.has_start.all()
    # The frame is half as wide and a quarter as high as the stimulus.
    assert task.box_px[row].tolist() == [229 / 2, 560 / 4, 301 / 2, 632 / 4]
    assert task.start_xy_px[row].tolist() == [618 / 2, 755 / 4]
    assert task.max_saccades[row] == 12
    assert batch.xy_px[row, 0].tolist() == pytest.approx([624.5 / 2, 759.9 / 4])
    # So is the picture of the target.
    assert task.template.shape == (1, 3, 18, 36)
    assert task.template_of_trial.tolist() == [0, 0]
    template = interiors / "templates" / "grayscale_2_kitchen_template_1.jpg"
    assert torch.equal(task.template[0], read_image(template, (36, 18)))
    assert np.isnan(batch.px_per_dva)  # the release does not state the geometry


def test_batches_of_several_stimuli_share_templates(interiors):
    made = module(SearchDataModule, interiors, size_wh_px=(64, 48), batch_size=3, template_size_wh_px=(20, 10))
    (batch,) = list(made.train_dataloader())
    assert batch.search.template.shape == (3, 3, 10, 20)
    assert len(batch.search.target) == len(batch) == 6
    for trial, row in enumerate(batch.stimulus_of_trial.tolist()):
        name = f"{batch.stimulus[row]}_template_1"
        assert batch.search.target[trial] == name
        shown = batch.search.template[batch.search.template_of_trial[trial]]
        assert torch.equal(shown, read_image(interiors / "templates" / f"{name}.jpg", (20, 10)))


def test_a_trial_without_a_target_is_no_search(interiors):
    items = module(SearchDataModule, interiors, size_wh_px=(64, 48)).items("test")
    trials = items.data.trials.copy()
    trials.loc[trials["subject"] == "s12", "target"] = None
    mixed = StimulusItems(replace(items.data, trials=trials), (64, 48), with_search=True)
    everything = [mixed[index] for index in range(len(mixed))]
    with pytest.raises(InputError, match=r"interiors: trial \d+ on stimulus '.*' has no target, so it is no search"):
        mixed.collate(everything)


def test_parts_of_a_batch_keep_their_task(interiors):
    made = module(SearchDataModule, interiors, size_wh_px=(64, 48), batch_size=3)
    (batch,) = list(made.train_dataloader())
    part = batch.trials(2, 5)
    assert part.search.target == batch.search.target[2:5]
    assert torch.equal(part.search.box_px, batch.search.box_px[2:5])
    moved = batch.to("cpu")
    assert moved.search.target == batch.search.target
    alone = batch.stimulus_alone(1)
    assert alone.search.target == (f"{batch.stimulus[1]}_template_1",)


def test_what_is_not_known_is_marked(tmp_path):
    folder = tmp_path / "amazon_covers"
    test_amazon_covers.write_release(folder, images=True)
    batch = by_stimulus(module(SearchDataModule, folder, "amazon_covers", size_wh_px=(28, 18)))["10"]
    assert batch.search.target == ("target_4", "target_4")
    assert batch.search.template is None
    assert batch.search.template_of_trial.tolist() == [-1, -1]
    assert batch.search.max_saccades.tolist() == [-1, -1]
    assert not batch.search.has_start.any()
    assert (batch.search.start_xy_px == 0).all()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PartialDataWarning)
        data = load("amazon_covers", root=folder)
    trials = data.trials.assign(
        target_present=pd.array([True, False, None] * 2 + [True] * (len(data.trials) - 6), dtype="boolean")
    )
    absent = trials["target_present"].eq(False).fillna(False).to_numpy(bool)
    box = ["target_left_px", "target_top_px", "target_right_px", "target_bottom_px"]
    trials.loc[absent, box] = np.nan
    items = StimulusItems(replace(data, trials=trials), decode=False, with_search=True)
    batches = [items.collate([items[i]]) for i in range(len(items))]
    numbers = torch.cat([b.trial for b in batches]).tolist()
    by_trial = dict(zip(numbers, torch.cat([b.search.present for b in batches]), strict=True))
    assert [bool(by_trial[trial]) for trial in data.trials["trial"]] == (~absent).tolist()
    boxed = torch.cat([b.search.has_box for b in batches])
    assert boxed.sum() == (~absent).sum()


def test_a_missing_image_is_said_before_any_work(tmp_path):
    folder = tmp_path / "amazon_covers"
    test_amazon_covers.write_release(folder)
    with pytest.raises(InputError, match=r"no image of stimulus '1' in this copy \(3 of 3 are missing\)"):
        module(SearchDataModule, folder, "amazon_covers").items("test")


def test_templates_of_several_sizes_need_a_size(interiors):
    made = module(SearchDataModule, interiors, size_wh_px=(64, 48), batch_size=3)
    Image.new("L", (50, 60)).save(interiors / "templates" / "grayscale_2_kitchen_template_1.jpg")
    with pytest.raises(InputError, match=r"target images of several sizes; give data\.template_size_wh_px"):
        list(made.train_dataloader())


def test_free_viewing_data_have_nothing_to_search_for(tiny_osie):
    with pytest.raises(InputError, match="osie: the trials have no target"):
        module(SearchDataModule, tiny_osie, "osie").items("test")
    with pytest.raises(InputError, match="osie: the trials have no caption"):
        module(CaptionDataModule, tiny_osie, "osie").items("test")


def test_captions_travel_with_their_trials(tiny_osie):
    options = {"batch_size": 2, "size_wh_px": (40, 30)}
    data = module(ScanpathDataModule, tiny_osie, "osie", **options).data
    captions = [f"caption {trial}" for trial in data.trials["trial"]]
    made = CaptionDataModule(
        dataset="osie",
        root=str(tiny_osie),
        num_workers=0,
        train_split="all",
        val_split="all",
        test_split="all",
        **options,
    )
    made._data = replace(data, trials=data.trials.assign(caption=captions))
    for batch in made.train_dataloader():
        assert batch.caption == tuple(f"caption {trial}" for trial in batch.trial.tolist())
        assert batch.trials(1, 3).caption == batch.caption[1:3]
        assert batch.search is None


def test_another_split_than_the_cards(interiors):
    rule = {"by": "subject", "val": ["s01"], "test": ["s12"]}
    made = module(SearchDataModule, interiors, split=rule, val_split="val", test_split="test")
    for stage, subject in (("val", "s01"), ("test", "s12")):
        batches = list(made.stimulus_batches(stage))
        assert len(batches) == 3
        assert {name for batch in batches for name in batch.subject} == {subject}


def test_cached_images_are_the_same_and_are_kept(interiors, monkeypatch):
    plain = by_stimulus(module(SearchDataModule, interiors, size_wh_px=(64, 48)))
    cached = module(SearchDataModule, interiors, size_wh_px=(64, 48), cache_images=True)
    first = by_stimulus(cached)
    monkeypatch.setattr("gazekit.datasets.image_cache.read_rgb", None)  # decoding again would fail
    second = by_stimulus(cached)
    for name, batch in plain.items():
        assert torch.equal(batch.image, first[name].image)
        assert torch.equal(batch.image, second[name].image)


def test_readers_options_reach_the_reader(interiors):
    with pytest.raises(InputError, match="dataset interiors has no options, found 'first_fixation'"):
        module(SearchDataModule, interiors, options={"first_fixation": "keep"})


def test_hyper_parameters_are_those_that_were_given(interiors):
    made = SearchDataModule(template_size_wh_px=(9, 9), dataset="interiors", batch_size=2)
    assert made.hparams["template_size_wh_px"] == (9, 9)
    assert made.hparams["batch_size"] == 2
    assert isinstance(made, ScanpathDataModule)
