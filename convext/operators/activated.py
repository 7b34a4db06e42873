"""A convolution with what follows it, in one pass where its kernel has that: forward, fake, autograd, vmap.

    convext::activated(face, a, b, bias, residual, size, .., kernel, activation, scalars)
        = epilogue(fprop or dgrad of a and b, + bias) + residual

The kernel is the one that computes the face. What it cannot do before it stores a result, torch's operators do after
that, in place. Derivatives need the activation's argument: it is computed again, where they cannot take it from the
result, which the next layer keeps anyway. Where a tangent may come along, and under vmap, `composed` is what runs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any, cast

import torch
from torch import Tensor

from convext.choice import registry, remembered
from convext.operators.autograd import Below, by_operands, convolve, forward_mode, reverse_mode
from convext.operators.fake import fake
from convext.operators.forward import check_operands, problem_of, recorded
from convext.operators.keys import key_of, lies, remember
from convext.operators.placed import PLACED
from convext.operators.plain import is_plain
from convext.operators.schema import ACTIVATED, LIBRARY
from convext.operators.vmap import as_torch_casts, face_rule
from convext.problem import Face, Ints, layout, open_shape
from convext.problem.epilogue import Epilogue

_Run = Callable[[Tensor, Tensor, "Tensor | None", "Tensor | None"], Tensor]
_runs: dict[Any, _Run] = {}
remembered.FORGET.append(_runs.clear)


@lru_cache
def _epilogue(activation: str, scalars: tuple[float, ...]) -> Epilogue:
    return Epilogue(activation, scalars)


def composed(face: Face, a: Tensor, b: Tensor, bias: Tensor | None, residual: Tensor | None, *tail: Any) -> Tensor:
    """The same by the face's own operator and torch's; arguments as those of `activated`."""
    *geometry, activation, scalars = tail
    y = _epilogue(activation, tuple(scalars))(convolve(face, a, b, bias, *geometry))  # type: ignore[arg-type]
    return y if residual is None else y + residual


# ---------------------------------------------------------------------------------------------------- forward, fake


def _compute(face: Face, a: Tensor, b: Tensor, bias: Tensor | None, residual: Tensor | None, *tail: Any) -> Tensor:
    """Below autograd: every road ends here."""
    size, stride, pad, dilation, groups, kernel, activation, scalars = tail
    geometry = tuple(size), tuple(stride), tuple(pad), tuple(dilation), groups, kernel
    itself = residual is a  # as of x + f(conv(x))
    of_residual = () if residual is None or itself else lies(residual)
    key = key_of(a, b, bias, face, geometry, activation, tuple(scalars), itself, of_residual)
    if of_residual is None:  # which may lie anywhere
        key = None
    run = _runs.get(key)
    if run is not None:
        return run(a, b, bias, residual)
    if residual is not None:
        check_residual(face, a.shape, b.shape, residual, a, size, groups)
    check_operands(face, a, b, bias, groups)
    result, run = _first(face, a, b, bias, residual, geometry, _epilogue(activation, tuple(scalars)))
    remember(_runs, key, run)
    return result


def _first(
    face: Face, a: Tensor, b: Tensor, bias: Tensor | None, residual: Tensor | None,
    geometry: tuple[Any, ...], epilogue: Epilogue,
) -> tuple[Tensor, _Run]:  # fmt: skip
    """What a call comes to, and what computes it from now on: the launches, where they can be written down."""
    problem = problem_of(face, a, b, layout.is_channels_last(a) or layout.is_channels_last(b), *geometry[:5])
    kernel = registry.choose(problem, geometry[5])
    run: _Run
    if kernel.activated is None:
        z, convolution = recorded(kernel.repeats, partial(kernel.run, problem), a, b, bias)
        run = partial(_one_after_the_other, convolution, epilogue)
        return _finished(z, epilogue, residual), run
    run = partial(kernel.activated, problem, epilogue)
    if residual is not a:
        return recorded(kernel.repeats, run, a, b, bias, residual)
    result, of_three = recorded(kernel.repeats, partial(_plus_itself, run), a, b, bias)
    return result, partial(_of_three, of_three)


def _plus_itself(run: _Run, a: Tensor, b: Tensor, bias: Tensor | None) -> Tensor:
    return run(a, b, bias, a)


def _of_three(run: Any, a: Tensor, b: Tensor, bias: Tensor | None, residual: Tensor) -> Tensor:
    """Where the residual is `a`, which a tape knows as that."""
    return cast(Tensor, run(a, b, bias))


def _one_after_the_other(
    run: Any, epilogue: Epilogue, a: Tensor, b: Tensor, bias: Tensor | None, residual: Tensor | None
) -> Tensor:
    return _finished(run(a, b, bias), epilogue, residual)


def _finished(z: Tensor, epilogue: Epilogue, residual: Tensor | None) -> Tensor:
    """By torch's operators, written over `z`."""
    y = epilogue.in_place(z)
    return y if residual is None else y.add_(residual)


def check_residual(face: Face, a: Ints, b: Ints, residual: Tensor, like: Tensor, size: Ints, groups: int) -> None:
    """Raises RuntimeError where it has not the shape of what comes of operands of shapes `a` and `b`, as `like` is."""
    shape = open_shape(face, a, b, size, groups)
    if residual.shape != shape or residual.dtype != like.dtype or residual.device != like.device:
        raise RuntimeError(
            f"{face}: expected a residual of the result's shape {list(shape)}, {like.dtype} on {like.device}, "
            f"but got {list(residual.shape)}, {residual.dtype} on {residual.device}"
        )


