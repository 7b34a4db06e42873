"""One kernel launch as a value: what runs it on a device is also what compiles it without one.

Triton compiles a kernel anew for each number that is 1 or not, and that 16 divides or not. Of what changes with batches
and with sizes of images alone that would be a hundred times, for next to nothing: vectors are proved by constants
(`pixels.py`). So each kernel names its COUNTS, which are never constants, and its SIZES, of which a 1 is one but no
divisor is told. They are arguments of their own, for Triton asks nothing of what is in tuples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from convext.replay.launches import WATCHED
from convext.triton_kernels.bound import Bound

_collected: list[Launch] | None = None


@dataclass(frozen=True)
class Launch:
    """A @triton.jit kernel with everything that it is launched with.

    Attributes:
        kernel: the @triton.jit function.
        programs: length of the grid, which has one axis: the others end at 65,535.
        arguments: the kernel's run-time arguments in order: tensors (on "meta" for compiling only), numbers, None,
            and tuples of these.
        constants: its `tl.constexpr` arguments.
        warps, stages: `num_warps` and `num_stages`.
        trips: how often the innermost loop runs in one program, on average. Nothing that runs depends on it: it is for
            counting instructions.
    """

    kernel: Callable[..., Any]
    programs: int
    arguments: tuple[Any, ...]
    constants: Mapping[str, Any]
    warps: int = 4
    stages: int = 1
    trips: float = 1

    def __call__(self) -> None:
        """Launches on the device of the first argument, current or not; nothing for an empty grid, or on "meta"."""
        if _collected is not None:
            _collected.append(self)
            return
        if self.programs == 0 or self.arguments[0].is_meta:
            return
        make = WATCHED.make or Launch.launch
        make(self)

    def argument(self, name: str) -> Any:
        """The run-time argument that the kernel calls `name`."""
        return self.arguments[self.kernel.arg_names.index(name)]  # type: ignore[attr-defined]

    def launch(self) -> Any:
        """Launches, and returns what Triton compiled for it; None from Triton's interpreter."""
        device = self.arguments[0].device
        with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
            return self.kernel[(self.programs,)](  # type: ignore[index]
                *self.arguments, **self.constants, num_warps=self.warps, num_stages=self.stages
            )

    def bound(self, launched: Any, slot_of: Callable[[Tensor], int]) -> Bound:
        """The launch but for its tensors, whose slots `slot_of` tells, given what `launch` returned."""
        return Bound(self, launched, slot_of)


@contextmanager
def collecting() -> Iterator[list[Launch]]:
    """Launches called in here do not run, but are the elements of the list: how to see what tensors on "meta" cause."""
    global _collected
    before, _collected = _collected, []
    try:
        yield _collected
    finally:
        _collected = before


@dataclass(frozen=True)
class Specimen:
    """A launch that `convext.benchmarks.inspect` compiles, to show what the kernel became.

    Attributes:
        name: unique: "family.kernel dtype, tile and problem in short".
        tile: the entry of the family's table of tiles that it runs with; None for a layer as it runs.
        launch: as for running it, with tensors on "meta".
        outputs: results that one program writes; instructions are counted for each.
        trips: how often the kernel's main loop runs in one program.
        filling: of these, those that complete no output: they fill the window that later ones slide.
    """

    name: str
    tile: object
    launch: Launch
    outputs: float
    trips: int = 1
    filling: int = 0
