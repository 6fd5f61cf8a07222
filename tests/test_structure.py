"""The house: imports point down only, the command is quick, shipped files are whole."""

import ast
import subprocess
import sys
import time
from pathlib import Path

import pytest

import gazekit
from gazekit import resources

PACKAGE = Path(gazekit.__file__).parent
# Each layer may import those below it; within a layer, only itself.
LAYERS = [
    {"cli"},
    {"demo", "look"},
    {"asymmetry"},
    {"training", "evaluation"},
    {"models", "datasets", "metrics"},
    {"backbones", "stimuli"},
    {"kernels"},
    {
        "geometry",
        "batch",
        "displays",
        "registry",
        "tables",
        "density",
        "errors",
        "files",
        "resources",
        "memory",
        "provenance",
        "proposals",
    },
]
# The bottom layer holds small modules that may use each other, but not in a circle.
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
# Scoring brings data, models and metrics together; it is the one place where a run is put together.
BOTTOM = len(LAYERS) - 1


def imports_of(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            parts = name.split(".")
            if parts[0] == "gazekit" and len(parts) > 1:
                yield parts[1]


def part_of(path):
    relative = path.relative_to(PACKAGE)
    return relative.parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_down(path):
    own = part_of(path)
    if own == "__init__":
        return  # the lazy table of the package itself
    for other in imports_of(path):
        if other in ("__version__",) or other == own or other not in LEVEL:
            assert other == own or not (PACKAGE / other).exists(), f"{path}: unknown part {other}"
            continue
        same_bottom = LEVEL[own] == LEVEL[other] == BOTTOM
        assert LEVEL[other] > LEVEL[own] or same_bottom, f"{path.name}: {own} may not import {other}"


def test_every_part_has_a_layer():
    parts = {part_of(path) for path in PACKAGE.rglob("*.py")} - {"__init__"}
    assert parts <= set(LEVEL), f"give {sorted(parts - set(LEVEL))} a layer"


def test_help_answers_within_a_second():
    command = [sys.executable, "-m", "gazekit.cli", "--help"]
    subprocess.run(command, check=True, capture_output=True)  # warm the file cache
    start = time.perf_counter()
    run = subprocess.run(command, check=True, capture_output=True, text=True)
    assert time.perf_counter() - start < 1.0
    for name in ("demo", "data", "fit", "validate", "test", "predict", "evaluate"):
        assert f"\n  {name} " in run.stdout


def test_importing_the_package_is_light():
    code = "import sys, gazekit; sys.exit(any(m in sys.modules for m in ('torch', 'pandas', 'numpy')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("folder", sorted(resources.KINDS))
def test_shipped_yaml_is_readable_and_named_after_its_file(folder):
    names = resources.resource_names(folder)
    assert names
    for name in names:
        content = resources.read_yaml(resources.resource_path(folder, name))
        assert content.get("name", name) == name
