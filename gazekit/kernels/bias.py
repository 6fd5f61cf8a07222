"""Low-rank factors of an additive attention bias."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from gazekit.errors import InputError


@dataclass(frozen=True)
class BiasFactors:
    """A bias on attention scores as a product: ``b_ij = query_i . key_j``.

    Args:
        query: (B | 1, N, H | 1, R).
        key: (B | 1, M, H | 1, R).

    """

    query: Tensor
    key: Tensor

    def __post_init__(self) -> None:
        if self.query.ndim != 4 or self.key.ndim != 4 or self.query.shape[-1] != self.key.shape[-1]:
            raise InputError(
                "BiasFactors: expected query (B | 1, N, H | 1, R) and key (B | 1, M, H | 1, R), found "
                f"{tuple(self.query.shape)} and {tuple(self.key.shape)}"
            )

    @property
    def rank(self) -> int:
        return self.query.shape[-1]
