"""The kernels without torch, under the sanitizers, with vectors of the widest instruction set.

The compiler splits them into AVX2's. Narrower ones are run as they are installed, by test_kernels.py.
"""

import ctypes
import os
import platform
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from compiled import digest, made
from problems import PROBLEMS, bias_of, problem
from sanitizers import SANITIZED, run_sanitized
from torch import Tensor

from convext.commands import check
from convext.problem import FACES, ConvProblem, layout, reference
from convext.problem.epilogue import NAMES

ROOT = Path(__file__).parents[2]
CSRC, CACHE = ROOT / "csrc", ROOT / "build" / "cpu"
HARNESS = Path(__file__).with_name("harness.cpp")
NUMBERS = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
FLAGS = ["-std=c++17", "-fPIC", "-ffp-contract=fast", "-Wno-psabi", "-g1"]
WIDE = ["-DCONVEXT_VECTOR_BYTES=64", *(["-mavx2", "-mfma"] if platform.machine() == "x86_64" else [])]


def build(flags: list[str]) -> Path:
    """A shared object of the kernels and the harness."""
    if shutil.which("g++") is None:
        pytest.skip("the harness needs g++")
    folder = CSRC / "cpu" / "faces"
    sources = [*(folder / f"{name}.cpp" for name in ("images", "images_packed", "weights", "kernels")), HARNESS]
    headers = [path.read_text() for path in sorted((CSRC / "cpu").rglob("*.h"))]
    command = ["g++", *FLAGS, *flags, "-DCONVEXT_ISA=tested", f"-I{CSRC}"]

    def compiled(source: Path) -> Path:
        content = digest(repr(command), source.read_text(), *headers)
        return made(CACHE / f"{source.stem}-{content}.o", [*command, "-c", source])

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(compiled, sources))
    return made(CACHE / f"{digest(*map(str, objects))}.so", [*command, "-shared", *objects])


def run(
    library: Path, p: ConvProblem, a: Tensor, b: Tensor, bias: Tensor | None,
    activation: str = "identity", residual: Tensor | None = None,
) -> tuple[Tensor, int]:  # fmt: skip
    """As cpu.stencil and cpu.grouped run it, and in how many parts; `residual` in the format of the result."""
    result = layout.empty(p.open_shape, p.channels_last, a)

    def axes(values: tuple[int, ...], absent: int) -> list[int]:
        return [absent] * (3 - len(values)) + list(values)

    def strides(t: Tensor) -> list[int]:
        own = [s if size > 1 else 0 for s, size in zip(t.stride(), t.shape, strict=True)]
        return [*own[:2], *axes(tuple(own[2:]), 0)]

    numbers = [FACES.index(p.face), NUMBERS.index(p.dtype), p.n, p.c, p.k, p.groups]
    for values, absent in ((p.input, 1), (p.kernel, 1), (p.output, 1), (p.stride, 1), (p.pad, 0), (p.dilation, 1)):
        numbers += axes(values, absent)
    numbers.append(NAMES.index(activation))
    for t in (a, b, result):
        numbers += strides(t)
    function = ctypes.CDLL(str(library)).convext_run
    pointers = [ctypes.c_void_p(None if t is None else t.data_ptr()) for t in (a, b, result, bias, residual)]
    return result, function((ctypes.c_int64 * len(numbers))(*numbers), *pointers)


def check_all(library: Path) -> None:
    """Every problem, face, dtype and memory format."""
    for face in FACES:
        for name in PROBLEMS:
            for dtype in (torch.float32, torch.float16, torch.bfloat16):
                for channels_last in (False, True):
                    p = problem(face, name, dtype, channels_last)
                    a, b, bias = *check.operands(p), bias_of(p)
                    found = check.agreement(p, a, b, bias, run(library, p, a, b, bias)[0])
                    assert found.ok, f"{name}: {p}: {found}"
                    if face != "wgrad":
                        residual = layout.dense(torch.randn(p.open_shape).to(dtype), channels_last)
                        y, _ = run(library, p, a, b, bias, "hardswish", residual)
                        expected = F.hardswish(reference.compute(p, a, b, bias)) + residual
                        torch.testing.assert_close(y, expected.to(dtype), rtol=0.02, atol=0.02 * float(p.taps) ** 0.5)


def check_parts(library: Path) -> None:
    """Far taps are convolutions of their own where that copies less."""
    for name, channels_last, expected in (
        ("3d", False, 1),
        ("3d far taps", False, 8 * 9),
        ("3d far taps of many channels", False, 8 * 9),
        ("3d far taps of many channels", True, 1),  # which copies nothing
    ):
        p = problem("fprop", name, channels_last=channels_last)
        _, parts = run(library, p, *check.operands(p), None)
        assert parts == expected, name


@pytest.mark.long
@pytest.mark.turn("faces")
@pytest.mark.parametrize("checked", [check_all, check_parts])
def test_sanitizers_find_nothing(checked: Callable[[Path], None]) -> None:
    library = build([*SANITIZED, *WIDE])
    code = "import torch, test_harness, pathlib; torch.manual_seed(0); "
    code += f"test_harness.{checked.__name__}(pathlib.Path({str(library)!r}))"
    run_sanitized(["-c", code], os.pathsep.join([str(ROOT / "tests"), str(Path(__file__).parent)]))
