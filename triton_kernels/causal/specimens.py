"""Launches of real layers, which benchmarks/inspect compiles."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from convext.problem import layout
from convext.triton_kernels.causal.launch import Batch, Tile, backward, forward
from convext.triton_kernels.launch import Launch, Specimen


def specimens(arch: int) -> Iterator[Specimen]:
    """Both passes in both memory formats and two dtypes, with the shapes of a language model."""
    for dtype in (torch.bfloat16, torch.float32):
        for last in (False, True):
            x = layout.empty((4, 2048, 4096), last, torch.empty((), dtype=dtype, device="meta"))
            w, bias = (torch.empty(shape, dtype=dtype, device="meta") for shape in ((2048, 4), (2048,)))
            name = f"{str(dtype).removeprefix('torch.')} {'BLC' if last else 'BCL'}"
            tail = Batch(), 1, "silu", arch
            yield _specimen(f"causal.forward {name}", forward(x, w, bias, None, x, *tail))
            yield _specimen(f"causal.backward {name}", backward(x, x, w, bias, x, *tail)[0])


def _specimen(name: str, launch: Launch) -> Specimen:
    constants = launch.constants
    tile = Tile(constants["WIDTH"], constants["BQ"], constants["BC"], launch.warps)
    outputs = tile.width * tile.lanes * tile.channels * launch.trips
    return Specimen(name, tile, launch, outputs, int(launch.trips))
