"""Scanpaths that a model made, out of a file: enough to score a model that gazekit cannot run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from gazekit.errors import InputError

_NEEDED = ("stimulus", "fixation", "x_px", "y_px")
# Columns that tell scanpaths on one stimulus apart, the first of them that is there.
_WAYS = ("trial", "sample", "subject")
# Where the design put the eye.
_START = ("start_x_px", "start_y_px")
# Half of all fixations last less than this, in seconds; larger numbers are milliseconds.
_LONGEST_MEDIAN_S = 20.0


def is_scanpath_file(given: str) -> bool:
    """Whether a model is given as scanpaths that it made, rather than as a checkpoint or a name."""
    return Path(given).suffix in (".parquet", ".csv")


def read_scanpaths(path: Path) -> pd.DataFrame:
    """Scanpaths that a model made: one row per fixation, as ``gazekit predict`` and ``gazekit evaluate`` write them.

    Columns: ``stimulus``, ``fixation`` (0, 1, 2, ...; 0 is the initial one, and a scanpath without it begins at 1),
    ``x_px``, ``y_px`` in px of the stimulus; which scanpath a row belongs to, by ``trial``, ``sample`` or ``subject``;
    and, if known, ``duration_s``, ``target``, and ``start_x_px`` and ``start_y_px``, where the design put the eye; what
    has these is compared with trials for that target, from that start. Of a table with a column ``model``, all rows
    must be of one.

    Raises:
        InputError: The file cannot be read, or is not such a table.

    """
    if not path.is_file():
        raise InputError(f"no file {path}; expected a table of scanpaths (.parquet or .csv)")
    try:
        table = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path)
    except (OSError, ValueError) as error:  # pyarrow's and pandas' own errors derive from these two
        raise InputError(f"{path} is not a table of scanpaths: {' '.join(str(error).split())}") from error
    if missing := [name for name in _NEEDED if name not in table]:
        raise InputError(f"{path}: missing column {missing}, found {list(table.columns)}")
    way = next((name for name in _WAYS if name in table), None)
    if way is None:
        raise InputError(f"{path}: expected a column trial, sample or subject that tells scanpaths apart")
    if "model" in table and table["model"].nunique() > 1:
        raise InputError(f"{path}: scanpaths of {table['model'].nunique()} models; give a file with one of them")
    target = table["target"].astype(object).where(table["target"].notna(), "") if "target" in table else ""
    table = table.assign(stimulus=table["stimulus"].astype(str), target=target).reset_index(drop=True)
    table["target"] = table["target"].astype(str)
    table = _with_numbers(table, path)
    table["trial"] = table.groupby(["stimulus", "target", way], sort=False).ngroup()
    table = table.sort_values(["trial", "fixation"], kind="stable", ignore_index=True)
    if (twice := table.duplicated(["trial", "fixation"])).any():
        at = table[twice].iloc[0]
        raise InputError(
            f"{path}: fixation {at['fixation']} of {way} {at[way]} on stimulus {at['stimulus']} is given twice"
        )
    first = table.groupby("trial")["fixation"].transform("first")
    gap = (first > 1) | (table["fixation"] - first != table.groupby("trial").cumcount())
    if gap.any():
        at = table[gap].iloc[0]
        raise InputError(
            f"{path}: fixation {at['fixation']} of {way} {at[way]} on stimulus {at['stimulus']} is not the next one; "
            f"expected 0, 1, 2, ... or, without the initial fixation, 1, 2, 3, ..."
        )
    return table


def _with_numbers(table: pd.DataFrame, path: Path) -> pd.DataFrame:
    """The table with numeric columns, text that is a number included."""
    numbers = table[list(_NEEDED[1:])].apply(pd.to_numeric, errors="coerce").astype(float)
    if not np.isfinite(numbers.to_numpy()).all():
        row = int((~np.isfinite(numbers.to_numpy())).any(1).argmax())
        found = table.loc[row, list(_NEEDED)].tolist()
        raise InputError(f"{path}: row {row} has no finite fixation, x_px, y_px: {found}")
    wrong = (numbers["fixation"] % 1 != 0) | (numbers["fixation"] < 0)
    if wrong.any():
        row = int(wrong.argmax())
        raise InputError(f"{path}: row {row} is fixation {numbers.loc[row, 'fixation']:g}, expected 0, 1, 2, ...")
    duration_s = pd.Series(np.nan, index=table.index)
    if "duration_s" in table:
        duration_s = pd.to_numeric(table["duration_s"], errors="coerce").astype(float)
        wrong = (duration_s.isna() & table["duration_s"].notna()) | (duration_s < 0) | np.isinf(duration_s)
        if wrong.any():
            row = int(wrong.argmax())
            raise InputError(
                f"{path}: row {row} has duration_s {table.loc[row, 'duration_s']!r}, expected seconds >= 0"
            )
        if duration_s.median() > _LONGEST_MEDIAN_S:
            raise InputError(
                f"{path}: half of the fixations last more than {_LONGEST_MEDIAN_S:g} s; duration_s is in seconds, "
                f"not in milliseconds"
            )
    starts = {name: pd.Series(np.nan, index=table.index) for name in _START}
    if (given := [name for name in _START if name in table]) and len(given) < 2:
        raise InputError(f"{path}: has {given[0]}, but not {next(name for name in _START if name not in given)}")
    for name in given:
        starts[name] = pd.to_numeric(table[name], errors="coerce").astype(float)
        wrong = (starts[name].isna() & table[name].notna()) | np.isinf(starts[name])
        if wrong.any():
            row = int(wrong.argmax())
            raise InputError(f"{path}: row {row} has {name} {table.loc[row, name]!r}, expected px or nothing")
    return table.assign(**numbers, duration_s=duration_s, **starts).astype({"fixation": "int64"})
