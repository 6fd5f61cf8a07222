"""A prediction that is killed goes on where it stopped, and ends with the table of an uninterrupted one."""

import os
import signal
import subprocess
import sys
import time

import pandas as pd
import pytest

WORDS = [
    sys.executable, "-m", "gazekit.cli", "predict", "--config", "neva", "--model.task", "pixels",
    "--model.size_px", "48",
    "--model.fovea.blur_kernel_px", "9", "--model.search.iterations", "12", "--data.dataset", "simulated",
    "--data.test_split", "all", "--data.num_workers", "0", "--predict.paths", "3", "--predict.length", "10",
    "--predict.name", "pixels", "--trainer.enable_progress_bar", "false", "--trainer.accelerator", "cpu",
]  # fmt: skip


def start(folder, cache):
    environment = {**os.environ, "GAZEKIT_CACHE": str(cache)}
    return subprocess.Popen([*WORDS, "--trainer.default_root_dir", str(folder)], env=environment)


@pytest.mark.slow
def test_a_killed_prediction_loses_nothing(tmp_path):
    whole, killed, cache = tmp_path / "whole", tmp_path / "killed", tmp_path / "cache"
    assert start(whole, cache).wait() == 0
    assert not (whole / "pixels.parts").exists()
    process = start(killed, cache)
    deadline = time.monotonic() + 120
    while len(list(killed.rglob("*.parquet"))) < 3 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = {path: path.stat().st_mtime_ns for path in killed.rglob("pixels.parts/*/*.parquet")}
    assert len(done) >= 3
    assert not (killed / "pixels.parquet").exists(), "it was over before it could be killed"
    # What is finished is not done again.
    resumed = start(killed, cache)
    seen = dict(done)
    while resumed.poll() is None:
        for path in done:
            if path.exists():
                seen[path] = path.stat().st_mtime_ns
        time.sleep(0.02)
    assert resumed.returncode == 0
    assert seen == done
    pd.testing.assert_frame_equal(pd.read_parquet(killed / "pixels.parquet"), pd.read_parquet(whole / "pixels.parquet"))
