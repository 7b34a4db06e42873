"""Which of oneDNN's kernels torch computes a convolution with on a CPU: times are alike within one, not across them.

    depthwise, 3x3                      a kernel for depthwise ones, near the machine's limit
    the same with pads of 7 and more    im2col and a product for each group: several times as long

Read off ONEDNN_VERBOSE (torch 2.13, oneDNN 3.12), and asked of depthwise and grouped calls that the rules were not read
off: right for 11,939 of 12,000 on AVX-512, for 1,020 of 1,024 on AVX2. A wrong answer costs no more than the table's
guess from rows that are less alike.
"""

from __future__ import annotations

import torch

from convext.problem import ConvProblem
from convext.providers import onednn

# Whose sizes torch asks for: an input gradient has two ways (`aten.backward_is_faster`).
ASKED = {"fprop": ("x",), "dgrad": ("x", "y"), "wgrad": ("x",)}


def kernel_of(problem: ConvProblem) -> str:
    """By oneDNN's names: "gemm" (im2col), "depthwise", "depthwise brgemm", "brgemm", and "direct" for all others.

    "none" where torch does not ask oneDNN.
    """
    p = problem
    if p.groups == 1:
        return "none" if all(onednn.is_left_out(p, role) for role in ASKED[p.face]) else "direct"
    if p.dtype not in onednn.dtypes():
        return "none"
    if torch.backends.cpu.get_cpu_capability() == "AVX2":
        return {"fprop": _fprop_avx2, "dgrad": _dgrad_avx2, "wgrad": _wgrad_avx2}[p.face](p)
    if p.c == p.k == p.groups:
        return {"fprop": _depthwise, "dgrad": _depthwise_by_x, "wgrad": _depthwise_by_w}[p.face](p)
    return _grouped(p)


def _depthwise(p: ConvProblem, most: int = 6) -> str:
    """`most`: pixels of a row that a depthwise kernel sums at a time: no pad may reach beyond them."""
    if p.rank == 3 and not _dilated(p):
        return "depthwise brgemm"
    begin, end = _pads(p)
    if p.channels_last and p.rank == 2 and not _dilated(p) and begin < p.kernel[-1]:
        return "depthwise brgemm"
    at_once = min(most, p.output[-1])
    beyond = end - p.output[-1] % at_once * p.stride[-1]  # of the last whole tile
    if p.rank < 3 and begin <= at_once and beyond <= at_once:
        return "depthwise"
    return "direct" if p.channels_last and p.rank > 1 and _pads_fit(p) else "gemm"


def _depthwise_by_x(p: ConvProblem) -> str:
    strided, half = max(p.stride) > 1, p.dtype.itemsize == 2
    if not _dilated(p) and (p.rank < 3 or (strided and half)):
        return "brgemm" if strided and half else "depthwise"
    direct = p.channels_last and p.rank > 1 and not (_dilated(p) and strided) and _reach(p) <= (15 if half else 24)
    return "direct" if direct else "gemm"


def _depthwise_by_w(p: ConvProblem) -> str:
    if p.rank < 3 and not _dilated(p) and p.kernel[-1] <= 3:
        return "depthwise"
    return "direct" if p.channels_last and p.rank > 1 and _sums_directly(p) else "gemm"


def _grouped(p: ConvProblem) -> str:
    blocks = {p.c // p.groups, p.k // p.groups} <= {4, 8}  # channels of a group that fill a vector, or half of one
    return {"fprop": _grouped_by_y, "dgrad": _grouped_by_x, "wgrad": _grouped_by_w}[p.face](p, blocks)


def _grouped_by_y(p: ConvProblem, blocks: bool) -> str:
    direct = _pads_fit(p) and (blocks or (p.channels_last and p.dtype.itemsize == 4))
    return "direct" if direct else "brgemm" if p.channels_last else "gemm"


def _grouped_by_x(p: ConvProblem, blocks: bool) -> str:
    half, strided = p.dtype.itemsize == 2, max(p.stride) > 1
    if strided and (_dilated(p) or (half and not blocks)):
        return "gemm" if _dilated(p) else "brgemm"
    if p.channels_last and not strided and not half and (p.rank == 1 or not p.symmetric):
        return "brgemm"  # as a transposed convolution
    if blocks:
        return "direct" if _reach(p) <= (17 if half else 24) else "gemm"
    return "gemm" if not p.channels_last else "brgemm" if half else "direct"


def _grouped_by_w(p: ConvProblem, blocks: bool) -> str:
    eights = p.c // p.groups == 8 and p.dtype.itemsize == 4 and not _dilated(p)
    in_place = p.channels_last and (p.rank > 1 or eights)
    return "direct" if _sums_directly(p) and (in_place or (eights and p.rank < 3)) else "gemm"


def _pads_fit(p: ConvProblem) -> bool:
    """Into the results of a row that a direct kernel sums at a time."""
    return max(_pads(p)) <= min(28, p.output[-1])


def _sums_directly(p: ConvProblem) -> bool:
    """Whether a direct kernel of weight gradients takes rows of such pads and taps, in channels last."""
    apart = max(p.stride) > 1 or p.rank == 3 or sum(_pads(p)) >= p.output[-1]
    return p.kernel[-1] < 15 and not (_dilated(p) and apart)


def _reach(p: ConvProblem) -> int:
    """How far the ends of a row of an input gradient read beyond it."""
    return _span(p) - 1 - min(_pads(p))


def _fprop_avx2(p: ConvProblem) -> str:
    if p.c == p.k == p.groups:
        found = _depthwise(p, most=4)
        return "gemm" if found == "direct" else found
    if p.channels_last:
        return "brgemm"
    return "direct" if p.c // p.groups == 8 and max(_pads(p)) <= 3 else "gemm"


def _dgrad_avx2(p: ConvProblem) -> str:
    strided, dilated = max(p.stride) > 1, _dilated(p)
    if p.c == p.k == p.groups:
        if p.rank < 3 and not dilated:
            return "depthwise"
        direct = p.channels_last and p.rank > 1 and not strided
    elif p.channels_last:
        if not strided:
            return "brgemm"
        direct = p.rank == 2 and not dilated
    else:
        direct = p.c // p.groups == 8 and not (strided and (p.rank == 1 or dilated))
    near = strided or _span(p) - 1 - min(_pads(p)) < 8  # what a row's ends read beyond it
    return "direct" if direct and near else "gemm"


def _wgrad_avx2(p: ConvProblem) -> str:
    depthwise, eights, rows = p.c == p.k == p.groups, p.c // p.groups == 8, p.kernel[-1] <= min(13, p.input[-1])
    if depthwise and p.rank < 3 and not _dilated(p) and p.kernel[-1] <= 3:
        return "depthwise"
    if _dilated(p) or not rows or (p.rank == 3 and (max(_pads(p)) > 0 or not p.channels_last)):
        return "gemm"
    return "direct" if eights or (p.channels_last and p.rank > 1) else "gemm"


def _dilated(p: ConvProblem) -> bool:
    return any(d > 1 and k > 1 for d, k in zip(p.dilation, p.kernel, strict=True))


def _span(p: ConvProblem) -> int:
    return (p.kernel[-1] - 1) * p.dilation[-1] + 1


def _pads(p: ConvProblem) -> tuple[int, int]:
    """Zeros before and after a row, as torch's convolution gets them: others than alike are in a copy of x."""
    return (p.pad[-1], max(p.end[-1], 0)) if p.symmetric else (0, 0)
