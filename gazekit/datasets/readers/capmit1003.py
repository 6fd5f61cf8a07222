"""CapMIT1003 (Zanca et al. 2023): captions of the MIT1003 images, and the clicks that revealed the image meanwhile.

Read from the authors' ``capmit1003.db`` (SQLite): tables ``captions(obs_uid, usr_uid, start_time,
caption, img_uid)``, ``images(img_uid, img_path)`` and ``clicks(click_id, obs_uid, x, y, click_time)``.
The images are those of MIT1003 and travel with it.

The file is opened as if it were hostile: read only, without extensions, and only plain columns of
real tables are read, each in one pass and in memory that is bounded. Rows are ordered and matched
here and not by the file's own indexes, which can be wrong.
"""

from __future__ import annotations

import math
import re
import sqlite3
import time
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gazekit.datasets.card import Card
from gazekit.datasets.readers.mit1003 import natural, unpacked
from gazekit.datasets.reading import Tables, TrialCollector, list_stimuli, not_authors, plain_name
from gazekit.errors import InputError

_COLUMNS = {
    "captions": ("obs_uid", "usr_uid", "start_time", "caption", "img_uid"),
    "images": ("img_uid", "img_path"),
    "clicks": ("click_id", "obs_uid", "x", "y", "click_time"),
}
_EXPECTED = "an SQLite file with the tables captions, images and clicks"
# The release is said to have some thousand captions and some ten thousand clicks.
_MOST_ROWS = {"captions": 200_000, "images": 20_000, "clicks": 2_000_000}
_LONGEST_TEXT = 10_000
_LONGEST_VALUE_BYTES = 1_000_000
_LONGEST_READ_S = 120.0
_STEPS_PER_LOOK = 100_000
_LONGEST_NAME_BYTES = 255
_TIMESTAMP = re.compile(r"(\d{4}-\d\d-\d\d)[ T](\d\d:\d\d:\d\d(?:\.\d{1,9})?) ?(Z|[+-]\d\d:?\d\d)?")
# A number is Unix time; the years 2000 to 2100 tell seconds from milliseconds.
_UNIX_S = (946_684_800, 4_102_444_800)

_Row = tuple[Any, ...]


def read_capmit1003(folder: Path, card: Card) -> Tables:
    """One row per click, in the order of ``click_id``; one trial per caption, with it in the column ``caption``.

    ``t_s`` is the time from the image's appearance to the click, ``duration_s`` is NaN. Stimuli are the
    rows of ``images``, named as in MIT1003; their files are looked for in ``ALLSTIMULI`` and then in
    ``../mit1003/ALLSTIMULI``. Subjects are the ``usr_uid``; ``obs_uid`` is in the trial table. A caption
    without a click is an empty trial.

    Raises:
        InputError: A file is missing, damaged, or not the authors'; or the images are in neither place.

    """
    path = folder / "capmit1003.db"
    rows = _read_tables(path, card)
    images = _images(rows["images"], path, card)
    clicks = _clicks(rows["clicks"], path, card)
    observations, n_without = _observations(rows["captions"], images, path, card)
    trials = TrialCollector(card)
    for stimulus, subject, observation, start, caption in observations:
        x_px, y_px, times = clicks.pop(observation, ((), (), ()))
        where = f"{path}: observation {_shown(observation)}"
        t_s = [_seconds_between(start, at, where, card) for at in times]
        missing = [math.nan] * len(t_s)
        trials.add(where, subject, stimulus, x_px, y_px, t_s, missing, caption=caption, obs_uid=observation)
    if clicks:
        raise InputError(f"{path}: clicks of observation {_shown(min(clicks))}, which has no caption row; {card.mend}")
    fixations, trial_table = trials.tables(path)
    below = _image_folder(folder)
    stimuli = list_stimuli({name: below / file for name, file in images.values()}, card)
    changes = ["Clicks are listed as fixations without a duration."]
    if n_without:
        changes.append(f"{n_without} observations whose caption is NULL have an empty caption.")
    return Tables(fixations, trial_table, stimuli, tuple(changes))


# --- the file ---------------------------------------------------------------------------------------


