"""COCO-Search18 (Chen et al. 2021): 10 subjects search for 18 categories of objects, present or absent; with durations.

Read from the authors' ``coco_search18_fixations_TP_*.json`` (target present) and
``coco_search18_fixations_TA_*.json`` (target absent). The release is of train and validation trials; the
fixations on the test images were withheld, and copies of them circulate in two versions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gazekit.datasets.card import Card
from gazekit.datasets.coco_trials import CocoTrial, inside_frame, list_images, read_trials
from gazekit.datasets.reading import Tables, TrialCollector, number, numbers
from gazekit.errors import InputError
from gazekit.registry import unknown_name
from gazekit.tables import TARGET_BOX

CONDITIONS = ("both", "present", "absent")
RELEASES = ("split1", "split2")
CATEGORIES = (
    "bottle", "bowl", "car", "chair", "clock", "cup", "fork", "keyboard", "knife", "laptop", "microwave", "mouse",
    "oven", "potted plant", "sink", "stop sign", "toilet", "tv",
)  # fmt: skip
# The older archive of target-absent trials unpacks to a folder; everything else to where it is put.
_PLACES = ("", "coco_search18_fixations_TA")


def read_coco_search18(
    folder: Path,
    card: Card,
    condition: str = "both",
    release: str = "split1",
    correct_only: bool = False,
    fixated_target_only: bool = False,
    drop_outside: bool = False,
    cut_at_target: bool = False,
) -> Tables:
    """One row per fixation, the initial one at the center included; ``t_s`` is NaN (onsets are not released).

    Any of the files may be missing, but not all. Stimuli are the images of every file that is there, named
    without ``.jpg``; the options choose trials and fixations, never stimuli. A trial's columns beyond the common ones
    are target (the category), target_present, the target's box (NaN where it is absent), found (the flag
    ``fixOnTarget``, where the file has it), correct, response_time_s (NaN where not released) and
    released_split (train, valid, test).

    Args:
        folder: The dataset's folder.
        card: Its card.
        condition: Trials with the target ``present``, ``absent``, or ``both``.
        release: Division into train and valid: ``split1`` is the paper's, ``split2`` follows COCO 2014.
            Only target-present trials come in both.
        correct_only: Keep trials with the right answer, as published settings of IRL, HAT and Gazeformer do.
        fixated_target_only: Keep target-present trials only where the target was fixated, as HAT does: by
            the file's flag, or by a fixation strictly inside the box where the file has no flag.
        drop_outside: Drop fixations outside the 1680x1050 px, as IRL, HAT and Gazeformer do.
        cut_at_target: End a target-present trial with its first fixation strictly inside the box, as IRL, HAT
            and Gazeformer do; this also makes the two versions of the test file comparable.

    Raises:
        InputError: An option is unknown; no file is there; a file is damaged or not the authors'.

    """
    _check_options(condition, release, correct_only, fixated_target_only, drop_outside, cut_at_target)
    released, changes = _released(folder, card, release)
    counts = dict.fromkeys(("repeated", "boxes", "wrong", "unfixated", "by_box", "outside", "emptied", "cut"), 0)
    trials, seen = TrialCollector(card), set()
    for trial, present in released:
        columns = _columns(trial, present, card)
        counts["boxes"] += not present and trial.record.get("bbox") is not None
        if condition not in ("both", "present" if present else "absent"):
            continue
        if correct_only and not columns["correct"]:
            counts["wrong"] += 1
            continue
        on_target = _on_target(trial, columns) if present else []
        if fixated_target_only and present:
            flag = columns["found"]
            counts["by_box"] += flag is None
            if not (any(on_target) if flag is None else flag):
                counts["unfixated"] += 1
                continue
        path = list(zip(trial.x_px, trial.y_px, trial.duration_s, strict=True))
        if cut_at_target and True in on_target:
            counts["cut"] += on_target.index(True) + 1 < len(path)
            path = path[: on_target.index(True) + 1]
        if drop_outside and path:
            inside = [fixation for fixation in path if inside_frame(*fixation[:2])]
            counts["outside"] += len(path) - len(inside)
            path = inside
            if not path:
                counts["emptied"] += 1
                continue
        key = (trial.subject, trial.image, columns["target"], present)
        counts["repeated"] += key in seen
        seen.add(key)
        x, y, duration = zip(*path, strict=True) if path else ((), (), ())
        trials.add(trial.where, trial.subject, Path(trial.image).stem, x, y, duration_s=duration, **columns)
    said = {
        "boxes": "{} target-absent trials have a box, which is left out",
        "wrong": "{} trials with a wrong answer were left out (correct_only)",
        "unfixated": "{} trials without a fixation on their target were left out (fixated_target_only)",
        "by_box": "{} trials have no flag fixOnTarget; fixations strictly inside the box decided instead",
        "cut": "{} trials were ended with the first fixation on their target (cut_at_target)",
        "outside": "{} fixations outside the 1680x1050 px were dropped (drop_outside)",
        "emptied": "{} trials without a fixation inside the 1680x1050 px were left out (drop_outside)",
        "repeated": "{} trials repeat the subject, image and target of an earlier one; they are kept",
    }
    changes += [text.format(counts[name]) for name, text in said.items() if counts[name]]
    fixations, trial_table = trials.tables(folder)
    stimuli = list_images(folder, card, dict.fromkeys(trial.image for trial, _ in released))
    return Tables(fixations, trial_table, stimuli, tuple(changes))


def _check_options(condition: str, release: str, *switches: bool) -> None:
    if condition not in CONDITIONS:
        raise unknown_name("condition of coco_search18", condition, list(CONDITIONS))
    if release not in RELEASES:
        raise unknown_name("release of coco_search18", release, list(RELEASES))
    names = ("correct_only", "fixated_target_only", "drop_outside", "cut_at_target")
    for name, value in zip(names, switches, strict=True):
        if not isinstance(value, bool):
            raise InputError(f"coco_search18: {name} is {value!r}, expected True or False")


def _released(folder: Path, card: Card, release: str) -> tuple[list[tuple[CocoTrial, bool]], list[str]]:
    """(trial, target present) of every file that is there, and which version of each test file it is."""
    wanted = {
        f"coco_search18_fixations_TP_train_{release}.json": ("present", ("train",)),
        f"coco_search18_fixations_TP_validation_{release}.json": ("present", ("valid",)),
        "coco_search18_fixations_TP_test.json": ("present", ("test",)),
        "coco_search18_fixations_TA_trainval.json": ("absent", ("train", "valid")),
        "coco_search18_fixations_TA_test.json": ("absent", ("test",)),
    }
    released: list[tuple[CocoTrial, bool]] = []
    changes: list[str] = []
    for name, (condition, splits) in wanted.items():
        path = next((folder / place / name for place in _PLACES if (folder / place / name).is_file()), None)
        if path is None:
            continue
        trials, n_cut = read_trials(path, card, cut_durations=splits == ("test",))
        for trial in trials:
            if trial.record.get("condition") != condition:
                found = repr(trial.record.get("condition"))[:80]
                raise InputError(f"{trial.where}: condition is {found}, expected '{condition}'; {card.mend}")
        if other := sum(trial.split not in splits for trial in trials):
            changes.append(f"{name}: {other} trials name another split than the file does; the trial's own is used")
        if n_cut:
            changes.append(
                f"{name} is the version of before July 2022, with X and Y cut at the first fixation on the target: "
                f"T was cut to the length of X in {n_cut} of {len(trials)} trials"
            )
        elif splits == ("test",):
            changes.append(
                f"{name} is the complete version: X, Y and T are equally long in all {len(trials)} trials, "
                "and nothing was cut"
            )
        released += [(trial, condition == "present") for trial in trials]
    if not released:
        raise InputError(f"{folder}: no trial in any of {', '.join(wanted)}; one of the files is needed; {card.mend}")
    return released, changes


def _columns(trial: CocoTrial, present: bool, card: Card) -> dict[str, Any]:
    """What the trial table says of this trial beyond the common columns."""
    record, where = trial.record, trial.where
    target, correct, flag = record.get("task"), record.get("correct"), record.get("fixOnTarget")
    if target not in CATEGORIES:
        raise InputError(f"{where}: task is {repr(target)[:80]}, expected one of {list(CATEGORIES)}; {card.mend}")
    if correct not in (0, 1):
        raise InputError(f"{where}: correct is {repr(correct)[:80]}, expected 0 or 1; {card.mend}")
    if flag is not None and not isinstance(flag, bool):
        raise InputError(f"{where}: fixOnTarget is {repr(flag)[:80]}, expected true or false; {card.mend}")
    return {
        "target": target,
        "target_present": present,
        **(_box(record, where, card) if present else dict.fromkeys(TARGET_BOX, math.nan)),
        # A target that is not there cannot be found.
        "found": flag if present else None,
        "correct": bool(correct),
        "response_time_s": _response_time_s(record, where, card),
        "released_split": trial.split,
    }


def _box(record: Mapping[str, Any], where: str, card: Card) -> dict[str, float]:
    box = numbers(record, "bbox", where, card)
    if len(box) != 4 or box[2] <= 0 or box[3] <= 0:
        raise InputError(f"{where}: bbox is {repr(box)[:80]}, expected x, y, width and height; {card.mend}")
    x, y, width, height = box
    return dict(zip(TARGET_BOX, (x, y, x + width, y + height), strict=True))


def _response_time_s(record: Mapping[str, Any], where: str, card: Card) -> float:
    if record.get("RT") is None:
        return math.nan
    time_ms = number(record, "RT", where, card)
    if time_ms < 0:
        raise InputError(f"{where}: RT is {time_ms}, expected a time in ms; {card.mend}")
    return time_ms / 1000.0


def _on_target(trial: CocoTrial, columns: Mapping[str, Any]) -> list[bool]:
    """Per fixation, True strictly inside the target's box: the rule of the published step counts."""
    left, top, right, bottom = (columns[edge] for edge in TARGET_BOX)
    return [left < x < right and top < y < bottom for x, y in zip(trial.x_px, trial.y_px, strict=True)]
