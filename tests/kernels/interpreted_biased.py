"""Biased attention with its factors as an operand of the Triton kernel; run by test_triton_interpreted.py."""

from __future__ import annotations

import pytest
import torch

from gazekit.kernels import BiasFactors, biased_attention
from tests.kernels.scenes import randn


@pytest.mark.parametrize(
    ("N", "M", "rank", "causal", "padded"),
    [
        (33, 33, 1, True, False),
        pytest.param(17, 40, 5, False, True, marks=pytest.mark.slow),
        pytest.param(64, 64, 3, True, True, marks=pytest.mark.slow),
        pytest.param(15, 100, 16, False, False, marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_output_and_gradients(N, M, rank, causal, padded, dtype):
    shapes = [(2, N, 2, 16), (2, M, 1, 16), (2, M, 1, 24), (1, N, 2, rank), (2, M, 1, rank)]
    exact = [randn(*shape, seed=i).requires_grad_() for i, shape in enumerate(shapes)]
    valid = None
    if padded:
        valid = torch.ones(2, M, dtype=torch.bool)
        valid[0, M // 2 :] = False

    def run(tensors, backend):
        bias = BiasFactors(*tensors[3:])
        out = biased_attention(*tensors[:3], bias, causal=causal, valid=valid, backend=backend)
        return out, *torch.autograd.grad((out * randn(*out.shape, seed=9).to(out.dtype)).sum(), tensors)

    want = run(exact, "reference")
    got = run([x.detach().to(dtype).requires_grad_() for x in exact], "triton")
    # Sums over up to a hundred keys.
    tolerance = 1e-12 if dtype == torch.float64 else 5e-6
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=0, atol=tolerance * max(1.0, float(b.detach().abs().max())))


def test_float16_keeps_the_factors_in_float32():
    N = 100
    q, k, v = (randn(1, N, 2, 16, seed=i) for i in range(3))
    # Positions that float16 rounds by 8.
    bias = BiasFactors(torch.ones(1, N, 1, 1), (20_000 + torch.arange(N).float())[None, :, None, None])
    want = biased_attention(q, k, v, bias.to(torch.float64), backend="reference")
    got = biased_attention(*(x.half() for x in (q, k, v)), bias, backend="triton")
    assert float((got.double() - want).abs().max()) < 4e-3
