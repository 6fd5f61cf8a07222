"""Recurrence quantification: golden numbers, a loop over points as the oracle, laws, edge cases and errors."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from torch import Tensor

from gazekit.errors import InputError
from gazekit.metrics.recurrence import CrossRecurrence, Recurrence, SelfRecurrence, cross_recurrence, self_recurrence
from tests.conftest import REAL_DATA, needs_osie

NAN = float("nan")
# The references are printed with seven decimals.
PRINTED = {"rel": 0.0, "abs": 6e-8}
# Counts are exact; a few float64 products and quotients round, and are up to 100.
EXACT = {"rtol": 1e-13, "atol": 1e-12, "equal_nan": True}


def path(*xy: tuple[float, float]) -> tuple[Tensor, Tensor]:
    return torch.tensor([xy], dtype=torch.float64).reshape(1, -1, 2), torch.ones(1, len(xy), dtype=torch.bool)


F = path((0, 0), (10, 0), (20, 0), (30, 0))


@pytest.mark.parametrize(
    ("g", "expected"),
    [
        (path((0, 0), (10, 0), (50, 0), (0, 0)), (18.75, 66.6666667, 0, 33.3333333)),
        (path((0, 0), (0, 0), (20, 0), (30, 0)), (25, 50, 25, 8.3333333)),
    ],
)
def test_golden(g, expected):
    assert [m.item() for m in cross_recurrence(*F, *g, radius_px=5)] == pytest.approx(expected, **PRINTED)
    # Swapped: the sign of corm changes.
    swapped = [*expected[:3], -expected[3]]
    assert [m.item() for m in cross_recurrence(*g, *F, radius_px=5)] == pytest.approx(swapped, **PRINTED)


def test_by_hand():
    # 0 1 0 1 1: recurrent at (0,2), (1,3), (1,4), (3,4); the diagonal (0,2)-(1,3), the row (1,3)-(1,4), and the
    # column (1,4), not (2,4), (3,4): no line.
    a, b = (0, 0), (100, 0)
    r = self_recurrence(*path(a, b, a, b, b), radius_px=5)
    assert [m.item() for m in r] == pytest.approx([100 * 2 * 4 / 20, 50, 100 * 2 / 8, 100 * 8 / 16], abs=1e-12)
    # The radius itself is near enough: a 3-4-5 triangle.
    assert cross_recurrence(*path((0, 0), (0, 0)), *path((3, 4), (90, 0)), radius_px=5).rec.item() == 50
    assert cross_recurrence(*path((0, 0), (0, 0)), *path((3, 4), (90, 0)), radius_px=4.99).rec.item() == 0
    # A hair further than the radius, which float32 could not tell.
    assert cross_recurrence(*path((0, 0), (0, 0)), *path((3, 4 + 1e-9), (90, 0)), radius_px=5).rec.item() == 0


def test_gaps_break_lines():
    """Points on one diagonal with a gap between them are no line (a defect of copied implementations)."""
    g = path((0, 0), (999, 0), (20, 0), (999, 0))
    r = cross_recurrence(*F, *g, radius_px=5)
    assert (r.rec.item(), r.det.item()) == (12.5, 0)


def oracle(a: np.ndarray, b: np.ndarray, radius: float, length: int, upper: bool) -> list[float]:
    """Walk every row, column and diagonal point by point, and count what lies on long enough runs."""
    n = min(len(a), len(b))
    if n < 2:
        return [NAN] * 4
    c = [[np.hypot(*(a[i] - b[j])) <= radius and (j > i or not upper) for j in range(n)] for i in range(n)]

    def on_lines(lines: list[list[bool]]) -> int:
        found = 0
        for line in lines:
            run = 0
            for here in [*line, False]:
                if here:
                    run += 1
                else:
                    found += run if run >= length else 0
                    run = 0
        return found

    count = sum(map(sum, c))
    rec = 100 * 2 * count / (n * (n - 1)) if upper else 100 * count / n**2
    if count == 0:
        return [rec, NAN, NAN, NAN]
    diagonals = [[c[i][i + k] for i in range(n) if 0 <= i + k < n] for k in range(-n + 1, n)]
    columns = [[c[i][j] for i in range(n)] for j in range(n)]
    lag = sum((j - i) * c[i][j] for i in range(n) for j in range(n))
    return [
        rec,
        100 / count * on_lines(diagonals),
        100 / (2 * count) * (on_lines(c) + on_lines(columns)),
        100 / ((n - 1) * count) * lag,
    ]


def random_pairs(seed: int, n_pairs: int, n_steps: int, size: int = 5) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Paths on a coarse lattice of 30 px, so that lines of all lengths and exact ties with the radius occur."""
    rng = np.random.default_rng(seed)
    out = []
    for steps in (n_steps, n_steps + 3):
        xy = rng.integers(0, size, (n_pairs, steps, 2)) * 30.0
        stay = rng.random((n_pairs, steps)) < 0.3
        for t in range(1, steps):
            xy[stay[:, t], t] = xy[stay[:, t], t - 1]
        valid = np.arange(steps) < rng.integers(0, steps + 1, n_pairs)[:, None]
        xy[~valid] = rng.choice([NAN, 1e9, 0.0])
        out += [torch.from_numpy(xy), torch.from_numpy(valid)]
    shared = min(n_steps, 4)  # some pairs have a part in common, which makes diagonals
    out[2][: n_pairs // 2, :shared] = out[0][: n_pairs // 2, :shared].where(out[1][: n_pairs // 2, :shared, None], 0.0)
    return tuple(out)


def stacked(r: Recurrence) -> np.ndarray:
    return torch.stack(list(r), -1).numpy()


@pytest.mark.parametrize(("radius", "length"), [(30.0, 2), (0.0, 3), (45.0, 4), (60.0, 7), (31.0, 50)])
def test_oracle(radius, length):
    parameters = {"radius_px": radius, "min_line_fixations": length}
    a, av, b, bv = random_pairs(int(radius), 400, 11)
    got = stacked(cross_recurrence(a, av, b, bv, **parameters))
    want = [oracle(p[k].numpy(), q[m].numpy(), radius, length, False) for p, k, q, m in zip(a, av, b, bv, strict=True)]
    np.testing.assert_allclose(got, want, **EXACT)
    alone = stacked(self_recurrence(a, av, **parameters))
    want = [oracle(p[k].numpy(), p[k].numpy(), radius, length, True) for p, k in zip(a, av, strict=True)]
    np.testing.assert_allclose(alone, want, **EXACT)
    assert np.isnan(got).any()
    if length < 7:
        assert (got[:, 1] > 0).any()
        assert (alone[:, 2] > 0).any()


@needs_osie
def test_oracle_on_real_scanpaths():
    from gazekit.datasets import PartialDataWarning, load

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PartialDataWarning)
        table = load("osie", root=REAL_DATA).fixations
    names = table["stimulus"].drop_duplicates()[:6]
    table = table[table["stimulus"].isin(names)]
    paths = [g[["x_px", "y_px"]].to_numpy() for _, g in table.groupby("trial", sort=False)]
    n = max(map(len, paths))
    xy = torch.tensor(np.stack([np.pad(p, ((0, n - len(p)), (0, 0))) for p in paths]))
    valid = torch.tensor(np.arange(n) < np.array([[len(p)] for p in paths]))
    other = torch.arange(len(paths)).roll(1)  # mostly another subject on the same image
    got = stacked(cross_recurrence(xy, valid, xy[other], valid[other], radius_px=48.0))
    want = [oracle(paths[i], paths[j], 48.0, 2, False) for i, j in enumerate(other.tolist())]
    np.testing.assert_allclose(got, want, **EXACT)
    assert 5 < np.nanmean(got[:, 0]) < 60
    alone = stacked(self_recurrence(xy, valid, radius_px=48.0))
    np.testing.assert_allclose(alone, [oracle(p, p, 48.0, 2, True) for p in paths], **EXACT)


