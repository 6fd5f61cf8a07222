"""To and from pysaliency: its stimuli and scanpaths, as objects of either version or as HDF5 files.

Release 0.2.22 keeps scanpaths in ``FixationTrains`` (``train_xs``, ``train_ys``, ``train_ts``,
``train_ns``, ``train_subjects``, ``scanpath_attributes``, ``scanpath_fixation_attributes``), the
development version in ``ScanpathFixations.scanpaths`` (``xs``, ``ys``, ``fixation_attributes['ts']``,
``n``, ``scanpath_attributes['subject']``). Both are read by the attributes that an object has; files
are read with h5py alone, without importing pysaliency. Attribute names and file layouts:
``datasets.py`` of the release and ``datasets/`` of the development version of
https://github.com/matthias-k/pysaliency.

Both count x to the right and y down in pixels of the stimulus. Positions are passed on as they are:
some loaders of pysaliency count pixels from 1, as the files do that they read.
"""

from __future__ import annotations

import json
import math
import mmap
import os
import struct
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from gazekit.datasets.column_rules import Origin
from gazekit.datasets.dataset import GazeDataset
from gazekit.datasets.from_frame import assembled, card_in_memory, make_tables
from gazekit.datasets.images import image_size_wh_px
from gazekit.errors import InputError
from gazekit.geometry import Screen
from gazekit.tables import FIXATION_COLUMNS, STIMULUS_COLUMNS, TRIAL_COLUMNS

if TYPE_CHECKING:
    import h5py

# Under these names go what pysaliency itself has no place for: its subjects are numbers, its stimuli have no names.
_SUBJECT_NAME, _STIMULUS_NAME, _TRIAL = "subject_name", "stimulus_name", "trial"
# Attributes that pysaliency makes itself; "subjects" and "scanpath_index" it refuses.
_MADE_BY_PYSALIENCY = {
    *("x", "y", "t", "n", "x_hist", "y_hist", "t_hist", "lengths", "subject", "subjects", "ts", "scanpath_index"),
    *(_SUBJECT_NAME, "durations", "duration", "duration_hist"),
}
_DIVISORS = {"seconds": 1.0, "ms": 1000.0}
# Bounds on what a file may make us read; the largest data set that pysaliency knows stays far below.
_LARGEST_BYTES = 2 * 1024**3
_LARGEST_TEXT_BYTES = 256 * 1024**2
_LONGEST_SIDE_PX = 1_000_000
_MOST_VALUES = 64
# How a global heap of HDF5 begins: signature and version.
_HEAP = b"GCOL\x01\0\0\0"
# Deflate, shuffle, Fletcher's checksum, LZF: what h5py writes. Others are code loaded from elsewhere.
_FILTERS = {1, 2, 3, 32000}


@dataclass(frozen=True)
class _Scanpaths:
    """What both versions say, in one form."""

    x: list[NDArray[np.float64]]
    y: list[NDArray[np.float64]]
    t: list[NDArray[np.float64]]
    stimulus: NDArray[np.int64]
    subject: NDArray[Any]
    of_trials: dict[str, NDArray[Any]] = field(default_factory=dict)
    of_fixations: dict[str, list[NDArray[np.float64]]] = field(default_factory=dict)


@dataclass(frozen=True)
class _Stimuli:
    names: list[str]
    paths: list[str]
    sizes_wh_px: list[tuple[int, int]]
    attributes: dict[str, NDArray[Any]]
    changes: tuple[str, ...] = ()


