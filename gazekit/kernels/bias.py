"""Additive attention biases of low rank, as factors: ``b_ij = query_i . key_j``, never an N x M matrix.

Softmax does not see what is added to all keys of a query, so many priors have exact factors of tiny rank: whatever
depends on the key alone (center bias, eccentricity from one fixation, inhibition of return) has rank 1, whatever its
shape; a squared distance in d dimensions has rank d + 1; one-sided ALiBi has rank 1. Other biases are approximated by
an SVD (:func:`from_svd`) or learned (:mod:`gazekit.kernels.neural_bias`). What counts is the largest error: a bias
wrong by at most e changes no attention weight by more than a factor ``exp(2 e)``; the energy that an SVD keeps says
little.

Wu et al. 2025, "FlashBias", arXiv:2505.12044. The bias is standard in sign: added to the scores before the softmax.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from gazekit.errors import InputError

# Numbers that sum up to a float32, each short enough for bfloat16 (8 of its 24 bits at a time).
_PARTS = 3
_HALF = (torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class BiasFactors:
    """A bias on attention scores as a product: ``b_ij = query_i . key_j``.

    Kept in float32 or float64 whatever the tensors of the attention are: an integer position rounded to bfloat16 is
    off by up to 1 in 256. :func:`gazekit.kernels.biased_attention` splits them for half precision.

    Args:
        query: (B | 1, N, H | 1, R).
        key: (B | 1, M, H | 1, R).
        half_safe: The half precision in which every number of both is exact, set by :meth:`to_half_safe`.

    Raises:
        InputError: The shapes do not fit each other, or the factors are in half precision.

    """

    query: Tensor
    key: Tensor
    half_safe: torch.dtype | None = None

    def __post_init__(self) -> None:
        found = f"found {tuple(self.query.shape)} and {tuple(self.key.shape)}"
        expected = "BiasFactors: expected query (B | 1, N, H | 1, R) and key (B | 1, M, H | 1, R)"
        if self.query.ndim != 4 or self.key.ndim != 4 or self.query.shape[-1] != self.key.shape[-1]:
            raise InputError(f"{expected}, {found}")
        if any(a != b and 1 not in (a, b) for a, b in zip(self.query.shape[::2], self.key.shape[::2], strict=True)):
            raise InputError(f"{expected} with one B and one H, {found}")
        if self.query.dtype != self.key.dtype or self.query.dtype not in (torch.float32, torch.float64):
            raise InputError(
                f"BiasFactors: expected float32 or float64, found {self.query.dtype} and {self.key.dtype}; half "
                "precision does not hold positions: build factors in float32, they are split where needed"
            )

    @property
    def rank(self) -> int:
        """R, the width that the bias adds to queries and keys."""
        return self.query.shape[-1]

    def dense(self) -> Tensor:
        """(B | 1, H | 1, N, M) bias; for analysis and tests."""
        return torch.einsum("bnhr,bmhr->bhnm", self.query, self.key)

    def error(self, dense: Tensor, *, up_to_query: bool = False) -> float:
        """Largest absolute difference from a dense bias (B | 1, H | 1, N, M), in nats.

        Args:
            dense: What the factors stand for.
            up_to_query: Leave out what is the same for all keys of a query, which softmax does not see: half the range
                of the differences in a row, at the worst row.

        """
        difference = (self.dense().double() - dense.double()).detach()
        if not difference.numel():
            return 0.0
        if up_to_query:
            return float((difference.amax(-1) - difference.amin(-1)).max() / 2)
        return float(difference.abs().max())

    def __add__(self, other: BiasFactors) -> BiasFactors:
        """The sum of two biases: their ranks add up."""
        query = _joined(self.query, other.query)
        key = _joined(self.key, other.key)
        safe = self.half_safe if self.half_safe == other.half_safe else None
        return BiasFactors(query, key, safe)

    def to(self, *args: torch.device | torch.dtype | str) -> BiasFactors:
        """On another device, or between float32 and float64."""
        return BiasFactors(self.query.to(*args), self.key.to(*args), self.half_safe)  # type: ignore[call-overload]

    def to_half_safe(self, dtype: torch.dtype = torch.bfloat16) -> BiasFactors:
        """The same bias from numbers that are exact in half precision; the rank grows.

        A number is cut into as many parts as it takes (an integer below 65536 into two for bfloat16), and a product
        into the products of parts, leaving out those below float32's precision. For factors that are built once: it
        looks at the numbers, which waits for a GPU. Gradients pass.

        Args:
            dtype: bfloat16 or float16; factors for float16 must be below 65504 after balancing query and key.

        """
        _check_half(dtype)
        query, key = _balanced(self.query, self.key)
        pairs = [
            (q, k)
            for (i, q), (j, k) in itertools.product(enumerate(_parts(query, dtype)), enumerate(_parts(key, dtype)))
            if i + j < _PARTS
        ]
        columns = [
            (q[..., r : r + 1], k[..., r : r + 1])
            for r in range(self.rank)
            for q, k in pairs
            if bool(q[..., r].any()) and bool(k[..., r].any())
        ]
        if not columns:
            return BiasFactors(self.query[..., :0], self.key[..., :0], dtype)
        return BiasFactors(torch.cat([q for q, _ in columns], -1), torch.cat([k for _, k in columns], -1), dtype)

    def split_for(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Query and key factors in `dtype`; for half precision with three columns for one, unless they are safe.

        The bias is then off by at most ``4 * 2^-18`` (bfloat16) of the largest ``|query| |key|`` per rank, without a
        look at the numbers; :meth:`to_half_safe` is exact to float32.
        """
        if dtype not in _HALF or self.half_safe == dtype:
            return self.query.to(dtype), self.key.to(dtype)
        query, key = (_parts(x, dtype) for x in (self.query, self.key))
        columns = [(query[0], key[0]), (query[0], key[1]), (query[1], key[0])]
        return torch.cat([q for q, _ in columns], -1).to(dtype), torch.cat([k for _, k in columns], -1).to(dtype)


