"""The search for fixations: known traces of the published program, its invariants, and the faster strategy."""

import math

import numpy as np
import pytest
import torch

from gazekit import InputError
from gazekit.models.fovea_search import (
    Candidates,
    GlobalDraws,
    PathDraws,
    SignGradient,
    _stratified,
    explore,
    from_px,
    to_px,
)
from tests.models.fovea_scenes import SIDE, WIDTH, ToyTask, published_search, toy_image, toy_objective

# Float32 losses of a cosine: a few units in the last place of 1.
ROUNDING = 2e-6


def published(n, restart="random"):
    return SignGradient(iterations=n, step=0.1, restart=restart, best="after_step", clamp=False)


def run(strategy, length, retention=0.0, images=None, seed=0):
    draws = GlobalDraws(torch.Generator().manual_seed(seed))
    return explore(toy_objective(retention, images), strategy, length, draws)


def row_column(exploration, path=0):
    return exploration.p[path].flip(-1).tolist()


def approx(rows, tolerance=1e-5):
    return [pytest.approx(row, abs=tolerance) for row in rows]


# Known numbers


def test_blur_residual():
    residual = toy_objective().residual
    assert residual.double().sum().item() == pytest.approx(-4.062112, abs=2e-4)  # 12,288 float32 terms
    assert residual.abs().max().item() == pytest.approx(0.251314, abs=1e-6)
    assert residual[0, 0, 0, 0].item() == pytest.approx(0.085947, abs=1e-6)


@pytest.mark.parametrize(
    ("row_column", "loss", "slope"),
    [((0.0, 0.0), 1.0316799, (-0.0209830, 0.0364500)), ((0.3, -0.6), 1.0238762, (0.0011409, -0.0374055))],
)
def test_losses_and_gradients(row_column, loss, slope):
    at = torch.tensor([row_column]).flip(-1)
    got, gradient = toy_objective()(torch.tensor([0]), at, torch.tensor([True]))
    assert got.item() == pytest.approx(loss, abs=ROUNDING)
    assert gradient[0].flip(-1).tolist() == pytest.approx(slope, abs=2e-6)


@pytest.mark.parametrize("retention", [0.0, 0.7, 1.0])
def test_loss_trace_of_the_first_fixation(retention):
    trace = run(published(5), 1, retention).trace[0, 0].tolist()
    assert trace == pytest.approx([1.031680, 1.025528, 1.019974, 1.016996, 1.017559], abs=1e-6)


def test_the_published_position_is_one_step_past_the_best():
    assert row_column(run(published(5), 1)) == approx([(0.4, -0.4)])
    correct = SignGradient(5, 0.1, "random", best="evaluated")
    found = run(correct, 1)
    assert row_column(found) == approx([(0.3, -0.3)])
    assert found.loss.item() == pytest.approx(1.016996, abs=1e-6)
    # One iteration: a step away from the center, for every fixation; or the center itself.
    assert row_column(run(published(1), 3)) == approx([(0.1, -0.1)] * 3)
    assert row_column(run(SignGradient(1, best="evaluated"), 3)) == approx([(0.0, 0.0)] * 3)


@pytest.mark.parametrize(
    ("n", "restart", "retention", "expected"),
    [
        (5, "jitter", 0.7, [(0.4, -0.4), (0.4, -0.4), (0.1, -0.5), (0.3, -0.5)]),
        (20, "random", 0.0, [(0.4, -0.4), (-0.683740, 0.959598), (0.4, -0.4), (-0.708539, 1.007370)]),
        (20, "random", 0.7, [(0.4, -0.4), (-0.683740, 0.959598), (0.4, -0.4), (-0.353059, -0.771357)]),
        (20, "jitter", 0.0, [(0.335980, -0.192328), (0.268523, -0.512658), (0.4, -0.2), (0.120358, -0.560926)]),
    ],
)
def test_published_scanpaths(n, restart, retention, expected):
    """Of the reference run on a CPU, seed 0; they stand on PyTorch's generator."""
    assert row_column(run(published(n, restart), 4, retention)) == approx(expected)


