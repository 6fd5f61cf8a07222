"""Amazon book covers (Sattar et al. 2015; annotated by Stauden et al. 2018): search for one cover among 84.

Read from ``Amazon.json``: collage -> ``fixations`` (subject -> list of [x, y]), ``ground_truth`` (the
target's box), ``size``, ``target``. The images travel in a separate archive and may be missing.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from gazekit.datasets.card import Card
from gazekit.datasets.objects import grid_of_objects
from gazekit.datasets.reading import Tables, TrialCollector, list_stimuli, not_authors, plain_name, read_json
from gazekit.errors import InputError
from gazekit.tables import TARGET_BOX

_EXPECTED = "an object: collage -> fixations, ground_truth, size, target"
_TARGET = re.compile(r"target_(\d+)\.jpg")
# The authors' text says 100 covers; the collages show 84.
_COLUMNS, _ROWS = 14, 6


def read_amazon_covers(folder: Path, card: Card) -> Tables:
    """One row per fixation; neither onsets nor durations are released (NaN).

    Stimuli are the collages, named without ``.jpg``; subjects are ``s1`` to ``s6``. The object table
    has the cells of the 14 x 6 grid over the collage, row by row, unless ``objects.csv`` lies beside
    ``Amazon.json`` with better boxes (columns stimulus, object, left_px, top_px, right_px, bottom_px).

    Raises:
        InputError: A file is missing, damaged, or not the authors'.

    """
    path = folder / "Amazon.json"
    content = read_json(path, card, _EXPECTED)
    if not isinstance(content, dict):
        not_authors(path, card, _EXPECTED, f"holds a {type(content).__name__}")
    trials = TrialCollector(card)
    images: dict[str, Path] = {}
    targets: list[str] = []
    sizes: dict[str, tuple[int, int]] = {}
    for image, collage in sorted(content.items(), key=lambda item: _natural(item[0])):
        where = f"{path}: {image}"
        stimulus = Path(plain_name(image, path, card)).stem
        if stimulus in images:
            raise InputError(f"{where}: another collage has the same name but for its ending; {card.mend}")
        try:
            box: dict[str, Any] = dict(zip(TARGET_BOX, _target_box(collage), strict=True))
            sizes[stimulus], target = _size(collage), _target(collage)
            scanpaths = {str(int(name)): np.array(points, float) for name, points in collage["fixations"].items()}
        except Exception as error:  # a damaged file can hold anything under any name
            not_authors(where, card, _EXPECTED, error)
        images[stimulus] = folder / "images" / image
        targets.append(target)
        for subject, points in scanpaths.items():
            if points.size and (points.ndim != 2 or points.shape[1] != 2):
                raise InputError(f"{where}, subject {subject}: fixations are not [x, y] pairs; {card.mend}")
            x, y = points.reshape(-1, 2).T
            trials.add(
                f"{where}, subject {subject}", f"s{subject}", stimulus, x, y,
                target=target, target_present=True, **box,
            )  # fmt: skip
    fixations, trial_table = trials.tables(path)
    stimuli = list_stimuli(images, card, sizes_wh_px=sizes, target=targets)
    own = folder / "objects.csv"
    objects = _read_objects(own, card) if own.is_file() else grid_of_objects(stimuli, _COLUMNS, _ROWS)
    return Tables(fixations, trial_table, stimuli, objects=objects)


def _natural(name: str) -> list[tuple[int, str]]:
    """Sort key that puts 2.jpg before 10.jpg."""
    return [(int(part) if part.isdecimal() else 0, part) for part in re.split(r"(\d+)", name)]


def _target_box(collage: Any) -> list[float]:
    (box,) = collage["ground_truth"]
    return [float(box[key]) for key in ("xmin", "ymin", "xmax", "ymax")]


def _size(collage: Any) -> tuple[int, int]:
    width, height = (collage["size"][key] for key in ("width", "height"))
    if int(width) != width or int(height) != height or width <= 0 or height <= 0:
        raise ValueError(f"size is {width!r} x {height!r}")
    return int(width), int(height)


def _target(collage: Any) -> str:
    match = _TARGET.fullmatch(collage["target"])
    if match is None:
        raise ValueError(f"target is {collage['target']!r}")
    return f"target_{match[1]}"


def _read_objects(path: Path, card: Card) -> pd.DataFrame:
    try:
        return pd.read_csv(path, dtype={"stimulus": str})
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not a readable table ({' '.join(str(error).split())}); {card.mend}") from error
