"""The two process-wide settings: which kernels may run, and how float32 products are formed.

Like torch.backends' flags they belong to the process, so torch.compile guards on them and backward passes that run
in autograd's own threads see the choice that was made in the forward.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

import torch

from convext.problem import PRECISIONS

T = TypeVar("T")

BACKEND: str = os.environ.get("CONVEXT_BACKEND", "auto")
PRECISION: str | None = None


class _Context(Generic[T]):
    """One open context of a setting."""

    def __init__(self, value: T) -> None:
        self.value = value


class _Open(Generic[T]):
    """The contexts of one setting that are open. Threads may leave them in any order, so each takes away its own."""

    def __init__(self, default: T) -> None:
        self._contexts = [_Context(default)]

    def enter(self, context: _Context[T]) -> T:
        """Returns the value in force: that of the context opened last."""
        self._contexts.append(context)
        return context.value

    def leave(self, context: _Context[T]) -> T:
        self._contexts.remove(context)
        return self._contexts[-1].value


_BACKENDS, _PRECISIONS = _Open(BACKEND), _Open(PRECISION)


@contextmanager
def backend(name: str) -> Iterator[None]:
    """Within this context, compute with `name`.

    Args:
        name: "auto" (the fastest that takes the problem, ATen last), a provider ("aten", "triton", "cuda", "cpu",
            "plain"), or one kernel's full name (`convext.kernels()` lists them). With anything but "auto", a problem
            that it does not take raises ValueError with its reason; nothing falls back silently.

    The default comes from the environment variable CONVEXT_BACKEND, else it is "auto". The setting is the process's,
    as torch.backends' flags are; a backward pass, and what torch.utils.checkpoint computes again in it, use the one
    that the forward ran under.

    Raises:
        ValueError: no kernel or provider has this name.
    """
    global BACKEND
    from convext.choice.registry import check_backend

    check_backend(name)
    context = _Context(name)
    BACKEND = _BACKENDS.enter(context)
    try:
        yield
    finally:
        BACKEND = _BACKENDS.leave(context)


@contextmanager
def precision(name: str | None) -> Iterator[None]:
    """Within this context, form float32 products on CUDA as `name` says.

    Args:
        name: "ieee" (float32 throughout), "tf32" (10-bit mantissas), "tf32x3" (three TF32 products, nearly
            float32), or None: follow torch (`torch.backends.cudnn.conv.fp32_precision`).

    Raises:
        ValueError: `name` is none of these.
    """
    global PRECISION
    if name is not None and name not in PRECISIONS:
        raise ValueError(f"precision must be None or one of {PRECISIONS}, but got {name!r}")
    context = _Context(name)
    PRECISION = _PRECISIONS.enter(context)
    try:
        yield
    finally:
        PRECISION = _PRECISIONS.leave(context)


def fp32_precision() -> str:
    """How float32 products are formed on CUDA now: "ieee", "tf32" or "tf32x3"."""
    return PRECISION or ("tf32" if torch.backends.cudnn.conv.fp32_precision == "tf32" else "ieee")  # type: ignore[attr-defined]