def to_pysaliency(data: GazeDataset, times: str = "seconds") -> tuple[Any, Any]:
    """The dataset as pysaliency's stimuli and scanpaths.

    Stimuli are ``FileStimuli`` in the order of the stimulus table; scanpaths are ``ScanpathFixations``
    where pysaliency has them, else ``FixationTrains``, one per trial in the order of the trial table.
    Subjects are numbered in the order of their names, which go along as the scanpath attribute
    ``subject_name``; stimulus names are the stimulus attribute ``stimulus_name``. Durations (s) are the
    fixation attribute ``durations``, which a single fixation has as ``duration``. Further columns go
    along where pysaliency can hold them: numbers, truth values and text per trial and per stimulus,
    numbers per fixation. The split does not; use ``data.split("test")``.

    Args:
        data: A dataset whose stimuli all have an image file.
        times: What pysaliency's ``ts`` become: ``"seconds"`` (NaN where not known), ``"ms"``, or
            ``"index"``: 0, 1, 2, ... within the trial.

    Raises:
        InputError: pysaliency is not installed, an image is not there, or there is no fixation.

    """
    if times not in (*_DIVISORS, "index"):
        raise InputError(f"times is {times!r}, expected 'seconds', 'ms' or 'index'")
    if data.fixations.empty:
        raise InputError(f"{data.name}: no fixation to hand to pysaliency")
    absent = [
        name for name, path in zip(data.stimuli["stimulus"], data.stimuli["path"], strict=True) if not _is_file(path)
    ]
    if absent:
        raise InputError(
            f"{data.name}: pysaliency needs the image of each stimulus, {len(absent)} of {len(data.stimuli)} are not "
            f"here (first: {absent[0]!r})"
        )
    for table, ours in ((data.trials, TRIAL_COLUMNS), (data.fixations, FIXATION_COLUMNS)):
        if taken := sorted(_MADE_BY_PYSALIENCY & set(table.columns) - set(ours)):
            raise InputError(f"{data.name}: pysaliency itself uses the name of column {taken[0]!r}; rename the column")
    pysaliency = _import_pysaliency()
    new = hasattr(pysaliency.datasets, "ScanpathFixations")
    stimuli = pysaliency.FileStimuli(
        list(data.stimuli["path"]),
        # Stated, since pysaliency leaves the files open from which it takes them.
        shapes=[_shape(*row) for row in data.stimuli[["path", "width_px", "height_px"]].itertuples(index=False)],
        attributes={_STIMULUS_NAME: _text(data.stimuli["stimulus"]), **_attributes(data.stimuli, STIMULUS_COLUMNS)},
    )

    trials = data.trials.reset_index(drop=True)
    at = pd.Series(np.arange(len(trials)), index=trials["trial"])
    fixations = data.fixations.assign(_at=data.fixations["trial"].map(at)).sort_values(
        ["_at", "fixation"], kind="stable"
    )
    bounds = np.searchsorted(fixations["_at"].to_numpy(), np.arange(1, len(trials)))

    def per_trial(column: str) -> list[NDArray[np.float64]]:
        return np.split(fixations[column].to_numpy(np.float64), bounds)

    xs, ys = per_trial("x_px"), per_trial("y_px")
    ts = [np.arange(len(x), dtype=np.float64) for x in xs]
    if times != "index":
        ts = [t * _DIVISORS[times] for t in per_trial("t_s")]
    ns = trials["stimulus"].map({name: n for n, name in enumerate(data.stimuli["stimulus"])}).to_numpy(np.int64)
    subjects, subject_names = pd.factorize(trials["subject"], sort=True)
    of_trials: dict[str, Any] = {_SUBJECT_NAME: _text(subject_names.take(subjects)), _TRIAL: trials["trial"].to_numpy()}
    of_trials |= {"task": _text(trials["task"])} | _attributes(trials, TRIAL_COLUMNS)
    of_fixations = {
        column: per_trial(column)
        for column in data.fixations.columns
        if column not in FIXATION_COLUMNS and pd.api.types.is_numeric_dtype(data.fixations[column])
    }
    mapping = {}
    if data.fixations["duration_s"].notna().any():
        of_fixations["durations"] = per_trial("duration_s")
        mapping = {"durations": "duration"}
    if new:
        scanpaths = pysaliency.datasets.Scanpaths(
            xs=xs,
            ys=ys,
            ts=ts,
            n=ns,
            subject=subjects,
            scanpath_attributes=of_trials,
            fixation_attributes=of_fixations,
            attribute_mapping=mapping,
        )
        return stimuli, pysaliency.datasets.ScanpathFixations(scanpaths=scanpaths)
    # The release writes text to HDF5 as bytes only.
    of_trials = {
        column: np.char.encode(values, "utf-8") if values.dtype.kind == "U" else values
        for column, values in of_trials.items()
    }
    trains = pysaliency.FixationTrains.from_fixation_trains(
        xs,
        ys,
        ts,
        ns,
        subjects,
        scanpath_attributes=of_trials,
        scanpath_fixation_attributes=of_fixations,
        scanpath_attribute_mapping=mapping,
    )
    return stimuli, trains


