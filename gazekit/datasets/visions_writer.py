"""Any search dataset with target boxes as ViSioNS JSON, which that benchmark's models and metrics read.

The format is that of :mod:`gazekit.datasets.readers.visions`. What the benchmark did to its datasets before it
wrote them is done here too, each step an option that is on unless it is named otherwise: positions are clipped
to the image, a path ends with its first fixation whose fovea overlaps the target's box, paths of a single
fixation are left out, paths are truncated to the most fixations allowed, and ``target_found`` says whether the
last fixation that is left overlaps the box, whatever the source's own flag was.

Three differences are meant. ``T`` is always as long as ``X`` and ``Y``; in the benchmark's files the durations of the
whole path stayed. The overlap is that of the positions as written; the benchmark's code clips a fixation only after
it has compared it. And fixations closer than a fovea are not merged, which its documentation announces and its
code does for some datasets: their durations could not be told apart afterwards.

The benchmark also subtracts 1 from positions that are counted from 1. Those of gazekit are counted from 0.
"""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from numpy.typing import NDArray
from PIL import Image

from gazekit.datasets.dataset import GazeDataset
from gazekit.datasets.exported_card import exported_card
from gazekit.datasets.readers.visions import NO_CATEGORY, SAFE_NAME, subject_name
from gazekit.errors import InputError
from gazekit.files import written_aside
from gazekit.tables import TARGET_BOX

_IMAGES, _TARGETS, _SCANPATHS = "images", "targets", "human_scanpaths"
_NUMBERED = re.compile(r"s(\d+)", re.ASCII)
_SUBJECT_ID = re.compile(r"[A-Za-z0-9_-]+")


@dataclass
class _Target:
    """One image with one thing searched for on it: one entry of ``trials_properties.json``."""

    file: str
    stimulus: pd.Series
    category: str
    trial: pd.Series
    first_px: list[tuple[float, float]] = field(default_factory=list)


