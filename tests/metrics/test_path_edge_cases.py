"""Path metrics at their edges: too short, equal, outside, undefined and very long paths, each with what is counted.

:data:`CARD` says what each metric promises; one that is not in it fails by name. Scores on clusters and labels, and
plausibility over one human, are tested beside those of :data:`PATH_METRICS`. Long paths are compared with loops that
follow the definitions cell by cell.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

import gazekit.metrics as gm
from gazekit.errors import InputError
from gazekit.metrics.path_registry import PATH_METRICS, PathMetricInfo

SIZE = (801, 397)
NAN, INF = math.nan, math.inf
CENTERS = torch.tensor([[100.0, 90.0], [420.0, 300.0], [700.0, 40.0], [610.0, 350.0], [250.0, 200.0]])
LABELS = (torch.arange(397)[:, None] // 100 * 3 + torch.arange(801) // 90) % 5
# Sums of the same few float64 numbers in another order.
SAME = {"rtol": 1e-12, "atol": 1e-12, "equal_nan": True}
PROPERTY = settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])

Path = tuple[Tensor, Tensor, Tensor]


def _clusters(*paths: Tensor) -> Tensor:
    return gm.sequence_score(*paths, centers_px=CENTERS)


def _labels(*paths: Tensor) -> Tensor:
    return gm.semantic_sequence_score(*paths, labels=LABELS, unlabelled=(4,))


def _cluster_edits(*paths: Tensor) -> Tensor:
    return gm.cluster_edit_distance(*paths, centers_px=CENTERS)


def _label_edits(*paths: Tensor) -> Tensor:
    return gm.semantic_edit_distance(*paths, labels=LABELS)


def _one_human(*paths: Tensor, size_wh_px: tuple[int, int]) -> Tensor:
    """Each pair an image with one sample and one human."""
    return gm.plausibility(*(t[:, None] for t in paths), size_wh_px=size_wh_px, k=(1, 2), n_fix=None).score


EXTRA = {
    info.name: info
    for info in (
        PathMetricInfo("ss", "SS", _clusters, True, "", 1.0, True, 1, False),
        PathMetricInfo("semss", "SemSS", _labels, True, "", 1.0, True, 1, False),
        PathMetricInfo("fed", "FED", _cluster_edits, False, "edit", 0.0, True, 0, False),
        PathMetricInfo("semfed", "SemFED", _label_edits, False, "edit", 0.0, True, 0, False),
        PathMetricInfo("spp", "SPP", _one_human, False, "", 0.0, False, 2, True),
    )
}
ALL: dict[str, PathMetricInfo] = {**PATH_METRICS, **EXTRA}
NAMES = sorted(ALL)


class Card(NamedTuple):
    """What a metric promises.

    Args:
        higher_is_better: None where the sign only says which path is ahead.
        low: Of the range, for paths on the screen.
        high: Of the range.
        min_length: Fixations that both paths need.
        symmetric: Whether both orders give one score (of MultiMatch: but for ties).
        empty: An empty path against another: "zero" for a similarity, "length" for edits, else "nan".

    """

    higher_is_better: bool | None
    low: float
    high: float
    min_length: int
    symmetric: bool
    empty: str = "nan"


MULTIMATCH = Card(True, 0, 1, 3, False)
PIXELS = Card(False, 0, INF, 1, True)
CARD: dict[str, Card] = {
    **{f"multimatch_{dimension}": MULTIMATCH for dimension in (*gm.DIMENSIONS, "average")},
    "scanmatch": Card(True, 0, 1, 1, True, "zero"),
    "sed": Card(False, 0, INF, 0, True, "length"),
    "sed_prefix": Card(False, 0, 5.5, 10, True),
    "ss_grid": Card(True, 0, 1, 1, True, "zero"),
    "stde": Card(True, 0, 1, 1, False, "zero"),
    "sbtde": Card(False, 0, 1, 10, False),
    "tde": Card(False, 0, INF, 2, False),
    "dtw": PIXELS,
    "frechet": PIXELS,
    "hausdorff": PIXELS,
    "directed_hausdorff": PIXELS._replace(symmetric=False),
    "euclidean": PIXELS,
    "eyenalysis": PIXELS,
    "mannan": Card(False, 0, 1, 1, True),
    # 100 (1 - D / D_r): undefined where the distance D is.
    "mannan_similarity": Card(True, -INF, 100, 1, True),
    "crqa_rec": Card(True, 0, 100, 2, True),
    "crqa_det": Card(True, 0, 100, 2, True),
    "crqa_lam": Card(True, 0, 100, 2, True),
    "crqa_corm": Card(None, -100, 100, 2, False),
    "ss": Card(True, 0, 1, 1, True, "zero"),
    "semss": Card(True, 0, 1, 1, True, "zero"),
    "fed": Card(False, 0, INF, 0, True, "length"),
    "semfed": Card(False, 0, INF, 0, True, "length"),
    "spp": Card(False, 0, 1, 2, False),
}
# Cells per row and per column, by default: only these clip, only these are moved by less than a cell unnoticed.
ON_GRID = {
    "sed": (5, 5),
    "sed_prefix": (4, 4),
    "sbtde": (4, 4),
    "scanmatch": (16, 12),
    "ss_grid": (8, 6),
    "spp": (4, 4),
}
ON_IMAGE = ["ss", "semss", "fed", "semfed"]
BLIND_TO_ORDER = ["directed_hausdorff", "eyenalysis", "hausdorff", "mannan", "mannan_similarity"]

CLASSES: dict[str, Callable[[], Any]] = {
    **{f"multimatch_{dimension}": lambda: gm.MultiMatch(SIZE) for dimension in gm.DIMENSIONS},
    "scanmatch": lambda: gm.ScanMatch(size_wh_px=SIZE),
    "sed": lambda: gm.EditDistance(size_wh_px=SIZE),
    "sed_prefix": lambda: gm.PrefixEditDistance(size_wh_px=SIZE),
    "ss_grid": lambda: gm.GridSequenceScore(size_wh_px=SIZE),
    "stde": lambda: gm.ScaledTimeDelay(size_wh_px=SIZE),
    "sbtde": lambda: gm.StringTimeDelay(size_wh_px=SIZE),
    "tde": lambda: gm.TimeDelayDistance(k=2),
    "dtw": gm.DTW,
    "frechet": gm.DiscreteFrechet,
    "hausdorff": gm.Hausdorff,
    "directed_hausdorff": gm.DirectedHausdorff,
    "euclidean": gm.Euclidean,
    "eyenalysis": gm.Eyenalysis,
    "mannan": lambda: gm.MannanDistance(SIZE),
    "mannan_similarity": lambda: gm.MannanSimilarity(SIZE),
    **{f"crqa_{field}": gm.CrossRecurrence for field in gm.Recurrence._fields},
    "ss": gm.SequenceScore,
}
# No class of their own: a mean of MultiMatch's, and strings that go to the symbol classes.
WITHOUT_CLASS = {"multimatch_average", "semss", "fed", "semfed", "spp"}


def score(name: str, a: Path, b: Path, size: tuple[int, int] = SIZE) -> Tensor:
    return ALL[name](a[0], a[1], b[0], b[1], a_duration_s=a[2], b_duration_s=b[2], size_wh_px=size)


def path(*xy: tuple[float, float]) -> Path:
    """One path, each fixation of 0.2 s."""
    px = torch.tensor([xy], dtype=torch.float64).reshape(1, -1, 2)
    return px, torch.ones(1, len(xy), dtype=torch.bool), torch.full((1, len(xy)), 0.2, dtype=torch.float64)


def paths(
    seed: int, lengths: Iterable[int], size: tuple[float, float] = SIZE, low: tuple[float, float] = (0.0, 0.0)
) -> Path:
    """One random path of each length; far-away places and no durations in the padding."""
    rng = np.random.default_rng(seed)
    counts = np.array(list(lengths))
    xy = rng.random((len(counts), counts.max(), 2)) * size + low
    duration = rng.uniform(0.1, 0.6, xy.shape[:2])
    valid = np.arange(counts.max()) < counts[:, None]
    xy[~valid], duration[~valid] = 1e9, NAN
    return torch.from_numpy(xy), torch.from_numpy(valid), torch.from_numpy(duration)


def rows_of(a: Path, rows: Any) -> Path:
    return a[0][rows], a[1][rows], a[2][rows]


def fixations(n_min: int, inside: bool = False) -> st.SearchStrategy[Path]:
    """Paths on a lattice of 40 px, so that places repeat and ties occur; some fixations lie outside the image."""
    margin = 0 if inside else 2
    places = st.tuples(st.integers(-margin, 20 + margin), st.integers(-margin, 9 + margin), st.integers(1, 6))

    def made(steps: list[tuple[int, int, int]]) -> Path:
        table = torch.tensor(steps, dtype=torch.float64).reshape(1, -1, 3)
        return table[..., :2] * 40, torch.ones(1, len(steps), dtype=torch.bool), table[..., 2] / 10

    return st.lists(places, min_size=n_min, max_size=n_min + 5).map(made)


def pairs_for(name: str, **options: bool) -> st.SearchStrategy[tuple[Path, Path]]:
    side = fixations(max(1, ALL[name].min_length), **options)
    return st.tuples(side, side)


def test_the_card_is_what_the_registry_says():
    assert set(CARD) == set(ALL), "a metric without a card, or a card without a metric"
    assert set(CLASSES) | WITHOUT_CLASS == set(ALL)
    for name, card in CARD.items():
        info = ALL[name]
        assert (info.min_length, info.symmetric) == (card.min_length, card.symmetric), name
        if card.higher_is_better is not None:
            assert info.higher_is_better is card.higher_is_better, name
        if name in CLASSES and not name.startswith("crqa"):
            assert CLASSES[name]().higher_is_better is card.higher_is_better, name
    assert gm.CrossRecurrence().higher_is_better is None


@pytest.mark.parametrize("name", NAMES)
@PROPERTY
@given(data=st.data())
def test_scores_stay_in_their_range(name, data):
    a, b = data.draw(pairs_for(name, inside=True))
    got = score(name, a, b)
    assert got.isfinite().all() or name.startswith("crqa")
    known = got[~got.isnan()]
    # Rounding may lift a quotient of equal sums over 1.
    assert ((CARD[name].low - 1e-12 <= known) & (known <= CARD[name].high + 1e-12)).all()
    if CARD[name].empty == "length":
        assert (known <= max(a[0].shape[1], b[0].shape[1])).all()


def assert_class_agrees(name: str, a: Path, b: Path, scores: Tensor) -> None:
    """Fed in two parts, the class has the mean of what is defined, and counts that and everything."""
    if name in WITHOUT_CLASS:
        return
    metric, durations = CLASSES[name](), (a[2], b[2]) if name.startswith("multimatch") else ()
    more = {"centers_px": CENTERS} if name == "ss" else {}
    half = len(scores) // 2
    for part in (slice(0, half), slice(half, None)):
        metric.update(a[0][part], a[1][part], b[0][part], b[1][part], *(t[part] for t in durations), **more)
    mean, known = metric.compute(), metric.n_valid
    if name.startswith("multimatch"):
        dimension = name.removeprefix("multimatch_")
        mean, known = mean[dimension], known[gm.DIMENSIONS.index(dimension)]
    elif name.startswith("crqa"):
        field = name.removeprefix("crqa_")
        mean, known = getattr(mean, field), known[gm.Recurrence._fields.index(field)]
    assert (int(known), int(metric.n_total)) == (int((~scores.isnan()).sum()), len(scores))
    torch.testing.assert_close(mean, scores.nanmean(), **SAME)


LENGTHS = (0, 1, 2, 3, 9, 10, 12)


def expected_by_policy(name: str, n: int, m: int) -> str:
    """ "nan", "number", "zero" or "length" for paths of n and m fixations."""
    card = CARD[name]
    if min(n, m) == 0 and card.empty != "nan":
        return "nan" if n == m and card.empty == "zero" else card.empty
    return "number" if min(n, m) >= card.min_length else "nan"


@pytest.mark.parametrize("name", NAMES)
def test_paths_that_are_too_short_are_nan_zero_or_their_length_and_counted(name):
    """All pairs of lengths at once; every place is near every other, so that recurrence is always defined."""
    n, m = (list(side) for side in zip(*((i, j) for i in LENGTHS for j in LENGTHS), strict=True))
    a, b = paths(1, n, (40, 30), (380, 180)), paths(2, m, (40, 30), (380, 180))
    got = score(name, a, b)
    n_valid = 0
    for value, i, j in zip(got.tolist(), n, m, strict=True):
        expected = expected_by_policy(name, i, j)
        n_valid += expected != "nan"
        if expected == "number":
            assert math.isfinite(value), (i, j)
        else:
            want = {"nan": NAN, "zero": 0.0, "length": float(max(i, j))}[expected]
            assert value == pytest.approx(want, nan_ok=True), (i, j)
    assert n_valid == (~got.isnan()).sum()
    assert_class_agrees(name, a, b, got)


def test_where_nothing_recurs_only_the_rate_is_defined():
    a, b = paths(3, [5] * 4, (40, 30)), paths(4, [6] * 4, (40, 30), (700, 300))
    assert score("crqa_rec", a, b).tolist() == [0] * 4
    for name in ("crqa_det", "crqa_lam", "crqa_corm"):
        assert score(name, a, b).isnan().all()
    metric = gm.CrossRecurrence()
    metric.update(a[0], a[1], b[0], b[1])
    assert (metric.n_valid.tolist(), int(metric.n_total)) == ([4, 0, 0, 0], 4)


def test_fixations_that_are_all_the_same_by_hand():
    """Twelve at one place, seven 5 px away in the same cell and cluster, under the same label."""
    a, b = path(*[(410.0, 205.0)] * 12), path(*[(413.0, 209.0)] * 7)
    diagonal = math.hypot(*SIZE)
    tde = [5 * math.sqrt(k) / k for k in range(1, 8)]
    off_corners = 100 * (1 - 2 / 49)  # the two outermost diagonals of 7 x 7 points have one point each
    want = {
        "multimatch_shape": 1.0, "multimatch_direction": 1.0, "multimatch_length": 1.0, "multimatch_duration": 1.0,
        "multimatch_position": 1 - 5 / diagonal, "multimatch_average": 1 - 5 / diagonal / 4,
        "scanmatch": 7 / 12, "ss_grid": 7 / 12, "ss": 7 / 12, "semss": 7 / 12,
        "sed": 5.0, "fed": 5.0, "semfed": 5.0, "sbtde": NAN, "sed_prefix": NAN, "spp": 0.0,
        "stde": np.mean(np.exp(-np.array(tde) / SIZE[0])), "tde": tde[1],
        # The shortest alignment has as many pairs as the longer path.
        "dtw": 60.0, "frechet": 5.0, "hausdorff": 5.0, "directed_hausdorff": 5.0, "euclidean": 5.0,
        "eyenalysis": 5 * (12 + 7) / 12, "mannan": 5 / diagonal,
        "crqa_rec": 100.0, "crqa_det": off_corners, "crqa_lam": 100.0, "crqa_corm": 0.0,
    }  # fmt: skip
    assert set(want) == set(ALL) - {"mannan_similarity"}
    for name, value in want.items():
        got = score(name, a, b)
        assert got.item() == pytest.approx(value, abs=1e-12, nan_ok=True), name
        assert_class_agrees(name, a, b, got)
    # Relative to random paths, which are far apart.
    assert 90 < score("mannan_similarity", a, b).item() < 100
    alone = gm.self_recurrence(a[0], a[1])
    assert [getattr(alone, name).item() for name in ("rec", "lam")] == [100, pytest.approx(100 * 130 / 132)]


@pytest.mark.parametrize("name", NAMES)
def test_fixations_outside_are_clipped_on_grids_and_labels_and_kept_elsewhere(name):
    a, b = paths(5, [12] * 30, (1601, 797), (-400, -200)), paths(6, [13] * 30, (1601, 797), (-400, -200))
    inside = [torch.stack([p[0][..., 0].clamp(0, 800.999), p[0][..., 1].clamp(0, 396.999)], -1) for p in (a, b)]
    assert (inside[0] != a[0]).any()
    clipped = score(name, (inside[0], *a[1:]), (inside[1], *b[1:]))
    got = score(name, a, b)
    if name in ON_GRID or name in ("semss", "semfed"):
        torch.testing.assert_close(got, clipped, rtol=0, atol=0)
    elif name in ("ss", "fed"):
        # The nearest centre of a place outside may be another than that of the nearest place inside.
        nearest = [torch.cdist(p[0], CENTERS.double().expand(30, -1, -1)).argmin(-1) for p in (a, b)]
        symbols = [nearest[0], a[1], nearest[1], b[1]]
        strings = gm.sequence_score_symbols if name == "ss" else gm.edit_distance_symbols
        torch.testing.assert_close(got, strings(*symbols), rtol=0, atol=0)
    else:
        assert not torch.allclose(got, clipped, equal_nan=True)
    assert not got.isinf().any()
    # Nothing is left out for being outside.
    assert not got.isnan().any() or name.startswith("crqa")
    assert_class_agrees(name, a, b, got)


@pytest.mark.parametrize("bad", [NAN, INF])
@pytest.mark.parametrize("name", sorted(EXTRA))
def test_a_position_that_is_none_is_refused_unless_it_is_padding(name, bad):
    a, b = paths(7, [5] * 4), paths(8, [6] * 4)
    for which in (0, 1):
        sides = [a, b]
        broken = sides[which][0].clone()
        broken[2, 3, 1] = bad
        sides[which] = (broken, *sides[which][1:])
        with pytest.raises(InputError, match="not finite") as caught:
            score(name, *sides)
        assert "\n" not in str(caught.value)
        # The same number after the end of the path is nobody's.
        shorter = sides[which][1].clone()
        shorter[2, 3:] = False
        sides[which] = (broken, shorter, *sides[which][2:])
        assert score(name, *sides).isfinite().all()


def test_self_recurrence_at_its_edges():
    xy, valid, _ = paths(9, [0, 1, 2, 3, 10, 12], (40, 30))
    got = torch.stack(list(gm.self_recurrence(xy, valid)), -1)
    assert got.isnan().any(1).tolist() == [True, True, False, False, False, False]
    assert got[:2].isnan().all()
    metric = gm.SelfRecurrence()
    metric.update(xy[:3], valid[:3])
    metric.update(xy[3:], valid[3:])
    assert (metric.n_valid.tolist(), int(metric.n_total)) == ([4] * 4, 6)
    # Nothing comes back: the rate is 0, and no line is there to be long.
    apart = path((0, 0), (300, 0), (0, 300))
    rec, *others = (value.item() for value in gm.self_recurrence(apart[0], apart[1]))
    assert rec == 0
    assert all(math.isnan(value) for value in others)
    # Outside is as good a place as any, in single precision as in double; padding is nobody's.
    far = (xy - 4096.0).masked_fill(~valid[..., None], NAN)
    for moved in (far, far.float()):
        there = torch.stack(list(gm.self_recurrence(moved, valid)), -1)
        torch.testing.assert_close(there.double(), got, rtol=1e-6, atol=1e-6, equal_nan=True)
    order = torch.tensor([4, 0, 5, 2, 1, 3])
    shuffled = torch.stack(list(gm.self_recurrence(xy[order], valid[order])), -1)
    torch.testing.assert_close(shuffled, got[order], **SAME)
    loop = torch.cat([torch.stack(list(gm.self_recurrence(xy[i : i + 1], valid[i : i + 1])), -1) for i in range(6)])
    torch.testing.assert_close(loop, got, **SAME)
    broken = xy.clone()
    broken[4, 2, 0] = NAN
    with pytest.raises(InputError, match="pair 4, fixation 2"):
        gm.self_recurrence(broken, valid)


def test_plausibility_at_its_edges():
    """Five images: one long enough path on each side, no human of that length, no sample, equal paths, outside."""
    model_n = [[0, 1, 10], [10, 12, 0], [9, 1, 0], [10, 10, 10], [10, 11, 12]]
    human_n = [[10, 9, 0], [9, 1, 0], [12, 10, 10], [10, 12, 0], [10, 12, 9]]
    sides = []
    for seed, counts in ((10, model_n), (11, human_n)):
        xy, valid, _ = paths(seed, np.array(counts).ravel())
        sides += [xy.reshape(5, 3, 12, 2), valid.reshape(5, 3, 12)]
    model, _, human, _ = sides
    model[3], human[3] = 50.0, 50.0
    model[4, :, :, 0] += 700.0
    for metric in ("sbtde", "sed"):
        got = gm.plausibility(*sides, metric=metric, size_wh_px=SIZE)
        assert got.score.isnan().tolist() == [False, True, True, False, False]
        assert got.n_humans.tolist() == [1, 0, 0, 2, 2]
        assert got.n_samples.tolist() == [1, 0, 0, 3, 3]
        assert got.per_sample.isnan().tolist()[0] == [True, True, False]
        assert got.score[3].item() == 0
        clipped = model.clone()
        clipped[4, :, :, 0] = model[4, :, :, 0].clamp(max=800.0)
        again = gm.plausibility(clipped, *sides[1:], metric=metric, size_wh_px=SIZE)
        torch.testing.assert_close(again.score, got.score, rtol=0, atol=0, equal_nan=True)
        mean = gm.ScanPathPlausibility(metric=metric, size_wh_px=SIZE)
        for part in (slice(0, 2), slice(2, 5)):
            mean.update(*(side[part] for side in sides))
        assert (int(mean.n_valid), int(mean.n_total), int(mean.n_humans)) == (3, 5, 5)
        torch.testing.assert_close(mean.compute(), got.score.nanmean(), **SAME)
    order = torch.tensor([3, 1, 4, 0, 2])
    shuffled = gm.plausibility(*(side[order] for side in sides), size_wh_px=SIZE)
    whole = gm.plausibility(*sides, size_wh_px=SIZE)
    torch.testing.assert_close(shuffled.score, whole.score[order], **SAME)
    # Neither the order of the samples nor that of the humans matters.
    turned = gm.plausibility(*(side.flip(1) for side in sides), size_wh_px=SIZE)
    torch.testing.assert_close(turned.score, whole.score, **SAME)
    loop = [gm.plausibility(*(side[i : i + 1] for side in sides), size_wh_px=SIZE).score for i in range(5)]
    torch.testing.assert_close(torch.cat(loop), whole.score, **SAME)


@pytest.mark.parametrize("name", [name for name in NAMES if not math.isnan(ALL[name].identity)])
@PROPERTY
@given(data=st.data())
def test_identity_with_repeats_and_outside(name, data):
    a = data.draw(fixations(max(1, ALL[name].min_length)))
    assert score(name, a, a).item() == pytest.approx(ALL[name].identity, abs=1e-12)


@pytest.mark.parametrize("name", [name for name in NAMES if ALL[name].symmetric])
@PROPERTY
@given(data=st.data())
def test_symmetry_with_ties(name, data):
    a, b = data.draw(pairs_for(name))
    torch.testing.assert_close(score(name, a, b), score(name, b, a), **SAME)


# Two cheapest alignments, of which each order of the paths takes another.
TIED = (
    [(20.0, 10.0), (10.0, 10.0), (10.0, 0.0), (10.0, 10.0)],
    [(10.0, 30.0), (20.0, 10.0), (30.0, 30.0), (30.0, 20.0)],
)
UNEQUAL = ([(0.0, 0.0), (500.0, 300.0)] * 5, [(0.0, 0.0), (500.0, 300.0)] * 5 + [(700.0, 20.0)] * 2)
PREFIX = ([(10.0, 10.0), (400.0, 200.0), (10.0, 10.0)], [(10.0, 10.0), (10.0, 10.0), (400.0, 200.0)])


@pytest.mark.parametrize("name", [name for name in NAMES if not ALL[name].symmetric])
def test_where_no_symmetry_is_claimed_there_is_none(name):
    sides = TIED if name.startswith("multimatch") else PREFIX if name == "crqa_corm" else UNEQUAL
    a, b = (path(*side) for side in sides)
    if name == "multimatch_duration":
        a, b = (*a[:2], torch.tensor([[0.1, 0.4, 0.4, 0.2]])), (*b[:2], torch.tensor([[0.2, 0.3, 0.1, 0.4]]))
    there, back = score(name, a, b), score(name, b, a)
    assert there.isfinite().all()
    assert back.isfinite().all()
    # Far more than rounding.
    assert abs(there - back).item() > 1e-3


@pytest.mark.parametrize("name", sorted(set(NAMES) - set(ON_GRID) - set(ON_IMAGE)))
@PROPERTY
@given(data=st.data())
def test_moving_both_paths_changes_nothing(name, data):
    a, b = data.draw(pairs_for(name))
    # Whole numbers stay whole: differences are the same to the last bit.
    shift = torch.tensor(data.draw(st.tuples(st.integers(-4000, 4000), st.integers(-4000, 4000)))).double()
    moved = score(name, (a[0] + shift, *a[1:]), (b[0] + shift, *b[1:]))
    torch.testing.assert_close(moved, score(name, a, b), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("name", sorted(ON_GRID))
def test_on_a_grid_moving_by_a_cell_changes_nothing_and_by_less_does(name):
    size, (across, down) = (800, 480), ON_GRID[name]
    cell = torch.tensor([size[0] / across, size[1] / down], dtype=torch.float64)
    room = (size[0] - float(cell[0]), size[1] - float(cell[1]))
    a, b = (paths(seed, [10, 11, 12] * 20, room) for seed in (12, 13))
    want = score(name, a, b, size)
    torch.testing.assert_close(score(name, (a[0] + cell, *a[1:]), (b[0] + cell, *b[1:]), size), want, rtol=0, atol=0)
    assert not torch.equal(score(name, (a[0] + cell / 2, *a[1:]), (b[0] + cell / 2, *b[1:]), size), want)


@pytest.mark.parametrize("name", BLIND_TO_ORDER)
@PROPERTY
@given(data=st.data())
def test_blind_to_the_order_of_fixations(name, data):
    a, b = data.draw(pairs_for(name))
    orders = [data.draw(st.permutations(range(side[0].shape[1]))) for side in (a, b)]
    shuffled = [(side[0][:, order], side[1], side[2]) for side, order in zip((a, b), orders, strict=True)]
    torch.testing.assert_close(score(name, *shuffled), score(name, a, b), **SAME)


def mixed_up(a: Path) -> Path:
    """Twelve fixations in another order; not reversed, which LAM is blind to."""
    order = [3, 11, 0, 7, 5, 1, 9, 10, 2, 8, 4, 6]
    return a[0][:, order], a[1], a[2][:, order]


@pytest.mark.parametrize("name", sorted(set(NAMES) - set(BLIND_TO_ORDER) - {"crqa_rec"}))
def test_all_others_see_the_order(name):
    a, b = (paths(seed, [12] * 40, (200, 150) if name.startswith("crqa") else SIZE) for seed in (14, 15))
    got, want = score(name, mixed_up(a), b), score(name, a, b)
    assert not torch.allclose(got, want, rtol=1e-6, atol=1e-6, equal_nan=True)


def test_the_recurrence_rate_sees_the_order_only_where_a_path_is_cut():
    a = paths(14, [12] * 40, (200, 150))
    for m, blind in ((12, True), (9, False)):
        b = paths(15, [m] * 40, (200, 150))
        assert torch.equal(score("crqa_rec", mixed_up(a), b), score("crqa_rec", a, b)) is blind


MIXED = ((0, 3, 14, 10, 1, 12, 11, 2, 10, 13), (10, 5, 11, 10, 0, 1, 13, 12, 3, 10))


@pytest.mark.parametrize("name", NAMES)
@PROPERTY
@given(extra=st.tuples(st.integers(0, 6), st.integers(0, 6)), garbage=st.sampled_from([NAN, INF, -INF, 1e300, -7.0]))
def test_padding_of_any_width_and_content_is_nobodys(name, extra, garbage):
    a, b = (paths(seed, lengths) for seed, lengths in zip((16, 17), MIXED, strict=True))
    wide = []
    for side, more in zip((a, b), extra, strict=True):
        valid = torch.nn.functional.pad(side[1], (0, more))
        px = torch.nn.functional.pad(side[0], (0, 0, 0, more)).masked_fill(~valid[..., None], garbage)
        wide.append((px, valid, torch.nn.functional.pad(side[2], (0, more)).masked_fill(~valid, garbage)))
    torch.testing.assert_close(score(name, *wide), score(name, a, b), **SAME)


@pytest.mark.parametrize("name", NAMES)
@PROPERTY
@given(order=st.permutations(range(10)))
def test_the_order_of_the_batch_does_not_matter(name, order):
    a, b = (paths(seed, lengths) for seed, lengths in zip((16, 17), MIXED, strict=True))
    got = score(name, rows_of(a, order), rows_of(b, order))
    torch.testing.assert_close(got, score(name, a, b)[order], **SAME)


@pytest.mark.parametrize("name", sorted(EXTRA))
def test_batch_is_loop_and_single_precision_is_close(name):
    a, b = (paths(seed, lengths) for seed, lengths in zip((18, 19), MIXED, strict=True))
    want = score(name, a, b)
    loop = torch.cat([score(name, rows_of(a, slice(i, i + 1)), rows_of(b, slice(i, i + 1))) for i in range(10)])
    torch.testing.assert_close(loop, want, **SAME)
    single = [tuple(t.float() if t.is_floating_point() else t for t in side) for side in (a, b)]
    double = [tuple(t.double() if t.is_floating_point() else t for t in side) for side in single]
    got = score(name, *single)
    assert got.dtype == torch.float32
    # The same strings; a quotient of small whole numbers is rounded once.
    torch.testing.assert_close(got.double(), score(name, *double), rtol=1e-6, atol=0, equal_nan=True)


@pytest.mark.parametrize("name", [*sorted(EXTRA), "crqa_rec", "crqa_det", "crqa_lam"])
def test_growing_noise_makes_it_steadily_worse(name):
    """Mean over many paths; of the other metrics tests/metrics/test_path_laws.py asks the same."""
    rng = np.random.default_rng(20)
    n_pairs, steps = 1500, 12
    # With stays, which are what lines of recurrent points are made of, on a lattice wider than twice the radius, so
    # that noise does not bring neighbours together.
    xy = rng.integers(0, [6, 3], (n_pairs, steps, 2)) * 140.0 + 20.0
    for t in range(1, steps):
        stay = rng.random(n_pairs) < 0.4
        xy[stay, t] = xy[stay, t - 1]
    a = (torch.from_numpy(xy), torch.ones(n_pairs, steps, dtype=torch.bool), torch.ones(n_pairs, steps).double())
    noise = torch.from_numpy(rng.standard_normal(xy.shape))
    means = [score(name, a, (a[0] + sigma * noise, *a[1:])).nanmean().item() for sigma in (0.0, 25.0, 60.0, 150.0)]
    falls = np.diff(means) * (-1 if CARD[name].higher_is_better else 1)
    assert (falls > 0).all(), means


# Long paths against loops over every cell.

N, M = 1000, 700
# Up to a million float64 steps, each rounded to 1e-16 of the sum at hand.
LONG = {"rel": 1e-10, "abs": 1e-10}


@pytest.fixture(scope="module")
def long_pair() -> tuple[Path, Path]:
    """Wandering paths, so that some of the one is near some of the other and places recur."""
    rng = np.random.default_rng(21)
    sides = []
    for n in (N, M):
        xy = np.cumsum(rng.normal(0, 35, (n, 2)), 0) + np.array(SIZE) / 2
        period = 2 * np.array(SIZE)
        xy = np.abs((xy + np.array(SIZE)) % period - np.array(SIZE))  # back at the edges
        again = rng.random(n) < 0.2
        for t in range(1, n):
            xy[t] = xy[t - 1] if again[t] else xy[t]
        sides.append((torch.from_numpy(xy)[None], torch.ones(1, n, dtype=torch.bool), torch.ones(1, n).double()))
    return sides[0], sides[1]


@pytest.fixture(scope="module")
def apart(long_pair) -> list[list[float]]:
    """N x M distances, one by one."""
    a, b = (side[0][0].tolist() for side in long_pair)
    return [[math.hypot(x - u, y - v) for u, v in b] for x, y in a]


def cells(xy: Tensor, bins: tuple[int, int]) -> list[tuple[int, int]]:
    return [
        tuple(min(max(math.floor(v * n / s), 0), n - 1) for v, n, s in zip(place, bins, SIZE, strict=True))
        for place in xy[0].tolist()
    ]


def warped(apart: list[list[float]], join: Callable[[float, float], float]) -> float:
    before: list[float] = []
    for row in apart:
        here: list[float] = []
        for j, cost in enumerate(row):
            ways = [*([before[j]] if before else []), *([here[j - 1]] if j else [])]
            if before and j:
                ways.append(before[j - 1])
            here.append(join(min(ways), cost) if ways else cost)
        before = here
    return before[-1]


def edits(a: list[Any], b: list[Any], swaps: bool = False) -> int:
    rows = [list(range(len(b) + 1))]
    for i, x in enumerate(a, 1):
        here = [i]
        for j, y in enumerate(b, 1):
            best = min(rows[-1][j] + 1, here[j - 1] + 1, rows[-1][j - 1] + (x != y))
            if swaps and i > 1 and j > 1 and x == b[j - 2] and a[i - 2] == y:
                best = min(best, rows[-2][j - 2] + 1)
            here.append(best)
        rows = [*rows[-1:], here]
    return rows[-1][-1]


def aligned(a: list[Any], b: list[Any], earns: Callable[[Any, Any], float]) -> float:
    """Needleman-Wunsch without a price for gaps."""
    before = [0.0] * (len(b) + 1)
    for x in a:
        here = [0.0]
        for j, y in enumerate(b, 1):
            here.append(max(before[j - 1] + earns(x, y), before[j], here[j - 1]))
        before = here
    return before[-1]


def windows(apart: list[list[float]], k: int) -> float:
    """Mean over the windows of a of the nearest window of b, l2 over k steps, divided by k."""
    nearest = []
    for i in range(N - k + 1):
        squares = (
            sum(apart[i + t][j + t] ** 2 for t in range(k))
            for j in range(M - k + 1)
        )  # fmt: skip
        nearest.append(math.sqrt(min(squares)) / k)
    return sum(nearest) / len(nearest)


def window_edits(a: list[Any], b: list[Any], k: int) -> float:
    """The same for strings; each distinct window is compared once."""
    own, other = ([tuple(s[i : i + k]) for i in range(len(s) - k + 1)] for s in (a, b))
    nearest = {window: min(edits(list(window), list(w), True) for w in set(other)) / k for window in set(own)}
    return sum(nearest[window] for window in own) / len(own)


def on_lines(lines: Iterable[list[bool]]) -> int:
    found = run = 0
    for line in lines:
        for here in [*line, False]:
            run = run + 1 if here else 0
            found += 2 if run == 2 else run > 2
    return found


def recurrence(apart: list[list[float]], radius: float = 64.0) -> list[float]:
    near = [[d <= radius for d in row] for row in apart[:M]]
    count = sum(map(sum, near))
    diagonals = ([near[i][i + lag] for i in range(max(0, -lag), min(M, M - lag))] for lag in range(1 - M, M))
    straight = on_lines(near) + on_lines(map(list, zip(*near, strict=True)))
    lag = sum(j - i for i in range(M) for j in range(M) if near[i][j])
    return [100 * count / M**2, 100 * on_lines(diagonals) / count, 50 * straight / count, 100 * lag / ((M - 1) * count)]


def test_long_geometric_distances(long_pair, apart):
    to_b, to_a = [min(row) for row in apart], [min(column) for column in zip(*apart, strict=True)]
    a, b = (side[0][0].tolist() for side in long_pair)
    squares = M * sum(d * d for d in to_b) + N * sum(d * d for d in to_a)
    want = {
        "dtw": warped(apart, lambda way, cost: way + cost),
        "frechet": warped(apart, max),
        "directed_hausdorff": max(to_b),
        "hausdorff": max(*to_b, *to_a),
        "euclidean": sum(math.dist(p, q) for p, q in zip(a, b, strict=False)) / M,
        "eyenalysis": (sum(to_b) + sum(to_a)) / N,
        "mannan": math.sqrt(squares / (2 * N * M * (SIZE[0] ** 2 + SIZE[1] ** 2))),
    }
    for name, value in want.items():
        assert score(name, *long_pair).item() == pytest.approx(value, **LONG), name
    # The other way round, where the directed distance is another and the larger one is not.
    assert score("directed_hausdorff", *long_pair[::-1]).item() == pytest.approx(max(to_a), **LONG)
    assert score("hausdorff", *long_pair[::-1]).item() == pytest.approx(max(*to_b, *to_a), **LONG)
    assert max(to_a) != max(to_b)


def test_long_strings(long_pair):
    def encoded(name: str) -> list[list[tuple[int, int]]]:
        return [cells(side[0], ON_GRID[name]) for side in long_pair]

    assert score("sed", *long_pair).item() == edits(*encoded("sed"))
    grid = {"size_wh_px": SIZE, "transpositions": True}
    swapped = gm.edit_distance(*long_pair[0][:2], *long_pair[1][:2], **grid).item()
    assert swapped == edits(*encoded("sed"), swaps=True)
    a, b = encoded("sed_prefix")
    prefixes = np.mean([edits(a[:k], b[:k], swaps=True) for k in range(1, 11)])
    assert score("sed_prefix", *long_pair).item() == pytest.approx(prefixes, **LONG)
    common = aligned(*encoded("ss_grid"), lambda x, y: float(x == y))
    assert score("ss_grid", *long_pair).item() == pytest.approx(common / N, **LONG)
    earned = aligned(*encoded("scanmatch"), lambda x, y: 3.5 - math.dist(x, y))
    assert score("scanmatch", *long_pair).item() == pytest.approx(earned / (3.5 * N), **LONG)
    for function, name in ((_clusters, "ss"), (_cluster_edits, "fed")):
        numbers = [
            [
                min(range(len(CENTERS)), key=lambda c, p=p: math.dist(p, CENTERS[c].tolist()))
                for p in side[0][0].tolist()
            ]
            for side in long_pair
        ]
        want = aligned(*numbers, lambda x, y: float(x == y)) / N if name == "ss" else edits(*numbers)
        assert function(*long_pair[0][:2], *long_pair[1][:2]).item() == pytest.approx(want, **LONG)


def test_long_windows(long_pair, apart):
    assert score("tde", *long_pair).item() == pytest.approx(windows(apart, 2), **LONG)
    a, b = (cells(side[0], ON_GRID["sbtde"]) for side in long_pair)
    lengths = [1, 2, 3]
    got = gm.string_time_delay(*long_pair[0][:2], *long_pair[1][:2], size_wh_px=SIZE, k=lengths).item()
    assert got == pytest.approx(np.mean([window_edits(a, b, k) for k in lengths]), **LONG)
    # All 700 window lengths: sums along diagonals as differences of running sums.
    square = np.square(np.array(apart))
    total = np.zeros((N + 1, M + 1))
    for i in range(N):
        total[i + 1, 1:] = total[i, :-1] + square[i]
    similar = []
    for k in range(1, M + 1):
        nearest = (total[k:, k:] - total[: N + 1 - k, : M + 1 - k]).min(1).clip(min=0)
        similar.append(math.exp(-np.mean(np.sqrt(nearest) / k) / max(SIZE)))
    # Running sums of up to 1e8 px² err by 1e-8, and the root of a small difference by more.
    assert score("stde", *long_pair).item() == pytest.approx(np.mean(similar), rel=1e-7)


def test_long_recurrence(long_pair, apart):
    want = recurrence(apart)
    got = [score(f"crqa_{field}", *long_pair).item() for field in gm.Recurrence._fields]
    assert got == pytest.approx(want, **LONG)
    assert all(value != 0 for value in want)


@pytest.mark.parametrize("name", sorted({*EXTRA, *(name for name in NAMES if name.startswith("multimatch"))}))
def test_long_paths_have_finite_scores_and_perfect_ones_with_themselves(name, long_pair):
    a, b = long_pair
    assert score(name, a, b).isfinite().all()
    assert score(name, a, a).item() == pytest.approx(ALL[name].identity, abs=1e-9)


def test_long_paths_relative_to_random_ones(long_pair):
    """Few random paths, for each has a thousand fixations."""
    a, b = long_pair
    got = gm.mannan_similarity(*a[:2], *b[:2], size_wh_px=SIZE, n_random=2).item()
    draw = torch.rand(2, 2, N, 2, generator=torch.Generator().manual_seed(0)).double() * torch.tensor(SIZE)
    keep = torch.ones(2, N, dtype=torch.bool)
    random = gm.mannan_distance(draw[0], keep, draw[1, :, :M], keep[:, :M], size_wh_px=SIZE).mean().item()
    distance = score("mannan", a, b).item()
    # Other random paths than the metric's: at this length their distances differ by a few percent.
    assert got == pytest.approx(100 * (1 - distance / random), abs=100 * 0.1 * distance / random)
