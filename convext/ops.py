"""The three faces as torch operators: the only file that touches torch.library.

    convext::fprop(x, w, bias, size of y, stride, pad, dilation, groups, kernel) -> y
    convext::dgrad(y, w, bias, size of x, stride, pad, dilation, groups, kernel) -> x
    convext::wgrad(x, y, None, size of w, stride, pad, dilation, groups, kernel) -> w

`size` holds the spatial axes of the tensor that the face leaves open, `pad` the zeros before each axis, and
`kernel` what `convext.backend` takes. From top to bottom: schema, forward, fake, autograd, autocast, vmap; FLOPs are in
`flops.py`.

Each face is linear in each operand, and its derivative by one operand is the face that leaves that operand open.
So one autograd rule serves all three, to any order, forward-mode included.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from typing import Any, cast

import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor
from torch._functorch.utils import enable_single_level_autograd_function
from torch.autograd.function import _SingleLevelFunction

from convext import flops, layout, registry, settings
from convext.problem import FACE_OPENING, FACES, OPEN, OPERANDS, ConvProblem, Face, Ints, check_geometry, open_shape

_LIBRARY = torch.library.Library("convext", "FRAGMENT")
_GEOMETRY = "SymInt[] size, SymInt[] stride, SymInt[] pad, SymInt[] dilation, SymInt groups, str kernel"
for _face in FACES:
    _first, _second = OPERANDS[_face]
    _LIBRARY.define(f"{_face}(Tensor {_first}, Tensor {_second}, Tensor? bias, {_GEOMETRY}) -> Tensor")
_OPS = {face: getattr(torch.ops.convext, face).default for face in FACES}


# ---------------------------------------------------------------------------------------------------- forward


@lru_cache(maxsize=8192)
def _plan(*problem: Any) -> tuple[registry.Run, ConvProblem]:
    """The problem and the function that computes it. Cached: to build both takes longer than a small kernel."""
    *fields, kernel = problem
    described = ConvProblem.of(*fields)
    return registry.choose(described, kernel).run, described


def _compute(
    face: Face, a: Tensor, b: Tensor, bias: Tensor | None,
    size: Ints, stride: Ints, pad: Ints, dilation: Ints, groups: int, kernel: str,
) -> Tensor:  # fmt: skip
    """Runs a face, below autograd. Every path of every face ends here."""
    dtype, device = a.dtype, a.device
    _check_operands(face, a, b, bias, groups)
    on_cuda = device.type == "cuda"
    run, problem = _plan(
        face, a.shape, b.shape, tuple(size), tuple(stride), tuple(pad), tuple(dilation), groups,
        dtype, layout.is_channels_last(a) or layout.is_channels_last(b), device.type,
        registry.arch(device) if on_cuda else 0,
        settings.fp32_precision() if on_cuda and dtype is torch.float32 else "ieee",
        kernel,
    )  # fmt: skip
    return run(problem, a, b, bias)


def _check_operands(face: Face, a: Tensor, b: Tensor, bias: Tensor | None, groups: int) -> None:
    """Raises RuntimeError where operands differ in dtype or device, or bias does not fit: in torch's words."""
    _check_alike(face, OPERANDS[face][1], a, b)
    if bias is None:
        return
    _check_alike(face, "bias", a, bias)
    channels = b.shape[0] if face == "fprop" else b.shape[1] * groups if face == "dgrad" else 0
    if bias.dim() != 1 or bias.shape[0] != channels:
        raise RuntimeError(
            f"{face}: given weight of size {list(b.shape)}, expected bias to be 1-dimensional with {channels} "
            f"elements, but got bias of size {list(bias.shape)} instead"
        )


def _check_alike(face: Face, name: str, a: Tensor, t: Tensor) -> None:
    if t.dtype != a.dtype:
        raise RuntimeError(f"{face}: input type ({a.dtype}) and {name} type ({t.dtype}) should be the same")
    if t.device != a.device:
        raise RuntimeError(f"{face}: expected all tensors on one device, but got {a.device} and {name} on {t.device}")


for _face in FACES:
    _LIBRARY.impl(_face, partial(_compute, _face), "CompositeExplicitAutograd")


# ------------------------------------------------------------------------------------------------------- fake


def _fake(
    face: Face, a: Tensor, b: Tensor, bias: Tensor | None,
    size: Ints, stride: Ints, pad: Ints, dilation: Ints, groups: int, kernel: str,
) -> Tensor:  # fmt: skip
    """The result's shape and strides, from symbolic shapes too."""
    _check_operands(face, a, b, bias, groups)
    check_geometry(size, stride, pad, dilation)
    shape = open_shape(face, a.shape, b.shape, size, groups)
    return layout.empty(shape, layout.is_channels_last(a) or layout.is_channels_last(b), a)


