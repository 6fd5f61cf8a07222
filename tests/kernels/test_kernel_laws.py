"""Laws that every registered kernel keeps, on every engine that a CPU has; a new one is found by itself."""

from __future__ import annotations

from functools import cache

import pytest
import torch

from gazekit import InputError
from gazekit.kernels import BACKENDS, KERNELS, explain_backend
from tests.kernels.scenes import SCENES, randn

# Sums of some hundred float64 terms of size 1, in another order.
FLOAT64 = {"rtol": 1e-11, "atol": 1e-11}
# The same in float32: unit-variance input, a few dozen terms; gradients sum over more of them.
FLOAT32, FLOAT32_GRAD = {"rtol": 0.0, "atol": 4e-6}, {"rtol": 2e-5, "atol": 2e-5}
FLOOR = {torch.float16: 1e-3, torch.bfloat16: 8e-3}

every_kernel = pytest.mark.parametrize("name", sorted(KERNELS))


@cache
def scene_of(name):
    return SCENES[name]()


every_engine = pytest.mark.parametrize(
    ("name", "backend"), [(n, b) for n in sorted(KERNELS) if n in SCENES for b in ("auto", *scene_of(n).backends)]
)


def test_every_kernel_has_a_scene():
    assert set(SCENES) == set(KERNELS)


def inputs(scene, dtype=torch.float64, grad=True):
    made = {}
    for key, value in scene.tensors.items():
        kept = torch.promote_types(dtype, torch.float32) if key in scene.keep_float32 else dtype
        made[key] = value.to(kept, copy=True).requires_grad_(grad)
    return made


def weighted(outputs):
    """A scalar whose gradient reaches every output at random; a plain sum would hide errors."""
    finite = [o.masked_fill(~o.isfinite(), 0.0) for o in outputs]
    return sum((o * randn(*o.shape, seed=5 + i).to(o.dtype)).sum() for i, o in enumerate(finite))


def run(scene, call, dtype=torch.float64):
    tensors = inputs(scene, dtype)
    outputs = call(tensors)
    grads = torch.autograd.grad(weighted(outputs), list(tensors.values()))
    return outputs, dict(zip(tensors, grads, strict=True))


@cache
def truth(name):
    scene = scene_of(name)
    return run(scene, scene.oracle)


@every_engine
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_output_and_gradients_are_the_definitions(name, backend, dtype):
    scene = scene_of(name)
    outputs, grads = run(scene, lambda t: scene.call(t, backend), dtype)
    expected, expected_grads = truth(name)
    assert outputs[0].dtype == dtype
    assert len(outputs) == len(expected)
    for got, want in zip(outputs, expected, strict=True):
        torch.testing.assert_close(got.double(), want, **(FLOAT64 if dtype == torch.float64 else FLOAT32))
    for key, grad in grads.items():
        assert grad.dtype == dtype
        assert grad.shape == scene.tensors[key].shape
        assert expected_grads[key].abs().max() > 0, f"the scene gives {key} no gradient"
        tolerance = FLOAT64 if dtype == torch.float64 else FLOAT32_GRAD
        torch.testing.assert_close(grad.double(), expected_grads[key], **tolerance, msg=lambda m, k=key: f"{k}: {m}")


@every_engine
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_errs_at_most_twice_as_much_as_plain_pytorch(name, backend, dtype):
    scene = scene_of(name)
    if not scene.half:
        pytest.skip(f"{name} takes no half precision")
    got = scene.call(inputs(scene, dtype, grad=False), backend)[0]
    assert got.dtype == dtype
    want = truth(name)[0][0]
    plain = scene.oracle(inputs(scene, dtype, grad=False))[0]
    error, allowed = (got.double() - want).abs().max(), 2 * (plain.double() - want).abs().max()
    assert error <= allowed + FLOOR[dtype], f"error {error:.2e}, plain PyTorch's {allowed / 2:.2e}"


@every_engine
def test_a_batch_equals_its_items_one_by_one(name, backend):
    scene = scene_of(name)
    tensors = inputs(scene, grad=False)
    together = scene.call(tensors, backend)
    for item in range(len(together[0])):
        alone = {k: t if k in scene.shared else t[item : item + 1] for k, t in tensors.items()}
        for whole, part in zip(together, scene.call(alone, backend), strict=True):
            if whole.shape[0] == len(together[0]):
                torch.testing.assert_close(whole[item : item + 1], part, **FLOAT64)


@every_engine
def test_strided_input_gives_the_same(name, backend):
    scene = scene_of(name)
    # Every second number of a buffer: no axis is contiguous, and what lies between is NaN.
    strided = {}
    for key, value in inputs(scene, grad=False).items():
        buffer = value.new_full((*value.shape, 2), torch.nan)
        buffer[..., 0] = value
        strided[key] = buffer[..., 0].requires_grad_()
    outputs = scene.call(strided, backend)
    grads = torch.autograd.grad(weighted(outputs), list(strided.values()))
    expected, expected_grads = truth(name)
    torch.testing.assert_close(outputs, expected, **FLOAT64)
    torch.testing.assert_close(dict(zip(strided, grads, strict=True)), expected_grads, **FLOAT64)


@every_kernel
def test_the_definition_has_the_gradient_of_its_output(name):
    scene = scene_of(name)
    keys = list(scene.tensors)
    slow = [t[:1] if k not in scene.shared and t.ndim > 1 else t for k, t in inputs(scene, grad=False).items()]

    def call(*values):
        return weighted(scene.call(dict(zip(keys, values, strict=True)), "reference"))

    # fast_mode: one random direction instead of every number.
    assert torch.autograd.gradcheck(call, [t.requires_grad_() for t in slow], fast_mode=True)


@every_kernel
def test_same_input_same_bits(name):
    scene = scene_of(name)
    first, again = (run(scene, lambda t: scene.call(t, "auto"), torch.float32) for _ in range(2))
    for a, b in zip((*first[0], *first[1].values()), (*again[0], *again[1].values()), strict=True):
        assert torch.equal(a, b)


@every_kernel
def test_a_named_backend_runs_or_says_why_not(name):
    scene = scene_of(name)
    tensors = inputs(scene, grad=False)
    for backend in BACKENDS:
        if backend in ("auto", *scene.backends):
            scene.call(tensors, backend)
            continue
        with pytest.raises(InputError, match=rf"^{name}.* backend '{backend}'") as caught:
            scene.call(tensors, backend)
        assert "\n" not in str(caught.value)


@every_kernel
def test_an_unknown_backend_names_the_nearest(name):
    scene = scene_of(name)
    with pytest.raises(InputError, match=r"no backend named 'tritn'; did you mean 'triton'\? known: "):
        scene.call(inputs(scene, grad=False), "tritn")


@every_engine
def test_what_is_explained_is_what_runs(name, backend):
    scene = scene_of(name)
    tensors = inputs(scene, grad=False)
    choice = explain_backend(scene.call, tensors, backend)
    assert choice.name in scene.backends
    assert choice.reasons[-1].startswith(choice.name)
    assert choice.name in str(choice)
    if backend != "auto":
        assert choice.name == backend
    torch.testing.assert_close(scene.call(tensors, backend), scene.call(tensors, choice.name), rtol=0, atol=0)
