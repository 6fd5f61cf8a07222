"""Every torchmetrics class over two processes: as over one, whatever the split, the order, or an empty share.

One pair of gloo processes runs all classes, for starting one takes seconds. Batches 0 to 2 go to the first process,
3 and 4 to the second; batch 4 holds no valid item. A new public class without a case here fails by name.
"""

from __future__ import annotations

import importlib
import inspect
import os
import pkgutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Before PyTorch is imported, which this file also is as a program of its own; see gazekit/cli.py.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import pytest
import torch
import torch.distributed as dist
from metric_scenes import make_scene
from torch import Tensor
from torchmetrics import Metric

import gazekit.metrics as gm

SIZE = (801, 397)
WORLD = 2
N_BATCHES = 5
# Of different sizes, split unevenly. The last batch holds no valid item.
TRIALS = (3, 1, 4, 2, 3)
SHARES = ((0, 1, 2), (3, 4))
# Nothing at all on the second process.
ALONE = ((0, 1, 2, 3, 4), ())
# Both add the same float64 numbers, the sums of the batches, in another order: five terms, each rounded once. Scores
# that cancel (NSS, CORM, differences of lengths) are of order 1 to 100, and so is the absolute part.
FLOAT = {"rtol": 1e-12, "atol": 1e-12, "equal_nan": True}
TIME_LIMIT_S = 240

Call = tuple[tuple[Any, ...], dict[str, Any]]


@dataclass(frozen=True)
class Case:
    """How to build a class, and what its updates get.

    Args:
        make: Rank -> metric.
        batches: Arguments of the five updates.
        defined_without_fixations: True where batch 4 has scores: an edit distance to an empty path is its length.
        random: Why one process cannot repeat the numbers of two; "" where it can.

    """

    make: Callable[[int], Metric]
    batches: list[Call]
    defined_without_fixations: bool = False
    random: str = ""


def all_classes() -> dict[str, type[Metric]]:
    """Public classes with an `update`, from every module of the package."""
    found = {}
    for module in pkgutil.iter_modules(gm.__path__, "gazekit.metrics."):
        for name, kind in inspect.getmembers(importlib.import_module(module.name), inspect.isclass):
            own = kind.__module__.startswith("gazekit.metrics.")
            if own and issubclass(kind, Metric) and not name.startswith("_") and not inspect.isabstract(kind):
                found[name] = kind
    return found


def each(arguments: Callable[[int, int], Call]) -> list[Call]:
    """Arguments of the five updates from (batch, number of trials)."""
    return [arguments(batch, n) for batch, n in enumerate(TRIALS)]


def scenes(name: str) -> list[Call]:
    """Map metrics; the last batch has no fixation and no empirical map."""

    def arguments(batch: int, n: int) -> Call:
        scene = make_scene(batch, n)
        if batch == N_BATCHES - 1:
            scene = scene.with_(valid=torch.zeros_like(scene.valid), empirical=scene.empirical * torch.nan)
        return scene.arguments(name), {}

    return each(arguments)


def paths(seed: int, *shape: int, longest: int = 14, size: tuple[int, int] = SIZE) -> tuple[Tensor, Tensor, Tensor]:
    """(..., T, 2) positions, (..., T) valid and durations of 10 to `longest` fixations; NaN in the padding."""
    rng = np.random.default_rng(seed)
    xy, duration_s = rng.random((*shape, longest, 2)) * size, rng.uniform(0.05, 0.6, (*shape, longest))
    valid = np.arange(longest) < rng.integers(10, longest + 1, shape)[..., None]
    xy[~valid], duration_s[~valid] = np.nan, np.nan
    return torch.from_numpy(xy), torch.from_numpy(valid), torch.from_numpy(duration_s)


def without_fixations(valid: Tensor, batch: int) -> Tensor:
    return torch.zeros_like(valid) if batch == N_BATCHES - 1 else valid


