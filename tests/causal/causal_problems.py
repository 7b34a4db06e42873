"""Causal convolutions as a person would write them down: sequence after sequence, in float64, by torch alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

ACTIVATIONS: dict[str | None, Callable[[Tensor], Tensor]] = {
    None: lambda z: z, "silu": lambda z: z / (1 + torch.exp(-z)), "swish": F.silu, "gelu": F.gelu, "relu": F.relu,
}  # fmt: skip

FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def one_sequence(x: Tensor, w: Tensor, bias: Tensor | None, state: Tensor, dilation: int, activation: str | None):
    """(y, final state) of one sequence [channels, length] behind its state [channels, (taps - 1) * dilation]."""
    whole = torch.cat([state, x], 1)
    final = whole[:, whole.shape[1] - state.shape[1] :]
    if x.shape[1] == 0:
        return x, final
    z = F.conv1d(whole.unsqueeze(0), w.unsqueeze(1), bias, dilation=dilation, groups=x.shape[0])[0]
    return ACTIVATIONS[activation](z), final


def oracle(
    x: Tensor, w: Tensor, bias: Tensor | None = None, states: Tensor | None = None, *, lengths: Sequence[Sequence[int]],
    dilation: int = 1, activation: str | None = None, residual: Tensor | None = None, packed: bool = False,
):  # fmt: skip
    """(y, final states) in float64.

    Args:
        lengths: of the sequences of each row, one after the other; what is left of the row is padding.
        packed: each sequence has a state; otherwise, the first of each row.
    """
    x, w, bias, states, residual = (None if t is None else t.double() for t in (x, w, bias, states, residual))
    zeros = x.new_zeros(x.shape[1], (w.shape[1] - 1) * dilation)
    rows, finals = [], []
    for b, row in enumerate(lengths):
        begin, parts = 0, []
        for i, length in enumerate(row):
            state = zeros if states is None or (i and not packed) else states[i if packed else b]
            y, final = one_sequence(x[b, :, begin : begin + length], w, bias, state, dilation, activation)
            parts.append(y)
            begin += length
            if packed or i == len(row) - 1:
                finals.append(zeros if begin < x.shape[2] and not packed else final)
        rows.append(torch.cat([*parts, x.new_zeros(x.shape[1], x.shape[2] - begin)], 1))
    y = torch.stack(rows)
    return y if residual is None else y + residual, torch.stack(finals)


def seq_idx_of(lengths: Sequence[Sequence[int]], length: int) -> Tensor:
    rows = [
        torch.cat(
            [torch.repeat_interleave(torch.arange(len(row)), torch.tensor(row)), torch.full((length - sum(row),), -1)]
        )
        for row in lengths
    ]
    return torch.stack(rows).int()


def in_layout(t: Tensor, layout: str) -> Tensor:
    """The values of `t` with L innermost, C innermost, as a slice of something larger, or with neither innermost."""
    if layout == "length":
        return t.contiguous()
    if layout == "channels":
        return t.transpose(1, 2).contiguous().transpose(1, 2)
    if layout == "slice of channels":  # as after a projection that computes more
        large = torch.full((t.shape[0], t.shape[2], t.shape[1] + 5), torch.nan, dtype=t.dtype)
        return large[:, :, 3:-2].transpose(1, 2).copy_(t)
    large = torch.full((t.shape[0], t.shape[1], 2 * t.shape[2]), torch.nan, dtype=t.dtype)
    return large[:, :, ::2].copy_(t)


LAYOUTS = ("length", "channels", "slice of channels", "every second")


def assert_near(result: Tensor, exact: Tensor, dtype: torch.dtype, terms: int = 1) -> None:
    """Rounding of one result of `dtype`, and of `terms` products that were added in float32 (or float64)."""
    assert result.dtype == dtype
    unit = torch.finfo(dtype).eps + terms * torch.finfo(torch.promote_types(dtype, torch.float32)).eps
    torch.testing.assert_close(result.double(), exact, rtol=2 * unit, atol=2 * unit)
