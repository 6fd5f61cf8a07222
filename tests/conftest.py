"""Shared fixtures: a made-up OSIE release in the authors' format, and where the real one is."""

from __future__ import annotations

import os
from pathlib import Path

# Before PyTorch is imported; see gazekit/cli.py.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat

# Tests measure correctness, not speed, and share the machine.
torch.set_num_threads(1 if "PYTEST_XDIST_WORKER" in os.environ else 2)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing a test does reaches the user's cache or data."""
    monkeypatch.setenv("GAZEKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("GAZEKIT_DATA", raising=False)
    monkeypatch.delenv("GAZEKIT_WEIGHTS", raising=False)


REAL_DATA = Path(os.environ.get("GAZEKIT_DATA", "../shared/data")).resolve()
REAL_WEIGHTS = REAL_DATA.parent / "weights" / "mobilenetv2_100.tf_in1k.safetensors"
needs_osie = pytest.mark.skipif(
    not (REAL_DATA / "osie").is_dir(), reason="OSIE is not on this machine; set GAZEKIT_DATA to test with it"
)
needs_weights = pytest.mark.skipif(not REAL_WEIGHTS.is_file(), reason="the ImageNet weights are not on this machine")


def write_release(
    root: Path,
    n_images: int = 6,
    n_subjects: int = 3,
    size_wh_px: tuple[int, int] = (800, 600),
    edit: dict[tuple[int, int], dict[str, np.ndarray]] | None = None,
) -> Path:
    """A made-up OSIE release under `root`/osie, in the authors' format; returns `root`.

    Args:
        edit: (image, subject) -> fields that replace those of that trial.
    """
    rng = np.random.default_rng(7)
    folder = root / "osie"
    (folder / "stimuli").mkdir(parents=True)
    (folder / "eye").mkdir()
    cells = np.empty((n_images, 1), dtype=object)
    width, height = size_wh_px
    for i in range(n_images):
        name = f"{1001 + i}.jpg"
        coarse = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize(size_wh_px, Image.Resampling.BICUBIC).save(folder / "stimuli" / name)
        subjects = np.empty((n_subjects, 1), dtype=object)
        for s in range(n_subjects):
            n = int(rng.integers(4, 8))
            record = {
                "fix_x": rng.uniform(0.3 * width, 0.7 * width, (1, n)),
                "fix_y": rng.uniform(0.3 * height, 0.7 * height, (1, n)),
                "fix_duration": rng.integers(50, 600, (1, n)).astype(np.uint16),
            }
            record |= (edit or {}).get((i, s), {})
            subjects[s, 0] = record
        cells[i, 0] = {"img": name, "subjects": subjects}
    savemat(folder / "eye" / "fixations.mat", {"fixations": cells})
    return root


@pytest.fixture
def tiny_osie(tmp_path: Path) -> Path:
    """Data folder with a made-up OSIE of 6 images and 3 subjects."""
    return write_release(tmp_path / "data")
