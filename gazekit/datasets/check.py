"""Hold a copy of a dataset against its card: files, images, counts and moments; every deviation is listed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gazekit.datasets.card import Card
from gazekit.datasets.dataset import GazeDataset
from gazekit.datasets.files import digests, listed_files, wrong_digest
from gazekit.datasets.images import read_image
from gazekit.errors import InputError
from gazekit.tables import TARGET_BOX, outside

_STATISTICS: dict[str, Callable[[NDArray[np.float64]], float]] = {
    "mean": np.mean,
    "sd": np.std,  # population
    "min": np.min,
    "max": np.max,
    "median": np.median,
    "q25": lambda values: float(np.quantile(values, 0.25)),
    "q75": lambda values: float(np.quantile(values, 0.75)),
}  # fmt: skip

# Keys of a part that say which part it is and what its files are.
_ABOUT_PART = ("names_sha256", "files")


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Args:
        what: What it is, e.g. ``x_px mean``.
        found: What the copy has.
        expected: What the card says; None where it says nothing and the line only informs.
        deviates: True where the two differ.

    """

    what: str
    found: str
    expected: str | None = None
    deviates: bool = False

    def __str__(self) -> str:
        verdict = "" if self.expected is None else f" (expected {self.expected})" if self.deviates else " as expected"
        return f"{self.what}: {self.found}{verdict}"


def check(data: GazeDataset, decode_images: bool = True) -> list[Finding]:
    """Everything that can be said about this copy; deviations are marked, and nothing is mended.

    A whole copy is held to the card's ``expect``. A partial copy is held to the entry of the card's
    ``parts`` that lists the same stimuli; for any other part, counts and moments say nothing, and only
    the range of positions and durations is looked at.

    Args:
        data: What ``load`` returned.
        decode_images: Decode every image, which finds those that end early; False looks at digests only.

    """
    expect, whole = _expectation(data)
    findings = [Finding("copy", whole)]
    findings += _files(data)
    if decode_images:
        findings += _images(data)
    findings += [finding for key, wanted in expect.items() for finding in _compare(key, wanted, data)]
    findings += _oddities(data, expect)
    findings += [Finding("changed while reading", change) for change in data.changes]
    return findings


def names_digest(data: GazeDataset) -> str:
    """SHA-256 over the sorted names of the stimuli, by which a card knows a part again."""
    return hashlib.sha256("\n".join(sorted(data.stimuli["stimulus"])).encode()).hexdigest()


def _known_part(data: GazeDataset) -> Mapping[str, Any] | None:
    """The entry of the card's ``parts`` with exactly these stimuli."""
    parts: list[Mapping[str, Any]] = data.card.content.get("parts", [])
    return next((part for part in parts if part["names_sha256"] == names_digest(data)), None)


def _expectation(data: GazeDataset) -> tuple[Mapping[str, Any], str]:
    card, n = data.card, len(data.stimuli)
    expected = card.expect.get("stimuli")
    if expected is None or n == expected:
        return card.expect, f"whole, {n} stimuli"
    if part := _known_part(data):
        known = {key: value for key, value in part.items() if key not in _ABOUT_PART}
        return known, f"partial, {n} of {expected} stimuli; this part is known to the card"
    bounds = {
        key: {name: value for name, value in wanted.items() if name in ("min", "max")}
        for key, wanted in card.expect.items()
        if isinstance(wanted, Mapping) and set(wanted) & {"min", "max"} and key != "fixations_per_trial"
    }
    zero = {key: 0 for key in ("empty_trials", "fixations_outside") if card.expect.get(key) == 0}
    text = f"{n} of {expected} stimuli; counts and moments of this part are not known"
    return {**zero, **{key: {"within": value} for key, value in bounds.items()}}, text


