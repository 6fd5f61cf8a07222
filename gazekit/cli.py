"""The ``gazekit`` command. Heavy imports wait until a command needs them."""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path
from typing import Any

import click

from gazekit import __version__
from gazekit.errors import InputError, one_line_warnings


class _OneLineErrors(click.Group):
    """What a user can mend is one line and exit status 1; the traceback stands behind ``--traceback``."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except InputError as error:
            if ctx.params.get("traceback"):
                traceback.print_exc()
            click.echo(f"gazekit: {error}", err=True)
            sys.exit(1)
        except KeyboardInterrupt:
            click.echo("gazekit: interrupted; what was finished is kept, run the same command to go on", err=True)
            sys.exit(130)


_data_root = click.option(
    "--data-root", type=click.Path(path_type=Path), help="Data folder; default $GAZEKIT_DATA, then the cache."
)


@click.group(cls=_OneLineErrors, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
@click.option("--traceback", is_flag=True, help="Show the Python traceback of an error.")
@click.pass_context
def main(ctx: click.Context, traceback: bool) -> None:
    """Models of where people look: train scanpath models, score any model against human eye movements."""
    del traceback  # read from the context where errors are printed
    one_line_warnings()
    if ctx.invoked_subcommand != "bench":
        # OpenMP's threads spin while they wait, which slows PyTorch down many times over as soon as another process
        # wants the same cores; a bench is of a machine that has nothing else to do. Read when PyTorch is imported.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        # Of libgomp alone: sleeping at once makes small products on an idle machine slower by half.
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")


@main.command()
@_data_root
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/demo"), show_default=True)
@click.option("--epochs", type=int, help="Fewer (or more) epochs than the recipes have.")
@click.option("--simulated", is_flag=True, help="Use the simulated data even where real data are at hand.")
def demo(data_root: Path | None, out: Path, epochs: int | None, simulated: bool) -> None:
    """Train a scanpath model on the data at hand, score it against people, and write a report."""
    from gazekit.demo import run_demo

    run_demo(out, data_root=data_root, epochs=epochs, simulated=simulated)


@main.group()
def data() -> None:
    """The datasets that gazekit knows."""


@data.command("list")
@click.option("--markdown", is_flag=True, help="Print the tables of docs/datasets.md.")
def list_data(markdown: bool) -> None:
    """What is known, what is here, how large it is, and under which licence."""
    from gazekit.datasets.overview import as_markdown, as_text, entries, options_as_markdown

    listed = entries()
    click.echo(f"{as_markdown(listed)}\n\n{options_as_markdown(listed)}" if markdown else as_text(listed))


@data.command("fetch")
@click.argument("name")
@click.option("--folder", type=click.Path(path_type=Path), help="Where to; default is the cache.")
def fetch_data(name: str, folder: Path | None) -> None:
    """Download dataset NAME, checking every file; broken off, it goes on where it stopped.

    Where a form or a licence stands in the way, it says what to get, from where, and where to put it.
    """
    from gazekit.datasets.fetch import fetch

    click.echo(f"data: {fetch(name, folder, say=click.echo)}")


@data.command("check")
@click.argument("name")
@_data_root
@click.option("--images/--no-images", default=True, show_default=True, help="Decode every image.")
def check_data(name: str, data_root: Path | None, images: bool) -> None:
    """Hold dataset NAME (or the folder of your own card) against its card; exit status 1 if anything deviates."""
    from gazekit.datasets import load
    from gazekit.datasets.check import check

    findings = check(load(name, root=data_root, cache=False), decode_images=images)
    for finding in findings:
        click.echo(f"{'DEVIATES' if finding.deviates else 'ok' if finding.expected else '':9}{finding}")
    if deviating := sum(finding.deviates for finding in findings):
        raise InputError(f"{name}: {deviating} of {len(findings)} findings deviate from the card")


@data.command("show")
@click.argument("name")
@_data_root
@click.option("--trials", default=6, show_default=True, help="How many trials.")
@click.option("--seed", default=0, show_default=True, help="Which ones.")
@click.option("--stimulus", "stimuli", multiple=True, help="Only trials on this stimulus; may be given several times.")
@click.option("--out", type=click.Path(path_type=Path), help="Figure to write; default is NAME.png.")
def show_data(
    name: str, data_root: Path | None, trials: int, seed: int, stimuli: tuple[str, ...], out: Path | None
) -> None:
    """Draw a few trials of dataset NAME over their stimuli."""
    from gazekit.datasets import load
    from gazekit.datasets.show import save_shown, show

    dataset = load(name, root=data_root)
    path = out or Path(f"{dataset.name}.png")
    save_shown(show(dataset, trials, seed, list(stimuli) or None), path)
    click.echo(f"figure: {path}")


@main.command()
@click.argument("protocol")
@click.option(
    "--model",
    "models",
    multiple=True,
    help="Checkpoint, folder of crossvalidate, model name, YAML file of a model, or scanpaths (.parquet, .csv).",
)
@click.option("--dataset", help="Run the protocol on this dataset; default is the protocol's.")
@_data_root
@click.option("--split", help="train, val, test, several joined by +, or all; default is the protocol's.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/evaluation"), show_default=True)
@click.option("--device", default="cpu", show_default=True, help="Where models and metrics run, e.g. cuda.")
@click.option("--report/--no-report", default=True, show_default=True, help="Write report.html.")
@click.option("--unseen", is_flag=True, help="Score only images on which none of the models was trained.")
def evaluate(
    protocol: str, models: tuple[str, ...], dataset: str | None, data_root: Path | None, split: str | None,
    out: Path, device: str, report: bool, unseen: bool,
) -> None:  # fmt: skip
    """Score models, controls and people on PROTOCOL (a name or a YAML file).

    Prints a table and writes OUT/scores.parquet (one row per model and trial), OUT/summary.csv and
    OUT/report.html. Interrupted, it goes on where it stopped.
    """
    from gazekit.evaluation.command import run_evaluation

    run_evaluation(
        protocol, list(models), out, data_root=data_root, split=split, device=device, report=report, dataset=dataset,
        unseen=unseen,
    )  # fmt: skip


@main.command()
@click.argument("path_a", metavar="A", type=click.Path(path_type=Path))
@click.argument("path_b", metavar="B", type=click.Path(path_type=Path))
@click.option("--model-a", help="Model in A, where it holds several.")
@click.option("--model-b", help="Model in B, where it holds several.")
@click.option("--subjects-a", help="Only these subjects of A, separated by commas.")
@click.option("--subjects-b", help="Only these subjects of B, separated by commas.")
@click.option("--by", help="Column of categories that weigh equally, e.g. task.")
@click.option(
    "--reduction",
    type=click.Choice(["macro", "micro"]),
    default="macro",
    show_default=True,
    help="Mean of image means, or mean over all trials (of NSS and its like: over all fixations).",
)
@click.option("--crossed", is_flag=True, help="Resample images and subjects, not images alone.")
@click.option("--draws", default=2000, show_default=True, help="Bootstrap draws.")
@click.option("--seed", default=0, show_default=True, help="Of the draws.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/comparison"), show_default=True)
def compare(
    path_a: Path, path_b: Path, model_a: str | None, model_b: str | None, subjects_a: str | None,
    subjects_b: str | None, by: str | None, reduction: Any, crossed: bool, draws: int, seed: int, out: Path,
) -> None:  # fmt: skip
    """Paired differences, A minus B, of two score files that 'gazekit evaluate' wrote.

    A and B are scores.parquet or the folders with it, for two models or two groups of subjects. Prints a
    table and writes OUT/comparison.csv and OUT/comparison.png.
    """
    from gazekit.evaluation.compare import run_compare

    run_compare(
        path_a, path_b, out, model_a=model_a, model_b=model_b,
        subjects_a=tuple(filter(None, (subjects_a or "").split(","))),
        subjects_b=tuple(filter(None, (subjects_b or "").split(","))),
        by=by, reduction=reduction, crossed=crossed, n_resamples=draws, seed=seed,
    )  # fmt: skip


@main.group()
def asymmetry() -> None:
    """Search-asymmetry experiments: who finds hard what people find hard?"""


_plan_models = click.option(
    "--model",
    "models",
    multiple=True,
    help="A model of the plan, or any registered searcher; may be given several times.",
)
_plan_out = click.option("--out", type=click.Path(path_type=Path), default=Path("runs/asymmetry"), show_default=True)


@asymmetry.command("list")
def list_asymmetry() -> None:
    """The plans that ship."""
    from gazekit.asymmetry.command import list_plans

    list_plans()


@asymmetry.command("run")
@click.argument("plan")
@_plan_models
@click.option("--task", "tasks", multiple=True, help="Only these tasks of the plan.")
@click.option("--trials", type=int, help="Fewer (or more) displays per set size than the plan has.")
@click.option("--device", default="cpu", show_default=True, help="Where searchers run, e.g. cuda.")
@_plan_out
def run_asymmetry_plan(
    plan: str, models: tuple[str, ...], tasks: tuple[str, ...], trials: int | None, device: str, out: Path
) -> None:
    """Run PLAN (a name or a YAML file): every searcher on every display, slopes, indices and a report.

    Writes OUT/trials.parquet (one row per searcher and display), OUT/fixations.parquet, tables as CSV, figures and
    OUT/report.html. Interrupted, it goes on where it stopped.
    """
    from gazekit.asymmetry.command import run_asymmetry

    run_asymmetry(plan, out, list(models), trials, list(tasks), device)


@asymmetry.command("report")
@click.argument("plan")
@_plan_models
@_plan_out
def report_asymmetry_plan(plan: str, models: tuple[str, ...], out: Path) -> None:
    """Write the tables, figures and report of a finished run of PLAN in OUT again."""
    from gazekit.asymmetry.command import report_asymmetry

    report_asymmetry(plan, out, list(models))


@asymmetry.command("export")
@click.argument("plan")
@click.option("--absent", is_flag=True, help="Also a target-absent display for each target-present one.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/displays"), show_default=True)
def export_asymmetry_plan(plan: str, absent: bool, out: Path) -> None:
    """Write all displays of PLAN as PNG and SVG, with masks and target boxes, to run them with people."""
    from gazekit.asymmetry.command import export_plan

    export_plan(plan, out, absent)


@main.command()
@click.argument("image", type=click.Path(path_type=Path))
@click.option("--caption", help="What is said about the picture, for models that take notice (nevaclip).")
@click.option("--model", "model", help="Name or checkpoint; default is nevaclip with a caption, neva without.")
@click.option("--set", "options", multiple=True, help="Argument of a model by name, e.g. fovea.retention=0.7.")
@click.option(
    "--objects", help="For oat: superpixels[:N[:COMPACTNESS]], cells:COLUMNSxROWS, or a CSV or Parquet file of boxes."
)
@click.option("--target", help="What is searched for: a picture file, or a word; for models of search.")
@click.option("--length", default=10, show_default=True, help="Fixations.")
@click.option("--seed", default=0, show_default=True, help="Of the scanpath.")
@click.option("--px-per-dva", type=float, help="Pixels per degree; default: the picture is 32 degrees wide.")
@click.option("--out", type=click.Path(path_type=Path), help="Files without ending; default is NAME_look.")
def look(
    image: Path, caption: str | None, model: str | None, options: tuple[str, ...], objects: str | None,
    target: str | None, length: int, seed: int, px_per_dva: float | None, out: Path | None,
) -> None:  # fmt: skip
    """Draw where a model looks on IMAGE.

    Writes OUT.png and OUT.svg, the scanpath with numbered fixations, and OUT.gif, what the model saw at each.
    """
    from gazekit.datasets.images import read_image
    from gazekit.look import look as scanpath_on
    from gazekit.look import model_for, parsed_options, save_look

    read_image(image)  # a picture that is not there is said before a network is built or downloaded
    found, name = model_for(model, caption, parsed_options(options))
    shown = scanpath_on(image, found, name, caption, length, seed, px_per_dva, objects, target)
    for number, (x, y) in enumerate(shown.xy_px.tolist(), start=1):
        click.echo(f"{number:3} x {x:7.1f} px  y {y:7.1f} px")
    if shown.illustration:
        click.echo("the animation shows a fovea of 2 degrees: this model does not work on a foveated image")
    for path in save_look(shown, out or Path(f"{image.stem}_look")):
        click.echo(f"look: {path}")


@main.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("--dataset", default="interiors", show_default=True, help="Scenes with what was searched for.")
@_data_root
@click.option("--split", default="all", show_default=True, help="train, val, test, several joined by +, or all.")
@click.option("--codes", default=8, show_default=True, help="Codes in the figure.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/codes"), show_default=True)
def codes(checkpoint: Path, dataset: str, data_root: Path | None, split: str, codes: int, out: Path) -> None:
    """What the codes of CHECKPOINT, a trained codebook, select.

    Prints how many codes are in use, and writes OUT.png, the places where they weigh most, and OUT.csv.
    """
    from gazekit.datasets import load
    from gazekit.evaluation.codebook_usage import report_usage
    from gazekit.models import load_model

    model = load_model(checkpoint, expect="codebook")
    for line in report_usage(model, load(dataset, root=data_root).split(split), out, codes):
        click.echo(line)


def _lightning_command(name: str, summary: str) -> None:
    @main.command(
        name,
        help=summary,
        add_help_option=False,
        context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
    )
    @click.pass_context
    def command(ctx: click.Context) -> None:
        from gazekit.training.cli import run

        run(name, ctx.args)


_lightning_command("fit", "Train a model: --config RECIPE (a name or a file), and any override.")
_lightning_command("validate", "Score a checkpoint on the validation split: --config RECIPE --ckpt_path FILE.")
_lightning_command("test", "Score a checkpoint on the test split: --config RECIPE --ckpt_path FILE.")
_lightning_command("predict", "Write sampled scanpaths: --config RECIPE --ckpt_path FILE.")


@main.command(
    "crossvalidate",
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
)
@click.option("--folds", default=5, show_default=True, help="Parts of the data, each tested once.")
@click.option("--fold-seed", default=0, show_default=True, help="Of the division.")
@click.option("--by", default="stimulus", show_default=True, help="Column whose values stay together.")
@click.option("--name", default="scanpaths", show_default=True, help="Of the table, and of the model in evaluations.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/crossvalidation"), show_default=True)
@click.option("--predict/--no-predict", default=True, show_default=True, help="Write scanpaths.")
@click.pass_context
def crossvalidate(ctx: click.Context, folds: int, fold_seed: int, by: str, name: str, out: Path, predict: bool) -> None:
    """Train once per fold and predict what each model never saw: --config RECIPE, and any override of 'fit'.

    Writes OUT/NAME.parquet, scanpaths on every stimulus, for 'gazekit evaluate PROTOCOL --split all --model'; OUT
    itself, as a model there, is whichever fold's model did not see the stimulus.
    Interrupted, it goes on where it stopped.
    """
    from gazekit.training.folds import cross_validate

    cross_validate(ctx.args, out, folds, fold_seed, name, by, click.echo, predict)


@main.group()
def bench() -> None:
    """Measure speed."""


@bench.command("metrics")
@_data_root
@click.option("--stimuli", type=int, help="Only so many stimuli.")
@click.option("--paths/--no-paths", default=True, show_default=True, help="Time path metrics and other libraries too.")
@click.option("--device", default="cpu", show_default=True, help="Where the path half runs, e.g. cuda.")
def bench_metrics(data_root: Path | None, stimuli: int | None, paths: bool, device: str) -> None:
    """Time the full-resolution map metrics and the path metrics on OSIE, beside other libraries."""
    from gazekit.evaluation.bench import bench_map_metrics

    bench_map_metrics(data_root, stimuli, click.echo)
    if paths:
        from gazekit.evaluation.bench_paths import bench_path_metrics

        bench_path_metrics(data_root, stimuli, click.echo, device)


@bench.command("kernels")
@click.option("--device", default="cpu", show_default=True, help="cpu, or cuda with the shapes of a large GPU.")
@click.option("--dtype", help="float32, float16 or bfloat16; default bfloat16 on a GPU, else float32.")
@click.option("--case", "only", multiple=True, help="Only this case, e.g. G5; may be given several times.")
@click.option("--minutes", default=7.0, show_default=True, help="About how long it may take.")
@click.option("--out", type=click.Path(path_type=Path), help="CSV to write, e.g. kernels/results/NAME.csv.")
@click.option("--figure", type=click.Path(path_type=Path), help="Figure to write.")
@click.option("--flex", is_flag=True, help="Compile FlexAttention on a CPU too (forward only, minutes each).")
def bench_attention(
    device: str, dtype: str | None, only: tuple[str, ...], minutes: float, out: Path | None, figure: Path | None,
    flex: bool,
) -> None:  # fmt: skip
    """Time the attention kernels beside PyTorch's and other libraries', after a check of what they compute."""
    from gazekit.kernels.bench import bench_kernels

    bench_kernels(click.echo, device=device, dtype=dtype, only=only, minutes=minutes, out=out, figure=figure, flex=flex)


@bench.command("models")
@click.option(
    "--model",
    "which",
    type=click.Choice(["nevaclip", "oat", "codebook"]),
    multiple=True,
    help="Which, may be given several times; default is all.",
)
@click.option("--paths", default=100, show_default=True, help="Scanpaths per trial of oat and codebook.")
@click.option("--trials", default=16, show_default=True, help="Images that are searched in lock-step.")
@click.option("--iterations", default=20, show_default=True, help="Positions per fixation.")
@click.option("--length", default=2, show_default=True, help="Fixations per scanpath.")
@click.option(
    "--network", default="RN50-quickgelu", show_default=True, help="CLIP by open_clip's name, random weights."
)
@click.option("--device", default="cpu", show_default=True, help="Where it runs, e.g. cuda.")
@click.option("--compile", "compiled", is_flag=True, help="Time the compiled network, too.")
@click.option("--processor-time", is_flag=True, help="Not the clock's, for a busy machine and one thread.")
def bench_models(
    which: tuple[str, ...], paths: int, trials: int, iterations: int, length: int, network: str, device: str,
    compiled: bool, processor_time: bool,
) -> None:  # fmt: skip
    """Time NevaClip, OAT and the codebook model beside plain ways, with random weights.

    NevaClip in lock-step beside a loop over images; OAT's scanpaths decoded together beside decoding from the pixels on
    for every fixation, at its published size, with and without pictures, and at that of its recipes; the codebook's
    training with cached features beside encoding images, its scanpaths, and maps of the next fixation.
    """
    if not which or "nevaclip" in which:
        from gazekit.models.bench import bench_nevaclip

        bench_nevaclip(click.echo, trials, iterations, length, network, device, compiled, processor_time)
    shared: dict[str, Any] = {"device": device, "processor_time": processor_time}
    if not which or "oat" in which:
        from gazekit.models.bench_oat import bench_oat

        bench_oat(click.echo, paths, **shared)
        bench_oat(click.echo, paths, **shared, appearance="none")
        bench_oat(click.echo, paths, **shared, appearance="none", width=96, hidden=96, n_layers=2)
    if not which or "codebook" in which:
        from gazekit.models.bench_codebook import bench_codebook

        bench_codebook(click.echo, paths, **shared)


@bench.command("search")
@click.option("--task", default="curvature", show_default=True, help="One of the six published tasks, or all.")
@click.option("--trials", default=4, show_default=True, help="Displays of each condition.")
@click.option("--fixations", default=4, show_default=True, help="At which a search ends.")
@click.option("--device", default="cpu", show_default=True, help="Where it runs, e.g. cuda.")
def bench_search_models(task: str, trials: int, fixations: int, device: str) -> None:
    """Time eccNET beside a plain implementation of it, on VGG16's full geometry."""
    from gazekit.evaluation.bench_search import bench_search

    bench_search(task, trials, fixations, click.echo, device)


@bench.command("data")
@_data_root
@click.option("--workers", default=2, show_default=True, help="Processes that decode images.")
@click.option("--epochs", default=3, show_default=True, help="Times over the images; the first starts the workers.")
def bench_loading(data_root: Path | None, workers: int, epochs: int) -> None:
    """Time loading datasets, checking a table and feeding images."""
    from gazekit.datasets.bench import bench_data

    bench_data(data_root, workers, epochs, click.echo)


if __name__ == "__main__":
    main()
