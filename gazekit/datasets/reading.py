"""What the readers of the authors' files share: collecting trials, listing images, opening MATLAB and JSON files.

A reader is a function ``read_NAME(folder, card, **options) -> Tables``. It opens files, converts
units and names the columns; :mod:`gazekit.datasets.loading` finds the folder, checks the tables,
counts, splits and caches. Every fault it meets is one :class:`~gazekit.errors.InputError` that names
the file.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from gazekit.datasets.card import Card
from gazekit.datasets.images import image_size_wh_px
from gazekit.datasets.matlab import variables
from gazekit.errors import InputError

_COLUMN_WORDS = {"x_px": "x", "y_px": "y", "t_s": "onsets", "duration_s": "durations"}


@dataclass(frozen=True)
class Tables:
    """What a reader returns.

    Args:
        fixations: Rows as in :mod:`gazekit.tables`.
        trials: Likewise.
        stimuli: Likewise, without ``split``.
        changes: What was changed on the way, one sentence each; empty where the values are those of
            the files up to units.
        objects: Boxes of objects on the stimuli, or None.
        expect: Counts and moments that hold under the reader's options in place of the card's, or None.
        forced_initial: Whether the first fixation in these tables was forced, where an option decides that.

    """

    fixations: pd.DataFrame
    trials: pd.DataFrame
    stimuli: pd.DataFrame
    changes: tuple[str, ...] = ()
    objects: pd.DataFrame | None = None
    expect: Mapping[str, Any] | None = None
    forced_initial: bool | None = None


@dataclass
class TrialCollector:
    """Takes trials one after the other and makes the fixation and the trial table of them."""

    card: Card
    _trials: list[dict[str, Any]] = field(default_factory=list)
    _lengths: list[int] = field(default_factory=list)
    _columns: dict[str, list[NDArray[np.float64]]] = field(default_factory=lambda: {name: [] for name in _COLUMN_WORDS})

    def add(
        self,
        where: str,
        subject: str,
        stimulus: str,
        x_px: ArrayLike,
        y_px: ArrayLike,
        t_s: ArrayLike | None = None,
        duration_s: ArrayLike | None = None,
        task: str | None = None,
        per_fixation: Mapping[str, ArrayLike] | None = None,
        **columns: Any,
    ) -> None:
        """One trial.

        Args:
            where: File and place in it, for error messages.
            subject: Name of the subject.
            stimulus: Name of the stimulus.
            x_px: (T,) positions.
            y_px: (T,) positions.
            t_s: (T,) onsets, or None where unknown.
            duration_s: (T,) durations, or None where unknown.
            task: None is the card's.
            per_fixation: Further columns of the fixation table, each (T,); the same ones for every trial.
            columns: Further columns of the trial table.

        Raises:
            InputError: The lists differ in length, or hold something else than numbers.

        """
        given: dict[str, ArrayLike | None] = {"x_px": x_px, "y_px": y_px, "t_s": t_s, "duration_s": duration_s}
        given |= dict(per_fixation or {})
        arrays = {name: self._numbers(value, name, where) for name, value in given.items() if value is not None}
        lengths = {name: len(array) for name, array in arrays.items()}
        if len(set(lengths.values())) > 1:
            counts = ", ".join(f"{n} {_COLUMN_WORDS.get(name, name)}" for name, n in lengths.items())
            raise InputError(f"{where}: {counts}, expected equally many; {self.card.mend}")
        n = len(arrays["x_px"])
        for name in given:
            self._columns.setdefault(name, []).append(arrays[name] if name in arrays else np.full(n, np.nan))
        self._trials.append(
            {
                "trial": len(self._trials),
                "subject": subject,
                "stimulus": stimulus,
                "task": task or self.card.content.get("task", "free_viewing"),
                **columns,
            }
        )
        self._lengths.append(n)

    def _numbers(self, value: ArrayLike, name: str, where: str) -> NDArray[np.float64]:
        try:
            numbers = np.asarray(value, dtype=np.float64).ravel()
        except (TypeError, ValueError, OverflowError) as error:
            raise InputError(
                f"{where}: {_COLUMN_WORDS.get(name, name)} are not a list of numbers; {self.card.mend}"
            ) from error
        return numbers

    def tables(self, source: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
        """The fixation and the trial table.

        Raises:
            InputError: There was no trial; `source` is named.

        """
        if not self._trials:
            raise InputError(f"{source}: holds no trial; {self.card.mend}")
        trials = pd.DataFrame(self._trials)
        lengths = np.array(self._lengths)
        of_fixation = np.repeat(np.arange(len(lengths)), lengths)
        starts = np.cumsum(lengths) - lengths
        fixations = trials.loc[of_fixation, ["subject", "stimulus", "trial"]].reset_index(drop=True)
        fixations["fixation"] = np.arange(len(of_fixation)) - starts[of_fixation]
        for name, parts in self._columns.items():
            fixations[name] = np.concatenate(parts)
        return fixations, trials


def fixated_pixels(
    fixated: Any, size_wh_px: tuple[int, int], where: Path | str, card: Card
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Column and row of every pixel that is not 0, in raster order.

    Args:
        fixated: (H, W) numbers; anything else is refused.
        size_wh_px: What it must measure.
        where: File and place in it, for the message.
        card: For the end of the message.

    Raises:
        InputError: It is not a matrix of that size, or holds something that is not a number.

    """
    width, height = size_wh_px
    if not isinstance(fixated, np.ndarray) or fixated.dtype.kind not in "iufb":
        not_authors(where, card, f"a {width}x{height} px map of fixated pixels", "no matrix of numbers")
    if fixated.shape != (height, width):
        found = "x".join(map(str, fixated.shape[::-1]))
        not_authors(where, card, f"a {width}x{height} px map of fixated pixels", f"a matrix of {found}")
    if np.isnan(fixated).any():
        not_authors(where, card, f"a {width}x{height} px map of fixated pixels", "NaN in the map")
    row, column = np.nonzero(fixated)
    return column, row


