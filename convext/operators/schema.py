"""What the operators take and return: the only definitions in torch.library.

    convext::fprop(x, w, bias, size of y, stride, pad, dilation, groups, kernel) -> y
    convext::dgrad(y, w, bias, size of x, stride, pad, dilation, groups, kernel) -> x
    convext::wgrad(x, y, None, size of w, stride, pad, dilation, groups, kernel) -> w

and both gradients of an fprop, which some kernels compute together for less than one after the other costs:

    convext::dgrad_wgrad(y, w, x, stride, pad, dilation, groups, kernel) -> x, w

and an fprop or dgrad with what follows it, `epilogue(result) + residual`, which some kernels do before they store it:

    convext::activated(face, x or y, w, bias, residual, size, .., kernel, activation, scalars) -> y or x

and a depthwise fprop with what follows it, then a pointwise one of that with what follows it, which some kernels do
without storing what is between them:

    convext::separable(x, w, bias, v, second_bias, residual, size, .., kernel, first, .., second, ..) -> y

and parallel fprops of one x, concatenated along channels, which some kernels do in one call; `pad` and `dilation` are
the first branch's, then the second's, and so on:

    convext::branches(x, w[], bias[], size, stride, pad, dilation, groups, kernel) -> y

A WaveNet's block is one more, two convolutions with a gate between them:

    convext::gated(x, weight, bias, mix, mix_bias, total, dilation, kernel) -> x + z, total + z

`size` holds the spatial axes of the tensor that the face leaves open, `pad` the zeros before each axis, and
`kernel` what `convext.backend` takes.
"""

from __future__ import annotations

import torch

from convext.problem import FACES, OPERANDS

LIBRARY = torch.library.Library("convext", "FRAGMENT")
GEOMETRY = "SymInt[] size, SymInt[] stride, SymInt[] pad, SymInt[] dilation, SymInt groups, str kernel"
for _face in FACES:
    _first, _second = OPERANDS[_face]
    LIBRARY.define(f"{_face}(Tensor {_first}, Tensor {_second}, Tensor? bias, {GEOMETRY}) -> Tensor")
OPS = {face: getattr(torch.ops.convext, face).default for face in FACES}
LIBRARY.define(
    "dgrad_wgrad(Tensor y, Tensor w, Tensor x, SymInt[] stride, SymInt[] pad, SymInt[] dilation, SymInt groups, "
    "str kernel) -> (Tensor, Tensor)"
)
BOTH = torch.ops.convext.dgrad_wgrad.default
LIBRARY.define(
    f"activated(str face, Tensor a, Tensor b, Tensor? bias, Tensor? residual, {GEOMETRY}, str activation, "
    "float[] scalars) -> Tensor"
)
ACTIVATED = torch.ops.convext.activated.default
LIBRARY.define(
    "separable(Tensor x, Tensor w, Tensor? bias, Tensor v, Tensor? second_bias, Tensor? residual, SymInt[] size, "
    "SymInt[] stride, SymInt[] pad, SymInt[] dilation, str kernel, str first, float[] first_scalars, str second, "
    "float[] second_scalars) -> Tensor"
)
SEPARABLE = torch.ops.convext.separable.default
LIBRARY.define(f"branches(Tensor x, Tensor[] w, Tensor?[] bias, {GEOMETRY}) -> Tensor")
BRANCHES = torch.ops.convext.branches.default
LIBRARY.define(
    "gated(Tensor x, Tensor weight, Tensor? bias, Tensor mix, Tensor? mix_bias, Tensor? total, SymInt dilation, "
    "str kernel) -> (Tensor, Tensor)"
)
GATED = torch.ops.convext.gated.default
