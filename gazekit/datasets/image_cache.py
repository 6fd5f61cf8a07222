"""Decoded images in one size, one file per image, found again by content and not by name."""

from __future__ import annotations

import io
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gazekit.datasets.images import read_rgb
from gazekit.errors import InputError
from gazekit.files import cache_folder, sha256_of, written_aside

# Raise this when decoding or resizing itself changes.
_VERSION = 1


class ImageCache:
    """Images as bytes on disk, in the frame in which they are served; reading one takes a tenth of decoding it.

    A file is named after the SHA-256 of the image file that it was made of, and lies in a folder named
    after the size. Nothing here can go stale, and processes that write at the same time write the same.

    Args:
        folder: Where the images of all sizes live; None is ``images`` in the cache folder.

    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or cache_folder() / "images"
        self._digests: dict[tuple[str, int, int], str] = {}

    def read(self, path: Path | str, size_wh_px: tuple[int, int]) -> NDArray[np.uint8]:
        """(H, W, 3) RGB in that size, from the cache or, the first time, decoded and stored.

        Raises:
            InputError: As :func:`~gazekit.datasets.images.read_rgb`.

        """
        kept = self.path(path, size_wh_px)
        width, height = size_wh_px
        if (found := _read(kept, (height, width, 3))) is not None:
            return found
        pixels = read_rgb(path, size_wh_px)
        # A cache that cannot be written costs time later, and nothing else.
        with suppress(OSError), written_aside(kept) as aside, aside.open("wb") as file:
            np.save(file, pixels, allow_pickle=False)
        return pixels

    def path(self, path: Path | str, size_wh_px: tuple[int, int]) -> Path:
        """The file for this image's content in this size; it need not exist yet."""
        try:
            about = Path(path).stat()
            key = (str(path), about.st_size, about.st_mtime_ns)
            if key not in self._digests:
                self._digests[key] = sha256_of(Path(path))
        except OSError as error:
            raise InputError(f"{path}: not a readable image ({error}); replace the file") from error
        return self.folder / f"{size_wh_px[0]}x{size_wh_px[1]}-v{_VERSION}" / f"{self._digests[key]}.npy"


def _read(kept: Path, shape: tuple[int, int, int]) -> NDArray[np.uint8] | None:
    """The pixels, or None where the file is not there yet, or is not to the byte what `np.save` begins with.

    Not `np.load`: on a damaged file it raises anything, warns, or takes petabytes.
    """
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
    expected = header.getvalue()
    try:
        content = bytearray(kept.read_bytes())
    except OSError:
        return None
    if len(content) != len(expected) + int(np.prod(shape)) or not content.startswith(expected):
        return None
    return np.frombuffer(content, np.uint8, offset=len(expected)).reshape(shape)
