"""The faces as torch's own pad and convolution, for exporters that know torch's operators only.

`torch.onnx.export(dynamo=True)` is given `TABLE` by `teaching.py`; others take it as
`program.run_decompositions({**torch.export.default_decompositions(), **convext.tools.decompositions.TABLE})`. It is
not in torch's own table, for fake tensors of symbolic sizes would go by that: with the questions about sizes that are
asked here, they would be symbolic no more.

    fprop   y = conv(pad(x), w)
    dgrad   x = pad(full transposed convolution of y and w), where a negative pad crops

A causal convolution is decomposed into its fprop, or the gather that several sequences a row need, and its activation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from convext.causal import composition, ops  # noqa: F401  defines the operators
from convext.operators import schema  # noqa: F401  likewise
from convext.problem import Ints


def fprop(
    x: Tensor, w: Tensor, bias: Tensor | None,
    size: Ints, stride: Ints, pad: Ints, dilation: Ints, groups: int, kernel: str,
) -> Tensor:  # fmt: skip
    """A convolution whose zeros after each axis are those that `size` asks for."""
    reach = [d * (k - 1) + 1 for d, k in zip(dilation, w.shape[2:], strict=True)]
    axes = list(zip(size, x.shape[2:], stride, pad, reach, strict=True))
    zeros = [0] * len(axes)
    if all((i + 2 * b - r) // s + 1 == o for o, i, s, b, r in axes):
        return torch.convolution(x, w, bias, stride, pad, dilation, False, zeros, groups)
    end = [(o - 1) * s + r - i - b for o, i, s, b, r in axes]
    padded = torch.constant_pad_nd(x, _flat(pad, end))
    return torch.convolution(padded, w, bias, stride, zeros, dilation, False, zeros, groups)


def dgrad(
    y: Tensor, w: Tensor, bias: Tensor | None,
    size: Ints, stride: Ints, pad: Ints, dilation: Ints, groups: int, kernel: str,
) -> Tensor:  # fmt: skip
    """A transposed convolution, its result cropped or padded to `size`."""
    full = [
        (o - 1) * s + d * (k - 1) + 1 for o, s, d, k in zip(y.shape[2:], stride, dilation, w.shape[2:], strict=True)
    ]
    extra = [i - f + 2 * b for i, f, b in zip(size, full, pad, strict=True)]
    zeros = [0] * len(full)
    if all(0 <= e < max(s, d) for e, s, d in zip(extra, stride, dilation, strict=True)):
        return torch.convolution(y, w, bias, stride, pad, dilation, True, extra, groups)
    x = torch.convolution(y, w, None, stride, zeros, dilation, True, zeros, groups)
    end = [i - f + b for i, f, b in zip(size, full, pad, strict=True)]
    x = torch.constant_pad_nd(x, _flat([-b for b in pad], end))
    return x if bias is None else x + bias.view(-1, *[1] * len(full))


def _flat(begin: Any, end: Any) -> list[Any]:
    """[begin, end] for each axis, the last axis first, as torch.nn.functional.pad takes them."""
    return [v for b, e in zip(reversed(begin), reversed(end), strict=True) for v in (b, e)]


def causal_conv1d(*arguments: Any) -> Tensor:
    return composition.forward(*arguments[:-1])  # all but which kernel


TABLE: dict[torch._ops.OpOverload, Callable[..., Tensor]] = {
    torch.ops.convext.fprop.default: fprop,
    torch.ops.convext.dgrad.default: dgrad,
    torch.ops.convext.causal_conv1d.default: causal_conv1d,
}
