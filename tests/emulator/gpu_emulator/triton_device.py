"""Triton on the emulated device: its compiler, driver, argument packing and launches are its own.

What is put in their place is torch's side, which has no GPU to ask, and what the emulator needs to know beyond what a
driver is told: the PTX beside the machine code, and the tensors behind the pointers.
"""

from __future__ import annotations

import ctypes
import gc
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
import triton
from torch import Tensor
from torch.overrides import TorchFunctionMode
from triton.backends.nvidia import driver as nvidia
from triton.compiler.compiler import CompiledKernel, max_shared_mem
from triton.runtime.jit import JITFunction

from gpu_emulator import library

Rewrite = Callable[[str, str], str]

MACHINE_CODE_FOLLOWS = b"\n// machine code follows\n\0"  # driver/modules.cpp reads registers and spills from it


def extent(t: Tensor) -> tuple[int, int]:
    """Addresses of the first byte of a tensor and of the one behind its last."""
    if t.numel() == 0:
        return t.data_ptr(), t.data_ptr()
    last = sum((size - 1) * stride for size, stride in zip(t.shape, t.stride(), strict=True))
    return t.data_ptr(), t.data_ptr() + (last + 1) * t.element_size()


def _tensors(name: str, value: Any) -> Iterator[tuple[str, Tensor]]:
    """The tensors in an argument, with their names: also within tuples and behind tensor descriptors."""
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, tuple):
        for i, element in enumerate(value):
            yield from _tensors(f"{name}[{i}]", element)
    elif isinstance(getattr(value, "base", None), Tensor):
        yield name, value.base


class Launcher(nvidia.CudaLauncher):
    """Triton's launcher, which tells the emulator the tensors among the arguments first: name, place, element size."""

    def __init__(self, src: Any, metadata: Any) -> None:
        self.names = [name for name, kind in src.signature.items()]
        super().__init__(src, metadata)

    def __call__(self, *args: Any) -> None:
        driver = library.load()
        driver.emulator_forget()
        for name, value in zip(self.names, args[9:], strict=True):
            for part, t in _tensors(name, value):
                begin, end = extent(t)
                label = f"{part}: {str(t.dtype).removeprefix('torch.')}{tuple(t.shape)}"
                driver.emulator_tell(begin, end, label.encode(), t.element_size() if t.is_floating_point() else 0)
        super().__call__(*args)


class Driver(nvidia.CudaDriver):
    """Triton's driver, with this module's launcher and without torch's CUDA."""

    def __init__(self, arch: int) -> None:
        with mock.patch.object(triton.knobs.nvidia, "libcuda_path", str(library.build())):
            self.utils = nvidia.CudaUtils()
        self.launcher_cls = Launcher
        self.get_device_capability = lambda device: divmod(arch, 10)
        self.get_current_stream = lambda device: 0
        self.get_current_device = lambda: 0
        self.set_current_device = lambda device: None

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")


class _CudaIsCpu(TorchFunctionMode):
    """device="cuda" means the CPU, and memory allocated without values is all ones until it is written."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if str(kwargs.get("device", "")).startswith("cuda"):
            kwargs["device"] = "cpu"
        result = func(*args, **kwargs)
        if func in _UNINITIALISED and result.is_cpu and result.is_floating_point() and result.numel():
            begin, end = extent(result)
            ctypes.memset(begin, 0xFF, end - begin)
        return result


_UNINITIALISED = {torch.empty, torch.empty_like, torch.empty_strided, Tensor.new_empty, Tensor.new_empty_strided}


def _with_ptx(initialise: Any, rewrite: Rewrite) -> Any:
    """CompiledKernel._init_handles, which hands PTX to the driver and the machine code behind it."""

    def init_handles(self: CompiledKernel) -> None:
        if self.module is None:
            ptx = rewrite(self.name, self.asm["ptx"])
            self.kernel = ptx.encode() + MACHINE_CODE_FOLLOWS + self.asm["cubin"]
        initialise(self)

    return init_handles


@contextmanager
def emulated(arch: int, seed: int | None = None, rewrite: Rewrite = lambda name, ptx: ptx) -> Iterator[None]:
    """Triton compiles for compute capability `arch` / 10 and runs on the emulator; CPU tensors are its memory.

    Args:
        arch: 80, 90 or 120.
        seed: of the schedules; by default that of the environment, EMULATOR_SEED, or 1.
        rewrite: what runs instead of a kernel's PTX, from its name and its text.

    Raises:
        CudaError: no such device is emulated.
    """
    library.set_arch(arch)
    library.set_seed(int(os.environ.get("EMULATOR_SEED", "1")) if seed is None else seed)
    properties = type("Properties", (), {"total_memory": 1 << 34, "major": arch // 10, "minor": arch % 10})()
    fakes = {
        "is_available": lambda: True,
        "get_device_capability": lambda *_: divmod(arch, 10),
        "current_device": lambda: 0,
        "device_count": lambda: 1,
        "get_device_properties": lambda *_: properties,
    }
    before = triton.runtime.driver._active if hasattr(triton.runtime.driver, "_active") else None
    triton.runtime.driver.set_active(Driver(arch))
    _forget_compiled()
    try:
        with (
            mock.patch.multiple(torch.cuda, **fakes),
            mock.patch.object(CompiledKernel, "_init_handles", _with_ptx(CompiledKernel._init_handles, rewrite)),
            _CudaIsCpu(),
        ):
            yield
    finally:
        _forget_compiled()
        triton.runtime.driver._active = before


def _forget_compiled() -> None:
    """Triton keeps what it compiled, and what a device has, by device; every architecture is device 0 here."""
    max_shared_mem.cache_clear()
    for function in gc.get_objects():
        if type(function) is JITFunction:
            function.device_caches.clear()
