"""The results of `gazekit bench kernels` as a figure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gazekit.files import written_aside

if TYPE_CHECKING:
    from gazekit.kernels.bench import Row


def save_figure(rows: Sequence[Row], path: Path) -> None:
    """Speed-ups, forward and backward, over the baseline; what was counted as marks; measured over counted.

    Args:
        rows: Of one device.
        path: Of the image.

    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = [row for row in rows if row.part == "forward+backward" and row.max_error == row.max_error]
    names = [f"{row.case}  {row.setting}  {row.engine}" for row in shown]
    counted = [row for row in shown if row.counted == row.counted and row.engine.startswith("gazekit")]
    figure = Figure(figsize=(11, 1.4 + 0.3 * len(shown)), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, width_ratios=[3, 2])
    own = ["tab:blue" if row.engine.startswith("gazekit") else "0.7" for row in shown]
    left.barh(range(len(shown)), [row.speedup for row in shown], color=own)
    marks = [row.counted if row in counted else float("nan") for row in shown]
    left.scatter(marks, range(len(shown)), marker="|", s=90, color="black", label="counted")
    left.scatter([row.floor for row in shown], range(len(shown)), marker="|", s=90, color="tab:red", label="floor")
    left.set_yticks(range(len(shown)), names, fontsize=8)
    left.set_ylim(len(shown) - 0.4, -0.6)
    left.set_xscale("log")
    left.xaxis.set_major_formatter("{x:g}")
    left.axvline(1, color="0.4", linewidth=0.8)
    left.set_xlabel("times as fast as the baseline, forward and backward")
    left.legend(loc="lower right", fontsize=8)
    if counted:
        top = 1.2 * max(max(row.counted, row.speedup) for row in counted)
        right.plot([1, top], [1, top], color="0.4", linewidth=0.8, label="as counted")
        right.plot([1, top], [0.6, 0.6 * top], color="0.4", linewidth=0.8, linestyle=":", label="0.6 of it")
        right.scatter([row.counted for row in counted], [row.speedup for row in counted], color="tab:blue")
        for number, row in enumerate(sorted(counted, key=lambda row: row.counted)):
            # On one side and the other in turn, as many points lie close together.
            where = {"xytext": (5, -8), "ha": "left"} if number % 2 else {"xytext": (-5, 5), "ha": "right"}
            text = f"{row.case} {row.setting}"
            right.annotate(text, (row.counted, row.speedup), textcoords="offset points", fontsize=7, **where)
        right.set_xscale("log")
        right.set_yscale("log")
        right.set_xlim(0.8, 1.5 * top)
        right.xaxis.set_major_formatter("{x:g}")
        right.yaxis.set_major_formatter("{x:g}")
        right.set_xlabel("speed-up by counting tiles")
        right.set_ylabel("speed-up measured")
        right.legend(fontsize=8)
    else:
        right.set_visible(False)
    first = rows[0] if rows else None
    if first is not None:
        setting = f"{first.device}, {first.threads} threads, {first.dtype}, {first.versions}, commit {first.commit}"
        figure.suptitle(setting, fontsize=8)
    with written_aside(path) as aside:
        figure.savefig(aside, dpi=130, format=path.suffix.removeprefix(".") or "png")
