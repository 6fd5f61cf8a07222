"""A dataset in memory: its tables, a screen and a card."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from gazekit.datasets.card import Card
from gazekit.datasets.split import SplitRule, check_split_name
from gazekit.errors import InputError
from gazekit.files import written_aside
from gazekit.geometry import Screen

# The three that every dataset has; `objects` is a fourth that some have.
TABLES = ("fixations", "trials", "stimuli")
# Where files lie differs between machines and says nothing about the data.
_PATHS = ("path", "target_path")
# Keys of a card that speak of the authors' files.
_ABOUT_FILES = ("files", "needs", "download", "archives", "manual", "also_reads", "parts")


class PartialDataWarning(UserWarning):
    """A copy of a dataset holds fewer stimuli than its card counts."""


@dataclass(frozen=True)
class GazeDataset:
    """Fixation, trial and stimulus tables (see :mod:`gazekit.tables`) with their card.

    Args:
        fixations: One row per fixation.
        trials: One row per trial, with ``split``: train, val or test.
        stimuli: One row per stimulus, with ``split``; empty where the rule divides trials instead.
        card: What is known about the data.
        objects: Boxes of objects on the stimuli, or None.
        changes: What the reader changed; empty where the values are those of the files up to units.
        source: Folder the files were read from; None for tables made in memory.

    """

    fixations: pd.DataFrame
    trials: pd.DataFrame
    stimuli: pd.DataFrame
    card: Card
    objects: pd.DataFrame | None = None
    changes: tuple[str, ...] = ()
    source: Path | None = None

    @property
    def name(self) -> str:
        return self.card.name

    @property
    def screen(self) -> Screen:
        """Geometry of the display.

        Raises:
            InputError: The release does not state it, so degrees of visual angle are not known.

        """
        if self.card.screen is None:
            raise InputError(
                f"{self.name}: the release does not state the viewing geometry, so degrees of visual angle are not "
                "known; give one with data.with_screen(Screen(...)), and say so where you report numbers"
            )
        return self.card.screen

    def with_screen(self, screen: Screen | Mapping[str, Any]) -> GazeDataset:
        """The same data under a geometry of your own, for releases that do not state one; `changes` says so.

        >>> data.with_screen(Screen(size_wh_px=(1024, 768), measured_px_per_dva=32))

        Raises:
            InputError: It is neither a screen nor the ``screen`` block of a card.

        """
        if not isinstance(screen, Screen):
            if not isinstance(screen, Mapping):
                raise InputError(f"{self.name}: screen is {screen!r}, expected a Screen")
            screen = Screen.from_card(screen)
        kept = {key: value for key, value in asdict(screen).items() if value is not None}
        plain = {key: list(value) if isinstance(value, tuple) else value for key, value in kept.items()}
        card = replace(self.card, screen=screen, content={**self.card.content, "screen": plain})
        said = f"The screen was given by the user ({screen.px_per_dva:g} px per dva), not by the release."
        return replace(self, card=card, changes=(*self.changes, said))

    def __repr__(self) -> str:
        counts = f"{len(self.stimuli)} stimuli, {self.trials['subject'].nunique()} subjects"
        return f"<GazeDataset {self.card.label}: {counts}, {len(self.trials)} trials, {len(self.fixations)} fixations>"

    def subset(
        self,
        stimuli: Collection[str] | None = None,
        subjects: Collection[str] | None = None,
        trials: Collection[int] | None = None,
    ) -> GazeDataset:
        """The part with these stimuli, these subjects and these trials; trial numbers stay as they are.

        Choosing trials keeps the stimuli that they are on; choosing subjects keeps all stimuli.

        Raises:
            InputError: A name is not in the dataset.

        """
        parts = {name: getattr(self, name) for name in (*TABLES, "objects") if getattr(self, name) is not None}
        chosen = (
            ("stimulus", stimuli, self.stimuli),
            ("subject", subjects, self.trials),
            ("trial", trials, self.trials),
        )
        for column, keep, table in chosen:
            if keep is None:
                continue
            if unknown := sorted(set(keep) - set(table[column]), key=str):
                raise InputError(f"{self.name}: no {column} named {unknown[0]!r} ({len(unknown)} unknown in all)")
            parts = {
                name: part[part[column].isin(list(keep))].reset_index(drop=True) if column in part else part
                for name, part in parts.items()
            }
        if trials is not None:
            seen = set(parts["trials"]["stimulus"])
            for name in parts.keys() & {"stimuli", "objects"}:
                parts[name] = parts[name][parts[name]["stimulus"].isin(seen)].reset_index(drop=True)
        return replace(self, **parts)

    def split(self, name: str) -> GazeDataset:
        """What belongs to ``train``, ``val`` or ``test``, to several joined by ``+``, or to ``all``.

        Raises:
            InputError: The name is none of these, or the split is empty.

        """
        wanted = list(check_split_name(name))
        if name == "all":
            return self
        if (self.stimuli["split"] != "").any():
            keep = self.stimuli.loc[self.stimuli["split"].isin(wanted), "stimulus"]
            part = self.subset(stimuli=list(keep))
        else:
            part = self.subset(trials=self.trials.loc[self.trials["split"].isin(wanted), "trial"].tolist())
        if part.stimuli.empty:
            raise InputError(f"{self.name}: split {name!r} holds none of the {len(self.stimuli)} stimuli here")
        return part

    def resplit(self, rule: Mapping[str, Any]) -> GazeDataset:
        """The same data divided by another rule than the card's; see :class:`~gazekit.datasets.split.SplitRule`.

        >>> data.resplit({"by": "subject", "seed": 1, "val": 0.1, "test": 0.2})

        Raises:
            InputError: The rule is not one, or names a column that neither table has.

        """
        trials, stimuli = SplitRule.read(rule, "split").assign(self.trials, self.stimuli, self.name)
        # The rule goes into the card, so that what is written and read again is divided likewise.
        card = replace(self.card, content={**self.card.content, "split": dict(rule)})
        return replace(self, trials=trials, stimuli=stimuli, card=card)

    def fingerprint(self) -> str:
        """Hex digest over the tables' content; it changes whenever a row does."""
        digest = hashlib.sha256(self.name.encode())
        for name in (*TABLES, "objects"):
            if getattr(self, name) is None:
                continue
            table = getattr(self, name).drop(columns=list(_PATHS), errors="ignore")
            digest.update(f"{name}: {' '.join(map(str, table.columns))}".encode())
            digest.update(pd.util.hash_pandas_object(table, index=False).to_numpy().tobytes())
        return digest.hexdigest()[:16]

    def to_pysaliency(self, times: str = "seconds") -> tuple[Any, Any]:
        """Pysaliency's stimuli and scanpaths; see :func:`gazekit.datasets.pysaliency_exchange.to_pysaliency`."""
        from gazekit.datasets.pysaliency_exchange import to_pysaliency

        return to_pysaliency(self, times)

    def to_parquet(self, folder: Path | str) -> None:
        """Write the tables and the card into `folder`, which ``load(folder)`` then reads.

        The files are ``fixations.parquet``, ``trials.parquet``, ``stimuli.parquet``, ``objects.parquet``
        where there are objects, and ``card.yaml``. Images stay where they are; their absolute paths are kept.
        """
        for name in (*TABLES, "objects"):
            if (table := getattr(self, name)) is not None:
                for column in [column for column in _PATHS if column in table]:
                    # The folder may be read from anywhere.
                    absolute = [str(Path(path).absolute()) if path else "" for path in table[column].fillna("")]
                    table = table.assign(**{column: pd.Series(absolute, index=table.index, dtype="str")})
                with written_aside(Path(folder) / f"{name}.parquet") as aside:
                    table.to_parquet(aside, index=False)
        kept = {key: value for key, value in self.card.content.items() if key not in _ABOUT_FILES}
        own = {"format": "tables", "images": "optional", "needs": ["fixations.parquet"], "changes": list(self.changes)}
        content = {**kept, **own, "expect": self.card.expect, "forced_initial": self.card.forced_initial}
        with written_aside(Path(folder) / "card.yaml") as aside:
            aside.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), encoding="utf-8")

    @classmethod
    def from_parquet(cls, folder: Path | str, card: str | Path | None = None) -> GazeDataset:
        """Read back what :meth:`to_parquet` wrote, under its own card or the one of that name or file.

        Raises:
            InputError: A file is missing or damaged.

        """
        folder = Path(folder)
        found = Card.read(card or folder / "card.yaml")
        changes = tuple(found.content.get("changes", ()))
        return cls(**read_parquet_tables(folder), card=found, changes=changes, source=folder)


def read_parquet_tables(folder: Path) -> dict[str, pd.DataFrame]:
    """The tables that :meth:`GazeDataset.to_parquet` wrote.

    Raises:
        InputError: A file is missing or damaged.

    """
    names = [*TABLES, *(["objects"] if (folder / "objects.parquet").exists() else [])]
    try:
        return {name: pd.read_parquet(folder / f"{name}.parquet") for name in names}
    except (OSError, ValueError) as error:  # pyarrow's errors are ValueErrors
        reason = " ".join(str(error).split())
        raise InputError(f"{folder}: not a folder written by to_parquet ({reason}); write it again") from error