def _fake(face: Face, a: Tensor, b: Tensor, bias: Tensor | None, residual: Tensor | None, *tail: Any) -> Tensor:
    *geometry, activation, scalars = tail
    _epilogue(activation, tuple(scalars))
    if residual is not None:
        check_residual(face, a.shape, b.shape, residual, a, geometry[0], geometry[4])
    return fake(face, a, b, bias, *geometry)


LIBRARY.impl("activated", _compute, "CompositeExplicitAutograd")
torch.library.register_fake("convext::activated", _fake, lib=LIBRARY)


# --------------------------------------------------------------------------------------------------------- autograd


class _Activated(torch.autograd.Function):
    """Keeps the operands, and the result where the derivative is a function of it."""

    @staticmethod
    def forward(
        ctx: Any, below: Below | None, face: Face, a: Tensor, b: Tensor, bias: Tensor | None,
        residual: Tensor | None, *tail: Any,
    ) -> Tensor:  # fmt: skip
        *geometry, activation, scalars = tail
        ctx.face, ctx.geometry, ctx.epilogue = face, tuple(geometry), _epilogue(activation, tuple(scalars))
        ctx.shapes = a.shape, b.shape
        y = _compute(face, a, b, bias, residual, *tail) if below is None else below(
            ACTIVATED, face, a, b, bias, residual, *tail
        )  # fmt: skip
        _, _, by_a, by_b, by_bias, _, *_ = ctx.needs_input_grad
        if residual is None and ctx.epilogue.derives_from_result:
            ctx.save_for_backward(a if by_b else None, b if by_a else None, None, y)
        elif by_a or by_b or by_bias:
            ctx.save_for_backward(a, b, bias, None)
        return cast(Tensor, y)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        needs, by_residual = ctx.needs_input_grad[2:5], grad if ctx.needs_input_grad[5] else None
        by: tuple[Tensor | None, ...] = (None, None, None)
        if any(needs):
            a, b, bias, y = ctx.saved_tensors
            z = convolve(ctx.face, a, b, bias, *ctx.geometry) if y is None else y
            by = by_operands(ctx.face, ctx.epilogue.gradient(grad, z), a, b, ctx.shapes, ctx.geometry, needs)
        return (None, None, *by, by_residual, *[None] * 8)


def _autograd(keyset: Any, face: Face, *arguments: Any) -> Tensor:
    if forward_mode():
        return composed(face, *arguments)
    below = Below(keyset)
    if reverse_mode(*arguments[:4]):
        return cast(Tensor, _Activated.apply(below, face, *arguments))  # type: ignore[no-untyped-call]
    return cast(Tensor, below(ACTIVATED, face, *arguments))


LIBRARY.impl("activated", _autograd, "Autograd", with_keyset=True)


def activated(
    face: Face, a: Tensor, b: Tensor, bias: Tensor | None, residual: Tensor | None,
    size: Ints, stride: Ints, pad: Ints, dilation: Ints, groups: int, kernel: str,
    activation: str, scalars: Sequence[float] = (),
) -> Tensor:  # fmt: skip
    """`torch.ops.convext.activated`, past the dispatcher where that makes no difference but time.

    Args:
        face: "fprop" or "dgrad".
        a, b, bias: (x, w) or (y, w), and None or one value for each channel of the result: as for `convolve`.
        residual: of the result's shape, dtype and device, any strides; added to the activation. Or None.
        size, stride, pad, dilation, groups, kernel: as for `convolve`.
        activation, scalars: an `Epilogue`'s name and numbers.

    Returns:
        epilogue(face + bias) + residual, dense, channels last if `a` or `b` is.

    Raises:
        RuntimeError: the arguments describe no convolution, or the residual does not fit.
        ValueError: `kernel` names one that does not take the problem, or there is no such activation.
    """
    tail = tuple(size), tuple(stride), tuple(pad), tuple(dilation), groups, kernel, activation, tuple(scalars)
    if not is_plain(a, b, bias, residual):
        run = composed if type(a) in PLACED else ACTIVATED
        return cast(Tensor, run(face, a, b, bias, residual, *tail))
    if reverse_mode(a, b, bias, residual):
        return cast(Tensor, _Activated.apply(None, face, a, b, bias, residual, *tail))  # type: ignore[no-untyped-call]
    return _compute(face, a, b, bias, residual, *tail)


# ------------------------------------------------------------------------------------------------------------- vmap


def mapped(
    info: Any, in_dims: Any, face: Face, a: Tensor, b: Tensor, bias: Tensor | None, residual: Tensor | None, *tail: Any
) -> tuple[Tensor, int]:
    """The face's own rule; what follows is element by element."""
    *geometry, activation, scalars = tail
    y, _ = face_rule(face, info, in_dims[1:4], a, b, bias, *geometry)  # type: ignore[arg-type]
    y = _epilogue(activation, tuple(scalars))(y)
    if residual is not None:
        y = y + (residual.unsqueeze(0) if in_dims[4] is None else residual.movedim(in_dims[4], 0))
    return y, 0


torch.library.register_vmap("convext::activated", as_torch_casts(mapped), lib=LIBRARY)
