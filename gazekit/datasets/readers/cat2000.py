"""CAT2000 (Borji & Itti 2015), the train set: 2,000 images of 20 categories, 5 s of free viewing; ordered, untimed.

Scanpaths are in ``trainSet/allFixData.mat``: a variable ``allData``, which is a MATLAB
``containers.Map`` from ``'Action/001.jpg'`` to one struct per subject (``name``, for instance
``24-53-ak.eye``, and ``data``, whose first columns are x and y in px counted from 1).
``trainSet/FIXATIONLOCS`` holds the same fixations as one binary map per image, without order and
subjects. Versions and their counts are those of pysaliency.

SciPy cannot read a ``containers.Map``. The map is stored in two places: the variable is a number, and the
content lies in a second, nested stream of the same format at the end of the file. This module reads
both itself, through :mod:`gazekit.datasets.matlab`. Only a copy saved as MATLAB 7.3 (HDF5) is left to
mat-io, an optional dependency.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gazekit.datasets.card import Card
from gazekit.datasets.matlab import Opaque, nested
from gazekit.datasets.reading import Tables, TrialCollector, fixated_pixels, list_stimuli, not_authors, read_mat
from gazekit.errors import InputError
from gazekit.registry import unknown_name

_SIZE_WH_PX = (1920, 1080)
_KEY = re.compile(r"([A-Za-z0-9]+)/([A-Za-z0-9]+)\.jpg")
_EXPECTED_MAP = "a containers.Map 'allData' from 'Category/NNN.jpg' to structs with name and data"
_EXPECTED_LOCATIONS = f"a matrix 'fixLocs' of {_SIZE_WH_PX[1]} rows and {_SIZE_WH_PX[0]} columns"
_VERSIONS = ("1", "1.1")
_SOURCES = ("scanpaths", "locations")


def read_cat2000(folder: Path, card: Card, version: str = "1.1", source: str = "scanpaths") -> Tables:
    """One row per fixation; ``t_s`` and ``duration_s`` are NaN (neither is released).

    Stimuli are named ``Action_001``, which can be a file name, for the authors' ``Action/001.jpg``;
    the stimulus table has a column ``category``. Subjects are the initials at the end of the
    authors' recording names.

    Args:
        folder: Contains ``trainSet``.
        card: The card.
        version: What pysaliency calls the version of its reading. ``1.1`` subtracts 1 from both
            coordinates, drops what is then outside the image or NaN, and drops every fixation at
            exactly the position of the one before it. ``1`` drops what is outside or NaN and leaves
            the rest as released. Without effect on ``locations``.
        source: ``scanpaths`` reads ``allFixData.mat``. ``locations`` reads ``FIXATIONLOCS``: one trial
            per image of a subject named ``all``, in raster order, at integer pixel indices.

    Raises:
        InputError: An option is unknown, or a file is missing, damaged, or not the authors'.

    """
    if version not in _VERSIONS:
        raise unknown_name("version of CAT2000", version, list(_VERSIONS))
    if source not in _SOURCES:
        raise unknown_name("source of CAT2000", source, list(_SOURCES))
    release = folder / "trainSet"
    trials = TrialCollector(card)
    if source == "scanpaths":
        path = release / "allFixData.mat"
        names, changes = _add_scanpaths(path, card, version, trials)
    else:
        path = release / "FIXATIONLOCS"
        names, changes = _add_locations(path, card, trials)
    fixations, trial_table = trials.tables(path)
    images = {stimulus: release / "Stimuli" / name for stimulus, name in names.items()}
    categories = [name.split("/")[0] for name in names.values()]
    stimuli = list_stimuli(images, card, _SIZE_WH_PX, category=categories)
    # Subfolders named Output, left over from the authors' processing, lie one level deeper.
    unseen = {name for name, _ in _by_category(release / "Stimuli", "jpg")} - set(names.values())
    if unseen:
        changes.append(f"{len(unseen)} images without eye movements were left out.")
    return Tables(fixations, trial_table, stimuli, tuple(changes))


def _by_category(folder: Path, suffix: str) -> Iterator[tuple[str, Path]]:
    """('Action/001.jpg', path) of every visible file two levels below `folder`, sorted."""
    for path in sorted(folder.glob(f"*/*.{suffix}")):
        name = f"{path.parent.name}/{path.stem}.jpg"
        if _KEY.fullmatch(name):
            yield name, path


def _add_scanpaths(path: Path, card: Card, version: str, trials: TrialCollector) -> tuple[dict[str, str], list[str]]:
    names: dict[str, str] = {}
    n_outside = n_unknown = n_repeated = 0
    first_px = 1.0 if version == "1.1" else 0.0  # MATLAB counts pixels from 1
    for key, records in sorted(_released(path, card).items()):
        stimulus = key.removesuffix(".jpg").replace("/", "_")
        names[stimulus] = key
        for number, (recording, data) in enumerate(records, start=1):
            where = f"{path}: {key}, recording {number}"
            parts = recording.removesuffix(".eye").split("-")
            if len(parts) != 3 or not parts[2].isprintable() or not parts[2].strip():
                raise InputError(
                    f"{where}: named {recording!r}, expected three parts as in '24-53-ak.eye'; {card.mend}"
                )
            if data.ndim != 2 or data.dtype.kind not in "iuf" or (len(data) and data.shape[1] < 2):
                raise InputError(f"{where}: data are not rows of x and y; {card.mend}")
            samples = data.astype(np.float64) if len(data) else np.empty((0, 2))
            # A NaN in a further column marks the sample as invalid too.
            known = ~np.isnan(samples).any(axis=1)
            xy = samples[:, :2] - first_px
            # Written so that NaN counts as unknown, not as outside.
            outside = known & ((xy < 0) | (xy >= _SIZE_WH_PX)).any(axis=1)
            kept = xy[known & ~outside]
            n_unknown += int((~known).sum())
            n_outside += int(outside.sum())
            if version == "1.1" and len(kept) > 1:
                moved = np.append(True, (np.diff(kept, axis=0) != 0).any(axis=1))
                n_repeated += int((~moved).sum())
                kept = kept[moved]
            trials.add(where, parts[2], stimulus, kept[:, 0], kept[:, 1])
    changes = []
    if version == "1.1":
        changes.append("1 was subtracted from x and y, which the release counts from 1.")
    if n_outside:
        changes.append(f"{n_outside} fixations outside the image were dropped, as in pysaliency.")
    if n_unknown:
        changes.append(f"{n_unknown} fixations with a value that is not a number were dropped, as in pysaliency.")
    if n_repeated:
        changes.append(
            f"{n_repeated} fixations at the position of the one before were dropped, as in pysaliency's 1.1."
        )
    return names, changes


def _add_locations(folder: Path, card: Card, trials: TrialCollector) -> tuple[dict[str, str], list[str]]:
    names: dict[str, str] = {}
    for key, path in _by_category(folder, "mat"):
        stimulus = key.removesuffix(".jpg").replace("/", "_")
        names[stimulus] = key
        x_px, y_px = fixated_pixels(read_mat(path, card, _EXPECTED_LOCATIONS).get("fixLocs"), _SIZE_WH_PX, path, card)
        trials.add(str(path), "all", stimulus, x_px, y_px)
    return names, [
        "Fixations are those of all subjects together, one per fixated pixel, at its integer index and in raster "
        "order: who looked, in which order and how often is not in these files."
    ]


def _released(path: Path, card: Card) -> dict[str, list[tuple[str, NDArray[Any]]]]:
    """'Action/001.jpg' -> (name of the recording, data) of each subject, in the file's order."""
    found = [_hdf5_map(path, card)] if _is_hdf5(path) else None
    content = {} if found else read_mat(path, card, _EXPECTED_MAP)
    try:
        maps = [
            content_of_map
            for content_of_map in found or _container_maps(content)
            if content_of_map and all(isinstance(key, str) and _KEY.fullmatch(key) for key in content_of_map)
        ]
        if len(maps) != 1:
            raise ValueError(f"{len(maps)} maps from images")
        return {key: [_recording(cell) for cell in np.ravel(records)] for key, records in maps[0].items()}
    except Exception as error:  # a damaged file can hold anything under any name
        not_authors(path, card, _EXPECTED_MAP, error)


