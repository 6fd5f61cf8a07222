"""Where the YAML files that users read and edit live: cards, recipes, protocols, plans, tables.

In a checkout they are the folders at its root; in an installed package the same folders travel as
package data. A command takes either a name (``osie_free_viewing``) or a path.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from gazekit.errors import InputError
from gazekit.registry import unknown_name

_PACKAGED = Path(__file__).parent / "_data"
_ROOT = _PACKAGED if _PACKAGED.is_dir() else Path(__file__).parent.parent
# Folder -> what one file in it is called in messages.
KINDS = {
    "datasets": "dataset", "training": "recipe", "evaluation": "protocol", "asymmetry": "plan",
    "evaluation/tables": "table of published numbers", "evaluation/models": "model",
}  # fmt: skip


def resource_names(folder: str) -> list[str]:
    """Names (without ``.yaml``) of the files that ship in `folder`."""
    return sorted(path.stem for path in (_ROOT / folder).glob("*.yaml"))


def resource_path(folder: str, name_or_path: str | Path) -> Path:
    """The file behind a name or a path.

    Raises:
        InputError: There is neither such a file nor a shipped one of that name.

    """
    given = Path(name_or_path)
    if given.suffix in (".yaml", ".yml") or given.parent != Path():
        if given.is_file():
            return given
        # "training/NAME.yaml" is how the documentation writes a recipe; it works outside a checkout too.
        if given.parent.name == folder and (_ROOT / folder / given.name).is_file():
            return _ROOT / folder / given.name
        raise InputError(f"{KINDS[folder]} file {str(given)!r} does not exist")
    shipped = _ROOT / folder / f"{given}.yaml"
    if not shipped.is_file():
        raise unknown_name(KINDS[folder], str(given), resource_names(folder), "; or give a path ending in .yaml")
    return shipped


def table_path(name: str) -> Path:
    """A table that ships in ``evaluation/tables``."""
    return _ROOT / "evaluation" / "tables" / name


class _UniqueKeyLoader(yaml.SafeLoader):
    """Safe loading that refuses a key written twice; YAML would keep the last one in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=deep)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is given twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep=deep)


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        InputError: The file cannot be read, is not YAML, or holds something else than a mapping.

    """
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_UniqueKeyLoader)  # noqa: S506
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from error
    except yaml.YAMLError as error:
        raise InputError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected a mapping of keys, found {type(content).__name__}")
    return content
