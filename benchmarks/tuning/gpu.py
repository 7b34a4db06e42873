"""`python -m convext tune`: measures the kernels over the layers and writes the choice table that "auto" reads.

The table is made from rows of the benchmark, so what chooses a kernel is what was checked against float64 and timed
against torch's best. `--results` makes it from files that a benchmark of the same GPU has already written.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from convext.benchmarks.cases.case import LAYOUTS
from convext.benchmarks.cases.layers import DTYPES, anchor_layers, model_layers
from convext.benchmarks.cases.sweep import SWEEPS, sweep_layers
from convext.benchmarks.measuring.peaks import peaks_of
from convext.benchmarks.measuring.runner import Plan, run
from convext.benchmarks.reporting.results import Results, Row, describe
from convext.choice import gpu_table, registry
from convext.choice.gpu_table import Choice
from convext.commands import arguments
from convext.problem import FACES

_WHERE = ("device", "driver", "torch", "triton", "cuda", "cudnn", "commit")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `tune`."""
    parser.add_argument(
        "--results", nargs="+", type=arguments.existing, metavar="FILE", help="rows measured on this GPU before"
    )
    parser.add_argument("--dtype", nargs="+", choices=list(DTYPES), default=["bf16", "fp32"], help="to measure")
    parser.add_argument(
        "--minutes", type=arguments.positive, default=7.5, help="begin no case after this (default: %(default)s)"
    )
    parser.add_argument("--out", type=Path, help="the table (default: convext/choice/tables/sm_XX.json)")


def main(args: argparse.Namespace) -> int:
    """Writes the table; returns 0."""
    if not args.results and not torch.cuda.is_available():
        args.refuse("tune measures kernels on a CUDA device, and torch sees none here")
    rows, measured_on = _read(args.results) if args.results else _measured(args.dtype, args.minutes)
    arch = measured_on["arch"]
    path = args.out or gpu_table.FOLDER / f"sm_{arch}.json"
    table = choices_of(rows, arch, measured_on["float32"])
    gpu_table.write(path, table, {key: str(measured_on.get(key)) for key in _WHERE})
    ours = sum(choice.kernel != registry.ATEN.name for choice in table)
    print(f"{path}: {len(table)} choices, {ours} of them convext's own kernels")
    return 0


def _read(paths: Sequence[Path]) -> tuple[list[Row], dict[str, Any]]:
    """The rows of results files, and the line about the run of the first of them."""
    files = [Results.read(path) for path in paths]
    return [row for file in files for row in file.rows], files[0].run


def _measured(dtypes: Sequence[str], minutes: float) -> tuple[list[Row], dict[str, Any]]:
    """Rows of all layers in each dtype, measured now, and the line about the run."""
    plan = replace(Plan.of("cuda"), minutes=minutes / len(dtypes))
    rows: list[Row] = []
    for dtype in dtypes:
        layers = [replace(layer, dtype=DTYPES[dtype]) for layer in (*model_layers(), *anchor_layers())]
        rows += run(plan.cases(layers, FACES), plan, peaks_of("cuda", (DTYPES[dtype],), 2**30))
    return rows, describe("cuda", peaks_of("cuda", (plan.dtype,), 2**30))


def choices_of(rows: Iterable[Row], arch: int, precision: str) -> list[Choice]:
    """The fastest kernel of each face, dtype and memory format that the rows measured.

    Rows of a step say nothing about one kernel, and a layer that was cut to fit a device is another problem.

    Args:
        rows: of a benchmark on one GPU.
        arch: its compute capability times ten.
        precision: how it formed float32 products.
    """
    swept = [layer for name in SWEEPS for layer in sweep_layers(name)]
    layers = {layer.id: layer for layer in (*model_layers(), *anchor_layers(), *swept)}
    found = []
    for row in rows:
        if row.work in FACES and not row.cut and row.baseline:
            dtype: torch.dtype = getattr(torch, row.dtype)
            for layout in LAYOUTS:
                if (fastest := _fastest(row, layout)) is not None:
                    problem = layers[row.layer].problem(
                        row.work, dtype, layout == "cl", "cuda", arch, precision if dtype is torch.float32 else "ieee"
                    )
                    found.append(Choice.of(problem, *fastest))
    return found


def _fastest(row: Row, layout: str) -> tuple[str, float] | None:
    """The kernel with the least median in a memory format, and how much faster than torch's best it is."""
    medians = {
        kernel.name: row.times[f"{kernel.name}/{layout}"][0]
        for kernel in registry.kernels()
        if f"{kernel.name}/{layout}" in row.times
    }
    if not medians:
        return None
    name = min(medians, key=lambda kernel: medians[kernel])
    return name, round(row.times[row.baseline][0] / medians[name], 4)
