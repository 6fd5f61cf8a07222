"""Self-attention as a module, whichever kernel it attends with; attention of class and grid tokens in tile order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gazekit.errors import InputError
from gazekit.kernels.block_sparse import block_sparse_attention
from gazekit.kernels.gate import Gate, HeadGate
from gazekit.kernels.merge import merge_attention
from gazekit.kernels.neighborhood import attend_extra
from gazekit.kernels.plan import BoxPlan

#: (B, *grid, H, D) queries, keys and values -> (B, *grid, H, D).
Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


class SelfAttention(nn.Module):
    """Projections around a kernel: ``proj(gate(attend(q, k, v)))``; parameters are named as timm names them.

    Args:
        dim: Width of the tokens.
        heads: Number of heads; `dim` is a multiple of it.
        attend: What attends, a kernel with all but q, k and v filled in: ``partial(neighborhood_attention,
            windows=(24, 24))``. None for dense attention.
        gate: ``"head"`` or ``"element"`` for a sigmoid gate on what the heads read, None for none.
        gate_open: The gate starts open, for weights trained without one; see :class:`~gazekit.kernels.HeadGate`.
        qk_norm: Layer norm on queries and keys, per head.
        qkv_bias: Whether the first projection has a bias.
        proj_bias: Whether the last one has.

    """

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        attend: Attend | None = None,
        gate: Gate | None = None,
        gate_open: bool = False,
        qk_norm: bool = False,
        qkv_bias: bool = True,
        proj_bias: bool = True,
    ) -> None:
        super().__init__()
        if heads < 1 or dim % heads:
            raise InputError(f"SelfAttention: dim must be a multiple of the heads, found {dim} and {heads}")
        self.heads, self.attend = heads, attend
        width = dim // heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.q_norm: nn.Module = nn.LayerNorm(width) if qk_norm else nn.Identity()
        self.k_norm: nn.Module = nn.LayerNorm(width) if qk_norm else nn.Identity()
        self.gate = None if gate is None else HeadGate(dim, heads, gate, head_width=width, start_open=gate_open)
        self.proj = nn.Linear(dim, dim, bias=proj_bias)

    def forward(self, x: Tensor, attend: Attend | None = None) -> Tensor:
        """(B, *grid, dim) -> (B, *grid, dim).

        Args:
            x: Tokens.
            attend: Instead of the one given at construction: for attention that depends on the image's size or on where
                the eye is. An argument, so that it is right under recomputation and in parallel.

        """
        # Heads last by a view: no copy.
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).unbind(-3)
        y = (attend or self.attend or dense_sdpa)(self.q_norm(q), self.k_norm(k), v)
        if self.gate is not None:
            y = self.gate(y, x)
        out: Tensor = self.proj(y.flatten(-2))
        return out


def dense_sdpa(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """PyTorch's attention over all tokens of (B, *grid, H, D)."""
    grid = q.shape[1:-2]
    q, k, v = (x.flatten(1, -3).transpose(1, 2) for x in (q, k, v))
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    on_grid: Tensor = out.transpose(1, 2).unflatten(1, grid)
    return on_grid


@dataclass(frozen=True)
class TiledAttention:
    """Attends among some tokens without a place, such as class and registers, followed by a grid in tile order.

    Grid tokens see their window and the first tokens; the first tokens see everything. Padding of the tile order is
    seen by nobody.

    Args:
        plan: Of the grid's windows, in tile order; None where every token sees every token.
        n_first: Tokens before the grid.
        real: (N,) bool, False in the tile order's padding.
        key_bias: (B | 1, N, H | 1) added to the scores of the grid's tokens as keys, or None.
        backend: Of the windowed attention.

    """

    plan: BoxPlan | None
    n_first: int
    real: Tensor
    key_bias: Tensor | None = None
    backend: str = "auto"

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        n = self.n_first
        mask = self._mask(q)
        if self.plan is None:
            return dense_sdpa(q, k, v, mask)
        out, lse = block_sparse_attention(
            q[:, n:],
            k[:, n:],
            v[:, n:],
            self.plan,
            key_bias=self.key_bias,
            return_lse=True,
            backend=self.backend,
        )
        if not n:
            return out  # type: ignore[no-any-return]
        extra = attend_extra(q[:, n:], (k[:, :n], v[:, :n]), q.shape[-1] ** -0.5)
        grid, _ = merge_attention(out, lse, *extra)
        return torch.cat([dense_sdpa(q[:, :n], k, v, mask), grid], 1)

    def _mask(self, q: Tensor) -> Tensor | None:
        """(B | 1, H | 1, 1, tokens) bias of all keys, as scaled_dot_product_attention adds it; None where it is 0."""
        if self.key_bias is None and bool(self.real.all()):
            return None
        zero = q.new_zeros(1, len(self.real), 1)
        bias = zero if self.key_bias is None else self.key_bias.to(q.dtype)
        bias = torch.where(self.real[None, :, None], bias, -torch.inf)
        return F.pad(bias, (0, 0, self.n_first, 0)).transpose(1, 2)[:, :, None]


def attention_of_timm(attention: Any, gate: Gate | None = None) -> SelfAttention:
    """A :class:`SelfAttention` with the weights of timm's ``Attention``; with a gate, one that starts open.

    Raises:
        InputError: It does something else: rotary positions, its own gate, scaled norm, heads of another width.

    """
    dim = attention.qkv.in_features
    odd = [
        name
        for name, there in {
            "a norm of its output": not isinstance(getattr(attention, "norm", nn.Identity()), nn.Identity),
            "a gate": getattr(attention, "gate", None) is not None,
            "heads of another width": attention.qkv.out_features != 3 * dim,
            "dropout of weights": getattr(attention.attn_drop, "p", 0.0) > 0.0,
        }.items()
        if there
    ]
    if odd:
        raise InputError(f"this attention of timm has {odd[0]} and cannot be converted; choose a plain ViT")
    made = SelfAttention(
        dim,
        attention.num_heads,
        gate=gate,
        gate_open=True,
        qkv_bias=attention.qkv.bias is not None,
        proj_bias=attention.proj.bias is not None,
    )
    # The modules themselves: weights, and the kind and precision of the norms.
    made.qkv, made.proj, made.q_norm, made.k_norm = attention.qkv, attention.proj, attention.q_norm, attention.k_norm
    return made
