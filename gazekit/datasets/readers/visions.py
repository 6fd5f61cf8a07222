"""ViSioNS JSON (Travi et al. 2022): target-present visual search, one trial per subject and image; with durations.

A common format for several datasets. ``dataset_info.json`` names the folders of images, targets and
scanpaths; ``trials_properties.json`` lists the images with their targets; ``subjNN_scanpaths.json`` holds
one subject's trials, keyed by image. Boxes are ``[row1, col1, row2, col2]``, from 0, rows first, the second
row and column just past the box; X and Y are px of the image, T durations in ms.

:mod:`gazekit.datasets.visions_writer` writes it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from gazekit.datasets.card import Card
from gazekit.datasets.reading import Tables, TrialCollector, list_stimuli, not_authors, number, numbers, read_json
from gazekit.errors import InputError
from gazekit.tables import TARGET_BOX

# A name and nothing else: it becomes part of a path.
SAFE_NAME = re.compile(r"[\w()+,@-][\w .()+,@-]*", re.ASCII)
# What the authors' files say where nobody has named the target's category yet.
NO_CATEGORY = "TBD"
_SUBJECT_FILE = re.compile(r"subj([A-Za-z0-9_-]+)_scanpaths\.json")
_INFO, _PROPERTIES = "dataset_info.json", "trials_properties.json"
_EXPECTED = {
    _INFO: "a mapping with images_dir, targets_dir and scanpaths_dir",
    _PROPERTIES: "a list of mappings with image, target, image_height, image_width and the target's box",
    "scanpaths": "a mapping from image to a mapping with X, Y, T, target_bbox and target_found",
}


@dataclass(frozen=True)
class _Image:
    """What ``trials_properties.json`` says of one image."""

    stimulus: str
    size_wh_px: tuple[int, int]
    target_file: str
    category: str
    box: dict[str, float]
    start_px: tuple[float, float]


def read_visions(folder: Path, card: Card) -> Tables:
    """One row per fixation; ``t_s`` is NaN (onsets are not in the format).

    Stimuli are those of ``trials_properties.json``, named without the suffix; subjects ``s01`` for
    ``subj01_scanpaths.json``, or the name itself where it is no number. A trial's columns beyond the common
    ones are target, target_path, target_present (always true), the target's box, found, max_saccades (one
    less than max_fixations), start_x_px, start_y_px, and fovea_width_px, fovea_height_px, the size of the
    box that the format compares with the target's. Durations are NaN where a trial has no ``T``, as in the
    files of models.

    Raises:
        InputError: A file is missing, damaged, or not in the format.

    """
    info = read_json(folder / _INFO, card, _EXPECTED[_INFO])
    if not isinstance(info, dict):
        not_authors(folder / _INFO, card, _EXPECTED[_INFO], f"a {type(info).__name__}")
    places = [_folder(info, key, folder, card) for key in ("images_dir", "targets_dir", "scanpaths_dir")]
    images_dir, targets_dir, scanpaths_dir = places
    images = _images(folder / _PROPERTIES, card)
    collector = TrialCollector(card)
    counts = {"cut": 0, "box": 0, "unnamed": 0, "timeless": 0}
    for path, subject in _subject_files(scanpaths_dir, card):
        content = read_json(path, card, _EXPECTED["scanpaths"])
        if not isinstance(content, dict):
            not_authors(path, card, _EXPECTED["scanpaths"], f"a {type(content).__name__}")
        for name, record in content.items():
            where = f"{path}: {name[:80]!r}"
            if name not in images:
                _refuse(where, f"this image is not in {_PROPERTIES}, expected one that is", card)
            if not isinstance(record, dict):
                not_authors(where, card, _EXPECTED["scanpaths"], f"a {type(record).__name__}")
            _add(collector, counts, where, subject, record, images[name], targets_dir, card)
    said = {
        "cut": "T was longer than X and Y in {} trials and was cut to their length; where the conversion merged "
        "fixations, the durations after the first merged one belong to earlier fixations, which the files do not tell",
        "box": "the box of {} trials differs from the one in trials_properties.json; the trial's own is used",
        "unnamed": "target_object is 'TBD' in {} trials; target is the name of the target's image instead",
        "timeless": "{} trials have no T; their durations are NaN",
    }
    fixations, trials = collector.tables(scanpaths_dir)
    stimuli = list_stimuli(
        {image.stimulus: images_dir / name for name, image in images.items()},
        card,
        sizes_wh_px={image.stimulus: image.size_wh_px for image in images.values()},
    )
    changes = tuple(text.format(counts[key]) for key, text in said.items() if counts[key])
    return Tables(fixations, trials, stimuli, changes)


def _folder(info: Mapping[str, Any], key: str, folder: Path, card: Card) -> Path:
    name = info.get(key)
    if not isinstance(name, str) or not SAFE_NAME.fullmatch(name.removesuffix("/")):
        _refuse(str(folder / _INFO), f"{key} is {name!r:.80}, expected the name of a folder beside it", card)
    return folder / name.removesuffix("/")


def _images(path: Path, card: Card) -> dict[str, _Image]:
    """File name -> what is said of the image."""
    content = read_json(path, card, _EXPECTED[_PROPERTIES])
    if not isinstance(content, list):
        not_authors(path, card, _EXPECTED[_PROPERTIES], f"a {type(content).__name__}")
    images: dict[str, _Image] = {}
    stimuli: set[str] = set()
    for place, entry in enumerate(content):
        where = f"{path}: entry {place}"
        if not isinstance(entry, dict):
            not_authors(where, card, _EXPECTED[_PROPERTIES], f"a {type(entry).__name__}")
        name, target = (_text(entry, key, where, card) for key in ("image", "target"))
        for key, value in (("image", name), ("target", target)):
            if not SAFE_NAME.fullmatch(value):
                _refuse(where, f"{key} is {value!r:.80}, expected a file name", card)
        size = tuple(number(entry, key, where, card) for key in ("image_width", "image_height"))
        if not all(edge == int(edge) and 0 < edge < 2**31 for edge in size):
            _refuse(where, f"the image is {size[0]} by {size[1]} px, expected whole numbers above 0", card)
        row, column, height, width = (
            number(entry, f"target_{key}", where, card) for key in ("matched_row", "matched_column", "height", "width")
        )
        start_y, start_x = (number(entry, f"initial_fixation_{key}", where, card) for key in ("row", "column"))
        if (stimulus := Path(name).stem) in stimuli:
            _refuse(where, f"there was an image named {stimulus!r} before, expected each once", card)
        stimuli.add(stimulus)
        images[name] = _Image(
            stimulus,
            (int(size[0]), int(size[1])),
            target,
            _text(entry, "target_object", where, card),
            dict(zip(TARGET_BOX, (column, row, column + width, row + height), strict=True)),
            (start_x, start_y),
        )
    return images


def _subject_files(folder: Path, card: Card) -> list[tuple[Path, str]]:
    """(file, name of the subject), in the order of the names."""
    try:
        matches = [(path, _SUBJECT_FILE.fullmatch(path.name)) for path in sorted(folder.iterdir())]
    except OSError as error:
        raise InputError(f"{folder}: cannot be read ({error}); {card.mend}") from error
    files = [(path, subject_name(match[1])) for path, match in matches if match]
    if not files:
        _refuse(str(folder), "no subjNN_scanpaths.json here, expected one per subject", card)
    return files


def subject_name(named: str) -> str:
    """The subject's name in the tables: ``s01`` for 01; anything but a number stays as it is."""
    return f"s{named}" if named.isdigit() else named


