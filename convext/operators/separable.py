"""A depthwise convolution and a pointwise one of its result, in one pass where a kernel has that: all of the operator.

    convext::separable(x, w, bias, v, second_bias, residual, size, .., kernel, first, .., second, ..)
        = second(pointwise(first(depthwise(x, w) + bias), v) + second_bias) + residual

A kernel is one of `convext.choice.separable`; where none takes the call, it is two calls of `activated`, as it is where
a tangent may come along, and under vmap. Nothing of what is between the halves is kept for a backward pass: the
depthwise half is computed again.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, cast

import torch
from torch import Tensor

from convext.choice import remembered, together
from convext.choice import separable as records
from convext.operators import forward
from convext.operators.activated import activated, check_residual, mapped
from convext.operators.autograd import Below, by_operands, convolve, forward_mode, reverse_mode
from convext.operators.fake import fake
from convext.operators.forward import check_operands
from convext.operators.placed import PLACED
from convext.operators.plain import is_plain
from convext.operators.schema import LIBRARY, SEPARABLE
from convext.operators.vmap import as_torch_casts
from convext.problem import Ints, layout
from convext.problem.epilogue import Epilogue
from convext.problem.separable import SeparableProblem, must_be_pointwise, pointwise_geometry

_Tail = tuple[Ints, Ints, Ints, Ints, str, str, tuple[float, ...], str, tuple[float, ...]]


def _halves(channels: int, tail: Any) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """What `activated` takes after the residual, for each half. The name of a kernel of both is no half's."""
    size, stride, pad, dilation, kernel, first, first_scalars, second, second_scalars = tail
    kernel = "auto" if kernel in records.names() else kernel
    return (
        (size, stride, pad, dilation, channels, kernel, first, first_scalars),
        (*pointwise_geometry(tuple(size)), kernel, second, second_scalars),
    )


def composed(
    x: Tensor, w: Tensor, bias: Tensor | None, v: Tensor,
    second_bias: Tensor | None, residual: Tensor | None, *tail: Any,
) -> Tensor:  # fmt: skip
    """The same by `activated`, twice; arguments as those of `separable`."""
    must_be_pointwise(v.shape)
    first, second = _halves(x.shape[1], tail)
    t = activated("fprop", x, w, bias, None, *first)
    return activated("fprop", t, v, second_bias, residual, *second)


# ---------------------------------------------------------------------------------------------------- forward, fake


@lru_cache(maxsize=8192)
def _chosen(
    kernel: str, first: Any, second: Any, *described: Any
) -> tuple[together.Kernel[SeparableProblem] | None, SeparableProblem]:
    problem = SeparableProblem.of(Epilogue(*first), Epilogue(*second), *described)
    return records.choose(problem, kernel), problem


remembered.FORGET.append(_chosen.cache_clear)


def _compute(
    x: Tensor, w: Tensor, bias: Tensor | None, v: Tensor,
    second_bias: Tensor | None, residual: Tensor | None, *tail: Any,
) -> Tensor:  # fmt: skip
    """Below autograd: every road ends here."""
    size, stride, pad, dilation, kernel, first, first_scalars, second, second_scalars = tail
    geometry = tuple(size), tuple(stride), tuple(pad), tuple(dilation)
    check_operands("fprop", x, w, bias, x.shape[1])
    check_operands("fprop", x, v, second_bias, 1)
    between = layout.is_channels_last(x) or layout.is_channels_last(w)
    formats = between, between or layout.is_channels_last(v)
    chosen, problem = _chosen(
        kernel, (first, tuple(first_scalars)), (second, tuple(second_scalars)), residual is not None,
        x.shape, w.shape, v.shape, *geometry, x.dtype, formats, forward.machine(x),
    )  # fmt: skip
    if chosen is None:
        return composed(x, w, bias, v, second_bias, residual, *tail)
    if residual is not None:
        check_residual("fprop", problem.depthwise.open_shape, v.shape, residual, x, geometry[0], 1)
    return chosen.run(problem, x, w, bias, v, second_bias, residual)


def _fake(
    x: Tensor, w: Tensor, bias: Tensor | None, v: Tensor,
    second_bias: Tensor | None, residual: Tensor | None, *tail: Any,
) -> Tensor:  # fmt: skip
    must_be_pointwise(v.shape)
    (*first, name, scalars), (*second, second_name, second_scalars) = _halves(x.shape[1], tail)
    for activation in ((name, scalars), (second_name, second_scalars)):
        Epilogue(activation[0], tuple(activation[1]))
    t = fake("fprop", x, w, bias, *first)
    if residual is not None:
        check_residual("fprop", t.shape, v.shape, residual, x, second[0], 1)
    return fake("fprop", t, v, second_bias, *second)


LIBRARY.impl("separable", _compute, "CompositeExplicitAutograd")
torch.library.register_fake("convext::separable", _fake, lib=LIBRARY)


# --------------------------------------------------------------------------------------------------------- autograd


