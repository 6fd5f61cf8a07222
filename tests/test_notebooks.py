"""Every notebook runs from top to bottom, quickly, with and without real data, and is committed without output."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from tests.conftest import REAL_DATA, needs_osie

nbformat = pytest.importorskip("nbformat", reason="the notebooks extra is not installed")
nbclient = pytest.importorskip("nbclient", reason="the notebooks extra is not installed")

FOLDER = Path(__file__).parent.parent / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
# Those that load datasets say what they found; the others need nothing but the package.
LOADING = [path for path in NOTEBOOKS if "from gazekit.datasets import" in path.read_text(encoding="utf-8")]


def run(path, tmp_path, monkeypatch, data):
    monkeypatch.setenv("GAZEKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("PYDEVD_DISABLE_FILE_VALIDATION", "1")
    if data is not None:
        monkeypatch.setenv("GAZEKIT_DATA", str(data))
    notebook = nbformat.read(path, as_version=4)
    start = time.monotonic()
    nbclient.NotebookClient(notebook, timeout=110, resources={"metadata": {"path": str(tmp_path)}}).execute()
    seconds = time.monotonic() - start
    assert seconds < 120, f"{path.name} took {seconds:.0f} s"
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    drawn = sum("image/png" in output.get("data", {}) for output in outputs)
    assert drawn >= sum(cell.source.count("display(") for cell in notebook.cells), "a figure is not shown"
    return "\n".join(output.get("text", "") or output.get("data", {}).get("text/plain", "") for output in outputs)


def test_there_are_notebooks_and_they_are_numbered():
    assert LOADING
    assert [path.name[:2] for path in NOTEBOOKS] == [f"{i:02d}" for i in range(1, len(NOTEBOOKS) + 1)]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_committed_without_output_or_machine_paths(path):
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None
    assert str(Path.home()) not in path.read_text(encoding="utf-8") or Path.home() == Path("/")
    assert os.environ.get("GAZEKIT_DATA", "\0") not in path.read_text(encoding="utf-8")


@pytest.mark.filterwarnings("ignore")  # of Jupyter's own making
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_runs_without_data(path, tmp_path, monkeypatch):
    text = run(path, tmp_path, monkeypatch, None)
    if path in LOADING:
        assert "simulated (SIMULATED)" in text
        assert "osie is left out" in text
    else:
        assert "is left out" not in text


@needs_osie
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("path", LOADING, ids=lambda path: path.stem)
def test_runs_on_real_data(path, tmp_path, monkeypatch):
    text = run(path, tmp_path, monkeypatch, REAL_DATA)
    assert "osie: " in text
    assert ", 0 deviate" in text
    assert "is left out" not in text
