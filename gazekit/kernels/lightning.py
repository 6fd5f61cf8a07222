"""Linear attention with decay: no softmax, constant time per token, and a state that can be carried on.

    o_t = scale * sum over s <= t of exp(g_{s+1} + ... + g_t) (q_t . k_s) v_s,     g <= 0 the log decay per step

Within tiles of C tokens this is a C x C matrix; what lies before a tile reaches it through the state
``S = sum over s of exp(g_{s+1} + ... + g_t) k_s v_s^T`` (D, Dv) after the last token of the tile before. Time is
O(N (C + Dv) D), memory O(N D). Qin et al. 2024, "Lightning Attention-2", arXiv:2401.04658; decays that change
with time as in Yang et al. 2024, "Gated Linear Attention", arXiv:2312.06635.

There is no denominator: q and k need an activation (SiLU) or a norm, the output a norm, or values grow without bound.

For gaze, one decay per head is a memory with a time constant (:func:`decay_from_time`): samples of an eye tracker at
1 kHz, inhibition of return over a second, what has been searched over minutes.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from gazekit.errors import InputError
from gazekit.kernels.engine import Candidate, choose, lacks, triton_cannot
from gazekit.kernels.inputs import check_qkv

#: Tokens per tile.
TILE = 64
# Tiles computed at once: bounds what the C x C matrices take in memory, and keeps them in the cache.
_SPAN = 64
# exp() of it is 0 in the dtype that computes. A log decay of -inf (forget everything) counts as this, so that
# differences of cumulative sums stay finite; they are taken in float64, and so are exact enough for float32.
_FORGET = -800.0


def decay_linear_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor,
    *,
    scale: float = 1.0,
    state: Tensor | None = None,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """Causal linear attention with exponential decay, and the state to carry on with.

    A long sequence in parts, each given the state of the part before, equals the whole; so does one token at a time.

    Args:
        q: (B, N, H, D), after an activation or a norm.
        k: (B, N, H, D).
        v: (B, N, H, Dv).
        log_decay: (H,) one decay per head, or (B | 1, N, H) one per token: what the memory is multiplied with, as a
            natural log, before the token enters. At most 0 (checked on a CPU, where nothing is compiled);
            ``-inf`` forgets everything before the token. Takes a gradient.
        scale: Of the output. 1 here and in Lightning Attention; flash-linear-attention takes ``D ** -0.5``.
        state: (B, H, D, Dv) float32 (float64 for float64 input), from an earlier call; None is nothing seen so far.
        backend: "torch" computes in tiles on any device, "triton" on a GPU, "fla" with flash-linear-attention where it
            is installed (CUDA only), "reference" the definition in O(N^2).

    Returns:
        (B, N, H, Dv) output in q's dtype, and the state after the last token. Both take gradients, once.

    Raises:
        InputError: Shapes or dtypes that do not fit, a decay above 0, or a backend that cannot run.

    """
    _check(q, k, v, log_decay, state)
    no_triton = triton_cannot(q, k, v) or (None if q.shape[1] else "there are no tokens")
    engine = choose(
        "decay_linear_attention",
        backend,
        [
            Candidate("triton", no_triton),
            Candidate("torch"),
            Candidate("fla", _fla_cannot(q, log_decay), avoid="another library's kernel, on request only"),
            Candidate("reference", avoid="it builds the N x N weights"),
        ],
    )
    exact = _state_dtype(q)
    if state is None:
        state = q.new_zeros(q.shape[0], q.shape[2], q.shape[3], v.shape[3], dtype=exact)
    if engine == "reference":
        return decay_linear_attention_reference(q, k, v, log_decay, scale=scale, state=state)
    if engine == "fla":
        return _fla(q, k, v, log_decay, scale, state)
    function: Any = _TiledDecay
    if engine == "triton":
        from gazekit.kernels.lightning_triton import TritonDecay

        function = TritonDecay
    out, last = function.apply(q, k, v, log_decay.to(exact), scale, state.to(exact))
    return out, last


def decay_linear_attention_reference(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, *, scale: float = 1.0, state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The definition in plain PyTorch, O(N^2), in float32 or float64; see :func:`decay_linear_attention`."""
    dtype, exact = q.dtype, _state_dtype(q)
    decay = _per_token(log_decay.to(exact), q)
    q, k, v = q.to(exact), k.to(exact), v.to(exact)
    out = torch.einsum("bhts,bshe->bthe", decay_weights(q, k, decay, scale=scale), v)
    left = _sums_since(decay)[..., -1, :].exp() if q.shape[1] else decay.transpose(1, 2)  # (B | 1, H, N)
    last = torch.einsum("bhs,bshd,bshe->bhde", left.expand(len(q), -1, -1), k, v)
    if state is not None:
        since_start = decay.cumsum(1).exp()  # (B | 1, N, H)
        seen = torch.einsum("bthd,bhde->bthe", q, state.to(exact))
        out = out + scale * seen * since_start[..., None]
        through = since_start[:, -1] if q.shape[1] else decay.new_ones(1, decay.shape[2])
        last = last + state.to(exact) * through[..., None, None]
    return out.to(dtype), last


