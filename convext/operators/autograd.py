"""The one derivative rule, and the two roads to a face: by the dispatcher, or past it.

Each face is linear in each operand, and its derivative by one operand is the face that leaves that operand open.
So one autograd rule serves all three, to any order, forward-mode included.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast

import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor
from torch._C._functorch import maybe_current_level
from torch._functorch.utils import enable_single_level_autograd_function
from torch.autograd.function import _SingleLevelFunction

from convext.operators.forward import Call, Gradients, Run, compute, compute_gradients, run_of_all
from convext.operators.placed import PLACED
from convext.operators.plain import is_plain, is_plain_state
from convext.operators.schema import BOTH, LIBRARY, OPS
from convext.problem import FACE_OPENING, FACES, OPEN, OPERANDS, Face, Ints, open_shape


class Below:
    """Calls an operator below autograd, with gradient modes as they were where autograd was entered.

    An autograd function runs with both modes off. The next level of torch.func's transforms would take its operands
    for constants, and derivatives of derivatives would vanish.
    """

    def __init__(self, keyset: Any) -> None:
        self._keyset = keyset & torch._C._after_autograd_keyset
        self._modes = torch.is_grad_enabled(), torch._C._is_fwd_grad_enabled()

    def __call__(self, op: Any, *arguments: Any) -> Any:
        reverse, forward = self._modes
        with (
            torch.set_grad_enabled(reverse),
            forward_ad._set_fwd_grad_enabled(forward),
            torch._C._AutoDispatchBelowAutograd(),
        ):
            return op.redispatch(self._keyset, *arguments)


class _Face(_SingleLevelFunction):
    """The one derivative rule: by an operand, the face that leaves that operand open; by bias, a sum.

    It sits on the dispatcher's Autograd key and serves one level of differentiation at a time, so torch.func's
    transforms nest around it as around torch's own operators. (`torch.library.register_autograd` refuses them, and
    drops forward-mode tangents without a word.)
    """

    apply: Callable[..., Tensor]
    _compiled_autograd_key = staticmethod(torch.autograd.Function._compiled_autograd_key)  # type: ignore[attr-defined]

    @staticmethod
    def forward(
        ctx: Any, run: Run, face: Face, a: Tensor, b: Tensor, bias: Tensor | None, geometry: tuple[Any, ...]
    ) -> Tensor:
        ctx.face, ctx.geometry, ctx.shapes = face, geometry, (a.shape, b.shape)
        _, _, by_a, by_b, _, _ = ctx.needs_input_grad
        ctx.set_materialize_grads(False)  # an operand without a tangent has none: zeros would be convolved
        ctx.save_for_backward(a if by_b else None, b if by_a else None)
        if forward_mode():
            ctx.save_for_forward(a, b)
        return run(a, b, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, ...]:
        if grad is None:
            return (None,) * 6
        a, b = ctx.saved_tensors
        grads = by_operands(ctx.face, grad, a, b, ctx.shapes, ctx.geometry, ctx.needs_input_grad[2:5])
        return (None, None, *grads, None)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        """The tangent of the result. Autograd has turned forward mode off here, for the levels below as well, whose
        tangents would vanish: it is turned on again, and this level's are kept out by taking primals."""
        _, _, da, db, dbias, _ = tangents
        with forward_ad._set_fwd_grad_enabled(True):
            a, b = (torch._VF._unpack_dual(t, level=0)[0] for t in ctx.saved_tensors)  # type: ignore[attr-defined]
            terms = [
                convolve(ctx.face, first, second, None, *ctx.geometry)
                for first, second in ((da, b), (a, db))
                if first is not None and second is not None
            ]
            if dbias is not None:
                shape = open_shape(ctx.face, a.shape, b.shape, ctx.geometry[0], ctx.geometry[4])
                terms.append(dbias.view(-1, *[1] * (a.dim() - 2)).expand(shape))
            return sum(terms[1:], terms[0])


