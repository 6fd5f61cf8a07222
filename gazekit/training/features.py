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


class _Extraction(Dataset[int]):
    """Item i is image i's features, computed and written; what comes back is only that it is done."""

    def __init__(
        self, model: GazeModel, cache: FeatureCache, paths: list[str], sizes_wh_px: list[tuple[int, int]]
    ) -> None:
        self.model, self.cache, self.paths, self.sizes_wh_px = model, cache, paths, sizes_wh_px
        self.targets = [cache.path(path) for path in paths]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> int:
        if not self.targets[index].exists():
            with torch.inference_mode():
                maps = self.model.encode(
                    read_image(self.paths[index], self.sizes_wh_px[index])[None].to(self.model.device)
                )
            self.cache.write(self.targets[index], tuple(m[0] for m in maps))
        return index


def cache_features(
    model: GazeModel,
    data: GazeDataset,
    size_wh_px: tuple[int, int] | None = None,
    folder: Path | None = None,
    device: str = "cpu",
) -> FeatureCache | None:
    """The cache with the features of every stimulus of `data`, or None if the model has none to cache.

    Only a model with a frozen backbone has (``feature_spec`` is not None). On a CPU one worker per
    core decodes and encodes whole images, each on a single thread: threads that share one image
    would wait for each other. Distributed processes share the work too: each begins at another
    place and skips what a neighbor has finished meanwhile.
    """
    spec = model.feature_spec(size_wh_px)
    if spec is None:
        return None
    cache = FeatureCache(spec, folder)
    # A table can state another size than the file has, and fixations refer to the table's.
    own = zip(data.stimuli["width_px"].tolist(), data.stimuli["height_px"].tolist(), strict=True)
    # Stimuli without an image in this copy are refused where they are served.
    here = [(path, size_wh_px or size) for path, size in zip(data.stimuli["path"], own, strict=True) if path]
    work = _Extraction(model.to(device).eval(), cache, [path for path, _ in here], [size for _, size in here])
    missing = [row for row, target in enumerate(work.targets) if not target.exists()]
    if not missing:
        return cache
    world, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("LOCAL_RANK", "0"))
    start = len(missing) * rank // max(world, 1)
    order = missing[start:] + missing[:start]
    workers = 0 if device != "cpu" or len(order) < 8 else max(1, usable_cores() // world)
    loader = DataLoader(work, batch_size=None, sampler=order, num_workers=workers)
    for _ in tqdm(loader, desc="features", unit="image", total=len(order), disable=rank != 0):
        pass
    return cache


def usable_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
