"""The Triton kernels of linear attention with decay compile for NVIDIA GPUs, without one: ptxas comes with Triton."""

from __future__ import annotations

import os

import pytest
import torch

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.environ.get("TRITON_INTERPRET", "0") == "1", reason="the interpreter compiles nothing"),
]
POINTERS = {torch.float16: "*fp16", torch.bfloat16: "*bf16", torch.float32: "*fp32"}
# Shared memory that a block may have, in bytes.
SHARED = {80: 163_840, 90: 232_448}


@pytest.mark.parametrize("capability", sorted(SHARED))
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("dtype", list(POINTERS))
@pytest.mark.parametrize("name", ["scan_kernel", "tile_kernel"])
def test_compiles(name, dtype, reverse, capability):
    triton = pytest.importorskip("triton", reason="triton is not installed")
    compiler = pytest.importorskip("triton.compiler")
    backends = pytest.importorskip("triton.backends.compiler")
    from gazekit.kernels import lightning_triton

    kernel = getattr(lightning_triton, name)
    constants = {"REVERSE": reverse, "TILE": 64, "BLOCK_D": 64, "BLOCK_E": 64, **lightning_triton._types(dtype)}
    if name == "tile_kernel":
        constants["IN"] = lightning_triton._IN[dtype]
    # As they are specialized for contiguous heads.
    constants |= {stride: 1 for stride in ("x_d", "y_d", "y_e", "z_e", "state_e") if stride in kernel.arg_names}
    signature, aligned = {}, {}
    for position, argument in enumerate(kernel.arg_names):
        if argument in constants:
            signature[argument] = "constexpr"
        elif argument in ("x_ptr", "y_ptr", "z_ptr", "out_ptr"):
            signature[argument] = POINTERS[dtype]
        elif argument.endswith("_ptr"):
            signature[argument] = "*fp32"
        else:
            signature[argument] = "fp32" if argument.endswith("scale") else "i32"
        if argument.endswith(("_ptr", "_n", "_h")) or argument in ("D", "E", "state_d"):
            aligned[(position,)] = [["tt.divisibility", 16]]
    source = compiler.ASTSource(
        fn=kernel,
        signature=signature,
        constexprs={(kernel.arg_names.index(key),): value for key, value in constants.items()},
        attrs=aligned,
    )
    target = backends.GPUTarget("cuda", capability, 32)
    compiled = triton.compile(source, target=target, options={"num_warps": 4, "num_stages": 2})
    assert compiled.metadata.shared <= SHARED[capability]
    # Products run on the tensor cores, except in float32, which is not rounded to fewer bits.
    assert ("mma" in compiled.asm["ptx"]) == (dtype != torch.float32)
