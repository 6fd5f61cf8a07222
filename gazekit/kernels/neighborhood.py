"""Generalized neighborhood attention: every token of a grid attends to a window around it (see ``window.py``).

Hassani et al. (2025), "Generalized Neighborhood Attention: Multi-dimensional Sparse Attention at the Speed of
Light", arXiv 2504.16922. Sliding windows (stride 1), blocks (stride = size), what lies between, dilation, and causality
per axis, on grids of one to three axes. A grid is cut into tiles, and a tile of queries visits the box of key tiles
that its windows touch. Where the stride falls on the tiles, as size 24 with stride 8 on tiles of 8 x 8, nothing that
is computed is thrown away: :func:`~gazekit.kernels.estimate_speedup` counts it, and
:func:`~gazekit.kernels.suggest_windows` looks for such settings.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from itertools import product
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from gazekit.errors import InputError
from gazekit.kernels.bias import BiasFactors
from gazekit.kernels.block_sparse import block_sparse_attention, triton_refuses
from gazekit.kernels.dense import dense_attention, dense_weights
from gazekit.kernels.engine import Candidate, choose, lacks
from gazekit.kernels.inputs import check_broadcast, check_qkv
from gazekit.kernels.merge import merge_attention
from gazekit.kernels.plan import plan_windows
from gazekit.kernels.tile_layout import TileLayout
from gazekit.kernels.window import Window, axis_tiles, check_windows, estimate_speedup, window_mask

_NAME = "neighborhood_attention"
# Tiles that the Triton kernels can take, by number of axes: 64 or 128 tokens.
_TRITON_TILES: dict[int, tuple[tuple[int, ...], ...]] = {
    1: ((64,), (128,)),
    2: ((8, 8), (16, 8), (8, 16)),
    3: ((4, 4, 4), (2, 8, 8), (4, 4, 8)),
}
# On a CPU a tile of queries costs as much as if it had so many more: what a matrix product loses on small ones.
_TILE_OVERHEAD = 24
# A mask costs the time of so many more keys.
_MASK_OVERHEAD = 0.15


def neighborhood_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    windows: Sequence[Window | int],
    *,
    bias: BiasFactors | None = None,
    key_bias: Tensor | None = None,
    valid: Tensor | None = None,
    extra_kv: tuple[Tensor, Tensor] | None = None,
    scale: float | None = None,
    return_lse: bool = False,
    backend: str = "auto",
) -> Any:
    """Attention within windows of a grid.

    Args:
        q: (B, *grid, H, D), the grid having one to three axes.
        k: (B, *grid, Hk, D); query head h reads key head ``h // (H / Hk)``.
        v: (B, *grid, Hk, Dv).
        windows: One :class:`~gazekit.kernels.Window` per axis, or a bare size; the length of an axis sees all of it.
        bias: Factors of a bias on the scores over the N tokens of the grid in row-major order,
            (B | 1, N, H | 1, R) each.
        key_bias: (B | 1, *grid, H | 1), added to the scores of a key whatever the query: eccentricity from the
            current fixation, a center bias, the log of a prior.
        valid: (B | 1, *grid) bool, False where a key is padding; a query without any valid key gives 0.
        extra_kv: Keys (B, X, Hk, D) and values (B, X, Hk, Dv) outside the grid that every query sees, such as class
            and register tokens. (As queries they attend to the grid densely, in a call of their own.)
        scale: Default ``D ** -0.5``.
        return_lse: Also return lse.
        backend: ``"auto"``, ``"reference"`` (dense, by definition), ``"torch"`` (gathered tiles), ``"triton"``,
            ``"sdpa"`` (where the windows see all), or ``"natten"``.

    Returns:
        (B, *grid, H, Dv) in q's dtype; with `return_lse` also (B, *grid, H) natural-log sum of exponentials in
        float32 (float64 for float64 input).

    Raises:
        InputError: Shapes, dtypes or devices do not fit; a window does not fit on its axis; the backend cannot run.

    """
    if q.ndim not in (4, 5, 6):
        raise InputError(f"{_NAME}: expected (B, *grid, heads, width) with 1 to 3 grid axes, found q {tuple(q.shape)}")
    check_qkv(_NAME, q, k, v, q.ndim - 3)
    B, *grid, H, _ = q.shape
    if k.shape[1:-2] != q.shape[1:-2]:
        raise InputError(f"{_NAME}: q and k must lie on one grid, found {tuple(grid)} and {tuple(k.shape[1:-2])}")
    given = check_windows(_NAME, grid, windows)
    if extra_kv is not None:
        check_qkv(_NAME, q.flatten(1, -3), *extra_kv)
        if extra_kv[0].shape[2] != k.shape[-2] or extra_kv[1].shape[-1] != v.shape[-1]:
            raise InputError(
                f"{_NAME}: extra_kv must have the heads and widths of k {tuple(k.shape)} and v {tuple(v.shape)}, found "
                f"{tuple(extra_kv[0].shape)} and {tuple(extra_kv[1].shape)}"
            )
    key_bias = _key_bias(q, grid, key_bias, valid)
    if bias is not None:
        N = math.prod(grid)
        check_broadcast(_NAME, "bias.query", bias.query, (B, N, H, bias.rank), "(B, N, H, R)")
        check_broadcast(_NAME, "bias.key", bias.key, (B, N, H, bias.rank), "(B, N, H, R)")
    engine = choose(_NAME, backend, _candidates(q, k, v, given, bias, key_bias, extra_kv, return_lse))
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    if engine == "sdpa":
        return _dense_sdpa(q, k, v, key_bias, extra_kv, scale)
    if engine == "natten":
        return _natten(q, k, v, given, scale)
    rows_q, rows_k, rows_v = (x.flatten(1, -3) for x in (q, k, v))
    if engine == "reference":
        dense = None if bias is None else bias.dense()
        allowed = window_mask(grid, given).to(q.device)
        out, lse = dense_attention(rows_q, rows_k, rows_v, allowed=allowed, bias=dense, key_bias=key_bias, scale=scale)
    elif engine == "torch":
        plan = plan_windows(grid, given, gather_tile(tuple(grid), given), tiled=False)
        out, lse = block_sparse_attention(
            rows_q, rows_k, rows_v, plan, bias=bias, key_bias=key_bias, scale=scale, return_lse=True, backend="torch"
        )
    else:
        plan = plan_windows(grid, given, triton_tile(tuple(grid), given))
        layout = plan.layout_q

        def tiled(x: Tensor) -> Tensor:
            on_grid: Tensor = x.unflatten(1, grid)
            return layout.to_tiles(on_grid)

        out, lse = block_sparse_attention(
            layout.to_tiles(q),
            layout.to_tiles(k),
            layout.to_tiles(v),
            plan,
            bias=None if bias is None else BiasFactors(tiled(bias.query), tiled(bias.key)),
            key_bias=None if key_bias is None else tiled(key_bias),
            scale=scale,
            return_lse=True,
            backend="triton",
        )
        out, lse = (layout.from_tiles(x).flatten(1, len(grid)) for x in (out, lse))
    if extra_kv is not None:
        out, lse = merge_attention(out, lse, *attend_extra(rows_q, extra_kv, scale))
    out, lse = out.unflatten(1, grid), lse.unflatten(1, grid)
    return (out, lse) if return_lse else out


def neighborhood_weights(
    q: Tensor,
    k: Tensor,
    windows: Sequence[Window | int],
    *,
    bias: BiasFactors | None = None,
    key_bias: Tensor | None = None,
    valid: Tensor | None = None,
    scale: float | None = None,
) -> Tensor:
    """(B, H, N, N) weights that :func:`neighborhood_attention` gives to the tokens of the grid; for small grids."""
    grid = q.shape[1:-2]
    dense = None if bias is None else bias.dense()
    return dense_weights(
        q.flatten(1, -3),
        k.flatten(1, -3),
        allowed=window_mask(grid, windows).to(q.device),
        bias=dense,
        key_bias=_key_bias(q, grid, key_bias, valid),
        scale=scale,
    )


def _key_bias(q: Tensor, grid: Sequence[int], key_bias: Tensor | None, valid: Tensor | None) -> Tensor | None:
    """(B | 1, N, H | 1) of both."""
    B, H = q.shape[0], q.shape[-2]
    both: Tensor | None = None
    if key_bias is not None:
        if key_bias.ndim != len(grid) + 2 or tuple(key_bias.shape[1:-1]) != tuple(grid):
            raise InputError(
                f"{_NAME}: key_bias must be (B, *grid, H) = {(B, *grid, H)}, found {tuple(key_bias.shape)}"
            )
        both = key_bias.flatten(1, -2)
        check_broadcast(_NAME, "key_bias", both, (B, math.prod(grid), H), "(B, N, H)")
    if valid is not None:
        if valid.dtype != torch.bool or tuple(valid.shape) not in ((B, *grid), (1, *grid)):
            raise InputError(
                f"{_NAME}: valid must be bool (B, *grid) = {(B, *grid)}, found {valid.dtype} {tuple(valid.shape)}"
            )
        zero = torch.zeros((), dtype=q.dtype, device=q.device) if both is None else both
        both = torch.where(valid.flatten(1)[..., None], zero, -torch.inf)
    return both


def _candidates(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    windows: tuple[Window, ...],
    bias: BiasFactors | None,
    key_bias: Tensor | None,
    extra_kv: tuple[Tensor, Tensor] | None,
    return_lse: bool,
) -> list[Candidate]:
    grid = tuple(q.shape[1:-2])
    sees_all = all(w.size == length and not w.causal for w, length in zip(windows, grid, strict=True))
    sdpa = natten = None
    if not sees_all:
        sdpa = f"the windows do not see all of the grid {grid}"
    elif return_lse:
        sdpa = "scaled_dot_product_attention does not return lse"
    elif bias is not None:
        sdpa = "a bias of low rank would be made dense"
    if bias is not None or key_bias is not None or extra_kv is not None or return_lse:
        natten = "it is used without bias, valid, extra_kv and lse here"
    elif q.shape[-1] != v.shape[-1]:
        natten = f"D = {q.shape[-1]} and Dv = {v.shape[-1]} differ"
    elif any(w.size < 2 for w in windows):
        natten = "a window of 1; it takes 2 or more"
    natten = natten or lacks("natten")
    # A tiles' worth of tokens is what matters to the kernel; which tiles is settled when it runs.
    triton = triton_refuses(q, k, v, 64, 64, bias)
    return [
        Candidate("sdpa", sdpa),
        Candidate("triton", triton),
        Candidate("torch"),
        Candidate("natten", natten, avoid="it is run when named"),
        Candidate("reference", avoid="it builds the N x N weights"),
    ]


def _dense_sdpa(
    q: Tensor, k: Tensor, v: Tensor, key_bias: Tensor | None, extra_kv: tuple[Tensor, Tensor] | None, scale: float
) -> Tensor:
    grid, groups = q.shape[1:-2], q.shape[-2] // k.shape[-2]
    q, k, v = (x.flatten(1, -3) for x in (q, k, v))
    mask = None
    if key_bias is not None:
        mask = key_bias.to(q.dtype)
    if extra_kv is not None:
        X = extra_kv[0].shape[1]
        k, v = torch.cat([k, extra_kv[0]], 1), torch.cat([v, extra_kv[1]], 1)
        mask = mask if mask is None else F.pad(mask, (0, 0, 0, X))
    mask = mask if mask is None else mask.transpose(1, 2)[:, :, None]
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale, enable_gqa=groups > 1)
    if mask is not None:
        # Some versions of PyTorch give NaN where nothing is seen.
        out = out.masked_fill((mask == -torch.inf).all(-1, keepdim=True), 0.0)
    on_grid: Tensor = out.transpose(1, 2).unflatten(1, grid)
    return on_grid


def attend_extra(q: Tensor, extra_kv: tuple[Tensor, Tensor], scale: float) -> tuple[Tensor, Tensor]:
    """Output and lse of dense attention of (B, N, H, D) queries to a few keys outside the grid: N x X is small."""
    k, v = extra_kv
    if k.shape[1] == 0:
        return dense_attention(q, k, v, scale=scale)
    dtype = torch.float64 if q.dtype == torch.float64 else torch.float32
    B, N, H, _ = q.shape
    q, k, v = (x.to(dtype).transpose(1, 2) for x in (q, k, v))
    # The query heads of a key head side by side, so that keys are not repeated.
    scores = (q.unflatten(1, (k.shape[1], -1)).flatten(2, 3) * scale) @ k.mT
    lse = scores.logsumexp(-1, keepdim=True)
    out = (scores - lse).exp() @ v
    # In float32: it is merged before it is rounded.
    return out.view(B, H, N, -1).transpose(1, 2), lse.view(B, H, N).transpose(1, 2)


def _natten(q: Tensor, k: Tensor, v: Tensor, windows: tuple[Window, ...], scale: float) -> Tensor:
    import natten

    run = (natten.na1d, natten.na2d, natten.na3d)[len(windows) - 1]
    groups = q.shape[-2] // k.shape[-2]
    k, v = (x.repeat_interleave(groups, -2) for x in (k, v))
    out: Tensor = run(
        q.contiguous(),
        k.contiguous(),
        v.contiguous(),
        kernel_size=tuple(w.size for w in windows),
        stride=tuple(w.stride for w in windows),
        dilation=tuple(w.dilation for w in windows),
        is_causal=tuple(w.causal for w in windows),
        scale=scale,
    )
    return out


@lru_cache(maxsize=256)
def triton_tile(grid: tuple[int, ...], windows: tuple[Window, ...]) -> tuple[int, ...]:
    """The tile on which these windows visit the fewest pairs; the larger one of two that are equal."""
    choices = _TRITON_TILES[len(grid)]

    def pairs(tile: tuple[int, ...]) -> tuple[float, int]:
        layout = TileLayout(grid, tile)
        return layout.n_tokens**2 / estimate_speedup(grid, windows, tile).tile, -math.prod(tile)

    return min(choices, key=pairs)


@lru_cache(maxsize=256)
def gather_tile(grid: tuple[int, ...], windows: tuple[Window, ...]) -> tuple[int, ...]:
    """The tile of queries that costs the least where a tile's keys are gathered one by one."""
    along: list[list[tuple[int, float, bool]]] = []
    for length, window in zip(grid, windows, strict=True):
        edges = {e for e in (1, 2, 4, 8, 16, 32, 64, 128, window.stride, 2 * window.stride) if e < 2 * length}
        if len(grid) > 1:
            edges = {e for e in edges if e <= 32 or e == window.stride}
        options = []
        for edge in sorted(edges):
            tiles = axis_tiles(length, window, edge, 1)
            visits = (tiles.hi - tiles.lo).flatten()
            full = (tiles.full_hi - tiles.full_lo).flatten()
            options.append((edge, float(visits.sum() * edge), bool((visits == full).all() and length % edge == 0)))
        along.append(options)

    def cost(tile: tuple[tuple[int, float, bool], ...]) -> float:
        edges, pairs, whole = zip(*tile, strict=True)
        masked = 1.0 if all(whole) else 1.0 + _MASK_OVERHEAD
        return float(math.prod(pairs) * (1.0 + _TILE_OVERHEAD / math.prod(edges)) * masked)

    small = [t for t in product(*along) if math.prod(edge for edge, *_ in t) <= 1024]
    return tuple(edge for edge, *_ in min(small or list(product(*along)), key=cost))
