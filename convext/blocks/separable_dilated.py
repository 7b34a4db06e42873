"""Dilated and separable: a wide receptive field for about the price of a 1x1 convolution."""

from __future__ import annotations

from convext.layers import DepthwiseSeparableConv1d, DepthwiseSeparableConv2d


class SeparableDilatedConv(DepthwiseSeparableConv2d):
    """A dilated depthwise convolution, then a pointwise one.

    [N, C, H, W] -> [N, K, H, W]; C(k^2 + 1) + CK + K parameters; receptive field (k-1) dilation + 1.

    Even kernels are padded by one more at the end, so that the map keeps its size. With (k-1) * dilation // 2 on both
    sides it would lose a row and a column wherever (k-1) * dilation is odd: k = 2 or 4 with dilation 1 or 3 shortens 16
    to 15.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int = 3, dilation: int = 2) -> None:
        super().__init__(in_channels, out_channels, kernel_size, padding="same", dilation=dilation)


class SeparableDilatedConv1d(DepthwiseSeparableConv1d):
    """`SeparableDilatedConv` along a line: [N, C, L] -> [N, K, L]; C(k + 1) + CK + K parameters."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int = 3, dilation: int = 2) -> None:
        super().__init__(in_channels, out_channels, kernel_size, padding="same", dilation=dilation)
