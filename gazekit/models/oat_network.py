"""The network of the object-level attention transformer (OAT): which object is looked at next, and when to stop.

Encoder and decoder as in the first transformer (normalisation after each sum), over tokens that are an appearance
beside a position. The output points at an encoder token: at an object to look at it, at the target's own token to end
the scan. Architecture after the published code of OAT (ECCV 2024); the position code is its closed form.

Axes: U layouts (an arrangement of objects with its target), M = N + 1 tokens of a layout (objects, then the target),
B trials, T fixations, E width, A width of the appearance, H heads.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gazekit.kernels.gate import Gate, HeadGate

#: Height and width of a crop, in px, as published.
CROP_HW_PX = (150, 93)
#: Height or width, in px, below which the CNN has nothing left after its two convolutions and poolings.
SMALLEST_CROP_PX = 29
# SD of the code's similarity, in steps of the grid, and the norm of its rows in units of sqrt(width): as published.
_SIGMA, _NORM = 2.0, 0.95
# Ended paths are put aside when no more than this share of those decoded goes on.
_KEPT = 0.8


def distance_code(n: int, width: int, sigma: float = _SIGMA) -> Tensor:
    """(n, width) codes of n places in a row; the cosine of two is ``exp(-(i - j)^2 / (2 sigma^2))``.

    The published code finds such rows by gradient descent; here they are a square root of that matrix, all of one norm,
    padded with zeros. With fewer columns than places the smallest components are left out, and cosines are approximate.

    Args:
        n: Places.
        width: Columns.
        sigma: SD, in places.

    """
    place = torch.arange(n, dtype=torch.float64)
    similarity = torch.exp(-(place[:, None] - place).square() / (2.0 * sigma**2))
    values, vectors = torch.linalg.eigh(similarity)
    # The sign of an eigenvector is a library's choice; its largest entry is made positive.
    largest = vectors.gather(0, vectors.abs().argmax(0, keepdim=True))
    root = (vectors * largest.sign() * values.clamp(min=0.0).sqrt()).flip(1)
    code = torch.zeros(n, width, dtype=torch.float64)
    kept = min(n, width)
    code[:, :kept] = F.normalize(root[:, :kept], dim=1)
    return (_NORM * math.sqrt(width) * code).float()


class ObjectCNN(nn.Module):
    """The published network for the appearance of an object: (..., 3, 150, 93) crops -> (..., A).

    Args:
        width: A.
        crop_hw_px: Height and width of the crops.

    """

    def __init__(self, width: int, crop_hw_px: tuple[int, int] = CROP_HW_PX) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 5)
        self.conv2 = nn.Conv2d(16, 32, 3)
        rows, columns = (((side - 4) // 5 - 2) // 3 for side in crop_hw_px)
        self.fc = nn.Linear(32 * rows * columns, width)

    def forward(self, crops: Tensor) -> Tensor:
        # As published, but for the order: the largest value is the same, and fewer are rectified.
        x = F.relu(F.max_pool2d(self.conv1(crops.flatten(0, -4)), 5))
        x = F.relu(F.max_pool2d(self.conv2(x), 3))
        out: Tensor = self.fc(x.flatten(1))
        return out.view(*crops.shape[:-3], -1)


class HeadedAttention(nn.Module):
    """Multi-head attention whose keys and values can be made beforehand; gated, if wanted."""

    def __init__(self, width: int, n_heads: int, dropout: float, gate: Gate | None = None) -> None:
        super().__init__()
        self.n_heads, self.dropout = n_heads, dropout
        self.project = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.gate = None if gate is None else HeadGate(width, n_heads, gate, head_width=width // n_heads)

    def keys_values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, K, E) -> two of (B, H, K, D)."""
        width = x.shape[-1]
        made = F.linear(x, self.project.weight[width:], self.project.bias[width:])
        k, v = made.unflatten(-1, (2, self.n_heads, -1)).permute(2, 0, 3, 1, 4)
        return k, v

    def forward(
        self, x: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None, causal: bool = False
    ) -> Tensor:
        """(B, Q, E) queries over (B, H, K, D) -> (B, Q, E); `mask` is True where a key may be looked at."""
        width = x.shape[-1]
        q = F.linear(x, self.project.weight[:width], self.project.bias[:width])
        q = q.unflatten(-1, (self.n_heads, -1)).transpose(1, 2)
        rate = self.dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(q, keys, values, mask, rate, is_causal=causal).transpose(1, 2)
        if self.gate is not None:
            y = self.gate(y, x)
        out: Tensor = self.out(y.flatten(2))
        return out


