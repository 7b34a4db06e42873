"""How DTensors may be placed for the operators, by the axes that each face shares between its tensors.

    T(x, w, y) = sum over n, k, c, o, t of  x[n, c, i] * w[k, c, t] * y[n, k, o]

A mesh axis may split one index. Operands that have the index are sharded along it, the others are replicated; the
result is sharded along it too, or, where it has not got the index, partial: a sum over the ranks. The batch n can
always be split, the channels k and c where there are no groups.

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


def _indices(groups: int) -> str:
    return "nkc" if groups == 1 else "n"


def _operand(role: str, index: str) -> Any:
    return _shard(_AXES[role].index(index)) if index in _AXES[role] else torch.distributed.tensor.Replicate()


def _place(role: str, index: str) -> Any:
    return _shard(_AXES[role].index(index)) if index in _AXES[role] else torch.distributed.tensor.Partial()


def _shard(axis: int) -> Any:
    return torch.distributed.tensor.Shard(axis)
