"""Attention kernels: one definition each, several engines; no optional dependency is imported before it is needed.

Tensors are heads-last, ``q (B, *grid, H, D)``, ``k (B, *grid, Hk, D)``, ``v (B, *grid, Hk, Dv)``;
``lse`` is the natural-log sum of exponentials, float32 (float64 for float64 input). Every public
kernel takes ``backend="auto"``; a named backend runs or raises, and :func:`explain_backend` says
which engine a call takes and why. :data:`KERNELS` lists the functions that the laws are tested over.
"""

from gazekit.kernels.bias import BiasFactors
from gazekit.kernels.dense import dense_attention, dense_weights
from gazekit.kernels.engine import BACKENDS, Choice, explain_backend
from gazekit.kernels.lightning import decay_linear_attention
from gazekit.kernels.merge import merge_attention
from gazekit.registry import Registry

__all__ = [
    "BACKENDS",
    "KERNELS",
    "BiasFactors",
    "Choice",
    "decay_linear_attention",
    "dense_attention",
    "dense_weights",
    "explain_backend",
    "merge_attention",
]

# Functions with a `backend` argument; tests/kernels/scenes.py has a scene for each.
KERNELS = Registry(
    "kernel",
    {
        "decay_linear_attention": "gazekit.kernels.lightning:decay_linear_attention",
    },
)
