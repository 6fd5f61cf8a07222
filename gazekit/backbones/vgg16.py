"""The convolutional part of VGG16 with eccentric pooling, as a source of search features.

Weights are those of Simonyan & Zisserman (2015) in any of their forms: torchvision's download, a local file, or a Keras
``.h5``. Features of displays that are mostly background are computed on the drawn part alone and pasted into those of
the background, which gives the same numbers for a fraction of the work.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gazekit.backbones.eccentric import Box, EccentricPool2d, Mode, Spacing, same_pool2d, vgg16_pools
from gazekit.backbones.pyramid import WeightsSource, digest_of, find_weights, read_state
from gazekit.backbones.search_features import SearchFeatures, full_precision
from gazekit.errors import InputError
from gazekit.files import sha256_of, written_aside
from gazekit.registry import unknown_name

# Output channels and convolutions per block.
_BLOCKS = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
LAYERS = tuple(f"conv{block}_{n}" for block, (_, count) in enumerate(_BLOCKS, 1) for n in range(1, count + 1))
# Where torchvision keeps them.
_TORCHVISION = dict(zip(LAYERS, (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28), strict=True))
# Blue, green, red on the scale 0 to 255, and what they are divided by.
PREPROCESSING = {
    "caffe": ((103.939, 116.779, 123.68), (1.0, 1.0, 1.0)),
    "torchvision": ((255 * 0.406, 255 * 0.456, 255 * 0.485), (255 * 0.225, 255 * 0.224, 255 * 0.229)),
}


class Background(NamedTuple):
    """Maps of a crop that is background all over.

    Attributes:
        taps: conv3_3, conv4_3 and conv5_3.
        pooled: The first two of them after their pooling.
        search: All three at stride 16.
        grey: The background.

    """

    taps: list[Tensor]
    pooled: list[Tensor]
    search: list[Tensor]
    grey: int


class EccentricVGG16(SearchFeatures):
    """VGG16 up to conv5_3, tapped at conv3_3, conv4_3 and conv5_3.

    Args:
        weights: "pretrained": ``vgg16.safetensors`` in a weights folder (see
            :func:`gazekit.backbones.find_weights`), else torchvision's ``IMAGENET1K_FEATURES``. A path:
            safetensors or ``.pt`` with the names of torchvision or of this class, or a Keras ``.h5``. None: random.
        eccentric: Pooling windows that grow with eccentricity; else all are 2 x 2.
        pool: "avg", or "max" as in the original network.
        preprocessing: "caffe" (the original weights and all Keras ones: 0-255, means subtracted) or "torchvision"
            (``IMAGENET1K_V1``: scaled to unit variance). Which of them a file was trained for cannot be seen in it.
        spacing: Of the eccentric pooling, "rings" as published or "continuous".

    Raises:
        InputError: Weights missing, unreadable or of another network; an unknown choice.

    """

    mean: Tensor
    std: Tensor
    n_layers = 3

    def __init__(
        self,
        weights: str | Path | None = "pretrained",
        eccentric: bool = True,
        pool: Mode = "avg",
        preprocessing: str = "caffe",
        spacing: Spacing = "rings",
    ) -> None:
        super().__init__()
        if pool not in ("avg", "max"):
            raise unknown_name("pooling mode", pool, ["avg", "max"])
        if preprocessing not in PREPROCESSING:
            raise unknown_name("preprocessing of VGG16", preprocessing, list(PREPROCESSING))
        if spacing == "continuous" and pool == "max":
            raise InputError("VGG16 with max pooling has rings only; use pool='avg' or spacing='rings'")
        self.eccentric, self.pool, self.spacing = eccentric, pool, spacing
        mean, std = PREPROCESSING[preprocessing]
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1))
        channels, convolutions = 3, {}
        for block, (width, count) in enumerate(_BLOCKS, 1):
            for number in range(1, count + 1):
                convolutions[f"conv{block}_{number}"] = nn.Conv2d(channels, width, 3, padding=1)
                channels = width
        self.convolutions = nn.ModuleDict(convolutions)
        self.source = self._load(weights)
        self.requires_grad_(False).eval()
        self._pools: dict[float, list[EccentricPool2d]] = {}

    def train(self, mode: bool = True) -> EccentricVGG16:
        return super().train(False)

    def pools(self, px_per_dva: float) -> list[EccentricPool2d]:
        """The five pooling stages for pictures of this resolution."""
        if px_per_dva not in self._pools:
            slopes = {} if self.eccentric else {"slopes": (0.0,) * 5}
            self._pools[px_per_dva] = vgg16_pools(px_per_dva, self.pool, self.spacing, **slopes)
        return self._pools[px_per_dva]

    def normalize(self, picture: Tensor) -> Tensor:
        """(B, 3, H, W) uint8 RGB -> what the first convolution takes."""
        return (picture.flip(1).float() - self.mean) / self.std

    def block(self, number: int, x: Tensor) -> Tensor:
        """The convolutions of block 1 to 5, without its pooling."""
        for name in LAYERS:
            if name.startswith(f"conv{number}_"):
                x = F.relu(self.convolutions[name](x), inplace=True)
        return x

    def un_pooled(self, picture: Tensor, px_per_dva: float) -> list[Tensor]:
        """conv3_3, conv4_3 and conv5_3, at strides 4, 8 and 16."""
        pools, taps = self.pools(px_per_dva), []
        with full_precision():
            x = self.normalize(picture)
            for number in range(1, 6):
                x = self.block(number, x if number == 1 else pools[number - 2](x))
                if number >= 3:
                    taps.append(x)
        return taps

    def _plain(self, x: Tensor, times: int) -> Tensor:
        for _ in range(times):
            x = same_pool2d(x, 2, 2, self.pool)
        return x

    def search_maps(self, crop: Tensor, px_per_dva: float) -> list[Tensor]:
        return [self._plain(x, times) for x, times in zip(self.un_pooled(crop, px_per_dva), (2, 1, 0), strict=True)]

    def target_maps(self, target: Tensor, px_per_dva: float, same_stride: bool = False) -> list[Tensor]:
        taps = self.un_pooled(target, px_per_dva)
        if same_stride:
            return [self._plain(x, times) for x, times in zip(taps, (2, 1, 0), strict=True)]
        pooled = [pool(x) for pool, x in zip(self.pools(px_per_dva)[2:], taps, strict=True)]
        return [self._plain(x, times) for x, times in zip(pooled, (2, 1, 0), strict=True)]

    # Displays that are mostly background

    @torch.no_grad()
    def background_maps(self, side: int, background: int, px_per_dva: float) -> Background:
        pools = self.pools(px_per_dva)
        picture = torch.full((1, 3, side, side), background, dtype=torch.uint8, device=self.mean.device)
        taps = self.un_pooled(picture, px_per_dva)
        search = [self._plain(x, times) for x, times in zip(taps, (2, 1, 0), strict=True)]
        pooled = [pools[2](taps[0]), pools[3](taps[1])]
        return Background(taps, pooled, search, background)

    def search_maps_on_background(self, known: Background, crop: Tensor, px_per_dva: float) -> list[Tensor]:
        """Exact: every value whose inputs are all background is taken from `known`, the others are computed.

        Each stage computes the box of cells that the drawn part of the crop reaches by then, and pastes it.
        """
        each = [self._pasted(known, one, px_per_dva) for one in crop.split(1)]
        return [torch.cat(maps) for maps in zip(*each, strict=True)]

    def _pasted(self, known: Background, crop: Tensor, px_per_dva: float) -> list[Tensor]:
        drawn = (crop[0] != known.grey).any(0)
        if not drawn.any():
            return known.search
        rows, columns = drawn.any(1).nonzero()[:, 0], drawn.any(0).nonzero()[:, 0]
        side, n = crop.shape[-1], known.taps[0].shape[-1]
        # Cell j of conv3_3 sees the pixels from 4 j - 18 up to 4 j + 22.
        spans = [(int(i[0]), int(i[-1]) + 1) for i in (rows, columns)]
        box3 = _box([(-(-(low - 21) // 4), -(-(high + 18) // 4)) for low, high in spans], n)
        (r0, r1), (c0, c1) = ((4 * box3[i] - 18, 4 * box3[i + 1] + 18) for i in (0, 2))
        if min(r0, c0) < 0 or max(r1, c1) > side:
            # The edge of the crop is near: padding would have to be imitated layer by layer.
            return self.search_maps(crop, px_per_dva)
        pools = self.pools(px_per_dva)
        with full_precision():
            x = self.normalize(crop[..., r0:r1, c0:c1])
            for number in (1, 2, 3):
                for name in LAYERS:
                    if name.startswith(f"conv{number}_"):
                        # The window brings its own surroundings, so nothing is padded.
                        convolution = self.convolutions[name]
                        assert isinstance(convolution, nn.Conv2d)
                        x = F.relu(F.conv2d(x, convolution.weight, convolution.bias), inplace=True)
                if number < 3:
                    x = same_pool2d(x, 2, 2, self.pool)
            pieces, boxes = [x], [box3]
            for stage in (0, 1):
                x, box = self._next_block(known, stage, pieces[-1], boxes[-1], pools[2 + stage])
                pieces.append(x)
                boxes.append(box)
        return [
            self._at_stride_16(known, layer, piece, box, times)
            for layer, (piece, box, times) in enumerate(zip(pieces, boxes, (2, 1, 0), strict=True))
        ]

    def _next_block(
        self, known: Background, stage: int, piece: Tensor, box: Box, pool: EccentricPool2d
    ) -> tuple[Tensor, Box]:
        """Pooling and block 4 (stage 0) or 5 (stage 1): what the piece reaches, and its box."""
        base, side = known.taps[stage], known.taps[stage].shape[-1]
        pooled, n = known.pooled[stage], known.pooled[stage].shape[-1]
        reached = pool.reached((side, side), box)
        needed = pool.needed((side, side), reached)
        window = pool.part(_patched(base, piece, box, needed), (side, side), (needed[0], needed[2]), reached)
        # Three convolutions reach three cells further, and need three more to be right at the rim.
        out = _box([(reached[0] - 3, reached[1] + 3), (reached[2] - 3, reached[3] + 3)], n)
        seen = _box([(out[0] - 3, out[1] + 3), (out[2] - 3, out[3] + 3)], n)
        x = self.block(4 + stage, _patched(pooled, window, reached, seen))
        return x[..., out[0] - seen[0] : out[1] - seen[0], out[2] - seen[2] : out[3] - seen[2]], out

    def _at_stride_16(self, known: Background, layer: int, piece: Tensor, box: Box, times: int) -> Tensor:
        """The whole map of a layer at stride 16."""
        scale, side = 2**times, known.taps[layer].shape[-1]
        coarse = (box[0] // scale, -(-box[1] // scale), box[2] // scale, -(-box[3] // scale))
        r0, r1, c0, c1 = (edge * scale for edge in coarse)
        fine = (r0, min(r1, side), c0, min(c1, side))
        values = self._plain(_patched(known.taps[layer], piece, box, fine), times)
        n = known.search[layer].shape[-1]
        return _patched(known.search[layer], values, coarse, (0, n, 0, n))

    # Weights

    def _load(self, weights: str | Path | None) -> WeightsSource:
        if weights is None:
            for convolution in self.convolutions.values():
                assert isinstance(convolution, nn.Conv2d)
                nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
                nn.init.zeros_(convolution.bias)  # type: ignore[arg-type]
            return WeightsSource("random", digest_of(self.convolutions), "tensors")
        if weights == "pretrained":
            file = find_weights("vgg16")
            if file is None:
                self._take(_from_torchvision(_download()), "torchvision's VGG16")
                return WeightsSource("torchvision:IMAGENET1K_FEATURES", digest_of(self.convolutions), "tensors")
        else:
            file = Path(weights).expanduser()
            if not file.is_file():
                raise InputError(
                    f"VGG16: weights file {str(file)!r} does not exist; give a .safetensors, .pt or Keras .h5 file, "
                    f"'pretrained', or null for random weights"
                )
        state = read_keras_vgg16(file) if file.suffix in (".h5", ".hdf5", ".keras") else read_state(file)
        if "features.0.weight" in state:
            state = _from_torchvision(state)
        self._take(state, str(file))
        return WeightsSource(file.name, sha256_of(file), "file")

    def _take(self, state: dict[str, Tensor], where: str) -> None:
        wanted = self.convolutions.state_dict()
        for key, value in wanted.items():
            if key not in state or state[key].shape != value.shape:
                found = f"of shape {tuple(state[key].shape)}" if key in state else "missing"
                raise InputError(f"{where}: not VGG16: {key} is {found}, expected {tuple(value.shape)}")
        self.convolutions.load_state_dict({key: state[key].float() for key in wanted})

    def save_weights(self, path: Path) -> None:
        """Write the convolutions as safetensors, for ``weights=path``: how a Keras file is converted once."""
        from safetensors.torch import save_file

        with written_aside(path) as aside:
            save_file({key: value.contiguous() for key, value in self.convolutions.state_dict().items()}, aside)


def _box(spans: list[tuple[int, int]], side: int) -> Box:
    """Spans of rows and columns, cut at the edges of a map."""
    (r0, r1), (c0, c1) = ((max(low, 0), min(high, side)) for low, high in spans)
    return r0, r1, c0, c1


def _patched(base: Tensor, piece: Tensor, box: Box, part: Box) -> Tensor:
    """A part of the map `base` in which the cells of `box` are those of `piece`."""
    out = base[..., part[0] : part[1], part[2] : part[3]].clone()
    r0, r1 = max(box[0], part[0]), min(box[1], part[1])
    c0, c1 = max(box[2], part[2]), min(box[3], part[3])
    if r0 < r1 and c0 < c1:
        out[..., r0 - part[0] : r1 - part[0], c0 - part[2] : c1 - part[2]] = piece[
            ..., r0 - box[0] : r1 - box[0], c0 - box[2] : c1 - box[2]
        ]
    return out


def _download() -> dict[str, Tensor]:
    from torchvision import models

    try:
        state: dict[str, Tensor] = models.VGG16_Weights.IMAGENET1K_FEATURES.get_state_dict(progress=True)
    except Exception as error:  # hub clients raise their own families of network errors
        raise InputError(
            f"VGG16: torchvision could not download its weights ({type(error).__name__}); connect to the network, give "
            f"a local file as weights, or another backbone, or null for random weights"
        ) from error
    return state


def _from_torchvision(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names of this class, and blue first."""
    renamed = {
        f"{name}.{part}": state[f"features.{index}.{part}"]
        for name, index in _TORCHVISION.items()
        for part in ("weight", "bias")
        if f"features.{index}.{part}" in state
    }
    if "conv1_1.weight" in renamed:
        renamed["conv1_1.weight"] = renamed["conv1_1.weight"].flip(1)
    return renamed


