"""Vision transformers with windows: with dense attention they are timm's, in tile order or not, and they can look."""

from __future__ import annotations

import copy
import math
import os
import subprocess
import sys

import pytest
import timm
import torch

from gazekit import InputError, create_backbone, create_model, datasets, load_model, resources
from gazekit.backbones import WindowedViT
from gazekit.kernels import Window, window_mask
from gazekit.kernels.self_attention import SelfAttention
from tests.conftest import REAL_DATA, needs_osie
from tests.models.test_model_laws import make_batch, training_loss

ARCH = "vit_tiny_patch16_224"
# Features of size 4 after blocks of float32 products, in another order.
FEATURES = 1e-4
TAPS = ["blocks.1", "blocks.3"]


def network(arch=ARCH, **kwargs):
    torch.manual_seed(0)
    vit = timm.create_model(arch, num_classes=0, dynamic_img_size=True, depth=4, **kwargs).eval()
    with torch.no_grad():
        for parameter in vit.parameters():
            # Layer scales and class tokens start near 0, and would hide an error.
            parameter.add_(0.05 * torch.randn_like(parameter))
    return vit


def windowed(vit, taps=TAPS, **options):
    return WindowedViT(copy.deepcopy(vit), taps, **options).eval()


@torch.no_grad()
def features_of_timm(vit, image, indices=(1, 3)):
    return vit.forward_intermediates(image, indices=list(indices), intermediates_only=True)


