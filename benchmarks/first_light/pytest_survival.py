"""A pytest plugin for tests on a GPU that may be cut off at any time, in pytest-xdist's processes:

    python -m pytest -n 8 -p convext.benchmarks.first_light.pytest_survival tests

A failure is printed when it happens, not at the end. A test that hangs, or that loses the device to its process, ends
that process; xdist names the test and starts another.
"""

from __future__ import annotations

import faulthandler
import os

import pytest
import torch

PATIENCE = 120.0  # seconds of one test

_in_worker = "PYTEST_XDIST_WORKER" in os.environ


def pytest_runtest_logstart(nodeid: str) -> None:
    """Ends the process, with its stack on stderr, if the test takes too long."""
    if _in_worker:
        faulthandler.dump_traceback_later(PATIENCE, exit=True, file=2)


def pytest_runtest_logfinish(nodeid: str) -> None:
    """Ends the process if a kernel took the device down: every later test would fail for no fault of its own."""
    if not _in_worker:
        return
    faulthandler.cancel_dump_traceback_later()
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        try:
            torch.cuda.synchronize()
        except Exception:
            os._exit(1)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Prints a failure where all of them arrive."""
    if report.failed and not _in_worker:
        print(f"\nFAILED {report.nodeid} ({report.when})\n{report.longreprtext}", flush=True)
