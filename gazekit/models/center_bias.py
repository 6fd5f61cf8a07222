"""The center bias: where people look whatever is shown, from the fixations on all other images."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from torch import Tensor

from gazekit.batch import TrialBatch
from gazekit.density import count_fixations, gaussian_operators, pixel_of
from gazekit.models.fixation_memory import FixationMemory, image_weights, mixture_weights

# Search range of the bandwidth, in widths of the image.
_SIGMA_RANGE = (0.005, 0.15)


class CenterBias(FixationMemory):
    """Kernel density of the fixations on every stimulus but the one that is predicted.

    The Gaussian's SD and the weight of a uniform part maximise the leave-one-image-out
    log-likelihood, each image counting the same. A stimulus that the memory does not hold is
    predicted from all of them.
    """

    def log_density(self, batch: TrialBatch) -> Tensor:
        maps = torch.stack([self.density(name, batch.size_wh_px) for name in batch.stimulus])
        return batch.per_trial(maps.log().float().to(batch.device))

    def density(self, stimulus: str, size_wh_px: tuple[int, int]) -> Tensor:
        """(H, W) float64 density for a stimulus, without the fixations on it."""
        parameters = self.fitted("parameters")
        sigma, uniform = parameters["sigma_of_width"], parameters["uniform"]
        rows = self.rows_of(stimulus)
        others = self._total(size_wh_px, sigma)
        if len(rows):
            # A difference of two sums can round to a tiny negative where nobody else looked.
            others = (others - self.mass(rows, size_wh_px, sigma)).clamp_(min=0.0)
        density: Tensor = (1.0 - uniform) * others / others.sum() + uniform / others.numel()
        return density

    def _total(self, size_wh_px: tuple[int, int], sigma_of_width: float) -> Tensor:
        key = (*size_wh_px, sigma_of_width)
        if key not in self._totals:
            self._totals = {key: self.total_mass(size_wh_px, sigma_of_width)}
        return self._totals[key]

    def total_mass(self, size_wh_px: tuple[int, int], sigma_of_width: float) -> Tensor:
        """(H, W) float64 filtered mass of all fixations in the memory."""
        xy = (self.memory["xy"] * torch.tensor(size_wh_px, dtype=torch.float64))[None]
        counts = count_fixations(xy, torch.ones(xy.shape[:2], dtype=torch.bool), size_wh_px)[0]
        gy, gx = gaussian_operators(size_wh_px, sigma_of_width * size_wh_px[0])
        return gy @ counts @ gx.T

    def at_fixations(self, sigma_of_width: float) -> NDArray[np.float64]:
        """(N,) leave-one-image-out kernel density at every fixation of the memory, no uniform part."""
        size = tuple(self.memory["frame_wh_px"])
        total = self.total_mass(size, sigma_of_width).numpy()
        # NumPy: many small look-ups, for which waking torch's threads costs more than the work.
        gy, gx = (operator.numpy() for operator in gaussian_operators(size, sigma_of_width * size[0]))
        row, column = (i.numpy() for i in pixel_of(self.memory["xy"] * torch.tensor(size, dtype=torch.float64)))
        mass_of = gy.sum(0)[row] * gx.sum(0)[column]
        values = np.empty(len(row))
        for rows in self._rows:
            r, c = row[rows], column[rows]
            own = (gy[r[:, None], r] * gx[c[:, None], c]).sum(1)
            values[rows] = np.maximum(total[r, c] - own, 0.0) / (total.sum() - mass_of[rows].sum())
        return values

    def _fit(self) -> None:
        width, height = self.memory["frame_wh_px"]
        uniform = np.full(len(self.memory["xy"]), 1.0 / (width * height))
        weight = image_weights(self.memory["stimulus"].numpy())

        def fitted(log_sigma: float) -> tuple[float, float]:
            components = np.stack([self.at_fixations(float(np.exp(log_sigma))), uniform], 1)
            share = mixture_weights(components, weight)
            return -float(weight @ np.log(components @ share)), float(share[1])

        low, high = np.log(_SIGMA_RANGE)
        best = minimize_scalar(lambda s: fitted(s)[0], bounds=(low, high), method="bounded", options={"xatol": 0.02})
        self.memory["parameters"] = {"sigma_of_width": float(np.exp(best.x)), "uniform": fitted(best.x)[1]}
