"""Triton kernels without a GPU: each ``interpreted_*.py`` here runs in a process of its own, in Triton's interpreter.

The interpreter must be chosen before a kernel module is imported, and must not reach the other tests.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

FILES = sorted(path.name for path in Path(__file__).parent.glob("interpreted_*.py"))


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
@pytest.mark.parametrize("which", ["not slow", pytest.param("slow", marks=pytest.mark.slow)])
@pytest.mark.parametrize("file", FILES)
def test_in_the_interpreter(file, which):
    path = Path(__file__).with_name(file)
    command = [sys.executable, "-m", "pytest", str(path), "-q", "-m", which, "-p", "no:cacheprovider"]
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    run = subprocess.run(command, env=environment, cwd=path.parents[2], capture_output=True, text=True, check=False)
    if run.returncode == 5:
        pytest.skip(f"{file} has no test that is {which}")
    assert run.returncode == 0, run.stdout[-6000:] + run.stderr[-2000:]