for _face in FACES:
    torch.library.register_fake(f"convext::{_face}", partial(_fake, _face), lib=_LIBRARY)


# --------------------------------------------------------------------------------------------------- autograd


class _Face(_SingleLevelFunction):
    """The one derivative rule: by an operand, the face that leaves that operand open; by bias, a sum.

    It sits on the dispatcher's Autograd key and serves one level of differentiation at a time, so torch.func's
    transforms nest around it as around torch's own operators. (`torch.library.register_autograd` refuses them, and
    drops forward-mode tangents without a word.)
    """

    apply: Callable[..., Tensor]

    @staticmethod
    def forward(
        ctx: Any, keyset: Any, face: Face, a: Tensor, b: Tensor, bias: Tensor | None, geometry: tuple[Any, ...]
    ) -> Tensor:
        ctx.face, ctx.geometry, ctx.shapes = face, geometry, (a.shape[2:], b.shape[2:])
        needs = ctx.needs_input_grad
        ctx.save_for_backward(a if needs[3] else None, b if needs[2] else None)
        if forward_ad._current_level >= 0:
            ctx.save_for_forward(a, b)
        if keyset is None:
            return _compute(face, a, b, bias, *geometry)
        with torch._C._AutoDispatchBelowAutograd():
            return _OPS[face].redispatch(keyset & torch._C._after_autograd_keyset, a, b, bias, *geometry)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        _, *geometry = ctx.geometry
        roles = OPERANDS[ctx.face]
        tensors = {**dict(zip(roles, ctx.saved_tensors, strict=True)), OPEN[ctx.face]: grad}
        grads: list[Tensor | None] = [None, None]
        for i, role in enumerate(roles):
            if ctx.needs_input_grad[2 + i]:
                face = FACE_OPENING[role]
                first, second = (tensors[r] for r in OPERANDS[face])
                grads[i] = convolve(face, first, second, None, ctx.shapes[i], *geometry)
        bias = grad.sum([0, *range(2, grad.dim())]) if ctx.needs_input_grad[4] else None
        return (None, None, *grads, bias, None)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        a, b = ctx.saved_tensors
        _, _, da, db, dbias, _ = tangents
        terms = [
            convolve(ctx.face, first, second, None, *ctx.geometry)
            for first, second in ((da, b), (a, db))
            if first is not None and second is not None
        ]
        if dbias is not None:
            shape = open_shape(ctx.face, a.shape, b.shape, ctx.geometry[0], ctx.geometry[4])
            terms.append(dbias.view(-1, *[1] * (a.dim() - 2)).expand(shape))
        return sum(terms[1:], terms[0])


def _differentiable(*tensors: Tensor | None) -> bool:
    """Whether a derivative of some kind is being recorded for any of `tensors`."""
    if forward_ad._current_level >= 0:
        return True
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)


def _autograd(face: Face, keyset: Any, a: Tensor, b: Tensor, bias: Tensor | None, *geometry: Any) -> Tensor:
    if _differentiable(a, b, bias):
        with enable_single_level_autograd_function():
            return _Face.apply(keyset, face, a, b, bias, geometry)
    with torch._C._AutoDispatchBelowAutograd():
        return _OPS[face].redispatch(keyset & torch._C._after_autograd_keyset, a, b, bias, *geometry)


for _face in FACES:
    _LIBRARY.impl(_face, partial(_autograd, _face), "Autograd", with_keyset=True)


# ----------------------------------------------------------------------------------------------- without the dispatcher

_PLAIN_TYPES = (Tensor, torch.nn.Parameter)


def _dispatch_state() -> tuple[int, int]:
    return torch._C._dispatch_tls_local_include_set().raw_repr(), torch._C._dispatch_tls_local_exclude_set().raw_repr()


def _plain_states() -> frozenset[tuple[int, int]]:
    """The dispatcher's state in plain eager execution and in inference mode: no mode, transform, autocast or trace."""
    with torch.inference_mode():
        inference = _dispatch_state()
    return frozenset({_dispatch_state(), inference})


with ThreadPoolExecutor(1) as _new_thread:  # in no mode, though this module may be imported inside one
    _PLAIN_STATES = _new_thread.submit(_plain_states).result()


