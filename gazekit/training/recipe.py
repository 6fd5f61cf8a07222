"""Recipes: the YAML files in ``training/``, turned into what Lightning's command line reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from gazekit.errors import InputError
from gazekit.files import written_aside
from gazekit.models import MODELS
from gazekit.registry import unknown_name
from gazekit.resources import read_yaml, resource_path

# What a recipe holds beside Lightning's own keys; "reproduces" and "title" are for the reader.
_KEYS = ["title", "reproduces", "seed", "model", "data", "trainer", "cache_features", "score_fixations", "predict"]
# Keys of the configuration that a run writes; such a file is a recipe too.
# The data module of a recipe that names none.
DATA_CLASS = "gazekit.datasets.datamodule.ScanpathDataModule"
_LIGHTNING_KEYS = ["seed_everything", "ckpt_path", "weights_only", "return_predictions", "verbose"]


def lightning_arguments(arguments: list[str], scratch: Path) -> list[str]:
    """Command-line arguments with recipes and model names replaced by what LightningCLI understands.

    ``--config NAME`` takes a shipped recipe or a path, ``--model NAME`` a registered model. Converted
    recipes are written to `scratch`.

    Raises:
        InputError: No such recipe or model, or a key that a recipe does not have.

    """
    # Named first, so that a recipe may name another and ``--data.KEY`` always has a class that it belongs to.
    converted = ["--data", DATA_CLASS]
    words = iter(arguments)
    for word in words:
        option, equals, value = word.partition("=")
        if option in ("--config", "-c", "--model"):
            value = value if equals else next(words, "")
            if not value:
                raise InputError(f"{option} needs a value")
            if option == "--model":
                converted += ["--model", _class_path(value)]
            else:
                converted += ["--config", str(_converted(resource_path("training", value), scratch, len(converted)))]
        else:
            converted.append(word)
    return converted


def read_recipe(name_or_path: str | Path) -> dict[str, Any]:
    """The recipe's content as LightningCLI configuration.

    Raises:
        InputError: An unknown key, or an unknown model.

    """
    path = resource_path("training", name_or_path)
    content = read_yaml(path)
    for key in content:
        if key not in _KEYS and key not in _LIGHTNING_KEYS:
            raise unknown_name(f"recipe key (in {path.name})", key, _KEYS)
    for note in ("title", "reproduces"):
        content.pop(note, None)
    if "seed" in content:
        content["seed_everything"] = content.pop("seed")
    model = content.get("model")
    if isinstance(model, dict) and "name" in model:
        arguments = {key: value for key, value in model.items() if key != "name"}
        content["model"] = {"class_path": _class_path(model["name"]), "init_args": arguments}
    data = content.get("data")
    if isinstance(data, dict) and "class_path" not in data:
        content["data"] = {"class_path": DATA_CLASS, "init_args": data}
    return content


def _converted(path: Path, scratch: Path, number: int) -> Path:
    target = scratch / f"recipe_{number}.yaml"
    with written_aside(target) as aside:
        aside.write_text(yaml.safe_dump(read_recipe(path), sort_keys=False), encoding="utf-8")
    return target


def _class_path(name: str) -> str:
    # A dotted path is Lightning's own way to name a class, and how a run's configuration names it.
    return name if "." in name else MODELS[name].replace(":", ".")
