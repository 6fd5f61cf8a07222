"""A made-up world of searches for the tests of protocols, and their oracles: one plain loop per definition.

Nothing here uses the code that it checks: positions are lists of pairs, people are dictionaries.
"""

from __future__ import annotations

import math
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from gazekit.datasets import from_dataframe
from gazekit.evaluation import Protocol, evaluate, runner

SIZE = (240, 160)
SUBJECTS = ("s1", "s2", "s3", "s4")
IMAGES = tuple(f"i{number}" for number in range(6))
# What a metric of paths needs to be a column.
MEAN = {"reduce": "mean"}


# The world


def box_of(image):
    """left, top, right, bottom of what was searched for on the image."""
    k = IMAGES.index(image)
    return (30.0 + 25 * k, 100.0 - 12 * k, 70.0 + 25 * k, 140.0 - 12 * k)


def make_world(seed=3, lengths=(3, 8), images=IMAGES, edit=None, trial_edit=None, split=None, screen=True, objects=None,
    counted=True,
):  # fmt: skip
    """A dataset of searches: who looked at what, in px of 240 x 160.

    Args:
        seed: Of the paths, of which most end on the target.
        lengths: Range of the numbers of fixations.
        images: Which of the six.
        edit: (image, subject) -> that trial's path.
        trial_edit: Table of trials -> table of trials.
        split: A rule, as in a card.
        screen: Whether degrees of visual angle are known.
        objects: Table of boxes, or None.
        counted: Whether the card says how many stimuli there are.

    """
    rng = np.random.default_rng(seed)
    fixations, trials = [], []
    for image in images:
        left, top, right, bottom = box_of(image)
        for subject in SUBJECTS:
            n = int(rng.integers(*lengths))
            path = rng.uniform((5, 5), (SIZE[0] - 5, SIZE[1] - 5), (n, 2)).tolist()
            if rng.random() < 0.7:
                path[-1] = [rng.uniform(left + 1, right - 1), rng.uniform(top + 1, bottom - 1)]
            path = (edit or {}).get((image, subject), path)
            trial = len(trials)
            trials.append(
                {
                    "trial": trial, "subject": subject, "stimulus": image, "task": "search",
                    "target": "cup" if image in ("i0", "i2", "i4") else "fork", "target_present": True,
                    "target_left_px": left, "target_top_px": top, "target_right_px": right, "target_bottom_px": bottom,
                    "correct": True, "found": True, "max_saccades": 4 + trial % 3,
                    "start_x_px": 100.0 + trial, "start_y_px": 50.0 + trial,
                }
            )  # fmt: skip
            for k, (x, y) in enumerate(path):
                fixations.append(
                    {
                        "trial": trial, "fixation": k, "subject": subject, "stimulus": image, "x_px": x, "y_px": y,
                        "t_s": 0.3 * k, "duration_s": 0.15 + 0.01 * (k % 5),
                    }
                )  # fmt: skip
    table = pd.DataFrame(trials)
    return from_dataframe(
        pd.DataFrame(fixations),
        name="world",
        trials=table if trial_edit is None else trial_edit(table),
        stimuli=pd.DataFrame({"stimulus": images, "width_px": SIZE[0], "height_px": SIZE[1]}),
        objects=objects,
        screen={"size_wh_px": list(SIZE), "measured_px_per_dva": 10.0} if screen else None,
        split=split or {"by": "stimulus", "val": [], "test": list(images)},
        card={"expect": {"stimuli": len(images)}} if counted else None,
    )


def written(**changes):
    """What a protocol file says; one that scores nothing until told to."""
    return {
        "name": "mine", "version": 1, "title": "A made-up protocol", "dataset": "world", "split": "all",
        "first_fixation": "keep", "out_of_image": "raise", "grid": "stimulus", "controls": [], "ceiling": "human",
        "intervals": {"resample": "stimulus", "draws": 40, "level": 0.95, "seed": 0},
        "samples": {"per_stimulus": 3, "seed": 0},
        **changes,
    }  # fmt: skip


def searching(max_saccades=4, hit="point", fovea=None, scores=("search_accuracy",)):
    return {"max_saccades": max_saccades, "hit": hit, "fovea_size_wh_px": fovea, "scores": list(scores)}


