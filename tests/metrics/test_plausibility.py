"""ScanPath Plausibility: loops over images as the oracle, who is compared with whom, edge cases and errors."""

from __future__ import annotations

import importlib
import math

import numpy as np
import pytest
import torch

from gazekit.errors import InputError
from gazekit.metrics.edit_distance import edit_distance_symbols, prefix_edit_distance
from gazekit.metrics.grid_strings import grid_symbols
from gazekit.metrics.plausibility import ScanPathPlausibility, human_plausibility, plausibility
from gazekit.metrics.scanmatch import scanmatch
from gazekit.metrics.time_delay import string_time_delay

module = importlib.import_module("gazekit.metrics.plausibility")  # the package has a function of this name

SIZE = {"size_wh_px": (40, 30)}
SAME = {"rtol": 1e-12, "atol": 1e-12, "equal_nan": True}


def sets(seed, n_images=5, n_samples=3, n_humans=6, longest=13, shortest=8):
    """Paths around the protocol's 10 fixations, so that some are left out; the last image has no human."""
    rng = np.random.default_rng(seed)
    out = []
    for n_paths in (n_samples, n_humans):
        xy = rng.uniform(0, 1, (n_images, n_paths, longest, 2)) * [40, 30]
        n = rng.integers(shortest, longest + 1, (n_images, n_paths))
        if n_paths == n_humans:
            n[-1] = 0
        valid = np.arange(longest) < n[..., None]
        xy[~valid] = np.nan
        out += [torch.from_numpy(xy), torch.from_numpy(valid)]
    return out


def oracle(model, model_valid, human, human_valid, one_pair, best, n_fix, leave_out=False):
    scores, n_humans, n_samples = [], [], []
    for image in range(len(model)):
        per_sample, met = [], 0
        for s in range(model.shape[1]):
            a = model[image, s][model_valid[image, s]]
            values = []
            for h in range(human.shape[1]):
                b = human[image, h][human_valid[image, h]]
                if min(len(a), len(b)) >= n_fix and not (leave_out and s == h):
                    values.append(one_pair(a[:n_fix], b[:n_fix]))
            if values:
                per_sample.append(best(values))
                met = max(met, len(values))
        scores.append(sum(per_sample) / len(per_sample) if per_sample else math.nan)
        n_humans.append(met)
        n_samples.append(len(per_sample))
    return scores, n_humans, n_samples


def alone(function, **options):
    def one_pair(a, b):
        keep = [torch.ones(1, len(p), dtype=torch.bool) for p in (a, b)]
        return function(a[None], keep[0], b[None], keep[1], **options).item()

    return one_pair


def mean(values):
    return sum(values) / len(values)


@pytest.mark.parametrize("reduce", ["best", "mean"])
@pytest.mark.parametrize("metric", ["sbtde", "sed"])
def test_loops(metric, reduce):
    data = sets(0)
    function = string_time_delay if metric == "sbtde" else prefix_edit_distance
    lengths = {"k": range(1, 11)} if metric == "sbtde" else {"lengths": range(1, 11)}
    pair = alone(function, **SIZE, bins_wh=(4, 4), **lengths)
    got = plausibility(*data, metric=metric, reduce=reduce, **SIZE)
    scores, n_humans, n_samples = oracle(*data, pair, min if reduce == "best" else mean, 10)
    np.testing.assert_allclose(got.score, scores, **SAME)
    assert got.n_humans.tolist() == n_humans
    assert got.n_samples.tolist() == n_samples
    assert n_humans[-1] == n_samples[-1] == 0
    assert min(n_humans[:-1]) < 6  # some humans were too short
    ceiling = human_plausibility(*data[2:], metric=metric, reduce=reduce, **SIZE)
    scores, n_humans, n_samples = oracle(*data[2:], *data[2:], pair, min if reduce == "best" else mean, 10, True)
    np.testing.assert_allclose(ceiling.score, scores, **SAME)
    assert ceiling.n_humans.tolist() == n_humans
    assert ceiling.n_samples.tolist() == n_samples


def test_short_paths_are_left_out_even_where_the_metric_takes_them():
    data = sets(11, shortest=4)
    got = plausibility(*data, **SIZE, k=[1, 2])
    scores, n_humans, n_samples = oracle(*data, alone(string_time_delay, **SIZE, k=[1, 2]), min, 10)
    np.testing.assert_allclose(got.score, scores, **SAME)
    assert (got.n_humans.tolist(), got.n_samples.tolist()) == (n_humans, n_samples)


