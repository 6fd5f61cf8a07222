"""Scenes of the core and of neighborhood attention, against dense attention with a mask made by a double loop."""

from __future__ import annotations

from itertools import product

import torch

from gazekit.kernels import BiasFactors, Window, block_sparse_attention, neighborhood_attention, plan_blocks
from tests.kernels.scenes import Scene, randn, scene


def sees(i, j, length, window):
    """Whether query i sees key j along one axis: the definition of Hassani et al. (2025), one pair at a time."""
    k, s, d = window.size, window.stride, window.dilation
    if i % d != j % d:
        return False
    group_length = len(range(i % d, length, d))
    i, j = i // d, j // d
    if window.causal:
        leader = min(i // s * s + s - 1, group_length - 1)
        return max(leader - k + 1, 0) <= j <= i
    leader = min(i // s * s + s // 2, group_length - 1)
    start = min(max(leader - k // 2, 0), group_length - k)
    return start <= j < start + k


def mask_by_loop(grid, windows):
    """(N, N) bool, pair by pair."""
    cells = list(product(*map(range, grid)))
    return torch.tensor(
        [[all(map(sees, query, key, grid, windows)) for key in cells] for query in cells], dtype=torch.bool
    )


def softmax_attention(q, k, v, mask, bias):
    """Attention and lse with all of it written out; q (B, N, H, D), mask (..., N, M), bias (..., N, M)."""
    groups = q.shape[2] // k.shape[2]
    k, v = k.repeat_interleave(groups, 2), v.repeat_interleave(groups, 2)
    scores = torch.einsum("bnhd,bmhd->bhnm", q, k) * q.shape[-1] ** -0.5 + bias.to(q.dtype)
    scores = scores.masked_fill(~mask, torch.finfo(q.dtype).min)
    top = scores.amax(-1, keepdim=True)
    weights = (scores - top).exp() * mask
    total = weights.sum(-1, keepdim=True)
    seen = (total > 0).to(total.dtype)
    out = torch.einsum("bhnm,bmhd->bnhd", weights / (total + (1 - seen)), v)
    lse = ((total + (1 - seen)).log() + top)[..., 0].masked_fill(seen[..., 0] == 0, -torch.inf)
    return out, lse.transpose(1, 2)


GRID = (5, 9)
WINDOWS = (Window(3, 2), Window(4, 3, dilation=2))


@scene("neighborhood_attention")
def _():
    B, H, Hk, D, Dv, R = 2, 4, 2, 6, 3, 2
    N = GRID[0] * GRID[1]
    mask = mask_by_loop(GRID, WINDOWS)
    tensors = {
        "q": randn(B, *GRID, H, D, seed=1),
        "k": randn(B, *GRID, Hk, D, seed=2),
        "v": randn(B, *GRID, Hk, Dv, seed=3),
        "key_bias": randn(B, *GRID, 1, seed=4),
        "query_factor": randn(1, N, H, R, seed=5, scale=0.5),
        "key_factor": randn(B, N, 1, R, seed=6, scale=0.5),
        "extra_k": randn(B, 2, Hk, D, seed=7),
        "extra_v": randn(B, 2, Hk, Dv, seed=8),
    }

    def call(t, backend):
        return neighborhood_attention(
            *(t[key] for key in "qkv"),
            WINDOWS,
            bias=BiasFactors(t["query_factor"], t["key_factor"]),
            key_bias=t["key_bias"],
            extra_kv=(t["extra_k"], t["extra_v"]),
            return_lse=True,
            backend=backend,
        )

    def oracle(t):
        q, k, v = (t[key].flatten(1, 2) for key in "qkv")
        bias = torch.einsum(
            "bnhr,bmhr->bhnm", t["query_factor"].expand(len(q), -1, -1, -1), t["key_factor"].expand(-1, -1, H, -1)
        )
        bias = bias + t["key_bias"].flatten(1, 2).transpose(1, 2)[:, :, None]
        k, v = torch.cat([k, t["extra_k"]], 1), torch.cat([v, t["extra_v"]], 1)
        bias = torch.nn.functional.pad(bias, (0, 2))
        seen = torch.cat([mask, torch.ones(N, 2, dtype=torch.bool)], 1)
        out, lse = softmax_attention(q, k, v, seen, bias)
        return out.unflatten(1, GRID), lse.unflatten(1, GRID)

    return Scene(
        tensors, call, oracle, shared=("query_factor",), backends=("torch", "reference"),
        keep_float32=("query_factor", "key_factor", "key_bias"),
    )  # fmt: skip


@scene("block_sparse_attention")
def _():
    B, H, Hk, D, Dv = 2, 4, 2, 6, 3
    n_queries, n_keys, tile = 14, 19, 4
    # Of each head its own blocks; the second tile of queries sees nothing in one of them.
    blocks = torch.rand(1, H, 4, 5, generator=torch.Generator().manual_seed(0)) < 0.5
    blocks[0, 2, 1] = False
    blocks[0, 1:, 0, 0] = True
    plan = plan_blocks(blocks, n_queries, n_keys, tile, tile)
    mask = blocks.repeat_interleave(tile, -2).repeat_interleave(tile, -1)[..., :n_queries, :n_keys]
    tensors = {
        "q": randn(B, n_queries, H, D, seed=1),
        "k": randn(B, n_keys, Hk, D, seed=2),
        "v": randn(B, n_keys, Hk, Dv, seed=3),
        "key_bias": randn(B, n_keys, H, seed=4),
        "query_factor": randn(B, n_queries, 1, 3, seed=5, scale=0.5),
        "key_factor": randn(B, n_keys, H, 3, seed=6, scale=0.5),
    }

    def call(t, backend):
        return block_sparse_attention(
            t["q"], t["k"], t["v"], plan, bias=BiasFactors(t["query_factor"], t["key_factor"]), key_bias=t["key_bias"],
            return_lse=True, backend=backend,
        )  # fmt: skip

    def oracle(t):
        bias = torch.einsum("bnhr,bmhr->bhnm", t["query_factor"].expand(-1, -1, H, -1), t["key_factor"])
        return softmax_attention(t["q"], t["k"], t["v"], mask, bias + t["key_bias"].transpose(1, 2)[:, :, None])

    return Scene(
        tensors, call, oracle, backends=("torch", "reference"), keep_float32=("query_factor", "key_factor", "key_bias")
    )
