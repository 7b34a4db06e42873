"""Drop-in layers: subclasses of torch.nn's six, with the same constructor, parameters, random draws and state_dict.

Beyond torch, `padding` of the convolutions takes (begin, end) for each axis, "same" with a stride, and, in 1-D,
"causal": see `convext.functional`. Neither costs a padded copy of the input, except with a `padding_mode` other
than zeros, where torch makes one as well.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.conv import _ConvNd

from convext import functional as F

_CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_CONV_TRANSPOSE = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


class _Convolution(_ConvNd):
    """What the three convolutions share, placed before torch's class in their bases."""

    _rank: int

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: Any = "zeros",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        ours = not F.is_torchs(padding, stride, self._rank)
        torchs: Any = super()  # the constructor of torch.nn.Conv1d, Conv2d or Conv3d
        torchs.__init__(
            in_channels, out_channels, kernel_size, stride, 0 if ours else padding,
            dilation, groups, bias, padding_mode, device, dtype,
        )  # fmt: skip
        if ours:
            self.padding: Any = padding if isinstance(padding, str) else _pairs(padding, self._rank)

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        padding: Any = self.padding
        rank = self._rank
        if self.padding_mode != "zeros" and input.dim() > rank:
            pads = padding if isinstance(padding, str) else _pairs(padding, rank)
            resolved = F.resolve_padding(pads, input.shape[-rank:], self.kernel_size, self.stride, self.dilation)
            input, padding = F.pad(input, resolved, self.padding_mode), 0
        return _CONV[rank](input, weight, bias, self.stride, padding, self.dilation, self.groups)


def _pairs(padding: Any, rank: int) -> tuple[tuple[int, int], ...]:
    """(before, after) for each axis. Raises ValueError where `padding` does not have `rank` axes."""
    pairs = tuple(p if isinstance(p, tuple) else (p, p) for p in padding)
    if len(pairs) != rank or any(len(pair) != 2 for pair in pairs):
        raise ValueError(f"expected padding to have a number or a (begin, end) for each of {rank} axes, got {padding}")
    return pairs


class Conv1d(_Convolution, torch.nn.Conv1d):
    """`torch.nn.Conv1d`: [N, C, L] or [C, L] -> [N, K, O] or [K, O], O = floor((L + pads - d(k-1) - 1) / s) + 1.

    Beyond torch: `padding` takes ((begin, end),), "same" with any stride, and "causal".
    """

    _rank = 1


class Conv2d(_Convolution, torch.nn.Conv2d):
    """`torch.nn.Conv2d`: [N, C, H, W] or [C, H, W] -> [N, K, OH, OW] or [K, OH, OW].

    Beyond torch: `padding` takes ((top, bottom), (left, right)) and "same" with any stride.
    """

    _rank = 2


class Conv3d(_Convolution, torch.nn.Conv3d):
    """`torch.nn.Conv3d`: [N, C, D, H, W] or [C, D, H, W] -> [N, K, OD, OH, OW] or [K, OD, OH, OW].

    Beyond torch: `padding` takes (begin, end) for each axis and "same" with any stride.
    """

    _rank = 3


class _TransposedConvolution(torch.nn.modules.conv._ConvTransposeNd):
    """What the three transposed convolutions share, placed before torch's class in their bases."""

    _rank: int

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        """The input gradient of a convolution; `output_size` resolves which of `stride` sizes is meant."""
        rank = self._rank
        if self.padding_mode != "zeros":
            raise ValueError(f"Only `zeros` padding mode is supported for ConvTranspose{rank}d")
        geometry: Any = (self.stride, self.padding, self.kernel_size, rank, self.dilation)
        extra = tuple(self._output_padding(input, output_size, *geometry))
        padding: Any = self.padding
        return _CONV_TRANSPOSE[rank](
            input, self.weight, self.bias, self.stride, padding, extra, self.groups, self.dilation
        )  # fmt: skip


class ConvTranspose1d(_TransposedConvolution, torch.nn.ConvTranspose1d):
    """`torch.nn.ConvTranspose1d`: [N, K, O] -> [N, C, L], L = (O-1)s - 2 pad + d(k-1) + output_padding + 1."""

    _rank = 1


class ConvTranspose2d(_TransposedConvolution, torch.nn.ConvTranspose2d):
    """`torch.nn.ConvTranspose2d`: [N, K, OH, OW] -> [N, C, H, W]."""

    _rank = 2


class ConvTranspose3d(_TransposedConvolution, torch.nn.ConvTranspose3d):
    """`torch.nn.ConvTranspose3d`: [N, K, OD, OH, OW] -> [N, C, D, H, W]."""

    _rank = 3
