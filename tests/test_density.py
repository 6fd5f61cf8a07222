"""Fixation densities against SciPy's filter, and densities across grids."""

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from gazekit import density


@pytest.mark.parametrize("sigma_px", [0.7, 3.0, 9.0])
def test_fixation_density_is_scipys_filtered_histogram(sigma_px):
    rng = np.random.default_rng(0)
    height, width = 23, 41  # not square, and smaller than the widest kernel
    xy = np.stack([rng.uniform(0, width, 12), rng.uniform(0, height, 12)], -1)
    xy[0] = [0.0, 0.0]
    xy[1] = [width - 1e-3, height - 1e-3]
    histogram = np.zeros((height, width))
    for x, y in xy:
        histogram[int(y), int(x)] += 1
    expected = gaussian_filter(histogram, sigma_px, mode="nearest", truncate=4.0)
    got = density.fixation_density(
        torch.tensor(xy)[None], torch.ones(1, 12, dtype=torch.bool), (width, height), sigma_px
    )
    # Both are float64; a separable sum in another order.
    np.testing.assert_allclose(got[0], expected / expected.sum(), rtol=1e-10, atol=1e-15)


def test_padding_carries_no_mass_and_masses_add():
    xy = torch.tensor([[[3.0, 4.0], [10.0, 2.0], [5.0, 5.0]]])
    size = (20, 12)
    one = density.fixation_mass(xy[:, :2], torch.tensor([[True, True]]), size, 2.0)
    padded = density.fixation_mass(xy, torch.tensor([[True, True, False]]), size, 2.0)
    assert torch.equal(one, padded)
    third = density.fixation_mass(xy[:, 2:], torch.tensor([[True]]), size, 2.0)
    whole = density.fixation_mass(xy, torch.ones(1, 3, dtype=torch.bool), size, 2.0)
    torch.testing.assert_close(whole - third, one, rtol=1e-12, atol=1e-15)
    assert density.fixation_density(xy, torch.zeros(1, 3, dtype=torch.bool), size, 2.0).isnan().all()


def test_counts_use_the_floor():
    counts = density.count_fixations(
        torch.tensor([[[2.99, 0.0], [2.0, 0.99], [0.5, 1.0]]]), torch.ones(1, 3, dtype=torch.bool), (4, 2)
    )
    assert counts[0].tolist() == [[0, 0, 2, 0], [1, 0, 0, 0]]


def test_resizing_keeps_a_density_and_its_gradient_of_log():
    torch.manual_seed(0)
    coarse = density.normalize_log_density(torch.randn(2, 5, 7, dtype=torch.float64))
    fine = density.resize_log_density(coarse, (70, 50))
    np.testing.assert_allclose(fine.exp().sum((-2, -1)), 1.0, rtol=1e-12)
    # A uniform map stays uniform: the log falls by the log of the ratio of the areas.
    flat = torch.full((1, 5, 7), -math.log(35.0), dtype=torch.float64)
    torch.testing.assert_close(
        density.resize_log_density(flat, (70, 50)), torch.full((1, 50, 70), -math.log(3500.0), dtype=torch.float64)
    )
    same = density.resize_log_density(coarse, (7, 5))
    torch.testing.assert_close(same, coarse)


def test_to_density_follows_the_benchmarks_rule():
    assert torch.allclose(density.to_density(torch.tensor([[[1.0, 3.0]]])), torch.tensor([[[0.25, 0.75]]]))
    assert torch.allclose(density.to_density(torch.tensor([[[-1.0, 1.0]]])), torch.tensor([[[0.0, 1.0]]]))
    assert torch.allclose(density.to_density(torch.zeros(1, 2, 2)), torch.full((1, 2, 2), 0.25))
