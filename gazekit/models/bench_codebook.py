"""How fast the codebook model trains and searches in made-up scenes of the size of Interiors, with random weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch.nn import functional as F

from gazekit.batch import SearchTask, TrialBatch
from gazekit.models.codebook import Codebook
from gazekit.models.stopwatch import Stopwatch

# Of Interiors: a scene and the picture of its target [px], searches of a scene, training scenes of the card's split.
_SIZE_WH_PX, _TARGET_PX, _TRIALS, _SCENES = (1024, 768), 72, 56, 87
# Fixations of a search that allows twelve saccades, and of people's, on average.
_LONGEST, _MEAN_LENGTH = 13, 6
# Searches whose maps are timed: each map of a scene at full size takes 3 MB.
_MAPPED = 8


def bench_codebook(
    say: Callable[[str], None], paths: int = 100, repeats: int = 3, device: str = "cpu", processor_time: bool = False,
    scenes: int = 4, size_wh_px: tuple[int, int] = _SIZE_WH_PX, **arguments: Any,
) -> dict[str, float]:  # fmt: skip
    """Seconds of a training step, of `paths` sampled scanpaths of one trial, and of one map of a next fixation.

    Args:
        say: Takes each line.
        paths: Of one trial, 13 fixations each.
        repeats: Of which the median counts.
        device: Where it runs.
        processor_time: See :class:`~gazekit.models.stopwatch.Stopwatch`.
        scenes: Per training step, with 56 trials each.
        size_wh_px: Of a scene.
        arguments: Of :class:`~gazekit.models.codebook.Codebook`.

    """
    torch.manual_seed(0)
    model = Codebook(**{"weights": None, **arguments}).to(device)
    watch = Stopwatch(device, processor_time)
    seen, alone = (_trials(n, size_wh_px).to(device) for n in (scenes, 1))
    with torch.no_grad():
        model.measure_channels([seen])
        cached, few = (replace(batch, image=None, features=model.features_of(batch)) for batch in (seen, alone))
    seconds: dict[str, float] = {}

    def report(name: str, value: float, what: str) -> None:
        seconds[name] = value
        say(f"{name:44}{value:10.3f} s{what}")

    model.train()
    model.log = lambda *_, **__: None  # type: ignore[assignment, method-assign]
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=model.hparams["lr"])

    def step(batch: TrialBatch, begin: bool = False) -> None:
        if begin:
            model.on_fit_start()
            model._templates.clear()
        optimizer.zero_grad()
        model.training_step(batch, 0).backward()
        optimizer.step()

    steps = -(-_SCENES // scenes)
    took = {
        "images": watch.median(lambda: step(seen), repeats),
        "cached features, first epoch": watch.median(lambda: step(cached, begin=True), repeats),
        "cached features, later epochs": watch.median(lambda: step(cached), repeats),
    }
    for name, value in took.items():
        ratio = "" if name == "images" else f"; {took['images'] / value:.1f} x"
        report(f"training step, {name}", value, f", {value * steps:.1f} s for {_SCENES} scenes by {scenes}{ratio}")

    model.eval()
    one, pixels, few = few.trials(0, 1), alone.trials(0, 1), few.trials(0, _MAPPED)

    def sampled() -> None:
        model.sample(one, paths, _LONGEST, torch.Generator().manual_seed(0))

    def fixation_anew() -> None:
        """One fixation of one path after another, with everything made for it from the pixels on."""
        model.sample(pixels, 1, 2, torch.Generator().manual_seed(0))

    def mapped() -> None:
        model.conditional_log_density(few)

    with torch.no_grad():
        per_fixation = watch.median(fixation_anew, repeats)
        paths_s, maps_s = watch.median(sampled, repeats), watch.median(mapped, repeats)
    anew, n = per_fixation * paths * (_LONGEST - 1), _MAPPED * _MEAN_LENGTH
    report(
        f"{paths} paths", paths_s, f", {paths / paths_s:.1f} scanpaths/s of {_LONGEST} fixations; {anew:.0f} s, all "
        f"made anew for each fixation: {anew / paths_s:.0f} x",
    )  # fmt: skip
    report(f"{n} maps", maps_s, f", {n / maps_s:.1f} maps/s of {size_wh_px[0]}x{size_wh_px[1]} px, one per fixation")
    n = sum(p.numel() for p in model.parameters() if p.requires_grad)
    say(
        f"codebook, {model.backbone.name}, cells of {model.cell_px} px, bottleneck {model.hparams['bottleneck']}, "
        f"{n:,} parameters that train, random weights; {watch.machine}"
    )
    return seconds


def _trials(scenes: int, size_wh_px: tuple[int, int]) -> TrialBatch:
    """Made-up scenes of random blobs; 56 people search each for a piece of it, six fixations each."""
    rng = torch.Generator().manual_seed(0)
    width, height = size_wh_px
    coarse = torch.rand(scenes, 3, height // 32, width // 32, generator=rng)
    image = F.interpolate(coarse, (height, width), mode="bicubic").clamp(0.0, 1.0)
    n = scenes * _TRIALS
    scene = torch.arange(scenes).repeat_interleave(_TRIALS)
    left, top = width // 5, height // 2
    box = torch.tensor([left, top, left + _TARGET_PX, top + _TARGET_PX], dtype=torch.float32)
    size = torch.tensor(size_wh_px, dtype=torch.float32)
    yes = torch.ones(n, dtype=torch.bool)
    search = SearchTask(
        target=("piece",) * n,
        present=yes,
        box_px=box.expand(n, 4),
        has_box=yes,
        start_xy_px=torch.rand(n, 2, generator=rng) * size,
        has_start=yes,
        max_saccades=torch.full((n,), _LONGEST - 1),
        template=image[:, :, top : top + _TARGET_PX, left : left + _TARGET_PX],
        template_of_trial=scene,
    )
    return TrialBatch(
        stimulus=tuple(f"scene {i}" for i in range(scenes)),
        size_wh_px=size_wh_px,
        px_per_dva=math.nan,
        image=image,
        features=None,
        stimulus_of_trial=scene,
        subject=tuple(f"s{i % _TRIALS}" for i in range(n)),
        trial=torch.arange(n),
        xy_px=torch.rand(n, _MEAN_LENGTH, 2, generator=rng) * size,
        duration_s=torch.full((n, _MEAN_LENGTH), torch.nan),
        valid=torch.ones(n, _MEAN_LENGTH, dtype=torch.bool),
        search=search,
    )
