"""How fast NevaClip searches: in lock-step, beside the published loop over images, with one random network."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from gazekit.backbones.clip import _quiet
from gazekit.batch import TrialBatch
from gazekit.models.fovea_search import Exploration, FoveaObjective
from gazekit.models.nevaclip import NevaClip
from gazekit.models.stopwatch import Stopwatch

_WIDTH, _STEP = 0.2, 0.1


def published_loop(
    clip: torch.nn.Module, image: Tensor, residual: Tensor, target: Tensor, *, iterations: int, length: int,
    generator: torch.Generator,
) -> Tensor:  # fmt: skip
    """(length, 2) fixations of one image as (row, column) in [-1, 1], the way the published program finds them.

    One image at a time, a network as its library gives it, the fovea in the graph, and at every position the gradient
    with respect to it. Weights are not frozen there, but the program asks for the position's gradient alone, so that
    PyTorch computes no other.

    Args:
        clip: Image tower.
        image: (1, 3, S, S) as the tower takes it.
        residual: (1, 3, S, S) what full blur adds.
        target: (1, D).
        iterations: Positions per fixation.
        length: Fixations.
        generator: Of restarts.

    """
    t = torch.linspace(-1.0, 1.0, image.shape[-1], device=image.device)

    def fovea(p: Tensor) -> Tensor:
        return torch.exp(-((t[:, None] - p[0]).square() + (t[None] - p[1]).square()) / _WIDTH)

    memory, path = torch.zeros_like(image[0, 0]), []
    for _ in range(length):
        p, best, best_p = torch.zeros(2, device=image.device), math.inf, torch.zeros(2, device=image.device)
        for _ in range(iterations):
            p = p.detach().requires_grad_()
            embedding = clip(image + residual * (1.0 - memory - fovea(p)).clip(0.0, 1.0))
            loss = 1.0 - torch.nn.functional.cosine_similarity(embedding, target).mean()
            (slope,) = torch.autograd.grad(loss, p)
            p = p.detach() - _STEP * slope.sign()
            if loss.item() < best:
                best, best_p = loss.item(), p.clone()
            else:
                p = (torch.rand(2, generator=generator) * 2.0 - 1.0).to(image.device)
        path.append(best_p)
        memory = fovea(best_p)
    return torch.stack(path)


def bench_nevaclip(
    say: Callable[[str], None], trials: int = 16, iterations: int = 20, length: int = 2,
    network: str | dict[str, Any] = "RN50-quickgelu", device: str = "cpu", compiled: bool = False,
    processor_time: bool = False,
) -> dict[str, float]:  # fmt: skip
    """Seconds per scanpath of each way to search, on pictures of random blobs; all in one run with one network.

    Args:
        say: Takes each line.
        trials: Images that are searched together.
        iterations: Positions per fixation.
        length: Fixations per scanpath.
        network: open_clip's name; weights are random.
        device: Where it runs.
        compiled: Time the compiled network, too; compiling it is not counted.
        processor_time: See :class:`~gazekit.models.stopwatch.Stopwatch`.

    """
    search = {"iterations": iterations, "step": _STEP}
    model, plain = random_nevaclip(network, images_at_once=trials, search=search)
    model, plain = model.to(device), plain.to(device)
    side = model.task.size_px
    coarse = torch.rand(trials, 3, 7, 7)
    pictures = torch.nn.functional.interpolate(coarse, (side, side), mode="bicubic").clamp(0.0, 1.0)
    captions = tuple(f"picture number {i}" for i in range(trials))
    batch = TrialBatch(
        stimulus=captions, size_wh_px=(side, side), px_per_dva=math.nan, image=pictures, features=None,
        stimulus_of_trial=torch.arange(trials), subject=("",) * trials, trial=torch.arange(trials),
        xy_px=torch.zeros(trials, 1, 2), duration_s=torch.zeros(trials, 1),
        valid=torch.zeros(trials, 1, dtype=torch.bool), caption=captions,
    ).to(device)  # fmt: skip

    watch = Stopwatch(device, processor_time)
    tower = model.clip
    x = (pictures.to(device) - tower.mean) / tower.std
    foveation = model.fovea.foveation(model.frame(batch), math.nan)
    residual, target = foveation.residual(x), model.embed(list(captions))
    seconds: dict[str, float] = {}

    def loop(i: int, steps: int = iterations, fixations: int = length) -> None:
        generator, at = torch.Generator().manual_seed(i), slice(i, i + 1)
        published_loop(
            plain, x[at], residual[at], target[at], iterations=steps, length=fixations, generator=generator
        )  # fmt: skip

    def report(name: str, value: float, more: str = "") -> None:
        seconds[name] = value
        ratio = seconds["published loop"] / value
        say(f"{name:32}{value:10.3f} s per scanpath{1.0 / value:10.3f} scanpaths/s{ratio:8.2f} x published{more}")

    ways = {"lock-step": model}
    if compiled:
        ways["lock-step, compiled"] = _variant(model, search=search, compile=True)
    ways["lock-step, bfloat16"] = _variant(model, search=search, dtype="bfloat16")
    candidates = {"strategy": "candidates"}
    ways["candidates"] = _variant(model, search=candidates)
    ways["candidates, bfloat16"] = _variant(model, search=candidates, dtype="bfloat16")
    loop(0, 1, 1)  # warm up
    # It takes as long for every image: the first and the last tell its time, before and after everything else.
    report("published loop", watch.timed(lambda: loop(0)))
    for name, way in ways.items():
        found: list[Exploration] = []

        def run(way: NevaClip = way, found: list[Exploration] = found) -> None:
            found.append(way.explore(batch, 1, length, torch.Generator().manual_seed(0)))

        for _ in range(2 if way.compile_task else 1):  # shapes that a search meets are compiled in the first
            lasted = watch.timed(run)
        ended = found[-1]
        report(
            name, lasted / trials,
            f", mean loss {ended.loss.mean():.6f} after {ended.n_forward / trials:.1f} forward and "
            f"{ended.n_gradient / trials:.1f} backward passes",
        )  # fmt: skip
    report("published loop, again", watch.timed(lambda: loop(trials - 1)))
    for name in ("lock-step, compiled", "lock-step, bfloat16"):
        if name in ways:
            same, apart = agreement(model, ways[name], batch)
            say(f"{name}: {same:.4f} of the gradients' signs as in float32, losses differ by at most {apart:.1e}")
    say(f"{network}, random weights, {trials} trials, {length} fixations of {iterations} positions; {watch.machine}")
    return seconds


def random_nevaclip(network: str | dict[str, Any], **options: Any) -> tuple[NevaClip, torch.nn.Module]:
    """NevaClip with a random network, and the same network's image tower as open_clip gives it.

    Args:
        network: open_clip's name, or a configuration in its format.
        options: Of :class:`NevaClip`.

    """
    import open_clip

    torch.manual_seed(0)
    with _quiet(), TemporaryDirectory() as folder:
        clip: Any = open_clip.CLIP(**network) if isinstance(network, dict) else open_clip.create_model(network)
        for name, module in clip.visual.named_modules():
            # open_clip starts the residual branches at zero, and a gradient would come from what is beside them.
            if name.endswith("bn3"):
                torch.nn.init.ones_(module.weight)
        file = Path(folder) / "random.safetensors"
        save_file({key: value.contiguous().clone() for key, value in clip.state_dict().items()}, file)
        model = NevaClip(clip=network, weights=str(file), **options)
    return model, clip.visual.eval()


@torch.no_grad()
def agreement(model: NevaClip, other: NevaClip, batch: TrialBatch, n_positions: int = 4) -> tuple[float, float]:
    """How well two ways to compute one network agree, over random positions on each image.

    Returns:
        Share of the gradients' signs that they have in common, and the largest difference between losses.

    """
    assert batch.image is not None
    frame = model.frame(batch)
    shown = frame.show(batch.image)
    target, _, image_of_goal, goals = model.targets(shown, batch)
    path = torch.arange(len(goals)).repeat_interleave(n_positions)
    p = torch.rand(len(path), 2, generator=torch.Generator().manual_seed(0)) * 2.0 - 1.0
    found = []
    for way in (model, other):
        objective = FoveaObjective(
            way._loss(), way.fovea.foveation(frame, batch.px_per_dva), shown, target, image_of_goal,
            torch.tensor(goals), images_at_once=way.images_at_once, dtype=way.network_dtype,
        )  # fmt: skip
        found.append(objective(path, p, torch.ones(len(path), dtype=torch.bool)))
    (a, slope_a), (b, slope_b) = found
    return float((slope_a.sign() == slope_b.sign()).float().mean()), float((a - b).abs().max())


def _variant(model: NevaClip, **changes: object) -> NevaClip:
    """The same network, searched another way."""
    other = NevaClip(clip=_TINY, weights=None, images_at_once=model.images_at_once, **changes)  # type: ignore[arg-type]
    other.task, other.source, other._text = model.task, model.source, model._text
    return other


# Stands in while a variant is built, and is then replaced by the network that is timed.
_TINY = {
    "embed_dim": 8,
    "vision_cfg": {"image_size": 16, "layers": 1, "width": 8, "head_width": 8, "patch_size": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 8, "heads": 1, "layers": 1},
}
