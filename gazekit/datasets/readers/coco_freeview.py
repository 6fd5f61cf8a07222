"""COCO-FreeView (Chen et al. 2022): 10 subjects freely view the images of COCO-Search18; with durations.

Read from the authors' ``COCOFreeView_fixations_trainval.json``. The trials on the test images are withheld
for a benchmark; a ``COCOFreeView_fixations_test.json`` beside it is read too.
"""

from __future__ import annotations

from pathlib import Path

from gazekit.datasets.card import Card
from gazekit.datasets.coco_trials import inside_frame, list_images, read_trials
from gazekit.datasets.reading import Tables, TrialCollector
from gazekit.errors import InputError

_FILES = ("COCOFreeView_fixations_trainval.json", "COCOFreeView_fixations_test.json")


def read_coco_freeview(folder: Path, card: Card, drop_outside: bool = False) -> Tables:
    """One row per fixation, the initial one at the center included; ``t_s`` is NaN (onsets are not released).

    Either file may be missing, but not both. Stimuli are named without ``.jpg``, as in COCO-Search18; the
    trial table's released_split is train, valid or test.

    Args:
        folder: The dataset's folder.
        card: Its card.
        drop_outside: Drop fixations outside the 1680x1050 px, as HAT does.

    Raises:
        InputError: The option is no switch; no file is there; a file is damaged or not the authors'.

    """
    if not isinstance(drop_outside, bool):
        raise InputError(f"coco_freeview: drop_outside is {drop_outside!r}, expected True or False")
    released = [trial for name in _FILES if (folder / name).is_file() for trial in read_trials(folder / name, card)[0]]
    if not released:
        raise InputError(f"{folder}: no trial in any of {', '.join(_FILES)}; one of the files is needed; {card.mend}")
    collector = TrialCollector(card)
    n_outside = n_emptied = 0
    for trial in released:
        if trial.record.get("condition") in ("present", "absent"):
            raise InputError(f"{trial.where}: a trial of visual search, expected free viewing; {card.mend}")
        positions = zip(trial.x_px, trial.y_px, strict=True)
        keep = [i for i, xy in enumerate(positions) if not drop_outside or inside_frame(*xy)]
        n_outside += len(trial.x_px) - len(keep)
        if trial.x_px and not keep:
            n_emptied += 1
            continue
        collector.add(
            trial.where,
            trial.subject,
            Path(trial.image).stem,
            [trial.x_px[i] for i in keep],
            [trial.y_px[i] for i in keep],
            duration_s=[trial.duration_s[i] for i in keep],
            released_split=trial.split,
        )
    said = (
        (n_outside, "fixations outside the 1680x1050 px were dropped (drop_outside)"),
        (n_emptied, "trials without a fixation inside the 1680x1050 px were left out (drop_outside)"),
    )
    fixations, trials = collector.tables(folder)
    stimuli = list_images(folder, card, dict.fromkeys(trial.image for trial in released))
    return Tables(fixations, trials, stimuli, tuple(f"{n} {text}" for n, text in said if n))
