"""What each tile takes on this GPU, alone: what the tables of tiles and the models that choose from them are held to.

    python -m convext.benchmarks.tuning.tiles [--kernels triton.stencil ...] [--minutes 3] [--out out/tiles.jsonl]

A table of tiles is replaced by one tile, and a kernel's launches are made, checked against ATen's result and timed, on
buffers past the L2. One line of JSON a candidate:

    {"layer": "7", "kernel": "triton.stencil",
     "face": "fprop", "last": false, "tile": [8, 0, 4, 2], "us": 42.5, "err": 0}

`tile` is that of the family's dataclass, field by field; null is what the kernel takes by itself. Compiling takes most
of the time: about a second of one processor a tile. Not every tile compiles: where LLVM itself gives up, it ends the
process, and what was measured before that stands in the file.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, replace
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from convext.benchmarks.cases.layers import anchor_layers, model_layers
from convext.benchmarks.measuring.timing import cache_bytes, copies_past_cache, interleaved
from convext.choice import registry
from convext.problem import OPERANDS, ConvProblem, Face, layout
from convext.providers import aten
from convext.triton_kernels.banded import tiles as banded
from convext.triton_kernels.grouped import tiles as grouped
from convext.triton_kernels.igemm import tiles as igemm
from convext.triton_kernels.launch import Launch, collecting
from convext.triton_kernels.pointwise import launch as pointwise
from convext.triton_kernels.stencil import launch as stencil_launch
from convext.triton_kernels.stencil import plan as stencil
from convext.triton_kernels.tiles import SHARED_MEMORY, Tile, known

Setting = tuple[Any, str, Any]  # a module, a name in it and what it is to be
Candidate = tuple[tuple[Any, ...], list[Setting]]
SECONDS = 0.01  # of sampling a candidate

# Layers of each family that differ in what limits them, by their ids in the tables.
LAYERS: dict[str, tuple[str, ...]] = {
    "triton.stencil": ("7", "116", "182", "80", "67", "307", "2398", "2704", "A07"),
    "triton.banded": ("195", "207", "215"),
    "triton.grouped": ("220", "A30"),
    "triton.pointwise": ("2292", "181", "226"),
    "triton.igemm": ("1430", "1515", "160", "2777", "1483", "2302", "2108", "2331"),
}


@contextmanager
def replaced(settings: Sequence[Setting]) -> Iterator[None]:
    """Within this context modules have what `settings` say, and nothing that was planned before is remembered."""
    before = [(module, name, getattr(module, name)) for module, name, _ in settings]
    try:
        for module, name, value in settings:
            setattr(module, name, value)
        _forget()
        yield
    finally:
        for module, name, value in before:
            setattr(module, name, value)
        _forget()


def _forget() -> None:
    for name in [name for name in sys.modules if name.startswith("convext.triton_kernels")]:
        for value in list(vars(sys.modules[name]).values()):
            if hasattr(value, "cache_clear"):
                value.cache_clear()


# -------------------------------------------------------------------------------------------------------- candidates


def _stencils(problem: ConvProblem) -> Iterator[Candidate]:
    shapes = product((8, 4, 2), (2, 1)) if problem.channels_last else product((8, 4, 2), (0,))
    for (columns, channels), rows, warps in product(shapes, (2, 4, 8, 16, 64), (2, 4)):
        tile = stencil.Tile(columns, channels, rows, warps)
        yield astuple(tile), [(stencil, "TILES", {80: (tile,)}), (stencil_launch, "rows_of_a_strip", _whole_strip)]


def _whole_strip(tile: stencil.Tile, problem: ConvProblem, groups: int, *_: int) -> int:
    """As many rows as the tile says, evenly split."""
    return -(-groups // -(-groups // min(tile.rows, groups)))


def _bands(problem: ConvProblem) -> Iterator[Candidate]:
    weight = problem.face == "wgrad"
    shapes = product(((4, 32), (4, 16), (8, 16), (8, 8)), (64,) if weight else (64, 128), (4, 8), (2, 3))
    for ((rows, columns), patches, warps, stages), window in product(shapes, (1, 2, 4) if weight else (1,)):
        tile = banded.BandTile(rows, columns, patches, warps, stages, window)
        yield astuple(tile), [(banded, "TILES", {80: {"image": (tile,), "weight": (tile,)}})]


def _packs(problem: ConvProblem) -> Iterator[Candidate]:
    for width, pixels, stages in product((32, 64, 128), (32, 64, 128, 256), (2, 3, 4)):
        tile = grouped.PackTile(width, pixels, 4, stages)
        yield astuple(tile), [(grouped, "TILES", {80: {"image": (tile, tile), "weight": (tile, tile)}})]


def _products(problem: ConvProblem) -> Iterator[Tile]:
    """Tiles of matrix products that a block has room for."""
    for rows, columns, warps in product((64, 128, 256), (16, 32, 64, 128, 256), (4, 8)):
        tile = Tile(rows, columns, 128, warps, 3 if rows * columns >= 128 * 128 else 4)
        room = tile.shared_memory(problem.dtype.itemsize) <= SHARED_MEMORY[known(SHARED_MEMORY, problem.arch)]
        if room and rows * columns <= 128 * 32 * warps:
            yield tile


def _pointwise(problem: ConvProblem) -> Iterator[Candidate]:
    for tile in _products(problem):
        yield astuple(tile), [(pointwise, "tiles_for", lambda problem, tile=tile: (tile,))]


def _plans(problem: ConvProblem) -> Iterator[Candidate]:
    """Each tile by pointers and, where they can be, by boxes, in one part and in powers of two of parts."""
    sums = igemm.product_of(problem)
    boxes = (False, True) if problem.channels_last and igemm.why_not_boxes(problem) is None else (False,)
    for tile, boxed in product(_products(problem), boxes):
        if tile.rows >= max(2 * sums.rows, 32) or tile.columns >= max(2 * sums.columns, 32):
            continue
        whole = igemm.planned(problem, tile, 1, boxed)
        for plan in (whole, *igemm.in_parts(problem, whole, split=True)):
            if plan.parts == 1 or igemm.blocks(problem, plan) <= 8 * igemm.multiprocessors(problem):
                choose = lambda *_, plan=plan, **__: plan  # noqa: E731
                yield (*astuple(tile), boxed, plan.parts), [(igemm, "choose", choose)]


CANDIDATES: dict[str, Callable[[ConvProblem], Iterator[Candidate]]] = {
    "triton.stencil": _stencils,
    "triton.banded": _bands,
    "triton.grouped": _packs,
    "triton.pointwise": _pointwise,
    "triton.igemm": _plans,
}


def candidates(kernel: str, problem: ConvProblem) -> Iterator[tuple[tuple[Any, ...] | None, list[Setting]]]:
    """What the kernel takes by itself, and every tile of its family."""
    yield None, []
    yield from CANDIDATES[kernel](problem)


def launches(kernel: str, problem: ConvProblem, a: Tensor, b: Tensor) -> tuple[list[Launch], Tensor]:
    """What a call launches, and what these will have written. Raises ValueError where the tile is not legal."""
    (record,) = (record for record in registry.kernels() if record.name == kernel)
    with collecting() as collected:
        result = record.run(problem, a, b, None)
    return collected, result


# -------------------------------------------------------------------------------------------------------- measuring


def rows(kernel: str, layer: str, problem: ConvProblem) -> Iterator[dict[str, Any]]:
    """A row for each candidate; one that is not legal, or that a GPU refuses, has an "error" in place of a time."""
    first, second = OPERANDS[problem.face]
    count = min(8, copies_past_cache(problem.ideal_bytes, cache_bytes(problem.device)))
    operands = [(_drawn(problem, first), _drawn(problem, second)) for _ in range(count)]
    wanted = aten.run(problem, *operands[0], None).float()
    where = {"layer": layer, "kernel": kernel, "face": problem.face, "last": problem.channels_last}
    for tile, settings in candidates(kernel, problem):
        row: dict[str, Any] = {**where, "tile": tile}
        try:
            with replaced(settings):
                sets = [launches(kernel, problem, a, b) for a, b in operands]
            row["us"] = round(1e6 * _seconds([called for called, _ in sets]), 2)
            row["err"] = round(((sets[0][1].float() - wanted).abs().max() / wanted.abs().max()).item(), 5)
        except Exception as error:
            row["error"] = f"{type(error).__name__}: {error}".partition("\n")[0]
            torch.cuda.synchronize()  # raises where the device is lost: no later row would be true
        yield row


def _drawn(problem: ConvProblem, role: str) -> Tensor:
    t = torch.randn(problem.shape(role), device=problem.device).to(problem.dtype)
    return layout.dense(t, problem.channels_last)


def _seconds(sets: list[list[Launch]]) -> float:
    """Of one call: the median of some samples."""

    def call(i: int) -> None:
        for launch in sets[i % len(sets)]:
            launch.launch()

    for i in range(len(sets)):
        call(i)
    return statistics.median(interleaved({"tile": call}, "cuda", SECONDS)["tile"])


def problems(kernel: str, arch: int) -> Iterator[tuple[str, ConvProblem]]:
    """The faces of the family's layers in both memory formats, in bfloat16, that the kernel takes."""
    layers = {layer.id: layer for layer in (*model_layers(), *anchor_layers())}
    (record,) = (record for record in registry.kernels() if record.name == kernel)
    faces: tuple[Face, ...] = ("fprop", "dgrad", "wgrad")
    for name, face, last in product(LAYERS[kernel], faces, (False, True)):
        problem = replace(layers[name].problem(face, torch.bfloat16, last), device="cuda", arch=arch)
        if record.why_not(problem) is None:
            yield name, problem


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes the rows; returns 0."""
    parser = argparse.ArgumentParser(
        prog="python -m convext.benchmarks.tuning.tiles", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--kernels", nargs="+", choices=list(CANDIDATES), default=list(CANDIDATES))
    parser.add_argument("--minutes", type=float, default=8.0, help="begin no problem after this (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("out/tiles.jsonl"))
    options = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        print("torch sees no CUDA device: nothing is timed")
        return 0
    end = time.monotonic() + 60 * options.minutes
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with options.out.open("w") as file:
        for kernel in options.kernels:
            for layer, problem in problems(kernel, registry.arch(torch.device("cuda", torch.cuda.current_device()))):
                if time.monotonic() > end:
                    break
                for row in rows(kernel, layer, problem):
                    print(json.dumps(row), file=file, flush=True)
    print(options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
