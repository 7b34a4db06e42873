"""The three faces as torch operators, and dgrad with wgrad as a fourth: the only file that touches torch.library.

    convext::fprop(x, w, bias, size of y, stride, pad, dilation, groups, kernel) -> y
    convext::dgrad(y, w, bias, size of x, stride, pad, dilation, groups, kernel) -> x
    convext::wgrad(x, y, None, size of w, stride, pad, dilation, groups, kernel) -> w

and both gradients of an fprop, which some kernels compute together for less than one after the other costs:

    convext::dgrad_wgrad(y, w, x, stride, pad, dilation, groups, kernel) -> x, w

`size` holds the spatial axes of the tensor that the face leaves open, `pad` the zeros before each axis, and
`kernel` what `convext.backend` takes. From top to bottom: schema, forward, fake, tracing, autograd, without the
dispatcher, autocast, vmap. FLOPs are in `flops.py`, placements of DTensors in `sharding.py`, and what torch.jit.trace
records of a layer in `traced.py`.

Each face is linear in each operand, and its derivative by one operand is the face that leaves that operand open.
So one autograd rule serves all three, to any order, forward-mode included.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from typing import Any, NoReturn, cast

import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor
from torch._C._functorch import is_functorch_wrapped_tensor, maybe_current_level
from torch._functorch.utils import enable_single_level_autograd_function
from torch.autograd.function import _SingleLevelFunction
from torch.utils._python_dispatch import _disable_current_modes

from convext import layout, registry, settings
from convext.problem import FACE_OPENING, FACES, OPEN, OPERANDS, ConvProblem, Face, Ints, check_geometry, open_shape

LIBRARY = torch.library.Library("convext", "FRAGMENT")
_GEOMETRY = "SymInt[] size, SymInt[] stride, SymInt[] pad, SymInt[] dilation, SymInt groups, str kernel"
for _face in FACES:
    _first, _second = OPERANDS[_face]
    LIBRARY.define(f"{_face}(Tensor {_first}, Tensor {_second}, Tensor? bias, {_GEOMETRY}) -> Tensor")
_OPS = {face: getattr(torch.ops.convext, face).default for face in FACES}
LIBRARY.define(
    "dgrad_wgrad(Tensor y, Tensor w, Tensor x, SymInt[] stride, SymInt[] pad, SymInt[] dilation, SymInt groups, "
    "str kernel) -> (Tensor, Tensor)"
)
_BOTH = torch.ops.convext.dgrad_wgrad.default


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
    _check_operands(face, a, b, bias, groups)
    run, problem = _plan(
        face, a.shape, b.shape, tuple(size), tuple(stride), tuple(pad), tuple(dilation), groups,
        a.dtype, layout.is_channels_last(a) or layout.is_channels_last(b), *_machine(a), kernel,
    )  # fmt: skip
    return run(problem, a, b, bias)


def _machine(t: Tensor) -> tuple[str, int, str]:
    """`device`, `arch` and `precision` of a problem with operands like `t`."""
    device = t.device
    if device.type != "cuda":
        return device.type, 0, "ieee"
    return "cuda", registry.arch(device), settings.fp32_precision() if t.dtype is torch.float32 else "ieee"


def _check_operands(face: Face, a: Tensor, b: Tensor, bias: Tensor | None, groups: int) -> None:
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


@lru_cache(maxsize=8192)
def _plan_both(
    y: Ints, w: Ints, x: Ints, stride: Ints, pad: Ints, dilation: Ints, groups: int,
    dtype: torch.dtype, dgrad_last: bool, wgrad_last: bool, device: str, arch: int, precision: str, kernel: str,
) -> tuple[registry.RunBoth, ConvProblem] | None:  # fmt: skip
    """The dgrad and the function that computes it together with its wgrad, or None where they are computed apart."""
    geometry, machine = (stride, pad, dilation, groups, dtype), (device, arch, precision)
    dgrad = ConvProblem.of("dgrad", y, w, x[2:], *geometry, dgrad_last, *machine)
    wgrad = ConvProblem.of("wgrad", x, y, w[2:], *geometry, wgrad_last, *machine)
    both = registry.choose_both(dgrad, wgrad, kernel)
    return None if both is None else (both.run, dgrad)


def _compute_both(
    y: Tensor, w: Tensor, x: Tensor, stride: Ints, pad: Ints, dilation: Ints, groups: int, kernel: str
) -> tuple[Tensor, Tensor]:
    """Both gradients of an fprop, below autograd."""
    for name, t in (("w", w), ("x", x)):
        if t.dtype != y.dtype or t.device != y.device:
            _refuse_unlike("dgrad_wgrad", name, y, t)
    y_last = layout.is_channels_last(y)
    wgrad_last = y_last or layout.is_channels_last(x)
    plan = _plan_both(
        y.shape, w.shape, x.shape, tuple(stride), tuple(pad), tuple(dilation), groups,
        y.dtype, y_last or layout.is_channels_last(w), wgrad_last, *_machine(y), kernel,
    )  # fmt: skip
    if plan is None:
        tail = (stride, pad, dilation, groups, kernel)
        return _compute("dgrad", y, w, None, x.shape[2:], *tail), _compute("wgrad", x, y, None, w.shape[2:], *tail)
    run, dgrad = plan
    by_x, by_w = run(dgrad, y, w, x)
    return by_x, layout.dense(by_w, wgrad_last)


for _face in FACES:
    LIBRARY.impl(_face, partial(_compute, _face), "CompositeExplicitAutograd")
LIBRARY.impl("dgrad_wgrad", _compute_both, "CompositeExplicitAutograd")


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


def _fake_both(y: Tensor, w: Tensor, x: Tensor, *tail: Any) -> tuple[Tensor, Tensor]:
    return (
        _fake("dgrad", y, w, None, x.shape[2:], *tail),
        _fake("wgrad", x, y, None, w.shape[2:], *tail),
    )


for _face in FACES:
    torch.library.register_fake(f"convext::{_face}", partial(_fake, _face), lib=LIBRARY)
torch.library.register_fake("convext::dgrad_wgrad", _fake_both, lib=LIBRARY)


# ---------------------------------------------------------------------------------------------------- tracing


def _record(name: str, *arguments: Any) -> Any:
    """torch.jit.trace records lists of integers, not of SymInts: it gets a twin of the operator that has those."""
    return getattr(torch.ops.convext, name).ints(*arguments)


for _name in (*FACES, "dgrad_wgrad"):
    _default = getattr(torch.ops.convext, _name).default
    LIBRARY.define(str(_default._schema).removeprefix("convext::").replace("SymInt", "int").replace("(", ".ints(", 1))
    LIBRARY.impl(f"{_name}.ints", _default, "CompositeImplicitAutograd")
    LIBRARY.impl(_name, partial(_record, _name), "Tracer")


# --------------------------------------------------------------------------------------------------- autograd


class Below:
    """Calls an operator below autograd, with gradient modes as they were where autograd was entered.

    An autograd function runs with both modes off. The next level of torch.func's transforms would take its operands
    for constants, and derivatives of derivatives would vanish.
    """

    def __init__(self, keyset: Any) -> None:
        self._keyset = keyset & torch._C._after_autograd_keyset
        self._modes = torch.is_grad_enabled(), torch._C._is_fwd_grad_enabled()

    def __call__(self, op: Any, *arguments: Any) -> Any:
        reverse, forward = self._modes
        with (
            torch.set_grad_enabled(reverse),
            forward_ad._set_fwd_grad_enabled(forward),
            torch._C._AutoDispatchBelowAutograd(),
        ):
            return op.redispatch(self._keyset, *arguments)


class _Face(_SingleLevelFunction):
    """The one derivative rule: by an operand, the face that leaves that operand open; by bias, a sum.

    It sits on the dispatcher's Autograd key and serves one level of differentiation at a time, so torch.func's
    transforms nest around it as around torch's own operators. (`torch.library.register_autograd` refuses them, and
    drops forward-mode tangents without a word.)
    """

    apply: Callable[..., Tensor]
    _compiled_autograd_key = staticmethod(torch.autograd.Function._compiled_autograd_key)  # type: ignore[attr-defined]

    @staticmethod
    def forward(
        ctx: Any, below: Below | None, face: Face, a: Tensor, b: Tensor, bias: Tensor | None, geometry: tuple[Any, ...]
    ) -> Tensor:
        ctx.face, ctx.geometry, ctx.shapes = face, geometry, (a.shape[2:], b.shape[2:])
        needs = ctx.needs_input_grad
        ctx.set_materialize_grads(False)  # an operand without a tangent has none: zeros would be convolved
        ctx.save_for_backward(a if needs[3] else None, b if needs[2] else None)
        if below is None:
            return _compute(face, a, b, bias, *geometry)
        if _forward_mode():
            ctx.save_for_forward(a, b)
        return below(_OPS[face], a, b, bias, *geometry)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, ...]:
        if grad is None:
            return (None,) * 6
        _, *geometry = ctx.geometry
        roles, needs = OPERANDS[ctx.face], ctx.needs_input_grad
        tensors = {**dict(zip(roles, ctx.saved_tensors, strict=True)), OPEN[ctx.face]: grad}
        grads: list[Tensor | None] = [None, None]
        if ctx.face == "fprop" and needs[2] and needs[3]:
            grads[:] = gradients(grad, tensors["w"], tensors["x"], *geometry)
        else:
            for i, role in enumerate(roles):
                if needs[2 + i]:
                    face = FACE_OPENING[role]
                    first, second = (tensors[r] for r in OPERANDS[face])
                    grads[i] = convolve(face, first, second, None, ctx.shapes[i], *geometry)
        bias = grad.sum([0, *range(2, grad.dim())]) if needs[4] else None
        return (None, None, *grads, bias, None)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        """The tangent of the result. Autograd has turned forward mode off here, for the levels below as well, whose
        tangents would vanish: it is turned on again, and this level's are kept out by taking primals."""
        _, _, da, db, dbias, _ = tangents
        with forward_ad._set_fwd_grad_enabled(True):
            a, b = (torch._VF._unpack_dual(t, level=0)[0] for t in ctx.saved_tensors)  # type: ignore[attr-defined]
            terms = [
                convolve(ctx.face, first, second, None, *ctx.geometry)
                for first, second in ((da, b), (a, db))
                if first is not None and second is not None
            ]
            if dbias is not None:
                shape = open_shape(ctx.face, a.shape, b.shape, ctx.geometry[0], ctx.geometry[4])
                terms.append(dbias.view(-1, *[1] * (a.dim() - 2)).expand(shape))
            return sum(terms[1:], terms[0])


