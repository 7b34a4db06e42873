"""What is freed is kept for the next that asks, however the C library was set before."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

PAGE = os.sysconf("SC_PAGE_SIZE")
COUNT = """
import ctypes, resource, sys
import torch
from convext.measuring.allocator import keep_freed_memory

if sys.argv[1] == "kept" and not keep_freed_memory():
    print("cannot")
    sys.exit()

ctypes.CDLL(None).prctl(41, 1, 0, 0, 0)  # PR_SET_THP_DISABLE: pages of 2 MB would be few faults either way

def results(n):
    for _ in range(n):
        torch.full((2 * 2**20,), 1.0)  # 8 MB, freed at once

results(4)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
results(40)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> int:
    """Page faults of forty results of 8 MB, where the C library gives back what is freed unless told to keep it."""
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(2**17)}
    environment.pop("LD_PRELOAD", None)
    run = subprocess.run(
        [sys.executable, "-c", COUNT, how], env=environment, capture_output=True, text=True, check=True, timeout=120
    )
    if run.stdout.strip() == "cannot":
        pytest.skip("this C library has no mallopt")
    return int(run.stdout)


def test_a_freed_result_costs_no_page_faults_again() -> None:
    pages = 40 * 8 * 2**20 // PAGE
    assert faults("given back") > 0.5 * pages
    assert faults("kept") < 0.2 * pages
