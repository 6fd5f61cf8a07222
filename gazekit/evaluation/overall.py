"""Scores over all trials at once: what a model does on average, against what people do on average.

Each is a function of two averages (a cumulative curve, a histogram of saccades, five measures of behavior), which
are means over images, so that an interval comes from resampling images as for every other score. The value for
people is that of one half of them against the other half, averaged over random halves: it is over half as many
people as a model is compared with, which makes it a cautious ceiling.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.stats import rankdata

from gazekit.evaluation.saccades import saccades
from gazekit.metrics import js_divergence

Floats = NDArray[np.float64]

# Random halves of the people behind the value for people.
N_HALVES = 100
# To 30 dva, and one bin for all beyond.
_AMPLITUDE_BIN_DVA, _N_AMPLITUDES = 0.5, 61
_N_DIRECTIONS = 36


class Means(NamedTuple):
    """(N, K) mean of the rows on each image, NaN where there is none, and (N,) how many there are."""

    value: Floats
    n_rows: Floats

    @property
    def known(self) -> NDArray[np.bool_]:
        """(N,) whether the image has a row."""
        known: NDArray[np.bool_] = self.n_rows > 0
        return known


@dataclass(frozen=True)
class Rows:
    """What an overall score averages: one vector per trial or scanpath, with its image and its subject.

    Args:
        vector: (R, K); NaN rows count nowhere.
        image: (R,) number of the image, within a category, from 0 to N - 1.
        subject: (R,) names.

    """

    vector: Floats
    image: NDArray[np.int64]
    subject: NDArray[np.object_]

    def image_means(self, n_images: int, rows: NDArray[np.bool_] | None = None) -> Means:
        """Mean of each image, of these rows alone."""
        kept = ~np.isnan(self.vector).any(1)
        if rows is not None:
            kept &= rows
        total, count = np.zeros((n_images, self.vector.shape[1])), np.zeros(n_images)
        np.add.at(total, self.image[kept], self.vector[kept])
        np.add.at(count, self.image[kept], 1.0)
        means = np.divide(total, count[:, None], out=np.full_like(total, np.nan), where=count[:, None] > 0)
        return Means(means, count)


Combine = Callable[[Means, Means, Floats], Floats]


def overall_score(
    combine: Combine, model: Rows | None, people: Rows, n_images: int, weights: Floats, seed: int
) -> tuple[float, Floats]:
    """The score, and one per draw.

    Args:
        combine: Image means of a model, those of people, and (draws, N) weights of images -> (draws,).
        model: None scores people, halves against halves.
        people: Everyone who is scored.
        n_images: N.
        weights: (draws, N) how often each image is drawn, as a share.
        seed: Of the halves.

    """
    once = np.full((1, n_images), 1.0 / max(1, n_images))
    if model is not None:
        sides = model.image_means(n_images), people.image_means(n_images)
        return float(combine(*sides, once)[0]), combine(*sides, weights)
    names = np.unique(people.subject.astype(str))
    if len(names) < 2:
        return float("nan"), np.full(len(weights), np.nan)
    rng = np.random.default_rng(seed)
    points, draws = [], np.full(len(weights), np.nan)
    for k in range(N_HALVES):
        half = np.isin(people.subject.astype(str), rng.permutation(names)[: len(names) // 2])
        sides = people.image_means(n_images, half), people.image_means(n_images, ~half)
        points.append(combine(*sides, once)[0])
        # Each split serves its share of the draws.
        draws[k::N_HALVES] = combine(*sides, weights[k::N_HALVES])
    return float(np.mean(points)), draws


def mean_vectors(means: Means, weights: Floats, category: NDArray[np.int64], micro: bool = False) -> Floats:
    """(draws, K) weighted mean over the images of a category, or over their rows if `micro`, then over categories."""
    weights = weights * means.n_rows if micro else weights
    parts = []
    for k in np.unique(category[means.known]):
        rows = means.known & (category == k)
        total = weights[:, rows].sum(1, keepdims=True)
        empty = np.full((len(weights), means.value.shape[1]), np.nan)
        parts.append(np.divide(weights[:, rows] @ means.value[rows], total, out=empty, where=total > 0))
    if not parts:
        return np.full((len(weights), means.value.shape[1]), np.nan)
    mean: Floats = np.mean(parts, axis=0)
    return mean


def of_vectors(
    distance: Callable[[Floats, Floats], Floats], category: NDArray[np.int64], micro: bool = False
) -> Combine:
    """A score of two mean vectors."""

    def combine(model: Means, people: Means, weights: Floats) -> Floats:
        return distance(*(mean_vectors(side, weights, category, micro) for side in (model, people)))

    return combine


def of_images(method: str) -> Combine:
    """Correlation over images of two scores, ``spearman`` (average ranks) or ``pearson``."""

    def combine(model: Means, people: Means, weights: Floats) -> Floats:
        both = model.known & people.known
        x, y = model.value[both, 0], people.value[both, 0]
        out = np.full(len(weights), np.nan)
        for row, weight in enumerate(weights[:, both]):
            n = np.rint(weight * weights.shape[1]).astype(int)
            a, b = np.repeat(x, n), np.repeat(y, n)
            if method == "spearman":
                a, b = rankdata(a), rankdata(b)
            if len(a) > 1 and np.ptp(a) > 0 and np.ptp(b) > 0:
                out[row] = np.corrcoef(a, b)[0, 1]
        return out

    return combine


def mismatch(model: Floats, people: Floats) -> Floats:
    """Sum of the absolute differences of two cumulative curves."""
    difference: Floats = np.abs(model - people).sum(1)
    return difference


def relative_difference(model: Floats, people: Floats) -> Floats:
    """Mean over the measures of abs(model - people) / people."""
    with np.errstate(divide="ignore", invalid="ignore"):
        difference: Floats = (np.abs(model - people) / people).mean(1)
    return difference


def divergence(model: Floats, people: Floats) -> Floats:
    """Jensen-Shannon divergence of two histograms, bits."""
    sides = (torch.from_numpy(np.nan_to_num(side)) for side in (model, people))
    empty = np.isnan(model).any(1) | np.isnan(people).any(1)
    bits: Floats = js_divergence(*sides).numpy()
    return np.where(empty, np.nan, bits)


def saccade_rows(
    fixations: pd.DataFrame, path: list[str], px_per_dva: float, image_of: pd.Series, kind: str, subject: str | None
) -> Rows:
    """One row per scanpath: how many of its saccades fall into each bin of amplitude or direction.

    Args:
        fixations: Rows in viewing order within a path.
        path: Columns that name one scanpath; ``stimulus`` among them.
        px_per_dva: Pixels per degree of visual angle.
        image_of: Stimulus -> number of its image.
        kind: ``amplitude`` (0.5 dva wide, to 30 and beyond) or ``direction`` (10 degrees wide).
        subject: Column of subjects, if there is one.

    """
    table = saccades(fixations, path, px_per_dva)
    row, _ = pd.factorize(pd.MultiIndex.from_frame(table[path]), sort=False)
    n_rows = int(row.max(initial=-1)) + 1
    if kind == "amplitude":
        place, n_bins = np.floor(table["amplitude_dva"].to_numpy(float) / _AMPLITUDE_BIN_DVA), _N_AMPLITUDES
    else:
        # Centered on the cardinal directions; direction_histogram says why.
        place, n_bins = np.floor(table["direction_deg"].to_numpy(float) * _N_DIRECTIONS / 360.0 + 0.5), _N_DIRECTIONS
        place %= n_bins
    counts = np.zeros((n_rows, n_bins))
    np.add.at(counts, (row, np.minimum(place, n_bins - 1).astype(int)), 1.0)
    first = table.drop_duplicates(path)
    subjects = first[subject].to_numpy(object) if subject is not None else np.full(n_rows, "", object)
    return Rows(counts, image_of.loc[first["stimulus"]].to_numpy(np.int64), subjects)


def column_rows(scores: pd.DataFrame, columns: Sequence[str], image: NDArray[np.int64]) -> Rows:
    """One row per trial of a scores table."""
    return Rows(scores[list(columns)].to_numpy(float), image, scores["subject"].to_numpy(object))
