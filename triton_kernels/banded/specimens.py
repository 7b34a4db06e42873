"""Launches of real layers, which benchmarks/inspect compiles."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from convext.problem import FACES, OPEN, OPERANDS, ConvProblem
from convext.triton_kernels.banded.record import _plan, image_launches, weight_launch, why_not
from convext.triton_kernels.launch import Specimen
from convext.triton_kernels.specimens import endings

FUSED = ((7, 32, torch.bfloat16), (31, 32, torch.bfloat16), (13, 32, torch.float32))  # also with what follows them


def specimens(arch: int) -> Iterator[Specimen]:
    """Small and large kernels, few and many images, and rows that are not aligned: every tile of the tables."""
    bf16, fp16, fp32 = torch.bfloat16, torch.float16, torch.float32
    cases = [(size, 32, 64, bf16) for size in (7, 13, 31, 51)] + [(13, 1, 64, bf16), (27, 32, 14, bf16)]
    cases += [(size, 32, 63, fp16) for size in (13, 31)] + [(size, 32, 64, fp32) for size in (13, 31)]
    cases += [(5, 1, 28, bf16), (5, 32, 28, bf16), (7, 1, 28, fp32), (51, 1, 56, fp32)]
    for (size, images, side, dtype), face in ((case, face) for case in cases for face in FACES):
        shapes = {"x": (images, 64, side, side), "w": (64, 1, size, size), "y": (images, 64, side, side)}
        tensors = {role: torch.empty(shape, dtype=dtype, device="meta") for role, shape in shapes.items()}
        (a, b), result = (tensors[role] for role in OPERANDS[face]), tensors[OPEN[face]]
        problem = ConvProblem.of(
            face, a.shape, b.shape, result.shape[2:], (1, 1), (size // 2,) * 2, (1, 1), 64, dtype, False, "cuda", arch,
            "tf32",
        )  # fmt: skip
        if why_not(problem) is not None:
            continue
        plan = _plan(problem, a)
        outputs: float = plan.tile.patches * plan.tile.rows * plan.tile.columns
        name = f"banded.{face} {size}x{size} on {images}x{side}x{side} {dtype}".replace("torch.", "")
        if face == "wgrad":
            launch, trips = weight_launch(problem, a, b, result)[0], plan.share[0]
            outputs = outputs * trips / plan.row_blocks
        else:
            launch, trips = image_launches(problem, a, b, None, result)[-1], plan.window_rows
        yield Specimen(name, plan.tile, launch, outputs, trips)
        if face == "fprop" and (size, images, dtype) in FUSED:
            for what, after in endings(problem):
                plan = _plan(problem, a, after.residual is not None)
                launch = image_launches(problem, a, b, None, result, after=after)[-1]
                outputs = plan.tile.patches * plan.tile.rows * plan.tile.columns
                yield Specimen(f"{name} {what}", plan.tile, launch, outputs, plan.window_rows)
