"""MultiMatch against its published implementation, a slow copy of its definition, and its laws."""

from __future__ import annotations

import copy
import math
import warnings
from functools import lru_cache

import numpy as np
import pytest
import torch

from gazekit.errors import InputError
from gazekit.metrics.multimatch import DIMENSIONS, MultiMatch, Simplification, multimatch, multimatch_average
from gazekit.metrics.path_pairs import Paths, pairwise, prefix
from tests.conftest import REAL_DATA, needs_osie

# Both sides are float64 and differ in rounding only: 1 - median / scale is good to a few units of 2.2e-16.
EXACT = {"rtol": 0, "atol": 1e-13}
SCREEN = (800.0, 600.0)
LITERATURE = {"TDir": 45.0, "TDur": 0.3, "TAmp": 100.0}


def one_path(*fixations: tuple[float, float, float]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    table = torch.tensor(fixations, dtype=torch.float64).reshape(1, -1, 3)
    return table[..., :2], torch.ones(table.shape[:2], dtype=torch.bool), table[..., 2]


def score(a, b, **parameters):
    return multimatch(a[0], a[1], b[0], b[1], a[2], b[2], **{"size_wh_px": SCREEN, **parameters})


A = one_path((0, 0, 0.2), (3, 4, 0.3), (6, 8, 0.2))
B = one_path((0, 0, 0.2), (4, 3, 0.4), (8, 6, 0.2))
A_REVERSED = one_path((6, 8, 0.2), (3, 4, 0.3), (0, 0, 0.2))
C = one_path((0, 0, 0.2), (10, 0, 0.3), (10, 10, 0.4), (0, 10, 0.2))
D = one_path((0, 0, 0.1), (10, 0, 0.3), (20, 0, 0.2))


@pytest.mark.parametrize(
    ("a", "b", "screen", "want"),
    [
        (A, B, (30, 40), [0.9858579, 0.9096655, 1, 0.9858579, 0.875]),
        (A, A, (30, 40), [1, 1, 1, 1, 1]),
        (A, A_REVERSED, (30, 40), [0.9, 0, 1, 0.9, 1]),
        (C, D, (60, 80), [0.9292893, 0.5, 1, 1, 0.75]),
        (D, C, (60, 80), [0.9292893, 0.5, 1, 1, 0.75]),
    ],
)
def test_golden(a, b, screen, want):
    # The numbers are given with 7 digits.
    np.testing.assert_allclose(score(a, b, size_wh_px=screen)[0], want, rtol=0, atol=6e-8)


def wandering(seed: int, n_pairs: int, size: int = 14, lowest: int = 0):
    """Continuous random pairs with short and long saccades and fixations, so that some merge and some do not."""
    rng = np.random.default_rng(seed)
    sides = []
    for _ in range(2):
        n = rng.integers(lowest, size + 1, n_pairs)
        stride = rng.normal(0, 1, (n_pairs, size, 2)) * rng.choice([15, 60, 200], (n_pairs, size, 1))
        px = np.array(SCREEN) / 2 + np.cumsum(stride, 1) * 0.5
        seconds = rng.uniform(0.02, 0.7, (n_pairs, size))
        sides.append((torch.tensor(px), prefix(torch.tensor(n), size), torch.tensor(seconds)))
    return sides


def record(path, row: int):
    px, valid, seconds = (t[row] for t in path)
    px, seconds = px[valid].numpy(), seconds[valid].numpy()
    return np.rec.fromarrays([px[:, 0], px[:, 1], seconds], names="start_x,start_y,duration")


def published(a, b, row: int, screen: tuple[float, float], simplified: bool) -> list[float] | None:
    """What multimatch-gaze makes of a pair; None where it cannot cope.

    It stops at a lone short saccade, and where rounding puts a cosine above 1.
    """
    compare = pytest.importorskip("multimatch_gaze").docomparison
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            found = compare(record(a, row), record(b, row), list(screen), grouping=simplified, **LITERATURE)
        except (IndexError, ValueError):
            return None
    return [float(np.squeeze(value)) for value in found]


def compare_with_published(a, b, simplified: bool, at_most_broken: float):
    how = Simplification(amplitude_px=LITERATURE["TAmp"]) if simplified else None
    got = score(a, b, simplify=how).numpy()
    want = [published(a, b, row, SCREEN, simplified) for row in range(len(got))]
    known = np.array([w is not None for w in want])
    assert (~known).sum() <= at_most_broken * len(got)
    np.testing.assert_allclose(got[known], [w for w in want if w is not None], **EXACT)
    return got[known]


@pytest.mark.parametrize("simplified", [False, True])
def test_published_implementation_on_random_pairs(simplified):
    # Of paths with 0 ... 14 fixations, those of 3 ... 5 often shrink to one saccade.
    a, b = wandering(0, 2000)
    got = compare_with_published(a, b, simplified, at_most_broken=0.3 if simplified else 0)
    short = (a[1].sum(1) < 3) | (b[1].sum(1) < 3)
    assert np.isnan(got).any(1).sum() == np.isnan(got).all(1).sum() == short.sum() > 300


@lru_cache
def osie_pairs(n_pairs: int):
    from gazekit.datasets import PartialDataWarning, load

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PartialDataWarning)
        table = load("osie", root=REAL_DATA).fixations
    names = table["stimulus"].drop_duplicates()[:40]
    groups = [g for _, g in table[table["stimulus"].isin(names)].groupby("trial", sort=False)]
    longest = max(map(len, groups))
    columns = np.stack([np.pad(g[["x_px", "y_px", "duration_s"]], ((0, longest - len(g)), (0, 0))) for g in groups])
    path = torch.tensor(columns)
    valid = prefix(torch.tensor([len(g) for g in groups]), longest)
    by_image = torch.arange(len(groups)).reshape(-1, 15)
    i, j = torch.triu_indices(15, 15, 1)
    i, j = by_image[:, i].flatten(), by_image[:, j].flatten()
    picked = torch.randperm(len(i), generator=torch.Generator().manual_seed(0))[:n_pairs]
    return [(path[k, :, :2], valid[k], path[k, :, 2]) for k in (i[picked], j[picked])]


