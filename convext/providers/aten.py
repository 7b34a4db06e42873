"""The three faces by torch's own convolutions: the CPU path, and the answer where no kernel of ours takes a problem.

torch pads symmetrically. Where a problem's begin and end differ, x is padded (or cropped) by a copy, and the
convolution that follows has no padding:

    fprop   y = conv(pad(x), w)
    wgrad   w = wgrad(pad(x), y)
    dgrad   x = crop(full transposed convolution of y and w)
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import pad as constant_pad

from convext.problem import ConvProblem, Ints
from convext.problem.layout import dense, empty
from convext.providers import onednn


def why_not(problem: ConvProblem) -> str | None:
    """ATen takes every problem."""
    return None


def copies(problem: ConvProblem) -> list[str]:
    """The padded copy that an asymmetric problem costs, and those in channels first that get by a fault of torch's."""
    found = []
    if not problem.symmetric:
        verb = "crops" if problem.face == "dgrad" else "pads"
        found.append(f"{verb} a copy of x: {math.prod(_padded(problem).x_shape) * problem.dtype.itemsize:,} bytes")
    elif problem.face == "wgrad" and (why := fault(problem)):
        seen = _as_torch_gets(problem)
        changed = [seen.x_shape] if seen.pad != problem.pad else [seen.x_shape, seen.y_shape]
        copied = sum(map(math.prod, changed)) * problem.dtype.itemsize
        found.append(f"copies {' and '.join('xy'[: len(changed)])}, for {why}: {copied:,} bytes")
    return found


def run(problem: ConvProblem, a: Tensor, b: Tensor, bias: Tensor | None) -> Tensor:
    """Computes the open tensor of `problem` from its operands `a` and `b`, plus `bias`."""
    with _products(problem):
        if problem.empty:
            result = _bias_only(problem, a, bias)
        elif problem.face == "fprop":
            result = _fprop(problem, a, b, bias)
        elif problem.face == "dgrad":
            result = _dgrad(problem, a, b, bias)
        else:
            result = _wgrad(problem, a, b)
    return _no_view(dense(result, problem.channels_last))


def fault(problem: ConvProblem) -> str | None:
    """What is wrong with torch's own answer on a CPU, or None. `run` gets by it, but for a forward that hangs."""
    found = onednn.fault(problem if problem.symmetric else _padded(problem))
    return found.says if found else None


def why_not_both(dgrad: ConvProblem) -> str | None:
    """Only torch's own padding: otherwise one gradient pads a copy of x, and the other crops one."""
    if dgrad.empty:
        return "a tensor of the problem has no elements"
    if not dgrad.symmetric:
        return f"pads {dgrad.pad} before and {dgrad.end} after the axes, and torch's convolutions the same at both ends"
    return fault(replace(dgrad, face="wgrad"))


