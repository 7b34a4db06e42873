"""Runs tests in forks of a process that has imported everything but convext: torch alone takes seconds to import."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import spec_from_file_location
from pathlib import Path
from types import CodeType
from typing import Any


@dataclass
class Job:
    """One mutant: the module's changed source, and the tests to run on it."""

    id: str
    path: Path
    module: str
    source: str
    tests: list[str]
    limit: float


class Mutated(SourceFileLoader, MetaPathFinder):
    """Finds the one changed module, and loads it from memory: no file is ever touched."""

    def __init__(self, job: Job) -> None:
        super().__init__(job.module, str(job.path))
        self.job = job

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        return spec_from_file_location(name, self.job.path, loader=self) if name == self.job.module else None

    def get_code(self, fullname: str) -> CodeType:
        return compile(self.job.source, str(self.job.path), "exec", dont_inherit=True)


def preload() -> None:
    """What the tests import and no mutant changes."""
    import hypothesis
    import pytest
    import torch._dynamo
    import torch.func
    import torch.testing._internal.common_methods_invocations
    import torch.testing._internal.common_modules
    import triton

    torch.set_num_threads(1)
    assert not any(name.partition(".")[0] == "convext" for name in sys.modules)
    del hypothesis, pytest, triton


def run(jobs: Iterator[Job], workers: int) -> Iterator[tuple[Job, int, float]]:
    """(job, exit status of pytest, seconds) of each; a job that ran past its limit has the status of a failed test."""
    running: dict[int, tuple[Job, float]] = {}
    waiting = iter(jobs)
    exhausted = False
    while running or not exhausted:
        while len(running) < workers and not exhausted:
            job = next(waiting, None)
            if job is None:
                exhausted = True
            else:
                running[_fork(job)] = (job, time.monotonic())
        for pid, (job, begun) in list(running.items()):
            ended, status = os.waitpid(pid, os.WNOHANG)
            seconds = time.monotonic() - begun
            if ended:
                del running[pid]
                yield job, os.waitstatus_to_exitcode(status), seconds
            elif seconds > job.limit:
                os.killpg(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                del running[pid]
                yield job, 1, seconds
        time.sleep(0.02)


def _fork(job: Job) -> int:
    pid = os.fork()
    if pid:
        return pid
    status = 1  # of whatever is raised before pytest has an opinion
    try:
        os.setsid()
        sys.meta_path.insert(0, Mutated(job))
        for descriptor in (1, 2):
            os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)
        import pytest

        status = int(pytest.main(["-x", "-q", "-n0", "--no-header", "--tb=no", *job.tests]))
    finally:
        os._exit(status)