def from_pysaliency(
    stimuli: Any,
    scanpaths: Any,
    *,
    name: str,
    times: str = "seconds",
    durations: str = "seconds",
    screen: Screen | Mapping[str, Any] | None = None,
    task: str = "free_viewing",
    forced_initial: bool = False,
    split: Mapping[str, Any] | None = None,
    card: Mapping[str, Any] | None = None,
) -> GazeDataset:
    """A dataset of pysaliency's stimuli and scanpaths.

    Stimuli are named by the stimulus attribute ``stimulus_name``, else by file without suffix (with its
    folder where two files would have one name), else by number. Subjects are named by the scanpath attribute
    ``subject_name``, else by number. An attribute ``durations`` becomes ``duration_s``; other attributes
    become columns of the trial, the fixation and the stimulus table, ``split`` as ``released_split``.

    Args:
        stimuli: ``Stimuli`` or ``FileStimuli``. Stimuli without files have a size and no image.
        scanpaths: ``FixationTrains``, ``ScanpathFixations`` or ``Scanpaths``.
        name: Name of the dataset.
        times: What ``ts`` are: ``"seconds"``, ``"ms"``, or ``"index"`` where they only count fixations;
            ``t_s`` is then NaN. It depends on the data set; nothing in the objects says it.
        durations: Unit of ``durations``: ``"seconds"`` or ``"ms"``.
        screen: Geometry of the display.
        task: Where the scanpaths have no attribute of that name.
        forced_initial: True where the first fixation of a trial was forced.
        split: A rule as in a card.
        card: Further keys of a card.

    Raises:
        InputError: The objects are not what they should be, or `scanpaths` is ``Fixations``, which no longer
            knows where a trial begins.

    """
    return _dataset(
        _stimuli_of(stimuli),
        _scanpaths_of(scanpaths),
        name,
        times,
        durations,
        {"screen": screen, "task": task, "forced_initial": forced_initial, "split": split, "more": card},
    )


def read_pysaliency_hdf5(
    stimuli_path: Path | str,
    fixations_path: Path | str,
    *,
    name: str,
    times: str = "seconds",
    durations: str = "seconds",
    images: Path | str | None = None,
    screen: Screen | Mapping[str, Any] | None = None,
    task: str = "free_viewing",
    forced_initial: bool = False,
    split: Mapping[str, Any] | None = None,
    card: Mapping[str, Any] | None = None,
) -> GazeDataset:
    """A dataset of two files that pysaliency wrote with ``to_hdf5``; pysaliency itself is not needed.

    Nothing outside the two files and the images is opened: a link to another file, data stored in one and
    compression by a plug-in are refused. An image that is not there leaves ``path`` empty, and is counted
    in ``changes``.

    Args:
        stimuli_path: ``FileStimuli`` (1.0 to 2.1) or ``Stimuli`` (1.0, 1.1; only their sizes are read).
        fixations_path: ``FixationTrains`` (1.0 to 1.3), ``ScanpathFixations`` or ``Scanpaths`` (1.0).
        name: Name of the dataset.
        times: As in :func:`from_pysaliency`.
        durations: As in :func:`from_pysaliency`.
        images: Folder in which to look for the image files by name. None takes them from where the file
            says, which must be below its own folder.
        screen: As in :func:`from_pysaliency`.
        task: As in :func:`from_pysaliency`.
        forced_initial: As in :func:`from_pysaliency`.
        split: As in :func:`from_pysaliency`.
        card: As in :func:`from_pysaliency`.

    Raises:
        InputError: h5py is not installed, or a file is missing, damaged, of another kind, or names an image
            outside its folder.

    """
    if images is not None and not Path(images).is_dir():
        raise InputError(f"{images}: no such folder of images")
    with _opened(Path(stimuli_path)) as file:
        stimuli = _hdf5_stimuli(file, None if images is None else Path(images))
    with _opened(Path(fixations_path)) as file:
        scanpaths = _hdf5_scanpaths(file)
    about = {"screen": screen, "task": task, "forced_initial": forced_initial, "split": split, "more": card}
    return _dataset(stimuli, scanpaths, name, times, durations, about)


