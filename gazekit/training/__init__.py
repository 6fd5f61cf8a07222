"""Training: the Lightning command line, checkpoints that survive a kill, features computed once."""

from gazekit.training.features import cache_features

__all__ = ["cache_features"]