def write_visions(
    data: GazeDataset,
    folder: Path | str,
    *,
    fovea_wh_px: tuple[int, int],
    max_fixations: int | None = None,
    clip: bool = True,
    crop_at_target: bool = True,
    drop_single: bool = True,
    recompute_found: bool = True,
    copy_images: bool = True,
) -> tuple[str, ...]:
    """Write `data` into `folder` as ViSioNS JSON, with a card for ``load(folder)``; every file is whole or not there.

    With `clip`, `crop_at_target`, `drop_single` and `recompute_found` off and without `max_fixations`, reading the
    folder gives back the same positions, target boxes and flags, and the same durations where they came from
    files in ms. Onsets have no place in the format. The box's corners are written as
    ``[top, left, bottom, right]``, whole numbers as such.

    The format holds one trial per subject and image. An image on which several things were searched for is
    written once for each, the second named ``STIMULUS_2`` and so on.

    Args:
        data: Target-present trials, each with its target's box.
        folder: Created where it is missing. Write a ``card.yaml`` with ``format: visions`` into it for
            :func:`gazekit.datasets.load`.
        fovea_wh_px: Size of the box around a fixation that is compared with the target's; the benchmark has
            32x32 for Interiors and 52x52 for COCO-Search18. Halves are rounded down, and touching counts.
        max_fixations: Truncate paths to so many, and let no trial's own limit be higher; the benchmark has 13
            for Interiors and 10 for COCO-Search18. A path over its own lower limit is kept, as there.
        clip: Move a position outside the image onto its nearest pixel.
        crop_at_target: End a path with its first fixation whose fovea overlaps the target's box.
        drop_single: Leave out paths of fewer than two fixations, after cropping.
        recompute_found: Write whether the last fixation's fovea overlaps the box; otherwise the column found.
        copy_images: Copy images and targets too; a target without an image of its own is cut from the stimulus.

    Returns:
        What was changed, one sentence each, with its number.

    Raises:
        InputError: `data` has a trial that the format cannot hold, an option is unusable, or the folder
            holds scanpaths of other subjects.

    """
    folder = Path(folder)
    _check(data, fovea_wh_px, max_fixations, recompute_found)
    subjects = _subject_ids(data)
    if stale := sorted({p.name for p in (folder / _SCANPATHS).glob("subj*_scanpaths.json")} - {*subjects.values()}):
        raise InputError(f"{folder / _SCANPATHS}: holds {stale[0]} of another dataset; give an empty folder")
    stimuli = data.stimuli.set_index("stimulus", drop=False)
    paths = dict(tuple(data.fixations.groupby("trial", sort=False)[["x_px", "y_px", "duration_s"]]))
    counts = dict.fromkeys(("clipped", "cropped", "single", "truncated", "found", "timeless"), 0)
    targets: dict[tuple[str, str], _Target] = {}
    n_on_image: dict[str, int] = {}
    files: dict[str, dict[str, Any]] = {file: {} for file in subjects.values()}
    screen = data.card.screen.size_wh_px if data.card.screen else None
    for _, trial in data.trials.iterrows():
        stimulus = stimuli.loc[trial["stimulus"]]
        size_wh_px = int(stimulus["width_px"]), int(stimulus["height_px"])
        path = paths[trial["trial"]].to_numpy() if trial["trial"] in paths else np.empty((0, 3))
        path, found = _converted(path, trial, size_wh_px, fovea_wh_px, max_fixations, clip, crop_at_target, counts)
        if drop_single and len(path) < 2:
            counts["single"] += 1
            continue
        if recompute_found:
            flag = trial.get("found")
            counts["found"] += not pd.isna(flag) and bool(flag) != found
        else:
            found = bool(trial["found"])
        target = _target(targets, n_on_image, trial, stimulus)
        if len(path):
            target.first_px.append((path[0, 0], path[0, 1]))
        records = files[subjects[trial["subject"]]]
        if target.file in records:
            raise InputError(
                f"{data.name}: trial {trial['trial']} repeats subject {trial['subject']!r} on stimulus "
                f"{trial['stimulus']!r} with the same target; ViSioNS holds one, leave the others out with data.subset"
            )
        counts["timeless"] += bool(np.isnan(path[:, 2]).any())
        records[target.file] = {
            "subject": subjects[trial["subject"]].removeprefix("subj").removesuffix("_scanpaths.json"),
            "dataset": data.card.label,
            "image_height": size_wh_px[1],
            "image_width": size_wh_px[0],
            "screen_height": (screen or size_wh_px)[1],
            "screen_width": (screen or size_wh_px)[0],
            "receptive_height": fovea_wh_px[1],
            "receptive_width": fovea_wh_px[0],
            "target_found": found,
            "target_bbox": _corners(trial),
            "X": path[:, 0].tolist(),
            "Y": path[:, 1].tolist(),
            **_times(path[:, 2]),
            "target_object": target.category,
            "max_fixations": _limit(trial, max_fixations),
        }
    longest = max((len(r["X"]) for records in files.values() for r in records.values()), default=0)
    for record in (r for records in files.values() for r in records.values()):
        # A trial without a limit had room for the longest path there is.
        record["max_fixations"] = record["max_fixations"] or max(longest, 1)
    if not targets:
        raise InputError(f"{data.name}: no trial is left to write; turn options of write_visions off")
    names = {target.file: _write_images(target, folder, copy_images) for target in targets.values()}
    for file, records in files.items():
        _write_json(folder / _SCANPATHS / file, records)
    _write_json(folder / "trials_properties.json", [_properties(t, names[t.file], data) for t in targets.values()])
    images = "required" if copy_images else "optional"
    card = exported_card(data, "visions", ["dataset_info.json"], images, counted=False)
    with written_aside(folder / "card.yaml") as aside:
        aside.write_text(yaml.safe_dump(card, sort_keys=False, allow_unicode=True), encoding="utf-8")
    # Last: a folder without this file is no dataset, so a broken write is none either.
    _write_json(folder / "dataset_info.json", _info(targets, data, fovea_wh_px, max_fixations or max(longest, 1)))
    said = {
        "clipped": "{} fixations outside their image were moved onto its nearest pixel (clip)",
        "cropped": "{} trials were ended with their first fixation on the target (crop_at_target)",
        "truncated": f"{{}} trials were truncated to {max_fixations} fixations (max_fixations)",
        "single": "{} trials of fewer than two fixations were left out (drop_single)",
        "found": "target_found differs from the source's flag in {} trials (recompute_found)",
        "timeless": "{} trials are written without T, for their durations are not all known",
        "renamed": "{} images are further copies, for several things were searched for on one",
    }
    counts["renamed"] = len(targets) - len(n_on_image)
    return tuple(text.format(counts[key]) for key, text in said.items() if counts[key])


