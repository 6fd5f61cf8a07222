"""One file from a server that fails in every way: resumed, never spliced, never half in place, one line."""

from __future__ import annotations

import contextlib
import gc
import hashlib
import json
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gazekit import InputError
from gazekit.datasets import download as downloading
from gazekit.datasets.download import download


@dataclass(frozen=True)
class Asked:
    """One request as it came in."""

    path: str
    bytes_range: str | None
    if_range: str | None


@dataclass
class Server:
    """A server on this machine whose files and faults a test sets while it runs.

    Args:
        files: Path -> content.
        validator: ``etag``, ``weak``, ``modified`` or ``none``: what names the version of a file.
        ranges: ``honour`` (with If-Range), ``ignore``, ``blind`` (without If-Range), ``shifted`` (another
            part than asked for), ``whole`` (206 with the whole file).
        cuts: Bytes after which the connection is cut, for one request after the other; None is no cut.
        claims: Added to Content-Length; None sends no Content-Length.
        status: Path -> status code to answer with.
        hold_after: Bytes after which every answer waits for `go`.
        asked: Every request.
        n_sent: Bytes of content sent.

    """

    files: dict[str, bytes]
    validator: str = "etag"
    ranges: str = "honour"
    cuts: list[int | None] = field(default_factory=list)
    claims: int | None = 0
    status: dict[str, int] = field(default_factory=dict)
    hold_after: int | None = None
    go: threading.Event = field(default_factory=threading.Event)
    asked: list[Asked] = field(default_factory=list)
    n_sent: int = 0
    base: str = ""

    def paths(self) -> list[str]:
        return [one.path for one in self.asked]

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        handler.close_connection = True
        asked = Asked(handler.path.lstrip("/"), handler.headers["Range"], handler.headers["If-Range"])
        self.asked.append(asked)
        content = self.files.get(asked.path)
        status = self.status.get(asked.path, 200 if content is not None else 404)
        content = b"" if content is None else content
        if status != 200:
            self._send(handler, status, {}, b"" if status in (204, 304) else b"no such luck")
            return
        validators = self._validators(content)
        start, headers = 0, dict(validators)
        if asked.bytes_range and self.ranges != "ignore":
            start = int(re.fullmatch(r"bytes=(\d+)-", asked.bytes_range)[1])
            if self.ranges != "blind" and asked.if_range not in validators.values():
                start = 0
            elif start >= len(content):
                self._send(handler, 416, {"Content-Range": f"bytes */{len(content)}"}, b"")
                return
            else:
                status = 206
                start = {"shifted": max(0, start - 7), "whole": 0}.get(self.ranges, start)
                headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        self._send(handler, status, headers, content[start:])

    def _validators(self, content: bytes) -> dict[str, str]:
        tag = hashlib.sha256(content).hexdigest()[:12]
        # Seconds and minutes of its own for each content.
        when = (
            f"Mon, 01 Jan 2029 {int(tag[:2], 16) % 24:02}:{int(tag[2:4], 16) % 60:02}:{int(tag[4:6], 16) % 60:02} GMT"
        )
        return {
            "etag": {"ETag": f'"{tag}"', "Last-Modified": when},
            "weak": {"ETag": f'W/"{tag}"'},
            "modified": {"ETag": f'W/"{tag}"', "Last-Modified": when},
            "none": {},
        }[self.validator]

    def _send(self, handler: BaseHTTPRequestHandler, status: int, headers: dict[str, str], body: bytes) -> None:
        cut = self.cuts.pop(0) if self.cuts else None
        with contextlib.suppress(ConnectionError):
            handler.send_response(status)
            for name, value in headers.items():
                handler.send_header(name, value)
            if self.claims is not None and status not in (204, 304):
                handler.send_header("Content-Length", str(len(body) + self.claims))
            handler.send_header("Connection", "close")
            handler.end_headers()
            body = body if cut is None else body[:cut]
            if self.hold_after is not None:
                handler.wfile.write(body[: self.hold_after])
                self.n_sent += len(body[: self.hold_after])
                self.go.wait(20)
                body = body[self.hold_after :]
            handler.wfile.write(body)
            self.n_sent += len(body)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 20

    def do_GET(self) -> None:
        self.server.serving.answer(self)  # type: ignore[attr-defined]

    def log_message(self, *_: Any) -> None:
        pass