def _files(data: GazeDataset) -> Iterator[Finding]:
    if data.source is None:
        return
    part = _known_part(data) or {}
    listed = listed_files(data.card) | digests(part.get("files", {}))
    present = {path: digest for path, digest in listed.items() if digest and (data.source / path).is_file()}
    wrong = [(path, fault) for path, digest in present.items() if (fault := wrong_digest(data.source / path, digest))]
    for path, fault in wrong:
        yield Finding(str(data.source / path), fault, "the digest in the card", deviates=True)
    if present:
        yield Finding("files with the card's digest", f"{len(present) - len(wrong)} of {len(present)} here")


def _images(data: GazeDataset) -> Iterator[Finding]:
    paths = [path for path in data.stimuli["path"] if path]
    if "target_path" in data.trials:
        paths += [path for path in data.trials["target_path"].unique() if path]
    for path in paths:
        try:
            read_image(Path(path))
        except InputError as error:
            yield Finding("image", str(error), "an image that decodes", deviates=True)
    if absent := int((data.stimuli["path"] == "").sum()):
        yield Finding("stimuli without an image", str(absent))


def _compare(key: str, wanted: Any, data: GazeDataset) -> Iterator[Finding]:
    if key not in MEASURES:
        raise InputError(f"card {data.card.path}: cannot measure {key!r}; known: {', '.join(sorted(MEASURES))}")
    if isinstance(wanted, Mapping) and set(wanted) == {"within"}:
        values = MEASURES[key](data, {})
        for name, bound in wanted["within"].items():
            value = _STATISTICS[name](values) if len(values) else bound
            beyond = value < bound if name == "min" else value > bound
            yield Finding(
                f"{key} {name}", f"{value:g}", f"{'at least' if name == 'min' else 'at most'} {bound}", beyond
            )
        return
    found = MEASURES[key](data, wanted if isinstance(wanted, Mapping) else {})
    if isinstance(found, np.ndarray):
        found = {name: _STATISTICS[name](found) if len(found) else float("nan") for name in wanted}
    if not isinstance(wanted, Mapping):
        found, wanted = {"": found}, {"": wanted}
    for name, value in _flat(wanted):
        got = dict(_flat(found)).get(name)
        if key == "fixations_by" and got == 0:
            yield Finding(f"{key} {name}", "none here")
            continue
        yield Finding(f"{key} {name}".strip(), _text(got, value), _text(value, value), not _agree(got, value))


