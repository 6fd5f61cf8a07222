"""Search displays: drawings of items, designs in degrees of visual angle, the six classic asymmetries, export."""

from gazekit.stimuli.design import Condition, DrawnDisplay, PlacedItem, SearchDesign
from gazekit.stimuli.drawings import (
    DRAWINGS,
    Arc,
    Drawing,
    Picture,
    ShadedDisc,
    Strokes,
    arc,
    bar,
    broken_cross,
    cross,
    disc,
    drawing_from,
    letter_l,
    letter_t,
    line,
    picture,
)
from gazekit.stimuli.export import FolderCondition, display_svg, export_condition
from gazekit.stimuli.tasks import PUBLISHED_TASKS, AsymmetryTask, asymmetry, published_task

__all__ = [
    "DRAWINGS", "PUBLISHED_TASKS", "Arc", "AsymmetryTask", "Condition", "Drawing", "DrawnDisplay", "FolderCondition",
    "Picture", "PlacedItem", "SearchDesign", "ShadedDisc", "Strokes", "arc", "asymmetry", "bar", "broken_cross",
    "cross", "disc", "display_svg", "drawing_from", "export_condition", "letter_l", "letter_t", "line", "picture",
    "published_task",
]  # fmt: skip