class _Separable(torch.autograd.Function):
    """Keeps the operands alone."""

    @staticmethod
    def forward(
        ctx: Any, below: Below | None, x: Tensor, w: Tensor, bias: Tensor | None, v: Tensor,
        second_bias: Tensor | None, residual: Tensor | None, *tail: Any,
    ) -> Tensor:  # fmt: skip
        ctx.tail = tail
        if any(ctx.needs_input_grad[1:6]):
            ctx.save_for_backward(x, w, bias, v, second_bias)
        tensors = x, w, bias, v, second_bias, residual
        y = _compute(*tensors, *tail) if below is None else below(SEPARABLE, *tensors, *tail)
        return cast(Tensor, y)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        _, *needs, by_residual = ctx.needs_input_grad[:7]
        by: list[Tensor | None] = [None] * 5
        if any(needs):
            by = _gradients(grad, ctx.saved_tensors, ctx.tail, needs)
        return (None, *by, grad if by_residual else None, *[None] * len(ctx.tail))


def _gradients(grad: Tensor, operands: Any, tail: Any, needs: Sequence[bool]) -> list[Tensor | None]:
    """By x, w, bias, v and second_bias, as far as they are needed: the chain rule, in operators that have one too."""
    x, w, bias, v, second_bias = operands
    (*first, name, scalars), (*second, second_name, second_scalars) = _halves(x.shape[1], tail)
    before, after = Epilogue(name, tuple(scalars)), Epilogue(second_name, tuple(second_scalars))
    z = convolve("fprop", x, w, bias, *first)
    t = before(z)
    by_sum = after.gradient(grad, convolve("fprop", t, v, second_bias, *second))
    further = any(needs[:3])
    by_t, *by_second = by_operands("fprop", by_sum, t, v, (t.shape, v.shape), tuple(second), (further, *needs[3:]))
    if by_t is None:
        return [None, None, None, *by_second]
    by_z = before.gradient(by_t, z)
    return [*by_operands("fprop", by_z, x, w, (x.shape, w.shape), tuple(first), needs[:3]), *by_second]


def _autograd(keyset: Any, *arguments: Any) -> Tensor:
    if forward_mode():
        return composed(*arguments)
    below = Below(keyset)
    if reverse_mode(*arguments[:6]):
        return cast(Tensor, _Separable.apply(below, *arguments))  # type: ignore[no-untyped-call]
    return cast(Tensor, below(SEPARABLE, *arguments))


LIBRARY.impl("separable", _autograd, "Autograd", with_keyset=True)


def separable(
    x: Tensor, w: Tensor, bias: Tensor | None, v: Tensor, second_bias: Tensor | None, residual: Tensor | None,
    size: Ints, stride: Ints, pad: Ints, dilation: Ints, kernel: str,
    first: str, first_scalars: Sequence[float], second: str, second_scalars: Sequence[float],
) -> Tensor:  # fmt: skip
    """`torch.ops.convext.separable`, past the dispatcher where that makes no difference but time.

    Args:
        x: [N, C, *I], of one to three spatial axes; one real dtype and device for all tensors; any strides.
        w, bias: [M C, 1, *k] and None or [M C]: the depthwise half, of M filters a channel.
        v, second_bias: [K, M C, 1, ..] and None or [K]: the pointwise half.
        residual: [N, K, *O], any strides; added to the second activation. Or None.
        size, stride, pad, dilation: of the depthwise half, as for `convolve`.
        kernel: what `convext.backend` takes, or the name of a kernel of `convext.choice.separable`.
        first, first_scalars, second, second_scalars: an `Epilogue`'s name and numbers, for each half.

    Returns:
        second(pointwise(first(depthwise(x, w) + bias), v) + second_bias) + residual: [N, K, *O], dense, channels last
        if x, w or v is.

    Raises:
        RuntimeError: the arguments describe no such convolutions, or the residual does not fit.
        ValueError: `kernel` names one that does not take the problem, or there is no such activation.

    Source: Howard et al., arXiv 1704.04861, section 3.1.
    """
    tensors = x, w, bias, v, second_bias, residual
    tail: _Tail = (
        tuple(size), tuple(stride), tuple(pad), tuple(dilation), kernel,
        first, tuple(first_scalars), second, tuple(second_scalars),
    )  # fmt: skip
    if not is_plain(*tensors):
        run = composed if type(x) in PLACED else SEPARABLE
        return cast(Tensor, run(*tensors, *tail))
    if reverse_mode(*tensors):
        return cast(Tensor, _Separable.apply(None, *tensors, *tail))  # type: ignore[no-untyped-call]
    return _compute(*tensors, *tail)


# ------------------------------------------------------------------------------------------------------------- vmap


def _vmap(
    info: Any, in_dims: Any, x: Tensor, w: Tensor, bias: Tensor | None, v: Tensor,
    second_bias: Tensor | None, residual: Tensor | None, *tail: Any,
) -> tuple[Tensor, int]:  # fmt: skip
    """Half by half. The first may have nothing that is mapped."""
    of_x, of_w, of_bias, of_v, of_second, of_residual = in_dims[:6]
    channels = x.shape[1] if of_x is None else x.movedim(of_x, 0).shape[2]
    first, second = _halves(channels, tail)
    at: int | None = None
    if of_x is of_w is of_bias is None:
        t = activated("fprop", x, w, bias, None, *first)
    else:
        t, at = mapped(info, (None, of_x, of_w, of_bias, None), "fprop", x, w, bias, None, *first)
    return mapped(info, (None, at, of_v, of_second, of_residual), "fprop", t, v, second_bias, residual, *second)


torch.library.register_vmap("convext::separable", as_torch_casts(_vmap), lib=LIBRARY)
