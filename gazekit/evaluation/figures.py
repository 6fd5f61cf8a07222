"""The figures of a report. Plain matplotlib objects, no global state, readable at phone width."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from gazekit.evaluation.columns import score_column

# Okabe and Ito's palette: told apart with any color vision.
COLORS = {"ceiling": "#000000", "control": "#8a8a8a"}
MODEL_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")


def model_colors(roles: Mapping[str, str]) -> dict[str, str]:
    """One color per name in the table: people black, controls grey, models from the palette."""
    free = iter(MODEL_COLORS * 4)
    return {name: COLORS.get(role) or next(free) for name, role in roles.items()}


def score_panel(summary: pd.DataFrame, metric: str, roles: Mapping[str, str], note: str = "") -> Figure:
    """Every model's mean and interval in one metric, with chance (dotted) and ceiling (dashed) as lines.

    Args:
        summary: As :func:`gazekit.evaluation.summarize` returns it.
        metric: Which to draw.
        roles: Model -> ``model``, ``control`` or ``ceiling``, in the order of the rows.
        note: Printed in red; SIMULATED, where it is.
    """
    info, colors = score_column(metric), model_colors(roles)
    names = list(roles)[::-1]
    figure = Figure(figsize=(4.0, 0.75 + 0.26 * len(names)), layout="constrained")
    axis = figure.subplots()
    rows = summary[summary["metric"] == metric].set_index("model")
    for y, name in enumerate(names):
        mean, low, high = (float(rows.loc[name, key]) for key in ("mean", "low", "high"))
        if np.isfinite(low):
            axis.plot([low, high], [y, y], color=colors[name], lw=2.4, solid_capstyle="round")
        axis.plot([mean], [y], "o", color=colors[name], ms=5.5)
    chance = float(rows["chance"].iloc[0])
    if np.isfinite(chance):
        axis.axvline(chance, color="#8a8a8a", lw=0.8, ls=":")
    ceiling = next((name for name, role in roles.items() if role == "ceiling"), None)
    if ceiling is not None and np.isfinite(rows.loc[ceiling, "mean"]):
        axis.axvline(float(rows.loc[ceiling, "mean"]), color="#000000", lw=0.8, ls="--")
    title = f"{info.titled}, {info.advice}"
    axis.set_title(title, fontsize=10 if len(title) < 38 else 8, loc="left")
    axis.locator_params(axis="x", nbins=6)
    axis.set_yticks(range(len(names)), names, fontsize=9)
    axis.tick_params(axis="x", labelsize=8.5)
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(axis="x", lw=0.3)
    _stamp(figure, note)
    return figure


def length_panel(
    summary: pd.DataFrame, metric_of_length: Mapping[int, str], roles: Mapping[str, str], note: str = ""
) -> Figure:
    """One score by how many fixations of a scanpath are compared: means with intervals, models side by side.

    Args:
        summary: As :func:`gazekit.evaluation.summarize` returns it.
        metric_of_length: Number of fixations -> the score's metric.
        roles: Model -> ``model``, ``control`` or ``ceiling``.
        note: Printed in red; SIMULATED, where it is.
    """
    lengths = sorted(metric_of_length)
    info, colors = score_column(metric_of_length[lengths[0]].partition(".")[0]), model_colors(roles)
    figure = Figure(figsize=(4.0, 3.2 + 0.11 * len(roles)), layout="constrained")
    axis = figure.subplots()
    # Controls share a color, and a palette comes round after six.
    dashes = {role: iter(("--", ":", "-.", (0, (5, 1, 1, 1, 1, 1))) * len(roles)) for role in ("control", "model")}
    n_solid = len(MODEL_COLORS)
    for place, (name, role) in enumerate(roles.items()):
        rows = summary[summary["model"] == name].set_index("metric").loc[[metric_of_length[n] for n in lengths]]
        mean, low, high = (rows[key].to_numpy(float) for key in ("mean", "low", "high"))
        if not np.isfinite(mean).any():
            continue
        solid = role == "ceiling" or (role == "model" and n_solid > 0)
        n_solid -= role == "model"
        # Side by side, so that no interval hides another.
        at = np.array(lengths) + 0.6 * ((place + 0.5) / len(roles) - 0.5)
        axis.plot(at, mean, "o", ls="-" if solid else next(dashes[role]), color=colors[name], ms=3, lw=1.2, label=name)
        axis.vlines(at, low, high, color=colors[name], lw=1.2)
    title = f"{info.titled} by length, {info.advice}"
    axis.set_title(title, fontsize=10 if len(title) < 38 else 8, loc="left")
    axis.set_xlabel("fixations compared", fontsize=10)
    axis.set_xticks(lengths)
    figure.legend(fontsize=8, frameon=False, ncols=2, loc="outside lower left", handlelength=2.6)
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(labelsize=8.5)
    axis.grid(axis="y", lw=0.3)
    _stamp(figure, note)
    return figure


def curve_panel(curves: Mapping[str, NDArray[np.float64]], colors: Mapping[str, str], note: str = "") -> Figure:
    """Share of searches that have reached the target within 1, 2, ... fixations, the initial one included."""
    figure = Figure(figsize=(4.0, 3.2), layout="constrained")
    axis = figure.subplots()
    for name, curve in curves.items():
        axis.plot(np.arange(1, len(curve) + 1), curve, "o-", ms=3.5, color=colors[name], lw=1.8, label=name)
    axis.set_xlabel("fixations, the initial one included", fontsize=10)
    axis.set_ylabel("target reached [share]", fontsize=10)
    axis.set_ylim(0.0, 1.02)
    axis.locator_params(axis="x", integer=True)
    axis.legend(fontsize=9, frameon=False)
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(labelsize=8.5)
    axis.grid(axis="y", lw=0.3)
    _stamp(figure, note)
    return figure


def amplitude_panel(saccades: Mapping[str, pd.DataFrame], colors: Mapping[str, str], note: str = "") -> Figure:
    """Densities of saccade amplitudes, per dva."""
    figure = Figure(figsize=(4.0, 3.2), layout="constrained")
    axis = figure.subplots()
    top = max(float(np.quantile(table["amplitude_dva"], 0.99)) for table in saccades.values())
    edges = np.linspace(0.0, top, 33)
    for name, table in saccades.items():
        share, _ = np.histogram(table["amplitude_dva"], edges, density=True)
        axis.stairs(share, edges, color=colors[name], lw=1.8, label=name)
    axis.set_xlabel("saccade amplitude [dva]", fontsize=10)
    axis.set_ylabel("density [1 / dva]", fontsize=10)
    axis.legend(fontsize=9, frameon=False)
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(labelsize=8.5)
    _stamp(figure, note)
    return figure


def direction_panel(saccades: Mapping[str, pd.DataFrame], colors: Mapping[str, str], note: str = "") -> Figure:
    """Shares of saccade directions in 24 sectors; rightward is 0 and upward 90 degrees."""
    figure = Figure(figsize=(4.0, 3.2), layout="constrained")
    axis = figure.add_subplot(projection="polar")
    turns = np.linspace(-180.0, 180.0, 25)
    for name, table in saccades.items():
        # Sectors are centered on the four main directions, so the circle is turned by half a sector.
        shifted = (table["direction_deg"] + 180.0 + 7.5) % 360.0 - 180.0
        counts, _ = np.histogram(shifted, turns)
        share = counts / max(1, counts.sum())
        centers = np.radians(turns[:-1])
        axis.plot([*centers, centers[0]], [*share, share[0]], color=colors[name], lw=1.8)
    axis.set_title("saccade direction [share per 15 deg]", fontsize=10)
    axis.tick_params(labelsize=8)
    axis.set_rlabel_position(67.5)  # type: ignore[attr-defined]
    axis.set_yticks([tick for tick in axis.get_yticks() if tick > 0][::2])
    _stamp(figure, note)
    return figure


def _stamp(figure: Figure, note: str) -> None:
    if note:
        figure.suptitle(note, fontsize=9, color="#b00020", fontweight="bold")


def map_panel(image: NDArray[np.uint8], density: NDArray[np.float64]) -> Figure:
    """The density over a greyed stimulus; contours enclose 25, 50 and 75 % of its mass."""
    figure, axis = _frame(image.shape[1], image.shape[0])
    axis.imshow(image.mean(-1), cmap="gray", vmin=0, vmax=255)
    order = np.sort(density.ravel())[::-1]
    mass = np.cumsum(order)
    levels = [float(order[min(len(order) - 1, int(np.searchsorted(mass, share)))]) for share in (0.75, 0.5, 0.25)]
    relative = np.clip(density / max(levels[2], 1e-300), 0.0, 1.0)
    axis.imshow(relative, cmap="inferno", alpha=0.15 + 0.65 * np.sqrt(relative), vmin=0, vmax=1)
    if len(set(levels)) == len(levels):
        axis.contour(density, levels=levels, colors="white", linewidths=[0.7, 1.0, 1.3])
    return figure


def paths_panel(image: NDArray[np.uint8], paths: Sequence[NDArray[np.float64]], numbered: bool, color: str) -> Figure:
    """Scanpaths over the stimulus: (n, 2) px each; the first fixation is a ring."""
    figure, axis = _frame(image.shape[1], image.shape[0])
    axis.imshow(image)
    for path in paths:
        axis.plot(path[:, 0], path[:, 1], "-", color="white", lw=1.6, alpha=0.75)
        axis.plot(path[:, 0], path[:, 1], "-", color=color, lw=0.9)
        axis.plot(path[1:, 0], path[1:, 1], "o", color=color, ms=7 if numbered else 3.4, mec="white", mew=0.6)
        axis.plot(path[:1, 0], path[:1, 1], "o", mfc="none", mec=color, ms=8, mew=1.8)
        for number, (x, y) in enumerate(path if numbered else [], start=1):
            axis.text(x, y, str(number), color="white", fontsize=5, ha="center", va="center")
    return figure


def points_panel(image: NDArray[np.uint8], xy: NDArray[np.float64]) -> Figure:
    """All fixations on the stimulus as dots."""
    figure, axis = _frame(image.shape[1], image.shape[0])
    axis.imshow(image)
    axis.plot(xy[:, 0], xy[:, 1], "o", ms=3.6, color="#ffd400", mec="black", mew=0.4)
    return figure


def _frame(width: int, height: int) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(3.6, 3.6 * height / width), dpi=110)
    axis = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axis.set_axis_off()
    axis.set_xlim(-0.5, width - 0.5)
    axis.set_ylim(height - 0.5, -0.5)
    axis.set_autoscale_on(False)
    return figure, axis


def as_svg(figure: Figure) -> str:
    """The figure as one ``<svg>`` element."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg")
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def as_jpeg(figure: Figure) -> str:
    """The figure as a ``data:`` address; photographs are a tenth of their size as PNG."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    pixels = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    buffer = io.BytesIO()
    pixels.save(buffer, format="JPEG", quality=82, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