def test_symmetry_and_identity():
    a, av, b, bv = random_pairs(1, 300, 9)
    one, two = (stacked(cross_recurrence(*p, radius_px=30)) for p in ((a, av, b, bv), (b, bv, a, av)))
    np.testing.assert_allclose(one * [1, 1, 1, -1], two, **EXACT)
    itself = cross_recurrence(a, av, a, av, radius_px=30)
    long = av.sum(1) >= 2
    assert (itself.det[long] > 0).all()
    # As many points before as behind the diagonal.
    torch.testing.assert_close(itself.corm[long], torch.zeros(int(long.sum())).double(), rtol=0, atol=1e-12)
    far = torch.arange(8.0)[None, :, None].expand(1, 8, 2) * 1000
    valid = torch.ones(1, 8, dtype=torch.bool)
    assert [m.item() for m in cross_recurrence(far, valid, far, valid)] == [12.5, 100, 0, 0]
    # Reversed: the same places, no longer in the same order.
    assert cross_recurrence(far, valid, far.flip(1), valid).det.item() == 0


def test_invariance():
    a, av, b, bv = random_pairs(2, 200, 9)
    want = stacked(cross_recurrence(a, av, b, bv, radius_px=30))
    np.testing.assert_array_equal(stacked(cross_recurrence(a + 64, av, b + 64, bv, radius_px=30)), want)
    np.testing.assert_array_equal(stacked(cross_recurrence(a.flip(-1), av, b.flip(-1), bv, radius_px=30)), want)
    np.testing.assert_array_equal(stacked(cross_recurrence(a * 4, av, b * 4, bv, radius_px=120)), want)


