"""The Triton kernels of block-sparse attention in Triton's interpreter, against the dense definition.

Run by test_triton_interpreted.py in a process where TRITON_INTERPRET is set. A visited pair of tiles takes some 10 ms.
"""

from __future__ import annotations

import pytest
import torch

from gazekit import InputError
from gazekit.kernels import (
    BiasFactors,
    Window,
    block_sparse_attention,
    explain_backend,
    neighborhood_attention,
    plan_band,
    plan_blocks,
    plan_runs,
    plan_windows,
)
from tests.kernels.scenes import randn

# Float64 sums of some hundred terms; float32 sums of them, gradients being the larger.
FLOAT64 = {"rtol": 1e-11, "atol": 1e-11}
FLOAT32, FLOAT32_GRAD = {"rtol": 0.0, "atol": 4e-6}, {"rtol": 2e-5, "atol": 2e-5}


@pytest.fixture(autouse=True)
def _nan_filled(monkeypatch):
    """Whatever a kernel does not write is NaN, outputs and gradients alike."""
    empty, new_empty = torch.empty, torch.Tensor.new_empty

    def fill(x):
        return x.fill_(torch.nan) if x.is_floating_point() else x

    monkeypatch.setattr(torch, "empty", lambda *a, **k: fill(empty(*a, **k)))
    monkeypatch.setattr(torch.Tensor, "new_empty", lambda *a, **k: fill(new_empty(*a, **k)))


def tensors_for(plan, B=1, H=2, Hk=1, D=16, Dv=16, rank=0, key_bias=False, heads_of_bias=1):
    made = {
        "q": randn(B, plan.n_queries, H, D, seed=1),
        "k": randn(B, plan.n_keys, Hk, D, seed=2),
        "v": randn(B, plan.n_keys, Hk, Dv, seed=3),
    }
    if key_bias:
        made["key_bias"] = randn(1, plan.n_keys, heads_of_bias, seed=4)
    if rank:
        made["query_factor"] = randn(1, plan.n_queries, 1, rank, seed=5, scale=0.5)
        made["key_factor"] = randn(B, plan.n_keys, heads_of_bias, rank, seed=6, scale=0.5)
    return made


def run(tensors, plan, backend, dtype):
    kept = torch.promote_types(dtype, torch.float32)
    t = {k: x.to(dtype if k in "qkv" else kept).requires_grad_() for k, x in tensors.items()}
    bias = BiasFactors(t["query_factor"], t["key_factor"]) if "key_factor" in t else None
    out, lse = block_sparse_attention(
        t["q"], t["k"], t["v"], plan, bias=bias, key_bias=t.get("key_bias"), return_lse=True, backend=backend
    )
    loss = (out * randn(*out.shape, seed=7).to(out.dtype)).sum()
    loss = loss + (lse.masked_fill(lse == -torch.inf, 0.0) * randn(*lse.shape, seed=8).to(lse.dtype)).sum()
    return out, lse, dict(zip(t, torch.autograd.grad(loss, list(t.values())), strict=True))


def agree(tensors, plan, dtype=torch.float64):
    out, lse, grads = run(tensors, plan, "triton", dtype)
    want, want_lse, want_grads = run(tensors, plan, "reference", torch.float64)
    tolerance, of_grad = (FLOAT64, FLOAT64) if dtype == torch.float64 else (FLOAT32, FLOAT32_GRAD)
    assert out.dtype == dtype
    torch.testing.assert_close(out.double(), want, **tolerance)
    torch.testing.assert_close(lse.double(), want_lse, **tolerance)
    for key, grad in grads.items():
        torch.testing.assert_close(grad.double(), want_grads[key], **of_grad, msg=lambda m, k=key: f"{k}: {m}")


WINDOWS = {
    "off the tiles": ((7, 9), (Window(4, 2), Window(3)), (4, 4), (4, 4)),
    "dilated, other key tiles": ((5, 13), (Window(4, 2), Window(3, 1, 2)), (4, 4), (2, 8)),
    "causal in one axis": ((6, 10), (Window(4, causal=True), Window(5, 3)), (2, 8), (4, 4)),
    "on the tiles": ((8, 12), (Window(4, 4), Window(4, 4)), (4, 4), (4, 4)),
    "three axes": ((3, 4, 5), (Window(2), Window(3, 2), Window(5)), (2, 2, 4), (2, 2, 4)),
    "one token": ((1,), (Window(1),), (16,), (16,)),
}


@pytest.mark.parametrize(
    "name", ["off the tiles", *(pytest.param(n, marks=pytest.mark.slow) for n in list(WINDOWS)[1:])]
)
@pytest.mark.parametrize("dtype", [torch.float64, pytest.param(torch.float32, marks=pytest.mark.slow)])
def test_windows(name, dtype):
    grid, windows, tile_q, tile_k = WINDOWS[name]
    plan = plan_windows(grid, windows, tile_q, tile_k)
    agree(tensors_for(plan, D=24, Dv=16), plan, dtype)


