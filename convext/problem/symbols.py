"""Sizes that are symbols: under a compiler, and without a value where only the data tell it, as in `x[mask]`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch


def holds(condition: Any) -> bool:
    """A comparison of sizes; of symbols without a value, whether it holds for every value."""
    if type(condition) is bool:
        return condition
    from torch.fx.experimental.symbolic_shapes import guard_or_false

    return guard_or_false(condition)


def positive(sizes: Sequence[int]) -> bool:
    """Whether all sizes are at least 1. One without a value is taken to be, as torch takes it."""
    if torch.compiler.is_compiling():  # there symbols and their comparisons pass for int and bool
        from torch.fx.experimental.symbolic_shapes import guard_or_false

        return not any(guard_or_false(size < 1) for size in sizes)
    return not any(holds(size < 1) for size in sizes)


def is_contiguous_for_all(t: torch.Tensor) -> bool:
    """Whether `t` is contiguous whatever the sizes without a value are."""
    from torch._prims_common import is_contiguous_or_false

    return is_contiguous_or_false(t)
