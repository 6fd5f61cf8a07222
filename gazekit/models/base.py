"""What every model offers: a map, a map before each fixation, scanpaths; any one of the first two is enough."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, ClassVar

import pandas as pd
import pytorch_lightning as L
import torch
from torch import Tensor

from gazekit.batch import Scanpaths, SearchTask, TrialBatch
from gazekit.density import normalize_log_density
from gazekit.errors import InputError


class GazeModel(L.LightningModule):
    """A model of where people look. Subclasses define at least one of:

    * :meth:`log_density`, a density over pixels: a spatial model. Its conditional density is the
      same before every fixation, and its scanpaths are independent draws.
    * :meth:`conditional_log_density`, a density before each fixation given those before it: a
      scanpath model. It must also define :meth:`sample`; its spatial density is the average of its
      conditional ones along sampled scanpaths.

    Attributes:
        per_subject: The density depends on who looks (only the human ceiling does); otherwise the
            runner asks once per stimulus.
        fits_fixations: The model is fitted by ``fit_fixations`` to the fixations of the dataset that
            it is scored on, leaving out the scored image or subject (controls and ceiling).
        zero_shot: The model needs neither training nor fitting and can be evaluated by its name.
        deterministic: The model makes one scanpath for a stimulus, whatever the generator.
        uses_image: The model looks at the picture; without one in the copy of the data it cannot be scored.
        ends_itself: A scanpath ends where the model ends it; the length that it is asked for is only a limit.
        scored_on_objects: Training scores its paths over objects rather than its density over pixels.
        adjustable: Numbers that may be set after training; see :meth:`adjust`.

    """

    per_subject: ClassVar[bool] = False
    fits_fixations: ClassVar[bool] = False
    zero_shot: ClassVar[bool] = False
    deterministic: ClassVar[bool] = False
    uses_image: bool = True
    ends_itself: ClassVar[bool] = False
    scored_on_objects: ClassVar[bool] = False
    adjustable: ClassVar[tuple[str, ...]] = ()
    # Scanpaths that `gazekit predict` draws per stimulus, and their length.
    predict_paths: int = 10
    predict_length: int = 8
    # Scanpaths behind the spatial density of a scanpath model; the error of the mean falls with the root.
    marginal_paths: ClassVar[int] = 16
    marginal_length: ClassVar[int] = 9

    def __init__(self) -> None:
        super().__init__()
        if not (self.is_spatial() or self.is_scanpath()):
            raise TypeError(f"{type(self).__name__} defines neither log_density nor conditional_log_density")
        if self.is_scanpath() and type(self).sample is GazeModel.sample:
            raise TypeError(f"{type(self).__name__} is a scanpath model and must define sample")

    @classmethod
    def is_spatial(cls) -> bool:
        """It defines a density of its own, without history."""
        return cls.log_density is not GazeModel.log_density

    @classmethod
    def is_scanpath(cls) -> bool:
        """It uses the fixations before the one it predicts."""
        return cls.conditional_log_density is not GazeModel.conditional_log_density

    @classmethod
    def from_checkpoint(cls, checkpoint: dict[str, Any]) -> GazeModel:
        """An instance with the checkpoint's hyper-parameters, its weights not yet loaded."""
        return cls(**constructor_arguments(checkpoint))

    def feature_spec(self, size_wh_px: tuple[int, int] | None) -> dict[str, Any] | None:
        """What shapes the features that :meth:`encode` gives, or None if there is nothing to cache."""
        del size_wh_px
        return None

    def encode(self, image: Tensor) -> tuple[Tensor, ...]:
        """(S, 3, H, W) images -> the maps that a batch may carry as ``features`` in their place."""
        raise TypeError(f"{type(self).__name__} has no features to cache for {image.shape=}")

    def prepare_fit(
        self, batches: Iterable[TrialBatch], fixations: pd.DataFrame, stimuli: pd.DataFrame, card: str
    ) -> None:
        """Set whatever is measured rather than learned, from the training data alone, before training.

        Args:
            batches: The training stimuli one at a time, in a fixed order.
            fixations: The training trials' fixation table.
            stimuli: Their stimulus table.
            card: Name of the dataset.

        """

    def takes_notice_of(self, search: SearchTask) -> bool:
        """Whether scanpaths depend on what is searched for, where nobody says where it is; a model of search says."""
        del search
        return False

    def scored(self, batch: TrialBatch) -> Tensor:
        """(B, T) bool: the fixations that training and validation score; the first is history only."""
        scored = batch.valid.clone()
        scored[:, 0] = False
        return scored

    def predict_step(self, batch: TrialBatch, batch_idx: int) -> Scanpaths:
        """Scanpaths on each stimulus of the batch, the same whatever else is in it."""
        generator = torch.Generator().manual_seed(seed_of("predict", *batch.stimulus))
        return self.sample(first_trial_of_each_stimulus(batch), self.predict_paths, self.predict_length, generator)

    def validation_step(self, batch: TrialBatch, batch_idx: int) -> None:
        """Nothing of its own: the callback that scores fixations does the work for every model."""

    def test_step(self, batch: TrialBatch, batch_idx: int) -> None:
        """As :meth:`validation_step`."""

    def adjust(self, **numbers: float) -> None:
        """Set what a trained model lets be set; its weights stay.

        Raises:
            InputError: Nothing of that name can be set, or to no finite number.

        """
        for name, value in numbers.items():
            if name not in self.adjustable:
                can = ", ".join(self.adjustable) or "nothing"
                raise InputError(f"{type(self).__name__} has no {name!r} to set after training; it has: {can}")
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise InputError(f"{name} is {value!r}, expected a finite number")
            setattr(self, name, float(value))

    def provenance(self) -> dict[str, Any]:
        """Plain values for the scores table: which weights the model stands on, what it was trained on."""
        return {}

    def log_density(self, batch: TrialBatch) -> Tensor:
        """(B, H, W) natural-log density over pixels, its exponentials summing to one."""
        maps = []
        for row in range(len(batch.stimulus)):
            one = batch.stimulus_alone(row)
            paths = self.sample(one, self.marginal_paths, self.marginal_length, marginal_generator(one))
            total: Tensor | None = None
            for i in range(self.marginal_paths):
                valid = paths.valid[:, i]
                sampled = replace(one, xy_px=paths.xy_px[:, i], valid=valid, duration_s=torch.zeros(valid.shape))
                # The first fixation comes from where scanpaths begin, not from a history.
                density = self.conditional_log_density(sampled)[:, 1:].double().exp().sum(1)
                total = density if total is None else total + density
            assert total is not None
            maps.append(normalize_log_density(total.log()).float())
        return batch.per_trial(torch.cat(maps))

    def conditional_log_density(self, batch: TrialBatch) -> Tensor:
        """(B, T, H, W) natural-log density before each fixation, given the fixations before it."""
        return self.log_density(batch)[:, None].expand(-1, batch.xy_px.shape[1], -1, -1)

    def sample(self, batch: TrialBatch, n: int, length: int, generator: torch.Generator) -> Scanpaths:
        """N scanpaths of `length` fixations per trial, the same for the same seed of `generator`.

        The fixations of `batch` are not looked at.
        """
        if not len(batch):
            return no_scanpaths(batch, n, length)
        maps = self.log_density(batch)
        paths = [sample_positions(m[None], n * length, generator)[0] for m in maps]
        xy = torch.stack(paths).view(len(batch), n, length, 2)
        return Scanpaths(xy, torch.ones(xy.shape[:-1], dtype=torch.bool, device=xy.device))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        from gazekit.models.registry import model_name

        checkpoint["gazekit_model"] = model_name(self)


