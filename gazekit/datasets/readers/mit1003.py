"""MIT1003 (Judd et al. 2009): 1,003 photographs, 15 subjects, 3 s of free viewing; gaze samples at 240 Hz.

Read from the authors' ``ALLSTIMULI/STEM.jpeg`` and ``DATA/SUBJECT/STEM.mat``. Each ``.mat`` holds one
struct, named like the image as far as MATLAB allows, and ``STRUCT.DATA(1).eyeData`` has one row
(x, y, ...) per sample. Fixations are not released but detected in the samples, with the authors' rules
(:mod:`gazekit.datasets.fixation_detection`). What is kept of them, and how it is counted, follows
pysaliency (pysaliency/external_datasets/mit.py), whose numbers the field compares with.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gazekit.datasets.card import Card
from gazekit.datasets.fixation_detection import DetectedFixations, detect_fixations
from gazekit.datasets.images import read_rgb
from gazekit.datasets.reading import Tables, TrialCollector, list_stimuli, not_authors, read_mat
from gazekit.errors import InputError
from gazekit.registry import unknown_name

_RATE_HZ = 240.0
_ONE_SIZE_WH_PX = (1024, 768)
_LANDSCAPE_WH_PX, _PORTRAIT_WH_PX = (1024, 768), (768, 1024)
_LONGEST_VARIABLE = 63  # MATLAB's namelengthmax
_EXPECTED = "one struct named like the file, with DATA(1).eyeData: a row (x, y, state) per sample"
# Beside the recordings of a subject; the order of the images and the calibration (the authors' README).
_NO_RECORDINGS = {"shuff_stimnames", "CalibrationData"}
# JPEG blurs the white points: at qualities from 50 up, points come back exactly with a threshold here.
_BRIGHT = 128
# 15 subjects make some hundred fixations on an image in 3 s.
_MOST_POINTS = 1000

_FIRST_FIXATION = ("drop", "keep", "replace")
_STIMULI = ("all", "onesize")
_SIZE = ("original", "two_sizes")
_OUTSIDE = ("drop", "keep")
_SOURCE = ("samples", "maps")
# As pysaliency counts them.
_N_ONESIZE, _N_FIXATIONS_ONESIZE = 463, 48_771


def read_mit1003(
    folder: Path,
    card: Card,
    *,
    first_fixation: str = "drop",
    stimuli: str = "all",
    size: str = "original",
    outside: str = "drop",
    source: str = "samples",
) -> Tables:
    """One row per fixation, as published with the defaults; positions count from 1, as in MATLAB.

    ``t_s`` is the number of the fixation's first sample, counted from 1, over 240 Hz, so that a fixation
    from the onset starts at 1/240 s; ``duration_s`` counts its samples. Stimuli are the images, named
    without ``.jpeg`` and in natural order (2 before 10); subjects are the folders in ``DATA``.

    Args:
        folder: The release.
        card: Its card.
        first_fixation: The first fixation of a trial, which the design forced to the center: ``"drop"``
            it; ``"keep"`` it, unless `outside` drops it; or ``"replace"`` it where it is outside, by the
            image's center at 0 s, with its duration.
        stimuli: ``"all"``, or ``"onesize"`` for the images of 1024x768 px.
        size: ``"original"``, or ``"two_sizes"`` for frames of 1024x768 px where an image is wider than
            high and of 768x1024 px elsewhere, as DeepGaze III has them. Fixations are scaled and the
            stimulus table has the frame's size; the image file stays, and whoever reads it stretches it
            to that size, as the data module does.
        outside: Fixations that are not in 0 < x < width, 0 < y < height (blinks are negative):
            ``"drop"`` or ``"keep"``. A fixation without a position is always dropped.
        source: ``"samples"``, or ``"maps"`` for the authors' ``ALLFIXATIONMAPS/STEM_fixPts.jpg``: one
            trial per image, of a subject named ``all``, with one fixation per white pixel, at its index
            from 0 and in raster order; ``t_s`` and ``duration_s`` are NaN.

    Raises:
        InputError: An option has no such value, or a file is missing, damaged, or not the authors'.

    """
    for option, value, known in (
        ("first_fixation", first_fixation, _FIRST_FIXATION),
        ("stimuli", stimuli, _STIMULI),
        ("size", size, _SIZE),
        ("outside", outside, _OUTSIDE),
        ("source", source, _SOURCE),
    ):
        if value not in known:
            raise unknown_name(f"value for {card.name}'s option {option}", value, list(known))
    if source == "maps" and (first_fixation, outside) != ("drop", "drop"):
        raise InputError(
            f"{card.name}: source='maps' has no first fixation and none outside; "
            "leave out first_fixation and outside, or read source='samples'"
        )
    images = list_images(folder, card)
    listed, changes = _selected(list_stimuli(images, card), stimuli)
    read = _Reading(folder, card, listed)
    if source == "maps":
        fixations, trials = read.maps()
    else:
        fixations, trials = read.samples(first_fixation, outside)
    changes += read.changes
    if size == "two_sizes":
        fixations, listed, change = _in_two_sizes(fixations, listed)
        changes.append(change)
    published = (first_fixation, outside, source, size) == ("drop", "drop", "samples", "original")
    expect = None if published and stimuli == "all" else _expected(card, stimuli, source, published)
    forced = source == "samples" and first_fixation != "drop"
    return Tables(fixations, trials, listed, tuple(changes), expect=expect, forced_initial=forced)


def _expected(card: Card, stimuli: str, source: str, published: bool) -> dict[str, Any]:
    """What the card's counts become under these options; moments are known for the published ones alone."""
    expect = {"stimuli": card.expect["stimuli"] if stimuli == "all" else _N_ONESIZE}
    if source == "samples":
        expect |= {"subjects": card.expect["subjects"], "trials": expect["stimuli"] * card.expect["subjects"]}
    if published and stimuli == "onesize":
        expect |= {"fixations": _N_FIXATIONS_ONESIZE}
    return expect


