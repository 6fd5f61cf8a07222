"""The benchmark of path metrics: all pairs, every line, and what is said of peers that are there or not."""

import importlib
import re
import sys
import time

import numpy as np
import pytest
import torch

from gazekit.errors import InputError
from gazekit.evaluation import bench_paths
from gazekit.evaluation.bench_paths import bench_path_metrics
from tests.conftest import write_release

pytestmark = pytest.mark.filterwarnings("ignore::gazekit.datasets.PartialDataWarning")

PATHS = [
    "multimatch", "multimatch_simplified", "scanmatch", "scanmatch_50ms", "edit_distance", "sequence_score", "dtw",
    "discrete_frechet", "hausdorff", "eyenalysis", "tde", "stde", "sbtde", "cross_recurrence",
]  # fmt: skip
MAPS = [f"{m}_{t}" for t in ("float32", "float64") for m in ("nss", "auc", "auc_by_fixation", "cc", "sim", "kld")]
PEERS = {
    "multimatch": "multimatch-gaze", "multimatch_simplified": "multimatch-gaze", "edit_distance": "rapidfuzz",
    "sequence_score": "rapidfuzz", "dtw": "similaritymeasures", "discrete_frechet": "similaritymeasures",
    "hausdorff": "scipy",
}  # fmt: skip
MODULES = ["multimatch_gaze", "rapidfuzz", "rapidfuzz.process", "rapidfuzz.distance", "similaritymeasures"]
MODULES += ["pysaliency", "pysaliency.metrics", "pysaliency.roc"]


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(bench_paths, "_PEER_S", 0.01)
    monkeypatch.setattr(bench_paths, "_MAP_S", 0.01)


@pytest.fixture
def without_peers(monkeypatch):
    for module in MODULES:
        monkeypatch.setitem(sys.modules, module, None)


def row(lines: list[str], name: str) -> str:
    (line,) = [line for line in lines if line.split()[0] == name]
    return line


def pairs_of(tmp_path, **release):
    """The pairs of a made-up release, as the benchmark makes them."""
    from gazekit.datasets import load
    from gazekit.datasets.datamodule import StimulusItems

    items = StimulusItems(load("osie", root=write_release(tmp_path / "data", **release)), decode=False)
    batch = items.collate([items[i] for i in range(len(items))])
    return bench_paths._Pairs.within_images(batch, torch.device("cpu"))


def test_every_line_with_numbers_that_fit(tmp_path, without_peers):
    lines = []
    found = bench_path_metrics(write_release(tmp_path / "data", n_subjects=4), None, lines.append)
    assert lines[0].startswith("36 pairs of 24 paths on 6 images, ")  # 4 subjects: 6 pairs per image
    assert [line.split()[0] for line in lines[1:15]] == PATHS
    assert lines[15] == "6 maps of 800x600 px: ours in one call, pysaliency as it takes them, one by one"
    assert [line.split()[0] for line in lines[16:28]] == MAPS
    assert len(lines) == 29
    assert lines[-1].startswith("device cpu (")
    threads = f"{torch.get_num_threads()} threads"
    for part in (threads, f"torch {torch.__version__}", f"numpy {np.__version__}", "commit "):
        assert part in lines[-1]
    assert all(value > 0 for value in found.values())
    assert found["n_pairs"] == 36
    for name in PATHS:
        assert found[f"{name}_per_s"] == pytest.approx(36 / found[f"{name}_s"])
        seconds, rate = re.findall(r"([\d.,]+) (?:s|pairs/s)(?= |$)", row(lines, name))[:2]
        assert float(seconds) == pytest.approx(found[f"{name}_s"], abs=6e-4)
        assert float(rate.replace(",", "")) == pytest.approx(found[f"{name}_per_s"], abs=0.6)


def test_missing_peers_are_said(tmp_path, without_peers):
    lines = []
    found = bench_path_metrics(write_release(tmp_path / "data", n_images=1), None, lines.append)
    for name, package in (PEERS | dict.fromkeys(MAPS, "pysaliency")).items():
        if package != "scipy":
            assert f"{package} left out, not installed: " in row(lines, name)
            assert f"{name}_ratio" not in found
    assert [name for name in found if name.endswith("_ratio")] == ["hausdorff_ratio"]
    for name in set(PATHS) - set(PEERS):
        assert row(lines, name).endswith("pairs/s")


@pytest.mark.parametrize(
    ("name", "module"),
    [(n, p.replace("-", "_")) for n, p in PEERS.items()],
)
def test_ratio_to_a_peer(tmp_path, name, module):
    pytest.importorskip(module)
    lines = []
    found = bench_path_metrics(write_release(tmp_path / "data", n_images=2), None, lines.append)
    assert found[f"{name}_ratio"] == pytest.approx(found[f"{name}_per_s"] / found[f"{name}_peer_per_s"])
    assert re.search(rf"  {PEERS[name]} +[\d,]+ pairs/s \(\d+.*\)  ratio [\d.e+,]+$", row(lines, name))
    assert f"{PEERS[name]} {importlib.metadata.version(PEERS[name])}" in lines[-1]