def pairs(durations: str = "", *, near: bool = False, **more: Any) -> list[Call]:
    """Pairs of paths; durations by "position", by "keyword", or not at all. The last batch has empty first paths."""

    def arguments(batch: int, n: int) -> Call:
        size = (150, 90) if near else SIZE
        (a, av, a_s), (b, bv, b_s) = paths(10 + batch, n, size=size), paths(20 + batch, n, size=size)
        av, keywords = without_fixations(av, batch), dict(more)
        if durations == "keyword":
            keywords |= {"a_duration_s": a_s, "b_duration_s": b_s}
        return (a, av, b, bv, *((a_s, b_s) if durations == "position" else ())), keywords

    return each(arguments)


def symbols() -> list[Call]:
    def arguments(batch: int, n: int) -> Call:
        rng = np.random.default_rng(30 + batch)
        sides = []
        for size in (9, 12):
            valid = torch.from_numpy(np.arange(size) < rng.integers(1, size + 1, n)[:, None])
            sides += [torch.from_numpy(rng.integers(0, 5, (n, size))), without_fixations(valid, batch)]
        return tuple(sides), {}

    return each(arguments)


def images() -> list[Call]:
    """Two samples and three humans for each image."""

    def arguments(batch: int, n: int) -> Call:
        (model, keep, _), (human, others, _) = paths(40 + batch, n, 2), paths(50 + batch, n, 3)
        return (model, without_fixations(keep, batch), human, others), {}

    return each(arguments)


def saccades(human: tuple[int, ...] = (1, 4), **keywords: Any) -> list[Call]:
    """Paths of the model and, in some of the batches, of people."""

    def arguments(batch: int, n: int) -> Call:
        xy, valid, _ = paths(60 + batch, n)
        return (xy, without_fixations(valid, batch)), {**keywords, "human": batch in human}

    return each(arguments)


def searches(*, limits: bool = False, categories: bool = True) -> list[Call]:
    """Targets on one side of the screen, so that some are found; none in the last batch."""

    def arguments(batch: int, n: int) -> Call:
        xy, valid, _ = paths(70 + batch, 5 * n)
        box = torch.tensor([[100.0, 50.0, 420.0, 300.0]], dtype=torch.float64).repeat(5 * n, 1)
        has_box = torch.full((5 * n,), batch != N_BATCHES - 1)
        more = (torch.arange(5 * n) % 3,) if categories else ()
        keywords = {"max_saccades": torch.arange(5 * n) % 5} if limits else {}
        return (xy, valid, box, has_box, *more), keywords

    return each(arguments)


def counts() -> list[Call]:
    def arguments(batch: int, n: int) -> Call:
        rng = np.random.default_rng(80 + batch)
        n_fix = rng.choice([1.0, 2.0, 3.0, 5.0, 9.0, np.inf], 12 * n) * (np.nan if batch == N_BATCHES - 1 else 1.0)
        return (torch.from_numpy(n_fix), torch.from_numpy(rng.integers(0, 6, 12 * n))), {"human": batch in (1, 3)}

    return each(arguments)


def reactions() -> list[Call]:
    def arguments(batch: int, n: int) -> Call:
        rng = np.random.default_rng(90 + batch)
        rt_ms = rng.uniform(400, 900, 6 * n) * (np.nan if batch == N_BATCHES - 1 else 1.0)
        return (torch.from_numpy(rt_ms), torch.from_numpy(rng.choice([3, 6, 9], 6 * n))), {"hard": batch in (0, 3)}

    return each(arguments)


def objects() -> list[Call]:
    def arguments(batch: int, n: int) -> Call:
        rng = np.random.default_rng(100 + batch)
        valid = torch.from_numpy(np.arange(8) < rng.integers(1, 9, n)[:, None])
        target = torch.from_numpy(rng.integers(-1, 4, n))
        return (torch.from_numpy(rng.integers(0, 4, (n, 8))), without_fixations(valid, batch), target), {}

    return each(arguments)


def lengths() -> list[Call]:
    return [((call[0][1], call[0][3]), {}) for call in pairs()]


