"""Scores of maps and of scanpath models against human fixations.

Every metric is a pure function of a batch that gives one score per trial, and a thin torchmetrics class
that averages it over trials. :data:`METRICS` lists them under the names used in score tables.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NoReturn

from torch import Tensor

from gazekit.metrics.auc import AUC, AUCJudd, ShuffledAUC, auc, auc_judd, shuffled_auc
from gazekit.metrics.conditional import (
    ConditionalAUC,
    ConditionalInformationGain,
    ConditionalNSS,
    conditional_auc,
    conditional_information_gain,
    conditional_nss,
)
from gazekit.metrics.distribution import CC, KLD, SIM, cc, kld, sim
from gazekit.metrics.information import InformationGain, LogLikelihood, information_gain, log_likelihood
from gazekit.metrics.nss import NSS, nss
from gazekit.registry import unknown_name

__all__ = [
    "AUC",
    "CC",
    "KLD",
    "METRICS",
    "NSS",
    "SIM",
    "AUCJudd",
    "ConditionalAUC",
    "ConditionalInformationGain",
    "ConditionalNSS",
    "InformationGain",
    "LogLikelihood",
    "MetricInfo",
    "ShuffledAUC",
    "auc",
    "auc_judd",
    "cc",
    "conditional_auc",
    "conditional_information_gain",
    "conditional_nss",
    "information_gain",
    "kld",
    "log_likelihood",
    "nss",
    "shuffled_auc",
    "sim",
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
