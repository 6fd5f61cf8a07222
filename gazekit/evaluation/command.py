"""``gazekit evaluate``: run a protocol, print its table, write scores, summary and report."""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np
import pandas as pd
from tqdm import tqdm

from gazekit.evaluation.columns import score_column
from gazekit.evaluation.protocol import Protocol
from gazekit.evaluation.report import number, write_report
from gazekit.evaluation.runner import Evaluation, evaluate
from gazekit.evaluation.summary import notes, summary_of
from gazekit.files import written_aside
from gazekit.memory import keep_freed_memory


def run_evaluation(
    protocol_name: str, models: list[str], out: Path, data_root: Path | None = None, split: str | None = None,
    device: str = "cpu", report: bool = True, dataset: str | None = None, unseen: bool = False,
) -> Evaluation:  # fmt: skip
    """Evaluate with a progress bar; print and write what there is to see; return the evaluation."""
    protocol = Protocol.read(protocol_name, dataset)
    keep_freed_memory()
    with tqdm(total=0, unit="image", desc="fitting controls") as bar:

        def progress(model: str, done: int, total: int) -> None:
            if bar.desc != f"{model}: ":
                bar.reset(total)
                bar.set_description(model)
            bar.update(done - bar.n)

        evaluation = evaluate(protocol, models, out, data_root, split, device, progress, unseen)
    summary = summary_of(evaluation)
    with written_aside(out / "summary.csv") as aside:
        summary.to_csv(aside, index=False)
    print_table(evaluation, summary)
    click.echo(f"scores: {out / 'scores.parquet'} ({len(evaluation.scores)} rows, one per model and trial)")
    if report:
        write_report(evaluation, out / "report.html", summary)
        click.echo(f"report: {out / 'report.html'}")
    return evaluation


def print_table(evaluation: Evaluation, summary: pd.DataFrame) -> None:
    """The scores as text: mean, interval, share of the ceiling; one block per metric."""
    record = evaluation.record
    data = record["data"]
    click.echo(
        f"\n{record['protocol']['name']} v{record['protocol']['version']} on {data['label']}, split "
        f"{record['split']}: {data['stimuli_scored']} images, {data['trials_scored']} trials"
    )
    width = max(len(name) for name in summary["model"]) + 2
    first = max(14, *(len(score_column(name).label) + 3 for name in summary["metric"]))
    level = round(100 * record["protocol"]["intervals"]["level"])
    titles = ("score", "model", "mean", f"{level} % interval", "of ceiling", "n valid / n total")
    click.echo("{:{f}}{:{w}}{:>9}{:>20}{:>12}{:>20}".format(*titles, f=first, w=width))
    order = list(record["models"])
    for metric, rows in summary.groupby("metric", sort=False):
        info = score_column(str(metric))
        listed = rows.set_index("model").loc[order].reset_index().to_dict("records")
        for i, row in enumerate(listed):
            head = f"{info.label} {info.arrow}" if i == 0 else info.unit if i == 1 else ""
            interval = f"{number(row['low'])} to {number(row['high'])}" if np.isfinite(row["low"]) else ""
            share = number(row["of_ceiling"]) if np.isfinite(row["of_ceiling"]) else ""
            counts = f"{row['n_valid']} / {row['n_total']}"
            click.echo(
                f"{head:{first}}{row['model']:{width}}{number(row['mean']):>9}{interval:>20}{share:>12}{counts:>20}"
            )
    for line in notes(evaluation, summary):
        click.echo(f"note: {line}")
    click.echo("")
