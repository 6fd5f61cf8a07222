"""People as models: everyone else's fixations on the same image (the ceiling), or on another image (a control).

``q = (1 - a - b) * KDE + a * center bias + b * uniform``: the classical gold standard, scored
leaving one subject out. Bandwidth and mixture are fitted once per dataset by held-out
log-likelihood. With N subjects it predicts from N - 1, so it lies below what a perfect model could
reach.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from torch import Tensor

from gazekit.batch import Scanpaths, TrialBatch
from gazekit.density import gaussian_operators, pixel_of
from gazekit.models.center_bias import CenterBias
from gazekit.models.fixation_memory import FixationMemory, image_weights, mixture_weights

# Search range of the bandwidth in degrees of visual angle.
_SIGMA_RANGE_DVA = (0.3, 4.0)
# Where the geometry is not known the range is taken as if stimuli were as wide as a display usually is.
_WIDTH_DVA = 32.0


class Human(FixationMemory):
    """Leave-one-subject-out density: for each trial, from all other subjects on the same stimulus."""

    per_subject = True

    def __init__(self) -> None:
        super().__init__()
        self.center_bias = CenterBias()

    def fit_fixations(self, fixations: pd.DataFrame, stimuli: pd.DataFrame, px_per_dva: float) -> Human:
        self.center_bias.fit_fixations(fixations, stimuli, px_per_dva)
        super().fit_fixations(fixations, stimuli, px_per_dva)
        return self

    def log_density(self, batch: TrialBatch) -> Tensor:
        width, height = batch.size_wh_px
        maps = torch.empty(len(batch), height, width)
        for index, name in enumerate(batch.stimulus):
            trials = (batch.stimulus_of_trial == index).nonzero()[:, 0].tolist()
            subjects = [batch.subject[trial] for trial in trials]
            maps[trials] = self._densities(name, name, subjects, batch.size_wh_px).log_()
        return maps.to(batch.device)

    def sample(self, batch: TrialBatch, n: int, length: int, generator: torch.Generator) -> Scanpaths:
        """Scanpaths that other subjects really made on the stimulus, drawn with replacement."""
        sources = [
            (batch.stimulus[int(row)], subject)
            for row, subject in zip(batch.stimulus_of_trial.tolist(), batch.subject, strict=True)
        ]
        return self._draw_recorded(sources, batch, n, length, generator)

    def _densities(
        self, source: str, stimulus: str, without: Sequence[str | None], size_wh_px: tuple[int, int]
    ) -> Tensor:
        """(len(without), H, W) float32 densities from `source`'s fixations, each without one subject's.

        The kernel density is mixed with the center bias for `stimulus` and with a uniform part.
        """
        parameters = self.fitted("parameters")
        a, b = parameters["center_bias"], parameters["uniform"]
        rows = self.rows_of(source)
        of_subject = self.memory["subject"][rows].numpy()
        center = self.center_bias.density(stimulus, size_wh_px)
        rest = a * center + b / center.numel()
        everyone = self.mass(rows, size_wh_px, parameters["sigma_of_width"])
        densities = torch.empty(len(without), *center.shape)
        for i, subject in enumerate(without):
            own = rows[of_subject == self._subject_of.get(subject or "", -1)]
            if len(own) == len(rows):  # nobody else looked: only the part that needs nobody is left
                densities[i] = rest / (a + b)
                continue
            # Masses add, so "everyone but one" is a difference; rounding can leave a tiny negative.
            others = (everyone - self.mass(own, size_wh_px, parameters["sigma_of_width"])).clamp_(min=0.0)
            densities[i] = rest + others * ((1.0 - a - b) / others.sum())
        return densities

    def _draw_recorded(
        self, sources: list[tuple[str, str]], batch: TrialBatch, n: int, length: int, generator: torch.Generator
    ) -> Scanpaths:
        xy = torch.zeros(len(sources), n, length, 2)
        valid = torch.zeros(len(sources), n, length, dtype=torch.bool)
        size = torch.tensor(batch.size_wh_px, dtype=torch.float64)
        for i, (stimulus, without) in enumerate(sources):
            rows = self.rows_of(stimulus)
            rows = rows[self.memory["subject"][rows].numpy() != self._subject_of.get(without, -1)]
            trials = np.unique(self.memory["trial"][rows].numpy())
            for j in range(n if len(trials) else 0):
                trial = trials[int(torch.randint(len(trials), (1,), generator=generator))]
                path = self.memory["xy"][rows[self.memory["trial"][rows].numpy() == trial]][:length] * size
                xy[i, j, : len(path)] = path.float()
                valid[i, j, : len(path)] = True
        return Scanpaths(xy.to(batch.device), valid.to(batch.device))

    def _fit(self) -> None:
        size = tuple(self.memory["frame_wh_px"])
        weight = image_weights(self.memory["stimulus"].numpy())
        bias = self.center_bias.memory["parameters"]
        uniform = np.full(len(weight), 1.0 / (size[0] * size[1]))
        center = (1.0 - bias["uniform"]) * self.center_bias.at_fixations(bias["sigma_of_width"])
        center += bias["uniform"] * uniform

        def fitted(log_sigma: float) -> tuple[float, NDArray[np.float64]]:
            kernel = self._leave_one_subject_out(float(np.exp(log_sigma)))
            components = np.stack([kernel, center, uniform], 1)
            share = mixture_weights(components, weight)
            return -float(weight @ np.log(components @ share)), share

        dva_of_width = self.memory["px_per_dva"] / size[0]
        known = np.isfinite(dva_of_width)
        low, high = np.log(np.array(_SIGMA_RANGE_DVA) * (dva_of_width if known else 1.0 / _WIDTH_DVA))
        best = minimize_scalar(lambda s: fitted(s)[0], bounds=(low, high), method="bounded", options={"xatol": 0.01})
        share = fitted(best.x)[1]
        self.memory["parameters"] = {
            "sigma_of_width": float(np.exp(best.x)),
            **({"sigma_dva": float(np.exp(best.x)) / dva_of_width} if known else {}),
            "center_bias": float(share[1]),
            "uniform": float(share[2]),
        }

    def _leave_one_subject_out(self, sigma_of_width: float) -> NDArray[np.float64]:
        """(N,) kernel density of the other subjects on the same stimulus, at every fixation."""
        size = tuple(self.memory["frame_wh_px"])
        # NumPy: many small look-ups, for which waking torch's threads costs more than the work.
        gy, gx = (operator.numpy() for operator in gaussian_operators(size, sigma_of_width * size[0]))
        row, column = (i.numpy() for i in pixel_of(self.memory["xy"] * torch.tensor(size, dtype=torch.float64)))
        mass_of = gy.sum(0)[row] * gx.sum(0)[column]
        subject = self.memory["subject"].numpy()
        values = np.zeros(len(row))
        for rows in self._rows:
            r, c, who = row[rows], column[rows], subject[rows]
            other = who[:, None] != who[None]
            at = (gy[r[:, None], r] * gx[c[:, None], c] * other).sum(1)
            total = other @ mass_of[rows]
            values[rows] = np.divide(at, total, out=np.zeros_like(at), where=total > 0)
        return values


def shuffled_partner(names: Sequence[str], stimulus: str, seed: int = 0) -> str:
    """Another one of the stimuli, by a seeded cyclic shuffle, in which none is its own partner."""
    ordered = sorted(names)
    order = np.random.default_rng(seed).permutation(len(ordered))
    place = int(np.flatnonzero(order == ordered.index(stimulus))[0]) if stimulus in ordered else 0
    return str(ordered[order[(place + 1) % len(ordered)]])


class ShuffledHuman(Human):
    """People looking at another image: the human recipe, bandwidth and mixture included, on the wrong image.

    Keeps everything about human fixations except the image. Each stimulus is paired with another
    one by a seeded cyclic shuffle, so none is paired with itself.
    """

    per_subject = False

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.seed = seed

    def partner(self, stimulus: str) -> str:
        """The other stimulus whose fixations stand in for those on this one."""
        return shuffled_partner(self.fitted("stimuli"), stimulus, self.seed)

    def log_density(self, batch: TrialBatch) -> Tensor:
        maps = [self._densities(self.partner(name), name, [None], batch.size_wh_px)[0] for name in batch.stimulus]
        return batch.per_trial(torch.stack(maps).log().to(batch.device))

    def sample(self, batch: TrialBatch, n: int, length: int, generator: torch.Generator) -> Scanpaths:
        """Scanpaths that people really made on the partner stimulus, drawn with replacement."""
        sources = [(self.partner(batch.stimulus[int(row)]), "") for row in batch.stimulus_of_trial.tolist()]
        return self._draw_recorded(sources, batch, n, length, generator)
