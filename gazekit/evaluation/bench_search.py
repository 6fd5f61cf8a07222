"""How much faster eccNET is than a plain implementation of the same model, in the same run.

The plain one is what one would write down first: display by display, the whole crop, and in every pooling stage the
whole map pooled once per ring. It is also the oracle of the fast one.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from gazekit.backbones.eccentric import EccentricPool2d, pooled_side, rings_of, same_pool2d
from gazekit.backbones.vgg16 import EccentricVGG16
from gazekit.displays import SearchDisplays
from gazekit.errors import InputError
from gazekit.models import create_model
from gazekit.models.eccnet import EccNet
from gazekit.provenance import git_commit
from gazekit.stimuli import PUBLISHED_TASKS, published_task


class PlainVGG16(EccentricVGG16):
    """The same network without any shortcut."""

    def search_maps(self, crop: Tensor, px_per_dva: float) -> list[Tensor]:
        x, taps = self.normalize(crop), []
        for number, pool in enumerate([None, *self.pools(px_per_dva)[:4]], 1):
            x = self.block(number, x if pool is None else pooled_ring_by_ring(pool, x))
            if number >= 3:
                taps.append(x)
        return [self._plain(x, times) for x, times in zip(taps, (2, 1, 0), strict=True)]


def pooled_ring_by_ring(pool: EccentricPool2d, x: Tensor) -> Tensor:
    """Eccentric pooling as it is defined: the whole map with each ring's window, then the ring is taken out of it."""
    rows, columns = (pooled_side(side, pool.stride) for side in x.shape[-2:])
    rings = rings_of(
        max(rows, columns), pool.px_per_dva, pool.slope, pool.fovea_radius_dva, pool.ring_dva, pool.stride
    )  # fmt: skip
    y = torch.arange(rows, device=x.device) - rows // 2
    z = torch.arange(columns, device=x.device) - columns // 2
    squared = y[:, None].square() + z.square()
    out = torch.zeros(*x.shape[:2], rows, columns, device=x.device, dtype=x.dtype)
    for inner, kernel in zip(rings.radius, rings.kernel, strict=True):
        # Each ring overwrites what lies outside it.
        out = torch.where(squared >= inner * inner, same_pool2d(x, kernel, pool.stride, pool.mode), out)
    return out


def plain_like(model: EccNet) -> EccNet:
    """A plain implementation of a VGG16 eccNET, with the same weights."""
    fast = model.features
    if not isinstance(fast, EccentricVGG16):
        raise InputError(f"the plain implementation is of a VGG16; found an eccNET on {type(fast).__name__}")
    features = PlainVGG16(None, fast.eccentric, fast.pool, spacing=fast.spacing)
    features.load_state_dict(fast.state_dict())
    arguments: dict[str, Any] = {**model.hparams, "weights": None, "paste": False, "chunk": 1}
    return EccNet(**arguments, features=features)


def compare_speed(model: EccNet, displays: SearchDisplays) -> dict[str, float]:
    """Search the displays with both, the plain one display by display.

    Returns:
        fast_s, plain_s, ratio, trials, steps, same (1 if all fixations agree), peak_gb (of the process, so far).

    Raises:
        InputError: The model does not stand on VGG16.

    """
    plain = plain_like(model).to(displays.image.device)
    # Warm up both: the background's maps are computed once per experiment, and a first call costs either side more.
    for searcher in (model, plain):
        searcher.search(displays.pick(slice(0, 1)))
    start = time.perf_counter()
    fast = model.search(displays)
    fast_s = time.perf_counter() - start
    peak_gb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    start = time.perf_counter()
    alone = [plain.search(displays.pick(slice(i, i + 1))) for i in range(len(displays))]
    plain_s = time.perf_counter() - start
    # Without the padding, which is as long as the longest search of a batch.
    same = all(
        torch.equal(one.xy_px[0][one.valid[0]], fast.xy_px[i][fast.valid[i]]) for i, one in enumerate(alone)
    )  # fmt: skip
    return {
        "fast_s": fast_s, "plain_s": plain_s, "ratio": plain_s / fast_s, "trials": len(displays),
        "steps": int(fast.valid[:, 1:].sum()), "same": float(same), "peak_gb": peak_gb,
    }  # fmt: skip


@torch.inference_mode()
def bench_search(
    task: str, trials: int, max_fixations: int, say: Callable[[str], None], device: str = "cpu"
) -> dict[str, float]:
    """Time eccNET (VGG16 geometry, random weights) beside the plain one on displays of a published task.

    Args:
        task: In ``gazekit.stimuli.PUBLISHED_TASKS``: its hard condition at the middle set size; or ``all``: both
            conditions of each of the six.
        trials: Displays of each condition, searched in lock-step by the fast one.
        max_fixations: At which a search ends, so that the plain one ends too.
        say: Takes each line.
        device: Where both run.

    Returns:
        As :func:`compare_speed`, over all conditions.

    Raises:
        InputError: No such task, fewer than one trial or fixation.

    """
    if trials < 1 or max_fixations < 1:
        raise InputError(f"the benchmark needs trials and fixations of 1 or more; got {trials} and {max_fixations}")
    tasks = PUBLISHED_TASKS if task == "all" else (task,)
    torch.manual_seed(0)
    model: Any = create_model("eccnet", weights=None).to(device)
    say(f"eccNET on VGG16, random weights: {trials} displays of each condition, {max_fixations} fixations at most")
    found: list[dict[str, float]] = []
    for name in tasks:
        planned = published_task(name, trials=trials)
        for condition in (planned.easy, planned.hard) if task == "all" else (planned.hard,):
            displays = condition.displays(sorted(condition.set_sizes)[len(condition.set_sizes) // 2])
            one = compare_speed(model, replace(displays, max_fixations=max_fixations).to(device))
            found.append(one)
            size = "x".join(map(str, displays.size_wh_px))
            say(
                f"{name:26}{condition.name:20}{size:>8} px  plain {one['plain_s']:7.2f} s  fast {one['fast_s']:6.2f} s"
                f"  ratio {one['ratio']:5.2f}  {'the same' if one['same'] else 'OTHER'} fixations"
            )
    total = {key: sum(one[key] for one in found) for key in ("fast_s", "plain_s", "trials", "steps")}
    total |= {
        "ratio": total["plain_s"] / total["fast_s"], "same": min(one["same"] for one in found),
        "peak_gb": max(one["peak_gb"] for one in found),
    }  # fmt: skip
    for name in ("plain", "fast"):
        say(f"{name:6}{total[f'{name}_s']:9.2f} s {total['trials'] / total[f'{name}_s']:9.3f} searches/s")
    agree = "the same" if total["same"] else "OTHER"
    say(f"ratio {total['ratio']:.2f}, {total['steps']:.0f} steps, {agree} fixations; peak {total['peak_gb']:.1f} GB")
    versions = f"torch {torch.__version__}, commit {git_commit() or 'unknown'}"
    say(f"device {device}, {torch.get_num_threads()} threads, {versions}")
    return total
