"""Factors of attention biases: exact and approximate ones, half precision, and attention with them."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from gazekit import InputError
from gazekit.kernels import BiasFactors, biased_attention, explain_backend
from gazekit.kernels.bias import (
    alibi,
    alibi_slopes,
    eccentricity,
    from_svd,
    key_only,
    single_fixation,
    squared_distance,
)
from gazekit.kernels.neural_bias import NeuralBias, fit_neural_bias
from tests.kernels.scenes import randn

# Float64 sums of a few dozen terms of size 1.
EXACT = {"rtol": 1e-12, "atol": 1e-12}
ENGINES = ("sdpa", "torch", "reference")


def qkv(N=12, M=12, H=4, D=8, B=2, Dv=8):
    return randn(B, N, H, D, seed=1), randn(B, M, H, D, seed=2), randn(B, M, H, Dv, seed=3)


def sdpa(q, k, v, **kwargs):
    return F.scaled_dot_product_attention(*(x.transpose(1, 2) for x in (q, k, v)), **kwargs).transpose(1, 2)


def grid(height, width):
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([x, y], -1).reshape(1, -1, 2).double()


# Exact factors


@pytest.mark.parametrize("engine", ENGINES)
def test_alibi_is_minus_slope_times_distance_into_the_past(engine):
    q, k, v = qkv()
    slopes = alibi_slopes(4).double()
    bias = alibi(slopes, 12)
    assert bias.rank == 1
    i = torch.arange(12)
    dense = -slopes[:, None, None] * (i[:, None] - i).clamp(min=0)
    mask = dense.masked_fill(torch.ones(12, 12, dtype=torch.bool).triu(1), -torch.inf)
    torch.testing.assert_close(
        biased_attention(q, k, v, bias, causal=True, backend=engine), sdpa(q, k, v, attn_mask=mask), **EXACT
    )
    # The nearest past counts most.
    assert bias.dense()[0, 0, 5, 5] > bias.dense()[0, 0, 5, 4]


def test_alibis_slopes_halve():
    torch.testing.assert_close(alibi_slopes(8), torch.tensor([2.0**-h for h in range(1, 9)]))


@pytest.mark.parametrize("keep", [False, True])
def test_squared_distance(keep):
    x, y = randn(2, 12, 3, seed=4) + 1000, randn(1, 9, 3, seed=5) + 1000
    weight = torch.tensor([0.5, 2.0], dtype=torch.float64)
    factors = squared_distance(x, y, weight, keep_query_term=keep)
    dense = -weight[:, None, None] * (x[:, None, :, None] - y[:, None, None]).square().sum(-1)
    assert factors.rank == (5 if keep else 4)
    assert factors.error(dense, up_to_query=True) < 1e-11
    assert (factors.error(dense) < 1e-11) == keep
    q, k, v = randn(2, 12, 2, 8, seed=1), randn(2, 9, 2, 8, seed=2), randn(2, 9, 2, 8, seed=3)
    torch.testing.assert_close(
        biased_attention(q, k, v, factors), sdpa(q, k, v, attn_mask=dense), rtol=1e-10, atol=1e-10
    )


def test_eccentricity_and_any_function_of_the_distance_from_one_fixation():
    at, fixation = grid(3, 4) / 2, torch.tensor([[0.3, 0.9], [1.6, 0.1]], dtype=torch.float64)
    weight = torch.tensor([1.0, 2.0, 0.0, 0.5], dtype=torch.float64)
    factors = eccentricity(at, fixation, 12, weight=weight, e2_dva=1.5)
    assert factors.rank == 1
    for trial in range(2):
        for key in range(12):
            e = math.dist(at[0, key].tolist(), fixation[trial].tolist())
            for head in range(4):
                want = -float(weight[head]) * math.log(1 + e / 1.5)
                assert float(factors.dense()[trial, head, 7, key]) == pytest.approx(want, abs=1e-12)
    prior = single_fixation(at, fixation, lambda e: -((e - 1.2).square()), 12)
    assert prior.rank == 1
    assert float(prior.dense()[1, 0, 0, 5]) == pytest.approx(
        -((math.dist(at[0, 5], fixation[1]) - 1.2) ** 2), abs=1e-12
    )
    q, k, v = qkv()
    dense = (factors + prior).dense()
    torch.testing.assert_close(biased_attention(q, k, v, factors + prior), sdpa(q, k, v, attn_mask=dense), **EXACT)


def test_inhibition_of_return_of_many_fixations_has_rank_one():
    at, past = grid(3, 4), randn(2, 5, 2, seed=6)
    dips = -torch.exp(-(at[:, None] - past[:, :, None]).square().sum(-1) / 2).sum(1)  # (B, M)
    factors = key_only(dips, 12)
    assert factors.rank == 1
    assert factors.error(dips[:, None, None].expand(2, 1, 12, 12)) == 0.0


@pytest.mark.parametrize("engine", ENGINES)
def test_what_depends_on_the_query_alone_and_what_is_alike_for_all_keys_changes_nothing(engine):
    q, k, v = qkv()
    bias = BiasFactors(randn(1, 12, 4, 2, seed=4), randn(2, 12, 1, 2, seed=5))
    want = biased_attention(q, k, v, bias, backend=engine)
    query_term = BiasFactors(randn(2, 12, 4, 1, seed=6), torch.ones(1, 12, 1, 1).double())
    torch.testing.assert_close(biased_attention(q, k, v, bias + query_term, backend=engine), want, **EXACT)


@pytest.mark.parametrize("engine", ENGINES)
def test_without_a_bias_it_is_plain_attention(engine):
    q, k, v = qkv(Dv=5)
    nothing = BiasFactors(q.new_zeros(1, 12, 1, 0), q.new_zeros(1, 12, 1, 0))
    torch.testing.assert_close(biased_attention(q, k, v, nothing, backend=engine), sdpa(q, k, v), **EXACT)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("M", [7, 12, 20])
def test_padding_is_not_seen_whatever_it_holds(engine, causal, M):
    q, k, v = qkv(M=M)
    bias = BiasFactors(randn(1, 12, 4, 2, seed=4), randn(2, M, 1, 2, seed=5))
    valid = torch.ones(2, M, dtype=torch.bool)
    valid[0, 5:] = False
    valid[1, :4] = False
    garbage = [x.masked_fill(~valid[:, :, None, None], torch.nan).requires_grad_() for x in (k, v)]
    out = biased_attention(q, *garbage, bias, causal=causal, valid=valid, backend=engine)
    mask = bias.dense().masked_fill(~valid[:, None, None], -torch.inf)
    if causal:
        mask = mask.masked_fill(torch.ones(12, M, dtype=torch.bool).triu(1), -torch.inf)
        assert (out[1, :4] == 0).all()  # these queries see no key
    seen = mask.isfinite().any(-1).transpose(1, 2)[..., :1, None]
    want = torch.where(seen, sdpa(q, k, v, attn_mask=mask.clamp(min=-1e9)), 0.0)
    torch.testing.assert_close(out, want, **EXACT)
    for grad in torch.autograd.grad((out * randn(*out.shape)).sum(), garbage):
        assert grad.isfinite().all()
        assert (grad.masked_select(~valid[:, :, None, None]) == 0).all()


# Approximate factors


def test_svd_at_full_rank_is_the_bias_and_the_rank_is_the_smallest_that_suffices():
    dense = randn(1, 3, 10, 14, seed=7)
    assert from_svd(dense, max_error=1e-10, max_rank=10).error(dense) < 1e-12
    i = torch.arange(24).double()
    smooth = (4 * torch.exp(-((i[:, None] - i).square()) / 200))[None, None]
    previous = 0.0
    for limit in (1.0, 0.1, 0.01):
        factors = from_svd(smooth, max_error=limit)
        assert factors.error(smooth) <= limit
        assert factors.rank > previous
        left, size, right = torch.linalg.svd(smooth[0, 0])
        one_less = (left[:, : factors.rank - 1] * size[: factors.rank - 1]) @ right[: factors.rank - 1]
        assert float((one_less - smooth[0, 0]).abs().max()) > limit
        previous = factors.rank
    assert from_svd(smooth, max_error=5.0).rank == 0


def test_a_bias_that_needs_too_high_a_rank_is_refused_with_what_it_would_reach():
    i = torch.arange(40).double()
    with pytest.raises(InputError, match=r"from_svd: rank 10 leaves an error of [\d.]+, above max_error 0\.01"):
        from_svd(-(i[:, None] - i).abs()[None, None], max_error=0.01)


@pytest.mark.parametrize("epsilon", [0.05, 0.5])
def test_the_largest_error_bounds_every_weight(epsilon):
    q, k, _ = qkv()
    dense, wrong = randn(2, 4, 12, 12, seed=8), (2 * torch.rand(2, 4, 12, 12).double() - 1) * epsilon
    scores = torch.einsum("bnhd,bmhd->bhnm", q, k)
    ratio = (scores + dense + wrong).softmax(-1) / (scores + dense).softmax(-1)
    assert float(ratio.log().abs().max()) <= 2 * epsilon


def test_learned_factors_report_their_largest_error():
    torch.manual_seed(0)
    at = grid(3, 4).float() / 3
    dense = -2 * (at[:, :, None] - at[:, None]).norm(dim=-1)[:, None]
    # Networks without biases are odd functions: a constant among the features lets them be others.
    at = torch.cat([at - 0.4, torch.ones(1, 12, 1)], -1)
    network = NeuralBias(3, 3, n_heads=1, rank=8, width=32)
    with torch.no_grad():
        before = network(at, at).error(dense)
    fit = fit_neural_bias(network, at, at, dense, steps=250, lr=1e-2)
    with torch.no_grad():
        assert fit.max_error == pytest.approx(network(at, at).error(dense), rel=1e-5)
    assert fit.max_error < before / 3
    assert fit.rms_error < fit.max_error
    # A coarse aim is reached earlier.
    assert fit_neural_bias(network, at, at, dense, steps=250, max_error=10.0).steps == 0
    q, k, v = (x.float() for x in qkv(H=2))
    out = biased_attention(q, k, v, network(at, at))
    out.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in network.parameters())


# Half precision


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("n", [512, 4096, 40_000])
def test_integer_positions_are_exact_in_half_precision(dtype, n):
    slopes = alibi_slopes(8)
    bias = alibi(slopes, 1, n)
    safe = bias.to_half_safe(dtype)
    # Two parts of 8 bits or of 11, where one does not hold them.
    assert safe.rank == (1 if dtype == torch.float16 and n <= 2048 else 2)
    for x in (safe.query, safe.key):
        assert torch.equal(x, x.to(dtype).float())
    # Slopes of 8 heads are powers of two: products and their sum are exact in float32.
    assert torch.equal(safe.dense(), bias.dense())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_any_factors_are_split_to_float32s_precision(dtype):
    bias = BiasFactors(randn(1, 30, 2, 3, seed=1).float() * 3e4, randn(2, 40, 1, 3, seed=2).float() * 1e3)
    size = float(bias.query.abs().max() * bias.key.abs().max())
    safe = bias.to_half_safe(dtype)
    assert safe.half_safe == dtype
    assert safe.dense().isfinite().all()
    assert safe.error(bias.dense().double()) < 6 * 2**-22 * size
    query, key = bias.split_for(torch.bfloat16)
    assert query.dtype == torch.bfloat16
    split = torch.einsum("bnhr,bmhr->bhnm", query.float(), key.float())
    assert float((split - bias.dense()).abs().max()) < 3 * 4 * 2**-18 * size


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("explicit", [False, True])
def test_a_strong_bias_over_many_positions_survives_half_precision(dtype, explicit):
    N = 512
    q, k, v = randn(1, N, 2, 16, seed=1), randn(1, N, 2, 16, seed=2), randn(1, N, 2, 16, seed=3)
    bias = alibi(torch.tensor([1.0, 0.3], dtype=torch.float64), N)
    mask = bias.dense().masked_fill(torch.ones(N, N, dtype=torch.bool).triu(1), -torch.inf)
    want = sdpa(q, k, v, attn_mask=mask)
    q, k, v = (x.to(dtype) for x in (q, k, v))
    factors = bias.to(torch.float32)
    got = biased_attention(q, k, v, factors.to_half_safe(dtype) if explicit else factors, causal=True, backend="sdpa")
    i = torch.arange(N).double()
    plain = sdpa(q, k, v, attn_mask=(mask - mask.amax(-1, keepdim=True)).to(dtype))
    error, allowed = ((x.double() - want).abs().max() for x in (got, plain))
    assert float(error) <= 2 * float(allowed) + {torch.float16: 1e-3, torch.bfloat16: 8e-3}[dtype]
    # What this protects from: positions rounded to half precision.
    if dtype == torch.bfloat16:
        naive = sdpa(q.double(), k.double(), v.double(), attn_mask=mask + (i.to(dtype).double() - i))
        assert float((naive - want).abs().max()) > 0.5


def test_gradients_pass_through_the_split():
    query, key = (x.float().requires_grad_() for x in (randn(1, 5, 2, 2, seed=1), randn(1, 6, 2, 2, seed=2)))
    up = randn(1, 2, 5, 6, seed=3).float()
    wanted = torch.autograd.grad((BiasFactors(query, key).dense() * up).sum(), (query, key))
    for factors in (BiasFactors(query, key).to_half_safe(torch.bfloat16), BiasFactors(query, key)):
        q, k = (x.float() for x in factors.split_for(torch.bfloat16))
        got = torch.autograd.grad((torch.einsum("bnhr,bmhr->bhnm", q, k) * up).sum(), (query, key))
        for a, b in zip(got, wanted, strict=True):
            # The gradient itself passes through bfloat16.
            torch.testing.assert_close(a, b, rtol=0, atol=0.02 * float(b.abs().max()))


# What is refused


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: BiasFactors(torch.zeros(1, 3, 1, 2), torch.zeros(1, 3, 1, 3)), "found"),
        (lambda: BiasFactors(torch.zeros(2, 3, 1, 2), torch.zeros(3, 3, 1, 2)), "one B and one H"),
        (lambda: BiasFactors(*[torch.zeros(1, 3, 1, 2).half()] * 2), "build factors in float32"),
        (lambda: key_only(torch.zeros(3), 4), "key_only: expected values"),
        (lambda: squared_distance(torch.zeros(3, 2), torch.zeros(1, 3, 2)), "squared_distance: expected positions"),
        (lambda: single_fixation(torch.zeros(1, 3, 2), torch.zeros(2), torch.exp, 4), "single_fixation: expected"),
        (lambda: eccentricity(torch.zeros(1, 3, 2), torch.zeros(1, 2), 4, e2_dva=0.0), "e2_dva must be above 0"),
        (lambda: alibi(torch.ones(2), 3) + alibi(torch.ones(2), 4), "sums need the same tokens, found 3 and 4"),
        (lambda: alibi(torch.ones(2), 3).to_half_safe(torch.float32), "bfloat16 or torch.float16"),
        (lambda: from_svd(torch.full((1, 1, 2, 2), torch.inf), max_error=0.1), "expected a finite bias"),
        (lambda: NeuralBias(2, 2, 0, 4), "every size must be at least 1"),
        (lambda: fit_neural_bias(NeuralBias(1, 1, 1, 1), *[torch.zeros(1, 1, 1)] * 2, torch.zeros(1, 1, 1, 1), steps=0),
         "at least 1 step"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_one_line(make, message):
    with pytest.raises(InputError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_attention_refuses_what_does_not_fit():
    q, k, v = qkv()
    for bias, given, message in (
        (alibi(torch.ones(4).double(), 11), {}, "the bias's query factor must be"),
        (alibi(torch.ones(3).double(), 12), {}, "the bias's query factor must be"),
        (alibi(torch.ones(4).double(), 12, 10), {}, "the bias's key factor must be"),
        (BiasFactors(q.new_zeros(1, 12, 1, 9), q.new_zeros(1, 12, 1, 9)), {}, "rank 9 is above the head's width 8"),
        (alibi(torch.ones(4).double(), 12), {"valid": torch.ones(2, 11, dtype=torch.bool)}, "valid must be bool"),
        (alibi(torch.ones(4).double(), 12), {"valid": torch.ones(2, 12)}, "valid must be bool"),
    ):
        with pytest.raises(InputError, match=f"^biased_attention: .*{message}"):
            biased_attention(q, k, v, bias, **given)


def test_no_tokens():
    q, k, v = qkv(M=0)
    bias = alibi(torch.ones(4).double(), 12, 0)
    assert explain_backend(biased_attention, q, k, v, bias).name == "reference"
    assert (biased_attention(q, k, v, bias) == 0).all()


@pytest.mark.slow
def test_it_compiles_into_one_graph():
    q, k, v = (x.requires_grad_() for x in qkv())
    query, key = randn(1, 12, 4, 2, seed=4).requires_grad_(), randn(2, 12, 1, 2, seed=5).requires_grad_()

    def call(q, k, v, query, key):
        return biased_attention(q, k, v, BiasFactors(query, key), causal=True)

    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    tensors, up = (q, k, v, query, key), randn(2, 12, 4, 8, seed=6)
    got, want = (torch.autograd.grad((f(*tensors) * up).sum(), tensors) for f in (compiled, call))
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, **EXACT)
