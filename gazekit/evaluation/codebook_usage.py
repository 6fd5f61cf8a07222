"""Which codes a codebook uses, and what each of them selects: numbers, and a figure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from gazekit.datasets import GazeDataset
from gazekit.datasets.datamodule import StimulusItems
from gazekit.datasets.images import read_image
from gazekit.errors import InputError
from gazekit.files import written_aside
from gazekit.models.base import GazeModel, first_trial_of_each_stimulus
from gazekit.models.codebook import Codebook, mean_weights

# A code whose mean weight is below a tenth of an equal share is dead.
_DEAD = 0.1
# Half the side of the pieces of scenes in the figure, in shares of the scene's width.
_PIECE = 0.06


@dataclass(frozen=True)
class CodebookUsage:
    """How K codes are used over the cells of some scenes with their goals.

    Args:
        mean: (K,) mean weight of each code, summing to one.
        entropy_bits: Of the mean: log2 K if all are used alike.
        cell_entropy_bits: Mean over cells of the entropy of a cell's own weights.
        top: The places where each code weighs most, one scene each: code, rank, stimulus, target, x_px, y_px, weight.

    """

    mean: NDArray[np.float64]
    entropy_bits: float
    cell_entropy_bits: float
    top: pd.DataFrame

    @property
    def perplexity(self) -> float:
        """As many codes, used alike, have the same entropy."""
        return float(2.0**self.entropy_bits)

    @property
    def dead(self) -> int:
        """Codes with less than a tenth of an equal share."""
        return int((self.mean < _DEAD / len(self.mean)).sum())

    def most_selective(self, n: int) -> list[int]:
        """The n codes that are used most where they are used, compared with their mean."""
        best = self.top[self.top["rank"] == 0].set_index("code")["weight"]
        lift = best.to_numpy() * np.sqrt(best.to_numpy() / np.maximum(self.mean[best.index.to_numpy()], 1e-12))
        return [int(best.index[i]) for i in np.argsort(-lift, kind="stable")[:n]]


def has_codes(model: GazeModel | None) -> bool:
    """Whether :func:`codebook_usage` can say what the model's codes select."""
    return isinstance(model, Codebook) and model.placement == "cell" and model.hparams["bottleneck"] == "codebook"


@torch.no_grad()
def codebook_usage(model: GazeModel, data: GazeDataset, top: int = 6, with_search: bool | None = None) -> CodebookUsage:
    """Run every scene of `data`, each with its first trial's goal, through the codebook.

    Args:
        model: A ``codebook`` with one weight per code and cell: bottleneck "codebook", placement "cell".
        data: Scenes and what was searched for on them.
        top: Places to list for each code.
        with_search: Tell the model what was searched for; None does where the trials say so.

    Raises:
        InputError: The model has no such codebook, or cannot be told what was searched for.

    """
    if not isinstance(model, Codebook):
        raise InputError(f"usage of codes needs a model of the class Codebook, found {type(model).__name__}")
    if not has_codes(model):
        raise InputError(
            f"usage of codes needs bottleneck 'codebook' and placement 'cell', found {model.hparams['bottleneck']!r} "
            f"and {model.placement!r}"
        )
    items = StimulusItems(data, with_search="target" in data.trials if with_search is None else with_search)
    model = model.eval()
    total: Tensor | None = None
    own = 0.0
    best: list[tuple[Tensor, Tensor]] = []
    places: list[tuple[str, str, Tensor]] = []
    for index in range(len(items)):
        batch = first_trial_of_each_stimulus(items.collate([items[index]]).to(model.device))
        scene, weights, _ = model.scene(batch)
        assert weights is not None
        weights = weights[0].double().cpu()
        mean = mean_weights(weights)
        total = mean if total is None else total + mean
        own += float(-(weights * weights.clamp(min=1e-12).log2()).sum(-1).mean())
        best.append(weights.max(0))  # type: ignore[arg-type]
        target = "" if batch.search is None else batch.search.target[0]
        places.append((batch.stimulus[0], target, scene.xy_dva.cpu() * batch.working_px_per_dva))
    assert total is not None
    share: NDArray[np.float64] = (total / len(items)).numpy()
    peak = torch.stack([values for values, _ in best])
    order = peak.sort(dim=0, descending=True, stable=True).indices[:top]
    rows = [
        (code, rank, *places[s][:2], *places[s][2][best[s][1][code]].tolist(), float(peak[s, code]))
        for code in range(peak.shape[1])
        for rank, s in enumerate(order[:, code].tolist())
    ]
    entropy = float(-(share * np.log2(np.maximum(share, 1e-300))).sum())
    columns = ["code", "rank", "stimulus", "target", "x_px", "y_px", "weight"]
    return CodebookUsage(share, entropy, own / len(items), pd.DataFrame(rows, columns=columns))


