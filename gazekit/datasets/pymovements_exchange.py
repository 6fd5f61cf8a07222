"""From pymovements: the fixations among its events.

pymovements (https://github.com/pymovements/pymovements, looked at in version 0.28) keeps events in a polars
frame with ``name``, ``onset``, ``offset`` and ``duration``, times in the unit of its gaze samples, which
is milliseconds unless something else was asked for. Positions are a property that is computed on request:
``gaze.compute_event_properties(("location", {"position_column": "pixel"}))`` adds ``location`` as a list
[x, y], ``events.unnest()`` makes ``location_x`` and ``location_y`` of it. Subject and stimulus are
whatever trial columns the recording has.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from gazekit.datasets.column_rules import Origin, names, need_columns, numbers
from gazekit.datasets.dataset import GazeDataset
from gazekit.datasets.from_frame import from_dataframe
from gazekit.errors import InputError
from gazekit.geometry import Screen

# No stimulus is so small that all fixations on it lie this near its corner; degrees from its center do.
_DVA_AT_MOST = 60.0
_OURS = ("subject", "stimulus", "trial", "fixation", "x_px", "y_px", "t_s", "duration_s")


def from_pymovements(
    events: Any,
    *,
    name: str,
    subject: str,
    stimulus: str,
    trial: str | Sequence[str] | None = None,
    stimulus_onset: str | float | None = None,
    stimuli: pd.DataFrame | None = None,
    screen: Screen | Mapping[str, Any] | None = None,
    images: Path | str | Mapping[str, Path | str] | None = None,
    task: str = "free_viewing",
    forced_initial: bool = False,
    split: Mapping[str, Any] | None = None,
    card: Mapping[str, Any] | None = None,
) -> GazeDataset:
    """A dataset of the events whose name starts with ``fixation``, in the order of their rows.

    Positions are pixels of the stimulus from its top-left corner, so ``location`` must have been computed
    from the column ``pixel`` (pymovements' default is ``position``, in degrees), with the screen's origin
    "upper left" and the stimulus filling the screen. Further columns are kept.

    Args:
        events: An ``Events`` (or the older ``EventDataFrame``), or a polars or pandas frame of events, with
            ``location`` as a list [x, y] or ``location_x`` and ``location_y``, in px, and times in ms.
            For several recordings: their frames, put together.
        name: Name of the dataset.
        subject: Column with the subject.
        stimulus: Column with the stimulus.
        trial: Column, or columns, that tell apart the trials of a subject; None where each subject sees each
            stimulus once.
        stimulus_onset: When the stimulus appeared, in ms of the same clock as ``onset``: a column, or one
            number for all (0 where the clock starts with the stimulus). None where it is not known: ``t_s``
            is then NaN.
        stimuli: As in :func:`~gazekit.datasets.from_frame.from_dataframe`.
        screen: As there.
        images: As there.
        task: As there.
        forced_initial: As there.
        split: As there.
        card: As there.

    Raises:
        InputError: `events` is something else, a column is missing, no event is a fixation, or the positions
            are degrees.

    """
    origin = Origin(f"{name}, events", rename="say {wanted}={found!r}")
    table = _pandas(events, origin)
    trial_columns = [trial] if isinstance(trial, str) else list(trial or ())
    need_columns(table, ["name", "onset", "duration"], Origin(origin.what))
    for argument, column in (("subject", subject), ("stimulus", stimulus), *(("trial", c) for c in trial_columns)):
        if column not in table:
            raise InputError(f"{origin.what}: no column {column!r}, found {list(table.columns)}; say {argument}=COLUMN")
    table = table[table["name"].astype("str").str.startswith("fixation")].reset_index(drop=True)
    if table.empty:
        raise InputError(f"{origin.what}: none is a fixation; detect some first, for example gaze.detect('ivt')")
    x, y = _location(table, origin)
    if (np.abs([x, y]) <= _DVA_AT_MOST).all() and (np.minimum(x, y) < 0).any():
        raise InputError(
            f"{origin.what}: location looks like degrees of visual angle (all within {_DVA_AT_MOST:g} of 0), expected "
            "pixels; compute it with gaze.compute_event_properties(('location', {'position_column': 'pixel'}))"
        )
    columns: dict[str, Any] = {
        "subject": names(table[subject], subject, origin),
        "stimulus": names(table[stimulus], stimulus, origin),
        "x_px": x,
        "y_px": y,
        "duration_s": numbers(table["duration"], "duration", origin) / 1000.0,
    }
    if trial_columns:
        labels = pd.DataFrame({"subject": columns["subject"]} | {c: names(table[c], c, origin) for c in trial_columns})
        columns["trial"] = labels.groupby(list(labels.columns), sort=False).ngroup()
    if stimulus_onset is not None:
        columns["t_s"] = (numbers(table["onset"], "onset", origin) - _onset_of(stimulus_onset, table, origin)) / 1000.0
    # What is named above is used up; a further column that has one of our names is another thing.
    used = {
        subject,
        stimulus,
        stimulus_onset,
        "name",
        "onset",
        "offset",
        "duration",
        "location",
        "location_x",
        "location_y",
    }
    for column in (c for c in table.columns if c not in used and c not in _OURS and c not in columns):
        columns[column] = table[column]
    return from_dataframe(
        pd.DataFrame(columns),
        name=name,
        stimuli=stimuli,
        screen=screen,
        units={"duration_s": "s"} | ({"t_s": "s"} if stimulus_onset is not None else {}),
        images=images,
        task=task,
        forced_initial=forced_initial,
        split=split,
        card=card,
    )


def _pandas(events: Any, origin: Origin) -> pd.DataFrame:
    """The events as a pandas frame with a column ``name``; lists stay lists."""
    frame = events if isinstance(events, pd.DataFrame) else getattr(events, "frame", events)
    if not isinstance(frame, pd.DataFrame):
        # polars, which is not imported for it.
        columns, to_dict = getattr(frame, "columns", None), getattr(frame, "to_dict", None)
        if columns is None or to_dict is None:
            raise InputError(
                f"{origin.what}: found a {type(events).__name__}, expected Events of pymovements, or a polars or "
                "pandas frame"
            )
        frame = pd.DataFrame({name: pd.Series(values) for name, values in to_dict(as_series=False).items()})
    return frame.rename(columns=str).reset_index(drop=True)


def _location(table: pd.DataFrame, origin: Origin) -> tuple[Any, Any]:
    """(x, y) of each row."""
    if "location" in table:
        pairs = []
        for row, value in enumerate(table["location"].tolist()):
            if isinstance(value, str) or not hasattr(value, "__len__") or len(value) != 2:
                raise InputError(f"{origin.at(row)}: location is {str(value)[:60]}, expected [x, y]")
            pairs.append(list(value))
        both = pd.DataFrame(pairs, columns=["x", "y"], dtype=object)
        x, y = (numbers(both[axis], f"{axis} of location", origin) for axis in "xy")
    elif {"location_x", "location_y"} <= set(table.columns):
        x, y = (numbers(table[f"location_{axis}"], f"location_{axis}", origin) for axis in "xy")
    else:
        raise InputError(
            f"{origin.what}: no column 'location', found {list(table.columns)}; compute it with "
            "gaze.compute_event_properties(('location', {'position_column': 'pixel'}))"
        )
    lost = ~(np.isfinite(x) & np.isfinite(y))
    if lost.any():
        raise InputError(
            f"{origin.at(int(lost.argmax()))}: the fixation has no position ({int(lost.sum())} have none); leave such "
            "events out"
        )
    return x, y


def _onset_of(stimulus_onset: str | float, table: pd.DataFrame, origin: Origin) -> Any:
    if not isinstance(stimulus_onset, str):
        if isinstance(stimulus_onset, bool) or not isinstance(stimulus_onset, int | float):
            raise InputError(f"stimulus_onset is {stimulus_onset!r}, expected a column or a number of ms")
        return float(stimulus_onset)
    if stimulus_onset not in table:
        raise InputError(
            f"{origin.what}: no column {stimulus_onset!r}, found {list(table.columns)}; say stimulus_onset=COLUMN"
        )
    return numbers(table[stimulus_onset], stimulus_onset, origin)
