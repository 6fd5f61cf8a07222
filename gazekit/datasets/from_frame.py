"""A dataset from a table in memory: the user's own pandas frame, with its columns renamed and its units converted."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from gazekit.datasets.card import Card
from gazekit.datasets.column_rules import (
    Origin,
    images_by_name,
    likely_column,
    need_columns,
    numbers,
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
from gazekit.datasets.dataset import GazeDataset
from gazekit.datasets.reading import Tables
from gazekit.errors import InputError
from gazekit.geometry import Screen
from gazekit.tables import check_fixations, check_objects, check_stimuli, check_trials

# Divisors that make seconds of a column.
_PER_SECOND = {"s": 1.0, "ms": 1000.0, "us": 1_000_000.0}
_TIMES = ("t_s", "duration_s")
_SPLIT = {"by": "stimulus", "seed": 1, "val": 0.1, "test": 0.2}


def from_dataframe(
    fixations: pd.DataFrame,
    *,
    name: str,
    stimuli: pd.DataFrame | None = None,
    trials: pd.DataFrame | None = None,
    objects: pd.DataFrame | None = None,
    screen: Screen | Mapping[str, Any] | None = None,
    columns: Mapping[str, str] | None = None,
    units: Mapping[str, str] | None = None,
    images: Path | str | Mapping[str, Path | str] | None = None,
    task: str = "free_viewing",
    forced_initial: bool = False,
    split: Mapping[str, Any] | None = None,
    card: Card | Mapping[str, Any] | None = None,
) -> GazeDataset:
    """A dataset of fixations that are already in memory.

    >>> data = from_dataframe(
    ...     table,
    ...     name="my_study",
    ...     columns={"participant": "subject", "image": "stimulus", "X": "x_px", "Y": "y_px", "dur": "duration_s"},
    ...     units={"duration_s": "ms"},
    ...     images="pictures/",
    ... )

    Positions are pixels of the stimulus, x to the right and y down from its top-left corner. Nothing is
    dropped or moved: fixations outside their stimulus stay and are counted in ``changes``.

    Args:
        fixations: One row per fixation, in viewing order within a trial: ``subject``, ``stimulus``,
            ``x_px``, ``y_px``; where known ``duration_s`` and ``t_s`` (seconds from stimulus onset); ``trial``
            and ``fixation`` (0, 1, 2, ... within the trial). Without ``trial``, each subject sees each
            stimulus once. Further columns are kept. The frame itself is not changed.
        name: Name of the dataset.
        stimuli: One row per stimulus, with ``stimulus`` and, where no image tells, ``width_px`` and
            ``height_px``; ``path`` and further columns where there are any. None lists those with fixations.
        trials: One row per trial, with ``subject`` and ``stimulus``, for what goes with a trial (see
            :data:`gazekit.tables.TRIAL_EXTRAS`) and for trials without a fixation.
        objects: Boxes of objects on the stimuli.
        screen: Geometry of the display, needed for degrees of visual angle; also the size of stimuli
            whose size is known from nowhere else.
        columns: Their name -> ours, for any of the tables.
        units: ``duration_s`` or ``t_s`` -> ``"s"``, ``"ms"`` or ``"us"``: the unit in which the frame has
            the column. A column that is named here is not suspected of being milliseconds.
        images: A folder, in which a stimulus is the file of its name with or without suffix, or
            stimulus -> file. None: no images.
        task: What the subjects did, where `trials` has no column of that name.
        forced_initial: True where the first fixation of a trial was forced, to the center usually.
        split: A rule as in a card; None divides by stimulus, 10 % for val and 20 % for test.
        card: Further keys of a card (``title``, ``citation``, ``license``, ``known_issues``, ...), or a card
            for everything that is not in the tables: `screen`, `forced_initial` and `split` are then not given.

    Raises:
        InputError: A column is missing, holds something else than it should, or rows contradict each other.

    """
    renamed = {what: _renamed(table, columns) for what, table in _named(fixations, trials, stimuli, objects).items()}
    refuse_useless(columns, _named(fixations, trials, stimuli, objects))
    table, unit = renamed["fixations"], dict(units or {})
    origin = Origin(
        f"{name}, fixations",
        rename="did you mean columns={{{found!r}: {wanted!r}}}?",
        seconds="give units={'duration_s': 'ms', 't_s': 'ms'} for what is in milliseconds, 's' for what is right",
    )
    need_columns(table, ("subject", "stimulus", "x_px", "y_px"), origin)
    _refuse_forgotten_times(table, origin)
    table, changes = _in_seconds(table, unit, origin)
    paths, names_in_images = _images(images, table["stimulus"])
    own_card = _card(name, card, screen, task, forced_initial, split, images_optional=images is None)
    tables = make_tables(
        table,
        trials=renamed.get("trials"),
        stimuli=renamed.get("stimuli"),
        objects=renamed.get("objects"),
        images=paths,
        images_optional=not names_in_images,
        card=own_card,
        origin=origin,
        task=task,
        known_units=unit,
    )
    return assembled(replace(tables, changes=(*changes, *tables.changes)), own_card)


def make_tables(
    fixations: pd.DataFrame,
    *,
    card: Card,
    origin: Origin,
    trials: pd.DataFrame | None = None,
    stimuli: pd.DataFrame | None = None,
    objects: pd.DataFrame | None = None,
    images: Mapping[str, Path] | None = None,
    images_optional: bool = True,
    task: str = "free_viewing",
    known_units: Mapping[str, str] | None = None,
    own_recording: bool = True,
) -> Tables:
    """The tables of one dataset, checked and with the columns that were left out; see :func:`from_dataframe`.

    Args:
        fixations: The fixation table, with our column names and in seconds.
        card: Of the dataset.
        origin: Where the fixation table comes from.
        trials: Likewise, or None.
        stimuli: Likewise, or None.
        objects: Likewise, or None.
        images: Stimulus -> image.
        images_optional: True where an image may be missing.
        task: Of trials without one.
        known_units: Time columns whose unit is known, so that it is not doubted.
        own_recording: Also refuse what no recording has but a release may: onsets that are negative or go
            back, and the same row twice.

    Raises:
        InputError: As in :func:`from_dataframe`.

    """
    trials_origin = replace(origin, what=f"{card.name}, trials")
    if trials is not None:
        trials = standard_trials(trials, trials_origin, task)
    if own_recording:
        _refuse_repeated_rows(fixations, origin)
    table = standard_fixations(fixations, origin, trials)
    doubted = [column for column in _TIMES if column not in (known_units or {})]
    refuse_milliseconds(table.assign(**{c: np.nan for c in _TIMES if c not in doubted}), origin)
    if own_recording:
        _refuse_onsets_that_go_back(table, origin)
    listed = trials if trials is not None else trials_of(table, task)
    stimuli_origin = replace(origin, what=f"{card.name}, stimuli")
    wanted = list(dict.fromkeys([*listed["stimulus"], *table["stimulus"]]))
    stimulus_table = standard_stimuli(
        stimuli,
        wanted,
        images or {},
        stimuli_origin,
        size_wh_px=card.screen.size_wh_px if card.screen else None,
        images_optional=images_optional,
    )
    stimulus_table = check_stimuli(stimulus_table, card.name)
    refuse_unknown_stimuli(table, stimulus_table, origin)
    refuse_unknown_stimuli(listed, stimulus_table, trials_origin)
    refuse_fractions(table, stimulus_table, origin)
    changes = what_was_assumed(fixations, table, stimulus_table)
    boxes = None if objects is None else standard_objects(objects, replace(origin, what=f"{card.name}, objects"))
    return Tables(table, listed, stimulus_table, changes, boxes)


def assembled(tables: Tables, card: Card) -> GazeDataset:
    """The dataset of these tables, held to the rules of :mod:`gazekit.tables`, with the card's split."""
    fixations = check_fixations(tables.fixations, card.name)
    trials = check_trials(tables.trials, fixations, card.name, allow_empty=True)
    stimuli = check_stimuli(tables.stimuli, card.name)
    objects = None if tables.objects is None else check_objects(tables.objects, stimuli, card.name)
    trials, stimuli = card.split_rule.assign(trials, stimuli, card.name)
    return GazeDataset(fixations, trials, stimuli, card, objects, tables.changes)


