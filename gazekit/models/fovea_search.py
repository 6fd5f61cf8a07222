"""Where to look so that a foveated image serves a task best: the search behind NeVA and NevaClip.

Positions are ``p = (x, y)`` with -1 and 1 at the centers of the image's first and last pixels. All scanpaths are
searched in lock-step, one network call for all of them; what was already evaluated with the same memory at the same
place is looked up instead. A strategy sees the loss through :class:`FoveaObjective` alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from gazekit.backbones.foveation import Foveation
from gazekit.errors import InputError

Key = tuple[int, float, tuple[bytes, ...], bytes]


def to_px(p: Tensor, size_wh_px: tuple[int, int]) -> Tensor:
    """(..., 2) positions in [-1, 1] -> (..., 2) px: -1 and 1 are the centers of the first and the last pixel."""
    size = torch.tensor(size_wh_px, dtype=p.dtype, device=p.device)
    return (p + 1.0) / 2.0 * (size - 1.0) + 0.5


def from_px(xy_px: Tensor, size_wh_px: tuple[int, int]) -> Tensor:
    """Inverse of :func:`to_px`; an axis of one pixel has its only center at 0."""
    size = torch.tensor(size_wh_px, dtype=xy_px.dtype, device=xy_px.device)
    return (xy_px - size / 2.0) * 2.0 / (size - 1.0).clamp(min=1.0)


class Draws(Protocol):
    """Random numbers for scanpaths."""

    def uniform(self, path: Tensor, n: int = 1) -> Tensor:
        """(M,) rows of scanpaths -> (M, n, 2) numbers in [-1, 1)."""


class PathDraws:
    """A generator per scanpath, so that no scanpath depends on which others are searched with it."""

    def __init__(self, seeds: Sequence[int]) -> None:
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def uniform(self, path: Tensor, n: int = 1) -> Tensor:
        drawn = [torch.rand(n, 2, generator=self._generators[i]) for i in path.tolist()]
        return torch.stack(drawn) * 2.0 - 1.0


class GlobalDraws:
    """One generator for all, drawn for the scanpaths that fail, in their order: as published.

    A scanpath then depends on which others are searched with it.
    """

    def __init__(self, generator: torch.Generator | None = None) -> None:
        self.generator = generator

    def uniform(self, path: Tensor, n: int = 1) -> Tensor:
        # Published positions are (row, column).
        return (torch.rand(len(path), n, 2, generator=self.generator) * 2.0 - 1.0).flip(-1)


class FoveaObjective:
    """The task's loss, and its slope, with the fovea at given positions and with what each scanpath remembers.

    Args:
        loss: (B, 3, h, w) foveated images and (B, ...) targets -> (B,), such as a
            :meth:`~gazekit.models.fovea_tasks.FoveaTask.loss`.
        foveation: Fovea, blur and memory, in px of these images.
        image: (S, 3, h, w) sharp images in [0, 1].
        target: (G, ...) targets, one per goal: an image with what it is to be good for.
        image_of_goal: (G,) long, row of `image`.
        goal_of_path: (P,) long, goal of each scanpath.
        early_target: (G, ...) where scanpaths begin: fixation k of L has the target
            ``(k / L)^2 target + (1 - (k / L)^2) early_target``, both brought to length one; None: `target` throughout.
        images_at_once: Images in one network call, at most.
        dtype: Of the network's arithmetic; below float32 under autocast.

    Attributes:
        n_forward: Images that went through the network.
        n_gradient: Those of them of which the gradient was taken.

    """

    def __init__(
        self, loss: Callable[[Tensor, Tensor], Tensor], foveation: Foveation, image: Tensor, target: Tensor,
        image_of_goal: Tensor, goal_of_path: Tensor, early_target: Tensor | None = None, images_at_once: int = 64,
        dtype: torch.dtype = torch.float32,
    ) -> None:  # fmt: skip
        self.loss, self.foveation, self.images_at_once, self.dtype = loss, foveation, images_at_once, dtype
        self.image, self.residual = image, foveation.residual(image)
        self.image_of_goal, self.goal_of_path = image_of_goal.to(image.device), goal_of_path
        self._late, self._early, self.target, self._share = target, early_target, target, 1.0
        self.size_wh_px = image.shape[-1], image.shape[-2]
        self.memory = image.new_zeros(len(goal_of_path), 1, *image.shape[-2:])
        self._remembered: list[tuple[bytes, ...]] = [()] * len(goal_of_path)
        self._known: dict[Key, tuple[float, tuple[float, float] | None]] = {}
        self.n_forward = self.n_gradient = 0

    def __len__(self) -> int:
        return len(self.goal_of_path)

    def begin(self, fixation: int, length: int) -> None:
        """Set the target for fixation `fixation` (from 0) of `length`."""
        if self._early is None:
            return
        self._share = (fixation / length) ** 2
        unit = torch.nn.functional.normalize
        self.target = self._share * unit(self._late, dim=-1) + (1.0 - self._share) * unit(self._early, dim=-1)

    def remember(self, p: Tensor) -> None:
        """Take (P, 2) fixations into memory."""
        fovea = self.foveation.fovea(self._px(p), self.size_wh_px)
        self.memory = self.foveation.remember(self.memory, fovea)
        for i, at in enumerate(_bytes_of(p)):
            # Without retention the last fixation alone decides what comes next.
            kept = self._remembered[i] if self.foveation.retention else ()
            self._remembered[i] = (*kept, at)

    def __call__(self, path: Tensor, p: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """Losses with the fovea at M positions.

        Args:
            path: (M,) long, whose memory and goal; a scanpath may come several times.
            p: (M, 2) positions.
            gradient: (M,) bool, where the gradient is wanted, too.

        Returns:
            (M,) losses and (M, 2) gradients by `p`, NaN where not wanted and not known either.

        Raises:
            InputError: A loss is not a number.

        """
        goals = self.goal_of_path.tolist()
        keys: list[Key] = [
            (goals[i], self._share, self._remembered[i], at) for i, at in zip(path.tolist(), _bytes_of(p), strict=True)
        ]
        wanted: dict[Key, tuple[int, bool]] = {}
        for row, (key, slope) in enumerate(zip(keys, gradient.tolist(), strict=True)):
            known = self._known.get(key)
            if known is None or (slope and known[1] is None):
                wanted[key] = row, slope or wanted.get(key, (0, False))[1]
        for slope in (False, True):
            todo = [(key, row) for key, (row, with_slope) in wanted.items() if with_slope == slope]
            for start in range(0, len(todo), self.images_at_once):
                part = todo[start : start + self.images_at_once]
                rows = torch.tensor([row for _, row in part])
                found = self._evaluate(path[rows], p[rows], slope)
                self._known.update({key: value for (key, _), value in zip(part, found, strict=True)})
        values = [self._known[key] for key in keys]
        loss = torch.tensor([value for value, _ in values])
        slopes = torch.tensor([(math.nan, math.nan) if slope is None else slope for _, slope in values])
        return loss, slopes.view(-1, 2)

    def _px(self, p: Tensor) -> Tensor:
        return to_px(p.to(self.image), self.size_wh_px)

    def _evaluate(self, path: Tensor, p: Tensor, slope: bool) -> list[tuple[float, tuple[float, float] | None]]:
        device = self.image.device
        goal = self.goal_of_path[path].to(device)
        row = self.image_of_goal[goal]
        residual, memory = self.residual[row], self.memory[path.to(device)]
        xy = self._px(p)
        seen = self.foveation.seen(self.image[row], residual, memory, self.foveation.fovea(xy, self.size_wh_px))
        low = self.dtype != torch.float32
        with torch.set_grad_enabled(slope), torch.autocast(device.type, self.dtype, enabled=low):
            loss = self.loss(seen.requires_grad_(slope), self.target[goal])
        if loss.isnan().any():
            at = p[int(loss.isnan().nonzero()[0])].tolist()
            raise InputError(
                f"the task's loss is not a number with the fovea at (x, y) = ({at[0]:.3f}, {at[1]:.3f}) "
                f"in {self.dtype}; "
                "compute in float32, and check the network's weights and the image"
            )
        self.n_forward += len(p)
        losses = loss.detach().float().cpu().tolist()
        if not slope:
            return [(value, None) for value in losses]
        self.n_gradient += len(p)
        # Frozen weights get none: the backward pass stops at the image, and the position's slope is in closed form.
        (by_image,) = torch.autograd.grad(loss, seen, torch.ones_like(loss))
        by_px = self.foveation.position_gradient(by_image, residual, memory, xy)
        half = (torch.tensor(self.size_wh_px, dtype=by_px.dtype, device=device) - 1.0) / 2.0
        return [(value, (x, y)) for value, (x, y) in zip(losses, (by_px * half).cpu().tolist(), strict=True)]


def _bytes_of(p: Tensor) -> list[bytes]:
    """What tells positions apart, exactly; 0 and -0 are one place."""
    return [row.tobytes() for row in (p + 0.0).numpy()]


@dataclass(frozen=True)
class Found:
    """A fixation of each of P scanpaths.

    Args:
        p: (P, 2) positions.
        loss: (P,) loss there; with ``best="after_step"`` the loss one step before.
        trace: (P, N) losses in the order in which they were evaluated.

    """

    p: Tensor
    loss: Tensor
    trace: Tensor


class SearchStrategy(Protocol):
    """How the next fixation is found."""

    def search(self, objective: FoveaObjective, start: Tensor, draws: Draws) -> Found:
        """The next fixation of each scanpath.

        Args:
            objective: Loss and slope at any position.
            start: (P, 2) where to begin.
            draws: Random numbers.

        """


@dataclass(frozen=True)
class SignGradient:
    """Descent along the sign of the gradient, with a restart wherever the loss does not fall: as published.

    Args:
        iterations: Positions that are evaluated per fixation.
        step: Length of a step per axis, in half image sides.
        restart: After a position that is no improvement: ``random``, anywhere in the image, or ``jitter``, up to half a
            step per axis away from where the step leads.
        best: ``evaluated``, the position with the lowest loss; ``after_step``, as published, the one that the step from
            there leads to.
        clamp: Keep positions in the image; published positions may leave it.

    """

    iterations: int = 20
    step: float = 0.1
    restart: Literal["random", "jitter"] = "random"
    best: Literal["evaluated", "after_step"] = "evaluated"
    clamp: bool = True

    def __post_init__(self) -> None:
        _positive(self, "iterations", "step")
        _one_of(self, "restart", ("random", "jitter"))
        _one_of(self, "best", ("evaluated", "after_step"))

    def search(self, objective: FoveaObjective, start: Tensor, draws: Draws) -> Found:
        everyone = torch.arange(len(objective))
        p, best_p = start.clone(), start.clone()
        best = torch.full((len(p),), math.inf)
        # A position that was drawn at random is seldom better, and where it is not its slope is of no use.
        likely = torch.ones(len(p), dtype=torch.bool)
        trace = []
        for iteration in range(self.iterations):
            # After the last evaluation nobody steps, unless the published rule wants to know where to.
            steps = iteration + 1 < self.iterations or self.best == "after_step"
            wants_slope = likely & steps
            loss, slope = objective(everyone, p, wants_slope)
            improved = loss < best
            if self.restart == "random" and steps and (late := improved & ~wants_slope).any():
                slope[late] = objective(everyone[late], p[late], torch.ones(int(late.sum()), dtype=torch.bool))[1]
            # Without a slope the position is about to be thrown away.
            stepped = self._inside(p - self.step * slope.sign().nan_to_num(0.0))
            chosen = p if self.best == "evaluated" else stepped
            best_p = torch.where(improved[:, None], chosen, best_p)
            best = torch.where(improved, loss, best)
            trace.append(loss)
            p = stepped
            if not improved.all():
                failed = everyone[~improved]
                drawn = draws.uniform(failed)[:, 0]
                p[failed] = drawn if self.restart == "random" else self._inside(p[failed] + self.step / 2.0 * drawn)
            likely = improved if self.restart == "random" else likely
        return Found(best_p, best, torch.stack(trace, 1))

    def _inside(self, p: Tensor) -> Tensor:
        return p.clamp(-1.0, 1.0) if self.clamp else p


@dataclass(frozen=True)
class Candidates:
    """Many positions scored in one pass without gradients, and the best of them refined by descent.

    The candidates are the start and one random position in each cell of a grid, so that no part of the image is left
    out. Refinement follows the sign of the gradient and halves the step wherever the loss does not fall.

    Args:
        n_candidates: Positions that are scored, the start among them.
        refine: Steps of refinement.
        step: Length of the first of them per axis, in half image sides.

    """

    n_candidates: int = 16
    refine: int = 3
    step: float = 0.1

    def __post_init__(self) -> None:
        _positive(self, "n_candidates", "step")
        if self.refine < 0:
            raise InputError(f"refine must not be negative, found {self.refine}")

    def search(self, objective: FoveaObjective, start: Tensor, draws: Draws) -> Found:
        n_paths, n = len(objective), self.n_candidates
        everyone = torch.arange(n_paths)
        spread = draws.uniform(everyone, n)
        p = torch.cat([start[:, None], _stratified(spread[:, 1:])], 1)
        path = everyone.repeat_interleave(n)
        loss = objective(path, p.flatten(0, 1), torch.zeros(len(path), dtype=torch.bool))[0].view(n_paths, n)
        best, index = loss.min(1)
        best_p = p[everyone, index]
        trace = [*loss.unbind(1)]
        step = torch.full((n_paths, 1), self.step)
        always = torch.ones(n_paths, dtype=torch.bool)
        _, slope = objective(everyone, best_p, always) if self.refine else (best, best_p)
        for i in range(self.refine):
            tried = (best_p - step * slope.sign()).clamp(-1.0, 1.0)
            loss, tried_slope = objective(everyone, tried, always & (i + 1 < self.refine))
            better = loss < best
            best_p = torch.where(better[:, None], tried, best_p)
            slope = torch.where(better[:, None], tried_slope, slope)
            best = torch.where(better, loss, best)
            step = torch.where(better[:, None], step, step / 2.0)
            trace.append(loss)
        return Found(best_p, best, torch.stack(trace, 1))


def _stratified(uniform: Tensor) -> Tensor:
    """(P, n, 2) numbers in [-1, 1) -> the same, one in each cell of a grid as square as n cells can be."""
    n = uniform.shape[1]
    columns = max(1, math.ceil(math.sqrt(n)))
    rows = max(1, math.ceil(n / columns))
    cell = torch.arange(n)
    corner = torch.stack([cell % columns, cell // columns], -1)
    in_row = torch.full((n,), columns)
    # The last row may hold fewer cells, which are then wider.
    in_row[(rows - 1) * columns :] = n - (rows - 1) * columns
    count = torch.stack([in_row, torch.full((n,), rows)], -1)
    return (corner + (uniform + 1.0) / 2.0) / count * 2.0 - 1.0


STRATEGIES: dict[str, type[SignGradient] | type[Candidates]] = {
    "sign_gradient": SignGradient,
    "candidates": Candidates,
}


@dataclass(frozen=True)
class Exploration:
    """Scanpaths with how they came about.

    Args:
        p: (P, L, 2) fixations, (x, y) in [-1, 1] of the task's image.
        loss: (P, L) loss at each.
        trace: (P, L, N) every loss that was evaluated, in order.
        n_forward: Images that went through the network.
        n_gradient: Those of them of which the gradient was taken.

    """

    p: Tensor
    loss: Tensor
    trace: Tensor
    n_forward: int
    n_gradient: int


def explore(
    objective: FoveaObjective,
    strategy: SearchStrategy,
    length: int,
    draws: Draws,
    start: Literal["center", "previous"] = "center",
) -> Exploration:
    """Scanpaths of `length` fixations: each fixation is searched for, then remembered.

    Args:
        objective: Fresh, with nothing in memory.
        strategy: How a fixation is found.
        length: Number of fixations.
        draws: Random numbers.
        start: Where the search for a fixation begins: the image's ``center``, or the ``previous`` fixation.

    """
    found: list[Found] = []
    for fixation in range(length):
        objective.begin(fixation, length)
        at = found[-1].p if start == "previous" and found else torch.zeros(len(objective), 2)
        found.append(strategy.search(objective, at, draws))
        objective.remember(found[-1].p)
    return Exploration(
        torch.stack([f.p for f in found], 1),
        torch.stack([f.loss for f in found], 1),
        torch.stack([f.trace for f in found], 1),
        objective.n_forward,
        objective.n_gradient,
    )


def _positive(options: object, *names: str) -> None:
    for name in names:
        if not getattr(options, name) > 0:
            raise InputError(f"{name} must be positive, found {getattr(options, name)!r}")


def _one_of(options: object, name: str, allowed: tuple[str, ...]) -> None:
    if getattr(options, name) not in allowed:
        raise InputError(f"{name} is {getattr(options, name)!r}, expected one of {list(allowed)}")
