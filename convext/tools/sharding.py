"""How DTensors may be placed for the operators, by the axes that each face shares between its tensors.

    T(x, w, y) = sum over n, k, c, o, t of  x[n, c, i] * w[k, c, t] * y[n, k, o]

A mesh axis may split one index. Operands that have the index are sharded along it, the others are replicated; the
result is sharded along it too, or, where it has not got the index, partial: a sum over the ranks. The batch n can
always be split, the channels k and c where there are no groups. Causal convolutions, a filter a channel, are split by
batch or by channel. Steps of one have no rule: they write a state, which would be that of another placement.

These rules serve calls of the operators themselves, `torch.ops.convext.fprop`. They cannot change a call's arguments,
and a rank's share of the groups or of space is a call with other ones: layers and functions go by
`convext.distributed.convolution`, above the operators.

torch.distributed.tensor is not imported here: its import is what has this module's `register` called (teaching.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from convext.operators.placed import PLACED
from convext.problem import FACES, OPEN, OPERANDS, Face

if TYPE_CHECKING:
    import torch.distributed.tensor

_AXES = {"x": "nc", "w": "kc", "y": "nk"}  # the first two axes of each tensor

Placements = tuple[list[Any], list[Any]]  # of the results, and of all arguments


def register() -> None:
    """Gives torch.distributed.tensor the rules of the operators."""
    from torch.distributed.tensor import DTensor
    from torch.distributed.tensor.experimental import register_sharding

    for face in FACES:
        register_sharding(getattr(torch.ops.convext, face).default)(_rules(face))
    register_sharding(torch.ops.convext.dgrad_wgrad.default)(_both)
    register_sharding(torch.ops.convext.causal_conv1d.default)(_causal)
    register_sharding(torch.ops.convext.causal_conv1d_backward.default)(_causal_backward)
    PLACED[DTensor] = _above


def _above(*arguments: Any) -> torch.Tensor:
    """Imported at the first call: `convext.distributed` imports what is being imported while `register` runs."""
    from convext.distributed.convolution import convolve

    return convolve(*arguments)


def _rules(face: Face) -> Callable[..., list[Placements]]:
    def rules(
        a: Any, b: Any, bias: Any, size: Any, stride: Any, pad: Any, dilation: Any, groups: int, kernel: str
    ) -> list[Placements]:
        settings, replicate = [None] * 6, torch.distributed.tensor.Replicate
        found: list[Placements] = []
        for index in _indices(groups):
            result = _place(OPEN[face], index)
            if bias is not None and result.is_partial():
                continue  # each rank would add it
            with_bias = None if bias is None else _shard(0) if result.is_shard() and index != "n" else replicate()
            operands = [_operand(role, index) for role in OPERANDS[face]]
            found.append(([result], [*operands, with_bias, *settings]))
        return [([replicate()], [replicate(), replicate(), None if bias is None else replicate(), *settings]), *found]

    return rules


def _both(y: Any, w: Any, x: Any, stride: Any, pad: Any, dilation: Any, groups: int, kernel: str) -> list[Placements]:
    settings = [None] * 5
    everywhere = torch.distributed.tensor.Replicate()
    found: list[Placements] = [([everywhere] * 2, [*[everywhere] * 3, *settings])]
    for index in _indices(groups):
        results = [_place("x", index), _place("w", index)]
        found.append((results, [*(_operand(role, index) for role in "ywx"), *settings]))
    return found


def _causal(
    x: Any, w: Any, bias: Any, residual: Any, states: Any, seq_idx: Any, cu_seqlens: Any,
    dilation: int, activation: str, kernel: str,
) -> list[Placements]:  # fmt: skip
    found: list[Placements] = []
    for index in _causal_indices(cu_seqlens):
        like_x, like_w = _causal_places(index)
        row = _shard(0) if index == "n" else _everywhere()
        tensors = (x, like_x), (w, like_w), (bias, like_w), (residual, like_x), (states, like_x), (seq_idx, row)
        places = [None if t is None else place for t, place in (*tensors, (cu_seqlens, _everywhere()))]
        found.append(([like_x], [*places, *[None] * 3]))
    return found


def _causal_backward(
    grad: Any, x: Any, w: Any, bias: Any, states: Any, seq_idx: Any, cu_seqlens: Any,
    dilation: int, activation: str, kernel: str,
) -> list[Placements]:  # fmt: skip
    """Gradients by w and bias are partial where the batch is split; those of what is None, empty, are everywhere."""
    found: list[Placements] = []
    forward = _causal(x, w, bias, None, states, seq_idx, cu_seqlens, dilation, activation, kernel)
    for index, ([like_x], [*places]) in zip(_causal_indices(cu_seqlens), forward, strict=True):
        del places[3]  # the residual's
        by_w = torch.distributed.tensor.Partial() if index == "n" else places[1]
        by_bias, by_states = (_everywhere() if t is None else place for t, place in ((bias, by_w), (states, like_x)))
        found.append(([like_x, by_w, by_bias, by_states], [like_x, *places]))
    return found


def _causal_indices(cu_seqlens: Any) -> tuple[str, ...]:
    """What may be split: nothing, channels, and the batch unless it packs sequences in one row."""
    return ("", "c") if cu_seqlens is not None else ("", "c", "n")


def _causal_places(index: str) -> tuple[Any, Any]:
    """Of x [batch, channels, length], and of w [channels, taps]."""
    like_x = _shard("nc".index(index)) if index else _everywhere()
    return like_x, _shard(0) if index == "c" else _everywhere()


def _everywhere() -> Any:
    return torch.distributed.tensor.Replicate()


def _indices(groups: int) -> str:
    return "nkc" if groups == 1 else "n"


def _operand(role: str, index: str) -> Any:
    return _shard(_AXES[role].index(index)) if index in _AXES[role] else torch.distributed.tensor.Replicate()


def _place(role: str, index: str) -> Any:
    return _shard(_AXES[role].index(index)) if index in _AXES[role] else torch.distributed.tensor.Partial()


def _shard(axis: int) -> Any:
    return torch.distributed.tensor.Shard(axis)
