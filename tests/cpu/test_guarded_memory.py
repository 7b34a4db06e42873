"""The library as it is installed, on all instruction sets, with pages beside each tensor that nobody may touch.

A vector that reaches beyond a tensor ends the process. (The sanitizers see each access of the kernels, but compiled
otherwise.)
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from compiled import digest, made

from convext.providers.cpu import library

ROOT = Path(__file__).parents[2]
SOURCE = Path(__file__).with_name("guarded_memory.c")
TESTS = ROOT / "tests" / "cpu" / "test_kernels.py"
SIDES = pytest.mark.parametrize("side", ["before", "after"])

BEYOND = """
import ctypes, sys, torch
tensor = torch.zeros(1000, 64)  # ends with a vector of any machine
at = {"before": tensor.data_ptr() - 4, "after": tensor.data_ptr() + tensor.nbytes}[sys.argv[1]]
print(sum(tensor.flatten().tolist()), flush=True)
ctypes.c_float.from_address(at).value
"""


def run(arguments: list[str], side: str) -> subprocess.CompletedProcess[str]:
    """Python with the pages on this side of every tensor."""
    if sys.platform != "linux" or shutil.which("gcc") is None:
        pytest.skip("the pages need Linux and gcc")
    command = ["gcc", "-O1", "-shared", "-fPIC", SOURCE, "-ldl"]
    pages = made(ROOT / "build" / "cpu" / f"guarded-{digest(SOURCE.read_text())}.so", command)
    environment = {**os.environ, "LD_PRELOAD": str(pages), "PAGES": side}
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, env=environment, timeout=900)


@SIDES
def test_a_read_beyond_a_tensor_ends_the_process(side: str) -> None:
    done = run(["-c", BEYOND, side], side)
    assert done.stdout == "0.0\n"
    assert done.returncode < 0


@pytest.mark.long
@pytest.mark.turn("guarded")
@pytest.mark.skipif(library.unavailable() is not None, reason=str(library.unavailable()))
@SIDES
def test_kernels_touch_nothing_beyond_their_tensors(side: str) -> None:
    asked = "agrees_with_float64 or float64_is_exact or beyond_the_caches or where_they_lie or random_problems"
    done = run(["-m", "pytest", "-p", "no:xdist", "-q", "-x", "-k", asked, str(TESTS)], side)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
