"""The benchmark of kernels: its gate, its ratios, its files and its command."""

from __future__ import annotations

import math
import time
import warnings
from dataclasses import replace

import pytest
import torch
from click.testing import CliRunner

from gazekit import InputError
from gazekit.cli import main
from gazekit.kernels import bench, neighborhood_attention
from gazekit.kernels.bench_cases import Case, Contender, Setting, _bias, _decay, _gate, _windows, cases, flex_tiles
from gazekit.kernels.tile_layout import TileLayout
from tests.kernels.scenes import randn

CPU, FLOAT32 = torch.device("cpu"), torch.float32


def small_cases(*_):
    grid = (9, 12)
    return [
        _windows("G5", grid, (1, 2, 8), [Setting("k6 s2", (6, 6), (2, 2), 0.1, 0.2)], CPU, FLOAT32),
        _bias("B1", (1, 40, 2, 8), 3, 1.3, 2.0, CPU, FLOAT32),
        _decay("L1", (1, 80, 2, 8), 5.0, CPU, FLOAT32),
        _gate("X1", (1, 20, 2, 8), CPU, FLOAT32),
    ]


@pytest.fixture
def _small(monkeypatch):
    monkeypatch.setattr(bench, "cases", small_cases)
    monkeypatch.setattr(bench, "_ROUNDS", {"cpu": (3, 3)})


@pytest.mark.usefixtures("_small")
def test_every_case_is_checked_timed_and_written(tmp_path):
    said, out, figure = [], tmp_path / "new" / "cpu.csv", tmp_path / "speed.png"
    rows = bench.bench_kernels(said.append, minutes=5, out=out, figure=figure)
    assert {row.case for row in rows} == {"G5", "B1", "L1", "X1"}
    assert not [line for line in said if "WRONG" in line]
    for row in rows:
        assert row.median_ms > 0
        assert row.p10_ms <= row.median_ms <= row.p90_ms
        assert row.rounds >= 3
        assert row.speedup > 0
        # A baseline solves another problem; all others were checked.
        assert (row.max_error == row.max_error) != row.engine.startswith("sdpa") or row.engine.startswith("sdpa, dense")
        assert f"torch {torch.__version__}" in row.versions
        assert row.device
        assert row.commit
    assert {row.part for row in rows} == {"forward", "forward+backward"}
    first = [row for row in rows if row.case == "G5" and row.engine == "sdpa"]
    assert all(row.speedup == 1.0 for row in first)
    windows = next(row for row in rows if row.engine.startswith("gazekit") and row.case == "G5")
    assert windows.counted > 1
    assert windows.floor == 0.1
    # Trained factors are compared with a trained dense bias.
    trained = [r for r in rows if r.setting == "rank 3, trained" and r.engine == "sdpa, dense bias"]
    assert all(row.speedup == 1.0 for row in trained)
    read = bench.read_rows(out)
    assert [(r.case, r.engine, r.part, r.rounds) for r in read] == [(r.case, r.engine, r.part, r.rounds) for r in rows]
    assert all(math.isclose(a.speedup, b.speedup, rel_tol=1e-3) for a, b in zip(read, rows, strict=True))
    assert figure.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def broken(t):
    return 1.001 * neighborhood_attention(t["q"], t["k"], t["v"], (4, 4))


def fails(_):
    raise RuntimeError("no kernel\nfor this")


def slow(t):
    time.sleep(0.02)
    return t["q"] * 1.0


def test_who_is_wrong_is_not_timed_and_who_cannot_is_said(monkeypatch):
    def exact(t):
        return neighborhood_attention(t["q"], t["k"], t["v"], (4, 4), backend="reference")

    def right(t):
        return neighborhood_attention(t["q"], t["k"], t["v"], (4, 4))

    contenders = [
        Contender("slow", lambda: slow, backward=True, trained=("q",)),
        Contender("right", lambda: right, exact),
        Contender("broken", lambda: broken, exact),
        Contender("fails", lambda: fails, exact),
        Contender("absent", lambda: fails, exact, cannot="it is not installed"),
    ]

    def tensors(generator):
        return {name: torch.randn(1, 6, 7, 2, 4, generator=generator) for name in "qkv"}

    monkeypatch.setattr(bench, "cases", lambda *_: [Case("A", "6x7", tensors, lambda: contenders)])
    monkeypatch.setattr(bench, "_ROUNDS", {"cpu": (3, 3)})
    said = []
    rows = bench.bench_kernels(said.append)
    assert {row.engine for row in rows} == {"slow", "right"}
    assert any("broken" in line and "LEFT OUT, WRONG" in line for line in said)
    assert any("fails" in line and "left out: no kernel for this" in line for line in said)
    assert any("absent" in line and "it is not installed" in line for line in said)
    assert next(row for row in rows if row.engine == "right").speedup > 1


