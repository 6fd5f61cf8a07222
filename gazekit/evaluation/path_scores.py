"""Scores of scanpaths: everybody's against those that people made on the same stimulus.

One row per trial, for models and for people alike. A trial's score says how well the scanpaths of a model, or of the
other people, match what this subject did. People are compared with everyone but themselves; a model with everyone,
except where the closest one is chosen (see ``best`` in :class:`PathScore`), which must be among as many for both.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from gazekit.datasets.objects import grid_of_objects
from gazekit.errors import InputError
from gazekit.evaluation.columns import PAIR_SCORES
from gazekit.evaluation.protocol import Protocol
from gazekit.evaluation.protocol_parts import PathScore, SearchRules, path_options
from gazekit.metrics import (
    PATH_METRICS,
    edit_distance_symbols,
    fit_alphabet,
    fixations_to_target,
    object_behavior,
    object_symbols,
    scanpath_ratio,
    sequence_score,
    sequence_score_symbols,
)
from gazekit.tables import OBJECT_COLUMNS, TARGET_BOX

Matrix = NDArray[np.float64]
_ENDLESS = np.iinfo(np.int64).max


@dataclass(frozen=True)
class PathSet:
    """N scanpaths in px of one frame.

    Args:
        px: (N, T, 2) float64.
        valid: (N, T) bool, fixations first, then padding.
        duration_s: (N, T), or None where a model makes none.
        limit: (N,) fixations that the people who made them were allowed, the initial one included; None: as many
            as anybody. A search that had to end early says nothing about a trial that allowed more.
        start_px: (N, 2) where each began, which is not among `px`; None: where the trial did that it is compared with.

    """

    px: Tensor
    valid: Tensor
    duration_s: Tensor | None
    limit: Tensor | None = None
    start_px: Tensor | None = None

    def __len__(self) -> int:
        return len(self.px)

    def pick(self, rows: Tensor) -> PathSet:
        duration_s, limit, start_px = (
            None if value is None else value[rows] for value in (self.duration_s, self.limit, self.start_px)
        )
        return PathSet(self.px[rows], self.valid[rows], duration_s, limit, start_px)

    def first(self, n: Tensor | int) -> PathSet:
        """Cut to the first n fixations, n for all or (N,)."""
        limit = n[:, None] if isinstance(n, Tensor) else n
        kept = self.valid & (torch.arange(self.valid.shape[1], device=self.valid.device) < limit)
        return replace(self, valid=kept)

    def after_first(self) -> PathSet:
        """Without the initial fixation."""
        duration_s = None if self.duration_s is None else self.duration_s[:, 1:]
        return PathSet(self.px[:, 1:], self.valid[:, 1:], duration_s, self.limit)

    def starting_at(self, start_px: Tensor) -> PathSet:
        """(N, 2) positions, or its own, put in front; how long the eye stays there is not known: no durations."""
        start_px = start_px if self.start_px is None else self.start_px
        valid = torch.cat([torch.ones_like(self.valid[:, :1]), self.valid], 1)
        return PathSet(torch.cat([start_px[:, None].to(self.px), self.px], 1), valid, None, self.limit)

    def ended_before(self, limit: Tensor) -> Tensor:
        """(N,) whether a path had to end before `limit` (N,) fixations."""
        return torch.zeros(len(self), dtype=torch.bool) if self.limit is None else self.limit < limit


class RecordedPaths:
    """Scanpaths of a fixation table by stimulus, served in any frame.

    Args:
        table: Fixations with ``trial``, ``stimulus``, ``x_px``, ``y_px``, ``duration_s``, in viewing order.
        stimuli: The stimulus table, for the sizes.
        limit_of_trial: Trial -> fixations that it allowed; None: no limit.

    """

    def __init__(
        self, table: pd.DataFrame, stimuli: pd.DataFrame, limit_of_trial: Mapping[int, int] | None = None
    ) -> None:
        self._limit_of_trial = limit_of_trial
        sizes = stimuli.set_index("stimulus").loc[table["stimulus"], ["width_px", "height_px"]].to_numpy(float)
        self._relative = table[["x_px", "y_px"]].to_numpy(float) / sizes.reshape(-1, 2)
        self._duration_s = table["duration_s"].to_numpy(float)
        self._trial = table["trial"].to_numpy()
        self._rows = {str(name): rows for name, rows in table.groupby("stimulus", sort=False).indices.items()}

    def trials(self, stimulus: str) -> NDArray[np.int64]:
        """Numbers of the trials with a fixation on the stimulus, in the order of the table."""
        return np.asarray(pd.unique(self._trial[self._rows.get(stimulus, np.empty(0, np.int64))]))

    def on(self, stimulus: str, frame_wh_px: tuple[int, int], trials: NDArray[np.int64] | None = None) -> PathSet:
        """The scanpaths of these trials, empty ones included; of all on the stimulus, if None."""
        trials = self.trials(stimulus) if trials is None else trials
        rows = self._rows.get(stimulus, np.empty(0, np.int64))
        of = {trial: i for i, trial in enumerate(trials.tolist())}
        path = np.array([of.get(trial, -1) for trial in self._trial[rows].tolist()], dtype=np.int64)
        rows, path = rows[path >= 0], path[path >= 0]
        step = pd.Series(path).groupby(path).cumcount().to_numpy(np.int64)
        shape = len(trials), int(step.max(initial=0)) + 1
        px, duration_s, valid = np.zeros((*shape, 2)), np.zeros(shape), np.zeros(shape, dtype=bool)
        px[path, step] = self._relative[rows] * np.asarray(frame_wh_px, dtype=float)
        duration_s[path, step] = self._duration_s[rows]
        valid[path, step] = True
        known = np.isfinite(duration_s).all()
        seconds = torch.from_numpy(duration_s) if known else None
        limit = None
        if self._limit_of_trial is not None:
            # A trial without a known limit ended by itself.
            allowed = [self._limit_of_trial.get(trial, _ENDLESS) for trial in trials.tolist()]
            limit = torch.tensor(allowed, dtype=torch.int64)
        return PathSet(torch.from_numpy(px), torch.from_numpy(valid), seconds, limit)


def trial_limits(protocol: Protocol, trials: pd.DataFrame) -> dict[int, int] | None:
    """Trial -> fixations that it allowed, the initial one included; None where all are allowed the same."""
    if protocol.search is None or protocol.search.max_saccades != "trial" or "max_saccades" not in trials:
        return None
    known = trials[["trial", "max_saccades"]].dropna()
    return dict(zip(known["trial"].astype(int), known["max_saccades"].astype(int) + 1, strict=True))


@dataclass(frozen=True)
class Question:
    """What a model is asked for on a stimulus: scanpaths for one target, from one start.

    Args:
        target: Empty in tasks without one.
        start_px: (x, y) where the design put the eye, in px of the stimulus; None: it puts it nowhere, or always where
            the first trial says.
        length: Fixations, the initial one included.

    """

    target: str
    start_px: tuple[float, float] | None
    length: int


@dataclass(frozen=True)
class _Group:
    """The trials in which a stimulus was seen with one target (or none), and what people did in them.

    `humans` are the scanpaths that are scored; `start_px` (B, 2) where each began, None where models choose;
    `starts` (B,) whether that is known; `question` (B,) the number among the stimulus' questions;
    `frame_wh_px` their frame. `box_px` (B, 4), NaN without a target, and `limit` (B,), the fixations that a search
    allows, the initial one included.
    """

    stimulus: str
    trials: NDArray[np.int64]
    frame_wh_px: tuple[int, int]
    humans: PathSet
    start_px: Tensor | None
    starts: NDArray[np.bool_]
    question: NDArray[np.int64]
    box_px: Tensor | None
    limit: Tensor | None
    target_object: Tensor | None
    boxes_px: Tensor | None
    alphabet: Tensor | None

    @property
    def everyone(self) -> Tensor:
        return torch.arange(len(self.humans))


class PathScorer:
    """Scores scanpaths on the stimuli of a protocol.

    Args:
        protocol: With at least one of ``paths``, ``search`` and ``objects``.
        table: Fixations with the columns ``in_path`` and ``scored``; see ``apply_fixation_rules``.
        trials: The trials that are scored.
        stimuli: The stimulus table.
        objects: Boxes of the objects on the stimuli, or None.

    Raises:
        InputError: The dataset lacks what the protocol needs: targets, limits, start positions or objects.

    """

    def __init__(
        self, protocol: Protocol, table: pd.DataFrame, trials: pd.DataFrame, stimuli: pd.DataFrame,
        objects: pd.DataFrame | None,
    ) -> None:  # fmt: skip
        self.protocol, self.trials = protocol, trials
        in_path = table[table["in_path"] & table["trial"].isin(trials["trial"])]
        self.recorded = RecordedPaths(in_path, stimuli, trial_limits(protocol, trials))
        self._sizes = stimuli.set_index("stimulus")[["width_px", "height_px"]]
        self._rows = {str(name): part for name, part in trials.groupby("stimulus", sort=False)}
        self._objects = self._object_boxes(objects, stimuli)
        self._groups: dict[tuple[str, tuple[int, int]], list[_Group]] = {}
        self._questions: dict[str, tuple[list[Question], NDArray[np.int64]]] = {}
        lengths = in_path.groupby("trial").size().reindex(trials["trial"], fill_value=0)
        paths = protocol.paths
        median = int(lengths.median()) if len(lengths) else 0
        every = table[table["in_path"]].groupby("trial").size()
        # For models that end by themselves, where no search has a limit: nobody, of any split, looked longer.
        self.longest = max(1, int(every.max())) if len(every) and protocol.search is None else 1
        self.length = max(1, median if paths is None or paths.length == "median" else int(paths.length))
        self._check_needs(trials)

    def _check_needs(self, trials: pd.DataFrame) -> None:
        wanted = []
        if self.protocol.search is not None:
            wanted += list(TARGET_BOX)
            wanted += ["max_saccades"] if self.protocol.search.max_saccades == "trial" else []
        if self.protocol.first_fixation == "design":
            wanted += ["start_x_px", "start_y_px"]
        for column in wanted:
            if column not in trials or trials[column].isna().all():
                raise InputError(
                    f"protocol {self.protocol.name!r} needs the trial column {column!r}, which this dataset does not "
                    f"have; choose another dataset or another protocol"
                )
        if self.protocol.search is not None and self.protocol.search.max_saccades == "trial":
            unknown = trials["max_saccades"].isna()
            if unknown.any():
                raise InputError(f"{int(unknown.sum())} of {len(trials)} trials have no max_saccades")

    def _limits(self, trials: pd.DataFrame) -> NDArray[np.int64]:
        """(B,) fixations that a search allows, the initial one included."""
        assert self.protocol.search is not None
        limit = self.protocol.search.max_saccades
        if limit == "trial":
            return np.asarray(trials["max_saccades"].to_numpy(np.int64) + 1)
        return np.full(len(trials), int(limit) + 1)

    def _object_boxes(self, objects: pd.DataFrame | None, stimuli: pd.DataFrame) -> dict[str, Matrix] | None:
        if self.protocol.objects is None:
            return None
        if self.protocol.objects.grid is not None:
            objects = grid_of_objects(stimuli, *self.protocol.objects.grid)
        if objects is None:
            raise InputError(
                f"protocol {self.protocol.name!r} needs objects, and this dataset has no boxes; give the protocol "
                f"objects.grid: [columns, rows]"
            )
        boxes = {str(k): part[list(OBJECT_COLUMNS[2:])].to_numpy(float) for k, part in objects.groupby("stimulus")}
        if missing := [name for name in self._rows if name not in boxes]:
            raise InputError(f"no objects on stimulus {missing[0]!r} and {len(missing) - 1} others")
        return boxes

    def targets(self, stimulus: str) -> list[str]:
        """What was searched for on the stimulus; one empty name in other tasks."""
        if not self.protocol.by_target:
            return [""]
        return [str(name) for name in pd.unique(self._rows[stimulus]["target"])]

    def questions(self, stimulus: str) -> list[Question]:
        """What models are asked on the stimulus. From which start matters where the design says it."""
        return self._asked(stimulus)[0]

    def _asked(self, stimulus: str) -> tuple[list[Question], NDArray[np.int64]]:
        """The questions, and which of them each trial on the stimulus asks."""
        if stimulus not in self._questions:
            rows = self._rows[stimulus].reset_index(drop=True)
            keys = ["target"] if self.protocol.by_target else []
            keys += ["start_x_px", "start_y_px"] if self.protocol.first_fixation == "design" else []
            number = rows.groupby(keys, sort=False, dropna=False).ngroup() if keys else pd.Series(0, index=rows.index)
            found = []
            for _, part in rows.groupby(number):
                first = part.iloc[0]
                start = (float(first["start_x_px"]), float(first["start_y_px"])) if len(keys) > 1 else None
                # A trial without a start by design is not scored; any start will do.
                start = start if start is not None and np.isfinite(start).all() else None
                limit = 0 if self.protocol.search is None else int(self._limits(part).max())
                found.append(
                    Question(str(first["target"]) if self.protocol.by_target else "", start, max(self.length, limit))
                )
            self._questions[stimulus] = found, number.to_numpy(np.int64)
        return self._questions[stimulus]

    def groups(self, stimulus: str, frame_wh_px: tuple[int, int]) -> list[_Group]:
        """The trials on the stimulus, by target."""
        key = stimulus, frame_wh_px
        if key not in self._groups:
            rows = self._rows[stimulus]
            names = self.targets(stimulus)
            everyone = np.ones(len(rows), dtype=bool)
            wanted = [(rows["target"] == name).to_numpy() if self.protocol.by_target else everyone for name in names]
            number = self._asked(stimulus)[1]
            # One stimulus at a time is scored by everybody in turn; the clusters of its fixations are kept.
            self._groups[key] = [self._group(stimulus, rows[part], frame_wh_px, number[part]) for part in wanted]
        return self._groups[key]

    def _group(
        self, stimulus: str, rows: pd.DataFrame, frame_wh_px: tuple[int, int], question: NDArray[np.int64]
    ) -> _Group:
        width, height = (float(n) for n in self._sizes.loc[stimulus])
        scale = np.array([frame_wh_px[0] / width, frame_wh_px[1] / height])
        trials = rows["trial"].to_numpy(np.int64)
        humans = self.recorded.on(stimulus, frame_wh_px, trials)
        start = None
        if self.protocol.first_fixation == "design":
            start = torch.from_numpy(rows[["start_x_px", "start_y_px"]].to_numpy(float) * scale)
        elif self.protocol.start_is_given:
            start = humans.px[:, 0].masked_fill(~humans.valid[:, :1], torch.nan)
        # A trial without a fixation, or without a start by design, starts nowhere: models have no score in it.
        starts = torch.ones(len(trials), dtype=torch.bool) if start is None else start.isfinite().all(1)
        start = None if start is None else start.nan_to_num(0.0)
        box = limit = target_object = boxes = None
        if self.protocol.search is not None:
            box = torch.from_numpy(rows[list(TARGET_BOX)].to_numpy(float) * np.tile(scale, 2))
            limit = torch.from_numpy(self._limits(rows))
        if self._objects is not None:
            boxes = torch.from_numpy(self._objects[stimulus] * np.tile(scale, 2))
            target_object = torch.full((len(rows),), -1)
            if all(column in rows for column in TARGET_BOX):
                corners = torch.from_numpy(rows[list(TARGET_BOX)].to_numpy(float) * np.tile(scale, 2))
                known = corners.isfinite().all(1)
                centers = ((corners[:, :2] + corners[:, 2:]) / 2).nan_to_num(0.0)[:, None]
                target_object = object_symbols(centers, known[:, None], boxes_px=boxes)[:, 0]
                target_object = target_object.masked_fill(~known, -1)
        group = _Group(
            stimulus, trials, frame_wh_px, humans, start, starts.numpy(), question, box, limit, target_object, boxes,
            None,
        )  # fmt: skip
        wants_clusters = self.protocol.paths is not None and any(
            score.metric == "ss" for score in self.protocol.paths.scores.values()
        )
        return replace(group, alphabet=self._alphabet(group)) if wants_clusters else group

    def _alphabet(self, group: _Group) -> Tensor | None:
        """Centers of the clusters of everyone's fixations, for model and people alike; None if there are too few."""
        try:
            return fit_alphabet(group.humans.px, group.humans.valid).centers_px
        except InputError:
            if int(group.humans.valid.sum()) == 0 or len(group.humans.px[group.humans.valid].unique(dim=0)) < 10:
                return None
            raise

    # Scores

    def score(self, group: _Group, paths: PathSet | None) -> dict[str, NDArray[np.float64]]:
        """(B,) scores per column, one per trial of the group.

        Args:
            group: From :meth:`groups`.
            paths: What a model made, the initial fixation left out where it is given; None scores the people.

        Returns:
            The protocol's columns of paths, search and objects; ``pairs_scored``, the share of pairs of scanpaths
            that have a score in the column with the fewest, NaN without a pair; and ``found_by_N``, the share of a
            model's scanpaths that reach the target within N fixations, where the search has one limit.

        """
        values: dict[str, NDArray[np.float64]] = {}
        if self.protocol.search is not None:
            values |= self._search(self.protocol.search, group, paths)
        if self.protocol.objects is not None:
            values |= self._looks(group, paths)
        if self.protocol.paths is not None:
            values |= self._similar(group, paths)
        if paths is not None:
            values = {name: np.where(group.starts, value, np.nan) for name, value in values.items()}
        return values

    def _each(self, group: _Group, paths: PathSet | None) -> tuple[PathSet, int]:
        """Scanpaths trial by trial, (B * n) rows with those of a trial side by side, and n per trial."""
        if paths is None:
            return group.humans, 1
        rows = torch.arange(len(paths)).repeat(len(group.humans))
        each = paths.pick(rows)
        if group.start_px is not None:
            each = each.starting_at(group.start_px.repeat_interleave(len(paths), 0))
        return each, len(paths)

    def _until_target(self, group: _Group, each: PathSet, n: int) -> tuple[PathSet, Tensor]:
        """Scanpaths cut at the trial's limit, and fixations to the target (NaN without one, inf if not reached)."""
        assert self.protocol.search is not None
        assert group.box_px is not None
        assert group.limit is not None
        cut = each.first(group.limit.repeat_interleave(n))
        rules = self.protocol.search
        steps = fixations_to_target(
            cut.px, cut.valid, group.box_px.repeat_interleave(n, 0), hit=rules.hit,  # type: ignore[arg-type]
            fovea_size_wh_px=rules.fovea_size_wh_px,
        )  # fmt: skip
        return cut, steps

    def _search(self, rules: SearchRules, group: _Group, paths: PathSet | None) -> dict[str, NDArray[np.float64]]:
        each, n = self._each(group, paths)
        cut, steps = self._until_target(group, each, n)
        assert group.limit is not None
        assert group.box_px is not None
        if len(steps) == 0:
            return {name: np.full(len(group.humans), np.nan) for name in rules.scores}
        steps = steps.double()
        # A subject without a fixation has searched nothing; a model without one has found nothing.
        unknown = ~cut.valid.any(1) if paths is None else cut.ended_before(group.limit.repeat_interleave(n))
        steps = steps.masked_fill(unknown, torch.nan)
        limit, absent = group.limit.repeat_interleave(n).double(), steps.isnan()
        found = steps.isfinite()
        columns: dict[str, Tensor] = {}
        for name in rules.scores:
            if name == "search_accuracy":
                columns[name] = found.double().masked_fill(absent, torch.nan)
            elif name == "starts_on_target":
                columns[name] = (steps == 1).double().masked_fill(absent, torch.nan)
            elif name == "search_fixations":
                columns[name] = steps.masked_fill(~found, torch.nan)
            elif name == "search_fixations_all":
                columns[name] = steps.minimum(limit)
            elif name == "search_length":
                columns[name] = cut.valid.sum(1).double().minimum(steps.nan_to_num(torch.inf))
            elif name == "tfp_auc":
                # The sum of the cumulative curve over 1 ... K + 1 fixations, trial by trial.
                columns[name] = (limit + 1.0 - steps).clamp(min=0.0)
            elif name == "auc_perf":
                # Its trapezoid, with the axis scaled to [0, 1]: half weight at both ends.
                half = 0.5 * (steps == 1).double() + 0.5 * found.double()
                columns[name] = ((limit + 1.0 - steps).clamp(min=0.0) - half) / (limit - 1.0)
            elif name == "scanpath_ratio":
                columns[name] = scanpath_ratio(
                    cut.px, cut.valid, group.box_px.repeat_interleave(n, 0), hit=rules.hit,  # type: ignore[arg-type]
                    fovea_size_wh_px=rules.fovea_size_wh_px,
                ).double()  # fmt: skip
        if "probability_mismatch" in self.protocol.overall:
            for k in range(1, int(group.limit[0]) + 1):
                columns[f"found_by_{k}"] = (steps <= k).double().masked_fill(absent, torch.nan)
        if "search_correlation" in self.protocol.overall:
            columns["search_fixations_all"] = steps.minimum(limit)
        return {name: _mean_of_each(value.masked_fill(unknown, torch.nan), n) for name, value in columns.items()}

    def _looks(self, group: _Group, paths: PathSet | None) -> dict[str, NDArray[np.float64]]:
        assert self.protocol.objects is not None
        assert group.boxes_px is not None
        assert group.target_object is not None
        each, n = self._each(group, paths)
        if len(each) == 0:
            return {name: np.full(len(group.humans), np.nan) for name in self.protocol.objects.scores}
        numbers = object_symbols(each.px, each.valid, boxes_px=group.boxes_px)
        behavior = object_behavior(numbers, each.valid, group.target_object.repeat_interleave(n))
        return {
            name: _mean_of_each(getattr(behavior, name.removeprefix("object_")), n)
            for name in self.protocol.objects.scores
        }

    def _similar(self, group: _Group, paths: PathSet | None) -> dict[str, NDArray[np.float64]]:
        assert self.protocol.paths is not None
        n_humans = len(group.humans)
        n_paths = n_humans if paths is None else len(paths)
        # Pair (i, j): scanpath i of the model (or person i) against person j; flat index i * n_humans + j.
        i = torch.arange(n_paths).repeat_interleave(n_humans)
        j = torch.arange(n_humans).repeat(n_paths)
        b = group.humans.pick(j)
        a = (group.humans if paths is None else paths).pick(i)
        if paths is not None and group.start_px is not None:
            a = a.starting_at(group.start_px[j])
        if a.duration_s is None or b.duration_s is None:
            a, b = replace(a, duration_s=None), replace(b, duration_s=None)
        both_found = torch.ones(len(i), dtype=torch.bool)
        if self.protocol.search is not None:
            a, b, both_found = self._as_searches(group, a, b, j)
        compared = np.ones((n_paths, n_humans), dtype=bool)
        if group.limit is not None:
            compared = ~a.ended_before(group.limit[j]).view(n_paths, n_humans).numpy()
        if paths is None:
            np.fill_diagonal(compared, False)
        known: dict[Any, Tensor] = {}
        values, shares = {}, [np.ones(n_humans)]
        for name, score in self.protocol.paths.scores.items():
            pairs = self._pair_scores(score, group, a, b, known).double()
            if score.only == "both_found":
                pairs = pairs.masked_fill(~both_found, torch.nan)
            matrix = np.where(compared, pairs.view(n_paths, n_humans).numpy(), np.nan)
            values[name] = reduce_pairs(matrix, score.reduce, paths is None, _higher(score))
            if score.only == "all" and not (a.duration_s is None and _wants_durations(score)):
                n_compared = compared.sum(0).astype(float)
                shares.append((~np.isnan(matrix)).sum(0) / np.where(n_compared > 0, n_compared, np.nan))
        values["pairs_scored"] = np.min(shares, axis=0)
        return values

    def _as_searches(self, group: _Group, a: PathSet, b: PathSet, j: Tensor) -> tuple[PathSet, PathSet, Tensor]:
        """Pairs of scanpaths, cut at the limit, and at the target if the protocol says so; which both reach it."""
        assert self.protocol.paths is not None
        assert group.box_px is not None
        assert group.limit is not None
        rules = self.protocol.search
        assert rules is not None
        cut, found = [], []
        for path in (a, b):
            part = path.first(group.limit[j])
            steps = fixations_to_target(
                part.px, part.valid, group.box_px[j], hit=rules.hit,  # type: ignore[arg-type]
                fovea_size_wh_px=rules.fovea_size_wh_px,
            )  # fmt: skip
            found.append(steps.isfinite())
            # Nobody may look longer than the trial allows, whether or not the target was reached.
            cut.append(part.first(steps.nan_to_num(torch.inf)) if self.protocol.paths.cut_at_target else part)
        return cut[0], cut[1], found[0] & found[1]

    def _pair_scores(self, score: PathScore, group: _Group, a: PathSet, b: PathSet, known: dict[Any, Tensor]) -> Tensor:
        """(P,) scores of pairs; NaN where one of them is too short."""
        if score.first is not None:
            a, b = a.first(score.first), b.first(score.first)
        too_short = torch.zeros(len(a), dtype=torch.bool)
        if score.at_least is not None:
            too_short = (a.valid.sum(1) < score.at_least) | (b.valid.sum(1) < score.at_least)
        symbols = None
        if score.positions == "objects" or score.metric.startswith("object_"):
            assert group.boxes_px is not None
            boxes = group.boxes_px
            symbols = [object_symbols(path.px, path.valid, boxes_px=boxes) for path in (a, b)]
            if score.positions == "objects":
                centers = (boxes[:, :2] + boxes[:, 2:]) / 2
                a, b = (replace(path, px=centers[s]) for path, s in zip((a, b), symbols, strict=True))
        if score.metric == "ss":
            pairs = torch.full((len(a),), torch.nan)
            if group.alphabet is not None:
                pairs = sequence_score(a.px, a.valid, b.px, b.valid, centers_px=group.alphabet)
        elif score.metric == "path_length_error":
            pairs = (a.valid.sum(1) - b.valid.sum(1)).abs().double()
        elif symbols is not None and score.metric.startswith("object_"):
            function = sequence_score_symbols if score.metric == "object_ss" else edit_distance_symbols
            pairs = function(symbols[0], a.valid, symbols[1], b.valid)
        else:
            pairs = self._path_metric(score, group.frame_wh_px, a, b, known)
        return pairs.masked_fill(too_short, torch.nan)

    def _path_metric(
        self, score: PathScore, frame_wh_px: tuple[int, int], a: PathSet, b: PathSet, known: dict[Any, Tensor]
    ) -> Tensor:
        info, options = PATH_METRICS[score.metric], path_options(score.options)
        durations: Mapping[str, Any] = {}
        if a.duration_s is not None:
            durations = {"a_duration_s": a.duration_s, "b_duration_s": b.duration_s}
        elif info.uses_durations_with(options):
            return torch.full((len(a),), torch.nan)  # a model that makes no durations has no such score
        if info.several is None:
            return info(a.px, a.valid, b.px, b.valid, size_wh_px=frame_wh_px, **durations, **options)
        key = info.several, repr(sorted(options.items())), score.first, score.positions
        if key not in known:
            size = {"size_wh_px": frame_wh_px} if info.needs_size else {}
            timed = durations if info.needs_size else {}
            known[key] = info.several(a.px, a.valid, b.px, b.valid, **size, **timed, **options)
        return known[key][:, info.place]


