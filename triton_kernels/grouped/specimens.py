"""Launches of real layers, which benchmarks/inspect compiles."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import product

import torch

from convext.problem import FACES, OPEN, OPERANDS, PRECISIONS, ConvProblem, layout
from convext.triton_kernels.grouped import record
from convext.triton_kernels.grouped.launch import image_launch, is_scalar, weight_launch
from convext.triton_kernels.grouped.tiles import choose
from convext.triton_kernels.launch import Specimen
from convext.triton_kernels.specimens import Layer, fused

# In both memory formats, with what they are followed by.
FUSED = {"8 to 8 channels": Layer("fprop", torch.bfloat16, "ieee", True, 32, 256, 256, (56, 56), 3, 1, 32)}


def specimens(arch: int) -> Iterator[Specimen]:
    """Every tile of the tables, by groups of 8 and of 8 to 1 channels, in both layouts; more groups in bfloat16."""
    forms = [(torch.bfloat16, "ieee"), (torch.float64, "ieee"), *((torch.float32, how) for how in PRECISIONS)]
    groups = [(c, k, 1, form) for form in forms for c, k in ((8, 8), (8, 1))]
    groups += [(4, 4, 1, forms[0]), (4, 8, 2, forms[0])]
    for (c, k, stride, (dtype, precision)), channels_last in product(groups, (True, False)):
        out = 56 // stride
        x, w, y = (
            layout.empty(shape, channels_last, torch.empty((), dtype=dtype, device="meta"))
            for shape in ((32, 32 * c, 56, 56), (32 * k, c, 3, 3), (32, 32 * k, out, out))
        )
        where = "NHWC" if channels_last else "NCHW"
        name = f"{c} to {k} channels stride {stride} {dtype} {precision} {where}".replace("torch.", "")
        for face in FACES:
            tensors = {"x": x, "w": w, "y": y}
            a, b = (tensors[role] for role in OPERANDS[face])
            result = tensors[OPEN[face]]
            problem = ConvProblem.of(
                face, a.shape, b.shape, result.shape[2:], (stride,) * 2, (1, 1), (1, 1), 32, dtype, channels_last,
                "cuda", arch, precision,
            )  # fmt: skip
            if face == "wgrad":
                tile = choose(problem, is_scalar(x, y))[0]
                launch, _ = weight_launch(problem, x, y, result)
                outputs = 32 * k * c * 9 * launch.argument("parts") / launch.programs
                trips = math.ceil(32 * out * out / tile.pixels / launch.argument("parts"))
            else:
                tile = choose(problem, is_scalar(a))[0]
                launch = image_launch(problem, a, b, None, result)
                outputs, trips = result.numel() / launch.programs, 9 if face == "fprop" else 9 // stride**2
            yield Specimen(f"grouped.{face} {name}", tile, launch, outputs, trips)
    yield from fused("grouped", FUSED, arch, record.run_activated)
