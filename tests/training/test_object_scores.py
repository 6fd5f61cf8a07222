"""Scores of looks at objects in validation, against numbers worked out by hand, and on two processes."""

from __future__ import annotations

import csv
import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from gazekit.batch import ObjectLayout, SearchTask, TrialBatch
from gazekit.datasets.grid_search import grid_search
from gazekit.training.object_scores import ScoreObjects

END, NOTHING = 4, -100
# On each of two stimuli four objects in a row of 20 px each; the last trial is of nobody.
PEOPLE = [[0, 1, 2], [2], [3, 3, 0, 1], []]
STIMULUS, TARGET = [0, 0, 1, 1], [2, 2, 1, 1]
# Two searches of the model on each, and the probability that it gives to what people looked at next, the end last.
PATHS = [[[0, 1, 2], [2, 2]], [[3, 0], [1]]]
CHANCE = [[0.5, 0.25, 0.4, 0.8], [0.1, 0.3], [0.7, 0.6, 0.2, 0.9, 0.15], []]


def padded(rows: list[list[int]], length: int, value: int = 0) -> torch.Tensor:
    return torch.tensor([row + [value] * (length - len(row)) for row in rows])


def batch() -> TrialBatch:
    n = len(PEOPLE)
    no, zero = torch.zeros(n, dtype=torch.bool), torch.zeros(n, 2)
    box = torch.tensor([[20.0 * t, 0.0, 20.0 * t + 20.0, 10.0] for t in TARGET])
    valid = torch.tensor([[t < len(path) for t in range(4)] for path in PEOPLE])
    x = padded(PEOPLE, 4) * 20.0 + 7.0
    return TrialBatch(
        stimulus=("a", "b"), size_wh_px=(80, 10), px_per_dva=30.0, image=None, features=None,
        stimulus_of_trial=torch.tensor(STIMULUS), subject=("ann", "bob", "ann", "cem"), trial=torch.arange(n),
        xy_px=torch.stack([x, torch.full_like(x, 5.0)], -1), duration_s=valid.float(), valid=valid,
        search=SearchTask(
            target=("cup",) * n, present=~no, box_px=box, has_box=~no, start_xy_px=zero, has_start=no,
            max_saccades=torch.full((n,), -1), template=None, template_of_trial=torch.full((n,), -1),
        ),
        objects=ObjectLayout.grid((80, 10), 4, 1).pick([0, 0]),
    )  # fmt: skip


def searcher() -> SimpleNamespace:
    """What is scored of a model, with the paths and probabilities above."""

    def scene(seen: TrialBatch) -> SimpleNamespace:
        layouts = SimpleNamespace(start=torch.zeros(2, 6), n_objects=4)
        return SimpleNamespace(layouts=layouts, layout_of_trial=seen.stimulus_of_trial, objects=seen.objects)

    def walk(layouts, length, uniform):
        assert uniform.shape == (2, 2, length)
        paths = torch.stack([padded(both, length) for both in PATHS])
        valid = torch.tensor([[[t < len(path) for t in range(length)] for path in both] for both in PATHS])
        return paths, valid, None

    def teacher_forced(seen: TrialBatch) -> tuple[torch.Tensor, torch.Tensor]:
        truth = padded([[*path, END] if path else [] for path in PEOPLE], 5, NOTHING)
        p = torch.full((4, 5, 6), 0.2)
        for row, chances in enumerate(CHANCE):
            for t, chance in enumerate(chances):
                # The rest is the others', evenly; scores are known up to a constant.
                p[row, t] = (1.0 - chance) / 5.0
                p[row, t, truth[row, t]] = chance
        return p.log() + 3.0, truth

    return SimpleNamespace(
        scene=scene, network=SimpleNamespace(walk=walk), teacher_forced=teacher_forced, most=7,
        hparams={"validation_paths": 2},
    )  # fmt: skip


def scores(*batches: TrialBatch) -> dict[str, float]:
    callback, logged = ScoreObjects(), {}
    module = SimpleNamespace(device="cpu", log=lambda name, value, **_: logged.update({name: float(value)}))
    callback.on_validation_epoch_start(None, module)
    for one in batches:
        callback._update(searcher(), one)
    callback.on_validation_epoch_end(None, module)
    return logged


def test_numbers_worked_out_by_hand():
    got = scores(batch())
    # Each trial counts once: two on the first stimulus, one on the second.
    model = {"correct": (1 + 1 + 0.5) / 3, "length": (2.5 + 2.5 + 1.5) / 3, "search": (0.75 + 0.75 + 1) / 3}
    model |= {"refix": 0.5 / 3, "revisit": 0.0}
    people = {"correct": 1.0, "length": 8 / 3, "search": 2.75 / 3, "refix": 0.25 / 3}
    # Nobody came back to an object: that has no relative difference.
    relative = [abs(model[name] - value) / value for name, value in people.items()]
    # The longest common subsequence of two paths with each person's, over the longer length.
    similar = [(3 / 3 + 1 / 3) / 2, (1 / 3 + 1 / 2) / 2, (2 / 4 + 1 / 4) / 2]
    chances = [p for row in CHANCE for p in row]
    of_objects = [p for row in CHANCE for p in row[:-1]]
    expected = {
        "object_delta": sum(relative) / 4, "delta_measures": 4, **{f"object_{k}": v for k, v in model.items()},
        "object_ss": sum(similar) / 3, "nll_nats": -sum(map(math.log, chances)) / 11, "sim": sum(of_objects) / 8,
    }  # fmt: skip
    assert got == pytest.approx({f"val/{name}": value for name, value in expected.items()}, abs=1e-6)


