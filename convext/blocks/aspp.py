"""Atrous spatial pyramid pooling: one map looked at with several dilations (Chen et al., arXiv 1706.05587).

       +-- 1x1 ----------------+
       +-- 3x3, d = 6 ---------+
x -----+-- 3x3, d = 12 --------+-- concatenate
       +-- 3x3, d = 18 --------+
       +-- mean of all -- 1x1 -+
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.jit import is_scripting

from convext.blocks.parallel import concatenated, maps_of
from convext.layers import DilatedConv2d, PointwiseConv2d


class ASPP(nn.Module):
    """Parallel 1x1, dilated 3x3 and global-mean branches, concatenated.

    [N, C, H, W] -> [N, (len(rates) + 2) * K, H, W], `out_channels` of them; CK(9 len(rates) + 2) + (len(rates) + 2)K
    parameters; the receptive field of the convolutions is 2 max(rates) + 1, that of the mean is everything.

    The pooled branch has a 1x1 convolution of its own. Without it, this branch keeps all C channels, and five branches
    do not give 5K channels but 4K + C: 3072 instead of 1280 for C = 2048, K = 256.
    """

    def __init__(self, in_channels: int, branch_channels: int = 256, rates: Sequence[int] = (6, 12, 18)) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            [
                PointwiseConv2d(in_channels, branch_channels),
                *(DilatedConv2d(in_channels, branch_channels, 3, dilation=rate) for rate in rates),
            ]
        )
        self.pooled = PointwiseConv2d(in_channels, branch_channels)
        self.out_channels = (len(rates) + 2) * branch_channels

    def forward(self, input: Tensor) -> Tensor:
        pooled = self.pooled(input.mean((-2, -1), keepdim=True))
        maps = maps_of(self.branches, input)
        return torch.cat([*maps, pooled.expand(pooled.shape[:-2] + maps[0].shape[-2:])], dim=-3)


class EfficientASPP(nn.Module):
    """ASPP behind a 1x1 reduction to K/4 channels, with a 1x1 expansion: the more parameters less, the larger C / K.

    [N, C, H, W] -> [N, K, H, W]; with m = max(K // 4, 1) and n rates: (Cm + m) + n(9m^2 + m) + (nmK + K) parameters;
    receptive field 2 max(rates) + 1. Than ASPP's that is 52 times fewer for 2048 -> 256, 10.7 times for 64 -> 64, and
    2.9 times for 64 -> 256.

    The expansion takes what the branches give, len(rates) * m channels. Counted as 3K/4 instead, any K that 4 does not
    divide breaks: K = 6 has branches of 1 channel each, 3 together, and an expansion from 4.
    """

    def __init__(self, in_channels: int, out_channels: int, rates: Sequence[int] = (6, 12, 18)) -> None:
        super().__init__()
        reduced = max(out_channels // 4, 1)
        self.reduce = PointwiseConv2d(in_channels, reduced)
        self.branches = nn.ModuleList(DilatedConv2d(reduced, reduced, 3, dilation=rate) for rate in rates)
        self.expand = PointwiseConv2d(len(rates) * reduced, out_channels)
        self.out_channels = out_channels

    def forward(self, input: Tensor) -> Tensor:
        reduced = self.reduce(input)
        if is_scripting():
            return self.expand(torch.cat([branch(reduced) for branch in self.branches], dim=-3))
        else:
            return self.expand(concatenated(self.branches, reduced))
