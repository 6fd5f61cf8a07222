"""Windows, tiles, plans and tile order against the definition, pair by pair; what is counted against known counts."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from gazekit import InputError
from gazekit.kernels import (
    BiasFactors,
    TileLayout,
    Window,
    block_sparse_attention,
    dense_attention,
    estimate_speedup,
    neighborhood_attention,
    neighborhood_weights,
    plan_band,
    plan_blocks,
    plan_ranges,
    plan_runs,
    plan_windows,
    suggest_windows,
    window_mask,
)
from gazekit.kernels.window import axis_mask, axis_tiles
from tests.kernels.scenes import randn
from tests.kernels.scenes_windows import mask_by_loop, sees

EXACT = {"rtol": 1e-12, "atol": 1e-12}  # float64 sums of a few dozen terms


@st.composite
def axes(draw, longest=14):
    length = draw(st.integers(1, longest))
    dilation = draw(st.integers(1, min(3, length)))
    size = draw(st.integers(1, length // dilation))
    return length, Window(size, draw(st.integers(1, size)), dilation, draw(st.booleans()))


# Hassani et al. (2025), NATTEN 0.21.6: first and last key of query 0, 1, 2, ...
@pytest.mark.parametrize(
    ("length", "window", "expected"),
    [
        (7, Window(4), [(0, 3), (0, 3), (0, 3), (1, 4), (2, 5), (3, 6), (3, 6)]),
        (7, Window(4, 2), [(0, 3), (0, 3), (1, 4), (1, 4), (3, 6), (3, 6), (3, 6)]),
        (7, Window(4, 4), [(0, 3)] * 4 + [(3, 6)] * 3),
        (7, Window(4, 2, causal=True), [(0, 0), (0, 1), (0, 2), (0, 3), (2, 4), (2, 5), (3, 6)]),
        (8, Window(3, 2), [(0, 2), (0, 2), (2, 4), (2, 4), (4, 6), (4, 6), (5, 7), (5, 7)]),
    ],
)
def test_known_windows(length, window, expected):
    keys = [row.nonzero()[:, 0].tolist() for row in axis_mask(length, window)]
    assert keys == [list(range(a, b + 1)) for a, b in expected]


def test_known_dilated_window():
    keys = [row.nonzero()[:, 0].tolist() for row in axis_mask(7, Window(2, dilation=2))]
    assert keys == [[0, 2], [1, 3], [0, 2], [1, 3], [2, 4], [3, 5], [4, 6]]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(axes(6), min_size=1, max_size=3))
def test_masks_are_the_definition_pair_by_pair(along):
    grid, windows = zip(*along, strict=True)
    assert torch.equal(window_mask(grid, windows), mask_by_loop(grid, windows))


@settings(max_examples=80, deadline=None, derandomize=True)
@given(axes(24))
def test_every_query_sees_as_many_keys_as_the_window_has(axis):
    length, window = axis
    seen = axis_mask(length, window).sum(-1)
    if window.causal:
        assert (seen >= 1).all()
        assert (seen <= window.size).all()
    else:
        assert (seen == window.size).all()


@settings(max_examples=150, deadline=None, derandomize=True)
@given(axes(24), st.sampled_from([1, 2, 4, 8]), st.sampled_from([1, 2, 4, 8]))
def test_tile_tables_are_exact(axis, tile_q, tile_k):
    length, window = axis
    d = window.dilation
    tiles = axis_tiles(length, window, tile_q, tile_k)
    for group in range(d):
        members = list(range(group, length, d))
        for t in range(tiles.n_queries):
            queries = members[t * tile_q : (t + 1) * tile_q]
            visitors = []
            for u in range(tiles.n_keys):
                keys = members[u * tile_k : (u + 1) * tile_k]
                pairs = [sees(i, j, length, window) for i in queries for j in keys]
                assert any(pairs) == bool(tiles.lo[group, t] <= u < tiles.hi[group, t])
                visitors.append(any(pairs))
                if pairs:
                    assert all(pairs) == bool(tiles.full_lo[group, t] <= u < tiles.full_hi[group, t])


# Counted by hand from the definition, and published for FLUX and Hunyuan (NATTEN's documentation).
@pytest.mark.parametrize(
    ("grid", "k", "s", "tile_q", "tile_k", "flop", "tile", "full"),
    [
        ((64, 64), 8, 8, 8, 8, 64, 64, 1.0),
        ((64, 64), 13, 1, 8, 8, 24.2, 8.46, 0.0),
        ((64, 64), 16, 8, 8, 8, 16, 8.46, 0.21),
        ((64, 64), 16, 16, (16, 8), 8, 16, 16, 1.0),
        ((64, 64), 24, 1, 8, 8, 7.1, 3.54, None),
        ((64, 64), 24, 8, 8, 8, 7.1, 7.11, 1.0),
        ((64, 64), 24, 8, 8, (16, 8), 7.1, 5.33, 0.5),
        ((37, 37), 13, 1, 8, 8, 8.1, 3.7, 0.02),
        ((40, 40), 24, 8, 8, 8, 2.8, 2.78, 1.0),
        ((48, 64), 24, 8, 8, 8, 5.3, 5.33, 1.0),
        ((128, 128), 32, 16, (16, 8), (16, 8), 16, 11.6, 0.45),
        ((256, 256), 80, 16, (16, 8), (16, 8), 10.24, 10.24, 1.0),
        ((256, 256), 80, 1, (16, 8), (16, 8), 10.24, 7.51, 0.5),
    ],
)
def test_known_savings(grid, k, s, tile_q, tile_k, flop, tile, full):
    got = estimate_speedup(grid, [Window(k, s)] * 2, tile_q, tile_k)
    assert got.flop == pytest.approx(flop, rel=0.01)
    assert got.tile == pytest.approx(tile, rel=0.01)
    if full is not None:
        assert got.full_fraction == pytest.approx(full, abs=0.01)
        assert got.perfect == (full == 1.0)


def test_known_savings_in_three_axes():
    got = estimate_speedup((30, 48, 80), [Window(18, 16), Window(24, 8), Window(24, 8)], (2, 8, 8))
    assert got.flop == pytest.approx(11.1, abs=0.05)
    assert got.tile == pytest.approx(11.1, abs=0.05)
    assert got.perfect


def test_suggestions_are_as_large_as_asked_and_fall_on_tiles():
    found = suggest_windows((64, 64), 20)
    assert found[0].windows == (Window(24, 8), Window(24, 8))
    assert found[0].estimate.perfect
    speed = [s.estimate.tile for s in found]
    assert speed == sorted(speed, reverse=True)
    assert all(w.size >= 20 for s in found for w in s.windows)
    # An axis shorter than the size asked for is seen whole.
    assert suggest_windows((16, 64), 20)[0].windows[0].size == 16


# Plans


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(axes(9), min_size=1, max_size=3), st.data())
def test_plans_of_windows_allow_what_the_windows_do(along, data):
    grid, windows = zip(*along, strict=True)
    edge = st.sampled_from([1, 2, 4])
    tile_q, tile_k = ([data.draw(edge) for _ in grid] for _ in range(2))
    mask = window_mask(grid, windows)
    assert torch.equal(plan_windows(grid, windows, tile_q, tile_k, tiled=False).dense_mask()[0, 0], mask)
    tiled = plan_windows(grid, windows, tile_q, tile_k)
    rows_q, rows_k = tiled.layout_q.rows(), tiled.layout_k.rows()
    expected = mask[rows_q.clamp(min=0)][:, rows_k.clamp(min=0)] & (rows_q >= 0)[:, None] & (rows_k >= 0)
    assert torch.equal(tiled.dense_mask()[0, 0], expected)


def test_plans_of_bands_ranges_blocks_and_runs():
    i, j = torch.arange(13)[:, None], torch.arange(11)
    assert torch.equal(plan_band(13, 11, after=0, tile_q=4, tile_k=4).dense_mask()[0, 0], j <= i)
    cut = plan_band(13, 11, before=3, after=2, tile_q=4, tile_k=8).dense_mask()[0, 0]
    assert torch.equal(cut, (i - 3 <= j) & (j <= i + 2))
    # Three sequences packed into one row: nobody sees another's tokens.
    which = torch.tensor([0] * 5 + [1] * 1 + [2] * 7)
    start, end = torch.searchsorted(which, which), torch.searchsorted(which, which, right=True)
    packed = plan_ranges(start, end, 13, tile_q=4, tile_k=4).dense_mask()[0, 0]
    assert torch.equal(packed, which[:, None] == which)
    blocks = torch.rand(2, 3, 4, 3, generator=torch.Generator().manual_seed(0)) < 0.5
    whole = blocks.repeat_interleave(4, -1).repeat_interleave(4, -2)[..., :13, :11]
    assert torch.equal(plan_blocks(blocks, 13, 11, 4, 4).dense_mask(), whole)
    assert torch.equal(plan_blocks(blocks, 13, 11, 4, 4, causal=True).dense_mask(), whole & (j <= i))
    runs = plan_runs([[(3, 2), (6, 5)], [], [(0, 11)], []], 13, 11, 4, 4).dense_mask()[0, 0]
    expected = torch.zeros(13, 11, dtype=torch.bool)
    expected[:4, 3:5] = expected[:4, 6:11] = expected[8:12] = True
    assert torch.equal(runs, expected)


@pytest.mark.parametrize(
    ("match", "make"),
    [
        (r"Window\(size=3, stride=4.*stride from 1 to the size", lambda: Window(3, 4)),
        (r"axis 1 of grid \(5, 6\) has 6 tokens, too few for Window\(size=4.*at most 6",
         lambda: plan_windows((5, 6), [Window(3), Window(4, dilation=2)])),
        (r"grid \(5, 6\) needs 2 windows, one per axis, found 1", lambda: window_mask((5, 6), [3])),
        (r"plan_ranges: start falls from 2 at query 0 to 1",
         lambda: plan_ranges(torch.tensor([2, 1]), torch.tensor([3, 3]), 3)),
        (r"plan_ranges: end must lie in 0\.\.3, found 3\.\.4",
         lambda: plan_ranges(torch.tensor([0, 0]), torch.tensor([3, 4]), 3)),
        (r"plan_blocks: expected a bool mask \(\.\.\., 1, 1\).*found torch.bool \(2, 2\)",
         lambda: plan_blocks(torch.ones(2, 2, dtype=torch.bool), 5, 5)),
        (r"plan_runs: tile 0: run \(2, 2\) overlaps the one before, to row 2",
         lambda: plan_runs([[(0, 3), (2, 2)]], 5, 5)),
        (r"plan_runs: tile 0: run \(4, 2\) is not within the 5 keys", lambda: plan_runs([[(4, 2)]], 5, 5)),
        (r"TileLayout: expected \(B, 5, 6, \.\.\.\), found \(1, 6, 5\)",
         lambda: TileLayout((5, 6), 2).to_tiles(torch.zeros(1, 6, 5))),
        (r"the plan is for 36 queries and 36 keys, found 25 and 25; a plan of windows wants its rows in tile order",
         lambda: block_sparse_attention(*[torch.zeros(1, 25, 1, 4)] * 3, plan_windows((5, 5), [3, 3], 2))),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_one_line(match, make):
    with pytest.raises(InputError, match=match) as caught:
        make()
    assert "\n" not in str(caught.value)


# Tile order


@pytest.mark.parametrize(
    ("grid", "tile", "dilation"),
    [((13,), 4, 1), ((13,), 4, 3), ((7, 9), (2, 4), (1, 2)), ((8, 16), 8, 1), ((3, 5, 4), (2, 2, 4), (2, 1, 1))],
)
def test_tile_order_and_back(grid, tile, dilation):
    layout = TileLayout(grid, tile, dilation)
    x = randn(2, *grid, 3).requires_grad_()
    tiled = layout.to_tiles(x)
    assert tiled.shape == (2, layout.n_tokens, 3)
    assert torch.equal(layout.from_tiles(tiled), x)
    rows = layout.rows()
    assert torch.equal(tiled[:, rows >= 0], x.flatten(1, -2)[:, rows[rows >= 0]])
    assert (tiled[:, rows < 0] == 0).all()
    # One tile is one run of memory: a box of the grid, with the dilation as its step.
    places = torch.stack(torch.meshgrid(*map(torch.arange, grid), indexing="ij"), -1).flatten(0, -2)
    for run in rows.view(layout.n_tiles, -1):
        real = places[run[run >= 0]]
        if len(real):
            steps = torch.tensor(layout.dilation)
            assert ((real - real[0]) % steps == 0).all()
            assert ((real.amax(0) - real.amin(0)) // steps < torch.tensor(layout.tile)).all()
    # The adjoint of a permutation with padding is its inverse.
    upstream = randn(*tiled.shape, seed=1)
    (grad,) = torch.autograd.grad(tiled, x, upstream)
    assert torch.equal(grad, layout.from_tiles(upstream))


# Attention in windows


def qkv(grid, H=2, Hk=2, D=4, Dv=4, B=2):
    return randn(B, *grid, H, D, seed=1), randn(B, *grid, Hk, D, seed=2), randn(B, *grid, Hk, Dv, seed=3)


engines = pytest.mark.parametrize("backend", ["torch", "reference"])


def sdpa(q, k, v, **kwargs):
    q, k, v = (x.flatten(1, -3).transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, **kwargs).transpose(1, 2)


@engines
def test_windows_that_see_all_are_dense_attention(backend):
    q, k, v = qkv((4, 6))
    whole = sdpa(q, k, v).unflatten(1, (4, 6))
    torch.testing.assert_close(neighborhood_attention(q, k, v, (4, 6), backend=backend), whole, **EXACT)
    torch.testing.assert_close(neighborhood_attention(q, k, v, (4, 6), backend="sdpa"), whole, **EXACT)


@engines
def test_blocks_are_dense_attention_within_blocks(backend):
    q, k, v = qkv((4, 9))
    got = neighborhood_attention(q, k, v, (Window(2, 2), Window(3, 3)), backend=backend)
    for top, left in itertools.product(range(0, 4, 2), range(0, 9, 3)):
        block = (slice(None), slice(top, top + 2), slice(left, left + 3))
        expected = sdpa(q[block], k[block], v[block]).unflatten(1, (2, 3))
        torch.testing.assert_close(got[block], expected, **EXACT)


@engines
def test_a_causal_window_is_a_band(backend):
    q, k, v = qkv((11,))
    i, j = torch.arange(11)[:, None], torch.arange(11)
    expected = sdpa(q, k, v, attn_mask=(j <= i) & (i - j < 4))
    got = neighborhood_attention(q, k, v, [Window(4, causal=True)], backend=backend)
    torch.testing.assert_close(got, expected, **EXACT)


@engines
def test_exchanged_axes_give_the_exchanged_result(backend):
    q, k, v = qkv((5, 9))
    windows = Window(3, 2), Window(4, 1, 2, True)
    got = neighborhood_attention(q, k, v, windows, backend=backend)
    flipped = neighborhood_attention(*(x.transpose(1, 2) for x in (q, k, v)), windows[::-1], backend=backend)
    torch.testing.assert_close(flipped.transpose(1, 2), got, **EXACT)


@engines
def test_interior_moves_along_with_the_image(backend):
    window, shift = Window(3, 2, dilation=2), 4  # stride times dilation
    q, k, v = qkv((40,), B=1)
    moved = [x.roll(shift, 1) for x in (q, k, v)]
    got, after = (neighborhood_attention(*x, [window], backend=backend) for x in ((q, k, v), moved))
    torch.testing.assert_close(after[:, 12:36], got[:, 12 - shift : 36 - shift], **EXACT)


@engines
@pytest.mark.parametrize("grid", [(1, 5), (1,), (2, 3, 1)])
def test_axes_of_one_token(grid, backend):
    q, k, v = qkv(grid)
    got = neighborhood_attention(q, k, v, [Window(1)] * len(grid), backend=backend)
    torch.testing.assert_close(got, v, **EXACT)  # each sees itself alone


@engines
def test_padding_is_not_seen_whatever_it_holds(backend):
    q, k, v = qkv((5, 7))
    valid = torch.ones(2, 5, 7, dtype=torch.bool)
    valid[0, :, 5:] = valid[1, 2:] = False
    allowed = window_mask((5, 7), (3, 3)) & valid.flatten(1)[:, None, None]
    expected, lse = dense_attention(*(x.flatten(1, 2) for x in (q, k, v)), allowed=allowed)
    k, v = (torch.where(valid[..., None, None], x, torch.nan).requires_grad_() for x in (k, v))
    q.requires_grad_()
    got, got_lse = neighborhood_attention(q, k, v, (3, 3), valid=valid, return_lse=True, backend=backend)
    # Queries far inside the padding see no key at all.
    assert (lse == -torch.inf).any()
    torch.testing.assert_close(got.flatten(1, 2), expected, **EXACT)
    torch.testing.assert_close(got_lse.flatten(1, 2), lse, **EXACT)
    for grad in torch.autograd.grad(got, (q, k, v), randn(*got.shape, seed=9)):
        assert grad.isfinite().all()


def test_weights_are_those_that_attention_uses():
    q, k, v = qkv((4, 5))
    bias = BiasFactors(randn(1, 20, 1, 2, seed=5), randn(1, 20, 2, 2, seed=6))
    key_bias = randn(2, 4, 5, 1, seed=7)
    weights = neighborhood_weights(q, k, (3, 3), bias=bias, key_bias=key_bias)
    assert ((weights > 0) == window_mask((4, 5), (3, 3))).all()
    expected = torch.einsum("bhnm,bmhd->bnhd", weights, v.flatten(1, 2)).unflatten(1, (4, 5))
    got = neighborhood_attention(q, k, v, (3, 3), bias=bias, key_bias=key_bias)
    torch.testing.assert_close(got, expected, **EXACT)


@pytest.mark.parametrize("heads_of_bias", [1, 4])
def test_each_query_head_has_its_own_gradient_of_a_bias_of_keys(heads_of_bias):
    # Four heads of queries share two of keys, and one list of tiles: they are computed in groups.
    plan = plan_windows((4, 6), (Window(3), Window(3)), (2, 2), (2, 2))
    q, k, v = (randn(2, 24, heads, 3, seed=n) for n, heads in ((1, 4), (2, 2), (3, 2)))
    upstream, found = randn(2, 24, 4, 3, seed=5), []
    for backend in ("torch", "reference"):
        key_bias = randn(2, 24, heads_of_bias, seed=4).requires_grad_()
        out = block_sparse_attention(q, k, v, plan, key_bias=key_bias, backend=backend)
        found += torch.autograd.grad(out, key_bias, upstream)
    torch.testing.assert_close(found[0], found[1], **EXACT)


@pytest.mark.parametrize(
    ("match", "kwargs"),
    [
        (r"valid must be bool \(B, \*grid\) = \(2, 4, 5\), found torch.float32 \(2, 4, 5\)",
         {"valid": torch.ones(2, 4, 5)}),
        (r"key_bias must be \(B, \*grid, H\) = \(2, 4, 5, 2\), found \(2, 20, 2\)", {"key_bias": torch.ones(2, 20, 2)}),
        (r"backend .sdpa. cannot run here: the windows do not see all of the grid \(4, 5\); able: torch, (natten, )?re",
         {"backend": "sdpa"}),
        (r"backend 'triton' cannot run here: ", {"backend": "triton"}),
        (r"has no backend 'fla'; it has: sdpa, triton, torch, natten, reference", {"backend": "fla"}),
        (r"extra_kv must have the heads and widths", {"extra_kv": (torch.ones(2, 1, 1, 4).double(),) * 2}),
    ],
)  # fmt: skip
def test_arguments_that_do_not_fit_are_one_line(match, kwargs):
    with pytest.raises(InputError, match=f"^neighborhood_attention.*{match}") as caught:
        neighborhood_attention(*qkv((4, 5)), (3, 3), **kwargs)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("use_lse", [False, True])
@pytest.mark.parametrize("Hk", [1, 4])
def test_pieces_without_mask_in_float32(Hk, use_lse):
    """Blocks need no mask and take PyTorch's fused operators; with a gradient of lse they cannot."""
    windows = Window(4, 4), Window(6, 6)
    results = []
    for backend, dtype in (("torch", torch.float32), ("reference", torch.float64)):
        q, k, v = (x.to(dtype).requires_grad_() for x in qkv((8, 12), H=4, Hk=Hk, D=16, Dv=16))
        out, lse = neighborhood_attention(q, k, v, windows, return_lse=True, backend=backend)
        loss = (out * randn(*out.shape, seed=7).to(dtype)).sum()
        if use_lse:
            loss = loss + (lse * randn(*lse.shape, seed=8).to(dtype)).sum()
        results.append([x.double() for x in (out, lse, *torch.autograd.grad(loss, (q, k, v)))])
    # Float32 sums over 24 keys, and over as many queries of four heads.
    torch.testing.assert_close(*results, rtol=1e-5, atol=1e-5)
