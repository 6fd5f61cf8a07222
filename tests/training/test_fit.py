"""The training command: what it writes, that a killed run resumes to the same result, that two processes agree."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import torch
from click.testing import CliRunner

from gazekit import InputError, load_model
from gazekit.cli import main
from gazekit.models.registry import read_checkpoint
from gazekit.training.recipe import read_recipe

# A few small images and a light backbone with random weights: seconds, not minutes.
FAST = [
    "--data.dataset", "simulated", "--data.batch_size", "4", "--data.num_workers", "0",
    "--data.train_split", "val", "--data.val_split", "val", "--data.test_split", "val",
    "--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false",
    "--trainer.enable_model_summary", "false", "--trainer.log_every_n_steps", "1",
]  # fmt: skip
SALIENCY = [
    "--config", "saliency_readout", "--model.backbone", "mobilenetv2_035", "--model.weights", "null",
    "--model.members", "2", "--model.hidden", "8",
]  # fmt: skip


def gazekit(*words: str, cache: Path, check: bool = True, **kwargs) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "GAZEKIT_CACHE": str(cache), "OMP_NUM_THREADS": "1"}
    run = subprocess.run(
        [sys.executable, "-m", "gazekit.cli", *words], env=environment, capture_output=True, text=True, **kwargs
    )
    if check:
        assert run.returncode == 0, run.stdout + run.stderr
    return run


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache for the module: the simulated images and the features are made once."""
    return tmp_path_factory.mktemp("cache")


def fit(folder: Path, cache: Path, *words: str, epochs: int = 30, **kwargs) -> subprocess.CompletedProcess[str]:
    return gazekit(
        "fit", *SALIENCY, *FAST, "--trainer.max_epochs", str(epochs), "--trainer.check_val_every_n_epoch", str(epochs),
        "--trainer.default_root_dir", str(folder), *words, cache=cache, **kwargs,
    )  # fmt: skip


def weights(path: Path) -> dict[str, torch.Tensor]:
    return read_checkpoint(path)["state_dict"]


def assert_same_weights(first: Path, second: Path, **tolerance) -> None:
    one, two = weights(first), weights(second)
    assert one.keys() == two.keys()
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, msg=lambda text, name=name: f"{name}: {text}", **tolerance)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    """An uninterrupted run of thirty epochs."""
    folder = tmp_path_factory.mktemp("whole")
    fit(folder, cache)
    return folder


@pytest.mark.slow
def test_fit_writes_a_checkpoint_that_restores_everything(whole):
    model = load_model(whole / "saliency_readout.ckpt")
    assert model.hparams["members"] == 2
    assert model.provenance()["weights"].startswith("random")
    assert len(model.provenance()["train_stimuli"]) == 6
    assert model.provenance()["train_dataset"] == "simulated"
    # The calibration and the prior are measured, so they cannot be what a new model starts with.
    assert not torch.equal(model.mean_0, torch.zeros_like(model.mean_0))
    assert model.log_prior.std() > 0.1
    assert not list(whole.glob("*.part"))


