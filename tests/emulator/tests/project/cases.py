"""Every Triton record on small odd problems: what there is to run, and a sample that leaves no kernel out.

A case is a record, a problem (face, dtype, layout, architecture) and, for igemm and pointwise, whether a wide tile is
asked for: igemm's for boxes, and one of several warps for pointwise, which gives problems as small as these one warp.
The launches of a case are known without running it, so the sample takes, for each kernel on each architecture, those of
its cases that rank first by a hash of their name and the commit: another commit runs others.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import commits
import torch
from gpu_emulator.triton_device import emulated
from torch import Tensor

from convext.choice import registry
from convext.commands import check
from convext.problem import FACES, ConvProblem, Face, layout, output_size
from convext.triton_kernels.igemm import record as igemm
from convext.triton_kernels.igemm import tiles as igemm_tiles
from convext.triton_kernels.launch import collecting
from convext.triton_kernels.passes.reduce import add_in_order
from convext.triton_kernels.pointwise.launch import channels_launch, pixels_launch
from convext.triton_kernels.tiles import Tile

ARCHITECTURES = (80, 90, 120)
EACH = 2  # cases of the sample for each kernel on each architecture
BOX_TILE = Tile(64, 64, 64, 4, 2)  # 64 columns, which are the rows of a WGMMA
POINTWISE_TILE = Tile(64, 64, 128, 4, 3)
WIDE = {"triton.igemm": "boxes", "triton.pointwise": "in 4 warps"}
ARITHMETIC = (
    (torch.float32, "ieee"), (torch.float32, "tf32"), (torch.float32, "tf32x3"), (torch.float16, "ieee"),
    (torch.bfloat16, "ieee"), (torch.float64, "ieee"),
)  # fmt: skip


@dataclass(frozen=True)
class Convolution:
    """x [n, c, *input] with k filters; symmetric padding where no `output` is given."""

    name: str
    n: int
    c: int
    k: int
    groups: int
    input: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    pad: tuple[int, ...]
    dilation: tuple[int, ...]
    output: tuple[int, ...] | None = None


CONVOLUTIONS = (
    Convolution("depthwise 1-D", 2, 5, 5, 5, (37,), (4,), (1,), (3,), (1,)),
    Convolution("depthwise 2-D with a multiplier", 2, 6, 12, 6, (9, 11), (3, 3), (2, 1), (1, 1), (1, 1)),
    Convolution("depthwise in vectors", 2, 16, 16, 16, (9, 16), (3, 3), (1, 1), (1, 1), (1, 1)),
    Convolution("depthwise 9x9", 1, 2, 2, 2, (16, 24), (9, 9), (1, 1), (4, 4), (1, 1)),
    Convolution("depthwise over electrodes", 2, 3, 6, 3, (33, 9), (33, 1), (1, 1), (0, 0), (1, 1)),
    Convolution("depthwise 3-D", 2, 3, 3, 3, (5, 6, 7), (3, 3, 3), (1, 2, 1), (1, 1, 1), (1, 1, 1)),
    Convolution("pointwise, odd", 2, 17, 19, 1, (7, 9), (1, 1), (1, 1), (0, 0), (1, 1)),
    Convolution("pointwise in vectors", 2, 64, 48, 1, (7, 8), (1, 1), (1, 1), (0, 0), (1, 1)),
    Convolution("pointwise, more steps than stages", 1, 328, 40, 1, (3, 5), (1, 1), (1, 1), (0, 0), (1, 1)),
    Convolution("groups of 3 and 2", 2, 12, 8, 4, (9, 7), (3, 3), (1, 1), (1, 1), (1, 1)),
    Convolution("groups of 8", 2, 32, 32, 4, (6, 8), (3, 3), (1, 1), (1, 1), (1, 1)),
    Convolution("dense, odd and dilated", 2, 9, 7, 1, (13, 12), (3, 3), (1, 1), (2, 2), (2, 2)),
    Convolution("dense, strided", 1, 5, 6, 1, (9, 8), (3, 4), (2, 2), (1, 1), (1, 1)),
    Convolution("dense in vectors", 2, 40, 72, 1, (9, 8), (3, 3), (1, 1), (1, 1), (1, 1)),
    Convolution("causal", 2, 8, 8, 1, (19,), (3,), (1,), (4,), (2,), (19,)),
)


@dataclass(frozen=True)
class Case:
    record: str
    problem: ConvProblem
    convolution: str
    wide: bool = False

    def __str__(self) -> str:
        p = self.problem
        order = "NHWC" if p.channels_last else "NCHW"
        words = [f"sm_{p.arch}", self.record, p.face, str(p.dtype).removeprefix("torch."), p.precision, order]
        return " ".join([*words, *([WIDE[self.record]] if self.wide else []), self.convolution])

    def operands(self) -> tuple[Tensor, Tensor, Tensor | None]:
        a, b = check.operands(self.problem)
        bias = None if self.problem.face == "wgrad" else torch.randn(self.problem.open_shape[1]).to(self.problem.dtype)
        return a, b, bias

    def run(self, a: Tensor, b: Tensor, bias: Tensor | None) -> Tensor:
        p = self.problem
        if not self.wide:
            return _records()[self.record].run(p, a, b, bias)
        if self.record == "triton.pointwise":
            return self._pointwise(a, b, bias)
        a, b = layout.dense(a, channels_last=True), layout.dense(b, channels_last=True)
        result = layout.empty(p.open_shape, p.channels_last, a)
        return igemm.compute(p, a, b, bias, result, igemm_tiles.planned(p, BOX_TILE, 1, True))

    def _pointwise(self, a: Tensor, b: Tensor, bias: Tensor | None) -> Tensor:
        p = self.problem
        result = layout.empty(p.open_shape, p.channels_last, a)
        if p.face != "wgrad":
            channels_launch(p, a, b, bias, result, POINTWISE_TILE)()
            return result
        launch, partial = pixels_launch(p, a, b, result, POINTWISE_TILE)
        launch()
        if partial is not None:
            add_in_order(partial, result)
        return result

    def kernels(self) -> set[str]:
        """Architecture and name of the kernels that it launches, and what is asked of their tile."""
        with collecting() as launches:
            self.run(*self.operands())
        return {
            f"sm_{self.problem.arch} {launch.kernel.fn.__module__}.{launch.kernel.fn.__name__}"  # type: ignore[attr-defined]
            + (" by TMA" if any(type(a).__name__ == "TensorDescriptor" for a in launch.arguments) else "")
            + (" " + WIDE[self.record] if self.wide else "")
            for launch in launches
        }


@cache
def _records() -> dict[str, registry.Kernel]:
    return {kernel.name: kernel for kernel in registry.kernels() if kernel.provider == "triton"}


def _problems(arch: int) -> Iterator[tuple[str, ConvProblem]]:
    for c in CONVOLUTIONS:
        output = c.output or output_size(c.input, c.kernel, c.stride, c.pad, c.pad, c.dilation)
        for face in FACES:
            for dtype, precision in ARITHMETIC:
                for channels_last in (False, True):
                    yield (
                        c.name,
                        ConvProblem(
                            face, c.n, c.c, c.k, c.groups, c.input, c.kernel, output, c.stride, c.pad, c.dilation,
                            dtype, channels_last, "cuda", arch, precision,
                        ),
                    )  # fmt: skip


def _boxed(problem: ConvProblem) -> bool:
    """Whether igemm can have its operands by TMA with BOX_TILE."""
    p = problem
    whole = p.groups == 1 or igemm_tiles.product_of(p).depth % BOX_TILE.steps(p.dtype.itemsize) == 0
    return p.arch >= 90 and whole and igemm_tiles.why_not_boxes(p) is None


@cache
def every() -> tuple[Case, ...]:
    """All there is."""
    cases = []
    for arch in ARCHITECTURES:
        for name, problem in _problems(arch):
            for record in _records().values():
                if record.why_not(problem) is not None:
                    continue
                cases.append(Case(record.name, problem, name))
                if record.name == "triton.pointwise" or (record.name == "triton.igemm" and _boxed(problem)):
                    cases.append(Case(record.name, problem, name, wide=True))
    return tuple(cases)


@cache
def sample() -> tuple[Case, ...]:
    """At least EACH cases for each kernel on each architecture, and one for each of its faces."""
    turn = commits.number()
    ranked = sorted(every(), key=lambda case: hashlib.sha256(f"{turn} {case}".encode()).digest())
    taken: list[Case] = []
    faces, times = set[tuple[str, Face]](), Counter[str]()
    for arch in ARCHITECTURES:
        with emulated(arch):
            for case in (case for case in ranked if case.problem.arch == arch):
                kernels, face = case.kernels(), case.problem.face
                if all((kernel, face) in faces and times[kernel] >= EACH for kernel in kernels):
                    continue
                taken.append(case)
                times.update(kernels)
                faces.update((kernel, face) for kernel in kernels)
    return tuple(taken)
