"""Made-up batches for the metric tests; maps are never square, so that swapped axes show."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gazekit.density import normalize_log_density
from gazekit.metrics import METRICS


@dataclass
class Scene:
    """B trials on maps of H x W, everything that any metric asks for."""

    maps: Tensor
    xy_px: Tensor
    valid: Tensor
    empirical: Tensor
    steps: Tensor
    baseline: Tensor
    other_xy_px: Tensor

    @property
    def log_density(self) -> Tensor:
        return normalize_log_density(self.maps)

    def arguments(self, name: str) -> tuple[Tensor, ...]:
        """The positional arguments of METRICS[name].function."""
        fixations = (self.xy_px, self.valid)
        return {
            "sauc": (self.maps, *fixations, self.other_xy_px),
            "ll": (self.log_density, *fixations),
            "ig": (self.log_density, self.baseline, *fixations),
            "cnss": (self.steps, *fixations),
            "cauc": (self.steps, *fixations),
            "cig": (self.steps, self.baseline, *fixations),
        }.get(name) or {
            "map": (self.maps, *fixations),
            "empirical": (self.maps, self.empirical),
        }[METRICS[name].needs]

    def score(self, name: str) -> Tensor:
        return METRICS[name].function(*self.arguments(name))

    def with_(self, **changes: Tensor) -> Scene:
        return Scene(**{**self.__dict__, **changes})

    def trials(self, rows: list[int] | slice) -> Scene:
        return Scene(**{k: v if k == "other_xy_px" else v[rows] for k, v in self.__dict__.items()})


def make_scene(
    seed: int = 0, n_trials: int = 4, n_steps: int = 5, size_hw: tuple[int, int] = (13, 29), ties: bool = False
) -> Scene:
    """float64; trial b has at least one valid fixation, and padding holds a far-away place."""
    rng = np.random.default_rng(seed)
    height, width = size_hw

    def values(*shape: int) -> np.ndarray:
        # Few levels make ties among pixels; zeros and negative values occur.
        return rng.integers(-2, 4, shape).astype(float) if ties else rng.standard_normal(shape)

    def log_density(*shape: int) -> Tensor:
        return normalize_log_density(torch.from_numpy(values(*shape, height, width)))

    valid = np.arange(n_steps) < rng.integers(1, n_steps + 1, n_trials)[:, None]
    xy_px = rng.random((n_trials, n_steps, 2)) * [width, height]
    xy_px[~valid] = -1e6
    return Scene(
        maps=torch.from_numpy(values(n_trials, height, width)),
        xy_px=torch.from_numpy(xy_px),
        valid=torch.from_numpy(valid),
        empirical=torch.from_numpy(rng.random((n_trials, height, width)) ** 3),
        steps=log_density(n_trials, n_steps),
        baseline=log_density(n_trials),
        other_xy_px=torch.from_numpy(rng.random((40, 2)) * [width, height]),
    )
