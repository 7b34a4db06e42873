"""Causal convolutions by the compiled kernels for CPUs (csrc/cpu/causal/)."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from convext.problem import layout
from convext.problem.epilogue import ACTIVATIONS
from convext.providers.cpu import library

NUMBER = {name: i for i, name in enumerate(ACTIVATIONS)}  # as csrc/cpu/shared/epilogue.h counts them


@cache
def isa() -> str:
    """The widest instruction set that is trusted here; unlike plain convolutions, in both memory formats."""
    return library.isa()


def forward(
    x: Tensor, w: Tensor, bias: Tensor | None, residual: Tensor | None, states: Tensor | None,
    seq_idx: Tensor | None, cu_seqlens: Tensor | None, dilation: int, activation: str,
) -> Tensor:  # fmt: skip
    """As `composition.forward`."""
    channels_last = layout.is_channels_last(x)
    y = layout.empty(x.shape, channels_last, x)
    if y.numel() > 0:
        residual = None if residual is None else layout.dense(residual, channels_last)
        where = states, seq_idx, cu_seqlens, dilation, NUMBER[activation]
        torch.ops.convext_cpu.causal_forward.default(isa(), y, x, w, bias, residual, *where)
    return y


def backward(
    grad: Tensor, x: Tensor, w: Tensor, bias: Tensor | None, states: Tensor | None,
    seq_idx: Tensor | None, cu_seqlens: Tensor | None, dilation: int, activation: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """As `composition.backward`."""
    channels_last = layout.is_channels_last(x)
    by_x = layout.empty(x.shape, channels_last, x)
    by_states = x.new_zeros(0) if states is None else torch.zeros_like(states, memory_format=torch.contiguous_format)
    sums = torch.empty(w.shape[0], w.shape[1] + 1, dtype=torch.promote_types(x.dtype, torch.float32))
    torch.ops.convext_cpu.causal_backward.default(
        isa(), by_x, sums, None if states is None else by_states, layout.dense(grad, channels_last), x, w, bias,
        states, seq_idx, cu_seqlens, dilation, NUMBER[activation],
    )  # fmt: skip
    by_bias = w.new_zeros(0) if bias is None else sums[:, -1].to(bias.dtype, copy=True)
    return by_x, sums[:, :-1].to(w.dtype, copy=True, memory_format=torch.contiguous_format), by_bias, by_states


def update(
    x: Tensor, state: Tensor, w: Tensor, bias: Tensor | None,
    cache_seqlens: Tensor | None, indices: Tensor | None, dilation: int, activation: str,
) -> Tensor:  # fmt: skip
    """As `composition.update`."""
    y = torch.empty_like(x, memory_format=torch.contiguous_format)
    arguments = x, state, w, bias, cache_seqlens, indices, dilation, NUMBER[activation]
    torch.ops.convext_cpu.causal_update.default(isa(), y, *arguments)
    return y
