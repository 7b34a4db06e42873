"""What a run did, done again to other tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from convext.replay.launches import Names, Open, Slot, Slots

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
        self.empty = fast or partial(_empty_strided, like.device)
        self.bytes = like.untyped_storage().nbytes()

    def __call__(self, slots: Slots) -> None:
        slots[self.out] = self.empty(*self._lies)

    def line(self, names: Names) -> str:
        """The same, written out."""
        return f"t{self.out} = {names.of(self.empty)}({', '.join(map(names.of, self._lies))})"


def _empty_strided(
    device: torch.device, shape: tuple[int, ...], strides: tuple[int, ...], dtype: torch.dtype
) -> Tensor:
    return torch.empty_strided(shape, strides, dtype=dtype, device=device)


class Operate:
    """A copy, a sum, a view, or a write into memory that was allocated (whose `out` is None)."""

    def __init__(self, out: int | None, operator: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        self.out, self.operator, self.arguments = out, operator, arguments
        self._call, self._named = _METHODS.get(operator, operator), named

    def __call__(self, slots: Slots) -> None:
        arguments = [slots[v.index] if type(v) is Slot else v for v in self.arguments]
        result = self._call(*arguments, **self._named)
        if self.out is not None:
            slots[self.out] = result

    def line(self, names: Names) -> str:
        """The same, written out."""
        arguments = [f"t{v.index}" if type(v) is Slot else names.of(v) for v in self.arguments]
        call = f"{names.of(self._call)}({', '.join([*arguments, f'**{names.of(self._named)}'])})"
        return call if self.out is None else f"t{self.out} = {call}"


class Replay:
    """What a run did, for operands that lie as its did.

    Where launches cannot be made directly, as when a profiler wants to see them, they are made in the ordinary way.
    """

    def __init__(self, steps: Sequence[Any], operands: int, slots: int, results: int | tuple[int | None, ...]) -> None:
        """`results`: the slot of the result, or of each where there are several, None for one that is None."""
        self._steps, self._results = steps, results
        self._blank = [None] * (slots - operands)
        self._open = _opener([step for step in steps if not isinstance(step, Allocate | Operate)])
        self._direct = None if self._open is None else written(steps, operands, results)

    def __call__(self, *operands: Any) -> Any:
        device = operands[0].get_device()
        if device < 0:  # no GPU's
            device = 0
        elif device != torch.cuda.current_device():
            with torch.cuda.device(device):
                return self._run(operands, device)
        return self._run(operands, device)

    def _run(self, operands: tuple[Any, ...], device: int) -> Any:
        stream = None if self._open is None else self._open(device)
        if stream is not None:
            return self._direct(stream, *operands)  # type: ignore[misc]
        slots = [*operands, *self._blank]
        for step in self._steps:
            step(slots)
        results = self._results
        if type(results) is int:
            return slots[results]
        return tuple([None if slot is None else slots[slot] for slot in results])  # type: ignore[union-attr]


def _opener(launches: Sequence[Any]) -> Open | None:
    """Of launches of one kind, theirs: of several kinds nobody knows when all can be made directly."""
    kinds = {type(launch) for launch in launches}
    return kinds.pop().opener(launches) if len(kinds) == 1 else None


# ------------------------------------------------------------------------------------------------ written out


def written(steps: Sequence[Any], operands: int, results: int | tuple[int | None, ...]) -> Callable[..., Any]:
    """All steps as one function of the stream and the operands, whose launches are made directly.

    Steps one by one take as long again as what they do. What launches alone read and write, by where it begins, is one
    piece of memory, and no tensors; it is there until the call ends, as it would be in pieces of its own.

        def replay(stream, t0, t1, t2):
            memory = v0(v1, v2, v3)
            t4 = memory.data_ptr()
            t5 = t4 + 1024
            t3 = v4(v5, v6, v7)
            v8(132, 1, 1, stream, *v9, [t0.data_ptr(), t4, *v10])
            ...
            return t3
    """
    told = (results,) if isinstance(results, int) else results
    tensors = {*told}.union(*map(_tensors, steps))
    pieces = [step for step in steps if isinstance(step, Allocate) and step.out not in tensors]
    names = Names({piece.out for piece in pieces})
    lines = _memory(pieces, names) + [step.line(names) for step in steps if step not in pieces]
    values = ", ".join("None" if slot is None else f"t{slot}" for slot in told)
    lines.append(f"return {values}" if isinstance(results, int) else f"return ({values},)")
    head = f"def replay({', '.join(['stream', *(f't{slot}' for slot in range(operands))])}):"
    given: dict[str, Any] = {**names}  # Python finds names fast in a plain dict
    exec("\n    ".join([head, *lines]), given)
    return given.pop("replay")  # type: ignore[no-any-return]


def _tensors(step: Any) -> Sequence[int]:
    """The slots that have to hold tensors for a step, written out."""
    if isinstance(step, Operate):
        return [v.index for v in step.arguments if type(v) is Slot]
    return step.reads if getattr(step, "wants_tensors", False) else ()


_ALIGNMENT = 512  # bytes, as torch's allocator for GPUs gives them


def _memory(pieces: Sequence[Allocate], names: Names) -> list[str]:
    """The lines that allocate `pieces` together."""
    if not pieces:
        return []
    begins = [0, *accumulate(-(-piece.bytes // _ALIGNMENT) * _ALIGNMENT for piece in pieces)]
    lies = map(names.of, ((begins.pop(),), (1,), torch.uint8))
    first = pieces[0].out
    rest = [f"t{piece.out} = t{first} + {begin}" for piece, begin in zip(pieces[1:], begins[1:], strict=True)]
    return [f"memory = {names.of(pieces[0].empty)}({', '.join(lies)})", f"t{first} = memory.data_ptr()", *rest]
