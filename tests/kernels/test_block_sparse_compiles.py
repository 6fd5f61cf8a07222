"""The Triton kernels of block-sparse attention compile for NVIDIA GPUs, without one: ptxas comes with Triton."""

from __future__ import annotations

import os

import pytest
import torch

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.environ.get("TRITON_INTERPRET", "0") == "1", reason="the interpreter compiles nothing"),
]
POINTERS = {torch.float16: "*fp16", torch.bfloat16: "*bf16", torch.float32: "*fp32"}
IN_FLOAT32 = {"lse_ptr", "delta_ptr", "key_bias_ptr", "fq_ptr", "fk_ptr", "dfq_ptr", "dfk_ptr", "dkb_ptr"}
TABLES = {"offsets", "tiles", "first", "count", *(f"{name}{a}" for name in ("tab", "bounds", "back") for a in range(3))}
# Shared memory that a block may have, in bytes.
SHARED = {80: 163_840, 90: 232_448}
KERNELS = ("_forward_kernel", "_grad_query_kernel", "_grad_key_kernel")


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize(
    ("capability", "dtype", "width", "switches"),
    [
        (90, torch.bfloat16, 64, {}),
        (90, torch.bfloat16, 128, {"MASKED": False}),
        (90, torch.bfloat16, 64, {"RANK": 3, "KEY_BIAS": True}),
        (90, torch.float16, 64, {"BOX": False, "CAUSAL": True}),
        (80, torch.bfloat16, 64, {"RANK": 3, "KEY_BIAS": True}),
        (80, torch.float32, 32, {}),
    ],
)
def test_compiles(name, capability, dtype, width, switches):
    triton = pytest.importorskip("triton", reason="triton is not installed")
    compiler = pytest.importorskip("triton.compiler")
    backends = pytest.importorskip("triton.backends.compiler")
    from gazekit.kernels import block_sparse_triton as kernels

    kernel = getattr(kernels, name)
    q = torch.zeros(1, 1, 1, width, dtype=dtype)
    constants = {"G": 2, **kernels._meta(q, q, None, None, [1, 8, 8, 1, 8, 8], [True, False, True]), **switches}
    signature, aligned = {}, {}
    for position, argument in enumerate(kernel.arg_names):
        if argument in constants:
            signature[argument] = "constexpr"
        elif argument.endswith("_ptr"):
            signature[argument] = "*fp32" if argument in IN_FLOAT32 else POINTERS[dtype]
        else:
            signature[argument] = "*i32" if argument in TABLES else "fp32" if argument == "scale" else "i32"
        # As they are specialized for contiguous heads of a multiple of 16.
        if argument.endswith(("_ptr", "_b", "_n", "_h")):
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