@pytest.mark.parametrize(("higher", "best"), [(True, max), (False, min)])
def test_a_metric_of_ones_own(higher, best):
    data = sets(1, shortest=0)

    def metric(*pairs):
        return scanmatch(*pairs, **SIZE, bins_wh=(4, 3))

    got = plausibility(*data, metric=metric, higher_is_better=higher, n_fix=None)
    expected = oracle(*data, alone(metric), best, 1)
    # Here whole paths are compared.
    whole = [best_over(data, image, metric, best) for image in range(5)]
    np.testing.assert_allclose(got.score, whole, **SAME)
    assert got.n_humans.tolist() == expected[1]


def best_over(data, image, metric, best):
    model, model_valid, human, human_valid = (t[image] for t in data)
    pair = alone(metric)
    found = []
    for s in range(len(model)):
        values = [
            pair(model[s][model_valid[s]], human[h][human_valid[h]])
            for h in range(len(human))
            if model_valid[s].any() and human_valid[h].any()
        ]
        found += [best(values)] if values else []
    return mean(found) if found else math.nan


def test_scores_that_are_undefined_leave_a_human_out():
    """A metric's own NaN (here: paths too short for k) is no score of 0, and is not counted."""
    data = sets(2, shortest=3)
    got = plausibility(*data, metric="sbtde", **SIZE, k=range(1, 9), n_fix=None)
    long = [t.sum(-1) >= 8 for t in (data[1], data[3])]
    assert got.n_humans.tolist() == [int(h.sum()) if s.any() else 0 for s, h in zip(*long, strict=True)]
    assert got.n_samples.tolist() == [int(s.sum()) if h.any() else 0 for s, h in zip(*long, strict=True)]
    assert (got.n_humans < (data[3].sum(-1) > 0).sum(-1)).any()
    assert torch.equal(got.per_sample.isnan(), ~long[0] | ~long[1].any(-1, keepdim=True))


def test_laws():
    model, model_valid, human, human_valid = sets(3, shortest=10)
    keep = slice(0, 4)
    model, model_valid, human, human_valid = model[keep], model_valid[keep], human[keep], human_valid[keep]
    # A human's own path is the closest of all.
    own = plausibility(human[:, :2], human_valid[:, :2], human, human_valid, **SIZE)
    assert not own.score.any()
    assert own.n_humans.tolist() == [6] * 4
    # Best is no farther than the mean, and more humans bring it closer.
    best = plausibility(model, model_valid, human, human_valid, **SIZE)
    average = plausibility(model, model_valid, human, human_valid, reduce="mean", **SIZE)
    assert (best.per_sample <= average.per_sample).all()
    fewer = plausibility(model, model_valid, human[:, :2], human_valid[:, :2], **SIZE)
    assert (best.per_sample <= fewer.per_sample).all()
    assert best.score.mean() < fewer.score.mean()
    # Padding does not matter, in fixations nor in humans.
    noise = [t.nan_to_num(1e9) for t in (model, human)]
    more = [torch.cat([noise[1], noise[1][:, :2] * 0], 1), torch.cat([human_valid, human_valid[:, :2] & False], 1)]
    again = plausibility(noise[0], model_valid, *more, **SIZE)
    torch.testing.assert_close(again.score, best.score, **SAME)
    assert torch.equal(again.n_humans, best.n_humans)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_BLOCK", 5)
        again = plausibility(model, model_valid, human, human_valid, **SIZE)
    torch.testing.assert_close(again.score, best.score, **SAME)


def test_defaults():
    """Best human, 4x4 cells, string-based time delay over 1 to 10, first 10 fixations."""
    data = sets(4)
    explicit = {"metric": "sbtde", "reduce": "best", "bins_wh": (4, 4), "k": range(1, 11), "n_fix": 10}
    for function, paths in ((plausibility, data), (human_plausibility, data[2:])):
        torch.testing.assert_close(function(*paths, **SIZE).score, function(*paths, **SIZE, **explicit).score, **SAME)


