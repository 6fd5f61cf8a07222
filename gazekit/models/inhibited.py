"""Any density with inhibition of return: where the eye goes next is where the map is high and it has not just been."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from gazekit.batch import Scanpaths, TrialBatch
from gazekit.density import normalize_log_density
from gazekit.errors import InputError
from gazekit.models.base import GazeModel, no_scanpaths, sample_positions
from gazekit.models.spatial_base import OnSpatialBase


class Inhibited(OnSpatialBase):
    """``p(x | past) ~ p(x) (1 - I(x))``, with I a Gaussian around each past fixation that fades with each further one.

    Inhibitions add up and are cut off at `strength`.

    Args:
        base: The spatial model p: a registered name, a checkpoint, or a model.
        sigma_dva: SD of the inhibition; where the geometry is not known, a twelfth of the shorter side.
        retention: Share of an inhibition that is left after one more fixation.
        strength: Largest inhibition; below 1, so that no place is ever impossible.

    """

    zero_shot: ClassVar[bool] = True

    def __init__(
        self,
        base: str | GazeModel = "itti_koch",
        sigma_dva: float = 2.0,
        retention: float = 0.9,
        strength: float = 0.99,
    ) -> None:
        super().__init__()
        if not sigma_dva > 0 or not 0.0 <= retention <= 1.0 or not 0.0 <= strength < 1.0:
            raise InputError(
                f"expected sigma_dva > 0, retention in [0, 1] and strength in [0, 1), found {sigma_dva}, {retention} "
                f"and {strength}"
            )
        self.save_hyperparameters(ignore=["base"] if isinstance(base, GazeModel) else [])
        self.stand_on(base)
        self.sigma_dva, self.retention, self.strength = sigma_dva, retention, strength

    def _inhibition(self, at: Tensor, batch: TrialBatch) -> Tensor:
        """(N, 2) px -> (N, H, W) Gaussians of height one."""
        width, height = batch.size_wh_px
        known = math.isfinite(batch.px_per_dva)
        sigma = self.sigma_dva * batch.px_per_dva if known else min(width, height) / 12.0
        x = torch.arange(width, device=at.device) + 0.5
        y = torch.arange(height, device=at.device) + 0.5
        gx = torch.exp(-((x - at[:, :1]) / sigma).square() / 2.0)
        gy = torch.exp(-((y - at[:, 1:]) / sigma).square() / 2.0)
        return gy[:, :, None] * gx[:, None, :]

    def _given(self, static: Tensor, inhibition: Tensor) -> Tensor:
        return normalize_log_density(static + torch.log1p(-inhibition.clamp(max=1.0) * self.strength))

    @torch.no_grad()
    def conditional_log_density(self, batch: TrialBatch) -> Tensor:
        static = self.base.log_density(batch)
        inhibition, maps = torch.zeros_like(static), []
        for t in range(batch.valid.shape[1]):
            maps.append(self._given(static, inhibition))
            # Padding may hold anything; what follows it is never read.
            at = batch.xy_px[:, t].where(batch.valid[:, t, None], torch.zeros(2, device=static.device))
            inhibition = self.retention * inhibition + self._inhibition(at, batch)
        return torch.stack(maps, 1)

    @torch.no_grad()
    def sample(self, batch: TrialBatch, n: int, length: int, generator: torch.Generator) -> Scanpaths:
        if not len(batch):
            return no_scanpaths(batch, n, length)
        static = self.base.log_density(batch)
        paths = []
        for i in range(len(batch)):
            inhibition, path = static.new_zeros(n, *static.shape[1:]), []
            for _ in range(length):
                at = sample_positions(self._given(static[i : i + 1], inhibition), 1, generator)[:, 0]
                path.append(at)
                inhibition = self.retention * inhibition + self._inhibition(at, batch)
            paths.append(torch.stack(path, 1))
        xy = torch.stack(paths)
        return Scanpaths(xy, torch.ones(xy.shape[:-1], dtype=torch.bool, device=xy.device))