def test_batch_padding_and_precision():
    a, av, b, bv = random_pairs(3, 120, 9)
    want = stacked(cross_recurrence(a, av, b, bv, radius_px=30))
    for i in range(len(a)):
        one = cross_recurrence(a[i : i + 1, av[i]], av[i : i + 1, av[i]], b[i : i + 1], bv[i : i + 1], radius_px=30)
        np.testing.assert_array_equal(stacked(one)[0], want[i])
    single = cross_recurrence(a.float(), av, b.float(), bv, radius_px=30)
    assert single.rec.dtype == torch.float32
    # The coordinates are exact in float32 and counting is done in float64: only the result is rounded.
    np.testing.assert_array_equal(stacked(single), want.astype(np.float32))
    whole = cross_recurrence(a.nan_to_num(0).long(), av, b.nan_to_num(0).long(), bv, radius_px=30)
    np.testing.assert_array_equal(stacked(whole), want)
    assert whole.rec.dtype == torch.float64


def test_noise_degrades():
    rng = np.random.default_rng(4)
    a = torch.from_numpy(rng.random((400, 10, 2)) * [800, 600])
    valid = torch.ones(400, 10, dtype=torch.bool)
    noisy = [a + torch.from_numpy(rng.normal(0, s, a.shape)) for s in (1, 40, 80, 160)]
    scores = [cross_recurrence(a, valid, b, valid, radius_px=50) for b in noisy]
    assert (torch.stack([s.rec.mean() for s in scores]).diff() < 0).all()
    assert (torch.stack([s.det.nanmean() for s in scores]).diff() < 0).all()


def test_edge_cases():
    nothing, single, pair = path(), path((1, 2)), path((1, 2), (1, 2))
    for short in (nothing, single):
        for other in (nothing, single, pair):
            assert stacked(cross_recurrence(*short, *other)).shape == (1, 4)
            assert np.isnan(stacked(cross_recurrence(*short, *other))).all()
            assert np.isnan(stacked(cross_recurrence(*other, *short))).all()
        assert np.isnan(stacked(self_recurrence(*short))).all()
    np.testing.assert_array_equal(stacked(cross_recurrence(*pair, *pair)), [[100, 50, 100, 0]])
    np.testing.assert_array_equal(stacked(self_recurrence(*pair)), [[100, 0, 0, 100]])
    apart = cross_recurrence(*pair, *path((900, 2), (900, 2)))
    assert apart.rec.item() == 0
    assert np.isnan(stacked(apart)[0, 1:]).all()
    same, valid = torch.full((2, 1000, 2), 7.0), torch.ones(2, 1000, dtype=torch.bool)
    got = stacked(cross_recurrence(same, valid, same, valid))
    # All points but the two corners of the outermost diagonals, which have length 1.
    np.testing.assert_allclose(got, [[100, 100 * (1 - 2 / 1e6), 100, 0]] * 2, rtol=1e-7, atol=1e-6)
    assert self_recurrence(same, valid).rec.tolist() == [100, 100]
    assert cross_recurrence(same[:0], valid[:0], same[:0], valid[:0]).det.shape == (0,)


def test_classes():
    a, av, b, bv = random_pairs(5, 90, 9)
    for metric, arguments, function in (
        (CrossRecurrence(radius_px=30), (a, av, b, bv), cross_recurrence),
        (SelfRecurrence(radius_px=30), (a, av), self_recurrence),
    ):
        metric.update(*(t[:20] for t in arguments))
        metric.update(*(t[20:] for t in arguments))
        scores = stacked(function(*arguments, radius_px=30))
        np.testing.assert_allclose(torch.stack(list(metric.compute())), np.nanmean(scores, 0), **EXACT)
        assert metric.n_valid.tolist() == (~np.isnan(scores)).sum(0).tolist()
        assert int(metric.n_total) == 90 > int(metric.n_valid[0]) > int(metric.n_valid[1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"radius_px": -1.0}, "radius_px must be 0 or more"),
        ({"radius_px": NAN}, "radius_px must be 0 or more"),
        ({"min_line_fixations": 1}, "integer of 2 or more"),
        ({"min_line_fixations": 2.5}, "integer of 2 or more"),
    ],
)
def test_parameter_errors(change, message):
    for call in (
        lambda: cross_recurrence(*F, *F, **change),
        lambda: self_recurrence(*F, **change),
        lambda: CrossRecurrence(**change),
    ):
        with pytest.raises(InputError, match=message):
            call()


def test_path_errors():
    xy, valid = F
    with pytest.raises(InputError, match="pair 0, fixation 0"):
        cross_recurrence(xy, valid, xy * NAN, valid)
    with pytest.raises(InputError, match="gap"):
        self_recurrence(xy, torch.tensor([[True, False, True, True]]))
    with pytest.raises(InputError, match="expected"):
        cross_recurrence(xy, valid, xy[0], valid)
