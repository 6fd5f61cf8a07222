"""G-Eymol: gaze as a mass that the details of an image attract by gravity.

Zanca, Melacci & Gori (2020), Gravitational Laws of Focus of Attention, IEEE PAMI 42(12), 2983-2995: ``a'' + lambda a'
= E(a)`` with ``E(a) = sum_x mu(x) (x - a) / |x - a|^2``, mass mu the gradient of features of the image, less where
the gaze was lately. Features, constants and the softened force near the gaze are those of the authors' program, which
follows an image of 224 px for 25 frames per second; a feature's mass is scaled by its maximum over the image here,
over a window around the gaze there.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from gazekit.batch import Scanpaths, TrialBatch
from gazekit.errors import InputError
from gazekit.models.base import no_scanpaths
from gazekit.models.path_model import PathModel, path_seeds

# Of the program's image; radii below are in its px.
_SIDE_PX, _FRAMES_PER_S, _SUBSTEPS = 224, 25, 10
_SACCADES_PER_S = 3
_IOR_RADIUS_PX, _IOR_BLUR_TAPS, _IOR_RETENTION = 35, 51, 0.9
# A fixation ends when gaze is this far from where it began (25 px of an image of 800), and counts after so long.
_FIXATION_PX, _FIXATION_S = 7.0, 0.05
# Seconds that are simulated for each fixation wanted, at least, and before giving up.
_S_PER_FIXATION, _MOST_S_PER_FIXATION = 0.4, 3.0


class GEymol(PathModel):
    """Scanpaths of a gaze in a gravitational field, from a random place near the center with a random velocity.

    Args:
        attraction: Sum of the weights of the features.
        dissipation: lambda.
        side_px: Longer side of the image in which gaze moves; speeds and radii are those at 224 px, scaled.

    """

    zero_shot: ClassVar[bool] = True

    def __init__(self, attraction: float = 0.2, dissipation: float = 1.5, side_px: int = _SIDE_PX) -> None:
        super().__init__()
        if not attraction > 0 or dissipation < 0 or side_px < 16:
            raise InputError(
                f"expected attraction > 0, dissipation >= 0 and side_px >= 16, found {attraction}, {dissipation} and "
                f"{side_px}"
            )
        self.save_hyperparameters()
        self.attraction, self.dissipation, self.side_px = attraction, dissipation, side_px

    @torch.no_grad()
    def sample(self, batch: TrialBatch, n: int, length: int, generator: torch.Generator) -> Scanpaths:
        if not len(batch):
            return no_scanpaths(batch, n, length)
        if batch.image is None:
            raise InputError("g_eymol looks at pixels, and the batch has no images")
        width, height = batch.size_wh_px
        scale = self.side_px / max(width, height)
        size = max(2, int(height * scale)), max(2, int(width * scale))
        image = F.interpolate(batch.image, size, mode="bicubic", antialias=True, align_corners=False).clamp(0.0, 1.0)
        masses = mass(image).cpu()
        seeds = path_seeds(batch, n, generator)
        to_px = torch.tensor([width / size[1], height / size[0]])
        rows = [
            self.fixations(masses[row], length, seeds[i * n : (i + 1) * n])
            for i, row in enumerate(batch.stimulus_of_trial.tolist())
        ]
        xy = torch.stack(rows) * to_px
        limit = torch.tensor(batch.size_wh_px, dtype=xy.dtype)
        xy = torch.minimum(xy.clamp(min=0.0), torch.nextafter(limit, torch.zeros_like(limit)))
        return Scanpaths(xy, torch.ones(xy.shape[:-1], dtype=torch.bool)).to(batch.device)

    def fixations(self, mass_map: Tensor, length: int, seeds: list[int]) -> Tensor:
        """(h, w) mass -> (len(seeds), length, 2) fixations in px of the map, as (x, y)."""
        h, w = mass_map.shape
        at, velocity = (
            torch.stack(parts) for parts in zip(*(_start(h, w, seed, self._unit) for seed in seeds), strict=True)
        )
        inhibition = torch.zeros(len(seeds), h, w)
        field, gaze = self.field(mass_map * (1.0 - inhibition)), []
        found: list[list[Tensor]] = [[] for _ in seeds]
        step, margin = 1.0 / _SUBSTEPS, 5.0 * self._unit
        for frame in range(1, math.ceil(_MOST_S_PER_FIXATION * length * _FRAMES_PER_S) + 1):
            for _ in range(_SUBSTEPS):
                # Midpoint rule: second order, and the field is smooth over such a step.
                middle = at + step / 2.0 * velocity
                middle_velocity = velocity + step / 2.0 * (_look_up(field, at) - self.dissipation * velocity)
                at = at + step * middle_velocity
                velocity = velocity + step * (_look_up(field, middle) - self.dissipation * middle_velocity)
            inside = torch.minimum(at.clamp(min=margin), torch.tensor([w, h]) - margin)
            # Gaze that is held back at the edge has lost its speed towards it.
            velocity = velocity.where(at == inside, torch.zeros(()))
            at = inside
            gaze.append(at)
            if frame % (_FRAMES_PER_S // _SACCADES_PER_S) == 0:
                inhibition = (_IOR_RETENTION * inhibition + _disks(at, (h, w), self._unit)).clamp(max=1.0)
                field = self.field(mass_map * (1.0 - inhibition))
                if frame >= _S_PER_FIXATION * length * _FRAMES_PER_S:
                    followed = torch.stack(gaze, 1)
                    found = [detect_fixations(path, _FIXATION_PX * self._unit) for path in followed]
                    if all(len(path) >= length for path in found):
                        break
        # A gaze that never leaves a place again fixates it to the end.
        whole = [[*path[:length], *[gaze[-1][i]] * (length - len(path))] for i, path in enumerate(found)]
        return torch.stack([torch.stack(path) for path in whole])

    @property
    def _unit(self) -> float:
        """Px of the image in which gaze moves, per px of the program's."""
        return self.side_px / _SIDE_PX

    def field(self, masses: Tensor) -> Tensor:
        """(N, h, w) masses -> (N, 2, h, w) force on a gaze at each pixel, by convolution."""
        h, w = masses.shape[-2:]
        dy = torch.arange(-(h - 1), h, dtype=masses.dtype)[:, None]
        dx = torch.arange(-(w - 1), w, dtype=masses.dtype)[None]
        soft = (_SIDE_PX // 10 + 1) / (dx.square() + dy.square() + _SIDE_PX // 10 * self._unit**2)
        # What lies at x pulls a gaze at a towards x: a correlation with the offset x - a.
        kernel = torch.stack([-dx * soft, -dy * soft])
        size = (3 * h - 2, 3 * w - 2)
        product = torch.fft.rfft2(masses[:, None], size) * torch.fft.rfft2(kernel, size)
        force = torch.fft.irfft2(product, size)[..., h - 1 : 2 * h - 1, w - 1 : 2 * w - 1]
        force_at: Tensor = self.attraction * force
        return force_at


def mass(image: Tensor) -> Tensor:
    """(S, 3, h, w) RGB in [0, 1] -> (S, h, w): mean over eight features of their gradient, each scaled to one.

    The features are the three colors, intensity, and intensity filtered at four orientations.
    """
    weights = torch.tensor([0.299, 0.587, 0.114], dtype=image.dtype, device=image.device)
    intensity = (image * weights.view(1, 3, 1, 1)).sum(1, keepdim=True)
    at = torch.arange(21, dtype=image.dtype, device=image.device) - 10
    y, x = torch.meshgrid(at, at, indexing="ij")
    filters = []
    for angle in (0.0, math.pi / 4.0, math.pi / 2.0, 3.0 * math.pi / 4.0):
        u, v = x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle)
        # SD 8 px, wavelength 10 px, aspect 0.5.
        filters.append(torch.exp(-(u.square() + 0.25 * v.square()) / 128.0) * torch.cos(2.0 * math.pi * u / 10.0))
    padded = F.pad(intensity, (10, 10, 10, 10), mode="replicate")
    oriented = F.conv2d(padded, torch.stack(filters)[:, None]).clamp(min=0.0)
    features = torch.cat([image, intensity, oriented], 1)
    smooth, slope = (
        torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0]).to(image),
        torch.tensor([-1.0, -2.0, 0.0, 2.0, 1.0]).to(image),
    )
    n, c, h, w = features.shape
    rows = F.pad(features.reshape(n * c, 1, h, w), (2, 2, 2, 2), mode="replicate")
    along_x = F.conv2d(F.conv2d(rows, smooth.view(1, 1, 5, 1)), slope.view(1, 1, 1, 5))
    along_y = F.conv2d(F.conv2d(rows, slope.view(1, 1, 5, 1)), smooth.view(1, 1, 1, 5))
    gradient = (along_x.square() + along_y.square()).sqrt().reshape(n, c, h, w)
    return (gradient / gradient.amax((-2, -1), keepdim=True).clamp(min=1e-6)).mean(1)


