"""The operators' FLOPs, for torch.utils.flop_counter.

That module imports Triton, so we do not import it: `teaching.py` has it given our formulas when somebody else does.
Later would be too late, for a counter copies the formulas when it is made.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch

from convext.problem import FACES, OPEN, OPERANDS, Face, Ints, epilogue


def _flops(face: Face, a: Ints, b: Ints, *args: Any, out_shape: Ints, **kwargs: Any) -> int:
    """2 * N * prod(O) * prod(shape of w): the terms of the form, for each face."""
    shape = dict(zip((*OPERANDS[face], OPEN[face]), (a, b, out_shape), strict=True))
    return 2 * math.prod(shape["w"]) * shape["y"][0] * math.prod(shape["y"][2:])


def _flops_of_both(y: Ints, w: Ints, x: Ints, *args: Any, **kwargs: Any) -> int:
    """Those of dgrad and of wgrad."""
    return _flops("dgrad", y, w, out_shape=x) + _flops("wgrad", x, y, out_shape=w)


def _flops_of_activated(face: Face, a: Ints, b: Ints, *args: Any, out_shape: Ints, **kwargs: Any) -> int:
    """Those of its face: torch counts none for what it does to each element."""
    return _flops(face, a, b, out_shape=out_shape)


def _flops_of_separable(x: Ints, w: Ints, bias: Any, v: Ints, *args: Any, out_shape: Ints, **kwargs: Any) -> int:
    """Those of both halves."""
    between = (out_shape[0], w[0], *out_shape[2:])
    return _flops("fprop", x, w, out_shape=between) + _flops("fprop", between, v, out_shape=out_shape)


def _flops_of_branches(x: Ints, w: Sequence[Ints], *args: Any, out_shape: Ints, **kwargs: Any) -> int:
    """Those of all branches."""
    return sum(_flops("fprop", x, one, out_shape=out_shape) for one in w)


def _flops_of_gated(x: Ints, weight: Ints, bias: Ints | None, mix: Ints, *args: Any, **kwargs: Any) -> int:
    """Those of its two convolutions."""
    return 2 * x[0] * x[2] * (math.prod(weight) + math.prod(mix))


def _flops_of_taps(x: Ints, w: Ints, *args: Any, **kwargs: Any) -> int:
    """A causal convolution: a product for each tap of each result."""
    return 2 * math.prod(x) * w[1]


def _flops_of_step(x: Ints, state: Ints, w: Ints, *args: Any, **kwargs: Any) -> int:
    return _flops_of_taps(x, w)


def _flops_of_taps_backward(y: Ints, x: Ints, w: Ints, *args: Any, **kwargs: Any) -> int:
    """Those of dgrad and of wgrad, and of the sum that an activation is derived at, which is formed again."""
    activation = args[-2]
    return (2 if activation == epilogue.IDENTITY else 3) * _flops_of_taps(x, w)


def register() -> None:
    """Gives torch's counter the formulas."""
    from torch.utils.flop_counter import register_flop_formula

    for face in FACES:
        register_flop_formula(getattr(torch.ops.convext, face))(partial(_flops, face))
    register_flop_formula(torch.ops.convext.dgrad_wgrad)(_flops_of_both)
    register_flop_formula(torch.ops.convext.activated)(_flops_of_activated)
    register_flop_formula(torch.ops.convext.separable)(_flops_of_separable)
    register_flop_formula(torch.ops.convext.branches)(_flops_of_branches)
    register_flop_formula(torch.ops.convext.gated)(_flops_of_gated)
    register_flop_formula(torch.ops.convext.causal_conv1d)(_flops_of_taps)
    register_flop_formula(torch.ops.convext.causal_conv1d_backward)(_flops_of_taps_backward)
    register_flop_formula(torch.ops.convext.causal_conv1d_update)(_flops_of_step)
