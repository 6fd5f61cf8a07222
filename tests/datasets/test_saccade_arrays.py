"""Saccade arrays in their published layout, made up here."""

import numpy as np
import pytest

from gazekit import InputError
from gazekit.datasets.saccade_arrays import (
    PX_PER_DVA,
    amplitudes_dva,
    cumulative_performance,
    load_saccade_arrays,
    tables_of_arrays,
)  # fmt: skip


def scenes():
    """2 subjects x 3 stimuli, L = 4, as (row, column)."""
    fix = np.zeros((6, 4, 2))
    fix[:, 0] = (512, 640)
    fix[0, 1:3] = (100, 200), (100, 512)
    fix[4, 1:4] = (-803, 50), (300, 400), (300, 400)
    cp = np.zeros((6, 4))
    cp[0, 2] = cp[4, 1] = cp[1, 0] = 1
    return fix, cp, np.array([[3], [1], [1], [1], [4], [1]])


def test_positions_subjects_and_finds():
    fixations, trials = tables_of_arrays(*scenes(), "natural_design", subjects=2, stimuli=3)
    assert trials["subject"].tolist() == ["s01"] * 3 + ["s02"] * 3
    assert trials["stimulus"].tolist() == [f"natural_design_{i:03d}" for i in (1, 2, 3)] * 2
    first = fixations[fixations["trial"] == 0]
    assert first[["x_px", "y_px"]].to_numpy().tolist() == [[640, 512], [200, 100], [512, 100]]
    assert trials["n_fix_after_initial"].tolist() == [2, 0, np.inf, np.inf, 1, np.inf]
    # A person's search may go on after the target was found.
    assert trials["n_recorded"].tolist() == [3, 1, 1, 1, 4, 1]
    assert cumulative_performance(trials, 3).tolist() == pytest.approx([1 / 6, 2 / 6, 3 / 6])
    # The first saccade of a trial does not count.
    assert sorted(amplitudes_dva(fixations)) == pytest.approx([0.0, 312 / PX_PER_DVA])


@pytest.mark.parametrize(("rule", "n"), [("drop", 3), ("clip", 4), ("keep", 4)])
def test_positions_off_the_screen(rule, n):
    fixations, trials = tables_of_arrays(*scenes(), "waldo", subjects=2, stimuli=3, out_of_screen=rule)
    of_trial = fixations[fixations["trial"] == 4]
    assert of_trial["fixation"].tolist() == list(range(n))
    assert of_trial["y_px"].min() == {"drop": 300, "clip": 0, "keep": -803}[rule]
    assert trials["n_out_of_screen"].tolist() == [0, 0, 0, 0, 1, 0]


def test_a_models_frame_is_scaled_to_the_screen():
    fix = np.array([[[368.0, 448.0]]])
    fixations, _ = tables_of_arrays(fix, [[0]], [[1]], "waldo", subjects=1, stimuli=1, model_frame=True)
    assert fixations[["x_px", "y_px"]].to_numpy().tolist() == [[640.0, 512.0]]


def test_places_of_object_arrays_are_x_first():
    fix = np.array([[[640, 512], [365, 988], [90, 512]]], dtype=float)
    fixations, _ = tables_of_arrays(fix, [[0, 0, 1]], [[3]], "object_arrays", subjects=1, stimuli=1)
    assert fixations[["x_px", "y_px"]].to_numpy().tolist() == [[640, 512], [490, 772], [340, 512]]
    # All places lie 300 px, 9.62 degrees, from the middle (whole pixels).
    middle = np.hypot(*(fixations[["x_px", "y_px"]].to_numpy()[1:] - [640, 512]).T)
    assert middle == pytest.approx([300, 300], abs=0.5)
    fix[0, 1, 0] = 366
    with pytest.raises(InputError, match="366 is no place of an object array"):
        tables_of_arrays(fix, [[0, 0, 1]], [[3]], "object_arrays", subjects=1, stimuli=1)


def test_a_folder_of_arrays(tmp_path):
    with pytest.raises(InputError, match=r"fix\.npy does not exist"):
        load_saccade_arrays(tmp_path, "waldo")
    for name, array in zip(("fix", "cp", "ifix"), scenes(), strict=True):
        np.save(tmp_path / f"{name}.npy", array)
    np.save(tmp_path / "target_pos.npy", np.array([[10, 20], [30, 40], [50, 60]]))
    _, trials = load_saccade_arrays(tmp_path, "waldo", subjects=2, stimuli=3)
    assert trials["target_x_px"].tolist() == [20, 40, 60] * 2
    (tmp_path / "cp.npy").write_bytes(b"not an array")
    with pytest.raises(InputError, match=r"cp\.npy: not a readable array"):
        load_saccade_arrays(tmp_path, "waldo", subjects=2, stimuli=3)


def test_arrays_that_do_not_fit():
    fix, cp, ifix = scenes()
    for arrays, message in (
        ((fix, cp, ifix), r"expected \(1005, L, 2\): 15 subjects x 67 stimuli"),
        ((fix, cp[:, :3], ifix), r"cp is \(6, 3\)"),
        ((fix, cp + 1, ifix), "cp must be 0, and 1 at most once"),
        ((fix, cp, ifix + 4), "ifix must be whole numbers from 0 to 4"),
        ((fix * np.nan, cp, ifix), "not finite"),
    ):
        sizes = {} if "1005" in message else {"subjects": 2, "stimuli": 3}
        with pytest.raises(InputError, match=message):
            tables_of_arrays(*arrays, "waldo", **sizes)
    with pytest.raises(InputError, match=r"did you mean 'waldo'\?"):
        tables_of_arrays(fix, cp, ifix, "wally")