@contextlib.contextmanager
def serving(files: dict[str, bytes]) -> Iterator[Server]:
    """A running :class:`Server`; all its threads have ended afterwards."""
    http = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    http.daemon_threads = False  # or closing would not wait for them
    server = Server(files, base=f"http://127.0.0.1:{http.server_port}")
    http.serving = server  # type: ignore[attr-defined]
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.go.set()
        http.shutdown()
        thread.join()
        http.server_close()


def until(condition: Any, what: str, timeout_s: float = 30) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, f"waited in vain for {what}"
        time.sleep(0.01)


# Random bytes: a splice or a shift shows anywhere. Several pieces of the loop that writes them.
LARGE = np.random.default_rng(3).bytes(1_500_000)
OTHER = np.random.default_rng(4).bytes(1_500_000)


def digest_of(content: bytes, algorithm: str = "sha256") -> str:
    return f"{algorithm}:{hashlib.new(algorithm, content).hexdigest()}"


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def server():
    with serving({"large.bin": LARGE}) as running:
        yield running


@pytest.fixture
def place(tmp_path):
    return tmp_path / "data" / "large.bin"


def fetch(server: Server, place: Path, digest: str | None = None, timeout_s: float = 20, path: str = "large.bin"):
    download(f"{server.base}/{path}", place, digest, timeout_s, progress=False)


def fails(match: str, server: Server, place: Path, **options: Any) -> None:
    with pytest.raises(InputError, match=match) as caught:
        fetch(server, place, **options)
    assert "\n" not in str(caught.value)


def assert_one_line(error: BaseException) -> None:
    assert len(str(error).splitlines()) == 1


def parts(place: Path) -> tuple[Path, Path]:
    return place.with_name(f".{place.name}.part"), place.with_name(f".{place.name}.part.json")


def assert_only(place: Path, content: bytes = LARGE) -> None:
    assert place.read_bytes() == content
    assert [path.name for path in place.parent.iterdir()] == [place.name]


@pytest.mark.parametrize("algorithm", [None, "sha256", "md5"])
def test_a_file_arrives_whole_and_alone(server, place, algorithm):
    fetch(server, place, algorithm and digest_of(LARGE, algorithm))
    assert_only(place)
    assert server.asked == [Asked("large.bin", None, None)]


def test_a_digest_in_capitals_is_the_same_digest(server, place):
    algorithm, _, digits = digest_of(LARGE).partition(":")
    fetch(server, place, f"{algorithm}:{digits.upper()}")
    assert_only(place)


def test_an_empty_file_is_a_file(server, place):
    server.files["large.bin"] = b""
    fetch(server, place, digest_of(b""))
    assert_only(place, b"")


def test_it_replaces_what_was_there_only_in_the_end(server, place):
    place.parent.mkdir()
    place.write_bytes(b"old")
    server.cuts = [700_000]
    fails("cannot be fetched", server, place)
    assert place.read_bytes() == b"old"
    fetch(server, place)
    assert_only(place)


@pytest.mark.parametrize("digest", [None, digest_of(LARGE)])
@pytest.mark.parametrize("validator", ["etag", "modified"])
def test_a_cut_connection_goes_on_where_it_was_cut(server, place, validator, digest):
    server.validator, server.cuts = validator, [400_000, 500_000]
    fails(r"large\.bin: cannot be fetched \(\w+\); \d+ bytes are kept; .*run the same command again", server, place)
    assert not place.exists()
    first = parts(place)[0].stat().st_size
    # What the last unfinished piece held is lost, and no more.
    assert 400_000 - 262_144 <= first <= 400_000
    assert parts(place)[0].read_bytes() == LARGE[:first]
    fails(r"; \d+ bytes are kept", server, place, digest=digest)
    second = parts(place)[0].stat().st_size
    fetch(server, place, digest)
    assert_only(place)
    assert [one.bytes_range for one in server.asked] == [None, f"bytes={first}-", f"bytes={second}-"]
    assert server.asked[1].if_range == server.asked[2].if_range
    assert server.asked[1].if_range.startswith('"' if validator == "etag" else "Mon, ")
    assert server.n_sent - len(LARGE) <= 2 * 262_144


