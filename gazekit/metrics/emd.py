"""Earth mover's distance (EMD): how far the mass of one density has to be moved to become another.

Definition: Rubner, Tomasi & Guibas (2000), International Journal of Computer Vision 40, 99-121, for two
densities of equal mass, on maps reduced to a coarse grid as in the old MIT benchmark (which reduced by 1/32).
Exact: solved by the network simplex of POT (Python Optimal Transport), an optional package.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from gazekit.density import to_density
from gazekit.errors import InputError
from gazekit.metrics.mean_over_trials import MeanOverTrials

Unit = Literal["block", "px"]

# The spec's limit for an exact solution: 1024 x 1024 costs, 0.1 s.
_MAX_SIDE = 32
# POT's default of 1e5 pivots does not always reach the optimum on the largest grid.
_MAX_PIVOTS = 10**7
# Below this, what two densities do not share is rounding.
_ROUNDING = 1e-13


def emd(predicted: Tensor, empirical: Tensor, *, block_px: int | None = None, unit: Unit = "block") -> Tensor:
    """Earth mover's distance per trial; at least 0, lower is better.

    The least cost of moving the mass of one density to the other, a unit of mass costing the Euclidean
    distance that it moves. Both maps become densities (:func:`gazekit.density.to_density`) and are summed
    over square blocks of pixels, which changes the distance by at most sqrt(2) (block_px - 1) px. Symmetric;
    0 only for densities that are equal after this. Chance depends on the densities. About 0.1 s per trial on
    32 x 32 blocks, on the CPU whatever the device of the maps.

    Args:
        predicted: (B, H, W) predicted map; made a density.
        empirical: (B, H, W) empirical fixation density; normalised again.
        block_px: Side of a block in px; 32 for the scale of the old MIT code. None for the smallest that
            leaves at most 32 x 32 blocks. Blocks at the right and bottom edge may be cut by it; they stand
            on the grid of the others.
        unit: Of the distance: "block" (sides of a block, as in the old code) or "px" of the maps given.

    Returns:
        (B,) float64; NaN where the empirical map is not finite, as for a trial without fixations. Not
        differentiable.

    Raises:
        InputError: The shapes differ, a predicted map is not finite, `block_px` leaves more than 32 blocks
            on a side, the unit is unknown, or POT is not installed.

    """
    if predicted.ndim != 3 or predicted.shape != empirical.shape:
        raise InputError(
            f"predicted and empirical must both be (B, H, W); got {tuple(predicted.shape)} and "
            f"{tuple(empirical.shape)}: resize the prediction, and expand a map that serves all trials"
        )
    _check_unit(unit)
    block_px = _block_side(predicted.shape[-2:], block_px)
    solver = _solver()
    scores = []
    for trial, (p_map, q_map) in enumerate(zip(predicted.detach(), empirical.detach(), strict=True)):
        # Looked at before: to_density makes a map with NaN uniform.
        if not p_map.isfinite().all():
            raise InputError(f"predicted map of trial {trial} holds NaN or infinity")
        known = bool(q_map.isfinite().all())
        scores.append(_distance(_reduced(p_map, block_px), _reduced(q_map, block_px), solver) if known else np.nan)
    scale = block_px if unit == "px" else 1
    return torch.tensor(scores, dtype=torch.float64, device=predicted.device) * scale


def _reduced(smap: Tensor, block_px: int) -> NDArray[np.float64]:
    """(H, W) map -> (h, w) density summed over blocks."""
    height, width = smap.shape
    density = F.pad(to_density(smap.double()), (0, -width % block_px, 0, -height % block_px))
    blocks = density.unflatten(1, (-1, block_px)).unflatten(0, (-1, block_px)).sum((1, 3))
    reduced: NDArray[np.float64] = blocks.cpu().numpy()
    return reduced


def _distance(p: NDArray[np.float64], q: NDArray[np.float64], solver: Any) -> float:
    # Mass that both have need not move, since the distance is a metric: a third of the work or less is left.
    surplus = (p - q).ravel()
    source, sink = surplus > 0, surplus < 0
    supply, demand = surplus[source], -surplus[sink]
    mass = supply.sum()
    if mass < _ROUNDING or not sink.any():
        return 0.0
    cost = np.ascontiguousarray(_ground_distance(p.shape)[np.ix_(source, sink)])
    moved, log = solver(supply / mass, demand / demand.sum(), cost, numItermax=_MAX_PIVOTS, log=True)
    assert log["warning"] is None, log["warning"]
    return float(moved * mass)


@lru_cache(maxsize=4)
def _ground_distance(shape: tuple[int, int]) -> NDArray[np.float64]:
    """(n, n) Euclidean distances between the n places of a grid, row by row."""
    places = np.stack(np.divmod(np.arange(shape[0] * shape[1]), shape[1]), -1)
    return np.asarray(np.sqrt(np.square(places[:, None] - places).sum(-1)), dtype=np.float64)


def _block_side(shape: tuple[int, ...], block_px: int | None) -> int:
    smallest = max(1, -(-max(shape) // _MAX_SIDE))
    if block_px is None:
        return smallest
    if block_px < smallest:
        raise InputError(
            f"block_px = {block_px} leaves more than {_MAX_SIDE} blocks on a side of the {shape[1]}x{shape[0]} px "
            f"map; take {smallest} or more, or None for {smallest}"
        )
    return block_px


def _solver() -> Any:
    try:
        import ot
    except ImportError as error:
        raise InputError('the earth mover\'s distance needs POT; pip install "gazekit[emd]"') from error
    return ot.emd2


def _check_unit(unit: str) -> None:
    if unit not in get_args(Unit):
        raise InputError(f"unit must be one of {get_args(Unit)}; got {unit!r}")


class EMD(MeanOverTrials):
    """Mean :func:`emd` over trials."""

    is_differentiable, higher_is_better = False, False

    def __init__(self, block_px: int | None = None, unit: Unit = "block", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        _check_unit(unit)
        self.block_px, self.unit = block_px, unit

    def update(self, predicted: Tensor, empirical: Tensor) -> None:
        self.add(emd(predicted, empirical, block_px=self.block_px, unit=self.unit))
