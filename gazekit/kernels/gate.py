"""Sigmoid gates on the output of attention heads: no attention sink, and a number that says how much a head was used.

    out = y * sigmoid(x W),    y what the heads read, before the output projection; x what q, k and v were made from

One gate per head (W: E x H) or per channel (E x H Dv). Softmax has to put its weight somewhere, and without a gate it
goes to some token that means nothing; with one, attention maps can be read as maps. (Qiu et al. 2025, "Gated Attention
for Large Language Models", arXiv:2505.06708, position G1.)
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from gazekit.errors import InputError
from gazekit.registry import unknown_name

#: One gate for each head, or for each channel of each head.
Gate = Literal["head", "element"]


def gate_heads(y: Tensor, logits: Tensor) -> Tensor:
    """``y * sigmoid(logits)``; the gate is computed again in the backward pass instead of being kept.

    Args:
        y: (B, *grid, H, Dv) output of the heads.
        logits: (B, *grid, H) one gate per head, or (B, *grid, H, Dv). Pass them as an argument wherever they come from:
            left on a module, they are wrong under recomputation.

    Returns:
        Shaped and typed as y.

    """
    if logits.shape not in (y.shape, y.shape[:-1]):
        raise InputError(
            f"gate_heads: logits must be (B, *grid, H) = {tuple(y.shape[:-1])} or (B, *grid, H, Dv) = "
            f"{tuple(y.shape)}, found {tuple(logits.shape)}"
        )
    if logits.ndim < y.ndim:
        logits = logits[..., None]
    if torch.compiler.is_compiling():
        # The compiler fuses this and decides itself what to compute again.
        return y * logits.sigmoid().to(y.dtype)
    out: Tensor = _Gate.apply(y, logits)
    return out


class _Gate(torch.autograd.Function):
    """Keeps y and the logits alone; twice differentiable, as its backward is made of ordinary operations."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, y: Tensor, logits: Tensor) -> Tensor:
        ctx.save_for_backward(y, logits)
        return y * logits.sigmoid().to(y.dtype)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:  # type: ignore[override]
        y, logits = ctx.saved_tensors  # type: ignore[attr-defined]
        gate = logits.sigmoid()
        d_y = grad * gate.to(y.dtype) if ctx.needs_input_grad[0] else None  # type: ignore[attr-defined]
        if not ctx.needs_input_grad[1]:  # type: ignore[attr-defined]
            return d_y, None
        moved = (grad * y).to(logits.dtype)
        if logits.shape[-1] < y.shape[-1]:
            moved = moved.sum(-1, keepdim=True)
        return d_y, moved * (gate * (1 - gate))


class HeadGate(nn.Module):
    """Gate logits from the tokens that attend, and the gated output.

    Args:
        dim: E, width of the tokens.
        n_heads: H.
        kind: "head" or "element".
        head_width: Dv; needed for "element".
        start_open: Begin as an open gate, ``2 sigmoid(0) = 1`` with weights of 0, for attention that is trained
            already. Such gates learn slowly: give them a higher learning rate. Otherwise weights are normal with SD
            0.02 and the gate is ``sigmoid``, which starts half open: for training from scratch.

    """

    def __init__(
        self, dim: int, n_heads: int, kind: Gate = "head", *, head_width: int | None = None, start_open: bool = False
    ) -> None:
        super().__init__()
        if kind not in get_args(Gate):
            raise unknown_name("gate", kind, list(get_args(Gate)))
        if kind == "element" and not head_width:
            raise InputError("HeadGate: an element-wise gate needs head_width, the width of a head's values")
        self.n_heads, self.kind, self.start_open = n_heads, kind, start_open
        self.head_width = head_width if kind == "element" else None
        self.project = nn.Linear(dim, n_heads * (self.head_width or 1), bias=False)
        nn.init.zeros_(self.project.weight) if start_open else nn.init.normal_(self.project.weight, std=0.02)

    def logits(self, x: Tensor) -> Tensor:
        """(B, *grid, E) tokens -> (B, *grid, H) or (B, *grid, H, Dv)."""
        logits: Tensor = self.project(x)
        return logits if self.head_width is None else logits.unflatten(-1, (self.n_heads, self.head_width))

    def openness(self, x: Tensor) -> Tensor:
        """What :meth:`forward` multiplies the heads with, from 0 to 1 (to 2 with `start_open`): log it per fixation."""
        return self.logits(x).sigmoid() * (2 if self.start_open else 1)

    def forward(self, y: Tensor, x: Tensor) -> Tensor:
        """(B, *grid, H, Dv) output of the heads, (B, *grid, E) tokens -> gated output."""
        gated = gate_heads(y, self.logits(x))
        return 2 * gated if self.start_open else gated


def split_fused_gate(
    weight: Tensor, n_heads: int, n_key_heads: int, head_width: int, kind: Gate
) -> tuple[Tensor, Tensor]:
    """Query and gate weights from a query projection that holds both, as the authors' checkpoints do.

    Their rows come in blocks, one per key head: the queries of its group, then the gates of the group.

    Args:
        weight: (H D + H, E) for "head", (2 H D, E) for "element".
        n_heads: H.
        n_key_heads: Hk.
        head_width: D.
        kind: Which gate it is.

    Returns:
        (H D, E) for the query projection, (H, E) or (H D, E) for :attr:`HeadGate.project`.

    """
    group = n_heads // n_key_heads
    gates = group * (head_width if kind == "element" else 1)
    rows = n_key_heads * (group * head_width + gates)
    if n_heads % n_key_heads or weight.ndim != 2 or len(weight) != rows:
        raise InputError(
            f"split_fused_gate: {n_heads} heads in {n_key_heads} groups of width {head_width} with a gate per {kind} "
            f"make {rows} rows, found {tuple(weight.shape)}"
        )
    blocks = weight.unflatten(0, (n_key_heads, -1))
    return blocks[:, : group * head_width].flatten(0, 1), blocks[:, group * head_width :].flatten(0, 1)
