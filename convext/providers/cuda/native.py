"""The compiled library: loaded by path at first use, or the reason why it is not there.

The library is built by setup.py from csrc/ and depends on libtorch's stable ABI alone: it loads on every torch from
2.10 on, with or without CUDA. The tests build the same sources for the host, where they run on CPU tensors
(tests/cuda/host/README.md). How its kernels are launched is in launches.py.
"""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path
from typing import Any

import torch

LIBRARY = Path(__file__).parents[2] / "_C.abi3.so"

_host_build: Path | None = None


@cache
def _load_failure() -> str | None:
    """Loads the library; the reason where that fails."""
    if not LIBRARY.exists():
        return (
            f"the CUDA kernels were not built ({LIBRARY.name} is missing): with nvcc, "
            "CONVEXT_CUDA=1 pip install -v . in a clone builds them"
        )
    try:
        torch.ops.load_library(LIBRARY)
    except OSError as error:
        return f"the CUDA kernels do not load: {error}"
    return None


def load_host_build(path: Path) -> None:
    """Loads a host build of the kernels: from here on they also take CPU tensors. For tests.

    Raises:
        OSError: `path` does not load.
    """
    global _host_build
    torch.ops.load_library(path)
    _host_build = path


def unavailable(device: str = "cuda") -> str | None:
    """Why the compiled kernels cannot run on tensors of `device` ("cpu", "cuda", ...), in one sentence, or None."""
    if device == "cpu" and _host_build:
        return None
    if device != "cuda":
        return f"tensors are on {device}; CUDA kernels run on cuda"
    return _load_failure()


def operators(device: str) -> Any:
    """The namespace of compiled operators for tensors of `device`.

    Raises:
        RuntimeError: there are none, with the reason.
    """
    reason = unavailable(device)
    if reason:
        raise RuntimeError(reason)
    return torch.ops.convext_host if device == "cpu" else torch.ops.convext_cuda


@cache
def functions(device: str) -> tuple[Any, Any]:
    """The library's functions `convext_launch` and `convext_forget` for tensors of `device` (csrc/library/call.h)."""
    library = ctypes.CDLL(str(_host_build if device == "cpu" else LIBRARY))
    launch, forget = library.convext_launch, library.convext_forget
    launch.argtypes = [ctypes.c_int64, *[ctypes.c_void_p] * 6]
    launch.restype = ctypes.c_char_p
    forget.argtypes, forget.restype = [ctypes.c_int64], None
    return launch, forget
