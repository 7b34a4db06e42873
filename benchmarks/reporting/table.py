"""The table on the terminal: a line a layer, a column a kind of work, losses in red.

    A18 VAN                      1.31x     speed: how many times as fast as torch
    depthwise, n 128>1           412us cl  the time of what "auto" runs, and its layout

Both convext and torch take the layout, channels first or last (cl), that suits them best; torch the best of its paths
as well. 80 columns hold it.

With rich there is colour and, on a terminal, a progress bar; without it, the same text.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from convext.benchmarks.reporting.results import Row
from convext.benchmarks.reporting.stats import geomean
from convext.measuring.ratios import Ratio

COLUMNS = ("forward", "input gradient", "weight gradient", "training step")
LEGEND = (
    "1.31x: convext takes 1/1.31 of the time of torch's best way, each in the layout\n"
    "that suits it; green or red where the samples' spread does not explain it. Below:\n"
    "convext's time (cl: channels last), and what batch and map were cut from and to."
)
MEANS = (
    "Geometric means over as many layers as named, by count in their network;\ngreen: above 1.05x, red: below 0.95x."
)
SILENT, EVERY = 2.0, 10.0  # seconds before the first line of progress, and from one to the next
STYLES = {"faster": "green", "slower": "bold red", "same": "", "failed": "bold white on red"}


@dataclass(frozen=True)
class Cell:
    """Text, how it is meant ("faster", "slower", "same" or "failed"), and what stands below it in small type."""

    text: str = ""
    kind: str = "same"
    note: str = ""


def column(row: Row) -> str:
    """Which column a row belongs in."""
    if row.work == "step":
        return "training step"
    if row.work == "wgrad":
        return "weight gradient"
    return "forward" if row.forward else "input gradient"


def cell(row: Row) -> Cell:
    """What "auto" did in one case."""
    name, ratio = row.auto(), row.ratio()
    if name is None or ratio is None:
        return Cell("DISAGREES" if row.failures else "not timed", "failed")
    time = row.times[name][0]
    layout = " cl" if name.endswith("/cl") else ""
    return Cell(f"{ratio[0]:.2f}x", Ratio(*ratio).verdict, f"{microseconds(time)}{layout}")


def microseconds(value: float) -> str:
    """Three digits: 4.12us, 41.2us, 412us, 4.12ms."""
    if value >= 1000:
        return f"{value / 1000:.3g}ms"
    return f"{value:.3g}us"


def lines(rows: Iterable[Row]) -> Iterator[list[Cell]]:
    """The table's lines: the layer, and a cell for each kind of work."""
    layers: dict[str, dict[str, Row]] = {}
    for row in rows:
        layers.setdefault(row.layer, {})[column(row)] = row
    for works in sorted(layers.values(), key=lambda works: next(iter(works.values())).family):
        some = next(iter(works.values()))
        cells = [cell(works[name]) if name in works else Cell() for name in COLUMNS]
        yield [Cell(f"{some.layer} {some.name}", note=", ".join(filter(None, (some.family, some.cut)))), *cells]


def families(rows: Sequence[Row]) -> Iterator[list[Cell]]:
    """Geometric means of the ratios, by family and kind of work, weighted by how often a network has the layer."""
    for family in sorted({row.family for row in rows}):
        cells = []
        for name in COLUMNS:
            timed = [row for row in rows if row.family == family and column(row) == name and row.ratio()]
            mean = geomean((row.ratio()[0] for row in timed), (row.count for row in timed))  # type: ignore[index]
            cells.append(mean_cell(mean, len(timed)) if timed else Cell())
        yield [Cell(family), *cells]


def mean_cell(mean: float, layers: int) -> Cell:
    """A geometric mean over some layers: means have no spread of their own, so a twentieth counts as noise."""
    kind = "faster" if mean > 1.05 else "slower" if mean < 0.95 else "same"
    return Cell(f"{mean:.2f}x of {layers}", kind)


