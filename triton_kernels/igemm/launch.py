"""From a problem, a plan and the strides of three tensors to what the kernels of the implicit GEMM are launched with.

Nothing here depends on where the tensors are, so a recipe is made once for each problem and way that its operands lie.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from convext.problem import OPERANDS, ConvProblem, Ints
from convext.triton_kernels.ending import NOTHING, Ending
from convext.triton_kernels.igemm import tiles as igemm_tiles
from convext.triton_kernels.igemm.boxes import box_kernel
from convext.triton_kernels.igemm.image import image_kernel
from convext.triton_kernels.igemm.tiles import Plan
from convext.triton_kernels.igemm.weight import weight_kernel
from convext.triton_kernels.index import three_axes
from convext.triton_kernels.launch import Launch
from convext.triton_kernels.lying import Lying, descriptor_strides, offset_type
from convext.triton_kernels.pixels import power_of_two
from convext.triton_kernels.products import TMA_ROUNDS


@dataclass(frozen=True)
class Recipe:
    """A launch but for its tensors.

    Attributes:
        kernel: image_kernel, box_kernel or weight_kernel.
        plan: what it was made for.
        programs: length of the grid.
        trips: of the loop in one block, on average.
        numbers: the arguments that follow the tensors.
        constants: the `tl.constexpr` arguments.
        descriptors: of box_kernel's operands: (shape, strides, box) each.
    """

    kernel: Callable[..., Any]
    plan: Plan
    programs: int
    trips: float
    numbers: tuple[Any, ...]
    constants: dict[str, Any]
    descriptors: tuple[tuple[list[int], list[int], list[int]], ...] = ()

    def launch(self, a: Tensor, b: Tensor, bias: Tensor | None, target: Tensor, after: Ending = NOTHING) -> Launch:
        """The launch on operands with the strides that the recipe is for.

        `target` is the result, or the partial sums of the plan's parts, each with the result's strides. `after` comes
        after a sum that is not in parts.
        """
        tensors: tuple[Any, ...]
        constants = self.constants
        if self.kernel is weight_kernel:
            tensors = (a, b, target)
        elif self.descriptors:
            operands = zip((a, b), self.descriptors, strict=True)
            rounded = {"round_f32_to_tf32": True} if TMA_ROUNDS and a.dtype == torch.float32 else {}
            tensors = (
                target,
                bias,
                after.residual,
                *(TensorDescriptor(t, *description, **rounded) for t, description in operands),
            )
        else:
            tensors = (a, b, bias, after.residual, target)
        if self.kernel is not weight_kernel:
            constants = {**constants, "ACTIVATION": after.activation}
        tile, arguments = self.plan.tile, (*tensors, *self.numbers)
        return Launch(self.kernel, self.programs, arguments, constants, tile.warps, tile.stages, self.trips)


@lru_cache(maxsize=4096)
def recipe(problem: ConvProblem, plan: Plan, a: tuple[int, ...], b: tuple[int, ...], result: tuple[int, ...]) -> Recipe:
    """How `plan` computes `problem` from operands with strides `a` and `b`, into a result with strides `result`."""
    first, second = OPERANDS[problem.face]
    tensors = Lying(problem.shape(first), a), Lying(problem.shape(second), b), Lying(problem.open_shape, result)
    if problem.face == "wgrad":
        return _weight_recipe(problem, plan, *tensors)
    return (_image_recipe if plan.box is None else _box_recipe)(problem, plan, *tensors)


def unit_of(problem: ConvProblem, *tensors: Lying) -> int:
    """The largest power of two up to 16 that divides the channels of a group and all strides but the channels'."""
    strides = [stride for t in tensors for stride in t.outer]
    return power_of_two(problem.k // problem.groups, problem.c // problem.groups, *strides)


def _in_units(unit: int, values: Sequence[int]) -> tuple[int, ...]:
    return tuple(value // unit for value in values)


def _geometry(problem: ConvProblem, *sizes: Ints) -> tuple[int | tuple[int, int, int], ...]:
    """`sizes` one by one, then kernel, stride, dilation and padding, over three axes."""
    p = problem
    one_by_one = (side for size in sizes for side in three_axes(size, 1))
    return (*one_by_one, *(three_axes(v, 1) for v in (p.kernel, p.stride, p.dilation)), three_axes(p.pad, 0))


def _box_constants(plan: Plan) -> dict[str, int]:
    assert plan.box is not None
    return dict(zip(("BATCH", "BOX0", "BOX1", "BOX2"), plan.box, strict=True))


# ------------------------------------------------------------------------------------------------------------- recipes


@dataclass(frozen=True)
class _Image:
    """fprop reads x and writes y; dgrad reads y and writes x. Channels are those of one group."""

    summed: int
    channels: int
    a_size: Ints
    y_size: Ints
    period: tuple[int, int, int]

    @classmethod
    def of(cls, p: ConvProblem) -> _Image:
        k, c = p.k // p.groups, p.c // p.groups
        period = three_axes([s // math.gcd(s, d) for s, d in zip(p.stride, p.dilation, strict=True)], 1)
        if p.face == "fprop":
            return cls(c, k, p.input, p.output, period)
        return cls(k, c, p.output, p.input, period)


def _image_recipe(p: ConvProblem, plan: Plan, a: Lying, w: Lying, y: Lying) -> Recipe:
    image, tile, unit, y_unit = _Image.of(p), plan.tile, unit_of(p, a, w), unit_of(p, y)
    depth = tile.steps(p.dtype.itemsize)
    return Recipe(
        image_kernel, plan, igemm_tiles.blocks(p, plan), igemm_tiles.trips(p, plan),
        (
            p.n, p.groups, *_in_units(unit, (image.summed, image.channels)),
            *_geometry(p, image.a_size, image.y_size), image.period,
            *_in_units(unit, a.outer), *_in_units(y_unit, y.outer), _in_units(unit, w.outer),
            a.channel, w.channel, y.channel,
            plan.parts, math.prod(y.shape) // y_unit,
        ),
        {
            "DGRAD": p.face == "dgrad",
            "ROWS": tile.rows, "COLUMNS": tile.columns, "DEPTH": depth,
            "EVEN": image.summed % depth == 0,
            "UNIT": unit, "Y_UNIT": y_unit,
            "A_PIXELS_INNER": a.pixels_inner, "Y_PIXELS_INNER": y.pixels_inner,
            "PRECISION": p.precision, "INDEX": offset_type(a, w, y),
        },
    )  # fmt: skip


def _box_recipe(p: ConvProblem, plan: Plan, a: Lying, w: Lying, y: Lying) -> Recipe:
    assert plan.box is not None
    assert w.tap_stride is not None
    image, tile, unit = _Image.of(p), plan.tile, unit_of(p, y)
    depth = tile.steps(p.dtype.itemsize)
    w_box = (1, tile.columns, depth) if p.face == "fprop" else (1, depth, tile.columns)
    return Recipe(
        box_kernel, plan, igemm_tiles.blocks(p, plan), igemm_tiles.trips(p, plan),
        (
            p.n, p.groups, image.summed, image.channels,
            *_geometry(p, image.a_size, image.y_size), image.period,
            *_in_units(unit, y.outer), y.channel,
            plan.parts, math.prod(y.shape) // unit,
        ),
        {
            "DGRAD": p.face == "dgrad",
            **_box_constants(plan),
            "COLUMNS": tile.columns, "DEPTH": depth, "UNIT": unit, "Y_PIXELS_INNER": y.pixels_inner,
            "PRECISION": p.precision, "INDEX": offset_type(y),
        },
        (
            _description((p.n, *three_axes(image.a_size, 1), a.shape[1]), a.outer, (*plan.box, depth), p),
            _description((p.taps, p.k, w.shape[1]), (w.tap_stride, w.outer[0]), w_box, p),
        ),
    )  # fmt: skip


def _description(shape: Ints, strides: Ints, box: Ints, p: ConvProblem) -> tuple[list[int], list[int], list[int]]:
    """Of an operand of `p`, for TMA."""
    return [*shape], descriptor_strides(shape, strides, p.dtype.itemsize), [*box]


def _weight_recipe(p: ConvProblem, plan: Plan, x: Lying, y: Lying, w: Lying) -> Recipe:
    tile, unit = plan.tile, unit_of(p, x, y)
    return Recipe(
        weight_kernel, plan, igemm_tiles.blocks(p, plan), igemm_tiles.trips(p, plan),
        (
            p.n, p.groups, *_in_units(unit, (p.k // p.groups, p.c // p.groups)),
            *_geometry(p, p.input, p.output),
            *_in_units(unit, (*x.outer, *y.outer)), w.outer,
            x.channel, y.channel, w.channel,
            plan.parts, math.prod(w.shape),
        ),
        {
            "ROWS": tile.rows, "COLUMNS": tile.columns, "PIXELS": tile.steps(p.dtype.itemsize),
            **_box_constants(plan),
            "UNIT": unit,
            "X_PIXELS_INNER": x.pixels_inner, "Y_PIXELS_INNER": y.pixels_inner,
            "PRECISION": p.precision, "INDEX": offset_type(x, y, w),
        },
    )  # fmt: skip
