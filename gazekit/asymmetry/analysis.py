"""From fixations to reaction times, slopes, asymmetry indices and their agreement with people.

Scoring: Gupta, Zhang, Wu, Wolfe & Kreiman (2021), Visual Search Asymmetry, NeurIPS. Which condition of a task is hard
is people's word (or the plan's, for tasks without human data), never the model's.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy import stats

from gazekit.asymmetry.plan import Plan
from gazekit.errors import InputError
from gazekit.metrics.asymmetry import (
    HUMAN_ASYMMETRY,
    HumanCondition,
    asymmetry_index,
    reaction_time_ms,
    resampled_slopes,
    set_size_slope,
)
from gazekit.resources import table_path

# "agrees" and "reverses" are said where both the bootstrap interval of the slopes' difference leaves 0 out and an
# F-test of equal slopes is significant: resampling a few displays per set size alone is too sure of itself.
AGREEMENTS = ("agrees", "leans to agree", "no asymmetry", "leans to reverse", "reverses")


@dataclass(frozen=True)
class Analysis:
    """Everything that tables and figures show.

    Args:
        set_sizes: Per model, condition and set size: mean number of fixations and reaction time, with the standard
            error (population SD over root n), trials, misses.
        slopes: Per model and condition: ``slope`` (ms per item) with ``low`` and ``high``, ``intercept`` (ms).
        tasks: Per model and task: both slopes, ``index`` with interval, ``slope_difference`` (hard minus easy) with
            interval, ``p_difference`` of the published F-test, people's index, ``agreement``.
        models: Per model: mean index with interval, tasks that agree, correlation of slopes with people's.
        groups: Per group of models (networks of one diet) and task: the indices of its members.

    """

    set_sizes: pd.DataFrame
    slopes: pd.DataFrame
    tasks: pd.DataFrame
    models: pd.DataFrame
    groups: pd.DataFrame


def analyze(trials: pd.DataFrame, plan: Plan) -> Analysis:
    """All tables of a run.

    Args:
        trials: As :attr:`gazekit.asymmetry.run.AsymmetryRun.trials`.
        plan: Says how misses are scored, the mapping to reaction times, and the bootstrap.

    Raises:
        InputError: A column is missing.

    """
    columns = {"model", "group", "task", "role", "condition", "set_size", "n_fixations"}
    if missing := columns - set(trials):
        raise InputError(f"table of trials: lacks column {sorted(missing)[0]!r}")
    trials = trials.assign(rt_ms=reaction_times(trials, plan))
    set_sizes = _by_set_size(trials)
    slopes, draws = _slopes(trials, plan)
    tasks = _tasks(trials, slopes, draws, plan)
    return Analysis(set_sizes, slopes, tasks, _models(slopes, tasks, draws, plan), _groups(tasks))


def reaction_times(trials: pd.DataFrame, plan: Plan) -> NDArray[np.float64]:
    """Reaction time per trial, ms; NaN for a miss where the plan leaves misses out."""
    n = torch.tensor(trials["n_fixations"].to_numpy(dtype=float))
    if plan.miss == "set_size":
        n = n.where(~n.isnan(), torch.inf)
    limit = torch.tensor(trials["set_size"].to_numpy(dtype=float))
    rt = reaction_time_ms(n, limit, ms_per_fixation=plan.ms_per_fixation, ms_without_fixation=plan.ms_without_fixation)
    times: NDArray[np.float64] = rt.numpy()
    return times


def _by_set_size(trials: pd.DataFrame) -> pd.DataFrame:
    rows = []
    for keys, part in trials.groupby(["model", "task", "role", "condition", "set_size"], sort=False):
        model, task, role, condition, set_size = keys
        found, rt = part["n_fixations"].dropna(), part["rt_ms"].dropna()
        rows.append(
            {
                "model": model, "task": task, "role": role, "condition": condition, "set_size": set_size,
                "mean_fixations": found.mean(), "mean_rt_ms": rt.mean(),
                "se_rt_ms": rt.std(ddof=0) / np.sqrt(len(rt)) if len(rt) else np.nan,
                "n_trials": len(part), "n_missed": int(part["n_fixations"].isna().sum()),
            }
        )  # fmt: skip
    return pd.DataFrame(rows)


def _slopes(trials: pd.DataFrame, plan: Plan) -> tuple[pd.DataFrame, dict[tuple[str, str], torch.Tensor]]:
    rows, draws = [], {}
    generator = torch.Generator().manual_seed(plan.seed)
    for keys, part in trials.groupby(["model", "task", "role", "condition"], sort=False):
        model, task, role, condition = keys
        rt, size = torch.tensor(part["rt_ms"].to_numpy()), torch.tensor(part["set_size"].to_numpy())
        slope = set_size_slope(rt, size).item()
        drawn = resampled_slopes(rt, size, plan.draws, generator)
        draws[str(model), str(condition)] = drawn
        low, high = _interval(drawn, plan.level)
        means = part.groupby("set_size")["rt_ms"].mean().dropna()
        intercept = float(means.mean() - slope * np.mean(means.index.to_numpy(dtype=float))) if len(means) else np.nan
        human = human_condition(str(condition))
        rows.append(
            {
                "model": model, "task": task, "role": role, "condition": condition, "slope": slope, "low": low,
                "high": high, "intercept": intercept, "human_slope": human.slope_ms_per_item if human else np.nan,
            }
        )  # fmt: skip
    return pd.DataFrame(rows), draws


def _tasks(
    trials: pd.DataFrame, slopes: pd.DataFrame, draws: dict[tuple[str, str], torch.Tensor], plan: Plan
) -> pd.DataFrame:
    rows = []
    human_index = {human.task: human.index for human in HUMAN_ASYMMETRY}
    for keys, part in slopes.groupby(["model", "task"], sort=False):
        model, task = str(keys[0]), str(keys[1])
        at = part.set_index("role")
        hard, easy = float(at.loc["hard", "slope"]), float(at.loc["easy", "slope"])
        drawn_hard, drawn_easy = (draws[model, str(at.loc[role, "condition"])] for role in ("hard", "easy"))
        index = asymmetry_index(torch.tensor(hard), torch.tensor(easy)).item()
        low, high = _interval(asymmetry_index(drawn_hard, drawn_easy), plan.level)
        difference_low, difference_high = _interval(drawn_hard - drawn_easy, plan.level)
        own = trials[(trials["model"] == model) & (trials["task"] == task)]
        missed, p_slopes = own["n_fixations"].isna(), difference_p(own, slopes_only=True)
        rows.append(
            {
                "model": model, "group": own["group"].iloc[0], "task": task, "easy_slope": easy, "hard_slope": hard,
                "index": index, "low": low, "high": high, "slope_difference": hard - easy,
                "difference_low": difference_low, "difference_high": difference_high,
                "p_difference": difference_p(own), "p_slopes": p_slopes, "human_index": human_index.get(task, np.nan),
                "agreement": _agreement(index, difference_low, difference_high, p_slopes < 1.0 - plan.level),
                "easy_missed": int((missed & (own["role"] == "easy")).sum()),
                "hard_missed": int((missed & (own["role"] == "hard")).sum()), "n_trials": len(own),
            }
        )  # fmt: skip
    return pd.DataFrame(rows)


def _agreement(index: float, difference_low: float, difference_high: float, significant: bool) -> str:
    if significant and difference_low > 0:
        return "agrees"
    if significant and difference_high < 0:
        return "reverses"
    if not np.isfinite(index) or index == 0:
        return "no asymmetry"
    return "leans to agree" if index > 0 else "leans to reverse"


def difference_p(trials: pd.DataFrame, slopes_only: bool = False) -> float:
    """The p of the F-test that both conditions share one line of reaction time over set size, on single trials.

    ``rt ~ size`` against ``rt ~ size * condition``, as published: it is small where the conditions differ in slope or
    in level. With `slopes_only`, ``rt ~ size + condition`` against the same: small where slopes differ. NaN with too
    few trials.
    """
    known = trials[trials["rt_ms"].notna()]
    rt = known["rt_ms"].to_numpy(dtype=float)
    size, hard = known["set_size"].to_numpy(dtype=float), (known["role"] == "hard").to_numpy(dtype=float)
    one = np.ones_like(rt)
    large = np.stack([one, size, hard, size * hard], 1)
    small, more = (large[:, :3], 1) if slopes_only else (large[:, :2], 2)
    rank = np.linalg.matrix_rank(large) if len(rt) else 0
    if rank < 4 or len(rt) <= 4:
        return float("nan")
    rss = [float(np.square(rt - x @ np.linalg.lstsq(x, rt, rcond=None)[0]).sum()) for x in (small, large)]
    if rss[1] <= 1e-9 * max(1.0, rss[0]):
        return 0.0 if rss[0] > 1e-6 else 1.0
    f = (rss[0] - rss[1]) / more / (rss[1] / (len(rt) - 4))
    return float(stats.f.sf(f, more, len(rt) - 4))


def _models(
    slopes: pd.DataFrame, tasks: pd.DataFrame, draws: dict[tuple[str, str], torch.Tensor], plan: Plan
) -> pd.DataFrame:
    rows = []
    for name, part in tasks.groupby("model", sort=False):
        model = str(name)
        own = slopes[slopes["model"] == model]
        conditions = own.set_index(["task", "role"])["condition"]
        drawn = torch.stack(
            [
                asymmetry_index(draws[model, conditions[task, "hard"]], draws[model, conditions[task, "easy"]])
                for task in part["task"]
            ]
        ).mean(0)
        low, high = _interval(drawn, plan.level)
        r, p = slope_correlation(own)
        rows.append(
            {
                "model": model, "group": part["group"].iloc[0], "mean_index": part["index"].mean(), "low": low,
                "high": high, "n_tasks": len(part), "n_positive": int((part["index"] > 0).sum()),
                "n_agree": int((part["agreement"] == "agrees").sum()),
                "n_reverse": int((part["agreement"] == "reverses").sum()), "r_human": r, "p_human": p,
                "missed": int(part["easy_missed"].sum() + part["hard_missed"].sum()),
                "n_trials": int(part["n_trials"].sum()),
            }
        )  # fmt: skip
    return pd.DataFrame(rows)


def slope_correlation(slopes: pd.DataFrame) -> tuple[float, float]:
    """Pearson's r, and its p, of condition slopes with people's; NaN with fewer than 3 pairs or without variance."""
    known = slopes.dropna(subset=["slope", "human_slope"])
    if len(known) < 3 or known["slope"].nunique() < 2:
        return float("nan"), float("nan")
    result = stats.pearsonr(known["slope"], known["human_slope"])
    return float(result.statistic), float(result.pvalue)


def _groups(tasks: pd.DataFrame) -> pd.DataFrame:
    grouped = tasks[tasks["group"] != ""]
    rows = []
    for keys, part in grouped.groupby(["group", "task"], sort=False):
        index = part["index"]
        rows.append(
            {
                "group": keys[0], "task": keys[1], "mean_index": index.mean(), "lowest": index.min(),
                "highest": index.max(), "n": len(part), "n_positive": int((index > 0).sum()),
                "n_negative": int((index < 0).sum()), "mean_difference": part["slope_difference"].mean(),
                "human_index": part["human_index"].iloc[0],
            }
        )  # fmt: skip
    return pd.DataFrame(
        rows,
        columns=[
            "group", "task", "mean_index", "lowest", "highest", "n", "n_positive", "n_negative", "mean_difference",
            "human_index",
        ],
    )  # fmt: skip


def _interval(draws: torch.Tensor, level: float) -> tuple[float, float]:
    known = draws[~draws.isnan()]
    if not len(known):
        return float("nan"), float("nan")
    low, high = known.quantile(known.new_tensor([(1.0 - level) / 2.0, (1.0 + level) / 2.0])).tolist()
    return low, high


@lru_cache(maxsize=1)
def _human_conditions() -> dict[str, HumanCondition]:
    return {condition.name: condition for human in HUMAN_ASYMMETRY for condition in (human.easy, human.hard)}


def human_condition(name: str) -> HumanCondition | None:
    """People's data for a condition of the six classic tasks; None for any other."""
    return _human_conditions().get(name)