def test_a_layout_without_a_target_is_left_out_of_correct_alone():
    whole = batch()
    absent = torch.tensor([True, True, False, False])
    got, expected = scores(replace(whole, search=replace(whole.search, present=absent))), scores(whole)
    assert got["val/object_correct"] == pytest.approx(1.0)
    assert got["val/delta_measures"] == 4
    same = ["length", "search", "refix", "revisit", "ss"]
    assert [got[f"val/object_{name}"] for name in same] == [expected[f"val/object_{name}"] for name in same]


def test_a_validation_in_which_nobody_looked_has_no_scores():
    whole = batch()
    assert scores(replace(whole, valid=torch.zeros_like(whole.valid))) == {}
    assert scores() == {}


def test_searches_do_not_depend_on_what_else_is_in_the_batch():
    whole = batch()
    both = ScoreObjects._draws(whole, STIMULUS, 3, 5)
    alone = ScoreObjects._draws(whole.trials(2, 4), [0, 0], 3, 5)
    assert torch.equal(both[1], alone[0])
    assert not torch.equal(both[0], both[1])
    assert both.min() >= 0
    assert both.max() < 1


# On two processes

SCRIPT = """
import json, sys
from gazekit.training.callbacks import KeepBest
from gazekit.training.cli import run

before = KeepBest.on_validation_end
def said(self, trainer, module):
    before(self, trainer, module)
    state = [trainer.current_epoch, self.best, self.epoch, self.waited]
    # In one piece: two processes write to one pipe.
    sys.stdout.write(f"RANK {trainer.global_rank} {json.dumps(state)}\\n")
    sys.stdout.flush()
KeepBest.on_validation_end = said
run(sys.argv[1], sys.argv[2:])
"""
TWO = ["--trainer.strategy", "ddp", "--trainer.devices", "2"]


def runs(script: Path, subcommand: str, data: Path, out: Path, *words: str) -> str:
    command = [
        sys.executable, str(script), subcommand, "--config", "oat_amazon_recognition", "--data.dataset", str(data),
        "--data.size_wh_px", "null", "--data.batch_size", "4", "--model.width", "24", "--model.hidden", "16",
        "--model.n_layers", "1", "--model.n_places", "4", "--trainer.accelerator", "cpu",
        "--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false",
        "--trainer.default_root_dir", str(out), *words,
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=150)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_two_processes_keep_the_same_best_and_score_as_one(tmp_path):
    """They end in the same epoch, rather than wait for each other for ever, and agree with a single process."""
    script, data = tmp_path / "run.py", tmp_path / "displays"
    script.write_text(SCRIPT)
    # Seven displays validate: four in one process, three in the other.
    grid_search(36, 2, columns=4, rows=3, slip=0.2, seed=1).to_parquet(data)
    keep = "{class_path: gazekit.training.callbacks.KeepBest, init_args: {monitor: val/object_delta, patience: 1}}"
    said = runs(
        script, "fit", data, tmp_path / "fit", *TWO, "--trainer.max_epochs", "20", "--model.lr", "1e-2",
        "--trainer.check_val_every_n_epoch", "1", "--trainer.callbacks", f"[{keep}]", "--data.val_split", "test",
    )  # fmt: skip
    states: dict[str, list[object]] = {"0": [], "1": []}
    for line in said.splitlines():
        if line.startswith("RANK "):
            _, rank, state = line.split(" ", 2)
            states[rank].append(json.loads(state))
    assert states["0"] == states["1"]
    # Ended by patience, so that an end was agreed upon.
    assert states["0"][-1][3] == 1
    assert len([line for line in said.splitlines() if line.startswith("best val/object_delta")]) == 1
    results = []
    for number, words in enumerate(([], TWO)):
        out = tmp_path / f"validate_{number}"
        checkpoint = ["--ckpt_path", str(tmp_path / "fit" / "oat.ckpt"), "--data.val_split", "test"]
        runs(script, "validate", data, out, *words, *checkpoint, "--trainer.callbacks", "null")
        with next(out.glob("logs/version_0/metrics.csv")).open() as file:
            results.append({k: float(v) for row in csv.DictReader(file) for k, v in row.items() if k[:4] == "val/"})
    assert len(results[0]) == 10
    # Sums over ranks in another order, in float64, logged in float32.
    assert results[1] == pytest.approx(results[0], rel=1e-6)
