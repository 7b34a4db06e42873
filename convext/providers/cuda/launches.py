"""A launch of a compiled kernel as a value, and what is left of it when it comes again.

operator(tensors, geometry)          checks, and binds a call to all but the tensors' addresses     10 to 30 us
convext_launch(call, stream, ...)    the call, by one function in C                                      1 us
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from convext.problem.epilogue import Epilogue
from convext.providers.cuda import native
from convext.replay.launches import WATCHED, Names, Open, Slots

NOTHING = Epilogue()  # follows the sums of a bare convolution


def ending(epilogue: Epilogue) -> tuple[str, float, float]:
    """An activation and its scalars, as the operators take them."""
    first, second = (*epilogue.scalars, 0.0, 0.0)[:2]
    return epilogue.name, first, second


@dataclass(frozen=True)
class Launch:
    """One call of an operator of csrc/library/library.cu.

    Attributes:
        operator: its name.
        before: what its schema has before the tensors: the face, or nothing.
        tensors: its operands and then its results, None for a bias or residual that is not there.
        geometry: what its schema has after the tensors.
    """

    operator: str
    before: tuple[str, ...]
    tensors: tuple[Tensor | None, ...]
    geometry: tuple[Any, ...]

    def __call__(self) -> None:
        """Launches on the current stream of the tensors' device."""
        make = WATCHED.make or Launch.launch
        make(self)

    def launch(self) -> _Call:
        """Launches, and returns the call that was bound for it."""
        device = self._device
        with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
            operator = getattr(native.operators(device.type), self.operator)
            call = _Call(device.type, operator(*self.before, *self.tensors, *self.geometry))
            call(current_stream(device), *map(_address, self.tensors))
        return call

    def bound(self, launched: _Call, slot_of: Callable[[Tensor], int]) -> Bound:
        """The launch but for its tensors, whose slots `slot_of` tells, by the call that `launch` returned."""
        return Bound(launched, self._device, [None if t is None else slot_of(t) for t in self.tensors])

    @property
    def _device(self) -> torch.device:
        assert self.tensors[0] is not None
        return self.tensors[0].device


def current_stream(device: torch.device) -> int:
    """As the launches of its kernels take it. The host's builds have none."""
    return torch._C._cuda_getCurrentRawStream(device.index) if device.type == "cuda" else 0


def _address(t: Tensor | None) -> int | None:
    return None if t is None else t.data_ptr()


class _Call:
    """A call that is bound to all but its tensors, as long as somebody has it."""

    def __init__(self, device: str, number: int) -> None:
        self._number = number
        self._launch, self._forget = native.functions(device)

    def __call__(self, stream: int, *addresses: int | None) -> None:
        """Launches on tensors at these addresses.

        Raises:
            RuntimeError: what the launcher or the device says against it.
        """
        error = self._launch(self._number, stream, *addresses, *[None] * (5 - len(addresses)))
        if error is not None:
            raise RuntimeError(error.decode())

    def __del__(self) -> None:
        self._forget(self._number)


class Bound:
    """A call with the slots of its tensors, as a step of a replay."""

    wants_tensors = False

    def __init__(self, call: _Call, device: torch.device, slots: Sequence[int | None]) -> None:
        self._call, self.device, self._slots = call, device, slots
        self.reads = [slot for slot in slots if slot is not None]

    def __call__(self, slots: Slots) -> None:
        """Launches on the current stream."""
        self._call(current_stream(self.device), *[None if i is None else slots[i].data_ptr() for i in self._slots])

    def line(self, names: Names) -> str:
        """The same, written out."""
        addresses = ["None" if i is None else names.address(i) for i in self._slots]
        return f"{names.of(self._call)}({', '.join(['stream', *addresses])})"

    @staticmethod
    def opener(steps: Sequence[Bound]) -> Open:
        """They can always be made directly."""
        if steps[0].device.type != "cuda":
            return lambda device: 0
        return torch._C._cuda_getCurrentRawStream  # type: ignore[no-any-return]
