"""The recipes for COCO-Search18, from a made-up release to a scored checkpoint, by the commands that a user types.

Every display shows two objects of different categories, and people who were told one of them go there: whoever is not
told cannot know where. What a category looks like is to be learned from some displays and found again on others.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image, ImageDraw

from gazekit import load_model
from gazekit.batch import TrialBatch
from gazekit.cli import main
from gazekit.datasets.datamodule import SearchDataModule
from gazekit.datasets.readers.coco_search18 import CATEGORIES
from gazekit.training.recipe import read_recipe
from tests.datasets.test_coco_search18 import ABSENT, ABSENT_TEST, TEST, TRAIN, VALID, absent, trial, write_release
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
        draw.rectangle(
            [left + 30, (top + bottom) // 2 - 15, right - 30, (top + bottom) // 2 + 15], fill=(240, 240, 240)
        )
    else:
        draw.rectangle(box, fill=color, outline=(90, 90, 90), width=14)


def write_searches(
    folder: Path, n_images: tuple[int, int, int] = (8, 2, 2), n_subjects: int = 2, seed: int = 0
) -> dict[str, dict[str, list[int]]]:
    """A made-up COCO-Search18; returns image -> category -> box (x, y, width, height) of what is on it.

    Each image was searched for both of the objects on it, and for a category that is not.
    """
    rng = np.random.default_rng(seed)
    files = {name: [] for name in (TRAIN, VALID, TEST, ABSENT, ABSENT_TEST)}
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
            file = ABSENT_TEST if split == "test" else ABSENT
            files[file].append(absent(name, subject, x, y, [200] * len(x), split, task=categories[2]))
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


def fit(folder: Path, release: Path, *words: object, epochs: int = 1) -> Result:
    return gazekit(
        "fit", *words, *SMALL, "--data.root", release, "--trainer.max_epochs", epochs,
        "--trainer.default_root_dir", folder,
    )  # fmt: skip


def done(result: Result) -> Result:
    assert result.exit_code == 0, result.output + str(result.exception)
    return result


def refused(result: Result) -> str:
    """The one line that a command ends with."""
    assert result.exit_code == 1, result.output
    said = [line for line in result.stderr.splitlines() if line.startswith("gazekit: ")]
    assert len(said) == 1, result.output
    assert "Traceback" not in result.stderr
    return said[0]


RECIPES = ("codebook_coco_search18", "oat_coco_search18")
WORD = ["--model.goal", "word", "--model.clip", json.dumps(TINY_CLIP), "--model.clip_weights", "null"]
CELLS = ["--data.proposals", "cells:8x5", "--model.proposals", "cells:8x5"]


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("coco_search18")
    write_searches(folder)
    return folder


def batches(release: Path, split: str = "test", size_wh_px: tuple[int, int] = (256, 160)) -> Iterator[TrialBatch]:
    """Target-present trials, one display at a time."""
    data = SearchDataModule(
        dataset="coco_search18", root=str(release), size_wh_px=size_wh_px, options={"condition": "present"}
    )
    return data.stimulus_batches(split)


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_recipes_know_the_categories_of_the_data(recipe):
    content = read_recipe(recipe)
    assert content["model"]["init_args"]["categories"] == list(CATEGORIES)
    options = content["data"]["init_args"]["options"]
    assert options.items() >= {"condition": "present", "correct_only": True, "cut_at_target": True}.items()


@pytest.mark.parametrize(
    ("name", "words", "protocol"),
    [
        ("codebook", [], "irl2020"),
        pytest.param("codebook", [*WORD, "--data.seed", 3], "hat2024", marks=pytest.mark.slow),
        pytest.param("oat", [], "hat2024", marks=pytest.mark.slow),
    ],
    ids=["codebook, category", "codebook, word", "oat, category"],
)
def test_from_a_release_to_scores(release, tmp_path, name, words, protocol):
    done(fit(tmp_path / "run", release, *SMALL_OF[name], *words))
    checkpoint = tmp_path / "run" / f"{name}.ckpt"
    done(
        gazekit(
            "evaluate", protocol, "--model", checkpoint, "--data-root", release, "--out", tmp_path / "scores",
            "--no-report",
        )
    )  # fmt: skip
    scores = pd.read_parquet(tmp_path / "scores" / "scores.parquet").query("model == @name")
    # Two displays of test, two categories on each, two people.
    assert len(scores) == 8
    assert scores["target"].nunique() >= 2
    assert scores["tfp_auc"].between(0, 7).all()
    assert scores["ss"].notna().any()
    if protocol == "hat2024":
        assert scores["cig"].notna().all()
    assert not scores["seen_in_training"].any()
    # The same display for another category.
    model, batch = load_model(checkpoint), next(batches(release))
    one, other = sorted(set(batch.search.target))
    exchanged = tuple({one: other, other: one}[name] for name in batch.search.target)
    paths = [
        model.sample(
            replace(batch, search=replace(batch.search, target=target)), 20, 5, torch.Generator().manual_seed(0)
        )
        for target in (batch.search.target, exchanged, batch.search.target)
    ]
    assert torch.equal(paths[0].xy_px, paths[2].xy_px)
    assert not torch.equal(paths[0].xy_px, paths[1].xy_px)
    # Nor is anything told of where it is: the box of the other one changes nothing.
    boxes = batch.search.box_px.flip(0)
    assert not torch.equal(boxes, batch.search.box_px)
    moved = replace(batch, search=replace(batch.search, box_px=boxes))
    assert torch.equal(model.sample(moved, 20, 5, torch.Generator().manual_seed(0)).xy_px, paths[0].xy_px)
    if "word" not in words:
        picture = next(release.glob("images/*/*.jpg"))
        message = refused(gazekit("look", picture, "--model", checkpoint, "--target", "stop sing"))
        assert "named 'stop sing'; did you mean 'stop sign'" in message


@pytest.mark.slow
@pytest.mark.parametrize(("name", "words"), [("codebook", []), ("oat", CELLS)])
def test_absent_targets(release, tmp_path, name, words):
    """A category can be searched for in vain."""
    both = ["--data.options.condition", "both"]
    done(fit(tmp_path / "run", release, *SMALL_OF[name], *words, *both))
    checkpoint = tmp_path / "run" / f"{name}.ckpt"
    done(
        gazekit(
            "evaluate", "hat2024_absent", "--model", checkpoint, "--data-root", release, "--out", tmp_path / "scores",
            "--no-report",
        )
    )  # fmt: skip
    scores = pd.read_parquet(tmp_path / "scores" / "scores.parquet").query("model == @name")
    assert len(scores) == 4
    assert scores["cig"].notna().all()


@pytest.mark.parametrize(
    ("name", "words", "message"),
    [
        ("codebook", ["--model.categories", "[bottle, mug]"], r"no category named '.*'; it was built for 2: bott"),
        ("oat", ["--model.categories", "[bottle, mug]"], r"no category that oat was built for named '.*: bottle, mug"),
        ("codebook", ["--model.goal", "image"], r"searches for pictures, and there is none of target '"),
        (
            "oat", ["--model.categories", "[]", "--data.options.condition", "both"],
            r"neither the box of their target nor a picture of it, as where it is absent",
        ),
        ("oat", ["--data.proposals", "cells:8x5"], r"proposals is 'superpixels:60' and data.proposals is 'cells:8x5'"),
        ("codebook", ["--data.options.condition", "abset"], r"did you mean 'absent'"),
        ("codebook", ["--data.test_split", "tset"], r"no split named 'tset'"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_said_in_one_line(release, tmp_path, name, words, message):
    assert re.search(message, refused(fit(tmp_path, release, *SMALL_OF[name], *words)))


def test_an_object_may_be_told_by_its_own_looks(release, tmp_path):
    """As published, where the target is there: its own crop in the very scene."""
    done(fit(tmp_path, release, *SMALL_OF["oat"], "--model.categories", "[]", "--model.target_flag", "true"))
    model, batch = load_model(tmp_path / "oat.ckpt"), next(batches(release))
    before = model.conditional_log_density(batch)[:, 0]
    moved = replace(batch, search=replace(batch.search, box_px=batch.search.box_px.flip(0)))
    assert (model.conditional_log_density(moved)[:, 0] - before).abs().max() > 1e-4


def test_pictures_of_absent_trials_need_not_be_here(tmp_path):
    """They are another download; a recipe for present targets does without."""
    release = tmp_path / "release"
    write_searches(release, (4, 1, 0))
    trials = json.loads((release / ABSENT).read_text(encoding="utf-8"))
    trials.append(absent(99, 1, [840.0, 300.0], [525.0, 300.0], [200, 200], "train", task="tv"))
    (release / ABSENT).write_text(json.dumps(trials), encoding="utf-8")
    done(fit(tmp_path / "run", release, *SMALL_OF["codebook"]))
    both = ["--data.options.condition", "both"]
    message = refused(fit(tmp_path / "both", release, *SMALL_OF["codebook"], *both))
    assert "no image of stimulus '000000000099' in this copy" in message


# What is learned

LEARNER = [
    "--model.backbone", "gazekit/small_vgg", "--model.weights", "pretrained", "--model.taps", "[8, 16]",
    "--model.width", 32, "--model.hidden", 16, "--model.dropout", 0.1, "--trainer.limit_val_batches", 0,
]  # fmt: skip


@torch.no_grad()
def shares_of_objects(checkpoint: Path, release: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Density before fixation 1 on what was searched for, and on the other object, of trials on held-out displays."""
    model, on_target, on_other = load_model(checkpoint), [], []
    for batch in batches(release):
        density = model.conditional_log_density(batch)[:, 1].exp()
        box_of = dict(zip(batch.search.target, batch.search.box_px.round().long().tolist(), strict=True))
        for trial_map, target in zip(density, batch.search.target, strict=True):
            share = {
                name: trial_map[top:bottom, left:right].sum() for name, (left, top, right, bottom) in box_of.items()
            }
            on_target.append(share.pop(target))
            on_other.append(share.popitem()[1])
    return torch.stack(on_target), torch.stack(on_other)


