"""What a column of a scores table means: its label, direction, unit and chance.

A column is named after what it holds, optionally followed by a dot and a tag that tells two uses of one metric
apart: ``sbtde.best`` is the string-based time-delay distance, reduced to the best human.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from gazekit.metrics import METRICS, PATH_METRICS
from gazekit.registry import unknown_name


@dataclass(frozen=True)
class ScoreColumn:
    """What a table, a plot or a comparison has to know about a column of scores.

    Args:
        name: Of the column.
        label: As papers write it.
        higher_is_better: Direction; None where the human value is the best one.
        unit: Of the score; "" for a pure number.
        chance: Score of a prediction that knows nothing; None where it depends on the data.
        weight: What a trial weighs in the mean over its image: its number of scored ``fixations`` (the score is
            a mean over them), or the same as every other ``trial``.

    """

    name: str
    label: str
    higher_is_better: bool | None
    unit: str = ""
    chance: float | None = None
    weight: Literal["fixations", "trial"] = "trial"

    @property
    def arrow(self) -> str:
        """↑, ↓, or = where the human value is the best one."""
        return "=" if self.higher_is_better is None else "↑" if self.higher_is_better else "↓"

    @property
    def advice(self) -> str:
        """The direction in words."""
        if self.higher_is_better is None:
            return "as people is better"
        return f"{'higher' if self.higher_is_better else 'lower'} is better"

    @property
    def titled(self) -> str:
        """Label with its unit."""
        return f"{self.label} [{self.unit}]" if self.unit else self.label


# Map metrics that score a trial as a whole; the others are means over the trial's fixations.
_WHOLE_TRIAL = ("cc", "sim", "kld", "auc_judd")

# Scores of scanpaths that are no metric of two paths in a frame: by the clusters of an image's fixations, by its
# objects, or by their lengths alone.
PAIR_SCORES = {
    c.name: c
    for c in (
        ScoreColumn("ss", "SS", True),
        ScoreColumn("object_ss", "SS (objects)", True),
        ScoreColumn("object_sed", "SED (objects)", False, "edit"),
        ScoreColumn("path_length_error", "length error", False, "fixation"),
    )
}

# Per trial: the mean over the scanpaths that a model made for it. Fixations count the initial one.
SEARCH_COLUMNS = {
    c.name: c
    for c in (
        ScoreColumn("search_accuracy", "found", True),
        ScoreColumn("tfp_auc", "TFP-AUC", True),
        ScoreColumn("auc_perf", "AUCperf", True),
        ScoreColumn("scanpath_ratio", "scanpath ratio", True),
        ScoreColumn("search_fixations", "fixations to target, found", None, "fixation"),
        ScoreColumn("search_fixations_all", "fixations to target, all", None, "fixation"),
        ScoreColumn("starts_on_target", "starts on target", None),
        ScoreColumn("search_length", "fixations until the end", None, "fixation"),
    )
}
OBJECT_COLUMNS = {
    c.name: c
    for c in (
        ScoreColumn("object_correct", "ends on target", None),
        ScoreColumn("object_length", "length", None, "fixation"),
        ScoreColumn("object_search", "search ratio", None),
        ScoreColumn("object_refix", "refixation ratio", None),
        ScoreColumn("object_revisit", "revisit ratio", None),
    )
}
# Over all trials at once; see gazekit.evaluation.overall.
OVERALL = {
    c.name: c
    for c in (
        ScoreColumn("probability_mismatch", "probability mismatch", False),
        ScoreColumn("search_correlation", "correlation of fixations to target", True, "", 0.0),
        ScoreColumn("object_delta", "object delta", False),
        ScoreColumn("amplitude_js", "saccade amplitudes, JS", False, "bit"),
        ScoreColumn("direction_js", "saccade directions, JS", False, "bit"),
        ScoreColumn("image_correlation", "correlation of scores over images", True, "", 0.0),
    )
}


def score_column(name: str) -> ScoreColumn:
    """What the column `name` holds.

    Raises:
        InputError: Nothing is known by that name.

    """
    base, _, tag = name.partition(".")
    for table in (PAIR_SCORES, SEARCH_COLUMNS, OBJECT_COLUMNS, OVERALL):
        if base in table:
            return _tagged(table[base], name, tag)
    if base in PATH_METRICS:
        path = PATH_METRICS[base]
        return _tagged(ScoreColumn(base, path.label, path.higher_is_better, path.unit), name, tag)
    if base in METRICS:
        info = METRICS[base]
        weight: Literal["fixations", "trial"] = "trial" if base in _WHOLE_TRIAL else "fixations"
        column = ScoreColumn(base, info.label, info.higher_is_better, info.unit, info.chance, weight)
        return _tagged(column, name, tag)
    known = [*METRICS, *PATH_METRICS, *PAIR_SCORES, *SEARCH_COLUMNS, *OBJECT_COLUMNS, *OVERALL]
    raise unknown_name("score", name, known)


def is_score(name: str) -> bool:
    """Whether a column of that name holds scores, of any trial or overall."""
    base = name.partition(".")[0]
    return any(base in table for table in (METRICS, PATH_METRICS, PAIR_SCORES, SEARCH_COLUMNS, OBJECT_COLUMNS, OVERALL))


def _tagged(column: ScoreColumn, name: str, tag: str) -> ScoreColumn:
    return column if not tag else replace(column, name=name, label=f"{column.label} ({tag.replace('_', ' ')})")
