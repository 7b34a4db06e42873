"""Detail and context side by side: half of the channels dense, half dilated."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.jit import is_scripting

from convext.blocks.parallel import concatenated
from convext.layers import DilatedConv2d
from convext.nn import Conv2d


class HybridBlock(nn.Module):
    """A dense and a dilated 3x3 convolution of the same input, half of the channels each, concatenated.

    [N, C, H, W] -> [N, C, H, W]; 9C^2 + C parameters; receptive field 2 dilation + 1, all of it near the centre.

    For odd C the dilated half has the odd channel; two halves of C // 2 would lose it.
    """

    def __init__(self, channels: int, dilation: int = 2) -> None:
        super().__init__()
        self.dense = Conv2d(channels, channels // 2, 3, padding=1)
        self.dilated = DilatedConv2d(channels, channels - channels // 2, 3, dilation)

    def forward(self, input: Tensor) -> Tensor:
        if is_scripting():
            return torch.cat([self.dense(input), self.dilated(input)], dim=-3)
        else:
            return concatenated([self.dense, self.dilated], input)
