"""The saccade arrays published with eccNET (Gupta et al. 2021): people's and models' searches in three experiments.

Object arrays (6 objects on a ring), natural scenes and "Where's Waldo", on a screen of 1280 x 1024 px. Per
experiment and searcher three arrays: ``fix`` (n, L, 2) fixations, zero-padded; ``cp`` (n, L) 1 at the fixation that
found the target; ``ifix`` (n, 1) how many fixations there are. People are stacked, all stimuli of the first subject
first. The arrays are read here and made into the tables of every other dataset; nothing is shipped.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from gazekit.errors import InputError
from gazekit.registry import unknown_name

SCREEN_WH_PX = (1280, 1024)
# 5 degrees are 156 px on that screen.
PX_PER_DVA = 156 / 5
# Object arrays hold symbols of places in x and y; these are the places (a ring of 300 px).
_X_OF_SYMBOL = {365: 490, 90: 340, 915: 790, 1190: 940, 640: 640}
_Y_OF_SYMBOL = {988: 772, 36: 252, 512: 512}


@dataclass(frozen=True)
class Experiment:
    """One of the three: whether positions are stored as (x, y) symbols, and how many stimuli there are."""

    symbols: bool
    stimuli: int
    model_frame_hw_px: tuple[int, int] | None


EXPERIMENTS = {
    "object_arrays": Experiment(True, 300, None),
    "natural_design": Experiment(False, 240, (736, 896)),
    "waldo": Experiment(False, 67, (736, 896)),
}


def load_saccade_arrays(
    folder: Path | str,
    experiment: str,
    subjects: int = 15,
    out_of_screen: str = "drop",
    model_frame: bool = False,
    stimuli: int | None = None,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Fixation table and trial table of one searcher (or of all people) in one experiment.

    Args:
        folder: Holds ``fix.npy``, ``cp.npy``, ``ifix.npy`` and, if known, ``target_pos.npy`` (stimuli, 2) as (row,
            column).
        experiment: "object_arrays", "natural_design" or "waldo".
        subjects: Stacked in the arrays; 1 for a model.
        out_of_screen: People's recorded positions lie as far out as -803 and 2226 px. "drop" leaves such fixations out,
            "clip" moves them to the edge, "keep" keeps them.
        model_frame: The positions are those of a model on 736 x 896 px, to be scaled to the screen.
        stimuli: How many there are; None is the published number.

    Returns:
        ``subject, stimulus, trial, fixation, x_px, y_px`` (fixation 0 is the initial one; what is dropped leaves no
        gap), and ``trial, subject, stimulus, found, n_fix_after_initial`` (inf if not found; from ``cp``: a person's
        search may go on after it), ``n_recorded``, ``n_out_of_screen`` and, if known, ``target_x_px, target_y_px``.

    Raises:
        InputError: A file is missing or unreadable, or the arrays do not fit each other or the experiment.

    """
    folder = Path(folder)
    arrays = {name: _read(folder / f"{name}.npy") for name in ("fix", "cp", "ifix")}
    target = folder / "target_pos.npy"
    return tables_of_arrays(
        arrays["fix"], arrays["cp"], arrays["ifix"], experiment, subjects, out_of_screen, model_frame, stimuli,
        _read(target) if target.exists() else None, str(folder),
    )  # fmt: skip


