"""Unpack an archive from the internet as if it were hostile: whole and inside its folder, or not at all."""

from __future__ import annotations

import shutil
import stat
import struct
import uuid
import zipfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from gazekit.errors import InputError

# The largest known release (CAT2000) unpacks to some gigabytes, and photographs hardly shrink in a ZIP.
_LARGEST_BYTES = 40 * 1024**3
_LARGEST_COUNT = 200_000
_LARGEST_RATIO = 200
_SMALL_BYTES = 64 * 1024**2
_COPY_BYTES = 1024**2
# What file managers leave in archives.
# Names that fetching keeps for itself in a dataset's folder.
_OURS = (".unpack", ".fetch")
_LITTER = {"__MACOSX", ".DS_Store", ".svn", "Thumbs.db", "desktop.ini"}


def unpack(archive: Path, folder: Path, advance: Callable[[int], object] = lambda n_bytes: None) -> list[str]:
    """Unpack a ZIP file into `folder`, and return the names of its top-level entries.

    Everything is unpacked aside and moved into place once all of it is there. Folders that exist
    already are merged with; files that exist are replaced.

    Args:
        archive: The file.
        folder: Where to; made if missing.
        advance: Called with the number of bytes after each piece.

    Raises:
        InputError: The archive is damaged or encrypted, names a place outside `folder`, holds a link or a
            device, or unpacks to more than it says or than any known release. Nothing is then left.

    """
    aside = folder / f".unpacking-{uuid.uuid4().hex[:8]}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for stale in folder.glob(".unpacking-*"):
            shutil.rmtree(stale, ignore_errors=True)
        with zipfile.ZipFile(archive) as opened:
            members = _checked(opened, archive)
            for info, path in members:
                target = aside.joinpath(*path.parts)
                if info.is_dir():
                    target.mkdir(parents=True, exist_ok=True)
                    continue
                target.parent.mkdir(parents=True, exist_ok=True)
                _copy(opened, info, target, advance, archive)
        names = sorted({path.parts[0] for _, path in members})
        for name in names:
            _refuse_in_the_way(aside / name, folder / name, archive)
        for name in names:
            _move_in(aside / name, folder / name)
        return names
    except InputError:
        raise
    # zlib.error, NotImplementedError (an unknown compression) and more: whatever damage makes zipfile trip over.
    except Exception as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"{archive}: cannot be unpacked ({type(error).__name__}: {reason}); delete it and fetch it again"
        ) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _checked(opened: zipfile.ZipFile, archive: Path) -> list[tuple[zipfile.ZipInfo, PurePosixPath]]:
    """The members to unpack with their places, or the first thing that is wrong."""
    infos = opened.infolist()
    # Damage to one entry of the directory can hide all that follow it, which zipfile does not notice.
    if (stated := _stated_count(archive)) != 0xFFFF and stated != len(infos):
        raise InputError(f"{archive}: lists {len(infos)} of {stated} files; delete it and fetch it again")
    if len(infos) > _LARGEST_COUNT:
        raise InputError(f"{archive}: holds {len(infos)} files, more than {_LARGEST_COUNT}; it is not unpacked")
    unpacked, packed = (
        (sum(sizes) for sizes in zip(*((i.file_size, i.compress_size) for i in infos), strict=True))
        if (infos)
        else (0, 0)
    )
    # The directory may claim any packed size; members cannot be packed into more than there is.
    packed = min(packed, archive.stat().st_size)
    if unpacked > _LARGEST_BYTES or (unpacked > _SMALL_BYTES and unpacked > _LARGEST_RATIO * max(1, packed)):
        raise InputError(
            f"{archive}: {packed} bytes that unpack to {unpacked}, more than any release; it is not unpacked"
        )
    members: list[tuple[zipfile.ZipInfo, PurePosixPath]] = []
    seen: set[str] = set()
    for info in infos:
        # zipfile cuts `filename` at a NUL.
        path = PurePosixPath(info.orig_filename)
        mode = info.external_attr >> 16
        if path.is_absolute() or ".." in path.parts or set(info.orig_filename) & set("\\:\0") or not path.parts:
            raise InputError(f"{archive}: {info.orig_filename!r} points outside the folder; it is not unpacked")
        if mode and not (stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_IFMT(mode) == 0):
            raise InputError(f"{archive}: {info.filename!r} is a link or a device; it is not unpacked")
        if info.flag_bits & 1:
            raise InputError(f"{archive}: {info.filename!r} is encrypted; it is not unpacked")
        # The others unpack a whole piece at once, to gigabytes if it says so.
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise InputError(
                f"{archive}: {info.filename!r} is compressed in a way that is not read; it is not unpacked"
            )
        if info.is_dir() and info.file_size:
            raise InputError(f"{archive}: folder {info.filename!r} has a content; delete it and fetch it again")
        if path.parts[0].startswith(_OURS):
            raise InputError(f"{archive}: {info.filename!r} is a name of gazekit's own; it is not unpacked")
        if set(path.parts) & _LITTER:
            continue
        # One name in two spellings would be one file on some systems.
        if not info.is_dir() and str(path).casefold() in seen:
            raise InputError(f"{archive}: {info.filename!r} occurs twice; it is not unpacked")
        seen.add(str(path).casefold())
        members.append((info, path))
    if not members:
        raise InputError(f"{archive}: holds no file; delete it and fetch it again")
    return members


def _copy(
    opened: zipfile.ZipFile, info: zipfile.ZipInfo, target: Path, advance: Callable[[int], object], archive: Path
) -> None:
    n_bytes = 0
    # zipfile compares the checksum when the last piece has been read.
    with opened.open(info) as source, target.open("xb") as file:
        while piece := source.read(_COPY_BYTES):
            n_bytes += len(piece)
            if n_bytes > info.file_size:
                raise InputError(f"{archive}: {info.filename!r} is larger than it says; it is not unpacked")
            file.write(piece)
            advance(len(piece))
    if n_bytes != info.file_size:
        raise InputError(f"{archive}: {info.filename!r} ends early; delete the archive and fetch it again")


def _stated_count(archive: Path) -> int:
    """Number of members by the end record; 0xFFFF where a larger record has it."""
    with archive.open("rb") as file:
        file.seek(max(0, archive.stat().st_size - 22 - 0xFFFF))
        tail = file.read()
    count: int = struct.unpack_from("<H", tail, tail.rfind(b"PK\5\6") + 10)[0]
    return count


def _refuse_in_the_way(source: Path, target: Path, archive: Path) -> None:
    """Raise where a file would replace a folder or a folder a file, before anything is moved."""
    if source.is_dir() and target.is_dir():
        for entry in source.iterdir():
            _refuse_in_the_way(entry, target / entry.name, archive)
    elif target.exists() and (source.is_dir() or target.is_dir()):
        raise InputError(f"{archive}: {target} is in the way; move it elsewhere and run the same command again")


def _move_in(source: Path, target: Path) -> None:
    """Move a file or a folder into place; into a folder that is there already, entry by entry."""
    if source.is_dir() and target.is_dir():
        for entry in source.iterdir():
            _move_in(entry, target / entry.name)
    else:
        source.replace(target)
