"""PTX by itself, through the driver's calls: modules, launches, memory."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np

from gpu_emulator.library import check, load

Dim = tuple[int, int, int]


class Function:
    """A kernel of a module, ready to be launched.

    Raises:
        CudaError: the text is malformed, or has an opcode that the emulator does not know.
    """

    def __init__(self, ptx: str, name: str = "kernel") -> None:
        self.module, self.handle = ctypes.c_void_p(), ctypes.c_void_p()
        check(load().cuModuleLoadData(ctypes.byref(self.module), ptx.encode() + b"\0"))
        check(load().cuModuleGetFunction(ctypes.byref(self.handle), self.module, name.encode()))

    def __call__(
        self,
        *arguments: Any,
        grid: Dim = (1, 1, 1),
        threads: Dim = (32, 1, 1),
        shared: int = 0,
        limit: int | None = None,
    ) -> None:
        """Launches. Arguments are NumPy arrays, whose memory is the device's meanwhile, and ctypes' values.

        `limit` allows more dynamic shared memory than 48 KiB first.
        """
        driver = load()
        driver.emulator_forget()
        values = []
        for i, argument in enumerate(arguments):
            if isinstance(argument, np.ndarray):
                begin = argument.ctypes.data
                driver.emulator_tell(begin, begin + argument.nbytes, f"argument {i}".encode(), 0)
                argument = ctypes.c_uint64(begin)
            values.append(argument)
        if limit is not None:
            check(driver.cuFuncSetAttribute(self.handle, 8, limit))
        pointers = (ctypes.c_void_p * (len(values) + 1))(*(ctypes.addressof(value) for value in values), None)
        check(driver.cuLaunchKernel(self.handle, *grid, *threads, shared, None, pointers, None))


def tensor_map(
    array: np.ndarray,
    box: Sequence[int],
    swizzle: int = 0,
    strides: Sequence[int] | None = None,
    data_type: int = 6,
    fill: int = 0,
    steps: Sequence[int] | None = None,
    interleave: int = 0,
) -> Any:
    """A CUtensorMap of an array; `box`, `steps` and `strides` (bytes) with the outermost axis first, as in its shape.

    `swizzle` is 0 to 3 for none, 32, 64 and 128 bytes; `data_type` and `fill` are the driver's numbers (6: float16).

    Raises:
        CudaError: a rule is broken.
    """  # fmt: skip
    rank = array.ndim
    storage = (ctypes.c_uint64 * 24)()
    address = (ctypes.addressof(storage) + 63) // 64 * 64
    lengths = (ctypes.c_uint64 * rank)(*array.shape[::-1])
    bytes_ = (ctypes.c_uint64 * rank)(*list(array.strides if strides is None else strides)[::-1][1:], 0)
    boxes = (ctypes.c_uint32 * rank)(*list(box)[::-1])
    strides_in_box = (ctypes.c_uint32 * rank)(*list(steps or [1] * rank)[::-1])
    pointer = ctypes.c_void_p(array.ctypes.data)
    check(
        load().cuTensorMapEncodeTiled(
            ctypes.c_void_p(address), data_type, rank, pointer, lengths, bytes_, boxes, strides_in_box, interleave,
            swizzle, 2, fill,
        )
    )  # fmt: skip
    descriptor = (ctypes.c_uint64 * 16).from_address(address)
    descriptor.storage = storage  # keeps it alive
    return descriptor