def draw_usage(usage: CodebookUsage, data: GazeDataset, codes: int = 8) -> Any:
    """A figure: mean weights in order, and pieces of scenes around the places of the most selective codes."""
    from matplotlib.figure import Figure

    shown = usage.most_selective(codes)
    n_top = int(usage.top["rank"].max()) + 1
    figure = Figure(figsize=(1.5 * (n_top + 1), 2.6 + 1.35 * len(shown)), layout="constrained")
    halves: Any = figure.subfigures(2, 1, height_ratios=[2.2, 1.4 * len(shown)])
    upper, lower = halves
    axis = upper.subplots()
    n_codes = len(usage.mean)
    axis.plot(np.arange(1, n_codes + 1), np.sort(usage.mean)[::-1] * n_codes)
    axis.axhline(1.0, color="0.6", linewidth=0.8, linestyle="--")
    axis.set(xlabel="codes in the order of their use", ylabel="mean weight x K", xlim=(1, n_codes))
    axis.set_title(
        f"perplexity {usage.perplexity:.0f} of {n_codes}, {usage.dead} dead; a cell's own "
        f"{2.0**usage.cell_entropy_bits:.0f}",
        fontsize=10,
    )
    axes = lower.subplots(len(shown), n_top, squeeze=False)
    path = data.stimuli.set_index("stimulus")["path"]
    for row, code in zip(axes, shown, strict=True):
        part = usage.top[usage.top["code"] == code].sort_values("rank")
        for cell, place in zip(row, part.itertuples(), strict=True):
            picture = read_image(path[place.stimulus])
            reach = round(_PIECE * picture.shape[-1])
            left, top = (max(0, round(at) - reach) for at in (place.x_px, place.y_px))
            cell.imshow(picture[:, top : top + 2 * reach, left : left + 2 * reach].movedim(0, -1).numpy())
            cell.set(xticks=[], yticks=[])
            cell.set_xlabel(f"p = {place.weight:.2f}", fontsize=7, labelpad=1)
        row[0].set_ylabel(f"code {code}\n{usage.mean[code] * n_codes:.1f} / K", fontsize=8)
    return figure


def report_usage(model: GazeModel, data: GazeDataset, out: Path, codes: int = 8) -> list[str]:
    """Write OUT.png and OUT.csv (the places of every code); the lines that sum it up."""
    usage = codebook_usage(model, data)
    with written_aside(out.with_suffix(".csv")) as aside:
        usage.top.assign(mean_weight=usage.mean[usage.top["code"].to_numpy()]).to_csv(aside, index=False)
    with written_aside(out.with_suffix(".png")) as aside:
        draw_usage(usage, data, codes).savefig(aside, dpi=110, format="png")
    return [*usage_lines(usage), f"figure: {out.with_suffix('.png')}", f"places: {out.with_suffix('.csv')}"]


def usage_lines(usage: CodebookUsage) -> list[str]:
    """How many codes are in use, in words."""
    n_codes = len(usage.mean)
    return [
        f"codes: {n_codes}, of which {usage.dead} are dead (less than a tenth of an equal share)",
        f"mean weights: entropy {usage.entropy_bits:.2f} of {math.log2(n_codes):.2f} bits, as {usage.perplexity:.1f} "
        f"codes used alike",
        f"weights of a cell: {usage.cell_entropy_bits:.2f} bits, as {2.0**usage.cell_entropy_bits:.1f} codes",
    ]