def run_both(dgrad: ConvProblem, y: Tensor, w: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients by x and by w in one call, as torch's own backward pass computes them."""
    p = dgrad
    with _products(p):
        by_x, by_w, _ = torch.ops.aten.convolution_backward(
            y, x, w, None, p.stride, p.pad, p.dilation, False, (0,) * p.rank, p.groups, (True, True, False)
        )
    return _no_view(dense(by_x, p.channels_last)), _no_view(by_w)


def _no_view(result: Tensor) -> Tensor:
    """torch computes 1-D as 2-D, and autograd would take the squeezed result for a view that nobody may change."""
    return result.detach() if result._is_view() else result


_AS_TORCH_SAYS = nullcontext()


def _products(problem: ConvProblem) -> AbstractContextManager[None]:
    """Where `convext.precision` overrules torch's TF32 setting: that setting, for as long as the operator runs.

    cuDNN has no three-product TF32; float32 throughout is at least as exact.
    """
    wanted = "tf32" if problem.precision == "tf32" else "ieee"
    on_cuda = problem.device == "cuda" and problem.dtype is torch.float32
    if not on_cuda or torch.backends.cudnn.conv.fp32_precision == wanted:  # type: ignore[attr-defined]
        return _AS_TORCH_SAYS
    return _torchs_setting(wanted)


@contextmanager
def _torchs_setting(wanted: str) -> Iterator[None]:
    conv = torch.backends.cudnn.conv  # type: ignore[attr-defined]
    before, conv.fp32_precision = conv.fp32_precision, wanted
    try:
        yield
    finally:
        conv.fp32_precision = before


def _bias_only(problem: ConvProblem, like: Tensor, bias: Tensor | None) -> Tensor:
    """A sum over no terms is zero, so the result is the bias."""
    result = like.new_zeros(problem.open_shape)
    return result if bias is None else result + bias.view(-1, *[1] * problem.rank)


def _fprop(p: ConvProblem, x: Tensor, w: Tensor, bias: Tensor | None) -> Tensor:
    zeros = (0,) * p.rank
    pad = p.pad
    if not p.symmetric:
        x, pad = _pad_input(p, x), zeros
    return torch.convolution(x, w, bias, p.stride, pad, p.dilation, False, zeros, p.groups)


def _dgrad(p: ConvProblem, y: Tensor, w: Tensor, bias: Tensor | None) -> Tensor:
    if p.symmetric:
        if bias is None and backward_is_faster(p):
            return _input_gradient(p, y, w)
        extra = tuple(b - e for b, e in zip(p.pad, p.end, strict=True))  # output_padding, in [0, stride)
        return torch.convolution(y, w, bias, p.stride, p.pad, p.dilation, True, extra, p.groups)
    zeros = (0,) * p.rank
    full = torch.convolution(y, w, None, p.stride, zeros, p.dilation, True, zeros, p.groups)
    unread = [max(-e, 0) for e in p.end]  # inputs beyond the last one that an output reads
    x = _crop(constant_pad(full, _torch_pads(zeros, unread)), p.pad, p.input)
    if bias is not None:
        return x + bias.view(-1, *[1] * p.rank)
    return empty(p.x_shape, p.channels_last, x).copy_(x)  # not a view of the larger one


def backward_is_faster(dgrad: ConvProblem) -> bool:
    """Whether torch's backward pass computes a problem faster than its transposed convolution does.

    On CUDA that never takes torch's depthwise kernels. On CPUs oneDNN's takes up to 3.8 times as long for groups in
    channels last (0.9 to 3.8 on five layers, Zen 4); in other formats and families it was about level, or faster. One
    image of one group goes to oneDNN by x or by y, as either is large (3-D, 32 channels to 16 on 32^3: 18 times).
    """
    p = dgrad
    if p.device == "cuda":
        return p.family == "depthwise"
    if p.device != "cpu":
        return False
    by_x_alone = onednn.is_left_out(p, "y") and not onednn.is_left_out(p, "x")
    return by_x_alone or (p.channels_last and p.rank > 1 and 1 < p.groups < p.c)


def _input_gradient(p: ConvProblem, y: Tensor, w: Tensor) -> Tensor:
    """As torch's backward pass computes it."""
    x = empty(p.x_shape, p.channels_last, y)  # only its shape and order are read
    return torch.ops.aten.convolution_backward(
        y, x, w, None, p.stride, p.pad, p.dilation, False, (0,) * p.rank, p.groups, (True, False, False)
    )[0]


def _wgrad(p: ConvProblem, x: Tensor, y: Tensor) -> Tensor:
    seen = _as_torch_gets(p)
    if (seen.input, seen.pad) != (p.input, p.pad):
        x = _pad_input(p, x)
    channels_last = seen.channels_last and p.rank > 1  # torch has none in 1-D
    if p.channels_last and not seen.channels_last:
        x, y = x.contiguous(), y.contiguous()
    w = empty(p.w_shape, channels_last, y)  # only its shape and order are read: the result comes in the same order
    return torch.ops.aten.convolution_backward(
        y, x, w, None, p.stride, seen.pad, p.dilation, False, (0,) * p.rank, p.groups, (False, True, False)
    )[1]


def _as_torch_gets(wgrad: ConvProblem) -> ConvProblem:
    """The same of copies of its operands, where torch has no such padding or would be wrong."""
    seen = wgrad if wgrad.symmetric else _padded(wgrad)
    wrong = onednn.fault(seen)
    if wrong is None:
        return seen
    return _padded(seen) if wrong.right_for == "padded" else replace(seen, channels_last=False)


def _padded(p: ConvProblem) -> ConvProblem:
    """The same of a copy of x with the zeros that its outputs read around it."""
    input = tuple(b + i + e for b, i, e in zip(p.pad, p.input, p.end, strict=True))
    return replace(p, input=input, pad=(0,) * p.rank)


def _pad_input(p: ConvProblem, x: Tensor) -> Tensor:
    """x with the zeros that its outputs read around it, and without the trailing elements that none reads."""
    padded = constant_pad(x, _torch_pads(p.pad, [max(e, 0) for e in p.end]))
    return _crop(padded, (0,) * p.rank, _padded(p).input)


def _crop(t: Tensor, start: Ints, size: Ints) -> Tensor:
    for axis, (first, length) in enumerate(zip(start, size, strict=True), start=2):
        t = t.narrow(axis, first, length)
    return t


def _torch_pads(begin: Ints, end: Ints) -> list[int]:
    """[begin, end] for each axis, the last axis first, as torch.nn.functional.pad takes them."""
    return [v for b, e in zip(reversed(begin), reversed(end), strict=True) for v in (b, e)]
