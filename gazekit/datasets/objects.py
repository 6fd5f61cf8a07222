"""Objects on a stimulus: a regular grid or a file's boxes where none are known, the object that each fixation is on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gazekit.batch import ObjectLayout
from gazekit.datasets.column_rules import need_columns, standard_objects
from gazekit.datasets.readers.tables import read_file
from gazekit.errors import InputError
from gazekit.proposals import layout_of_boxes
from gazekit.tables import OBJECT_COLUMNS, check_objects

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


def layout_of_objects(tables: Sequence[pd.DataFrame], scales: Sequence[tuple[float, float]]) -> ObjectLayout:
    """The objects of S stimuli, in the order of their rows, their boxes multiplied by (x, y) scales."""
    return layout_of_boxes([table[list(OBJECT_COLUMNS[2:])].to_numpy(float) for table in tables], scales)


def read_boxes(path: Path, stimuli: pd.DataFrame) -> pd.DataFrame:
    """Object table from a CSV or Parquet file of boxes.

    Args:
        path: Columns ``left_px``, ``top_px``, ``right_px``, ``bottom_px`` in pixels of the stimulus, and ``stimulus``,
            which may be missing where there is only one; boxes are numbered in the order of their rows.
        stimuli: Stimulus table; boxes on other stimuli are an error.

    Raises:
        InputError: The file is missing or damaged, a box is not proper, or a stimulus has none.

    """
    table, origin = read_file(path, OBJECT_COLUMNS)
    if "stimulus" not in table and len(stimuli) == 1:
        table["stimulus"] = stimuli["stimulus"].iloc[0]
    need_columns(table, ("stimulus", *OBJECT_COLUMNS[2:]), origin)
    table["object"] = table.groupby("stimulus", sort=False).cumcount()
    found = check_objects(standard_objects(table, origin), stimuli, str(path))
    if missing := sorted(set(stimuli["stimulus"]) - set(found["stimulus"])):
        raise InputError(
            f"{path}: no box on stimulus {missing[0]!r} ({len(missing)} of {len(stimuli)} stimuli have none); give at "
            f"least one on each"
        )
    return found


def without_long_trials(data: GazeDataset, n_sd: float) -> GazeDataset:
    """The dataset without trials whose number of fixations is more than `n_sd` SDs from the mean over all trials.

    The SD is that of the trials at hand (divided by n), as published: 14.461 of 480 trials on the Amazon covers.

    Raises:
        InputError: `n_sd` is not positive.

    """
    if not n_sd > 0:
        raise InputError(f"{data.name}: trials are to be within {n_sd!r} SDs of the mean length, expected more than 0")
    length = data.fixations.groupby("trial").size().reindex(data.trials["trial"], fill_value=0)
    kept = (length - length.mean()).abs() <= n_sd * length.std(ddof=0)
    return data.subset(trials=data.trials.loc[kept.to_numpy(), "trial"].tolist())
