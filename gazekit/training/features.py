"""Run a frozen backbone once per image and keep what it gives."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from gazekit.datasets import GazeDataset
from gazekit.datasets.features import FeatureCache
from gazekit.datasets.images import read_image
from gazekit.models import GazeModel


class _Images(Dataset[tuple[int, torch.Tensor]]):
    def __init__(self, paths: list[str], rows: list[int], size_wh_px: tuple[int, int] | None) -> None:
        self.paths, self.rows, self.size_wh_px = paths, rows, size_wh_px

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[int, torch.Tensor]:
        row = self.rows[index]
        return row, read_image(self.paths[row], self.size_wh_px)


def cache_features(
    model: GazeModel,
    data: GazeDataset,
    size_wh_px: tuple[int, int] | None = None,
    folder: Path | None = None,
    device: str = "cpu",
    num_workers: int = 1,
) -> FeatureCache | None:
    """The cache with the features of every stimulus of `data`, or None if the model has none to cache.

    Only a model with a frozen backbone has (``feature_spec`` is not None). Images are decoded in
    worker processes while the backbone runs. Several processes share the work: each begins at
    another place and skips what a neighbor has finished meanwhile.
    """
    spec = model.feature_spec(size_wh_px)
    if spec is None:
        return None
    cache = FeatureCache(spec, folder)
    paths = data.stimuli["path"].tolist()
    targets = [cache.path(path) for path in paths]
    missing = [row for row, target in enumerate(targets) if not target.exists()]
    if not missing:
        return cache
    world, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("LOCAL_RANK", "0"))
    start = len(missing) * rank // max(world, 1)
    order = missing[start:] + missing[:start]
    model = model.to(device).eval()
    loader = DataLoader(_Images(paths, order, size_wh_px), batch_size=None, num_workers=num_workers)
    bar = tqdm(loader, desc="features", unit="image", total=len(order), disable=rank != 0)
    with torch.inference_mode():
        for row, image in bar:
            if not targets[row].exists():
                maps = model.encode(image[None].to(device))
                cache.write(targets[row], tuple(m[0] for m in maps))
    return cache
