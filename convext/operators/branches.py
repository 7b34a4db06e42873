"""Parallel convolutions of one input, concatenated, in one call where a kernel has that: all of the operator.

    convext::branches(x, w[], bias[], size, stride, pad, dilation, groups, kernel)
        = cat over i of  fprop(x, w[i], pad[i], dilation[i]) + bias[i]     along channels

A kernel is one of `convext.choice.branches`, which writes each branch's channels where they belong; where none takes
the call, it is an fprop for each branch and torch.cat, as it is where a tangent may come along, and under vmap. Of the
forward the operands are kept alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, cast

import torch
from torch import Tensor

from convext.choice import branches as records
from convext.choice import remembered, together
from convext.operators import forward
from convext.operators.autograd import Below, by_operands, convolve, forward_mode, reverse_mode
from convext.operators.fake import fake
from convext.operators.placed import PLACED
from convext.operators.plain import is_plain
from convext.operators.schema import BRANCHES, LIBRARY
from convext.operators.vmap import as_torch_casts, face_rule
from convext.problem import Ints, layout
from convext.problem.branches import BranchesProblem, each

Tensors = Sequence[Tensor]
Biases = Sequence[Tensor | None]


def _geometries(branches: int, tail: Any) -> Iterator[tuple[Any, ...]]:
    """What `convolve` takes after the bias, for each branch. The name of a kernel of all is no branch's."""
    size, stride, pad, dilation, groups, kernel = tail
    kernel = "auto" if kernel in records.names() else kernel
    return ((size, stride, *own, groups, kernel) for own in each(branches, size, pad, dilation))


def _check_biases(w: Tensors, bias: Biases) -> None:
    if len(w) != len(bias):
        raise RuntimeError(f"branches: expected a bias or None for each of {len(w)} weights, but got {len(bias)}")


def composed(x: Tensor, w: Tensors, bias: Biases, *tail: Any) -> Tensor:
    """The same by `convolve` and torch.cat; arguments as those of `branches`."""
    _check_biases(w, bias)
    parts = zip(w, bias, _geometries(len(w), tail), strict=True)
    return torch.cat([convolve("fprop", x, weight, b, *geometry) for weight, b, geometry in parts], 1)


# ---------------------------------------------------------------------------------------------------- forward, fake


@lru_cache(maxsize=8192)
def _chosen(kernel: str, *described: Any) -> tuple[together.Kernel[BranchesProblem] | None, BranchesProblem]:
    problem = BranchesProblem.of(*described)
    return records.choose(problem, kernel), problem


remembered.FORGET.append(_chosen.cache_clear)


def _compute(x: Tensor, w: Tensors, bias: Biases, *tail: Any) -> Tensor:
    """Below autograd: every road ends here."""
    size, stride, pad, dilation, groups, kernel = tail
    _check_biases(w, bias)
    for weight, b in zip(w, bias, strict=True):
        forward.check_operands("fprop", x, weight, b, groups)
    last = any(map(layout.is_channels_last, (x, *w)))
    shapes = tuple(weight.shape for weight in w)
    geometry = tuple(size), tuple(stride), tuple(pad), tuple(dilation), groups
    chosen, problem = _chosen(kernel, x.shape, shapes, *geometry, x.dtype, last, forward.machine(x))
    if chosen is not None:
        return chosen.run(problem, x, w, bias)
    parts = [
        forward.compute("fprop", x, weight, b, *own)
        for weight, b, own in zip(w, bias, _geometries(len(w), (*geometry, kernel)), strict=True)
    ]
    return layout.dense(torch.cat(parts, 1) if len(parts) > 1 else parts[0], last)


def _fake(x: Tensor, w: Tensors, bias: Biases, *tail: Any) -> Tensor:
    _check_biases(w, bias)
    operands = zip(w, bias, _geometries(len(w), tail), strict=True)
    parts = [fake("fprop", x, weight, b, *own) for weight, b, own in operands]
    shape = x.shape[0], sum(part.shape[1] for part in parts), *parts[0].shape[2:]
    return layout.empty(shape, any(map(layout.is_channels_last, (x, *w))), x)


LIBRARY.impl("branches", _compute, "CompositeExplicitAutograd")
torch.library.register_fake("convext::branches", _fake, lib=LIBRARY)


# --------------------------------------------------------------------------------------------------------- autograd


