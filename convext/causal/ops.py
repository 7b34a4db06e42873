"""The operators of causal convolutions, top to bottom: schema, forward, fake, autograd, without the dispatcher, vmap.

    convext::causal_conv1d(x, w, bias, residual, states, seq_idx, cu_seqlens, dilation, activation, kernel) -> y
    convext::causal_conv1d_backward(by y, x, w, bias, states, ..) -> by x, by w, by bias, by states
    convext::causal_conv1d_update(x, conv_state, w, bias, cache_seqlens, conv_state_indices, ..) -> y

Kernels serve values and first derivatives. Where a derivative of the gradients is recorded, where a tangent may come
along, and under torch.func, composition.py is what runs, in operators that have all of these.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from convext.causal import arguments, choice, composition, native
from convext.operators.autograd import Below, forward_mode, reverse_mode
from convext.operators.plain import is_plain
from convext.problem import layout

LIBRARY = torch.library.Library("convext", "FRAGMENT")
_WHERE = "Tensor? states, Tensor? seq_idx, Tensor? cu_seqlens, int dilation, str activation, str kernel"
LIBRARY.define(f"causal_conv1d(Tensor x, Tensor w, Tensor? bias, Tensor? residual, {_WHERE}) -> Tensor")
LIBRARY.define(
    f"causal_conv1d_backward(Tensor grad, Tensor x, Tensor w, Tensor? bias, {_WHERE})"
    " -> (Tensor, Tensor, Tensor, Tensor)"
)
LIBRARY.define(
    "causal_conv1d_update(Tensor x, Tensor(a!) conv_state, Tensor w, Tensor? bias, Tensor? cache_seqlens,"
    " Tensor? conv_state_indices, int dilation, str activation, str kernel) -> Tensor"
)
_FORWARD = torch.ops.convext.causal_conv1d.default
_BACKWARD = torch.ops.convext.causal_conv1d_backward.default
_UPDATE = torch.ops.convext.causal_conv1d_update.default

Gradients = composition.Gradients


# ---------------------------------------------------------------------------------------------------- forward


def _implementation(x: Tensor, w: Tensor, bias: Tensor | None, span: int, kernel: str) -> Any:
    """The module with `forward`, `backward` and `update` that computes a call; `span` as in `choice.provider`."""
    dtypes = (x.dtype, w.dtype) if bias is None else (x.dtype, w.dtype, bias.dtype)
    provider = choice.provider(x.device.type, dtypes, span, kernel)
    if x.numel() == 0:
        return composition
    if provider == "triton":
        from convext.causal import triton_calls

        return triton_calls
    return native if provider == "cpu" else composition


def _compute(
    x: Tensor, w: Tensor, bias: Tensor | None, residual: Tensor | None, states: Tensor | None,
    seq_idx: Tensor | None, cu_seqlens: Tensor | None, dilation: int, activation: str, kernel: str,
) -> Tensor:  # fmt: skip
    """Below autograd: every road ends here."""
    arguments.check_forward(x, w, bias, residual, states, seq_idx, cu_seqlens, dilation)
    if cu_seqlens is not None and cu_seqlens.device.type == "cpu":
        arguments.check_offsets(cu_seqlens, x.shape[2])
    run = _implementation(x, w, bias, (w.shape[1] - 1) * dilation, kernel).forward
    y = run(x, w, bias, residual, states, seq_idx, cu_seqlens, dilation, activation)
    return layout.dense(y, layout.is_channels_last(x))


def _compute_gradients(grad: Tensor, x: Tensor, w: Tensor, bias: Tensor | None, *tail: Any) -> Gradients:
    """Below autograd: every road ends here."""
    *where, kernel = tail
    run = _implementation(x, w, bias, (w.shape[1] - 1) * where[3], kernel).backward
    by_x, *others = run(grad, x, w, bias, *where)
    return layout.dense(by_x, layout.is_channels_last(x)), *map(Tensor.contiguous, others)  # type: ignore[return-value]


def _compute_update(
    x: Tensor, state: Tensor, w: Tensor, bias: Tensor | None,
    cache_seqlens: Tensor | None, indices: Tensor | None, dilation: int, activation: str, kernel: str,
) -> Tensor:  # fmt: skip
    """Below autograd: every road ends here. The compiled kernel checks its arguments itself, and is asked first: of a
    token of a few microseconds, checks in Python would be a third."""
    try:
        run = _implementation(x, w, bias, 0, kernel)
        if run is not native:
            _check_update(x, state, w, bias, cache_seqlens, indices, dilation)
        return run.update(x, state, w, bias, cache_seqlens, indices, dilation, activation)
    except RuntimeError:
        _check_update(x, state, w, bias, cache_seqlens, indices, dilation)
        raise


def _check_update(
    x: Tensor, state: Tensor, w: Tensor, bias: Tensor | None,
    cache_seqlens: Tensor | None, indices: Tensor | None, dilation: int,
) -> None:  # fmt: skip
    arguments.check_update(x, state, w, bias, cache_seqlens, indices, dilation)
    if indices is not None and indices.device.type == "cpu":
        arguments.check_rows(indices, state.shape[0])


LIBRARY.impl("causal_conv1d", _compute, "CompositeExplicitAutograd")
LIBRARY.impl("causal_conv1d_backward", _compute_gradients, "CompositeExplicitAutograd")
LIBRARY.impl("causal_conv1d_update", _compute_update, "CompositeExplicitAutograd")


# ------------------------------------------------------------------------------------------------------- fake


def _fake(
    x: Tensor, w: Tensor, bias: Tensor | None, residual: Tensor | None, states: Tensor | None,
    seq_idx: Tensor | None, cu_seqlens: Tensor | None, dilation: int, activation: str, kernel: str,
) -> Tensor:  # fmt: skip
    arguments.check_forward(x, w, bias, residual, states, seq_idx, cu_seqlens, dilation)
    return layout.empty(x.shape, layout.is_channels_last(x), x)


def _fake_gradients(
    grad: Tensor, x: Tensor, w: Tensor, bias: Tensor | None, states: Tensor | None, *tail: Any
) -> Gradients:
    by_states = x.new_empty(0) if states is None else x.new_empty(states.shape)
    by_bias = w.new_empty(0) if bias is None else bias.new_empty(bias.shape)
    return layout.empty(x.shape, layout.is_channels_last(x), x), w.new_empty(w.shape), by_bias, by_states


def _fake_update(
    x: Tensor, state: Tensor, w: Tensor, bias: Tensor | None,
    cache_seqlens: Tensor | None, indices: Tensor | None, dilation: int, activation: str, kernel: str,
) -> Tensor:  # fmt: skip
    arguments.check_update(x, state, w, bias, cache_seqlens, indices, dilation)
    return x.new_empty(x.shape)


torch.library.register_fake("convext::causal_conv1d", _fake, lib=LIBRARY)
torch.library.register_fake("convext::causal_conv1d_backward", _fake_gradients, lib=LIBRARY)
torch.library.register_fake("convext::causal_conv1d_update", _fake_update, lib=LIBRARY)


# --------------------------------------------------------------------------------------------------- autograd


class _Causal(torch.autograd.Function):
    """Keeps x, weight, bias and states: the argument of the activation is computed again."""

    @staticmethod
    def forward(ctx: Any, below: Below | None, *arguments: Any) -> Tensor:
        x, w, bias, residual, states, seq_idx, cu_seqlens, *ctx.tail = arguments
        ctx.save_for_backward(x, w, bias, states, seq_idx, cu_seqlens)
        ctx.residual = None if residual is None else residual.dtype
        return _compute(*arguments) if below is None else below(_FORWARD, *arguments)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        _, x, w, bias, residual, states, *_ = ctx.needs_input_grad
        by_x, by_w, by_bias, by_states = None, None, None, None
        if x or w or bias or states:
            by_x, by_w, by_bias, by_states = gradients(grad, *ctx.saved_tensors, *ctx.tail)
        by = (by_x if x else None, by_w if w else None, by_bias if bias else None, grad if residual else None)
        return None, *by, by_states if states else None, *[None] * 5


def _autograd(keyset: Any, *arguments: Any) -> Tensor:
    if forward_mode():
        return composition.forward(*arguments[:-1])
    below = Below(keyset)
    if reverse_mode(*arguments[:5]):
        return cast(Tensor, _Causal.apply(below, *arguments))  # type: ignore[no-untyped-call]
    return cast(Tensor, below(_FORWARD, *arguments))


def _autograd_gradients(keyset: Any, *arguments: Any) -> Gradients:
    if forward_mode() or reverse_mode(*arguments[:5]):
        return composition.backward(*arguments[:-1])
    return cast(Gradients, Below(keyset)(_BACKWARD, *arguments))


def _autograd_update(keyset: Any, x: Tensor, state: Tensor, w: Tensor, bias: Tensor | None, *tail: Any) -> Tensor:
    """The state is no function of anything: gradients go to what this step adds to it, by the composition."""
    if forward_mode() or reverse_mode(x, w, bias):
        _check_update(x, state, w, bias, *tail[:3])
        return composition.update(x, state, w, bias, *tail[:-1])
    return cast(Tensor, Below(keyset)(_UPDATE, x, state, w, bias, *tail))


LIBRARY.impl("causal_conv1d", _autograd, "Autograd", with_keyset=True)
LIBRARY.impl("causal_conv1d_backward", _autograd_gradients, "Autograd", with_keyset=True)
LIBRARY.impl("causal_conv1d_update", _autograd_update, "Autograd", with_keyset=True)


# ----------------------------------------------------------------------------------------------- without the dispatcher


def convolve(*arguments: Any) -> Tensor:
    """`torch.ops.convext.causal_conv1d`, past the dispatcher where that makes no difference but time."""
    if not is_plain(*arguments[:7]):
        return cast(Tensor, _FORWARD(*arguments))
    if reverse_mode(*arguments[:5]):
        return cast(Tensor, _Causal.apply(None, *arguments))  # type: ignore[no-untyped-call]
    return _compute(*arguments)


def gradients(*arguments: Any) -> Gradients:
    """`torch.ops.convext.causal_conv1d_backward`, likewise."""
    if not is_plain(*arguments[:7]):
        return cast(Gradients, _BACKWARD(*arguments))
    if reverse_mode(*arguments[:5]):
        return composition.backward(*arguments[:-1])
    return _compute_gradients(*arguments)


def step(*arguments: Any) -> Tensor:
    """`torch.ops.convext.causal_conv1d_update`, likewise."""
    if not is_plain(*arguments[:6]) or reverse_mode(arguments[0], *arguments[2:4]):
        return cast(Tensor, _UPDATE(*arguments))
    return _compute_update(*arguments)


# ------------------------------------------------------------------------------------------------------- vmap


def _vmap(info: Any, in_dims: Any, x: Tensor, w: Tensor, bias: Tensor | None, *rest: Any) -> tuple[Tensor, int]:
    """Rows of a mapped x join the batch; where weights or offsets are mapped, or offsets given, a call for each."""
    cu_seqlens, *tail = rest[3:]
    if in_dims[1] is not None or in_dims[2] is not None or cu_seqlens is not None:
        arguments = (x, w, bias, *rest)
        return torch.stack([_FORWARD(*_of_one(arguments, in_dims, i)) for i in range(info.batch_size)]), 0
    of_rows = zip((x, *rest[:3]), (in_dims[0], *in_dims[3:6]), strict=True)
    x, *others = (_fold(t, dim, info.batch_size) for t, dim in of_rows)
    y = _FORWARD(x, w, bias, *others, None, *tail)
    return y.unflatten(0, (info.batch_size, -1)), 0


def _fold(t: Tensor | None, dim: int | None, count: int) -> Any:
    """The mapped axis, or `count` copies, in front of the batch and one with it."""
    if t is None:
        return None
    mapped = t.unsqueeze(0).expand(count, *t.shape) if dim is None else t.movedim(dim, 0)
    return mapped.flatten(0, 1)


def _of_one(arguments: Any, in_dims: Any, i: int) -> list[Any]:
    """The arguments of the i-th call that is mapped."""
    return [t if dim is None else t.select(dim, i) for t, dim in zip(arguments, in_dims, strict=True)]


def _vmap_gradients(info: Any, in_dims: Any, *arguments: Any) -> tuple[Any, Any]:
    calls = [_BACKWARD(*_of_one(arguments, in_dims, i)) for i in range(info.batch_size)]
    return tuple(torch.stack(results) for results in zip(*calls, strict=True)), (0, 0, 0, 0)


torch.library.register_vmap("convext::causal_conv1d", _vmap, lib=LIBRARY)
torch.library.register_vmap("convext::causal_conv1d_backward", _vmap_gradients, lib=LIBRARY)
