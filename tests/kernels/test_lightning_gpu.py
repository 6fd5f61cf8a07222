"""Linear attention with decay and biased attention on a GPU: half precision, wide heads, one compiled graph."""

from __future__ import annotations

import pytest
import torch

from gazekit.kernels import decay_linear_attention, explain_backend
from gazekit.kernels.bias import alibi, alibi_slopes
from gazekit.kernels.biased_attention import biased_attention
from tests.kernels.scenes import randn

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
FLOOR = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}


def compare(call, tensors, dtype, kept):
    """Error of output and gradients against float64, and that of the same in plain PyTorch in this dtype."""

    def run(tensors, backend):
        given = [x.requires_grad_() for x in tensors]
        out = call(given, backend)
        return out, *torch.autograd.grad(out, given, randn(*out.shape, seed=9).to(out))

    exact = [x.cuda() for x in tensors]
    rounded = [x.to(torch.promote_types(dtype, torch.float32) if i in kept else dtype) for i, x in enumerate(exact)]
    truth = run(exact, "reference")
    for backend in ("triton", "auto"):
        got, plain = run([x.clone() for x in rounded], backend), run([x.clone() for x in rounded], "reference")
        for a, b, want in zip(got, plain, truth, strict=True):
            size = float(want.abs().max())
            error, allowed = (float((x.double() - want).abs().max()) / size for x in (a, b))
            assert error <= 2 * allowed + FLOOR[dtype], (backend, error, allowed)


@pytest.mark.parametrize("dtype", list(FLOOR))
@pytest.mark.parametrize(("N", "D", "Dv"), [(1, 16, 16), (100, 64, 64), (333, 128, 128), (200, 256, 48)])
def test_linear_attention(N, D, Dv, dtype):
    tensors = [randn(2, N, 3, D, seed=1, scale=D**-0.5), randn(2, N, 3, D, seed=2), randn(2, N, 3, Dv, seed=3)]
    decay = -randn(2, N, 3, seed=4).abs() / 4
    compare(
        lambda t, backend: decay_linear_attention(*t[:3], -t[3].abs(), backend=backend)[0],
        [*tensors, decay], dtype, kept=(3,),
    )  # fmt: skip


@pytest.mark.parametrize("dtype", list(FLOOR))
def test_biased_attention(dtype):
    bias = alibi(alibi_slopes(4), 300).to("cuda")
    tensors = [randn(2, 300, 4, 64, seed=i) for i in range(3)]
    compare(
        lambda t, backend: biased_attention(
            *t, bias.to(torch.promote_types(t[0].dtype, torch.float32)), causal=True, backend=backend
        ),
        tensors, dtype, kept=(),
    )  # fmt: skip


@pytest.mark.parametrize("call", ["decay", "bias"])
def test_compiles_into_one_graph(call):
    q, k, v = (randn(1, 200, 2, 64, seed=i).cuda().bfloat16().requires_grad_() for i in range(3))
    bias, decay = alibi(alibi_slopes(2).cuda(), 200), -torch.rand(2, device="cuda")

    def run(q, k, v):
        return decay_linear_attention(q, k, v, decay)[0] if call == "decay" else biased_attention(q, k, v, bias)

    got, want = (torch.autograd.grad(f(q, k, v).sum(), q)[0] for f in (torch.compile(run, fullgraph=True), run))
    torch.testing.assert_close(got, want, rtol=0.02, atol=0.02)


def test_more_numbers_than_an_int32_counts():
    # 2**31 + a little: 17 GB in bfloat16 for q, k, v and the output.
    if torch.cuda.mem_get_info()[0] < 40e9:
        pytest.skip("needs 40 GB of GPU memory")
    N = 2**31 // (8 * 128) + 64
    q, k, v = (torch.ones(1, N, 8, 128, device="cuda", dtype=torch.bfloat16) for _ in range(3))
    assert q.numel() > 2**31
    out, _ = decay_linear_attention(q, k, v, torch.full((8,), -torch.inf, device="cuda"))
    # Everything before is forgotten: q . k v of the token itself.
    assert bool((out[:, -1] == 128).all())
    assert explain_backend(decay_linear_attention, q, k, v, torch.zeros(8, device="cuda")).name == "triton"
