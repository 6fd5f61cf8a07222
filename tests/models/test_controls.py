"""Center bias, people and shuffled people: against slow definitions, and against a published worked example."""

from __future__ import annotations

import warnings
from functools import lru_cache

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.ndimage import gaussian_filter
from scipy.optimize import minimize

from gazekit import InputError
from gazekit.batch import TrialBatch
from gazekit.datasets import PartialDataWarning, load
from gazekit.density import count_fixations, fixation_mass, gaussian_operators
from gazekit.metrics import auc, information_gain, nss
from gazekit.models import create_model
from gazekit.models.fixation_memory import image_weights, mixture_weights
from tests.conftest import REAL_DATA, needs_osie

SIZE = (96, 64)  # width, height; never square, so that a swap shows
PX_PER_DVA = 6.0
STIMULI, SUBJECTS = ("a", "b", "c", "d", "e"), ("ann", "bob", "cem", "dan")

# Both sides sum the same float64 terms in another order; model maps pass through float32 logs of about -9,
# whose spacing is 1e-6.
FLOAT64, FLOAT32_LOG = {"rtol": 1e-9, "atol": 1e-15}, {"rtol": 0.0, "atol": 4e-6}


@lru_cache(maxsize=1)
def tables():
    """People agree about each image, lean to its center, and now and then look anywhere."""
    rng = np.random.default_rng(1)
    rows = []
    for i, stimulus in enumerate(STIMULI):
        spots = rng.normal(0.5, 0.08, (2, 2))
        for j, subject in enumerate(SUBJECTS):
            # Unequal numbers, so that weighting per image and per fixation differ.
            n = int(rng.integers(4, 8)) + 6 * (stimulus == "b")
            relative = spots[rng.integers(0, 2, n)] + rng.normal(0, 0.04, (n, 2))
            relative = np.where(rng.random((n, 1)) < 0.15, rng.random((n, 2)), relative).clip(0.0, 0.999)
            for k, (x, y) in enumerate(relative * SIZE):
                rows.append((subject, stimulus, i * len(SUBJECTS) + j, k, x, y, np.nan, 0.2))
    columns = ["subject", "stimulus", "trial", "fixation", "x_px", "y_px", "t_s", "duration_s"]
    stimuli = pd.DataFrame({"stimulus": STIMULI, "path": "", "width_px": SIZE[0], "height_px": SIZE[1]})
    return pd.DataFrame(rows, columns=columns), stimuli


@lru_cache(maxsize=4)
def fitted(name, **_):
    fixations, stimuli = tables()
    return create_model(name).fit_fixations(fixations, stimuli, PX_PER_DVA).eval()


def batch_of(trials, size_wh_px=SIZE):
    """The density models look at names only; the fixations are one made-up place."""
    stimuli = tuple(dict.fromkeys(s for s, _ in trials))
    n = len(trials)
    return TrialBatch(
        stimulus=stimuli,
        size_wh_px=size_wh_px,
        px_per_dva=PX_PER_DVA * size_wh_px[0] / SIZE[0],
        image=None,
        features=None,
        stimulus_of_trial=torch.tensor([stimuli.index(s) for s, _ in trials]),
        subject=tuple(who for _, who in trials),
        trial=torch.arange(n),
        xy_px=torch.full((n, 2, 2), 3.0),
        duration_s=torch.full((n, 2), 0.2),
        valid=torch.ones(n, 2, dtype=torch.bool),
    )


def kde_oracle(fixations, sigma_px, size_wh_px=SIZE):
    """Histogram of the pixels that hold the fixations, filtered by SciPy, divided by its sum."""
    width, height = size_wh_px
    counts = np.zeros((height, width))
    for x, y in fixations[["x_px", "y_px"]].to_numpy() * (width / SIZE[0], height / SIZE[1]):
        counts[int(y), int(x)] += 1.0
    filtered = gaussian_filter(counts, sigma_px, mode="nearest", truncate=4.0)
    return filtered / filtered.sum()


