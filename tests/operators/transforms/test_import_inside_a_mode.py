"""convext may be imported inside a mode: what is plain does not depend on where the import stood."""

import subprocess
import sys

import pytest

PROGRAM = """
import torch
with {mode}:
    import convext
    x, w = torch.ones(1, 2, 5, 5), torch.ones(2, 2, 3, 3)
    with convext.backend("aten"):
        y = convext.functional.conv2d(x, w)
print(y.dtype, type(y).__name__)
"""


@pytest.mark.parametrize(
    ("mode", "printed"),
    [
        ("torch.autocast('cpu', torch.bfloat16)", "torch.bfloat16 Tensor"),
        ("torch._subclasses.FakeTensorMode()", "torch.float32 FakeTensor"),
    ],
)
def test_calls_inside_the_mode_still_reach_it(mode: str, printed: str) -> None:
    command = [sys.executable, "-c", PROGRAM.format(mode=mode)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == printed