def other_images() -> list[Call]:
    """Two other images of two pixels each: fewer than a trial fixates, so that every draw takes them all."""
    n_fixated = 5

    def arguments(batch: int, n: int) -> Call:
        scene = make_scene(batch, n, n_fixated)
        # Different pixels: repeated ones count once, and might leave fewer than there are negatives.
        xy = torch.tensor([[1.5 + 5 * k, 2.5 + k] for k in range(n_fixated)], dtype=torch.float64).repeat(n, 1, 1)
        valid = without_fixations(torch.ones(n, n_fixated, dtype=torch.bool), batch)
        others = torch.tensor([[[3.0, 4.0], [9.0, 1.0]], [[5.0, 5.0], [8.0, 2.0]], [[7.0, 7.0], [0.0, 0.0]]])
        return (scene.maps, xy, valid, torch.arange(n) % 3, others, torch.ones(3, 2, dtype=torch.bool)), {}

    return each(arguments)


CENTERS = {"centers_px": torch.tensor([[100.0, 90.0], [420.0, 300.0], [700.0, 40.0], [610.0, 350.0]])}
ON_GRID = {"size_wh_px": SIZE}

CASES: dict[str, Case] = {
    "AUC": Case(lambda rank: gm.AUC(), scenes("auc")),
    "AUCBorji": Case(
        lambda rank: gm.AUCBorji(seed=rank),
        scenes("auc"),
        random="negatives are drawn from one generator per process, so one process draws others for batches 3 and 4",
    ),
    "AUCJudd": Case(lambda rank: gm.AUCJudd(), scenes("auc_judd")),
    "AUCPerf": Case(lambda rank: gm.AUCPerf(6, 3), searches()),
    "AmplitudeDivergence": Case(lambda rank: gm.AmplitudeDivergence(), saccades(px_per_dva=24.0)),
    "AmplitudeWasserstein": Case(lambda rank: gm.AmplitudeWasserstein(), saccades(px_per_dva=24.0)),
    "AsymmetryIndex": Case(lambda rank: gm.AsymmetryIndex([3, 6, 9]), reactions()),
    "CC": Case(lambda rank: gm.CC(), scenes("cc")),
    "ConditionalAUC": Case(lambda rank: gm.ConditionalAUC(), scenes("cauc")),
    "ConditionalInformationGain": Case(lambda rank: gm.ConditionalInformationGain(), scenes("cig")),
    "ConditionalNSS": Case(lambda rank: gm.ConditionalNSS(), scenes("cnss")),
    "CrossRecurrence": Case(lambda rank: gm.CrossRecurrence(radius_px=40.0), pairs(near=True)),
    "CumulativeFound": Case(lambda rank: gm.CumulativeFound(6, 3), searches()),
    "DTW": Case(lambda rank: gm.DTW(normalize=True), pairs()),
    "DirectedHausdorff": Case(lambda rank: gm.DirectedHausdorff(), pairs()),
    "DirectionDivergence": Case(lambda rank: gm.DirectionDivergence(relative=True), saccades()),
    "DirectionWasserstein": Case(lambda rank: gm.DirectionWasserstein(), saccades()),
    "DiscreteFrechet": Case(lambda rank: gm.DiscreteFrechet(), pairs()),
    "EMD": Case(lambda rank: gm.EMD(), scenes("cc")),
    "EditDistance": Case(lambda rank: gm.EditDistance(**ON_GRID), pairs(), defined_without_fixations=True),
    "Euclidean": Case(lambda rank: gm.Euclidean("resample"), pairs()),
    "Eyenalysis": Case(lambda rank: gm.Eyenalysis(), pairs()),
    "GridSequenceScore": Case(lambda rank: gm.GridSequenceScore(**ON_GRID), pairs(), defined_without_fixations=True),
    "Hausdorff": Case(lambda rank: gm.Hausdorff(), pairs()),
    "InformationGain": Case(lambda rank: gm.InformationGain(), scenes("ig")),
    "KLD": Case(lambda rank: gm.KLD("floor"), scenes("kld")),
    "LogLikelihood": Case(lambda rank: gm.LogLikelihood(), scenes("ll")),
    "MannanDistance": Case(lambda rank: gm.MannanDistance(SIZE), pairs()),
    "MannanSimilarity": Case(lambda rank: gm.MannanSimilarity(SIZE, n_random=50), pairs()),
    "MultiMatch": Case(lambda rank: gm.MultiMatch(SIZE, gm.Simplification()), pairs("position")),
    "NSS": Case(lambda rank: gm.NSS(), scenes("nss")),
    "ObjectSearch": Case(lambda rank: gm.ObjectSearch(), objects()),
    "PathLengthDifference": Case(lambda rank: gm.PathLengthDifference(), lengths(), defined_without_fixations=True),
    "PathLengthError": Case(lambda rank: gm.PathLengthError(), lengths(), defined_without_fixations=True),
    "PrefixEditDistance": Case(lambda rank: gm.PrefixEditDistance(**ON_GRID), pairs()),
    "ProbabilityMismatch": Case(lambda rank: gm.ProbabilityMismatch(torch.linspace(0.1, 0.9, 7), 3), searches()),
    "SIM": Case(lambda rank: gm.SIM(), scenes("sim")),
    "ScaledTimeDelay": Case(lambda rank: gm.ScaledTimeDelay(**ON_GRID), pairs(), defined_without_fixations=True),
    "ScanMatch": Case(
        lambda rank: gm.ScanMatch(**ON_GRID, temporal_bin_s=0.05), pairs("keyword"), defined_without_fixations=True
    ),
    "ScanPathPlausibility": Case(lambda rank: gm.ScanPathPlausibility(**ON_GRID), images()),
    "ScanpathRatio": Case(lambda rank: gm.ScanpathRatio(), searches(categories=False)),
    "SearchAccuracy": Case(lambda rank: gm.SearchAccuracy(3), searches(limits=True)),
    "SearchCorrelation": Case(lambda rank: gm.SearchCorrelation(6, 4), counts()),
    "SearchEfficiency": Case(lambda rank: gm.SearchEfficiency(6, 3), searches()),
    "SelfRecurrence": Case(
        lambda rank: gm.SelfRecurrence(radius_px=40.0), [(call[0][:2], {}) for call in pairs(near=True)]
    ),
    "SequenceScore": Case(lambda rank: gm.SequenceScore(), pairs(**CENTERS), defined_without_fixations=True),
    "ShuffledAUC": Case(lambda rank: gm.ShuffledAUC(), scenes("sauc")),
    # Seeds that differ: here they must not matter.
    "ShuffledAUCMIT": Case(lambda rank: gm.ShuffledAUCMIT(seed=rank, n_others=2), other_images()),
    "StringTimeDelay": Case(lambda rank: gm.StringTimeDelay(**ON_GRID), pairs()),
    "SymbolEditDistance": Case(lambda rank: gm.SymbolEditDistance(transpositions=True), symbols()),
    "SymbolSequenceScore": Case(lambda rank: gm.SymbolSequenceScore(), symbols()),
    "TFPAUC": Case(lambda rank: gm.TFPAUC(6, 3), searches()),
    "TimeDelayDistance": Case(lambda rank: gm.TimeDelayDistance(k=3, inner="sum"), pairs()),
}
NAMES = sorted(CASES)
REPEATABLE = [name for name in NAMES if not CASES[name].random]
# These keep all samples, and here the second process has none of the model.
KEEP_ALL = {
    "AmplitudeWasserstein": Case(lambda rank: gm.AmplitudeWasserstein(), saccades((1, 3, 4), px_per_dva=24.0)),
    "DirectionWasserstein": Case(lambda rank: gm.DirectionWasserstein(), saccades((1, 3, 4))),
}
# Two empty strings are equal: their distance is 0.
DEFINED = {name for name, case in CASES.items() if case.defined_without_fixations} | {"SymbolEditDistance"}


