"""How DTensors may be placed for the operators, by the axes that each face shares between its tensors.

    T(x, w, y) = sum over n, k, c, o, t of  x[n, c, i] * w[k, c, t] * y[n, k, o]

A mesh axis may split one index. Operands that have the index are sharded along it, the others are replicated; the
result is sharded along it too, or, where it has not got the index, partial: a sum over the ranks. The batch n can
always be split, the channels k and c where there are no groups.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.distributed.tensor import Partial, Replicate, Shard
from torch.distributed.tensor.experimental import register_sharding

from convext.problem import FACES, OPEN, OPERANDS, Face

_AXES = {"x": "nc", "w": "kc", "y": "nk"}  # the first two axes of each tensor

Placements = tuple[list[Any], list[Any]]  # of the results, and of all arguments


def register() -> None:
    """Gives torch.distributed.tensor the rules of the operators."""
    for face in FACES:
        _register(face)
    register_sharding(torch.ops.convext.dgrad_wgrad.default)(_both)


def _register(face: Face) -> None:
    @register_sharding(getattr(torch.ops.convext, face).default)
    def rules(
        a: Any, b: Any, bias: Any, size: Any, stride: Any, pad: Any, dilation: Any, groups: int, kernel: str
    ) -> list[Placements]:
        settings = [None] * 6
        found: list[Placements] = []
        for index in _indices(groups):
            result = _place(OPEN[face], index)
            if bias is not None and isinstance(result, Partial):
                continue  # each rank would add it
            with_bias = (
                None if bias is None else Shard(0) if isinstance(result, Shard) and index != "n" else Replicate()
            )
            operands = [_operand(role, index) for role in OPERANDS[face]]
            found.append(([result], [*operands, with_bias, *settings]))
        return [([Replicate()], [Replicate(), Replicate(), None if bias is None else Replicate(), *settings]), *found]


def _both(y: Any, w: Any, x: Any, stride: Any, pad: Any, dilation: Any, groups: int, kernel: str) -> list[Placements]:
    settings = [None] * 5
    found: list[Placements] = [([Replicate()] * 2, [*[Replicate()] * 3, *settings])]
    for index in _indices(groups):
        results = [_place("x", index), _place("w", index)]
        found.append((results, [*(_operand(role, index) for role in "ywx"), *settings]))
    return found


def _indices(groups: int) -> str:
    return "nkc" if groups == 1 else "n"


def _operand(role: str, index: str) -> Any:
    return Shard(_AXES[role].index(index)) if index in _AXES[role] else Replicate()


def _place(role: str, index: str) -> Any:
    return Shard(_AXES[role].index(index)) if index in _AXES[role] else Partial()
