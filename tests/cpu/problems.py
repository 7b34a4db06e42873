"""Small odd problems of the CPU kernels: every path of csrc/cpu, in one, two and three dimensions."""

from __future__ import annotations

import torch
from torch import Tensor

from convext.problem import ConvProblem, Face, output_size

# n, channels of a group of x and of y, groups, input, kernel, stride, begin, end, dilation; one value serves all axes
PROBLEMS: dict[str, tuple] = {
    "1d causal": (2, 1, 1, 5, (37,), (4,), 1, 3, 0, 1),
    "1d in place": (1, 1, 1, 3, (150,), (7,), 1, 3, 3, 1),
    "1d dilated, short": (2, 1, 1, 17, (19,), (3,), 1, 8, 8, 8),
    "1d strided": (1, 1, 2, 3, (41,), (6,), 4, 2, 1, 3),
    "1x1": (1, 1, 1, 3, (5, 6), (1, 1), 1, 0, 0, 1),
    "3x3": (2, 1, 1, 19, (9, 21), (3, 3), 1, 1, 1, 1),
    "3x3 narrow": (1, 1, 1, 2, (18, 7), (3, 3), 1, 1, 1, 1),
    "3x3 stride 2": (1, 1, 1, 9, (11, 17), (3, 3), 2, 1, 0, 1),
    "3x3 dilated": (1, 1, 1, 3, (21, 19), (3, 3), 1, 3, 3, 3),
    "5x5 multiplier": (1, 1, 2, 5, (8, 33), (5, 5), 1, 2, 2, 1),
    "4x2": (1, 1, 1, 4, (12, 11), (4, 2), 1, 2, 1, 1),
    "7x7": (2, 1, 1, 3, (14, 13), (7, 7), 1, 3, 3, 1),
    "11x9 larger than the input": (1, 1, 1, 2, (6, 5), (11, 9), 1, 5, 5, 1),
    "3x2 steps (2, 3), (1, 2)": (2, 1, 1, 3, (9, 16), (3, 2), (2, 3), (1, 0), (0, 2), (1, 2)),
    "kernel smaller than stride": (1, 1, 1, 3, (10, 13), (2, 1), 3, 0, 0, 1),
    "3x3 of many channels": (2, 1, 1, 37, (5, 23), (3, 3), 1, 1, 1, 1),
    "5x5 stride 2 of many channels": (1, 1, 1, 20, (9, 31), (5, 5), 2, 2, 1, 1),
    "7x7 of many channels, dilated along height": (1, 1, 1, 18, (12, 9), (7, 7), 1, (6, 3), (6, 2), (2, 1)),
    "4x4 steps (2, 3) of many channels": (1, 1, 1, 17, (9, 29), (4, 4), (2, 3), (1, 2), (2, 0), (1, 2)),
    "1d of many channels, in parts": (1, 1, 1, 16, (520,), (3,), 1, 2, 0, 1),
    "1d of many channels, 31 taps": (1, 1, 1, 21, (300,), (31,), 1, 15, 15, 1),
    "1d of many channels, 6 taps, far apart": (2, 1, 1, 16, (39,), (6,), 1, 25, 0, 5),
    "1d of many channels, 4 taps in a long row": (1, 1, 1, 17, (1100,), (4,), 1, 3, 0, 1),
    "8x11 of many channels": (1, 1, 1, 18, (9, 14), (8, 11), 1, 5, 5, 1),
    "13x13 of many channels, larger than the input": (2, 1, 1, 20, (7, 7), (13, 13), 1, 6, 6, 1),
    "7x7 of 512 channels, 2 KiB apart": (1, 1, 1, 512, (5, 6), (7, 7), 1, 3, 3, 1),
    "3x3 of many channels, no pad": (1, 1, 1, 33, (7, 15), (3, 3), 1, 0, 0, 1),
    "3x3 of many channels, dilated beyond the input": (1, 1, 1, 19, (6, 9), (3, 3), 1, 12, 12, 12),
    "3x3 of many channels in several blocks": (1, 1, 1, 16, (90, 150), (3, 3), 1, 1, 1, 1),
    "3x3 of many channels, two vectors at a time": (1, 1, 1, 61, (6, 29), (3, 3), 1, 1, 1, 1),
    "5x5 of many channels, two vectors at a time": (1, 1, 1, 45, (7, 21), (5, 5), 1, 2, 2, 1),
    "5x5 stride 2, two vectors at a time": (2, 1, 1, 34, (9, 19), (5, 5), 2, 2, 1, 1),
    "7x7 steps (1, 3), two vectors at a time": (1, 1, 1, 50, (8, 23), (7, 7), (1, 3), 3, 2, 1),
    "1d of 9 taps, two vectors at a time, dilated": (1, 1, 1, 33, (300,), (9,), 1, 8, 8, 2),
    "3x3 of many channels, long rows": (2, 1, 1, 21, (9, 61), (3, 3), 1, 1, 1, 1),
    "5x5 of many channels, long rows, dilated": (1, 1, 1, 18, (13, 58), (5, 5), 1, (4, 6), (4, 5), (2, 3)),
    "7x7 of many channels, long rows, no pad": (1, 1, 1, 17, (12, 70), (7, 7), 1, 0, 0, 1),
    "3d of many channels, long rows": (1, 1, 1, 16, (5, 6, 57), (3, 3, 3), 1, 1, 1, 1),
    "3d": (1, 1, 1, 17, (4, 5, 9), (3, 3, 3), 1, 1, 1, 1),
    "3d steps": (1, 1, 1, 3, (5, 7, 8), (2, 3, 4), (2, 1, 2), 1, (0, 1, 2), (1, 2, 1)),
    "3d far taps": (1, 1, 1, 2, (15, 16, 9), (5, 3, 2), 1, (16, 9, 0), (16, 9, 1), (8, 9, 1)),
    "3d far taps, few results": (1, 1, 1, 2, (40, 16, 9), (5, 3, 2), 1, (0, 9, 0), (0, 9, 1), (9, 9, 1)),
    "3d far taps, steps (2, 3, 2)": (1, 1, 1, 2, (23, 32, 11), (5, 3, 2), (2, 3, 2), (13, 9, 0), (12, 9, 1), (7, 6, 1)),
    "3d far taps, stride 2": (1, 1, 1, 2, (9, 10, 5), (5, 3, 2), (2, 2, 1), (48, 24, 0), (48, 24, 1), (24, 24, 1)),
    "3d far taps of many channels": (1, 1, 1, 17, (15, 16, 5), (5, 3, 2), 1, (16, 9, 0), (16, 9, 1), (8, 9, 1)),
    # The later parts have more partial sums than the first, of vectors of 4 and of 8, and of 16.
    "3d far taps, 3 blocks and 4": (1, 1, 1, 1, (25, 32, 40), (5, 1, 1), 1, (6, 0, 0), (6, 0, 0), (3, 1, 1)),
    "3d far taps, 3 wide blocks and 4": (1, 1, 1, 1, (25, 32, 32), (5, 1, 1), 1, (6, 0, 0), (6, 0, 0), (3, 1, 1)),
    "grouped 1d": (1, 2, 2, 3, (29,), (5,), 1, 2, 2, 1),
    "grouped 2": (2, 2, 2, 5, (9, 10), (3, 3), 1, 1, 1, 1),
    "grouped 3 to 5": (1, 3, 5, 2, (7, 18), (3, 2), (1, 2), 1, 0, (2, 1)),
    "grouped 8": (1, 8, 8, 2, (6, 19), (3, 3), 1, 1, 1, 1),
    "grouped 4 to 1, stride 2": (1, 4, 1, 5, (9, 8), (3, 3), 2, 1, 1, 1),
    "grouped 3d": (1, 4, 4, 2, (4, 5, 6), (3, 2, 3), (1, 2, 1), 1, 1, 1),
    "grouped 2 of many channels": (2, 2, 2, 19, (9, 21), (3, 3), 1, 1, 1, 1),
    "grouped 4 of many channels, stride 2": (1, 4, 4, 9, (11, 19), (3, 3), 2, 1, 0, 1),
    "grouped 8 of many channels, short rows": (2, 8, 8, 5, (6, 7), (3, 3), 1, 1, 1, 1),
    "grouped 4 of many channels, steps (2, 3), (1, 2)": (1, 4, 4, 7, (9, 23), (2, 5), (2, 3), (1, 4), 2, (1, 2)),
    "grouped 8 of many channels, 7x6": (1, 8, 8, 2, (9, 12), (7, 6), 1, 3, 3, 1),
    "grouped 4 of many channels, dilated": (1, 4, 4, 5, (7, 22), (3, 3), 1, 3, 3, (2, 3)),
    "grouped 2 of many channels, 3d": (1, 2, 2, 9, (4, 5, 9), (2, 3, 3), 1, 1, 1, (1, 2, 1)),
    "grouped 2 of many channels, long rows": (1, 2, 2, 9, (6, 83), (3, 3), 1, 1, 1, 1),
    "grouped 4 of many channels, long rows": (1, 4, 4, 5, (7, 57), (5, 3), 1, (2, 1), (2, 1), 1),
    "grouped 3d far taps": (1, 4, 4, 2, (9, 10, 5), (5, 3, 2), 1, (23, 11, 0), (25, 13, 1), (12, 12, 1)),
    "dense 3 to 20": (2, 3, 20, 1, (7, 18), (3, 2), (1, 2), 1, 0, (2, 1)),
    "dense 2 to 72": (1, 2, 72, 1, (6, 13), (3, 3), 1, 2, 2, 2),
    "dense 37 to 18": (1, 37, 18, 1, (5, 9), (3, 3), 1, 1, 1, 1),
    "dense 21 to 3, stride 2": (1, 21, 3, 1, (9, 26), (3, 3), 2, 1, 1, 1),
    "dense, rows of 1 and of 4": (1, 3, 17, 1, (4, 5, 4), (3, 2, 4), (1, 2, 1), (1, 1, 0), (1, 1, 0), 1),
    "dense 20 to 50, 3d steps": (2, 20, 50, 1, (5, 7, 9), (3, 2, 3), (2, 1, 3), (1, 0, 2), (2, 1, 0), (1, 3, 1)),
    "dense 12 to 20 in several bands, dilated": (1, 12, 20, 1, (40, 33), (3, 3), 1, 4, 4, 4),
    "dense 9 to 33, 3d far taps": (1, 9, 33, 1, (4, 5, 6), (3, 3, 3), 1, 5, 5, (5, 6, 5)),
    "sums of many blocks": (3, 1, 1, 2, (70, 66), (3, 3), 1, 1, 1, 1),
}


def problem(face: Face, name: str, dtype: torch.dtype = torch.float32, channels_last: bool = False) -> ConvProblem:
    """The problem of that name."""
    n, c, k, groups, input, kernel, *rest = PROBLEMS[name]
    stride, begin, end, dilation = (v if isinstance(v, tuple) else (v,) * len(input) for v in rest)
    output = output_size(input, kernel, stride, begin, end, dilation)
    return ConvProblem(
        face, n, groups * c, groups * k, groups, input, kernel, output, stride, begin, dilation, dtype, channels_last
    )  # fmt: skip


def bias_of(p: ConvProblem) -> Tensor | None:
    """A random bias, where the face takes one."""
    return None if p.face == "wgrad" else torch.randn(p.open_shape[1]).to(p.dtype)