def whose(rows: Sequence[Row]) -> list[str]:
    """A line for the rows in which "auto" ran a kernel of ours, and one for those that were torch's own all along."""
    timed = [(row, str(row.auto()), row.ratio()) for row in rows]
    ours = [(row, ratio) for row, name, ratio in timed if ratio and name[-2:] in row.ours]
    torchs = [(row, ratio) for row, name, ratio in timed if ratio and name[-2:] not in row.ours]
    lines = []
    for what, group in (("kernels of ours", ours), ("torch's own kernels", torchs)):
        if group:
            speed = geomean(ratio[0] for _, ratio in group)
            works = Counter(column(row) for row, _ in group)
            parts = ", ".join(f"{works[name]} {name}" for name in COLUMNS if works[name])
            lines.append(f"{len(group)} of {len(rows)} rows ran {what}, {speed:.2f}x: {parts}")
    return lines


def failures(rows: Iterable[Row]) -> list[str]:
    """A line for every contender that was not timed, with the reason."""
    return [
        f"{row.layer} {row.name} {row.work} {row.dtype}: {contender}: {reason}"
        for row in rows
        for contender, reason in row.failures.items()
    ]


def show(headers: Sequence[str], body: Iterable[Sequence[Cell]], title: str) -> None:
    """Prints a table."""
    if importlib.util.find_spec("rich") is None:
        print(f"\n{title}")
        for line in [[Cell(h) for h in headers], *body]:
            print(
                "  ".join(
                    f"{' '.join(filter(None, (c.text, c.note))):<{44 if i == 0 else 22}}" for i, c in enumerate(line)
                )
            )
        return
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console = Console(width=120)  # a file or a pipe has no width of its own
    narrow = [header.replace(" ", "\n") for header in headers]
    table = Table(*narrow, title=title, title_justify="left", header_style="bold", box=SIMPLE_HEAD)
    for line in body:
        table.add_row(
            *(Text.assemble((c.text, STYLES[c.kind]), (f"\n{c.note}" if c.note else "", "dim")) for c in line)
        )
    console.print(table)


class Progress:
    """How far a measurement is, on standard error: how much is done, when it ends, what was timed last.

    A terminal has a bar where rich is installed; a file, a pipe and a terminal without it get a line now and then.
    """

    def __init__(self, total: int, minutes: float | None = None) -> None:
        """`minutes`: what is not begun by then never is."""
        self._total, self._done, self._limit = total, 0, 60 * minutes if minutes else float("inf")
        self._begin = time.monotonic()
        self._said = self._begin - EVERY + SILENT
        self._bar = None
        if importlib.util.find_spec("rich") is not None and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
            from rich.progress import Progress as Bar

            columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
            self._bar = Bar(*columns, console=Console(stderr=True))
            self._task = self._bar.add_task("", total=total)

    def begin(self, what: str) -> None:
        """`what` takes long enough to be named before it is done."""
        if self._bar is not None:
            self._bar.update(self._task, description=what)
        else:
            print(f"{self._done + 1} of {self._total}: {what}", file=sys.stderr, flush=True)

    def step(self, what: str) -> None:
        """One more is done; `what` it was."""
        self._done += 1
        now = time.monotonic()
        by_rate = (now - self._begin) / self._done * (self._total - self._done)
        minutes, seconds = divmod(round(max(0.0, min(by_rate, self._begin + self._limit - now))), 60)
        text = f"{minutes}:{seconds:02} left, {what}"
        if self._bar is not None:
            self._bar.update(self._task, advance=1, description=text)
        elif now - self._said >= EVERY:
            self._said = now
            print(f"{self._done} of {self._total}, {text}", file=sys.stderr, flush=True)

    def say(self, text: str) -> None:
        """Prints a line above the bar."""
        if self._bar is not None:
            self._bar.console.print(text, style="bold red", highlight=False, markup=False)
        else:
            print(text, file=sys.stderr)

    def __enter__(self) -> Progress:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.stop()
