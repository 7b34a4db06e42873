"""What an H100 should take for the layers of real networks, told from machine code: the report's table without one.

    ideal         max(bytes / bandwidth, FLOPs / peak)                                    (convext.problem.roofline)
    instructions  sum over launches of  programs x threads x (instructions + loop x (trips - 1)) / 29.6e12 a second
    L2            bytes that blocks read, each sector once, and those of the sectors that they write / 9.0e12 a second
    shared memory wavefronts / 231e9 a second
    copies        bytes that operands and results are copied with beside the kernels / bandwidth
    predicted     max(ideal, instructions, L2, shared memory) + copies

    python -m convext.benchmarks.inspect.prediction            compiles what changed, writes results/layers_sm_90.json
    python -m convext.benchmarks.inspect.prediction --check    compiles nothing: says whether the file is of this source

Each layer's launches are the very ones that would run: the kernel's `run` is called with the layer's sizes and tensors
on "meta", and instead of being launched its launches are collected, compiled for sm_90 and read (inspect_triton.py).
The kernel is the one that "auto" runs; where that is torch's own, which has no figures, the first Triton kernel that
takes the layer. L2 and shared memory were counted on the emulated GPU, in a few blocks at the layer's real size
(tests/emulator/tests/project/traffic.py, results/traffic_sm_90.json). What this leaves out: latency that too few
programs do not hide, the start of a kernel, and traffic of an operand that is read again from beyond the L2. The banded
kernels may be faster than predicted where "fp32" is the bound: the ideal time of depthwise is that of multiply-adds,
and theirs run on tensor cores.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from convext.benchmarks.cases.layers import Layer, model_layers
from convext.choice.registry import KERNELS, Kernel, choose, refusal
from convext.problem import FACES, OPERANDS, ConvProblem, Face, layout
from convext.problem.roofline import H100, bound, ideal_seconds

if TYPE_CHECKING:
    from convext.triton_kernels.launch import Launch

ARCH = 90
INSTRUCTIONS = 29.6e12  # thread-instructions a second: 132 multiprocessors x 4 x 32 lanes at 1.75 GHz
L2 = 9.0e12  # bytes a second: 5,120 a clock (NVIDIA's A100 white paper; assumed of an H100), 1.75 GHz
WAVEFRONTS = 231e9  # of shared memory a second: one a clock in each of 132 multiprocessors
RESULTS = Path(__file__).parents[1] / "results" / f"layers_sm_{ARCH}.json"
TRAFFIC = RESULTS.with_name(f"traffic_sm_{ARCH}.json")

Table = dict[str, Any]  # {"triton": version, "launches": {fingerprint: figures}, "layers": {"7 fprop": row}}


# ------------------------------------------------------------------------------------------------- what would run


class _Copied(TorchDispatchMode):
    """Counts the bytes that torch's copies read and write."""

    bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in (torch.ops.aten.clone.default, torch.ops.aten.copy_.default):
            self.bytes += 2 * result.numel() * result.element_size()
        return result


def problem_of(layer: Layer, face: Face) -> ConvProblem:
    """One face of a layer on an H100, in its network's layout, and in bfloat16 where its table names no dtype."""
    return layer.problem(face, layer.dtype or torch.bfloat16, layer.layout == "cl", "cuda", ARCH)


def kernel_of(problem: ConvProblem) -> Kernel | None:
    """The Triton kernel that "auto" runs, else the first that takes the problem."""
    chosen = choose(problem)
    ours = [chosen, *KERNELS]
    return next((k for k in ours if k.provider == "triton" and refusal(k, problem) is None), None)


def launches_of(kernel: Kernel, problem: ConvProblem) -> tuple[list[Launch], int]:
    """What `kernel` launches to compute a problem with dense operands, and the bytes of the copies that it makes."""
    from convext.triton_kernels.launch import collecting
    from convext.triton_kernels.passes.transpose import copied_bytes

    like = torch.empty((), dtype=problem.dtype, device="meta")
    a, b = (layout.empty(problem.shape(role), problem.channels_last, like) for role in OPERANDS[problem.face])
    with collecting() as launches, _Copied() as copied:
        kernel.run(problem, a, b, None)
    computing = [launch for launch in launches if not copied_bytes(launch)]
    return computing, copied.bytes + sum(map(copied_bytes, launches))


# ----------------------------------------------------------------------------------------------------- the table


def table(committed: Table, compiling: bool = True) -> Table:
    """The table of all layers and faces; a launch that is not in `committed` is compiled, or else has no figures."""
    import triton

    from convext.benchmarks.inspect.triton import fingerprint, inspect
    from convext.triton_kernels.launch import Specimen

    known = committed["launches"] if committed["triton"] == triton.__version__ else {}
    figures: dict[str, Any] = {}
    layers: dict[str, Any] = {}
    work = [(layer, face) for layer in model_layers() for face in FACES]
    for done, (layer, face) in enumerate(work):
        problem = problem_of(layer, face)
        kernel = kernel_of(problem)
        if kernel is None:
            continue
        launches, copied = launches_of(kernel, problem)
        prints = []
        for launch in launches:
            specimen = Specimen("", None, launch, outputs=1)
            prints.append(code := fingerprint(specimen, ARCH))
            if code not in figures and code in known:
                figures[code] = known[code]
            elif code not in figures and compiling:
                found = inspect(specimen, ARCH)
                keep = ("threads", "registers", "spills", "instructions", "loop")
                figures[code] = {"kernel": _name(launch), **{key: getattr(found, key) for key in keep}}
                print(f"{done + 1} of {len(work)}: {layer.id} {face}: {_name(launch)}", file=sys.stderr)
        runs = [[code, launch.programs, round(launch.trips, 3)] for code, launch in zip(prints, launches, strict=True)]
        layers[f"{layer.id} {face}"] = {"kernel": kernel.name, "launches": runs, "copied": copied}
    return {"triton": triton.__version__, "launches": figures, "layers": layers}