@needs_osie
@pytest.mark.parametrize("simplified", [False, True])
def test_published_implementation_on_real_pairs(simplified):
    got = compare_with_published(*osie_pairs(1000), simplified, at_most_broken=0.05 if simplified else 0)
    # The means over all 58,800 pairs of the 560 images, give or take the sample.
    want = [0.868, 0.686, 0.886, 0.833, 0.614] if simplified else [0.941, 0.697, 0.929, 0.854, 0.619]
    np.testing.assert_allclose(np.nanmean(got, 0), want, atol=0.02)


def saccades(path, row: int):
    """(vector, start, duration) of each, and the last duration, in plain Python."""
    px, valid, seconds = (t[row] for t in path)
    fixations = [tuple(p) for p in px[valid].tolist()]
    seconds = seconds[valid].tolist()
    steps = [
        ((q[0] - p[0], q[1] - p[1]), p, s) for p, q, s in zip(fixations[:-1], fixations[1:], seconds[:-1], strict=True)
    ]
    return steps, seconds[-1]


def add(one, two):
    return (one[0][0] + two[0][0], one[0][1] + two[0][1])


def angle_deg(one, two):
    turn = abs(math.atan2(one[1], one[0]) - math.atan2(two[1], two[0]))
    if one == (0, 0) or two == (0, 0):
        return 0.0
    return math.degrees(min(turn, 2 * math.pi - turn))


