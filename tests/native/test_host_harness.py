"""The host build's own tests: clean under sanitizers, and every kind of planted bug is caught.

Both run the other tests of this folder in a process of their own, against a library built with AddressSanitizer and
UndefinedBehaviorSanitizer.
"""

import subprocess
import sys
from pathlib import Path

import host_build
import pytest
from host_build import Patch

FOLDER = Path(__file__).parent

if reason := host_build.missing():
    pytest.skip(reason, allow_module_level=True)


def run_tests(library: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    environment = {**host_build.sanitizer_environment(), "CONVEXT_HOST_LIBRARY": str(library)}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "--no-header", "-p", "no:xdist", *arguments]
    return subprocess.run(command, cwd=FOLDER, env=environment, capture_output=True, text=True)


def test_clean_under_sanitizers() -> None:
    done = run_tests(host_build.build(sanitized=True), "test_host_stencil.py")
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert " passed" in done.stdout


PLANTED = {
    "missing barrier": (
        Patch("stencil.cuh", "    __syncthreads();\n", "", "stencil_float.cu"),
        "test_agrees_with_float64[fprop-3x3-last-torch.float32]",
        "error nan",
    ),
    "halo one row short": (
        Patch(
            "stencil.cuh",
            "source_row >= p.source_size[1]",
            "source_row + 1 >= p.source_size[1]",
            "stencil_float.cu",
        ),
        "test_agrees_with_float64[fprop-3x3-first-torch.float32]",
        "error ",
    ),
    "mask one column too wide": (
        Patch(
            "stencil_tile.cuh",
            "column >= 0 && column < width) store",
            "column >= 0 && column <= width) store",
            "stencil_float.cu",
        ),
        "test_agrees_with_float64[fprop-3x3 odd-first-torch.float32]",
        "AddressSanitizer: heap-buffer-overflow",
    ),
    "misaligned vector": (
        Patch(
            "stencil_launch.cuh",
            "  if (reinterpret_cast<uintptr_t>(view.data) % (elements * sizeof(T))) return false;\n",
            "",
            "stencil_bfloat16.cu",
        ),
        "test_operands_are_read_where_they_lie[fprop-0-shifted]",
        "misaligned address",
    ),
}


@pytest.mark.parametrize("bug", PLANTED)
def test_planted_bug_is_caught(bug: str) -> None:
    patch, test, symptom = PLANTED[bug]
    done = run_tests(host_build.build(sanitized=True, patch=patch), f"test_host_stencil.py::{test}")
    assert done.returncode != 0, f"{bug} was not caught\n{done.stdout}"
    assert symptom in done.stdout + done.stderr, done.stdout[-4000:] + done.stderr[-4000:]
