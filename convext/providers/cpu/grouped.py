"""cpu.grouped: convolutions of few channels a group in C++ (csrc/cpu/faces), all faces and ranks."""

from __future__ import annotations

from convext.problem import ConvProblem
from convext.providers.cpu import native

MAX_CHANNELS = 8  # in a group: above, torch's matrix products are as good,
MAX_VOLUME = 64  # unless there is one group, in 3-D: of one image torch computes them by loops of its own


def why_not(problem: ConvProblem) -> str | None:
    """Groups of up to MAX_CHANNELS channels, more than one of x; one group of up to MAX_VOLUME in 3-D."""
    c, k = problem.c // problem.groups, problem.k // problem.groups
    most = MAX_VOLUME if problem.groups == 1 and problem.rank == 3 else MAX_CHANNELS
    if c == 1 or max(c, k) > most:
        return f"takes groups of 2 to {most} channels, but got {c} of x and {k} of y"
    return native.why_not(problem)


def copies(problem: ConvProblem) -> list[str]:
    """None: operands are read where they lie, a window at a time."""
    return []


run = native.run
run_activated = native.run_activated
