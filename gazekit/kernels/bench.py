"""How fast the attention kernels are beside PyTorch's, and beside other libraries where they are installed.

First a gate: every contender's output and gradients, on a small instance of the problem in the dtype that is timed,
must err no more than twice as much as plain PyTorch does in that dtype (and a floor), both against float64. Who fails
is not timed. Then contenders take turns, so that what else the machine does hits all alike; a speed-up is the median
over rounds of the ratio of the two times in the same round.
"""

from __future__ import annotations

import csv
import importlib.metadata
import math
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import torch
from torch import Tensor

from gazekit.errors import InputError
from gazekit.files import written_aside
from gazekit.kernels.bench_cases import Case, Contender, Solve, Tensors, cases
from gazekit.provenance import git_commit
from gazekit.registry import unknown_name

# What any dtype may err, relative to the largest number of the output or gradient.
_FLOOR = {torch.float32: 2e-5, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}
_ROUNDS = {"cpu": (3, 9), "cuda": (10, 50)}
_WARM_UP = {"cpu": 1, "cuda": 10}
_MIB = 2.0**20


@dataclass(frozen=True)
class Row:
    """One line of the results.

    Attributes:
        case: As in `gazekit bench kernels --case`.
        shape: Tokens, batch, heads, head width.
        setting: Windows, rank or kind of decay.
        engine: Who computed it.
        part: "forward", or "forward+backward".
        dtype: Of the tensors.
        median_ms: Over the rounds, as are the 10th and 90th percentile.
        p10_ms: See `median_ms`.
        p90_ms: See `median_ms`.
        rounds: How many.
        speedup: Median ratio in the same round to the setting's own baseline, or else to the case's first engine.
        counted: Speed-up by counting tiles.
        floor: The least that is acceptable; empty where none is set.
        aim: What is aimed at.
        once_ms: Building plans and compiling, before the first call.
        peak_mib: Of GPU memory; empty on a CPU.
        max_error: Largest error of output and gradients at the gate, relative to the largest number; empty for a
            baseline, which solves another problem.
        device: Name of the processor.
        threads: PyTorch's, on a CPU.
        versions: Of Python and libraries.
        commit: Of gazekit.

    """

    case: str
    shape: str
    setting: str
    engine: str
    part: str
    dtype: str
    median_ms: float
    p10_ms: float
    p90_ms: float
    rounds: int
    speedup: float
    counted: float
    floor: float
    aim: float
    once_ms: float
    peak_mib: float
    max_error: float
    device: str
    threads: int
    versions: str
    commit: str


def bench_kernels(
    say: Callable[[str], None],
    *,
    device: str = "cpu",
    dtype: str | None = None,
    only: Sequence[str] = (),
    minutes: float = 7.0,
    out: Path | None = None,
    figure: Path | None = None,
    flex: bool = False,
    seed: int = 0,
) -> list[Row]:
    """Check, time and write down; what was finished is written after every case.

    Args:
        say: Takes each line of the table.
        device: "cpu" or "cuda".
        dtype: "float32", "float16" or "bfloat16"; default bfloat16 on a GPU, else float32.
        only: Names of cases; none is all.
        minutes: About how long it may take; rounds become fewer, down to 3 (10 on a GPU), and cases that no longer fit
            are left out, which is said.
        out: CSV to write. Rows of cases that are not run now stay in it, each with its commit.
        figure: Figure to write, of all rows of `out` where it is given.
        flex: Compile FlexAttention on a CPU too, where it has no backward pass; minutes for each setting.
        seed: Of the tensors.

    Raises:
        InputError: There is no such device, dtype or case, or no time.

    """
    where, kind = _device(device), _dtype(dtype, device)
    if not minutes > 0:
        raise InputError(f"minutes must be above 0, found {minutes}")
    chosen = _chosen(cases(where, kind, flex), only)
    start, rows = time.perf_counter(), []
    earlier = read_rows(out) if out is not None and out.exists() else []
    for done, case in enumerate(chosen):
        left_s = 60 * minutes - (time.perf_counter() - start)
        if left_s <= 0:
            say(f"left out, no time: {', '.join(f'{c.name} ({c.shape})' for c in chosen[done:])}; allow more --minutes")
            break
        say(f"{case.name}  {case.shape}  {_short(kind)}")
        new = _run(case, where, kind, seed, left_s / (len(chosen) - done), say)
        rows += new
        if out is not None:
            earlier = [row for row in earlier if (row.case, row.shape) != (case.name, case.shape)] + new
            write_rows(out, earlier)
    if out is not None:
        say(f"results: {out}")
    if figure is not None:
        from gazekit.kernels.bench_figure import save_figure

        save_figure(earlier if out is not None else rows, figure)
        say(f"figure: {figure}")
    say(f"device {_device_name(where)}, {torch.get_num_threads()} threads, {_versions()}, commit {_commit()}")
    return rows


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """Rows as CSV; numbers with four digits, empty where there is none."""
    with written_aside(path) as aside, aside.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([field.name for field in fields(Row)])
        for row in rows:
            values = asdict(row).values()
            writer.writerow(["" if v != v else f"{v:.4g}" if isinstance(v, float) else v for v in values])


