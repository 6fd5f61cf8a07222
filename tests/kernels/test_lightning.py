"""Linear attention with decay: against the recurrence, its limits, its two conventions, and other libraries."""

from __future__ import annotations

import time
import warnings

import pytest
import torch

from gazekit import InputError
from gazekit.kernels import decay_linear_attention, lightning
from gazekit.kernels.lightning import (
    alibi_log_decay,
    decay_from_time,
    decay_weights,
    linear_log_decay,
)
from tests.kernels.scenes import randn
from tests.kernels.scenes_bias_decay import recurrence

# Sums of at most some hundred float64 terms of size 1.
EXACT = {"rtol": 1e-12, "atol": 1e-12}
ENGINES = ("torch", "reference")


def inputs(N, B=2, H=3, D=5, Dv=4, kind="head"):
    q, k, v, state = (
        randn(B, N, H, D, seed=1),
        randn(B, N, H, D, seed=2),
        randn(B, N, H, Dv, seed=3),
        randn(B, H, D, Dv),
    )
    decay = {
        "head": -randn(H, seed=4).abs() / 4,
        "shared": -randn(1, N, H, seed=4).abs() / 4,
        "token": -randn(B, N, H, seed=4).abs() / 4,
    }[kind]
    return [x.requires_grad_() for x in (q, k, v, decay, state)]


def outputs_and_gradients(call, tensors):
    outputs = call(*tensors)
    total = sum((o * randn(*o.shape, seed=9)).sum() for o in outputs)
    return [*outputs, *torch.autograd.grad(total, tensors)]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("kind", ["head", "shared", "token"])
@pytest.mark.parametrize("N", [1, 2, 63, 64, 65, 200])
def test_output_state_and_gradients_are_the_recurrences(N, kind, engine):
    tensors = inputs(N, kind=kind)
    got = outputs_and_gradients(
        lambda q, k, v, g, s: decay_linear_attention(q, k, v, g, scale=0.6, state=s, backend=engine), tensors
    )
    want = outputs_and_gradients(lambda q, k, v, g, s: recurrence(q, k, v, g, 0.6, s), tensors)
    for name, a, b in zip(("out", "last", "q", "k", "v", "decay", "state"), got, want, strict=True):
        # Relative to the largest: sums over up to 200 tokens.
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12 * max(1.0, float(b.detach().abs().max())), msg=name)


def test_many_spans_of_tiles_equal_one(monkeypatch):
    tensors = inputs(5 * 64 + 7)
    whole = outputs_and_gradients(lambda q, k, v, g, s: decay_linear_attention(q, k, v, g, state=s), tensors)
    monkeypatch.setattr(lightning, "_SPAN", 2)
    parts = outputs_and_gradients(lambda q, k, v, g, s: decay_linear_attention(q, k, v, g, state=s), tensors)
    for a, b in zip(whole, parts, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-10)


