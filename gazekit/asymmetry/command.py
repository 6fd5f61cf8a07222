"""``gazekit asymmetry run | report | export | list``."""

from __future__ import annotations

from pathlib import Path

import click
from tqdm import tqdm

from gazekit.asymmetry.plan import Plan, read_plan
from gazekit.asymmetry.report import as_text, write_asymmetry_report
from gazekit.asymmetry.run import AsymmetryRun, read_run, run_plan, with_models
from gazekit.errors import InputError
from gazekit.files import written_aside
from gazekit.memory import keep_freed_memory
from gazekit.resources import read_yaml, resource_names, resource_path
from gazekit.stimuli.design import SearchDesign
from gazekit.stimuli.export import export_condition


def run_asymmetry(
    plan_name: str, out: Path, models: list[str], trials: int | None = None, tasks: list[str] | None = None,
    device: str = "cpu",
) -> AsymmetryRun:  # fmt: skip
    """Run a plan with a progress bar, write its tables and report, print what came out."""
    plan = _plan(plan_name, models, trials, tasks)
    keep_freed_memory()
    with tqdm(total=0, unit="search", desc="drawing displays") as bar:

        def progress(what: str, done: int, total: int) -> None:
            bar.set_description(what)
            if total:
                bar.total = total
                bar.update(done - bar.n)

        run = run_plan(plan, out, device, progress)
    _finish(run, out)
    return run


def report_asymmetry(plan_name: str, out: Path, models: list[str]) -> None:
    """Write the report of a finished run again."""
    plan = _plan(plan_name, models, None, None)
    _finish(read_run(plan, out), out)


def _finish(run: AsymmetryRun, out: Path) -> None:
    analysis = write_asymmetry_report(run, out)
    click.echo(as_text(analysis, run.plan))
    click.echo(f"\ntrials: {out / 'trials.parquet'} ({len(run.trials)} rows, one per searcher and display)")
    click.echo(f"report: {out / 'report.html'}")


def _plan(name: str, models: list[str], trials: int | None, tasks: list[str] | None) -> Plan:
    plan = read_plan(name)
    if tasks:
        known = [planned.task.name for planned in plan.tasks]
        if unknown := [task for task in tasks if task not in known]:
            raise InputError(f"plan {plan.name!r} has no task {unknown[0]!r}; it has {', '.join(known)}")
        plan = plan.but(tasks=tuple(planned for planned in plan.tasks if planned.task.name in tasks))
    if trials is not None:
        if trials < 1:
            raise InputError(f"--trials is {trials}, expected 1 or more")
        plan = plan.smaller(trials)
    wanted = models or [model.name for model in plan.models if not model.optional]
    return with_models(plan, wanted)


def export_plan(plan_name: str, out: Path, absent: bool) -> None:
    """Write all displays of a plan for an experiment with people."""
    plan = read_plan(plan_name)
    for planned in plan.tasks:
        n = 0
        for _, condition in planned.task.conditions:
            if not isinstance(condition, SearchDesign):
                raise InputError(f"condition {condition.name!r} lies in a folder already; there is nothing to draw")
            n += len(export_condition(condition, out / planned.task.name, absent))
        click.echo(f"{planned.task.name}: {n} displays (PNG and SVG), {out / planned.task.name}")
    with written_aside(out / "plan.yaml") as aside:
        aside.write_text(resource_path("asymmetry", plan_name).read_text(encoding="utf-8"), encoding="utf-8")


def list_plans() -> None:
    """Name and title of every shipped plan."""
    for name in resource_names("asymmetry"):
        click.echo(f"{name:24}{read_yaml(resource_path('asymmetry', name)).get('title', '')}")
