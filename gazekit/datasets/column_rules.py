"""What a column of a user's own table may hold, and one line for whatever it may not.

The rules of :mod:`gazekit.tables` with the row, the line and the remedy in the message; for tables in files
(:mod:`gazekit.datasets.readers.tables`) and in memory (:mod:`gazekit.datasets.from_frame`).
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gazekit.datasets.images import image_size_wh_px
from gazekit.errors import InputError
from gazekit.tables import (
    FIXATION_COLUMNS,
    OBJECT_COLUMNS,
    STIMULUS_COLUMNS,
    TRIAL_COLUMNS,
    TRIAL_EXTRAS,
    outside,
)

_IMAGE_SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
# No fixation lasts so long; a median above it means milliseconds under the name of seconds.
_LONGEST_MEDIAN_S = 10.0
MISSING = {"", "nan", "na", "n/a", "null", "none", "<na>"}
_TRUTH = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}
# What other programs call these columns, in lower case.
_ALIASES = {
    "subject": ("participant", "observer", "subj", "subject_id", "participant_id", "user", "recording_session_label"),
    "stimulus": ("image", "img", "image_name", "stimulus_name", "filename", "file", "picture"),
    "x_px": ("x", "fix_x", "pos_x", "x_pos", "location_x", "current_fix_x", "fixx", "fpogx"),
    "y_px": ("y", "fix_y", "pos_y", "y_pos", "location_y", "current_fix_y", "fixy", "fpogy"),
    "duration_s": ("duration", "dur", "duration_ms", "fix_duration", "current_fix_duration"),
    "t_s": ("onset", "t", "time", "start", "t_ms", "onset_ms", "current_fix_start"),
}


@dataclass(frozen=True)
class Origin:
    """Where a table comes from, for messages.

    Args:
        what: The file, or the name of a table in memory.
        first_line: Line of the file that holds row 0, where each row is one line; None where it is not.
        rename: How to rename a column, with ``{found!r}`` and ``{wanted!r}`` to fill in.
        seconds: What to do about durations that are meant as they are although they look like milliseconds.

    """

    what: str
    first_line: int | None = None
    rename: str = "rename {found!r} to {wanted!r}"
    seconds: str = (
        "divide them by 1000, for tables are in seconds whatever the source was in; or say "
        "'source_units: {duration: s}' in the card if they are seconds"
    )

    def at(self, row: int) -> str:
        """The row as a message names it; rows count from 0."""
        line = "" if self.first_line is None else f" (line {row + self.first_line})"
        return f"{self.what}: row {row}{line}"


def standard_fixations(table: pd.DataFrame, origin: Origin, trials: pd.DataFrame | None = None) -> pd.DataFrame:
    """The fixation table with every standard column, numbered and of settled types.

    Args:
        table: ``subject``, ``stimulus``, ``x_px``, ``y_px`` and any of the others.
        origin: Where it comes from.
        trials: The trial table that goes with it, if one is given: a missing ``trial`` is then looked up
            there by subject and stimulus.

    Raises:
        InputError: A column or a value is missing or of another kind, or the rows of a trial are mixed up.

    """
    need_columns(table, ("subject", "stimulus", "x_px", "y_px"), origin)
    if table.empty:
        raise InputError(f"{origin.what}: holds no fixation")
    table = table.reset_index(drop=True)
    columns: dict[str, Any] = {name: names(table[name], name, origin) for name in ("subject", "stimulus")}
    for name in ("x_px", "y_px"):
        columns[name] = numbers(table[name], name, origin)
        refuse(
            ~np.isfinite(columns[name]), columns[name], origin, f"{name} is {{}}, expected a finite position in pixels"
        )
    for name in ("t_s", "duration_s"):
        columns[name] = numbers(table[name], name, origin) if name in table else np.full(len(table), np.nan)
        refuse(np.isinf(columns[name]), columns[name], origin, f"{name} is {{}}, expected seconds")
    duration = columns["duration_s"]
    refuse(duration < 0, duration, origin, "duration_s is {}, expected no negative duration")
    result = pd.DataFrame(columns | {name: table[name] for name in table.columns if name not in FIXATION_COLUMNS})
    if "trial" in table:
        result["trial"] = whole_numbers(table["trial"], "trial", origin)
        _refuse_mixed_trials(result, origin)
    else:
        result["trial"] = number_trials(result, origin, trials)
    order = result.groupby("trial", sort=False).cumcount().to_numpy()
    if "fixation" in table:
        found = whole_numbers(table["fixation"], "fixation", origin)
        _refuse_other_order(found, order, origin)
    result["fixation"] = order
    return result[[*FIXATION_COLUMNS, *(name for name in result.columns if name not in FIXATION_COLUMNS)]]


def number_trials(fixations: pd.DataFrame, origin: Origin, trials: pd.DataFrame | None = None) -> NDArray[np.int64]:
    """One number per row: one trial per subject and stimulus, in the order of their first rows.

    With a trial table the numbers are its own.

    Raises:
        InputError: Rows of one subject and stimulus do not follow one another, so that they may be several
            trials; or the trial table lists none, or several, for them.

    """
    pair = ["subject", "stimulus"]
    number = fixations.groupby(pair, sort=False).ngroup().to_numpy()
    if trials is None:
        starts = np.flatnonzero(np.diff(number, prepend=-1))
        again = starts[pd.Series(number[starts]).duplicated().to_numpy()]
        if again.size:
            row = int(again[0])
            subject, stimulus = fixations.loc[row, pair]
            raise InputError(
                f"{origin.at(row)}: subject {subject!r} is back on stimulus {stimulus!r} after other rows; if that is "
                "another trial, add a column 'trial' with a number for each; if not, put the rows of a trial together"
            )
        return np.asarray(number, np.int64)
    several = trials.duplicated(pair, keep=False)
    if several.any():
        subject, stimulus = trials.loc[several, pair].iloc[0]
        raise InputError(
            f"{origin.what}: lacks a column 'trial', and the trial table lists several trials of subject {subject!r} "
            f"on stimulus {stimulus!r}; add the column"
        )
    found = fixations[pair].merge(trials[[*pair, "trial"]], on=pair, how="left")["trial"]
    if found.isna().any():
        row = int(found.isna().to_numpy().argmax())
        subject, stimulus = fixations.loc[row, pair]
        raise InputError(
            f"{origin.at(row)}: the trial table lists no trial of subject {subject!r} on stimulus {stimulus!r}"
        )
    return np.asarray(found, np.int64)


def standard_trials(table: pd.DataFrame, origin: Origin, task: str) -> pd.DataFrame:
    """The trial table with every standard column; trials without a number get that of their row.

    Raises:
        InputError: A column or a value is missing or of another kind.

    """
    need_columns(table, ("subject", "stimulus"), origin)
    table = table.reset_index(drop=True)
    trial = whole_numbers(table["trial"], "trial", origin) if "trial" in table else np.arange(len(table))
    columns: dict[str, Any] = {"trial": trial}
    for name in ("subject", "stimulus"):
        columns[name] = names(table[name], name, origin)
    columns["task"] = names(table["task"], "task", origin) if "task" in table else task
    for name in (name for name in table.columns if name not in TRIAL_COLUMNS):
        columns[name] = table[name]
        kind = TRIAL_EXTRAS.get(name)
        if kind == "boolean":
            columns[name] = _truth_values(table[name], name, origin)
        elif kind in ("float64", "Int64"):
            values = numbers(table[name], name, origin)
            if kind == "Int64":
                refuse(
                    np.isinf(values) | (values % 1 != 0) & ~np.isnan(values),
                    values,
                    origin,
                    f"{name} is {{}}, expected a whole number",
                )
            columns[name] = pd.array(pd.Series(values), dtype=kind)
        elif kind == "str":
            columns[name] = table[name].astype("str").where(table[name].notna(), "")
    return pd.DataFrame(columns, index=table.index)


def trials_of(fixations: pd.DataFrame, task: str) -> pd.DataFrame:
    """The trial table of a fixation table, in the order in which trials first occur."""
    first = fixations.drop_duplicates("trial")[["trial", "subject", "stimulus"]].reset_index(drop=True)
    return first.assign(task=pd.Series(task, index=first.index, dtype="str"))


def standard_stimuli(
    stated: pd.DataFrame | None,
    wanted: Iterable[str],
    images: Mapping[str, Path],
    origin: Origin,
    *,
    folder: Path | None = None,
    size_wh_px: tuple[int, int] | None = None,
    images_optional: bool = False,
) -> pd.DataFrame:
    """The stimulus table, from what a table states, from the images and from the screen, in this order.

    Args:
        stated: A stimulus table, of which only ``stimulus`` must be there; or None.
        wanted: Names to list where there is no such table.
        images: Name -> image.
        origin: Where `stated`, or else the names, come from.
        folder: What a relative ``path`` in `stated` starts from; None is the current folder.
        size_wh_px: Size of a stimulus whose size is known from nowhere else.
        images_optional: True where an image may be missing.

    Raises:
        InputError: An image is missing or unreadable, or of other proportions than stated; or a size is not known.

    """
    if stated is None:
        table = pd.DataFrame({"stimulus": pd.Series(list(wanted), dtype="str")})
    else:
        need_columns(stated, ("stimulus",), origin)
        table = stated.reset_index(drop=True)
    table["stimulus"] = names(table["stimulus"], "stimulus", origin)
    paths = [""] * len(table)
    if "path" in table:
        given = table["path"].astype("str").where(table["path"].notna(), "").tolist()
        paths = [_stated_path(path, folder, origin, row) for row, path in enumerate(given)]
    found = [path or str(images.get(name, "")) for path, name in zip(paths, table["stimulus"], strict=True)]
    missing = [row for row, path in enumerate(found) if not path]
    if missing and not images_optional:
        name = table["stimulus"].iloc[missing[0]]
        near = difflib.get_close_matches(name, list(images), n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise InputError(
            f"{origin.what}: no image for stimulus {name!r} ({len(missing)} of {len(table)} stimuli have none){hint}"
        )
    sides = {name: numbers(table[name], name, origin) for name in ("width_px", "height_px") if name in table}
    if len(sides) == 1:
        raise InputError(f"{origin.what}: has {next(iter(sides))} alone; give both width_px and height_px, or none")
    width, height = sides.values() if sides else (np.full(len(table), np.nan),) * 2
    sizes = [
        _stimulus_size(name, (w, h), path, bool(own), size_wh_px, origin)
        for name, w, h, path, own in zip(table["stimulus"], width.tolist(), height.tolist(), found, paths, strict=True)
    ]
    rest = {name: table[name] for name in table.columns if name not in STIMULUS_COLUMNS}
    side = np.array(sizes, dtype=np.int64).reshape(-1, 2)
    columns = {
        "stimulus": table["stimulus"],
        "path": pd.Series(found, index=table.index, dtype="str"),
        "width_px": side[:, 0],
        "height_px": side[:, 1],
    }
    return pd.DataFrame(columns | rest)


def standard_objects(table: pd.DataFrame, origin: Origin) -> pd.DataFrame:
    """The object table with settled types."""
    need_columns(table, OBJECT_COLUMNS, origin)
    columns: dict[str, Any] = {"stimulus": names(table["stimulus"], "stimulus", origin)}
    columns["object"] = whole_numbers(table["object"], "object", origin)
    for name in OBJECT_COLUMNS[2:]:
        columns[name] = numbers(table[name], name, origin)
    return pd.DataFrame(columns | {name: table[name] for name in table.columns if name not in OBJECT_COLUMNS})


def refuse_milliseconds(fixations: pd.DataFrame, origin: Origin) -> None:
    """Raise where durations, or the steps between onsets, can only be milliseconds."""
    steps = fixations["t_s"].diff()[(fixations["trial"] == fixations["trial"].shift()).to_numpy()]
    for what, values in (("duration_s", fixations["duration_s"]), ("t_s", steps)):
        median = values.median()
        if median > _LONGEST_MEDIAN_S:
            part = "median" if what == "duration_s" else "median step within a trial"
            raise InputError(
                f"{origin.what}: {what} looks like milliseconds ({part} {median:g}), expected seconds; {origin.seconds}"
            )


def refuse_fractions(fixations: pd.DataFrame, stimuli: pd.DataFrame, origin: Origin) -> None:
    """Raise where positions can only be fractions of the stimulus."""
    xy = fixations[["x_px", "y_px"]].to_numpy()
    between = len(xy) > 0 and xy.min() >= 0 and xy.max() <= 1 and bool((xy % 1 != 0).any())
    if between and (stimuli[["width_px", "height_px"]] > 2).all(axis=None):
        raise InputError(
            f"{origin.what}: x_px and y_px are all between 0 and 1, which look like fractions of the stimulus; "
            "expected pixels: multiply them by its width and height"
        )


def what_was_assumed(given: pd.DataFrame, fixations: pd.DataFrame, stimuli: pd.DataFrame) -> tuple[str, ...]:
    """What a user should know about how the table was taken, one sentence each."""
    said = []
    if "trial" not in given:
        said.append("Without a column 'trial', all rows of a subject on a stimulus are one trial.")
    if off := int(outside(fixations, stimuli).sum()):
        said.append(f"{off} of {len(fixations)} fixations lie outside their stimulus and are kept.")
    return tuple(said)


def refuse_unknown_stimuli(table: pd.DataFrame, stimuli: pd.DataFrame, origin: Origin) -> None:
    """Raise where a row is on a stimulus that the stimulus table does not list."""
    unknown = ~table["stimulus"].isin(stimuli["stimulus"]).to_numpy()
    if unknown.any():
        row = int(unknown.argmax())
        name, known = table["stimulus"].iloc[row], list(stimuli["stimulus"])
        near = difflib.get_close_matches(name, known, n=1) or difflib.get_close_matches(Path(name).stem, known, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        n = table.loc[unknown, "stimulus"].nunique()
        raise InputError(
            f"{origin.at(row)}: stimulus {name!r} is not among the {len(known)} stimuli ({n} unknown in all){hint}"
        )


def need_columns(table: pd.DataFrame, columns: Iterable[str], origin: Origin) -> None:
    """Raise where a column is missing; the message lists the columns there are and the likeliest one."""
    found = [str(name) for name in table.columns]
    if twice := [name for name in dict.fromkeys(found) if found.count(name) > 1]:
        raise InputError(f"{origin.what}: column {twice[0]!r} is there twice")
    for wanted in columns:
        if wanted not in found:
            near = likely_column(wanted, found)
            hint = "" if near is None else f"; {origin.rename.format(found=near, wanted=wanted)}"
            raise InputError(f"{origin.what}: no column {wanted!r}, found {found}{hint}")


def likely_column(wanted: str, found: Collection[str]) -> str | None:
    """The column that is probably meant by one of ours, if any is like it."""
    lower = {name.strip().lower(): name for name in found}
    for alias in (wanted, *_ALIASES.get(wanted, ())):
        if alias in lower:
            return lower[alias]
    taken = {*FIXATION_COLUMNS, *TRIAL_COLUMNS, *STIMULUS_COLUMNS, *TRIAL_EXTRAS}
    free = [name for name in lower if name not in taken]
    near = difflib.get_close_matches(wanted, free, n=1) or difflib.get_close_matches(
        wanted.rsplit("_", 1)[0], free, n=1
    )
    return lower[near[0]] if near else None


def refuse(wrong: NDArray[np.bool_], values: Any, origin: Origin, message: str) -> None:
    """Raise at the first row that is `wrong`; ``{}`` in the message becomes its value."""
    if wrong.any():
        row = int(wrong.argmax())
        raise InputError(f"{origin.at(row)}: {message.format(values[row])}")


def names(column: pd.Series, name: str, origin: Origin) -> pd.Series:
    """The column as text, where every row must have some; whole numbers lose the point that a NaN gave them."""
    missing = column.isna().to_numpy()
    if (
        pd.api.types.is_float_dtype(column)
        and not missing.any()
        and np.isfinite(column).all()
        and (column % 1 == 0).all()
    ):
        column = column.astype(np.int64)
    text = column.astype("str")
    missing = missing | (text.str.strip() == "").to_numpy(bool, na_value=True)
    if missing.any():
        raise InputError(f"{origin.at(int(missing.argmax()))}: {name} is missing")
    return text.reset_index(drop=True)


def numbers(column: pd.Series, name: str, origin: Origin) -> NDArray[np.float64]:
    """(N,) the column as float64; NaN where it is empty or NaN.

    Raises:
        InputError: A value is not a number; truth values are none either.

    """
    types = pd.api.types
    if types.is_numeric_dtype(column) and not types.is_bool_dtype(column) and not types.is_complex_dtype(column):
        return np.asarray(column.to_numpy(np.float64, na_value=np.nan))
    result = np.full(len(column), np.nan)
    for row, value in enumerate(column.tolist()):
        if isinstance(value, str):
            if value.strip().lower() in MISSING:
                continue
        elif value is None or value is pd.NA:
            continue
        try:
            # float() would take truth values and 1_000, which nobody means as a number here.
            if isinstance(value, bool | np.bool_) or (isinstance(value, str) and "_" in value):
                raise ValueError
            result[row] = float(value)
        except (TypeError, ValueError, OverflowError):
            shown = f"{value!r:.60}"
            raise InputError(f"{origin.at(row)}: {name} is {shown}, expected a number") from None
    return result


def whole_numbers(column: pd.Series, name: str, origin: Origin) -> NDArray[np.int64]:
    """(N,) the column as int64, where every row must have a whole number."""
    if pd.api.types.is_integer_dtype(column) and not column.isna().any():
        try:
            return np.asarray(column.to_numpy(np.int64))
        except OverflowError:
            pass
    text = not pd.api.types.is_numeric_dtype(column)
    try:
        values = numbers(column, name, origin)
    except InputError as error:
        mend = f"; number the labels, for example with pandas.factorize({name})[0]" if text else ""
        raise InputError(f"{error}{mend}") from None
    # Above 2**53 a float64 no longer holds every whole number.
    refuse(~(np.abs(values) < 2**53) | (values % 1 != 0), values, origin, f"{name} is {{}}, expected a whole number")
    return values.astype(np.int64)


def images_by_name(folder: Path) -> dict[str, Path]:
    """Stimulus name -> image below `folder`: the name is the path from there, without the suffix.

    Raises:
        InputError: Two images have one name.

    """
    found: dict[str, Path] = {}
    for below, folders, files in os.walk(folder):
        folders.sort()
        for file in sorted(files):
            path = Path(below) / file
            if path.suffix.lower() not in _IMAGE_SUFFIXES or file.startswith("."):
                continue
            name = path.relative_to(folder).with_suffix("").as_posix()
            if name in found:
                raise InputError(f"{path}: the same stimulus name as {found[name].name}; keep one of the two images")
            found[name] = path
    return found


def _refuse_mixed_trials(fixations: pd.DataFrame, origin: Origin) -> None:
    first = fixations.drop_duplicates("trial").set_index("trial")
    for column in ("subject", "stimulus"):
        expected = fixations["trial"].map(first[column])
        mixed = (expected != fixations[column]).to_numpy()
        if mixed.any():
            row = int(mixed.argmax())
            raise InputError(
                f"{origin.at(row)}: trial {fixations['trial'].iloc[row]} is of {column} {expected.iloc[row]!r} and of "
                f"{fixations[column].iloc[row]!r}; where numbers start again for each subject, make them unique: "
                "table['trial'] = table.groupby(['subject', 'trial'], sort=False).ngroup()"
            )


def _refuse_other_order(found: NDArray[np.int64], order: NDArray[np.int64], origin: Origin) -> None:
    wrong = found != order
    if not wrong.any():
        return
    row = int(wrong.argmax())
    from_one = bool((found == order + 1).all())
    mend = (
        "subtract 1, or leave the column out"
        if from_one
        else "sort the rows by trial and fixation, or leave the column out"
    )
    raise InputError(
        f"{origin.at(row)}: fixation is {found[row]}, expected {order[row]} (fixations of a trial count 0, 1, 2, ... "
        f"in the order of the rows); {mend}"
    )


def _truth_values(column: pd.Series, name: str, origin: Origin) -> Any:
    values: list[bool | None] = []
    for row, value in enumerate(column.tolist()):
        text = "" if value is None or value is pd.NA else str(value).strip().lower()
        if text not in _TRUTH and text not in MISSING:
            raise InputError(f"{origin.at(row)}: {name} is {value!r:.60}, expected true, false or nothing")
        values.append(_TRUTH.get(text))
    return pd.array(values, dtype="boolean")


def _stated_path(path: str, folder: Path | None, origin: Origin, row: int) -> str:
    """The stated path if a file is there, else ""."""
    if not path or "\0" in path:
        return ""
    if not (PurePosixPath(path).is_absolute() or PureWindowsPath(path).anchor):
        # A folder that somebody else wrote must not point out of itself unseen.
        if ".." in re.split(r"[/\\]", path):
            raise InputError(f"{origin.at(row)}: path {path!r} leaves the folder; put the image in images/")
        path = str((folder or Path()) / path)
    try:
        return path if Path(path).is_file() else ""
    except OSError:  # a name too long to be one
        return ""


def _stimulus_size(
    name: str,
    stated: tuple[float, float],
    path: str,
    checked: bool,
    screen_wh_px: tuple[int, int] | None,
    origin: Origin,
) -> tuple[int, int]:
    if np.isnan(stated).all():
        if path:
            return image_size_wh_px(path)
        if screen_wh_px is None:
            raise InputError(
                f"{origin.what}: the size of stimulus {name!r} is not known; give width_px and height_px in the "
                "stimulus table, an image, or a screen"
            )
        return screen_wh_px
    if not all(side > 0 and side % 1 == 0 and side < 2**31 for side in stated):
        raise InputError(
            f"{origin.what}: stimulus {name!r} is {stated[0]:g} x {stated[1]:g} px, expected positive whole numbers"
        )
    width, height = int(stated[0]), int(stated[1])
    if path and not checked:
        wide, high = image_size_wh_px(path)
        # An image may be shown in another size, but not in another shape; swapped sides are the usual mistake.
        if abs(wide * height - high * width) > max(wide, high, width, height):
            raise InputError(
                f"{path}: image is {wide}x{high} px, the stimulus table says {width}x{height}; correct one of them"
            )
    return width, height
