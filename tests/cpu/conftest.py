"""The compiled CPU kernels, on every instruction set that this machine has."""

import sys
from collections.abc import Callable, Iterator
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


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    """Sets the number of threads; it is put back."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)
