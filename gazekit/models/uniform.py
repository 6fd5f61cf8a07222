"""Every pixel is equally likely: the floor that every table starts from."""

from __future__ import annotations

import torch
from torch import Tensor

from gazekit.batch import TrialBatch
from gazekit.density import uniform_log_density
from gazekit.models.base import GazeModel


class Uniform(GazeModel):
    """Log-density ``-log(H W)`` everywhere."""

    uses_image = False

    def log_density(self, batch: TrialBatch) -> Tensor:
        width, height = batch.size_wh_px
        value = torch.tensor(uniform_log_density(batch.size_wh_px), device=batch.device)
        return value.expand(len(batch), height, width)
