"""The models of a cross-validation as one: each stimulus is answered by the one that did not see it."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gazekit.batch import Scanpaths, TrialBatch
from gazekit.errors import InputError
from gazekit.files import sha256_of
from gazekit.models import GazeModel, load_model

# What a run leaves beside its model: to go on from.
_UNFINISHED = ("last", "epoch")


class Folds(GazeModel):
    """Scanpath models of one kind that were trained on different stimuli.

    Args:
        members: Two or more, each of which says on which stimuli it was trained.

    Raises:
        InputError: Members of several kinds, none that has a training of its own, or no scanpath models.

    """

    def __init__(self, members: list[GazeModel]) -> None:
        super().__init__()
        kinds = sorted({type(member).__name__ for member in members})
        if len(members) < 2 or len(kinds) > 1:
            raise InputError(f"folds are 2 or more models of one kind, found {len(members)} of {kinds}")
        if not members[0].is_scanpath():
            raise InputError(f"folds of {kinds[0]} cannot be scored as one: it is no scanpath model")
        self.members = torch.nn.ModuleList(members)
        self.seen = [set(member.provenance().get("train_stimuli", ())) for member in members]
        if not all(self.seen):
            raise InputError(f"folds of {kinds[0]}: a model does not say on which stimuli it was trained")

    def of(self, batch: TrialBatch) -> GazeModel:
        """The member for the one stimulus of a batch.

        Raises:
            InputError: Every member was trained on it.

        """
        assert len(batch.stimulus) == 1, "folds answer one stimulus at a time"
        for member, seen in zip(self.members, self.seen, strict=True):
            if batch.stimulus[0] not in seen:
                assert isinstance(member, GazeModel)
                return member
        raise InputError(f"every fold was trained on stimulus {batch.stimulus[0]!r}; score those that one did not see")

    def provenance(self) -> dict[str, Any]:
        first = self.members[0]
        assert isinstance(first, GazeModel)
        # Seen in training: what no member is left for.
        return {
            **first.provenance(),
            "folds": len(self.members),
            "train_stimuli": sorted(set.intersection(*self.seen)),
        }

    def feature_spec(self, size_wh_px: tuple[int, int] | None) -> dict[str, Any] | None:
        first = self.members[0]
        assert isinstance(first, GazeModel)
        return first.feature_spec(size_wh_px)

    def encode(self, image: Tensor) -> tuple[Tensor, ...]:
        """The backbone is frozen: the same for all."""
        first = self.members[0]
        assert isinstance(first, GazeModel)
        return first.encode(image)

    def log_density(self, batch: TrialBatch) -> Tensor:
        return self.of(batch).log_density(batch)

    def conditional_log_density(self, batch: TrialBatch) -> Tensor:
        return self.of(batch).conditional_log_density(batch)

    def sample(self, batch: TrialBatch, n: int, length: int, generator: torch.Generator) -> Scanpaths:
        return self.of(batch).sample(batch, n, length, generator)


def fold_checkpoints(folder: Path) -> list[Path]:
    """The finished models in ``fold_0``, ``fold_1`` ... of a cross-validation.

    Raises:
        InputError: There are none, or a fold has none or several.

    """
    found = []
    for fold in sorted(folder.glob("fold_*")):
        made = [path for path in sorted(fold.glob("*.ckpt")) if path.stem not in _UNFINISHED]
        if len(made) != 1:
            raise InputError(f"{fold}: expected one finished checkpoint, found {len(made)}; run crossvalidate again")
        found += made
    if not found:
        raise InputError(f"{folder}: holds no fold_0, fold_1, ...; give the --out of 'gazekit crossvalidate'")
    return found


def load_folds(folder: Path) -> tuple[Folds, str]:
    """The models of a cross-validation as one, and a digest of their files."""
    paths = fold_checkpoints(folder)
    digest = hashlib.sha256("".join(sha256_of(path) for path in paths).encode()).hexdigest()
    return Folds([load_model(path) for path in paths]).eval(), digest
