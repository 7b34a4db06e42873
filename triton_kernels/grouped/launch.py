"""From a problem and how its tensors lie to a launch: grid, arguments, constants."""

from __future__ import annotations

import math

from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from convext.problem import ConvProblem
from convext.triton_kernels.ending import NOTHING, Ending
from convext.triton_kernels.grouped.image import packed_image_kernel
from convext.triton_kernels.grouped.tiles import _padded, choose
from convext.triton_kernels.grouped.weight import packed_weight_kernel
from convext.triton_kernels.igemm.tiles import best_box, phase_sizes
from convext.triton_kernels.index import three_axes
from convext.triton_kernels.launch import Launch
from convext.triton_kernels.lying import Lying, descriptor_strides, offset_type
from convext.triton_kernels.passes.reduce import partial_sums
from convext.triton_kernels.passes.transpose import dense
from convext.triton_kernels.pixels import power_of_two
from convext.triton_kernels.tiles import split


def _in_units(unit: int, t: Lying) -> tuple[int, ...]:
    return tuple(stride // unit for stride in t.outer)


def in_boxes(problem: ConvProblem, t: Tensor) -> bool:
    """Whether TMA brings in an image operand: pixels in steps of one, channels innermost, all else 16 bytes apart.

    Wider dtypes are multiplied from registers, or in TF32, whose boxes would exceed a swizzle of 128 bytes.
    """
    p, (n, c, *space) = problem, zip(t.shape, t.stride(), strict=True)
    steps = [stride * t.element_size() for size, stride in (n, *space) if size > 1]
    return (
        (p.arch == 0 or p.arch >= 90)
        and (p.face == "dgrad" or all(s == 1 for s in p.stride))
        and t.element_size() == 2
        and c[1] == 1
        and t.data_ptr() % 16 == 0
        and all(step > 0 and step % 16 == 0 for step in steps)
    )


def _descriptor(t: Tensor, box: tuple[int, int, int, int], depth: int) -> TensorDescriptor:
    """Of an image [N, three axes, channels], for TMA."""
    n, channels, *space = t.shape
    shape = [n, *three_axes(space, 1), channels]
    return TensorDescriptor(t, shape, descriptor_strides(shape, Lying.of(t).outer, t.element_size()), [*box, depth])


def is_scalar(*tensors: Tensor) -> bool:
    """Whether a tensor's neighbours in memory are 2-byte pixels, which taps shift off any alignment."""
    return any(t.stride(1) != 1 and t.element_size() == 2 for t in tensors)


def image_launch(
    problem: ConvProblem, a: Tensor, w: Tensor, bias: Tensor | None, y: Tensor, after: Ending = NOTHING
) -> Launch:
    """fprop reads x and writes y; dgrad reads y and writes x; both with what comes after it."""
    p = problem
    w = w if w.stride(1) == 1 else dense(w, channels_last=True)
    k, c = p.k // p.groups, p.c // p.groups
    summed, channels = (c, k) if p.face == "fprop" else (k, c)
    odd = summed > 1 and summed % 2 == 1 and a.stride(1) == 1  # groups that do not begin where vectors do
    tile, pack = choose(p, odd or is_scalar(a))
    a_size, y_size = (p.input, p.output) if p.face == "fprop" else (p.output, p.input)
    period = tuple(s // math.gcd(s, d) for s, d in zip(p.stride, p.dilation, strict=True))
    lying = a_lying, w_lying, y_lying = Lying.of(a), Lying.of(w), Lying.of(y)
    unit, w_unit = power_of_two(*a_lying.outer, *y_lying.outer), power_of_two(*w_lying.outer)
    phases = math.prod(p.stride) if p.face == "dgrad" else 1
    sizes = phase_sizes(p)
    box = best_box(sizes, tile.pixels)
    depth = pack * _padded(summed)
    boxed = depth == pack * summed and in_boxes(p, a)
    return Launch(
        packed_image_kernel,
        math.prod(-(-size // side) for size, side in zip(sizes, box, strict=True)) * -(-p.groups // pack) * phases,
        (
            y, w, None if bias is None else bias.contiguous(), after.residual,
            _descriptor(a, box, depth) if boxed else a,
            p.n, p.groups,
            *three_axes(a_size, 1), *three_axes(y_size, 1),
            *(three_axes(v, 1) for v in (p.kernel, p.stride, p.dilation)), three_axes(p.pad, 0), three_axes(period, 1),
            *_in_units(unit, a_lying), *_in_units(unit, y_lying), _in_units(w_unit, w_lying),
            a_lying.channel, w_lying.channel, y_lying.channel,
        ),
        {
            "DGRAD": p.face == "dgrad", "BOXED": boxed, "RANK": p.rank, "PACK": pack,
            "SUMMED": summed, "SUMMED_PADDED": _padded(summed),
            "CHANNELS": channels, "CHANNELS_PADDED": _padded(channels),
            **dict(zip(("BATCH", "BOX0", "BOX1", "BOX2"), box, strict=True)),
            "UNIT": unit, "W_UNIT": w_unit, "PRECISION": p.precision, "INDEX": offset_type(*lying),
            "ACTIVATION": after.activation,
        },
        tile.warps, tile.stages, max(p.taps / phases, 1),
    )  # fmt: skip


def weight_launch(problem: ConvProblem, x: Tensor, y: Tensor, w: Tensor) -> tuple[Launch, Tensor | None]:
    """The launch that writes w, or partial sums of it [parts, elements of w], and these."""
    p = problem
    tile, pack = choose(p, is_scalar(x, y))
    k, c = p.k // p.groups, p.c // p.groups
    box = best_box((p.n, *three_axes(p.output, 1)), tile.pixels)
    blocks = -(-p.groups // pack) * p.taps
    share, parts = split(p, p.n * math.prod(p.output), tile.pixels, blocks)
    partial = None if parts == 1 else partial_sums(parts, w)
    lying = x_lying, y_lying, w_lying = Lying.of(x), Lying.of(y), Lying.of(w)
    unit = power_of_two(*x_lying.outer, *y_lying.outer)
    launch = Launch(
        packed_weight_kernel,
        blocks * parts,
        (
            x, y, w if partial is None else partial, p.n, p.groups,
            *three_axes(p.input, 1), *three_axes(p.output, 1),
            *(three_axes(v, 1) for v in (p.kernel, p.stride, p.dilation)), three_axes(p.pad, 0),
            *_in_units(unit, x_lying), *_in_units(unit, y_lying), w_lying.outer,
            x_lying.channel, y_lying.channel, w_lying.channel,
            parts, w.numel(),
        ),
        {
            "PACK": pack, "K": k, "K_PADDED": _padded(k), "C": c, "C_PADDED": _padded(c),
            **dict(zip(("BATCH", "BOX0", "BOX1", "BOX2"), box, strict=True)),
            "UNIT": unit, "PRECISION": p.precision, "INDEX": offset_type(*lying),
        },
        tile.warps, tile.stages, share / tile.pixels,
    )  # fmt: skip
    return launch, partial
