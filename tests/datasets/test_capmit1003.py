"""CapMIT1003: a made-up file in the authors' format, disorder, damage and hostile files."""

import os
import sqlite3
import warnings
from contextlib import closing

import numpy as np
import pytest
from PIL import Image

from gazekit import InputError
from gazekit.datasets import Card, PartialDataWarning, load
from gazekit.datasets.check import check
from tests.conftest import REAL_DATA

needs_capmit1003 = pytest.mark.skipif(
    not (REAL_DATA / "capmit1003").is_dir(),
    reason="CapMIT1003 is not on this machine; set GAZEKIT_DATA to test with it",
)
SIZES_WH_PX = {"i10_b": (640, 480), "i9.a": (1024, 700), "istatic_street_boston": (405, 1024)}
SCHEMA = """
CREATE TABLE images (img_uid VARCHAR PRIMARY KEY, img_path VARCHAR);
CREATE TABLE captions (
    obs_uid VARCHAR PRIMARY KEY, usr_uid VARCHAR, start_time TIMESTAMP, caption TEXT, img_uid VARCHAR
);
CREATE TABLE clicks (click_id INTEGER PRIMARY KEY, obs_uid VARCHAR, x INTEGER, y INTEGER, click_time TIMESTAMP);
"""
IMAGES = [("im-1", "i10_b.jpeg"), ("im-2", "i9.a.jpeg"), ("im-3", "istatic_street_boston.jpeg")]
CAPTIONS = [
    ("ob-4", "us-b", "2022-11-03 10:00:00", "a street\nwith two lines", "im-3"),
    ("ob-2", "us-a", "2022-11-01T23:59:58.250000", "Zwei Hunde – im Schnee", "im-1"),
    ("ob-3", "us-b", "2022-11-02 09:30:00.5", None, "im-1"),
    ("ob-1", "us-a", "2022-11-01 12:00:00.125", "", "im-2"),
]
# Out of order; ob-3 has no click, and ob-1 has one off the image.
CLICKS = [
    (12, "ob-2", 30, 40, "2022-11-02T00:00:01.000000"),
    (7, "ob-4", 100, 200, "2022-11-03 10:00:02"),
    (3, "ob-1", 700, 5, "2022-11-01 12:00:03.625"),
    (2, "ob-1", 1023, 699, "2022-11-01 12:00:01.125"),
    (11, "ob-2", 10, 20, "2022-11-01T23:59:59.250000"),
    (4, "ob-1", -3, 700, "2022-11-01 12:00:04.125"),
]


def write_database(path, images=IMAGES, captions=CAPTIONS, clicks=CLICKS, schema=SCHEMA):
    path.unlink(missing_ok=True)
    with closing(sqlite3.connect(path)) as opened:
        opened.executescript(schema)
        for table, rows in (("images", images), ("captions", captions), ("clicks", clicks)):
            for row in rows:
                opened.execute(f"INSERT INTO {table} VALUES ({', '.join('?' * len(row))})", row)
        opened.commit()


def write_images(folder):
    folder.mkdir(parents=True)
    for stimulus, size in SIZES_WH_PX.items():
        Image.new("RGB", size, (90, 120, 40)).save(folder / f"{stimulus}.jpeg")


def write_release(folder, **tables):
    write_images(folder / "ALLSTIMULI")
    write_database(folder / "capmit1003.db", **tables)


@pytest.fixture
def release(tmp_path):
    write_release(tmp_path / "capmit1003")
    return tmp_path / "capmit1003"


def load_tiny(folder):
    return load("capmit1003", root=folder, cache=False)


def refused(folder, match):
    with pytest.raises(InputError, match=match) as caught:
        load_tiny(folder)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_reads_the_authors_format(release):
    data = load_tiny(release.parent)
    # Natural order, as in MIT1003.
    assert data.stimuli["stimulus"].tolist() == ["i9.a", "i10_b", "istatic_street_boston"]
    assert data.stimuli[["width_px", "height_px"]].to_numpy().tolist() == [[1024, 700], [640, 480], [405, 1024]]
    assert data.trials["obs_uid"].tolist() == ["ob-1", "ob-2", "ob-3", "ob-4"]
    assert data.trials["subject"].tolist() == ["us-a", "us-a", "us-b", "us-b"]
    assert data.trials["stimulus"].tolist() == ["i9.a", "i10_b", "i10_b", "istatic_street_boston"]
    assert data.trials["caption"].tolist() == ["", "Zwei Hunde – im Schnee", "", "a street\nwith two lines"]
    assert set(data.trials["task"]) == {"captioning"}
    assert data.fixations["duration_s"].isna().all()
    assert "1 observations whose caption is NULL have an empty caption." in data.changes
    assert data.card.screen is None
    assert [f for f in check(data) if f.deviates] == []


