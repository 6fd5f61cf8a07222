"""Train, val and test: by stimulus, subject, target, layout or any other column, by hash or by list.

Never by trial, unless a rule asks for it by name: trials on one image share what is on it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from gazekit.errors import InputError

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class SplitRule:
    """One way to divide a dataset.

    Args:
        by: Column whose values stay together: ``stimulus``, ``subject``, ``target``, ``trial``, or any
            other column of the stimulus or trial table.
        seed: With `val` and `test` as fractions. Each value is placed by a hash of the seed and its
            own name, so it keeps its place when a partial copy of the data grows; the fractions hold
            on average.
        val: Fraction, or the values that go to val.
        test: Fraction, or the values that go to test; all others are for training.
        folds: With a seed, in place of fractions: into how many folds the hashes divide the values, and which of them
            is test; the next one is val.

    """

    by: str
    seed: int | None
    val: float | tuple[str, ...]
    test: float | tuple[str, ...]
    folds: tuple[int, int] | None = None

    @classmethod
    def read(cls, rule: Any, what: str) -> SplitRule:
        """A rule from a card or a recipe.

        ``{by, seed, val, test}``, ``{by, val: [...], test: [...]}`` or ``{by, seed, folds, fold}``.

        Args:
            rule: The mapping.
            what: Where it stands; opens the error message.

        Raises:
            InputError: It is none of these.

        """
        form = "{by: COLUMN, seed: INT, val: FRACTION, test: FRACTION} or {by: COLUMN, val: [...], test: [...]}"
        if isinstance(rule, Mapping) and "fold" in rule:
            return cls._read_fold(rule, what)
        if not isinstance(rule, Mapping) or set(rule) - {"seed"} != {"by", "val", "test"}:
            raise InputError(f"{what} is {rule!r}, expected {form}")
        val, test = rule["val"], rule["test"]
        if not isinstance(rule["by"], str):
            raise InputError(f"{what}: by is {rule['by']!r}, expected the name of a column")
        if "seed" in rule:
            numbers = all(isinstance(part, int | float) and 0 <= part < 1 for part in (val, test))
            if not numbers or val + test >= 1 or not isinstance(rule["seed"], int):
                raise InputError(
                    f"{what}: val {val!r} and test {test!r} must be fractions that leave some for training"
                )
            return cls(rule["by"], rule["seed"], float(val), float(test))
        if not isinstance(val, list) or not isinstance(test, list) or set(map(str, val)) & set(map(str, test)):
            raise InputError(
                f"{what}: val and test must be lists without a common entry, or give a seed; expected {form}"
            )
        return cls(rule["by"], None, tuple(map(str, val)), tuple(map(str, test)))

    @classmethod
    def _read_fold(cls, rule: Mapping[str, Any], what: str) -> SplitRule:
        numbers = [rule.get(key) for key in ("seed", "folds", "fold")]
        whole = all(isinstance(number, int) and not isinstance(number, bool) for number in numbers)
        if set(rule) != {"by", "seed", "folds", "fold"} or not isinstance(rule["by"], str) or not whole:
            raise InputError(f"{what} is {dict(rule)!r}, expected {{by: COLUMN, seed: INT, folds: INT, fold: INT}}")
        seed, folds, fold = rule["seed"], rule["folds"], rule["fold"]
        if folds < 3 or not 0 <= fold < folds:
            raise InputError(
                f"{what}: fold {fold} of {folds}; expected 3 folds or more (test, val, training) and 0 <= fold < folds"
            )
        return cls(rule["by"], seed, 0.0, 0.0, (folds, fold))

    def of(self, values: pd.Series) -> pd.Series:
        """The split of each value of the column `by`."""
        if self.folds is not None:
            folds, fold = self.folds
            names = {fold: "test", (fold + 1) % folds: "val"}
            return values.map(
                lambda value: names.get(int(folds * _hash_to_unit(f"{self.seed}/{value}")), "train")
            ).astype("str")
        if self.seed is None:
            assert isinstance(self.val, tuple)
            assert isinstance(self.test, tuple)
            named = dict.fromkeys(self.val, "val") | dict.fromkeys(self.test, "test")
            return values.map(lambda value: named.get(str(value), "train")).astype("str")
        assert isinstance(self.val, float)
        assert isinstance(self.test, float)
        # By its text: NaN, as a key, is not found again.
        place = {str(value): _hash_to_unit(f"{self.seed}/{value}") for value in values.unique()}
        bounds = self.test, self.test + self.val
        return values.map(
            lambda value: (
                "test" if place[str(value)] < bounds[0] else "val" if place[str(value)] < bounds[1] else "train"
            )
        ).astype("str")

    def assign(self, trials: pd.DataFrame, stimuli: pd.DataFrame, what: str) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Both tables with a column ``split``.

        A rule over a column of the stimulus table divides the stimuli, and the trials with them. A rule
        over a column of the trial table divides the trials; one stimulus can then be in several splits,
        and its own ``split`` is empty.

        Raises:
            InputError: Neither table has the column.

        """
        if self.by in stimuli:
            stimuli = stimuli.assign(split=self.of(stimuli[self.by]))
            split = trials["stimulus"].map(stimuli.set_index("stimulus")["split"])
            return trials.assign(split=split.astype("str")), stimuli
        if self.by not in trials:
            columns = sorted({*trials.columns, *stimuli.columns} - {"split"})
            raise InputError(f"{what}: cannot split by {self.by!r}; columns are {columns}")
        return trials.assign(split=self.of(trials[self.by])), stimuli.assign(
            split=pd.Series("", index=stimuli.index, dtype="str")
        )


def _hash_to_unit(text: str) -> float:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2.0**64


def check_split_name(name: str) -> set[str]:
    """The splits that a name such as ``train+val`` or ``all`` stands for.

    Raises:
        InputError: It stands for none.
    """
    wanted = set(SPLITS) if name == "all" else set(name.split("+"))
    if unknown := wanted - set(SPLITS):
        raise InputError(f"no split named {sorted(unknown)[0]!r}; known: all, {', '.join(SPLITS)}, or joined by +")
    return wanted
