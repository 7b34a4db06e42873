"""Causal convolutions straight from their definition, in torch alone: what tests hold the kernels to.

Names and arguments are those of the package `causal_conv1d`, whose tests import them.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from convext.problem.epilogue import activation_named, apply


def causal_conv1d_ref(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    initial_states: Tensor | None = None,
    return_final_states: bool = False,
    final_states_out: Tensor | None = None,
    activation: str | None = None,
) -> Any:
    """`causal_conv1d_fn` of a sequence a row: in front of x are its state or zeros, and torch convolves both."""
    span = weight.shape[1] - 1
    before = x.new_zeros(*x.shape[:2], span) if initial_states is None else initial_states
    whole = torch.cat([before, x], 2)
    z = F.conv1d(whole.to(weight.dtype), weight.unsqueeze(1), bias, groups=weight.shape[0])
    y = apply(activation_named(activation), z).to(x.dtype)
    if not return_final_states:
        return y
    states = whole[:, :, whole.shape[2] - span :]
    return y, states if final_states_out is None else final_states_out.copy_(states)


def causal_conv1d_update_ref(
    x: Tensor,
    conv_state: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: str | None = None,
    cache_seqlens: Tensor | None = None,
) -> Tensor:
    """`causal_conv1d_update`, element after element: each is written, and the window behind it read."""
    elements = x.unsqueeze(-1) if x.dim() == 2 else x
    batch, span, length = torch.arange(x.shape[0], device=x.device), weight.shape[1] - 1, conv_state.shape[2]
    results = []
    for i in range(elements.shape[2]):
        element = elements[:, :, i]
        if cache_seqlens is None:
            window = torch.cat([conv_state[:, :, length - span :], element.unsqueeze(-1)], 2)
            conv_state.copy_(torch.cat([conv_state, element.unsqueeze(-1)], 2)[:, :, 1:])
        else:
            at = cache_seqlens.long() + i
            before = [conv_state[batch, :, (at - k) % length] for k in range(span, 0, -1)]
            window = torch.stack([*before, element], 2)
            conv_state[batch, :, at % length] = element
        z = (window.to(weight.dtype) * weight).sum(2)
        results.append(apply(activation_named(activation), z if bias is None else z + bias).to(x.dtype))
    return results[0] if x.dim() == 2 else torch.stack(results, 2)


def causal_conv1d_varlen_states_ref(x: Tensor, cu_seqlens: Tensor, state_len: int) -> Tensor:
    """`causal_conv1d_varlen_states`, sequence after sequence."""
    sequences = [x[a:b] for a, b in zip(cu_seqlens.tolist(), cu_seqlens.tolist()[1:], strict=False)]
    states = [F.pad(s[max(0, len(s) - state_len) :].t(), (max(0, state_len - len(s)), 0)) for s in sequences]
    return torch.stack(states) if states else x.new_zeros(0, x.shape[1], state_len)
