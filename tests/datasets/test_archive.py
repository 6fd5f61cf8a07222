"""Unpacking what strangers packed: whole and inside the folder, or one line and nothing."""

from __future__ import annotations

import bz2
import io
import stat
import struct
import subprocess
import sys
import tempfile
import tracemalloc
import warnings
import zipfile
import zlib
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gazekit import InputError
from gazekit.datasets.archive import unpack

CONTENT = {"data/a.txt": b"first " * 40, "data/deep/b.bin": bytes(range(256)), "empty.txt": b"", "c.csv": b"x,y\n1,2\n"}


def packed(
    files: dict[str, bytes] = CONTENT, folders: tuple[str, ...] = (), method: int = zipfile.ZIP_DEFLATED
) -> bytes:
    """The bytes of an archive; names go in as they are."""
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w") as archive:
        for name in (*folders, *files):
            info = zipfile.ZipInfo("placeholder")
            info.filename, info.compress_type = name, method  # the constructor would tidy the name
            archive.writestr(info, files.get(name, b""))
    return memory.getvalue()


def with_field(archive: bytes, local: int | None, central: int, form: str, value: int, member: int = 0) -> bytes:
    """The archive with one header field of one member overwritten, at these offsets into both headers."""
    changed = bytearray(archive)
    for signature, offset in ((b"PK\3\4", local), (b"PK\1\2", central)):
        at = -1
        for _ in range(member + 1):
            at = changed.index(signature, at + 1)
        if offset is not None:
            struct.pack_into(f"<{form}", changed, at + offset, value)
    return bytes(changed)


