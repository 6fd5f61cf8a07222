"""Foveation against the definition written with a graph and a two-dimensional kernel, and its invariants."""

import math

import pytest
import torch
from torch.nn import functional as F

from gazekit import InputError
from gazekit.backbones.foveation import Foveation

SIZE = (48, 33)  # never square: x/y swaps must fail
PLAIN = Foveation((9.0, 6.0), blur_sigma_px=4.0, blur_kernel_px=13, retention=0.7)


def image(n=2, size=SIZE, dtype=torch.float64):
    return torch.rand(n, 3, size[1], size[0], generator=torch.Generator().manual_seed(1), dtype=dtype)


def blur_with_a_square_kernel(x, sigma, taps):
    at = torch.arange(taps, dtype=torch.float64) - taps // 2
    kernel = torch.exp(-(at[:, None] ** 2 + at[None] ** 2) / (2 * sigma**2))
    padded = F.pad(x.double(), (taps // 2,) * 4, mode="reflect")
    return F.conv2d(padded, (kernel / kernel.sum()).expand(x.shape[1], 1, -1, -1), groups=x.shape[1])


def seen_by_definition(x, b, memory, xy, sigma):
    """Pixel by pixel formula, with a graph from the position."""
    rows = torch.arange(x.shape[-2], dtype=x.dtype) + 0.5
    columns = torch.arange(x.shape[-1], dtype=x.dtype) + 0.5
    sq = ((columns[None, None] - xy[:, 0, None, None]) / sigma[0]) ** 2
    sq = sq + ((rows[None, :, None] - xy[:, 1, None, None]) / sigma[1]) ** 2
    return x + b * (1 - memory - torch.exp(-sq / 2)[:, None]).clip(0, 1)


def test_the_blur_equals_a_two_dimensional_convolution():
    x = image()
    expected = blur_with_a_square_kernel(x, 4.0, 13)
    # Double precision; the sums differ in order only.
    torch.testing.assert_close(PLAIN.blurred(x), expected, rtol=0, atol=1e-12)
    single = PLAIN.blurred(x.float())
    torch.testing.assert_close(single.double(), expected, rtol=0, atol=1.5e-6)


def test_weights_of_the_published_kernel():
    """K = 41 with sigma 10 is cut at two SDs."""
    impulse = torch.zeros(1, 1, 101, 101, dtype=torch.float64)
    impulse[..., 50, 50] = 1.0
    column = Foveation((1.0, 1.0), 10.0, 41).blurred(impulse)[0, 0].sum(1)
    assert column[50].item() == pytest.approx(0.0415687, abs=5e-8)
    assert column[30].item() == pytest.approx(0.0056257, abs=5e-8)
    assert column[29].item() == 0.0


def test_blur_commutes_with_normalisation():
    x = image()
    torch.testing.assert_close(PLAIN.blurred(3.0 * x - 0.4), 3.0 * PLAIN.blurred(x) - 0.4, rtol=0, atol=1e-12)


def test_a_constant_image_has_no_residual():
    for dtype in (torch.float32, torch.float64):
        assert PLAIN.residual(torch.full((1, 3, 40, 41), 0.3, dtype=dtype)).abs().max() == 0.0


def test_seen_and_gradient_match_the_definition():
    x, generator = image(4), torch.Generator().manual_seed(2)
    b = PLAIN.residual(x)
    memory = 1.4 * torch.rand(4, 1, *x.shape[-2:], generator=generator, dtype=torch.float64)
    xy = (torch.rand(4, 2, generator=generator, dtype=torch.float64) * torch.tensor(SIZE)).requires_grad_()
    weight = torch.randn(x.shape, generator=generator, dtype=torch.float64)
    expected = seen_by_definition(x, b, memory, xy, PLAIN.sigma_px)
    got = PLAIN.seen(x, b, memory, PLAIN.fovea(xy.detach(), SIZE))
    torch.testing.assert_close(got, expected.detach(), rtol=0, atol=1e-12)
    # A loss that is not linear in the image: the image's gradient depends on the position too.
    (gradient,) = torch.autograd.grad((weight * expected.square()).sum(), xy)
    closed = PLAIN.position_gradient(2.0 * weight * got, b, memory, xy.detach())
    torch.testing.assert_close(closed, gradient, rtol=1e-10, atol=1e-12)
    assert gradient.abs().min() > 1e-6


def test_the_gradient_is_a_finite_difference():
    x = image(1)
    b, memory = PLAIN.residual(x), torch.zeros(1, 1, *x.shape[-2:], dtype=torch.float64)
    xy = torch.tensor([[20.3, 11.9]], dtype=torch.float64)

    def loss(at):
        return PLAIN.seen(x, b, memory, PLAIN.fovea(at, SIZE)).pow(3).sum()

    got = PLAIN.position_gradient(3.0 * PLAIN.seen(x, b, memory, PLAIN.fovea(xy, SIZE)).square(), b, memory, xy)
    for axis in range(2):
        step = torch.zeros(1, 2, dtype=torch.float64)
        step[0, axis] = 1e-4
        slope = (loss(xy + step) - loss(xy - step)) / 2e-4
        assert got[0, axis].item() == pytest.approx(slope.item(), rel=1e-6)


def test_what_is_seen_lies_between_sharp_and_blurred():
    x = image()
    b = PLAIN.residual(x)
    memory = torch.rand(2, 1, *x.shape[-2:], generator=torch.Generator().manual_seed(5), dtype=torch.float64) * 3.0
    seen = PLAIN.seen(x, b, memory, PLAIN.fovea(torch.tensor([[1.0, 2.0], [40.0, 30.0]]).double(), SIZE))
    low, high = torch.minimum(x, x + b), torch.maximum(x, x + b)
    assert (seen >= low - 1e-12).all()
    assert (seen <= high + 1e-12).all()


def test_full_retention_never_forgets():
    keep = Foveation((5.0, 5.0), retention=1.0)
    memory = torch.zeros(1, 1, SIZE[1], SIZE[0])
    for xy in ([5.0, 5.0], [30.0, 20.0], [5.0, 5.0]):
        after = keep.remember(memory, keep.fovea(torch.tensor([xy]), SIZE))
        assert (after >= memory).all()
        memory = after
    assert memory.max() > 1.9  # two foveas on one place: memory is not clipped
    forget = Foveation((5.0, 5.0), retention=0.0)
    last = forget.fovea(torch.tensor([[5.0, 5.0]]), SIZE)
    assert torch.equal(forget.remember(memory, last), last)


def test_the_fovea_peaks_at_its_position_and_falls_as_published():
    side = 224
    # The published width s = 0.2 in half-sides is twice a variance.
    sigma = (side - 1) / 2 * math.sqrt(0.2 / 2)
    fovea = Foveation((sigma, sigma)).fovea(torch.tensor([[side / 2, side / 2]]).double(), (side, side))[0, 0]
    assert fovea.mean().item() == pytest.approx(0.155, abs=5e-4)
    assert fovea[0, side // 2].item() == pytest.approx(0.0067, abs=5e-5)
    at_half = ((fovea[side // 2] >= 0.5).sum().item()) / 2
    assert at_half == pytest.approx(0.372 * (side - 1) / 2, abs=1.0)


def test_degrees():
    found = Foveation.from_dva(2.0, 0.4, 24.0, retention=0.5)
    assert found.sigma_px == (48.0, 48.0)
    assert found.blur_sigma_px == pytest.approx(9.6)
    assert found.blur_kernel_px == 59
    with pytest.raises(InputError, match="viewing geometry"):
        Foveation.from_dva(2.0, 0.4, float("nan"))


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"sigma_px": (0.0, 1.0)}, "SD must be positive"),
        ({"sigma_px": (1.0, math.nan)}, "SD must be positive"),
        ({"sigma_px": (1.0, 1.0), "blur_kernel_px": 4}, "odd number"),
        ({"sigma_px": (1.0, 1.0), "blur_sigma_px": -1.0}, "not negative"),
        ({"sigma_px": (1.0, 1.0), "retention": 1.5}, r"\[0, 1\]"),
    ],
)
def test_what_cannot_be(arguments, match):
    with pytest.raises(InputError, match=match):
        Foveation(**arguments)


def test_an_image_smaller_than_the_blur_says_so():
    with pytest.raises(InputError, match=r"image of 7x6 px is too small for a blur that reaches 6 px"):
        PLAIN.blurred(torch.zeros(1, 3, 6, 7))
