"""Which provider computes a causal convolution: compiled kernels where they take it, else torch's operators.

    triton   triton_kernels/causal, on a GPU
    cpu      csrc/cpu/causal/
    aten     composition.py: takes everything

`convext.backend` names one of them, or "auto". One asked for by name that refuses is a ValueError with its reason.
"""

from __future__ import annotations

import os
from functools import cache
from importlib.util import find_spec

import torch

from convext.providers.cpu import library

PROVIDERS = ("triton", "cpu", "aten")
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
MOST_SPAN = {"triton": 16, "cpu": 1 << 20}  # in the registers of a lane; in scratch
Dtypes = tuple[torch.dtype, ...]  # of x, weight and, where there is one, bias


@cache
def provider(device: str, dtypes: Dtypes, span: int, backend: str) -> str:
    """The provider that computes a call.

    Args:
        device: "cpu", "cuda", ..
        dtypes: of x, weight and bias.
        span: positions before its own that a result reads and a kernel keeps: (taps - 1) * dilation, in a step 0.
        backend: what `convext.backend` takes.

    Raises:
        ValueError: `backend` refuses, with its reason.
    """
    if backend == "auto":
        wanted = (name for name in PROVIDERS if _wanted(name, device))
        return next(name for name in wanted if refusal(name, device, dtypes, span) is None)
    if backend not in PROVIDERS:
        raise ValueError(f"backend {backend!r} has no causal convolution; {', '.join(PROVIDERS)} have")
    if reason := refusal(backend, device, dtypes, span):
        raise ValueError(f"backend {backend!r} does not take this causal convolution: {reason}")
    return backend


def _wanted(name: str, device: str) -> bool:
    """Triton's interpreter runs on a CPU where it is asked for, and is no answer to "auto"."""
    return name != "triton" or device == "cuda"


def refusal(name: str, device: str, dtypes: Dtypes, span: int) -> str | None:
    """Why a provider does not take a call, in one sentence, or None."""
    if name == "aten":
        return None
    if unknown := [t for t in dtypes if t not in DTYPES]:
        return f"computes {', '.join(map(str, DTYPES))}, not {unknown[0]}"
    if torch.float64 in dtypes[1:] and dtypes[0] != torch.float64:
        return f"sums in float32 for x of {dtypes[0]}, and weight or bias is float64"
    if span > MOST_SPAN[name]:
        return f"keeps the {MOST_SPAN[name]} positions before its own, and these taps span {span}"
    if name == "cpu":
        return f"tensors are on {device}; CPU kernels run on cpu" if device != "cpu" else library.unavailable()
    if find_spec("triton") is None:
        return "Triton is not installed: pip install triton"
    if device == "cuda":
        return None if torch.version.hip is None else f"this torch is built for ROCm {torch.version.hip}"
    if os.environ.get("TRITON_INTERPRET") != "1":
        return f"tensors are on {device}; Triton kernels run on cuda, or anywhere under TRITON_INTERPRET=1"
    return None
