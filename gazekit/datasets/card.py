"""Dataset cards: what a release contains, where it comes from, how it was shown, what is known to be wrong."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from gazekit.errors import InputError
from gazekit.geometry import Screen
from gazekit.registry import unknown_name
from gazekit.resources import read_yaml, resource_path

_KEYS = {
    "name", "title", "citation", "homepage", "license", "simulated", "task", "forced_initial",
    "screen", "download", "files", "expect", "split", "known_issues", "source_units", "observer",
}  # fmt: skip
_NEEDED = ("name", "title", "citation", "license", "screen", "expect", "split", "forced_initial")


@dataclass(frozen=True)
class Card:
    """One YAML card, checked for unknown and missing keys.

    Args:
        name: The registered name.
        content: The card as read, for everything that has no attribute of its own.
        screen: Geometry of the display.
        simulated: True where no person was measured; every table and figure then says SIMULATED.
        forced_initial: True where the first fixation was forced (to the center, usually).
        expect: Counts of the full release: subjects, stimuli, trials, fixations, ...

    """

    name: str
    content: Mapping[str, Any]
    screen: Screen
    simulated: bool
    forced_initial: bool
    expect: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, name_or_path: str | Path) -> Card:
        """The card of that name (or file).

        Raises:
            InputError: No such card, or a key is unknown or missing.

        """
        path = resource_path("datasets", name_or_path)
        content = read_yaml(path)
        for key in content:
            if key not in _KEYS:
                raise unknown_name(f"card key (in {path.name})", key, sorted(_KEYS))
        if missing := [key for key in _NEEDED if key not in content]:
            raise InputError(f"{path.name}: the card lacks {missing}")
        return cls(
            name=content["name"],
            content=content,
            screen=Screen.from_card(content["screen"]),
            simulated=bool(content.get("simulated", False)),
            forced_initial=bool(content["forced_initial"]),
            expect=content["expect"],
        )

    @property
    def label(self) -> str:
        """The name as tables and figures print it; simulated data can never pass for measured."""
        return f"{self.name} (SIMULATED)" if self.simulated else self.name

    def split_of(self, stimuli: pd.DataFrame) -> pd.Series:
        """The split of every stimulus (``train``, ``val`` or ``test``), by the card's rule.

        A seeded rule hashes each stimulus name by itself, so that an image keeps its split when a
        partial copy of the data grows; the fractions then hold on average. A listed rule names the
        groups of the validation and test sets and leaves the rest for training.
        """
        rule = self.content["split"]
        if "seed" in rule:
            unit = stimuli[rule["by"]].map(lambda name: _hash_to_unit(f"{rule['seed']}/{name}"))
            split = pd.Series("train", index=stimuli.index)
            split[unit < rule["test"] + rule["val"]] = "val"
            split[unit < rule["test"]] = "test"
            return split
        named = {group: split for split in ("val", "test") for group in rule[split]}
        return stimuli[rule["by"]].map(named).fillna("train")


def _hash_to_unit(text: str) -> float:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2.0**64