def _check(data: GazeDataset, fovea_wh_px: Any, max_fixations: Any, recompute_found: bool) -> None:
    trials = data.trials
    if not (isinstance(fovea_wh_px, tuple | list) and [type(edge) for edge in fovea_wh_px] == [int, int]
            and min(fovea_wh_px) > 0):  # fmt: skip
        raise InputError(f"fovea_wh_px is {fovea_wh_px!r}, expected width and height in whole px, as (32, 32)")
    if max_fixations is not None and (type(max_fixations) is not int or max_fixations < 1):
        raise InputError(f"max_fixations is {max_fixations!r}, expected a number of fixations or None")
    absent = trials["target_present"].eq(False).fillna(False) if "target_present" in trials else None
    if set(TARGET_BOX) - set(trials) or trials[list(TARGET_BOX)].isna().any(axis=None) or (
        absent is not None and absent.any()
    ):  # fmt: skip
        raise InputError(
            f"{data.name}: ViSioNS holds target-present trials with the target's box, and not all of these are; choose "
            "them with data.subset(trials=...)"
        )
    if not recompute_found and ("found" not in trials or trials["found"].isna().any()):
        raise InputError(f"{data.name}: not every trial has the flag found; write it with recompute_found=True")


def _subject_ids(data: GazeDataset) -> dict[str, str]:
    """Subject -> name of its file."""
    files: dict[str, str] = {}
    for name in data.trials["subject"].unique():
        numbered = _NUMBERED.fullmatch(name)
        number = numbered[1] if numbered else name
        if not _SUBJECT_ID.fullmatch(number) or (number.isdigit() and subject_name(number) != name):
            raise InputError(f"{data.name}: subject {name!r} is no name for a ViSioNS file, expected s01 or letters")
        files[name] = f"subj{number}_scanpaths.json"
    return files


def _converted(
    path: NDArray[np.float64],
    trial: pd.Series,
    size_wh_px: tuple[int, int],
    fovea_wh_px: tuple[int, int],
    max_fixations: int | None,
    clip: bool,
    crop_at_target: bool,
    counts: dict[str, int],
) -> tuple[NDArray[np.float64], bool]:
    """The (T, 3) path of x, y and duration that is to be written, and whether its last fovea overlaps the box."""
    if clip:
        inside = np.clip(path[:, :2], 0, np.subtract(size_wh_px, 1))
        # Up to the right and lower edge of the last pixel a position is inside, though its whole part is not the last.
        inside = np.where((path[:, :2] >= 0) & (path[:, :2] < size_wh_px), path[:, :2], inside)
        counts["clipped"] += int((inside != path[:, :2]).any(axis=1).sum())
        path = np.column_stack([inside, path[:, 2]])
    left, top, right, bottom = (float(trial[edge]) for edge in TARGET_BOX)
    half_x, half_y = fovea_wh_px[0] // 2, fovea_wh_px[1] // 2
    x, y = path[:, 0], path[:, 1]
    hits = (left <= x + half_x) & (right >= x - half_x) & (top <= y + half_y) & (bottom >= y - half_y)
    if crop_at_target and hits.any():
        end = int(hits.argmax()) + 1
        counts["cropped"] += end < len(path)
        path, hits = path[:end], hits[:end]
    if max_fixations is not None and len(path) > max_fixations:
        counts["truncated"] += 1
        path, hits = path[:max_fixations], hits[:max_fixations]
    return path, bool(len(hits) and hits[-1])


def _target(
    targets: dict[tuple[str, str], _Target], n_on_image: dict[str, int], trial: pd.Series, stimulus: pd.Series
) -> _Target:
    """The entry for this trial's stimulus and target, made where it is new."""
    category = _text(trial, "target") or NO_CATEGORY
    name = str(trial["stimulus"])
    if (name, category) not in targets:
        n_on_image[name] = n = n_on_image.get(name, 0) + 1
        file = f"{name}{'' if n == 1 else f'_{n}'}{Path(stimulus['path']).suffix or '.jpg'}"
        if not SAFE_NAME.fullmatch(file) or file in {other.file for other in targets.values()}:
            raise InputError(f"stimulus {name!r} cannot be written as {file!r}; give it another name")
        targets[name, category] = _Target(file, stimulus, category, trial)
    return targets[name, category]


def _limit(trial: pd.Series, max_fixations: int | None) -> int | None:
    """The most fixations that the trial may have, or None where nobody says."""
    saccades = trial.get("max_saccades")
    own = math.inf if saccades is None or pd.isna(saccades) else int(saccades) + 1
    limit = min(own, math.inf if max_fixations is None else max_fixations)
    return None if limit == math.inf else int(limit)


