"""Fixations that a model remembers in order to predict others: by stimulus, by subject, at any frame size."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from gazekit.density import fixation_mass
from gazekit.errors import InputError
from gazekit.models.base import GazeModel


class FixationMemory(GazeModel):
    """Base of the models that are fitted to a fixation table: the center bias and the humans themselves.

    Positions are kept relative to the stimulus's width and height, so that a batch in another
    frame finds them in its own pixels. The memory travels in checkpoints as extra state.
    """

    fits_fixations = True
    uses_image = False

    def __init__(self) -> None:
        super().__init__()
        self.memory: dict[str, Any] = {}

    def fit_fixations(self, fixations: pd.DataFrame, stimuli: pd.DataFrame, px_per_dva: float) -> FixationMemory:
        """Remember the fixations (already filtered by the protocol's rules) and fit the parameters.

        Args:
            fixations: A fixation table.
            stimuli: The stimulus table, for the sizes.
            px_per_dva: Pixels per degree of visual angle of the stimuli.

        Raises:
            InputError: There are fixations of fewer than two stimuli.

        """
        if fixations["stimulus"].nunique() < 2:
            raise InputError(f"fitting {type(self).__name__} needs fixations on at least 2 stimuli")
        sizes = stimuli.set_index("stimulus").loc[fixations["stimulus"], ["width_px", "height_px"]].to_numpy(float)
        xy = fixations[["x_px", "y_px"]].to_numpy(float) / sizes
        inside = ((xy >= 0) & (xy < 1)).all(axis=1)
        kept = fixations[inside]
        stimulus, names = pd.factorize(kept["stimulus"])
        subject, subjects = pd.factorize(kept["subject"])
        width, height = np.median(sizes, axis=0).astype(int).tolist()
        self.memory = {
            "xy": torch.from_numpy(xy[inside]),
            "stimulus": torch.from_numpy(stimulus),
            "subject": torch.from_numpy(subject),
            "trial": torch.from_numpy(kept["trial"].to_numpy(np.int64).copy()),
            "stimuli": [str(name) for name in names],
            "subjects": [str(name) for name in subjects],
            "frame_wh_px": [width, height],
            "px_per_dva": float(px_per_dva),
            "parameters": {},
        }
        self._index()
        self._fit()
        return self

    def _fit(self) -> None:
        """Choose the parameters; subclasses put them into ``self.memory["parameters"]``."""

    def _index(self) -> None:
        """Rows of each stimulus, and a look-up of names; derived, so not saved."""
        self._row_of = {name: i for i, name in enumerate(self.memory["stimuli"])}
        self._subject_of = {name: i for i, name in enumerate(self.memory["subjects"])}
        order = torch.argsort(self.memory["stimulus"], stable=True)
        counts = torch.bincount(self.memory["stimulus"], minlength=len(self._row_of))
        self._rows = [rows.numpy() for rows in order.split(counts.tolist())]
        self._totals: dict[Any, Tensor] = {}

    def get_extra_state(self) -> dict[str, Any]:
        return self.memory

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.memory = state
        if state:
            self._index()

    def fitted(self, key: str) -> Any:
        """An entry of the memory.

        Raises:
            InputError: The model was not fitted.
        """
        if key not in self.memory:
            raise InputError(f"{type(self).__name__} is not fitted; call fit_fixations first")
        return self.memory[key]

    @property
    def parameters_fitted(self) -> dict[str, float]:
        """Fitted values by name, for tables and reports."""
        return dict(self.memory.get("parameters", {}))

    def rows_of(self, stimulus: str) -> NDArray[np.int64]:
        """Rows of the memory that lie on this stimulus; none for a stimulus it never saw."""
        self.fitted("stimuli")
        row = self._row_of.get(stimulus)
        return np.empty(0, np.int64) if row is None else self._rows[row]

    def mass(self, rows: NDArray[np.int64], size_wh_px: tuple[int, int], sigma_of_width: float) -> Tensor:
        """(H, W) float64 sum of the filtered unit masses of these rows, in the frame's pixels."""
        xy = self.memory["xy"][torch.from_numpy(rows)] * torch.tensor(size_wh_px, dtype=torch.float64)
        return fixation_mass(
            xy[None], torch.ones(1, len(rows), dtype=torch.bool), size_wh_px, sigma_of_width * size_wh_px[0]
        )[0]


def mixture_weights(
    components: NDArray[np.float64], weight: NDArray[np.float64], tolerance: float = 1e-6
) -> NDArray[np.float64]:
    """Maximum-likelihood weights of fixed densities, by expectation maximisation (concave, so global).

    Args:
        components: (N, K) density of each component at each held-out fixation.
        weight: (N,) weight of each fixation, summing to one.

        tolerance: Stop when no weight moves further than this in a step.

    Returns:
        (K,) non-negative weights that sum to one.

    """
    share = np.full(components.shape[1], 1.0 / components.shape[1])
    for _ in range(500):
        before = share
        share = share * (weight @ (components / (components @ share)[:, None]))
        if np.abs(share - before).max() < tolerance:
            break
    return share


def image_weights(stimulus: NDArray[np.int64]) -> NDArray[np.float64]:
    """(N,) weights that give every stimulus the same say, however many fixations it has."""
    counts = np.bincount(stimulus)
    weights: NDArray[np.float64] = 1.0 / (counts[stimulus] * (counts > 0).sum())
    return weights
