"""Functions along other axes than time, and what moves axes: where time is afterwards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from convext.streams.place import Place
from convext.streams.rules.table import rule
from convext.streams.signals import Several, Signal
from convext.streams.tracing import word


def not_time(at: Place, x: Signal, dims: Any) -> list[int]:
    """`dims`, counted from the front. Refuses time among them, and None: all axes."""
    listed = [dims] if isinstance(dims, int) else list(dims or ())
    if not listed:
        at.mixes(f"{word(at.node)} over all axes")
    if any(x.is_time(dim) for dim in listed):
        at.mixes(f"{word(at.node)} along axis {dims}, which is time")
    return [dim % x.dims for dim in listed]


@rule("softmax", "log_softmax", "cumsum")
def along(at: Place, input: Signal, dim: Any = None, *rest: Any, **named: Any) -> Signal:
    not_time(at, input, dim)
    return replace(input, node=at.same())


@rule("glu")
def glu(at: Place, input: Signal, dim: int = -1) -> Signal:
    return along(at, input, dim)


@rule("normalize")
def normalize(at: Place, input: Signal, p: float = 2.0, dim: Any = 1, eps: float = 1e-12) -> Signal:
    return along(at, input, dim)


@rule("flip")
def flip(at: Place, input: Signal, *dims: Any) -> Signal:
    return along(at, input, dims[0] if len(dims) == 1 else dims)


@rule("roll")
def roll(at: Place, input: Signal, shifts: Any, dims: Any = None) -> Signal:
    return along(at, input, dims)


@rule("sum", "mean", "amax", "amin", "argmax", "argmin", "logsumexp", "prod")
def reduced(at: Place, input: Signal, dim: Any = None, keepdim: bool = False, **named: Any) -> Signal:
    gone = not_time(at, input, dim)
    return replace(input if keepdim else _without(input, gone), node=at.same())


@rule("std", "var")
def spread(at: Place, input: Signal, dim: Any = None, *, keepdim: bool = False, **named: Any) -> Signal:
    """The third argument is taken by name alone: it may also say that the estimate is unbiased."""
    return reduced(at, input, dim, keepdim)


@rule("squeeze")
def squeeze(at: Place, input: Signal, dim: Any = None) -> Signal:
    return replace(_without(input, not_time(at, input, dim)), node=at.same())


@rule("unbind")
def unbind(at: Place, input: Signal, dim: int = 0) -> Several:
    return _several(at, _without(input, not_time(at, input, dim)))


@rule("chunk", "split", "tensor_split", "split_with_sizes")
def parts(at: Place, input: Signal, sizes: Any, dim: int = 0) -> Several:
    not_time(at, input, dim)
    return _several(at, input)


def _several(at: Place, each: Signal) -> Several:
    node = at.same()
    return Several(replace(each, node=node), node)


def _without(x: Signal, axes: Sequence[int]) -> Signal:
    return x.on_axis(x.front - sum(axis < x.front for axis in axes), x.dims - len(axes))


def _with(x: Signal, dim: int) -> Signal:
    return x.on_axis(x.front + (dim % (x.dims + 1) <= x.front), x.dims + 1)


@rule("unsqueeze")
def unsqueeze(at: Place, input: Signal, dim: int) -> Signal:
    return replace(_with(input, dim), node=at.same())


@rule("cat", "concat", "concatenate")
def cat(at: Place, tensors: Sequence[Any], dim: int = 0) -> Signal:
    joint, instead = _joined(at, tensors)
    not_time(at, joint, dim)
    return replace(joint, node=at.same(instead))


@rule("stack")
def stack(at: Place, tensors: Sequence[Any], dim: int = 0) -> Signal:
    joint, instead = _joined(at, tensors)
    return replace(_with(joint, dim), node=at.same(instead))


def _joined(at: Place, tensors: Sequence[Any]) -> Any:
    if not all(isinstance(x, Signal) for x in tensors):
        at.refuse("joins a signal with a tensor that has no time")
    return at.together(list(tensors))


@rule("transpose", "swapaxes", "swapdims")
def transpose(at: Place, input: Signal, dim0: int, dim1: int) -> Signal:
    order = list(range(input.dims))
    order[dim0], order[dim1] = order[dim1], order[dim0]
    return _moved(at, input, order)


@rule("permute")
def permute(at: Place, input: Signal, *dims: Any) -> Signal:
    return _moved(at, input, [dim % input.dims for dim in (dims[0] if len(dims) == 1 else dims)])


@rule("movedim", "moveaxis")
def movedim(at: Place, input: Signal, source: int, destination: int) -> Signal:
    order = [axis for axis in range(input.dims) if axis != source % input.dims]
    order.insert(destination % input.dims, source % input.dims)
    return _moved(at, input, order)


def _moved(at: Place, x: Signal, order: list[int]) -> Signal:
    return replace(x.on_axis(order.index(x.front), x.dims), node=at.same())


@rule("linear")
def linear(at: Place, input: Signal, weight: Any, bias: Any = None) -> Signal:
    not_time(at, input, -1)
    return replace(input, node=at.same())


@rule("layer_norm", "rms_norm")
def layer_norm(at: Place, input: Signal, normalized_shape: Sequence[int], *rest: Any, **named: Any) -> Signal:
    not_time(at, input, [-1 - i for i in range(len(normalized_shape))])
    return replace(input, node=at.same())


@rule("embedding", "one_hot")
def embedding(at: Place, input: Signal, *rest: Any, **named: Any) -> Signal:
    """Numbers [N, L] -> [N, L, E]."""
    return replace(input.on_axis(input.front, input.dims + 1), node=at.same())
