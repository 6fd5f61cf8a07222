"""Interiors (Bujia et al. 2022): search for a cut-out of the image, the saccades limited trial by trial.

Read from the authors' ``sinfo_subj/info_per_subj_N.mat``, one struct array per subject. Positions and
rectangles in it are (x, y) everywhere and already in pixels of the image; sizes are (height, width).
The older folder with another struct, whose x is shifted by 32 px, is not read.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from gazekit.datasets.card import Card
from gazekit.datasets.reading import Tables, TrialCollector, list_stimuli, not_authors, plain_name, read_mat
from gazekit.errors import InputError
from gazekit.tables import TARGET_BOX

_EXPECTED = "a struct array 'info_per_subj' with image_name, target_rect, x, y, t, dur, ..."
_FILE = re.compile(r"info_per_subj_([1-9]\d*)\.mat")


def read_interiors(folder: Path, card: Card) -> Tables:
    """One row per fixation, as the authors' parser found them; nothing is cut, shifted or dropped.

    Subjects are ``s01`` to ``s57`` by the number in the file name. ``t_s`` is NaN, since the files do
    not say when the image appeared; ``tracker_time_s`` is the tracker's clock. In the trial table,
    ``found`` is the authors' flag, ``start_x_px`` and ``start_y_px`` are the start position of the
    design (the first recorded fixation is often elsewhere), ``response_time_s`` is the search time,
    ``trial_order`` counts from 1 and ``screen_px`` is the display's size.

    Raises:
        InputError: A file is missing, damaged, or not the authors'.

    """
    trials = TrialCollector(card)
    images: dict[str, Path] = {}
    targets: dict[str, Path] = {}
    sizes: dict[str, tuple[int, int]] = {}
    for number, path in _subject_files(folder / "sinfo_subj", card):
        for index, record in enumerate(_records(path, card)):
            where = f"{path}: trial {index + 1}"
            try:
                image, target = (str(record[key][0]) for key in ("image_name", "target_name"))
                height, width = (int(n) for n in record["image_size"].ravel())
                screen_height, screen_width = (int(n) for n in record["screen_size"].ravel())
                box = [float(edge) for edge in record["target_rect"].ravel()]
                start = [float(part) for part in record["initial_position"].ravel()]
                x, y, t, duration_ms = (np.asarray(record[key], float).ravel() for key in ("x", "y", "t", "dur"))
                columns: dict[str, Any] = {
                    "target_present": True,
                    **dict(zip(TARGET_BOX, box, strict=True)),
                    "found": _flag(record["target_found"]),
                    "response_time_s": float(record["search_rt"].item()),
                    "max_saccades": int(record["nsaccades_allowed"].item()),
                    **dict(zip(("start_x_px", "start_y_px"), start, strict=True)),
                    "trial_order": int(record["trial_order"].item()),
                    "screen_px": f"{screen_width}x{screen_height}",
                }
            except Exception as error:  # a damaged file can hold anything under any name
                not_authors(where, card, _EXPECTED, error)
            stimulus = Path(plain_name(image, where, card)).stem
            if sizes.setdefault(stimulus, (width, height)) != (width, height):
                raise InputError(f"{where}: image_size {width}x{height} differs from another trial's; {card.mend}")
            images[stimulus] = folder / "images" / image
            targets[target] = folder / "templates" / plain_name(target, where, card)
            trials.add(
                where, f"s{number:02d}", stimulus, x, y, duration_s=duration_ms / 1000.0,
                per_fixation={"tracker_time_s": t / 1000.0}, target=Path(target).stem,
                target_path=str(targets[target]), **columns,
            )  # fmt: skip
    fixations, trial_table = trials.tables(folder / "sinfo_subj")
    # The templates are held to the same rules as the images.
    list_stimuli(targets, card, expected_wh_px=(72, 72))
    return Tables(fixations, trial_table, list_stimuli(images, card, sizes_wh_px=sizes))


def _subject_files(folder: Path, card: Card) -> list[tuple[int, Path]]:
    """Number and file of each subject."""
    files = []
    for path in folder.iterdir():
        match = _FILE.fullmatch(path.name)
        if match is None:
            raise InputError(f"{path}: unexpected file, expected info_per_subj_N.mat; rename or remove it")
        files.append((int(match[1]), path))
    if not files:
        raise InputError(f"{folder}: holds no info_per_subj_N.mat; {card.mend}")
    return sorted(files)


def _records(path: Path, card: Card) -> list[Any]:
    content = read_mat(path, card, _EXPECTED)
    try:
        records = content["info_per_subj"].ravel()
        assert records.dtype.names
    except (KeyError, AttributeError, AssertionError) as error:
        not_authors(path, card, _EXPECTED, error)
    return list(records)


def _flag(value: Any) -> bool:
    number = value.item()
    if number not in (0, 1):
        raise ValueError(f"target_found is {number!r}")
    return bool(number)
