"""What no stream can compute, or what is not known to be causal: refused, with the reason."""

from __future__ import annotations

from typing import NoReturn

from convext.streams.place import Place

_ATTENTION = "attention reads every sample"
_STATISTICS = "its mean and variance are of the whole signal"
_ADAPTIVE = "its windows are as long as the signal needs"
_FLAT = "it makes one axis of time and others"
_WHOLE = {
    "MultiheadAttention": _ATTENTION,
    "scaled_dot_product_attention": _ATTENTION,
    "group_norm": _STATISTICS,
    "instance_norm": _STATISTICS,
    "InstanceNorm1d": _STATISTICS,
    "adaptive_avg_pool1d": _ADAPTIVE,
    "adaptive_max_pool1d": _ADAPTIVE,
    "Flatten": _FLAT,
    "flatten": _FLAT,
}
_SIZES = ("size", "shape", "numel", "view", "reshape", "expand", "repeat", "dim", "ndim")


def unknown(at: Place, called: str) -> NoReturn:
    """What no rule is for."""
    if called in _WHOLE:
        at.mixes(_WHOLE[called])
    if called in _SIZES:
        at.refuse(f"asks for or sets the signal's shape ({called}), and a chunk has another than the whole signal")
    at.refuse(f"calls {called}, and what that does over time is not known")
