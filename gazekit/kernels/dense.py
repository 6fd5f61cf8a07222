"""The definition of every softmax kernel here: dense attention that makes its N x M weights explicit.

No tricks: the tests' ground truth in float64, and the hook for who wants to see the weights. Memory is
O(B H N M); for use, not for analysis, take the kernels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gazekit.kernels.inputs import check_broadcast, check_qkv


def dense_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    allowed: Tensor | None = None,
    bias: Tensor | None = None,
    key_bias: Tensor | None = None,
    scale: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Attention by its definition: ``s_ij = scale q_i k_j + bias_ij + key_bias_j``, softmax over allowed keys.

    Args:
        q: (B, N, H, D).
        k: (B, M, Hk, D); query head h reads key head ``h // (H / Hk)``.
        v: (B, M, Hk, Dv).
        allowed: bool, broadcasts to (B, H, N, M), True where query i may see key j; None for everywhere.
        bias: Broadcasts to (B, H, N, M); added to the scores.
        key_bias: (B | 1, M, H | 1), added to the scores of a key whatever the query: a log-multiplicity,
            a log-prior, ``-inf`` to leave a key out.
        scale: Default ``D ** -0.5``.

    Returns:
        (B, N, H, Dv) output in q's dtype, and (B, N, H) natural-log sum of exponentials in float32
        (float64 for float64 input). A query that sees no key has output 0 and ``-inf``, and no gradient.

    """
    weights, lse = _weights(q, k, v, allowed, bias, key_bias, scale)
    # What no query sees must not matter, NaN included: 0 * NaN is NaN.
    seen = (weights > 0).any(-2).transpose(-1, -2)  # (B, M, H)
    values = v.to(weights.dtype).repeat_interleave(q.shape[-2] // v.shape[-2], -2)
    values = torch.where(seen[..., None], values, 0.0)
    out = torch.einsum("bhnm,bmhd->bnhd", weights, values)
    return out.to(q.dtype), lse


def dense_weights(
    q: Tensor,
    k: Tensor,
    *,
    allowed: Tensor | None = None,
    bias: Tensor | None = None,
    key_bias: Tensor | None = None,
    scale: float | None = None,
) -> Tensor:
    """(B, H, N, M) attention weights of :func:`dense_attention`; rows sum to 1, or to 0 where no key is seen."""
    return _weights(q, k, k, allowed, bias, key_bias, scale)[0]


def _weights(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    allowed: Tensor | None,
    bias: Tensor | None,
    key_bias: Tensor | None,
    scale: float | None,
) -> tuple[Tensor, Tensor]:
    check_qkv("dense_attention", q, k, v)
    B, N, H, D = q.shape
    M = k.shape[1]
    dtype = torch.float64 if q.dtype == torch.float64 else torch.float32
    keys = k.to(dtype).repeat_interleave(H // k.shape[-2], -2)
    if key_bias is not None:
        check_broadcast("dense_attention", "key_bias", key_bias, (B, M, H), "(B, M, H)")
        # What is left out must not matter, NaN included.
        keys = torch.where((key_bias == -torch.inf)[..., None], 0.0, keys)
    scores = torch.einsum("bnhd,bmhd->bhnm", q.to(dtype), keys) * (D**-0.5 if scale is None else scale)
    if bias is not None:
        scores = scores + bias.to(dtype)
    if key_bias is not None:
        scores = scores + key_bias.to(dtype).transpose(1, 2)[:, :, None]
    if allowed is not None:
        scores = torch.where(allowed, scores, -torch.inf)
    if M == 0:
        return scores, scores.new_full((B, N, H), -torch.inf)
    # A row without any key: computed on zeros, then cut off, so that no NaN enters the gradient.
    empty = scores.detach().amax(-1, keepdim=True) == -torch.inf
    weights = torch.where(empty, 0.0, torch.where(empty, 0.0, scores).softmax(-1))
    lse = torch.where(empty, 0.0, scores).logsumexp(-1).masked_fill(empty[..., 0], -torch.inf)
    return weights, lse.transpose(1, 2)
