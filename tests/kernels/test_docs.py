"""The examples of docs/kernels.md run as they stand, in order."""

from __future__ import annotations

import re
from pathlib import Path

import torch

from gazekit.kernels.bench import as_markdown, read_rows

RESULTS = Path(__file__).parents[2] / "kernels" / "results" / "cpu.csv"
DOCS = Path(__file__).parents[2] / "docs" / "kernels.md"


def test_examples_run():
    torch.manual_seed(0)
    blocks = re.findall(r"```python\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) >= 5
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, str(DOCS), "exec"), names)
    assert names["out"].shape == (1, 5000, 4, 16)
    assert names["bias"].rank == 5
    assert names["guided"].shape == (1, 20, 30, 64)


def test_the_table_is_that_of_the_results():
    table = re.search(r"<!-- table: kernels/results/cpu.csv -->\n\n(.*?)\n\n<!--", DOCS.read_text("utf-8"), re.DOTALL)
    assert table is not None
    assert table[1] == as_markdown(read_rows(RESULTS)), "paste gazekit.kernels.bench.as_markdown of the results"
