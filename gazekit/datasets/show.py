"""Look at trials: scanpaths over their stimuli, with targets and captions."""

from __future__ import annotations

import textwrap
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from gazekit.datasets.dataset import GazeDataset
from gazekit.datasets.images import read_rgb
from gazekit.errors import InputError
from gazekit.files import written_aside
from gazekit.tables import TARGET_BOX

_COLOR, _TARGET_COLOR = "#0072B2", "#009E73"


def show(data: GazeDataset, trials: int = 6, seed: int = 0, stimuli: list[str] | None = None) -> Figure:
    """Some trials, drawn: the first fixation is a ring, numbers give the order, area grows with duration.

    Args:
        data: The dataset.
        trials: How many, drawn at random among those with a fixation.
        seed: Of the draw.
        stimuli: Only trials on these.

    Raises:
        InputError: `trials` is not positive, or no trial is left to draw.

    """
    if trials < 1:
        raise InputError(f"cannot show {trials} trials; give a positive number")
    part = data if stimuli is None else data.subset(stimuli=stimuli)
    seen = part.trials[part.trials["trial"].isin(part.fixations["trial"])]
    if seen.empty:
        raise InputError(f"{data.name}: none of the {len(part.trials)} trials has a fixation to show")
    chosen = seen.sample(min(trials, len(seen)), random_state=seed)
    columns = min(3, len(chosen))
    rows = -(-len(chosen) // columns)
    figure = Figure(figsize=(4.2 * columns, 3.7 * rows), layout="constrained", dpi=110)
    axes = np.atleast_1d(figure.subplots(rows, columns)).ravel()
    sizes = part.stimuli.set_index("stimulus")
    for axis, (_, trial) in zip(axes, chosen.iterrows(), strict=False):
        fixations = part.fixations[part.fixations["trial"] == trial["trial"]]
        draw_trial(axis, trial, fixations, sizes.loc[trial["stimulus"]])
    for axis in axes[len(chosen) :]:
        axis.set_axis_off()
    figure.suptitle(data.card.label, fontsize=11, color="#b00020" if data.card.simulated else "black")
    return figure


def save_shown(figure: Figure, path: Path) -> None:
    """Write the figure; the ending of `path` says as what (.png, .pdf, .svg, .jpg)."""
    known = figure.canvas.get_supported_filetypes()
    kind = path.suffix.lstrip(".").lower()
    if kind not in known:
        raise InputError(f"{path}: cannot write a figure as {path.suffix or 'a file without an ending'!r}; use .png")
    with written_aside(path) as aside:
        figure.savefig(aside, format=kind)


def draw_trial(axis: Axes, trial: pd.Series, fixations: pd.DataFrame, stimulus: pd.Series) -> None:
    """One trial over its stimulus; a release without images gives an empty frame of its size."""
    width, height = int(stimulus["width_px"]), int(stimulus["height_px"])
    if stimulus["path"]:
        axis.imshow(read_rgb(stimulus["path"]), extent=(0, width, height, 0))
    else:
        axis.set_facecolor("#e8e8e8")
        axis.text(0.01, 0.01, "image not in this copy", transform=axis.transAxes, fontsize=7, color="#555555")
    x, y = fixations["x_px"].to_numpy(), fixations["y_px"].to_numpy()
    axis.plot(x, y, "-", color="white", lw=2.2, alpha=0.7)
    axis.plot(x, y, "-", color=_COLOR, lw=1.1)
    duration = fixations["duration_s"].fillna(0.2).clip(0.05, 1.5).to_numpy()
    axis.scatter(x[1:], y[1:], s=300 * duration[1:], c=_COLOR, alpha=0.75, edgecolors="white", linewidths=0.7, zorder=3)
    axis.scatter(x[:1], y[:1], s=300 * duration[:1], facecolors="none", edgecolors=_COLOR, linewidths=1.8, zorder=3)
    for number, point in enumerate(zip(x, y, strict=True), start=1):
        axis.annotate(
            str(number), point, color="white" if number > 1 else _COLOR, fontsize=6, ha="center", va="center", zorder=4
        )
    if all(column in trial and np.isfinite(trial[column]) for column in TARGET_BOX):
        left, top, right, bottom = (float(trial[column]) for column in TARGET_BOX)
        axis.add_patch(Rectangle((left, top), right - left, bottom - top, fill=False, ec=_TARGET_COLOR, lw=1.8))
    # Fixations beyond the stimulus stay visible up to a tenth of its size.
    axis.set_xlim(min(0.0, max(x.min(), -0.1 * width)), max(width, min(x.max(), 1.1 * width)))
    axis.set_ylim(max(height, min(y.max(), 1.1 * height)), min(0.0, max(y.min(), -0.1 * height)))
    axis.set_aspect("equal")
    axis.set_xticks([])
    axis.set_yticks([])
    axis.set_title(_title(trial, len(fixations)), fontsize=8)


def _title(trial: pd.Series, n: int) -> str:
    lines = [f"{trial['stimulus']}, {trial['subject']}, {n} fixations"]
    if trial.get("target"):
        present = trial.get("target_present")
        absent = present is not None and not pd.isna(present) and not present
        found = trial.get("found")
        verdict = "" if found is None or pd.isna(found) else ", found" if found else ", not found"
        lines.append(f"target: {trial['target']}{' (absent)' if absent else ''}{verdict}")
    if trial.get("caption"):
        lines.append("\u201c" + textwrap.shorten(str(trial["caption"]), 60, placeholder=" ...") + "\u201d")
    return "\n".join(lines)
