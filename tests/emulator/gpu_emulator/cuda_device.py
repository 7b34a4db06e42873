"""CUDA C++ on the emulated device: nvcc compiles the host's code and PTX, and launches go to the emulator's driver.

The runtime that nvcc would link, which asks its driver for more than is documented, is replaced by one of the few calls
that launches need (runtime/cudart.cpp). A library that computes with torch's CPU tensors finds them in the device's
memory (runtime/memory.cpp).
"""

from __future__ import annotations

import ctypes
import os
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from gpu_emulator import library

RUNTIME = Path(__file__).parents[1] / "runtime"
TORCH = Path(find_spec("torch").origin).parent  # type: ignore[union-attr, arg-type]
# PTX of 8.0 runs on every later device too. As text, and with the lines of the source.
NVCC = ["-std=c++17", "-O3", "--expt-relaxed-constexpr", "-lineinfo", "--no-compress"]
NVCC += ["-gencode=arch=compute_80,code=compute_80", "-Xcompiler=-fPIC,-fvisibility=hidden"]


def missing() -> str | None:
    """What this needs and this machine does not have."""
    return library.missing() or (None if nvcc() else "CUDA C++ is compiled by nvcc, which is not installed")


def nvcc() -> str | None:
    home = os.environ.get("CUDA_HOME", "/usr/local/cuda")
    return shutil.which("nvcc", path=f"{home}/bin") or shutil.which("nvcc")


def build(folder: Path, flags: Sequence[str]) -> Path:
    """A library of all CUDA C++ in `folder`, linked to torch, once for each content of its sources.

    Args:
        folder: of .cu files, which includes are relative to.
        flags: further ones for nvcc.
    """
    headers = [path for path in folder.rglob("*") if path.suffix in (".h", ".cuh")]
    common = [*NVCC, *flags, f"-I{folder}", f"-I{TORCH}/include"]
    known = library.digest(" ".join(common).encode(), *(path.read_bytes() for path in sorted(headers)))

    def compiled(source: Path) -> Path:
        result = library.CACHE / f"{source.stem}-{library.digest(known.encode(), source.read_bytes())}.o"
        return library.made(result, [str(nvcc()), *common, "-c", str(source)])

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(compiled, sorted(folder.rglob("*.cu"), key=lambda path: -path.stat().st_size)))
    parts = [*objects, _runtime("cudart.cpp", ".o", ["-c"])]
    result = library.CACHE / f"{library.digest(*(part.name.encode() for part in parts))}.so"
    # -Bsymbolic: a torch that is built for CUDA has loaded NVIDIA's runtime, whose calls have the same names.
    return library.made(result, ["g++", "-shared", "-Wl,-Bsymbolic", *map(str, parts), f"-L{TORCH}/lib", "-ltorch_cpu"])


def _runtime(name: str, suffix: str, flags: Sequence[str]) -> Path:
    """A file of the runtime, compiled. The driver's calls are found in the one that library.load() has loaded."""
    source = RUNTIME / name
    result = library.CACHE / f"{source.stem}-{library.digest(' '.join(flags).encode(), source.read_bytes())}{suffix}"
    return library.made(result, ["g++", "-std=c++20", "-O1", "-fPIC", str(source), *flags])


@cache
def _memory() -> ctypes.CDLL:
    flags = ["-shared", f"-I{TORCH}/include", f"-L{TORCH}/lib", "-lc10"]
    return ctypes.CDLL(str(_runtime("memory.cpp", ".so", flags)))


@contextmanager
def emulated(arch: int, seed: int | None = None) -> Iterator[None]:
    """CPU tensors that are made in here lie in the memory of a device of compute capability `arch` / 10.

    Args:
        arch: 80, 90 or 120.
        seed: of the schedules; by default that of the environment, EMULATOR_SEED, or 1.

    Raises:
        CudaError: no such device is emulated.
    """
    library.set_arch(arch)
    library.set_seed(int(os.environ.get("EMULATOR_SEED", "1")) if seed is None else seed)
    library.load().emulator_forget()
    _memory().emulator_hold_tensors(ctypes.c_bool(True))
    try:
        yield
    finally:
        _memory().emulator_hold_tensors(ctypes.c_bool(False))
