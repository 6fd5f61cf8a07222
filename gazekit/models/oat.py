"""OAT, the object-level attention transformer: which object a searcher looks at next, and when the search ends.

A scanpath is a sequence of objects (covers in a collage, packages on a shelf, cells of a grid on a photograph). The
network points at one after the other, and at the target's own token to stop. (Object-level attention transformer,
ECCV 2024, and its repository; see docs/search_models.md for what is resolved differently, and why.)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gazekit.backbones import Backbone, WeightsSource, create_backbone
from gazekit.batch import ObjectLayout, Scanpaths, SearchTask, TrialBatch
from gazekit.errors import InputError
from gazekit.kernels.gate import Gate
from gazekit.models.arguments import check_positive, check_share, check_whole, whole_pair
from gazekit.models.base import GazeModel, constructor_arguments, marginal_generator, seed_of
from gazekit.models.oat_network import CROP_HW_PX, SMALLEST_CROP_PX, Layouts, OatNetwork, ObjectCNN
from gazekit.models.object_maps import (
    density_over_pixels,
    draws_of_points,
    layout_of,
    points_on_objects,
    target_objects,
    territories,
)
from gazekit.proposals import Proposals
from gazekit.registry import unknown_name

Appearance = Literal["cnn", "backbone", "id", "none"]
PixelScale = Literal["unit", "bgr255", "minmax"]
Special = Literal["learned", "ones"]
_IGNORED = -100
# Trials of like length that are decoded at once.
_TOGETHER = 8


@dataclass(frozen=True)
class _Scene:
    """Everything that does not depend on a path: layouts, which of them each of B trials has, and the objects."""

    layouts: Layouts
    layout_of_trial: Tensor
    objects: ObjectLayout

    @property
    def of_trials(self) -> Layouts:
        return self.layouts.of(self.layout_of_trial)


class Oat(GazeModel):
    """Probabilities of the next object given target and history; samples scanpaths that end by themselves.

    What is known of the target is a setting. Its appearance, where there are pictures, which is its own in the very
    scene, or its category's (`categories`); where it lies, before anybody has looked (`target_position`, as published);
    and that it is the target, once it is looked at (`target_flag`, as published).

    Args:
        width: Of tokens; half of it is appearance, half position. 512 as published.
        n_heads: Of attention.
        n_layers: Of encoder and decoder each.
        hidden: Width of the feed-forward layers.
        dropout: Share of activations that training drops.
        appearance: What an object looks like. ``cnn``: the published network on its crop; ``backbone``: a frozen
            shared backbone on its crop; ``id``: learned for each number of an object, where pictures are missing and
            layouts are alike; ``none``: all look the same, so that position and target alone count.
        target_position: The target's token tells where the target is, as published. Otherwise it has no position (nor,
            with ``id``, its number), so that the search is one.
        target_flag: The token of a fixation tells whether its object is the target. Without, and without pictures and
            `target_position`, the model knows nothing of the target.
        categories: Names of targets. Where given, what is known of the target's appearance is a learned vector for its
            category, and not how the target itself looks; a target need not be there.
        special: Appearance of the beginning: ``learned``, or as published that of an image of ``ones``.
        pixel_scale: Of crops. ``unit``: RGB in [0, 1]; as published ``bgr255`` (blue first, 0 to 255) for the covers,
            ``minmax`` (each crop from 0 to 1) for the shelves.
        gate: Of the decoder's attention: ``head``, ``element`` or None; see :mod:`gazekit.kernels.gate`.
        n_places: Rows or columns of the largest grid of objects.
        n_objects: Of the largest layout, for ``id``.
        crop_hw_px: Height and width of crops.
        grid: (columns, rows) of equal cells that are the objects where a batch has none.
        proposals: Objects where a batch has none, in place of `grid`: ``superpixels`` (48 are asked for),
            ``superpixels:60``, ``superpixels:60:20`` with their compactness (10), or ``cells:8x6``; see
            :class:`~gazekit.proposals.Proposals`.
        backbone: Name, for ``backbone``.
        weights: Of the backbone; see :func:`~gazekit.backbones.create_backbone`.
        lr: Of Adam, constant.
        longest: Most fixations of a scanpath; None takes the longest of the training set.
        validation_paths: Sampled per layout, from which validation measures behavior; 0 takes the most probable path,
            as published.
        seed: Of dropout.

    """

    uses_image: bool
    ends_itself: ClassVar[bool] = True
    scored_on_objects: ClassVar[bool] = True
    most: Tensor

    def __init__(
        self,
        width: int = 512,
        n_heads: int = 4,
        n_layers: int = 4,
        hidden: int = 512,
        dropout: float = 0.1,
        appearance: Appearance = "cnn",
        target_position: bool = False,
        target_flag: bool = True,
        categories: Sequence[str] = (),
        special: Special = "learned",
        pixel_scale: PixelScale = "unit",
        gate: Gate | None = None,
        n_places: int = 14,
        n_objects: int = 84,
        crop_hw_px: tuple[int, int] = CROP_HW_PX,
        grid: tuple[int, int] = (8, 6),
        proposals: str | None = None,
        backbone: str = "mobilenetv2_100",
        weights: str | None = "pretrained",
        lr: float = 1e-4,
        longest: int | None = None,
        validation_paths: int = 20,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        for what, value, known in (
            ("appearance of objects", appearance, get_args(Appearance)),
            ("special token", special, get_args(Special)),
            ("pixel scale", pixel_scale, get_args(PixelScale)),
        ):
            if value not in known:
                raise unknown_name(what, value, list(known))
        check_whole("oat", 1, width=width, n_heads=n_heads, n_layers=n_layers, hidden=hidden, n_places=n_places)
        check_whole("oat", 1, n_objects=n_objects, **({} if longest is None else {"longest": longest}))
        check_whole("oat", 0, validation_paths=validation_paths)
        check_share("oat", dropout=dropout)
        check_positive("oat", lr=lr)
        if width % 2 or width % n_heads:
            raise InputError(f"oat: width is {width}, expected a multiple of 2 and of the {n_heads} heads")
        if special == "ones" and appearance != "cnn":
            raise InputError(f"oat: special 'ones' is an image for the cnn, and appearance is {appearance!r}")
        self.appearance, self.special, self.pixel_scale = appearance, special, pixel_scale
        self.target_position, self.target_flag = target_position, target_flag
        self.grid = whole_pair("oat", "grid", grid, 1, "columns and rows")
        smallest = SMALLEST_CROP_PX if appearance == "cnn" else 1
        self.crop_hw_px = whole_pair("oat", "crop_hw_px", crop_hw_px, smallest, "height and width")
        self.proposals = None if proposals is None else Proposals.parse(proposals)
        # Whether objects have looks; superpixels need the picture, too.
        self.looks_at_objects = appearance in ("cnn", "backbone")
        self.uses_image = self.looks_at_objects or (self.proposals is not None and self.proposals.of_pictures)
        self.network = OatNetwork(width, n_heads, n_layers, hidden, dropout, n_places, gate=gate)
        half = self.network.half_width
        if appearance == "cnn":
            self.look: nn.Module = ObjectCNN(half, self.crop_hw_px)
            for parameter in self.look.parameters():
                if parameter.ndim > 1:
                    nn.init.xavier_uniform_(parameter)
        elif appearance == "backbone":
            self.look = _BackboneLook(backbone, weights, half)
        elif appearance == "id":
            self.look = nn.Embedding(n_objects, half)
        else:
            self.look = _Alike(half)
        if special == "learned":
            self.start = nn.Parameter(0.02 * torch.randn(half))
        self.category_of = {name: row for row, name in enumerate(dict.fromkeys(categories))}
        if categories:
            self.know = nn.Embedding(len(self.category_of), half)
        elif appearance in ("id", "none") and not (appearance == "id" and target_position):
            self.wanted = nn.Parameter(0.02 * torch.randn(half))
        self.register_buffer("most", torch.tensor(60 if longest is None else longest))
        self.train_stimuli: list[str] = []
        self.train_dataset = ""

    @classmethod
    def from_checkpoint(cls, checkpoint: dict[str, Any]) -> Oat:
        # The weights are in the checkpoint: nothing is downloaded, and no file is looked for.
        model = cls(**{**constructor_arguments(checkpoint), "weights": None})
        model.train_stimuli, model.train_dataset = checkpoint["train_stimuli"], checkpoint["train_dataset"]
        if model.backbone is not None:
            model.backbone.source = WeightsSource(**checkpoint["backbone_source"])
        return model

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["train_stimuli"], checkpoint["train_dataset"] = self.train_stimuli, self.train_dataset
        if self.backbone is not None:
            checkpoint["backbone_source"] = self.backbone.source.as_dict()

    @property
    def backbone(self) -> Backbone | None:
        """The frozen backbone behind the appearance, where there is one."""
        return self.look.backbone if isinstance(self.look, _BackboneLook) else None

    def provenance(self) -> dict[str, Any]:
        about = {
            "appearance": self.appearance,
            "target_position": self.target_position,
            "target_flag": self.target_flag,
            "train_dataset": self.train_dataset,
            "train_stimuli": self.train_stimuli,
        }
        if self.category_of:
            about["categories"] = list(self.category_of)
        if self.backbone is not None:
            about |= {"backbone": self.backbone.name, "weights": str(self.backbone.source)}
        return about

    # What is there before anybody looks

    def takes_notice_of(self, search: SearchTask) -> bool:
        # Told by name, where the model was built for names; else by its looks.
        return bool(self.category_of) or (self.looks_at_objects and search.template is not None)

    def objects_of(self, batch: TrialBatch) -> ObjectLayout:
        """The objects of the batch, or what stands for them."""
        return layout_of(batch, self.grid, self.proposals)

    def scene(self, batch: TrialBatch) -> _Scene:
        """Encoded layouts: each arrangement with its target once, however many subjects looked.

        Raises:
            InputError: There are no pictures though the model looks at them, no target or an unknown category where one
                is needed, or more objects than the model knows.

        """
        objects = self.objects_of(batch)
        self._check_places(objects)
        target = target_objects(batch, objects)
        template = torch.full_like(target, -1)
        if batch.search is not None:
            template = batch.search.template_of_trial.where(target < 0, template)
        category = self._categories(batch)
        keys = torch.stack([batch.stimulus_of_trial, target, template, category], 1)
        distinct, layout_of_trial = keys.unique(dim=0, return_inverse=True)
        stimulus, target, template, category = distinct.unbind(1)
        looks = self._looks(batch, objects)[stimulus]
        place, there = objects.place[stimulus], objects.there[stimulus]
        known = target >= 0
        row = torch.arange(len(stimulus), device=batch.device)
        at = target.clamp(min=0)
        nowhere = torch.full_like(place[row, at], self.network.nowhere)
        tells = known & self.target_position
        own_place = place[row, at].where(tells[:, None], nowhere)
        if self.category_of:
            of_target = self.know(category)
        else:
            of_target = self._target_look(batch, looks[row, at], known, template)
        n = there.shape[1]
        not_target = torch.zeros(len(stimulus), n, dtype=torch.bool, device=batch.device)
        yes = torch.ones(len(stimulus), 1, dtype=torch.bool, device=batch.device)
        tokens = torch.cat(
            [
                self.network.tokens(looks, place, not_target),
                self.network.tokens(of_target[:, None], own_place[:, None], yes),
            ],
            1,
        )
        is_target = (torch.arange(n, device=batch.device) == target[:, None]) & self.target_flag
        looked = self.network.tokens(looks, place, is_target)
        # Paths begin in the middle of the arrangement.
        middle = (place.masked_fill(~there[..., None], 0).amax(1) + 1) // 2
        start = self.network.tokens(self._start_look(len(stimulus), batch), middle, ~yes[:, 0])
        layouts = self.network.encode(tokens, torch.cat([there, yes], 1), looked, start)
        return _Scene(layouts, layout_of_trial, objects)

    def _check_places(self, objects: ObjectLayout) -> None:
        most = int(objects.place.max()) if objects.place.numel() else 0
        if most >= self.network.nowhere:
            raise InputError(
                f"oat: objects stand in {most + 1} rows or columns, and the model knows {self.network.nowhere}; build "
                f"it with n_places={most + 1} or more"
            )
        if isinstance(self.look, nn.Embedding) and objects.there.shape[1] > self.look.num_embeddings:
            raise InputError(
                f"oat: a layout has {objects.there.shape[1]} objects, and the model has learned "
                f"{self.look.num_embeddings}; build it with n_objects={objects.there.shape[1]} or more"
            )

    def _categories(self, batch: TrialBatch) -> Tensor:
        """(B,) row of the category that each trial searched for; -1 where the model is not told categories."""
        if not self.category_of:
            return torch.full_like(batch.stimulus_of_trial, -1)
        if batch.search is None:
            raise InputError("oat: the model was built for targets of some categories, and the trials are no searches")
        for name in dict.fromkeys(batch.search.target):
            if name not in self.category_of:
                raise unknown_name("category that oat was built for", name, list(self.category_of))
        return torch.tensor([self.category_of[name] for name in batch.search.target], device=batch.device)

    def _looks(self, batch: TrialBatch, objects: ObjectLayout) -> Tensor:
        """(S, N, A) appearance of every object."""
        if not self.looks_at_objects:
            numbers = torch.arange(objects.there.shape[1], device=batch.device)
            looks: Tensor = self.look(numbers)
            return looks.expand(len(batch.stimulus), -1, -1)
        if batch.image is None:
            raise InputError(
                f"oat: appearance {self.appearance!r} is of pictures, and there are none; where a dataset comes "
                f"without, take appearance 'id' or 'none'"
            )
        crops: Tensor = self.look(self._scaled(crops_of(batch.image, objects.box_px, self.crop_hw_px)))
        return crops

    def _target_look(self, batch: TrialBatch, as_object: Tensor, known: Tensor, template: Tensor) -> Tensor:
        """(U, A) appearance of what is searched for: its own, that of its template, or that of anything wanted.

        Its own is that of the object in the middle of its box, so that more is told than a word for it would say.
        """
        if not self.looks_at_objects:
            if self.appearance == "id" and self.target_position:
                return as_object * known[:, None]
            return self.wanted.expand(len(known), -1)
        if bool(known.all()):
            return as_object
        if batch.search is None or batch.search.template is None or bool((template[~known] < 0).any()):
            raise InputError(
                "oat: some trials have neither the box of their target nor a picture of it, as where it is absent; "
                "build the model with categories: [...] or with appearance 'none', or leave such trials out"
            )
        shown = F.interpolate(batch.search.template, self.crop_hw_px, mode="bilinear", align_corners=False)
        of_template: Tensor = self.look(self._scaled(shown))
        return torch.where(known[:, None], as_object, of_template[template.clamp(min=0)])

    def _start_look(self, n: int, batch: TrialBatch) -> Tensor:
        if self.special == "learned":
            return self.start.expand(n, -1)
        ones: Tensor = self.look(self.network.code.new_ones(1, 3, *self.crop_hw_px))
        return ones.expand(n, -1)

    def _scaled(self, crops: Tensor) -> Tensor:
        crops = crops.to(self.network.code.dtype)
        if self.pixel_scale == "bgr255":
            return crops.flip(-3) * 255.0
        if self.pixel_scale == "minmax":
            low, high = crops.amin((-3, -2, -1), keepdim=True), crops.amax((-3, -2, -1), keepdim=True)
            return (crops - low) / (high - low).clamp(min=1e-6)
        return crops

    # Paths

    def walk(
        self, batch: TrialBatch, n: int, length: int, generator: torch.Generator | None, scene: _Scene | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """N paths per trial as objects, all decoded side by side.

        Args:
            batch: Trials; their fixations are not looked at.
            n: Paths per trial.
            length: Most fixations; the longest path of the training set is another limit.
            generator: Draws each choice; None takes the most probable.
            scene: From :meth:`scene`, if it is there already.

        Returns:
            (B, n, T) objects, (B, n, T) bool, and (B, n, T, N + 2) log-probabilities, T the smaller limit.

        """
        with torch.no_grad():
            scene = self.scene(batch) if scene is None else scene
        length = min(length, int(self.most))
        uniform = None
        if generator is not None:
            uniform = torch.rand(len(batch), n, length, generator=generator, dtype=torch.float64)
        return self.network.walk(scene.of_trials, length, uniform, n)

    @torch.no_grad()
    def sample(self, batch: TrialBatch, n: int, length: int, generator: torch.Generator) -> Scanpaths:
        scene = self.scene(batch)
        objects, valid, _ = self.walk(batch, n, length, generator, scene)
        uniform = draws_of_points(tuple(objects.shape), generator)
        xy = points_on_objects(objects, batch.stimulus_of_trial, scene.objects, uniform, batch)
        short = length - objects.shape[2]
        return Scanpaths(F.pad(xy, (0, 0, 0, short)), F.pad(valid, (0, short)))

    # Densities

    @torch.no_grad()
    def conditional_log_density(self, batch: TrialBatch) -> Tensor:
        """(B, T, H, W) before each fixation, given that there is one more; looks spread over an object's box."""
        scene = self.scene(batch)
        scores = self.teacher_forced(batch, scene)[0][:, :-1]
        scene_objects = scene.objects
        log_p = scores[..., : scene_objects.there.shape[1]].float().log_softmax(-1)
        width, height = batch.size_wh_px
        maps = torch.empty(*batch.valid.shape, height, width, device=batch.device)
        for s, territory in enumerate(territories(scene_objects, batch.size_wh_px)):
            for row in (batch.stimulus_of_trial == s).nonzero()[:, 0].tolist():
                maps[row] = density_over_pixels(log_p[row], territory)
        return maps

    @torch.no_grad()
    def log_density(self, batch: TrialBatch) -> Tensor:
        """(B, H, W) where sampled scanpaths look: the mean of the probabilities of their fixations."""
        scene = self.scene(batch)
        maps: dict[int, Tensor] = {}
        of_trial = scene.layout_of_trial.tolist()
        for which, trial in {layout: trial for trial, layout in reversed(list(enumerate(of_trial)))}.items():
            row = int(batch.stimulus_of_trial[trial])
            one = batch.trials(trial, trial + 1).stimulus_alone(row)
            # A scene of its own: no number may depend on what else is in the batch.
            alone = self.scene(one)
            _, valid, log_p = self.walk(one, self.marginal_paths, self.marginal_length, marginal_generator(one), alone)
            n = log_p.shape[-1] - 2
            seen = log_p[..., :n][valid].double().log_softmax(-1).exp().mean(0)
            territory = territories(alone.objects, one.size_wh_px)[0]
            maps[which] = density_over_pixels(seen.log().float(), territory)
        if not maps:
            return torch.empty(0, *batch.size_wh_px[::-1], device=batch.device)
        if len(maps) == 1:
            # Seen through a stride of 0, which the metrics recognise.
            return next(iter(maps.values())).expand(len(batch), -1, -1)
        return torch.stack([maps[layout] for layout in of_trial])

    # Training

    def prepare_fit(
        self, batches: Iterable[TrialBatch], fixations: pd.DataFrame, stimuli: pd.DataFrame, card: str
    ) -> None:
        self.train_stimuli, self.train_dataset = stimuli["stimulus"].tolist(), card
        if self.hparams["longest"] is None:
            self.most.fill_(int(fixations.groupby("trial").size().max()))

    def teacher_forced(self, batch: TrialBatch, scene: _Scene | None = None) -> tuple[Tensor, Tensor]:
        """Scores given what people looked at, and what they looked at next; `scene` if it is there already.

        Returns:
            (B, T + 1, N + 2) scores of every object, of the end (index N) and of padding; and (B, T + 1) long, the
            truth, the end after the last fixation, -100 where there is nothing to predict.

        """
        scene = self.scene(batch) if scene is None else scene
        looked = scene.objects.under(batch.xy_px, batch.stimulus_of_trial)
        n_steps = batch.valid.sum(1)
        scores = self._decoded(scene, looked.masked_fill(~batch.valid, 0), n_steps)
        end = scene.layouts.n_objects
        truth = F.pad(looked.masked_fill(~batch.valid, _IGNORED), (0, 1), value=_IGNORED)
        truth = truth.scatter(1, n_steps[:, None], torch.full_like(n_steps, end)[:, None])
        return scores, truth.masked_fill(n_steps[:, None] == 0, _IGNORED)

    def _decoded(self, scene: _Scene, looked: Tensor, n_steps: Tensor) -> Tensor:
        """(B, T + 1, N + 2) scores, of trials of like length together: a few are several times as long as most."""
        order = n_steps.argsort(stable=True)
        # Without trials there are scores of none.
        parts = [scene.layouts.start.new_zeros(0, looked.shape[1] + 1, scene.layouts.n_objects + 2)]
        for rows in order.split(_TOGETHER) if len(order) else ():
            longest = int(n_steps[rows].max())
            part = self.network.decode(scene.layouts.of(scene.layout_of_trial[rows]), looked[rows, :longest])
            parts.append(F.pad(part, (0, 0, 0, looked.shape[1] - longest)))
        return torch.cat(parts)[order.argsort()]

    def training_step(self, batch: TrialBatch, batch_idx: int) -> Tensor:
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            # The same units rest whether or not the run was broken off before.
            torch.manual_seed(seed_of(self.hparams["seed"], self.current_epoch, batch_idx))
            scores, truth = self.teacher_forced(batch)
        total = F.cross_entropy(scores.flatten(0, 1), truth.flatten(), ignore_index=_IGNORED, reduction="sum")
        # Where nobody looked at anything there is nothing to learn.
        loss = total / (truth != _IGNORED).sum().clamp(min=1)
        self.log("train/nll_nats", loss, prog_bar=True, batch_size=len(batch))
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam([p for p in self.parameters() if p.requires_grad], lr=self.hparams["lr"])


