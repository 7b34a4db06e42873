"""The arguments of a causal convolution, checked: a mistake is one sentence with its numbers, before all is written.

Shapes, dtypes and devices are checked for every call; values of indices where they can be read without waiting, on a
CPU. Kernels for GPUs take an index that is out of range for padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from convext.problem import symbols

INDEX_DTYPES = (torch.int32, torch.int64)


def check_forward(
    x: Tensor, w: Tensor, bias: Tensor | None, residual: Tensor | None, states: Tensor | None,
    seq_idx: Tensor | None, cu_seqlens: Tensor | None, dilation: int,
) -> None:  # fmt: skip
    """Raises RuntimeError where the arguments describe no causal convolution; values are not looked at."""
    if x.dim() != 3:
        raise RuntimeError(f"expected x of shape [batch, channels, length], but got {list(x.shape)}")
    _check_weight(x, w, bias, dilation)
    if residual is not None:
        check_like(x, residual, "residual", x.shape)
    if seq_idx is not None:
        _check_index(x, seq_idx, "seq_idx", (x.shape[0], x.shape[2]))
    if cu_seqlens is not None:
        _check_packed(x, seq_idx, cu_seqlens)
    if states is not None:
        rows = x.shape[0] if cu_seqlens is None else cu_seqlens.shape[0] - 1
        check_like(x, states, "initial_states", (rows, x.shape[1], (w.shape[1] - 1) * dilation))


def _check_packed(x: Tensor, seq_idx: Tensor | None, cu_seqlens: Tensor) -> None:
    if seq_idx is not None:
        raise RuntimeError("seq_idx and cu_seqlens both say where sequences begin: expected one of them")
    if x.shape[0] != 1:
        raise RuntimeError(f"cu_seqlens packs sequences in a batch of 1, but x has a batch of {x.shape[0]}")
    if cu_seqlens.dim() != 1 or cu_seqlens.shape[0] < 1:
        raise RuntimeError(f"expected cu_seqlens of shape [sequences + 1], but got {list(cu_seqlens.shape)}")
    _check_index(x, cu_seqlens, "cu_seqlens", cu_seqlens.shape)


def check_update(
    x: Tensor, state: Tensor, w: Tensor, bias: Tensor | None,
    cache_seqlens: Tensor | None, indices: Tensor | None, dilation: int,
) -> None:  # fmt: skip
    """Raises RuntimeError where the arguments describe no step; values are not looked at."""
    if x.dim() not in (2, 3):
        raise RuntimeError(f"expected x of shape [batch, channels(, length)], but got {list(x.shape)}")
    batch, channels = x.shape[:2]
    _check_weight(x, w, bias, dilation)
    _check_kind(x, state, "conv_state")
    span = (w.shape[1] - 1) * dilation
    fits = state.dim() == 3 and state.shape[1] == channels and (indices is not None or state.shape[0] == batch)
    if not fits or state.shape[2] < span:
        rows = "rows" if indices is not None else batch
        raise RuntimeError(
            f"expected conv_state of shape [{rows}, {channels}, at least {span}] for a kernel of {w.shape[1]} taps "
            f"with dilation {dilation}, but got {list(state.shape)}"
        )
    if any(
        symbols.holds(step == 0) and symbols.holds(size > 1)
        for step, size in zip(state.stride(), state.shape, strict=True)
    ):
        raise RuntimeError(f"expected a conv_state of its own memory, but got one that is expanded: {state.stride()}")
    if cache_seqlens is not None:
        _check_index(x, cache_seqlens, "cache_seqlens", (batch,))
    if indices is not None:
        _check_index(x, indices, "conv_state_indices", (batch,))


def check_offsets(cu_seqlens: Tensor, length: int) -> None:
    """Raises RuntimeError where offsets on a CPU are not 0 <= .. <= length, in order."""
    offsets = cu_seqlens.tolist()
    _check_order(offsets)
    if offsets[0] != 0 or offsets[-1] != length:
        raise RuntimeError(f"expected cu_seqlens from 0 to the length {length}, but got {offsets[0]} to {offsets[-1]}")


def check_varlen(x: Tensor, cu_seqlens: Tensor, state_len: int, values: bool) -> None:
    """Raises RuntimeError where the arguments name no sequences in x [length, channels].

    Args:
        values: whether to look at the offsets, too.
    """
    if x.dim() != 2:
        raise RuntimeError(f"expected x of shape [length, channels], but got {list(x.shape)}")
    if cu_seqlens.dim() != 1 or cu_seqlens.shape[0] < 1:
        raise RuntimeError(f"expected cu_seqlens of shape [sequences + 1], but got {list(cu_seqlens.shape)}")
    _check_index(x, cu_seqlens, "cu_seqlens", cu_seqlens.shape)
    if state_len < 0:
        raise RuntimeError(f"expected a state_len of at least 0, but got {state_len}")
    if values:
        offsets = cu_seqlens.tolist()
        _check_order(offsets)
        if offsets[0] < 0 or offsets[-1] > x.shape[0]:
            between = f"between 0 and the length {x.shape[0]}"
            raise RuntimeError(f"expected cu_seqlens {between}, but got {offsets[0]} to {offsets[-1]}")


def _check_order(offsets: list[int]) -> None:
    for i, (a, b) in enumerate(pairwise(offsets)):
        if a > b:
            raise RuntimeError(f"expected cu_seqlens not to decrease, but element {i} is {a}, element {i + 1} is {b}")


def check_rows(indices: Tensor, rows: int) -> None:
    """Raises RuntimeError where an index on a CPU is neither a row nor -1, for padding."""
    for i, index in enumerate(indices.tolist()):
        if not -1 <= index < rows:
            raise RuntimeError(
                f"expected conv_state_indices between 0 and {rows - 1}, or -1 for padding, but element {i} is {index}"
            )


def _check_weight(x: Tensor, w: Tensor, bias: Tensor | None, dilation: int) -> None:
    channels = x.shape[1]
    if w.dim() != 2 or w.shape[0] != channels or w.shape[1] < 1:
        expected = f"[{channels}, taps] for x of shape {list(x.shape)}"
        raise RuntimeError(f"expected weight of shape {expected}, but got {list(w.shape)}")
    if dilation < 1:
        raise RuntimeError(f"expected a dilation of at least 1, but got {dilation}")
    _check_real(x, x, "x")
    _check_real(x, w, "weight")
    if bias is not None:
        if bias.dim() != 1 or bias.shape[0] != channels:
            raise RuntimeError(f"expected bias of shape [{channels}], but got {list(bias.shape)}")
        _check_real(x, bias, "bias")


def _check_real(x: Tensor, t: Tensor, name: str) -> None:
    if not t.is_floating_point():
        raise RuntimeError(f"expected {name} to be floating point, but got {t.dtype}")
    _check_device(x, t, name)


def _check_device(x: Tensor, t: Tensor, name: str) -> None:
    if t.device != x.device:
        raise RuntimeError(f"expected all tensors on one device, but got x on {x.device} and {name} on {t.device}")


def _check_kind(x: Tensor, t: Tensor, name: str) -> None:
    """Dtype and device of x."""
    if t.dtype != x.dtype:
        raise RuntimeError(f"expected {name} to be {x.dtype}, as x is, but got {t.dtype}")
    _check_device(x, t, name)


def check_like(x: Tensor, t: Tensor, name: str, shape: Sequence[int]) -> None:
    _check_kind(x, t, name)
    check_shape(t, name, shape)


def _check_index(x: Tensor, t: Tensor, name: str, shape: Sequence[int]) -> None:
    if t.dtype not in INDEX_DTYPES:
        raise RuntimeError(f"expected {name} to be int32 or int64, but got {t.dtype}")
    _check_device(x, t, name)
    check_shape(t, name, shape)


def check_shape(t: Tensor, name: str, shape: Sequence[int]) -> None:
    if t.dim() != len(shape) or any(symbols.holds(a != b) for a, b in zip(t.shape, shape, strict=True)):
        raise RuntimeError(f"expected {name} of shape {list(shape)}, but got {list(t.shape)}")
