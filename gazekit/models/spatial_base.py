"""The map that a procedure walks on: any model with a density of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

from gazekit.errors import InputError
from gazekit.models.base import GazeModel, constructor_arguments
from gazekit.models.registry import MODELS, create_model, load_model


def spatial_base(base: str | GazeModel) -> GazeModel:
    """A spatial model by name, from its checkpoint, or as given.

    Raises:
        InputError: Unknown name, no such checkpoint, a model that has to be trained or fitted first, or one whose
            density depends on where the eye was.

    """
    if isinstance(base, GazeModel):
        model = base
    elif base in MODELS:
        model = create_model(base)
        if model.fits_fixations or any(p.requires_grad for p in model.parameters()):
            raise InputError(f"base {base!r} must be trained or fitted first; give its checkpoint")
    else:
        model = load_model(Path(base))
    if not model.is_spatial():
        raise InputError(f"base {base!r} is a scanpath model and has its own way of moving on; give a spatial model")
    return model.requires_grad_(False).eval()


class OnSpatialBase(GazeModel):
    """A model that moves over the density of another one, which it restores with itself."""

    base: GazeModel

    def stand_on(self, base: str | GazeModel) -> None:
        """Take the base; see :func:`spatial_base`."""
        self.base = spatial_base(base)

    @classmethod
    def from_checkpoint(cls, checkpoint: dict[str, Any]) -> Self:
        arguments = constructor_arguments(checkpoint)
        if "base" not in arguments:
            raise InputError(
                "the checkpoint is of a model around a base that was given as an object; save the base itself"
            )
        return cls(**arguments)

    def provenance(self) -> dict[str, Any]:
        return self.base.provenance()
