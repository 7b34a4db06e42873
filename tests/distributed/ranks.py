"""Ranks that are started once and run many tests: processes on this machine, which talk by gloo.

They are forked from one that has imported torch, for its import takes longer than most tests.
"""

from __future__ import annotations

import datetime
import multiprocessing
import os
import tempfile
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from typing import Any

import torch
import torch.distributed as dist

SECONDS = 20
Group = list[tuple[multiprocessing.process.BaseProcess, Connection]]


class Ranks:
    """Processes that run functions as ranks of a process group, the same group each time: torch remembers meshes."""

    def __init__(self) -> None:
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["torch", "torch.distributed.tensor", "convext"])
        self._folder = tempfile.TemporaryDirectory()
        self._groups: dict[int, Group] = {}
        self._started = 0

    def __call__(self, ranks: int, function: Callable[..., Any], *arguments: Any, seconds: float = SECONDS) -> list:
        """What `function(*arguments)` returns on each of so many ranks. Raises what the first one of them raised.

        `function` is a module's; on all ranks torch's default generator starts from seed 0. A rank that waits for
        another one gives up after so many seconds; a group for other than the usual ones is a new one.
        """
        usual = seconds == SECONDS
        group = (self._groups.pop(ranks, None) if usual else None) or self._start(ranks, seconds)
        for _, pipe in group:
            pipe.send((function, arguments))
        kept = False
        try:
            answers = _answers(group)
            kept = usual  # after a time-out a group is of no use
        finally:
            if kept:
                self._groups[ranks] = group
            else:
                _end(group)
        return answers

    def _start(self, ranks: int, seconds: float) -> Group:
        self._started += 1
        meeting, group = f"file://{self._folder.name}/meeting{self._started}", []
        for rank in range(ranks):
            ours, theirs = self._context.Pipe()
            process = self._context.Process(target=_serve, args=(theirs, meeting, rank, ranks, seconds), daemon=True)
            process.start()
            theirs.close()
            group.append((process, ours))
        return group

    def close(self) -> None:
        """Ends all processes."""
        for group in self._groups.values():
            _end(group)
        self._folder.cleanup()


def _answers(group: Group) -> list[Any]:
    """Once a rank has failed, the others, which may wait for it, have ten seconds left."""
    waiting = {pipe: rank for rank, (_, pipe) in enumerate(group)}
    results: dict[int, Any] = {}
    failures: list[str] = []
    while waiting and (ready := wait(list(waiting), 10 if failures else 6 * SECONDS)):
        for pipe in ready:
            rank = waiting.pop(pipe)
            try:
                results[rank], failure = pipe.recv()
            except EOFError:
                failure = f"rank {rank} has died"
            failures += [failure] if failure else []
    if failures or waiting:
        raise AssertionError("\n\n".join(failures or [f"ranks {sorted(waiting.values())} hang"]))
    return [results[rank] for rank in range(len(group))]


def _end(group: Group) -> None:
    for process, _ in group:
        process.kill()
        process.join()


def _serve(pipe: Connection, meeting: str, rank: int, ranks: int, seconds: float) -> None:
    os.environ["TRITON_INTERPRET"] = "1"  # tensors are a CPU's, also where there is a GPU
    torch.set_num_threads(1)
    timeout = datetime.timedelta(seconds=seconds)
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=ranks, timeout=timeout)
    while True:
        try:
            function, arguments = pipe.recv()
        except EOFError:
            return
        torch.manual_seed(0)
        try:
            answer = function(*arguments), None
        except BaseException:
            answer = None, f"rank {rank} of {ranks}:\n{traceback.format_exc()}"
        pipe.send(answer)
