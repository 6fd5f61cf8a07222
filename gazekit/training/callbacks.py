"""What a training run needs beside Lightning: whole checkpoints, scores on real fixations, scanpaths on disk."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import pytorch_lightning as L
import torch
from pytorch_lightning.callbacks import BasePredictionWriter, Callback, ModelCheckpoint
from pytorch_lightning.plugins.io import TorchCheckpointIO
from torchmetrics import Metric

from gazekit.batch import Scanpaths, TrialBatch
from gazekit.density import exp_shared, uniform_log_density
from gazekit.errors import InputError
from gazekit.files import written_aside
from gazekit.metrics import AUC, NSS, ConditionalAUC, ConditionalInformationGain, ConditionalNSS, InformationGain
from gazekit.models import GazeModel
from gazekit.models.registry import model_name


class AtomicCheckpointIO(TorchCheckpointIO):
    """Checkpoints are written aside and moved into place, and read as plain tensors and values only."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        with written_aside(Path(path)) as aside:
            super().save_checkpoint(checkpoint, aside, storage_options)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = True) -> dict[str, Any]:
        del weights_only
        return super().load_checkpoint(path, map_location, weights_only=True)


class RunCheckpoint(ModelCheckpoint):
    """``last.ckpt`` after every epoch, to resume from; ``NAME.ckpt`` at the end, to use and to publish.

    Both lie in the run's folder. ``--ckpt_path last`` resumes; it starts afresh where there is none.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(
            dirpath=folder,
            save_last=True,
            save_top_k=1,
            every_n_epochs=1,
            # Not only when there is a validation: that comes once in many epochs.
            save_on_train_epoch_end=True,
            filename="epoch",
        )
        # One file only: the newest epoch replaces the one before it.
        self.CHECKPOINT_NAME_LAST = "last"

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        super().on_train_end(trainer, pl_module)
        assert isinstance(pl_module, GazeModel)
        # ``last.ckpt`` goes on from where training was; what is published is the best of it.
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, KeepBest):
                callback.restore(pl_module)
        assert self.dirpath is not None
        final = Path(self.dirpath) / f"{model_name(pl_module)}.ckpt"
        trainer.save_checkpoint(final, weights_only=True)
        if trainer.is_global_zero:
            print(f"checkpoint: {final}", flush=True)


class KeepBest(Callback):
    """Ends training when a validation score has not improved for a while, and gives back the best weights.

    Both survive a kill: they are in ``last.ckpt``.

    Args:
        monitor: Name of the score, such as ``val/object_delta``.
        mode: ``min`` or ``max``, which is better.
        patience: Validations without improvement after which training ends.

    """

    def __init__(self, monitor: str, mode: Literal["min", "max"] = "min", patience: int = 30) -> None:
        if mode not in ("min", "max"):
            raise InputError(f"KeepBest: mode is {mode!r}, expected 'min' or 'max'")
        self.monitor, self.mode, self.patience = monitor, mode, patience
        self.best: float | None = None
        self.epoch, self.waited = -1, 0
        self.weights: dict[str, Any] = {}

    @property
    def state_key(self) -> str:
        return f"KeepBest/{self.monitor}"

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "epoch": self.epoch, "waited": self.waited, "weights": self.weights}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best, self.epoch = state_dict["best"], state_dict["epoch"]
        self.waited, self.weights = state_dict["waited"], state_dict["weights"]

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        # Killed between its last epoch and its end, a run has nothing left to train.
        if self.waited >= self.patience:
            trainer.should_stop = True

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.sanity_checking or (not trainer.training and trainer.state.fn != "fit"):
            return
        if self.monitor not in trainer.callback_metrics:
            raise InputError(
                f"KeepBest: no score {self.monitor!r}; validation gives "
                f"{sorted(name for name in trainer.callback_metrics if name.startswith('val/'))}"
            )
        # One score for all processes, so that they keep the same weights and end together.
        own = trainer.callback_metrics[self.monitor].detach().clone().to(trainer.strategy.root_device)
        score = float(trainer.strategy.reduce(own, reduce_op="mean"))
        sign = 1.0 if self.mode == "min" else -1.0
        # A score that is not a number is no improvement.
        if (self.best is None and score == score) or (self.best is not None and sign * score < sign * self.best):
            self.best, self.epoch, self.waited = score, trainer.current_epoch, 0
            self.weights = {k: v.detach().cpu().clone() for k, v in pl_module.state_dict().items()}
        else:
            self.waited += 1
            if self.waited >= self.patience:
                trainer.should_stop = True

    def restore(self, pl_module: L.LightningModule) -> None:
        """Put the best weights into the model; without a validation there are none, and it stays as it is."""
        if self.weights:
            pl_module.load_state_dict(self.weights)
            if pl_module.global_rank == 0:
                print(f"best {self.monitor}: {self.best:.4f}, in epoch {self.epoch}", flush=True)


class ScoreFixations(Callback):
    """NSS, AUC and gain over a uniform density (bits) on validation and test images, at full size.

    A scanpath model is scored before each fixation, given the person's fixations so far. A model of looks at objects
    is left to :class:`~gazekit.training.object_scores.ScoreObjects`.
    """

    def __init__(self) -> None:
        self._metrics: dict[str, Metric] = {}

    def _start(self, pl_module: L.LightningModule) -> None:
        scanpath = isinstance(pl_module, GazeModel) and pl_module.is_scanpath()
        if isinstance(pl_module, GazeModel) and pl_module.scored_on_objects:
            self._metrics = {}
            return
        chosen: dict[str, Metric] = (
            {"cnss": ConditionalNSS(), "cauc": ConditionalAUC(), "cig_uniform": ConditionalInformationGain()}
            if scanpath
            else {"nss": NSS(), "auc": AUC(), "ig_uniform": InformationGain()}
        )
        self._metrics = {name: metric.to(pl_module.device) for name, metric in chosen.items()}

    def _update(self, model: GazeModel, batch: TrialBatch) -> None:
        if not self._metrics:
            return
        scored = model.scored(batch)
        width, height = batch.size_wh_px
        base = torch.tensor(uniform_log_density(batch.size_wh_px), device=batch.device)
        step = 5 if model.is_scanpath() else len(batch)
        static = None if model.is_scanpath() else model.log_density(batch)
        for start in range(0, len(batch), step):
            some, valid = batch.trials(start, start + step), scored[start : start + step]
            maps = model.conditional_log_density(some) if static is None else static
            for name, metric in self._metrics.items():
                first = maps if "ig" in name or static is None else exp_shared(maps)
                extra = (base.expand(len(some), height, width),) if "ig" in name else ()
                metric.update(first, *extra, some.xy_px, valid)

    def _log(self, pl_module: L.LightningModule, stage: str) -> None:
        for name, metric in self._metrics.items():
            pl_module.log(f"{stage}/{name}", metric.compute(), sync_dist=False)

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._start(pl_module)

    def on_validation_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:  # fmt: skip
        assert isinstance(pl_module, GazeModel)
        self._update(pl_module, batch)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._log(pl_module, "val")

    def on_test_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._start(pl_module)

    def on_test_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:  # fmt: skip
        assert isinstance(pl_module, GazeModel)
        self._update(pl_module, batch)

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._log(pl_module, "test")


class ScanpathWriter(BasePredictionWriter):
    """Predicted scanpaths as a fixation table: ``NAME.parquet`` in `folder`.

    Every batch is written as soon as it is done, by whichever process had it, under a key of all that it depends on;
    the first process merges them when all are there. Interrupted, the same command goes on where it stopped.

    Args:
        folder: Of the run.
        name: Of the table, and of the model where it is evaluated.
        depends_on: What the scanpaths depend on: model, checkpoint, data, commit.

    """

    def __init__(self, folder: Path, name: str = "scanpaths", depends_on: Mapping[str, Any] | None = None) -> None:
        super().__init__(write_interval="batch")
        self.folder, self.name = folder, name
        self._parts = folder / f"{name}.parts" / _digest(depends_on or {})

    def finished(self) -> list[str]:
        """Stimuli whose scanpaths an interrupted run has left behind."""
        columns = [pd.read_parquet(path, columns=["stimulus"])["stimulus"] for path in self._parts.glob("*.parquet")]
        return sorted(set(pd.concat(columns))) if columns else []

    def write_on_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, prediction: Any, batch_indices: Any, batch: Any,
        batch_idx: int, dataloader_idx: int,
    ) -> None:  # fmt: skip
        assert isinstance(prediction, Scanpaths)
        assert isinstance(pl_module, GazeModel)
        table = scanpath_table(prediction, batch.stimulus, model_name(pl_module))
        with written_aside(self._parts / f"{_digest(batch.stimulus)}.parquet") as aside:
            table.to_parquet(aside, index=False)

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        trainer.strategy.barrier("scanpath parts")
        if trainer.is_global_zero:
            parts = [pd.read_parquet(path) for path in sorted(self._parts.glob("*.parquet"))]
            table = pd.concat(parts, ignore_index=True)
            table = table.sort_values(["stimulus", "subject", "fixation"], kind="stable", ignore_index=True)
            table["trial"] = table.groupby(["stimulus", "subject"], sort=False).ngroup()
            with written_aside(self.folder / f"{self.name}.parquet") as aside:
                table.to_parquet(aside, index=False)
            # Pieces of this run and of earlier ones with other settings.
            shutil.rmtree(self._parts.parent, ignore_errors=True)
            print(f"scanpaths: {self.folder / self.name}.parquet", flush=True)


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]


def scanpath_table(paths: Scanpaths, stimuli: tuple[str, ...], model: str) -> pd.DataFrame:
    """A fixation table of (S, n, T, 2) sampled scanpaths; the subject is ``MODEL/SAMPLE``."""
    row, sample, fixation = (index.cpu().numpy() for index in paths.valid.nonzero(as_tuple=True))
    xy = paths.xy_px[paths.valid].cpu().numpy()
    return pd.DataFrame(
        {
            "subject": [f"{model}/{i}" for i in sample],
            "stimulus": [stimuli[i] for i in row],
            "trial": row * paths.valid.shape[1] + sample,
            "fixation": fixation,
            "x_px": xy[:, 0],
            "y_px": xy[:, 1],
            "t_s": float("nan"),
            "duration_s": float("nan"),
        }
    )
