"""The saliency map of Itti, Koch & Niebur (1998), and the winner-take-all scanpath with inhibition of return on it.

Itti, Koch & Niebur, A Model of Saliency-Based Visual Attention for Rapid Scene Analysis, IEEE PAMI 20(11), 1254-1259.
Nine scales of intensity, two color opponencies and four orientations; center scales 2, 3, 4 and surrounds three and
four scales coarser; each of the 42 maps is promoted by how far its maximum stands out; sums at scale 4. What the paper
leaves open is stated where it is chosen.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from gazekit.batch import Scanpaths, TrialBatch
from gazekit.density import to_density
from gazekit.errors import InputError
from gazekit.models.base import GazeModel

_SCALES, _CENTERS, _DELTAS, _OUT = 9, (2, 3, 4), (3, 4), 4
# The paper does not give the Gabor filters; these have one cycle in 7 px and an SD of a third of that.
_GABOR_TAPS, _GABOR_PERIOD_PX = 9, 7.0
# A focus of attention lasts 30 to 70 ms there and is inhibited for 500 to 900 ms: in the middle, 14 foci.
_INHIBITED_FOCI = 14
# Below a hundredth of a gray level of 8 bits nothing is shown.
_FLAT = 1e-5


class IttiKoch(GazeModel):
    """Saliency as a density; its scanpath is deterministic: maximum after maximum, each inhibited for a while.

    Args:
        uniform_share: Of the density, so that no pixel is impossible.
        ior_radius: Radius of the inhibited disk in shorter sides of the image.
        ior_fixations: For how many fixations a place is inhibited.

    """

    zero_shot: ClassVar[bool] = True
    deterministic: ClassVar[bool] = True

    def __init__(
        self, uniform_share: float = 0.01, ior_radius: float = 1.0 / 6.0, ior_fixations: int = _INHIBITED_FOCI
    ) -> None:
        super().__init__()
        if not 0.0 < uniform_share <= 1.0 or not ior_radius > 0.0 or ior_fixations < 1:
            raise InputError(
                f"expected 0 < uniform_share <= 1, ior_radius > 0 and ior_fixations >= 1, found {uniform_share}, "
                f"{ior_radius} and {ior_fixations}"
            )
        self.save_hyperparameters()
        self.uniform_share, self.ior_radius, self.ior_fixations = uniform_share, ior_radius, ior_fixations

    def log_density(self, batch: TrialBatch) -> Tensor:
        if batch.image is None:
            raise InputError("itti_koch looks at pixels, and the batch has no images")
        width, height = batch.size_wh_px
        saliency = saliency_map(batch.image)
        full = F.interpolate(saliency[:, None], (height, width), mode="bilinear", align_corners=False)[:, 0]
        density = (1.0 - self.uniform_share) * to_density(full.double()) + self.uniform_share / (width * height)
        return batch.per_trial(density.log().float())

    def sample(self, batch: TrialBatch, n: int, length: int, generator: torch.Generator) -> Scanpaths:
        """The one winner-take-all scanpath, n times; `generator` is not drawn from."""
        del generator
        if batch.image is None:
            raise InputError("itti_koch looks at pixels, and the batch has no images")
        radius_px = self.ior_radius * min(batch.size_wh_px)
        paths = winner_take_all(
            saliency_map(batch.image), batch.size_wh_px, length, radius_px=radius_px, fixations=self.ior_fixations
        )
        xy = paths[batch.stimulus_of_trial][:, None].expand(-1, n, -1, -1).contiguous()
        return Scanpaths(xy, torch.ones(xy.shape[:-1], dtype=torch.bool, device=xy.device))


def winner_take_all(
    saliency: Tensor, size_wh_px: tuple[int, int], length: int, *, radius_px: float, fixations: int
) -> Tensor:
    """(S, h, w) maps -> (S, length, 2) px: the maximum, then the maximum outside the disks around the last ones.

    What the leaky integrate-and-fire neurons of the paper settle on, without their dynamics.

    Args:
        saliency: Maps of any resolution.
        size_wh_px: Of the images.
        length: Number of fixations.
        radius_px: Of an inhibited disk.
        fixations: For how many fixations a disk stays; where disks cover everything, all are released.

    """
    n, h, w = saliency.shape
    y = (torch.arange(h, device=saliency.device) + 0.5) * size_wh_px[1] / h
    x = (torch.arange(w, device=saliency.device) + 0.5) * size_wh_px[0] / w
    free_again = torch.zeros(n, h, w, dtype=torch.long, device=saliency.device)
    path = []
    for k in range(length):
        inhibited = free_again > k
        inhibited &= ~inhibited.flatten(1).all(1)[:, None, None]
        winner = saliency.masked_fill(inhibited, -math.inf).flatten(1).argmax(1)
        at = torch.stack([x[winner % w], y[winner // w]], -1)
        path.append(at)
        near = (x - at[:, 0, None]).square()[:, None, :] + (y - at[:, 1, None]).square()[:, :, None] <= radius_px**2
        free_again = free_again.masked_fill(near, k + 1 + fixations)
    return torch.stack(path, 1)


def saliency_map(image: Tensor) -> Tensor:
    """(S, 3, H, W) RGB in [0, 1] -> (S, h, w) saliency at scale 4, a sixteenth of the image's size."""
    red, green, blue = image.unbind(1)
    intensity = image.mean(1)
    # Hue is read only where there is light enough to see it: above a tenth of the image's maximum.
    light = intensity.amax((-2, -1), keepdim=True)
    seen = intensity > light / 10.0
    red, green, blue = (
        torch.where(seen, c / intensity.clamp(min=1e-6), torch.zeros_like(c)) for c in (red, green, blue)
    )
    r, g, b = red - (green + blue) / 2.0, green - (red + blue) / 2.0, blue - (red + green) / 2.0
    yellow = (red + green) / 2.0 - (red - green).abs() / 2.0 - blue
    r, g, b, yellow = (c.clamp(min=0.0) for c in (r, g, b, yellow))
    # A cell excited by red and inhibited by green in its center is driven the other way in its surround, so the
    # center's red minus green is compared with the surround's red minus green.
    levels = _pyramid(torch.stack([intensity, r - g, b - yellow], 1))
    size = levels[_OUT].shape[-2:]
    oriented = [_oriented(level[:, :1]) for level in levels]
    intensities = _summed([_across(levels, c, d)[:, :1] for c in _CENTERS for d in _DELTAS], size)
    colors = _summed([_across(levels, c, d)[:, 1:] for c in _CENTERS for d in _DELTAS], size).sum(1, keepdim=True)
    orientations = _summed([_across(oriented, c, d) for c in _CENTERS for d in _DELTAS], size)
    promoted = [promote(intensities), promote(colors), promote(promote(orientations).sum(1, keepdim=True))]
    return torch.cat(promoted, 1).mean(1)


