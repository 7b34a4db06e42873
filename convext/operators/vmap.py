"""A mapped axis joins the convolution: with nothing copied, one face is one larger face."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from convext.operators.autocast import UNCAST
from convext.operators.schema import LIBRARY, OPS
from convext.problem import FACES, OPEN, OPERANDS, Face, Ints

_AXES = {"x": "nc", "w": "kc", "y": "nk"}  # the first two axes of each tensor, by their index in the form


def _fold(t: Tensor, dim: int, axis: int, groups: int) -> Tensor:
    """Moves the mapped axis into `axis`, inside its groups: [B, .., g * m, ..] -> [.., g * B * m, ..]."""
    t = t.movedim(dim, 0).unflatten(axis + 1, (groups, -1))
    return t.movedim(0, axis + 1).flatten(axis, axis + 2)


def _unfold(t: Tensor, axis: int, groups: int, batch: int) -> Tensor:
    """The inverse of `_fold`, with the mapped axis first."""
    return t.unflatten(axis, (groups, batch, -1)).movedim(axis + 1, 0).flatten(axis + 1, axis + 2)


def face_rule(
    face: Face, info: Any, in_dims: Any, a: Tensor, b: Tensor, bias: Tensor | None,
    size: Ints, stride: Ints, pad: Ints, dilation: Ints, groups: int, kernel: str,
) -> tuple[Tensor, int]:  # fmt: skip
    """One face for a mapped axis, with nothing copied B times.

    Both operands mapped: B times the groups. One mapped: its axis joins the index that this operand shares with the
    result and with nothing else (n, k or c), which is a larger convolution of the same kind.
    """
    op, batch, open_role = OPS[face], info.batch_size, OPEN[face]
    mapped = [role for role, dim in zip(OPERANDS[face], in_dims, strict=False) if dim is not None]
    if len(mapped) == 2:
        a, b = (
            _fold(t, dim, 0 if role == "w" else 1, 1)
            for t, dim, role in zip((a, b), in_dims, OPERANDS[face], strict=False)
        )
        result = op(a, b, None, size, stride, pad, dilation, groups * batch, kernel)
        result = _unfold(result, 0 if open_role == "w" else 1, 1, batch)
    elif mapped:
        (role,) = mapped
        (index,) = set(_AXES[role]) & set(_AXES[open_role])

        def place(r: str) -> tuple[int, int]:
            return _AXES[r].index(index), 1 if index == "n" or (r, index) == ("w", "c") else groups

        if role == OPERANDS[face][0]:
            a = _fold(a, in_dims[0], *place(role))
        else:
            b = _fold(b, in_dims[1], *place(role))
        result = _unfold(op(a, b, None, size, stride, pad, dilation, groups, kernel), *place(open_role), batch)
    else:
        result = op(a, b, None, size, stride, pad, dilation, groups, kernel).unsqueeze(0)
    if bias is not None:
        bias = bias.unsqueeze(0) if in_dims[2] is None else bias.movedim(in_dims[2], 0)
        result = result + bias[:, None, :].unflatten(2, (-1, *[1] * len(size)))
    return result, 0


def _vmap_both(
    info: Any, in_dims: Any, y: Tensor, w: Tensor, x: Tensor, *tail: Any
) -> tuple[tuple[Tensor, Tensor], tuple[int | None, int | None]]:
    """Each gradient by the rule of its face."""
    tensors, dims = dict(zip("ywx", (y, w, x), strict=True)), dict(zip("ywx", in_dims, strict=False))

    def gradient(face: Face) -> tuple[Tensor, int | None]:
        (a, b), like, dim = OPERANDS[face], tensors[OPEN[face]], dims[OPEN[face]]
        size = (like if dim is None else like.movedim(dim, 0)[0]).shape[2:]
        if dims[a] is None and dims[b] is None:
            return OPS[face](tensors[a], tensors[b], None, size, *tail), None
        return face_rule(face, info, (dims[a], dims[b], None), tensors[a], tensors[b], None, size, *tail)

    (by_x, first), (by_w, second) = gradient("dgrad"), gradient("wgrad")
    return (by_x, by_w), (first, second)


def as_torch_casts(rule: Callable[..., Any]) -> Callable[..., Any]:
    """`rule` without autocast on a CPU: torch's there knows conv2d, not the operator that conv2d's own rule calls."""

    def uncast(*arguments: Any) -> Any:
        before, UNCAST.on_a_cpu = UNCAST.on_a_cpu, True
        try:
            return rule(*arguments)
        finally:
            UNCAST.on_a_cpu = before

    return uncast


for _face in FACES:
    torch.library.register_vmap(f"convext::{_face}", as_torch_casts(partial(face_rule, _face)), lib=LIBRARY)
torch.library.register_vmap("convext::dgrad_wgrad", as_torch_casts(_vmap_both), lib=LIBRARY)