def alibi_slopes(n_heads: int) -> Tensor:
    """(H,) ALiBi's slopes, ``2^(-8 h / H)`` for h = 1..H (Press et al. 2022, arXiv:2108.12409)."""
    return (2.0 ** (-8 * torch.arange(1, n_heads + 1, dtype=torch.float64) / n_heads)).float()


def alibi(slopes: Tensor, n_queries: int, n_keys: int | None = None) -> BiasFactors:
    """Causal ALiBi ``-slope (i - j)``, rank 1; up to a term of the query alone.

    Only with a causal mask: the two-sided ``-slope |i - j|`` has full rank.

    Args:
        slopes: (H,), see :func:`alibi_slopes`; at least 0. Takes a gradient.
        n_queries: N.
        n_keys: M; default N.

    """
    keys = torch.arange(n_queries if n_keys is None else n_keys, dtype=slopes.dtype, device=slopes.device)
    return BiasFactors(slopes.expand(1, n_queries, -1)[..., None], keys[None, :, None, None])


def squared_distance(
    query_at: Tensor, key_at: Tensor, weight: Tensor | float = 1.0, *, keep_query_term: bool = False
) -> BiasFactors:
    """``-weight |x_i - y_j|^2`` in d dimensions, rank d + 1; a Gaussian prior has ``weight = 1 / (2 sigma^2)``.

    Args:
        query_at: (B | 1, N, d) positions, e.g. of tokens or fixations in dva.
        key_at: (B | 1, M, d).
        weight: A number or (H,), per squared unit of position. Takes a gradient.
        keep_query_term: Keep ``-weight |x_i|^2``, which softmax does not see (rank d + 2): for who needs the values or
            merges by lse with keys that have no bias.

    """
    if query_at.ndim != 3 or key_at.ndim != 3 or query_at.shape[-1] != key_at.shape[-1]:
        raise InputError(
            f"squared_distance: expected positions (B | 1, N, d) and (B | 1, M, d), found {tuple(query_at.shape)} and "
            f"{tuple(key_at.shape)}"
        )
    # Distances do not depend on the origin; sums of large squares would lose them.
    origin = key_at.detach().mean(1, keepdim=True)
    x, y = query_at - origin, key_at - origin
    per_head = torch.as_tensor(weight, dtype=x.dtype, device=x.device).reshape(1, 1, -1, 1)
    ones = torch.ones_like(per_head)
    query = [2 * per_head * x[:, :, None], -per_head.expand(*x.shape[:2], -1, -1)]
    key = [y[:, :, None], y.square().sum(-1)[:, :, None, None]]
    if keep_query_term:
        query.append(-per_head * x.square().sum(-1)[:, :, None, None])
        key.append(ones[:, :, :1].expand(*y.shape[:2], 1, 1))
    return BiasFactors(torch.cat(query, -1), torch.cat(key, -1))


def key_only(values: Tensor, n_queries: int) -> BiasFactors:
    """A bias that depends on the key alone, rank 1: a center bias, a target map, the sum of any such terms.

    Args:
        values: (B | 1, M) or (B | 1, M, H), added to the scores of the keys: a log-prior in nats. Finite; a key to be
            left out is a matter of `valid`. Takes a gradient.
        n_queries: N.

    """
    if values.ndim not in (2, 3):
        raise InputError(f"key_only: expected values (B | 1, M) or (B | 1, M, H), found {tuple(values.shape)}")
    key = (values if values.ndim == 3 else values[..., None])[..., None]
    return BiasFactors(key.new_ones(1, n_queries, 1, 1), key)


def single_fixation(
    key_at: Tensor, fixation_at: Tensor, of_distance: Callable[[Tensor], Tensor], n_queries: int
) -> BiasFactors:
    """Any function of the distance from one fixation per trial, rank 1: a saccade-amplitude prior, say.

    Args:
        key_at: (B | 1, M, 2) positions of the tokens.
        fixation_at: (B, 2) where the eye is, in the same units.
        of_distance: Distances (B, M) -> values (B, M) or (B, M, H), in nats.
        n_queries: N.

    """
    if key_at.ndim != 3 or fixation_at.ndim != 2 or key_at.shape[-1] != fixation_at.shape[-1]:
        raise InputError(
            f"single_fixation: expected positions (B | 1, M, 2) and fixations (B, 2), found {tuple(key_at.shape)} and "
            f"{tuple(fixation_at.shape)}"
        )
    return key_only(of_distance((key_at - fixation_at[:, None]).norm(dim=-1)), n_queries)