VARIANTS = {
    "class token": (ARCH, {}),
    "registers, layer scale": ("vit_small_patch14_reg4_dinov2.lvd142m", {"img_size": 224}),
    "norms of queries and keys": (ARCH, {"qk_norm": True}),
    "no class token": (ARCH, {"class_token": False, "global_pool": "avg"}),
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("cells", [(16, 16), (11, 18)])
def test_dense_windows_are_timms_network(variant, cells):
    arch, kwargs = VARIANTS[variant]
    vit = network(arch, **kwargs)
    side = vit.patch_embed.patch_size[0]
    image = torch.randn(2, 3, cells[0] * side, cells[1] * side)
    expected = features_of_timm(vit, image)
    assert expected[0].abs().max() > 1
    # No windows; windows that see all, so that every block takes that path; and gates that start open.
    for options in ({"window": None}, {"window": 24}, {"window": 18, "dense_every": 0, "gate": "head"}):
        with torch.no_grad():
            got = windowed(vit, **options)(image)
        for a, b in zip(got, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=FEATURES)


@pytest.mark.parametrize("tile", [4, 8])
def test_windows_are_timms_network_with_a_mask(tile):
    """In tile order, padding and class token included; timm's blocks take the mask of the definition."""
    vit = network()
    grid, windows = (11, 18), [Window(6, 4)] * 2
    image = torch.randn(2, 3, grid[0] * 16, grid[1] * 16)
    allowed = torch.ones(199, 199, dtype=torch.bool)
    allowed[1:, 1:] = window_mask(grid, windows)
    with torch.no_grad():
        x = vit.norm_pre(vit._pos_embed(vit.patch_embed(image)))
        expected = []
        for block in vit.blocks:
            x = block(x, attn_mask=allowed)
            expected.append(x[:, 1:].transpose(1, 2).unflatten(2, grid))
        got = windowed(vit, window=6, stride=4, dense_every=0, tile=tile)(image)
    for a, b in zip(got, (expected[1], expected[3]), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=FEATURES)
    assert (got[1] - features_of_timm(vit, image)[1]).abs().max() > 0.05  # windows matter


def test_create_backbone_gives_maps_like_any_other():
    backbone = create_backbone("vit_gna", weights=None, taps=(16,))
    assert backbone.strides == (16,)
    assert backbone.channels == (192,)
    maps = backbone(torch.rand(1, 3, 70, 100))
    assert [m.shape for m in maps] == [(1, 192, 5, 7)]
    named = create_backbone(f"vit_gna/{ARCH}", weights=None, taps=("blocks.2", "blocks.0"))
    assert len(named.network.blocks) == 3  # what nobody reads is not computed
    assert named.taps == ("blocks.2", "blocks.0")


def test_weights_of_timm_are_found_and_taken_over(tmp_path, monkeypatch):
    from safetensors.torch import save_file

    torch.manual_seed(5)
    vit = timm.create_model(ARCH).eval()
    save_file(vit.state_dict(), tmp_path / f"{ARCH}.safetensors")
    monkeypatch.setenv("GAZEKIT_WEIGHTS", str(tmp_path))
    mine = create_backbone("vit_gna", taps=("blocks.11",), options={"window": None})
    assert mine.source.name == f"{ARCH}.safetensors"
    image = torch.rand(1, 3, 224, 224)
    mean, std = (torch.tensor(vit.pretrained_cfg[key]).view(3, 1, 1) for key in ("mean", "std"))
    expected = features_of_timm(vit, (image - mean) / std, [11])
    torch.testing.assert_close(mine(image)[0], expected[0], rtol=0, atol=FEATURES)


def test_tokens_lie_where_the_readout_expects_them():
    """Of 16 m + 1 pixels every sixteenth is the center of a patch."""
    vit = network()
    model = windowed(vit, ["blocks.0"], window=None)
    image, read = torch.randn(1, 3, 33, 49), []
    model.patch_embed.proj.register_forward_hook(lambda _, __, output: read.append(output))
    with torch.no_grad():
        model.patch_embed.proj.weight.zero_()
        model.patch_embed.proj.weight[:, :, 8, 8] = 1.0  # reads the pixel at its center
        (tokens,) = model(image)
    assert tokens.shape[-2:] == (3, 4)
    expected = image[..., ::16, ::16].sum(1) + model.patch_embed.proj.bias[0]
    torch.testing.assert_close(read[0][:, 0], expected, rtol=0, atol=1e-5)


# Looking from a fixation


def test_the_eye_changes_what_is_seen_nearby_first():
    backbone = create_backbone("vit_gna", weights=None, taps=("blocks.1",), frozen=False, options={"foveated": True})
    image, eye = torch.rand(2, 3, 96, 160), torch.tensor([[20.0, 30.0], [140.0, 60.0]])
    plain = backbone(image)[0]
    # Slopes start at 0: the original network.
    torch.testing.assert_close(backbone(image, eye, px_per_dva=20.0)[0], plain, rtol=0, atol=FEATURES)
    with torch.no_grad():
        backbone.network.slopes.fill_(50.0)
    looked = backbone(image, eye, px_per_dva=20.0)[0]
    assert (looked - plain).abs().max() > 1e-3
    # So steep that only the patch at the eye counts: what lies far from it can change without effect.
    far = image.clone()
    far[0, :, :, 80:] = torch.rand(3, 96, 80)
    after = backbone(far, eye, px_per_dva=20.0)[0]
    near = (slice(0, 1), slice(None), slice(None), slice(0, 5))
    change, without = (after - looked)[near].abs().max(), (backbone(far)[0] - plain)[near].abs().max()
    assert change < 0.05 * without
    grads = torch.autograd.grad(backbone(image, eye, px_per_dva=20.0)[0].square().sum(), backbone.network.slopes)[0]
    assert (grads[:2].abs().sum(1) > 0).all()


def test_the_falloff_is_that_of_eccentricity():
    vit = windowed(network(), foveated=True, window=6, stride=4)
    from gazekit.kernels import TileLayout

    grid, layout = (5, 7), TileLayout((5, 7), 8)
    got = vit._falloff(grid, layout, (8, 8), torch.tensor([[16.0, 32.0]]), 10.0)
    on_grid = layout.from_tiles(got)[0]
    assert on_grid[2, 1] == 0  # the patch whose center is at (16, 32)
    # 3 patches right and 2 down, 10 px per dva, e2 = 2 dva.
    assert on_grid[4, 4].item() == pytest.approx(math.log(1.0 + math.hypot(48.0, 32.0) / 10.0 / 2.0), rel=1e-6)


# In a model


def test_it_trains_inside_saliency_readout_by_its_name_alone():
    model = create_model("saliency_readout", backbone="vit_gna", weights=None, members=2, hidden=8)
    assert isinstance(model.backbone.network, WindowedViT)
    batch = make_batch()
    model.train()
    trainable = {key: p for key, p in model.named_parameters() if p.requires_grad}
    assert not any("backbone" in key for key in trainable)
    optimizer = torch.optim.SGD(trainable.values(), 0.1)
    losses = []
    for _ in range(4):
        optimizer.zero_grad()
        losses.append(training_loss(model, batch))
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(
    ("match", "name", "kwargs"),
    [
        (r"has no map of stride 8; its strides are \[16\]", "vit_gna", {"taps": (8,)}),
        (r"no module in backbone 'vit_gna' named 'head'; known: blocks.0, ", "vit_gna", {"taps": ("head",)}),
        (r"it is a MobileNetV3, and only plain vision transformers", "vit_gna/mobilenetv3_small_050", {}),
        (r"no option of backbone .* named 'widnow'; did you mean 'window'", "vit_gna", {"options": {"widnow": 3}}),
        (r"only vit_gna takes options, found \['window'\]", "mobilenetv3_small_050", {"options": {"window": 3}}),
        (r"stride from 1 to the size", "vit_gna", {"options": {"window": 3}}),
    ],
)  # fmt: skip
def test_what_cannot_be_built_is_one_line(match, name, kwargs):
    with pytest.raises(InputError, match=match) as caught:
        create_backbone(name, **{"weights": None, "taps": (16,), **kwargs})
    assert "\n" not in str(caught.value)


def test_only_a_foveated_backbone_looks():
    image, eye = torch.rand(1, 3, 64, 64), torch.zeros(1, 2)
    with pytest.raises(InputError, match="does not look from a fixation; vit_gna with foveated=True does"):
        create_backbone("mobilenetv3_small_050", weights=None)(image, eye, 10.0)
    with pytest.raises(InputError, match=r"give options=\{'foveated': True\}"):
        create_backbone("vit_gna", weights=None, taps=(16,))(image, eye, 10.0)
    backbone = create_backbone("vit_gna", weights=None, taps=(16,), options={"foveated": True})
    with pytest.raises(InputError, match="give px_per_dva with fixation_px"):
        backbone(image, eye)


# The module


def test_self_attention_is_pytorchs():
    torch.manual_seed(0)
    mine, theirs = SelfAttention(12, 3).double(), torch.nn.MultiheadAttention(12, 3, batch_first=True).double()
    with torch.no_grad():
        theirs.in_proj_weight.copy_(mine.qkv.weight)
        theirs.in_proj_bias.copy_(mine.qkv.bias.normal_())
        theirs.out_proj.load_state_dict(mine.proj.state_dict())
    x = torch.randn(2, 7, 12, dtype=torch.double)
    torch.testing.assert_close(mine(x), theirs(x, x, x)[0], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("gate", ["head", "element"])
def test_gates_start_open_or_half_open_and_train(gate):
    torch.manual_seed(0)
    plain = SelfAttention(12, 3, qk_norm=True)
    gated = SelfAttention(12, 3, qk_norm=True, gate=gate, gate_open=True)
    gated.load_state_dict(plain.state_dict(), strict=False)
    x = torch.randn(2, 3, 4, 12)
    torch.testing.assert_close(gated(x), plain(x))
    gated(x).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in gated.parameters())
    with pytest.raises(InputError, match="multiple of the heads, found 12 and 5"):
        SelfAttention(12, 5)


@pytest.mark.slow
@needs_osie
@pytest.mark.filterwarnings("ignore::gazekit.datasets.dataset.PartialDataWarning")
def test_the_recipe_trains_on_osie_with_one_line_changed(tmp_path):
    """The shipped recipe, its backbone replaced; on some of the stimuli, with random weights, as none are shipped."""
    recipe = resources.resource_path("training", "saliency_readout").read_text(encoding="utf-8")
    changed = recipe.replace("  backbone: mobilenetv2_100\n", "  backbone: vit_gna\n")
    assert sum(a != b for a, b in zip(recipe.splitlines(), changed.splitlines(), strict=True)) == 1
    (tmp_path / "recipe.yaml").write_text(changed, encoding="utf-8")
    data = datasets.load("osie", root=REAL_DATA)
    stimuli = data.stimuli["stimulus"][data.stimuli["path"] != ""].tolist()[:6]
    data.subset(stimuli=stimuli).to_parquet(tmp_path / "osie_part")
    run = subprocess.run(
        [
            sys.executable, "-m", "gazekit.cli", "fit", "--config", str(tmp_path / "recipe.yaml"),
            "--model.weights", "null", "--data.dataset", str(tmp_path / "osie_part"),
            "--data.train_split", "all", "--data.val_split", "all", "--data.batch_size", "3",
            "--data.num_workers", "0", "--trainer.max_epochs", "2", "--trainer.enable_progress_bar", "false",
            "--trainer.default_root_dir", str(tmp_path / "run"),
        ],
        capture_output=True, text=True, check=False, env={**os.environ, "GAZEKIT_CACHE": str(tmp_path / "cache")},
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr
    model = load_model(next((tmp_path / "run").glob("*.ckpt")), expect="saliency_readout")
    assert isinstance(model.backbone.network, WindowedViT)
    assert model.backbone.taps == ("blocks.2", "blocks.3", "blocks.4", "blocks.5")
    assert model.train_stimuli == stimuli
    # What trains has left its start; the backbone is frozen.
    assert (model.gain - 1.0).abs().max() > 0
