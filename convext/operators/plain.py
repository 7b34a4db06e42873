"""Whether a call can go past the dispatcher: nothing between Python and the kernels wants to see it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor
from torch.compiler import is_dynamo_compiling

PLAIN_TYPES = (Tensor, torch.nn.Parameter)
is_subclass_like = torch._C._dispatch_isTensorSubclassLike
_included, _excluded = torch._C._dispatch_tls_local_include_set, torch._C._dispatch_tls_local_exclude_set
_function_modes = torch._C._len_torch_function_stack


def _dispatch_state() -> tuple[int, int]:
    return _included().raw_repr(), _excluded().raw_repr()


def _plain_states() -> frozenset[tuple[int, int]]:
    """The dispatcher's state in plain eager execution and in inference mode: no mode, transform, autocast or trace.

    And in a backward pass, where torch 2.11 excludes the names of dimensions.
    """
    with torch.inference_mode():
        inference = _dispatch_state()
    included, excluded = plain = _dispatch_state()
    try:
        names = torch._C.DispatchKeySet(torch._C._dispatch_key_parse("Named")).raw_repr()
    except RuntimeError:  # a torch that does not know them
        names = 0
    return frozenset({plain, inference, (included, excluded | names)})


with ThreadPoolExecutor(1) as _new_thread:  # in no mode, though this module may be imported inside one
    _PLAIN_STATES = _new_thread.submit(_plain_states).result()


def is_plain_tensor(t: Tensor) -> bool:
    """Whether a tensor's data are what lies in its memory, and nobody wants to see what is done with it."""
    return (
        type(t) in PLAIN_TYPES
        and not is_subclass_like(t)  # sparse, meta, or wrapped by a transform, also one that has ended
        and not t.is_neg()
        and not t._is_zerotensor()
    )


def is_plain_state(but_for: int = 0) -> bool:
    """Whether no compiler, mode, transform, autocast or trace is at work in this thread.

    `but_for` are keys that a plain state excludes, and this one need not.
    """
    return (
        not is_dynamo_compiling()
        and (_included().raw_repr(), _excluded().raw_repr() | but_for) in _PLAIN_STATES
        and forward_ad._current_level < 0
        and not _function_modes()
    )


def is_plain(*tensors: Tensor | None) -> bool:
    """Whether nothing between Python and the kernels wants to see this call, so that the dispatcher can be skipped."""
    return is_plain_state() and all(t is None or is_plain_tensor(t) for t in tensors)
