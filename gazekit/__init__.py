"""gazekit: models of where people look, and the rules to score them by.

Heavy modules are imported on first use, so that ``import gazekit`` and ``gazekit --help`` are quick.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_LAZY = {
    "Screen": "gazekit.geometry",
    "InputError": "gazekit.errors",
    "TrialBatch": "gazekit.batch",
    "create_backbone": "gazekit.backbones",
    "create_model": "gazekit.models",
    "load_model": "gazekit.models",
}
_MODULES = (
    "asymmetry", "backbones", "datasets", "density", "evaluation", "kernels", "metrics", "models", "stimuli",
    "training",
)  # fmt: skip
__all__ = [*_LAZY, *_MODULES, "__version__"]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    if name in _MODULES:
        return importlib.import_module(f"gazekit.{name}")
    raise AttributeError(f"module 'gazekit' has no attribute {name!r}")
