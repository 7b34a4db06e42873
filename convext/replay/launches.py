"""What a launch has to offer so that it can be written down, and who is told of launches."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

Slots = list[Any]
Ready = Callable[[Slots, Any], None]
Open = Callable[[int], Any]


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
        ready: launches on a stream, with nothing left to decide; None where that cannot be done.
    """

    reads: Sequence[int]
    ready: Ready | None

    def __call__(self, slots: Slots, stream: Any) -> None:
        """Launches in the ordinary way, on the current stream."""

    @staticmethod
    def opener(steps: Sequence[Any]) -> Open | None:
        """Of steps of this kind: `open(device)` gives the stream on which they may be `ready`, or None if not now."""


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
