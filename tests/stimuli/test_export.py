"""Displays on disk: written, read back the same, drawn alike as SVG; damaged folders are one clear line."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from gazekit.errors import InputError
from gazekit.stimuli import DRAWINGS, FolderCondition, SearchDesign, bar, display_svg, drawing_from, export_condition
from gazekit.stimuli.tasks import PUBLISHED_TASKS, published_task

SMALL = {"set_sizes": (1, 3), "trials": 2, "field_dva": 4.0, "grid": 2, "item_dva": 1.0}


@pytest.fixture
def design():
    return SearchDesign("tilted", bar(20), [bar(0)], **SMALL)


@pytest.fixture
def folder(design, tmp_path):
    export_condition(design, tmp_path)
    return tmp_path / "tilted"


def test_written_and_read_back_the_same(design, folder):
    read = FolderCondition(folder)
    assert (read.name, read.set_sizes) == ("tilted", (1, 3))
    for set_size in design.set_sizes:
        drawn, again = design.displays(set_size), read.displays(set_size)
        for part in ("image", "target", "target_mask", "cells"):
            assert torch.equal(getattr(drawn, part), getattr(again, part)), part
        assert (again.background, again.max_fixations) == (drawn.background, drawn.max_fixations)


def test_without_a_table_the_files_share_out_over_set_sizes(design, folder):
    (folder / "displays.csv").unlink()
    with pytest.raises(InputError, match="say how many items"):
        FolderCondition(folder)
    read = FolderCondition(folder, set_sizes=(1, 3))
    assert torch.equal(read.displays(3).image, design.displays(3).image)
    with pytest.raises(InputError, match="4 displays do not share out over 3"):
        FolderCondition(folder, set_sizes=(1, 2, 3))


def test_target_absent_displays_are_for_people(design, tmp_path):
    table = export_condition(design, tmp_path, absent=True)
    assert len(table) == 8
    assert table["target_present"].sum() == 4
    assert table.loc[~table["target_present"], "target_left_px"].isna().all()
    assert np.asarray(Image.open(tmp_path / "tilted" / "gt" / "2.png")).max() == 0
    read = FolderCondition(tmp_path / "tilted")
    assert len(read.displays(3)) == 2


def test_places_in_degrees(design, tmp_path):
    table = export_condition(design, tmp_path)
    row = table.iloc[-1]
    left, right = row["target_left_px"], row["target_right_px"]
    assert row["target_x_dva"] == pytest.approx(((left + right) / 2 - 60) / 30)
    assert pd.read_csv(tmp_path / "tilted" / "displays.csv").shape == table.shape


def coverage(svg: str) -> int:
    return sum(1 for _ in ET.fromstring(svg).iter())


@pytest.mark.parametrize("name", PUBLISHED_TASKS)
def test_svg_is_well_formed_and_has_every_item(name):
    for _, design in published_task(name).conditions:
        display = design.draw(design.set_sizes[-1], 0)
        root = ET.fromstring(display_svg(design, display))
        boxes = [e for e in root if e.tag.endswith("svg")]
        assert len(boxes) == len(display.items)
        for box, item in zip(boxes, display.items, strict=True):
            assert (float(box.get("x")), float(box.get("y"))) == item.box_px[:2]
            assert len(list(box.iter())) > 1


def test_svg_rectangles_are_the_pixels():
    """Upright strokes, which need no renderer: the rectangles are filled where the pixels are."""
    for name in ("cross", "broken_cross", "letter_l", "letter_t"):
        drawing = DRAWINGS[name]()
        root = ET.fromstring(f"<svg>{drawing.svg(177, 255, 1.0)}</svg>")
        filled = np.zeros((177, 177), bool)
        for rect in root:
            x, y, w, h = (float(rect.get(k)) for k in ("x", "y", "width", "height"))
            filled[round(y) : round(y + h), round(x) : round(x + w)] = True
            assert rect.get("fill") == "#000000"
        np.testing.assert_array_equal(filled, drawing.pixels(177, 255)[..., 0] == 0)


def test_drawings_of_a_design_file(tmp_path):
    assert len(drawing_from("cross")) == 1
    assert len(drawing_from({"letter_t": {"versions": "all"}})) == 4
    assert [d.degrees for d in drawing_from([{"bar": {"degrees": 10}}, {"bar": {"degrees": 30}}])] == [10, 30]
    own = np.zeros((8, 8, 4), np.uint8)
    own[2:6, 2:6] = (200, 30, 30, 255)
    Image.fromarray(own).save(tmp_path / "own.png")
    (picture,) = drawing_from({"picture": {"path": str(tmp_path / "own.png")}})
    pixels = picture.pixels(8, 128)
    assert pixels[0, 0].tolist() == [128, 128, 128]
    assert pixels[4, 4].tolist() == [200, 30, 30]
    assert "data:image/png" in picture.svg(8, 128, 1.0)
    for spec, says in (
        ("bra", "did you mean 'bar'"),
        ({"bar": {"angle": 3}}, "does not take these arguments"),
        ({"bar": {}, "cross": {}}, "one name with arguments"),
        ({"cross": {"versions": "some"}}, "expected 'all'"),
        ({"picture": {"path": str(tmp_path / "none.png")}}, None),
    ):
        if says is None:
            with pytest.raises(InputError, match="cannot be read"):
                drawing_from(spec)[0].pixels(8, 128)
        else:
            with pytest.raises(InputError, match=says):
                drawing_from(spec)


def damage_missing_target(folder: Path):
    (folder / "target" / "1.png").unlink()


def damage_unreadable(folder: Path):
    (folder / "stimuli" / "1.png").write_bytes(b"no picture")


def damage_size(folder: Path):
    Image.new("RGB", (50, 50)).save(folder / "stimuli" / "2.png")


def damage_no_target(folder: Path):
    Image.new("L", (120, 120)).save(folder / "gt" / "1.png")


def damage_large_target(folder: Path):
    for i in (1, 2):
        Image.new("RGB", (500, 500)).save(folder / "target" / f"{i}.png")


def damage_mask_size(folder: Path):
    np.save(folder.parent / "gt_mask.npy", np.ones((4, 60, 60), np.uint8))


def damage_mask_missing(folder: Path):
    (folder.parent / "gt_mask.npy").unlink()


def damage_mask_damaged(folder: Path):
    (folder.parent / "gt_mask.npy").write_bytes(b"\x93NUMPY")


def damage_display_missing(folder: Path):
    (folder / "stimuli" / "1.png").unlink()


def damage_all_gone(folder: Path):
    for file in (folder / "stimuli").iterdir():
        file.unlink()


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (damage_missing_target, "no picture for display 1"),
        (damage_unreadable, "cannot be read as a picture"),
        (damage_size, "50x50 px, but 1.png is 120x120 px"),
        (damage_no_target, "has no target"),
        (damage_large_target, "larger than the display"),
        (damage_mask_size, "cells is 60x60 px, the display 120x120 px"),
        (damage_mask_missing, "no gt_mask.npy"),
        (damage_mask_damaged, "not a .cells, H, W. array"),
        (damage_display_missing, "display 1 of displays.csv is missing"),
        (damage_all_gone, "no displays"),
    ],
)
def test_a_damaged_folder_is_one_clear_line(folder, damage, says):
    damage(folder)
    with pytest.raises(InputError, match=says) as error:
        FolderCondition(folder).displays(1)
    assert "\n" not in str(error.value)
