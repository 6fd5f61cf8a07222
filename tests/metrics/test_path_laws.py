"""What holds for every path metric: identity, symmetry, batches, padding, precision, noise and edge cases."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
import torch

from gazekit import InputError
from gazekit.metrics.path_registry import PATH_METRICS

SIZE = (801, 397)
NAMES = sorted(PATH_METRICS)
DISTANCE_OF_PATHS = [name for name in NAMES if not name.startswith("crqa")]


def paths(n_pairs, lengths, seed=0, dtype=torch.float64):
    """(P, T, 2) positions, (P, T) valid and (P, T) durations; padding holds far-away places."""
    rng = np.random.default_rng(seed)
    steps = max(lengths)
    xy = rng.random((n_pairs, steps, 2)) * SIZE
    valid = np.arange(steps) < np.resize(lengths, n_pairs)[:, None]
    duration = rng.uniform(0.08, 0.6, (n_pairs, steps))
    xy[~valid], duration[~valid] = 1e9, np.nan
    return torch.from_numpy(xy).to(dtype), torch.from_numpy(valid), torch.from_numpy(duration).to(dtype)


def score(name, a, b):
    return PATH_METRICS[name](a[0], a[1], b[0], b[1], a_duration_s=a[2], b_duration_s=b[2], size_wh_px=SIZE)


A, B = paths(24, (10, 13, 17, 12), 1), paths(24, (12, 11, 16, 18, 10), 2)


@pytest.mark.parametrize("name", NAMES)
def test_rows_say_what_the_functions_take(name):
    info = PATH_METRICS[name]
    assert info.name == name
    assert info.label
    taken = set(inspect.signature(info.function).parameters)
    if "parameters" not in taken:
        assert info.needs_size is ("size_wh_px" in taken)


@pytest.mark.parametrize("name", NAMES)
def test_scores_are_finite_and_one_per_pair(name):
    got = score(name, A, B)
    assert got.shape == (24,)
    assert got.dtype == torch.float64
    assert got.isfinite().float().mean() > 0.9 or name.startswith("crqa")  # no recurrence, no structure


@pytest.mark.parametrize("name", NAMES)
def test_a_path_against_itself(name):
    info = PATH_METRICS[name]
    got = score(name, A, A)
    if np.isnan(info.identity):
        assert not torch.equal(got, score(name, A, B))
    else:
        torch.testing.assert_close(got, torch.full_like(got, info.identity), atol=1e-9, rtol=0)


@pytest.mark.parametrize("name", NAMES)
def test_symmetry_where_it_is_claimed(name):
    forth, back = score(name, A, B), score(name, B, A)
    if PATH_METRICS[name].symmetric:
        torch.testing.assert_close(forth, back, rtol=1e-9, atol=1e-9, equal_nan=True)
    elif name == "crqa_corm":
        torch.testing.assert_close(forth, -back, rtol=1e-9, atol=1e-9, equal_nan=True)
    elif not name.startswith("multimatch"):  # symmetric but for ties among equally short alignments
        assert not torch.allclose(forth, back, equal_nan=True)


@pytest.mark.parametrize("name", NAMES)
def test_batch_equals_loop_and_padding_does_not_matter(name):
    got = score(name, A, B)
    for row in range(len(got)):
        n, m = int(A[1][row].sum()), int(B[1][row].sum())
        one = score(name, [t[row : row + 1, :n] for t in A], [t[row : row + 1, :m] for t in B])
        torch.testing.assert_close(one[0], got[row], rtol=1e-9, atol=1e-9, equal_nan=True)
    wide = [torch.nn.functional.pad(t, (0, 0, 0, 5) if t.ndim == 3 else (0, 5)) for t in A]
    torch.testing.assert_close(score(name, wide, B), got, rtol=1e-9, atol=1e-9, equal_nan=True)


@pytest.mark.parametrize("name", NAMES)
def test_single_precision_is_close(name):
    single = [[t.float() if t.is_floating_point() else t for t in side] for side in (A, B)]
    double = [[t.double() if t.is_floating_point() else t for t in side] for side in single]
    got, expected = score(name, *single), score(name, *double)
    assert got.dtype == torch.float32
    # Positions are the same numbers on both sides; sums of some tens of terms are rounded.
    torch.testing.assert_close(got.double(), expected, rtol=2e-4, atol=2e-4, equal_nan=True)


@pytest.mark.parametrize("name", DISTANCE_OF_PATHS)
def test_noise_makes_it_worse(name):
    info = PATH_METRICS[name]
    a = paths(400, (12,), 5)
    noise = torch.from_numpy(np.random.default_rng(6).standard_normal(a[0].shape))
    jitter = torch.from_numpy(np.random.default_rng(7).uniform(0.0, 1.0, a[2].shape))
    means = [
        score(name, a, (a[0] + sigma * noise, a[1], a[2] + sigma / 100 * jitter)).nanmean().item()
        for sigma in (0.0, 15.0, 60.0, 200.0)
    ]
    steps = np.diff(means)
    assert (steps < 0).all() if info.higher_is_better else (steps > 0).all(), means


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("n", "m"), [(0, 0), (0, 5), (1, 1), (1, 6), (2, 2), (3, 1)])
def test_short_paths_are_defined_or_counted_as_missing(name, n, m):
    short = [tuple(t[:3] for t in paths(3, (max(length, 1),), length)) for length in (n, m)]
    for side, length in zip(short, (n, m), strict=True):
        side[1][:, length:] = False
    got = score(name, *short)
    assert got.shape == (3,)
    assert not got.isinf().any()
    if min(n, m) >= PATH_METRICS[name].min_length > 0 and not name.startswith("crqa"):
        assert not got.isnan().any()


@pytest.mark.parametrize("name", NAMES)
def test_fixations_that_are_all_the_same(name):
    a = paths(4, (12,), 3)
    still = (torch.full_like(a[0], 50.0), a[1], a[2])
    assert not score(name, still, still).isinf().any()
    assert not score(name, still, a).isinf().any()


@pytest.mark.parametrize("name", [name for name in NAMES if name != "mannan_similarity"])
def test_a_thousand_fixations(name):
    a, b = paths(2, (1000,), 3), paths(2, (1000,), 4)
    got = score(name, a, b)
    assert got.isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_fixations_off_the_image_are_kept_or_clipped(name):
    off = (A[0].clone(), A[1], A[2])
    off[0][:, 1] = torch.tensor([-70.0, 900.0], dtype=torch.float64)
    got = score(name, off, B)
    assert not got.isinf().any()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_position_that_is_none_is_refused(name, bad):
    broken = A[0].clone()
    broken[3, 2, 1] = bad
    with pytest.raises(InputError, match=r"3\b.*\b2") as caught:
        score(name, (broken, *A[1:]), B)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", NAMES)
def test_a_mask_with_holes_is_refused(name):
    holes = A[1].clone()
    holes[0, 1] = False
    with pytest.raises(InputError):
        score(name, (A[0], holes, A[2]), B)


def test_unknown_name():
    with pytest.raises(InputError, match="no path metric named 'scanmach'; did you mean 'scanmatch'"):
        PATH_METRICS["scanmach"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_is_close():
    for name in NAMES:
        a, b = ([tensor.cuda() for tensor in side] for side in (A, B))
        # Float64 on both: other orders of sums alone.
        torch.testing.assert_close(score(name, a, b).cpu(), score(name, A, B), rtol=1e-9, atol=1e-9, equal_nan=True)
