"""Windows shifted inward, and the windowed path that takes its guidance from the global one."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from gazekit import InputError
from gazekit.kernels import neighborhood_attention, window_mask
from gazekit.kernels.freeswim import DualPath, GuidanceCache, GuidedBlock, entropy_scale, inward_windows
from tests.kernels.scenes import randn


def seen_inward(query, half, length):
    """Keys of a query on one axis: what a border cuts off on one side is added on the other."""
    low = query - half - max(half + query - length + 1, 0)
    high = query + half + max(half - query, 0)
    return [low <= key <= high for key in range(length)]


@pytest.mark.parametrize("length", [1, 2, 5, 8, 13])
@pytest.mark.parametrize("native", [1, 2, 3, 4, 6, 30])
def test_windows_shift_inward(length, native):
    windows = inward_windows((length, 1), (native, 1))
    mask = window_mask((length, 1), windows)
    half = native // 2
    for query in range(length):
        assert mask[query].tolist() == seen_inward(query, half, length), (length, native, query)
    assert (mask.sum(1) == min(2 * half + 1, length)).all()


def test_windows_of_a_video_see_all_frames():
    sizes = [window.size for window in inward_windows((21, 68, 120), (30, 52))]
    assert sizes == [21, 31, 53]  # the sizes of Wan2.1 at 480 x 832
    # As large as the image or larger: plain attention.
    assert [window.size for window in inward_windows((2, 5, 7), (30, 52))] == [2, 5, 7]


def test_the_scale_grows_with_the_logarithm_of_the_keys():
    assert entropy_scale(64, 1560, 1560) == pytest.approx(0.125)
    assert entropy_scale(64, 1560**2, 1560) == pytest.approx(0.125 * math.sqrt(2))


def blocks(n=2, gate=None):
    torch.manual_seed(0)
    made = [GuidedBlock(12, 3, context_dim=7, mlp_ratio=2, gate=gate).double() for _ in range(n)]
    for block in made:
        for p in block.parameters():
            torch.nn.init.normal_(p, std=0.4)
    return made


def tokens(*grid, B=2, E=12, seed=0):
    return randn(B, *grid, E, seed=seed)


@pytest.mark.parametrize("grid", [(6, 9), (2, 5, 7)])
@pytest.mark.parametrize("gate", [None, "head", "element"])
def test_the_windowed_path_takes_the_cross_attention_of_the_global_one(grid, gate):
    layers, context = blocks(gate=gate), randn(2, 4, 7, seed=3)
    valid = torch.tensor([[True] * 4, [True, True, False, False]])
    path = DualPath(layers, (3, 4))
    got = path(tokens(*grid), tokens(*grid), context, valid=valid)
    local = whole = tokens(*grid)
    windows = inward_windows(grid, (3, 4))
    local_scale = math.sqrt(math.log(3 * 5) / math.log(12) / 4)
    whole_scale = math.sqrt(math.log(grid[-2] * grid[-1]) / math.log(12) / 4)

    def attended(block, x, scale, windows=None):
        q, k, v = block.qkv(block.norm_self(x)).unflatten(-1, (3, 3, 4)).unbind(-3)
        mask = None if windows is None else window_mask(grid, windows)
        rows = (t.flatten(1, -3).transpose(1, 2) for t in (q, k, v))
        read = F.scaled_dot_product_attention(*rows, attn_mask=mask, scale=scale).transpose(1, 2)
        return block.project_self(read.unflatten(1, grid).flatten(-2))

    for block in layers:
        local = local + attended(block, local, local_scale, windows)
        whole = whole + attended(block, whole, whole_scale)
        guidance = block.cross_update(whole, context, valid)
        local, whole = local + guidance, whole + guidance
        local, whole = (x + block.mlp(block.norm_mlp(x)) for x in (local, whole))
    torch.testing.assert_close(got, local, rtol=1e-11, atol=1e-11)


def test_at_native_size_both_paths_are_the_network_as_trained():
    layers, context, x = blocks(), randn(2, 4, 7, seed=3), tokens(5, 7)
    trained = x
    for block in layers:
        trained = block(trained, context)
    torch.testing.assert_close(DualPath(layers, (5, 7))(x, x, context), trained, rtol=1e-11, atol=1e-11)


def test_padding_of_the_context_is_not_read():
    layers, context, x = blocks(), randn(2, 4, 7, seed=3), tokens(5, 7)
    valid = torch.tensor([[True, True, True, False]] * 2)
    cut = DualPath(layers, (5, 7))(x, x, context[:, :3])
    torch.testing.assert_close(DualPath(layers, (5, 7))(x, x, context, valid=valid), cut, rtol=1e-11, atol=1e-11)


def test_a_small_global_path_guides_a_large_image():
    layers, context = blocks(1), randn(2, 4, 7, seed=3)
    local, whole = tokens(8, 12), tokens(4, 6, seed=1)
    path = DualPath(layers, (4, 6))
    assert path(local, whole, context).shape == (2, 8, 12, 12)
    # Guidance that is alike everywhere does not depend on the size that it is computed at.
    flat = whole.mean((1, 2), keepdim=True)
    small, large = (path(local, flat.expand(-1, *grid, -1), context) for grid in ((4, 6), (2, 3)))
    torch.testing.assert_close(small, large, rtol=1e-11, atol=1e-11)
    assert not torch.allclose(path(local, whole, context), small)


def test_guidance_is_computed_once_in_so_many_steps(monkeypatch):
    layers, context, x = blocks(1), randn(2, 4, 7, seed=3), tokens(6, 9)
    calls = []
    monkeypatch.setattr(
        layers[0], "cross_update", lambda w, *a: calls.append(w) or GuidedBlock.cross_update(layers[0], w, *a)
    )
    path, cache = DualPath(layers, (3, 3)), GuidanceCache(every=3)

    def computes(step, context=context, x=x, cache=cache):
        calls.clear()
        out = path(x, x, context, cache=cache, step=step)
        # Same tokens, so kept guidance and new guidance are the same.
        torch.testing.assert_close(out, path(x, x, context), rtol=1e-12, atol=1e-12)
        return len(calls) - 1  # the one of the comparison

    assert [computes(step) for step in range(7)] == [1, 0, 0, 1, 0, 0, 1]
    assert computes(7, context=context.clone()) == 1, "another context"
    assert computes(8) == 1, "the first context again"
    context.mul_(2)
    assert computes(8) == 1, "changed in place"
    assert computes(8, x=tokens(4, 5)) == 1, "another grid"
    assert [computes(step, cache=GuidanceCache(1)) for step in range(3)] == [1, 1, 1]
    other = tokens(6, 9, seed=5)
    kept = GuidanceCache(every=2)
    path(x, x, context, cache=kept, step=0)
    calls.clear()
    reused = path(other, other, context, cache=kept, step=1)
    assert not calls
    assert not torch.allclose(reused, path(other, other, context))


def test_windows_alone_attend_to_the_context_themselves():
    layers, context, x = blocks(1), randn(2, 4, 7, seed=3), tokens(6, 9)
    out = DualPath(layers, (3, 3))(x, x * torch.nan, context, override=False)
    assert out.isfinite().all()
    local = x + layers[0].self_update(x, (3, 3), entropy_scale(4, 9, 9))
    local = local + layers[0].cross_update(local, context)
    torch.testing.assert_close(out, local + layers[0].mlp_update(local), rtol=1e-12, atol=1e-12)


def test_it_trains():
    layers, context = blocks(2, gate="head"), randn(2, 4, 7, seed=3).requires_grad_()
    local, whole = tokens(6, 9).requires_grad_(), tokens(3, 5, seed=1).requires_grad_()
    DualPath(layers, (3, 5))(local, whole, context).square().sum().backward()
    for tensor in (local, whole, context, *(p for block in layers for p in block.parameters())):
        assert tensor.grad is not None
        assert tensor.grad.isfinite().all()
        assert tensor.grad.abs().max() > 0


def test_its_windows_run_in_the_attention_of_windows():
    q, k, v = (tokens(6, 9, seed=i).unflatten(-1, (3, 4)) for i in range(3))
    out = neighborhood_attention(q, k, v, inward_windows((6, 9), (3, 4)))
    rows = (x.flatten(1, 2).transpose(1, 2) for x in (q, k, v))
    mask = window_mask((6, 9), inward_windows((6, 9), (3, 4)))
    want = F.scaled_dot_product_attention(*rows, attn_mask=mask).transpose(1, 2).unflatten(1, (6, 9))
    torch.testing.assert_close(out, want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: inward_windows((5,), (3, 3)), "inward_windows: expected a grid"),
        (lambda: inward_windows((5, 5), (0, 3)), "native size of at least 1"),
        (lambda: entropy_scale(4, 9, 1), "at least 2 native tokens"),
        (lambda: GuidanceCache(0), "every must be at least 1, found 0"),
        (lambda: GuidedBlock(10, 3), "dim must be a multiple of n_heads"),
        (lambda: DualPath(blocks(1), (3, 3))(tokens(5), tokens(5), randn(2, 4, 7)), "DualPath: expected local"),
        (lambda: DualPath(blocks(1), (3, 3))(tokens(5, 5), tokens(5, 5, B=1), randn(2, 4, 7)), "DualPath: expected"),
    ],
)
def test_what_does_not_fit_is_one_line(make, message):
    with pytest.raises(InputError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)
