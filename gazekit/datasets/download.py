"""One file from the network: goes on where it was cut off, checked before it gets its name."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

import requests
import urllib3
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
    if not isinstance(url, str) or not url.startswith(("https://", "http://")):
        raise InputError(f"{url}: not an http address; the card is wrong")
    part, about = (place.with_name(f".{place.name}.{ending}") for ending in ("part", "part.json"))
    try:
        if place.is_dir():
            raise IsADirectoryError(f"{place} is a folder")
        place.parent.mkdir(parents=True, exist_ok=True)
        _transfer(url, part, about, timeout_s, place.name, progress)
    # An address that is none, here or in a redirect, makes requests raise urllib3's errors and ValueErrors.
    except (requests.RequestException, urllib3.exceptions.HTTPError, ValueError) as error:
        kept = f"; {part.stat().st_size} bytes are kept" if part.is_file() and part.stat().st_size else ""
        response = getattr(error, "response", None)
        reason = f"HTTP {response.status_code}" if response is not None else type(error).__name__
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
    if validator and _receive(url, part, about, timeout_s, name, progress, have, validator):
        return
    _receive(url, part, about, timeout_s, name, progress, 0, None)


def _receive(
    url: str, part: Path, about: Path, timeout_s: float, name: str, progress: bool, have: int, validator: str | None
) -> bool:
    """False where the server does not give what is missing of `part`, and nothing was written."""
    headers = {"Accept-Encoding": "identity"}
    if validator:
        headers |= {"Range": f"bytes={have}-", "If-Range": validator}
    with requests.get(url, headers=headers, stream=True, timeout=timeout_s) as response:
        response_range = response.headers.get("Content-Range", "")
        if validator and response.status_code == requests.codes.requested_range_not_satisfiable:
            # Whoever was killed between the last byte and the digest has all of it.
            return response_range == f"bytes */{have}"
        response.raise_for_status()
        going_on = response.status_code == requests.codes.partial_content
        if going_on and not (
            validator
            and response_range.startswith(f"bytes {have}-")
            and validator in (response.headers.get("ETag"), response.headers.get("Last-Modified"))
        ):
            if validator:
                return False
            raise requests.HTTPError("a part that was not asked for", response=response)
        if not going_on and response.status_code not in (requests.codes.ok, 203):
            raise requests.HTTPError("no file", response=response)
        have = have if going_on else 0
        with part.open("ab" if going_on else "wb") as file:
            # Only now, with the old bytes gone, may the new version's name stand beside them.
            about.write_text(json.dumps({"url": url, "validator": _validator(response.headers)}), encoding="utf-8")
            length = response.headers.get("Content-Length")
            total = have + int(length) if length and length.isdecimal() else None
            with tqdm(
                total=total, initial=have, desc=name, unit="B", unit_scale=True, leave=False, disable=not progress
            ) as bar:
                for piece in response.iter_content(_PIECE_BYTES):
                    file.write(piece)
                    bar.update(len(piece))
    if total is not None and part.stat().st_size != total:
        raise requests.ConnectionError(f"{part.stat().st_size} of {total} bytes came")
    return True


def _validator(headers: Mapping[str, str]) -> str | None:
    """What names this version of the file; a weak ETag does not vouch for its bytes."""
    etag = headers.get("ETag")
    return etag if etag and not etag.startswith("W/") else headers.get("Last-Modified")


def _validator_kept(about: Path, url: str) -> str | None:
    try:
        kept = json.loads(about.read_text(encoding="utf-8"))
        sound = isinstance(kept["validator"], str) and re.fullmatch(r"[!-~][ -~]{0,500}", kept["validator"])
        return kept["validator"] if kept["url"] == url and sound else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