def read_rows(path: Path) -> list[Row]:
    """What :func:`write_rows` wrote.

    Raises:
        InputError: The file has other columns.

    """
    kinds: dict[str, Callable[[str], object]] = {"float": lambda text: float(text or "nan"), "int": int, "str": str}
    with path.open(newline="", encoding="utf-8") as file:
        names = next(csv.reader(file), [])
        if names != [f.name for f in fields(Row)]:
            raise InputError(f"{path}: not a file of 'gazekit bench kernels', its columns are {names}; name another")
        file.seek(0)
        return [
            Row(**{f.name: kinds[str(f.type)](line[f.name]) for f in fields(Row)})  # type: ignore[arg-type]
            for line in csv.DictReader(file)
        ]


def as_markdown(rows: Sequence[Row]) -> str:
    """The table of docs/kernels.md: forward and backward with its spread, and both speed-ups."""
    lines = [
        "| case | tokens | setting | engine | forward and backward [ms] | speed-up | forward alone | counted | floor |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    forward = {(r.case, r.shape, r.setting, r.engine): r.speedup for r in rows if r.part == "forward"}
    for row in rows:
        if row.part == "forward":
            continue
        counted = f"{row.counted:.1f}" if row.counted == row.counted and row.engine.startswith("gazekit") else ""
        floor = f"{row.floor:.2f}" if row.floor == row.floor else ""
        alone = forward.get((row.case, row.shape, row.setting, row.engine), math.nan)
        lines.append(
            f"| {row.case} | {row.shape} | {row.setting} | {row.engine} | {row.median_ms:.0f} ({row.p10_ms:.0f} to "
            f"{row.p90_ms:.0f}) | {row.speedup:.2f} | {alone:.2f} | {counted} | {floor} |"
        )
    return "\n".join(lines)


# One case


def _run(
    case: Case, device: torch.device, dtype: torch.dtype, seed: int, budget_s: float, say: Callable[[str], None]
) -> list[Row]:
    start = time.perf_counter()
    ready: list[tuple[Contender, Solve, float, float]] = []
    small = (case.small or case).contenders()
    for index, contender in enumerate(case.contenders()):
        who = f"  {contender.engine:28} {contender.setting:18}"
        if contender.cannot is not None:
            say(f"{who} left out: {contender.cannot}")
            continue
        try:
            error, allowed = _gate(case.small or case, small[index], device, dtype, seed)
            if contender.exact is not None and not error <= allowed:
                say(f"{who} LEFT OUT, WRONG: errs by {error:.2g} of the largest number, {allowed:.2g} is allowed")
                continue
            begin = time.perf_counter()
            solve = contender.prepare()
            tensors = _made(case, contender, device, dtype, seed)
            _once(solve, tensors, contender if contender.backward else None)
            _wait(device)
        except (RuntimeError, NotImplementedError, ImportError) as problem:
            # An engine that PyTorch or another library does not have for this device, dtype or shape.
            say(f"{who} left out: {' '.join(str(problem).split())[:100]}")
            continue
        ready.append((contender, solve, 1000 * (time.perf_counter() - begin), error))
    rows = []
    for part in ("forward", "forward+backward"):
        racing = [entry for entry in ready if part == "forward" or entry[0].backward]
        left_s = (budget_s - (time.perf_counter() - start)) / (2 if part == "forward" else 1)
        rows += _race(case, racing, part, device, dtype, seed, left_s, say)
    return rows


def _race(
    case: Case, racing: list[tuple[Contender, Solve, float, float]], part: str, device: torch.device,
    dtype: torch.dtype, seed: int, budget_s: float, say: Callable[[str], None],
) -> list[Row]:  # fmt: skip
    given = [_made(case, contender, device, dtype, seed) for contender, *_ in racing]
    backward = part != "forward"

    def timed(index: int) -> float:
        contender, solve, *_ = racing[index]
        return _time_ms(solve, given[index], contender if backward else None, device)

    least, most = _ROUNDS[device.type]
    begin = time.perf_counter()
    peaks = []
    for index in range(len(racing)):
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        for _ in range(_WARM_UP[device.type]):
            timed(index)
        peaks.append(torch.cuda.max_memory_allocated() / _MIB if device.type == "cuda" else math.nan)
    per_round_s = (time.perf_counter() - begin) / _WARM_UP[device.type]
    rounds = max(least, min(most, int((budget_s - (time.perf_counter() - begin)) / max(per_round_s, 1e-9))))
    times = [[timed(index) for index in range(len(racing))] for _ in range(rounds)]
    rows = []
    for index, (contender, _, once_ms, error) in enumerate(racing):
        own = sorted(turn[index] for turn in times)
        base = next((i for i, c in enumerate(racing) if c[0].baseline and c[0].setting == contender.setting), 0)
        speedup = statistics.median(turn[base] / turn[index] for turn in times)
        rows.append(
            Row(
                case.name, case.shape, contender.setting, contender.engine, part, _short(dtype),
                statistics.median(own), own[int(0.1 * (rounds - 1))], own[math.ceil(0.9 * (rounds - 1))], rounds,
                speedup, contender.counted, contender.floor, contender.aim, once_ms, peaks[index], error,
                _device_name(device), torch.get_num_threads(), _versions(), _commit(),
            )
        )  # fmt: skip
        say(_line(rows[-1]))
    return rows


def _line(row: Row) -> str:
    share = f"  {row.speedup / row.counted:4.2f} of {row.counted:.1f} counted" if row.counted == row.counted else ""
    asked = f"  (floor {row.floor:.3g})" if row.floor == row.floor else ""
    return (
        f"  {row.engine:28} {row.setting:18} {row.part:17}{row.median_ms:10.2f} ms"
        f" [{row.p10_ms:.2f}, {row.p90_ms:.2f}] x{row.rounds}  speed-up {row.speedup:6.2f}{share}{asked}"
    )


def _made(case: Case, contender: Contender, device: torch.device, dtype: torch.dtype, seed: int) -> Tensors:
    """Tensors as the contender wants them; factors and decays stay in float32 or more."""
    exact = torch.promote_types(dtype, torch.float32)
    generator, tensors = torch.Generator().manual_seed(seed), {}
    made = case.tensors(generator)
    # A random gradient of the output: that of a sum would hide errors.
    made["upstream"] = torch.randn(made["q"].shape, generator=generator)
    for name, value in made.items():
        kept = exact if name in ("query_factor", "key_factor", "decay") else dtype
        value = value.to(device, kept)
        if contender.layout is not None:
            value = contender.layout.to_tiles(value)
        tensors[name] = value.requires_grad_(name in contender.trained)
    return tensors


def _once(solve: Solve, tensors: Tensors, contender: Contender | None) -> tuple[Tensor, ...]:
    """The output, and, given the contender, the gradients of what it trains."""
    if contender is None:
        with torch.no_grad():
            return (solve(tensors),)
    out = solve(tensors)
    return (out, *torch.autograd.grad(out, [tensors[name] for name in contender.trained], tensors["upstream"]))


def _time_ms(solve: Solve, tensors: Tensors, contender: Contender | None, device: torch.device) -> float:
    if device.type == "cuda":
        # What the cache holds from the round before would be counted as ours.
        torch.empty(int(64 * _MIB), dtype=torch.int32, device=device).zero_()
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        _once(solve, tensors, contender)
        end.record()
        end.synchronize()
        return float(begin.elapsed_time(end))
    start = time.perf_counter()
    _once(solve, tensors, contender)
    return 1000 * (time.perf_counter() - start)


def _gate(case: Case, contender: Contender, device: torch.device, dtype: torch.dtype, seed: int) -> tuple[float, float]:
    """Largest error of output and gradients relative to the largest number, and what is allowed."""
    if contender.exact is None:
        return math.nan, math.inf
    judged, exact = contender if contender.backward else None, contender.exact
    plain = _made(case, replace(contender, layout=None), device, dtype, seed)
    given = {name: value.detach().double().requires_grad_(value.requires_grad) for name, value in plain.items()}
    truth = _once(exact, given, judged)
    tensors = _made(case, contender, device, dtype, seed)
    got = _once(contender.prepare(), tensors, judged)
    if contender.layout is not None:
        got = tuple(contender.layout.from_tiles(x) for x in got)
    errors = [_relative(x, y) for x, y in zip(got, truth, strict=True)]
    rounded = [_relative(x, y) for x, y in zip(_once(exact, plain, judged), truth, strict=True)]
    worst = max(range(len(errors)), key=lambda i: errors[i] - 2 * rounded[i])
    return errors[worst], 2 * rounded[worst] + _FLOOR[dtype]


def _relative(got: Tensor, truth: Tensor) -> float:
    return float((got.detach().double() - truth.detach()).abs().max() / truth.detach().abs().max())


# The setting


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _device(name: str) -> torch.device:
    if name.partition(":")[0] not in ("cpu", "cuda"):
        raise InputError(f"device must be 'cpu' or 'cuda'; found {name!r}")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise InputError(f"no GPU for device {name!r} here; use 'cpu'")
    return torch.device(name)


def _dtype(name: str | None, device: str) -> torch.dtype:
    known = {_short(dtype): dtype for dtype in _FLOOR}
    name = name or ("float32" if device == "cpu" else "bfloat16")
    if name not in known:
        raise unknown_name("dtype", name, list(known))
    return known[name]


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _chosen(known: list[Case], only: Sequence[str]) -> list[Case]:
    for name in only:
        if name not in {case.name for case in known}:
            raise unknown_name("benchmark case", name, sorted({case.name for case in known}))
    return [case for case in known if not only or case.name in only]


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    models = (
        [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")] if cpuinfo.exists() else []
    )
    return models[0].partition(":")[2].strip() if models else platform.processor() or platform.machine()


def _versions() -> str:
    versions = [f"Python {platform.python_version()}", f"torch {torch.__version__}"]
    for package in ("triton", "natten", "fla-core"):
        try:
            versions.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return "; ".join(versions)


def _commit() -> str:
    return git_commit() or "unknown"
