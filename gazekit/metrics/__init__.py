"""Scores of maps, of scanpath models, of scanpaths and of search against human fixations.

Every metric is a pure function of a batch that gives one score per trial or per pair of scanpaths, and a
thin torchmetrics class that averages it. :data:`METRICS` lists those that score a map,
:data:`PATH_METRICS` those of one scanpath against another, under the names used in score tables.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NoReturn

from torch import Tensor

from gazekit.metrics.asymmetry import (
    HUMAN_ASYMMETRY,
    AsymmetryIndex,
    asymmetry_index,
    asymmetry_interval,
    reaction_time_ms,
    set_size_slope,
)
from gazekit.metrics.auc import AUC, AUCJudd, ShuffledAUC, auc, auc_judd, shuffled_auc
from gazekit.metrics.auc_borji import AUCBorji, ShuffledAUCMIT, auc_borji, shuffled_auc_mit
from gazekit.metrics.conditional import (
    ConditionalAUC,
    ConditionalInformationGain,
    ConditionalNSS,
    conditional_auc,
    conditional_information_gain,
    conditional_nss,
)
from gazekit.metrics.distribution import CC, KLD, SIM, cc, kld, sim
from gazekit.metrics.edit_distance import (
    EditDistance,
    PrefixEditDistance,
    SymbolEditDistance,
    cluster_edit_distance,
    edit_distance,
    edit_distance_symbols,
    prefix_edit_distance,
    prefix_edit_distance_symbols,
    semantic_edit_distance,
)
from gazekit.metrics.emd import EMD, emd
from gazekit.metrics.grid_strings import cluster_symbols, grid_symbols, label_symbols, object_symbols, repeat_symbols
from gazekit.metrics.information import InformationGain, LogLikelihood, information_gain, log_likelihood
from gazekit.metrics.multimatch import DIMENSIONS, MultiMatch, Simplification, multimatch, multimatch_average
from gazekit.metrics.nss import NSS, nss
from gazekit.metrics.object_search import ObjectBehavior, ObjectSearch, behavior_delta, object_behavior
from gazekit.metrics.optimal_maps import saliency_map_for
from gazekit.metrics.path_distance import (
    DTW,
    DirectedHausdorff,
    DiscreteFrechet,
    Euclidean,
    Eyenalysis,
    Hausdorff,
    MannanDistance,
    MannanSimilarity,
    directed_hausdorff,
    discrete_frechet,
    dtw,
    euclidean,
    eyenalysis,
    hausdorff,
    mannan_distance,
    mannan_similarity,
)
from gazekit.metrics.path_pairs import Paths, pairwise
from gazekit.metrics.path_registry import PATH_METRICS, PathMetricInfo
from gazekit.metrics.plausibility import Plausibility, ScanPathPlausibility, human_plausibility, plausibility
from gazekit.metrics.recurrence import CrossRecurrence, Recurrence, SelfRecurrence, cross_recurrence, self_recurrence
from gazekit.metrics.saccade_distributions import (
    AmplitudeDivergence,
    AmplitudeWasserstein,
    DirectionDivergence,
    DirectionWasserstein,
    amplitude_histogram,
    circular_wasserstein_deg,
    direction_histogram,
    js_divergence,
    saccades,
    wasserstein,
)
from gazekit.metrics.scanmatch import ScanMatch, scanmatch, scanmatch_symbols
from gazekit.metrics.search import (
    TFPAUC,
    AUCPerf,
    CumulativeFound,
    PathLengthDifference,
    PathLengthError,
    ProbabilityMismatch,
    ScanpathRatio,
    SearchAccuracy,
    SearchCorrelation,
    SearchEfficiency,
    auc_perf,
    cumulative_found,
    fixations_to_target,
    found_within,
    path_length_difference,
    path_length_error,
    probability_mismatch,
    scanpath_ratio,
    search_accuracy,
    search_correlation,
    search_efficiency,
    tfp_auc,
)
from gazekit.metrics.sequence_score import (
    Alphabet,
    GridSequenceScore,
    SequenceScore,
    SymbolSequenceScore,
    fit_alphabet,
    needleman_wunsch_symbols,
    semantic_sequence_score,
    sequence_score,
    sequence_score_symbols,
    ss_grid,
    stack_alphabets,
)
from gazekit.metrics.time_delay import (
    ScaledTimeDelay,
    StringTimeDelay,
    TimeDelayDistance,
    scaled_time_delay,
    string_time_delay,
    string_time_delay_symbols,
    time_delay_distance,
)
from gazekit.registry import unknown_name

__all__ = [
    "AUC",
    "CC",
    "DIMENSIONS",
    "DTW",
    "EMD",
    "HUMAN_ASYMMETRY",
    "KLD",
    "METRICS",
    "NSS",
    "PATH_METRICS",
    "SIM",
    "TFPAUC",
    "AUCBorji",
    "AUCJudd",
    "AUCPerf",
    "Alphabet",
    "AmplitudeDivergence",
    "AmplitudeWasserstein",
    "AsymmetryIndex",
    "ConditionalAUC",
    "ConditionalInformationGain",
    "ConditionalNSS",
    "CrossRecurrence",
    "CumulativeFound",
    "DirectedHausdorff",
    "DirectionDivergence",
    "DirectionWasserstein",
    "DiscreteFrechet",
    "EditDistance",
    "Euclidean",
    "Eyenalysis",
    "GridSequenceScore",
    "Hausdorff",
    "InformationGain",
    "LogLikelihood",
    "MannanDistance",
    "MannanSimilarity",
    "MetricInfo",
    "MultiMatch",
    "ObjectBehavior",
    "ObjectSearch",
    "PathLengthDifference",
    "PathLengthError",
    "PathMetricInfo",
    "Paths",
    "Plausibility",
    "PrefixEditDistance",
    "ProbabilityMismatch",
    "Recurrence",
    "ScaledTimeDelay",
    "ScanMatch",
    "ScanPathPlausibility",
    "ScanpathRatio",
    "SearchAccuracy",
    "SearchCorrelation",
    "SearchEfficiency",
    "SelfRecurrence",
    "SequenceScore",
    "ShuffledAUC",
    "ShuffledAUCMIT",
    "Simplification",
    "StringTimeDelay",
    "SymbolEditDistance",
    "SymbolSequenceScore",
    "TimeDelayDistance",
    "amplitude_histogram",
    "asymmetry_index",
    "asymmetry_interval",
    "auc",
    "auc_borji",
    "auc_judd",
    "auc_perf",
    "behavior_delta",
    "cc",
    "circular_wasserstein_deg",
    "cluster_edit_distance",
    "cluster_symbols",
    "conditional_auc",
    "conditional_information_gain",
    "conditional_nss",
    "cross_recurrence",
    "cumulative_found",
    "directed_hausdorff",
    "direction_histogram",
    "discrete_frechet",
    "dtw",
    "edit_distance",
    "edit_distance_symbols",
    "emd",
    "euclidean",
    "eyenalysis",
    "fit_alphabet",
    "fixations_to_target",
    "found_within",
    "grid_symbols",
    "hausdorff",
    "human_plausibility",
    "information_gain",
    "js_divergence",
    "kld",
    "label_symbols",
    "log_likelihood",
    "mannan_distance",
    "mannan_similarity",
    "multimatch",
    "multimatch_average",
    "needleman_wunsch_symbols",
    "nss",
    "object_behavior",
    "object_symbols",
    "pairwise",
    "path_length_difference",
    "path_length_error",
    "plausibility",
    "prefix_edit_distance",
    "prefix_edit_distance_symbols",
    "probability_mismatch",
    "reaction_time_ms",
    "repeat_symbols",
    "saccades",
    "saliency_map_for",
    "scaled_time_delay",
    "scanmatch",
    "scanmatch_symbols",
    "scanpath_ratio",
    "search_accuracy",
    "search_correlation",
    "search_efficiency",
    "self_recurrence",
    "semantic_edit_distance",
    "semantic_sequence_score",
    "sequence_score",
    "sequence_score_symbols",
    "set_size_slope",
    "shuffled_auc",
    "shuffled_auc_mit",
    "sim",
    "ss_grid",
    "stack_alphabets",
    "string_time_delay",
    "string_time_delay_symbols",
    "tfp_auc",
    "time_delay_distance",
    "wasserstein",
]


@dataclass(frozen=True)
class MetricInfo:
    """What a table, a plot or a protocol has to know about a metric.

    Args:
        name: Key in :data:`METRICS`.
        label: As papers write it.
        function: Batch -> (B,) scores.
        higher_is_better: Direction.
        unit: Of the score; "" for a pure number.
        chance: Score of a prediction that knows nothing (for a gain: no better than its baseline); None
            where it depends on the data.
        needs: First argument of the function: a "map" on any scale, a "log_density", a map compared with
            an "empirical" density, or a "conditional" log-density.

    """

    name: str
    label: str
    function: Callable[..., Tensor]
    higher_is_better: bool
    unit: str
    chance: float | None
    needs: Literal["map", "log_density", "empirical", "conditional"]


class _Metrics(dict[str, MetricInfo]):
    def __missing__(self, name: str) -> NoReturn:
        raise unknown_name("metric", name, list(self))


METRICS: dict[str, MetricInfo] = _Metrics(
    (info.name, info)
    for info in (
        MetricInfo("nss", "NSS", nss, True, "SD", 0.0, "map"),
        MetricInfo("auc", "AUC", auc, True, "", 0.5, "map"),
        MetricInfo("auc_judd", "AUC-Judd", auc_judd, True, "", 0.5, "map"),
        MetricInfo("sauc", "sAUC", shuffled_auc, True, "", 0.5, "map"),
        MetricInfo("cc", "CC", cc, True, "", 0.0, "empirical"),
        MetricInfo("sim", "SIM", sim, True, "", None, "empirical"),
        MetricInfo("kld", "KLD", kld, False, "nat", None, "empirical"),
        MetricInfo("ll", "LL", log_likelihood, True, "nat/fixation", None, "log_density"),
        MetricInfo("ig", "IG", information_gain, True, "bit/fixation", 0.0, "log_density"),
        MetricInfo("cnss", "cNSS", conditional_nss, True, "SD", 0.0, "conditional"),
        MetricInfo("cauc", "cAUC", conditional_auc, True, "", 0.5, "conditional"),
        MetricInfo("cig", "cIG", conditional_information_gain, True, "bit/fixation", 0.0, "conditional"),
    )
)
