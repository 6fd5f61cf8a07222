"""Searchers to compare with: one that goes anywhere, one that matches pixels, one that does not know the target.

The published code has the first two, with two defects: inhibition of return doubles the weight of a visited cell
instead of taking it away (its masks are 0 and 255 in 8 bits, and 1 - 255 is 2), and the results of display i are
written as those of display i - 1. ``compat="vsa2021"`` brings both back.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from gazekit.backbones.vgg16 import PREPROCESSING
from gazekit.batch import TrialBatch
from gazekit.displays import SearchDisplays, SearchPaths
from gazekit.errors import InputError
from gazekit.models.base import GazeModel, constructor_arguments
from gazekit.models.eccnet import blurred
from gazekit.models.registry import MODELS, load_model
from gazekit.models.searcher import Attraction, Looking, Searcher, cells_with_items

# Of the published pixel matching: cells and SD of its Gaussian.
_MATCH_SIZE, _MATCH_SD = 7, 3.0
# Side of the patch by which the published chance searcher tells background from items, and its seed.
_PATCH_PX, _CHANCE_SEED = 10, 1000
# Positions that are drawn before those that may be fixated are listed.
_TRIES = 20


class _PublishedControl(Searcher):
    """What the two published controls share in compat mode: visited places stay, results are one row off."""

    def __init__(self, **rules: Any) -> None:
        super().__init__(**rules)
        if self.compat is not None:
            # They ask about the initial fixation, unlike the published eccNET.
            self.forgets, self.test_initial, self.test_last = True, True, True

    def search(self, displays: SearchDisplays, *args: Any, **kwargs: Any) -> SearchPaths:
        paths = super().search(displays, *args, **kwargs)
        return paths if self.compat is None else one_row_early(paths)


class ChanceSearch(_PublishedControl):
    """Goes anywhere it has not been yet, each place as likely as any other.

    With ``compat="vsa2021"``, anywhere with replacement: a pixel outside all cells is drawn again only if it lies
    in plain background, and visited cells stay as likely as before.

    Args:
        among: "cells": in a grid, any cell that was not visited, empty ones included. "items": only cells that hold
            something else than background, which is serial search without memory failures and has a set-size effect.
        rules: Those of :class:`Searcher`.

    """

    def __init__(self, among: str = "cells", **rules: Any) -> None:
        super().__init__(**rules)
        if among not in ("cells", "items"):
            raise InputError(f"chance_search: among is {among!r}, expected 'cells' or 'items'")
        self.save_hyperparameters()
        self.among = among

    def needs_target(self) -> bool:
        return False

    def prefers_any(self) -> bool:
        return True

    def begin(self, displays: SearchDisplays) -> None:
        return None

    def places(self, displays: SearchDisplays) -> Tensor:
        if not self.forgets or displays.cells is None:
            return super().places(displays)
        # Within cells, or where the square around a pixel holds something.
        drawn = (displays.image != displays.background).any(1, keepdim=True).float()
        half = _PATCH_PX // 2
        near = F.max_pool2d(F.pad(drawn, (half, _PATCH_PX - half - 1) * 2), _PATCH_PX, 1)[:, 0] > 0
        return displays.cells.any(0) | near

    def draw(
        self, displays: SearchDisplays, selectable: Tensor, rows: Tensor, generator: torch.Generator
    ) -> Tensor | None:
        """In scenes, positions until each may be fixated; a map of random numbers would take many times as long."""
        if displays.cells is not None:
            return None
        width = selectable.shape[-1]
        free = selectable.flatten(1)
        place = torch.zeros(len(rows), dtype=torch.long)
        left = torch.arange(len(rows))
        for _ in range(_TRIES):
            place[left] = torch.randint(free.shape[1], (len(left),), generator=generator)
            left = left[~free[rows[left.to(rows.device)], place[left].to(rows.device)].cpu()]
            if not len(left):
                break
        for row in left.tolist():
            # Hardly anything is left to look at.
            among = free[rows[row]].nonzero()[:, 0].cpu()
            place[row] = among[torch.randint(len(among), (1,), generator=generator)[0]]
        return torch.stack([place // width, place % width], -1).to(rows.device)

    def attraction(self, begun: Any, now: Looking) -> Attraction:
        displays, image = now.displays, now.image
        height, width = image.shape[-2:]
        value = torch.ones(len(image), height, width, dtype=torch.float64)
        if now.generator is not None:
            # The largest of equal random numbers is at each place alike. On the CPU: the same on every device.
            value = torch.rand(len(image), height, width, generator=now.generator, dtype=torch.float64)
        if self.among == "items" and displays.cells is not None:
            holds = cells_with_items(displays.cells, image, displays.background)
            there = (holds.float() @ displays.cells.flatten(1).float()).view(-1, height, width) > 0
            value = value * there.cpu()
        return Attraction(value.to(image.device))


class PixelMatch(_PublishedControl):
    """Goes where the pixels of the target match best: their product with the display, summed, and blurred.

    The display is what a VGG takes as input, blue first, with the means of ImageNet taken away. Acuity is the same
    everywhere, and the map does not depend on where the eye is.

    Args:
        rules: Those of :class:`Searcher`.

    """

    def __init__(self, **rules: Any) -> None:
        super().__init__(**rules)
        self.save_hyperparameters()

    def begin(self, displays: SearchDisplays) -> Tensor | None:
        """(B, H, W) the maps, where the displays stay as they are."""
        return None if self.erases(displays) else self._map(displays, displays.image, displays.target)

    def attraction(self, begun: Tensor | None, now: Looking) -> Attraction:
        if begun is not None:
            return Attraction(begun[now.rows])
        return Attraction(self._map(now.displays, now.image, now.displays.target[now.rows]))

    def _map(self, displays: SearchDisplays, image: Tensor, target: Tensor) -> Tensor:
        # One display at a time: the product of two pictures is quickest as that of their spectra.
        match = torch.cat([match_pixels(_caffe(i[None]), _caffe(t[None])) for i, t in zip(image, target, strict=True)])
        value = blurred(match, _MATCH_SIZE, _MATCH_SD)
        # Only differences between places count; the published code leaves the sign in, and masks with 0.
        return value if self.compat is not None else value - value.amin((1, 2), keepdim=True)


class SaliencySearch(Searcher):
    """Goes to the most salient place that it has not been to, whatever it searches for.

    Args:
        saliency: Checkpoint of a trained map of any kind (``saliency_readout``). None: local contrast, the distance of
            each pixel's color from that of its surroundings at several scales, which needs no weights.
        rules: Those of :class:`Searcher`.

    """

    def __init__(self, saliency: str | None = None, **rules: Any) -> None:
        super().__init__(**rules)
        self.save_hyperparameters(ignore=["saliency"])
        self.source = "local contrast" if saliency is None else Path(saliency).name
        self.model: GazeModel | None = None if saliency is None else load_model(Path(saliency))
        if self.model is not None:
            self.model.requires_grad_(False)

    @classmethod
    def from_checkpoint(cls, checkpoint: dict[str, Any]) -> SaliencySearch:
        model = cls(**constructor_arguments(checkpoint))
        inner, model.source = checkpoint["saliency"], checkpoint["saliency_source"]
        if inner is not None:
            saliency_class: Any = MODELS.load(inner["gazekit_model"])
            model.model = saliency_class.from_checkpoint(inner).requires_grad_(False)
        return model

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["saliency_source"], checkpoint["saliency"] = self.source, None
        if self.model is not None:
            inner: dict[str, Any] = {"hyper_parameters": dict(self.model.hparams)}
            self.model.on_save_checkpoint(inner)
            checkpoint["saliency"] = inner

    def train(self, mode: bool = True) -> SaliencySearch:
        super().train(mode)
        if self.model is not None:
            self.model.eval()
        return self

    def provenance(self) -> dict[str, Any]:
        return {"saliency": self.source, **({} if self.model is None else self.model.provenance())}

    def needs_target(self) -> bool:
        return False

    def begin(self, displays: SearchDisplays) -> Tensor | None:
        """(B, H, W) the maps, where the displays stay as they are."""
        return None if self.erases(displays) else self._map(displays, displays.image)

    def attraction(self, begun: Tensor | None, now: Looking) -> Attraction:
        return Attraction(self._map(now.displays, now.image) if begun is None else begun[now.rows])

    def _map(self, displays: SearchDisplays, image: Tensor) -> Tensor:
        if self.model is None:
            value = torch.cat([local_contrast(one[None]) for one in image])
        else:
            value = self.model.log_density(_unseen(image, displays)).double()
        return value - value.amin((1, 2), keepdim=True)


class CenterSearch(Searcher):
    """Goes to the place nearest to the middle that it has not been to, whatever the picture and the target.

    Args:
        rules: Those of :class:`Searcher`.

    """

    def __init__(self, **rules: Any) -> None:
        super().__init__(**rules)
        self.save_hyperparameters()

    def needs_target(self) -> bool:
        return False

    def begin(self, displays: SearchDisplays) -> None:
        return None

    def attraction(self, begun: Any, now: Looking) -> Attraction:
        # In shares of each side, as the density of people's fixations on pictures is.
        sides, device = now.image.shape[-2:], now.image.device
        y, x = ((torch.arange(n, device=device, dtype=torch.float64) + 0.5) / n - 0.5 for n in sides)
        far = y[:, None].square() + x.square()
        return Attraction((far.max() - far).expand(len(now.image), -1, -1))


def one_row_early(paths: SearchPaths) -> SearchPaths:
    """The results of display i as those of display i - 1, the first as the last: the published defect."""
    return SearchPaths(
        paths.xy_px.roll(-1, 0),
        paths.valid.roll(-1, 0),
        paths.n_fixations.roll(-1, 0),
        paths.said_yes.roll(-1, 0),
        None if paths.priority is None else paths.priority.roll(-1, 0),
    )


def match_pixels(image: Tensor, kernel: Tensor) -> Tensor:
    """(1, C, H, W) and (1, C, h, w) -> (1, H, W) float64 sums of products over channels and pixels, "SAME" padding."""
    size = [a + b - 1 for a, b in zip(image.shape[-2:], kernel.shape[-2:], strict=True)]
    spectra = torch.fft.rfft2(image.double(), size) * torch.fft.rfft2(kernel.flip(-2, -1).double(), size)
    full: Tensor = torch.fft.irfft2(spectra.sum(1), size)
    # The full product begins where the kernel's last pixel lies on the image's first.
    top, left = (side - 1 - (side - 1) // 2 for side in kernel.shape[-2:])
    return full[:, top : top + image.shape[-2], left : left + image.shape[-1]]


def local_contrast(image: Tensor) -> Tensor:
    """(b, 3, H, W) uint8 -> (b, H, W) float64, how much each place differs in color from its surroundings.

    The distance between means over squares of 1/48 and of 1/8 of the display's shorter side, and over squares twice
    as large: a center-surround difference at two scales.
    """
    picture = image.double()
    shorter = min(image.shape[-2:])
    total = torch.zeros_like(picture[:, 0])
    for part in (48, 24):
        center, surround = (max(1, round(shorter * k / part)) | 1 for k in (1, 6))
        means = [_box_mean(picture, side) for side in (center, surround)]
        total = total + (means[0] - means[1]).square().sum(1).sqrt()
    return total


def _box_mean(picture: Tensor, side: int) -> Tensor:
    """Means over squares of an odd side, the edge repeated, from running sums."""
    half = side // 2
    for axis in (2, 3):
        pads = (0, 0, half, half) if axis == 2 else (half, half, 0, 0)
        sums = F.pad(picture, pads, mode="replicate").cumsum(axis)
        zero = torch.zeros_like(sums.narrow(axis, 0, 1))
        sums = torch.cat([zero, sums], axis)
        n = picture.shape[axis]
        picture = (sums.narrow(axis, side, n) - sums.narrow(axis, 0, n)) / side
    return picture


def _caffe(picture: Tensor) -> Tensor:
    """(B, 3, h, w) uint8 RGB -> blue first, the means of ImageNet taken away."""
    return picture.flip(1).double() - torch.tensor(PREPROCESSING["caffe"][0], device=picture.device).view(1, 3, 1, 1)


def _unseen(image: Tensor, displays: SearchDisplays) -> TrialBatch:
    """Pictures as stimuli that nobody has looked at yet."""
    n = len(image)
    nowhere = torch.zeros(n, 1, device=image.device)
    return TrialBatch(
        stimulus=tuple(str(i) for i in range(n)),
        size_wh_px=displays.size_wh_px,
        px_per_dva=displays.px_per_dva,
        image=image.float() / 255.0,
        features=None,
        stimulus_of_trial=torch.arange(n, device=image.device),
        subject=("",) * n,
        trial=torch.arange(n, device=image.device),
        xy_px=nowhere[..., None].expand(n, 1, 2),
        duration_s=nowhere,
        valid=nowhere.bool(),
    )