def test_clicks_in_order_with_their_times(release):
    """The rows of the file are shuffled; click_id orders them, and a click off the image is kept."""
    data = load_tiny(release).fixations
    assert data.query("trial == 0")[["x_px", "y_px", "t_s"]].to_numpy().tolist() == [
        [1023, 699, 1.0], [700, 5, 3.5], [-3, 700, 4.0],
    ]  # fmt: skip
    # Over midnight.
    assert data.query("trial == 1")[["x_px", "y_px", "t_s"]].to_numpy().tolist() == [[10, 20, 1.0], [30, 40, 2.75]]
    assert data.query("trial == 2").empty
    assert data.query("trial == 3")["t_s"].tolist() == [2.0]


def test_the_order_of_rows_in_the_file_changes_nothing(release):
    first = load_tiny(release)
    rng = np.random.default_rng(3)
    # Without a key, rows come back in the order in which they were written.
    keyless = SCHEMA.replace(" PRIMARY KEY", "")
    for _ in range(5):
        shuffled = {
            name: [rows[i] for i in rng.permutation(len(rows))]
            for name, rows in (("images", IMAGES), ("captions", CAPTIONS), ("clicks", CLICKS))
        }
        write_database(release / "capmit1003.db", **shuffled, schema=keyless)
        other = load_tiny(release)
        assert other.fixations.equals(first.fixations)
        assert other.trials.equals(first.trials)
        assert other.stimuli.equals(first.stimuli)


def test_images_beside_the_folder_or_nowhere(release):
    here = load_tiny(release)
    (release.parent / "mit1003").mkdir()
    (release / "ALLSTIMULI").rename(release.parent / "mit1003" / "ALLSTIMULI")
    beside = load_tiny(release)
    assert beside.trials.equals(here.trials)
    assert all("mit1003" in path for path in beside.stimuli["path"])
    (release.parent / "mit1003" / "ALLSTIMULI" / "i9.a.jpeg").unlink()
    refused(release, r"i9\.a\.jpeg: image missing \(1 of 3 are\)")
    (release.parent / "mit1003").rename(release.parent / "elsewhere")
    refused(release, "put ALLSTIMULI of MIT1003 into one of the two places, or run 'gazekit data fetch mit1003'")


def test_names_and_splits_are_those_of_mit1003(release):
    from tests.datasets.test_mit1003 import gaze, write_recording

    other = release.parent / "mit1003"
    write_images(other / "ALLSTIMULI")
    (other / "DATA" / "ajs").mkdir(parents=True)
    for stimulus in SIZES_WH_PX:
        write_recording(other, "ajs", stimulus, gaze((200, 200, 60), (300, 300, 60), n_columns=3))
    with pytest.warns(PartialDataWarning):
        same = load("mit1003", root=release.parent, cache=False).stimuli
    mine = load_tiny(release).stimuli
    columns = ["stimulus", "width_px", "height_px", "split"]
    assert mine[columns].equals(same[columns])
    assert Card.read("capmit1003").split_rule == Card.read("mit1003").split_rule


def edited(rows, at, **changes):
    """`rows` with the given columns (by index, as c0, c1, ...) of row `at` replaced."""
    row = list(rows[at])
    for column, value in changes.items():
        row[int(column[1:])] = value
    return [*rows[:at], tuple(row), *rows[at + 1 :]]


@pytest.mark.parametrize(
    ("start", "click", "seconds"),
    [
        ("2022-11-03 10:00:00Z", "2022-11-03T10:00:00.5+00:00", 0.5),
        ("2022-11-03 10:00:00.000 +00:00", "2022-11-03 10:00:01.250 +00:00", 1.25),
        ("2022-11-03 10:00:00+02:00", "2022-11-03 09:00:00+0100", 0.0),
        ("2022-11-03 10:00:00.123456789", "2022-11-03 10:00:00.123456", 0.0),
        (1667469600, 1667469601.5, 1.5),
        (1667469600000, 1667469601500, 1.5),
        ("2022-11-03 10:00:00", "2022-11-03 09:59:59", -1.0),  # a clock that was wrong
    ],
)
def test_timestamps(release, start, click, seconds):
    captions, clicks = edited(CAPTIONS, 0, c2=start), edited(CLICKS, 1, c4=click)
    write_database(release / "capmit1003.db", captions=captions, clicks=clicks)
    assert load_tiny(release).fixations.query("trial == 3")["t_s"].tolist() == [pytest.approx(seconds, abs=1e-6)]


