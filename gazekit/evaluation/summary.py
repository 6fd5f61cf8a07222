"""From scores per trial to one row per model and score: means over trials, and scores over all trials at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from gazekit.evaluation import overall
from gazekit.evaluation.columns import score_column
from gazekit.evaluation.intervals import Images, normalized, summarize
from gazekit.evaluation.overall import Combine, Rows
from gazekit.evaluation.protocol import Protocol
from gazekit.evaluation.runner import Evaluation
from gazekit.models.human import Human

# Scores of trials behind each overall score of the kind.
_BEHAVIOR = ("object_correct", "object_length", "object_search", "object_refix", "object_revisit")


def summary_of(evaluation: Evaluation) -> pd.DataFrame:
    """Every score of an evaluation with its interval, chance and share of the ceiling.

    Returns:
        The columns of :func:`summarize`, and ``protocol``, the name without which no score is to be quoted.

    """
    protocol = evaluation.protocol
    parts = [
        summarize(
            evaluation.scores, protocol.columns, protocol.ceiling, protocol.intervals,
            reduction=protocol.reduction, by=protocol.by, pooled=protocol.pooled, chance=protocol.chance,
        )
    ]  # fmt: skip
    if protocol.overall:
        parts.append(_overall(evaluation, protocol))
    return pd.concat(parts, ignore_index=True).assign(protocol=protocol.label)


def _overall(evaluation: Evaluation, protocol: Protocol) -> pd.DataFrame:
    scores, rule = evaluation.scores, protocol.intervals
    images = Images.of(scores, protocol.by, rule["draws"], rule["seed"])
    names = list(dict.fromkeys(scores["model"]))
    table = []
    for score in protocol.overall:
        combine, sides = _sides(score, evaluation, images)
        people = sides.pop("")
        assert people is not None
        points: dict[str, float] = {}
        draws: dict[str, Any] = {}
        for name in names:
            if name in sides:
                points[name], draws[name] = overall.overall_score(
                    combine, sides[name], people, len(images.index), images.weights, rule["seed"]
                )
            else:
                points[name], draws[name] = float("nan"), np.full(rule["draws"], np.nan)
        fixed = score_column(score).chance
        of = protocol.chance
        chance = (fixed, fixed) if fixed is not None else (points.get(of or "", np.nan), draws.get(of or "", np.nan))
        known = people.image_means(len(images.index)).known
        enough = images.enough(known)
        for name in sorted(names):
            of_model = sides.get(name)
            rows = people if of_model is None else of_model
            table.append(
                {
                    "model": name, "metric": score,
                    **normalized(name, points, draws, protocol.ceiling, chance, rule["level"], enough,
                                 score_column(score).higher_is_better, biased=True),
                    "n_images": int(known.sum()),
                    "n_valid": int((~np.isnan(rows.vector).any(1)).sum()) if name in sides else 0,
                    "n_total": len(rows.vector),
                }
            )  # fmt: skip
    return pd.DataFrame(table)


def _sides(score: str, evaluation: Evaluation, images: Images) -> tuple[Combine, dict[str, Rows | None]]:
    """How two sides are compared, and the rows of each model; those of people under "", None for people as a model."""
    protocol, scores = evaluation.protocol, evaluation.scores
    kind, _, of = score.partition(".")
    micro = protocol.reduction == "micro"
    combine = {
        "probability_mismatch": overall.of_vectors(overall.mismatch, images.category, micro),
        "object_delta": overall.of_vectors(overall.relative_difference, images.category, micro),
        "amplitude_js": overall.of_vectors(overall.divergence, images.category),
        "direction_js": overall.of_vectors(overall.divergence, images.category),
        "search_correlation": overall.of_images("spearman"),
        "image_correlation": overall.of_images("pearson"),
    }[kind]
    if kind in ("amplitude_js", "direction_js"):
        return combine, _saccade_sides(kind.removesuffix("_js"), evaluation, images)
    columns = {
        "probability_mismatch": [name for name in scores if name.startswith("found_by_")],
        "object_delta": list(_BEHAVIOR),
        "search_correlation": ["search_fixations_all"],
        "image_correlation": [of],
    }[kind]
    rows = images.rows_of(scores, protocol.by)
    ceiling = scores["model"].isin([c.name for c in evaluation.contestants if c.is_people]).to_numpy()
    if not ceiling.any():
        return combine, {"": Rows(np.zeros((0, len(columns))), np.zeros(0, np.int64), np.zeros(0, object))}
    people = overall.column_rows(scores[ceiling], columns, rows[ceiling])
    sides: dict[str, Rows | None] = {"": people}
    for name, part in scores.groupby("model", sort=False):
        own = (scores["model"] == name).to_numpy()
        sides[str(name)] = None if own[ceiling].any() else overall.column_rows(part, columns, rows[own])
    return combine, sides


def _saccade_sides(kind: str, evaluation: Evaluation, images: Images) -> dict[str, Rows | None]:
    data, samples = evaluation.items.data, evaluation.samples
    px_per_dva = data.screen.px_per_dva if kind == "amplitude" else 1.0
    image_of = pd.Series(np.arange(len(images.index)), index=images.index.get_level_values(1))
    fixations = data.fixations[data.fixations["in_path"]]
    if evaluation.protocol.start_is_given:
        # A saccade that leaves the given start is not one that a model's scanpaths begin with.
        fixations = fixations[fixations["fixation"] > 0]
    sides: dict[str, Rows | None] = {
        "": overall.saccade_rows(fixations, ["stimulus", "trial", "subject"], px_per_dva, image_of, kind, "subject")
    }
    for contestant in evaluation.contestants:
        if contestant.is_people:
            sides[contestant.name] = None
            continue
        drawn = samples[samples["model"] == contestant.name]
        if isinstance(contestant.model, Human) or not len(drawn):
            continue
        sides[contestant.name] = overall.saccade_rows(
            drawn, ["stimulus", "target", "sample"], px_per_dva, image_of, kind, None
        )
    return sides


def notes(evaluation: Evaluation, summary: pd.DataFrame) -> list[str]:
    """What a reader of the table has to know, one line each."""
    record: Mapping[str, Any] = evaluation.record
    scores, lines = evaluation.scores, []
    for name, entry in record["models"].items():
        if "weights" in entry:
            lines.append(f"{name} stands on {entry['backbone']}, weights {entry['weights']}")
    for name, rows in scores.query("seen_in_training").groupby("model"):
        lines.append(f"{name} was trained on {rows['stimulus'].nunique()} of the scored images")
    if "pairs_scored" in scores:
        # What people's own scanpaths do not allow is said once, of them.
        of_people = float(scores.loc[scores["role"] == "ceiling", "pairs_scored"].mean())
        for name, rows in scores.groupby("model", sort=False):
            paired = rows.groupby("stimulus")["pairs_scored"].max().notna()
            if not paired.all():
                lines.append(f"{name} has no scanpath to compare on {(~paired).sum()} of {len(paired)} images")
            share = float(rows["pairs_scored"].mean())
            told = (rows["role"] != "ceiling").all() and share > of_people - 0.05
            if share < 0.99 and not told:
                lines.append(
                    f"{name}: {1 - share:.0%} of its pairs of scanpaths have no score in some column (too short)"
                )
        people = scores[scores["role"] == "ceiling"].groupby(["stimulus", *(["target"] if "target" in scores else [])])
        if evaluation.protocol.paths is not None and len(people):
            sizes = people.size()
            lines.append(f"people per image: {sizes.min()} to {sizes.max()}, median {sizes.median():g}")
    ceiling = evaluation.protocol.ceiling
    top = summary[(summary["model"] == ceiling) & summary["of_ceiling"].isna() & np.isfinite(summary["chance"])]
    directed = top["metric"].map(lambda name: score_column(name).higher_is_better is not None).astype(bool)
    top = top[np.isfinite(top["mean"]) & directed]
    if len(top):
        labels = ", ".join(score_column(name).label for name in top["metric"])
        lines.append(f"{ceiling} does not beat chance in {labels}, so there is no share of the ceiling")
    missing = summary[(summary["n_valid"] == 0) & (summary["n_total"] > 0)]
    for name, rows in missing.groupby("model", sort=False):
        lines.append(f"{name} has no {', '.join(score_column(metric).label for metric in rows['metric'])}")
    return lines
