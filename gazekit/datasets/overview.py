"""What is known and what is here: the lines of ``gazekit data list`` and the table in the documentation."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from pathlib import Path

from gazekit.datasets import FORMATS
from gazekit.datasets.card import Card
from gazekit.datasets.loading import data_folder
from gazekit.errors import InputError
from gazekit.resources import resource_names


@dataclass(frozen=True)
class Entry:
    """One shipped card.

    Args:
        card: The card.
        folder: Where a copy lies, or None.
        bytes_here: Size of that copy; 0 without one.

    """

    card: Card
    folder: Path | None
    bytes_here: int

    @property
    def how(self) -> str:
        """How to get it, in a few words."""
        if self.card.simulated:
            return "generated on first use"
        if "archives" in self.card.content or "download" in self.card.content:
            return f"gazekit data fetch {self.card.name}"
        return f"by hand; gazekit data fetch {self.card.name} says how"


def entries() -> list[Entry]:
    """Every shipped card, by name."""
    return [_entry(Card.read(name)) for name in resource_names("datasets")]


def _entry(card: Card) -> Entry:
    if card.simulated:
        return Entry(card, None, 0)
    try:
        folder = data_folder(card.name, None, card.needs)
    except InputError:
        return Entry(card, None, 0)
    return Entry(card, folder, sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()))


def as_text(listed: list[Entry]) -> str:
    """For the terminal: two lines per dataset."""
    blocks = []
    for entry in listed:
        here = f"{entry.folder} ({_megabytes(entry.bytes_here)})" if entry.folder else f"not here; {entry.how}"
        if entry.card.simulated:
            here = entry.how
        counts = ", ".join(f"{entry.card.expect[key]:,} {key}" for key in _COUNTS if key in entry.card.expect)
        blocks.append(
            f"{entry.card.label:24} {_task(entry.card)}: {counts}\n{'':24} {entry.card.licences}\n{'':24} {here}"
        )
    return "\n".join(blocks)


_COUNTS = ("stimuli", "subjects", "trials", "fixations")


def as_markdown(listed: list[Entry]) -> str:
    """The table of docs/datasets.md; it says nothing about this machine."""
    head = "| name | what | task | stimuli | subjects | trials | fixations | px per dva | licence | how to get it |"
    lines = [head, "|" + "---|" * (head.count("|") - 1)]
    for entry in listed:
        card = entry.card
        counts = [f"{card.expect[key]:,}" if key in card.expect else "" for key in _COUNTS]
        density = f"{card.screen.px_per_dva:.4g}" if card.screen else "not stated"
        cells = [f"`{card.label}`", card.content["title"], _task(card), *counts, density, card.licences, entry.how]
        lines.append("| " + " | ".join(cell.replace("|", "/") for cell in cells) + " |")
    return "\n".join(lines)


def options_as_markdown(listed: list[Entry]) -> str:
    """What each reader offers as keyword arguments of ``load``, with the defaults."""
    lines = ["| name | options and defaults | what they mean |", "|---|---|---|"]
    for entry in listed:
        reader = FORMATS.load(entry.card.format)
        given = inspect.signature(reader).parameters.values()
        options = [f"`{p.name}={p.default!r}`" for p in given if p.name not in ("folder", "card")]
        if options:
            where = f"`help({reader.__module__}.{reader.__name__})`"
            lines.append(f"| `{entry.card.name}` | {', '.join(options)} | {where} |")
    return "\n".join(lines)


def _task(card: Card) -> str:
    return str(card.content.get("task", "free_viewing")).replace("_", " ")


def _megabytes(n_bytes: int) -> str:
    return f"{n_bytes / 1024**2:.1f} MB" if n_bytes < 1024**3 else f"{n_bytes / 1024**3:.1f} GB"
