"""Numbers that others published, each with its source and whether it could be checked.

One YAML file in ``evaluation/tables/`` holds numbers of one protocol, because numbers made by different rules do not
belong in one table: the same humans score 0.49, 0.51 or 0.64 in one "sequence score", by who counts as whose reference.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gazekit.errors import InputError
from gazekit.evaluation.protocol import Protocol
from gazekit.registry import unknown_name
from gazekit.resources import read_yaml, resource_names, resource_path

STATUSES = {
    "verified": "worked out again from the files that its source released",
    "unverified": "as its source states it",
}
_FOLDER = "evaluation/tables"
_TABLE_KEYS = ("protocol", "title", "rows")


@dataclass(frozen=True)
class PublishedRow:
    """One number.

    Args:
        model: As the source calls it; ``human`` for people.
        role: ``model``, ``control`` or ``ceiling``.
        metric: Column of scores that it belongs to.
        value: In the unit of that column.
        dataset: Name of the card; None where it is a mean over several datasets, which ``split`` then names.
        split: On which part of the data.
        status: ``verified`` or ``unverified``; see :data:`STATUSES`.
        source: Where it was read.
        note: What a reader has to know before comparing.
        protocol: Name of the protocol.

    """

    model: str
    role: str
    metric: str
    value: float
    dataset: str | None
    split: str
    status: str
    source: str
    protocol: str
    note: str = ""


def published_table(name_or_path: str | Path) -> list[PublishedRow]:
    """The rows of one file in ``evaluation/tables``.

    Raises:
        InputError: No such table; an unknown, missing or wrong key; a row of another protocol.

    """
    path = resource_path(_FOLDER, name_or_path)
    content = read_yaml(path)
    _check_keys(content, _TABLE_KEYS, _TABLE_KEYS, path.name)
    if not isinstance(content["protocol"], str):
        raise InputError(f"{path.name}: protocol is {content['protocol']!r}, expected the name of one")
    protocol = Protocol.read(content["protocol"])
    if not isinstance(content["rows"], list) or not content["rows"]:
        raise InputError(f"{path.name}: rows is {content['rows']!r}, expected a list of published numbers")
    rows: list[PublishedRow] = []
    for i, given in enumerate(content["rows"]):
        row = _row(given, protocol, where := f"{path.name}, row {i + 1}")
        if any(_about(row) == _about(other) for other in rows):
            raise InputError(f"{where}: {row.metric} of {row.model} on {row.dataset}, {row.split} is given twice")
        rows.append(row)
    return rows


def _about(row: PublishedRow) -> tuple[str | None, ...]:
    return row.model, row.metric, row.dataset, row.split, row.source


def published_rows(dataset: str, protocol: str) -> list[PublishedRow]:
    """Everything published by that protocol on that dataset, or as a mean over datasets it is among.

    Raises:
        InputError: A shipped table is not one.

    """
    tables = [published_table(name) for name in resource_names(_FOLDER)]
    return [row for table in tables for row in table if row.protocol == protocol and row.dataset in (dataset, None)]


def _row(content: Any, protocol: Protocol, where: str) -> PublishedRow:
    fields = {f.name: f for f in dataclasses.fields(PublishedRow)}
    if not isinstance(content, dict):
        raise InputError(f"{where} is {content!r}, expected a mapping")
    if content.get("protocol", protocol.name) != protocol.name:
        raise InputError(
            f"{where} is of protocol {content['protocol']!r} in a table of {protocol.name!r}; numbers made by "
            f"different rules go into different files"
        )
    needed = [name for name, f in fields.items() if f.default is dataclasses.MISSING and name != "protocol"]
    _check_keys(content, tuple(fields), tuple(needed), where)
    row = PublishedRow(**{**content, "protocol": protocol.name})
    for key, allowed in (("status", tuple(STATUSES)), ("role", ("model", "control", "ceiling"))):
        if getattr(row, key) not in allowed:
            raise InputError(f"{where}: {key} is {getattr(row, key)!r}, expected one of {list(allowed)}")
    for key in ("model", "split", "source", "metric"):
        if not isinstance(getattr(row, key), str) or not getattr(row, key):
            raise InputError(f"{where}: {key} is {getattr(row, key)!r}, expected a text")
    measured = [*protocol.columns, *protocol.overall]
    if row.metric not in measured and row.metric not in {name.partition(".")[0] for name in measured}:
        raise unknown_name(f"score of protocol {protocol.name!r} (in {where})", row.metric, measured)
    datasets = resource_names("datasets")
    if row.dataset is not None and row.dataset not in datasets:
        raise unknown_name(f"dataset (in {where})", str(row.dataset), datasets)
    if isinstance(row.value, bool) or not isinstance(row.value, int | float) or not math.isfinite(row.value):
        raise InputError(f"{where}: value is {row.value!r}, expected a number")
    return row


def _check_keys(content: dict[str, Any], known: tuple[str, ...], needed: tuple[str, ...], where: str) -> None:
    for key in content:
        if key not in known:
            raise unknown_name(f"key (in {where})", str(key), list(known))
    if missing := [key for key in needed if key not in content]:
        raise InputError(f"{where} lacks {missing}")
