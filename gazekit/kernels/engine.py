"""Which engine computes a kernel, and why: a named one runs or raises, only ``"auto"`` chooses."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gazekit.errors import InputError
from gazekit.registry import unknown_name

BACKENDS = ("auto", "reference", "torch", "sdpa", "flex", "triton", "natten", "fla")


@dataclass(frozen=True)
class Candidate:
    """An engine that a kernel has.

    Args:
        name: One of :data:`BACKENDS`, other than ``"auto"``.
        cannot: Why it cannot compute this call; None where it can. Built from the call: shape, dtype, device.
        avoid: Why ``"auto"`` passes it by although it could; None where it does not.

    """

    name: str
    cannot: str | None = None
    avoid: str | None = None


@dataclass(frozen=True)
class Choice:
    """The engine that runs a call, and why.

    Args:
        name: The engine.
        reasons: One line per engine that was looked at, the chosen one last.

    """

    name: str
    reasons: tuple[str, ...]

    def __str__(self) -> str:
        return "\n".join([self.name, *(f"  {reason}" for reason in self.reasons)])


class _Explained(BaseException):
    """Carries a choice out of a kernel before it computes; no Exception, so that no handler takes it for an error."""

    def __init__(self, choice: Choice) -> None:
        self.choice = choice


_EXPLAINING: ContextVar[bool] = ContextVar("gazekit_explaining", default=False)


def choose(kernel: str, backend: str, candidates: Sequence[Candidate]) -> str:
    """The name of the engine that computes this call of `kernel`.

    Args:
        kernel: The public function's name; it opens every error message.
        backend: As the caller gave it.
        candidates: The kernel's engines, in the order in which ``"auto"`` tries them.

    Raises:
        InputError: `backend` is not known, the kernel does not have it, or it cannot compute this call.

    """
    choice = _choice(kernel, backend, candidates)
    if _EXPLAINING.get():
        raise _Explained(choice)
    return choice.name


def _choice(kernel: str, backend: str, candidates: Sequence[Candidate]) -> Choice:
    if backend != "auto":
        if backend not in BACKENDS:
            raise unknown_name("backend", backend, list(BACKENDS))
        found = next((candidate for candidate in candidates if candidate.name == backend), None)
        able = [candidate.name for candidate in candidates if candidate.cannot is None]
        if found is None:
            raise InputError(f"{kernel} has no backend {backend!r}; it has: {', '.join(c.name for c in candidates)}")
        if found.cannot is not None:
            raise InputError(f"{kernel}: backend {backend!r} cannot run here: {found.cannot}; able: {', '.join(able)}")
        return Choice(backend, (f"{backend}: named by the caller",))
    reasons = []
    passed_by: Candidate | None = None
    for candidate in candidates:
        if candidate.cannot is not None:
            reasons.append(f"{candidate.name}: cannot run here: {candidate.cannot}")
        elif candidate.avoid is not None:
            reasons.append(f"{candidate.name}: passed by: {candidate.avoid}")
            passed_by = passed_by or candidate
        else:
            return Choice(candidate.name, (*reasons, f"{candidate.name}: the first that fits"))
    if passed_by is None:
        raise InputError(f"{kernel}: no engine can compute this call: {'; '.join(reasons)}")
    return Choice(passed_by.name, (*reasons, f"{passed_by.name}: the first that can, as nothing fits better"))


def explain_backend(kernel: str | Callable[..., Any], *args: Any, **kwargs: Any) -> Choice:
    """Which engine a call would run on, and why; nothing is computed.

    The call goes up to the point where the engine is chosen, so what is explained is what would run.

    Args:
        kernel: A public kernel function, or its name in :data:`gazekit.kernels.KERNELS`.
        args: As for the kernel.
        kwargs: As for the kernel, ``backend`` included.

    Raises:
        InputError: As the kernel itself.

    """
    if isinstance(kernel, str):
        from gazekit.kernels import KERNELS

        kernel = KERNELS.load(kernel)
    token = _EXPLAINING.set(True)
    try:
        kernel(*args, **kwargs)
    except _Explained as explained:
        return explained.choice
    finally:
        _EXPLAINING.reset(token)
    raise InputError(f"{getattr(kernel, '__name__', kernel)!r} chooses no engine; give a kernel of gazekit.kernels")


def lacks(module: str, install: str = "") -> str | None:
    """Why an optional dependency cannot be used, or None; it is looked for, not imported."""
    if importlib.util.find_spec(module) is not None:
        return None
    return f"{module} is not installed (pip install {install or module})"


def interpreting() -> bool:
    """Whether Triton runs its kernels in NumPy; it is set before a kernel module is imported."""
    return os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "on", "yes")


def triton_cannot(*tensors: Tensor | None) -> str | None:
    """Why Triton kernels cannot take these tensors, or None; Triton is not imported."""
    given = [tensor for tensor in tensors if tensor is not None]
    if reason := lacks("triton"):
        return reason
    if any(tensor.dtype not in (torch.float16, torch.bfloat16, torch.float32, torch.float64) for tensor in given):
        return f"dtype {given[0].dtype}; Triton kernels take float16, bfloat16, float32"
    if interpreting():
        # Stored as uint16 there: sums and products of bfloat16 come out wrong without an error.
        if any(tensor.dtype == torch.bfloat16 for tensor in given):
            return "Triton's interpreter computes bfloat16 wrongly"
        return None
    if not all(tensor.is_cuda for tensor in given):
        return f"tensors on {given[0].device}; Triton needs a CUDA device (or TRITON_INTERPRET=1, for tests)"
    if any(tensor.dtype == torch.float64 for tensor in given):
        return "dtype float64; on a GPU the kernels take float16, bfloat16, float32"
    return None
