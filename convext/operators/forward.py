"""A face is computed: operands are checked, a kernel is chosen once for each problem, and runs. Below autograd.

What computes it is remembered by how its operands lie, its geometry and the settings (`keys`): no operand is checked
twice, no kernel chosen twice, and the launches of our kernels are bound to all but their tensors
(`convext.replay`).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, NoReturn

import torch
from torch import Tensor

from convext.choice import registry, remembered, settings
from convext.operators.keys import key_of, remember
from convext.operators.schema import LIBRARY
from convext.problem import FACES, OPERANDS, ConvProblem, Face, Ints, layout
from convext.replay.tape import record

Run = Callable[[Tensor, Tensor, "Tensor | None"], Tensor]
Gradients = tuple[Tensor, Tensor, "Tensor | None"]


class Call(NamedTuple):
    """A face, its geometry from the size of its result to the kernel's name, and what computes it below autograd."""

    face: Face
    geometry: tuple[Any, ...]
    run: Run


RunAll = Callable[[Tensor, Tensor, Tensor], Gradients]
ByBias = Callable[[Tensor], Tensor]

_runs: dict[Any, Run] = {}
_runs_of_all: dict[Any, RunAll] = {}
remembered.FORGET.extend((_runs.clear, _runs_of_all.clear))


def compute(
    face: Face, a: Tensor, b: Tensor, bias: Tensor | None,
    size: Ints, stride: Ints, pad: Ints, dilation: Ints, groups: int, kernel: str,
) -> Tensor:  # fmt: skip
    """Runs a face, below autograd. Every path of every face ends here, or where this was before."""
    geometry = tuple(size), tuple(stride), tuple(pad), tuple(dilation), groups, kernel
    run = run_of(face, a, b, bias, geometry)
    if run is not None:
        return run(a, b, bias)
    result, run = _first(face, a, b, bias, *geometry)
    remember(_runs, key_of(a, b, bias, face, geometry), run)
    return result


def run_of(face: Face, a: Tensor, b: Tensor, bias: Tensor | None, geometry: tuple[Any, ...]) -> Run | None:
    """What computes a face, where one whose operands lie alike was computed before."""
    return _runs.get(key_of(a, b, bias, face, geometry))


def _first(face: Face, a: Tensor, b: Tensor, bias: Tensor | None, *geometry: Any) -> tuple[Tensor, Run]:
    """What a face comes to, and what computes it from now on."""
    check_operands(face, a, b, bias, geometry[4])
    problem = problem_of(face, a, b, layout.is_channels_last(a) or layout.is_channels_last(b), *geometry[:5])
    kernel = registry.choose(problem, geometry[5])
    return recorded(kernel.repeats, partial(kernel.run, problem), a, b, bias)


def recorded(repeats: bool, run: Callable[..., Any], *operands: Tensor | None) -> tuple[Any, Any]:
    """What a run comes to, and what does it again: where it `repeats`, and can be written down, its launches."""
    if not repeats:
        return run(*operands), run
    result, replay = record(run, *operands)
    return result, replay or run


def problem_of(
    face: Face, a: Tensor, b: Tensor, last: bool, size: Ints, stride: Ints, pad: Ints, dilation: Ints, groups: int
) -> ConvProblem:
    geometry = size, stride, pad, dilation, groups
    return ConvProblem.of(face, a.shape, b.shape, *geometry, a.dtype, last, *machine(a))


def machine(t: Tensor) -> tuple[str, int, str]:
    """`device`, `arch` and `precision` of a problem with operands like `t`."""
    device = t.device
    if device.type != "cuda":
        return device.type, 0, "ieee"
    return "cuda", registry.arch(device), settings.fp32_precision() if t.dtype is torch.float32 else "ieee"


def check_operands(face: Face, a: Tensor, b: Tensor, bias: Tensor | None, groups: int) -> None:
    """Raises RuntimeError where operands differ in dtype or device, or bias does not fit: in torch's words."""
    if b.dtype != a.dtype or b.device != a.device:
        _refuse_unlike(face, OPERANDS[face][1], a, b)
    if bias is None:
        return
    if bias.dtype != a.dtype or bias.device != a.device:
        _refuse_unlike(face, "bias", a, bias)
    channels = b.shape[0] if face == "fprop" else b.shape[1] * groups if face == "dgrad" else 0
    if bias.dim() != 1 or bias.shape[0] != channels:
        raise RuntimeError(
            f"{face}: given weight of size {list(b.shape)}, expected bias to be 1-dimensional with {channels} "
            f"elements, but got bias of size {list(bias.shape)} instead"
        )


