"""Checks of what is given to attention kernels, each with one line that says what was found and expected."""

from __future__ import annotations

from torch import Tensor

from gazekit.errors import InputError


def check_qkv(kernel: str, q: Tensor, k: Tensor, v: Tensor, grid_dims: int | None = 1) -> None:
    """Heads-last queries, keys and values that fit each other.

    Args:
        kernel: Opens the messages.
        q: (B, *grid, H, D).
        k: (B, *grid, Hk, D); Hk divides H.
        v: (B, *grid, Hk, Dv).
        grid_dims: How many token axes there are; None for any number.

    Raises:
        InputError: Another number of axes, sizes that disagree, dtypes or devices that differ, integers.

    """
    shapes = f"q {tuple(q.shape)}, k {tuple(k.shape)}, v {tuple(v.shape)}"
    axes = "grid" if grid_dims is None else "N" if grid_dims == 1 else ", ".join("TYX"[-grid_dims:])
    if grid_dims is not None and not q.ndim == k.ndim == v.ndim == grid_dims + 3:
        raise InputError(f"{kernel}: expected (B, {axes}, heads, width) for q, k and v, found {shapes}")
    if q.ndim < 4 or not q.ndim == k.ndim == v.ndim:
        raise InputError(f"{kernel}: expected (B, {axes}, heads, width) for q, k and v, found {shapes}")
    if k.shape[:-1] != v.shape[:-1]:
        raise InputError(f"{kernel}: k and v must agree in batch, tokens and heads, found {shapes}")
    if q.shape[0] != k.shape[0] or q.shape[-1] != k.shape[-1]:
        raise InputError(f"{kernel}: q and k must agree in batch and width, found {shapes}")
    if k.shape[-2] == 0 or q.shape[-2] % k.shape[-2]:
        raise InputError(f"{kernel}: the number of query heads must be a multiple of the key heads, found {shapes}")
    if q.shape[-1] == 0 or v.shape[-1] == 0:
        raise InputError(f"{kernel}: heads must be at least 1 wide, found {shapes}")
    if not q.dtype == k.dtype == v.dtype or not q.is_floating_point():
        raise InputError(
            f"{kernel}: q, k and v must have one floating dtype, found {q.dtype}, {k.dtype}, {v.dtype}; "
            "cast them with .to(q.dtype)"
        )
    if not q.device == k.device == v.device:
        raise InputError(f"{kernel}: q, k and v must be on one device, found {q.device}, {k.device}, {v.device}")


def check_broadcast(kernel: str, name: str, tensor: Tensor, expected: tuple[int, ...], axes: str) -> None:
    """`tensor` has the shape `expected`, or 1 in its place on any axis but the token axis (the second).

    Raises:
        InputError: It has not.

    """
    fits = tensor.ndim == len(expected) and all(
        have == want or (have == 1 and axis != 1)
        for axis, (have, want) in enumerate(zip(tensor.shape, expected, strict=True))
    )
    if not fits:
        raise InputError(f"{kernel}: {name} must be {axes} = {expected}, found {tuple(tensor.shape)}")
