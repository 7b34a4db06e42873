"""How often a kernel is compiled anew when image sizes or batches vary: counted from launches, nothing is compiled.

    python -m convext.benchmarks.inspect.compilations [--arch 90] [--sizes 200]

Triton compiles a kernel for its constants, its arguments' types, and for which of its numbers are one, or divisible by
16. A network that is fed images of many sizes meets many of these; each costs a second or so when it is met first.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from convext.benchmarks.first_light.warm import Call, launches
from convext.benchmarks.inspect.triton import signature
from convext.benchmarks.reporting.table import Cell, show
from convext.problem import FACES, OPERANDS, ConvProblem, Face, output_size

if TYPE_CHECKING:
    from convext.triton_kernels.launch import Launch

SIZES = 200


@dataclass(frozen=True)
class Varied:
    """A 2-D layer that one family takes."""

    name: str
    kernel: str
    channels: int
    taps: int
    groups: int = 1
    stride: int = 1
    dilation: int = 1

    def problem(self, face: Face, batch: int, image: tuple[int, int], channels_last: bool, arch: int) -> ConvProblem:
        """On images [batch, channels, *image], in bfloat16."""
        taps, stride, dilation = ((v, v) for v in (self.taps, self.stride, self.dilation))
        pad = (self.dilation * (self.taps // 2),) * 2
        out = output_size(image, taps, stride, pad, pad, dilation)
        shapes = {
            "x": (batch, self.channels, *image), "y": (batch, self.channels, *out),
            "w": (self.channels, self.channels // self.groups, *taps),
        }  # fmt: skip
        a, b = (shapes[role] for role in OPERANDS[face])
        size = {"fprop": out, "dgrad": image, "wgrad": taps}[face]
        geometry = stride, pad, dilation, self.groups
        return ConvProblem.of(face, a, b, size, *geometry, torch.bfloat16, channels_last, "cuda", arch)


LAYERS = (
    Varied("depthwise 3x3", "triton.stencil", 96, 3, groups=96),
    Varied("depthwise 3x3 s 2", "triton.stencil", 96, 3, groups=96, stride=2),
    Varied("depthwise 7x7", "triton.banded", 96, 7, groups=96),
    Varied("pointwise", "triton.pointwise", 96, 1),
    Varied("grouped 3x3, of 8", "triton.grouped", 96, 3, groups=12),
    Varied("dense 3x3", "triton.igemm", 96, 3),
    Varied("dense 3x3 s 2", "triton.igemm", 96, 3, stride=2),
    Varied("dilated 3x3", "triton.igemm", 96, 3, dilation=2),
)


def compilations(launched: Iterable[Launch]) -> int:
    """The most that a kernel of these launches is compiled."""
    found = defaultdict(set)
    for launch in launched:
        found[launch.kernel.__name__].add(repr((signature(launch), launch.warps, launch.stages)))
    return max(map(len, found.values()))


def images(count: int = SIZES) -> list[tuple[int, int]]:
    """Random heights and widths from 14 to 512, the same ones every time."""
    draw = random.Random(0)
    return [(draw.randint(14, 512), draw.randint(14, 512)) for _ in range(count)]


def varied(layer: Varied, face: Face, channels_last: bool, arch: int, count: int = SIZES) -> tuple[int, int]:
    """Compilations over `count` image sizes in batches of 8, and over batches from 1 to 64 of one size."""

    def launched(shapes: Iterable[tuple[int, tuple[int, int]]]) -> Iterator[Launch]:
        for batch, image in shapes:
            problem = layer.problem(face, batch, image, channels_last, arch)
            yield from launches(Call(layer.kernel, problem, biased=False))

    return (
        compilations(launched((8, image) for image in images(count))),
        compilations(launched((batch, (56, 56)) for batch in range(1, 65))),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the table; returns 0."""
    parser = argparse.ArgumentParser(prog="python -m convext.benchmarks.inspect.compilations", description=__doc__)
    parser.add_argument("--arch", type=int, default=90, help="compute capability times ten (default: %(default)s)")
    parser.add_argument("--sizes", type=int, default=SIZES, help="of images (default: %(default)s)")
    options = parser.parse_args(arguments)
    rows = []
    for layer in LAYERS:
        for last in (False, True):
            counts = [varied(layer, face, last, options.arch, options.sizes) for face in FACES]
            cells = [Cell(f"{sizes} / {batches}") for sizes, batches in counts]
            rows.append([Cell(layer.name), Cell("NHWC" if last else "NCHW"), *cells])
    title = f"compilations of a kernel over {options.sizes} image sizes / over 64 batches, sm_{options.arch}"
    show(("layer", "memory format", *FACES), rows, title)
    return 0


if __name__ == "__main__":
    sys.exit(main())
