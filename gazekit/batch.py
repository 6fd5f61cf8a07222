"""The batch that data, models and metrics share: some stimuli and the trials on them."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

# Width of a stimulus of unknown geometry, for models whose saccades need some scale.
_ASSUMED_WIDTH_DVA = 32.0


@dataclass(frozen=True)
class SearchTask:
    """What each of B trials looked for, and under which limits.

    Args:
        target: B names: a word (``"cup"``) or the name of a template.
        present: (B,) bool, True where the target was on the stimulus.
        box_px: (B, 4) float left, top, right, bottom of the target, half-open; 0 where there is no box.
        has_box: (B,) bool.
        start_xy_px: (B, 2) float where the design put the eye at the onset; 0 where it did not.
        has_start: (B,) bool.
        max_saccades: (B,) long, the trial ended after so many; -1 without a limit.
        template: (P, 3, h, w) float RGB in [0, 1], the distinct target images of the batch, or None.
        template_of_trial: (B,) long, row of `template`; -1 where no image was shown.

    """

    target: tuple[str, ...]
    present: Tensor
    box_px: Tensor
    has_box: Tensor
    start_xy_px: Tensor
    has_start: Tensor
    max_saccades: Tensor
    template: Tensor | None
    template_of_trial: Tensor

    _PER_TRIAL = ("present", "box_px", "has_box", "start_xy_px", "has_start", "max_saccades", "template_of_trial")

    def to(self, device: torch.device | str, non_blocking: bool = False) -> SearchTask:
        """The same task with every tensor on `device`."""
        names = (*self._PER_TRIAL, *(["template"] if self.template is not None else []))
        moved: dict[str, Any] = {name: getattr(self, name).to(device, non_blocking=non_blocking) for name in names}
        return replace(self, **moved)

    def trials(self, part: slice) -> SearchTask:
        """Some of the trials, with all templates kept."""
        return self.pick(list(range(len(self.target)))[part])

    def pick(self, trials: list[int]) -> SearchTask:
        """These trials, in this order, with all templates kept."""
        picked: dict[str, Any] = {name: getattr(self, name)[trials] for name in self._PER_TRIAL}
        return replace(self, target=tuple(self.target[i] for i in trials), **picked)


@dataclass(frozen=True)
class ObjectLayout:
    """The objects on each of S stimuli; padding is on the right and marked by `there`.

    Args:
        box_px: (S, N, 4) float left, top, right, bottom, half-open; 0 in the padding.
        place: (S, N, 2) long row and column of the object among the others.
        there: (S, N) bool, False where a stimulus has fewer objects.

    """

    box_px: Tensor
    place: Tensor
    there: Tensor

    def to(self, device: torch.device | str, non_blocking: bool = False) -> ObjectLayout:
        """The same objects on `device`."""
        return ObjectLayout(*(t.to(device, non_blocking=non_blocking) for t in (self.box_px, self.place, self.there)))

    def pick(self, rows: slice | Tensor | list[int]) -> ObjectLayout:
        """The objects of these stimuli."""
        return ObjectLayout(self.box_px[rows], self.place[rows], self.there[rows])

    @property
    def center_px(self) -> Tensor:
        """(S, N, 2) middles of the boxes."""
        return (self.box_px[..., :2] + self.box_px[..., 2:]) / 2

    def under(self, xy_px: Tensor, stimulus: Tensor) -> Tensor:
        """(B, T, 2) positions on (B,) stimuli -> (B, T) long object under each.

        The first box that holds it; between boxes, and outside, the one with the nearest center.
        """
        left, top, right, bottom = self.box_px[stimulus][:, None].unbind(-1)
        there = self.there[stimulus][:, None]
        x, y = xy_px[:, :, None].unbind(-1)
        inside = (left <= x) & (x < right) & (top <= y) & (y < bottom) & there
        sq_dist = (xy_px[:, :, None] - self.center_px[stimulus][:, None]).square().sum(-1)
        nearest = sq_dist.masked_fill(~there, torch.inf).argmin(-1)
        # argmax of equal numbers need not give the first; of falling ones it does.
        rank = torch.arange(inside.shape[-1], 0, -1, device=inside.device)
        return torch.where(inside.any(-1), (inside * rank).argmax(-1), nearest)

    @classmethod
    def grid(cls, size_wh_px: tuple[int, int], columns: int, rows: int) -> ObjectLayout:
        """One stimulus, divided into `columns` x `rows` equal cells, row by row."""
        row, column = (i.flatten() for i in torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij"))
        low = torch.stack([column, row], -1)
        step = torch.tensor([size_wh_px[0] / columns, size_wh_px[1] / rows])
        box = torch.cat([low * step, (low + 1) * step], -1)
        place = torch.stack([row, column], -1)
        return cls(box[None], place[None], torch.ones(1, len(box), dtype=torch.bool))


@dataclass(frozen=True)
class TrialBatch:
    """B trials on S distinct stimuli of one size; padding is on the right and marked by `valid`.

    Stimuli are kept once, however many subjects saw them, so that a backbone runs once per picture.

    Args:
        stimulus: S names.
        size_wh_px: Width and height shared by the S stimuli.
        px_per_dva: Pixels per degree of visual angle; NaN where the release does not state the geometry.
        image: (S, 3, H, W) float RGB in [0, 1], or None where `features` replaces it.
        features: Cached backbone maps, each (S, C, h, w), or None.
        stimulus_of_trial: (B,) long, the row of `stimulus` that each trial looked at.
        subject: B names.
        trial: (B,) long, the trial's number in the dataset.
        xy_px: (B, T, 2) float fixations as (x, y) px.
        duration_s: (B, T) float; NaN where unknown, 0 in the padding.
        valid: (B, T) bool, False where the scanpath is padding.
        search: What was searched for, or None in free viewing.
        caption: B texts that the subjects wrote, or None.
        objects: What there is to look at on each of the S stimuli, or None.

    """

    stimulus: tuple[str, ...]
    size_wh_px: tuple[int, int]
    px_per_dva: float
    image: Tensor | None
    features: tuple[Tensor, ...] | None
    stimulus_of_trial: Tensor
    subject: tuple[str, ...]
    trial: Tensor
    xy_px: Tensor
    duration_s: Tensor
    valid: Tensor
    search: SearchTask | None = None
    caption: tuple[str, ...] | None = None
    objects: ObjectLayout | None = None

    def __len__(self) -> int:
        return len(self.subject)

    @property
    def device(self) -> torch.device:
        return self.xy_px.device

    @property
    def working_px_per_dva(self) -> float:
        """Pixels per degree; where the release states none, as if the stimulus were 32 degrees wide."""
        stated = math.isfinite(self.px_per_dva)
        return self.px_per_dva if stated else self.size_wh_px[0] / _ASSUMED_WIDTH_DVA

    def to(self, device: torch.device | str, non_blocking: bool = False) -> TrialBatch:
        """The same batch with every tensor on `device` (Lightning moves batches through this)."""

        def move(value: Tensor) -> Tensor:
            return value.to(device, non_blocking=non_blocking)

        tensors = ("stimulus_of_trial", "trial", "xy_px", "duration_s", "valid")
        moved: dict[str, Any] = {name: move(getattr(self, name)) for name in tensors}
        image = None if self.image is None else move(self.image)
        features = None if self.features is None else tuple(move(f) for f in self.features)
        search = None if self.search is None else self.search.to(device, non_blocking)
        objects = None if self.objects is None else self.objects.to(device, non_blocking)
        return replace(self, image=image, features=features, search=search, objects=objects, **moved)

    def pin_memory(self) -> TrialBatch:
        image = None if self.image is None else self.image.pin_memory()
        features = None if self.features is None else tuple(f.pin_memory() for f in self.features)
        return replace(self, image=image, features=features)

    def per_trial(self, maps: Tensor) -> Tensor:
        """(S, ...) one entry per stimulus -> (B, ...) one per trial.

        With a single stimulus the result is a view of stride 0, which the metrics recognise: a map
        that serves every trial is then ranked and standardised once.
        """
        if len(self.stimulus) == 1:
            return maps.expand(len(self), *maps.shape[1:])
        return maps[self.stimulus_of_trial]

    def stimulus_alone(self, row: int) -> TrialBatch:
        """Stimulus `row` with the first of its trials."""
        trials = (self.stimulus_of_trial == row).nonzero()[:, 0]
        if len(trials):
            one = self.trials(int(trials[0]), int(trials[0]) + 1)
        else:
            # Nobody looked: a trial of nobody, all padding.
            steps = self.valid.shape[1]
            one = replace(
                self,
                subject=("",),
                trial=self.trial.new_full((1,), -1),
                xy_px=self.xy_px.new_zeros(1, steps, 2),
                duration_s=self.duration_s.new_zeros(1, steps),
                valid=self.valid.new_zeros(1, steps),
                search=None,
                caption=None,
            )
        pick = slice(row, row + 1)
        return replace(
            one,
            stimulus=self.stimulus[pick],
            image=None if self.image is None else self.image[pick],
            features=None if self.features is None else tuple(f[pick] for f in self.features),
            objects=None if self.objects is None else self.objects.pick(pick),
            stimulus_of_trial=self.stimulus_of_trial.new_zeros(1),
        )

    def trials(self, start: int, stop: int) -> TrialBatch:
        """Trials `start` up to `stop`, with all stimuli kept."""
        part = slice(start, stop)
        return replace(
            self,
            stimulus_of_trial=self.stimulus_of_trial[part],
            subject=self.subject[part],
            trial=self.trial[part],
            xy_px=self.xy_px[part],
            duration_s=self.duration_s[part],
            valid=self.valid[part],
            search=None if self.search is None else self.search.trials(part),
            caption=None if self.caption is None else self.caption[part],
        )


@dataclass(frozen=True)
class Scanpaths:
    """n sampled scanpaths for each of B trials.

    Args:
        xy_px: (B, n, T, 2) fixations as (x, y) px.
        valid: (B, n, T) bool, False after a scanpath's end.

    """

    xy_px: Tensor
    valid: Tensor

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Scanpaths:
        """The same scanpaths on `device`."""
        return Scanpaths(
            self.xy_px.to(device, non_blocking=non_blocking), self.valid.to(device, non_blocking=non_blocking)
        )
