"""A spatial model: a small readout over frozen backbone features, blurred, times a center bias.

In the line of DeepGaze II (Kuemmerer, Wallis, Gatys & Bethge 2017, ICCV, doi:10.1109/ICCV.2017.513):
what an image network knows about objects, read out per position, is trained on fixations by maximum
likelihood. What is particular here:

* The image enters at two scales, resized to 32 k + 1 pixels per side. Every stride-2 convolution with
  "same" padding then pads symmetrically, so that node (i, j) of any map lies exactly at the fraction
  i / (h - 1), j / (w - 1) of the image, and maps of all strides and both scales line up.
* The mirrored image enters too: as augmentation in training, averaged with the image in prediction.
  (Mirroring features instead would change nothing for a readout per position.)
* Several small readouts ("members") train side by side; their log-densities are averaged.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gazekit.backbones import create_backbone
from gazekit.batch import TrialBatch
from gazekit.density import count_fixations, gaussian_operators, normalize_log_density
from gazekit.errors import InputError
from gazekit.models.base import sample_positions, seed_of
from gazekit.models.frozen_backbone import OnFrozenBackbone

# Linear bottlenecks of MobileNetV2: the coarse scale adds what is large in the image.
_TAPS = ("blocks.2", "blocks.3", "blocks.4", "blocks.5")
_COARSE_TAPS = ("blocks.3", "blocks.4", "blocks.5")
# Nodes of the readout and of its output lie this many input pixels apart.
_READ_STRIDE, _OUT_STRIDE = 16, 8
# The prior is kept on the output nodes of a 600x800 image and resampled for other sizes.
_PRIOR_HW = (73, 97)
_PRIOR_SIGMA_DVA, _PRIOR_UNIFORM = 1.1, 1e-3


class SaliencyReadout(OnFrozenBackbone):
    """Log-density over pixels from frozen features; only the readout, the blur and the prior's weight train.

    Args:
        backbone: A name for :func:`gazekit.backbones.create_backbone`.
        weights: ``"pretrained"``, a file, or None for random weights.
        taps: Maps read at full scale: module names, or strides.
        coarse_taps: Maps read at half scale; empty for one scale only.
        members: Readouts side by side.
        hidden: Channels of each.
        dropout: Share of each map's channels that is left out in training.
        lr: Peak learning rate of AdamW.
        weight_decay: On convolution weights.
        warmup: Share of the steps in which the rate rises; it then falls to zero as a cosine.
        seed: Of mirroring and dropout. They depend on seed, epoch and stimulus alone, so that a
            resumed or distributed run sees the same ones.

    """

    def __init__(
        self,
        backbone: str = "mobilenetv2_100",
        weights: str | None = "pretrained",
        taps: Sequence[int | str] = _TAPS,
        coarse_taps: Sequence[int | str] = _COARSE_TAPS,
        members: int = 3,
        hidden: int = 32,
        dropout: float = 0.2,
        lr: float = 1e-2,
        weight_decay: float = 1e-2,
        warmup: float = 0.1,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.members, self.hidden = members, hidden
        if absent := [tap for tap in coarse_taps if tap not in taps]:
            raise InputError(f"saliency_readout: coarse_taps must be among taps {list(taps)}, found {absent}")
        self.backbone = create_backbone(backbone, weights=weights, taps=taps, frozen=True)
        self.source = self.backbone.source
        self.at_scale = (tuple(range(len(taps))), tuple(list(taps).index(tap) for tap in coarse_taps))
        self.train_stimuli: list[str] = []
        self.train_dataset = ""

        used = [index for scale in self.at_scale for index in scale]
        width = members * hidden
        channels = [self.backbone.channels[index] for index in used]
        # The deepest maps see objects as a whole; for them a node's neighbors matter too.
        sides = [3 if self.backbone.strides[index] >= 32 else 1 for index in used]
        self.project = nn.ModuleList(
            nn.Conv2d(c, width, side, padding=side // 2, bias=False) for c, side in zip(channels, sides, strict=True)
        )
        self.expect_channels(channels)
        self.gain, self.shift = nn.Parameter(torch.ones(width, 1, 1)), nn.Parameter(torch.zeros(width, 1, 1))
        self.mix = nn.Conv2d(width, width, 1, groups=members)
        # Without a bias: the log-softmax would take it out again, and AdamW would make rounding errors of it.
        self.read = nn.Conv2d(width, members, 1, groups=members, bias=False)
        nn.init.normal_(self.read.weight, 0.0, 0.01)
        self.log_blur_nodes = nn.Parameter(torch.tensor(math.log(2.0)))
        self.prior_weight = nn.Parameter(torch.tensor(1.0))
        self.log_prior: Tensor
        self.register_buffer("log_prior", torch.full(_PRIOR_HW, -math.log(_PRIOR_HW[0] * _PRIOR_HW[1])))

    # Features

    def feature_spec(self, size_wh_px: tuple[int, int] | None) -> dict[str, Any]:
        return {
            "backbone": self.backbone.name,
            "weights": self.source.sha256,
            "taps": list(self.backbone.taps),
            "at_scale": self.at_scale,
            "size_wh_px": size_wh_px,
            "layout": "image, mirrored; scales 1, 1/2; 32 k + 1 px; at most every 16 px",
        }

    def encode(self, image: Tensor) -> tuple[Tensor, ...]:
        """(S, 3, H, W) -> maps of the image, then as many of the mirrored image."""
        return (*self._encode_view(image), *self._encode_view(image.flip(-1)))

    def _encode_view(self, image: Tensor) -> list[Tensor]:
        maps = []
        for halvings, used in enumerate(self.at_scale):
            if not used:
                continue
            hw = input_hw(image.shape[-2:], halvings)
            resized = F.interpolate(image, hw, mode="bilinear", align_corners=False, antialias=True)
            levels = self.backbone(resized)
            # Every second node of a finer map: still a node's exact place, a quarter of the memory.
            steps = [max(1, _READ_STRIDE // self.backbone.strides[index]) for index in used]
            maps += [levels[index][..., ::step, ::step] for index, step in zip(used, steps, strict=True)]
        return maps

    # Readout

    @property
    def content_channels(self) -> int:
        """Channels of the last hidden layer, over all members."""
        return self.members * self.hidden

    def read_out(self, maps: Sequence[Tensor], keep: Sequence[Tensor] | None = None) -> tuple[Tensor, Tensor]:
        """Maps of one view -> log-density per member, and the last hidden layer.

        (S, members, h, w) log-density on the output nodes: a node stands for the area around it, so
        that exponentials times areas sum to one. (S, content_channels, h / 2, w / 2) hidden layer.

        Args:
            maps: As :meth:`encode` gives them, for one view.
            keep: (S, C, 1, 1) channel weights per map, for dropout.

        """
        # Of the image that was encoded: cached features may come from a larger one than the frame.
        stride = max(_READ_STRIDE, self.backbone.strides[self.at_scale[0][0]])
        hw = (maps[0].shape[-2] - 1) * stride + 1, (maps[0].shape[-1] - 1) * stride + 1
        read_hw = nodes_hw(hw, _READ_STRIDE)
        summed: dict[tuple[int, int], Tensor] = {}
        for number, values in enumerate(maps):
            x = self.standardized(values, number)
            x = self.project[number](x if keep is None else x * keep[number])
            key = (x.shape[-2], x.shape[-1])
            summed[key] = summed[key] + x if key in summed else x
        # Coarse to fine, so that each map is upsampled as few times as possible.
        total: Tensor | None = None
        for key in sorted(summed):
            finer = summed[key]
            total = finer if total is None else finer + at_nodes(total, key)
        assert total is not None
        z = at_nodes(total, read_hw)
        n, _, h, w = z.shape
        z = F.layer_norm(z.reshape(n, self.members, self.hidden, h, w).movedim(2, -1), (self.hidden,))
        z = z.movedim(-1, 2).reshape(n, -1, h, w) * self.gain + self.shift
        content = F.gelu(self.mix(F.gelu(z)))
        z = at_nodes(self.read(content), nodes_hw(hw, _OUT_STRIDE))
        z = blur(z, self.log_blur_nodes.exp()) + self.prior_weight * at_nodes(self.log_prior[None, None], z.shape[-2:])
        return z - (z + node_areas(z).log()).flatten(-2).logsumexp(-1)[..., None, None], content

    def node_log_density_and_content(self, batch: TrialBatch) -> tuple[Tensor, Tensor]:
        """(S, h, w) log-density and (S, content_channels, h, w) hidden layer on the output nodes.

        Both are means over the image and its mirror image; the density also over the members.
        """
        features = self.features_of(batch)
        half = len(features) // 2
        seen, content = self.read_out(features[:half])
        mirrored, mirrored_content = self.read_out(features[half:])
        nodes = torch.cat([seen, mirrored.flip(-1)], 1).mean(1)
        return nodes, at_nodes((content + mirrored_content.flip(-1)) / 2.0, nodes.shape[-2:])

    def log_density(self, batch: TrialBatch) -> Tensor:
        width, height = batch.size_wh_px
        nodes = self.node_log_density_and_content(batch)[0][:, None]
        return batch.per_trial(normalize_log_density(at_nodes(nodes, (height, width))[:, 0]))

    # Training

    def prepare_fit(
        self, batches: Iterable[TrialBatch], fixations: pd.DataFrame, stimuli: pd.DataFrame, card: str
    ) -> None:
        self.train_stimuli, self.train_dataset = stimuli["stimulus"].tolist(), card
        px_per_dva, (width, _) = self.measure_channels(batches)
        self.log_prior.copy_(log_fixation_prior(fixations, stimuli, _PRIOR_SIGMA_DVA * px_per_dva / width))

    def training_step(self, batch: TrialBatch, batch_idx: int) -> Tensor:
        features = self.features_of(batch)
        half = len(features) // 2
        mirror, keep = self._augmentation(batch, [m.shape[1] for m in features[:half]])
        chosen = [
            torch.where(mirror[:, None, None, None], b, a)
            for a, b in zip(features[:half], features[half:], strict=True)
        ]
        log_density, _ = self.read_out(chosen, keep)
        target = node_targets(batch, self.scored(batch), log_density.shape[-2:])
        target = torch.where(mirror[:, None, None], target.flip(-1), target)
        # Every stimulus and member weighs the same, so the mean over processes is the mean over the batch.
        loss = -(target[:, None] * log_density).sum((-2, -1)).mean()
        self.log("train/nll_nats_per_node", loss, prog_bar=True, batch_size=len(batch.stimulus))
        return loss

    def _augmentation(self, batch: TrialBatch, channels: list[int]) -> tuple[Tensor, list[Tensor]]:
        """(S,) bool, whether each stimulus is shown mirrored; per map (S, C, 1, 1) channel weights."""
        share = self.hparams["dropout"]
        mirror, keep = [], []
        for stimulus in batch.stimulus:
            generator = torch.Generator().manual_seed(seed_of(self.hparams["seed"], self.current_epoch, stimulus))
            mirror.append(torch.rand(1, generator=generator) < 0.5)
            keep.append((torch.rand(sum(channels), generator=generator) >= share).float() / (1.0 - share))
        weights = torch.stack(keep).to(batch.device)[..., None, None].split(channels, dim=1)
        return torch.cat(mirror).to(batch.device), list(weights)

    def configure_optimizers(self) -> Any:
        decayed = [p for p in self.parameters() if p.requires_grad and p.ndim == 4]
        rest = [p for p in self.parameters() if p.requires_grad and p.ndim != 4]
        groups = [
            {"params": decayed, "weight_decay": self.hparams["weight_decay"]},
            {"params": rest, "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups, lr=self.hparams["lr"])
        return warmup_cosine(optimizer, int(self.trainer.estimated_stepping_batches), self.hparams["warmup"])


def input_hw(hw: Sequence[int], halvings: int) -> tuple[int, int]:
    """The largest 32 k + 1 that fits into each side, after so many halvings; at least 33."""
    height, width = (32 * max(1, ((side >> halvings) - 1) // 32) + 1 for side in hw)
    return height, width


def nodes_hw(input_hw: tuple[int, int], stride: int) -> tuple[int, int]:
    """Nodes along each side of an input of 32 k + 1 pixels."""
    return (input_hw[0] - 1) // stride + 1, (input_hw[1] - 1) // stride + 1


def at_nodes(maps: Tensor, hw: Sequence[int]) -> Tensor:
    """Bilinear resampling that keeps the corner nodes at the corners."""
    if tuple(maps.shape[-2:]) == tuple(hw):
        return maps
    return F.interpolate(maps, tuple(hw), mode="bilinear", align_corners=True)


def node_areas(maps: Tensor) -> Tensor:
    """(h, w) share of a node's cell that lies in the image: a half at edges, a quarter in corners."""
    h, w = maps.shape[-2:]
    rows, columns = torch.ones(h, device=maps.device), torch.ones(w, device=maps.device)
    rows[0] = rows[-1] = columns[0] = columns[-1] = 0.5
    return rows[:, None] * columns