def _flat(nested: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in nested.items():
        name = f"{prefix} {key}".strip()
        if isinstance(value, Mapping):
            yield from _flat(value, name)
        else:
            yield name, value


def _decimals(number: Any) -> int:
    text = repr(number)
    return 17 if "e" in text else len(text.partition(".")[2]) if "." in text else 0


def _agree(found: Any, wanted: Any) -> bool:
    """True where both are equal to the digits that the card gives."""
    if isinstance(wanted, list):
        return isinstance(found, list) and len(found) >= len(wanted) and all(map(_agree, found, wanted))
    if isinstance(wanted, bool | str) or found is None:
        return bool(found == wanted)
    # Half a unit of the last digit, and room for how binary fractions fall.
    return bool(abs(found - wanted) <= 0.5 * 10.0 ** -_decimals(wanted) * (1 + 1e-6))


def _text(value: Any, like: Any) -> str:
    if isinstance(value, float) and isinstance(like, float):
        return f"{value:.{min(_decimals(like), 12)}f}"
    if isinstance(value, list):
        return "[" + ", ".join(_text(*pair) for pair in zip(value, like, strict=False)) + "]"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _oddities(data: GazeDataset, expect: Mapping[str, Any]) -> Iterator[Finding]:
    """What a user should know and no card needs to expect."""
    fixations = data.fixations
    if "fixations_outside" not in expect and (off := int(outside(fixations, data.stimuli).sum())):
        yield Finding("fixations outside their stimulus", str(off))
    if "empty_trials" not in expect and (empty := MEASURES["empty_trials"](data, {})):
        yield Finding("trials without a fixation", str(empty))
    columns = ["trial", "x_px", "y_px", "duration_s", "t_s"]
    same = (fixations[columns].eq(fixations[columns].shift()) | fixations[columns].isna()).all(axis=1)
    if repeated := int(same.sum()):
        yield Finding("fixations that repeat the one before", str(repeated))
    twice = data.trials.duplicated(["subject", "stimulus", "task", *(["target"] if "target" in data.trials else [])])
    if twice.any():
        yield Finding("trials of one subject on one stimulus and task, beyond the first", str(int(twice.sum())))


# --- what a card can expect -------------------------------------------------------------------------


def _lengths(data: GazeDataset) -> NDArray[np.float64]:
    counts = data.fixations["trial"].value_counts()
    lengths: NDArray[np.float64] = data.trials["trial"].map(counts).fillna(0).to_numpy(float)
    return lengths


def _column(name: str) -> Callable[[GazeDataset, Mapping[str, Any]], NDArray[np.float64]]:
    def values(data: GazeDataset, _: Mapping[str, Any]) -> NDArray[np.float64]:
        found: NDArray[np.float64] = data.fixations[name].dropna().to_numpy(float)
        return found

    return values


def _ends(data: GazeDataset, which: str) -> pd.DataFrame:
    """First or last fixation of each trial that has one, with the trial's columns."""
    ends = data.fixations.drop_duplicates("trial", keep=which)[["trial", "x_px", "y_px", "duration_s"]]
    return ends.merge(data.trials, on="trial", validate="one_to_one")


def _on_target(table: pd.DataFrame, margin_px: float = 0.0) -> pd.Series:
    """True where the fixation is in the target's box, edges included, grown by a margin."""
    x, y = table["x_px"], table["y_px"]
    left, top, right, bottom = (table[column] for column in TARGET_BOX)
    wide = (left - margin_px <= x) & (x <= right + margin_px)
    return wide & (top - margin_px <= y) & (y <= bottom + margin_px)


def _reaching_target(data: GazeDataset, _: Mapping[str, Any]) -> int:
    both = data.fixations[["trial", "x_px", "y_px"]].merge(data.trials, on="trial")
    return int(both.loc[_on_target(both), "trial"].nunique())


def _found_near_target(data: GazeDataset, wanted: Mapping[str, Any]) -> dict[str, Any]:
    last = _ends(data, "last")
    margin = wanted["margin_px"]
    found = last["found"].fillna(False).astype(bool)
    ending = int((found & _on_target(last, margin)).sum())
    return {"margin_px": margin, "found": int(data.trials["found"].sum()), "ending": ending}


def _outside_1_to_n(data: GazeDataset, _: Mapping[str, Any]) -> int:
    sizes = data.stimuli.set_index("stimulus").loc[data.fixations["stimulus"], ["width_px", "height_px"]].to_numpy()
    xy = data.fixations[["x_px", "y_px"]].to_numpy()
    return int(((xy < 1) | (xy > sizes)).any(1).sum())


def _saccades(data: GazeDataset, _: Mapping[str, Any]) -> NDArray[np.float64]:
    step = data.fixations.groupby("trial", sort=False)[["x_px", "y_px"]].diff().dropna()
    length: NDArray[np.float64] = np.hypot(step["x_px"], step["y_px"]).to_numpy(float)
    return length


def _start_distance(data: GazeDataset, _: Mapping[str, Any]) -> NDArray[np.float64]:
    first = _ends(data, "first")
    distance: NDArray[np.float64] = np.hypot(
        first["x_px"] - first["start_x_px"], first["y_px"] - first["start_y_px"]
    ).to_numpy(float)
    return distance


def _first_trial(data: GazeDataset, wanted: Mapping[str, Any]) -> dict[str, Any]:
    first = data.trials.iloc[0]
    rows = data.fixations[data.fixations["trial"] == first["trial"]]
    return {key: first[key] if key in ("stimulus", "subject") else rows[key].tolist() for key in wanted}


def _on_first_stimulus(data: GazeDataset) -> pd.DataFrame:
    return data.fixations[data.fixations["stimulus"] == data.stimuli["stimulus"].iloc[0]]


def _counts_by(table: pd.DataFrame, wanted: Mapping[str, Any]) -> dict[str, dict[str, int]]:
    return {column: {str(k): int(n) for k, n in table[column].value_counts().items()} for column in wanted}


def _fixations_by(data: GazeDataset, wanted: Mapping[str, Any]) -> dict[str, dict[str, int]]:
    """Fixations per value of a trial column; a value that no trial here has is a part that this copy lacks."""
    of_trial = data.trials.set_index("trial").loc[data.fixations["trial"]]
    here = _counts_by(of_trial, wanted)
    return {column: {str(k): here[column].get(str(k), 0) for k in counts} for column, counts in wanted.items()}


def _found_rate_by(data: GazeDataset, wanted: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    found = data.trials["found"].astype(float)
    return {
        column: {str(k): float(rate) for k, rate in found.groupby(data.trials[column]).mean().items()}
        for column in wanted
    }


def _over_limit(data: GazeDataset, _: Mapping[str, Any]) -> int:
    return int((_lengths(data) - 1 > data.trials["max_saccades"].to_numpy(float)).sum())


def _target_box(data: GazeDataset, _: Mapping[str, Any]) -> dict[str, float]:
    left, top, right, bottom = (data.trials[column] for column in TARGET_BOX)
    return {"width": float((right - left).mean()), "height": float((bottom - top).mean())}


def _stimulus_column(name: str) -> Callable[[GazeDataset, Mapping[str, Any]], NDArray[np.float64]]:
    return lambda data, _: data.stimuli[name].to_numpy(float)


# Key of a card's ``expect`` -> what this copy has: a number, a mapping, or values to summarise.
MEASURES: dict[str, Callable[[GazeDataset, Mapping[str, Any]], Any]] = {
    "subjects": lambda data, _: int(data.trials["subject"].nunique()),
    "stimuli": lambda data, _: len(data.stimuli),
    "trials": lambda data, _: len(data.trials),
    "fixations": lambda data, _: len(data.fixations),
    "empty_trials": lambda data, _: int((_lengths(data) == 0).sum()),
    "fixations_outside": lambda data, _: int(outside(data.fixations, data.stimuli).sum()),
    "fixations_outside_1_to_n": _outside_1_to_n,
    "fixations_per_trial": lambda data, _: _lengths(data),
    "fixations_on_first_stimulus": lambda data, _: len(_on_first_stimulus(data)),
    "lengths_on_first_stimulus": lambda data, _: _on_first_stimulus(data).groupby("subject").size().tolist(),
    "x_px": _column("x_px"),
    "y_px": _column("y_px"),
    "t_s": _column("t_s"),
    "duration_s": _column("duration_s"),
    "first_duration_s": lambda data, _: _ends(data, "first")["duration_s"].to_numpy(float),
    "first_trial": _first_trial,
    "saccade_px": _saccades,
    "start_distance_px": _start_distance,
    "width_px": _stimulus_column("width_px"),
    "height_px": _stimulus_column("height_px"),
    "target_box_px": _target_box,
    "trials_over_limit": _over_limit,
    "trials_by": lambda data, wanted: _counts_by(data.trials, wanted),
    "fixations_by": _fixations_by,
    "stimuli_by": lambda data, wanted: _counts_by(data.stimuli, wanted),
    "subjects_by_trials": lambda data, _: {
        str(k): int(n) for k, n in data.trials["subject"].value_counts().value_counts().items()
    },
    "found_rate_by": _found_rate_by,
    "found_ending_near_target": _found_near_target,
    "trials_ending_on_target": lambda data, _: int(_on_target(_ends(data, "last")).sum()),
    "trials_reaching_target": _reaching_target,
}


def listed_measures(card: Card) -> set[str]:
    """The keys of a card's ``expect`` and ``parts`` that cannot be measured; empty for a good card."""
    keys = {key for entry in (card.expect, *card.content.get("parts", [])) for key in entry}
    return keys - set(_ABOUT_PART) - set(MEASURES)
