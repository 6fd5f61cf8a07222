"""One self-contained HTML file about a run, the same as text and as CSV tables."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from gazekit.asymmetry import figures
from gazekit.asymmetry.analysis import Analysis, analyze
from gazekit.asymmetry.plan import Plan
from gazekit.asymmetry.run import AsymmetryRun
from gazekit.evaluation.figures import as_svg
from gazekit.files import written_aside
from gazekit.metrics.asymmetry import HUMAN_ASYMMETRY

# Searchers with a row of their own in the figures; a diet has many networks, which have a figure together.
_MOST_ROWS = 6


def write_asymmetry_report(run: AsymmetryRun, out: Path) -> Analysis:
    """Write ``report.html``, the figures as PNG, and the tables as CSV to `out`; return the analysis."""
    plan, analysis = run.plan, analyze(run.trials, run.plan)
    for name in ("set_sizes", "slopes", "tasks", "models", "groups"):
        table: pd.DataFrame = getattr(analysis, name)
        if len(table):
            with written_aside(out / f"{name}.csv") as aside:
                table.to_csv(aside, index=False)
    shown = [model.name for model in plan.models][:_MOST_ROWS]
    published = any(p.task.name in {human.task for human in HUMAN_ASYMMETRY} for p in plan.tasks)
    drawn = {
        "functions": figures.search_functions(analysis, plan, shown, published),
        "indices": figures.index_panel(analysis, plan, shown),
        "slopes": figures.slope_panel(analysis, shown, published),
        "displays": figures.display_panel(plan, run.fixations, shown[0]),
    }
    if len(analysis.groups):
        drawn["group_figure"] = figures.group_panel(analysis, plan)
    for name, figure in drawn.items():
        _save_png(figure, out / f"{name}.png")
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(
        files("gazekit.asymmetry").joinpath("report.html.j2").read_text(encoding="utf-8")
    )
    html = template.render(
        plan=plan, record=run.record, level=round(100 * plan.level), n_trials=len(run.trials), first=shown[0],
        verdicts=verdicts(analysis), flips=diet_sentences(analysis), tasks=_task_rows(analysis),
        models=_model_rows(analysis), groups=_group_rows(analysis), provenance=_provenance(run),
        **{name: as_svg(figure) for name, figure in drawn.items()},
    )  # fmt: skip
    with written_aside(out / "report.html") as aside:
        aside.write_text(html, encoding="utf-8")
    return analysis


def as_text(analysis: Analysis, plan: Plan) -> str:
    """The tables of tasks and models for a terminal."""
    lines = [
        f"\n{plan.name}: slopes in ms/item, index with {round(100 * plan.level)} % interval; people's index last",
        f"{'task':28}{'searcher':18}{'easy':>8}{'hard':>8}{'index':>8}{'interval':>17}{'people':>8}  verdict",
    ]
    lines += [
        f"{row['task']:28}{row['model']:18}{row['easy_slope']:8.1f}{row['hard_slope']:8.1f}{row['index']:8.3f}"
        f"{row['low']:8.2f} to {row['high']:5.2f}{row['human_index']:8.3f}  {row['agreement']}{_missed(row)}"
        for row in analysis.tasks.to_dict("records")
    ]
    return "\n".join([*lines, "", *verdicts(analysis), *diet_sentences(analysis)])


def _missed(row: dict[str, Any]) -> str:
    missed = row["easy_missed"] + row["hard_missed"]
    return f" ({missed} of {row['n_trials']} missed)" if missed else ""


def verdicts(analysis: Analysis) -> list[str]:
    """One sentence per model, with the tasks by name: what agrees with people, what does not."""
    lines = []
    for row in analysis.models.to_dict("records"):
        own = analysis.tasks[analysis.tasks["model"] == row["model"]]
        parts = []
        for kind in ("agrees", "leans to agree", "no asymmetry", "leans to reverse", "reverses"):
            names = own.loc[own["agreement"] == kind, "task"]
            if len(names):
                parts.append(f"{kind} in {', '.join(names)}")
        lines.append(
            f"{row['model']}: {'; '.join(parts)}. Mean index {row['mean_index']:.3f} ({row['low']:.2f} to "
            f"{row['high']:.2f}); {row['missed']} of {row['n_trials']} searches missed the target."
        )
    return lines


def diet_sentences(analysis: Analysis, reference: str = "natural") -> list[str]:
    """Which tasks' polarity differs between the reference diet and each other one, and whether all networks say so."""
    groups = analysis.groups
    if not len(groups) or reference not in set(groups["group"]):
        return []
    lines = []
    for task, part in groups.groupby("task", sort=False):
        at = part.set_index("group")
        here = at.loc[reference]
        for diet, row in at.drop(index=reference).iterrows():
            flipped = here["mean_index"] * row["mean_index"] < 0
            whole = flipped and max(here["n_positive"], here["n_negative"]) == here["n"]
            whole = whole and max(row["n_positive"], row["n_negative"]) == row["n"]
            verdict = "flipped in every network" if whole else "flipped on average, not in every network"
            verdict = verdict if flipped else "did not flip"
            lines.append(
                f"{task}, {reference} to {diet}: {verdict} (mean index {here['mean_index']:.2f} to "
                f"{row['mean_index']:.2f}; above 0 in {here['n_positive']} of {here['n']} and {row['n_positive']} of "
                f"{row['n']} networks)."
            )
    return lines


