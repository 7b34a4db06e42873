"""What a launch has to offer so that it can be written down, and who is told of launches."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

Slots = list[Any]
Open = Callable[[int], Any]


class Names(dict[str, Any]):
    """What a function's source calls by a name: tensors, t0, t1, .. by their slots, and what else it is given."""

    def __init__(self, addresses: Collection[int]) -> None:
        """`addresses`: slots in which no tensor stands, but the address where one would begin."""
        super().__init__()
        self._addresses = addresses

    def of(self, value: Any) -> str:
        """A name for a value."""
        name = f"v{len(self)}"
        self[name] = value
        return name

    def address(self, slot: int) -> str:
        """The expression for where the tensor of a slot begins."""
        return f"t{slot}" if slot in self._addresses else f"t{slot}.data_ptr()"


@dataclass(frozen=True)
class Slot:
    """The place of a tensor in the list of a call's tensors."""

    index: int

    def filled(self, slots: Slots) -> Any:
        """What stands there."""
        return slots[self.index]


class Step(Protocol):
    """A launch that is bound to all but its tensors.

    Attributes:
        reads: the slots of its tensors.
        wants_tensors: whether its line names them as such, and not only where they begin.
    """

    reads: Sequence[int]
    wants_tensors: bool

    def __call__(self, slots: Slots) -> None:
        """Launches in the ordinary way, on the current stream."""

    def line(self, names: Names) -> str:
        """The Python that launches on `stream`, with nothing left to decide."""

    @staticmethod
    def opener(steps: Sequence[Any]) -> Open | None:
        """Of steps of this kind: `open(device)` gives the stream on which their lines may launch, or None if not now.

        None where one of them cannot be a line.
        """


class Launch(Protocol):
    """A launch with its tensors."""

    def launch(self) -> Any:
        """Launches; returns what binding it wants to know."""

    def bound(self, launched: Any, slot_of: Callable[[Tensor], int]) -> Step:
        """The launch but for its tensors, whose slots `slot_of` tells: KeyError where it has none."""


class _Watched(threading.local):
    """Who makes this thread's launches in our place: `make` is given each, and calls its `launch`."""

    make: Callable[[Any], None] | None = None


WATCHED = _Watched()
