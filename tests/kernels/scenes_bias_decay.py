"""Scenes of biased attention and of linear attention with decay."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from gazekit.kernels import BiasFactors, biased_attention, decay_linear_attention
from tests.kernels.scenes import Scene, randn, scene


def recurrence(q, k, v, log_decay, scale=1.0, state=None):
    """Linear attention with decay, one token after the other: what the kernel's tiles must equal."""
    B, N, H, D = q.shape
    decay = log_decay.expand(B, N, H).exp()
    state = (
        q.new_zeros(B, H, D, v.shape[-1], dtype=torch.promote_types(q.dtype, torch.float32)) if state is None else state
    )
    out = []
    for t in range(N):
        state = decay[:, t, :, None, None] * state + k[:, t, :, :, None] * v[:, t, :, None, :]
        out.append(scale * torch.einsum("bhd,bhde->bhe", q[:, t].to(state.dtype), state))
    return torch.stack(out, 1).to(q.dtype), state


@scene("decay_linear_attention")
def _decay_linear_attention():
    # Two tiles of 64 and a short one.
    B, N, H, D, Dv = 2, 133, 3, 5, 4
    return Scene(
        tensors={
            "q": randn(B, N, H, D, seed=1, scale=0.5),
            "k": randn(B, N, H, D, seed=2, scale=0.5),
            "v": randn(B, N, H, Dv, seed=3),
            "log_decay": -randn(B, N, H, seed=4, scale=0.3).abs(),
            "state": randn(B, H, D, Dv, seed=5),
        },
        call=lambda t, backend: decay_linear_attention(**t, scale=0.7, backend=backend),
        oracle=lambda t: recurrence(**t, scale=0.7),
        backends=("torch", "reference"),
        keep_float32=("log_decay", "state"),
    )


@scene("biased_attention")
def _biased_attention():
    B, N, M, H, Hk, D, Dv, R = 2, 9, 11, 4, 2, 8, 5, 3

    def call(t, backend):
        bias = BiasFactors(t["query_factor"], t["key_factor"])
        return (biased_attention(t["q"], t["k"], t["v"], bias, causal=True, scale=0.4, backend=backend),)

    def oracle(t):
        q, k, v = (x.transpose(1, 2) for x in (t["q"], t["k"], t["v"]))
        k, v = k.repeat_interleave(H // Hk, 1), v.repeat_interleave(H // Hk, 1)
        dense = (t["query_factor"].transpose(1, 2) @ t["key_factor"].transpose(1, 2).mT).to(q.dtype)
        mask = dense.masked_fill(torch.ones(N, M, dtype=torch.bool).triu(1), -torch.inf)
        return (F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=0.4).transpose(1, 2),)

    return Scene(
        tensors={
            "q": randn(B, N, H, D, seed=1),
            "k": randn(B, M, Hk, D, seed=2),
            "v": randn(B, M, Hk, Dv, seed=3),
            "query_factor": randn(1, N, H, R, seed=4),
            "key_factor": randn(B, M, 1, R, seed=5),
        },
        call=call,
        oracle=oracle,
        shared=("query_factor",),
        backends=("sdpa", "torch", "reference"),
        keep_float32=("query_factor", "key_factor"),
    )
