"""FixaTons folders (Zanca et al. 2018): images, and one text file per subject and image with `x y start end` in s.

Of the two layouts that the collection's own code knows, both are read, whatever the case of the folder names::

    STIMULI/IMAGE.jpg   SCANPATHS/IMAGE/SUBJECT           (the older one; the writer's)
    stimuli/IMAGE.jpg   scanpaths/IMAGE_subject_SUBJECT   (the newer one)

Fixation and saliency maps beside them follow from the scanpaths and are not read.
"""

from __future__ import annotations

import math
from decimal import Context, Decimal
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gazekit.datasets.card import Card
from gazekit.datasets.reading import Tables, TrialCollector, list_stimuli
from gazekit.errors import InputError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".gif")
_BETWEEN = "_subject_"
_ROW = "rows of 'x y start end' (px and s, separated by blanks)"
# Sums and differences of any two numbers that a float can be are exact with so many digits.
EXACT = Context(prec=1100)


def read_fixatons(folder: Path, card: Card) -> Tables:
    """One row per fixation, in the order of the file; ``duration_s`` is end minus start.

    Stimuli are named as their image without the suffix, subjects as their file. An empty file is a
    trial without fixations. Durations are differences of the decimal numbers as written, so that 0.3
    minus 0.1 is 0.2.

    Raises:
        InputError: A folder or image is missing, a scanpath has no image, two images have one name, or
            a file is not of such rows.

    """
    hidden: list[Path] = []
    others: list[Path] = []
    images: dict[str, Path] = {}
    stimulus_folder, scanpath_folder = _subfolder(folder, "stimuli", card), _subfolder(folder, "scanpaths", card)
    for path in _visible(stimulus_folder, hidden):
        if path.suffix.lower() not in IMAGE_SUFFIXES or not path.is_file():
            others.append(path)
        elif path.stem in images:
            raise InputError(f"{path}: a second image named {path.stem!r}; {card.mend}")
        else:
            images[path.stem] = path
    trials = TrialCollector(card)
    seen: set[str] = set()
    for path in _visible(scanpath_folder, hidden):
        if path.is_dir():
            stimulus, files = path.name, {file.name: file for file in _visible(path, hidden)}
        elif _BETWEEN in path.name:
            stimulus, subject = _image_and_subject(path, images)
            files = {subject: path}
        else:
            others.append(path)
            continue
        if stimulus not in images:
            raise InputError(f"{path}: no image named {stimulus!r} in {stimulus_folder.name}; {card.mend}")
        seen.add(stimulus)
        for subject, file in files.items():
            x_px, y_px, t_s, duration_s = _read_rows(file, card)
            trials.add(str(file), subject, stimulus, x_px, y_px, t_s, duration_s)
    fixations, trial_table = trials.tables(scanpath_folder)
    changes = []
    if hidden:
        changes.append(f"{len(hidden)} hidden files were left out (first: {hidden[0].relative_to(folder)}).")
    if others:
        changes.append(
            f"{len(others)} files that are neither image nor scanpath were left out (first: "
            f"{others[0].relative_to(folder)})."
        )
    if unseen := len(images.keys() - seen):
        changes.append(f"{unseen} images have no scanpath; they are listed as stimuli without a trial.")
    return Tables(fixations, trial_table, list_stimuli(images, card), tuple(changes))


def _subfolder(folder: Path, name: str, card: Card) -> Path:
    found = [path for path in _visible(folder, []) if path.name.lower() == name and path.is_dir()]
    if len(found) != 1:
        names = " and ".join(path.name for path in found) or "none"
        raise InputError(f"{folder}: expected one folder {name.upper()} or {name}, found {names}; {card.mend}")
    return found[0]


def _visible(folder: Path, hidden: list[Path]) -> list[Path]:
    """What is in the folder, sorted; hidden files are noted in `hidden`."""
    try:
        paths = sorted(folder.iterdir())
    except OSError as error:
        raise InputError(f"{folder}: cannot be read ({error})") from error
    hidden += [path for path in paths if path.name.startswith(".")]
    return [path for path in paths if not path.name.startswith(".")]


def _image_and_subject(path: Path, images: dict[str, Path]) -> tuple[str, str]:
    """Both names may themselves hold the word between them; an image of that name decides."""
    words = path.name.split(_BETWEEN)
    cuts = [(_BETWEEN.join(words[:i]), _BETWEEN.join(words[i:])) for i in range(1, len(words))]
    known = [cut for cut in cuts if cut[0] in images]
    if len(known) > 1:
        raise InputError(f"{path}: could be of image {known[0][0]!r} or {known[1][0]!r}; rename one of the images")
    return known[0] if known else cuts[0]


def _read_rows(path: Path, card: Card) -> list[NDArray[np.float64]]:
    """x, y, onset and duration of a scanpath file."""
    try:
        # One byte is one letter; whatever is not a digit fails below.
        lines = path.read_text(encoding="latin-1").splitlines()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error}); {card.mend}") from error
    rows = []
    for number, line in enumerate(lines, start=1):
        if not (words := line.split()):
            continue
        try:
            # Decimal and float both read 1_000, which no other program would.
            if len(words) != 4 or "_" in line:
                raise ValueError
            x_px, y_px, start_s, end_s = map(float, words)
            if not all(map(math.isfinite, (x_px, y_px, start_s, end_s))):
                raise ValueError
            duration_s = float(EXACT.subtract(Decimal(words[3]), Decimal(words[2])))
        except (ValueError, ArithmeticError) as error:
            raise InputError(f"{path}: line {number} is {line[:60]!r}, expected {_ROW}; {card.mend}") from error
        if duration_s < 0:
            raise InputError(f"{path}: line {number} ends at {end_s} s, before it starts at {start_s} s; {card.mend}")
        rows.append((x_px, y_px, start_s, duration_s))
    return list(np.array(rows, dtype=np.float64).reshape(-1, 4).T)
