"""What models over a frozen backbone share: its features, standardised, their origin, and what was trained on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from gazekit.backbones import Backbone, WeightsSource
from gazekit.batch import TrialBatch
from gazekit.models.base import GazeModel, constructor_arguments

# Stimuli from which the channels' means and SDs are measured.
_N_CALIBRATION = 96


class OnFrozenBackbone(GazeModel):
    """A model whose checkpoint brings the backbone's weights, and says where they came from.

    Attributes:
        backbone: Frozen.
        source: Of its weights.
        train_stimuli: Names of the stimuli of the training set.
        train_dataset: Name of its card.

    """

    # Arguments of the constructor that would download or read what is in the checkpoint.
    brought: ClassVar[tuple[str, ...]] = ("weights",)

    backbone: Backbone
    source: WeightsSource
    train_stimuli: list[str]
    train_dataset: str

    @classmethod
    def from_checkpoint(cls, checkpoint: dict[str, Any]) -> Self:
        # The weights are in the checkpoint: nothing is downloaded, and no file is looked for.
        model = cls(**{**constructor_arguments(checkpoint), **dict.fromkeys(cls.brought)})
        model.source = WeightsSource(**checkpoint["backbone_source"])
        model.train_stimuli, model.train_dataset = checkpoint["train_stimuli"], checkpoint["train_dataset"]
        return model

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["backbone_source"] = self.source.as_dict()
        checkpoint["train_stimuli"], checkpoint["train_dataset"] = self.train_stimuli, self.train_dataset

    def provenance(self) -> dict[str, Any]:
        return {
            "backbone": self.backbone.name,
            "weights": str(self.source),
            "train_dataset": self.train_dataset,
            "train_stimuli": self.train_stimuli,
        }

    def expect_channels(self, channels: Sequence[int]) -> None:
        """Keep a mean and an SD for each channel of each map, with the checkpoint."""
        for number, c in enumerate(channels):
            self.register_buffer(f"mean_{number}", torch.zeros(c, 1, 1))
            self.register_buffer(f"sd_{number}", torch.ones(c, 1, 1))

    def standardized(self, values: Tensor, number: int) -> Tensor:
        """(..., C, h, w) map `number` with its channels' means and SDs taken out."""
        scaled: Tensor = (values.float() - getattr(self, f"mean_{number}")) / getattr(self, f"sd_{number}")
        return scaled

    def features_of(self, batch: TrialBatch) -> tuple[Tensor, ...]:
        """The maps of the stimuli, then as many of the mirrored ones: cached, or made now."""
        if batch.features is not None:
            return batch.features
        assert batch.image is not None, "a batch has an image or features"
        with torch.no_grad():
            return self.encode(batch.image)

    @torch.no_grad()
    def measure_channels(self, batches: Iterable[TrialBatch]) -> tuple[float, tuple[int, int]]:
        """Set means and SDs from the first stimuli; returns px per degree and size of the last of them."""
        n = 0
        total: list[Tensor] = []
        squares: list[Tensor] = []
        px_per_dva, size_wh_px = 1.0, (1, 1)
        for batch in islice(batches, _N_CALIBRATION):
            maps = self.features_of(batch)
            maps = maps[: len(maps) // 2]
            sums = [m.double().mean((0, 2, 3)) for m in maps]
            total = [a + b for a, b in zip(total, sums, strict=True)] if n else sums
            sums = [m.double().square().mean((0, 2, 3)) for m in maps]
            squares = [a + b for a, b in zip(squares, sums, strict=True)] if n else sums
            n += 1
            px_per_dva, size_wh_px = batch.working_px_per_dva, batch.size_wh_px
        for number, (t, q) in enumerate(zip(total, squares, strict=True)):
            mean = t / n
            sd = (q / n - mean.square()).clamp(min=0.0).sqrt().clamp(min=0.05)
            getattr(self, f"mean_{number}").copy_(mean[:, None, None])
            getattr(self, f"sd_{number}").copy_(sd[:, None, None])
        return px_per_dva, size_wh_px