def draw_on_nodes(log_density: Tensor, size_wh_px: tuple[int, int], generator: torch.Generator) -> Tensor:
    """(M, h, w) log-density on nodes -> (M, 2) px, evenly spread over the drawn cell inside the image."""
    h, w = log_density.shape[-2:]
    last = torch.tensor([w - 1.0, h - 1.0], device=log_density.device)
    drawn = sample_positions(log_density + node_areas(log_density).log(), 1, generator)[:, 0] - 0.5
    # The half of an outermost cell that lies beyond its node is folded in: cut off, it would pile up on the edge.
    drawn = last - (last - drawn.abs()).abs()
    size = torch.tensor(size_wh_px, device=log_density.device, dtype=torch.float32)
    return torch.minimum(drawn * (size - 1.0) / last + 0.5, size - 1e-3)


def blur(maps: Tensor, sigma_nodes: Tensor) -> Tensor:
    """(S, C, h, w) -> the same, filtered by a Gaussian whose SD can be learned; it narrows at the edges.

    Two matrix products: on a CPU far quicker than a convolution's backward pass on few channels.
    """

    def operator(n: int) -> Tensor:
        place = torch.arange(n, device=maps.device, dtype=maps.dtype)
        kernel = torch.exp(-(place[:, None] - place).square() / (2.0 * sigma_nodes.square()))
        return kernel / kernel.sum(1, keepdim=True)

    return operator(maps.shape[-2]) @ maps @ operator(maps.shape[-1]).mT