WHEN = "time is .*, expected YYYY-MM-DD HH:MM:SS"
DEFECTS = {
    "time of day alone": ({"clicks": edited(CLICKS, 0, c4="10:00:00")}, WHEN),
    "date alone": ({"clicks": edited(CLICKS, 0, c4="2022-11-02")}, WHEN),
    "13th month": ({"clicks": edited(CLICKS, 0, c4="2022-13-02 10:00:00")}, WHEN),
    "two lines": ({"clicks": edited(CLICKS, 0, c4="2022-11-02 10:00:00\n")}, WHEN),
    "no time": ({"clicks": edited(CLICKS, 0, c4=None)}, WHEN),
    "time as bytes": ({"clicks": edited(CLICKS, 0, c4=b"2022-11-02 10:00:00")}, WHEN),
    "small number": ({"clicks": edited(CLICKS, 0, c4=12.5)}, WHEN),
    "huge number": ({"clicks": edited(CLICKS, 0, c4=1e300)}, WHEN),
    "no start": ({"captions": edited(CAPTIONS, 1, c2=None)}, f"observation 'ob-2': {WHEN}"),
    "one with a zone": ({"clicks": edited(CLICKS, 0, c4="2022-11-02 00:00:01Z")}, "both with or both without"),
    "x missing": ({"clicks": edited(CLICKS, 0, c2=None)}, "click 12: x is None, expected a number"),
    "y as text": ({"clicks": edited(CLICKS, 0, c3="left")}, "click 12: y is 'left', expected a number"),
    "x as bytes": ({"clicks": edited(CLICKS, 0, c2=b"\0\1")}, "click 12: x is b"),
    "y infinite": ({"clicks": edited(CLICKS, 0, c3=float("inf"))}, "click 12: y is inf"),
    "x not a number": ({"clicks": edited(CLICKS, 0, c2=float("nan"))}, "click 12: x is None"),  # SQLite has no NaN
    "click of nobody": ({"clicks": edited(CLICKS, 0, c1="ob-9")}, "clicks of observation 'ob-9', which has no caption"),
    "click of NULL": ({"clicks": edited(CLICKS, 0, c1=None)}, "click 12: obs_uid is None, expected a short text"),
    "observation as bytes": ({"captions": edited(CAPTIONS, 0, c0=b"ob")}, "obs_uid is b'ob', expected a short text"),
    "observation unnamed": ({"captions": edited(CAPTIONS, 0, c0="")}, "obs_uid is '', expected a short text"),
    "observation of two lines": ({"captions": edited(CAPTIONS, 0, c0="a\nb")}, r"obs_uid is 'a\\nb', expected"),
    "no user": ({"captions": edited(CAPTIONS, 0, c1=None)}, "observation 'ob-4': usr_uid is None"),
    "unknown image": ({"captions": edited(CAPTIONS, 0, c4="im-9")}, "image 'im-9' is not in table images"),
    "no image": ({"captions": edited(CAPTIONS, 0, c4=None)}, "observation 'ob-4': img_uid is None"),
    "caption as bytes": ({"captions": edited(CAPTIONS, 0, c3=b"caption")}, "caption is b'caption', expected a text"),
    "endless caption": ({"captions": edited(CAPTIONS, 0, c3="x" * 20_000)}, "caption is a text of 20000 characters"),
    "larger than any row": ({"captions": edited(CAPTIONS, 0, c3="x" * 3_000_000)}, "not the authors' file"),
    "path upwards": ({"images": edited(IMAGES, 0, c1="../../etc/passwd")}, "'../../etc/passwd' is not the name of a"),
    "path from the root": ({"images": edited(IMAGES, 0, c1="/etc/passwd")}, "is not the name of a file"),
    "path of Windows": ({"images": edited(IMAGES, 0, c1="..\\secret")}, "is not the name of a file"),
    "parent": ({"images": edited(IMAGES, 0, c1="..")}, "is not the name of a file"),
    "path of two lines": ({"images": edited(IMAGES, 0, c1="a\nb.jpeg")}, r"img_path 'a\\nb.jpeg' is not the name"),
    "path too long": ({"images": edited(IMAGES, 0, c1="9" * 5000 + ".jpeg")}, "is not the name of a file"),
    "no path": ({"images": edited(IMAGES, 0, c1=None)}, "img_path is None, expected a text"),
    "image not there": ({"images": edited(IMAGES, 0, c1="i77.jpeg")}, r"i77\.jpeg: image missing"),
    "one image twice": ({"images": edited(IMAGES, 0, c1="i9.a.jpeg")}, "'i9.a.jpeg', is listed twice"),
    "no observation": ({"captions": [], "clicks": []}, "holds no trial"),
}  # fmt: skip


