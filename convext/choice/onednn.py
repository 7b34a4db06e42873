"""Which of oneDNN's kernels torch computes a convolution with on a CPU: times are alike within one, not across them.

    depthwise, 3x3                      a kernel for depthwise ones, near the machine's limit
    the same with pads of 7 and more    im2col and a product for each group: several times as long

Read off ONEDNN_VERBOSE (torch 2.13, oneDNN 3.12, AVX-512): right for 98.7% of 5,996 depthwise and grouped calls.
A wrong answer costs no more than the table's guess from rows that are less alike.
"""

from __future__ import annotations

from convext.problem import ConvProblem

PIXELS = 6  # of a row that a depthwise kernel sums at a time, in AVX-512: no pad may reach beyond them


def kernel_of(problem: ConvProblem) -> str:
    """By oneDNN's names: "gemm" (im2col), "depthwise", "depthwise brgemm", "brgemm", and "direct" for all others."""
    p = problem
    if p.c == p.k == p.groups:
        return {"fprop": _depthwise, "dgrad": _depthwise_by_x, "wgrad": _depthwise_by_w}[p.face](p)
    if p.groups == 1:
        return "direct"
    return _grouped(p)


def _depthwise(p: ConvProblem) -> str:
    if p.rank == 3:
        return "depthwise brgemm" if not _dilated(p) else "direct" if p.channels_last else "gemm"
    begin, end = _pads(p)
    if p.channels_last and p.rank == 2 and not _dilated(p) and begin < p.kernel[-1]:
        return "depthwise brgemm"
    at_once = min(PIXELS, p.output[-1])
    beyond = end - p.output[-1] % at_once * p.stride[-1]  # of the last whole tile
    if begin <= at_once and beyond <= at_once:
        return "depthwise"
    return "direct" if p.channels_last and p.rank == 2 else "gemm"


def _depthwise_by_x(p: ConvProblem) -> str:
    strided = max(p.stride) > 1
    if p.rank < 3 and not _dilated(p):
        return "brgemm" if strided and p.dtype.itemsize == 2 else "depthwise"
    direct = p.channels_last and p.rank > 1 and not (_dilated(p) and strided) and _span(p) <= 27
    return "direct" if direct else "gemm"


def _depthwise_by_w(p: ConvProblem) -> str:
    if p.rank < 3 and not _dilated(p) and p.kernel[-1] <= 3:
        return "depthwise"
    apart = _dilated(p) and (max(p.stride) > 1 or p.rank == 3)
    direct = p.channels_last and p.rank > 1 and not apart and p.kernel[-1] < 15 and max(_pads(p)) < 12
    return "direct" if direct else "gemm"


def _grouped(p: ConvProblem) -> str:
    half, strided = p.dtype.itemsize == 2, max(p.stride) > 1
    blocks = {p.c // p.groups, p.k // p.groups} <= {4, 8}  # channels of a group that fill a vector, or half of one
    if p.face == "wgrad":
        if _dilated(p) and (strided or p.rank == 3):
            return "gemm"
        eights = p.c // p.groups == 8 and not half and not _dilated(p) and p.kernel[-1] < 15
        direct = (p.channels_last and p.rank > 1) or (eights and (p.channels_last or p.rank < 3))
        return "direct" if direct else "gemm"
    if p.face == "dgrad" and _dilated(p) and strided:
        return "gemm"
    if blocks and max(_pads(p)) > 21 and (half or not p.channels_last):
        return "gemm"
    if not p.channels_last:
        return "direct" if blocks else "gemm"
    if half:
        return "direct" if blocks else "brgemm"
    return "direct" if p.face == "fprop" or p.rank > 1 else "brgemm"


def _dilated(p: ConvProblem) -> bool:
    return any(d > 1 and k > 1 for d, k in zip(p.dilation, p.kernel, strict=True))


def _span(p: ConvProblem) -> int:
    return (p.kernel[-1] - 1) * p.dilation[-1] + 1


def _pads(p: ConvProblem) -> tuple[int, int]:
    """Zeros before and after a row, as torch's convolution gets them: others than alike are in a copy of x."""
    return (p.pad[-1], max(p.end[-1], 0)) if p.symmetric else (0, 0)
