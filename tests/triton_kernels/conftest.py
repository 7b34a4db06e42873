"""What the tests of Triton kernels share: poisoned memory.

Fixtures:
    poisoned: within the test, memory that is allocated uninitialised holds NaN, and stands between guard borders that
        are checked at the end. A kernel that leaves an element unwritten shows it as NaN; one that writes beside its
        result fails the test.
    bordered: puts an operand into memory with NaN on both sides, with its values and strides kept. A kernel that
        uses what lies outside an operand shows it as NaN.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor

from convext.choice import settings
from convext.operators import forward

BORDER = 64  # elements on each side; keeps 16-byte alignment for every dtype
GUARD = 1.5  # exact in every floating dtype


def bordered_like(t: Tensor, border: float, inside: float) -> Tensor:
    """Memory of the shape and strides of `t`, filled with `inside`, between borders filled with `border`."""
    extent = 1 + sum((size - 1) * stride for size, stride in zip(t.shape, t.stride(), strict=True))
    buffer = torch.full((extent + 2 * BORDER,), border, dtype=t.dtype, device=t.device)
    buffer[BORDER : BORDER + extent] = inside
    return buffer.as_strided(t.shape, t.stride(), BORDER)


def border_intact(t: Tensor) -> bool:
    """Whether the borders of a tensor from `bordered_like(.., GUARD, ..)` are as they were made."""
    buffer = t.as_strided((t.untyped_storage().nbytes() // t.element_size(),), (1,), 0)
    return bool((buffer[:BORDER] == GUARD).all() and (buffer[-BORDER:] == GUARD).all())


@pytest.fixture(autouse=True, scope="session")
def _operators_on_the_emulated_gpu() -> Iterator[None]:
    """Where this suite runs on an emulated GPU, tensors are a CPU's: the operators are told that they lie on it."""
    emulated = os.environ.get("EMULATOR_ARCH")
    if emulated is None:
        yield
        return

    def machine(t: Tensor) -> tuple[str, int, str]:
        return "cuda", int(emulated), settings.fp32_precision() if t.dtype is torch.float32 else "ieee"

    with mock.patch.object(forward, "machine", machine):
        yield


@pytest.fixture
def bordered() -> Callable[[Tensor], Tensor]:
    """`bordered(t)`: a copy of `t`, strides and all (stride 0 too), in memory that holds NaN wherever `t` is not."""

    def copy(t: Tensor) -> Tensor:
        result = bordered_like(t, float("nan"), float("nan"))
        strided = [slice(None) if stride else slice(0, 1) for stride in t.stride()]
        result[tuple(strided)] = t[tuple(strided)]
        return result

    return copy


@pytest.fixture
def poisoned(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Uninitialised floating memory holds NaN between guard borders; the borders are checked at the end."""
    allocated: list[Tensor] = []

    def poison(allocate: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def empty(*args: Any, **kwargs: Any) -> Tensor:
            t = allocate(*args, **kwargs)
            if not t.is_floating_point() or t.numel() == 0:  # the interpreter itself makes empty ones, to fill by set_
                return t
            result = bordered_like(t, GUARD, float("nan"))
            allocated.append(result)
            return result

        return empty

    for owner, name in ((torch, "empty"), (torch, "empty_like"), (Tensor, "new_empty"), (Tensor, "new_empty_strided")):
        monkeypatch.setattr(owner, name, poison(getattr(owner, name)))
    yield
    monkeypatch.undo()
    assert allocated, (
        "nothing was allocated through torch.empty, torch.empty_like, Tensor.new_empty or new_empty_strided"
    )
    for t in allocated:
        assert border_intact(t), f"something was written beside a result of shape {tuple(t.shape)}"
