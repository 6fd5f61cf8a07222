"""What models of looks at objects are compared with: objects drawn one by one, whatever was looked at before.

Each draws from one distribution over the objects of a layout, and stops with the probability that gives scanpaths of
people's mean length on other stimuli, as in the controls published with OAT. They know neither history nor the end of a
search.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from gazekit.batch import ObjectLayout, Scanpaths, TrialBatch
from gazekit.errors import InputError
from gazekit.models.base import GazeModel
from gazekit.models.fixation_memory import FixationMemory
from gazekit.models.oat import crops_of
from gazekit.models.object_maps import (
    density_over_pixels,
    draws_of_points,
    layout_of,
    points_on_objects,
    target_objects,
    territories,
)
from gazekit.models.spatial_base import spatial_base
from gazekit.proposals import Proposals

# SD around the middle, in shares of width and height, and around the target, in steps of the grid (that of OAT's code).
_CENTER_SD, _TARGET_SD = 0.25, 2.0
# Sides of the crops whose colors are compared.
_CROP_HW_PX = (24, 16)


class ObjectControl(FixationMemory, ABC):
    """Objects drawn independently, a geometric number of them.

    Args:
        grid: (columns, rows) of equal cells that are the objects where a batch has none.
        proposals: Objects where a batch has none, in place of `grid`, for instance ``superpixels``; see
            :class:`~gazekit.proposals.Proposals`.

    """

    ends_itself: ClassVar[bool] = True
    # How the logits of the objects differ between trials on one stimulus.
    _by_trial: ClassVar[bool] = False

    def __init__(self, grid: tuple[int, int] = (8, 6), proposals: str | None = None) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.grid = int(grid[0]), int(grid[1])
        self.proposals = None if proposals is None else Proposals.parse(proposals)
        self.uses_image = type(self).uses_image or (self.proposals is not None and self.proposals.of_pictures)

    def objects_of(self, batch: TrialBatch) -> ObjectLayout:
        """The objects of the batch, or what stands for them."""
        return layout_of(batch, self.grid, self.proposals)

    @abstractmethod
    def logits(self, batch: TrialBatch, objects: ObjectLayout) -> Tensor:
        """(B, N) log of how attractive each object is, up to a constant."""

    def _fit(self) -> None:
        _, lengths = np.unique(self.memory["trial"].numpy(), return_counts=True)
        self.memory["parameters"] = {"mean_length": float(lengths.mean())}

    def mean_length(self, stimulus: str) -> float:
        """Fixations per trial on all other stimuli."""
        self.fitted("parameters")
        own = self.rows_of(stimulus)
        kept = np.ones(len(self.memory["trial"]), bool)
        kept[own] = False
        n_trials = len(np.unique(self.memory["trial"].numpy()[kept]))
        return float(kept.sum() / n_trials) if n_trials else float(self.memory["parameters"]["mean_length"])

    def log_probabilities(self, batch: TrialBatch) -> Tensor:
        """(B, N) of looking at each object."""
        return self._log_probabilities(batch, self.objects_of(batch))

    def _log_probabilities(self, batch: TrialBatch, objects: ObjectLayout) -> Tensor:
        there = objects.there[batch.stimulus_of_trial]
        return self.logits(batch, objects).masked_fill(~there, -torch.inf).log_softmax(-1)

    @torch.no_grad()
    def log_density(self, batch: TrialBatch) -> Tensor:
        objects = self.objects_of(batch)
        log_p = self._log_probabilities(batch, objects)
        shown = territories(objects, batch.size_wh_px)
        if len(shown) == 1 and not self._by_trial and len(batch):
            return density_over_pixels(log_p[0], shown[0]).expand(len(batch), -1, -1)
        rows = batch.stimulus_of_trial.tolist()
        return torch.stack([density_over_pixels(p, shown[row]) for p, row in zip(log_p, rows, strict=True)])

    @torch.no_grad()
    def sample(self, batch: TrialBatch, n: int, length: int, generator: torch.Generator) -> Scanpaths:
        objects = self.objects_of(batch)
        p = self._log_probabilities(batch, objects).double().exp().cpu()
        uniform = torch.rand(len(batch), n * length, generator=generator, dtype=torch.float64)
        cumulative = p.cumsum(-1)
        drawn = torch.searchsorted(cumulative, uniform * cumulative[:, -1:], right=True)
        drawn = drawn.clamp(max=p.shape[1] - 1).view(len(batch), n, length).to(batch.device)
        names = [batch.stimulus[row] for row in batch.stimulus_of_trial.tolist()]
        stop = torch.tensor([1.0 / max(1.0, self.mean_length(name)) for name in names], dtype=torch.float64)
        # Geometric from 1 on, so that the mean is that of people before paths are cut.
        u = torch.rand(len(batch), n, generator=generator, dtype=torch.float64).clamp(min=1e-12)
        steps = 1 + (u.log() / torch.log1p(-stop.clamp(max=1 - 1e-9))[:, None]).floor()
        valid = (torch.arange(length) < steps[..., None]).to(batch.device)
        points = draws_of_points(tuple(drawn.shape), generator)
        return Scanpaths(points_on_objects(drawn, batch.stimulus_of_trial, objects, points, batch), valid)


class ObjectRandom(ObjectControl):
    """Every object is as likely as every other."""

    def logits(self, batch: TrialBatch, objects: ObjectLayout) -> Tensor:
        return torch.zeros(len(batch), objects.there.shape[1], device=batch.device)


class ObjectCenter(ObjectControl):
    """Objects near the middle of the stimulus are likelier, by a Gaussian of a quarter of each side."""

    def logits(self, batch: TrialBatch, objects: ObjectLayout) -> Tensor:
        size = torch.tensor(batch.size_wh_px, device=batch.device)
        offset = (objects.center_px / size - 0.5) / _CENTER_SD
        return (-0.5 * offset.square().sum(-1))[batch.stimulus_of_trial]


class ObjectNearTarget(ObjectControl):
    """Objects near the target are likelier, by a Gaussian of two steps of the grid: it is told where the target is.

    Without the target's box, every object is as likely as every other.
    """

    _by_trial = True

    def logits(self, batch: TrialBatch, objects: ObjectLayout) -> Tensor:
        target = target_objects(batch, objects)
        place = objects.place[batch.stimulus_of_trial].float()
        own = place.gather(1, target.clamp(min=0)[:, None, None].expand(-1, 1, 2))
        sq_dist = (place - own).square().sum(-1)
        return (-0.5 * sq_dist / _TARGET_SD**2).masked_fill(target[:, None] < 0, 0.0)


class ObjectSimilar(ObjectControl):
    """Objects that look like the target are likelier: the softmax of the correlation of their colors with its.

    Needs pictures, of the stimulus and, where no box is known, of the target.

    Args:
        gain: What the correlation is multiplied with before the softmax.
        grid: As :class:`ObjectControl`.
        proposals: As there.

    """

    uses_image = True
    _by_trial = True

    def __init__(self, gain: float = 5.0, grid: tuple[int, int] = (8, 6), proposals: str | None = None) -> None:
        super().__init__(grid, proposals)
        self.save_hyperparameters()
        self.gain = gain

    def logits(self, batch: TrialBatch, objects: ObjectLayout) -> Tensor:
        image = _pictures(batch, "object_similar")
        crops = _standardized(crops_of(image, objects.box_px, _CROP_HW_PX).flatten(2))[batch.stimulus_of_trial]
        target = target_objects(batch, objects)
        wanted = crops[torch.arange(len(batch), device=batch.device), target.clamp(min=0)]
        if bool((target < 0).any()):
            search = batch.search
            if search is None or search.template is None or bool((search.template_of_trial[target < 0] < 0).any()):
                raise InputError("object_similar: some trials have neither the box of their target nor a picture of it")
            shown = F.interpolate(search.template, _CROP_HW_PX, mode="bilinear", align_corners=False).flatten(1)
            of_template = _standardized(shown)[search.template_of_trial.clamp(min=0)]
            wanted = torch.where(target[:, None] >= 0, wanted, of_template)
        return self.gain * (crops * wanted[:, None]).mean(-1)


class ObjectSalient(ObjectControl):
    """Objects are as likely as a model of saliency looks at them: the mass of its density on each.

    Args:
        base: A spatial model, by name or checkpoint; see :func:`~gazekit.models.spatial_base.spatial_base`.
        grid: As :class:`ObjectControl`.
        proposals: As there.

    """

    uses_image = True

    def __init__(self, base: str = "itti_koch", grid: tuple[int, int] = (8, 6), proposals: str | None = None) -> None:
        super().__init__(grid, proposals)
        self.save_hyperparameters()
        self.base: GazeModel = spatial_base(base)

    def logits(self, batch: TrialBatch, objects: ObjectLayout) -> Tensor:
        _pictures(batch, "object_salient")
        rows = [batch.stimulus_alone(row) for row in range(len(batch.stimulus))]
        shown = territories(objects, batch.size_wh_px)
        mass = torch.zeros(objects.there.shape, dtype=torch.float64, device=batch.device)
        for s, (one, territory) in enumerate(zip(rows, shown, strict=True)):
            density = self.base.log_density(one)[0].double().exp()
            mass[s].index_add_(0, territory.owner.flatten(), density.flatten())
        return mass.clamp(min=1e-12).log().float()[batch.stimulus_of_trial]


def _pictures(batch: TrialBatch, name: str) -> Tensor:
    if batch.image is None:
        raise InputError(f"{name} compares pictures, and there are none; leave it out where a dataset comes without")
    return batch.image


def _standardized(values: Tensor) -> Tensor:
    """(..., K) of mean 0 and SD 1, 0 where all are the same."""
    centered = values - values.mean(-1, keepdim=True)
    return centered / centered.square().mean(-1, keepdim=True).sqrt().clamp(min=1e-6)
