"""Earth mover's distance: against a linear programme, POT on the full problem, closed forms and its laws."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from scipy.optimize import linprog

from gazekit.density import fixation_density
from gazekit.errors import InputError
from gazekit.metrics.emd import EMD, emd

ot = pytest.importorskip("ot", reason="POT is not installed; pip install 'gazekit[emd]'")

# An exact solver in float64; its path to the optimum may differ.
SAME = {"rtol": 1e-10, "atol": 1e-11}


def maps(*values: list[list[float]]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def random_maps(seed: int, n: int, height: int, width: int, power: float = 3) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(seed)
    return tuple(torch.from_numpy(rng.random((n, height, width)) ** power) for _ in "pq")


def close(got, expected, **tolerance):
    torch.testing.assert_close(
        got, torch.as_tensor(expected, dtype=torch.float64), equal_nan=True, **{**SAME, **tolerance}
    )


@pytest.mark.parametrize(
    ("p", "q", "expected"),
    [
        ([[1.0, 0, 0]], [[0.0, 0, 1]], 2.0),
        ([[0.5, 0.5], [0, 0]], [[0, 0.5], [0.5, 0]], 0.5),
        ([[0.1, 0.2], [0.3, 0.4]], [[0.4, 0.3], [0.2, 0.1]], 0.4828427),
        ([[1.0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]], [[0.0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 1]], 13**0.5),
    ],
)
def test_golden(p, q, expected):
    # Printed with seven decimals.
    assert emd(maps(p), maps(q)).item() == pytest.approx(expected, abs=6e-8)


def linear_programme(p: np.ndarray, q: np.ndarray) -> float:
    """The definition: flows from every place to every place, written out, with nothing taken off before."""
    p, q = p / p.sum(), q / q.sum()
    places = [(r, c) for r in range(p.shape[0]) for c in range(p.shape[1])]
    n = len(places)
    cost = [np.hypot(a[0] - b[0], a[1] - b[1]) for a in places for b in places]
    constraints = np.zeros((2 * n, n * n))
    for i in range(n):
        constraints[i, i * n : (i + 1) * n] = 1  # all that leaves i
        constraints[n + i, i::n] = 1  # all that reaches i
    # One of the equations follows from the others.
    mass = np.concatenate([p.ravel(), q.ravel()])
    return linprog(cost, A_eq=constraints[:-1], b_eq=mass[:-1], method="highs").fun


@pytest.mark.parametrize("shape", [(1, 9), (3, 4), (5, 2), (6, 7)])
def test_linear_programme(shape):
    p, q = random_maps(1, 6, *shape)
    p[0, 0, 0] = q[1, 0, 0] = q[2, 0, 0] = p[2, 0, 0] = 0
    q[3] = p[3]  # nothing to move
    expected = [linear_programme(a.numpy(), b.numpy()) for a, b in zip(p, q, strict=True)]
    # HiGHS meets its constraints to 1e-7.
    close(emd(p, q), np.array(expected), atol=1e-6, rtol=0)


def test_pot_on_the_whole_problem():
    p, q = random_maps(2, 3, 17, 26)
    y, x = np.divmod(np.arange(17 * 26), 26)
    cost = np.hypot(y[:, None] - y, x[:, None] - x)
    expected = [
        ot.emd2((a / a.sum()).flatten().numpy(), (b / b.sum()).flatten().numpy(), cost, numItermax=10**7)
        for a, b in zip(p, q, strict=True)
    ]
    close(emd(p, q), np.array(expected))


@pytest.mark.parametrize("turned", [False, True])
def test_one_dimension_in_closed_form(turned):
    p, q = random_maps(3, 5, 1, 32)
    expected = (p / p.sum(-1, keepdim=True) - q / q.sum(-1, keepdim=True)).cumsum(-1).abs().sum((-2, -1))
    close(emd(p.mT, q.mT) if turned else emd(p, q), expected)


def test_separable_in_closed_form():
    # The same profile down, another across: all mass moves across.
    down, (p, q) = torch.rand(4, 9, 1, dtype=torch.float64), random_maps(4, 4, 1, 13)
    expected = (p / p.sum(-1, keepdim=True) - q / q.sum(-1, keepdim=True)).cumsum(-1).abs().sum((-2, -1))
    close(emd(down * p, down * q), expected)


def test_translation():
    p = torch.zeros(1, 20, 31, dtype=torch.float64)
    p[:, 2:6, 3:9] = torch.rand(1, 4, 6, dtype=torch.float64) + 0.1
    # No plan moves the mean by less, and moving all of it so is one.
    close(emd(p, p.roll((3, 4), (1, 2))), [5.0])


def test_identity_symmetry_triangle():
    p, q = random_maps(5, 6, 11, 18)
    r, _ = random_maps(6, 6, 11, 18, power=1)
    assert emd(p, p).tolist() == [0.0] * 6
    assert emd(p, p * 3).abs().max() < 1e-12  # normalising leaves rounding
    pq = emd(p, q)
    close(emd(q, p), pq)
    assert (pq > 0).all()
    assert (emd(p, r) + emd(r, q) >= pq - 1e-12).all()
    close(emd(p.flip(-1), q.flip(-1)), pq)
    close(emd(p.mT, q.mT), pq)


def test_maps_become_densities():
    p, q = random_maps(7, 3, 6, 8)
    close(emd(5 * p, q / 7), emd(p, q))
    # A negative minimum is taken off, and a map of zeros is uniform.
    p = p - p.amin((1, 2), keepdim=True)
    close(emd(p - 2, q), emd(p, q))
    close(emd(torch.zeros_like(p), q), emd(torch.ones_like(p), q))


def test_blocks():
    p, q = random_maps(8, 2, 40, 71)
    # 71 / 32 asks for blocks of 3; the last ones hold 1 of 3 rows and 2 of 3 columns.
    p, q = (x / x.sum((1, 2), keepdim=True) for x in (p, q))
    reduced = [torch.zeros(2, 14, 24, dtype=torch.float64) for _ in "pq"]
    for full, small in zip((p, q), reduced, strict=True):
        for row in range(40):
            for column in range(71):
                small[:, row // 3, column // 3] += full[:, row, column]
        close(small.sum((1, 2)), torch.ones(2, dtype=torch.float64))  # no mass is lost
    expected = emd(*reduced, block_px=1)
    close(emd(p, q), expected)
    close(emd(p, q, block_px=3), expected)
    close(emd(p, q, unit="px"), 3 * expected)
    assert emd(p, q, block_px=100).tolist() == [0.0, 0.0]
    # 32 x 32 blocks are still allowed, for 33 pixels the side becomes 2.
    one = torch.zeros(1, 2, 33, dtype=torch.float64)
    one[0, 0, 0] = 1
    close(emd(one[..., :32], one[..., :32].flip(-1)), [31.0])
    close(emd(one, one.flip(-1)), [16.0])
    close(emd(one, one.flip(-1), unit="px"), [32.0])


def test_blocks_change_the_distance_by_little():
    p, q = random_maps(9, 4, 24, 31)
    exact = emd(p, q, unit="px")
    for block_px in (2, 3, 5):
        # Each pixel is at most (block_px - 1) / sqrt(2) from the center of its block.
        change = (emd(p, q, block_px=block_px, unit="px") - exact).abs()
        assert (change <= 2**0.5 * (block_px - 1)).all()


def test_grows_with_distance_and_with_noise():
    xy_px = torch.tensor([[[8.0 + 4 * k, 12.0]] for k in range(5)], dtype=torch.float64)
    blobs = fixation_density(xy_px, torch.ones(5, 1, dtype=torch.bool), (32, 24), 2.0)
    distances = emd(blobs[:1].expand(5, -1, -1), blobs)
    assert (distances.diff() > 3.5).all()
    noise = torch.rand(5, 24, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64) / (24 * 32)
    means = [emd(blobs + s * noise, blobs).mean().item() for s in (0, 0.1, 0.5, 2, 20)]
    assert means == sorted(means)
    assert means[0] < 1e-12 < means[1]


def test_batch_is_loop_shared_and_precision():
    p, q = random_maps(10, 4, 9, 14)
    whole = emd(p, q)
    close(whole, torch.cat([emd(p[i : i + 1], q[i : i + 1]) for i in range(4)]), rtol=0, atol=0)
    close(emd(p[:1].expand(4, -1, -1), q), emd(p[:1].repeat(4, 1, 1), q), rtol=0, atol=0)
    half = emd(p.float(), q.float())
    assert half.dtype == torch.float64
    close(half, emd(p.float().double(), q.float().double()), rtol=0, atol=0)
    # Rounding of the values to float32, times the size of the map.
    close(half, whole, rtol=0, atol=1e-6 * 14)
    assert emd(p[:0], q[:0]).shape == (0,)
    close(emd((9 * p).long(), (9 * q).long() + 1), emd((9 * p).floor(), (9 * q).floor() + 1))


def test_undefined_trials():
    p, q = random_maps(11, 3, 5, 6)
    q[1] = torch.nan
    score = emd(p, q)
    assert score.isnan().tolist() == [False, True, False]
    close(score[[0, 2]], emd(p[[0, 2]], q[[0, 2]]), rtol=0, atol=0)
    metric = EMD()
    metric.update(p[:2], q[:2])
    metric.update(p[2:], q[2:])
    close(metric.compute(), score.nanmean())
    assert (int(metric.n_valid), int(metric.n_total)) == (2, 3)
    coarse = EMD(block_px=2, unit="px")
    coarse.update(p, q)
    close(coarse.compute(), emd(p, q, block_px=2, unit="px").nanmean())


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_predicted_map_not_finite(value):
    p, q = random_maps(11, 3, 5, 6)
    p[2, 4, 5] = value
    with pytest.raises(InputError, match="predicted map of trial 2 holds NaN or infinity"):
        emd(p, q)


def test_input_errors(monkeypatch):
    p, q = random_maps(11, 3, 40, 65)
    with pytest.raises(InputError, match="expand a map that serves all trials"):
        emd(p[:1], q)
    with pytest.raises(InputError, match=r"must both be \(B, H, W\)"):
        emd(p[0], q[0])
    with pytest.raises(
        InputError, match="block_px = 2 leaves more than 32 blocks on a side of the 65x40 px map; take 3"
    ):
        emd(p, q, block_px=2)
    for block_px in (0, -3):
        with pytest.raises(InputError, match=f"block_px = {block_px} "):
            emd(p, q, block_px=block_px)
    for build in (EMD, lambda unit: emd(p, q, unit=unit)):
        with pytest.raises(InputError, match=r"unit must be one of \('block', 'px'\); got 'dva'"):
            build(unit="dva")
    monkeypatch.setitem(sys.modules, "ot", None)
    with pytest.raises(InputError, match=r'needs POT; pip install "gazekit\[emd\]"$'):
        emd(p, q)
