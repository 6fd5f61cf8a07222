"""The models there are, and how a checkpoint becomes one of them again."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch

from gazekit.errors import InputError
from gazekit.models.base import GazeModel
from gazekit.registry import Registry

MODELS = Registry(
    "model",
    {
        "uniform": "gazekit.models.uniform:Uniform",
        "center_bias": "gazekit.models.center_bias:CenterBias",
        "human": "gazekit.models.human:Human",
        "shuffled_human": "gazekit.models.human:ShuffledHuman",
        "saliency_readout": "gazekit.models.saliency_readout:SaliencyReadout",
        "next_fixation": "gazekit.models.next_fixation:NextFixation",
        "oat": "gazekit.models.oat:Oat",
        "codebook": "gazekit.models.codebook:Codebook",
        "itti_koch": "gazekit.models.itti_koch:IttiKoch",
        "inhibited": "gazekit.models.inhibited:Inhibited",
        "cle": "gazekit.models.cle:CLE",
        "g_eymol": "gazekit.models.g_eymol:GEymol",
        "neva": "gazekit.models.neva:Neva",
        "nevaclip": "gazekit.models.nevaclip:NevaClip",
        "eccnet": "gazekit.models.eccnet:EccNet",
        "chance_search": "gazekit.models.search_controls:ChanceSearch",
        "pixel_match": "gazekit.models.search_controls:PixelMatch",
        "center_search": "gazekit.models.search_controls:CenterSearch",
        "saliency_search": "gazekit.models.search_controls:SaliencySearch",
        "object_random": "gazekit.models.object_controls:ObjectRandom",
        "object_center": "gazekit.models.object_controls:ObjectCenter",
        "object_near_target": "gazekit.models.object_controls:ObjectNearTarget",
        "object_similar": "gazekit.models.object_controls:ObjectSimilar",
        "object_salient": "gazekit.models.object_controls:ObjectSalient",
    },
)


def create_model(name: str, **kwargs: Any) -> GazeModel:
    """Build a registered model with these constructor arguments.

    Raises:
        InputError: Unknown name, or arguments that the model refuses.

    """
    model: GazeModel = MODELS.load(name)(**kwargs)
    return model


def model_name(model: GazeModel) -> str:
    """The name under which the model's class is registered.

    Raises:
        InputError: The class is not registered.

    """
    for name, target in MODELS.items():
        if target == f"{type(model).__module__}:{type(model).__qualname__}":
            return name
    raise InputError(f"{type(model).__qualname__} is not a registered model; add it to gazekit/models/registry.py")


def read_checkpoint(path: Path | str) -> dict[str, Any]:
    """The content of a checkpoint file, read as plain tensors and values only.

    Raises:
        InputError: The file is missing, damaged, holds other objects, or was not written by gazekit.

    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"checkpoint {str(path)!r} does not exist; give a .ckpt file or one of: {', '.join(MODELS)}")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{path}: holds more than tensors and plain values, or is no checkpoint at all; it is not loaded"
        ) from error
    except Exception as error:  # a file that is no checkpoint trips torch.load in ever new ways
        raise InputError(
            f"{path}: not a readable checkpoint ({type(error).__name__}); train or fetch it again"
        ) from error
    if not isinstance(checkpoint, dict) or "gazekit_model" not in checkpoint:
        raise InputError(f"{path}: not a checkpoint written by gazekit (it names no gazekit model)")
    return checkpoint


def load_model(path: Path | str, expect: str | None = None) -> GazeModel:
    """Restore a model from a checkpoint, with its hyper-parameters and weights, in evaluation mode.

    Backbone weights travel inside the checkpoint: nothing else is needed to use it.

    Args:
        path: A ``.ckpt`` file written by ``gazekit fit``.
        expect: Name of the model that the caller needs, if it needs one in particular.

    Raises:
        InputError: As :func:`read_checkpoint`; or the checkpoint is of another model than `expect`,
            or its weights do not fit the model that it names.

    """
    checkpoint = read_checkpoint(path)
    name = checkpoint["gazekit_model"]
    if expect is not None and name != expect:
        raise InputError(f"{path}: checkpoint of model {name!r}, expected {expect!r}; give the checkpoint that fits")
    model_class: Any = MODELS.load(name)
    try:
        model: GazeModel = model_class.from_checkpoint(checkpoint)
    except (KeyError, TypeError) as error:
        raise InputError(f"{path}: lacks what model {name!r} is restored from ({error}); train it again") from error
    try:
        model.load_state_dict(checkpoint["state_dict"])
    except RuntimeError as error:
        raise InputError(
            f"{path}: weights do not fit model {name!r} ({str(error).splitlines()[-1].strip()})"
        ) from error
    return model.eval()
