"""Means over images with bootstrap intervals: images are resampled, because fixations on one image depend."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import norm

from gazekit.evaluation.columns import score_column

Reduction = Literal["macro", "micro", "pooled"]

# Below this many images an interval of resampled means says little; the mean stands alone then.
MIN_IMAGES = 20
# Resampling n images of a category understates its standard error by sqrt((n - 1) / n): 11 % for five.
MIN_IMAGES_OF_CATEGORY = 5
# Draws of a crossed bootstrap at a time; each holds a few numbers per image.
_DRAWS_AT_ONCE = 250


def image_means(scores: pd.DataFrame, metric: str) -> pd.Series:
    """Score per (model, stimulus): its trials' scores, weighted by their numbers of fixations.

    Metrics of a whole trial (CC, SIM, KLD, AUC-Judd, all of scanpaths and searches) weight trials equally.
    Trials with NaN are left out; an image of which none is left is NaN.
    """
    total, weight = _image_sums(scores, metric, ["model", "stimulus"], score_column(metric).weight == "fixations")
    return total / weight.where(weight > 0)


def _image_sums(
    scores: pd.DataFrame, metric: str, groups: list[str], by_fixations: bool
) -> tuple[pd.Series, pd.Series]:
    """Weighted sum of the scores in each group, and the sum of the weights."""
    weight = scores["n_fixations"].astype(float) if by_fixations else pd.Series(1.0, index=scores.index)
    weight = weight.where(scores[metric].notna(), 0.0)
    # An infinitely bad trial that no fixation is scored on must not turn into NaN.
    weighted = (scores[metric].fillna(0.0) * weight).where(weight > 0, 0.0)
    keys = [scores[name] for name in groups]
    return weighted.groupby(keys, sort=False).sum(), weight.groupby(keys, sort=False).sum()


def _cells(
    scores: pd.DataFrame, metric: str, subject: NDArray[np.int64], image: NDArray[np.int64], shape: tuple[int, int]
) -> NDArray[np.float64]:
    """(2, S, N) weighted sum of the scores of each subject on each image, and its weight."""
    value = scores[metric].to_numpy(float)
    by_fixations = score_column(metric).weight == "fixations"
    weight = scores["n_fixations"].to_numpy(float) if by_fixations else np.ones(len(scores))
    kept = ~np.isnan(value) & (weight > 0)
    cells = np.zeros((2, *shape))
    np.add.at(cells[0], (subject[kept], image[kept]), value[kept] * weight[kept])
    np.add.at(cells[1], (subject[kept], image[kept]), weight[kept])
    return cells


def resampling_weights(n_images: int, draws: int, seed: int) -> NDArray[np.float64]:
    """(draws, n_images) how often each image is drawn in each resample, divided by n_images."""
    rng = np.random.default_rng(seed)
    counts = rng.multinomial(n_images, np.full(n_images, 1.0 / n_images), size=draws)
    share: NDArray[np.float64] = counts / n_images
    return share


def interval(draws: NDArray[np.float64], level: float, point: float | None = None) -> tuple[float, float]:
    """The central percentile interval of the draws that are not NaN; NaN if all are.

    Around a `point`, the bias-corrected one: Efron & Tibshirani (1993), An Introduction to the Bootstrap, section 14.3,
    without acceleration. It always holds the point.
    """
    known = draws[~np.isnan(draws)]
    if not len(known):
        return float("nan"), float("nan")
    if point is not None and np.isfinite(known).all():
        below = (np.mean(known < point) + np.mean(known <= point)) / 2.0
        bias = norm.ppf(np.clip(below, 0.5 / len(known), 1.0 - 0.5 / len(known)))
        tail = norm.ppf((1.0 - level) / 2.0)
        low, high = np.quantile(known, norm.cdf([2.0 * bias + tail, 2.0 * bias - tail]))
        return min(float(low), point), max(float(high), point)
    # Nothing lies between a finite and an infinite draw.
    method: Literal["linear", "nearest"] = "linear" if np.isfinite(known).all() else "nearest"
    low, high = np.quantile(known, [(1.0 - level) / 2.0, (1.0 + level) / 2.0], method=method)
    return float(low), float(high)


def stream_seed(seed: int, which: int) -> int:
    """A seed for draws that are independent of those of another number."""
    return int(np.random.SeedSequence([seed, which]).generate_state(1, np.uint64)[0])


@dataclass(frozen=True)
class Images:
    """The images of a table of scores, within their categories, and how often each resample draws them.

    Args:
        index: (category, stimulus) of each image; one category "" where there are none.
        category: (N,) number of the category of each.
        weights: (draws, N), which sum to one over each category.

    """

    index: pd.MultiIndex
    category: NDArray[np.int64]
    weights: NDArray[np.float64]

    @classmethod
    def of(cls, scores: pd.DataFrame, by: str | None, draws: int, seed: int) -> Images:
        """Those in `scores`, resampled within the categories of the column `by`."""
        labels = pd.Series("", index=scores.index) if by is None else scores[by].astype(str)
        index = pd.MultiIndex.from_arrays([labels, scores["stimulus"].astype(str)]).unique().sort_values()
        category, names = pd.factorize(index.get_level_values(0), sort=True)
        weights = np.zeros((draws, len(index)))
        for k in range(len(names)):
            # One seed for all categories would draw alike in those of one size, as if they were one.
            own = seed if len(names) == 1 else stream_seed(seed, 2 + k)
            weights[:, category == k] = resampling_weights(int((category == k).sum()), draws, own)
        return cls(index, category.astype(np.int64), weights)

    def rows_of(self, scores: pd.DataFrame, by: str | None) -> NDArray[np.int64]:
        """Number of the image of each row of `scores`."""
        labels = pd.Series("", index=scores.index) if by is None else scores[by].astype(str)
        keys = pd.MultiIndex.from_arrays([labels, scores["stimulus"].astype(str)])
        return np.asarray(self.index.get_indexer(keys), dtype=np.int64)

    def enough(self, known: NDArray[np.bool_]) -> bool:
        """Whether an interval over the images that have a score says something."""
        sizes = np.bincount(self.category[known], minlength=1)
        if len(np.unique(self.category)) > 1 and sizes[sizes > 0].min(initial=MIN_IMAGES) < MIN_IMAGES_OF_CATEGORY:
            return False
        return int(known.sum()) >= MIN_IMAGES

    def means(
        self, total: NDArray[np.float64], weight: NDArray[np.float64], how: Reduction, weights: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """(draws,) means over the images.

        Args:
            total: (N,) weighted sum of the scores on each image.
            weight: (N,) its weight; 0 where the image has no score.
            how: ``macro``, the mean over categories of the mean over images; ``micro``, the mean over categories
                of the mean over all trials (or fixations); ``pooled``, that over all of them, whatever category.
            weights: (draws, N).

        """
        if how == "pooled":
            # Weights of a category sum to one; as many as it has images count in the pool.
            weights = weights * np.bincount(self.category)[self.category]
            groups = [weight > 0]
        else:
            groups = [(self.category == k) & (weight > 0) for k in np.unique(self.category)]
        parts = []
        for rows in groups:
            if not rows.any():
                continue
            if how != "macro":
                above, below = (weighted_means(weights[:, rows], part[rows]) for part in (total, weight))
                # A draw without an image that has a score has no mean.
                parts.append(np.divide(above, below, out=np.full(len(above), np.nan), where=below > 0))
            else:
                parts.append(weighted_means(weights[:, rows], total[rows] / weight[rows]))
        if not parts:
            return np.full(len(weights), np.nan)
        mean: NDArray[np.float64] = np.mean(parts, axis=0) if len(parts) > 1 else parts[0]
        return mean

    def crossed_means(
        self, total: NDArray[np.float64], weight: NDArray[np.float64], how: Reduction, subjects: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """(draws,) the same, where a score weighs as often as its image and its subject are drawn.

        Args:
            total: (S, N) weighted sum of the scores of each subject on each image.
            weight: (S, N) its weight.
            how: See :meth:`means`.
            subjects: (draws, S) how often each subject is drawn, as a share.

        """
        means = np.full(len(subjects), np.nan)
        for start in range(0, len(subjects), _DRAWS_AT_ONCE):
            some = slice(start, start + _DRAWS_AT_ONCE)
            drawn_total, drawn_weight = finite_product(subjects[some], total), subjects[some] @ weight
            images = self.weights[some] * (drawn_weight > 0)
            if how == "pooled":
                images = images * np.bincount(self.category)[self.category]
                groups = [np.ones(len(self.category), dtype=bool)]
            else:
                groups = [self.category == k for k in np.unique(self.category) if weight[:, self.category == k].any()]
            if how == "macro":
                drawn_total = np.divide(drawn_total, drawn_weight, out=np.zeros_like(images), where=drawn_weight > 0)
                drawn_weight = np.ones_like(images)
            parts = []
            for rows in groups:
                above = np.multiply(images, drawn_total, out=np.zeros_like(images), where=images > 0)[:, rows].sum(1)
                below = (images * drawn_weight)[:, rows].sum(1)
                parts.append(np.divide(above, below, out=np.full(len(below), np.nan), where=below > 0))
            if parts:
                means[some] = np.mean(parts, axis=0)
        return means


def finite_product(weights: NDArray[np.float64], values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The product weights @ values, in which zero times infinity is zero."""
    product: NDArray[np.float64] = weights @ np.where(np.isfinite(values), values, 0.0)
    for endless in (np.inf, -np.inf):
        if (values == endless).any():
            product = np.where(weights @ (values == endless) > 0, endless, product)
    return product


