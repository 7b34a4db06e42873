"""cpu.pointwise: convolutions of one tap in C++ (csrc/cpu/pointwise), with what follows the sum before its store.

Each is one product of matrices. In float32, channels last; the weight is packed first, which whoever keeps it does
once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from convext.problem import layout
from convext.problem.epilogue import Epilogue
from convext.providers.cpu import library
from convext.providers.cpu.native import NUMBER


def pack(v: Tensor) -> Tensor:
    """The weight [K, C, 1, ..] as the kernel reads it: vectors of K, each [C][lanes]."""
    if v.shape[1] > 1 and v.stride(1) != 1:
        v = v.contiguous()
    return cast(Tensor, torch.ops.convext_cpu.pack_pointwise.default(library.isa(), v))


def run(
    epilogue: Epilogue, x: Tensor, packed: Tensor, bias: Tensor | None,
    k: int, stride: Sequence[int], residual: Tensor | None,
) -> Tensor:  # fmt: skip
    """epilogue(conv(x) + bias + residual), channels last, with `k` channels; the operands have any strides."""
    return convolve(library.isa(), epilogue, x, packed, bias, k, stride, residual)


def convolve(
    isa: str, epilogue: Epilogue, x: Tensor, packed: Tensor, bias: Tensor | None,
    k: int, stride: Sequence[int], residual: Tensor | None,
) -> Tensor:  # fmt: skip
    """`run` on one of the instruction sets that the machine has, with the weight packed for that."""
    first, second = (*epilogue.scalars, 0.0, 0.0)[:2]
    if bias is not None:
        bias = bias.contiguous()
    if residual is not None:
        residual = layout.dense(residual, True)
    if x.stride(1) != 1:
        x = layout.dense(x, True)
    op = torch.ops.convext_cpu.pointwise.default
    return cast(Tensor, op(isa, x, packed, bias, k, stride, residual, NUMBER[epilogue.name], first, second))


def lanes() -> int:
    """Of a vector."""
    return {"avx512": 16, "avx2": 8}.get(library.isa(), 4)
