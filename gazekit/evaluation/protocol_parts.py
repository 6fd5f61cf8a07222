"""The optional parts of a protocol: how scanpaths, searches and looks at objects are scored."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from gazekit.errors import InputError
from gazekit.evaluation.columns import OBJECT_COLUMNS, PAIR_SCORES, SEARCH_COLUMNS
from gazekit.metrics import PATH_METRICS, PathMetricInfo
from gazekit.registry import unknown_name

_REDUCTIONS = ("mean", "best", "best_of_all")


@dataclass(frozen=True)
class PathScore:
    """One column of path scores; its name is that of a metric, with a tag after a dot where one is used twice.

    Args:
        name: Column, such as ``sbtde.best``.
        reduce: Over the people that a scanpath is compared with. ``mean``: all of them. ``best``: the closest,
            among all people but one, averaged over whom to leave out, so that a model chooses among as many as
            a person does. ``best_of_all``: the closest of all, as published; people have none, since they would
            choose among one fewer.
        first: Compare the first so many fixations; None: all.
        at_least: A scanpath with fewer fixations has no score; None: the metric's own minimum.
        positions: Those of ``fixations``, or the centers of the ``objects`` that are fixated.
        only: ``all`` pairs, or ``both_found``: those in which both scanpaths reach the target.
        options: Arguments of the metric.

    """

    name: str
    reduce: str
    first: int | None = None
    at_least: int | None = None
    positions: str = "fixations"
    only: str = "all"
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def metric(self) -> str:
        """Key in PATH_METRICS or PAIR_SCORES."""
        return self.name.partition(".")[0]

    def check(self, where: str) -> None:
        """Raise an InputError unless every value is one that the evaluation knows."""
        if not re.fullmatch(r"\w+(\.\w+)?", self.name):
            raise InputError(
                f"{where}: expected the name of a metric, or METRIC.TAG with a tag of letters, digits and _"
            )
        if self.metric not in PAIR_SCORES:
            _try_options(PATH_METRICS[self.metric], self.options, f"{where}.options")
        elif self.options:
            raise InputError(f"{where}.options is {dict(self.options)}, expected none for {self.metric}")
        _one_of(self.reduce, _REDUCTIONS, f"{where}.reduce")
        if self.reduce != "mean" and self.metric in PATH_METRICS and PATH_METRICS[self.metric].higher_is_better is None:
            raise InputError(f"{where}.reduce is {self.reduce!r}, but no value of {self.metric} is the best; give mean")
        _one_of(self.positions, ("fixations", "objects"), f"{where}.positions")
        _one_of(self.only, ("all", "both_found"), f"{where}.only")
        for key in ("first", "at_least"):
            _whole(getattr(self, key), f"{where}.{key}", 1, allow_none=True)


@dataclass(frozen=True)
class PathRules:
    """How scanpaths are scored against those that people made on the same stimulus.

    Args:
        length: Fixations of a model's scanpath, the initial one included where the protocol gives it; ``median``
            is that of the people scored, over all stimuli.
        cut_at_target: Scanpaths end with the first fixation on the target.
        scores: Columns.

    """

    length: int | str
    cut_at_target: bool
    scores: Mapping[str, PathScore]

    @property
    def by_length(self) -> list[dict[int, str]]:
        """Scores that differ in how many fixations they compare, from four such numbers on: number -> column."""
        found: dict[tuple[str, ...], dict[int, str]] = {}
        for name, score in self.scores.items():
            if score.first is not None:
                key = score.metric, score.reduce, score.positions, score.only
                found.setdefault(key, {})[score.first] = name
        return [columns for columns in found.values() if len(columns) >= 4]


@dataclass(frozen=True)
class SearchRules:
    """How a search for a target with a box is scored.

    Args:
        max_saccades: A search ends after so many; ``trial``: each after its own limit.
        hit: ``point`` strictly inside the box, or ``fovea``, a box of `fovea_size_wh_px` that overlaps it.
        fovea_size_wh_px: In px of the protocol's frame; None with ``point``.
        scores: Columns.

    """

    max_saccades: int | str
    hit: str
    fovea_size_wh_px: tuple[float, float] | None
    scores: tuple[str, ...]


@dataclass(frozen=True)
class ObjectRules:
    """What counts as an object, and which measures of a look at objects are wanted.

    Args:
        grid: (columns, rows) of equal cells on every stimulus; None: the boxes of the dataset.
        scores: Columns.

    """

    grid: tuple[int, int] | None
    scores: tuple[str, ...]


def read_paths(content: Any, where: str) -> PathRules:
    """The ``paths`` part of a protocol.

    Raises:
        InputError: A key or value that the evaluation does not know.

    """
    given = _keys(content, PathRules, where)
    if given["length"] != "median":
        _whole(given["length"], f"{where}.length", 1, or_word="median")
    _truth(given["cut_at_target"], f"{where}.cut_at_target")
    listed = given["scores"]
    if not isinstance(listed, Mapping) or not listed:
        raise InputError(f"{where}.scores is {listed!r}, expected columns, such as {{sed: {{reduce: mean}}}}")
    scores = {}
    for name, rules in listed.items():
        at = f"{where}.scores.{name}"
        keys = _keys(rules, PathScore, at, without=("name",))
        if not isinstance(keys.get("options", {}), Mapping):
            raise InputError(f"{at}.options is {keys['options']!r}, expected a mapping")
        scores[name] = PathScore(str(name), **keys)
        scores[name].check(at)
    return PathRules(given["length"], given["cut_at_target"], scores)


def read_search(content: Any, where: str) -> SearchRules:
    """The ``search`` part of a protocol; raises as :func:`read_paths`."""
    given = _keys(content, SearchRules, where)
    if given["max_saccades"] != "trial":
        _whole(given["max_saccades"], f"{where}.max_saccades", 1, or_word="trial")
    _one_of(given["hit"], ("point", "fovea"), f"{where}.hit")
    size = given["fovea_size_wh_px"]
    fits = size is None if given["hit"] == "point" else _is_pair(size, (int, float))
    if not fits:
        wanted = "null with hit: point" if given["hit"] == "point" else "[width, height] in px"
        raise InputError(f"{where}.fovea_size_wh_px is {size!r}, expected {wanted}")
    scores = _names(given["scores"], SEARCH_COLUMNS, f"{where}.scores")
    for name in ("tfp_auc", "auc_perf"):
        if name in scores and given["max_saccades"] == "trial":
            raise InputError(f"{where}: {name} needs one limit for all trials, found max_saccades: trial")
    return SearchRules(given["max_saccades"], given["hit"], None if size is None else tuple(size), scores)


def read_objects(content: Any, where: str) -> ObjectRules:
    """The ``objects`` part of a protocol; raises as :func:`read_paths`."""
    given = _keys(content, ObjectRules, where)
    if given["grid"] is not None and not _is_pair(given["grid"], (int,)):
        raise InputError(f"{where}.grid is {given['grid']!r}, expected [columns, rows], or null (the dataset's boxes)")
    grid = None if given["grid"] is None else tuple(given["grid"])
    return ObjectRules(grid, _names(given["scores"], OBJECT_COLUMNS, f"{where}.scores"))


def _keys(content: Any, kind: type, where: str, without: tuple[str, ...] = ()) -> dict[str, Any]:
    """`content` as arguments of the dataclass `kind`."""
    if not isinstance(content, Mapping):
        raise InputError(f"{where} is {content!r}, expected a mapping")
    fields = {f.name: f for f in dataclasses.fields(kind) if f.name not in without}
    for key in content:
        if key not in fields:
            raise unknown_name(f"protocol key (in {where})", str(key), list(fields))
    optional = (dataclasses.MISSING, dataclasses.MISSING)
    needed = [name for name, f in fields.items() if (f.default, f.default_factory) == optional]
    if missing := [name for name in needed if name not in content]:
        raise InputError(f"{where} lacks {missing}")
    return {str(key): value for key, value in content.items()}


def _names(given: Any, known: Mapping[str, Any], where: str) -> tuple[str, ...]:
    if not isinstance(given, list | tuple) or not given:
        raise InputError(f"{where} is {given!r}, expected a list of names")
    for i, name in enumerate(given):
        if name not in known:
            raise unknown_name(f"score (in {where})", str(name), list(known))
        if name in given[:i]:
            raise InputError(f"{where}: {name} is given twice")
    return tuple(given)


def _try_options(metric: PathMetricInfo, options: Mapping[str, Any], where: str) -> None:
    """Score one pair of paths with these options, so that a wrong one is found before the evaluation."""
    xy = torch.tensor([[[100.0, 100.0], [200.0, 100.0], [300.0, 200.0]]])
    valid, seconds = torch.ones(1, 3, dtype=torch.bool), torch.full((1, 3), 0.2)
    durations = {"a_duration_s": seconds, "b_duration_s": seconds}
    try:
        metric(xy, valid, xy, valid, size_wh_px=(400, 300), **durations, **path_options(options))
    except TypeError as error:
        raise InputError(f"{where} is {dict(options)}: {metric.name} does not take that ({error})") from error
    except InputError as error:
        raise InputError(f"{where} is {dict(options)}: {error}") from error


def path_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options as the functions take them: YAML has lists where they have tuples."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in options.items()}


def _one_of(value: Any, allowed: tuple[str, ...], where: str) -> None:
    if value not in allowed:
        raise InputError(f"{where} is {value!r}, expected one of {list(allowed)}")


def _whole(value: Any, where: str, least: int, allow_none: bool = False, or_word: str = "") -> None:
    if (allow_none and value is None) or (isinstance(value, int) and not isinstance(value, bool) and value >= least):
        return
    raise InputError(f"{where} is {value!r}, expected a whole number >= {least}{f' or {or_word!r}' if or_word else ''}")


def _truth(value: Any, where: str) -> None:
    if not isinstance(value, bool):
        raise InputError(f"{where} is {value!r}, expected true or false")


def _is_pair(value: Any, kinds: tuple[type, ...]) -> bool:
    """Whether `value` is a list of two numbers > 0 of these types."""
    if not isinstance(value, list | tuple) or len(value) != 2:
        return False
    numbers: Sequence[Any] = [n for n in value if isinstance(n, kinds) and not isinstance(n, bool)]
    return len(numbers) == 2 and min(numbers) > 0
