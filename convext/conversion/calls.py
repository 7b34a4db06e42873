"""Which of torch's convolutions a module's forward calls itself, read from its code without running it.

The forward's instructions are followed from name to name: `F.conv2d` through the module that F is, `conv2d_same(..)`
into that function, `self._blur(..)` into that method. What torch or convext define is not entered. Names that only
appear when the code runs (a function kept in an attribute, say) are not seen.
"""

from __future__ import annotations

import dis
import inspect
from collections.abc import Iterator
from functools import cache
from types import CellType, CodeType, FunctionType, ModuleType
from typing import Any

import torch

# torch.nn.functional's are the same objects.
FUNCTIONS: dict[Any, str] = {
    getattr(torch, name): name for name in (f"conv{way}{rank}d" for way in ("", "_transpose") for rank in (1, 2, 3))
}
_SILENT = {"PUSH_NULL", "CACHE", "EXTENDED_ARG", "PRECALL", "NOP"}  # between a name and its attribute


@cache
def called_by(kind: type) -> tuple[str, ...]:
    """Names of torch's convolutions that the forward of `kind`, or what it calls, calls itself."""
    found: set[str] = set()
    seen: set[FunctionType] = set()
    pending = list(_methods(kind, "forward")) + list(_methods(kind, "_conv_forward"))
    while pending:
        function = pending.pop()
        if function in seen:
            continue
        seen.add(function)
        for name, value in _named(function):
            if value is None:
                pending += _methods(kind, name)
            elif isinstance(value, FunctionType) and _is_foreign(value):
                pending.append(inspect.unwrap(value))
            elif inspect.isbuiltin(value) and value in FUNCTIONS:
                found.add(FUNCTIONS[value])
    return tuple(sorted(found))


def comes_back(function: Any) -> bool:
    """Whether a method that overrides torch.nn's calls what it overrides, or `_conv_forward`."""
    names = {name for code in _codes(function.__code__) for name in code.co_names}
    return "_conv_forward" in names or {"super", "forward"} <= names


def _is_foreign(value: Any) -> bool:
    """Whether neither torch nor convext defines it."""
    return str(value.__module__).partition(".")[0] not in ("torch", "convext")


def _methods(kind: type, name: str) -> list[Any]:
    """All that `kind` and its ancestors define under a name, but for torch's and convext's."""
    found = [inspect.unwrap(vars(base)[name]) for base in kind.__mro__ if _is_foreign(base) and name in vars(base)]
    return [method for method in found if isinstance(method, FunctionType)]


def _named(function: FunctionType) -> Iterator[tuple[str, Any]]:
    """(name, value) of everything that a function loads by name; value None for an attribute of what is not known."""
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    known = {**function.__globals__, **{name: _content(cell) for name, cell in cells}}
    for code in _codes(function.__code__):
        value: Any = None
        for instruction in dis.get_instructions(code):
            if instruction.opname in _SILENT:
                continue
            if instruction.opname in ("LOAD_GLOBAL", "LOAD_DEREF"):
                value = known.get(instruction.argval)
            elif instruction.opname in ("LOAD_ATTR", "LOAD_METHOD", "LOAD_SUPER_ATTR"):
                value = vars(value).get(instruction.argval) if isinstance(value, ModuleType) else None
            else:
                value = None
                continue
            yield instruction.argval, value


def _content(cell: CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # nothing was put into it yet
        return None


def _codes(code: CodeType) -> Iterator[CodeType]:
    """A function's code, and that of the functions inside it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)