def center_oracle(stimulus, parameters, size_wh_px=SIZE):
    fixations, _ = tables()
    others = fixations[fixations["stimulus"] != stimulus]
    density = kde_oracle(others, parameters["sigma_of_width"] * size_wh_px[0], size_wh_px)
    return (1 - parameters["uniform"]) * density + parameters["uniform"] / density.size


def human_oracle(source, stimulus, subject, human):
    fixations, _ = tables()
    own = human.memory["parameters"]
    a, b = own["center_bias"], own["uniform"]
    others = fixations[(fixations["stimulus"] == source) & (fixations["subject"] != subject)]
    center = center_oracle(stimulus, human.center_bias.memory["parameters"])
    return (1 - a - b) * kde_oracle(others, own["sigma_of_width"] * SIZE[0]) + a * center + b / center.size


def at(density, fixations):
    x, y = fixations[["x_px", "y_px"]].to_numpy().astype(int).T
    return density[y, x]


# Center bias


@pytest.mark.parametrize("size_wh_px", [SIZE, (48, 64)])
def test_center_bias_is_the_density_of_all_other_images(size_wh_px):
    model = fitted("center_bias")
    got = model.log_density(batch_of([(s, "ann") for s in (*STIMULI, "new")], size_wh_px))
    for row, stimulus in enumerate((*STIMULI, "new")):
        expected = np.log(center_oracle(stimulus, model.memory["parameters"], size_wh_px))
        np.testing.assert_allclose(got[row], expected, **FLOAT32_LOG)


@pytest.mark.parametrize("name", ["center_bias", "human"])
def test_held_out_values_are_those_of_the_maps(name):
    """What the fit maximises is what prediction gives: the two are computed by different code."""
    fixations, _ = tables()
    model = fitted(name)
    sigma = model.memory["parameters"]["sigma_of_width"]
    expected = np.empty(len(fixations))
    for stimulus, subject in {(s, w) for s in STIMULI for w in SUBJECTS}:
        rows = ((fixations["stimulus"] == stimulus) & (fixations["subject"] == subject)).to_numpy()
        kept = fixations["stimulus"] != stimulus
        if name == "human":
            kept = (fixations["stimulus"] == stimulus) & (fixations["subject"] != subject)
        expected[rows] = at(kde_oracle(fixations[kept], sigma * SIZE[0]), fixations[rows])
    got = model.at_fixations(sigma) if name == "center_bias" else model._leave_one_subject_out(sigma)
    np.testing.assert_allclose(got, expected, **FLOAT64)


def test_center_bias_never_uses_the_scored_image():
    fixations, stimuli = tables()
    moved = fixations.copy()
    on_b = moved["stimulus"] == "b"
    moved.loc[on_b, ["x_px", "y_px"]] = [1.0, 1.0]
    before = fitted("center_bias")
    after = create_model("center_bias").fit_fixations(moved, stimuli, PX_PER_DVA)
    after.memory["parameters"] = before.memory["parameters"]
    batch = batch_of([("b", "ann"), ("c", "ann")])
    first, second = before.log_density(batch), after.log_density(batch)
    # The sum over everybody minus the image's own: only rounding of the difference is left.
    torch.testing.assert_close(first[0], second[0], rtol=0, atol=FLOAT32_LOG["atol"])
    assert (first[1] - second[1]).abs().max() > 0.1


def center_likelihood(sigma_of_width, uniform):
    """Held-out log-likelihood, each image counting the same; from the oracle alone."""
    fixations, _ = tables()
    means = [
        np.log(at(center_oracle(s, {"sigma_of_width": sigma_of_width, "uniform": uniform}), part)).mean()
        for s, part in fixations.groupby("stimulus")
    ]
    return float(np.mean(means))


def human_likelihood(sigma_of_width, a, b):
    fixations, _ = tables()
    center = fitted("human").center_bias.memory["parameters"]
    means = []
    for stimulus, of_image in fixations.groupby("stimulus"):
        q = center_oracle(stimulus, center)
        values = [
            np.log(
                (1 - a - b) * at(kde_oracle(of_image[of_image["subject"] != who], sigma_of_width * SIZE[0]), part)
                + a * at(q, part)
                + b / q.size
            )
            for who, part in of_image.groupby("subject")
        ]
        means.append(np.concatenate(values).mean())
    return float(np.mean(means))


