"""Scores of a model of looks at objects on validation and test trials: its behavior and sequences beside people's."""

from __future__ import annotations

import warnings
from typing import Any

import pytorch_lightning as L
import torch
from pytorch_lightning.callbacks import Callback
from torch import Tensor
from torchmetrics import Metric

from gazekit.batch import TrialBatch
from gazekit.metrics import sequence_score_symbols
from gazekit.metrics.object_search import ObjectBehavior, ObjectSearch
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

    Trials without a fixation count nowhere; those whose target is unknown or absent do not count for
    ``object_correct``. Several processes score their trials together: all log the same numbers.
    """

    def _start(self, device: torch.device | str = "cpu") -> None:
        # On the model's device: there alone can processes add up what they have.
        self._model, self._people = ObjectSearch().to(device), ObjectSearch().to(device)
        self._means = {name: _Mean().to(device) for name in ("object_ss", "nll_nats", "sim")}

    def _update(self, model: Oat, batch: TrialBatch) -> None:
        scene = model.scene(batch)
        layout_of_trial = scene.layout_of_trial.tolist()
        looked = scene.objects.under(batch.xy_px, batch.stimulus_of_trial).masked_fill(~batch.valid, 0)
        target = target_objects(batch, scene.objects)
        self._people.update(looked, batch.valid, target)
        # The same searches serve all who searched the same layout for the same target.
        sampled, length = int(model.hparams["validation_paths"]), int(model.most)
        uniform = self._draws(batch, layout_of_trial, sampled, length) if sampled else None
        paths, valid, _ = model.network.walk(scene.layouts, length, uniform)
        n = paths.shape[1]
        for layout in set(layout_of_trial):
            trials = [j for j, other in enumerate(layout_of_trial) if other == layout and bool(batch.valid[j, 0])]
            if not trials:
                continue
            path, there = (value[layout].repeat(len(trials), 1) for value in (paths, valid))
            one = torch.tensor(trials, device=batch.device).repeat_interleave(n)
            self._model.update(path, there, target[one])
            self._means["object_ss"].update(sequence_score_symbols(path, there, looked[one], batch.valid[one]))
        scores, truth = model.teacher_forced(batch)
        log_p = scores.double().log_softmax(-1)
        known = truth >= 0
        at_truth = log_p.gather(-1, truth.clamp(min=0)[..., None])[..., 0]
        objects = known & (truth != scene.layouts.n_objects)
        self._means["nll_nats"].update(-at_truth[known])
        self._means["sim"].update(at_truth[objects].exp())

    @staticmethod
    def _draws(batch: TrialBatch, layout_of_trial: list[int], n: int, length: int) -> Tensor:
        """(U, n, length) numbers in [0, 1) for the searches of each layout, whatever else is in the batch."""
        first = {layout: j for j, layout in reversed(list(enumerate(layout_of_trial)))}
        draws = torch.empty(len(first), n, length, dtype=torch.float64)
        for layout, j in first.items():
            name = batch.stimulus[int(batch.stimulus_of_trial[j])]
            sought = "" if batch.search is None else batch.search.target[j]
            generator = torch.Generator().manual_seed(seed_of("validation", name, sought))
            draws[layout].uniform_(generator=generator)
        return draws

    def _log(self, pl_module: L.LightningModule, stage: str) -> None:
        # Every process must come here, and add up the same: one without trials of its own as well.
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The ``compute`` method of metric")
            model, people = (torch.stack(list(metric.compute())) for metric in (self._model, self._people))
            means = {name: metric.compute() for name, metric in self._means.items()}
        if bool(people[1].isnan()):  # nobody looked at anything
            return
        usable = people.isfinite() & (people != 0) & model.isfinite()
        values = {
            "object_delta": ((model - people).abs() / people)[usable].mean(),
            "delta_measures": usable.sum(),
            **{f"object_{name}": value for name, value in zip(ObjectBehavior._fields, model, strict=True)},
            **means,
        }
        for name, value in values.items():
            # The same in all processes already; the mean over them keeps it so.
            pl_module.log(f"{stage}/{name}", value.float(), sync_dist=True)

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._start(pl_module.device)

    def on_validation_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:  # fmt: skip
        if isinstance(pl_module, Oat):
            self._update(pl_module, batch)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._log(pl_module, "val")

    def on_test_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._start(pl_module.device)

    def on_test_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:  # fmt: skip
        if isinstance(pl_module, Oat):
            self._update(pl_module, batch)

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._log(pl_module, "test")


class _Mean(Metric):
    """Mean of all values in float64, NaN of none. (That of torchmetrics leaves out NaN, which must show here.)"""

    is_differentiable, higher_is_better, full_state_update = False, None, False

    total: Tensor
    n: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("n", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, values: Tensor) -> None:
        self.total += values.double().sum()
        self.n += values.numel()

    def compute(self) -> Tensor:
        return self.total / self.n
