"""What `gazekit bench kernels` times: attention problems, and who solves them.

A case is a set of tensors and contenders that are timed on them in turn; the first is the one that the others are
compared with. On a CPU the shapes are smaller, with the windows' share of the axes kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from gazekit.kernels.bias import BiasFactors
from gazekit.kernels.biased_attention import biased_attention
from gazekit.kernels.block_sparse import block_sparse_attention
from gazekit.kernels.engine import explain_backend, lacks
from gazekit.kernels.gate import gate_heads
from gazekit.kernels.lightning import alibi_log_decay, decay_linear_attention
from gazekit.kernels.neighborhood import gather_tile, neighborhood_attention, triton_tile
from gazekit.kernels.plan import plan_windows
from gazekit.kernels.tile_layout import TileLayout
from gazekit.kernels.window import Window, axis_tiles, estimate_speedup, window_mask

Tensors = dict[str, Tensor]
Solve = Callable[[Tensors], Tensor]

# Tokens above which a dense mask is not built, and the definition is not taken as what to compare with.
_DENSE_TOKENS = 8192
_DENSE_MASK = "sdpa, dense mask"


@dataclass(frozen=True)
class Contender:
    """Someone who solves a case.

    Args:
        engine: Who.
        setting: What is solved, where a case has several: "k24 s8".
        prepare: Whatever is done once (a plan, a compilation), returning the function to be timed.
        exact: The same problem solved by definition, for tensors in float64; None where nobody checks (a baseline that
            solves another problem).
        cannot: Why it cannot run here; None where it can.
        backward: Whether it has one.
        counted: How many times less work than the baseline there is to do, by counting.
        floor: Least speed-up over the baseline that is acceptable here, forward and backward.
        aim: Speed-up that is aimed at.
        trained: Names of the tensors that take a gradient.
        baseline: Others with the same setting are compared with it; without such a one, with the case's first.
        layout: The order in which it wants tokens and yields them, where the rearrangement is not part of the time.

    """

    engine: str
    prepare: Callable[[], Solve]
    exact: Solve | None = None
    setting: str = ""
    cannot: str | None = None
    backward: bool = True
    counted: float = math.nan
    floor: float = math.nan
    aim: float = math.nan
    trained: tuple[str, ...] = ("q", "k", "v")
    baseline: bool = False
    layout: TileLayout | None = None


@dataclass(frozen=True)
class Case:
    """Tensors, and contenders on them.

    Args:
        name: How it is asked for.
        shape: In words.
        tensors: (generator) -> float32 tensors on the CPU.
        contenders: The baseline first.
        small: The same problem in a size that can be checked against the definition; itself if None.

    """

    name: str
    shape: str
    tensors: Callable[[torch.Generator], Tensors]
    contenders: Callable[[], list[Contender]]
    small: Case | None = None


@dataclass(frozen=True)
class Setting:
    """Windows on a grid: sizes and strides per axis, and what is asked of them."""

    name: str
    sizes: tuple[int, ...]
    strides: tuple[int, ...]
    floor: float = math.nan
    aim: float = math.nan

    @property
    def windows(self) -> tuple[Window, ...]:
        return tuple(Window(k, s) for k, s in zip(self.sizes, self.strides, strict=True))


def cases(device: torch.device, dtype: torch.dtype, flex: bool = False) -> list[Case]:
    """Every case, in shapes for the device; with `flex`, FlexAttention on a CPU too, which has no backward there."""
    gpu = device.type == "cuda"
    windows = partial(_windows, device=device, dtype=dtype, flex=flex)
    if gpu:
        square = lambda name, k, s, floor=math.nan, aim=math.nan: Setting(name, (k, k), (s, s), floor, aim)  # noqa: E731
        made = [
            windows("G5", (64, 64), (8, 16, 64), [square("k24 s8", 24, 8, 3.5, 5.0), square("k16 s16", 16, 16)]),
            windows(
                "G1", (256, 256), (1, 24, 128), [square("k80 s16", 80, 16, 5.0, 7.5), square("k80 s1", 80, 1, 3.0, 4.5)]
            ),
            windows(
                "G3", (30, 48, 80), (1, 24, 128), [Setting("k18x24x24 s16x8x8", (18, 24, 24), (16, 8, 8), 5.5, 8.0)]
            ),
            windows("G4", (32768,), (1, 16, 128), [Setting("k2048 s256", (2048,), (256,), 6.0, 10.0)]),
            windows("G6", (128, 128), (2, 16, 64), [square("k48 s16", 48, 16, 4.0, 5.5)]),
            windows("G7", (37, 37), (16, 12, 64), [square("k13 s1", 13, 1, 1.0, 1.5)]),
        ]
        made += [_bias("B1", (2, n, 16, 64), 8, 1.3, 2.0, device, dtype) for n in (4096, 16384)]
        made += [_decay("L1", (4, n, 32, 128), math.nan, device, dtype) for n in (2048, 8192, 32768, 131072)]
        made.append(_gate("X1", (8, 4096, 16, 64), device, dtype))
        return made

    # 0.6 of what is counted is asked for on a CPU, which `_windows` fills in.
    def share(name: str, grid: tuple[int, ...], k: Sequence[int], s: Sequence[int], asked: bool = True) -> Setting:
        setting = Setting(name, tuple(k), tuple(s))
        counted = _counted(grid, setting.windows, device)
        return Setting(name, tuple(k), tuple(s), 0.4 * counted, 0.6 * counted) if asked else setting

    small, large = (64, 64), (128, 128)
    return [
        windows("G5", small, (1, 2, 64), [
            share("k24 s8", small, (24, 24), (8, 8)), share("k16 s8", small, (16, 16), (8, 8)),
            share("k16 s16", small, (16, 16), (16, 16)), share("k13 s1", small, (13, 13), (1, 1), asked=False),
        ]),
        windows("G3", (8, 24, 40), (1, 2, 64), [share("k4x12x12 s2x4x4", (8, 24, 40), (4, 12, 12), (2, 4, 4))]),
        windows("G4", (8192,), (1, 2, 64), [share("k512 s64", (8192,), (512,), (64,))]),
        _gate("X1", (1, 2048, 4, 64), device, dtype),
        _bias("B1", (1, 4096, 2, 64), 8, 1.3, 2.0, device, dtype),
        _decay("L1", (1, 16384, 1, 64), 5.0, device, dtype),
        windows("G7", (37, 37), (1, 6, 64), [share("k13 s1", (37, 37), (13, 13), (1, 1), asked=False)]),
        # G1's share of the grid, here too: its dense attention is the same.
        windows("G6", large, (1, 1, 64), [
            share("k24 s8", large, (24, 24), (8, 8)), share("k16 s8", large, (16, 16), (8, 8)),
            share("k16 s16", large, (16, 16), (16, 16)), share("k48 s16", large, (48, 48), (16, 16)),
            share("k40 s8 (G1)", large, (40, 40), (8, 8)),
            share("k40 s1 (G2)", large, (40, 40), (1, 1), asked=False),
        ]),
    ]  # fmt: skip


# Plain attention, the baseline


def _sdpa(t: Tensors, **how: Any) -> Tensor:
    """Over (B, *grid, H, D) tokens, all of them seeing all."""
    q, k, v = (t[name].flatten(1, -3).transpose(1, 2) for name in ("q", "k", "v"))
    out: Tensor = F.scaled_dot_product_attention(q, k, v, **how).transpose(1, 2).unflatten(1, t["q"].shape[1:-2])
    return out


def _plain(device: torch.device, **how: Any) -> list[Contender]:
    """PyTorch's attention; on a GPU each of its engines by name, that of cuDNN first."""
    if device.type != "cuda":
        return [Contender("sdpa", lambda: partial(_sdpa, **how))]
    from torch.nn.attention import SDPBackend, sdpa_kernel

    def forced(which: Any) -> Solve:
        def solve(t: Tensors) -> Tensor:
            with sdpa_kernel(which):
                return _sdpa(t, **how)

        return solve

    named = {"cudnn": SDPBackend.CUDNN_ATTENTION, "flash": SDPBackend.FLASH_ATTENTION}
    named["efficient"] = SDPBackend.EFFICIENT_ATTENTION
    return [Contender(f"sdpa {name}", partial(forced, which)) for name, which in named.items()]


