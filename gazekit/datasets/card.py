"""Dataset cards: what a release contains, where it comes from, how it was shown, what is known to be wrong."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn

from gazekit.datasets.split import SplitRule
from gazekit.errors import InputError
from gazekit.geometry import Screen
from gazekit.registry import unknown_name
from gazekit.resources import read_yaml, resource_names, resource_path

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
        """The card of that name, in that file, or in that folder.

        A name that gazekit does not ship is also looked for as a folder with a ``card.yaml``: here, and in
        ``$GAZEKIT_DATA``.

        Raises:
            InputError: No such card, or a key is unknown or missing.

        """
        path = _card_path(name_or_path)
        return cls.from_content(read_yaml(path), path)

    @classmethod
    def from_content(cls, content: Mapping[str, Any], path: Path) -> Card:
        """The card with this content; `path` names it in messages."""
        for key in content:
            if key not in _KEYS:
                raise unknown_name(f"card key (in {path.name})", key, sorted(_KEYS))
        if missing := [key for key in _NEEDED if key not in content]:
            raise InputError(
                f"{path}: the card lacks {missing}; docs/datasets.md shows a whole one (screen: null and expect: {{}} "
                "where nothing is known)"
            )
        for key, kind in (("name", str), ("title", str), ("citation", str), ("license", dict), ("expect", dict)):
            if not isinstance(content[key], kind):
                raise InputError(f"{path}: {key} is {content[key]!r}, expected a {kind.__name__}")
        if content.get("images", "required") not in ("required", "optional"):
            raise InputError(f"{path}: images is {content['images']!r}, expected 'required' or 'optional'")
        _check_shapes(content, path)
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


def _card_path(given: str | Path) -> Path:
    place = Path(given)
    environment = os.environ.get("GAZEKIT_DATA")
    shipped = str(given) in resource_names("datasets")
    for folder in (place, *([Path(environment) / place] if environment else [])):
        if not shipped and (folder / "card.yaml").is_file():
            return folder / "card.yaml"
    if not shipped and place.is_dir():
        raise InputError(f"{place}: holds no card.yaml; write one (docs/datasets.md says how), or use from_dataframe")
    try:
        return resource_path("datasets", given)
    except InputError as error:
        mend = "or give the path of a card (.yaml) or of a folder with a card.yaml"
        raise InputError(str(error).replace("or give a path ending in .yaml", mend)) from None


def _check_shapes(content: Mapping[str, Any], path: Path) -> None:
    """Raise where a part of the card that programs rely on has another form, or names a place elsewhere."""

    def refuse(what: str, found: object, expected: str) -> NoReturn:
        raise InputError(f"{path}: {what} is {found!r:.80}, expected {expected}")

    def inside(what: str, name: object) -> None:
        if (
            not isinstance(name, str)
            or PurePosixPath(name).is_absolute()
            or {"..", ""} & {*name.split("/")}
            or "\\" in name
        ):
            refuse(what, name, "a path below the dataset's folder")

    if not re.fullmatch(r"[^/\\\0]+", content["name"]) or content["name"] in (".", ".."):
        refuse("name", content["name"], "a name without a slash")
    if not isinstance(content.get("needs", []), list):
        refuse("needs", content["needs"], "a list of paths")
    for need in content.get("needs", []):
        inside("an entry of needs", need)
    if "download" in content and not isinstance(content["download"], str):
        refuse("download", content["download"], "an address")
    for block in ("files", "archives"):
        if not isinstance(entries := content.get(block, {}), dict):
            refuse(block, entries, "a mapping from path to what is known")
        for name, about in entries.items():
            inside(f"a path in {block}", name)
            if not isinstance(about, dict | None):
                refuse(f"{block}: {name}", about, "a mapping")
            about = about or {}
            if "first" in about and not (
                isinstance(about["first"], int)
                and isinstance(about.get("last"), int)
                and isinstance(about.get("suffix"), str)
            ):
                refuse(f"{block}: {name}", about, "{first: INT, last: INT, suffix: TEXT}")
            if block == "archives":
                if not isinstance(about.get("url"), str):
                    refuse(f"archives: {name}: url", about.get("url"), "an address")
                if (into := about.get("into", ".")) != ".":
                    inside(f"archives: {name}: into", into)
    for what in ("stimuli", "subjects"):
        if not isinstance(content["expect"].get(what, 0), int):
            refuse(f"expect: {what}", content["expect"][what], "a whole number")
    screen = content["screen"]
    if screen is not None:
        size = screen.get("size_wh_px") if isinstance(screen, dict) else None
        numbers = [*size, *(v for k, v in screen.items() if not isinstance(v, list))] if isinstance(size, list) else []
        if len(size or ()) != 2 or not all(isinstance(number, int | float) for number in numbers):
            refuse("screen", screen, "null, or {size_wh_px: [W, H], measured_px_per_dva: NUMBER}")