def test_center_bias_parameters_maximise_the_held_out_likelihood():
    own = fitted("center_bias").memory["parameters"]
    sigma, uniform = own["sigma_of_width"], own["uniform"]
    best = center_likelihood(sigma, uniform)
    assert 0.005 < sigma < 0.15
    assert 0.0 < uniform < 1.0
    # 10 % is five times the tolerance of the search over log bandwidth.
    for changed in ((sigma * 1.1, uniform), (sigma / 1.1, uniform), (sigma, uniform * 1.2), (sigma, uniform / 1.2)):
        assert center_likelihood(*changed) < best, changed


def test_human_parameters_maximise_the_held_out_likelihood():
    own = fitted("human").memory["parameters"]
    sigma, a, b = own["sigma_of_width"], own["center_bias"], own["uniform"]
    assert own["sigma_dva"] == pytest.approx(sigma * SIZE[0] / PX_PER_DVA)
    # All three parts are in use, so each has two sides to be moved to.
    assert min(1 - a - b, a, b) > 0.01
    best = human_likelihood(sigma, a, b)
    step = 0.2 * min(a, b)
    for changed in (
        (sigma * 1.1, a, b), (sigma / 1.1, a, b), (sigma, a + step, b), (sigma, a - step, b),
        (sigma, a, b + step), (sigma, a, b - step), (sigma, a + step, b - step), (sigma, a - step, b + step),
    ):  # fmt: skip
        assert human_likelihood(*changed) < best, changed


# Mixture weights


@pytest.mark.parametrize("seed", range(4))
def test_mixture_weights_equal_scipys(seed):
    rng = np.random.default_rng(seed)
    components = rng.gamma(0.5, 1.0, (300, 3)) * [3.0, 1.0, 0.5] + 1e-3
    weight = rng.dirichlet(np.ones(300))

    def loss(free):
        share = np.exp(free - free.max())
        return -weight @ np.log(components @ (share / share.sum()))

    found = minimize(loss, np.zeros(3), method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-14, "maxiter": 5000})
    got = mixture_weights(components, weight, tolerance=1e-9)
    assert got.sum() == pytest.approx(1.0)
    assert (got >= 0).all()
    # The likelihood is flat at its top: weights agree to the root of what it resolves, the value far better.
    assert -weight @ np.log(components @ got) == pytest.approx(found.fun, abs=1e-9)
    share = np.exp(found.x - found.x.max())
    np.testing.assert_allclose(got, share / share.sum(), atol=2e-4)


def test_mixture_weights_by_hand():
    # Three held-out fixations, each possible under one component only: the weights are their shares.
    components = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    np.testing.assert_allclose(mixture_weights(components, np.full(3, 1 / 3)), [2 / 3, 1 / 3])
    np.testing.assert_allclose(image_weights(np.array([0, 0, 0, 1])), [1 / 6, 1 / 6, 1 / 6, 1 / 2])
    # A stimulus of which nothing is left has no say, and takes none from the others.
    np.testing.assert_allclose(image_weights(np.array([0, 2, 2])), [1 / 2, 1 / 4, 1 / 4])


# People


def test_human_is_everybody_else():
    human = fitted("human")
    trials = [(s, who) for s in STIMULI[:3] for who in (*SUBJECTS, "stranger")]
    got = human.log_density(batch_of(trials))
    for row, (stimulus, subject) in enumerate(trials):
        expected = np.log(human_oracle(stimulus, stimulus, subject, human))
        np.testing.assert_allclose(got[row], expected, **FLOAT32_LOG, err_msg=f"{stimulus}, {subject}")


