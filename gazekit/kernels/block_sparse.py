"""Softmax attention over the keys that a plan names, and no others: the core that the windowed kernels stand on.

For allowed pairs, with an optional bias of low rank and an optional bias per key::

    s_ij = scale q_i k_j + fq_i fk_j + b_j,   lse_i = log sum_j exp s_ij,   o_i = sum_j exp(s_ij - lse_i) v_j

and backward, given gradients g of o and h of lse, with p_ij = exp(s_ij - lse_i)::

    delta_i = g_i o_i - h_i,   ds_ij = p_ij (g_i v_j - delta_i),   dv_j = sum_i p_ij g_i
    dq_i = scale sum_j ds_ij k_j,  dk_j = scale sum_i ds_ij q_i,  dfq, dfk likewise,  db_j = sum_i ds_ij

Three engines: the dense definition; gathered tiles in plain PyTorch, for any device and dtype; Triton kernels.
The last two keep q, k, v, o and lse for the backward pass and never an N x M matrix.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from gazekit.errors import InputError
from gazekit.kernels.bias import BiasFactors
from gazekit.kernels.dense import dense_attention
from gazekit.kernels.engine import Candidate, choose, triton_cannot
from gazekit.kernels.inputs import check_broadcast, check_qkv
from gazekit.kernels.plan import BlockPlan, BoxPlan, Gather

# Scores computed at once on the way through the tiles (1.5 MB in float32): they stay in the cache between the
# matrix products, yet are enough of them for the products to run at full speed.
_SCORES_AT_ONCE = 3 * 2**17


def block_sparse_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    plan: BlockPlan,
    *,
    bias: BiasFactors | None = None,
    key_bias: Tensor | None = None,
    scale: float | None = None,
    return_lse: bool = False,
    backend: str = "auto",
) -> Any:
    """Attention over the keys that `plan` names; gradients reach every tensor, through the output and through lse.

    Args:
        q: (B, N, H, D), rows in the plan's order.
        k: (B, M, Hk, D); query head h reads key head ``h // (H / Hk)``.
        v: (B, M, Hk, Dv).
        plan: From :func:`plan_windows`, :func:`plan_ranges`, :func:`plan_band`, :func:`plan_blocks` or
            :func:`plan_runs`.
        bias: Factors of a bias on the scores, (B | 1, N, H | 1, R) and (B | 1, M, H | 1, R).
        key_bias: (B | 1, M, H | 1), added to the scores of a key whatever the query: a log-multiplicity, a
            log-prior, ``-inf`` to leave a key out.
        scale: Default ``D ** -0.5``.
        return_lse: Also return lse.
        backend: ``"auto"``, ``"reference"``, ``"torch"`` or ``"triton"``.

    Returns:
        (B, N, H, Dv) output in q's dtype; with `return_lse` also (B, N, H) natural-log sum of exponentials in
        float32 (float64 for float64 input). A query that sees no key has output 0 and ``-inf``.

    Raises:
        InputError: Shapes, dtypes or devices do not fit each other or the plan; the backend cannot run.

    """
    name = "block_sparse_attention"
    check_qkv(name, q, k, v)
    check_operands(name, q, k, plan, bias, key_bias)
    engine = choose(
        name,
        backend,
        [
            Candidate("triton", _triton_cannot(q, k, v, plan, bias)),
            Candidate("torch"),
            Candidate("reference", avoid="it builds the N x M weights"),
        ],
    )
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    factors = (None, None) if bias is None else (bias.query, bias.key)
    if engine == "reference":
        dense = None if bias is None else bias.dense()
        allowed = plan.dense_mask().to(q.device)
        out, lse = dense_attention(q, k, v, allowed=allowed, bias=dense, key_bias=key_bias, scale=scale)
    elif engine == "torch":
        out, lse = _Gathered.apply(q, k, v, key_bias, *factors, plan, scale)
    else:
        from gazekit.kernels.block_sparse_triton import attend

        out, lse = attend(q, k, v, key_bias, factors[0], factors[1], plan, scale)
    return (out, lse) if return_lse else out


def check_operands(
    kernel: str, q: Tensor, k: Tensor, plan: BlockPlan, bias: BiasFactors | None, key_bias: Tensor | None
) -> None:
    """Whether the rows are those of the plan, and the biases fit them."""
    B, N, H, _ = q.shape
    M = k.shape[1]
    if plan.n_queries != N or plan.n_keys != M:
        raise InputError(
            f"{kernel}: the plan is for {plan.n_queries} queries and {plan.n_keys} keys, found {N} and {M}; a plan of "
            "windows wants its rows in tile order (plan.layout_q.to_tiles)"
        )
    if plan.batch not in (1, B) or plan.heads not in (1, H):
        raise InputError(f"{kernel}: the plan is for batch {plan.batch} and {plan.heads} heads, found {B} and {H}")
    if bias is not None:
        check_broadcast(kernel, "bias.query", bias.query, (B, N, H, bias.rank), "(B, N, H, R)")
        check_broadcast(kernel, "bias.key", bias.key, (B, M, H, bias.rank), "(B, M, H, R)")
    if key_bias is not None:
        check_broadcast(kernel, "key_bias", key_bias, (B, M, H), "(B, M, H)")


def triton_refuses(q: Tensor, k: Tensor, v: Tensor, tile_q: int, tile_k: int, bias: BiasFactors | None) -> str | None:
    """Why the Triton kernels cannot take these tensors and tiles, or None."""
    if reason := triton_cannot(q, k, v):
        return reason
    for name, tile in (("tile_q", tile_q), ("tile_k", tile_k)):
        if tile < 16 or tile & (tile - 1):
            return f"{name} of {tile} tokens; it takes powers of two from 16 on"
    for name, tensor in (("D", q), ("Dv", v)):
        if tensor.shape[-1] > 256:
            return f"{name} = {tensor.shape[-1]}; it takes heads up to 256 wide"
    if bias is not None and bias.rank > 64:
        return f"a bias of rank {bias.rank}; it takes up to 64"
    return None


def _triton_cannot(q: Tensor, k: Tensor, v: Tensor, plan: BlockPlan, bias: BiasFactors | None) -> str | None:
    if isinstance(plan, BoxPlan):
        if len(plan.axes) > 3:
            return f"a grid of {len(plan.axes)} axes; it takes up to 3"
        if not plan.tiled and (len(plan.axes) > 1 or plan.dilation[0] > 1):
            return "rows in grid order; it takes rows in tile order"
    return triton_refuses(q, k, v, plan.tile_q, plan.tile_k, bias)


# Gathered tiles


class _Gathered(torch.autograd.Function):
    """A few query tiles at a time: gather their rows, matrix products and a softmax in scratch memory.

    Written out, because scaled_dot_product_attention gives no gradient to lse, would keep the gathered keys for the
    backward pass, and on a CPU is slower where few queries see few keys: it cuts 64 queries into blocks of 32.
    """

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, key_bias: Tensor | None, query_factor: Tensor | None,
        key_factor: Tensor | None, plan: BlockPlan, scale: float,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        rows = _Rows(q, k, v, key_bias, query_factor, key_factor, plan, scale)
        out, lse = rows.table(len(rows.q), v.shape[-1], 0.0), rows.table(len(rows.q), 1, -torch.inf)
        for piece in rows.pieces():
            scores = piece.scores(piece.queries("q", rows.q), piece.keys("k", rows.k))
            weights = piece.weights(scores)
            values = piece.keys("v", rows.v)
            piece.put(out, torch.bmm(weights, values, out=rows.scratch("put", (*weights.shape[:2], values.shape[2]))))
            # A query's largest weight is exp(top - lse).
            top = _top(scores)
            piece.put(lse, (top - _top(weights).log()).masked_fill_(top == -torch.inf, -torch.inf))
        ctx.save_for_backward(q, k, v, key_bias, query_factor, key_factor, out)
        ctx.plan, ctx.scale = plan, scale
        ctx.set_materialize_grads(False)
        B, N, H, _ = q.shape
        return out.view(B, N, H, -1).to(q.dtype), lse.view(B, N, H)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor | None, grad_lse: Tensor | None) -> Any:  # type: ignore[override]
        *tensors, out = ctx.saved_tensors
        q, k, v, key_bias, query_factor, key_factor = tensors
        rows = _Rows(q, k, v, key_bias, query_factor, key_factor, ctx.plan, ctx.scale)
        g = torch.zeros_like(out) if grad_out is None else grad_out.to(out.dtype).reshape(out.shape)
        delta = (g * out).sum(-1, keepdim=True)
        if grad_lse is not None:
            delta -= grad_lse.to(out.dtype).reshape(-1, 1)
        dq, dk, dv = rows.table(len(rows.q), rows.q.shape[1], 0.0), torch.zeros_like(rows.k), torch.zeros_like(rows.v)
        db = None if rows.key_bias is None else rows.q.new_zeros(len(rows.k) * rows.G)
        for piece in rows.pieces():
            queries, upstream = piece.queries("q", rows.q), piece.queries("g", g)
            keys, values = piece.keys("k", rows.k), piece.keys("v", rows.v)
            weights = piece.weights(piece.scores(queries, keys))
            piece.add(dv, torch.bmm(weights.mT, upstream, out=rows.scratch("add", values.shape)))
            # In the memory of the scores, which are no longer needed.
            grad_scores = torch.bmm(upstream, values.mT, out=rows.scratch("scores", weights.shape))
            grad_scores.sub_(piece.queries("delta", delta)).mul_(weights)
            piece.put(dq, rows.scaled("put", grad_scores, keys))
            piece.add(dk, rows.scaled("add", grad_scores.mT, queries))
            if db is not None:
                piece.add_per_head(db, grad_scores)
        return (*rows.input_gradients(tensors, dq, dk, dv, db), None, None)


class _Rows:
    """The operands as tables of rows, which are gathered fastest so, and the pieces to compute one by one.

    Attributes:
        E: Key heads.
        G: Query heads of each.
        scale: Of the products of q and k.
        q: (B N H, D) queries; with factors (B N H, D + R), scale folded in.
        k: (B M E, D), or with factors (B M E, D + R).
        v: (B M E, Dv).
        key_bias: (B | 1, M, E | 1, G | 1) or None.

    """

    def __init__(
        self, q: Tensor, k: Tensor, v: Tensor, key_bias: Tensor | None, query_factor: Tensor | None,
        key_factor: Tensor | None, plan: BlockPlan, scale: float,
    ) -> None:  # fmt: skip
        self.plan, self.scale, self.factor_scale = plan, scale, 1.0
        self.dtype = torch.float64 if q.dtype == torch.float64 else torch.float32
        self.B, self.N, self.H, _ = q.shape
        self.M = k.shape[1]
        # A factor or a plan per query head leaves nothing to share between the query heads of a key head.
        shared = plan.heads == 1 and (key_factor is None or key_factor.shape[2] == 1)
        self.E = k.shape[2] if shared else self.H
        self.G = self.H // self.E
        q = q.to(self.dtype)
        k, v = k.to(self.dtype), v.to(self.dtype)
        if k.shape[2] != self.E:
            k, v = (x.repeat_interleave(self.E // x.shape[2], 2) for x in (k, v))
        if query_factor is not None and key_factor is not None:
            q = torch.cat([q * scale, query_factor.to(self.dtype).expand(self.B, -1, self.H, -1)], -1)
            k = torch.cat([k, key_factor.to(self.dtype).expand(self.B, -1, self.E, -1)], -1)
            self.scale, self.factor_scale = 1.0, scale
        self.key_bias: Tensor | None = None
        if key_bias is not None:
            b = key_bias.to(self.dtype)
            self.key_bias = b[..., None] if b.shape[2] == 1 else b.unflatten(2, (self.E, self.G))
            # What no query of a head sees must not matter, NaN included: 0 * NaN is NaN.
            dead = (self.key_bias == -torch.inf).all(3)[..., None]
            k, v = k.masked_fill(dead, 0.0), v.masked_fill(dead, 0.0)
        self.q, self.k, self.v = (x.reshape(-1, x.shape[-1]) for x in (q, k, v))
        self._scratch: dict[str, Tensor] = {}

    def table(self, n: int, width: int, fill: float) -> Tensor:
        """(n, width) for results of queries; filled only where some query has none."""
        table = self.q.new_empty(n, width)
        return table if self.plan.covers_queries else table.fill_(fill)

    def scratch(self, name: str, shape: tuple[int, ...] | torch.Size) -> Tensor:
        """Memory that is used again for the next piece: fresh memory costs more than what is computed in it."""
        n = math.prod(shape)
        held = self._scratch.get(name)
        if held is None or held.numel() < n:
            held = self._scratch[name] = self.q.new_empty(n)
        return held[:n].view(shape)

    def scaled(self, name: str, a: Tensor, b: Tensor) -> Tensor:
        """Scale times the matrix products, in scratch memory."""
        out = self.scratch(name, (*a.shape[:2], b.shape[2]))
        # With beta = 0 what stands in the memory is ignored.
        return torch.baddbmm(out, a, b, beta=0, alpha=self.scale, out=out)

    def pieces(self) -> Iterator[_Piece]:
        plan = self.plan
        for item, head in product(range(plan.batch), range(plan.heads)):
            batch = range(item, item + 1) if plan.batch > 1 else range(self.B)
            heads = range(head, head + 1) if plan.heads > 1 else range(self.E)
            n_matrices = len(batch) * len(heads)
            # Threads share the matrices of a product out among themselves.
            threads = torch.get_num_threads() if self.q.device.type == "cpu" else 1
            even = threads // math.gcd(threads, n_matrices)
            for gather in plan.gathers_on(self.q.device, item, head):
                per_tile = n_matrices * self.G * gather.query_rows.shape[1] * gather.key_rows.shape[1]
                n = max(1, _SCORES_AT_ONCE // per_tile)
                n = max(even, n // even * even)
                for start in range(0, len(gather.query_rows), n):
                    yield _Piece(self, batch, heads, gather, slice(start, start + n))

    def input_gradients(
        self, tensors: Sequence[Tensor | None], dq: Tensor, dk: Tensor, dv: Tensor, db: Tensor | None
    ) -> list[Tensor | None]:
        """Gradients of q, k, v, key_bias and the two factors, in their shapes and dtypes."""
        q, k, _, _, query_factor, key_factor = tensors
        assert q is not None
        assert k is not None
        D = q.shape[-1]
        dq = dq.view(self.B, self.N, self.H, -1)
        dk, dv = (x.view(self.B, self.M, self.E, -1) for x in (dk, dv))

        def of_keys(x: Tensor, heads: int) -> Tensor:
            """(B, M, E, X) -> (B, M, heads, X), summed over the heads that read the same keys."""
            return x if heads == self.E else x.unflatten(2, (heads, -1)).sum(3)

        grads = [
            dq[..., :D] if query_factor is None else dq[..., :D] * self.factor_scale,
            of_keys(dk[..., :D], k.shape[2]),
            of_keys(dv, k.shape[2]),
            None if db is None else db.view(self.B, self.M, self.H),
            None if query_factor is None else dq[..., D:],
            None if key_factor is None else of_keys(dk[..., D:], key_factor.shape[2]),
        ]
        return [
            None if grad is None or tensor is None else grad.sum_to_size(tensor.shape).to(tensor.dtype)
            for grad, tensor in zip(grads, tensors, strict=True)
        ]


class _Piece:
    """A few query tiles that see equally many keys: b batch items, e key heads, c tiles of T queries and U keys."""

    def __init__(self, rows: _Rows, batch: range, heads: range, gather: Gather, tiles: slice) -> None:
        self.rows = rows
        queries, keys = gather.query_rows[tiles], gather.key_rows[tiles]
        self.c, self.T, self.U = *queries.shape, keys.shape[1]
        self.b, self.e = len(batch), len(heads)
        self.mask = gather.mask(tiles)
        self.some_empty = gather.masked or rows.key_bias is not None
        device = queries.device
        b = torch.arange(batch.start, batch.stop, device=device)
        e = torch.arange(heads.start, heads.stop, device=device)
        g = torch.arange(rows.G, device=device)
        self.real: Tensor | None = None
        if gather.masked and bool((queries < 0).any()):
            # Rows past the grid: computed on row 0, all masked, never written.
            real = (queries >= 0)[:, None].expand(self.b, self.e, -1, rows.G, -1)
            self.real = real.flatten().nonzero()[:, 0]
            queries = queries.clamp(min=0)
        # (b, e, c, G, T) and (b, e, c, U), places in the tables.
        head = e[:, None, None, None] * rows.G + g[:, None]
        at = (b[:, None, None, None, None] * rows.N + queries[:, None]) * rows.H + head
        self.query_at = at.flatten()
        self.put_at = self.query_at if self.real is None else self.query_at[self.real]
        self.key_rows, self.batch, self.heads = keys, batch, heads
        at = (b[:, None, None, None] * rows.M + keys) * rows.E + e[:, None, None]
        self.key_at = at.flatten()

    def queries(self, name: str, table: Tensor) -> Tensor:
        """(B N H, X) -> (b e c, G T, X) in scratch memory."""
        out = self.rows.scratch(name, (len(self.query_at), table.shape[1]))
        torch.index_select(table, 0, self.query_at, out=out)
        return out.view(-1, self.rows.G * self.T, table.shape[1])

    def keys(self, name: str, table: Tensor) -> Tensor:
        """(B M E, X) -> (b e c, U, X) in scratch memory."""
        out = self.rows.scratch(name, (len(self.key_at), table.shape[1]))
        torch.index_select(table, 0, self.key_at, out=out)
        return out.view(-1, self.U, table.shape[1])

    def scores(self, queries: Tensor, keys: Tensor) -> Tensor:
        """(b e c, G T, U) in scratch memory; -inf where a query does not see a key."""
        rows = self.rows
        scores = rows.scaled("scores", queries, keys.mT)
        each = scores.view(self.b, self.e, self.c, rows.G, self.T, self.U)
        if rows.key_bias is not None:
            bias = rows.key_bias
            bias = bias[self.batch.start : self.batch.stop] if bias.shape[0] > 1 else bias
            bias = bias[:, :, self.heads.start : self.heads.stop] if bias.shape[2] > 1 else bias
            each += bias[:, self.key_rows].permute(0, 3, 1, 4, 2)[..., None, :]
        if self.mask is not None:
            each.masked_fill_(~self.mask[:, None], -torch.inf)
        return scores

    def weights(self, scores: Tensor) -> Tensor:
        """(b e c, G T, U) in scratch memory; 0 for a query that sees no key, of which softmax is NaN."""
        weights = torch.softmax(scores, -1, out=self.rows.scratch("weights", scores.shape))
        return weights.masked_fill_(_top(scores) == -torch.inf, 0.0) if self.some_empty else weights

    def put(self, table: Tensor, x: Tensor) -> None:
        """Write (b e c, G T, X) to the queries' rows of (B N H, X)."""
        x = x.reshape(-1, table.shape[1])
        table.index_copy_(0, self.put_at, x if self.real is None else x[self.real])

    def add(self, table: Tensor, x: Tensor) -> None:
        """Add (b e c, U, X) to the keys' rows of (B M E, X)."""
        table.index_add_(0, self.key_at, x.view(-1, table.shape[1]))

    def add_per_head(self, table: Tensor, x: Tensor) -> None:
        """Add (b e c, G T, U), summed over the queries, to the keys of (B M H,)."""
        G = self.rows.G
        x = x.view(-1, self.c, G, self.T, self.U).sum(3).transpose(1, 2)
        at = self.key_at.view(-1, 1, self.c, self.U) * G + torch.arange(G, device=x.device)[:, None, None]
        table.index_add_(0, at.flatten(), x.reshape(-1))


def _top(scores: Tensor) -> Tensor:
    return scores.amax(-1, keepdim=True)
