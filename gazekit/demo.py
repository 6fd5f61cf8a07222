"""``gazekit demo``: from whatever data and weights are at hand to trained models, a table and a report."""

from __future__ import annotations

import time
import urllib.error
import urllib.request
from pathlib import Path

import click

from gazekit.asymmetry.command import run_asymmetry
from gazekit.backbones import find_weights
from gazekit.datasets import GazeDataset, load
from gazekit.datasets.card import Card
from gazekit.errors import InputError
from gazekit.evaluation.command import run_evaluation
from gazekit.training.cli import run

# Preferred weights first; each is one line of what is said.
_LOCAL_BACKBONES = ("mobilenetv2_100.tf_in1k", "mobilenetv2_100")
_DOWNLOADED_BACKBONE = "mobilenetv2_100"
_WEIGHTS_HOST = "https://huggingface.co"


def run_demo(out: Path, data_root: Path | None = None, epochs: int | None = None, simulated: bool = False) -> None:
    """Train `saliency_readout` and `next_fixation`, evaluate them with controls and ceiling, write the report.

    Then run a small search-asymmetry experiment with the network that ships.

    Args:
        out: Folder of everything that the demo writes.
        data_root: Data folder; None is ``$GAZEKIT_DATA``, then the cache, then a download.
        epochs: Overrides both recipes.
        simulated: Use the simulated data even where real data are at hand.

    Raises:
        InputError: `data_root` is given and holds no OSIE, or its files are damaged.

    """
    start = time.monotonic()
    data = _data(data_root, simulated)
    click.echo(f"data: {data!r}")
    backbone, weights = _backbone()
    # The evaluation that follows scores more than validation would.
    recipe = ["--data.dataset", data.name, "--trainer.limit_val_batches", "0"]
    if data_root is not None and not data.card.simulated:
        recipe += ["--data.root", str(data_root)]
    if epochs is not None:
        recipe += ["--trainer.max_epochs", str(epochs)]
    elif data.card.simulated:
        # A tenth of the images: more passes, and still a fraction of the time.
        recipe += ["--trainer.max_epochs", "20"]
    static = out / "saliency_readout" / "saliency_readout.ckpt"
    scanpath = out / "next_fixation" / "next_fixation.ckpt"
    click.echo("training saliency_readout (recipe training/saliency_readout.yaml)")
    run(
        "fit",
        [
            "--config",
            "saliency_readout",
            *recipe,
            "--model.backbone",
            backbone,
            "--model.weights",
            weights,
            "--trainer.default_root_dir",
            str(static.parent),
        ],
    )
    click.echo("training next_fixation (recipe training/next_fixation.yaml)")
    run(
        "fit",
        [
            "--config",
            "next_fixation",
            *recipe,
            "--model.static",
            str(static),
            "--trainer.default_root_dir",
            str(scanpath.parent),
        ],
    )
    protocol = "simulated_free_viewing" if data.card.simulated else "osie_free_viewing"
    root = None if data.card.simulated else data_root
    run_evaluation(protocol, [str(static), str(scanpath)], out, data_root=root)
    click.echo("visual search: who finds hard what people find hard? (plan asymmetry/quick.yaml)")
    run_asymmetry("quick", out / "asymmetry", [])
    if data.card.simulated:
        click.echo("These numbers are SIMULATED: they say that the software works, nothing about people.")
    click.echo(
        f"done in {(time.monotonic() - start) / 60:.1f} min; to change the model, open gazekit/models/next_fixation.py "
        "and training/next_fixation.yaml"
    )


def _data(root: Path | None, simulated: bool) -> GazeDataset:
    if simulated:
        return load("simulated")
    if root is not None or _is_here():
        return load("osie", root=root)
    from gazekit.datasets.fetch import fetch

    try:
        fetch("osie", say=click.echo)
    except InputError as error:
        click.echo(f"no OSIE ({error}): going on with SIMULATED scanpaths over photographs that ship with scikit-image")
        return load("simulated")
    return load("osie")


def _is_here() -> bool:
    from gazekit.datasets import data_folder

    try:
        data_folder("osie", None, Card.read("osie").content["files"])
    except InputError:
        return False
    return True


def _backbone() -> tuple[str, str]:
    """Backbone name and weights: local ones, else timm's download, else random ones, said aloud."""
    for name in _LOCAL_BACKBONES:
        if file := find_weights(name):
            click.echo(f"backbone: {name}, weights {file}")
            return name, "pretrained"
    if _reachable(_WEIGHTS_HOST):
        click.echo(f"backbone: {_DOWNLOADED_BACKBONE}, weights downloaded by timm")
        return _DOWNLOADED_BACKBONE, "pretrained"
    click.echo(
        "backbone: no ImageNet weights on this machine and no network: RANDOM weights are used, and tables say so; "
        "set GAZEKIT_WEIGHTS to a folder with mobilenetv2_100.safetensors for real ones"
    )
    return _DOWNLOADED_BACKBONE, "null"


def _reachable(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=5):  # noqa: S310 (a constant https address)
            return True
    except urllib.error.HTTPError:
        return True
    except (OSError, urllib.error.URLError):
        return False