def _read_tables(path: Path, card: Card) -> dict[str, list[_Row]]:
    """The rows of the three tables, in any order.

    Raises:
        InputError: Not an SQLite file, damaged, or without such tables.

    """
    if not path.is_file():
        raise InputError(f"{path}: file missing; {card.mend}")
    try:
        # immutable: nothing is locked, and no journal beside the file is looked at.
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro&immutable=1", uri=True)) as opened:
            _confine(opened)
            (page_bytes,) = opened.execute("PRAGMA page_size").fetchone()
            # SQLite reads zeros where the last page of a file has lost its end.
            if not (n_bytes := path.stat().st_size) or n_bytes % page_bytes:
                not_authors(path, card, _EXPECTED, f"truncated: {n_bytes} bytes in pages of {page_bytes}")
            (verdict,) = opened.execute("PRAGMA quick_check(1)").fetchone()
            if verdict != "ok":
                not_authors(path, card, _EXPECTED, " ".join(str(verdict).split())[:200])
            _check_schema(opened, path, card)
            return {table: _rows(opened, table, path, card) for table in _COLUMNS}
    except InputError:
        raise
    # Mostly sqlite3.DatabaseError; a damaged header also gives OverflowError, MemoryError or ValueError.
    except Exception as error:
        not_authors(path, card, _EXPECTED, error)


def _confine(opened: sqlite3.Connection) -> None:
    opened.execute("PRAGMA query_only = ON")
    opened.execute("PRAGMA trusted_schema = OFF")
    opened.execute("PRAGMA cell_size_check = ON")
    opened.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _LONGEST_VALUE_BYTES)
    opened.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
    until = time.monotonic() + _LONGEST_READ_S
    # A damaged tree of pages can have more rows than the file has bytes.
    opened.set_progress_handler(lambda: time.monotonic() > until, _STEPS_PER_LOOK)


def _check_schema(opened: sqlite3.Connection, path: Path, card: Card) -> None:
    """The three tables must be real ones, with plain columns: views and virtual tables run code from the file."""
    listed = opened.execute("SELECT name, sql FROM sqlite_master").fetchmany(1000)
    for table, wanted in _COLUMNS.items():
        made_by = [sql for name, sql in listed if name == table]
        if not made_by:
            not_authors(path, card, _EXPECTED, f"no table {table}")
        # SQLite goes by this statement, whatever the entry says it is.
        if len(made_by) > 1 or not re.match(r"CREATE TABLE\b", str(made_by[0])):
            not_authors(path, card, _EXPECTED, f"{table} is not a plain table")
        # The last value of a column's description is 0 unless the column is hidden or computed.
        plain = {about[1] for about in opened.execute(f"PRAGMA table_xinfo({table})") if about[-1] == 0}
        if lacking := [column for column in wanted if column not in plain]:
            not_authors(path, card, _EXPECTED, f"table {table} has no plain column {', '.join(lacking)}")


def _rows(opened: sqlite3.Connection, table: str, path: Path, card: Card) -> list[_Row]:
    # Names are constants of this file. NOT INDEXED: the table itself, and no copy of it in an index.
    query = f"SELECT {', '.join(_COLUMNS[table])} FROM {table} NOT INDEXED"  # noqa: S608
    rows = opened.execute(query).fetchmany(_MOST_ROWS[table] + 1)
    if len(rows) > _MOST_ROWS[table]:
        not_authors(path, card, _EXPECTED, f"table {table} has more than {_MOST_ROWS[table]} rows")
    return rows


# --- the values -------------------------------------------------------------------------------------


def _images(rows: list[_Row], path: Path, card: Card) -> dict[str, tuple[str, str]]:
    """img_uid -> (stimulus, file name), in natural order of the file names."""
    found: dict[str, tuple[str, str]] = {}
    uid_of: dict[str, str] = {}
    for img_uid, img_path in rows:
        where = f"{path}: table images"
        uid, name = _identifier(img_uid, "img_uid", where, card), _text(img_path, "img_path", where, card)
        # A name that a message can show, and a file system hold.
        if len(name.encode()) > _LONGEST_NAME_BYTES or not name.isprintable():
            raise InputError(f"{where}: img_path {_shown(name)} is not the name of a file; {card.mend}")
        stimulus = Path(plain_name(name, where, card)).stem
        if uid in found or stimulus in uid_of:
            raise InputError(f"{where}: image {_shown(uid)}, {_shown(name)}, is listed twice; {card.mend}")
        found[uid], uid_of[stimulus] = (stimulus, name), uid
    return dict(sorted(found.items(), key=lambda item: natural(item[1][1])))


def _clicks(rows: list[_Row], path: Path, card: Card) -> dict[str, tuple[list[float], list[float], list[Any]]]:
    """obs_uid -> x, y and time of its clicks in the order of their identifiers."""
    of: dict[str, dict[int, tuple[float, float, Any]]] = {}
    for click_id, obs_uid, x, y, at in rows:
        if type(click_id) is not int:
            raise InputError(f"{path}: table clicks: click_id is {_shown(click_id)}, expected a number; {card.mend}")
        where = f"{path}: click {click_id}"
        mine = of.setdefault(_identifier(obs_uid, "obs_uid", where, card), {})
        if click_id in mine:
            raise InputError(f"{where}: click_id twice in one observation; {card.mend}")
        mine[click_id] = (_number(x, "x", where, card), _number(y, "y", where, card), _timestamp(at, where, card))
    ordered = {observation: [mine[click] for click in sorted(mine)] for observation, mine in of.items()}
    return {
        observation: ([x for x, _, _ in row], [y for _, y, _ in row], [at for _, _, at in row])
        for observation, row in ordered.items()
    }


