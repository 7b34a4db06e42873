"""Operands are cast under autocast as those of torch's own convolutions are, and as seldom."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import is_functorch_wrapped_tensor
from torch.utils._python_dispatch import _disable_current_modes

from convext.operators.plain import PLAIN_TYPES, is_plain_state, is_plain_tensor
from convext.operators.schema import ACTIVATED, BOTH, BRANCHES, GATED, LIBRARY, OPS, SEPARABLE


class _Token:
    """Hangs on something of torch's that lives as long as an autocast region."""


class _Casts:
    """Copies of parameters in the autocast dtype, made once a region, as torch's own operators make and share theirs.

    torch has no place for others' copies, and tells nobody when a region ends. So the first cast of a region makes
    torch keep a copy of a sentinel as well. A token hangs on the node of the graph that made that copy, and goes with
    it; and with the token go our copies.
    """

    def __init__(self) -> None:
        self._copies: dict[tuple[int, torch.dtype], tuple[weakref.ref[Tensor], Tensor]] = {}
        self._token: Callable[[], _Token | None] = lambda: None

    def get(self, t: Tensor, dtype: torch.dtype) -> Tensor:
        if not self._is_kept(t, dtype):
            return t.to(dtype)
        kept = self._copies.get((id(t), dtype))
        if kept is not None and kept[0]() is t and kept[1].requires_grad >= torch.is_grad_enabled():
            return kept[1]
        copy = t.to(dtype)
        self._copies[id(t), dtype] = weakref.ref(t), copy
        return copy

    def _is_kept(self, t: Tensor, dtype: torch.dtype) -> bool:
        """What torch keeps copies of: leaves that are trained, in a region that has not turned it off."""
        if type(t) not in PLAIN_TYPES or is_functorch_wrapped_tensor(t) or t.dtype is not torch.float32:
            return False
        if t.dtype is dtype or not (t.requires_grad and t.is_leaf) or t._is_view():
            return False
        if self._token() is None:
            self._token = self._token_of_the_region(t.device)
        return self._token() is not None

    def _token_of_the_region(self, device: torch.device) -> weakref.ref[_Token]:
        token = _Token()
        with torch.inference_mode(False), torch.enable_grad(), _disable_current_modes():
            sentinel = torch.ones(1, 1, device=device, requires_grad=True)
            cast: Any = (sentinel @ sentinel).grad_fn.next_functions[0][0]  # type: ignore[union-attr]
            cast.metadata["convext"] = token
        return weakref.ref(token, lambda _: self._copies.clear())


class _Uncast(threading.local):
    """Whether a rule of vmap's is running, to which torch's autocast does not reach. (Dispatch keys that are excluded
    there come back: functorch restores those of the level below.)"""

    on_a_cpu = False


_CASTS, UNCAST = _Casts(), _Uncast()
_KEYS = {
    "cpu": torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastCPU),
    "cuda": torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastCUDA),
}
_OFF = _KEYS["cpu"].raw_repr()  # what is excluded where there is no autocast


def is_cast(*operands: Tensor | None) -> bool:
    """Whether autocast on a CPU is on, and all that stands between a call and the kernels."""
    return (
        torch.is_autocast_enabled("cpu")
        and is_plain_state(but_for=_OFF)
        and all(t is None or is_plain_tensor(t) for t in operands)
    )


def autocast(op: Any, device: str, *arguments: Any) -> Any:
    """`op`, below autocast, of floating operands in its dtype, as torch's own convolutions are; float64 stays."""
    dtype = torch.get_autocast_dtype(device)

    def cast_operand(t: Any) -> Any:
        if isinstance(t, list | tuple):
            return [cast_operand(one) for one in t]
        eligible = (
            isinstance(t, Tensor) and t.is_floating_point() and t.dtype != torch.float64 and t.device.type == device
        )
        return _CASTS.get(t, dtype) if eligible else t

    reached = not (device == "cpu" and UNCAST.on_a_cpu)
    operands = list(map(cast_operand, arguments)) if reached else arguments
    with torch._C._ExcludeDispatchKeyGuard(_KEYS[device]):
        return op(*operands)


_OTHERS = {
    "dgrad_wgrad": BOTH, "activated": ACTIVATED, "separable": SEPARABLE, "branches": BRANCHES, "gated": GATED,
}  # fmt: skip
for _name, _op in (OPS | _OTHERS).items():
    for _device in _KEYS:
        LIBRARY.impl(_name, partial(autocast, _op, _device), f"Autocast{_device.upper()}")
