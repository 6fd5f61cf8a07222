"""Constrained Levy exploration: a random walk with long jumps that saliency accepts or refuses.

Boccignone & Ferraro (2004), Modelling gaze shift as a constrained random walk, Physica A 331, 207-218. A jump follows
a Langevin equation, ``x' = x + h (-k grad V + (1 - k) r n)``, with the potential ``V = 100 exp(-tau s)`` of a
saliency s in [0, 100], a direction n that is uniform and a length r that is Cauchy distributed; it is taken if
saliency rises, else with probability ``exp(ds / T)``. Values of tau, h, k and T are those of the authors' later
program. Its scale of jumps there is a number of pixels of an image of unknown size, at which most jumps leave the
image; here it is in radii of the focus of attention, which is a sixth of the image's shorter side.
"""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from gazekit.batch import Scanpaths, TrialBatch
from gazekit.errors import InputError
from gazekit.models.base import GazeModel
from gazekit.models.path_model import PathModel, path_seeds
from gazekit.models.spatial_base import OnSpatialBase

Map = NDArray[np.float64]
# A walker that is refused so often rests where it is.
_MOST_TRIES = 200


class CLE(OnSpatialBase, PathModel):
    """Scanpaths of a constrained Levy walk from the center of the image, its first fixation, on a model's density.

    Args:
        base: Where saliency comes from: a registered spatial model, a checkpoint, or a model.
        tau: Damping of the potential.
        temperature: Of the acceptance; 0 refuses every fall of saliency.
        jump: Scale of the Cauchy distributed jumps, in radii of the focus of attention.
        drift: Share k of the potential; the rest is chance.
        step: Time step h of the equation, for the drift; the scale of jumps includes it.

    """

    zero_shot: ClassVar[bool] = True

    def __init__(
        self,
        base: str | GazeModel = "itti_koch",
        tau: float = 0.01,
        temperature: float = 25.0,
        jump: float = 1.0,
        drift: float = 0.5,
        step: float = 0.1,
    ) -> None:
        super().__init__()
        if temperature < 0 or not jump > 0 or not 0.0 <= drift <= 1.0:
            raise InputError(
                f"expected temperature >= 0, jump > 0 and drift in [0, 1], found {temperature}, {jump} and {drift}"
            )
        self.save_hyperparameters(ignore=["base"] if isinstance(base, GazeModel) else [])
        self.stand_on(base)
        self.tau, self.temperature, self.jump, self.drift, self.step = tau, temperature, jump, drift, step

    @torch.no_grad()
    def sample(self, batch: TrialBatch, n: int, length: int, generator: torch.Generator) -> Scanpaths:
        density = self.base.log_density(batch).double().exp().cpu().numpy()
        seeds = path_seeds(batch, n, generator)
        paths = np.zeros((len(batch) * n, length, 2))
        for i, seed in enumerate(seeds):
            saliency = density[i // n]
            low, high = saliency.min(), saliency.max()
            scaled = 100.0 * (saliency - low) / (high - low) if high > low else np.zeros_like(saliency)
            paths[i] = self.walk(scaled, length, np.random.default_rng(seed))
        xy = torch.from_numpy(paths).float().view(len(batch), n, length, 2)
        size = torch.tensor(batch.size_wh_px, dtype=torch.float32)
        xy = torch.minimum(xy, torch.nextafter(size, torch.zeros_like(size)))
        return Scanpaths(xy, torch.ones(xy.shape[:-1], dtype=torch.bool)).to(batch.device)

    def walk(self, saliency: Map, length: int, rng: np.random.Generator) -> Map:
        """(H, W) saliency in [0, 100] -> (length, 2) px."""
        height, width = saliency.shape
        # The focus's radius: a sixth of the shorter side.
        radius = min(height, width) / 6.0
        potential = 100.0 * np.exp(-self.tau * saliency)
        at = np.array([width / 2.0, height / 2.0])
        path = [at]
        while len(path) < length:
            path.append(at := self._next(saliency, potential, at, self.jump * radius, rng))
        return np.array(path)

    def _next(self, saliency: Map, potential: Map, at: Map, scale: float, rng: np.random.Generator) -> Map:
        height, width = saliency.shape
        column, row = int(at[0]), int(at[1])
        slope = np.array(
            [
                (potential[row, min(column + 1, width - 1)] - potential[row, max(column - 1, 0)]) / 2.0,
                (potential[min(row + 1, height - 1), column] - potential[max(row - 1, 0), column]) / 2.0,
            ]
        )
        for _ in range(_MOST_TRIES):
            angle, length = rng.uniform(-math.pi, math.pi), scale * rng.standard_cauchy()
            # `jump` is the scale of jumps as they are made at the published share of chance, one half.
            jump = (1.0 - self.drift) * 2.0 * length * np.array([math.cos(angle), math.sin(angle)])
            tried: Map = at - self.step * self.drift * slope + jump
            if not (0.0 <= tried[0] < width and 0.0 <= tried[1] < height):
                continue
            gain = float(saliency[int(tried[1]), int(tried[0])] - saliency[row, column])
            if gain > 0.0 or (self.temperature > 0.0 and rng.random() < math.exp(gain / self.temperature)):
                return tried
        return at
