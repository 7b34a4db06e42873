"""Convolutions as torch.jit.trace records them.

    convext::conv(input, weight, bias, stride, padding, word, dilation, groups, kernel)
    convext::conv_transpose(input, weight, bias, stride, padding, output_padding, groups, dilation, kernel)

A trace is run with inputs of other sizes, and the faces take the size of their result as numbers. So what stands in
the trace is the call itself, which works its sizes out anew. `padding` is [begin, end] of each axis in turn, or empty
where `word` says "same" or "causal"; `kernel` is what `convext.backend` takes. A program that loads such a trace has to
import convext first.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from convext.choice import settings
from convext.operators.schema import LIBRARY
from convext.problem import Ints

LIBRARY.define(
    "conv(Tensor input, Tensor weight, Tensor? bias, int[] stride, int[] padding, str word, int[] dilation, "
    "int groups, str kernel) -> Tensor"
)
LIBRARY.define(
    "conv_transpose(Tensor input, Tensor weight, Tensor? bias, int[] stride, int[] padding, int[] output_padding, "
    "int groups, int[] dilation, str kernel) -> Tensor"
)


def conv(
    rank: int, input: Tensor, weight: Tensor, bias: Tensor | None,
    stride: Any, padding: Any, dilation: Any, groups: int,
) -> Tensor:  # fmt: skip
    """Records a call of `convext.functional.conv1d`, `conv2d` or `conv3d`, and computes it."""
    word = padding if isinstance(padding, str) else ""
    pads = [] if word else [side for p in _list(padding, rank) for side in _list(p, 2)]
    result = torch.ops.convext.conv(
        input, weight, bias, _list(stride, rank), pads, word, _list(dilation, rank), groups, settings.BACKEND
    )
    return cast(Tensor, result)


def conv_transpose(
    rank: int, input: Tensor, weight: Tensor, bias: Tensor | None,
    stride: Any, padding: Any, output_padding: Any, groups: int, dilation: Any,
) -> Tensor:  # fmt: skip
    """Records a call of `convext.functional.conv_transpose1d`, `2d` or `3d`, and computes it."""
    stride, padding, output_padding, dilation = (_list(v, rank) for v in (stride, padding, output_padding, dilation))
    result = torch.ops.convext.conv_transpose(
        input, weight, bias, stride, padding, output_padding, groups, dilation, settings.BACKEND
    )
    return cast(Tensor, result)


def _list(value: Any, length: int) -> list[Any]:
    values = list(value) if isinstance(value, tuple | list) else [value]
    return values * length if len(values) == 1 else values


def _run_conv(
    input: Tensor, weight: Tensor, bias: Tensor | None,
    stride: Ints, padding: Ints, word: str, dilation: Ints, groups: int, kernel: str,
) -> Tensor:  # fmt: skip
    from convext import functional

    pads: Any = word or tuple(zip(padding[::2], padding[1::2], strict=True))
    function = (functional.conv1d, functional.conv2d, functional.conv3d)[weight.dim() - 3]
    with settings.backend(kernel):
        return function(input, weight, bias, tuple(stride), pads, tuple(dilation), groups)


def _run_conv_transpose(
    input: Tensor, weight: Tensor, bias: Tensor | None,
    stride: Ints, padding: Ints, output_padding: Ints, groups: int, dilation: Ints, kernel: str,
) -> Tensor:  # fmt: skip
    from convext import functional

    functions = functional.conv_transpose1d, functional.conv_transpose2d, functional.conv_transpose3d
    with settings.backend(kernel):
        return functions[weight.dim() - 3](
            input, weight, bias, tuple(stride), tuple(padding), tuple(output_padding), groups, tuple(dilation)
        )


LIBRARY.impl("conv", _run_conv, "CompositeImplicitAutograd")
LIBRARY.impl("conv_transpose", _run_conv_transpose, "CompositeImplicitAutograd")
