"""A process in which Triton's own driver finds a libcuda: builds the fake one, and gives its environment."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path

HERE = Path(__file__).parent
SOURCE = HERE / "fake_cuda.c"
CACHE = HERE.parents[1] / "build" / "device"


def missing() -> str | None:
    """What the room needs and this machine does not have."""
    if shutil.which("gcc") is None:
        return "the fake libcuda needs gcc"
    return None if find_spec("triton") else "Triton is not installed"


def build(source: Path = SOURCE) -> Path:
    """The folder of a libcuda.so.1 made from `source`, compiled once for its content."""
    triton = Path(find_spec("triton").origin).parent  # type: ignore[union-attr, arg-type]
    folder = CACHE / hashlib.sha256(source.read_bytes()).hexdigest()[:16]
    library = folder / "libcuda.so.1"
    if not library.exists():
        folder.mkdir(parents=True, exist_ok=True)
        new = folder / f"new-{os.getpid()}"
        flags = ["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-Wl,-soname,libcuda.so.1"]
        include = f"-I{triton}/backends/nvidia/include"
        subprocess.run(["gcc", *flags, include, source, "-o", new], check=True)
        new.replace(library)
    return folder


def environment(library: Path, **more: str) -> dict[str, str]:
    """For a process that takes the libcuda in the folder `library`, and has torch answer for its GPU (fake_gpu.py)."""
    outer = ("TRITON_INTERPRET", "PYTEST_XDIST_WORKER")  # what the tests around it run under
    clean = {name: value for name, value in os.environ.items() if name not in outer}
    found = os.pathsep.join(filter(None, (str(HERE), os.environ.get("PYTHONPATH"))))
    paths = {"LD_LIBRARY_PATH": str(library), "TRITON_LIBCUDA_PATH": str(library), "PYTHONPATH": found}
    return {**clean, **paths, "CONVEXT_KERNELS": "fake_gpu", **more}
