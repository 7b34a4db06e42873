"""Grouped convolution of 2-byte images with pixels innermost (NCHW): chunks of columns count as channels.

Taps shift 2-byte pixels off any alignment, so that every pixel would be loaded by itself. Chunks of 8 columns are 16
bytes, and stay aligned however many of them a tap shifts by. So the columns within a chunk are counted as channels:

    x' [N, C * 8, H, W / 8]       x'[8 c + r, q] = x[c, 8 q + r]            x, where it lies
    w' [K * 8, C * 8, I, M]       w'[8 k + s, 8 c + r, m] = w[k, c, j]      where s + j * dilation - pad
                                                                                = r + 8 * (m - chunks of padding)
    y' [N, K * 8, H, W / 8]       y'[8 k + s, q] = y[k, 8 q + s]            y, where it lies

This is the same convolution, with as many groups, of 8 times the channels, which fill a product with fewer groups: the
zeros of w' stand where those of a block-diagonal pack would. For 3 taps with padding 1 M is 3 too, and the tensor cores
do as much as without chunks. Only w is expanded, in memory. (An Inf or NaN in x makes NaN in the results
whose chunk reads it, as it does in those of a pack.)
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import lru_cache

import torch
import triton
from torch import Tensor

from convext.problem import ConvProblem

COLUMNS = 8  # of a chunk: 16 bytes
WIDEST = 128  # channels of a group on either side, columns included
MOST_TAPS = 3  # chunks that a row of taps reads, for each tap in it: a step takes a third of the instructions
LINE = 4  # chunks
SMALLER = 4  # times that the expanded weights are smaller than either image


def suits(problem: ConvProblem) -> bool:
    """Whether rows divide into chunks, and w' is worth its memory and its zeros."""
    p = problem
    return (
        p.dtype.itemsize == 2
        and p.stride[-1] == 1
        and p.input[-1] % COLUMNS == p.output[-1] % COLUMNS == 0
        and max(p.k, p.c) // p.groups * COLUMNS <= WIDEST
        and _taps(p)[1] <= MOST_TAPS * p.kernel[-1]
        and SMALLER * expanded(p) <= p.n * min(p.c * math.prod(p.input), p.k * math.prod(p.output))
    )


def in_chunks(t: Tensor) -> bool:
    """Whether the columns of an image lie side by side, and everything else at multiples of 16 bytes."""
    outer = [stride for size, stride in zip(t.shape[:-1], t.stride()[:-1], strict=True) if size > 1]
    return t.stride(-1) == 1 and t.data_ptr() % 16 == 0 and all(stride % COLUMNS == 0 for stride in outer)


def expanded(problem: ConvProblem) -> int:
    """Elements of w'."""
    p = problem
    return p.k * (p.c // p.groups) * COLUMNS**2 * math.prod(p.kernel[:-1]) * _taps(p)[1]


def problem_of(problem: ConvProblem) -> ConvProblem:
    """The problem of x', w' and y'."""
    p = problem
    pad, taps = _taps(p)
    return replace(
        p, c=p.c * COLUMNS, k=p.k * COLUMNS, kernel=(*p.kernel[:-1], taps), pad=(*p.pad[:-1], pad),
        input=(*p.input[:-1], p.input[-1] // COLUMNS), output=(*p.output[:-1], p.output[-1] // COLUMNS),
        dilation=(*p.dilation[:-1], 1),
    )  # fmt: skip


def weights_of(problem: ConvProblem, w: Tensor) -> Tensor:
    """w' [K * 8, C * 8, *outer taps, M], channels last."""
    p = problem
    pad, taps = _taps(p)
    tap = _tap_between(p.kernel[-1], p.dilation[-1], p.pad[-1], pad, taps, str(w.device))
    k, c, *outer, _ = w.shape
    bands = torch.nn.functional.pad(w, (0, 1))[..., tap]  # [K, C, *outer taps, s, M, r]
    s = 2 + len(outer)
    last = bands.permute(0, s, *range(2, s), s + 1, 1, s + 2)
    return last.reshape(k * COLUMNS, *outer, taps, c * COLUMNS).movedim(-1, 1)


def whole_lines(sizes: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    """Sizes in chunks, rounded up so that a box that covers them has LINE chunks in a row, or all that there are.

    A single chunk is half of the 32 bytes that come from the cache at once.
    """
    *outer, row = sizes
    return (*outer, triton.cdiv(row, LINE) * LINE if row > LINE else triton.next_power_of_2(row))  # type: ignore[return-value]


def _taps(problem: ConvProblem) -> tuple[int, int]:
    """Chunks of padding, and M: chunks of x that one chunk of y reads."""
    p = problem
    pad = -(-p.pad[-1] // COLUMNS)
    last = COLUMNS - 1 + (p.kernel[-1] - 1) * p.dilation[-1] - p.pad[-1]  # column that the last of a chunk reads
    return pad, last // COLUMNS + pad + 1


@lru_cache(maxsize=64)
def _tap_between(kernel: int, dilation: int, pad: int, chunks_of_pad: int, taps: int, device: str) -> Tensor:
    """[s, M, r]: the tap j that leads from column s of y to column r of x; `kernel` where none does."""
    s, m, r = (torch.arange(size) for size in (COLUMNS, taps, COLUMNS))
    reach = r + COLUMNS * (m[:, None] - chunks_of_pad) + pad - s[:, None, None]  # j * dilation
    tap = reach // dilation
    return torch.where((reach % dilation == 0) & (tap >= 0) & (tap < kernel), tap, kernel).to(device)