def _corners(trial: pd.Series) -> list[float]:
    left, top, right, bottom = (float(trial[edge]) for edge in TARGET_BOX)
    return [int(corner) if corner.is_integer() else corner for corner in (top, left, bottom, right)]


def _times(duration_s: NDArray[np.float64]) -> dict[str, list[float]]:
    """``T`` in ms, or nothing where a duration is not known: the format has no word for that."""
    if np.isnan(duration_s).any():
        return {}
    return {"T": [_milliseconds(seconds) for seconds in duration_s.tolist()]}


def _milliseconds(seconds: float) -> float:
    """The ms that give `seconds` back when divided by 1000, where there are such."""
    near = seconds * 1000.0
    if round(near) / 1000.0 == seconds:
        return round(near)
    around = [near, math.nextafter(near, math.inf), math.nextafter(near, 0.0)]
    return next((ms for ms in around if ms / 1000.0 == seconds), near)


def _write_images(target: _Target, folder: Path, copy: bool) -> str:
    """Copy the image and its target, and give the target's file name."""
    source, own = _text(target.stimulus, "path"), _text(target.trial, "target_path")
    name = f"{Path(target.file).stem}_target{Path(own).suffix if own else '.png'}"
    try:
        if copy and source:
            with written_aside(folder / _IMAGES / target.file) as aside:
                shutil.copyfile(source, aside)
        if copy and own:
            with written_aside(folder / _TARGETS / name) as aside:
                shutil.copyfile(own, aside)
        elif copy and source:
            left, top, right, bottom = (float(target.trial[edge]) for edge in TARGET_BOX)
            with Image.open(source) as image, written_aside(folder / _TARGETS / name) as aside:
                cut = image.crop((math.floor(left), math.floor(top), math.ceil(right), math.ceil(bottom)))
                (cut if cut.mode in ("L", "RGB") else cut.convert("RGB")).save(aside, "PNG")
    except OSError as error:  # what Pillow says of a file that is no image is one too
        reason = " ".join(str(error).split())
        raise InputError(f"{source}: cannot be copied ({reason}); replace the file or use copy_images=False") from error
    return name


def _text(row: pd.Series, column: str) -> str:
    """The text in that column; empty where the column or the text is missing."""
    value = row.get(column)
    return value if isinstance(value, str) else ""


def _properties(target: _Target, target_file: str, data: GazeDataset) -> dict[str, Any]:
    top, left, bottom, right = _corners(target.trial)
    start = [target.trial.get(column) for column in ("start_x_px", "start_y_px")]
    if any(value is None or pd.isna(value) for value in start):
        size = float(target.stimulus["width_px"]), float(target.stimulus["height_px"])
        start = np.mean(target.first_px, axis=0).tolist() if target.first_px else [edge / 2 for edge in size]
    return {
        "image": target.file,
        "target": target_file,
        "dataset": data.card.label,
        "target_matched_row": top,
        "target_matched_column": left,
        "target_height": bottom - top,
        "target_width": right - left,
        "image_height": int(target.stimulus["height_px"]),
        "image_width": int(target.stimulus["width_px"]),
        "initial_fixation_row": round(float(start[1])),
        "initial_fixation_column": round(float(start[0])),
        "target_object": target.category,
    }


def _info(
    targets: Mapping[tuple[str, str], _Target], data: GazeDataset, fovea_wh_px: tuple[int, int], longest: int
) -> dict[str, Any]:
    boxes = np.array([_corners(target.trial) for target in targets.values()])
    sizes = np.array([[t.stimulus["height_px"], t.stimulus["width_px"]] for t in targets.values()], dtype=int)
    return {
        "dataset_name": data.card.label,
        "number_of_images": len(targets),
        # Of images that differ, the largest; trials_properties.json has each one's own.
        "image_height": int(sizes[:, 0].max()),
        "image_width": int(sizes[:, 1].max()),
        "max_scanpath_length": longest,
        "receptive_size": [fovea_wh_px[1], fovea_wh_px[0]],
        "mean_target_size": [round(float(edge)) for edge in (boxes[:, 2:] - boxes[:, :2]).mean(axis=0)],
        "images_dir": f"{_IMAGES}/",
        "targets_dir": f"{_TARGETS}/",
        "scanpaths_dir": f"{_SCANPATHS}/",
    }


def _write_json(path: Path, content: Any) -> None:
    with written_aside(path) as aside:
        aside.write_text(json.dumps(content, indent=4, allow_nan=False), encoding="utf-8")
