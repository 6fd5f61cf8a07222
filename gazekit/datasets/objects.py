"""Objects on a stimulus: a regular grid where no boxes are known, the object that each fixation is on, their places."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from gazekit.batch import ObjectLayout
from gazekit.errors import InputError
from gazekit.tables import OBJECT_COLUMNS

if TYPE_CHECKING:
    from gazekit.datasets.dataset import GazeDataset


def grid_of_objects(stimuli: pd.DataFrame, columns: int, rows: int) -> pd.DataFrame:
    """Object table with `columns` x `rows` equal cells over each stimulus, numbered row by row from the top left."""
    row, column = (index.ravel() for index in np.mgrid[0:rows, 0:columns])
    parts = []
    for name, width, height in zip(stimuli["stimulus"], stimuli["width_px"], stimuli["height_px"], strict=True):
        x, y = np.arange(columns + 1) * width / columns, np.arange(rows + 1) * height / rows
        edges = x[column], y[row], x[column + 1], y[row + 1]
        cells = dict(zip(OBJECT_COLUMNS[2:], edges, strict=True))
        parts.append(pd.DataFrame({"stimulus": name, "object": np.arange(rows * columns), **cells}))
    return pd.concat(parts, ignore_index=True)


def object_of_fixation(fixations: pd.DataFrame, objects: pd.DataFrame) -> NDArray[np.int64]:
    """(n,) number of the object under each fixation; between boxes, and outside, that with the nearest center.

    Boxes are half-open (left <= x < right). Where boxes overlap, the first one counts. -1 on a
    stimulus without objects.
    """
    found = np.full(len(fixations), -1, dtype=np.int64)
    boxes = dict(iter(objects.groupby("stimulus", sort=False)))
    xy = fixations[["x_px", "y_px"]].to_numpy(float)
    for name, at in fixations.groupby("stimulus", sort=False).indices.items():
        if name not in boxes:
            continue
        numbers = boxes[name]["object"].to_numpy(np.int64)
        left, top, right, bottom = boxes[name][list(OBJECT_COLUMNS[2:])].to_numpy(float).T
        x, y = xy[at, 0, None], xy[at, 1, None]
        inside = (left <= x) & (x < right) & (top <= y) & (y < bottom)
        sq_dist = (x - (left + right) / 2.0) ** 2 + (y - (top + bottom) / 2.0) ** 2
        nearest = sq_dist.argmin(1)
        found[at] = numbers[np.where(inside.any(1), inside.argmax(1), nearest)]
    return found


def place_of_objects(boxes: NDArray[np.float64]) -> NDArray[np.int64]:
    """(N, 4) boxes -> (N, 2) row and column of each among the others, from 0.

    Objects whose middles are less than half a typical box apart share a row, or a column.
    """
    middle = (boxes[:, :2] + boxes[:, 2:]) / 2.0
    size = np.median(boxes[:, 2:] - boxes[:, :2], axis=0)
    columns, rows = (_steps(middle[:, axis], size[axis] / 2.0) for axis in (0, 1))
    return np.stack([rows, columns], 1)


def _steps(value: NDArray[np.float64], gap: float) -> NDArray[np.int64]:
    """(N,) which group of neighbouring values each is in; a new one begins after a jump of more than `gap`."""
    order = np.argsort(value, kind="stable")
    group = np.empty(len(value), np.int64)
    group[order] = np.concatenate([[0], np.cumsum(np.diff(value[order]) > gap)]) if len(value) else 0
    return group


def layout_of_objects(tables: Sequence[pd.DataFrame], scales: Sequence[tuple[float, float]]) -> ObjectLayout:
    """The objects of S stimuli, in the order of their rows, their boxes multiplied by (x, y) scales."""
    boxes = [table[list(OBJECT_COLUMNS[2:])].to_numpy(float) for table in tables]
    most = max(map(len, boxes))
    box = torch.zeros(len(boxes), most, 4)
    place = torch.zeros(len(boxes), most, 2, dtype=torch.long)
    there = torch.zeros(len(boxes), most, dtype=torch.bool)
    for i, (own, scale) in enumerate(zip(boxes, scales, strict=True)):
        box[i, : len(own)] = torch.from_numpy(own * np.tile(scale, 2)).float()
        place[i, : len(own)] = torch.from_numpy(place_of_objects(own))
        there[i, : len(own)] = True
    return ObjectLayout(box, place, there)


def without_long_trials(data: GazeDataset, n_sd: float) -> GazeDataset:
    """The dataset without trials whose number of fixations is `n_sd` sample SDs or more from the mean over all trials.

    Raises:
        InputError: `n_sd` is not positive.

    """
    if not n_sd > 0:
        raise InputError(f"{data.name}: trials are to be within {n_sd!r} SDs of the mean length, expected more than 0")
    length = data.fixations.groupby("trial").size().reindex(data.trials["trial"], fill_value=0)
    kept = (length - length.mean()).abs() < n_sd * length.std()
    return data.subset(trials=data.trials.loc[kept.to_numpy(), "trial"].tolist())
