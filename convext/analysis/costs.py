"""What a model gives and what it costs, without computing it: torch's meta device carries shapes only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_map_only
from torch.utils.flop_counter import FlopCounterMode


def parameters(model: nn.Module) -> int:
    """Number of parameters; a shared one counts once."""
    return sum(p.numel() for p in model.parameters())


def output_shape(model: nn.Module, input_shape: Sequence[int]) -> Any:
    """Shape of the model's output for one float input of `input_shape`, batch included: a tuple of ints.

    A structure of such tuples where the model returns a structure. Raises what the model raises for such an input.
    """
    return tree_map_only(torch.Tensor, lambda t: tuple(t.shape), _on_meta(model, input_shape))


def flops(model: nn.Module, input_shape: Sequence[int]) -> int:
    """Multiplications and additions of one forward pass, in convolutions and matrix products.

    A multiply-add counts as two, as in `torch.utils.flop_counter`; biases, activations and pooling are not counted.
    """
    with FlopCounterMode(display=False) as counter:
        _on_meta(model, input_shape)
    return counter.get_total_flops()


def _on_meta(model: nn.Module, input_shape: Sequence[int]) -> Any:
    tensors = {name: t.to("meta") for name, t in (*model.named_parameters(), *model.named_buffers())}
    with torch.no_grad():
        return torch.func.functional_call(model, tensors, torch.empty(tuple(input_shape), device="meta"))
