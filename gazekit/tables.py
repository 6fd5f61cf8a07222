"""The three tables every dataset is made of (fixations, trials, stimuli) and what makes them valid.

Fixations: one row per fixation, in viewing order within a trial. Coordinates are pixels of the
stimulus, x to the right, y down; pixel (0, 0) covers [0, 1) x [0, 1). Times are seconds from
stimulus onset. NaN in ``t_s`` or ``duration_s`` means that the source does not know it.

Trials: one row per subject and presentation of a stimulus. Beyond the four columns that every
dataset has, ``TRIAL_EXTRAS`` names those that mean the same wherever they occur.

Stimuli: one row per stimulus; ``path`` is empty where the release holds no image.

Objects, where a dataset has them: one row per object on a stimulus, with its box.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from gazekit.errors import InputError

FIXATION_COLUMNS = ("subject", "stimulus", "trial", "fixation", "x_px", "y_px", "t_s", "duration_s")
TRIAL_COLUMNS = ("trial", "subject", "stimulus", "task")
STIMULUS_COLUMNS = ("stimulus", "path", "width_px", "height_px")
OBJECT_COLUMNS = ("stimulus", "object", "left_px", "top_px", "right_px", "bottom_px")
# The target's box, half-open like a pixel: left <= x < right. NaN where there is no box.
TARGET_BOX = ("target_left_px", "target_top_px", "target_right_px", "target_bottom_px")
# Trial columns that some datasets have, with their type; a missing value is NaN, <NA> or "".
TRIAL_EXTRAS = {
    "target": "str",  # what was searched for: a word, or the name of a template
    "target_path": "str",  # image of the target, where one was shown
    "target_present": "boolean",
    **dict.fromkeys(TARGET_BOX, "float64"),
    "found": "boolean",  # as the source flags it; not the same as a fixation in the box
    "correct": "boolean",  # the subject's answer was right
    "response_time_s": "float64",
    "max_saccades": "Int64",  # the trial ended after so many
    "start_x_px": "float64",  # where the design put the eye at the onset
    "start_y_px": "float64",
    "caption": "str",  # what the subject wrote about the stimulus
}


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
    # Within a trial nothing but the position changes from one row to the next.
    first = table.drop_duplicates("trial").set_index("trial")
    for column in ("subject", "stimulus"):
        mixed = (table["trial"].map(first[column]) != table[column]).to_numpy()
        if mixed.any():
            trial = table["trial"].iloc[int(mixed.argmax())]
            raise InputError(f"{what}: trial {trial} holds more than one subject or stimulus")
    return table


def check_trials(trials: pd.DataFrame, fixations: pd.DataFrame, card: str, allow_empty: bool = False) -> pd.DataFrame:
    """Return the trial table, checked against its fixations.

    Raises:
        InputError: A column is missing, a trial is listed twice, a fixation belongs to no listed
            trial or to one of another subject or stimulus, a column of ``TRIAL_EXTRAS`` has another
            type, a target's box is empty or half known, or (unless `allow_empty`) a trial has no fixation.

    """
    what = f"{card}, trials"
    _need(trials, TRIAL_COLUMNS, what)
    table = trials.reset_index(drop=True)
    try:
        table["trial"] = table["trial"].astype(np.int64)
    except (TypeError, ValueError) as error:
        raise InputError(f"{what}: trial numbers must be whole numbers ({error})") from error
    if table["trial"].duplicated().any():
        raise InputError(f"{what}: trial {table.loc[table['trial'].duplicated(), 'trial'].iloc[0]} is listed twice")
    table[["subject", "stimulus", "task"]] = table[["subject", "stimulus", "task"]].astype(str)
    if orphans := set(fixations["trial"]) - set(table["trial"]):
        raise InputError(f"{what}: fixations refer to trial {min(orphans)}, which is not listed")
    for column in [name for name in TRIAL_EXTRAS if name in table]:
        try:
            table[column] = table[column].astype(TRIAL_EXTRAS[column])
        except (TypeError, ValueError) as error:
            raise InputError(f"{what}: column {column!r} is not {TRIAL_EXTRAS[column]} ({error})") from error
    _check_boxes(table, TARGET_BOX, what)
    seen = fixations.drop_duplicates("trial")[["trial", "subject", "stimulus"]]
    both = table[["trial", "subject", "stimulus"]].merge(seen, on="trial", suffixes=("", "_of_fixations"))
    for column in ("subject", "stimulus"):
        differ = (both[column] != both[f"{column}_of_fixations"]).to_numpy()
        if differ.any():
            row = both.iloc[int(differ.argmax())]
            raise InputError(
                f"{what}: trial {row['trial']} has {column} {row[column]!r}, its fixations have "
                f"{row[f'{column}_of_fixations']!r}"
            )
    empty = ~table["trial"].isin(fixations["trial"])
    if empty.any() and not allow_empty:
        first = table[empty].iloc[0]
        raise InputError(
            f"{what}: {int(empty.sum())} of {len(table)} trials have no fixation (first: subject "
            f"{first['subject']!r}, stimulus {first['stimulus']!r}); the file is damaged or not the authors'"
        )
    return table


def check_stimuli(stimuli: pd.DataFrame, card: str) -> pd.DataFrame:
    """Return the stimulus table, checked: every column there, names unique, sizes positive whole numbers."""
    what = f"{card}, stimuli"
    _need(stimuli, STIMULUS_COLUMNS, what)
    table = stimuli.reset_index(drop=True)
    table[["stimulus", "path"]] = table[["stimulus", "path"]].astype(str)
    if table["stimulus"].duplicated().any():
        name = table.loc[table["stimulus"].duplicated(), "stimulus"].iloc[0]
        raise InputError(f"{what}: stimulus {name!r} is listed twice")
    try:
        table = table.astype({"width_px": np.int64, "height_px": np.int64})
    except (TypeError, ValueError) as error:
        raise InputError(f"{what}: width_px and height_px must be whole numbers ({error})") from error
    if (table[["width_px", "height_px"]] <= 0).any(axis=None):
        raise InputError(f"{what}: a width or height is not positive")
    return table


def check_objects(objects: pd.DataFrame, stimuli: pd.DataFrame, card: str) -> pd.DataFrame:
    """Return the object table, checked: known stimuli, objects numbered 0, 1, 2, ... on each, boxes with an area."""
    what = f"{card}, objects"
    _need(objects, OBJECT_COLUMNS, what)
    table = objects.reset_index(drop=True)
    box = OBJECT_COLUMNS[2:]
    try:
        table = table.astype({"stimulus": "str", "object": np.int64, **dict.fromkeys(box, "float64")})
    except (TypeError, ValueError) as error:
        raise InputError(f"{what}: a column is not numeric ({error})") from error
    if unknown := sorted(set(table["stimulus"]) - set(stimuli["stimulus"])):
        raise InputError(f"{what}: no stimulus named {unknown[0]!r} ({len(unknown)} unknown in all)")
    if (table.groupby("stimulus", sort=False).cumcount() != table["object"]).any():
        raise InputError(f"{what}: the objects of a stimulus must be numbered 0, 1, 2, ... in row order")
    if table[list(box)].isna().any(axis=None):
        raise InputError(f"{what}: an object has no box")
    _check_boxes(table, box, what)
    return table


def _check_boxes(table: pd.DataFrame, box: tuple[str, ...], what: str) -> None:
    if not any(column in table for column in box):
        return
    _need(table, box, what)
    left, top, right, bottom = (table[column].to_numpy(float) for column in box)
    known = np.isfinite([left, top, right, bottom])
    wrong = (known.any(0) & ~known.all(0)) | (right <= left) | (bottom <= top)
    if wrong.any():
        at = int(wrong.argmax())
        edges = ", ".join(f"{column}={table[column].iloc[at]}" for column in box)
        raise InputError(
            f"{what}: row {at} has no proper box ({edges}); expected left < right, top < bottom, or all NaN"
        )


def _row(table: pd.DataFrame, where: np.ndarray) -> str:
    row = table.iloc[int(where.argmax())]
    return ", ".join(f"{k}={row[k]}" for k in ("subject", "stimulus", "trial", "fixation", "x_px", "y_px"))