class _FeedForward(nn.Module):
    def __init__(self, width: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.linear1, self.linear2 = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.linear2(self.dropout(F.relu(self.linear1(x))))
        return out


class EncoderLayer(nn.Module):
    """Attention and feed-forward, each added and then normalised."""

    def __init__(self, width: int, n_heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.attention = HeadedAttention(width, n_heads, dropout)
        self.feed_forward = _FeedForward(width, hidden, dropout)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        x = self.norm1(x + self.dropout(self.attention(x, *self.attention.keys_values(x), mask)))
        out: Tensor = self.norm2(x + self.dropout(self.feed_forward(x)))
        return out


class DecoderLayer(nn.Module):
    """Attention to the fixations so far, attention to the objects, feed-forward; each added and then normalised."""

    def __init__(self, width: int, n_heads: int, hidden: int, dropout: float, gate: Gate | None) -> None:
        super().__init__()
        self.self_attention = HeadedAttention(width, n_heads, dropout, gate)
        self.cross_attention = HeadedAttention(width, n_heads, dropout, gate)
        self.feed_forward = _FeedForward(width, hidden, dropout)
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(width), nn.LayerNorm(width), nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
        """(B, T, E) whole paths over (B, H, M, D) objects."""
        own = self.self_attention
        looked = own(x, *own.keys_values(x), causal=True)
        return self._after(x, looked, keys, values, mask)

    def step(self, x: Tensor, past: Past, t: int, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
        """(B, n, E) fixation t of n paths of each trial, or (B, 1, E) of all; keys and values are added to `past`."""
        own = self.self_attention
        each = x.flatten(0, 1)[:, None]
        made = own.keys_values(each)
        k, v = past.added(t, *made)
        looked = own(each, k, v).view(x.shape)
        return self._after(x, looked, keys, values, mask)

    def _after(self, x: Tensor, looked: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
        x = self.norm1(x + self.dropout(looked))
        x = self.norm2(x + self.dropout(self.cross_attention(x, keys, values, mask)))
        out: Tensor = self.norm3(x + self.dropout(self.feed_forward(x)))
        return out


@dataclass
class Past:
    """(B n, H, T, D) keys and values of the fixations made so far, of one layer."""

    keys: Tensor
    values: Tensor

    def added(self, t: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """(R, H, 1, D) of fixation t, each row for as many paths in turn as there are -> all so far of one of these."""
        both = self.keys.unflatten(0, (len(keys), -1)), self.values.unflatten(0, (len(keys), -1))
        for cache, new in zip(both, (keys, values), strict=True):
            cache[:, :, :, t : t + 1] = new[:, None]
        return both[0][:, 0, :, : t + 1], both[1][:, 0, :, : t + 1]

    def keep(self, row: Tensor, n_steps: int) -> None:
        """Only these paths, of which `n_steps` fixations are there."""
        for name in ("keys", "values"):
            old = getattr(self, name)
            new = old.new_empty(len(row), *old.shape[1:])
            new[:, :, :n_steps] = old[row, :, :n_steps]
            setattr(self, name, new)


class ObjectAttention(nn.Module):
    """Two heads, each a product of decoder and encoder tokens, weighed against each other; the score of every token.

    The published read-out adds a bias to all scores, padding's included, which no softmax sees; it is left out.
    """

    def __init__(self, width: int, n_heads: int = 2) -> None:
        super().__init__()
        self.decoder_side = nn.ModuleList(nn.Linear(width, width) for _ in range(n_heads))
        self.encoder_side = nn.ModuleList(nn.Linear(width, width) for _ in range(n_heads))
        self.read_out = nn.Linear(n_heads, 1, bias=False)

    def keys(self, memory: Tensor) -> Tensor:
        """(U, M, E) -> (U, heads, M, E), once for all steps."""
        return torch.stack([side(memory) for side in self.encoder_side], 1)

    def folded(self, keys: Tensor) -> tuple[Tensor, Tensor]:
        """(B, heads, M, E) keys -> (B, E, M) and (B, 1, M): scores are ``x @ first + second``, whatever is decoded."""
        share = self.read_out.weight[0] / math.sqrt(keys.shape[-1])
        weight = torch.stack([side.weight for side in self.decoder_side])  # type: ignore[misc]
        bias = torch.stack([side.bias for side in self.decoder_side])  # type: ignore[misc]
        product = torch.einsum("h,hoi,bhmo->bim", share, weight, keys)
        return product, torch.einsum("h,ho,bhmo->bm", share, bias, keys)[:, None]

    def forward(self, x: Tensor, keys: Tensor) -> Tensor:
        """(B, Q, E), (B, heads, M, E) -> (B, Q, M + 1) scores, that of padding, 0, at the end."""
        q = torch.stack([side(x) for side in self.decoder_side], 1)
        scores = (q @ keys.transpose(2, 3)) / math.sqrt(x.shape[-1])
        out: Tensor = self.read_out(F.pad(scores, (0, 1)).movedim(1, -1))[..., 0]
        return out


@dataclass(frozen=True)
class Layouts:
    """What a decoder needs of U layouts, made once however many paths are decoded.

    Args:
        keys: Of each decoder layer, (U, H, M, D).
        values: Likewise.
        objects: (U, heads, M, E) keys of the object attention.
        usable: (U, M) bool, False where a layout has fewer objects than M - 1; the target's token is last.
        looked: (U, N, E) decoder token of each object, should it be looked at.
        start: (U, E) decoder token from which a path begins.

    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    objects: Tensor
    usable: Tensor
    looked: Tensor
    start: Tensor

    @property
    def n_objects(self) -> int:
        """N; also the index that ends a path, and one less than that of padding."""
        return self.looked.shape[1]

    def of(self, row: Tensor) -> Layouts:
        """(B,) long -> the layout of each trial."""
        return Layouts(
            tuple(k[row] for k in self.keys), tuple(v[row] for v in self.values), self.objects[row],
            self.usable[row], self.looked[row], self.start[row],
        )  # fmt: skip


class OatNetwork(nn.Module):
    """Encoder, decoder and object attention over tokens that are an appearance beside a position.

    Args:
        width: E, a multiple of 2 and of the heads; half of it is the appearance.
        n_heads: H.
        n_layers: Of the encoder and of the decoder.
        hidden: Width of the feed-forward layers.
        dropout: Share of activations.
        n_places: Rows or columns of the largest grid.
        sigma: Of the position code, in places.
        gate: Of the decoder's attention, None for none.

    """

    code: Tensor

    def __init__(
        self,
        width: int = 512,
        n_heads: int = 4,
        n_layers: int = 4,
        hidden: int = 512,
        dropout: float = 0.1,
        n_places: int = 14,
        sigma: float = _SIGMA,
        gate: Gate | None = None,
    ) -> None:
        super().__init__()
        self.width, self.half_width = width, width // 2
        self.n_heads = n_heads
        self.encoder = nn.ModuleList(EncoderLayer(width, n_heads, hidden, dropout) for _ in range(n_layers))
        self.decoder = nn.ModuleList(DecoderLayer(width, n_heads, hidden, dropout, gate) for _ in range(n_layers))
        self.object_attention = ObjectAttention(width)
        self.dropout = nn.Dropout(dropout)
        # Three codes side by side are cut to half the width; the row of zeros is nowhere.
        columns = -(-self.half_width // 3)
        self.register_buffer("code", F.pad(distance_code(n_places, columns, sigma), (0, 0, 0, 1)))
        self.nowhere = n_places
        for name, parameter in self.named_parameters():
            if parameter.ndim > 1 and "gate" not in name:
                nn.init.xavier_uniform_(parameter)
        # Attention starts without biases, as PyTorch's own does.
        for module in self.modules():
            if isinstance(module, HeadedAttention):
                nn.init.zeros_(module.project.bias)
                nn.init.zeros_(module.out.bias)

    def position(self, place: Tensor, is_target: Tensor) -> Tensor:
        """(..., 2) long (row, column), (...) bool -> (..., E / 2); the flag shares the grid's code, as published."""
        three = torch.cat([place, is_target.long()[..., None]], -1)
        return self.code[three].flatten(-2)[..., : self.half_width]

    def tokens(self, appearance: Tensor, place: Tensor, is_target: Tensor) -> Tensor:
        """(..., A), (..., 2), (...) -> (..., E)."""
        return torch.cat([appearance, self.position(place, is_target)], -1)

    def encode(self, tokens: Tensor, usable: Tensor, looked: Tensor, start: Tensor) -> Layouts:
        """(U, M, E) encoder tokens, (U, M) bool, (U, N, E) and (U, E) decoder tokens -> what decoding needs."""
        mask = None if bool(usable.all()) else usable[:, None, None]
        x = tokens
        for layer in self.encoder:
            x = layer(x, mask)
        pairs = [layer.cross_attention.keys_values(x) for layer in self.decoder]  # type: ignore[union-attr, operator]
        return Layouts(
            tuple(k for k, _ in pairs), tuple(v for _, v in pairs), self.object_attention.keys(x), usable, looked, start
        )

    def decode(self, layouts: Layouts, objects: Tensor) -> Tensor:
        """(B, T) long objects looked at -> (B, T + 1, M + 1) scores of what comes first, next, ... and after the last.

        Index N ends the path, index N + 1 is padding's. `layouts` are those of the B trials. No score depends on what
        is looked at later, so what stands in the padding does not matter.
        """
        index = objects[..., None].expand(-1, -1, self.width)
        x = torch.cat([layouts.start[:, None], layouts.looked.gather(1, index)], 1)
        x = self.dropout(x + sinusoids(x.shape[1], self.width, x))
        mask = None if bool(layouts.usable.all()) else layouts.usable[:, None, None]
        for layer, k, v in zip(self.decoder, layouts.keys, layouts.values, strict=True):
            x = layer(x, k, v, mask)
        return self._scores(x, layouts)

    def _scores(self, x: Tensor, layouts: Layouts) -> Tensor:
        scores: Tensor = self.object_attention(x, layouts.objects)
        # Padding keeps its score of 0.
        return torch.cat([self._usable(scores[..., :-1], layouts), scores[..., -1:]], -1)

    def _usable(self, scores: Tensor, layouts: Layouts) -> Tensor:
        """(B, Q, M) scores, minus infinity for objects that a layout does not have."""
        if bool(layouts.usable.all()):
            return scores
        return scores.masked_fill(~layouts.usable[:, None], -torch.inf)

    @torch.no_grad()
    def walk(self, layouts: Layouts, length: int, uniform: Tensor | None, n: int = 1) -> tuple[Tensor, Tensor, Tensor]:
        """N paths per trial, decoded side by side; each fixation costs one token per path.

        Args:
            layouts: Of the B trials.
            length: Most fixations.
            uniform: (B, n, length) in [0, 1), which draw each fixation; None takes the most probable, n times.
            n: Paths per trial, where `uniform` is None.

        Returns:
            (B, n, length) objects, 0 after the end; (B, n, length) bool, fixations first; and (B, n, length, M + 1)
            log-probabilities of each choice, NaN after the last path has ended; in float32 or wider.

        """
        n_trials, n_objects = len(layouts.start), layouts.n_objects
        n = n if uniform is None else uniform.shape[1]
        device = layouts.start.device
        path = torch.zeros(n_trials, n, length, dtype=torch.long, device=device)
        valid = torch.zeros(n_trials, n, length, dtype=torch.bool, device=device)
        exact = torch.promote_types(layouts.start.dtype, torch.float32)
        log_p = torch.full((n_trials, n, length, n_objects + 2), torch.nan, dtype=exact, device=device)
        if not n_trials:
            return path, valid, log_p
        trial = torch.arange(n_trials, device=device)[:, None]
        # Which paths are still decoded, and which of these have not ended; the others are put aside in batches.
        which = torch.arange(n, device=device).expand(n_trials, n)
        going = torch.ones_like(which, dtype=torch.bool)
        shape = n_trials * n, self.n_heads, length, self.width // self.n_heads
        # Of the type of keys: in mixed precision that is not the type of tokens.
        past = [Past(*(k.new_empty(shape) for _ in range(2))) for k in layouts.keys]
        order = sinusoids(length, self.width, layouts.start)
        mask = None if bool(layouts.usable.all()) else layouts.usable[:, None, None]
        pointer = self.object_attention.folded(layouts.objects)
        # All paths of a trial begin alike: the first fixation is decoded once.
        x = layouts.start[:, None]
        for t in range(length):
            x = self.dropout(x + order[t])
            for layer, memory, k, v in zip(self.decoder, past, layouts.keys, layouts.values, strict=True):
                x = layer.step(x, memory, t, k, v, mask)  # type: ignore[operator]
            scores = self._usable(torch.baddbmm(pointer[1], x, pointer[0]), layouts)
            # Padding is no choice, and a path that ends before it began is none.
            scores = F.pad(scores, (0, 1), value=-torch.inf)
            if t == 0:
                scores = scores.repeat(1, n, 1)
                scores[..., n_objects] = -torch.inf
            step = scores.log_softmax(-1, dtype=exact)
            log_p[trial, which, t] = step
            chosen = (
                scores.argmax(-1) if uniform is None else _drawn(step, uniform[:, :, t].to(device).gather(1, which))
            )
            going = going & (chosen != n_objects)
            if not bool(going.any()):
                break
            chosen = chosen.where(going, torch.zeros_like(chosen))
            path[trial, which, t], valid[trial, which, t] = chosen, going
            n_left = int(going.sum(1).max())
            if n_left <= _KEPT * going.shape[1]:
                first = going.byte().argsort(dim=1, descending=True, stable=True)[:, :n_left]
                row = (trial * going.shape[1] + first).flatten()
                for memory in past:
                    memory.keep(row, t + 1)
                which, going, chosen = (value.gather(1, first) for value in (which, going, chosen))
            x = layouts.looked.gather(1, chosen[..., None].expand(-1, -1, self.width))
        return path, valid, log_p


def _drawn(log_p: Tensor, uniform: Tensor) -> Tensor:
    """(..., C) log-probabilities, (...) in [0, 1) -> (...) the choice whose share of the line holds the number."""
    # Drawn in double on the CPU: the same paths on every device.
    cumulative = log_p.double().exp().cumsum(-1).cpu()
    at = uniform.double().cpu()[..., None] * cumulative[..., -1:]
    choice = torch.searchsorted(cumulative, at, right=True)[..., 0]
    # Rounding may leave the number at the very end, where choices of no probability lie.
    last = log_p.shape[-1] - 1 - log_p.isfinite().flip(-1).byte().argmax(-1)
    return choice.to(log_p.device).minimum(last)


def sinusoids(length: int, width: int, like: Tensor) -> Tensor:
    """(length, width) the standard code of the place in a sequence: sines at even, cosines at odd columns."""
    rate = torch.exp(-math.log(10000.0) * torch.arange(0, width, 2, dtype=torch.float64) / width)
    angle = torch.arange(length, dtype=torch.float64)[:, None] * rate
    return torch.stack([angle.sin(), angle.cos()], -1).flatten(1).to(like)
