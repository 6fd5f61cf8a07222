"""The files of a release: which the card lists, and whether a file is the one that it lists."""

from __future__ import annotations

import hashlib
import re
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
    try:
        lines = [line for line in listing.read_text(encoding="utf-8").splitlines() if line]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{listing}: cannot be read ({error})") from error
    found = {}
    for line in lines:
        # Two blanks, or a blank and a star for a file read as binary.
        parts = re.fullmatch(r"([0-9a-fA-F]{64}) [ *](.+)", line)
        if parts is None:
            raise InputError(f"{listing}: {line[:60]!r} is not a line of sha256sum")
        found[parts[2]] = f"sha256:{parts[1]}"
    return found


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
