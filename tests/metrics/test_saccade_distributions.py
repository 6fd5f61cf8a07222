"""Saccade distributions: golden numbers, SciPy and exact matchings as oracles, laws, edge cases and errors."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import jensenshannon
from scipy.stats import wasserstein_distance
from torch import Tensor

from gazekit.errors import InputError
from gazekit.metrics.saccade_distributions import (
    AmplitudeDivergence,
    AmplitudeWasserstein,
    DirectionDivergence,
    DirectionWasserstein,
    amplitude_histogram,
    circular_wasserstein_deg,
    direction_histogram,
    js_divergence,
    saccades,
    wasserstein,
)
from tests.conftest import REAL_DATA, needs_osie

NAN, INF = float("nan"), float("inf")


def t(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def path(*xy: tuple[float, float]) -> tuple[Tensor, Tensor]:
    return torch.tensor([xy], dtype=torch.float64).reshape(1, -1, 2), torch.ones(1, len(xy), dtype=torch.bool)


def test_directions_go_up():
    """Right, up (y falls), left, down; then there and back."""
    s = saccades(*path((0, 0), (6, 0), (6, -8), (-4, -8), (-4, -6)), px_per_dva=2.0)
    assert s.amplitude_dva.tolist() == [3, 4, 5, 1]
    assert s.direction_deg.tolist() == [0, 90, 180, -90]
    assert s.turn_deg.tolist() == [90, 90, 90]
    back = saccades(*path((0, 0), (3, -3), (1, -1), (2, -2)), px_per_dva=1.0)
    assert back.direction_deg.tolist() == pytest.approx([45, -135, 45], abs=1e-12)
    assert [abs(turn) for turn in back.turn_deg.tolist()] == pytest.approx([180, 180], abs=1e-12)
    forward = saccades(*path((0, 0), (-3, 1e-9), (-6, 0)), px_per_dva=1.0)  # across +-180 degrees
    assert forward.turn_deg.tolist() == pytest.approx([0], abs=1e-6)


def test_saccades_of_no_length_have_no_direction():
    s = saccades(*path((0, 0), (3, 0), (3, 0), (3, 5), (3, 9)), px_per_dva=1.0)
    assert s.amplitude_dva.tolist() == [3, 0, 5, 4]
    assert s.direction_deg.tolist() == [0, -90, -90]
    assert s.turn_deg.tolist() == [0]  # no turn into or out of the one without a direction


def test_oracle_of_saccades():
    rng = np.random.default_rng(0)
    xy = rng.integers(0, [40, 30], (200, 8, 2)).astype(float)
    xy[:, 3] = xy[:, 2].copy()
    lengths, scale = rng.integers(0, 9, 200), rng.uniform(10, 40, 200)
    valid = np.arange(8) < lengths[:, None]
    xy[~valid] = NAN
    for skip in (False, True):
        amplitude, direction, turn = [], [], []
        for p, n, px in zip(xy, lengths, scale, strict=True):
            before = None
            for k in range(1 + skip, n):
                dx, dy = p[k] - p[k - 1]
                amplitude.append(math.hypot(dx, dy) / px)
                here = math.degrees(math.atan2(0.0 - dy, dx)) if dx or dy else None
                if here is not None:
                    direction.append(here)
                    if before is not None:
                        turn.append((here - before + 180) % 360 - 180)
                before = here
        got = saccades(
            torch.from_numpy(xy), torch.from_numpy(valid), px_per_dva=torch.from_numpy(scale), skip_first_saccade=skip
        )
        # atan2 and hypot of two libraries may differ in the last digits of some hundreds.
        np.testing.assert_allclose(got.amplitude_dva, amplitude, rtol=1e-13)
        np.testing.assert_allclose(got.direction_deg % 360, np.mod(direction, 360), atol=1e-11)
        np.testing.assert_allclose(np.cos(np.radians(got.turn_deg.numpy() - turn)), 1, atol=1e-12)
        single = saccades(
            torch.from_numpy(xy).float(), torch.from_numpy(valid), px_per_dva=30.0, skip_first_saccade=skip
        )
        assert single.direction_deg.dtype == torch.float32
        # 1e-7 of 180 degrees.
        np.testing.assert_allclose(single.direction_deg, direction, atol=3e-5)


def test_golden():
    assert wasserstein(t(1, 2), t(2, 3)).item() == 1
    same = torch.tensor([3, 0, 5])
    assert js_divergence(same, 7 * same).item() == 0
    # Apart from the smoothing: 1e-9 per bin, times log2(1e9) = 30.
    assert js_divergence(torch.tensor([1, 0]), torch.tensor([0, 4])).item() == pytest.approx(1, abs=1e-7)
    assert js_divergence(torch.tensor([1, 0]), torch.tensor([0, 4]), smoothing=0.0).item() == 1
    a, b = t(1.0, 2.0), t(9.0, 9.5)
    assert js_divergence(amplitude_histogram(a), amplitude_histogram(b)).item() == pytest.approx(1, abs=3e-6)
    # By hand: p = (1, 0), q = (1/2, 1/2), m = (3/4, 1/4).
    want = 0.5 * math.log2(4 / 3) + 0.5 * (0.5 * math.log2(2 / 3) + 0.5 * math.log2(2))
    assert js_divergence(torch.tensor([1, 0]), torch.tensor([1, 1]), smoothing=0.0).item() == pytest.approx(want)


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ((0,), (350,), 10),
        ((0,), (180,), 180),
        ((-179,), (179,), 2),
        ((0, 180), (90, 270), 90),
        ((10, 20), (20, 370), 0),
    ],
)
def test_golden_circle(a, b, expected):
    assert circular_wasserstein_deg(t(*a), t(*b)).item() == pytest.approx(expected, abs=1e-12)


def test_amplitude_bins():
    got = amplitude_histogram(t(0, 0.49, 0.5, 0.99, 1.0, 29.99, 30, 500))
    assert len(got) == 60
    assert (got[:3].tolist(), got[59].item(), int(got.sum())) == ([2, 2, 1], 3, 8)
    assert amplitude_histogram(t(0.3, 0.6, 0.7), bin_dva=0.1, max_dva=1.0).nonzero().flatten().tolist() == [3, 6, 7]
    assert amplitude_histogram(t()).tolist() == [0] * 60
    values = np.random.default_rng(0).gamma(2, 3, 5000)
    want = np.histogram(np.minimum(values, 29.9), np.arange(61) * 0.5)[0]
    assert amplitude_histogram(torch.from_numpy(values)).tolist() == want.tolist()


def test_direction_bins():
    around = torch.arange(-36, 72) * 10.0
    for jitter in (-4.9, 0.0, 4.9):  # the middle of each bin is a multiple of 10 degrees
        assert direction_histogram(around + jitter).tolist() == [3] * 36
        assert direction_histogram(t(0) + jitter)[0] == 1
        assert direction_histogram(t(-180, 180) + jitter)[18] == 2
    assert direction_histogram(t(-1e-17))[0] == 1
    # A mirror image moves counts from bin to bin.
    values = torch.from_numpy(np.random.default_rng(1).uniform(-180, 180, 500))
    assert direction_histogram(-values).tolist() == direction_histogram(values)[[0, *range(35, 0, -1)]].tolist()


def test_js_oracle():
    rng = np.random.default_rng(2)
    p, q = rng.integers(0, 9, (2, 300, 36)) * rng.integers(0, 2, (2, 300, 36))
    p[:, 0], q[:, 5] = 1, 1
    want = jensenshannon(p + 0.0, q + 0.0, base=2, axis=1) ** 2
    got = js_divergence(torch.from_numpy(p), torch.from_numpy(q), smoothing=0.0)
    np.testing.assert_allclose(got, want, atol=1e-14)
    smooth = [h / h.sum(1, keepdims=True) + 1e-9 for h in (p, q)]
    want = jensenshannon(*smooth, base=2, axis=1) ** 2
    np.testing.assert_allclose(js_divergence(torch.from_numpy(p), torch.from_numpy(q)), want, atol=1e-14)
    swapped = js_divergence(torch.from_numpy(q), torch.from_numpy(p), smoothing=0.0)
    torch.testing.assert_close(swapped, got, rtol=0, atol=1e-15)
    assert ((got > 0) & (got <= 1)).all()


def samples(rng: np.random.Generator, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """Two samples of different size, with ties within and between them."""
    n, m = rng.integers(1, 13, 2)
    return tuple(np.round(rng.normal(0, scale, k)) for k in (n, m))


def test_wasserstein_oracle():
    rng = np.random.default_rng(3)
    for _ in range(500):
        a, b = samples(rng, 6)
        got = wasserstein(torch.from_numpy(a), torch.from_numpy(b)).item()
        assert got == pytest.approx(wasserstein_distance(a, b), abs=1e-12)
        assert wasserstein(torch.from_numpy(b), torch.from_numpy(a)).item() == pytest.approx(got, abs=1e-12)


def test_circular_wasserstein_oracle():
    """The cheapest matching of the samples, each repeated until they have the same size."""
    rng = np.random.default_rng(4)
    for scale in (20, 100, 400):
        for _ in range(100):
            a, b = samples(rng, scale)
            size = math.lcm(len(a), len(b))
            gap = np.abs(np.repeat(a, size // len(a))[:, None] - np.repeat(b, size // len(b))) % 360
            cost = np.minimum(gap, 360 - gap)
            want = cost[linear_sum_assignment(cost)].mean()
            x, y = torch.from_numpy(a), torch.from_numpy(b)
            got = circular_wasserstein_deg(x, y).item()
            assert got == pytest.approx(want, abs=1e-10)
            # Either order, any full turns, and both turned by the same angle.
            assert circular_wasserstein_deg(y, x).item() == pytest.approx(want, abs=1e-10)
            assert circular_wasserstein_deg(x + 720, y - 360).item() == pytest.approx(want, abs=1e-10)
            assert circular_wasserstein_deg(x + 77.7, y + 77.7).item() == pytest.approx(want, abs=1e-10)
            assert got <= wasserstein(x.remainder(360), y.remainder(360)).item() + 1e-10


def test_laws_of_samples():
    rng = np.random.default_rng(5)
    a, b = (torch.from_numpy(rng.gamma(2, 3, n)) for n in (4000, 3000))
    order = torch.from_numpy(rng.permutation(4000))
    for distance in (wasserstein, circular_wasserstein_deg):
        assert distance(a, a[order]).item() == pytest.approx(0, abs=1e-12)
        assert distance(a[order], b) == distance(a, b)
        assert distance(a.repeat(3), b).item() == pytest.approx(distance(a, b).item(), abs=1e-12)
        shifted = [distance(a, a + shift).item() for shift in (1.0, 5.0, 20.0)]
        assert shifted == pytest.approx([1, 5, 20], abs=1e-9)
        # float32 rounds the values to 1e-6.
        assert distance(a.float(), b.float()).item() == pytest.approx(distance(a, b).item(), abs=1e-5)
        assert distance(a.float(), b.float()).dtype == torch.float64
        assert distance((a * 10).long(), (b * 10).long()).item() >= 0
    assert wasserstein(2 * a, 2 * b).item() == pytest.approx(2 * wasserstein(a, b).item(), abs=1e-12)


def test_noise_degrades():
    rng = np.random.default_rng(6)
    xy = np.cumsum(rng.gamma(2, 20, (300, 8, 2)), 1)
    valid = torch.ones(300, 8, dtype=torch.bool)
    human = saccades(torch.from_numpy(xy), valid, px_per_dva=30.0)
    scores = []
    for sigma_px in (5, 25, 60, 150):
        model = saccades(torch.from_numpy(xy + rng.normal(0, sigma_px, xy.shape)), valid, px_per_dva=30.0)
        scores.append(
            [
                js_divergence(amplitude_histogram(model.amplitude_dva), amplitude_histogram(human.amplitude_dva)),
                js_divergence(direction_histogram(model.direction_deg), direction_histogram(human.direction_deg)),
                js_divergence(direction_histogram(model.turn_deg), direction_histogram(human.turn_deg)),
                wasserstein(model.amplitude_dva, human.amplitude_dva),
                circular_wasserstein_deg(model.direction_deg, human.direction_deg),
            ]
        )
    assert (torch.tensor(scores).diff(dim=0) > 0).all()


def test_edge_cases():
    assert wasserstein(t(), t(1)).isnan()
    assert circular_wasserstein_deg(t(1), t()).isnan()
    assert js_divergence(torch.zeros(4), torch.ones(4)).isnan()
    assert js_divergence(torch.ones(2, 4), torch.ones(2, 4)).shape == (2,)
    for short in (path(), path((1, 2))):
        assert [len(part) for part in saccades(*short, px_per_dva=1.0)] == [0, 0, 0]
    two = path((0, 0), (3, 4))
    assert [len(part) for part in saccades(*two, px_per_dva=1.0)] == [1, 1, 0]
    assert [len(part) for part in saccades(*two, px_per_dva=1.0, skip_first_saccade=True)] == [0, 0, 0]
    same = torch.ones(1, 1000, 2), torch.ones(1, 1000, dtype=torch.bool)
    assert [len(part) for part in saccades(*same, px_per_dva=1.0)] == [999, 0, 0]
    assert [len(part) for part in saccades(same[0][:0], same[1][:0], px_per_dva=1.0)] == [0, 0, 0]


def test_classes():
    rng = np.random.default_rng(7)
    model, human = (torch.from_numpy(rng.gamma(2, 90, (40, 9, 2))) for _ in range(2))
    valid = torch.from_numpy(np.arange(9) < rng.integers(0, 10, 40)[:, None])
    for skip in (False, True):
        m, h = (saccades(xy, valid, px_per_dva=24.0, skip_first_saccade=skip) for xy in (model, human))
        want = {
            AmplitudeDivergence(skip_first_saccade=skip): js_divergence(
                amplitude_histogram(m.amplitude_dva), amplitude_histogram(h.amplitude_dva)
            ),
            AmplitudeWasserstein(skip_first_saccade=skip): wasserstein(m.amplitude_dva, h.amplitude_dva),
        }
        for relative, pair in ((False, (m.direction_deg, h.direction_deg)), (True, (m.turn_deg, h.turn_deg))):
            divergence = js_divergence(*map(direction_histogram, pair))
            want[DirectionDivergence(relative=relative, skip_first_saccade=skip)] = divergence
            distance = circular_wasserstein_deg(*pair)
            want[DirectionWasserstein(relative=relative, skip_first_saccade=skip)] = distance
        for metric, score in want.items():
            scale = {"px_per_dva": 24.0} if isinstance(metric, AmplitudeDivergence | AmplitudeWasserstein) else {}
            for part in (slice(0, 13), slice(13, None)):
                metric.update(human[part], valid[part], human=True, **scale)
                metric.update(model[part], valid[part], human=False, **scale)
            # Directions do not know the scale: dividing by it may round the last digit.
            torch.testing.assert_close(metric.compute(), score, rtol=1e-12, atol=0)
            assert metric.higher_is_better is False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # computed before it was updated
        assert AmplitudeWasserstein().compute().isnan()
        assert DirectionDivergence().compute().isnan()


@needs_osie
def test_real_saccades():
    """Two halves of the people differ little; places in random order differ from people."""
    from gazekit.datasets import PartialDataWarning, load

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PartialDataWarning)
        table = load("osie", root=REAL_DATA).fixations
    table = table[table["stimulus"].isin(table["stimulus"].drop_duplicates()[:40])]
    paths = [g[["x_px", "y_px"]].to_numpy() for _, g in table.groupby("trial", sort=False)]
    n = max(map(len, paths))
    xy = torch.tensor(np.stack([np.pad(p, ((0, n - len(p)), (0, 0))) for p in paths]))
    valid = torch.tensor(np.arange(n) < np.array([[len(p)] for p in paths]))
    rng = np.random.default_rng(0)
    mixed = torch.tensor(np.stack([np.pad(rng.permutation(p), ((0, n - len(p)), (0, 0))) for p in paths]))
    odd, even = (saccades(xy[k::2], valid[k::2], px_per_dva=24.0) for k in (0, 1))
    random = saccades(mixed[::2], valid[::2], px_per_dva=24.0)
    assert 3 < even.amplitude_dva.median() < 8
    assert wasserstein(odd.amplitude_dva, even.amplitude_dva) < wasserstein(random.amplitude_dva, even.amplitude_dva)
    for histogram, part in ((amplitude_histogram, 0), (direction_histogram, 2)):
        people = js_divergence(histogram(odd[part]), histogram(even[part]))
        assert people < js_divergence(histogram(random[part]), histogram(even[part])) < 0.2
    assert wasserstein(odd.amplitude_dva, even.amplitude_dva).item() == pytest.approx(
        wasserstein_distance(odd.amplitude_dva, even.amplitude_dva), abs=1e-12
    )


P = path((0, 0), (3, 4))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: saccades(P[0] * INF, P[1], px_per_dva=1.0), "trial 0, fixation 0"),
        (lambda: saccades(P[0], P[1].long(), px_per_dva=1.0), "valid must be"),
        (lambda: saccades(*P, px_per_dva=0.0), "px_per_dva must be positive"),
        (lambda: saccades(*P, px_per_dva=NAN), "px_per_dva must be positive"),
        (lambda: saccades(*P, px_per_dva=t(1, 2)), "for each of 1 trials"),
        (lambda: amplitude_histogram(t(-1)), "amplitudes are 0 or more"),
        (lambda: amplitude_histogram(t(NAN)), "amplitude_dva holds NaN or infinity at 0"),
        (lambda: amplitude_histogram(t(1), bin_dva=0.7), "max_dva must be a multiple"),
        (lambda: AmplitudeDivergence(bin_dva=0.0), "max_dva must be a multiple"),
        (lambda: direction_histogram(t(1), n_bins=1), "n_bins must be 2"),
        (lambda: direction_histogram(t(1)[None]), "1-D sample"),
        (lambda: js_divergence(torch.ones(3), torch.ones(4)), "use the same bins"),
        (lambda: js_divergence(torch.ones(3), torch.ones(3), smoothing=-1.0), "smoothing of 0 or more"),
        (lambda: js_divergence(torch.ones(3), -torch.ones(3)), "negative count"),
        (lambda: wasserstein(t(1, INF), t(1)), "a holds NaN or infinity at 1"),
        (lambda: circular_wasserstein_deg(t(1), t(NAN)), "b_deg holds NaN"),
    ],
)
def test_errors(call, message):
    with pytest.raises(InputError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
