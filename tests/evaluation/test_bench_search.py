"""eccNET beside its plain implementation: the same searches, and the oracle of its pooling by a loop over pixels."""

from __future__ import annotations

import pytest
import torch

from gazekit.backbones.eccentric import EccentricPool2d
from gazekit.errors import InputError
from gazekit.evaluation.bench_search import bench_search, plain_like, pooled_ring_by_ring
from gazekit.models import create_model


def test_pooling_ring_by_ring_is_the_layer():
    torch.manual_seed(0)
    x = torch.rand(2, 3, 33, 47)
    for mode in ("avg", "max"):
        pool = EccentricPool2d(slope=3.0, px_per_dva=2.0, mode=mode)
        # Float32 sums of up to some hundred numbers below 1, in another order.
        torch.testing.assert_close(pooled_ring_by_ring(pool, x), pool(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (("curvature", 0, 1), "trials and fixations of 1 or more; got 0 and 1"),
        (("curvature", 1, 0), "trials and fixations of 1 or more; got 1 and 0"),
        (("curvatur", 1, 1), "'curvatur'.*did you mean 'curvature'"),
    ],
)
def test_what_cannot_be_timed_is_one_line(arguments, match):
    with pytest.raises(InputError, match=match) as caught:
        bench_search(*arguments, print)
    assert "\n" not in str(caught.value)


def test_the_plain_one_is_of_a_vgg():
    model = create_model("eccnet", backbone="mobilenetv2_100", weights=None)
    with pytest.raises(InputError, match="the plain implementation is of a VGG16"):
        plain_like(model)


@pytest.mark.slow
def test_both_search_alike():
    lines = []
    found = bench_search("lighting", 2, 2, lines.append)
    assert found["same"] == 1.0
    assert found["trials"] == 2
    assert found["ratio"] == found["plain_s"] / found["fast_s"]
    assert ", the same fixations;" in lines[-2]
