"""Scores of a model of looks at objects on validation and test trials: its behavior and sequences beside people's."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as L
import torch
from pytorch_lightning.callbacks import Callback
from torch import Tensor

from gazekit.batch import TrialBatch
from gazekit.metrics import sequence_score_symbols
from gazekit.metrics.object_search import ObjectBehavior, ObjectSearch, object_behavior
from gazekit.models.base import seed_of
from gazekit.models.oat import Oat
from gazekit.models.object_maps import target_objects


class ScoreObjects(Callback):
    """What :class:`~gazekit.models.oat.Oat` does on trials, and what people do.

    Logged for ``val`` and ``test``: ``object_delta``, the mean relative difference of five measures of behavior
    (:func:`~gazekit.metrics.object_search.behavior_delta`; measures that are 0 in people are left out, and
    ``delta_measures`` says how many are left), the five measures of the model as ``object_correct`` ...,
    ``object_ss``, the sequence score of its paths against the trial's, ``nll_nats``, of what people looked at next (the
    end included), and ``sim``, the mean probability of the object that they looked at next (the end left out).

    Trials without a fixation count nowhere.
    """

    def _start(self) -> None:
        self._model, self._people = torch.zeros(5, dtype=torch.float64), ObjectSearch()
        self._sums = dict.fromkeys(("n", "ss", "nll", "n_nll", "sim", "n_sim"), 0.0)

    def _update(self, model: Oat, batch: TrialBatch) -> None:
        scene = model.scene(batch)
        layout_of_trial = scene.layout_of_trial.tolist()
        looked = scene.objects.under(batch.xy_px, batch.stimulus_of_trial).masked_fill(~batch.valid, 0)
        target = target_objects(batch, scene.objects)
        self._people.update(looked.cpu(), batch.valid.cpu(), target.cpu())
        # The same searches serve all who searched the same layout for the same target.
        sampled, length = int(model.hparams["validation_paths"]), int(model.most)
        uniform = None
        if sampled:
            generator = torch.Generator().manual_seed(seed_of("validation", *batch.stimulus))
            shape = len(scene.layouts.start), sampled, length
            uniform = torch.rand(*shape, generator=generator, dtype=torch.float64)
        paths, valid, _ = model.network.walk(scene.layouts, length, uniform)
        n = paths.shape[1]
        for layout in set(layout_of_trial):
            trials = [j for j, other in enumerate(layout_of_trial) if other == layout and bool(batch.valid[j, 0])]
            if not trials:
                continue
            path, there, aim = paths[layout].cpu(), valid[layout].cpu(), target[trials[0]].cpu()
            self._model += len(trials) * _means(object_behavior(path, there, aim.expand(n)))
            self._sums["n"] += len(trials)
            one = torch.tensor(trials).repeat_interleave(n)
            pairs = sequence_score_symbols(
                path.repeat(len(trials), 1), there.repeat(len(trials), 1), looked[one].cpu(), batch.valid[one].cpu()
            )
            self._sums["ss"] += float(pairs.sum()) / n
        scores, truth = model.teacher_forced(batch)
        log_p = scores.log_softmax(-1)
        known = truth >= 0
        at_truth = log_p.gather(-1, truth.clamp(min=0)[..., None])[..., 0]
        objects = known & (truth != scene.layouts.n_objects)
        self._sums["nll"] -= float(at_truth[known].double().sum())
        self._sums["n_nll"] += int(known.sum())
        self._sums["sim"] += float(at_truth[objects].double().exp().sum())
        self._sums["n_sim"] += int(objects.sum())

    def _log(self, pl_module: L.LightningModule, stage: str) -> None:
        sums = self._sums
        if not sums["n"]:
            return
        model, people = self._model / sums["n"], torch.stack(list(self._people.compute()))
        usable = people.isfinite() & (people != 0) & model.isfinite()
        values = {
            "object_delta": ((model - people).abs() / people)[usable].mean(),
            "delta_measures": usable.sum(),
            **{f"object_{name}": value for name, value in zip(ObjectBehavior._fields, model, strict=True)},
            "object_ss": torch.tensor(sums["ss"] / sums["n"]),
            "nll_nats": torch.tensor(sums["nll"] / sums["n_nll"]),
            "sim": torch.tensor(sums["sim"] / max(1, sums["n_sim"])),
        }
        for name, value in values.items():
            pl_module.log(f"{stage}/{name}", value.float())

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._start()

    def on_validation_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:  # fmt: skip
        if isinstance(pl_module, Oat):
            self._update(pl_module, batch)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._log(pl_module, "val")

    def on_test_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._start()

    def on_test_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:  # fmt: skip
        if isinstance(pl_module, Oat):
            self._update(pl_module, batch)

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._log(pl_module, "test")


def _means(behavior: ObjectBehavior) -> Tensor:
    """(5,) means over paths; `correct` is NaN where there is no target."""
    return torch.stack([value.mean() for value in behavior])
