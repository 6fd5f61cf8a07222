"""Feature pyramids of timm and torchvision networks, with weights whose origin is always known.

A backbone takes RGB in [0, 1], normalises it as its weights were trained, and returns one map per
tap: a stride, or a module by name. Weights come from the library that owns them, from a file, or are random on request;
nothing falls back from one to another in silence.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from inspect import Parameter, signature
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gazekit.backbones.folding import fold_batch_norms
from gazekit.backbones.vit_gna import DEFAULT_ARCH, WindowedViT
from gazekit.errors import InputError
from gazekit.files import cache_folder, sha256_of
from gazekit.registry import unknown_name

_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# Weights that need another network than timm's default of that name: TensorFlow's padding, a
# background class, inputs scaled to [-1, 1].
_VARIANTS: dict[str, dict[str, Any]] = {
    "mobilenetv2_100.tf_in1k": {
        "arch": "mobilenetv2_100",
        "kwargs": {"pad_type": "same", "num_classes": 1001},
        "mean": (0.5, 0.5, 0.5),
        "std": (0.5, 0.5, 0.5),
    },
}


@dataclass(frozen=True)
class WeightsSource:
    """Which weights a backbone holds.

    Args:
        name: File name, ``library:tag`` of a download, or ``random``.
        sha256: Digest of the file, or of the tensors where a library downloaded them or they are random.
        of: What the digest was taken of, ``file`` or ``tensors``.

    """

    name: str
    sha256: str
    of: str

    @property
    def pretrained(self) -> bool:
        return self.name != "random"

    def __str__(self) -> str:
        return f"{self.name} (sha256 {self.sha256[:12]})"

    def as_dict(self) -> dict[str, str]:
        return asdict(self)


class Backbone(nn.Module):
    """(B, 3, H, W) RGB in [0, 1] -> one (B, C, ceil(H / stride), ceil(W / stride)) map per tap.

    Attributes:
        name: As given to :func:`create_backbone`.
        taps: What is tapped, in the order of the maps.
        strides: Pixels per map cell, per tap.
        channels: Channels per tap.
        source: Which weights these are.
        frozen: No gradient, and batch statistics rest in training too.

    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, name: str, network: nn.Module, taps: Sequence[int | str], mean: Sequence[float], std: Sequence[float],
        source: WeightsSource, frozen: bool,
    ) -> None:  # fmt: skip
        super().__init__()
        self.name, self.source, self.frozen, self.taps = name, source, frozen, tuple(taps)
        # Twice as fast as NCHW on a CPU, and what tensor cores want.
        self.network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)
        if frozen:
            self.requires_grad_(False).eval()
        training, side = self.training, 128
        with torch.no_grad():
            maps = self.eval()(torch.zeros(1, 3, side, side))
        self.train(training)
        self.channels = tuple(m.shape[1] for m in maps)
        self.strides = tuple(side // m.shape[-1] for m in maps)

    def train(self, mode: bool = True) -> Backbone:
        # Frozen weights are not enough: dropout and batch statistics must rest too.
        return super().train(mode and not self.frozen)

    def forward(
        self, image: Tensor, fixation_px: Tensor | None = None, px_per_dva: float | None = None
    ) -> tuple[Tensor, ...]:
        """Maps of an image; of a foveated backbone also as seen from a fixation, (B, 2) as (x, y) px of the image."""
        x = ((image - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        if fixation_px is None:
            return tuple(m.contiguous() for m in self.network(x))
        if not isinstance(self.network, WindowedViT):
            raise InputError(f"backbone {self.name!r} does not look from a fixation; vit_gna with foveated=True does")
        return tuple(m.contiguous() for m in self.network(x, fixation_px, px_per_dva))

    def insert_behind(self, modules: Mapping[str, nn.Module]) -> None:
        """Put a module behind a tapped layer: what follows the layer in the network sees its output, the tap does not.

        Raises:
            InputError: The backbone is not tapped by names of modules.

        """
        if not isinstance(self.network, _NamedTaps):
            raise InputError(f"backbone {self.name!r}: modules can be inserted behind layers that are tapped by name")
        self.network.insert_behind(modules)


def create_backbone(
    name: str,
    weights: str | Path | None = "pretrained",
    taps: Sequence[int | str] = (8, 16, 32),
    frozen: bool = True,
    options: Mapping[str, Any] | None = None,
) -> Backbone:
    """Build a feature pyramid by name.

    Args:
        name: A timm name (``mobilenetv2_100``, also ``timm/...``), ``torchvision/...``, one of
            the variants known here (``mobilenetv2_100.tf_in1k``), ``gazekit/small_vgg``, whose weights ship
            with gazekit (see ``small_vgg.yaml`` beside them for what they can and cannot do), or ``vit_gna/...`` and
            a timm ViT, which then attends within windows (``vit_gna`` alone is that of ``vit_tiny_patch16_224``).
        weights: ``"pretrained"`` takes a file named after the backbone from a weights folder (see
            :func:`find_weights`), else the owning library's download; a path takes that file
            (safetensors, or a ``.pt`` of plain tensors); None leaves the weights random.
        taps: Which maps to return: a number is the last stage of that stride (timm) or the last
            top-level module of it (torchvision); a text is a module by name, such as ``blocks.3``.
        frozen: Turn gradients off and keep the network in evaluation mode.
        options: Of ``vit_gna``: the keyword arguments of :class:`gazekit.backbones.WindowedViT`.

    Raises:
        InputError: Unknown name or tap; weights missing, unreadable, or of another network.

    """
    library, _, short = name.rpartition("/")
    if library == "" and short == "vit_gna":
        library, short = "vit_gna", DEFAULT_ARCH
    if library not in ("", "timm", "torchvision", "vit_gna", "gazekit"):
        raise unknown_name("backbone library", library, ["timm", "torchvision", "vit_gna", "gazekit"])
    if options and library != "vit_gna":
        raise InputError(f"backbone {name!r}: only vit_gna takes options, found {sorted(options)}")
    file = _weights_file(name if "/" in name else short, weights)
    pick = {"torchvision": _torchvision, "gazekit": _own}.get(library, _timm)
    network, mean, std, source = pick(short, weights, file)
    pyramid: nn.Module
    if library == "vit_gna":
        pyramid = WindowedViT(network, taps, name, **_known_options(name, options or {}))
    elif all(isinstance(tap, str) for tap in taps):
        pyramid = _NamedTaps(network, {str(tap): str(tap) for tap in taps}, name)
    elif not all(isinstance(tap, int) for tap in taps):
        raise InputError(f"backbone {name!r}: taps are all strides or all module names, found {list(taps)}")
    elif library in ("torchvision", "gazekit"):
        found = _last_module_of_each_stride(network)
        _check_strides(taps, list(found), name)
        pyramid = _NamedTaps(network, {found[int(tap)]: str(tap) for tap in taps}, name)
    else:
        pyramid = _TimmStages(network, [int(tap) for tap in taps], name)
    return Backbone(name, pyramid, taps, mean, std, source, frozen)


def _known_options(name: str, options: Mapping[str, Any]) -> Mapping[str, Any]:
    parameters = signature(WindowedViT).parameters.values()
    known = [parameter.name for parameter in parameters if parameter.kind is Parameter.KEYWORD_ONLY]
    for option in options:
        if option not in known:
            raise unknown_name(f"option of backbone {name!r}", option, known)
    return options


def create_classifier(
    name: str, weights: str | Path | None = "pretrained"
) -> tuple[nn.Module, Sequence[float], Sequence[float], WeightsSource]:
    """The whole network of a backbone's name, with its classes: frozen for good, its batch norms folded.

    Args:
        name: As for :func:`create_backbone`.
        weights: As there.

    Returns:
        (B, 3, H, W) normalised images -> (B, classes) logits; the mean and SD of that normalisation; which weights.

    Raises:
        InputError: As :func:`create_backbone`, or the network has no classes.

    """
    library, _, short = name.rpartition("/")
    if library not in ("", "timm", "torchvision"):
        raise unknown_name("backbone library", library, ["timm", "torchvision"])
    pick = _torchvision if library == "torchvision" else _timm
    network, mean, std, source = pick(short, weights, _weights_file(name, weights))
    if library != "torchvision" and not getattr(network, "num_classes", 0):
        raise InputError(f"backbone {name!r} has no classes; take one that was trained to classify")
    network.requires_grad_(False).eval()
    fold_batch_norms(network)
    return network, mean, std, source


def find_weights(name: str) -> Path | None:
    """A weights file for backbone `name` on this machine, or None.

    Looks for ``NAME.safetensors`` in ``$GAZEKIT_WEIGHTS``, in a folder ``weights`` inside or beside
    ``$GAZEKIT_DATA``, and in the cache.
    """
    files = (folder / f"{name.rpartition('/')[2]}.safetensors" for folder in _weights_folders())
    return next((file for file in files if file.is_file()), None)


def _weights_folders() -> list[Path]:
    folders = [Path(os.environ["GAZEKIT_WEIGHTS"])] if os.environ.get("GAZEKIT_WEIGHTS") else []
    if data := os.environ.get("GAZEKIT_DATA"):
        folders += [Path(data) / "weights", Path(data).resolve().parent / "weights"]
    return [*folders, cache_folder() / "weights"]


def _weights_file(name: str, weights: str | Path | None) -> Path | None:
    if weights is None:
        return None
    if weights == "pretrained":
        return find_weights(name)
    file = Path(weights).expanduser()
    if not file.is_file():
        raise InputError(
            f"backbone {name!r}: weights file {str(file)!r} does not exist; give a .safetensors or .pt file, "
            "'pretrained', or null for random weights"
        )
    return file


def _timm(
    name: str, weights: str | Path | None, file: Path | None
) -> tuple[nn.Module, Sequence[float], Sequence[float], WeightsSource]:
    import timm

    variant = _VARIANTS.get(name, {})
    arch = variant.get("arch", name)
    if not timm.is_model(arch):
        raise unknown_name("backbone", name, [*timm.list_models(), *_VARIANTS], " of timm")
    download = weights == "pretrained" and file is None
    if download and variant:
        raise InputError(
            f"backbone {name!r}: no library offers these weights for download; put {name}.safetensors into "
            f"$GAZEKIT_WEIGHTS, or use {arch!r}, whose weights timm downloads"
        )
    kwargs = dict(variant.get("kwargs", {}))
    state = read_state(file) if file else None
    for head in ("classifier.weight", "head.weight"):
        if state and head in state:
            kwargs["num_classes"] = len(state[head])
    try:
        network: Any = timm.create_model(arch, pretrained=download, **kwargs)
    except Exception as error:  # hub clients raise their own families of network errors
        if not download:
            raise
        raise _download_failed(name, "timm", error) from error
    config = network.pretrained_cfg
    mean, std = variant.get("mean", config["mean"]), variant.get("std", config["std"])
    source = _settle_weights(network, state, file, f"timm:{config.get('tag') or arch}" if download else None)
    return network, mean, std, source


def _torchvision(
    name: str, weights: str | Path | None, file: Path | None
) -> tuple[nn.Module, Sequence[float], Sequence[float], WeightsSource]:
    from torchvision import models

    if name not in models.list_models():
        raise unknown_name("backbone", f"torchvision/{name}", [f"torchvision/{n}" for n in models.list_models()])
    download = weights == "pretrained" and file is None
    try:
        network = models.get_model(name, weights="DEFAULT" if download else None)
    except Exception as error:
        if not download:
            raise
        raise _download_failed(name, "torchvision", error) from error
    state = read_state(file) if file else None
    source = _settle_weights(network, state, file, "torchvision:DEFAULT" if download else None)
    return network, _IMAGENET_MEAN, _IMAGENET_STD, source


def _own(
    name: str, weights: str | Path | None, file: Path | None
) -> tuple[nn.Module, Sequence[float], Sequence[float], WeightsSource]:
    from gazekit.backbones.small_vgg import SHIPPED, SmallVGG

    if name != "small_vgg":
        raise unknown_name("backbone", f"gazekit/{name}", ["gazekit/small_vgg"])
    file = file or (SHIPPED if weights == "pretrained" else None)
    state = read_state(file) if file else None
    network = SmallVGG() if state is None else SmallVGG.shaped_like(state)
    half = (0.5, 0.5, 0.5)
    return network.eval(), half, half, _settle_weights(network, state, file, None)


def _download_failed(name: str, library: str, error: Exception) -> InputError:
    near = sorted(file.stem for folder in _weights_folders() for file in folder.glob(f"{name}.*.safetensors"))
    hint = f"use backbone {near[0]!r}, whose weights are on this machine, or " if near else ""
    return InputError(
        f"backbone {name!r}: {library} could not download its weights ({type(error).__name__}); {hint}connect to the "
        "network, give a local file as weights, or null for random weights"
    )


def read_state(file: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        state: Any = torch.load(file, map_location="cpu", weights_only=True)
    except (OSError, SafetensorError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise InputError(f"{file}: not a readable weights file ({type(error).__name__}); fetch it again") from error
    except Exception as error:  # pickle.UnpicklingError: the file holds more than tensors
        raise InputError(f"{file}: holds more than plain tensors and is not loaded; use safetensors") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise InputError(
            f"{file}: not a state dict of named tensors; save it with torch.save(network.state_dict(), file)"
        )
    return state


def _settle_weights(
    network: nn.Module, state: dict[str, Tensor] | None, file: Path | None, downloaded: str | None
) -> WeightsSource:
    if state is not None and file is not None:
        wanted = network.state_dict()
        missing = sorted(set(wanted) - set(state))
        extra = sorted(set(state) - set(wanted))
        shapes = [k for k in set(wanted) & set(state) if wanted[k].shape != state[k].shape]
        if missing or extra or shapes:
            example = (missing or extra or sorted(shapes))[0]
            raise InputError(
                f"{file}: weights of another network ({len(missing)} tensors missing, {len(extra)} unknown, "
                f"{len(shapes)} of another shape; first: {example}); name the backbone that they belong to"
            )
        network.load_state_dict(state)
        return WeightsSource(file.name, sha256_of(file), "file")
    return WeightsSource(downloaded or "random", digest_of(network), "tensors")


def digest_of(network: nn.Module) -> str:
    digest = hashlib.sha256()
    for key, value in sorted(network.state_dict().items()):
        digest.update(key.encode())
        digest.update(value.contiguous().numpy().tobytes())
    return digest.hexdigest()


class _TimmStages(nn.Module):
    """The tapped stages of a timm network, without what comes after the deepest of them."""

    def __init__(self, network: Any, strides: list[int], name: str) -> None:
        super().__init__()
        if not hasattr(network, "forward_intermediates") or not hasattr(network, "feature_info"):
            raise InputError(f"backbone {name!r}: timm offers no intermediate maps for this network; choose another")
        # Several stages can share a stride (a ViT's all do); the deepest of them stands for it.
        found = {info["reduction"]: index for index, info in enumerate(network.feature_info)}
        _check_strides(strides, list(found), name)
        self.indices = sorted(found[stride] for stride in strides)
        # timm returns the maps from shallow to deep, whatever order was asked for.
        self.order = [self.indices.index(found[stride]) for stride in strides]
        network.prune_intermediate_layers(self.indices, prune_norm=True, prune_head=True)
        self.network = network

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = self.network.forward_intermediates(x, indices=self.indices, intermediates_only=True)
        return [maps[place] for place in self.order]


class _NamedTaps(nn.Module):
    """The outputs of named modules, cut out of the network's graph."""

    def __init__(self, network: nn.Module, module_to_key: dict[str, str], name: str) -> None:
        super().__init__()
        from timm.models import create_feature_extractor  # torchvision's, told which modules not to trace

        known = dict(network.named_modules())
        for module in module_to_key:
            if module not in known:
                raise unknown_name(f"module in backbone {name!r}", module, [key for key in known if key.count(".") < 2])
        self.keys = list(module_to_key.values())
        # Always in evaluation mode's graph: the readouts here never train through dropout in a backbone.
        self.network = create_feature_extractor(network.eval(), dict(module_to_key))

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = self.network(x)
        return [maps[key] for key in self.keys]

    def insert_behind(self, modules: Mapping[str, nn.Module]) -> None:
        graph: Any = self.network.graph
        output = next(node for node in graph.nodes if node.op == "output")
        for key, module in modules.items():
            tapped = output.args[0][key]
            name = f"behind_{key.replace('.', '_')}"
            self.network.add_module(name, module)
            with graph.inserting_after(tapped):
                inserted = graph.call_module(name, (tapped,))
            for user in [u for u in tapped.users if u not in (inserted, output)]:
                user.replace_input_with(tapped, inserted)
        self.network.recompile()


def _check_strides(strides: Sequence[int | str], found: list[int], name: str) -> None:
    if absent := [stride for stride in strides if stride not in found]:
        raise InputError(f"backbone {name!r} has no map of stride {absent[0]}; its strides are {sorted(found)}")


def _last_module_of_each_stride(network: nn.Module) -> dict[int, str]:
    """Stride -> name of the last top-level module (or child of ``features``) with it, found by one small run."""
    prefix, parent = ("features.", network.features) if hasattr(network, "features") else ("", network)
    assert isinstance(parent, nn.Module)
    side = 128
    found: dict[int, str] = {}
    hooks = []
    for child_name, child in parent.named_children():

        def note(_: nn.Module, __: Any, output: Any, name: str = prefix + child_name) -> None:
            if isinstance(output, Tensor) and output.ndim == 4 and output.shape[-1] > 1:
                found[side // output.shape[-1]] = name

        hooks.append(child.register_forward_hook(note))
    training = network.training
    with torch.no_grad():
        network.eval()(torch.zeros(1, 3, side, side))
    network.train(training)
    for hook in hooks:
        hook.remove()
    return found