@pytest.mark.parametrize("validator", ["weak", "none"])
def test_without_a_strong_validator_it_starts_afresh(server, place, validator):
    """The rest could be that of another version: nothing says that it is not."""
    server.validator, server.cuts = validator, [400_000]
    fails("bytes are kept", server, place)
    server.files["large.bin"] = OTHER
    fetch(server, place)
    assert_only(place, OTHER)
    assert [one.bytes_range for one in server.asked] == [None, None]


@pytest.mark.parametrize("validator", ["etag", "modified"])
@pytest.mark.parametrize("change", [OTHER, OTHER[:300_000], OTHER[:400_000] + LARGE], ids=["same", "shorter", "longer"])
def test_a_file_that_changed_meanwhile_is_not_spliced(server, place, validator, change):
    server.validator, server.cuts = validator, [600_000]
    fails("bytes are kept", server, place)
    server.files["large.bin"] = change
    fetch(server, place)
    assert_only(place, change)


def test_a_change_after_a_change_is_not_spliced(server, place):
    """The kept validator must be that of the bytes that are kept, each time."""
    server.cuts = [600_000, 500_000]
    fails("bytes are kept", server, place)
    server.files["large.bin"] = OTHER
    fails("bytes are kept", server, place)
    n_kept = parts(place)[0].stat().st_size
    assert parts(place)[0].read_bytes() == OTHER[:n_kept]
    fetch(server, place)
    assert_only(place, OTHER)
    assert server.asked[-1].bytes_range == f"bytes={n_kept}-"


def test_a_server_that_ignores_if_range_is_not_believed(server, place):
    """Some send the asked-for part of whatever the file is now; its validator then tells."""
    server.cuts, server.ranges = [600_000], "blind"
    fails("bytes are kept", server, place)
    server.files["large.bin"] = OTHER
    with contextlib.suppress(InputError):
        fetch(server, place)
    if not place.exists():
        fetch(server, place)
    assert_only(place, OTHER)


@pytest.mark.parametrize("ranges", ["shifted", "whole"])
def test_a_server_that_sends_another_part_is_not_believed(server, place, ranges):
    server.cuts, server.ranges = [600_000], ranges
    fails("bytes are kept", server, place)
    for _ in range(2):
        with contextlib.suppress(InputError):
            fetch(server, place)
        assert not place.exists() or place.read_bytes() == LARGE
    server.ranges = "honour"
    if not place.exists():
        fetch(server, place)
    assert_only(place)


def test_a_server_without_ranges_sends_all_of_it(server, place):
    server.cuts, server.ranges = [600_000], "ignore"
    fails("bytes are kept", server, place)
    fetch(server, place, digest_of(LARGE))
    assert_only(place)


def test_killed_after_the_last_byte_nothing_is_asked_for_twice(server, place, monkeypatch):
    """The digest of gigabytes takes a while; who is killed meanwhile has the whole file already."""

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as during:
        during.setattr(downloading, "wrong_digest", killed)
        with pytest.raises(KeyboardInterrupt):
            fetch(server, place, digest_of(LARGE))
    assert parts(place)[0].read_bytes() == LARGE
    assert not place.exists()
    fetch(server, place, digest_of(LARGE))
    assert_only(place)
    assert server.n_sent == len(LARGE)


def test_a_part_longer_than_the_file_is_thrown_away(server, place):
    server.cuts = [700_000]
    fails("bytes are kept", server, place)
    with parts(place)[0].open("ab") as file:
        file.write(OTHER)
    # Once is enough to find out; the user is then told to run it again.
    with contextlib.suppress(InputError):
        fetch(server, place, digest_of(LARGE))
    if not place.exists():
        fetch(server, place, digest_of(LARGE))
    assert_only(place)


