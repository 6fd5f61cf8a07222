"""eccNET: target search with a fovea (Gupta, Zhang, Wu, Wolfe & Kreiman 2021, NeurIPS 34).

A network looks at the display through a window around the current fixation, with pooling that coarsens with
eccentricity. The picture of the target, passed through the same network, becomes convolution kernels; where they match
best the eye goes next. Nothing is trained for the task. The geometry, the order of operations and the numbers are those
of the published code, whose fixations :mod:`tests.models.test_eccnet` reproduces; what is odd in it stands behind the
arguments of :class:`~gazekit.models.searcher.Searcher` and of this class.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from gazekit.backbones import WeightsSource
from gazekit.backbones.eccentric import Mode, Spacing
from gazekit.backbones.search_features import SearchFeatures, TappedFeatures, full_precision
from gazekit.backbones.vgg16 import EccentricVGG16
from gazekit.displays import SearchDisplays
from gazekit.errors import InputError
from gazekit.models.base import constructor_arguments
from gazekit.models.searcher import Attraction, Looking, Searcher, cell_boxes, cells_with_items
from gazekit.registry import unknown_name

# Kernels (size, SD in cells) of the local contrast: a center added, a surround taken away.
Surround = tuple[tuple[int, float], tuple[int, float]]


@dataclass(frozen=True)
class Variant:
    """A published model: whether pooling is eccentric, of which kind, and which of the three layers count."""

    eccentric: bool
    pool: Mode
    layers: tuple[bool, bool, bool]


# Without eccentricity the published code switches to maximum pooling.
VARIANTS = {
    "eccnet": Variant(True, "avg", (True, True, True)),
    "eccnet_18_17": Variant(True, "avg", (False, False, True)),
    "noecc": Variant(False, "max", (True, True, True)),
    "ivsn": Variant(False, "max", (False, False, True)),
}


@dataclass(frozen=True)
class Published:
    """What the published code sets for an experiment.

    Args:
        surround: See :class:`EccNet`.
        layer_weights: See :class:`EccNet`.
        background: Grey around the displays.
        max_fixations: After the initial one.
        window_px: Of the oracle, and in free search of inhibition.

    """

    surround: Surround
    layer_weights: str
    background: int
    max_fixations: int
    window_px: int


_FINE: Surround = ((3, 0.0), (5, 1.0))
_MIDDLE: Surround = ((3, 1.0), (5, 3.0))
_COARSE: Surround = ((5, 3.0), (7, 5.0))
PUBLISHED = {
    "curvature": Published(_MIDDLE, "nl", 0, 37, 10),
    "lighting": Published(_FINE, "nl", 27, 17, 10),
    "intersection": Published(_COARSE, "nl", 255, 10, 10),
    "letters": Published(_COARSE, "nl", 255, 10, 10),
    "orientation_homogeneous": Published(_MIDDLE, "nl", 255, 17, 10),
    "orientation_heterogeneous": Published(_MIDDLE, "nl", 255, 17, 10),
    "object_arrays": Published(_FINE, "l", 0, 7, 45),
    "natural_design": Published(_FINE, "l", 0, 66, 64),
    "waldo": Published(_FINE, "l", 0, 81, 64),
}
# What surrounds the display in the crop, and never is fixated.
_CORNER_PX = 64
# The local contrast is applied so often.
_N_CONTRASTS = 3
# Expanded layers before the strided convolutions of MobileNetV2: as VGG16's taps, the last of their stride and not
# negative.
_MOBILENET_TAPS = ("blocks.2.0.bn1", "blocks.3.0.bn1", "blocks.5.0.bn1")
_DEFAULT_TAPS = {"mobilenetv2_100": _MOBILENET_TAPS, "mobilenetv2_100.tf_in1k": _MOBILENET_TAPS}
# OpenCV's kernels for an SD of 0; not those of a Gaussian.
_FIXED_KERNELS = {
    1: (1.0,),
    3: (0.25, 0.5, 0.25),
    5: (0.0625, 0.25, 0.375, 0.25, 0.0625),
    7: (0.03125, 0.109375, 0.21875, 0.28125, 0.21875, 0.109375, 0.03125),
}


@dataclass(frozen=True)
class _Targets:
    """Templates of the distinct targets of a search, per layer (U, C, q, r), and (B,) which is whose."""

    kernels: list[Tensor]
    of_display: Tensor


class EccNet(Searcher):
    """Looks where the picture of the target matches best what a network with a fovea sees from here.

    Args:
        variant: "eccnet", "eccnet_18_17" (the deepest layer alone), "noecc" (plain pooling) or "ivsn" (both).
        backbone: "vgg16", or any CNN of timm or torchvision by the names of
            :func:`gazekit.backbones.create_backbone`, with `taps`.
        weights: See :class:`~gazekit.backbones.vgg16.EccentricVGG16`; a file of other weights is another model
            (other training diets).
        taps: Layers by name, from shallow to deep, of strides up to 16. Not for "vgg16".
        layers: Which of them count; None is the variant's, or all.
        pool: "avg" or "max"; None is the variant's.
        spacing: "rings" as published, or "continuous" (VGG16 only).
        preprocessing: Of VGG16's weights, "caffe" or "torchvision".
        layer_weights: Of the layers in the map. "nl": by the largest correlation of each, "l": the same for all, or
            numbers.
        surround: ((size, SD), (size, SD)) in cells of the map, of the Gaussians of the local contrast.
        template: "half_stride": the target's kernels are of twice the stride of the map, so that objects are matched
            at half their size, as published. "same_stride".
        field_px: How far the eye sees up, down, left and right; None is the display's height, as published.
        recognition: "oracle": the displays say whether a fixation found the target. "learned": the searcher does, by
            comparing what it fixates with the target; see :meth:`calibrate_recognition`.
        chunk: Displays that are looked at together; bounds memory.
        paste: Compute only what differs from the background; the same numbers.
        features: Use these in place of `backbone`, `weights`, `taps`.
        rules: Those of :class:`Searcher`.

    """

    recognition_threshold: Tensor

    def __init__(
        self,
        variant: str = "eccnet",
        backbone: str = "vgg16",
        weights: str | None = "pretrained",
        taps: Sequence[str] | None = None,
        layers: Sequence[bool] | None = None,
        pool: Mode | None = None,
        spacing: Spacing = "rings",
        preprocessing: str = "caffe",
        layer_weights: str | Sequence[float] = "l",
        surround: Surround = _FINE,
        template: str = "half_stride",
        field_px: int | None = None,
        recognition: str = "oracle",
        chunk: int = 8,
        paste: bool = True,
        features: SearchFeatures | None = None,
        **rules: Any,
    ) -> None:
        super().__init__(**rules)
        self.save_hyperparameters(ignore=["features"])
        if variant not in VARIANTS:
            raise unknown_name("variant of eccnet", variant, list(VARIANTS))
        if template not in ("half_stride", "same_stride"):
            raise unknown_name("template of eccnet", template, ["half_stride", "same_stride"])
        if recognition not in ("oracle", "learned"):
            raise unknown_name("recognition of eccnet", recognition, ["learned", "oracle"])
        if chunk < 1 or (field_px is not None and field_px < 1):
            raise InputError(f"eccnet: chunk and field_px must be positive; got {chunk}, {field_px}")
        published = VARIANTS[variant]
        self.template = "half_stride" if self.compat else template
        self.recognition, self.field_px, self.chunk, self.paste = recognition, field_px, chunk, paste
        self.backbone_name = backbone if features is None else type(features).__name__
        self.features = features or _features(
            backbone, weights, taps, published.eccentric, pool or published.pool, spacing, preprocessing
        )
        n = self.features.n_layers
        chosen = [False] * (n - 1) + [True] if published.layers == (False, False, True) else [True] * n
        self.layers = [bool(on) for on in (chosen if layers is None else layers)]
        if len(self.layers) != n or not any(self.layers):
            raise InputError(f"eccnet: layers must say for each of {n} layers whether it counts; got {self.layers}")
        self.layer_weights = self._checked_weights(layer_weights)
        self.surround = checked_surround(surround)
        # Above every similarity: nothing is recognised before it is calibrated.
        self.register_buffer("recognition_threshold", torch.tensor(torch.inf))
        self._background: dict[tuple[int, int, float], Any] = {}

    @classmethod
    def from_checkpoint(cls, checkpoint: dict[str, Any]) -> EccNet:
        model = cls(**{**constructor_arguments(checkpoint), "weights": None})
        model.features.source = WeightsSource(**checkpoint["backbone_source"])
        return model

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["backbone_source"] = self.features.source.as_dict()

    def provenance(self) -> dict[str, Any]:
        return {"backbone": self.backbone_name, "weights": str(self.features.source)}

    def like_published(self, experiment: str) -> EccNet:
        """Take the surround and the layer weights that the published code has for an experiment; returns itself."""
        if experiment not in PUBLISHED:
            raise unknown_name("published search experiment", experiment, list(PUBLISHED))
        self.surround = PUBLISHED[experiment].surround
        self.layer_weights = PUBLISHED[experiment].layer_weights
        return self

    def _checked_weights(self, given: str | Sequence[float]) -> str | list[float]:
        if isinstance(given, str):
            if given not in ("nl", "l"):
                raise unknown_name("layer weights of eccnet", given, ["l", "nl"], "; or give numbers")
            return given
        numbers = [float(w) for w in given]
        if len(numbers) != self.features.n_layers or min(numbers) < 0 or sum(numbers) == 0:
            raise InputError(
                f"eccnet: {self.features.n_layers} layers need as many weights of 0 or more; got {numbers}"
            )
        return numbers

    # Searching

    def begin(self, displays: SearchDisplays) -> _Targets:
        distinct, of_display = torch.unique(displays.target, dim=0, return_inverse=True)
        same_stride = self.template == "same_stride"
        parts = [self.features.target_maps(t, displays.px_per_dva, same_stride) for t in distinct.split(self.chunk)]
        return _Targets([torch.cat(maps) for maps in zip(*parts, strict=True)], of_display)

    def attraction(self, begun: _Targets, now: Looking) -> Attraction:
        displays, rows, image, fixation = now.displays, now.rows, now.image, now.fixation
        parts = []
        for some in torch.arange(len(rows), device=rows.device).split(self.chunk):
            maps = self.maps(displays, image[some], fixation[some])
            kernels = [k[begun.of_display[rows[some]]] for k in begun.kernels]
            layers = [correlation(m, k) for m, k in zip(maps, kernels, strict=True)]
            parts.append(self.combined(layers))
        cells = torch.cat(parts)
        radius = self.radius_px(displays)
        height, width = image.shape[-2:]
        origin = fixation - radius
        value = enlarged(cells, 2 * radius, origin, (height, width))
        value = (value - cells.amin((1, 2))[:, None, None]).clamp(min=0.0)
        value = value * _within(origin, 2 * radius, _CORNER_PX, (height, width))
        return Attraction(value, 2 * radius / cells.shape[-1], origin.double())

    def radius_px(self, displays: SearchDisplays) -> int:
        """Half the side of the crop around a fixation."""
        return (displays.size_wh_px[1] if self.field_px is None else self.field_px) + _CORNER_PX

    def maps(self, displays: SearchDisplays, image: Tensor, fixation: Tensor) -> list[Tensor]:
        """What the network sees of (b, 3, H, W) pictures from (b, 2) fixations: per layer (b, C, m, m)."""
        radius, background = self.radius_px(displays), displays.background
        origin = fixation - radius
        crop = cropped(image, origin, 2 * radius, background)
        if not self.paste:
            return self.features.search_maps(crop, displays.px_per_dva)
        key = (2 * radius, background, displays.px_per_dva)
        if key not in self._background:
            # One experiment at a time: the last background is enough.
            self._background = {key: self.features.background_maps(*key)}
        return self.features.search_maps_on_background(self._background[key], crop, displays.px_per_dva)

    def combined(self, correlations: list[Tensor]) -> Tensor:
        """Per layer (b, m, m) correlations -> (b, m, m) float64 map of local contrast."""
        on = torch.tensor(self.layers, dtype=torch.float64, device=correlations[0].device)
        if self.layer_weights == "nl":
            # Signed features can correlate negatively everywhere; such a layer has no say.
            weights = torch.stack([c.amax((1, 2)) for c in correlations], 1).double().clamp(min=0.0) * on
        else:
            given = on if self.layer_weights == "l" else torch.tensor(self.layer_weights).to(on) * on
            weights = given.expand(len(correlations[0]), -1)
        total = weights.sum(1, keepdim=True)
        weights = torch.where(total > 0, weights / total.where(total > 0, torch.ones_like(total)), on / on.sum())
        attention = torch.zeros_like(correlations[0], dtype=torch.float64)
        for weight, c in zip(weights.unbind(1), correlations, strict=True):
            low, high = c.amin((1, 2), keepdim=True), c.amax((1, 2), keepdim=True)
            span = high - low
            scaled = ((c - low) / span.where(span > 0, torch.ones_like(span))).double()
            attention = attention + weight[:, None, None] * scaled
        for _ in range(_N_CONTRASTS):
            center, surround = (blurred(attention, size, sd) for size, sd in self.surround)
            attention = attention + center - surround
        return attention

    # Recognition

    def recognizes(
        self, begun: _Targets, displays: SearchDisplays, rows: Tensor, fixation: Tensor, found: Tensor
    ) -> Tensor:
        if self.recognition == "oracle":
            return found
        if self.recognition_threshold.isinf():
            raise InputError("eccnet: recognition='learned' needs calibrate_recognition(displays) before a search")
        return self.similarity(displays, rows, fixation) >= self.recognition_threshold

    def similarity(self, displays: SearchDisplays, rows: Tensor, fixation: Tensor) -> Tensor:
        """(b,) largest cosine between the target's deepest features and those of the display around the fixation.

        The target is compared at every place of the map that lies up to half a target, and at least 16 px, around.
        """
        hw = displays.target.shape[-2:]
        margin = [max(self.features.stride, side // 2) for side in hw]
        reach = torch.tensor([side // 2 + m for side, m in zip(hw, margin, strict=True)], device=fixation.device)
        sides = (hw[0] + 2 * margin[0], hw[1] + 2 * margin[1])
        similarities = []
        for some in torch.arange(len(rows), device=rows.device).split(self.chunk):
            at = rows[some]
            patch = cropped(displays.image[at], fixation[some] - reach, sides, displays.background)
            seen = self.features.target_maps(patch, displays.px_per_dva, same_stride=True)[-1]
            wanted = self.features.target_maps(displays.target[at], displays.px_per_dva, same_stride=True)[-1]
            norm = wanted.flatten(1).norm(dim=1)[:, None, None]
            product = correlation(seen, wanted)
            energy = correlation(seen.square().sum(1, keepdim=True), torch.ones_like(wanted[:, :1])).clamp(min=0.0)
            cosine = product / (norm * energy.sqrt()).clamp(min=1e-12)
            similarities.append(cosine.flatten(1).amax(1))
        return torch.cat(similarities)

    @torch.no_grad()
    def calibrate_recognition(self, displays: SearchDisplays, seed: int = 0) -> float:
        """Learn what counts as the target from labelled displays; returns the balanced accuracy on them.

        The threshold of :meth:`similarity` is the one that best tells fixations on targets from fixations elsewhere:
        on the other items of a grid, or anywhere but near the target in a scene.

        Args:
            displays: Not those that are searched later.
            seed: Of the places in scenes.

        """
        here, elsewhere = self._labelled(displays, seed)
        positive = self.similarity(displays, here[:, 0], here[:, 1:])
        negative = self.similarity(displays, elsewhere[:, 0], elsewhere[:, 1:])
        levels = torch.cat([positive, negative]).unique()
        hit = (positive[None] >= levels[:, None]).double().mean(1)
        correct = (negative[None] < levels[:, None]).double().mean(1)
        best = int((hit + correct).argmax())
        # Between the best level and the next lower one, where neither kind has an example.
        lower = levels[best - 1] if best else levels[best] - 1e-3
        self.recognition_threshold.copy_((levels[best] + lower) / 2)
        return float((hit[best] + correct[best]) / 2)

    def _labelled(self, displays: SearchDisplays, seed: int) -> tuple[Tensor, Tensor]:
        """(n, 3) long (display, row, column): middles of targets, and of what is not the target."""
        targets = _middles(displays.target_mask)
        here = torch.cat([torch.arange(len(displays), device=displays.device)[:, None], targets], 1)
        elsewhere = []
        if displays.cells is not None:
            middles = _middles(displays.cells)
            holds = cells_with_items(displays.cells, displays.image, displays.background)
            overlap = displays.target_mask.flatten(1).float() @ displays.cells.flatten(1).float().T > 0
            for display, cell in (holds & ~overlap).nonzero().tolist():
                elsewhere.append([display, *middles[cell].tolist()])
        else:
            generator = torch.Generator().manual_seed(seed)
            width, height = displays.size_wh_px
            apart = torch.tensor(displays.target.shape[-2:])
            for display in range(len(displays)):
                at = torch.rand(20, 2, generator=generator) * torch.tensor([height, width])
                far = ((at - targets[display].cpu()).abs() > apart).any(1)
                elsewhere += [[display, *place] for place in at[far].long().tolist()]
        if not elsewhere:
            raise InputError("eccnet: recognition needs displays with something else than the target to learn from")
        return here, torch.tensor(elsewhere, device=displays.device)


def _features(
    backbone: str,
    weights: str | Path | None,
    taps: Sequence[str] | None,
    eccentric: bool,
    pool: Mode,
    spacing: Spacing,
    preprocessing: str,
) -> SearchFeatures:
    if backbone == "vgg16":
        if taps is not None:
            raise InputError("eccnet: vgg16 is tapped at conv3_3, conv4_3 and conv5_3; name taps for other backbones")
        return EccentricVGG16(weights, eccentric, pool, preprocessing, spacing)
    if spacing != "rings":
        raise InputError("eccnet: spacing='continuous' is for the backbone 'vgg16'")
    chosen = _DEFAULT_TAPS.get(backbone) if taps is None else taps
    if chosen is None:
        raise InputError(
            f"eccnet: name the layers of {backbone!r} to tap, from shallow to deep, of strides up to 16, such as "
            f"taps=['layer1', 'layer2', 'layer3'] of torchvision/resnet18"
        )
    return TappedFeatures(backbone, chosen, weights, eccentric, pool=pool)


def cropped(image: Tensor, origin: Tensor, side: int | tuple[int, int], background: int) -> Tensor:
    """(b, 3, H, W) pictures on an endless background -> (b, 3, side, side) from (b, 2) long (row, column) on."""
    rows, columns = (side, side) if isinstance(side, int) else side
    height, width = image.shape[-2:]
    out = image.new_full((len(image), image.shape[1], rows, columns), background)
    for i, (top, left) in enumerate(origin.tolist()):
        r0, r1 = max(top, 0), min(top + rows, height)
        c0, c1 = max(left, 0), min(left + columns, width)
        if r0 < r1 and c0 < c1:
            out[i, :, r0 - top : r1 - top, c0 - left : c1 - left] = image[i, :, r0:r1, c0:c1]
    return out


def correlation(maps: Tensor, kernels: Tensor) -> Tensor:
    """(b, C, m, n) maps and (b, C, q, r) kernels -> (b, m, n), cross-correlated one by one, "SAME" padding."""
    b, channels = maps.shape[:2]
    q, r = kernels.shape[-2:]
    pads = ((r - 1) // 2, r - 1 - (r - 1) // 2, (q - 1) // 2, q - 1 - (q - 1) // 2)
    padded = F.pad(maps, pads)
    with full_precision():
        if q * r == 1:
            return torch.einsum("bchw,bc->bhw", maps, kernels[:, :, 0, 0])
        return F.conv2d(padded.reshape(1, b * channels, *padded.shape[-2:]), kernels, groups=b)[0]


def blurred(maps: Tensor, size: int, sd: float) -> Tensor:
    """(b, m, n) maps, filtered as OpenCV's GaussianBlur does: mirrored at the edge, the edge itself not repeated."""
    kernel = gaussian_kernel(size, sd).to(maps)
    half = size // 2
    padded = F.pad(maps[:, None], (half, half, half, half), mode="reflect")
    return F.conv2d(F.conv2d(padded, kernel[None, None, :, None]), kernel[None, None, None])[:, 0]


