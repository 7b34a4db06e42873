"""Runs a suite that is written for a GPU on the emulated one: `-p gpu_emulator.pytest_plugin`, with EMULATOR_ARCH=90.

The device is there before any conftest is imported, so that one that asks for a GPU finds it.
"""

import os
from contextlib import ExitStack

import pytest

from gpu_emulator.triton_device import emulated

_session = ExitStack()
_session.enter_context(emulated(int(os.environ.get("EMULATOR_ARCH", "90"))))


def pytest_unconfigure(config: pytest.Config) -> None:
    _session.close()
