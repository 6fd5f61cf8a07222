"""Windows against NATTEN, whose authors defined them; on a CPU it computes with FlexAttention, forward only."""

from __future__ import annotations

import math
import random
import warnings

import pytest
import torch

from gazekit.kernels import Window, neighborhood_attention
from tests.kernels.scenes import randn


@pytest.fixture(scope="module")
def natten():
    with warnings.catch_warnings():
        # It says that its own kernels were not built.
        warnings.simplefilter("ignore")
        return pytest.importorskip("natten", reason="natten is not installed")


def random_setting(seed):
    """A grid of one to three axes, and windows that mix stride, dilation and causality."""
    rng = random.Random(seed)
    grid, windows = [], []
    for _ in range(1 + seed % 3):
        length = rng.randint(4, 40 if seed % 3 == 0 else 9)
        dilation = rng.randint(1, min(3, length // 2))
        size = rng.randint(2, length // dilation)
        grid.append(length)
        windows.append(Window(size, rng.randint(1, size), dilation, rng.random() < 0.3))
    return grid, windows


# Without warnings of FlexAttention, which is slow uncompiled; that does not matter here.
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", [*range(2), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 18))])
def test_natten_agrees_on_random_windows(natten, seed):
    grid, windows = random_setting(seed)
    q, k, v = (randn(1, *grid, 2, 16, seed=i).float() for i in range(3))
    theirs = (natten.na1d, natten.na2d, natten.na3d)[len(grid) - 1](
        q, k, v,
        kernel_size=tuple(w.size for w in windows), stride=tuple(w.stride for w in windows),
        dilation=tuple(w.dilation for w in windows), is_causal=tuple(w.causal for w in windows),
    )  # fmt: skip
    for engine in ("reference", "torch"):
        # Both float32: a softmax over up to some hundred keys.
        ours = neighborhood_attention(q, k, v, windows, backend=engine)
        torch.testing.assert_close(ours, theirs, rtol=0, atol=3e-6, msg=lambda m: f"{grid} {windows}: {m}")


@pytest.mark.filterwarnings("ignore")
def test_natten_agrees_on_keys_outside_the_grid_and_on_the_engine_named_after_it(natten):
    q, k, v = (randn(1, 6, 9, 2, 16, seed=i).float() for i in range(3))
    extra = tuple(randn(1, 3, 2, 16, seed=i).float() for i in (4, 5))
    theirs = natten.na2d(q, k, v, kernel_size=(3, 4), additional_keys=extra[0], additional_values=extra[1])
    ours = neighborhood_attention(q, k, v, (3, 4), extra_kv=extra, scale=1 / math.sqrt(16))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=3e-6)
    named = neighborhood_attention(q, k, v, (3, 4), backend="natten")
    torch.testing.assert_close(named, neighborhood_attention(q, k, v, (3, 4)), rtol=0, atol=3e-6)