@lru_cache(maxsize=16)
def gaussian_kernel(size: int, sd: float) -> Tensor:
    """(size,) float64 weights; with an SD of 0 OpenCV's fixed ones."""
    if sd <= 0:
        return torch.tensor(_FIXED_KERNELS[size], dtype=torch.float64)
    place = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
    weights = torch.exp(-place.square() / (2 * sd * sd))
    return weights / weights.sum()


def checked_surround(surround: Any) -> Surround:
    """The two kernels of the local contrast as a tuple.

    Raises:
        InputError: Not two pairs of an odd size and an SD; or an SD of 0 for which there is no fixed kernel.

    """
    try:
        (a, sd_a), (b, sd_b) = ((int(size), float(sd)) for size, sd in surround)
    except (TypeError, ValueError) as error:
        raise InputError(f"eccnet: surround must be ((size, sd), (size, sd)) in cells; got {surround!r}") from error
    for size, sd in ((a, sd_a), (b, sd_b)):
        if size < 1 or size % 2 == 0 or sd < 0 or (sd == 0 and size not in _FIXED_KERNELS):
            raise InputError(
                f"eccnet: a kernel of size {size} and SD {sd:g}: sizes are odd, and an SD of 0 has kernels of "
                f"{list(_FIXED_KERNELS)} cells only"
            )
    return (a, sd_a), (b, sd_b)