def tables_of_arrays(
    fix: ArrayLike,
    cp: ArrayLike,
    ifix: ArrayLike,
    experiment: str,
    subjects: int = 15,
    out_of_screen: str = "drop",
    model_frame: bool = False,
    stimuli: int | None = None,
    target_pos: ArrayLike | None = None,
    where: str = "saccade arrays",
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """As :func:`load_saccade_arrays`, from arrays; `where` opens error messages."""
    if experiment not in EXPERIMENTS:
        raise unknown_name("saccade experiment", experiment, list(EXPERIMENTS))
    if out_of_screen not in ("drop", "clip", "keep"):
        raise unknown_name("rule for positions outside the screen", out_of_screen, ["clip", "drop", "keep"])
    known = EXPERIMENTS[experiment]
    n_stimuli = known.stimuli if stimuli is None else stimuli
    position, flag, count = _checked(fix, cp, ifix, subjects, n_stimuli, where)
    xy = position if known.symbols else position[..., ::-1]
    valid = np.arange(xy.shape[1]) < count[:, None]
    if known.symbols:
        xy = np.stack(
            [_places(xy[..., 0], _X_OF_SYMBOL, valid, where), _places(xy[..., 1], _Y_OF_SYMBOL, valid, where)], -1
        )
    elif model_frame and known.model_frame_hw_px is not None:
        height, width = known.model_frame_hw_px
        xy = xy * np.array([SCREEN_WH_PX[0] / width, SCREEN_WH_PX[1] / height])
    outside = valid & ((xy < 0) | (xy >= SCREEN_WH_PX)).any(-1)
    if out_of_screen == "clip":
        xy = np.clip(xy, 0, np.array(SCREEN_WH_PX) - 1)
    kept = valid & ~outside if out_of_screen == "drop" else valid
    names = [f"s{i + 1:02d}" for i in range(subjects)]
    row, step = np.nonzero(kept)
    subject, stimulus = np.divmod(np.arange(len(xy)), n_stimuli)
    label = [f"{experiment}_{i + 1:03d}" for i in range(n_stimuli)]
    fixations = pd.DataFrame(
        {
            "subject": [names[i] for i in subject[row]],
            "stimulus": [label[i] for i in stimulus[row]],
            "trial": row,
            "fixation": step,
            "x_px": xy[row, step, 0].astype(float),
            "y_px": xy[row, step, 1].astype(float),
        }
    )
    fixations["fixation"] = fixations.groupby("trial").cumcount()
    found = flag.any(1)
    trials = pd.DataFrame(
        {
            "trial": np.arange(len(xy)),
            "subject": [names[i] for i in subject],
            "stimulus": [label[i] for i in stimulus],
            "found": found,
            "n_fix_after_initial": np.where(found, flag.argmax(1), np.inf),
            "n_recorded": count,
            "n_out_of_screen": outside.sum(1),
        }
    )
    if target_pos is not None:
        middle = np.asarray(target_pos, float)
        if middle.shape != (n_stimuli, 2):
            raise InputError(f"{where}: target_pos is {middle.shape}, expected ({n_stimuli}, 2) as (row, column)")
        trials["target_x_px"], trials["target_y_px"] = middle[stimulus, 1], middle[stimulus, 0]
    return fixations, trials


def cumulative_performance(trials: pd.DataFrame, length: int) -> NDArray[np.float64]:
    """(length,) share of trials found within 0, 1, 2, ... fixations after the initial one."""
    n_fix = trials["n_fix_after_initial"].to_numpy()
    share: NDArray[np.float64] = (n_fix[:, None] <= np.arange(length)).mean(0)
    return share


def amplitudes_dva(fixations: pd.DataFrame) -> NDArray[np.float64]:
    """Lengths of all saccades but the first of each trial, as the authors count them, in degrees."""
    ordered = fixations.sort_values(["trial", "fixation"])
    step = ordered.groupby("trial")[["x_px", "y_px"]].diff().to_numpy()
    length: NDArray[np.float64] = np.hypot(*step.T)[ordered["fixation"].to_numpy() >= 2] / PX_PER_DVA
    return length


def _read(path: Path) -> NDArray[Any]:
    if not path.is_file():
        raise InputError(f"{path} does not exist; expected fix.npy, cp.npy and ifix.npy of one searcher in one folder")
    try:
        array: NDArray[Any] = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not a readable array of numbers ({error})") from error
    return array


def _checked(
    fix: ArrayLike, cp: ArrayLike, ifix: ArrayLike, subjects: int, stimuli: int, where: str
) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.int64]]:
    position, flag, count = np.asarray(fix, float), np.asarray(cp), np.asarray(ifix)
    n = subjects * stimuli
    if position.ndim != 3 or position.shape[0] != n or position.shape[2] != 2:
        raise InputError(
            f"{where}: fix is {position.shape}, expected ({n}, L, 2): {subjects} subjects x {stimuli} stimuli; give "
            f"the number of subjects that are stacked (1 for a model)"
        )
    if flag.shape != position.shape[:2] or count.size != n:
        raise InputError(
            f"{where}: cp is {flag.shape} and ifix {count.shape}, expected {position.shape[:2]} and ({n}, 1)"
        )
    if not np.isin(flag, (0, 1)).all() or (flag.sum(1) > 1).any():
        raise InputError(f"{where}: cp must be 0, and 1 at most once per trial")
    count = count.ravel()
    if not ((count >= 0) & (count <= position.shape[1]) & (count == count.astype(int))).all():
        raise InputError(f"{where}: ifix must be whole numbers from 0 to {position.shape[1]}")
    if not np.isfinite(position).all():
        raise InputError(f"{where}: fix holds values that are not finite")
    return position, flag.astype(bool), count.astype(np.int64)


def _places(symbol: NDArray[np.float64], places: dict[int, int], valid: NDArray[np.bool_], where: str) -> NDArray[Any]:
    strange = valid & ~np.isin(symbol, list(places))
    if strange.any():
        raise InputError(
            f"{where}: {symbol[strange][0]:g} is no place of an object array; expected one of {list(places)}"
        )
    moved = symbol.copy()
    for old, new in places.items():
        moved[symbol == old] = new
    return moved
