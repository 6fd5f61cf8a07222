"""Scanpaths as strings: one symbol per fixation, by grid cell, cluster, label under it, or object.

A symbol is a whole number that only has to be equal or not; a string is (P, N) symbols with a prefix mask.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Literal

import torch
from torch import Tensor

from gazekit.errors import InputError

Rounding = Literal["half_even", "floor"]
# What all pixels without a label have in common.
UNLABELLED = -1
# Numbers in a working copy; 8 MB in double precision.
_CHUNK = 2**20
# Nobody looks at one place for a minute; milliseconds would make strings of many thousand symbols.
_LONGEST_FIXATION_S = 60.0


def grid_symbols(xy_px: Tensor, valid: Tensor, *, size_wh_px: tuple[int, int], bins_wh: tuple[int, int]) -> Tensor:
    """(P, N) number of the grid cell, row by row from the top left: ``by * nx + bx``, ``bx = floor(x * nx / W)``.

    Positions outside the image count for the nearest cell. Cells need not hold a whole number of pixels.

    Args:
        xy_px: (P, N, 2) fixations as (x, y) px.
        valid: (P, N) bool, True ... True False ...
        size_wh_px: Image size that the grid divides.
        bins_wh: Cells per row and per column.

    Returns:
        (P, N) long; 0 where not valid.

    Raises:
        InputError: Shapes do not fit, a valid position is not finite, or the grid is not one.

    """
    check_path(xy_px, valid)
    check_grid(size_wh_px, bins_wh)
    xy = xy_px.masked_fill(~valid[..., None], 0.0).double()  # so that single precision finds the same cells
    column, row = (
        (position * n / size).floor().clamp(0, n - 1).long()
        for position, n, size in zip(xy.unbind(-1), bins_wh, size_wh_px, strict=True)
    )
    return (row * bins_wh[0] + column).masked_fill(~valid, 0)


def cluster_symbols(
    xy_px: Tensor,
    valid: Tensor,
    *,
    centers_px: Tensor,
    centers_valid: Tensor | None = None,
    image: Tensor | None = None,
) -> Tensor:
    """(P, N) number of the nearest cluster centre, the first one of equally near ones.

    Args:
        xy_px: (P, N, 2) fixations as (x, y) px.
        valid: (P, N) bool, True ... True False ...
        centers_px: (K, 2), one alphabet for all, or (I, K, 2), one per image.
        centers_valid: Of the same shape without its last axis, False where an image has fewer than K clusters.
        image: (P,) long, which of the I alphabets belongs to each path; None if there is one.

    Returns:
        (P, N) long; 0 where not valid.

    Raises:
        InputError: Shapes do not fit, a position or a centre is not finite, or an image has no centre.

    """
    check_path(xy_px, valid)
    centers, usable = _per_image(centers_px, centers_valid, "centers_px", ("x", "y"))
    rows = _image_rows(image, len(centers), xy_px)
    centers = centers.masked_fill(~usable[..., None], torch.inf)

    def nearest(xy: Tensor, chunk: Tensor) -> Tensor:
        offset = xy[:, :, None] - centers[rows[chunk]][:, None]
        return offset.square().sum(-1).argmin(-1)

    return _in_chunks(nearest, xy_px, valid, centers.shape[1])


def label_symbols(
    xy_px: Tensor,
    valid: Tensor,
    *,
    labels: Tensor,
    unlabelled: Collection[int] = (),
    image: Tensor | None = None,
) -> Tensor:
    """(P, N) label of the pixel under each fixation; all unlabelled pixels share the symbol -1.

    Positions outside the map count for the nearest pixel. Label maps are resized with nearest neighbour only.

    Args:
        xy_px: (P, N, 2) fixations as (x, y) px of the label map.
        valid: (P, N) bool, True ... True False ...
        labels: (H, W) or (I, H, W) integers, as panoptic or stuff classes.
        unlabelled: Values that mean "no label", such as 0 and 255.
        image: (P,) long, which of the I maps belongs to each path; None if there is one.

    Returns:
        (P, N) long; 0 where not valid.

    Raises:
        InputError: Shapes do not fit, a valid position is not finite, or labels are not integers.

    """
    check_path(xy_px, valid)
    if labels.ndim not in (2, 3) or not labels.numel() or not _is_integer(labels):
        raise InputError(f"labels must be (H, W) or (I, H, W) integers; got {tuple(labels.shape)} {labels.dtype}")
    maps = labels if labels.ndim == 3 else labels[None]
    rows = _image_rows(image, len(maps), xy_px)
    height, width = maps.shape[-2:]
    x, y = xy_px.masked_fill(~valid[..., None], 0.0).unbind(-1)
    found = maps[rows[:, None], y.floor().clamp(0, height - 1).long(), x.floor().clamp(0, width - 1).long()].long()
    if len(unlabelled):
        nothing = torch.isin(found, torch.tensor(sorted(unlabelled), device=found.device))
        found = found.masked_fill(nothing, UNLABELLED)
    return found.masked_fill(~valid, 0)


def object_symbols(
    xy_px: Tensor,
    valid: Tensor,
    *,
    boxes_px: Tensor,
    boxes_valid: Tensor | None = None,
    image: Tensor | None = None,
) -> Tensor:
    """(P, N) number of the first box that contains the fixation, else of the box with the nearest centre.

    Args:
        xy_px: (P, N, 2) fixations as (x, y) px.
        valid: (P, N) bool, True ... True False ...
        boxes_px: (K, 4) or (I, K, 4) as (left, top, right, bottom), half-open: left <= x < right.
        boxes_valid: Of the same shape without its last axis, False where an image has fewer than K objects.
        image: (P,) long, which of the I layouts belongs to each path; None if there is one.

    Returns:
        (P, N) long; 0 where not valid.

    Raises:
        InputError: Shapes do not fit, a position or a box is not finite, or an image has no box.

    """
    check_path(xy_px, valid)
    boxes, usable = _per_image(boxes_px, boxes_valid, "boxes_px", ("left", "top", "right", "bottom"))
    rows = _image_rows(image, len(boxes), xy_px)

    def on(xy: Tensor, chunk: Tensor) -> Tensor:
        left, top, right, bottom = boxes[rows[chunk]][:, None].unbind(-1)
        known = usable[rows[chunk]][:, None]
        x, y = xy[:, :, None].unbind(-1)
        inside = (left <= x) & (x < right) & (top <= y) & (y < bottom) & known
        sq_dist = (x - (left + right) / 2).square() + (y - (top + bottom) / 2).square()
        nearest = sq_dist.masked_fill(~known, torch.inf).argmin(-1)
        # argmax of equal numbers need not give the first; of falling ones it does.
        rank = torch.arange(inside.shape[-1], 0, -1, device=inside.device)
        return torch.where(inside.any(-1), (inside * rank).argmax(-1), nearest)

    return _in_chunks(on, xy_px, valid, boxes.shape[1])


def repeat_symbols(
    symbols: Tensor,
    valid: Tensor,
    duration_s: Tensor,
    *,
    temporal_bin_s: float,
    rounding: Rounding = "half_even",
) -> tuple[Tensor, Tensor]:
    """The strings with each symbol as often as its fixation lasted temporal bins.

    A number of bins within a millionth of a half (or of a whole) counts as one, so that 0.175 s over 0.05 s is
    3.5 bins in any precision, as 175 ms over 50 ms is. A fixation may vanish.

    Args:
        symbols: (P, N) integers.
        valid: (P, N) bool, True ... True False ...
        duration_s: (P, N) fixation durations.
        temporal_bin_s: Bin width.
        rounding: Of the number of bins: "half_even" as ScanMatch, or "floor" as Gazeformer's score with durations.

    Returns:
        (P, L) symbols, 0 where not valid, and their (P, L) prefix mask; L is the longest string.

    Raises:
        InputError: Shapes do not fit, a valid duration is negative or not finite, or an option is unknown.

    """
    check_string(symbols, valid)
    check_durations(duration_s, valid)
    if not (0 < temporal_bin_s < float("inf")):
        raise InputError(f"temporal_bin_s must be positive; got {temporal_bin_s}")
    if rounding not in ("half_even", "floor"):
        raise InputError(f"rounding must be 'half_even' or 'floor'; got {rounding!r}")
    duration_s = duration_s.masked_fill(~valid, 0.0).double()
    if duration_s.numel() and float(duration_s.max()) > _LONGEST_FIXATION_S:
        raise InputError(f"a fixation of {float(duration_s.max())} s? Durations are in seconds; divide ms by 1000")
    bins = duration_s / temporal_bin_s
    halves = (2 * bins).round() / 2
    bins = torch.where((bins - halves).abs() <= 1e-6 * bins, halves, bins)
    count = (bins.round() if rounding == "half_even" else bins.floor()).long()
    end = count.cumsum(1)
    length = end[:, -1] if end.shape[1] else end.new_zeros(len(end))
    longest = int(length.max()) if len(length) else 0
    at = torch.arange(longest, device=symbols.device).expand(len(symbols), longest)
    repeated = at < length[:, None]
    source = torch.searchsorted(end, at.contiguous(), right=True).masked_fill(~repeated, 0)
    return symbols.gather(1, source).masked_fill(~repeated, 0), repeated


def check_path(xy_px: Tensor, valid: Tensor, name: str = "xy_px") -> None:
    """Raise an InputError unless xy_px is (P, N, 2) real, valid its prefix mask, and what is valid finite."""
    if xy_px.ndim != 3 or xy_px.shape[-1] != 2 or xy_px.is_complex():
        raise InputError(f"{name} must be (P, N, 2) positions; got {tuple(xy_px.shape)} {xy_px.dtype}")
    check_prefix(valid, tuple(xy_px.shape[:2]), name)
    broken = ~xy_px.isfinite().all(-1) & valid
    if broken.any():
        pair, step = broken.nonzero()[0].tolist()
        raise InputError(
            f"{name} of pair {pair}, fixation {step}: (x, y) = {xy_px[pair, step].tolist()} is not finite; "
            f"drop such fixations first"
        )


def check_string(symbols: Tensor, valid: Tensor, name: str = "symbols") -> None:
    """Raise an InputError unless symbols is (P, N) integers and valid its prefix mask."""
    if symbols.ndim != 2 or not _is_integer(symbols):
        raise InputError(f"{name} must be (P, N) integers; got {tuple(symbols.shape)} {symbols.dtype}")
    check_prefix(valid, tuple(symbols.shape), name)


def check_strings(a: Tensor, a_valid: Tensor, b: Tensor, b_valid: Tensor) -> None:
    """Raise an InputError unless a and b are strings of as many pairs."""
    check_string(a, a_valid, "a")
    check_string(b, b_valid, "b")
    if len(a) != len(b):
        raise InputError(f"a and b must be as many strings, pair by pair; got {len(a)} and {len(b)}")


def check_prefix(valid: Tensor, shape: tuple[int, ...], name: str) -> None:
    """Raise an InputError unless valid is a bool mask of the shape with no gap before a valid fixation."""
    if tuple(valid.shape) != shape or valid.dtype != torch.bool:
        raise InputError(f"valid of {name} must be {shape} bool; got {tuple(valid.shape)} {valid.dtype}")
    gap = valid[:, 1:] & ~valid[:, :-1]
    if gap.any():
        pair, step = gap.nonzero()[0].tolist()
        raise InputError(
            f"{name} of pair {pair}, fixation {step + 1} is valid after one that is not; "
            f"move padding to the end of the path"
        )


def check_durations(duration_s: Tensor, valid: Tensor, name: str = "duration_s") -> None:
    """Raise an InputError unless there is a finite duration of at least 0 for every valid fixation."""
    if duration_s.shape != valid.shape or duration_s.is_complex():
        raise InputError(f"{name} must be {tuple(valid.shape)}, one per fixation; got {tuple(duration_s.shape)}")
    broken = ~((duration_s >= 0) & duration_s.isfinite()) & valid
    if broken.any():
        pair, step = broken.nonzero()[0].tolist()
        raise InputError(
            f"{name} of pair {pair}, fixation {step}: {float(duration_s[pair, step])} is not a duration in seconds; "
            f"drop such fixations first"
        )


def check_grid(size_wh_px: tuple[int, int], bins_wh: tuple[int, int]) -> None:
    """Raise an InputError unless both are two positive numbers, and no cell is narrower than a pixel."""
    whole = all(isinstance(n, int) for n in bins_wh)
    if len(size_wh_px) != 2 or len(bins_wh) != 2 or not whole or min(bins_wh) < 1:
        raise InputError(f"size_wh_px and bins_wh must be two positive numbers each; got {size_wh_px} and {bins_wh}")
    if any(not n <= size < float("inf") for n, size in zip(bins_wh, size_wh_px, strict=True)):
        raise InputError(f"a grid of {bins_wh[0]}x{bins_wh[1]} cells does not fit {size_wh_px[0]}x{size_wh_px[1]} px")


def _is_integer(values: Tensor) -> bool:
    return not (values.is_floating_point() or values.is_complex() or values.dtype == torch.bool)


def _per_image(values: Tensor, valid: Tensor | None, name: str, axes: tuple[str, ...]) -> tuple[Tensor, Tensor]:
    """(I, K, ...) float64 places with their (I, K) mask."""
    if values.ndim not in (2, 3) or values.shape[-1] != len(axes) or values.is_complex():
        raise InputError(f"{name} must be (K, {len(axes)}) or (I, K, {len(axes)}) px; got {tuple(values.shape)}")
    known = values.new_ones(values.shape[:-1], dtype=torch.bool) if valid is None else valid
    if known.shape != values.shape[:-1] or known.dtype != torch.bool:
        raise InputError(f"the mask of {name} must be {tuple(values.shape[:-1])} bool; got {tuple(known.shape)}")
    if values.ndim == 2:
        values, known = values[None], known[None]
    if not known.any(-1).all():
        raise InputError(f"{name}: image {int((~known.any(-1)).nonzero()[0])} has none; every image needs one")
    broken = known & ~values.isfinite().all(-1)
    if broken.any():
        which, number = broken.nonzero()[0].tolist()
        raise InputError(f"{name} of image {which}, number {number}: {values[which, number].tolist()} is not finite")
    return values.masked_fill(~known[..., None], 0.0).double(), known


def _image_rows(image: Tensor | None, n_images: int, xy_px: Tensor) -> Tensor:
    """(P,) long row of each path in a table of images."""
    if image is None:
        if n_images != 1:
            raise InputError(f"there are {n_images} images; say with image=(P,) which one each pair belongs to")
        return torch.zeros(len(xy_px), dtype=torch.long, device=xy_px.device)
    if image.shape != xy_px.shape[:1] or not _is_integer(image):
        raise InputError(f"image must be ({len(xy_px)},) integers; got {tuple(image.shape)} {image.dtype}")
    if len(image) and not 0 <= int(image.min()) <= int(image.max()) < n_images:
        raise InputError(f"image must be in 0 ... {n_images - 1}; got {int(image.min())} to {int(image.max())}")
    return image.long()


def _in_chunks(encode: Callable[[Tensor, Tensor], Tensor], xy_px: Tensor, valid: Tensor, n_places: int) -> Tensor:
    """(P, N) symbols from an encoder that compares every fixation with every place."""
    xy = xy_px.masked_fill(~valid[..., None], 0.0).double()
    n_rows = max(1, _CHUNK // max(1, xy.shape[1] * n_places))
    found = torch.zeros(valid.shape, dtype=torch.long, device=xy.device)
    for rows in torch.arange(len(xy), device=xy.device).split(n_rows):
        found[rows] = encode(xy[rows], rows)
    return found.masked_fill(~valid, 0)
