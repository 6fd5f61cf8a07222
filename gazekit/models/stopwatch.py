"""What the benches of models count seconds with, and what they say of the machine."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from gazekit.provenance import git_commit


@dataclass(frozen=True)
class Stopwatch:
    """Seconds of work on one device.

    Args:
        device: Where the work is done; a GPU is waited for.
        processor_time: Count the time in which the processor's cores worked for this process, all together: with one
            thread, other programs on the machine change it little.

    """

    device: str = "cpu"
    processor_time: bool = False

    def now(self) -> float:
        if self.device.startswith("cuda"):
            torch.cuda.synchronize()
        return time.process_time() if self.processor_time else time.perf_counter()

    def timed(self, run: Callable[[], object]) -> float:
        """Seconds that `run` takes once."""
        start = self.now()
        run()
        return self.now() - start

    def median(self, run: Callable[[], object], repeats: int) -> float:
        """Median of so many seconds, after one run that is not counted."""
        run()
        return sorted(self.timed(run) for _ in range(repeats))[repeats // 2]

    @property
    def machine(self) -> str:
        """Device, versions and commit, for the line under the numbers."""
        cuda = self.device.startswith("cuda")
        where = torch.cuda.get_device_name(0) if cuda else f"{torch.get_num_threads()} threads, no GPU"
        where += ", processor time" if self.processor_time else ""
        return f"{where}, torch {torch.__version__}, commit {git_commit() or 'unknown'}"