def plain_name(name: object, where: Path | str, card: Card) -> str:
    """`name`, if it is a file name and nothing else; a path could lead out of the dataset's folder.

    Raises:
        InputError: It is empty, not text, or has a folder in it.

    """
    if not isinstance(name, str) or not name or name in (".", "..") or set(name) & set("/\\\0"):
        raise InputError(f"{where}: {name!r} is not the name of a file; {card.mend}")
    return str(name)


def list_stimuli(
    paths: Mapping[str, Path],
    card: Card,
    expected_wh_px: tuple[int, int] | None = None,
    sizes_wh_px: Mapping[str, tuple[int, int]] | None = None,
    **columns: Any,
) -> pd.DataFrame:
    """The stimulus table from one image file per stimulus.

    Args:
        paths: Stimulus -> image.
        card: Whose ``images`` says if an image may be missing; its ``path`` is then empty.
        expected_wh_px: Size that every image must have; None accepts any.
        sizes_wh_px: Stimulus -> size as the eye movement files state it. An image must have it, and a
            missing image is listed with it.
        columns: Further columns, each a list in the order of `paths`.

    Raises:
        InputError: An image is missing, unreadable or of another size.

    """
    absent = [path for path in paths.values() if not path.is_file()]
    if absent and not card.images_optional:
        raise InputError(f"{absent[0]}: image missing ({len(absent)} of {len(paths)} are); {card.mend}")
    missing = set(absent)
    sizes = []
    for name, path in paths.items():
        expected = sizes_wh_px[name] if sizes_wh_px is not None else expected_wh_px
        found = expected if path in missing else image_size_wh_px(path)
        if found is None:
            raise InputError(f"{path}: image missing, and its size is not stated elsewhere; {card.mend}")
        if expected is not None and found != expected:
            raise InputError(
                f"{path}: image is {found[0]}x{found[1]} px, expected {expected[0]}x{expected[1]}; {card.mend}"
            )
        sizes.append(found)
    width, height = zip(*sizes, strict=True) if sizes else ((), ())
    return pd.DataFrame(
        {
            "stimulus": list(paths),
            "path": ["" if path in missing else str(path) for path in paths.values()],
            "width_px": width,
            "height_px": height,
            **columns,
        }
    )


def read_mat(path: Path, card: Card, expected: str) -> dict[str, Any]:
    """The variables of a MATLAB v5 to v7 file; see :func:`gazekit.datasets.matlab.variables`.

    Args:
        path: The file.
        card: For the end of the message.
        expected: What the file should hold, for the message.

    Raises:
        InputError: It is missing, truncated, not such a file, or does not add up.

    """
    try:
        return variables(path.read_bytes())
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error}); {card.mend}") from error
    except Exception as error:  # NumPy and the codecs have their own ways to refuse
        not_authors(path, card, expected, error)


def not_authors(path: Path | str, card: Card, expected: str, error: Exception | str) -> NoReturn:
    """Raise the one message for a file that is not what the authors released."""
    found = error if isinstance(error, str) else f"{type(error).__name__}: {' '.join(str(error).split())}"
    raise InputError(f"{path}: not the authors' file ({found}), expected {expected}; {card.mend}") from (
        None if isinstance(error, str) else error
    )


def read_json(path: Path, card: Card, expected: str) -> Any:
    """The content of a JSON file; ``NaN`` and ``Infinity``, which JSON does not have, are refused.

    Raises:
        InputError: The file is missing, not UTF-8 or not JSON.

    """

    def refuse(constant: str) -> NoReturn:
        raise ValueError(f"{constant} is not a JSON number")

    try:
        return json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error}); {card.mend}") from error
    except (ValueError, RecursionError) as error:  # JSONDecodeError and UnicodeDecodeError are ValueErrors
        not_authors(path, card, expected, error)


def numbers(record: Mapping[str, Any], key: str, where: str, card: Card) -> list[float]:
    """The finite numbers under `key`; text, null, true and nested lists are none.

    Raises:
        InputError: It is missing or something else.

    """
    values = record.get(key)
    try:
        # By type, not isinstance: true and false are integers to Python.
        if isinstance(values, list) and set(map(type, values)) <= {int, float} and all(map(math.isfinite, values)):
            return values
    except OverflowError:  # an integer with hundreds of digits
        pass
    found = "missing" if key not in record else f"{values!r:.80}"
    raise InputError(f"{where}: {key} is {found}, expected a list of numbers; {card.mend}")


def number(record: Mapping[str, Any], key: str, where: str, card: Card) -> float:
    """The finite number under `key`; text, null and true are none.

    Raises:
        InputError: It is missing or something else.

    """
    value: Any = record.get(key)
    known = isinstance(value, int | float) and not isinstance(value, bool)
    if not known or not abs(value) <= sys.float_info.max:
        found = "missing" if key not in record else f"{value!r:.80}"
        raise InputError(f"{where}: {key} is {found}, expected a number; {card.mend}")
    checked: float = value
    return checked