def unpacked(folder: Path, name: str) -> Path:
    """The folder that the archive `name` makes, also where it was unpacked into a folder of its own name."""
    return folder / name / name if (folder / name / name).is_dir() else folder / name


def list_images(folder: Path, card: Card) -> dict[str, Path]:
    """Stimulus -> image, in natural order of the file names.

    Raises:
        InputError: There is none.

    """
    below = unpacked(folder, "ALLSTIMULI")
    paths = [path for path in below.iterdir() if path.suffix == ".jpeg"] if below.is_dir() else []
    if not paths:
        raise InputError(f"{below}: holds no .jpeg; {card.mend}")
    return {path.stem: path for path in sorted(paths, key=lambda path: natural(path.name))}


def natural(name: str) -> list[tuple[int, str]]:
    """Sort key that puts 2.jpeg before 10.jpeg; equal to pysaliency's order, which says what the first image is."""
    parts = re.split(r"(\d+)", name)
    return [(int(part), "") if at % 2 else (0, part) for at, part in enumerate(parts)]


def _selected(listed: pd.DataFrame, stimuli: str) -> tuple[pd.DataFrame, list[str]]:
    if stimuli == "all":
        return listed, []
    width, height = _ONE_SIZE_WH_PX
    chosen = listed[(listed["width_px"] == width) & (listed["height_px"] == height)].reset_index(drop=True)
    if chosen.empty:
        raise InputError(f"stimuli='onesize': none of {len(listed)} images is {width}x{height} px; read stimuli='all'")
    return chosen, [f"{len(listed) - len(chosen)} images that are not {width}x{height} px were left out."]


