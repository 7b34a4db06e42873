"""What every test of the emulator shares: a compiler to build it with, and one thread a process."""

import pytest
import torch
from gpu_emulator import library

torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if reason := library.missing():
        for item in items:
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)
