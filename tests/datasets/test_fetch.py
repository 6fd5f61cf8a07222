"""Fetching from a local server: whole files only, digests held, resumable; a failure is one line."""

from __future__ import annotations

import dataclasses
import hashlib
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import pytest

from gazekit import InputError
from gazekit.datasets import fetch as fetching
from gazekit.datasets.card import Card
from tests.conftest import write_release


class _Quiet(SimpleHTTPRequestHandler):
    asked: ClassVar[list[str]] = []

    def do_GET(self):
        self.asked.append(self.path)
        super().do_GET()

    def log_message(self, *_):
        pass


@pytest.fixture
def release(tmp_path, monkeypatch):
    """A made-up release of three images behind a local server, and a card that points to it."""
    folder = write_release(tmp_path / "server", n_images=3) / "osie"
    _Quiet.asked = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    card = Card.read("osie")
    digest = hashlib.sha256((folder / "eye" / "fixations.mat").read_bytes()).hexdigest()
    content = {
        **card.content,
        "download": f"http://127.0.0.1:{server.server_port}",
        "files": {
            "eye/fixations.mat": {"sha256": digest},
            "stimuli": {"first": 1001, "last": 1003, "suffix": ".jpg"},
        },
    }
    monkeypatch.setattr(fetching.Card, "read", lambda name: dataclasses.replace(card, content=content))
    monkeypatch.setattr(fetching, "_listed_digests", lambda name: {})
    yield folder
    server.shutdown()
    server.server_close()


def test_fetch_brings_every_file_and_asks_for_none_twice(release, tmp_path):
    said: list[str] = []
    target = fetching.fetch("osie", tmp_path / "here", say=said.append)
    for path in ("eye/fixations.mat", "stimuli/1001.jpg", "stimuli/1003.jpg"):
        assert (target / path).read_bytes() == (release / path).read_bytes()
    assert "licence data: MIT" in said[0]
    assert len(_Quiet.asked) == 4
    (target / "stimuli" / "1002.jpg").unlink()
    fetching.fetch("osie", tmp_path / "here", say=said.append)
    assert _Quiet.asked[4:] == ["/stimuli/1002.jpg"]


def test_a_file_with_another_digest_is_refused_and_not_kept(release, tmp_path):
    (release / "eye" / "fixations.mat").write_bytes(b"something else")
    with pytest.raises(InputError, match=r"fixations\.mat: not what the card describes .* nothing was kept"):
        fetching.fetch("osie", tmp_path / "here", say=lambda text: None)
    assert not list((tmp_path / "here").rglob("*.mat"))


def test_an_image_that_is_none_is_refused_and_not_kept(release, tmp_path):
    (release / "stimuli" / "1002.jpg").write_text("<html>rate limit</html>")
    with pytest.raises(InputError, match=r"1002\.jpg: not a readable image"):
        fetching.fetch("osie", tmp_path / "here", say=lambda text: None)
    assert not (tmp_path / "here" / "stimuli" / "1002.jpg").exists()
    assert (tmp_path / "here" / "stimuli" / "1001.jpg").exists()  # finished work is kept


def test_a_missing_file_or_network_is_one_line(release, tmp_path):
    (release / "stimuli" / "1003.jpg").unlink()
    with pytest.raises(InputError, match=r"cannot be reached \(HTTPError\)"):
        fetching.fetch("osie", tmp_path / "here", say=lambda text: None)


def test_the_shipped_digests_cover_the_card(monkeypatch):
    wanted = fetching._wanted(Card.read("osie"))
    assert len(wanted) == 701
    assert wanted["eye/fixations.mat"] == "md5:8efdf6fe66f38b6e70f854c7ff45aa70"
    known = [digest for digest in wanted.values() if digest and digest.startswith("sha256:")]
    assert len(known) == 560
    assert all(len(digest) == 7 + 64 for digest in known)
