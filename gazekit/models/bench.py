"""How fast NevaClip searches: in lock-step, beside the published loop over images, with one random network."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gazekit.batch import TrialBatch
from gazekit.models.fovea_search import FoveaObjective
from gazekit.models.nevaclip import NevaClip
from gazekit.provenance import git_commit

_WIDTH, _STEP = 0.2, 0.1


def published_loop(
    clip: torch.nn.Module, image: Tensor, residual: Tensor, target: Tensor, *, iterations: int, length: int,
    generator: torch.Generator, frozen: bool,
) -> Tensor:  # fmt: skip
    """(length, 2) fixations of one image as (row, column) in [-1, 1], the way the published program finds them.

    One image at a time, the fovea in the graph, the slope by a backward pass through everything.

    Args:
        clip: Image tower.
        image: (1, 3, S, S) as the tower takes it.
        residual: (1, 3, S, S) what full blur adds.
        target: (1, D).
        iterations: Positions per fixation.
        length: Fixations.
        generator: Of restarts.
        frozen: Leave out the weights' gradients, which the published program computes and does not use.

    """
    t = torch.linspace(-1.0, 1.0, image.shape[-1], device=image.device)

    def fovea(p: Tensor) -> Tensor:
        return torch.exp(-((t[:, None] - p[0]).square() + (t[None] - p[1]).square()) / _WIDTH)

    clip.requires_grad_(not frozen)
    memory, path = torch.zeros_like(image[0, 0]), []
    for _ in range(length):
        p, best, best_p = torch.zeros(2, device=image.device), math.inf, torch.zeros(2, device=image.device)
        for _ in range(iterations):
            p = p.detach().requires_grad_()
            embedding = clip(image + residual * (1.0 - memory - fovea(p)).clip(0.0, 1.0))
            loss = 1.0 - torch.nn.functional.cosine_similarity(embedding, target).mean()
            clip.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            assert p.grad is not None
            p = p.detach() - _STEP * p.grad.sign()
            if loss.item() < best:
                best, best_p = loss.item(), p.clone()
            else:
                p = (torch.rand(2, generator=generator) * 2.0 - 1.0).to(image.device)
        path.append(best_p)
        memory = fovea(best_p)
    clip.requires_grad_(False)
    return torch.stack(path)


def bench_nevaclip(
    say: Callable[[str], None], trials: int = 16, iterations: int = 20, length: int = 2,
    network: str | dict[str, Any] = "RN50-quickgelu", device: str = "cpu",
) -> dict[str, float]:  # fmt: skip
    """Seconds per scanpath of each way to search, on pictures of random blobs; all in one run with one network.

    Args:
        say: Takes each line.
        trials: Images that are searched together.
        iterations: Positions per fixation.
        length: Fixations per scanpath.
        network: open_clip's name; weights are random.
        device: Where it runs.

    """
    torch.manual_seed(0)
    search = {"iterations": iterations, "step": _STEP}
    common = {"clip": network, "weights": None, "images_at_once": trials}
    model = NevaClip(**common, search=search).to(device)  # type: ignore[arg-type]
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

    def synchronized() -> float:
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        return time.perf_counter()

    def timed(run: Callable[[], object]) -> float:
        start = synchronized()
        run()
        return synchronized() - start

    # The published loop is the same for every image: a few of them tell its time.
    few = min(trials, 2)
    tower = model.clip
    plain = _plain_tower(tower)
    x = (pictures.to(device) - tower.mean) / tower.std
    foveation = model.fovea.foveation(model.frame(batch), math.nan)
    residual, target = foveation.residual(x), model.embed(list(captions))
    model.explore(batch.trials(0, 1), 1, 1, torch.Generator().manual_seed(0))  # warm up
    seconds: dict[str, float] = {}

    def report(name: str, value: float, more: str = "") -> None:
        seconds[name] = value
        ratio = seconds["published loop"] / value
        say(f"{name:32}{value:10.3f} s per scanpath{1.0 / value:10.3f} scanpaths/s{ratio:8.2f} x published{more}")

    for name, frozen in (("published loop", False), ("published loop, frozen weights", True)):

        def loop(frozen: bool = frozen) -> None:
            for i in range(few):
                generator = torch.Generator().manual_seed(i)
                published_loop(
                    plain, x[i : i + 1], residual[i : i + 1], target[i : i + 1], iterations=iterations, length=length,
                    generator=generator, frozen=frozen,
                )  # fmt: skip

        report(name, timed(loop) / few)
    ways = {
        "lock-step": model,
        "lock-step, candidates": _variant(model, search={"strategy": "candidates"}),
        "lock-step, bfloat16": _variant(model, search=search, dtype="bfloat16"),
    }
    for name, way in ways.items():
        found: list[float] = []

        def run(way: NevaClip = way, found: list[float] = found) -> None:
            found.append(way.explore(batch, 1, length, torch.Generator().manual_seed(0)).loss.mean().item())

        report(name, timed(run) / trials, f", mean loss {found[0]:.6f}")
    say(f"{'same sign of the gradient':32}{sign_agreement(model, batch):10.4f} share, bfloat16 and float32")
    where = torch.cuda.get_device_name(0) if device.startswith("cuda") else f"{torch.get_num_threads()} threads, no GPU"
    say(
        f"{network}, random weights, {trials} trials, {length} fixations of {iterations} positions; {where}, torch "
        f"{torch.__version__}, commit {git_commit() or 'unknown'}"
    )
    return seconds


def sign_agreement(model: NevaClip, batch: TrialBatch, n_positions: int = 4) -> float:
    """Share of gradients' signs that bfloat16 has in common with float32, over random positions on each image."""
    assert batch.image is not None
    frame = model.frame(batch)
    shown = frame.show(batch.image)
    target, _, image_of_goal, goals = model.targets(shown, batch)
    path = torch.arange(len(goals)).repeat_interleave(n_positions)
    p = torch.rand(len(path), 2, generator=torch.Generator().manual_seed(0)) * 2.0 - 1.0
    slopes = []
    for dtype in (torch.float32, torch.bfloat16):
        objective = FoveaObjective(
            model.task.loss, model.fovea.foveation(frame, batch.px_per_dva), shown, target, image_of_goal,
            torch.tensor(goals), images_at_once=model.images_at_once, dtype=dtype,
        )  # fmt: skip
        slopes.append(objective(path, p, torch.ones(len(path), dtype=torch.bool))[1].sign())
    return float((slopes[0] == slopes[1]).float().mean())


def _plain_tower(tower: torch.nn.Module) -> torch.nn.Module:
    """The image tower as open_clip gives it: in PyTorch's own memory format, for images already normalised."""
    copied = copy.deepcopy(tower.model.visual)  # type: ignore[union-attr]
    return copied.to(memory_format=torch.contiguous_format).eval()  # type: ignore[operator, no-any-return, union-attr]


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
