"""The gradient by a bias: that by the output, summed over images and pixels, in float32.

    y [images, channels, pixels]  ->  result [channels]

A block has a tile of terms by channels, neighbours in memory side by side: channels of few pixels where channels are
innermost, pixels of one channel where those are. Where the channels alone give too few blocks, the terms are split, and
reduce.py adds the parts.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from convext.problem import ConvProblem
from convext.triton_kernels.launch import Launch
from convext.triton_kernels.lying import Lying, offset_type
from convext.triton_kernels.passes.reduce import add_in_order, partial_sums
from convext.triton_kernels.tiles import split

TILES = {False: (4096, 1), True: (64, 64)}  # terms and channels, by whether channels are innermost


def run(problem: ConvProblem, y: Tensor) -> Tensor:
    """The sum of `y` [images, channels, *space] over all but its channels; `problem` is the wgrad that reads it too."""
    lying = Lying.of(y)
    if y.numel() == 0 or lying.tap_stride is None:  # its pixels are not evenly spaced
        return y.sum((0, *range(2, y.dim())))
    images, channels = y.shape[:2]
    pixels = y.numel() // (images * channels)
    most, side = TILES[y.stride(1) == 1]
    block = min(side, triton.next_power_of_2(channels))
    terms = min(most, triton.next_power_of_2(images * pixels))
    blocks = triton.cdiv(channels, block)
    # Eight blocks a multiprocessor, not two: nothing but loads in flight hides their latency.
    share, parts = split(problem, images * pixels, terms, triton.cdiv(blocks, 4))
    result = y.new_empty(channels)
    sums = result if parts == 1 else partial_sums(parts, result)
    strides = lying.outer[0], lying.tap_stride, lying.channel
    constants = {"TERMS": terms, "CHANNELS": block, "INDEX": offset_type(lying)}
    arguments = (y, sums, images * pixels, pixels, channels, share, *strides)
    Launch(_channel_sums, blocks * parts, arguments, constants, trips=share / terms)()
    if parts > 1:
        add_in_order(sums, result)
    return result


@triton.jit
def _channel_sums(
    y, sums, count, pixels, channels, share, y_image, y_pixel, y_channel,
    TERMS: tl.constexpr, CHANNELS: tl.constexpr, INDEX: tl.constexpr,
):  # fmt: skip
    blocks = tl.cdiv(channels, CHANNELS)
    channel = (tl.program_id(0) % blocks) * CHANNELS + tl.arange(0, CHANNELS)
    part = tl.program_id(0) // blocks
    total = tl.zeros((TERMS, CHANNELS), sums.dtype.element_ty if sums.dtype.element_ty == tl.float64 else tl.float32)
    for first in range(part * share, tl.minimum((part + 1) * share, count), TERMS):
        term = first + tl.arange(0, TERMS)
        at = (term // pixels).to(INDEX) * y_image + (term % pixels).to(INDEX) * y_pixel
        inside = (term < count)[:, None] & (channel < channels)[None, :]
        total += tl.load(y + (at[:, None] + (channel.to(INDEX) * y_channel)[None, :]), mask=inside, other=0.0)
    tl.store(sums + part * channels + channel, tl.sum(total, axis=0).to(sums.dtype.element_ty), mask=channel < channels)
