"""ScanMatch: alignment of two scanpaths on a grid, near cells earning almost as much as equal ones.

Definition: Cristino, Mathôt, Theeuwes & Gilchrist (2010), Behavior Research Methods 42, 692-700. Settings in use:
8x6 cells, threshold 3.5, no durations (the original toolbox); 16x12 cells, threshold 3.5, with and without bins of
50 ms (Chen et al., GazeXplain, ScanDiff; the default here); 14x8 cells and 50 ms (FixaTons).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gazekit.errors import InputError
from gazekit.metrics.edit_distance import Scoring, align_strings
from gazekit.metrics.grid_strings import check_strings, grid_symbols, repeat_symbols
from gazekit.metrics.mean_over_trials import MeanOverTrials
from gazekit.metrics.path_pairs import check_pairs
from gazekit.metrics.sequence_score import Border, border_gap

# Pairs whose repeated symbols are held at a time.
_BLOCK = 2**14


def scanmatch(
    a_px: Tensor,
    a_valid: Tensor,
    b_px: Tensor,
    b_valid: Tensor,
    *,
    size_wh_px: tuple[int, int],
    bins_wh: tuple[int, int] = (16, 12),
    threshold_bins: float = 3.5,
    gap: float = 0.0,
    temporal_bin_s: float | None = None,
    a_duration_s: Tensor | None = None,
    b_duration_s: Tensor | None = None,
    border: Border = "standard",
) -> Tensor:
    """ScanMatch of each pair; at most 1, at least 0 where gap is 0, higher is better.

    Aligning two cells earns the threshold less their distance in cells; the sum for the best alignment is divided
    by the threshold times the longer length. Symmetric; needs one fixation. Chance depends on grid and lengths.
    Positions outside the image count for the nearest cell.

    Args:
        a_px: (P, N, 2) fixations as (x, y) px.
        a_valid: (P, N) bool, True ... True False ...
        b_px: (P, M, 2).
        b_valid: (P, M) bool.
        size_wh_px: Image size that the grid divides.
        bins_wh: Cells per row and per column.
        threshold_bins: Distance in cells from which a pairing earns nothing.
        gap: For a fixation without a partner; at most 0.
        temporal_bin_s: Repeat each cell once per so many seconds, rounded half to even; None: durations do not count.
        a_duration_s: (P, N), needed with temporal_bin_s only.
        b_duration_s: (P, M).
        border: "standard", or "port" for one gap too many in every alignment, as in a Python port.

    Returns:
        (P,) in the type of the positions (integers give float64). 0 where one path is empty; NaN where both are, or
        where a path has fixations of which none lasts half a temporal bin.

    Raises:
        InputError: Shapes do not fit, a valid position or duration is not usable, durations are missing, or an
            option is out of range.

    """
    if (temporal_bin_s is None) != (a_duration_s is None):
        raise InputError("temporal_bin_s goes with a_duration_s and b_duration_s: give all three or none")
    pairs = check_pairs(a_px, a_valid, b_px, b_valid, a_duration_s, b_duration_s)
    a_symbols, b_symbols = (
        grid_symbols(px, valid, size_wh_px=size_wh_px, bins_wh=bins_wh)
        for px, valid in ((pairs.a_px, a_valid), (pairs.b_px, b_valid))
    )
    how: dict[str, Any] = {"bins_wh": bins_wh, "threshold_bins": threshold_bins, "gap": gap, "border": border}
    how["dtype"] = pairs.a_px.dtype
    if temporal_bin_s is None or a_duration_s is None or b_duration_s is None:
        return scanmatch_symbols(a_symbols, a_valid, b_symbols, b_valid, **how)
    blocks = []
    paths = (a_symbols, a_valid, a_duration_s, b_symbols, b_valid, b_duration_s)
    for a, a_keep, a_s, b, b_keep, b_s in zip(*(t.split(_BLOCK) for t in paths), strict=True):
        a_string = repeat_symbols(a, a_keep, a_s, temporal_bin_s=temporal_bin_s)
        b_string = repeat_symbols(b, b_keep, b_s, temporal_bin_s=temporal_bin_s)
        score = scanmatch_symbols(*a_string, *b_string, **how)
        vanished = (a_keep.any(1) & ~a_string[1].any(1)) | (b_keep.any(1) & ~b_string[1].any(1))
        blocks.append(score.masked_fill(vanished, torch.nan))
    return torch.cat(blocks)


def scanmatch_symbols(
    a: Tensor,
    a_valid: Tensor,
    b: Tensor,
    b_valid: Tensor,
    *,
    bins_wh: tuple[int, int],
    threshold_bins: float = 3.5,
    gap: float = 0.0,
    border: Border = "standard",
    dtype: torch.dtype = torch.float64,
) -> Tensor:
    """ScanMatch of each pair of strings of grid cells; see :func:`scanmatch`.

    Args:
        a: (P, N) cell numbers, as :func:`~gazekit.metrics.grid_strings.grid_symbols` gives them.
        a_valid: (P, N) bool, True ... True False ...
        b: (P, M).
        b_valid: (P, M) bool.
        bins_wh: Cells per row and per column.
        threshold_bins: Distance in cells from which a pairing earns nothing.
        gap: For a symbol without a partner; at most 0.
        border: "standard" or "port".
        dtype: Of the calculation and the result.

    Returns:
        (P,); 0 where one string is empty and NaN where both are.

    Raises:
        InputError: Shapes or types do not fit, a symbol is no cell, or an option is out of range.

    """
    check_strings(a, a_valid, b, b_valid)
    extra = border_gap(gap, border)
    if not 0 < threshold_bins < float("inf"):
        raise InputError(f"threshold_bins must be positive; got {threshold_bins}")
    across, down = bins_wh
    for name, cell, valid in (("a", a, a_valid), ("b", b, b_valid)):
        unknown = valid & ((cell < 0) | (cell >= across * down))
        if unknown.any():
            pair, step = unknown.nonzero()[0].tolist()
            raise InputError(
                f"{name} of pair {pair}, fixation {step}: {int(cell[pair, step])} is no cell of {across}x{down}"
            )
    # What a pairing earns depends on the offset of the cells alone, so the difference of two codes can number it.
    width = 2 * across - 1
    dx = torch.arange(1 - across, across, dtype=torch.float64, device=a.device)
    dy = torch.arange(1 - down, down, dtype=torch.float64, device=a.device)[:, None]
    table = (threshold_bins - (dx.square() + dy.square()).sqrt()).to(dtype).reshape(-1)
    a_code, b_code = (cell.div(across, rounding_mode="floor") * width + cell % across for cell in (a, b))
    scoring = Scoring(gap, table=table, origin=(down - 1) * width + across - 1)
    earned = align_strings(a_code, a_valid, -b_code, b_valid, scoring)
    n, m = a_valid.sum(1), b_valid.sum(1)
    score = (extra + earned) / (threshold_bins * torch.maximum(n, m))
    # Gaps alone are no similarity.
    return score.masked_fill(((n == 0) | (m == 0)) & ((n > 0) | (m > 0)), 0.0).masked_fill((n + m) == 0, torch.nan)


class ScanMatch(MeanOverTrials):
    """Mean :func:`scanmatch` over pairs; the keyword arguments are those of the function, durations go to `update`."""

    is_differentiable, higher_is_better = False, True

    def __init__(
        self,
        *,
        size_wh_px: tuple[int, int],
        bins_wh: tuple[int, int] = (16, 12),
        threshold_bins: float = 3.5,
        gap: float = 0.0,
        temporal_bin_s: float | None = None,
        border: Border = "standard",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.options: dict[str, Any] = {"size_wh_px": size_wh_px, "bins_wh": bins_wh, "threshold_bins": threshold_bins}
        self.options |= {"gap": gap, "temporal_bin_s": temporal_bin_s, "border": border}

    def update(
        self,
        a_px: Tensor,
        a_valid: Tensor,
        b_px: Tensor,
        b_valid: Tensor,
        *,
        a_duration_s: Tensor | None = None,
        b_duration_s: Tensor | None = None,
    ) -> None:
        durations: dict[str, Any] = {"a_duration_s": a_duration_s, "b_duration_s": b_duration_s}
        self.add(scanmatch(a_px, a_valid, b_px, b_valid, **durations, **self.options))
