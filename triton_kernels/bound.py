"""A launch that is bound to all but its tensors.

Triton binds the arguments of a launch, specialises them and finds what it compiled; then its launcher asks what scratch
memory the kernel needs, encodes tensor maps, and calls a function in C. Only tensors differ when a call comes again:

    Triton's launch       20 us
    its launcher           2 us    6 with a tensor map
    its function in C      0.6 us
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor
from triton import knobs
from triton.compiler import CompiledKernel
from triton.runtime import driver

from convext.replay.launches import Names, Open, Slot, Slots

if TYPE_CHECKING:
    from convext.triton_kernels.launch import Launch

_MOST_MAPS = 256  # addresses that one descriptor's maps are kept of: an allocator gives the same ones again


@dataclass(frozen=True)
class _Descriptor:
    """A descriptor but for the tensor that it describes."""

    index: int
    kind: type
    fields: dict[str, Any]

    def of(self, base: Any) -> Any:
        """The descriptor of a tensor, or of what stands for one."""
        made: Any = object.__new__(self.kind)  # past the checks of its constructor
        vars(made).update(self.fields, base=base)
        return made

    def filled(self, slots: Slots) -> Any:
        """The descriptor of the tensor that stands there."""
        return self.of(slots[self.index])


@dataclass(frozen=True)
class _At:
    """A tensor, as far as Triton asks for one to describe it."""

    address: int

    def data_ptr(self) -> int:
        return self.address


class Bound:
    """A launch but for its tensors: a step of a replay, which has Triton launch anew.

    Where `direct`, its line makes the launch without Triton's binding.
    """

    def __init__(self, launch: Launch, compiled: Any, slot_of: Callable[[Tensor], int]) -> None:
        """`compiled` is what Triton launched, None of its interpreter; `slot_of` says where a tensor stands."""
        self.kernel: Any = launch.kernel
        self._programs = launch.programs
        self._named = {**launch.constants, "num_warps": launch.warps, "num_stages": launch.stages}
        self._given = [_emptied(value, slot_of) for value in launch.arguments]
        self.reads = [value.index for value in self._given if isinstance(value, Slot | _Descriptor)]
        self.direct: _Written | None = None
        if type(compiled) is CompiledKernel:
            rest = launch.kernel.arg_names[len(self._given) :]  # type: ignore[attr-defined]
            every = [*self._given, *(launch.constants[name] for name in rest)]
            self.direct = _ended(compiled, self._programs, every) or _launched(compiled, self._programs, every)

    def __call__(self, slots: Slots) -> None:
        """Has Triton launch it, on its current stream."""
        self.kernel[(self._programs,)](*_filled(self._given, slots), **self._named)

    @property
    def wants_tensors(self) -> bool:
        """A launcher that is not Triton's own may look at them."""
        return self.direct is not None and not self.direct.ends

    def line(self, names: Names) -> str:
        """Python that launches on `stream`."""
        assert self.direct is not None
        return self.direct.line(names)

    @staticmethod
    def opener(steps: Sequence[Bound]) -> Open | None:
        """Triton launches anew where somebody wants to see it, or where its driver is another than now."""
        if not all(step.direct for step in steps):
            return None
        kernels, then = [*{id(step.kernel): step.kernel for step in steps}.values()], driver.active
        stream_of, runtime = then.get_current_stream, knobs.runtime

        def opened(device: int) -> Any:
            if driver.active is not then:
                return None
            for kernel in kernels:
                if kernel.pre_run_hooks:
                    return None
            enter, leave = runtime.launch_enter_hook, runtime.launch_exit_hook
            try:
                hooked = enter.calls or leave.calls
            except AttributeError:  # a function, or None
                hooked = enter is not None or leave is not None
            return None if hooked else stream_of(device)

        return opened


def _emptied(value: Any, slot_of: Callable[[Tensor], int]) -> Any:
    if isinstance(value, Tensor):
        return Slot(slot_of(value))
    if isinstance(getattr(value, "base", None), Tensor):
        return _Descriptor(slot_of(value.base), type(value), {**vars(value), "base": None})
    return value


