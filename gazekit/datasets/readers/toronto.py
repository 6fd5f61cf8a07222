"""Toronto (Bruce & Tsotsos): 120 indoor and outdoor photographs, 20 subjects, 4 s of free viewing; fixated pixels only.

Read from ``origfixdata.mat``: a variable ``white``, a cell array with one binary map per image. The
recordings of each subject, which are released beside it, are not in pixels of the images and are not read.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from gazekit.datasets.card import Card
from gazekit.datasets.reading import Tables, TrialCollector, fixated_pixels, list_stimuli, not_authors, read_mat

_SIZE_WH_PX = (681, 511)
_N_IMAGES = 120
_EXPECTED = f"a variable 'white' of at most {_N_IMAGES} maps of {_SIZE_WH_PX[0]}x{_SIZE_WH_PX[1]} px"


def read_toronto(folder: Path, card: Card) -> Tables:
    """One row per fixated pixel, at its integer index; ``t_s`` and ``duration_s`` are NaN.

    There is one trial per image, of a subject named ``all``, in raster order: subjects, order and
    repeated fixations of a pixel are not in the file. Stimuli are named ``1`` to ``120``.

    Raises:
        InputError: A file is missing, damaged, or not the authors'.

    """
    release = folder / "eyetrackingdata" / "fixdens"
    path = release / "origfixdata.mat"
    trials = TrialCollector(card)
    images: dict[str, Path] = {}
    for number, fixated in enumerate(_released(path, card), start=1):
        where = f"{path}: image {number}"
        x_px, y_px = fixated_pixels(fixated, _SIZE_WH_PX, where, card)
        images[str(number)] = release / "Original Image Set" / f"{number}.jpg"
        trials.add(where, "all", str(number), x_px, y_px)
    fixations, trial_table = trials.tables(path)
    stimuli = list_stimuli(images, card, _SIZE_WH_PX)
    return Tables(
        fixations,
        trial_table,
        stimuli,
        (
            "Fixations are those of all subjects together, one per fixated pixel, at its integer index and in raster "
            "order: who looked, in which order and how often is not in the file.",
        ),
    )


def _released(path: Path, card: Card) -> list[Any]:
    """What the file holds for each image, in the order of their numbers."""
    maps = read_mat(path, card, _EXPECTED).get("white")
    if not isinstance(maps, np.ndarray) or maps.dtype != object:
        not_authors(path, card, _EXPECTED, "no cell array of that name")
    if maps.size > _N_IMAGES:
        not_authors(path, card, _EXPECTED, f"{maps.size} cells")
    return list(maps.ravel(order="F"))
