"""`ranks`: processes that run a function of a test's module as ranks of one group."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch.distributed as dist
from ranks import Ranks  # not here: processes that are started look it up by name, and there are many conftests

collect_ignore = []
if not dist.is_available() or sys.platform == "win32":  # pragma: no cover
    collect_ignore = [str(path) for path in Path(__file__).parent.rglob("test_*.py") if path.stem != "test_intervals"]


@pytest.fixture(scope="session")
def ranks() -> Iterator[Ranks]:
    """Processes that run a function of a test's module as ranks of one group: `ranks(4, function, *arguments)`."""
    started = Ranks()
    yield started
    started.close()
