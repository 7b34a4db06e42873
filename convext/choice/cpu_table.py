"""When a record for CPUs is worth it: measured on a machine of the same kind, near the problem, or else torch.

A table holds what was measured on one kind of machine (processor's maker and instruction set) with one number of
threads: for each problem of a grid, how many times faster than torch each record is, with the lower end of the ratio's
95% interval. A problem looks at the measured problems nearest to it. A record is taken where in each of them the lower
end is at least `WORTH`, and torch everywhere else: far from what was measured, for symbolic sizes, and on machines of
another kind, but for what wins `STRUCTURAL` times or more on every machine measured, where torch runs its reference
loops.

    {"machine": "amd-avx512", "threads": 1, "torch": "..", ..,
     "rows": [{"kind": "wgrad depthwise 2-D float32 channels_first", "point": [..],
               "ratios": {"cpu.stencil": [4.1, 3.9]}}]}

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

from convext.problem import ConvProblem
from convext.providers.cpu import library

FOLDER = Path(__file__).parent / "tables"
WORTH = 1.10  # the lower end of a ratio's interval, to take a record
STRUCTURAL = 3.0  # the same on a machine, or with threads, that were not measured
NEIGHBOURS = 2  # measured problems that have to agree

# How far a measured problem may lie from one that it decides, as a factor on each axis of `point`. 3 and 5 taps are far
# from each other: torch has kernels for the one that it does not have for the other.
REACH = (16.0, 1.6, 1.6, 1.6, 1.3, 1.3, 16.0, 1.3, 2.0)


@dataclass(frozen=True)
class Row:
    """One measured problem."""

    kind: str
    point: tuple[float, ...]
    ratios: dict[str, tuple[float, float]]  # of each record: torch's time by its own, and the lower end of that
    machine: str = ""
    threads: int = 0


def kind(problem: ConvProblem) -> str:
    """What has to be the same for a measurement to say anything about a problem."""
    p = problem
    dtype = str(p.dtype).removeprefix("torch.")
    layout = "channels_last" if p.channels_last else "channels_first"
    strided = " strided" if max(p.stride) > 1 else ""
    dilated = " dilated" if any(d > 1 and k > 1 for d, k in zip(p.dilation, p.kernel, strict=True)) else ""
    family = {"dilated": "dense"}.get(p.family, p.family)
    return f"{p.face} {family}{strided}{dilated} {p.rank}-D {dtype} {layout}"


def point(problem: ConvProblem) -> tuple[float, ...]:
    """log2 of: images, depth, height, width of the output, channels of x and y in a group, groups, kernel, dilation.

    The kernel's size is the mean of its axes, dilation and absent axes of the output count as 1.
    """
    p = problem
    depth, height, width = (1,) * (3 - p.rank) + p.output
    side = p.taps ** (1 / p.rank)
    sizes = (p.n, depth, height, width, p.c // p.groups, p.k // p.groups, p.groups, side, max(p.dilation))
    return tuple(round(math.log2(max(size, 1)), 3) for size in sizes)


@lru_cache(maxsize=8192)
def fastest(problem: ConvProblem, threads: int) -> tuple[str, tuple[Row, ...]] | None:
    """The record that is faster than torch, and the measured problems that say so, or None: torch is as good.

    Args:
        problem: of a CPU.
        threads: torch's number of threads.
    """
    tables = _tables()
    here = tables.get((library.machine(), min(threads, 2)), {})
    own = _nearest(here.get(kind(problem), ()), problem)
    if own:
        return _agreed(own, WORTH)
    others = [_nearest(table.get(kind(problem), ()), problem) for table in tables.values()]
    if not others or not all(others):
        return None
    return _agreed(tuple(row for rows in others for row in rows), STRUCTURAL)


def _nearest(rows: Iterable[Row], problem: ConvProblem) -> tuple[Row, ...]:
    """The NEIGHBOURS nearest rows in reach; none where there are fewer than one."""
    at, reach = point(problem), [math.log2(factor) for factor in REACH]

    def distances(row: Row) -> list[float]:
        return [abs(a - b) / r for a, b, r in zip(row.point, at, reach, strict=True)]

    near = [(sum(found), row) for row in rows if max(found := distances(row)) <= 1]
    return tuple(row for _, row in sorted(near, key=lambda pair: pair[0])[:NEIGHBOURS])


def _agreed(rows: tuple[Row, ...], least: float) -> tuple[str, tuple[Row, ...]] | None:
    """The fastest record whose lower end is at least `least` in every row."""
    common = set.intersection(*(set(row.ratios) for row in rows))
    worth = [name for name in common if min(row.ratios[name][1] for row in rows) >= least]
    if not worth:
        return None
    return max(worth, key=lambda name: math.prod(row.ratios[name][0] for row in rows)), rows


@cache
def _tables() -> dict[tuple[str, int], dict[str, list[Row]]]:
    """The rows of every committed table by (machine, threads), by kind."""
    found = {}
    for path in sorted(FOLDER.glob("*.json")):
        table = json.loads(path.read_text())
        by_kind: dict[str, list[Row]] = defaultdict(list)
        for row in table["rows"]:
            ratios = {name: (float(value), float(low)) for name, (value, low) in row["ratios"].items()}
            by_kind[row["kind"]].append(
                Row(row["kind"], tuple(row["point"]), ratios, table["machine"], table["threads"])
            )
        found[table["machine"], table["threads"]] = dict(by_kind)
    return found


def write(path: Path, rows: Iterable[Row], measured_on: dict[str, Any]) -> None:
    """Writes a table, a row a line; `measured_on` says on which machine, with which versions and commit."""
    head = [f"{json.dumps(key)}: {json.dumps(value)}," for key, value in measured_on.items()]
    lines = [
        json.dumps({"kind": row.kind, "point": row.point, "ratios": row.ratios})
        for row in sorted(rows, key=lambda row: (row.kind, row.point))
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(["{", *head, '"rows": [', ",\n".join(lines), "]", "}", ""]))
    _tables.cache_clear()
    fastest.cache_clear()
