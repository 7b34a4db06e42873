"""Memory formats: which order a tensor's axes lie in, in one, two and three dimensions.

torch names this for 2-D (`torch.channels_last`) and 3-D (`torch.channels_last_3d`) only; here "channels last" means
NLC, NHWC or NDHWC alike. A result is dense, and channels last as soon as one operand is: torch's own rule.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor


def is_channels_last(t: Tensor) -> bool:
    """Whether strides order `t` as N, spatial axes, C: torch's rule, for any rank. Ambiguous tensors are not.

    The walk is from the innermost axis out, and each stride has to be at least the extent of what is inside it:
    C first, then the spatial axes from the last, then N.
    """
    if t.is_contiguous() or t.dim() < 3:
        return False
    shape, strides = t.shape, t.stride()
    if strides[1] == 0:
        return False
    extent = 0
    for axis in (1, *range(t.dim() - 1, 1, -1), 0):
        if shape[axis] == 0 or strides[axis] < extent:
            return False
        if axis == 0 and extent == strides[1]:  # N111 and N11W: both orders fit, contiguous is meant
            return False
        extent = strides[axis] * max(shape[axis], 1)
    return True


def empty(shape: Sequence[int], channels_last: bool, like: Tensor) -> Tensor:
    """Uninitialised dense tensor of `shape` in the given order, with the dtype and device of `like`."""
    if not channels_last:
        return like.new_empty(shape)
    n, c, *space = shape
    return like.new_empty((n, *space, c)).movedim(-1, 1)


def dense(t: Tensor, channels_last: bool) -> Tensor:
    """`t` itself where it is dense in the given order, else a copy that is."""
    if not channels_last:
        return t.contiguous()
    return t.movedim(1, -1).contiguous().movedim(-1, 1)