def simplified_slowly(steps, last, direction_deg: float, amplitude_px: float, duration_s: float):
    """The passes of the definition, one saccade after the other."""
    n_fixations = len(steps) + 1
    while True:
        out, i = [], 0
        while i < len(steps):
            if (
                i + 1 < len(steps)
                and angle_deg(steps[i][0], steps[i + 1][0]) < direction_deg
                and steps[i + 1][2] < duration_s
            ):
                out.append((add(steps[i], steps[i + 1]), *steps[i][1:]))
                i += 2
            else:
                out.append(steps[i])
                i += 1
        steps, out, i, spare = out, [], 0, 0
        while i < len(steps):
            end = steps[i + 1][2] if i + 1 < len(steps) else last
            small = math.hypot(*steps[i][0]) < amplitude_px and (steps[i][2] < duration_s or end < duration_s)
            if small and i + 1 < len(steps):
                out.append((add(steps[i], steps[i + 1]), *steps[i][1:]))
                i += 2
            elif small and len(steps) > 1:
                out[-1] = (add(steps[i - 1], steps[i]), *out[-1][1:])
                i, spare = i + 1, 1
            else:
                out.append(steps[i])
                i += 1
        steps = out
        if len(steps) + 1 + spare == n_fixations:
            return steps
        n_fixations = len(steps) + 1 + spare


def slowly(a, b, row: int, simplify: Simplification | None):
    """The definition for one pair, in plain Python, with the alignment by recursion from the start."""
    sides = []
    for path in (a, b):
        if path[1][row].sum() < 3:
            return [math.nan] * 5
        steps, last = saccades(path, row)
        if simplify is not None:
            steps = simplified_slowly(steps, last, simplify.direction_deg, simplify.amplitude_px, simplify.duration_s)
        sides.append(steps)
    u, v = sides
    onward = {}

    def cost(i, j):
        return math.hypot(u[i][0][0] - v[j][0][0], u[i][0][1] - v[j][0][1])

    for i in reversed(range(len(u))):
        for j in reversed(range(len(v))):
            moves = [(i + di, j + dj) for di, dj in ((1, 1), (0, 1), (1, 0)) if i + di < len(u) and j + dj < len(v)]
            options = [(cost(*to) + onward[to][0], to) for to in moves]
            onward[i, j] = min(options, key=lambda option: option[0]) if options else (0.0, None)
    cells = [(0, 0)]
    while onward[cells[-1]][1] is not None:
        cells.append(onward[cells[-1]][1])
    found = []
    for i, j in cells:
        (one, start, lasts), (two, begin, lasted) = u[i], v[j]
        turn = abs(math.atan2(one[1], one[0]) - math.atan2(two[1], two[0]))
        found.append([
            cost(i, j), min(turn, 2 * math.pi - turn), abs(math.hypot(*one) - math.hypot(*two)),
            math.dist(start, begin), abs(lasts - lasted) / max(lasts, lasted) if max(lasts, lasted) else 0.0,
        ])  # fmt: skip
    diagonal = math.hypot(*SCREEN)
    return 1 - np.median(found, 0) / [2 * diagonal, math.pi, diagonal, diagonal, 1]


def on_grid(seed: int, n_pairs: int):
    """Paths on a coarse grid: equal saccades, repeated fixations, straight lines, zero durations."""
    rng = np.random.default_rng(seed)
    return [
        (
            torch.tensor(rng.integers(0, 3, (n_pairs, 7, 2)) * 64.0),
            prefix(torch.tensor(rng.integers(0, 8, n_pairs)), 7),
            torch.tensor(rng.integers(0, 4, (n_pairs, 7)) / 4),
        )
        for _ in range(2)
    ]


@pytest.mark.parametrize(
    "simplify",
    [
        None,
        Simplification(30.0, 70.0, 0.3),
        Simplification(100.0, 0.0, 1.0),
        Simplification(0.0, 100.0, 0.6),
        Simplification(0.0, 64.0, 0.5),
        Simplification(100.0, 0.0, 0.5),
    ],
)
def test_definition_with_ties_and_repeats(simplify):
    """What the published code cannot do, or leaves to chance: ties, lone short saccades, saccades of length 0."""
    a, b = on_grid(1, 400)
    got = score(a, b, simplify=simplify).numpy()
    np.testing.assert_allclose(got, [slowly(a, b, row, simplify) for row in range(400)], rtol=0, atol=1e-12)
    assert np.isfinite(got).all(1).sum() > 100
    a, b = wandering(2, 300)
    got = score(a, b, simplify=simplify).numpy()
    np.testing.assert_allclose(got, [slowly(a, b, row, simplify) for row in range(300)], rtol=0, atol=1e-12)


