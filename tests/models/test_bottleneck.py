"""The codebook bottleneck: its size, its geometry, its options, and what it keeps of a made-up world."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from gazekit import InputError
from gazekit.models.bottleneck import CodebookBottleneck, LinearBottleneck, NoBottleneck, create_bottleneck

# Float32 products over 64 numbers.
ROUNDING = {"rtol": 1e-5, "atol": 1e-6}


def made(seed=0, width=64, **options):
    torch.manual_seed(seed)
    return CodebookBottleneck(width, **options)


def samples(n=500, width=64, seed=1):
    return torch.randn(n, width, generator=torch.Generator().manual_seed(seed))


def n_parameters(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(("width", "published"), [(1574, 423_074), (1568, 421_472)])
def test_as_many_parameters_as_published(width, published):
    k, d = 256, 10
    assert n_parameters(made(width=width, normalize=False)) == published == width * k + k + k * d + d * width + width
    assert n_parameters(made(width=width)) == published + 2 * width


def test_the_formula_written_another_way():
    module, e = made().eval(), samples(7)
    parts = {name: value.detach().double().numpy() for name, value in module.state_dict().items()}
    x = e.double().numpy()
    x = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-5)
    x = np.maximum(x * parts["norm.weight"] + parts["norm.bias"], 0)
    logits = x @ parts["score.weight"].T + parts["score.bias"]
    for row, one in zip(module(e)[0], logits, strict=True):
        weights = np.exp(one - one.max()) / np.exp(one - one.max()).sum()
        h = sum(w * code for w, code in zip(weights, parts["codes"], strict=True))
        np.testing.assert_allclose(row.detach(), h @ parts["up.weight"].T + parts["up.bias"], rtol=1e-4, atol=1e-5)


def test_what_comes_out_has_ten_dimensions():
    passed = made().eval()(samples() * 3.0)[0].detach().double()
    values = torch.linalg.svdvals(passed - passed.mean(0))
    # All ten are used, and beyond them there is rounding alone.
    assert values[9] > 1e-2 * values[0]
    assert values[10] < 1e-5 * values[0]


@pytest.mark.parametrize("codes", ["learned", "random", "binary"])
def test_in_evaluation_it_lies_in_the_convex_hull_of_the_codes(codes):
    module, e = made(codes=codes).eval(), samples()
    weights = module.weights(e)
    assert (weights >= 0).all()
    torch.testing.assert_close(weights.sum(-1), torch.ones(len(e)), **ROUNDING)
    h = weights @ module.codes
    # In any direction, a mixture reaches no further than the furthest code.
    direction = torch.randn(10, 300, generator=torch.Generator().manual_seed(5))
    assert ((h @ direction).amax(0) <= (module.codes @ direction).amax(0) + 1e-5).all()
    torch.testing.assert_close(module(e)[0], module.up(h))


def test_dropout_is_on_the_weights_and_only_in_training():
    module, e = made(), samples(2000)
    assert torch.equal(module.eval()(e)[0], module(e)[0])
    module.train()
    noise = [torch.Generator().manual_seed(i) for i in range(len(e))]
    first, weights = module(e, noise)
    assert not torch.equal(first, module(e, noise)[0])
    again, _ = module(e, [torch.Generator().manual_seed(i) for i in range(len(e))])
    assert torch.equal(first, again)
    # A row's noise is its own.
    alone, _ = module(e[3:4], [torch.Generator().manual_seed(3)])
    torch.testing.assert_close(alone[0], first[3], **ROUNDING)
    # Not normalised again: sums scatter around one (the weights of a row are a softmax of scattered logits).
    module.up = nn.Linear(10, 64)
    module.codes = nn.Parameter(torch.ones(256, 10))
    with torch.no_grad():
        module.up.weight.zero_()[0, 0] = 1.0
        module.up.bias.zero_()
        sums = module(e)[0][:, 0]
    expected_sd = (0.1 / 0.9 * weights.square().sum(-1)).mean().sqrt().item()
    assert sums.mean().item() == pytest.approx(1.0, abs=5 * expected_sd / math.sqrt(len(e)))
    assert sums.std().item() == pytest.approx(expected_sd, rel=0.1)


@pytest.mark.parametrize("codes", ["random", "binary"])
def test_codes_that_stay_get_no_gradient(codes):
    module = made(codes=codes)
    module(samples(8))[0].sum().backward()
    assert not module.codes.requires_grad
    assert module.codes.grad is None
    assert all(p.grad is not None for p in module.parameters())
    if codes == "binary":
        assert set(module.codes.unique().tolist()) == {-1.0, 1.0}
    # They travel in the checkpoint.
    other = made(seed=9, codes=codes)
    other.load_state_dict(module.state_dict())
    assert torch.equal(other.codes, module.codes)


def test_learned_codes_get_a_gradient():
    module = made()
    module(samples(8))[0].square().sum().backward()
    assert module.codes.grad.abs().max() > 0


def test_all_codes_as_the_largest_is_the_softmax():
    every, soft = made(indexing="topk", topk=256, dropout=0.0), made(dropout=0.0)
    torch.testing.assert_close(every(samples())[0], soft(samples())[0], **ROUNDING)
    some = made(indexing="topk", topk=16)
    weights = some.weights(samples())
    assert (weights > 0).sum(-1).unique().tolist() == [16]
    # What is kept is as it was.
    torch.testing.assert_close(weights[weights > 0], soft.weights(samples())[weights > 0], **ROUNDING)


def test_gumbel_takes_one_code_and_passes_a_gradient():
    module, e = made(indexing="gumbel", dropout=0.0), samples(400)
    _, hard = module(e)
    torch.testing.assert_close(hard.amax(-1), torch.ones(len(e)), **ROUNDING)
    (module(e)[0] * samples(400, seed=2)).sum().backward()
    assert module.score.weight.grad.abs().max() > 0
    assert torch.equal(module.eval().weights(e).argmax(-1), module.score(F.relu(module.norm(e))).argmax(-1))
    # Drawn as often as the softmax says: over many draws for one sample.
    module.train()
    repeated = e[:1].expand(4000, -1)
    share = module(repeated)[1].mean(0)
    probability = module.score(F.relu(module.norm(e[0]))).softmax(-1)
    assert (share - probability).abs().max() < 5 * math.sqrt(probability.max().item() / 4000)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_the_temperature_of_gumbel_is_that_of_the_gradient(temperature):
    """What is drawn does not depend on it; the gradient is that of a softmax with it."""
    module, e = made(indexing="gumbel", dropout=0.0, temperature=temperature), samples(5)
    value = torch.randn(256, generator=torch.Generator().manual_seed(3))
    _, weights = module(e, [torch.Generator().manual_seed(i) for i in range(5)])
    (weights @ value).sum().backward()
    uniform = torch.stack([torch.rand(256, generator=torch.Generator().manual_seed(i)) for i in range(5)]).double()
    logits = module.score(F.relu(module.norm(e))).detach().double()
    drawn = logits - (-uniform.log()).log()
    assert torch.equal(weights.argmax(-1), drawn.argmax(-1))
    soft = (drawn / temperature).softmax(-1)
    expected = (soft * (value - (soft @ value.double())[:, None]) / temperature).sum(0)
    torch.testing.assert_close(module.score.bias.grad.double(), expected, rtol=1e-3, atol=1e-5)


def test_samples_start_apart():
    """With the default initialisation every sample gets about the same mixture."""

    def entropy(module):
        weights = module.weights(samples(2000))
        return (-(weights * weights.log()).sum(-1).mean() / math.log(256)).item()

    assert entropy(made()) == pytest.approx(0.8, abs=0.03)
    assert entropy(made(normalize=False)) > 0.97


@pytest.mark.parametrize("options", [{}, {"indexing": "topk", "topk": 3}, {"codes": "random"}])
def test_gradients_are_those_of_the_formula(options):
    module = made(width=5, n_codes=7, code_width=3, **options).double().eval()
    e = torch.randn(4, 5, dtype=torch.double, generator=torch.Generator().manual_seed(0), requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: module(x)[0], (e,))


def test_the_controls():
    e = samples()
    linear = LinearBottleneck(64)
    passed = linear(e)[0].detach().double()
    values = torch.linalg.svdvals(passed - passed.mean(0))
    assert values[9] > 1e-2 * values[0]
    assert values[10] < 1e-5 * values[0]
    # It is given what the codes are given: the positive part.
    expected = linear.up(linear.down(F.layer_norm(e, (64,)).clamp(min=0.0)))
    torch.testing.assert_close(linear(e)[0], expected, **ROUNDING)
    through, weights = NoBottleneck(64)(e)
    torch.testing.assert_close(through, F.layer_norm(e, (64,)))
    assert weights is None
    torch.testing.assert_close(NoBottleneck(64, normalize=False)(e)[0], e)


def test_wrong_arguments():
    for kind, options, match in (
        ("codebok", {}, "no bottleneck named 'codebok'; did you mean 'codebook'"),
        ("linear", {"n_codes": 3}, "'linear' does not take these options: \\['n_codes'\\]"),
        ("codebook", {"indexing": "sparsemax"}, "no indexing of a codebook named 'sparsemax'"),
        ("codebook", {"codes": "ternary"}, "no kind of codes named 'ternary'"),
        ("codebook", {"indexing": "topk", "topk": 300}, "256 codes has no 300 largest"),
        ("codebook", {"dropout": 1.0}, "0 <= dropout < 1"),
    ):
        with pytest.raises(InputError, match=match):
            create_bottleneck(kind, 8, **options)


def share_of(e, label):
    """Share of the variance of e (N, d) that lies between the two groups of `label`."""
    between = sum(len(part) * (part.mean(0) - e.mean(0)).square().sum() for part in (e[label > 0], e[label == 0]))
    return (between / (e - e.mean(0)).square().sum()).item()


def test_what_does_not_matter_does_not_pass():
    """Objects have a color and a shape, and the task asks for the color alone."""
    generator = torch.Generator().manual_seed(0)
    n = 1000
    color, shape = (torch.randint(2, (n,), generator=generator).float() for _ in range(2))
    # As different in shape as in color.
    mixing = F.normalize(torch.randn(2, 32, generator=generator), dim=1) * 32**0.5
    seen = torch.stack([2 * color - 1, 2 * shape - 1], 1) @ mixing + 0.3 * torch.randn(n, 32, generator=generator)
    assert share_of(seen, shape) == pytest.approx(share_of(seen, color), abs=0.1)
    torch.manual_seed(0)
    module, head = CodebookBottleneck(32, n_codes=32, code_width=4), nn.Linear(32, 1)
    optimizer = torch.optim.AdamW([*module.parameters(), *head.parameters()], lr=1e-2, weight_decay=1e-2)
    for _ in range(300):
        passed, weights = module(seen)
        # Each sample may use few codes: what the task does not need costs.
        spread = -(weights * weights.clamp(min=1e-9).log()).sum(-1).mean()
        loss = F.binary_cross_entropy_with_logits(head(passed)[:, 0], color) + 0.05 * spread
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    passed = module.eval()(seen)[0].detach()
    assert share_of(passed, color) > 0.8
    # Of 0.46 in what is seen.
    assert share_of(passed, shape) < 0.1