@pytest.mark.slow
def test_training_lowers_the_loss(whole):
    with next(whole.glob("logs/version_0/metrics.csv")).open() as file:
        loss = [float(row["train/nll_nats_per_node"]) for row in csv.DictReader(file) if row["train/nll_nats_per_node"]]
    assert len(loss) == 30
    # Means of ten steps: single ones jump with the images, mirroring and dropout.
    assert sum(loss[-10:]) < sum(loss[:10])


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_same_weights(whole, cache, tmp_path):
    """Killed without warning as soon as an epoch is on disk; then resumed."""
    words = [
        sys.executable, "-m", "gazekit.cli", "fit", *SALIENCY, *FAST, "--trainer.max_epochs", "30",
        "--trainer.check_val_every_n_epoch", "30", "--trainer.default_root_dir", str(tmp_path),
    ]  # fmt: skip
    environment = {**os.environ, "GAZEKIT_CACHE": str(cache), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (tmp_path / "last.ckpt").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (tmp_path / "last.ckpt").exists()
    stopped_at = read_checkpoint(tmp_path / "last.ckpt")["epoch"]
    assert stopped_at < 29, "the run was over before it could be killed"
    fit(tmp_path, cache, "--ckpt_path", "last")
    assert_same_weights(whole / "saliency_readout.ckpt", tmp_path / "saliency_readout.ckpt", rtol=0, atol=0)


@pytest.mark.slow
def test_two_processes_train_to_the_same_weights_and_score_the_same(whole, cache, tmp_path):
    two = ["--trainer.strategy", "ddp", "--trainer.devices", "2"]
    fit(tmp_path, cache, *two)
    # The same sums in another order, over 30 steps of AdamW.
    assert_same_weights(whole / "saliency_readout.ckpt", tmp_path / "saliency_readout.ckpt", rtol=1e-3, atol=1e-4)
    checkpoint = ["--ckpt_path", str(whole / "saliency_readout.ckpt")]
    results = []
    for number, words in enumerate(([], two)):
        folder = tmp_path / f"test_{number}"
        gazekit("test", *SALIENCY, *FAST, *checkpoint, *words, "--trainer.default_root_dir", str(folder), cache=cache)
        with next(folder.glob("logs/version_0/metrics.csv")).open() as file:
            results.append({k: float(v) for row in csv.DictReader(file) for k, v in row.items() if k[:5] == "test/"})
    assert results[0].keys() == {"test/nss", "test/auc", "test/ig_uniform"}
    # Sums over ranks in another order, in float64.
    assert results[1] == pytest.approx(results[0], rel=1e-6)


@pytest.mark.slow
def test_next_fixation_trains_on_a_readout_and_predicts_the_same_on_two_processes(whole, cache, tmp_path):
    next_fixation = ["--config", "next_fixation", "--model.static", str(whole / "saliency_readout.ckpt")]
    common = [*next_fixation, *FAST, "--data.batch_size", "2"]
    gazekit(
        "fit", *common, "--trainer.max_epochs", "1", "--trainer.check_val_every_n_epoch", "1",
        "--trainer.default_root_dir", str(tmp_path), cache=cache,
    )  # fmt: skip
    checkpoint = tmp_path / "next_fixation.ckpt"
    assert load_model(checkpoint, expect="next_fixation").provenance()["train_dataset"] == "simulated"
    tables = []
    for number, words in enumerate(([], ["--trainer.strategy", "ddp", "--trainer.devices", "2"])):
        folder = tmp_path / f"predict_{number}"
        gazekit(
            "predict", *common, "--ckpt_path", str(checkpoint), "--predict.paths", "3", "--predict.length", "5",
            "--trainer.default_root_dir", str(folder), *words, cache=cache,
        )  # fmt: skip
        assert not list(folder.glob("scanpaths.parts*"))
        tables.append(pd.read_parquet(folder / "scanpaths.parquet"))
    assert len(tables[0]) == 6 * 3 * 5
    pd.testing.assert_frame_equal(*tables)


def refused(words: list[str], *parts: str) -> None:
    """One line on standard error that says all this, and a failing exit status."""
    run = CliRunner().invoke(main, words)
    assert run.exit_code == 1, run.output
    lines = [line for line in run.stderr.splitlines() if line.startswith("gazekit: ")]
    assert len(lines) == 1, run.stderr
    assert "Traceback" not in run.stderr
    for part in parts:
        assert part in lines[0], lines[0]


def fit_simulated(recipe: str, *words: str) -> list[str]:
    return ["fit", "--config", recipe, "--data.dataset", "simulated", *words]


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["fit", "--config", "saliency_readuot"], ["no recipe named 'saliency_readuot'", "saliency_readout"]),
        (["fit", "--config", "saliency_readout", "--model", "salience"], ["no model named 'salience'"]),
        (["fit", "--config", "nowhere/recipe.yaml"], ["recipe file", "does not exist"]),
        (["fit", "--config", "saliency_readout", "--model.width", "3"], ["width"]),
        (["fit", "--config", "saliency_readout", "--data.dataset", "osei"], ["no dataset named 'osei'", "'osie'"]),
        (
            fit_simulated("saliency_readout", "--model.backbone", "resnet_18"),
            ["no backbone named", "resnet18"],
        ),
        (
            fit_simulated("saliency_readout", "--model.weights", "no.safetensors"),
            ["no.safetensors", "not exist"],
        ),
        (
            fit_simulated("next_fixation", "--model.static", "nowhere.ckpt"),
            ["nowhere.ckpt", "does not exist"],
        ),
        # Before a network is looked for, or downloaded.
        (["fit", "--config", "saliency_readout", "--data.root", "/no/such/folder"], ["/no/such/folder", "fetch osie"]),
        (["evaluate", "osie_freeviewing"], ["no protocol named 'osie_freeviewing'", "'osie_free_viewing'"]),
        (["evaluate", "simulated_free_viewing", "--model", "nothing.ckpt"], ["nothing.ckpt", "does not exist"]),
        (["evaluate", "simulated_free_viewing", "--model", "next_fixation"], ["needs training"]),
        (["evaluate", "osie_free_viewing", "--data-root", "/no/such/folder"], ["/no/such/folder", "data fetch osie"]),
        (["evaluate", "simulated_free_viewing", "--split", "tset"], ["no split named 'tset'"]),
        (["data", "fetch", "ozie"], ["no dataset named 'ozie'", "'osie'"]),
        (["data", "fetch", "simulated"], ["needs no download"]),
    ],
    ids=lambda value: " ".join(value[:4]) if isinstance(value, list) else None,
)
def test_bad_input_is_one_line_and_a_failing_status(words, parts):
    refused(words, *parts)


def test_an_unknown_recipe_key_is_named(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("modle: {name: saliency_readout}\n")
    with pytest.raises(InputError, match=r"no recipe key \(in recipe.yaml\) named 'modle'; did you mean 'model'\?"):
        read_recipe(recipe)
    recipe.write_text("seed: 1\nseed: 2\n")
    with pytest.raises(InputError, match="'seed' is given twice"):
        read_recipe(recipe)
    recipe.write_text("- seed\n")
    with pytest.raises(InputError, match="expected a mapping"):
        read_recipe(recipe)


def test_shipped_recipes_are_what_lightning_reads():
    for name in ("saliency_readout", "next_fixation"):
        recipe = read_recipe(name)
        assert recipe["model"]["class_path"].startswith(f"gazekit.models.{name}.")
        assert recipe["seed_everything"] == 0
