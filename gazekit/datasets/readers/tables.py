"""Plain tables: how a lab adds its own data by writing a card, and what :meth:`GazeDataset.to_parquet` writes.

A folder holds ``card.yaml`` (with ``format: tables``) and, each as ``.csv`` (UTF-8, commas, a header)
or ``.parquet``:

- ``fixations``: the columns of :mod:`gazekit.tables`. May be left out: ``trial`` (one trial per subject
  and stimulus, whose rows must then follow one another), ``fixation`` (the order of the rows counts),
  ``t_s`` and ``duration_s`` (unknown). Further columns are kept.
- ``trials``, optional: may leave out ``trial`` (numbered by row) and ``task`` (the card's).
- ``stimuli``, optional: may leave out the sizes (the images') and ``path``. Without this table the
  stimuli are the images in ``images/``, named without suffix, with the folders below ``images/`` if any.
- ``objects``, optional.

An image is the file at ``path``, if there is one, else ``images/NAME.*``. With ``images: optional`` in
the card it may be missing; a size that no table states is then the screen's.

The same rules hold for tables in memory, see :func:`gazekit.datasets.from_frame.from_dataframe`.
"""

from __future__ import annotations

import csv
import warnings
from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from pandas.errors import ParserWarning
from pyarrow import parquet

from gazekit.datasets.card import Card
from gazekit.datasets.column_rules import (
    MISSING,
    Origin,
    images_by_name,
    need_columns,
    refuse_fractions,
    refuse_milliseconds,
    refuse_unknown_stimuli,
    standard_fixations,
    standard_objects,
    standard_stimuli,
    standard_trials,
    trials_of,
    what_was_assumed,
)
from gazekit.datasets.reading import Tables
from gazekit.errors import InputError
from gazekit.tables import (
    FIXATION_COLUMNS,
    OBJECT_COLUMNS,
    STIMULUS_COLUMNS,
    TRIAL_COLUMNS,
    TRIAL_EXTRAS,
    check_fixations,
    check_objects,
    check_stimuli,
    check_trials,
)

# A Parquet file of a few bytes can claim any number of rows; no gaze table has so many.
_MOST_ROWS = 100_000_000


def read_tables(folder: Path, card: Card) -> Tables:
    """The tables in `folder`; see the module's docstring for what it may hold.

    Raises:
        InputError: A table or an image is missing, unreadable, or breaks a rule; the message names the
            file and, where one is to blame, the row.

    """
    task = str(card.content.get("task", "free_viewing"))
    given = _read_table(folder, "fixations", FIXATION_COLUMNS)
    if given is None:
        raise InputError(
            f"{folder}: holds neither fixations.csv nor fixations.parquet; docs/datasets.md says what to write"
        )
    raw_fixations, origin = given
    trials, trials_origin = None, Origin(f"{origin.what}, trials")
    if (given := _read_table(folder, "trials", (*TRIAL_COLUMNS, *TRIAL_EXTRAS))) is not None:
        trials_origin = given[1]
        trials = standard_trials(*given, task)
    fixations = standard_fixations(raw_fixations, origin, trials)
    units = card.content.get("source_units")
    if not (isinstance(units, Mapping) and units.get("duration") == "s"):
        refuse_milliseconds(fixations, origin)
    if trials is None:
        trials = trials_of(fixations, task)
    fixations = check_fixations(fixations, origin.what)
    trials = check_trials(trials, fixations, trials_origin.what, allow_empty=True)

    stated, stimuli_origin = _read_table(folder, "stimuli", STIMULUS_COLUMNS) or (None, origin)
    images = images_by_name(folder / "images")
    used = list(dict.fromkeys([*trials["stimulus"], *fixations["stimulus"]]))
    stimuli = standard_stimuli(
        stated,
        used
        if stated is not None or not images
        else [*images, *(set(used) - set(images) if card.images_optional else [])],
        images,
        stimuli_origin,
        folder=folder,
        size_wh_px=card.screen.size_wh_px if card.screen else None,
        images_optional=card.images_optional,
    )
    stimuli = check_stimuli(stimuli, stimuli_origin.what)
    refuse_unknown_stimuli(fixations, stimuli, origin)
    refuse_unknown_stimuli(trials, stimuli, trials_origin)

    objects = None
    if (given := _read_table(folder, "objects", OBJECT_COLUMNS)) is not None:
        objects = standard_objects(*given)
        objects = check_objects(objects, stimuli, given[1].what)
    refuse_fractions(fixations, stimuli, origin)
    # What to_parquet wrote says itself what was changed on the way there.
    said = card.content.get("changes")
    changes = [*map(str, said)] if said is not None else [*what_was_assumed(raw_fixations, fixations, stimuli)]
    if stated is not None and "path" in stated:
        lost = int((stated["path"].fillna("").astype(str) != "").sum() - (stimuli["path"] != "").sum())
        if lost > 0:
            changes.append(f"{lost} images that the stimulus table names are not there; their path is empty.")
    return Tables(fixations, trials, stimuli, tuple(dict.fromkeys(changes)), objects)