def _dataset(
    stimuli: _Stimuli, scanpaths: _Scanpaths, name: str, times: str, durations: str, about: dict[str, Any]
) -> GazeDataset:
    """The tables of what either source said."""
    if times not in (*_DIVISORS, "index"):
        raise InputError(f"times is {times!r}, expected 'seconds', 'ms' or 'index'")
    if durations not in _DIVISORS:
        raise InputError(f"durations is {durations!r}, expected 'seconds' or 'ms'")
    card = card_in_memory(name, images_optional=not all(stimuli.paths), **about)
    n = len(scanpaths.x)
    lengths = np.array([len(x) for x in scanpaths.x], dtype=np.int64)
    if not lengths.sum():
        raise InputError(f"{name}: the scanpaths hold no fixation")
    beyond = (scanpaths.stimulus < 0) | (scanpaths.stimulus >= len(stimuli.names))
    if beyond.any():
        at = int(beyond.argmax())
        raise InputError(
            f"{name}: scanpath {at} is on stimulus number {scanpaths.stimulus[at]}, but there are {len(stimuli.names)} "
            "stimuli; are these the stimuli of these scanpaths?"
        )
    of_trials = dict(scanpaths.of_trials)
    number = of_trials.pop(_TRIAL, np.arange(n))
    if number.dtype.kind not in "iu" or len(np.unique(number)) != n:
        of_trials["trial_in_source"] = number
        number = np.arange(n)
    subject = of_trials.pop(_SUBJECT_NAME, scanpaths.subject)
    trials = pd.DataFrame(
        {
            "trial": number.astype(np.int64),
            "subject": subject,
            "stimulus": np.array(stimuli.names, dtype=object)[scanpaths.stimulus],
            "task": of_trials.pop("task", np.full(n, about["task"], dtype=object)),
            **_free_columns(of_trials, TRIAL_COLUMNS),
        }
    )
    of_trial = np.repeat(np.arange(n), lengths)
    table = trials.loc[of_trial, ["subject", "stimulus", "trial"]].reset_index(drop=True)
    of_fixations = dict(scanpaths.of_fixations)
    table["x_px"], table["y_px"] = np.concatenate(scanpaths.x), np.concatenate(scanpaths.y)
    changes = list(stimuli.changes)
    if times == "index":
        table["t_s"] = np.nan
        changes.append("The times in the source count fixations and are not used; t_s is NaN.")
    else:
        table["t_s"] = np.concatenate(scanpaths.t) / _DIVISORS[times]
    duration = of_fixations.pop("durations", None) or of_fixations.pop("duration", None)
    table["duration_s"] = np.nan if duration is None else np.concatenate(duration) / _DIVISORS[durations]
    for column, values in _free_columns(of_fixations, FIXATION_COLUMNS).items():
        table[column] = np.concatenate(values)
    wide, high = np.array(stimuli.sizes_wh_px, dtype=np.int64).reshape(-1, 2).T
    stimulus_table = pd.DataFrame(
        {"stimulus": stimuli.names, "path": stimuli.paths, "width_px": wide, "height_px": high}
    )
    for column, values in _free_columns(stimuli.attributes, STIMULUS_COLUMNS).items():
        stimulus_table[column] = values
    origin = Origin(
        f"{name}, fixations",
        seconds="say times='ms' or times='index', and durations='ms', where that is so",
    )
    tables = make_tables(
        table,
        card=card,
        origin=origin,
        trials=trials,
        stimuli=stimulus_table,
        task=about["task"],
        # Other people's releases have onsets before the stimulus, and are to be had as they are.
        own_recording=False,
    )
    return assembled(replace(tables, changes=(*changes, *tables.changes)), card)


def _free_columns(given: Mapping[str, Any], taken: Sequence[str]) -> dict[str, Any]:
    """Attributes as columns that collide with none of ours."""
    reserved = {*taken, "fixation", "trial", "split"}
    renamed = {"split": "released_split"}
    return {
        renamed.get(name, f"{name}_in_source" if name in reserved else name): value for name, value in given.items()
    }


def _import_pysaliency() -> Any:
    try:
        with warnings.catch_warnings():
            # It imports modules that warn about their own future.
            warnings.simplefilter("ignore")
            import pysaliency
            import pysaliency.datasets
    except ImportError as error:
        raise InputError(
            f'pysaliency cannot be imported ({error}); pip install "gazekit[pysaliency]" (it needs a compiler)'
        ) from error
    return pysaliency


def _is_file(path: str) -> bool:
    return bool(path) and Path(path).is_file()


def _shape(path: str, width_px: int, height_px: int) -> tuple[int, ...]:
    """(height, width) of a grey image, (height, width, channels) of another."""
    try:
        with Image.open(path) as image:
            size, channels = image.size, len(image.getbands())
    except (OSError, Image.DecompressionBombError) as error:
        raise InputError(f"{path}: not a readable image ({error}); replace the file") from error
    if size != (width_px, height_px):
        raise InputError(
            f"{path}: image is {size[0]}x{size[1]} px, but positions are on {width_px}x{height_px}; pysaliency takes "
            "positions in pixels of the image"
        )
    return (height_px, width_px, channels) if channels > 1 else (height_px, width_px)


def _text(values: Any) -> NDArray[np.str_]:
    return np.array([str(value) for value in values], dtype=np.str_)


def _attributes(table: pd.DataFrame, ours: Sequence[str]) -> dict[str, NDArray[Any]]:
    """The further columns of a table as plain arrays: missing values are NaN, or "" in text."""
    attributes: dict[str, NDArray[Any]] = {}
    for name in (name for name in table.columns if name not in (*ours, "split")):
        column = table[name]
        if pd.api.types.is_bool_dtype(column) and not column.isna().any():
            attributes[name] = column.to_numpy(np.bool_)
        elif pd.api.types.is_integer_dtype(column) and not column.isna().any():
            attributes[name] = column.to_numpy(np.int64)
        elif pd.api.types.is_numeric_dtype(column):
            attributes[name] = column.to_numpy(np.float64, na_value=np.nan)
        elif pd.api.types.is_string_dtype(column):
            attributes[name] = _text(column.where(column.notna(), ""))
    return attributes


