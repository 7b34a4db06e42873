"""Depthwise convolution with large kernels, groups == c == k: matrix products with banded weights, on tensor cores.

    fprop, dgrad   rows of windows of the image, times the bands of a row of w       banded_image.py
    wgrad          rows of windows of x, times patches of y, summed along diagonals  banded_weight.py

Both in two dimensions, at stride 1. A row of w as a band, one column for each of neighbouring outputs, is mostly zeros:

    w = a b c                             [ a . . . ]
                                          [ b a . . ]
    6 inputs x 4 outputs of a row:        [ c b a . ]
                                          [ . c b a ]
                                          [ . . c b ]
                                          [ . . . c ]

and tensor cores multiply those zeros in less time than FMAs take for the rest. Thread-instructions an output of images
of 64 x 64 in bfloat16, compiled for sm_90:

    kernel      fprop     as FMAs (stencil.py)     wgrad     as FMAs
    7 x 7          21          106                    36         140
    13 x 13        30          354                    47         440
    31 x 31        43         1735                   105        1772

Zeros that are multiplied are not inert: an infinite or NaN input makes NaN of every output whose window it is in, not
only of those that its kernel reaches, as in other convolutions by transforms.

Products of float32 are three of TF32 each, nearly float32's own, also where "tf32" would allow one: torch's depthwise
kernels never round to TF32, and the tolerance rule measures against them.

Columns have to lie side by side: channels-last images are copied, since FMAs in that layout cost far more than a copy.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from convext.problem import OPEN, ConvProblem, layout
from convext.problem.epilogue import Epilogue
from convext.triton_kernels.banded.image import band_kernel, image_kernel
from convext.triton_kernels.banded.tiles import Plan, choose
from convext.triton_kernels.banded.weight import weight_kernel
from convext.triton_kernels.ending import NOTHING, Ending, ending
from convext.triton_kernels.launch import Launch
from convext.triton_kernels.lying import Lying, offset_type
from convext.triton_kernels.passes.reduce import add_in_order, partial_sums
from convext.triton_kernels.passes.transpose import dense
from convext.triton_kernels.pixels import power_of_two
from convext.triton_kernels.stencil.plan import gather_axes

DTYPES = (torch.bfloat16, torch.float16, torch.float32)
FEWEST_TAPS = 5  # along either axis
LONGEST_AXIS = 1 << 29  # indices on one axis are 32-bit, padding and taps included


def why_not(problem: ConvProblem) -> str | None:
    """None for a depthwise convolution in 2-D at stride 1, of 5 x 5 taps and more, else one sentence."""
    p = problem
    if p.rank != 2:
        return f"{p.rank} spatial axes, and its windows have two"
    if not p.groups == p.c == p.k:
        return f"groups={p.groups}, with {p.c} channels of x and {p.k} of y: windows of a channel give one channel"
    if max(p.stride) > 1 or max(p.dilation) > 1:
        return f"stride {p.stride} and dilation {p.dilation}: windows are of neighbouring inputs and outputs"
    if min(p.kernel) < FEWEST_TAPS:
        return f"a kernel of {p.kernel}, and with fewer than {FEWEST_TAPS} taps along an axis bands are mostly zeros"
    if p.dtype not in DTYPES:
        return f"{p.dtype} is none of {', '.join(str(d) for d in DTYPES)}"
    if p.dtype == torch.float32 and p.precision == "ieee":
        return f"float32 in {p.precision!r}, and only tensor cores ('tf32', 'tf32x3') have products to spare for zeros"
    if p.device == "cuda" and p.arch < 80:
        return f"compute capability {p.arch / 10}, and its tiles are for 8.0 and newer"
    reach = max(max(i, o, k) + pad for i, o, k, pad in zip(p.input, p.output, p.kernel, p.pad, strict=True))
    if reach > LONGEST_AXIS:
        return f"indices up to {reach:,} on one axis, of {LONGEST_AXIS:,}"
    if p.dtype == torch.float32 and p.device == "cuda" and not 90 <= p.arch < 120:
        return f"float32 on compute capability {p.arch / 10}, where three TF32 products cost more than FMAs"
    if not p.empty and any(choose(p, unit) is None for unit in (1, 16 // p.dtype.itemsize)):
        return f"a kernel of {p.kernel}, and no tile has room for windows of as many columns"
    return None


def copies(problem: ConvProblem) -> list[str]:
    """The bands of w, and copies of channels-last images."""
    p, itemsize = problem, problem.dtype.itemsize
    if p.empty:
        return []
    made = []
    if p.face != "wgrad":
        plan = choose(p, power_of_two(gather_axes(p)[1].input, limit=16 // itemsize))
        assert plan is not None
        made.append(f"writes w as bands: {math.prod(plan.band_shape) * itemsize:,} bytes")
    if p.channels_last:
        for role in "xy":
            order = "last again" if role == OPEN[p.face] else "first"
            made.append(f"copies {role} to channels {order}: {math.prod(p.shape(role)) * itemsize:,} bytes")
    return made


def run(problem: ConvProblem, a: Tensor, b: Tensor, bias: Tensor | None) -> Tensor:
    """Computes the open tensor of `problem` from its operands `a` and `b`, plus `bias`."""
    p = problem
    if p.empty:
        result = layout.empty(p.open_shape, p.channels_last, a)
        return result.zero_() if bias is None else result.copy_(bias.view(-1, 1, 1).expand_as(result))
    if p.face == "wgrad":
        a = _columns_adjacent(a)
        result = layout.empty(p.open_shape, p.channels_last, a)
        launch, sums = weight_launch(p, a, _columns_adjacent(b), result)
        launch()
        add_in_order(sums, result)
        return result
    return _image(p, a, b, bias, NOTHING)


def run_activated(
    problem: ConvProblem, epilogue: Epilogue, a: Tensor, b: Tensor, bias: Tensor | None, residual: Tensor | None
) -> Tensor:
    """`epilogue(run(problem, a, b, bias)) + residual` of an fprop or dgrad, at the store of the products.

    Of a result that is copied to channels last after that, the residual is copied to channels first before.
    """
    if problem.empty:
        return ending(problem, epilogue, residual).applied(run(problem, a, b, bias))
    return _image(problem, a, b, bias, Ending(epilogue, None if residual is None else dense(residual, False)))


def _image(problem: ConvProblem, a: Tensor, b: Tensor, bias: Tensor | None, after: Ending) -> Tensor:
    a = _columns_adjacent(a)
    result = a.new_empty(problem.open_shape)
    for launch in image_launches(problem, a, b, bias, result, after=after):
        launch()
    return dense(result, problem.channels_last)


def _columns_adjacent(t: Tensor) -> Tensor:
    """`t` itself where its columns lie side by side, else a contiguous copy."""
    return t if t.stride(-1) == 1 or t.shape[-1] == 1 else dense(t, channels_last=False)


# -------------------------------------------------------------------------------------------------- launches


def image_launches(
    problem: ConvProblem, a: Tensor, w: Tensor, bias: Tensor | None, result: Tensor, plan: Plan | None = None,
    after: Ending = NOTHING,
) -> list[Launch]:  # fmt: skip
    """The launches that write the bands of w, and then fprop (from x) or dgrad (from y) into `result`.

    `after` comes before its store; a residual there is contiguous as the result is.
    """
    p, plan = problem, plan or _plan(problem, a, after.residual is not None)
    (rows, columns), tile = plan.axes, plan.tile
    bands = torch.empty(plan.band_shape, dtype=w.dtype, device=w.device)
    shape = {"R": tile.rows, "BW": tile.columns, "WINDOW": plan.window}
    w_strides = (w.stride(0), w.stride(2), w.stride(3))
    return [
        Launch(
            band_kernel, p.c * plan.band_shape[1],
            (w, bands, rows.taps, columns.taps, plan.shift, w_strides),
            {**shape, "REVERSED": p.face == "dgrad"},
        ),
        Launch(
            image_kernel, p.c * plan.boxes,
            (
                a, bands, None if bias is None else bias.contiguous(), after.residual, result,
                *_places(plan, a, result), plan.window_rows,
            ),
            {**shape, **_constants(plan, a, result), "ACTIVATION": after.activation},
            plan.warps if after.residual is None else plan.warps_beside, tile.stages, plan.window_rows,
        ),
    ]  # fmt: skip


def weight_launch(
    problem: ConvProblem, x: Tensor, y: Tensor, result: Tensor, plan: Plan | None = None
) -> tuple[Launch, Tensor]:
    """The launch that writes partial sums of w, and these: as many as it has parts, times the rows of a patch."""
    p, plan = problem, plan or _plan(problem, x)
    (rows, columns), tile = plan.axes, plan.tile
    trips, parts = plan.share
    sums = partial_sums(parts * tile.rows, result)
    launch = Launch(
        weight_kernel, p.c * plan.row_blocks * parts,
        (x, y, sums, *_places(plan, x, y), rows.taps, columns.taps, plan.shift, p.c, plan.row_blocks, trips),
        {
            "R": tile.rows, "BW": tile.columns, "WINDOW": plan.window, "WINDOW_ROWS": tile.window_rows,
            **_constants(plan, x, y),
        },
        plan.warps, tile.stages, trips,
    )  # fmt: skip
    return launch, sums


def _strides(t: Tensor) -> tuple[int, int, int]:
    """Of images, channels and rows; 0 along axes of size 1, which lead nowhere."""
    n, c, row = (stride if size > 1 else 0 for size, stride in zip(t.shape[:3], t.stride()[:3], strict=True))
    return n, c, row


def _unit(t: Tensor, columns: int) -> int:
    """Elements, up to 16 bytes of them, that the rows of `t`, and `columns` of these, are multiples of."""
    return power_of_two(columns, *_strides(t), limit=16 // t.element_size())


def _plan(problem: ConvProblem, source: Tensor, beside: bool = False) -> Plan:
    """The plan of a problem whose windows are of `source`, with a residual `beside` its sums or not."""
    plan = choose(problem, _unit(source, gather_axes(problem)[1].input), beside)
    if plan is None:
        raise ValueError(why_not(problem))
    return plan


def _units(plan: Plan, source: Tensor, target: Tensor) -> tuple[int, int]:
    return plan.unit, _unit(target, plan.axes[1].output)


def _places(plan: Plan, source: Tensor, target: Tensor) -> tuple[Any, ...]:
    """What both kernels are told about where windows lie in `source`, and patches in `target`, in units of these."""
    unit, target_unit = _units(plan, source, target)
    rows, columns = plan.axes
    images, _, patch_rows, patch_columns = plan.patches
    return (
        images, patch_rows, patch_columns,
        rows.input, columns.input // unit, rows.output, columns.output // target_unit, (rows.P, plan.lead // unit),
        *(stride // unit for stride in _strides(source)),
        *(stride // target_unit for stride in _strides(target)),
    )  # fmt: skip


def _constants(plan: Plan, source: Tensor, target: Tensor) -> dict[str, Any]:
    """What both kernels are compiled for: the box of patches, vectors, precision and the width of offsets."""
    unit, target_unit = _units(plan, source, target)
    images, _, rows, columns = plan.box
    return {
        "IMAGES": images, "ROWS": rows, "COLUMNS": columns, "X_UNIT": unit, "Y_UNIT": target_unit,
        "PRECISION": "tf32x3", "INDEX": offset_type(Lying.of(source), Lying.of(target)),
    }  # fmt: skip
