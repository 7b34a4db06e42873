"""All that what computes a call may depend on, but the values of its tensors: the keys by which calls are remembered.

Asked anew in each call is only what no key holds: whether the dispatcher has to see it (`plain.is_plain_state`) and
whether gradients are wanted.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from convext.choice import settings
from convext.operators.plain import PLAIN_TYPES, is_subclass_like

MOST = 8192  # calls that are remembered, of one kind


def lying(t: Tensor) -> tuple[Any, ...] | None:
    """How a plain tensor lies in memory, else None: `is_plain_tensor`'s questions and the answer in one go.

    Triton compiles anew for a tensor that begins at no multiple of 16 bytes. Zero tensors begin nowhere; so do empty
    ones, which are not worth remembering.
    """
    if type(t) not in PLAIN_TYPES or is_subclass_like(t) or t.is_neg():
        return None
    begin = t.data_ptr()
    return (t.dtype, t.device, t.shape, t.stride(), begin % 16) if begin else None


def key_of(a: Tensor, b: Tensor, c: Tensor | None, *arguments: Any) -> tuple[Any, ...] | None:
    """The key of a call with these tensors, whose `arguments` have the kernel's name; None where one is not plain."""
    lies_a, lies_b, lies_c = lying(a), lying(b), () if c is None else lying(c)
    if lies_a is None or lies_b is None or lies_c is None:
        return None
    by_torchs_flag = a.is_cuda and a.dtype is torch.float32
    return lies_a, lies_b, lies_c, settings.fp32_precision() if by_torchs_flag else settings.PRECISION, arguments


def remember(kept: dict[Any, Any], key: Any, value: Any) -> None:
    """`kept[key] = value` where there is a key; where there are too many, the others go."""
    if key is None:
        return
    if len(kept) >= MOST:
        kept.clear()
    kept[key] = value