def _plain(values: Any, what: str) -> NDArray[Any]:
    """The values as numbers, truth values or str, in the shape they have."""
    array = np.asarray(values)
    if array.dtype.kind in "SUO":
        found = [v.decode("utf-8") if isinstance(v, bytes) else v for v in array.ravel().tolist()]
        if all(isinstance(value, str) for value in found):
            text = np.empty(len(found), dtype=object)
            text[:] = found
            return text.reshape(array.shape)
        try:
            array = np.array(found, dtype=np.float64).reshape(array.shape)
        except (TypeError, ValueError):
            raise InputError(f"{what}: holds neither numbers nor text") from None
    if array.dtype.kind not in "fiub":
        raise InputError(f"{what}: holds {array.dtype}, expected numbers or text")
    return array


def _per_item(given: Mapping[str, Any], n: int, what: str) -> dict[str, NDArray[Any]]:
    """Attributes with one value per item; one with a row per item, such as a box, becomes several columns."""
    columns: dict[str, NDArray[Any]] = {}
    for name, values in given.items():
        array = _plain(values, f"{what}, {name}")
        if array.shape == (n,):
            columns[str(name)] = array
        elif array.ndim == 2 and len(array) == n and array.shape[1] <= _MOST_VALUES:
            columns |= {f"{name}_{i}": array[:, i] for i in range(array.shape[1])}
        else:
            raise InputError(f"{what}: {name} has the shape {array.shape}, expected one value or row for each of {n}")
    return columns


def _scanpaths_of(given: Any) -> _Scanpaths:
    """What a FixationTrains, ScanpathFixations or Scanpaths says; the development version's attributes go first."""
    inner = getattr(given, "scanpaths", None)
    source = given if inner is None else inner
    if not any(hasattr(source, name) for name in ("xs", "train_xs")):
        kind = type(given).__name__
        if hasattr(given, "x_hist"):
            raise InputError(
                f"{kind}: holds single fixations and not where a trial begins; give ScanpathFixations or "
                "FixationTrains (pysaliency.datasets.scanpaths_from_fixations makes them where nothing was left out)"
            )
        raise InputError(f"{kind}: expected ScanpathFixations, Scanpaths or FixationTrains of pysaliency")
    try:
        return _scanpaths_of_either(source)
    except InputError:
        raise
    except (TypeError, ValueError, KeyError, IndexError, AttributeError) as error:
        raise InputError(
            f"{type(given).__name__}: not scanpaths of pysaliency ({' '.join(str(error).split())})"
        ) from error


def _scanpaths_of_either(source: Any) -> _Scanpaths:
    kind = type(source).__name__
    if not hasattr(source, "xs"):
        # FixationTrains of the release; its `n` has one number per fixation.
        return _collected(
            source.train_xs,
            source.train_ys,
            source.train_ts,
            source.train_ns,
            source.train_subjects,
            getattr(source, "train_lengths", None),
            dict(source.scanpath_attributes),
            dict(source.scanpath_fixation_attributes),
            kind,
        )
    of_trials, of_fixations = dict(source.scanpath_attributes), dict(source.fixation_attributes)
    ts, subject = of_fixations.pop("ts", None), of_trials.pop("subject", None)
    return _collected(
        source.xs,
        source.ys,
        source.ts if ts is None else ts,
        source.n,
        source.subject if subject is None else subject,
        source.length,
        of_trials,
        of_fixations,
        kind,
    )


def _collected(
    xs: Any, ys: Any, ts: Any, n: Any, subject: Any, lengths: Any, of_trials: Any, of_fixations: Any, what: str
) -> _Scanpaths:
    """Rows without their padding, checked to be of one length each."""
    x = [np.asarray(xs[i], dtype=np.float64).ravel() for i in range(len(xs))]
    if lengths is None:
        # Rows are padded with NaN at the end; a NaN before the end is damage, and shows as one.
        known = [np.flatnonzero(~np.isnan(row)) for row in x]
        lengths = [int(row[-1]) + 1 if row.size else 0 for row in known]
    count = np.asarray(lengths, dtype=np.int64)
    if count.shape != (len(x),):
        raise InputError(f"{what}: {count.size} lengths of {len(x)} scanpaths")

    def rows(values: Any, name: str) -> list[NDArray[np.float64]]:
        if len(values) != len(x):
            raise InputError(f"{what}: {name} has {len(values)} rows, expected one per scanpath ({len(x)})")
        cut = []
        for i, length in enumerate(count.tolist()):
            row = np.asarray(values[i], dtype=np.float64).ravel()
            if not 0 <= length <= len(row):
                raise InputError(f"{what}: scanpath {i} has {length} fixations, but {len(row)} values of {name}")
            cut.append(row[:length])
        return cut

    stimulus = np.asarray(n)
    whole = stimulus.dtype.kind in "iuf" and bool((np.abs(stimulus.astype(np.float64)) < 2**31).all())
    if stimulus.shape != (len(x),) or not whole or (stimulus % 1 != 0).any():
        raise InputError(
            f"{what}: expected one stimulus number per scanpath ({len(x)}), found {stimulus.dtype} {stimulus.shape}"
        )
    subjects = _plain(subject, f"{what}, subject")
    if subjects.shape != (len(x),):
        raise InputError(f"{what}: subject has the shape {subjects.shape}, expected one value per scanpath ({len(x)})")
    return _Scanpaths(
        rows(x, "x"),
        rows(ys, "y"),
        rows(ts, "t"),
        stimulus.astype(np.int64),
        subjects,
        _per_item(of_trials, len(x), what),
        {str(name): rows(values, str(name)) for name, values in of_fixations.items()},
    )


