"""Batch norms folded into convolutions: the same function, in every network that it is done to."""

import copy

import pytest
import torch
from torch import nn

from gazekit.backbones import create_classifier
from gazekit.backbones.clip import create_clip
from gazekit.backbones.folding import fold_batch_norms

# Every block of a CLIP ResNet, small.
RESNET = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 64, "layers": [2, 1, 1, 1], "width": 8, "patch_size": None},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}


def norms_of(network):
    return [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]


def lively(network):
    """Statistics and weights that are far from those of an identity, as a trained network's are."""
    torch.manual_seed(0)
    for norm in norms_of(network):
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias, std=0.3)
        if norm.track_running_stats:
            nn.init.uniform_(norm.running_var, 0.5, 1.5)
            nn.init.normal_(norm.running_mean, std=0.3)
    return network.eval().requires_grad_(False)


def networks():
    import open_clip
    import timm
    from torchvision import models

    return {
        "clip": lambda: open_clip.CLIP(**RESNET).visual,
        "timm": lambda: timm.create_model("mobilenetv2_050"),
        "torchvision": lambda: models.resnet18(),
    }


@pytest.mark.parametrize("name", ["clip", "timm", "torchvision"])
def test_the_same_outputs_and_gradients_without_any_batch_norm(name):
    # In double precision nothing but a mistake is left to see.
    network = lively(networks()[name]()).double()
    folded = copy.deepcopy(network)
    assert fold_batch_norms(folded) == len(norms_of(network)) > 10
    assert not norms_of(folded)
    x = torch.rand(2, 3, 64, 64, dtype=torch.float64, requires_grad=True)
    found, expected = folded(x), network(x)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    weight = torch.randn_like(expected)
    gradients = [torch.autograd.grad((y * weight).sum(), x)[0] for y in (found, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-9)


class Odd(nn.Module):
    """Pairs that look as if they could be folded."""

    def __init__(self):
        super().__init__()
        self.tapped, self.after_tapped = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
        self.twice, self.after_twice = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
        self.free, self.of_the_batch = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3, track_running_stats=False)
        self.no_convolution = nn.BatchNorm2d(3)

    def forward(self, x):
        y = self.tapped(x)
        z = y + self.after_tapped(y)
        z = self.after_twice(self.twice(z)) + self.twice(x)
        return self.of_the_batch(self.free(z)) + self.no_convolution(x.relu())


class Untraceable(nn.Sequential):
    def forward(self, x):
        return super().forward(x) if x.sum() > 0 else x


def test_what_cannot_be_folded_stays():
    for network in (Odd(), Untraceable(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)), nn.Sequential(nn.Conv2d(3, 3, 1))):
        network = lively(network)
        before, x = copy.deepcopy(network), torch.rand(2, 3, 8, 8)
        assert fold_batch_norms(network) == 0
        assert list(network.state_dict()) == list(before.state_dict())
        torch.testing.assert_close(network(x), before(x))


def test_clip_and_classifiers_come_folded():
    assert not norms_of(create_clip(RESNET, None))
    network, *_ = create_classifier("mobilenetv2_050", None)
    assert not norms_of(network)
    assert not network.training
    assert not any(p.requires_grad for p in network.parameters())