def _tensors(shape: tuple[int, ...], extra: Mapping[str, tuple[int, ...]] | None = None) -> Callable[..., Tensors]:
    shapes = {"q": shape, "k": shape, "v": shape, **(extra or {})}

    def make(generator: torch.Generator) -> Tensors:
        return {name: torch.randn(size, generator=generator) for name, size in shapes.items()}

    return make


# Windows


def _counted(grid: tuple[int, ...], windows: tuple[Window, ...], device: torch.device) -> float:
    """Speed-up by counting tiles: those of the engine, on a CPU with 8 keys along each edge (4 on three axes)."""
    if device.type == "cuda":
        return estimate_speedup(grid, windows, triton_tile(grid, windows)).tile
    return estimate_speedup(grid, windows, gather_tile(grid, windows), [4 if len(grid) == 3 else 8] * len(grid)).tile


def _windows(
    name: str, grid: tuple[int, ...], batch_heads_width: tuple[int, int, int], settings: list[Setting],
    device: torch.device, dtype: torch.dtype, flex: bool = False, check: bool = False,
) -> Case:  # fmt: skip
    B, H, D = batch_heads_width

    def contenders() -> list[Contender]:
        made = _plain(device)
        for setting in settings:
            made += _window_contenders(grid, setting, (B, H, D), device, dtype, flex)
        # How long a dense mask takes does not depend on what is in it.
        dense = [c for c in made if c.engine == _DENSE_MASK]
        return [c for c in made if c.engine != _DENSE_MASK or c is dense[0]]

    small = None
    if not check:
        # As small as the windows allow; more than one window wide, so that they move.
        least = [max(k + 2 * s for k, s in along) for along in _along(settings)]
        small_grid = tuple(min(have, need) for have, need in zip(grid, least, strict=True))
        small = _windows(name, small_grid, (1, min(H, 2), D), settings, device, dtype, flex, check=True)
    shape = f"{'x'.join(map(str, grid))}, B{B} H{H} D{D}"
    return Case(name, shape, _tensors((B, *grid, H, D)), contenders, small)