def card_in_memory(
    name: str,
    screen: Screen | Mapping[str, Any] | None = None,
    task: str = "free_viewing",
    forced_initial: bool = False,
    split: Mapping[str, Any] | None = None,
    images_optional: bool = True,
    more: Mapping[str, Any] | None = None,
) -> Card:
    """The card of a dataset that has no file of its own.

    Raises:
        InputError: A key is unknown, or a value is not what a card takes.

    """
    if not isinstance(name, str) or not name.strip():
        raise InputError(f"name is {name!r}, expected the name of the dataset")
    content = {
        "name": name,
        "title": name,
        "citation": "none given",
        "license": {"data": "none stated", "images": "none stated"},
        "task": task,
        "forced_initial": forced_initial,
        "format": "tables",
        "screen": _screen_content(screen),
        "images": "optional" if images_optional else "required",
        "expect": {},
        "split": dict(_SPLIT if split is None else split),
    }
    card = Card.from_content(content | dict(more or {}), Path(f"card of {name}"))
    _ = card.split_rule  # says now what is wrong with it
    return card


def _card(
    name: str,
    card: Card | Mapping[str, Any] | None,
    screen: Screen | Mapping[str, Any] | None,
    task: str,
    forced_initial: bool,
    split: Mapping[str, Any] | None,
    images_optional: bool,
) -> Card:
    if not isinstance(card, Card):
        if card is not None and not isinstance(card, Mapping):
            raise InputError(f"card is {card!r}, expected a Card or a mapping of card keys")
        return card_in_memory(name, screen, task, forced_initial, split, images_optional, card)
    given = {"screen": screen is not None, "split": split is not None, "forced_initial": forced_initial}
    if twice := [key for key, value in given.items() if value]:
        raise InputError(f"{name}: {twice[0]} is given beside a card; the card says it")
    if card.name != name:
        raise InputError(f"{name}: the card is that of {card.name!r}; give one name")
    return card


