"""Saccades of a table of scanpaths: how far and in which direction the eye jumps."""

from __future__ import annotations

import numpy as np
import pandas as pd


def saccades(fixations: pd.DataFrame, path: list[str], px_per_dva: float) -> pd.DataFrame:
    """One row per saccade: ``amplitude_dva`` and ``direction_deg``.

    Args:
        fixations: Rows in viewing order within a path, with x_px and y_px.
        path: Columns that together name one scanpath.
        px_per_dva: Pixels per degree of visual angle.

    Returns:
        The path's columns and the two measures; 0 deg is rightward and 90 deg upward, in [-180, 180).

    """
    step = fixations.groupby(path, sort=False)[["x_px", "y_px"]].diff()
    moved = step["x_px"].notna()
    dx, dy = step.loc[moved, "x_px"] / px_per_dva, step.loc[moved, "y_px"] / px_per_dva
    # Rows grow downward; people speak of upward saccades.
    direction = np.degrees(np.arctan2(-dy, dx))
    table = fixations.loc[moved, path].copy()
    table["amplitude_dva"] = np.hypot(dx, dy)
    table["direction_deg"] = np.where(direction >= 180.0, -180.0, direction)
    return table
