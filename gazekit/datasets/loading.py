"""From a name to a checked dataset: find the folder, read, check, count, split, and remember the tables."""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import shutil
import uuid
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from gazekit import __version__, tables
from gazekit.datasets.card import Card
from gazekit.datasets.dataset import GazeDataset, PartialDataWarning, read_parquet_tables
from gazekit.datasets.reading import Tables
from gazekit.errors import InputError
from gazekit.files import cache_folder, sha256_of
from gazekit.registry import Registry, unknown_name
from gazekit.tables import check_fixations, check_objects, check_stimuli, check_trials, outside

Reader = Callable[..., Tables]


def load(
    name: str | Path,
    root: Path | str | None = None,
    strict: bool = False,
    *,
    formats: Registry,
    cache: bool = True,
    **options: Any,
) -> GazeDataset:
    """See :func:`gazekit.datasets.load`, which fills in `formats`."""
    card, own_folder = _find_card(name)
    reader: Reader = formats.load(card.format)
    _check_options(card, reader, options)
    # Paths are remembered, and the working directory changes.
    folder = (own_folder or _folder_of(card, root)).absolute()
    store = _TableStore(card, folder, reader, options) if cache and not card.simulated else None
    data = store.read() if store else None
    if data is None:
        data = _check(reader(folder, card, **options), card, folder)
        if store:
            store.write(data)
    _count(data, strict)
    return data


def check_here(name: str | Path, root: Path | str | None = None) -> None:
    """Whether there is a folder to load from, without reading it.

    Raises:
        InputError: The name is not known, or the folder is not there.

    """
    card, own_folder = _find_card(name)
    if own_folder is None:
        _folder_of(card, root)


def _find_card(name: str | Path) -> tuple[Card, Path | None]:
    """The card, and the dataset's folder where the card lies with its data."""
    card = Card.read(name)
    assert card.path is not None
    folder = card.path.parent
    # A card of that name lies with its data; one of another name may stand in a collection of cards.
    beside = card.path.name == "card.yaml"
    if beside and (lacking := [part for part in card.needs if not (folder / part).exists()]):
        raise InputError(f"{folder}: lacks {', '.join(lacking)}, which its card.yaml needs; {card.mend}")
    own_file = Path(name).suffix in (".yaml", ".yml")
    whole = own_file and card.needs and all((folder / part).exists() for part in card.needs)
    return card, folder if beside or whole else None


def _folder_of(card: Card, root: Path | str | None) -> Path:
    if card.simulated:
        return Path(root) if root is not None else cache_folder() / "data" / card.name
    return data_folder(card.name, root, card.needs)


def _check_options(card: Card, reader: Reader, options: Mapping[str, Any]) -> None:
    known = [name for name in inspect.signature(reader).parameters if name not in ("folder", "card")]
    for option in options:
        if not known:
            raise InputError(f"dataset {card.name} has no options, found {option!r}; the data folder is given as root")
        if option not in known:
            raise unknown_name(f"option for dataset {card.name}", option, known)


def _check(tables: Tables, card: Card, folder: Path) -> GazeDataset:
    """The dataset, held to the rules of :mod:`gazekit.tables` and to what the card says can never be."""
    if tables.expect is not None:
        card = replace(card, expect=tables.expect)
    if tables.forced_initial is not None:
        card = replace(card, forced_initial=tables.forced_initial)
    fixations = check_fixations(tables.fixations, card.name)
    # A release that is known to have no empty trial has lost something when one is found.
    trials = check_trials(tables.trials, fixations, card.name, allow_empty=card.expect.get("empty_trials") != 0)
    stimuli = check_stimuli(tables.stimuli, card.name)
    for table, what in ((fixations, "fixations"), (trials, "trials")):
        if unknown := sorted(set(table["stimulus"]) - set(stimuli["stimulus"])):
            raise InputError(f"{folder}: {what} on stimulus {unknown[0]!r}, which is not listed; {card.mend}")
    objects = None if tables.objects is None else check_objects(tables.objects, stimuli, card.name)
    if card.expect.get("fixations_outside") == 0 and (off := outside(fixations, stimuli)).any():
        first = fixations[off].iloc[0]
        raise InputError(
            f"{folder}: {int(off.sum())} fixations lie outside their image (first: stimulus {first['stimulus']}, "
            f"subject {first['subject']}, (x, y) = ({first['x_px']:.1f}, {first['y_px']:.1f}) px); the release has "
            f"none, so a file is damaged or rescaled; {card.mend}"
        )
    trials, stimuli = card.split_rule.assign(trials, stimuli, card.name)
    return GazeDataset(fixations, trials, stimuli, card, objects, tables.changes, folder)


def _count(data: GazeDataset, strict: bool) -> None:
    """Warn, or raise where `strict`, when a copy holds fewer stimuli or subjects than the release."""
    found = {"stimuli": len(data.stimuli), "subjects": data.trials["subject"].nunique()}
    expected = {what: data.card.expect.get(what) or 0 for what in found}
    short = [
        f"{n} of {expected[what]} {what} ({expected[what] - n} missing)"
        for what, n in found.items()
        if n < expected[what]
    ]
    # A generated set is whole by construction.
    if not short or data.card.simulated:
        return
    message = f"{data.name}: {', '.join(short)} in {data.source}"
    if strict:
        raise InputError(f"{message}; {data.card.mend}, or load with strict=False")
    warnings.warn(message, PartialDataWarning, stacklevel=4)


