"""Searchers on scenes that people searched: against plain loops, on a made-up release of Interiors."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from gazekit.errors import InputError
from gazekit.evaluation import scene_search
from gazekit.evaluation.scene_search import (
    distinct_searches,
    padded,
    run_searches,
    scene_displays,
    score_searches,
    summarize_searches,
)
from gazekit.models import create_model
from gazekit.tables import TARGET_BOX
from tests.datasets.test_interiors import BY_HAND, load_tiny, write_release

# A wide fovea, so that searches at random find something.
SIZE, K, FOVEA = (64, 48), 4, 400.0


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("interiors")
    write_release(folder, {(12, 1): BY_HAND})
    return load_tiny(folder)


def search(data, out, name="chance_search", **changes):
    settings = {"size_wh_px": SIZE, "px_per_dva": 2.0, "inhibition_px": 7, "max_saccades": K, "fovea_px": FOVEA}
    return run_searches(data, name, create_model(name), out, **{**settings, **changes})


def first_hit(path, box):
    """Fixations, the initial one included, until a square of FOVEA px around one touches the box; inf if none does."""
    for step, (x, y) in enumerate(path, start=1):
        half = FOVEA / 2
        if x + half >= box[0] and x - half <= box[2] and y + half >= box[1] and y - half <= box[3]:
            return step
    return math.inf


def test_one_search_per_distinct_question(data):
    searches = distinct_searches(data)
    asked = {tuple(row) for row in data.trials[scene_search._KEYS].itertuples(index=False)}
    assert len(searches) == len(asked)
    # The same target elsewhere in the same scene is another question.
    trials = data.trials.copy()
    trials.loc[0, ["target_left_px", "target_right_px"]] += 5.0
    assert len(distinct_searches(replace(data, trials=trials))) >= len(searches)
    twice = pd.concat([data.trials, data.trials.iloc[:1].assign(trial=99, target_left_px=0.0)], ignore_index=True)
    assert len(distinct_searches(replace(data, trials=twice))) == len(searches) + 1


def test_displays_shrink_scene_target_and_box_alike(data):
    searches = distinct_searches(data)
    displays = scene_displays(data, searches, SIZE, 2.0, 7, K)
    assert displays.image.shape == (len(searches), 3, 48, 64)
    assert displays.target.shape[-2:] == (round(72 * 48 / 768), round(72 * 64 / 1024))
    for i, row in searches.iterrows():
        left, top, right, bottom = (round(row[name] / 16) for name in TARGET_BOX)
        y, x = displays.target_mask[i].nonzero(as_tuple=True)
        assert (int(x.min()), int(x.max()) + 1, int(y.min()), int(y.max()) + 1) == (left, right, top, bottom)
        assert displays.start_xy_px[i].tolist() == pytest.approx([row["start_x_px"] / 16, row["start_y_px"] / 16])


@pytest.mark.parametrize(
    "box", [(-90.0, -90.0, -20.0, -20.0), (1030.0, 780.0, 1100.0, 850.0), (500.0, 300.0, 501.0, 301.0)]
)
def test_a_box_off_the_scene_or_smaller_than_a_pixel_keeps_one(data, box):
    searches = distinct_searches(data).assign(**dict(zip(TARGET_BOX, box, strict=True)))
    mask = scene_displays(data, searches, SIZE, 2.0, 7, K).target_mask
    assert mask.flatten(1).sum(1).tolist() == [1] * len(searches)


def test_searches_end_at_the_target_or_the_limit(data, tmp_path):
    table, searches = search(data, tmp_path), distinct_searches(data)
    assert sorted(set(table["search"])) == list(range(len(searches)))
    early = 0
    for number, path in table.groupby("search"):
        row = searches.loc[number]
        assert path["fixation"].tolist() == list(range(len(path)))
        points = path[["x_px", "y_px"]].to_numpy()
        assert points[0] == pytest.approx([row["start_x_px"], row["start_y_px"]], abs=16.0)
        steps = first_hit(points, row[list(TARGET_BOX)].tolist())
        assert len(path) == min(steps, K + 1)
        early += 1 < steps < K + 1
    assert early


def test_what_is_finished_is_not_searched_again(data, tmp_path, monkeypatch):
    first = search(data, tmp_path)
    monkeypatch.setattr(scene_search, "scene_displays", None)
    assert search(data, tmp_path).equals(first)
    with pytest.raises(TypeError):  # another setting is another search
        search(data, tmp_path, max_saccades=K - 1)


def test_padded_by_hand():
    table = pd.DataFrame({"key": [7, 7, 5], "x_px": [1.0, 2.0, 3.0], "y_px": [4.0, 5.0, 6.0]})
    xy, valid = padded(table, "key", [5, 6, 7])
    assert valid.tolist() == [[True, False], [False, False], [True, True]]
    assert xy[2].tolist() == [[1.0, 4.0], [2.0, 5.0]]


def made_up(data, seed=0):
    """Searches that somebody made: K + 1 fixations anywhere."""
    rng, rows = np.random.default_rng(seed), []
    for number in range(len(distinct_searches(data))):
        xy = rng.uniform(0, 1, (K + 1, 2)) * (1024, 768)
        rows += [(number, step, x, y) for step, (x, y) in enumerate(xy)]
    return pd.DataFrame(rows, columns=["search", "fixation", "x_px", "y_px"])


@pytest.fixture
def limited(data):
    """Trials of the same scene allow different numbers of saccades."""
    limits = [1, 2, 3, 4, 9, 12][: len(data.trials)]
    return replace(data, trials=data.trials.assign(max_saccades=pd.array(limits, dtype="Int64")))


def test_every_trial_is_answered_by_the_search_from_its_start_within_its_limit(limited):
    made = {"a": made_up(limited), "b": made_up(limited, 1)}
    scores = score_searches(limited, made, K, FOVEA).set_index(["model", "trial"])
    searches = distinct_searches(limited)
    some = False
    for trial in limited.trials.itertuples():
        asked = [getattr(trial, name) for name in scene_search._KEYS]
        number = next(i for i, row in searches.iterrows() if row[scene_search._KEYS].tolist() == asked)
        limit, box = min(trial.max_saccades, K), [getattr(trial, name) for name in TARGET_BOX]
        recorded = limited.fixations[limited.fixations["trial"] == trial.trial][["x_px", "y_px"]].to_numpy()
        paths = {
            "human": [(trial.start_x_px, trial.start_y_px), *recorded[1:]],
            **{name: table[table["search"] == number][["x_px", "y_px"]].to_numpy() for name, table in made.items()},
        }
        for name, path in paths.items():
            steps = first_hit(path[: limit + 1], box)
            row = scores.loc[(name, trial.trial)]
            assert row["n_fix_incl_initial"] == steps
            assert row["found_within_limit"] == float(steps < math.inf)
            some |= steps < math.inf
    assert some


def test_summary_is_the_mean_over_images_with_paired_differences():
    rng, rows = np.random.default_rng(3), []
    for name, p in (("human", 0.7), ("a", 0.4)):
        for image in range(25):
            for trial in range(1 + image % 3):
                n = float(rng.integers(1, K + 2)) if rng.random() < p else math.inf
                rows.append((name, f"i{image:02d}", 100 * image + trial, n, float(n < math.inf)))
    columns = ["model", "stimulus", "trial", "n_fix_incl_initial", "found_within_limit"]
    scores = pd.DataFrame(rows, columns=columns)
    got = summarize_searches(scores, K, draws=300, seed=5)

    def per_image(name, of):
        part = scores[scores["model"] == name]
        return np.array([np.mean([of(n) for n in x["n_fix_incl_initial"]]) for _, x in part.groupby("stimulus")])

    found = {name: per_image(name, lambda n: n < math.inf) for name in ("human", "a")}
    area = {name: per_image(name, lambda n: sum(n <= k for k in range(1, K + 2))) for name in ("human", "a")}
    drawn = np.random.default_rng(5).multinomial(25, [1 / 25] * 25, size=300)
    for name, other in (("human", "a"), ("a", "human")):
        assert got.loc[name, "accuracy"] == pytest.approx(found[name].mean(), abs=1e-12)
        assert got.loc[name, "tfp_auc"] == pytest.approx(area[name].mean(), abs=1e-12)
        difference = found[name] - found[other]
        assert got.loc[name, f"minus_{other}"] == pytest.approx(difference.mean(), abs=1e-12)
        ends = np.percentile(drawn @ difference / 25, [2.5, 97.5])
        bounds = got.loc[name, [f"minus_{other}_low", f"minus_{other}_high"]].tolist()
        assert bounds == pytest.approx(ends.tolist(), abs=1e-12)


@pytest.mark.parametrize(
    ("column", "value", "match"),
    [
        ("start_x_px", [math.nan] + [9.0] * 5, "1 of 6 trials have no start_x_px"),
        ("target", "", "6 of 6 trials have no target"),
        ("max_saccades", pd.array([None] * 6, dtype="Int64"), "6 of 6 trials have no max_saccades"),
        ("target_path", None, r"needs the trial columns \['target_path'\]"),
    ],
)
def test_what_is_missing_is_one_line(data, column, value, match):
    trials = data.trials.drop(columns=column) if value is None else data.trials.assign(**{column: value})
    with pytest.raises(InputError, match=match) as caught:
        distinct_searches(replace(data, trials=trials))
    assert "\n" not in str(caught.value)


def test_targets_of_different_sizes_are_one_line(data, tmp_path):
    from PIL import Image

    small = tmp_path / "small.jpg"
    Image.fromarray(np.zeros((40, 90), dtype=np.uint8)).save(small)
    searches = distinct_searches(data)
    searches.loc[0, "target_path"] = str(small)
    with pytest.raises(InputError, match=r"pictures of targets are of different sizes \(height, width\)") as caught:
        scene_displays(data, searches, SIZE, 2.0, 7, K)
    assert "\n" not in str(caught.value)


def test_seeded_and_the_same_on_one_thread(data, tmp_path):
    one = search(data, tmp_path / "a")
    torch.manual_seed(99)
    assert search(data, tmp_path / "b").equals(one)
