"""What a function does to time, by its name: the model's forward is read with these before any sample comes.

A rule takes the place and the function's own arguments, with Signals for tensors that have a time; it adds what
computes one chunk to the program of a step, and returns the Signal of that, or refuses.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional as tF

from convext.streams.place import Place
from convext.streams.signals import Constant, Several, Signal, samples
from convext.streams.stages import Transposed, Windows
from convext.streams.tracing import layer

Rule = Callable[..., Any]
RULES: dict[str, Rule] = {}


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Enters a function in the table, for calls of torch's functions, Python's operators and methods of these names."""

    def enter(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, function))
        return function

    return enter


# ------------------------------------------------------------------------------------------ each sample by itself

_EACH = """
    add sub rsub mul truediv div true_divide floor_divide floordiv mod remainder pow neg pos abs sign eq ne lt le gt ge and_
    or_ xor invert not_ where maximum minimum max_of min_of clamp clamp_min clamp_max lerp addcmul addcdiv fmod atan2 hypot
    iadd isub imul itruediv ipow
    tanh sigmoid relu relu6 leaky_relu elu selu celu gelu silu mish softplus softsign hardtanh hardsigmoid hardswish logsigmoid
    log_sigmoid tanhshrink hardshrink softshrink threshold exp expm1 log log1p log2 log10 sqrt rsqrt reciprocal square sin cos
    tan asin acos atan sinh cosh erf round floor ceil trunc nan_to_num logical_and logical_or logical_not isnan isfinite
    contiguous clone detach to float double half bfloat16 long int bool type type_as
    zeros_like ones_like full_like masked_fill
    add_ sub_ mul_ div_ tanh_ sigmoid_ relu_ clamp_ leaky_relu_ neg_ exp_
"""


@rule(*_EACH.split())
def each(at: Place, *arguments: Any, **named: Any) -> Signal:
    """A function of each sample by itself, of signals that are aligned first."""
    operands = [*arguments, *named.values()]
    joint, instead = at.together([x for x in operands if isinstance(x, Signal)])
    for constant in operands:
        if isinstance(constant, Constant):
            at.must_not_vary(constant.value, joint)
            joint = replace(joint, dims=max(joint.dims, getattr(constant.value, "ndim", 0)))
    return replace(joint, node=at.same(instead))


@rule("prelu")
def prelu(at: Place, input: Signal, weight: Constant) -> Signal:
    if input.front == 1 and weight.value.numel() > 1:
        at.refuse(f"has {weight.value.numel()} slopes along time, which is axis 1 here")
    return replace(input, node=at.same())


@rule("dropout", "alpha_dropout", "feature_dropout", "dropout1d")
def dropout(at: Place, input: Signal, p: float = 0.5, training: bool = True, inplace: bool = False) -> Signal:
    if training:
        at.refuse("draws at random: it was called with training=True")
    return replace(input, node=at.same())


# ------------------------------------------------------------------------------------------ along other axes than time


def _not_time(at: Place, x: Signal, dims: Any) -> list[int]:
    """`dims`, counted from the front, none of them time's."""
    listed = [] if dims is None else [dims] if isinstance(dims, int) else list(dims)
    if not listed or any(x.is_time(dim) for dim in listed):
        said = "over all axes" if not listed else f"along axis {dims}, which is time"
        at.mixes(f"{at.node.name.rstrip('_0123456789')} {said}")
    return [dim % x.dims for dim in listed]


@rule("softmax", "log_softmax", "cumsum", "flip", "normalize", "glu", "roll")
def along(at: Place, input: Signal, *arguments: Any, **named: Any) -> Signal:
    """A function along axes that keeps the shape, or halves an axis."""
    default = {"glu": -1, "normalize": 1}.get(_called(at))
    position = {"normalize": 1, "roll": 1}.get(_called(at), 0)
    dims = named.get("dims", named.get("dim", arguments[position:] or default))
    if isinstance(dims, tuple):
        dims = dims[0] if len(dims) == 1 or _called(at) != "flip" else dims
    _not_time(at, input, dims)
    return replace(input, node=at.same())


def _called(at: Place) -> str:
    return at.node.target if isinstance(at.node.target, str) else at.node.target.__name__


