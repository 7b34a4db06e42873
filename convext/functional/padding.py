"""Paddings: what users give, whether torch has it, and the zeros on each side that it means."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any, Literal

import torch
from torch import Tensor

from convext.problem import Ints

# One number for all axes, or one each; a word, or (begin, end) of an axis.
Padding = Literal["same", "valid", "causal"] | int | Sequence[int | tuple[int, int]]
Pads = tuple[tuple[int, int], ...]

WORDS = {1: ("same", "valid", "causal"), 2: ("same", "valid"), 3: ("same", "valid")}


def resolve_padding(padding: str | Pads, input: Ints, kernel: Ints, stride: Ints, dilation: Ints) -> Pads:
    """Elements of padding (before, after) each spatial axis.

    Args:
        padding: "valid", "same", "causal" (1-D), or the pairs themselves.
        input, kernel, stride, dilation: one value an axis.

    Raises:
        ValueError: an unknown word, or an axis without exactly two sides.
        RuntimeError: negative padding.
    """
    if not isinstance(padding, str):
        if any(len(pair) != 2 for pair in padding):
            raise ValueError(f"expected padding to have a (begin, end) for each axis, but got padding={padding}")
        if any(side < 0 for pair in padding for side in pair):
            raise RuntimeError(f"negative padding is not supported, but got padding={padding}")
        return padding
    if padding == "valid":
        return ((0, 0),) * len(input)
    if padding == "causal" and len(input) == 1:
        return ((dilation[0] * (kernel[0] - 1), 0),)
    if padding == "same":
        pads = []
        for i, k, s, d in zip(input, kernel, stride, dilation, strict=True):
            total = (-(-i // s) - 1) * s + d * (k - 1) + 1 - i
            total = max(total, 0) if type(total) is int else torch.sym_max(total, 0)
            pads.append((total // 2, total - total // 2))
        return tuple(pads)
    raise ValueError(unknown_word(padding, len(input)))


def unknown_word(padding: str, rank: int) -> str | None:
    """What is wrong with a word for padding, or None."""
    if padding in WORDS[rank]:
        return None
    meant = f": did you mean {near!r}?" if (near := near_word(padding, rank)) else ""
    return f"Invalid padding string {padding!r}, should be one of {WORDS[rank]}{meant}"


def near_word(padding: str, rank: int) -> str | None:
    """The word that a misspelt one is near to; None for one that is right, or near to none."""
    return None if padding in WORDS[rank] else next(iter(get_close_matches(padding.lower(), WORDS[rank], 1)), None)


def is_torchs(padding: Any, stride: Any, rank: int) -> bool:
    """Whether `padding` is torch's business: all but pairs, "same" with a stride, and "causal" in 1-D."""
    if isinstance(padding, str):
        strided = any(s != 1 for s in _each(stride))
        return not ((padding == "same" and strided) or (padding == "causal" and rank == 1))
    return not any(isinstance(p, tuple | list) for p in _each(padding))


def _each(value: Any) -> Sequence[Any]:
    return value if isinstance(value, tuple | list) else (value,)


def pad_sides(input: Tensor, pads: Pads, mode: str) -> Tensor:
    """`torch.nn.functional.pad` with (before, after) of each spatial axis, in the order of the axes."""
    flat = [side for pair in reversed(pads) for side in pair]
    return torch.nn.functional.pad(input, flat, mode="constant" if mode == "zeros" else mode)
