"""Pointwise convolution: one tap, so a matrix product over channels, at every pixel.

    fprop   y[k, q] = sum over c of  w[k, c] * x[c, q] + bias[k]
    dgrad   x[c, q] = sum over k of  w[k, c] * y[k, q] + bias[c]        q: the pixels of all images
    wgrad   w[k, c] = sum over q of  y[k, q] * x[c, q]

What one block computes stands in `image.py` (fprop, dgrad) and `weight.py` (wgrad).

The same kernel reads NCHW and NHWC where they lie: the loads run along whichever axis has stride 1. With one tap, a
stride and a padding are a choice of pixels, i = o * stride - pad, and that is a view: no kernel sees them.
"""

from __future__ import annotations

import math

from torch import Tensor

from convext.problem import ConvProblem, layout
from convext.problem.epilogue import Epilogue
from convext.triton_kernels.ending import NOTHING, Ending, ending
from convext.triton_kernels.passes.reduce import add_in_order
from convext.triton_kernels.pointwise.launch import channels_launch, pixels_launch
from convext.triton_kernels.pointwise.tiles import DTYPES


def why_not(problem: ConvProblem) -> str | None:
    """None for one tap and groups of at least 16 channels, else one sentence."""
    p = problem
    if p.taps != 1:
        return f"the kernel {p.kernel} has {p.taps} taps, not one"
    fewest = min(p.c, p.k) // p.groups
    if p.groups > 1 and fewest < 16:
        return f"{fewest} channels in each of {p.groups} groups, and a tile takes at least 16 of one group"
    if p.dtype not in DTYPES:
        return f"{p.dtype} is none of {', '.join(str(d) for d in DTYPES)}"
    if p.device == "cuda" and p.arch < 80:
        return f"compute capability {p.arch / 10}, and its tiles are for 8.0 and newer"
    pixels = p.n * max(math.prod(p.input), math.prod(p.output))
    if pixels >= 2**31:
        return f"{pixels:,} pixels, and they are counted in 32 bits"
    return None


def copies(problem: ConvProblem) -> list[str]:
    """None: operands are read where they lie."""
    return []


def run(problem: ConvProblem, a: Tensor, b: Tensor, bias: Tensor | None) -> Tensor:
    """Computes the open tensor of `problem` from its operands `a` and `b`, plus `bias`."""
    if problem.face != "wgrad":
        return _multiplied(problem, a, b, bias, NOTHING)
    result = layout.empty(problem.open_shape, problem.channels_last, a)
    _sum_over_pixels(problem, *_paired(problem, a, b), result)
    return result


def run_activated(
    problem: ConvProblem, epilogue: Epilogue, a: Tensor, b: Tensor, bias: Tensor | None, residual: Tensor | None
) -> Tensor:
    """`epilogue(run(problem, a, b, bias)) + residual` of an fprop or dgrad, at its store."""
    return _multiplied(problem, a, b, bias, ending(problem, epilogue, residual))


def _multiplied(problem: ConvProblem, a: Tensor, b: Tensor, bias: Tensor | None, after: Ending) -> Tensor:
    result = layout.empty(problem.open_shape, problem.channels_last, a)

    def paired(result: Tensor) -> tuple[Tensor, Tensor]:
        """What is read and what is written."""
        return _paired(problem, a, result) if problem.face == "fprop" else _paired(problem, result, a)[::-1]

    source, target = paired(result)
    if target.shape != result.shape or source.numel() == 0:
        _fill(result, bias)
        if after is not NOTHING:
            after.applied(result)
    if target.numel() > 0 and source.numel() > 0:
        residual = None if after.residual is None else paired(after.residual)[1]
        channels_launch(problem, source, b, bias, target, after=after._replace(residual=residual))()
    return result


def _paired(p: ConvProblem, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Views of the pixels i of x and o of y that the tap pairs, `i = o * stride - pad`: the same number of each."""
    if all(s == 1 for s in p.stride) and not any(p.pad) and p.input == p.output:
        return x, y
    inputs: list[slice] = [slice(None), slice(None)]  # all images and channels
    outputs: list[slice] = [slice(None), slice(None)]
    for size, count, s, pad in zip(p.input, p.output, p.stride, p.pad, strict=True):
        first = min(-(-pad // s), count)
        last = max(min((size - 1 + pad) // s + 1, count), first)
        outputs.append(slice(first, last))
        inputs.append(slice(first * s - pad, (last - 1) * s - pad + 1, s) if last > first else slice(0, 0))
    return x[tuple(inputs)], y[tuple(outputs)]


def _fill(result: Tensor, bias: Tensor | None) -> None:
    """What pixels that the tap pairs with nothing hold: a sum over no terms, plus bias."""
    if bias is None:
        result.zero_()
    else:
        result.copy_(bias.view(-1, *[1] * (result.dim() - 2)).expand_as(result))


def _sum_over_pixels(problem: ConvProblem, x: Tensor, y: Tensor, w: Tensor) -> None:
    """`w[k, c] = sum over q of y[k, q] * x[c, q]`, in each group."""
    if w.numel() == 0:
        return
    if x.numel() == 0:
        w.zero_()
        return
    launch, partial = pixels_launch(problem, x, y, w)
    launch()
    if partial is not None:
        add_in_order(partial, w)