@pytest.mark.parametrize(
    "words",
    [[], pytest.param(WORD, marks=pytest.mark.slow), ["--model.goal", "none"]],
    ids=["category", "word", "none"],
)
def test_what_a_category_looks_like_is_learned(tmp_path, words):
    """On displays that were not trained on, a goal leads to its own object; who is not told looks at both alike."""
    release = tmp_path / "release"
    write_searches(release, (40, 1, 12))
    done(fit(tmp_path, release, *SMALL_OF["codebook"], *LEARNER, *words, epochs=16))
    on_target, on_other = shares_of_objects(tmp_path / "codebook.ckpt", release)
    assert len(on_target) == 48
    # Both objects together get much of the density, so that there is something to compare.
    assert (on_target + on_other).mean() > 0.5
    if "none" in words:
        # Each object is target and distractor as often, and the maps are the same.
        assert float(on_target.mean()) == pytest.approx(float(on_other.mean()), rel=1e-4)
        return
    assert on_target.mean() > 3 * on_other.mean()
    # Not a few displays only.
    assert (on_target > on_other).float().mean() > 0.9


@pytest.mark.slow
def test_a_model_of_objects_learns_it_too(tmp_path):
    release = tmp_path / "release"
    write_searches(release, (48, 1, 12))
    words = [
        "--model.lr",
        "2e-3",
        "--model.dropout",
        0.1,
        "--trainer.callbacks",
        "null",
        "--trainer.limit_val_batches",
        0,
    ]
    done(fit(tmp_path, release, *SMALL_OF["oat"], *words, epochs=28))
    on_target, on_other = shares_of_objects(tmp_path / "oat.ckpt", release)
    # Of 48 trials on 12 displays, each display with two goals: chance is a half of them, and equal shares.
    assert on_target.mean() > 2.5 * on_other.mean()
    assert (on_target > on_other).float().mean() > 0.7
