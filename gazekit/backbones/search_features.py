"""Features for target search: maps of what is seen from a fixation, and templates of what is searched for.

One network gives both. Its maps are tapped at several depths and brought to one stride; a template is taken at twice
that stride, as published, so that an object is matched at half its size (or at the same one, if asked).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from gazekit.backbones.eccentric import VGG16_SLOPES, EccentricPool2d, Mode, same_pool2d
from gazekit.backbones.pyramid import Backbone, WeightsSource, create_backbone
from gazekit.errors import InputError
from gazekit.registry import unknown_name


class SearchFeatures(nn.Module):
    """What a target searcher needs of a network.

    Attributes:
        stride: Pixels of the crop per cell of the maps.
        source: Which weights these are.
        n_layers: How many depths are tapped.

    """

    stride: int = 16
    source: WeightsSource
    n_layers: int

    @abstractmethod
    def search_maps(self, crop: Tensor, px_per_dva: float) -> list[Tensor]:
        """(B, 3, N, N) uint8 RGB around the fixation -> per layer (B, C, M, M), M = ceil(N / stride)."""

    @abstractmethod
    def target_maps(self, target: Tensor, px_per_dva: float, same_stride: bool = False) -> list[Tensor]:
        """(B, 3, h, w) uint8 RGB -> per layer (B, C, q, r) at twice the stride of the maps, or at the same one."""

    def background_maps(self, side: int, background: int, px_per_dva: float) -> Any:
        """What :meth:`search_maps_on_background` needs to know of a crop that is background all over."""
        del side, background, px_per_dva

    def search_maps_on_background(self, known: Any, crop: Tensor, px_per_dva: float) -> list[Tensor]:
        """As :meth:`search_maps`, for crops that are mostly background; a network may do it faster."""
        del known
        return self.search_maps(crop, px_per_dva)


class TappedFeatures(SearchFeatures):
    """Any CNN of timm or torchvision, by naming the layers to tap.

    The network's own pooling or strided convolutions stay; eccentricity comes in by an :class:`EccentricPool2d` of
    stride 1 behind a tapped layer: what follows sees a map whose periphery is blurred, the tap itself does not, as in
    the published VGG16, whose taps lie before its pooling stages.

    Args:
        name: As for :func:`gazekit.backbones.create_backbone`.
        taps: Modules by name, from shallow to deep, of strides up to 16.
        weights: As for :func:`gazekit.backbones.create_backbone`.
        eccentric: Whether the periphery is blurred.
        slopes: Growth of the windows behind the deepest tap of a stride; the default is that of VGG16, whose pooling
            of the maps of stride 4 and 8 is eccentric (a slope is the same at any resolution).
        pool: "avg" or "max", to bring maps to one stride and for the blur.

    Raises:
        InputError: As :func:`gazekit.backbones.create_backbone`; taps that are not names, or coarser than 16 px.

    """

    def __init__(
        self,
        name: str,
        taps: Sequence[str],
        weights: str | Path | None = "pretrained",
        eccentric: bool = True,
        slopes: Mapping[int, float] = MappingProxyType({4: VGG16_SLOPES[2], 8: VGG16_SLOPES[3]}),
        pool: Mode = "avg",
    ) -> None:
        super().__init__()
        if not taps or not all(isinstance(tap, str) for tap in taps):
            raise InputError(f"backbone {name!r}: name the layers to tap, such as 'blocks.2'; found {list(taps)}")
        if pool not in ("avg", "max"):
            raise unknown_name("pooling mode", pool, ["avg", "max"])
        self.backbone: Backbone = create_backbone(name, weights=weights, taps=list(taps), frozen=True)
        self.source, self.n_layers, self.pool = self.backbone.source, len(taps), pool
        stride_of = dict(zip(self.backbone.taps, self.backbone.strides, strict=True))
        if coarse := [tap for tap, stride in stride_of.items() if stride > self.stride or self.stride % stride]:
            raise InputError(
                f"backbone {name!r}: layer {coarse[0]!r} has stride {stride_of[coarse[0]]}; a search needs layers of "
                f"stride {self.stride} or less, by halves"
            )
        self._blurs: dict[int, EccentricPool2d] = {}
        if eccentric:
            # The last of equal strides is the deepest.
            deepest = {stride: str(tap) for tap, stride in stride_of.items() if slopes.get(stride, 0.0) > 0}
            self._blurs = {s: EccentricPool2d(slopes[s], 1.0, stride=1, mode=pool) for s in deepest}
            self.backbone.insert_behind({deepest[s]: blur for s, blur in self._blurs.items()})

    def _maps(self, picture: Tensor, px_per_dva: float) -> list[Tensor]:
        for stride, blur in self._blurs.items():
            blur.px_per_dva = px_per_dva / stride
        with full_precision():
            return list(self.backbone(picture.float() / 255.0))

    def _at_one_stride(self, maps: list[Tensor]) -> list[Tensor]:
        same = []
        for x, stride in zip(maps, self.backbone.strides, strict=True):
            at, now = x, stride
            while now < self.stride:
                at, now = same_pool2d(at, 2, 2, self.pool), 2 * now
            same.append(at)
        return same

    def search_maps(self, crop: Tensor, px_per_dva: float) -> list[Tensor]:
        return self._at_one_stride(self._maps(crop, px_per_dva))

    def target_maps(self, target: Tensor, px_per_dva: float, same_stride: bool = False) -> list[Tensor]:
        maps = self._at_one_stride(self._maps(target, px_per_dva))
        return maps if same_stride else [same_pool2d(x, 2, 2, self.pool) for x in maps]


@contextmanager
def full_precision() -> Iterator[None]:
    """Convolutions in single precision proper: the best two places of a map may differ by 1e-5 of their value."""
    if not torch.cuda.is_available():
        yield
        return
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        yield