def test_peers_compute_the_same_number(tmp_path, monkeypatch):
    """The functions that are timed, on the pairs that are timed: a ratio of different things says nothing."""
    for module in ("multimatch_gaze", "rapidfuzz", "similaritymeasures"):
        pytest.importorskip(module)
    pairs = pairs_of(tmp_path)
    own = bench_paths._path_metrics(pairs.batch.size_wh_px)
    scores = []
    monkeypatch.setattr(
        bench_paths._Pairs, "one_by_one",
        lambda self, score: lambda rows: scores.extend(score(i, j) for i, j in self.indices[rows]) or 0,
    )  # fmt: skip
    process = importlib.import_module("rapidfuzz.process")
    compare = process.cpdist
    monkeypatch.setattr(process, "cpdist", lambda *given, **how: scores.extend(compare(*given, **how)))
    longer = torch.maximum(*(pairs.batch.valid[side].sum(1) for side in (pairs.first, pairs.second))).numpy()
    # The simplification of multimatch-gaze stops at some of these short paths.
    for name in set(PEERS) - {"multimatch_simplified"}:
        scores.clear()
        _, prepare = bench_paths._PATH_PEERS[name]
        prepare(pairs)(slice(0, len(pairs)))
        theirs = [score[0] if name == "dtw" else score for score in scores]
        theirs = np.asarray(theirs, float).reshape(len(pairs), -1).squeeze()
        theirs = theirs / longer if name == "sequence_score" else theirs
        np.testing.assert_allclose(own[name](*pairs.paths(len(pairs))), theirs, rtol=1e-5, atol=1e-5, err_msg=name)


def test_pysaliency_computes_the_same_number(tmp_path, monkeypatch):
    pytest.importorskip("pysaliency.metrics")
    monkeypatch.setattr(np, "trapz", np.trapezoid, raising=False)  # NumPy 2.4 dropped it
    maps = bench_paths._maps(pairs_of(tmp_path, n_images=2).batch)
    assert len(maps) == 2
    for name, metric in bench_paths._MAP_METRICS.items():
        compare = bench_paths._pysaliency_score(name)
        with np.errstate(divide="ignore"):
            theirs = [compare(*arrays) for arrays in maps.arrays]
        values = [value[0] if isinstance(value, tuple) else value for value in theirs]
        np.testing.assert_allclose(metric(maps), values, rtol=1e-9, err_msg=name)


def test_what_does_not_run_here_is_left_out(tmp_path, monkeypatch):
    pytest.importorskip("pysaliency.roc")
    monkeypatch.delattr(np, "trapz", raising=False)
    lines = []
    found = bench_path_metrics(write_release(tmp_path / "data", n_images=1), None, lines.append)
    assert "pysaliency left out, does not run with the libraries here: " in row(lines, "auc_float32")
    assert "trapz" in row(lines, "auc_float32")
    for name in ("nss", "auc_by_fixation", "cc", "sim", "kld"):
        assert found[f"{name}_float32_ratio"] > 0
        assert re.search(r"  pysaliency +[\d,.]+ maps/s \(\d+\)  ratio ", row(lines, f"{name}_float32"))


def test_pairs_are_those_within_an_image(tmp_path):
    pairs = pairs_of(tmp_path, n_images=4, n_subjects=5)
    assert len(pairs) == 4 * 10
    assert torch.equal(pairs.batch.stimulus_of_trial[pairs.first], pairs.batch.stimulus_of_trial[pairs.second])
    assert len({frozenset(pair) for pair in pairs.indices}) == 40
    assert all(i != j for i, j in pairs.indices)
    assert pairs.indices != sorted(pairs.indices)  # a sample of the first ones is a random one
    (a, a_valid, b, b_valid), (a_s, b_s) = pairs.paths(7)
    assert len(a) == len(b) == len(a_s) == len(b_s) == 7
    i, j = pairs.indices[6]
    np.testing.assert_array_equal(a[6][a_valid[6]], pairs.points[i])
    np.testing.assert_array_equal(b[6][b_valid[6]], pairs.points[j])
    np.testing.assert_array_equal(b_s[6][b_valid[6]], pairs.lasting[j])


def test_only_so_many_stimuli(tmp_path, without_peers):
    lines = []
    assert bench_path_metrics(write_release(tmp_path / "data"), 2, lines.append)["n_pairs"] == 6
    assert lines[0].startswith("6 pairs of 6 paths on 2 images")
    assert lines[15].startswith("2 maps")


def test_rate_counts_rows_failures_and_time():
    calls = []

    def score(rows):
        calls.append(rows)
        time.sleep(0.001 * (rows.stop - rows.start))
        return (rows.stop - rows.start) // 2

    per_s, n, n_failed = bench_paths._rate(score, 10, 1e9)
    assert (n, n_failed) == (10, 5)  # all of them, and no more
    assert calls[-1] == slice(0, 10)
    assert 10 < per_s <= 1000  # sleep never takes less
    per_s, n, _ = bench_paths._rate(score, None, 0.02)
    assert 2 <= n <= 40
    assert 10 < per_s <= 1000


def test_pairs_that_a_peer_fails_on_are_counted(tmp_path):
    pairs = pairs_of(tmp_path, n_images=1)

    def fails_on_first(i, j):
        if (i, j) == pairs.indices[0]:
            raise IndexError

    assert pairs.one_by_one(fails_on_first)(slice(0, 3)) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"device": "tpu"}, "device must be 'cpu' or 'cuda'; got 'tpu'"),
        ({"n_stimuli": 0}, "at least 1 stimulus; got 0"),
    ],
)
def test_refused(tmp_path, arguments, message):
    with pytest.raises(InputError, match=message):
        bench_path_metrics(tmp_path, **({"n_stimuli": None} | arguments), say=print)


def test_no_gpu(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match="no GPU for device 'cuda' here"):
        bench_path_metrics(tmp_path, None, print, device="cuda")


def test_one_subject_makes_no_pair(tmp_path):
    with pytest.raises(InputError, match="no image of the 2 has two trials"):
        bench_path_metrics(write_release(tmp_path / "data", n_images=2, n_subjects=1), None, print)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu(tmp_path):
    lines = []
    found = bench_path_metrics(write_release(tmp_path / "data"), None, lines.append, device="cuda")
    assert all(value > 0 for value in found.values())
    assert torch.cuda.get_device_name() in lines[-1]
