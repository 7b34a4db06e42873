"""Networks of families that torchvision and timm lack: large kernels, volumes, long sequences. Random weights.

large_kernels    stages of 31 x 31 depthwise between pointwise layers (as RepLKNet, arXiv:2203.06717)
volumes          a U-Net of 5 x 5 x 5 depthwise blocks (as MedNeXt, arXiv:2303.09975)
dense_volumes    one of 3 x 3 x 3 convolutions of all channels (as 3D U-Net, arXiv:1606.06650)
sequences        gated blocks with a causal depthwise convolution of 4 taps (as Mamba's, arXiv:2312.00752, without
                 the scan)
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn


class LargeKernelBlock(nn.Module):
    """[N, C, H, W] -> the same: pointwise, large depthwise, pointwise, and a residual."""

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.BatchNorm2d(channels), nn.Conv2d(channels, channels, 1), nn.GELU(),
            nn.Conv2d(channels, channels, kernel, padding=kernel // 2, groups=channels, bias=False),
            nn.BatchNorm2d(channels), nn.GELU(), nn.Conv2d(channels, channels, 1),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


def large_kernels() -> nn.Module:
    """[N, 3, 224, 224] -> [N, 1000]: a quarter of RepLKNet-31B's channels and depth."""
    stages: list[nn.Module] = []
    width = 3
    for channels, kernel, steps, blocks in ((32, 31, 4, 1), (64, 29, 2, 1), (128, 27, 2, 4), (256, 13, 2, 1)):
        stages += [nn.Conv2d(width, channels, steps, steps)]
        stages += [LargeKernelBlock(channels, kernel) for _ in range(blocks)]
        width = channels
    return nn.Sequential(*stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 1000))


class VolumeBlock(nn.Module):
    """[N, C, D, H, W] -> the same: depthwise, then twice as many channels and back, and a residual."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv3d(channels, channels, 5, padding=2, groups=channels), nn.GroupNorm(channels, channels),
            nn.Conv3d(channels, 2 * channels, 1), nn.GELU(), nn.Conv3d(2 * channels, channels, 1),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


class DenseVolumeBlock(nn.Module):
    """[N, C, D, H, W] -> the same: two convolutions, each with a norm and an activation."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for _ in range(2):
            layers += [nn.Conv3d(channels, channels, 3, padding=1), nn.InstanceNorm3d(channels), nn.LeakyReLU(0.01)]
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class VolumeNet(nn.Module):
    """[N, 1, D, H, W] -> [N, 2, D, H, W], sizes in multiples of four: two levels down and up again."""

    def __init__(self, channels: int = 16, block: Callable[[int], nn.Module] = VolumeBlock) -> None:
        super().__init__()
        c = channels
        self.stem, self.head = nn.Conv3d(1, c, 1), nn.Conv3d(c, 2, 1)
        self.down = nn.ModuleList(nn.Conv3d(w, 2 * w, 2, 2) for w in (c, 2 * c))
        self.up = nn.ModuleList(nn.ConvTranspose3d(2 * w, w, 2, 2) for w in (2 * c, c))
        self.encoder = nn.ModuleList(block(w) for w in (c, 2 * c, 4 * c))
        self.decoder = nn.ModuleList(block(w) for w in (2 * c, c))

    def forward(self, x: Tensor) -> Tensor:
        fine = self.encoder[0](self.stem(x))
        middle = self.encoder[1](self.down[0](fine))
        coarse = self.encoder[2](self.down[1](middle))
        middle = self.decoder[0](middle + self.up[0](coarse))
        return self.head(self.decoder[1](fine + self.up[1](middle)))


def dense_volumes() -> nn.Module:
    """[1, 1, D, H, W] -> [1, 2, D, H, W]."""
    return VolumeNet(8, DenseVolumeBlock)


class GatedBlock(nn.Module):
    """[N, L, C] -> the same."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = 2 * channels
        self.norm, self.into, self.out = (
            nn.LayerNorm(channels),
            nn.Linear(channels, 2 * inner),
            nn.Linear(inner, channels),
        )
        self.convolution = nn.Conv1d(inner, inner, 4, padding=3, groups=inner)

    def forward(self, x: Tensor) -> Tensor:
        values, gate = self.into(self.norm(x)).chunk(2, -1)
        values = self.convolution(values.transpose(1, 2))[..., : x.shape[1]].transpose(1, 2)
        return x + self.out(nn.functional.silu(values) * nn.functional.silu(gate))


def sequences() -> nn.Module:
    """[N, L, 256] -> [N, L, 256]."""
    return nn.Sequential(*(GatedBlock(256) for _ in range(4)))


# What builds a network, and the shape of what it reads after the batch.
NETWORKS = {
    "large kernels 31x31": (large_kernels, (3, 224, 224)),
    "volumes 5x5x5": (VolumeNet, (1, 32, 32, 32)),
    "U-Net 3x3x3": (dense_volumes, (1, 48, 48, 48)),
    "sequences k 4": (sequences, (1024, 256)),
}
