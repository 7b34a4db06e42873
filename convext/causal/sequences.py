"""Where sequences lie in a batch, and what is left of them for the call that goes on.

A batch holds a sequence a row; or several, one after the other, told apart by `seq_idx` [batch, length] (negative:
padding) or, in a batch of 1, by their offsets `cu_seqlens` [sequences + 1].

    seq_idx     0  0  0  3  3 -1       cu_seqlens  0, 3, 5
    begin       0  0  0  3  3  6       the first position of the sequence; the length for padding
"""

from __future__ import annotations

import torch
from torch import Tensor


def begins(seq_idx: Tensor) -> Tensor:
    """The position [batch, length] at which the sequence of each position begins; `length` for padding."""
    length = seq_idx.shape[1]
    at = torch.arange(length, device=seq_idx.device)
    first = torch.ones_like(seq_idx, dtype=torch.bool)
    first[:, 1:] = seq_idx[:, 1:] != seq_idx[:, :-1]
    begin = torch.where(first, at, 0).cummax(1).values
    return torch.where(seq_idx < 0, length, begin)


def owners(cu_seqlens: Tensor, length: int) -> Tensor:
    """The sequence [length] that each position of a packed batch belongs to; their number beyond the last."""
    at = torch.arange(length, device=cu_seqlens.device, dtype=cu_seqlens.dtype)
    return torch.searchsorted(cu_seqlens[1:].contiguous(), at, right=True)


def packed_begins(cu_seqlens: Tensor, owner: Tensor) -> Tensor:
    """`begins` [1, length] of a packed batch; `length` beyond the last sequence."""
    end = cu_seqlens.new_full((1,), owner.shape[0])
    return torch.cat([cu_seqlens[:-1], end])[owner].unsqueeze(0)


def final_states(
    x: Tensor, span: int, states: Tensor | None, seq_idx: Tensor | None, cu_seqlens: Tensor | None
) -> Tensor:
    """The last `span` elements of each sequence, behind its initial state or zeros: what the next call goes on from.

    Args:
        x: [batch, channels, length].
        span: elements of a state.
        states: initial states [batch or sequences, channels, span], or None for zeros.
        seq_idx: the state is that of the sequence of a row's last position; zeros where that is padding.
        cu_seqlens: one state for each sequence.

    Returns:
        [batch or sequences, channels, span], channels innermost, in memory of its own.
    """
    if cu_seqlens is not None:
        result = _packed_final_states(x[0], span, states, cu_seqlens)
    else:
        result = _padded_final_states(x, span, states, seq_idx)
    return result.transpose(1, 2).clone(memory_format=torch.contiguous_format).transpose(1, 2)


def _padded_final_states(x: Tensor, span: int, states: Tensor | None, seq_idx: Tensor | None) -> Tensor:
    length = x.shape[2]
    if length < span:
        before = x.new_zeros(*x.shape[:2], span) if states is None else states
        last = torch.cat([before[:, :, length:], x], 2)
    else:
        last = x[:, :, length - span :]
    if seq_idx is None or length == 0:
        return last
    begin = begins(seq_idx)[:, -1:]
    source = torch.arange(length - span, length, device=x.device)
    continues = (source >= begin) | ((source < 0) & (begin == 0))
    return torch.where(continues.unsqueeze(1), last, 0)


def _packed_final_states(x: Tensor, span: int, states: Tensor | None, cu_seqlens: Tensor) -> Tensor:
    """Gathers from [channels, elements of x, of the states, and a zero]."""
    begin, end = cu_seqlens[:-1, None], cu_seqlens[1:, None]
    source = end + torch.arange(-span, 0, device=x.device)
    row = torch.arange(begin.shape[0], device=x.device)[:, None]
    in_state = x.shape[1] + row * span + span + source - begin
    zero = x.shape[1] + (0 if states is None else states.shape[0] * span)
    index = torch.where(source >= begin, source, in_state if states is not None else zero)
    parts = [x, x.new_zeros(x.shape[0], 1)]
    if states is not None:
        parts.insert(1, states.transpose(0, 1).flatten(1))
    return torch.cat(parts, 1)[:, index].transpose(0, 1)


def heads(x: Tensor, span: int, cu_seqlens: Tensor) -> Tensor:
    """The first `span` elements [sequences, channels, span] of each sequence of a packed batch [channels, length];
    zeros beyond its end."""
    source = cu_seqlens[:-1, None] + torch.arange(span, device=x.device)
    inside = source < cu_seqlens[1:, None]
    picked = x[:, torch.where(inside, source, 0)].transpose(0, 1)
    return torch.where(inside[:, None], picked, 0)