def _forward_mode() -> bool:
    """Whether an operand may carry a tangent. Under a compiler only torch.func's level says so, not `forward_ad`."""
    return forward_ad._current_level >= 0 or maybe_current_level() is not None


def _reverse_mode(*tensors: Tensor | None) -> bool:
    """Whether a graph is being recorded for any of `tensors`."""
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)


def _autograd(face: Face, keyset: Any, a: Tensor, b: Tensor, bias: Tensor | None, *geometry: Any) -> Tensor:
    below = Below(keyset)
    if _forward_mode() or _reverse_mode(a, b, bias):
        with enable_single_level_autograd_function():
            return _Face.apply(below, face, a, b, bias, geometry)
    return cast(Tensor, below(_OPS[face], a, b, bias, *geometry))


def _autograd_both(keyset: Any, y: Tensor, w: Tensor, x: Tensor, *tail: Any) -> tuple[Tensor, Tensor]:
    """Where a derivative of the derivatives is recorded, they are two faces again, each with its rule."""
    if _forward_mode() or _reverse_mode(y, w, x):
        return (
            _autograd("dgrad", keyset, y, w, None, x.shape[2:], *tail),
            _autograd("wgrad", keyset, x, y, None, w.shape[2:], *tail),
        )
    return cast("tuple[Tensor, Tensor]", Below(keyset)(_BOTH, y, w, x, *tail))


