"""A call's first run is written down; what follows does the same to other tensors that lie alike.

A run of a record of ours allocates, copies and launches, and what of this depends on how its operands lie alone: on
shapes, strides, dtype, device and whether they begin at multiples of 16 bytes. So there is nothing to decide in the
next call with these, nor for Triton to bind and to find:

    first call    run(problem, a, b, bias)                every ATen operator and launch is noted on a tape
    from then on  slots = [a, b, bias, ...]               one list of tensors
                  slots[3] = empty_strided(..)            what was allocated
                  launch(slots, stream)                   a launch that is bound to all but them (bound.py)

An operator that is not known to repeat leaves the tape incomplete, and the call as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from triton import knobs
from triton.runtime import driver

from convext.triton_kernels.bound import Bound, Slot, Slots
from convext.triton_kernels.launch import WATCHED, Launch

_aten = torch.ops.aten
_ALLOCATE = (_aten.empty.memory_format, _aten.empty_strided.default, _aten.new_empty.default,
             _aten.new_empty_strided.default)  # fmt: skip
_COPY, _WRITE = (_aten.clone.default,), (_aten.copy_.default, _aten.zero_.default)
# The same without a look-up of the operator, which takes longer than a copy does.
_METHODS: dict[Any, Callable[..., Any]] = {
    _aten.clone.default: Tensor.clone, _aten.copy_.default: Tensor.copy_, _aten.zero_.default: Tensor.zero_,
}  # fmt: skip


class _Allocate:
    """Uninitialised memory, on the current device."""

    def __init__(self, out: int, like: Tensor) -> None:
        self.out = out
        self._lies = tuple(like.shape), like.stride(), like.dtype
        # what torch.compile's programs allocate by: torch.empty_strided without the parsing of its arguments
        fast = getattr(torch._C._dynamo.guards, f"_empty_strided_{like.device.type}", None)
        self._empty = fast or partial(_empty_strided, like.device)

    def __call__(self, slots: Slots, stream: Any) -> None:
        slots[self.out] = self._empty(*self._lies)


def _empty_strided(
    device: torch.device, shape: tuple[int, ...], strides: tuple[int, ...], dtype: torch.dtype
) -> Tensor:
    return torch.empty_strided(shape, strides, dtype=dtype, device=device)


class _Operate:
    """A copy, a view, or a write into memory that was allocated (whose `out` is None)."""

    def __init__(self, out: int | None, operator: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        self.out, self.operator, self.arguments = out, operator, arguments
        self._call, self._named = _METHODS.get(operator, operator), named

    def __call__(self, slots: Slots, stream: Any) -> None:
        arguments = [slots[v.index] if type(v) is Slot else v for v in self.arguments]
        result = self._call(*arguments, **self._named)
        if self.out is not None:
            slots[self.out] = result


class Replay:
    """What a run did, for operands that lie as its did.

    Where a profiler wants to see launches, or Triton's driver is another than then, Triton launches anew.
    """

    def __init__(self, steps: Sequence[Any], slots: int, result: int) -> None:
        self._steps, self._result = steps, result
        self._blank = [None] * (slots - 3)
        bound = [step for step in steps if isinstance(step, Bound)]
        self._kernels = [step.kernel for step in bound]
        self._driver = driver.active if bound and all(step.ready for step in bound) else None
        self._direct: list[Any] = [step.ready if isinstance(step, Bound) else step for step in steps]

    def __call__(self, a: Tensor, b: Tensor, bias: Tensor | None) -> Tensor:
        slots = [a, b, bias, *self._blank]
        device = a.device.index
        if device is not None and device != torch.cuda.current_device():
            with torch.cuda.device(device):
                self._run(slots, device)
        else:
            self._run(slots, device or 0)
        return slots[self._result]  # type: ignore[return-value]

    def _run(self, slots: Slots, device: int) -> None:
        if self._driver is not None and driver.active is self._driver and not self._hooked():
            stream = self._driver.get_current_stream(device)
            for step in self._direct:
                step(slots, stream)
        else:
            for step in self._steps:
                step(slots, None)

    def _hooked(self) -> bool:
        """Whether somebody wants to see launches: as Triton's profiler does, or those of a kernel."""
        for kernel in self._kernels:
            if kernel.pre_run_hooks:
                return True
        return _hooked()