def decay_weights(q: Tensor, k: Tensor, log_decay: Tensor, *, scale: float = 1.0) -> Tensor:
    """(B, H, N, N) weights W of tokens s in token t, so that without a state ``out = W v``; O(N^2), for analysis."""
    exact = _state_dtype(q)
    scores = torch.einsum("bthd,bshd->bhts", q.to(exact), k.to(exact))
    return scale * scores * _sums_since(_per_token(log_decay.to(exact), q)).exp()


def alibi_log_decay(n_heads: int, layer: int = 0, n_layers: int = 1) -> Tensor:
    """(H,) log decays of Lightning Attention: ALiBi's slopes ``2^(-8 (h + 1) / H)``, weaker in later layers.

    Times ``1 - layer / (n_layers - 1) + 1e-5`` (1 for a single layer); the last layer hardly decays. `layer` counts
    from 0. From the authors' code (OpenNLPLab/lightning-attention).
    """
    _check_layer(n_heads, layer, n_layers)
    heads = torch.arange(1, n_heads + 1, dtype=torch.float64)
    return -(2.0 ** (-8 * heads / n_heads) * (1 - layer / max(n_layers - 1, 1) + 1e-5)).float()


def linear_log_decay(n_heads: int, layer: int = 0, n_layers: int = 1) -> Tensor:
    """(H,) log decays of TransNormerLLM and flash-linear-attention: ``-(8 h / H) (1 - layer / n_layers)``.

    Heads count from 0, so the first never decays; see :func:`alibi_log_decay` for the other convention.
    """
    _check_layer(n_heads, layer, n_layers)
    heads = torch.arange(n_heads, dtype=torch.float64)
    return -(8 * heads / n_heads * (1 - layer / n_layers)).float()


def decay_from_time(step_s: Tensor | float, time_constant_s: Tensor) -> Tensor:
    """Log decays ``-step / time constant`` of memories that lose a factor e within their time constant.

    Args:
        step_s: Time since the sample before: a number for even sampling, else (B, N) in s; 0 or more, and inf to
            forget everything (a new trial begins).
        time_constant_s: (H,) one per head, above 0; inf never forgets.

    Returns:
        (H,) or (B, N, H) for :func:`decay_linear_attention`.

    """
    if (time_constant_s <= 0).any():
        raise InputError(f"decay_from_time: time constants must be above 0 s, found {time_constant_s.tolist()}")
    step = torch.as_tensor(step_s, dtype=time_constant_s.dtype, device=time_constant_s.device)
    if (step < 0).any() or step.isnan().any():
        raise InputError("decay_from_time: steps must be 0 s or more; are the samples in order of time?")
    # inf / inf: a new trial ends a memory that never decays by itself.
    return -torch.where(step[..., None] == torch.inf, torch.inf, step[..., None] / time_constant_s)


