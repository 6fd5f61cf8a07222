"""Pooling whose window grows with eccentricity: a layer that gives any CNN a fovea.

The window of the plain pooling is used within a fovea around the middle of the map; beyond it the window's side grows
by `slope` input pixels per input pixel of eccentricity, as receptive fields do along the ventral stream. In the
published form (Gupta et al. 2021, NeurIPS 34) it grows in rings of one degree; the continuous form has no rings.

Windows are placed as TensorFlow places them with "SAME" padding, and an average is over the real cells alone.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gazekit.errors import InputError
from gazekit.registry import unknown_name

Mode = Literal["avg", "max"]
Spacing = Literal["rings", "continuous"]
# First row, last row + 1, first column, last column + 1.
Box = tuple[int, int, int, int]

# The published VGG16: slope per pooling stage, radius of the fovea and width of a ring in degrees.
VGG16_SLOPES = (0.0, 0.0, 0.07, 0.16, 0.32)
FOVEA_RADIUS_DVA, RING_DVA = 4.0, 1.0


def pooled_side(side: int, stride: int) -> int:
    """Cells along a side after "SAME" pooling."""
    return -(-side // stride)


def padding_before(side: int, kernel: int, stride: int) -> int:
    """Cells by which the first window of "SAME" pooling reaches over the edge; the rest is at the other edge."""
    return max(stride * (pooled_side(side, stride) - 1) + kernel - side, 0) // 2


def same_pool2d(x: Tensor, kernel: int, stride: int = 2, mode: Mode = "avg") -> Tensor:
    """(B, C, H, W) -> (B, C, ceil(H / stride), ceil(W / stride)), pooled by one window everywhere.

    Args:
        x: The map.
        kernel: Side of the window.
        stride: Of the windows.
        mode: "avg" over the cells of the map that a window covers, or "max".

    """
    if kernel == stride:
        # No window reaches over the upper or left edge, and the last one is cut.
        if mode == "max":
            return F.max_pool2d(x, kernel, stride, ceil_mode=True)
        return F.avg_pool2d(x, kernel, stride, ceil_mode=True, count_include_pad=False)
    pads: list[int] = []
    for side in (x.shape[-1], x.shape[-2]):
        total = max(stride * (pooled_side(side, stride) - 1) + kernel - side, 0)
        pads += [total // 2, total - total // 2]
    if mode == "max":
        return F.max_pool2d(F.pad(x, pads, value=-math.inf), kernel, stride)
    total_ = F.avg_pool2d(F.pad(x, pads), kernel, stride, divisor_override=1)
    count = F.avg_pool2d(F.pad(torch.ones_like(x[:1, :1]), pads), kernel, stride, divisor_override=1)
    return total_ / count


class Rings(NamedTuple):
    """Rings of one pooling stage.

    Attributes:
        radius: Inner radius of each ring, in output cells; ring m holds cells of squared distance from
            ``radius[m]**2`` up to, not including, ``radius[m + 1]**2``. The first is 0.
        kernel: Side of the window in each ring.

    """

    radius: tuple[int, ...]
    kernel: tuple[int, ...]


@lru_cache(maxsize=256)
def rings_of(
    n_out: int, px_per_dva: float, slope: float, fovea_radius_dva: float, ring_dva: float, stride: int = 2
) -> Rings:
    """The rings of an output map of side `n_out`.

    Args:
        n_out: Cells along the (longer) side of the output.
        px_per_dva: Input cells of the stage per degree.
        slope: By which the window grows, in input cells per input cell.
        fovea_radius_dva: Within which the window is the smallest, `stride` cells wide.
        ring_dva: Width of a ring.
        stride: Of the pooling.

    """
    # Half to even, as Python and the published code round.
    outer = round(fovea_radius_dva * px_per_dva / stride)
    step = max(1, round(ring_dva * px_per_dva / stride))
    radius, kernel = [0], [stride]
    while 2 * outer <= n_out:
        radius.append(outer)
        outer += step
        kernel.append(stride + round(slope * (stride * outer - fovea_radius_dva * px_per_dva)))
        if 2 * outer >= n_out:
            break
    return Rings(tuple(radius), tuple(kernel))


class EccentricPool2d(nn.Module):
    """Pooling with "SAME" padding whose window grows with the distance from the middle of the map.

    Args:
        slope: Growth of the window in input cells per input cell beyond the fovea; 0 is plain pooling.
        px_per_dva: Input cells per degree of visual angle.
        fovea_radius_dva: Radius within which the window is `stride` cells wide.
        ring_dva: Width of the rings on which the window is constant.
        stride: 2 halves the map. 1 keeps its size and only blurs the periphery: for networks that shrink their maps
            by strided convolutions.
        mode: "avg" or "max".
        spacing: "rings" as published, or "continuous": the window grows without steps, and an average weighs cells by
            the share of them that the window covers.

    Raises:
        InputError: An argument is out of range, or "continuous" is asked of "max".

    """

    def __init__(
        self,
        slope: float,
        px_per_dva: float,
        fovea_radius_dva: float = FOVEA_RADIUS_DVA,
        ring_dva: float = RING_DVA,
        stride: int = 2,
        mode: Mode = "avg",
        spacing: Spacing = "rings",
    ) -> None:
        super().__init__()
        if mode not in ("avg", "max"):
            raise unknown_name("pooling mode", mode, ["avg", "max"])
        if spacing not in ("rings", "continuous"):
            raise unknown_name("spacing of eccentric pooling", spacing, ["continuous", "rings"])
        if mode == "max" and spacing == "continuous":
            raise InputError("eccentric pooling: the maximum over a part of a cell is not defined; use spacing='rings'")
        if not (slope >= 0 and px_per_dva > 0 and fovea_radius_dva > 0 and ring_dva > 0 and stride >= 1):
            raise InputError(
                "eccentric pooling needs slope >= 0, px_per_dva, fovea_radius_dva and ring_dva > 0, stride >= 1; got "
                f"{slope}, {px_per_dva}, {fovea_radius_dva}, {ring_dva}, {stride}"
            )
        self.slope, self.px_per_dva = float(slope), float(px_per_dva)
        self.fovea_radius_dva, self.ring_dva = float(fovea_radius_dva), float(ring_dva)
        self.stride, self.mode, self.spacing = int(stride), mode, spacing

    def extra_repr(self) -> str:
        return (
            f"slope={self.slope}, px_per_dva={self.px_per_dva}, fovea_radius_dva={self.fovea_radius_dva}, "
            f"stride={self.stride}, mode={self.mode}, spacing={self.spacing}"
        )

    def kernels(self, height: int, width: int) -> Tensor:
        """(H_out, W_out) side of the window at each output cell for an input of this size; long in rings."""
        return _kernel_map(self._geometry(height, width), self.spacing)

    def is_plain(self, height: int, width: int) -> bool:
        """Whether all windows are the smallest, so that this is plain pooling."""
        if self.slope == 0:
            return True
        longest = max(pooled_side(height, self.stride), pooled_side(width, self.stride))
        if self.spacing == "continuous":
            # The farthest corner still lies in the fovea.
            return self.stride * math.hypot(longest, longest) / 2 < self.fovea_radius_dva * self.px_per_dva
        rings = rings_of(longest, self.px_per_dva, self.slope, self.fovea_radius_dva, self.ring_dva, self.stride)
        return max(rings.kernel) == self.stride

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, ceil(H / stride), ceil(W / stride)); the eye is at the middle."""
        height, width = x.shape[-2:]
        if self.is_plain(height, width):
            return x if self.stride == 1 else same_pool2d(x, self.stride, self.stride, self.mode)
        if self.mode == "max":
            whole = (0, pooled_side(height, self.stride), 0, pooled_side(width, self.stride))
            return self._maximum(x, (height, width), (0, 0), whole)
        rows = slice(0, pooled_side(height, self.stride))
        columns = slice(0, pooled_side(width, self.stride))
        return self.average(x, (height, width), (0, 0), rows, columns)

    def average(self, x: Tensor, hw: tuple[int, int], origin: tuple[int, int], rows: slice, columns: slice) -> Tensor:
        """Average pooling of a part of a map.

        Args:
            x: (B, C, h, w) part of a map.
            hw: Height and width of the whole map.
            origin: Row and column of the whole map at which `x` begins.
            rows: Output rows wanted. Their windows must lie in `x`, apart from what is outside the map.
            columns: Output columns wanted.

        Returns:
            (B, C, rows, columns).

        """
        edges = _window_edges(self._geometry(*hw), self.spacing)
        top, bottom, left, right = (e[rows, columns].to(x.device) for e in edges)
        area = ((bottom - top) * (right - left)).to(torch.float64)
        sums = _summed_area(x)
        (y0, x0), w = origin, x.shape[-1] + 1
        if self.spacing == "continuous":
            total = _at(sums, bottom - y0, right - x0) - _at(sums, top - y0, right - x0)
            total = total - _at(sums, bottom - y0, left - x0) + _at(sums, top - y0, left - x0)
            return (total / area).to(x.dtype)
        flat = sums.flatten(2)

        def corner(row: Tensor, column: Tensor) -> Tensor:
            index = ((row - y0) * w + (column - x0)).flatten()
            return flat.index_select(2, index)

        total = corner(bottom, right).sub_(corner(top, right)).sub_(corner(bottom, left)).add_(corner(top, left))
        mean: Tensor = (total.unflatten(2, area.shape) / area).to(x.dtype)
        return mean

    def reached(self, hw: tuple[int, int], box: Box) -> Box:
        """The output cells (in a box) whose windows touch a box of the input.

        Args:
            hw: Height and width of the input.
            box: First row, last row + 1, first column, last column + 1.

        """
        top, bottom, left, right = _window_edges(self._geometry(*hw), self.spacing)
        touched = (top < box[1]) & (bottom > box[0]) & (left < box[3]) & (right > box[2])
        rows, columns = touched.any(1).nonzero()[:, 0], touched.any(0).nonzero()[:, 0]
        return int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1

    def needed(self, hw: tuple[int, int], box: Box) -> Box:
        """The input cells (in a box) that the windows of a box of output cells cover."""
        edges = _window_edges(self._geometry(*hw), self.spacing)
        top, bottom, left, right = (edge[box[0] : box[1], box[2] : box[3]] for edge in edges)
        low = (math.floor(float(edge.min())) for edge in (top, left))
        high = (math.ceil(float(edge.max())) for edge in (bottom, right))
        (r0, c0), (r1, c1) = low, high
        return r0, r1, c0, c1

    def part(self, x: Tensor, hw: tuple[int, int], origin: tuple[int, int], box: Box) -> Tensor:
        """The output cells of `box`, from a part of the input that holds all that they need; see :meth:`needed`.

        Args:
            x: (B, C, h, w) part of the input.
            hw: Height and width of the whole input.
            origin: Row and column of the whole input at which `x` begins.
            box: Of the output.

        """
        if self.mode == "max":
            return self._maximum(x, hw, origin, box)
        if self.is_plain(*hw):
            return same_pool2d(x, self.stride, self.stride)
        return self.average(x, hw, origin, slice(box[0], box[1]), slice(box[2], box[3]))

    def _maximum(self, x: Tensor, hw: tuple[int, int], origin: tuple[int, int], box: Box) -> Tensor:
        """Each window size only on the box around the cells that use it."""
        kernels = self.kernels(*hw)[box[0] : box[1], box[2] : box[3]]
        out = x.new_empty(*x.shape[:2], *kernels.shape)
        for k in kernels.unique().tolist():
            here = (kernels == k).to(x.device)
            spans, cuts, pads = [], [], []
            for axis, side in enumerate(hw):
                used = here.any(1 - axis).nonzero()[:, 0]
                first, last = int(used[0]), int(used[-1]) + 1
                begin = self.stride * (first + box[2 * axis]) - padding_before(side, k, self.stride)
                end = self.stride * (last - 1 + box[2 * axis]) - padding_before(side, k, self.stride) + k
                # What is not in this part is not in the map either: it never wins.
                low, high = origin[axis], origin[axis] + x.shape[2 + axis]
                spans.append(slice(first, last))
                cuts.append(slice(max(begin, low) - low, min(end, high) - low))
                pads.append((max(low - begin, 0), max(end - high, 0)))
            piece = F.pad(x[..., cuts[0], cuts[1]], (*pads[1], *pads[0]), value=-math.inf)
            pooled = F.max_pool2d(piece, k, self.stride)
            rows, columns = spans
            out[..., rows, columns] = torch.where(here[rows, columns], pooled, out[..., rows, columns])
        return out

    def _geometry(self, height: int, width: int) -> _Geometry:
        return _Geometry(height, width, self.px_per_dva, self.slope, self.fovea_radius_dva, self.ring_dva, self.stride)