def comparing(scores, length="median", cut_at_target=False):
    return {"length": length, "cut_at_target": cut_at_target, "scores": scores}


def rules(**changes):
    """The protocol of such a file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mine.yaml"
        path.write_text(yaml.safe_dump(written(**changes)))
        return Protocol.read(path)


def run(data, protocol, out, models=(), **options):
    """An evaluation on a dataset in memory."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "load", lambda name, root=None: data)
        return evaluate(protocol, [str(model) for model in models], out, **options)


def write_model(path, made, first=0):
    """A model as a file of scanpaths: `made` is image, or (image, target) -> list of paths."""
    rows = []
    for key, paths in made.items():
        image, target = key if isinstance(key, tuple) else (key, "")
        for sample, xy in enumerate(paths):
            rows += [(image, target, sample, first + k, x, y) for k, (x, y) in enumerate(xy)]
    columns = ["stimulus", "target", "sample", "fixation", "x_px", "y_px"]
    table = pd.DataFrame(rows, columns=columns)
    # Where nothing was searched for there is no such column.
    table = table if (table["target"] != "").any() else table.drop(columns="target")
    path.parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(path, index=False)
    return path


def made_up(data, n=3, seed=11, length=6):
    """Scanpaths of a model: image -> n paths, about a third of them over the target."""
    rng = np.random.default_rng(seed)
    made = {}
    for image in data.stimuli["stimulus"]:
        left, top, right, bottom = box_of(image)
        made[image] = []
        for _ in range(n):
            path = rng.uniform((2, 2), (SIZE[0] - 2, SIZE[1] - 2), (length, 2))
            if rng.random() < 0.6:
                path[int(rng.integers(1, length))] = ((left + right) / 2, (top + bottom) / 2)
            made[image].append([tuple(xy) for xy in path.tolist()])
    return made


def people(data):
    """Trial -> path."""
    listed = {int(trial): [] for trial in data.trials["trial"]}
    for row in data.fixations.itertuples():
        listed[row.trial].append((row.x_px, row.y_px))
    return listed


def trials_on(data, image):
    return [int(trial) for trial in data.trials.loc[data.trials["stimulus"] == image, "trial"]]


def column_of(evaluation, model, name):
    """Trial -> score."""
    rows = evaluation.scores[evaluation.scores["model"] == model]
    assert not rows["trial"].duplicated().any()
    return dict(zip(rows["trial"].astype(int), rows[name], strict=True))


def same(got, wanted, tolerance=1e-9):
    """Whether two scores are the same number, or both are missing."""
    if math.isnan(wanted) or math.isnan(got):
        return math.isnan(wanted) and math.isnan(got)
    return got == pytest.approx(wanted, rel=tolerance, abs=tolerance)


def assert_column(evaluation, model, name, expected, tolerance=1e-9):
    got = column_of(evaluation, model, name)
    assert set(got) == set(expected)
    wrong = {t: (got[t], expected[t]) for t in expected if not same(got[t], expected[t], tolerance)}
    assert not wrong, f"{model}, {name}: {wrong}"


def mean(values):
    """Of those that are defined; NaN if none is."""
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan


# Definitions


def distance(a, b):
    return math.hypot(a[0] - b[0], a[1] - b[1])


def dtw_of(a, b):
    """Dynamic time warping, px; NaN with an empty path."""
    if not a or not b:
        return math.nan
    cost = [[math.inf] * (len(b) + 1) for _ in range(len(a) + 1)]
    cost[0][0] = 0.0
    for i in range(1, len(a) + 1):
        for j in range(1, len(b) + 1):
            cost[i][j] = distance(a[i - 1], b[j - 1]) + min(cost[i - 1][j], cost[i][j - 1], cost[i - 1][j - 1])
    return cost[-1][-1]


def tde_of(simulated, human, k=2):
    """Time-delay embedding distance: every simulated window against its nearest human one."""
    if len(simulated) < k or len(human) < k:
        return math.nan
    found = []
    for i in range(len(simulated) - k + 1):
        nearest = math.inf
        for j in range(len(human) - k + 1):
            square = sum(distance(simulated[i + t], human[j + t]) ** 2 for t in range(k))
            nearest = min(nearest, math.sqrt(square) / k)
        found.append(nearest)
    return sum(found) / len(found)


