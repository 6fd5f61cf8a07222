"""The Triton kernels of block-sparse attention on a GPU; skipped where there is none."""

from __future__ import annotations

import pytest
import torch

from gazekit.kernels import Window, block_sparse_attention, neighborhood_attention, plan_windows
from tests.kernels.scenes import randn

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU on this machine")
GRID, WINDOWS = (19, 26), (Window(13, 3), Window(16, 8))
FLOOR = {torch.float32: 1e-5, torch.float16: 1e-3, torch.bfloat16: 8e-3}


def run(dtype, width, backend, device):
    q, k, v = (
        randn(2, *GRID, heads, width, seed=seed).to(device, dtype).requires_grad_()
        for seed, heads in enumerate((4, 2, 2))
    )
    key_bias = randn(1, *GRID, 4, seed=4).to(device, torch.promote_types(dtype, torch.float32)).requires_grad_()
    out, lse = neighborhood_attention(q, k, v, WINDOWS, key_bias=key_bias, return_lse=True, backend=backend)
    loss = (out * randn(*out.shape, seed=7).to(out)).sum() + (lse * randn(*lse.shape, seed=8).to(lse)).sum()
    return [x.double().cpu() for x in (out, lse, *torch.autograd.grad(loss, (q, k, v, key_bias)))]


@pytest.mark.parametrize("width", [24, 64, 128])
@pytest.mark.parametrize("dtype", list(FLOOR))
def test_values_and_gradients(dtype, width):
    want, got = run(torch.float64, width, "reference", "cpu"), run(dtype, width, "triton", "cuda")
    plain = run(dtype, width, "reference", "cuda")
    for ours, theirs, true in zip(got, plain, want, strict=True):
        error, allowed = (ours - true).abs().max(), 2 * (theirs - true).abs().max()
        # Gradients of keys sum over hundreds of queries.
        assert error <= allowed + FLOOR[dtype] * true.abs().max().clamp(min=1.0)


def test_same_input_same_bits():
    first, again = (run(torch.bfloat16, 64, "triton", "cuda") for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_it_survives_the_compiler():
    plan = plan_windows((16, 24), (Window(8, 8), Window(12, 4)), 8)
    q = torch.randn(1, 384, 2, 64, device="cuda", dtype=torch.bfloat16)
    attend = torch.compile(lambda x: block_sparse_attention(x, x, x, plan, backend="triton") * 2.0)
    expected = block_sparse_attention(q, q, q, plan, backend="triton") * 2.0
    torch.testing.assert_close(attend(q), expected)


@pytest.mark.slow
def test_offsets_pass_32_bits():
    """B N H D just above 2**31; the last item must be what it is alone."""
    B, side, H, D = 33, 256, 16, 64
    if torch.cuda.get_device_properties(0).total_memory < 40 * 2**30:
        pytest.skip("needs 40 GB of GPU memory")
    assert B * side * side * H * D > 2**31
    x = torch.randn(B, side, side, H, D, device="cuda", dtype=torch.float16)
    windows = [Window(24, 8)] * 2
    whole = neighborhood_attention(x, x, x, windows, backend="triton")[-1:]
    torch.testing.assert_close(whole, neighborhood_attention(x[-1:], x[-1:], x[-1:], windows, backend="triton"))
