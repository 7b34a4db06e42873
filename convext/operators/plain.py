"""Whether a call can go past the dispatcher: nothing between Python and the kernels wants to see it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor

PLAIN_TYPES = (Tensor, torch.nn.Parameter)
_is_subclass_like = torch._C._dispatch_isTensorSubclassLike


def _dispatch_state() -> tuple[int, int]:
    return torch._C._dispatch_tls_local_include_set().raw_repr(), torch._C._dispatch_tls_local_exclude_set().raw_repr()


def _plain_states() -> frozenset[tuple[int, int]]:
    """The dispatcher's state in plain eager execution and in inference mode: no mode, transform, autocast or trace."""
    with torch.inference_mode():
        inference = _dispatch_state()
    return frozenset({_dispatch_state(), inference})


with ThreadPoolExecutor(1) as _new_thread:  # in no mode, though this module may be imported inside one
    _PLAIN_STATES = _new_thread.submit(_plain_states).result()


def is_plain(*tensors: Tensor | None) -> bool:
    """Whether nothing between Python and the kernels wants to see this call, so that the dispatcher can be skipped."""
    if torch.compiler.is_dynamo_compiling():
        return False
    for t in tensors:
        if t is not None and (
            type(t) not in PLAIN_TYPES
            or _is_subclass_like(t)  # sparse, meta, or wrapped by a transform, also one that has ended
            or t.is_neg()
            or t._is_zerotensor()
        ):
            return False
    return (
        _dispatch_state() in _PLAIN_STATES
        and forward_ad._current_level < 0
        and not torch._C._len_torch_function_stack()
    )
