"""The geometry that torch's arguments mean, or None for what only torch can answer or refuse."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, cast

import torch
from torch import Tensor

from convext.functional.padding import WORDS, Pads, resolve_padding
from convext.problem import Ints, output_size, transposed_size
from convext.problem.symbols import positive

Size = int | Sequence[int]  # one number for all axes, or one each
Sizes = tuple[int, ...]
Geometry = tuple[Sizes, Sizes, Sizes, Sizes, int]  # size of the result, stride, zeros before, dilation, groups


def expand(value: Any, rank: int) -> tuple[Any, ...] | None:
    """One value for each axis, from a number or a sequence of 1 or `rank`; None for any other length."""
    value = tuple(value) if isinstance(value, tuple | list) else (value,)
    return value if len(value) == rank else value * rank if len(value) == 1 else None


def ints(value: Any, rank: int) -> tuple[int, ...] | None:
    """One integer for each axis; None where torch would refuse. Integers of numpy and 0-dimensional tensors count."""
    values = expand(value, rank)
    return None if values is None or any(as_int(v) is None for v in values) else tuple(map(as_int, values))  # type: ignore[arg-type]


def as_int(value: Any) -> int | None:
    if isinstance(value, int | torch.SymInt):
        return cast(int, value)
    try:
        return operator.index(value)
    except (TypeError, RuntimeError):
        return None


def pairs(padding: Any, rank: int) -> Pads | None:
    """(begin, end) of each axis, in integers; None where torch would refuse."""
    sides = [p if isinstance(p, tuple | list) else (p, p) for p in expand(padding, rank) or ()]
    pairs = [ints(p, 2) if len(p) == 2 else None for p in sides]
    return None if not pairs or None in pairs else cast(Pads, tuple(pairs))


def conv_geometry(
    x: Ints, w: Ints, bias: Ints | None, stride: Any, padding: Any, dilation: Any, groups: int, rank: int
) -> Geometry | None:
    """The geometry, or None for what only torch can answer or refuse."""
    stride, dilation, groups = ints(stride, rank), ints(dilation, rank), cast(int, as_int(groups))
    if len(w) != rank + 2 or len(x) not in (rank + 1, rank + 2) or stride is None or dilation is None:
        return None
    if groups is None or groups < 1 or w[0] < groups or w[0] % groups or x[-rank - 1] != w[1] * groups:
        return None
    if min(stride) < 1 or min(dilation) < 1 or min(w) < 1 or (bias is not None and tuple(bias) != (w[0],)):
        return None
    if isinstance(padding, str):
        if padding not in WORDS[rank]:
            return None
    else:
        padding = pairs(padding, rank)
        if padding is None or min(map(min, padding)) < 0:
            return None
    space, kernel = x[-rank:], w[2:]
    pads = resolve_padding(padding, space, kernel, stride, dilation)
    begin, end = (tuple(pair[side] for pair in pads) for side in (0, 1))
    size = output_size(space, kernel, stride, begin, end, dilation)
    return (size, stride, begin, dilation, groups) if positive(size) and positive(space) else None


def conv_transpose_geometry(
    y: Ints, w: Ints, bias: Ints | None,
    stride: Any, padding: Any, output_padding: Any, dilation: Any, groups: int, rank: int,
) -> Geometry | None:  # fmt: skip
    """The geometry, or None for what only torch can answer or refuse."""
    stride, dilation, groups = ints(stride, rank), ints(dilation, rank), cast(int, as_int(groups))
    padding, extra = ints(padding, rank), ints(output_padding, rank)
    if len(w) != rank + 2 or len(y) not in (rank + 1, rank + 2):
        return None
    if stride is None or dilation is None or padding is None or extra is None or groups is None:
        return None
    if groups < 1 or w[0] % groups or y[-rank - 1] != w[0] or min(stride) < 1 or min(dilation) < 1 or min(w) < 1:
        return None
    if min(padding) < 0 or min(extra) < 0 or (bias is not None and tuple(bias) != (w[1] * groups,)):
        return None
    if any(e >= s and e >= d for e, s, d in zip(extra, stride, dilation, strict=True)):
        return None
    size = transposed_size(y[-rank:], w[2:], stride, padding, padding, dilation, extra)
    return (size, stride, padding, dilation, groups) if positive(size) and positive(y[-rank:]) else None


cached_conv_geometry = lru_cache(maxsize=8192)(conv_geometry)
cached_conv_transpose_geometry = lru_cache(maxsize=8192)(conv_transpose_geometry)


def is_concrete(input: Tensor) -> bool:
    """Whether sizes are numbers, so that a geometry can be looked up."""
    return type(input) in (Tensor, torch.nn.Parameter) and not torch.compiler.is_dynamo_compiling()


def look_up(geometry: Any, arguments: tuple[Any, ...]) -> Geometry | None:
    try:
        return geometry(*arguments)  # type: ignore[no-any-return]
    except TypeError:  # a list among the settings is not hashable
        return geometry.__wrapped__(*arguments)  # type: ignore[no-any-return]
