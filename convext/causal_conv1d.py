"""Short causal convolutions: the functions of the package `causal_conv1d`, on every machine.

    from convext.causal_conv1d import causal_conv1d_fn, causal_conv1d_update

Same names, arguments and results. Beyond them: any width, dilation, float64, gelu and relu, a residual, packed batches
(`cu_seqlens`), states in both memory formats and with `seq_idx`, CPUs, derivatives of any order, torch.func and
torch.compile(fullgraph=True). `install()` has other packages use them: see docs/causal_conv1d.md.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from convext.causal import arguments, ops
from convext.causal.reference import causal_conv1d_ref, causal_conv1d_update_ref, causal_conv1d_varlen_states_ref
from convext.causal.sequences import final_states
from convext.causal.stand_in import install
from convext.choice import settings
from convext.operators.plain import is_plain
from convext.problem.epilogue import activation_named

__all__ = [
    "causal_conv1d_fn",
    "causal_conv1d_ref",
    "causal_conv1d_update",
    "causal_conv1d_update_ref",
    "causal_conv1d_varlen_states",
    "causal_conv1d_varlen_states_ref",
    "install",
]


def causal_conv1d_fn(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    seq_idx: Tensor | None = None,
    initial_states: Tensor | None = None,
    return_final_states: bool = False,
    final_states_out: Tensor | None = None,
    activation: str | None = None,
    *,
    residual: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    dilation: int = 1,
) -> Any:
    """A depthwise causal convolution with an activation.

        y[b, c, l] = activation(bias[c] + sum over t of  weight[c, t] * x[b, c, l - (width - 1 - t) * dilation])

    Sums are formed in float32, in float64 where x, weight or bias is. A state holds the span = (width - 1) * dilation
    elements before a sequence's first. Nothing is copied where channels or positions of x lie side by side.

    Args:
        x: [batch, channels, length], floating point, of any size and strides.
        weight: [channels, width], any floating dtype.
        bias: [channels], any floating dtype.
        seq_idx: [batch, length], int32 or int64: neighbouring positions with one number are one sequence, and nothing
            is read from another. Negative numbers are padding: zeros there, and no gradient from there.
        initial_states: [batch, channels, span], of x's dtype: what comes before a row's first position; zeros if None.
            With `cu_seqlens` [sequences, channels, span].
        return_final_states: whether to return what the next call goes on from, too.
        final_states_out: where these are written.
        activation: None, "silu" or "swish", "gelu", "relu".
        residual: [batch, channels, length], of x's dtype, added behind the activation, padding included.
        cu_seqlens: [sequences + 1], int32 or int64: a batch of 1 holds sequences one after the other, from
            cu_seqlens[i] to cu_seqlens[i + 1]. Instead of `seq_idx`.
        dilation: distance of the taps.

    Returns:
        y, of the shape, dtype and memory format of x; with `return_final_states`, (y, final states), these
        [batch or sequences, channels, span]. With `seq_idx`, a row's is that of the sequence of its last position.

    Raises:
        ValueError: an unknown activation; a backend asked for by name that does not take the call.
        RuntimeError: shapes, dtypes, devices or offsets that do not fit. Offsets on a GPU are not looked at.
    """
    name = activation_named(activation)
    if return_final_states and final_states_out is not None:
        rows = x.shape[0] if cu_seqlens is None else cu_seqlens.shape[0] - 1
        arguments.check_like(
            x, final_states_out, "final_states_out", (rows, x.shape[1], (weight.shape[1] - 1) * dilation)
        )
    y = ops.convolve(
        x, weight, bias, residual, initial_states, seq_idx, cu_seqlens, dilation, name, settings.BACKEND
    )  # fmt: skip
    if not return_final_states:
        return y
    states = final_states(x, (weight.shape[1] - 1) * dilation, initial_states, seq_idx, cu_seqlens)
    return y, states if final_states_out is None else final_states_out.copy_(states)


def causal_conv1d_update(
    x: Tensor,
    conv_state: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: str | None = None,
    cache_seqlens: Tensor | None = None,
    conv_state_indices: Tensor | None = None,
    *,
    dilation: int = 1,
) -> Tensor:
    """The same for the next elements of sequences, with what came before in `conv_state`, which is updated in place.

    Args:
        x: [batch, channels], or [batch, channels, length] for several elements at once.
        conv_state: [rows, channels, state length], of x's dtype and any strides; at least (width - 1) * dilation long.
            The latest element is the last; with `cache_seqlens`, a ring.
        weight, bias, activation, dilation: as in `causal_conv1d_fn`.
        cache_seqlens: [batch], int32 or int64: how many elements each sequence has seen. Element i lies at i modulo
            the state's length.
        conv_state_indices: [batch], int32 or int64: the row of each sequence's state, by default its own. -1 is
            padding: zeros, and no state is touched.

    Returns:
        Of the shape and dtype of x. A gradient goes to x, weight and bias; the state is no function of them.

    Raises:
        ValueError, RuntimeError: as `causal_conv1d_fn`, before a state is written; indices on a GPU are not looked at.
    """
    name = activation_named(activation)
    where = cache_seqlens, conv_state_indices, dilation, name, settings.BACKEND
    return ops.step(x, conv_state, weight, bias, *where)


def causal_conv1d_varlen_states(x: Tensor, cu_seqlens: Tensor, state_len: int) -> Tensor:
    """The last elements of each sequence of a packed batch, for `causal_conv1d_update` to go on from.

    Args:
        x: [length, channels].
        cu_seqlens: [sequences + 1], within the length: sequence i lies from cu_seqlens[i] to cu_seqlens[i + 1].
        state_len: elements of a state.

    Returns:
        [sequences, channels, state_len], zeros before the beginning of a sequence that is shorter.

    Raises:
        RuntimeError: shapes, dtypes, devices or offsets that do not fit. Offsets on a GPU are not looked at.
    """
    values = cu_seqlens.device.type == "cpu" and is_plain(x, cu_seqlens)
    arguments.check_varlen(x, cu_seqlens, state_len, values)
    return final_states(x.t().unsqueeze(0), state_len, None, None, cu_seqlens)