def _stimuli_of(given: Any) -> _Stimuli:
    try:
        # pysaliency's pairs are (height, width).
        sizes = [(int(given.sizes[i][1]), int(given.sizes[i][0])) for i in range(len(given))]
        files = getattr(given, "filenames", None)
        paths = [""] * len(sizes) if files is None else [str(file) for file in files]
        attributes = dict(getattr(given, "attributes", None) or {})
    except InputError:
        raise
    except (TypeError, ValueError, IndexError, AttributeError, OSError) as error:
        raise InputError(
            f"{type(given).__name__}: not stimuli of pysaliency ({' '.join(str(error).split())})"
        ) from error
    here = [str(Path(path).absolute()) if _is_file(path) else "" for path in paths]
    lost = sum(1 for path, own in zip(paths, here, strict=True) if path and not own)
    changes = (
        (f"{lost} of {len(here)} images are not where pysaliency names them; their path is empty.",) if lost else ()
    )
    return _named_stimuli(paths, here, sizes, attributes, changes)


def _named_stimuli(
    files: list[str],
    here: list[str],
    sizes: list[tuple[int, int]],
    attributes: dict[str, NDArray[Any]],
    changes: tuple[str, ...],
) -> _Stimuli:
    attributes = _per_item(attributes, len(sizes), "stimuli")
    stated = attributes.pop(_STIMULUS_NAME, None)
    if stated is not None:
        names = [str(name) for name in stated]
    elif files and all(files):
        plain = [PurePosixPath(file.replace("\\", "/")) for file in files]
        names = [path.stem for path in plain]
        if len(set(names)) < len(names):
            # CAT2000 has 001.jpg in each category.
            shared = (
                os.path.commonpath([str(path.parent) for path in plain]) if len({p.anchor for p in plain}) == 1 else ""
            )
            names = [str((path.relative_to(shared) if shared else path).with_suffix("")) for path in plain]
    else:
        names = [str(number) for number in range(len(sizes))]
    return _Stimuli(names, here, sizes, attributes, changes)


@contextmanager
def _opened(path: Path) -> Iterator[h5py.File]:
    """The file, with whatever a damaged one makes h5py raise turned into one line."""
    try:
        import h5py
    except ImportError as error:
        raise InputError(f'{path}: reading HDF5 needs h5py; pip install "gazekit[hdf5]"') from error
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        _check_heaps(path)
        with h5py.File(path, "r") as file:
            yield file
    except InputError as error:
        raise InputError(f"{path}: {error}") from error.__cause__
    except Exception as error:
        raise InputError(
            f"{path}: not a file of pysaliency ({type(error).__name__}: {' '.join(str(error).split())}); write it again"
        ) from error


def _check_heaps(path: Path) -> None:
    """Raise where the heaps that hold text are damaged: the HDF5 library can loop for ever in one that is."""
    if path.stat().st_size == 0:
        return
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        start = content.find(_HEAP)
        while start >= 0:
            (size,) = struct.unpack_from("<Q", content, start + 8) if start + 16 <= len(content) else (0,)
            at, end = start + 16, start + size
            # Objects follow one another: index, count, size, and the bytes up to a multiple of 8; number 0 is the rest.
            while at + 16 <= end <= len(content):
                index, n_bytes = struct.unpack_from("<H6xQ", content, at)
                at += -(-n_bytes // 8) * 8 + (16 if index else 0)
                if not index:
                    break
            if not (size > 16 and end - 16 < at <= end <= len(content)):
                raise InputError("not a file of pysaliency (a heap of text is damaged); write it again")
            start = content.find(_HEAP, start + 8)


def _kind(group: h5py.Group, expected: Mapping[str, Sequence[str]]) -> tuple[str, str]:
    """(type, version) of what pysaliency wrote here."""
    kind, version = _label(group, "type"), _label(group, "version")
    if kind == "Fixations" and kind not in expected:
        raise InputError(
            "holds Fixations, which do not say where a trial begins; write ScanpathFixations or FixationTrains instead"
        )
    if version not in expected.get(kind, ()):
        known = ", ".join(f"{name} {'/'.join(versions)}" for name, versions in expected.items())
        raise InputError(f"holds {kind} {version}, expected one of: {known}")
    return kind, version


def _label(group: h5py.Group, name: str) -> str:
    import h5py

    if name not in group.attrs:
        raise InputError(f"lacks the attribute {name!r}; not written by pysaliency")
    about = group.attrs.get_id(name)
    if about.shape != () or h5py.check_string_dtype(about.dtype) is None:
        raise InputError(f"the attribute {name!r} is not text")
    value = group.attrs[name]
    return value.decode("utf-8") if isinstance(value, bytes) else str(value)


def _json(group: h5py.Group, name: str) -> list[str]:
    """The names in an attribute that holds a list of them."""
    text = _label(group, name)
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"the attribute {name!r} is not JSON") from error
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise InputError(f"the attribute {name!r} is not a list of names")
    return value


