"""Objects on a stimulus: a regular grid where no boxes are known, and the object that each fixation is on."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gazekit.tables import OBJECT_COLUMNS


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
