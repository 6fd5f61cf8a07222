"""Shared image backbones: ``create_backbone(name, weights=...)`` gives a pyramid of feature maps."""

from gazekit.backbones.pyramid import Backbone, WeightsSource, create_backbone, create_classifier, find_weights
from gazekit.backbones.vit_gna import WindowedViT

__all__ = ["Backbone", "WeightsSource", "WindowedViT", "create_backbone", "create_classifier", "find_weights"]
