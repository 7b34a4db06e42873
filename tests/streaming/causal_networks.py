"""Causal networks of torch.nn alone, and how a signal is cut into chunks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn


def stepped(stream: Any, x: Tensor, sizes: Sequence[int]) -> Tensor:
    """What a stream returns of x [N, C, L] in chunks of `sizes`, and the rest in one, joined."""
    sizes = [*sizes, x.shape[-1] - sum(sizes)]
    return torch.cat([stream.step(chunk) for chunk in x.split(sizes, -1)], -1)


class Cut(nn.Module):
    """Cuts samples off the end."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :, : -self.count].contiguous() if self.count else x


class Apply(nn.Module):
    """A function as a layer; of layers, where these are given."""

    def __init__(self, function: Callable[..., Any], *layers: nn.Module) -> None:
        super().__init__()
        self.function, self.layers = function, nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Any:
        return self.function(x, *self.layers)


def padded(c: int, k: int, *, d: int = 1, s: int = 1, wait: int = 0, groups: int = 1, wider: int = 1) -> nn.Module:
    """Zeros in front of a convolution; `wait` fewer of them under a stride, so that it waits for that many samples."""
    conv = nn.Conv1d(c, c * wider, k, stride=s, dilation=d, groups=groups)
    return nn.Sequential(nn.ConstantPad1d((d * (k - 1) - wait, 0), 0.0), conv)


def trimmed(c: int, k: int, *, d: int = 1) -> nn.Module:
    """Padded on both sides, and the end cut off."""
    reach = d * (k - 1)
    return nn.Sequential(nn.Conv1d(c, c, k, dilation=d, padding=reach), Cut(reach))


def upsampled(c: int, k: int, s: int, *, d: int = 1, groups: int = 1) -> nn.Module:
    """A transposed convolution, and what reaches beyond the last input's outputs cut off."""
    extra = d * (k - 1) + 1 - s
    up = nn.ConvTranspose1d(c, c, k, s, dilation=d, groups=groups, output_padding=max(0, -extra))
    return nn.Sequential(up, Cut(max(0, extra)))


def over_channels(c: int) -> nn.Module:
    return Apply(lambda x, norm: norm(x.transpose(1, 2)).transpose(1, 2), nn.LayerNorm(c))


def batch_norm(c: int) -> nn.Module:
    norm = nn.BatchNorm1d(c)
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2)
    return norm


def residual(*layers: nn.Module) -> nn.Module:
    return Apply(lambda x, inner: x + inner(x), nn.Sequential(*layers))


def gated(c: int, k: int, *, d: int = 1) -> nn.Module:
    return nn.Sequential(padded(c, k, d=d, wider=2), nn.GLU(1))


class TorchWaveNet(nn.Module):
    """WaveNetStack written in torch.nn, with the names of its parameters."""

    class Block(nn.Module):
        def __init__(self, channels: int, dilation: int) -> None:
            super().__init__()
            self.filter_and_gate = nn.Conv1d(channels, 2 * channels, 2, dilation=dilation)
            self.mix = nn.Conv1d(channels, channels, 1)

    def __init__(self, channels: int, layers: int, cycle: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(self.Block(channels, 2 ** (i % cycle)) for i in range(layers))

    def forward(self, x: Tensor) -> Tensor:
        total = 0
        for block in self.blocks:
            past = nn.functional.pad(x, (block.filter_and_gate.dilation[0], 0))
            filtered, gate = block.filter_and_gate(past).chunk(2, 1)
            skip = block.mix(filtered.tanh() * gate.sigmoid())
            x, total = x + skip, total + skip
        return total