def tree(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def assert_one_line(error: BaseException) -> None:
    assert len(str(error).splitlines()) == 1


class Place:
    """A folder to unpack into with something in it, and an eye on all that is around it."""

    def __init__(self, around: Path) -> None:
        self.around, self.folder, self.archive = around, around / "into", around / "some.zip"
        (self.folder / "data").mkdir(parents=True)
        (self.folder / "data" / "mine.txt").write_bytes(b"mine")

    def unpack(self, archive: bytes) -> list[str]:
        self.archive.write_bytes(archive)
        return unpack(self.archive, self.folder)

    def assert_tidy(self) -> None:
        assert {path.name for path in self.around.iterdir()} == {"into", "some.zip"}
        assert not list(self.folder.glob(".unpacking-*"))

    def assert_untouched(self) -> None:
        self.assert_tidy()
        assert [path.relative_to(self.folder).as_posix() for path in sorted(self.folder.rglob("*"))] == [
            "data",
            "data/mine.txt",
        ]
        assert tree(self.folder) == {"data/mine.txt": b"mine"}

    def refuses(self, archive: bytes, match: str) -> None:
        with pytest.raises(InputError, match=match) as caught:
            self.unpack(archive)
        assert "\n" not in str(caught.value)
        assert str(caught.value).startswith(str(self.archive))
        self.assert_untouched()


@pytest.fixture
def place(tmp_path):
    around = tmp_path / "around"
    around.mkdir()
    return Place(around)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_everything_arrives(place, method):
    assert place.unpack(packed(folders=("data/", "hollow/"), method=method)) == ["c.csv", "data", "empty.txt", "hollow"]
    assert tree(place.folder) == {**CONTENT, "data/mine.txt": b"mine"}
    assert (place.folder / "hollow").is_dir()
    place.assert_tidy()


def test_the_folder_is_made(tmp_path):
    (tmp_path / "some.zip").write_bytes(packed())
    unpack(tmp_path / "some.zip", tmp_path / "new" / "folder")
    assert tree(tmp_path / "new" / "folder") == CONTENT


def test_merging_replaces_files_and_keeps_what_is_not_in_the_archive(place):
    (place.folder / "data" / "a.txt").write_bytes(b"old")
    (place.folder / "other").mkdir()
    place.unpack(packed())
    assert tree(place.folder) == {**CONTENT, "data/mine.txt": b"mine"}
    assert (place.folder / "other").is_dir()


def test_progress_counts_every_byte(place):
    large = {"large.bin": bytes(3_000_000)}
    place.archive.write_bytes(packed(large, method=zipfile.ZIP_STORED))
    pieces: list[int] = []
    unpack(place.archive, place.folder, pieces.append)
    assert sum(pieces) == 3_000_000
    assert len(pieces) > 1


@pytest.mark.parametrize(
    "name",
    [
        "/etc/passwd", "//host/share", "../up.txt", "data/../../up.txt", "data/..", "..", "..\\up.txt", "data\\up.txt",
        "\\up.txt", "C:/up.txt", "C:up.txt", "C:\\up.txt", "data/c:up.txt", "", ".",
    ],
)  # fmt: skip
@pytest.mark.parametrize("ending", ["", "/"])
def test_a_name_that_leads_out_is_refused(place, name, ending):
    harmless_first = {"harmless.txt": b"1", name + ending: b"" if ending else b"2"}
    place.refuses(packed(harmless_first), "points outside the folder; it is not unpacked")


def test_a_name_that_ends_early_is_refused(place):
    """What one program sees as photo.jpg.exe, another sees as photo.jpg."""
    place.refuses(packed({"photo.jpg\0.exe": b"2"}), r"photo\.jpg\\x00\.exe")


@pytest.mark.parametrize(
    "name", ["new\nline.txt", "return\r.txt", "bell\a.txt", "\x1b[2J.txt", "x" * 300, "e\u0301\u202e.txt"]
)
def test_an_odd_name_stays_inside_or_is_refused_in_one_line(place, name):
    """A name of control characters is odd and not hostile; but no message may be made of its lines."""
    sound = packed({name: b"text" * 50})
    for archive in (sound[:-30], with_field(sound, 14, 16, "I", 7), sound):
        try:
            place.unpack(archive)
        except InputError as error:
            assert_one_line(error)
            place.assert_untouched()
        else:
            assert archive is sound
            assert tree(place.folder) == {name: b"text" * 50, "data/mine.txt": b"mine"}
    place.assert_tidy()


@pytest.mark.parametrize(
    "kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFSOCK], ids=lambda kind: f"{kind:o}"
)
def test_links_and_devices_are_refused(place, kind):
    place.refuses(with_field(packed({"l": b"/etc"}), None, 38, "I", (kind | 0o777) << 16), "is a link or a device")


def test_a_link_and_a_file_through_it_are_refused(place):
    archive = packed({"way": b"/tmp", "way/out.txt": b"2"})
    place.refuses(with_field(archive, None, 38, "I", (stat.S_IFLNK | 0o777) << 16), "'way' is a link or a device")


@pytest.mark.parametrize("mode", [0, stat.S_IFREG | 0o777, 0o4777, stat.S_IFREG | 0o6755])
def test_permissions_are_not_taken_over(place, mode):
    place.unpack(with_field(packed({"tool": b"#!"}), None, 38, "I", mode << 16))
    assert stat.S_IMODE((place.folder / "tool").stat().st_mode) & 0o7111 == 0


def test_an_encrypted_member_is_refused(place):
    place.refuses(with_field(packed({"a": b"1", "b": b"2"}), 6, 8, "H", 1, member=1), "'b' is encrypted")


@pytest.mark.parametrize("again", ["a.txt", "A.TXT", "./a.txt", "a.txt/"])
def test_a_name_that_occurs_twice_is_refused(place, again):
    memory = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(memory, "w") as archive:
        warnings.simplefilter("ignore")  # zipfile says so while writing
        archive.writestr("a.txt", b"1")
        archive.writestr(again, b"" if again.endswith("/") else b"2")
    place.refuses(memory.getvalue(), "a.txt|A.TXT")


def test_a_file_and_a_folder_of_one_name_are_refused(place):
    place.refuses(packed({"a/": b"", "a": b"1"}), "twice")
    place.refuses(packed({"a": b"1", "a/b": b"1"}), "cannot be unpacked")


def test_an_archive_in_an_archive_is_a_file(place):
    inner = packed({"../up.txt": b"1"})
    assert place.unpack(packed({"inner.zip": inner})) == ["inner.zip"]
    assert (place.folder / "inner.zip").read_bytes() == inner
    place.assert_tidy()


def test_what_file_managers_leave_is_left_out(place):
    litter = {"__MACOSX/._a.txt": b"1", "photos/.DS_Store": b"1", "photos/Thumbs.db": b"1", "photos/a.txt": b"2"}
    assert place.unpack(packed(litter)) == ["photos"]
    assert tree(place.folder) == {"photos/a.txt": b"2", "data/mine.txt": b"mine"}


def test_litter_is_held_to_the_same_rules(place):
    place.refuses(packed({"__MACOSX/../../up.txt": b"1"}), "points outside")


def test_an_archive_without_a_file_is_refused(place):
    place.refuses(packed({}), "holds no file")
    place.refuses(packed({"__MACOSX/._a.txt": b"1"}), "holds no file")


def test_a_bomb_that_admits_it_is_refused_before_anything_is_written(place):
    place.refuses(packed({"zeros": bytes(80_000_000)}), "more than any release; it is not unpacked")


def test_a_bomb_that_lies_about_its_packed_size_is_refused(place):
    """The size that counts is that of the archive, not the one that its directory claims."""
    lying = with_field(packed({"zeros": bytes(80_000_000)}), 18, 20, "I", 50_000_000)
    place.refuses(lying, r"more than any release; it is not unpacked")


def test_absurd_sizes_are_refused_at_once(place):
    place.refuses(with_field(packed({"a": b"1"}), 22, 24, "I", 0xFFFF_FFFE), "bytes that unpack to 4294967294")
    archive = packed({f"{number}": b"1" for number in range(11)})
    for member in range(11):
        archive = with_field(archive, 18, 20, "I", 0xFFFF_FFFE, member)
        archive = with_field(archive, 22, 24, "I", 0xFFFF_FFFE, member)
    place.refuses(archive, "more than any release|cannot be unpacked")


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("crc", ["of all", "of what it says"])
def test_a_member_larger_than_it_says_is_never_written_out(place, method, crc):
    archive = with_field(packed({"a": b"x" * 5000}, method=method), 22, 24, "I", 10)
    if crc == "of what it says":
        archive = with_field(archive, 14, 16, "I", zlib.crc32(b"x" * 10))
        # Both readings agree on the first ten bytes, so those may come; more may not.
        try:
            place.unpack(archive)
            assert (place.folder / "a").read_bytes() == b"x" * 10
        except InputError:
            place.assert_untouched()
    else:
        place.refuses(archive, r"'a'")


def test_a_member_smaller_than_it_says_is_refused(place):
    place.refuses(with_field(packed({"a": b"x" * 50}), 22, 24, "I", 60), "'a'|cannot be unpacked")


def test_a_small_member_cannot_fill_the_memory(place):
    """bzip2 and LZMA unpack a whole piece at once: a kilobyte can become gigabytes before a size is looked at."""
    zeros = bz2.compress(bytes(60_000_000), 9)
    assert len(zeros) < 1000
    archive = packed({"a": zeros}, method=zipfile.ZIP_STORED)
    archive = with_field(with_field(archive, 8, 10, "H", zipfile.ZIP_BZIP2), 4, 6, "H", 46)
    archive = with_field(archive, 22, 24, "I", 1000)
    tracemalloc.start()
    try:
        with pytest.raises(InputError):
            place.unpack(archive)
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()
    place.assert_untouched()


@pytest.mark.parametrize("method", [1, 6, 9, 14, 95, 99])
def test_other_compression_is_refused(place, method):
    place.refuses(with_field(packed({"a": b"1" * 50}), 8, 10, "H", method), "some.zip")


def test_a_file_that_turned_into_a_folder_is_noticed(place):
    """One bit makes ``photo`` the folder ``phot/``, whose content nobody would miss."""
    archive = packed({"photo": b"pixels", "other": b"1"})
    at = archive.index(b"photo", archive.index(b"PK\1\2"))
    changed = bytearray(archive)
    changed[at + 4] ^= 0x40
    place.refuses(bytes(changed), "phot")


def test_members_that_a_damaged_directory_hides_are_missed(place):
    """One flipped bit in the length of a comment, and the comment of the first member is all the others."""
    archive = packed()
    second = archive.index(b"PK\1\2", archive.index(b"PK\1\2") + 1)
    end = archive.index(b"PK\5\6")
    place.refuses(with_field(archive, None, 32, "H", end - second), "some.zip")


@pytest.mark.parametrize("depth", [300, 3000])
def test_folders_without_end(place, depth):
    deep = "/".join(["a"] * depth)
    archive = with_field(packed({f"{deep}/x": b"1", "z": b"22"}), 14, 16, "I", 7, member=1)
    place.refuses(archive, "some.zip")


def test_too_many_files_are_refused(place, monkeypatch):
    monkeypatch.setattr("gazekit.datasets.archive._LARGEST_COUNT", 3)
    place.refuses(packed(), "holds 4 files, more than 3")


@pytest.mark.parametrize("there", ["file", "folder"])
def test_what_is_in_the_way_is_noticed_before_anything_is_moved(place, there):
    if there == "file":
        (place.folder / "zoo").write_bytes(b"in the way")
        archive = packed({"aaa": b"1", "zoo/x": b"2"})
    else:
        (place.folder / "zoo").mkdir()
        archive = packed({"aaa": b"1", "zoo": b"2"})
    before = sorted(place.folder.rglob("*"))
    with pytest.raises(InputError, match="zoo") as caught:
        place.unpack(archive)
    assert "\n" not in str(caught.value)
    place.assert_tidy()
    assert sorted(place.folder.rglob("*")) == before


def test_a_file_where_the_folder_should_be(tmp_path):
    (tmp_path / "some.zip").write_bytes(packed())
    (tmp_path / "into").write_bytes(b"in the way")
    with pytest.raises(InputError, match="into") as caught:
        unpack(tmp_path / "some.zip", tmp_path / "into")
    assert "\n" not in str(caught.value)


def test_a_missing_archive_is_one_line(place):
    with pytest.raises(InputError, match=r"nowhere\.zip: cannot be unpacked"):
        unpack(place.around / "nowhere.zip", place.folder)


@pytest.mark.parametrize("what", [b"", b"PK", b"<html>rate limit</html>", b"PK\5\6", b"PK\5\6" + bytes(18), bytes(500)])
def test_what_is_no_archive_is_refused(place, what):
    place.refuses(what, "fetch it again")


@pytest.mark.parametrize("keep", [0.0, 0.1, 0.5, 0.9, 0.99])
def test_a_truncated_archive_is_refused(place, keep):
    archive = packed()
    place.refuses(archive[: int(keep * len(archive))], "cannot be unpacked .*; delete it and fetch it again")


_WHOLE = packed(folders=("hollow/",), files={**CONTENT, "stored.bin": bytes(range(200))})
_DAMAGE = st.lists(
    st.one_of(
        st.tuples(st.just("flip"), st.integers(0, len(_WHOLE) - 1), st.integers(0, 7)),
        st.tuples(st.just("put"), st.integers(0, len(_WHOLE) - 1), st.binary(min_size=1, max_size=8)),
        st.tuples(st.just("cut"), st.integers(0, len(_WHOLE)), st.just(0)),
        st.tuples(st.just("drop"), st.integers(0, len(_WHOLE) - 1), st.integers(1, 30)),
        st.tuples(st.just("insert"), st.integers(0, len(_WHOLE)), st.binary(min_size=1, max_size=30)),
    ),
    min_size=1,
    max_size=3,
)


@settings(max_examples=150, deadline=None)
@given(_DAMAGE)
@example([("flip", _WHOLE.index(b"PK\1\2") + 24, 7)])
@example([("flip", _WHOLE.index(b"PK\1\2") + 33, 0)])
def test_random_damage_gives_the_whole_content_or_one_line(damage):
    archive = bytearray(_WHOLE)
    for kind, at, what in damage:
        at = min(at, len(archive))
        if kind == "flip" and at < len(archive):
            archive[at] ^= 1 << what
        elif kind == "put":
            archive[at : at + len(what)] = what
        elif kind == "cut":
            del archive[at:]
        elif kind == "drop":
            del archive[at : at + what]
        elif kind == "insert":
            archive[at:at] = what
    with tempfile.TemporaryDirectory() as around:
        place = Place(Path(around))
        try:
            place.unpack(bytes(archive))
        except InputError as error:
            assert_one_line(error)
            place.assert_untouched()
        else:
            expected = {**CONTENT, "stored.bin": bytes(range(200)), "data/mine.txt": b"mine"}
            assert tree(place.folder) == expected
            place.assert_tidy()


@pytest.mark.parametrize("error", [RuntimeError("two\nlines"), KeyboardInterrupt(), OSError(28, "No space left")])
def test_broken_off_in_the_middle_nothing_is_left(place, error):
    place.archive.write_bytes(packed())
    n_calls = 0

    def advance(n_bytes: int) -> None:
        nonlocal n_calls
        n_calls += 1
        if n_calls == 2:
            raise error

    with pytest.raises((InputError, KeyboardInterrupt)) as caught:
        unpack(place.archive, place.folder, advance)
    assert "\n" not in str(caught.value)
    place.assert_untouched()


_KILLED = """
import sys, time
from pathlib import Path
from gazekit.datasets.archive import unpack

def advance(n_bytes):
    print("busy", flush=True)
    time.sleep(60)

unpack(Path(sys.argv[1]), Path(sys.argv[2]), advance)
"""


def test_a_killed_process_leaves_nothing_half_done_and_the_next_one_tidies_up(place):
    place.archive.write_bytes(packed())
    command = [sys.executable, "-c", _KILLED, str(place.archive), str(place.folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        try:
            assert child.stdout.readline() == "busy\n"
        finally:
            child.kill()
    (stale,) = place.folder.glob(".unpacking-*")
    assert {path.name for path in place.folder.iterdir()} == {"data", stale.name}
    assert [path.name for path in (place.folder / "data").iterdir()] == ["mine.txt"]
    unpack(place.archive, place.folder)
    place.assert_tidy()
    assert tree(place.folder) == {**CONTENT, "data/mine.txt": b"mine"}
