"""From the tensors of a causal convolution to the launches that compute it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from convext.problem import layout
from convext.problem.epilogue import Epilogue
from convext.triton_kernels.causal.backward import backward as backward_kernel
from convext.triton_kernels.causal.forward import forward as forward_kernel
from convext.triton_kernels.causal.update import update as update_kernel
from convext.triton_kernels.ending import Ending
from convext.triton_kernels.launch import Launch
from convext.triton_kernels.passes.reduce import add_in_order
from convext.triton_kernels.tiles import MULTIPROCESSORS, known


@dataclass(frozen=True)
class Tile:
    """What a program computes at a time.

    Attributes:
        width: positions of a lane.
        lanes: of a program.
        channels: of a program: 1 where positions are innermost.
        warps: of a program.
    """

    width: int
    lanes: int
    channels: int
    warps: int = 4


@dataclass(frozen=True)
class Batch:
    """Where sequences lie, as the kernels see it.

    Attributes:
        begin: [batch, length] int32, contiguous: the first position of each position's sequence, `length` for padding;
            None where a row is one sequence.
        owner: [length] int32: the state's row for each position of a packed batch, or None.
        states: [rows, channels, span], or None for zeros.
    """

    begin: Tensor | None = None
    owner: Tensor | None = None
    states: Tensor | None = None


def forward(
    x: Tensor, w: Tensor, bias: Tensor | None, residual: Tensor | None, y: Tensor, batch: Batch, dilation: int,
    activation: str, arch: int,
) -> Launch:  # fmt: skip
    """The launch that writes `y`, whose memory format is that of x and residual."""
    plan = _Plan.of(x, w, y, dilation, arch, backward=False)
    strides = tuple(plan.strides(t) for t in (x, residual, y))
    arguments = (x, w, bias, residual, batch.states, batch.begin, batch.owner, y, *strides, *_small(batch, w, bias))
    constants = {**plan.constants(activation, bias, batch), "RESIDUAL": residual is not None}
    return Launch(
        forward_kernel, plan.programs, (*arguments, *plan.sizes), constants, plan.tile.warps, trips=plan.blocks
    )


def backward(
    grad: Tensor, x: Tensor, w: Tensor, bias: Tensor | None, dx: Tensor, batch: Batch, dilation: int, activation: str,
    arch: int,
) -> tuple[Launch, Tensor]:  # fmt: skip
    """The launch that writes `dx`, and the partial sums [parts, channels, taps + 1] that it writes too."""
    plan = _Plan.of(x, w, dx, dilation, arch, backward=True)
    sums = torch.empty(plan.parts, x.shape[1], w.shape[1] + 1, dtype=_sum_type(x)[0], device=x.device)
    strides = tuple(plan.strides(t) for t in (grad, x, dx))
    arguments = (grad, x, w, bias, batch.states, batch.begin, batch.owner, dx, sums, *strides, *_small(batch, w, bias))
    constants = plan.constants(activation, bias, batch)
    launch = Launch(
        backward_kernel, plan.programs, (*arguments, *plan.sizes), constants, plan.tile.warps, trips=plan.blocks
    )
    return launch, sums


def total(sums: Tensor) -> Tensor:
    """Partial sums, added in order."""
    if sums.shape[0] == 1:
        return sums[0]
    result = torch.empty(sums.shape[1:], dtype=sums.dtype, device=sums.device)
    add_in_order(sums.flatten(1), result)
    return result


def update(
    x: Tensor, state: Tensor, w: Tensor, bias: Tensor | None, seen: Tensor | None, rows: Tensor | None, y: Tensor,
    dilation: int, activation: str,
) -> Launch:  # fmt: skip
    """The launch that writes `y` and moves `state` on; x and y are [batch, channels, length]."""
    count, channels, length = x.shape
    block = min(256, triton.next_power_of_2(channels))
    channel_blocks = triton.cdiv(channels, block)
    ring = seen is not None and state.shape[2] > 0
    arguments = (
        x, w, bias, state, rows, seen if ring else None, y, x.stride(), y.stride(), state.stride(), w.stride(),
        0 if bias is None else bias.stride(0), length, channels, channel_blocks, state.shape[0], state.shape[2],
    )  # fmt: skip
    constants = {
        "BC": block, "TAPS": w.shape[1], "DILATION": dilation,
        "ACTIVATION": Ending(Epilogue(activation)).activation, "HAS_BIAS": bias is not None,
        "INDEXED": rows is not None, "RING": ring, "ACC": _sum_type(x)[1],
    }  # fmt: skip
    return Launch(update_kernel, count * channel_blocks, arguments, constants, max(1, block // 64))


def _small(batch: Batch, w: Tensor, bias: Tensor | None) -> tuple[Any, ...]:
    states = (0, 0, 0) if batch.states is None else batch.states.stride()
    return states, w.stride(), 0 if bias is None else bias.stride(0)


def _sum_type(x: Tensor) -> tuple[torch.dtype, Any]:
    return (torch.float64, tl.float64) if x.dtype == torch.float64 else (torch.float32, tl.float32)


# ------------------------------------------------------------------------------------------------------- plans


def tile_of(last: bool, itemsize: int, taps: int, length: int, backward: bool) -> Tile:
    """The tile for a memory format, the size of an element, and the taps that a thread holds for each channel."""
    positions = triton.next_power_of_2(length)
    chunk = 16 // itemsize
    if not last:
        width = min(positions, max(chunk, 8 if itemsize > 2 else 16))
        return Tile(width, min(128, max(1, positions // width)), 1)
    each = chunk if taps <= 4 else max(1, chunk // 4) if taps <= 8 else 1  # channels of a thread
    if backward:
        each = max(1, each // 2)
    width = min(positions, 8)
    return Tile(width, 128 * each // 64, 64)


@dataclass(frozen=True)
class _Plan:
    tile: Tile
    unit: int  # elements that rows are aligned to, of all tensors
    whole: bool
    row: tuple[int, int, int, int, int]
    acc: Any
    parts: int
    blocks: int
    lanes: int
    channels: int
    length: int
    column_blocks: int
    channel_blocks: int

    @classmethod
    def of(cls, x: Tensor, w: Tensor, result: Tensor, dilation: int, arch: int, backward: bool) -> _Plan:
        batch, channels, length = x.shape
        last = layout.is_channels_last(result)
        tile = tile_of(last, x.element_size(), w.shape[1], length, backward)
        unit = math.gcd(16 // x.element_size(), *_apart(x, last), channels if last else length)
        column_blocks = triton.cdiv(length, tile.width)
        channel_blocks = triton.cdiv(channels, tile.channels)
        lanes = batch * column_blocks
        walks = triton.cdiv(lanes, tile.lanes)
        wanted = 4 * MULTIPROCESSORS[known(MULTIPROCESSORS, arch)] // channel_blocks
        parts = max(1, min(walks, wanted))
        blocks = triton.cdiv(walks, parts)
        row = (1, dilation, (w.shape[1] - 1) * dilation, 1, w.shape[1])
        sizes = (blocks, lanes, channels, length, column_blocks, channel_blocks)
        return cls(tile, unit, length % unit == 0, row, _sum_type(x)[1], triton.cdiv(walks, blocks), *sizes)

    @property
    def programs(self) -> int:
        return self.parts * self.channel_blocks

    @property
    def sizes(self) -> tuple[int, ...]:
        return self.blocks, self.lanes, self.channels, self.length, self.column_blocks, self.channel_blocks

    def strides(self, t: Tensor | None) -> tuple[int, int, int]:
        """As `offset` multiplies them."""
        if t is None:
            return (0, 0, 0)
        n, c, at = (s if size > 1 else 0 for s, size in zip(t.stride(), t.shape, strict=True))
        return (n // self.unit, c // self.unit, 1) if self.tile.channels == 1 else (n // self.unit, 1, at // self.unit)

    def constants(self, activation: str, bias: Tensor | None, batch: Batch) -> dict[str, Any]:
        last = self.tile.channels > 1
        return {
            "UNIT": self.unit, "V": 1 if last else min(self.unit, self.tile.width), "WIDTH": self.tile.width,
            "BQ": self.tile.lanes, "BC": self.tile.channels, "WHOLE": last or self.whole,
            "WIDE": (self.lanes + self.tile.lanes * self.blocks) >= 2**31, "ROW": self.row,
            "ACTIVATION": Ending(Epilogue(activation)).activation, "HAS_BIAS": bias is not None,
            "SEQUENCES": batch.begin is not None, "STATES": batch.states is not None,
            "PACKED": batch.owner is not None, "ACC": self.acc,
        }  # fmt: skip


def _apart(t: Tensor, last: bool) -> list[int]:
    """What decides how rows of `t` are aligned: the distances between them, and where it begins."""
    axes = (0, 2) if last else (0, 1)
    begin = 0 if t.device.type == "meta" else t.data_ptr() // t.element_size()
    return [*(t.stride(axis) for axis in axes if t.shape[axis] > 1), begin]