@pytest.mark.parametrize("defect", DEFECTS)
def test_every_defect_is_one_line(release, defect):
    tables, message = DEFECTS[defect]
    write_database(release / "capmit1003.db", **tables)
    refused(release, message)


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({"captions": [*CAPTIONS, CAPTIONS[0]]}, "observation 'ob-4': obs_uid is listed twice"),
        ({"clicks": [*CLICKS, CLICKS[0]]}, "click 12: click_id twice in one observation"),
        ({"images": [*IMAGES, IMAGES[0]]}, "image 'im-1', 'i10_b.jpeg', is listed twice"),
        ({"clicks": edited(CLICKS, 0, c0="first")}, "click_id is 'first', expected a number"),
        ({"clicks": edited(CLICKS, 0, c0=None)}, "click_id is None, expected a number"),
    ],
)
def test_duplicates_where_the_file_has_no_keys(release, tables, message):
    write_database(release / "capmit1003.db", **tables, schema=SCHEMA.replace(" PRIMARY KEY", ""))
    refused(release, message)


def test_identifiers_may_be_numbers(release):
    schema = """
        CREATE TABLE images (img_uid, img_path);
        CREATE TABLE captions (obs_uid, usr_uid, start_time, caption, img_uid);
        CREATE TABLE clicks (click_id, obs_uid, x, y, click_time);
    """
    write_database(
        release / "capmit1003.db", [(5, "i9.a.jpeg")], [(1, 2, "2022-11-03 10:00:00", "c", 5)],
        [(1, 1, 4.5, 6, "2022-11-03 10:00:01")], schema,
    )  # fmt: skip
    data = load_tiny(release)
    assert data.trials.loc[0, ["subject", "obs_uid"]].tolist() == ["2", "1"]
    assert data.fixations["x_px"].tolist() == [4.5]


@pytest.mark.parametrize("table", ["images", "captions", "clicks"])
@pytest.mark.parametrize(
    ("instead", "message"),
    [
        ("ALTER TABLE {t} RENAME TO gone", "no table {t}"),
        ("ALTER TABLE {t} RENAME TO real; CREATE VIEW {t} AS SELECT * FROM real", "{t} is not a plain table"),
        ("DROP TABLE {t}; CREATE VIRTUAL TABLE {t} USING fts5(obs_uid, img_uid)", "{t} is not a plain table"),
        ("DROP TABLE {t}; CREATE TABLE {t} (other)", "table {t} has no plain column"),
        # Reading it would run an expression out of the file.
        ("DROP TABLE {t}; CREATE TABLE {t} (a, {last} AS (zeroblob(900000000)))", "has no plain column .*{last}"),
    ],
)
def test_only_plain_columns_of_real_tables_are_read(release, table, instead, message):
    last = {"images": "img_path", "captions": "img_uid", "clicks": "click_time"}[table]
    with closing(sqlite3.connect(release / "capmit1003.db")) as opened:
        opened.executescript(instead.format(t=table, last=last))
    refused(release, message.format(t=table, last=last))


def test_too_many_rows(release, monkeypatch):
    from gazekit.datasets.readers import capmit1003

    monkeypatch.setitem(capmit1003._MOST_ROWS, "clicks", 5)
    refused(release, "table clicks has more than 5 rows")
    monkeypatch.undo()
    monkeypatch.setattr(capmit1003, "_LONGEST_READ_S", -1.0)
    monkeypatch.setattr(capmit1003, "_STEPS_PER_LOOK", 10)
    refused(release, "OperationalError: interrupted")


