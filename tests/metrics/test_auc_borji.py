"""AUC-Borji and the old MIT sAUC: against loops over thresholds with the same draws, and what the draws obey."""

from __future__ import annotations

import itertools
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from metric_scenes import make_scene

from gazekit.errors import InputError
from gazekit.metrics import auc, shuffled_auc
from gazekit.metrics.auc_borji import AUCBorji, ShuffledAUCMIT, auc_borji, shuffled_auc_mit

RAMP = torch.arange(12.0, dtype=torch.float64).view(1, 3, 4)
# The same float64 shares, averaged in another order.
EXACT = {"rtol": 0, "atol": 1e-12}


def at(*xy: tuple[float, float]) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.tensor([xy], dtype=torch.float64), torch.ones(1, len(xy), dtype=torch.bool)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def close(got, expected, **tolerance):
    torch.testing.assert_close(got, expected, equal_nan=True, **{**EXACT, **tolerance})


def area(positives: np.ndarray, negatives: np.ndarray, n_steps: int) -> float:
    """The old code's curve: thresholds from high to low, one point each, between (0, 0) and (1, 1)."""
    thresholds = [k / n_steps for k in range(n_steps, -1, -1)]
    points = [(np.mean(negatives >= t), np.mean(positives >= t)) for t in thresholds]
    corners = itertools.pairwise([(0.0, 0.0), *points, (1.0, 1.0)])
    return sum((x1 - x0) * (y0 + y1) / 2 for (x0, y0), (x1, y1) in corners)


def fixated_values(smap: np.ndarray, xy_px: np.ndarray, valid: np.ndarray) -> np.ndarray:
    pixels = {(int(np.floor(y)), int(np.floor(x))) for x, y in xy_px[valid]}
    return np.array([smap[p] for p in sorted(pixels)])


def borji_oracle(scene, seed: int, n_repeats: int, n_steps: int) -> list[float]:
    source, scores = seeded(seed), []
    for smap, xy, keep in zip(scene.maps.numpy(), scene.xy_px.numpy(), scene.valid.numpy(), strict=True):
        smap = (smap - smap.min()) / (smap.max() - smap.min())
        positives = fixated_values(smap, xy, keep)
        if len(positives) <= 1:
            scores.append(np.nan)
            continue
        drawn = torch.randint(smap.size, (n_repeats, len(positives)), generator=source).numpy()
        scores.append(np.mean([area(positives, smap.ravel()[row], n_steps) for row in drawn]))
    return scores


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**16), ties=st.booleans(), n_steps=st.sampled_from([1, 7, 10]))
def test_definition(seed, ties, n_steps):
    scene = make_scene(seed, n_trials=6, ties=ties)
    got = auc_borji(scene.maps, scene.xy_px, scene.valid, generator=seeded(seed), n_repeats=9, n_steps=n_steps)
    close(got, torch.tensor(borji_oracle(scene, seed, 9, n_steps), dtype=torch.float64))
    assert got.dtype == torch.float64


def test_by_hand_in_the_limit_of_many_draws():
    # The area is linear in the negatives, so its mean is that with every pixel as a negative, after values are
    # cut to tenths: of k / 11, 0 and 1 become equal, all else stays apart. 11 beats 11 pixels and 5 beats 5.
    repeats = auc_borji(RAMP.expand(300, -1, -1), *(x.expand(300, *x.shape[1:]) for x in at((3, 2), (1, 1))))
    # 300 scores of 100 draws each: five standard errors of their mean.
    assert repeats.mean().item() == pytest.approx(17 / 24, abs=5 * repeats.std().item() / 300**0.5)
    assert 0 < repeats.std() < 0.05


def test_values_between_two_thresholds_tie():
    smap = torch.tensor([[[0.0, 0.52, 0.58, 1.0]]], dtype=torch.float64)
    others = torch.tensor([[[2.5, 0.5]], [[1.5, 0.5]]], dtype=torch.float64)
    # 0.52 against 0.58 as the only negative.
    one = (smap, *at((1, 0)), torch.tensor([1]), others.flip(1), torch.ones(2, 1, dtype=torch.bool))
    assert shuffled_auc_mit(*one, n_others=1).item() == pytest.approx(0.5, abs=1e-14)
    assert shuffled_auc_mit(*one, n_others=1, n_steps=100).item() == 0.0
    assert shuffled_auc(smap, *at((1, 0)), others[0]).item() == 0.0


