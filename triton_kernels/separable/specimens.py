"""Launches of real layers, which benchmarks/inspect compiles."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch

from convext.problem import layout
from convext.problem.epilogue import Epilogue
from convext.problem.separable import SeparableProblem
from convext.triton_kernels.launch import Specimen, collecting
from convext.triton_kernels.passes.transpose import copied_bytes, first_innermost
from convext.triton_kernels.separable import record
from convext.triton_kernels.separable.launch import separable_launch
from convext.triton_kernels.separable.tiles import SeparableTile, tiles_for


class Layer(NamedTuple):
    """A depthwise layer of 64 images, padded so that t has a pixel for each `stride` of x, and a pointwise one.

    ReLU6 between them and nothing after them, as in MobileNets; with `beside`, SiLU after both, and a residual.
    """

    c: int
    k: int
    side: int
    channels_last: bool
    taps: int = 3
    stride: int = 1
    dilation: int = 1
    dtype: torch.dtype = torch.bfloat16
    precision: str = "ieee"
    beside: bool = False

    def problem(self, arch: int) -> SeparableProblem:
        """On compute capability `arch` / 10."""
        silu, relu6 = Epilogue("silu"), Epilogue("clamp", (0.0, 6.0))
        size, stride, pad, dilation = (
            (value,) * 2 for value in (self.side // self.stride, self.stride, self.pad, self.dilation)
        )
        following = (silu, silu) if self.beside else (relu6, Epilogue())
        return SeparableProblem.of(
            *following, self.beside, (64, self.c, self.side, self.side), (self.c, 1, self.taps, self.taps),
            (self.k, self.c, 1, 1), size, stride, pad, dilation,
            self.dtype, (self.channels_last,) * 2, ("cuda", arch, self.precision),
        )  # fmt: skip

    @property
    def pad(self) -> int:
        """Zeros before an axis."""
        return self.dilation * (self.taps - 1) // 2

    def __str__(self) -> str:
        strided, dilated = (
            f" {word} {value}" * (value > 1) for word, value in (("stride", self.stride), ("dilation", self.dilation))
        )
        dtype, where = str(self.dtype).removeprefix("torch."), "NHWC" if self.channels_last else "NCHW"
        beside = " silu + residual" * self.beside
        taps = f"{self.taps}x{self.taps}{strided}{dilated}"
        return f"{taps} {self.c} to {self.k} on {self.side}x{self.side}{beside} {dtype} {self.precision} {where}"


# As they run: of MobileNets V1 to V3 and of DeepLab's head.
LAYERS = (
    Layer(144, 24, 56, True),
    Layer(144, 24, 56, False),
    Layer(576, 96, 14, True),
    Layer(256, 256, 28, False),
    Layer(96, 24, 112, True, stride=2),
    Layer(120, 40, 28, True, taps=5),
    Layer(672, 112, 28, False, taps=5, stride=2),
    Layer(256, 256, 128, True, dilation=2),
)
# Of each tile, on 192 channels, a layer with as many of y as it has rows. 57 pixels are read one by one.
OF_TILES = (
    Layer(192, 0, 56, True, beside=True),
    Layer(192, 0, 56, False, beside=True),
    Layer(192, 0, 57, False, beside=True),
    Layer(192, 0, 56, True, dtype=torch.float32, precision="tf32", beside=True),
    Layer(192, 0, 56, False, dtype=torch.float32, precision="tf32x3", beside=True),
    Layer(192, 0, 56, True, dtype=torch.float32, precision="ieee", beside=True),
)


def specimens(arch: int) -> Iterator[Specimen]:
    """Each tile of the tables with what takes the most registers, and LAYERS."""
    for kind in OF_TILES:
        for tile in tiles_for(kind.problem(arch), 1 if kind.side % 2 else 8):
            layer = kind._replace(k=tile.rows)
            yield _specimen(f"{layer}, {tile.pixels} pixels x {tile.channels} channels", layer, arch, tile)
    for layer in LAYERS:
        yield _specimen(str(layer), layer, arch, None)


def _specimen(name: str, layer: Layer, arch: int, tile: SeparableTile | None) -> Specimen:
    """Where rows of taps are a loop, its trips are counted, and what else a step does once."""
    problem = layer.problem(arch)
    p, y = problem.depthwise, problem.pointwise
    like = torch.empty((), dtype=p.dtype, device="meta")
    x, w, v = layout.empty(p.x_shape, p.channels_last, like), like.new_empty(p.w_shape), like.new_empty(y.w_shape)
    bias, second_bias = like.new_empty(p.k), like.new_empty(y.k)
    result = layout.empty(y.open_shape, y.channels_last, like)
    residual = result if layer.beside else None
    if tile is None:
        with collecting() as launches:
            record.run(problem, x, w, bias, v, second_bias, residual)
        (launch,) = (launch for launch in launches if not copied_bytes(launch))
    else:
        w = first_innermost(w) if p.channels_last else w
        launch = separable_launch(problem, x, w, bias, v, second_bias, residual, result, tile)
    constants = launch.constants
    outputs = constants["BK"] * constants["BQ"] * constants["WIDTH"]
    return Specimen(f"separable.fprop {name}", tile, launch, outputs, int(launch.trips))
