"""One scene per registered kernel: random input, how to call the kernel, and the slow definition to compare with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor


def randn(*shape, seed=0, scale=1.0):
    """Float64 standard normal numbers that depend on shape and seed alone."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * scale


@dataclass(frozen=True)
class Scene:
    """How the laws run a kernel.

    Args:
        tensors: Float64 inputs that take a gradient, by name; the first is the one whose dtype the output has.
        call: (tensors, backend) -> outputs; the first is the main output, in the inputs' dtype.
        oracle: tensors -> outputs in float64, written another way than the kernel.
        shared: Inputs that are not batched on axis 0.
        backends: Engines that must be able to compute this scene on a CPU.
        half: Whether the kernel takes half precision.
    """

    tensors: dict[str, Tensor]
    call: Callable[[dict[str, Tensor], str], tuple[Tensor, ...]]
    oracle: Callable[[dict[str, Tensor]], tuple[Tensor, ...]]
    shared: tuple[str, ...] = ()
    backends: tuple[str, ...] = ("reference",)
    half: bool = True
    # Inputs kept in float32 or more whatever the others are (log-decays, biases).
    keep_float32: tuple[str, ...] = field(default=())


# Name in KERNELS -> () -> Scene.
SCENES: dict[str, Callable[[], Scene]] = {}


def scene(name):
    """Register the decorated builder as the scene of kernel `name`."""

    def add(build):
        SCENES[name] = build
        return build

    return add


from tests.kernels import scenes_bias_decay, scenes_windows  # noqa: E402, F401  they register their scenes
