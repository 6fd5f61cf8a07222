"""Screens: pixels and degrees of visual angle."""

import math

import numpy as np
import pytest

from gazekit import InputError, Screen


def test_px_per_dva_is_the_angle_of_one_degree_straight_ahead():
    # 40 cm of 1000 px seen from 57.29 cm: one degree is 1 cm on the screen, by definition of the radian.
    screen = Screen((1000, 500), size_wh_cm=(40.0, 20.0), distance_cm=57.29)
    one_degree_cm = 2 * 57.29 * math.tan(math.radians(0.5))
    assert screen.px_per_dva == pytest.approx(one_degree_cm * 25.0)
    assert screen.px_per_dva == pytest.approx(25.0, rel=1e-3)


def test_to_dva_by_hand_and_back():
    screen = Screen((800, 600), size_wh_cm=(40.0, 30.0), distance_cm=40.0)
    # 20 cm right of the center at 40 cm: atan(1/2); y grows downward and so does the angle.
    np.testing.assert_allclose(screen.to_dva([800, 300]), [math.degrees(math.atan(0.5)), 0.0], rtol=1e-12)
    assert screen.to_dva([400, 600])[1] > 0
    points = np.array([[0.0, 0.0], [123.4, 456.7], [800.0, 600.0]])
    np.testing.assert_allclose(screen.to_px(screen.to_dva(points)), points, atol=1e-9)


def test_measured_pixels_per_degree_are_linear():
    screen = Screen((800, 600), measured_px_per_dva=24)
    np.testing.assert_allclose(screen.to_dva([424, 276]), [1.0, -1.0])
    np.testing.assert_allclose(screen.to_px([[1.0, -1.0]]), [[424, 276]])


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"size_wh_px": (800, 600)}, "needs size_wh_cm and distance_cm"),
        ({"size_wh_px": (800, 600), "distance_cm": 60.0}, "needs size_wh_cm and distance_cm"),
        ({"size_wh_px": (800, 0), "measured_px_per_dva": 24}, "must be positive"),
        ({"size_wh_px": (800, 600), "measured_px_per_dva": -1}, "must be positive"),
    ],
)
def test_impossible_screens_are_refused(kwargs, message):
    with pytest.raises(InputError, match=message):
        Screen(**kwargs)


def test_card_with_unknown_key_is_refused():
    with pytest.raises(InputError, match=r"unknown key.*px_per_deg"):
        Screen.from_card({"size_wh_px": [800, 600], "px_per_deg": 24})
