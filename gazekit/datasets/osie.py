"""OSIE (Xu et al. 2014): 700 natural scenes, 15 subjects, 3 s of free viewing; with durations.

Read from the authors' ``eye/fixations.mat``: a cell array with one struct per image (``img``,
``subjects``), each subject a struct of ``fix_x``, ``fix_y`` (px) and ``fix_duration`` (ms).
"""

from __future__ import annotations

import struct
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.io import loadmat

from gazekit.datasets.card import Card
from gazekit.datasets.dataset import GazeDataset, PartialDataWarning, data_folder
from gazekit.datasets.images import image_size_wh_px
from gazekit.errors import InputError
from gazekit.tables import check_fixations, check_stimuli, check_trials, outside

_EYE_FILE = "eye/fixations.mat"
_MEND = "fetch it again with 'gazekit data fetch osie'"


def load_osie(root: Path | str | None = None, strict: bool = False) -> GazeDataset:
    """OSIE with one row per fixation; ``t_s`` is NaN (onsets are not released).

    Stimuli are those of ``fixations.mat``, named without ``.jpg``; subjects are ``s01`` to ``s15``
    in the file's order.

    Raises:
        InputError: The folder or a file is missing, damaged, or breaks the card's counts.

    """
    card = Card.read("osie")
    folder = data_folder("osie", root, (_EYE_FILE, "stimuli"))
    released = _read_release(folder / _EYE_FILE)
    fixations, trials = _tables(released, folder / _EYE_FILE)
    stimuli = _stimuli(list(dict.fromkeys(name for name, _ in released)), folder, card)
    fixations = check_fixations(fixations, card.name)
    trials = check_trials(trials, fixations, card.name)
    off = outside(fixations, stimuli)
    if off.any():
        first = fixations[off].iloc[0]
        raise InputError(
            f"{folder / _EYE_FILE}: {int(off.sum())} fixations lie outside their image (first: stimulus "
            f"{first['stimulus']}, subject {first['subject']}, (x, y) = ({first['x_px']:.1f}, "
            f"{first['y_px']:.1f}) px); "
            f"the release has none, so the file is damaged or rescaled; {_MEND}"
        )
    expected = card.expect["stimuli"]
    if len(stimuli) < expected:
        message = f"osie: {len(stimuli)} of {expected} stimuli in {folder}, {expected - len(stimuli)} missing"
        if strict:
            raise InputError(f"{message}; {_MEND}, or load with strict=False")
        warnings.warn(message, PartialDataWarning, stacklevel=3)
    return GazeDataset(fixations=fixations, trials=trials, stimuli=stimuli, card=card)


def _read_release(path: Path) -> list[tuple[str, list[Any]]]:
    """(image file name, one struct per subject) for every image in the file."""
    try:
        _check_whole(path)
        cells = loadmat(path)["fixations"]
        return [
            (str(cell[0, 0]["img"][0]), [subject[0, 0] for subject in cell[0, 0]["subjects"].ravel()])
            for cell in cells.ravel()
        ]
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error}); {_MEND}") from error
    except Exception as error:  # SciPy raises whatever a truncated stream makes it trip over.
        raise InputError(
            f"{path}: not the authors' MATLAB file ({type(error).__name__}: {' '.join(str(error).split())}), "
            f"expected a variable 'fixations' with img and subjects; {_MEND}"
        ) from error


def _check_whole(path: Path) -> None:
    """Raise ValueError if a MATLAB v5 file ends before its last element does; SciPy can overlook that."""
    content = path.read_bytes()
    order = {b"IM": "<", b"MI": ">"}.get(content[126:128])
    if order is None:
        raise ValueError("no MATLAB v5 header")
    at = 128
    while at < len(content):
        if at + 8 > len(content):
            raise ValueError("truncated")
        _, n_bytes = struct.unpack_from(f"{order}II", content, at)
        at += 8 + n_bytes
    if at != len(content) or at == 128:
        raise ValueError(f"truncated: {len(content)} bytes, expected {at}")


def _tables(released: list[tuple[str, list[Any]]], path: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    parts: list[dict[str, Any]] = []
    trials: list[dict[str, Any]] = []
    for image, subjects in released:
        for number, record in enumerate(subjects, start=1):
            try:
                x, y, duration_ms = (np.asarray(record[k], float).ravel() for k in ("fix_x", "fix_y", "fix_duration"))
            except (KeyError, ValueError, IndexError, TypeError) as error:
                raise InputError(
                    f"{path}: {image}, subject {number}: no fix_x, fix_y, fix_duration; {_MEND}"
                ) from error
            if not len(x) == len(y) == len(duration_ms):
                raise InputError(
                    f"{path}: {image}, subject {number}: {len(x)} x, {len(y)} y and "
                    f"{len(duration_ms)} durations, expected equally many; {_MEND}"
                )
            trial, subject, stimulus = len(trials), f"s{number:02d}", Path(image).stem
            trials.append({"trial": trial, "subject": subject, "stimulus": stimulus, "task": "free_viewing"})
            parts.append(
                {
                    "subject": np.full(len(x), subject),
                    "stimulus": np.full(len(x), stimulus),
                    "trial": np.full(len(x), trial),
                    "fixation": np.arange(len(x)),
                    "x_px": x,
                    "y_px": y,
                    "duration_s": duration_ms / 1000.0,
                }
            )
    if not parts:
        raise InputError(f"{path}: holds no trial; {_MEND}")
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    fixations = pd.DataFrame(columns).assign(t_s=np.nan)
    return fixations, pd.DataFrame(trials)


def _stimuli(names: list[str], folder: Path, card: Card) -> pd.DataFrame:
    paths = [folder / "stimuli" / name for name in names]
    if absent := [path for path in paths if not path.is_file()]:
        raise InputError(f"{absent[0]}: image missing ({len(absent)} of {len(paths)} are); {_MEND}")
    expected = card.screen.size_wh_px
    for path in paths:
        if (found := image_size_wh_px(path)) != expected:
            raise InputError(
                f"{path}: image is {found[0]}x{found[1]} px, expected {expected[0]}x{expected[1]}; {_MEND}"
            )
    table = pd.DataFrame({"stimulus": [path.stem for path in paths], "path": [str(path) for path in paths]})
    table["width_px"], table["height_px"] = expected
    table["split"] = card.split_of(table)
    return check_stimuli(table, card.name)
