"""Where the eye goes next, given what a goal let through per cell and where the eye has been.

Two readings of the same contract: cells that keep their places, with the last four fixations beside them; or the whole
map as one vector, step by step through a recurrent network, as in the published agent.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gazekit.kernels.gate import HeadGate
from gazekit.models.next_fixation import LAGS, N_OFFSET, describe_offset, perceptron
from gazekit.models.saliency_readout import blur, node_areas

_HEADS = 4
# Numbers about the last fixation and saccade; see _about.
_N_ABOUT = 7
# Log-odds at which training starts that a fixation goes for the target.
_GOES_AT_FIRST = -2.0
# Log-odds where there is no target, and the least probability of a landing place.
_NEVER, _LEAST = -30.0, 1e-9


@dataclass(frozen=True)
class Scene:
    """P pairs of stimulus and goal on N = h * w nodes.

    Args:
        passed: (P, N, d) what came through the bottleneck, cell by cell; (P, E) what is to pass it, as a whole.
        prior: (N,) log-density of people's fixations on other images.
        hw: h and w.
        xy_dva: (N, 2) position of the nodes, the first and last at the outermost pixels' centers.
        size_dva: (2,) width and height of the stimulus.
        sought: (P,) bool, False where nothing is looked for.

    """

    passed: Tensor
    prior: Tensor
    hw: tuple[int, int]
    xy_dva: Tensor
    size_dva: Tensor
    sought: Tensor

    def nearest_node(self, xy_dva: Tensor) -> Tensor:
        """(..., 2) -> (...) index of the node nearest to the position."""
        h, w = self.hw
        first, last = self.xy_dva[0], self.xy_dva[-1]
        place = (xy_dva - first) / (last - first) * torch.tensor([w - 1.0, h - 1.0], device=xy_dva.device)
        column, row = place.round().long().unbind(-1)
        return row.clamp(0, h - 1) * w + column.clamp(0, w - 1)


class CellDecoder(nn.Module):
    """Scores of all nodes from what is there, how it lies relative to the last fixations, and the last saccade.

    Training starts at the prior.

    Args:
        width: d.
        hidden: Of the layers that see one node each.
        attention: "none"; "plain": the history also asks the whole map, by attention; "gated": each head has a gate
            (see :class:`~gazekit.kernels.gate.HeadGate`).
        finds: The density is a mixture of two: the eye explores, or it goes for the target, the more likely the
            nearer to the last fixations the target seems to be.

    """

    def __init__(self, width: int, hidden: int, attention: str, finds: bool = False) -> None:
        super().__init__()
        self.finds = finds
        self.hidden, self.attention = hidden, attention
        self.static = nn.Linear(width, 1, bias=False)
        self.content = nn.Linear(width, hidden)
        self.offset = nn.Linear(LAGS * N_OFFSET, hidden, bias=False)
        self.context = perceptron(_N_ABOUT + width, 32, hidden + 2)
        self.mix = nn.Linear(hidden, hidden)
        self.out = nn.Linear(hidden, 1, bias=False)
        self.prior_weight = nn.Parameter(torch.ones(()))
        if attention != "none":
            self.query = nn.Linear(_N_ABOUT + width, 8 * _HEADS)
            self.key = nn.Linear(width, 8 * _HEADS, bias=False)
            self.value = nn.Linear(width, 8 * _HEADS)
            self.read = nn.Linear(8 * _HEADS, hidden)
            self.gate = HeadGate(_N_ABOUT + width, _HEADS) if attention == "gated" else None
        if finds:
            self.find = nn.Linear(width, 1, bias=False)
            self.go = perceptron(LAGS * N_OFFSET + _N_ABOUT + 1, 32, 1)
            self.log_landing_dva = nn.Parameter(torch.tensor(0.0))
            going = self.go[2]
            assert isinstance(going, nn.Linear)
            nn.init.zeros_(going.weight)
            nn.init.constant_(going.bias, _GOES_AT_FIRST)
        last = self.context[2]
        assert isinstance(last, nn.Linear)
        for parameter in (last.weight, last.bias, self.out.weight, self.static.weight):
            nn.init.zeros_(parameter)

    def forward(self, scene: Scene, pair: Tensor, history: Tensor, eagerness: float = 0.0) -> Tensor:
        """(M,) pairs, (M, lags, 2) dva, most recent first, NaN where missing -> (M, N) unnormalised log-density.

        `eagerness` is added to the log-odds of going for the target, where the decoder `finds`.
        """
        here = scene.passed[pair, scene.nearest_node(history[:, 0].nan_to_num(0.0))]
        asked = torch.cat([_about(scene, history), here], 1)
        context = self.context(asked)
        added = context[:, : self.hidden]
        if self.attention != "none":
            added = added + self._attend(scene, pair, asked)
        known = ~history.isnan().any(-1)
        offset = scene.xy_dva[None, :, None] - history.nan_to_num(0.0)[:, None]
        described = describe_offset(offset) * known[:, None, :, None]
        hidden = self.content(scene.passed)[pair] + self.offset(described.flatten(2)) + added[:, None]
        scores = self.out(F.silu(self.mix(F.silu(hidden))))[..., 0]
        static = self.static(scene.passed)[..., 0][pair]
        scale, of_prior = context[:, self.hidden, None], context[:, self.hidden + 1, None]
        explores: Tensor = scores + static * (1.0 + scale) + scene.prior * (self.prior_weight + of_prior)
        if not self.finds:
            return explores
        goes = self._goes(scene, pair, history, described.flatten(2)) + eagerness
        return self._mixed(scene, pair, explores, goes.masked_fill(~scene.sought[pair, None], _NEVER))

    def target_log_probability(self, scene: Scene) -> Tensor:
        """(P, N) log of the probability that the target is at each node, from what passed the bottleneck."""
        found: Tensor = self.find(scene.passed)[..., 0].log_softmax(-1)
        return found

    def _goes(self, scene: Scene, pair: Tensor, history: Tensor, described: Tensor) -> Tensor:
        """(M, 1) log-odds of going for the target: how it seems to lie to the last fixations, and how surely."""
        log_p = self.target_log_probability(scene)
        p = log_p.exp()
        unsure = -(p * log_p).sum(-1, keepdim=True)
        relative = torch.einsum("mn,mnc->mc", p[pair], described)
        goes: Tensor = self.go(torch.cat([relative, _about(scene, history), unsure[pair]], 1))
        return goes

    def _mixed(self, scene: Scene, pair: Tensor, explores: Tensor, goes: Tensor) -> Tensor:
        """The density of an eye that explores with that of one that goes for the target."""
        p = self.target_log_probability(scene).exp()
        spacing = (scene.xy_dva[1, 0] - scene.xy_dva[0, 0]).clamp(min=1e-3)
        landing = blur(p.view(-1, 1, *scene.hw), self.log_landing_dva.exp() / spacing).flatten(1)
        log_area = node_areas(scene.prior.view(scene.hw)).log().flatten()
        lands = landing.clamp(min=_LEAST).log() - log_area
        lands = lands - (lands + log_area).logsumexp(-1, keepdim=True)
        explores = explores - (explores + log_area).logsumexp(-1, keepdim=True)
        return torch.logaddexp(F.logsigmoid(-goes) + explores, F.logsigmoid(goes) + lands[pair])

    def _attend(self, scene: Scene, pair: Tensor, asked: Tensor) -> Tensor:
        query = self.query(asked).unflatten(-1, (_HEADS, -1))
        key, value = (layer(scene.passed).unflatten(-1, (_HEADS, -1)) for layer in (self.key, self.value))
        weights = torch.einsum("mhc,mnhc->mhn", query, key[pair]) / query.shape[-1] ** 0.5
        found = torch.einsum("mhn,mnhc->mhc", weights.softmax(-1), value[pair])
        if self.gate is not None:
            found = self.gate(found, asked)
        read: Tensor = self.read(found.flatten(1))
        return read


class WholeDecoder(nn.Module):
    """Scores of a coarse grid from a recurrent network over what came through at each of the last fixations.

    Args:
        width: Of what comes through.
        hidden: Of the recurrent state.
        grid_hw: Of the coarse grid, which is interpolated.

    """

    def __init__(self, width: int, hidden: int = 128, grid_hw: tuple[int, int] = (12, 16)) -> None:
        super().__init__()
        self.grid_hw = grid_hw
        self.recur = nn.GRUCell(width, hidden)
        self.out = nn.Linear(hidden, grid_hw[0] * grid_hw[1])
        self.prior_weight = nn.Parameter(torch.ones(()))
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, scene: Scene, passed: Tensor, known: Tensor) -> Tensor:
        """(M, lags, width) and (M, lags) bool, most recent first -> (M, N) unnormalised log-density."""
        state = passed.new_zeros(len(passed), self.recur.hidden_size)
        for lag in reversed(range(passed.shape[1])):
            state = torch.where(known[:, lag, None], self.recur(passed[:, lag], state), state)
        coarse = self.out(state).view(-1, 1, *self.grid_hw)
        fine = F.interpolate(coarse, scene.hw, mode="bilinear", align_corners=True).flatten(1)
        scores: Tensor = fine + scene.prior * self.prior_weight
        return scores


def saccade_embedding(scene: Scene, history: Tensor) -> Tensor:
    """(M, lags, 2) dva -> (M, lags, 6): at each of the last fixations, where it was and how the eye came there."""
    before = torch.cat([history[:, 1:], torch.full_like(history[:, :1], torch.nan)], 1)
    saccade = ((history - before) / 10.0).nan_to_num(0.0)
    place = ((history - scene.size_dva / 2.0) / 10.0).nan_to_num(0.0)
    length = saccade.square().sum(-1, keepdim=True).sqrt()
    first = before.isnan().any(-1, keepdim=True).to(saccade)
    return torch.cat([place, saccade, length, first], -1)


def _about(scene: Scene, history: Tensor) -> Tensor:
    """(M, lags, 2) dva -> (M, 7) numbers about the last fixation and saccade."""
    last = history[:, 0]
    saccade = ((last - history[:, 1]) / 10.0).nan_to_num(0.0)
    length = saccade.square().sum(-1, keepdim=True).sqrt()
    n_before = (~history.isnan().any(-1)).sum(1, keepdim=True).clamp(min=1)
    place = ((last - scene.size_dva / 2.0) / 10.0).nan_to_num(0.0)
    return torch.cat([place, saccade, length, torch.log1p(10.0 * length), n_before.to(length).log()], 1)