def _name(launch: Launch) -> str:
    return launch.kernel.__name__.lstrip("_")


def read() -> Table:
    """The committed table; an empty one where there is none."""
    empty: Table = {"triton": "", "launches": {}, "layers": {}}
    return json.loads(RESULTS.read_text()) if RESULTS.exists() else empty


def stale(found: Table, committed: Table) -> list[str]:
    """Where `committed` is not of the source that `found` is of, one line each."""
    if found["triton"] != committed["triton"]:
        return [f"the table is from Triton {committed['triton']}, and this is {found['triton']}: write it anew"]
    now, then = found["layers"], committed["layers"]
    return [f"{name}: launches something else: write it anew" for name in now | then if now.get(name) != then.get(name)]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m convext.benchmarks.inspect.prediction", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--check", action="store_true", help=f"compare with {RESULTS.name} instead of writing it")
    options = parser.parse_args(arguments)
    if os.environ.get("TRITON_INTERPRET") == "1":
        parser.error("TRITON_INTERPRET=1 is set: interpreted kernels are not compiled")
    committed = read()
    found = table(committed, compiling=not options.check)
    if not options.check:
        RESULTS.write_text(_json(found))
        return 0
    lines = stale(found, committed)
    print("\n".join(lines) or "as committed")
    return int(bool(lines))


def _json(found: Table) -> str:
    """One line a launch and a layer, so that a difference is one line too."""

    def block(rows: dict[str, Any]) -> str:
        return "{\n" + ",\n".join(f" {json.dumps(name)}: {json.dumps(row)}" for name, row in rows.items()) + "\n}"

    launches = dict(sorted(found["launches"].items()))
    parts = {"triton": json.dumps(found["triton"]), "launches": block(launches), "layers": block(found["layers"])}
    return "{" + ",\n".join(f'"{name}": {part}' for name, part in parts.items()) + "}\n"


# ------------------------------------------------------------------------------------------------- the prediction


@dataclass(frozen=True)
class Prediction:
    """For one face of one layer at full size, in the layout that its network has it in.

    Attributes:
        auto: what "auto" runs where nothing was measured.
        ideal: lower bound in seconds; `bound` says by what: "memory", "fp32", "tensor".
        kernel: what was counted; "" where no Triton kernel takes the problem.
        per_output: thread-instructions for each output.
        registers: of a thread of the launch with the most instructions.
        instructions, l2, shared, copies: seconds that these take.
    """

    auto: str
    ideal: float
    bound: str
    kernel: str = ""
    per_output: float = math.nan
    registers: int = 0
    instructions: float = math.nan
    l2: float = 0.0
    shared: float = 0.0
    copies: float = 0.0

    @property
    def seconds(self) -> float:
        """Predicted; not a number where nothing was counted."""
        return max(self.instructions, self.ideal, self.l2, self.shared) + self.copies

    @property
    def limit(self) -> str:
        """What takes longest: "instructions", "copies", or what `bound` says."""
        times = {self.bound: self.ideal, "instructions": self.instructions, "L2": self.l2}
        times |= {"shared memory": self.shared, "copies": self.copies}
        return max(times, key=lambda name: times[name]) if self.kernel else self.bound


def predict(layer: Layer, face: Face, committed: Table, traffic: Table) -> Prediction:
    """The prediction for one face of a layer, from the tables of launches and of their traffic."""
    problem = problem_of(layer, face)
    auto, ideal, limit = choose(problem).name, ideal_seconds(problem, H100), bound(problem, H100)
    row = committed["layers"].get(f"{layer.id} {face}")
    if row is None:
        return Prediction(auto, ideal, limit)
    issued, registers = [], []
    for code, programs, trips in row["launches"]:
        figures = committed["launches"][code]
        issued.append(programs * figures["threads"] * (figures["instructions"] + figures["loop"] * (trips - 1)))
        registers.append(figures["registers"])
    total, outputs = sum(issued), math.prod(problem.open_shape)
    counted = traffic[f"{layer.id} {face}"]
    return Prediction(
        auto, ideal, limit, row["kernel"], total / outputs, registers[issued.index(max(issued))],
        total / INSTRUCTIONS, (counted["l2"] + counted["written"]) / L2, counted["wavefronts"] / WAVEFRONTS,
        row["copied"] / H100.bandwidth,
    )  # fmt: skip


def predictions(layers: Sequence[Layer]) -> Iterator[tuple[Layer, dict[Face, Prediction]]]:
    """Layers with the predictions for their faces, by family."""
    committed, traffic = read(), json.loads(TRAFFIC.read_text())
    for layer in sorted(layers, key=lambda layer: layer.family):
        yield layer, {face: predict(layer, face, committed, traffic) for face in FACES}


if __name__ == "__main__":
    sys.exit(main())
