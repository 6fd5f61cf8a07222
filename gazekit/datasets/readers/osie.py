"""OSIE (Xu et al. 2014): 700 natural scenes, 15 subjects, 3 s of free viewing; with durations.

Read from the authors' ``eye/fixations.mat``: a cell array with one struct per image (``img``,
``subjects``), each subject a struct of ``fix_x``, ``fix_y`` (px) and ``fix_duration`` (ms).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from gazekit.datasets.card import Card
from gazekit.datasets.reading import Tables, TrialCollector, list_stimuli, not_authors, plain_name, read_mat
from gazekit.errors import InputError

_EXPECTED = "a variable 'fixations' with img and subjects"


def read_osie(folder: Path, card: Card) -> Tables:
    """One row per fixation; ``t_s`` is NaN (onsets are not released).

    Stimuli are those of ``fixations.mat``, named without ``.jpg``; subjects are ``s01`` to ``s15``
    in the file's order.

    Raises:
        InputError: A file is missing, damaged, or not the authors'.

    """
    path = folder / "eye" / "fixations.mat"
    trials = TrialCollector(card)
    images: dict[str, Path] = {}
    for image, subjects in _released(path, card):
        stimulus = Path(plain_name(image, path, card)).stem
        images[stimulus] = folder / "stimuli" / image
        for number, record in enumerate(subjects, start=1):
            where = f"{path}: {image}, subject {number}"
            try:
                x, y, duration_ms = (np.asarray(record[k], float).ravel() for k in ("fix_x", "fix_y", "fix_duration"))
            except (KeyError, ValueError, IndexError, TypeError) as error:
                raise InputError(f"{where}: no fix_x, fix_y, fix_duration; {card.mend}") from error
            trials.add(where, f"s{number:02d}", stimulus, x, y, duration_s=duration_ms / 1000.0)
    fixations, trial_table = trials.tables(path)
    assert card.screen is not None
    return Tables(fixations, trial_table, list_stimuli(images, card, card.screen.size_wh_px))


def _released(path: Path, card: Card) -> list[tuple[str, list[Any]]]:
    """(image file name, one struct per subject) for every image in the file."""
    content = read_mat(path, card, _EXPECTED)
    try:
        return [
            (str(cell[0, 0]["img"][0]), [subject[0, 0] for subject in cell[0, 0]["subjects"].ravel()])
            for cell in content["fixations"].ravel()
        ]
    except Exception as error:  # a damaged file can hold anything under any name
        not_authors(path, card, _EXPECTED, error)