def test_published_draws_depend_on_the_batch_and_ours_do_not():
    pair = torch.cat([toy_image(), toy_image().flip(-1)])
    together = run(published(20), 3, images=pair)
    assert row_column(together) == approx([(0.4, -0.4), (0.4, -0.4), (-0.708539, 1.007370)])
    assert not torch.equal(together.p[0], run(published(20), 3).p[0])
    strategy = SignGradient(20)
    both = explore(toy_objective(0.7, pair), strategy, 4, PathDraws([7, 8]))
    for row in range(2):
        alone = explore(toy_objective(0.7, pair[row : row + 1]), strategy, 4, PathDraws([7 + row]))
        torch.testing.assert_close(both.p[row], alone.p[0], rtol=0, atol=1e-6)


# The program as published, one image at a time


@pytest.mark.parametrize("restart", ["random", "jitter"])
@pytest.mark.parametrize("retention", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_lock_step_equals_the_published_loop(restart, retention, seed):
    task, image = ToyTask(), toy_image()
    residual = toy_objective().residual
    target = task.target(image)
    expected = published_search(
        lambda seen: task.loss(seen, target)[0], image, residual, WIDTH,
        n=12, length=4, step=0.1, restart=restart, retention=retention, generator=torch.Generator().manual_seed(seed),
    )  # fmt: skip
    got = run(published(12, restart), 4, retention, seed=seed)
    torch.testing.assert_close(got.p[0].flip(-1), expected, rtol=0, atol=1e-5)


def test_what_was_evaluated_is_looked_up():
    """Three scanpaths of one image go the same way until chance parts them, and are then paid for only once."""
    objective = toy_objective(goal_of_path=[0, 0, 0])
    found = explore(objective, SignGradient(4), 1, PathDraws([1, 2, 3]))
    assert found.n_forward == 4
    assert torch.equal(found.trace[0], found.trace[2])
    # Without retention the third fixation starts from the memory of the second, and so on to and fro.
    objective = toy_objective()
    explore(objective, SignGradient(5), 4, PathDraws([1]))
    again = objective.n_forward
    assert again < 20


def test_gradients_are_not_taken_of_what_is_thrown_away():
    found = run(SignGradient(20), 4)
    assert found.n_forward <= 80 + 8
    assert found.n_gradient < 0.6 * found.n_forward
    # Whoever asks for everything gets the same fixations: the saving is no approximation.
    full = run(published(20), 4)
    assert full.n_gradient < full.n_forward


# Invariants


def test_a_constant_image_moves_nothing():
    constant = torch.full((1, 3, SIDE, SIDE), 0.4)
    for strategy in (published(8), published(8, "jitter"), SignGradient(8), SignGradient(8, restart="jitter")):
        found = run(strategy, 3, images=constant)
        assert found.p.abs().max() == 0.0
        # The sharp and the blurred image are one up to the rounding of the kernel's sum.
        assert (found.trace - found.trace[0, 0, 0]).abs().max() < ROUNDING


def test_full_retention_only_adds_to_memory():
    objective = toy_objective(1.0)
    before = objective.memory
    for _ in range(3):
        found = SignGradient(6).search(objective, torch.zeros(1, 2), PathDraws([0]))
        objective.remember(found.p)
        assert (objective.memory >= before).all()
        before = objective.memory


def test_a_mirrored_image_has_the_mirrored_path():
    """Under a task that does not tell left from right; no chance is involved in four steps."""

    class Symmetric(ToyTask):
        def loss(self, seen, target):
            return ToyTask.loss(self, seen, target) + ToyTask.loss(self, seen.flip(-1), target)

    found = []
    for image in (toy_image(), toy_image().flip(-1)):
        objective = toy_objective(images=image)
        task = Symmetric()
        objective.loss = task.loss
        found.append(explore(objective, SignGradient(4), 3, PathDraws([0])).p[0])
    torch.testing.assert_close(found[0] * torch.tensor([-1.0, 1.0]), found[1], rtol=0, atol=1e-5)
    assert found[0][:, 0].abs().min() > 0.05


def test_the_scale_of_a_target_does_not_matter():
    objective, louder = toy_objective(0.5), toy_objective(0.5)
    louder.target = 1e3 * louder.target
    a, b = (explore(o, SignGradient(10), 3, PathDraws([0])).p for o in (objective, louder))
    torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


def test_positions_stay_in_the_image_unless_as_published():
    assert run(published(20), 4).p.abs().max() > 1.0
    assert run(SignGradient(20), 8).p.abs().max() <= 1.0
    assert run(Candidates(), 8).p.abs().max() <= 1.0


def test_starting_from_the_previous_fixation():
    objective = toy_objective()
    found = explore(objective, SignGradient(1), 3, PathDraws([0]), start="previous")
    assert found.p.abs().max() == 0.0  # the start itself, evaluated once, is the best
    moved = explore(toy_objective(), published(1), 3, PathDraws([0]), start="previous").p[0]
    assert (moved[1] - moved[0]).abs().min() == pytest.approx(0.1, abs=1e-6)
    assert moved[1].abs().max() != pytest.approx(0.1, abs=1e-3)


def test_a_target_that_changes_along_the_path():
    """Early fixations serve the early target, and the very first nothing else."""
    early = -ToyTask().wanted
    blend = explore(toy_objective(1.0, early_target=early), SignGradient(4), 3, PathDraws([0]))
    other = toy_objective(1.0)
    other.target = early
    first = explore(other, SignGradient(4), 1, PathDraws([0]))
    torch.testing.assert_close(blend.p[:, 0], first.p[:, 0], rtol=0, atol=1e-6)
    plain = explore(toy_objective(1.0), SignGradient(4), 1, PathDraws([0]))
    assert (plain.p[:, 0] - first.p[:, 0]).abs().max() > 0.05


def test_a_loss_that_is_not_a_number_says_where():
    objective = toy_objective()
    objective.loss = lambda seen, target: seen.sum((1, 2, 3)) * math.nan
    with pytest.raises(
        InputError, match=r"not a number with the fovea at \(x, y\) = \(0\.000, 0\.000\) in torch\.float32"
    ):
        explore(objective, SignGradient(2), 1, PathDraws([0]))


# Candidates


def test_candidates_find_nearly_what_a_fine_grid_finds():
    objective = toy_objective()
    axis = torch.linspace(-1.0, 1.0, 41)
    grid = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), -1).view(-1, 2)
    losses = objective(torch.zeros(len(grid), dtype=torch.long), grid, torch.zeros(len(grid), dtype=torch.bool))[0]
    best, worst = losses.min().item(), losses.max().item()
    for seed in range(5):
        found = explore(toy_objective(), Candidates(), 1, PathDraws([seed]))
        # Within a tenth of the range of losses over the image.
        assert found.loss.item() < best + 0.1 * (worst - best)


