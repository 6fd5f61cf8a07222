"""Asymmetries: two conditions that differ in what is target and what is distractor; the six classic ones.

Geometry, set sizes and counts: Gupta, Zhang, Wu, Wolfe & Kreiman (2021), Visual Search Asymmetry: Deep Nets and Humans
Share Similar Inherent Biases, NeurIPS, and their code; the experiments themselves are older.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from gazekit.errors import InputError
from gazekit.registry import unknown_name
from gazekit.stimuli.design import Condition, SearchDesign
from gazekit.stimuli.drawings import Drawing, arc, bar, broken_cross, cross, disc, letter_l, letter_t, line


@dataclass(frozen=True)
class AsymmetryTask:
    """Two conditions, the one that people find easy and the one that they find hard.

    People (or a prediction, if there are no data yet) say which is which, never a model.

    Args:
        name: Of the task.
        easy: The condition with the flatter search slope.
        hard: The other.

    Raises:
        InputError: Both have the same name, or other set sizes.

    """

    name: str
    easy: Condition
    hard: Condition

    def __post_init__(self) -> None:
        if self.easy.name == self.hard.name:
            raise InputError(f"task {self.name!r}: both conditions are called {self.easy.name!r}; give them two names")
        if self.easy.set_sizes != self.hard.set_sizes:
            raise InputError(
                f"task {self.name!r}: conditions differ in set sizes, {list(self.easy.set_sizes)} and "
                f"{list(self.hard.set_sizes)}"
            )

    @property
    def conditions(self) -> tuple[tuple[str, Condition], tuple[str, Condition]]:
        """("easy", condition) and ("hard", condition)."""
        return ("easy", self.easy), ("hard", self.hard)

    def but(self, **changes: Any) -> AsymmetryTask:
        """The same task with some values of both designs changed, such as ``contrast=0.5``.

        Raises:
            InputError: A condition was not drawn here.

        """
        if not isinstance(self.easy, SearchDesign) or not isinstance(self.hard, SearchDesign):
            raise InputError(f"task {self.name!r}: displays read from a folder cannot be changed")
        return replace(self, easy=self.easy.but(**changes), hard=self.hard.but(**changes))


def asymmetry(name: str, easy: SearchDesign, hard_name: str) -> AsymmetryTask:
    """The task of a design and its swap: `easy` as given, the hard condition with target and distractor swapped."""
    return AsymmetryTask(name, easy, easy.swapped(hard_name))


# Letters and crosses: the published jitter is one pixel less than the room in the cell.
_LARGE: dict[str, Any] = {
    "set_sizes": (3, 6, 9), "trials": 36, "field_dva": 20.5, "grid": 3, "item_dva": 5.9, "jitter_dva": 0.9,
}  # fmt: skip
_TURNS = (-45.0, -90.0, -135.0, 180.0)


def _curvature() -> AsymmetryTask:
    arcs, lines = tuple(arc(turn) for turn in _TURNS), tuple(line(turn) for turn in _TURNS)
    easy = SearchDesign(
        "curve_in_lines", arcs, [lines], (8, 16, 32), 30, 11.3, 6, 1.6, background=0, versions="in_turn"
    )
    return asymmetry("curvature", easy, "line_in_curves")


def _lighting() -> AsymmetryTask:
    geometry: dict[str, Any] = {"field_dva": 6.6, "grid": 4, "item_dva": 1.04, "background": 27}
    easy = SearchDesign("top_down", disc("top"), [disc("bottom")], (1, 6, 12), 30, **geometry)
    hard = SearchDesign("left_right", disc("left"), [disc("right")], (1, 6, 12), 30, **geometry)
    return AsymmetryTask("lighting", easy, hard)


def _four_versions(task: str, easy: tuple[str, Drawing], hard: tuple[str, Drawing]) -> AsymmetryTask:
    design = SearchDesign(easy[0], easy[1].versions(), [hard[1].versions()], **_LARGE)
    return asymmetry(task, design, hard[0])


def _orientation_homogeneous() -> AsymmetryTask:
    return asymmetry("orientation_homogeneous", SearchDesign("homo_t20", bar(-20), [bar(0)]), "homo_t0")


def _orientation_heterogeneous() -> AsymmetryTask:
    others = [bar(angle) for angle in (-80, -60, -40, 20, 40, 60, 80)]
    easy = SearchDesign("hetero_t0", bar(0), [*others, bar(-20)])
    hard = SearchDesign("hetero_t20", bar(-20), [*others, bar(0)])
    return AsymmetryTask("orientation_heterogeneous", easy, hard)


_TASKS = {
    "curvature": _curvature,
    "lighting": _lighting,
    "intersection": lambda: _four_versions("intersection", ("non_cross", broken_cross()), ("cross", cross())),
    "letters": lambda: _four_versions("letters", ("Ts", letter_t()), ("Ls", letter_l())),
    "orientation_homogeneous": _orientation_homogeneous,
    "orientation_heterogeneous": _orientation_heterogeneous,
}
PUBLISHED_TASKS = tuple(_TASKS)


def published_task(name: str, compat: bool = False, **changes: Any) -> AsymmetryTask:
    """One of the six tasks with its published geometry.

    Args:
        name: In :data:`PUBLISHED_TASKS`.
        compat: Also what is a matter of files or a defect: displays through JPEG, and in the lighting task a target
            area that is not the target's cell.
        changes: Values of both designs to change, such as ``trials=5``; see :class:`SearchDesign`.

    Raises:
        InputError: No such task.

    """
    if name not in _TASKS:
        raise unknown_name("published task", name, list(_TASKS))
    if compat:
        changes = {"jpeg_quality": 95} | ({"target_area": "jittered"} if name == "lighting" else {}) | changes
    return _TASKS[name]().but(**changes)
