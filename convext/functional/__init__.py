"""Convolutions with the signatures of torch.nn.functional, and three paddings that torch does not have.

`padding` of `conv1d`, `conv2d` and `conv3d` takes what torch takes, and (a kernel of ours makes no padded copy):

    ((begin, end), ..)   zeros before and after each axis; an axis may also have one int for both
    "same"               with any stride: ceil(input / stride) outputs, the odd zero at the end, as TensorFlow does
    "causal"             1-D: dilation * (kernel - 1) zeros before, none after, so that no output sees its future

Where no kernel of ours is wanted (CPU tensors under "auto", integers, complex numbers), or where the arguments describe
no convolution, torch's own function is called: it has the answer, or it names the mistake.
"""

# padding    what users give as a padding, and the zeros it means
# geometry   torch's arguments as (size, stride, begin, dilation, groups)
# whose      whether a call is torch's to answer, or a kernel's
# calls      the call itself, and those that were made before

from __future__ import annotations

from torch import Tensor

from convext.functional.calls import conv, conv_transpose
from convext.functional.geometry import Size
from convext.functional.padding import Padding


def conv1d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Padding = 0,
    dilation: Size = 1,
    groups: int = 1,
) -> Tensor:
    """`torch.nn.functional.conv1d`: input [N, C, L] or [C, L], weight [K, C/groups, k], result [N, K, O] or [K, O].

    `padding` also takes (begin, end), "same" with a stride, and "causal" (see the module's text).

    Raises what torch raises: RuntimeError for shapes that do not fit, with the numbers.
    """
    return conv(1, input, weight, bias, stride, padding, dilation, groups)


def conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Padding = 0,
    dilation: Size = 1,
    groups: int = 1,
) -> Tensor:
    """`torch.nn.functional.conv2d`: input [N, C, H, W] or [C, H, W], weight [K, C/groups, kh, kw].

    `padding` also takes (begin, end) for each axis, and "same" with a stride (see the module's text).

    Raises what torch raises: RuntimeError for shapes that do not fit, with the numbers.
    """
    return conv(2, input, weight, bias, stride, padding, dilation, groups)


def conv3d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Padding = 0,
    dilation: Size = 1,
    groups: int = 1,
) -> Tensor:
    """`torch.nn.functional.conv3d`: input [N, C, D, H, W] or [C, D, H, W], weight [K, C/groups, kd, kh, kw].

    `padding` also takes (begin, end) for each axis, and "same" with a stride (see the module's text).

    Raises what torch raises: RuntimeError for shapes that do not fit, with the numbers.
    """
    return conv(3, input, weight, bias, stride, padding, dilation, groups)


def conv_transpose1d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Size = 0,
    output_padding: Size = 0,
    groups: int = 1,
    dilation: Size = 1,
) -> Tensor:
    """`torch.nn.functional.conv_transpose1d`: input [N, K, O] or [K, O], weight [K, C/groups, k], result [N, C, L]."""
    return conv_transpose(1, input, weight, bias, stride, padding, output_padding, groups, dilation)


def conv_transpose2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Size = 0,
    output_padding: Size = 0,
    groups: int = 1,
    dilation: Size = 1,
) -> Tensor:
    """`torch.nn.functional.conv_transpose2d`: input [N, K, OH, OW], weight [K, C/groups, kh, kw]."""
    return conv_transpose(2, input, weight, bias, stride, padding, output_padding, groups, dilation)


def conv_transpose3d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Size = 0,
    output_padding: Size = 0,
    groups: int = 1,
    dilation: Size = 1,
) -> Tensor:
    """`torch.nn.functional.conv_transpose3d`: input [N, K, OD, OH, OW], weight [K, C/groups, kd, kh, kw]."""
    return conv_transpose(3, input, weight, bias, stride, padding, output_padding, groups, dilation)
