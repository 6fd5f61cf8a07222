"""A scanpath model: where the eye goes next, given the image and where it has been.

In the line of DeepGaze III (Kuemmerer, Bethge & Wallis 2022, J. Vision 22(5):7): a density from the
image alone is changed by the positions of the last fixations. A trained saliency readout gives the
static density and describes what is where; a small network adds, for every place, how it lies
relative to each of the last four fixations and to the direction of the last saccade. All distances
are degrees of visual angle. Durations and the subject's identity are not used.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gazekit.backbones import WeightsSource
from gazekit.batch import Scanpaths, TrialBatch
from gazekit.density import normalize_log_density
from gazekit.errors import InputError
from gazekit.models.base import GazeModel, constructor_arguments, marginal_generator, seed_of
from gazekit.models.registry import load_model, read_checkpoint
from gazekit.models.saliency_readout import SaliencyReadout, at_nodes, blur, draw_on_nodes, node_areas, warmup_cosine

# Previous fixations that the model looks at; the rotated frame of the last saccade comes on top.
LAGS = 4
_HIDDEN, _TRUNK = 16, 32
# Numbers that describe an offset: see describe_offset.
N_OFFSET = 12
# Training estimates the normaliser from every node this near to the last fixation ...
_NEAR = 5
# ... and one random node of each block of so many nodes per side elsewhere.
_BLOCK = 4


@dataclass(frozen=True)
class _Scene:
    """What the image alone determines, once per stimulus: S stimuli, N = h * w output nodes."""

    static: Tensor  # (S, N) static log-density
    content: Tensor  # (S, N, C) what is where
    bias: Tensor  # (N,) log prior
    hidden: Tensor  # (S, N, _HIDDEN) the content's part of the hidden layer
    hw: tuple[int, int]
    xy_dva: Tensor  # (N, 2) position of the nodes
    log_area: Tensor  # (N,)


class NextFixation(GazeModel):
    """Conditional log-density of the next fixation; samples scanpaths of any length.

    Args:
        static: Checkpoint of a trained ``saliency_readout``; it stays frozen. Its weights travel in
            this model's own checkpoints. None builds an untrained one (for tests).
        static_args: Arguments of that untrained readout.
        lr: Peak learning rate of AdamW.
        weight_decay: Of AdamW.
        warmup: Share of the steps in which the rate rises.
        fixations_per_stimulus: Random fixations scored per stimulus and training step.
        seed: Of the choice of fixations and nodes; see :class:`SaliencyReadout`.

    """

    def __init__(
        self,
        static: str | None = None,
        static_args: dict[str, Any] | None = None,
        lr: float = 5e-3,
        weight_decay: float = 1e-2,
        warmup: float = 0.15,
        fixations_per_stimulus: int = 24,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        # Kept apart: under Lightning's command line a model inside a model notes the outer one's arguments.
        self._static_arguments = dict(static_args or {})
        if static is not None:
            restored = load_model(Path(static), expect="saliency_readout")
            assert isinstance(restored, SaliencyReadout)
            self.static = restored
            self._static_arguments = constructor_arguments(read_checkpoint(static))
        else:
            self.static = SaliencyReadout(**self._static_arguments)
        self.static.requires_grad_(False)
        channels = self.static.content_channels + 1
        self.log_blur_nodes = nn.Parameter(torch.tensor(math.log(1.5)))
        self.content = nn.Linear(channels, _HIDDEN)
        self.per_lag = nn.ModuleList(perceptron(N_OFFSET, _TRUNK, _HIDDEN) for _ in range(LAGS))
        self.turn = perceptron(N_OFFSET + 1, _TRUNK, _HIDDEN)
        self.context = perceptron(7 + channels - 1, 32, _HIDDEN + 2)
        self.mix = nn.Linear(_HIDDEN, _HIDDEN)
        self.out = nn.Linear(_HIDDEN, 1, bias=False)
        # Training starts at the static model.
        last = self.context[2]
        assert isinstance(last, nn.Linear)
        for parameter in (last.weight, last.bias, self.out.weight):
            nn.init.zeros_(parameter)
        # Where the first fixation goes: mean offset from the center and SD, in dva, and the static map's share.
        self.start: Tensor
        self.register_buffer("start", torch.tensor([0.0, 0.0, 3.0, 3.0]))

    def train(self, mode: bool = True) -> NextFixation:
        super().train(mode)
        self.static.eval()
        return self

    @classmethod
    def from_checkpoint(cls, checkpoint: dict[str, Any]) -> NextFixation:
        # The static model's weights are in the checkpoint: its own file is not needed any more.
        static = checkpoint["static"]
        arguments = {**constructor_arguments(checkpoint), "static": None}
        model = cls(**{**arguments, "static_args": {**constructor_arguments(static), "weights": None}})
        model.static.source = WeightsSource(**static["backbone_source"])
        model.static.train_stimuli, model.static.train_dataset = static["train_stimuli"], static["train_dataset"]
        return model

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        static: dict[str, Any] = {}
        self.static.on_save_checkpoint(static)
        checkpoint["static"] = {**static, "hyper_parameters": self._static_arguments}

    def provenance(self) -> dict[str, Any]:
        return self.static.provenance()

    def feature_spec(self, size_wh_px: tuple[int, int] | None) -> dict[str, Any]:
        return self.static.feature_spec(size_wh_px)

    def encode(self, image: Tensor) -> tuple[Tensor, ...]:
        return self.static.encode(image)

    # What the image alone determines

    def scene(self, batch: TrialBatch) -> _Scene:
        """Everything that does not depend on the history, once per stimulus."""
        with torch.no_grad():
            static, content = self.static.node_log_density_and_content(batch)
        h, w = static.shape[-2:]
        # The static density relative to the image's mean is one more thing that is where it is.
        relative = (static - static.mean((1, 2), keepdim=True)) / 3.0
        content = blur(torch.cat([content, relative[:, None]], 1), self.log_blur_nodes.exp())
        content = content.flatten(2).transpose(1, 2)
        width, height = batch.size_wh_px
        y = torch.linspace(0.5, height - 0.5, h, device=batch.device) / batch.px_per_dva
        x = torch.linspace(0.5, width - 0.5, w, device=batch.device) / batch.px_per_dva
        grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1).flatten(0, 1)
        return _Scene(
            static=static.flatten(1),
            content=content,
            bias=at_nodes(self.static.log_prior[None, None], (h, w)).flatten(),
            hidden=self.content(content),
            hw=(h, w),
            xy_dva=grid,
            log_area=node_areas(static).log().flatten(),
        )

    def _nearest_node(self, scene: _Scene, xy_dva: Tensor) -> Tensor:
        """(..., 2) -> (...) index of the node nearest to the position."""
        h, w = scene.hw
        first, last = scene.xy_dva[0], scene.xy_dva[-1]
        place = (xy_dva - first) / (last - first) * torch.tensor([w - 1.0, h - 1.0], device=xy_dva.device)
        column, row = place.round().long().unbind(-1)
        return row.clamp(0, h - 1) * w + column.clamp(0, w - 1)

    # What the history adds

    def _context(self, scene: _Scene, stimulus: Tensor, history: Tensor, size_dva: Tensor) -> Tensor:
        """(N,) stimulus rows, (N, lags, 2) dva, most recent first, NaN where missing -> (N, _HIDDEN + 2)."""
        last = history[:, 0]
        saccade = ((last - history[:, 1]) / 10.0).nan_to_num(0.0)
        length = _norm(saccade)
        n_before = (~history.isnan().any(-1)).sum(1, keepdim=True)
        here = scene.content[stimulus, self._nearest_node(scene, last)][:, :-1]
        known = [(last - size_dva / 2.0) / 10.0, saccade, length, torch.log1p(10.0 * length), n_before.float().log()]
        context: Tensor = self.context(torch.cat([*known, here], 1))
        return context

    def _score(
        self, scene: _Scene, context: Tensor, history: Tensor, at: Tensor, hidden: Tensor, static: Tensor, bias: Tensor
    ) -> Tensor:
        """Unnormalised log-density at (N, M) places: positions `at` (N or 1, M, 2) dva and what is there."""
        hidden = hidden + context[:, None, :_HIDDEN]
        for lag, network in enumerate(self.per_lag):
            point = history[:, lag]
            known = ~point.isnan().any(-1)
            offset = at - point.nan_to_num(0.0)[:, None]
            hidden = hidden + network(describe_offset(offset)) * known[:, None, None]
        saccade = history[:, 0] - history[:, 1]
        known = ~saccade.isnan().any(-1)
        saccade = saccade.nan_to_num(0.0)
        length = _norm(saccade)
        # A tiny saccade has no direction to speak of.
        ex, ey = (saccade / (length + 0.25)).unbind(-1)
        dx, dy = (at - history[:, :1]).unbind(-1)
        turned = torch.stack([dx * ex[:, None] + dy * ey[:, None], dy * ex[:, None] - dx * ey[:, None]], -1)
        described = describe_offset(turned)
        far = length.log1p()[:, None].expand(*described.shape[:2], 1)
        hidden = hidden + self.turn(torch.cat([described, far], -1)) * known[:, None, None]
        added = self.out(F.silu(self.mix(F.silu(hidden))))[..., 0]
        score: Tensor = added + static * (1.0 + context[:, _HIDDEN, None]) + bias * context[:, _HIDDEN + 1, None]
        return score

    def node_log_density(self, scene: _Scene, stimulus: Tensor, history: Tensor, size_dva: Tensor) -> Tensor:
        """(N, h, w) normalised log-density on the nodes for N histories; see :meth:`_context` for the arguments."""
        parts = []
        # 64 histories at a time: the hidden layers take 32 numbers per node and history.
        for rows in torch.arange(len(history), device=history.device).split(64):
            s, past = stimulus[rows], history[rows]
            context = self._context(scene, s, past, size_dva)
            z = self._score(
                scene, context, past, scene.xy_dva[None], scene.hidden[s], scene.static[s], scene.bias[None]
            )
            parts.append(z - (z + scene.log_area).logsumexp(-1, keepdim=True))
        return torch.cat(parts).view(-1, *scene.hw)

    def _first_log_density(self, scene: _Scene, size_dva: Tensor) -> Tensor:
        """(S, h, w) where scanpaths begin: the static density under a Gaussian around the usual start."""
        offset = (scene.xy_dva - size_dva / 2.0 - self.start[:2]) / self.start[2:]
        z = scene.static + (-0.5 * offset.square().sum(-1)) - scene.bias
        return (z - (z + scene.log_area).logsumexp(-1, keepdim=True)).view(-1, *scene.hw)

    # The contract

    def conditional_log_density(self, batch: TrialBatch) -> Tensor:
        width, height = batch.size_wh_px
        scene = self.scene(batch)
        size_dva = torch.tensor(batch.size_wh_px, device=batch.device) / batch.px_per_dva
        n_trials, n_steps = batch.valid.shape
        # What stands in the padding is never read; it repeats the first map.
        needed = batch.valid.clone()
        needed[:, 0] = True
        first = self._first_log_density(scene, size_dva)[batch.stimulus_of_trial]
        nodes = first[:, None].repeat(1, n_steps, 1, 1)
        trial, step = needed[:, 1:].nonzero(as_tuple=True)
        if len(trial):
            history = histories(batch.xy_px / batch.px_per_dva, batch.valid)[trial, step + 1]
            nodes[trial, step + 1] = self.node_log_density(scene, batch.stimulus_of_trial[trial], history, size_dva)
        maps = torch.empty(n_trials, n_steps, height, width, device=batch.device)
        for t in range(n_steps):
            maps[:, t] = normalize_log_density(at_nodes(nodes[:, t : t + 1], (height, width))[:, 0])
        return maps

    def sample(self, batch: TrialBatch, n: int, length: int, generator: torch.Generator) -> Scanpaths:
        return self._walk(batch, n, length, generator)[0]

    def log_density(self, batch: TrialBatch) -> Tensor:
        """(B, H, W) where sampled scanpaths look: the mean of their conditional densities after the first fixation."""
        width, height = batch.size_wh_px
        maps = []
        for row in range(len(batch.stimulus)):
            one = batch.stimulus_alone(row)
            # Averaged on the nodes: the base class's average over full-size maps would take minutes.
            _, nodes = self._walk(one, self.marginal_paths, self.marginal_length, marginal_generator(one))
            maps.append(normalize_log_density(at_nodes(nodes.log()[:, None], (height, width))[:, 0]))
        return batch.per_trial(torch.cat(maps))

    @torch.no_grad()
    def _walk(self, batch: TrialBatch, n: int, length: int, generator: torch.Generator) -> tuple[Scanpaths, Tensor]:
        """Sampled scanpaths, and (1, h, w) their mean conditional density on the nodes, fixation 0 left out."""
        scene = self.scene(batch)
        size_dva = torch.tensor(batch.size_wh_px, device=batch.device) / batch.px_per_dva
        stimulus = batch.stimulus_of_trial.repeat_interleave(n)
        first = self._first_log_density(scene, size_dva)[batch.stimulus_of_trial].repeat_interleave(n, 0)
        path = [draw_on_nodes(first, batch.size_wh_px, generator)]
        total = torch.zeros(scene.hw, dtype=torch.float64, device=batch.device)
        for _ in range(length - 1):
            recent = torch.stack(path[::-1][:LAGS], 1) / batch.px_per_dva
            history = F.pad(recent, (0, 0, 0, LAGS - recent.shape[1]), value=torch.nan)
            nodes = self.node_log_density(scene, stimulus, history, size_dva)
            total += nodes.double().exp().sum(0)
            path.append(draw_on_nodes(nodes, batch.size_wh_px, generator))
        xy = torch.stack(path, 1).view(len(batch), n, length, 2)
        paths = Scanpaths(xy, torch.ones(xy.shape[:-1], dtype=torch.bool, device=xy.device))
        return paths, (total / (max(1, length - 1) * len(stimulus)))[None].float()

    # Training

    def prepare_fit(
        self, batches: Iterable[TrialBatch], fixations: pd.DataFrame, stimuli: pd.DataFrame, card: str
    ) -> None:
        trained = self.static.train_stimuli
        if trained and self.static.train_dataset == card and not set(trained) <= set(stimuli["stimulus"]):
            raise InputError(
                "next_fixation: its static model was trained on images outside this training split; scores on the "
                "other splits would not be on unseen images: train saliency_readout on the same split first"
            )
        first = fixations[fixations["fixation"] == 0]
        batch = next(iter(batches))
        size = stimuli.set_index("stimulus").loc[first["stimulus"], ["width_px", "height_px"]].to_numpy(float)
        relative = torch.from_numpy(first[["x_px", "y_px"]].to_numpy(float) / size - 0.5)
        offset = relative * torch.tensor(batch.size_wh_px) / batch.px_per_dva
        self.start.copy_(torch.cat([offset.mean(0), offset.std(0).clamp(min=0.5)]))

    def training_step(self, batch: TrialBatch, batch_idx: int) -> Tensor:
        scene = self.scene(batch)
        xy_dva = batch.xy_px / batch.px_per_dva
        size_dva = torch.tensor(batch.size_wh_px, device=batch.device) / batch.px_per_dva
        trial, step, far = self._chosen(batch, scene)
        stimulus = batch.stimulus_of_trial[trial]
        history = histories(xy_dva, batch.valid)[trial, step]
        nodes, log_weight = _normalizer_nodes(scene, self._nearest_node(scene, history[:, 0]), far[stimulus])
        target = self._nearest_node(scene, xy_dva[trial, step])
        index = torch.cat([target[:, None], nodes], 1)
        context = self._context(scene, stimulus, history, size_dva)
        row = stimulus[:, None]
        z = self._score(
            scene, context, history, scene.xy_dva[index], scene.hidden[row, index], scene.static[row, index],
            scene.bias[index],
        )  # fmt: skip
        estimate = z[:, 0] - (z[:, 1:] + log_weight + scene.log_area[nodes]).logsumexp(1)
        # Every stimulus weighs the same, so the mean over processes is the mean over the batch.
        n = torch.bincount(stimulus, minlength=len(batch.stimulus)).clamp(min=1)
        loss = -(estimate / n[stimulus]).sum() / len(batch.stimulus)
        self.log("train/nll_nats_per_node", loss, prog_bar=True, batch_size=len(batch.stimulus))
        return loss

    def _chosen(self, batch: TrialBatch, scene: _Scene) -> tuple[Tensor, Tensor, Tensor]:
        """The scored fixations of this step, as (trial, step), and (S, n_blocks) random nodes."""
        scored = self.scored(batch)
        h, w = scene.hw
        chosen, far = [], []
        for row, stimulus in enumerate(batch.stimulus):
            generator = torch.Generator().manual_seed(seed_of(self.hparams["seed"], self.current_epoch, stimulus))
            of_stimulus = (scored & (batch.stimulus_of_trial == row)[:, None]).nonzero()
            order = torch.randperm(len(of_stimulus), generator=generator)[: self.hparams["fixations_per_stimulus"]]
            chosen.append(of_stimulus[order.to(of_stimulus.device)])
            blocks = -(-h // _BLOCK), -(-w // _BLOCK)
            r = torch.arange(blocks[0])[:, None] * _BLOCK + torch.randint(_BLOCK, blocks, generator=generator)
            c = torch.arange(blocks[1])[None] * _BLOCK + torch.randint(_BLOCK, blocks, generator=generator)
            far.append(torch.where((r < h) & (c < w), r * w + c, -1).flatten())
        trial, step = torch.cat(chosen).unbind(-1)
        return trial, step, torch.stack(far).to(batch.device)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(
            [p for p in self.parameters() if p.requires_grad],
            lr=self.hparams["lr"],
            weight_decay=self.hparams["weight_decay"],
        )
        return warmup_cosine(optimizer, int(self.trainer.estimated_stepping_batches), self.hparams["warmup"])


def histories(xy: Tensor, valid: Tensor) -> Tensor:
    """(B, T, 2) scanpaths -> (B, T, lags, 2): before each fixation the last ones, most recent first, NaN if none."""
    known = xy.masked_fill(~valid[..., None], torch.nan)
    padded = F.pad(known, (0, 0, LAGS, 0), value=torch.nan)
    steps = xy.shape[1]
    return torch.stack([padded[:, LAGS - lag : LAGS - lag + steps] for lag in range(1, LAGS + 1)], 2)


def _normalizer_nodes(scene: _Scene, last: Tensor, far: Tensor) -> tuple[Tensor, Tensor]:
    """Nodes and log weights of a stratified estimate of the normaliser, around (N,) last fixations.

    All nodes near the last fixation count once, one random node of each block elsewhere counts for
    its block: a twelfth of the work of the full sum. Evaluation always uses the full sum.
    """
    h, w = scene.hw
    row, column = (last // w)[:, None], (last % w)[:, None]
    reach = torch.arange(-_NEAR, _NEAR + 1, device=last.device)
    dy, dx = (d.flatten() for d in torch.meshgrid(reach, reach, indexing="ij"))
    near_row, near_column = row + dy, column + dx
    near_inside = (near_row >= 0) & (near_row < h) & (near_column >= 0) & (near_column < w)
    near = near_row.clamp(0, h - 1) * w + near_column.clamp(0, w - 1)
    far_row, far_column = far.clamp(min=0) // w, far.clamp(min=0) % w
    beyond = ((far_row - row).abs() > _NEAR) | ((far_column - column).abs() > _NEAR)
    nothing = torch.tensor(-math.inf, device=last.device)
    block = torch.tensor(2.0 * math.log(_BLOCK), device=last.device)
    log_weight = torch.cat(
        [
            torch.where(beyond & (far >= 0), block, nothing),
            torch.where(near_inside, torch.zeros_like(nothing), nothing),
        ],
        1,
    )
    return torch.cat([far.clamp(min=0), near], 1), log_weight


def describe_offset(offset: Tensor) -> Tensor:
    """(..., 2) dva -> (..., 12): linear, logarithmic, direction with two harmonics, two near-field bumps."""
    dx, dy = offset.unbind(-1)
    sq = dx.square() + dy.square()
    r = (sq + 1e-6).sqrt()
    log_r = torch.log1p(r)
    q = 1.0 / (r + 0.5)
    cos2, sin2 = (dx.square() - dy.square()) / (sq + 0.25), 2.0 * dx * dy / (sq + 0.25)
    cos4 = cos2.square() - sin2.square()
    return torch.stack(
        [
            dx / 10.0, dy / 10.0, r / 10.0, dx * q * log_r, dy * q * log_r, log_r, dx * q, dy * q,
            torch.exp(-sq), torch.exp(-sq / 8.0), cos2, cos4,
        ],
        -1,
    )  # fmt: skip


def perceptron(n_in: int, n_hidden: int, n_out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(n_in, n_hidden), nn.SiLU(), nn.Linear(n_hidden, n_out))


def _norm(vector: Tensor) -> Tensor:
    return vector.square().sum(-1, keepdim=True).sqrt()
