"""A dataset in memory: three tables, a screen and a card; and where its files are looked for."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from gazekit.datasets.card import Card
from gazekit.errors import InputError
from gazekit.files import cache_folder, written_aside
from gazekit.geometry import Screen

SPLITS = ("train", "val", "test")
_TABLES = ("fixations", "trials", "stimuli")


class PartialDataWarning(UserWarning):
    """A copy of a dataset holds fewer stimuli than its card counts."""


@dataclass(frozen=True)
class GazeDataset:
    """Fixation, trial and stimulus tables (see :mod:`gazekit.tables`) with their card.

    ``stimuli`` carries, beyond the standard columns, ``split``: the card's train, val or test.
    """

    fixations: pd.DataFrame
    trials: pd.DataFrame
    stimuli: pd.DataFrame
    card: Card

    @property
    def name(self) -> str:
        return self.card.name

    @property
    def screen(self) -> Screen:
        return self.card.screen

    def __repr__(self) -> str:
        counts = f"{len(self.stimuli)} stimuli, {self.trials['subject'].nunique()} subjects"
        return f"<GazeDataset {self.card.label}: {counts}, {len(self.trials)} trials, {len(self.fixations)} fixations>"

    def subset(self, stimuli: Collection[str] | None = None, subjects: Collection[str] | None = None) -> GazeDataset:
        """The part with these stimuli and these subjects; trial numbers stay as they are.

        Raises:
            InputError: A name is not in the dataset.

        """
        parts = {name: getattr(self, name) for name in _TABLES}
        for column, keep, table in (("stimulus", stimuli, self.stimuli), ("subject", subjects, self.trials)):
            if keep is None:
                continue
            if unknown := sorted(set(keep) - set(table[column])):
                raise InputError(f"{self.name}: no {column} named {unknown[0]!r} ({len(unknown)} unknown in all)")
            parts = {
                name: part[part[column].isin(list(keep))].reset_index(drop=True) if column in part else part
                for name, part in parts.items()
            }
        return replace(self, **parts)

    def split(self, name: str) -> GazeDataset:
        """The stimuli of ``train``, ``val`` or ``test``, several joined by ``+``, or ``all``.

        Raises:
            InputError: The name is none of these, or the split is empty.

        """
        wanted = check_split_name(name)
        keep = self.stimuli.loc[self.stimuli["split"].isin(list(wanted)), "stimulus"]
        if keep.empty:
            raise InputError(f"{self.name}: split {name!r} holds none of the {len(self.stimuli)} stimuli here")
        return self.subset(stimuli=list(keep))

    def fingerprint(self) -> str:
        """Hex digest over the tables' content; it changes whenever a row does."""
        digest = hashlib.sha256(self.name.encode())
        for name in _TABLES:
            table = getattr(self, name).drop(columns="path", errors="ignore")
            digest.update(pd.util.hash_pandas_object(table, index=False).to_numpy().tobytes())
        return digest.hexdigest()[:16]

    def to_parquet(self, folder: Path) -> None:
        """Write ``fixations.parquet``, ``trials.parquet`` and ``stimuli.parquet`` into `folder`."""
        for name in _TABLES:
            with written_aside(Path(folder) / f"{name}.parquet") as aside:
                getattr(self, name).to_parquet(aside, index=False)

    @classmethod
    def from_parquet(cls, folder: Path, card: str | Path) -> GazeDataset:
        """Read back what :meth:`to_parquet` wrote, under the card of that name or file."""
        try:
            tables = {name: pd.read_parquet(Path(folder) / f"{name}.parquet") for name in _TABLES}
        except (OSError, ValueError) as error:
            raise InputError(f"{folder}: not a folder written by to_parquet ({error})") from error
        return cls(**tables, card=Card.read(card))


def check_split_name(name: str) -> set[str]:
    """The splits that a name such as ``train+val`` or ``all`` stands for.

    Raises:
        InputError: It stands for none.
    """
    wanted = set(SPLITS) if name == "all" else set(name.split("+"))
    if unknown := wanted - set(SPLITS):
        raise InputError(f"no split named {sorted(unknown)[0]!r}; known: all, {', '.join(SPLITS)}, or joined by +")
    return wanted


def data_folder(name: str, root: Path | str | None, marker: Iterable[str]) -> Path:
    """The folder that holds dataset `name`.

    Args:
        name: The dataset.
        root: A data folder (with `name` inside) or the dataset's own folder. None looks in
            ``$GAZEKIT_DATA`` and then in the cache.
        marker: Files or folders that the dataset's own folder must contain.

    Raises:
        InputError: Not found; the message lists where it was looked for and what is missing.

    """
    if root is not None:
        candidates = [Path(root) / name, Path(root)]
    else:
        environment = os.environ.get("GAZEKIT_DATA")
        candidates = [Path(environment) / name] if environment else []
        candidates.append(cache_folder() / "data" / name)
    needed = list(marker)
    for folder in candidates:
        if folder.is_dir() and all((folder / part).exists() for part in needed):
            return folder
    looked = ", ".join(f"{folder} ({_lack(folder, needed)})" for folder in candidates)
    raise InputError(
        f"dataset {name!r} is not here: looked in {looked}; run 'gazekit data fetch {name}', "
        "or set GAZEKIT_DATA to the folder that contains it"
    )


def _lack(folder: Path, needed: list[str]) -> str:
    if not folder.is_dir():
        return "no such folder"
    return "lacks " + ", ".join(part for part in needed if not (folder / part).exists())