def _observations(
    rows: list[_Row], images: dict[str, tuple[str, str]], path: Path, card: Card
) -> tuple[list[tuple[str, str, str, datetime, str]], int]:
    """(stimulus, subject, obs_uid, start, caption), image by image, and how many captions are NULL."""
    place = {uid: at for at, uid in enumerate(images)}
    found: dict[str, tuple[int, str, datetime, str]] = {}
    n_without = 0
    for obs_uid, usr_uid, start, caption, img_uid in rows:
        observation = _identifier(obs_uid, "obs_uid", f"{path}: table captions", card)
        where = f"{path}: observation {_shown(observation)}"
        image = _identifier(img_uid, "img_uid", where, card)
        if observation in found:
            raise InputError(f"{where}: obs_uid is listed twice; {card.mend}")
        if image not in images:
            raise InputError(f"{where}: image {_shown(image)} is not in table images; {card.mend}")
        n_without += caption is None
        text = "" if caption is None else _text(caption, "caption", where, card)
        subject = _identifier(usr_uid, "usr_uid", where, card)
        found[observation] = (place[image], subject, _timestamp(start, where, card), text)
    names = [stimulus for stimulus, _ in images.values()]
    ordered = sorted(found.items(), key=lambda item: (*item[1][:2], item[0]))
    return [(names[at], subject, uid, start, text) for uid, (at, subject, start, text) in ordered], n_without


def _shown(value: object) -> str:
    """The value as messages show it: one short line."""
    return repr(value) if len(repr(value)) <= 80 else f"{repr(value)[:77]}..."


def _text(value: object, what: str, where: str, card: Card) -> str:
    if not isinstance(value, str) or len(value) > _LONGEST_TEXT:
        found = f"a text of {len(value)} characters" if isinstance(value, str) else _shown(value)
        raise InputError(f"{where}: {what} is {found}, expected a text of at most {_LONGEST_TEXT}; {card.mend}")
    return value


def _identifier(value: object, what: str, where: str, card: Card) -> str:
    # A column of whole numbers identifies as well as one of texts.
    text = str(value) if type(value) is int else value
    if not isinstance(text, str) or not 0 < len(text.encode()) <= _LONGEST_NAME_BYTES or not text.isprintable():
        raise InputError(f"{where}: {what} is {_shown(value)}, expected a short text; {card.mend}")
    return text


def _number(value: object, what: str, where: str, card: Card) -> float:
    if not isinstance(value, int | float) or not math.isfinite(value):
        raise InputError(f"{where}: {what} is {_shown(value)}, expected a number; {card.mend}")
    return float(value)


def _timestamp(value: object, where: str, card: Card) -> datetime:
    """The time; a number is Unix time in seconds or milliseconds."""
    try:
        if isinstance(value, str) and (match := _TIMESTAMP.fullmatch(value)):
            return datetime.fromisoformat(f"{match[1]}T{match[2]}{match[3] or ''}")
        if isinstance(value, int | float):
            seconds = value / 1000.0 if value >= 1000.0 * _UNIX_S[0] else value
            if _UNIX_S[0] <= seconds < _UNIX_S[1]:
                return datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError):  # a 13th month
        pass
    raise InputError(
        f"{where}: time is {_shown(value)}, expected YYYY-MM-DD HH:MM:SS, with or without a fraction, or Unix time; "
        f"{card.mend}"
    )


def _seconds_between(start: datetime, at: datetime, where: str, card: Card) -> float:
    if (start.tzinfo is None) != (at.tzinfo is None):
        raise InputError(f"{where}: start and clicks are not both with or both without a time zone; {card.mend}")
    return (at - start).total_seconds()


def _image_folder(folder: Path) -> Path:
    places = [unpacked(folder, "ALLSTIMULI"), unpacked(folder.resolve().parent / "mit1003", "ALLSTIMULI")]
    for place in places:
        if place.is_dir():
            return place
    raise InputError(
        f"{places[0]}: no such folder, nor is {places[1]}; the sizes of the images are known from their files only: "
        "put ALLSTIMULI of MIT1003 into one of the two places, or run 'gazekit data fetch mit1003'"
    )
