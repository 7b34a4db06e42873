"""What torch computes by oneDNN on a CPU, and where that is wrong: weight gradients that are not what they should be,
or leave their memory, and a forward that never returns. docs/design.md has the table, and how it was found.

    dilated along height          bfloat16 in channels last
    strided 1x1, few channels     channels last: whole vectors of channels are written (uxlfoundation/oneDNN#6035)
    depth within one kernel       windows that reach beyond both ends of depth
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import Literal

import torch

from convext.problem import ConvProblem

WIDEST_TILE = 28  # results of a row that oneDNN's kernel of weight gradients sums at a time, at most


@cache
def dtypes() -> frozenset[torch.dtype]:
    """In which oneDNN computes on this processor; none where torch was built without it."""
    if not torch.backends.mkldnn.is_available():
        return frozenset()
    half = {torch.bfloat16} if torch.ops.mkldnn._is_mkldnn_bf16_supported() else set()
    return frozenset({torch.float32, *half})


def is_left_out(problem: ConvProblem, role: str = "x") -> bool:
    """Whether torch computes a layer of one group itself, whose input is the operand in that role.

    One image of few pixels its own loops or a product take. Of 3-D ones these take up to twenty times as long
    (`use_mkldnn` of ATen/native/Convolution.cpp).
    """
    p = problem
    channels, size = (p.c, p.input) if role == "x" else (p.k, p.output)
    few = p.n == 1 and channels * math.prod(size[:2]) <= 20480  # along depth and height in 3-D
    wide = p.rank > 1 and min(p.kernel[-2:]) > 3
    return p.dtype == torch.float32 and p.groups == 1 and few and not wide and p.taps > 1


@dataclass(frozen=True)
class Fault:
    """What is wrong with an answer of torch's, and what torch is right for: copies that lie otherwise, or none."""

    says: str
    right_for: Literal["channels first", "padded", "nothing"]


HANGS = Fault("torch's bfloat16 forward of large kernels on few channels in channels last hangs", "nothing")
WRITES = Fault("torch's weight gradient of a strided 1x1 on few channels writes beyond its memory", "channels first")
DILATED = Fault("torch's bfloat16 weight gradient is wrong where height is dilated", "channels first")
DEPTH = Fault("torch's weight gradient is wrong where depth lies within a kernel", "padded")


def fault(problem: ConvProblem) -> Fault | None:
    """What is wrong with torch's answer, whose padding is its own; None where nothing is known to be."""
    p = problem
    if p.device != "cpu":
        return None
    if p.face == "fprop":
        return HANGS if _hangs(p) else None
    if p.face == "dgrad" or p.dtype not in dtypes():
        return None
    if p.rank == 3:
        return DEPTH if _lanes() == 16 and _is_wrong_in_depth(p) else None
    if p.rank == 1 or not p.channels_last:
        return None
    return DILATED if _is_wrong_where_dilated(p) else WRITES if _writes_beyond_scratch(p) else None


def _hangs(fprop: ConvProblem) -> bool:
    """Whether oneDNN compiles a kernel of its own for ever.

    Seen with torch 2.11 to 2.14 on Zen 4, whose AVX-512 has bfloat16: depthwise, channels last, of 8, 15 or 16 channels
    and 17x17 taps or more. With 13x13 taps, or 24 channels, it returned.
    """
    p = fprop
    few = p.groups == p.c == p.k <= 16
    return p.dtype is torch.bfloat16 and p.channels_last and few and p.taps > 13 * 13


def _writes_beyond_scratch(p: ConvProblem) -> bool:
    """It gathers the pixels that a stride leaves, where these are all of a grid's."""
    gathers = p.taps == p.groups == 1 and max(p.stride) > 1
    whole = all(i == s * o for i, s, o in zip(p.input, p.stride, p.output, strict=True))
    return gathers and whole and p.c < _lanes()


def _lanes() -> int:
    return 16 if torch.backends.cpu.get_cpu_capability() == "AVX512" else 8


def _is_wrong_where_dilated(p: ConvProblem) -> bool:
    """Also of one tap. Channels that fill vectors are right, and rows of one tile."""
    fill = p.c // p.groups % 16 == p.k // p.groups % 16 == 0
    dilated = p.dtype is torch.bfloat16 and p.dilation[0] > p.stride[0] == 1
    return dilated and not fill and p.output[1] > WIDEST_TILE


def _is_wrong_in_depth(p: ConvProblem) -> bool:
    """A few that are right are among these. bfloat16's are of any stride: 3x3x3 on a depth of 2, padded by 1."""
    if p.dilation[0] > 1:
        return False
    size, taps, pad, stride = p.input[0], p.kernel[0], p.pad[0], p.stride[0]
    if p.dtype is torch.bfloat16:
        return size < taps and pad >= stride
    return pad > stride > 1 and size < taps + stride - 1