def _refuse_unlike(face: str, name: str, a: Tensor, t: Tensor) -> NoReturn:
    if t.dtype != a.dtype:
        raise RuntimeError(f"{face}: input type ({a.dtype}) and {name} type ({t.dtype}) should be the same")
    raise RuntimeError(f"{face}: expected all tensors on one device, but got {a.device} and {name} on {t.device}")


def compute_gradients(
    face: Face, grad: Tensor, w: Tensor, other: Tensor,
    stride: Ints, pad: Ints, dilation: Ints, groups: int, kernel: str, biased: bool,
) -> Gradients:  # fmt: skip
    """The gradients by `other` and by w, the operands of an fprop or dgrad, and where `biased` by its bias, else None.

    Given `grad`, that by its result. Below autograd.
    """
    geometry = tuple(stride), tuple(pad), tuple(dilation), groups, kernel
    run = run_of_all(face, grad, w, other, geometry, biased)
    if run is not None:
        return run(grad, w, other)
    result, run = _first_of_all(face, grad, w, other, biased, *geometry)
    remember(_runs_of_all, key_of(grad, w, other, face, geometry, biased), run)
    return result


def run_of_all(
    face: Face, grad: Tensor, w: Tensor, other: Tensor, geometry: tuple[Any, ...], biased: bool
) -> RunAll | None:
    """What computes all gradients, where those of operands that lie alike were computed before."""
    return _runs_of_all.get(key_of(grad, w, other, face, geometry, biased))


def _first_of_all(
    face: Face, grad: Tensor, w: Tensor, other: Tensor, biased: bool, *geometry: Any
) -> tuple[Gradients, RunAll]:
    """All gradients by a kernel that has both together, else by one of each face."""
    for name, t in (("w", w), (OPERANDS[face][0], other)):
        if t.dtype != grad.dtype or t.device != grad.device:
            _refuse_unlike("dgrad_wgrad", name, grad, t)
    back: Face = "dgrad" if face == "fprop" else "fprop"
    last = layout.is_channels_last(grad)
    wgrad_last = last or layout.is_channels_last(other)
    pair = _of_wgrad(face, grad, other)
    by_other = problem_of(back, grad, w, last or layout.is_channels_last(w), other.shape[2:], *geometry[:4])
    wgrad = problem_of("wgrad", *pair, wgrad_last, w.shape[2:], *geometry[:4])
    both = registry.choose_both(by_other, wgrad, geometry[4]) if face == "fprop" else None
    kernels = [registry.choose(problem, geometry[4]) for problem in (by_other, wgrad)]
    repeats = all(kernel.repeats for kernel in kernels)
    by_bias = partial(kernels[1].bias_gradient, wgrad) if biased else None
    run: RunAll
    if both is not None:
        run = partial(_together, both.run, by_other, wgrad_last, by_bias)
    elif repeats and kernels[0].provider == kernels[1].provider:
        run = partial(_apart, face, partial(kernels[0].run, by_other), partial(kernels[1].run, wgrad), by_bias)
    else:  # what repeats is written down alone
        first, back_run = _first(back, grad, w, None, other.shape[2:], *geometry)
        by_w, wgrad_run = _first("wgrad", *pair, None, w.shape[2:], *geometry)
        return (first, by_w, by_bias(grad) if by_bias else None), partial(_apart, face, back_run, wgrad_run, by_bias)
    return recorded(repeats, run, grad, w, other)


def _of_wgrad(face: Face, grad: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """x and y, of which one is an operand of the face and the other the gradient by its result."""
    return (other, grad) if face == "fprop" else (grad, other)


def _together(
    run: registry.RunBoth, dgrad: ConvProblem, wgrad_last: bool, by_bias: ByBias | None,
    y: Tensor, w: Tensor, x: Tensor,
) -> Gradients:  # fmt: skip
    by_x, by_w = run(dgrad, y, w, x)
    return by_x, layout.dense(by_w, wgrad_last), by_bias(y) if by_bias else None


def _apart(
    face: Face, back: Run, wgrad: Run, by_bias: ByBias | None, grad: Tensor, w: Tensor, other: Tensor
) -> Gradients:
    by_w = wgrad(*_of_wgrad(face, grad, other), None)
    return back(grad, w, None), by_w, by_bias(grad) if by_bias else None


def _compute_both(
    y: Tensor, w: Tensor, x: Tensor, stride: Ints, pad: Ints, dilation: Ints, groups: int, kernel: str
) -> tuple[Tensor, Tensor]:
    return compute_gradients("fprop", y, w, x, stride, pad, dilation, groups, kernel, biased=False)[:2]


for _face in FACES:
    LIBRARY.impl(_face, partial(compute, _face), "CompositeExplicitAutograd")
LIBRARY.impl("dgrad_wgrad", _compute_both, "CompositeExplicitAutograd")
