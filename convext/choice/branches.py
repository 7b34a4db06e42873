"""Which kernel computes parallel convolutions of one input in one call, if any: else they are concatenated."""

from __future__ import annotations

from convext.choice.together import Family
from convext.problem.branches import BranchesProblem

FAMILY: Family[BranchesProblem] = Family(["cpu.branches", "triton.branches"], lambda problem: problem.parts[0])
names, choose, told = FAMILY.names, FAMILY.choose, FAMILY.told
