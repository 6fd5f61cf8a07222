"""Strings of scanpaths: the definitions in loops, edges of grids, repetition in time, padding and errors."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from gazekit.errors import InputError
from gazekit.metrics import grid_strings
from gazekit.metrics.grid_strings import (
    cluster_symbols,
    grid_symbols,
    label_symbols,
    object_symbols,
    repeat_symbols,
)


def paths(seed=0, n_paths=200, longest=9, size_wh=(40, 30), margin=5.0):
    """float64 paths of 0 to `longest` fixations, some outside the image; padding holds NaN and 1e9."""
    rng = np.random.default_rng(seed)
    xy = rng.uniform(0, 1, (n_paths, longest, 2))
    xy = xy * (np.array(size_wh) + 2 * margin) - margin
    valid = np.arange(longest) < rng.integers(0, longest + 1, n_paths)[:, None]
    xy[~valid] = rng.choice([np.nan, 1e9, -np.inf], (~valid).sum())[:, None]
    return torch.from_numpy(xy), torch.from_numpy(valid)


def one(*xy):
    return torch.tensor([xy], dtype=torch.float64), torch.ones(1, len(xy), dtype=torch.bool)


def test_grid_golden():
    """The points of the ScanMatch example; 4x3 cells of 10x10 px."""
    got = grid_symbols(*one((5, 5), (15, 5), (35, 25)), size_wh_px=(40, 30), bins_wh=(4, 3))
    assert got.tolist() == [[0, 1, 11]]


@pytest.mark.parametrize(
    ("size", "bins"), [((40, 30), (4, 3)), ((41, 29), (5, 5)), ((7, 3), (3, 2)), ((16, 9), (1, 1))]
)
def test_grid_is_the_definition(size, bins):
    xy, valid = paths(1, size_wh=size)
    got = grid_symbols(xy, valid, size_wh_px=size, bins_wh=bins)
    for row, keep, path in zip(got.tolist(), valid.tolist(), xy.tolist(), strict=True):
        for symbol, here, (x, y) in zip(row, keep, path, strict=True):
            if here:
                bx, by = (
                    math.floor(min(max(v, 0.0), s - 1e-9) * n / s) for v, s, n in zip((x, y), size, bins, strict=True)
                )
                assert symbol == by * bins[0] + bx
            else:
                assert symbol == 0


def test_edges_of_the_grid():
    """Trap: a cell of W // n pixels makes an index of n at the right and bottom edge where n does not divide W."""
    edge = one((0, 0), (41, 29), (40.999, 28.999), (-3, -3), (100, 12), (8.2, 0), (8.19, 5.8))
    got = grid_symbols(*edge, size_wh_px=(41, 29), bins_wh=(5, 5))
    assert got.tolist() == [[0, 24, 24, 0, 14, 1, 5]]


def test_single_precision_finds_the_same_cells():
    xy, valid = paths(2)
    xy = xy.float()
    grid = {"size_wh_px": (37, 23), "bins_wh": (7, 5)}
    torch.testing.assert_close(grid_symbols(xy, valid, **grid), grid_symbols(xy.double(), valid, **grid))
    whole = torch.tensor([[[5, 5], [15, 5], [35, 25]]])
    keep = torch.ones(1, 3, dtype=torch.bool)
    assert grid_symbols(whole, keep, size_wh_px=(40, 30), bins_wh=(4, 3)).tolist() == [[0, 1, 11]]


@pytest.mark.parametrize("chunk", [1, 2**20])
def test_clusters_are_the_nearest(chunk, monkeypatch):
    monkeypatch.setattr(grid_strings, "_CHUNK", chunk)
    rng = np.random.default_rng(3)
    xy, valid = paths(3, n_paths=60)
    image = torch.from_numpy(rng.integers(0, 4, 60))
    centers = torch.from_numpy(rng.uniform(0, 40, (4, 6, 2)))
    known = torch.arange(6) < torch.tensor([[6], [1], [3], [4]])
    centers[~known] = torch.nan  # padding is never read
    got = cluster_symbols(xy, valid, centers_px=centers, centers_valid=known, image=image)
    for p, t in valid.nonzero().tolist():
        near = [math.dist(xy[p, t].tolist(), c) for c in centers[image[p]][known[image[p]]].tolist()]
        assert got[p, t] == near.index(min(near))
    assert not got[~valid].any()
    # Equally near: the first.
    assert cluster_symbols(*one((1, 1)), centers_px=torch.tensor([[9.0, 9], [0, 1], [2, 1]])).tolist() == [[1]]


