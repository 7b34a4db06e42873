"""Builds the driver with g++, once for each content of its sources, and loads it."""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

from filelock import FileLock

SOURCES = Path(__file__).parents[1] / "src"
CACHE = Path(__file__).parents[3] / "build" / "emulator"
# Lane by lane as the manual says: no contraction of a * b + c, signed overflow wraps, registers are read as any type.
FLAGS = ["-std=c++17", "-O2", "-g1", "-fPIC", "-fvisibility=hidden", "-ffp-contract=off", "-fwrapv"]
FLAGS += ["-fno-strict-aliasing", "-Wall", "-Wextra", "-Werror"]


class CudaError(RuntimeError):
    """What a call of the driver returned: `code` is its CUresult."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


def missing() -> str | None:
    """What the emulator needs and this machine does not have."""
    return "the emulator is built by g++, which is not installed" if shutil.which("g++") is None else None


def build() -> Path:
    """The folder with libcuda.so.1 in it."""
    headers = b"".join(path.read_bytes() for path in sorted(SOURCES.rglob("*.h")))

    def compiled(source: Path) -> Path:
        content = digest(headers, source.read_bytes(), " ".join(FLAGS).encode())
        return made(CACHE / f"{source.stem}-{content}.o", ["g++", *FLAGS, f"-I{SOURCES}", "-c", str(source)])

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(compiled, sorted(SOURCES.rglob("*.cpp"))))
    library = CACHE / digest(*(o.name.encode() for o in objects)) / "libcuda.so.1"
    return made(library, ["g++", "-shared", "-Wl,-soname,libcuda.so.1", *map(str, objects)]).parent


def made(result: Path, command: Sequence[str]) -> Path:
    """The file that a compiler makes, if it is not there yet. Other processes that ask for it meanwhile wait."""
    result.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(result.with_suffix(".lock")):
        if not result.exists():
            partial = result.with_suffix(f".partial{result.suffix}")
            subprocess.run([*command, "-o", str(partial)], check=True)
            partial.rename(result)  # whole or not there
    return result


def digest(*contents: bytes) -> str:
    return hashlib.sha256(b"\0".join(contents)).hexdigest()[:16]


@cache
def load() -> ctypes.CDLL:
    """The driver. Whoever loads libcuda.so.1 in this process from now on gets it too: the name is taken."""
    driver = ctypes.CDLL(str(build() / "libcuda.so.1"), mode=ctypes.RTLD_GLOBAL)
    driver.emulator_tell.argtypes = [ctypes.c_uint64, ctypes.c_uint64, ctypes.c_char_p, ctypes.c_int]
    driver.emulator_tell.restype = driver.emulator_forget.restype = driver.emulator_set_seed.restype = None
    driver.emulator_set_seed.argtypes = [ctypes.c_uint64]
    driver.emulator_launches.restype = ctypes.c_uint64
    for lines in (driver.emulator_executed, driver.emulator_counted):
        lines.argtypes, lines.restype = [ctypes.c_char_p, ctypes.c_size_t], ctypes.c_size_t
    driver.emulator_count.argtypes, driver.emulator_count.restype = [ctypes.c_uint64], None
    return driver


def check(code: int) -> None:
    """Raises CudaError with the driver's reason, unless `code` is CUDA_SUCCESS."""
    if code:
        text = ctypes.c_char_p()
        load().cuGetErrorString(code, ctypes.byref(text))
        raise CudaError(code, (text.value or b"an error without a name").decode())


def set_arch(arch: int) -> None:
    """Makes the device one of compute capability `arch` / 10: 80, 90 or 120."""
    check(load().emulator_set_arch(arch))


def set_seed(seed: int) -> None:
    """Chooses the order in which blocks and warps run; a finding names it."""
    load().emulator_set_seed(seed)


def numbers(function: Any) -> dict[str, int]:
    """What a function of the driver writes, "name value" a line."""
    buffer = ctypes.create_string_buffer(function(None, 0))
    function(buffer, len(buffer))
    return {name: int(value) for name, value in (line.split() for line in buffer.value.decode().splitlines())}


def executed() -> dict[str, int]:
    """How often a warp has run each opcode, in this process."""
    return numbers(load().emulator_executed)


def launches() -> int:
    """How many kernels have run in this process."""
    return int(load().emulator_launches())
