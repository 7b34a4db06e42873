"""Whether freed memory stays with a process that measures.

glibc gives large blocks back to the system as they are freed, or keeps them, by what was freed before: a result of some
megabytes then costs page faults in one call and none in the next, as much as the convolution itself. With freed memory
kept, as it is soon in a program that goes on, contenders differ by what they do.
"""

from __future__ import annotations

import ctypes

# glibc's mallopt: names of parameters, and the largest values that it takes.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_NEVER, _MOST = 2**31 - 1, 2**25


def keep_freed_memory() -> bool:
    """Has the C library keep what is freed, in blocks of up to 32 MB, for the next that asks; whether it can."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library: what it does is its own
        return False
    return bool(mallopt(_TRIM_THRESHOLD, _NEVER) and mallopt(_MMAP_THRESHOLD, _MOST))