def test_killed_when_a_new_version_begins_nothing_is_spliced(server, place, monkeypatch):
    """The old bytes must be gone before the new version's name is kept beside them."""
    server.cuts = [600_000]
    fails("bytes are kept", server, place)
    server.files["large.bin"] = OTHER
    write_text = Path.write_text

    def write_and_die(path, *args, **kwargs):
        write_text(path, *args, **kwargs)
        raise KeyboardInterrupt

    with monkeypatch.context() as during:
        during.setattr(Path, "write_text", write_and_die)
        with pytest.raises(KeyboardInterrupt):
            fetch(server, place)
    fetch(server, place)
    assert_only(place, OTHER)


@pytest.mark.parametrize("cut", [None, 600_000])
def test_another_content_than_the_digest_leaves_nothing(server, place, cut):
    if cut:
        server.cuts = [cut]
        fails("bytes are kept", server, place)
    server.files["large.bin"] = OTHER
    fails(
        rf"not the file that the card describes \(sha256 {digest_of(OTHER)[7:]}, expected {digest_of(LARGE)[7:]}\); "
        "nothing was kept",
        server,
        place,
        digest=digest_of(LARGE),
    )
    assert list(place.parent.iterdir()) == []
    server.files["large.bin"] = LARGE
    fetch(server, place, digest_of(LARGE))
    assert_only(place)


def test_a_kept_part_with_other_bytes_is_found_out_by_the_digest(server, place):
    server.cuts = [600_000]
    fails("bytes are kept", server, place)
    part = parts(place)[0]
    part.write_bytes(b"\0" * part.stat().st_size)
    fails("not the file that the card describes", server, place, digest=digest_of(LARGE))
    fetch(server, place, digest_of(LARGE))
    assert_only(place)


@pytest.mark.parametrize("digest", [None, digest_of(LARGE)])
def test_a_part_of_unknown_origin_is_not_used(server, place, digest):
    place.parent.mkdir()
    parts(place)[0].write_bytes(OTHER[:50_000])
    fetch(server, place, digest)
    assert_only(place)
    assert server.asked[0].bytes_range is None


def test_a_part_of_another_address_is_not_used(server, place):
    server.files["other.bin"] = OTHER
    server.cuts = [600_000]
    fails("bytes are kept", server, place, path="other.bin")
    fetch(server, place)
    assert_only(place)
    assert server.asked[-1].bytes_range is None


@pytest.mark.parametrize(
    "validator",
    ['"an etag that is not the file\'s"', "", None, 0, 5, True, [], {"a": 1}, "two\nlines", "a\r\nX-Evil: 1", " x",
     "snow\u2603", "\u0000", "\ud800", "x" * 100_000],
)  # fmt: skip
def test_a_strange_kept_validator_is_harmless(server, place, validator):
    place.parent.mkdir()
    part, about = parts(place)
    part.write_bytes(OTHER[:50_000])
    about.write_text(json.dumps({"url": f"{server.base}/large.bin", "validator": validator}))
    try:
        fetch(server, place)
    except InputError as error:
        # A server may refuse a request of 100 kB; it must work the next time.
        assert_one_line(error)
        fetch(server, place)
    assert_only(place)


@pytest.mark.parametrize(
    "about",
    [b"", b"{", b"null", b"5", b"[]", b'"text"', b"{}", b'{"url": 1}', b"\xff\xfe\x00", b"[" * 200_000,
     b'{"url": null, "validator": null}'],
    ids=lambda about: repr(about[:12]),
)  # fmt: skip
def test_damaged_notes_beside_a_part_are_harmless(server, place, about):
    place.parent.mkdir()
    parts(place)[0].write_bytes(OTHER[:50_000])
    parts(place)[1].write_bytes(about)
    fetch(server, place)
    assert_only(place)
    assert server.asked[0].bytes_range is None


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 416, 429, 500, 502, 503])
def test_an_error_of_the_server_is_one_line(server, place, status):
    server.status["large.bin"] = status
    fails(
        rf"^http://127.*/large\.bin: cannot be fetched \((HTTP {status}|ConnectionError)\).*run the same command again",
        server,
        place,
    )
    assert not place.exists()
    server.status.clear()
    fetch(server, place)
    assert_only(place)