def test_labels_under_fixations():
    rng = np.random.default_rng(4)
    labels = torch.from_numpy(rng.integers(0, 5, (3, 30, 40)).astype(np.uint8))
    xy, valid = paths(4, n_paths=60)
    image = torch.from_numpy(rng.integers(0, 3, 60))
    got = label_symbols(xy, valid, labels=labels, unlabelled={0, 3}, image=image)
    for p, t in valid.nonzero().tolist():
        x, y = (min(max(math.floor(v), 0), s - 1) for v, s in zip(xy[p, t].tolist(), (40, 30), strict=True))
        label = int(labels[image[p], y, x])
        assert got[p, t] == (-1 if label in (0, 3) else label)
    assert (got == -1).any()
    assert (got[valid] > 0).any()
    assert not got[~valid].any()
    # Without unlabelled values, 0 is a label like any other.
    assert label_symbols(*one((1, 0)), labels=torch.tensor([[7, 0]])).tolist() == [[0]]


def test_objects():
    boxes = torch.tensor([[0.0, 0, 10, 10], [5, 5, 20, 10], [30, 0, 40, 10]])
    where = one((5, 5), (12, 6), (10, 0), (24, 5), (20, 5), (29.9, 5), (400, 5))
    # The first of two that contain it; half-open; between boxes the nearest centre: 5, 12.5, 35.
    assert object_symbols(*where, boxes_px=boxes).tolist() == [[0, 1, 0, 2, 1, 2, 2]]
    beside = torch.tensor([[0.0, 0, 10, 10], [10, 0, 20, 10], [0, 10, 10, 20]])
    assert object_symbols(*one((10, 5), (5, 10), (9.9, 9.9)), boxes_px=beside).tolist() == [[1, 2, 0]]
    rng = np.random.default_rng(5)
    corner = rng.uniform(0, 30, (3, 5, 2))
    boxes = torch.from_numpy(np.concatenate([corner, corner + rng.uniform(1, 15, (3, 5, 2))], -1))
    known = torch.arange(5) < torch.tensor([[5], [2], [4]])
    xy, valid = paths(5, n_paths=80)
    image = torch.from_numpy(rng.integers(0, 3, 80))
    got = object_symbols(xy, valid, boxes_px=boxes, boxes_valid=known, image=image)
    n_inside = 0
    for p, t in valid.nonzero().tolist():
        x, y = xy[p, t].tolist()
        here = boxes[image[p]][known[image[p]]].tolist()
        inside = [k for k, (left, top, right, bottom) in enumerate(here) if left <= x < right and top <= y < bottom]
        far = [math.dist((x, y), ((left + right) / 2, (top + bottom) / 2)) for left, top, right, bottom in here]
        n_inside += bool(inside)
        assert got[p, t] == (inside[0] if inside else far.index(min(far)))
    assert 20 < n_inside < int(valid.sum())


def test_objects_agree_with_the_dataset_tables():
    """The dataset frame numbers objects by the same rule; both must stay so."""
    import pandas as pd

    from gazekit.datasets.objects import grid_of_objects, object_of_fixation

    stimuli = pd.DataFrame({"stimulus": ["a"], "width_px": [41], "height_px": [29]})
    table = grid_of_objects(stimuli, 4, 3).drop(index=[2, 7]).reset_index(drop=True)
    xy, valid = paths(6)
    flat = pd.DataFrame(xy[valid].numpy(), columns=["x_px", "y_px"]).assign(stimulus="a")
    boxes = torch.tensor(table.iloc[:, 2:6].to_numpy(float).tolist(), dtype=torch.float64)
    number = torch.tensor(table["object"].tolist())
    got = number[object_symbols(xy, valid, boxes_px=boxes)][valid]
    np.testing.assert_array_equal(got, object_of_fixation(flat, table))


