"""What a foveated image is to be good for: differentiable tasks whose loss says how well it still serves.

A task sees square RGB images in [0, 1] of its own size. From the sharp image it makes a target once; the loss compares
what the network makes of the foveated image with that. Any network and loss will do: subclass :class:`FoveaTask`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gazekit.backbones.pyramid import Backbone


class FoveaTask(nn.Module, ABC):
    """A frozen network with a loss per image, in evaluation mode whatever is asked of it.

    Args:
        size_px: Side of the square images that the network takes.

    """

    def __init__(self, size_px: int) -> None:
        super().__init__()
        self.size_px = size_px

    def train(self, mode: bool = True) -> FoveaTask:
        # Batch statistics and dropout would make the loss depend on the other images of a batch.
        del mode
        return super().train(False)

    @abstractmethod
    def target(self, image: Tensor) -> Tensor:
        """(S, 3, h, w) sharp images in [0, 1] -> (S, ...) what :meth:`loss` compares with."""

    @abstractmethod
    def loss(self, seen: Tensor, target: Tensor) -> Tensor:
        """(B, 3, h, w) foveated images and (B, ...) targets -> (B,) losses, each of its own image alone."""


class Classification(FoveaTask):
    """Cross-entropy of the network's answer with the class that it sees in the sharp image.

    Args:
        network: (B, 3, h, w) normalised images -> (B, classes) logits.
        mean: Of the normalisation, one per channel.
        std: As `mean`.
        size_px: Side of the network's input.

    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, mean: Sequence[float], std: Sequence[float], size_px: int = 224) -> None:
        super().__init__(size_px)
        # Twice as fast as NCHW on a CPU, and what tensor cores want.
        self.network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)
        self.requires_grad_(False).eval()

    def logits(self, image: Tensor) -> Tensor:
        """(B, 3, h, w) RGB in [0, 1] -> (B, classes)."""
        x = ((image - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        logits: Tensor = self.network(x)
        return logits

    def target(self, image: Tensor) -> Tensor:
        return self.logits(image).argmax(-1)

    def loss(self, seen: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(self.logits(seen).float(), target, reduction="none")


class FeatureReconstruction(FoveaTask):
    """Squared distance of a backbone's features from those of the sharp image, relative to the latter's square.

    Every tap counts the same, whatever its number of values: 0 is a perfect reconstruction, 1 is as far as no features
    at all.
    """

    def __init__(self, backbone: Backbone, size_px: int = 224) -> None:
        super().__init__(size_px)
        self.backbone = backbone
        self.requires_grad_(False).eval()

    def _features(self, image: Tensor) -> list[Tensor]:
        return [features.flatten(1).float() for features in self.backbone(image)]

    def target(self, image: Tensor) -> Tensor:
        # One tensor for all taps, so that a target is picked by its row.
        return torch.cat(self._features(image), 1)

    def loss(self, seen: Tensor, target: Tensor) -> Tensor:
        found = self._features(seen)
        wanted = target.split([f.shape[1] for f in found], 1)
        # A dead layer has no square to be relative to; nothing then is lost either.
        far = [(f - w).square().sum(1) / w.square().sum(1).clamp(min=1e-12) for f, w in zip(found, wanted, strict=True)]
        return torch.stack(far).mean(0)


class Reconstruction(FoveaTask):
    """Mean squared distance of the image that the network makes from the sharp image.

    Args:
        network: (B, 3, h, w) images in [0, 1] -> the same shape, such as an autoencoder; None takes the image as it is
            seen, so that the eye goes where blur takes away most.
        size_px: Side of the images.

    """

    def __init__(self, network: nn.Module | None = None, size_px: int = 224) -> None:
        super().__init__(size_px)
        self.network = nn.Identity() if network is None else network
        self.requires_grad_(False).eval()

    def target(self, image: Tensor) -> Tensor:
        return image

    def loss(self, seen: Tensor, target: Tensor) -> Tensor:
        made: Tensor = self.network(seen).float()
        return (made - target).square().flatten(1).mean(1)


class Similarity(FoveaTask):
    """One minus the cosine between an embedding of the image and a target embedding, which need not be of an image.

    Args:
        tower: (B, 3, h, w) images in [0, 1] -> (B, D) embeddings.
        size_px: Side of the images.

    """

    def __init__(self, tower: nn.Module, size_px: int = 224) -> None:
        super().__init__(size_px)
        self.tower = tower
        self.requires_grad_(False).eval()

    def target(self, image: Tensor) -> Tensor:
        embedding: Tensor = self.tower(image).float()
        return embedding

    def loss(self, seen: Tensor, target: Tensor) -> Tensor:
        return 1.0 - F.cosine_similarity(self.tower(seen).float(), target, dim=-1)
