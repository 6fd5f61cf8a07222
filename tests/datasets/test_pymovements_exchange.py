"""pymovements: event frames in pandas always, in polars and as real Events where they are installed."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from gazekit import InputError
from gazekit.datasets.pymovements_exchange import from_pymovements

SCREEN = {"size_wh_px": [1024, 768], "measured_px_per_dva": 30}
EVENTS = {
    "participant": ["s1", "s1", "s1", "s1", "s2"],
    "page": [1, 1, 1, 2, 1],
    "name": ["fixation_ivt", "saccade", "fixation", "fixation.ivt", "fixation_idt"],
    "onset": [5000, 5200, 5240, 9000, 700],
    "offset": [5200, 5240, 5600, 9100, 1000],
    "duration": [200, 40, 360, 100, 300],
    "location": [[100.5, 50.0], None, [400.0, -20.0], [1.0, 2.0], [1023.5, 767.0]],
    "amplitude": [None, 3.5, None, None, None],
    "shown": [4900, 4900, 4900, 8900, 700],
}
COLUMNS = {"subject": "participant", "stimulus": "page"}


def build(events, **arguments):
    return from_pymovements(events, **({"name": "toy", "screen": SCREEN} | COLUMNS | arguments))


def refused(match, events, **arguments):
    with pytest.raises(InputError, match=match) as caught:
        build(events, **arguments)
    assert "\n" not in str(caught.value)


def frame(**columns):
    return pd.DataFrame({key: value for key, value in (EVENTS | columns).items() if value is not None})


def as_pandas():
    return frame()


def as_components():
    table = frame()
    for i, axis in enumerate("xy"):
        table[f"location_{axis}"] = [pair and pair[i] for pair in table["location"]]
    return table.drop(columns="location")


def as_polars():
    polars = pytest.importorskip("polars", reason="polars is not installed")
    return polars.DataFrame(EVENTS)


def as_object_with_a_frame():
    return SimpleNamespace(frame=as_polars(), trial_columns=["participant", "page"])


def as_events():
    as_polars()
    pymovements = pytest.importorskip("pymovements", reason="pymovements is not installed")
    return pymovements.Events(as_polars(), trial_columns=["participant", "page"])


def as_unnested_events():
    events = as_events()
    events.unnest("location")
    return events


FORMS = [as_pandas, as_components, as_polars, as_object_with_a_frame, as_events, as_unnested_events]


@pytest.mark.parametrize("form", FORMS)
def test_fixations_among_events(form):
    data = build(form(), stimulus_onset="shown")
    table = data.fixations
    assert table["subject"].tolist() == ["s1", "s1", "s1", "s2"]
    assert table["stimulus"].tolist() == ["1", "1", "2", "1"]
    assert table["trial"].tolist() == [0, 0, 1, 2]
    assert table["fixation"].tolist() == [0, 1, 0, 0]
    assert table["x_px"].tolist() == [100.5, 400, 1, 1023.5]
    assert table["y_px"].tolist() == [50, -20, 2, 767]
    assert table["duration_s"].tolist() == [0.2, 0.36, 0.1, 0.3]
    assert table["t_s"].tolist() == [0.1, 0.34, 0.1, 0]
    assert table["amplitude"].isna().all()
    assert not {"name", "onset", "shown", "page"} & set(table.columns)
    assert data.changes[-1] == "1 of 4 fixations lie outside their stimulus and are kept."
    assert data.stimuli["width_px"].tolist() == [1024, 1024]


def test_real_events_from_samples():
    """What pymovements itself detects in samples that rest twice."""
    as_events()
    import polars
    import pymovements

    n = 600
    samples = polars.DataFrame(
        {
            "time": np.arange(n) + 5000,
            "x": np.where(np.arange(n) < 300, 100.0, 400.0),
            "y": np.where(np.arange(n) < 300, 50.0, 200.0),
            "subject": ["s1"] * n,
            "page": ["p"] * n,
        }
    )
    experiment = pymovements.Experiment(1024, 768, 38, 30, 60, "upper left", 1000)
    gaze = pymovements.Gaze(
        samples, experiment, time_column="time", pixel_columns=["x", "y"], trial_columns=["subject", "page"]
    )
    gaze.pix2deg()
    gaze.pos2vel("neighbors")
    gaze.detect("ivt", velocity_threshold=20, minimum_duration=50)
    gaze.compute_event_properties(("location", {"position_column": "pixel"}))
    data = build(gaze.events, subject="subject", stimulus="page", stimulus_onset=5000)
    assert data.fixations[["x_px", "y_px"]].to_numpy().tolist() == [[100, 50], [400, 200]]
    np.testing.assert_allclose(data.fixations["t_s"], [0, 0.3], atol=0.003)
    gaze = pymovements.Gaze(
        samples, experiment, time_column="time", pixel_columns=["x", "y"], trial_columns=["subject", "page"]
    )
    gaze.pix2deg()
    gaze.pos2vel("neighbors")
    gaze.detect("ivt", velocity_threshold=20, minimum_duration=50)
    gaze.compute_event_properties("location")
    refused("location looks like degrees", gaze.events, subject="subject", stimulus="page")


def test_onsets_of_a_recording_are_no_onsets_of_a_trial():
    assert build(frame()).fixations["t_s"].isna().all()
    numbers = build(frame(onset=[0, 200, 240, 50, 0]), stimulus_onset=0)
    assert numbers.fixations["t_s"].tolist() == [0, 0.24, 0.05, 0]
    refused("t_s is -4.1, expected seconds from stimulus onset", frame(), stimulus_onset=9100)
    refused("no column 'start', found", frame(), stimulus_onset="start")
    refused("stimulus_onset is True", frame(), stimulus_onset=True)


def test_trials_that_come_back_to_a_stimulus():
    back = frame(participant=["s1"] * 5, page=[1, 1, 2, 1, 1], shown=None, run=["a", "a", "a", "a", "b"])
    refused("subject 's1' is back on stimulus '1'", back)
    data = build(back, trial=["page", "run"], stimulus="page")
    assert data.fixations["trial"].tolist() == [0, 1, 0, 2]
    # One column is a trial of each subject.
    per_subject = frame(trial_number=[7, 7, 7, 8, 7])
    assert build(per_subject, trial="trial_number").fixations["trial"].tolist() == [0, 0, 1, 2]


@pytest.mark.parametrize(
    ("columns", "arguments", "message"),
    [
        ({"location": None}, {}, "no column 'location', found .*compute_event_properties"),
        ({"location": [[1.0]] * 5}, {}, r"row 0: location is \[1.0\], expected \[x, y\]"),
        ({"location": ["ab"] * 5}, {}, r"row 0: location is ab, expected \[x, y\]"),
        ({"location": [[1, None]] * 5}, {}, r"row 0: the fixation has no position \(4 have none\)"),
        ({"location": [[1, "b"]] * 5}, {}, "row 0: y of location is 'b', expected a number"),
        ({"location": [[-10.0, 5.0]] * 5}, {}, "location looks like degrees of visual angle"),
        ({"name": ["saccade"] * 5}, {}, "none is a fixation"),
        ({"name": None}, {}, "toy, events: no column 'name'"),
        ({"duration": None}, {}, "toy, events: no column 'duration'"),
        ({"duration": ["long"] * 5}, {}, "row 0: duration is 'long', expected a number"),
        ({"participant": None}, {}, "no column 'participant', found .*say subject=COLUMN"),
        ({}, {"stimulus": "image"}, "no column 'image', found .*say stimulus=COLUMN"),
        ({}, {"trial": ["page", "block"]}, "no column 'block', found .*say trial=COLUMN"),
        ({"participant": ["s1", "s1", None, "s1", "s2"]}, {}, "row 1: participant is missing"),
        ({}, {"screen": None}, "size of stimulus '1' is not known"),
    ],
)
def test_what_does_not_fit(columns, arguments, message):
    refused(message, frame(**columns), **arguments)


def test_something_else():
    refused("found a list, expected Events of pymovements", [])
    refused("found a NoneType", None)
