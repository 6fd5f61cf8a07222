"""A model with its arguments in a YAML file, so that a table can say exactly what was scored.

``model: NAME`` and whatever the model's constructor takes::

    model: eccnet
    backbone: mobilenetv2_100.tf_in1k
    layer_weights: nl

or a trained one, and what its class lets be set after training (``GazeModel.adjustable``)::

    model: codebook
    checkpoint: runs/codebook_interiors/codebook.ckpt
    eagerness: 2.0

The file's name is the model's name in tables.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from gazekit.errors import InputError
from gazekit.files import sha256_of
from gazekit.models.base import GazeModel
from gazekit.models.registry import MODELS, create_model, load_model
from gazekit.resources import read_yaml, resource_names, resource_path

_FOLDER = "evaluation/models"


def is_model_file(given: str) -> bool:
    """Whether this is a YAML file of a model, or the name of one that ships."""
    return Path(given).suffix in (".yaml", ".yml") or (given not in MODELS and given in resource_names(_FOLDER))


def model_names() -> list[str]:
    """The registered models and the model files that ship."""
    return [*MODELS, *resource_names(_FOLDER)]


def read_model_file(name_or_path: str | Path) -> tuple[str, dict[str, Any]]:
    """Name of the model, and the arguments of its constructor.

    Raises:
        InputError: No such file; it names no model, or one that is not registered.

    """
    path = resource_path(_FOLDER, name_or_path)
    content = read_yaml(path)
    if not isinstance(content.get("model"), str):
        raise InputError(f"{path.name}: says not which model it is; expected a line 'model: NAME'")
    MODELS[content["model"]]
    return content["model"], {str(key): value for key, value in content.items() if key not in ("model", "title")}


def model_from_file(name_or_path: str | Path) -> GazeModel:
    """The model, ready to predict.

    Raises:
        InputError: As :func:`read_model_file` and :func:`~gazekit.models.registry.load_model`; or the model refuses its
            arguments.

    """
    name, arguments = read_model_file(name_or_path)
    if "checkpoint" in arguments:
        model = load_model(str(arguments.pop("checkpoint")), expect=name)
        try:
            model.adjust(**arguments)
        except InputError as error:
            raise InputError(f"{Path(name_or_path).name}: {error}") from error
        return model
    try:
        return create_model(name, **arguments).eval()
    except TypeError as error:
        raise InputError(f"{Path(name_or_path).name}: model {name!r}: {error}") from error


def identity_of(name_or_path: str | Path, model: GazeModel) -> str:
    """What the model is, as text: its arguments, files that they name by content, and the weights it stands on."""
    name, arguments = read_model_file(name_or_path)
    named = (str(value) for value in arguments.values() if isinstance(value, str))
    files = {given: sha256_of(Path(given)) for given in named if Path(given).is_file()}
    return json.dumps([name, arguments, files, model.provenance()], sort_keys=True, default=str)
