"""Search displays: published geometry, what stands where, seeds, every parameter, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gazekit.displays import SearchDisplays
from gazekit.errors import InputError
from gazekit.metrics.asymmetry import HUMAN_ASYMMETRY
from gazekit.stimuli import (
    PUBLISHED_TASKS,
    AsymmetryTask,
    SearchDesign,
    arc,
    asymmetry,
    bar,
    broken_cross,
    cross,
    disc,
    letter_l,
    letter_t,
    line,
    published_task,
)

# task: side px, cells per side, cell px, item px, jitter px, set sizes, trials, background, limit of fixations
GEOMETRY = {
    "curvature": (339, 6, 56, 48, 8, (8, 16, 32), 30, 0, 37),
    "lighting": (198, 4, 49, 31, 18, (1, 6, 12), 30, 27, 17),
    "intersection": (615, 3, 205, 177, 27, (3, 6, 9), 36, 255, 10),
    "letters": (615, 3, 205, 177, 27, (3, 6, 9), 36, 255, 10),
    "orientation_homogeneous": (339, 4, 84, 69, 15, (1, 4, 8, 12), 30, 255, 17),
    "orientation_heterogeneous": (339, 4, 84, 69, 15, (1, 4, 8, 12), 30, 255, 17),
}
SMALL = {"set_sizes": (1, 3), "trials": 4, "field_dva": 4.0, "grid": 2, "item_dva": 1.0}


def grey(drawing, side, background=255):
    pixels = drawing.pixels(side, background)
    assert (pixels == pixels[..., :1]).all()
    return pixels[..., 0].astype(int)


@pytest.mark.parametrize("name", PUBLISHED_TASKS)
def test_published_geometry(name):
    side, n, cell, item, jitter, sizes, trials, background, limit = GEOMETRY[name]
    for _, design in published_task(name).conditions:
        assert design.size_wh_px == (side, side)
        assert (design.grid_wh, design.cell_wh_px) == ((n, n), (cell, cell))
        assert (design.item_px, design.jitter_wh_px) == (item, (jitter, jitter))
        assert (design.set_sizes, design.trials, design.background) == (sizes, trials, background)
        displays = design.but(trials=1).displays(sizes[0])
        assert displays.max_fixations == limit
        assert displays.target.shape[2:] == (item, item)
        assert len(displays.cells) == n * n
        assert displays.window_px == 10


def test_the_twelve_conditions_are_those_that_people_were_measured_in():
    designs = [published_task(name) for name in PUBLISHED_TASKS]
    assert [task.name for task in designs] == [human.task for human in HUMAN_ASYMMETRY]
    for task, human in zip(designs, HUMAN_ASYMMETRY, strict=True):
        for drawn, measured in ((task.easy, human.easy), (task.hard, human.hard)):
            assert drawn.name == measured.name
            assert drawn.set_sizes == measured.set_sizes
    assert sum(len(c.set_sizes) * c.trials for task in designs for _, c in task.conditions) == 1272


def test_published_pixels_of_items():
    upright = grey(bar(0), 69)
    expected = np.full((69, 69), 255)
    expected[4:64, 30:39] = 0
    np.testing.assert_array_equal(upright, expected)
    flat = grey(line(0), 48, 0)
    assert set(zip(*np.nonzero(flat), strict=True)) == {(r, c) for r in range(21, 27) for c in range(6, 42)}
    crossed = grey(cross(), 177) == 0
    inner = np.zeros((165, 165), bool)
    inner[:, 74:90] = inner[49:66] = True
    np.testing.assert_array_equal(crossed, np.pad(inner, 6))
    broken = np.zeros((165, 165), bool)
    broken[:, 74:90] = broken[49:66, :82] = broken[99:115, 82:] = True
    np.testing.assert_array_equal(grey(broken_cross(), 177) == 0, np.pad(broken, 6))
    ell = np.zeros((165, 165), bool)
    ell[:, :16] = ell[148:] = True
    np.testing.assert_array_equal(grey(letter_l(), 177) == 0, np.pad(ell, 6))
    tee = np.zeros((165, 165), bool)
    tee[:, 74:90] = tee[:16] = True
    np.testing.assert_array_equal(grey(letter_t(), 177) == 0, np.pad(tee, 6))


def test_disc_is_a_staircase_in_a_strict_circle():
    down = grey(disc("bottom"), 31, 27)
    for row in range(31):
        for column in range(31):
            inside = (row - 15) ** 2 + (column - 15) ** 2 < 15**2
            assert down[row, column] == (17 * (row // 2) if inside else 27)
    np.testing.assert_array_equal(grey(disc("top"), 31, 27), down[::-1])
    np.testing.assert_array_equal(grey(disc("right"), 31, 27), down.T)
    np.testing.assert_array_equal(grey(disc("left"), 31, 27), down.T[:, ::-1])


def test_arc_is_where_its_circle_is():
    ink = grey(arc(0), 48, 0) > 0
    rows, columns = np.nonzero(ink)
    distance = np.hypot(columns - 24.0, rows + 2.0)
    assert (np.abs(distance - 30.0) <= 3.4 + 1e-9).all()
    # OpenCV draws 302.
    assert ink.sum() == pytest.approx(302, abs=19)
    # Its middle lies under the circle's center, its ends at 52 and 127 degrees.
    assert ink[28, 24]
    assert columns.max() == pytest.approx(24 + 30 * np.cos(np.radians(52)) + 3.4, abs=1)
    assert columns.min() == pytest.approx(24 + 30 * np.cos(np.radians(127)) - 3.4, abs=1)


def test_turning_is_counterclockwise_and_keeps_the_amount_of_ink():
    right_leaning = 255 - grey(bar(-20), 69)
    rows, columns = np.nonzero(right_leaning > 128)
    # Leaning to the right: higher rows of the bar lie further to the right.
    assert np.corrcoef(rows, columns)[0, 1] < -0.9
    slope = np.polyfit(rows, columns, 1)[0]
    assert np.degrees(np.arctan(-slope)) == pytest.approx(20.0, abs=1.0)
    assert right_leaning.sum() / 255 == pytest.approx(60 * 9, rel=0.01)
    np.testing.assert_array_equal(grey(line(180), 48, 0), _turned_180())


def _turned_180():
    """About pixel (24, 24): one row and column further than about the middle of the box."""
    flat = grey(line(0), 48, 0)
    turned = np.zeros_like(flat)
    turned[1:, 1:] = flat[1:, 1:][::-1, ::-1]
    return turned


@pytest.mark.parametrize("name", PUBLISHED_TASKS)
def test_items_stand_in_cells_of_their_own(name):
    for _, design in published_task(name).conditions:
        for set_size in design.set_sizes:
            display = design.draw(set_size, 3)
            assert len(display.items) == set_size
            assert len({item.cell for item in display.items}) == set_size
            assert sum(item.is_target for item in display.items) == 1
            covered = np.zeros(display.image.shape[:2], bool)
            for item in display.items:
                left, top, right, bottom = item.box_px
                cell = design.cell_box_px(item.cell)
                assert cell[0] <= left < right <= cell[2]
                assert cell[1] <= top < bottom <= cell[3]
                covered[top:bottom, left:right] = True
                if item.is_target:
                    assert display.target_box_px == item.box_px
                    assert display.target_area_px == cell
                    np.testing.assert_array_equal(display.image[top:bottom, left:right], display.target)
            # Lossless: what is not an item is exactly the ground.
            assert (display.image[~covered] == design.background).all()


def test_jitter_target_cells_and_versions_are_uniform():
    design = published_task("letters").easy.but(trials=300)
    drawn = [design.draw(6, i) for i in range(300)]
    offsets, versions, targets = [], [], []
    for display in drawn:
        for item in display.items:
            cell = design.cell_box_px(item.cell)
            offsets.append(item.box_px[0] - cell[0])
            if item.is_target:
                targets.append(item.cell)
                versions.append(item.drawing.mirror)
    counts = np.bincount(offsets, minlength=27)
    assert len(counts) == 27
    # 1800 draws over 27: 67 each, SD 8.
    assert counts.min() > 30
    assert counts.max() < 105
    assert len(np.bincount(targets)) == 9
    # 300 over 9 and over 4: SDs 5.4 and 7.5.
    assert np.bincount(targets).min() > 12
    assert min(versions.count(v) for v in set(versions)) > 40


def test_curved_and_straight_items_take_their_four_orientations_in_turn():
    for _, design in published_task("curvature").conditions:
        degrees = [item.drawing.degrees for item in design.draw(8, 1).items]
        assert degrees == [-45.0, -90.0, -135.0, 180.0] * 2


def test_heterogeneous_distractors_are_as_different_as_they_can_be():
    for _, design in published_task("orientation_heterogeneous").conditions:
        target = design.target[0].degrees
        for set_size in (4, 8, 12):
            angles = [item.drawing.degrees for item in design.draw(set_size, 0).items if not item.is_target]
            assert target not in angles
            counts = np.unique(angles, return_counts=True)[1]
            assert len(angles) == set_size - 1
            assert counts.max() <= (1 if set_size <= 8 else 2)
            assert set(angles) <= {-80, -60, -40, 20, 40, 60, 80, -20, 0} - {target}


def test_a_display_depends_on_seed_condition_set_size_and_trial_alone():
    design = SearchDesign("one", bar(20), [bar(0)], **SMALL)
    again = SearchDesign("one", bar(20), [bar(0)], **SMALL | {"trials": 9, "set_sizes": (3,)})
    np.testing.assert_array_equal(design.draw(3, 2).image, again.draw(3, 2).image)
    for other in (design.but(seed=1), design.but(name="two")):
        assert (other.draw(3, 2).image != design.draw(3, 2).image).any()
    assert (design.draw(3, 1).image != design.draw(3, 2).image).any()
    assert design.fingerprint() == design.but().fingerprint() != design.but(contrast=0.5).fingerprint()


def test_displays_as_a_searcher_takes_them():
    design = SearchDesign("one", bar(20), [bar(0)], **SMALL)
    displays = design.displays(3)
    assert isinstance(displays, SearchDisplays)
    assert displays.image.shape == (4, 3, 120, 120)
    assert displays.cells.flatten(1).sum(1).tolist() == [3600] * 4
    for i in range(4):
        drawn = design.draw(3, i)
        assert torch.equal(displays.image[i], torch.from_numpy(drawn.image).permute(2, 0, 1))
        cell = next(item.cell for item in drawn.items if item.is_target)
        assert torch.equal(displays.target_mask[i], displays.cells[cell])


def test_contrast_background_density_and_placement():
    design = SearchDesign("one", bar(20), [bar(0)], **SMALL | {"background": 100})
    dark, faint = design.draw(3, 0).image, design.but(contrast=0.25).draw(3, 0).image
    assert dark.min() == 0
    assert faint.min() == 75
    np.testing.assert_allclose(faint.astype(int) - 100, (dark.astype(int) - 100) * 0.25, atol=0.5)
    assert design.density_per_dva2 == pytest.approx(4 / 16)
    assert design.but(grid=3).density_per_dva2 == pytest.approx(9 / 16)
    wide = SearchDesign("wide", bar(20), [bar(0)], (5,), 1, (8.0, 4.0), (4, 2), 1.0)
    assert wide.size_wh_px == (240, 120)
    assert wide.displays(5).image.shape == (1, 3, 120, 240)
    # Next to each other: among 36 cells, 9 items span a few columns; scattered they span nearly all.
    far = published_task("curvature").easy.but(set_sizes=(9,))
    spans = {}
    for placement in ("scattered", "compact"):
        drawn = [far.but(placement=placement).draw(9, i).items for i in range(40)]
        spans[placement] = np.mean([np.ptp([item.cell % 6 for item in items]) for items in drawn])
    assert spans["compact"] < 3.2 < 4.0 < spans["scattered"]


def test_target_absent_displays_have_no_target():
    design = SearchDesign("one", bar(20), [bar(0)], **SMALL)
    absent = design.draw(3, 0, present=False)
    assert absent.target_box_px is None
    assert absent.target_area_px is None
    assert not any(item.is_target for item in absent.items)
    assert [item.box_px for item in absent.items] == [item.box_px for item in design.draw(3, 0).items]


def test_published_quirks_on_request():
    lighting = published_task("lighting", compat=True)
    display = lighting.easy.draw(6, 0)
    box = display.target_box_px
    assert display.target_area_px[:2] == box[:2]
    assert display.target_area_px[2] == min(box[0] + 49, 198)
    ground = display.image[np.abs(display.image.astype(int) - 27).max(-1) < 8]
    assert 27 in np.unique(ground)
    assert len(np.unique(ground)) > 1  # JPEG
    assert published_task("lighting").easy.jpeg_quality is None


def test_five_lines_make_an_asymmetry():
    easy = SearchDesign("thick_among_thin", bar(width=0.3), [bar(width=0.1)], field_dva=8.0, item_dva=1.5)
    task = asymmetry("thickness", easy, "thin_among_thick")
    assert isinstance(task, AsymmetryTask)
    assert task.hard.target == task.easy.distractors[0]
    assert task.hard.distractors == (task.easy.target,)
    assert task.but(contrast=0.5).hard.contrast == 0.5


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"set_sizes": (1, 5)}, "5 items do not fit the grid of 2x2 cells"),
        ({"set_sizes": (0,)}, "0 items do not fit"),
        ({"set_sizes": (2, 2)}, "different whole numbers"),
        ({"item_dva": 5.0}, "a target must have a pixel and fit the display"),
        ({"item_dva": 2.5}, "an item of 75 px does not fit a cell of 60x60 px"),
        ({"item_dva": 0.0}, "must have a pixel"),
        ({"jitter_dva": 1.5}, "items of 30 px would leave their cells of 60 px"),
        ({"background": 300}, "0 to 255"),
        ({"contrast": -1.0}, "0 or more"),
        ({"versions": "odd"}, "versions is 'odd'"),
        ({"placement": "odd"}, "placement is 'odd'"),
        ({"jpeg_quality": 0}, "jpeg_quality is 0"),
        ({"distractors": []}, "one or more items"),
        ({"target": "bar"}, "an item is a drawing"),
        ({"grid": 0}, "must be positive"),
        ({"colour": 1}, "colour is unknown"),
    ],
)
def test_what_does_not_fit_is_one_clear_line(changes, says):
    design = SearchDesign("one", bar(20), [bar(0)], **SMALL)
    with pytest.raises(InputError, match=says.replace("(", r"\(")) as error:
        design.but(**changes)
    assert "'one'" in str(error.value) or "item" in str(error.value)
    assert "\n" not in str(error.value)


def test_more_that_is_refused():
    design = SearchDesign("one", bar(20), [bar(0)], **SMALL)
    with pytest.raises(InputError, match=r"set_sizes are \[1, 3\], asked for 2"):
        design.draw(2, 0)
    with pytest.raises(InputError, match="both conditions are called 'one'"):
        AsymmetryTask("t", design, design)
    with pytest.raises(InputError, match="differ in set sizes"):
        AsymmetryTask("t", design, design.but(name="two", set_sizes=(1, 2)))
    with pytest.raises(InputError, match="only one kind can be swapped"):
        design.but(distractors=[bar(0), bar(40)]).swapped("two")
    with pytest.raises(InputError, match=r"did you mean 'lighting'\?"):
        published_task("lightning")
    with pytest.raises(InputError, match="bright side of a disc"):
        disc("front")