def eccentricity(
    key_at_dva: Tensor, fixation_dva: Tensor, n_queries: int, *, weight: Tensor | float = 1.0, e2_dva: float = 2.0
) -> BiasFactors:
    """``-weight log(1 + e / e2)`` with e the distance from the fixation: weights fall as resolution does, rank 1.

    With weight 2 a token counts as the cortex does that sees it: magnification falls with ``1 / (1 + e / e2)`` along
    either axis.

    Args:
        key_at_dva: (B | 1, M, 2) positions of the tokens in degrees.
        fixation_dva: (B, 2) where the eye is.
        n_queries: N.
        weight: A number or (H,). Takes a gradient.
        e2_dva: Where resolution has halved; 2 is a design choice within what is measured (it differs between tasks).

    """
    if not e2_dva > 0:
        raise InputError(f"eccentricity: e2_dva must be above 0, found {e2_dva}")
    per_head = torch.as_tensor(weight, dtype=key_at_dva.dtype, device=key_at_dva.device).reshape(-1)
    return single_fixation(
        key_at_dva, fixation_dva, lambda e: -(e / e2_dva).log1p()[..., None] * per_head, n_queries
    )  # fmt: skip


def from_svd(dense: Tensor, *, max_error: float, max_rank: int | None = None) -> BiasFactors:
    """Factors of a fixed dense bias with the smallest rank whose largest absolute error is at most `max_error`.

    For tables that were learned elsewhere. Smooth, steep or kinked biases need ranks in the hundreds; then the dense
    bias is the better one. Computed in float64, no gradient.

    Args:
        dense: (B | 1, H | 1, N, M) in nats; finite.
        max_error: In nats; weights are then right within a factor ``exp(2 max_error)``.
        max_rank: Refuse a larger one; default is a quarter of the smaller side.

    Raises:
        InputError: `max_rank` does not suffice; the message says what it would reach.

    """
    if dense.ndim != 4 or not dense.isfinite().all():
        raise InputError(f"from_svd: expected a finite bias (B | 1, H | 1, N, M), found {tuple(dense.shape)}")
    limit = max(1, min(dense.shape[-2:]) // 4) if max_rank is None else min(max_rank, *dense.shape[-2:])
    exact = dense.detach().double()
    left, size, right = torch.linalg.svd(exact, full_matrices=False)
    query, key = left * size.sqrt()[..., None, :], (right * size.sqrt()[..., :, None]).mT

    def factors(rank: int) -> BiasFactors:
        kept = (x[..., :rank].transpose(1, 2).to(dense.dtype) for x in (query, key))
        return BiasFactors(*kept)

    # The largest error need not fall with every rank, so the smallest rank that does is looked for one by one.
    rest, error = exact.clone(), float(exact.abs().max()) if exact.numel() else 0.0
    if error <= max_error:
        return factors(0)
    for rank in range(1, limit + 1):
        rest -= query[..., rank - 1 : rank] * key[..., rank - 1 : rank].mT
        error = float(rest.abs().max())
        if error <= max_error:
            return factors(rank)
    raise InputError(
        f"from_svd: rank {limit} leaves an error of {error:.3g}, above max_error {max_error:.3g}; "
        "allow a larger error or max_rank, or keep the bias dense"
    )


def _joined(a: Tensor, b: Tensor) -> Tensor:
    if a.shape[1] != b.shape[1]:
        raise InputError(f"BiasFactors: sums need the same tokens, found {a.shape[1]} and {b.shape[1]}")
    shape = torch.broadcast_shapes(a.shape[:3], b.shape[:3])
    return torch.cat([a.expand(*shape, -1), b.expand(*shape, -1)], -1)


def _check_half(dtype: torch.dtype) -> None:
    if dtype not in _HALF:
        raise InputError(f"half precision is torch.bfloat16 or torch.float16, found {dtype}")


def _parts(x: Tensor, dtype: torch.dtype) -> list[Tensor]:
    """Numbers that are exact in `dtype` and sum up to x, largest first. The gradient goes through the first."""
    parts, rest = [], x.detach()
    for _ in range(_PARTS):
        parts.append(rest.to(dtype).to(x.dtype))
        rest = rest - parts[-1]
    parts[0] = x + (parts[0] - x.detach())
    return parts


def _balanced(query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
    """Both scaled by a power of two for each rank, exactly, so that neither leaves the range of float16."""
    sizes = [x.detach().abs().amax((0, 1, 2)).clamp(min=1e-30).log2() for x in (query, key)]
    shift = ((sizes[0] - sizes[1]) / 2).round().clamp(-60, 60)
    return query * torch.exp2(-shift), key * torch.exp2(shift)