def summarize(
    scores: pd.DataFrame,
    metrics: tuple[str, ...],
    ceiling: str | None,
    rule: Mapping[str, Any],
    *,
    reduction: Reduction = "macro",
    by: str | None = None,
    pooled: Collection[str] = (),
    chance: str | None = None,
) -> pd.DataFrame:
    """One row per model and metric, from one row per trial.

    Args:
        scores: Rows as ``gazekit evaluate`` writes them.
        metrics: Columns to summarize.
        ceiling: Model whose score is the ceiling.
        rule: ``draws``, ``level`` and ``seed`` of the bootstrap; ``resample``: ``stimulus`` (the default) draws
            images, ``stimulus_and_subject`` draws subjects as well and independently, for claims about people
            rather than about these people.
        reduction: ``macro``, the mean of image means, or ``micro``, the mean of all trials; either way a score
            that is a mean over fixations weighs trials by their fixations.
        by: Column of categories that weigh the same; images are resampled within each.
        pooled: Metrics that are means over all trials (or fixations), whatever their category.
        chance: Model whose score is chance for metrics without a fixed chance level.

    Returns:
        model, metric, mean, low, high (interval; NaN below 20 images, or 5 in a category), of_ceiling with
        of_ceiling_low and of_ceiling_high, chance, n_images, n_valid and n_total trials.

        ``of_ceiling`` is ``(mean - chance) / (ceiling - chance)``, never clipped; NaN for a metric without a chance
        level or a direction, and where the ceiling does not beat chance. Its interval resamples model, ceiling and
        chance together.

    """
    images = Images.of(scores, by, rule["draws"], rule["seed"])
    crossed = rule.get("resample") == "stimulus_and_subject"
    named = scores["subject"].astype(str) if "subject" in scores else pd.Series("", index=scores.index)
    who, people = pd.factorize(named, sort=True)
    # Everybody is scored on the same people, so that each draw holds the same of them for all.
    subjects = resampling_weights(len(people), rule["draws"], stream_seed(rule["seed"], 0)) if crossed else None
    once = np.ones((1, len(images.index)))
    for k in np.unique(images.category):
        once[:, images.category == k] /= (images.category == k).sum()
    image = images.rows_of(scores, by)
    names = list(dict.fromkeys(scores["model"].astype(str)))
    rows = []
    for metric in metrics:
        column = score_column(metric)
        how: Reduction = "pooled" if metric in pooled else reduction
        keyed = scores.assign(_image=image)
        sums, weights = _image_sums(keyed, metric, ["model", "_image"], column.weight == "fixations")
        points, draws, known = {}, {}, {}
        for name in names:
            total, weight = (
                part[name].reindex(range(len(images.index)), fill_value=0.0).to_numpy() for part in (sums, weights)
            )
            known[name] = weight > 0
            points[name] = float(images.means(total, weight, how, once)[0])
            if subjects is None:
                draws[name] = images.means(total, weight, how, images.weights)
            else:
                own = (scores["model"] == name).to_numpy()
                cells = _cells(scores[own], metric, who[own], image[own], (len(people), len(images.index)))
                draws[name] = images.crossed_means(cells[0], cells[1], how, subjects)
        for name in sorted(names):
            trials = scores.loc[scores["model"] == name, metric]
            rows.append(
                {
                    "model": name, "metric": metric,
                    **normalized(name, points, draws, ceiling, _chance(column.chance, chance, points, draws),
                                 rule["level"], images.enough(known[name]), column.higher_is_better),
                    "n_images": int(known[name].sum()),
                    "n_valid": int(trials.notna().sum()), "n_total": len(trials),
                }
            )  # fmt: skip
    return pd.DataFrame(rows)


