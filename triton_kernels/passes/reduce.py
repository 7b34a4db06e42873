"""The second stage of a sum that was split over blocks: partial sums are added in a fixed order.

    partial [S, E]   one row for each part of the sum, in float32 (float64 for float64)
    result  [E]      = partial[0] + partial[1] + ..

Of a matrix the partial sums may be [S, columns, rows]: where its rows are neighbours in the block that writes them, and
its columns are not, each sector of memory is then written whole.

A block adds the rows of BLOCK columns, ROWS at a time, then these ROWS sums as a tree. The order depends on the shape
alone, so the same operands give the same bits; nothing is added atomically.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from convext.triton_kernels.ending import NOTHING, Ending
from convext.triton_kernels.epilogue import activate, plus
from convext.triton_kernels.launch import Launch

ROWS, BLOCK = 16, 64


def partial_sums(parts: int, result: Tensor) -> Tensor:
    """Uninitialised memory for `parts` partial sums of each element of `result`, [parts, elements]."""
    dtype = torch.float64 if result.dtype == torch.float64 else torch.float32
    return torch.empty((parts, result.numel()), dtype=dtype, device=result.device)


def add_in_order(partial: Tensor, result: Tensor, after: Ending = NOTHING) -> None:
    """Writes the sums over `partial`'s first axis, [S, elements] or [S, columns, rows], to `result`'s dense memory.

    What comes after them is computed here too: no part is the sum that an activation is of.
    """
    parts, elements = partial.shape[0], result.numel()
    columns, rows = partial.shape[1:] if partial.ndim == 3 else (1, elements)
    arguments = partial, result, after.residual, parts, elements, columns, rows
    constants = {"ROWS": ROWS, "BLOCK": BLOCK, "ACTIVATION": after.activation}
    Launch(_add_rows, triton.cdiv(elements, BLOCK), arguments, constants)()


# What changes with batches and with sizes of images: see launch.py.
COUNTS = ["parts"]


@triton.jit(do_not_specialize=COUNTS)
def _add_rows(
    partial, result, residual, parts, elements, columns, rows,
    ROWS: tl.constexpr, BLOCK: tl.constexpr, ACTIVATION: tl.constexpr,
):  # fmt: skip
    column = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    row = tl.arange(0, ROWS)
    total = tl.zeros((ROWS, BLOCK), partial.dtype.element_ty)
    for first in range(0, parts, ROWS):
        at = (first + row).to(tl.int64)[:, None] * elements + column[None, :]
        total += tl.load(partial + at, mask=(first + row < parts)[:, None] & (column < elements)[None, :], other=0.0)
    at = column % rows * columns + column // rows
    if residual is None and ACTIVATION[0] == "identity":
        tl.store(result + at, tl.sum(total, axis=0).to(result.dtype.element_ty), mask=column < elements)
    else:
        value = activate(tl.sum(total, axis=0), ACTIVATION)
        if residual is not None:
            value = plus(value, residual + at, column < elements)
        tl.store(result + at, value.to(result.dtype.element_ty), mask=column < elements)
