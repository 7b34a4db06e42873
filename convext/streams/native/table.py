"""The structures of csrc/cpu/streams/program.h, in NumPy's terms: members of 8 bytes, addresses as integers."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

import numpy as np

from convext.providers.cpu import library

OPERATIONS = ("fill", "add", "subtract", "multiply", "activate", "convolve")

_ADDRESS = np.uint64
_VALUE = [("at", _ADDRESS), ("row", np.int64)]
INSTRUCTION = np.dtype([
    ("operation", np.int64), ("channels", np.int64), ("result", _VALUE), ("a", _VALUE), ("b", _VALUE),
    ("scalars", np.float64, 2), ("activation", np.int64), ("weight", _ADDRESS), ("bias", _ADDRESS),
    ("groups", np.int64), ("depth", np.int64), ("taps", np.int64), ("ring", _ADDRESS), ("dilation", np.int64),
    ("oldest", np.int64),
])  # fmt: skip
PORT = np.dtype([("value", _VALUE), ("channels", np.int64), ("tensor", _ADDRESS), ("stride", np.int64, 3)])
PROGRAM = np.dtype([
    ("instructions", _ADDRESS), ("count", np.int64), ("inputs", _ADDRESS), ("input_count", np.int64),
    ("outputs", _ADDRESS), ("output_count", np.int64), ("batch", np.int64), ("samples", np.int64),
    ("windows", _ADDRESS),
])  # fmt: skip


def address(array: np.ndarray[Any, Any]) -> int:
    """Where its first element lies."""
    return int(array.ctypes.data)


@cache
def steps() -> Any:
    """`steps(address of a PROGRAM)`, of the instruction set that is used here."""
    load = ctypes.CDLL(str(library.LIBRARY)).convext_stream_steps
    load.argtypes, load.restype = [ctypes.c_char_p], ctypes.c_void_p
    return ctypes.CFUNCTYPE(None, ctypes.c_void_p)(load(library.isa().encode()))