def test_8_bit_values_on_a_threshold():
    # 51 / 255 is a threshold, and 153 / 255 must reach 0.6 although 6 * 0.1 > 0.6: against 152 it wins.
    for value in (51, 102, 153, 204, 255):
        smap = torch.tensor([[[0, value, value - 1, 255]]], dtype=torch.uint8)
        other = torch.tensor([[[0.0, 0.0]], [[2.0, 0.0]]], dtype=torch.float64)
        score = shuffled_auc_mit(
            smap, *at((1, 0)), torch.tensor([0]), other, torch.ones(2, 1, dtype=torch.bool), n_others=1
        )
        assert score.item() == 1.0


def test_many_thresholds_and_draws_approach_the_rank_auc():
    scene = make_scene(3, n_trials=5)
    xy_px = scene.xy_px[scene.valid][None].expand(60, -1, -1)
    valid = torch.ones(xy_px.shape[:2], dtype=torch.bool)
    maps = scene.maps[:1].expand(60, -1, -1)
    scores = auc_borji(maps, xy_px, valid, n_steps=10_000)
    expected = auc(maps[:1], xy_px[:1], valid[:1])  # no two of these fixations share a pixel
    assert scores.mean().item() == pytest.approx(expected.item(), abs=5 * scores.std().item() / 60**0.5)


def test_seeds():
    scene = make_scene(1)
    arguments = (scene.maps, scene.xy_px, scene.valid)
    before = torch.get_rng_state()
    first = auc_borji(*arguments)
    assert torch.equal(torch.get_rng_state(), before)
    close(auc_borji(*arguments), first, atol=0)
    close(auc_borji(*arguments, generator=seeded(0)), first, atol=0)
    assert not torch.equal(auc_borji(*arguments, generator=seeded(1)).nan_to_num(), first.nan_to_num())
    torch.manual_seed(5)
    close(auc_borji(*arguments), first, atol=0)


def test_batch_is_loop_and_padding_is_ignored():
    scene = make_scene(2, n_trials=6)
    whole = auc_borji(scene.maps, scene.xy_px, scene.valid)
    source = seeded()
    one_by_one = []
    for smap, xy, keep in zip(scene.maps, scene.xy_px, scene.valid, strict=True):
        short = xy[keep][None]
        one_by_one.append(auc_borji(smap[None], short, torch.ones(short.shape[:2], dtype=torch.bool), generator=source))
    close(whole, torch.cat(one_by_one), atol=0)
    assert int((~whole.isnan()).sum()) >= 3
    for junk in (torch.nan, 1e9):
        close(auc_borji(scene.maps, scene.xy_px.masked_fill(~scene.valid[..., None], junk), scene.valid), whole, atol=0)


def test_order_and_repetition_of_fixations_do_not_matter():
    smap = make_scene(4).maps[:1]
    places = [(3.2, 4.0), (9.0, 1.0), (20.7, 12.1)]
    expected = auc_borji(smap, *at(*places))
    close(auc_borji(smap, *at(*places[::-1])), expected, atol=0)
    close(auc_borji(smap, *at(*places, (3.9, 4.9), (9.5, 1.5))), expected, atol=0)


def test_too_few_fixations():
    xy_px = torch.tensor([[(1.0, 1.0), (1.5, 1.5)], [(1.0, 1.0), (2.0, 1.0)], [(0, 0), (1, 1)]], dtype=torch.float64)
    valid = torch.tensor([[True, True], [True, True], [False, False]])
    score = auc_borji(RAMP.expand(3, -1, -1), xy_px, valid)
    assert score.isnan().tolist() == [True, False, True]
    assert auc_borji(RAMP[:0], xy_px[:0], valid[:0]).shape == (0,)
    assert auc_borji(RAMP, xy_px[:1, :0], valid[:1, :0]).isnan().all()


def test_constant_map():
    assert auc_borji(torch.full((1, 3, 4), 7.0), *at((0, 0), (1, 1))).item() == pytest.approx(0.5, abs=1e-14)


def test_affine_invariance_only():
    scene = make_scene(5)
    score = auc_borji(scene.maps, scene.xy_px, scene.valid)
    # Powers of two do not round.
    close(auc_borji(scene.maps * 4, scene.xy_px, scene.valid), score, atol=0)
    assert not torch.allclose(auc_borji((3 * scene.maps).exp(), scene.xy_px, scene.valid), score, equal_nan=True)


def test_precision_of_the_map_is_all_that_counts():
    scene = make_scene(6)
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        maps = scene.maps.to(dtype)
        close(auc_borji(maps, scene.xy_px, scene.valid), auc_borji(maps.double(), scene.xy_px, scene.valid), atol=0)
    close(
        auc_borji(scene.maps.float(), scene.xy_px.float(), scene.valid),
        auc_borji(scene.maps, scene.xy_px, scene.valid),
        atol=1e-6,  # no value of this scene crosses a threshold by rounding
    )


