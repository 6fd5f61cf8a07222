"""SIMULATED free viewing: a documented generative observer over scikit-image's photographs.

For machines without data and without a network, and for tests. The observer draws each fixation
from ``contrast * center_bias * saccade_amplitude(distance) * inhibition``, in which contrast is a
difference of Gaussians on luminance and two opponent colors, the amplitude density is a gamma in
degrees, and visited places are inhibited and recover. All constants stand in the card.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter
from skimage import data as photographs

from gazekit.datasets.card import Card
from gazekit.datasets.reading import Tables
from gazekit.errors import InputError
from gazekit.files import written_aside

# Photographs inside scikit-image's wheel; none of these is downloaded.
_PHOTOGRAPHS = (
    "astronaut", "camera", "chelsea", "coffee", "coins", "hubble_deep_field", "moon", "rocket", "stereo_motorcycle",
)  # fmt: skip
# The observer works on cells of this many pixels; positions are then spread within the cell.
_CELL_PX = 4


def read_simulated(folder: Path, card: Card) -> Tables:
    """Generate (or reuse) the images in `folder`, and simulate the trials; the same on every machine."""
    assert card.screen is not None
    observer = card.content["observer"]
    stimuli = _views(folder, card.screen.size_wh_px, observer)
    fixations, trials = _simulate(stimuli, card.screen.px_per_dva, observer, np.random.default_rng(observer["seed"]))
    return Tables(fixations, trials, stimuli)


def _views(folder: Path, size_wh_px: tuple[int, int], observer: Mapping[str, Any]) -> pd.DataFrame:
    """Cut the views out of the photographs, seeded by photograph, and write those not yet there."""
    width, height = size_wh_px
    rows = []
    for number, name in enumerate(_PHOTOGRAPHS):
        picture = getattr(photographs, name)()
        image = Image.fromarray(np.asarray(picture[0] if isinstance(picture, tuple) else picture)).convert("RGB")
        rng = np.random.default_rng([observer["seed"], number])
        for view in range(observer["views_per_photograph"]):
            # The largest 4:3 window, shrunk by up to a half and put anywhere.
            scale = rng.uniform(0.5, 1.0) * min(image.width / width, image.height / height)
            box_w, box_h = scale * width, scale * height
            left, top = rng.uniform(0, image.width - box_w), rng.uniform(0, image.height - box_h)
            path = folder / f"{name}_{view}.png"
            if not path.exists():
                cut = image.resize(size_wh_px, Image.Resampling.BICUBIC, box=(left, top, left + box_w, top + box_h))
                try:
                    with written_aside(path) as aside:
                        cut.save(aside, format="PNG")
                except OSError as error:
                    raise InputError(f"{path}: cannot be written ({error}); give a folder that can") from error
            rows.append({"stimulus": path.stem, "path": str(path), "group": name})
    return pd.DataFrame(rows).assign(width_px=width, height_px=height)


def priority_map(rgb: NDArray[np.float64], px_per_dva: float, observer: Mapping[str, Any]) -> NDArray[np.float64]:
    """(H, W, 3) RGB in [0, 1] -> (H, W) contrast times center bias, summing to one."""
    red, green, blue = np.moveaxis(rgb, -1, 0)
    channels = (rgb.mean(-1), (red - green) / 2.0, (red + green) / 4.0 - blue / 2.0)
    inner, outer, pool = (observer[f"{name}_sigma_dva"] * px_per_dva for name in ("center", "surround", "pool"))
    contrast = sum(np.abs(gaussian_filter(c, inner) - gaussian_filter(c, outer)) for c in channels)
    salient = gaussian_filter(contrast, pool) ** observer["contrast_exponent"]
    height, width = salient.shape
    rows, columns = np.mgrid[0:height, 0:width] + 0.5
    sq_dist = (columns - width / 2.0) ** 2 + (rows - height / 2.0) ** 2
    priority = salient * np.exp(-sq_dist / (2.0 * (observer["center_bias_sigma_of_width"] * width) ** 2))
    normalized: NDArray[np.float64] = priority / priority.sum()
    return normalized


def _simulate(
    stimuli: pd.DataFrame, px_per_dva: float, observer: Mapping[str, Any], rng: np.random.Generator
) -> tuple[pd.DataFrame, pd.DataFrame]:
    parts: list[pd.DataFrame] = []
    trials: list[dict[str, Any]] = []
    for stimulus, path in zip(stimuli["stimulus"], stimuli["path"], strict=True):
        with Image.open(path) as image:
            rgb = np.asarray(image.convert("RGB"), dtype=np.float64) / 255.0
        priority = priority_map(rgb, px_per_dva, observer)
        for number in range(1, observer["subjects"] + 1):
            xy_px = _scanpath(priority, px_per_dva, observer, rng)
            n = len(xy_px)
            durations = observer["duration_median_s"] * np.exp(rng.normal(0.0, observer["duration_log_sd"], n))
            trial, subject = len(trials), f"sim{number:02d}"
            trials.append({"trial": trial, "subject": subject, "stimulus": stimulus, "task": "free_viewing"})
            parts.append(
                pd.DataFrame(
                    {
                        "subject": subject,
                        "stimulus": stimulus,
                        "trial": trial,
                        "fixation": np.arange(n),
                        "x_px": xy_px[:, 0],
                        "y_px": xy_px[:, 1],
                        "t_s": np.cumsum(durations) - durations,
                        "duration_s": durations,
                    }
                )
            )
    return pd.concat(parts, ignore_index=True), pd.DataFrame(trials)


def _scanpath(
    priority: NDArray[np.float64], px_per_dva: float, observer: Mapping[str, Any], rng: np.random.Generator
) -> NDArray[np.float64]:
    """(n, 2) fixations; the first is drawn from the priority map alone."""
    height, width = priority.shape
    cells = priority.reshape(height // _CELL_PX, _CELL_PX, width // _CELL_PX, _CELL_PX).sum((1, 3))
    rows, columns = (np.mgrid[0 : cells.shape[0], 0 : cells.shape[1]] + 0.5) * _CELL_PX
    inhibition = np.zeros_like(cells)
    weight = cells
    fixations = []
    for _ in range(max(3, rng.poisson(observer["mean_fixations"]))):
        choice = rng.choice(cells.size, p=(weight / weight.sum()).ravel())
        row, column = divmod(choice, cells.shape[1])
        x_px, y_px = (np.array([column, row]) + rng.random(2)) * _CELL_PX
        fixations.append((x_px, y_px))
        dist_dva = np.hypot(columns - x_px, rows - y_px) / px_per_dva
        reach = observer["inhibition_sigma_dva"]
        inhibition = observer["inhibition_recovery"] * inhibition
        inhibition = np.maximum(inhibition, np.exp(-(dist_dva**2) / (2.0 * reach**2)))
        # A gamma density of amplitudes, unnormalised; dividing by the distance makes it one over area.
        relative = dist_dva / observer["saccade_scale_dva"]
        amplitude = relative ** (observer["saccade_shape"] - 1.0) * np.exp(-relative)
        weight = cells * amplitude / np.maximum(dist_dva, 0.5) * (1.0 - inhibition)
    return np.array(fixations)
