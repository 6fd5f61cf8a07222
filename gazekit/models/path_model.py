"""Models that make scanpaths and no map: their map is where their scanpaths look."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor

from gazekit.batch import Scanpaths, TrialBatch
from gazekit.density import fixation_density
from gazekit.models.base import GazeModel, first_trial_of_each_stimulus, marginal_generator, seed_of


class PathModel(GazeModel, ABC):
    """A model that defines :meth:`sample` and nothing else.

    Its density is a kernel density of scanpaths that it samples, mixed with a little of the uniform one. It has none
    before each fixation but that same one: how a procedure would go on from a person's fixations is not defined.

    Attributes:
        kernel_dva: SD of the kernel.
        kernel_of_width: The same in widths of the image, where the geometry is not known.
        uniform_share: Of the density.

    """

    kernel_dva: ClassVar[float] = 1.0
    kernel_of_width: ClassVar[float] = 1.0 / 32.0
    uniform_share: ClassVar[float] = 0.05

    @classmethod
    def is_spatial(cls) -> bool:
        """It has one density, without history."""
        return True

    @abstractmethod
    def sample(self, batch: TrialBatch, n: int, length: int, generator: torch.Generator) -> Scanpaths:
        """N scanpaths of `length` fixations per trial, the same for the same seed of `generator`."""

    @torch.no_grad()
    def log_density(self, batch: TrialBatch) -> Tensor:
        """(B, H, W) natural log of the kernel density of sampled scanpaths, one for a stimulus and caption."""
        if batch.caption is None:
            maps = [self._log_density(batch.stimulus_alone(row)) for row in range(len(batch.stimulus))]
            return batch.per_trial(torch.cat(maps))
        known: dict[tuple[str, str], Tensor] = {}
        for i, row in enumerate(batch.stimulus_of_trial.tolist()):
            key = batch.stimulus[row], batch.caption[i]
            if key not in known:
                known[key] = self._log_density(batch.trials(i, i + 1).stimulus_alone(row))
        rows = zip(batch.stimulus_of_trial.tolist(), batch.caption, strict=True)
        return torch.cat([known[batch.stimulus[row], caption] for row, caption in rows])

    def _log_density(self, one: TrialBatch) -> Tensor:
        # Whoever looked does not matter, and must not move a draw.
        one = replace(one, trial=torch.full_like(one.trial, -1), subject=("",))
        paths = self.sample(one, self.marginal_paths, self.marginal_length, marginal_generator(one))
        width = one.size_wh_px[0]
        known = one.px_per_dva == one.px_per_dva
        sigma = self.kernel_dva * one.px_per_dva if known else self.kernel_of_width * width
        size = torch.tensor(one.size_wh_px, device=paths.xy_px.device)
        # Scanpaths as published may leave the image.
        inside = paths.valid & ((paths.xy_px >= 0) & (paths.xy_px < size)).all(-1)
        if not inside.any():
            return torch.full((1, *one.size_wh_px[::-1]), 1.0 / (width * one.size_wh_px[1]), device=size.device).log()
        kernel = fixation_density(paths.xy_px.view(1, -1, 2), inside.view(1, -1), one.size_wh_px, sigma)
        density = (1.0 - self.uniform_share) * kernel + self.uniform_share / kernel[0].numel()
        return density.log().float()

    def predict_step(self, batch: TrialBatch, batch_idx: int) -> Scanpaths:
        """Scanpaths on each stimulus of the batch, the same whatever else is in it."""
        generator = torch.Generator().manual_seed(seed_of("predict"))
        return self.sample(first_trial_of_each_stimulus(batch), self.predict_paths, self.predict_length, generator)


def path_seeds(batch: TrialBatch, n: int, generator: torch.Generator) -> list[int]:
    """A seed for each of n scanpaths of each trial, that depends on the trial and the generator alone.

    `generator` is drawn from once, however large the batch, so that no scanpath depends on its batch mates.
    """
    base = int(torch.randint(2**62, (1,), generator=generator))
    captions = batch.caption or ("",) * len(batch)
    rows = zip(batch.stimulus_of_trial.tolist(), batch.trial.tolist(), captions, strict=True)
    return [seed_of(base, batch.stimulus[row], trial, caption, i) for row, trial, caption in rows for i in range(n)]
