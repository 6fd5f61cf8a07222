"""What there is to look at on a photograph where nobody has drawn boxes: equal cells, or superpixels.

A superpixel is stood in for by the box of its area and proportions around its middle: superpixels fill the picture, and
so do such boxes but for small overlaps and gaps, which their bounding boxes would not.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from gazekit.batch import ObjectLayout
from gazekit.errors import InputError

_HOW = "expected superpixels, superpixels:N, superpixels:N:COMPACTNESS or cells:COLUMNSxROWS"
# Superpixels are found on a picture of at most so many pixels a side: as good, and much faster.
_LONGEST_PX = 480
_MOST = 10_000


@dataclass(frozen=True)
class Proposals:
    """How objects are proposed on a picture.

    Args:
        n: Superpixels that are asked for. Segments that are too small join their neighbours: on photographs often half
            to three quarters as many come, and on noise a single one.
        compactness: Of superpixels: large values make squares, small ones follow the colors.
        cells: (columns, rows) of equal cells instead.

    """

    n: int = 48
    compactness: float = 10.0
    cells: tuple[int, int] | None = None

    _CELLS: ClassVar = re.compile(r"cells:(\d{1,4})x(\d{1,4})")
    _SUPERPIXELS: ClassVar = re.compile(r"superpixels(?::(\d{1,6}))?(?::(\d{1,6}(?:\.\d{1,6})?))?")

    @classmethod
    def parse(cls, text: str) -> Proposals:
        """``superpixels``, ``superpixels:60``, ``superpixels:60:20`` (their compactness) or ``cells:8x6``.

        Raises:
            InputError: It is something else, or a number is not positive.

        """
        if not isinstance(text, str):
            raise InputError(f"proposals of objects are {text!r}; {_HOW}")
        if found := cls._CELLS.fullmatch(text):
            made = cls(cells=(int(found[1]), int(found[2])))
            n = math.prod(made.cells or ())
        elif found := cls._SUPERPIXELS.fullmatch(text):
            n, compactness = int(found[1] or cls.n), float(found[2] or cls.compactness)
            made = cls(n, compactness)
        else:
            raise InputError(f"proposals of objects are {text!r}; {_HOW}")
        if not 1 <= n <= _MOST or not made.compactness > 0:
            raise InputError(f"proposals of objects are {text!r}; expected 1 to {_MOST} of them, and above 0")
        return made

    @property
    def of_pictures(self) -> bool:
        """Whether they depend on the picture."""
        return self.cells is None

    def layout(self, image: Tensor | None, size_wh_px: tuple[int, int]) -> ObjectLayout:
        """The objects of S pictures, (S, 3, H, W) RGB in [0, 1]; equal cells are those of one, whatever it shows.

        Raises:
            InputError: Superpixels are asked for, and there is no picture, or it has fewer pixels than that.

        """
        if self.cells is not None:
            return ObjectLayout.grid(size_wh_px, *self.cells)
        if image is None:
            raise InputError(
                "superpixels are of pictures, and there are none; take equal cells (cells:8x6) where a dataset comes "
                "without, or give the boxes"
            )
        return layout_of_boxes([self.superpixels(one) for one in image])

    def superpixels(self, image: Tensor) -> NDArray[np.float64]:
        """(3, H, W) picture -> (N, 4) boxes, from top left to bottom right, of SLIC's segments.

        Raises:
            InputError: The picture has fewer pixels than superpixels are asked for.

        """
        from skimage.segmentation import slic

        height, width = image.shape[-2:]
        if self.n > height * width:
            raise InputError(f"{self.n} superpixels on a picture of {width}x{height} px; ask for fewer")
        shrink = min(1.0, _LONGEST_PX / max(height, width))
        small = image[None].float().cpu()
        if shrink < 1.0:
            size = max(1, round(height * shrink)), max(1, round(width * shrink))
            small = F.interpolate(small, size, mode="bilinear", antialias=True, align_corners=False)
        labels = slic(
            small[0].permute(1, 2, 0).numpy(), n_segments=self.n, compactness=self.compactness, start_label=0
        )  # fmt: skip
        h, w = labels.shape
        boxes: NDArray[np.float64] = _boxes_of_segments(labels) * np.tile([width / w, height / h], 2)
        return boxes


def _boxes_of_segments(labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """(H, W) numbers of segments -> (N, 4) boxes of their areas and proportions around their middles, in rows."""
    area = np.bincount(labels.ravel()).astype(float)
    there = area > 0
    area = area[there]
    sides, middles = [], []
    for axis, n in ((1, labels.shape[1]), (0, labels.shape[0])):
        at = np.broadcast_to(np.arange(n) + 0.5 if axis == 1 else (np.arange(n) + 0.5)[:, None], labels.shape).ravel()
        mean = np.bincount(labels.ravel(), at)[there] / area
        square = np.bincount(labels.ravel(), at**2)[there] / area
        middles.append(mean)
        # A box of width w has a variance of w^2 / 12; a pixel is a box, too.
        sides.append(np.sqrt(12.0 * np.maximum(square - mean**2, 0.0) + 1.0))
    middle, side = np.stack(middles, 1), np.stack(sides, 1)
    side *= np.sqrt(area / side.prod(1))[:, None]
    size = np.array(labels.shape[::-1], float)
    boxes = np.concatenate([np.maximum(middle - side / 2, 0.0), np.minimum(middle + side / 2, size)], 1)
    place = place_of_boxes(boxes)
    ordered: NDArray[np.float64] = boxes[np.lexsort((middle[:, 0], place[:, 0]))]
    return ordered


def place_of_boxes(boxes: NDArray[np.float64]) -> NDArray[np.int64]:
    """(N, 4) boxes -> (N, 2) row and column of each among the others, from 0.

    Boxes whose middles are less than half a typical box apart share a row, or a column. Where that would join boxes
    that are far from each other, because there are no rows, a row is as high as a typical box.
    """
    middle = (boxes[:, :2] + boxes[:, 2:]) / 2.0
    size = np.median(boxes[:, 2:] - boxes[:, :2], axis=0)
    columns, rows = (_steps(middle[:, axis], size[axis]) for axis in (0, 1))
    return np.stack([rows, columns], 1)


def _steps(value: NDArray[np.float64], size: float) -> NDArray[np.int64]:
    """(N,) which group of neighbouring values each is in; a new one begins after a jump of more than half a `size`."""
    if not len(value):
        return np.zeros(0, np.int64)
    order = np.argsort(value, kind="stable")
    group = np.empty(len(value), np.int64)
    group[order] = np.concatenate([[0], np.cumsum(np.diff(value[order]) > size / 2.0)])
    reach = np.zeros(group.max() + 1), np.full(group.max() + 1, np.inf)
    np.maximum.at(reach[0], group, value)
    np.minimum.at(reach[1], group, value)
    if (reach[0] - reach[1]).max() <= size:
        return group
    stepped: NDArray[np.int64] = ((value - value.min()) / size).astype(np.int64)
    return stepped


def layout_of_boxes(
    boxes: Sequence[NDArray[np.float64]], scales: Sequence[tuple[float, float]] | None = None
) -> ObjectLayout:
    """The (N, 4) boxes of each of S stimuli, in the order of their rows, multiplied by (x, y) scales."""
    most = max(map(len, boxes))
    box = torch.zeros(len(boxes), most, 4)
    place = torch.zeros(len(boxes), most, 2, dtype=torch.long)
    there = torch.zeros(len(boxes), most, dtype=torch.bool)
    for i, own in enumerate(boxes):
        scale = (1.0, 1.0) if scales is None else scales[i]
        box[i, : len(own)] = torch.from_numpy(own * np.tile(scale, 2)).float()
        place[i, : len(own)] = torch.from_numpy(place_of_boxes(own))
        there[i, : len(own)] = True
    return ObjectLayout(box, place, there)