def by_operands(
    face: Face, grad: Tensor, a: Tensor | None, b: Tensor | None,
    shapes: tuple[Ints, Ints], geometry: tuple[Any, ...], needs: Sequence[bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:  # fmt: skip
    """The gradients by a face's operands, of these shapes, and by its bias, as far as they are needed.

    Given `grad`, that by its result; an operand whose other's gradient is not needed may be None.
    """
    _, stride, pad, dilation, groups, kernel = geometry
    tail = stride, pad, dilation, groups, kernel
    if face == "fprop" and needs[0] and needs[1]:
        return _gradients(grad, cast(Tensor, b), cast(Tensor, a), *tail, biased=needs[2])
    if face == "dgrad" and needs[0] and needs[1] and is_plain(grad, a, b) and not reverse_mode(grad, a, b):
        return compute_gradients(face, grad, cast(Tensor, b), cast(Tensor, a), *tail, biased=needs[2])
    roles = OPERANDS[face]
    tensors: dict[str, Any] = {**dict(zip(roles, (a, b), strict=True)), OPEN[face]: grad}
    grads: list[Tensor | None] = [None, None]
    for i, role in enumerate(roles):
        if needs[i]:
            opening = FACE_OPENING[role]
            first, second = (tensors[r] for r in OPERANDS[opening])
            grads[i] = convolve(opening, first, second, None, shapes[i][2:], *tail)
    return grads[0], grads[1], _by_bias(grad) if needs[2] else None


def forward_mode() -> bool:
    """Whether an operand may carry a tangent. Under a compiler only torch.func's level says so, not `forward_ad`."""
    return forward_ad._current_level >= 0 or maybe_current_level() is not None


def reverse_mode(*tensors: Tensor | None) -> bool:
    """Whether a graph is being recorded for any of `tensors`."""
    if torch.is_grad_enabled():
        for t in tensors:  # not any(): a generator takes longer than all that it asks
            if t is not None and t.requires_grad:
                return True
    return False


def _autograd(face: Face, keyset: Any, a: Tensor, b: Tensor, bias: Tensor | None, *geometry: Any) -> Tensor:
    below = Below(keyset)

    def run(a: Tensor, b: Tensor, bias: Tensor | None) -> Tensor:
        return cast(Tensor, below(OPS[face], a, b, bias, *geometry))

    if forward_mode() or reverse_mode(a, b, bias):
        with enable_single_level_autograd_function():
            return _Face.apply(run, face, a, b, bias, geometry)
    return run(a, b, bias)


def _autograd_both(keyset: Any, y: Tensor, w: Tensor, x: Tensor, *tail: Any) -> tuple[Tensor, Tensor]:
    """Where a derivative of the derivatives is recorded, they are two faces again, each with its rule."""
    if forward_mode() or reverse_mode(y, w, x):
        return (
            _autograd("dgrad", keyset, y, w, None, x.shape[2:], *tail),
            _autograd("wgrad", keyset, x, y, None, w.shape[2:], *tail),
        )
    return cast("tuple[Tensor, Tensor]", Below(keyset)(BOTH, y, w, x, *tail))


for _face in FACES:
    LIBRARY.impl(_face, partial(_autograd, _face), "Autograd", with_keyset=True)
LIBRARY.impl("dgrad_wgrad", _autograd_both, "Autograd", with_keyset=True)


def convolve(
    face: Face, a: Tensor, b: Tensor, bias: Tensor | None,
    size: Ints, stride: Ints, pad: Ints, dilation: Ints, groups: int, kernel: str,
) -> Tensor:  # fmt: skip
    """`torch.ops.convext.<face>`, past the dispatcher where that makes no difference but time.

    Args:
        face: "fprop", "dgrad" or "wgrad".
        a, b: its operands: (x, w), (y, w) or (x, y). x [N, C, *I], w [K, C/groups, *k], y [N, K, *O]; one real
            dtype and device; any strides.
        bias: [channels of the result] or None; None for wgrad.
        size: spatial size of the result.
        stride, pad, dilation: one value an axis; `pad` is the zeros before it.
        groups: number of groups.
        kernel: what `convext.backend` takes.

    Returns:
        The tensor that the face leaves open, dense, channels last if `a` or `b` is.

    Raises:
        RuntimeError: the arguments describe no convolution.
        ValueError: `kernel` names one that does not take the problem.
    """
    geometry = (size, stride, pad, dilation, groups, kernel)
    if not is_plain(a, b, bias):
        if type(a) in PLACED and face != "wgrad":
            return PLACED[type(a)](face, a, b, bias, *geometry)
        return cast(Tensor, OPS[face](a, b, bias, *geometry))
    return again(Call(face, geometry, lambda a, b, bias: compute(face, a, b, bias, *geometry)), a, b, bias)


def again(call: Call, a: Tensor, b: Tensor, bias: Tensor | None) -> Tensor:
    """A call that goes past the dispatcher, recorded for its derivatives where they may be wanted."""
    if reverse_mode(a, b, bias):
        return _Face.apply(call.run, call.face, a, b, bias, call.geometry)
    return call.run(a, b, bias)


def gradients(
    y: Tensor, w: Tensor, x: Tensor, stride: Ints, pad: Ints, dilation: Ints, groups: int, kernel: str
) -> tuple[Tensor, Tensor]:
    """`torch.ops.convext.dgrad_wgrad`, past the dispatcher as `convolve` is: both gradients of an fprop.

    Args:
        y: the gradient by its result, [N, K, *O].
        w, x: its operands, [K, C/groups, *k] and [N, C, *I].
        stride, pad, dilation, groups, kernel: as for `convolve`.

    Returns:
        The gradients by x and by w, as "dgrad" and "wgrad" give them.

    Raises:
        RuntimeError, ValueError: as `convolve`.
    """
    return _gradients(y, w, x, stride, pad, dilation, groups, kernel, False)[:2]


def _gradients(
    y: Tensor, w: Tensor, x: Tensor, stride: Ints, pad: Ints, dilation: Ints, groups: int, kernel: str, biased: bool
) -> Gradients:
    """Both gradients, and that by the bias where it is wanted."""
    geometry = tuple(stride), tuple(pad), tuple(dilation), groups, kernel
    if is_plain_state() and not reverse_mode(y, w, x):
        run = run_of_all("fprop", y, w, x, geometry, biased)
        if run is not None:
            return run(y, w, x)
    if not is_plain(y, w, x):
        return *BOTH(y, w, x, *geometry), _by_bias(y) if biased else None
    if reverse_mode(y, w, x):
        by_x = convolve("dgrad", y, w, None, x.shape[2:], *geometry)
        by_w = convolve("wgrad", x, y, None, w.shape[2:], *geometry)
        return by_x, by_w, _by_bias(y) if biased else None
    return compute_gradients("fprop", y, w, x, *geometry, biased)


def _by_bias(y: Tensor) -> Tensor:
    """The gradient by a bias: the sum over all that it was added to."""
    return y.sum([0, *range(2, y.dim())])
