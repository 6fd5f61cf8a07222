"""Models by name: ``create_model("saliency_readout", ...)`` builds one, ``load_model(path)`` restores one."""

from gazekit.models.base import GazeModel
from gazekit.models.registry import MODELS, create_model, load_model

__all__ = ["MODELS", "GazeModel", "create_model", "load_model"]
