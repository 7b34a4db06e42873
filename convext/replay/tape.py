"""Notes what a run does to its operands, and to what comes of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from convext.replay.launches import WATCHED, Launch, Slot
from convext.replay.replay import Allocate, Operate, Replay

_aten = torch.ops.aten
_ALLOCATE = (_aten.empty.memory_format, _aten.empty_strided.default, _aten.new_empty.default,
             _aten.new_empty_strided.default)  # fmt: skip
_NEW, _WRITE = (_aten.clone.default, _aten.sum.dim_IntList), (_aten.copy_.default, _aten.zero_.default)


class _Tape(TorchDispatchMode):
    """Notes what is done in this thread."""

    def __init__(self, operands: tuple[Tensor | None, ...]) -> None:
        super().__init__()
        self._operands = len(operands)
        self._tensors = [*operands]  # kept, as what follows, so that identities stay theirs
        self._kept: list[Tensor] = []
        self._slots = {id(t): i for i, t in enumerate(operands) if t is not None}
        self._steps: list[Any] = []
        self._launching = False
        given = sum(t is not None for t in operands)
        self._whole = len(self._slots) == given  # one tensor for two operands cannot be told apart

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if not self._launching:
            self._note(func, args, kwargs or {}, result)
        return result

    def _note(self, func: Any, args: Any, kwargs: dict[str, Any], result: Any) -> None:
        if func in _ALLOCATE:
            self._steps.append(Allocate(self._new(result), result))
            return
        tensors = [value for value in args if isinstance(value, Tensor)]
        known = all(id(t) in self._slots for t in tensors) and not any(isinstance(v, Tensor) for v in kwargs.values())
        if not known or not (func in _NEW or func in _WRITE or func.is_view):
            self._whole = False
            return
        if func is _aten.detach.default:  # of what torch.empty has made: the same tensor for all that follows
            self._slots[id(result)] = self._slots[id(args[0])]
            self._kept.append(result)
            return
        arguments = tuple(Slot(self._slots[id(v)]) if isinstance(v, Tensor) else v for v in args)
        self._steps.append(Operate(None if func in _WRITE else self._new(result), func, arguments, kwargs))

    def make(self, launch: Launch) -> None:
        """Launches. What a launcher, or Triton's interpreter, does with tensors is no step of the run."""
        self._launching = True
        try:
            launched = launch.launch()
        finally:
            self._launching = False
        try:
            self._steps.append(launch.bound(launched, self._slot_at))
        except KeyError:  # of a tensor that comes from elsewhere
            self._whole = False

    def _new(self, t: Tensor) -> int:
        self._slots[id(t)] = len(self._tensors)
        self._tensors.append(t)
        return len(self._tensors) - 1

    def _slot_at(self, t: Tensor) -> int:
        """The first slot that begins where `t` does: a kernel is told the beginning, and how a view lies, apart."""
        slot = self._slots[id(t)]
        for step in reversed(self._steps):
            if isinstance(step, Operate) and step.out == slot and step.operator.is_view:
                source = step.arguments[0].index
                if self._tensors[source].data_ptr() == t.data_ptr() and self._tensors[source].dtype == t.dtype:  # type: ignore[union-attr]
                    slot = source
        return slot

    def replay(self, results: Any) -> Replay | None:
        """What does it again, without views that nobody reads; None where not all of it is known."""
        several = results if isinstance(results, tuple) else (results,)
        slots = tuple(None if t is None else self._slots.get(id(t), 0) for t in several)
        if not self._whole or any(slot is not None and slot < self._operands for slot in slots):
            return None
        steps: list[Any] = []
        read = {*slots}
        for step in reversed(self._steps):
            if not isinstance(step, Allocate | Operate):
                read.update(step.reads)
            elif isinstance(step, Operate) and (step.out is None or step.out in read):
                read.update(v.index for v in step.arguments if type(v) is Slot)
            elif step.out not in read:
                continue
            steps.append(step)
        told = slots if isinstance(results, tuple) else slots[0]
        return Replay(steps[::-1], self._operands, len(self._tensors), told)  # type: ignore[arg-type]


def record(run: Callable[..., Any], *operands: Tensor | None) -> tuple[Any, Replay | None]:
    """Runs, and returns what that returns with what does the same to operands that lie alike, where it can be told.

    Args:
        run: takes `operands`; returns a tensor, or a tuple of tensors and None.
    """
    tape = _Tape(operands)
    before, WATCHED.make = WATCHED.make, tape.make
    try:
        with tape:
            result = run(*operands)
    finally:
        WATCHED.make = before
    return result, tape.replay(result)