def constructor_arguments(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """The hyper-parameters in a checkpoint, without the notes that Lightning's command line adds to them."""
    hyper_parameters = checkpoint.get("hyper_parameters", {})
    return {key: value for key, value in hyper_parameters.items() if not key.startswith("_")}


def no_scanpaths(batch: TrialBatch, n: int, length: int) -> Scanpaths:
    """What a model samples for a batch without trials."""
    xy = torch.zeros(0, n, length, 2, device=batch.device)
    return Scanpaths(xy, torch.zeros(0, n, length, dtype=torch.bool, device=batch.device))


def seed_of(*parts: object) -> int:
    """A seed from plain values, the same in every process and on every machine."""
    return int.from_bytes(hashlib.sha256("/".join(map(str, parts)).encode()).digest()[:7], "big")


def marginal_generator(batch: TrialBatch) -> torch.Generator:
    """The draws behind a scanpath model's spatial density: always the same ones for the same stimulus."""
    return torch.Generator().manual_seed(seed_of("marginal", *batch.stimulus))


def sample_positions(log_density: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """(B, H, W) log-density -> (B, n, 2) independent draws in px of that grid, spread within a cell."""
    height, width = log_density.shape[-2:]
    # Drawn on the CPU in double: the same numbers on every device, and no limit on the number of pixels.
    cumulative = log_density.flatten(1).double().exp().cumsum(-1).cpu()
    uniform = torch.rand(len(log_density), n, generator=generator, dtype=torch.float64)
    index = torch.searchsorted(cumulative, uniform * cumulative[:, -1:]).clamp(max=height * width - 1)
    corner = torch.stack([index % width, index // width], -1).double()
    within = torch.rand(corner.shape, generator=generator, dtype=torch.float64)
    # Just below the next cell at most: float32 must not round up out of the map.
    return (corner + within.clamp(max=1 - 1e-4)).float().to(log_density.device)


def first_trial_of_each_stimulus(batch: TrialBatch) -> TrialBatch:
    """The batch with one trial per stimulus, in the order of the stimuli; a trial of nobody where there is none."""
    alone = [batch.stimulus_alone(row) for row in range(len(batch.stimulus))]
    first = [(batch.stimulus_of_trial == row).nonzero()[:1, 0].tolist() for row in range(len(batch.stimulus))]
    search = None if batch.search is None or [] in first else batch.search.pick([i for found in first for i in found])
    return replace(
        batch,
        stimulus_of_trial=torch.arange(len(alone), device=batch.device),
        subject=tuple(one.subject[0] for one in alone),
        trial=torch.cat([one.trial for one in alone]),
        xy_px=torch.cat([one.xy_px for one in alone]),
        duration_s=torch.cat([one.duration_s for one in alone]),
        valid=torch.cat([one.valid for one in alone]),
        search=search,
    )
