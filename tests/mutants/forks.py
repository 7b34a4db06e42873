"""Runs tests in forks of a process that has imported everything but convext: torch alone takes seconds to import."""

from __future__ import annotations

import gc
import linecache
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
    """One mutant: the module's changed source, and the tests to run on it.

    `rounds` are run one after the other until a test fails: a first round of few files is soon collected.
    """

    id: str
    path: Path
    module: str
    source: str
    rounds: list[list[str]]
    limit: float


@dataclass
class Result:
    """What became of a job: pytest's exit status, seconds, and the test that failed, if it was a test."""

    job: Job
    status: int
    seconds: float
    killer: str


class FirstFailure:
    """Writes the name of a test that fails into a pipe."""

    def __init__(self, pipe: int) -> None:
        self.pipe = pipe

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed:
            os.write(self.pipe, report.nodeid.encode())


class Mutated(SourceFileLoader, MetaPathFinder):
    """Finds the one changed module, and loads it from memory: no file is ever touched."""

    def __init__(self, job: Job) -> None:
        super().__init__(job.module, str(job.path))
        self.job = job

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        return spec_from_file_location(name, self.job.path, loader=self) if name == self.job.module else None

    def get_code(self, fullname: str) -> CodeType:
        lines = self.job.source.splitlines(keepends=True)
        linecache.cache[str(self.job.path)] = (len(self.job.source), None, lines, str(self.job.path))  # TorchScript's
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
    gc.freeze()  # pytest collects garbage when it ends: not the whole of torch in each child


def run(jobs: Iterator[Job], workers: int) -> Iterator[Result]:
    """The result of each job, as they end; one that ran past its limit has the status of a failed test."""
    running: dict[int, tuple[Job, int, float]] = {}
    exhausted = False
    while running or not exhausted:
        while len(running) < workers and not exhausted:
            job = next(jobs, None)
            if job is None:
                exhausted = True
            else:
                pid, pipe = _fork(job)
                running[pid] = (job, pipe, time.monotonic())
        for pid, (job, pipe, begun) in list(running.items()):
            ended, status = os.waitpid(pid, os.WNOHANG)
            seconds = time.monotonic() - begun
            if not ended and seconds > job.limit:
                os.killpg(pid, signal.SIGKILL)
                ended, status = os.waitpid(pid, 0)
            if ended:
                del running[pid]
                killer = os.read(pipe, 10_000).decode()
                os.close(pipe)
                yield Result(job, os.waitstatus_to_exitcode(status), seconds, killer)
        time.sleep(0.02)


def _fork(job: Job) -> tuple[int, int]:
    """The child's process and the end of its pipe that is read."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writing)
        return pid, reading
    status = 1  # of whatever is raised before pytest has an opinion
    try:
        os.setsid()
        sys.meta_path.insert(0, Mutated(job))
        for descriptor in (1, 2):
            os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)
        import pytest

        known = set(sys.modules)
        options = ["-x", "-q", "-n0", "--no-header", "--tb=no", "--assert=plain"]
        for tests in filter(None, job.rounds):
            status = int(pytest.main([*options, *tests], plugins=[FirstFailure(writing)]))
            if status:
                break
            _forget_tests(known)
    finally:
        os._exit(status)


def _forget_tests(known: set[str]) -> None:
    """pytest collects a module once: what a test is parametrized with may be an iterator."""
    for name in sys.modules.keys() - known:
        if str(getattr(sys.modules[name], "__file__", None)).startswith(os.path.abspath("tests")):
            del sys.modules[name]
