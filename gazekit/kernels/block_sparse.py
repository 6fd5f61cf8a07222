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

# Scores computed at once on the way through the tiles (1 MB in float32): they stay in the cache between the
# matrix products, yet are enough of them for the products to run at full speed.
_SCORES_AT_ONCE = 2**18


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
    """A few query tiles at a time: gather their keys, matrix products and a softmax in scratch memory.

    Written out, because scaled_dot_product_attention gives no gradient to lse and would keep the gathered keys for
    the backward pass. Where a piece needs neither mask nor bias, PyTorch's fused operators for a CPU compute it.
    """

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, key_bias: Tensor | None, query_factor: Tensor | None,
        key_factor: Tensor | None, plan: BlockPlan, scale: float,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        heads = _HeadsFirst(q, k, v, key_bias, query_factor, key_factor, plan, scale)
        out = heads.q.new_zeros((*heads.q.shape[:-1], v.shape[-1]))
        lse = heads.q.new_full((*heads.q.shape[:-1], 1), -torch.inf)
        for piece in heads.pieces():
            if piece.plain:
                fused, fused_lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
                    piece.gather_queries("q", heads.q)[:, None],
                    piece.gather_keys("k")[:, None],
                    piece.gather_keys("v")[:, None],
                    scale=1.0,
                )
                piece.put(out, fused[:, 0])
                piece.put(lse, fused_lse[:, 0, :, None])
                continue
            scores = piece.scores()
            top = scores.amax(-1, keepdim=True)
            if piece.some_empty:
                top.masked_fill_(top == -torch.inf, 0.0)
            weights = scores.sub_(top).exp_()
            total = weights.sum(-1, keepdim=True)
            values = torch.bmm(weights, piece.gather_keys("v"))
            # A row without keys sums to exactly 0, and its output stays 0.
            values /= total.clamp(min=torch.finfo(total.dtype).tiny) if piece.some_empty else total
            piece.put(out, values)
            piece.put(lse, total.log_().add_(top))
        ctx.save_for_backward(q, k, v, key_bias, query_factor, key_factor, out, lse)
        ctx.plan, ctx.scale = plan, scale
        ctx.set_materialize_grads(False)
        return heads.heads_last(out).to(q.dtype), heads.heads_last(lse)[..., 0]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor | None, grad_lse: Tensor | None) -> Any:  # type: ignore[override]
        q, k, v, key_bias, query_factor, key_factor, out, lse = ctx.saved_tensors
        tensors = q, k, v, key_bias, query_factor, key_factor
        heads = _HeadsFirst(*tensors, ctx.plan, ctx.scale)
        g = torch.zeros_like(out) if grad_out is None else heads.heads_first(grad_out)
        delta = (g * out).sum(-1, keepdim=True)
        if grad_lse is not None:
            delta -= heads.heads_first(grad_lse[..., None])
        # exp(-inf - (-inf)) is NaN; a row without keys has no score above -inf either.
        lse = lse.masked_fill(lse == -torch.inf, 0.0)
        dq, dk, dv = torch.zeros_like(heads.q), torch.zeros_like(heads.k), torch.zeros_like(heads.v)
        db = None if heads.key_bias is None else heads.q.new_zeros((*heads.q.shape[:3], heads.k.shape[2]))
        for piece in heads.pieces():
            queries, upstream = piece.gather_queries("q", heads.q), piece.gather_queries("g", g)
            keys, values = piece.gather_keys("k"), piece.gather_keys("v")
            if piece.plain and grad_lse is None:
                saved, saved_lse = piece.gather_queries("out", out), piece.gather_queries("lse", lse)
                of_piece = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
                    *(x[:, None] for x in (upstream, queries, keys, values, saved)),
                    saved_lse[:, None, :, 0],
                    0.0,
                    False,
                    scale=1.0,
                )
                piece.put(dq, of_piece[0][:, 0])
                piece.add(dk, of_piece[1][:, 0])
                piece.add(dv, of_piece[2][:, 0])
                continue
            weights = piece.scores(queries, keys).sub_(piece.gather_queries("lse", lse)).exp_()
            grad_scores = torch.bmm(upstream, values.mT, out=heads.scratch("grad_scores", weights.shape))
            grad_scores.sub_(piece.gather_queries("delta", delta)).mul_(weights)
            piece.add(dv, torch.bmm(weights.mT, upstream, out=heads.scratch("dv", values.shape)))
            piece.put(dq, torch.bmm(grad_scores, keys))
            piece.add(dk, torch.bmm(grad_scores.mT, queries, out=heads.scratch("dk", keys.shape)))
            if db is not None:
                piece.add_per_head(db, grad_scores)
        return (*heads.input_gradients(tensors, dq, dk, dv, db), None, None)


