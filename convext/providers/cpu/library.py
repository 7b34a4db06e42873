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

WIDE_IS_MEASURED = ("amd",)  # whose AVX-512 was
_ZEN5 = 26  # AMD's family: its units are as wide as AVX-512's vectors, Zen 4's half as wide


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
def isa(narrow: bool = False) -> str:
    """The instruction set that is used: the widest here that was measured, but not AVX-512 where that is too wide.

    Raises:
        RuntimeError: the library is not there, with the reason.
    """
    if reason := unavailable():
        raise RuntimeError(reason)
    wide = not narrow and torch.ops.convext_cpu.vendor() in WIDE_IS_MEASURED
    wanted = ISAS if wide else ISAS[1:]
    return next(name for name in wanted if torch.ops.convext_cpu.supports(name))


@cache
def machine() -> str:
    """The processor's maker and the instruction set, "amd-avx512"."""
    if unavailable():
        return "unknown"
    return f"{torch.ops.convext_cpu.vendor()}-{isa()}"


def has_wide_units() -> bool:
    """Whether AVX-512 is that of a Zen 5."""
    return machine() == "amd-avx512" and _family() == _ZEN5


@cache
def _family() -> int:
    return int(torch.ops.convext_cpu.family())


def measured_as() -> str:
    """What tables of measurements are named after: `machine`, and "amd-avx512-zen5"."""
    return machine() + ("-zen5" if has_wide_units() else "")
