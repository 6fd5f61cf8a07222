"""Evaluation protocols: every choice that moves a number, in one YAML file."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gazekit.errors import InputError
from gazekit.metrics import METRICS
from gazekit.models import MODELS
from gazekit.registry import unknown_name
from gazekit.resources import read_yaml, resource_path

_CHOICES = {
    "first_fixation": ("drop", "keep"),
    "out_of_image": ("raise", "drop", "clip"),
    "empirical": ("subject", "pooled"),
    "shuffled_from": ("all_other_images",),
}
_INTERVALS = {"resample": str, "draws": int, "level": float, "seed": int}
_SAMPLES = {"per_stimulus": int, "seed": int}


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
    baseline: str
    empirical: str
    empirical_sigma_dva: float
    shuffled_from: str
    metrics: tuple[str, ...]
    controls: tuple[str, ...]
    ceiling: str | None
    intervals: dict[str, Any]
    samples: dict[str, int]

    def __post_init__(self) -> None:
        for key, allowed in _CHOICES.items():
            if getattr(self, key) not in allowed:
                raise InputError(f"{self._at(key)} is {getattr(self, key)!r}, expected one of {list(allowed)}")
        for key in ("metrics", "controls"):
            if not isinstance(getattr(self, key), tuple):
                raise InputError(f"{self._at(key)} is {getattr(self, key)!r}, expected a list of names")
        for metric in self.metrics:
            METRICS[metric]
        for model in (*self.controls, self.baseline, *([self.ceiling] if self.ceiling else [])):
            MODELS[model]
        for key, wanted in (("intervals", _INTERVALS), ("samples", _SAMPLES)):
            found = getattr(self, key)
            if not isinstance(found, dict) or set(found) != set(wanted):
                raise InputError(f"{self._at(key)} needs exactly the keys {sorted(wanted)}, found {found}")
            for name, kind in wanted.items():
                if not isinstance(found[name], kind):
                    raise InputError(f"{self._at(key)}.{name} is {found[name]!r}, expected {kind.__name__}")
        if self.intervals["resample"] != "stimulus":
            raise InputError(f"{self._at('intervals')}.resample is {self.intervals['resample']!r}, expected 'stimulus'")
        if not 0 < self.intervals["level"] < 1 or self.intervals["draws"] < 1:
            raise InputError(f"{self._at('intervals')} needs draws >= 1 and 0 < level < 1, found {self.intervals}")
        sized = (
            isinstance(self.grid, tuple)
            and len(self.grid) == 2
            and all(isinstance(n, int) and n > 0 for n in self.grid)
        )
        if self.grid != "stimulus" and not sized:
            raise InputError(f"{self._at('grid')} is {self.grid!r}, expected 'stimulus' or [width_px, height_px]")
        if not isinstance(self.empirical_sigma_dva, int | float) or self.empirical_sigma_dva <= 0:
            raise InputError(f"{self._at('empirical_sigma_dva')} is {self.empirical_sigma_dva!r}, expected degrees > 0")

    def _at(self, key: str) -> str:
        return f"protocol {self.name!r}: {key}"

    @classmethod
    def read(cls, name_or_path: str | Path) -> Protocol:
        """The protocol of that name, or in that file.

        Raises:
            InputError: No such protocol; an unknown, missing or wrong key.

        """
        path = resource_path("evaluation", name_or_path)
        content = read_yaml(path)
        fields = [field.name for field in dataclasses.fields(cls)]
        for key in content:
            if key not in fields:
                raise unknown_name(f"protocol key (in {path.name})", key, fields)
        if missing := [name for name in fields if name not in content]:
            raise InputError(f"{path.name}: the protocol lacks {missing}")
        for key in ("metrics", "controls", "grid"):
            if isinstance(content[key], list):
                content[key] = tuple(content[key])
        return cls(**content)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for keys and records."""
        return dataclasses.asdict(self)
