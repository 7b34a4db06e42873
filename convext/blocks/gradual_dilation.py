"""Dilations that double from layer to layer: an exponential receptive field without holes (arXiv 1511.07122)."""

from __future__ import annotations

from torch import Tensor, nn

from convext.layers import DilatedConv2d


class GradualDilation(nn.Module):
    """`depth` residual layers x + relu(bn(conv(x))) with dilation 1, 2, 4, ...

    [N, C, H, W] -> [N, C, H, W]; depth * (9C^2 + 3C) parameters; receptive field 2^(depth+1) - 1, every position read.

    Takes [C, H, W] too, which convolutions take and BatchNorm2d alone does not.
    """

    def __init__(self, channels: int, depth: int = 6) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Sequential(
                DilatedConv2d(channels, channels, 3, dilation=2**i), nn.BatchNorm2d(channels), nn.ReLU(inplace=True)
            )
            for i in range(depth)
        )

    def forward(self, input: Tensor) -> Tensor:
        x = input.unsqueeze(0) if input.dim() == 3 else input
        for layer in self.layers:
            x = x + layer(x)
        return x.squeeze(0) if input.dim() == 3 else x