def read_keras_vgg16(path: Path) -> dict[str, Tensor]:
    """The convolutions in a Keras ``.h5`` file (layers ``block1_conv1`` ...; kernels (3, 3, in, out), blue first).

    Raises:
        InputError: h5py is not installed, or the file is not such a file.

    """
    try:
        import h5py
    except ImportError as error:
        raise InputError(f"{path}: reading Keras weights needs h5py; pip install 'gazekit[hdf5]'") from error
    arrays: dict[str, Any] = {}
    try:
        with h5py.File(path, "r") as file:

            def note(name: str, item: Any) -> None:
                layer = next((p for p in name.split("/") if p.startswith("block") and "_conv" in p), None)
                if layer is not None and isinstance(item, h5py.Dataset):
                    part = "weight" if item.ndim == 4 else "bias"
                    arrays[f"{layer.replace('block', 'conv').replace('_conv', '_')}.{part}"] = item[()]

            file.visititems(note)
    except OSError as error:
        raise InputError(f"{path}: not a readable HDF5 file ({error}); fetch it again") from error
    state = {key: torch.from_numpy(value).float() for key, value in arrays.items()}
    return {
        k: v.permute(3, 2, 0, 1).contiguous() if k.endswith("weight") and v.ndim == 4 else v for k, v in state.items()
    }