def _recording(record: Any) -> tuple[str, NDArray[Any]]:
    while isinstance(record, np.ndarray) and record.dtype == object and record.size == 1:
        record = record.item()
    if not isinstance(record, np.ndarray) or record.dtype.names is None or record.size != 1:
        raise ValueError("a recording is not one struct")
    name, data = record["name"].item(), record["data"].item()
    if not isinstance(data, np.ndarray) or not isinstance(name, np.ndarray) or name.dtype.kind != "U" or name.size != 1:
        raise ValueError("a recording lacks its name or data")
    return str(name.item()), data


def _container_maps(content: dict[str, Any]) -> Iterator[dict[Any, Any]]:
    """The content of every ``containers.Map`` in the file, wherever it is referred to.

    Objects keep their properties in the nested stream, as cells of one ``FileWrapper__``; those of a map
    are one struct with fields ``keys`` and ``values``.
    """
    variable = content.get("allData")
    if not isinstance(variable, Opaque) or variable.classname != "containers.Map":
        raise ValueError("no containers.Map named 'allData'")
    stream = np.asarray(content[""], dtype=np.uint8).ravel(order="F").tobytes()
    wrapper = next(nested(stream))["MCOS"].item()
    for cell in np.ravel(wrapper.content):
        if isinstance(cell, np.ndarray) and cell.dtype.names and {"keys", "values"} <= set(cell.dtype.names):
            keys, values = np.ravel(cell["keys"].item()), np.ravel(cell["values"].item())
            if len(keys) != len(values):
                raise ValueError(f"{len(keys)} keys, {len(values)} values")
            content_of_map = dict(zip((key.item() for key in keys), values, strict=True))
            if len(content_of_map) != len(keys):
                raise ValueError("a key occurs twice")
            yield content_of_map