@rule("sum", "mean", "amax", "amin", "argmax", "argmin", "logsumexp", "prod", "std", "var")
def reduced(at: Place, input: Signal, dim: Any = None, keepdim: bool = False, **named: Any) -> Signal:
    gone = _not_time(at, input, dim)
    if keepdim:
        return replace(input, node=at.same())
    front = input.front - sum(axis < input.front for axis in gone)
    return replace(input.on_axis(front, input.dims - len(gone)), node=at.same())


@rule("chunk", "split", "tensor_split", "unbind", "split_with_sizes")
def parts(at: Place, input: Signal, count: Any = None, dim: int = 0) -> Several:
    if _called(at) == "unbind":
        dim = count or dim
    [axis] = _not_time(at, input, dim)
    if _called(at) == "unbind":
        input = input.on_axis(input.front - (axis < input.front), input.dims - 1)
    node = at.same()
    return Several(replace(input, node=node), node)


@rule("cat", "concat", "concatenate")
def cat(at: Place, tensors: Sequence[Any], dim: int = 0) -> Signal:
    joint = _joined(at, tensors)
    _not_time(at, joint[0], dim)
    return replace(joint[0], node=at.same(joint[1]))


@rule("stack")
def stack(at: Place, tensors: Sequence[Any], dim: int = 0) -> Signal:
    joint, instead = _joined(at, tensors)
    return replace(_with_axis(joint, dim), node=at.same(instead))


def _joined(at: Place, tensors: Sequence[Any]) -> Any:
    if not all(isinstance(x, Signal) for x in tensors):
        at.refuse("joins a signal with a tensor that has no time")
    return at.together(list(tensors))


def _with_axis(x: Signal, dim: int) -> Signal:
    place = dim % (x.dims + 1)
    return x.on_axis(x.front + (place <= x.front), x.dims + 1)


@rule("unsqueeze")
def unsqueeze(at: Place, input: Signal, dim: int) -> Signal:
    return replace(_with_axis(input, dim), node=at.same())


@rule("squeeze")
def squeeze(at: Place, input: Signal, dim: Any = None) -> Signal:
    gone = _not_time(at, input, dim)
    front = input.front - sum(axis < input.front for axis in gone)
    return replace(input.on_axis(front, input.dims - len(gone)), node=at.same())


@rule("transpose", "swapaxes", "swapdims")
def transpose(at: Place, input: Signal, dim0: int, dim1: int) -> Signal:
    order = list(range(input.dims))
    order[dim0], order[dim1] = order[dim1], order[dim0]
    return replace(input.on_axis(order.index(input.front), input.dims), node=at.same())


@rule("permute")
def permute(at: Place, input: Signal, *dims: Any) -> Signal:
    order = [dim % input.dims for dim in (dims[0] if len(dims) == 1 else dims)]
    return replace(input.on_axis(order.index(input.front), input.dims), node=at.same())


@rule("movedim", "moveaxis")
def movedim(at: Place, input: Signal, source: int, destination: int) -> Signal:
    order = [axis for axis in range(input.dims) if axis != source % input.dims]
    order.insert(destination % input.dims, source % input.dims)
    return replace(input.on_axis(order.index(input.front), input.dims), node=at.same())


@rule("linear")
def linear(at: Place, input: Signal, weight: Constant, bias: Any = None) -> Signal:
    if input.axis == -1:
        at.mixes("a product along the last axis, which is time")
    return replace(input, node=at.same())


@rule("layer_norm", "rms_norm")
def layer_norm(at: Place, input: Signal, normalized_shape: Sequence[int], *rest: Any, **named: Any) -> Signal:
    if -input.axis <= len(normalized_shape):
        at.mixes(f"its norm is over the last {len(normalized_shape)} axes, of which time is one")
    return replace(input, node=at.same())


@rule("embedding", "one_hot")
def embedding(at: Place, input: Signal, *rest: Any, **named: Any) -> Signal:
    """Numbers [N, L] -> [N, L, E]."""
    return replace(input.on_axis(input.front, input.dims + 1), node=at.same())


# ------------------------------------------------------------------------------------------ parts and paddings of time


@rule("getitem")
def getitem(at: Place, input: Any, index: Any) -> Any:
    if isinstance(input, Several):
        if isinstance(index, slice):
            node = at.same()
            return Several(replace(input.each, node=node), node)
        return replace(input.each, node=at.same())
    indices = index if isinstance(index, tuple) else (index,)
    if not all(i is None or i is Ellipsis or isinstance(i, int | slice) for i in indices):
        at.refuse("takes elements by tensors of indices: which samples these are is not known")
    return _sliced(at, input, indices)


