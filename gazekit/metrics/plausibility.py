"""ScanPath Plausibility (SPP): a model's scanpaths against the closest human path of each image.

Definition: Schwinn, Precup, Eskofier & Zanca (2022), NeVA, Gaze Meets ML; protocol of that family: the first 10
fixations of each path, shorter paths left out, a 4x4 grid, and the string-based time-delay distance over windows of
1 to 10 fixations or the edit distance over prefixes of 1 to 10.

The closest of many humans is closer than the closest of few, so a score belongs to a number of humans per image,
which is given beside it. The only fair ceiling, :func:`human_plausibility`, compares each human with the others.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from gazekit.errors import InputError
from gazekit.metrics.edit_distance import check_lengths, prefix_edit_distance
from gazekit.metrics.mean_over_trials import MeanOverTrials
from gazekit.metrics.time_delay import string_time_delay

PathMetric = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
Over = Literal["best", "mean"]
# Pairs that are expanded at a time.
_BLOCK = 2**16


@dataclass(frozen=True)
class Plausibility:
    """Scores of I images with what they were taken over.

    Args:
        score: (I,) mean over the samples that have a score; NaN where none has.
        per_sample: (I, S) score of each sample against the humans of its image; NaN where there is none.
        n_humans: (I,) long, humans that the samples were compared with.
        n_samples: (I,) long, samples that have a score.

    """

    score: Tensor
    per_sample: Tensor
    n_humans: Tensor
    n_samples: Tensor


def plausibility(
    model_px: Tensor,
    model_valid: Tensor,
    human_px: Tensor,
    human_valid: Tensor,
    *,
    metric: Literal["sbtde", "sed"] | PathMetric = "sbtde",
    higher_is_better: bool | None = None,
    reduce: Over = "best",
    size_wh_px: tuple[int, int] | None = None,
    bins_wh: tuple[int, int] = (4, 4),
    k: Collection[int] = range(1, 11),
    n_fix: int | None = 10,
) -> Plausibility:
    """SPP of I images, S model paths each, against H humans each; direction and range are those of the metric.

    Not symmetric. A sample and a human need `n_fix` fixations; others are left out and counted. Chance depends on
    the data and the number of humans.

    Args:
        model_px: (I, S, N, 2) samples of the model as (x, y) px.
        model_valid: (I, S, N) bool, True ... True False ...; an empty path is no sample.
        human_px: (I, H, M, 2).
        human_valid: (I, H, M) bool; an empty path is no human.
        metric: "sbtde", the mean of the string-based time-delay distance over k; "sed", the mean edit distance over
            prefixes of length k; or (model_px, model_valid, human_px, human_valid) of P pairs -> (P,) scores.
        higher_is_better: Direction of a metric of your own; "sbtde" and "sed" know theirs.
        reduce: Over the humans: "best", the closest one, or "mean".
        size_wh_px: Image size, for "sbtde" and "sed".
        bins_wh: Cells per row and per column, for "sbtde" and "sed".
        k: Window or prefix lengths, for "sbtde" and "sed".
        n_fix: Compare the first so many fixations; None: whole paths of any length.

    Raises:
        InputError: Shapes do not fit, a valid position is not finite, or an option is missing or unknown.

    """
    _check_sets(model_px, model_valid, "model")
    _check_sets(human_px, human_valid, "human")
    if len(model_px) != len(human_px):
        raise InputError(f"model and humans must be of the same images; got {len(model_px)} and {len(human_px)}")
    compare = _metric(metric, size_wh_px, bins_wh, k, n_fix)
    better = _direction(metric, higher_is_better)
    others = torch.ones(model_valid.shape[1], human_valid.shape[1], dtype=torch.bool, device=model_px.device)
    return _plausibility(model_px, model_valid, human_px, human_valid, others, compare, better, reduce, n_fix)


def human_plausibility(
    human_px: Tensor,
    human_valid: Tensor,
    *,
    metric: Literal["sbtde", "sed"] | PathMetric = "sbtde",
    higher_is_better: bool | None = None,
    reduce: Over = "best",
    size_wh_px: tuple[int, int] | None = None,
    bins_wh: tuple[int, int] = (4, 4),
    k: Collection[int] = range(1, 11),
    n_fix: int | None = 10,
) -> Plausibility:
    """SPP of each human against the other humans of the image: the ceiling of :func:`plausibility`.

    It is over one human fewer than the model's score; with "best", compare models on as many.

    Args:
        human_px: (I, H, M, 2) fixations as (x, y) px.
        human_valid: (I, H, M) bool; an empty path is no human.
        metric: As for :func:`plausibility`, and so are the following.
        higher_is_better: Direction of a metric of your own.
        reduce: "best" or "mean".
        size_wh_px: Image size.
        bins_wh: Cells per row and per column.
        k: Window or prefix lengths.
        n_fix: Compare the first so many fixations; None: whole paths.

    Raises:
        InputError: As for :func:`plausibility`.

    """
    _check_sets(human_px, human_valid, "human")
    compare = _metric(metric, size_wh_px, bins_wh, k, n_fix)
    better = _direction(metric, higher_is_better)
    others = ~torch.eye(human_valid.shape[1], dtype=torch.bool, device=human_px.device)
    paths = (human_px, human_valid, human_px, human_valid)
    return _plausibility(*paths, others, compare, better, reduce, n_fix)


def _check_sets(px: Tensor, valid: Tensor, name: str) -> None:
    if px.ndim != 4 or px.shape[-1] != 2 or valid.shape != px.shape[:-1] or valid.dtype != torch.bool:
        raise InputError(
            f"expected {name}_px (I, S, T, 2) and {name}_valid (I, S, T) bool: images, paths, fixations; "
            f"got {tuple(px.shape)} and {tuple(valid.shape)} {valid.dtype}"
        )


def _metric(
    metric: Literal["sbtde", "sed"] | PathMetric,
    size_wh_px: tuple[int, int] | None,
    bins_wh: tuple[int, int],
    k: Collection[int],
    n_fix: int | None,
) -> PathMetric:
    if n_fix is not None and (not isinstance(n_fix, int) or n_fix < 1):
        raise InputError(f"n_fix must be a positive whole number or None; got {n_fix!r}")
    if callable(metric):
        return metric
    if metric not in ("sbtde", "sed"):
        raise InputError(f"metric must be 'sbtde', 'sed' or a function of pairs; got {metric!r}")
    if size_wh_px is None:
        raise InputError(f"{metric!r} divides the image by a grid; give size_wh_px=(width, height)")
    lengths = check_lengths(k, "k")
    if n_fix is not None and max(lengths) > n_fix:
        raise InputError(f"k goes to {max(lengths)}, but only the first n_fix={n_fix} fixations are compared")
    size = size_wh_px
    if metric == "sed":
        return lambda *pair: prefix_edit_distance(*pair, size_wh_px=size, bins_wh=bins_wh, lengths=lengths)
    return lambda *pair: string_time_delay(*pair, size_wh_px=size, bins_wh=bins_wh, k=lengths)


def _direction(metric: str | PathMetric, higher_is_better: bool | None) -> bool:
    if callable(metric) and higher_is_better is None:
        raise InputError("say with higher_is_better=True or False which human is the closest under your metric")
    if not callable(metric) and higher_is_better:
        raise InputError(f"{metric!r} is a distance, lower is better; leave higher_is_better out")
    return bool(higher_is_better)


def _plausibility(
    model_px: Tensor,
    model_valid: Tensor,
    human_px: Tensor,
    human_valid: Tensor,
    others: Tensor,
    compare: PathMetric,
    higher_is_better: bool,
    reduce: Over,
    n_fix: int | None,
) -> Plausibility:
    """As :func:`plausibility`; `others` (S, H) says which humans a sample may meet."""
    if reduce not in ("best", "mean"):
        raise InputError(f"reduce must be 'best' or 'mean'; got {reduce!r}")
    least = 1 if n_fix is None else n_fix
    is_sample, is_human = model_valid.sum(-1) >= least, human_valid.sum(-1) >= least
    meets = is_sample[:, :, None] & is_human[:, None] & others
    image, sample, human = meets.nonzero().unbind(1)
    scored = [model_px.new_zeros(0, dtype=_float_type(model_px, human_px))]
    for i, s, h in zip(image.split(_BLOCK), sample.split(_BLOCK), human.split(_BLOCK), strict=True):
        a, b = (model_px[i, s, :n_fix], model_valid[i, s, :n_fix]), (human_px[i, h, :n_fix], human_valid[i, h, :n_fix])
        scored.append(compare(*a, *b).to(scored[0].dtype))
    worst = -torch.inf if higher_is_better else torch.inf
    score = torch.cat(scored)
    defined = meets.index_put((image, sample, human), ~score.isnan())
    table = scored[0].new_full(meets.shape, worst).index_put((image, sample, human), score)
    n_met = defined.sum(-1)
    if reduce == "mean":
        per_sample = table.masked_fill(~defined, 0.0).sum(-1) / n_met
    else:
        table = table.masked_fill(~defined, worst)
        per_sample = (table.amax(-1) if higher_is_better else table.amin(-1)) if table.shape[-1] else table.sum(-1)
        per_sample = per_sample.masked_fill(n_met == 0, torch.nan)
    n_samples = (n_met > 0).sum(-1)
    total = per_sample.masked_fill(n_met == 0, 0.0).sum(-1)
    n_humans = n_met.amax(-1) if n_met.shape[-1] else n_met.sum(-1)
    return Plausibility(total / n_samples, per_sample, n_humans, n_samples)


def _float_type(*tensors: Tensor) -> torch.dtype:
    return torch.float32 if all(t.dtype == torch.float32 for t in tensors) else torch.float64


class ScanPathPlausibility(MeanOverTrials):
    """Mean :func:`plausibility` over images, each the mean over its samples; an update takes whole images.

    `n_humans / n_valid` is the mean number of humans per image that the score belongs to.
    """

    is_differentiable = False

    n_humans: Tensor

    def __init__(
        self,
        *,
        metric: Literal["sbtde", "sed"] | PathMetric = "sbtde",
        higher_is_better: bool | None = None,
        reduce: Over = "best",
        size_wh_px: tuple[int, int] | None = None,
        bins_wh: tuple[int, int] = (4, 4),
        k: Collection[int] = range(1, 11),
        n_fix: int | None = 10,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.options: dict[str, Any] = {"metric": metric, "higher_is_better": higher_is_better, "reduce": reduce}
        self.options |= {"size_wh_px": size_wh_px, "bins_wh": bins_wh, "k": k, "n_fix": n_fix}
        self._direction = _direction(metric, higher_is_better)
        self.add_state("n_humans", torch.tensor(0), dist_reduce_fx="sum")

    @property
    def higher_is_better(self) -> bool:  # type: ignore[override]  # it depends on the metric
        return self._direction

    def update(self, model_px: Tensor, model_valid: Tensor, human_px: Tensor, human_valid: Tensor) -> None:
        found = plausibility(model_px, model_valid, human_px, human_valid, **self.options)
        self.add(found.score)
        self.n_humans += found.n_humans.sum()
