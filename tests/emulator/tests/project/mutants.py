"""Mistakes planted in compiled kernels, one statement each: what checks, or a wrong result, have to notice.

    python tests/project/mutants.py     from tests/emulator: plants them in CASES, prints those that live and a table

A guard that is true throughout, a size that is always the whole, operands that are always the same: where a probe shows
that a statement and its mutant do the same whenever they run, there is no mistake to notice, and none is planted. Nor
does a guard count whose load, in bounds without it, might bring anything: where NaN in its place changes no result.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))  # where pytest is not the one that starts this

import torch
from cases import Case, every
from gpu_emulator.triton_device import emulated
from tolerance import bound

from convext.problem import reference

MOST = 5  # mutants of a kind in one kernel, evenly spread over its text
SEEDS = (1, 2)  # a mutant lives that none of these schedules betrays

Change = Callable[[re.Match[str]], str]


def _next(match: re.Match[str]) -> str:
    return match[1] + str(int(match[2]) + 1)


def _bits(number: str) -> int:
    """A 64-bit constant, as it is without its sign."""
    return int(number) % 2**64


# Fails where the condition holds, which may use the predicate `differs`, in any lane that gets here.
PROBE = """
{{ .reg .pred differs; .reg .b32 nothing; .reg .b64 nowhere;
mov.b64 nowhere, 0; {compare}
{condition} ld.global.b32 nothing, [nowhere]; }}
"""


def _where_guard_is_false(match: re.Match[str]) -> str:
    guard = match[0].split()[0]
    return PROBE.format(compare="", condition="@" + guard[2:] if guard.startswith("@!") else "@!" + guard[1:])


def _garbage(match: re.Match[str]) -> str:
    """NaN of any type, by all its bits, where the guard is false."""
    guard, load = match[0].split()[0], match[1]
    no = "@" + guard[2:] if guard.startswith("@!") else "@!" + guard[1:]
    bits, registers = re.search(r"\.[bu](\d+)", load), re.findall(r"%\w+", load[: load.index("[")])
    assert bits is not None
    return "".join(f"\n{no} mov.b{bits[1]} {register}, -1;" for register in registers)


def _where_not(match: re.Match[str], value: int, register: str) -> str:
    return PROBE.format(compare=f"setp.ne.b32 differs, {register}, {value};", condition="@differs")


def _where_apart(match: re.Match[str]) -> str:
    return PROBE.format(compare=f"setp.ne.b32 differs, {match[2]}, {match[3]};", condition="@differs")


# A pattern, its mutant, what shows that they do the same, and what, behind the statement, that its value is nothing.
KINDS: dict[str, tuple[str, Change] | tuple[str, Change, Change] | tuple[str, Change, Change, Change]] = {
    "barrier deleted": (r"\tbar\.sync[^;]*;", lambda m: ""),
    "cp.async waited for one group less": (r"(cp\.async\.wait_group\s+)(\d+)", _next),
    "guard of a global store dropped": (
        r"@!?%p\d+ (st\.global[^;]*;)", lambda m: m[1], _where_guard_is_false),
    "guard of a global load dropped": (
        r"@!?%p\d+ (ld\.global[^;]*;)", lambda m: m[1], _where_guard_is_false, _garbage),
    "cp.async reads where it should not": (
        r"(cp\.async\.c[ag][^;]*), 0x?([0-9a-f]+), (%r\d+);", lambda m: f"{m[1]}, 0x{m[2]};",
        lambda m: _where_not(m, int(m[2], 16), m[3])),
    "lane of a shuffle": (r"(shfl\.sync\.bfly\.b32\s+[^,]*,[^,]*, )(\d+)", lambda m: m[1] + str(int(m[2]) ^ 3)),
    "address of a shared store": (
        r"(st\.shared[^\[]*\[ %r\d+ \+ )(\d+)", lambda m: m[1] + str(int(m[2]) + 16)),
    "address of a shared load": (r"(ld\.shared[^;]*\[%r\d+)(\];)", lambda m: m[1] + "+16];"),
    "address of ldmatrix": (r"(ldmatrix[^;]*\[%r\d+)(\];)", lambda m: m[1] + "+16];"),
    "operands of a product exchanged": (
        r"(mma\.sync[^{]*\{[^}]*\}, \{\s*)(%\w+), (%\w+)", lambda m: f"{m[1]}{m[3]}, {m[2]}",
        _where_apart),
    "wgmma waited for one group less": (r"(wgmma\.wait_group\.sync\.aligned\s+)(\d+)", _next),
    "wgmma.fence deleted": (r"\twgmma\.fence\.sync\.aligned;", lambda m: ""),
    "proxy fence deleted": (r"\tfence\.proxy\.async[^;]*;", lambda m: ""),
    "parity of an mbarrier": (
        r"(mbarrier\.try_wait[^;]*), (%r\d+);", lambda m: f"{m[1]}, 0;", lambda m: _where_not(m, 0, m[2])),
    "more bytes expected": (r"(mbarrier\.arrive\.expect_tx[^;]*, )(\d+)", _next),
    "fewer bytes expected": (r"(mbarrier\.arrive\.expect_tx[^;]*, )(\d+)", lambda m: m[1] + str(int(m[2]) // 2)),
    "swizzle of a descriptor": (
        r"(or\.b64\s+%rd\d+, %rd\d+, )(-?\d{18,20})", lambda m: m[1] + str(_bits(m[2]) ^ 3 << 62)),
    "step of a descriptor": (r"(add\.s64\s+%rd\d+, %rd\d+, )(-?\d{18,20})", lambda m: m[1] + str(_bits(m[2]) + 2)),
    "coordinate of TMA": (r"(cp\.async\.bulk\.tensor[^{]*\{)(%r\d+), (%r\d+)", lambda m: f"{m[1]}{m[3]}, {m[2]}",
        _where_apart),
}  # fmt: skip


@dataclass(frozen=True)
class Mutant:
    case: str
    kernel: str
    kind: str
    at: int  # which of the places that match
    begin: int
    end: int
    text: str
    line: int  # where its line begins
    probe: str  # what fails there where the mutant would do otherwise than the statement; "" if there is none
    garbage: str  # what spoils the statement's value where the mutant would change it; "" likewise

    def apply(self, name: str, ptx: str) -> str:
        return ptx[: self.begin] + self.text + ptx[self.end :] if name == self.kernel else ptx

    def probing(self) -> Mutant:
        """In place of the mutant: the statement as it is, behind its probe."""
        return replace(self, begin=self.line, end=self.line, text=self.probe)

    def spoiling(self) -> Mutant:
        """In place of the mutant: the statement as it is, and garbage for its value."""
        return replace(self, begin=self.end, text=self.garbage)

    def __str__(self) -> str:
        return f"{self.case} | {self.kernel} | {self.kind} | {self.at}"


CASES = (
    "sm_80 triton.stencil fprop bfloat16 ieee NCHW depthwise 1-D",
    "sm_80 triton.stencil wgrad float32 ieee NHWC depthwise 2-D with a multiplier",
    "sm_80 triton.pointwise fprop bfloat16 ieee NHWC pointwise, odd",
    "sm_80 triton.banded wgrad bfloat16 ieee NCHW depthwise 9x9",
    "sm_80 triton.grouped dgrad float16 ieee NCHW groups of 3 and 2",
    "sm_80 triton.igemm wgrad float32 tf32x3 NCHW dense, odd and dilated",
    "sm_90 triton.pointwise fprop float16 ieee NHWC in 4 warps pointwise, more steps than stages",
    "sm_90 triton.banded fprop bfloat16 ieee NCHW depthwise 9x9",
    "sm_90 triton.grouped fprop bfloat16 ieee NHWC groups of 8",
    "sm_90 triton.igemm fprop bfloat16 ieee NHWC boxes dense in vectors",
    "sm_90 triton.igemm fprop float16 ieee NCHW dense in vectors",
    "sm_120 triton.igemm dgrad bfloat16 ieee NHWC boxes dense in vectors",
)


def case_named(name: str) -> Case:
    return next(case for case in every() if str(case) == name)


def outcome(case: Case, mutant: Mutant | None) -> str:
    """What is noticed: "" if nothing, "wrong result", or the finding."""
    torch.manual_seed(0)
    with emulated(case.problem.arch):
        a, b, bias = case.operands()
    oracle = reference.compute(case.problem, a, b, bias)
    products = "ieee" if case.record == "triton.stencil" else case.problem.precision
    allowed = bound(case.problem, a, b, bias, oracle, products)
    for seed in SEEDS:
        with emulated(case.problem.arch, seed, mutant.apply if mutant else lambda name, ptx: ptx):
            try:
                result = case.run(a, b, bias)
            except RuntimeError as error:
                return str(error)
        if not (result.double() - oracle).abs().max().item() <= allowed:
            return "wrong result"
    return ""


def texts(case: Case) -> dict[str, str]:
    """The PTX of the kernels that a case launches, by name."""
    found: dict[str, str] = {}

    def keep(name: str, ptx: str) -> str:
        found[name] = ptx
        return ptx

    with emulated(case.problem.arch, rewrite=keep):
        case.run(*case.operands())
    return found


def mutants(case: Case) -> Iterator[Mutant]:
    for kernel, ptx in sorted(texts(case).items()):
        for kind, (pattern, change, *probes) in KINDS.items():
            places = list(re.finditer(pattern, ptx))
            step = max(1, -(-len(places) // MOST))
            for at, match in list(enumerate(places))[::step]:
                shown = [probe(match) for probe in probes]
                yield Mutant(
                    str(case), kernel, kind, at, match.start(), match.end(), change(match),
                    ptx.rfind("\n", 0, match.start()) + 1, *shown, *[""] * (2 - len(shown)),
                )  # fmt: skip


def survey(name: str) -> tuple[Counter[tuple[str, str]], list[str]]:
    """Verdicts by kind in one case, and the mutants that live."""
    case = case_named(name)
    assert outcome(case, None) == "", f"the kernels of {case} as they are have a finding"
    table: Counter[tuple[str, str]] = Counter()
    living = []
    for mutant in mutants(case):
        if mutant.probe and not outcome(case, mutant.probing()):
            table[mutant.kind, "does the same here: not planted"] += 1
            continue
        noticed = outcome(case, mutant)
        if not noticed and mutant.garbage and not outcome(case, mutant.spoiling()):
            table[mutant.kind, "brings what nobody uses: not planted"] += 1
            continue
        table[mutant.kind, "lives" if not noticed else noticed if noticed == "wrong result" else "finding"] += 1
        if not noticed:
            living.append(str(mutant))
    return table, living


def main() -> None:
    table: Counter[tuple[str, str]] = Counter()
    with ProcessPoolExecutor(2) as pool:
        for found, living in pool.map(survey, CASES):
            table += found
            for mutant in living:
                print("lives:", mutant, flush=True)
    for (kind, verdict), count in sorted(table.items()):
        print(f"{count:4} {kind}: {verdict}")


if __name__ == "__main__":
    main()
