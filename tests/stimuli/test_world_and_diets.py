"""The rendered world has the regularities that it claims, and diets do what they are called."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gazekit.errors import InputError
from gazekit.stimuli.diet import (
    DIETS,
    apply_diet,
    curved,
    fisheye,
    grid,
    rotate,
    rotate_quarter,
    to_square,
    training_crop,
)
from gazekit.stimuli.world import CLASSES, render_world


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def world():
    return render_world(400, 64, seed=5)


def test_pictures_depend_on_seed_and_number_alone(world):
    few = render_world(3, 64, seed=5)
    np.testing.assert_array_equal(few.image, world.image[:3])
    np.testing.assert_array_equal(few.label, world.label[:3])
    assert (render_world(3, 64, seed=6).image != few.image).any()
    assert world.image.shape == (400, 64, 64, 3)
    assert world.image.dtype == np.uint8


def test_classes_are_as_frequent_as_stated(world):
    share = np.bincount(world.label, minlength=len(CLASSES)) / len(world.label)
    weights = np.array(list(CLASSES.values()))
    # SD of a share is at most 0.016 with 400 pictures.
    np.testing.assert_allclose(share, weights / weights.sum(), atol=0.05)


def test_light_comes_from_above(world):
    """Bumps are brighter above than below, dents the other way; to the sides neither is."""
    names = list(CLASSES)
    halves = {}
    for name in ("bump", "dent"):
        shown = world.image[world.label == names.index(name)].mean(-1)[:, 20:44, 20:44]
        halves[name] = (shown[:, :12] - shown[:, 12:]).mean(), (shown[:, :, :12] - shown[:, :, 12:]).mean()
    assert halves["bump"][0] > 15
    assert halves["dent"][0] < -15
    assert max(abs(side) for _, side in halves.values()) < 8


@pytest.mark.parametrize("name", sorted(DIETS))
def test_every_diet_keeps_size_and_range(name):
    picture = torch.rand(3, 3, 60, 60, generator=generator())
    eaten = apply_diet(name, picture, generator(1))
    assert eaten.shape == picture.shape
    assert eaten.min() >= 0
    assert eaten.max() <= 1
    assert torch.equal(eaten, apply_diet(name, picture, generator(1)))
    if name != "natural":
        assert (eaten - picture).abs().max() > 0.1


def test_quarter_turns_are_exact():
    picture = torch.rand(2, 3, 8, 12, generator=generator())
    assert torch.equal(rotate_quarter(rotate_quarter(picture), 3), picture)
    assert rotate_quarter(picture).shape == (2, 3, 12, 8)
    # Counterclockwise: what was at the right is at the top.
    assert torch.equal(rotate_quarter(picture)[..., 0, :], picture[..., :, -1])
    square = torch.rand(1, 3, 9, 9, generator=generator())
    torch.testing.assert_close(rotate(square, 90.0), rotate_quarter(square), rtol=0, atol=1e-5)


def test_fisheye_magnifies_the_middle_and_bends_lines():
    picture = torch.zeros(1, 3, 101, 101)
    picture[..., 25, :] = 1.0
    bent = fisheye(picture, 1.0)[0, 0]
    peaks = bent.argmax(0)
    # Further from the middle (row 50), and more so in the middle column than at the side.
    assert peaks[50] < 25
    assert peaks[50] < peaks[85]
    torch.testing.assert_close(fisheye(picture, 0.0), picture, rtol=0, atol=1e-5)
    assert fisheye(torch.ones(1, 3, 20, 60), 0.5).shape == (1, 3, 60, 60)


def test_grid_is_the_published_one():
    barred = grid(torch.ones(1, 3, 224, 224))[0, 0]
    dark = (barred.mean(1) == 0).nonzero()[:, 0].tolist()
    assert dark == [r for start in (45, 95, 145, 195) for r in range(start, start + 5)]
    assert (barred == barred.T).all()


def test_curved_makes_straight_lines_wavy_and_differs_between_pictures():
    picture = torch.zeros(2, 3, 64, 64)
    picture[..., 30:34] = 1.0
    wavy = curved(picture, generator())
    columns = (wavy[:, 0] * torch.arange(64.0)).sum(2) / wavy[:, 0].sum(2)
    assert columns[0].std() > 2.0
    assert (columns[0] - columns[1]).abs().max() > 0.5


def test_square_and_training_crop():
    picture = torch.rand(1, 3, 40, 100, generator=generator())
    square = to_square(picture)
    assert square.shape == (1, 3, 100, 100)
    assert torch.equal(square[..., 30:70, :], picture)
    assert square[..., :30, :].abs().max() == 0
    cut = training_crop(torch.rand(3, 300, 500, generator=generator()), generator(3))
    assert cut.shape == (3, 224, 224)
    assert torch.equal(cut, training_crop(torch.rand(3, 300, 500, generator=generator()), generator(3)))
    ramp = torch.linspace(0, 1, 64).expand(3, 64, 64).contiguous()
    directions = {(training_crop(ramp, generator(i), 32, 24).diff(dim=-1).mean() > 0).item() for i in range(12)}
    assert directions == {True, False}
    assert (training_crop(ramp, generator(1), 32, 24, flip=False).diff(dim=-1) > 0).all()


def test_what_is_refused():
    picture = torch.rand(1, 3, 8, 8)
    for call, says in (
        (lambda: apply_diet("sweet", picture, generator()), "no diet named 'sweet'"),
        (lambda: rotate((picture * 255).byte(), 10), "floats"),
        (lambda: fisheye(picture, -1), "0 or more"),
        (lambda: grid(picture, 0), "need 0 < width_px"),
        (lambda: training_crop(picture, generator()), "one picture"),
        (lambda: training_crop(picture[0], generator(), 20, 30), "crop_px <= resize_px"),
        (lambda: render_world(0), "n >= 1"),
        (lambda: render_world(1, 8), "side_px >= 24"),
    ):
        with pytest.raises(InputError, match=says):
            call()
