"""What tests of several ranks watch: messages, waits and convolutions; and how they have all of them overlap."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from torch.utils._python_dispatch import TorchDispatchMode

from convext.distributed.halos import overlap, worth


@contextmanager
def meanwhile() -> Iterator[mock.Mock]:
    """Whatever can be computed meanwhile is, however small it is. Yields what is called for it."""
    with (
        mock.patch.object(worth, "pays", return_value=True),
        mock.patch.object(overlap, "convolve", wraps=overlap.convolve) as calls,
    ):
        yield calls


def computing_meanwhile(function: Callable[..., Any], *arguments: Any) -> tuple[Any, int]:
    """What a rank's function returns then, and how often it did so."""
    with meanwhile() as calls:
        return function(*arguments), calls.call_count


class Sent(TorchDispatchMode):
    """What this rank sends: messages and bytes by receiver, and which collectives it takes part in."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes: Counter[int] = Counter()
        self.messages: Counter[int] = Counter()
        self.collectives: list[str] = []

    def __torch_dispatch__(self, op: Any, types: Any, arguments: Any = (), keywords: Any = None) -> Any:
        if op is torch.ops.c10d.send.default:
            (t,), _, receiver, _ = arguments
            self.bytes[receiver] += t.numel() * t.itemsize
            self.messages[receiver] += 1
        elif op.namespace in ("c10d", "_c10d_functional") and "recv" not in str(op) and "wait" not in str(op):
            self.collectives.append(str(op))
        return op(*arguments, **(keywords or {}))


class Events(TorchDispatchMode):
    """Messages that start, waits for them, and convolutions by their rows of the result, in their order."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, op: Any, types: Any, arguments: Any = (), keywords: Any = None) -> Any:
        found = op(*arguments, **(keywords or {}))
        if op.namespace == "convext":
            first = found[0] if isinstance(found, tuple) else found
            self.seen.append(f"{op._schema.name.partition('::')[2]} {first.shape[2]}")
        return found

    def start(self, operations: list[Any]) -> list[Any]:
        self.seen.append("start")
        return [Waited(work, self) for work in STARTED(operations)]


STARTED = dist.batch_isend_irecv


class Waited:
    def __init__(self, work: Any, events: Events) -> None:
        self.work, self.events = work, events

    def wait(self) -> None:
        self.events.seen.append("wait")
        self.work.wait()
