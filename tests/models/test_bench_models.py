"""The loop that NevaClip is timed against finds what the search finds under published settings."""

import pytest
import torch

from gazekit.batch import TrialBatch
from gazekit.models.bench import _TINY, _variant, agreement, bench_nevaclip, published_loop, random_nevaclip
from gazekit.models.neva import PUBLISHED

# Residual branches, batch norms and attention pooling, small.
RESNET = {**_TINY, "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None}}


def batch_of(side, n=1):
    coarse = torch.rand(n, 3, 4, 4, generator=torch.Generator().manual_seed(5))
    image = torch.nn.functional.interpolate(coarse, (side, side), mode="bicubic").clamp(0, 1)
    return TrialBatch(
        tuple(map(str, range(n))), (side, side), 1.0, image, None, torch.arange(n), ("",) * n, torch.arange(n),
        torch.zeros(n, 1, 2), torch.zeros(n, 1), torch.zeros(n, 1, dtype=torch.bool), caption=("a dog",) * n,
    )  # fmt: skip


@pytest.mark.parametrize(("network", "side"), [(_TINY, 16), (RESNET, 64)])
def test_the_published_loop_and_the_search_agree(network, side):
    """The search with its batch norms folded finds what the plain network's loop finds."""
    fovea = {**PUBLISHED["nevaclip"]["fovea"], "blur_kernel_px": 9, "blur_sigma_px": 3.0}
    search = {**PUBLISHED["nevaclip"]["search"], "iterations": 6}
    model, plain = random_nevaclip(network, **{**PUBLISHED["nevaclip"], "fovea": fovea, "search": search})
    assert any(p.requires_grad for p in plain.parameters())
    batch = batch_of(side)
    x = (batch.image - model.clip.mean) / model.clip.std
    residual = model.fovea.foveation(model.frame(batch), 1.0).residual(x)
    seeded = torch.Generator().manual_seed(3)
    expected = published_loop(
        plain, x, residual, model.embed(["a dog"]), iterations=6, length=3, generator=seeded
    )  # fmt: skip
    assert all(p.grad is None for p in plain.parameters())
    # The search draws once for a seed per scanpath before it falls back on the common generator.
    found = _explore_without_seed_draw(model, batch, torch.Generator().manual_seed(3))
    torch.testing.assert_close(found[0].flip(-1), expected, rtol=0, atol=1e-4)


def _explore_without_seed_draw(model, batch, generator):
    from gazekit.models.fovea_search import FoveaObjective, GlobalDraws, explore

    shown = model.frame(batch).show(batch.image)
    target, _, rows, goals = model.targets(shown, batch)
    foveation = model.fovea.foveation(model.frame(batch), 1.0)
    objective = FoveaObjective(model.task.loss, foveation, shown, target, rows, torch.tensor(goals))
    return explore(objective, model.strategy, 3, GlobalDraws(generator)).p


def test_the_bench_prints_both_with_their_ratio():
    lines = []
    larger = {**_TINY, "vision_cfg": {**_TINY["vision_cfg"], "image_size": 32}}
    seconds = bench_nevaclip(lines.append, trials=2, iterations=2, length=1, network=larger)
    assert set(seconds) == {
        "published loop", "lock-step", "lock-step, bfloat16", "candidates", "candidates, bfloat16",
        "published loop, again",
    }  # fmt: skip
    assert any(line.startswith("published loop ") and "1.00 x published" in line for line in lines)
    assert any(line.startswith("lock-step ") and "after 2.0 forward and 1.0 backward passes" in line for line in lines)
    assert any("of the gradients' signs as in float32" in line for line in lines)


def test_bfloat16_mostly_agrees_about_signs():
    options = {"fovea": {"blur_kernel_px": 9, "blur_sigma_px": 3.0}}
    model, _ = random_nevaclip(RESNET, **options)
    low = _variant(model, **options, dtype="bfloat16")
    assert low.task is model.task
    same, apart = agreement(model, low, batch_of(64, 4), 16)
    assert same > 0.9
    # bfloat16 has 8 bits; a cosine loses a few of them on its way through the network.
    assert 0.0 < apart < 0.02
    assert agreement(model, model, batch_of(64), 4) == (1.0, 0.0)
