"""The second stage of a sum that was split over blocks: partial sums are added in a fixed order.

    partial [S, E]   one row for each part of the sum, in float32 (float64 for float64)
    result  [E]      = partial[0] + partial[1] + ..

A block adds the rows of BLOCK columns, ROWS at a time, then these ROWS sums as a tree. The order depends on the shape
alone, so the same operands give the same bits; nothing is added atomically.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from convext.triton_kernels.launch import Launch

ROWS, BLOCK = 16, 64


def partial_sums(parts: int, result: Tensor) -> Tensor:
    """Uninitialised memory for `parts` partial sums of each element of `result`, [parts, elements]."""
    dtype = torch.float64 if result.dtype == torch.float64 else torch.float32
    return torch.empty((parts, result.numel()), dtype=dtype, device=result.device)


def add_in_order(partial: Tensor, result: Tensor) -> None:
    """Writes the sums over the rows of `partial` into the dense memory of `result`, element by element."""
    parts, elements = partial.shape
    constants = {"ROWS": ROWS, "BLOCK": BLOCK}
    Launch(_add_rows, triton.cdiv(elements, BLOCK), (partial, result, parts, elements), constants)()


@triton.jit
def _add_rows(partial, result, parts, elements, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    column = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    row = tl.arange(0, ROWS)
    total = tl.zeros((ROWS, BLOCK), partial.dtype.element_ty)
    for first in range(0, parts, ROWS):
        at = (first + row).to(tl.int64)[:, None] * elements + column[None, :]
        total += tl.load(partial + at, mask=(first + row < parts)[:, None] & (column < elements)[None, :], other=0.0)
    tl.store(result + column, tl.sum(total, axis=0).to(result.dtype.element_ty), mask=column < elements)
