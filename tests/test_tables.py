"""Fixation, trial and stimulus tables: what is accepted and how the rest is refused."""

import numpy as np
import pandas as pd
import pytest

from gazekit import InputError
from gazekit.tables import check_fixations, check_stimuli, check_trials, outside


def fixations(**columns):
    table = {
        "subject": ["a", "a", "b"],
        "stimulus": ["i", "i", "i"],
        "trial": [0, 0, 1],
        "fixation": [0, 1, 0],
        "x_px": [1.0, 2.0, 3.0],
        "y_px": [1.0, 2.0, 3.0],
        "t_s": [np.nan] * 3,
        "duration_s": [0.2, 0.3, np.nan],
    }
    return pd.DataFrame(table | columns)


def test_a_good_table_keeps_its_rows_and_extra_columns():
    table = check_fixations(fixations(pupil=[1, 2, 3]), "toy")
    assert list(table.columns)[-1] == "pupil"
    assert len(table) == 3
    assert table["duration_s"].isna().sum() == 1  # unknown durations are allowed


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"x_px": [1.0, np.nan, 3.0]}, "row 1 has no finite position"),
        ({"y_px": [1.0, np.inf, 3.0]}, "row 1 has no finite position"),
        ({"duration_s": [0.1, 0.2, -0.1]}, "row 2 has a negative duration"),
        ({"fixation": [0, 2, 0]}, "row 1 is not the next fixation"),
        ({"fixation": [1, 0, 0]}, "row 0 is not the next fixation"),
        ({"subject": ["a", "b", "b"]}, "trial 0 holds more than one subject"),
        ({"x_px": ["left", "2", "3"]}, "a column is not numeric"),
    ],
)
def test_a_bad_table_is_refused_with_the_row(columns, message):
    with pytest.raises(InputError, match=message):
        check_fixations(fixations(**columns), "toy")


def test_a_missing_column_is_named():
    with pytest.raises(InputError, match=r"toy, fixations: missing column \['t_s'\]"):
        check_fixations(fixations().drop(columns="t_s"), "toy")


def test_trials_must_cover_fixations_and_hold_some():
    table = check_fixations(fixations(), "toy")
    trials = pd.DataFrame({"trial": [0, 1, 2], "subject": ["a", "b", "c"], "stimulus": "i", "task": "free_viewing"})
    with pytest.raises(InputError, match=r"1 of 3 trials have no fixation.*'c'"):
        check_trials(trials, table, "toy")
    assert len(check_trials(trials, table, "toy", allow_empty=True)) == 3
    with pytest.raises(InputError, match="refer to trial 1, which is not listed"):
        check_trials(trials[:1], table, "toy")
    with pytest.raises(InputError, match="listed twice"):
        check_trials(pd.concat([trials, trials]), table, "toy")


def test_outside_uses_half_open_pixels():
    stimuli = check_stimuli(pd.DataFrame({"stimulus": ["i"], "path": ["i.png"], "width_px": 4, "height_px": 3}), "toy")
    table = check_fixations(fixations(x_px=[0.0, 3.999, 4.0], y_px=[2.999, 3.0, 0.0]), "toy")
    assert outside(table, stimuli).tolist() == [False, True, True]
    table = check_fixations(fixations(x_px=[-1e-9, 1.0, 1.0]), "toy")
    assert outside(table, stimuli).tolist() == [True, False, True]


def test_stimuli_are_unique_and_have_a_size():
    table = pd.DataFrame({"stimulus": ["i", "i"], "path": "i.png", "width_px": 4, "height_px": 3})
    with pytest.raises(InputError, match="'i' is listed twice"):
        check_stimuli(table, "toy")
    with pytest.raises(InputError, match="not positive"):
        check_stimuli(table[:1].assign(width_px=0), "toy")
