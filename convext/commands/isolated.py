"""Work in a process of its own: what it raises, dies of or hangs on costs its parent one request, with the reason.

    worker = Worker(serve, patience=30)
    for message in worker.ask(request):       whatever serve(request, say) says, as it comes
        ...                                   LostError: the process ended, or said nothing for 30 seconds

An illegal access on a GPU makes every later call of its process fail, a kernel that loops for ever never returns, and
the system may end what asks for all memory. None of these can be caught in the process itself.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NoReturn

from convext.choice import plugins

Say = Callable[[Any], object]
Serve = Callable[[Any, Say], None]

ALLOWANCE = 30.0  # seconds that one kernel may lose by hanging or ending its process, before it is given up
START = 180.0  # seconds that a process may take to import what it needs, on a machine that starts many
_READY, _MESSAGE, _DONE, _RAISED = "ready", "message", "done", "raised"


class LostError(Exception):
    """A request was not answered in full; the message says why, in one line."""


class Worker:
    """A process that answers requests one after another. One that was lost is started anew by the next request.

    Args:
        serve: a function of a module (the process imports it) that answers a request by any number of calls of
            `say(message)`. What it raises is the end of its process too.
        patience: seconds without a message after which the process counts as hung, and is killed.
        bounded: whether the process may have no more memory than was free when it began. Not for one that uses CUDA,
            which reserves far more addresses than it has memory.
    """

    def __init__(self, serve: Serve, patience: float, bounded: bool = False) -> None:
        self._serve, self._patience, self._bounded = serve, patience, bounded
        self._process: BaseProcess | None = None
        self._pipe: Connection | None = None

    def ask(self, request: Any) -> Iterator[Any]:
        """Yields the messages that answer `request`.

        Raises:
            LostError: there will be no more of them.
        """
        if self._process is None:
            self._start()
        assert self._pipe is not None
        try:
            self._pipe.send(request)
        except OSError:
            raise self._lost() from None
        while True:
            kind, content = self._receive(self._patience)
            if kind == _DONE:
                return
            if kind == _RAISED:
                self.close()
                raise LostError(content)
            yield content

    def close(self) -> None:
        """Ends the process, whatever it is doing."""
        if self._process is not None:
            assert self._pipe is not None
            self._process.kill()
            self._process.join()
            self._pipe.close()
        self._process = self._pipe = None

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")  # a fork would share the parent's CUDA context, which breaks
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_work, args=(theirs, self._serve, self._bounded), daemon=True)
        self._process.start()
        theirs.close()
        self._receive(START)

    def _receive(self, seconds: float) -> tuple[str, Any]:
        assert self._pipe is not None
        if not self._pipe.poll(seconds):
            self.close()
            raise LostError(f"hung: nothing came back for {seconds:g} s")
        try:
            return self._pipe.recv()
        except (EOFError, OSError):
            raise self._lost() from None

    def _lost(self) -> LostError:
        assert self._process is not None
        self._process.join(5)
        code = self._process.exitcode
        self.close()
        if code is not None and code < 0:
            with contextlib.suppress(ValueError):
                return LostError(f"its process was ended by {signal.Signals(-code).name}")
        return LostError(f"its process exited with status {code}")


def abandon() -> NoReturn:
    """Ends this process as Ctrl-C does, and all of its workers, though threads still wait for their answers."""
    for process in multiprocessing.active_children():
        process.kill()
    os._exit(128 + signal.SIGINT)


def one_line(error: BaseException) -> str:
    """An exception's type and the first line of what it says."""
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"


def _work(pipe: Connection, serve: Serve, bounded: bool) -> None:
    """What the process does, until its parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the whole group, and is the parent's to handle
    _expendable()
    if bounded:
        _bound_memory()
    plugins.load()
    pipe.send((_READY, None))
    while True:
        try:
            request = pipe.recv()
        except EOFError:
            return
        try:
            serve(request, lambda message: pipe.send((_MESSAGE, message)))
            pipe.send((_DONE, None))
        except Exception as error:
            pipe.send((_RAISED, one_line(error)))
            return


def _expendable() -> None:
    """Where memory runs out, the system is to end this process, not its parent."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def _bound_memory() -> None:
    """Makes an allocation fail that there is no memory for, instead of being granted and later killed for."""
    import resource  # not on Windows

    page = os.sysconf("SC_PAGE_SIZE")
    with contextlib.suppress(OSError, ValueError):
        taken = int(Path("/proc/self/statm").read_text().split()[0])
        limit = (taken + os.sysconf("SC_AVPHYS_PAGES")) * page
        resource.setrlimit(resource.RLIMIT_AS, (limit, resource.getrlimit(resource.RLIMIT_AS)[1]))
