"""Bias factors from two small networks over token features, for biases that no short formula gives.

A network for queries and one for keys, bias-free with tanh between their layers, as in FlashBias (Wu et al. 2025,
arXiv:2505.12044: three layers of width 256, rank 96 per head). They are fitted to a dense bias once, with
:func:`fit_neural_bias`, or trained with the model that they stand in.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gazekit.errors import InputError
from gazekit.kernels.bias import BiasFactors


class NeuralBias(nn.Module):
    """Token features -> factors of rank `rank` for each head.

    Args:
        query_features: Width of the features of queries; one of them should be constant, as a network without biases
            is an odd function of its features.
        key_features: Width of the features of keys.
        n_heads: H; 1 is one bias for all heads.
        rank: R, at most the width of the attention's heads.
        width: Of the hidden layers.
        n_layers: 1 is linear.

    """

    def __init__(
        self, query_features: int, key_features: int, n_heads: int, rank: int, width: int = 256, n_layers: int = 3
    ) -> None:
        super().__init__()
        if min(query_features, key_features, n_heads, rank, width, n_layers) < 1:
            raise InputError(
                f"NeuralBias: every size must be at least 1, found features {query_features} and {key_features}, "
                f"{n_heads} heads, rank {rank}, width {width}, {n_layers} layers"
            )
        self.n_heads, self.rank = n_heads, rank
        self.query = _network(query_features, width, n_heads * rank, n_layers)
        self.key = _network(key_features, width, n_heads * rank, n_layers)

    def forward(self, query_features: Tensor, key_features: Tensor) -> BiasFactors:
        """(B | 1, N, Fq) and (B | 1, M, Fk) features -> factors for :func:`gazekit.kernels.biased_attention`."""
        factors = (
            network(features).unflatten(-1, (self.n_heads, self.rank))
            for network, features in ((self.query, query_features), (self.key, key_features))
        )
        # Under autocast the last layer yields half precision, which factors are not kept in.
        query, key = (x.float() if x.dtype in (torch.float16, torch.bfloat16) else x for x in factors)
        return BiasFactors(query, key)


@dataclass(frozen=True)
class BiasFit:
    """How well a network stands for a dense bias.

    Args:
        max_error: Largest absolute difference, in nats; weights are right within a factor ``exp(2 max_error)``.
        rms_error: Root of the mean squared difference, in nats.
        steps: Optimizer steps that were taken.

    """

    max_error: float
    rms_error: float
    steps: int


def fit_neural_bias(
    network: NeuralBias,
    query_features: Tensor,
    key_features: Tensor,
    dense: Tensor,
    *,
    steps: int = 2000,
    lr: float = 1e-3,
    max_error: float = 0.0,
) -> BiasFit:
    """Fit `network` to a dense bias (B | 1, H | 1, N, M) by least squares; its weights are those that erred least.

    Args:
        network: Changed in place.
        query_features: (B | 1, N, Fq).
        key_features: (B | 1, M, Fk).
        dense: The target, finite.
        steps: Adam's, at most.
        lr: Adam's, with a cosine down to 0.
        max_error: Stop when no entry is off by more; 0 takes all steps.

    """
    if steps < 1 or not dense.isfinite().all():
        raise InputError(f"fit_neural_bias: needs at least 1 step and a finite bias, found {steps} steps")
    optimizer = torch.optim.Adam(network.parameters(), lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    best, best_error, done = {}, float("inf"), 0
    for step in range(steps + 1):
        difference = network(query_features, key_features).dense() - dense
        error = float(difference.detach().abs().max())
        if error < best_error:
            best_error, done = error, step
            best = {name: value.detach().clone() for name, value in network.state_dict().items()}
        if step == steps or error <= max_error:
            break
        optimizer.zero_grad()
        difference.square().mean().backward()
        optimizer.step()
        schedule.step()
    network.load_state_dict(best)
    with torch.no_grad():
        difference = network(query_features, key_features).dense() - dense
    return BiasFit(float(difference.abs().max()), float(difference.square().mean().sqrt()), done)


def _network(inputs: int, width: int, outputs: int, n_layers: int) -> nn.Sequential:
    sizes = [inputs, *([width] * (n_layers - 1)), outputs]
    layers: list[nn.Module] = []
    for i in range(n_layers):
        layers.append(nn.Linear(sizes[i], sizes[i + 1], bias=False))
        if i < n_layers - 1:
            layers.append(nn.Tanh())
    return nn.Sequential(*layers)