def human_curve(name: str) -> pd.DataFrame | None:
    """``set_size, rt_ms`` of people in one of the classic conditions, from their times or from their line."""
    human = human_condition(name)
    if human is None:
        return None
    sizes = np.array(human.set_sizes, dtype=float)
    rt = np.array(human.rt_ms) if human.rt_ms else (human.intercept_ms or 0.0) + human.slope_ms_per_item * sizes
    return pd.DataFrame({"set_size": human.set_sizes, "rt_ms": rt})


@lru_cache(maxsize=1)
def published_fixations() -> pd.DataFrame:
    """Published searches: ``model, task, role, condition, set_size, n_trials, total_fixations, n_missed``.

    Mean fixations are ``total_fixations / n_trials``, misses counted as set size. From
    ``evaluation/tables/search_asymmetry_published.csv``, which states its source.
    """
    return pd.read_csv(table_path("search_asymmetry_published.csv"), comment="#")


def published_slopes() -> pd.DataFrame:
    """``model, task, role, condition, slope, intercept, human_slope`` of the published searches."""
    rows = []
    for keys, part in published_fixations().groupby(["model", "task", "role", "condition"], sort=False):
        size = torch.tensor(part["set_size"].to_numpy(dtype=float))
        n = torch.tensor((part["total_fixations"] / part["n_trials"]).to_numpy())
        rt = reaction_time_ms(n, 0)
        slope = set_size_slope(rt, size).item()
        human = human_condition(str(keys[3]))
        assert human is not None
        rows.append(
            {
                "model": keys[0], "task": keys[1], "role": keys[2], "condition": keys[3], "slope": slope,
                "intercept": rt.mean().item() - slope * size.mean().item(), "human_slope": human.slope_ms_per_item,
            }
        )  # fmt: skip
    return pd.DataFrame(rows)


def published_indices() -> pd.DataFrame:
    """Asymmetry index per published model (rows, people's first) and task (columns)."""
    slopes = published_slopes()
    table = slopes.pivot_table(index=["model", "task"], columns="role", values="slope", sort=False)
    hard, easy = (torch.tensor(table[role].to_numpy()) for role in ("hard", "easy"))
    index = pd.Series(asymmetry_index(hard, easy).numpy(), index=table.index).unstack("task", sort=False)
    people = pd.DataFrame([{human.task: human.index for human in HUMAN_ASYMMETRY}], index=["human"])
    return pd.concat([people, index[people.columns]])