def node_targets(batch: TrialBatch, scored: Tensor, hw: Sequence[int]) -> Tensor:
    """(S, h, w) each stimulus's scored fixations, split bilinearly among nodes, summing to one.

    The inner product with a log-density on nodes is the mean of its bilinear interpolation at the
    fixations. A stimulus without a scored fixation is all zero.
    """
    h, w = int(hw[0]), int(hw[1])
    size = torch.tensor(batch.size_wh_px, device=batch.device, dtype=batch.xy_px.dtype)
    last = torch.tensor([w - 1, h - 1], device=batch.device, dtype=batch.xy_px.dtype)
    # The outermost nodes are the centers of the outermost pixels.
    position = ((batch.xy_px - 0.5) / (size - 1.0)).clamp(0.0, 1.0) * last
    low = torch.minimum(position.floor(), last - 1.0)
    part = position - low
    column, row = low.long().unbind(-1)
    stimulus = batch.stimulus_of_trial[:, None].expand_as(row)
    counts = torch.zeros(len(batch.stimulus), device=batch.device, dtype=part.dtype)
    counts.index_add_(0, stimulus[scored], torch.ones_like(part[..., 0])[scored])
    weight = scored / counts.clamp(min=1.0)[stimulus]
    target = torch.zeros(len(batch.stimulus) * h * w, device=batch.device, dtype=part.dtype)
    for right in (0, 1):
        for below in (0, 1):
            share = (part[..., 0] if right else 1 - part[..., 0]) * (part[..., 1] if below else 1 - part[..., 1])
            index = (stimulus * h + row + below) * w + column + right
            target.index_add_(0, index[scored], (share * weight)[scored])
    return target.view(-1, h, w)


