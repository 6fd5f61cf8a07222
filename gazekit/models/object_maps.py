"""Between objects and pixels: the objects of a batch, densities over them as densities over pixels, and back."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gazekit.batch import ObjectLayout, TrialBatch
from gazekit.proposals import Proposals

# Share of looks at an object that land beside it, nearer to it than to any other, where there is such a place.
_BESIDE = 0.05
# Rows of pixels whose nearest object is looked for at once.
_ROWS = 64
# Draws per point, until one lies on the object itself and not on one that covers it.
_TRIES = 5


def layout_of(batch: TrialBatch, grid: tuple[int, int], proposals: Proposals | None = None) -> ObjectLayout:
    """The objects of the batch; where it has none, those proposed, or (columns, rows) equal cells on each stimulus."""
    if batch.objects is not None:
        return batch.objects
    if proposals is not None and proposals.of_pictures:
        return proposals.layout(batch.image, batch.size_wh_px).to(batch.device)
    if proposals is not None and proposals.cells is not None:
        grid = proposals.cells
    cells = ObjectLayout.grid(batch.size_wh_px, *grid).to(batch.device)
    return cells.pick(torch.zeros(len(batch.stimulus), dtype=torch.long, device=batch.device))


def target_objects(batch: TrialBatch, layout: ObjectLayout) -> Tensor:
    """(B,) long: the object in the middle of the target's box, -1 where no box is known."""
    unknown = torch.full((len(batch),), -1, device=batch.device)
    if batch.search is None:
        return unknown
    box, known = batch.search.box_px, batch.search.has_box & batch.search.present
    middle = (box[:, :2] + box[:, 2:]) / 2
    return layout.under(middle[:, None], batch.stimulus_of_trial)[:, 0].where(known, unknown)


@dataclass(frozen=True)
class Territory:
    """Which object each pixel of one stimulus belongs to, and the log share of the object's looks that it gets.

    Args:
        owner: (H, W) long.
        log_share: (H, W); an object's shares sum to one.
        owns: (N,) bool, False for an object that others hide.

    """

    owner: Tensor
    log_share: Tensor
    owns: Tensor


def territories(layout: ObjectLayout, size_wh_px: tuple[int, int]) -> list[Territory]:
    """Of each stimulus: looks at an object spread over its box, a few of them over what lies around it."""
    width, height = size_wh_px
    device = layout.box_px.device
    found = []
    for s in range(len(layout.box_px)):
        one = layout.pick([s])
        owner = torch.full((height, width), -1, dtype=torch.long, device=device)
        # A pixel is where its middle is.
        edges = (one.box_px[0] - 0.5).ceil().long().cpu().tolist()
        for i in reversed(range(len(edges))):  # where boxes overlap the first one counts
            left, top, right, bottom = (max(0, edge) for edge in edges[i])
            if one.there[0, i]:
                owner[top:bottom, left:right] = i
        on_box = owner >= 0
        _fill_between(owner, one)
        n = one.there.shape[1]
        inside = torch.bincount(owner[on_box], minlength=n)
        beside = torch.bincount(owner[~on_box], minlength=n)
        share = torch.where(beside > 0, _BESIDE, 0.0).where(inside > 0, torch.ones(n, device=device))
        of_box = (1.0 - share).log() - inside.log()
        of_gap = share.log() - beside.log()
        log_share = torch.where(on_box, of_box[owner], of_gap[owner])
        found.append(Territory(owner, log_share, (inside + beside) > 0))
    return found


def _fill_between(owner: Tensor, one: ObjectLayout) -> None:
    """Give pixels outside all boxes to the object with the nearest middle, in place."""
    row, column = (owner < 0).nonzero(as_tuple=True)
    center = one.center_px[0].masked_fill(~one.there[0, :, None], torch.inf)
    for some in torch.arange(len(row), device=owner.device).split(_ROWS * 1024):
        at = torch.stack([column[some], row[some]], -1) + 0.5
        owner[row[some], column[some]] = (at[:, None] - center).square().sum(-1).argmin(1)


def density_over_pixels(log_p: Tensor, territory: Territory) -> Tensor:
    """(..., N) log-probabilities of objects -> (..., H, W) log-density over pixels."""
    # What nobody can look at is not looked at.
    seen = log_p.masked_fill(~territory.owns, -torch.inf).log_softmax(-1)
    return seen[..., territory.owner] + territory.log_share


def points_on_objects(
    objects: Tensor, stimulus: Tensor, layout: ObjectLayout, uniform: Tensor, batch: TrialBatch
) -> Tensor:
    """(B, n, T) objects -> (B, n, T, 2) px, anywhere on the box of each.

    Args:
        objects: Numbers.
        stimulus: (B,) row of the layout.
        layout: Of the S stimuli.
        uniform: (tries, B, n, T, 2) in [0, 1); a point on a covering object is drawn again.
        batch: For the size of the picture, outside which no point lies.

    """
    size = torch.tensor(batch.size_wh_px, dtype=torch.float32, device=batch.device)
    box = layout.box_px[stimulus[:, None, None], objects]
    low, high = box[..., :2].clamp(min=0.0), torch.minimum(box[..., 2:], size)
    # Just below the edge: float32 must not round up onto the next object.
    uniform = uniform.clamp(max=1 - 1e-4).float().to(batch.device)
    xy = low + uniform[0] * (high - low)
    for again in uniform[1:]:
        hit = layout.under(xy.flatten(1, 2), stimulus).view(objects.shape) == objects
        if bool(hit.all()):
            break
        xy = torch.where(hit[..., None], xy, low + again * (high - low))
    return torch.minimum(xy.clamp(min=0.0), size - 1e-3)


def draws_of_points(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """(tries, *shape, 2) numbers for :func:`points_on_objects`."""
    return torch.rand(_TRIES, *shape, 2, generator=generator)