@pytest.mark.parametrize("dtype", [torch.float64, pytest.param(torch.float32, marks=pytest.mark.slow)])
def test_biases_reach_every_query_head(dtype):
    plan = plan_windows((5, 6), (Window(4, 2), Window(3)), (4, 4))
    agree(tensors_for(plan, rank=3, key_bias=True, heads_of_bias=2), plan, dtype)


@pytest.mark.parametrize("n", [1, 17, *(pytest.param(n, marks=pytest.mark.slow) for n in (15, 16, 33, 64, 100))])
def test_causal_rows_off_the_tile(n):
    plan = plan_band(n, after=0, tile_q=16, tile_k=16)
    agree(tensors_for(plan, H=1, D=16, Dv=32), plan)


@pytest.mark.slow
def test_blocks_of_each_batch_item_and_head():
    blocks = torch.rand(2, 2, 3, 2, generator=torch.Generator().manual_seed(0)) < 0.5
    blocks[0, 1, 2] = False  # queries without any key
    plan = plan_blocks(blocks, 45, 57, 16, 32)
    agree(tensors_for(plan, B=2, rank=2, key_bias=True, heads_of_bias=2), plan)


@pytest.mark.parametrize("causal", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_runs_that_start_anywhere(causal):
    plan = plan_runs([[(3, 20), (27, 9)], [], [(0, 40)]], 42, 43, 16, 16, causal=causal)
    agree(tensors_for(plan), plan)


@pytest.mark.slow
def test_half_precision_errs_at_most_twice_as_much_as_plain_pytorch():
    plan = plan_windows((5, 6), (Window(4, 2), Window(3)), (4, 4))
    tensors = tensors_for(plan)
    got = run(tensors, plan, "triton", torch.float16)[0].double()
    want = run(tensors, plan, "reference", torch.float64)[0]
    plain = run({k: x.half().double() for k, x in tensors.items()}, plan, "reference", torch.float64)[0].half().double()
    assert (got - want).abs().max() <= 2 * (plain - want).abs().max() + 1e-3


def test_bfloat16_is_refused_where_the_interpreter_computes_it_wrongly():
    q = torch.zeros(1, 4, 5, 1, 16, dtype=torch.bfloat16)
    with pytest.raises(InputError, match="backend 'triton' cannot run here: Triton's interpreter computes bfloat16"):
        neighborhood_attention(q, q, q, (3, 3), backend="triton")
    assert explain_backend(neighborhood_attention, q, q, q, (3, 3)).name == "torch"
    assert explain_backend(neighborhood_attention, q.float(), q.float(), q.float(), (3, 3)).name == "triton"


def test_a_grid_and_extra_keys_through_the_public_function_with_strided_input():
    def call(backend):
        wide = randn(1, 5, 7, 2, 32, seed=1).requires_grad_()
        q, k = wide[..., ::2], wide[..., 1::2]
        v = randn(1, 5, 2, 7, 16, seed=2).requires_grad_()
        extra = [randn(1, 3, 2, 16, seed=s).requires_grad_() for s in (3, 4)]
        out, lse = neighborhood_attention(
            q, k, v.transpose(2, 3), (Window(3), Window(4, 2)), extra_kv=tuple(extra), return_lse=True, backend=backend
        )
        loss = (out * randn(*out.shape, seed=5)).sum() + (lse * randn(*lse.shape, seed=6)).sum()
        return out, lse, *torch.autograd.grad(loss, (wide, v, *extra))

    torch.testing.assert_close(call("triton"), call("reference"), **FLOAT64)


@pytest.mark.slow
def test_what_nobody_sees_may_be_nan():
    """Values left out by the bias, and what stands in the padding of the tile order."""
    plan = plan_windows((5, 6), (Window(4, 2), Window(3)), (4, 4))
    tensors = tensors_for(plan, H=1, key_bias=True)
    tensors["key_bias"][:, 3] = -torch.inf
    clean = run(tensors, plan, "triton", torch.float64)
    gone = plan.layout_k.rows() < 0
    gone[3] = True
    dirty = {**tensors, "k": tensors["k"].clone(), "v": tensors["v"].clone()}
    dirty["k"][:, gone] = dirty["v"][:, gone] = torch.nan
    got = run(dirty, plan, "triton", torch.float64)
    torch.testing.assert_close(got[:2], clean[:2], **FLOAT64)
    for key, grad in got[2].items():
        torch.testing.assert_close(grad, clean[2][key], **FLOAT64, msg=lambda m, k=key: f"{k}: {m}")


def test_the_operator_is_registered_as_pytorch_wants_it():
    from gazekit.kernels import block_sparse_triton as kernels

    plan = plan_windows((4, 4), (Window(3), Window(3)), (4, 4))
    tables = kernels._tables(plan, torch.device("cpu"))
    q, k, v = (randn(1, 16, 1, 16, seed=s).requires_grad_() for s in range(3))
    sizes, flags = [*tables.edges_q, *tables.edges_k], [tables.box, tables.causal, tables.masked]
    arguments = (
        q, k, v, None, None, None, list(tables.forward), list(tables.backward), sizes, list(tables.counts), flags,
        [1, 1], 0.25,
    )  # fmt: skip
    torch.library.opcheck(
        kernels._forward, arguments, test_utils=("test_schema", "test_faketensor", "test_autograd_registration")
    )