class _BackboneLook(nn.Module):
    """Mean of a frozen backbone's deepest map, and a learned projection."""

    def __init__(self, name: str, weights: str | None, width: int) -> None:
        super().__init__()
        self.backbone = create_backbone(name, weights, taps=(32,))
        self.project = nn.Linear(self.backbone.channels[0], width)

    def forward(self, crops: Tensor) -> Tensor:
        with torch.no_grad():
            (features,) = self.backbone(crops.flatten(0, -4))
        out: Tensor = self.project(features.mean((2, 3)))
        return out.view(*crops.shape[:-3], -1)


class _Alike(nn.Module):
    """One learned appearance for everything."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.any = nn.Parameter(0.02 * torch.randn(width))

    def forward(self, numbers: Tensor) -> Tensor:
        return self.any.expand(len(numbers), -1)


def crops_of(image: Tensor, box_px: Tensor, size_hw_px: tuple[int, int]) -> Tensor:
    """(S, 3, H, W) pictures, (S, N, 4) boxes -> (S, N, 3, h, w), each box scaled bilinearly to one size."""
    h, w = size_hw_px
    height, width = image.shape[-2:]
    y, x = ((torch.arange(n, device=image.device) + 0.5) / n for n in (h, w))
    left, top, right, bottom = box_px[..., None].unbind(-2)
    at_x = 2.0 * (left + x * (right - left)) / width - 1.0
    at_y = 2.0 * (top + y * (bottom - top)) / height - 1.0
    points = torch.stack(
        [at_x[:, :, None].expand(-1, -1, h, -1), at_y[..., None].expand(-1, -1, -1, w)], -1
    )  # (S, N, h, w, 2)
    taken = F.grid_sample(image, points.flatten(1, 2), mode="bilinear", padding_mode="border", align_corners=False)
    crops: Tensor = taken.unflatten(2, (box_px.shape[1], h)).transpose(1, 2)
    return crops