for _face in FACES:
    LIBRARY.impl(_face, partial(_autograd, _face), "Autograd", with_keyset=True)
LIBRARY.impl("dgrad_wgrad", _autograd_both, "Autograd", with_keyset=True)


# ----------------------------------------------------------------------------------------------- without the dispatcher

_PLAIN_TYPES = (Tensor, torch.nn.Parameter)
_is_subclass_like = torch._C._dispatch_isTensorSubclassLike


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
    if torch.compiler.is_dynamo_compiling():
        return False
    for t in tensors:
        if t is not None and (
            type(t) not in _PLAIN_TYPES
            or _is_subclass_like(t)  # sparse, meta, or wrapped by a transform, also one that has ended
            or t.is_neg()
            or t._is_zerotensor()
        ):
            return False
    return (
        _dispatch_state() in _PLAIN_STATES
        and forward_ad._current_level < 0
        and not torch._C._len_torch_function_stack()
    )


def cpu_faces(
    face: Face, a: Tensor, b: Tensor, size: Ints, stride: Ints, pad: Ints, dilation: Ints, groups: int
) -> frozenset[Face]:
    """The faces of a convolution on a CPU, given as the operands of one of them, that "auto" takes from torch."""
    channels_last = layout.is_channels_last(a) or layout.is_channels_last(b)
    return _cpu_faces(face, a.shape, b.shape, size, stride, pad, dilation, groups, a.dtype, channels_last)


