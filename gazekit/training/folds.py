"""``gazekit crossvalidate``: a training per fold, so that every stimulus is predicted by a model that never saw it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from gazekit.errors import InputError
from gazekit.files import written_aside
from gazekit.training.cli import run
from gazekit.training.recipe import read_recipe

# Given by the folds themselves.
_OWN = ("--trainer.default_root_dir", "--data.split", "--data.test_split", "--ckpt_path", "--predict.name")


def cross_validate(
    arguments: list[str], out: Path, folds: int, seed: int, name: str, by: str, say: Callable[[str], None],
    predict: bool = True,
) -> Path:  # fmt: skip
    """Train and predict fold by fold; the scanpaths of all folds as one table.

    Fold k is tested, fold k + 1 validates, the others train. Finished folds are kept, and an unfinished one goes on
    from its last epoch, so that the same command again does what is left.

    Args:
        arguments: Of ``gazekit fit``: recipe and overrides.
        out: Folder; ``fold_0`` ... are the runs.
        folds: 3 or more.
        seed: Of the division into folds.
        name: Of the table, and of the model where it is evaluated.
        by: Column whose values stay together.
        say: Takes each line.
        predict: Write scanpaths; False trains only.

    Returns:
        Path of the table, one row per fixation, or of the folder with the folds; ``gazekit evaluate --model`` takes
        either, and of the folder it scores maps, too.

    Raises:
        InputError: An argument that the folds set themselves, too few folds, or what the training says.

    """
    for word in arguments:
        if word.partition("=")[0] in _OWN:
            raise InputError(f"crossvalidate sets {word.partition('=')[0]} itself; leave it out")
    recipes = [read_recipe(name_of) for name_of in _recipes(arguments)]
    tables = []
    for fold in range(folds):
        folder = out / f"fold_{fold}"
        rule = {"by": by, "seed": seed, "folds": folds, "fold": fold}
        done = folder / f"{name}.json"
        about = {"arguments": arguments, "recipes": recipes, "split": rule}
        new = not done.exists()
        if not new and json.loads(done.read_text(encoding="utf-8")) != about:
            raise InputError(f"{folder} holds a run with other arguments; give another --out, or remove it")
        common = [*arguments, "--trainer.default_root_dir", str(folder), "--data.split", json.dumps(rule)]
        table = folder / f"{name}.parquet"
        if new:
            say(f"fold {fold + 1} of {folds}")
            begun = folder / "last.ckpt"
            run("fit", [*common, *(["--ckpt_path", str(begun)] if begun.exists() else [])])
        # A fold that was only trained before is predicted now.
        if predict and (new or not table.exists()):
            told = ["--ckpt_path", str(_model_in(folder)), "--data.test_split", "test", "--predict.name", name]
            run("predict", [*common, *told])
        if new:
            _model_in(folder)
            with written_aside(done) as aside:
                aside.write_text(json.dumps(about), encoding="utf-8")
        if predict:
            tables.append(pd.read_parquet(table).assign(fold=fold))
    if not predict:
        say(f"models of all folds: {out}")
        return out
    whole = pd.concat(tables, ignore_index=True)
    if (twice := whole.groupby("stimulus")["fold"].nunique() > 1).any():
        raise InputError(f"{out}: stimulus {twice.idxmax()!r} is in the test part of several folds; split by stimulus")
    whole["trial"] = whole.groupby(["stimulus", "subject"], sort=False).ngroup()
    path = out / f"{name}.parquet"
    with written_aside(path) as aside:
        whole.to_parquet(aside, index=False)
    say(f"scanpaths of all {whole['stimulus'].nunique()} stimuli, each by a model that never saw it: {path}")
    return path


def _model_in(folder: Path) -> Path:
    """The checkpoint that a fold's training has published."""
    made = [path for path in folder.glob("*.ckpt") if path.stem not in ("last", "epoch")]
    if len(made) != 1:
        raise InputError(f"{folder}: expected the checkpoint of one model, found {sorted(map(str, made))}")
    return made[0]


def _recipes(arguments: list[str]) -> list[str]:
    """The values of ``--config``."""
    pairs = zip(arguments, [*arguments[1:], ""], strict=True)
    found = []
    for word, following in pairs:
        option, equals, value = word.partition("=")
        if option in ("--config", "-c"):
            found.append(value if equals else following)
    return found
