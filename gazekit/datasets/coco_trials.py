"""The JSON trial lists of COCO-Search18 and COCO-FreeView: a list of name, subject, X, Y, T, length and split.

Both show the same COCO images, resized with their aspect ratio kept and padded with black to 1680x1050 px;
``X`` and ``Y`` are px of that frame, ``T`` durations in ms.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import pandas as pd

from gazekit.datasets.card import Card
from gazekit.datasets.reading import list_stimuli, not_authors, numbers, read_json
from gazekit.errors import InputError

FRAME_WH_PX = (1680, 1050)
# The archives of the images unpack to these, with one folder per category in each.
IMAGE_FOLDERS = ("images", "coco_search18_images_TA")
RELEASED_SPLITS = ("train", "valid", "test")
# The frame that the IRL, Gazeformer and HAT code works in; their copies of the JSON files are scaled to it.
_RESCALED_WH_PX = (512, 320)
# A file name and nothing else: it becomes part of a path.
_IMAGE_NAME = re.compile(r"[A-Za-z0-9_-]+\.jpg")
_EXPECTED = "a list of trials, each with name, subject, X, Y, T, length and split"


@dataclass(frozen=True)
class CocoTrial:
    """One record, checked as far as both datasets have the same keys.

    Args:
        where: File and place in it, for messages.
        image: File name of the image.
        subject: ``s01`` for subject 1 of the file.
        split: train, valid or test, as the record says.
        x_px: (T,) positions.
        y_px: (T,) positions.
        duration_s: (T,) durations.
        record: The record itself, for the other keys.

    """

    where: str
    image: str
    subject: str
    split: str
    x_px: list[float]
    y_px: list[float]
    duration_s: list[float]
    record: Mapping[str, Any]


def read_trials(path: Path, card: Card, cut_durations: bool = False) -> tuple[list[CocoTrial], int]:
    """The trials of one file, and in how many of them ``T`` was cut to the length of ``X``.

    Args:
        path: The file.
        card: For the end of messages.
        cut_durations: Allow ``T`` to be longer than ``X``, ``Y`` and ``length``, as in one version of the
            test file of COCO-Search18; any other difference is an error everywhere.

    Raises:
        InputError: The file is missing or damaged, not such a list, or in another frame than 1680x1050 px.

    """
    content = read_json(path, card, _EXPECTED)
    if not isinstance(content, list):
        not_authors(path, card, _EXPECTED, f"a {type(content).__name__}")
    trials, n_cut = [], 0
    for number, record in enumerate(content):
        where = f"{path}: trial {number}"
        if not isinstance(record, dict):
            not_authors(where, card, _EXPECTED, f"a {type(record).__name__}")
        image, subject, split = (record.get(key) for key in ("name", "subject", "split"))
        if not isinstance(image, str) or not _IMAGE_NAME.fullmatch(image):
            _refuse(where, f"name is {image!r:.80}, expected the file name of an image, as 000000211326.jpg", card)
        if type(subject) is not int or not 1 <= subject <= 99:
            _refuse(where, f"subject is {subject!r:.80}, expected a number from 1", card)
        if split not in RELEASED_SPLITS:
            _refuse(where, f"split is {split!r:.80}, expected one of {', '.join(RELEASED_SPLITS)}", card)
        x, y, duration_ms = (numbers(record, key, where, card) for key in ("X", "Y", "T"))
        n = record.get("length")
        if cut_durations and type(n) is int and len(x) == len(y) == n < len(duration_ms):
            duration_ms, n_cut = duration_ms[:n], n_cut + 1
        if type(n) is not int or not len(x) == len(y) == len(duration_ms) == n:
            lengths = f"{len(x)} X, {len(y)} Y, {len(duration_ms)} T and length {n!r:.80}"
            _refuse(where, f"{lengths}, expected equally many", card)
        if duration_ms and min(duration_ms) < 0:
            _refuse(where, f"T holds {min(duration_ms)}, expected durations in ms", card)
        durations_s = [value / 1000.0 for value in duration_ms]
        trials.append(CocoTrial(where, image, f"s{subject:02d}", split, x, y, durations_s, record))
    _check_frame(trials, path, card)
    return trials, n_cut


def list_images(folder: Path, card: Card, images: Iterable[str]) -> pd.DataFrame:
    """The stimulus table: one row per image file name, whichever category's folder it lies in.

    The release has an image once per category that it was shown for; all copies are the same image, and the
    first found counts. An image that is not here is listed with the size of the frame.

    Raises:
        InputError: An image is unreadable or not 1680x1050 px, or a folder cannot be read.

    """
    found: dict[str, Path] = {}
    try:
        for top in IMAGE_FOLDERS:
            for category in _folders_in(folder / top):
                for entry in os.scandir(category):
                    found.setdefault(entry.name, Path(entry.path))
    except OSError as error:
        raise InputError(f"{folder}: images cannot be listed ({error}); {card.mend}") from error
    paths = {Path(image).stem: found.get(image, folder / IMAGE_FOLDERS[0] / image) for image in images}
    return list_stimuli(paths, card, FRAME_WH_PX)


def inside_frame(x_px: float, y_px: float) -> bool:
    """True for a position on the padded image."""
    return 0 <= x_px < FRAME_WH_PX[0] and 0 <= y_px < FRAME_WH_PX[1]


def _folders_in(folder: Path) -> list[str]:
    return sorted(entry.path for entry in os.scandir(folder) if entry.is_dir()) if folder.is_dir() else []


def _check_frame(trials: list[CocoTrial], path: Path, card: Card) -> None:
    # Every trial starts near the center of 1680x1050 px, so a true file always reaches beyond 512x320.
    x, y = (max((max(axis) for axis in axes if axis), default=math.inf) for axes in (
        [trial.x_px for trial in trials], [trial.y_px for trial in trials]
    ))  # fmt: skip
    if x <= _RESCALED_WH_PX[0] and y <= _RESCALED_WH_PX[1]:
        reach = f"positions reach only ({x:.0f}, {y:.0f}) px: a copy scaled to 512x320"
        _refuse(str(path), f"{reach}, expected the frame of 1680x1050", card)


def _refuse(where: str, what: str, card: Card) -> NoReturn:
    raise InputError(f"{where}: {' '.join(what.split())}; {card.mend}")
