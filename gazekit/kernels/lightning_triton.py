"""Triton kernels of :mod:`gazekit.kernels.lightning`: two of them compute the output and every gradient.

The states before all tiles come from a scan over tiles (parallel over batch, heads and blocks of the state); then
all tiles are computed at once. The gradients of q, k and v are the same operation with its operands exchanged, those
of k and v with time reversed. No atomics: the same input gives the same bits.

Cumulative log decays enter as two float32 numbers, so that their differences within a tile are exact to float32.
Not run on a GPU by the authors yet: checked in Triton's interpreter, and compiled for sm_80 and sm_90.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator, union-attr"
from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from gazekit.kernels.lightning import _FORGET, TILE, decay_gradient

# exp() of it is 0 in float32; what the kernels take for "forget everything".
_FORGET_FLOAT32 = -110.0


@triton.jit
def scan_kernel(
    x_ptr, y_ptr, sums_ptr, rest_ptr, start_ptr, seen_ptr, last_ptr,
    x_b, x_n, x_h, x_d, y_b, y_n, y_h, y_e, sums_b,
    N, H, D, E, n_tiles, scale,
    REVERSE: tl.constexpr, TILE: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_E: tl.constexpr,
    DOT: tl.constexpr, ACC: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """``S <- decay S + scale (decay x)^T y`` over tiles, storing S as each tile finds it, and the last S.

    Forward in time, x decays from its token to the end of the tile; in reverse, from the start of the tile to it.
    """
    n_blocks_e = tl.cdiv(E, BLOCK_E)
    d = tl.program_id(0) // n_blocks_e * BLOCK_D + tl.arange(0, BLOCK_D)
    e = tl.program_id(0) % n_blocks_e * BLOCK_E + tl.arange(0, BLOCK_E)
    b, h = (tl.program_id(1) // H).to(tl.int64), (tl.program_id(1) % H).to(tl.int64)
    here = (d < D)[:, None] & (e < E)[None, :]
    block = d[:, None] * E + e[None, :]
    head = (b * H + h) * D * E
    state = tl.load(start_ptr + head + block, here, 0.0).to(ACC)
    sums_ptr += b * sums_b + h * N
    rest_ptr += b * sums_b + h * N
    for step in range(n_tiles):
        tile = n_tiles - 1 - step if REVERSE else step
        tl.store(seen_ptr + head * n_tiles + tile.to(tl.int64) * D * E + block, state, here)
        row = tile.to(tl.int64) * TILE + tl.arange(0, TILE)
        last_row = tl.minimum(tile.to(tl.int64) * TILE + TILE, N) - 1
        inside = row < N
        total, total_rest = tl.load(sums_ptr + last_row), tl.load(rest_ptr + last_row)
        sums, rest = tl.load(sums_ptr + row, inside, 0.0), tl.load(rest_ptr + row, inside, 0.0)
        left = tl.exp(sums + rest) if REVERSE else tl.exp((total - sums) + (total_rest - rest))
        x_at = x_ptr + b * x_b + h * x_h + row[None, :] * x_n + d[:, None] * x_d
        y_at = y_ptr + b * y_b + h * y_h + row[:, None] * y_n + e[None, :] * y_e
        x = tl.load(x_at, inside[None, :] & (d < D)[:, None], 0.0).to(ACC)
        y = tl.load(y_at, inside[:, None] & (e < E)[None, :], 0.0).to(DOT)
        x = (x * tl.where(inside, left, 0.0)[None, :]).to(DOT)
        state = state * tl.exp(total + total_rest)
        state += scale * tl.dot(x, y, input_precision=PRECISION, out_dtype=ACC)
    tl.store(last_ptr + head + block, state, here)


@triton.jit
def tile_kernel(
    x_ptr, y_ptr, z_ptr, sums_ptr, rest_ptr, state_ptr, out_ptr,
    x_b, x_n, x_h, x_d, y_b, y_n, y_h, y_d, z_b, z_n, z_h, z_e, state_d, state_e, sums_b,
    N, H, D, E, n_tiles, inner_scale, state_scale,
    REVERSE: tl.constexpr, TILE: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_E: tl.constexpr,
    IN: tl.constexpr, DOT: tl.constexpr, ACC: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """``out = inner_scale (x y^T * decay) z + state_scale decay x S`` in one tile and one block of columns.

    Forward in time row i takes columns j <= i; in reverse, j >= i. x (.., D), y (.., D), z (.., E), S (D, E).
    """
    tile = tl.program_id(0).to(tl.int64)
    e = tl.program_id(1) * BLOCK_E + tl.arange(0, BLOCK_E)
    b, h = (tl.program_id(2) // H).to(tl.int64), (tl.program_id(2) % H).to(tl.int64)
    row = tile * TILE + tl.arange(0, TILE)
    inside = row < N
    x_ptr += b * x_b + h * x_h
    y_ptr += b * y_b + h * y_h
    state_ptr += ((b * H + h) * n_tiles + tile) * D * E
    weights = tl.zeros((TILE, TILE), ACC)
    carried = tl.zeros((TILE, BLOCK_E), ACC)
    for first in range(0, D, BLOCK_D):
        d = first + tl.arange(0, BLOCK_D)
        x = tl.load(x_ptr + row[:, None] * x_n + d[None, :] * x_d, inside[:, None] & (d < D)[None, :], 0.0)
        y = tl.load(y_ptr + row[None, :] * y_n + d[:, None] * y_d, inside[None, :] & (d < D)[:, None], 0.0)
        state_at = state_ptr + d[:, None] * state_d + e[None, :] * state_e
        state = tl.load(state_at, (d < D)[:, None] & (e < E)[None, :], 0.0).to(DOT)
        weights += tl.dot(x.to(IN), y.to(IN), input_precision=PRECISION, out_dtype=ACC)
        carried += tl.dot(x.to(DOT), state, input_precision=PRECISION, out_dtype=ACC)
    sums_at = b * sums_b + h * N + row
    sums, rest = tl.load(sums_ptr + sums_at, inside, 0.0), tl.load(rest_ptr + sums_at, inside, 0.0)
    since = (sums[:, None] - sums[None, :]) + (rest[:, None] - rest[None, :])
    # After the last token sums are 0: exp of their differences would be infinite, and infinity times 0 is NaN.
    if REVERSE:
        last_at = b * sums_b + h * N + tl.minimum(tile * TILE + TILE, N) - 1
        total, total_rest = tl.load(sums_ptr + last_at), tl.load(rest_ptr + last_at)
        left = tl.exp((total - sums) + (total_rest - rest))
        weights *= tl.exp(tl.where((row[:, None] <= row[None, :]) & inside[None, :], -since, float("-inf")))
    else:
        left = tl.exp(sums + rest)
        weights *= tl.exp(tl.where((row[:, None] >= row[None, :]) & inside[:, None], since, float("-inf")))
    here = inside[:, None] & (e < E)[None, :]
    z = tl.load(z_ptr + b * z_b + h * z_h + row[:, None] * z_n + e[None, :] * z_e, here, 0.0).to(IN)
    out = inner_scale * tl.dot(weights.to(IN), z, input_precision=PRECISION, out_dtype=ACC)
    out += state_scale * left[:, None] * carried
    tl.store(out_ptr + ((b * N + row[:, None]) * H + h) * E + e[None, :], out.to(out_ptr.dtype.element_ty), here)


def _block(width: int) -> int:
    # A dot needs 16 on each side; 64 keeps the accumulators of four warps in registers.
    return max(16, min(64, int(triton.next_power_of_2(width))))


def _types(dtype: torch.dtype) -> dict[str, Any]:
    if dtype == torch.float64:
        return {"DOT": tl.float64, "ACC": tl.float64, "PRECISION": "ieee"}
    # float16 cannot hold a state, which is a sum over all tokens; bfloat16 can.
    dot = tl.bfloat16 if dtype == torch.bfloat16 else tl.float32
    return {"DOT": dot, "ACC": tl.float32, "PRECISION": "ieee" if dtype == torch.float32 else "tf32"}


_IN = {
    torch.float64: tl.float64,
    torch.float32: tl.float32,
    torch.float16: tl.float16,
    torch.bfloat16: tl.bfloat16,
}


def _sums(log_decay: Tensor, n_tokens: int) -> tuple[Tensor, Tensor]:
    """(b, H, N) cumulative log decays within each tile, as a number and what its rounding left out."""
    exact = log_decay.dtype == torch.float64
    decay = log_decay.double().clamp(min=_FORGET if exact else _FORGET_FLOAT32)
    n = triton.cdiv(n_tokens, TILE)
    if decay.ndim == 1:
        sums = (decay[None, :, None] * torch.arange(1, TILE + 1, device=decay.device)).repeat(1, 1, n)[..., :n_tokens]
    else:
        tiles = F.pad(decay.transpose(1, 2), (0, n * TILE - n_tokens)).unflatten(2, (n, TILE))
        sums = tiles.cumsum(-1).flatten(2)[..., :n_tokens]
    high = sums.to(log_decay.dtype).contiguous()
    return high, (sums - high).to(log_decay.dtype)


def _scan(
    x: Tensor, y: Tensor, sums: tuple[Tensor, Tensor], start: Tensor, scale: float, reverse: bool
) -> tuple[Tensor, Tensor]:
    """States (B, H, n, D, E) as the tiles find them, and the last one (B, H, D, E)."""
    B, N, H, D = x.shape
    E, n = y.shape[-1], triton.cdiv(N, TILE)
    seen = start.new_empty(B, H, n, D, E)
    last = torch.empty_like(start, memory_format=torch.contiguous_format)
    block_d, block_e = _block(D), _block(E)
    scan_kernel[(triton.cdiv(D, block_d) * triton.cdiv(E, block_e), B * H)](
        x, y, *sums, start.contiguous(), seen, last, *x.stride(), *y.stride(), _batch_stride(sums[0]),
        N, H, D, E, n, scale, REVERSE=reverse, TILE=TILE, BLOCK_D=block_d, BLOCK_E=block_e,
        **_types(x.dtype), num_warps=4, num_stages=2,
    )  # fmt: skip
    return seen, last


def _tile(
    x: Tensor, y: Tensor, z: Tensor, sums: tuple[Tensor, Tensor], seen: Tensor,
    inner_scale: float, state_scale: float, dtype: torch.dtype, reverse: bool = False,
) -> Tensor:  # fmt: skip
    """(B, N, H, E) from x, y (B, N, H, D), z (B, N, H, E) and states (B, H, n, D, E), which may be a transpose."""
    B, N, H, D = x.shape
    E, n = z.shape[-1], triton.cdiv(N, TILE)
    out = z.new_empty(B, N, H, E, dtype=dtype)
    block_d, block_e = _block(D), _block(E)
    tile_kernel[(n, triton.cdiv(E, block_e), B * H)](
        x, y, z, *sums, seen, out, *x.stride(), *y.stride(), *z.stride(), *seen.stride()[-2:], _batch_stride(sums[0]),
        N, H, D, E, n, inner_scale, state_scale, REVERSE=reverse, TILE=TILE, BLOCK_D=block_d, BLOCK_E=block_e,
        IN=_IN[x.dtype], **_types(x.dtype), num_warps=4, num_stages=2,
    )  # fmt: skip
    return out


def _batch_stride(sums: Tensor) -> int:
    return sums.stride(0) if len(sums) > 1 else 0


class TritonDecay(torch.autograd.Function):
    """As the plain-PyTorch function of :mod:`gazekit.kernels.lightning`; log_decay and state in the state's dtype."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, scale: float, state: Tensor
    ) -> tuple[Tensor, Tensor]:
        sums = _sums(log_decay, q.shape[1])
        before, last = _scan(k, v, sums, state, 1.0, reverse=False)
        out = _tile(q, k, v, sums, before, scale, scale, q.dtype)
        ctx.save_for_backward(q, k, v, log_decay, before, last)
        ctx.scale = scale
        return out, last.clone()

    @staticmethod
    @once_differentiable  # type: ignore[misc]
    def backward(ctx: Any, grad_out: Tensor, grad_last: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, log_decay, before, last = ctx.saved_tensors
        scale, sums = ctx.scale, _sums(log_decay, q.shape[1])
        after, d_state = _scan(q, grad_out, sums, grad_last, scale, reverse=True)
        # The decays' gradient is a small difference of large sums: it is not taken from rounded numbers.
        dtype = log_decay.dtype if ctx.needs_input_grad[3] else q.dtype
        d_q = _tile(grad_out, v, k, sums, before.mT, scale, scale, dtype)
        d_k = _tile(v, grad_out, q, sums, after.mT, scale, 1.0, dtype, reverse=True)
        d_v = _tile(k, q, grad_out, sums, after, scale, 1.0, q.dtype, reverse=True)
        d_decay = None
        if ctx.needs_input_grad[3]:
            moved = (q.double() * d_q).sum(-1) - (k.double() * d_k).sum(-1)
            d_decay = decay_gradient(moved, grad_last, last, log_decay)
        return d_q.to(q.dtype), d_k.to(q.dtype), d_v, d_decay, None, d_state
