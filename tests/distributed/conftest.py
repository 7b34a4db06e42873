"""Ranks that are started once and run many tests: processes on this machine, which talk by gloo.

They are forked from one that has imported torch, for its import takes longer than most tests.
"""

from __future__ import annotations

import datetime
import multiprocessing
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

SECONDS = 20  # after which a rank that waits for another one gives up

collect_ignore = []
if not dist.is_available() or sys.platform == "win32":  # pragma: no cover
    collect_ignore = [path.name for path in Path(__file__).parent.glob("test_*.py") if path.stem != "test_intervals"]


class Ranks:
    """Processes that run functions as ranks of a process group."""

    def __init__(self) -> None:
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["torch", "torch.distributed.tensor", "convext"])
        self._running: list[tuple[multiprocessing.process.BaseProcess, Connection]] = []

    def __call__(
        self, ranks: int, function: Callable[..., Any], *arguments: Any, seconds: float = SECONDS
    ) -> list[Any]:
        """What `function(*arguments)` returns on each of so many ranks. Raises what the first one of them raised.

        `function` is a module's; on all ranks torch's default generator starts from seed 0.
        """
        while len(self._running) < ranks:
            ours, theirs = self._context.Pipe()
            process = self._context.Process(target=_serve, args=(theirs,), daemon=True)
            process.start()
            self._running.append((process, ours))
        with tempfile.TemporaryDirectory() as folder:
            for rank, (_, pipe) in enumerate(self._running[:ranks]):
                pipe.send((f"file://{folder}/meeting", rank, ranks, seconds, function, arguments))
            return self._answers(ranks)

    def _answers(self, ranks: int) -> list[Any]:
        """Once a rank has failed, the others, which may wait for it, have two seconds left."""
        waiting = {pipe: rank for rank, (_, pipe) in enumerate(self._running[:ranks])}
        results: dict[int, Any] = {}
        failures: list[str] = []
        while waiting and (ready := wait(list(waiting), 2 if failures else 3 * SECONDS)):
            for pipe in ready:
                rank = waiting.pop(pipe)
                try:
                    results[rank], failure = pipe.recv()
                except EOFError:
                    failure = f"rank {rank} has died"
                failures += [failure] if failure else []
        if failures or waiting:
            self.close()
            raise AssertionError("\n\n".join(failures or [f"ranks {sorted(waiting.values())} hang"]))
        return [results[rank] for rank in range(ranks)]

    def close(self) -> None:
        """Ends the processes; the next call starts new ones."""
        for process, _ in self._running:
            process.kill()
            process.join()
        self._running.clear()


def _serve(pipe: Connection) -> None:
    torch.set_num_threads(1)
    while True:
        try:
            meeting, rank, ranks, seconds, function, arguments = pipe.recv()
        except EOFError:
            return
        timeout = datetime.timedelta(seconds=seconds)
        dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=ranks, timeout=timeout)
        torch.manual_seed(0)
        try:
            answer = function(*arguments), None
        except BaseException:
            answer = None, f"rank {rank} of {ranks}:\n{traceback.format_exc()}"
        pipe.send(answer)
        dist.destroy_process_group()


@pytest.fixture(scope="session")
def ranks() -> Iterator[Ranks]:
    """Processes that run a function of a test's module as ranks of one group: `ranks(4, function, *arguments)`."""
    started = Ranks()
    yield started
    started.close()
