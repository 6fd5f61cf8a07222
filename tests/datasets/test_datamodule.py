"""Batches of stimuli with their trials: content by hand, order, sharing among processes, cached features."""

from __future__ import annotations

import shutil
import warnings
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from gazekit import InputError
from gazekit.datasets import PartialDataWarning, load
from gazekit.datasets.datamodule import ScanpathDataModule, StimulusItems
from gazekit.datasets.features import FeatureCache, read_features
from tests.conftest import write_release


def trial(*xy_and_ms):
    x, y, ms = (np.array([column], float) for column in zip(*xy_and_ms, strict=True))
    return {"fix_x": x, "fix_y": y, "fix_duration": ms}


EDIT = {
    (0, 0): trial((10.5, 20.25, 100), (700.0, 500.0, 250)),
    (0, 1): trial((1.0, 2.0, 300)),
    (1, 0): trial((5.0, 6.0, 80), (7.0, 8.0, 90), (9.0, 10.0, 110)),
    (1, 1): trial((799.9, 599.9, 120)),
}


def load_tiny(root):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PartialDataWarning)
        return load("osie", root=root)


@pytest.fixture
def by_hand(tmp_path):
    """Two images, two subjects, seven fixations that are written above."""
    return load_tiny(write_release(tmp_path / "hand", n_images=2, n_subjects=2, edit=EDIT))


def module(root, **kwargs):
    """A data module whose data are read already, so that the warning about missing images is out of the way."""
    kwargs = {"train_split": "all", "val_split": "all", "test_split": "all", "num_workers": 0, **kwargs}
    made = ScanpathDataModule(root=str(root), **kwargs)
    made._data = load_tiny(root)
    return made


def within(made, world_size, rank):
    made.trainer = SimpleNamespace(world_size=world_size, global_rank=rank)
    return made


def test_content_of_a_batch(by_hand):
    items = StimulusItems(by_hand)
    batch = items.collate([items[0], items[1]])
    assert batch.stimulus == ("1001", "1002")
    assert batch.size_wh_px == (800, 600)
    assert batch.px_per_dva == 24
    assert batch.subject == ("s01", "s02", "s01", "s02")
    assert batch.trial.tolist() == [0, 1, 2, 3]
    assert batch.stimulus_of_trial.tolist() == [0, 0, 1, 1]
    assert batch.features is None
    assert batch.valid.tolist() == [[True, True, False], [True, False, False], [True] * 3, [True, False, False]]
    # Padding is zero, never NaN; positions are float32 of what the file holds.
    assert batch.xy_px.tolist() == [
        [[10.5, 20.25], [700.0, 500.0], [0.0, 0.0]],
        [[1.0, 2.0], [0.0, 0.0], [0.0, 0.0]],
        [[5.0, 6.0], [7.0, 8.0], [9.0, 10.0]],
        [np.float32([799.9, 599.9]).tolist(), [0.0, 0.0], [0.0, 0.0]],
    ]
    expected_s = [[0.1, 0.25, 0.0], [0.3, 0.0, 0.0], [0.08, 0.09, 0.11], [0.12, 0.0, 0.0]]
    np.testing.assert_allclose(batch.duration_s, expected_s, rtol=1e-6)  # float32
    assert batch.image.shape == (2, 3, 600, 800)
    for pixels, path in zip(batch.image, by_hand.stimuli["path"], strict=True):
        expected = np.asarray(Image.open(path), dtype=np.float32).transpose(2, 0, 1) / 255
        np.testing.assert_allclose(pixels, expected, rtol=1e-6)


def test_order_of_the_items_is_the_order_of_the_batch(by_hand):
    items = StimulusItems(by_hand, decode=False)
    batch = items.collate([items[1], items[0]])
    assert batch.image is None
    assert batch.stimulus == ("1002", "1001")
    assert batch.trial.tolist() == [2, 3, 0, 1]
    assert batch.stimulus_of_trial.tolist() == [0, 0, 1, 1]
    assert batch.xy_px[2, 0].tolist() == [10.5, 20.25]


