"""Compiled passes over maps give the numbers of the passes that they stand in for, and of plain float64 NumPy."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest
import torch

from gazekit.errors import InputError
from gazekit.metrics import auc, auc_judd, cc, compiled, conditional_nss, kld, nss, shuffled_auc, sim

pytest.importorskip("numba", reason="numba is not installed: there are no compiled passes")

HEIGHT, WIDTH = 137, 153
assert compiled.MIN_PIXELS <= HEIGHT * WIDTH


def maps(kind, n=3, dtype=torch.float32, seed=0):
    """(n, H, W) maps whose values are spread as those of real ones, or as badly as they come."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, HEIGHT, WIDTH, generator=g, dtype=torch.float64)
    made = {
        "density": lambda: (3 * x).exp(),
        "sparse": lambda: (x > 2).double() * x,
        "negative": lambda: x - 5.0,
        "ties": lambda: (2 * x).round(),
        "small on large": lambda: 1e4 + 1e-3 * x,
        "tiny": lambda: 1e-30 * (3 * x).exp(),
    }[kind]()
    return made.to(dtype)


KINDS = ["density", "sparse", "negative", "ties", "small on large", "tiny"]


@pytest.fixture
def passes(monkeypatch):
    """Whether compiled passes are used, to be chosen; each use is counted."""
    used = []
    original, usable = compiled._compiled, compiled.usable

    def counted(function):
        used.append(function.__name__)
        return original(function)

    monkeypatch.setattr(compiled, "_compiled", counted)

    def choose(wanted):
        used.clear()
        monkeypatch.setattr(compiled, "usable", usable if wanted else lambda *maps: False)
        return used

    return choose


def both_ways(passes, score):
    used = passes(True)
    fast = score()
    assert used, "the compiled passes were not used"
    used = passes(False)
    slow = score()
    assert not used
    return fast, slow


def fixations(n=3, steps=40, seed=1):
    g = torch.Generator().manual_seed(seed)
    xy = torch.rand(n, steps, 2, generator=g) * torch.tensor([WIDTH, HEIGHT])
    return xy, torch.arange(steps) < torch.tensor([steps, 7, 1])[:n, None]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("metric", [cc, sim, kld, lambda p, q: kld(p, q, "floor")], ids=["cc", "sim", "mit", "floor"])
