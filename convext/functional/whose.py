"""Whose a call is: torch's own function answers it, or a kernel of ours does."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.compiler import is_dynamo_compiling

from convext.choice import cpu_table, registry, remembered, settings
from convext.functional.geometry import Geometry, Sizes, conv_geometry, conv_transpose_geometry, ints, look_up, pairs
from convext.functional.padding import is_torchs, pad_sides, resolve_padding
from convext.operators.placed import PLACED
from convext.problem import FACE_OPENING, OPERANDS, ConvProblem, Face
from convext.problem.layout import dense, is_channels_last
from convext.providers import aten

TORCH_CONV: dict[int, Callable[..., Tensor]] = {1: torch.conv1d, 2: torch.conv2d, 3: torch.conv3d}
TORCH_CONV_TRANSPOSE: dict[int, Callable[..., Tensor]] = {
    1: torch.conv_transpose1d,
    2: torch.conv_transpose2d,
    3: torch.conv_transpose3d,
}


def is_torchs_own(input: Tensor, weight: Tensor) -> bool:
    """Whether torch's own function is the best answer, so that nothing stands between it and the caller.

    That is: under "auto" off CUDA, unless the weight is frozen (torch's operator would keep the input alive for a
    weight gradient that nobody wants) or the input lies on several ranks (torch's has no halos, nor shares of groups);
    and for integers and complex numbers unless kernels are asked for by name.
    """
    if not input.is_floating_point():
        return settings.BACKEND == "auto" or settings.BACKEND.startswith("aten")
    if settings.BACKEND != "auto" or input.is_cuda or type(input) in PLACED:
        return False
    frozen = input.requires_grad and not weight.requires_grad and torch.is_grad_enabled()
    return not frozen or torch.jit.is_tracing()  # a trace is the same whatever requires gradients


# Microseconds that the way to our kernels costs a call, and its backward pass (Zen 3): what it saves has to be more.
FORWARD, BACKWARD = 60.0, 150.0
AUTOCAST = 60.0  # that our casts cost more than torch's
_SMALLEST = cpu_table.SMALLEST // 2  # multiplications of a call that is asked about: nothing smaller was measured
_PLAIN_TYPES = (Tensor, torch.nn.Parameter)
_ONES = (1, (1,), (1, 1), (1, 1, 1))
_NOTHING = (0.0, 0.0, 0.0)


def is_plainly_torchs(
    face: Face, input: Tensor, weight: Tensor, stride: Any, padding: Any, extra: Any, dilation: Any, groups: int
) -> bool:
    """Whether a layer's call is torch's by a few questions that cost no time: most are, on a CPU under "auto".

    What is not may be torch's for all that: `calls.conv` and `calls.conv_transpose` ask on. `extra` is a transposed
    layer's output padding.
    """
    return (
        settings.BACKEND == "auto"
        and type(padding) is tuple
        and type(padding[0]) is type(padding[-1]) is type(padding[len(padding) // 2]) is int
        and type(input) is Tensor
        and (weight.requires_grad or not input.requires_grad)
        and input.is_cpu
        and not pays_on_cpu(face, input, weight, stride, padding, extra, dilation, groups)
    )


def pays_on_cpu(
    face: Face, input: Tensor, weight: Tensor, stride: Any, padding: Any, extra: Any, dilation: Any, groups: int
) -> bool:
    """Whether a call of plain tensors on a CPU saves more than the way to our kernels costs.

    In its forward, and in the gradients that it wants. torch is fast in float32 where all channels meet, undilated,
    but for volumes of one image: then nobody looks; nor in a small call, where that would take longer than it saves.
    What torch may compute wrong is looked at always. Under autocast it is the call of what the operands are cast to.
    """
    if is_dynamo_compiling() or torch._C._is_tracing():
        return False
    dtype, cast = input.dtype, torch.is_autocast_enabled("cpu")
    if cast and dtype is not torch.float64:
        dtype = torch.get_autocast_dtype("cpu")
    volume = input.ndim == 5 and input.shape[0] == 1
    fast = groups == 1 and dtype is not torch.bfloat16 and dilation in _ONES and not volume  # as `gains_of` says
    fast = fast or input.numel() * weight.shape[1:].numel() < _SMALLEST
    if fast and not ((dtype is torch.bfloat16 or stride not in _ONES)
                     and _may_be_wrong(face, input, weight, dtype, stride, padding, dilation)):  # fmt: skip
        return False
    if type(input) not in _PLAIN_TYPES:
        return False
    tail = dtype, stride, padding, extra if isinstance(extra, int) else tuple(extra), dilation, groups
    described = face, input.shape, input.stride(), weight.shape, weight.stride(), *tail
    saved, by_input, by_weight = look_up(_measured_gains, described)  # type: ignore[misc]
    saved, backward = saved - AUTOCAST if cast else saved, False
    if torch.is_grad_enabled():
        if input.requires_grad:
            saved, backward = saved + by_input, True
        if weight.requires_grad:
            saved, backward = saved + by_weight, True
    return _is_more_than_the_way(saved, backward)


def _may_be_wrong(
    face: Face, input: Tensor, weight: Tensor, dtype: torch.dtype, stride: Any, padding: Any, dilation: Any
) -> bool:
    """Whether torch's weight gradient is one to look at, by questions that cost no time: `aten.fault` answers."""
    half, shape = dtype is torch.bfloat16, weight.shape
    if not weight.requires_grad or input.ndim != weight.ndim:
        return False
    if weight.ndim == 5 and half:
        return face == "dgrad" or input.shape[2] < shape[2]
    if weight.ndim == 5:
        return (padding[0] if type(padding) is tuple else padding) not in (0, 1)
    few = stride not in _ONES and shape[1] < 16 and shape[-1] == shape[-2] == 1
    if weight.ndim != 4 or not (few or (half and dilation not in _ONES)):
        return False
    return (input.stride(1) == 1 or weight.stride(1) == 1) and torch.is_grad_enabled()


def _is_more_than_the_way(saved: float, backward: bool) -> bool:
    return saved > (FORWARD + BACKWARD if backward else FORWARD)


@lru_cache(maxsize=8192)
def _measured_gains(
    face: Face, shape: Sizes, strides: Sizes, w_shape: Sizes, w_strides: Sizes, dtype: torch.dtype,
    stride: Any, padding: Any, extra: Any, dilation: Any, groups: int,
) -> tuple[float, float, float]:  # fmt: skip
    """Microseconds that our kernels save in the face, and in the gradients by its input and by its weight."""
    rank = len(w_shape) - 2
    if len(shape) != rank + 2 or not dtype.is_floating_point:
        return _NOTHING
    if face == "fprop":
        found = conv_geometry(shape, w_shape, None, stride, padding, dilation, groups, rank)
    else:
        found = conv_transpose_geometry(shape, w_shape, None, stride, padding, extra, dilation, groups, rank)
    if found is None:
        return _NOTHING
    lies = (shape, strides), (w_shape, w_strides)
    channels_last = any(is_channels_last(torch.empty_strided(*lie, device="meta")) for lie in lies)
    gains = gains_of(ConvProblem.of(face, shape, w_shape, *found, dtype, channels_last))
    by_input, by_weight = (FACE_OPENING[role] for role in OPERANDS[face])
    return gains.get(face, 0.0), gains.get(by_input, 0.0), gains.get(by_weight, 0.0)


remembered.FORGET.append(_measured_gains.cache_clear)


def gains_of(problem: ConvProblem) -> Mapping[Face, float]:
    """What `registry.cpu_gains` says where a layer's call asks: where torch is fast, only what it computes wrong.

    A volume of one image oneDNN may not get, and torch's own loops take up to twenty times as long as our kernels.
    """
    p = problem
    gains = registry.cpu_gains(p)
    fast = p.groups == 1 and p.dtype is not torch.bfloat16 and set(p.dilation) == {1}
    if fast and not (p.rank == 3 and p.n == 1):
        return {face: gain for face, gain in gains.items() if aten.fault(replace(p, face=face))}
    return gains


def pays(forward: ConvProblem, faces: Collection[Face]) -> bool:
    """`pays_on_cpu` of a problem: whether a layer's call that wants `faces`, the forward among them, is ours."""
    gains = gains_of(forward)
    return _is_more_than_the_way(sum(gains.get(face, 0.0) for face in faces), backward=len(faces) > 1)


def torch_conv(
    rank: int, input: Tensor, weight: Tensor, bias: Tensor | None,
    stride: Any, padding: Any, dilation: Any, groups: int,
) -> Tensor:  # fmt: skip
    """torch's own convolution, after a padded copy where torch does not have the padding."""
    if not is_torchs(padding, stride, rank) and weight.dim() == rank + 2 and input.dim() in (rank + 1, rank + 2):
        s, d = ints(stride, rank), ints(dilation, rank)
        pads = padding if isinstance(padding, str) else pairs(padding, rank)
        if s is not None and d is not None and pads is not None and min(s) > 0:
            input = pad_sides(input, resolve_padding(pads, input.shape[-rank:], weight.shape[2:], s, d), "zeros")
            padding = 0
    return TORCH_CONV[rank](input, weight, bias, stride, padding, dilation, groups)


# ------------------------------------------------------------------------------------------------ ATEN by name

# What stands for a call of torch's own function: ATEN by name, where nothing of ours is before or behind its operator.
# Derivatives, and all transforms of them, are torch's as well.
TORCHS = "torch's own"
ATEN = ("aten", registry.ATEN.name)


def saves_alike(input: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Whether torch's operator keeps for a backward pass what ours does, and no `convext.precision` is in force.

    torch's keeps both operands as soon as one of the three tensors is trained.
    """
    if settings.PRECISION is not None:
        return False
    if not torch.is_grad_enabled():
        return True
    trained = weight.requires_grad
    return input.requires_grad is trained and (trained or bias is None or not bias.requires_grad)


def is_torchs_by_name(face: Face, input: Tensor, weight: Tensor, bias: Tensor | None, found: Geometry) -> bool:
    """Whether a call of ATEN by name may be torch's own function: its operator is all that ATEN's record would run."""
    if settings.BACKEND not in ATEN or input.dim() != weight.dim():
        return False
    if not saves_alike(input, weight, bias):
        return False
    channels_last = any(map(is_channels_last, (input, weight)))
    problem = ConvProblem.of(face, input.shape, weight.shape, *found, input.dtype, channels_last, input.device.type)
    by_another = face == "dgrad" and aten.backward_is_faster(problem)
    by_copies = weight.requires_grad and aten.fault(replace(problem, face="wgrad"))
    if problem.empty or by_another or by_copies or not problem.symmetric:
        return False
    return registry.choose(problem, settings.BACKEND) is registry.ATEN


def lies_as_ours(result: Tensor, *operands: Tensor) -> bool:
    """Whether torch's result is dense in the memory format that ours would have."""
    return dense(result, any(map(is_channels_last, operands))) is result


def torchs_answer(result: Tensor) -> Tensor:
    """What torch answers where it was called to name a mistake: the answer, unless a kernel was asked for by name."""
    if settings.BACKEND == "auto" or settings.BACKEND.startswith("aten"):
        return result
    raise ValueError(f"backend {settings.BACKEND!r} does not take a call that only torch's own function understands")
