"""Networks of a diet: what trains, that only the diet differs, that a killed training goes on to the same weights."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from gazekit.backbones import create_backbone
from gazekit.backbones.small_vgg import CHANNELS, SEARCH_TAPS, SHIPPED, SmallVGG
from gazekit.errors import InputError
from gazekit.stimuli.world import CLASSES, render_world
from gazekit.training.visual_diet import DietNetwork, DietRecipe, read_record, train_diet_network

# Some seconds; what is learned is not the question here, except where a test says so.
TINY = DietRecipe(pictures=64, held_out=16, epochs=3, crop_px=32, batch_size=16, channels=(4, 4, 8, 8, 8), jitter_px=2)


def test_training_lowers_the_loss_and_is_reproducible(tmp_path):
    record = train_diet_network(TINY, tmp_path / "a.safetensors", progress=False)
    assert record["recipe"]["diet"] == "natural"
    assert 0 <= record["accuracy"] <= 1
    assert read_record(tmp_path / "a.safetensors") == record
    train_diet_network(TINY, tmp_path / "b.safetensors", progress=False)
    a, b = load_file(tmp_path / "a.safetensors"), load_file(tmp_path / "b.safetensors")
    assert all(torch.equal(a[key], b[key]) for key in a)
    # A finished network is not trained again, and not taken for another's.
    stamp = (tmp_path / "a.safetensors").stat().st_mtime_ns
    assert train_diet_network(TINY, tmp_path / "a.safetensors", progress=False) == record
    assert (tmp_path / "a.safetensors").stat().st_mtime_ns == stamp
    with pytest.raises(InputError, match="of another recipe"):
        train_diet_network(replace(TINY, diet="grid"), tmp_path / "a.safetensors", progress=False)


def test_a_killed_training_goes_on_to_the_same_weights(tmp_path, monkeypatch):
    train_diet_network(TINY, tmp_path / "whole.safetensors", progress=False)
    steps = []
    step = DietNetwork.training_step

    def killed(self, batch, batch_idx):
        steps.append(batch_idx)
        # In the middle of the second of three epochs of four steps.
        if len(steps) == 7:
            raise RuntimeError("killed")
        return step(self, batch, batch_idx)

    monkeypatch.setattr(DietNetwork, "training_step", killed)
    with pytest.raises(RuntimeError, match="killed"):
        train_diet_network(TINY, tmp_path / "part.safetensors", progress=False)
    assert not (tmp_path / "part.safetensors").exists()
    train_diet_network(TINY, tmp_path / "part.safetensors", progress=False)
    # Two epochs were left: the first was kept.
    assert len(steps) == 7 + 8
    whole, part = load_file(tmp_path / "whole.safetensors"), load_file(tmp_path / "part.safetensors")
    assert all(torch.equal(whole[key], part[key]) for key in whole)
    assert not list(tmp_path.glob("*.ckpt"))


def test_the_diet_is_the_only_difference(monkeypatch):
    """Same pictures, labels, order, crops and initial weights; other pixels."""
    seen, weights = {}, {}
    for diet in ("natural", "rotated_90"):
        torch.manual_seed(0)
        module = DietNetwork(replace(TINY, diet=diet))
        weights[diet] = [p.detach().clone() for p in module.parameters()]
        pictures = torch.from_numpy(render_world(4, 43).image).permute(0, 3, 1, 2)

        def look(self, picture, diet=diet):
            seen[diet] = picture
            return picture.mean((1, 2, 3))[:, None]

        monkeypatch.setattr(DietNetwork, "forward", look)
        module._step((pictures, torch.zeros(4, dtype=torch.long), torch.arange(4)), 0)
    assert all(torch.equal(a, b) for a, b in zip(*weights.values(), strict=True))
    natural, turned = seen["natural"], seen["rotated_90"]
    middle = natural[..., 4:-4, 4:-4].rot90(1, (-2, -1))
    assert (turned[..., 4:-4, 4:-4] - middle).abs().mean() < 0.05
    assert (turned - natural).abs().mean() > 0.02


def test_folding_changes_nothing():
    torch.manual_seed(0)
    network = SmallVGG(5, (4, 4, 8, 8, 8), normalized=True)
    network.train()
    for _ in range(3):
        network(torch.randn(4, 3, 48, 48) * 2 + 1)
    network.eval()
    picture = torch.randn(2, 3, 49, 47)
    whole = picture
    for stage in network.stages:
        whole = network.get_submodule(f"stage{stage}")(whole)
    torch.testing.assert_close(network.fold()(picture), whole, rtol=1e-4, atol=1e-5)


def test_the_penalty_is_on_dense_activity():
    module = DietNetwork(TINY)
    full, sparse = torch.ones(1, 4, 8, 8), torch.zeros(1, 4, 8, 8)
    sparse[0, 0, 0, 0] = 3.0
    assert module._activity(full).item() == 1.0
    assert module._activity(sparse).item() == pytest.approx(1 / 256)
    assert module._activity(sparse * 7).item() == pytest.approx(1 / 256)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"diet": "sweet"}, "no diet named 'sweet'"),
        ({"epochs": 0}, "epochs is 0"),
        ({"crop_px": 20}, "crop_px >= 32"),
        ({"jitter_px": 9}, "jitter_px <= crop_px / 8"),
    ],
)
def test_a_wrong_recipe_is_one_clear_line(change, says):
    with pytest.raises(InputError, match=says):
        replace(TINY, **change)


def test_a_file_that_is_no_network(tmp_path):
    (tmp_path / "a.safetensors").write_bytes(b"nothing")
    with pytest.raises(InputError, match="not a network of a visual diet"):
        read_record(tmp_path / "a.safetensors")


# The network that ships


def test_the_shipped_backbone():
    assert SHIPPED.stat().st_size <= 4 * 2**20
    backbone = create_backbone("gazekit/small_vgg", taps=SEARCH_TAPS)
    assert backbone.source.pretrained
    assert backbone.source.name == "small_vgg.safetensors"
    assert backbone.strides == (4, 8, 16)
    assert backbone.channels == CHANNELS[2:]
    assert create_backbone("gazekit/small_vgg", weights=None, taps=SEARCH_TAPS).source.name == "random"
    with pytest.raises(InputError, match="gazekit/small_vgg"):
        create_backbone("gazekit/large_vgg", taps=SEARCH_TAPS)


def test_the_shipped_backbone_comes_with_its_recipe_and_limits():
    import yaml

    beside = yaml.safe_load(SHIPPED.with_suffix(".yaml").read_text(encoding="utf-8"))
    record = read_record(SHIPPED)
    assert beside["recipe"] == record["recipe"]
    assert beside["accuracy_on_held_out_pictures"] == record["accuracy"]
    assert record["classes"] == list(CLASSES)
    assert set(beside["search"]["mean_index_by_task"]) >= {"lighting", "curvature"}


def test_the_shipped_backbone_tells_light_from_above_from_light_from_below():
    """Its features separate what its diet separates: bumps and dents, on pictures that it never saw."""
    pictures = render_world(150, 64, seed=99)
    names = list(CLASSES)
    chosen = [i for i, label in enumerate(pictures.label) if names[label] in ("bump", "dent")]
    assert len(chosen) > 20
    image = torch.from_numpy(pictures.image[chosen]).permute(0, 3, 1, 2).float() / 255.0
    dent = torch.tensor([names[pictures.label[i]] == "dent" for i in chosen])
    with torch.no_grad():
        features = create_backbone("gazekit/small_vgg", taps=SEARCH_TAPS)(image)[-1].mean((-2, -1))
    half = len(chosen) // 2
    prototypes = torch.stack([features[:half][~dent[:half]].mean(0), features[:half][dent[:half]].mean(0)])
    nearest = torch.cdist(features[half:], prototypes).argmin(1)
    assert (nearest == dent[half:].long()).float().mean() > 0.8