def _in_two_sizes(fixations: pd.DataFrame, listed: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame, str]:
    own = listed[["width_px", "height_px"]].to_numpy()
    # DeepGaze III's training code treats a square as it treats a portrait.
    frame = np.where((own[:, 1] < own[:, 0])[:, None], _LANDSCAPE_WH_PX, _PORTRAIT_WH_PX)
    scale = pd.DataFrame(frame / own, index=listed["stimulus"]).loc[fixations["stimulus"]].to_numpy()
    scaled = fixations.assign(x_px=fixations["x_px"] * scale[:, 0], y_px=fixations["y_px"] * scale[:, 1])
    n = int((frame != own).any(axis=1).sum())
    change = (
        f"{n} of {len(listed)} stimuli, with their fixations, are in a frame of 1024x768 or 768x1024 px that is not "
        "their image's size; the image is to be stretched to it when it is read."
    )
    return scaled, listed.assign(width_px=frame[:, 0], height_px=frame[:, 1]), change


@dataclass
class _Kept:
    """Counts of what became of the detected fixations."""

    detected: int = 0
    first: int = 0
    outside: int = 0
    unknown: int = 0
    replaced: int = 0


class _Reading:
    """Reads the trials of the listed stimuli and notes what it changes."""

    def __init__(self, folder: Path, card: Card, listed: pd.DataFrame) -> None:
        self.folder, self.card = folder, card
        self.sizes: Mapping[str, tuple[int, int]] = {
            name: (int(width), int(height))
            for name, width, height in zip(listed["stimulus"], listed["width_px"], listed["height_px"], strict=True)
        }
        self.changes: list[str] = []
        self._renamed = 0

    def samples(self, first_fixation: str, outside: str) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Fixation and trial table from ``DATA``, stimulus by stimulus."""
        subjects = self._subjects()
        trials, kept = TrialCollector(self.card), _Kept()
        for stimulus, size_wh_px in self.sizes.items():
            for subject, below in subjects.items():
                path = below / f"{stimulus}.mat"
                found = detect_fixations(self._recording(path, stimulus), rate_hz=_RATE_HZ)
                xy_px, t_s, duration_s = _kept(found, size_wh_px, first_fixation, outside, kept)
                trials.add(str(path), subject, stimulus, xy_px[:, 0], xy_px[:, 1], t_s, duration_s)
        self._note(kept, len(subjects))
        return trials.tables(unpacked(self.folder, "DATA"))

    def _subjects(self) -> dict[str, Path]:
        """Subject -> folder of recordings, every one of which has those of all stimuli."""
        data = unpacked(self.folder, "DATA")
        if not data.is_dir():
            maps = self.folder / "ALLFIXATIONMAPS"
            instead = ", or read the fixation maps with source='maps'" if maps.is_dir() else ""
            raise InputError(f"{data}: no such folder; {self.card.mend}{instead}")
        folders = {path.name: path for path in sorted(data.iterdir()) if path.is_dir() and path.name[0] != "."}
        if not folders:
            raise InputError(f"{data}: holds no subject's folder; {self.card.mend}")
        unused: set[str] = set()
        for folder in folders.values():
            here = {path.stem for path in folder.iterdir() if path.suffix == ".mat"} - _NO_RECORDINGS
            if missing := [name for name in self.sizes if name not in here]:
                raise InputError(
                    f"{folder / missing[0]}.mat: recording missing ({len(missing)} of this subject's "
                    f"{len(self.sizes)} are); {self.card.mend}"
                )
            unused |= {f"{folder.name}/{name}" for name in here - set(self.sizes)}
        if unused:
            self.changes.append(f"{len(unused)} recordings on images that are not here, or left out, were not read.")
        return folders

    def _recording(self, path: Path, stimulus: str) -> NDArray[np.float64]:
        """(n, 2) gaze samples."""
        content = read_mat(path, self.card, _EXPECTED)
        variables = {name: value for name, value in content.items() if not name.startswith("__")}
        name = stimulus[:_LONGEST_VARIABLE]
        if name not in variables:
            # MATLAB has no variables of certain names, and alters them.
            if len(variables) != 1:
                not_authors(path, self.card, _EXPECTED, f"{len(variables)} variables, none of them {name!r}")
            (name,) = variables
            self._renamed += 1
        try:
            samples = variables[name].ravel()[0]["DATA"].ravel(order="F")[0]["eyeData"]
            if (
                samples.ndim != 2
                or samples.shape[1] not in (2, 3)
                or not len(samples)
                or samples.dtype.kind not in "iuf"
            ):
                raise ValueError(f"eyeData is {samples.dtype} of shape {samples.shape}")
        except Exception as error:  # a damaged file can hold anything under any name
            not_authors(path, self.card, _EXPECTED, error)
        # The third column is the tracker's; the authors' code overwrites it.
        xy_px: NDArray[np.float64] = samples[:, :2].astype(np.float64)
        return xy_px

    def _note(self, kept: _Kept, n_subjects: int) -> None:
        n_trials = n_subjects * len(self.sizes)
        self.changes.append(
            f"{kept.detected} fixations were detected in the gaze samples of {n_trials} recordings; positions are the "
            "medians of their samples, counted from 1 as delivered."
        )
        for n, what in (
            (self._renamed, "recordings whose variable has another name than their image were read as that image's"),
            (kept.first, "first fixations, forced to the center by design, were dropped"),
            (kept.replaced, "first fixations outside their image were replaced by its center, at 0 s"),
            (kept.outside, "fixations outside 0 < x < width, 0 < y < height, blinks among them, were dropped"),
            (kept.unknown, "fixations without a position were dropped"),
        ):
            if n:
                self.changes.append(f"{n} {what}.")

    def maps(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Fixation and trial table from ``ALLFIXATIONMAPS``, one pooled trial per stimulus."""
        below = unpacked(self.folder, "ALLFIXATIONMAPS")
        mend = "get ALLFIXATIONMAPS.zip from the card's homepage and unpack it there, or read source='samples'"
        trials = TrialCollector(self.card)
        for stimulus, size_wh_px in self.sizes.items():
            path = below / f"{stimulus}_fixPts.jpg"
            if not path.is_file():
                raise InputError(f"{path}: map of the fixated points missing; {mend}")
            bright = read_rgb(path).max(axis=2) >= _BRIGHT
            if bright.shape[::-1] != size_wh_px:
                found, expected = (f"{width}x{height}" for width, height in (bright.shape[::-1], size_wh_px))
                raise InputError(f"{path}: map is {found} px, expected {expected} px as the image; {mend}")
            rows, columns = bright.nonzero()
            if not 0 < len(rows) <= _MOST_POINTS:
                raise InputError(f"{path}: {len(rows)} white pixels, expected 1 to {_MOST_POINTS} points; {mend}")
            trials.add(str(path), "all", stimulus, columns, rows)
        self.changes.append(
            f"Fixations are the pixels of at least {_BRIGHT}/255 in the authors' maps, those of all subjects together, "
            "at their index from 0 and in raster order: who looked, in which order and how often is not in the maps."
        )
        return trials.tables(below)