def area_weights(cells: int, side: int) -> tuple[Tensor, Tensor]:
    """How OpenCV's area interpolation enlarges `cells` to `side` pixels along one axis.

    Returns:
        (side,) long index s of a cell, and (side,) float64 share of cell s + 1; the rest is of cell s.

    """
    pixel = torch.arange(side, dtype=torch.float64)
    # In whole numbers: at an exact multiple, a rounding error would pick the cell before.
    index = torch.arange(side) * cells // side
    share = (pixel + 1) - (index + 1).double() * side / cells
    share = torch.where(share <= 0, torch.zeros_like(share), share - share.floor())
    return index, torch.where(index >= cells - 1, torch.zeros_like(share), share)


def enlarged(cells: Tensor, side: int, origin: Tensor, hw: tuple[int, int]) -> Tensor:
    """(b, m, m) maps of crops of `side` pixels -> (b, H, W), the display's part; 0 where the crop does not reach.

    Args:
        cells: The maps.
        side: Of the crops.
        origin: (b, 2) long (row, column) of each crop's first pixel in its display.
        hw: Height and width of the displays.

    """
    b, m = cells.shape[:2]
    index, share = (part.to(cells.device) for part in area_weights(m, side))
    batch = torch.arange(b, device=cells.device)[:, None]
    value = cells
    for axis in (0, 1):
        pixel = torch.arange(hw[axis], device=cells.device) - origin[:, axis : axis + 1]
        inside = (pixel >= 0) & (pixel < side)
        pixel = pixel.clamp(0, side - 1)
        low, part = index[pixel], share[pixel].to(cells)[..., None]
        high = (low + 1).clamp(max=m - 1)
        value = (value[batch, low] * (1 - part) + value[batch, high] * part) * inside[..., None]
        value = value.transpose(1, 2)
    return value


def _within(origin: Tensor, side: int, corner: int, hw: tuple[int, int]) -> Tensor:
    """(b, H, W) bool, the display's pixels that lie in the crop, not in its outermost `corner` pixels."""
    inside = []
    for axis in (0, 1):
        pixel = torch.arange(hw[axis], device=origin.device) - origin[:, axis : axis + 1]
        inside.append((pixel >= corner) & (pixel < side - corner))
    return inside[0][:, :, None] & inside[1][:, None]


def _middles(masks: Tensor) -> Tensor:
    """(n, H, W) bool -> (n, 2) long (row, column), the middle of what is True."""
    boxes = cell_boxes(masks)
    return (boxes[:, :2] + boxes[:, 2:]) // 2