def test_shared_map_equals_copies():
    scene = make_scene(7)
    shared = scene.maps[:1].expand(4, -1, -1)
    expected = auc_borji(shared.contiguous(), scene.xy_px, scene.valid)
    close(auc_borji(shared, scene.xy_px, scene.valid), expected, atol=0)


def test_noise_lowers_the_mean():
    rng = np.random.default_rng(0)
    height, width = 30, 44
    y, x = np.mgrid[:height, :width]
    hill = np.exp(-((x - 25) ** 2 / 60 + (y - 12) ** 2 / 30))
    place = rng.choice(hill.size, (40, 8), p=hill.ravel() / hill.sum())
    xy_px = torch.from_numpy(np.stack([place % width, place // width], -1) + 0.5)
    noise = rng.standard_normal((40, height, width))
    means = [
        auc_borji(torch.from_numpy(hill + s * noise), xy_px, torch.ones(40, 8, dtype=torch.bool)).mean().item()
        for s in (0, 0.2, 0.5, 1.5, 10)
    ]
    assert means == sorted(means, reverse=True)
    assert means[0] > 0.85
    assert means[-1] == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"saliency": RAMP[0]}, r"must be \(B, H, W\)"),
        ({"saliency": RAMP.masked_fill(RAMP == 3, torch.nan)}, "saliency of trial 0, fixation 0: the map holds NaN"),
        ({"saliency": RAMP.log()}, "the map holds NaN or infinity"),
        ({"xy_px": torch.tensor([[(2.0, 3.0), (0.0, 0.0)]])}, "outside the 4x3 px map"),
        ({"n_repeats": 0}, "n_repeats must be at least 1; got 0"),
        ({"n_steps": 0}, "n_steps must be at least 1; got 0"),
    ],
)
def test_input_errors(change, message):
    xy_px, valid = at((3, 2), (1, 1))
    with pytest.raises(InputError, match=message):
        auc_borji(**{"saliency": RAMP, "xy_px": xy_px, "valid": valid, **change})


def test_unused_maps_may_hold_anything():
    xy_px, valid = at((3, 2), (1, 1))
    maps = torch.cat([RAMP, torch.full_like(RAMP, torch.nan)])
    score = auc_borji(maps, xy_px.expand(2, -1, -1), torch.stack([valid[0], ~valid[0]]))
    assert score.isnan().tolist() == [False, True]


def images(n_images: int = 14, n_steps: int = 9, seed: int = 0, size_wh: tuple[int, int] = (29, 13)):
    rng = np.random.default_rng(seed)
    xy_px = torch.from_numpy(np.floor(rng.random((n_images, n_steps, 2)) * np.array(size_wh) / 2))
    return xy_px, torch.from_numpy(rng.random((n_images, n_steps)) < 0.8)


@pytest.mark.parametrize("n_others", [1, 10, 13])
def test_shuffled_definition(n_others):
    scene = make_scene(8, n_trials=6)
    image_xy_px, image_valid = images()
    image = torch.tensor([0, 13, 5, 5, 1, 7])
    got = shuffled_auc_mit(
        scene.maps, scene.xy_px, scene.valid, image, image_xy_px, image_valid,
        generator=seeded(3), n_others=n_others, n_repeats=11,
    )  # fmt: skip
    source, expected = seeded(3), []
    for b, smap in enumerate(scene.maps.numpy()):
        smap = (smap - smap.min()) / (smap.max() - smap.min())
        positives = fixated_values(smap, scene.xy_px[b].numpy(), scene.valid[b].numpy())
        rest = [i for i in range(14) if i != image[b]]
        chosen = [rest[i] for i in torch.randperm(13, generator=source)[:n_others].tolist()]
        xy, keep = image_xy_px[chosen].reshape(-1, 2).numpy(), image_valid[chosen].reshape(-1).numpy()
        others = fixated_values(smap, xy, keep)  # in the order of rows, as pixels are numbered
        order = torch.rand(11, len(others), generator=source).argsort(1).numpy()
        subsets = [others[row][: min(len(positives), len(others))] for row in order]
        expected.append(np.mean([area(positives, subset, 10) for subset in subsets]))
    close(got, torch.tensor(expected, dtype=torch.float64))


def test_shuffled_draws_each_pixel_of_other_images_only():
    # Own image: only where the map is highest; the others: only where it is lowest, one pixel, repeatedly.
    image_xy_px = torch.zeros(11, 30, 2, dtype=torch.float64)
    image_xy_px[4] = torch.tensor([3.0, 2.0])
    everywhere = torch.ones(11, 30, dtype=torch.bool)
    score = shuffled_auc_mit(RAMP, *at((2, 2)), torch.tensor([4]), image_xy_px, everywhere)
    assert score.item() == 1.0
    # From another image, the one place at 1 of 2 distinct pixels is drawn half the time: 1 of 1 wins there.
    scores = shuffled_auc_mit(RAMP, *at((2, 2)), torch.tensor([0]), image_xy_px, everywhere, n_repeats=4000)
    # A win is 1 and a loss 0, at equal odds: five standard errors.
    assert scores.item() == pytest.approx(0.5, abs=5 * 0.5 / 4000**0.5)


