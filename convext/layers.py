"""The named kinds of convolution, each a few lines on the drop-in layers of `convext.nn`.

    DepthwiseConv           one filter a channel                            C * k weights
    PointwiseConv           one tap: a linear layer at every position       C * K
    GroupedConv             `groups` convolutions side by side              C * K * k / groups
    DilatedConv             `dilation` steps between the taps               C * K * k
    CircularConv            the ends of each axis are joined
    TrueConv                the kernel flipped: what mathematics calls convolution
    CausalConv1d            no output reads its future
    DepthwiseSeparableConv  depthwise, then pointwise                       C * k + C * K
    SpatiallySeparableConv  one axis after the other                        (kh + kw) * C * K instead of kh * kw * C * K

Arguments are torch's, in torch's order, less those that the name fixes. The last two kinds are `Sequential`s of two or
three layers; the others *are* the drop-in layer, with its parameters, state_dict and initialisation. Shapes: [N, C,
*size] or [C, *size].
"""

from typing import Any

import torch
from torch import Tensor

from convext.functional.geometry import Size
from convext.functional.padding import Padding
from convext.nn import Conv1d, Conv2d, Conv3d, Device, PaddingMode, _Convolution, tells

CONV: dict[int, type[_Convolution]] = {1: Conv1d, 2: Conv2d, 3: Conv3d}


class _Depthwise(_Convolution):
    @tells()
    def __init__(
        self,
        in_channels: int,
        kernel_size: Size,
        stride: Size = 1,
        padding: Padding = 0,
        dilation: Size = 1,
        multiplier: int = 1,
        bias: bool = True,
        padding_mode: PaddingMode = "zeros",
        device: Device = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            in_channels, in_channels * multiplier, kernel_size, stride, padding, dilation, in_channels,
            bias, padding_mode, device, dtype,
        )  # fmt: skip


class DepthwiseConv1d(_Depthwise, Conv1d):
    """One filter for each channel: [N, C, L] -> [N, C * multiplier, O]."""


class DepthwiseConv2d(_Depthwise, Conv2d):
    """One filter for each channel: [N, C, H, W] -> [N, C * multiplier, OH, OW]."""


class DepthwiseConv3d(_Depthwise, Conv3d):
    """One filter for each channel: [N, C, D, H, W] -> [N, C * multiplier, OD, OH, OW]."""


class _Pointwise(_Convolution):
    @tells()
    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: Size = 1,
        padding: Padding = 0,
        groups: int = 1,
        bias: bool = True,
        padding_mode: PaddingMode = "zeros",
        device: Device = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            in_channels, out_channels, 1, stride, padding, 1, groups, bias, padding_mode, device, dtype
        )  # fmt: skip


class PointwiseConv1d(_Pointwise, Conv1d):
    """`torch.nn.Linear` on the channels of every position: [N, C, L] -> [N, K, L]."""


class PointwiseConv2d(_Pointwise, Conv2d):
    """`torch.nn.Linear` on the channels of every pixel: [N, C, H, W] -> [N, K, H, W]."""


class PointwiseConv3d(_Pointwise, Conv3d):
    """`torch.nn.Linear` on the channels of every voxel: [N, C, D, H, W] -> [N, K, D, H, W]."""


class _Grouped(_Convolution):
    @tells()
    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        groups: int,
        stride: Size = 1,
        padding: Padding = 0,
        dilation: Size = 1,
        bias: bool = True,
        padding_mode: PaddingMode = "zeros",
        device: Device = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups,
            bias, padding_mode, device, dtype,
        )  # fmt: skip


class GroupedConv1d(_Grouped, Conv1d):
    """`groups` convolutions from C/groups to K/groups channels: [N, C, L] -> [N, K, O].

    ValueError where `groups` does not divide both.
    """


class GroupedConv2d(_Grouped, Conv2d):
    """`groups` convolutions from C/groups to K/groups channels: [N, C, H, W] -> [N, K, OH, OW].

    ValueError where `groups` does not divide both.
    """


class GroupedConv3d(_Grouped, Conv3d):
    """`groups` convolutions from C/groups to K/groups channels: [N, C, D, H, W] -> [N, K, OD, OH, OW].

    ValueError where `groups` does not divide both.
    """


class _Dilated(_Convolution):
    @tells()
    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        dilation: Size,
        stride: Size = 1,
        padding: Padding = "same",
        groups: int = 1,
        bias: bool = True,
        padding_mode: PaddingMode = "zeros",
        device: Device = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups,
            bias, padding_mode, device, dtype,
        )  # fmt: skip


class DilatedConv1d(_Dilated, Conv1d):
    """Taps `dilation` apart, receptive field (k-1)d + 1: [N, C, L] -> [N, K, L], length kept.

    Also for even kernels, unless a stride or another padding says else.
    """


class DilatedConv2d(_Dilated, Conv2d):
    """Taps `dilation` apart, receptive field (k-1)d + 1 an axis: [N, C, H, W] -> [N, K, H, W], size kept.

    Also for even kernels, unless a stride or another padding says else.
    """


class DilatedConv3d(_Dilated, Conv3d):
    """Taps `dilation` apart, receptive field (k-1)d + 1 an axis: [N, C, D, H, W] -> [N, K, D, H, W], size kept.

    Also for even kernels, unless a stride or another padding says else.
    """


class _Circular(_Convolution):
    @tells()
    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size = 1,
        padding: Padding = "same",
        dilation: Size = 1,
        groups: int = 1,
        bias: bool = True,
        device: Device = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, "circular", device, dtype
        )  # fmt: skip


