"""OAT in training: it learns a rule that is known, a killed run ends as a whole one, folds test all."""

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
import pytorch_lightning as L
import torch
from click.testing import CliRunner

from gazekit import InputError, load_model
from gazekit.cli import main
from gazekit.datasets.datamodule import ObjectDataModule
from gazekit.datasets.grid_search import grid_search
from gazekit.models.registry import read_checkpoint
from gazekit.training.callbacks import KeepBest
from gazekit.training.folds import cross_validate


@pytest.fixture(scope="module")
def displays(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """36 displays of 4 x 3 objects with readers who never slip."""
    folder = tmp_path_factory.mktemp("displays")
    grid_search(36, 2, columns=4, rows=3, seed=1).to_parquet(folder)
    return folder


def words(data: Path, out: Path | None, epochs: int, *more: str) -> list[str]:
    place = [] if out is None else ["--trainer.default_root_dir", str(out)]
    return [
        "--config", "oat_amazon_recognition", "--data.dataset", str(data), "--data.size_wh_px", "null",
        "--data.batch_size", "6", "--model.width", "64", "--model.hidden", "64", "--model.n_layers", "2",
        "--model.lr", "2e-3", "--model.dropout", "0.1", "--model.n_places", "4", "--model.validation_paths", "4",
        "--trainer.max_epochs", str(epochs), "--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false",
        "--trainer.enable_model_summary", "false", "--trainer.log_every_n_steps", "1", *place, *more,
    ]  # fmt: skip


def fit(data: Path, out: Path, epochs: int, *more: str) -> None:
    result = CliRunner().invoke(main, ["fit", *words(data, out, epochs, *more)])
    assert result.exit_code == 0, result.output + str(result.exception)


def validations(folder: Path) -> list[dict[str, str]]:
    rows: dict[str, dict[str, str]] = {}
    for path in sorted(folder.glob("logs/version_*/metrics.csv")):
        with path.open() as file:
            rows |= {row["step"]: row for row in csv.DictReader(file) if row.get("val/object_delta")}
    return list(rows.values())


@pytest.mark.slow
def test_it_learns_to_read(displays, tmp_path):
    """Readers go on to the next object until they are on the target: with that, nothing is left to chance."""
    fit(displays, tmp_path, 40, "--trainer.callbacks", "null")
    first, last = validations(tmp_path)[0], validations(tmp_path)[-1]
    assert float(first["val/sim"]) < 0.5
    assert float(last["val/sim"]) > 0.9
    assert float(last["val/object_ss"]) > 0.9
    assert float(last["val/object_delta"]) < 0.1
    # Readers come back to nothing: two of the five measures have no relative difference.
    assert float(last["val/delta_measures"]) == 3
    model = load_model(tmp_path / "oat.ckpt")
    batch = next(ObjectDataModule(dataset=str(displays)).stimulus_batches("test"))
    path, valid, _ = model.walk(batch, 1, 20, None)
    target = batch.objects.under(batch.search.box_px[:, None, :2] + 1.0, batch.stimulus_of_trial)[0, 0]
    assert path[0, 0][valid[0, 0]].tolist() == list(range(int(target) + 1))


EPOCHS = 8


def begin(data: Path, out: Path, epochs: int, *more: str) -> subprocess.Popen[bytes]:
    """A run of its own, on one thread: sums come in the same order each time."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "gazekit.cli", "fit", *words(data, out, epochs, *more)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


@pytest.fixture(scope="module")
def whole(displays: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run of a few epochs."""
    folder = tmp_path_factory.mktemp("whole")
    assert begin(displays, folder, EPOCHS).wait() == 0
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("delay_s", [0.0, 0.2])
def test_a_killed_run_resumes_to_the_same_scores_and_weights(whole, displays, tmp_path, delay_s):
    """Killed without warning some time after an epoch is on disk; then resumed."""
    # Killed before its last epoch, however fast the machine: it has many more to go.
    process = begin(displays, tmp_path, 400)
    deadline = time.monotonic() + 120
    while not (tmp_path / "last.ckpt").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    time.sleep(delay_s)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert read_checkpoint(tmp_path / "last.ckpt")["epoch"] < EPOCHS - 1, "there is nothing left to resume"
    assert begin(displays, tmp_path, EPOCHS, "--ckpt_path", "last").wait() == 0
    expected, got = (read_checkpoint(folder / "oat.ckpt")["state_dict"] for folder in (whole, tmp_path))
    for name, value in expected.items():
        assert torch.equal(got[name], value), name
    final, again = validations(whole)[-1], validations(tmp_path)[-1]
    assert final["epoch"] == again["epoch"] == str(EPOCHS - 1)
    assert {k: v for k, v in final.items() if k.startswith("val/")} == {
        k: v for k, v in again.items() if k.startswith("val/")
    }


class _Scores(L.LightningModule):
    """Logs given scores, one per epoch, and marks its weight with the epoch."""

    def __init__(self, scores):
        super().__init__()
        self.scores, self.weight = scores, torch.nn.Parameter(torch.zeros(()))

    def training_step(self, batch, batch_idx):
        return self.weight * 0.0

    def validation_step(self, batch, batch_idx):
        self.weight.data.fill_(float(self.current_epoch))
        self.log("val/score", self.scores[self.current_epoch])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)

    def train_dataloader(self):
        return torch.utils.data.DataLoader([0])

    val_dataloader = train_dataloader


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("mode", "scores", "best", "ended"),
    [
        ("min", [3.0, 1.0, 2.0, 2.0, 2.0, 0.0], 1, 3),
        ("max", [3.0, 1.0, 4.0, float("nan"), 2.0, 5.0], 2, 4),
        ("min", [5.0, 4.0, 3.0, 2.0, 1.0, 0.0], 5, 5),
    ],
)
def test_the_best_is_kept_and_patience_ends(mode, scores, best, ended):
    model, keep = _Scores(scores), KeepBest("val/score", mode, patience=2)
    trainer = L.Trainer(
        accelerator="cpu", max_epochs=6, callbacks=[keep], logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(model)
    assert trainer.current_epoch - 1 == ended
    keep.restore(model)
    assert float(model.weight) == best
    # What is kept survives a kill.
    other = KeepBest("val/score", mode, patience=2)
    other.load_state_dict(keep.state_dict())
    assert (other.best, other.epoch, other.waited) == (keep.best, keep.epoch, keep.waited)


def test_a_score_that_validation_does_not_give(displays, tmp_path):
    more = ["--trainer.callbacks", "[{class_path: gazekit.training.callbacks.KeepBest, init_args: {monitor: val/ss}}]"]
    result = CliRunner().invoke(main, ["fit", *words(displays, tmp_path, 4, *more, "--model.width", "16")])
    assert result.exit_code != 0
    assert "no score 'val/ss'; validation gives ['val/" in result.output + str(result.exception)


def test_every_stimulus_is_predicted_by_a_model_that_never_saw_it(displays, tmp_path):
    arguments = words(displays, None, 1, "--model.width", "16", "--predict.paths", "3", "--trainer.callbacks", "null")
    said: list[str] = []

    def written() -> list[int]:
        return [(tmp_path / f"fold_{k}" / "last.ckpt").stat().st_mtime_ns for k in range(3)]

    # Trained only; what is missing is then predicted, and nothing is trained anew.
    assert cross_validate(arguments, tmp_path, 3, 0, "readers", "stimulus", said.append, predict=False) == tmp_path
    first = written()
    path = cross_validate(arguments, tmp_path, 3, 0, "readers", "stimulus", said.append)
    assert written() == first
    table = pd.read_parquet(path)
    assert table["stimulus"].nunique() == 36
    assert (table.groupby("stimulus")["fold"].nunique() == 1).all()
    assert (table.groupby("stimulus")["subject"].nunique() == 3).all()
    for fold in range(3):
        trained = set(load_model(tmp_path / f"fold_{fold}" / "oat.ckpt").provenance()["train_stimuli"])
        tested = set(table.loc[table["fold"] == fold, "stimulus"])
        assert tested
        assert not trained & tested
    # Finished folds are not done again, and not mistaken for those of another training.
    before = [(tmp_path / f"fold_{k}" / "readers.parquet").stat().st_mtime_ns for k in range(3)]
    said.clear()
    cross_validate(arguments, tmp_path, 3, 0, "readers", "stimulus", said.append)
    assert len(said) == 1
    assert written() == first
    assert before == [(tmp_path / f"fold_{k}" / "readers.parquet").stat().st_mtime_ns for k in range(3)]
    with pytest.raises(InputError, match=r"holds a run with other arguments"):
        cross_validate([*arguments, "--model.lr", "1e-4"], tmp_path, 3, 0, "readers", "stimulus", said.append)
    with pytest.raises(InputError, match=r"sets --data\.split itself"):
        cross_validate(["--data.split=1"], tmp_path, 3, 0, "readers", "stimulus", said.append)


@pytest.mark.parametrize("precision", ["bf16-true", "16-true", "64", "64-true"])
def test_a_precision_that_converts_batches_is_refused_at_once(displays, tmp_path, precision):
    result = CliRunner().invoke(main, ["fit", *words(displays, tmp_path, 1, "--trainer.precision", precision)])
    assert result.exit_code == 1
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("gazekit: ")]
    assert f"trainer.precision is '{precision}'" in line
    assert "take bf16-mixed, 16-mixed or 32-true" in line


def test_mixed_precision_trains_and_predicts(displays, tmp_path):
    more = ["--trainer.precision", "bf16-mixed", "--trainer.callbacks", "null", "--model.width", "16"]
    # Validated as well, whose paths are decoded in the same precision.
    fit(displays, tmp_path, 1, *more, "--trainer.check_val_every_n_epoch", "1")
    assert len(validations(tmp_path)) == 1
    predict = ["predict", *words(displays, tmp_path, 1, *more), "--ckpt_path", str(tmp_path / "oat.ckpt")]
    result = CliRunner().invoke(main, predict)
    assert result.exit_code == 0, result.output + str(result.exception)
    table = pd.read_parquet(tmp_path / "scanpaths.parquet")
    # The last fifth of 36 displays.
    assert table["stimulus"].nunique() == 7
    assert table[["x_px", "y_px"]].notna().all(axis=None)
