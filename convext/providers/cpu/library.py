"""The compiled CPU library: loaded by path at first use, or the reason why it is not there.

It is built by setup.py from csrc/cpu/ with a C++ compiler alone, and depends on libtorch's stable ABI: it loads on
every torch from 2.10 on. The same source is compiled for several instruction sets; `isa` is the one that is used.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch

LIBRARY = Path(__file__).parents[2] / "_cpu.abi3.so"

ISAS = ("avx512", "avx2", "generic")  # the widest first

# Whose AVX-512 was measured. On AMD's (Zen 4) it is up to 1.6 times as fast as AVX2 where channels are outermost. Where
# they are innermost it is up to twice as slow, since the windows of 16 channels leave room for small blocks only.
WIDE_IS_MEASURED = ("amd",)


@cache
def unavailable() -> str | None:
    """Loads the library; the reason where that fails, in one sentence."""
    if not LIBRARY.exists():
        return (
            f"the CPU kernels were not built ({LIBRARY.name} is missing): with a C++ compiler, "
            "pip install -v . in a clone builds them"
        )
    try:
        torch.ops.load_library(LIBRARY)
    except OSError as error:
        return f"the CPU kernels do not load: {error}"
    return None


@cache
def isa(channels_last: bool = False) -> str:
    """The instruction set that is used for results in a memory format: the widest here that was measured.

    Raises:
        RuntimeError: the library is not there, with the reason.
    """
    if reason := unavailable():
        raise RuntimeError(reason)
    wide = not channels_last and torch.ops.convext_cpu.vendor() in WIDE_IS_MEASURED
    wanted = ISAS if wide else ISAS[1:]
    return next(name for name in wanted if torch.ops.convext_cpu.supports(name))


@cache
def machine() -> str:
    """What tables of measurements are named after: the processor's maker and the instruction set, "amd-avx512"."""
    if unavailable():
        return "unknown"
    return f"{torch.ops.convext_cpu.vendor()}-{isa()}"