def reduce_pairs(matrix: Matrix, how: str, people: bool, higher_is_better: bool) -> Matrix:
    """(N, B) scores of scanpaths against B people -> (B,), one per person.

    Args:
        matrix: NaN where a pair has no score; people against themselves have none.
        how: ``mean``, ``best`` or ``best_of_all``; see :class:`PathScore`.
        people: The N scanpaths are those of the B people.
        higher_is_better: Which one is the best.

    Returns:
        With ``mean``, what the other scanpaths score against person j. With ``best``, how close a scanpath comes to
        the closest person when person j is left out: the mean over the model's scanpaths, or that of person j alone.

    """
    if how == "mean":
        return _nanmean(matrix, 0)
    sign = 1.0 if higher_is_better else -1.0
    # Nothing at all is the worst: an undefined pair is never the closest.
    ranked = np.where(np.isnan(matrix), -np.inf, sign * matrix)
    if people:
        best = ranked.max(1, initial=-np.inf) if how == "best" else np.full(len(matrix), -np.inf)
        return np.where(np.isneginf(best), np.nan, sign * best)
    if how == "best_of_all":
        best = ranked.max(1, initial=-np.inf)
        each = _nanmean(np.where(np.isneginf(best), np.nan, sign * best)[:, None], 0)
        return np.full(matrix.shape[1], each[0]) if len(each) else np.full(matrix.shape[1], np.nan)
    if matrix.shape[1] < 2 or not len(matrix):
        return np.full(matrix.shape[1], np.nan)
    # Without person j the best is the best of all, unless j is the best: then the second best.
    order = np.argsort(-ranked, axis=1, kind="stable")
    rows = np.arange(len(ranked))
    best, second = ranked[rows, order[:, 0]], ranked[rows, order[:, 1]]
    left = np.where(np.arange(matrix.shape[1]) == order[:, :1], second[:, None], best[:, None])
    # A person without a scanpath that can be compared is not among those left out.
    counted = ~np.isnan(matrix).all(0)
    score = _nanmean(np.where(np.isneginf(left), np.nan, sign * left), 0)
    return np.where(counted, score, np.nan)


def _wants_durations(score: PathScore) -> bool:
    info = PATH_METRICS.get(score.metric)
    return info is not None and info.uses_durations_with(path_options(score.options))


def _higher(score: PathScore) -> bool:
    if score.metric in PATH_METRICS:
        return bool(PATH_METRICS[score.metric].higher_is_better)
    return bool(PAIR_SCORES[score.metric].higher_is_better)


def _mean_of_each(value: Tensor, n: int) -> NDArray[np.float64]:
    """(B * n,) -> (B,) means, undefined values left out."""
    return _nanmean(value.double().view(-1, n).numpy(), 1)


def _nanmean(values: Matrix, axis: int) -> Matrix:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # nothing to average is NaN, which is what is wanted
        mean: Matrix = np.nanmean(values, axis=axis) if values.size else np.full(values.shape[1 - axis], np.nan)
    return mean
