"""Layers as they run, with the tile, the copies and the parts that a record decides on: for benchmarks/inspect.

Families have specimens of every tile, on layers that suit it. What spills is often a tile on a layer that does not:
these are of real networks, one of each kind that once spilled.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor

from convext.problem import OPERANDS, ConvProblem, Face, layout
from convext.problem.epilogue import Epilogue
from convext.triton_kernels.ending import Ending
from convext.triton_kernels.launch import Specimen, collecting
from convext.triton_kernels.passes.transpose import copied_bytes

# What layers are followed by: MBConv's activation with its sum, and ReLU6.
EPILOGUES = {"silu + residual": Epilogue("silu"), "relu6": Epilogue("clamp", (0.0, 6.0))}

Run = Callable[[ConvProblem, Tensor, Tensor, "Tensor | None"], Tensor]
RunActivated = Callable[[ConvProblem, Epilogue, Tensor, Tensor, "Tensor | None", "Tensor | None"], Tensor]


class Layer(NamedTuple):
    """One face of a layer, padded so that y has a pixel for each `stride` of x."""

    face: Face
    dtype: torch.dtype
    precision: str
    channels_last: bool
    n: int
    c: int
    k: int
    input: tuple[int, ...]
    taps: int
    stride: int
    groups: int = 1

    def problem(self, arch: int) -> ConvProblem:
        """On compute capability `arch` / 10."""
        rank, output = len(self.input), tuple(-(-i // self.stride) for i in self.input)
        taps, stride, pad = (self.taps,) * rank, (self.stride,) * rank, ((self.taps - 1) // 2,) * rank
        return ConvProblem(
            self.face, self.n, self.c, self.k, self.groups, self.input, taps, output, stride, pad, (1,) * rank,
            self.dtype, self.channels_last, "cuda", arch, self.precision,
        )  # fmt: skip


def endings(problem: ConvProblem) -> Iterator[tuple[str, Ending]]:
    """Each of EPILOGUES, by name, of `problem`'s result."""
    residual = layout.empty(
        problem.open_shape, problem.channels_last, torch.empty((), dtype=problem.dtype, device="meta")
    )
    for name, epilogue in EPILOGUES.items():
        yield name, Ending(epilogue, residual if "residual" in name else None)


def as_run(family: str, name: str, layer: Layer, arch: int, run: Run) -> Specimen:
    """The launch that computes a layer: others copy its operands, and add the parts where its sum is split."""
    p = layer.problem(arch)
    like = torch.empty((), dtype=p.dtype, device="meta")
    a, b = (layout.empty(p.shape(role), p.channels_last, like) for role in OPERANDS[p.face])
    with collecting() as launches:
        run(p, a, b, None)
    launch, *adding = (launch for launch in launches if not copied_bytes(launch))
    parts = adding[0].argument("parts") if adding else 1
    where = f"{str(p.dtype).removeprefix('torch.')} {p.precision} {'NHWC' if p.channels_last else 'NCHW'}"
    outputs = math.prod(p.open_shape) * parts / launch.programs
    return Specimen(f"{family}.{p.face} {name} {where}", None, launch, outputs, math.ceil(launch.trips))


def fused(family: str, layers: Mapping[str, Layer], arch: int, run: RunActivated) -> Iterator[Specimen]:
    """The launches that compute layers with what they are followed by: each of EPILOGUES."""
    for (name, layer), last in product(layers.items(), (False, True)):
        of_format = layer._replace(channels_last=last)
        for what, (epilogue, residual) in endings(of_format.problem(arch)):

            def activated(
                p: ConvProblem, a: Tensor, b: Tensor, bias: Tensor | None,
                epilogue: Epilogue = epilogue, residual: Tensor | None = residual,
            ) -> Tensor:  # fmt: skip
                return run(p, epilogue, a, b, bias, residual)

            yield as_run(family, f"{name} {what}", of_format, arch, activated)
