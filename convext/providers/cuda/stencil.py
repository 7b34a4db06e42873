"""cuda.stencil: depthwise convolutions in CUDA C++ (csrc/stencil/stencil.cu), all three faces, in 1-D, 2-D and 3-D.

The kernels read operands of any strides where they lie, and write the result in its memory format. The common taps are
compiled in; every other problem takes a general path, one result a thread. With compiled taps, dgrad and wgrad can be
had at once, which reads the output's gradient once instead of twice.
"""

from __future__ import annotations

import torch
from torch import Tensor

from convext.problem import ConvProblem, layout
from convext.problem.epilogue import Epilogue
from convext.providers.cuda.launches import NOTHING, Launch, ending

DTYPES = (torch.float32, torch.float16, torch.bfloat16)

# Taps of depth, height and width, stride and dilation that are compiled in: `CompiledTaps` of csrc/stencil/launch.cuh.
COMPILED = {
    (1, 3, 3, 1, 1), (1, 3, 3, 2, 1), (1, 3, 3, 1, 2), (1, 5, 5, 1, 1), (1, 7, 7, 1, 1),
    (3, 3, 3, 1, 1),
    (1, 1, 3, 1, 1), (1, 1, 4, 1, 1), (1, 1, 5, 1, 1),
}  # fmt: skip


def why_not(problem: ConvProblem) -> str | None:
    """Depthwise, float32, float16 or bfloat16, with elements."""
    if problem.groups != problem.c:
        return f"is depthwise: groups must be the channels of x, {problem.c}, but got groups={problem.groups}"
    if problem.dtype not in DTYPES:
        return f"computes float32, float16 and bfloat16, not {problem.dtype}"
    if problem.rank > 3:
        return f"has up to 3 spatial axes, but the problem has {problem.rank}"
    if problem.empty:
        return "a tensor of the problem has no elements"
    return None


def copies(problem: ConvProblem) -> list[str]:
    """None: operands are read where they lie."""
    return []


def run(problem: ConvProblem, a: Tensor, b: Tensor, bias: Tensor | None) -> Tensor:
    """Computes the open tensor of `problem` from its operands `a` and `b`, plus `bias`."""
    return run_activated(problem, NOTHING, a, b, bias, None)


def run_activated(
    problem: ConvProblem, epilogue: Epilogue, a: Tensor, b: Tensor, bias: Tensor | None, residual: Tensor | None
) -> Tensor:
    """The same with `epilogue`, and `residual` added, where the result is stored. A residual that lies otherwise than
    the result is copied."""
    p, result = problem, layout.empty(problem.open_shape, problem.channels_last, a)
    if bias is not None:
        bias = bias.contiguous()
    if residual is not None:
        residual = layout.dense(residual, p.channels_last)
    geometry = p.stride, p.pad, p.dilation, p.groups, *ending(epilogue)
    Launch("stencil", (p.face,), (a, b, bias, residual, result), geometry)()
    return result


def why_not_both(problem: ConvProblem) -> str | None:
    """One output a channel, and taps that are compiled in: dgrad `problem` and its wgrad in one kernel."""
    if reason := why_not(problem):
        return reason
    if problem.k != problem.c:
        return f"has both gradients in one kernel for one output a channel, but got c={problem.c}, k={problem.k}"
    if not _is_compiled(problem):
        return (
            "has both gradients in one kernel for its compiled taps, but got "
            f"kernel={problem.kernel}, stride={problem.stride}, dilation={problem.dilation}"
        )
    return None


def _is_compiled(problem: ConvProblem) -> bool:
    """Height and width share a stride and a dilation, which mean nothing along an absent axis; depth's are free."""
    absent = 3 - problem.rank
    kernel = (1,) * absent + problem.kernel
    stride, dilation = ((v[-1],) * absent + v for v in (problem.stride, problem.dilation))
    steps = {d for k, d in zip(kernel[1:], dilation[1:], strict=True) if k > 1}
    return len({*stride[1:]}) == 1 and len(steps) == 1 and (*kernel, stride[2], *steps) in COMPILED


def run_both(problem: ConvProblem, y: Tensor, w: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Both gradients of an fprop, in one kernel.

    Args:
        problem: the dgrad.
        y: gradient of the output, of `problem.y_shape`.
        w, x: operands of the fprop, of `problem.w_shape` and `problem.x_shape`.

    Returns:
        The gradient of x, in the memory format of `problem`, and that of w, contiguous.
    """
    p, dx, dw = problem, layout.empty(problem.x_shape, problem.channels_last, y), layout.empty(w.shape, False, y)
    Launch("stencil_backward", (), (y, w, x, dx, dw), (p.stride, p.pad, p.dilation, p.groups))()
    return dx, dw
