"""Causal convolutions by Triton's kernels (triton_kernels/causal)."""

from __future__ import annotations

import torch
from torch import Tensor

from convext.causal import composition
from convext.causal.sequences import begins, heads, owners, packed_begins
from convext.choice import registry
from convext.problem import layout
from convext.triton_kernels.causal import launch
from convext.triton_kernels.causal.launch import Batch


def forward(
    x: Tensor, w: Tensor, bias: Tensor | None, residual: Tensor | None, states: Tensor | None,
    seq_idx: Tensor | None, cu_seqlens: Tensor | None, dilation: int, activation: str,
) -> Tensor:  # fmt: skip
    """As `composition.forward`."""
    channels_last = layout.is_channels_last(x)
    y = layout.empty(x.shape, channels_last, x)
    residual = None if residual is None else layout.dense(residual, channels_last)
    batch = _batch(x, states, seq_idx, cu_seqlens)
    launch.forward(_readable(x, channels_last), w, bias, residual, y, batch, dilation, activation, _arch(x))()
    return y


def backward(
    grad: Tensor, x: Tensor, w: Tensor, bias: Tensor | None, states: Tensor | None,
    seq_idx: Tensor | None, cu_seqlens: Tensor | None, dilation: int, activation: str,
) -> composition.Gradients:  # fmt: skip
    """As `composition.backward`."""
    channels_last = layout.is_channels_last(x)
    by_x = layout.empty(x.shape, channels_last, x)
    x, grad = _readable(x, channels_last), layout.dense(grad, channels_last)
    batch = _batch(x, states, seq_idx, cu_seqlens)
    run, partial = launch.backward(grad, x, w, bias, by_x, batch, dilation, activation, _arch(x))
    run()
    sums = launch.total(partial)
    by_bias = w.new_zeros(0) if bias is None else sums[:, -1].to(bias.dtype, copy=True)
    by_states = x.new_zeros(0)
    if states is not None:
        by_states = _state_gradient(grad, x, w, bias, states, batch, cu_seqlens, dilation, activation)
    return by_x, sums[:, :-1].to(w.dtype, copy=True, memory_format=torch.contiguous_format), by_bias, by_states


def update(
    x: Tensor, state: Tensor, w: Tensor, bias: Tensor | None,
    cache_seqlens: Tensor | None, indices: Tensor | None, dilation: int, activation: str,
) -> Tensor:  # fmt: skip
    """As `composition.update`."""
    y = torch.empty_like(x, memory_format=torch.contiguous_format)
    elements, results = (x.unsqueeze(2), y.unsqueeze(2)) if x.dim() == 2 else (x, y)
    seen, rows = (None if t is None else t.contiguous() for t in (cache_seqlens, indices))
    launch.update(elements, state, w, bias, seen, rows, results, dilation, activation)()
    return y


def _arch(x: Tensor) -> int:
    return registry.arch(x.device) if x.is_cuda else 0


def _readable(t: Tensor, channels_last: bool) -> Tensor:
    """`t`, or a copy where neither its channels nor its positions lie side by side."""
    return t if channels_last or t.stride(2) == 1 or t.shape[2] == 1 else t.contiguous()


def _batch(x: Tensor, states: Tensor | None, seq_idx: Tensor | None, cu_seqlens: Tensor | None) -> Batch:
    if cu_seqlens is not None:
        owner = owners(cu_seqlens, x.shape[2])
        begin = packed_begins(cu_seqlens, owner)
        return Batch(begin.int().contiguous(), None if states is None else owner.int(), states)
    return Batch(None if seq_idx is None else begins(seq_idx).int().contiguous(), None, states)


def _state_gradient(
    grad: Tensor, x: Tensor, w: Tensor, bias: Tensor | None, states: Tensor, batch: Batch,
    cu_seqlens: Tensor | None, dilation: int, activation: str,
) -> Tensor:  # fmt: skip
    """From the positions that read a state: the first ones of each sequence."""
    span = states.shape[2]
    if cu_seqlens is not None:
        grad, x = heads(grad[0], span, cu_seqlens), heads(x[0], span, cu_seqlens)
    else:
        grad, x = grad[:, :, :span], x[:, :, :span]
        if batch.begin is not None:
            grad = torch.where(batch.begin[:, None, :span] == 0, grad, 0)
    if grad.numel() == 0:
        return torch.zeros_like(states)
    return composition.backward(grad, x, w, bias, states, None, None, dilation, activation)[3]
