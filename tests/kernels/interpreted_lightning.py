"""The Triton kernels of linear attention with decay, in the interpreter; run by test_triton_interpreted.py."""

from __future__ import annotations

import pytest
import torch

from gazekit.kernels import decay_linear_attention, explain_backend, lightning_triton
from tests.kernels.scenes import randn
from tests.kernels.scenes_bias_decay import recurrence


@pytest.fixture(autouse=True)
def _nan_in_scratch(monkeypatch):
    """What a kernel leaves out shows up as NaN."""
    for name in ("new_empty",):
        make = getattr(torch.Tensor, name)
        monkeypatch.setattr(torch.Tensor, name, lambda *a, make=make, **k: make(*a, **k).fill_(torch.nan))
    make_like = torch.empty_like
    monkeypatch.setattr(torch, "empty_like", lambda *a, **k: make_like(*a, **k).fill_(torch.nan))


def inputs(N, D, Dv, kind, dtype, B=2, H=2):
    q, k, v = randn(B, H, N, D, seed=1), randn(B, N, H, D, seed=2), randn(B, N, H, 2 * Dv, seed=3)
    decay = -randn(H, seed=4).abs() / 4 if kind == "head" else -randn(B, N, H, seed=4).abs() / 4
    if kind == "forgetting":
        decay[:, [0, N // 2]] = -torch.inf
    # q is a transposed view, v every second number of a row.
    made = [q.transpose(1, 2), k, v[..., ::2], decay, randn(B, H, D, Dv)]
    exact = torch.promote_types(dtype, torch.float32)
    return [x.to(dtype if i < 3 else exact).detach().requires_grad_() for i, x in enumerate(made)]


def outputs_and_gradients(call, tensors):
    outputs = call(*tensors)
    total = sum((o * randn(*o.shape, seed=9).to(o.dtype)).sum() for o in outputs)
    return [*outputs, *torch.autograd.grad(total, tensors)]


quick, slow = (), pytest.mark.slow
SHAPES = [
    pytest.param(*shape, marks=marks)
    for shape, marks in [
        ((1, 16, 16), quick), ((17, 16, 24), quick), ((100, 80, 16), quick),
        ((15, 24, 16), slow), ((64, 32, 32), slow), ((130, 16, 72), slow),
    ]
]  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("kind", ["head", "token", "forgetting"])
@pytest.mark.parametrize(("N", "D", "Dv"), SHAPES)
def test_output_state_and_gradients(N, D, Dv, kind, dtype):
    tensors = inputs(N, D, Dv, kind, dtype)
    assert not tensors[0].is_contiguous() or N == 1
    got = outputs_and_gradients(
        lambda q, k, v, g, s: decay_linear_attention(q, k, v, g, scale=0.6, state=s, backend="triton"), tensors
    )
    exact = [x.detach().double().requires_grad_() for x in tensors]
    want = outputs_and_gradients(
        lambda q, k, v, g, s: decay_linear_attention(q, k, v, g, scale=0.6, state=s, backend="reference"), exact
    )
    # Where everything is forgotten, sums pass the stand-in for -inf: 1e-13 of 800 in float64.
    tolerance = 3e-6 if dtype == torch.float32 else 1e-11 if kind == "forgetting" else 1e-12
    for name, a, b in zip(("out", "last", "q", "k", "v", "decay", "state"), got, want, strict=True):
        assert a.dtype == dtype
        allowed = tolerance * max(1.0, float(b.detach().abs().max())) * (10 if name == "decay" else 1)
        torch.testing.assert_close(a.double(), b, rtol=0, atol=allowed, msg=lambda m, n=name: f"{n}: {m}")


def test_float16_errs_at_most_twice_as_much_as_plain_pytorch():
    tensors = inputs(100, 32, 16, "token", torch.float16)
    exact = recurrence(*(x.detach().double() for x in tensors[:4]), 1.0, tensors[4].detach().double())[0]
    got = decay_linear_attention(*tensors[:4], state=tensors[4], backend="triton")[0]
    q, k, v, decay, state = tensors
    weights = torch.einsum("bthd,bshd->bhts", q, k) * decay_matrix(decay).to(q.dtype)
    plain = torch.einsum("bhts,bshe->bthe", weights, v)
    plain = plain + torch.einsum("bthd,bhde->bthe", q.float(), state).mul(decay.cumsum(1).exp()[..., None]).to(q.dtype)
    errors = [float((x.double() - exact).detach().abs().max()) for x in (got, plain)]
    assert errors[0] <= 2 * errors[1] + 1e-3, errors


def decay_matrix(decay):
    sums = decay.cumsum(1).transpose(1, 2)
    return (sums[..., :, None] - sums[..., None, :]).tril().exp().tril()


def test_nan_after_the_end_of_a_buffer_is_not_read():
    q, k, v, decay, _ = inputs(20, 16, 16, "head", torch.float32)
    padded = [torch.cat([x.detach(), torch.full_like(x, torch.nan)], 1)[:, :20] for x in (q, k, v)]
    want, _ = decay_linear_attention(q, k, v, decay)
    got, _ = decay_linear_attention(*padded, decay)
    assert torch.equal(want, got)


def test_same_input_same_bits_and_triton_is_the_first_choice():
    tensors = inputs(70, 16, 16, "token", torch.float32)
    assert explain_backend(decay_linear_attention, *tensors[:4]).name == "triton"
    first, again = (outputs_and_gradients(lambda q, k, v, g, s: decay_linear_attention(q, k, v, g, state=s), tensors)
                    for _ in range(2))  # fmt: skip
    for a, b in zip(first, again, strict=True):
        assert torch.equal(a, b)


def test_dots_have_sides_that_a_gpu_takes():
    for width in (1, 5, 16, 24, 64, 100, 300):
        side = lightning_triton._block(width)
        assert side in (16, 32, 64)