def test_trials_and_fixations_may_come_in_any_row_order(by_hand):
    mixed = replace(
        by_hand,
        fixations=by_hand.fixations.iloc[::-1].reset_index(drop=True),
        trials=by_hand.trials.iloc[[3, 0, 2, 1]].reset_index(drop=True),
    )
    items = StimulusItems(mixed, decode=False)
    batch = items.collate([items[1]])
    assert batch.trial.tolist() == [3, 2]
    assert batch.xy_px[1].tolist() == [[5.0, 6.0], [7.0, 8.0], [9.0, 10.0]]
    assert batch.valid.sum(1).tolist() == [1, 3]


def test_a_frame_scales_image_fixations_and_degrees(by_hand):
    items = StimulusItems(by_hand, size_wh_px=(400, 150))
    batch = items.collate([items[0]])
    assert batch.size_wh_px == (400, 150)
    assert batch.image.shape == (1, 3, 150, 400)
    assert batch.px_per_dva == 12  # degrees follow the width
    assert batch.xy_px[0].tolist() == [[5.25, 5.0625], [350.0, 125.0]]
    # The same picture: a resized image keeps its mean color to within a grey level.
    whole = StimulusItems(by_hand)[0].image.mean((1, 2))
    np.testing.assert_allclose(batch.image[0].mean((1, 2)), whole, atol=1 / 255)


def test_a_stimulus_without_trials_has_none(by_hand):
    part = replace(
        by_hand,
        trials=by_hand.trials.query("stimulus == '1001'"),
        fixations=by_hand.fixations.query("stimulus == '1001'"),
    )
    items = StimulusItems(part, decode=False)
    batch = items.collate([items[0], items[1]])
    assert batch.stimulus == ("1001", "1002")
    assert batch.stimulus_of_trial.tolist() == [0, 0]


def test_a_trial_without_fixations_is_all_padding(by_hand):
    items = StimulusItems(replace(by_hand, fixations=by_hand.fixations.query("trial != 1")), decode=False)
    batch = items.collate([items[0]])
    assert batch.subject == ("s01", "s02")
    assert batch.valid.tolist() == [[True, True], [False, False]]


def test_mixed_sizes_need_a_frame(by_hand):
    stimuli = by_hand.stimuli.copy()
    stimuli.loc[1, ["width_px", "height_px"]] = [600, 800]
    mixed = replace(by_hand, stimuli=stimuli)
    items = StimulusItems(mixed, decode=False)
    with pytest.raises(InputError, match=r"several sizes in one batch.*600, 800.*800, 600.*data\.size_wh_px") as caught:
        items.collate([items[0], items[1]])
    assert "\n" not in str(caught.value)
    assert items.collate([items[1]]).size_wh_px == (600, 800)
    framed = StimulusItems(mixed, size_wh_px=(400, 300), decode=False)
    batch = framed.collate([framed[0], framed[1]])
    # Each stimulus is scaled by its own size.
    assert batch.xy_px[0, 1].tolist() == [350.0, 250.0]
    np.testing.assert_allclose(batch.xy_px[2, 2], [9.0 * 400 / 600, 10.0 * 300 / 800])