def _member(group: h5py.Group, name: str) -> Any:
    """What `name` is in this very file: links are not followed, not even to see if they lead anywhere."""
    import h5py

    links, key = group.id.links, name.encode("utf-8")
    if "/" in name or "\0" in name or name in ("", ".") or not links.exists(key):
        raise InputError(f"lacks {name!r}")
    if links.get_info(key).type != h5py.h5l.TYPE_HARD:
        raise InputError(f"{name!r} is a link, which pysaliency does not write; not followed")
    return group[name]


def _group(group: h5py.Group, name: str) -> h5py.Group:
    import h5py

    member = _member(group, name)
    if not isinstance(member, h5py.Group):
        raise InputError(f"{name!r} is not a group")
    return member


def _set(group: h5py.Group, name: str) -> h5py.Dataset:
    """A dataset whose values lie in this file and are of a sane size."""
    import h5py

    member = _member(group, name)
    if not isinstance(member, h5py.Dataset) or member.shape is None:
        raise InputError(f"{name!r} is not a dataset")
    if member.external or member.is_virtual:
        raise InputError(f"{name!r} lies in another file; not followed")
    plist = member.id.get_create_plist()
    if other := {plist.get_filter(i)[0] for i in range(plist.get_nfilters())} - _FILTERS:
        raise InputError(f"{name!r} is compressed by filter {min(other)}, expected gzip or lzf")
    for shape in (member.shape, member.chunks or ()):
        if math.prod(shape) * member.dtype.itemsize > _LARGEST_BYTES:
            raise InputError(f"{name!r} claims the shape {tuple(shape)}, more than {_LARGEST_BYTES} bytes")
    return member


def _array(group: h5py.Group, name: str, ndim: int) -> NDArray[Any]:
    dataset = _set(group, name)
    if dataset.dtype.kind not in "fiub" or dataset.ndim != ndim:
        raise InputError(f"{name!r} is {dataset.dtype} with {dataset.ndim} dimensions, expected numbers with {ndim}")
    return np.asarray(dataset[...])


