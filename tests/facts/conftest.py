"""Layers with given weights, in float64, so that every number of a worked example can be checked to its last digit."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

Layer = Callable[..., torch.nn.Module]


@pytest.fixture
def layer(device: str) -> Layer:
    """`layer(cls, weight, bias, **arguments)`: a layer whose channels and kernel are those of `weight`."""

    def make(cls: type[torch.nn.Module], weight: Any, bias: Any = None, **arguments: Any) -> torch.nn.Module:
        weight = torch.as_tensor(weight, dtype=torch.float64)
        first, second = weight.shape[0], weight.shape[1] * arguments.get("groups", 1)
        channels = (first, second) if "Transpose" in cls.__name__ else (second, first)
        made = cls(*channels, tuple(weight.shape[2:]), bias=bias is not None, dtype=torch.float64, **arguments)
        state = {"weight": weight}
        if bias is not None:
            state["bias"] = torch.as_tensor(bias, dtype=torch.float64).reshape(-1)
        made.load_state_dict(state)
        return made.to(device)

    return make


@pytest.fixture
def tensor(device: str) -> Callable[[Any], Tensor]:
    """`tensor(values)`: float64, on the device under test."""
    return lambda values: torch.as_tensor(values, dtype=torch.float64, device=device)


@pytest.fixture
def assert_values() -> Callable[..., None]:
    """`assert_values(actual, expected, atol)`: same shape, and every element within `atol`."""

    def check(actual: Tensor, expected: Any, atol: float = 1e-12) -> None:
        expected = torch.as_tensor(expected, dtype=torch.float64)
        torch.testing.assert_close(actual.detach().cpu().double(), expected, rtol=0, atol=atol)

    return check
