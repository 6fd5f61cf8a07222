"""The dense definition against PyTorch's attention, and merging against attention over the union."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from gazekit import InputError
from gazekit.kernels import dense_attention, dense_weights, merge_attention
from tests.kernels.scenes import randn

# Float64 sums of a few dozen terms of size 1.
EXACT = {"rtol": 1e-12, "atol": 1e-12}


def qkv(N=5, M=7, H=4, Hk=2, D=6, Dv=3, B=2):
    return randn(B, N, H, D, seed=1), randn(B, M, Hk, D, seed=2), randn(B, M, Hk, Dv, seed=3)


def sdpa(q, k, v, **kwargs):
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    groups = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    return F.scaled_dot_product_attention(q, k, v, **kwargs).transpose(1, 2)


@pytest.mark.parametrize("scale", [None, 0.3])
def test_dense_attention_is_pytorchs(scale):
    q, k, v = qkv()
    allowed = randn(2, 4, 5, 7, seed=4) > 0
    allowed[..., 0] = True
    bias, key_bias = randn(1, 4, 5, 7, seed=5), randn(2, 7, 1, seed=6)
    mask = (bias + key_bias.transpose(1, 2)[:, :, None]).masked_fill(~allowed, -torch.inf)
    out, lse = dense_attention(q, k, v, allowed=allowed, bias=bias, key_bias=key_bias, scale=scale)
    torch.testing.assert_close(out, sdpa(q, k, v, attn_mask=mask, scale=scale), **EXACT)
    weights = dense_weights(q, k, allowed=allowed, bias=bias, key_bias=key_bias, scale=scale)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 4, 5, dtype=torch.double), **EXACT)
    # lse is what normalises: exp(score - lse) is the weight.
    scores = torch.einsum("bnhd,bmhd->bhnm", q, k.repeat_interleave(2, 2)) * (6**-0.5 if scale is None else scale)
    torch.testing.assert_close((scores + mask - lse.transpose(1, 2)[..., None]).exp(), weights, **EXACT)


def test_a_query_without_keys_gives_zero_and_no_gradient():
    q, k, v = (x.requires_grad_() for x in qkv())
    allowed = torch.ones(5, 7, dtype=torch.bool)
    allowed[2] = False
    out, lse = dense_attention(q, k, v, allowed=allowed)
    assert (out[:, 2] == 0).all()
    assert (lse[:, 2] == -torch.inf).all()
    grads = torch.autograd.grad((out * randn(*out.shape)).sum() + lse[:, :2].sum(), (q, k, v))
    assert all(grad.isfinite().all() for grad in grads)
    assert (grads[0][:, 2] == 0).all()
    none, empty = dense_attention(q, k[:, :0], v[:, :0])
    assert (none == 0).all()
    assert (empty == -torch.inf).all()


def test_nan_in_values_that_nobody_sees_does_not_matter():
    q, k, v = qkv()
    clean = dense_attention(q, k, v, allowed=torch.arange(7) < 6)[0]
    v[:, 6] = torch.nan
    torch.testing.assert_close(dense_attention(q, k, v, allowed=torch.arange(7) < 6)[0], clean, **EXACT)


def test_gradients_of_output_and_lse():
    q, k, v = (x.requires_grad_() for x in qkv(3, 4, 2, 1, 3, 2, 1))
    key_bias = randn(1, 4, 2, seed=9).requires_grad_()
    allowed = torch.rand(3, 4, generator=torch.Generator().manual_seed(0)) < 0.6
    allowed[:, 0] = True
    assert torch.autograd.gradcheck(
        lambda q, k, v, b: dense_attention(q, k, v, allowed=allowed, key_bias=b), (q, k, v, key_bias)
    )


# Merging


def parts(q, k, v, owner):
    """Attention over the keys of each owner."""
    return [dense_attention(q, k, v, allowed=owner == one) for one in range(int(owner.max()) + 1)]


def test_merged_parts_are_attention_over_all_keys_with_its_gradient():
    q, k, v = (x.requires_grad_() for x in qkv())
    (out_a, lse_a), (out_b, lse_b) = parts(q, k, v, torch.tensor([0, 1, 0, 0, 1, 1, 0]))
    merged = merge_attention(out_a, lse_a, out_b, lse_b)
    whole = dense_attention(q, k, v)
    g, h = randn(*whole[0].shape, seed=7), randn(*whole[1].shape, seed=8)
    for got, want in zip(merged, whole, strict=True):
        torch.testing.assert_close(got, want, **EXACT)
    grads = [torch.autograd.grad((out * g).sum() + (lse * h).sum(), (q, k, v)) for out, lse in (merged, whole)]
    torch.testing.assert_close(*grads, **EXACT)


def test_merging_commutes_and_associates():
    q, k, v = qkv()
    a, b, c = parts(q, k, v, torch.tensor([0, 1, 2, 0, 1, 2, 0]))
    torch.testing.assert_close(merge_attention(*a, *b), merge_attention(*b, *a), **EXACT)
    left, right = merge_attention(*merge_attention(*a, *b), *c), merge_attention(*a, *merge_attention(*b, *c))
    torch.testing.assert_close(left, right, **EXACT)


def test_a_part_that_saw_nothing_changes_nothing():
    q, k, v = qkv()
    whole = dense_attention(q, k, v)
    nothing = dense_attention(q, k, v, allowed=torch.zeros(7, dtype=torch.bool))
    for merged in (merge_attention(*whole, *nothing), merge_attention(*nothing, *whole)):
        torch.testing.assert_close(merged, whole, **EXACT)
    out, lse = merge_attention(*nothing, *nothing)
    assert (out == 0).all()
    assert (lse == -torch.inf).all()


def test_merge_gradients_reach_lse_and_are_finite_without_keys():
    a, b, la, lb = randn(2, 3, 2, seed=1), randn(2, 3, 2, seed=2), randn(2, 3, seed=3), randn(2, 3, seed=4)
    parts = [x.requires_grad_() for x in (a, la, b, lb)]
    assert torch.autograd.gradcheck(merge_attention, parts)
    la, lb = la.detach(), lb.detach()
    la[0] = lb[0, 0] = -torch.inf
    la.requires_grad_(), lb.requires_grad_()
    out, lse = merge_attention(a, la, b, lb)
    loss = (out * randn(2, 3, 2, seed=5)).sum() + lse.masked_fill(lse == -torch.inf, 0.0).sum()
    assert all(grad.isfinite().all() for grad in torch.autograd.grad(loss, (a, la, b, lb)))


@pytest.mark.parametrize(
    ("match", "change"),
    [
        (r"one floating dtype, found torch.float64, torch.float32, torch.float64", lambda q, k, v: (q, k.float(), v)),
        (r"multiple of the key heads, found q \(2, 5, 4, 6\), k \(2, 7, 3, 6\)", lambda q, k, v: (q, *qkv(Hk=3)[1:])),
        (r"expected \(B, N, heads, width\) for q, k and v, found q \(5, 4, 6\)", lambda q, k, v: (q[0], k, v)),
        (r"agree in batch, tokens and heads", lambda q, k, v: (q, k, v[:, 1:])),
        (r"agree in batch and width", lambda q, k, v: (q[..., 1:], k, v)),
        (r"at least 1 wide", lambda q, k, v: (q, k, v[..., :0])),
    ],
)
def test_input_that_does_not_fit_is_one_line(match, change):
    with pytest.raises(InputError, match=match) as caught:
        dense_attention(*change(*qkv()))
    assert "\n" not in str(caught.value)


def test_parts_of_other_shapes_do_not_merge():
    a = dense_attention(*qkv())
    with pytest.raises(InputError, match=r"two parts of one shape"):
        merge_attention(*a, a[0][:1], a[1][:1])