@pytest.mark.parametrize("kind", ["head", "token"])
def test_parts_with_the_state_handed_on_equal_the_whole(kind):
    def in_parts(q, k, v, g, s):
        outs = []
        for part in (slice(0, 70), slice(70, 71), slice(71, 150)):
            out, s = decay_linear_attention(
                q[:, part], k[:, part], v[:, part], g if g.ndim == 1 else g[:, part], state=s
            )
            outs.append(out)
        return torch.cat(outs, 1), s

    tensors = inputs(150, kind=kind)
    whole = outputs_and_gradients(lambda q, k, v, g, s: decay_linear_attention(q, k, v, g, state=s), tensors)
    for a, b in zip(whole, outputs_and_gradients(in_parts, tensors), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("engine", ENGINES)
def test_no_decay_sums_up_and_full_decay_sees_only_itself(engine):
    q, k, v, *_ = (x.detach() for x in inputs(100))
    summed, last = decay_linear_attention(q, k, v, torch.zeros(3).double(), backend=engine)
    states = torch.einsum("bnhd,bnhe->bnhde", k, v).cumsum(1)
    torch.testing.assert_close(summed, torch.einsum("bnhd,bnhde->bnhe", q, states), **EXACT)
    torch.testing.assert_close(last, states[:, -1], **EXACT)
    alone, last = decay_linear_attention(q, k, v, torch.full((3,), -torch.inf).double(), backend=engine)
    torch.testing.assert_close(alone, (q * k).sum(-1, keepdim=True) * v, **EXACT)
    torch.testing.assert_close(last, states[:, -1] - states[:, -2], **EXACT)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_forgetting_separates_trials_packed_into_one_sequence(engine, dtype):
    q, k, v, decay, state = (x.detach().to(dtype) for x in inputs(150, kind="token"))
    starts = (0, 30, 31, 100)
    decay[:, starts] = -torch.inf
    packed, _ = decay_linear_attention(q, k, v, decay.requires_grad_(), state=state, backend=engine)
    (grad,) = torch.autograd.grad(packed.square().sum(), decay)
    assert grad.isfinite().all()
    assert (grad[:, starts] == 0).all()
    for start, end in zip(starts, (*starts[1:], 150), strict=True):
        part = slice(start, end)
        alone, _ = decay_linear_attention(q[:, part], k[:, part], v[:, part], decay[:, part].detach())
        # Cumulative sums pass the stand-in for -inf, 800: 1e-13 of it is lost in float64; float32 takes those sums.
        tolerance = 1e-11 if dtype == torch.float64 else 1e-5
        torch.testing.assert_close(packed[:, part], alone, rtol=tolerance, atol=tolerance)


def test_long_float32_sequences_keep_to_float64():
    exact = inputs(3000, B=1, H=2, D=8, Dv=8)
    want = outputs_and_gradients(lambda q, k, v, g, s: decay_linear_attention(q, k, v, g, state=s), exact)
    rounded = [x.detach().float().requires_grad_() for x in exact]
    got = outputs_and_gradients(lambda q, k, v, g, s: decay_linear_attention(q, k, v, g, state=s), rounded)
    for name, a, b in zip(("out", "last", "q", "k", "v", "decay", "state"), got, want, strict=True):
        # Float32's 6e-8, times the square root of what a number is a sum of; the decay's gradient is a small
        # difference of sums over all tokens.
        allowed = (1e-4 if name == "decay" else 2e-6) * float(b.detach().abs().max())
        assert float((a - b).detach().abs().max()) <= allowed, name


def test_weights_are_what_the_output_is_made_of():
    q, k, v, decay, _ = (x.detach() for x in inputs(20, kind="token"))
    weights = decay_weights(q, k, decay, scale=0.3)
    assert (weights.triu(1) == 0).all()
    out, _ = decay_linear_attention(q, k, v, decay, scale=0.3)
    torch.testing.assert_close(torch.einsum("bhts,bshe->bthe", weights, v), out, **EXACT)


def test_both_ways_minus_the_diagonal_is_symmetric_decay():
    q, k, v, decay, _ = (x.detach() for x in inputs(70))
    before, _ = decay_linear_attention(q, k, v, decay)
    after, _ = decay_linear_attention(q.flip(1), k.flip(1), v.flip(1), decay)
    both = before + after.flip(1) - (q * k).sum(-1, keepdim=True) * v
    apart = (torch.arange(70)[:, None] - torch.arange(70)).abs()
    weights = torch.einsum("bthd,bshd->bhts", q, k) * (apart * decay[:, None, None]).exp()
    torch.testing.assert_close(both, torch.einsum("bhts,bshe->bthe", weights, v), **EXACT)


def test_the_two_conventions_of_decay():
    # ALiBi's slopes for 4 heads are 1/4, 1/16, 1/64, 1/256; 1 - 1/3 of them in layer 1 of 4.
    torch.testing.assert_close(
        alibi_log_decay(4), -torch.tensor([0.25, 0.0625, 0.015625, 0.00390625]), rtol=2e-5, atol=0
    )
    torch.testing.assert_close(alibi_log_decay(4, 1, 4), alibi_log_decay(4) * 2 / 3, rtol=2e-5, atol=0)
    torch.testing.assert_close(linear_log_decay(4), -torch.tensor([0.0, 2.0, 4.0, 6.0]))
    torch.testing.assert_close(linear_log_decay(4, 1, 4), -torch.tensor([0.0, 1.5, 3.0, 4.5]))
    with pytest.raises(InputError, match="0 <= layer < n_layers"):
        linear_log_decay(4, 4, 4)


def test_time_constants_do_not_depend_on_how_time_is_sampled():
    tau = torch.tensor([0.5, 60.0, torch.inf], dtype=torch.float64)
    torch.testing.assert_close(decay_from_time(0.25, tau), torch.tensor([-0.5, -0.25 / 60, -0.0], dtype=torch.float64))
    steps = torch.tensor([[0.1, 0.3, 0.0, 0.2]], dtype=torch.float64)
    torch.testing.assert_close(decay_from_time(steps, tau).sum(1)[0], decay_from_time(0.6, tau))
    new_trial = decay_from_time(torch.tensor([[torch.inf, 0.1]], dtype=torch.float64), tau)
    assert (new_trial[:, 0] == -torch.inf).all()
    assert (new_trial[:, 1] > -1).all()
    for step, time_constant, message in ((-0.1, tau, "order of time"), (0.1, tau - 1, "above 0 s")):
        with pytest.raises(InputError, match=message):
            decay_from_time(step, time_constant)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"log_decay": torch.full((3,), 0.5).double()}, r"at most 0, found up to 0\.5"),
        ({"log_decay": torch.zeros(4).double()}, r"log_decay must be \(H,\) = \(3,\) or .* found \(4,\)"),
        ({"log_decay": torch.full((3,), torch.nan).double()}, "at most 0, found up to nan"),
        ({"state": torch.zeros(2, 3, 4, 5).double()}, r"state must be \(B, H, D, Dv\) = \(2, 3, 5, 4\), found"),
        ({"k": torch.zeros(2, 7, 3, 5).double()}, "agree in batch, tokens"),
        ({"k": torch.zeros(2, 6, 1, 5).double(), "v": torch.zeros(2, 6, 1, 4).double()}, "repeat_interleave"),
        ({"q": torch.zeros(2, 6, 3, 5)}, "one floating dtype"),
    ],
)
def test_bad_input_is_one_line(change, message):
    q, k, v, decay, state = (x.detach() for x in inputs(6))
    given = {"q": q, "k": k, "v": v, "log_decay": decay, "state": state} | change
    with pytest.raises(InputError, match=rf"^decay_linear_attention: .*{message}") as caught:
        decay_linear_attention(**given)
    assert "\n" not in str(caught.value)