def test_human_never_uses_the_scored_trial():
    fixations, stimuli = tables()
    moved = fixations.copy()
    own = (moved["stimulus"] == "b") & (moved["subject"] == "bob")
    moved.loc[own, ["x_px", "y_px"]] = [1.0, 1.0]
    before = fitted("human")
    after = create_model("human").fit_fixations(moved, stimuli, PX_PER_DVA)
    after.memory["parameters"] = before.memory["parameters"]
    after.center_bias.memory["parameters"] = before.center_bias.memory["parameters"]
    batch = batch_of([("b", "bob"), ("b", "ann")])
    first, second = before.log_density(batch), after.log_density(batch)
    torch.testing.assert_close(first[0], second[0], rtol=0, atol=FLOAT32_LOG["atol"])
    assert (first[1] - second[1]).abs().max() > 0.1


def test_nobody_else_looked():
    """One subject on an image: only the parts that need nobody else are left, and sum to one."""
    fixations, stimuli = tables()
    lonely = fixations[(fixations["stimulus"] != "a") | (fixations["subject"] == "ann")]
    human = create_model("human").fit_fixations(lonely, stimuli, PX_PER_DVA)
    own = human.memory["parameters"]
    a, b = own["center_bias"], own["uniform"]
    center = human.center_bias.density("a", SIZE).numpy()
    got = human.log_density(batch_of([("a", "ann")]))[0]
    np.testing.assert_allclose(got, np.log((a * center + b / center.size) / (a + b)), **FLOAT32_LOG)
    assert not human.sample(batch_of([("a", "ann")]), 2, 3, torch.Generator().manual_seed(0)).valid.any()


def recorded(stimulus, subjects, length):
    fixations, _ = tables()
    kept = fixations[(fixations["stimulus"] == stimulus) & fixations["subject"].isin(subjects)]
    return [part[["x_px", "y_px"]].to_numpy()[:length] for _, part in kept.groupby("trial")]


@pytest.mark.parametrize("length", [3, 30])
def test_human_samples_are_paths_of_other_subjects(length):
    paths = fitted("human").sample(batch_of([("b", "bob")]), 60, length, torch.Generator().manual_seed(0))
    known = recorded("b", [who for who in SUBJECTS if who != "bob"], length)
    seen = set()
    for xy, valid in zip(paths.xy_px[0].numpy(), paths.valid[0].numpy(), strict=True):
        # Relative positions times the size, in float32: not the last bit.
        match = [i for i, path in enumerate(known) if valid.sum() == len(path) and np.allclose(xy[valid], path)]
        assert match, "a path that no other subject made"
        seen.update(match)
    # Sixty draws from three people: somebody is missed once in 10^10.
    assert seen == {0, 1, 2}


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_shuffled_human_is_a_derangement(seed):
    fixations, stimuli = tables()
    model = create_model("shuffled_human", seed=seed).fit_fixations(fixations, stimuli, PX_PER_DVA)
    partners = [model.partner(s) for s in STIMULI]
    assert sorted(partners) == sorted(STIMULI)
    assert all(s != other for s, other in zip(STIMULI, partners, strict=True))
    # One cycle, and not a function of the order in which the fixations came.
    reached = [STIMULI[0]]
    while len(reached) < len(STIMULI):
        reached.append(model.partner(reached[-1]))
    assert sorted(reached) == sorted(STIMULI)
    backwards = fixations.iloc[::-1].sort_values("fixation", kind="stable")
    again = create_model("shuffled_human", seed=seed).fit_fixations(backwards, stimuli, PX_PER_DVA)
    assert [again.partner(s) for s in STIMULI] == partners


def test_seeds_shuffle_differently():
    fixations, stimuli = tables()
    pairs = {
        tuple(map(create_model("shuffled_human", seed=seed).fit_fixations(fixations, stimuli, 6.0).partner, STIMULI))
        for seed in range(4)
    }
    assert len(pairs) > 1


