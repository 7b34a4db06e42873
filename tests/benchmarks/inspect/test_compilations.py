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


@pytest.mark.long
def test_sizes_and_batches_compile_a_kernel_a_few_times(counts: dict[tuple[str, str], list[tuple[int, int]]]) -> None:
    """Over 200 sizes of images at most 10 times, for tiles, boxes and widths of loads; over 64 batches at most 3."""
    assert len(counts) == 16
    assert all(len(faces) == 3 for faces in counts.values())
    for where, faces in counts.items():
        for sizes, batches in faces:
            assert 1 <= sizes <= 10, where
            assert 1 <= batches <= 3, where


@pytest.mark.long
def test_of_channels_last_stencils_no_size_is_compiled(counts: dict[tuple[str, str], list[tuple[int, int]]]) -> None:
    """Their vectors run along channels, and every size of an image is a number that is counted up to.

    But weight gradients are told where a program walks one block only: that is a loop less.
    """
    assert [sizes for sizes, _ in counts["depthwise 3x3", "NHWC"]] == [1, 1, 2]


# (taps, stride, whether there is a bias): (channels, rows and columns of the input) of all depthwise layers of
# torchvision's ResNet-50, MobileNetV3-L, EfficientNet-B0, ConvNeXt-T and ShuffleNetV2 on images of 224 x 224.
NETWORKS = {
    (3, 1, False): (
        (16, 112), (32, 112), (58, 28), (72, 56), (116, 14), (144, 56), (184, 14), (200, 14), (232, 7), (480, 14),
        (672, 14), (1152, 7),
    ),
    (3, 2, False): ((24, 56), (58, 56), (64, 112), (96, 112), (116, 28), (232, 14), (240, 28)),
    (5, 1, False): ((120, 28), (240, 28), (480, 14), (672, 14), (960, 7), (1152, 7)),
    (5, 2, False): ((72, 56), (144, 56), (672, 14)),
    (7, 1, True): ((96, 56), (192, 28), (384, 14), (768, 7)),
}  # fmt: skip
OF_NETWORKS = """
import json, sys, torch
from convext.benchmarks.first_light.warm import Call, distinct
from convext.problem import FACES, ConvProblem

calls = {face: [] for face in FACES}
for (taps, stride, biased), layers in eval(sys.argv[1]).items():
    for channels, side in layers:
        for face in FACES:
            two = lambda value: (value, value)
            problem = ConvProblem(
                face, 32, channels, channels, channels, two(side), two(taps), two(side // stride), two(stride),
                two(taps // 2), two(1), torch.bfloat16, True, "cuda", 90,
            )
            calls[face].append(Call("triton.stencil", problem, biased and face == "fprop"))
print(json.dumps([len(distinct(calls["fprop"])), len(distinct(sum(calls.values(), [])))]))
"""


def test_five_networks_compile_few_stencils() -> None:
    """10 forward and 34 in a step, for 32 depthwise layers, were all of them the stencil's."""
    command = [sys.executable, "-c", OF_NETWORKS, repr(NETWORKS)]
    said = subprocess.run(command, capture_output=True, text=True, check=True, env=COMPILED)
    forward, step = json.loads(said.stdout)
    assert 5 <= forward <= 10
    assert 15 <= step <= 34


OF_72_CHANNELS = """
import torch, triton
from triton.backends.compiler import GPUTarget
from convext.benchmarks.first_light.warm import Call, launches
from convext.benchmarks.inspect.triton import _source
from convext.problem import ConvProblem

size, one = (56, 56), (1, 1)
problem = ConvProblem("fprop", 32, 72, 72, 72, size, (3, 3), size, one, one, one, torch.bfloat16, True, "cuda", 90)
source, options = _source(launches(Call("triton.stencil", problem, biased=False))[0])
print(triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options).asm["ptx"])
"""


def test_channels_that_8_divides_and_16_does_not_are_stored_in_vectors(tmp_path: Path) -> None:
    """Of two channels, of which nothing but a unit tells: Triton's own hints are of multiples of 16."""
    environment = COMPILED | {"TRITON_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-c", OF_72_CHANNELS]
    ptx = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout
    assert re.search(r"st\.global\.b32", ptx)
    assert not re.search(r"st\.global\.b16", ptx)
