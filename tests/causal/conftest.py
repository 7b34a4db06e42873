"""Every provider of causal convolutions that runs here."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import convext
from convext.providers.cpu import library

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(params=["aten", "cpu", "triton"])
def provider(request: pytest.FixtureRequest) -> Iterator[str]:
    if request.param == "cpu" and (reason := library.unavailable()):
        pytest.skip(reason)
    if request.param == "triton" and os.environ.get("TRITON_INTERPRET") != "1":
        pytest.skip("tensors are on the CPU, and Triton is not interpreted")
    with convext.backend(request.param):
        yield request.param