def updated(case: Case | str, batches: Iterable[int], rank: int = 0) -> Metric:
    case = CASES[case] if isinstance(case, str) else case
    metric = case.make(rank)
    for batch in batches:
        arguments, keywords = case.batches[batch]
        metric.update(*arguments, **keywords)
    return metric


def states(metric: Metric) -> dict[str, Tensor]:
    """Copies of all states; a list of samples as one sorted tensor, for the order in which they came means nothing."""
    found = {}
    for name in metric._defaults:
        value = getattr(metric, name)
        if isinstance(metric._defaults[name], list):
            value = torch.cat(list(value)) if isinstance(value, list) and value else value
            found[name] = value.sort().values if isinstance(value, Tensor) else torch.zeros(0)
        else:
            found[name] = value.detach().clone()
    return found


def flat(result: Any) -> Tensor:
    """A result of any kind (number, curve, several by name) as one tensor."""
    if isinstance(result, Tensor):
        return result.detach().double().reshape(-1)
    return torch.cat([flat(part) for part in (result.values() if isinstance(result, Mapping) else result)])


def agree(got: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Integer states bit for bit, float64 ones up to the order of summation."""
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        if value.is_floating_point():
            torch.testing.assert_close(got[name].double(), value.double(), **FLOAT)
        else:
            assert got[name].dtype == torch.long, name
            assert torch.equal(got[name], value), name


def serve(rank: int, folder: Path, cases: dict[str, Case], alone: Iterable[str]) -> None:
    """One of the two processes: every class over its share, synchronised, read, and synchronised no more."""
    dist.init_process_group("gloo", init_method=f"file://{folder / 'rendezvous'}", rank=rank, world_size=WORLD)
    found = {}
    for what, shares, names in (("shares", SHARES, sorted(cases)), ("alone", ALONE, sorted(alone))):
        for name in names:
            metric = updated(cases[name], shares[rank], rank)
            own = states(metric)
            with metric.sync_context():
                together = states(metric)
            # Without an update of its own torchmetrics warns; the data of the other process are enough here.
            metric._update_count = max(1, metric._update_count)
            result = flat(metric.compute())
            found[what, name] = {"own": own, "together": together, "result": result, "after": states(metric)}
    torch.save(found, folder / f"rank_{rank}.pt")
    dist.destroy_process_group()


def run(folder: Path, which: str) -> list[dict[tuple[str, str], dict[str, Any]]]:
    """What the two processes found, by rank: {(share, class): states before, together, after, and the result}."""
    environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": "1"}
    logs = [folder / f"rank_{rank}.log" for rank in range(WORLD)]
    running = []
    for rank, log in enumerate(logs):
        with log.open("w") as out:
            words = [sys.executable, "-W", "error", __file__, which, str(rank), str(folder)]
            running.append(subprocess.Popen(words, env=environment, stdout=out, stderr=subprocess.STDOUT))
    deadline = time.monotonic() + TIME_LIMIT_S
    # If one fails, the other may wait for it without end.
    while any(p.poll() is None for p in running) and not any(p.poll() for p in running) and time.monotonic() < deadline:
        time.sleep(0.05)
    for process in running:
        process.kill()
        process.wait()
    said = "\n".join(log.read_text() for log in logs)
    assert [process.returncode for process in running] == [0, 0], said
    return [torch.load(folder / f"rank_{rank}.pt") for rank in range(WORLD)]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[tuple[str, str], dict[str, Any]]]:
    """All classes; started once."""
    return run(tmp_path_factory.mktemp("processes"), "all")


def test_every_public_class_has_a_case():
    found = all_classes()
    assert set(found) == set(CASES), "a class without a case here, or a case without a class"
    assert {name for name in found if getattr(gm, name, None) is not found[name]} == set(), "not exported"
    for name, case in CASES.items():
        assert type(case.make(0)) is found[name]
        assert len(case.batches) == N_BATCHES == len(TRIALS) == sum(map(len, SHARES))


@pytest.mark.parametrize("name", NAMES)
def test_two_processes_compute_what_one_does(name, ranks):
    found = [rank["shares", name] for rank in ranks]
    if CASES[name].random:
        # One process with a generator for each share.
        whole = updated(name, SHARES[0], 0)
        whole.merge_state(updated(name, SHARES[1], 1))
        assert not torch.equal(states(whole)["total"], states(updated(name, range(N_BATCHES)))["total"])
    else:
        whole = updated(name, range(N_BATCHES))
    expected = flat(whole.compute())
    assert expected.isfinite().any()
    for one in found:
        agree(one["together"], states(whole))
        torch.testing.assert_close(one["result"], expected, **FLOAT)
    # Both have the same numbers, to the last bit: neither is at an advantage.
    for state, value in found[0]["together"].items():
        assert torch.equal(value, found[1]["together"][state]), state
    assert torch.equal(found[0]["result"].nan_to_num(-1.0), found[1]["result"].nan_to_num(-1.0))


@pytest.mark.parametrize("name", NAMES)
def test_each_process_has_its_own_counts_again_afterwards(name, ranks):
    for rank, share in enumerate(SHARES):
        one = ranks[rank]["shares", name]
        agree(one["own"], states(updated(name, share, rank)))
        agree(one["after"], one["own"])
        # The other's share was added.
        assert any(not torch.equal(one["together"][state], value) for state, value in one["own"].items())


@pytest.mark.parametrize("name", sorted(set(NAMES) - set(KEEP_ALL)))
def test_a_process_without_a_batch_has_the_result_of_the_other(name, ranks):
    whole = updated(name, range(N_BATCHES))
    for rank in ranks:
        agree(rank["alone", name]["together"], states(whole))
        torch.testing.assert_close(rank["alone", name]["result"], flat(whole.compute()), **FLOAT)


def test_a_process_without_a_sample_of_one_kind(tmp_path):
    """Of classes that keep all samples; in processes of their own, for what goes wrong here ends them."""
    found = run(tmp_path, "keep_all")
    for name, case in KEEP_ALL.items():
        whole = updated(case, range(N_BATCHES))
        for what in ("shares", "alone"):
            for rank in found:
                agree(rank[what, name]["together"], states(whole))
                torch.testing.assert_close(rank[what, name]["result"], flat(whole.compute()), **FLOAT)


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_without_a_valid_item_is_counted_and_adds_nothing(name):
    without, whole = states(updated(name, range(N_BATCHES - 1))), states(updated(name, range(N_BATCHES)))
    if "n_total" in whole:
        assert int(whole["n_total"]) > int(without["n_total"])
    differ = {state for state, value in whole.items() if not torch.equal(value, without[state])}
    assert (differ - {"n_total"} != set()) is (name in DEFINED), differ


@pytest.mark.parametrize("name", NAMES)
def test_reset_forgets_everything(name):
    metric, fresh = updated(name, range(N_BATCHES)), states(CASES[name].make(0))
    first = states(metric)
    assert any(
        value.shape != fresh[state].shape or not torch.equal(value, fresh[state]) for state, value in first.items()
    )
    metric.compute()
    metric.reset()
    agree(states(metric), fresh)
    for arguments, keywords in CASES[name].batches:
        metric.update(*arguments, **keywords)
    if CASES[name].random:
        # Documented: the generator goes on, so other negatives are drawn.
        assert not torch.equal(states(metric)["total"], first["total"])
        return
    for state, value in states(metric).items():
        assert torch.equal(value, first[state]), state


@pytest.mark.parametrize("name", REPEATABLE)
def test_a_saved_state_goes_on_where_it_was(name):
    metric, other = updated(name, (0, 1, 2)), CASES[name].make(0)
    # By default a checkpoint holds settings (human curve, set sizes) and no counts.
    assert not set(metric.state_dict()) & set(metric._defaults)
    metric.persistent(True)
    saved = metric.state_dict()
    assert set(metric._defaults) <= set(saved)
    other.persistent(True)
    other.load_state_dict(saved)
    for arguments, keywords in CASES[name].batches[3:]:
        other.update(*arguments, **keywords)
    whole = updated(name, range(N_BATCHES))
    agree(states(other), states(whole))
    torch.testing.assert_close(flat(other.compute()), flat(whole.compute()), **FLOAT)
    # What was saved did not go on with it.
    agree(states(metric), states(updated(name, (0, 1, 2))))


@pytest.mark.parametrize("name", REPEATABLE)
def test_the_order_of_merging_does_not_matter(name):
    whole = updated(name, range(N_BATCHES))
    for order in ((4, 2, 0, 3, 1), (1, 3, 4, 0, 2)):
        agree(states(updated(name, order)), states(whole))
        merged = updated(name, order[:1])
        for batch in order[1:]:
            merged.merge_state(updated(name, (batch,)))
        agree(states(merged), states(whole))
        torch.testing.assert_close(flat(merged.compute()), flat(whole.compute()), **FLOAT)


if __name__ == "__main__":
    what, number, place = sys.argv[1:]
    everything = what == "all"
    serve(
        int(number),
        Path(place),
        CASES if everything else KEEP_ALL,
        set(NAMES) - set(KEEP_ALL) if everything else KEEP_ALL,
    )
