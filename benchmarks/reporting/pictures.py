"""Pictures of a results file: speed by family, share of the ideal time, a heat map of every layer; or that of a sweep.

Red is slower than torch, blue is faster, and an empty place was not timed. All axes of speed are logarithmic, so
that twice as fast and half as fast lie equally far from 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from convext.benchmarks.cases.sweep import SWEEPS, position
from convext.benchmarks.reporting.results import Row
from convext.benchmarks.reporting.stats import geomean
from convext.benchmarks.reporting.table import COLUMNS, column

WORK_COLOURS = dict(zip(COLUMNS, ("#1b4f72", "#2e86c1", "#85c1e9", "#f5b041"), strict=True))
LOSS = "#c0392b"
WIDTH = 9.0  # inches: as wide as the page's column
NARROW = 6.4  # of a picture that has to be read on a telephone as well, where it is shrunk


def _times(value: float, _: int = 0) -> str:
    return f"{value:g}x"


def _families(rows: Sequence[Row]) -> list[str]:
    return sorted({row.family for row in rows})


def _ratio(row: Row) -> float | None:
    ratio = row.ratio()
    return None if ratio is None else ratio[0]


def speed_by_family(rows: Sequence[Row], device: str) -> Figure:
    """Bars of the geometric mean speed for each family and kind of work; a dot is a layer."""
    families = _families(rows)
    figure, axes = plt.subplots(figsize=(NARROW, 4.2), layout="constrained")
    axes.set_yscale("log", base=2)
    width = 0.8 / len(COLUMNS)
    for i, name in enumerate(COLUMNS):
        for j, family in enumerate(families):
            timed = [row for row in rows if row.family == family and column(row) == name and _ratio(row)]
            if not timed:
                continue
            ratios = [_ratio(row) or math.nan for row in timed]
            mean = geomean(ratios, [row.count for row in timed])
            x = j + (i - (len(COLUMNS) - 1) / 2) * width
            bar = axes.bar(x, mean - 1, width * 0.92, bottom=1, color=WORK_COLOURS[name])
            if mean < 1:
                bar[0].set(edgecolor=LOSS, linewidth=1.5)
            axes.plot([x] * len(ratios), ratios, ".", color="#222222", markersize=3, alpha=0.5)
    axes.axhline(1, color="black", linewidth=1)
    axes.set_xticks(range(len(families)), families, fontsize=10.5)
    low, high = axes.get_ylim()
    ticks = [2.0**i for i in range(math.floor(math.log2(low)), math.ceil(math.log2(high)) + 1)]
    axes.yaxis.set_major_locator(FixedLocator(ticks))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(_times))
    axes.set_ylim(min(low, 0.5), max(high, 2.0))  # a machine's noise is not to look like a mountain range
    axes.set_ylabel("speed relative to the best of torch's")
    axes.set_title(
        f"Speed by family, {device}\nbars: geometric mean over layers; red edge: slower; dots: layers", fontsize=11
    )
    handles = [Patch(color=colour, label=name) for name, colour in WORK_COLOURS.items()]
    axes.legend(handles=handles, ncols=2, fontsize=10, frameon=False, loc="upper right")
    axes.margins(y=0.18)
    axes.grid(axis="y", alpha=0.25)
    return figure


def share_of_ideal(rows: Sequence[Row], device: str) -> Figure:
    """For each family, every layer's forward: the share of its ideal time that convext and torch reach."""
    families = _families(rows)
    figure, axes = plt.subplots(figsize=(WIDTH, 4.2), layout="constrained")
    for j, family in enumerate(families):
        timed = [row for row in rows if row.family == family and column(row) == "forward" and row.auto()]
        ours = sorted(
            (row.ideal / row.times[row.auto() or ""][0], row.ideal / row.times[row.baseline][0]) for row in timed
        )
        for i, (mine, theirs) in enumerate(ours):
            x = j - 0.38 + 0.76 * (i + 0.5) / len(ours)
            colour = LOSS if mine < 0.99 * theirs else "#1b4f72"
            axes.plot([x, x], [theirs, mine], color=colour, linewidth=1, alpha=0.5)
            axes.plot(x, theirs, "o", color="#999999", markersize=3.5)
            axes.plot(x, mine, "o", color=colour, markersize=4.5)
    axes.axhline(1, color="black", linewidth=1)
    axes.set_xticks(range(len(families)), families)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:.0%}"))
    axes.set_ylim(bottom=0)
    axes.set_ylabel("ideal time / measured time, forward")
    legend = "blue: convext, red: convext where slower, grey: best of torch's"
    axes.set_title(f"Share of the ideal time, {device}\n{legend}", fontsize=10)
    axes.grid(axis="y", alpha=0.25)
    return figure


