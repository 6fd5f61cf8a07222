"""One self-contained HTML file: scores with intervals, best and worst images, saccades, how it was measured."""

from __future__ import annotations

from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd
import torch
import yaml
from matplotlib.figure import Figure
from numpy.typing import NDArray

from gazekit.batch import TrialBatch
from gazekit.evaluation import figures
from gazekit.evaluation.codebook_usage import codebook_usage, draw_usage, has_codes, usage_lines
from gazekit.evaluation.columns import score_column
from gazekit.evaluation.intervals import Images, image_means
from gazekit.evaluation.overall import column_rows, mean_vectors
from gazekit.evaluation.published import STATUSES, published_rows
from gazekit.evaluation.runner import Contestant, Evaluation
from gazekit.evaluation.saccades import saccades
from gazekit.evaluation.summary import notes, summary_of
from gazekit.files import written_aside
from gazekit.models.base import first_trial_of_each_stimulus

_N_CASES = 3
# Scenes on which the report looks for what codes select; 'gazekit codes' looks at all.
_N_CODED = 50


def write_report(evaluation: Evaluation, path: Path, summary: pd.DataFrame | None = None) -> None:
    """Write the report of an evaluation to `path`; `summary` is its :func:`summary_of`, if it is at hand."""
    record, scores, protocol = evaluation.record, evaluation.scores, evaluation.protocol
    roles = {name: entry["role"] for name, entry in record["models"].items()}
    summary = summary_of(evaluation) if summary is None else summary
    metrics = [str(name) for name in summary["metric"].unique()]
    note = "SIMULATED DATA, no person was measured" if record["data"]["simulated"] else ""
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(
        files("gazekit.evaluation").joinpath("report.html.j2").read_text(encoding="utf-8")
    )
    by_length = protocol.paths.by_length if protocol.paths else []
    # One chart shows what would be as many as there are lengths.
    alone = [metric for metric in metrics if not any(metric in columns.values() for columns in by_length)]
    html = template.render(
        record=record,
        note=note,
        roles=roles,
        score_svgs=[
            figures.as_svg(figures.score_panel(summary, metric, roles, note and "SIMULATED")) for metric in alone
        ],
        length_svgs=[
            figures.as_svg(figures.length_panel(summary, columns, roles, note and "SIMULATED")) for columns in by_length
        ],
        table=score_rows(summary, roles, metrics),
        metrics=[score_column(name) for name in metrics],
        curve_svgs=[figures.as_svg(figure) for figure in _curves(evaluation, roles, note and "SIMULATED")],
        published=_published(record, metrics),
        statuses=STATUSES,
        cases=_cases(evaluation, roles),
        saccade_svgs=[figures.as_svg(figure) for figure in _saccades(evaluation, roles, note and "SIMULATED")],
        codes=_codes(evaluation),
        protocol_yaml=yaml.safe_dump(_plain(record["protocol"]), sort_keys=False),
        provenance=_provenance(record),
        notes=notes(evaluation, summary),
        seen=int(scores.loc[scores["role"] == "model", "seen_in_training"].sum()),
        level=round(100 * protocol.intervals["level"]),
    )
    with written_aside(path) as aside:
        aside.write_text(html, encoding="utf-8")


def score_rows(summary: pd.DataFrame, roles: dict[str, str], metrics: list[str]) -> list[dict[str, Any]]:
    """One row per model: name, role, and per metric the texts of mean, interval, share of ceiling, counts."""
    rows = []
    for name, role in roles.items():
        cells = []
        for metric in metrics:
            at = summary[(summary["model"] == name) & (summary["metric"] == metric)].iloc[0]
            cells.append(
                {
                    "mean": number(at["mean"]),
                    "interval": f"{number(at['low'])} to {number(at['high'])}" if np.isfinite(at["low"]) else "",
                    "of_ceiling": number(at["of_ceiling"]) if np.isfinite(at["of_ceiling"]) else "",
                    "valid": f"{at['n_valid']} / {at['n_total']}",
                }
            )
        rows.append({"name": name, "role": role, "cells": cells})
    return rows