class _Geometry(NamedTuple):
    height: int
    width: int
    px_per_dva: float
    slope: float
    fovea_radius_dva: float
    ring_dva: float
    stride: int


@lru_cache(maxsize=64)
def _kernel_map(geometry: _Geometry, spacing: Spacing) -> Tensor:
    rows, columns = (pooled_side(side, geometry.stride) for side in (geometry.height, geometry.width))
    y = torch.arange(rows) - rows // 2
    x = torch.arange(columns) - columns // 2
    squared = y[:, None].square() + x.square()
    if spacing == "continuous":
        beyond = geometry.stride * squared.double().sqrt() - geometry.fovea_radius_dva * geometry.px_per_dva
        return geometry.stride + geometry.slope * beyond.clamp(min=0.0)
    rings = rings_of(
        max(rows, columns), geometry.px_per_dva, geometry.slope, geometry.fovea_radius_dva, geometry.ring_dva,
        geometry.stride,
    )  # fmt: skip
    inner = torch.tensor([r * r for r in rings.radius])
    ring = torch.bucketize(squared, inner, right=True) - 1
    return torch.tensor(rings.kernel)[ring]


@lru_cache(maxsize=64)
def _window_edges(geometry: _Geometry, spacing: Spacing) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(H_out, W_out) top, bottom, left and right edge of every window, cut at the edges of the map."""
    kernel = _kernel_map(geometry, spacing)
    edges: list[Tensor] = []
    stride = geometry.stride
    for axis, side in enumerate((geometry.height, geometry.width)):
        index = stride * torch.arange(pooled_side(side, stride))
        index = (index[:, None] if axis == 0 else index[None]).expand_as(kernel)
        if spacing == "continuous":
            middle = index - padding_before(side, stride, stride) + stride / 2.0
            first, last = middle - kernel / 2.0, middle + kernel / 2.0
        else:
            before = {k: padding_before(side, k, stride) for k in kernel.unique().tolist()}
            shift = torch.zeros(int(kernel.max()) + 1, dtype=torch.long)
            for k, n in before.items():
                shift[k] = n
            first = index - shift[kernel]
            last = first + kernel
        edges += [first.clamp(0, side), last.clamp(0, side)]
    return edges[0], edges[1], edges[2], edges[3]


def _summed_area(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, C, H + 1, W + 1) float64, sums of all cells above and to the left of a corner.

    In double, so that differences of large sums are as exact as a sum of a few cells in single precision.
    """
    sums = torch.zeros(*x.shape[:2], x.shape[2] + 1, x.shape[3] + 1, dtype=torch.float64, device=x.device)
    inner = x.double().cumsum(2).cumsum(3)
    if x.requires_grad:
        return F.pad(inner, (1, 0, 1, 0))
    sums[:, :, 1:, 1:] = inner
    return sums


def _at(sums: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """Summed areas at (rows, columns) fractional corners: bilinear, since cells are constant within."""
    height, width = sums.shape[-2] - 1, sums.shape[-1] - 1
    grid = torch.stack([2.0 * column / width - 1.0, 2.0 * row / height - 1.0], -1).double()
    return F.grid_sample(sums, grid[None].expand(len(sums), -1, -1, -1), align_corners=True, padding_mode="border")


def vgg16_pools(
    px_per_dva: float = 30.0, mode: Mode = "avg", spacing: Spacing = "rings", slopes: tuple[float, ...] = VGG16_SLOPES
) -> list[EccentricPool2d]:
    """The five pooling stages of the published eccentric VGG16, whose input has `px_per_dva`."""
    # Each stage's input is half as large; degrees are rounded to whole cells, half to even.
    density = [max(1, round(px_per_dva / 2**stage)) for stage in range(len(slopes))]
    return [EccentricPool2d(s, d, mode=mode, spacing=spacing) for s, d in zip(slopes, density, strict=True)]