class TileDecay(NamedTuple):
    """What is left of things within and across tiles of C tokens; n tiles, b is 1 or B, m is 1 where all are alike.

    Attributes:
        within: (b, H, m, C, C) of token j at token i of the same tile; 0 above the diagonal.
        from_before: (b, H, m, C, 1) of the state before the tile, at token i.
        to_end: (b, H, n, C, 1) of token j at the end of the tile.
        across: (b, H, n, 1, 1) of the state before the tile, at its end.

    """

    within: Tensor
    from_before: Tensor
    to_end: Tensor
    across: Tensor


def _tile_decay(log_decay: Tensor, n_tokens: int, tile: int) -> TileDecay:
    decay = log_decay.double().clamp(min=_FORGET)
    n, tokens = -(-n_tokens // tile), torch.arange(tile, device=decay.device)
    # Padding after the last token must not decay anything: there, the sums stand still.
    if decay.ndim == 1:
        steps = decay[None, :, None, None]
        sums = steps * (tokens + 1)  # (1, H, 1, C)
        lengths = (n_tokens - tile * torch.arange(n, device=decay.device)).clamp(max=tile)[:, None]
        end = steps * lengths  # (1, H, n, 1)
        to_end = (steps * (lengths - 1 - tokens)).clamp(max=0)
        since = steps[..., None] * (tokens[:, None] - tokens)
    else:
        padded = F.pad(decay, (0, 0, 0, n * tile - n_tokens))
        sums = padded.unflatten(1, (n, tile)).permute(0, 3, 1, 2).cumsum(-1)  # (b, H, n, C)
        end = sums[..., -1:]
        to_end = end - sums
        since = sums[..., :, None] - sums[..., None, :]
    dtype = log_decay.dtype
    within = since.to(dtype).exp_().tril_()
    return TileDecay(
        within, sums[..., None].to(dtype).exp(), to_end[..., None].to(dtype).exp(), end[..., None].to(dtype).exp()
    )


class _TiledDecay(torch.autograd.Function):
    """Tiles at once, states one after the other, in plain PyTorch on any device."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, scale: float, state: Tensor
    ) -> tuple[Tensor, Tensor]:
        N, tile = q.shape[1], TILE if q.shape[1] > TILE else max(q.shape[1], 1)
        tiled = [_to_tiles(x, tile, log_decay.dtype) for x in (q, k, v)]
        decay = _tile_decay(log_decay, N, tile)
        out = torch.empty_like(tiled[2])
        before = out.new_empty(*out.shape[:3], q.shape[3], v.shape[3])
        for span in _spans(out.shape[2]):
            query, key, value = (x[:, :, span] for x in tiled)
            part = _part(decay, span)
            arriving = (key * part.to_end).transpose(-1, -2) @ value
            state = _scan(arriving, part.across, state, before[:, :, span])
            weights = (query @ key.transpose(-1, -2)).mul_(part.within)
            torch.add(weights @ value, (query @ before[:, :, span]).mul_(part.from_before), out=out[:, :, span])
        ctx.save_for_backward(*tiled, log_decay, before, state)
        ctx.scale, ctx.n_tokens, ctx.dtype, ctx.tile = scale, N, q.dtype, tile
        return _from_tiles(out.mul_(scale), N, q.dtype), state.clone()

    @staticmethod
    @once_differentiable  # type: ignore[misc]
    def backward(ctx: Any, grad_out: Tensor, grad_last: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, log_decay, before, last = ctx.saved_tensors
        decay = _tile_decay(log_decay, ctx.n_tokens, ctx.tile)
        grad = _to_tiles(grad_out, ctx.tile, log_decay.dtype) * ctx.scale
        after = torch.empty_like(before)
        state = grad_last
        d_query, d_key, d_value = (torch.empty_like(x) for x in (q, k, v))
        for span in reversed(_spans(grad.shape[2])):
            part = _part(decay, span)
            query, key, value, upstream = (x[:, :, span] for x in (q, k, v, grad))
            arriving = (query * part.from_before).transpose(-1, -2) @ upstream
            state = _scan(arriving, part.across, state, after[:, :, span], backwards=True)
            weights = (query @ key.transpose(-1, -2)).mul_(part.within)
            d_weights = (upstream @ value.transpose(-1, -2)).mul_(part.within)
            old, new = before[:, :, span].transpose(-1, -2), after[:, :, span]
            torch.add(d_weights @ key, (upstream @ old).mul_(part.from_before), out=d_query[:, :, span])
            torch.add(
                d_weights.transpose(-1, -2) @ query,
                (value @ new.transpose(-1, -2)).mul_(part.to_end),
                out=d_key[:, :, span],
            )
            torch.add(weights.transpose(-1, -2) @ upstream, (key @ new).mul_(part.to_end), out=d_value[:, :, span])
        d_decay = None
        if ctx.needs_input_grad[3]:
            moved = (q.double() * d_query).sum(-1) - (k.double() * d_key).sum(-1)  # (B, H, n, C)
            d_decay = decay_gradient(moved.flatten(2)[..., : ctx.n_tokens].transpose(1, 2), grad_last, last, log_decay)
        grads = (_from_tiles(x, ctx.n_tokens, ctx.dtype) for x in (d_query, d_key, d_value))
        return *grads, d_decay, None, state


def decay_gradient(moved: Tensor, grad_last: Tensor, last: Tensor, log_decay: Tensor) -> Tensor:
    """Gradient of the log decays, from what the tokens' own gradients say.

    Multiplying everything from token t on by a factor multiplies q_t and divides k_t by it; so the gradient of the
    cumulative log decay is ``q . dq - k . dk``, and, at the end, ``S . dS`` of the last state.

    Args:
        moved: (B, N, H) float64, ``q . dq - k . dk``.
        grad_last: (B, H, D, Dv) gradient of the last state.
        last: (B, H, D, Dv) the last state.
        log_decay: As given to the kernel.

    """
    if moved.shape[1]:
        moved = moved.clone()
        moved[:, -1] += (grad_last.double() * last).sum((-2, -1))
    # A step counts for every token from it on. Summed in float64: terms of both signs nearly cancel.
    per_step = moved.flip(1).cumsum(1).flip(1)
    if log_decay.ndim == 1:
        summed = per_step.sum((0, 1))
    else:
        summed = per_step.sum(0, keepdim=True) if len(log_decay) < len(moved) else per_step
    # Where everything is forgotten, a little more or less decay changes nothing.
    return summed.masked_fill(log_decay <= _FORGET, 0.0).to(log_decay.dtype)


def _spans(n_tiles: int) -> list[slice]:
    return [slice(start, min(start + _SPAN, n_tiles)) for start in range(0, n_tiles, _SPAN)]


def _part(decay: TileDecay, span: slice) -> TileDecay:
    return TileDecay(*(x if x.shape[2] == 1 else x[:, :, span] for x in decay))


def _scan(arriving: Tensor, across: Tensor, state: Tensor, seen: Tensor, backwards: bool = False) -> Tensor:
    """``S <- across S + arriving`` over tiles; fills `seen` with the state before each, returns the last.

    Args:
        arriving: (B, H, n, D, Dv); overwritten.
        across: (b, H, n | 1, 1, 1).
        state: (B, H, D, Dv) to begin with.
        seen: (B, H, n, D, Dv) to fill.
        backwards: From the last tile to the first.

    """
    n = arriving.shape[2]
    across = across.expand(-1, -1, n, -1, -1)
    for tile in reversed(range(n)) if backwards else range(n):
        seen[:, :, tile] = state
        state = torch.addcmul(arriving[:, :, tile], state, across[:, :, tile])
    return state


def _to_tiles(x: Tensor, tile: int, dtype: torch.dtype) -> Tensor:
    """(B, N, H, D) -> (B, H, n, C, D), zeros after the end."""
    n = -(-x.shape[1] // tile)
    padded = F.pad(x, (0, 0, 0, 0, 0, n * tile - x.shape[1])) if n * tile > x.shape[1] else x
    tiled: Tensor = padded.unflatten(1, (n, tile)).permute(0, 3, 1, 2, 4)
    return tiled.to(dtype).contiguous()


def _from_tiles(x: Tensor, n_tokens: int, dtype: torch.dtype) -> Tensor:
    return x.permute(0, 2, 3, 1, 4).flatten(1, 2)[:, :n_tokens].to(dtype)


def _per_token(log_decay: Tensor, q: Tensor) -> Tensor:
    """(H,) or (B | 1, N, H) -> (B | 1, N, H)."""
    return log_decay.expand(1, q.shape[1], -1) if log_decay.ndim == 1 else log_decay


def _sums_since(decay: Tensor) -> Tensor:
    """(b, N, H) -> (b, H, N, N): at [t, s] the sum of decay over s < u <= t; -inf where s > t.

    Summed for each s by itself: a difference of sums from the start would be NaN after a decay of -inf.
    """
    u = torch.arange(decay.shape[1], device=decay.device)
    steps = decay.transpose(1, 2)[..., :, None].expand(-1, -1, -1, len(u))
    summed = torch.where(u[:, None] > u, steps, 0.0).cumsum(-2)
    return summed.masked_fill(u[:, None] < u, -torch.inf)


def _state_dtype(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _check(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, state: Tensor | None) -> None:
    name = "decay_linear_attention"
    check_qkv(name, q, k, v)
    B, N, H, D = q.shape
    if k.shape[1:3] != (N, H):
        raise InputError(
            f"{name}: q and k must agree in tokens and heads, found q {tuple(q.shape)}, k {tuple(k.shape)}; "
            "repeat shared heads with k.repeat_interleave(groups, 2)"
        )
    if tuple(log_decay.shape) not in ((H,), (1, N, H), (B, N, H)):
        raise InputError(
            f"{name}: log_decay must be (H,) = ({H},) or (B | 1, N, H) = ({B} | 1, {N}, {H}), "
            f"found {tuple(log_decay.shape)}"
        )
    # Values are not looked at where that would wait for a GPU, or end a compiled graph.
    if log_decay.device.type == "cpu" and not torch.compiler.is_compiling() and not (log_decay <= 0).all():
        raise InputError(
            f"{name}: log_decay must be at most 0, found up to {float(log_decay.detach().max())}; "
            "a decay factor is given as its log, a slope with a minus sign"
        )
    if state is not None and tuple(state.shape) != (B, H, D, v.shape[-1]):
        raise InputError(f"{name}: state must be (B, H, D, Dv) = {(B, H, D, v.shape[-1])}, found {tuple(state.shape)}")


def _check_layer(n_heads: int, layer: int, n_layers: int) -> None:
    if n_heads < 1 or not 0 <= layer < n_layers:
        raise InputError(
            f"log decays: expected at least 1 head and 0 <= layer < n_layers, found {n_heads} heads, "
            f"layer {layer} of {n_layers}"
        )


def _fla_cannot(q: Tensor, log_decay: Tensor) -> str | None:
    if reason := lacks("fla", "fla-core"):
        return reason
    if not q.is_cuda:
        return f"tensors on {q.device}; flash-linear-attention needs a CUDA device"
    if q.dtype not in (torch.float16, torch.bfloat16, torch.float32):
        return f"dtype {q.dtype}; flash-linear-attention takes float16, bfloat16, float32"
    if log_decay.ndim == 1 and log_decay.requires_grad:
        return "it has no gradient for decays of shape (H,); expand them to (B, N, H)"
    return None


def _fla(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, scale: float, state: Tensor) -> tuple[Tensor, Tensor]:
    from fla.ops.simple_gla import chunk_simple_gla

    # Its layout is ours, and its gate a log decay that is applied before the token enters.
    gate = log_decay.expand(*q.shape[:3]) if log_decay.ndim == 3 else None
    gamma = log_decay if log_decay.ndim == 1 else None
    out, last = chunk_simple_gla(
        q, k, v, g=gate, g_gamma=gamma, scale=scale, initial_state=state, output_final_state=True
    )
    return out, last
