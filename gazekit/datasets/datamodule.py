"""The Lightning DataModules: stimuli with all their trials, decoded in workers, in batches of one size.

One for free viewing, one for target search, one for search among objects and one for captioned
viewing. They differ in what a batch carries beside the scanpaths; splits, order and sharing among
processes are the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytorch_lightning as L
import torch
from numpy.typing import NDArray
from pytorch_lightning.overrides.distributed import UnrepeatedDistributedSampler
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler, Sampler

from gazekit.batch import ObjectLayout, SearchTask, TrialBatch
from gazekit.datasets import load
from gazekit.datasets.captions import with_captions_of
from gazekit.datasets.dataset import GazeDataset
from gazekit.datasets.features import FeatureCache, read_features
from gazekit.datasets.image_cache import ImageCache
from gazekit.datasets.images import read_image, to_tensor
from gazekit.datasets.objects import grid_of_objects, layout_of_objects, read_boxes, without_long_trials
from gazekit.datasets.split import check_split_name
from gazekit.errors import InputError
from gazekit.proposals import Proposals, layout_of_boxes
from gazekit.tables import TARGET_BOX


class _Item(NamedTuple):
    """One stimulus with its trials; arrays are padded to the longest of them."""

    stimulus: str
    image: Tensor | None
    features: tuple[Tensor, ...] | None
    subject: tuple[str, ...]
    trial: NDArray[np.int64]
    xy_px: NDArray[np.float32]
    duration_s: NDArray[np.float32]
    valid: NDArray[np.bool_]


class StimulusItems(Dataset[_Item]):
    """The stimuli of a dataset, each with its trials; the image is read when an item is asked for.

    Args:
        data: What to serve.
        size_wh_px: Frame of image and fixations; None is each stimulus's own size.
        cache: Serve cached features in place of images, for stimuli that are all in it.
        decode: Read images at all; False serves the trials alone.
        images: Keep decoded images there.
        with_search: Serve what was searched for, as :class:`~gazekit.batch.SearchTask`.
        with_captions: Serve what the subjects wrote.
        template_size_wh_px: Size of the target images; None is their own, scaled as the stimuli are; it must be one.
        with_objects: Serve the boxes of objects, as :class:`~gazekit.batch.ObjectLayout`.
        proposals: Serve objects proposed on each picture instead of the dataset's.

    Raises:
        InputError: The dataset has no targets, objects or captions to serve, or an image is not in this copy.

    """

    def __init__(
        self,
        data: GazeDataset,
        size_wh_px: tuple[int, int] | None = None,
        cache: FeatureCache | None = None,
        decode: bool = True,
        images: ImageCache | None = None,
        with_search: bool = False,
        with_captions: bool = False,
        template_size_wh_px: tuple[int, int] | None = None,
        with_objects: bool = False,
        proposals: Proposals | None = None,
    ) -> None:
        # Boxes proposed on a stimulus, in its own pixels; found when they are first asked for.
        self._proposals, self._proposed = proposals, dict[str, NDArray[np.float64]]()
        self.data, self.decode, self.images = data, decode, images
        self.with_search, self.with_captions = with_search, with_captions
        self.template_size_wh_px = template_size_wh_px
        for wanted, column in ((with_search, "target"), (with_captions, "caption")):
            if wanted and column not in data.trials:
                raise InputError(f"{data.name}: the trials have no {column}; use a data module for another task")
        if with_objects and data.objects is None and proposals is None:
            raise InputError(
                f"{data.name}: there are no boxes of objects; give equal cells with data.cells: [columns, rows], or "
                f"data.proposals: superpixels, or a file of boxes"
            )
        boxes = data.objects if with_objects and data.objects is not None else None
        self._objects = None if boxes is None else dict(iter(boxes.groupby("stimulus", sort=False)))
        self._trial_table = data.trials.set_index("trial")
        self.size_wh_px = size_wh_px
        self.names = data.stimuli["stimulus"].tolist()
        self.row_of = {name: row for row, name in enumerate(self.names)}
        self.paths = data.stimuli["path"].tolist()
        if (decode or cache is not None or proposals is not None) and "" in self.paths:
            first = self.names[self.paths.index("")]
            raise InputError(
                f"{data.name}: no image of stimulus {first!r} in this copy ({self.paths.count('')} of "
                f"{len(self.paths)} are missing); 'gazekit data fetch {data.name}' says where images are to be had"
            )
        self.own_sizes = list(zip(data.stimuli["width_px"], data.stimuli["height_px"], strict=True))
        self.feature_paths = None if cache is None else [cache.path(path) for path in self.paths]
        by_stimulus = {str(name): part for name, part in data.fixations.groupby("stimulus", sort=False)}
        empty = data.fixations.iloc[:0]
        listed = {str(name): part for name, part in data.trials.groupby("stimulus", sort=False)}
        no_trials = data.trials.iloc[:0]
        self._trials = [
            _padded(listed.get(name, no_trials), by_stimulus.get(name, empty), self._scale(i), self.frame_wh_px(i))
            for i, name in enumerate(self.names)
        ]

    def _scale(self, index: int) -> tuple[float, float]:
        if self.size_wh_px is None:
            return 1.0, 1.0
        width, height = self.own_sizes[index]
        return self.size_wh_px[0] / width, self.size_wh_px[1] / height

    def frame_wh_px(self, index: int) -> tuple[int, int]:
        """Width and height of the frame in which item `index` is served."""
        width, height = self.size_wh_px or self.own_sizes[index]
        return int(width), int(height)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> _Item:
        image, features = None, None
        if self.feature_paths is not None:
            features = read_features(self.feature_paths[index])
        elif self.decode:
            image = self._image(self.paths[index], self.frame_wh_px(index))
        return _Item(self.names[index], image, features, *self._trials[index])

    def _image(self, path: str, size_wh_px: tuple[int, int] | None) -> Tensor:
        if self.images is None or size_wh_px is None:
            return read_image(path, size_wh_px)
        return to_tensor(self.images.read(path, size_wh_px))

    def collate(self, items: list[_Item]) -> TrialBatch:
        """Stack items into one batch; trials of all of them follow each other."""
        frames = {self.frame_wh_px(self.row_of[item.stimulus]) for item in items}
        if len(frames) > 1:
            raise InputError(
                f"{self.data.name}: stimuli of several sizes in one batch, {sorted(frames)[:3]} px; "
                "give one frame with data.size_wh_px, or data.batch_size 1"
            )
        size = frames.pop()
        longest = max(item.valid.shape[1] for item in items)
        features = [item.features for item in items if item.features is not None]
        images = [item.image for item in items if item.image is not None]
        # A frame of another size than the stimulus changes pixels per degree with it.
        scale = size[0] / self.own_sizes[self.row_of[items[0].stimulus]][0]
        screen = self.data.card.screen
        trial = np.concatenate([item.trial for item in items])
        rows = self._trial_table.loc[trial] if self.with_search or self.with_captions else None
        return TrialBatch(
            stimulus=tuple(item.stimulus for item in items),
            size_wh_px=size,
            px_per_dva=float("nan") if screen is None else screen.px_per_dva * scale,
            image=torch.stack(images) if images else None,
            features=tuple(torch.stack(maps).float() for maps in zip(*features, strict=True)) if features else None,
            stimulus_of_trial=torch.repeat_interleave(
                torch.arange(len(items)), torch.tensor([len(item.trial) for item in items])
            ),
            subject=tuple(name for item in items for name in item.subject),
            trial=torch.from_numpy(trial),
            xy_px=_stack([item.xy_px for item in items], longest),
            duration_s=_stack([item.duration_s for item in items], longest),
            valid=_stack([item.valid for item in items], longest),
            search=self._search(rows) if self.with_search and rows is not None else None,
            caption=tuple(rows["caption"]) if self.with_captions and rows is not None else None,
            objects=self._layout([item.stimulus for item in items]),
        )

    def _template(self, path: str, scale: np.ndarray) -> Tensor:
        """The picture of a target, as much smaller or larger as the stimulus is served."""
        image = self._image(path, self.template_size_wh_px)
        if self.template_size_wh_px is not None or (scale == 1.0).all():
            return image
        height, width = image.shape[-2:]
        return self._image(path, (max(1, round(width * scale[0])), max(1, round(height * scale[1]))))

    def _layout(self, names: list[str]) -> ObjectLayout | None:
        """The objects on these stimuli, in the frame in which they are served."""
        if self._proposals is not None:
            for name in set(names) - set(self._proposed):
                # In the stimulus's own frame: the objects do not depend on the one in which it is served.
                picture = read_image(self.paths[self.row_of[name]], None)
                self._proposed[name] = self._proposals.superpixels(picture)
            scales = [self._scale(self.row_of[name]) for name in names]
            return layout_of_boxes([self._proposed[name] for name in names], scales)
        if self._objects is None:
            return None
        if missing := [name for name in names if name not in self._objects]:
            raise InputError(f"{self.data.name}: no objects on stimulus {missing[0]!r}")
        scales = [self._scale(self.row_of[name]) for name in names]
        return layout_of_objects([self._objects[name] for name in names], scales)

    def _search(self, rows: pd.DataFrame) -> SearchTask:
        """What the trials of these rows of the trial table looked for, in the frame in which they are served."""
        if rows["target"].isna().any():
            trial = int(rows.index[rows["target"].isna()][0])
            raise InputError(
                f"{self.data.name}: trial {trial} on stimulus {rows.loc[trial, 'stimulus']!r} has no target, so it is "
                f"no search; leave such trials out, or use a data module for free viewing"
            )
        scale = np.array([self._scale(self.row_of[name]) for name in rows["stimulus"]])
        box, has_box = _numbers(rows, TARGET_BOX)
        start, has_start = _numbers(rows, ("start_x_px", "start_y_px"))
        limit = rows["max_saccades"] if "max_saccades" in rows else pd.Series(-1, index=rows.index)
        present = rows["target_present"].fillna(True) if "target_present" in rows else pd.Series(True, index=rows.index)
        paths = rows["target_path"].tolist() if "target_path" in rows else [""] * len(rows)
        distinct = list(dict.fromkeys(path for path in paths if path)) if self.decode else []
        first_use = {path: at for at, path in reversed(list(enumerate(paths)))}
        templates = [self._template(path, scale[first_use[path]]) for path in distinct]
        if len({template.shape for template in templates}) > 1:
            raise InputError(f"{self.data.name}: target images of several sizes; give data.template_size_wh_px")
        row_of = {path: row for row, path in enumerate(distinct)}
        return SearchTask(
            target=tuple(rows["target"]),
            present=torch.tensor(present.to_numpy(bool)),
            box_px=torch.from_numpy((box * np.tile(scale, 2)).astype(np.float32)),
            has_box=torch.from_numpy(has_box),
            start_xy_px=torch.from_numpy((start * scale).astype(np.float32)),
            has_start=torch.from_numpy(has_start),
            max_saccades=torch.tensor(limit.fillna(-1).to_numpy(np.int64)),
            template=torch.stack(templates) if templates else None,
            template_of_trial=torch.tensor([row_of.get(path, -1) for path in paths]),
        )


def _numbers(rows: pd.DataFrame, columns: tuple[str, ...]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """(n, columns) values with 0 for what is not known, and (n,) which rows are known."""
    if any(column not in rows for column in columns):
        return np.zeros((len(rows), len(columns))), np.zeros(len(rows), bool)
    values = rows[list(columns)].to_numpy(float)
    known = np.isfinite(values).all(1)
    return np.where(known[:, None], values, 0.0), known


def _stack(parts: list[Any], longest: int) -> Tensor:
    padded = [np.pad(p, [(0, 0), (0, longest - p.shape[1])] + [(0, 0)] * (p.ndim - 2)) for p in parts]
    return torch.from_numpy(np.concatenate(padded))


def _padded(trials: Any, fixations: Any, scale: tuple[float, float], frame_wh_px: tuple[int, int]) -> tuple[Any, ...]:
    """(subjects, trial numbers, xy_px, duration_s, valid) of one stimulus."""
    numbers = trials["trial"].to_numpy(np.int64)
    row = {trial: i for i, trial in enumerate(numbers.tolist())}
    lengths = fixations.groupby("trial").size() if len(fixations) else None
    longest = 1 if lengths is None else int(lengths.max())
    xy = np.zeros((len(numbers), longest, 2), np.float32)
    duration = np.zeros((len(numbers), longest), np.float32)
    valid = np.zeros((len(numbers), longest), bool)
    at = fixations["trial"].map(row).to_numpy(np.int64), fixations["fixation"].to_numpy(np.int64)
    exact = fixations[["x_px", "y_px"]].to_numpy() * np.asarray(scale)
    last = np.nextafter(np.asarray(frame_wh_px, np.float32), np.float32(0.0))
    # Rounding to single precision must not carry a fixation over the edge; what lies outside stays outside.
    xy[at] = np.where(exact < np.asarray(frame_wh_px), np.minimum(exact.astype(np.float32), last), exact)
    duration[at] = fixations["duration_s"].to_numpy()
    valid[at] = True
    return tuple(trials["subject"]), numbers, xy, duration, valid


class ScanpathDataModule(L.LightningDataModule):
    """Free viewing for training and testing: batches of stimuli, each with all its trials.

    Args:
        dataset: A shipped card, or the path of a card or a folder of your own.
        root: Data folder; None is ``$GAZEKIT_DATA``, then the cache.
        batch_size: Stimuli per optimiser step, over all processes together.
        train_split: Split to fit on; several joined by ``+``, or ``all``.
        val_split: Split for validation.
        test_split: Split for ``test`` and ``predict``.
        size_wh_px: Frame to which images and fixations are scaled; None keeps the stimulus's size.
        num_workers: Processes that decode images; cached features are read without any.
        seed: Seed of the order in which training images come.
        strict: Refuse a partial copy of the data.
        options: Options of the dataset's reader, e.g. ``{first_fixation: keep}`` for MIT1003.
        split: Rule that replaces the card's, e.g. ``{by: subject, seed: 1, val: 0.1, test: 0.2}``.
        cache_images: Keep decoded images on disk, in the frame in which they are served.
        predict_batch_size: Stimuli that ``predict`` takes at once, per process; more than one need one frame.

    Distributed runs see the same images per step as a single process does: each process takes
    every world-size-th of the same order, and no image is repeated to fill up validation.

    """

    def __init__(
        self,
        dataset: str = "osie",
        root: str | None = None,
        batch_size: int = 8,
        train_split: str = "train",
        val_split: str = "val",
        test_split: str = "test",
        size_wh_px: tuple[int, int] | None = None,
        num_workers: int = 2,
        seed: int = 0,
        strict: bool = False,
        options: dict[str, Any] | None = None,
        split: dict[str, Any] | None = None,
        cache_images: bool = False,
        predict_batch_size: int = 1,
    ) -> None:
        super().__init__()
        # Not to be logged: Lightning refuses a model that has an argument of the same name and another value.
        self.save_hyperparameters(logger=False)
        self.options, self.split_rule = dict(options or {}), split
        self.image_cache = ImageCache() if cache_images else None
        self.dataset, self.root, self.batch_size, self.strict = dataset, root, batch_size, strict
        self.splits = {"train": train_split, "val": val_split, "test": test_split}
        self.size_wh_px, self.num_workers, self.seed = size_wh_px, num_workers, seed
        self.feature_cache: FeatureCache | None = None
        self._data: GazeDataset | None = None
        # Stimuli that an interrupted prediction has done already.
        self.finished: list[str] = []
        self.predict_batch_size = predict_batch_size

    @property
    def data(self) -> GazeDataset:
        """The whole dataset, read once."""
        if self._data is None:
            root = Path(self.root) if self.root else None
            data = load(self.dataset, root=root, strict=self.strict, **self.options)
            self._data = data if self.split_rule is None else data.resplit(self.split_rule)
        return self._data

    @property
    def served(self) -> GazeDataset:
        """What some stage serves; a rule that divides trials may leave stimuli without any of them."""
        wanted = set().union(*map(check_split_name, self.splits.values()))
        by_trial = (self.data.stimuli["split"] == "").all() and "all" not in self.splits.values()
        if not by_trial:
            return self.data
        return self.data.subset(trials=self.data.trials.loc[self.data.trials["split"].isin(wanted), "trial"].tolist())

    def items(self, stage: str, skip: list[str] | None = None) -> StimulusItems:
        """The stimuli of ``train``, ``val`` or ``test``, from cached features where there are any.

        Those of `skip` are left out; where that would leave none, the last one is served all the same.
        """
        data = self.data.split(self.splits[stage])
        if skip:
            names = data.stimuli["stimulus"].tolist()
            data = data.subset(stimuli=[name for name in names if name not in set(skip)] or names[-1:])
        return StimulusItems(
            data,
            self.size_wh_px,
            self.feature_cache,
            images=self.image_cache,
            **self._serves(),
        )

    def _serves(self) -> Mapping[str, Any]:
        """What a batch carries beside the scanpaths; arguments of :class:`StimulusItems`."""
        return {}

    def stimulus_batches(self, stage: str) -> Iterator[TrialBatch]:
        """The stimuli of a stage, one batch each, always in the same order."""
        items = self.items(stage)
        return (items.collate([items[index]]) for index in range(len(items)))

    def _world(self) -> tuple[int, int]:
        return (1, 0) if self.trainer is None else (self.trainer.world_size, self.trainer.global_rank)

    def _loader(self, stage: str, training: bool, skip: list[str] | None = None, at_once: int = 1) -> DataLoader[Any]:
        items = self.items(stage, skip)
        world, rank = self._world()
        if self.batch_size % world:
            raise InputError(f"data.batch_size {self.batch_size} cannot be shared evenly by {world} processes")
        sampler: Sampler[Any]
        if training:
            if len(items) < self.batch_size:
                raise InputError(
                    f"{len(items)} stimuli in the training split {self.splits[stage]!r} do not fill one batch of "
                    f"{self.batch_size}; lower data.batch_size"
                )
            sampler = DistributedSampler(items, world, rank, shuffle=True, seed=self.seed, drop_last=True)
        else:
            if len(items) < world:
                raise InputError(
                    f"{len(items)} stimuli in the split {self.splits[stage]!r} cannot be shared by {world} processes; "
                    f"give as many stimuli, or fewer trainer.devices"
                )
            sampler = UnrepeatedDistributedSampler(items, num_replicas=world, rank=rank, shuffle=False)
        # Reading a cached feature file takes less time than handing it over from a worker.
        workers = 0 if self.feature_cache is not None else self.num_workers
        return DataLoader(
            items,
            batch_size=self.batch_size // world if training else at_once,
            sampler=sampler,
            drop_last=training,
            collate_fn=items.collate,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=torch.cuda.is_available(),
        )

    def train_dataloader(self) -> DataLoader[Any]:
        return self._loader("train", training=True)

    def val_dataloader(self) -> DataLoader[Any]:
        return self._loader("val", training=False)

    def test_dataloader(self) -> DataLoader[Any]:
        return self._loader("test", training=False)

    def predict_dataloader(self) -> DataLoader[Any]:
        return self._loader("test", training=False, skip=self.finished, at_once=self.predict_batch_size)


class SearchDataModule(ScanpathDataModule):
    """Target search: batches also say what each trial looked for, where it was, and show its template.

    See :class:`~gazekit.batch.SearchTask`. Trials without a target (free viewing in a mixed set) are
    an error.

    Args:
        template_size_wh_px: Size to which target images are scaled; None scales them as the stimuli; it must be one.
        kwargs: As :class:`ScanpathDataModule`.

    """

    def __init__(self, template_size_wh_px: tuple[int, int] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.save_hyperparameters(logger=False)
        self.template_size_wh_px = template_size_wh_px

    def _serves(self) -> Mapping[str, Any]:
        return {"with_search": True, "template_size_wh_px": self.template_size_wh_px}


class CaptionDataModule(ScanpathDataModule):
    """Captioned viewing: batches also carry what was written about the stimulus.

    Args:
        captions_of: Whose caption goes with a trial, see :func:`~gazekit.datasets.captions.with_captions_of`: the
            ``subject``'s own, of an ``other_subject``, of an ``other_stimulus``, or ``none``.
        kwargs: As :class:`ScanpathDataModule`.

    """

    def __init__(self, captions_of: str = "subject", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.save_hyperparameters(logger=False)
        self.captions_of = captions_of

    @property
    def data(self) -> GazeDataset:
        """The whole dataset, its captions exchanged before it is split, read once."""
        if self._data is None:
            self._data = with_captions_of(super().data, self.captions_of, self.seed)
        return self._data

    def _serves(self) -> Mapping[str, Any]:
        return {"with_captions": True}


class ObjectDataModule(SearchDataModule):
    """Search among discrete objects: batches also hold the boxes of what there is to look at.

    Pictures are read only where a model wants them: without, objects are known by their places alone.

    Args:
        pictures: Read the pictures of the stimuli.
        cells: (columns, rows) of equal cells that stand for objects; None takes the boxes of the dataset.
        proposals: What stands for objects instead: ``superpixels``, ``superpixels:60``, ``superpixels:60:20``
            (compactness) or ``cells:8x6``, see :class:`~gazekit.proposals.Proposals`; or a CSV or Parquet file of
            boxes, see :func:`~gazekit.datasets.objects.read_boxes`.
        longest_sd: Leave out trials whose number of fixations is further than so many SDs from the mean, as published
            with 3; None keeps all.
        kwargs: As :class:`SearchDataModule`. Splits are by stimulus unless ``split`` says otherwise; the published one
            is by trial, ``{by: trial, seed: 0, val: 0.1, test: 0.1}``, and puts one picture into training and test.

    """

    def __init__(
        self,
        pictures: bool = False,
        cells: tuple[int, int] | None = None,
        longest_sd: float | None = None,
        proposals: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.save_hyperparameters(logger=False)
        if cells is not None and proposals is not None:
            raise InputError(f"data.cells is {cells} and data.proposals is {proposals!r}; give one of them")
        self.boxes_file = Path(proposals) if proposals and Path(proposals).suffix in (".csv", ".parquet") else None
        found = None if proposals is None or self.boxes_file is not None else Proposals.parse(proposals)
        if found is not None and found.cells is not None:
            cells, found = found.cells, None
        self.proposals = found
        self.pictures, self.cells, self.longest_sd = pictures, cells, longest_sd

    @property
    def data(self) -> GazeDataset:
        """The whole dataset, without trials that are left out, read once."""
        if self._data is None:
            data = super().data
            if self.cells is not None:
                data = replace(data, objects=grid_of_objects(data.stimuli, *self.cells))
            if self.boxes_file is not None:
                data = replace(data, objects=read_boxes(self.boxes_file, data.stimuli))
            self._data = data if self.longest_sd is None else without_long_trials(data, self.longest_sd)
        return self._data

    def _serves(self) -> Mapping[str, Any]:
        return {
            **super()._serves(), "with_objects": True, "decode": self.pictures, "proposals": self.proposals
        }  # fmt: skip

    def val_dataloader(self) -> DataLoader[Any]:
        # Paths on several layouts are decoded side by side; stimuli of their own sizes come one by one.
        return self._loader("val", training=False, at_once=1 if self.size_wh_px is None else self.batch_size)
