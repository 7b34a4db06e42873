"""What the launches of real layers ask of an H100's memory: counted, at their real size, in a few blocks of each.

    python tests/project/traffic.py    in tests/emulator: counts what changed; writes results/traffic_sm_90.json

Memory holds zeros, most of which no page is ever given for. The launches are those that the predictions are made from
(convext.benchmarks.inspect.prediction).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[2]))

from gpu_emulator.counting import Counts, counting
from gpu_emulator.triton_device import emulated

from convext.benchmarks.cases.layers import model_layers
from convext.benchmarks.inspect.prediction import ARCH, kernel_of, launches_of, problem_of
from convext.benchmarks.inspect.triton import fingerprint
from convext.problem import FACES
from convext.triton_kernels.launch import Launch, Specimen

RESULTS = Path(__file__).parents[4] / "benchmarks" / "results" / f"traffic_sm_{ARCH}.json"
BLOCKS, LONG = 3, 20_000  # trips of a block's loop
SECTOR = 32
Row = dict[str, Any]


def with_memory(argument: Any) -> Any:
    """A launch's argument with zeros behind tensors that are on "meta"."""
    if isinstance(argument, tuple):
        return tuple(with_memory(element) for element in argument)
    if isinstance(base := getattr(argument, "base", None), Tensor):
        return dataclasses.replace(argument, base=with_memory(base))
    if not isinstance(argument, Tensor):
        return argument
    extent = sum((size - 1) * stride for size, stride in zip(argument.shape, argument.stride(), strict=True)) + 1
    return torch.zeros(extent, dtype=argument.dtype).as_strided(argument.shape, argument.stride())


def recognised_by(launch: Launch) -> str:
    """16 hexadecimal digits that change with the kernel and with all it is launched with: tiles are arguments."""
    code = fingerprint(Specimen("", None, launch, 1), ARCH)
    parts = (code, launch.programs, _described(launch.arguments))
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def _described(argument: Any) -> Any:
    """A launch's argument with dtypes and strides in place of tensors, which print on "meta" without the latter."""
    if isinstance(argument, tuple):
        return tuple(_described(element) for element in argument)
    if isinstance(getattr(argument, "base", None), Tensor):
        return {name: _described(value) for name, value in vars(argument).items()}
    if not isinstance(argument, Tensor):
        return argument
    return argument.dtype, tuple(argument.shape), argument.stride()


def counted(launch: Launch) -> Counts:
    """Of BLOCKS blocks; of one where that takes a minute."""
    placed = dataclasses.replace(launch, arguments=with_memory(launch.arguments))
    with counting(BLOCKS if launch.trips < LONG else 1) as counts:
        placed.launch()
    return counts


def row(launches: list[Launch]) -> Row:
    """Of the launches that one face of a layer takes.

    `l2`: bytes that blocks read from L2; `written`: bytes of the sectors they write; `read_used`, `written_used`: the
    share of the sectors that is used; `wavefronts` of shared memory, and `conflicts`: how many for each that has to be.
    """
    total = dict.fromkeys((field.name for field in dataclasses.fields(Counts)), 0.0)
    for launch in launches:
        counts = counted(launch)
        for name in total.keys() - {"opcodes"}:
            total[name] += getattr(counts, name) * launch.programs / counts.blocks
    shared, least = (total[f"shared_load_{name}"] + total[f"shared_store_{name}"] for name in ("wavefronts", "least"))
    return {
        "l2": round(SECTOR * total["sectors_from_l2"]),
        "written": round(SECTOR * total["store_sectors"]),
        "read_used": _share(total["load_bytes"] + total["tile_bytes"], total["load_sectors"] + total["tile_sectors"]),
        "written_used": _share(total["store_bytes"], total["store_sectors"]),
        "wavefronts": round(shared),
        "conflicts": round(shared / least, 3) if least else 1.0,
    }


def _share(used_bytes: float, sectors: float) -> float:
    return round(used_bytes / (SECTOR * sectors), 3) if sectors else 1.0


def work() -> Iterator[tuple[str, list[Launch], list[str]]]:
    """Faces of layers, "7 fprop", that a Triton kernel takes: its launches, and what they are recognised by."""
    for layer in model_layers():
        for face in FACES:
            problem = problem_of(layer, face)
            if (kernel := kernel_of(problem)) is not None:
                launches, _ = launches_of(kernel, problem)
                yield f"{layer.id} {face}", launches, [recognised_by(launch) for launch in launches]


def main() -> None:
    known = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    found: dict[str, Row] = {}

    def write(rows: dict[str, Row]) -> None:
        RESULTS.write_text("{\n" + ",\n".join(f" {json.dumps(k)}: {json.dumps(v)}" for k, v in rows.items()) + "\n}\n")

    with emulated(ARCH):
        for name, launches, prints in work():
            before = known.get(name, {})
            found[name] = before if before.get("launches") == prints else {"launches": prints, **row(launches)}
            print(name, found[name], file=sys.stderr, flush=True)
            write({**known, **found})  # a run may be cut off
    write(found)


if __name__ == "__main__":
    main()
