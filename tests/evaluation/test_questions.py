"""What models are asked: one scanpath per target and start, compared with the trials that began there."""

from __future__ import annotations

import pandas as pd
import pytest
import torch

from gazekit.batch import Scanpaths
from gazekit.density import normalize_log_density
from gazekit.errors import InputError
from gazekit.evaluation import runner
from gazekit.models import GazeModel
from tests.evaluation.path_world import (
    IMAGES,
    MEAN,
    assert_column,
    box_of,
    comparing,
    distance,
    dtw_of,
    make_world,
    mean,
    people,
    rules,
    run,
    searching,
    trials_on,
    write_model,
)

# Two places from which trials start, alternately.
STARTS = ((20.0, 30.0), (200.0, 120.0))


class Walker(GazeModel):
    """Walks in equal steps from where it is put to where the target is, and counts how often it was asked."""

    uses_image = False
    steps = 3

    def __init__(self):
        super().__init__()
        self.asked = []

    def conditional_log_density(self, batch):
        width, height = batch.size_wh_px
        return normalize_log_density(torch.zeros(len(batch), batch.valid.shape[1], height, width))

    def sample(self, batch, n, length, generator):
        box, start = batch.search.box_px[0], batch.search.start_xy_px[0]
        self.asked.append((batch.stimulus[0], tuple(start.tolist()), length))
        way = (box[:2] + box[2:]) / 2 - start
        part = (torch.arange(length) / self.steps).clamp(max=1.0)
        path = start + part[:, None] * way
        return Scanpaths(path.expand(1, n, length, 2).clone(), torch.ones(1, n, length, dtype=torch.bool))


@pytest.fixture
def walker(monkeypatch):
    model, made = Walker(), runner.create_model
    monkeypatch.setattr(runner, "create_model", lambda name: model if name == "uniform" else made(name))
    return model


def two_starts(trials):
    start = pd.DataFrame([STARTS[t % 2] for t in trials["trial"]], columns=["start_x_px", "start_y_px"])
    return trials.assign(start_x_px=start["start_x_px"], start_y_px=start["start_y_px"])


def walked(image, start, n):
    left, top, right, bottom = box_of(image)
    middle = ((left + right) / 2, (top + bottom) / 2)
    return [
        tuple(a + min(k / Walker.steps, 1.0) * (b - a) for a, b in zip(start, middle, strict=True)) for k in range(n)
    ]


@pytest.mark.parametrize("grid", [None, (120, 40)])
def test_a_trial_is_answered_from_its_own_start(tmp_path, walker, grid):
    data = make_world(trial_edit=two_starts)
    protocol = rules(
        first_fixation="design", search=searching("trial"), paths=comparing({"dtw": MEAN}), controls=["uniform"],
        **({} if grid is None else {"grid": list(grid)}),
    )  # fmt: skip
    evaluation = run(data, protocol, tmp_path)
    fx, fy = (1.0, 1.0) if grid is None else (grid[0] / 240, grid[1] / 160)
    limit = data.trials.set_index("trial")["max_saccades"] + 1
    paths, expected = people(data), {}
    for image in IMAGES:
        trials = trials_on(data, image)
        for j in trials:
            own = walked(image, STARTS[j % 2], limit[j])
            expected[j] = dtw_of(
                [(x * fx, y * fy) for x, y in own], [(x * fx, y * fy) for x, y in paths[j][: limit[j]]]
            )
    assert_column(evaluation, "uniform", "dtw", expected, 1e-5)
    # Once from each start, for as many fixations as the longest of its trials allows.
    assert len(walker.asked) == 2 * len(IMAGES)
    for image, start, length in walker.asked:
        of = [j for j in trials_on(data, image) if distance(STARTS[j % 2], (start[0] / fx, start[1] / fy)) < 1e-3]
        assert length == max(5, *(limit[j] for j in of))


def test_samples_say_where_they_were_asked_to_start_and_are_counted_on(tmp_path, walker):
    data = make_world(trial_edit=two_starts)
    protocol = rules(first_fixation="design", search=searching(4), controls=["uniform"])
    samples = run(data, protocol, tmp_path).samples
    for image, rows in samples.groupby("stimulus"):
        for number, path in rows.groupby("sample"):
            start = STARTS[int(number >= 3)]
            assert (path["start_x_px"].iloc[0], path["start_y_px"].iloc[0]) == start
            first = path.sort_values("fixation").iloc[0]
            assert first["fixation"] == 1
            assert (first["x_px"], first["y_px"]) == pytest.approx(walked(image, start, 2)[1], abs=1e-3)
        assert sorted(rows["sample"].unique()) == list(range(6))


def test_one_start_for_all_asks_once(tmp_path, walker):
    data = make_world(trial_edit=lambda t: t.assign(start_x_px=20.0, start_y_px=30.0))
    run(data, rules(first_fixation="design", search=searching(4), controls=["uniform"]), tmp_path)
    assert len(walker.asked) == len(IMAGES)


def test_a_file_may_say_for_which_start_a_scanpath_is(tmp_path):
    data = make_world(trial_edit=two_starts)
    made = {image: [walked(image, start, 6) for start in STARTS] for image in IMAGES}
    path = write_model(tmp_path / "m.csv", made)
    table = pd.read_csv(path)
    starts = [STARTS[sample] for sample in table["sample"]]
    table = table.assign(start_x_px=[x for x, _ in starts], start_y_px=[y for _, y in starts])
    table.to_csv(path, index=False)
    protocol = rules(first_fixation="design", search=searching(4), paths=comparing({"dtw": MEAN}))
    evaluation = run(data, protocol, tmp_path / "out", [path])
    looked = people(data)
    expected = {
        j: dtw_of(walked(image, STARTS[j % 2], 5), looked[j][:5]) for image in IMAGES for j in trials_on(data, image)
    }
    assert_column(evaluation, "m", "dtw", expected)
    # Without the starts both scanpaths answer every trial.
    table.drop(columns=["start_x_px", "start_y_px"]).to_csv(path, index=False)
    both = {
        j: mean([dtw_of([STARTS[j % 2], *walked(image, start, 5)[1:]], looked[j][:5]) for start in STARTS])
        for image in IMAGES
        for j in trials_on(data, image)
    }
    assert_column(run(data, protocol, tmp_path / "again", [path]), "m", "dtw", both)


@pytest.mark.parametrize(
    ("columns", "message"),
    [({"start_x_px": 3.0}, "has start_x_px, but not start_y_px"),
     ({"start_x_px": 3.0, "start_y_px": "left"}, "expected px or nothing")],
)  # fmt: skip
def test_half_a_start_is_said(tmp_path, columns, message):
    path = write_model(tmp_path / "m.csv", {image: [walked(image, STARTS[0], 4)] for image in IMAGES})
    pd.read_csv(path).assign(**columns).to_csv(path, index=False)
    with pytest.raises(InputError, match=message):
        run(make_world(), rules(first_fixation="design", search=searching(4)), tmp_path / "out", [path])