def test_shuffled_center_bias_is_near_chance():
    rng = np.random.default_rng(1)
    height, width = 24, 36
    y, x = np.mgrid[:height, :width]
    center = np.exp(-(((x - 18) / 8) ** 2 + ((y - 12) / 5) ** 2) / 2)
    place = rng.choice(center.size, (60, 12), p=center.ravel() / center.sum())
    xy_px = torch.from_numpy(np.stack([place % width, place // width], -1) + 0.5)
    valid = torch.ones(60, 12, dtype=torch.bool)
    maps = torch.from_numpy(center).expand(60, -1, -1)
    scores = shuffled_auc_mit(maps, xy_px, valid, torch.arange(60), xy_px, valid)
    assert scores.mean().item() == pytest.approx(0.5, abs=0.05)  # without duplicates others lie a little further out
    assert auc_borji(maps, xy_px, valid).mean() > 0.7  # far above


def test_shuffled_edge_cases():
    image_xy_px, image_valid = images(size_wh=(4, 3))
    nobody = image_valid & False
    no_fixation = torch.zeros(1, 2, dtype=torch.bool)
    two = at((3, 2), (1, 1))
    image = torch.tensor([2])
    assert shuffled_auc_mit(RAMP, two[0], no_fixation, image, image_xy_px, image_valid).isnan().all()
    assert shuffled_auc_mit(RAMP, *two, image, image_xy_px, nobody).isnan().all()
    assert not shuffled_auc_mit(RAMP, *at((1, 1)), image, image_xy_px, image_valid).isnan().any()  # one is enough
    flat = shuffled_auc_mit(torch.zeros(1, 3, 4), *two, image, image_xy_px, image_valid)
    assert flat.item() == pytest.approx(0.5, abs=1e-14)
    for change, message in (
        ({"image": torch.tensor([14])}, r"image must be \(1,\) whole numbers from 0 to 13"),
        ({"image": torch.tensor([-1])}, "image must be"),
        ({"image": torch.tensor([0.0])}, "image must be"),
        ({"image": torch.tensor([0, 1])}, "image must be"),
        ({"n_others": 14}, "n_others = 14 other images are asked for, but there are 13"),
        ({"n_others": 0}, "n_others must be at least 1"),
        ({"image_valid": image_valid[:3]}, "of images"),
        ({"image_xy_px": image_xy_px + 50.0}, "image 0, fixation"),
    ):
        given_ = {"image": image, "image_xy_px": image_xy_px, "image_valid": image_valid, **change}
        with pytest.raises(InputError, match=message):
            shuffled_auc_mit(RAMP, *two, **given_)


def test_classes():
    scene = make_scene(9, n_trials=6)
    batches = [scene.trials([0, 1]), scene.trials([2, 3, 4, 5])]
    split, again = AUCBorji(seed=4, n_repeats=20), AUCBorji(seed=4, n_repeats=20)
    for batch in batches:
        split.update(batch.maps, batch.xy_px, batch.valid)
        again(batch.maps, batch.xy_px, batch.valid)
    whole = auc_borji(scene.maps, scene.xy_px, scene.valid, generator=seeded(4), n_repeats=20)
    close(split.compute(), whole.nanmean())
    close(again.compute(), whole.nanmean())
    assert (int(split.n_valid), int(split.n_total)) == (int((~whole.isnan()).sum()), 6)
    copy = pickle.loads(pickle.dumps(split.clone()))
    close(copy.compute(), split.compute())
    for metric in (copy, split):
        metric.reset()
        metric.update(scene.maps, scene.xy_px, scene.valid)
    close(copy.compute(), split.compute())  # a copy goes on with the same numbers

    image_xy_px, image_valid = images()
    others = (torch.arange(6), image_xy_px, image_valid)
    mit = ShuffledAUCMIT(seed=4, n_others=3, n_repeats=20)
    mit.update(scene.maps, scene.xy_px, scene.valid, *others)
    options = {"generator": seeded(4), "n_others": 3, "n_repeats": 20}
    close(mit.compute(), shuffled_auc_mit(scene.maps, scene.xy_px, scene.valid, *others, **options).nanmean())
    for wrong in ({"n_repeats": 0}, {"n_steps": -1}):
        for kind in (AUCBorji, ShuffledAUCMIT):
            with pytest.raises(InputError, match="must be at least 1"):
                kind(**wrong)