def test_repetition_golden():
    symbols, valid = torch.tensor([[0, 1, 11]]), torch.ones(1, 3, dtype=torch.bool)
    durations = torch.tensor([[0.1, 0.2, 0.1]])
    got, keep = repeat_symbols(symbols, valid, durations, temporal_bin_s=0.1)
    assert got.tolist() == [[0, 1, 1, 11]]
    assert keep.all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_milliseconds_round_half_to_even_in_any_precision(dtype):
    """Every whole number of ms over 50 ms, against integer arithmetic; float32 seconds alone would miss ties."""
    ms = torch.arange(2000)[None]
    valid = torch.ones_like(ms, dtype=torch.bool)
    for rounding, expected in (
        ("half_even", [round(v / 50) for v in range(2000)]),
        ("floor", [v // 50 for v in range(2000)]),
    ):
        seconds = ms.to(dtype) / 1000
        got, keep = repeat_symbols(ms, valid, seconds, temporal_bin_s=0.05, rounding=rounding)
        assert torch.bincount(got[keep], minlength=2000).tolist() == expected
    assert [round(v / 50) for v in (25, 75, 125)] == [0, 2, 2]


def test_repetition_in_a_batch():
    rng = np.random.default_rng(7)
    valid = torch.from_numpy(np.arange(8) < rng.integers(0, 9, 100)[:, None])
    symbols = torch.from_numpy(rng.integers(0, 9, (100, 8)))
    ms = rng.integers(0, 300, (100, 8))
    seconds = torch.from_numpy(ms / 1000.0).masked_fill(~valid, torch.nan)
    got, keep = repeat_symbols(symbols.masked_fill(~valid, 10**9), valid, seconds, temporal_bin_s=0.05)
    n_short = 0
    for p in range(100):
        expected = [int(symbols[p, t]) for t in range(int(valid[p].sum())) for _ in range(round(ms[p, t] / 50))]
        n_short += any(ms[p, t] < 25 for t in range(int(valid[p].sum())))
        assert got[p][keep[p]].tolist() == expected
        assert not (keep[p, 1:] & ~keep[p, :-1]).any()
        assert not got[p][~keep[p]].any()
    assert n_short > 5  # some fixations vanished
    nothing, none = repeat_symbols(symbols[:, :0], valid[:, :0], seconds[:, :0], temporal_bin_s=0.05)
    assert nothing.shape == none.shape == (100, 0)


def test_errors():
    xy, valid = one((1, 1), (2, 2))
    grid = {"size_wh_px": (40, 30), "bins_wh": (4, 3)}
    gap = torch.tensor([[False, True]])
    nan = torch.tensor([[[1.0, 1.0], [float("nan"), 2.0]]])
    symbols = torch.tensor([[1, 2]])
    cases = [
        (lambda: grid_symbols(xy[0], valid, **grid), r"must be \(P, N, 2\)"),
        (lambda: grid_symbols(xy, valid.long(), **grid), "bool"),
        (lambda: grid_symbols(xy, gap, **grid), "pair 0, fixation 1 is valid after one that is not"),
        (lambda: grid_symbols(nan, valid, **grid), "pair 0, fixation 1: .* is not finite"),
        (lambda: grid_symbols(xy, valid, size_wh_px=(40, 30), bins_wh=(4, 0)), "two positive numbers"),
        (lambda: grid_symbols(xy, valid, size_wh_px=(40, 30), bins_wh=(41, 3)), "does not fit 40x30 px"),
        (lambda: grid_symbols(xy, valid, size_wh_px=(40, 30), bins_wh=(4.0, 3.0)), "two positive numbers"),
        (lambda: cluster_symbols(xy, valid, centers_px=xy[0, :0]), "image 0 has none"),
        (lambda: cluster_symbols(xy, valid, centers_px=nan[0]), "image 0, number 1"),
        (lambda: cluster_symbols(xy, valid, centers_px=xy[..., :1]), r"\(K, 2\) or \(I, K, 2\)"),
        (lambda: cluster_symbols(xy, valid, centers_px=xy, centers_valid=valid[0]), "the mask of centers_px"),
        (lambda: cluster_symbols(xy, valid, centers_px=xy.expand(2, 2, 2)), "say with image"),
        (lambda: cluster_symbols(xy, valid, centers_px=xy, image=torch.tensor([1])), "in 0 ... 0; got 1"),
        (lambda: cluster_symbols(xy, valid, centers_px=xy, image=torch.tensor([0.0])), "integers"),
        (lambda: label_symbols(xy, valid, labels=torch.zeros(3, 4)), "integers"),
        (lambda: label_symbols(xy, valid, labels=torch.zeros(4).long()), r"\(H, W\)"),
        (lambda: object_symbols(xy, valid, boxes_px=xy), r"\(K, 4\) or \(I, K, 4\)"),
        (lambda: repeat_symbols(xy[..., 0], valid, xy[..., 0], temporal_bin_s=0.05), "integers"),
        (lambda: repeat_symbols(symbols, valid, xy[0], temporal_bin_s=0.05), "one per fixation"),
        (lambda: repeat_symbols(symbols, valid, -xy[..., 0], temporal_bin_s=0.05), "pair 0, fixation 0: -1.0"),
        (lambda: repeat_symbols(symbols, valid, nan[..., 0], temporal_bin_s=0.05), "pair 0, fixation 1: nan"),
        (lambda: repeat_symbols(symbols, valid, xy[..., 0], temporal_bin_s=0.0), "must be positive"),
        (lambda: repeat_symbols(symbols, valid, xy[..., 0] * 200, temporal_bin_s=0.05), "divide ms by 1000"),
        (lambda: repeat_symbols(symbols, valid, xy[..., 0], temporal_bin_s=1.0, rounding="up"), "'half_even' or 'fl"),
    ]
    for call, message in cases:
        with pytest.raises(InputError, match=message):
            call()
