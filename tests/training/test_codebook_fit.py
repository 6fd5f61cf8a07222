"""A training of the codebook that is killed and resumed ends with the weights of one that was not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from gazekit.models.registry import read_checkpoint
from tests.training.test_fit import FAST, assert_same_weights, cache, gazekit  # noqa: F401

CODEBOOK = [
    "fit", "--model", "codebook", "--model.backbone", "mobilenetv2_035", "--model.weights", "null",
    "--model.width", "16", "--model.hidden", "8", *FAST, "--score_fixations", "false", "--trainer.max_epochs", "20",
]  # fmt: skip


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_same_weights(cache, tmp_path):  # noqa: F811
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    gazekit(*CODEBOOK, "--trainer.default_root_dir", str(whole), cache=cache)
    words = [sys.executable, "-m", "gazekit.cli", *CODEBOOK, "--trainer.default_root_dir", str(killed)]
    environment = {**os.environ, "GAZEKIT_CACHE": str(cache), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (killed / "last.ckpt").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert read_checkpoint(killed / "last.ckpt")["epoch"] < 19, "the run was over before it could be killed"
    gazekit(*CODEBOOK, "--trainer.default_root_dir", str(killed), "--ckpt_path", "last", cache=cache)
    assert_same_weights(whole / "codebook.ckpt", killed / "codebook.ckpt", rtol=0, atol=0)
