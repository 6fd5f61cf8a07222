"""Running a plan: every searcher on every display, one row per trial; what is finished is kept."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

import gazekit
from gazekit.asymmetry.plan import Plan, PlannedModel
from gazekit.displays import SearchPaths
from gazekit.errors import InputError
from gazekit.files import written_aside
from gazekit.models import create_model
from gazekit.models.base import seed_of
from gazekit.models.eccnet import EccNet
from gazekit.models.searcher import Searcher
from gazekit.provenance import git_commit
from gazekit.stimuli.design import Condition
from gazekit.training.visual_diet import train_diet_network

# Source whose change makes other fixations: results of other code are not taken for these.
_CODE = ("displays.py", "stimuli", "backbones", "models")


@dataclass(frozen=True)
class AsymmetryRun:
    """What a run gave.

    Args:
        plan: What was run.
        trials: One row per model, seed and display: ``model, group, seed, task, role, condition, set_size, trial``,
            ``n_fixations`` after the initial one until the target (NaN: not found), ``found``, ``max_fixations``.
        fixations: One row per fixation: the same keys, ``fixation`` from 0 (the initial one), ``x_px, y_px``.
        record: Plain values: the plan's settings, and of each model its weights.

    """

    plan: Plan
    trials: pd.DataFrame
    fixations: pd.DataFrame
    record: dict[str, Any]


def run_plan(
    plan: Plan, out: Path | None = None, device: str = "cpu", progress: Callable[[str, int, int], None] | None = None
) -> AsymmetryRun:
    """Run all of a plan; trials that lie in `out` from the same plan, code and weights are not run again.

    Args:
        plan: See :class:`Plan`.
        out: Folder of finished trials, tables and trained networks; None keeps nothing.
        device: Where searchers run.
        progress: Called with what is being done, displays done, and displays in all.

    Raises:
        InputError: A model is not a searcher, or refuses its arguments or the displays; networks are to be trained
            and there is no folder for them.

    """
    total = sum(
        len(model.seeds) * len(planned.task.conditions) * len(condition.set_sizes) * _n_trials(condition)
        for model in plan.models
        for planned in plan.tasks
        for _, condition in planned.task.conditions[:1]
    )
    done, parts, entries = 0, [], {}
    for model in plan.models:
        arguments, network = _with_network(model, out, progress)
        searcher = _searcher(model, arguments).to(device)
        entries[model.name] = {
            "model": model.model, "arguments": model.arguments, "seeds": list(model.seeds), "group": model.group,
            **searcher.provenance(), **({"network": network} if network else {}),
        }  # fmt: skip
        for planned in plan.tasks:
            settled = _settled(searcher, model, planned.like)
            for role, condition in planned.task.conditions:
                for set_size in condition.set_sizes:
                    for seed in model.seeds:
                        part = _part(settled, model, entries[model.name], planned, role, condition, set_size, seed, out)
                        parts.append(part)
                        done += len(part)
                        if progress:
                            progress(f"{model.name}: {condition.name}", done, total)
    trials = pd.concat(parts, ignore_index=True)
    fixations = _long(trials)
    trials = trials.drop(columns=["x_px", "y_px"])
    run = AsymmetryRun(plan, trials, fixations, {"models": entries, **_versions(device)})
    if out is not None:
        write_run(run, out)
    return run


def write_run(run: AsymmetryRun, out: Path) -> None:
    """``trials.parquet``, ``trials.csv``, ``fixations.parquet`` and ``record.json`` in `out`."""
    for name, table in (("trials", run.trials), ("fixations", run.fixations)):
        with written_aside(out / f"{name}.parquet") as aside:
            table.to_parquet(aside, index=False)
    with written_aside(out / "trials.csv") as aside:
        run.trials.to_csv(aside, index=False)
    with written_aside(out / "record.json") as aside:
        aside.write_text(json.dumps(run.record, indent=1, default=str), encoding="utf-8")


def read_run(plan: Plan, out: Path) -> AsymmetryRun:
    """What :func:`run_plan` wrote.

    Raises:
        InputError: There is no finished run in the folder, or it is damaged.

    """
    try:
        trials = pd.read_parquet(out / "trials.parquet")
        fixations = pd.read_parquet(out / "fixations.parquet")
        record = json.loads((out / "record.json").read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(
            f"{out}: no finished run ({Path(error.filename or '').name} is missing); 'gazekit asymmetry run' makes one"
        ) from error
    except (OSError, ValueError) as error:
        raise InputError(f"{out}: the run's tables cannot be read ({error}); run it again") from error
    if lost := {model.name for model in plan.models} - set(trials["model"]):
        raise InputError(f"{out}: holds no trials of model {sorted(lost)[0]!r}; run the plan again to add them")
    return AsymmetryRun(plan, trials, fixations, record)


def _n_trials(condition: Condition) -> int:
    return int(getattr(condition, "trials", 0)) or 30


def _with_network(
    model: PlannedModel, out: Path | None, progress: Callable[[str, int, int], None] | None
) -> tuple[dict[str, Any], dict[str, Any] | None]:
    if model.network is None:
        return model.arguments, None
    if out is None:
        raise InputError(f"model {model.name!r} needs a network that is trained first; give a folder for it")
    file = out / "networks" / f"{model.network.name}.safetensors"
    if progress and not file.is_file():
        progress(f"training {model.name}", 0, 0)
    record = train_diet_network(model.network, file, progress=False)
    return {**model.arguments, "weights": str(file)}, record


def _searcher(model: PlannedModel, arguments: dict[str, Any]) -> Searcher:
    try:
        searcher = create_model(model.model, **arguments)
    except TypeError as error:
        raise InputError(f"model {model.name!r}: {error}") from error
    if not isinstance(searcher, Searcher):
        raise InputError(f"model {model.name!r}: {model.model} does not search; give a searcher such as eccnet")
    return searcher.eval()


def _settled(searcher: Searcher, model: PlannedModel, like: str | None) -> Searcher:
    """With the settings of a published experiment, where the searcher has such and the plan gives none."""
    own = {"surround", "layer_weights"} & set(model.arguments)
    if like is not None and not own and isinstance(searcher, EccNet):
        return searcher.like_published(like)
    return searcher


def _part(
    searcher: Searcher, model: PlannedModel, entry: dict[str, Any], planned: Any, role: str, condition: Condition,
    set_size: int, seed: int, out: Path | None,
) -> pd.DataFrame:  # fmt: skip
    key = {
        "entry": {k: v for k, v in entry.items() if k != "seeds"}, "like": planned.like, "seed": seed,
        "condition": condition.fingerprint(), "set_size": set_size, "code": _code(),
    }  # fmt: skip
    digest = hashlib.sha256(json.dumps(key, sort_keys=True, default=str).encode()).hexdigest()[:16]
    file = None if out is None else out / "parts" / f"{model.name}-{condition.name}-{set_size}-{digest}.parquet"
    if file is not None and file.is_file():
        try:
            return _labelled(pd.read_parquet(file), planned, role, model)
        except (OSError, ValueError):
            file.unlink()
    displays = condition.displays(set_size).to(next((p.device for p in searcher.parameters()), torch.device("cpu")))
    generator = torch.Generator().manual_seed(seed_of("asymmetry", seed, condition.name, set_size))
    with torch.inference_mode():
        paths = searcher.search(displays, generator)
    table = _rows(paths, displays.max_fixations)
    table.insert(0, "seed", seed)
    table.insert(1, "condition", condition.name)
    table.insert(2, "set_size", set_size)
    if file is not None:
        with written_aside(file) as aside:
            table.to_parquet(aside, index=False)
    return _labelled(table, planned, role, model)


def _labelled(table: pd.DataFrame, planned: Any, role: str, model: PlannedModel) -> pd.DataFrame:
    table = table.copy()
    table.insert(0, "role", role)
    table.insert(0, "task", planned.task.name)
    table.insert(0, "group", model.group)
    table.insert(0, "model", model.name)
    return table


def _rows(paths: SearchPaths, max_fixations: int) -> pd.DataFrame:
    n = paths.n_fixations.double().cpu().numpy()
    xy, valid = paths.xy_px.double().cpu().numpy(), paths.valid.cpu().numpy()
    return pd.DataFrame(
        {
            "trial": np.arange(len(n)),
            "n_fixations": np.where(np.isfinite(n), n, np.nan),
            "found": np.isfinite(n),
            "max_fixations": max_fixations,
            "x_px": [xy[i, valid[i], 0].tolist() for i in range(len(n))],
            "y_px": [xy[i, valid[i], 1].tolist() for i in range(len(n))],
        }
    )


def _long(trials: pd.DataFrame) -> pd.DataFrame:
    keys = ["model", "seed", "task", "condition", "set_size", "trial"]
    long = trials[[*keys, "x_px", "y_px"]].explode(["x_px", "y_px"], ignore_index=True)
    long.insert(len(keys), "fixation", long.groupby(keys, sort=False).cumcount())
    return long.astype({"x_px": float, "y_px": float})


def _code() -> str:
    digest = hashlib.sha256()
    folder = Path(gazekit.__file__).parent
    for name in _CODE:
        part = folder / name
        for path in sorted(part.rglob("*.py")) if part.is_dir() else [part]:
            digest.update(path.relative_to(folder).as_posix().encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _versions(device: str) -> dict[str, Any]:
    return {
        "device": device,
        "commit": git_commit(),
        "versions": {"gazekit": gazekit.__version__, "torch": torch.__version__, "numpy": np.__version__},
    }


def with_models(plan: Plan, names: list[str]) -> Plan:
    """The plan with these of its models, or with registered searchers of these names.

    Raises:
        InputError: A name is neither.

    """
    own = {model.name: model for model in plan.models}
    chosen = [own.get(name) or PlannedModel(name, name) for name in names]
    for model in chosen:
        if model.name not in own:
            from gazekit.models import MODELS
            from gazekit.registry import unknown_name

            if model.model not in MODELS:
                raise unknown_name("model", model.model, [*own, *MODELS])
    return replace(plan, models=tuple(chosen))
