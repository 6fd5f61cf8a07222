"""A dataset as a FixaTons folder (Zanca et al. 2018), which other programs and :mod:`gazekit` itself can read."""

from __future__ import annotations

import shutil
import uuid
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import yaml
from numpy.typing import NDArray
from PIL import Image

from gazekit.datasets.dataset import GazeDataset
from gazekit.datasets.exported_card import exported_card
from gazekit.datasets.readers.fixatons import EXACT, IMAGE_SUFFIXES
from gazekit.density import fixation_density
from gazekit.errors import InputError
from gazekit.registry import unknown_name

_ONSETS = ("released", "from_durations")


def write_fixatons(
    data: GazeDataset, folder: Path | str, *, onsets: str = "released", sigma_px: float | None = None
) -> Path:
    """Write STIMULI, SCANPATHS, FIXATION_MAPS, where possible SALIENCY_MAPS, and a card; returns the folder.

    ``load(folder)`` then gives positions, onsets and durations back exactly, in the order of the files'
    names. The format has no place for tasks, targets, responses and objects, which are left out.
    Fixation maps (0 and 255) mark the pixel of every fixation inside the image, of all subjects.
    Saliency maps are the Gaussian fixation density of :mod:`gazekit.density` over all subjects,
    scaled so that its maximum is 255 and rounded; all 0 for a stimulus without a fixation inside.

    Args:
        data: Every stimulus needs its image, and every trial onsets and durations.
        folder: Made here; must not exist, or be empty.
        onsets: ``released`` writes the onsets of the data. ``from_durations`` writes sums of the
            durations before, for data without onsets; the time that saccades take is then missing.
        sigma_px: SD of the saliency maps' Gaussian. None takes one degree of visual angle, and leaves
            the saliency maps out where the data state no screen.

    Raises:
        InputError: Such data cannot be written in this format, or the folder holds something already.

    """
    folder = Path(folder)
    if onsets not in _ONSETS:
        raise unknown_name("way to get onsets", onsets, list(_ONSETS))
    if sigma_px is not None and not 0 < sigma_px < float("inf"):
        raise InputError(f"sigma_px is {sigma_px}, expected a positive number of pixels")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder}: is there already; name a folder that is not, or remove it first")
    if sigma_px is None and data.card.screen is not None:
        sigma_px = data.card.screen.px_per_dva
    _check_writable(data)
    rows = _rows_of(data, onsets)
    aside = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        _write(data, rows, sigma_px, aside)
        if folder.is_dir():
            folder.rmdir()
        aside.replace(folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return folder


def _check_writable(data: GazeDataset) -> None:
    for name, path in zip(data.stimuli["stimulus"], data.stimuli["path"], strict=True):
        if not path or not Path(path).is_file():
            raise InputError(
                f"{data.name}: stimulus {name!r} has no image ({path or 'none is released'}), and a FixaTons folder "
                "needs one each; get the images first, or write data.subset(stimuli=...) of those that have one"
            )
        if Path(path).suffix.lower() not in IMAGE_SUFFIXES:
            raise InputError(f"{path}: not an image that FixaTons knows; expected one of {', '.join(IMAGE_SUFFIXES)}")
    for column, table in (("stimulus", data.stimuli), ("subject", data.trials)):
        names = pd.Series(table[column].unique())
        unsafe = names.str.startswith(".") | names.str.contains(r"[/\\:\0]", regex=True) | (names == "")
        if unsafe.any():
            raise InputError(f"{data.name}: {column} {names[unsafe].iloc[0]!r} cannot be the name of a file; rename it")
        if (twice := names.str.lower().duplicated()).any():
            raise InputError(
                f"{data.name}: {column} {names[twice].iloc[0]!r} differs from another in case alone, which files on "
                "some systems cannot; rename it"
            )
    if (again := data.trials.duplicated(["stimulus", "subject"])).any():
        first = data.trials[again].iloc[0]
        raise InputError(
            f"{data.name}: subject {first['subject']!r} has more than one trial on stimulus {first['stimulus']!r}, and "
            "FixaTons has one file for both; write data.subset(trials=...) with one of them each"
        )


def _rows_of(data: GazeDataset, onsets: str) -> dict[int, str]:
    """Trial -> the text of its file.

    Ends are sums of the decimal numbers that the two floats print as, so that the reader's
    difference is the duration again.
    """
    fixations = data.fixations
    needed = {"duration_s": "durations"} | ({"t_s": "onsets"} if onsets == "released" else {})
    for column, word in needed.items():
        if (unknown := ~np.isfinite(fixations[column])).any():
            mend = "; onsets='from_durations' writes sums of durations" if column == "t_s" else ""
            raise InputError(
                f"{data.name}: {int(unknown.sum())} of {len(fixations)} fixations have no {word}, and FixaTons needs "
                f"start and end of each{mend}"
            )
    rows: dict[int, list[str]] = {trial: [] for trial in data.trials["trial"]}
    next_s: dict[int, Decimal] = {}
    columns = (fixations[name].tolist() for name in ("trial", "x_px", "y_px", "t_s", "duration_s"))
    for trial, x, y, t, duration in zip(*columns, strict=True):
        start = Decimal(repr(t)) if onsets == "released" else next_s.get(trial, Decimal(0))
        end = next_s[trial] = EXACT.add(start, Decimal(repr(duration)))
        rows[trial].append(f"{x!r} {y!r} {start} {end}\n")
    return {trial: "".join(lines) for trial, lines in rows.items()}


def _write(data: GazeDataset, rows: dict[int, str], sigma_px: float | None, folder: Path) -> None:
    maps = ["FIXATION_MAPS"] + (["SALIENCY_MAPS"] if sigma_px is not None else [])
    for part in ("STIMULI", "SCANPATHS", *maps):
        (folder / part).mkdir(parents=True)
    by_stimulus = dict(iter(data.fixations.groupby("stimulus", sort=False)))
    trials = dict(iter(data.trials.groupby("stimulus", sort=False)))
    for stimulus in data.stimuli.itertuples():
        name = str(stimulus.stimulus)
        image = Path(str(stimulus.path))
        shutil.copyfile(image, folder / "STIMULI" / f"{name}{image.suffix}")
        if name in trials:
            (folder / "SCANPATHS" / name).mkdir()
            for trial, subject in zip(trials[name]["trial"], trials[name]["subject"], strict=True):
                (folder / "SCANPATHS" / name / subject).write_text(rows[trial], encoding="ascii", newline="\n")
        size_wh_px = int(stimulus.width_px), int(stimulus.height_px)
        xy_px = by_stimulus[name][["x_px", "y_px"]].to_numpy() if name in by_stimulus else np.empty((0, 2))
        xy_px = xy_px[((xy_px >= 0) & (xy_px < size_wh_px)).all(axis=1)]
        fixated = np.zeros(size_wh_px[::-1], np.uint8)
        column, row = np.floor(xy_px).astype(int).T
        fixated[row, column] = 255
        Image.fromarray(fixated).save(folder / "FIXATION_MAPS" / f"{name}.png")
        if sigma_px is not None:
            saliency = _saliency(xy_px, size_wh_px, sigma_px)
            Image.fromarray(saliency).save(folder / "SALIENCY_MAPS" / f"{name}.png")
    card = yaml.safe_dump(
        exported_card(data, "fixatons", ["STIMULI", "SCANPATHS"], "required"), sort_keys=False, allow_unicode=True
    )
    (folder / "card.yaml").write_text(card, encoding="utf-8")


def _saliency(xy_px: NDArray[np.float64], size_wh_px: tuple[int, int], sigma_px: float) -> NDArray[np.uint8]:
    if not len(xy_px):
        return np.zeros(size_wh_px[::-1], np.uint8)
    valid = torch.ones(1, len(xy_px), dtype=torch.bool)
    density = fixation_density(torch.from_numpy(xy_px)[None], valid, size_wh_px, sigma_px)[0].numpy()
    saliency: NDArray[np.uint8] = np.round(density / density.max() * 255).astype(np.uint8)
    return saliency