def _along(settings: list[Setting]) -> list[list[tuple[int, int]]]:
    axes = range(len(settings[0].sizes))
    return [[(setting.sizes[axis], setting.strides[axis]) for setting in settings] for axis in axes]


def _window_contenders(
    grid: tuple[int, ...], setting: Setting, batch_heads_width: tuple[int, int, int], device: torch.device,
    dtype: torch.dtype, flex: bool,
) -> list[Contender]:  # fmt: skip
    windows, N = setting.windows, math.prod(grid)
    B, H, D = batch_heads_width
    engine = explain_backend(
        neighborhood_attention, *[torch.empty(B, *grid, H, D, device=device, dtype=dtype)] * 3, windows
    )

    def run(t: Tensors, backend: str) -> Tensor:
        out: Tensor = neighborhood_attention(t["q"], t["k"], t["v"], windows, backend=backend)
        return out

    exact = partial(run, backend="reference" if N <= _DENSE_TOKENS else "torch")
    counted = _counted(grid, windows, device)
    kind = partial(Contender, exact=exact, setting=setting.name, counted=counted)
    made = [
        kind(f"gazekit {engine.name}", lambda: partial(run, backend=engine.name), floor=setting.floor, aim=setting.aim),
    ]
    if engine.name == "triton":
        plan = plan_windows(grid, windows, triton_tile(grid, windows))

        def in_tile_order(t: Tensors) -> Tensor:
            out: Tensor = block_sparse_attention(t["q"], t["k"], t["v"], plan, backend="triton")
            return out

        name = "gazekit triton, tile order"
        made.append(kind(name, lambda: in_tile_order, layout=plan.layout_q, floor=setting.floor, aim=setting.aim))
    too_many = None if N <= _DENSE_TOKENS // 2 else f"a dense mask of {N} x {N}"
    made.append(
        kind(
            "sdpa, dense mask", lambda: partial(_sdpa, attn_mask=window_mask(grid, windows).to(device)), cannot=too_many
        )
    )
    gpu = device.type == "cuda"
    slow = None if gpu or flex else "on a CPU it has no backward pass and compiles for minutes; --flex runs it"
    made.append(kind("flex, tile order", partial(_flex, grid, windows, device), cannot=slow, backward=gpu))
    natten = lacks("natten") or (None if gpu else "it has no kernel for a CPU")
    made.append(kind("natten", lambda: partial(run, backend="natten"), cannot=natten))
    return made


