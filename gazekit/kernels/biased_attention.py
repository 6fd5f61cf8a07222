"""Attention with an additive bias given as low-rank factors, at the cost of a slightly wider head.

``softmax(scale q k^T + query key^T) v`` is plain attention of ``[scale q, query]`` and ``[k, key]``, which any
engine for plain attention computes without an N x M bias in memory, gradients of the factors included.
(Wu et al. 2025, "FlashBias", arXiv:2505.12044.)
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from gazekit.errors import InputError
from gazekit.kernels.bias import BiasFactors
from gazekit.kernels.block_sparse import block_sparse_attention
from gazekit.kernels.dense import dense_attention
from gazekit.kernels.engine import Candidate, choose, triton_cannot
from gazekit.kernels.inputs import check_broadcast, check_qkv
from gazekit.kernels.plan import BoxPlan, plan_band

# Engines of plain attention want widths that are a multiple of this.
_ALIGN = 8


def biased_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: BiasFactors,
    *,
    causal: bool = False,
    valid: Tensor | None = None,
    scale: float | None = None,
    backend: str = "auto",
) -> Tensor:
    """Attention with the bias ``bias.query_i . bias.key_j`` on the scores; gradients reach the factors.

    A few queries (a scanpath's fixations, say) are as well off with a dense bias in
    :func:`torch.nn.functional.scaled_dot_product_attention`; so is a rank above the head's width.

    Args:
        q: (B, N, H, D).
        k: (B, M, Hk, D); query head h reads key head ``h // (H / Hk)``.
        v: (B, M, Hk, Dv).
        bias: Factors (B | 1, N, H | 1, R) and (B | 1, M, H | 1, R) in float32 or more; see
            :mod:`gazekit.kernels.bias`. With q in half precision, "sdpa" takes three columns per rank, or as many as
            it takes after :meth:`~gazekit.kernels.bias.BiasFactors.to_half_safe`; "triton" keeps them in float32.
        causal: Query i sees keys j <= i only.
        valid: (B, M) bool, False for keys that nobody sees (padding); None for all.
        scale: Of ``q . k``; default ``D ** -0.5``.
        backend: "sdpa" widens the heads, "triton" has the bias as an operand of its own (GPU), "torch" likewise on any
            device, "reference" is the definition.

    Returns:
        (B, N, H, Dv) in q's dtype; 0 where a query sees no key.

    Raises:
        InputError: Shapes that do not fit, a rank above D, or a backend that cannot run.

    """
    name = "biased_attention"
    check_qkv(name, q, k, v)
    N, M, D = q.shape[1], k.shape[1], q.shape[-1]
    _check(name, q, M, bias, valid)
    empty = None if N and M else "there are no tokens"
    engine = choose(
        name,
        backend,
        [
            Candidate("sdpa", empty),
            Candidate("triton", triton_cannot(q, k, v) or empty),
            Candidate("torch", empty),
            Candidate("reference", avoid="it builds the N x M weights"),
        ],
    )
    scale = D**-0.5 if scale is None else scale
    if engine == "sdpa":
        return _widened(q, k, v, bias, causal, valid, scale)
    if engine == "reference":
        dense = bias.dense()
        allowed = None if valid is None else valid[:, None, None]
        if causal:
            seen = torch.ones(N, M, dtype=torch.bool, device=q.device).tril()
            allowed = seen if allowed is None else allowed & seen
        return dense_attention(q, k, v, allowed=allowed, bias=dense, scale=scale)[0]
    hidden = None if valid is None else torch.zeros_like(valid, dtype=bias.key.dtype)
    if hidden is not None and valid is not None:
        hidden = hidden.masked_fill(~valid, -torch.inf)[..., None]
    out: Tensor = block_sparse_attention(
        q, k, v, _plan(N, M, causal), bias=bias, key_bias=hidden, scale=scale, backend=engine
    )
    return out


def _plan(N: int, M: int, causal: bool) -> BoxPlan:
    return plan_band(N, M, after=0 if causal else None)


def _check(name: str, q: Tensor, M: int, bias: BiasFactors, valid: Tensor | None) -> None:
    B, N, H, D = q.shape
    check_broadcast(name, "the bias's query factor", bias.query, (B, N, H, bias.rank), "(B | 1, N, H | 1, R)")
    check_broadcast(name, "the bias's key factor", bias.key, (B, M, H, bias.rank), "(B | 1, M, H | 1, R)")
    if bias.rank > D:
        raise InputError(
            f"{name}: rank {bias.rank} is above the head's width {D}, a dense bias costs less; pass it as attn_mask to "
            "scaled_dot_product_attention, or allow from_svd a larger error"
        )
    if valid is not None and (valid.dtype != torch.bool or tuple(valid.shape) != (B, M)):
        raise InputError(f"{name}: valid must be bool (B, M) = {(B, M)}, found {valid.dtype} {tuple(valid.shape)}")


def _widened(
    q: Tensor, k: Tensor, v: Tensor, bias: BiasFactors, causal: bool, valid: Tensor | None, scale: float
) -> Tensor:
    B, N, H, D = q.shape
    M, Hk, Dv = k.shape[1], k.shape[2], v.shape[-1]
    if Hk < H:
        # A head's own factors cannot be appended to keys that several heads share.
        k, v = k.repeat_interleave(H // Hk, 2), v.repeat_interleave(H // Hk, 2)
    query, key = bias.split_for(q.dtype)
    width = -(-max(D + query.shape[-1], Dv) // _ALIGN) * _ALIGN
    wide_q = _appended(q * scale, query, width)
    wide_k = _appended(k, key, width)
    # The fast engines want one width; what is added to v is cut off again.
    wide_v = F.pad(v, (0, width - Dv)).transpose(1, 2)
    mask = None
    if valid is not None:
        mask = valid[:, None, None].expand(B, 1, N, M)
        # What padding holds must not matter, NaN included: a weight of 0 times NaN is NaN.
        wide_k, wide_v = (torch.where(valid[:, None, :, None], x, 0.0) for x in (wide_k, wide_v))
        if causal:
            mask = mask & torch.ones(N, M, dtype=torch.bool, device=q.device).tril()
    out = F.scaled_dot_product_attention(
        wide_q, wide_k, wide_v, attn_mask=mask, is_causal=causal and mask is None, scale=1.0
    )
    if valid is not None:
        # Engines differ in what they make of a query without keys.
        last = torch.arange(N, device=q.device).clamp(max=M - 1) if causal else torch.tensor([M - 1], device=q.device)
        seen = valid.cumsum(1)[:, last] > 0
        out = torch.where(seen[:, None, :, None], out, 0.0)
    return out[..., :Dv].transpose(1, 2)


def _appended(x: Tensor, factor: Tensor, width: int) -> Tensor:
    """(B, H, N, width) of x (B, N, H, D), the factor (B | 1, N, H | 1, R) and zeros."""
    factor = factor.expand(*x.shape[:3], -1)
    return torch.cat([x, factor, x.new_zeros(*x.shape[:3], width - x.shape[-1] - factor.shape[-1])], -1).transpose(1, 2)