def number(value: float) -> str:
    """Three decimals; a dash where the score is undefined."""
    if not np.isfinite(value):
        return "-inf" if value == -np.inf else "–"
    # Rounded first: minus zero is no number to show.
    return f"{round(float(value), 3) + 0.0:.3f}"


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _provenance(record: dict[str, Any]) -> dict[str, list[str]]:
    lines: dict[str, list[str]] = {}
    for name, entry in record["models"].items():
        lines[name] = [
            f"{key}: {', '.join(f'{k} = {v:.4g}' for k, v in value.items()) if key == 'fitted' else value}"
            for key, value in entry.items()
            if key not in ("role", "train_stimuli")
        ]
        if "train_stimuli" in entry:
            lines[name].append(f"trained on {len(entry['train_stimuli'])} images of {entry['train_dataset']}")
    return {name: text for name, text in lines.items() if text}


def _published(record: dict[str, Any], metrics: list[str]) -> list[dict[str, str]]:
    """What others reported for the same protocol on the same data, as rows of text."""
    rows = published_rows(dataset=record["data"]["name"], protocol=record["protocol"]["name"])
    return [
        {
            "model": row.model, "role": row.role, "label": score_column(row.metric).label, "value": f"{row.value:g}",
            "measured": "measured here" if row.metric in {name.partition(".")[0] for name in metrics} else "",
            "status": row.status, "split": row.split, "source": row.source, "note": row.note,
        }
        for row in rows
    ]  # fmt: skip


def _curves(evaluation: Evaluation, roles: dict[str, str], note: str) -> list[Figure]:
    """How many searches reach the target within so many fixations, where the protocol has one limit."""
    columns = [name for name in evaluation.scores if name.startswith("found_by_")]
    if not columns:
        return []
    images = Images.of(evaluation.scores, evaluation.protocol.by, 1, 0)
    once = np.ones((1, len(images.index)))
    curves = {}
    for name in roles:
        part = evaluation.scores[evaluation.scores["model"] == name]
        means = column_rows(part, columns, images.rows_of(part, evaluation.protocol.by)).image_means(len(images.index))
        curves[name] = mean_vectors(means, once, images.category, evaluation.protocol.reduction == "micro")[0]
    return [figures.curve_panel(curves, figures.model_colors(roles), note)]


def _codes(evaluation: Evaluation) -> list[dict[str, Any]]:
    """What the codes of each codebook among the models select, on the first of the scored scenes."""
    data = evaluation.items.data
    pictured = data.stimuli.loc[data.stimuli["path"] != "", "stimulus"].tolist()[:_N_CODED]
    models = [c for c in evaluation.contestants if has_codes(c.model)]
    if not pictured or not models:
        return []
    scenes, shown = data.subset(stimuli=pictured), []
    for contestant in models:
        assert contestant.model is not None
        # As the models were scored: told the target, or not.
        usage = codebook_usage(contestant.model, scenes, with_search=evaluation.items.with_search)
        image = figures.as_jpeg(draw_usage(usage, scenes))
        shown.append({"model": contestant.name, "n": len(pictured), "lines": usage_lines(usage), "image": image})
    return shown


def _saccades(evaluation: Evaluation, roles: dict[str, str], note: str) -> list[Figure]:
    data = evaluation.items.data
    if data.card.screen is None:
        return []  # amplitudes in px would be compared across displays that nobody knows
    px_per_dva = data.screen.px_per_dva
    colors = {**figures.model_colors(roles), "people": "#000000"}
    shown = {"people": saccades(data.fixations, ["trial"], px_per_dva)}
    for name, role in roles.items():
        sampled = evaluation.samples[evaluation.samples["model"] == name]
        # People are shown as measured, not as resampled by the ceiling.
        if (role == "model" or name == "center_bias") and len(sampled):
            shown[name] = saccades(sampled, ["stimulus", "target", "sample"], px_per_dva)
    return [figures.amplitude_panel(shown, colors, note), figures.direction_panel(shown, colors, note)]


