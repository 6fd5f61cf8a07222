"""Checks of the numbers that a model is built with: one line that says what was given, and what is taken."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from gazekit.errors import InputError


def check_whole(model: str, least: int, **values: Any) -> None:
    """Every one is a whole number of `least` or more.

    Raises:
        InputError: One is not, or is no number at all.

    """
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise InputError(f"{model}: {name} is {value!r}, expected a whole number of {least} or more")


def check_share(model: str, **values: Any) -> None:
    """Every one is from 0 to below 1.

    Raises:
        InputError: One is not, or is no number at all.

    """
    for name, value in values.items():
        if not _is_number(value) or not 0 <= value < 1:
            raise InputError(f"{model}: {name} is {value!r}, expected a share from 0 to below 1")


def check_positive(model: str, **values: Any) -> None:
    """Every one is a finite number above 0.

    Raises:
        InputError: One is not, or is no number at all.

    """
    for name, value in values.items():
        if not _is_number(value) or not 0 < value < math.inf:
            raise InputError(f"{model}: {name} is {value!r}, expected a number above 0")


def check_not_negative(model: str, **values: Any) -> None:
    """Every one is a finite number of 0 or more.

    Raises:
        InputError: One is not, or is no number at all.

    """
    for name, value in values.items():
        if not _is_number(value) or not 0 <= value < math.inf:
            raise InputError(f"{model}: {name} is {value!r}, expected a number of 0 or more")


def whole_pair(model: str, name: str, value: Any, least: int, what: str) -> tuple[int, int]:
    """Two whole numbers of `least` or more; `what` says which two.

    Raises:
        InputError: They are something else.

    """
    pair = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else []
    whole = all(isinstance(number, int) and not isinstance(number, bool) and number >= least for number in pair)
    if len(pair) != 2 or not whole:
        raise InputError(f"{model}: {name} is {value!r}, expected {what}, two whole numbers of {least} or more")
    return pair[0], pair[1]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
