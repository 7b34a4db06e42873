"""Rooms beside the faces' under the sanitizers: their own tests, with a library compiled for that."""

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from compiled import digest, made
from sanitizers import SANITIZED, run_sanitized

ROOT = Path(__file__).parents[2]
CPU, CACHE, TORCH = ROOT / "csrc" / "cpu", ROOT / "build" / "cpu", Path(torch.__file__).parent
FLAGS = ["-std=c++17", "-fPIC", "-ffp-contract=fast", "-Wno-psabi", "-g1"]
ISA = ["-DCONVEXT_ISA=generic", "-DCONVEXT_VECTOR_BYTES=16"]
STABLE = ["-DTORCH_TARGET_VERSION=0x020a000000000000", f"-I{TORCH}/include", "-O1"]
ROOMS = "causal", "gated", "pointwise", "separable", "streams"
# What these files need of the faces' are the operators that tell the machine: they are compiled plainly.
SOURCES = {f"{room}/kernels.cpp": [*SANITIZED, *ISA] for room in ROOMS}
SOURCES |= {f"{room}/library.cpp": [*STABLE, *SANITIZED] for room in ROOMS}
SOURCES |= {f"faces/{name}.cpp": ["-O0", *ISA] for name in ("images", "images_packed", "weights", "kernels")}
SOURCES |= {"faces/library.cpp": STABLE}


def build() -> Path:
    """The library for machines of any kind."""
    headers = [path.read_text() for path in sorted(CPU.rglob("*.h"))]

    def compiled(source: str) -> Path:
        command = ["g++", *FLAGS, *SOURCES[source], f"-I{CPU.parent}", "-c", CPU / source]
        content = digest(repr(command), (CPU / source).read_text(), *headers)
        return made(CACHE / f"{source.replace('/', '_')}-{content}.o", command)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(compiled, SOURCES))
    link = ["g++", "-shared", *SANITIZED, *objects, f"-L{TORCH}/lib", "-ltorch_cpu"]
    return made(CACHE / f"{digest(*map(str, objects))}.so", link)


TESTS = {
    "causal": ["test_values.py", "test_update.py"],
    "cpu": ["test_pointwise_kernel.py", "test_separable_kernel.py"],
    "operators": ["test_gated.py"],
    "streaming": ["test_native_steps.py"],
}
ASKED = {
    "causal": "cpu and not long_rows",
    "cpu": "generic and not not_written",
    "operators": "generic",
    "streaming": "not avx",
}


@pytest.mark.long
@pytest.mark.turn("rooms")
@pytest.mark.parametrize("room", TESTS)
def test_sanitizers_find_nothing(room: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which("g++") is None:
        pytest.skip("there is no g++")
    monkeypatch.setenv("CONVEXT_CPU_LIBRARY", str(build()))
    tests = [str(ROOT / "tests" / room / name) for name in TESTS[room]]
    options = ["-p", "no:xdist", "-p", "pytest_sanitized", "-q", "-x", "-k", ASKED[room]]
    run_sanitized(["-m", "pytest", *options, *tests], str(Path(__file__).parent))