def _read_table(folder: Path, name: str, known: Collection[str]) -> tuple[pd.DataFrame, Origin] | None:
    """The table of that name, or None where there is no such file."""
    paths = [path for suffix in (".parquet", ".csv") if (path := folder / f"{name}{suffix}").is_file()]
    if len(paths) == 2:
        raise InputError(f"{folder}: holds both {paths[0].name} and {paths[1].name}; keep one of them")
    if not paths:
        return None
    return read_file(paths[0], known)


def read_file(path: Path, known: Collection[str]) -> tuple[pd.DataFrame, Origin]:
    """The table in one CSV or Parquet file; columns of a CSV file that are not `known` are text unless all are numbers.

    Raises:
        InputError: The file is missing, of another kind or damaged.

    """
    if path.suffix not in (".csv", ".parquet"):
        raise InputError(f"{path}: expected a table, .csv or .parquet")
    if not path.is_file():
        raise InputError(f"{path}: there is no such file")
    table, origin = _read_csv(path, known) if path.suffix == ".csv" else _read_parquet(path)
    need_columns(table, (), origin)
    return table, origin


def _read_parquet(path: Path) -> tuple[pd.DataFrame, Origin]:
    try:
        n_rows = parquet.read_metadata(path).num_rows
        if n_rows > _MOST_ROWS:
            raise InputError(f"{path}: claims {n_rows} rows, expected at most {_MOST_ROWS}")
        table = pd.read_parquet(path)
        for name in table.select_dtypes("str"):
            # Damaged text only shows when it is decoded.
            table[name].tolist()
    except InputError:
        raise
    except Exception as error:  # pyarrow and pandas raise whatever a damaged file makes them trip over
        raise InputError(
            f"{path}: not a readable Parquet file ({' '.join(str(error).split())}); write it again"
        ) from error
    if list(table.index.names) != [None]:
        table = table.reset_index()
    return table.rename(columns=str).reset_index(drop=True), Origin(str(path))


def _read_csv(path: Path, known: Collection[str]) -> tuple[pd.DataFrame, Origin]:
    """All columns as text, but those that are not ours as numbers where every value is one."""
    try:
        content = path.read_bytes()
        content.decode("utf-8-sig")
        with path.open(encoding="utf-8-sig", newline="") as file:
            header = next(csv.reader(file), [])
        _check_header(header, path)
        with warnings.catch_warnings():
            # A row with more values than the header has names only warns, and would lose them.
            warnings.simplefilter("error", ParserWarning)
            table = pd.read_csv(
                path, dtype=str, keep_default_na=False, na_filter=False, encoding="utf-8-sig", index_col=False
            )
    except InputError:
        raise
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 (byte {error.start}); save it as 'CSV UTF-8'") from error
    except Exception as error:  # pandas and csv raise whatever a damaged file makes them trip over
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: not a readable CSV file ({reason}); expected commas and one header line") from error
    table.columns = pd.Index([str(name).strip() for name in table.columns])
    lines = content.count(b"\n") + (not content.endswith(b"\n"))
    origin = Origin(str(path), first_line=2 if lines == len(table) + 1 else None)
    for name in table.columns:
        if name not in known:
            table[name] = _inferred(table[name])
    return table, origin


def _check_header(header: list[str], path: Path) -> None:
    columns = [name.strip() for name in header]
    if len(columns) == 1 and (other := next((sign for sign in (";", "\t", "|") if sign in columns[0]), None)):
        raise InputError(f"{path}: columns are separated by {other!r}, expected commas")
    if not columns or "" in columns:
        raise InputError(f"{path}: a column has no name in the first line, found {columns}")
    if twice := [name for name in dict.fromkeys(columns) if columns.count(name) > 1]:
        raise InputError(f"{path}: column {twice[0]!r} is there twice")


def _inferred(column: pd.Series) -> pd.Series:
    """A column of the user's own: numbers where every value is one or empty, else the text as it stands."""
    text = column.str.strip()
    filled = text[~text.str.lower().isin(MISSING)]
    # "007" is a name.
    if filled.empty or filled.str.fullmatch(r"[+-]?0\d+").any():
        return column
    try:
        values = filled.to_numpy(object).astype(np.float64)
    except ValueError:
        return column
    if filled.str.fullmatch(r"[+-]?\d{1,15}").all() and len(filled) == len(text):
        return pd.Series(values.astype(np.int64), index=column.index)
    return pd.Series(values, index=filled.index).reindex(column.index)
