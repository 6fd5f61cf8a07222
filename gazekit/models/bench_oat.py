"""How fast OAT searches and trains at its published size, beside decoding that starts anew with every fixation."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from gazekit.batch import ObjectLayout, SearchTask, TrialBatch
from gazekit.models.oat import Oat
from gazekit.models.stopwatch import Stopwatch

# A collage of covers: pixels, columns and rows.
_SIZE_WH_PX, _COLUMNS, _ROWS = (2560, 1600), 14, 6
_LONGEST = 58
# Fixations of people's searches of the covers, on average.
_MEAN_LENGTH = 15


def bench_oat(
    say: Callable[[str], None], paths: int = 100, repeats: int = 3, device: str = "cpu", processor_time: bool = False,
    **arguments: Any,
) -> dict[str, float]:  # fmt: skip
    """Seconds for `paths` sampled scanpaths of one trial with 84 objects, and trials per second of training.

    Weights are random, and would hardly ever end a scanpath. It is timed to the limit of 58 fixations, and with the end
    made as likely as in people's searches, which take 15 fixations on average.

    Args:
        say: Takes each line.
        paths: Per trial.
        repeats: Of which the median counts.
        device: Where it runs.
        processor_time: See :class:`~gazekit.models.stopwatch.Stopwatch`.
        arguments: Of :class:`~gazekit.models.oat.Oat`, such as ``width``.

    """
    torch.manual_seed(0)
    model = Oat(**{"longest": _LONGEST, **arguments}).to(device).eval()
    one = _trials(1).to(device)
    if not model.uses_image:
        one = replace(one, image=None)

    watch = Stopwatch(device, processor_time)
    made: list[int] = []

    def sampled() -> None:
        scanpaths = model.sample(one, paths, _LONGEST, torch.Generator().manual_seed(0))
        made.append(int(scanpaths.valid.sum()))

    @torch.no_grad()
    def anew() -> None:
        """One fixation of one path, the way the published program makes it: everything from the pixels on."""
        scene = model.scene(one)
        half = torch.zeros(1, _LONGEST // 2, dtype=torch.long, device=device)
        model.network.decode(scene.of_trials, half)

    seconds = {"anew per fixation": watch.median(anew, repeats)}
    for name, as_people in (("to the limit", False), ("as long as people's", True)):
        with _ends(model, one, _MEAN_LENGTH if as_people else None):
            seconds[name] = watch.median(sampled, repeats)
        # The end of a path is a step, too.
        steps = made[-1] + paths
        published = seconds["anew per fixation"] * steps
        say(
            f"{f'oat, {paths} paths {name}':34}{seconds[name]:10.3f} s, {made[-1] / paths:.1f} fixations each; "
            f"{published:.0f} s, all encoded anew for each: {published / seconds[name]:.0f} x"
        )
    if model.uses_image:
        with torch.no_grad():
            seconds["layout alone"] = watch.median(lambda: model.scene(one), repeats)
        say(f"{'  of this, pictures and encoder':34}{seconds['layout alone']:10.3f} s, once per layout")
    many = _trials(6).to(device)
    many = many if model.uses_image else replace(many, image=None)
    model.train()
    model.log = lambda *_, **__: None  # type: ignore[assignment, method-assign]
    optimizer = model.configure_optimizers()

    def trained() -> None:
        optimizer.zero_grad()
        model.training_step(many, 0).backward()
        optimizer.step()

    seconds["training step"] = watch.median(trained, repeats)
    epoch = 80 * seconds["training step"]
    say(
        f"{'  training':34}{6 / seconds['training step']:10.1f} trials/s (6 trials of 15 fixations per collage), so "
        f"{epoch:.1f} s for 80 collages"
    )
    n = sum(p.numel() for p in model.parameters())
    say(
        f"oat, appearance {model.appearance}, width {model.network.width}, {n:,} parameters, random weights; "
        f"{watch.machine}"
    )
    return seconds


@contextmanager
def _ends(model: Oat, batch: TrialBatch, mean_length: int | None) -> Iterator[None]:
    """Within, paths end after about so many fixations; None leaves them as they are."""
    if mean_length is None:
        yield
        return
    attention = model.network.object_attention
    folded = attention.folded
    _, valid, log_p = model.walk(batch, 50, _LONGEST, torch.Generator().manual_seed(1))
    later = valid[..., 1:]
    end = float(log_p[:, :, 1:, -2][later].double().exp().mean())
    added = math.log(end / (1.0 - end)) + math.log(mean_length - 1)

    def raised(keys: Tensor) -> tuple[Tensor, Tensor]:
        product, bias = folded(keys)
        more = torch.zeros_like(bias)
        more[..., -1] = -added
        return product, bias + more

    attention.folded = raised  # type: ignore[method-assign]
    try:
        yield
    finally:
        del attention.folded  # type: ignore[method-assign]


def _trials(n: int) -> TrialBatch:
    """N searches of one made-up collage for one target, of 15 fixations each."""
    steps = 15
    rng = torch.Generator().manual_seed(0)
    objects = ObjectLayout.grid(_SIZE_WH_PX, _COLUMNS, _ROWS)
    xy = torch.rand(n, steps, 2, generator=rng) * torch.tensor(_SIZE_WH_PX, dtype=torch.float32)
    yes = torch.ones(n, dtype=torch.bool)
    search = SearchTask(
        target=("cover",) * n,
        present=yes,
        box_px=objects.box_px[0, 40].expand(n, 4),
        has_box=yes,
        start_xy_px=torch.zeros(n, 2),
        has_start=~yes,
        max_saccades=torch.full((n,), -1),
        template=None,
        template_of_trial=torch.full((n,), -1),
    )
    return TrialBatch(
        stimulus=("collage",),
        size_wh_px=_SIZE_WH_PX,
        px_per_dva=float("nan"),
        image=torch.rand(1, 3, *_SIZE_WH_PX[::-1], generator=rng),
        features=None,
        stimulus_of_trial=torch.zeros(n, dtype=torch.long),
        subject=tuple(f"s{i}" for i in range(n)),
        trial=torch.arange(n),
        xy_px=xy,
        duration_s=torch.full((n, steps), torch.nan),
        valid=torch.ones(n, steps, dtype=torch.bool),
        search=search,
        objects=objects,
    )
