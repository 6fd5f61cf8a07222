"""Visual search: how many fixations until the target, and how often, how fast and how directly it is found.

Fixations are counted from 1 and the initial one counts: ``n_fix_incl_initial`` is 1 if the eye is on the
target at the start, and a limit of K saccades allows K + 1 fixations. A target that was never fixated
takes infinitely many fixations; nothing stands for failure but ``inf``, so that a failure can neither be
averaged as if it were a number nor be lost. NaN means that a trial had no target.

Definitions: the cumulative curves, TFP-AUC, probability mismatch and scanpath ratio of Yang et al. (2020)
for COCO-Search18; the normalised AUC and the fovea rule of ViSioNS (Travi et al. 2022).
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric

from gazekit.errors import InputError
from gazekit.metrics.mean_over_trials import MeanOverTrials
from gazekit.registry import unknown_name

Hit = Literal["point", "fovea"]


def fixations_to_target(
    xy_px: Tensor,
    valid: Tensor,
    box_px: Tensor,
    has_box: Tensor | None = None,
    *,
    hit: Hit = "point",
    fovea_size_wh_px: tuple[float, float] | None = None,
) -> Tensor:
    """`n_fix_incl_initial` per trial: the first fixation on the target, counted from 1; lower is better.

    Range [1, T] or inf. The initial fixation counts where it hits, as in the published code; report the
    share of such trials (value 1), since a design that starts on the target measures nothing there.

    Args:
        xy_px: (B, T, 2) fixations as (x, y) px, in the frame of the box.
        valid: (B, T) bool, False where the scanpath is padding.
        box_px: (B, 4) left, top, right, bottom of the target; four NaN where there is none.
        has_box: (B,) bool, False where there is no target, whatever `box_px` holds there; None reads NaN.
        hit: "point": the fixation lies strictly inside the box. "fovea": a box of `fovea_size_wh_px`
            around the fixation overlaps or touches the target's.
        fovea_size_wh_px: Width and height of the fovea box; ViSioNS takes about one degree (32 x 32 px
            for Interiors, 52 x 52 px for COCO-Search18).

    Returns:
        (B,) count; inf if no fixation hits, also for an empty scanpath; NaN without a target.

    Raises:
        InputError: Shapes or types do not fit, a fixation or box is not finite, a box is empty, padding is
            not on the right, or `hit` and `fovea_size_wh_px` do not belong together.

    """
    xy_px, box_px, has_box = _check(xy_px, valid, box_px, has_box)
    return _first_hit(xy_px, valid, box_px, has_box, hit, fovea_size_wh_px)


def scanpath_ratio(
    xy_px: Tensor,
    valid: Tensor,
    box_px: Tensor,
    has_box: Tensor | None = None,
    *,
    hit: Hit = "point",
    fovea_size_wh_px: tuple[float, float] | None = None,
) -> Tensor:
    """Straight distance from the first fixation to the target over the way taken; higher is better.

    ``min(1, |first fixation - center of the box| / length of the scanpath until the first hit)``, range
    [0, 1], in pixels of any size. Only trials that reach the target by a saccade have one, so failures do
    not lower it: report accuracy beside it. Arguments are those of :func:`fixations_to_target`.

    Returns:
        (B,) ratio; NaN where the target is absent, never hit, or hit by the initial fixation (no way).

    Raises:
        InputError: As :func:`fixations_to_target`.

    """
    xy_px, box_px, has_box = _check(xy_px, valid, box_px, has_box)
    n_fix = _first_hit(xy_px, valid, box_px, has_box, hit, fovea_size_wh_px)
    if xy_px.shape[1] == 0:
        return torch.full_like(n_fix, torch.nan)
    n_saccades = torch.arange(1, xy_px.shape[1], device=xy_px.device)
    step_px = torch.linalg.vector_norm(xy_px.diff(dim=1), dim=-1)
    way_px = (step_px * (n_saccades < n_fix[:, None])).sum(1)
    center_px = (box_px[:, :2] + box_px[:, 2:]) / 2
    ratio: Tensor = (torch.linalg.vector_norm(center_px - xy_px[:, 0], dim=-1) / way_px).clamp(max=1.0)
    return ratio.where(n_fix.isfinite() & (n_fix > 1), torch.nan)


def found_within(n_fix_incl_initial: Tensor, *, max_saccades: int | Tensor) -> Tensor:
    """1 where the target was found within the allowed saccades, else 0; higher is better.

    Args:
        n_fix_incl_initial: (B,) from :func:`fixations_to_target`.
        max_saccades: For all, or (B,) per trial (Interiors); -1 allows any number.

    Returns:
        (B,) float; NaN without a target.

    Raises:
        InputError: A count below 1 (saccades instead of fixations?), or a limit below -1.

    """
    limit = _limit(_counts(n_fix_incl_initial), max_saccades)
    n_fix = _counts(n_fix_incl_initial)
    found = n_fix.isfinite() & (n_fix <= limit)
    return found.to(n_fix.dtype).where(~n_fix.isnan(), torch.nan)


def search_accuracy(
    n_fix_incl_initial: Tensor, *, max_saccades: int | Tensor, category: Tensor | None = None
) -> Tensor:
    """Share of trials in which the target is found within the allowed saccades; range [0, 1], higher is better.

    Args:
        n_fix_incl_initial: (B,) from :func:`fixations_to_target`.
        max_saccades: For all, or (B,) per trial; -1 allows any number.
        category: (B,) integers; each category counts the same, however many trials it has. None: one category.

    Returns:
        () float64; NaN if no trial has a target.

    Raises:
        InputError: As :func:`found_within`, or `category` does not fit.

    """
    found = found_within(n_fix_incl_initial, max_saccades=max_saccades)
    return _macro_mean(found[:, None], category)[0]


def cumulative_found(n_fix_incl_initial: Tensor, *, max_saccades: int, category: Tensor | None = None) -> Tensor:
    """Share of trials that found the target within 1, 2, ..., K + 1 fixations (the initial one is the first).

    Range [0, 1], rising; higher is better. The last value is the accuracy at K saccades. Trials without a
    target are left out, categories without trials as well.

    Args:
        n_fix_incl_initial: (B,) from :func:`fixations_to_target`.
        max_saccades: K; 6 for COCO-Search18.
        category: (B,) integers; the curve is computed per category (of which COCO-Search18 has 18, of very
            unequal size) and averaged with equal weight. None: one category.

    Returns:
        (K + 1,) float64; NaN if no trial has a target.

    Raises:
        InputError: A count below 1 (saccades instead of fixations?), K below 0, or `category` does not fit.

    """
    n_fix = _counts(n_fix_incl_initial)
    limits = torch.arange(1, _max_saccades(max_saccades) + 2, device=n_fix.device)
    found = (n_fix[:, None] <= limits).double()
    return _macro_mean(found.where(~n_fix.isnan()[:, None], torch.nan), category)


def tfp_auc(cumulative: Tensor) -> Tensor:
    """Target-fixation probability, area under the curve: the plain sum of its values; higher is better.

    Args:
        cumulative: (..., K + 1) from :func:`cumulative_found`.

    Returns:
        (...) in [0, K + 1]: not normalised. People reach 5.200 of 7 on the test set of COCO-Search18.

    """
    return cumulative.sum(-1)


def probability_mismatch(model: Tensor, human: Tensor) -> Tensor:
    """Sum over K + 1 fixations of the absolute difference between two cumulative curves; lower is better.

    Symmetric, range [0, K + 1], 0 for equal curves.

    Args:
        model: (..., K + 1) from :func:`cumulative_found`.
        human: Likewise, on the same images and with the same K.

    Raises:
        InputError: The curves have different lengths.

    """
    if model.shape[-1:] != human.shape[-1:] or model.ndim == 0:
        raise InputError(
            f"curves of {tuple(model.shape)} and {tuple(human.shape)} values: compute both with one max_saccades"
        )
    return (model - human).abs().sum(-1)


def auc_perf(cumulative: Tensor) -> Tensor:
    """ViSioNS' AUCperf: trapezoidal area under the curve with its axis scaled to [0, 1]; higher is better.

    Range [0, 1]. People reach about 0.56, averaged over the data sets of ViSioNS.

    Args:
        cumulative: (..., K + 1) from :func:`cumulative_found`, K at least 1.

    Raises:
        InputError: The curve has a single value, so no axis to scale.

    """
    if cumulative.shape[-1] < 2:
        raise InputError(f"a curve of {cumulative.shape[-1]} values has no area; use max_saccades of 1 or more")
    return torch.trapezoid(cumulative, dim=-1) / (cumulative.shape[-1] - 1)


class Efficiency(NamedTuple):
    """How many fixations, the initial one included, a search takes; lower is better.

    `mean_found` and `median_found` are over the trials that found the target within the limit, and
    therefore flatter a searcher who gives up on hard ones; `restricted_mean` counts a failure as the K + 1
    fixations that it was allowed. `n_found` of `n_trials` trials with a target succeeded.
    """

    mean_found: Tensor
    median_found: Tensor
    restricted_mean: Tensor
    n_found: Tensor
    n_trials: Tensor


def search_efficiency(n_fix_incl_initial: Tensor, *, max_saccades: int | Tensor) -> Efficiency:
    """Mean and median fixations to the target over successes, and the mean with failures at the limit.

    Args:
        n_fix_incl_initial: (B,) from :func:`fixations_to_target`.
        max_saccades: For all, or (B,) per trial; -1 allows any number, and then one failure makes the
            restricted mean infinite.

    Returns:
        Scalars, float64; NaN where there is nothing to average.

    Raises:
        InputError: As :func:`found_within`.

    """
    n_fix = _counts(n_fix_incl_initial)
    limit = _limit(n_fix, max_saccades).double()
    present = ~n_fix.isnan()
    n_fix, limit = n_fix[present].double(), limit.expand(len(present))[present]
    found = n_fix[n_fix.isfinite() & (n_fix <= limit)]
    ordered = found.sort().values
    middle = ordered[(len(found) - 1) // 2 : len(found) // 2 + 1]  # one value, or the two in the middle
    n_found, n_trials = (torch.tensor(len(part), device=n_fix.device) for part in (found, n_fix))
    return Efficiency(found.mean(), middle.mean(), n_fix.minimum(limit).mean(), n_found, n_trials)


def search_correlation(
    model_n_fix_incl_initial: Tensor,
    model_image: Tensor,
    human_n_fix_incl_initial: Tensor,
    human_image: Tensor,
    *,
    max_saccades: int,
    method: Literal["spearman", "pearson"] = "spearman",
) -> Tensor:
    """Correlation over images of the mean fixations to the target, model against humans; higher is better.

    Asks whether the same images are hard, which the cumulative curve cannot see. Range [-1, 1], chance 0,
    symmetric. A failure counts as K + 1 fixations, as in the restricted mean of :func:`search_efficiency`.

    Args:
        model_n_fix_incl_initial: (B,) from :func:`fixations_to_target`.
        model_image: (B,) integers, the image of each trial.
        human_n_fix_incl_initial: (C,) likewise.
        human_image: (C,) integers, numbered as `model_image`.
        max_saccades: K, the same for both.
        method: "spearman" (average ranks for ties) or "pearson".

    Returns:
        () float64 over the images that both saw; NaN with fewer than two, or if either mean is constant.

    Raises:
        InputError: Shapes do not fit, counts lie below 1, or `method` is unknown.

    """
    if method not in ("spearman", "pearson"):
        raise unknown_name("correlation", method, ["pearson", "spearman"])
    both = [(model_n_fix_incl_initial, model_image), (human_n_fix_incl_initial, human_image)]
    for n_fix, image in both:
        _check_labels(image, n_fix, "image")
    names, row = torch.unique(torch.cat([model_image, human_image]), return_inverse=True)
    sums = []
    for (n_fix, _), rows in zip(both, row.split([len(model_image), len(human_image)]), strict=True):
        sums.append(_restricted_sums(n_fix, rows, len(names), max_saccades))
    return _correlation(*sums[0], *sums[1], method)


def path_length_difference(model_valid: Tensor, human_valid: Tensor) -> Tensor:
    """Fixations of the model less those of the human, per pair of scanpaths; signed, 0 is best.

    For target-absent trials, where a search ends by giving up. Both lengths count the initial fixation.

    Args:
        model_valid: (P, N) bool, False where the model's scanpath is padding.
        human_valid: (P, M) bool likewise.

    Returns:
        (P,) float64.

    Raises:
        InputError: Shapes or types do not fit, or padding is not on the right.

    """
    lengths = []
    for name, valid in (("model_valid", model_valid), ("human_valid", human_valid)):
        check_valid(valid, name, "pair")
        lengths.append(valid.sum(1).double())
    if len(lengths[0]) != len(lengths[1]):
        raise InputError(f"{len(lengths[0])} scanpaths of the model but {len(lengths[1])} of humans; give pairs")
    return lengths[0] - lengths[1]


def path_length_error(model_valid: Tensor, human_valid: Tensor) -> Tensor:
    """Absolute :func:`path_length_difference`, in fixations (HAT's sp_len_err when averaged); lower is better."""
    return path_length_difference(model_valid, human_valid).abs()


class _OnTarget(Metric):
    """What the classes share: the rule of a hit, and trials in the arguments of :func:`fixations_to_target`."""

    is_differentiable, full_state_update = False, False

    def __init__(self, hit: Hit = "point", fovea_size_wh_px: tuple[float, float] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        _check_hit(hit, fovea_size_wh_px)
        self.rule: dict[str, Any] = {"hit": hit, "fovea_size_wh_px": fovea_size_wh_px}


class ScanpathRatio(_OnTarget, MeanOverTrials):
    """Mean :func:`scanpath_ratio` over the trials that reach the target by a saccade."""

    higher_is_better = True

    def update(self, xy_px: Tensor, valid: Tensor, box_px: Tensor, has_box: Tensor | None = None) -> None:
        self.add(scanpath_ratio(xy_px, valid, box_px, has_box, **self.rule))


class SearchAccuracy(_OnTarget):
    """:func:`search_accuracy` over all trials; the limit may differ from trial to trial."""

    higher_is_better = True

    n_found: Tensor
    n_valid: Tensor
    n_total: Tensor

    def __init__(self, n_categories: int = 1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("n_found", torch.zeros(n_categories, dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("n_valid", torch.zeros(n_categories, dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("n_total", torch.tensor(0), dist_reduce_fx="sum")

    def update(
        self,
        xy_px: Tensor,
        valid: Tensor,
        box_px: Tensor,
        has_box: Tensor | None = None,
        category: Tensor | None = None,
        *,
        max_saccades: int | Tensor,
    ) -> None:
        n_fix = fixations_to_target(xy_px, valid, box_px, has_box, **self.rule)
        found = found_within(n_fix, max_saccades=max_saccades)
        row = _rows(category, n_fix, len(self.n_valid))
        self.n_found.index_add_(0, row, (found == 1).long())
        self.n_valid.index_add_(0, row, (~found.isnan()).long())
        self.n_total += len(found)

    def compute(self) -> Tensor:
        return (self.n_found / self.n_valid.double()).nanmean()


class CumulativeFound(_OnTarget):
    """:func:`cumulative_found` of all trials.

    The state counts trials per category and number of fixations, so the scores below follow from it. Read
    `n_valid` (trials with a target) of `n_total` and `share_at_start` beside any of them.

    Args:
        max_saccades: K.
        n_categories: Of which `update` names one per trial.
        kwargs: `hit` and `fovea_size_wh_px` of :func:`fixations_to_target`; those of torchmetrics.

    """

    higher_is_better: bool | None = True

    counts: Tensor
    n_total: Tensor

    def __init__(self, max_saccades: int, n_categories: int = 1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.max_saccades = _max_saccades(max_saccades)
        # Found with fixation 1, ..., K + 1, and not within them.
        self.add_state("counts", torch.zeros(n_categories, max_saccades + 2, dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("n_total", torch.tensor(0), dist_reduce_fx="sum")

    def update(
        self,
        xy_px: Tensor,
        valid: Tensor,
        box_px: Tensor,
        has_box: Tensor | None = None,
        category: Tensor | None = None,
    ) -> None:
        n_fix = fixations_to_target(xy_px, valid, box_px, has_box, **self.rule)
        row = _rows(category, n_fix, len(self.counts))
        column = n_fix.clamp(max=self.max_saccades + 2).nan_to_num(1.0).long() - 1
        self.counts.index_put_((row, column), (~n_fix.isnan()).long(), accumulate=True)
        self.n_total += len(n_fix)

    @property
    def n_valid(self) -> Tensor:
        """Trials with a target."""
        return self.counts.sum()

    @property
    def share_at_start(self) -> Tensor:
        """Share of trials whose target the initial fixation hit."""
        return self.counts[:, 0].sum() / self.n_valid

    def cumulative(self) -> Tensor:
        """(K + 1,) float64."""
        curves = self.counts.cumsum(1).double() / self.counts.sum(1, keepdim=True)
        return curves[:, :-1].nanmean(0)

    def compute(self) -> Tensor | Efficiency:
        return self.cumulative()


class TFPAUC(CumulativeFound):
    """:func:`tfp_auc` of all trials."""

    def compute(self) -> Tensor:
        return tfp_auc(self.cumulative())


class AUCPerf(CumulativeFound):
    """:func:`auc_perf` of all trials."""

    def compute(self) -> Tensor:
        return auc_perf(self.cumulative())


class ProbabilityMismatch(CumulativeFound):
    """:func:`probability_mismatch` between all trials and `human`, a (K + 1,) curve."""

    higher_is_better = False

    human: Tensor

    def __init__(self, human: Tensor, n_categories: int = 1, **kwargs: Any) -> None:
        if human.ndim != 1 or len(human) < 1:
            raise InputError(f"human must be a (K + 1,) curve; got {tuple(human.shape)}")
        super().__init__(len(human) - 1, n_categories, **kwargs)
        self.register_buffer("human", human.double())

    def compute(self) -> Tensor:
        return probability_mismatch(self.cumulative(), self.human)


class SearchEfficiency(CumulativeFound):
    """:func:`search_efficiency` over all trials, categories pooled."""

    higher_is_better = False

    def compute(self) -> Efficiency:
        counts = self.counts.sum(0)
        n_fix = torch.arange(1, len(counts) + 1, device=counts.device).double()
        n_fix[-1] = torch.inf
        return search_efficiency(n_fix.repeat_interleave(counts), max_saccades=self.max_saccades)


class SearchCorrelation(Metric):
    """:func:`search_correlation` over `n_images` images, fed with trials of model and humans in any order."""

    is_differentiable, higher_is_better, full_state_update = False, True, False

    totals: Tensor
    n_trials: Tensor

    def __init__(
        self, n_images: int, max_saccades: int, method: Literal["spearman", "pearson"] = "spearman", **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        if method not in ("spearman", "pearson"):
            raise unknown_name("correlation", method, ["pearson", "spearman"])
        self.max_saccades, self.method = _max_saccades(max_saccades), method
        # Row 0 is the model, row 1 the humans.
        self.add_state("totals", torch.zeros(2, n_images, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("n_trials", torch.zeros(2, n_images, dtype=torch.long), dist_reduce_fx="sum")

    def update(self, n_fix_incl_initial: Tensor, image: Tensor, *, human: bool) -> None:
        row = _rows(image, n_fix_incl_initial, self.totals.shape[1], "image")
        total, n_trials = _restricted_sums(n_fix_incl_initial, row, self.totals.shape[1], self.max_saccades)
        self.totals[int(human)] += total
        self.n_trials[int(human)] += n_trials

    def compute(self) -> Tensor:
        return _correlation(self.totals[0], self.n_trials[0], self.totals[1], self.n_trials[1], self.method)


class PathLengthDifference(MeanOverTrials):
    """Mean :func:`path_length_difference` over pairs: the bias of the model's search times."""

    is_differentiable, higher_is_better = False, None

    def update(self, model_valid: Tensor, human_valid: Tensor) -> None:
        self.add(path_length_difference(model_valid, human_valid))


class PathLengthError(MeanOverTrials):
    """Mean :func:`path_length_error` over pairs."""

    is_differentiable, higher_is_better = False, False

    def update(self, model_valid: Tensor, human_valid: Tensor) -> None:
        self.add(path_length_error(model_valid, human_valid))


def check_valid(valid: Tensor, name: str = "valid", what: str = "trial") -> None:
    """Raise an InputError unless `valid` is (B, T) bool with padding on the right only."""
    if valid.ndim != 2 or valid.dtype != torch.bool:
        raise InputError(f"{name} must be (B, T) bool, True where there is a fixation; got {valid.shape} {valid.dtype}")
    gap = valid[:, 1:] & ~valid[:, :-1]
    if gap.any():
        row = int(gap.any(1).nonzero()[0])
        raise InputError(f"{what} {row}: {name} has a gap; fixations come first, then padding only")


def check_scanpaths(xy_px: Tensor, valid: Tensor) -> Tensor:
    """(B, T, 2) floating-point fixations with 0 in the padding.

    Raises:
        InputError: Shapes or types do not fit, padding is not on the right, or a fixation is not finite.

    """
    check_valid(valid)
    if xy_px.shape != (*valid.shape, 2):
        raise InputError(f"expected xy_px (B, T, 2) for valid (B, T); got {tuple(xy_px.shape)}, {tuple(valid.shape)}")
    xy_px = xy_px if xy_px.is_floating_point() else xy_px.double()
    broken = valid & ~xy_px.isfinite().all(-1)
    if broken.any():
        trial, step = broken.nonzero()[0].tolist()
        raise InputError(
            f"trial {trial}, fixation {step}: (x, y) = {xy_px[trial, step].tolist()} px is not finite; "
            f"drop such fixations first"
        )
    return xy_px.where(valid[..., None], 0.0)


def _check(xy_px: Tensor, valid: Tensor, box_px: Tensor, has_box: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Checked fixations, boxes with 0 where there is none, and (B,) bool where there is one."""
    xy_px = check_scanpaths(xy_px, valid)
    if box_px.shape != (len(valid), 4):
        raise InputError(
            f"box_px must be ({len(valid)}, 4): left, top, right, bottom of each trial; got {tuple(box_px.shape)}"
        )
    if has_box is not None and (has_box.shape != valid.shape[:1] or has_box.dtype != torch.bool):
        raise InputError(f"has_box must be ({len(valid)},) bool; got {tuple(has_box.shape)} {has_box.dtype}")
    box_px = box_px.to(xy_px.dtype)
    has_box = ~box_px.isnan().all(1) if has_box is None else has_box
    bad = has_box & ~(box_px.isfinite().all(1) & (box_px[:, :2] < box_px[:, 2:]).all(1))
    if bad.any():
        trial = int(bad.nonzero()[0])
        raise InputError(
            f"trial {trial}: box {box_px[trial].tolist()} px is not left < right, top < bottom; "
            "give corners, not a size, and has_box where some trials have no target"
        )
    return xy_px, box_px.where(has_box[:, None], 0.0), has_box


def _check_hit(hit: str, fovea_size_wh_px: tuple[float, float] | None) -> None:
    if hit not in ("point", "fovea"):
        raise unknown_name("hit rule", hit, ["fovea", "point"])
    if hit == "point" and fovea_size_wh_px is not None:
        raise InputError("fovea_size_wh_px has no meaning for hit='point'; say hit='fovea'")
    if hit == "fovea" and (fovea_size_wh_px is None or not all(0 < side < float("inf") for side in fovea_size_wh_px)):
        raise InputError(f"hit='fovea' needs fovea_size_wh_px, two positive numbers; got {fovea_size_wh_px}")


def _first_hit(
    xy_px: Tensor,
    valid: Tensor,
    box_px: Tensor,
    has_box: Tensor,
    hit: Hit,
    fovea_size_wh_px: tuple[float, float] | None,
) -> Tensor:
    _check_hit(hit, fovea_size_wh_px)
    low, high = box_px[:, None, :2], box_px[:, None, 2:]
    if fovea_size_wh_px is None:
        on_target = (low < xy_px) & (xy_px < high)
    else:
        half = xy_px.new_tensor(fovea_size_wh_px) / 2
        on_target = (low <= xy_px + half) & (high >= xy_px - half)
    hits = on_target.all(-1) & valid
    # As many fixations as there are before the first hit, and that one.
    n_fix = (hits.cumsum(1) == 0).sum(1).to(xy_px.dtype) + 1
    return n_fix.where(hits.any(1), torch.inf).where(has_box, torch.nan)


def _counts(n_fix_incl_initial: Tensor) -> Tensor:
    if n_fix_incl_initial.ndim != 1:
        raise InputError(f"n_fix_incl_initial must be (B,); got {tuple(n_fix_incl_initial.shape)}")
    if not n_fix_incl_initial.is_floating_point():
        n_fix_incl_initial = n_fix_incl_initial.double()
    low = n_fix_incl_initial < 1
    if low.any():
        trial = int(low.nonzero()[0])
        raise InputError(
            f"trial {trial}: n_fix_incl_initial is {float(n_fix_incl_initial[trial]):g}, but the initial fixation "
            "counts as 1; add 1 to a number of saccades, and use inf where the target was never found"
        )
    return n_fix_incl_initial


def _max_saccades(max_saccades: int) -> int:
    if isinstance(max_saccades, bool) or not isinstance(max_saccades, int) or max_saccades < 0:
        raise InputError(f"max_saccades must be an integer of 0 or more; got {max_saccades!r}")
    return max_saccades


def _limit(n_fix: Tensor, max_saccades: int | Tensor) -> Tensor:
    """Allowed fixations, inf where any number is."""
    limit = torch.as_tensor(max_saccades, device=n_fix.device)
    if limit.is_floating_point() or limit.dtype == torch.bool or limit.shape not in ((), n_fix.shape):
        raise InputError(
            f"max_saccades must be an integer, or one per trial ({len(n_fix)},); got {tuple(limit.shape)} {limit.dtype}"
        )
    if (limit < -1).any():
        raise InputError(f"max_saccades must be 0 or more, or -1 for no limit; got {int(limit.min())}")
    return (limit + 1).to(n_fix.dtype).where(limit >= 0, torch.inf)


def _check_labels(label: Tensor, n_fix: Tensor, name: str) -> None:
    if label.shape != n_fix.shape or label.ndim != 1 or label.is_floating_point() or label.dtype == torch.bool:
        raise InputError(
            f"{name} must be integers, one for each of {len(n_fix)} trials; got {label.shape} {label.dtype}"
        )


def _rows(label: Tensor | None, n_fix: Tensor, n_labels: int, name: str = "category") -> Tensor:
    """(B,) rows of a state with `n_labels` of them; row 0 for all without labels."""
    if label is None:
        if n_labels > 1:
            raise InputError(f"this metric counts {n_labels} categories: give the category of each trial")
        return torch.zeros(len(n_fix), dtype=torch.long, device=n_fix.device)
    _check_labels(label, n_fix, name)
    outside = (label < 0) | (label >= n_labels)
    if outside.any():
        trial = int(outside.nonzero()[0])
        raise InputError(f"trial {trial}: {name} {int(label[trial])} is not among 0 to {n_labels - 1}")
    return label.long()


def _macro_mean(score: Tensor, category: Tensor | None) -> Tensor:
    """(B, K) -> (K,) float64 mean of the categories' means; rows of NaN are left out."""
    known = ~score[:, 0].isnan()
    score = score.double()[known]
    if category is None:
        return score.mean(0)
    _check_labels(category, known, "category")
    names, row = torch.unique(category[known], return_inverse=True)
    n_trials = row.bincount(minlength=len(names))[:, None]
    sums = score.new_zeros(len(names), score.shape[1]).index_add_(0, row, score)
    mean: Tensor = (sums / n_trials).mean(0)
    return mean


def _restricted_sums(n_fix: Tensor, row: Tensor, n_rows: int, max_saccades: int) -> tuple[Tensor, Tensor]:
    """(n_rows,) float64 sum of the fixations to the target, failures at the limit, and number of trials."""
    n_fix = _counts(n_fix)
    known = ~n_fix.isnan()
    limited = n_fix[known].double().clamp(max=_max_saccades(max_saccades) + 1)
    total = limited.new_zeros(n_rows).index_add_(0, row[known], limited)
    return total, row[known].bincount(minlength=n_rows)


def _correlation(total_a: Tensor, n_a: Tensor, total_b: Tensor, n_b: Tensor, method: str) -> Tensor:
    both = (n_a > 0) & (n_b > 0)
    centered = []
    for total, n_trials in ((total_a, n_a), (total_b, n_b)):
        value = total[both] / n_trials[both]
        if len(value) < 2 or bool(value.amin() == value.amax()):
            return total.new_tensor(torch.nan)
        if method == "spearman":
            ordered = value.sort().values
            # Twice the average rank, which correlates the same.
            value = (torch.searchsorted(ordered, value) + torch.searchsorted(ordered, value, right=True)).double()
        centered.append(value - value.mean())
    a, b = centered
    return ((a @ b) / ((a @ a) * (b @ b)).sqrt()).clamp(-1.0, 1.0)