def _screen_content(screen: Screen | Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The screen as a card writes it, so that the card can be saved."""
    if screen is None:
        return None
    if not isinstance(screen, Screen):
        if not isinstance(screen, Mapping):
            raise InputError(f"screen is {screen!r}, expected a Screen or a mapping such as a card's screen")
        screen = Screen.from_card(screen)
    content = {
        "size_wh_px": [int(side) for side in screen.size_wh_px],
        "size_wh_cm": None if screen.size_wh_cm is None else [float(side) for side in screen.size_wh_cm],
        "distance_cm": screen.distance_cm,
        "measured_px_per_dva": screen.measured_px_per_dva,
    }
    return {key: value for key, value in content.items() if value is not None}


def _named(
    fixations: pd.DataFrame, trials: pd.DataFrame | None, stimuli: pd.DataFrame | None, objects: pd.DataFrame | None
) -> dict[str, pd.DataFrame]:
    tables = {"fixations": fixations, "trials": trials, "stimuli": stimuli, "objects": objects}
    for what, table in tables.items():
        if not isinstance(table, pd.DataFrame) and (table is not None or what == "fixations"):
            raise InputError(f"{what} is a {type(table).__name__}, expected a pandas DataFrame")
    return {what: table for what, table in tables.items() if table is not None}


def _renamed(table: pd.DataFrame, columns: Mapping[str, str] | None) -> pd.DataFrame:
    table = table.reset_index() if list(table.index.names) != [None] else table.reset_index(drop=True)
    return table.rename(columns=dict(columns or {})).rename(columns=str)


def refuse_useless(columns: Mapping[str, str] | None, tables: Mapping[str, pd.DataFrame]) -> None:
    """Raise where a renaming names a column that no table has, or gives a table one name twice."""
    found = {
        str(column): None
        for table in tables.values()
        for column in [*table.columns, *(level for level in table.index.names if level is not None)]
    }
    for theirs, ours in (columns or {}).items():
        if str(theirs) not in found:
            near = difflib.get_close_matches(str(theirs), list(found), n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise InputError(f"columns={{{theirs!r}: {ours!r}}}: no column {theirs!r}, found {list(found)}{hint}")


def _refuse_forgotten_times(table: pd.DataFrame, origin: Origin) -> None:
    """Raise where a time is missing that seems to be there under another name: it would be unknown in silence."""
    for wanted, forgotten in (
        ("duration_s", ("duration", "duration_ms", "dur")),
        ("t_s", ("onset", "onset_ms", "t_ms")),
        ("fixation", ("fix", "fix_index", "fixation_index", "fixation_number", "current_fix_index")),
        ("trial", ("trial_id", "trialid", "trial_index", "trial_number")),
    ):
        near = next((str(c) for c in table.columns if str(c).lower() in forgotten), None)
        if wanted not in table and near is not None:
            unit = f" and, if it is in milliseconds, units={{{wanted!r}: 'ms'}}" if wanted in _TIMES else ""
            raise InputError(
                f"{origin.what}: no column {wanted!r}, but one named {near!r}; give columns={{{near!r}: {wanted!r}}}"
                f"{unit}; if it is something else, rename it"
            )


def _in_seconds(table: pd.DataFrame, units: Mapping[str, str], origin: Origin) -> tuple[pd.DataFrame, list[str]]:
    changes = []
    for column, unit in units.items():
        if column not in _TIMES:
            raise InputError(
                f"units={{{column!r}: {unit!r}}}: only {' and '.join(_TIMES)} can have one; positions are in pixels"
            )
        if unit not in _PER_SECOND:
            raise InputError(f"units={{{column!r}: {unit!r}}}: expected one of {', '.join(map(repr, _PER_SECOND))}")
        if column not in table:
            near = likely_column(column, [str(name) for name in table.columns])
            hint = "" if near is None else f"; {origin.rename.format(found=near, wanted=column)}"
            raise InputError(f"units={{{column!r}: {unit!r}}}: no column {column!r}{hint}")
        table = table.assign(**{column: numbers(table[column], column, origin) / _PER_SECOND[unit]})
        if unit != "s":
            changes.append(f"{column} was given in {unit} and is converted to seconds.")
    return table, changes


def _images(images: Path | str | Mapping[str, Path | str] | None, wanted: pd.Series) -> tuple[dict[str, Path], bool]:
    """(stimulus -> image, True where every stimulus must have one)."""
    if images is None:
        return {}, False
    if isinstance(images, Mapping):
        paths = {str(name): Path(path).absolute() for name, path in images.items()}
        if absent := [name for name in paths if not paths[name].is_file()]:
            raise InputError(
                f"{paths[absent[0]]}: image of stimulus {absent[0]!r} missing ({len(absent)} of {len(paths)} are)"
            )
        return paths, True
    folder = Path(images).absolute()
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder of images")
    by_stem = images_by_name(folder)
    if not by_stem:
        raise InputError(f"{folder}: holds no image")
    # Tables often name stimuli by file.
    return by_stem | {path.relative_to(folder).as_posix(): path for path in by_stem.values()}, True


def _refuse_repeated_rows(table: pd.DataFrame, origin: Origin) -> None:
    """Raise where a row is there twice; two fixations may agree by chance in all but times and numbers."""
    if "fixation" in table or not any(column in table and table[column].notna().any() for column in _TIMES):
        return
    try:
        twice = table.duplicated().to_numpy()
    except TypeError:  # a column of lists
        return
    if twice.any():
        row = int(twice.argmax())
        raise InputError(
            f"{origin.at(row)}: the same as an earlier row ({int(twice.sum())} such rows); use "
            "table.drop_duplicates(), or number the fixations of a trial in a column 'fixation' if they are meant"
        )


def _refuse_onsets_that_go_back(table: pd.DataFrame, origin: Origin) -> None:
    onset = table["t_s"].to_numpy()
    if (onset < 0).any():
        row = int((onset < 0).argmax())
        raise InputError(
            f"{origin.at(row)}: t_s is {onset[row]:g}, expected seconds from stimulus onset; leave out what came "
            "before it, or set the onset of a fixation that lasted into the stimulus to NaN"
        )
    known = table[~np.isnan(onset)]
    back = (known.groupby("trial", sort=False)["t_s"].diff() < 0).to_numpy()
    if back.any():
        row = int(known.index[int(back.argmax())])
        raise InputError(
            f"{origin.at(row)}: t_s goes back to {onset[row]:g} within trial {table['trial'].iloc[row]}; sort the rows "
            "by onset, or number the trials in a column 'trial' if another one begins here"
        )
