"""The way by whichever kernel is chosen, with what follows at its store where it can do that: `convext::activated`.

On GPUs, and where a kernel is asked for by name. What its kernel cannot do, torch's operators do after it, in place.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from convext.choice import settings
from convext.functional.geometry import cached_conv_geometry, cached_conv_transpose_geometry, look_up
from convext.operators.activated import activated
from convext.problem import Face, open_shape
from convext.problem.epilogue import IDENTITY, Epilogue


def takes(conv: Any, epilogue: Epilogue, adds: bool) -> bool:
    """Whether the operator means `conv` with what follows it: zeros around it, and a sum that no activation follows."""
    return conv.padding_mode == "zeros" and (not adds or epilogue.name == IDENTITY)


def goes_first(device: str) -> bool:
    """Whether this way goes before the others for tensors on `device`: on a CPU under "auto" those were timed."""
    return device != "cpu" or settings.BACKEND != "auto"


def run(conv: Any, epilogue: Epilogue, x: Tensor, residual: Tensor | None) -> Tensor | None:
    """epilogue(conv(x)), or conv(x) + residual; None where the operands are for torch to refuse, or broadcast."""
    weight, bias, rank = conv.weight, conv.bias, conv.weight.dim() - 2
    if x.dim() != rank + 2 or weight.dtype is not x.dtype or weight.device != x.device:
        return None
    described = (x.shape, weight.shape, None if bias is None else bias.shape, conv.stride, conv.padding)
    settings_ = conv.dilation, conv.groups, rank
    if conv.transposed:
        geometry = look_up(cached_conv_transpose_geometry, (*described, conv.output_padding, *settings_))
    else:
        geometry = look_up(cached_conv_geometry, (*described, *settings_))
    if geometry is None:
        return None
    face: Face = "dgrad" if conv.transposed else "fprop"
    if residual is not None:
        shape = open_shape(face, x.shape, weight.shape, geometry[0], conv.groups)
        if residual.shape != shape or residual.dtype is not x.dtype or residual.device != x.device:
            return None
    return activated(face, x, weight, bias, residual, *geometry, settings.BACKEND, epilogue.name, epilogue.scalars)