class _Branches(torch.autograd.Function):
    """Keeps the operands alone. They come one after the other, for autograd looks into no list."""

    @staticmethod
    def forward(ctx: Any, below: Below | None, branches: int, tail: Any, x: Tensor, *operands: Any) -> Tensor:
        w, bias = operands[:branches], operands[branches:]
        by_x, *by_w = ctx.needs_input_grad[3 : 4 + branches]
        ctx.tail, ctx.shapes = tail, (x.shape, *(weight.shape for weight in w))
        ctx.save_for_backward(x if any(by_w) else None, *(weight if by_x else None for weight in w))
        y = _compute(x, w, bias, *tail) if below is None else below(BRANCHES, x, w, bias, *tail)
        return cast(Tensor, y)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, *w = ctx.saved_tensors
        of_x, *shapes = ctx.shapes
        by_x, *needs = ctx.needs_input_grad[3:]
        channels = [shape[0] for shape in shapes]
        total, by_w = None, []
        for i, (own, geometry) in enumerate(zip(grad.split(channels, 1), _geometries(len(w), ctx.tail), strict=True)):
            wanted = by_x, needs[i], False
            term, by_weight, _ = by_operands("fprop", own, x, w[i], (of_x, shapes[i]), geometry, wanted)
            total = term if total is None or term is None else total.add_(term)  # which is nobody else's
            by_w.append(by_weight)
        by_bias: Sequence[Tensor | None] = [None] * len(w)
        if any(needs[len(w) :]):  # in one sum
            sums = grad.sum([0, *range(2, grad.dim())]).split(channels)
            by_bias = [own if needed else None for own, needed in zip(sums, needs[len(w) :], strict=True)]
        return (None, None, None, total, *by_w, *by_bias)


def _autograd(keyset: Any, x: Tensor, w: Tensors, bias: Biases, *tail: Any) -> Tensor:
    if forward_mode():
        return composed(x, w, bias, *tail)
    below = Below(keyset)
    if reverse_mode(x, *w, *bias):
        _check_biases(w, bias)
        return cast(Tensor, _Branches.apply(below, len(w), tail, x, *w, *bias))  # type: ignore[no-untyped-call]
    return cast(Tensor, below(BRANCHES, x, w, bias, *tail))


LIBRARY.impl("branches", _autograd, "Autograd", with_keyset=True)


def branches(
    x: Tensor, w: Tensors, bias: Biases,
    size: Ints, stride: Ints, pad: Ints, dilation: Ints, groups: int, kernel: str = "auto",
) -> Tensor:  # fmt: skip
    """`torch.ops.convext.branches`, past the dispatcher where that makes no difference but time.

    Args:
        x: [N, C, *I], of one to three spatial axes; one real dtype and device for all tensors; any strides.
        w: of each branch, [K_i, C/groups, *k_i].
        bias: of each branch, [K_i] or None.
        size: spatial size of the result, the same for all branches.
        stride: one value an axis, the same for all branches.
        pad, dilation: one value an axis, those of the first branch first; `pad` is the zeros before an axis.
        groups: number of groups of each branch.
        kernel: what `convext.backend` takes, or the name of a kernel of `convext.choice.branches`.

    Returns:
        The branches' results one after the other along channels: [N, sum of K_i, *size], dense, channels last if x or
        one of w is.

    Raises:
        RuntimeError: the arguments describe no such convolutions.
        ValueError: `kernel` names one that does not take the problem.

    Source: Chen et al., arXiv 1706.05587, figure 5.
    """
    tail = tuple(size), tuple(stride), tuple(pad), tuple(dilation), groups, kernel
    if not is_plain(x, *w, *bias):
        run = composed if type(x) in PLACED else BRANCHES
        return cast(Tensor, run(x, w, bias, *tail))
    if reverse_mode(x, *w, *bias):
        _check_biases(w, bias)
        return cast(Tensor, _Branches.apply(None, len(w), tail, x, *w, *bias))  # type: ignore[no-untyped-call]
    return _compute(x, w, bias, *tail)


# ------------------------------------------------------------------------------------------------------------- vmap


def _vmap(info: Any, in_dims: Any, x: Tensor, w: Tensors, bias: Biases, *tail: Any) -> tuple[Tensor, int]:
    """Branch by branch. One of them may have nothing that is mapped."""
    of_x, of_w, of_bias = in_dims[:3]
    parts = []
    for i, geometry in enumerate(_geometries(len(w), tail)):
        part, _ = face_rule("fprop", info, (of_x, of_w[i], of_bias[i]), x, w[i], bias[i], *geometry)  # type: ignore[arg-type]
        parts.append(part.expand(info.batch_size, *part.shape[1:]))
    return torch.cat(parts, 2), 0


torch.library.register_vmap("convext::branches", as_torch_casts(_vmap), lib=LIBRARY)
