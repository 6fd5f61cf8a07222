"""What models over a frozen backbone share: where its weights came from, and on what they were trained."""

from __future__ import annotations

from typing import Any, ClassVar, Self

from gazekit.backbones import Backbone, WeightsSource
from gazekit.models.base import GazeModel, constructor_arguments


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
