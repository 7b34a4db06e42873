"""Two dilations without a common factor, so that each fills the other's holes (Wang et al., arXiv 1702.08502)."""

from __future__ import annotations

from torch import Tensor, nn

from convext.layers import DilatedConv2d


class AntiGriddingBlock(nn.Module):
    """The mean of a 3x3 convolution with dilation 2 and one with dilation 3.

    [N, C, H, W] -> [N, C, H, W]; 2(9C^2 + C) parameters; receptive field 7, of which the offsets 0, 2 and 3 either
    way are read, 5 of 7. Two blocks in a row read 13 of 13.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.by_two = DilatedConv2d(channels, channels, 3, dilation=2)
        self.by_three = DilatedConv2d(channels, channels, 3, dilation=3)

    def forward(self, input: Tensor) -> Tensor:
        return (self.by_two(input) + self.by_three(input)) / 2
