"""Searchers on scenes that people searched: who finds the target within the saccades that each trial allowed.

One search per searcher, stimulus, target and start position, kept on disk as it is finished; every trial of a person is
then answered by the search from its own start. Hits follow the fovea rule of ViSioNS (Travi et al. 2022) for everyone.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from gazekit.datasets import GazeDataset
from gazekit.datasets.images import read_image
from gazekit.displays import SearchDisplays, SearchPaths
from gazekit.errors import InputError
from gazekit.evaluation.intervals import interval, resampling_weights
from gazekit.files import written_aside
from gazekit.metrics.search import cumulative_found, fixations_to_target, found_within, tfp_auc
from gazekit.models.searcher import Searcher
from gazekit.tables import TARGET_BOX

# Trials that agree in all of these are answered by one search.
_KEYS = ["stimulus", "target", "target_path", "start_x_px", "start_y_px", *TARGET_BOX]
# Displays that are searched in lock-step and kept together.
_PIECE = 8


def distinct_searches(data: GazeDataset) -> pd.DataFrame:
    """One row per stimulus, target with its picture and box, and start position of the trials.

    Raises:
        InputError: Trials have no target, picture of a target, box, start position or limit.

    """
    needed = [*_KEYS[1:], "max_saccades"]
    if missing := [name for name in needed if name not in data.trials]:
        raise InputError(f"{data.name}: search in scenes needs the trial columns {missing}, which it does not have")
    for name in needed:
        unknown = data.trials[name].isna() | (data.trials[name] == "")
        if unknown.any():
            trial = data.trials.loc[unknown, "trial"].iloc[0]
            raise InputError(
                f"{data.name}: {int(unknown.sum())} of {len(unknown)} trials have no {name} (first: trial {trial}); "
                f"leave them out with data.subset(trials=...)"
            )
    return data.trials.drop_duplicates(_KEYS)[_KEYS].reset_index(drop=True)


def scene_displays(
    data: GazeDataset, searches: pd.DataFrame, size_wh_px: tuple[int, int], px_per_dva: float, inhibition_px: int,
    max_saccades: int,
) -> SearchDisplays:  # fmt: skip
    """Displays of one size for some rows of :func:`distinct_searches`; pictures and targets shrink alike."""
    stimuli = data.stimuli.set_index("stimulus")
    scale = np.array(size_wh_px) / stimuli.loc[searches["stimulus"], ["width_px", "height_px"]].to_numpy(float)
    images, targets = [], []
    for row, (sx, sy) in zip(searches.itertuples(), scale, strict=True):
        images.append(read_image(stimuli.loc[row.stimulus, "path"], size_wh_px))
        whole = read_image(row.target_path)
        height, width = whole.shape[-2:]
        targets.append(read_image(row.target_path, (max(1, round(width * sx)), max(1, round(height * sy)))))
    if len(sizes := {tuple(target.shape[-2:]) for target in targets}) > 1:
        raise InputError(
            f"{data.name}: pictures of targets are of different sizes (height, width): {sorted(sizes)}; searchers take "
            f"targets of one size at a time, so search those of each size by themselves"
        )
    box = searches[list(TARGET_BOX)].to_numpy(float) * np.tile(scale, 2)
    mask = torch.zeros(len(searches), size_wh_px[1], size_wh_px[0], dtype=torch.bool)
    width, height = size_wh_px
    for i, (left, top, right, bottom) in enumerate(box.round().astype(int)):
        # A target keeps a pixel however much it shrinks, and lies on the scene.
        left, top = min(max(left, 0), width - 1), min(max(top, 0), height - 1)
        mask[i, top : max(bottom, top + 1), left : max(right, left + 1)] = True
    start = np.clip(searches[["start_x_px", "start_y_px"]].to_numpy(float) * scale, 0, np.array(size_wh_px) - 1e-3)
    return SearchDisplays(
        name=tuple(searches["stimulus"]),
        image=(torch.stack(images) * 255).round().to(torch.uint8),
        target=(torch.stack(targets) * 255).round().to(torch.uint8),
        target_mask=mask,
        cells=None,
        background=0,
        max_fixations=max_saccades,
        px_per_dva=px_per_dva,
        start_xy_px=torch.from_numpy(start).float(),
        window_px=inhibition_px,
    )


def run_searches(
    data: GazeDataset,
    name: str,
    searcher: Searcher,
    out: Path,
    size_wh_px: tuple[int, int],
    px_per_dva: float,
    inhibition_px: int,
    max_saccades: int,
    fovea_px: float,
) -> pd.DataFrame:
    """Search every distinct display, each until its target is found; goes on where it stopped.

    Args:
        data: Trials of search for a picture in scenes.
        name: Of the searcher in tables and files.
        searcher: Ready to search.
        out: Folder in which finished pieces are kept.
        size_wh_px: To which scenes are scaled.
        px_per_dva: At that size.
        inhibition_px: Side of the square that is not fixated again, at that size.
        max_saccades: At which a search ends.
        fovea_px: Side of the fovea whose overlap with the target ends a search, in px of the dataset.

    Returns:
        One row per fixation: search (row of :func:`distinct_searches`), fixation (0 is the start), x_px, y_px in px of
        the dataset.

    """
    searches = distinct_searches(data)
    sizes = data.stimuli.set_index("stimulus").loc[searches["stimulus"], ["width_px", "height_px"]].to_numpy(float)
    settings = (
        size_wh_px,
        px_per_dva,
        inhibition_px,
        max_saccades,
        fovea_px,
        dict(searcher.hparams),
        searcher.provenance(),
    )
    tables = []
    for start in range(0, len(searches), _PIECE):
        rows = searches.iloc[start : start + _PIECE]
        content = json.dumps([name, rows.to_dict("records"), settings], sort_keys=True, default=str)
        path = out / "searches" / f"{name}-{hashlib.sha256(content.encode()).hexdigest()[:20]}.parquet"
        if not path.exists():
            displays = scene_displays(data, rows, size_wh_px, px_per_dva, inhibition_px, max_saccades)
            to_dataset = torch.from_numpy(sizes[rows.index] / np.array(size_wh_px))
            box = torch.from_numpy(rows[list(TARGET_BOX)].to_numpy(float, copy=True))

            def oracle(xy_px: Tensor, which: Tensor, scale: Tensor = to_dataset, box: Tensor = box) -> Tensor:
                at = xy_px.cpu().double() * scale[which.cpu()]
                half = fovea_px / 2
                hit = (at + half >= box[which.cpu(), :2]) & (at - half <= box[which.cpu(), 2:])
                return hit.all(1).to(xy_px.device)

            paths = searcher.search(displays, torch.Generator().manual_seed(start), oracle=oracle)
            table = _table(paths, rows.index.to_numpy(), to_dataset)
            with written_aside(path) as aside:
                table.to_parquet(aside, index=False)
        tables.append(pd.read_parquet(path))
    return pd.concat(tables, ignore_index=True)


def _table(paths: SearchPaths, rows: Any, scale: Tensor) -> pd.DataFrame:
    which, fixation = paths.valid.cpu().nonzero(as_tuple=True)
    xy = (paths.xy_px.cpu().double()[which, fixation] * scale[which]).numpy()
    return pd.DataFrame(
        {"search": rows[which.numpy()], "fixation": fixation.numpy(), "x_px": xy[:, 0], "y_px": xy[:, 1]}
    )


def padded(table: pd.DataFrame, key: str, order: Any) -> tuple[Tensor, Tensor]:
    """(n, T, 2) positions and (n, T) bool of the scanpaths of a fixation table, in this order of `key`."""
    row = table[key].map({value: i for i, value in enumerate(order)}).to_numpy(copy=True)
    step = table.groupby(key).cumcount().to_numpy(copy=True)
    xy = torch.zeros(len(order), int(step.max(initial=0)) + 1, 2, dtype=torch.float64)
    valid = torch.zeros(xy.shape[:2], dtype=torch.bool)
    xy[row, step], valid[row, step] = torch.from_numpy(table[["x_px", "y_px"]].to_numpy(float, copy=True)), True
    return xy, valid


def score_searches(
    data: GazeDataset, made: dict[str, pd.DataFrame], max_saccades: int, fovea_px: float
) -> pd.DataFrame:
    """One row per searcher and trial of a person: fixations to the target within the trial's limit (else infinite).

    People are in the table as ``human``: by the same rule, from the design's start position on.

    Args:
        data: As for :func:`run_searches`.
        made: Fixations of each searcher, as :func:`run_searches` gives them.
        max_saccades: To which a trial's limit is cut, so that nobody is asked for more than was run.
        fovea_px: Side of the fovea.

    """
    trials = data.trials.reset_index(drop=True)
    searches = distinct_searches(data)
    number = trials.merge(searches.reset_index(names="search")[[*_KEYS, "search"]], on=_KEYS, how="left")["search"]
    limit = torch.from_numpy(trials["max_saccades"].clip(upper=max_saccades).to_numpy(np.int64, copy=True))
    rule: dict[str, Any] = {"hit": "fovea", "fovea_size_wh_px": (fovea_px, fovea_px)}
    parts = []
    for name, table in {"human": None, **made}.items():
        if table is None:
            xy, valid = padded(data.fixations, "trial", trials["trial"].tolist())
            begin = torch.from_numpy(trials[["start_x_px", "start_y_px"]].to_numpy(float, copy=True))
            # The first recorded fixation began before the picture did; the design's start stands for it.
            xy[:, 0], valid[:, 0] = begin, True
            box = torch.from_numpy(trials[list(TARGET_BOX)].to_numpy(float, copy=True))
            n_fix = fixations_to_target(xy, valid, box, **rule)
        else:
            xy, valid = padded(table, "search", searches.index.tolist())
            box = torch.from_numpy(searches[list(TARGET_BOX)].to_numpy(float, copy=True))
            n_fix = fixations_to_target(xy, valid, box, **rule)[torch.from_numpy(number.to_numpy(np.int64, copy=True))]
        found = found_within(n_fix, max_saccades=limit)
        # Searchers go on where people had to stop; nobody is credited with what came after.
        n_fix = n_fix.masked_fill(found == 0, torch.inf)
        parts.append(
            trials[["trial", "subject", "stimulus", "max_saccades"]].assign(
                model=name, n_fix_incl_initial=n_fix.numpy(), found_within_limit=found.numpy()
            )
        )
    return pd.concat(parts, ignore_index=True)


def summarize_searches(
    scores: pd.DataFrame, max_saccades: int, draws: int = 2000, level: float = 0.95, seed: int = 0
) -> pd.DataFrame:
    """One row per searcher: accuracy and TFP-AUC, with intervals from resampled images, and paired differences.

    An image's score is the mean over its trials; images count the same. ``minus_X`` is the difference of accuracy to
    searcher X on the same resampled images, with its interval.

    Returns:
        Index: model. Columns: accuracy, accuracy_low, accuracy_high, tfp_auc, tfp_auc_low, tfp_auc_high (the curve
        runs to `max_saccades` for everyone), and for every other searcher ``minus_X``, its low and high.

    """
    images = sorted(scores["stimulus"].unique())
    weights = resampling_weights(len(images), draws, seed)
    accuracy, area = {}, {}
    for name, part in scores.groupby("model", sort=False):
        by_image = dict(list(part.groupby("stimulus")))
        accuracy[name] = np.array([by_image[i]["found_within_limit"].mean() for i in images])
        curves = [torch.from_numpy(by_image[i]["n_fix_incl_initial"].to_numpy(copy=True)) for i in images]
        area[name] = np.array([float(tfp_auc(cumulative_found(n, max_saccades=max_saccades))) for n in curves])

    def with_interval(column: str, values: Any) -> dict[str, float]:
        low, high = interval(weights @ values / weights.sum(1), level)
        return {column: float(values.mean()), f"{column}_low": low, f"{column}_high": high}

    rows = {}
    for name in accuracy:
        rows[name] = {**with_interval("accuracy", accuracy[name]), **with_interval("tfp_auc", area[name])}
        for other in accuracy:
            if other != name:
                rows[name] |= with_interval(f"minus_{other}", accuracy[name] - accuracy[other])
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("model")
