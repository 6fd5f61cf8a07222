"""What a goal lets through: a mixture of a few learned codes, or plain bottlenecks to compare it with.

    p = softmax(W relu(e) + b)      how much of each of K codes, K = 256
    h = dropout(p)^T C              C is K x 10
    e' = U h + u                    in place of e: no skip connection

(Eftekhar et al. 2024, ICLR, "Selective Visual Representations Improve Convergence and Generalization for Embodied AI",
arXiv:2311.04193.) The codes are learned by gradient, without a commitment loss. Whatever comes out lies in an affine
subspace of 10 dimensions, in evaluation within the convex hull of the K images of the codes. The paper applies the
module to a whole flattened map; where a thing is does not fit through 10 numbers, so scanpath models apply it per cell.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gazekit.errors import InputError
from gazekit.registry import unknown_name

_INDEXINGS = ("softmax", "topk", "gumbel")
_CODES = ("learned", "random", "binary")
# Share of log K at which the entropy of a sample's weights starts. With the default initialisation of linear layers it
# is 0.985 and more: every sample then gets the same mixture, and learning begins with the biases alone.
_START_ENTROPY = 0.8


class CodebookBottleneck(nn.Module):
    """(..., d) -> (..., d) through a mixture of codes.

    Parameters: ``d K + K + K D + D d + d`` (423,074 with d = 1574, K = 256, D = 10), and ``2 d`` of the normalisation.

    Args:
        width: d.
        n_codes: K.
        code_width: D.
        dropout: Share of the weights p that is set to 0 in training; the others grow by ``1 / (1 - dropout)`` and are
            not normalised again, so that their sum is 1 only on average.
        indexing: "softmax"; "topk", only the `topk` largest weights, not normalised again; "gumbel", in training one
            code drawn by Gumbel noise with a straight-through gradient, in evaluation the largest.
        topk: See there.
        temperature: Of "gumbel".
        codes: "learned"; "random", normal numbers that stay as they are; "binary", their signs, which stay, too.
        normalize: Normalise e first and start with weights that tell samples apart. False: as published.

    """

    def __init__(
        self,
        width: int,
        n_codes: int = 256,
        code_width: int = 10,
        dropout: float = 0.1,
        indexing: str = "softmax",
        topk: int = 16,
        temperature: float = 1.0,
        codes: str = "learned",
        normalize: bool = True,
    ) -> None:
        super().__init__()
        if indexing not in _INDEXINGS:
            raise unknown_name("indexing of a codebook", indexing, list(_INDEXINGS))
        if codes not in _CODES:
            raise unknown_name("kind of codes", codes, list(_CODES))
        if min(width, n_codes, code_width) < 1 or not 0 <= dropout < 1 or not temperature > 0:
            raise InputError(
                "a codebook needs width, n_codes, code_width >= 1, 0 <= dropout < 1 and temperature > 0; got "
                f"{width}, {n_codes}, {code_width}, {dropout}, {temperature}"
            )
        if indexing == "topk" and not 1 <= topk <= n_codes:
            raise InputError(f"a codebook of {n_codes} codes has no {topk} largest; give topk from 1 to {n_codes}")
        self.indexing, self.topk, self.temperature, self.dropout = indexing, topk, temperature, dropout
        self.norm = nn.LayerNorm(width) if normalize else nn.Identity()
        self.score = nn.Linear(width, n_codes)
        if normalize:
            # Of Gaussian logits with variance s^2, the entropy is about log K - s^2 / 2; half of relu's input is cut.
            variance = 2.0 * (1.0 - _START_ENTROPY) * math.log(n_codes)
            nn.init.normal_(self.score.weight, 0.0, math.sqrt(2.0 * variance / width))
            nn.init.zeros_(self.score.bias)
        drawn = torch.randn(n_codes, code_width)
        self.codes: Tensor
        if codes == "learned":
            self.codes = nn.Parameter(drawn)
        else:
            self.register_buffer("codes", drawn if codes == "random" else drawn.sign())
        self.up = nn.Linear(code_width, width)

    def weights(self, e: Tensor) -> Tensor:
        """(..., d) -> (..., K), how much of each code; sums to 1 except with "topk"."""
        logits: Tensor = self.score(F.relu(self.norm(e)))
        if self.indexing == "gumbel":
            return F.one_hot(logits.argmax(-1), logits.shape[-1]).to(logits.dtype)
        weights = logits.softmax(-1)
        return _largest(weights, self.topk) if self.indexing == "topk" else weights

    def mix(self, weights: Tensor) -> Tensor:
        """(..., K) weights -> (..., d)."""
        mixed: Tensor = self.up(weights @ self.codes)
        return mixed

    def forward(self, e: Tensor, noise: Sequence[torch.Generator] | None = None) -> tuple[Tensor, Tensor]:
        """(B, ..., d) -> the same shape, and the (B, ..., K) weights before dropout.

        Args:
            e: What is to pass.
            noise: In training, one generator (on the CPU) per row of e, so that a row's noise does not depend on the
                others; None takes the global one.

        """
        if self.indexing == "gumbel" and self.training:
            logits = self.score(F.relu(self.norm(e)))
            uniform = _uniform(logits, noise).clamp(1e-9, 1.0 - 1e-7)
            soft = ((logits - (-uniform.log()).log()) / self.temperature).softmax(-1)
            hard = F.one_hot(soft.argmax(-1), soft.shape[-1]).to(soft.dtype)
            weights = hard + soft - soft.detach()
        else:
            weights = self.weights(e)
        kept = weights
        if self.training and self.dropout:
            kept = weights * (_uniform(weights, noise) >= self.dropout) / (1.0 - self.dropout)
        return self.mix(kept), weights


class LinearBottleneck(nn.Module):
    """(..., d) -> (..., d) through as many plain numbers as a code has: the control that the published work lacks.

    They are linear in relu(e), which is what the codes are chosen by, so that the two differ in the codes alone.

    Args:
        width: d.
        code_width: D.
        normalize: As in :class:`CodebookBottleneck`.

    """

    def __init__(self, width: int, code_width: int = 10, normalize: bool = True) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width) if normalize else nn.Identity()
        self.down, self.up = nn.Linear(width, code_width), nn.Linear(code_width, width)

    def forward(self, e: Tensor, noise: Sequence[torch.Generator] | None = None) -> tuple[Tensor, None]:
        del noise
        return self.up(self.down(F.relu(self.norm(e)))), None


class NoBottleneck(nn.Module):
    """Everything passes, normalised as in the others.

    Args:
        width: d.
        normalize: As in :class:`CodebookBottleneck`.

    """

    def __init__(self, width: int, normalize: bool = True) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width) if normalize else nn.Identity()

    def forward(self, e: Tensor, noise: Sequence[torch.Generator] | None = None) -> tuple[Tensor, None]:
        del noise
        return self.norm(e), None


_BOTTLENECKS: dict[str, Any] = {"codebook": CodebookBottleneck, "linear": LinearBottleneck, "none": NoBottleneck}


def create_bottleneck(kind: str, width: int, **options: Any) -> nn.Module:
    """``codebook``, ``linear`` or ``none``, of that width.

    Raises:
        InputError: Unknown kind, or an option that it does not take.

    """
    if kind not in _BOTTLENECKS:
        raise unknown_name("bottleneck", kind, list(_BOTTLENECKS))
    try:
        made: nn.Module = _BOTTLENECKS[kind](width, **options)
    except TypeError as error:
        raise InputError(f"bottleneck {kind!r} does not take these options: {sorted(options)} ({error})") from error
    return made


def _largest(weights: Tensor, k: int) -> Tensor:
    found = weights.topk(k, -1)
    return torch.zeros_like(weights).scatter(-1, found.indices, found.values)


def _uniform(like: Tensor, noise: Sequence[torch.Generator] | None) -> Tensor:
    if not noise:
        return torch.rand_like(like)
    return torch.stack([torch.rand(like.shape[1:], generator=one) for one in noise]).to(like)
