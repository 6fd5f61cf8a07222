"""NevaClip: scanpaths of an eye that moves its fovea until the foveated image says what a caption says.

Zanca et al. (2023), Contrastive Language-Image Pretrained Models are Zero-Shot Human Scanpath Predictors,
arXiv:2305.12380. NeVA with CLIP's image tower as the network and a caption's embedding as the target; none is trained.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from gazekit.backbones.clip import Clip, create_clip
from gazekit.batch import Scanpaths, TrialBatch
from gazekit.models.base import seed_of
from gazekit.models.fovea_tasks import Similarity
from gazekit.models.neva import Neva
from gazekit.models.square_frame import Fit


class NevaClip(Neva):
    """Scanpaths that a caption guides; a trial without one is guided by the image's own embedding.

    Whose caption that is, the subject's own or another one, is a matter of the data that are served: see
    :func:`gazekit.datasets.captions.with_captions_of`.

    Args:
        clip: open_clip's name of a model, or a configuration in its format; see
            :func:`~gazekit.backbones.clip.create_clip`.
        weights: As there.
        caption: What is said about every image, in place of the captions of the data.
        bottom_up: Begin with the image's embedding as the target and turn to the caption along the path: fixation k
            of L has ``(k / L)^2`` of the caption.
        fovea: As for :class:`~gazekit.models.neva.Neva`; the default is the published one, width 0.2 and retention 0.
        search: As there, and so are the following.
        fit: ``squash`` or ``crop``.
        start: ``center`` or ``previous``.
        rng: ``path`` or ``global``.
        images_at_once: Images in one network call.
        dtype: ``float32`` or ``bfloat16``.
        compile: Compile the image tower.

    """

    default_fovea: ClassVar[Mapping[str, Any]] = {"width": 0.2, "retention": 0.0}

    def __init__(
        self,
        clip: str | dict[str, Any] = "RN50-quickgelu",
        weights: str | None = "openai",
        caption: str | None = None,
        bottom_up: bool = False,
        fovea: dict[str, Any] | None = None,
        search: dict[str, Any] | None = None,
        fit: Fit = "squash",
        start: Literal["center", "previous"] = "center",
        rng: Literal["path", "global"] = "path",
        images_at_once: int = 64,
        dtype: Literal["float32", "bfloat16"] = "float32",
        compile: bool = False,
    ) -> None:
        super(Neva, self).__init__()
        self.save_hyperparameters()
        self._configure(fovea, search, fit, start, rng, images_at_once, dtype, compile)
        self.caption, self.bottom_up = caption, bottom_up
        tower = create_clip(clip, weights)
        self.source = tower.source
        self.task = Similarity(tower, tower.size_px)
        self._text: dict[str, Tensor] = {}
        self.eval()

    @property
    def clip(self) -> Clip:
        tower = self.task.tower
        assert isinstance(tower, Clip)
        return tower

    def embed(self, captions: list[str]) -> Tensor:
        """Captions -> (len(captions), D) embeddings; each caption is encoded once, however often it comes."""
        new = [caption for caption in dict.fromkeys(captions) if caption not in self._text]
        if new:
            self._text.update(zip(new, self.clip.encode_text(new), strict=True))
        return torch.stack([self._text[caption] for caption in captions]).to(self.clip.mean.device)

    def targets(self, shown: Tensor, batch: TrialBatch) -> tuple[Tensor, Tensor | None, Tensor, list[int]]:
        rows = batch.stimulus_of_trial.tolist()
        said = [self.caption] * len(rows) if self.caption is not None else list(batch.caption or [""] * len(rows))
        goals = list(dict.fromkeys(zip(rows, said, strict=True)))
        bottom_up = self.bottom_up and any(caption for _, caption in goals)
        needs_image = bottom_up or not all(caption for _, caption in goals)
        image = self.task.target(shown) if needs_image else None
        spoken = self.embed([caption for _, caption in goals if caption]) if any(c for _, c in goals) else None
        found, place = [], 0
        for row, caption in goals:
            if caption:
                assert spoken is not None
                found.append(spoken[place])
                place += 1
            else:
                assert image is not None
                found.append(image[row])
        image_of_goal = torch.tensor([row for row, _ in goals])
        early = None if image is None or not bottom_up else image[image_of_goal.to(image.device)]
        goal_of = {goal: i for i, goal in enumerate(goals)}
        return torch.stack(found), early, image_of_goal, [goal_of[key] for key in zip(rows, said, strict=True)]

    def predict_step(self, batch: TrialBatch, batch_idx: int) -> Scanpaths:
        """Scanpaths of each stimulus: `predict_paths` for each of its trials that has a caption of its own.

        Trials of one stimulus follow each other; a stimulus with fewer trials than another is padded. Without captions,
        or with one for all, as many for each stimulus as for any other model.
        """
        if batch.caption is None or self.caption is not None:
            return super().predict_step(batch, batch_idx)
        generator = torch.Generator().manual_seed(seed_of("predict"))
        made = self.sample(batch, self.predict_paths, self.predict_length, generator)
        rows = [(batch.stimulus_of_trial == row).nonzero()[:, 0] for row in range(len(batch.stimulus))]
        most = max(1, max(len(trials) for trials in rows)) * self.predict_paths
        xy = made.xy_px.new_zeros(len(rows), most, self.predict_length, 2)
        valid = torch.zeros(xy.shape[:-1], dtype=torch.bool, device=xy.device)
        for row, trials in enumerate(rows):
            n = len(trials) * self.predict_paths
            xy[row, :n] = made.xy_px[trials].flatten(0, 1)
            valid[row, :n] = True
        return Scanpaths(xy, valid)
