"""Grids of layers that differ in two sizes only, to see where a kernel loses: channels by kernel, dilation and so on.

    depthwise   2-D, channels x kernel            causal      1-D, channels x kernel, zeros at the beginning
    dilated     3x3, channels x dilation          pointwise   channels in x channels out
    grouped     3x3, channels x channels a group

A layer's id says where in the grid it stands, so a results file needs nothing else: "sweep-depthwise-256-7".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from convext.benchmarks.cases.layers import Layer

PREFIX = "sweep-"
IMAGES, SIZE = 16, 56
SEQUENCES, LENGTH = 8, 4096


@dataclass(frozen=True)
class Sweep:
    """One grid.

    Attributes:
        rows, columns: the values of its two axes, named `row` and `column`.
        layer: from a row's and a column's value.
    """

    row: str
    rows: Sequence[int]
    column: str
    columns: Sequence[int]
    layer: Callable[[int, int], Layer]


def _square(channels: int, out: int, kernel: int, dilation: int, groups: int) -> Layer:
    """A 2-D layer whose output is as large as its input, with an odd kernel."""
    pad = dilation * (kernel - 1) // 2
    return _layer((IMAGES, channels, SIZE, SIZE), (out, channels // groups, kernel, kernel), pad, pad, dilation, groups)


def _causal(channels: int, kernel: int) -> Layer:
    return _layer((SEQUENCES, channels, LENGTH), (channels, 1, kernel), kernel - 1, 0, 1, channels)


def _layer(input: tuple[int, ...], weight: tuple[int, ...], begin: int, end: int, dilation: int, groups: int) -> Layer:
    every = len(input) - 2
    same: dict[str, Any] = {"stride": (1,) * every, "output_padding": (0,) * every, "transposed": False}
    layer = Layer(
        "", "", "", input, weight, begin=(begin,) * every, end=(end,) * every, dilation=(dilation,) * every,
        groups=groups, **same,
    )  # fmt: skip
    return replace(layer, family=layer.problem("fprop", torch.float32).family)


CHANNELS = (32, 64, 128, 256, 512, 1024)
SWEEPS: dict[str, Sweep] = {
    "depthwise": Sweep("channels", CHANNELS, "kernel", (3, 5, 7, 9, 13, 31), lambda c, k: _square(c, c, k, 1, c)),
    "causal": Sweep("channels", (768, 1536, 3072, 6144), "kernel", (2, 3, 4), _causal),
    "dilated": Sweep("channels", CHANNELS[:5], "dilation", (1, 2, 4, 8, 16), lambda c, d: _square(c, c, 3, d, 1)),
    "grouped": Sweep(
        "channels", CHANNELS[2:], "channels a group", (4, 8, 16, 32, 64), lambda c, g: _square(c, c, 3, 1, c // g)
    ),
    "pointwise": Sweep("channels in", CHANNELS, "channels out", CHANNELS, lambda c, k: _square(c, k, 1, 1, 1)),
}


def sweep_layers(name: str) -> list[Layer]:
    """The layers of one grid, row by row."""
    sweep = SWEEPS[name]
    return [
        replace(
            sweep.layer(row, column),
            id=f"{PREFIX}{name}-{row}-{column}",
            name=f"{name}: {row} {sweep.row}, {sweep.column} {column}",
        )
        for row in sweep.rows
        for column in sweep.columns
    ]


def position(id: str) -> tuple[str, int, int] | None:
    """(name of the sweep, row's value, column's value) of a layer's id, or None for a layer outside sweeps."""
    if not id.startswith(PREFIX):
        return None
    name, row, column = id.removeprefix(PREFIX).split("-")
    return name, int(row), int(column)