def test_nothing_is_written_to_the_file_or_beside_it(release):
    """A file whose journal is a write-ahead log would otherwise get a log and an index beside it."""
    path = release / "capmit1003.db"
    with closing(sqlite3.connect(path)) as opened:
        opened.execute("PRAGMA journal_mode = WAL")
    before = path.read_bytes()
    os.utime(release, (0, 0))
    assert len(load_tiny(release).trials) == 4
    assert path.read_bytes() == before
    assert release.stat().st_mtime == 0


def test_folder_names_that_mean_something_in_a_uri(tmp_path):
    odd = tmp_path / "a?mode=memory&b#c%41 d"
    write_release(odd / "capmit1003")
    assert len(load_tiny(odd).trials) == 4


def test_an_index_that_lies_changes_nothing(release):
    """Rows are taken from the table, not from an index over the same columns that is smaller."""
    path = release / "capmit1003.db"
    with closing(sqlite3.connect(path)) as opened:
        opened.executescript(
            f"ALTER TABLE clicks ADD COLUMN note TEXT DEFAULT '{'x' * 500}';"
            "CREATE INDEX covering ON clicks (click_id, obs_uid, x, y, click_time);"
            "PRAGMA writable_schema = ON;"
            "UPDATE sqlite_master SET sql = replace(sql, 'x, y', 'y, x') WHERE name = 'covering';"
        )
    data = load_tiny(release)
    assert data.fixations.query("trial == 1")[["x_px", "y_px"]].to_numpy().tolist() == [[10, 20], [30, 40]]


def test_pages_that_do_not_add_up(release):
    """Every table can be read, but two of them share a page: the file was altered."""
    with closing(sqlite3.connect(release / "capmit1003.db")) as opened:
        opened.executescript(
            "CREATE TABLE other (a); PRAGMA writable_schema = ON;"
            "UPDATE sqlite_master SET rootpage = (SELECT rootpage FROM sqlite_master WHERE name = 'clicks')"
            " WHERE name = 'other';"
        )
    refused(release, "not the authors' file .*page")


def test_not_an_sqlite_file(release):
    path = release / "capmit1003.db"
    whole = path.read_bytes()
    for content in (b"", b"not a database", whole[:50], whole[: len(whole) // 2], whole[:-1], b"\xff\xfe" + whole):
        path.write_bytes(content)
        refused(release, r"capmit1003\.db: not the authors' file \(.*\), expected an SQLite file")
    path.unlink()
    path.mkdir()
    refused(release, r"capmit1003\.db: file missing")


def test_text_in_another_encoding(release):
    path = release / "capmit1003.db"
    # UTF-16 inside is SQLite's own affair; text that is not UTF-8 is damage.
    first = load_tiny(release)
    write_database(path, schema="PRAGMA encoding = 'UTF-16be';" + SCHEMA)
    assert load_tiny(release).trials.equals(first.trials)
    write_database(path)
    with closing(sqlite3.connect(path)) as opened:
        opened.execute("UPDATE captions SET caption = CAST(x'ff41' AS TEXT) WHERE obs_uid = 'ob-4'")
        opened.commit()
    refused(release, "not the authors' file .*Could not decode to UTF-8")


def test_random_damage_is_one_line_or_none(release):
    path = release / "capmit1003.db"
    whole = path.read_bytes()
    rng = np.random.default_rng(17)
    # Most of a small file is empty: where something is written, damage is more telling.
    written = np.flatnonzero(np.frombuffer(whole, np.uint8))
    said = []
    for round_ in range(120):
        content = bytearray(whole)
        for _ in range(int(rng.integers(1, 6))):
            at = int(rng.choice(written)) if round_ % 2 else int(rng.integers(len(content)))
            content[at] = int(rng.integers(256))
        if round_ % 10 == 0:
            content = content[: int(rng.integers(len(content)))]
        path.write_bytes(content)
        try:
            load_tiny(release)
        except InputError as error:
            said.append(str(error))
    assert len(said) > 40
    assert not [line for line in said if "\n" in line or len(line) > 1500]


@needs_capmit1003
def test_reads_the_release():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PartialDataWarning)
        data = load("capmit1003", root=REAL_DATA)
    assert data.fixations["duration_s"].isna().all()
    assert (data.fixations.groupby("trial")["t_s"].diff().dropna() >= 0).all()
