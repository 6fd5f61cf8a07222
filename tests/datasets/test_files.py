"""Which files a card lists, and whether a file is the one it lists."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
import yaml

from gazekit import InputError
from gazekit.datasets.card import Card
from gazekit.datasets.files import digests, listed_files, wrong_digest

SHA, MD5 = hashlib.sha256(b"content").hexdigest(), hashlib.md5(b"content").hexdigest()


@pytest.fixture
def card(tmp_path):
    """Writes a card that lists these files, with a companion of this text if any."""

    def write(files: Any, companion: str | bytes | None = None) -> Card:
        content = {
            "name": "made_up",
            "title": "A made-up release",
            "citation": "None.",
            "license": {"data": "none stated"},
            "forced_initial": False,
            "screen": None,
            "expect": {},
            "split": {"by": "stimulus", "seed": 1, "val": 0.1, "test": 0.1},
            "files": files,
        }
        path = tmp_path / "made_up.yaml"
        path.write_text(yaml.safe_dump(content, sort_keys=False))
        if companion is not None:
            path.with_suffix(".sha256").write_bytes(companion.encode() if isinstance(companion, str) else companion)
        return Card.read(path)

    return write


def test_each_file_with_its_digest_in_the_order_of_the_card(card):
    files = {
        "z.csv": {"sha256": SHA, "bytes": 7},
        "img": {"first": 9, "last": 11, "suffix": "_a.png"},
        "a.mat": {"md5": MD5},
        "none.txt": None,
        "size.txt": {"bytes": 3},
    }
    expected = {
        "z.csv": f"sha256:{SHA}",
        "img/9_a.png": None,
        "img/10_a.png": None,
        "img/11_a.png": None,
        "a.mat": f"md5:{MD5}",
        "none.txt": None,
        "size.txt": None,
    }
    for found in (listed_files(card(files)), digests(files)):
        assert found == expected
        assert list(found) == list(expected)


def test_the_stronger_digest_counts(card):
    assert digests({"a": {"md5": MD5, "sha256": SHA}}) == {"a": f"sha256:{SHA}"}


def test_no_files_are_no_files(card):
    assert listed_files(card({})) == {}


@pytest.mark.parametrize("ending", ["\n", "\r\n", ""])
def test_the_companion_fills_in_what_the_card_does_not_say(card, ending):
    files = {"a.csv": {"md5": MD5}, "img": {"first": 1, "last": 2, "suffix": ".jpg"}, "b.csv": None}
    # As sha256sum writes it; what the card does not list is not listed.
    companion = f"{SHA}  img/2.jpg{ending or chr(10)}{SHA}  a.csv{ending or chr(10)}{SHA}  with  blanks.csv{ending}"
    assert listed_files(card(files, companion)) == {
        "a.csv": f"md5:{MD5}",
        "img/1.jpg": None,
        "img/2.jpg": f"sha256:{SHA}",
        "b.csv": None,
    }


def test_sha256sum_marks_binary_files_with_a_star(card):
    assert listed_files(card({"a.csv": None}, f"{SHA} *a.csv\n")) == {"a.csv": f"sha256:{SHA}"}


@pytest.mark.parametrize("companion", ["<html>404</html>", f"{SHA}", f"{SHA} a.csv", b"\xff\xfe\x00a"])
def test_a_damaged_companion_is_one_line(card, companion):
    with pytest.raises(InputError, match=r"made_up\.sha256") as caught:
        listed_files(card({"a.csv": None}, companion))
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("algorithm", ["sha256", "md5"])
def test_a_digest_is_compared_in_either_case(tmp_path, algorithm):
    path = tmp_path / "a"
    path.write_bytes(b"content")
    digest = hashlib.new(algorithm, b"content").hexdigest()
    for wanted in (digest, digest.upper()):
        assert wrong_digest(path, f"{algorithm}:{wanted}") == ""
    for content in (b"", b"Content", b"content\n"):
        path.write_bytes(content)
        found = hashlib.new(algorithm, content).hexdigest()
        assert wrong_digest(path, f"{algorithm}:{digest}") == f"{algorithm} {found}, expected {digest}"


def test_a_file_larger_than_a_piece(tmp_path):
    content = bytes(range(256)) * 20_000
    (tmp_path / "a").write_bytes(content)
    assert not wrong_digest(tmp_path / "a", f"sha256:{hashlib.sha256(content).hexdigest()}")


@pytest.mark.parametrize("what", ["nowhere", "."])
def test_a_file_that_cannot_be_read_is_one_line(tmp_path, what):
    with pytest.raises(InputError, match="cannot be read") as caught:
        wrong_digest(Path(tmp_path / what), f"md5:{MD5}")
    assert len(str(caught.value).splitlines()) == 1
