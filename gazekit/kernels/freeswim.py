"""A vision transformer far above its training resolution: windows of training size, and guidance from a global path.

Every token keeps a window as large as the grid that the network was trained on, shifted inward at the borders, so that
no token sees more or less than in training. What is coherent over the whole image comes from a second path over all of
it: cross-attention (to a task, a target, a text) is computed from the global path alone, and its output overrides that
of the windowed path. (Wu et al. 2025, "FreeSwim", arXiv:2511.14712, there for video diffusion without training.)

For gaze: the same receptive field in degrees of visual angle at any size of the stimulus, and one top-down guidance
for fovea and periphery. The global path may be a small version of the image; its guidance is then interpolated.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor, nn
from torch.nn import functional as F

from gazekit.errors import InputError
from gazekit.kernels.gate import Gate, HeadGate
from gazekit.kernels.neighborhood import neighborhood_attention
from gazekit.kernels.window import Window


def inward_windows(grid: Sequence[int], native_hw: tuple[int, int]) -> tuple[Window, ...]:
    """Windows of the size of the training grid around every token, shifted inward at the borders.

    On the last two axes (rows, columns) ``2 (native // 2) + 1`` tokens, at most the axis; all of every other axis (the
    frames of a video).

    Args:
        grid: (rows, columns) or (frames, rows, columns) of tokens.
        native_hw: Rows and columns that the network was trained on.

    """
    if len(grid) < 2 or min(*grid, *native_hw) < 1:
        raise InputError(
            f"inward_windows: expected a grid (..., rows, columns) and a native size of at least 1, found "
            f"{tuple(grid)} and {tuple(native_hw)}"
        )
    space = (Window(min(2 * (native // 2) + 1, length)) for native, length in zip(native_hw, grid[-2:], strict=True))
    return *(Window(length) for length in grid[:-2]), *space


def entropy_scale(head_width: int, n_keys: int, n_native: int) -> float:
    """``sqrt(log(n) / log(n0) / D)``: keeps the entropy of attention as it was in training when the keys are more.

    Args:
        head_width: D.
        n_keys: n, tokens that a query sees (of one frame).
        n_native: n0, tokens that it saw in training; n = n0 gives the usual ``D ** -0.5``.

    """
    if n_native < 2 or n_keys < 1:
        raise InputError(f"entropy_scale: expected at least 2 native tokens and 1 key, found {n_native} and {n_keys}")
    return math.sqrt(math.log(n_keys) / math.log(n_native) / head_width)


@dataclass
class GuidanceCache:
    """Keeps the global path's guidance over the steps of a sampler: it is computed once every `every` steps.

    It is computed anew, too, when the context is another tensor or was changed in place, or the grid is another one.

    Args:
        every: Steps that share a guidance; 1 keeps nothing.

    """

    every: int = 1
    _of: tuple[object, ...] | None = field(default=None, repr=False)
    _context: Tensor | None = field(default=None, repr=False)
    _guidance: list[Tensor] = field(default_factory=list, repr=False)

    def __post_init__(self) -> None:
        if self.every < 1:
            raise InputError(f"GuidanceCache: every must be at least 1, found {self.every}")

    def look_up(self, step: int, grid: Sequence[int], context: Tensor) -> list[Tensor] | None:
        """The guidance of all layers for this step, or None if it has to be computed."""
        fits = self._of == self._key(step, grid, context) and self._context is context
        return self._guidance if fits and step % self.every else None

    def keep(self, step: int, grid: Sequence[int], context: Tensor, guidance: list[Tensor]) -> None:
        """Store what was computed at `step`."""
        self._of, self._context, self._guidance = self._key(step, grid, context), context, guidance

    def _key(self, step: int, grid: Sequence[int], context: Tensor) -> tuple[object, ...]:
        # Tensors made in inference mode count no changes.
        version = 0 if context.is_inference() else context._version
        return step // self.every, tuple(grid), version


class GuidedBlock(nn.Module):
    """A pre-norm transformer block: attention over the grid, attention to a context, and an MLP.

    Args:
        dim: E, width of the tokens.
        n_heads: H.
        context_dim: Width of the context's tokens; default E.
        mlp_ratio: Hidden width of the MLP over E.
        gate: Gate the heads that read the context, "head" or "element": its openness says how much they are used.

    """

    def __init__(
        self, dim: int, n_heads: int, context_dim: int | None = None, mlp_ratio: float = 4.0, gate: Gate | None = None
    ) -> None:
        super().__init__()
        if n_heads < 1 or dim % n_heads:
            raise InputError(f"GuidedBlock: dim must be a multiple of n_heads, found {dim} and {n_heads}")
        self.n_heads, self.head_width = n_heads, dim // n_heads
        self.norm_self, self.norm_cross, self.norm_mlp = nn.LayerNorm(dim), nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.project_self = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.query, self.key_value = nn.Linear(dim, dim), nn.Linear(context_dim or dim, 2 * dim)
        self.project_cross = nn.Linear(dim, dim)
        self.gate = None if gate is None else HeadGate(dim, n_heads, gate, head_width=self.head_width)
        hidden = round(dim * mlp_ratio)
        self.mlp = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim))

    def self_update(self, x: Tensor, windows: Sequence[Window | int], scale: float | None = None) -> Tensor:
        """What attention within `windows` adds to the tokens (B, *grid, E)."""
        qkv = self.qkv(self.norm_self(x)).unflatten(-1, (3, self.n_heads, self.head_width))
        q, k, v = qkv.unbind(-3)
        read: Tensor = neighborhood_attention(q, k, v, windows, scale=scale)
        update: Tensor = self.project_self(read.flatten(-2))
        return update

    def cross_update(self, x: Tensor, context: Tensor, valid: Tensor | None = None) -> Tensor:
        """What attention of tokens (B, *grid, E) to the context (B, M, Ec) adds; `valid` (B, M) is False at padding."""
        normed = self.norm_cross(x)
        q = self.query(normed).flatten(1, -2).unflatten(-1, (self.n_heads, self.head_width))
        k, v = self.key_value(context).unflatten(-1, (2, self.n_heads, self.head_width)).unbind(-3)
        mask = None if valid is None else valid[:, None, None]
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))
        read = F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).unflatten(1, x.shape[1:-1])
        if self.gate is not None:
            read = self.gate(read, normed)
        update: Tensor = self.project_cross(read.flatten(-2))
        return update

    def mlp_update(self, x: Tensor) -> Tensor:
        """What the MLP adds to the tokens."""
        update: Tensor = self.mlp(self.norm_mlp(x))
        return update

    def forward(self, x: Tensor, context: Tensor, valid: Tensor | None = None) -> Tensor:
        """The block over the whole grid, as in training: (B, *grid, E) -> (B, *grid, E)."""
        x = x + self.self_update(x, x.shape[1:-1])
        x = x + self.cross_update(x, context, valid)
        return x + self.mlp_update(x)


class DualPath(nn.Module):
    """Blocks that were trained on a small grid, run on a large one (no parameters of its own).

    Args:
        blocks: Each with the three updates of :class:`GuidedBlock`, a `head_width` among its attributes.
        native_hw: Rows and columns of tokens in training.

    """

    def __init__(self, blocks: Sequence[GuidedBlock], native_hw: tuple[int, int]) -> None:
        super().__init__()
        self.blocks, self.native_hw = nn.ModuleList(blocks), native_hw
        inward_windows(native_hw, native_hw)

    def forward(
        self,
        local: Tensor,
        whole: Tensor,
        context: Tensor,
        *,
        valid: Tensor | None = None,
        override: bool = True,
        cache: GuidanceCache | None = None,
        step: int = 0,
    ) -> Tensor:
        """Tokens of the windowed path after all blocks.

        Args:
            local: (B, *grid, E) tokens of the large image, or of all frames of a video.
            whole: (B, *grid0, E) tokens of the global path: `local` itself, or a small version of the image.
            context: (B, M, Ec) what guides: a task, a target, words.
            valid: (B, M) bool, False where the context is padding.
            override: Guidance of the global path replaces that of the windowed one; False runs windows alone (the
                unconditional pass of a sampler), whose tokens then attend to the context themselves.
            cache: Shared by the calls of one sampler run.
            step: Which step of it this is, from 0.

        Returns:
            (B, *grid, E).

        """
        grid, whole_grid = local.shape[1:-1], whole.shape[1:-1]
        if len(grid) not in (2, 3) or len(grid) != len(whole_grid) or local.shape[0] != whole.shape[0]:
            raise InputError(
                "DualPath: expected local (B, *grid, E) and whole (B, *grid0, E) with rows and columns, or frames, "
                f"rows and columns, found {tuple(local.shape)} and {tuple(whole.shape)}"
            )
        windows = inward_windows(grid, self.native_hw)
        n_native, n_window = math.prod(self.native_hw), math.prod(window.size for window in windows[-2:])
        kept = cache.look_up(step, grid, context) if cache is not None and override else None
        guidance: list[Tensor] = []
        for layer, block in enumerate(self.blocks):
            assert isinstance(block, GuidedBlock)
            width = block.head_width
            local = local + block.self_update(local, windows, entropy_scale(width, n_window, n_native))
            if not override:
                update = block.cross_update(local, context, valid)
            elif kept is not None:
                update = kept[layer]
            else:
                scale = entropy_scale(width, math.prod(whole_grid[-2:]), n_native)
                whole = whole + block.self_update(whole, whole_grid, scale)
                update = block.cross_update(whole, context, valid)
                whole = whole + update
                whole = whole + block.mlp_update(whole)
                update = _resized(update, grid)
                guidance.append(update)
            local = local + update
            local = local + block.mlp_update(local)
        if cache is not None and override and kept is None:
            cache.keep(step, grid, context, [x.detach() for x in guidance])
        return local


def _resized(x: Tensor, grid: Sequence[int]) -> Tensor:
    """(B, *grid0, E) -> (B, *grid, E), linear between the centers of the tokens."""
    if tuple(x.shape[1:-1]) == tuple(grid):
        return x
    mode = "bilinear" if len(grid) == 2 else "trilinear"
    return F.interpolate(x.movedim(-1, 1), size=tuple(grid), mode=mode, align_corners=False).movedim(1, -1)
