"""Searchers to compare with: one that goes anywhere, one that matches pixels, one that knows no target."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gazekit.displays import SearchDisplays
from gazekit.errors import InputError
from gazekit.models.searcher import Attraction, Searcher, cells_with_items


class ChanceSearch(Searcher):
    """Goes anywhere it has not been yet, each place as likely as any other.

    Args:
        among: "cells": in a grid, any cell that was not visited, empty ones included. "items": only cells that hold
            something else than background, which is serial search without memory failures and has a set-size effect.
        rules: Those of :class:`Searcher`.

    """

    def __init__(self, among: str = "cells", **rules: Any) -> None:
        super().__init__(**rules)
        if among not in ("cells", "items"):
            raise InputError(f"chance_search: among is {among!r}, expected 'cells' or 'items'")
        self.save_hyperparameters()
        self.among = among

    def needs_target(self) -> bool:
        return False

    def prefers_any(self) -> bool:
        return True

    def begin(self, displays: SearchDisplays) -> None:
        return None

    def attraction(
        self,
        begun: Any,
        displays: SearchDisplays,
        rows: Tensor,
        image: Tensor,
        fixation: Tensor,
        generator: torch.Generator | None,
    ) -> Attraction:
        height, width = image.shape[-2:]
        value = torch.ones(len(rows), height, width, dtype=torch.float64)
        if generator is not None:
            # The largest of equal random numbers is at each place alike. On the CPU: the same on every device.
            value = torch.rand(len(rows), height, width, generator=generator, dtype=torch.float64)
        if self.among == "items" and displays.cells is not None:
            holds = cells_with_items(displays.cells, image, displays.background)
            value = value * (holds[:, :, None, None] & displays.cells).any(1).cpu()
        return Attraction(value.to(image.device))
