"""Search among objects: generated displays, places of boxes, batches with objects, splits, trials left out."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from gazekit import InputError
from gazekit.datasets import PartialDataWarning, load
from gazekit.datasets.datamodule import ObjectDataModule, StimulusItems
from gazekit.datasets.from_frame import from_dataframe
from gazekit.datasets.grid_search import grid_search
from gazekit.datasets.objects import grid_of_objects, object_of_fixation, without_long_trials
from gazekit.metrics import object_behavior
from gazekit.proposals import place_of_boxes
from tests.conftest import REAL_DATA


def test_readers_read_to_the_target():
    data = grid_search(12, 2, columns=4, rows=3, seed=3)
    number = object_of_fixation(data.fixations, data.objects)
    for trial, part in data.fixations.assign(number=number).groupby("trial"):
        target = int(data.trials.set_index("trial").loc[trial, "target"].removeprefix("object_"))
        assert part["number"].tolist() == list(range(target + 1))
    assert data.card.simulated
    # The same on every call; another seed, other targets.
    assert data.fingerprint() == grid_search(12, 2, columns=4, rows=3, seed=3).fingerprint()
    assert data.fingerprint() != grid_search(12, 2, columns=4, rows=3, seed=4).fingerprint()


def test_readers_who_slip_end_on_the_target_all_the_same():
    data = grid_search(30, 2, columns=4, rows=3, slip=0.3, seed=3)
    number = object_of_fixation(data.fixations, data.objects)
    numbered = data.fixations.assign(number=number)
    last = numbered.groupby("trial")["number"].last()
    target = data.trials.set_index("trial")["target"].str.removeprefix("object_").astype(int)
    assert (last == target).all()
    step = numbered.groupby("trial")["number"].diff().dropna()
    # One in twelve slips goes to the next object; 11 in 12 of 30 % do not.
    share = float((~step.isin([1.0, -11.0])).mean())
    assert share == pytest.approx(0.275, abs=5 * np.sqrt(0.2 / len(step)))


@pytest.mark.parametrize("wrong", [{"slip": 1.0}, {"slip": -0.1}, {"columns": 0}, {"n_displays": 0}])
def test_generated_displays_refuse(wrong):
    with pytest.raises(InputError, match="grid_search: slip"):
        grid_search(**wrong)


def test_places_of_a_grid_and_of_crooked_rows():
    data = grid_search(1, 1, columns=5, rows=3)
    boxes = data.objects[["left_px", "top_px", "right_px", "bottom_px"]].to_numpy()
    assert place_of_boxes(boxes).tolist() == [[r, c] for r in range(3) for c in range(5)]
    rng = np.random.default_rng(0)
    # Shelves are not laid out to the pixel; order does not matter.
    order = rng.permutation(len(boxes))
    crooked = boxes + rng.uniform(-8, 8, boxes.shape)
    assert place_of_boxes(crooked[order]).tolist() == place_of_boxes(boxes)[order].tolist()


def test_batches_hold_objects_in_their_frame(tmp_path):
    grid_search(8, 2, columns=4, rows=3, size_wh_px=(160, 105)).to_parquet(tmp_path)
    made = ObjectDataModule(dataset=str(tmp_path), size_wh_px=(80, 210), batch_size=2, num_workers=0)
    batch = next(iter(made.train_dataloader()))
    assert batch.image is None
    assert batch.objects.box_px.shape == (2, 12, 4)
    assert batch.objects.box_px[0, 5].tolist() == pytest.approx([20.0, 70.0, 40.0, 140.0])
    assert batch.objects.place[1, 7].tolist() == [1, 3]
    assert batch.objects.there.all()
    assert batch.search.has_box.all()
    # Objects go with their stimulus.
    alone = batch.to("cpu").stimulus_alone(1)
    assert torch.equal(alone.objects.box_px, batch.objects.box_px[1:])
    # The object under each fixation is that of the dataset's own rule, whatever the frame.
    data = made.data
    number = object_of_fixation(data.fixations, data.objects)
    of_trial = data.fixations.assign(number=number).groupby("trial")["number"].apply(list)
    under = batch.objects.under(batch.xy_px, batch.stimulus_of_trial)
    for row, trial in enumerate(batch.trial.tolist()):
        assert under[row][batch.valid[row]].tolist() == of_trial[trial]


def test_more_processes_than_displays_are_refused_by_all_of_them(tmp_path, monkeypatch):
    grid_search(8, 1).to_parquet(tmp_path)
    made = ObjectDataModule(dataset=str(tmp_path), batch_size=4, num_workers=0)
    for rank in range(2):
        monkeypatch.setattr(made, "_world", lambda rank=rank: (2, rank))
        with pytest.raises(InputError, match=r"1 stimuli in the split 'val' cannot be shared by 2 processes"):
            made.val_dataloader()
        assert len(made.test_dataloader()) == 1


def test_cells_stand_for_objects(tmp_path):
    data = replace(grid_search(6, 1), objects=None)
    data.to_parquet(tmp_path)
    with pytest.raises(InputError, match=r"no boxes of objects; give equal cells with data\.cells"):
        ObjectDataModule(dataset=str(tmp_path)).items("train")
    items = ObjectDataModule(dataset=str(tmp_path), cells=(7, 5)).items("train")
    assert items.collate([items[0]]).objects.box_px.shape == (1, 35, 4)


def test_stimuli_with_fewer_objects_are_padded():
    data = grid_search(2, 1, columns=4, rows=3)
    first = data.objects["stimulus"] == "display_000"
    items = StimulusItems(
        replace(data, objects=data.objects[~first | (data.objects["object"] < 7)]), decode=False, with_objects=True
    )
    batch = items.collate([items[0], items[1]])
    assert batch.objects.there.sum(1).tolist() == [7, 12]
    far = torch.full((2, 1, 2), 1e6)
    assert batch.objects.under(far, torch.tensor([0, 1]))[:, 0].tolist()[0] < 7


def test_the_published_split_is_over_trials(tmp_path):
    grid_search(20, 5).to_parquet(tmp_path)
    rule = {"by": "trial", "seed": 0, "val": 0.1, "test": 0.1}
    made = ObjectDataModule(dataset=str(tmp_path), split=rule)
    trials = [set(torch.cat([b.trial for b in made.stimulus_batches(s)]).tolist()) for s in ("train", "val", "test")]
    assert sum(map(len, trials)) == len(set().union(*trials)) == 100
    stimuli = [{b.stimulus[0] for b in made.stimulus_batches(s)} for s in ("train", "test")]
    assert stimuli[0] & stimuli[1], "the same display is in training and test, as published"


def test_long_trials_are_left_out():
    data = grid_search(40, 2, seed=1)
    length = data.fixations.groupby("trial").size()
    kept = without_long_trials(data, 1.5)
    expected = length[(length - length.mean()).abs() <= 1.5 * length.std(ddof=0)]
    assert 0 < len(expected) < len(length)
    assert sorted(kept.trials["trial"]) == sorted(expected.index)
    with pytest.raises(InputError, match="expected more than 0"):
        without_long_trials(data, 0)


def looks(lengths):
    """A trial of each length."""
    rows = [(f"s{i}", "a", 1.0 + k, 2.0) for i, n in enumerate(lengths) for k in range(n)]
    table = pd.DataFrame(rows, columns=["subject", "stimulus", "x_px", "y_px"])
    stimuli = pd.DataFrame({"stimulus": ["a"], "width_px": 100, "height_px": 80})
    return from_dataframe(table, name="looks", stimuli=stimuli)


@pytest.mark.parametrize(
    ("lengths", "n_sd", "kept"),
    [
        # Of equal lengths, or one, none is far from the mean.
        ([3, 3, 3, 3], 3.0, [3, 3, 3, 3]), ([5], 3.0, [5]),
        # Mean 3 and SD 3.46: 9 is 1.73 SDs away; by the SD of a sample, 4, it would be 1.5.
        ([1, 1, 1, 9], 1.6, [1, 1, 1]), ([1, 1, 1, 9], 1.8, [1, 1, 1, 9]),
        # Short ones are left out, too.
        ([1, 9, 9, 9], 1.6, [9, 9, 9]),
        # Mean 4, SD 2: those exactly one SD away stay.
        ([2, 6, 2, 6], 1.0, [2, 6, 2, 6]),
    ],
)  # fmt: skip
def test_which_trials_are_long(lengths, n_sd, kept):
    left = without_long_trials(looks(lengths), n_sd)
    assert left.fixations.groupby("trial").size().tolist() == kept
    assert len(left.trials) == len(kept)


@pytest.mark.parametrize(
    ("n", "expected"), [(1, (1, 0, 0)), (2, (2, 0, 0)), (3, (1, 1, 1)), (8, (5, 1, 2)), (30, (21, 3, 6))]
)
def test_every_part_has_displays(n, expected):
    data = grid_search(n, 2)
    parts = data.stimuli["split"].value_counts()
    assert tuple(int(parts.get(name, 0)) for name in ("train", "val", "test")) == expected
    assert (data.trials["split"] == data.trials["stimulus"].map(data.stimuli.set_index("stimulus")["split"])).all()


@pytest.mark.skipif(
    not (REAL_DATA / "amazon_covers").is_dir(), reason="Amazon covers are not on this machine; set GAZEKIT_DATA to test"
)
def test_people_on_the_filtered_covers():
    """80 collages, as the specification of OAT counts them: 468 trials within 3 SDs, at most 58 fixations."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PartialDataWarning)
        whole = load("amazon_covers", root=REAL_DATA)
    if len(whole.stimuli) != 80:
        pytest.skip(f"{len(whole.stimuli)} collages are here; the numbers are of the 80 distributed ones")
    data = without_long_trials(whole, 3.0)
    length = data.fixations.groupby("trial").size()
    assert (len(length), int(length.max())) == (468, 58)
    assert length.mean() == pytest.approx(13.387, abs=5e-4)
    items = StimulusItems(
        replace(data, objects=grid_of_objects(data.stimuli, 14, 6)), decode=False, with_search=True, with_objects=True
    )
    got = []
    for i in range(len(items)):
        batch = items.collate([items[i]])
        looked = batch.objects.under(batch.xy_px, batch.stimulus_of_trial).masked_fill(~batch.valid, 0)
        middle = (batch.search.box_px[:, None, :2] + batch.search.box_px[:, None, 2:]) / 2
        target = batch.objects.under(middle, batch.stimulus_of_trial)[:, 0]
        got.append(torch.stack(list(object_behavior(looked, batch.valid, target)), 1))
    means = torch.cat(got).mean(0).tolist()
    # Printed to four decimals.
    assert means == pytest.approx([0.8483, 13.387, 0.7830, 0.1708, 0.0463], abs=5.1e-4)
    for value, expected in zip(means, [0.8483, None, 0.7830, 0.1708, 0.0463], strict=True):
        assert expected is None or value == pytest.approx(expected, abs=5.1e-5)
