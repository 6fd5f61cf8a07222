"""Visual-search metrics: golden numbers, a slow oracle, laws, edge cases and errors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import pearsonr, spearmanr
from torch import Tensor

from gazekit.errors import InputError
from gazekit.metrics import search as gs

NAN, INF = float("nan"), float("inf")
FOVEA = {"hit": "fovea", "fovea_size_wh_px": (32.0, 20.0)}
RULES = [{}, FOVEA]
# The same few float64 sums in another order.
EXACT = {"rtol": 1e-12, "atol": 1e-12, "equal_nan": True}


def counts(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def scene(seed: int, n_trials: int = 200, n_steps: int = 9, far: float = NAN) -> tuple[Tensor, Tensor, Tensor]:
    """Trials on a screen that is not square; some without fixations, some without a target; integer ties."""
    rng = np.random.default_rng(seed)
    xy = rng.integers(0, [120, 60], (n_trials, n_steps, 2)).astype(float)
    valid = np.arange(n_steps) < rng.integers(0, n_steps + 1, n_trials)[:, None]
    low = rng.integers(0, [80, 30], (n_trials, 2))
    box = np.concatenate([low, low + rng.integers(1, [40, 30], (n_trials, 2))], 1).astype(float)
    box[rng.random(n_trials) < 0.1] = NAN
    xy[~valid] = far
    return torch.from_numpy(xy), torch.from_numpy(valid), torch.from_numpy(box)


def oracle(xy: np.ndarray, keep: np.ndarray, box: np.ndarray, rule: dict) -> tuple[float, float]:
    """Count and scanpath ratio of one trial, fixation by fixation."""
    if np.isnan(box).all():
        return NAN, NAN
    left, top, right, bottom = box
    path = xy[keep]
    for i, (x, y) in enumerate(path):
        if rule:
            w, h = rule["fovea_size_wh_px"]
            hit = not (x + w / 2 < left or x - w / 2 > right or y + h / 2 < top or y - h / 2 > bottom)
        else:
            hit = left < x < right and top < y < bottom
        if hit:
            way = sum(np.hypot(*(path[k + 1] - path[k])) for k in range(i))
            straight = np.hypot(path[0][0] - (left + right) / 2, path[0][1] - (top + bottom) / 2)
            return i + 1, min(1.0, straight / way) if i else NAN
    return INF, NAN


@pytest.mark.parametrize("rule", RULES)
def test_oracle(rule):
    for seed in range(10):
        xy, valid, box = scene(seed)
        want = np.array([oracle(*row, rule) for row in zip(xy.numpy(), valid.numpy(), box.numpy(), strict=True)])
        n_fix, ratio = gs.fixations_to_target(xy, valid, box, **rule), gs.scanpath_ratio(xy, valid, box, **rule)
        np.testing.assert_array_equal(n_fix, want[:, 0])
        np.testing.assert_allclose(ratio, want[:, 1], **EXACT)
        # Every kind of outcome occurs.
        assert n_fix.isnan().any()
        assert n_fix.isinf().any()
        assert (n_fix == 1).any()
        assert ratio.isfinite().any()


def one(path: list[tuple[float, float]], box: tuple[float, float, float, float], **rule) -> float:
    xy = torch.tensor([path], dtype=torch.float64)
    return gs.fixations_to_target(xy, torch.ones(1, len(path), dtype=torch.bool), counts(*box)[None], **rule).item()


def test_edges_of_the_box():
    box = (10.0, 5.0, 20.0, 8.0)
    assert one([(0, 0), (11, 6)], box) == 2
    for edge in [(10, 6), (20, 6), (15, 5), (15, 8)]:  # strictly inside only
        assert one([edge], box) == INF
    assert one([(6, 11)], box) == INF  # swapped axes
    fovea = {"hit": "fovea", "fovea_size_wh_px": (4.0, 2.0)}
    for touching in [(8, 6), (22, 6), (15, 4), (15, 9), (8, 4), (22, 9)]:
        assert one([touching], box, **fovea) == 1
    for apart in [(7.9, 6), (22.1, 6), (15, 3.9), (15, 9.1)]:
        assert one([apart], box, **fovea) == INF


def test_counting_starts_at_one():
    """The initial fixation is fixation 1, and K saccades allow K + 1 fixations."""
    assert one([(11, 6), (0, 0)], (10, 5, 20, 8)) == 1
    assert gs.found_within(counts(1, 2, 7, 8), max_saccades=6).tolist() == [1, 1, 1, 0]
    assert gs.found_within(counts(1, 2), max_saccades=0).tolist() == [1, 0]


def test_failure_is_no_number():
    """Neither 1000 nor an 8-bit count: a miss stays a miss under any limit, and 300 fixations stay 300."""
    far = [(0.0, 0.0)] * 299 + [(11.0, 6.0)]
    assert one(far, (10, 5, 20, 8)) == 300
    assert one(far[:-1], (10, 5, 20, 8)) == INF
    assert gs.found_within(counts(INF, INF), max_saccades=torch.tensor([-1, 5000])).tolist() == [0, 0]
    assert gs.found_within(counts(300.0), max_saccades=-1).tolist() == [1]


def test_golden_curves():
    human = gs.cumulative_found(counts(1, 2, 4, INF), max_saccades=6)
    assert human.tolist() == [0.25, 0.5, 0.5, 0.75, 0.75, 0.75, 0.75]
    model = gs.cumulative_found(counts(2, 2, INF, INF), max_saccades=6)
    assert model.tolist() == [0.0, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5]
    assert gs.tfp_auc(human).item() == 4.25
    assert gs.tfp_auc(model).item() == 3.0
    assert gs.probability_mismatch(model, human).item() == 1.25
    assert gs.probability_mismatch(human, model).item() == 1.25
    # By hand: (0.25 / 2 + 0.5 + 0.5 + 0.75 + 0.75 + 0.75 + 0.75 / 2) / 6.
    assert gs.auc_perf(human).item() == pytest.approx(3.75 / 6, abs=1e-15)
    assert gs.auc_perf(torch.ones(5)).item() == 1
    assert gs.search_accuracy(counts(1, 2, 4, INF), max_saccades=6).item() == 0.75


def test_golden_scanpath_ratio():
    xy, valid = counts(0, 0, 0, 4, 3, 4).view(1, 3, 2), torch.ones(1, 3, dtype=torch.bool)
    box = counts(2, 3, 4, 5)[None]  # center (3, 4)
    assert gs.scanpath_ratio(xy, valid, box).item() == pytest.approx(5 / 7, abs=1e-15)
    # What comes after the hit does not count.
    longer = torch.cat([xy, counts(100, 90, 3, 4).view(1, 2, 2)], 1)
    assert gs.scanpath_ratio(longer, torch.ones(1, 5, dtype=torch.bool), box).item() == pytest.approx(5 / 7, abs=1e-15)
    # One saccade that stops short of the center is no better than straight.
    short, both = counts(0, 0, 2.5, 3.5).view(1, 2, 2), torch.ones(1, 2, dtype=torch.bool)
    assert gs.scanpath_ratio(short, both, box).item() == 1
    # Failed, found at the start, a single fixation.
    assert gs.scanpath_ratio(xy, valid, box + 50).isnan().all()
    assert gs.scanpath_ratio(xy.flip(1), valid, box).isnan().all()
    assert gs.scanpath_ratio(xy[:, 2:], valid[:, 2:], box).isnan().all()


def test_efficiency():
    e = gs.search_efficiency(counts(1, 2, 4, INF, NAN, 9), max_saccades=6)
    assert e.mean_found.item() == pytest.approx(7 / 3, abs=1e-15)
    assert e.median_found.item() == 2
    assert e.restricted_mean.item() == pytest.approx((1 + 2 + 4 + 7 + 7) / 5, abs=1e-15)
    assert (int(e.n_found), int(e.n_trials)) == (3, 5)
    assert gs.search_efficiency(counts(1, 2, 4, 5), max_saccades=6).median_found.item() == 3
    each = gs.search_efficiency(counts(3, 3, INF), max_saccades=torch.tensor([1, 2, 4]))
    assert each.mean_found.item() == 3  # the first needs one more than it was allowed
    assert each.restricted_mean.item() == pytest.approx((2 + 3 + 5) / 3, abs=1e-15)
    assert gs.search_efficiency(counts(3, INF), max_saccades=-1).restricted_mean.item() == INF
    none = gs.search_efficiency(counts(INF), max_saccades=3)
    assert none.mean_found.isnan()
    assert none.median_found.isnan()
    assert none.restricted_mean.item() == 4
    assert gs.search_efficiency(counts(), max_saccades=3).restricted_mean.isnan()


def test_categories_count_the_same():
    n_fix, category = counts(1, 1, 1, INF, NAN), torch.tensor([4, 4, 4, 9, 11])
    # 1 of category 4, 0 of category 9; category 11 has no target at all.
    assert gs.cumulative_found(n_fix, max_saccades=2, category=category).tolist() == [0.5, 0.5, 0.5]
    assert gs.cumulative_found(n_fix, max_saccades=2).tolist() == [0.75, 0.75, 0.75]
    assert gs.search_accuracy(n_fix, max_saccades=2, category=category).item() == 0.5
    rng = np.random.default_rng(0)
    n, c = rng.integers(1, 10, 500).astype(float), rng.integers(0, 18, 500) ** 2 // 18
    want = np.mean([[np.mean(n[c == k] <= i) for i in range(1, 8)] for k in np.unique(c)], 0)
    got = gs.cumulative_found(torch.from_numpy(n), max_saccades=6, category=torch.from_numpy(c))
    np.testing.assert_allclose(got, want, **EXACT)
    assert gs.search_accuracy(
        torch.from_numpy(n), max_saccades=6, category=torch.from_numpy(c)
    ).item() == pytest.approx(want[-1], abs=1e-14)


@pytest.mark.parametrize("method", ["spearman", "pearson"])
def test_correlation(method):
    rng = np.random.default_rng(1)
    images = [rng.integers(0, 25, n) for n in (300, 200)]  # image 24 and others may lack one side
    n_fix = [rng.integers(1, 12, len(i)).astype(float) + i % 3 for i in images]
    n_fix[0][::7], n_fix[1][::9] = INF, NAN
    images[0][images[0] == 3] = 30  # seen by the model only
    means = [
        {k: np.mean(np.minimum(n, 7)[(i == k) & ~np.isnan(n)]) for k in np.unique(i[~np.isnan(n)])}
        for n, i in zip(n_fix, images, strict=True)
    ]
    common = sorted(set(means[0]) & set(means[1]))
    assert 20 < len(common) < 25
    a, b = ([m[k] for k in common] for m in means)
    want = (spearmanr if method == "spearman" else pearsonr)(a, b).statistic
    arguments = [torch.from_numpy(t) for t in (n_fix[0], images[0], n_fix[1], images[1])]
    got = gs.search_correlation(*arguments, max_saccades=6, method=method)
    assert got.item() == pytest.approx(want, abs=1e-12)
    swapped = gs.search_correlation(*arguments[2:], *arguments[:2], max_saccades=6, method=method)
    assert swapped.item() == pytest.approx(want, abs=1e-12)
    metric = gs.SearchCorrelation(31, 6, method)
    for part in (slice(0, 100), slice(100, 300)):
        metric.update(arguments[0][part], arguments[1][part], human=False)
        metric.update(arguments[2][part], arguments[3][part], human=True)
    assert metric.compute().item() == pytest.approx(want, abs=1e-12)


def test_correlation_undefined():
    two = torch.tensor([0, 1])
    assert gs.search_correlation(counts(1, 2), two, counts(2, 3), two, max_saccades=5).item() == pytest.approx(1)
    assert gs.search_correlation(counts(1, 2), two, counts(3, 3), two, max_saccades=5).isnan()
    assert gs.search_correlation(counts(1), two[:1], counts(3), two[:1], max_saccades=5).isnan()
    assert gs.search_correlation(counts(1, 2), two, counts(3, 3), two + 2, max_saccades=5).isnan()


def test_target_absent_lengths():
    model = torch.tensor([[True, True, False], [True, True, True], [False, False, False]])
    human = torch.tensor([[True, True, True, True], [True, False, False, False], [False] * 4])
    assert gs.path_length_difference(model, human).tolist() == [-2, 2, 0]
    assert gs.path_length_error(model, human).tolist() == [2, 2, 0]
    bias, error = gs.PathLengthDifference(), gs.PathLengthError()
    for metric in (bias, error):
        metric.update(model[:1], human[:1])
        metric.update(model[1:], human[1:])
    assert bias.compute().item() == 0
    assert error.compute().item() == pytest.approx(4 / 3, abs=1e-15)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("function", [gs.fixations_to_target, gs.scanpath_ratio])
def test_laws(function, rule):
    xy, valid, box = scene(3)
    score = function(xy, valid, box, **rule)
    loop = torch.cat([function(xy[b : b + 1], valid[b : b + 1], box[b : b + 1], **rule) for b in range(len(xy))])
    torch.testing.assert_close(score, loop, rtol=1e-14, atol=0, equal_nan=True)
    for b in range(30):  # padded = unpadded
        keep = valid[b]
        alone = function(xy[b : b + 1, keep], valid[b : b + 1, keep], box[b : b + 1], **rule)
        torch.testing.assert_close(alone, score[b : b + 1], rtol=1e-14, atol=0, equal_nan=True)
    for far in (1e9, INF):  # whatever the padding holds
        other = function(xy.masked_fill(~valid[..., None], far), valid, box, **rule)
        torch.testing.assert_close(other, score, rtol=0, atol=0, equal_nan=True)
    # float32 holds integers and halves exactly; lengths err by a few of its 1e-7.
    single = function(xy.float(), valid, box.float(), **rule)
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), score, rtol=1e-6, atol=0, equal_nan=True)
    whole = function(xy.nan_to_num(0).long(), valid, box, **rule)
    assert whole.dtype == torch.float64
    torch.testing.assert_close(whole, score, rtol=0, atol=0, equal_nan=True)
    # Reflection and shifts move fixations and boxes alike.
    turned = function(200 - xy, valid, 200 - box[:, [2, 3, 0, 1]], **rule)
    torch.testing.assert_close(turned, score, rtol=1e-14, atol=0, equal_nan=True)


def test_has_box_wins_over_the_filler():
    xy, valid, box = scene(4)
    has_box = ~box.isnan().all(1)
    want = gs.fixations_to_target(xy, valid, box)
    for filler in (0.0, -7.0):  # SearchTask holds zeros where there is no box
        got = gs.fixations_to_target(xy, valid, box.nan_to_num(filler), has_box)
        torch.testing.assert_close(got, want, rtol=0, atol=0, equal_nan=True)
    assert gs.fixations_to_target(xy, valid, box, torch.zeros_like(has_box)).isnan().all()


def test_noise_degrades():
    """A searcher who aims worse needs longer, finds less, and goes more roundabout ways."""
    rng = np.random.default_rng(5)
    box = torch.tensor([[300.0, 200, 360, 250]]).double().expand(2000, 4)
    valid = torch.ones(2000, 8, dtype=torch.bool)
    scores = []
    for sigma_px in (10, 40, 120):
        xy = torch.from_numpy(rng.normal([330, 225], sigma_px, (2000, 8, 2)))
        xy[:, 0] = torch.tensor([50.0, 60.0])
        n_fix = gs.fixations_to_target(xy, valid, box)
        curve = gs.cumulative_found(n_fix, max_saccades=7)
        scores.append([gs.tfp_auc(curve), gs.auc_perf(curve), curve[-1], gs.scanpath_ratio(xy, valid, box).nanmean()])
        assert (curve.diff() >= 0).all()
    assert (torch.tensor(scores).diff(dim=0) < 0).all()


def test_empty_and_long():
    box = counts(10, 5, 20, 8)[None]
    for function, want in ((gs.fixations_to_target, INF), (gs.scanpath_ratio, NAN)):
        for n_steps in (0, 1, 5):
            got = function(torch.full((1, n_steps, 2), NAN), torch.zeros(1, n_steps, dtype=torch.bool), box)
            assert got.tolist() == pytest.approx([want], nan_ok=True)
        assert function(torch.zeros(0, 3, 2), torch.zeros(0, 3, dtype=torch.bool), torch.zeros(0, 4)).shape == (0,)
    same = torch.full((1, 1000, 2), 12.0).double()
    assert gs.fixations_to_target(same, torch.ones(1, 1000, dtype=torch.bool), box).isinf().all()
    assert gs.cumulative_found(counts(NAN), max_saccades=2).isnan().all()
    assert gs.cumulative_found(counts(), max_saccades=2).shape == (3,)


@pytest.mark.parametrize("rule", RULES)
def test_classes(rule):
    """Classes over batches of any size give what the functions give on all trials at once."""
    xy, valid, box = scene(6)
    category = torch.arange(len(xy)) % 3
    n_fix = gs.fixations_to_target(xy, valid, box, **rule)
    curve = gs.cumulative_found(n_fix, max_saccades=4, category=category)
    human = torch.linspace(0.1, 0.9, 5)
    limits = torch.arange(len(xy)) % 5 - 1
    want = {
        gs.CumulativeFound(4, 3, **rule): curve,
        gs.TFPAUC(4, 3, **rule): gs.tfp_auc(curve),
        gs.AUCPerf(4, 3, **rule): gs.auc_perf(curve),
        gs.ProbabilityMismatch(human, 3, **rule): gs.probability_mismatch(curve, human.double()),
        gs.ScanpathRatio(**rule): gs.scanpath_ratio(xy, valid, box, **rule).nanmean(),
        gs.SearchAccuracy(3, **rule): gs.search_accuracy(n_fix, max_saccades=limits, category=category),
    }
    efficiency = gs.SearchEfficiency(4, 3, **rule)
    for metric in (*want, efficiency):
        for part in (slice(0, 7), slice(7, 150), slice(150, None)):
            extra = [] if isinstance(metric, gs.ScanpathRatio) else [None, category[part]]
            limit = {"max_saccades": limits[part]} if isinstance(metric, gs.SearchAccuracy) else {}
            metric.update(xy[part], valid[part], box[part], *extra, **limit)
        assert int(metric.n_total) == len(xy)
    for metric, score in want.items():
        torch.testing.assert_close(metric.compute(), score, rtol=1e-13, atol=1e-13)
    for got, score in zip(efficiency.compute(), gs.search_efficiency(n_fix, max_saccades=4), strict=True):
        torch.testing.assert_close(got, score, rtol=1e-13, atol=1e-13)
    assert int(efficiency.n_valid) == int((~n_fix.isnan()).sum()) < len(xy)
    assert efficiency.share_at_start.item() == pytest.approx((n_fix == 1).sum().item() / int(efficiency.n_valid))


def test_two_processes_give_what_one_gives():
    xy, valid, box = scene(7)
    whole, halves = gs.TFPAUC(6), [gs.TFPAUC(6), gs.TFPAUC(6)]
    whole.update(xy, valid, box)
    halves[0].update(xy[:50], valid[:50], box[:50])
    halves[1].update(xy[50:], valid[50:], box[50:])
    for name, reduce in halves[0]._reductions.items():  # what torchmetrics does on several ranks
        setattr(halves[0], name, reduce(torch.stack([getattr(half, name) for half in halves])))
    assert halves[0].compute() == whole.compute()
    assert int(halves[0].n_total) == len(xy)


def test_directions():
    assert gs.TFPAUC(6).higher_is_better
    assert gs.ScanpathRatio().higher_is_better
    assert not gs.ProbabilityMismatch(torch.ones(7)).higher_is_better
    assert not gs.SearchEfficiency(6).higher_is_better


BOX = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
XY, VALID = torch.zeros(1, 3, 2), torch.ones(1, 3, dtype=torch.bool)
TWO = torch.tensor([0, 1])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: gs.fixations_to_target(XY, VALID[0], BOX), r"valid must be \(B, T\) bool"),
        (lambda: gs.fixations_to_target(XY, VALID.long(), BOX), "valid must be"),
        (lambda: gs.fixations_to_target(XY, VALID.logical_xor(TWO.new_tensor([0, 1, 0])), BOX), "trial 0: valid has a"),
        (lambda: gs.fixations_to_target(XY[:, :2], VALID, BOX), r"expected xy_px \(B, T, 2\)"),
        (lambda: gs.fixations_to_target(XY + NAN, VALID, BOX), "trial 0, fixation 0: .* not finite"),
        (lambda: gs.fixations_to_target(XY, VALID, BOX[:, :3]), r"box_px must be \(1, 4\)"),
        (lambda: gs.fixations_to_target(XY, VALID, BOX[:, [2, 1, 0, 3]]), "left < right"),
        (lambda: gs.fixations_to_target(XY, VALID, BOX * 0), "has_box where some"),
        (lambda: gs.fixations_to_target(XY, VALID, BOX * counts(1, 1, 1, NAN)), "trial 0: box"),
        (lambda: gs.fixations_to_target(XY, VALID, BOX * NAN, VALID[:, 0]), "trial 0: box"),
        (lambda: gs.fixations_to_target(XY, VALID, BOX, VALID), r"has_box must be \(1,\) bool"),
        (lambda: gs.fixations_to_target(XY, VALID, BOX, hit="box"), "no hit rule named 'box'"),
        (lambda: gs.fixations_to_target(XY, VALID, BOX, hit="fovea"), "needs fovea_size_wh_px"),
        (lambda: gs.fixations_to_target(XY, VALID, BOX, hit="fovea", fovea_size_wh_px=(0, 1)), "two positive"),
        (lambda: gs.fixations_to_target(XY, VALID, BOX, fovea_size_wh_px=(3, 1)), "say hit='fovea'"),
        (lambda: gs.TFPAUC(6, hit="box"), "no hit rule named"),
        (lambda: gs.found_within(counts(0, 1), max_saccades=3), "trial 0: .* add 1 to a number of saccades"),
        (lambda: gs.found_within(XY, max_saccades=3), r"must be \(B,\)"),
        (lambda: gs.found_within(counts(2, 1), max_saccades=torch.tensor([1, 2, 3])), "one per trial"),
        (lambda: gs.found_within(counts(2, 1), max_saccades=2.5), "max_saccades must be an integer"),
        (lambda: gs.found_within(counts(2, 1), max_saccades=-2), "-1 for no limit"),
        (lambda: gs.cumulative_found(counts(2, 1), max_saccades=-1), "integer of 0 or more"),
        (lambda: gs.cumulative_found(counts(2), max_saccades=1, category=TWO), "category must be integers"),
        (lambda: gs.cumulative_found(counts(2, 1), max_saccades=1, category=counts(1, 2)), "category must be integers"),
        (lambda: gs.probability_mismatch(torch.ones(7), torch.ones(1)), "one max_saccades"),
        (lambda: gs.auc_perf(torch.ones(1)), "no area"),
        (lambda: gs.ProbabilityMismatch(torch.ones(2, 7)), "human must be"),
        (lambda: gs.TFPAUC(6, 3).update(XY, VALID, BOX), "give the category"),
        (lambda: gs.TFPAUC(6, 3).update(XY, VALID, BOX, None, TWO[:1] + 3), "trial 0: category 3 is not among"),
        (lambda: gs.search_correlation(counts(1, 2), TWO, counts(1), TWO, max_saccades=3), "image must be integers"),
        (
            lambda: gs.search_correlation(counts(1, 2), TWO, counts(1, 2), TWO, max_saccades=3, method="kendall"),
            "no correlation named 'kendall'",
        ),
        (lambda: gs.SearchCorrelation(3, 3, "kendall"), "no correlation named"),
        (lambda: gs.path_length_error(VALID, VALID.expand(2, 3)), "give pairs"),
        (lambda: gs.path_length_error(VALID, VALID[0]), "human_valid must be"),
    ],
)
def test_errors(call, message):
    with pytest.raises(InputError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
