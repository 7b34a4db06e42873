"""Every provider of causal convolutions that runs here."""

import os
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

import convext
from convext.providers.cpu import library

sys.path.insert(0, str(Path(__file__).parent))

HAS_CUDA = torch.cuda.is_available()


@pytest.fixture(params=["aten", "cpu", "triton"])
def provider(request: pytest.FixtureRequest) -> Iterator[str]:
    """The provider that is asked for; where there is a GPU, tensors are made on it, but for the kernels for CPUs."""
    if request.param == "cpu" and (reason := library.unavailable()):
        pytest.skip(reason)
    if request.param == "triton" and not HAS_CUDA and os.environ.get("TRITON_INTERPRET") != "1":
        pytest.skip("tensors are on the CPU, and Triton is not interpreted")
    place = torch.device("cuda") if HAS_CUDA and request.param != "cpu" else nullcontext()
    with convext.backend(request.param), place:
        yield request.param
