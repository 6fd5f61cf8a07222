"""How long the path metrics take for all pairs of people on an image, and map metrics beside those of pysaliency.

Peers are other libraries that compute the same number. They are timed in the same run on a part of the same pairs,
one after the other as their users call them, with inputs made ready beforehand (ours start from pixels, also where
a grid turns them into strings). A peer that is not installed, or does not run here, is said to be left out.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import math
import platform
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gazekit.batch import TrialBatch
from gazekit.datasets import load
from gazekit.datasets.datamodule import StimulusItems
from gazekit.density import fixation_density
from gazekit.errors import InputError
from gazekit.metrics.auc import auc
from gazekit.metrics.distribution import cc, kld, sim
from gazekit.metrics.edit_distance import edit_distance
from gazekit.metrics.grid_strings import grid_symbols
from gazekit.metrics.multimatch import Simplification, multimatch
from gazekit.metrics.nss import nss
from gazekit.metrics.path_distance import discrete_frechet, dtw, eyenalysis, hausdorff
from gazekit.metrics.path_pairs import all_pairs
from gazekit.metrics.recurrence import cross_recurrence
from gazekit.metrics.scanmatch import scanmatch
from gazekit.metrics.sequence_score import ss_grid
from gazekit.metrics.time_delay import scaled_time_delay, string_time_delay, time_delay_distance
from gazekit.provenance import git_commit

#: Scores some rows of a list, and returns how many of them it could not score.
Score = Callable[[slice], int]

# Seconds that a peer is given, and either side of a map metric.
_PEER_S, _MAP_S = 2.0, 0.5
_WARM_UP_PAIRS, _N_MAPS = 256, 8
_SED_BINS_WH, _SS_BINS_WH = (5, 5), (8, 6)
_SIMPLIFY = Simplification()


@dataclass(frozen=True)
class _Pairs:
    """P pairs of trials on one image, in random order, so that the first ones are like the rest."""

    batch: TrialBatch
    first: Tensor
    second: Tensor
    device: torch.device

    @classmethod
    def within_images(cls, batch: TrialBatch, device: torch.device) -> _Pairs:
        """All unordered pairs of trials that look at the same stimulus."""
        first, second = [], []
        for row in range(len(batch.stimulus)):
            trials = (batch.stimulus_of_trial == row).nonzero()[:, 0]
            i, j = all_pairs(len(trials))
            first.append(trials[i])
            second.append(trials[j])
        one, other = torch.cat(first), torch.cat(second)
        order = torch.randperm(len(one), generator=torch.Generator().manual_seed(0))
        return cls(batch, one[order], other[order], device)

    def __len__(self) -> int:
        return len(self.first)

    def paths(self, n_pairs: int) -> tuple[tuple[Tensor, ...], tuple[Tensor, Tensor]]:
        """(a_px, a_valid, b_px, b_valid) and (a_duration_s, b_duration_s) of the first pairs, on the device."""
        rows = self.first[:n_pairs], self.second[:n_pairs]
        px, valid, duration_s = (
            [getattr(self.batch, name)[row].to(self.device) for row in rows]
            for name in ("xy_px", "valid", "duration_s")
        )
        return (px[0], valid[0], px[1], valid[1]), (duration_s[0], duration_s[1])

    @cached_property
    def indices(self) -> list[tuple[int, int]]:
        return list(zip(self.first.tolist(), self.second.tolist(), strict=True))

    @cached_property
    def points(self) -> list[NDArray[np.float64]]:
        """(n, 2) px of each trial."""
        kept = zip(self.batch.xy_px, self.batch.valid, strict=True)
        return [px[valid].double().numpy() for px, valid in kept]

    @cached_property
    def lasting(self) -> list[NDArray[np.float64]]:
        """(n,) s of each trial."""
        kept = zip(self.batch.duration_s, self.batch.valid, strict=True)
        return [duration_s[valid].double().numpy() for duration_s, valid in kept]

    def one_by_one(self, score: Callable[[int, int], object]) -> Score:
        """A score of two trials -> of some pairs."""

        def score_rows(rows: slice) -> int:
            failed = 0
            for i, j in self.indices[rows]:
                try:
                    score(i, j)
                except (IndexError, ValueError):
                    failed += 1
            return failed

        return score_rows


@torch.inference_mode()
def bench_path_metrics(
    data_root: Path | None, n_stimuli: int | None, say: Callable[[str], None], device: str = "cpu"
) -> dict[str, float]:
    """Time every path metric once for all pairs of people on the same image of OSIE, and map metrics.

    Reading and pairing the data, and a first call with few pairs, are not part of a metric's time. Map metrics score
    a batch of maps with the fixations of all subjects together, and pysaliency gets the same maps one by one: in
    float32, which it scores partly in float32 (ours sum in float64 always), and in float64, which its own models yield.

    Args:
        data_root: Data folder; None is ``$GAZEKIT_DATA``, then the cache.
        n_stimuli: Only the first so many images; None is all of them.
        say: Takes each line of the table.
        device: Where our metrics run: "cpu", or "cuda". Peers run on the CPU.

    Returns:
        For each path metric ``NAME_s``, the seconds for all pairs, and for all metrics ``NAME_per_s``, pairs (or maps)
        per second; where a peer ran, ``NAME_peer_per_s`` and ``NAME_ratio``, how many times faster ours is. And
        "n_pairs".

    Raises:
        InputError: There is no such device, no stimulus, or no pair.

    """
    where = _device(device)
    if n_stimuli is not None and n_stimuli < 1:
        raise InputError(f"the benchmark needs at least 1 stimulus; got {n_stimuli}")
    data = load("osie", root=data_root)
    names = data.stimuli["stimulus"].tolist()[:n_stimuli]
    items = StimulusItems(data.subset(stimuli=names), decode=False)
    batch = items.collate([items[index] for index in range(len(items))])
    pairs = _Pairs.within_images(batch, where)
    if not len(pairs):
        raise InputError(f"{data.name}: no image of the {len(names)} has two trials, so there is no pair to score")
    length = batch.valid.sum(1)
    say(
        f"{len(pairs):,} pairs of {len(length):,} paths on {len(names):,} images, "
        f"{int(length.min())} to {int(length.max())} fixations each, {str(batch.xy_px.dtype).removeprefix('torch.')}"
    )
    found = {"n_pairs": float(len(pairs))}
    for name, metric in _path_metrics(batch.size_wh_px).items():
        metric(*pairs.paths(_WARM_UP_PAIRS))
        arguments = pairs.paths(len(pairs))
        _wait(where)
        start = time.perf_counter()
        metric(*arguments)
        _wait(where)
        found[f"{name}_s"] = time.perf_counter() - start
        found[f"{name}_per_s"] = len(pairs) / found[f"{name}_s"]
        own = f"{name:26}{found[f'{name}_s']:9.3f} s {found[f'{name}_per_s']:13,.0f} pairs/s"
        _beside_peer(name, own, _PATH_PEERS.get(name), pairs, len(pairs), found, say)
    _bench_maps(batch, where, found, say)
    say(_setting(where))
    return found


def _device(name: str) -> torch.device:
    if name.partition(":")[0] not in ("cpu", "cuda"):
        raise InputError(f"device must be 'cpu' or 'cuda'; got {name!r}")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise InputError(f"no GPU for device {name!r} here; use 'cpu'")
    return torch.device(name)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _path_metrics(size_wh_px: tuple[int, int]) -> dict[str, Callable[..., object]]:
    """Name -> function of (a_px, a_valid, b_px, b_valid), (a_duration_s, b_duration_s)."""

    def timed_scanmatch(p: tuple[Tensor, ...], s: tuple[Tensor, Tensor]) -> Tensor:
        return scanmatch(*p, size_wh_px=size_wh_px, temporal_bin_s=0.05, a_duration_s=s[0], b_duration_s=s[1])

    return {
        "multimatch": lambda p, s: multimatch(*p, *s, size_wh_px=size_wh_px),
        "multimatch_simplified": lambda p, s: multimatch(*p, *s, size_wh_px=size_wh_px, simplify=_SIMPLIFY),
        "scanmatch": lambda p, s: scanmatch(*p, size_wh_px=size_wh_px),
        "scanmatch_50ms": timed_scanmatch,
        "edit_distance": lambda p, s: edit_distance(*p, size_wh_px=size_wh_px, bins_wh=_SED_BINS_WH),
        "sequence_score": lambda p, s: ss_grid(*p, size_wh_px=size_wh_px, bins_wh=_SS_BINS_WH),
        "dtw": lambda p, s: dtw(*p),
        "discrete_frechet": lambda p, s: discrete_frechet(*p),
        "hausdorff": lambda p, s: hausdorff(*p),
        "eyenalysis": lambda p, s: eyenalysis(*p),
        "tde": lambda p, s: time_delay_distance(*p, k=3),
        "stde": lambda p, s: scaled_time_delay(*p, size_wh_px=size_wh_px),
        "sbtde": lambda p, s: string_time_delay(*p, size_wh_px=size_wh_px),
        "cross_recurrence": lambda p, s: cross_recurrence(*p),
    }


def _multimatch_gaze(pairs: _Pairs, simplify: Simplification | None) -> Score:
    compare = importlib.import_module("multimatch_gaze").docomparison
    columns = np.dtype([("start_x", float), ("start_y", float), ("duration", float)])
    records = [
        np.rec.fromarrays([*px.T, duration_s], dtype=columns)
        for px, duration_s in zip(pairs.points, pairs.lasting, strict=True)
    ]
    screen = [float(side) for side in pairs.batch.size_wh_px]
    how: dict[str, Any] = {}
    if simplify is not None:
        amplitude_px = simplify.amplitude_px or math.hypot(*screen) / 10
        how = {"grouping": True, "TDir": simplify.direction_deg, "TDur": simplify.duration_s, "TAmp": amplitude_px}
    return pairs.one_by_one(lambda i, j: compare(records[i], records[j], screen, **how))


def _rapidfuzz(pairs: _Pairs, scorer: str, function: str, bins_wh: tuple[int, int]) -> Score:
    compare = importlib.import_module("rapidfuzz.process").cpdist
    how = getattr(getattr(importlib.import_module("rapidfuzz.distance"), scorer), function)
    batch = pairs.batch
    cells = grid_symbols(batch.xy_px, batch.valid, size_wh_px=batch.size_wh_px, bins_wh=bins_wh)
    strings = ["".join(map(chr, cell[valid].tolist())) for cell, valid in zip(cells, batch.valid, strict=True)]
    first, second = ([strings[trial] for trial in side.tolist()] for side in (pairs.first, pairs.second))

    def score(rows: slice) -> int:
        compare(first[rows], second[rows], scorer=how)
        return 0

    return score


def _similaritymeasures(pairs: _Pairs, function: str) -> Score:
    compare, points = getattr(importlib.import_module("similaritymeasures"), function), pairs.points
    return pairs.one_by_one(lambda i, j: compare(points[i], points[j]))


def _scipy_hausdorff(pairs: _Pairs) -> Score:
    directed, points = importlib.import_module("scipy.spatial.distance").directed_hausdorff, pairs.points
    return pairs.one_by_one(lambda i, j: max(directed(points[i], points[j])[0], directed(points[j], points[i])[0]))


# Path metric -> the package that computes the same, and how to make it score pairs.
_PATH_PEERS: dict[str, tuple[str, Callable[[_Pairs], Score]]] = {
    "multimatch": ("multimatch-gaze", lambda pairs: _multimatch_gaze(pairs, None)),
    "multimatch_simplified": ("multimatch-gaze", lambda pairs: _multimatch_gaze(pairs, _SIMPLIFY)),
    "edit_distance": ("rapidfuzz", lambda pairs: _rapidfuzz(pairs, "Levenshtein", "distance", _SED_BINS_WH)),
    "sequence_score": ("rapidfuzz", lambda pairs: _rapidfuzz(pairs, "LCSseq", "similarity", _SS_BINS_WH)),
    "dtw": ("similaritymeasures", lambda pairs: _similaritymeasures(pairs, "dtw")),
    "discrete_frechet": ("similaritymeasures", lambda pairs: _similaritymeasures(pairs, "frechet_dist")),
    "hausdorff": ("scipy", _scipy_hausdorff),
}


@dataclass(frozen=True)
class _Maps:
    """B predicted and empirical maps (B, H, W), each with the fixations of all subjects as one trial (B, T, 2)."""

    density: Tensor
    empirical: Tensor
    xy_px: Tensor
    valid: Tensor

    def __len__(self) -> int:
        return len(self.density)

    def first(self, n: int) -> _Maps:
        return _Maps(self.density[:n], self.empirical[:n], self.xy_px[:n], self.valid[:n])

    def to(self, device: torch.device) -> _Maps:
        return _Maps(*(tensor.to(device) for tensor in (self.density, self.empirical, self.xy_px, self.valid)))

    def typed(self, dtype: torch.dtype) -> _Maps:
        return _Maps(self.density.to(dtype), self.empirical.to(dtype), self.xy_px, self.valid)

    @cached_property
    def arrays(self) -> list[tuple[NDArray[Any], ...]]:
        """Of each map both of its kinds (H, W), and the columns and rows of the fixations."""
        found: list[tuple[NDArray[Any], ...]] = []
        for density, empirical, xy_px, valid in zip(
            self.density, self.empirical, self.xy_px, self.valid, strict=True
        ):  # fmt: skip
            x, y = xy_px[valid].long().unbind(-1)
            found.append((density.numpy(), empirical.numpy(), x.numpy(), y.numpy()))
        return found


def _maps(batch: TrialBatch) -> _Maps | None:
    """Random bumps, and what people did, for the first images that anyone looked at."""
    size = torch.tensor(batch.size_wh_px)
    densities, empiricals, paths = [], [], []
    for row in range(min(_N_MAPS, len(batch.stimulus))):
        generator = torch.Generator().manual_seed(row)
        bumps, everywhere = torch.rand(1, 40, 2, generator=generator) * size, torch.ones(1, 40, dtype=torch.bool)
        here = batch.stimulus_of_trial == row
        xy_px = batch.xy_px[here][batch.valid[here]]
        xy_px = xy_px[((xy_px >= 0) & (xy_px < size)).all(1)][None]
        valid = torch.ones(xy_px.shape[:2], dtype=torch.bool)
        if valid.any():
            density = fixation_density(bumps, everywhere, batch.size_wh_px, 24.0)
            empirical = fixation_density(xy_px, valid, batch.size_wh_px, batch.px_per_dva)
            densities.append(density)
            empiricals.append(empirical)
            paths.append(xy_px[0])
    if not paths:
        return None
    xy_px = torch.nn.utils.rnn.pad_sequence(paths, batch_first=True)
    valid = torch.arange(xy_px.shape[1]) < torch.tensor([len(path) for path in paths])[:, None]
    return _Maps(torch.cat(densities), torch.cat(empiricals), xy_px, valid)


_MAP_METRICS: dict[str, Callable[[_Maps], object]] = {
    "nss": lambda maps: nss(maps.density, maps.xy_px, maps.valid),
    "auc": lambda maps: auc(maps.density, maps.xy_px, maps.valid),
    "auc_by_fixation": lambda maps: auc(maps.density, maps.xy_px, maps.valid),
    "cc": lambda maps: cc(maps.density, maps.empirical),
    "sim": lambda maps: sim(maps.density, maps.empirical),
    "kld": lambda maps: kld(maps.density, maps.empirical),
}


def _pysaliency(maps: _Maps, name: str) -> Score:
    compare = _pysaliency_score(name)

    def score_rows(rows: slice) -> int:
        for index in range(rows.start, rows.stop):
            compare(*maps.arrays[index % len(maps)])
        return 0

    return score_rows


def _pysaliency_score(name: str) -> Callable[..., object]:
    """Its score of a map (H, W) beside an empirical one, and the columns and rows of fixations."""
    metrics = importlib.import_module("pysaliency.metrics")
    compare: Callable[..., object]
    if name == "auc_by_fixation":  # the same number without the curve
        general_rocs = importlib.import_module("pysaliency.roc").general_rocs_per_positive
        compare = lambda smap, _, xs, ys: general_rocs(smap[ys, xs], smap.ravel()).mean()  # noqa: E731
    elif name == "auc":
        general_roc = importlib.import_module("pysaliency.roc").general_roc
        compare = lambda smap, _, xs, ys: general_roc(smap[ys, xs], smap.ravel())  # noqa: E731
    elif name == "nss":
        compare = lambda smap, _, xs, ys: metrics.NSS(smap, xs, ys).mean()  # noqa: E731
    else:
        function = getattr(metrics, {"cc": "CC", "sim": "SIM", "kld": "MIT_KLDiv"}[name])
        compare = lambda smap, empirical, _, __: function(smap, empirical)  # noqa: E731
    return compare


def _in_batches(maps: _Maps, score: Callable[[_Maps], object]) -> Score:
    """As many rows as wanted, all of the maps at a time."""

    def score_rows(rows: slice) -> int:
        for start in range(rows.start, rows.stop, len(maps)):
            score(maps.first(rows.stop - start))
        _wait(maps.density.device)
        return 0

    return score_rows


def _bench_maps(batch: TrialBatch, device: torch.device, found: dict[str, float], say: Callable[[str], None]) -> None:
    maps = _maps(batch)
    if maps is None:
        say("map metrics left out: no fixation on the images")
        return
    say(
        f"{len(maps)} maps of {batch.size_wh_px[0]}x{batch.size_wh_px[1]} px: ours in one call, pysaliency as it takes "
        f"them, one by one"
    )
    for dtype in (torch.float32, torch.float64):
        given = maps.typed(dtype)
        own = given.to(device)
        for metric_name, metric in _MAP_METRICS.items():
            name = f"{metric_name}_{str(dtype).removeprefix('torch.')}"
            per_s, _, _ = _rate(_in_batches(own, metric), None, _MAP_S)
            found[f"{name}_per_s"] = per_s
            line = f"{name:26}{1000 / per_s:8.3f} ms {per_s:13,.1f} maps/s "
            peer = ("pysaliency", partial(_pysaliency, name=metric_name))
            _beside_peer(name, line, peer, given, None, found, say)


def _beside_peer(
    name: str,
    own: str,
    peer: tuple[str, Callable[[Any], Score]] | None,
    given: object,
    n_rows: int | None,
    found: dict[str, float],
    say: Callable[[str], None],
) -> None:
    """Say our time, and beside it that of the peer on what is given, or why there is none."""
    if peer is None:
        say(own.rstrip())
        return
    package, prepare = peer
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            per_s, n_scored, n_failed = _rate(prepare(given), n_rows, _PEER_S if n_rows else _MAP_S)
    except ImportError as error:
        say(f"{own}  {package} left out, not installed: {error}")
    except AttributeError as error:
        # pysaliency 0.2.22 calls a function that NumPy 2.4 no longer has.
        say(f"{own}  {package} left out, does not run with the libraries here: {error}")
    else:
        ratio = found[f"{name}_per_s"] / per_s
        found[f"{name}_peer_per_s"], found[f"{name}_ratio"] = per_s, ratio
        failed = f", {n_failed:,} of them failed" if n_failed else ""
        unit = "pairs" if n_rows else "maps"
        rate = f"{per_s:13,.{0 if n_rows else 1}f} {unit}/s"
        say(f"{own}  {package:18}{rate} ({n_scored:,}{failed})  ratio {ratio:,.3g}")


def _rate(score: Score, n_rows: int | None, budget_s: float) -> tuple[float, int, int]:
    """Rows per second, how many rows that is from, and how many of these could not be scored.

    The first rows are scored again and again, each time more of them, until that takes about `budget_s`, or they are
    all `n_rows` (None: no end). Only the last time counts: small samples measure the cost of a call.
    """
    score(slice(0, 1))  # compiles, and fills caches
    n = 1
    while True:
        start = time.perf_counter()
        n_failed = score(slice(0, n))
        elapsed_s = max(time.perf_counter() - start, 1e-9)
        if n == n_rows or elapsed_s >= budget_s / 2:
            return n / elapsed_s, n, n_failed
        n = int(n * min(16.0, max(2.0, budget_s / elapsed_s)))
        n = n if n_rows is None else min(n, n_rows)


def _setting(device: torch.device) -> str:
    """What a number depends on besides the code: machine, threads, versions, commit."""
    processor = platform.processor() or platform.machine()
    name = f"{device} ({torch.cuda.get_device_name(device) if device.type == 'cuda' else processor})"
    packages = dict.fromkeys(
        ["numpy", "scipy", *(package for package, _ in _PATH_PEERS.values()), "pysaliency"],
    )
    versions = [f"Python {platform.python_version()}", f"torch {torch.__version__}"]
    for package in packages:
        try:
            versions.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return (
        f"device {name}, {torch.get_num_threads()} threads, {', '.join(versions)}, commit {git_commit() or 'unknown'}"
    )
