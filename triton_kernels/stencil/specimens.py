"""Launches of real layers, which benchmarks/inspect compiles."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import NamedTuple

import torch

from convext.problem import FACES, OPERANDS, ConvProblem, Face, layout
from convext.triton_kernels.ending import NOTHING, Ending
from convext.triton_kernels.launch import Specimen
from convext.triton_kernels.specimens import endings
from convext.triton_kernels.stencil.launch import plan_gather, plan_wgrad
from convext.triton_kernels.stencil.record import launch_gather, launch_wgrad


class Layer(NamedTuple):
    """A layer with 64 channels of x, padded so that y has a pixel for each `stride` of x: before them if `causal`.

    `taps` are of each axis, or one number for all.
    """

    faces: tuple[Face, ...]
    size: tuple[int, ...]
    taps: int | tuple[int, ...]
    stride: int = 1
    dilation: int = 1
    multiplier: int = 1
    causal: bool = False


# One for each way that tiles are chosen, and one for each tile of the table.
SPECIMENS = {
    "3x3": Layer(("fprop", "wgrad"), (56, 56), 3),
    "5x5": Layer(("fprop",), (56, 56), 5),
    "7x7": Layer(("fprop", "wgrad"), (56, 56), 7),
    "31x31": Layer(FACES, (64, 64), 31),
    "3x3 stride 2": Layer(FACES, (112, 112), 3, stride=2),
    "3x3 dilation 4": Layer(("fprop",), (64, 64), 3, dilation=4),
    "3x3 multiplier 2": Layer(FACES, (56, 56), 3, multiplier=2),
    "3x3 stride 2 multiplier 2": Layer(FACES, (112, 112), 3, stride=2, multiplier=2),
    "3x3 on 14x14": Layer(("fprop", "wgrad"), (14, 14), 3),
    "3x3 on 7x7": Layer(("fprop",), (7, 7), 3),
    "3x3 on 2x2": Layer(("fprop", "wgrad"), (2, 2), 3),
    "3x3 on 2x2 multiplier 2": Layer(("fprop", "wgrad"), (2, 2), 3, multiplier=2),
    "3x3 on 1x1": Layer(("fprop", "wgrad"), (1, 1), 3),
    "3x3 on 1x1 multiplier 2": Layer(("fprop", "wgrad"), (1, 1), 3, multiplier=2),
    "causal 4": Layer(("fprop", "wgrad"), (8192,), 4, causal=True),
    "causal 4 multiplier 2": Layer(FACES, (8192,), 4, multiplier=2, causal=True),
    "3x3x3": Layer(("fprop",), (16, 32, 32), 3),
    "5x5x5 stride 2": Layer(("dgrad",), (32, 64, 64), 5, stride=2),
    # Long windows and long rows: EEGNet's over electrodes, SLaK's strips, QuartzNet's widest.
    "64x1 multiplier 2": Layer(FACES, (64, 128), (64, 1), multiplier=2),
    "9x9 multiplier 2": Layer(("dgrad",), (56, 56), 9, multiplier=2),
    "13x5": Layer(("wgrad",), (56, 56), (13, 5)),
    "87 dilation 2": Layer(FACES, (800,), 87, dilation=2),
}
FUSED = ("3x3", "7x7", "3x3 stride 2", "causal 4")
IN_EVERY_DTYPE = ("3x3", "3x3 on 2x2", "3x3 on 1x1", "causal 4")


def specimens(arch: int) -> Iterator[Specimen]:
    """Every entry of SPECIMENS in bfloat16 and both layouts; some in wider dtypes, which have tiles of their own.

    Those of FUSED also with what layers are followed by.
    """
    cases = [(what, torch.bfloat16) for what in SPECIMENS]
    cases += [(what, dtype) for what in IN_EVERY_DTYPE for dtype in (torch.float32, torch.float64)]
    for what, dtype in cases:
        for face, last in product(SPECIMENS[what].faces, (False, True)):
            problem = _problem(face, SPECIMENS[what], dtype, last, arch)
            yield _specimen(f"stencil.{face} {what} {dtype} {'NHWC' if last else 'NCHW'}", problem)
    for what, last in product(FUSED, (False, True)):
        problem = _problem("fprop", SPECIMENS[what], torch.bfloat16, last, arch)
        for name, after in endings(problem):
            yield _specimen(f"stencil.fprop {what} {name} bfloat16 {'NHWC' if last else 'NCHW'}", problem, after)


def _problem(face: Face, layer: Layer, dtype: torch.dtype, last: bool, arch: int) -> ConvProblem:
    size, rank = layer.size, len(layer.size)
    kernel = layer.taps if isinstance(layer.taps, tuple) else (layer.taps,) * rank
    pad = tuple(t - 1 if layer.causal else layer.dilation * (t - 1) // 2 for t in kernel)
    output = tuple(i // layer.stride for i in size)
    return ConvProblem(
        face, 32, 64, 64 * layer.multiplier, 64, size, kernel, output, (layer.stride,) * rank, pad,
        (layer.dilation,) * rank, dtype, last, "cuda", arch,
    )  # fmt: skip


def _specimen(name: str, problem: ConvProblem, after: Ending = NOTHING) -> Specimen:
    p, like = problem, torch.empty((), dtype=problem.dtype, device="meta")
    a, b = (layout.empty(p.shape(role), p.channels_last and role != "w", like) for role in OPERANDS[p.face])
    result = layout.empty(p.open_shape, p.channels_last, like)
    if p.face == "wgrad":
        launch, plan = launch_wgrad(p, a, b, result)[0], plan_wgrad
    else:
        launch, plan = launch_gather(p, a, b, None, result, after), plan_gather
    found = plan(p, a.stride(), b.stride(), result.stride())
    return Specimen(name.replace("torch.", ""), found.tile, launch, found.outputs, found.trips, found.filling)