def warmup_cosine(optimizer: torch.optim.Optimizer, n_steps: int, warmup: float) -> dict[str, Any]:
    """Lightning's optimiser dictionary: the rate rises linearly, then falls to zero as a cosine."""
    rising = max(1, int(n_steps * warmup))

    def factor(step: int) -> float:
        falling = max(0, step - rising) / max(1, n_steps - rising)
        return min((step + 1) / rising, 0.5 + 0.5 * math.cos(math.pi * min(1.0, falling)))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def log_fixation_prior(fixations: pd.DataFrame, stimuli: pd.DataFrame, sigma_of_width: float) -> Tensor:
    """Log of the training fixations' density (first fixations left out) on the prior's nodes."""
    sizes = stimuli.set_index("stimulus").loc[fixations["stimulus"], ["width_px", "height_px"]].to_numpy(float)
    relative = torch.from_numpy(fixations[["x_px", "y_px"]].to_numpy(float) / sizes)[
        torch.from_numpy(fixations["fixation"].to_numpy() > 0)
    ].clamp(0.0, 1.0)
    h, w = _PRIOR_HW
    # Rounded to the nearest node.
    nodes = relative * torch.tensor([w - 1.0, h - 1.0], dtype=torch.float64) + 0.5
    counts = count_fixations(nodes[None], torch.ones(1, len(nodes), dtype=torch.bool), (w, h))[0]
    gy, gx = gaussian_operators((w, h), sigma_of_width * (w - 1))
    density = gy @ (counts / node_areas(counts).double()) @ gx.T
    return (density / density.sum() + _PRIOR_UNIFORM / density.numel()).log().float()
