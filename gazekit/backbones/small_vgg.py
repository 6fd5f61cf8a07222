"""A small VGG of five stages, for networks that are trained from scratch here and for the one that ships."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from gazekit.errors import InputError

# Channels per stage, and 3x3 convolutions in each: VGG16 at a tenth of its width, and shallower.
CHANNELS = (16, 32, 64, 96, 128)
CONVOLUTIONS = (1, 1, 2, 2, 2)
# The weights that ship; how they came about and what they are good for stands beside them, in small_vgg.yaml.
SHIPPED = Path(__file__).parent / "weights" / "small_vgg.safetensors"
# What a search taps: the last convolution of the stages with strides 4, 8 and 16, before their pooling.
SEARCH_TAPS = ("stage3.relu2", "stage4.relu2", "stage5.relu2")


class SmallVGG(nn.Module):
    """3x3 convolutions with ReLU in five stages, 2x2 average pooling after each, then a mean over places.

    Modules are named as VGG's layers are: ``stage3.conv2`` is conv3_2, ``stage3.relu2`` its ReLU, ``stage3.pool`` what
    follows it. While it is trained every convolution is followed by batch normalization; :meth:`fold` works
    that into the convolutions, which is the form that weights are stored in.

    Args:
        num_classes: Of the classifier; 0 leaves it out.
        channels: Per stage.
        normalized: With batch normalization, to be trained; else in the folded form.

    """

    def __init__(self, num_classes: int = 0, channels: Sequence[int] = CHANNELS, normalized: bool = False) -> None:
        super().__init__()
        if len(channels) != len(CONVOLUTIONS):
            raise InputError(f"a small VGG has {len(CONVOLUTIONS)} stages, got channels {list(channels)}")
        self.channels, self.normalized = tuple(channels), normalized
        self.stages = range(1, len(channels) + 1)
        before = 3
        for stage, n_channels, n_convolutions in zip(self.stages, channels, CONVOLUTIONS, strict=True):
            layers = nn.Sequential()
            for i in range(1, n_convolutions + 1):
                convolution = nn.Conv2d(before, n_channels, 3, padding=1, bias=not normalized)
                nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
                layers.add_module(f"conv{i}", convolution)
                if normalized:
                    layers.add_module(f"norm{i}", nn.BatchNorm2d(n_channels))
                layers.add_module(f"relu{i}", nn.ReLU())
                before = n_channels
            # As "same" padding of stride 2: an odd side keeps its last row, which is averaged over what is there.
            layers.add_module("pool", nn.AvgPool2d(2, ceil_mode=True, count_include_pad=False))
            self.add_module(f"stage{stage}", layers)
        self.classifier = nn.Linear(before, num_classes) if num_classes else None

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, num_classes) logits, or the last map without a classifier."""
        for stage in self.stages:
            x = getattr(self, f"stage{stage}")(x)
        return x if self.classifier is None else self.classifier(x.mean((-2, -1)))

    @classmethod
    def shaped_like(cls, state: Mapping[str, Tensor]) -> SmallVGG:
        """A folded network of the widths that these weights have; the default ones where they tell nothing."""
        first = [state.get(f"stage{stage}.conv1.weight") for stage in range(1, len(CONVOLUTIONS) + 1)]
        return cls(channels=[n if w is None else len(w) for n, w in zip(CHANNELS, first, strict=True)])

    @torch.no_grad()
    def fold(self) -> SmallVGG:
        """The same function in evaluation mode, without batch normalization and classifier."""
        folded = SmallVGG(channels=self.channels)
        modules = dict(self.named_modules())
        for name, convolution in folded.named_modules():
            if not isinstance(convolution, nn.Conv2d):
                continue
            trained, norm = modules[name], modules.get(name.replace("conv", "norm"))
            assert isinstance(trained, nn.Conv2d)
            weight, bias = trained.weight, trained.bias
            if isinstance(norm, nn.BatchNorm2d):
                assert norm.running_var is not None
                assert norm.running_mean is not None
                gain = norm.weight / (norm.running_var + norm.eps).sqrt()
                weight, bias = weight * gain[:, None, None, None], norm.bias - norm.running_mean * gain
            assert convolution.bias is not None
            convolution.weight.copy_(weight)
            assert bias is not None
            convolution.bias.copy_(bias)
        return folded.eval()
