"""The same bits from any number of threads, before and after a fork."""

import os
import subprocess
import sys

import pytest
import torch
from problems import PROBLEMS, bias_of, problem

from convext.commands import check
from convext.problem import FACES
from convext.providers.cpu import native


@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize("face", FACES)
def test_any_number_of_threads_gives_the_same_bits(isa, face, name, threads):
    for channels_last in (False, True):
        p = problem(face, name, channels_last=channels_last)
        a, b, bias = *check.operands(p), bias_of(p)
        threads(1)
        expected = native.convolve(isa, p, a, b, bias)
        for count in (2, 7):
            threads(count)
            assert torch.equal(native.convolve(isa, p, a, b, bias), expected)


def test_fork_after_use(isa):
    """As a DataLoader's workers: the parent has computed on one thread and on two, the child computes too."""
    code = f"""
import os, torch
from convext.commands import check
from convext.providers.cpu import library, native
from convext.problem import ConvProblem
library.unavailable()
p = ConvProblem.of("wgrad", (2, 4, 30, 30), (2, 4, 30, 30), (3, 3), (1, 1), (1, 1), (1, 1), 4, torch.float32)
a, b = check.operands(p)
torch.set_num_threads(1)
expected = native.convolve({isa!r}, p, a, b, None)
child = os.fork()
if child == 0:
    os._exit(0 if torch.equal(native.convolve({isa!r}, p, a, b, None), expected) else 1)
_, status = os.waitpid(child, 0)
print("equal" if status == 0 else status)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, env=os.environ)
    assert run.stdout.strip() == "equal", run.stderr


def test_peak_memory_is_that_of_the_result(isa):
    """Scratch is half a megabyte, whatever the tensors' size: 64 MB of result, and no second tensor of that size."""
    code = f"""
import resource, torch
from convext.commands import check
from convext.providers.cpu import library, native
from convext.problem import ConvProblem
torch.set_num_threads(1)
library.unavailable()
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
p = ConvProblem.of("fprop", (1, 64, 512, 512), (64, 1, 3, 3), (512, 512), (1, 1), (1, 1), (1, 1), 64, torch.float32)
a, b = check.operands(p)
before = peak()
native.convolve({isa!r}, p, a, b, None)
print(peak() - before)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, env=os.environ)
    assert int(run.stdout) < 66 * 1024, run.stderr
