"""Datasets by name: ``load("osie")`` gives fixation, trial and stimulus tables with their card."""

from __future__ import annotations

from pathlib import Path

from gazekit.datasets.card import Card
from gazekit.datasets.dataset import GazeDataset, PartialDataWarning
from gazekit.registry import Registry

__all__ = ["DATASETS", "Card", "GazeDataset", "PartialDataWarning", "load"]

# name -> load function(root, strict) -> GazeDataset
DATASETS = Registry(
    "dataset",
    {
        "osie": "gazekit.datasets.osie:load_osie",
        "simulated": "gazekit.datasets.simulated:load_simulated",
    },
)


def load(name: str, root: Path | str | None = None, strict: bool = False) -> GazeDataset:
    """Load a registered dataset; never downloads.

    Args:
        name: One of ``DATASETS``.
        root: A data folder that contains `name`, or the dataset's own folder. None looks in
            ``$GAZEKIT_DATA`` and then in the cache.
        strict: Raise, instead of warn, when fewer stimuli are here than the card counts.

    Raises:
        InputError: Unknown name; files missing, unreadable or not what the card describes.

    """
    dataset: GazeDataset = DATASETS.load(name)(root=root, strict=strict)
    return dataset
