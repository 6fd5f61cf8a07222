"""Models of looks at objects in the oat2024 protocol: told of objects and target, and ending by themselves."""

from __future__ import annotations

import warnings
from dataclasses import replace

import pytest
import pytorch_lightning as L
import torch

from gazekit.datasets.grid_search import grid_search
from gazekit.evaluation import Protocol, evaluate
from gazekit.models import create_model


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Six displays with pictures in a folder, and a checkpoint of an untrained model."""
    folder = tmp_path_factory.mktemp("world")
    grid_search(6, 3, columns=4, rows=3, slip=0.2, seed=1, pictures=folder / "pictures").to_parquet(folder / "data")
    torch.manual_seed(0)
    model = create_model(
        "oat",
        width=24,
        n_heads=2,
        n_layers=1,
        hidden=16,
        n_places=4,
        appearance="none",
        target_position=True,
        longest=9,
    )
    with warnings.catch_warnings():
        # Lightning advises about hardware and loggers, which is not the subject here.
        warnings.simplefilter("ignore")
        trainer = L.Trainer(accelerator="cpu", devices=1, logger=False, enable_checkpointing=False, max_epochs=1)
        trainer.strategy.connect(model)
        trainer.save_checkpoint(folder / "searcher.ckpt")
    return folder


def test_models_of_objects_in_their_protocol(world, tmp_path):
    protocol = Protocol.read("oat2024", dataset=str(world / "data"))
    protocol = replace(protocol, intervals={**protocol.intervals, "draws": 50}, samples={"per_stimulus": 15, "seed": 0})
    models = [str(world / "searcher.ckpt"), "object_similar", "object_salient"]
    result = evaluate(protocol, models, tmp_path, split="all")
    scores = result.scores.set_index("model")
    # Readers end on the target.
    assert (scores.loc["human", "object_correct"] == 1).all()
    longest = int(result.items.data.fixations.groupby("trial").size().max())
    lengths = result.samples.groupby(["model", "stimulus", "sample"]).size()
    for name in ("object_random", "object_center", "object_near_target", "object_similar", "object_salient"):
        of = lengths.loc[name]
        assert of.nunique() > 3, f"{name} does not end by itself"
        assert of.max() <= longest
    assert lengths.loc["searcher"].max() <= 9
    # The others make as many fixations as people do in the middle.
    assert lengths.loc["uniform"].nunique() == 1
    # Who is told where the target is lands on it more often than who is not; one in twelve is chance.
    correct = scores.groupby("model")["object_correct"].mean()
    assert correct["object_near_target"] > correct["object_random"] + 0.02
    assert correct["object_similar"] > correct["object_random"] + 0.1
    assert scores["object_ss"].notna().all()


def test_the_model_searches_among_the_objects_of_the_protocol(world, tmp_path):
    """Equal cells in place of the dataset's boxes: the same where they are the same, others where they are not."""
    protocol = replace(Protocol.read("oat2024", dataset=str(world / "data")), controls=(), chance=None, ceiling=None)
    first = evaluate(protocol, [str(world / "searcher.ckpt")], tmp_path / "a", split="all").samples
    grid = replace(protocol, objects=replace(protocol.objects, grid=(4, 3)))
    same = evaluate(grid, [str(world / "searcher.ckpt")], tmp_path / "b", split="all").samples
    assert first.equals(same)
    other = replace(protocol, objects=replace(protocol.objects, grid=(2, 3)))
    assert not first.equals(evaluate(other, [str(world / "searcher.ckpt")], tmp_path / "c", split="all").samples)
