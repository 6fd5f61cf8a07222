"""Figures in the layout of the field: reaction time against set size, easy and hard condition, people beside models."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from gazekit.asymmetry.analysis import Analysis, human_curve, published_fixations, published_slopes
from gazekit.asymmetry.plan import Plan
from gazekit.evaluation.figures import MODEL_COLORS
from gazekit.metrics.asymmetry import HUMAN_ASYMMETRY, reaction_time_ms
from gazekit.stimuli.design import SearchDesign

# Okabe and Ito's blue and vermilion: told apart with any color vision, and by their markers.
_ROLES = {"easy": ("#0072B2", "o"), "hard": ("#D55E00", "s")}
_COLUMN, _ROW = 2.1, 1.75


def search_functions(
    analysis: Analysis, plan: Plan, models: list[str] | None = None, published: bool = False
) -> Figure:
    """Reaction time against set size: a column per task, people in the first row, a row per model.

    Error bars are standard errors of the mean (population SD over root n). Rows have axes of their own: people's
    reaction times and those that a linear map makes of fixations are not on one scale.

    Args:
        analysis: Of a run.
        plan: Of that run.
        models: Which; None: all.
        published: Also a row with the published eccNET.

    """
    names = list(dict.fromkeys(analysis.set_sizes["model"])) if models is None else models
    rows = ["people", *(["eccNET (published)"] if published else []), *names]
    tasks = [planned.task for planned in plan.tasks]
    figure = Figure(figsize=(0.6 + _COLUMN * len(tasks), 0.5 + _ROW * len(rows)), layout="constrained")
    axes: NDArray[np.object_] = figure.subplots(len(rows), len(tasks), squeeze=False)
    for column, task in enumerate(tasks):
        for row, name in enumerate(rows):
            axis: Axes = axes[row, column]
            for role, condition in task.conditions:
                curve = _curve(name, condition.name, analysis)
                if curve is None:
                    continue
                color, marker = _ROLES[role]
                axis.errorbar(
                    curve["set_size"], curve["rt_ms"], curve.get("se_rt_ms"), color=color, marker=marker, ms=4.5,
                    lw=1.6, capsize=2, label=f"{condition.name} ({role})",
                )  # fmt: skip
            _dress(axis, row == 0, row == len(rows) - 1, column == 0, task.name, name)
    return figure


def _curve(name: str, condition: str, analysis: Analysis) -> pd.DataFrame | None:
    if name == "people":
        return human_curve(condition)
    if name == "eccNET (published)":
        table = published_fixations()
        table = table[(table["model"] == "eccNET") & (table["condition"] == condition)]
        if not len(table):
            return None
        n = torch.tensor((table["total_fixations"] / table["n_trials"]).to_numpy())
        return table.assign(rt_ms=reaction_time_ms(n, 0).numpy())
    own = analysis.set_sizes
    own = own[(own["model"] == name) & (own["condition"] == condition)]
    return own.rename(columns={"mean_rt_ms": "rt_ms"})


def _dress(axis: Axes, top: bool, bottom: bool, left: bool, task: str, name: str) -> None:
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(labelsize=7.5)
    axis.margins(0.12, 0.15)
    if top:
        axis.set_title(task.replace("_", "\n", 1), fontsize=9)
    if axis.has_data():
        axis.legend(fontsize=5.8, frameon=False, loc="upper left")
        axis.set_ylim(top=axis.get_ylim()[1] + 0.35 * (axis.get_ylim()[1] - axis.get_ylim()[0]))
    else:
        axis.text(0.5, 0.5, "no data", ha="center", va="center", fontsize=8, color="#8a8a8a", transform=axis.transAxes)
        axis.set_xticks([])
        axis.set_yticks([])
    if bottom:
        axis.set_xlabel("set size", fontsize=8.5)
    if left:
        axis.set_ylabel(f"{name}\nreaction time [ms]", fontsize=8.5)


def index_panel(analysis: Analysis, plan: Plan, models: list[str] | None = None) -> Figure:
    """Asymmetry index per task with intervals: people black, models in colors; above 0 is people's direction."""
    table = analysis.tasks
    names = list(dict.fromkeys(table["model"])) if models is None else models
    tasks = [planned.task.name for planned in plan.tasks]
    people = {human.task: human.index for human in HUMAN_ASYMMETRY}
    figure = Figure(figsize=(1.2 + 1.35 * len(tasks), 3.1), layout="constrained")
    axis = figure.subplots()
    axis.axhline(0.0, color="#1b1b1b", lw=0.7)
    place = np.linspace(-0.3, 0.3, len(names) + 1)
    for x, task in enumerate(tasks):
        if task in people:
            axis.plot(x + place[0], people[task], "D", color="black", ms=6, label="people" if x == 0 else None)
        for i, name in enumerate(names):
            row = table[(table["model"] == name) & (table["task"] == task)].iloc[0]
            color = MODEL_COLORS[i % len(MODEL_COLORS)]
            at = x + place[i + 1]
            axis.plot([at, at], [row["low"], row["high"]], color=color, lw=1.8)
            axis.plot(at, row["index"], "o", color=color, ms=5, label=name if x == 0 else None)
    axis.set_xticks(range(len(tasks)), [task.replace("_", "\n") for task in tasks], fontsize=8.5)
    axis.set_ylim(-1.1, 1.1)
    axis.set_ylabel("asymmetry index", fontsize=9)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(fontsize=7.5, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def slope_panel(analysis: Analysis, models: list[str] | None = None, published: bool = False) -> Figure:
    """Slopes of conditions, people's against models'."""
    table = analysis.slopes.dropna(subset=["human_slope"])
    if published:
        own = published_slopes()
        own = own[own["model"] == "eccNET"].assign(model="eccNET (published)")
        table = pd.concat([own, table])
    names = [
        name for name in dict.fromkeys(table["model"]) if models is None or name in [*models, "eccNET (published)"]
    ]
    figure = Figure(figsize=(1.0 + 2.3 * max(1, len(names)), 2.9), layout="constrained")
    axes: NDArray[np.object_] = figure.subplots(1, max(1, len(names)), squeeze=False)
    for axis, name in zip(axes[0], names, strict=False):
        part = table[table["model"] == name]
        for role, (color, marker) in _ROLES.items():
            at = part[part["role"] == role]
            axis.plot(at["human_slope"], at["slope"], marker, color=color, ms=5, ls="none", label=role)
        axis.set_title(name, fontsize=9)
        axis.set_xlabel("people [ms/item]", fontsize=8.5)
        axis.tick_params(labelsize=7.5)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0, 0].set_ylabel("slope of the model [ms/item]", fontsize=8.5)
    if names:
        axes[0, 0].legend(fontsize=7.5, frameon=False)
    return figure


