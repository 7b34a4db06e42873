"""What a run did, done again to other tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from convext.replay.launches import Open, Slot, Slots

_aten = torch.ops.aten
# The same without a look-up of the operator, which takes longer than a copy does.
_METHODS: dict[Any, Callable[..., Any]] = {
    _aten.clone.default: Tensor.clone, _aten.copy_.default: Tensor.copy_, _aten.zero_.default: Tensor.zero_,
    _aten.sum.dim_IntList: Tensor.sum,
}  # fmt: skip


class Allocate:
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


class Operate:
    """A copy, a sum, a view, or a write into memory that was allocated (whose `out` is None)."""

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

    Where launches cannot be made directly, as when a profiler wants to see them, they are made in the ordinary way.
    """

    def __init__(self, steps: Sequence[Any], operands: int, slots: int, results: int | tuple[int | None, ...]) -> None:
        """`results`: the slot of the result, or of each where there are several, None for one that is None."""
        self._steps, self._results = steps, results
        self._blank = [None] * (slots - operands)
        self._direct: list[Any] = [getattr(step, "ready", step) for step in steps]
        self._open = _opener([step for step in steps if hasattr(step, "ready")])

    def __call__(self, *operands: Any) -> Any:
        slots = [*operands, *self._blank]
        device = operands[0].device.index
        if device is not None and device != torch.cuda.current_device():
            with torch.cuda.device(device):
                self._run(slots, device)
        else:
            self._run(slots, device or 0)
        results = self._results
        if type(results) is int:
            return slots[results]
        return tuple([None if slot is None else slots[slot] for slot in results])  # type: ignore[union-attr]

    def _run(self, slots: Slots, device: int) -> None:
        stream = None if self._open is None else self._open(device)
        for step in self._steps if stream is None else self._direct:
            step(slots, stream)


def _opener(launches: Sequence[Any]) -> Open | None:
    """Of launches of one kind, theirs: of several kinds nobody knows when all can be made directly."""
    kinds = {type(launch) for launch in launches}
    return kinds.pop().opener(launches) if len(kinds) == 1 else None
