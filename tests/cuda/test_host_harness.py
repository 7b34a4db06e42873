"""The host build's own tests: clean under sanitizers, and every kind of planted bug is caught.

Both run the other tests of this folder in a process of their own, against a library built with AddressSanitizer and
UndefinedBehaviorSanitizer.
"""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import host_build
import pytest
from host_build import Patch

FOLDER = Path(__file__).parent

if reason := host_build.missing():
    pytest.skip(reason, allow_module_level=True)


def run_tests(library: Path, *arguments: object) -> "subprocess.CompletedProcess[str]":
    environment = {**host_build.sanitizer_environment(), "CONVEXT_HOST_LIBRARY": str(library)}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-s", "--no-header", "-p", "no:xdist", *map(str, arguments)]
    return subprocess.run(command, cwd=FOLDER, env=environment, capture_output=True, text=True)


@pytest.mark.long
@pytest.mark.parametrize("family", [pytest.param(name, marks=pytest.mark.turn(name)) for name in ("stencil", "igemm")])
def test_clean_under_sanitizers(family: str) -> None:
    """Templates for float32 and bfloat16; half is bfloat16's."""
    names = [name for name in host_build.sources() if name.startswith(family) and "half" not in name]
    chosen = "(bfloat16 or tf32 or lie or strides or splits) and not large"
    files = sorted(FOLDER.glob(f"test_host_{family}*.py"))
    done = run_tests(host_build.build(sanitized=names), *files, "-k", chosen)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert " passed" in done.stdout


@dataclass(frozen=True)
class Planted:
    """A bug, a test that meets it, and the words by which it is recognised."""

    patch: Patch
    test: str
    symptom: str


PLANTED = {
    "missing barrier": Planted(
        Patch("stencil/stencil.cuh", "    __syncthreads();\n", "", "stencil/instances/float.cu"),
        "test_host_stencil.py::test_agrees_with_float64[fprop-3x3-last-torch.float32]",
        "error nan",
    ),
    "missing barrier before a stage is filled again": Planted(
        Patch("igemm/igemm.cuh", "__syncthreads();  // this stage is filled", "//", "igemm/instances/bfloat16.cu"),
        "test_host_igemm.py::test_every_schedule_gives_the_same_bits[fprop-priority]",
        "error ",
    ),
    "waiting for one copy too few": Planted(
        Patch(
            "igemm/igemm.cuh",
            "cp_async_wait<Shape::STAGES - 2>",
            "cp_async_wait<Shape::STAGES - 1>",
            "igemm/instances/bfloat16.cu",
        ),
        "test_host_igemm.py::test_agrees_with_float64[fprop-3x3-last-torch.bfloat16]",
        "exits with asynchronous copies in flight",
    ),
    "halo one row short": Planted(
        Patch(
            "stencil/stencil.cuh",
            "source_row >= p.source_size[1]",
            "source_row + 1 >= p.source_size[1]",
            "stencil/instances/float.cu",
        ),
        "test_host_stencil.py::test_agrees_with_float64[fprop-3x3-first-torch.float32]",
        "error ",
    ),
    "mask one column too wide": Planted(
        Patch(
            "stencil/tile.cuh",
            "column < width) load<T, CHANNELS>",
            "column <= width) load<T, CHANNELS>",
            "stencil/instances/float.cu",
        ),
        "test_host_stencil.py::test_agrees_with_float64[fprop-3x3 odd-first-torch.float32]",
        "AddressSanitizer: heap-buffer-overflow",
    ),
    "misaligned vector": Planted(
        Patch(
            "stencil/launch.cuh",
            "has_vectors<T>(source, axis, source_length, elements) &&",
            "",
            "stencil/instances/bfloat16.cu",
        ),
        "test_host_stencil.py::test_operands_are_read_where_they_lie[fprop-0-shifted]",
        "misaligned address",
    ),
}


@pytest.mark.parametrize("bug", PLANTED)
def test_bug_has_its_one_place(bug: str) -> None:
    """The kernels change; this says so at once, where the test below compiles for minutes."""
    host_build.planted(PLANTED[bug].patch)


@pytest.mark.long
@pytest.mark.turn("igemm")
@pytest.mark.parametrize("bug", PLANTED)
def test_planted_bug_is_caught(bug: str) -> None:
    planted = PLANTED[bug]
    done = run_tests(host_build.build(sanitized=[planted.patch.source], patch=planted.patch), planted.test)
    assert done.returncode != 0, f"{bug} was not caught\n{done.stdout}"
    assert planted.symptom in done.stdout + done.stderr, done.stdout[-4000:] + done.stderr[-4000:]