def heat_map(rows: Sequence[Row], device: str) -> Figure:
    """A cell for every layer and kind of work, coloured by speed, in two halves side by side."""
    layers: dict[str, dict[str, Row]] = {}
    for row in sorted(rows, key=lambda row: row.family):
        layers.setdefault(row.layer, {})[column(row)] = row
    names = list(layers)
    half = max(1, math.ceil(len(names) / 2))
    parts = [names[:half], names[half:]] if len(names) > 24 else [names]
    figure, all_axes = plt.subplots(
        1, len(parts), figsize=(WIDTH if len(parts) > 1 else WIDTH * 0.7, 1.4 + 0.2 * len(parts[0])),
        layout="constrained", squeeze=False,
    )  # fmt: skip
    image: Any = None
    for axes, part in zip(all_axes[0], parts, strict=True):
        image = _cells(axes, [[_speed(layers[name].get(work)) for work in COLUMNS] for name in part], fontsize=6)
        some = [next(iter(layers[name].values())) for name in part]
        axes.set_yticks(range(len(part)), [f"{row.family}  {row.layer} {row.name.split()[0]}" for row in some])
        axes.set_xticks(range(len(COLUMNS)), [name.replace(" ", "\n") for name in COLUMNS])
        axes.tick_params(labelsize=6.5, length=0)
        axes.xaxis.tick_top()
        for y in range(1, len(part)):
            if some[y].family != some[y - 1].family:
                axes.axhline(y - 0.5, color="black", linewidth=0.8)
    _bar(figure, image, all_axes, shrink=0.35)
    figure.suptitle(f"Speed of every layer relative to the best of torch's, {device}", fontsize=10)
    return figure


def sweep_map(rows: Sequence[Row], device: str) -> Figure:
    """The grid of a sweep, once for each kind of work that was timed: the speed in each cell."""
    cells = {(column(row), position(row.layer)): _ratio(row) for row in rows}
    works = [name for name in COLUMNS if any(work == name for work, _ in cells)]
    places = [place for _, place in cells if place is not None]
    name = places[0][0]
    sweep = SWEEPS[name]
    down, across = sorted({row for _, row, _ in places}), sorted({column for _, _, column in places})
    size = (1.6 + (0.35 + 0.55 * len(across)) * len(works), 1.5 + 0.42 * len(down))
    figure, all_axes = plt.subplots(1, len(works), figsize=size, layout="constrained", squeeze=False, sharey=True)
    image: Any = None
    for axes, work in zip(all_axes[0], works, strict=True):
        image = _cells(axes, [[cells.get((work, (name, y, x))) for x in across] for y in down], fontsize=8)
        axes.set_xticks(range(len(across)), [str(x) for x in across])
        axes.set_yticks(range(len(down)), [str(y) for y in down])
        axes.set_xlabel(sweep.column)
        axes.set_title(work, fontsize=9)
        axes.tick_params(labelsize=8, length=0)
    all_axes[0][0].set_ylabel(sweep.row)
    _bar(figure, image, all_axes, shrink=0.9)
    figure.suptitle(f"Sweep {name}: speed relative to the best of torch's\n{device}", fontsize=10)
    return figure


def _cells(axes: Axes, speeds: list[list[float | None]], fontsize: float) -> Any:
    """A coloured cell with its number for each speed, white where there is none; what `_bar` takes."""
    logs = [[math.nan if s is None else max(-2.0, min(3.0, math.log2(s))) for s in line] for line in speeds]
    for y, line in enumerate(speeds):
        for x, speed in enumerate(line):
            dark = speed is not None and (speed > 4 or speed < 0.45)
            axes.text(x, y, "" if speed is None else f"{speed:.2f}", ha="center", va="center", fontsize=fontsize,
                      color="white" if dark else "black")  # fmt: skip
    return axes.imshow(logs, aspect="auto", cmap="RdBu", norm=TwoSlopeNorm(0, -2, 3))


def _bar(figure: Figure, image: Any, axes: Any, shrink: float) -> None:
    """The scale of the cells' colours, `shrink` of the axes' height."""
    bar = figure.colorbar(image, ax=axes, shrink=shrink, pad=0.02)
    bar.set_ticks([-2, -1, 0, 1, 2, 3], labels=["1/4x", "1/2x", "1x", "2x", "4x", "8x"])
    bar.ax.tick_params(labelsize=7)


def _speed(row: Row | None) -> float | None:
    return None if row is None else _ratio(row)


Draw = Callable[[Sequence[Row], str], Figure]  # rows, and the name of their device
LAYERS: dict[str, Draw] = {"speed_by_family": speed_by_family, "share_of_ideal": share_of_ideal, "heat_map": heat_map}
SWEEP: dict[str, Draw] = {"sweep": sweep_map}


def pictures(rows: Sequence[Row], kind: str) -> dict[str, Draw]:
    """What is drawn of some rows, measured on a "cuda" or a "cpu", by name.

    A CPU's ideal time comes from a product that was timed between others' work: no share of it is drawn.
    """
    if all(position(row.layer) for row in rows):
        return SWEEP
    return {name: draw for name, draw in LAYERS.items() if kind == "cuda" or draw is not share_of_ideal}
