"""One file from the network: goes on where it was cut off, checked before it gets its name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import requests
from tqdm import tqdm

from gazekit.datasets.files import wrong_digest
from gazekit.errors import InputError

_PIECE_BYTES = 256 * 1024


def download(url: str, place: Path, digest: str | None, timeout_s: float = 20, progress: bool = True) -> None:
    """Bring `url` to `place`.

    The file grows under another name beside `place`, with the server's validators, and is moved once
    it is whole and has the digest. A second call asks for the rest only, as long as the server's file
    is still the same one.

    Args:
        url: An http(s) address.
        place: Where to.
        digest: ``sha256:...`` or ``md5:...``, or None where no digest is known.
        timeout_s: Longest silence of the server.
        progress: Show a bar.

    Raises:
        InputError: The server cannot be reached, the transfer broke off, or the file has another digest.

    """
    if not url.startswith(("https://", "http://")):
        raise InputError(f"{url}: not an http address; the card is wrong")
    place.parent.mkdir(parents=True, exist_ok=True)
    part, about = (place.with_name(f".{place.name}.{ending}") for ending in ("part", "part.json"))
    try:
        _transfer(url, part, about, timeout_s, place.name, progress)
    except requests.RequestException as error:
        kept = f"; {part.stat().st_size} bytes are kept" if part.is_file() and part.stat().st_size else ""
        reason = f"HTTP {error.response.status_code}" if error.response is not None else type(error).__name__
        raise InputError(
            f"{url}: cannot be fetched ({reason}){kept}; connect to the network and run the same command again"
        ) from error
    except OSError as error:
        raise InputError(f"{part}: cannot be written ({error}); free some space, or give another folder") from error
    if digest is not None and (fault := wrong_digest(part, digest)):
        part.unlink()
        about.unlink(missing_ok=True)
        raise InputError(f"{url}: not the file that the card describes ({fault}); nothing was kept")
    part.replace(place)
    about.unlink(missing_ok=True)


def _transfer(url: str, part: Path, about: Path, timeout_s: float, name: str, progress: bool) -> None:
    have = part.stat().st_size if part.is_file() else 0
    validator = _validator_kept(about, url) if have else None
    # Without a validator the rest could be that of another file.
    headers = {"Accept-Encoding": "identity"}
    if validator:
        headers |= {"Range": f"bytes={have}-", "If-Range": validator}
    with requests.get(url, headers=headers, stream=True, timeout=timeout_s) as response:
        if response.status_code == requests.codes.requested_range_not_satisfiable:
            # Nothing is missing, or the file has shrunk; the digest or a fresh start tells.
            part.unlink()
            raise requests.ConnectionError("the server's file is shorter than what is here")
        response.raise_for_status()
        going_on = response.status_code == requests.codes.partial_content and validator is not None
        if not going_on:
            have = 0
        about.write_text(json.dumps({"url": url, "validator": _validator(response.headers)}), encoding="utf-8")
        length = response.headers.get("Content-Length")
        total = have + int(length) if length and length.isdecimal() else None
        with (
            part.open("ab" if going_on else "wb") as file,
            tqdm(
                total=total, initial=have, desc=name, unit="B", unit_scale=True, leave=False, disable=not progress
            ) as bar,
        ):
            for piece in response.iter_content(_PIECE_BYTES):
                file.write(piece)
                bar.update(len(piece))
    if total is not None and part.stat().st_size != total:
        raise requests.ConnectionError(f"{part.stat().st_size} of {total} bytes came")


def _validator(headers: Mapping[str, str]) -> str | None:
    """What names this version of the file; a weak ETag does not vouch for its bytes."""
    etag = headers.get("ETag")
    return etag if etag and not etag.startswith("W/") else headers.get("Last-Modified")


def _validator_kept(about: Path, url: str) -> str | None:
    try:
        kept = json.loads(about.read_text(encoding="utf-8"))
        return str(kept["validator"]) if kept["url"] == url and kept["validator"] else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
