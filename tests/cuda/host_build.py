"""Builds csrc/ for the host: the kernels, launchers and checks as they are, over tests/cuda/host/host_cuda.h."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from collections.abc import Container
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from compiled import digest, made

ROOT = Path(__file__).parents[2]
CSRC, SHIM, CACHE = ROOT / "csrc", ROOT / "tests" / "cuda" / "host", ROOT / "build" / "host"
TORCH = Path(find_spec("torch").origin).parent  # type: ignore[union-attr, arg-type]
CUDA = Path(os.environ.get("CUDA_HOME", "/usr/local/cuda"))
FLAGS = [
    *("-std=c++17", "-g1", "-fPIC", "-fno-strict-aliasing", "-Wno-unknown-pragmas"),
    *("-DCONVEXT_HOST_BUILD", "-DTORCH_TARGET_VERSION=0x020a000000000000"),
    *(f"-I{SHIM}", f"-I{CUDA}/include", f"-I{TORCH}/include"),
]
# Null pointers and overruns are caught by the access itself; these four checks are left out to save time.
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize=vptr,null,object-size,pointer-overflow"]
SANITIZERS += ["-fno-sanitize-recover=undefined"]
SCHEDULES = {"sequential": 0, "reverse": 1, "random": 2, "priority": 3}


@dataclass(frozen=True)
class Patch:
    """A bug to plant: in the file `file` of csrc, `old` becomes `new`; only `source` is compiled with it."""

    file: str
    old: str
    new: str
    source: str


def missing() -> str | None:
    """What a host build needs and this machine does not have."""
    if shutil.which("g++") is None:
        return "the host build needs g++"
    if not (CUDA / "include" / "cuda_fp16.h").exists():
        return f"the host build needs the CUDA toolkit's headers: none in {CUDA}/include"
    return None


def build(sanitized: Container[str] = (), patch: Patch | None = None) -> Path:
    """The library of the kernels for CPU tensors. Each object is compiled once for its content and flags.

    Args:
        sanitized: the sources of csrc that are compiled with sanitizers.
        patch: a bug to plant.
    """
    patched = _patched_sources(patch) if patch else CSRC

    def compile_kernels(name: str) -> Path:
        folder = patched if patch and name == patch.source else CSRC
        return _compile(folder, name, ["-O1", *(SANITIZERS if name in sanitized else [])])

    names = sorted(sources(), key=lambda name: "instances" not in name)  # long ones first
    with ThreadPoolExecutor(2) as pool:
        kernels = list(pool.map(compile_kernels, names))
    sanitizers = SANITIZERS if sanitized else []
    scheduler = _compile(SHIM, "host_cuda.cpp", ["-O2", *(["-DCONVEXT_ADDRESS_SANITIZER"] if sanitized else [])])
    library = CACHE / f"{digest(*map(str, kernels), str(scheduler))}.so"
    return made(library, ["g++", "-shared", *sanitizers, *kernels, scheduler, f"-L{TORCH}/lib", "-ltorch_cpu"])


def sources() -> list[str]:
    """The CUDA library's sources, as paths in csrc."""
    return [str(source.relative_to(CSRC)) for source in CSRC.rglob("*.cu")]


def planted(patch: Patch) -> str:
    """The patched file's text. Raises RuntimeError where what is replaced isn't there exactly once."""
    text = (CSRC / patch.file).read_text()
    if text.count(patch.old) != 1:
        raise RuntimeError(f"{patch.file} has {text.count(patch.old)} times, not once:\n{patch.old}")
    return text.replace(patch.old, patch.new)


def _patched_sources(patch: Patch) -> Path:
    text = planted(patch)
    folder = CACHE / "patched" / digest(repr(patch), *(s.read_text() for s in sorted(CSRC.rglob("*")) if s.is_file()))
    shutil.copytree(CSRC, folder, dirs_exist_ok=True)
    (folder / patch.file).write_text(text)
    return folder


def _compile(folder: Path, name: str, flags: list[str]) -> Path:
    source = folder / name
    headers = [*folder.rglob("*.h"), *folder.rglob("*.cuh"), SHIM / "host_cuda.h"]
    content = [file.read_text() for file in [source, *sorted(headers)]]
    result = CACHE / "objects" / f"{source.stem}-{digest(repr([*FLAGS, *flags]), *content)}.o"
    return made(result, ["g++", *FLAGS, *flags, f"-I{folder}", "-x", "c++", "-c", source])


def set_schedule(library: Path, name: str, seed: int) -> None:
    """The order in which the threads of every later launch run."""
    ctypes.CDLL(str(library)).convext_host_schedule(SCHEDULES[name], ctypes.c_uint(seed))


def sanitizer_environment() -> dict[str, str]:
    """For a Python that loads a sanitized library: the sanitizer's own allocator has to come first."""

    def path(name: str) -> str:
        found = subprocess.run(["g++", f"-print-file-name={name}"], capture_output=True, text=True, check=True)
        return found.stdout.strip()

    return {
        **os.environ,
        "LD_PRELOAD": f"{path('libasan.so')}:{path('libstdc++.so.6')}",
        "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0:halt_on_error=1",
        "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1",
    }