def _sliced(at: Place, x: Signal, indices: tuple[Any, ...]) -> Signal:
    """x[a, b:c, None, .., d:e]: the slice of time cuts, the others go to the tensor as they are."""
    taken = sum(i is not None and i is not Ellipsis for i in indices)
    gap = indices.index(Ellipsis) if Ellipsis in indices else len(indices)
    full = [*indices[:gap], *[slice(None)] * (x.dims - taken), *indices[gap + 1 :]]
    axis, front, dims = 0, 0, 0
    cut: Any = slice(None)
    for place, i in enumerate(full):
        if i is not None and axis == x.front:
            cut, front, full[place] = i, dims, slice(None)
        axis += i is not None
        dims += not isinstance(i, int)
    if not isinstance(cut, slice) or cut.step not in (None, 1) or not _cuts_an_end(cut):
        at.refuse(f"takes {_said(cut)} of time, and only parts such as 2: and :-2 are known to stay aligned")
    begin, end = -(cut.start or 0), cut.stop or 0
    if any(i != slice(None) for i in full):
        x = replace(x.on_axis(front, dims), node=at.call(_getitem, x.node, tuple(full)))
    return at.shift(x, begin, end)


def _cuts_an_end(cut: slice) -> bool:
    return (cut.start is None or _is_int(cut.start) and cut.start >= 0) and (
        cut.stop is None or _is_int(cut.stop) and cut.stop < 0
    )


def _is_int(value: Any) -> bool:
    return isinstance(value, int)


def _said(cut: Any) -> str:
    if not isinstance(cut, slice):
        return f"[{cut}]"
    return f"[{':'.join('' if part is None else str(part) for part in (cut.start, cut.stop, cut.step))}]"


def _getitem(x: torch.Tensor, index: tuple[Any, ...]) -> torch.Tensor:
    return x[index]


@rule("narrow")
def narrow(at: Place, input: Signal, dim: int, start: int, length: int) -> Signal:
    _not_time(at, input, dim)
    return replace(input, node=at.same())


