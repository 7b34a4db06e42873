"""The compiled CPU library: loaded by path at first use, or the reason why it is not there.

It is built by setup.py from csrc/cpu/ with a C++ compiler alone, and depends on libtorch's stable ABI: it loads on
every torch from 2.10 on. The same source is compiled for several instruction sets; `isa()` is the one that is used.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch

LIBRARY = Path(__file__).parents[1] / "_cpu.abi3.so"

ISAS = ("avx512", "avx2", "generic")  # the widest first


@cache
def unavailable() -> str | None:
    """Loads the library; the reason where that fails, in one sentence."""
    if not LIBRARY.exists():
        return (
            f"the CPU kernels were not built ({LIBRARY.name} is missing): install a C++ compiler, "
            "then pip install --no-build-isolation -v . in the source tree"
        )
    try:
        torch.ops.load_library(LIBRARY)
    except OSError as error:
        return f"the CPU kernels do not load: {error}"
    return None


@cache
def isa() -> str:
    """The widest instruction set that this machine and the library have.

    Raises:
        RuntimeError: the library is not there, with the reason.
    """
    if reason := unavailable():
        raise RuntimeError(reason)
    return next(name for name in ISAS if torch.ops.convext_cpu.supports(name))
