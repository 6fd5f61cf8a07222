"""Triton kernels of :func:`gazekit.kernels.block_sparse_attention`; imported when that engine is chosen.

One program per tile and head: the forward pass and the gradient of q walk over the plan of a query tile, the
gradients of k and v over the transposed plan of a key tile and the query heads that read it. No atomics, so results
repeat to the bit. Products run on the inputs' dtype and sum in float32, as all else does; the bias keeps the precision
of its factors. Not run on a GPU by the authors yet: checked in Triton's interpreter, and compiled for sm_80 and sm_90.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-any-return"
# Without postponed annotations: torch.library reads the types of the operators below.
import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from gazekit.kernels.plan import BlockPlan, BoxPlan, ListPlan
from gazekit.kernels.window import AxisTiles

LOG2E = tl.constexpr(1.4426950408889634)


@triton.jit
def _place(tile, N0, N1, N2, DIL0, DIL1, DIL2):
    """Dilation group and, per axis, group * tiles + tile of a tile's number."""
    rest = N0 * N1 * N2
    group = tile // rest
    within = tile % rest
    at0 = (group // (DIL1 * DIL2)) * N0 + within // (N1 * N2)
    at1 = (group // DIL2 % DIL1) * N1 + within // N2 % N1
    at2 = (group % DIL2) * N2 + within % N2
    return group, at0, at1, at2


@triton.jit
def _visits(tab, at):
    """First and one past the last key tile that a query tile visits along one axis; the same of the full ones."""
    at = tab + at * 4
    return tl.load(at), tl.load(at + 1), tl.load(at + 2), tl.load(at + 3)


@triton.jit
def _limits(bounds, at, T: tl.constexpr, i):
    """First key and one past the last of the queries i along one axis."""
    return tl.load(bounds + (at * T + i) * 2), tl.load(bounds + (at * T + i) * 2 + 1)


@triton.jit
def _query_limits(bounds0, bounds1, bounds2, at0, at1, at2, T0: tl.constexpr, T1: tl.constexpr, T2: tl.constexpr):
    i = tl.arange(0, T0 * T1 * T2)
    s0, e0 = _limits(bounds0, at0, T0, i // (T1 * T2))
    s1, e1 = _limits(bounds1, at1, T1, i // T2 % T1)
    s2, e2 = _limits(bounds2, at2, T2, i % T2)
    return s0, e0, s1, e1, s2, e2


@triton.jit
def _box_mask(limits, u0, u1, u2, T0: tl.constexpr, T1: tl.constexpr, T2: tl.constexpr):
    """(queries, keys) bool of a pair of tiles; padding is outside every limit."""
    s0, e0, s1, e1, s2, e2 = limits
    j = tl.arange(0, T0 * T1 * T2)
    j0 = (u0 * T0 + j // (T1 * T2))[None, :]
    j1 = (u1 * T1 + j // T2 % T1)[None, :]
    j2 = (u2 * T2 + j % T2)[None, :]
    mask = (s0[:, None] <= j0) & (j0 < e0[:, None])
    mask = mask & (s1[:, None] <= j1) & (j1 < e1[:, None])
    return mask & (s2[:, None] <= j2) & (j2 < e2[:, None])


@triton.jit
def _rows(base, rows, stride, n, WIDTH: tl.constexpr, PADDED: tl.constexpr):
    """(rows, PADDED) of a matrix whose columns are adjacent; 0 outside of it."""
    column = tl.arange(0, PADDED)
    inside = (rows < n)[:, None] & (column < WIDTH)[None, :]
    return tl.load(base + rows.to(tl.int64)[:, None] * stride + column[None, :], inside, 0.0)


@triton.jit
def _store_rows(base, x, rows, stride, n, WIDTH: tl.constexpr, PADDED: tl.constexpr):
    column = tl.arange(0, PADDED)
    inside = (rows < n)[:, None] & (column < WIDTH)[None, :]
    at = base + rows.to(tl.int64)[:, None] * stride + column[None, :]
    tl.store(at, x.to(base.dtype.element_ty), inside)


@triton.jit
def _without(gone, k, v):
    """Keys and values with some rows set to 0."""
    return tl.where(gone[:, None], 0.0, k).to(k.dtype), tl.where(gone[:, None], 0.0, v).to(v.dtype)


@triton.jit
def _grad_scores(p, dp, delta, GUARD: tl.constexpr):
    ds = p * (dp - delta[:, None])
    if GUARD:
        # 0 times NaN of a value that is not seen.
        ds = tl.where(p > 0, ds, 0.0)
    return ds


@triton.jit
def _scores(
    q, k, fq, fk, key_bias, scale,
    RANK: tl.constexpr, KEY_BIAS: tl.constexpr, ACC: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """(queries, keys) scores in units of log 2."""
    s = tl.dot(q, tl.trans(k), input_precision=PRECISION, out_dtype=ACC) * (scale * LOG2E)
    if RANK > 0:
        s += tl.dot(fq, tl.trans(fk), input_precision="ieee", out_dtype=ACC) * LOG2E
    if KEY_BIAS:
        s += key_bias[None, :] * LOG2E
    return s


@triton.jit
def _forward_kernel(
    q_ptr, k_ptr, v_ptr, out_ptr, lse_ptr, key_bias_ptr, fq_ptr, fk_ptr,
    tab0, tab1, tab2, bounds0, bounds1, bounds2, offsets, first, count,
    scale, N, M, H, n_tiles, plan_batch, plan_heads,
    NQ0, NQ1, NQ2, NK0, NK1, NK2, DIL0, DIL1, DIL2,
    q_b, q_n, q_h, k_b, k_n, k_h, v_b, v_n, v_h, kb_b, kb_n, kb_h, fq_b, fq_n, fq_h, fk_b, fk_n, fk_h,
    G: tl.constexpr, D: tl.constexpr, DV: tl.constexpr, DP: tl.constexpr, DVP: tl.constexpr,
    RANK: tl.constexpr, RP: tl.constexpr, KEY_BIAS: tl.constexpr, BOX: tl.constexpr, CAUSAL: tl.constexpr,
    MASKED: tl.constexpr, TQ0: tl.constexpr, TQ1: tl.constexpr, TQ2: tl.constexpr,
    TK0: tl.constexpr, TK1: tl.constexpr, TK2: tl.constexpr, ACC: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    TQ: tl.constexpr = TQ0 * TQ1 * TQ2
    TK: tl.constexpr = TK0 * TK1 * TK2
    tile = tl.program_id(0)
    b = (tl.program_id(1) // H).to(tl.int64)
    h = (tl.program_id(1) % H).to(tl.int64)
    rows = tile * TQ + tl.arange(0, TQ)
    q = _rows(q_ptr + b * q_b + h * q_h, rows, q_n, N, D, DP)
    fq = q
    if RANK > 0:
        fq = _rows(fq_ptr + b * fq_b + h * fq_h, rows, fq_n, N, RANK, RP)
    k_base = k_ptr + b * k_b + (h // G) * k_h
    v_base = v_ptr + b * v_b + (h // G) * v_h
    top = tl.full([TQ], -float("inf"), ACC)
    total = tl.zeros([TQ], ACC)
    acc = tl.zeros([TQ, DVP], ACC)

    group, at0, at1, at2 = _place(tile, NQ0, NQ1, NQ2, DIL0, DIL1, DIL2)
    if BOX:
        lo0, hi0, flo0, fhi0 = _visits(tab0, at0)
        lo1, hi1, flo1, fhi1 = _visits(tab1, at1)
        lo2, hi2, flo2, fhi2 = _visits(tab2, at2)
        begin = 0
        end = (hi0 - lo0) * (hi1 - lo1) * (hi2 - lo2)
        if MASKED:
            limits = _query_limits(bounds0, bounds1, bounds2, at0, at1, at2, TQ0, TQ1, TQ2)
    else:
        item = (b * (plan_batch > 1) * plan_heads + h * (plan_heads > 1)) * (n_tiles + 1) + tile
        begin = tl.load(offsets + item)
        end = tl.load(offsets + item + 1)
    for step in range(begin, end):
        if BOX:
            u2 = lo2 + step % (hi2 - lo2)
            u1 = lo1 + step // (hi2 - lo2) % (hi1 - lo1)
            u0 = lo0 + step // ((hi2 - lo2) * (hi1 - lo1))
            start = (((group * NK0 + u0) * NK1 + u1) * NK2 + u2) * TK
            n_here = TK
        else:
            start = tl.load(first + step)
            n_here = tl.load(count + step)
        keys = start + tl.arange(0, TK)
        there = tl.minimum(M, start + n_here)
        k = _rows(k_base, keys, k_n, there, D, DP)
        v = _rows(v_base, keys, v_n, there, DV, DVP)
        fk = k
        if RANK > 0:
            fk = _rows(fk_ptr + b * fk_b + h * fk_h, keys, fk_n, there, RANK, RP)
        bias = keys
        if KEY_BIAS:
            bias = tl.load(key_bias_ptr + b * kb_b + h * kb_h + keys.to(tl.int64) * kb_n, keys < there, 0.0).to(ACC)
            # What is left out must not matter, NaN included.
            k, v = _without(bias == -float("inf"), k, v)
        s = _scores(q, k, fq, fk, bias, scale, RANK, KEY_BIAS, ACC, PRECISION)
        if MASKED:
            if BOX:
                full = (flo0 <= u0) & (u0 < fhi0) & (flo1 <= u1) & (u1 < fhi1) & (flo2 <= u2) & (u2 < fhi2)
                if not full:
                    mask = _box_mask(limits, u0, u1, u2, TK0, TK1, TK2)
                    s = tl.where(mask, s, -float("inf"))
                    # Padding that nobody sees may hold anything.
                    k, v = _without(tl.max(mask.to(tl.int32), 0) == 0, k, v)
            else:
                mask = (keys < there)[None, :] & (rows < N)[:, None]
                if CAUSAL:
                    mask = mask & (keys[None, :] <= rows[:, None])
                s = tl.where(mask, s, -float("inf"))
        new_top = tl.maximum(top, tl.max(s, 1))
        finite_top = tl.where(new_top == -float("inf"), 0.0, new_top)
        p = tl.exp2(s - finite_top[:, None])
        keep = tl.exp2(top - finite_top)
        total = total * keep + tl.sum(p, 1)
        acc = acc * keep[:, None] + tl.dot(p.to(v.dtype), v, input_precision=PRECISION, out_dtype=ACC)
        top = new_top
    empty = total == 0
    acc = acc / tl.where(empty, 1.0, total)[:, None]
    lse = tl.where(empty, -float("inf"), (top + tl.log2(tl.where(empty, 1.0, total))) / LOG2E)
    out_at = (b * N * H + h) * DV
    _store_rows(out_ptr + out_at, acc, rows, H * DV, N, DV, DVP)
    tl.store(lse_ptr + b * N * H + rows.to(tl.int64) * H + h, lse, rows < N)


@triton.jit
def _grad_query_kernel(
    q_ptr, k_ptr, v_ptr, g_ptr, lse_ptr, delta_ptr, key_bias_ptr, fq_ptr, fk_ptr, dq_ptr, dfq_ptr,
    tab0, tab1, tab2, bounds0, bounds1, bounds2, offsets, first, count,
    scale, N, M, H, n_tiles, plan_batch, plan_heads,
    NQ0, NQ1, NQ2, NK0, NK1, NK2, DIL0, DIL1, DIL2,
    q_b, q_n, q_h, k_b, k_n, k_h, v_b, v_n, v_h, kb_b, kb_n, kb_h, fq_b, fq_n, fq_h, fk_b, fk_n, fk_h,
    G: tl.constexpr, D: tl.constexpr, DV: tl.constexpr, DP: tl.constexpr, DVP: tl.constexpr,
    RANK: tl.constexpr, RP: tl.constexpr, KEY_BIAS: tl.constexpr, BOX: tl.constexpr, CAUSAL: tl.constexpr,
    MASKED: tl.constexpr, TQ0: tl.constexpr, TQ1: tl.constexpr, TQ2: tl.constexpr,
    TK0: tl.constexpr, TK1: tl.constexpr, TK2: tl.constexpr, ACC: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    TQ: tl.constexpr = TQ0 * TQ1 * TQ2
    TK: tl.constexpr = TK0 * TK1 * TK2
    tile = tl.program_id(0)
    b = (tl.program_id(1) // H).to(tl.int64)
    h = (tl.program_id(1) % H).to(tl.int64)
    rows = tile * TQ + tl.arange(0, TQ)
    q = _rows(q_ptr + b * q_b + h * q_h, rows, q_n, N, D, DP)
    fq = q
    if RANK > 0:
        fq = _rows(fq_ptr + b * fq_b + h * fq_h, rows, fq_n, N, RANK, RP)
    g = _rows(g_ptr + (b * N * H + h) * DV, rows, H * DV, N, DV, DVP)
    at_row = b * N * H + rows.to(tl.int64) * H + h
    lse = tl.load(lse_ptr + at_row, rows < N, 0.0)
    delta = tl.load(delta_ptr + at_row, rows < N, 0.0)
    # A row without keys: exp(-inf - (-inf)) is NaN, exp(-inf - 0) is 0.
    lse = tl.where(lse == -float("inf"), 0.0, lse) * LOG2E
    k_base = k_ptr + b * k_b + (h // G) * k_h
    v_base = v_ptr + b * v_b + (h // G) * v_h
    dq = tl.zeros([TQ, DP], ACC)
    dfq = tl.zeros([TQ, RP], ACC)

    group, at0, at1, at2 = _place(tile, NQ0, NQ1, NQ2, DIL0, DIL1, DIL2)
    if BOX:
        lo0, hi0, flo0, fhi0 = _visits(tab0, at0)
        lo1, hi1, flo1, fhi1 = _visits(tab1, at1)
        lo2, hi2, flo2, fhi2 = _visits(tab2, at2)
        begin = 0
        end = (hi0 - lo0) * (hi1 - lo1) * (hi2 - lo2)
        if MASKED:
            limits = _query_limits(bounds0, bounds1, bounds2, at0, at1, at2, TQ0, TQ1, TQ2)
    else:
        item = (b * (plan_batch > 1) * plan_heads + h * (plan_heads > 1)) * (n_tiles + 1) + tile
        begin = tl.load(offsets + item)
        end = tl.load(offsets + item + 1)
    for step in range(begin, end):
        if BOX:
            u2 = lo2 + step % (hi2 - lo2)
            u1 = lo1 + step // (hi2 - lo2) % (hi1 - lo1)
            u0 = lo0 + step // ((hi2 - lo2) * (hi1 - lo1))
            start = (((group * NK0 + u0) * NK1 + u1) * NK2 + u2) * TK
            n_here = TK
        else:
            start = tl.load(first + step)
            n_here = tl.load(count + step)
        keys = start + tl.arange(0, TK)
        there = tl.minimum(M, start + n_here)
        k = _rows(k_base, keys, k_n, there, D, DP)
        v = _rows(v_base, keys, v_n, there, DV, DVP)
        fk = k
        if RANK > 0:
            fk = _rows(fk_ptr + b * fk_b + h * fk_h, keys, fk_n, there, RANK, RP)
        bias = keys
        if KEY_BIAS:
            bias = tl.load(key_bias_ptr + b * kb_b + h * kb_h + keys.to(tl.int64) * kb_n, keys < there, 0.0).to(ACC)
            k, v = _without(bias == -float("inf"), k, v)
        s = _scores(q, k, fq, fk, bias, scale, RANK, KEY_BIAS, ACC, PRECISION)
        if MASKED:
            if BOX:
                full = (flo0 <= u0) & (u0 < fhi0) & (flo1 <= u1) & (u1 < fhi1) & (flo2 <= u2) & (u2 < fhi2)
                if not full:
                    mask = _box_mask(limits, u0, u1, u2, TK0, TK1, TK2)
                    s = tl.where(mask, s, -float("inf"))
                    # Padding that nobody sees may hold anything.
                    k, v = _without(tl.max(mask.to(tl.int32), 0) == 0, k, v)
            else:
                mask = (keys < there)[None, :] & (rows < N)[:, None]
                if CAUSAL:
                    mask = mask & (keys[None, :] <= rows[:, None])
                s = tl.where(mask, s, -float("inf"))
        p = tl.exp2(s - lse[:, None])
        dp = tl.dot(g, tl.trans(v), input_precision=PRECISION, out_dtype=ACC)
        ds = _grad_scores(p, dp, delta, MASKED or KEY_BIAS)
        dq += tl.dot(ds.to(k.dtype), k, input_precision=PRECISION, out_dtype=ACC)
        if RANK > 0:
            dfq += tl.dot(ds.to(fk.dtype), fk, input_precision="ieee", out_dtype=ACC)
    _store_rows(dq_ptr + (b * N * H + h) * D, dq * scale, rows, H * D, N, D, DP)
    if RANK > 0:
        _store_rows(dfq_ptr + (b * N * H + h) * RANK, dfq, rows, H * RANK, N, RANK, RP)


@triton.jit
def _grad_key_kernel(
    q_ptr, k_ptr, v_ptr, g_ptr, lse_ptr, delta_ptr, key_bias_ptr, fq_ptr, fk_ptr,
    dk_ptr, dv_ptr, dfk_ptr, dkb_ptr,
    tab0, tab1, tab2, bounds0, bounds1, bounds2, back0, back1, back2, offsets, tiles, first, count,
    scale, N, M, H, E, n_tiles, plan_batch, plan_heads,
    NQ0, NQ1, NQ2, NK0, NK1, NK2, DIL0, DIL1, DIL2,
    q_b, q_n, q_h, k_b, k_n, k_h, v_b, v_n, v_h, kb_b, kb_n, kb_h, fq_b, fq_n, fq_h, fk_b, fk_n, fk_h,
    G: tl.constexpr, D: tl.constexpr, DV: tl.constexpr, DP: tl.constexpr, DVP: tl.constexpr,
    RANK: tl.constexpr, RP: tl.constexpr, KEY_BIAS: tl.constexpr, BOX: tl.constexpr, CAUSAL: tl.constexpr,
    MASKED: tl.constexpr, TQ0: tl.constexpr, TQ1: tl.constexpr, TQ2: tl.constexpr,
    TK0: tl.constexpr, TK1: tl.constexpr, TK2: tl.constexpr, ACC: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    TQ: tl.constexpr = TQ0 * TQ1 * TQ2
    TK: tl.constexpr = TK0 * TK1 * TK2
    tile = tl.program_id(0)
    b = (tl.program_id(1) // E).to(tl.int64)
    e = (tl.program_id(1) % E).to(tl.int64)
    keys = tile * TK + tl.arange(0, TK)
    k = _rows(k_ptr + b * k_b + e * k_h, keys, k_n, M, D, DP)
    v = _rows(v_ptr + b * v_b + e * v_h, keys, v_n, M, DV, DVP)
    dk = tl.zeros([TK, DP], ACC)
    dv = tl.zeros([TK, DVP], ACC)
    group, kt0, kt1, kt2 = _place(tile, NK0, NK1, NK2, DIL0, DIL1, DIL2)
    if BOX:
        lo0, hi0 = tl.load(back0 + kt0 * 2), tl.load(back0 + kt0 * 2 + 1)
        lo1, hi1 = tl.load(back1 + kt1 * 2), tl.load(back1 + kt1 * 2 + 1)
        lo2, hi2 = tl.load(back2 + kt2 * 2), tl.load(back2 + kt2 * 2 + 1)
    for member in range(0, G):
        h = e * G + member
        member_k, member_v = k, v
        fk = k
        dfk = tl.zeros([TK, RP], ACC)
        if RANK > 0:
            fk = _rows(fk_ptr + b * fk_b + h * fk_h, keys, fk_n, M, RANK, RP)
        bias = tl.zeros([TK], ACC)
        dkb = tl.zeros([TK], ACC)
        if KEY_BIAS:
            bias = tl.load(key_bias_ptr + b * kb_b + h * kb_h + keys.to(tl.int64) * kb_n, keys < M, 0.0).to(ACC)
            member_k, member_v = _without(bias == -float("inf"), k, v)
        if BOX:
            begin = 0
            end = (hi0 - lo0) * (hi1 - lo1) * (hi2 - lo2)
        else:
            item = (b * (plan_batch > 1) * plan_heads + h * (plan_heads > 1)) * (n_tiles + 1) + tile
            begin = tl.load(offsets + item)
            end = tl.load(offsets + item + 1)
        for step in range(begin, end):
            if BOX:
                t2 = lo2 + step % (hi2 - lo2)
                t1 = lo1 + step // (hi2 - lo2) % (hi1 - lo1)
                t0 = lo0 + step // ((hi2 - lo2) * (hi1 - lo1))
                query_tile = ((group * NQ0 + t0) * NQ1 + t1) * NQ2 + t2
                g0 = (group // (DIL1 * DIL2)) * NQ0 + t0
                g1 = (group // DIL2 % DIL1) * NQ1 + t1
                g2 = (group % DIL2) * NQ2 + t2
            else:
                query_tile = tl.load(tiles + step)
            rows = query_tile * TQ + tl.arange(0, TQ)
            q = _rows(q_ptr + b * q_b + h * q_h, rows, q_n, N, D, DP)
            fq = q
            if RANK > 0:
                fq = _rows(fq_ptr + b * fq_b + h * fq_h, rows, fq_n, N, RANK, RP)
            g = _rows(g_ptr + (b * N * H + h) * DV, rows, H * DV, N, DV, DVP)
            at_row = b * N * H + rows.to(tl.int64) * H + h
            lse = tl.load(lse_ptr + at_row, rows < N, 0.0)
            delta = tl.load(delta_ptr + at_row, rows < N, 0.0)
            lse = tl.where(lse == -float("inf"), 0.0, lse) * LOG2E
            s = _scores(q, member_k, fq, fk, bias, scale, RANK, KEY_BIAS, ACC, PRECISION)
            if MASKED:
                if BOX:
                    u0, u1, u2 = kt0 % NK0, kt1 % NK1, kt2 % NK2
                    full = (tl.load(tab0 + g0 * 4 + 2) <= u0) & (u0 < tl.load(tab0 + g0 * 4 + 3))
                    full = full & (tl.load(tab1 + g1 * 4 + 2) <= u1) & (u1 < tl.load(tab1 + g1 * 4 + 3))
                    full = full & (tl.load(tab2 + g2 * 4 + 2) <= u2) & (u2 < tl.load(tab2 + g2 * 4 + 3))
                    if not full:
                        limits = _query_limits(bounds0, bounds1, bounds2, g0, g1, g2, TQ0, TQ1, TQ2)
                        s = tl.where(_box_mask(limits, u0, u1, u2, TK0, TK1, TK2), s, -float("inf"))
                else:
                    begins = tl.load(first + step)
                    mask = (keys >= begins) & (keys < begins + tl.load(count + step)) & (keys < M)
                    mask = mask[None, :] & (rows < N)[:, None]
                    if CAUSAL:
                        mask = mask & (keys[None, :] <= rows[:, None])
                    s = tl.where(mask, s, -float("inf"))
            p = tl.exp2(s - lse[:, None])
            dv += tl.dot(tl.trans(p.to(g.dtype)), g, input_precision=PRECISION, out_dtype=ACC)
            dp = tl.dot(g, tl.trans(member_v), input_precision=PRECISION, out_dtype=ACC)
            ds = _grad_scores(p, dp, delta, MASKED or KEY_BIAS)
            dk += tl.dot(tl.trans(ds.to(q.dtype)), q, input_precision=PRECISION, out_dtype=ACC)
            if RANK > 0:
                dfk += tl.dot(tl.trans(ds.to(fq.dtype)), fq, input_precision="ieee", out_dtype=ACC)
            if KEY_BIAS:
                dkb += tl.sum(ds, 0)
        if RANK > 0:
            _store_rows(dfk_ptr + (b * M * H + h) * RANK, dfk, keys, H * RANK, M, RANK, RP)
        if KEY_BIAS:
            tl.store(dkb_ptr + b * M * H + keys.to(tl.int64) * H + h, dkb, keys < M)
    _store_rows(dk_ptr + (b * M * E + e) * D, dk * scale, keys, E * D, M, D, DP)
    _store_rows(dv_ptr + (b * M * E + e) * DV, dv, keys, E * DV, M, DV, DVP)


# Plans on a device


@dataclass(frozen=True)
class _Tables:
    """A plan as the kernels read it."""

    box: bool
    causal: bool
    masked: bool
    edges_q: tuple[int, int, int]
    edges_k: tuple[int, int, int]
    counts: tuple[int, ...]  # query tiles, key tiles, dilation, three axes each
    forward: tuple[Tensor, ...]
    backward: tuple[Tensor, ...]


def _tables(plan: BlockPlan, device: torch.device) -> _Tables:
    cache: dict[str, _Tables] = plan.__dict__.setdefault("_triton_tables", {})
    key = str(device)
    if key not in cache:
        if isinstance(plan, BoxPlan):
            cache[key] = _box_tables(plan, device)
        else:
            assert isinstance(plan, ListPlan)
            cache[key] = _list_tables(plan, device)
    return cache[key]


def _int32(x: Tensor, device: torch.device) -> Tensor:
    return x.to(device=device, dtype=torch.int32).contiguous()


def _box_tables(plan: BoxPlan, device: torch.device) -> _Tables:
    def three(sizes: Sequence[int]) -> tuple[int, int, int]:
        a, b, c = (1,) * (3 - len(sizes)) + tuple(sizes)
        return a, b, c

    one = torch.tensor([1])
    zero = torch.zeros(1, 1, dtype=torch.long)
    whole = AxisTiles(one, one, zero, zero + 1, zero, zero + 1, zero, zero + 1, 1)
    axes = (whole,) * (3 - len(plan.axes)) + plan.axes
    edges_q, edges_k = three(plan.edges_q), three(plan.edges_k)
    visits, bounds, back = [], [], []
    full = True
    for axis, edge_q, edge_k in zip(axes, edges_q, edges_k, strict=True):
        # In the kernels a pair of tiles is full only if neither holds padding, as padding is masked too.
        past = (torch.arange(axis.n_queries) + 1) * edge_q > axis.query_length[:, None]
        full_hi = torch.minimum(axis.full_hi, axis.key_length[:, None] // edge_k)
        full_hi = torch.where(past, axis.full_lo, torch.maximum(full_hi, axis.full_lo))
        full = full and bool((axis.lo == axis.full_lo).all() and (axis.hi == full_hi).all())
        visits.append(torch.stack([axis.lo, axis.hi, axis.full_lo, full_hi], -1))
        bounds.append(torch.stack([axis.start, axis.end], -1))
        u = torch.arange(axis.n_keys)
        # (d, n_q, n_k): the query tiles that visit a key tile are neighbors, as both ends are monotone.
        visited = (axis.lo[..., None] <= u) & (u < axis.hi[..., None])
        first = visited.long().argmax(1)
        last = axis.n_queries - visited.flip(1).long().argmax(1)
        some = visited.any(1)
        back.append(torch.stack([first.where(some, 0), last.where(some, 0)], -1))
    none = torch.zeros(1, dtype=torch.int32, device=device)
    tables = [_int32(x, device) for x in (*visits, *bounds)]
    transposed = [_int32(x, device) for x in back]
    counts = (*(a.n_queries for a in axes), *(a.n_keys for a in axes), *three(plan.dilation))
    return _Tables(
        True,
        False,
        not full,
        edges_q,
        edges_k,
        counts,
        (*tables, none, none, none),
        (*tables, *transposed, *[none] * 4),
    )


def _list_tables(plan: ListPlan, device: torch.device) -> _Tables:
    n_key_tiles = -(-plan.n_keys // plan.tile_k)
    n_plans = plan.batch * plan.heads
    offsets = plan.offsets.reshape(n_plans, -1)
    length = offsets.diff(dim=-1)
    # Which plan and query tile each run is of.
    owner = torch.repeat_interleave(torch.arange(length.numel()), length.flatten())
    which, tile = owner // plan.n_tiles, owner % plan.n_tiles
    # A run touches at most two key tiles, as it is no longer than one.
    first_tile, last_tile = plan.first // plan.tile_k, (plan.first + plan.count - 1) // plan.tile_k
    two = last_tile > first_tile
    entry = torch.cat([torch.arange(len(owner)), two.nonzero()[:, 0]])
    key_tile = torch.cat([first_tile, last_tile[two]])
    # By plan, key tile, query tile: a fixed order of summation.
    key = (which[entry] * n_key_tiles + key_tile) * plan.n_tiles + tile[entry]
    order = torch.argsort(key, stable=True)
    entry, key_tile = entry[order], key_tile[order]
    per_tile = torch.bincount(which[entry] * n_key_tiles + key_tile, minlength=n_plans * n_key_tiles)
    ends = per_tile.cumsum(0).view(n_plans, n_key_tiles)
    back = torch.cat([ends[:, :1] - per_tile.view_as(ends)[:, :1], ends], 1)
    whole = plan.n_queries % plan.tile_q == 0 and plan.n_keys % plan.tile_k == 0
    aligned = bool((plan.count == plan.tile_k).all() and (plan.first % plan.tile_k == 0).all())
    masked = plan.causal or not (whole and aligned)
    none = torch.zeros(1, dtype=torch.int32, device=device)
    pad = torch.zeros(1, dtype=torch.long)  # a plan without any run still needs an address
    runs = [torch.cat([x, pad]) for x in (plan.first, plan.count)]
    runs_back = [torch.cat([x, pad]) for x in (tile[entry], plan.first[entry], plan.count[entry])]
    return _Tables(
        False, plan.causal, masked, (1, 1, plan.tile_q), (1, 1, plan.tile_k), (1,) * 9,
        (*[none] * 6, *(_int32(x, device) for x in (offsets, *runs))),
        (*[none] * 9, *(_int32(x, device) for x in (back, *runs_back))),
    )  # fmt: skip


# Launching


def _config(device: torch.device, width: int, tile_q: int, backward: bool) -> dict[str, int]:
    """Warps and pipeline stages by compute capability; starting points for Hopper and Ampere, to be tuned on them."""
    if device.type != "cuda":
        return {"num_warps": 4, "num_stages": 1}
    hopper = torch.cuda.get_device_capability(device)[0] >= 9
    warps = 8 if tile_q >= 128 or width >= 128 else 4
    stages = 2 if backward or width > 128 or not hopper else 3
    return {"num_warps": warps, "num_stages": stages if width <= 128 else 1}


def _current(device: torch.device) -> AbstractContextManager[Any]:
    """Kernels are launched on the current GPU, which need not be the tensors'."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def _padded(width: int) -> int:
    """A product's edges are powers of two of at least 16."""
    return max(16, triton.next_power_of_2(width))


def _meta(
    q: Tensor, v: Tensor, key_bias: Tensor | None, fq: Tensor | None, sizes: Sequence[int], flags: Sequence[bool]
) -> dict[str, Any]:
    rank = 0 if fq is None else fq.shape[-1]
    box, causal, masked = flags
    # What PyTorch does with float32 products is what the user asked of it.
    exact = q.dtype != torch.float32 or not torch.backends.cuda.matmul.allow_tf32
    names = ("TQ0", "TQ1", "TQ2", "TK0", "TK1", "TK2")
    return {
        "D": q.shape[-1],
        "DV": v.shape[-1],
        "DP": _padded(q.shape[-1]),
        "DVP": _padded(v.shape[-1]),
        "RANK": rank,
        "RP": _padded(rank),
        "KEY_BIAS": key_bias is not None,
        "BOX": box,
        "CAUSAL": causal,
        "MASKED": masked,
        "ACC": tl.float64 if q.dtype == torch.float64 else tl.float32,
        "PRECISION": "ieee" if exact else "tf32",
        **dict(zip(names, sizes, strict=True)),
    }


def _strides(x: Tensor | None, like: Sequence[int]) -> tuple[int, int, int]:
    """Of batch, row and head; 0 where the axis is broadcast."""
    if x is None:
        return 0, 0, 0
    b, n, h = (0 if x.shape[axis] == 1 and like[axis] != 1 else x.stride(axis) for axis in range(3))
    return b, n, h


def _adjacent(x: Tensor | None) -> Tensor | None:
    """Rows whose columns lie side by side; a copy only where they do not."""
    return x if x is None or x.stride(-1) == 1 else x.contiguous()


def _factor(x: Tensor | None, q: Tensor) -> Tensor | None:
    return None if x is None else _adjacent(x.to(torch.float64 if q.dtype == torch.float64 else torch.float32))


@torch.library.custom_op("gazekit::block_sparse", mutates_args=())
def _forward(
    q: Tensor, k: Tensor, v: Tensor, key_bias: Tensor | None, fq: Tensor | None, fk: Tensor | None,
    forward_tables: list[Tensor], backward_tables: list[Tensor], sizes: list[int], counts: list[int],
    flags: list[bool], plans: list[int], scale: float,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    B, N, H, _ = q.shape
    M, E, Dv = v.shape[1:]
    out = q.new_empty((B, N, H, Dv))
    lse = q.new_empty((B, N, H), dtype=torch.float64 if q.dtype == torch.float64 else torch.float32)
    tile_q = math.prod(sizes[:3])
    n_tiles = triton.cdiv(N, tile_q)
    q, k, v = (_adjacent(x) for x in (q, k, v))  # type: ignore[assignment]
    fq, fk = _factor(fq, q), _factor(fk, q)
    with _current(q.device):
        _forward_kernel[(n_tiles, B * H)](
            q, k, v, out, lse, q if key_bias is None else key_bias, q if fq is None else fq, q if fk is None else fk,
            *forward_tables, scale, N, M, H, n_tiles, *plans, *counts,
            *_strides(q, q.shape), *_strides(k, k.shape), *_strides(v, v.shape), *_strides(key_bias, (B, M, H)),
            *_strides(fq, (B, N, H)), *_strides(fk, (B, M, H)), G=H // E,
            **_meta(q, v, key_bias, fq, sizes, flags), **_config(q.device, max(q.shape[-1], Dv), tile_q, False),
        )  # fmt: skip
    return out, lse


@_forward.register_fake
def _(
    q: Tensor, k: Tensor, v: Tensor, key_bias: Tensor | None, fq: Tensor | None, fk: Tensor | None,
    forward_tables: list[Tensor], backward_tables: list[Tensor], sizes: list[int], counts: list[int],
    flags: list[bool], plans: list[int], scale: float,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    lse = q.new_empty(q.shape[:3], dtype=torch.float64 if q.dtype == torch.float64 else torch.float32)
    return q.new_empty((*q.shape[:3], v.shape[-1])), lse


@torch.library.custom_op("gazekit::block_sparse_backward", mutates_args=())
def _backward(
    grad_out: Tensor, grad_lse: Tensor, out: Tensor, lse: Tensor,
    q: Tensor, k: Tensor, v: Tensor, key_bias: Tensor | None, fq: Tensor | None, fk: Tensor | None,
    forward_tables: list[Tensor], backward_tables: list[Tensor], sizes: list[int], counts: list[int],
    flags: list[bool], plans: list[int], scale: float,
) -> list[Tensor]:  # fmt: skip
    B, N, H, D = q.shape
    M, E, Dv = v.shape[1:]
    rank = 0 if fq is None else fq.shape[-1]
    tile_q, tile_k = math.prod(sizes[:3]), math.prod(sizes[3:])
    n_tiles, n_key_tiles = triton.cdiv(N, tile_q), triton.cdiv(M, tile_k)
    q, k, v = (_adjacent(x) for x in (q, k, v))  # type: ignore[assignment]
    fq, fk = _factor(fq, q), _factor(fk, q)
    g = grad_out.contiguous()
    delta = ((g.to(lse.dtype) * out.to(lse.dtype)).sum(-1) - grad_lse).contiguous()
    dq, dk, dv = (torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in (q, k, v))
    dfq, dfk = lse.new_empty((B, N, H, rank)), lse.new_empty((B, M, H, rank))
    dkb = lse.new_empty((B, M, H) if key_bias is not None else (0,))
    meta = {"G": H // E, **_meta(q, v, key_bias, fq, sizes, flags)}
    meta |= _config(q.device, max(D, Dv), tile_q, True)
    operands = q if key_bias is None else key_bias, q if fq is None else fq, q if fk is None else fk
    strides = (
        *_strides(q, q.shape), *_strides(k, k.shape), *_strides(v, v.shape), *_strides(key_bias, (B, M, H)),
        *_strides(fq, (B, N, H)), *_strides(fk, (B, M, H)),
    )  # fmt: skip
    with _current(q.device):
        _grad_query_kernel[(n_tiles, B * H)](
            q, k, v, g, lse, delta, *operands, dq, dfq, *forward_tables, scale, N, M, H, n_tiles, *plans, *counts,
            *strides, **meta,
        )  # fmt: skip
        _grad_key_kernel[(n_key_tiles, B * E)](
            q, k, v, g, lse, delta, *operands, dk, dv, dfk, dkb, *backward_tables,
            scale, N, M, H, E, n_key_tiles, *plans, *counts, *strides, **meta,
        )  # fmt: skip
    return [dq, dk, dv, dkb, dfq, dfk]


@_backward.register_fake
def _(
    grad_out: Tensor, grad_lse: Tensor, out: Tensor, lse: Tensor,
    q: Tensor, k: Tensor, v: Tensor, key_bias: Tensor | None, fq: Tensor | None, fk: Tensor | None,
    forward_tables: list[Tensor], backward_tables: list[Tensor], sizes: list[int], counts: list[int],
    flags: list[bool], plans: list[int], scale: float,
) -> list[Tensor]:  # fmt: skip
    B, N, H, _ = q.shape
    M = k.shape[1]
    rank = 0 if fq is None else fq.shape[-1]
    return [
        *(torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in (q, k, v)),
        lse.new_empty((B, M, H) if key_bias is not None else (0,)),
        lse.new_empty((B, N, H, rank)),
        lse.new_empty((B, M, H, rank)),
    ]


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    q, k, v, key_bias, fq, fk, forward_tables, backward_tables, *ctx.rest = inputs
    ctx.save_for_backward(q, k, v, key_bias, fq, fk, *output, *forward_tables, *backward_tables)
    ctx.n_forward = len(forward_tables)


def _input_gradients(ctx: Any, grad_out: Tensor, grad_lse: Tensor) -> tuple[Any, ...]:
    q, k, v, key_bias, fq, fk, out, lse, *tables = ctx.saved_tensors
    grads = _backward(
        grad_out, grad_lse, out, lse, q, k, v, key_bias, fq, fk,
        tables[: ctx.n_forward], tables[ctx.n_forward :], *ctx.rest,
    )  # fmt: skip
    shaped = [
        None if x is None else grad.sum_to_size(x.shape).to(x.dtype)
        for x, grad in zip((q, k, v, key_bias, fq, fk), grads, strict=True)
    ]
    # Of the tables and the six arguments after them there is none.
    return (*shaped, [None] * ctx.n_forward, [None] * (len(tables) - ctx.n_forward), *[None] * len(ctx.rest))


_forward.register_autograd(_input_gradients, setup_context=_keep)


def attend(
    q: Tensor, k: Tensor, v: Tensor, key_bias: Tensor | None, query_factor: Tensor | None,
    key_factor: Tensor | None, plan: BlockPlan, scale: float,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Output and lse; see :func:`gazekit.kernels.block_sparse_attention`."""
    tables = _tables(plan, q.device)
    shared = (int(plan.batch), int(plan.heads))
    out, lse = _forward(
        q, k, v, key_bias, query_factor, key_factor, list(tables.forward), list(tables.backward),
        [*tables.edges_q, *tables.edges_k], list(tables.counts), [tables.box, tables.causal, tables.masked],
        list(shared), float(scale),
    )  # fmt: skip
    return out, lse
