"""How often kernels are compiled: counted as Triton does it, and held to what was reached over many sizes."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("triton", reason="Triton is not installed")

COMPILED = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}

# What of its arguments a kernel is compiled for: `plain` and all that is in tuples whether they are 1, and whether 16
# divides them; `size` whether it is 1; `count` nothing.
TOY = """
import json, itertools, torch, triton, triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler.compiler import make_backend
from triton.runtime.jit import create_function_from_signature
from convext.benchmarks.inspect.compilations import compilations
from convext.triton_kernels.launch import Launch

@triton.jit(do_not_specialize=["count"], do_not_specialize_on_alignment=["size", "sizes"])
def kernel(x, plain, size, count, sizes, B: tl.constexpr):
    pass

x, still = torch.empty(4, device="meta"), 3
given = {
    "plain": [(x, v, 3, 3, (3,)) for v in (1, 3, 5, 16, 32)],
    "size": [(x, 3, v, 3, (3,)) for v in (1, 3, 5, 16, 32)],
    "count": [(x, 3, 3, v, (3,)) for v in (1, 3, 5, 16, 32)],
    "sizes": [(x, 3, 3, 3, (v,)) for v in (1, 3, 5, 16, 32)],
    "all": [(x, *v[:3], (v[3],)) for v in itertools.product((1, 3, 16), repeat=4)],
    "long": [(x, v, 3, 3, (3,)) for v in (3, 2**31 - 1, 2**31)],
}
specialise = create_function_from_signature(kernel.signature, kernel.params, make_backend(GPUTarget("cuda", 90, 32)))
counted = {name: compilations(Launch(kernel, 1, v, {"B": 16}) for v in values) for name, values in given.items()}
tritons = {name: len({repr(specialise(*v, B=16)[1]) for v in values}) for name, values in given.items()}
constants = compilations(Launch(kernel, 1, given["all"][0], {"B": b}, warps=w) for b in (16, 32) for w in (4, 8))
print(json.dumps([counted, tritons, constants]))
"""


def test_compilations_are_counted_as_triton_specialises(tmp_path: Path) -> None:
    script = tmp_path / "toy.py"  # Triton reads a kernel's source from its file
    script.write_text(TOY)
    said = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True, env=COMPILED)
    counted, tritons, constants = json.loads(said.stdout)
    assert counted == {"plain": 3, "size": 2, "count": 1, "sizes": 3, "all": 3 * 2 * 1 * 3, "long": 2}
    assert counted == tritons
    assert constants == 4


@pytest.fixture(scope="module")
def counts() -> dict[tuple[str, str], list[tuple[int, int]]]:
    """(over image sizes, over batches) of each face, by layer and memory format: the table that is printed."""
    command = [sys.executable, "-m", "convext.benchmarks.inspect.compilations"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, env=COMPILED | {"COLUMNS": "200"})
    rows: dict[tuple[str, str], Any] = {}
    for line in printed.stdout.splitlines():
        found = re.search(r"(\S.*\S) +(NCHW|NHWC) +(\d.*)", line)
        if found is not None:
            rows[found[1], found[2]] = [(int(a), int(b)) for a, b in re.findall(r"(\d+) / (\d+)", found[3])]
    return rows


def test_sizes_and_batches_compile_a_kernel_a_few_times(counts: dict[tuple[str, str], list[tuple[int, int]]]) -> None:
    """Over 200 sizes of images at most 10 times, and over 64 batches 7: for a few tiles, boxes and widths of loads."""
    assert len(counts) == 16
    assert all(len(faces) == 3 for faces in counts.values())
    for where, faces in counts.items():
        for sizes, batches in faces:
            assert 1 <= sizes <= 10, where
            assert 1 <= batches <= 7, where


def test_of_channels_last_stencils_no_size_is_compiled(counts: dict[tuple[str, str], list[tuple[int, int]]]) -> None:
    """Their vectors run along channels, and every size of an image is a number that is counted up to."""
    assert [sizes for sizes, _ in counts["depthwise 3x3", "NHWC"]] == [1, 1, 1]
