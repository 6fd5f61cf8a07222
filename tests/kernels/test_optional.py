"""Triton, NATTEN and flash-linear-attention: everything runs and trains without them, and nothing loads them."""

from __future__ import annotations

import subprocess
import sys

CALLS = """
import torch
from gazekit.kernels import BiasFactors, biased_attention, decay_linear_attention, neighborhood_attention
from gazekit.kernels import bench, bench_cases, bias, freeswim, gate, lightning, neural_bias
import gazekit.backbones
q, k, v = (torch.randn(1, 6, 7, 2, 8, requires_grad=True) for _ in range(3))
rows = [x.flatten(1, 2) for x in (q, k, v)]
total = neighborhood_attention(q, k, v, (3, 4)).sum()
total = total + biased_attention(*rows, bias.alibi(torch.ones(2), 42), causal=True).sum()
total = total + decay_linear_attention(*rows, -torch.ones(2))[0].sum()
total.backward()
"""


def run(code):
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-3000:]


def test_nothing_optional_is_loaded():
    # What PyTorch itself loads is not ours.
    run(
        "import sys, torch\nbefore = set(sys.modules)\n"
        + CALLS
        + "new = {name.partition('.')[0] for name in set(sys.modules) - before}\n"
        + "assert not new & {'triton', 'natten', 'fla', 'matplotlib', 'timm'}, new\n"
        + "assert not [name for name in sys.modules if name.endswith('_triton') and name.startswith('gazekit')]"
    )


def test_everything_runs_without_them_and_says_what_is_missing():
    run(
        "import sys, torch\nsys.modules.update({'triton': None, 'natten': None, 'fla': None})\n"
        + CALLS
        + """
from gazekit import InputError
for package, backend, call in (
    ("triton", "triton", lambda b: decay_linear_attention(*rows, -torch.ones(2), backend=b)),
    ("fla-core", "fla", lambda b: decay_linear_attention(*rows, -torch.ones(2), backend=b)),
    ("natten", "natten", lambda b: neighborhood_attention(q, k, v, (3, 4), backend=b)),
):
    try:
        call(backend)
    except InputError as error:
        assert f"pip install {package}" in str(error), error
    else:
        raise SystemExit(f"{backend} ran")
"""
    )
