"""A search model: what is looked for selects what is seen, through a codebook between backbone and scanpath decoder.

A frozen backbone describes the cells of a scene and the target. Both are fused per cell; a bottleneck lets part of it
through; a decoder predicts the next fixation from what came through and from the last fixations. The bottleneck is the
task-conditioned codebook of Eftekhar et al. (see :mod:`gazekit.models.bottleneck`), a linear one of the same width, or
none: the same recipe trains all three. The model is told what the target looks like or what it is called, never where
it is.
"""

from __future__ import annotations

import difflib
import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gazekit.backbones import create_backbone
from gazekit.backbones.clip import create_clip
from gazekit.batch import Scanpaths, SearchTask, TrialBatch
from gazekit.density import normalize_log_density
from gazekit.errors import InputError
from gazekit.models.arguments import check_not_negative, check_positive, check_share, check_whole
from gazekit.models.base import marginal_generator, seed_of
from gazekit.models.bottleneck import create_bottleneck
from gazekit.models.codebook_decoder import CellDecoder, Scene, WholeDecoder, saccade_embedding
from gazekit.models.frozen_backbone import OnFrozenBackbone
from gazekit.models.next_fixation import LAGS, histories
from gazekit.models.saliency_readout import (
    at_nodes,
    draw_on_nodes,
    input_hw,
    log_fixation_prior,
    node_areas,
    warmup_cosine,
)
from gazekit.registry import unknown_name

# Linear bottlenecks of MobileNetV2, at strides of 16, 16 and 32 px.
_TAPS = ("blocks.3", "blocks.4", "blocks.5")
_GOALS = ("image", "category", "word", "none")
_PLACEMENTS = ("cell", "global")
_ATTENTION = ("none", "plain", "gated")
_MATCHES = ("relative", "cosine")
# What checkpoints were trained with before these could be chosen.
_FORMER = {"cell_px": 32, "match": "cosine", "find_weight": 0.0}
# A target's picture is mirrored at its edges until it has so many pixels per side, and its middle is compared.
_TEMPLATE_PX, _TEMPLATE_CORE_PX = 129, 64
_PRIOR_HW = (73, 97)
_PRIOR_SIGMA_DVA = 1.1
# Of the whole map in the published agent: channels and cells per side.
_WHOLE_CHANNELS, _WHOLE_CELLS = 32, 7
# Scatter of first fixations around where the design put the eye.
_START_SD_DVA = 0.5
# Templates kept in memory, and histories decoded at a time.
_N_KEPT, _AT_ONCE = 4096, 64
# Of the grid from which fixations are drawn.
_DRAWN_PX = 8
# Likeness whose SD over a scene is below this does not tell places apart.
_LEAST_SD = 1e-3


@dataclass(frozen=True)
class _Goals:
    """What P pairs of stimulus and goal look for.

    Args:
        stimulus: (P,) row of the stimulus.
        of_trial: (B,) the pair of each trial.
        known: (P,) bool, False where nothing is looked for.
        vector: (P, G) raw description.
        patches: Per tap (P, C, k, k) standardised maps of the target's picture; empty for goals without one.

    """

    stimulus: Tensor
    of_trial: Tensor
    known: Tensor
    vector: Tensor
    patches: tuple[Tensor, ...]


