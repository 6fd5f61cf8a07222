"""The metrics of one scanpath against another, under the names used in score tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import Tensor

from gazekit.metrics.edit_distance import edit_distance, prefix_edit_distance
from gazekit.metrics.multimatch import DIMENSIONS, multimatch, multimatch_average
from gazekit.metrics.path_distance import (
    directed_hausdorff,
    discrete_frechet,
    dtw,
    euclidean,
    eyenalysis,
    hausdorff,
    mannan_distance,
    mannan_similarity,
)
from gazekit.metrics.recurrence import Recurrence, cross_recurrence
from gazekit.metrics.scanmatch import scanmatch
from gazekit.metrics.sequence_score import ss_grid
from gazekit.metrics.time_delay import scaled_time_delay, string_time_delay, time_delay_distance
from gazekit.registry import unknown_name


@dataclass(frozen=True)
class PathMetricInfo:
    """What a table, a plot or a protocol has to know about a path metric.

    Args:
        name: Key in :data:`PATH_METRICS`.
        label: As papers write it.
        function: (a_px, a_valid, b_px, b_valid, ...) -> (P,) scores.
        higher_is_better: Direction; None for a signed score that is best at neither end.
        unit: Of the score; "" for a pure number.
        identity: Score of a path against itself; NaN where it depends on the path.
        symmetric: True where both orders of the two paths give the same score.
        min_length: Fixations that both paths must have; a shorter one gives NaN, or what the docstring says.
        needs_size: True where the function takes ``size_wh_px``, the frame that the positions are in.
        uses_durations: True where the function takes ``a_duration_s`` and ``b_duration_s``.
        several: Function that gives this score and others at once, as (P, n), and `place`, the index of this one:
            whoever wants several of them has them worked out once.

    """

    name: str
    label: str
    function: Callable[..., Tensor]
    higher_is_better: bool | None
    unit: str
    identity: float
    symmetric: bool
    min_length: int
    needs_size: bool
    uses_durations: bool = False
    several: Callable[..., Tensor] | None = None
    place: int = 0

    def __call__(
        self,
        a_px: Tensor,
        a_valid: Tensor,
        b_px: Tensor,
        b_valid: Tensor,
        *,
        size_wh_px: tuple[int, int],
        a_duration_s: Tensor | None = None,
        b_duration_s: Tensor | None = None,
        **parameters: Any,
    ) -> Tensor:
        """(P,) scores with the metric's defaults; arguments that it does not take are left out."""
        if self.needs_size:
            parameters["size_wh_px"] = size_wh_px
        if self.uses_durations_with(parameters):
            parameters |= {"a_duration_s": a_duration_s, "b_duration_s": b_duration_s}
        return self.function(a_px, a_valid, b_px, b_valid, **parameters)

    def uses_durations_with(self, parameters: Mapping[str, Any]) -> bool:
        """Whether the metric looks at durations when it is called with these parameters."""
        return self.uses_durations or parameters.get("temporal_bin_s") is not None


class _PathMetrics(dict[str, PathMetricInfo]):
    def __missing__(self, name: str) -> NoReturn:
        raise unknown_name("path metric", name, list(self))


def _multimatch(dimension: str) -> PathMetricInfo:
    def score(*paths: Tensor, **parameters: Any) -> Tensor:
        return multimatch(*paths, **parameters)[:, DIMENSIONS.index(dimension)]

    label, timed, place = f"MultiMatch {dimension}", dimension == "duration", DIMENSIONS.index(dimension)
    name = f"multimatch_{dimension}"
    return PathMetricInfo(name, label, score, True, "", 1.0, False, 3, True, timed, multimatch, place)


def _all_recurrence(*paths: Tensor, **parameters: Any) -> Tensor:
    return torch.stack(list(cross_recurrence(*paths, **parameters)), -1)


def _recurrence(field: str) -> PathMetricInfo:
    def score(*paths: Tensor, **parameters: Any) -> Tensor:
        value: Tensor = getattr(cross_recurrence(*paths, **parameters), field)
        return value

    label, place = f"CRQA {field}", Recurrence._fields.index(field)
    name, symmetric, nothing = f"crqa_{field}", field != "corm", float("nan")
    better = None if field == "corm" else True
    return PathMetricInfo(name, label, score, better, "%", nothing, symmetric, 2, False, False, _all_recurrence, place)


def _tde(*paths: Tensor, k: int = 2, **parameters: Any) -> Tensor:
    return time_delay_distance(*paths, k=k, **parameters)


PATH_METRICS: dict[str, PathMetricInfo] = _PathMetrics(
    (info.name, info)
    for info in (
        *map(_multimatch, DIMENSIONS),
        PathMetricInfo("multimatch_average", "AvgMM", multimatch_average, True, "", 1.0, False, 3, True),
        PathMetricInfo("scanmatch", "ScanMatch", scanmatch, True, "", 1.0, True, 1, True),
        PathMetricInfo("sed", "SED", edit_distance, False, "edit", 0.0, True, 0, True),
        PathMetricInfo("sed_prefix", "SED (prefixes)", prefix_edit_distance, False, "edit", 0.0, True, 10, True),
        PathMetricInfo("ss_grid", "SS (grid)", ss_grid, True, "", 1.0, True, 1, True),
        PathMetricInfo("stde", "STDE", scaled_time_delay, True, "", 1.0, False, 1, True),
        PathMetricInfo("sbtde", "SBTDE", string_time_delay, False, "", 0.0, False, 10, True),
        PathMetricInfo("dtw", "DTW", dtw, False, "px", 0.0, True, 1, False),
        PathMetricInfo("frechet", "discrete Fréchet", discrete_frechet, False, "px", 0.0, True, 1, False),
        PathMetricInfo("hausdorff", "Hausdorff", hausdorff, False, "px", 0.0, True, 1, False),
        PathMetricInfo(
            "directed_hausdorff", "directed Hausdorff", directed_hausdorff, False, "px", 0.0, False, 1, False
        ),
        PathMetricInfo("euclidean", "Euclidean", euclidean, False, "px", 0.0, True, 1, False),
        PathMetricInfo("eyenalysis", "Eyenalysis", eyenalysis, False, "px", 0.0, True, 1, False),
        PathMetricInfo("mannan", "Mannan D", mannan_distance, False, "", 0.0, True, 1, True),
        PathMetricInfo("mannan_similarity", "Mannan index", mannan_similarity, True, "%", 100.0, True, 1, True),
        *map(_recurrence, ("rec", "det", "lam", "corm")),
        PathMetricInfo("tde", "TDE", _tde, False, "px", 0.0, False, 2, False),
    )
)
