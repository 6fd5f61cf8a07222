"""A plain vision transformer whose blocks attend within windows of the image, and which can look from a fixation.

It holds the weights of a timm ViT. Most blocks attend by generalized neighborhood attention, some to the whole image;
with no windows it computes what the ViT computes. Tokens are put into tile order once, after the patch embedding, and
back once per map that is read. At 64 x 64 tokens a window of 24 with stride 8 costs a seventh of dense attention, and
an image of any size is seen with the receptive field of the training size.

Seen from a fixation, the score of every patch as a key falls with its eccentricity e, by a slope learned per
block and head: ``- slope log(1 + e / e2)``, a bias that depends on the key alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gazekit.errors import InputError
from gazekit.kernels import TileLayout, Window, plan_windows
from gazekit.kernels.gate import Gate
from gazekit.kernels.plan import BoxPlan
from gazekit.kernels.self_attention import TiledAttention, attention_of_timm
from gazekit.registry import unknown_name

#: The ViT that ``vit_gna`` alone stands for.
DEFAULT_ARCH = "vit_tiny_patch16_224"


class WindowedViT(nn.Module):
    """A timm ViT with windowed attention: normalised images -> one map per tap.

    Args:
        vit: A plain vision transformer of timm; its modules are taken over.
        taps: ``"blocks.3"`` for the output of a block, or the patch size for that of the last.
        name: For error messages.
        window: Tokens per side of a window; None for dense attention everywhere.
        stride: Neighboring tokens per side that share a window.
        dense_every: Every so many-th block attends to the whole image; 0 for none.
        gate: ``"head"`` or ``"element"``: gates on the heads, which start open.
        foveated: Learn slopes of eccentricity, used where a fixation is given. They start at 0.
        e2_dva: Eccentricity at which the bias is ``slope log 2``.
        tile: Tokens per side of a tile.
        backend: Of the windowed attention, see :func:`gazekit.kernels.block_sparse_attention`.

    """

    def __init__(
        self,
        vit: Any,
        taps: Sequence[int | str],
        name: str = "vit_gna",
        *,
        window: int | None = 24,
        stride: int = 8,
        dense_every: int = 4,
        gate: Gate | None = None,
        foveated: bool = False,
        e2_dva: float = 2.0,
        tile: int = 8,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        _check_plain(vit, name)
        if e2_dva <= 0.0:
            raise InputError(f"backbone {name!r}: e2_dva must be positive, found {e2_dva}")
        self.name, self.tile, self.e2_dva, self.backend = name, tile, e2_dva, backend
        self.window = None if window is None else Window(window, stride)
        self.patch = int(vit.patch_embed.patch_size[0])
        self.depths = [_depth_of(tap, len(vit.blocks), self.patch, name) for tap in taps]
        self.patch_embed, self.norm_pre = vit.patch_embed, vit.norm_pre
        self.cls_token, self.reg_token, self.pos_embed = vit.cls_token, vit.reg_token, vit.pos_embed
        self.n_first = int(vit.num_prefix_tokens)
        self.first_have_places = not vit.no_embed_class
        # What lies above the deepest tap is not computed.
        self.blocks = vit.blocks[: max(self.depths) + 1]
        for block in self.blocks:
            block.attn = attention_of_timm(block.attn, gate)
        self.dense = [
            window is None or (dense_every > 0 and (number + 1) % dense_every == 0)
            for number in range(len(self.blocks))
        ]
        heads = self.blocks[0].attn.heads
        self.slopes = nn.Parameter(torch.zeros(len(self.blocks), heads)) if foveated else None

    def forward(
        self, image: Tensor, fixation_px: Tensor | None = None, px_per_dva: float | None = None
    ) -> list[Tensor]:
        """(B, 3, H, W) normalised image -> (B, C, ceil(H / patch), ceil(W / patch)) per tap.

        Sides that are no multiple of the patch are padded evenly, so that of 16 m + 1 pixels every sixteenth lies at
        the center of a patch.

        Args:
            image: As the weights want it.
            fixation_px: (B, 2) where the eye is, as (x, y) px of the image.
            px_per_dva: Pixels per degree of visual angle; needed with a fixation.

        """
        sides = image.shape[-2], image.shape[-1]
        (top, bottom), (left, right) = (_padding(side, self.patch) for side in sides)
        x = self.patch_embed.proj(F.pad(image, (left, right, top, bottom))).permute(0, 2, 3, 1)
        x = self.patch_embed.norm(x)
        grid = int(x.shape[1]), int(x.shape[2])
        first, places = self._places(grid, x)
        layout = TileLayout(grid, self.tile if self.window is not None else 1)
        tokens = self.norm_pre(torch.cat([first, layout.to_tiles(x + places)], 1))
        plan = self._plan(grid)
        real = (layout.rows() >= 0).to(image.device)
        falloff = self._falloff(grid, layout, (left, top), fixation_px, px_per_dva)
        maps = {}
        for number, block in enumerate(self.blocks):
            bias = None if falloff is None or self.slopes is None else -falloff[..., None] * self.slopes[number]
            attend = TiledAttention(
                None if self.dense[number] else plan, self.n_first, real, bias, backend=self.backend
            )
            tokens = tokens + block.drop_path1(block.ls1(block.attn(block.norm1(tokens), attend)))
            tokens = tokens + block.drop_path2(block.ls2(block.mlp(block.norm2(tokens))))
            if number in self.depths:
                maps[number] = layout.from_tiles(tokens[:, self.n_first :]).permute(0, 3, 1, 2)
        return [maps[depth] for depth in self.depths]

    def _places(self, grid: tuple[int, int], x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, n_first, C) class and register tokens, and (1, *grid, C) position embeddings of the grid."""
        from timm.layers.pos_embed import resample_abs_pos_embed

        tokens = [t.expand(len(x), -1, -1) for t in (self.cls_token, self.reg_token) if t is not None]
        first = torch.cat(tokens, 1) if tokens else x.new_zeros(len(x), 0, x.shape[-1])
        if self.pos_embed is None:
            return first, x.new_zeros(1, *grid, x.shape[-1])
        n = self.n_first if self.first_have_places else 0
        embed = self.pos_embed
        if self.patch_embed.grid_size != grid:
            old = self.patch_embed.grid_size
            embed = resample_abs_pos_embed(embed, list(grid), list(old), num_prefix_tokens=n)
        if n:
            first = first + embed[:, :n]
        return first, embed[:, n:].unflatten(1, grid)

    def _plan(self, grid: tuple[int, int]) -> BoxPlan | None:
        if self.window is None or all(self.window.size >= side for side in grid):
            return None
        # A side shorter than the window is seen whole.
        windows = [
            self.window if self.window.size < side else Window(side, min(self.window.stride, side)) for side in grid
        ]
        return plan_windows(grid, windows, self.tile)

    def _falloff(
        self,
        grid: tuple[int, int],
        layout: TileLayout,
        padding: tuple[int, int],
        fixation_px: Tensor | None,
        px_per_dva: float | None,
    ) -> Tensor | None:
        """(B, n_tokens) ``log(1 + e / e2)`` of every patch in tile order."""
        if fixation_px is None:
            return None
        if self.slopes is None or px_per_dva is None:
            what = "px_per_dva with fixation_px" if self.slopes is not None else "options={'foveated': True}"
            raise InputError(f"backbone {self.name!r}: to look from a fixation, give {what}")
        rows, columns = (
            torch.arange(n, device=fixation_px.device, dtype=fixation_px.dtype) * self.patch + self.patch / 2 - before
            for n, before in zip(grid, reversed(padding), strict=True)
        )
        dx, dy = columns - fixation_px[:, :1], rows - fixation_px[:, 1:]
        eccentricity_dva = torch.hypot(dx[:, None, :], dy[:, :, None]) / px_per_dva
        return layout.to_tiles(torch.log1p(eccentricity_dva / self.e2_dva))


def _padding(side: int, patch: int) -> tuple[int, int]:
    missing = -side % patch
    return missing - missing // 2, missing // 2


def _depth_of(tap: int | str, n_blocks: int, patch: int, name: str) -> int:
    if isinstance(tap, int):
        if tap != patch:
            raise InputError(f"backbone {name!r} has no map of stride {tap}; its strides are [{patch}]")
        return n_blocks - 1
    known = {f"blocks.{number}": number for number in range(n_blocks)}
    if tap not in known:
        raise unknown_name(f"module in backbone {name!r}", tap, list(known))
    return known[tap]


def _check_plain(vit: Any, name: str) -> None:
    from timm.models.vision_transformer import Block, VisionTransformer

    odd = ""
    if not isinstance(vit, VisionTransformer):
        odd = f"a {type(vit).__name__}"
    elif not all(type(block) is Block for block in vit.blocks):
        odd = f"made of {type(vit.blocks[0]).__name__}"
    elif vit.patch_embed.patch_size[0] != vit.patch_embed.patch_size[1]:
        odd = f"a network of patches of {tuple(vit.patch_embed.patch_size)}"
    if odd:
        raise InputError(f"backbone {name!r}: it is {odd}, and only plain vision transformers can be converted")