def detect_fixations(path: Tensor, reach_px: float) -> list[Tensor]:
    """(frames, 2) gaze -> where it stayed: positions that it did not leave by more than `reach_px` for 50 ms."""
    found, start, held = [], 0, 0
    for i in range(1, len(path)):
        if (path[i] - path[start]).norm() > reach_px:
            start, held = i, 0
            continue
        held += 1
        if held == max(1, round(_FIXATION_S * _FRAMES_PER_S)):
            found.append(path[start])
    return found


def _start(h: int, w: int, seed: int, unit: float) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    reach = 0.17 * min(h, w)
    place = torch.tensor([w / 2.0, h / 2.0]) + reach * (2.0 * torch.rand(2, generator=generator) - 1.0)
    sign = torch.where(torch.rand(2, generator=generator) < 0.5, -1.0, 1.0)
    return place, unit * sign * (0.6 + 0.8 * torch.rand(2, generator=generator))


def _look_up(field: Tensor, at: Tensor) -> Tensor:
    """(N, 2, h, w) field at (N, 2) positions, between the pixels' centers, -> (N, 2)."""
    h, w = field.shape[-2:]
    place = at * 2.0 / torch.tensor([w, h]) - 1.0
    found = F.grid_sample(field, place[:, None, None], mode="bilinear", padding_mode="border", align_corners=False)
    return found[:, :, 0, 0]


def _disks(at: Tensor, hw: tuple[int, int], unit: float) -> Tensor:
    """(N, 2) -> (N, h, w): one within a disk that fades at its rim."""
    y, x = torch.arange(hw[0]) + 0.5, torch.arange(hw[1]) + 0.5
    far = ((x - at[:, :1]).square()[:, None, :] + (y - at[:, 1:]).square()[:, :, None]).sqrt()
    # A disk under a Gaussian of 51 taps (SD 8 px by the usual rule): along its rim, the Gaussian's integral.
    sigma = 0.3 * ((_IOR_BLUR_TAPS - 1) / 2.0 - 1.0) + 0.8
    return 0.5 * torch.erfc((far - _IOR_RADIUS_PX * unit) / (unit * sigma * math.sqrt(2.0)))