def test_default_amplitude_is_a_tenth_of_the_diagonal():
    a, b = wandering(3, 50)
    want = score(a, b, simplify=Simplification(amplitude_px=100.0))
    torch.testing.assert_close(score(a, b, simplify=Simplification()), want, equal_nan=True, rtol=0, atol=0)
    assert Simplification() == Simplification(direction_deg=45.0, amplitude_px=None, duration_s=0.3)


def test_identity_range_and_symmetry():
    a, b = wandering(4, 300, lowest=3)
    for simplify in (None, Simplification()):
        assert (score(a, a, simplify=simplify) == 1).all()
        torch.testing.assert_close(score(a, b, simplify=simplify), score(b, a, simplify=simplify), **EXACT)
    same = one_path(*[(5, 5, 0.2)] * 4)
    assert score(same, same).tolist() == [[1.0] * 5]
    inside = [(t[0].clamp(0, 600), *t[1:]) for t in (a, b)]
    assert ((score(*inside) >= 0) & (score(*inside) <= 1)).all()


def test_invariances():
    a, b = wandering(5, 200)
    want = score(a, b)

    def both(change):
        return [(change(p[0]), *p[1:]) for p in (a, b)]

    # Nothing but position knows where a path is, and position only where it is relative to the other.
    torch.testing.assert_close(score(*both(lambda px: px + 512)), want, equal_nan=True, **EXACT)
    scaled = score(*both(lambda px: px * 4), size_wh_px=(4 * SCREEN[0], 4 * SCREEN[1]))
    torch.testing.assert_close(scaled, want, equal_nan=True, **EXACT)
    flipped = score(*both(lambda px: px.flip(-1)))
    torch.testing.assert_close(flipped, want, equal_nan=True, **EXACT)
    moved = score((a[0] + 30, *a[1:]), b)
    torch.testing.assert_close(moved[:, [0, 1, 2, 4]], want[:, [0, 1, 2, 4]], equal_nan=True, **EXACT)
    # Only durations at the start of a saccade count.
    last = prefix(a[1].sum(1), 14) & ~prefix(a[1].sum(1) - 1, 14)
    torch.testing.assert_close(score((*a[:2], a[2].where(~last, 9.0)), b), want, equal_nan=True, rtol=0, atol=0)
    slower = score((*a[:2], a[2] * 2), (*b[:2], b[2] * 2))
    torch.testing.assert_close(slower, want, equal_nan=True, rtol=0, atol=0)


def test_width_is_not_height():
    upright = one_path((0, 0, 0.1), (0, 30, 0.1), (0, 0, 0.1))
    across = one_path((0, 0, 0.1), (30, 0, 0.1), (0, 0, 0.1))
    got = score(upright, across, size_wh_px=(30, 40))[0].tolist()
    # Both saccades differ by a right angle; the first starts at the same place, the second sqrt(2) * 30 px away.
    apart = 30 * math.sqrt(2)
    assert got == pytest.approx([1 - apart / 100, 0.5, 1, 1 - apart / 2 / 50, 1], rel=1e-12)


def test_noise_lowers_every_similarity():
    rng = np.random.default_rng(6)
    a, _ = wandering(6, 300, lowest=5)
    means = []
    for sigma in (0.0, 5.0, 20.0, 80.0, 320.0):
        noise = torch.tensor(rng.normal(0, sigma, a[0].shape))
        seconds = a[2] * torch.tensor(rng.lognormal(0, sigma / 100, a[2].shape))
        means.append(score(a, (a[0] + noise, a[1], seconds)).mean(0))
    assert (torch.stack(means).diff(dim=0) < 0).all()


