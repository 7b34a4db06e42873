"""Which kernel computes a depthwise and a pointwise convolution in one, if any: else one half follows the other."""

from __future__ import annotations

from convext.choice.together import Family
from convext.problem.separable import SeparableProblem

FAMILY: Family[SeparableProblem] = Family(["cpu.separable", "triton.separable"], lambda problem: problem.depthwise)
names, choose, told = FAMILY.names, FAMILY.choose, FAMILY.told
