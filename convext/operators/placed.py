"""Tensors whose parts lie on several ranks: who computes a face of them, once somebody has said so.

    PLACED[type of the first operand](face, a, b, bias, size, stride, pad, dilation, groups, kernel)

`convext.tools.sharding` says so for DTensor, when torch.distributed.tensor is imported.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

PLACED: dict[type, Callable[..., Tensor]] = {}
