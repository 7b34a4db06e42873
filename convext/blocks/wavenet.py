"""WaveNet: causal dilated convolutions with gates, for raw sound (van den Oord et al., arXiv 1609.03499).

x ---+-- causal conv, k = 2, dilation d --+-- tanh ----+
     |                                    +-- sigmoid -*--- 1x1 --+--- skip
     +------------------------------------------------------------+--- + --- next x
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from convext.layers import CausalConv1d, PointwiseConv1d


class WaveNetBlock(nn.Module):
    """A gated causal convolution with a residual and a skip: [N, C, L] -> (x + z, z), both [N, C, L].

    5C^2 + 3C parameters for k = 2: filter and gate are one convolution to 2C channels; receptive field
    (k-1) dilation + 1, all of it past.

    The padding is on the left only. With `dilation` on both sides the result has L + dilation samples, cannot be added
    to x, and reads the future.
    """

    def __init__(self, channels: int, dilation: int = 1, kernel_size: int = 2) -> None:
        super().__init__()
        self.filter_and_gate = CausalConv1d(channels, 2 * channels, kernel_size, dilation=dilation)
        self.mix = PointwiseConv1d(channels, channels)

    def forward(self, input: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the input of the next block, and what this one contributes to the stack's output."""
        filtered, gate = self.filter_and_gate(input).chunk(2, dim=-2)
        skip = self.mix(torch.tanh(filtered) * torch.sigmoid(gate))
        return input + skip, skip


class WaveNetStack(nn.Module):
    """`layers` blocks with dilation 1, 2, 4, ..., 2^(cycle-1), over and over; the sum of their skips.

    [N, C, L] -> [N, C, L]; layers * (5C^2 + 3C) parameters; receptive field 1 + the sum of the dilations: 3070 for 30
    layers in cycles of 10, every position read.
    """

    def __init__(self, channels: int = 256, layers: int = 30, cycle: int = 10) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(WaveNetBlock(channels, 2 ** (i % cycle)) for i in range(layers))
        self.receptive_field = 1 + sum(2 ** (i % cycle) for i in range(layers))

    def forward(self, input: Tensor) -> Tensor:
        total = torch.zeros_like(input)
        x = input
        for block in self.blocks:
            x, skip = block(x)
            total = total + skip
        return total