def _is_hdf5(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(128)[124:] in (b"\0\2IM", b"\2\0MI")
    except OSError:
        return False  # and read_mat5 says why


def _hdf5_map(path: Path, card: Card) -> dict[Any, Any]:
    """``allData`` of a copy that was saved as MATLAB 7.3, which is an HDF5 file."""
    try:
        import h5py  # type: ignore[import-untyped,import-not-found,unused-ignore]
        from matio import load_from_mat  # type: ignore[import-untyped,import-not-found,unused-ignore]
    except ImportError as error:
        raise InputError(
            f'{path}: is saved as MATLAB 7.3, which needs another package; pip install "gazekit[cat2000]"'
        ) from error
    try:
        with h5py.File(path, "r") as file:
            _refuse_links(file)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what mat-io could not convert is not a map, and is refused below
            variable = load_from_mat(path, variable_names=["allData"])["allData"]
        return dict(variable.items())
    except Exception as error:  # HDF5 refuses a damaged file in many ways
        not_authors(path, card, _EXPECTED_MAP, error)


def _refuse_links(group: Any) -> None:
    """HDF5 can point into other files; those of MATLAB do not, and none is followed."""
    below = [group]
    while below:
        folder = below.pop()
        for name in folder:
            if type(folder.get(name, getlink=True)).__name__ != "HardLink":
                raise ValueError(f"a link at {name}")
            item = folder[name]
            if hasattr(item, "keys"):
                below.append(item)
            elif getattr(item, "external", None) or getattr(item, "is_virtual", False):
                raise ValueError(f"data of another file at {name}")
