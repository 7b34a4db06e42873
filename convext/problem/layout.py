"""Memory formats: which order a tensor's axes lie in, in one, two and three dimensions.

torch names this for 2-D (`torch.channels_last`) and 3-D (`torch.channels_last_3d`) only; here "channels last" means
NLC, NHWC or NDHWC alike. A result is dense, and channels last as soon as one operand is: torch's own rule.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, sym_max

from convext.problem.symbols import holds, is_contiguous_for_all


def is_channels_last(t: Tensor) -> bool:
    """Whether strides order `t` as N, spatial axes, C: torch's rule, for any rank. Ambiguous tensors are not.

    The walk is from the innermost axis out, and each stride has to be at least the extent of what is inside it:
    C first, then the spatial axes from the last, then N. A size that only the data tell is taken for any.
    """
    symbolic = t._has_symbolic_sizes_strides  # type: ignore[attr-defined]
    if t.dim() < 3 or (is_contiguous_for_all(t) if symbolic else t.is_contiguous()):
        return False
    shape, strides = t.shape, t.stride()
    extent: Any = 1
    for axis in (1, *range(t.dim() - 1, 1, -1), 0):
        if holds(strides[axis] < extent):
            return False
        if axis == 0 and holds(extent == strides[1]):  # N111 and N11W: both orders fit, contiguous is meant
            return False
        extent = strides[axis] * shape[axis]
    return True


def empty(shape: Sequence[int], channels_last: bool, like: Tensor) -> Tensor:
    """Uninitialised dense tensor of `shape` in the given order, with the dtype and device of `like`.

    It is no view: autograd lets nobody change a view in place that an operator has returned.
    """
    if not channels_last:
        return like.new_empty(shape)
    strides, extent = [0] * len(shape), 1
    for axis in (1, *range(len(shape) - 1, 1, -1), 0):
        strides[axis] = extent
        size = shape[axis]
        extent *= max(size, 1) if type(size) is int else sym_max(size, 1)
    return like.new_empty_strided(shape, strides)


def dense(t: Tensor, channels_last: bool) -> Tensor:
    """`t` itself where it is dense in the given order, else a copy that is."""
    if not channels_last:
        return t.contiguous()
    if t.movedim(1, -1).is_contiguous():
        return t
    return empty(t.shape, True, t).copy_(t)
