"""Causal convolutions in torch's operators and our faces: what runs where no kernel does, and what derivatives of
derivatives are derivatives of.

A sequence a row is one face of a convolution, of [states, x] where there are states:

    z = fprop(x, w),    x's gradient = dgrad(z's, w),    w's gradient = wgrad(x, z's)

Several sequences a row are gathered, tap by tap, from a pool [x, states, 0]: a tap that would read another sequence
reads the zero. Everything here can be differentiated to any order, forwards and backwards, and mapped by vmap.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from convext.causal.sequences import begins, owners, packed_begins
from convext.operators import convolve
from convext.problem import epilogue

Gradients = tuple[Tensor, Tensor, Tensor, Tensor]


def sum_dtype(*tensors: Tensor | None) -> torch.dtype:
    """What sums are formed in: float64 if a tensor is, else float32."""
    wide = any(t is not None and t.dtype == torch.float64 for t in tensors)
    return torch.float64 if wide else torch.float32


def forward(
    x: Tensor, w: Tensor, bias: Tensor | None, residual: Tensor | None, states: Tensor | None,
    seq_idx: Tensor | None, cu_seqlens: Tensor | None, dilation: int, activation: str,
) -> Tensor:  # fmt: skip
    """The result in the dtype of x; arguments as those of `causal_conv1d_fn`."""
    taps = _taps(x, w, bias, states, seq_idx, cu_seqlens, dilation)
    with torch.autocast(x.device.type, enabled=False):
        y = taps.live(epilogue.apply(activation, taps.sums()))
        return (y if residual is None else y + residual.to(y.dtype)).to(x.dtype)


def backward(
    grad: Tensor, x: Tensor, w: Tensor, bias: Tensor | None, states: Tensor | None,
    seq_idx: Tensor | None, cu_seqlens: Tensor | None, dilation: int, activation: str,
) -> Gradients:  # fmt: skip
    """The gradients by x, w, bias and states, given that by the result; for what is None, without elements."""
    taps = _taps(x, w, bias, states, seq_idx, cu_seqlens, dilation)
    with torch.autocast(x.device.type, enabled=False):
        by_sums = epilogue.gradient(activation, taps.live(grad.to(taps.dtype)), taps.sums())
        by_x, by_states, by_w = taps.gradients(by_sums)
        by_bias = w.new_zeros(0) if bias is None else by_sums.sum((0, 2)).to(bias.dtype)
        by_states = x.new_zeros(0) if by_states is None else by_states.to(x.dtype)
        return by_x.to(x.dtype), by_w.to(w.dtype), by_bias, by_states


def _taps(
    x: Tensor, w: Tensor, bias: Tensor | None, states: Tensor | None,
    seq_idx: Tensor | None, cu_seqlens: Tensor | None, dilation: int,
) -> _Rows | _Pool:  # fmt: skip
    dtype = sum_dtype(x, w, bias)
    bias, states = (None if t is None else t.to(dtype) for t in (bias, states))
    operands = x.to(dtype), w.to(dtype), bias, states
    if seq_idx is None and cu_seqlens is None and x.numel() > 0:
        return _Rows(*operands, dilation)
    return _Pool(*operands, seq_idx, cu_seqlens, dilation)


@dataclass
class _Rows:
    """A sequence a row: faces of a depthwise convolution."""

    x: Tensor
    w: Tensor
    bias: Tensor | None
    states: Tensor | None
    dilation: int

    def __post_init__(self) -> None:
        self.dtype, self.channels, self.length = self.x.dtype, self.x.shape[1], self.x.shape[2]
        self.span = (self.w.shape[1] - 1) * self.dilation
        self.operand = self.x if self.states is None else torch.cat([self.states, self.x], 2)
        self.geometry = ((1,), (0 if self.states is not None else self.span,), (self.dilation,), self.channels, "auto")

    def sums(self) -> Tensor:
        return convolve("fprop", self.operand, self.w.unsqueeze(1), self.bias, (self.length,), *self.geometry)

    def live(self, y: Tensor) -> Tensor:
        return y

    def gradients(self, grad: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        """By x, by the states and by w."""
        size = self.operand.shape[2:]
        by_operand = convolve("dgrad", grad, self.w.unsqueeze(1), None, size, *self.geometry)
        by_w = convolve("wgrad", self.operand, grad, None, self.w.shape[1:], *self.geometry).squeeze(1)
        if self.states is None:
            return by_operand, None, by_w
        return by_operand[:, :, self.span :], by_operand[:, :, : self.span], by_w


@dataclass
class _Pool:
    """Several sequences a row. `index` [taps, batch, length]: where in the pool each tap of each position reads."""

    x: Tensor
    w: Tensor
    bias: Tensor | None
    states: Tensor | None
    seq_idx: Tensor | None
    cu_seqlens: Tensor | None
    dilation: int

    def __post_init__(self) -> None:
        batch, self.channels, self.length = self.x.shape
        self.dtype, self.span = self.x.dtype, (self.w.shape[1] - 1) * self.dilation
        parts = [self.x, self.x.new_zeros(batch, self.channels, 1)]
        if self.states is not None:
            rows = self.states.transpose(0, 1).flatten(1).unsqueeze(0) if self.cu_seqlens is not None else self.states
            parts.insert(1, rows)
        self.pool = torch.cat(parts, 2)
        at = torch.arange(self.length, device=self.x.device)
        first_of_state = at.new_tensor(self.length)
        if self.cu_seqlens is not None:
            owner = owners(self.cu_seqlens, self.length)
            begin = packed_begins(self.cu_seqlens, owner)
            first_of_state = self.length + owner * self.span
        elif self.seq_idx is not None:
            begin = begins(self.seq_idx)
        else:
            begin = at.new_zeros(batch, self.length)
        self.padding = (begin > at).unsqueeze(1)
        back = self.span - torch.arange(self.w.shape[1], device=self.x.device).view(-1, 1, 1) * self.dilation
        source = at - back
        before = begin - source  # so many elements before its sequence
        has_state = torch.tensor(self.states is not None, device=self.x.device)
        if self.cu_seqlens is None:
            has_state = has_state & (begin == 0)
        in_state = torch.where(has_state, first_of_state + self.span - before, self.pool.shape[2] - 1)
        index = torch.where(before > 0, in_state, source)
        self.index = torch.where(begin > at, self.pool.shape[2] - 1, index)

    def _tap(self, t: int) -> Tensor:
        return self.index[t].unsqueeze(1).expand(-1, self.channels, -1)

    def sums(self) -> Tensor:
        z = torch.zeros_like(self.x) if self.bias is None else self.bias.view(-1, 1).expand(self.x.shape)
        for t in range(self.w.shape[1]):
            z = z + self.w[:, t, None] * self.pool.gather(2, self._tap(t))
        return z

    def live(self, y: Tensor) -> Tensor:
        """Zeros where there is padding."""
        return torch.where(self.padding, 0, y)

    def gradients(self, grad: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        """By x, by the states and by w."""
        by_pool, by_w = torch.zeros_like(self.pool), []
        for t in range(self.w.shape[1]):
            by_pool = by_pool.scatter_add(2, self._tap(t), grad * self.w[:, t, None])
            by_w.append((grad * self.pool.gather(2, self._tap(t))).sum((0, 2)))
        by_x, by_states = by_pool[:, :, : self.length], None
        if self.states is not None:
            by_states = by_pool[:, :, self.length : -1]
            if self.cu_seqlens is not None:
                by_states = by_states[0].unflatten(1, (-1, self.span)).transpose(0, 1)
        return by_x, by_states, torch.stack(by_w, 1)


def update(
    x: Tensor, state: Tensor, w: Tensor, bias: Tensor | None,
    cache_seqlens: Tensor | None, indices: Tensor | None, dilation: int, activation: str,
) -> Tensor:  # fmt: skip
    """A step of `causal_conv1d_update`, which writes `state`."""
    if x.dim() == 2:
        return update(x.unsqueeze(2), state, w, bias, cache_seqlens, indices, dilation, activation).squeeze(2)
    length, span, state_length = x.shape[2], (w.shape[1] - 1) * dilation, state.shape[2]
    padding = None if indices is None else (indices < 0).view(-1, 1, 1)
    rows = state if indices is None else state[indices.clamp(min=0)]
    if cache_seqlens is None:
        before, after = rows[:, :, state_length - span :], torch.cat([rows, x.detach()], 2)[:, :, length:]
    else:
        reading = (cache_seqlens[:, None] + torch.arange(-span, 0, device=x.device)) % state_length if span else None
        before = rows[:, :, :0] if reading is None else rows.gather(2, _everywhere(reading, x))
        last = min(length, state_length)
        at = cache_seqlens[:, None] + torch.arange(length - last, length, device=x.device)
        writing = _everywhere(at % max(state_length, 1), x)
        after = rows.scatter(2, writing, x.detach()[:, :, length - last :])
    y = forward(x, w, bias, None, before, None, None, dilation, activation)
    _write(state, after, indices)
    return y if padding is None else torch.where(padding, 0, y)


def _everywhere(index: Tensor, x: Tensor) -> Tensor:
    """[batch, n] for every channel."""
    return index.long().unsqueeze(1).expand(-1, x.shape[1], -1)


def _write(state: Tensor, rows: Tensor, indices: Tensor | None) -> None:
    """Without a question to the device: a row of padding writes what the first row that is none does, once more."""
    with torch.no_grad():
        if indices is None:
            state.copy_(rows)
        elif indices.shape[0] > 0:
            padding = indices < 0
            donor = (~padding).to(torch.int32).argmax()  # 0 where all are padding: then row 0 gets what it holds
            target = torch.where(padding, indices[donor], indices).clamp(min=0).long()
            given = torch.where(padding[donor], state[0], rows[donor])
            state.index_copy_(0, target, torch.where(padding.view(-1, 1, 1), given, rows))
