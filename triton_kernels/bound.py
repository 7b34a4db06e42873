"""A launch that is bound to all but its tensors.

Triton binds the arguments of a launch, specialises them and finds what it compiled; then its launcher asks what scratch
memory the kernel needs, encodes tensor maps, and calls a function in C. Only tensors differ when a call comes again:

    Triton's launch       20 us
    its launcher           2 us    6 with a tensor map
    its function in C      1 us
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor
from triton import knobs
from triton.compiler import CompiledKernel
from triton.runtime import driver

from convext.replay.launches import Open, Ready, Slot, Slots

if TYPE_CHECKING:
    from convext.triton_kernels.launch import Launch

_MOST_MAPS = 256  # addresses that one descriptor's maps are kept of: an allocator gives the same ones again


@dataclass(frozen=True)
class _Descriptor:
    """A descriptor but for the tensor that it describes."""

    index: int
    kind: type
    fields: dict[str, Any]

    def filled(self, slots: Slots) -> Any:
        """The descriptor of the tensor that stands there."""
        made: Any = object.__new__(self.kind)  # past the checks of its constructor
        vars(made).update(self.fields, base=slots[self.index])
        return made


class Bound:
    """A launch but for its tensors: `ready` makes it on a stream, without Triton's binding, where that can be done.

    As a step of a replay it has Triton launch anew.
    """

    def __init__(self, launch: Launch, compiled: Any, slot_of: Callable[[Tensor], int]) -> None:
        """`compiled` is what Triton launched, None of its interpreter; `slot_of` says where a tensor stands."""
        self.kernel: Any = launch.kernel
        self._programs = launch.programs
        self._named = {**launch.constants, "num_warps": launch.warps, "num_stages": launch.stages}
        self._given = [_emptied(value, slot_of) for value in launch.arguments]
        self.reads = [value.index for value in self._given if isinstance(value, Slot | _Descriptor)]
        self.ready: Ready | None = None
        if type(compiled) is CompiledKernel:
            rest = launch.kernel.arg_names[len(self._given) :]  # type: ignore[attr-defined]
            every = [*self._given, *(launch.constants[name] for name in rest)]
            self.ready = _Direct.of(compiled, self._programs, every) or _through(compiled, self._programs, every)

    def __call__(self, slots: Slots, stream: Any) -> None:
        """Has Triton launch it, on its current stream."""
        self.kernel[(self._programs,)](*_filled(self._given, slots), **self._named)

    @staticmethod
    def opener(steps: Sequence[Bound]) -> Open | None:
        """Triton launches anew where somebody wants to see it, or where its driver is another than now."""
        if not all(step.ready for step in steps):
            return None
        kernels, then = [step.kernel for step in steps], driver.active
        stream_of = then.get_current_stream

        def opened(device: int) -> Any:
            return stream_of(device) if driver.active is then and not _hooked(kernels) else None

        return opened


def _hooked(kernels: list[Any]) -> bool:
    """Whether somebody wants to see launches of these kernels, or, as Triton's profiler does, all."""
    for kernel in kernels:
        if kernel.pre_run_hooks:
            return True
    runtime = knobs.runtime
    try:
        return bool(runtime.launch_enter_hook.calls or runtime.launch_exit_hook.calls)
    except AttributeError:  # a function, or None
        return runtime.launch_enter_hook is not None or runtime.launch_exit_hook is not None


def _emptied(value: Any, slot_of: Callable[[Tensor], int]) -> Any:
    if isinstance(value, Tensor):
        return Slot(slot_of(value))
    if isinstance(getattr(value, "base", None), Tensor):
        return _Descriptor(slot_of(value.base), type(value), {**vars(value), "base": None})
    return value


def _filled(arguments: list[Any], slots: Slots) -> list[Any]:
    return [value.filled(slots) if type(value) in (Slot, _Descriptor) else value for value in arguments]


def _through(compiled: Any, programs: int, arguments: list[Any]) -> Ready:
    """By Triton's launcher."""
    run, function, metadata = compiled.run, compiled.function, compiled.packed_metadata

    def ready(slots: Slots, stream: Any) -> None:
        run(programs, 1, 1, stream, function, metadata, None, None, None, *_filled(arguments, slots))

    return ready


class _Direct:
    """By the function in C that Triton's launcher ends in. A tensor map is encoded once for each address."""

    def __init__(self, end: Callable[..., None], programs: int, between: tuple[Any, ...], arguments: list[Any]) -> None:
        """`between` is what `end` takes between stream and arguments, which have a `_Map` for each tensor map."""
        self._end, self._programs, self._between = end, programs, between
        self._arguments = [None if type(value) in (Slot, _Map) else value for value in arguments]
        self._places = [(i, value.index) for i, value in enumerate(arguments) if type(value) is Slot]
        self._maps = [(i, value) for i, value in enumerate(arguments) if type(value) is _Map]

    @classmethod
    def of(cls, compiled: Any, programs: int, arguments: list[Any]) -> _Direct | None:
        """None for a kernel that needs scratch memory, and where a launcher is not Triton's own since 3.7."""
        from triton.backends.nvidia.driver import CudaLauncher

        launcher, end = compiled.run, getattr(driver.active.utils, "launch", None)
        if type(launcher) is not CudaLauncher or end is None:
            return None
        if launcher.global_scratch_size or launcher.profile_scratch_size:
            return None
        seen: list[tuple[Any, ...]] = []
        double, stream = copy.copy(launcher), object()
        double.launch = lambda *given: seen.append(given)
        double(programs, 1, 1, stream, compiled.function, compiled.packed_metadata, None, None, None, *arguments)
        *before, last = seen[0]
        if before[:4] != [programs, 1, 1, stream] or last != tuple(arguments):
            return None
        expanded = _with_maps(compiled, arguments)
        return None if expanded is None else cls(end, programs, tuple(before[4:]), expanded)

    def __call__(self, slots: Slots, stream: Any) -> None:
        arguments = self._arguments.copy()
        for i, slot in self._places:
            arguments[i] = slots[slot]
        for i, tensor_map in self._maps:
            arguments[i] = tensor_map(slots)
        self._end(self._programs, 1, 1, stream, *self._between, arguments)


class _Map:
    """The tensor map of whatever tensor a descriptor is filled with."""

    def __init__(self, descriptor: _Descriptor, encode: Callable[[list[Any]], list[Any]]) -> None:
        self._descriptor, self._encode = descriptor, encode
        self._made: dict[int, Any] = {}  # by address

    def __call__(self, slots: Slots) -> Any:
        address = slots[self._descriptor.index].data_ptr()
        made = self._made.get(address)
        if made is None:
            if len(self._made) >= _MOST_MAPS:
                self._made.clear()
            made = self._made[address] = self._encode([self._descriptor.filled(slots)])[0]
        return made


def _with_maps(compiled: Any, arguments: list[Any]) -> list[Any] | None:
    """A kernel's arguments as C takes them: a descriptor is its tensor map, its sizes and its strides."""
    from triton.backends.nvidia.driver import wrap_handle_tensordesc

    kinds = list(compiled.src.signature.values())
    told = iter(getattr(compiled.metadata, "tensordesc_meta", None) or ())
    expanded: list[Any] = []
    for kind, value in zip(kinds, arguments, strict=True):
        if type(value) is not _Descriptor:
            expanded.append(value)
            continue
        how = next(told, None)
        if how is None:  # no tensor map: a pointer and numbers
            return None
        encode = wrap_handle_tensordesc(lambda *given: given[-1], {"": kind}, [how])
        expanded += [_Map(value, encode), *value.fields["shape"], *value.fields["strides"]]
    return expanded
