"""The recipes for COCO-Search18, from a made-up release to a scored checkpoint, by the commands that a user types.

Every display shows two objects of different categories, and people who were told one of them go there: whoever is not
told cannot know where. What a category looks like is to be learned from some displays and found again on others.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image, ImageDraw

from gazekit import load_model
from gazekit.cli import main
from gazekit.datasets import load
from gazekit.datasets.readers.coco_search18 import CATEGORIES
from gazekit.training.recipe import read_recipe
from tests.datasets.test_coco_search18 import ABSENT, TEST, TRAIN, VALID, absent, trial, write_release
from tests.models.test_model_laws import TINY_CLIP

# A made-up copy holds fewer trials than the card counts.
pytestmark = pytest.mark.filterwarnings("ignore::gazekit.datasets.dataset.PartialDataWarning")

WIDTH, HEIGHT = 1680, 1050
SHOWN = ("bottle", "clock", "stop sign", "tv")
COLORS = {"bottle": (40, 140, 60), "clock": (235, 235, 225), "stop sign": (200, 30, 40), "tv": (25, 25, 60)}
# 4 x 3 places of 420 x 350 px, without the two in the middle, where the eye begins.
PLACES = [(column, row) for row in range(3) for column in range(4) if (column, row) not in ((1, 1), (2, 1))]


def draw_object(draw: ImageDraw.ImageDraw, category: str, box: list[int], rng: np.random.Generator) -> None:
    """An object of a category; no two have quite the same color."""
    left, top, right, bottom = box
    color = tuple(int(c) for c in np.clip(np.array(COLORS[category]) + rng.integers(-20, 21, 3), 0, 255))
    if category == "bottle":
        neck = (right - left) // 3
        draw.rectangle([left, top + (bottom - top) // 3, right, bottom], fill=color)
        draw.rectangle([left + neck, top, right - neck, bottom], fill=color)
    elif category == "clock":
        middle = (left + right) // 2, (top + bottom) // 2
        draw.ellipse(box, fill=color, outline=(30, 30, 30), width=12)
        draw.line([middle, (middle[0], top + 25)], fill=(30, 30, 30), width=12)
        draw.line([middle, (right - 45, middle[1])], fill=(30, 30, 30), width=12)
    elif category == "stop sign":
        draw.regular_polygon(((left + right) / 2, (top + bottom) / 2, (right - left) / 2), 8, fill=color)
        draw.rectangle([left + 30, (top + bottom) // 2 - 15, right - 30, (top + bottom) // 2 + 15], fill=(240, 240, 240))
    else:
        draw.rectangle(box, fill=color, outline=(90, 90, 90), width=14)


def write_searches(
    folder: Path, n_images: tuple[int, int, int] = (8, 2, 2), n_subjects: int = 2, seed: int = 0
) -> dict[str, dict[str, list[int]]]:
    """A made-up COCO-Search18; returns image -> category -> box (x, y, width, height) of what is on it.

    Each image was searched for both of the objects on it, and for a category that is not.
    """
    rng = np.random.default_rng(seed)
    files = {name: [] for name in (TRAIN, VALID, TEST, ABSENT)}
    boxes: dict[str, dict[str, list[int]]] = {}
    for number in range(sum(n_images)):
        split = ("train", "valid", "test")[int(np.searchsorted(np.cumsum(n_images), number, side="right"))]
        categories = [SHOWN[i] for i in rng.permutation(len(SHOWN))]
        name, there = number + 1, {}
        gray = int(rng.integers(110, 160))
        picture = Image.new("RGB", (WIDTH, HEIGHT), (gray, gray, gray))
        for category, place in zip(categories[:2], rng.permutation(len(PLACES))[:2], strict=True):
            column, row = PLACES[place]
            side = int(rng.integers(190, 260))
            left = column * 420 + int(rng.integers(10, 410 - side))
            top = row * 350 + int(rng.integers(10, 340 - side))
            draw_object(ImageDraw.Draw(picture), category, [left, top, left + side, top + side], rng)
            there[category] = [left, top, side, side]
        path = folder / "images" / categories[0] / f"{name:012d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path, quality=90)
        boxes[path.stem] = there

        def on(category: str, there: dict[str, list[int]] = there) -> np.ndarray:
            left, top, side, _ = there[category]
            return np.array([left, top]) + side * rng.uniform(0.25, 0.75, 2)

        for subject in range(1, n_subjects + 1):
            start = np.array([WIDTH, HEIGHT]) / 2 + rng.normal(0.0, 8.0, 2)
            for category in categories[:2]:
                other = next(c for c in there if c != category)
                path_px = [start, *([on(other)] if rng.random() < 0.2 else []), on(category), on(category)]
                x, y = (axis.round(1).tolist() for axis in np.transpose(path_px))
                file = {"train": TRAIN, "valid": VALID, "test": TEST}[split]
                more = {"fixOnTarget": True} if split == "test" else {}
                files[file].append(
                    trial(name, subject, category, x, y, [200] * len(x), split, bbox=there[category], **more)
                )
            x, y = (axis.round(1).tolist() for axis in np.transpose([start, *map(on, categories[:2])]))
            if split != "test":
                files[ABSENT].append(absent(name, subject, x, y, [200] * len(x), split, task=categories[2]))
    # People also blink through a trial, look beside the screen, and answer wrongly.
    for x, y, correct in (([], [], 1), ([840.0, -30.0, 400.0], [525.0, 90.0, 300.0], 1), ([840.0], [525.0], 0)):
        first = dict(files[TRAIN][0])
        files[TRAIN].append(first | {"X": x, "Y": y, "T": [150] * len(x), "length": len(x), "correct": correct})

    def replace_all(content: dict[str, list[dict]]) -> None:
        content.clear()
        content.update(files)

    write_release(folder, replace_all, without=(), images={})
    return boxes


SMALL = [
    "--data.size_wh_px", "[256, 160]", "--data.batch_size", "4", "--data.num_workers", "0",
    "--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false",
]  # fmt: skip
SMALL_OF = {
    "codebook": [
        "--config", "codebook_coco_search18", "--model.backbone", "mobilenetv2_035", "--model.weights", "null",
        "--model.width", "16", "--model.hidden", "8",
    ],
    "oat": [
        "--config", "oat_coco_search18", "--model.backbone", "gazekit/small_vgg", "--model.width", "48",
        "--model.hidden", "32", "--model.n_layers", "1", "--model.crop_hw_px", "[32, 32]",
        "--model.validation_paths", "4",
    ],
}  # fmt: skip


def gazekit(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])
