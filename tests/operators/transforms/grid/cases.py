"""The grid's factors, which of their combinations torch takes, and the samples of them that are run."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from dataclasses import astuple, dataclass, replace
from itertools import combinations, product

import commits
import torch
from convolutions import CONVOLUTIONS
from nestings import FORWARD_MODE, LEVELS, REVERSE_MODE

from convext.providers.cpu import library

NO_LEVEL = ""
CPU = () if torch.cuda.is_available() or library.unavailable() else ("cpu",)  # takes every convolution here
FACTORS: dict[str, tuple[str, ...]] = {
    "outer": (NO_LEVEL, *LEVELS),
    "middle": (NO_LEVEL, *LEVELS),
    "inner": tuple(LEVELS),
    "convolution": tuple(CONVOLUTIONS),
    "by": ("input", "weight", "bias"),
    "call": ("function", "layer"),
    "backend": ("auto", "aten", "triton", *CPU),
    "outside": ("nothing", "others", "everything"),
    "mode": ("plain", "autocast", "checkpoint", "reentrant checkpoint", "compile"),
}
FREE = ("convolution", "by", "call", "backend")  # torch takes a case or not whatever these are


@dataclass(frozen=True)
class Case:
    """One point of the grid.

    Attributes:
        outer, middle, inner: the transforms; an empty name is no transform.
        convolution: what is transformed.
        by: the operand that the transforms see; the other two are constants to them.
        call: a function of torch.nn.functional, or the layer through functional_call.
        backend: what `convext.backend` is given.
        outside: which operands require grad outside of all transforms.
        mode: what the whole runs in.
    """

    outer: str
    middle: str
    inner: str
    convolution: str
    by: str
    call: str
    backend: str
    outside: str
    mode: str

    @property
    def levels(self) -> tuple[str, ...]:
        """The transforms, innermost first."""
        return tuple(level for level in (self.inner, self.middle, self.outer) if level)

    def __str__(self) -> str:
        nest = "(".join(reversed(self.levels)) + ")" * (len(self.levels) - 1)
        return "-".join([nest, *astuple(self)[3:]]).replace(" ", "_")


# ------------------------------------------------------------------------------------------------ what torch takes


def torch_takes(case: Case) -> bool:
    """Whether torch.nn itself gives the right value there."""
    levels = set(case.levels)
    if case.outer and not case.middle:
        return False  # the same as with `outer` in the middle
    if "linearize" in levels:
        return _linearizes(case)
    if case.mode == "checkpoint":  # it hooks saved tensors, which torch's reverse-mode transforms refuse
        return case.outside != "nothing" and not levels & REVERSE_MODE
    if case.mode == "reentrant checkpoint":
        return case.outside != "nothing"
    return case.mode != "compile" or _compiles(case.levels)


def _linearizes(case: Case) -> bool:
    """linearize traces its function and folds what is constant to it.

    Inside of another transform, around most of them, and where an operand requires grad outside, torch raises or
    answers zero.
    """
    at = case.levels.index("linearize")
    inside, around = set(case.levels[:at]), set(case.levels[at + 1 :])
    nests = not inside & {*FORWARD_MODE, "jacrev"} and around <= {"functional_call"}
    return nests and case.outside == "nothing" and case.mode in ("plain", "autocast")


def _compiles(levels: tuple[str, ...]) -> bool:
    """torch.compile takes most nestings of two levels, and few of three; which, depends on its version too."""
    if len(levels) == 1:
        return True
    inner, outer = levels[0], levels[-1]
    if len(levels) == 3 or "functional_call" in levels:
        return len(levels) == 2
    return inner not in ("jacfwd", "hessian", "vmap") and outer != "jacfwd"


# ------------------------------------------------------------------------------------------------------- samples


def seed() -> int:
    """Of the samples: CONVEXT_GRID_SEED where it is set, else the commit, so that every commit tries other cases."""
    return int(os.environ["CONVEXT_GRID_SEED"]) if "CONVEXT_GRID_SEED" in os.environ else commits.number()


def skeletons() -> list[Case]:
    """Every combination that torch takes of the factors that decide about it; the free ones at their first value."""
    values = [FACTORS[name][:1] if name in FREE else FACTORS[name] for name in FACTORS]
    return [case for row in product(*values) if torch_takes(case := Case(*row))]


def filled(case: Case, drawn: random.Random) -> Case:
    """`case` with its free factors drawn."""
    return replace(case, **{name: drawn.choice(FACTORS[name]) for name in FREE})


Pair = tuple[tuple[str, str], ...]  # ((factor, value), (factor, value))


def pairs_of(case: Case) -> set[Pair]:
    return set(combinations(vars(case).items(), 2))


def takeable_pairs() -> set[Pair]:
    """Every pair of two factors' values that some case has which torch takes."""
    found = {pair for case in skeletons() for pair in pairs_of(case)}
    for name in FREE:
        at_first = (name, FACTORS[name][0])
        for pair in [pair for pair in found if at_first in pair]:
            found |= {tuple((name, value) if side == at_first else side for side in pair) for value in FACTORS[name]}
    return found


def pairwise(seed: int) -> list[Case]:
    """A small sample that has every pair which torch takes: greedily, the best of a few drawn cases after the other."""
    drawn, every, missing = random.Random(seed), skeletons(), takeable_pairs()
    sample: list[Case] = []
    while missing:
        wanted = min(missing)
        bound, fixed = ({side for side in wanted if (side[0] in FREE) == free} for free in (False, True))
        fitting = [case for case in every if vars(case).items() >= bound]
        candidates = [replace(filled(drawn.choice(fitting), drawn), **dict(fixed)) for _ in range(50)]
        best = max(candidates, key=lambda case: len(pairs_of(case) & missing))
        sample.append(best)
        missing -= pairs_of(best)
    return sample


def whole(seed: int) -> Iterator[Case]:
    """Every nesting under every backend in every mode that torch takes; the other factors are drawn for each."""
    drawn, kinds = random.Random(seed), {}
    for case in skeletons():
        kinds.setdefault((case.levels, case.mode), []).append(case)
    for cases in kinds.values():
        for backend in FACTORS["backend"]:
            yield replace(filled(drawn.choice(cases), drawn), backend=backend)
