"""The three tables every dataset is made of (fixations, trials, stimuli) and what makes them valid.

Fixations: one row per fixation, in viewing order within a trial. Coordinates are pixels of the
stimulus, x to the right, y down; pixel (0, 0) covers [0, 1) x [0, 1). Times are seconds from
stimulus onset. NaN in ``t_s`` or ``duration_s`` means that the source does not know it.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from gazekit.errors import InputError

FIXATION_COLUMNS = ("subject", "stimulus", "trial", "fixation", "x_px", "y_px", "t_s", "duration_s")
TRIAL_COLUMNS = ("trial", "subject", "stimulus", "task")
STIMULUS_COLUMNS = ("stimulus", "path", "width_px", "height_px")


def _need(table: pd.DataFrame, columns: tuple[str, ...], what: str) -> None:
    if missing := [name for name in columns if name not in table.columns]:
        raise InputError(f"{what}: missing column {missing}, found {list(table.columns)}, expected {list(columns)}")


def outside(fixations: pd.DataFrame, stimuli: pd.DataFrame) -> pd.Series:
    """Bool per fixation: True where it lies off its stimulus."""
    sizes = stimuli.set_index("stimulus")[["width_px", "height_px"]]
    width, height = sizes.loc[fixations["stimulus"]].to_numpy().T
    x, y = fixations["x_px"].to_numpy(), fixations["y_px"].to_numpy()
    off = (x < 0) | (x >= width) | (y < 0) | (y >= height)
    return pd.Series(off, index=fixations.index)


def check_fixations(fixations: pd.DataFrame, card: str) -> pd.DataFrame:
    """Return the table with the standard columns first and types settled, or say what is wrong.

    Args:
        fixations: Rows as in the module docstring; further columns are kept.
        card: Name that opens the error message.

    Raises:
        InputError: A column is missing, a coordinate is not finite, a duration is negative, or
            the fixations of a trial are not numbered 0, 1, 2, ... in the order of the rows.

    """
    what = f"{card}, fixations"
    _need(fixations, FIXATION_COLUMNS, what)
    rest = [name for name in fixations.columns if name not in FIXATION_COLUMNS]
    numbers = {"x_px": float, "y_px": float, "t_s": float, "duration_s": float, "trial": np.int64, "fixation": np.int64}
    table = fixations[[*FIXATION_COLUMNS, *rest]].reset_index(drop=True)
    try:
        table = table.astype(numbers)
    except (TypeError, ValueError) as error:
        raise InputError(f"{what}: a column is not numeric ({error})") from error
    table[["subject", "stimulus"]] = table[["subject", "stimulus"]].astype(str)
    broken = ~np.isfinite(table[["x_px", "y_px"]].to_numpy()).all(axis=1)
    if broken.any():
        raise InputError(f"{what}: row {int(broken.argmax())} has no finite position: {_row(table, broken)}")
    negative = (table["duration_s"] < 0).to_numpy()
    if negative.any():
        raise InputError(f"{what}: row {int(negative.argmax())} has a negative duration: {_row(table, negative)}")
    order = table.groupby("trial", sort=False).cumcount().to_numpy() != table["fixation"].to_numpy()
    if order.any():
        raise InputError(
            f"{what}: row {int(order.argmax())} is not the next fixation of its trial (fixations "
            f"count 0, 1, 2, ... in row order): {_row(table, order)}"
        )
    mixed = table.groupby("trial")[["subject", "stimulus"]].nunique().max(axis=1) > 1
    if mixed.any():
        raise InputError(f"{what}: trial {mixed.idxmax()} holds more than one subject or stimulus")
    return table


def check_trials(trials: pd.DataFrame, fixations: pd.DataFrame, card: str, allow_empty: bool = False) -> pd.DataFrame:
    """Return the trial table, checked against its fixations.

    Raises:
        InputError: A column is missing, a trial is listed twice, a fixation belongs to no listed
            trial, or (unless `allow_empty`) a trial has no fixation.

    """
    what = f"{card}, trials"
    _need(trials, TRIAL_COLUMNS, what)
    if trials["trial"].duplicated().any():
        raise InputError(f"{what}: trial {trials.loc[trials['trial'].duplicated(), 'trial'].iloc[0]} is listed twice")
    if orphans := set(fixations["trial"]) - set(trials["trial"]):
        raise InputError(f"{what}: fixations refer to trial {min(orphans)}, which is not listed")
    empty = ~trials["trial"].isin(fixations["trial"])
    if empty.any() and not allow_empty:
        first = trials[empty].iloc[0]
        raise InputError(
            f"{what}: {int(empty.sum())} of {len(trials)} trials have no fixation (first: subject "
            f"{first['subject']!r}, stimulus {first['stimulus']!r}); the file is damaged or not the authors'"
        )
    return trials.reset_index(drop=True)


def check_stimuli(stimuli: pd.DataFrame, card: str) -> pd.DataFrame:
    """Return the stimulus table, checked: every column there, names unique, sizes positive."""
    what = f"{card}, stimuli"
    _need(stimuli, STIMULUS_COLUMNS, what)
    if stimuli["stimulus"].duplicated().any():
        name = stimuli.loc[stimuli["stimulus"].duplicated(), "stimulus"].iloc[0]
        raise InputError(f"{what}: stimulus {name!r} is listed twice")
    if (stimuli[["width_px", "height_px"]] <= 0).any(axis=None):
        raise InputError(f"{what}: a width or height is not positive")
    return stimuli.reset_index(drop=True)


def _row(table: pd.DataFrame, where: np.ndarray) -> str:
    row = table.iloc[int(where.argmax())]
    return ", ".join(f"{k}={row[k]}" for k in ("subject", "stimulus", "trial", "fixation", "x_px", "y_px"))