def _cases(evaluation: Evaluation, roles: dict[str, str]) -> list[dict[str, Any]]:
    """Per model the images it predicts best and worst, relative to how well people predict each other."""
    protocol = evaluation.protocol
    if not evaluation.items.decode or not protocol.columns:
        return []  # no picture to show
    metric = "ig" if "ig" in protocol.metrics else protocol.columns[0]
    table = image_means(evaluation.scores, metric).unstack("stimulus")
    ceiling = protocol.ceiling
    cases = []
    for contestant in evaluation.contestants:
        if contestant.role != "model":
            continue
        gap = table.loc[contestant.name] - (table.loc[ceiling] if ceiling else 0.0)
        better = score_column(metric).higher_is_better
        # Where people's own value is the best one, so is the smallest distance from it.
        gap = -pd.Series(gap).abs() if better is None else pd.Series(gap)
        order = gap.dropna().sort_values(ascending=better is not False)
        worst, best = list(order.index[:_N_CASES]), list(order.index[::-1][:_N_CASES])
        for title, names in (("best", best), ("worst", worst)):
            for name in names:
                if title == "worst" and name in best:
                    continue
                cases.append(
                    {
                        "model": contestant.name,
                        "title": title,
                        "stimulus": name,
                        "score": f"{score_column(metric).label} {number(table.loc[contestant.name, name])}"
                        + (f", people {number(table.loc[ceiling, name])}" if ceiling else ""),
                        "panels": _panels(contestant, evaluation, name, roles),
                    }
                )
    return cases


def _panels(
    contestant: Contestant, evaluation: Evaluation, stimulus: str, roles: dict[str, str]
) -> list[dict[str, str]]:
    items = evaluation.items
    batch = items.collate([items[items.row_of[stimulus]]])
    image = _pixels(batch)
    fixations = items.data.fixations
    people = [
        path[["x_px", "y_px"]].to_numpy()
        for _, path in fixations[fixations["stimulus"] == stimulus].groupby("trial", sort=False)
    ]
    sampled = evaluation.samples
    sampled = sampled[(sampled["model"] == contestant.name) & (sampled["stimulus"] == stimulus)]
    paths = [path[["x_px", "y_px"]].to_numpy() for _, path in sampled.groupby("sample", sort=False)]
    color = figures.model_colors(roles)[contestant.name]
    panels = [
        ("stimulus", figures.points_panel(image, np.empty((0, 2)))),
        (f"fixations of {len(people)} people", figures.points_panel(image, np.concatenate(people))),
        ("one person's scanpath", figures.paths_panel(image, people[:1], True, "#222222")),
        *_map_panels(contestant, batch, image),
        ("one sampled scanpath", figures.paths_panel(image, paths[:1], True, color)),
        (f"{len(paths)} sampled scanpaths", figures.paths_panel(image, paths, False, color)),
    ]
    simulated = items.data.card.simulated
    return [
        {
            "caption": f"SIMULATED: {caption.replace('people', 'simulated observers').replace('person', 'observer')}"
            if simulated
            else caption,
            "image": figures.as_jpeg(figure),
        }
        for caption, figure in panels
    ]


def _map_panels(contestant: Contestant, batch: TrialBatch, image: NDArray[np.uint8]) -> list[tuple[str, Figure]]:
    if contestant.model is None:
        return []
    return [(f"predicted density ({contestant.name})", figures.map_panel(image, predicted_density(contestant, batch)))]


@torch.inference_mode()
def predicted_density(contestant: Contestant, batch: TrialBatch) -> NDArray[np.float64]:
    """(H, W) density of a model for the batch's one stimulus."""
    assert contestant.model is not None
    one = first_trial_of_each_stimulus(batch)
    if contestant.model.per_subject:
        one = replace(one, subject=("",))
    device = next((p.device for p in contestant.model.parameters()), torch.device("cpu"))
    density: NDArray[np.float64] = contestant.model.log_density(one.to(device))[0].double().exp().cpu().numpy()
    return density


def _pixels(batch: TrialBatch) -> NDArray[np.uint8]:
    assert batch.image is not None
    return (batch.image[0].permute(1, 2, 0) * 255.0).round().byte().numpy()