@lru_cache(maxsize=8192)
def _cpu_faces(*problem: Any) -> frozenset[Face]:
    return registry.cpu_faces(ConvProblem.of(*problem))


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
    if not _plain(a, b, bias):
        return cast(Tensor, _OPS[face](a, b, bias, size, stride, pad, dilation, groups, kernel))
    if _reverse_mode(a, b, bias):
        return _Face.apply(None, face, a, b, bias, (size, stride, pad, dilation, groups, kernel))
    return _compute(face, a, b, bias, size, stride, pad, dilation, groups, kernel)


def gradients(
    y: Tensor, w: Tensor, x: Tensor, stride: Ints, pad: Ints, dilation: Ints, groups: int, kernel: str
) -> tuple[Tensor, Tensor]:
    """`torch.ops.convext.dgrad_wgrad`, past the dispatcher as `convolve` is: both gradients of an fprop.

    Args:
        y: the gradient by its result, [N, K, *O].
        w, x: its operands, [K, C/groups, *k] and [N, C, *I].
        stride, pad, dilation, groups, kernel: as for `convolve`.

    Returns:
        The gradients by x and by w, as "dgrad" and "wgrad" give them.

    Raises:
        RuntimeError, ValueError: as `convolve`.
    """
    if not _plain(y, w, x):
        return cast("tuple[Tensor, Tensor]", _BOTH(y, w, x, stride, pad, dilation, groups, kernel))
    if _reverse_mode(y, w, x):
        tail = (stride, pad, dilation, groups, kernel)
        return convolve("dgrad", y, w, None, x.shape[2:], *tail), convolve("wgrad", x, y, None, w.shape[2:], *tail)
    return _compute_both(y, w, x, stride, pad, dilation, groups, kernel)


# --------------------------------------------------------------------------------------------------- autocast


class _Token:
    """Hangs on something of torch's that lives as long as an autocast region."""


class _Casts:
    """Copies of parameters in the autocast dtype, made once a region, as torch's own operators make and share theirs.

    torch has no place for others' copies, and tells nobody when a region ends. So the first cast of a region makes
    torch keep a copy of a sentinel as well. A token hangs on the node of the graph that made that copy, and goes with
    it; and with the token go our copies.
    """

    def __init__(self) -> None:
        self._copies: dict[tuple[int, torch.dtype], tuple[weakref.ref[Tensor], Tensor]] = {}
        self._token: Callable[[], _Token | None] = lambda: None

    def get(self, t: Tensor, dtype: torch.dtype) -> Tensor:
        if not self._is_kept(t, dtype):
            return t.to(dtype)
        kept = self._copies.get((id(t), dtype))
        if kept is not None and kept[0]() is t and kept[1].requires_grad >= torch.is_grad_enabled():
            return kept[1]
        copy = t.to(dtype)
        self._copies[id(t), dtype] = weakref.ref(t), copy
        return copy

    def _is_kept(self, t: Tensor, dtype: torch.dtype) -> bool:
        """What torch keeps copies of: leaves that are trained, in a region that has not turned it off."""
        if type(t) not in _PLAIN_TYPES or is_functorch_wrapped_tensor(t) or t.dtype is not torch.float32:
            return False
        if t.dtype is dtype or not (t.requires_grad and t.is_leaf) or t._is_view():
            return False
        if self._token() is None:
            self._token = self._token_of_the_region(t.device)
        return self._token() is not None

    def _token_of_the_region(self, device: torch.device) -> weakref.ref[_Token]:
        token = _Token()
        with torch.inference_mode(False), torch.enable_grad(), _disable_current_modes():
            sentinel = torch.ones(1, 1, device=device, requires_grad=True)
            cast: Any = (sentinel @ sentinel).grad_fn.next_functions[0][0]  # type: ignore[union-attr]
            cast.metadata["convext"] = token
        return weakref.ref(token, lambda _: self._copies.clear())


