"""Fetching a dataset: licence first, each file once and checked, archives unpacked once, one process at a time."""

from __future__ import annotations

import contextlib
import hashlib
import io
import subprocess
import sys
import threading
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from gazekit import InputError
from gazekit.datasets import PartialDataWarning, load
from gazekit.datasets import fetch as fetching
from gazekit.datasets.card import Card
from gazekit.datasets.fetch import fetch
from gazekit.datasets.files import listed_files
from gazekit.resources import resource_names
from tests.conftest import write_release
from tests.datasets.test_download import Server, serving, until


def image_bytes(number: int, size_wh_px: tuple[int, int] = (80, 60), kind: str = "JPEG") -> bytes:
    memory = io.BytesIO()
    rng = np.random.default_rng(number)
    Image.fromarray(rng.integers(0, 256, (*size_wh_px[::-1], 3), dtype=np.uint8)).save(memory, kind)
    return memory.getvalue()


def zip_bytes(files: dict[str, bytes]) -> bytes:
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return memory.getvalue()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


DATA = np.random.default_rng(1).bytes(50_000)
PHOTOS = {f"photos/{number}.png": np.random.default_rng(number).bytes(20_000) for number in (1, 2, 3)}
NOTES = {"notes/a.txt": b"a", "readme.txt": b"read"}
CONTENT = {
    "data/eye.csv": DATA,
    **{f"img/{number}.jpg": image_bytes(number) for number in (7, 8, 9)},
    "photos.zip": zip_bytes(PHOTOS),
    "notes.zip": zip_bytes(NOTES),
}
# The dataset's folder once everything is there.
WHOLE = {path: content for path, content in CONTENT.items() if not path.endswith(".zip")} | PHOTOS | {
    f"extra/{path}": content for path, content in NOTES.items()
}  # fmt: skip


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def server():
    with serving(dict(CONTENT)) as running:
        yield running


class Release:
    """A card file that points to the local server, and the folder to fetch into."""

    def __init__(self, server: Server, folder: Path) -> None:
        self.server, self.card, self.target = server, folder / "made_up.yaml", folder / "here"
        self.said: list[str] = []
        self.content: dict[str, Any] = {
            "name": "made_up",
            "title": "A made-up release",
            "citation": "None.",
            "license": {"data": "CC0-1.0", "images": "ask the authors"},
            "forced_initial": False,
            "screen": {"size_wh_px": [80, 60], "measured_px_per_dva": 4},
            "expect": {"stimuli": 3},
            "split": {"by": "stimulus", "seed": 1, "val": 0.1, "test": 0.1},
            "download": server.base,
            "files": {
                "data/eye.csv": {"sha256": sha256(DATA), "bytes": len(DATA)},
                "img": {"first": 7, "last": 9, "suffix": ".jpg"},
            },
            "archives": {
                "photos.zip": {"url": f"{server.base}/photos.zip", "sha256": sha256(CONTENT["photos.zip"])},
                "notes.zip": {"url": f"{server.base}/notes.zip", "into": "extra"},
            },
        }

    def write(self, **changes: Any) -> Path:
        content = {key: value for key, value in {**self.content, **changes}.items() if value is not None}
        self.card.write_text(yaml.safe_dump(content, sort_keys=False))
        return self.card

    def fetch(self, timeout_s: float = 20, **changes: Any) -> Path:
        return fetch(str(self.write(**changes)), self.target, self.said.append, timeout_s)

    def fails(self, match: str, **changes: Any) -> None:
        with pytest.raises(InputError, match=match) as caught:
            self.fetch(**changes)
        assert len(str(caught.value).splitlines()) == 1

    def here(self) -> dict[str, bytes]:
        """Every file of the release that is here; what fetching keeps for itself is named apart."""
        return {
            path.relative_to(self.target).as_posix(): path.read_bytes()
            for path in self.target.rglob("*")
            if path.is_file()
            and not path.relative_to(self.target).parts[0].startswith(".")
            and path.name != "card.yaml"
        }

    def assert_whole(self) -> None:
        assert self.here() == WHOLE
        # Nothing but the lock and the notes on what was unpacked.
        assert {p.name for p in self.target.iterdir() if p.name.startswith(".")} == {".fetch.lock", ".unpacked"}