@pytest.mark.parametrize("status", [202, 204, 300, 304])
def test_an_answer_that_is_no_file_is_not_taken_for_one(server, place, status):
    server.status["large.bin"] = status
    fails("cannot be fetched", server, place)
    assert not place.exists()


def test_an_error_in_between_keeps_what_is_there(server, place):
    server.cuts = [600_000]
    fails("bytes are kept", server, place)
    n_kept = parts(place)[0].stat().st_size
    server.status["large.bin"] = 503
    fails(rf"HTTP 503\); {n_kept} bytes are kept", server, place)
    server.status.clear()
    fetch(server, place)
    assert_only(place)
    assert server.asked[-1].bytes_range == f"bytes={n_kept}-"


def test_a_length_that_is_too_long_is_a_cut(server, place):
    server.claims = 1000
    fails("cannot be fetched", server, place)
    assert not place.exists()


def test_a_length_that_is_too_short_is_found_out_by_the_digest(server, place):
    server.claims = -1000
    fails("not the file that the card describes", server, place, digest=digest_of(LARGE))
    assert list(place.parent.iterdir()) == []


def test_without_a_length_the_digest_tells(server, place):
    server.claims, server.cuts = None, [600_000]
    fails("not the file that the card describes", server, place, digest=digest_of(LARGE))
    fetch(server, place, digest_of(LARGE))
    assert_only(place)


def test_a_silent_server_is_given_up(server, place):
    server.hold_after = 600_000
    fails("cannot be fetched", server, place, timeout_s=0.3)
    n_kept = parts(place)[0].stat().st_size
    assert 600_000 - 262_144 <= n_kept <= 600_000
    server.hold_after = None
    server.go.set()
    fetch(server, place)
    assert_only(place)
    assert server.asked[-1].bytes_range == f"bytes={n_kept}-"


def test_nobody_at_the_address_is_one_line(place):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        # Bound and not listening: the connection is refused.
        with pytest.raises(
            InputError, match=r"cannot be fetched \(ConnectionError\); connect to the network"
        ) as caught:
            download(f"http://127.0.0.1:{port}/large.bin", place, None, 2, progress=False)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "answer",
    [b"", b"\0" * 100, b"SSH-2.0-x\r\n", b"HTTP/1.1\r\n\r\n", b"HTTP/1.1 abc\r\n\r\n",
     b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 200,
     b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc",
     b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
     b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
     b"HTTP/1.1 302 Found\r\nLocation: file:///etc/passwd\r\nContent-Length: 0\r\n\r\n",
     b"HTTP/1.1 302 Found\r\nLocation: http://[\r\nContent-Length: 0\r\n\r\n",
     b"HTTP/1.1 302 Found\r\nLocation: \xff\xfe\r\nContent-Length: 0\r\n\r\n",
     b"HTTP/1.1 302 Found\r\nLocation: /large.bin\r\nContent-Length: 0\r\n\r\n"],
    ids=lambda answer: repr(answer[:70]),
)  # fmt: skip
# Where following a redirect fails, requests itself leaves the connection to the garbage collector.
@pytest.mark.filterwarnings("ignore:.*unclosed <socket:ResourceWarning")
@pytest.mark.filterwarnings("ignore:.*socket:pytest.PytestUnraisableExceptionWarning")
def test_an_answer_that_is_no_http_is_one_line(place, answer):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(20)
        stopped = threading.Event()

        def serve() -> None:
            while True:
                connection, _ = listener.accept()
                with connection, contextlib.suppress(OSError):
                    if stopped.is_set():
                        return
                    connection.settimeout(5)
                    connection.recv(65_536)
                    connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            with pytest.raises(InputError, match="cannot be fetched") as caught:
                download(f"http://127.0.0.1:{listener.getsockname()[1]}/a", place, None, 5, progress=False)
        finally:
            stopped.set()
            socket.create_connection(listener.getsockname()).close()
            thread.join()
    message = str(caught.value)
    assert "\n" not in message
    assert not place.exists()
    del caught
    if b" 302 " in answer:
        gc.collect()  # here, and not in another test