class _Uncast(threading.local):
    """Whether a rule of vmap's is running, to which torch's autocast does not reach. (Dispatch keys that are excluded
    there come back: functorch restores those of the level below.)"""

    on_a_cpu = False


_CASTS, _UNCAST = _Casts(), _Uncast()


def _autocast(op: Any, device: str, *arguments: Any) -> Any:
    """Casts floating operands to the autocast dtype, as torch's own convolutions do; float64 stays."""
    dtype = torch.get_autocast_dtype(device)

    def cast_operand(t: Any) -> Any:
        eligible = (
            isinstance(t, Tensor) and t.is_floating_point() and t.dtype != torch.float64 and t.device.type == device
        )
        return _CASTS.get(t, dtype) if eligible else t

    is_cast = not (device == "cpu" and _UNCAST.on_a_cpu)
    operands = list(map(cast_operand, arguments)) if is_cast else arguments
    key = getattr(torch._C.DispatchKey, f"Autocast{device.upper()}")
    with torch._C._ExcludeDispatchKeyGuard(torch._C.DispatchKeySet(key)):
        return op(*operands)


for _name, _op in (*_OPS.items(), ("dgrad_wgrad", _BOTH)):
    for _device in ("cpu", "cuda"):
        LIBRARY.impl(_name, partial(_autocast, _op, _device), f"Autocast{_device.upper()}")


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


def _vmap_both(
    info: Any, in_dims: Any, y: Tensor, w: Tensor, x: Tensor, *tail: Any
) -> tuple[tuple[Tensor, Tensor], tuple[int | None, int | None]]:
    """Each gradient by the rule of its face."""
    tensors, dims = dict(zip("ywx", (y, w, x), strict=True)), dict(zip("ywx", in_dims, strict=False))

    def gradient(face: Face) -> tuple[Tensor, int | None]:
        (a, b), like, dim = OPERANDS[face], tensors[OPEN[face]], dims[OPEN[face]]
        size = (like if dim is None else like.movedim(dim, 0)[0]).shape[2:]
        if dims[a] is None and dims[b] is None:
            return _OPS[face](tensors[a], tensors[b], None, size, *tail), None
        return _vmap(face, info, (dims[a], dims[b], None), tensors[a], tensors[b], None, size, *tail)

    (by_x, first), (by_w, second) = gradient("dgrad"), gradient("wgrad")
    return (by_x, by_w), (first, second)


def _as_torch_casts(rule: Callable[..., Any]) -> Callable[..., Any]:
    """`rule` without autocast on a CPU: torch's there knows conv2d, not the operator that conv2d's own rule calls."""

    def uncast(*arguments: Any) -> Any:
        before, _UNCAST.on_a_cpu = _UNCAST.on_a_cpu, True
        try:
            return rule(*arguments)
        finally:
            _UNCAST.on_a_cpu = before

    return uncast


for _face in FACES:
    torch.library.register_vmap(f"convext::{_face}", _as_torch_casts(partial(_vmap, _face)), lib=LIBRARY)
torch.library.register_vmap("convext::dgrad_wgrad", _as_torch_casts(_vmap_both), lib=LIBRARY)