class Codebook(OnFrozenBackbone):
    """Conditional log-density of the next fixation of somebody who searches; samples scanpaths of any length.

    Without a goal (free viewing) nothing is fused in, and the model is one of the scene alone.

    Attributes:
        eagerness: Added to the log-odds that the next fixation goes for the target, outside training: 0 as people do,
            more to find it sooner. It needs `find_weight`; nothing else changes.

    Args:
        backbone: A name for :func:`gazekit.backbones.create_backbone`; it stays frozen.
        weights: ``"pretrained"``, a file, or None for random weights.
        taps: Maps that describe scene and target.
        cell_px: Distance of the cells, the stride of one of the taps; coarser maps are interpolated.
        goal: "image": the target's picture, through the same backbone. "category": a learned vector for each of
            `categories`. "word": the target's name through CLIP's text tower. "none": the goal is not told.
        categories: Names of targets.
        clip: For "word", see :func:`~gazekit.backbones.clip.create_clip`.
        clip_weights: As there.
        match: Of a target's picture. "relative": how much more a place is like it than the scene's places are on
            average, in their SDs. "cosine": the likeness itself.
        bottleneck: "codebook", "linear" or "none".
        bottleneck_options: Arguments of the bottleneck.
        placement: "cell": each cell passes the bottleneck by itself. "global": the whole map does, as published;
            where things are is then lost but for 10 numbers.
        width: Numbers per cell.
        hidden: Of the decoder's layers.
        attention: Of the decoder: "none", "plain" or "gated".
        dropout: Share of the backbone's channels that is left out in training.
        find_weight: Of a term of the loss that rewards knowing, from what passed the bottleneck, where the target is:
            minus the log of the probability that it gives to the target's box. Boxes are used in training alone.
        usage_weight: Of a term that rewards a high entropy of the codes' mean weights and a low one per cell.
        lr: Peak learning rate of AdamW.
        weight_decay: Of AdamW, on matrices.
        warmup: Share of the steps in which the rate rises.
        fixations_per_stimulus: Random fixations scored per stimulus and training step.
        seed: Of mirroring, dropout and the choice of fixations. They depend on seed, epoch and stimulus alone, so that
            a resumed or distributed run sees the same ones.

    """

    brought: ClassVar[tuple[str, ...]] = ("weights", "clip_weights")
    adjustable: ClassVar[tuple[str, ...]] = ("eagerness",)

    @classmethod
    def from_checkpoint(cls, checkpoint: dict[str, Any]) -> Codebook:
        arguments = {**_FORMER, **checkpoint.get("hyper_parameters", {})}
        return super().from_checkpoint({**checkpoint, "hyper_parameters": arguments})

    def __init__(
        self,
        backbone: str = "mobilenetv2_100",
        weights: str | None = "pretrained",
        taps: Sequence[int | str] = _TAPS,
        cell_px: int = 16,
        goal: str = "image",
        categories: Sequence[str] = (),
        clip: str | dict[str, Any] = "RN50-quickgelu",
        clip_weights: str | None = "openai",
        match: str = "relative",
        bottleneck: str = "codebook",
        bottleneck_options: dict[str, Any] | None = None,
        placement: str = "cell",
        width: int = 64,
        hidden: int = 24,
        attention: str = "none",
        dropout: float = 0.2,
        find_weight: float = 0.3,
        usage_weight: float = 0.0,
        lr: float = 5e-3,
        weight_decay: float = 5e-2,
        warmup: float = 0.1,
        fixations_per_stimulus: int = 16,
        seed: int = 0,
    ) -> None:
        super().__init__()
        for what, value, known in (
            ("goal", goal, _GOALS),
            ("placement of a bottleneck", placement, _PLACEMENTS),
            ("attention of the decoder", attention, _ATTENTION),
            ("match of a target's picture", match, _MATCHES),
        ):
            if value not in known:
                raise unknown_name(what, value, list(known))
        sizes = {"width": width, "hidden": hidden, "fixations_per_stimulus": fixations_per_stimulus}
        check_whole("codebook", 1, **sizes)
        check_positive("codebook", lr=lr)
        check_not_negative("codebook", find_weight=find_weight, usage_weight=usage_weight, weight_decay=weight_decay)
        check_share("codebook", dropout=dropout, warmup=warmup)
        if goal == "category" and not categories:
            raise InputError("codebook: goal 'category' needs categories, the names of the targets")
        self.save_hyperparameters()
        self.eagerness = 0.0
        self.finds = placement == "cell" and goal != "none" and find_weight > 0
        self.goal, self.placement, self.cell_px, self.match = goal, placement, cell_px, match
        self.backbone = create_backbone(backbone, weights=weights, taps=taps, frozen=True)
        self.source = self.backbone.source
        self.train_stimuli: list[str] = []
        self.train_dataset = ""
        if cell_px not in self.backbone.strides:
            raise InputError(
                f"codebook: cell_px is {cell_px}, expected the stride of one of the taps: "
                f"{', '.join(map(str, sorted(set(self.backbone.strides))))}"
            )
        channels = self.backbone.channels
        self.expect_channels(channels)
        self.see = nn.Linear(sum(channels), width, bias=False)
        matched = 0
        if goal == "image":
            # Scene and target are seen alike, so that likeness is a product.
            matched = len(channels)
        elif goal == "category":
            self.category_of = {name: row for row, name in enumerate(categories)}
            self.know = nn.Embedding(len(categories), width)
        elif goal == "word":
            self.clip = create_clip(clip, clip_weights)
            self.words: dict[str, Tensor] = {}
            text = self.clip.encode_text(["a"]).shape[-1]
            # Only words are looked at.
            self.clip.model.visual = nn.Identity()
            self.translate = nn.Linear(text, width)
        told = 0 if goal == "none" else 2 * width + matched
        self.fuse = nn.Sequential(nn.Linear(width + told, 2 * width), nn.ReLU(), nn.Linear(2 * width, width))
        options = dict(bottleneck_options or {})
        if placement == "global":
            if attention != "none":
                raise InputError("codebook: with placement 'global' there are no cells to attend to; attention: none")
            self.compress = nn.Sequential(nn.Linear(width, _WHOLE_CHANNELS), nn.ReLU())
            self.about_saccade = nn.Linear(6, 6)
            whole = _WHOLE_CHANNELS * _WHOLE_CELLS**2 + 6
            self.bottleneck = create_bottleneck(bottleneck, whole, **options)
            self.decoder: nn.Module = WholeDecoder(whole)
        else:
            self.bottleneck = create_bottleneck(bottleneck, width, **options)
            self.decoder = CellDecoder(width, hidden, attention, finds=self.finds)
        self.log_prior: Tensor
        self.register_buffer("log_prior", torch.full(_PRIOR_HW, -math.log(_PRIOR_HW[0] * _PRIOR_HW[1])))
        # Where the first fixation goes: mean offset from the center and SD, in dva.
        self.start: Tensor
        self.register_buffer("start", torch.tensor([0.0, 0.0, 3.0, 3.0]))
        self._templates: dict[str, tuple[Tensor, ...]] = {}
        self._seen: dict[tuple[str, str], tuple[Tensor, Tensor]] = {}

    def adjust(self, **numbers: float) -> None:
        super().adjust(**numbers)
        if self.eagerness and not self.finds:
            raise InputError(
                "codebook: eagerness needs a model that was trained to find: find_weight above 0, placement 'cell', "
                "and a goal"
            )

    # What is seen

    def feature_spec(self, size_wh_px: tuple[int, int] | None) -> dict[str, Any]:
        return {
            "backbone": self.backbone.name,
            "weights": self.source.sha256,
            "taps": list(self.backbone.taps),
            "size_wh_px": size_wh_px,
            "layout": "codebook: image, mirrored; 32 k + 1 px",
        }

    def encode(self, image: Tensor) -> tuple[Tensor, ...]:
        """(S, 3, H, W) -> maps of the image, then as many of the mirrored image."""
        resized = self._resized(image)
        return (*self.backbone(resized), *self.backbone(resized.flip(-1)))

    @staticmethod
    def _resized(image: Tensor) -> Tensor:
        hw = input_hw(image.shape[-2:], 0)
        return F.interpolate(image, hw, mode="bilinear", align_corners=False, antialias=True)

    @torch.no_grad()
    def _maps(self, batch: TrialBatch) -> tuple[Tensor, ...]:
        """The maps of the stimuli as they are: what is mirrored is for training alone."""
        if batch.features is not None:
            return batch.features[: len(batch.features) // 2]
        assert batch.image is not None, "a batch has an image or features"
        maps: tuple[Tensor, ...] = tuple(self.backbone(self._resized(batch.image)))
        return maps

    def _pooled(self, maps: Sequence[Tensor]) -> Tensor:
        """Standardised maps -> (S, C, h, w) on the cells: means around the cells' nodes."""
        return torch.cat([self._on_cells(m, n, F.avg_pool2d) for n, m in enumerate(maps)], 1)

    def _on_cells(self, maps: Tensor, number: int, pool: Any) -> Tensor:
        """A map of tap `number` on the cells, pooled where it is finer and interpolated where it is coarser."""
        stride = self.backbone.strides[number]
        if stride <= self.cell_px:
            return _at_every(maps, self.cell_px // stride, pool)
        hw = tuple((side - 1) * (stride // self.cell_px) + 1 for side in maps.shape[-2:])
        return F.interpolate(maps, hw, mode="bilinear", align_corners=True)

    # What is looked for

    def _goals(self, batch: TrialBatch, mirror: Tensor | None = None) -> _Goals:
        """The distinct pairs of stimulus and goal of a batch, a stimulus without trials included."""
        search, device = batch.search, batch.device
        told: list[Any] = [None] * len(batch)
        if search is not None and self.goal == "image":
            told = search.template_of_trial.tolist()
            if search.template is None or min(told, default=0) < 0:
                name = search.target[min(range(len(told)), key=told.__getitem__)]
                raise InputError(
                    f"codebook: the model searches for pictures, and there is none of target {name!r}; train one with "
                    f"goal 'category' or 'word' where targets have names only"
                )
        elif search is not None and self.goal in ("category", "word"):
            told = [name or None for name in search.target]
        keys = list(zip(batch.stimulus_of_trial.tolist(), told, strict=True))
        present = {row for row, _ in keys}
        distinct = list(dict.fromkeys([*keys, *((s, None) for s in range(len(batch.stimulus)) if s not in present)]))
        row_of = {key: row for row, key in enumerate(distinct)}
        patches, vector = self._described([key[1] for key in distinct], [key[0] for key in distinct], batch, mirror)
        return _Goals(
            torch.tensor([s for s, _ in distinct], device=device),
            torch.tensor([row_of[key] for key in keys], dtype=torch.long, device=device),
            torch.tensor([goal is not None for _, goal in distinct], device=device),
            vector,
            patches,
        )

    def _described(
        self, goals: list[Any], stimulus: list[int], batch: TrialBatch, mirror: Tensor | None
    ) -> tuple[tuple[Tensor, ...], Tensor]:
        """Patches per tap and (P, G) raw vectors of the goals, 0 where there is none."""
        n, device = len(goals), batch.device
        if self.goal == "image":
            found = []
            for goal, row in zip(goals, stimulus, strict=True):
                if goal is not None:
                    assert batch.search is not None
                    assert batch.search.template is not None
                    picture = batch.search.template[goal]
                    found.append(self._template(picture.flip(-1) if mirror is not None and mirror[row] else picture))
                else:
                    found.append(tuple(torch.zeros(0) for _ in self.backbone.taps))
            patches = []
            for number, channels in enumerate(self.backbone.channels):
                side = 1 + _TEMPLATE_CORE_PX // self.backbone.strides[number]
                blank = torch.zeros(channels, side, side, device=device)
                raw = torch.stack([f[number].to(device) if f[number].numel() else blank for f in found])
                known = torch.tensor([bool(f[number].numel()) for f in found], device=device)
                patches.append(self.standardized(raw, number) * known[:, None, None, None])
            return tuple(patches), torch.cat([p.mean((2, 3)) for p in patches], 1)
        if self.goal == "category":
            rows = [0 if goal is None else self._category(goal) for goal in goals]
            return (), torch.tensor(rows, device=device)[:, None].float()
        if self.goal == "word":
            new = [goal for goal in dict.fromkeys(goals) if goal is not None and goal not in self.words]
            if new:
                self.words.update(zip(new, self.clip.encode_text([_as_words(goal) for goal in new]), strict=True))
            nothing = torch.zeros(self.translate.in_features, device=device)
            return (), torch.stack([nothing if g is None else self.words[g].to(device).float() for g in goals])
        return (), torch.zeros(n, 0, device=device)

    def _category(self, name: str) -> int:
        if name not in self.category_of:
            near = difflib.get_close_matches(name, self.category_of, 1)
            raise InputError(
                f"codebook: no category named {name!r}"
                + (f"; did you mean {near[0]!r}? It" if near else "; it")
                + f" was built for {len(self.category_of)}: {', '.join(self.category_of)}"
            )
        return self.category_of[name]

    @torch.no_grad()
    def _template(self, picture: Tensor) -> tuple[Tensor, ...]:
        """(3, h, w) -> per tap (C, k, k), the middle of the backbone's maps; each picture is encoded once."""
        key = hashlib.sha256(picture.contiguous().cpu().numpy().tobytes()).hexdigest()
        if key not in self._templates:
            height, width = picture.shape[-2:]
            core = max(height, width, 8)
            x = F.interpolate(picture[None], (core, core), mode="bilinear", align_corners=False, antialias=True)
            while x.shape[-1] < _TEMPLATE_PX:
                # Mirrored, so that the network sees no edge that the picture does not have.
                pad = min(x.shape[-1] - 1, _TEMPLATE_PX - x.shape[-1])
                x = F.pad(x, (pad // 2, pad - pad // 2) * 2, mode="reflect")
            left = (x.shape[-1] - _TEMPLATE_PX) // 2
            x = x[..., left : left + _TEMPLATE_PX, left : left + _TEMPLATE_PX]
            found = []
            for m, stride in zip(self.backbone(x), self.backbone.strides, strict=True):
                reach, middle = _TEMPLATE_CORE_PX // stride // 2, m.shape[-1] // 2
                part = slice(middle - reach, middle + reach + 1)
                found.append(m[0, :, part, part].clone())
            if len(self._templates) >= _N_KEPT:
                self._templates.clear()
            self._templates[key] = tuple(found)
        return self._templates[key]

    # What the goal makes of the scene

    @torch.no_grad()
    def _cells(self, maps: Sequence[Tensor], goals: _Goals) -> tuple[Tensor, Tensor]:
        """Raw maps -> (S, h, w, C) what is in each cell, and (P, h, w, taps) how much it is like the target."""
        standardized = [self.standardized(m, number) for number, m in enumerate(maps)]
        pooled = self._pooled(standardized).movedim(1, -1)
        if self.goal != "image":
            return pooled, pooled.new_zeros(len(goals.stimulus), *pooled.shape[1:3], 0)
        return pooled, self._match(standardized, goals).movedim(1, -1)

    def _kept_cells(self, batch: TrialBatch, maps: Sequence[Tensor], goals: _Goals) -> tuple[Tensor, Tensor]:
        """As :meth:`_cells`, which has no part that trains; computed once per training for each scene and goal."""
        digest = [hashlib.sha256(one.contiguous().cpu().numpy().tobytes()).hexdigest() for one in maps[-1]]
        wanted = [hashlib.sha256(one.cpu().numpy().tobytes()).hexdigest() for one in goals.vector]
        keys = [(digest[row], goal) for row, goal in zip(goals.stimulus.tolist(), wanted, strict=True)]
        if not all(key in self._seen for key in keys):
            pooled, match = self._cells(maps, goals)
            if len(self._seen) > _N_KEPT // 8:
                self._seen.clear()
            for pair, (key, row) in enumerate(zip(keys, goals.stimulus.tolist(), strict=True)):
                self._seen[key] = pooled[row].clone(), match[pair].clone()
        of_stimulus = {row: pair for pair, row in enumerate(goals.stimulus.tolist())}
        pooled = torch.stack([self._seen[keys[of_stimulus[row]]][0] for row in range(len(batch.stimulus))])
        return pooled, torch.stack([self._seen[key][1] for key in keys])

    def _fused(self, cells: tuple[Tensor, Tensor], goals: _Goals, keep: Tensor | None) -> Tensor:
        """(P, h, w, d) scene and goal, cell by cell."""
        pooled, match = cells
        seen = self.see(pooled if keep is None else pooled * keep[:, None, None])[goals.stimulus]
        if self.goal == "none":
            fused: Tensor = self.fuse(seen)
            return fused
        if self.goal == "image":
            raw = goals.vector if keep is None else goals.vector * keep[goals.stimulus]
            wanted = self.see(raw)
        elif self.goal == "category":
            wanted = self.know(goals.vector[:, 0].long())
        else:
            wanted = self.translate(goals.vector)
        wanted = (wanted * goals.known[:, None])[:, None, None].expand_as(seen)
        parts = [seen, wanted, seen * wanted]
        if self.goal == "image":
            parts.append(match)
        fused = self.fuse(torch.cat(parts, -1))
        return fused

    @torch.no_grad()
    def _match(self, maps: Sequence[Tensor], goals: _Goals) -> Tensor:
        """(P, taps, h, w) how much the surroundings of each cell are like the target, the largest near it."""
        found = []
        for number, (m, patch) in enumerate(zip(maps, goals.patches, strict=True)):
            side = patch.shape[-1]
            energy = F.conv2d(m.square().sum(1, keepdim=True), m.new_ones(1, 1, side, side), padding=side // 2)
            like = F.conv2d(
                m[goals.stimulus].flatten(0, 1)[None], patch, padding=side // 2, groups=len(patch)
            ).movedim(0, 1)  # fmt: skip
            norm = patch.square().sum((1, 2, 3)).sqrt()[:, None, None, None]
            cosine = like / (energy[goals.stimulus].clamp(min=0.0).sqrt() * norm).clamp(min=1e-6)
            if self.match == "relative":
                sd, mean = torch.std_mean(cosine, (2, 3), keepdim=True)
                cosine = (cosine - mean) / sd.clamp(min=_LEAST_SD)
            found.append(self._on_cells(cosine, number, F.max_pool2d))
        return torch.cat(found, 1)

    def scene(self, batch: TrialBatch) -> tuple[Scene, Tensor | None, _Goals]:
        """Pairs of stimulus and goal as they pass the bottleneck, the codes' (P, N, K) weights, and the goals."""
        goals = self._goals(batch)
        cells = self._cells(self._maps(batch), goals)
        scene, weights = self._scene(batch, cells, goals, None, None)
        return scene, weights, goals

    def _scene(
        self, batch: TrialBatch, cells: tuple[Tensor, Tensor], goals: _Goals, keep: Tensor | None,
        noise: list[torch.Generator] | None,
    ) -> tuple[Scene, Tensor | None]:  # fmt: skip
        fused = self._fused(cells, goals, keep)
        h, w = fused.shape[1:3]
        weights = None
        if self.placement == "cell":
            passed, weights = self.bottleneck(fused.flatten(1, 2), noise)
        else:
            compressed = self.compress(fused).movedim(-1, 1)
            passed = F.adaptive_avg_pool2d(compressed, (_WHOLE_CELLS, _WHOLE_CELLS)).flatten(1)
        width, height = batch.size_wh_px
        y = torch.linspace(0.5, height - 0.5, h, device=batch.device) / batch.working_px_per_dva
        x = torch.linspace(0.5, width - 0.5, w, device=batch.device) / batch.working_px_per_dva
        grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1).flatten(0, 1)
        prior = at_nodes(self.log_prior[None, None], (h, w)).flatten()
        size_dva = torch.tensor(batch.size_wh_px, device=batch.device) / batch.working_px_per_dva
        return Scene(passed, prior, (h, w), grid, size_dva, goals.known), weights

    def _scores(
        self, scene: Scene, pair: Tensor, history: Tensor, noise: list[torch.Generator] | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """(M, N) unnormalised log-density, and the codes' weights where they depend on the history."""
        if self.placement == "cell":
            eagerness = 0.0 if self.training else self.eagerness
            return self.decoder(scene, pair, history, eagerness), None
        known = ~history.isnan().any(-1)
        about = self.about_saccade(saccade_embedding(scene, history))
        whole = torch.cat([scene.passed[pair, None].expand(-1, history.shape[1], -1), about], -1)
        passed, weights = self.bottleneck(whole, noise)
        return self.decoder(scene, passed, known), weights

    def node_log_density(self, scene: Scene, pair: Tensor, history: Tensor) -> Tensor:
        """(M, h, w) normalised log-density on the nodes for M histories; a node stands for the area around it."""
        parts = []
        log_area = node_areas(scene.prior.view(scene.hw)).log().flatten()
        for rows in torch.arange(len(history), device=history.device).split(_AT_ONCE):
            z, _ = self._scores(scene, pair[rows], history[rows])
            parts.append(z - (z + log_area).logsumexp(-1, keepdim=True))
        return torch.cat(parts).view(-1, *scene.hw)

    def _first_log_density(self, scene: Scene, batch: TrialBatch) -> Tensor:
        """(B, h, w) where scanpaths begin: a Gaussian around the design's start, or else the usual one of training."""
        center, sd = (scene.size_dva / 2.0 + self.start[:2]).expand(len(batch), 2), self.start[2:].expand(len(batch), 2)
        if batch.search is not None:
            given = batch.search.has_start[:, None]
            center = torch.where(given, batch.search.start_xy_px / batch.working_px_per_dva, center)
            sd = torch.where(given, torch.full_like(sd, _START_SD_DVA), sd)
        offset = (scene.xy_dva - center[:, None]) / sd[:, None]
        z = (-0.5 * offset.square().sum(-1)).clamp(min=-30.0)
        log_area = node_areas(scene.prior.view(scene.hw)).log().flatten()
        return (z - (z + log_area).logsumexp(-1, keepdim=True)).view(-1, *scene.hw)

    # The contract

    def conditional_log_density(self, batch: TrialBatch) -> Tensor:
        width, height = batch.size_wh_px
        scene, _, goals = self.scene(batch)
        n_trials, n_steps = batch.valid.shape
        # What stands in the padding is never read; it repeats the first map.
        nodes = self._first_log_density(scene, batch)[:, None].repeat(1, n_steps, 1, 1)
        trial, step = batch.valid[:, 1:].nonzero(as_tuple=True)
        if len(trial):
            history = histories(batch.xy_px / batch.working_px_per_dva, batch.valid)[trial, step + 1]
            nodes[trial, step + 1] = self.node_log_density(scene, goals.of_trial[trial], history)
        maps = torch.empty(n_trials, n_steps, height, width, device=batch.device)
        for t in range(n_steps):
            maps[:, t] = normalize_log_density(at_nodes(nodes[:, t : t + 1], (height, width))[:, 0])
        return maps

    def log_density(self, batch: TrialBatch) -> Tensor:
        """(B, H, W) where sampled scanpaths look: the mean of their conditional densities after the first fixation."""
        width, height = batch.size_wh_px
        scene, _, goals = self.scene(batch)
        maps = []
        for pair, row in enumerate(goals.stimulus.tolist()):
            one = batch.stimulus_alone(row)
            # The usual start: a map is of the scene and the goal alone.
            first = self._first_log_density(scene, replace(one, search=None)).expand(self.marginal_paths, -1, -1)
            pairs = torch.full((self.marginal_paths,), pair, device=batch.device)
            _, nodes = self._walk(scene, pairs, first, batch, self.marginal_length, marginal_generator(one))
            maps.append(normalize_log_density(at_nodes(nodes.log()[:, None], (height, width))[:, 0]))
        if len(maps) == 1:
            return maps[0].expand(len(batch), -1, -1)
        return torch.cat(maps)[goals.of_trial]

    def sample(self, batch: TrialBatch, n: int, length: int, generator: torch.Generator) -> Scanpaths:
        scene, _, goals = self.scene(batch)
        first = self._first_log_density(scene, batch).repeat_interleave(n, 0)
        path, _ = self._walk(scene, goals.of_trial.repeat_interleave(n), first, batch, length, generator)
        xy = path.view(len(batch), n, length, 2)
        return Scanpaths(xy, torch.ones(xy.shape[:-1], dtype=torch.bool, device=xy.device))

    @torch.no_grad()
    def _walk(
        self, scene: Scene, pair: Tensor, first: Tensor, batch: TrialBatch, length: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """(M, length, 2) px, and (1, h, w) their mean conditional density on the nodes, fixation 0 left out."""
        path = [self._draw(first, batch, generator)]
        total = torch.zeros(scene.hw, dtype=torch.float64, device=batch.device)
        for _ in range(length - 1):
            recent = torch.stack(path[::-1][:LAGS], 1) / batch.working_px_per_dva
            history = F.pad(recent, (0, 0, 0, LAGS - recent.shape[1]), value=torch.nan)
            nodes = self.node_log_density(scene, pair, history)
            total += nodes.double().exp().sum(0)
            path.append(self._draw(nodes, batch, generator))
        return torch.stack(path, 1)[:, :length], (total / (max(1, length - 1) * len(pair)))[None].float()

    def _draw(self, nodes: Tensor, batch: TrialBatch, generator: torch.Generator) -> Tensor:
        """(M, h, w) log-density on nodes -> (M, 2) px, from the density that the nodes are interpolated to."""
        h, w = nodes.shape[-2:]
        # On a grid as fine as matters for where a fixation lands, a cell of which is then hit evenly.
        finer = max(1, self.cell_px // _DRAWN_PX)
        fine = (h - 1) * finer + 1, (w - 1) * finer + 1
        return draw_on_nodes(at_nodes(nodes[:, None], fine)[:, 0], batch.size_wh_px, generator)

    def takes_notice_of(self, search: SearchTask) -> bool:
        if self.goal == "image":
            return search.template is not None
        return self.goal != "none"

    # Training

    def on_fit_start(self) -> None:
        # A checkpoint may have brought other means and SDs of the channels.
        self._seen.clear()

    def prepare_fit(
        self, batches: Iterable[TrialBatch], fixations: pd.DataFrame, stimuli: pd.DataFrame, card: str
    ) -> None:
        self.train_stimuli, self.train_dataset = stimuli["stimulus"].tolist(), card
        self._seen.clear()
        px_per_dva, size_wh_px = self.measure_channels(batches)
        self.log_prior.copy_(log_fixation_prior(fixations, stimuli, _PRIOR_SIGMA_DVA * px_per_dva / size_wh_px[0]))
        first = fixations[fixations["fixation"] == 0]
        size = stimuli.set_index("stimulus").loc[first["stimulus"], ["width_px", "height_px"]].to_numpy(float)
        relative = torch.from_numpy(first[["x_px", "y_px"]].to_numpy(float) / size - 0.5)
        offset = relative * torch.tensor(size_wh_px) / px_per_dva
        if len(offset) > 1:
            self.start.copy_(torch.cat([offset.mean(0), offset.std(0).clamp(min=0.5)]))

    def training_step(self, batch: TrialBatch, batch_idx: int) -> Tensor:
        features = self.features_of(batch)
        half = len(features) // 2
        generators = [
            torch.Generator().manual_seed(seed_of(self.hparams["seed"], self.current_epoch, name))
            for name in batch.stimulus
        ]
        mirror = torch.stack([torch.rand((), generator=g) < 0.5 for g in generators])
        share = self.hparams["dropout"]
        keep = torch.stack([(torch.rand(self.see.in_features, generator=g) >= share).float() for g in generators])
        keep = (keep / (1.0 - share)).to(batch.device)
        trial, step = self._chosen(batch, generators)
        mirror_there = mirror.to(batch.device)
        maps = [
            torch.where(mirror_there[:, None, None, None], b, a)
            for a, b in zip(features[:half], features[half:], strict=True)
        ]
        goals = self._goals(batch, mirror)
        noise = [generators[row] for row in goals.stimulus.tolist()]
        # Features from the cache come again in every epoch; images are encoded anew.
        cells = self._cells(maps, goals) if batch.features is None else self._kept_cells(batch, maps, goals)
        scene, weights = self._scene(batch, cells, goals, keep, noise)
        stimulus = batch.stimulus_of_trial[trial]
        xy = batch.xy_px / batch.working_px_per_dva
        flipped = torch.stack([scene.size_dva[0] - xy[..., 0], xy[..., 1]], -1)
        xy = torch.where(mirror_there[batch.stimulus_of_trial, None, None], flipped, xy)
        history = histories(xy, batch.valid)[trial, step]
        noise = [generators[row] for row in stimulus.tolist()]
        z, of_history = self._scores(scene, goals.of_trial[trial], history, noise)
        gain = self._at_fixations(scene, z, xy[trial, step])
        # Every stimulus weighs the same, so the mean over processes is the mean over the batch.
        n = torch.bincount(stimulus, minlength=len(batch.stimulus)).clamp(min=1)
        loss = -(gain / n[stimulus]).sum() / len(batch.stimulus)
        self.log("train/nll_nats_per_node", loss, prog_bar=True, batch_size=len(batch.stimulus))
        if self.finds and (finding := self._finding(scene, goals, batch, mirror_there)) is not None:
            self.log("train/find_nats", finding, batch_size=len(batch.stimulus))
            loss = loss + self.hparams["find_weight"] * finding
        if self.hparams["usage_weight"] and (weights := weights if weights is not None else of_history) is not None:
            loss = loss + self.hparams["usage_weight"] * (_entropy(weights).mean() - _entropy(mean_weights(weights)))
        return loss

    def _finding(self, scene: Scene, goals: _Goals, batch: TrialBatch, mirror: Tensor) -> Tensor | None:
        """Mean over pairs of minus the log-probability of the target's box; None where no pair has one."""
        search = batch.search
        if search is None:
            return None
        # One box per pair: what is looked for in a stimulus has one place.
        n = len(goals.stimulus)
        told = search.has_box & search.present
        box = torch.zeros(n, 4, device=batch.device).index_copy(0, goals.of_trial[told], search.box_px[told])
        has_box = torch.zeros(n, dtype=torch.bool, device=batch.device).index_fill(0, goals.of_trial[told], True)
        left, top, right, bottom = (box / batch.working_px_per_dva).unbind(-1)
        width = scene.size_dva[0]
        flip = mirror[goals.stimulus]
        left, right = torch.where(flip, width - right, left), torch.where(flip, width - left, right)
        x, y = scene.xy_dva.unbind(-1)
        inside = (left[:, None] <= x) & (x < right[:, None]) & (top[:, None] <= y) & (y < bottom[:, None])
        told = has_box & inside.any(1) & goals.known
        if not told.any():
            return None
        assert isinstance(self.decoder, CellDecoder)
        log_p = self.decoder.target_log_probability(scene)[told]
        nats: Tensor = -log_p.masked_fill(~inside[told], -torch.inf).logsumexp(-1).mean()
        return nats

    def _at_fixations(self, scene: Scene, z: Tensor, xy_dva: Tensor) -> Tensor:
        """(M, N) unnormalised log-density and (M, 2) positions -> (M,) log-density there, interpolated."""
        h, w = scene.hw
        log_area = node_areas(scene.prior.view(h, w)).log().flatten()
        log_density = (z - (z + log_area).logsumexp(-1, keepdim=True)).view(-1, 1, h, w)
        # From the outermost nodes at -1 and 1.
        place = (xy_dva - scene.xy_dva[0]) / (scene.xy_dva[-1] - scene.xy_dva[0]) * 2.0 - 1.0
        place = place.clamp(-1.0, 1.0).view(-1, 1, 1, 2)
        return F.grid_sample(log_density, place, mode="bilinear", align_corners=True)[:, 0, 0, 0]

    def _chosen(self, batch: TrialBatch, generators: list[torch.Generator]) -> tuple[Tensor, Tensor]:
        """The scored fixations of this step, as (trial, step)."""
        scored = self.scored(batch)
        chosen = []
        for row, generator in enumerate(generators):
            of_stimulus = (scored & (batch.stimulus_of_trial == row)[:, None]).nonzero()
            order = torch.randperm(len(of_stimulus), generator=generator)[: self.hparams["fixations_per_stimulus"]]
            chosen.append(of_stimulus[order.to(of_stimulus.device)])
        trial, step = torch.cat(chosen).unbind(-1)
        return trial, step

    def scored(self, batch: TrialBatch) -> Tensor:
        """As for other models; positions outside the stimulus are history only."""
        size = torch.tensor(batch.size_wh_px, device=batch.device)
        return super().scored(batch) & ((batch.xy_px >= 0) & (batch.xy_px < size)).all(-1)

    @torch.no_grad()
    def gain_over_prior(self, batch: TrialBatch) -> Tensor:
        """(S,) bits per fixation over the density of people's fixations on the training images, on the nodes.

        NaN for a stimulus without a scored fixation.
        """
        scene, _, goals = self.scene(batch)
        trial, step = self.scored(batch).nonzero(as_tuple=True)
        xy = batch.xy_px / batch.working_px_per_dva
        history = histories(xy, batch.valid)[trial, step]
        nodes = self.node_log_density(scene, goals.of_trial[trial], history).flatten(1)
        prior = scene.prior[None].expand(len(trial), -1)
        gain = self._at_fixations(scene, nodes, xy[trial, step]) - self._at_fixations(scene, prior, xy[trial, step])
        stimulus = batch.stimulus_of_trial[trial]
        total = gain.new_zeros(len(batch.stimulus)).index_add(0, stimulus, gain)
        return total / torch.bincount(stimulus, minlength=len(batch.stimulus)) / math.log(2.0)

    def validation_step(self, batch: TrialBatch, batch_idx: int) -> None:
        """The gain over the training images' prior, quick enough to be asked after each epoch."""
        gain = self.gain_over_prior(batch)
        # Stimuli without a scored fixation count for nothing; every process takes part in the mean.
        n = int((~gain.isnan()).sum())
        self.log("val/gain_over_prior_bits", gain.nansum() / max(1, n), batch_size=n, sync_dist=True)

    def configure_optimizers(self) -> Any:
        trained = [(name, p) for name, p in self.named_parameters() if p.requires_grad]
        decayed = [p for name, p in trained if p.ndim > 1 and not name.endswith("codes")]
        rest = [p for name, p in trained if p.ndim <= 1 or name.endswith("codes")]
        groups = [
            {"params": decayed, "weight_decay": self.hparams["weight_decay"]},
            {"params": rest, "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups, lr=self.hparams["lr"])
        return warmup_cosine(optimizer, int(self.trainer.estimated_stepping_batches), self.hparams["warmup"])


def mean_weights(weights: Tensor) -> Tensor:
    """(..., K) -> (K,) over all samples."""
    return weights.flatten(0, -2).mean(0)


def _entropy(weights: Tensor) -> Tensor:
    """(..., K) -> (...) nats."""
    return -(weights * weights.clamp(min=1e-9).log()).sum(-1)


def _at_every(maps: Tensor, step: int, pool: Any) -> Tensor:
    """Maps at every `step`-th node, pooled over the nodes around it."""
    if step == 1:
        return maps
    extra = {"count_include_pad": False} if pool is F.avg_pool2d else {}
    found: Tensor = pool(maps, step + 1, step, step // 2, **extra)
    return found


def _as_words(name: str) -> str:
    return name.replace("_", " ")
