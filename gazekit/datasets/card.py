"""Dataset cards: what a release contains, where it comes from, how it was shown, what is known to be wrong."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from gazekit.datasets.split import SplitRule
from gazekit.errors import InputError
from gazekit.geometry import Screen
from gazekit.registry import unknown_name
from gazekit.resources import read_yaml, resource_path

_KEYS = {
    "name", "title", "citation", "homepage", "license", "simulated", "task", "forced_initial", "format",
    "screen", "download", "archives", "manual", "files", "needs", "images", "bytes", "expect", "parts", "split",
    "known_issues", "source_units", "observer", "rate_hz", "also_reads", "changes",
}  # fmt: skip
_NEEDED = ("name", "title", "citation", "license", "screen", "expect", "split", "forced_initial")


@dataclass(frozen=True)
class Card:
    """One YAML card, checked for unknown and missing keys.

    Args:
        name: The registered name.
        content: The card as read, for everything that has no attribute of its own.
        screen: Geometry of the display; None where the release does not say.
        simulated: True where no person was measured; every table and figure then says SIMULATED.
        forced_initial: True where the first fixation was forced (to the center, usually).
        expect: Counts and moments of the full release: subjects, stimuli, trials, fixations, ...
        path: The file it was read from.

    """

    name: str
    content: Mapping[str, Any]
    screen: Screen | None
    simulated: bool
    forced_initial: bool
    expect: Mapping[str, Any] = field(default_factory=dict)
    path: Path | None = None

    @classmethod
    def read(cls, name_or_path: str | Path) -> Card:
        """The card of that name (or file).

        Raises:
            InputError: No such card, or a key is unknown or missing.

        """
        path = resource_path("datasets", name_or_path)
        return cls.from_content(read_yaml(path), path)

    @classmethod
    def from_content(cls, content: Mapping[str, Any], path: Path) -> Card:
        """The card with this content; `path` names it in messages."""
        for key in content:
            if key not in _KEYS:
                raise unknown_name(f"card key (in {path.name})", key, sorted(_KEYS))
        if missing := [key for key in _NEEDED if key not in content]:
            raise InputError(f"{path}: the card lacks {missing}")
        for key, kind in (("name", str), ("title", str), ("citation", str), ("license", dict), ("expect", dict)):
            if not isinstance(content[key], kind):
                raise InputError(f"{path}: {key} is {content[key]!r}, expected a {kind.__name__}")
        if content.get("images", "required") not in ("required", "optional"):
            raise InputError(f"{path}: images is {content['images']!r}, expected 'required' or 'optional'")
        screen = content["screen"]
        return cls(
            name=content["name"],
            content=content,
            screen=None if screen is None else Screen.from_card(screen),
            simulated=bool(content.get("simulated", False)),
            forced_initial=bool(content["forced_initial"]),
            expect=content["expect"],
            path=path,
        )

    @property
    def label(self) -> str:
        """The name as tables and figures print it; simulated data can never pass for measured."""
        return f"{self.name} (SIMULATED)" if self.simulated else self.name

    @property
    def format(self) -> str:
        """Name of the reader in ``FORMATS`` that understands the files."""
        return str(self.content.get("format", self.name))

    @property
    def needs(self) -> list[str]:
        """Files and folders that a copy of the release must contain to be recognised as one."""
        return list(self.content.get("needs", self.content.get("files", {})))

    @property
    def images_optional(self) -> bool:
        """True where the eye movements can be had without the images."""
        return bool(self.content.get("images") == "optional")

    @property
    def licences(self) -> str:
        """The licence of each part, in one line."""
        return ", ".join(f"{what}: {licence}" for what, licence in self.content["license"].items())

    @property
    def mend(self) -> str:
        """What to do about a damaged or missing file, as the end of an error message."""
        if "download" in self.content or "archives" in self.content:
            return f"fetch it again with 'gazekit data fetch {self.name}'"
        if "manual" in self.content:
            return f"get it again ('gazekit data fetch {self.name}' says from where)"
        return "replace it with the original"

    @cached_property
    def split_rule(self) -> SplitRule:
        """How trials are divided into train, val and test."""
        return SplitRule.read(self.content["split"], f"{self.path}: split")
