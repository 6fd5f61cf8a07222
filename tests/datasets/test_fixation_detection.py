"""Fixation detection: what the authors' MATLAB gives on hand-made recordings, laws, and refusals."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from gazekit import InputError
from gazekit.datasets.fixation_detection import detect_fixations

NAN, INF = math.nan, math.inf


def gaze(*stretches, direction=(1.0, 0.0), origin=(400.0, 300.0)):
    """Samples from (number of samples, px per sample) stretches; a speed of NaN is a missing stretch."""
    px_per_sample = np.concatenate([np.full(n, float(px)) for n, px in stretches])
    way_px = np.cumsum(np.nan_to_num(px_per_sample))
    way_px[np.isnan(px_per_sample)] = NAN
    return np.asarray(origin) + way_px[:, None] * np.asarray(direction)


def ripple(n, px):
    """(n, 2) small movements of the eye that no random number generator has to reproduce."""
    i = np.arange(n)
    return px * np.stack([np.sin(1.3 * i) + np.sin(0.41 * i), np.cos(1.7 * i) - np.sin(0.23 * i)], axis=1)


def without(xy_px, samples, axis=slice(None), value=NAN):
    """A copy with `value` in place of some samples."""
    xy_px = xy_px.copy()
    xy_px[samples, axis] = value
    return xy_px


ONE = gaze((40, 0), (6, 20), (60, 0))
VIEWING = gaze(
    (70, 0), (9, -22), (55, 0), (5, 14), (90, 0), (12, -31), (70, 0), direction=(0.6, -0.8), origin=(150.0, -120.0)
)
VIEWING = VIEWING + ripple(len(VIEWING), 0.4)

RECORDINGS = {
    "two samples": gaze((2, 0)),
    "six samples of a jump": gaze((2, 0), (4, 90)),
    "at rest": gaze((50, 0)) + ripple(50, 0.5),
    "one saccade": ONE,
    "three saccades, rippled, off the screen": VIEWING,
    "oblique: both axes count": gaze((30, 0), (6, 5), (30, 0), direction=(0.6, 0.8)),
    # One sudden change of speed by d px per sample shows as 15 d (1, 2, 3, 4, 4, 3, 2, 1) px/s, to hold against 204.
    "speeding up for 2 samples": gaze((30, 0), (20, 4.5), (30, 0)),
    "speeding up for 3 samples": gaze((30, 0), (1, 4), (19, 4.7), (30, 0)),
    "twice for 2 samples": gaze((30, 0), (15, 4.5), (15, 0), (15, 4.5), (30, 0)),
    "just too slow": gaze((30, 0), (1, 3.3), (1, 3.35), (30, 0)),
    "slowing down in steps too small": gaze((30, 0), (5, 9.9), (8, 6.6), (8, 3.3), (30, 0)),
    "slowing down in steps just large enough": gaze((30, 0), (5, 10.5), (8, 7.0), (8, 3.5), (30, 0)),
    "slowing down after 25 samples": gaze((30, 0), (25, 20), (30, 0)),
    "slowing down after 26 samples": gaze((30, 0), (26, 20), (30, 0)),
    "slowing down twice": gaze((30, 0), (6, 40), (10, 20), (30, 0)),
    "12 samples between": gaze((40, 0), (6, 20), (20, 0), (6, 20), (40, 0)),
    "11 samples between": gaze((40, 0), (6, 20), (19, 0), (6, 20), (40, 0)),
    "too little between, three times": gaze(
        (40, 0), (6, 20), (19, 0), (6, 20), (12, 0), (6, 20), (30, 0), (6, 9), (40, 0)
    ),
    "13 samples at the end": gaze((40, 0), (6, 20), (16, 0)),
    "12 samples at the end": gaze((40, 0), (6, 20), (15, 0)),
    "12 samples at the end, after another": gaze((40, 0), (6, 20), (30, 0), (6, 20), (15, 0)),
    "faster before slowing down": gaze((40, 0), (12, 20), (10, 45), (40, 0)),
    "a saccade among speedings-up without end": gaze(
        (30, 0), (40, 20), *((1, 20 - i / 4) for i in range(80)), (30, 0), (6, 20), (30, 0), (40, 20)
    ),
    "cut off while speeding up": gaze((40, 0), (5, 20)),
    "cut off at full speed": gaze((40, 0), (30, 20)),
    "cut off after another saccade": gaze((40, 0), (6, 20), (40, 0), (5, 20)),
    "cut off after a speeding-up without end": gaze((40, 0), (40, 20), (5, 40)),
    "speeding up without end, later movement": gaze((40, 0), (40, 20), (1, 20.1), (20, 20)),
    "speeding up without end, later gap": without(gaze((40, 0), (60, 20)), slice(80, 84)),
    "from the first sample on": gaze((10, 20), (40, 0)),
    "a first fixation of 1 sample": gaze((6, 0), (6, 20), (40, 0)),
    "a first fixation of 2 samples": gaze((7, 0), (6, 20), (40, 0)),
    "a blink within a fixation": without(VIEWING, slice(20, 45)),
    "a gap to 5 samples before speeding up": without(ONE, slice(20, 31)),
    "a gap to 4 samples before speeding up": without(ONE, slice(20, 32)),
    "a gap from 6 samples after slowing down": without(ONE, slice(54, 80)),
    "a gap from 5 samples after slowing down": without(ONE, slice(53, 80)),
    "a blink of x alone": without(VIEWING, slice(100, 110), axis=0),
    "a blink instead of slowing down": without(ONE, slice(43, 46)),
    "a blink written as coordinates": without(VIEWING, slice(100, 130), value=-1500.0),
    "an infinite blink": without(VIEWING, slice(100, 103), value=-INF),
    "missing throughout": np.full((30, 2), NAN),
    "x missing throughout": without(VIEWING, slice(None), axis=0),
    "missing after a saccade": without(ONE, slice(54, None)),
}

# What the authors' checkFixations.m gives for these under GNU Octave 7.3.0: starts (counted from 0), stops (one past
# the last sample), medians.
GOLDEN = {
    "two samples": ([0], [2], [(400.0, 300.0)]),
    "six samples of a jump": ([0], [6], [(535.0, 300.0)]),
    "at rest": ([0], [50], [(400.020264377958, 299.97693394609)]),
    "one saccade": ([0, 49], [35, 106], [(400.0, 300.0), (520.0, 300.0)]),
    "three saccades, rippled, off the screen": (
        [0, 82, 142, 244],
        [65, 130, 224, 311],
        [
            (150.017922172028, -120.043569787482),
            (31.207752324715, 38.373229800993),
            (73.199615996361, -17.598131221454),
            (-150.00517151558, 279.972576056161),
        ],
    ),
    "oblique: both axes count": ([0, 37], [27, 66], [(400.0, 300.0), (418.0, 324.0)]),
    "speeding up for 2 samples": ([0], [80], [(447.25, 300.0)]),
    "speeding up for 3 samples": ([0, 51], [28, 80], [(400.0, 300.0), (493.3, 300.0)]),
    "twice for 2 samples": ([0], [105], [(467.5, 300.0)]),
    "just too slow": ([0], [62], [(404.975, 300.0)]),
    "slowing down in steps too small": ([0], [81], [(489.1, 300.0)]),
    "slowing down in steps just large enough": ([0, 35], [26, 81], [(400.0, 300.0), (536.5, 300.0)]),
    "slowing down after 25 samples": ([0, 58], [25, 85], [(400.0, 300.0), (900.0, 300.0)]),
    "slowing down after 26 samples": ([0], [86], [(670.0, 300.0)]),
    "slowing down twice": ([0, 39], [25, 76], [(400.0, 300.0), (840.0, 300.0)]),
    "12 samples between": ([0, 49, 75], [35, 61, 112], [(400.0, 300.0), (520.0, 300.0), (640.0, 300.0)]),
    "11 samples between": ([0, 74], [35, 111], [(400.0, 300.0), (640.0, 300.0)]),
    "too little between, three times": ([0, 92, 127], [35, 115, 165], [(400.0, 300.0), (760.0, 300.0), (814.0, 300.0)]),
    "13 samples at the end": ([0, 49], [35, 62], [(400.0, 300.0), (520.0, 300.0)]),
    "12 samples at the end": ([0], [35], [(400.0, 300.0)]),
    "12 samples at the end, after another": ([0, 49], [35, 71], [(400.0, 300.0), (520.0, 300.0)]),
    "faster before slowing down": ([0, 65], [35, 102], [(400.0, 300.0), (1090.0, 300.0)]),
    "a saccade among speedings-up without end": ([0, 189], [175, 256], [(1521.75, 300.0), (2270.0, 300.0)]),
    "cut off while speeding up": ([0], [35], [(400.0, 300.0)]),
    "cut off at full speed": ([0], [35], [(400.0, 300.0)]),
    "cut off after another saccade": ([0, 49], [35, 91], [(400.0, 300.0), (520.0, 300.0)]),
    "cut off after a speeding-up without end": ([0], [85], [(460.0, 300.0)]),
    "speeding up without end, later movement": ([0], [101], [(620.0, 300.0)]),
    "speeding up without end, later gap": ([0], [100], [(570.0, 300.0)]),
    "from the first sample on": ([0, 13], [1, 50], [(420.0, 300.0), (600.0, 300.0)]),
    "a first fixation of 1 sample": ([0, 15], [1, 52], [(400.0, 300.0), (520.0, 300.0)]),
    "a first fixation of 2 samples": ([0, 16], [2, 53], [(400.0, 300.0), (520.0, 300.0)]),
    "a blink within a fixation": (
        [0, 82, 142, 244],
        [65, 130, 224, 311],
        [
            (150.053802348873, -120.044901338292),
            (31.207752324715, 38.373229800993),
            (73.199615996361, -17.598131221454),
            (-150.00517151558, 279.972576056161),
        ],
    ),
    "a gap to 5 samples before speeding up": ([0, 49], [35, 106], [(400.0, 300.0), (520.0, 300.0)]),
    "a gap to 4 samples before speeding up": ([0, 49], [36, 106], [(400.0, 300.0), (520.0, 300.0)]),
    "a gap from 6 samples after slowing down": ([0, 49], [35, 106], [(400.0, 300.0), (520.0, 300.0)]),
    "a gap from 5 samples after slowing down": ([0, 48], [35, 106], [(400.0, 300.0), (520.0, 300.0)]),
    "a blink of x alone": (
        [0, 82, 142, 244],
        [65, 130, 224, 311],
        [
            (150.017922172028, -120.043569787482),
            (31.26714818988, 38.373229800993),
            (73.199615996361, -17.598131221454),
            (-150.00517151558, 279.972576056161),
        ],
    ),
    "a blink instead of slowing down": ([0], [106], [(520.0, 300.0)]),
    "a blink written as coordinates": (
        [0, 82, 104, 134, 244],
        [65, 95, 125, 224, 311],
        [
            (150.017922172028, -120.043569787482),
            (31.186173789823, 38.152754431923),
            (-1500.0, -1500.0),
            (73.18560850392, -17.595394096507),
            (-150.00517151558, 279.972576056161),
        ],
    ),
    "an infinite blink": (
        [0, 82, 142, 244],
        [65, 130, 224, 311],
        [
            (150.017922172028, -120.043569787482),
            (31.207752324715, 38.323112213795),
            (73.199615996361, -17.598131221454),
            (-150.00517151558, 279.972576056161),
        ],
    ),
    "missing throughout": ([0], [30], [(NAN, NAN)]),
    "x missing throughout": ([0], [311], [(NAN, -17.117690516654)]),
    "missing after a saccade": ([0, 49], [35, 106], [(400.0, 300.0), (520.0, 300.0)]),
}


@pytest.mark.parametrize("name", RECORDINGS)
def test_equals_the_authors_matlab(name):
    start, stop, xy_px = GOLDEN[name]
    found = detect_fixations(RECORDINGS[name])
    assert found.start.tolist() == start
    assert found.stop.tolist() == stop
    assert found.start.dtype == found.stop.dtype == np.int64
    # The golden medians are rounded to 12 decimals; recordings differ by the rounding of sines.
    np.testing.assert_allclose(found.xy_px, xy_px, rtol=0, atol=1e-9)


def test_one_sample_is_one_fixation_of_one_sample():
    found = detect_fixations([[3, -4]])  # checkFixations: 2 samples, which it does not have
    assert (found.start.tolist(), found.stop.tolist(), found.xy_px.tolist()) == ([0], [1], [[3.0, -4.0]])


def test_samples_per_degree_scale_the_criterion():
    halved = detect_fixations(VIEWING / 2, px_per_dva=17)
    start, stop, xy_px = GOLDEN["three saccades, rippled, off the screen"]
    assert halved.start.tolist() == start
    assert halved.stop.tolist() == stop
    np.testing.assert_allclose(2 * halved.xy_px, xy_px, rtol=0, atol=1e-9)
    assert len(detect_fixations(VIEWING / 2).start) == 4  # large saccades
    small = RECORDINGS["slowing down in steps just large enough"]
    assert len(detect_fixations(small, px_per_dva=36).start) == 1


def test_rate_scales_speed_and_the_shortest_fixation():
    small = RECORDINGS["slowing down in steps just large enough"]
    assert len(detect_fixations(small, rate_hz=230).start) == 1  # the same movement, slower
    between = [gaze((40, 0), (6, 20), (8 + n, 0), (6, 20), (60, 0)) for n in range(1, 30)]

    def shortest(rate_hz):
        return next(n for n, xy_px in enumerate(between, start=1) if len(detect_fixations(xy_px, rate_hz).start) == 3)

    assert shortest(240) == 12
    assert shortest(480) == 24
    assert shortest(250) == 13  # 12.5, which MATLAB rounds up


def test_a_change_right_on_the_criterion_is_not_beyond_it():
    # 20 px/dva and 256 Hz make the criterion 120 px/s and every sum exact; at 240 Hz rounding decides.
    def n_fixations(*parts):
        return len(detect_fixations(gaze(*parts), rate_hz=256, px_per_dva=20).start)

    assert n_fixations((30, 0), (4, 1.5), (12, 3), (30, 0)) == 1
    assert n_fixations((30, 0), (4, 1.625), (12, 3.25), (30, 0)) == 2
    in_steps = [(8, 15 - 1.875 * i) for i in range(1, 8)]
    assert n_fixations((30, 0), (8, 15), *in_steps, (60, 0)) == 1
    assert n_fixations((30, 0), (8, 15.125), *in_steps, (60, 0)) == 2


stretches = st.lists(
    st.tuples(st.integers(1, 45), st.sampled_from([0, 0, 0, 1, 3, 4, 5, 7, 14, 20, 40, -20, NAN])),
    min_size=1,
    max_size=12,
)
any_float = st.floats(width=64)  # NaN, infinities and subnormals among them
moderate = st.one_of(st.just(NAN), st.floats(-1e6, 1e6))


def check_laws(xy_px, found):
    start, stop = found.start, found.stop
    assert len(start) == len(stop) == len(found.xy_px) >= 1
    assert start[0] == 0
    assert stop[-1] <= len(xy_px)
    assert (start < stop).all()
    assert (start[1:] > stop[:-1]).all()  # a saccade lies between
    assert (stop - start)[1:].min(initial=12) >= 12
    for first, past, median in zip(start, stop, found.xy_px, strict=True):
        for axis in (0, 1):
            values = xy_px[first:past, axis]
            known = values[~np.isnan(values)]
            if known.size:
                assert known.min() <= median[axis] <= known.max()
            else:
                assert math.isnan(median[axis])
                assert len(start) == 1  # the samples beside a saccade are known


@settings(max_examples=200, deadline=None)
@given(stretches, st.sampled_from([(1, 0), (0, -1), (3, 4)]))
def test_laws_on_movements(parts, direction):
    xy_px = gaze(*parts, direction=direction)
    found = detect_fixations(xy_px)
    check_laws(xy_px, found)
    # Integers: turning and moving the screen rounds nothing.
    turned = detect_fixations(xy_px[:, ::-1] * [-1, 1] + [64, -1024])
    assert turned.start.tolist() == found.start.tolist()
    assert turned.stop.tolist() == found.stop.tolist()
    np.testing.assert_array_equal(turned.xy_px, found.xy_px[:, ::-1] * [-1, 1] + [64, -1024])


@settings(max_examples=200, deadline=None)
@given(arrays(np.float64, st.tuples(st.integers(1, 80), st.just(2)), elements=moderate))
def test_laws_on_noise(xy_px):
    check_laws(xy_px, detect_fixations(xy_px))


@settings(max_examples=200, deadline=None)
@given(
    arrays(np.float64, st.tuples(st.integers(1, 80), st.just(2)), elements=any_float),
    st.sampled_from([1.0, 60.0, 240.0, 2000.0]),
)
def test_any_numbers_give_fixations(xy_px, rate_hz):
    found = detect_fixations(xy_px, rate_hz)
    assert (found.start < found.stop).all()
    assert (found.start[1:] > found.stop[:-1]).all()
    assert found.start[0] == 0
    assert found.stop[-1] <= len(xy_px)
    assert found.xy_px.shape == (len(found.start), 2)


@pytest.mark.parametrize(
    ("xy_px", "message"),
    [
        (np.zeros((0, 2)), r"n > 0, found \(0, 2\)"),
        (np.zeros((5, 3)), r"\(n, 2\).*found \(5, 3\)"),
        (np.zeros(6), r"found \(6,\)"),
        (np.zeros((2, 2, 2)), r"found \(2, 2, 2\)"),
        ([["left", "up"]], "array of numbers"),
        ([[1, 2], [3]], "array of numbers"),
        ([[{}, {}]], "array of numbers"),
        (None, r"found \(\)"),
    ],
)
def test_refuses_what_is_not_a_recording(xy_px, message):
    with pytest.raises(InputError, match=message) as caught:
        detect_fixations(xy_px)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("setting", [{"rate_hz": 0}, {"rate_hz": NAN}, {"px_per_dva": -34}, {"px_per_dva": INF}])
def test_refuses_an_impossible_screen_or_rate(setting):
    with pytest.raises(InputError, match="must be positive"):
        detect_fixations(ONE, **setting)