@pytest.fixture
def release(server, tmp_path):
    return Release(server, tmp_path)


def test_everything_arrives_and_is_asked_for_once(release):
    assert release.fetch() == release.target
    release.assert_whole()
    assert sorted(release.server.paths()) == sorted(CONTENT)
    assert (release.target / "card.yaml").read_bytes() == release.card.read_bytes()
    release.fetch()
    assert len(release.server.asked) == len(CONTENT)
    release.assert_whole()


def test_by_default_it_goes_to_the_cache_where_load_looks(release, tmp_path):
    target = fetch(str(release.write()), say=release.said.append)
    assert target == tmp_path / "cache" / "data" / "made_up"
    assert (target / "data" / "eye.csv").read_bytes() == DATA


def test_the_licence_is_named_before_anything_is_asked_for(release):
    def say(text: str) -> None:
        assert release.server.asked == []
        release.said.append(text)

    fetch(str(release.write()), release.target, say)
    assert len(release.said) == 1
    for word in ("A made-up release", "3 stimuli", str(release.target), "data: CC0-1.0, images: ask the authors"):
        assert word in release.said[0]


def test_who_objects_to_the_licence_has_asked_for_nothing(release):
    def say(text: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(str(release.write()), release.target, say)
    assert release.server.asked == []
    assert not release.target.exists()


@pytest.mark.parametrize("lost", ["data/eye.csv", "img/8.jpg"])
def test_a_file_that_went_missing_is_fetched_alone(release, lost):
    release.fetch()
    (release.target / lost).unlink()
    release.server.asked.clear()
    release.fetch()
    assert release.server.paths() == [lost]
    release.assert_whole()


@pytest.mark.parametrize("damage", [b"", DATA[:-1], b"x" + DATA[1:]])
def test_a_damaged_file_is_fetched_again(release, damage):
    release.fetch()
    (release.target / "data" / "eye.csv").write_bytes(damage)
    release.server.asked.clear()
    release.fetch()
    assert release.server.paths() == ["data/eye.csv"]
    release.assert_whole()


def test_a_file_without_digest_that_is_here_is_kept(release):
    """Nothing says that it is wrong, and it may be the user's own copy."""
    (release.target / "img").mkdir(parents=True)
    (release.target / "img" / "8.jpg").write_bytes(image_bytes(99))
    release.fetch()
    assert "img/8.jpg" not in release.server.paths()
    assert (release.target / "img" / "8.jpg").read_bytes() == image_bytes(99)


def test_digests_of_many_files_come_from_the_companion(release, tmp_path):
    (tmp_path / "made_up.sha256").write_text(f"{sha256(image_bytes(8))}  img/8.jpg\n")
    release.server.files["img/8.jpg"] = image_bytes(99)  # a proper image, and not the released one
    release.fails(r"img/8\.jpg: not the file that the card describes")
    assert not (release.target / "img" / "8.jpg").exists()
    release.server.files["img/8.jpg"] = image_bytes(8)
    release.fetch()
    release.assert_whole()


def test_another_content_is_refused_and_finished_work_kept(release):
    files = {"img": release.content["files"]["img"], "data/eye.csv": {"md5": hashlib.md5(DATA).hexdigest()}}
    release.server.files["data/eye.csv"] = b"something else"
    release.fails(r"data/eye\.csv: not the file that the card describes .*; nothing was kept", files=files)
    assert set(release.here()) <= {"img/7.jpg", "img/8.jpg", "img/9.jpg"}
    release.server.files["data/eye.csv"] = DATA
    release.server.asked.clear()
    n_here = len(release.here())
    release.fetch(files=files)
    assert len(release.server.asked) == len(CONTENT) - n_here
    release.assert_whole()


@pytest.mark.parametrize(
    ("content", "match"),
    [(b"<html>rate limit</html>", r"8\.jpg: not a readable image"), (b"", "not a readable image"),
     (image_bytes(1, (60, 80)), r"8\.jpg: 60x80 px, expected \(80, 60\)|8\.jpg: .*60x80 px, expected 80x60")],
)  # fmt: skip
def test_an_image_that_is_none_is_refused_and_not_kept(release, content, match):
    release.server.files["img/8.jpg"] = content
    release.fails(match)
    assert not (release.target / "img" / "8.jpg").exists()
    release.server.files["img/8.jpg"] = CONTENT["img/8.jpg"]
    release.fetch()
    release.assert_whole()


@pytest.mark.parametrize("keep", [0.5, 0.9])
def test_an_image_that_ends_early_is_refused_and_not_kept(release, keep):
    """Its header has the right size; without a length from the server only decoding tells."""
    whole = CONTENT["img/8.jpg"]
    release.server.claims = None
    release.server.files["img/8.jpg"] = whole[: int(keep * len(whole))]
    release.fails(r"8\.jpg: not a readable image")
    assert not (release.target / "img" / "8.jpg").exists()


def test_killed_between_arrival_and_check_the_image_is_checked_later(release, monkeypatch):
    release.server.files["img/8.jpg"] = b"<html>rate limit</html>"

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as during:
        during.setattr(fetching, "_check_image", killed)
        with pytest.raises(KeyboardInterrupt):
            release.fetch()
    release.server.files["img/8.jpg"] = CONTENT["img/8.jpg"]
    with contextlib.suppress(InputError):
        release.fetch()
    release.fetch()
    release.assert_whole()


@pytest.mark.parametrize("lost", ["data/eye.csv", "img/9.jpg", "photos.zip"])
def test_a_file_the_server_does_not_have_is_one_line(release, lost):
    del release.server.files[lost]
    release.fails(rf"{lost}: cannot be fetched \(HTTP 404\); .*run the same command again")
    release.server.files[lost] = CONTENT[lost]
    release.fetch()
    release.assert_whole()


def test_every_interruption_is_survived(release):
    """Each answer is cut once; every call gets further, and nothing is fetched whole again."""
    release.server.files["data/eye.csv"] = DATA
    release.server.cuts = [100, None] * len(CONTENT)
    for _ in range(len(CONTENT) + 1):
        with contextlib.suppress(InputError):
            release.fetch()
    release.assert_whole()
    assert all(release.server.paths().count(path) <= 2 for path in CONTENT)


def test_an_interrupted_series_goes_on(release):
    release.server.status["img/8.jpg"] = 503
    release.fails("HTTP 503")
    n_here = len(release.here())
    release.server.status.clear()
    release.server.asked.clear()
    release.fetch()
    assert len(release.server.asked) == len(CONTENT) - n_here
    release.assert_whole()


def test_an_archive_is_unpacked_once_and_goes_away(release):
    release.fetch(download=None, files={})
    assert release.here() == PHOTOS | {f"extra/{path}": content for path, content in NOTES.items()}
    release.server.asked.clear()
    release.fetch(download=None, files={})
    assert release.server.asked == []


@pytest.mark.parametrize("lost", ["photos", "extra/readme.txt"])
def test_what_an_archive_brought_and_is_gone_is_fetched_again(release, lost):
    release.fetch()
    place = release.target / lost
    place.rename(release.target.parent / "gone")
    release.server.asked.clear()
    release.fetch()
    assert release.server.paths() == ["photos.zip" if lost == "photos" else "notes.zip"]
    release.assert_whole()


def test_an_archive_that_was_put_there_by_hand_is_used(release):
    release.target.mkdir()
    (release.target / "photos.zip").write_bytes(CONTENT["photos.zip"])
    release.fetch()
    assert "photos.zip" not in release.server.paths()
    release.assert_whole()


def test_an_archive_put_there_by_hand_with_another_content_is_not_used(release):
    release.target.mkdir()
    (release.target / "photos.zip").write_bytes(zip_bytes({"photos/evil.png": b"1"}))
    release.fetch()
    release.assert_whole()


@pytest.mark.parametrize("part", ["url", "digest"])
def test_a_new_version_in_the_card_is_fetched(release, part):
    release.fetch()
    photos = {**PHOTOS, "photos/1.png": b"corrected"}
    path = "photos.zip" if part == "digest" else "v2.zip"
    release.server.files[path] = zip_bytes(photos)
    new = {"url": f"{release.server.base}/{path}", "sha256": sha256(release.server.files[path])}
    release.fetch(archives={**release.content["archives"], "photos.zip": new})
    assert release.here() == {**WHOLE, **photos}


@pytest.mark.parametrize("note", [b"", b"null", b"[]", b"{}", b'{"url": 1, "entries": 2}', b"\xff", b"[" * 200_000])
def test_a_damaged_note_on_an_unpacked_archive_is_harmless(release, note):
    release.fetch()
    (release.target / ".unpacked" / "photos.zip.json").write_bytes(note)
    release.fetch()
    release.assert_whole()


@pytest.mark.parametrize("content", [b"", b"<html>sign in</html>", CONTENT["notes.zip"][:-30]])
def test_an_archive_that_is_none_is_one_line_and_can_be_mended(release, content):
    release.server.files["notes.zip"] = content
    release.fails(r"notes\.zip: cannot be unpacked .*; delete it and fetch it again")
    assert not (release.target / "extra" / "readme.txt").exists()
    # As the message says.
    (release.target / "notes.zip").unlink(missing_ok=True)
    release.server.files["notes.zip"] = CONTENT["notes.zip"]
    release.fetch()
    release.assert_whole()


@pytest.mark.parametrize("evil", ["../up.txt", "/tmp/up.txt"])
def test_an_archive_cannot_leave_the_folder(release, evil, tmp_path):
    release.server.files["notes.zip"] = zip_bytes({"readme.txt": b"read", evil: b"1"})
    release.fails("points outside the folder")
    assert not list(tmp_path.rglob("up.txt"))
    assert not list(release.target.rglob("readme.txt"))


@pytest.mark.parametrize("name", [".unpacked/notes.zip.json", ".fetch.lock", ".data.part/x"])
def test_an_archive_cannot_forge_the_notes_on_what_was_fetched(release, name):
    """Else the first archive could say that the second one is here."""
    forged = b'{"url": "%s/notes.zip", "digest": null, "entries": []}' % release.server.base.encode()
    release.server.files["photos.zip"] = zip_bytes({**PHOTOS, name: forged})
    archives = {
        "photos.zip": {"url": f"{release.server.base}/photos.zip"},
        "notes.zip": release.content["archives"]["notes.zip"],
    }
    with contextlib.suppress(InputError):
        release.fetch(archives=archives)
        assert release.here() == WHOLE
    lock = release.target / ".fetch.lock"
    assert not lock.exists() or lock.read_bytes() == b""


def test_an_archive_that_holds_a_file_of_its_own_name_is_unpacked_once(release):
    release.server.files["notes.zip"] = zip_bytes({**NOTES, "notes.zip": b"not an archive"})
    archives = {"notes.zip": {"url": f"{release.server.base}/notes.zip"}}
    for _ in range(2):
        release.fetch(archives=archives)
    assert release.server.paths().count("notes.zip") == 1
    assert (release.target / "notes.zip").read_bytes() == b"not an archive"


def test_broken_off_while_unpacking_nothing_is_half_done(release, monkeypatch):
    def broken(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as during:
        during.setattr("gazekit.datasets.archive._move_in", broken)
        with pytest.raises(KeyboardInterrupt):
            release.fetch()
    assert set(release.here()) == set(WHOLE) - {*PHOTOS, *(f"extra/{path}" for path in NOTES)} | {"photos.zip"}
    release.server.asked.clear()
    release.fetch()
    assert release.server.paths() == ["notes.zip"]  # the other one is here already
    release.assert_whole()


MANUAL = "Ask for made_up.zip at http://127.0.0.1/form, and unpack it."


def test_what_no_program_may_fetch_is_one_line_with_instructions(release):
    release.fails(
        rf"^made_up cannot be downloaded by a program: {MANUAL} Put it into {release.target}\.$",
        download=None,
        archives=None,
        manual="Ask for made_up.zip at http://127.0.0.1/form,\n   and unpack it.\n",
    )
    assert "licence data: CC0-1.0" in release.said[0]
    assert release.server.asked == []
    assert not release.target.exists()


def test_a_rest_that_is_left_to_do_by_hand_is_said_in_the_end(release):
    release.fetch(manual=MANUAL)
    release.assert_whole()
    assert len(release.said) == 2
    assert release.said[1].endswith(MANUAL)


def test_simulated_data_need_no_download():
    said: list[str] = []
    with pytest.raises(InputError, match=r"'simulated' is generated by gazekit and needs no download$"):
        fetch("simulated", say=said.append)
    assert said == []


def test_an_unknown_name_is_one_line():
    with pytest.raises(InputError, match=r"no dataset named 'osei'; did you mean 'osie'\?"):
        fetch("osei")


@pytest.mark.parametrize("in_the_way", ["here", "here/data", "here/photos", "here/.unpacked"])
def test_a_file_where_a_folder_should_be_is_one_line(release, in_the_way):
    place = release.target.parent / in_the_way
    place.parent.mkdir(exist_ok=True)
    place.write_bytes(b"in the way")
    release.fails(in_the_way.rpartition("/")[2].lstrip("."))
    assert place.read_bytes() == b"in the way"


@pytest.mark.parametrize(
    "broken",
    [{"files": ["data/eye.csv"]}, {"files": {"img": {"first": 7, "last": 9}}}, {"files": {"data/eye.csv": "abc"}},
     {"files": {"img": {"first": "a", "last": 9, "suffix": ".jpg"}}}, {"archives": ["notes.zip"]},
     {"archives": {"notes.zip": {"sha256": "0" * 64}}}, {"archives": {"notes.zip": "http://127.0.0.1/notes.zip"}},
     {"archives": {"notes.zip": {"url": 5}}}, {"download": 5}, {"download": ["http://127.0.0.1"]},
     {"files": {"../outside.txt": None}}, {"files": {"{tmp}/outside.txt": None}},
     {"archives": {"../notes.zip": {"url": "{base}/notes.zip"}}},
     {"archives": {"notes.zip": {"url": "{base}/notes.zip", "into": "../outside"}}}, {"name": "../outside"}],
    ids=str,
)  # fmt: skip
def test_a_card_that_makes_no_sense_is_one_line(release, broken, tmp_path):
    """Cards are passed around like data; none may crash the command or write elsewhere."""
    text = yaml.safe_dump({**release.content, **broken})
    text = text.replace("{base}", release.server.base).replace("{tmp}", str(tmp_path))
    release.server.files |= dict.fromkeys(
        ("outside.txt", "../outside.txt", f"{tmp_path}/outside.txt".lstrip("/")), b"1"
    )
    release.card.write_text(text)
    with pytest.raises(InputError) as caught:
        fetch(str(release.card), None if "name" in broken else release.target, release.said.append, 2)
    assert len(str(caught.value).splitlines()) == 1
    assert not list(tmp_path.rglob("outside*"))


_CHILD = """
import sys
from pathlib import Path
from gazekit.datasets.fetch import fetch
fetch(sys.argv[1], Path(sys.argv[2]))
"""


def test_two_at_the_same_time_share_the_work(release):
    """The second waits for the first, and then finds everything there."""
    release.write()
    release.server.hold_after = 1000
    said: dict[str, list[str]] = {"first": [], "second": []}
    workers = [
        threading.Thread(target=fetch, args=(str(release.card), release.target, said[name].append)) for name in said
    ]
    try:
        workers[0].start()
        until(lambda: release.server.asked, "the first request")
        workers[1].start()
        until(lambda: len(said["second"]) == 2, "the second to see that it must wait")
        assert len(release.server.asked) == 1
    finally:
        release.server.go.set()
        for worker in workers:
            worker.join()
    assert "another process is fetching" in said["second"][1]
    assert len(said["first"]) == 1
    assert sorted(release.server.paths()) == sorted(CONTENT)
    release.assert_whole()


@pytest.mark.slow
def test_two_processes_share_the_work(release):
    release.write()
    release.server.hold_after = 1000
    command = [sys.executable, "-u", "-c", _CHILD, str(release.card), str(release.target)]
    children = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    try:
        for child in children:
            assert "licence data: CC0-1.0" in child.stdout.readline()
        release.server.go.set()
        assert [child.wait(60) for child in children] == [0, 0]
    finally:
        for child in children:
            child.kill()
            child.wait()
            child.stdout.close()
    assert sorted(release.server.paths()) == sorted(CONTENT)
    release.assert_whole()


@pytest.mark.slow
def test_a_killed_process_leaves_no_lock_and_the_next_one_goes_on(release):
    release.write()
    release.server.hold_after = 30_000
    with subprocess.Popen(
        [sys.executable, "-c", _CHILD, str(release.card), str(release.target)], stdout=subprocess.DEVNULL
    ) as child:
        try:
            until(lambda: "data/eye.csv" in release.server.paths(), "the first request")
        finally:
            child.kill()
    assert not (release.target / "data" / "eye.csv").exists()
    release.server.hold_after = None
    release.server.go.set()
    release.fetch()
    release.assert_whole()
    assert not any("another process" in text for text in release.said)


def test_a_second_process_is_told_that_it_waits(release, monkeypatch):
    import filelock

    release.target.mkdir()
    lock = filelock.FileLock(release.target / ".fetch.lock")
    lock.acquire()

    def say(text: str) -> None:
        release.said.append(text)
        if "another process" in text:
            assert release.server.asked == []
            lock.release()

    fetch(str(release.write()), release.target, say)
    assert f"another process is fetching into {release.target}; waiting for it" in release.said
    release.assert_whole()


def test_after_a_failure_the_lock_is_free(release):
    release.server.status["data/eye.csv"] = 500
    release.fails("HTTP 500")
    release.server.status.clear()
    release.fetch()
    assert not any("another process" in text for text in release.said)


def test_what_was_fetched_can_be_loaded(server, tmp_path):
    """OSIE's own card, with a server on this machine in place of the authors'."""
    folder = write_release(tmp_path / "server", n_images=3) / "osie"
    server.files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.*")}
    mat = server.files["eye/fixations.mat"]
    content = {
        **Card.read("osie").content,
        "download": server.base,
        "files": {
            "eye/fixations.mat": {"sha256": sha256(mat)},
            "stimuli": {"first": 1001, "last": 1003, "suffix": ".jpg"},
        },
    }
    card = tmp_path / "osie.yaml"
    card.write_text(yaml.safe_dump(content))
    target = fetch(str(card), say=lambda text: None)
    for name in ("osie", target):
        with pytest.warns(PartialDataWarning, match="3 of 700 stimuli"):
            data = load(name)
        assert len(data.trials) == 9
        assert data.source == target


def test_the_shipped_digests_cover_the_card():
    wanted = listed_files(Card.read("osie"))
    assert len(wanted) == 701
    assert wanted["eye/fixations.mat"] == "md5:8efdf6fe66f38b6e70f854c7ff45aa70"
    known = [digest for digest in wanted.values() if digest and digest.startswith("sha256:")]
    assert len(known) == 560
    assert all(len(digest) == 7 + 64 for digest in known)


@pytest.mark.parametrize("name", resource_names("datasets"))
def test_every_shipped_card_says_how_to_get_the_data(name, tmp_path, monkeypatch):
    """By program, by hand, or not at all; and no card leads to an address that is not encrypted on the way."""
    calls: list[tuple[str, Path]] = []

    class StoppedError(Exception):
        pass

    def note(url, place, *_, **__):
        calls.append((url, place))
        raise StoppedError

    monkeypatch.setattr(fetching, "download", note)
    card = Card.read(name)
    with pytest.raises((InputError, StoppedError)) as caught:
        fetch(name, tmp_path / "here", say=lambda text: None)
    if isinstance(caught.value, InputError):
        message = str(caught.value)
        assert "\n" not in message
        assert card.simulated or (card.content["manual"].split()[0] in message and str(tmp_path / "here") in message)
    else:
        (url, place) = calls[0]
        assert url.startswith(("https://", "http://"))
        assert place.is_relative_to(tmp_path / "here")
