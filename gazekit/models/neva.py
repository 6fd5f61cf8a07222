"""NeVA: scanpaths of an eye that moves its fovea to wherever a frozen network can then do its task best.

Schwinn, Precup, Eskofier & Zanca (2022), Behind the Machine's Gaze: Neural Networks with Biologically-inspired
Constraints Exhibit Human-like Visual Attention, Gaze Meets ML / TMLR. Nothing is trained: each fixation is searched for
on each image. Where the published program does something else than it says, the default here is what it says, and what
it does is an option; docs/neva.md lists both.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from gazekit.backbones import create_backbone
from gazekit.backbones.foveation import Foveation
from gazekit.backbones.pyramid import WeightsSource, create_classifier
from gazekit.batch import Scanpaths, TrialBatch
from gazekit.errors import InputError
from gazekit.models.base import no_scanpaths
from gazekit.models.fovea_search import (
    STRATEGIES,
    Exploration,
    FoveaObjective,
    GlobalDraws,
    PathDraws,
    SearchStrategy,
    SignGradient,
    explore,
)  # fmt: skip
from gazekit.models.fovea_tasks import Classification, FeatureReconstruction, FoveaTask, Reconstruction
from gazekit.models.path_model import PathModel, path_seeds
from gazekit.models.square_frame import Fit, SquareFrame
from gazekit.registry import unknown_name

TASKS = ("classification", "features", "pixels")
# Published parameter sets: arguments for `neva` and `nevaclip`. All fovea widths are of the published formula.
PUBLISHED: dict[str, dict[str, Any]] = {
    "nevaclip": {
        "fovea": {"width": 0.2, "blur_kernel_px": 41, "blur_sigma_px": 10.0, "retention": 0.0},
        "search": {"iterations": 20, "step": 0.1, "restart": "random", "best": "after_step", "clamp": False},
        "fit": "crop", "rng": "global",
    },
    "neva_clip": {
        "fovea": {"width": 0.2, "blur_kernel_px": 41, "blur_sigma_px": 10.0, "retention": 0.7},
        "search": {"iterations": 20, "step": 0.1, "restart": "jitter", "best": "after_step", "clamp": False},
        "fit": "crop", "rng": "global",
    },
    "neva_cifar": {
        "fovea": {"width": 0.15, "blur_kernel_px": 5, "blur_sigma_px": 5.0, "retention": 0.1},
        "search": {"iterations": 20, "step": 0.1, "restart": "jitter", "best": "after_step", "clamp": False},
        "fit": "crop", "rng": "global",
    },
    "fovex": {
        "fovea": {"width": 0.15, "blur_kernel_px": 41, "blur_sigma_px": 10.0, "retention": 0.1},
        "search": {"iterations": 20, "step": 0.1, "restart": "random", "best": "after_step", "clamp": False},
        "fit": "crop", "rng": "global",
    },
}  # fmt: skip


@dataclass(frozen=True)
class FoveaOptions:
    """Fovea, blur and memory of a searching eye.

    Args:
        width: Of the fovea as published: ``exp(-d^2 / width)`` with distances in half image sides, so that its SD is
            ``sqrt(width / 2)`` of a half side. On a picture that is no square the fovea is round and covers the same
            share of it.
        sigma_dva: SD of the fovea in degrees of visual angle; replaces `width` where given.
        blur_sigma_px: SD of the peripheral blur in px of the network's image.
        blur_kernel_px: Taps of the blur per axis, odd.
        retention: Share of memory that a further fixation leaves (published as "forgetting"): 0 remembers the last
            fixation only, so that scanpaths tend to go to and fro; 1 remembers all.

    """

    width: float = 0.2
    sigma_dva: float | None = None
    blur_sigma_px: float = 10.0
    blur_kernel_px: int = 41
    retention: float = 0.0

    def foveation(self, frame: SquareFrame, px_per_dva: float) -> Foveation:
        """For the frame's square.

        Raises:
            InputError: A value is out of range, or degrees are asked for and the geometry is not known.

        """
        if self.sigma_dva is None:
            if not self.width > 0:
                raise InputError(f"fovea.width must be positive, found {self.width}")
            sigma = frame.round_sigma_px((frame.side_px - 1) / 2.0 * math.sqrt(self.width / 2.0))
        else:
            # Says what is missing where the geometry is not known.
            per_px = Foveation.from_dva(self.sigma_dva, 0.0, px_per_dva).sigma_px[0]
            sigma = (per_px * frame.scale()[0], per_px * frame.scale()[1])
        return Foveation(sigma, self.blur_sigma_px, self.blur_kernel_px, self.retention)


class Neva(PathModel):
    """Scanpaths of a fovea that serves a task: classification or reconstruction here, any other task by injection.

    Args:
        task: ``classification``, cross-entropy with the class that the network sees in the sharp image;
            ``features``, distance of the backbone's features from those of the sharp image; ``pixels``, distance of the
            images themselves; or a :class:`~gazekit.models.fovea_tasks.FoveaTask` of your own.
        backbone: Network of the first two tasks, as for :func:`~gazekit.backbones.create_backbone`.
        weights: As there.
        size_px: Side of the network's input.
        fovea: Values of :class:`FoveaOptions` that differ from its own; the default is that of ImageNet classifiers
            (FovEx): width 0.15, retention 0.1.
        search: ``strategy``: ``sign_gradient`` (published) or ``candidates`` (faster), and values of
            :class:`~gazekit.models.fovea_search.SignGradient` or :class:`~gazekit.models.fovea_search.Candidates`.
        fit: ``squash`` shows the network the whole picture; ``crop``, as published, the square in its middle.
        start: Where the search for each fixation begins: ``center``, or the ``previous`` fixation.
        rng: ``path``: a generator per scanpath; ``global``: as published, one for all that are searched together.
        images_at_once: Images in one network call, and scanpaths that are searched together.
        dtype: ``float32``, or ``bfloat16`` for the network alone.
        compile: Compile the network with ``torch.compile``.

    """

    zero_shot: ClassVar[bool] = True
    default_fovea: ClassVar[Mapping[str, Any]] = {"width": 0.15, "retention": 0.1}

    task: FoveaTask
    source: WeightsSource | None = None

    def __init__(
        self,
        task: str | FoveaTask = "classification",
        backbone: str = "mobilenetv2_100",
        weights: str | None = "pretrained",
        size_px: int = 224,
        fovea: dict[str, Any] | None = None,
        search: dict[str, Any] | None = None,
        fit: Fit = "squash",
        start: Literal["center", "previous"] = "center",
        rng: Literal["path", "global"] = "path",
        images_at_once: int = 64,
        dtype: Literal["float32", "bfloat16"] = "float32",
        compile: bool = False,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["task"] if isinstance(task, FoveaTask) else [])
        self._configure(fovea, search, fit, start, rng, images_at_once, dtype, compile)
        if isinstance(task, FoveaTask):
            self.task = task
        elif task == "classification":
            network, mean, std, self.source = create_classifier(backbone, weights)
            self.task = Classification(network, mean, std, size_px)
        elif task == "features":
            pyramid = create_backbone(backbone, weights)
            self.source = pyramid.source
            self.task = FeatureReconstruction(pyramid, size_px)
        elif task == "pixels":
            self.task = Reconstruction(size_px=size_px)
        else:
            raise unknown_name("task", task, list(TASKS), "; or give a FoveaTask")
        self.eval()

    def _configure(
        self, fovea: Mapping[str, Any] | None, search: Mapping[str, Any] | None, fit: Fit, start: str, rng: str,
        images_at_once: int, dtype: str, compile_: bool,
    ) -> None:  # fmt: skip
        for name, value, allowed in (
            ("fit", fit, ("squash", "crop")),
            ("start", start, ("center", "previous")),
            ("rng", rng, ("path", "global")),
            ("dtype", dtype, ("float32", "bfloat16")),
        ):
            if value not in allowed:
                raise InputError(f"{name} is {value!r}, expected one of {list(allowed)}")
        if images_at_once < 1:
            raise InputError(f"images_at_once must be positive, found {images_at_once}")
        self.fovea = _options(FoveaOptions, {**self.default_fovea, **(fovea or {})}, "fovea")
        given = dict(search or {})
        name = given.pop("strategy", "sign_gradient")
        if name not in STRATEGIES:
            raise unknown_name("search strategy", name, list(STRATEGIES))
        self.strategy: SearchStrategy = _options(STRATEGIES[name], given, "search")
        self.fit, self.start, self.rng = fit, start, rng
        self.images_at_once, self.compile_task = images_at_once, compile_
        self.network_dtype = getattr(torch, dtype)
        self._compiled: Callable[[Tensor, Tensor], Tensor] | None = None

    @classmethod
    def from_checkpoint(cls, checkpoint: dict[str, Any]) -> Neva:
        arguments = {k: v for k, v in checkpoint["hyper_parameters"].items() if not k.startswith("_")}
        if "task" in cls.__init__.__annotations__ and "task" not in arguments:
            raise InputError(
                "the checkpoint is of a model with a task of its user's own, which only its program can build"
            )
        # The weights are in the checkpoint: no file or download is needed.
        model = cls(**{**arguments, "weights": None})
        if checkpoint.get("weights_source"):
            model.source = WeightsSource(**checkpoint["weights_source"])
        return model

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["weights_source"] = None if self.source is None else self.source.as_dict()

    def provenance(self) -> dict[str, Any]:
        return {} if self.source is None else {"weights": str(self.source)}

    # Scanpaths

    def targets(self, shown: Tensor, batch: TrialBatch) -> tuple[Tensor, Tensor | None, Tensor, list[int]]:
        """What each trial's image is to be good for.

        Args:
            shown: (S, 3, h, w) the stimuli as the network sees them.
            batch: The trials.

        Returns:
            (G, ...) distinct targets, (G, ...) those of the first fixations or None, (G,) long their rows of `shown`,
            and the goal of each trial.

        """
        return self.task.target(shown), None, torch.arange(len(shown)), batch.stimulus_of_trial.tolist()

    def frame(self, batch: TrialBatch) -> SquareFrame:
        """Between the batch's stimuli and the network's input."""
        return SquareFrame(batch.size_wh_px, self.task.size_px, self.fit)

    def explore(self, batch: TrialBatch, n: int, length: int, generator: torch.Generator) -> Exploration:
        """N scanpaths of `length` fixations per trial, with the losses on the way; (B * n) rows.

        Raises:
            InputError: The batch has no RGB images of at least 2x2 px, or the task's loss is not a number.

        """
        if batch.image is None:
            raise InputError(f"{type(self).__name__} looks at pixels, and the batch has no images")
        # Lightning and the evaluation forbid gradients; the search needs the image's own.
        with torch.inference_mode(False), torch.no_grad():
            frame = self.frame(batch)
            shown = frame.show(batch.image.clone())
            foveation = self.fovea.foveation(frame, batch.px_per_dva)
            target, early, image_of_goal, goals = self.targets(shown, batch)
            goal_of_path = torch.tensor(goals).repeat_interleave(n)
            seeds = path_seeds(batch, n, generator)
            common = GlobalDraws(generator) if self.rng == "global" else None
            parts = []
            for rows in torch.arange(len(goal_of_path)).split(self.images_at_once):
                # Only the images that these scanpaths look at are held and blurred.
                used, own = goal_of_path[rows].unique(return_inverse=True)
                images, image_rows = image_of_goal[used].unique(return_inverse=True)
                objective = FoveaObjective(
                    self._loss(), foveation, shown[images], target[used], image_rows, own,
                    None if early is None else early[used], self.images_at_once, self.network_dtype,
                )  # fmt: skip
                draws = common or PathDraws([seeds[i] for i in rows.tolist()])
                parts.append(explore(objective, self.strategy, length, draws, self.start))  # type: ignore[arg-type]
        return Exploration(
            torch.cat([part.p for part in parts]),
            torch.cat([part.loss for part in parts]),
            torch.cat([part.trace for part in parts]),
            sum(part.n_forward for part in parts),
            sum(part.n_gradient for part in parts),
        )

    def sample(self, batch: TrialBatch, n: int, length: int, generator: torch.Generator) -> Scanpaths:
        if not len(batch):
            return no_scanpaths(batch, n, length)
        found = self.explore(batch, n, length, generator).p
        xy = self.frame(batch).to_picture(found).view(len(batch), n, length, 2)
        if not isinstance(self.strategy, SignGradient) or self.strategy.clamp:
            size = torch.tensor(batch.size_wh_px, dtype=xy.dtype)
            xy = torch.minimum(xy.clamp(min=0.0), torch.nextafter(size, torch.zeros_like(size)))
        paths = Scanpaths(xy, torch.ones(xy.shape[:-1], dtype=torch.bool))
        return paths.to(batch.device)

    @torch.no_grad()
    def views(self, batch: TrialBatch, xy_px: Tensor) -> Tensor:
        """What the network saw at each fixation of one scanpath per trial, memory included.

        Args:
            batch: The trials, with images.
            xy_px: (B, L, 2) fixations in px of the stimuli.

        Returns:
            (B, L, 3, side, side) RGB in [0, 1].

        """
        assert batch.image is not None
        frame = self.frame(batch)
        foveation = self.fovea.foveation(frame, batch.px_per_dva)
        shown = frame.show(batch.image)[batch.stimulus_of_trial]
        residual, memory = foveation.residual(shown), shown.new_zeros(len(shown), 1, *shown.shape[-2:])
        side = (frame.side_px, frame.side_px)
        at = (frame.from_picture(xy_px.to(shown)) + 1.0) / 2.0 * (frame.side_px - 1.0) + 0.5
        seen = []
        for k in range(xy_px.shape[1]):
            fovea = foveation.fovea(at[:, k], side)
            seen.append(foveation.seen(shown, residual, memory, fovea))
            memory = foveation.remember(memory, fovea)
        return torch.stack(seen, 1).clamp(0.0, 1.0)

    def _loss(self) -> Callable[[Tensor, Tensor], Tensor]:
        if not self.compile_task:
            return self.task.loss
        if self._compiled is None:
            # Batches shrink as losses are looked up rather than computed, so sizes are dynamic.
            self._compiled = torch.compile(self.task.loss, dynamic=True)
        return self._compiled


def _options(kind: Any, given: Mapping[str, Any], where: str) -> Any:
    """The dataclass `kind` with the values of `given`; an unknown one is an error that names the nearest."""
    known = [field.name for field in dataclasses.fields(kind)]
    for key in given:
        if key not in known:
            raise unknown_name(f"option of {where}", str(key), known)
    return kind(**given)