@pytest.mark.parametrize(
    "url",
    ["", "ftp://127.0.0.1/a", "file:///etc/passwd", "/etc/passwd", "127.0.0.1/a", "http://", "http://[", "http://a\0b/c",
     "http://127.0.0.1:99999/a", "http://127.0.0.1:port/a", "http://.../a", f"http://{'x' * 70}/a", "http://\ud800/"],
)  # fmt: skip
def test_what_is_no_address_is_one_line(place, url):
    with pytest.raises(InputError) as caught:
        download(url, place, None, 2, progress=False)
    assert "\n" not in str(caught.value)
    assert not place.exists()


@pytest.mark.parametrize("in_the_way", ["file above", "folder there", "folder as part", "folder as notes"])
def test_what_is_in_the_way_is_one_line(server, place, in_the_way):
    if in_the_way == "file above":
        place.parent.write_bytes(b"a file")
    elif in_the_way == "folder there":
        (place / "x").mkdir(parents=True)
    else:
        parts(place)[in_the_way.endswith("notes")].mkdir(parents=True)
    fails("cannot be written", server, place)


def test_a_full_disk_is_one_line_and_is_resumed(server, place, monkeypatch):
    class FullDisk:
        """Opened like a file; has room for 300,000 bytes."""

        def __init__(self, file):
            self.file = file

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.file.close()

        def write(self, piece):
            if self.file.tell() + len(piece) > 300_000:
                raise OSError(28, "No space left on device")
            return self.file.write(piece)

    path_open = Path.open

    def opened(path, mode="r", *args, **kwargs):
        file = path_open(path, mode, *args, **kwargs)
        return FullDisk(file) if mode in ("wb", "ab") else file

    with monkeypatch.context() as during:
        during.setattr(Path, "open", opened)
        fails("cannot be written .*No space left on device.*free some space", server, place)
    assert not place.exists()
    fetch(server, place, digest_of(LARGE))
    assert_only(place)
    assert server.asked[-1].bytes_range == "bytes=262144-"


def test_the_file_is_asked_for_as_it_is(server, place):
    """Compression on the way would make lengths and ranges those of something else."""
    seen: list[str] = []
    answer = server.answer

    def noting(handler):
        seen.append(handler.headers["Accept-Encoding"])
        answer(handler)

    server.answer = noting
    fetch(server, place)
    assert seen == ["identity"]


_CHILD = """
import sys
from pathlib import Path
from gazekit.datasets.download import download
download(sys.argv[1], Path(sys.argv[2]), sys.argv[3], progress=False)
"""


def test_a_killed_process_is_resumed(server, place):
    server.hold_after = 900_000
    command = [sys.executable, "-c", _CHILD, f"{server.base}/large.bin", str(place), digest_of(LARGE)]
    part = parts(place)[0]
    with subprocess.Popen(command) as child:
        try:
            until(lambda: part.is_file() and part.stat().st_size >= 3 * 262_144, "the first pieces")
        finally:
            child.kill()
    assert not place.exists()
    n_kept = part.stat().st_size
    assert n_kept >= 3 * 262_144
    server.hold_after = None
    server.go.set()
    fetch(server, place, digest_of(LARGE))
    assert_only(place)
    assert server.asked[-1].bytes_range == f"bytes={n_kept}-"
    assert server.n_sent - len(LARGE) <= 262_144


def test_the_place_never_holds_a_part(server, place):
    """Looked at all the while: it is not there, and then it is whole."""
    server.hold_after = 1_000_000
    worker = threading.Thread(target=fetch, args=(server, place))
    worker.start()
    try:
        until(lambda: parts(place)[0].is_file() and parts(place)[0].stat().st_size >= 3 * 262_144, "the first pieces")
        assert not place.exists()
    finally:
        server.go.set()
        worker.join()
    assert_only(place)
