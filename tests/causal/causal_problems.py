"""Causal convolutions as a person would write them down: sequence after sequence, in float64, by torch alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from convext.causal_conv1d import causal_conv1d_fn

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


def draw(batch, channels, length, width, dtype=torch.float32, w_dtype=None, dilation=1, rows=None):
    """x, w, bias and states; rounded to their dtypes, so that an oracle sees the same numbers."""
    x = torch.randn(batch, channels, length).to(dtype)
    w, bias = (torch.randn(shape).to(w_dtype or dtype) for shape in ((channels, width), (channels,)))
    return x, w, bias, torch.randn(rows or batch, channels, (width - 1) * dilation).to(dtype)


def check(x, w, bias, states, lengths, *, layout="length", activation="silu", dilation=1, residual=None, **where):
    """Values, final states and gradients of one call."""
    packed = "cu_seqlens" in where
    exact = [t if t is None else t.double().requires_grad_() for t in (x, w, bias, states, residual)]
    y, final = oracle(
        *exact[:4], lengths=lengths, dilation=dilation, activation=activation, residual=exact[4], packed=packed
    )
    upstream = torch.randn(y.shape).to(x.dtype)
    upstream_of_states = torch.randn(final.shape).to(x.dtype)
    wanted = [t for t in exact if t is not None]
    loss = (y * upstream.double()).sum() + (final * upstream_of_states.double()).sum()
    by_exact = torch.autograd.grad(loss, wanted, allow_unused=True)

    x = in_layout(x, layout)
    ours = [t if t is None else t.detach().requires_grad_() for t in (x, w, bias, states, residual)]
    result, result_final = causal_conv1d_fn(
        *ours[:3], initial_states=ours[3], return_final_states=True, activation=activation,
        residual=ours[4], dilation=dilation, **where,
    )  # fmt: skip
    width = w.shape[1]
    assert_near(result, y.detach(), x.dtype, 8 * width)
    assert torch.equal(result_final.double(), final.detach())
    loss = (result * upstream).sum() + (result_final * upstream_of_states).sum()
    by_ours = torch.autograd.grad(loss, [t for t in ours if t is not None], allow_unused=True)
    for t, a, b in zip(wanted, by_ours, by_exact, strict=True):
        count = 8 * width if t.dim() == 3 else 8 * x.shape[0] * x.shape[2]
        assert (a is None) == (b is None) or b.eq(0).all()
        if a is not None and b is not None:
            assert a.shape == b.shape
            assert_near(a, b, a.dtype, count)


def whole(batch: int, length: int) -> list[list[int]]:
    return [[length]] * batch