def _chance(
    fixed: float | None, of: str | None, points: Mapping[str, float], draws: Mapping[str, NDArray[np.float64]]
) -> tuple[float, Any]:
    """The level of chance and its draws; NaN where there is none."""
    if fixed is not None:
        return fixed, fixed
    if of is None or of not in points:
        return float("nan"), float("nan")
    return points[of], draws[of]


def normalized(
    name: str,
    points: Mapping[str, float],
    draws: Mapping[str, NDArray[np.float64]],
    ceiling: str | None,
    chance: tuple[float, Any],
    level: float,
    enough: bool,
    higher_is_better: bool | None,
    biased: bool = False,
) -> dict[str, float]:
    """Mean, interval and share of the ceiling of one model, from the means and draws of all.

    Of a `biased` score, such as a distance of two means, which is larger in resamples than in the sample, the
    interval is the bias-corrected one.

    There is no share where the human value is the best one (`higher_is_better` is None), and none where the ceiling
    does not beat chance by more than the interval of their difference: it would be a ratio of noise. That is so for
    all models alike, and also where the images are too few for an interval that is worth printing.
    """
    low, high = interval(draws[name], level, points[name] if biased else None) if enough else (np.nan, np.nan)
    row = {
        "mean": points[name], "low": low, "high": high,
        "of_ceiling": np.nan, "of_ceiling_low": np.nan, "of_ceiling_high": np.nan, "chance": chance[0],
    }  # fmt: skip
    if higher_is_better is None or ceiling is None or ceiling not in points:
        return row
    if not np.isfinite([points[ceiling], chance[0]]).all():
        return row
    sign = 1.0 if higher_is_better else -1.0
    # NaN: no draw has both.
    least = interval(sign * (draws[ceiling] - chance[1]), level)[0]
    if not min(sign * (points[ceiling] - chance[0]), least) > 0.0:
        return row
    with np.errstate(divide="ignore", invalid="ignore"):
        row["of_ceiling"] = float((np.float64(points[name]) - chance[0]) / (points[ceiling] - chance[0]))
        if enough:
            ratio = (draws[name] - chance[1]) / (draws[ceiling] - chance[1])
            row["of_ceiling_low"], row["of_ceiling_high"] = interval(ratio, level)
    return row


def paired_difference(
    scores: pd.DataFrame, metric: str, model: str, other: str, rule: Mapping[str, Any]
) -> tuple[float, float, float]:
    """Mean over images of model minus other, with the interval of the paired bootstrap."""
    table = image_means(scores, metric).unstack("stimulus")
    difference = (table.loc[model] - table.loc[other]).dropna().to_numpy()
    drawn = weighted_means(resampling_weights(len(difference), rule["draws"], rule["seed"]), difference)
    low, high = interval(drawn, rule["level"]) if len(difference) >= MIN_IMAGES else (np.nan, np.nan)
    return float(difference.mean()), low, high


def weighted_means(weights: NDArray[np.float64], values: NDArray[np.float64]) -> NDArray[np.float64]:
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