def test_no_tokens_hand_the_state_on():
    q, k, v, decay, state = inputs(0)
    for engine in ENGINES:
        out, last = decay_linear_attention(q, k, v, decay, state=state, backend=engine)
        assert out.shape == (2, 0, 3, 4)
        assert torch.equal(last, state)


@pytest.mark.slow
def test_it_compiles_into_one_graph():
    tensors = inputs(100)
    compiled = torch.compile(decay_linear_attention, fullgraph=True, backend="aot_eager")
    got = outputs_and_gradients(lambda q, k, v, g, s: compiled(q, k, v, g, state=s), tensors)
    want = outputs_and_gradients(lambda q, k, v, g, s: decay_linear_attention(q, k, v, g, state=s), tensors)
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, **EXACT)


@pytest.mark.slow
def test_long_sequences_take_linear_time():
    q, k, v = (torch.randn(1, 16384, 1, 64, requires_grad=True) for _ in range(3))
    decay = torch.tensor([-0.1])

    def seconds(call):
        start = time.perf_counter()
        torch.autograd.grad(call().sum(), (q, k, v))
        return time.perf_counter() - start

    ours = min(seconds(lambda: decay_linear_attention(q, k, v, decay)[0]) for _ in range(3))
    rows = [x.transpose(1, 2) for x in (q, k, v)]
    quadratic = seconds(lambda: torch.nn.functional.scaled_dot_product_attention(*rows, is_causal=True))
    # Measured at 25 to 36 times; a busy machine does not make it 5.
    assert quadratic > 5 * ours


def naive_of_flash_linear_attention():
    with warnings.catch_warnings():
        # It says that there is no GPU.
        warnings.simplefilter("ignore")
        return pytest.importorskip("fla.ops.simple_gla.naive", reason="flash-linear-attention is not installed")


@pytest.mark.parametrize("seed", range(6))
def test_flash_linear_attention_agrees(seed):
    naive = naive_of_flash_linear_attention()
    generator = torch.Generator().manual_seed(seed)
    B, N, H, D, Dv = (int(torch.randint(1, high, (), generator=generator)) for high in (3, 150, 5, 33, 33))
    q, k, v, state = (
        randn(B, N, H, D, seed=1),
        randn(B, N, H, D, seed=2),
        randn(B, N, H, Dv, seed=3),
        randn(B, H, D, Dv),
    )
    decay = -randn(B, N, H, seed=4).abs() / 2
    q, k, v, state, decay = (x.float() for x in (q, k, v, state, decay))
    # Its scale is D ** -0.5 unless it is told another.
    out, last = decay_linear_attention(q, k, v, decay, scale=D**-0.5, state=state)
    theirs, their_last = naive.naive_recurrent_simple_gla(q, k, v, decay, initial_state=state.clone())
    size = float(theirs.abs().max())
    # Both float32.
    torch.testing.assert_close(out, theirs, rtol=0, atol=3e-6 * max(size, 1))
    torch.testing.assert_close(last, their_last, rtol=0, atol=3e-6 * max(float(their_last.abs().max()), 1))
    by_head = decay[0, 0]
    out, _ = decay_linear_attention(q, k, v, by_head, scale=0.3)
    theirs, _ = naive.naive_parallel_simple_gla(q, k, v, by_head.expand(B, N, H), scale=0.3)
    torch.testing.assert_close(out, theirs, rtol=0, atol=3e-6 * max(float(theirs.abs().max()), 1))
