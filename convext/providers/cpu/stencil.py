"""cpu.stencil: depthwise convolutions in C++ (csrc/cpu/faces/stencil.h, wgrad.h), all faces, in 1-D, 2-D and 3-D."""

from __future__ import annotations

from convext.problem import ConvProblem
from convext.providers.cpu import native


def why_not(problem: ConvProblem) -> str | None:
    """Depthwise: one channel of x in a group, any number of y's."""
    if problem.groups != problem.c:
        return f"is depthwise: groups must be the channels of x, {problem.c}, but got groups={problem.groups}"
    return native.why_not(problem)


def copies(problem: ConvProblem) -> list[str]:
    """None: operands are read where they lie, a window at a time."""
    return []


run = native.run
run_activated = native.run_activated