def _add(
    collector: TrialCollector,
    counts: dict[str, int],
    where: str,
    subject: str,
    record: Mapping[str, Any],
    image: _Image,
    targets_dir: Path,
    card: Card,
) -> None:
    """One trial to `collector`."""
    if subject_name(named := _text(record, "subject", where, card)) != subject:
        _refuse(where, f"subject is {named!r:.80}, expected {subject.removeprefix('s')!r} as in the file's name", card)
    x, y = (numbers(record, key, where, card) for key in ("X", "Y"))
    if len(x) != len(y):
        _refuse(where, f"{len(x)} X and {len(y)} Y, expected equally many", card)
    duration_s = None
    if "T" in record:
        duration_ms = numbers(record, "T", where, card)
        if len(duration_ms) < len(x):
            _refuse(where, f"{len(x)} X and {len(duration_ms)} T, expected as many T or more", card)
        if duration_ms and min(duration_ms) < 0:
            _refuse(where, f"T holds {min(duration_ms)}, expected durations in ms", card)
        counts["cut"] += len(duration_ms) > len(x)
        duration_s = [value / 1000.0 for value in duration_ms[: len(x)]]
    else:
        counts["timeless"] += 1
    corners = numbers(record, "target_bbox", where, card)
    if len(corners) != 4 or corners[2] <= corners[0] or corners[3] <= corners[1]:
        _refuse(where, f"target_bbox is {corners!r:.80}, expected [row1, column1, row2, column2]", card)
    row1, column1, row2, column2 = corners
    box: dict[str, Any] = dict(zip(TARGET_BOX, (column1, row1, column2, row2), strict=True))
    counts["box"] += box != image.box
    found = record.get("target_found")
    if not isinstance(found, bool):
        _refuse(where, f"target_found is {found!r:.80}, expected true or false", card)
    size = tuple(number(record, f"image_{key}", where, card) for key in ("width", "height"))
    if size != image.size_wh_px:
        stated = f"{image.size_wh_px[0]}x{image.size_wh_px[1]} as in {_PROPERTIES}"
        _refuse(where, f"the image is {size[0]} by {size[1]} px, expected {stated}", card)
    max_fixations = number(record, "max_fixations", where, card)
    if max_fixations != int(max_fixations) or not 1 <= max_fixations < 2**31:
        _refuse(where, f"max_fixations is {max_fixations}, expected a number of fixations", card)
    target = _text(record, "target_object", where, card)
    counts["unnamed"] += target == NO_CATEGORY
    target_path = targets_dir / image.target_file
    collector.add(
        where,
        subject,
        image.stimulus,
        x,
        y,
        duration_s=duration_s,
        target=Path(image.target_file).stem if target == NO_CATEGORY else target,
        target_path=str(target_path) if target_path.is_file() else "",
        target_present=True,
        **box,
        found=found,
        max_saccades=int(max_fixations) - 1,
        start_x_px=image.start_px[0],
        start_y_px=image.start_px[1],
        fovea_width_px=number(record, "receptive_width", where, card),
        fovea_height_px=number(record, "receptive_height", where, card),
    )


def _text(record: Mapping[str, Any], key: str, where: str, card: Card) -> str:
    value = record.get(key)
    # Text that UTF-8 cannot hold passes JSON, and fails wherever a table is stored.
    if not isinstance(value, str) or not value.isprintable():
        _refuse(where, f"{key} is {'missing' if key not in record else f'{value!r:.80}'}, expected text", card)
    return value


def _refuse(where: str, what: str, card: Card) -> NoReturn:
    raise InputError(f"{where}: {' '.join(what.split())}; {card.mend}")
