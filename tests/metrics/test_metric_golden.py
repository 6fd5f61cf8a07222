"""Numbers computed once with the reference implementations, and cases worked by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from gazekit.errors import InputError
from gazekit.metrics import (
    auc,
    auc_judd,
    cc,
    conditional_auc,
    conditional_information_gain,
    conditional_nss,
    information_gain,
    kld,
    log_likelihood,
    nss,
    shuffled_auc,
    sim,
)

RAMP = torch.arange(12.0, dtype=torch.float64).view(1, 3, 4)
P = torch.tensor([[[0.1, 0.2], [0.3, 0.4]]], dtype=torch.float64)
Q = torch.tensor([[[0.4, 0.3], [0.2, 0.1]]], dtype=torch.float64)
P2 = torch.tensor([[[0.5, 0.25], [0.25, 0.0]]], dtype=torch.float64)
P3 = torch.tensor([[[0.5, 0.25], [0.125, 0.125]]], dtype=torch.float64)
U = torch.full((1, 2, 2), 0.25, dtype=torch.float64)

# The references are printed with seven decimals.
PRINTED = {"rel": 0.0, "abs": 6e-8}


def test_conditional_scores_as_published_for_hat():
    """One fixation on the pixel of value 9 of the ramp as a density; the prior is uniform."""
    log_density = (RAMP / RAMP.sum()).log()[:, None]
    uniform = torch.full((1, 3, 4), 1 / 12, dtype=torch.float64).log()
    seen = at((1, 2))
    gain = conditional_information_gain(log_density, uniform, *seen, eps=2.2204e-16)
    assert gain.item() == pytest.approx(0.7104934, **PRINTED)
    assert conditional_nss(log_density, *seen, ddof=1).item() == pytest.approx(0.9707253, **PRINTED)
    assert conditional_auc(log_density, *seen, variant="trapezoid").item() == pytest.approx(0.9090909, **PRINTED)
    # A fixation without density costs what the epsilon leaves.
    nowhere = at((0, 0))
    assert conditional_information_gain(log_density, uniform, *nowhere).item() == -math.inf
    gain = conditional_information_gain(log_density, uniform, *nowhere, eps=2.2204e-16)
    assert gain.item() == pytest.approx(math.log2(2.2204e-16 / (1 / 12 + 2.2204e-16)), rel=1e-12)
    # Chance of the compressed AUC is 0.75: the mean over all pixels of a map without ties, each against 11 others.
    every = [at((x, y)) for x in range(4) for y in range(3)]
    areas = [conditional_auc(log_density, *one, variant="trapezoid").item() for one in every]
    assert sum(areas) / 12 == pytest.approx(0.75, abs=1e-12)
    for wrong in ({"ddof": 2}, {"ddof": -1}):
        with pytest.raises(InputError, match="ddof must be 0 or 1"):
            conditional_nss(log_density, *seen, **wrong)
    with pytest.raises(InputError, match="variant must be 'rank' or 'trapezoid'"):
        conditional_auc(log_density, *seen, variant="judd")
    with pytest.raises(InputError, match="eps must be 0 or more"):
        conditional_information_gain(log_density, uniform, *seen, eps=-1.0)


def at(*xy: tuple[float, float]) -> tuple[Tensor, Tensor]:
    """One trial that fixates these places."""
    return torch.tensor([xy], dtype=torch.float64), torch.ones(1, len(xy), dtype=torch.bool)


@pytest.mark.parametrize(
    ("places", "expected"), [([(3, 2)], 1.5932550), ([(0, 0)], -1.5932550), ([(3, 2), (0, 0)], 0.0)]
)
def test_nss(places, expected):
    assert nss(RAMP, *at(*places)).item() == pytest.approx(expected, **PRINTED)


def test_auc():
    assert auc(RAMP, *at((3, 2), (1, 1))).item() == pytest.approx(0.7083333, **PRINTED)
    assert auc(RAMP, *at((3, 2))).item() == pytest.approx(0.9583333, **PRINTED)
    assert auc(RAMP, *at((1, 1))).item() == pytest.approx(0.4583333, **PRINTED)
    assert auc(RAMP, *at((1, 2))).item() == pytest.approx(0.7916667, **PRINTED)


def test_auc_judd():
    assert auc_judd(RAMP, *at((3, 2), (1, 1))).item() == pytest.approx(0.875, **PRINTED)


def test_auc_judd_of_a_repeated_fixation():
    # By hand: thresholds 11 and 5; 2 of 3 fixations at 11, 10 negatives, 5 of them (6 to 10) above 5.
    # Polygon (0,0) (0,2/3) (.5,1) (1,1).
    expected = 0.5 * (2 / 3 + 1) / 2 + 0.5
    # Exact up to rounding.
    assert auc_judd(RAMP, *at((3, 2), (1, 1), (3.5, 2.5))).item() == pytest.approx(expected, abs=1e-14)


def test_shuffled_auc():
    others = torch.tensor([(2, 0), (1, 2), (1, 2), (0, 1)], dtype=torch.float64)  # values 2, 9, 9, 4
    assert shuffled_auc(RAMP, *at((3, 2), (1, 1)), others).item() == pytest.approx(0.75, **PRINTED)


def test_cc_sim_kld():
    assert cc(P, Q).item() == pytest.approx(-1.0, **PRINTED)
    assert sim(P, Q).item() == pytest.approx(0.6, **PRINTED)
    assert kld(P, Q).item() == pytest.approx(0.4564348, **PRINTED)
    assert sim(P2, U).item() == pytest.approx(0.75, **PRINTED)
    assert kld(P2, U).item() == pytest.approx(8.491058, abs=6e-7)  # six decimals
    assert kld(P2, U, "floor").item() == pytest.approx(10.993065, abs=6e-7)
    assert kld(U, P2).item() == pytest.approx(0.3465736, **PRINTED)
    assert kld(U, P2, "floor").item() == pytest.approx(0.3465736, **PRINTED)
    assert kld(P3, U).item() == pytest.approx(0.1732868, **PRINTED)
    assert kld(U, P3).item() == pytest.approx(0.1732868, **PRINTED)


def test_information():
    assert information_gain(P3.log(), U.log(), *at((0, 0), (1, 1))).item() == pytest.approx(0.0, abs=1e-14)
    assert information_gain(P3.log(), U.log(), *at((0, 0))).item() == pytest.approx(1.0, abs=1e-14)
    assert log_likelihood(P3.log(), *at((0, 0))).item() == pytest.approx(math.log(0.5), abs=1e-14)


def test_conditional():
    log_density = (RAMP / 66).log()[:, None]
    uniform = torch.full((1, 3, 4), -math.log(12), dtype=torch.float64)
    assert conditional_information_gain(log_density, uniform, *at((1, 2))).item() == pytest.approx(0.7104934, **PRINTED)
    assert conditional_nss(log_density, *at((1, 2))).item() == pytest.approx(1.0138895, **PRINTED)
    assert conditional_auc(log_density, *at((1, 2))).item() == pytest.approx(0.7916667, **PRINTED)