@pytest.mark.parametrize("simplify", [None, Simplification()])
def test_batch_is_loop_and_padding_does_not_matter(simplify):
    a, b = wandering(7, 120)
    want = score(a, b, simplify=simplify)
    for row in range(120):
        alone = [[t[[row]][:, path[1][row]] for t in path] for path in (a, b)]
        torch.testing.assert_close(score(*alone, simplify=simplify)[0], want[row], equal_nan=True, **EXACT)
    filled = [
        (
            p.masked_fill(~v[..., None], math.nan) if side else p.masked_fill(~v[..., None], 1e9),
            v,
            s.masked_fill(~v, -1.0),
        )
        for side, (p, v, s) in enumerate((a, b))
    ]
    torch.testing.assert_close(score(*filled, simplify=simplify), want, equal_nan=True, rtol=0, atol=0)
    # A path that occurs many times is worked out once; that must not show.
    row = torch.tensor([5, 9, 5, 5, 9, 0])
    again = score([t[row] for t in a], [t[row.flip(0)] for t in b], simplify=simplify)
    single = [
        score([t[[i]] for t in a], [t[[j]] for t in b], simplify=simplify)
        for i, j in zip(row.tolist(), row.flip(0).tolist(), strict=True)
    ]
    torch.testing.assert_close(again, torch.cat(single), equal_nan=True, rtol=0, atol=0)


def test_float32():
    a, b = ([t.float() if t.is_floating_point() else t for t in path] for path in wandering(8, 200))
    got = score(a, b)
    assert got.dtype == torch.float32
    want = score(*([t.double() if t.is_floating_point() else t for t in path] for path in (a, b)))
    # Worked out in float64 from the same numbers: only the result is rounded.
    torch.testing.assert_close(got, want.float(), equal_nan=True, rtol=0, atol=0)
    whole = score(*([t.round().long() if i == 0 else t for i, t in enumerate(path)] for path in (a, b)))
    assert whole.dtype == torch.float32
    assert (
        multimatch(
            *(t.round().long() if t.is_floating_point() else t for t in (*a[:2], *b[:2])), size_wh_px=SCREEN
        ).dtype
        == torch.float64
    )


def test_short_paths():
    a, b = wandering(9, 400, size=5)
    n, m = a[1].sum(1), b[1].sum(1)
    short = (n < 3) | (m < 3)
    got = score(a, b)
    assert got.isnan().all(1).tolist() == got.isnan().any(1).tolist() == short.tolist()
    assert 0 < short.sum() < 400
    padded = score(a, b, short="pad")
    assert padded.isfinite().all()
    torch.testing.assert_close(padded[~short], got[~short], rtol=0, atol=0)
    by_hand = []
    for path in (a, b):
        rows = []
        for row in range(400):
            keep = path[1][row]
            fixations = torch.cat([path[0][row][keep], path[2][row][keep][:, None]], 1)
            missing = max(0, 3 - len(fixations))
            rows.append(torch.cat([fixations, torch.ones(missing, 3, dtype=torch.float64)])[None])
        by_hand.append(rows)
    want = [
        score((p[..., :2], torch.ones(1, p.shape[1], dtype=torch.bool), p[..., 2]),
              (q[..., :2], torch.ones(1, q.shape[1], dtype=torch.bool), q[..., 2]))
        for p, q in zip(*by_hand, strict=True)
    ]  # fmt: skip
    torch.testing.assert_close(padded, torch.cat(want), **EXACT)
    # With both paths empty, two paddings are compared: why this is for compatibility only.
    nothing = torch.zeros(1, 0, 2), torch.zeros(1, 0, dtype=torch.bool), torch.zeros(1, 0)
    assert score(nothing, nothing).isnan().all()
    assert score(nothing, nothing, short="pad").tolist() == [[1.0] * 5]
    assert score([t[:0] for t in a], [t[:0] for t in b]).shape == (0, 5)
    assert score([t[:0] for t in a], [t[:0] for t in b], simplify=Simplification()).shape == (0, 5)


def test_without_durations():
    a, b = wandering(10, 60)
    got = multimatch(*a[:2], *b[:2], size_wh_px=SCREEN)
    assert got[:, 4].isnan().all()
    torch.testing.assert_close(got[:, :4], score(a, b)[:, :4], equal_nan=True, rtol=0, atol=0)


