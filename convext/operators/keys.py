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


def key_of(a: Tensor, b: Tensor, c: Tensor | None, *arguments: Any) -> tuple[Any, ...] | None:
    """The key of a call with these tensors, whose `arguments` have the kernel's name; None where one is not plain.

    A key has how each tensor lies in memory; `is_plain_tensor`'s questions are asked on the way. Triton compiles anew
    for a tensor that begins at no multiple of 16 bytes. Zero tensors begin nowhere; so do empty ones, which are not
    worth remembering. (Written out for three tensors: a function for each would take longer than its questions.)
    """
    if type(a) not in PLAIN_TYPES or is_subclass_like(a) or a.is_neg():
        return None
    if type(b) not in PLAIN_TYPES or is_subclass_like(b) or b.is_neg():
        return None
    begin_a, begin_b = a.data_ptr(), b.data_ptr()
    if not (begin_a and begin_b):
        return None
    dtype = a.dtype
    by_torchs_flag = dtype is torch.float32 and a.is_cuda
    precision = settings.fp32_precision() if by_torchs_flag else settings.PRECISION
    of_c: tuple[Any, ...] = ()
    if c is not None:
        if type(c) not in PLAIN_TYPES or is_subclass_like(c) or c.is_neg():
            return None
        begin_c = c.data_ptr()
        if not begin_c:
            return None
        of_c = c.dtype, c.device, c.shape, c.stride(), begin_c % 16
    return (
        dtype, a.device, a.shape, a.stride(), begin_a % 16,
        b.dtype, b.device, b.shape, b.stride(), begin_b % 16,
        of_c, precision, arguments,
    )  # fmt: skip


def lies(t: Tensor) -> tuple[Any, ...] | None:
    """The same of one more tensor, for the `arguments` of a key; None where it is not plain."""
    if type(t) not in PLAIN_TYPES or is_subclass_like(t) or t.is_neg() or not (begin := t.data_ptr()):
        return None
    return t.dtype, t.device, t.shape, t.stride(), begin % 16


def key_for_torch(a: Tensor, b: Tensor, c: Tensor | None, *arguments: Any) -> tuple[Any, ...] | None:
    """What decides, of a call with these tensors, whether torch's own function may answer: torch asks the rest itself.

    None where an operand is one that wants to see it.
    """
    if type(a) not in PLAIN_TYPES or is_subclass_like(a) or type(b) not in PLAIN_TYPES or is_subclass_like(b):
        return None
    return a.dtype, a.device, a.shape, a.stride(), b.shape, b.stride(), c is None, arguments


def remember(kept: dict[Any, Any], key: Any, value: Any) -> None:
    """`kept[key] = value` where there is a key; where there are too many, the others go."""
    if key is None:
        return
    if len(kept) >= MOST:
        kept.clear()
    kept[key] = value
