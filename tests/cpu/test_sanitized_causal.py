"""The causal kernels under the sanitizers, through torch: their own tests, with a library compiled for that."""

import hashlib
import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from sanitizers import SANITIZED, run_sanitized

ROOT = Path(__file__).parents[2]
CPU, CACHE, TORCH = ROOT / "csrc" / "cpu", ROOT / "build" / "cpu", Path(torch.__file__).parent
FLAGS = ["-std=c++17", "-fPIC", "-ffp-contract=fast", "-Wno-psabi", "-g1"]
ISA = ["-DCONVEXT_ISA=generic", "-DCONVEXT_VECTOR_BYTES=16"]
STABLE = ["-DTORCH_TARGET_VERSION=0x020a000000000000", f"-I{TORCH}/include", "-O1"]
# What the causal kernels' file needs of the other one are the operators that tell the machine: it is compiled plainly.
SOURCES = {"causal/kernels.cpp": [*SANITIZED, *ISA], "causal/library.cpp": [*STABLE, *SANITIZED]}
SOURCES |= {"faces/kernels.cpp": ["-O0", *ISA], "faces/library.cpp": STABLE}


def build() -> Path:
    """The library for machines of any kind, compiled once for its sources and flags."""
    content = "".join(path.read_text() for path in sorted([*CPU.rglob("*.h"), *CPU.rglob("*.cpp")]))
    library = CACHE / f"{hashlib.sha256(repr((SOURCES, FLAGS, content)).encode()).hexdigest()[:16]}.so"
    if library.exists():
        return library
    CACHE.mkdir(parents=True, exist_ok=True)

    def compiled(source: str) -> str:
        out = f"{library}.{os.getpid()}.{source.replace('/', '_')}.o"
        command = ["g++", *FLAGS, *SOURCES[source], f"-I{CPU.parent}", "-c", str(CPU / source), "-o", out]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return out

    with ThreadPoolExecutor(2) as pool:
        objects = list(pool.map(compiled, SOURCES))
    partial = f"{library}.{os.getpid()}"
    command = ["g++", "-shared", *SANITIZED, *objects, "-o", partial, f"-L{TORCH}/lib", "-ltorch_cpu"]
    subprocess.run(command, check=True)
    Path(partial).rename(library)
    for path in objects:
        Path(path).unlink()
    return library


@pytest.mark.long
def test_sanitizers_find_nothing_in_causal_kernels(monkeypatch):
    if shutil.which("g++") is None:
        pytest.skip("there is no g++")
    monkeypatch.setenv("CONVEXT_CPU_LIBRARY", str(build()))
    tests = [str(ROOT / "tests" / "causal" / name) for name in ("test_values.py", "test_update.py")]
    options = ["-p", "no:xdist", "-p", "pytest_sanitized", "-q", "-x", "-k", "cpu and not long_rows"]
    run_sanitized(["-m", "pytest", *options, *tests], str(Path(__file__).parent))