class CircularConv1d(_Circular, Conv1d):
    """The signal as a ring: shifting the input shifts the output: [N, C, L] -> [N, K, L].

    RuntimeError where the padding wraps twice.
    """


class CircularConv2d(_Circular, Conv2d):
    """The image as a torus: rolling the input rolls the output: [N, C, H, W] -> [N, K, H, W].

    RuntimeError where the padding wraps twice.
    """


class CircularConv3d(_Circular, Conv3d):
    """Both ends of all three axes joined: rolling the input rolls the output: [N, C, D, H, W] -> [N, K, D, H, W].

    RuntimeError where the padding wraps twice.
    """


class _True(_Convolution):
    def forward(self, input: Tensor) -> Tensor:
        """Convolves `input` with the weight. Drop-in layers, like torch's, correlate: they do not flip it."""
        return self._conv_forward(
            input, self.weight.flip([-1 - axis for axis in range(len(self.kernel_size))]), self.bias
        )


class TrueConv1d(_True, Conv1d):
    """y[o] = sum_t w[t] x[o - t]: torch's `Conv1d` with its kernel flipped: [N, C, L] -> [N, K, O]."""


class TrueConv2d(_True, Conv2d):
    """torch's `Conv2d` with its kernel flipped on both axes: [N, C, H, W] -> [N, K, OH, OW]."""


class TrueConv3d(_True, Conv3d):
    """torch's `Conv3d` with its kernel flipped on all three axes: [N, C, D, H, W] -> [N, K, OD, OH, OW]."""


class CausalConv1d(Conv1d):
    """No output reads an input after it: d(k-1) zeros before the signal, none after. [N, C, L] -> [N, K, ceil(L/s)]."""

    @tells(padding_mode='what the d(k-1) positions before the signal are: "zeros", "reflect", "replicate", "circular".')
    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: PaddingMode = "zeros",
        device: Device = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            in_channels, out_channels, kernel_size, stride, "causal", dilation, groups,
            bias, padding_mode, device, dtype,
        )  # fmt: skip


# ------------------------------------------------------------------------------------------ factored layers


class _DepthwiseSeparable(torch.nn.Sequential):
    _rank: int

    @tells()
    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size = 1,
        padding: Padding = 0,
        dilation: Size = 1,
        bias: bool = True,
        padding_mode: PaddingMode = "zeros",
        device: Device = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        conv = CONV[self._rank]
        self.depthwise = conv(
            in_channels, in_channels, kernel_size, stride, padding, dilation, in_channels,
            bias, padding_mode, device, dtype,
        )  # fmt: skip
        self.pointwise = conv(in_channels, out_channels, 1, bias=bias, device=device, dtype=dtype)


class DepthwiseSeparableConv1d(_DepthwiseSeparable):
    """Depthwise, then pointwise: [N, C, L] -> [N, K, O] with C*k + C*K weights instead of C*K*k."""

    _rank = 1


class DepthwiseSeparableConv2d(_DepthwiseSeparable):
    """Depthwise, then pointwise: [N, C, H, W] -> [N, K, OH, OW]; 32 -> 64 with 3x3: 2336 weights, not 18432."""

    _rank = 2


class DepthwiseSeparableConv3d(_DepthwiseSeparable):
    """Depthwise, then pointwise: [N, C, D, H, W] -> [N, K, OD, OH, OW]."""

    _rank = 3


class _SpatiallySeparable(torch.nn.Sequential):
    """One convolution an axis, the last axis first. The first goes to `mid_channels`, and only the last has a bias.

    One bias is enough: a bias in between would only add to it, but not where padding reads zeros.
    """

    _rank: int

    @tells()
    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size = 1,
        padding: Padding = 0,
        dilation: Size = 1,
        mid_channels: int | None = None,
        bias: bool = True,
        padding_mode: PaddingMode = "zeros",
        device: Device = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        rank = self._rank
        mid = out_channels if mid_channels is None else mid_channels
        layers = []
        for axis in reversed(range(rank)):
            layers.append(
                CONV[rank](
                    in_channels if axis == rank - 1 else mid,
                    mid if axis else out_channels,
                    _only(axis, kernel_size, 1, rank),
                    _only(axis, stride, 1, rank),
                    padding if isinstance(padding, str) else _only(axis, padding, 0, rank),
                    _only(axis, dilation, 1, rank),
                    bias=bias and axis == 0,
                    padding_mode=padding_mode,
                    device=device,
                    dtype=dtype,
                )
            )
        super().__init__(*layers)


def _only(axis: int, value: Any, neutral: int, rank: int) -> tuple[Any, ...]:
    """`value` on `axis`, and `neutral` on the others."""
    each = tuple(value) if isinstance(value, tuple | list) else (value,) * rank
    return tuple(each[a] if a == axis else neutral for a in range(rank))


class SpatiallySeparableConv2d(_SpatiallySeparable):
    """A (1, kw) convolution, then a (kh, 1) one: [N, C, H, W] -> [N, mid, H, OW] -> [N, K, OH, OW].

    Equal to a dense kernel that is a sum of `mid_channels` outer products: `convext.analysis.separate` finds it.
    """

    _rank = 2


class SpatiallySeparableConv3d(_SpatiallySeparable):
    """(1, 1, kw), (1, kh, 1), then (kd, 1, 1): [N, C, D, H, W] -> [N, K, OD, OH, OW]."""

    _rank = 3