def _hooked() -> bool:
    """Whether somebody, as Triton's profiler does, wants to see all launches."""
    runtime = knobs.runtime
    try:
        return bool(runtime.launch_enter_hook.calls or runtime.launch_exit_hook.calls)
    except AttributeError:  # a function, or None
        return runtime.launch_enter_hook is not None or runtime.launch_exit_hook is not None


class _Tape(TorchDispatchMode):
    """Notes what is done to the operands of a run, and to what comes of them, in this thread."""

    def __init__(self, a: Tensor, b: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self._tensors: list[Tensor | None] = [a, b, bias]  # kept, as what follows, so that identities stay theirs
        self._kept: list[Tensor] = []
        self._slots = {id(t): i for i, t in enumerate(self._tensors) if t is not None}
        self._steps: list[Any] = []
        self._launching = False
        self._whole = len(self._slots) == 2 + (bias is not None)  # one tensor for two operands cannot be told apart

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if not self._launching:
            self._note(func, args, kwargs or {}, result)
        return result

    def _note(self, func: Any, args: Any, kwargs: dict[str, Any], result: Any) -> None:
        if func in _ALLOCATE:
            self._steps.append(_Allocate(self._new(result), result))
            return
        tensors = [value for value in args if isinstance(value, Tensor)]
        known = all(id(t) in self._slots for t in tensors) and not any(isinstance(v, Tensor) for v in kwargs.values())
        if not known or not (func in _COPY or func in _WRITE or func.is_view):
            self._whole = False
            return
        if func is _aten.detach.default:  # of what torch.empty has made: the same tensor for all that follows
            self._slots[id(result)] = self._slots[id(args[0])]
            self._kept.append(result)
            return
        arguments = tuple(Slot(self._slots[id(v)]) if isinstance(v, Tensor) else v for v in args)
        self._steps.append(_Operate(None if func in _WRITE else self._new(result), func, arguments, kwargs))

    def make(self, launch: Launch) -> None:
        """Launches. What Triton, or its interpreter, does with tensors is no step of the run."""
        self._launching = True
        try:
            compiled = launch.launch()
        finally:
            self._launching = False
        try:
            self._steps.append(Bound(launch, compiled, self._slot_at))
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
            if isinstance(step, _Operate) and step.out == slot and step.operator.is_view:  # type: ignore[attr-defined]
                source = step.arguments[0].index
                if self._tensors[source].data_ptr() == t.data_ptr() and self._tensors[source].dtype == t.dtype:  # type: ignore[union-attr]
                    slot = source
        return slot

    def replay(self, result: Tensor) -> Replay | None:
        """What does it again, without views that nobody reads; None where not all of it is known."""
        slot = self._slots.get(id(result), 0)
        if not self._whole or slot < 3:
            return None
        steps: list[Any] = []
        read = {slot}
        for step in reversed(self._steps):
            if isinstance(step, Bound):
                read.update(step.reads)
            elif isinstance(step, _Operate) and (step.out is None or step.out in read):
                read.update(v.index for v in step.arguments if type(v) is Slot)
            elif step.out not in read:
                continue
            steps.append(step)
        return Replay(steps[::-1], len(self._tensors), slot)


def record(
    run: Callable[..., Tensor], problem: Any, a: Tensor, b: Tensor, bias: Tensor | None
) -> tuple[Tensor, Replay | None]:
    """Runs, and returns the result with what does the same to operands that lie alike, where that can be told."""
    tape = _Tape(a, b, bias)
    before, WATCHED.make = WATCHED.make, tape.make
    try:
        with tape:
            result = run(problem, a, b, bias)
    finally:
        WATCHED.make = before
    return result, tape.replay(result)