def flex_tiles(grid: tuple[int, ...], windows: tuple[Window, ...], tile: tuple[int, ...], device: torch.device) -> Any:
    """Windows (without dilation, not causal) as a BlockMask over tokens in tile order, never made from N x N pairs."""
    from torch.nn.attention.flex_attention import BlockMask

    layout, block = TileLayout(grid, tile), math.prod(tile)
    visited = full = torch.ones(1, 1, dtype=torch.bool)
    for length, window, edge in zip(grid, windows, tile, strict=True):
        table = axis_tiles(length, window, edge, edge)
        u = torch.arange(table.n_keys)
        needed = (table.lo[0][:, None] <= u) & (u < table.hi[0][:, None])
        whole = (table.full_lo[0][:, None] <= u) & (u < table.full_hi[0][:, None]) & ((u + 1) * edge <= length)
        n = visited.shape[0] * len(needed)
        visited = (visited[:, None, :, None] & needed[None, :, None, :]).reshape(n, n)
        full = (full[:, None, :, None] & whole[None, :, None, :]).reshape(n, n)

    # Computed from the indices: FlexAttention compiled for a CPU takes no table that such a function looks up.
    def places(i: Tensor) -> list[Tensor]:
        """Where a token in tile order is, per axis."""
        which, within, at = i // block, i % block, []
        for rest, edge in reversed(list(zip(layout.rest, tile, strict=True))):
            at.append(which % rest * edge + within % edge)
            which, within = which // rest, within // edge
        return at[::-1]

    def seen(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        allowed = None
        for query, key, length, window in zip(places(i), places(j), grid, windows, strict=True):
            k, s = window.size, window.stride
            start = ((query // s * s + s // 2).clamp(max=length - 1) - k // 2).clamp(0, length - k)
            # Padding is neither seen nor sees.
            here = (query < length) & (key < length) & (start <= key) & (key < start + k)
            allowed = here if allowed is None else allowed & here
        assert allowed is not None
        return allowed

    def lists(blocks: Tensor) -> tuple[Tensor, Tensor]:
        order = blocks.int().argsort(dim=1, descending=True, stable=True).int()
        return (x[None, None].to(device) for x in (blocks.sum(1).int(), order))  # type: ignore[return-value]

    tokens = layout.n_tokens
    return BlockMask.from_kv_blocks(
        *lists(visited & ~full), *lists(full), BLOCK_SIZE=block, mask_mod=seen, seq_lengths=(tokens, tokens)
    )


def _flex(grid: tuple[int, ...], windows: tuple[Window, ...], device: torch.device) -> Solve:
    from torch.nn.attention.flex_attention import flex_attention

    tile = {1: (64,), 2: (8, 8), 3: (4, 4, 4)}[len(grid)]
    layout, mask = TileLayout(grid, tile), flex_tiles(grid, windows, tile, device)
    compiled = torch.compile(flex_attention, dynamic=False)

    def solve(t: Tensors) -> Tensor:
        q, k, v = (layout.to_tiles(t[name]).transpose(1, 2) for name in ("q", "k", "v"))
        out: Any = compiled(q, k, v, block_mask=mask, kernel_options={"BLOCK_M": 64, "BLOCK_N": 64})
        return layout.from_tiles(out.transpose(1, 2))

    return solve


# Bias


def _bias(
    name: str, shape: tuple[int, int, int, int], rank: int, floor: float, aim: float, device: torch.device,
    dtype: torch.dtype, check: bool = False,
) -> Case:  # fmt: skip
    B, N, H, D = shape

    def factors(t: Tensors) -> BiasFactors:
        return BiasFactors(t["query_factor"], t["key_factor"])

    def exact(t: Tensors) -> Tensor:
        return biased_attention(t["q"], t["k"], t["v"], factors(t), backend="reference")

    def contenders() -> list[Contender]:
        trained = ("q", "k", "v", "query_factor", "key_factor")
        kind = partial(Contender, exact=exact)

        def dense_fixed() -> Solve:
            kept: list[Tensor] = []

            def solve(t: Tensors) -> Tensor:
                # A bias that does not change is made once, and is not part of the time.
                if not kept or kept[0].dtype != t["q"].dtype:
                    kept[:] = [factors(t).dense().detach().to(t["q"].dtype)]
                return _sdpa(t, attn_mask=kept[0])

            return solve

        def dense_trained() -> Solve:
            return lambda t: _sdpa(t, attn_mask=factors(t).dense().to(t["q"].dtype))

        def run(t: Tensors, backend: str) -> Tensor:
            return biased_attention(t["q"], t["k"], t["v"], factors(t), backend=backend)

        fixed, learned = f"rank {rank}, fixed", f"rank {rank}, trained"
        made = [kind("sdpa, dense bias", dense_fixed, setting=fixed, baseline=True)]
        made.append(kind("sdpa, dense bias", dense_trained, setting=learned, trained=trained, baseline=True))
        for backend in ("sdpa", "triton") if device.type == "cuda" else ("sdpa", "torch"):
            solver = partial(partial, run, backend=backend)
            asked = (floor, aim) if backend != "torch" else (math.nan, math.nan)
            for setting, names in ((fixed, trained[:3]), (learned, trained)):
                made.append(
                    kind(f"gazekit {backend}", solver, setting=setting, trained=names, floor=asked[0], aim=asked[1])
                )
        made += [Contender(f"{c.engine}, no bias", c.prepare) for c in _plain(device)]
        return made

    small = None if check else _bias(name, (1, min(N, 320), 2, D), rank, floor, aim, device, dtype, check=True)
    extra = {"query_factor": (1, N, H, rank), "key_factor": (1, N, H, rank)}
    return Case(name, f"N{N}, B{B} H{H} D{D}", _tensors(shape, extra), contenders, small)


# Linear attention with decay


def _decay(
    name: str, shape: tuple[int, int, int, int], floor: float, device: torch.device, dtype: torch.dtype,
    check: bool = False,
) -> Case:  # fmt: skip
    B, N, H, D = shape

    def contenders() -> list[Contender]:
        by_head = alibi_log_decay(H).to(device)

        def run(t: Tensors, backend: str, per_token: bool) -> Tensor:
            decay = -t["decay"].abs() if per_token else by_head.to(t["decay"].dtype)
            return decay_linear_attention(t["q"], t["k"], t["v"], decay, scale=D**-0.5, backend=backend)[0]

        own = "triton" if device.type == "cuda" else "torch"
        fla = lacks("fla", "fla-core") or (None if device.type == "cuda" else "it has no kernel for a CPU")
        made = _plain(device, is_causal=True)
        for per_token, setting in ((False, "a decay per head"), (True, "a decay per token")):
            exact = partial(run, backend="reference", per_token=per_token)
            kind = partial(Contender, exact=exact, setting=setting)
            made.append(kind(f"gazekit {own}", partial(partial, run, backend=own, per_token=per_token), floor=floor))
            made.append(kind("fla", partial(partial, run, backend="fla", per_token=per_token), cannot=fla))
        return made

    small = None if check else _decay(name, (1, min(N, 300), 2, D), floor, device, dtype, check=True)
    return Case(name, f"N{N}, B{B} H{H} D{D}", _tensors(shape, {"decay": (B, N, H)}), contenders, small)


# Gates


def _gate(
    name: str, shape: tuple[int, int, int, int], device: torch.device, dtype: torch.dtype, check: bool = False
) -> Case:
    B, N, H, D = shape

    def contenders() -> list[Contender]:
        def gated(t: Tensors, logits: str, gate: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
            return gate(_sdpa(t), t[logits])

        def exact(t: Tensors, logits: str) -> Tensor:
            gate = t[logits].sigmoid()
            return _sdpa(t) * (gate if gate.ndim == 4 else gate[..., None])

        made = _plain(device)[-1:] if device.type == "cpu" else [Contender("sdpa", lambda: _sdpa)]
        for logits, floor, aim in (("head_logits", math.nan, math.nan), ("element_logits", 1 / 1.05, 1 / 1.02)):
            kind = partial(
                Contender, exact=partial(exact, logits=logits), setting=logits.split("_")[0], floor=floor, aim=aim,
                trained=("q", "k", "v", logits),
            )  # fmt: skip
            made.append(kind("gazekit", partial(partial, gated, logits=logits, gate=gate_heads)))
            if device.type == "cuda":
                compiled = partial(partial, gated, logits=logits, gate=torch.compile(gate_heads))
                made.append(kind("gazekit, compiled", compiled))
        return made

    small = None if check else _gate(name, (1, min(N, 200), 2, D), device, dtype, check=True)
    extra = {"head_logits": (B, N, H), "element_logits": (B, N, H, D)}
    return Case(name, f"N{N}, B{B} H{H} D{D}", _tensors(shape, extra), contenders, small)
