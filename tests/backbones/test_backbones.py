"""Backbones: what is tapped, what trains, and which weights they hold; with no network at all."""

from __future__ import annotations

import hashlib
import pickle

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from gazekit import InputError, create_backbone
from gazekit.backbones import find_weights
from tests.conftest import REAL_WEIGHTS, needs_weights

SMALL = "mobilenetv3_small_050"


def refused(match, name=SMALL, **kwargs):
    with pytest.raises(InputError, match=match) as caught:
        create_backbone(name, **{"weights": None, **kwargs})
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def small_state():
    torch.manual_seed(1)
    return {key: value.clone() for key, value in timm.create_model(SMALL).state_dict().items()}


# Taps


@pytest.mark.parametrize(
    ("name", "taps"),
    [
        ("mobilenetv2_100", (8, 16, 32)),
        ("timm/mobilenetv2_100", (32, 4)),
        ("torchvision/mobilenet_v2", (4, 16)),
        ("torchvision/resnet18", (8, 32)),
    ],
)
def test_strides_and_channels_are_what_the_maps_have(name, taps):
    backbone = create_backbone(name, weights=None, taps=taps)
    assert backbone.strides == taps
    assert backbone.taps == taps
    assert backbone.name == name
    # Never square, and no multiple of the stride: a map covers the image to its edge.
    maps = backbone(torch.rand(2, 3, 70, 100))
    assert [m.shape for m in maps] == [
        (2, channels, -(-70 // stride), -(-100 // stride))
        for channels, stride in zip(backbone.channels, taps, strict=True)
    ]


def test_named_taps_come_in_the_order_asked_for():
    names = ("blocks.5", "blocks.2", "blocks.3")
    backbone = create_backbone("mobilenetv2_100", weights=None, taps=names)
    # Linear bottlenecks of MobileNetV2 (Sandler et al. 2018, table 2): 160, 32 and 64 channels.
    assert backbone.channels == (160, 32, 64)
    assert backbone.strides == (32, 8, 16)
    assert [m.shape[1] for m in backbone(torch.rand(1, 3, 64, 96))] == [160, 32, 64]


def test_named_taps_equal_the_modules_output():
    torch.manual_seed(0)
    backbone = create_backbone("mobilenetv2_100", weights=None, taps=("blocks.3",))
    torch.manual_seed(0)
    whole = timm.create_model("mobilenetv2_100").eval()
    caught = []
    whole.blocks[3].register_forward_hook(lambda *args: caught.append(args[-1]))
    image = torch.rand(1, 3, 64, 96)
    mean, std = (torch.tensor(whole.pretrained_cfg[k]).view(1, 3, 1, 1) for k in ("mean", "std"))
    with torch.no_grad():
        whole((image - mean) / std)
        (got,) = backbone(image)
    # The same float32 operations, in another memory layout.
    torch.testing.assert_close(got, caught[0], rtol=1e-4, atol=1e-4 * caught[0].abs().max().item())


def test_unknown_names_and_taps():
    refused(r"no backbone named 'mobilenetv2_10'; did you mean 'mobilenetv2_1\d+'\?.* of timm", "mobilenetv2_10")
    refused(r"no backbone named 'torchvision/resnet19'; did you mean 'torchvision/resnet", "torchvision/resnet19")
    refused(r"no backbone library named 'tim'; did you mean 'timm'\?", "tim/resnet18")
    refused(r"has no map of stride 7; its strides are \[2, 4, 8, 16, 32\]", taps=(8, 7))
    refused(r"has no map of stride 64; its strides are \[2, 4, 8", "torchvision/resnet18", taps=(64,))
    refused(r"no module in backbone 'mobilenetv3_small_050' named 'blocks.77'; did you mean", taps=("blocks.77",))
    refused(r"all strides or all module names, found \[8, 'blocks.2'\]", taps=(8, "blocks.2"))


# Training


def test_frozen_by_default():
    backbone = create_backbone(SMALL, weights=None)
    assert backbone.frozen
    assert not any(p.requires_grad for p in backbone.parameters())
    backbone.train()
    assert not any(module.training for module in backbone.modules())
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    image = torch.rand(2, 3, 64, 64, requires_grad=True)
    sum(m.square().mean() for m in backbone(image)).backward()
    # Gradients still reach what lies before a frozen network.
    assert image.grad.abs().max() > 0
    assert all(p.grad is None for p in backbone.parameters())
    assert all(torch.equal(value, before[key]) for key, value in backbone.state_dict().items())


def test_trainable_on_request():
    backbone = create_backbone(SMALL, weights=None, frozen=False, taps=(8, 16))
    backbone.train()
    assert backbone.training
    before = {k: v.clone() for k, v in backbone.state_dict().items() if "running_mean" in k}
    maps = backbone(torch.rand(2, 3, 64, 64))
    sum(m.square().mean() for m in maps).backward()
    assert all(p.requires_grad for p in backbone.parameters())
    graded = [p.grad is not None and bool(p.grad.isfinite().all()) for p in backbone.parameters()]
    # Nothing that lies after the deepest tap is kept, so everything has a gradient.
    assert all(graded)
    # Batch statistics move, once batches are seen in training.
    assert any(not torch.equal(backbone.state_dict()[k], v) for k, v in before.items())


# Weights


def test_random_weights_are_recorded_as_random():
    torch.manual_seed(0)
    first = create_backbone(SMALL, weights=None).source
    torch.manual_seed(0)
    again = create_backbone(SMALL, weights=None).source
    other = create_backbone(SMALL, weights=None).source
    assert not first.pretrained
    assert (first.name, first.of) == ("random", "tensors")
    assert str(first) == f"random (sha256 {first.sha256[:12]})"
    assert first == again
    assert first.sha256 != other.sha256


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_local_weights(small_state, tmp_path, suffix):
    path = tmp_path / f"mine{suffix}"
    if suffix == ".pt":
        torch.save(small_state, path)
    else:
        save_file(small_state, path)
    backbone = create_backbone(SMALL, weights=str(path), taps=(16,))
    assert backbone.source.pretrained
    assert backbone.source.name == path.name
    assert backbone.source.of == "file"
    assert backbone.source.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    for key, value in backbone.network.network.state_dict().items():
        assert torch.equal(value, small_state[key]), key


def test_weights_are_found_by_name(small_state, tmp_path, monkeypatch):
    assert find_weights(SMALL) is None
    (tmp_path / "weights").mkdir()
    (tmp_path / "data").mkdir()
    file = tmp_path / "weights" / f"{SMALL}.safetensors"
    save_file(small_state, file)
    for variable, folder in (
        ("GAZEKIT_WEIGHTS", tmp_path / "weights"), ("GAZEKIT_DATA", tmp_path), ("GAZEKIT_DATA", tmp_path / "data"),
    ):  # fmt: skip
        with monkeypatch.context() as patch:
            patch.setenv(variable, str(folder))
            assert find_weights(f"timm/{SMALL}").resolve() == file
            assert create_backbone(SMALL, taps=(16,)).source.name == file.name
    assert find_weights(SMALL) is None


def test_no_file_and_no_download_is_an_error(monkeypatch):
    def offline(*_, pretrained, **__):
        assert pretrained, "random weights must not stand in for a download"
        raise ConnectionError("no route")

    monkeypatch.setattr(timm, "create_model", offline)
    refused(r"timm could not download its weights \(ConnectionError\); connect to the network", weights="pretrained")
    refused(r"no library offers these weights for download", "mobilenetv2_100.tf_in1k", weights="pretrained")


def test_weights_file_that_is_missing(tmp_path):
    refused(r"weights file '.*gone\.pt' does not exist; give a \.safetensors", weights=tmp_path / "gone.pt")


@pytest.mark.parametrize("library", ["", "torchvision/"])
def test_weights_of_another_network(small_state, tmp_path, library):
    path = tmp_path / "other.safetensors"
    save_file(small_state, path)
    name = f"{library}{'mobilenet_v2' if library else 'mobilenetv2_100'}"
    refused(r"other\.safetensors: weights of another network \(\d+ tensors missing, \d+ unknown", name, weights=path)


def test_weights_that_lack_one_tensor_or_have_one_too_many(small_state, tmp_path):
    path = tmp_path / "w.safetensors"
    save_file({k: v for k, v in small_state.items() if k != "conv_stem.weight"}, path)
    refused(r"\(1 tensors missing, 0 unknown, 0 of another shape; first: conv_stem\.weight\)", weights=path)
    save_file({**small_state, "extra": torch.zeros(1)}, path)
    refused(r"\(0 tensors missing, 1 unknown, 0 of another shape; first: extra\)", weights=path)
    save_file({**small_state, "conv_stem.weight": torch.zeros(1)}, path)
    refused(r"\(0 tensors missing, 0 unknown, 1 of another shape; first: conv_stem\.weight\)", weights=path)


class _Opened:
    """Writes a file when it is unpickled, as a malicious file would."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return (open, (str(self.target), "w"))


@pytest.mark.parametrize("legacy", [False, True])
def test_pickled_objects_are_not_run(small_state, tmp_path, legacy):
    path, touched = tmp_path / "evil.pt", tmp_path / "touched"
    content = {**small_state, "evil": _Opened(touched)}
    if legacy:
        path.write_bytes(pickle.dumps({"evil": _Opened(touched)}, protocol=2))
    else:
        torch.save(content, path)
    refused(r"evil\.pt: holds more than plain tensors and is not loaded; use safetensors", weights=path)
    assert not touched.exists()


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize("keep", [0, 100, 0.5])
def test_truncated_weights(small_state, tmp_path, suffix, keep):
    path = tmp_path / f"cut{suffix}"
    (torch.save if suffix == ".pt" else save_file)(small_state, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content)) if isinstance(keep, float) else keep])
    refused(rf"cut\{suffix}: (not a readable weights file|holds more than plain)", weights=path)


@pytest.mark.parametrize("content", [[1, 2], {"state_dict": {}}, torch.zeros(3), {"conv_stem.weight": 5}, {}])
def test_pt_file_that_is_no_state_dict(tmp_path, content):
    path = tmp_path / "odd.pt"
    torch.save(content, path)
    refused(r"odd\.pt: ", weights=path)


# Real weights


@needs_weights
@pytest.mark.parametrize("taps", [(8, 16, 32), ("blocks.2", "blocks.5")])
def test_real_weights_equal_timms_own_forward(taps):
    backbone = create_backbone("mobilenetv2_100.tf_in1k", weights=REAL_WEIGHTS, taps=taps)
    assert backbone.source.name == REAL_WEIGHTS.name
    assert backbone.source.sha256 == hashlib.sha256(REAL_WEIGHTS.read_bytes()).hexdigest()
    # TensorFlow's weights: its padding, a background class, and inputs in [-1, 1].
    whole = timm.create_model("mobilenetv2_100", pad_type="same", num_classes=1001).eval()
    whole.load_state_dict(load_file(REAL_WEIGHTS))
    caught = {}
    stages = {8: 2, 16: 4, 32: 6} if isinstance(taps[0], int) else {tap: int(tap[-1]) for tap in taps}
    for tap, block in stages.items():
        whole.blocks[block].register_forward_hook(lambda *args, tap=tap: caught.setdefault(tap, args[-1]))
    image = torch.rand(1, 3, 97, 129, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        whole(2.0 * image - 1.0)
        maps = backbone(image)
    for tap, got in zip(taps, maps, strict=True):
        # Float32 through up to 50 layers, in another memory layout: relative to the map's own scale.
        torch.testing.assert_close(got, caught[tap], rtol=0, atol=1e-4 * caught[tap].abs().max().item())