class _TableStore:
    """The checked tables of one copy of a release, found again by everything that shaped them.

    The key covers the card, the options, gazekit's version, the code of the readers and the name, size
    and time of every file in the folder, so that nothing here can go stale.
    """

    def __init__(self, card: Card, folder: Path, reader: Reader, options: Mapping[str, Any]) -> None:
        shaped_by = {
            "version": __version__,
            "card": json.dumps(card.content, sort_keys=True, default=str),
            "options": json.dumps(options, sort_keys=True, default=str),
            "code": _code_digest(),
            "folder": str(folder.resolve()),
        }
        digest = hashlib.sha256(json.dumps(shaped_by, sort_keys=True).encode())
        beside = [folder / path for path in card.content.get("also_reads", [])]
        for line in sorted(line for part in (folder, *beside) if part.is_dir() for line in _listing(part)):
            digest.update(line.encode("utf-8", "surrogateescape"))
        self.card, self.source = card, folder
        self.folder = cache_folder() / "tables" / f"{card.name}-{digest.hexdigest()[:16]}"

    def read(self) -> GazeDataset | None:
        """The tables, or None where there are none or they cannot be read; they are then made anew."""
        if not self.folder.is_dir():
            return None
        try:
            text, digest = (self.folder / "about.json").read_text(encoding="utf-8").split("\n")
            about = json.loads(text)
            found = {name: sha256_of(self.folder / name) for name in about["files"]}
            if found != about["files"] or hashlib.sha256(text.encode()).hexdigest() != digest:
                raise ValueError("damaged")
            card = replace(self.card, forced_initial=about["forced_initial"], expect=about["expect"])
            return GazeDataset(
                **read_parquet_tables(self.folder), card=card, changes=tuple(about["changes"]), source=self.source
            )
        except Exception:  # whatever damage makes pandas and json trip over
            shutil.rmtree(self.folder, ignore_errors=True)
            return None

    def write(self, data: GazeDataset) -> None:
        """Store the tables; a cache that cannot be written costs time later, and nothing else."""
        aside = self.folder.with_name(f".{self.folder.name}.{os.getpid()}.{uuid.uuid4().hex[:8]}.part")
        try:
            data.to_parquet(aside)
            about = {"changes": data.changes, "expect": data.card.expect, "forced_initial": data.card.forced_initial}
            # Damage could otherwise pass for data: Parquet holds no checksums.
            text = json.dumps({**about, "files": {path.name: sha256_of(path) for path in aside.iterdir()}})
            digest = hashlib.sha256(text.encode()).hexdigest()
            (aside / "about.json").write_text(f"{text}\n{digest}", encoding="utf-8")
            # Another process may have been first; its tables are the same.
            aside.replace(self.folder)
        except OSError:
            pass
        finally:
            shutil.rmtree(aside, ignore_errors=True)


@lru_cache(maxsize=1)
def _code_digest() -> str:
    """Over all that can shape a table: a reader uses more than its own file."""
    digest = hashlib.sha256(Path(tables.__file__).read_bytes())
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _listing(folder: Path) -> Iterable[str]:
    """Name, size and time of every file below `folder`."""
    # Behind links too, where large folders often are; each real folder once, for links can go round.
    below, seen = [folder], {os.path.realpath(folder)}
    while below:
        with os.scandir(below.pop()) as entries:
            for entry in entries:
                try:
                    is_folder, about = entry.is_dir(), entry.stat()
                except OSError:  # a link that leads nowhere, or to itself
                    is_folder, about = False, entry.stat(follow_symlinks=False)
                if is_folder:
                    if (real := os.path.realpath(entry.path)) not in seen:
                        seen.add(real)
                        below.append(Path(entry.path))
                    continue
                yield f"{os.path.relpath(entry.path, folder)}\t{about.st_size}\t{about.st_mtime_ns}\n"


def data_folder(name: str, root: Path | str | None, needs: Iterable[str]) -> Path:
    """The folder that holds dataset `name`.

    Args:
        name: The dataset.
        root: A data folder (with `name` inside) or the dataset's own folder. None looks in
            ``$GAZEKIT_DATA`` and then in the cache.
        needs: Files or folders that the dataset's own folder must contain.

    Raises:
        InputError: Not found; the message lists where it was looked for and what is missing.

    """
    if root is not None:
        candidates = [Path(root) / name, Path(root)]
    else:
        environment = os.environ.get("GAZEKIT_DATA")
        candidates = [Path(environment) / name] if environment else []
        candidates.append(cache_folder() / "data" / name)
    needed = list(needs)
    for folder in candidates:
        # A card that needs no file in particular must not take an empty folder for a copy.
        if folder.is_dir() and all((folder / part).exists() for part in needed) and _has_files(folder):
            return folder
    looked = ", ".join(f"{folder} ({_lack(folder, needed)})" for folder in candidates)
    raise InputError(
        f"dataset {name!r} is not here: looked in {looked}; run 'gazekit data fetch {name}', "
        "or set GAZEKIT_DATA to the folder that contains it"
    )


def _has_files(folder: Path) -> bool:
    return any(not path.name.startswith(".") for path in folder.iterdir())


def _lack(folder: Path, needed: list[str]) -> str:
    if not folder.is_dir():
        return "no such folder"
    if not _has_files(folder):
        return "empty"
    return "lacks " + ", ".join(part for part in needed if not (folder / part).exists())