def test_shuffled_human_is_the_human_recipe_on_the_partner():
    model = fitted("shuffled_human")
    got = model.log_density(batch_of([(s, "ann") for s in STIMULI]))
    for row, stimulus in enumerate(STIMULI):
        expected = np.log(human_oracle(model.partner(stimulus), stimulus, None, model))
        np.testing.assert_allclose(got[row], expected, **FLOAT32_LOG)
    paths = model.sample(batch_of([("b", "bob")]), 5, 30, torch.Generator().manual_seed(0))
    known = recorded(model.partner("b"), SUBJECTS, 30)
    for xy, valid in zip(paths.xy_px[0].numpy(), paths.valid[0].numpy(), strict=True):
        assert any(valid.sum() == len(path) and np.allclose(xy[valid], path) for path in known)


@pytest.mark.parametrize("name", ["center_bias", "human", "shuffled_human"])
def test_fits_need_two_stimuli_and_predictions_need_a_fit(name):
    fixations, stimuli = tables()
    with pytest.raises(InputError, match="needs fixations on at least 2 stimuli"):
        create_model(name).fit_fixations(fixations[fixations["stimulus"] == "a"], stimuli, PX_PER_DVA)
    with pytest.raises(InputError, match="is not fitted; call fit_fixations first"):
        create_model(name).log_density(batch_of([("a", "ann")]))


# The worked example on real data


def _padded(fixations):
    """(subjects, T, 2) float64 and (subjects, T) bool of one image."""
    parts = [part[["x_px", "y_px"]].to_numpy() for _, part in fixations.groupby("subject")]
    xy = np.zeros((len(parts), max(map(len, parts)), 2))
    valid = np.zeros(xy.shape[:2], bool)
    for row, part in enumerate(parts):
        xy[row, : len(part)], valid[row, : len(part)] = part, True
    return torch.from_numpy(xy), torch.from_numpy(valid)


@needs_osie
@pytest.mark.slow
def test_published_worked_example_on_osie():
    """Scores of people and of the center bias on the first 100 images, computed by others with other code.

    Gaussian of 24 px, "nearest" edges, floored coordinates, all fixations with the first; the center bias
    comes from all other images. A score is the mean over images, an image's the mean over all its fixations:
    the mean of its subjects' means would give NSS 3.6821.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PartialDataWarning)
        data = load("osie", root=REAL_DATA)
    if len(data.stimuli) != 560:
        pytest.skip(f"this copy holds {len(data.stimuli)} images, the numbers are those of 560")
    size, sigma_px = (800, 600), 24.0
    everywhere = torch.from_numpy(data.fixations[["x_px", "y_px"]].to_numpy())[None]
    counts = count_fixations(everywhere, torch.ones(everywhere.shape[:2], dtype=torch.bool), size)[0]
    gy, gx = gaussian_operators(size, sigma_px)
    total = gy @ counts @ gx.T
    by_image = dict(tuple(data.fixations.groupby("stimulus")))
    scores = []
    for name in sorted(by_image)[:100]:
        xy, valid = _padded(by_image[name])
        mass = fixation_mass(xy, valid, size, sigma_px)
        kernel = (mass.sum(0) - mass).clamp_(min=0.0)
        kernel /= kernel.sum((1, 2), keepdim=True)
        center = (total - mass.sum(0)).clamp_(min=0.0)
        center = (center / center.sum()).expand(len(xy), -1, -1)
        mixture = 0.85 * kernel + 0.10 * center + 0.05 / center[0].numel()
        share = valid.sum(1) / valid.sum()
        parts = [
            nss(kernel, xy, valid), auc(kernel, xy, valid), nss(center, xy, valid), auc(center, xy, valid),
            information_gain(mixture.log(), center.log(), xy, valid),
        ]  # fmt: skip
        scores.append([float(share.to(part.dtype) @ part) for part in parts])
    people_nss, people_auc, center_nss, center_auc, gain = np.mean(scores, 0)
    # Half a unit of the last published digit.
    assert people_nss == pytest.approx(3.6510, abs=5e-5)
    assert people_auc == pytest.approx(0.92929, abs=5e-6)
    assert center_nss == pytest.approx(0.88571, abs=5e-6)
    assert center_auc == pytest.approx(0.74491, abs=5e-6)
    assert gain == pytest.approx(2.01879, abs=5e-6)
