"""Networks that the tests train on one rank and on several."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import convext


def block(channels: int, out: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(channels, out, 3, padding=1), nn.BatchNorm2d(out), nn.ReLU(inplace=True))


class UNet(nn.Module):
    """Two levels, one joined by a transposed convolution, one by upsampling, and a head that is dilated."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.bottom = block(2, 4), block(4, 8), block(8, 8)
        self.pool, self.mean = nn.MaxPool2d(2), nn.AvgPool2d(3, 2, 1)
        self.up, self.join = nn.ConvTranspose2d(8, 8, 2, 2), block(16, 4)
        self.nearest, self.last = nn.Upsample(scale_factor=2), block(8, 4)
        self.head = nn.Conv2d(4, 1, 3, padding=2, dilation=2)

    def forward(self, x: Tensor) -> Tensor:
        first = self.first(x)
        second = self.second(self.pool(first))
        up = self.join(torch.cat([second, self.up(self.bottom(self.mean(second)))], 1))
        return self.head(self.last(torch.cat([first, self.nearest(up)], 1)))


class Volumes(nn.Module):
    """Depthwise and pointwise layers in three dimensions, with residuals, a squeeze of everything and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = convext.Conv3d(1, 4, 3, 2, 1)
        self.depthwise = nn.ModuleList([nn.Conv3d(4, 4, (3, 5, 3), padding=(1, 2, 1), groups=4) for _ in range(2)])
        self.pointwise = nn.ModuleList([nn.Conv3d(4, 4, 1) for _ in range(2)])
        self.norms = nn.ModuleList([nn.GroupNorm(2, 4) for _ in range(2)])
        self.squeeze = nn.Sequential(nn.AdaptiveAvgPool3d(1), nn.Conv3d(4, 4, 1), nn.Sigmoid())
        self.classifier = nn.Sequential(nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(4, 3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for depthwise, pointwise, norm in zip(self.depthwise, self.pointwise, self.norms, strict=True):
            x = x + pointwise(nn.functional.silu(norm(depthwise(x))))
        return self.classifier(x * self.squeeze(x))
