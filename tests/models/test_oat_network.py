"""OAT's network against numbers of the published modules, and the equalities that hold for any weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from gazekit.models.oat_network import OatNetwork, ObjectCNN, distance_code

# Grid of 2 x 3, searched for object 4.
PLACES = torch.tensor([[r, c] for r in range(2) for c in range(3)])
TARGET, FIXATIONS = 4, [0, 4, 4, 2, 4]


def published_like() -> tuple[OatNetwork, ObjectCNN]:
    """The published sizes with parameters from one stream of random numbers, in the order of the published modules."""
    network, cnn = OatNetwork(), ObjectCNN(256)
    rng = np.random.RandomState(0)

    def fill(*parameters: torch.Tensor) -> None:
        for parameter in parameters:
            shape = tuple(parameter.shape)
            values = rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))
            parameter.copy_(torch.from_numpy(values).float())

    with torch.no_grad():
        for module in (network, cnn):
            for name, parameter in module.named_parameters():
                if parameter.ndim == 1:
                    parameter.fill_(1.0 if "norm" in name and name.endswith("weight") else 0.0)
        fill(cnn.conv1.weight, cnn.conv2.weight, cnn.fc.weight)
        for layer in network.encoder:
            fill(layer.attention.project.weight, layer.attention.out.weight)
            fill(layer.feed_forward.linear1.weight, layer.feed_forward.linear2.weight)
        for layer in network.decoder:
            fill(layer.self_attention.project.weight, layer.self_attention.out.weight)
            fill(layer.cross_attention.project.weight, layer.cross_attention.out.weight)
            fill(layer.feed_forward.linear1.weight, layer.feed_forward.linear2.weight)
        heads = network.object_attention
        for decoder_side, encoder_side in zip(heads.decoder_side, heads.encoder_side, strict=True):
            fill(decoder_side.weight, encoder_side.weight)
        fill(heads.read_out.weight)
        i, j = torch.meshgrid(torch.arange(14), torch.arange(86), indexing="ij")
        network.code[:14] = torch.sin(0.05 * (i + 1) * (j + 1))
    return network.eval(), cnn.eval()


def pictures() -> torch.Tensor:
    """(6, 3, 150, 93)."""
    a, b, c = torch.meshgrid(torch.arange(150.0), torch.arange(93.0), torch.arange(3.0), indexing="ij")
    each = [0.5 + 0.5 * torch.sin(0.02 * (k + 1) * a + 0.03 * (k + 2) * b + c) for k in range(6)]
    return torch.stack(each).movedim(-1, 1)


@pytest.fixture(scope="module")
def golden():
    with torch.no_grad():
        network, cnn = published_like()
        look = cnn(pictures())
        appearance = torch.cat([look, look[TARGET : TARGET + 1]])[None]
        place = torch.cat([PLACES, PLACES[TARGET : TARGET + 1]])[None]
        is_last = torch.arange(7)[None] == 6
        tokens = network.tokens(appearance, place, is_last)
        is_target = torch.arange(6)[None] == TARGET
        looked = network.tokens(look[None], PLACES[None], is_target)
        # The published start shows an image of ones, in the middle of the grid.
        start = network.tokens(cnn(torch.ones(1, 3, 150, 93)), torch.tensor([[1, 1]]), torch.tensor([False]))
        layouts = network.encode(tokens, torch.ones(1, 7, dtype=torch.bool), looked, start)
        scores = network.decode(layouts, torch.tensor([FIXATIONS]))[0]
        return network, look, tokens, layouts, scores


def test_appearance(golden):
    _, look, tokens, _, _ = golden
    # Printed to six decimals; 1e-5 is the tolerance of the whole comparison.
    expected = [-0.287897, -0.492287, -0.261929, -0.108310]
    np.testing.assert_allclose(look[0, :4], expected, atol=1e-5, rtol=0)
    # A sum of 1,792 numbers of order one.
    assert tokens[..., :256].sum().item() == pytest.approx(32.745847, abs=5e-5)


def test_scores_of_the_first_next_and_last(golden):
    scores = golden[-1]
    expected = {
        0: [0.82444, 0.76476, 1.07949, 1.22346, 1.09294, 1.32448, 1.05783, 0],
        1: [0.89417, 0.82571, 1.11509, 1.29333, 1.14819, 1.36572, 1.10749, 0],
        5: [0.82823, 0.69946, 1.02991, 1.23137, 1.04075, 1.30405, 1.00043, 0],
    }
    for row, values in expected.items():
        # Printed to five decimals.
        np.testing.assert_allclose(scores[row], values, atol=1e-5, rtol=0)


def test_loss_and_probabilities(golden):
    scores = golden[-1]
    truth = torch.tensor([*FIXATIONS, 6])
    assert F.cross_entropy(scores, truth).item() == pytest.approx(2.0337105, abs=1e-6)
    p = scores.softmax(-1).gather(1, truth[:, None])[:, 0]
    np.testing.assert_allclose(p, [0.10660, 0.13998, 0.13714, 0.13557, 0.13814, 0.13097], atol=1e-5, rtol=0)


def test_the_most_probable_path(golden):
    network, _, _, layouts, _ = golden
    path, valid, _ = network.walk(layouts, 10, None)
    assert path.tolist() == [[[5] * 10]]
    assert valid.all()


def test_as_many_parameters_as_published():
    """18,300,985 published, without those never used, the bias that no softmax sees."""
    network, cnn = OatNetwork(), ObjectCNN(256)
    count = lambda module: sum(p.numel() for p in module.parameters())  # noqa: E731
    assert count(cnn) == 374_752
    assert count(network.encoder) == 6_311_936
    assert count(network.decoder) == 10_518_528
    assert count(network) + count(cnn) == 18_300_985 - 45_142 - 1


@pytest.mark.parametrize(("n", "sigma"), [(14, 2.0), (11, 2.0), (11, 2.5)])
def test_codes_are_as_similar_as_a_gaussian_of_their_distance(n, sigma):
    code = distance_code(n, 86, sigma).double()
    i = torch.arange(n)
    expected = torch.exp(-(i[:, None] - i).double().square() / (2 * sigma**2))
    cosine = F.normalize(code, dim=1) @ F.normalize(code, dim=1).T
    # Rounding of the codes to float32.
    torch.testing.assert_close(cosine, expected, atol=1e-6, rtol=0)
    norm = code.norm(dim=1)
    torch.testing.assert_close(norm, norm.mean().expand(n), atol=1e-5, rtol=0)
    # Found by gradient descent, the published ones have norms of 5.9 to 8.9.
    assert 5.5 < norm[0] < 9.5


# Equalities for any weights

SMALL = {"width": 48, "n_heads": 4, "n_layers": 2, "hidden": 32, "n_places": 7}


def scene(n=12, seed=0, gate=None, pad=0):
    """Three trials on layouts of n objects, `pad` of them not there; random appearances, targets and paths."""
    torch.manual_seed(seed)
    network = OatNetwork(**SMALL, gate=gate).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    rng = torch.Generator().manual_seed(seed)
    appearance = torch.randn(3, n + 1, network.half_width, generator=rng)
    place = torch.stack([torch.arange(n) // 4, torch.arange(n) % 4], -1).expand(3, n, 2)
    target = torch.tensor([1, 5, n - 1])
    objects = torch.randint(n, (3, 6), generator=rng)
    return network, appearance, place, target, objects


def layouts_of(network, appearance, place, target, extra=0):
    n = place.shape[1]
    target_place = place.gather(1, target[:, None, None].expand(-1, 1, 2))
    own = torch.cat([network.tokens(appearance[:, :n], place, torch.zeros(3, n, dtype=torch.bool))], 1)
    of_target = network.tokens(appearance[:, n:], target_place, torch.ones(3, 1, dtype=torch.bool))
    looked = network.tokens(appearance[:, :n], place, torch.arange(n) == target[:, None])
    usable = torch.ones(3, n + 1, dtype=torch.bool)
    if extra:
        rubbish = torch.full((3, extra, network.width), 7.0)
        own, looked = torch.cat([own, rubbish], 1), torch.cat([looked, rubbish], 1)
        usable = torch.cat([usable[:, :n], torch.zeros(3, extra, dtype=torch.bool), usable[:, n:]], 1)
    start = torch.linspace(-1, 1, network.width).expand(3, -1)
    return network.encode(torch.cat([own, of_target], 1), usable, looked, start)


# Float32 sums in another order; scores are of order one.
CLOSE = {"atol": 1e-5, "rtol": 0.0}
gates = pytest.mark.parametrize("gate", [None, "head", "element"])


@gates
@torch.no_grad()
def test_objects_in_another_order_are_the_same_objects(gate):
    network, appearance, place, target, objects = scene(gate=gate)
    n = place.shape[1]
    order = torch.randperm(n, generator=torch.Generator().manual_seed(1))
    new_number = order.argsort()
    straight = network.decode(layouts_of(network, appearance, place, target), objects)
    shuffled = layouts_of(
        network, torch.cat([appearance[:, order], appearance[:, n:]], 1), place[:, order], new_number[target]
    )
    mixed = network.decode(shuffled, new_number[objects])
    torch.testing.assert_close(mixed[..., :n], straight[..., order], **CLOSE)
    torch.testing.assert_close(mixed[..., n:], straight[..., n:], **CLOSE)


@gates
@torch.no_grad()
def test_what_is_not_there_does_not_matter(gate):
    """Layouts padded with objects, paths padded with fixations."""
    network, appearance, place, target, objects = scene(gate=gate)
    n, extra = place.shape[1], 5
    plain = network.decode(layouts_of(network, appearance, place, target), objects)
    padded = network.decode(layouts_of(network, appearance, place, target, extra), F.pad(objects, (0, 3), value=2))
    padded = padded[:, : plain.shape[1]]
    torch.testing.assert_close(padded[..., :n], plain[..., :n], **CLOSE)
    assert (padded[..., n : n + extra] == -torch.inf).all()
    torch.testing.assert_close(padded[..., n + extra :], plain[..., n:], **CLOSE)
    # One trial by itself.
    alone = layouts_of(network, appearance, place, target).of(torch.tensor([1]))
    torch.testing.assert_close(network.decode(alone, objects[1:2])[0], plain[1], **CLOSE)


@gates
@torch.no_grad()
def test_paths_step_by_step_have_the_probabilities_of_whole_ones(gate):
    network, appearance, place, target, _ = scene(gate=gate)
    layouts, n, length = layouts_of(network, appearance, place, target, 2), 14, 45
    uniform = torch.rand(3, 40, length, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    path, valid, log_p = network.walk(layouts, length, uniform)
    assert (valid[..., 1:] <= valid[..., :-1]).all()
    assert valid[..., 0].all()
    # Enough have ended to be put aside while the others went on.
    assert 0.02 < valid[..., -1].double().mean() < 0.6
    for sample in range(40):
        whole = network.decode(layouts, path[:, sample])[:, :-1]
        whole[..., n + 1] = -torch.inf
        whole[:, 0, n] = -torch.inf
        expected = whole.log_softmax(-1)
        seen = valid[:, sample]
        torch.testing.assert_close(log_p[:, sample][seen], expected[seen], **CLOSE)
    assert (log_p[:, :, 0, n] == -torch.inf).all(), "a path may not end before it begins"


@torch.no_grad()
def test_many_paths_have_the_shares_of_the_softmax():
    network, appearance, place, target, _ = scene()
    layouts, n, draws = layouts_of(network, appearance, place, target).of(torch.tensor([0])), 12, 4000
    uniform = torch.rand(1, draws, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    path, valid, log_p = network.walk(layouts, 2, uniform)
    p = log_p[0, 0, 0].exp()[:n]
    share = torch.bincount(path[0, :, 0], minlength=n) / draws
    # Five standard errors of a share.
    assert ((share - p).abs() < 5 * (p / draws).sqrt()).all()
    # Second fixations, given the most frequent first one; ending is one of the choices.
    first = int(share.argmax())
    of = path[0, :, 0] == first
    second = torch.where(valid[0, of, 1], path[0, of, 1], n)
    expected = log_p[0, of, 1][0].exp()[: n + 1]
    share = torch.bincount(second, minlength=n + 1) / int(of.sum())
    assert ((share - expected).abs() < 5 * (expected / int(of.sum())).sqrt() + 1e-9).all()


@torch.no_grad()
def test_an_open_gate_changes_nothing():
    network, appearance, place, target, objects = scene()
    gated = OatNetwork(**SMALL, gate="head").eval()
    gated.load_state_dict(network.state_dict(), strict=False)
    expected = network.decode(layouts_of(network, appearance, place, target), objects)
    for module in gated.modules():
        if hasattr(module, "start_open"):
            module.project.weight.zero_()
            module.start_open = True
    got = gated.decode(layouts_of(gated, appearance, place, target), objects)
    torch.testing.assert_close(got, expected, **CLOSE)
