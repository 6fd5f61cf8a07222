"""Sequence score (SS): Needleman-Wunsch alignment of two scanpaths over symbols, as a share of the longer one.

Alignment: Needleman & Wunsch (1970), Journal of Molecular Biology 48, 443-453. Score and data-driven alphabet:
Borji, Tavakoli, Sihite & Itti (2013), ICCV, in the form of the search literature (Yang et al. 2020 and later):
match 1, mismatch 0, gap 0, so that the best score is the length of the longest common subsequence.

Published numbers differ by protocol. To compare the first k fixations only, slice both paths; to count time, repeat
the symbols (:func:`~gazekit.metrics.grid_strings.repeat_symbols`) and score those. A ceiling compares each human
with the others, never with itself. Clusters that are computed anew do not reproduce a published score exactly, for
the bandwidth depends on which fixations are pooled: keep the :class:`Alphabet` with the scores.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from gazekit.errors import InputError
from gazekit.metrics.edit_distance import LONGEST_IN_BITS, Scoring, align_strings, by_bits, count_bits
from gazekit.metrics.grid_strings import check_path, check_strings, cluster_symbols, grid_symbols, label_symbols
from gazekit.metrics.mean_over_trials import MeanOverTrials
from gazekit.metrics.path_pairs import check_pairs

Border = Literal["standard", "port"]
# Of the estimated bandwidth; answer of the maintainers in issue 24 of the repository of Yang et al. (2020).
BANDWIDTH_FACTORS = (0.2, 0.5, 0.8, 1.0, 1.2, 1.5, 1.8)


@dataclass(frozen=True)
class Alphabet:
    """The clusters of an image's fixations; a fixation's symbol is the number of the nearest centre.

    Args:
        centers_px: (K, 2) float64.
        bandwidth_px: Of the chosen mean shift.
        factor: Of the estimated bandwidth that this is.
        score: (saccades between clusters - saccades within) / K, what the factor was chosen by.

    """

    centers_px: Tensor
    bandwidth_px: float
    factor: float
    score: float


def fit_alphabet(xy_px: Tensor, valid: Tensor, *, factors: Collection[float] = BANDWIDTH_FACTORS) -> Alphabet:
    """Clusters of the fixations of one image (in search: of one image and task), from those who define the alphabet.

    Mean shift with each factor times the bandwidth that scikit-learn estimates; the clustering with the highest
    (saccades between clusters - saccades within a cluster) / clusters is kept, the first of equally good ones.
    Whom to pool is a choice: fixations of test subjects in the alphabet raise their score.

    Args:
        xy_px: (B, T, 2) scanpaths as (x, y) px.
        valid: (B, T) bool, True ... True False ...
        factors: Of the estimated bandwidth.

    Raises:
        InputError: scikit-learn is missing, shapes do not fit, a position is not finite, there are no factors, or
            the fixations are too few or too close to each other to estimate a bandwidth.

    """
    try:
        from sklearn.cluster import MeanShift, estimate_bandwidth
    except ImportError as error:
        raise InputError("clusters of fixations need scikit-learn: pip install scikit-learn; or use ss_grid") from error
    check_path(xy_px, valid)
    if not factors or any(not factor > 0 for factor in factors):
        raise InputError(f"factors must be one or more positive numbers; got {factors!r}")
    pool = xy_px[valid].double().cpu().numpy()
    bandwidth_px = float(estimate_bandwidth(pool)) if len(pool) else 0.0
    if not bandwidth_px > 0:
        raise InputError(
            f"{len(pool)} fixations give no bandwidth for clusters: too few, or too many in one place; "
            f"pool more subjects, or use ss_grid"
        )
    best: Alphabet | None = None
    for factor in factors:
        clusters = MeanShift(bandwidth=factor * bandwidth_px).fit(pool)
        centers = torch.from_numpy(clusters.cluster_centers_).to(xy_px.device)
        symbols = cluster_symbols(xy_px, valid, centers_px=centers)
        moved = (symbols[:, 1:] != symbols[:, :-1])[valid[:, 1:]]
        score = (2 * int(moved.sum()) - moved.numel()) / len(centers)
        if best is None or score > best.score:
            best = Alphabet(centers, factor * bandwidth_px, float(factor), score)
    assert best is not None
    return best


def stack_alphabets(alphabets: list[Alphabet]) -> tuple[Tensor, Tensor]:
    """(I, K, 2) centres and their (I, K) mask, for scoring pairs of I images at once.

    Raises:
        InputError: There is none.

    """
    if not alphabets:
        raise InputError("no alphabet to stack; fit one per image first")
    counts = torch.tensor([len(alphabet.centers_px) for alphabet in alphabets])
    centers = torch.nn.utils.rnn.pad_sequence([alphabet.centers_px for alphabet in alphabets], batch_first=True)
    return centers, (torch.arange(centers.shape[1]) < counts[:, None]).to(centers.device)


def sequence_score(
    a_px: Tensor,
    a_valid: Tensor,
    b_px: Tensor,
    b_valid: Tensor,
    *,
    centers_px: Tensor,
    centers_valid: Tensor | None = None,
    image: Tensor | None = None,
) -> Tensor:
    """SS of each pair over the clusters of its image; 0 to 1, higher is better.

    Symmetric; needs one fixation. Chance depends on the clusters and the lengths.

    Args:
        a_px: (P, N, 2) fixations as (x, y) px.
        a_valid: (P, N) bool, True ... True False ...
        b_px: (P, M, 2).
        b_valid: (P, M) bool.
        centers_px: (K, 2), or (I, K, 2) for I images: :func:`fit_alphabet`, :func:`stack_alphabets`.
        centers_valid: (I, K) bool, False where an image has fewer clusters; None: all are there.
        image: (P,) long, the image of each pair; None if there is one.

    Returns:
        (P,) in the type of the positions (integers give float64); 0 where one path is empty, NaN where both are.

    Raises:
        InputError: Shapes do not fit, or a valid position is not finite.

    """
    pairs = check_pairs(a_px, a_valid, b_px, b_valid)
    a, b = (
        cluster_symbols(px, valid, centers_px=centers_px, centers_valid=centers_valid, image=image)
        for px, valid in ((pairs.a_px, a_valid), (pairs.b_px, b_valid))
    )
    return sequence_score_symbols(a, a_valid, b, b_valid).to(pairs.a_px.dtype)


def ss_grid(
    a_px: Tensor,
    a_valid: Tensor,
    b_px: Tensor,
    b_valid: Tensor,
    *,
    size_wh_px: tuple[int, int],
    bins_wh: tuple[int, int] = (8, 6),
) -> Tensor:
    """SS of each pair on a fixed grid instead of clusters; 0 to 1, higher is better. Not comparable with SS.

    Symmetric; needs one fixation; positions outside the image count for the nearest cell. The grid of 8x6 cells is
    ScanMatch's, for want of a published one.

    Args:
        a_px: (P, N, 2) fixations as (x, y) px.
        a_valid: (P, N) bool, True ... True False ...
        b_px: (P, M, 2).
        b_valid: (P, M) bool.
        size_wh_px: Image size that the grid divides.
        bins_wh: Cells per row and per column.

    Returns:
        (P,) in the type of the positions (integers give float64); 0 where one path is empty, NaN where both are.

    Raises:
        InputError: Shapes do not fit, or a valid position is not finite.

    """
    pairs = check_pairs(a_px, a_valid, b_px, b_valid)
    a, b = (
        grid_symbols(px, valid, size_wh_px=size_wh_px, bins_wh=bins_wh)
        for px, valid in ((pairs.a_px, a_valid), (pairs.b_px, b_valid))
    )
    return sequence_score_symbols(a, a_valid, b, b_valid).to(pairs.a_px.dtype)


def semantic_sequence_score(
    a_px: Tensor,
    a_valid: Tensor,
    b_px: Tensor,
    b_valid: Tensor,
    *,
    labels: Tensor,
    unlabelled: Collection[int] = (),
    image: Tensor | None = None,
) -> Tensor:
    """SemSS: SS of each pair over the labels under its fixations; 0 to 1, higher is better.

    See :func:`sequence_score` for edge cases and :func:`~gazekit.metrics.grid_strings.label_symbols` for the maps.
    Some published label maps were wrong for part of the images, which lowers the score: state which maps were used.
    """
    pairs = check_pairs(a_px, a_valid, b_px, b_valid)
    a, b = (
        label_symbols(px, valid, labels=labels, unlabelled=unlabelled, image=image)
        for px, valid in ((pairs.a_px, a_valid), (pairs.b_px, b_valid))
    )
    return sequence_score_symbols(a, a_valid, b, b_valid).to(pairs.a_px.dtype)


def sequence_score_symbols(a: Tensor, a_valid: Tensor, b: Tensor, b_valid: Tensor) -> Tensor:
    """SS of each pair of strings, whatever their symbols mean: longest common subsequence / longer length.

    Args:
        a: (P, N) integers.
        a_valid: (P, N) bool, True ... True False ...
        b: (P, M).
        b_valid: (P, M) bool.

    Returns:
        (P,) float64; 0 where one string is empty, NaN where both are.

    Raises:
        InputError: Shapes or types do not fit.

    """
    return needleman_wunsch_symbols(a, a_valid, b, b_valid) / torch.maximum(a_valid.sum(1), b_valid.sum(1))


def needleman_wunsch_symbols(
    a: Tensor,
    a_valid: Tensor,
    b: Tensor,
    b_valid: Tensor,
    *,
    match: float = 1.0,
    mismatch: float = 0.0,
    substitution: Tensor | None = None,
    gap: float = 0.0,
    border: Border = "standard",
) -> Tensor:
    """Score of the best global alignment of each pair of strings, not divided by anything.

    Args:
        a: (P, N) integers.
        a_valid: (P, N) bool, True ... True False ...
        b: (P, M).
        b_valid: (P, M) bool.
        match: For two equal symbols.
        mismatch: For two different ones.
        substitution: (K, K) score of symbol i of a against symbol j of b, instead of the two above.
        gap: For a symbol without a partner; at most 0.
        border: "standard", or "port" for one gap too many, as in a Python port of ScanMatch.

    Returns:
        (P,) float64, or in the type of `substitution`; the gaps alone where a string is empty.

    Raises:
        InputError: Shapes or types do not fit, a symbol is not in `substitution`, or `gap` is positive.

    """
    check_strings(a, a_valid, b, b_valid)
    extra = border_gap(gap, border)
    if substitution is None:
        if (match, mismatch, gap) == (1.0, 0.0, 0.0) and a.shape[1] <= LONGEST_IN_BITS:
            return by_bits(a, a_valid, b, b_valid, _common_by_bits)
        return extra + align_strings(a, a_valid, b, b_valid, Scoring(gap, match, mismatch))
    n_symbols = len(substitution)
    if substitution.shape != (n_symbols, n_symbols) or not substitution.is_floating_point():
        raise InputError(f"substitution must be (K, K) floats; got {tuple(substitution.shape)} {substitution.dtype}")
    for name, symbols, valid in (("a", a, a_valid), ("b", b, b_valid)):
        unknown = valid & ((symbols < 0) | (symbols >= n_symbols))
        if unknown.any():
            pair, step = unknown.nonzero()[0].tolist()
            raise InputError(
                f"{name} of pair {pair}, fixation {step}: symbol {int(symbols[pair, step])} is not in "
                f"0 ... {n_symbols - 1}, the rows of substitution"
            )
    scoring = Scoring(gap, table=substitution.reshape(-1))
    return extra + align_strings(a.long() * n_symbols, a_valid, b.long(), b_valid, scoring)


def border_gap(gap: float, border: Border) -> float:
    """What the border of the table adds to every alignment.

    The port starts row and column i with i + 1 gaps, the corner with one: all alignments begin there.

    Raises:
        InputError: The gap is positive, or the border unknown.

    """
    if not -float("inf") < gap <= 0:
        raise InputError(f"gap must be at most 0, for a positive one rewards leaving fixations out; got {gap}")
    if border not in ("standard", "port"):
        raise InputError(f"border must be 'standard' or 'port'; got {border!r}")
    return gap if border == "port" else 0.0


def _common_by_bits(n: Tensor, m: Tensor, matches: Iterator[Tensor]) -> Tensor:
    """Longest common subsequences by the algorithm of Hyyrö (2004), Proceedings of AWOCA 15, 16-27.

    Bit i of a number is 0 where symbol i of a adds to the subsequence.
    """
    skipped = torch.full_like(n, -1)
    for j, match in enumerate(matches, start=1):
        used = skipped & match
        skipped = torch.where(j <= m, (skipped + used) | (skipped - used), skipped)
    return (n - count_bits(skipped, n)).double()


class SequenceScore(MeanOverTrials):
    """Mean :func:`sequence_score` over pairs; `update` takes the clusters too."""

    is_differentiable, higher_is_better = False, True

    def update(
        self,
        a_px: Tensor,
        a_valid: Tensor,
        b_px: Tensor,
        b_valid: Tensor,
        *,
        centers_px: Tensor,
        centers_valid: Tensor | None = None,
        image: Tensor | None = None,
    ) -> None:
        pairs = (a_px, a_valid, b_px, b_valid)
        self.add(sequence_score(*pairs, centers_px=centers_px, centers_valid=centers_valid, image=image))


class GridSequenceScore(MeanOverTrials):
    """Mean :func:`ss_grid` over pairs; the keyword arguments are those of the function."""

    is_differentiable, higher_is_better = False, True

    def __init__(self, *, size_wh_px: tuple[int, int], bins_wh: tuple[int, int] = (8, 6), **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.options: dict[str, Any] = {"size_wh_px": size_wh_px, "bins_wh": bins_wh}

    def update(self, a_px: Tensor, a_valid: Tensor, b_px: Tensor, b_valid: Tensor) -> None:
        self.add(ss_grid(a_px, a_valid, b_px, b_valid, **self.options))


class SymbolSequenceScore(MeanOverTrials):
    """Mean :func:`sequence_score_symbols` over pairs: labels (SemSS), objects, strings with repetition."""

    is_differentiable, higher_is_better = False, True

    def update(self, a: Tensor, a_valid: Tensor, b: Tensor, b_valid: Tensor) -> None:
        self.add(sequence_score_symbols(a, a_valid, b, b_valid))