def test_no_images_samples_or_humans():
    data = sets(5)
    for part in (
        [t[:0] for t in data],
        [*(t[:, :0] for t in data[:2]), *data[2:]],
        [*data[:2], *(t[:, :0] for t in data[2:])],
    ):
        got = plausibility(*part, **SIZE)
        assert got.score.shape == (len(part[0]),)
        assert got.score.isnan().all()
        assert not got.n_humans.any()
        assert not got.n_samples.any()


def test_single_precision():
    data = [t.float() if t.is_floating_point() else t for t in sets(6)]
    got = plausibility(*data, **SIZE)
    assert got.score.dtype == torch.float32
    twice = plausibility(*[t.double() if t.is_floating_point() else t for t in data], **SIZE)
    # The same strings; means of multiples of 1/k in [0, 1].
    torch.testing.assert_close(got.score.double(), twice.score, rtol=0, atol=1e-6, equal_nan=True)


def test_class():
    data = sets(7, n_images=9)
    metric = ScanPathPlausibility(metric="sed", **SIZE)
    for rows in (slice(0, 2), slice(2, 9)):
        metric.update(*(t[rows] for t in data))
    expected = plausibility(*data, metric="sed", **SIZE)
    torch.testing.assert_close(metric.compute(), expected.score.nanmean(), rtol=1e-12, atol=0)
    assert (int(metric.n_total), int(metric.n_valid)) == (9, int((~expected.score.isnan()).sum()))
    assert int(metric.n_humans) == int(expected.n_humans[~expected.score.isnan()].sum())
    assert metric.higher_is_better is False

    def similarity(*pairs):
        return scanmatch(*pairs, **SIZE, bins_wh=(4, 3))

    assert ScanPathPlausibility(metric=similarity, higher_is_better=True).higher_is_better is True


def test_prefixes_are_of_the_first_ten():
    """Fixations after the tenth do not count, and the edit distance is over prefixes of both."""
    model, model_valid, human, human_valid = sets(8, n_images=1, n_samples=1, n_humans=2, shortest=12)
    human_valid = model_valid.expand_as(human_valid).clone()
    human = torch.from_numpy(np.random.default_rng(9).uniform(0, 1, human.shape) * [40, 30])
    got = plausibility(model, model_valid, human[:, :1], human_valid[:, :1], metric="sed", **SIZE)
    keep = torch.ones(1, 10, dtype=torch.bool)
    x, y = (grid_symbols(p[0, :1, :10], keep, **SIZE, bins_wh=(4, 4)) for p in (model, human))
    each = [
        edit_distance_symbols(x[:, :k], keep[:, :k], y[:, :k], keep[:, :k], transpositions=True).item()
        for k in range(1, 11)
    ]
    assert got.score.item() == pytest.approx(mean(each), abs=1e-12)


def test_errors():
    data = sets(10)
    for call, message in (
        (lambda: plausibility(data[0][0], data[1][0], *data[2:], **SIZE), r"model_px \(I, S, T, 2\)"),
        (lambda: plausibility(*data[:2], data[2], data[3].long(), **SIZE), r"human_px \(I, S, T, 2\)"),
        (lambda: plausibility(*data[:2], *(t[:2] for t in data[2:]), **SIZE), "the same images; got 5 and 2"),
        (lambda: plausibility(*data), "give size_wh_px"),
        (lambda: plausibility(*data, **SIZE, metric="dtw"), "'sbtde', 'sed' or a function"),
        (lambda: plausibility(*data, **SIZE, reduce="min"), "'best' or 'mean'"),
        (lambda: plausibility(*data, **SIZE, n_fix=5), "k goes to 10"),
        (lambda: plausibility(*data, **SIZE, n_fix=0), "n_fix must be"),
        (lambda: plausibility(*data, **SIZE, k=[]), "one or more"),
        (lambda: plausibility(*data, metric=scanmatch), "higher_is_better=True or False"),
        (lambda: plausibility(*data, **SIZE, higher_is_better=True), "'sbtde' is a distance"),
        (lambda: plausibility(data[0] * torch.nan, *data[1:], **SIZE), "not finite"),
        (lambda: human_plausibility(data[2][0], data[3][0], **SIZE), r"human_px \(I, S, T, 2\)"),
        (lambda: ScanPathPlausibility(metric=scanmatch), "higher_is_better=True or False"),
    ):
        with pytest.raises(InputError, match=message):
            call()
