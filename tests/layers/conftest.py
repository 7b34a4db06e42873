"""The six layers, each beside torch's own with the same parameters."""

from collections.abc import Callable

import pytest
import torch

import convext

CONVOLUTIONS = ("Conv1d", "Conv2d", "Conv3d")
TRANSPOSED = ("ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d")


@pytest.fixture(params=CONVOLUTIONS + TRANSPOSED)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def pair(device: str) -> Callable[..., tuple[torch.nn.Module, torch.nn.Module]]:
    """`pair(name, *arguments)`: convext's layer and torch's, built from the same state of the generator."""

    def make(name: str, *args, **kwargs):
        torch.manual_seed(3)
        ours = getattr(convext, name)(*args, **kwargs)
        torch.manual_seed(3)
        theirs = getattr(torch.nn, name)(*args, **kwargs)
        return ours.to(device), theirs.to(device)

    return make
