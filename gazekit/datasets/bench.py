"""How long it takes to load datasets, to check a table and to decode images; ratios within one run."""

from __future__ import annotations

import importlib.metadata
import os
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from gazekit.datasets import load
from gazekit.datasets.datamodule import ScanpathDataModule
from gazekit.datasets.dataset import PartialDataWarning
from gazekit.errors import InputError
from gazekit.provenance import git_commit
from gazekit.tables import check_fixations

# As many rows as COCO-Search18 has fixations.
_ROWS = 300_000
_FRAME_WH_PX = (320, 240)


def bench_data(data_root: Path | None, workers: int, epochs: int, say: Callable[[str], None]) -> dict[str, float]:
    """Seconds per dataset, from the authors' files and from the cache; images per second, by epoch.

    Datasets that are not on this machine are left out, and said to be.
    """
    found: dict[str, float] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PartialDataWarning)
        for name in ("osie", "interiors", "amazon_covers"):
            _time_loading(name, data_root, found, say)
        _time_checking(found, say)
        feed = "osie" if "osie files" in found else "simulated"
        for cached in (False, True):
            _time_feeding(feed, data_root, workers, epochs, cached, found, say)
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("pandas", "pillow", "torch"))
    say(f"{os.cpu_count()} CPU cores, {versions}, commit {git_commit() or 'unknown'}")
    return found


def _time_loading(name: str, data_root: Path | None, found: dict[str, float], say: Callable[[str], None]) -> None:
    root = data_root if name != "simulated" else None
    try:
        load(name, root=root)  # imports the reader, warms the file cache, fills the table cache
    except InputError as error:
        say(f"{name:14} left out: {error}")
        return
    for what, cache in (("files", False), ("cache", True)):
        start = time.perf_counter()
        data = load(name, root=root, cache=cache)
        found[f"{name} {what}"] = time.perf_counter() - start
    say(
        f"{name:14} {found[f'{name} files']:6.3f} s from the authors' files, {found[f'{name} cache']:6.3f} s from the "
        f"cache; {len(data.stimuli)} stimuli, {len(data.fixations)} fixations"
    )


def _time_checking(found: dict[str, float], say: Callable[[str], None]) -> None:
    rng = np.random.default_rng(0)
    trial = np.sort(rng.integers(0, _ROWS // 7, _ROWS))
    table = pd.DataFrame({"trial": trial})
    table["subject"] = "s" + (table["trial"] % 10).astype("str")
    table["stimulus"] = (table["trial"] // 10).astype("str").str.zfill(12)
    table["fixation"] = table.groupby("trial").cumcount()
    for column, scale in (("x_px", 1680.0), ("y_px", 1050.0), ("duration_s", 0.5)):
        table[column] = rng.random(_ROWS) * scale
    table["t_s"] = np.nan
    start = time.perf_counter()
    check_fixations(table, "bench")
    found["check"] = time.perf_counter() - start
    say(f"{'table check':14} {found['check']:6.3f} s for {_ROWS} fixations")


def _time_feeding(
    name: str, data_root: Path | None, workers: int, epochs: int, cached: bool, found: dict[str, float],
    say: Callable[[str], None],
) -> None:  # fmt: skip
    module = ScanpathDataModule(
        dataset=name, root=str(data_root) if data_root and name != "simulated" else None, batch_size=16,
        train_split="all", size_wh_px=_FRAME_WH_PX, num_workers=workers, cache_images=cached,
    )  # fmt: skip
    loader = module.train_dataloader()
    rates = []
    for _ in range(epochs):
        start, images = time.perf_counter(), 0
        for batch in loader:
            assert isinstance(batch.image, torch.Tensor)
            images += len(batch.stimulus)
        rates.append(images / (time.perf_counter() - start))
    what = "with the image cache" if cached else "decoding every time"
    found[f"images per s {what}"] = rates[-1]
    shown = ", ".join(f"{rate:.0f}" for rate in rates)
    frame = f"{_FRAME_WH_PX[0]}x{_FRAME_WH_PX[1]} px"
    say(f"{'images per s':14} {shown} by epoch, {what}; {name}, {frame}, {workers} workers")
