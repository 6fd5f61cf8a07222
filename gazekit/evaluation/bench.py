"""How long the map metrics take at full resolution: all images, all subjects, one map per image."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import torch

from gazekit.datasets import load
from gazekit.datasets.datamodule import StimulusItems
from gazekit.density import fixation_density
from gazekit.evaluation.protocol import Protocol
from gazekit.evaluation.runner import ShuffledFixations, apply_fixation_rules
from gazekit.metrics import METRICS
from gazekit.provenance import git_commit


@torch.inference_mode()
def bench_map_metrics(data_root: Path | None, n_stimuli: int | None, say: Callable[[str], None]) -> dict[str, float]:
    """Seconds per metric, summed over OSIE's images; every subject's trial is scored.

    The map is a density of random bumps, different for each image; making it, reading the data and
    blurring the empirical maps (reported apart) are not part of a metric's time.
    """
    data = load("osie", root=data_root)
    protocol = Protocol.read("osie_free_viewing")
    shuffled = ShuffledFixations(apply_fixation_rules(data, protocol), data)
    names = data.stimuli["stimulus"].tolist()[:n_stimuli]
    items = StimulusItems(data.subset(stimuli=names), decode=False)
    seconds: dict[str, float] = {}

    def timed(what: str, start: float) -> None:
        seconds[what] = seconds.get(what, 0.0) + time.perf_counter() - start

    for index in range(len(items)):
        batch = items.collate([items[index]])
        generator = torch.Generator().manual_seed(index)
        size = torch.tensor(batch.size_wh_px)
        bumps = torch.rand(1, 40, 2, generator=generator) * size
        everywhere = torch.ones(1, 40, dtype=torch.bool)
        base = fixation_density(bumps, everywhere, batch.size_wh_px, 60.0)
        density = (0.8 * fixation_density(bumps, everywhere, batch.size_wh_px, 24.0) + 0.2 * base).float()
        density = density.expand(len(batch), -1, -1)
        log_density, log_base = density[:1].log().expand_as(density), base.log().float().expand_as(density)
        start = time.perf_counter()
        empirical = fixation_density(batch.xy_px, batch.valid, batch.size_wh_px, batch.px_per_dva, torch.float32)
        timed("blurring", start)
        other = shuffled.others(batch.stimulus[0], batch.size_wh_px)
        given = {
            "sauc": (density, batch.xy_px, batch.valid, other, torch.ones(len(other), dtype=torch.bool)),
            "ll": (log_density, batch.xy_px, batch.valid),
            "ig": (log_density, log_base, batch.xy_px, batch.valid),
        }
        for name, info in METRICS.items():
            if info.needs == "conditional":
                continue
            arguments = (density, empirical) if info.needs == "empirical" else (density, batch.xy_px, batch.valid)
            start = time.perf_counter()
            info.function(*given.get(name, arguments))
            timed(name, start)
    for name, value in seconds.items():
        say(f"{name:10}{value:9.2f} s")
    say(
        f"{'total':10}{sum(seconds.values()):9.2f} s for {len(items)} images, {len(items.data.trials)} trials, "
        f"{torch.get_num_threads()} threads, torch {torch.__version__}, commit {git_commit() or 'unknown'}"
    )
    return seconds