def test_comparisons_of_maps(passes, metric, kind, shared, dtype):
    predicted = maps(kind, 1 if shared else 3, dtype).expand(3, -1, -1)
    empirical = maps("density", 3, dtype, seed=9)
    fast, slow = both_ways(passes, lambda: metric(predicted, empirical))
    # Float64 sums of the same numbers in another order; with a mean of 1e7 SDs the last digits of a value are lost.
    torch.testing.assert_close(fast, slow, rtol=1e-9, atol=1e-9 if kind == "small on large" else 1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("metric", [nss, auc, auc_judd])
def test_scores_at_fixations(passes, metric, kind, shared, dtype):
    saliency = maps(kind, 1 if shared else 3, dtype).expand(3, -1, -1)
    fast, slow = both_ways(passes, lambda: metric(saliency, *fixations()))
    if metric is nss:
        # The mean of values that are 1e7 SDs from 0 is known to about 1e-9 SD.
        torch.testing.assert_close(fast, slow, rtol=1e-9, atol=1e-8 if kind == "small on large" else 1e-12)
    else:  # whole numbers of pixels
        assert torch.equal(fast, slow)


def test_many_negatives_of_the_shuffled_auc(passes):
    xy, valid = fixations()
    others = torch.rand(20_000, 2, generator=torch.Generator().manual_seed(2)) * torch.tensor([WIDTH, HEIGHT])
    fast, slow = both_ways(passes, lambda: shuffled_auc(maps("ties"), xy, valid, others))
    assert torch.equal(fast, slow)


def test_against_plain_numpy():
    x, y = (maps("density", 1, seed=s)[0].flatten().numpy() for s in (0, 1))
    x64, y64 = x.astype(float), y.astype(float)
    mean, variance = compiled.moments(x)
    assert mean == pytest.approx(x64.mean(), rel=1e-13)
    assert variance == pytest.approx(x64.var(), rel=1e-12)
    assert compiled.total(y, 2.0) == pytest.approx((y64 - 2.0).sum(), rel=1e-12)
    to_x, to_y = (0.5, 1 / x64.sum(), 0.25), (0.0, 1 / y64.sum(), 1e-9)
    p, q = ((v - shift) * scale + offset for v, (shift, scale, offset) in ((x64, to_x), (y64, to_y)))
    assert compiled.product_sum(x, y, to_x, to_y) == pytest.approx((p * q).sum(), rel=1e-12)
    assert compiled.least_sum(x, y, to_x, to_y) == pytest.approx(np.minimum(p, q).sum(), rel=1e-12)
    for epsilon in (0.0, 2.2204e-16, 1e-3):
        expected = (q * np.log(q / (p + epsilon) + epsilon)).sum()
        assert compiled.divergence(x, y, to_x, to_y, epsilon) == pytest.approx(expected, rel=1e-12)


def test_the_logarithm_is_one():
    """Over 600 orders of magnitude, and where it is close to 0, to the last bits of float64."""
    near_one = 1.0 + np.linspace(-1e-3, 1e-3, 4001)
    for ratio in (np.logspace(-300, 300, 6001), near_one, np.array([0.5, 2**-0.5, 1.0, 2**0.5, 2.0])):
        for r in ratio:
            one = np.ones(1)
            # q = 1, p = 1 / r: the sum is log(1 / (1 / r)).
            got = compiled.divergence(one, one, (0.0, 1.0 / r, 0.0), (0.0, 1.0, 0.0), 0.0)
            expected = math.log(1.0 / (1.0 / r))
            assert got == pytest.approx(expected, rel=4e-16, abs=1e-18)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_places_of_any_numbers(dtype):
    rng = np.random.default_rng(0)
    odd = np.array([-np.inf, np.inf, 0.0, -0.0, 1e-40, -1e-40, np.finfo(dtype).max, np.finfo(dtype).min, 1.0], dtype)
    for values in (rng.choice(odd, 3000), rng.normal(size=3000).astype(dtype), np.zeros(3000, dtype)):
        for n in (1, 2, 50):
            wanted = np.unique(rng.choice(values, n) + dtype(0.0))
            below, equal = compiled.places(values, wanted)
            assert below.tolist() == [int((values < w).sum()) for w in wanted]
            assert equal.tolist() == [int((values == w).sum()) for w in wanted]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_maps_that_are_not_finite(passes, value):
    broken, whole = maps("density"), maps("density", seed=5)
    broken[1, 3, 4] = value
    for metric in (cc, sim, kld):
        assert passes(True) is not None
        with pytest.raises(InputError, match="predicted map of trial 1 holds NaN or infinity"):
            metric(broken, whole)
        score = metric(whole, broken)
        assert score.isnan().tolist() == [False, True, False], metric
    with pytest.raises(InputError, match="saliency of trial 1, fixation 0: the map holds NaN or infinity"):
        nss(broken, *fixations())
    if math.isnan(value):
        with pytest.raises(InputError, match="saliency of trial 1, fixation 0: the map holds NaN"):
            auc(broken, *fixations())
    else:
        assert auc(broken, *fixations()).isfinite().all()


@pytest.mark.parametrize("level", [0.0, 0.1, -3.0, 1e8])
def test_flat_maps(passes, level):
    flat = torch.full((3, HEIGHT, WIDTH), level)
    other = maps("density")
    for metric in (cc, sim, kld):
        fast, slow = both_ways(passes, lambda metric=metric: metric(flat, other))
        torch.testing.assert_close(fast, slow, rtol=1e-9, atol=1e-12, equal_nan=True)
        compiled_again = metric(other, flat)
        assert compiled_again.isnan().all() == (metric is cc)
    assert (nss(flat, *fixations()) == 0.0).all()
    assert (auc(flat, *fixations()) == 0.5).all()


def test_gradients_do_not_pass_through(passes):
    """Where a gradient is wanted the passes step aside, and it is the true one."""
    used = passes(True)
    saliency = maps("density", 2, torch.float64).requires_grad_()
    xy, valid = fixations(2)
    nss(saliency, xy, valid).sum().backward()
    assert saliency.grad.isfinite().all()
    assert not used
    with torch.no_grad():
        nss(saliency, xy, valid)
    assert used


def test_without_numba_the_numbers_are_the_same(monkeypatch):
    saliency, empirical = maps("density"), maps("density", seed=3)
    before = [cc(saliency, empirical), nss(saliency, *fixations())]
    monkeypatch.setitem(sys.modules, "numba", None)  # an import fails
    compiled._numba.cache_clear()
    try:
        assert not compiled.usable(saliency)
        after = [cc(saliency, empirical), nss(saliency, *fixations())]
    finally:
        monkeypatch.undo()
        compiled._numba.cache_clear()
    for one, other in zip(before, after, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


def test_many_small_maps_are_left_to_pytorch(passes):
    used = passes(True)
    log_density = torch.rand(2, 5, 600).log_softmax(-1).view(2, 5, 20, 30)
    xy, valid = torch.rand(2, 5, 2) * 20, torch.ones(2, 5, dtype=torch.bool)
    conditional_nss(log_density, xy, valid)
    nss(log_density[:, 0], xy, valid)
    assert not used