def _filled(arguments: list[Any], slots: Slots) -> list[Any]:
    return [value.filled(slots) if type(value) in (Slot, _Descriptor) else value for value in arguments]


@dataclass(frozen=True)
class _Written:
    """`call(programs, 1, 1, stream, *between, *arguments)`: a launcher, or, where it `ends`, what Triton's own ends in.

    That takes the arguments as a list, and of tensors their addresses.
    """

    call: Callable[..., None]
    programs: int
    between: Sequence[Any]
    arguments: Sequence[Any]
    ends: bool

    def line(self, names: Names) -> str:
        """Its Python: what depends on tensors stands there, what follows the last of it under one name."""
        depends = [type(value) in (Slot, _Descriptor, _Map) for value in self.arguments]
        count = len(depends) - depends[::-1].index(True)
        first = [self._expression(value, names) for value in self.arguments[:count]]
        arguments = ", ".join([*first, f"*{names.of(self.arguments[count:])}"])
        between = ", ".join(map(names.of, self.between))
        given = f"[{arguments}]" if self.ends else arguments
        return f"{names.of(self.call)}({self.programs}, 1, 1, stream, {between}, {given})"

    def _expression(self, value: Any, names: Names) -> str:
        if type(value) not in (Slot, _Descriptor, _Map):
            return names.of(value)
        tensor = names.address(value.index) if self.ends else f"t{value.index}"
        if type(value) is Slot:
            return tensor
        return f"{names.of(value if type(value) is _Map else value.of)}({tensor})"


def _launched(compiled: Any, programs: int, arguments: list[Any]) -> _Written:
    """By Triton's launcher."""
    between = compiled.function, compiled.packed_metadata, None, None, None
    return _Written(compiled.run, programs, between, arguments, ends=False)


def _ended(compiled: Any, programs: int, arguments: list[Any]) -> _Written | None:
    """By the function in C that Triton's launcher ends in. A tensor map is encoded once for each address.

    None for a kernel that needs scratch memory, and where a launcher is not Triton's own since 3.7.
    """
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
    kinds, annotations = [*compiled.src.signature.values()], getattr(launcher, "arg_annotations", [])
    if not any(value is annotations for value in before) or not isinstance(kinds[0], str) or kinds[0] == "constexpr":
        return None
    expanded = _expanded(kinds, arguments, iter(getattr(compiled.metadata, "tensordesc_meta", None) or ()))
    if expanded is None:
        return None
    each = [annotations[0]] * len(expanded)  # a parameter of the kernel, as the first is: no tuple, and no constant
    between = [each if value is annotations else value for value in before[4:]]
    return _Written(end, programs, between, expanded, ends=True)


class _Map:
    """The tensor map of whatever tensor a descriptor is filled with."""

    def __init__(self, descriptor: _Descriptor, encode: Callable[[list[Any]], list[Any]]) -> None:
        self.index, self._descriptor, self._encode = descriptor.index, descriptor, encode
        self._made: dict[int, Any] = {}  # by address

    def __call__(self, address: int) -> Any:
        made = self._made.get(address)
        if made is None:
            if len(self._made) >= _MOST_MAPS:
                self._made.clear()
            made = self._made[address] = self._encode([self._descriptor.of(_At(address))])[0]
        return made


def _expanded(kinds: Sequence[Any], arguments: Sequence[Any], told: Iterator[Any]) -> list[Any] | None:
    """A kernel's parameters: no constants, what is in tuples, and of a descriptor its tensor map, sizes and strides.

    `told` has how each descriptor's map is encoded. None where one has none, but a pointer and numbers.
    """
    from triton.backends.nvidia.driver import wrap_handle_tensordesc

    expanded: list[Any] = []
    for kind, value in zip(kinds, arguments, strict=True):
        if isinstance(kind, tuple):
            inner = _expanded(kind, value, told)
            if inner is None:
                return None
            expanded += inner
        elif type(value) is _Descriptor:
            how = next(told, None)
            if how is None:
                return None
            encode = wrap_handle_tensordesc(lambda *given: given[-1], {"": kind}, [how])
            expanded += [_Map(value, encode), *value.fields["shape"], *value.fields["strides"]]
        elif kind != "constexpr":
            expanded.append(value)
    return expanded