@rule("pad")
def pad(at: Place, input: Signal, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Signal:
    pairs = list(zip(pad[::2], pad[1::2], strict=True))  # the last axis first
    begin, end = pairs[-1 - input.axis] if len(pairs) >= -input.axis else (0, 0)
    if not (begin or end):
        return replace(input, node=at.same())
    if sum(1 for pair in pairs if any(pair)) > 1:
        at.refuse("pads time and another axis in one call: pad them one after the other")
    if mode != "constant":
        _pads_with_signal(at, mode, max(begin, end))
    padded = at.shift(input, begin, end, 0.0 if value is None else value)
    return padded if padded.node is not input.node else replace(padded, node=at.call(torch.clone, input.node))


def _pads_with_signal(at: Place, mode: str, count: int) -> None:
    if mode == "circular":
        at.mixes("it is padded in a circle, with samples of the signal's other end")
    if mode == "reflect":
        at.looks_ahead(count, "it is padded by a reflection of the signal's first samples")
    at.refuse(f"is padded by {mode!r}: a stream begins with a constant, such as zeros")


@rule("padded")
def padded(at: Place, input: Signal, padding: Any, around: Sequence[int], mode: str, *geometry: Any) -> Signal:
    """What convext's layers call for a padding mode that is not zeros."""
    _pads_with_signal(at, mode, max(around))
    raise AssertionError(mode)


# ------------------------------------------------------------------------------------------ windows


def _number(value: Any) -> int:
    return int(value[0]) if isinstance(value, tuple | list) else int(value)


def _begin_and_end(padding: Any, reach: int, stride: int, at: Place) -> tuple[int, int]:
    """Zeros before the signal and behind it."""
    if padding == "valid":
        return 0, 0
    if padding == "causal":
        return reach, 0
    if padding == "same":
        if stride > 1:
            at.refuse('is padded by "same" under a stride, which depends on the length of the signal')
        return reach // 2, reach - reach // 2
    first = padding[0] if isinstance(padding, tuple | list) else padding
    return (first[0], first[1]) if isinstance(first, tuple | list) else (first, first)


@rule("conv1d")
def conv1d(
    at: Place, input: Signal, weight: Constant, bias: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1,
    groups: int = 1,
) -> Signal:  # fmt: skip
    function = at.node.target

    def convolve(x: Any, s: int, d: int, w: Any, b: Any) -> Any:
        return function(x, w, b, s, 0, d, groups)  # type: ignore[operator]

    geometry = weight.value.shape[-1], _number(stride), _number(dilation)
    pads = _begin_and_end(padding, geometry[2] * (geometry[0] - 1), geometry[1], at)
    return _windows(at, input, convolve, geometry, pads, (weight.node, getattr(bias, "node", bias)), groups)


@rule("max_pool1d")
def max_pool1d(
    at: Place, input: Signal, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1,
    ceil_mode: bool = False, return_indices: bool = False,
) -> Signal:  # fmt: skip
    taps = _number(kernel_size)
    if _number(padding) or ceil_mode or return_indices:
        at.refuse("pads, rounds up or returns indices: a stream takes pools without")
    geometry = taps, _number(stride or kernel_size), _number(dilation)
    return _windows(at, input, lambda x, s, d: tF.max_pool1d(x, taps, s, 0, d), geometry, (0, 0))


@rule("avg_pool1d")
def avg_pool1d(
    at: Place, input: Signal, kernel_size: Any, stride: Any = None, padding: Any = 0, ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Signal:  # fmt: skip
    taps = _number(kernel_size)
    if _number(padding) or ceil_mode:
        at.refuse("pads or rounds up: a stream takes pools without")
    return _windows(
        at, input, lambda x, s, d: tF.avg_pool1d(x, taps, s), (taps, _number(stride or kernel_size), 1), (0, 0)
    )


def _windows(
    at: Place, x: Signal, function: Callable[..., Any], geometry: tuple[int, int, int], pads: tuple[int, int],
    operands: tuple[Any, ...] = (), groups: int | None = None,
) -> Signal:  # fmt: skip
    """Output o reads up to sample o * stride + reach - begin. Under a stride it may wait for the rest of its stride.

    k 4, stride 2, 2 zeros before:   0 0 a b | c d | e f      output 1 reads up to d, the last of its two samples
    """
    taps, stride, dilation = geometry
    begin, end = pads
    reach = dilation * (taps - 1)
    if x.axis != -1 or x.dims != 3:
        at.refuse(f"has its taps along the last of [N, C, L], but time is axis {x.axis} of {x.dims}")
    ahead = reach - begin - x.lead
    if ahead > stride - 1:
        at.looks_ahead(
            ahead - (stride - 1),
            f"its {taps} taps, {dilation} apart, span {samples(reach)} beside the newest, and {begin + x.lead} come as "
            f"padding before the signal: causal are {reach - (stride - 1)}, with the end cut off",
        )
    if (x.tail + end) % stride:
        at.refuse(f"has {samples(x.tail + end)} of padding behind the signal, no multiple of its stride {stride}")
    if begin > reach:  # windows of nothing but padding
        x = at.shift(x, begin - reach, 0)
    wait = max(0, reach - begin)
    node = at.remember(Windows(at.name(), function, taps, stride, dilation, wait, groups), x.node, *operands)
    tail_of = layer(at.node) if end else x.tail_of
    if stride == 1:
        return replace(x, lead=-ahead, tail=x.tail + end, tail_of=tail_of, node=node)
    pace = (*x.pace, ("down", stride, ahead))
    return replace(x, lead=0, tail=(x.tail + end) // stride, tail_of=tail_of, pace=pace, node=node)


@rule("conv_transpose1d")
def conv_transpose1d(
    at: Place, input: Signal, weight: Constant, bias: Any = None, stride: Any = 1, padding: Any = 0,
    output_padding: Any = 0, groups: int = 1, dilation: Any = 1,
) -> Signal:  # fmt: skip
    """Of n inputs come n * stride outputs that no later one changes, and taps - stride more that all would."""
    if input.axis != -1 or input.dims != 3:
        at.refuse(f"has its taps along the last of [N, C, L], but time is axis {input.axis} of {input.dims}")
    up, d, cut = _number(stride), _number(dilation), _number(padding)
    reach = d * (weight.value.shape[-1] - 1)
    lacking = max(0, up - 1 - reach)  # positions between the taps of two inputs that no tap reaches
    target: Any = at.node.target

    def transposed(x: Any, w: Any, b: Any) -> Any:
        return target(x, w, b, up, 0, lacking, groups, d)

    if input.lead * up < cut:
        at.looks_ahead(
            cut - input.lead * up,
            f"its padding cuts {samples(cut)} off the beginning of what it returns: cut the end off instead, "
            f"as in y[..., :-{max(reach + 1 - up, 1)}]",
        )
    stage = Transposed(at.name(), transposed, reach, up, groups)
    node = at.remember(stage, input.node, weight.node, getattr(bias, "node", bias))
    pace = (*input.pace, ("up", up)) if up > 1 else input.pace
    tail = input.tail * up + max(0, reach + 1 - up)
    y = replace(input, lead=input.lead * up, tail=tail, tail_of=layer(at.node) if tail else "", pace=pace, node=node)
    return at.shift(y, -cut, _number(output_padding) - lacking - cut)


@rule("interpolate")
def interpolate(
    at: Place,
    input: Signal,
    size: Any = None,
    scale_factor: Any = None,
    mode: str = "nearest",
    *rest: Any,
    **named: Any,
) -> Signal:
    factor = scale_factor[0] if isinstance(scale_factor, tuple | list) else scale_factor
    if size is not None or mode not in ("nearest", "nearest-exact") or factor != int(factor) or input.axis != -1:
        at.refuse('resizes: a stream takes mode "nearest" with a whole scale_factor')
    up = int(factor)
    node = at.call(partial_repeat(up), input.node)
    return replace(input, lead=input.lead * up, tail=input.tail * up, pace=(*input.pace, ("up", up)), node=node)


def partial_repeat(up: int) -> Callable[..., Any]:
    def repeat(x: torch.Tensor) -> torch.Tensor:
        return x.repeat_interleave(up, -1)

    return repeat


# ------------------------------------------------------------------------------------------ refused, with the reason

_WHOLE = {
    "scaled_dot_product_attention": "attention reads every sample",
    "multi_head_attention_forward": "attention reads every sample",
    "MultiheadAttention": "attention reads every sample",
    "group_norm": "its mean and variance are of the whole signal",
    "instance_norm": "its mean and variance are of the whole signal",
    "InstanceNorm1d": "its mean and variance are of the whole signal",
    "adaptive_avg_pool1d": "its windows are as long as the signal needs",
    "adaptive_max_pool1d": "its windows are as long as the signal needs",
    "AdaptiveAvgPool1d": "its windows are as long as the signal needs",
    "AdaptiveMaxPool1d": "its windows are as long as the signal needs",
    "Flatten": "it makes one axis of time and others",
    "flatten": "it makes one axis of time and others",
}
_SIZES = {"size", "shape", "numel", "view", "reshape", "expand", "repeat", "dim", "ndim", "__len__", "len"}


def unknown(at: Place, called: str) -> Any:
    """What no rule is for."""
    if called in _WHOLE:
        at.mixes(_WHOLE[called])
    if called in _SIZES:
        at.refuse(f"asks for or sets the signal's shape ({called}), and a chunk has another than the whole signal")
    at.refuse(f"calls {called}, and what that does over time is not known")


# ------------------------------------------------------------------------------------------ layers that are one node

_IN_EVAL = (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd)


class InEval:
    """A layer that is a function of each sample only in evaluation mode, at every step."""

    def __init__(self, layer: nn.Module, path: str) -> None:
        self.layer, self.path = layer, path

    def check(self) -> None:
        if self.layer.training:
            if isinstance(self.layer, nn.modules.dropout._DropoutNd):
                raise ValueError(f"layer {self.path!r} draws at random in training mode: call model.eval()")
            raise ValueError(
                f"layer {self.path!r} mixes the whole of time: in training mode its mean and variance are of the batch; "
                "call model.eval()"
            )

    def step(self, x: torch.Tensor) -> torch.Tensor:
        self.check()
        return self.layer(x)


def module(at: Place, layer: nn.Module, path: str, input: Any = None, *rest: Any, **named: Any) -> Any:
    """A layer of torch.nn that was not looked into."""
    if not isinstance(layer, _IN_EVAL) or not isinstance(input, Signal):
        return unknown(at, type(layer).__name__)
    if isinstance(layer, nn.modules.batchnorm._BatchNorm):
        if layer.running_mean is None:
            at.mixes("without running statistics its mean and variance are of the whole signal")
        if input.front == 1:
            at.refuse("has a mean for each position of axis 1, which is time here")
    stage = InEval(layer, path)
    stage.check()
    return replace(input, node=at.call(stage.step, input.node))
