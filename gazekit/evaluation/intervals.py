"""Means over images with bootstrap intervals: images are resampled, because fixations on one image depend."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gazekit.metrics import METRICS

# Below this many images an interval of resampled means says little; the mean stands alone then.
MIN_IMAGES = 20
# Scores that belong to a trial as a whole; all others are means over the trial's fixations.
_PER_TRIAL = ("cc", "sim", "kld", "auc_judd")


def image_means(scores: pd.DataFrame, metric: str) -> pd.Series:
    """Score per (model, stimulus): its trials' scores, weighted by their numbers of fixations.

    Metrics of a whole trial (CC, SIM, KLD, AUC-Judd) weight trials equally. Trials with NaN are left
    out; an image of which none is left is NaN.
    """
    weight = scores["n_fixations"].astype(float) if metric not in _PER_TRIAL else pd.Series(1.0, index=scores.index)
    weight = weight.where(scores[metric].notna(), 0.0)
    weighted = scores[metric].fillna(0.0) * weight
    groups = [scores["model"], scores["stimulus"]]
    total = weight.groupby(groups, sort=False).sum()
    return weighted.groupby(groups, sort=False).sum() / total.where(total > 0)


def resampling_weights(n_images: int, draws: int, seed: int) -> NDArray[np.float64]:
    """(draws, n_images) how often each image is drawn in each resample, divided by n_images."""
    rng = np.random.default_rng(seed)
    counts = rng.multinomial(n_images, np.full(n_images, 1.0 / n_images), size=draws)
    share: NDArray[np.float64] = counts / n_images
    return share


def interval(draws: NDArray[np.float64], level: float) -> tuple[float, float]:
    """The central percentile interval of the draws that are not NaN; NaN if all are."""
    known = draws[~np.isnan(draws)]
    if not len(known):
        return float("nan"), float("nan")
    # Nothing lies between a finite and an infinite draw.
    method: Literal["linear", "nearest"] = "linear" if np.isfinite(known).all() else "nearest"
    low, high = np.quantile(known, [(1.0 - level) / 2.0, (1.0 + level) / 2.0], method=method)
    return float(low), float(high)


def summarize(
    scores: pd.DataFrame, metrics: tuple[str, ...], ceiling: str | None, rule: Mapping[str, Any]
) -> pd.DataFrame:
    """One row per model and metric, from one row per trial.

    Columns: model, metric, mean, low, high (interval; NaN below 20 images), of_ceiling with
    of_ceiling_low and of_ceiling_high, n_images, n_valid and n_total trials.

    ``of_ceiling`` is ``(mean - chance) / (ceiling - chance)``, never clipped; NaN for a metric
    without a fixed chance level. Its interval resamples model and ceiling together.
    """
    rows = []
    for metric in metrics:
        table = image_means(scores, metric).unstack("stimulus")
        weights = resampling_weights(table.shape[1], rule["draws"], rule["seed"])
        n_images = table.notna().sum(axis=1)
        chance = METRICS[metric].chance
        drawn = {str(model): _weighted_means(weights, row.to_numpy()) for model, row in table.iterrows()}
        means = table.mean(axis=1)
        for model in table.index:
            trials = scores.loc[scores["model"] == model, metric]
            enough = n_images[model] >= MIN_IMAGES
            low, high = interval(drawn[model], rule["level"]) if enough else (np.nan, np.nan)
            row = {
                "model": model, "metric": metric, "mean": means[model], "low": low, "high": high,
                "of_ceiling": np.nan, "of_ceiling_low": np.nan, "of_ceiling_high": np.nan,
                "n_images": int(n_images[model]),
                "n_valid": int(trials.notna().sum()), "n_total": len(trials),
            }  # fmt: skip
            if ceiling is not None and chance is not None and ceiling in means and np.isfinite(means[ceiling]):
                row["of_ceiling"] = (means[model] - chance) / (means[ceiling] - chance)
                if enough:
                    ratio = (drawn[model] - chance) / (drawn[ceiling] - chance)
                    row["of_ceiling_low"], row["of_ceiling_high"] = interval(ratio, rule["level"])
            rows.append(row)
    return pd.DataFrame(rows)


def paired_difference(
    scores: pd.DataFrame, metric: str, model: str, other: str, rule: Mapping[str, Any]
) -> tuple[float, float, float]:
    """Mean over images of model minus other, with the interval of the paired bootstrap."""
    table = image_means(scores, metric).unstack("stimulus")
    difference = (table.loc[model] - table.loc[other]).dropna().to_numpy()
    drawn = _weighted_means(resampling_weights(len(difference), rule["draws"], rule["seed"]), difference)
    low, high = interval(drawn, rule["level"]) if len(difference) >= MIN_IMAGES else (np.nan, np.nan)
    return float(difference.mean()), low, high


def _weighted_means(weights: NDArray[np.float64], values: NDArray[np.float64]) -> NDArray[np.float64]:
    """(draws, n) @ (n,) over the images that have a value, per draw."""
    valid = ~np.isnan(values)
    total = weights[:, valid].sum(1)
    finite = np.isfinite(values)
    sums = weights[:, finite] @ values[finite]
    # An infinitely bad image counts in the draws that hold it; zero times infinity would be NaN in all.
    for endless in (-np.inf, np.inf):
        sums = np.where(weights[:, values == endless].sum(1) > 0, endless, sums)
    means: NDArray[np.float64] = np.divide(sums, total, out=np.full(len(weights), np.nan), where=total > 0)
    return means