def test_truncated_body_of_an_image(by_hand):
    path = Path(by_hand.stimuli["path"][1])
    content = path.read_bytes()
    # The header, and so the size, is whole: only decoding finds out.
    path.write_bytes(content[: len(content) // 2])
    items = StimulusItems(by_hand)
    assert items[0].image is not None
    with pytest.raises(InputError, match=r"1002\.jpg: not a readable image .*truncated.*; replace the file") as caught:
        items[1]
    assert "\n" not in str(caught.value)


# Order


def order(made, epoch=0):
    loader = made.train_dataloader()
    loader.sampler.set_epoch(epoch)
    return [batch.stimulus for batch in loader]


@pytest.fixture
def root(tmp_path):
    return write_release(tmp_path / "data", n_images=9, n_subjects=2)


def test_order_depends_on_seed_and_epoch_alone(root):
    first = order(module(root, batch_size=2))
    assert first == order(module(root, batch_size=2))
    flat = [name for names in first for name in names]
    # Nine images in batches of two: one waits for another epoch, none comes twice.
    assert len(first) == 4
    assert len(set(flat)) == 8
    assert order(module(root, batch_size=2), epoch=1) != first
    assert order(module(root, batch_size=2, seed=1)) != first
    torch.manual_seed(5)  # not the global generator's business
    assert order(module(root, batch_size=2)) == first
    assert flat != sorted(flat)


def test_two_processes_see_what_one_sees(root):
    for epoch in (0, 3):
        alone = order(module(root, batch_size=4), epoch)
        parts = [order(within(module(root, batch_size=4), 2, rank), epoch) for rank in (0, 1)]
        assert [len(names) for names in parts[0]] == [2, 2]
        for step, names in enumerate(alone):
            assert sorted(parts[0][step] + parts[1][step]) == sorted(names)


@pytest.mark.parametrize("stage", ["val", "test", "predict"])
def test_validation_stimuli_come_once_and_in_order(root, stage):
    def served(made):
        return [batch.stimulus[0] for batch in getattr(made, f"{stage}_dataloader")()]

    alone = served(module(root, batch_size=4))
    assert alone == [str(1001 + i) for i in range(9)]
    # Nine among two processes: five and four, not ten with one repeated.
    parts = [served(within(module(root, batch_size=4), 2, rank)) for rank in (0, 1)]
    assert sorted(parts[0] + parts[1]) == alone


def test_stages_serve_their_splits(root):
    made = module(root, train_split="train+val", val_split="val", test_split="test", batch_size=1)
    split = made.data.stimuli.set_index("stimulus")["split"]
    trained = {name for names in order(made) for name in names}
    assert trained == set(split.index[split != "test"])
    assert {b.stimulus[0] for b in made.test_dataloader()} == set(split.index[split == "test"])
    assert [b.stimulus for b in made.stimulus_batches("val")] == [(name,) for name in split.index[split == "val"]]


def test_batches_must_be_fillable_and_shareable(root):
    with pytest.raises(InputError, match=r"9 stimuli in the training split 'all' do not fill one batch of 10; lower"):
        module(root, batch_size=10).train_dataloader()
    assert len(order(module(root, batch_size=9))) == 1
    with pytest.raises(InputError, match=r"batch_size 3 cannot be shared evenly by 2 processes"):
        within(module(root, batch_size=3), 2, 0).train_dataloader()


# Cached features

SPEC = {"backbone": "made_up", "weights": "0" * 64}


def cached(data, folder, spec=SPEC):
    cache = FeatureCache(spec, folder)
    for number, path in enumerate(data.stimuli["path"]):
        maps = (torch.full((2, 3, 4), float(number)), torch.full((1, 6, 8), -float(number)))
        cache.write(cache.path(path), maps)
    return cache


def test_cached_features_replace_images(by_hand, tmp_path):
    items = StimulusItems(by_hand, cache=cached(by_hand, tmp_path / "f"))
    # Not one image is opened any more.
    shutil.rmtree(tmp_path / "hand" / "osie" / "stimuli")
    batch = items.collate([items[1], items[0]])
    assert batch.image is None
    assert [f.shape for f in batch.features] == [(2, 2, 3, 4), (2, 1, 6, 8)]
    assert [f.dtype for f in batch.features] == [torch.float32, torch.float32]
    assert batch.features[0][:, 0, 0, 0].tolist() == [1.0, 0.0]
    assert batch.features[1][:, 0, 0, 0].tolist() == [-1.0, 0.0]


def test_features_keep_half_precision_and_order(tmp_path):
    rng = torch.Generator().manual_seed(0)
    # More than ten: names sorted as text would put the eleventh second.
    maps = tuple(torch.randn(1, 2, 3, generator=rng) for _ in range(12))
    cache = FeatureCache(SPEC, tmp_path)
    cache.write(tmp_path / "x.npz", maps)
    for got, wanted in zip(read_features(tmp_path / "x.npz"), maps, strict=True):
        assert torch.equal(got, wanted.half())


def test_features_are_found_by_content(by_hand, tmp_path):
    cache = cached(by_hand, tmp_path / "f")
    image = by_hand.stimuli["path"][0]
    renamed = tmp_path / "another_name.jpg"
    shutil.copy(image, renamed)
    assert cache.path(renamed) == cache.path(image)
    assert cache.path(renamed).exists()
    with renamed.open("ab") as file:
        file.write(b"\0")
    assert not cache.path(renamed).exists()


def test_features_of_another_extraction_are_not_taken(by_hand, tmp_path):
    image = by_hand.stimuli["path"][0]
    cache = cached(by_hand, tmp_path / "f")
    same = FeatureCache(dict(reversed(SPEC.items())), tmp_path / "f")
    assert same.path(image).exists()  # the order of keys says nothing
    for key in SPEC:
        other = FeatureCache({**SPEC, key: "changed"}, tmp_path / "f")
        assert other.folder != cache.folder
        assert not other.path(image).exists()


def test_a_write_that_fails_leaves_nothing(tmp_path):
    cache = FeatureCache(SPEC, tmp_path)
    with pytest.raises(AttributeError):
        cache.write(cache.folder / "x.npz", ("not a tensor",))
    assert not list(cache.folder.glob("*x.npz*"))


@pytest.mark.parametrize("damage", ["empty", "cut", "text", "npy", "missing"])
def test_damaged_feature_file(tmp_path, damage):
    cache, path = FeatureCache(SPEC, tmp_path), tmp_path / "x.npz"
    cache.write(path, (torch.randn(4, 8, 8), torch.randn(4, 4, 4)))
    content = path.read_bytes()
    if damage == "npy":
        with path.open("wb") as file:
            np.save(file, np.zeros(3))
    elif damage == "missing":
        path.unlink()
    else:
        path.write_bytes({"empty": b"", "cut": content[: len(content) // 2], "text": b"not features"}[damage])
    with pytest.raises(InputError, match=r"x\.npz: damaged feature cache \(.*\); delete the file and run") as caught:
        read_features(path)
    assert "\n" not in str(caught.value)


def test_a_flipped_byte_in_a_feature_file(tmp_path):
    cache, path = FeatureCache(SPEC, tmp_path), tmp_path / "x.npz"
    cache.write(path, (torch.randn(4, 8, 8),))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"x\.npz: damaged feature cache"):
        read_features(path)


def test_rounding_does_not_carry_a_fixation_over_the_edge(tmp_path):
    """800 minus 1e-8 is inside in double precision and 800.0 in single."""
    edge = {
        "fix_x": np.array([[5.0, 800.0 - 1e-8]]),
        "fix_y": np.array([[600.0 - 1e-8, 5.0]]),
        "fix_duration": np.array([[200, 200]], np.uint16),
    }
    with pytest.warns(PartialDataWarning):
        data = load("osie", root=write_release(tmp_path / "edge", n_images=1, edit={(0, 0): edge}))
    for frame in (None, (400, 300)):
        items = StimulusItems(data, size_wh_px=frame)
        batch = items.collate([items[0]])
        width, height = batch.size_wh_px
        assert batch.xy_px[0, 0, 1] < height
        assert batch.xy_px[0, 1, 0] < width
        assert batch.xy_px[0, 0, 1].floor() == height - 1
