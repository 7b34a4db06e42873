"""Two results files of one device: what became faster, what became slower, and whether the machine itself drifted.

A case's speed ratio is `before / after` of the median of what "auto" ran. It counts as a change only where the two
spreads, p20 to p80, do not touch. torch's own times are in both files, so their ratio shows what the machine did.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from convext.benchmarks.reporting.results import Results, Row
from convext.benchmarks.reporting.stats import geomean
from convext.benchmarks.reporting.table import Cell, microseconds, show
from convext.measuring.ratios import Verdict


@dataclass(frozen=True)
class Change:
    """One case in both files; times are [median, p20, p80] in microseconds."""

    row: Row
    layout: str
    before: list[float]
    after: list[float]

    @property
    def ratio(self) -> float:
        """Above 1: faster than before."""
        return self.before[0] / self.after[0]

    @property
    def verdict(self) -> Verdict:
        if self.after[1] > self.before[2]:
            return "slower"
        return "faster" if self.after[2] < self.before[1] else "same"


def changes(before: Results, after: Results) -> list[Change]:
    """Every case and layout that "auto" was timed for in both."""
    earlier = {row.key: row for row in before.rows}
    found = []
    for row in after.rows:
        if row.key not in earlier:
            continue
        for layout in row.chosen:
            old, new = earlier[row.key].auto(layout), row.auto(layout)
            if old and new:
                found.append(Change(row, layout, earlier[row.key].times[old], row.times[new]))
    return found


def drift(before: Results, after: Results) -> float:
    """Geometric mean of torch's own speed ratios: 1.0 on a machine that stayed the same."""
    earlier = {row.key: row for row in before.rows}
    return geomean(
        earlier[row.key].times[name][0] / row.times[name][0]
        for row in after.rows
        if row.key in earlier
        for name in ("torch.eager/nc", "torch.eager/cl")
        if name in row.times and name in earlier[row.key].times
    )


def main(before_path: Path, after_path: Path, fail_below: float | None) -> int:
    """Prints the comparison; 1 where a case that did change has a ratio under `fail_below`, or nothing compares."""
    before, after = Results.read(before_path), Results.read(after_path)
    for name, results in (("before", before), ("after ", after)):
        run = results.run
        print(f"{name}: {run.get('device')}, commit {run.get('commit')}, torch {run.get('torch')}, {run.get('date')}")
    if before.run.get("device") != after.run.get("device"):
        print("these are two devices: the ratios compare machines, not code")
    found = changes(before, after)
    if not found:
        print("no case is in both files")
        return 1
    changed = sorted((c for c in found if c.verdict != "same"), key=lambda c: c.ratio)
    body = [
        [
            Cell(f"{c.row.layer} {c.row.name}"[:44]), Cell(f"{c.row.work}/{c.layout}"),
            Cell(microseconds(c.before[0])), Cell(microseconds(c.after[0])), Cell(f"{c.ratio:.2f}x", c.verdict),
        ]
        for c in changed
    ]  # fmt: skip
    show(("layer", "work", "before", "after", "speed"), body, f"{len(changed)} of {len(found)} changed")
    print(f"all {len(found)}: {geomean(c.ratio for c in found):.3f}x; torch itself: {drift(before, after):.3f}x")
    fallen = [c for c in changed if c.verdict == "slower" and fail_below is not None and c.ratio < fail_below]
    if fallen:
        print(f"{len(fallen)} fell below {fail_below}")
    return 1 if fallen else 0
