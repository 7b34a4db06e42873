"""When a record for CPUs is worth it: measured on a machine of the same kind, near the problem, or else torch.

A table holds what was measured on one kind of machine (processor's maker and instruction set) with one number of
threads: for each of some thousand problems, how many times faster than torch each record is, with the lower end of the
ratio's 95% interval. What a problem may expect of a record comes from the measured problems nearest to it:

    expected = mean of their ratios, the nearer the heavier, in logarithms
    at least = mean of their lower ends - CAUTION * distance of the nearest - DOUBT * their spread around the mean

A record is taken where that is at least `WORTH`, and torch everywhere else: far from what was measured, for symbolic
sizes, and on machines of another kind, but for what wins `STRUCTURAL` times or more on every machine on which something
near was measured, where torch runs its reference loops.

    {"machine": "amd-avx512", "threads": 1, "torch": "..", ..,
     "rows": {"wgrad depthwise against gemm": [[[point], {"cpu.stencil": [4.1, 3.9]}], ..]}}

Nothing is ever measured in a call.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from convext.choice import onednn
from convext.choice.remembered import FORGET, forget
from convext.problem import ConvProblem
from convext.providers.cpu import library

FOLDER = Path(__file__).parent / "tables"
WORTH = 1.10  # what a record has to win at least, to be taken
STRUCTURAL = 3.0  # the same on a machine, or with threads, that were not measured

# The axes of `point`, and how far apart two problems may be on each to count as one apart. Sizes are in log2: twice the
# planes matter little, and 3 and 5 taps are far from each other. Properties are 0 or 1: torch has other kernels where
# one differs, or our kernels another way. Fitted to all measured problems, each left out in turn.
SCALES = {
    "planes": 6.8, "groups": 14.0, "pixels": 2.4, "width": 2.7, "channels of x": 0.5, "channels of y": 0.86,
    "taps of an axis": 0.75, "dilation": 1.9,
    "bfloat16": 0.19, "channels last": 0.44, "strided": 0.62, "dilated": 0.6, "rank": 0.6, "pads one side": 0.32,
    "groups not in eights": 0.94, "groups not in sixteens": 1.1, "stride beyond 2": 2.0, "packed": 0.3,
}  # fmt: skip
NEIGHBOURS = 4  # measured problems that are asked
SMALLEST = 2**19  # FLOPs: nothing smaller was measured, and a call's own cost counts there
FAR = 5.0  # a problem whose nearest neighbour is so far away is torch's
CAUTION, DOUBT = 0.03, 0.25
# What a kernel of ours takes at least: microseconds of a call, and of a thread in a second multiplications and bytes.
CALL = 30.0
SPEED, SPEED_OF_ZEN5 = (16e9, 20e9), (50e9, 50e9)


@dataclass(frozen=True)
class Row:
    """One measured problem."""

    kind: str
    point: tuple[float, ...]
    ratios: dict[str, tuple[float, float]]  # of each record: torch's time by its own, and the lower end of that
    machine: str = ""
    threads: int = 0


def kind(problem: ConvProblem) -> str:
    """What has to be the same for a measurement to say anything about a problem: also how torch would compute it."""
    family = {"dilated": "dense"}.get(problem.family, problem.family)
    theirs = onednn.kernel_of(problem)
    rival = "" if problem.groups == 1 and theirs == "direct" else f" against {theirs}"
    measured = problem.dtype in (torch.float32, torch.bfloat16)
    return f"{problem.face} {family}{rival}" + ("" if measured else f" {problem.dtype}")


def point(problem: ConvProblem) -> tuple[float, ...]:
    """Where a problem lies on the axes of SCALES.

    A plane is one channel group of one image; pixels are those of the output; the taps of an axis are the mean of all.
    """
    p = problem
    sizes = (p.n * p.groups, p.groups, math.prod(p.output), p.output[-1], p.c // p.groups, p.k // p.groups)
    dilated = any(d > 1 and k > 1 for d, k in zip(p.dilation, p.kernel, strict=True))
    depthwise = p.groups == p.c  # torch computes eight or sixteen channels at a time
    properties = (
        p.dtype == torch.bfloat16, p.channels_last, max(p.stride) > 1, dilated, p.rank, not p.symmetric,
        depthwise and p.groups % 8 > 0, depthwise and p.groups % 16 > 0, max(p.stride) > 2, _is_packed(p),
    )  # fmt: skip
    logs = [math.log2(max(size, 1)) for size in (*sizes, p.taps ** (1 / p.rank), max(p.dilation))]
    return (*(round(size, 2) for size in logs), *map(float, properties))


def _is_packed(p: ConvProblem) -> bool:
    """Whether our kernels copy its windows: csrc/cpu/faces/ways.h, for vectors of sixteen."""
    return p.c != p.k or p.c // p.groups not in (1, 2, 4, 8) or p.k < 16


Ranking = tuple[tuple[str, tuple[Row, ...]], ...]


@lru_cache(maxsize=8192)
def fastest(problem: ConvProblem, threads: int) -> Ranking:
    """The records that are faster than torch, the fastest first, each with the measured problems that say so.

    A record among them may not take the problem: the tables know nothing of that.

    Args:
        problem: of a CPU.
        threads: torch's number of threads.
    """
    if problem.flops < SMALLEST:
        return ()
    here = FOLDER / f"{library.measured_as()}-{min(threads, 2)}.json"
    if here.exists() and (expected := _expected(_table(here), problem)):
        return _ranked(expected, WORTH)
    # Where oneDNN computes this with another kernel, nothing near was measured, and nothing is said.
    paths = sorted(path for path in FOLDER.glob("*.json") if not path.name.startswith("sm_"))  # GPUs' are others
    elsewhere = [expected for path in paths if (expected := _expected(_table(path), problem))]
    if not elsewhere:
        return ()
    common = set.intersection(*(set(expected) for expected in elsewhere))
    return _ranked({name: min((e[name] for e in elsewhere), key=lambda e: e.least) for name in common}, STRUCTURAL)


def gain(problem: ConvProblem, name: str, rows: tuple[Row, ...], threads: int) -> float:
    """Microseconds that a call of a record saves, by what `rows` say and by the time that it takes itself at least.

    torch's time - ours = ours * (ratio - 1)
    """
    if not rows:
        return math.inf
    multiplications, bytes = SPEED_OF_ZEN5 if library.has_wide_units() else SPEED
    ours = CALL + 1e6 / threads * max(problem.flops / 2 / multiplications, problem.ideal_bytes / bytes)
    return ours * (math.prod(row.ratios[name][0] for row in rows) ** (1 / len(rows)) - 1)


@dataclass(frozen=True)
class _Expected:
    """What a record is expected to win, what it wins at least, and the measured problems that say so."""

    value: float
    least: float
    rows: tuple[Row, ...]


def _ranked(expected: dict[str, _Expected], least: float) -> Ranking:
    """Those that win at least `least`, by what they are expected to win."""
    worth = [(e.value, name, e.rows) for name, e in expected.items() if e.least >= least]
    return tuple((name, rows) for _, name, rows in sorted(worth, key=lambda item: -item[0]))


def _expected(table: _Table, problem: ConvProblem) -> dict[str, _Expected]:
    """What each record of a table may be expected to win; nothing far from all that was measured."""
    rows, points = table.of(kind(problem))
    if not rows:
        return {}
    distances = np.sqrt((((points - point(problem)) / list(SCALES.values())) ** 2).sum(1))
    found = {}
    for name in dict.fromkeys(name for row in rows for name in row.ratios):
        having = [i for i, row in enumerate(rows) if name in row.ratios]
        nearest = sorted(having, key=lambda i: distances[i])[:NEIGHBOURS]
        if distances[nearest[0]] < FAR:
            found[name] = _mean(name, tuple(rows[i] for i in nearest), distances[nearest])
    return found


def _mean(name: str, rows: tuple[Row, ...], distances: Any) -> _Expected:
    """What rows at these distances, in rising order, say of a record together."""
    weights = 1 / (0.05 + distances**2)
    weights /= weights.sum()
    values, lows = np.log2([row.ratios[name] for row in rows]).T
    mean = weights @ values
    spread = math.sqrt(weights @ (values - mean) ** 2)
    least = weights @ lows - CAUTION * distances[0] - DOUBT * spread
    return _Expected(float(2**mean), float(2**least), rows)


class _Table:
    """What was measured on one machine with one number of threads, read as far as it is asked for: there are thousands
    of rows, and the first call of a process waits for them."""

    def __init__(self, path: Path) -> None:
        self._text = path.read_text()
        self._of: dict[str, tuple[tuple[Row, ...], Any]] = {}

    def of(self, kind: str) -> tuple[tuple[Row, ...], Any]:
        """The rows of a kind, and their points."""
        if kind not in self._of:
            where = self._value("machine"), self._value("threads")
            rows = tuple(
                Row(kind, tuple(at), {name: (value, low) for name, (value, low) in ratios.items()}, *where)
                for at, ratios in self._value(kind) or ()
            )
            self._of[kind] = rows, np.array([row.point for row in rows])
        return self._of[kind]

    def _value(self, key: str) -> Any:
        """What `write` has written under a key; None where there is none."""
        name = f"{json.dumps(key)}: "
        begin = self._text.find(name)
        return None if begin < 0 else json.JSONDecoder().raw_decode(self._text, begin + len(name))[0]


_table = cache(_Table)


def write(path: Path, rows: Iterable[Row], measured_on: dict[str, Any]) -> None:
    """Writes a table, a row a line; `measured_on` says on which machine, with which versions and commit."""
    by_kind: dict[str, list[str]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: (row.kind, row.point)):
        at = [int(value) if value == int(value) else value for value in row.point]
        by_kind[row.kind].append(json.dumps([at, row.ratios], separators=(",", ":")))
    head = [f"{json.dumps(key)}: {json.dumps(value)}," for key, value in measured_on.items()]
    blocks = [f"{json.dumps(kind_)}: [\n" + ",\n".join(lines) + "]" for kind_, lines in by_kind.items()]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(["{", *head, '"rows": {', ",\n".join(blocks), "}}", ""]))
    forget()


FORGET.extend((_table.cache_clear, fastest.cache_clear))
