"""The compiled CPU kernels, on every instruction set that this machine has."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

from convext.providers.cpu import library


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that takes `isa` runs on each; where the library is not built, once, and is skipped with the reason."""
    if "isa" in metafunc.fixturenames:
        supported = [] if library.unavailable() else [i for i in library.ISAS if torch.ops.convext_cpu.supports(i)]
        metafunc.parametrize("isa", supported or ["none"], indirect=True)


@pytest.fixture
def isa(request: pytest.FixtureRequest) -> str:
    if reason := library.unavailable():
        pytest.skip(reason)
    return request.param
