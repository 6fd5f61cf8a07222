"""The loop that NevaClip is timed against finds what the search finds under published settings."""

import torch

from gazekit.batch import TrialBatch
from gazekit.models.bench import _TINY, _plain_tower, _variant, bench_nevaclip, published_loop, sign_agreement
from gazekit.models.neva import PUBLISHED
from gazekit.models.nevaclip import NevaClip


def test_the_published_loop_and_the_search_agree():
    torch.manual_seed(0)
    fovea = {**PUBLISHED["nevaclip"]["fovea"], "blur_kernel_px": 9, "blur_sigma_px": 3.0}
    search = {**PUBLISHED["nevaclip"]["search"], "iterations": 6}
    model = NevaClip(**{**PUBLISHED["nevaclip"], "fovea": fovea, "search": search}, clip=_TINY, weights=None)
    image = torch.nn.functional.interpolate(torch.rand(1, 3, 4, 4), (16, 16), mode="bicubic").clamp(0, 1)
    batch = TrialBatch(
        ("a",), (16, 16), 1.0, image, None, torch.tensor([0]), ("",), torch.tensor([0]), torch.zeros(1, 1, 2),
        torch.zeros(1, 1), torch.zeros(1, 1, dtype=torch.bool), caption=("a dog",),
    )  # fmt: skip
    x = (image - model.clip.mean) / model.clip.std
    residual = model.fovea.foveation(model.frame(batch), 1.0).residual(x)
    for frozen in (False, True):
        seeded = torch.Generator().manual_seed(3)
        expected = published_loop(
            _plain_tower(model.clip), x, residual, model.embed(["a dog"]), iterations=6, length=3, generator=seeded,
            frozen=frozen,
        )  # fmt: skip
        # The search draws once for a seed per scanpath before it falls back on the common generator.
        seeded = torch.Generator().manual_seed(3)
        model_draw = torch.Generator()
        model_draw.set_state(seeded.get_state())
        found = _explore_without_seed_draw(model, batch, model_draw)
        torch.testing.assert_close(found[0].flip(-1), expected, rtol=0, atol=1e-4)


def _explore_without_seed_draw(model, batch, generator):
    from gazekit.models.fovea_search import FoveaObjective, GlobalDraws, explore

    shown = model.frame(batch).show(batch.image)
    target, _, rows, goals = model.targets(shown, batch)
    foveation = model.fovea.foveation(model.frame(batch), 1.0)
    objective = FoveaObjective(model.task.loss, foveation, shown, target, rows, torch.tensor(goals))
    return explore(objective, model.strategy, 3, GlobalDraws(generator)).p


def test_the_bench_prints_both_with_their_ratio():
    lines, larger = [], {**_TINY, "vision_cfg": {**_TINY["vision_cfg"], "image_size": 32}}
    seconds = bench_nevaclip(lines.append, trials=2, iterations=2, length=1, network=larger)
    assert set(seconds) >= {"published loop", "lock-step"}
    assert any(line.startswith("published loop ") and "1.00 x published" in line for line in lines)
    assert any(line.startswith("lock-step ") and "x published" in line for line in lines)


def test_bfloat16_mostly_agrees_about_signs():
    torch.manual_seed(0)
    model = NevaClip(clip=_TINY, weights=None, fovea={"blur_kernel_px": 9, "blur_sigma_px": 3.0})
    batch = TrialBatch(
        ("a",), (16, 16), 1.0, torch.rand(1, 3, 16, 16), None, torch.tensor([0]), ("",), torch.tensor([0]),
        torch.zeros(1, 1, 2), torch.zeros(1, 1), torch.zeros(1, 1, dtype=torch.bool), caption=("a dog",),
    )  # fmt: skip
    assert sign_agreement(model, batch, 32) > 0.8
    assert _variant(model, dtype="bfloat16").task is model.task
