"""Backbone features on disk, one file per image, found again by content and not by name.

A file's folder is a key of everything that shapes the features except the image (backbone, weights,
strides, input size, code version); its name is the image's own SHA-256. Nothing here can go stale,
and an extraction that was killed goes on where it stopped.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gazekit.errors import InputError
from gazekit.files import cache_folder, sha256_of, written_aside

# Raise this when the extraction itself changes what it writes.
_VERSION = 1


class FeatureCache:
    """Half-precision feature maps per image.

    Args:
        spec: Everything that shapes the features, as plain values.
        folder: Where the caches of all specs live; None is ``features`` in the cache folder.

    """

    def __init__(self, spec: Mapping[str, Any], folder: Path | None = None) -> None:
        text = json.dumps({**spec, "version": _VERSION}, sort_keys=True)
        key = hashlib.sha256(text.encode()).hexdigest()[:16]
        self.folder = (folder or cache_folder() / "features") / key
        self._spec_text = text

    def path(self, image: Path | str) -> Path:
        """The file for this image's content; it need not exist yet."""
        return self.folder / f"{sha256_of(Path(image))}.npz"

    def write(self, path: Path, maps: tuple[Tensor, ...]) -> None:
        """Store the (C, h, w) maps of one image."""
        if not (spec := self.folder / "spec.json").exists():
            with written_aside(spec) as aside:
                aside.write_text(self._spec_text, encoding="utf-8")
        with written_aside(path) as aside, aside.open("wb") as file:
            np.savez(file, *[m.to(torch.float16).cpu().numpy() for m in maps])


def read_features(path: Path) -> tuple[Tensor, ...]:
    """The maps that :meth:`FeatureCache.write` stored, half precision as on disk.

    Raises:
        InputError: The file is damaged.

    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return tuple(torch.from_numpy(arrays[key]) for key in arrays.files)
    except (OSError, ValueError, EOFError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: damaged feature cache ({error}); delete the file and run again") from error