def test_average():
    a, b = wandering(11, 60)
    arguments = (*a[:2], *b[:2], a[2], b[2])
    whole = score(a, b)
    four = multimatch_average(*arguments, size_wh_px=SCREEN)
    torch.testing.assert_close(four, whole[:, :4].mean(1), equal_nan=True, **EXACT)
    torch.testing.assert_close(multimatch_average(*arguments[:4], size_wh_px=SCREEN), four, equal_nan=True, **EXACT)
    five = multimatch_average(*arguments, size_wh_px=SCREEN, dimensions=DIMENSIONS, short="pad")
    torch.testing.assert_close(five, score(a, b, short="pad").mean(1), **EXACT)
    for wrong in ((), ("shape", "size")):
        with pytest.raises(InputError, match="dimensions must be some of"):
            multimatch_average(*arguments, size_wh_px=SCREEN, dimensions=wrong)


def test_class_counts_and_averages_each_dimension():
    a, b = wandering(12, 90)
    whole = score(a, b, simplify=Simplification(), short="nan")
    metric = MultiMatch(SCREEN, simplify=Simplification())
    other = copy.deepcopy(metric)
    for part, which in ((slice(0, 50), metric), (slice(50, 80), other), (slice(80, 90), metric)):
        which.update(*(t[part] for t in (*a[:2], *b[:2], a[2], b[2])))
    # Two processes: sums of sums.
    for state in ("total", "n_valid", "n_total"):
        setattr(metric, state, getattr(metric, state) + getattr(other, state))
    got = metric.compute()
    assert list(got) == ["shape", "direction", "length", "position", "duration"] == list(DIMENSIONS)
    torch.testing.assert_close(torch.stack(list(got.values())), whole.nanmean(0), **EXACT)
    assert metric.n_total == 90
    assert metric.n_valid.tolist() == [int((~whole[:, 0].isnan()).sum())] * 5
    assert 0 < metric.n_valid[0] < 90
    assert metric.higher_is_better
    untimed = MultiMatch(SCREEN, short="pad")
    untimed.update(*a[:2], *b[:2])
    assert untimed.n_valid.tolist() == [90] * 4 + [0]
    assert untimed.compute()["duration"].isnan()


def test_pairwise():
    a, _ = wandering(13, 6)
    matrix = pairwise(multimatch, Paths(*a), symmetric=True, size_wh_px=SCREEN)
    assert matrix.shape == (6, 6, 5)
    torch.testing.assert_close(matrix, pairwise(multimatch, Paths(*a), size_wh_px=SCREEN), equal_nan=True, **EXACT)


def test_a_thousand_fixations():
    a, b = wandering(14, 1, size=1000, lowest=1000)
    for simplify in (None, Simplification()):
        assert (score(a, a, simplify=simplify) == 1).all()
        assert score(a, b, simplify=simplify).isfinite().all()


def test_input_errors():
    a, b = wandering(15, 4)
    arguments = (*a[:2], *b[:2])
    for screen in ((0, 600), (800, math.nan), (800, math.inf), (800,), (-1, 5)):
        with pytest.raises(InputError, match="size_wh_px must be a positive width and height"):
            multimatch(*arguments, size_wh_px=screen)
    with pytest.raises(InputError, match="short must be 'nan' or 'pad'; got 'drop'"):
        multimatch(*arguments, size_wh_px=SCREEN, short="drop")
    with pytest.raises(InputError, match="give a_duration_s and b_duration_s"):
        multimatch(*arguments, size_wh_px=SCREEN, simplify=Simplification())
    for wrong in ({"direction_deg": -1.0}, {"amplitude_px": math.nan}, {"duration_s": -0.1}):
        with pytest.raises(InputError, match=next(iter(wrong))):
            score(a, b, simplify=Simplification(**wrong))
    a[0][2, 0, 1] = math.nan
    a[1][2, 0] = True
    with pytest.raises(InputError, match="pair 2, fixation 0 of a_px"):
        score(a, b)