def _number(value: float, digits: int = 2) -> str:
    return f"{value:.{digits}f}" if np.isfinite(value) else ""


def _task_rows(analysis: Analysis) -> list[dict[str, str]]:
    return [
        {
            "task": row["task"], "model": row["model"], "easy": _number(row["easy_slope"], 1),
            "hard": _number(row["hard_slope"], 1),
            "difference": f"{_number(row['slope_difference'], 1)} ({_number(row['difference_low'], 1)} to "
            f"{_number(row['difference_high'], 1)})",
            "index": f"{_number(row['index'], 3)} ({_number(row['low'])} to {_number(row['high'])})",
            "people": _number(row["human_index"], 3),
            "p": f"{row['p_difference']:.2g}" if np.isfinite(row["p_difference"]) else "",
            "missed": f"{row['easy_missed']} / {row['hard_missed']}",
            "agreement": row["agreement"], "kind": row["agreement"].split()[0],
        }
        for row in analysis.tasks.to_dict("records")
    ]  # fmt: skip


def _model_rows(analysis: Analysis) -> list[dict[str, str]]:
    return [
        {
            "model": row["model"],
            "mean": f"{_number(row['mean_index'], 3)} ({_number(row['low'])} to {_number(row['high'])})",
            "positive": f"{row['n_positive']} of {row['n_tasks']}",
            "sure": f"{row['n_agree']} / {row['n_reverse']}",
            "r": f"{_number(row['r_human'])} ({row['p_human']:.2g})" if np.isfinite(row["r_human"]) else "",
            "missed": f"{row['missed']} / {row['n_trials']}",
        }
        for row in analysis.models.to_dict("records")
    ]


def _group_rows(analysis: Analysis) -> list[dict[str, str]]:
    return [
        {
            "group": row["group"], "task": row["task"], "mean": _number(row["mean_index"], 3),
            "spread": f"{_number(row['lowest'])} to {_number(row['highest'])}",
            "counts": f"{row['n_positive']} / {row['n_negative']} / {row['n']}",
            "difference": _number(row["mean_difference"], 1),
        }
        for row in analysis.groups.to_dict("records")
    ]  # fmt: skip


def _provenance(run: AsymmetryRun) -> dict[str, str]:
    lines = {}
    for name, entry in run.record["models"].items():
        arguments = ", ".join(f"{key}={value}" for key, value in entry["arguments"].items())
        text = f"{entry['model']}({arguments})"
        if "weights" in entry:
            text += f", backbone {entry.get('backbone')}, weights {entry['weights']}"
        if "network" in entry:
            network = entry["network"]
            text += f"; trained here on diet {network['recipe']['diet']!r}, accuracy {network['accuracy']:.3f}"
        lines[name] = f"{text}."
    return lines


def _save_png(figure: Figure, path: Path) -> None:
    FigureCanvasAgg(figure)
    with written_aside(path) as aside:
        figure.savefig(aside, format="png", dpi=150)