def _kept(
    found: DetectedFixations, size_wh_px: tuple[int, int], first_fixation: str, outside: str, kept: _Kept
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """(T, 2) positions, (T,) onsets and (T,) durations of the fixations that stay; counts the others in `kept`."""
    xy_px = found.xy_px.copy()
    t_s = (found.start + 1) / _RATE_HZ
    duration_s = (found.stop - found.start) / _RATE_HZ
    inside: NDArray[np.bool_] = np.all((xy_px > 0) & (xy_px < size_wh_px), axis=1)
    known: NDArray[np.bool_] = np.all(np.isfinite(xy_px), axis=1)
    if first_fixation == "replace" and not inside[0]:
        xy_px[0] = 0.5 * np.array(size_wh_px)
        t_s[0] = 0.0
        inside[0] = known[0] = True
        kept.replaced += 1
    # A first fixation is dropped whether it is inside or not; the second one stays in either case.
    asked_for = np.arange(len(xy_px)) >= (first_fixation == "drop")
    tolerated = inside if outside == "drop" else known
    kept.detected += len(xy_px)
    kept.first += int(np.sum(~asked_for))
    kept.unknown += int(np.sum(asked_for & ~known))
    kept.outside += int(np.sum(asked_for & known & ~tolerated))
    stays = asked_for & tolerated
    return xy_px[stays], t_s[stays], duration_s[stays]