def promote(maps: Tensor) -> Tensor:
    """(S, C, h, w) -> the same, scaled to [0, 1] and by the square of how far the maximum is above the other maxima.

    The paper's operator N: a map with one peak is promoted, one with many like it suppressed. The mean is over the
    local maxima other than the global one; a map without any keeps its range.
    """
    low, high = maps.amin((-2, -1), keepdim=True), maps.amax((-2, -1), keepdim=True)
    spread = high - low
    # Float32 rounding of a flat map must not be stretched to a range of its own.
    scaled = torch.where(spread > _FLAT, (maps - low) / spread.clamp(min=_FLAT), torch.zeros_like(maps))
    peaks = (scaled == F.max_pool2d(scaled, 3, 1, 1)) & (scaled > 0.0)
    n_other = peaks.sum((-2, -1), keepdim=True) - 1
    mean_other = ((scaled * peaks).sum((-2, -1), keepdim=True) - 1.0) / n_other.clamp(min=1)
    mean_other = torch.where(n_other > 0, mean_other, torch.zeros_like(mean_other))
    return scaled * (1.0 - mean_other).square()


def _pyramid(x: Tensor) -> list[Tensor]:
    """Nine dyadic scales by the binomial filter of five taps; the smallest side is one pixel."""
    kernel = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0], dtype=x.dtype, device=x.device) / 16.0
    levels = [x]
    for _ in range(_SCALES - 1):
        n, c, h, w = levels[-1].shape
        rows = _extended(levels[-1].reshape(n * c, 1, h, w), 2)
        rows = F.conv2d(F.conv2d(rows, kernel.view(1, 1, 5, 1)), kernel.view(1, 1, 1, 5))
        levels.append(rows[..., ::2, ::2].reshape(n, c, -(-h // 2), -(-w // 2)))
    return levels


def _extended(maps: Tensor, margin: int) -> Tensor:
    """Mirrored at the borders, where a repeated edge would look like one; repeated where that cannot be done."""
    mode = "reflect" if min(maps.shape[-2:]) > margin else "replicate"
    return F.pad(maps, (margin,) * 4, mode=mode)


def _oriented(intensity: Tensor) -> Tensor:
    """(S, 1, h, w) -> (S, 4, h, w) Gabor energy at 0, 45, 90 and 135 degrees."""
    at = torch.arange(_GABOR_TAPS, dtype=intensity.dtype, device=intensity.device) - _GABOR_TAPS // 2
    y, x = torch.meshgrid(at, at, indexing="ij")
    envelope = torch.exp(-(x.square() + y.square()) / (2.0 * (_GABOR_PERIOD_PX / 3.0) ** 2))
    filters = []
    for quarter in range(4):
        angle = quarter * math.pi / 4.0
        phase = 2.0 * math.pi / _GABOR_PERIOD_PX * (x * math.cos(angle) + y * math.sin(angle))
        # An even filter must not answer to light as such.
        filters += [envelope * (wave - (wave * envelope).sum() / envelope.sum()) for wave in (phase.cos(), phase.sin())]
    kernel = torch.stack(filters)[:, None]
    answer = F.conv2d(_extended(intensity, _GABOR_TAPS // 2), kernel)
    even, odd = answer[:, 0::2], answer[:, 1::2]
    return even.abs() + odd.abs()


def _across(levels: list[Tensor], center: int, delta: int) -> Tensor:
    """Absolute difference of a center scale and the surround, `delta` scales coarser, at the center's size."""
    fine = levels[center]
    coarse = F.interpolate(levels[center + delta], fine.shape[-2:], mode="bilinear", align_corners=False)
    return (fine - coarse).abs()


def _summed(maps: list[Tensor], size: torch.Size) -> Tensor:
    """Promoted maps, brought to one size and summed."""
    at_size = [F.interpolate(promote(m), size, mode="bilinear", align_corners=False, antialias=True) for m in maps]
    return torch.stack(at_size).sum(0)
