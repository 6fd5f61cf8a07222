"""The files of a release: which the card lists, and whether a file is the one that it lists."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gazekit.datasets.card import Card
from gazekit.errors import InputError

_ALGORITHMS = ("sha256", "md5")


def listed_files(card: Card) -> dict[str, str | None]:
    """Path -> ``sha256:...`` or ``md5:...`` of every file of the release; None where no digest is known.

    A series (``first``, ``last``, ``suffix``) stands for numbered files in one folder. Digests of many
    files stand in a companion of the card, ``NAME.sha256``, in the format of ``sha256sum``.
    """
    listed = _companion(card)
    return {path: digest or listed.get(path) for path, digest in digests(card.content.get("files", {})).items()}


def digests(files: Mapping[str, Any]) -> dict[str, str | None]:
    """Path -> digest for the ``files`` block of a card, with series written out."""
    found: dict[str, str | None] = {}
    for path, about in files.items():
        if about and "first" in about:
            numbers = range(about["first"], about["last"] + 1)
            found |= {f"{path}/{number}{about['suffix']}": None for number in numbers}
        else:
            found[path] = next((f"{name}:{about[name]}" for name in _ALGORITHMS if name in (about or {})), None)
    return found


def _companion(card: Card) -> dict[str, str]:
    listing = card.path.with_suffix(".sha256") if card.path else None
    if listing is None or not listing.is_file():
        return {}
    pairs = (line.split("  ", 1) for line in listing.read_text(encoding="utf-8").splitlines() if line)
    return {path: f"sha256:{digest}" for digest, path in pairs}


def wrong_digest(path: Path, expected: str) -> str:
    """Empty where the file has the digest ``algorithm:hex``, else what it has instead.

    Raises:
        InputError: The file cannot be read.

    """
    algorithm, _, wanted = expected.partition(":")
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, algorithm).hexdigest()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error})") from error
    return "" if found == wanted.lower() else f"{algorithm} {found}, expected {wanted}"
