"""Datasets by name: ``load("osie")`` gives fixation, trial and stimulus tables with their card."""

from __future__ import annotations

import pkgutil
from pathlib import Path
from typing import Any

from gazekit.datasets import readers
from gazekit.datasets.card import Card
from gazekit.datasets.dataset import GazeDataset, PartialDataWarning
from gazekit.datasets.fixatons_writer import write_fixatons
from gazekit.datasets.from_frame import from_dataframe
from gazekit.datasets.loading import data_folder
from gazekit.datasets.loading import load as _load
from gazekit.datasets.pymovements_exchange import from_pymovements
from gazekit.datasets.pysaliency_exchange import from_pysaliency, read_pysaliency_hdf5
from gazekit.datasets.visions_writer import write_visions
from gazekit.registry import Registry

__all__ = [
    "FORMATS",
    "Card",
    "GazeDataset",
    "PartialDataWarning",
    "data_folder",
    "from_dataframe",
    "from_pymovements",
    "from_pysaliency",
    "load",
    "read_pysaliency_hdf5",
    "write_fixatons",
    "write_visions",
]

# What a card's ``format`` (by default its name) may be -> read function(folder, card, **options) -> Tables.
# Files in readers/ are found by name and imported only when asked for.
FORMATS = Registry(
    "dataset format",
    {
        module.name: f"gazekit.datasets.readers.{module.name}:read_{module.name}"
        for module in pkgutil.iter_modules(readers.__path__)
    },
)


def load(
    name: str | Path, root: Path | str | None = None, strict: bool = False, *, cache: bool = True, **options: Any
) -> GazeDataset:
    """Load a dataset; never downloads.

    Args:
        name: A shipped card (``gazekit data list``), the path of a card of your own, or the path of a
            folder with a ``card.yaml`` in it.
        root: A data folder that contains the dataset, or the dataset's own folder. None looks in
            ``$GAZEKIT_DATA`` and then in the cache.
        strict: Raise, instead of warn, when fewer stimuli are here than the card counts.
        cache: Keep the checked tables as Parquet in the cache, and read them from there as long as no
            file of the release changes.
        options: What the dataset's reader offers, e.g. ``first_fixation`` for MIT1003; see its docstring.

    Raises:
        InputError: Unknown name or option; files missing, unreadable or not what the card describes.

    """
    return _load(name, root, strict, formats=FORMATS, cache=cache, **options)