def levenshtein(a, b):
    cost = [[i + j if i * j == 0 else 0 for j in range(len(b) + 1)] for i in range(len(a) + 1)]
    for i in range(1, len(a) + 1):
        for j in range(1, len(b) + 1):
            differ = int(a[i - 1] != b[j - 1])
            cost[i][j] = min(cost[i - 1][j] + 1, cost[i][j - 1] + 1, cost[i - 1][j - 1] + differ)
    return cost[-1][-1]


def common(a, b):
    """Length of the longest common subsequence."""
    cost = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i in range(1, len(a) + 1):
        for j in range(1, len(b) + 1):
            if a[i - 1] == b[j - 1]:
                cost[i][j] = cost[i - 1][j - 1] + 1
            else:
                cost[i][j] = max(cost[i - 1][j], cost[i][j - 1])
    return cost[-1][-1]


def letters(path, size=SIZE, n=5):
    return [
        min(max(math.floor(y * n / size[1]), 0), n - 1) * n + min(max(math.floor(x * n / size[0]), 0), n - 1)
        for x, y in path
    ]


def sed_of(a, b):
    return float(levenshtein(letters(a), letters(b)))


def fixations_until(path, box, hit="point", fovea=None):
    """The number of the first fixation on the target, from 1; infinite if there is none."""
    left, top, right, bottom = box
    for k, (x, y) in enumerate(path):
        if hit == "point":
            on = left < x < right and top < y < bottom
        else:
            w, h = fovea[0] / 2, fovea[1] / 2
            on = x + w >= left and x - w <= right and y + h >= top and y - h <= bottom
        if on:
            return k + 1
    return math.inf


def search_scores(path, box, limit, hit="point", fovea=None):
    """Every search column of one path; `limit` counts fixations, the initial one included."""
    path = path[:limit]
    steps = fixations_until(path, box, hit, fovea)
    found = steps < math.inf
    curve = [float(steps <= k) for k in range(1, limit + 1)]
    area = sum((curve[k] + curve[k + 1]) / 2 for k in range(limit - 1)) / (limit - 1)
    ratio = math.nan
    if found and steps > 1:
        way = sum(distance(path[k], path[k + 1]) for k in range(steps - 1))
        center = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
        ratio = min(1.0, distance(path[0], center) / way)
    return {
        "search_accuracy": float(found),
        "tfp_auc": sum(curve),
        "auc_perf": area,
        "scanpath_ratio": ratio,
        "search_fixations": float(steps) if found else math.nan,
        "search_fixations_all": float(min(steps, limit)),
        "starts_on_target": float(steps == 1),
        "search_length": float(min(len(path), steps)),
    }


def against_people(paths, humans, metric, how, better=min):
    """Scores per person of a model's paths.

    Args:
        paths: Person -> the model's paths, as that person's trial has them (where it starts, how long it may be).
        humans: Person -> path.
        metric: Of (model's path, person's path).
        how: ``mean``, ``best`` or ``best_of_all``.
        better: min or max.

    """
    scores = {}
    for j in humans:
        values = []
        for i in range(len(paths[j])):
            if how == "mean":
                values.append(metric(paths[j][i], humans[j]))
                continue
            others = [k for k in humans if how == "best_of_all" or k != j]
            known = [metric(paths[k][i], humans[k]) for k in others]
            known = [value for value in known if not math.isnan(value)]
            values.append(better(known) if known else math.nan)
        scores[j] = mean(values)
    return scores


def against_each_other(humans, metric, how, better=min):
    """The same for people: each against all others, never against oneself."""
    scores = {}
    for j in humans:
        if how == "mean":
            scores[j] = mean([metric(humans[i], humans[j]) for i in humans if i != j])
        elif how == "best":
            known = [metric(humans[j], humans[k]) for k in humans if k != j]
            known = [value for value in known if not math.isnan(value)]
            scores[j] = better(known) if known else math.nan
        else:
            scores[j] = math.nan
    return scores
