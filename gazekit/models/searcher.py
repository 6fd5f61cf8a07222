"""What every visual searcher shares: looking for one target fixation by fixation, many displays in lock-step.

A searcher says how much each place of a display attracts it, given where it looks now (:meth:`Searcher.attraction`).
The rest is here: where the eye lands, what is not fixated again, who says that the target was found, when to stop.
The rules are those of the search model of Gupta et al. (2021, NeurIPS 34: Visual search asymmetry: deep nets and
humans share similar inherent biases), with its quirks behind arguments.
"""

from __future__ import annotations

import math
import warnings
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from gazekit.batch import Scanpaths, SearchTask, TrialBatch
from gazekit.density import normalize_log_density
from gazekit.displays import SearchDisplays, SearchPaths
from gazekit.errors import InputError
from gazekit.models.base import GazeModel, sample_positions
from gazekit.registry import unknown_name

# (fixations (b, 2) as (x, y) px, rows (b,) of the displays) -> (b,) bool, whether the target is there.
Oracle = Callable[[Tensor, Tensor], Tensor]

# The published code in every choice; see the arguments of Searcher.
_COMPAT: dict[str, dict[str, Any]] = {
    "vsa2021": {"landing": "block_corner", "oracle": "window", "test_last": False, "ior": "erase"}
}
_CHOICES = {"landing": ("block_center", "block_corner"), "oracle": ("cell", "window"), "ior": ("erase", "map")}
# Grey levels by which a background saved as JPEG may vary.
_NOISE = 16


@dataclass(frozen=True)
class Looking:
    """The b searches that go on, out of those on all `displays`.

    Args:
        displays: All of them.
        rows: (b,) long, those that are searched on.
        image: (b, 3, H, W) uint8, as they look by now: visited cells may have been erased.
        fixation: (b, 2) long (row, column), where the eye is.
        generator: For searchers that draw; None: they do not.

    """

    displays: SearchDisplays
    rows: Tensor
    image: Tensor
    fixation: Tensor
    generator: torch.Generator | None = None


@dataclass(frozen=True)
class Attraction:
    """How much b searches are drawn to each pixel of their displays.

    Args:
        value: (b, H, W) float64, 0 or more; 0 attracts nothing.
        block_px: Side of the squares on which `value` is constant; the map of a network is coarse.
        block_origin: (b, 2) float64 (row, column) px, where a square begins; any of the corners.

    """

    value: Tensor
    block_px: float = 1.0
    block_origin: Tensor | None = None


