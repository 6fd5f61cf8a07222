"""Evaluation protocols: every choice that moves a number, in one YAML file."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from gazekit.errors import InputError
from gazekit.evaluation.columns import OVERALL
from gazekit.evaluation.protocol_parts import (
    ObjectRules,
    PathRules,
    PathScore,
    SearchRules,
    read_objects,
    read_paths,
    read_search,
)
from gazekit.metrics import METRICS
from gazekit.models import MODELS
from gazekit.registry import unknown_name
from gazekit.resources import read_yaml, resource_path
from gazekit.tables import TRIAL_COLUMNS, TRIAL_EXTRAS

_CHOICES = {
    "first_fixation": ("drop", "keep", "recorded", "design", "center"),
    "out_of_image": ("raise", "drop", "clip"),
    "empirical": ("subject", "pooled"),
    "shuffled_from": ("all_other_images",),
    "scored_map": ("density", "best_for_metric"),
    "reduction": ("macro", "micro"),
    "pictures": ("grid", "stimulus"),
}
_INTERVALS = {"resample": str, "draws": int, "level": float, "seed": int}
_RESAMPLED = ("stimulus", "stimulus_and_subject")
_SAMPLES = {"per_stimulus": int, "seed": int}
# Choices about maps: given where there are map metrics, and only there.
_OF_MAPS = ("baseline", "empirical", "empirical_sigma_dva", "shuffled_from")
# What the evaluation hands to map metrics.
_GIVEN = {
    "saliency", "predicted", "empirical", "log_density", "baseline_log_density", "xy_px", "valid", "other_xy_px",
    "other_valid",
}  # fmt: skip
_OPTIONAL = (
    "metrics", "metric_options", "scored_map", "source", "trials", "paths", "search", "objects", "overall",
    "reduction", "by", "pooled", "chance", "pictures",
)  # fmt: skip


@dataclass(frozen=True)
class Protocol:
    """One evaluation protocol; the meaning of each field stands beside it in the YAML files.

    Raises:
        InputError: A field has a value that the evaluation does not know.

    """

    name: str
    version: int
    title: str
    dataset: str
    split: str
    first_fixation: str
    out_of_image: str
    grid: str | tuple[int, int]
    controls: tuple[str, ...]
    ceiling: str | None
    intervals: dict[str, Any]
    samples: dict[str, int]
    source: str = ""
    trials: dict[str, Any] = field(default_factory=dict)
    metrics: tuple[str, ...] = ()
    baseline: str | None = None
    empirical: str | None = None
    empirical_sigma_dva: float | None = None
    shuffled_from: str | None = None
    metric_options: dict[str, Any] = field(default_factory=dict)
    scored_map: str = "density"
    paths: PathRules | None = None
    search: SearchRules | None = None
    objects: ObjectRules | None = None
    overall: tuple[str, ...] = ()
    reduction: Literal["macro", "micro"] = "macro"
    by: str | None = None
    pooled: tuple[str, ...] = ()
    chance: str | None = None
    pictures: str = "grid"

    def __post_init__(self) -> None:
        self._check_choices()
        self._check_maps()
        for key, wanted in (("intervals", _INTERVALS), ("samples", _SAMPLES)):
            found = getattr(self, key)
            if not isinstance(found, dict) or set(found) != set(wanted):
                raise InputError(f"{self._at(key)} needs exactly the keys {sorted(wanted)}, found {found}")
            for name, kind in wanted.items():
                if not isinstance(found[name], kind):
                    raise InputError(f"{self._at(key)}.{name} is {found[name]!r}, expected {kind.__name__}")
        if self.intervals["resample"] not in _RESAMPLED:
            found = self.intervals["resample"]
            raise InputError(f"{self._at('intervals')}.resample is {found!r}, expected one of {list(_RESAMPLED)}")
        if not 0 < self.intervals["level"] < 1 or self.intervals["draws"] < 1:
            raise InputError(f"{self._at('intervals')} needs draws >= 1 and 0 < level < 1, found {self.intervals}")
        if self.samples["per_stimulus"] < 1:
            raise InputError(f"{self._at('samples')}.per_stimulus is {self.samples['per_stimulus']}, expected >= 1")
        sized = (
            isinstance(self.grid, tuple)
            and len(self.grid) == 2
            and all(isinstance(n, int) and n > 0 for n in self.grid)
        )
        if self.grid != "stimulus" and not sized:
            raise InputError(f"{self._at('grid')} is {self.grid!r}, expected 'stimulus' or [width_px, height_px]")
        self._check_trials()
        self._check_parts()

    def _check_choices(self) -> None:
        for key, allowed in _CHOICES.items():
            if (value := getattr(self, key)) not in allowed and not (key in _OF_MAPS and value is None):
                raise InputError(f"{self._at(key)} is {value!r}, expected one of {list(allowed)}")
        for key in ("metrics", "controls", "overall", "pooled"):
            names = getattr(self, key)
            if not isinstance(names, tuple) or not all(isinstance(name, str) for name in names):
                raise InputError(f"{self._at(key)} is {names!r}, expected a list of names")
            if twice := [name for i, name in enumerate(names) if name in names[:i]]:
                raise InputError(f"{self._at(key)}: {twice[0]} is given twice")
        if not isinstance(self.split, str):
            raise InputError(f"{self._at('split')} is {self.split!r}, expected train, val, test, several by +, or all")
        for model in (*self.controls, *(name for name in (self.baseline, self.ceiling) if name)):
            MODELS[model]
        if self.ceiling not in (None, "human"):
            raise InputError(f"{self._at('ceiling')} is {self.ceiling!r}, expected human, or null for none")
        if "human" in self.controls:
            raise InputError(f"{self._at('controls')}: human is the ceiling, not a control")
        if self.chance is not None and self.chance not in self.controls:
            raise InputError(f"{self._at('chance')} is {self.chance!r}, expected one of the controls {self.controls}")

    def _check_maps(self) -> None:
        for metric in self.metrics:
            METRICS[metric]
        known = {key: getattr(self, key) is not None for key in _OF_MAPS}
        if self.metrics and (missing := [key for key, given in known.items() if not given]):
            raise InputError(f"{self._at('metrics')} needs {missing}, which the protocol lacks")
        if not self.metrics and (idle := [key for key, given in known.items() if given]):
            raise InputError(f"{self._at(idle[0])} is given, but there are no map metrics")
        sigma = self.empirical_sigma_dva
        if sigma is not None and (not isinstance(sigma, int | float) or sigma <= 0):
            raise InputError(f"{self._at('empirical_sigma_dva')} is {sigma!r}, expected degrees > 0")
        if not isinstance(self.metric_options, dict):
            raise InputError(f"{self._at('metric_options')} is {self.metric_options!r}, expected a mapping")
        for name, options in self.metric_options.items():
            if name not in self.metrics or not isinstance(options, dict):
                raise InputError(
                    f"{self._at('metric_options')}.{name} is {options!r}, expected a mapping for one of {self.metrics}"
                )
            takes = set(inspect.signature(METRICS[name].function).parameters) - _GIVEN
            # The map of highest expected SIM is found by sampling.
            takes |= {"n_samples"} if name == "sim" and self.scored_map == "best_for_metric" else set()
            if unknown := sorted(set(map(str, options)) - takes):
                raise InputError(
                    f"{self._at('metric_options')}.{name}: {name} takes no {unknown[0]!r}; it takes {sorted(takes)}"
                )

    def _check_trials(self) -> None:
        columns = [*TRIAL_COLUMNS, *TRIAL_EXTRAS]
        if not isinstance(self.trials, dict):
            raise InputError(f"{self._at('trials')} is {self.trials!r}, expected a mapping of columns to values")
        for column, value in self.trials.items():
            if not isinstance(value, str | bool | int | float):
                raise InputError(f"{self._at('trials')}.{column} is {value!r}, expected one value")
        for column in (*self.trials, *([self.by] if self.by is not None else [])):
            if column not in columns:
                raise unknown_name(f"trial column (in protocol {self.name!r})", str(column), columns)

    def _check_parts(self) -> None:
        for name in self.pooled:
            if name not in self.columns:
                raise unknown_name(f"score (in protocol {self.name!r}: pooled)", str(name), list(self.columns))
        if not (self.metrics or self.paths or self.search or self.objects):
            raise InputError(f"protocol {self.name!r} scores nothing: give metrics, paths, search or objects")
        scores = {} if self.paths is None else self.paths.scores
        looks_at_objects = [
            name for name, s in scores.items() if s.positions == "objects" or s.metric.startswith("object_")
        ]
        if looks_at_objects and self.objects is None:
            raise InputError(f"{self._at('paths')}: {looks_at_objects} need the part 'objects'")
        needs_target = [name for name, s in scores.items() if s.only == "both_found"]
        if self.search is None and (needs_target or (self.paths is not None and self.paths.cut_at_target)):
            raise InputError(f"{self._at('paths')}: {needs_target or 'cut_at_target'} needs the part 'search'")
        if self.search is not None and self.first_fixation == "drop":
            raise InputError(
                f"{self._at('search')} counts the initial fixation, and first_fixation: drop leaves it out; keep it, "
                f"or give models the start (recorded, design or center)"
            )
        needed = {
            "probability_mismatch": self.search, "search_correlation": self.search, "object_delta": self.objects,
            "amplitude_js": self.paths, "direction_js": self.paths, "image_correlation": self.paths,
        }  # fmt: skip
        for name in self.overall:
            base, _, of = name.partition(".")
            if base not in OVERALL:
                raise unknown_name(f"overall score (in protocol {self.name!r})", name, list(OVERALL))
            if needed[base] is None:
                raise InputError(f"{self._at('overall')}: {name} needs a part that the protocol lacks (see the docs)")
            if base == "image_correlation" and of not in scores:
                raise InputError(f"{self._at('overall')}: {name} needs the column after the dot; found {list(scores)}")
            if base == "probability_mismatch" and self.search is not None and self.search.max_saccades == "trial":
                raise InputError(f"{self._at('overall')}: {name} needs one limit for all, found max_saccades: trial")
        if "object_delta" in self.overall and self.objects is not None and len(self.objects.scores) < 5:
            raise InputError(f"{self._at('overall')}: object_delta needs all five object scores")

    def _at(self, key: str) -> str:
        return f"protocol {self.name!r}: {key}"

    @property
    def start_is_given(self) -> bool:
        """Whether models are told where a scanpath starts, so that only what follows is theirs."""
        return self.first_fixation in ("recorded", "design", "center")

    @property
    def by_target(self) -> bool:
        """Whether trials on one stimulus are apart by what was searched for."""
        return self.search is not None or self.by == "target"

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of scores per trial: of maps, scanpaths, searches and looks at objects."""
        return (
            *self.metrics,
            *([] if self.search is None else self.search.scores),
            *([] if self.objects is None else self.objects.scores),
            *([] if self.paths is None else self.paths.scores),
        )

    @property
    def label(self) -> str:
        """Name and version, as every score carries them."""
        return f"{self.name} v{self.version}"

    @classmethod
    def read(cls, name_or_path: str | Path, dataset: str | None = None) -> Protocol:
        """The protocol of that name, or in that file.

        Args:
            name_or_path: As given on the command line.
            dataset: Run it on this dataset rather than on its own.

        Raises:
            InputError: No such protocol; an unknown, missing or wrong key.

        """
        path = resource_path("evaluation", name_or_path)
        content = read_yaml(path)
        fields = [f.name for f in dataclasses.fields(cls)]
        for key in content:
            if key not in fields:
                raise unknown_name(f"protocol key (in {path.name})", key, fields)
        needed = [name for name in fields if name not in _OPTIONAL]
        if not content.get("metrics"):
            needed = [name for name in needed if name not in _OF_MAPS]
        if missing := [name for name in needed if name not in content]:
            raise InputError(f"{path.name}: the protocol lacks {missing}")
        for key in ("metrics", "controls", "grid", "overall", "pooled"):
            if isinstance(content.get(key), list):
                content[key] = tuple(content[key])
        for key, read in (("paths", read_paths), ("search", read_search), ("objects", read_objects)):
            if content.get(key) is not None:
                content[key] = read(content[key], f"protocol {content['name']!r}: {key}")
        return cls(**{**content, **({} if dataset is None else {"dataset": dataset})})

    def as_dict(self) -> dict[str, Any]:
        """Plain values of what the protocol says, for keys and records; parts that it lacks are left out."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        empty: tuple[Any, ...] = (None, "", (), {})
        return {key: _plain(value) for key, value in values.items() if value not in empty or key == "ceiling"}


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        own = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        return {k: _plain(v) for k, v in own.items() if not (isinstance(value, PathScore) and k == "name")}
    return {key: _plain(item) for key, item in value.items()} if isinstance(value, Mapping) else value
