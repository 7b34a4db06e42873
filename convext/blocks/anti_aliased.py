"""A blur before widely spaced taps, so that each speaks for its neighbourhood (cf. Zhang, arXiv 1904.11486)."""

from __future__ import annotations

from torch import Tensor, nn

from convext.layers import DilatedConv2d


class AntiAliasedDilated(nn.Module):
    """A 3x3 mean, then a dilated 3x3 convolution.

    [N, C, H, W] -> [N, K, H, W]; 9CK + K parameters; receptive field 2 dilation + 3, every position read up to
    dilation 3.

    The mean at the border is over the pixels that exist. Counting the zeros of the padding as pixels, which is
    `AvgPool2d`'s default, darkens it: a map of ones comes out as 4/9 at corners and 2/3 along edges.
    """

    def __init__(self, in_channels: int, out_channels: int, dilation: int = 2) -> None:
        super().__init__()
        self.blur = nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False)
        self.conv = DilatedConv2d(in_channels, out_channels, 3, dilation)

    def forward(self, input: Tensor) -> Tensor:
        return self.conv(self.blur(input))