class Searcher(GazeModel):
    """Looks for a target, one fixation after the other; see :meth:`search`.

    Args:
        landing: "block_center": the eye lands in the middle of the winning square of the map, or as near to it as the
            item's cell allows. "block_corner": on its first pixel that may be fixated, as published.
        oracle: In grids. "cell": the target is found if the fixated cell is the target's. "window": if it
            lies in the square of `window_px` around the fixation, as published; the square of a fixation at a cell's
            edge reaches into the next cell. Free search always goes by the square.
        test_initial: Whether the initial fixation can find the target; None as published: in free search only.
        test_last: Whether the last allowed fixation can.
        ior: In grids, how a visited cell is kept from being visited again. "erase": it is also filled with the
            background, as published. "map": it is only not selected.
        compat: "vsa2021" replaces the choices above by those of the published code.
        gain: Of the density: log-density is `gain` times the attraction, which is scaled to [0, 1] on each map.
        uniform: Share of the density that is spread evenly, so that no place is impossible.
        start_sd_dva: Scatter of initial fixations around the middle, where :meth:`sample` is given no start.
        sample_window_dva: Side of the square that is not fixated again, in scenes.
        assumed_px_per_dva: Of pictures from a dataset that does not state its geometry, in the frame in which they
            come; the model says once that it assumes it.

    """

    zero_shot: ClassVar[bool] = True

    def __init__(
        self,
        landing: str = "block_center",
        oracle: str = "cell",
        test_initial: bool | None = None,
        test_last: bool = True,
        ior: str = "erase",
        compat: str | None = None,
        gain: float = 4.0,
        uniform: float = 0.05,
        start_sd_dva: float = 0.5,
        sample_window_dva: float = 2.0,
        assumed_px_per_dva: float = 30.0,
    ) -> None:
        super().__init__()
        rules: dict[str, Any] = {"landing": landing, "oracle": oracle, "test_last": test_last, "ior": ior}
        if compat is not None:
            if compat not in _COMPAT:
                raise unknown_name("published searcher to be compatible with", compat, list(_COMPAT))
            rules |= _COMPAT[compat]
        for key, known in _CHOICES.items():
            if rules[key] not in known:
                raise unknown_name(f"rule for {key}", rules[key], list(known))
        if not (gain >= 0 and 0 < uniform <= 1 and min(start_sd_dva, sample_window_dva, assumed_px_per_dva) > 0):
            raise InputError(
                "a searcher needs gain >= 0, 0 < uniform <= 1, and start_sd_dva, sample_window_dva and "
                f"assumed_px_per_dva > 0; got {gain}, {uniform}, {start_sd_dva}, {sample_window_dva}, "
                f"{assumed_px_per_dva}"
            )
        self.landing, self.oracle, self.test_last, self.ior = (
            rules[key] for key in ("landing", "oracle", "test_last", "ior")
        )
        self.test_initial, self.compat = test_initial, compat
        # Visited cells stay selectable and as they are.
        self.forgets = False
        self.gain, self.uniform_share = float(gain), float(uniform)
        self.start_sd_dva, self.sample_window_dva = start_sd_dva, sample_window_dva
        self.assumed_px_per_dva, self._said_what_it_assumes = assumed_px_per_dva, False

    # What a searcher defines

    @abstractmethod
    def begin(self, displays: SearchDisplays) -> Any:
        """Whatever is computed once per search, such as the features of the targets."""

    @abstractmethod
    def attraction(self, begun: Any, now: Looking) -> Attraction:
        """How much each place of the displays attracts the eye.

        Args:
            begun: What :meth:`begin` returned for all displays.
            now: Which of them are searched on, and from where.

        """

    def prefers_any(self) -> bool:
        """Whether a place of attraction 0 may be fixated all the same (a searcher that draws)."""
        return False

    def draw(
        self, displays: SearchDisplays, selectable: Tensor, rows: Tensor, generator: torch.Generator
    ) -> Tensor | None:
        """(b, 2) long (row, column) of the next fixations, for a searcher that needs no map; None: by the map.

        Args:
            displays: All of them.
            selectable: (B, H, W) bool, where the eye may go; somewhere, in each row that is asked for.
            rows: (b,) long, those that are searched on.
            generator: Random numbers.

        """
        del displays, selectable, rows, generator
        return None

    def places(self, displays: SearchDisplays) -> Tensor:
        """(B, H, W) bool, where the eye may go: into the cells, or anywhere."""
        height, width = displays.image.shape[-2:]
        if displays.cells is not None:
            return displays.cells.any(0).expand(len(displays), height, width)
        return torch.ones(len(displays), height, width, dtype=torch.bool, device=displays.device)

    def recognizes(self, begun: Any, displays: SearchDisplays, rows: Tensor, fixation: Tensor, found: Tensor) -> Tensor:
        """(b,) bool, whether the searcher says that it found the target; `found` is the truth."""
        del begun, displays, rows, fixation
        return found

    def erases(self, displays: SearchDisplays) -> bool:
        """Whether displays change while they are searched."""
        return displays.cells is not None and self.ior == "erase" and not self.forgets

    # Searching

    @torch.no_grad()
    def search(
        self,
        displays: SearchDisplays,
        generator: torch.Generator | None = None,
        keep_priority: bool = False,
        oracle: Oracle | None = None,
    ) -> SearchPaths:
        """Search all displays, each until its target is found or `max_fixations` are used up.

        Displays are independent of each other: a batch gives what one after the other would (with a drawing searcher,
        up to its random numbers).

        Args:
            displays: What to search.
            generator: Random numbers of a searcher that draws; None seeds it with 0.
            keep_priority: Also return the map before each fixation (0 where the eye could not go).
            oracle: Says whether a fixation found the target; None goes by `displays.target_mask`.

        Returns:
            Fixations in px of the displays, and when the target was found.

        """
        generator = torch.Generator().manual_seed(0) if generator is None else generator
        device = displays.device
        n, (width, height) = len(displays), displays.size_wh_px
        begun = self.begin(displays)
        judge = self._judge(displays) if oracle is None else oracle
        free = displays.cells is None
        test_initial = free if self.test_initial is None else self.test_initial
        fixation = displays.start_row_column().clone()
        path = torch.zeros(n, displays.max_fixations + 1, 2, dtype=torch.long, device=device)
        path[:, 0] = fixation
        valid = torch.zeros(n, displays.max_fixations + 1, dtype=torch.bool, device=device)
        valid[:, 0] = True
        n_fixations = torch.full((n,), math.inf, device=device)
        maps = (
            torch.full((n, displays.max_fixations, height, width), torch.nan, device=device) if keep_priority else None
        )
        image = displays.image.clone()
        selectable = self.places(displays).clone()
        said_yes = torch.zeros(n, dtype=torch.bool, device=device)
        active = torch.arange(n, device=device)

        def test(step: int) -> Tensor:
            """Who goes on after fixation `step`."""
            found = self._ask(judge, fixation[active], active)
            yes = self.recognizes(begun, displays, active, fixation[active], found)
            n_fixations[active[found & yes]] = float(step)
            said_yes[active] = yes
            return active[~yes]

        if test_initial:
            active = test(0)
        for step in range(1, displays.max_fixations + 1):
            if free and len(active):
                forbid_squares(selectable, active, fixation[active], displays.window_px)
            if self.compat is None:
                # The published code goes on at the first pixel, for ever.
                active = active[selectable[active].flatten(1).any(1)]
            if not len(active):
                break
            drawn = self.draw(displays, selectable, active, generator) if maps is None else None
            if drawn is None:
                map_ = self.attraction(begun, Looking(displays, active, image[active], fixation[active], generator))
                value = map_.value.masked_fill(~selectable[active], 0.0)
                if maps is not None:
                    maps[active, step - 1] = value.float()
                drawn = self._land(map_, value, selectable[active], displays)
            fixation[active] = drawn
            path[active, step], valid[active, step] = fixation[active], True
            if displays.cells is not None and not self.forgets:
                self._visit(displays, displays.cells, active, fixation[active], selectable, image)
            if step < displays.max_fixations or self.test_last:
                active = test(step)
        xy = (path.flip(-1).float() + 0.5) * valid[..., None]
        return SearchPaths(xy, valid, n_fixations, said_yes, maps)

    def _ask(self, judge: Oracle, fixation: Tensor, rows: Tensor) -> Tensor:
        answer = judge(fixation.flip(-1).float() + 0.5, rows)
        if answer.shape != rows.shape or answer.dtype != torch.bool:
            raise InputError(f"an oracle must return ({len(rows)},) bool; got {tuple(answer.shape)} {answer.dtype}")
        return answer

    def _judge(self, displays: SearchDisplays) -> Oracle:
        height, width = displays.image.shape[-2:]
        if displays.cells is not None and self.oracle == "cell":
            # A mask may reach over a cell's edge: the target's cell is the one with most of it.
            overlap = displays.target_mask.flatten(1).float() @ displays.cells.flatten(1).float().T
            target_cell, cells = overlap.argmax(1), displays.cells

            def same_cell(xy_px: Tensor, rows: Tensor) -> Tensor:
                column, row = xy_px.floor().long().unbind(-1)
                holds = cells[:, row, column]
                return (holds.long().argmax(0) == target_cell[rows]) & holds.any(0)

            return same_cell
        # Sums of the mask over rectangles, for the square around each fixation.
        sums = torch.nn.functional.pad(displays.target_mask.long().cumsum(1).cumsum(2), (1, 0, 1, 0))
        side = displays.window_px

        def in_window(xy_px: Tensor, rows: Tensor) -> Tensor:
            column, row = xy_px.floor().long().unbind(-1)
            top, left = row - side // 2, column - side // 2
            low, high = top.clamp(0, height), (top + side).clamp(0, height)
            first, last = left.clamp(0, width), (left + side).clamp(0, width)
            inside = sums[rows, high, last] - sums[rows, low, last] - sums[rows, high, first] + sums[rows, low, first]
            return inside > 0

        return in_window

    def _visit(
        self, displays: SearchDisplays, cells: Tensor, rows: Tensor, fixation: Tensor, selectable: Tensor, image: Tensor
    ) -> None:
        """The first cell that holds the fixation is not selected again, and erased."""
        holds = cells[:, fixation[:, 0], fixation[:, 1]]
        cell = holds.long().argmax(0)
        inside = holds.any(0)
        gone = cells[cell[inside]]
        at = rows[inside]
        selectable[at] &= ~gone
        if self.ior == "erase":
            image[at] = torch.where(gone[:, None], displays.background, image[at].int()).to(torch.uint8)

    def _land(self, drawn: Attraction, value: Tensor, selectable: Tensor, displays: SearchDisplays) -> Tensor:
        """(b, 2) long (row, column): the first maximum in reading order, or the middle of its square."""
        height, width = value.shape[-2:]
        if self.prefers_any():
            value = value.masked_fill(~selectable, -1.0)
        flat = value.flatten(1)
        best, _ = flat.max(1)
        # The first of equal values, which max does not promise.
        index = (flat == best[:, None]).byte().argmax(1)
        if self.compat is None:
            # Where nothing attracts, the first place that may be fixated; the published code takes pixel 0.
            first = selectable.flatten(1).byte().argmax(1)
            index = torch.where((best <= 0) & ~selectable.flatten(1).gather(1, index[:, None])[:, 0], first, index)
        corner = torch.stack([index // width, index % width], -1)
        if self.landing == "block_corner" or drawn.block_px <= 1.0 or drawn.block_origin is None:
            return corner
        block = ((corner - drawn.block_origin) / drawn.block_px + 1e-9).floor()
        middle = (drawn.block_origin + (block + 0.5) * drawn.block_px).floor().long()
        low, high = (
            torch.zeros_like(corner),
            torch.zeros_like(corner) + torch.tensor([height - 1, width - 1], device=corner.device),
        )
        if displays.cells is not None:
            cell = displays.cells[:, corner[:, 0], corner[:, 1]].long().argmax(0)
            boxes = cell_boxes(displays.cells).to(corner.device)
            low, high = boxes[cell, :2], boxes[cell, 2:] - 1
        middle = middle.clamp(low, high)
        rows = torch.arange(len(middle), device=corner.device)
        return torch.where(selectable[rows, middle[:, 0], middle[:, 1]][:, None], middle, corner)

    # As a model of scanpaths in scenes

    def takes_notice_of(self, search: SearchTask) -> bool:
        return self.needs_target() and search.template is not None

    def displays_of(self, batch: TrialBatch, max_fixations: int) -> SearchDisplays:
        """The trials of a batch as displays for free search; the target may be anywhere, so nothing finds it.

        Raises:
            InputError: The batch has no image, or the searcher needs a picture of the target and there is none.

        """
        if batch.image is None:
            raise InputError(f"{type(self).__name__} needs the images themselves, not cached features")
        picture = (batch.image * 255.0).round().clamp(0, 255).to(torch.uint8)[batch.stimulus_of_trial]
        n, _, height, width = picture.shape
        search = batch.search
        target = picture[:, :, :1, :1]
        if self.needs_target():
            if search is None or search.template is None or bool((search.template_of_trial < 0).any()):
                raise InputError(
                    f"{type(self).__name__} searches for a picture, and these trials have none; score it on a dataset "
                    f"of visual search with target images"
                )
            template = (search.template * 255.0).round().clamp(0, 255).to(torch.uint8)
            target = template[search.template_of_trial]
        start = None
        if search is not None and bool(search.has_start.any()):
            middle = torch.tensor([width / 2.0, height / 2.0], device=batch.device)
            start = torch.where(search.has_start[:, None], search.start_xy_px, middle)
            size = torch.tensor([width, height], device=batch.device, dtype=start.dtype)
            start = torch.minimum(start.clamp(min=0.0), torch.nextafter(size, torch.zeros_like(size)))
        px_per_dva = self.px_per_dva_of(batch)
        return SearchDisplays(
            name=tuple(batch.stimulus[int(row)] for row in batch.stimulus_of_trial.tolist()),
            image=picture,
            target=target,
            target_mask=torch.ones(n, height, width, dtype=torch.bool, device=batch.device),
            cells=None,
            background=0,
            max_fixations=max(1, max_fixations),
            px_per_dva=px_per_dva,
            start_xy_px=start,
            window_px=max(1, round(self.sample_window_dva * px_per_dva)),
        )

    def needs_target(self) -> bool:
        """Whether the searcher looks at the picture of its target."""
        return True

    def px_per_dva_of(self, batch: TrialBatch) -> float:
        """Pixels per degree of the batch; what is assumed, with a warning, where the dataset does not state them."""
        if math.isfinite(batch.px_per_dva):
            return batch.px_per_dva
        if not self._said_what_it_assumes:
            self._said_what_it_assumes = True
            warnings.warn(
                f"{type(self).__name__}: the dataset states no viewing geometry; {self.assumed_px_per_dva:g} px per "
                f"degree are assumed",
                stacklevel=2,
            )
        return self.assumed_px_per_dva

    def log_density(self, batch: TrialBatch) -> Tensor:
        """(B, H, W) where the first saccade goes from the middle of the picture, given what is searched for."""
        if not len(batch):
            return torch.empty(0, *batch.size_wh_px[::-1], device=batch.device)
        wanted = [-1] * len(batch) if batch.search is None else batch.search.template_of_trial.tolist()
        keys = list(zip(batch.stimulus_of_trial.tolist(), wanted, strict=True))
        distinct = list(dict.fromkeys(keys))
        maps = []
        for key in distinct:
            one = batch.trials(keys.index(key), keys.index(key) + 1).stimulus_alone(key[0])
            middle = torch.tensor([[side // 2 for side in reversed(batch.size_wh_px)]], device=batch.device)
            maps.append(self._before_each(one, middle))
        if len(distinct) == 1:
            # Seen through a stride of 0, which the metrics recognise.
            return maps[0].expand(len(batch), -1, -1)
        return torch.cat(maps)[[distinct.index(key) for key in keys]]

    def conditional_log_density(self, batch: TrialBatch) -> Tensor:
        """(B, T, H, W) before each fixation, the eye having been where it was; before the first, where it starts."""
        n_trials, n_steps = batch.valid.shape
        width, height = batch.size_wh_px
        maps = torch.empty(n_trials, n_steps, height, width, device=batch.device)
        size = torch.tensor(batch.size_wh_px, device=batch.device, dtype=batch.xy_px.dtype)
        pixel = torch.minimum(batch.xy_px.clamp(min=0.0), size - 1.0).floor().long().flip(-1)
        for row in range(n_trials):
            one = batch.trials(row, row + 1).stimulus_alone(int(batch.stimulus_of_trial[row]))
            # What stands in the padding is never read; it repeats the first map.
            maps[row] = self._start_log_density(one)
            steps = int(batch.valid[row].sum())
            if steps > 1:
                maps[row, 1:steps] = self._before_each(one, pixel[row, : steps - 1])
        return maps

    @torch.no_grad()
    def _before_each(self, batch: TrialBatch, looked: Tensor) -> Tensor:
        """(t, H, W) log-density after each of (t, 2) fixations, as (row, column), of one trial."""
        displays = self.displays_of(batch, 1)
        rows = torch.zeros(len(looked), dtype=torch.long, device=batch.device)
        image = displays.image.expand(len(looked), -1, -1, -1)
        value = self.attraction(self.begin(displays), Looking(displays, rows, image, looked)).value
        selectable = torch.ones_like(value, dtype=torch.bool)
        for step in range(len(looked)):
            later = torch.arange(step, len(looked), device=batch.device)
            forbid_squares(selectable, later, looked[step].expand(len(later), 2), displays.window_px)
        return self.log_density_of(value, selectable)

    def log_density_of(self, value: Tensor, selectable: Tensor) -> Tensor:
        """(b, H, W) attraction -> log-density: a softmax over where the eye may go, and an even share everywhere."""
        value = value.double().masked_fill(~selectable, 0.0)
        top = value.flatten(1).amax(1)[:, None, None]
        scaled = self.gain * value / top.where(top > 0, torch.ones_like(top))
        chosen = normalize_log_density(scaled.masked_fill(~selectable, -math.inf))
        # A search that has been everywhere has nothing but the even share.
        chosen = chosen.where(selectable.flatten(1).any(1)[:, None, None], torch.full_like(chosen, -math.inf))
        even = torch.full_like(chosen, -math.log(value[0].numel()))
        share = self.uniform_share
        mixed = torch.logaddexp(chosen + (math.log1p(-share) if share < 1 else -math.inf), even + math.log(share))
        return normalize_log_density(mixed).float()

    def _start_log_density(self, batch: TrialBatch) -> Tensor:
        """(1, H, W) where a search begins: a round spot around the start."""
        width, height = batch.size_wh_px
        start = self._start_xy_px(batch)
        sd_px = self._start_sd_px(batch)
        y, x = (torch.arange(side, device=batch.device, dtype=torch.float64) + 0.5 for side in (height, width))
        log_y = -0.5 * ((y - start[:, 1:]) / sd_px).square()
        log_x = -0.5 * ((x - start[:, :1]) / sd_px).square()
        # Bounded below: a start elsewhere is unlikely, not impossible.
        spot = (log_y[:, :, None] + log_x[:, None, :]).clamp(min=-30.0)
        return normalize_log_density(spot).float()

    def _start_xy_px(self, batch: TrialBatch) -> Tensor:
        width, height = batch.size_wh_px
        middle = torch.tensor([[width / 2.0, height / 2.0]], device=batch.device, dtype=torch.float64)
        middle = middle.expand(len(batch), 2)
        if batch.search is None:
            return middle
        return torch.where(batch.search.has_start[:, None], batch.search.start_xy_px.double(), middle)

    def _start_sd_px(self, batch: TrialBatch) -> float:
        return self.start_sd_dva * self.px_per_dva_of(batch)

    @torch.no_grad()
    def sample(self, batch: TrialBatch, n: int, length: int, generator: torch.Generator) -> Scanpaths:
        """N searches per trial of `length` fixations, the initial one included; finding the target does not end them.

        Where the design put the eye, searches start there; elsewhere around the middle. What follows is the winner of
        the map at each step, so searches from one place are one search (of a searcher that does not draw).
        """
        size = torch.tensor(batch.size_wh_px, dtype=torch.float32)
        xy = torch.zeros(len(batch), n, length, 2)
        valid = torch.zeros(len(batch), n, length, dtype=torch.bool)
        for row in range(len(batch)):
            one = batch.trials(row, row + 1).stimulus_alone(int(batch.stimulus_of_trial[row]))
            given = one.search is not None and bool(one.search.has_start.all())
            if given:
                start = self._start_xy_px(one).float().cpu().expand(n, 2)
            else:
                start = sample_positions(self._start_log_density(one).cpu(), n, generator)[0]
            # Searches from one place are the same search.
            distinct = 1 if given and not self.prefers_any() else n
            if length > 1:
                displays = self.displays_of(one, length - 1).pick(torch.zeros(distinct, dtype=torch.long))
                begin = torch.minimum(start[:distinct].clamp(min=0.0), size - 1.0)
                made = self.search(replace(displays, start_xy_px=begin.to(batch.device)), generator, oracle=_never)
                xy[row], valid[row] = made.xy_px.cpu(), made.valid.cpu()
            xy[row, :, 0], valid[row, :, 0] = torch.minimum(start.clamp(min=0.0), size - 1e-3), True
        return Scanpaths(xy.to(batch.device), valid.to(batch.device))


def _never(xy_px: Tensor, rows: Tensor) -> Tensor:
    """The target is nowhere."""
    return torch.zeros_like(rows, dtype=torch.bool)


def forbid_squares(selectable: Tensor, rows: Tensor, fixation: Tensor, side_px: int) -> None:
    """Mark the square around each fixation as not selectable, in place.

    Args:
        selectable: (B, H, W) bool.
        rows: (b,) long, which of them.
        fixation: (b, 2) long (row, column).
        side_px: The square runs from ``f - side // 2`` up to, not including, ``f - side // 2 + side``.

    """
    height, width = selectable.shape[-2:]
    top = fixation - side_px // 2
    y = torch.arange(height, device=selectable.device)
    x = torch.arange(width, device=selectable.device)
    in_y = (y >= top[:, :1]) & (y < top[:, :1] + side_px)
    in_x = (x >= top[:, 1:]) & (x < top[:, 1:] + side_px)
    selectable[rows] &= ~(in_y[:, :, None] & in_x[:, None, :])


def cell_boxes(cells: Tensor) -> Tensor:
    """(N, H, W) bool masks -> (N, 4) long first row, first column, last row + 1, last column + 1."""
    rows, columns = cells.any(2).byte(), cells.any(1).byte()
    height, width = cells.shape[1:]
    first_row, first_column = rows.argmax(1), columns.argmax(1)
    last_row, last_column = height - rows.flip(1).argmax(1), width - columns.flip(1).argmax(1)
    return torch.stack([first_row, first_column, last_row, last_column], 1)


def cells_with_items(cells: Tensor, image: Tensor, background: int) -> Tensor:
    """(b, N) bool, which cells hold something else than background (by more than JPEG's noise)."""
    drawn = (image.int() - background).abs().amax(1) > _NOISE
    # Counts as a matrix product: no array of displays x cells x pixels.
    return drawn.flatten(1).float() @ cells.flatten(1).float().T > 0
