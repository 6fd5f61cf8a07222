"""Gated heads: open and shut, head-wise and element-wise, gradients, and the authors' weight layout."""

from __future__ import annotations

import pytest
import torch

from gazekit import InputError
from gazekit.kernels.gate import HeadGate, gate_heads, split_fused_gate
from tests.kernels.scenes import randn


def test_an_open_gate_changes_nothing_and_a_shut_one_leaves_nothing():
    y = randn(2, 3, 5, 4, 6)
    for shape in ((2, 3, 5, 4), (2, 3, 5, 4, 6)):
        assert torch.equal(gate_heads(y, torch.full(shape, torch.inf).double()), y)
        assert (gate_heads(y, torch.full(shape, -torch.inf).double()) == 0).all()


def test_a_gate_per_head_is_a_gate_per_element_repeated():
    y, logits = randn(2, 5, 4, 6), randn(2, 5, 4, seed=1)
    repeated = gate_heads(y, logits[..., None].expand_as(y))
    # Vectorised and scalar exponentials differ in the last bit.
    torch.testing.assert_close(gate_heads(y, logits), repeated, rtol=1e-15, atol=1e-15)


def test_gating_the_heads_is_einsum_with_sigmoids():
    y, x, weight = randn(2, 5, 4, 6), randn(2, 5, 7, seed=1), randn(4, 7, seed=2)
    gate = HeadGate(7, 4).double()
    gate.project.weight.data = weight
    want = torch.einsum("bnhd,bnh->bnhd", y, 1 / (1 + torch.exp(-torch.einsum("bne,he->bnh", x, weight))))
    torch.testing.assert_close(gate(y, x), want, rtol=1e-14, atol=1e-14)
    torch.testing.assert_close(gate.openness(x)[..., None] * y, want, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("shape", [(2, 3, 2), (2, 3, 2, 4)])
def test_gradients(shape):
    y, logits = randn(2, 3, 2, 4).requires_grad_(), randn(*shape, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(gate_heads, (y, logits))
    assert torch.autograd.gradgradcheck(gate_heads, (y, logits))
    # Only one of them is asked for.
    assert torch.autograd.gradcheck(lambda g: gate_heads(y.detach(), g), (logits,))
    assert torch.autograd.gradcheck(lambda z: gate_heads(z, logits.detach()), (y,))


@pytest.mark.parametrize("kind", ["head", "element"])
def test_a_gate_that_starts_open_is_the_network_without_it(kind):
    gate = HeadGate(7, 4, kind, head_width=6, start_open=True)
    y, x = randn(2, 5, 4, 6).float(), randn(2, 5, 7, seed=1).float()
    assert torch.equal(gate(y, x), y)
    gate(y, x).square().sum().backward()
    assert gate.project.weight.grad is not None
    assert gate.project.weight.grad.abs().max() > 0
    assert gate.project.weight.shape == ((4, 7) if kind == "head" else (24, 7))
    assert 0.2 < HeadGate(7, 4, kind, head_width=6).openness(x).mean() < 0.8


def test_half_precision_keeps_its_type_and_does_not_overflow():
    y, logits = randn(2, 5, 4, 6).bfloat16(), torch.tensor([-200.0, -20.0, 20.0, 200.0]).expand(2, 5, 4)
    out = gate_heads(y, logits)
    assert out.dtype == torch.bfloat16
    assert out.isfinite().all()
    assert torch.equal(out[:, :, 3], y[:, :, 3])


@pytest.mark.slow
def test_compiled_is_the_same():
    y, logits = randn(1, 3, 2, 4).requires_grad_(), randn(1, 3, 2, seed=1).requires_grad_()
    compiled = torch.compile(gate_heads, fullgraph=True, backend="aot_eager")
    want = torch.autograd.grad((gate_heads(y, logits) * randn(1, 3, 2, 4, seed=2)).sum(), (y, logits))
    got = torch.autograd.grad((compiled(y, logits) * randn(1, 3, 2, 4, seed=2)).sum(), (y, logits))
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("kind", ["head", "element"])
def test_fused_weights_are_split_by_group(kind):
    H, Hk, D, E = 4, 2, 3, 5
    query, gate = randn(H, D, E), randn(H, D if kind == "element" else 1, E, seed=1)
    blocks = [
        torch.cat([query[g * 2 : g * 2 + 2].reshape(-1, E), gate[g * 2 : g * 2 + 2].reshape(-1, E)]) for g in range(Hk)
    ]
    got_query, got_gate = split_fused_gate(torch.cat(blocks), H, Hk, D, kind)
    assert torch.equal(got_query, query.reshape(-1, E))
    assert torch.equal(got_gate, gate.reshape(-1, E))


def test_what_does_not_fit_is_one_line():
    for make, message in (
        (lambda: gate_heads(torch.zeros(1, 2, 3, 4), torch.zeros(1, 2, 4)), "logits must be"),
        (lambda: HeadGate(4, 2, "elment", head_width=3), "did you mean 'element'"),
        (lambda: HeadGate(4, 2, "element"), "needs head_width"),
        (lambda: split_fused_gate(torch.zeros(13, 5), 4, 2, 3, "head"), "make 16 rows, found"),
    ):
        with pytest.raises(InputError, match=message):
            make()