def test_wrong_gradients_are_caught_too(monkeypatch):
    class Wrong(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            return grad * 1.01

    def exact(t):
        return t["q"] * 1.0

    case = Case(
        "A", "", lambda g: {"q": torch.randn(3, 4, generator=g)},
        lambda: [Contender("wrong", lambda: lambda t: Wrong.apply(t["q"]), exact, trained=("q",))],
    )  # fmt: skip
    error, allowed = bench._gate(case, case.contenders()[0], CPU, FLOAT32, 0)
    assert error > allowed
    forward = replace(case.contenders()[0], backward=False)
    error, allowed = bench._gate(case, forward, CPU, FLOAT32, 0)
    assert error <= allowed


@pytest.mark.slow
def test_the_real_cases_pass_the_gate():
    for case in cases(CPU, FLOAT32):
        small = case.small or case
        for contender in small.contenders():
            if contender.cannot is None and contender.exact is not None:
                error, allowed = bench._gate(small, contender, CPU, FLOAT32, 0)
                assert error <= allowed, (case.name, contender.engine, contender.setting)


def test_cases_of_a_gpu_are_those_of_the_plan():
    made = cases(torch.device("cuda"), torch.bfloat16)
    assert {case.name for case in made} == {"G1", "G3", "G4", "G5", "G6", "G7", "B1", "L1", "X1"}
    assert next(case for case in made if case.name == "G1").shape == "256x256, B1 H24 D128"
    # Small enough to be compared with the definition in float64.
    assert all(case.small is not None and case.small.name == case.name for case in made)


@pytest.mark.parametrize(
    ("grid", "k", "s"),
    [
        ((13, 22), (6, 9), (2, 1)),
        pytest.param((16, 24), (8, 8), (8, 8), marks=pytest.mark.slow),
        pytest.param((70,), (24,), (8,), marks=pytest.mark.slow),
    ],
)
def test_windows_in_tile_order_for_flex_attention(grid, k, s):
    from torch.nn.attention.flex_attention import flex_attention

    windows, tile = Setting("", k, s).windows, {1: (16,), 2: (4, 4)}[len(grid)]
    layout, mask = TileLayout(grid, tile), flex_tiles(grid, windows, tile, CPU)
    q, k, v = (randn(1, *grid, 2, 8, seed=i) for i in range(3))
    with warnings.catch_warnings():
        # Uncompiled, it says that it is slow.
        warnings.simplefilter("ignore")
        out = flex_attention(*(layout.to_tiles(x).transpose(1, 2) for x in (q, k, v)), block_mask=mask)
    want = neighborhood_attention(q, k, v, windows, backend="reference")
    torch.testing.assert_close(layout.from_tiles(out.transpose(1, 2)), want, rtol=1e-12, atol=1e-12)
    # A block that is said to be full is not looked at again: it must be, for queries that are not padding.
    i = torch.arange(layout.n_tokens)
    seen = mask.mask_mod(torch.tensor(0), torch.tensor(0), i[:, None], i[None])
    block = math.prod(tile)
    blocks = seen.reshape(len(i) // block, block, -1, block).transpose(1, 2)
    for row, (n, full) in enumerate(zip(mask.full_kv_num_blocks[0, 0], mask.full_kv_indices[0, 0], strict=True)):
        real = seen[row * block : (row + 1) * block].any(1)
        assert blocks[row, full[:n].long()][:, real].all()
        some = mask.kv_indices[0, 0, row, : mask.kv_num_blocks[0, 0, row]]
        assert set(full[:n].tolist() + some.tolist()) == set(blocks[row].any((-2, -1)).nonzero()[:, 0].tolist())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--case", "G55"], "no benchmark case named 'G55'; did you mean 'G5'?"),
        (["--device", "tpu"], "device must be 'cpu' or 'cuda'"),
        (["--dtype", "float23"], "did you mean 'float32'?"),
        (["--minutes", "0"], "minutes must be above 0"),
    ],
)
@pytest.mark.usefixtures("_small")
def test_what_the_command_refuses(arguments, message):
    result = CliRunner().invoke(main, ["bench", "kernels", *arguments])
    assert result.exit_code == 1
    assert message in result.output


@pytest.mark.usefixtures("_small")
def test_the_command(tmp_path):
    out = tmp_path / "cpu.csv"
    result = CliRunner().invoke(main, ["bench", "kernels", "--case", "X1", "--minutes", "5", "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert f"results: {out}" in result.output
    assert {row.case for row in bench.read_rows(out)} == {"X1"}


@pytest.mark.usefixtures("_small")
def test_cases_are_added_to_a_file_and_timed_anew(tmp_path):
    out = tmp_path / "cpu.csv"
    for case in ("X1", "G5"):
        bench.bench_kernels(lambda _: None, only=[case], out=out)
    both = bench.read_rows(out)
    assert {row.case for row in both} == {"X1", "G5"}
    bench.bench_kernels(lambda _: None, only=["X1"], out=out)
    again = bench.read_rows(out)
    assert sorted(row.case for row in again) == sorted(row.case for row in both)
    out.write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match="not a file of 'gazekit bench kernels'"):
        bench.bench_kernels(lambda _: None, out=out)


@pytest.mark.usefixtures("_small")
def test_what_no_longer_fits_is_said(monkeypatch):
    clock = iter(float(100 * i) for i in range(10**6))
    monkeypatch.setattr(bench.time, "perf_counter", lambda: next(clock))
    said = []
    bench.bench_kernels(said.append, minutes=5)
    assert any(line.startswith("left out, no time: ") for line in said)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there():
    with pytest.raises(InputError, match="no GPU for device 'cuda' here"):
        bench.bench_kernels(print, device="cuda")
