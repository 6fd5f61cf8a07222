"""Two attentions over disjoint keys as one attention over all of them, by their log-sums of exponentials."""

from __future__ import annotations

import torch
from torch import Tensor

from gazekit.errors import InputError


def merge_attention(out_a: Tensor, lse_a: Tensor, out_b: Tensor, lse_b: Tensor) -> tuple[Tensor, Tensor]:
    """The attention over the union of two disjoint sets of keys, exactly, and so are its gradients.

    ``lse = log(exp lse_a + exp lse_b)``, ``out = exp(lse_a - lse) out_a + exp(lse_b - lse) out_b``.
    A key in both sets would count twice.

    Args:
        out_a: (..., H, Dv) output over the first set.
        lse_a: (..., H) its natural-log sum of exponentials; ``-inf`` where a query saw no key.
        out_b: As `out_a`, over the second set.
        lse_b: As `lse_a`.

    Returns:
        Output in `out_a`'s dtype and lse, shaped like the parts; 0 and ``-inf`` where both saw nothing.

    Raises:
        InputError: The shapes of the parts differ.

    """
    if out_a.shape != out_b.shape or lse_a.shape != lse_b.shape or out_a.shape[:-1] != lse_a.shape:
        raise InputError(
            "merge_attention: expected two parts of one shape, (..., H, Dv) and (..., H), found "
            f"{tuple(out_a.shape)}, {tuple(lse_a.shape)} and {tuple(out_b.shape)}, {tuple(lse_b.shape)}"
        )
    top = torch.maximum(lse_a, lse_b).detach()
    empty = top == -torch.inf
    # -inf - (-inf) is NaN, in the gradient too: empty rows are computed from a finite stand-in.
    top = torch.where(empty, 0.0, top)
    weight_a, weight_b = (lse_a - top).exp(), (lse_b - top).exp()
    total = torch.where(empty, 1.0, weight_a + weight_b)
    lse = torch.where(empty, -torch.inf, top + total.log())
    out = (weight_a / total)[..., None] * out_a + (weight_b / total)[..., None] * out_b
    return out.to(out_a.dtype), lse