def _plain(*tensors: Tensor | None) -> bool:
    """Whether nothing between Python and the kernels wants to see this call, so that the dispatcher can be skipped."""
    for t in tensors:
        if t is not None and (type(t) not in _PLAIN_TYPES or t.is_neg() or t.layout is not torch.strided):
            return False
    return (
        _dispatch_state() in _PLAIN_STATES
        and forward_ad._current_level < 0
        and not torch._C._len_torch_function_stack()
    )


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
    if torch.compiler.is_compiling() or not _plain(a, b, bias):
        return cast(Tensor, _OPS[face](a, b, bias, size, stride, pad, dilation, groups, kernel))
    if _differentiable(a, b, bias):
        return _Face.apply(None, face, a, b, bias, (size, stride, pad, dilation, groups, kernel))
    return _compute(face, a, b, bias, size, stride, pad, dilation, groups, kernel)


# --------------------------------------------------------------------------------------------------- autocast


def _autocast(face: Face, device: str, a: Tensor, b: Tensor, bias: Tensor | None, *geometry: Any) -> Tensor:
    """Casts floating operands to the autocast dtype, as torch's own convolutions do; float64 stays."""
    dtype = torch.get_autocast_dtype(device)

    def cast_operand(t: Tensor | None) -> Tensor | None:
        eligible = t is not None and t.is_floating_point() and t.dtype != torch.float64 and t.device.type == device
        return t.to(dtype) if t is not None and eligible else t

    key = getattr(torch._C.DispatchKey, f"Autocast{device.upper()}")
    with torch._C._ExcludeDispatchKeyGuard(torch._C.DispatchKeySet(key)):
        return cast(Tensor, _OPS[face](cast_operand(a), cast_operand(b), cast_operand(bias), *geometry))


for _face in FACES:
    for _device in ("cpu", "cuda"):
        _LIBRARY.impl(_face, partial(_autocast, _face, _device), f"Autocast{_device.upper()}")


# ------------------------------------------------------------------------------------------------------- vmap

_AXES = {"x": "nc", "w": "kc", "y": "nk"}  # the first two axes of each tensor, by their index in the form


def _fold(t: Tensor, dim: int, axis: int, groups: int) -> Tensor:
    """Moves the mapped axis into `axis`, inside its groups: [B, .., g * m, ..] -> [.., g * B * m, ..]."""
    t = t.movedim(dim, 0).unflatten(axis + 1, (groups, -1))
    return t.movedim(0, axis + 1).flatten(axis, axis + 2)


def _unfold(t: Tensor, axis: int, groups: int, batch: int) -> Tensor:
    """The inverse of `_fold`, with the mapped axis first."""
    return t.unflatten(axis, (groups, batch, -1)).movedim(axis + 1, 0).flatten(axis + 1, axis + 2)


def _vmap(
    face: Face, info: Any, in_dims: Any, a: Tensor, b: Tensor, bias: Tensor | None,
    size: Ints, stride: Ints, pad: Ints, dilation: Ints, groups: int, kernel: str,
) -> tuple[Tensor, int]:  # fmt: skip
    """One face for a mapped axis, with nothing copied B times.

    Both operands mapped: B times the groups. One mapped: its axis joins the index that this operand shares with the
    result and with nothing else (n, k or c), which is a larger convolution of the same kind.
    """
    op, batch, open_role = _OPS[face], info.batch_size, OPEN[face]
    mapped = [role for role, dim in zip(OPERANDS[face], in_dims, strict=False) if dim is not None]
    if len(mapped) == 2:
        a, b = (
            _fold(t, dim, 0 if role == "w" else 1, 1)
            for t, dim, role in zip((a, b), in_dims, OPERANDS[face], strict=False)
        )
        result = op(a, b, None, size, stride, pad, dilation, groups * batch, kernel)
        result = _unfold(result, 0 if open_role == "w" else 1, 1, batch)
    elif mapped:
        (role,) = mapped
        (index,) = set(_AXES[role]) & set(_AXES[open_role])

        def place(r: str) -> tuple[int, int]:
            return _AXES[r].index(index), 1 if index == "n" or (r, index) == ("w", "c") else groups

        if role == OPERANDS[face][0]:
            a = _fold(a, in_dims[0], *place(role))
        else:
            b = _fold(b, in_dims[1], *place(role))
        result = _unfold(op(a, b, None, size, stride, pad, dilation, groups, kernel), *place(open_role), batch)
    else:
        result = op(a, b, None, size, stride, pad, dilation, groups, kernel).unsqueeze(0)
    if bias is not None:
        bias = bias.unsqueeze(0) if in_dims[2] is None else bias.movedim(in_dims[2], 0)
        result = result + bias[:, None, :].unflatten(2, (-1, *[1] * len(size)))
    return result, 0


for _face in FACES:
    torch.library.register_vmap(f"convext::{_face}", partial(_vmap, _face), lib=_LIBRARY)


flops.install()