class _HeadsFirst:
    """The operands as matrices per key head, scale and factors folded in, and the pieces to compute one by one.

    Attributes:
        q: (B, E, G, N, D + R) scaled queries and their factors; E key heads, G query heads of each.
        k: (B, E, M, D + R).
        v: (B, E, M, Dv).
        key_bias: (B | 1, E | 1, G | 1, M) or None.

    """

    def __init__(
        self, q: Tensor, k: Tensor, v: Tensor, key_bias: Tensor | None, query_factor: Tensor | None,
        key_factor: Tensor | None, plan: BlockPlan, scale: float,
    ) -> None:  # fmt: skip
        self.plan, self.scale = plan, scale
        self.dtype = torch.float64 if q.dtype == torch.float64 else torch.float32
        B, _, H, _ = q.shape
        # A factor or a plan per query head leaves nothing to share between the query heads of a key head.
        shared = plan.heads == 1 and (key_factor is None or key_factor.shape[2] == 1)
        self.E = k.shape[2] if shared else H
        self.G = H // self.E
        repeat = self.E // k.shape[2]
        self.q = self.heads_first(q) * scale
        self.k, self.v = (x.to(self.dtype).transpose(1, 2).repeat_interleave(repeat, 1) for x in (k, v))
        if query_factor is not None and key_factor is not None:
            self.q = torch.cat([self.q, self.heads_first(query_factor.expand(B, -1, H, -1))], -1)
            factor = key_factor.to(self.dtype).transpose(1, 2).expand(B, self.E, -1, -1)
            self.k = torch.cat([self.k, factor], -1)
        self.k, self.v = self.k.contiguous(), self.v.contiguous()
        self.key_bias: Tensor | None = None
        if key_bias is not None:
            b = key_bias.to(self.dtype).transpose(1, 2)
            self.key_bias = b[:, :, None] if b.shape[1] == 1 else b.unflatten(1, (self.E, self.G))
            # What no query of a head sees must not matter, NaN included: 0 * NaN is NaN.
            dead = (self.key_bias == -torch.inf).all(2)[..., None]
            self.k, self.v = self.k.masked_fill(dead, 0.0), self.v.masked_fill(dead, 0.0)
        self._scratch: dict[str, Tensor] = {}

    def heads_first(self, x: Tensor) -> Tensor:
        """(B, N, H, X) -> contiguous (B, E, G, N, X)."""
        grouped: Tensor = x.to(self.dtype).unflatten(2, (self.E, self.G))
        return grouped.permute(0, 2, 3, 1, 4).contiguous()

    def heads_last(self, x: Tensor) -> Tensor:
        """(B, E, G, N, X) -> (B, N, H, X)."""
        return x.permute(0, 3, 1, 2, 4).flatten(2, 3).contiguous()

    def scratch(self, name: str, shape: tuple[int, ...] | torch.Size) -> Tensor:
        """Memory that is used again for the next piece: fresh memory costs more than what is computed in it."""
        n = math.prod(shape)
        held = self._scratch.get(name)
        if held is None or held.numel() < n:
            held = self._scratch[name] = self.q.new_empty(n)
        return held[:n].view(shape)

    def pieces(self) -> Iterator[_Piece]:
        plan = self.plan
        for item, head in product(range(plan.batch), range(plan.heads)):
            batch = slice(item, item + 1) if plan.batch > 1 else slice(None)
            heads = slice(head, head + 1) if plan.heads > 1 else slice(None)
            n_matrices = self.q[batch, heads, 0, 0, 0].numel()
            for gather in plan.gathers_on(self.q.device, item, head):
                per_tile = n_matrices * self.G * gather.query_rows.shape[1] * gather.key_rows.shape[1]
                n = max(1, _SCORES_AT_ONCE // per_tile)
                for start in range(0, len(gather.query_rows), n):
                    yield _Piece(self, batch, heads, gather, slice(start, start + n))

    def input_gradients(
        self, tensors: Sequence[Tensor | None], dq: Tensor, dk: Tensor, dv: Tensor, db: Tensor | None
    ) -> list[Tensor | None]:
        """Gradients of q, k, v, key_bias and the two factors, in their shapes and dtypes."""
        q, k, _, _, query_factor, key_factor = tensors
        assert q is not None
        assert k is not None
        D, Hk = q.shape[-1], k.shape[2]

        def of_keys(x: Tensor, heads: int) -> Tensor:
            """(B, E, M, X) -> (B, M, heads, X), summed over the heads that read the same keys."""
            shared: Tensor = x.unflatten(1, (heads, -1))
            return shared.sum(2).transpose(1, 2)

        grads = [
            self.heads_last(dq[..., :D] * self.scale),
            of_keys(dk[..., :D], Hk),
            of_keys(dv, Hk),
            None if db is None else db.flatten(1, 2).transpose(1, 2),
            None if query_factor is None else self.heads_last(dq[..., D:]),
            None if key_factor is None else of_keys(dk[..., D:], key_factor.shape[2]),
        ]
        return [
            None if grad is None or tensor is None else grad.sum_to_size(tensor.shape).to(tensor.dtype)
            for grad, tensor in zip(grads, tensors, strict=True)
        ]


class _Piece:
    """A few query tiles that see equally many keys: b batch items, e key heads, c tiles of T queries and U keys."""

    def __init__(self, heads: _HeadsFirst, batch: slice, head: slice, gather: Gather, tiles: slice) -> None:
        self.heads, self.at = heads, (batch, head)
        rows, keys = gather.query_rows[tiles], gather.key_rows[tiles]
        self.c, self.T, self.U = *rows.shape, keys.shape[1]
        self.b, self.e = heads.q[self.at].shape[:2]
        self.rows, self.keys = rows.flatten(), keys.flatten()
        self.mask = gather.mask(tiles)
        # Rows past the grid: computed on row 0, all masked, never written.
        self.real = (self.rows >= 0).nonzero()[:, 0] if gather.masked and bool((self.rows < 0).any()) else None
        self.from_rows = self.rows if self.real is None else self.rows.clamp(min=0)
        self.some_empty = gather.masked or heads.key_bias is not None
        # The fused operators want values as wide as keys; a float64 one is not worth its own path.
        fused = heads.q.device.type == "cpu" and heads.dtype == torch.float32
        self.plain = fused and not self.some_empty and heads.k.shape[-1] == heads.v.shape[-1]

    def gather_queries(self, name: str, x: Tensor) -> Tensor:
        """(B, E, G, N, X) -> (b e c, G T, X)."""
        b, e, G, X = self.b, self.e, self.heads.G, x.shape[-1]
        out = self.heads.scratch(name, (b, e, G, self.c * self.T, X))
        torch.index_select(x[self.at], 3, self.from_rows, out=out)
        return out.view(b, e, G, self.c, self.T, X).transpose(2, 3).reshape(-1, G * self.T, X)

    def gather_keys(self, name: str) -> Tensor:
        """Keys or values, (B, E, M, X) -> (b e c, U, X)."""
        x: Tensor = getattr(self.heads, name)
        out = self.heads.scratch(name, (self.b, self.e, self.c * self.U, x.shape[-1]))
        torch.index_select(x[self.at], 2, self.keys, out=out)
        return out.view(-1, self.U, x.shape[-1])

    def scores(self, queries: Tensor | None = None, keys: Tensor | None = None) -> Tensor:
        """(b e c, G T, U) in scratch memory; -inf where a query does not see a key."""
        queries = self.gather_queries("q", self.heads.q) if queries is None else queries
        keys = self.gather_keys("k") if keys is None else keys
        G = self.heads.G
        scores = self.heads.scratch("scores", (len(keys), G * self.T, self.U))
        torch.bmm(queries, keys.mT, out=scores)
        each = scores.view(self.b, self.e, self.c, G, self.T, self.U)
        if self.heads.key_bias is not None:
            bias = self.heads.key_bias
            here = [part if size > 1 else slice(None) for part, size in zip(self.at, bias.shape[:2], strict=True)]
            picked = bias[here[0], here[1]].index_select(3, self.keys).unflatten(3, (self.c, self.U))
            each += picked.transpose(2, 3)[..., None, :]
        if self.mask is not None:
            each.masked_fill_(~self.mask[:, None], -torch.inf)
        return scores

    def put(self, into: Tensor, x: Tensor) -> None:
        """Write (b e c, G T, X) to the queries' rows of (B, E, G, N, X)."""
        G, X = self.heads.G, x.shape[-1]
        x = x.reshape(self.b, self.e, self.c, G, self.T, X).transpose(2, 3).reshape(self.b, self.e, G, -1, X)
        if self.real is not None:
            x = x.index_select(3, self.real)
        into[self.at].index_copy_(3, self.rows if self.real is None else self.rows[self.real], x)

    def add(self, into: Tensor, x: Tensor) -> None:
        """Add (b e c, U, X) to the keys' rows of (B, E, M, X)."""
        into[self.at].index_add_(2, self.keys, x.reshape(self.b, self.e, self.c * self.U, -1))

    def add_per_head(self, into: Tensor, x: Tensor) -> None:
        """Add (b e c, G T, U), summed over the queries, to the keys of (B, E, G, M)."""
        x = x.view(self.b, self.e, self.c, self.heads.G, self.T, self.U).sum(4).transpose(2, 3)
        into[self.at].index_add_(3, self.keys, x.reshape(self.b, self.e, self.heads.G, -1))
