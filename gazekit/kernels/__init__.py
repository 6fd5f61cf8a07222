"""Attention kernels: one definition each, several engines; no optional dependency is imported before it is needed.

Tensors are heads-last, ``q (B, *grid, H, D)``, ``k (B, *grid, Hk, D)``, ``v (B, *grid, Hk, Dv)``;
``lse`` is the natural-log sum of exponentials, float32 (float64 for float64 input). Every public
kernel takes ``backend="auto"``; a named backend runs or raises, and :func:`explain_backend` says
which engine a call takes and why. :data:`KERNELS` lists the functions that the laws are tested over.
"""

from gazekit.kernels.bias import BiasFactors
from gazekit.kernels.biased_attention import biased_attention
from gazekit.kernels.block_sparse import block_sparse_attention
from gazekit.kernels.dense import dense_attention, dense_weights
from gazekit.kernels.engine import BACKENDS, Choice, explain_backend
from gazekit.kernels.lightning import decay_linear_attention
from gazekit.kernels.merge import merge_attention
from gazekit.kernels.neighborhood import neighborhood_attention, neighborhood_weights
from gazekit.kernels.plan import BlockPlan, plan_band, plan_blocks, plan_ranges, plan_runs, plan_windows
from gazekit.kernels.self_attention import SelfAttention
from gazekit.kernels.tile_layout import TileLayout
from gazekit.kernels.window import SpeedupEstimate, Window, estimate_speedup, suggest_windows, window_mask
from gazekit.registry import Registry

__all__ = [
    "BACKENDS",
    "KERNELS",
    "BiasFactors",
    "BlockPlan",
    "Choice",
    "SelfAttention",
    "SpeedupEstimate",
    "TileLayout",
    "Window",
    "biased_attention",
    "block_sparse_attention",
    "decay_linear_attention",
    "dense_attention",
    "dense_weights",
    "estimate_speedup",
    "explain_backend",
    "merge_attention",
    "neighborhood_attention",
    "neighborhood_weights",
    "plan_band",
    "plan_blocks",
    "plan_ranges",
    "plan_runs",
    "plan_windows",
    "suggest_windows",
    "window_mask",
]

# Functions with a `backend` argument; tests/kernels/scenes.py has a scene for each.
KERNELS = Registry(
    "kernel",
    {
        "biased_attention": "gazekit.kernels.biased_attention:biased_attention",
        "block_sparse_attention": "gazekit.kernels.block_sparse:block_sparse_attention",
        "decay_linear_attention": "gazekit.kernels.lightning:decay_linear_attention",
        "neighborhood_attention": "gazekit.kernels.neighborhood:neighborhood_attention",
    },
)
