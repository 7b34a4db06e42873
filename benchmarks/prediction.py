"""What an H100 should take for a layer's forward, told from machine code: the report's table for those without one.

    ideal         max(bytes / bandwidth, FLOPs / peak)                                     (convext.roofline)
    instructions  programs x threads x (instructions + loop x (trips - 1)) / 29.6e12 a second
    predicted     the larger of the two

The depthwise kernels run on the ordinary multipliers, where instructions decide what is left of the bandwidth. Theirs
are counted in `results/inspect.json`, for the tiles that `convext.benchmarks.inspect` compiles; a layer with another
tile, or whose products run on matrix units, has its ideal time only.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import torch

from convext.benchmarks.inspect import RESULTS
from convext.benchmarks.layers import Layer
from convext.problem import ConvProblem
from convext.registry import choose
from convext.roofline import H100, bound, ideal_seconds

if TYPE_CHECKING:
    from convext.triton_kernels.launch import Specimen

ARCH = 90
INSTRUCTIONS = 29.6e12  # thread-instructions a second: 132 multiprocessors x 4 x 32 lanes at 1.75 GHz


@dataclass(frozen=True)
class Prediction:
    """For the forward of one layer at full size, in the layout that its network has it in.

    Attributes:
        kernel: what "auto" runs where nothing was measured.
        ideal: lower bound in seconds; `bound` says by what: "memory", "fp32", "tensor".
        per_output: thread-instructions for each output, or None where none were counted.
        registers: of a thread, or None.
        seconds: predicted, or None; `limit` is "instructions" where they take longer than the ideal.
    """

    kernel: str
    ideal: float
    bound: str
    per_output: float | None = None
    registers: int | None = None
    seconds: float | None = None

    @property
    def limit(self) -> str:
        return "instructions" if self.seconds is not None and self.seconds > self.ideal else self.bound


def predict(layer: Layer) -> Prediction:
    """The prediction for one layer, in bfloat16 where its table names no dtype."""
    dtype = layer.dtype or torch.bfloat16
    problem = layer.problem(layer.forward, dtype, layer.layout == "cl", "cuda", ARCH)
    kernel = choose(problem).name
    ideal = ideal_seconds(problem, H100)
    found = _issued(problem) if kernel == "triton.stencil" else None
    if found is None:
        return Prediction(kernel, ideal, bound(problem, H100))
    issued, registers = found
    outputs = torch.Size(problem.open_shape).numel()
    seconds = max(ideal, issued / INSTRUCTIONS)
    return Prediction(kernel, ideal, bound(problem, H100), issued / outputs, registers, seconds)


def predictions(layers: Sequence[Layer]) -> Iterator[tuple[Layer, Prediction]]:
    """Layers with their predictions, by family."""
    for layer in sorted(layers, key=lambda layer: layer.family):
        yield layer, predict(layer)


def _issued(problem: ConvProblem) -> tuple[float, int] | None:
    """(thread-instructions, registers) of a depthwise problem whose tile was compiled, else None."""
    from convext.triton_kernels import stencil

    specimen = stencil._specimen("", problem)
    launch = specimen.launch
    figures = _compiled().get(_code(specimen))
    if figures is None:
        return None
    of_a_thread = figures["instructions"] + figures["loop"] * (specimen.trips - 1)
    return launch.programs * 32 * launch.warps * of_a_thread, figures["registers"]


def _code(specimen: Specimen) -> tuple[object, ...]:
    """What decides which code a specimen is: the kernel, the dtype, and its constants, which describe the tile."""
    launch = specimen.launch
    constants = tuple(sorted((name, str(value)) for name, value in launch.constants.items()))
    return launch.kernel, launch.arguments[0].dtype, constants, launch.warps


@cache
def _compiled() -> dict[tuple[object, ...], dict[str, Any]]:
    """The figures of the depthwise specimens by their code; of several with one tile, those with most instructions."""
    from convext.triton_kernels import stencil

    if not RESULTS.exists():  # a wheel does not carry it
        return {}
    table = json.loads(RESULTS.read_text())["kernels"].get(f"sm_{ARCH}", {})
    found: dict[tuple[object, ...], dict[str, Any]] = {}
    for specimen in stencil.specimens(ARCH):
        code, figures = _code(specimen), table.get(specimen.name)
        if figures and figures["instructions"] >= found.get(code, figures)["instructions"]:
            found[code] = figures
    return found
