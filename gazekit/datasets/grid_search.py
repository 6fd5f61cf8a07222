"""SIMULATED search among objects on a grid: displays that are made, and searchers whose next step is known.

For tests and first steps without data. A searcher reads the objects row by row and ends on the target, or slips to any
other object now and then. Not human data: numbers on it say that the software works, nothing about people.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from gazekit.datasets.dataset import GazeDataset
from gazekit.datasets.from_frame import from_dataframe
from gazekit.datasets.objects import grid_of_objects
from gazekit.errors import InputError
from gazekit.files import written_aside
from gazekit.tables import OBJECT_COLUMNS, TARGET_BOX

# Side of the patch of random colors that is an object, in cells of color.
_PATCH = 4


def grid_search(
    n_displays: int = 40,
    n_subjects: int = 3,
    columns: int = 6,
    rows: int = 4,
    size_wh_px: tuple[int, int] = (360, 280),
    slip: float = 0.0,
    seed: int = 0,
    pictures: Path | None = None,
) -> GazeDataset:
    """Displays of `columns` x `rows` objects, one of them the target, and scanpaths from the top left to it.

    Args:
        n_displays: Stimuli, each with its own target.
        n_subjects: Searchers of each display.
        columns: Of objects.
        rows: Of objects.
        size_wh_px: Of a display.
        slip: Probability that a fixation goes to any object instead of the next one; reading goes on from there.
        seed: Of targets, slips, positions on objects, and pictures.
        pictures: Folder for pictures of the displays, objects of random colors; None makes none.

    Returns:
        Trials with the target's box, and objects, as a dataset of the card ``grid_search``; split by stimulus: the last
        fifth is for the test, the tenth before that for validation, and at least one display each where there are
        three or more.

    Raises:
        InputError: `slip` is not a probability below one, or a number is not positive.

    """
    if not 0.0 <= slip < 1.0 or min(n_displays, n_subjects, columns, rows) < 1:
        raise InputError(
            f"grid_search: slip {slip} must be from 0 to below 1, and displays, subjects, columns and rows 1 or more"
        )
    rng = np.random.default_rng(seed)
    names = [f"display_{i:03d}" for i in range(n_displays)]
    width, height = size_wh_px
    stimuli = pd.DataFrame({"stimulus": names, "width_px": width, "height_px": height})
    objects = grid_of_objects(stimuli, columns, rows)
    boxes = objects[objects["stimulus"] == names[0]][list(OBJECT_COLUMNS[2:])].to_numpy(float)
    fixations, trials = [], []
    for name in names:
        target = int(rng.integers(len(boxes)))
        for subject in range(n_subjects):
            path = _read_to(target, len(boxes), slip, rng)
            # Around the middle of an object, never beside it.
            share = rng.uniform(0.25, 0.75, (len(path), 2))
            xy = boxes[path, :2] + share * (boxes[path, 2:] - boxes[path, :2])
            who = {"subject": f"reader_{subject}", "stimulus": name}
            fixations.append(pd.DataFrame({**who, "x_px": xy[:, 0], "y_px": xy[:, 1]}))
            box: dict[str, Any] = dict(zip(TARGET_BOX, boxes[target].tolist(), strict=True))
            trials.append({**who, "target": f"object_{target}", "target_present": True, **box})
    images = None if pictures is None else _draw(names, size_wh_px, columns, rows, pictures, rng)
    return from_dataframe(
        pd.concat(fixations, ignore_index=True),
        name="grid_search",
        stimuli=stimuli,
        trials=pd.DataFrame(trials),
        objects=objects,
        images=images,
        task="visual_search",
        split=_split(names),
        card={
            "title": "SIMULATED search among objects on a grid",
            "citation": "None: no eye was tracked; gazekit/datasets/grid_search.py made these scanpaths.",
            "simulated": True,
        },
    )


def _split(names: list[str]) -> dict[str, Any]:
    """Exact shares, where a rule by hash may leave few displays without any validation."""
    n_test, n_val = (max(1, round(share * len(names))) if len(names) > 2 else 0 for share in (0.2, 0.1))
    first_test = len(names) - n_test
    return {"by": "stimulus", "val": names[first_test - n_val : first_test], "test": names[first_test:]}


def _read_to(target: int, n: int, slip: float, rng: np.random.Generator) -> NDArray[np.int64]:
    """Objects in reading order up to the target; after a slip, and at the end, reading begins anew from there."""
    path = [0]
    while path[-1] != target:
        path.append(int(rng.integers(n)) if rng.random() < slip else (path[-1] + 1) % n)
    return np.array(path)


def _draw(
    names: list[str], size_wh_px: tuple[int, int], columns: int, rows: int, folder: Path, rng: np.random.Generator
) -> dict[str, Path]:
    """Write one picture per display; every object is a patch of a few random colors."""
    paths = {}
    for name in names:
        colors = rng.integers(0, 256, (rows * _PATCH, columns * _PATCH, 3), dtype=np.uint8)
        paths[name] = folder / f"{name}.png"
        with written_aside(paths[name]) as aside:
            Image.fromarray(colors).resize(size_wh_px, Image.Resampling.NEAREST).save(aside, format="PNG")
    return paths
