"""The torchmetrics side of a metric: the mean of a per-trial score, with what it was taken over."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric


class MeanOverTrials(Metric):
    """Mean of a per-trial score over all trials for which it is defined.

    NaN scores (a trial without a fixation, say) are left out and counted; infinite ones are kept. `compute`
    gives NaN if no trial was valid. All states are sums, so ranks, splits and the order of updates do not
    matter. Read `n_valid` and `n_total` beside the mean; on several ranks they are this rank's counts
    except inside `sync_context()`.
    """

    full_state_update = False

    total: Tensor
    n_valid: Tensor
    n_total: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        # float64: a float32 sum over a million trials loses the fourth digit.
        self.add_state("total", torch.tensor(0.0, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("n_valid", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("n_total", torch.tensor(0), dist_reduce_fx="sum")

    def add(self, score: Tensor) -> None:
        """Count in the (B,) scores of one batch."""
        known = ~score.isnan()
        self.total += score.where(known, torch.zeros_like(score)).sum()
        self.n_valid += known.sum()
        self.n_total += known.numel()

    def compute(self) -> Tensor:
        return self.total / self.n_valid