def group_panel(analysis: Analysis, plan: Plan) -> Figure:
    """Index by group (diet) and task: a dot per network, a bar for their mean."""
    tasks = [planned.task.name for planned in plan.tasks]
    groups = list(dict.fromkeys(analysis.groups["group"]))
    figure = Figure(figsize=(1.6 + 2.3 * len(tasks), 2.9), layout="constrained")
    axes: NDArray[np.object_] = figure.subplots(1, len(tasks), squeeze=False, sharey=True)
    people = {human.task: human.index for human in HUMAN_ASYMMETRY}
    for axis, task in zip(axes[0], tasks, strict=True):
        axis.axhline(0.0, color="#1b1b1b", lw=0.7)
        if task in people:
            axis.axhline(people[task], color="black", lw=0.9, ls="--")
        for x, group in enumerate(groups):
            own = analysis.tasks[(analysis.tasks["group"] == group) & (analysis.tasks["task"] == task)]
            index = own["index"]
            color = MODEL_COLORS[x % len(MODEL_COLORS)]
            axis.bar(x, index.mean(), color=color, alpha=0.35, width=0.7)
            spread = np.linspace(-0.15, 0.15, len(index)) if len(index) > 1 else [0.0]
            axis.plot(x + np.asarray(spread), index, "o", color=color, ms=4.5)
        axis.set_xticks(range(len(groups)), groups, rotation=35, ha="right", fontsize=8)
        axis.set_title(task.replace("_", "\n", 1), fontsize=9)
        axis.set_ylim(-1.1, 1.1)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0, 0].set_ylabel("asymmetry index (people: dashed)", fontsize=8.5)
    return figure


def display_panel(plan: Plan, fixations: pd.DataFrame | None = None, model: str | None = None) -> Figure:
    """One display of each condition at its largest set size, with one search of a model over it if given."""
    drawn = [
        (planned.task.name, condition)
        for planned in plan.tasks
        for _, condition in planned.task.conditions
        if isinstance(condition, SearchDesign)
    ]
    columns = min(4, max(1, len(drawn)))
    rows = max(1, -(-len(drawn) // columns))
    figure = Figure(figsize=(2.2 * columns, 2.45 * rows), layout="constrained")
    axes: NDArray[np.object_] = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.ravel():
        axis.set_axis_off()
    for axis, (_, condition) in zip(axes.ravel(), drawn, strict=False):
        set_size = condition.set_sizes[-1]
        display = condition.draw(set_size, 0)
        axis.imshow(display.image)
        assert display.target_box_px is not None
        left, top, right, bottom = display.target_box_px
        axis.plot(
            [left, right, right, left, left], [top, top, bottom, bottom, top], color="#009E73", lw=1.2, ls=":",
        )  # fmt: skip
        if fixations is not None:
            path = fixations[
                (fixations["model"] == model)
                & (fixations["condition"] == condition.name)
                & (fixations["set_size"] == set_size)
                & (fixations["trial"] == 0)
                & (fixations["seed"] == fixations["seed"].min())
            ]
            axis.plot(path["x_px"], path["y_px"], "-", color="#E69F00", lw=1.2)
            axis.plot(path["x_px"][1:], path["y_px"][1:], "o", color="#E69F00", ms=4, mec="black", mew=0.4)
            axis.plot(path["x_px"][:1], path["y_px"][:1], "o", mfc="none", mec="#E69F00", ms=7)
        axis.set_title(f"{condition.name}, {set_size} items", fontsize=8)
    return figure