def test_candidates_cover_every_cell():
    uniform = torch.rand(2, 25, 2, generator=torch.Generator().manual_seed(0)) * 2.0 - 1.0
    at = _stratified(uniform)
    cells = ((at + 1.0) / 2.0 * 5).floor().long()
    assert {tuple(cell) for cell in cells[0].tolist()} == {(i, j) for i in range(5) for j in range(5)}
    odd = _stratified(torch.zeros(1, 7, 2))
    assert odd.abs().max() < 1.0
    assert len({tuple(np.round(row, 6)) for row in odd[0].tolist()}) == 7


def test_refinement_never_makes_it_worse():
    rough = explore(toy_objective(), Candidates(refine=0), 1, PathDraws([3]))
    fine = explore(toy_objective(), Candidates(refine=6), 1, PathDraws([3]))
    assert fine.loss.item() < rough.loss.item()
    assert fine.loss.item() == pytest.approx(fine.trace.min().item())


def test_positions_and_pixels():
    p = torch.tensor([[-1.0, -1.0], [0.0, 0.0], [1.0, 0.25]])
    px = to_px(p, (224, 101))
    assert px.tolist() == [[0.5, 0.5], [112.0, 50.5], [223.5, 63.0]]
    torch.testing.assert_close(from_px(px, (224, 101)), p, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "arguments", "match"),
    [
        (SignGradient, {"iterations": 0}, "iterations must be positive"),
        (SignGradient, {"restart": "never"}, r"restart is 'never', expected one of \['random', 'jitter'\]"),
        (SignGradient, {"best": "last"}, "best is 'last'"),
        (Candidates, {"step": 0.0}, "step must be positive"),
        (Candidates, {"refine": -1}, "refine must not be negative"),
    ],
)
def test_options_that_cannot_be(kind, arguments, match):
    with pytest.raises(InputError, match=match):
        kind(**arguments)
