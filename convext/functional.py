"""Convolutions with the signatures of torch.nn.functional, and three paddings that torch does not have.

`padding` of `conv1d`, `conv2d` and `conv3d` takes what torch takes, and (a kernel of ours makes no padded copy):

    ((begin, end), ..)   zeros before and after each axis; an axis may also have one int for both
    "same"               with any stride: ceil(input / stride) outputs, the odd zero at the end, as TensorFlow does
    "causal"             1-D: dilation * (kernel - 1) zeros before, none after, so that no output sees its future

Where no kernel of ours is wanted (CPU tensors under "auto", integers, complex numbers), or where the arguments describe
no convolution, torch's own function is called: it has the answer, or it names the mistake.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from functools import lru_cache
from typing import Any, Literal, cast

import torch
from torch import Tensor

from convext.choice import registry, remembered, settings
from convext.operators import convolve, traced
from convext.operators.autograd import again
from convext.operators.forward import Call, run_of
from convext.operators.keys import key_for_torch, key_of, remember
from convext.operators.placed import PLACED
from convext.operators.plain import is_plain, is_plain_state
from convext.problem import FACE_OPENING, OPERANDS, ConvProblem, Face, Ints, output_size, transposed_size
from convext.problem.layout import dense, is_channels_last
from convext.problem.symbols import positive

# What users give: one number for all axes, or one each; padding also as a word, or (begin, end) of an axis.
Size = int | Sequence[int]
Padding = Literal["same", "valid", "causal"] | int | Sequence[int | tuple[int, int]]
Pads = tuple[tuple[int, int], ...]
Sizes = tuple[int, ...]
Geometry = tuple[Sizes, Sizes, Sizes, Sizes, int]  # size of the result, stride, zeros before, dilation, groups

_TORCH_CONV: dict[int, Callable[..., Tensor]] = {1: torch.conv1d, 2: torch.conv2d, 3: torch.conv3d}
_TORCH_CONV_TRANSPOSE: dict[int, Callable[..., Tensor]] = {
    1: torch.conv_transpose1d,
    2: torch.conv_transpose2d,
    3: torch.conv_transpose3d,
}

_WORDS = {1: ("same", "valid", "causal"), 2: ("same", "valid"), 3: ("same", "valid")}


def conv1d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Padding = 0,
    dilation: Size = 1,
    groups: int = 1,
) -> Tensor:
    """`torch.nn.functional.conv1d`: input [N, C, L] or [C, L], weight [K, C/groups, k], result [N, K, O] or [K, O].

    `padding` also takes (begin, end), "same" with a stride, and "causal" (see the module's text).

    Raises what torch raises: RuntimeError for shapes that do not fit, with the numbers.
    """
    return _conv(1, input, weight, bias, stride, padding, dilation, groups)


def conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Padding = 0,
    dilation: Size = 1,
    groups: int = 1,
) -> Tensor:
    """`torch.nn.functional.conv2d`: input [N, C, H, W] or [C, H, W], weight [K, C/groups, kh, kw].

    `padding` also takes (begin, end) for each axis, and "same" with a stride (see the module's text).

    Raises what torch raises: RuntimeError for shapes that do not fit, with the numbers.
    """
    return _conv(2, input, weight, bias, stride, padding, dilation, groups)


def conv3d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Padding = 0,
    dilation: Size = 1,
    groups: int = 1,
) -> Tensor:
    """`torch.nn.functional.conv3d`: input [N, C, D, H, W] or [C, D, H, W], weight [K, C/groups, kd, kh, kw].

    `padding` also takes (begin, end) for each axis, and "same" with a stride (see the module's text).

    Raises what torch raises: RuntimeError for shapes that do not fit, with the numbers.
    """
    return _conv(3, input, weight, bias, stride, padding, dilation, groups)


def conv_transpose1d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Size = 0,
    output_padding: Size = 0,
    groups: int = 1,
    dilation: Size = 1,
) -> Tensor:
    """`torch.nn.functional.conv_transpose1d`: input [N, K, O] or [K, O], weight [K, C/groups, k], result [N, C, L]."""
    return _conv_transpose(1, input, weight, bias, stride, padding, output_padding, groups, dilation)


def conv_transpose2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Size = 0,
    output_padding: Size = 0,
    groups: int = 1,
    dilation: Size = 1,
) -> Tensor:
    """`torch.nn.functional.conv_transpose2d`: input [N, K, OH, OW], weight [K, C/groups, kh, kw]."""
    return _conv_transpose(2, input, weight, bias, stride, padding, output_padding, groups, dilation)


def conv_transpose3d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Size = 0,
    output_padding: Size = 0,
    groups: int = 1,
    dilation: Size = 1,
) -> Tensor:
    """`torch.nn.functional.conv_transpose3d`: input [N, K, OD, OH, OW], weight [K, C/groups, kd, kh, kw]."""
    return _conv_transpose(3, input, weight, bias, stride, padding, output_padding, groups, dilation)


# ---------------------------------------------------------------------------------------------------- padding


def resolve_padding(padding: str | Pads, input: Ints, kernel: Ints, stride: Ints, dilation: Ints) -> Pads:
    """Elements of padding (before, after) each spatial axis.

    Args:
        padding: "valid", "same", "causal" (1-D), or the pairs themselves.
        input, kernel, stride, dilation: one value an axis.

    Raises:
        ValueError: an unknown word, or an axis without exactly two sides.
        RuntimeError: negative padding.
    """
    if not isinstance(padding, str):
        if any(len(pair) != 2 for pair in padding):
            raise ValueError(f"expected padding to have a (begin, end) for each axis, but got padding={padding}")
        if any(side < 0 for pair in padding for side in pair):
            raise RuntimeError(f"negative padding is not supported, but got padding={padding}")
        return padding
    if padding == "valid":
        return ((0, 0),) * len(input)
    if padding == "causal" and len(input) == 1:
        return ((dilation[0] * (kernel[0] - 1), 0),)
    if padding == "same":
        pads = []
        for i, k, s, d in zip(input, kernel, stride, dilation, strict=True):
            total = (-(-i // s) - 1) * s + d * (k - 1) + 1 - i
            total = max(total, 0) if type(total) is int else torch.sym_max(total, 0)
            pads.append((total // 2, total - total // 2))
        return tuple(pads)
    raise ValueError(unknown_word(padding, len(input)))


def unknown_word(padding: str, rank: int) -> str | None:
    """What is wrong with a word for padding, or None."""
    if padding in _WORDS[rank]:
        return None
    meant = f": did you mean {near!r}?" if (near := _near_word(padding, rank)) else ""
    return f"Invalid padding string {padding!r}, should be one of {_WORDS[rank]}{meant}"


def _near_word(padding: str, rank: int) -> str | None:
    """The word that a misspelt one is near to; None for one that is right, or near to none."""
    return None if padding in _WORDS[rank] else next(iter(get_close_matches(padding.lower(), _WORDS[rank], 1)), None)


def is_torchs(padding: Any, stride: Any, rank: int) -> bool:
    """Whether `padding` is torch's business: all but pairs, "same" with a stride, and "causal" in 1-D."""
    if isinstance(padding, str):
        strided = any(s != 1 for s in _each(stride))
        return not ((padding == "same" and strided) or (padding == "causal" and rank == 1))
    return not any(isinstance(p, tuple | list) for p in _each(padding))


def _each(value: Any) -> Sequence[Any]:
    return value if isinstance(value, tuple | list) else (value,)


def pad(input: Tensor, pads: Pads, mode: str) -> Tensor:
    """`torch.nn.functional.pad` with (before, after) of each spatial axis, in the order of the axes."""
    flat = [side for pair in reversed(pads) for side in pair]
    return torch.nn.functional.pad(input, flat, mode="constant" if mode == "zeros" else mode)


# -------------------------------------------------------------------------------------------------- geometry


def _expand(value: Any, rank: int) -> tuple[Any, ...] | None:
    """One value for each axis, from a number or a sequence of 1 or `rank`; None for any other length."""
    value = tuple(value) if isinstance(value, tuple | list) else (value,)
    return value if len(value) == rank else value * rank if len(value) == 1 else None


def _ints(value: Any, rank: int) -> tuple[int, ...] | None:
    """One integer for each axis; None where torch would refuse. Integers of numpy and 0-dimensional tensors count."""
    values = _expand(value, rank)
    return None if values is None or any(_int(v) is None for v in values) else tuple(map(_int, values))  # type: ignore[arg-type]


def _int(value: Any) -> int | None:
    if isinstance(value, int | torch.SymInt):
        return cast(int, value)
    try:
        return operator.index(value)
    except (TypeError, RuntimeError):
        return None


def _pairs(padding: Any, rank: int) -> Pads | None:
    """(begin, end) of each axis, in integers; None where torch would refuse."""
    sides = [p if isinstance(p, tuple | list) else (p, p) for p in _expand(padding, rank) or ()]
    pairs = [_ints(p, 2) if len(p) == 2 else None for p in sides]
    return None if not pairs or None in pairs else cast(Pads, tuple(pairs))


def _conv_geometry(
    x: Ints, w: Ints, bias: Ints | None, stride: Any, padding: Any, dilation: Any, groups: int, rank: int
) -> Geometry | None:
    """The geometry, or None for what only torch can answer or refuse."""
    stride, dilation, groups = _ints(stride, rank), _ints(dilation, rank), cast(int, _int(groups))
    if len(w) != rank + 2 or len(x) not in (rank + 1, rank + 2) or stride is None or dilation is None:
        return None
    if groups is None or groups < 1 or w[0] < groups or w[0] % groups or x[-rank - 1] != w[1] * groups:
        return None
    if min(stride) < 1 or min(dilation) < 1 or min(w) < 1 or (bias is not None and tuple(bias) != (w[0],)):
        return None
    if isinstance(padding, str):
        if padding not in _WORDS[rank]:
            return None
    else:
        padding = _pairs(padding, rank)
        if padding is None or min(map(min, padding)) < 0:
            return None
    space, kernel = x[-rank:], w[2:]
    pads = resolve_padding(padding, space, kernel, stride, dilation)
    begin, end = (tuple(pair[side] for pair in pads) for side in (0, 1))
    size = output_size(space, kernel, stride, begin, end, dilation)
    return (size, stride, begin, dilation, groups) if positive(size) and positive(space) else None


def _conv_transpose_geometry(
    y: Ints, w: Ints, bias: Ints | None,
    stride: Any, padding: Any, output_padding: Any, dilation: Any, groups: int, rank: int,
) -> Geometry | None:  # fmt: skip
    """The geometry, or None for what only torch can answer or refuse."""
    stride, dilation, groups = _ints(stride, rank), _ints(dilation, rank), cast(int, _int(groups))
    padding, extra = _ints(padding, rank), _ints(output_padding, rank)
    if len(w) != rank + 2 or len(y) not in (rank + 1, rank + 2):
        return None
    if stride is None or dilation is None or padding is None or extra is None or groups is None:
        return None
    if groups < 1 or w[0] % groups or y[-rank - 1] != w[0] or min(stride) < 1 or min(dilation) < 1 or min(w) < 1:
        return None
    if min(padding) < 0 or min(extra) < 0 or (bias is not None and tuple(bias) != (w[1] * groups,)):
        return None
    if any(e >= s and e >= d for e, s, d in zip(extra, stride, dilation, strict=True)):
        return None
    size = transposed_size(y[-rank:], w[2:], stride, padding, padding, dilation, extra)
    return (size, stride, padding, dilation, groups) if positive(size) and positive(y[-rank:]) else None


_cached_conv_geometry = lru_cache(maxsize=8192)(_conv_geometry)
_cached_conv_transpose_geometry = lru_cache(maxsize=8192)(_conv_transpose_geometry)


def _is_concrete(input: Tensor) -> bool:
    """Whether sizes are numbers, so that a geometry can be looked up."""
    return type(input) in (Tensor, torch.nn.Parameter) and not torch.compiler.is_dynamo_compiling()


def _look_up(geometry: Any, arguments: tuple[Any, ...]) -> Geometry | None:
    try:
        return geometry(*arguments)  # type: ignore[no-any-return]
    except TypeError:  # a list among the settings is not hashable
        return geometry.__wrapped__(*arguments)  # type: ignore[no-any-return]


# -------------------------------------------------------------------------------------------------- the call


def _is_torchs_own(input: Tensor, weight: Tensor) -> bool:
    """Whether torch's own function is the best answer, so that nothing stands between it and the caller.

    That is: under "auto" off CUDA, unless the weight is frozen (torch's operator would keep the input alive for a
    weight gradient that nobody wants) or the input lies on several ranks (torch's has no halos, nor shares of groups);
    and for integers and complex numbers unless kernels are asked for by name.
    """
    if not input.is_floating_point():
        return settings.BACKEND == "auto" or settings.BACKEND.startswith("aten")
    if settings.BACKEND != "auto" or input.device.type == "cuda" or type(input) in PLACED:
        return False
    frozen = input.requires_grad and not weight.requires_grad and torch.is_grad_enabled()
    return not frozen or torch.jit.is_tracing()  # a trace is the same whatever requires gradients


_FELT = 2**22  # multiplications below which the way to a kernel of ours would cost more than it wins
_PLAIN_TYPES = (Tensor, torch.nn.Parameter)


def is_plainly_torchs(
    face: Face, input: Tensor, weight: Tensor, stride: Any, padding: Any, extra: Any, dilation: Any, groups: int
) -> bool:
    """Whether a layer's call is torch's by a few questions that cost no time: most are, on a CPU under "auto".

    What is not may be torch's for all that: `_conv` and `_conv_transpose` ask on. `extra` is a transposed layer's
    output padding.
    """
    return (
        settings.BACKEND == "auto"
        and type(padding) is tuple
        and type(padding[0]) is type(padding[-1]) is type(padding[len(padding) // 2]) is int
        and type(input) is Tensor
        and (weight.requires_grad or not input.requires_grad)
        and input.is_cpu
        and (groups == 1 or not _faces_on_cpu(face, input, weight, stride, padding, extra, dilation, groups))
    )


def _faces_on_cpu(
    face: Face, input: Tensor, weight: Tensor, stride: Any, padding: Any, extra: Any, dilation: Any, groups: int
) -> frozenset[Face]:
    """The faces of a convolution of plain tensors, given the operands of one, that "auto" takes from torch on this CPU.

    None for a small one: its answer would take longer than it saves.
    """
    if torch.compiler.is_dynamo_compiling() or torch._C._is_tracing() or type(input) not in _PLAIN_TYPES:
        return _NONE
    if input.numel() * weight.shape[1:].numel() < _FELT:
        return _NONE
    tail = input.dtype, stride, padding, extra if isinstance(extra, int) else tuple(extra), dilation, groups
    described = face, input.shape, input.stride(), weight.shape, weight.stride(), *tail
    return _look_up(_measured_faces, described)  # type: ignore[return-value]


_NONE: frozenset[Face] = frozenset()


@lru_cache(maxsize=8192)
def _measured_faces(
    face: Face, shape: Sizes, strides: Sizes, w_shape: Sizes, w_strides: Sizes, dtype: torch.dtype,
    stride: Any, padding: Any, extra: Any, dilation: Any, groups: int,
) -> frozenset[Face]:  # fmt: skip
    rank = len(w_shape) - 2
    if len(shape) != rank + 2 or not dtype.is_floating_point:
        return _NONE
    if face == "fprop":
        found = _conv_geometry(shape, w_shape, None, stride, padding, dilation, groups, rank)
    else:
        found = _conv_transpose_geometry(shape, w_shape, None, stride, padding, extra, dilation, groups, rank)
    if found is None:
        return _NONE
    lies = (shape, strides), (w_shape, w_strides)
    channels_last = any(is_channels_last(torch.empty_strided(*lie, device="meta")) for lie in lies)
    return registry.cpu_faces(ConvProblem.of(face, shape, w_shape, *found, dtype, channels_last))


remembered.FORGET.append(_measured_faces.cache_clear)


def _ours_on_cpu(
    face: Face, input: Tensor, weight: Tensor, bias: Tensor | None,
    stride: Any, padding: Any, extra: Any, dilation: Any, groups: int,
) -> bool:  # fmt: skip
    """Whether a kernel of ours was measured to be faster on this CPU in a call that torch would take otherwise.

    That is for one of the faces that the call wants, its gradients among them, in plain eager code: compilers,
    exporters, transforms and modes keep torch's operator, which they know.
    """
    if groups == 1 or not input.is_cpu:
        return False
    faces = _faces_on_cpu(face, input, weight, stride, padding, extra, dilation, groups)
    if not faces:
        return False
    wanted = {face}
    if torch.is_grad_enabled():
        wanted |= {
            FACE_OPENING[role] for role, t in zip(OPERANDS[face], (input, weight), strict=True) if t.requires_grad
        }
    return bool(wanted & faces) and is_plain(input, weight, bias)


def _conv(
    rank: int, input: Tensor, weight: Tensor, bias: Tensor | None,
    stride: Any, padding: Any, dilation: Any, groups: int,
) -> Tensor:  # fmt: skip
    arguments = rank, stride, padding, dilation, groups, settings.BACKEND
    key, call = _made_before("fprop", input, weight, bias, arguments)
    if call is TORCHS:
        return _TORCH_CONV[rank](input, weight, bias, stride, padding, dilation, groups)
    if call is not None:
        return again(call, input, weight, bias)
    if not (isinstance(input, Tensor) and isinstance(weight, Tensor)):
        return _without_tensors(_CONV[rank], _TORCH_CONV[rank], input, weight, bias, stride, padding, dilation, groups)
    if isinstance(padding, str) and (near := _near_word(padding, rank)):
        raise RuntimeError(f"Invalid padding string: {padding!r}, did you mean {near!r}?")
    torchs_own = _is_torchs_own(input, weight)
    if torchs_own and is_torchs(padding, stride, rank):
        if not _ours_on_cpu("fprop", input, weight, bias, stride, padding, 0, dilation, groups):
            return _TORCH_CONV[rank](input, weight, bias, stride, padding, dilation, groups)
        torchs_own = False
    concrete = _is_concrete(input)
    if concrete and torch._C._is_tracing():
        return traced.conv(rank, input, weight, bias, stride, padding, dilation, groups)
    bias_shape = None if bias is None else bias.shape
    described = input.shape, weight.shape, bias_shape, stride, padding, dilation, groups, rank
    found = _look_up(_cached_conv_geometry, described) if concrete else _conv_geometry(*described)
    if found is None or (torchs_own and not input.is_floating_point()):
        return _torchs_answer(_torch_conv(rank, input, weight, bias, stride, padding, dilation, groups))
    if key is not None and is_torchs(padding, stride, rank) and _is_torchs_by_name("fprop", input, weight, bias, found):
        result = _TORCH_CONV[rank](input, weight, bias, stride, padding, dilation, groups)
        if _lies_as_ours(result, input, weight):
            remember(_torchs, key_for_torch(input, weight, bias, "fprop", arguments), TORCHS)
            return result
    return _batched(rank, "fprop", input, weight, bias, found, key)


def _torch_conv(
    rank: int, input: Tensor, weight: Tensor, bias: Tensor | None,
    stride: Any, padding: Any, dilation: Any, groups: int,
) -> Tensor:  # fmt: skip
    """torch's own convolution, after a padded copy where torch does not have the padding."""
    if not is_torchs(padding, stride, rank) and weight.dim() == rank + 2 and input.dim() in (rank + 1, rank + 2):
        s, d = _ints(stride, rank), _ints(dilation, rank)
        pads = padding if isinstance(padding, str) else _pairs(padding, rank)
        if s is not None and d is not None and pads is not None and min(s) > 0:
            input = pad(input, resolve_padding(pads, input.shape[-rank:], weight.shape[2:], s, d), "zeros")
            padding = 0
    return _TORCH_CONV[rank](input, weight, bias, stride, padding, dilation, groups)


def _conv_transpose(
    rank: int, input: Tensor, weight: Tensor, bias: Tensor | None,
    stride: Any, padding: Any, output_padding: Any, groups: int, dilation: Any,
) -> Tensor:  # fmt: skip
    torchs = _TORCH_CONV_TRANSPOSE[rank]
    arguments = rank, stride, padding, output_padding, dilation, groups, settings.BACKEND
    key, call = _made_before("dgrad", input, weight, bias, arguments)
    if call is TORCHS:
        return torchs(input, weight, bias, stride, padding, output_padding, groups, dilation)
    if call is not None:
        return again(call, input, weight, bias)
    if not (isinstance(input, Tensor) and isinstance(weight, Tensor)):
        settings_ = stride, padding, output_padding, groups, dilation
        return _without_tensors(_CONV_TRANSPOSE[rank], torchs, input, weight, bias, *settings_)
    if _is_torchs_own(input, weight) and not _ours_on_cpu(
        "dgrad", input, weight, bias, stride, padding, output_padding, dilation, groups
    ):
        return torchs(input, weight, bias, stride, padding, output_padding, groups, dilation)
    concrete = _is_concrete(input)
    if concrete and torch._C._is_tracing():
        return traced.conv_transpose(rank, input, weight, bias, stride, padding, output_padding, groups, dilation)
    bias_shape = None if bias is None else bias.shape
    described = input.shape, weight.shape, bias_shape, stride, padding, output_padding, dilation, groups, rank
    found = _look_up(_cached_conv_transpose_geometry, described) if concrete else _conv_transpose_geometry(*described)
    if found is None:
        return _torchs_answer(torchs(input, weight, bias, stride, padding, output_padding, groups, dilation))
    if key is not None and _is_torchs_by_name("dgrad", input, weight, bias, found):
        result = torchs(input, weight, bias, stride, padding, output_padding, groups, dilation)
        if _lies_as_ours(result, input, weight):
            remember(_torchs, key_for_torch(input, weight, bias, "dgrad", arguments), TORCHS)
            return result
    return _batched(rank, "dgrad", input, weight, bias, found, key)


# What stands for a call of torch's own function: ATEN by name, where nothing of ours is before or behind its operator.
# Derivatives, and all transforms of them, are torch's as well.
TORCHS = "torch's own"
_ATEN = ("aten", registry.ATEN.name)


def _saves_alike(input: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Whether torch's operator keeps for a backward pass what ours does, and no `convext.precision` is in force.

    torch's keeps both operands as soon as one of the three tensors is trained.
    """
    if settings.PRECISION is not None:
        return False
    if not torch.is_grad_enabled():
        return True
    trained = weight.requires_grad
    return input.requires_grad is trained and (trained or bias is None or not bias.requires_grad)


def _is_torchs_by_name(face: Face, input: Tensor, weight: Tensor, bias: Tensor | None, found: Geometry) -> bool:
    """Whether a call of ATEN by name may be torch's own function: its operator is all that ATEN's record would run."""
    if settings.BACKEND not in _ATEN or input.dim() != weight.dim():
        return False
    if not _saves_alike(input, weight, bias):
        return False
    problem = ConvProblem.of(face, input.shape, weight.shape, *found, input.dtype, False, input.device.type)
    # A transposed depthwise one ATEN's record computes as torch's backward pass does, on CUDA.
    by_another = face == "dgrad" and problem.device == "cuda" and problem.family == "depthwise"
    if problem.empty or by_another or not problem.symmetric:
        return False
    return registry.choose(problem, settings.BACKEND) is registry.ATEN


def _lies_as_ours(result: Tensor, *operands: Tensor) -> bool:
    """Whether torch's result is dense in the memory format that ours would have."""
    return dense(result, any(map(is_channels_last, operands))) is result


# Calls that were made before, by all that their answer depends on: the next one asks none of the questions below again.
_calls: dict[Any, Call] = {}
_torchs: dict[Any, str] = {}
remembered.FORGET.extend((_calls.clear, _torchs.clear))


def _made_before(
    face: Face, input: Tensor, weight: Tensor, bias: Tensor | None, arguments: tuple[Any, ...]
) -> tuple[Any, Any]:
    """The key of a call, and the call where it was made before.

    A key has what is plain eager code, and a kernel of ours computes whatever requires gradients.
    """
    if settings.BACKEND == "auto" and not (type(input) is Tensor and input.is_cuda):
        return None, None
    if not is_plain_state():
        return None, None
    by_ours = settings.BACKEND in _ATEN and not _saves_alike(input, weight, bias)
    try:
        if settings.BACKEND in _ATEN and not by_ours:
            call = _torchs.get(key_for_torch(input, weight, bias, face, arguments))
            if call is not None:
                return None, call
        key = key_of(input, weight, bias, face, arguments)
        if by_ours and key is not None:
            key = "by ours, which keeps less", key
        return key, _calls.get(key)
    except TypeError:  # a list among the arguments
        return None, None


def _batched(
    rank: int, face: Face, input: Tensor, weight: Tensor, bias: Tensor | None, found: Geometry, key: Any
) -> Tensor:
    """The face, with a batch axis of one put around an unbatched input. A call with a key is remembered."""
    if input.dim() == rank + 1:
        return convolve(face, input.unsqueeze(0), weight, bias, *found, settings.BACKEND).squeeze(0)
    geometry = (*found, settings.BACKEND)
    result = convolve(face, input, weight, bias, *geometry)
    run = None if key is None else run_of(face, input, weight, bias, geometry)
    if run is not None:
        remember(_calls, key, Call(face, geometry, run))
    return result


def _without_tensors(ours: Callable[..., Any], torchs: Callable[..., Any], *arguments: Any) -> Any:
    """torch.fx's proxies, and whatever else stands for tensors, see our function; a mistake gets torch's TypeError."""
    operands = arguments[:3]
    if torch.overrides.has_torch_function(operands):
        return torch.overrides.handle_torch_function(ours, operands, *arguments)
    return torchs(*arguments)


def _torchs_answer(result: Tensor) -> Tensor:
    """What torch answers where it was called to name a mistake: the answer, unless a kernel was asked for by name."""
    if settings.BACKEND == "auto" or settings.BACKEND.startswith("aten"):
        return result
    raise ValueError(f"backend {settings.BACKEND!r} does not take a call that only torch's own function understands")


_CONV = {1: conv1d, 2: conv2d, 3: conv3d}
_CONV_TRANSPOSE = {1: conv_transpose1d, 2: conv_transpose2d, 3: conv_transpose3d}
