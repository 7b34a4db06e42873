"""The tolerance rule of `convext.commands.check`, between a result, torch's, and torch's in double precision."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

WIDE = {torch.complex32: torch.complex128, torch.complex64: torch.complex128, torch.complex128: torch.complex128}


def widen(value):
    """`value` with every floating tensor in float64, every complex one in complex128."""
    if isinstance(value, Tensor):
        dtype = WIDE.get(value.dtype, torch.float64)
        return value.detach().to(dtype) if value.is_floating_point() or value.is_complex() else value
    return value


def assert_agrees(ours: Tensor, torchs: Tensor, oracle: Tensor) -> None:
    """Same shape and dtype, and an error at most twice torch's own plus two units in the last place.

    Nothing is wider than double precision, so there the two results stand against each other.
    """
    assert ours.shape == torchs.shape
    assert ours.dtype == torchs.dtype
    if not torchs.is_floating_point() and not torchs.is_complex():
        assert torch.equal(ours, torchs)
        return
    if oracle.dtype == torchs.dtype:
        torch.testing.assert_close(ours, torchs)
        return
    if torchs.numel() == 0:
        return
    error, torch_error = ((widen(t) - oracle).abs().max().item() for t in (ours, torchs))
    bound = 2 * torch_error + 2 * torch.finfo(torchs.dtype).eps * oracle.abs().max().item()
    assert error <= bound, f"error {error:.3g} > {bound:.3g}; torch's is {torch_error:.3g}"


def significant_strides(t: Tensor) -> list[int]:
    return [stride for size, stride in zip(t.shape, t.stride(), strict=True) if size > 1]


def assert_same_order(ours: Tensor, torchs: Tensor) -> None:
    """Same strides on every axis of more than one element."""
    assert significant_strides(ours) == significant_strides(torchs)


@pytest.fixture(scope="session")
def agrees() -> Callable[[Tensor, Tensor, Tensor], None]:
    return assert_agrees


@pytest.fixture(scope="session")
def same_order() -> Callable[[Tensor, Tensor], None]:
    return assert_same_order


@pytest.fixture(scope="session")
def wide() -> Callable[[object], object]:
    return widen