def _pieces(dataset: h5py.Dataset, name: str) -> Iterator[Any]:
    """The values of variable length; in pieces, for many of them may be one and the same long one."""
    if dataset.ndim != 1:
        raise InputError(f"{name!r} has {dataset.ndim} dimensions, expected 1")
    # No single value is longer than the file.
    step = max(1, _LARGEST_TEXT_BYTES // max(1, dataset.file.id.get_filesize()))
    total = 0
    for start in range(0, len(dataset), step):
        for value in dataset[start : start + step]:
            total += len(value)
            if total > _LARGEST_TEXT_BYTES:
                raise InputError(f"{name!r} holds more than {_LARGEST_TEXT_BYTES} bytes")
            yield value


def _values(group: h5py.Group, name: str) -> NDArray[Any]:
    """One value per item: numbers, or text."""
    import h5py

    dataset = _set(group, name)
    if h5py.check_string_dtype(dataset.dtype) is not None:
        values = _pieces(dataset, name) if dataset.dtype.kind == "O" else dataset[...].ravel()
        return np.array([v.decode("utf-8") if isinstance(v, bytes) else str(v) for v in values], dtype=object)
    return _array(group, name, dataset.ndim)


def _attribute_group(group: h5py.Group, name: str) -> tuple[h5py.Group, list[str]]:
    below = _group(group, name)
    return below, _json(below, "__attributes__")


def _hdf5_scanpaths(file: h5py.File) -> _Scanpaths:
    kind, version = _kind(
        file,
        {"FixationTrains": ("1.0", "1.1", "1.2", "1.3"), "ScanpathFixations": ("1.0",), "Scanpaths": ("1.0",)},
    )
    of_trials: dict[str, Any] = {}
    of_fixations: dict[str, Any] = {}
    if kind == "FixationTrains":
        if version >= "1.1":
            below, attributes = _attribute_group(file, "scanpath_attributes")
            of_trials = {name: _values(below, name) for name in attributes}
        if version >= "1.2":
            below, attributes = _attribute_group(file, "scanpath_fixation_attributes")
            of_fixations = {name: _array(below, name, 2) for name in attributes}
        x, y, t = (_array(file, f"train_{axis}s", 2) for axis in "xyt")
        lengths = _array(file, "train_lengths", 1) if version >= "1.3" else None
        return _collected(
            x,
            y,
            t,
            _array(file, "train_ns", 1),
            _array(file, "train_subjects", 1),
            lengths,
            of_trials,
            of_fixations,
            kind,
        )
    group = file
    if kind == "ScanpathFixations":
        group = _group(file, "scanpaths")
        _kind(group, {"Scanpaths": ("1.0",)})
    below, attributes = _attribute_group(group, "scanpath_attributes")
    of_trials = {name: _values(below, name) for name in attributes}
    below, attributes = _attribute_group(group, "fixation_attributes")
    of_fixations = {name: _array(below, name, 2) for name in attributes}
    if "subject" not in of_trials or "ts" not in of_fixations:
        raise InputError("the scanpaths have no attribute 'subject' or no fixation attribute 'ts'")
    x, y = (_array(group, f"{axis}s", 2) for axis in "xy")
    lengths, n = _array(group, "length", 1), _array(group, "n", 1)
    return _collected(x, y, of_fixations.pop("ts"), n, of_trials.pop("subject"), lengths, of_trials, of_fixations, kind)


def _hdf5_stimuli(file: h5py.File, images: Path | None) -> _Stimuli:
    kind, version = _kind(file, {"FileStimuli": ("1.0", "2.0", "2.1"), "Stimuli": ("1.0", "1.1")})
    listed = _json(file, "__attributes__") if version in ("1.1", "2.1") else []
    attributes = {name: _values(file, name) for name in listed}
    changes: tuple[str, ...] = ()
    if kind == "Stimuli":
        about = file.attrs.get_id("size") if "size" in file.attrs else None
        if about is None or about.shape != () or about.dtype.kind not in "iu":
            raise InputError("the attribute 'size' is not a number")
        count = int(file.attrs["size"])
        if not 0 <= count <= len(file):
            raise InputError(f"claims {count} stimuli, found {len(file)} datasets")
        shapes: list[tuple[Any, ...]] = [_set(file, str(number)).shape for number in range(count)]
        files, here = [""] * count, [""] * count
    else:
        files = [str(name) for name in _values(file, "filenames")]
        shapes = [tuple(shape) for shape in _pieces(_set(file, "shapes"), "shapes")]
        if len(shapes) != len(files):
            raise InputError(f"holds {len(files)} file names and {len(shapes)} shapes")
        here = _image_files(files, Path(file.filename).parent, images)
        if lost := sum(1 for path in here if not path):
            changes = (f"{lost} of {len(here)} images are not here; their path is empty.",)
    sizes = [_size_wh_px(shape, number) for number, shape in enumerate(shapes)]
    for path, size in zip(here, sizes, strict=True):
        if path and (found := image_size_wh_px(path)) != size:
            raise InputError(f"says that {path} is {size[0]}x{size[1]} px, found {found[0]}x{found[1]}")
    return _named_stimuli(files, here, sizes, attributes, changes)


def _size_wh_px(shape: Sequence[Any], number: int) -> tuple[int, int]:
    if len(shape) not in (2, 3) or not all(
        isinstance(s, int | np.integer) and 0 < s <= _LONGEST_SIDE_PX for s in shape
    ):
        raise InputError(f"stimulus {number} has the shape {tuple(shape)}, expected height, width and channels")
    return int(shape[1]), int(shape[0])


def _image_files(files: list[str], folder: Path, images: Path | None) -> list[str]:
    """Each image's path, or "" where it is not there."""
    found = []
    for file in files:
        name = PurePosixPath(file.replace("\\", "/"))
        if images is not None:
            # Those with a folder first: CAT2000 has 001.jpg in each.
            candidates = [images / name.parent.name / name.name, images / name.name]
        elif name.is_absolute() or PureWindowsPath(file).anchor or ".." in name.parts or "\0" in file:
            raise InputError(
                f"names the image {file!r} outside its folder; give images=FOLDER, where it is looked up by name"
            )
        else:
            candidates = [folder / name]
        if name.name in ("", "..") or "\0" in file or name.parent.name == "..":
            candidates = candidates[1:]
        found.append(next((str(path.absolute()) for path in candidates if path.is_file()), ""))
    return found
