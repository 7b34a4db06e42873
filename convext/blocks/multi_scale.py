"""Features of several scales at once, by parallel dilations (Yu and Koltun, arXiv 1511.07122)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.jit import is_scripting

from convext.blocks.parallel import concatenated
from convext.layers import DilatedConv2d


class MultiScaleExtractor(nn.Module):
    """One 3x3 convolution for each dilation, concatenated.

    [N, C, H, W] -> [N, len(dilations) * K, H, W], `out_channels` of them; len(dilations) * (9CK + K) parameters; branch
    i has receptive field 2 dilations[i] + 1. On a CPU they are one call where that is faster.
    """

    def __init__(
        self, in_channels: int = 3, branch_channels: int = 64, dilations: Sequence[int] = (1, 2, 4, 8, 16)
    ) -> None:
        super().__init__()
        self.branches = nn.ModuleList(DilatedConv2d(in_channels, branch_channels, 3, dilation=d) for d in dilations)
        self.out_channels = len(dilations) * branch_channels

    def forward(self, input: Tensor) -> Tensor:
        if is_scripting():
            return torch.cat([branch(input) for branch in self.branches], dim=-3)
        else:
            return concatenated(self.branches, input)
