"""Launches of real layers, which benchmarks/inspect compiles."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from convext.problem import FACES, OPEN, OPERANDS, PRECISIONS, ConvProblem, layout
from convext.triton_kernels.igemm import record
from convext.triton_kernels.igemm import tiles as igemm_tiles
from convext.triton_kernels.igemm.launch import recipe
from convext.triton_kernels.igemm.tiles import Plan, planned
from convext.triton_kernels.launch import Specimen
from convext.triton_kernels.specimens import Layer, as_run, fused
from convext.triton_kernels.tiles import known, legal

LAYERS = {
    # Copied to channels last, of which a multiple of 8 or 16 lies apart, into NCHW: ConvNeXt V2, a U-Net, RegNet.
    "2x2 stride 2 40 to 80": Layer("fprop", torch.bfloat16, "ieee", False, 32, 40, 80, (56, 56), 2, 2),
    "3x3x3 stride 2 256 to 320": Layer("fprop", torch.bfloat16, "ieee", False, 1, 256, 320, (16, 16, 16), 3, 2),
    "3x3 stride 2 24 to 48": Layer("dgrad", torch.bfloat16, "ieee", False, 32, 24, 48, (112, 112), 3, 2),
    # Weights whose sum is not split, with taps between their channels: pix2pix.
    "4x4 stride 2 512 to 1024": Layer("wgrad", torch.bfloat16, "ieee", False, 16, 512, 1024, (16, 16), 4, 2),
    # Boxes on three axes, element by element: V-Net, nnU-Net.
    "2x2x2 stride 2 128 to 256": Layer("wgrad", torch.float32, "ieee", False, 2, 128, 256, (8, 16, 16), 2, 2),
    "2x2x2 stride 2 320 to 320": Layer("wgrad", torch.float32, "ieee", False, 2, 320, 320, (8, 8, 8), 2, 2),
}
# In both memory formats, with what they are followed by: the second is a transposed layer's forward.
FUSED = {
    "3x3 256 to 256": Layer("fprop", torch.bfloat16, "ieee", True, 32, 256, 256, (56, 56), 3, 1),
    "4x4 stride 2 256 to 256": Layer("dgrad", torch.bfloat16, "ieee", True, 32, 256, 256, (56, 56), 4, 2),
}


def specimens(arch: int) -> Iterator[Specimen]:
    """Every tile of the tables with every face, on 256 channels: 3x3 at stride 1; for dgrad 4x4 at 2; and LAYERS.

    bfloat16 stands for float16, of which the largest tile is here: both take the same tiles, and the instructions that
    multiply them differ only in the type they name.
    """
    forms = {
        "16-bit": (torch.bfloat16, "ieee"),
        **{precision: (torch.float32, precision) for precision in PRECISIONS},
        "float64": (torch.float64, "ieee"),
    }
    pointers = igemm_tiles.TILES[known(igemm_tiles.TILES, arch)]
    cases = [(tile, False, *form, True) for row, form in forms.items() for tile in pointers[row]]
    cases += [(tile, False, *forms[row], False) for row in forms for tile in igemm_tiles.scalar_tiles(arch, row)]
    cases += [(pointers["16-bit"][0], False, torch.float16, "ieee", True)]
    boxes = igemm_tiles.BOX_TILES[known(igemm_tiles.BOX_TILES, arch)]
    cases += [(tile, True, *form, True) for tile in boxes for form in (forms["16-bit"], forms["tf32"])]
    for tile, boxed, dtype, precision, channels_last in cases:
        for face in FACES:
            kernel, stride = ((4, 4), (2, 2)) if face == "dgrad" else ((3, 3), (1, 1))
            output = (28, 28) if face == "dgrad" else (56, 56)
            problem = ConvProblem(
                face, 32, 256, 256, 1, (56, 56), kernel, output, stride, (1, 1), (1, 1), dtype, channels_last, "cuda",
                arch, precision,
            )  # fmt: skip
            if legal(tile, problem) is None and not (boxed and igemm_tiles.why_not_boxes(problem)):
                yield _specimen(problem, planned(problem, tile, 1, boxed))
    for name, layer in LAYERS.items():
        yield as_run("igemm", name, layer, arch, record.run)
    yield from fused("igemm", FUSED, arch, record.run_activated)


def _specimen(problem: ConvProblem, plan: Plan) -> Specimen:
    p, tile = problem, plan.tile
    a, b, result = (
        layout.empty(p.shape(role), p.channels_last, torch.empty((), dtype=p.dtype, device="meta"))
        for role in (*OPERANDS[p.face], OPEN[p.face])
    )
    bias = None if p.face == "wgrad" else torch.empty(p.open_shape[1], dtype=p.dtype, device="meta")
    product = igemm_tiles.product_of(p)
    outputs = product.rows * product.columns * product.count / igemm_tiles.blocks(p, plan)
    how = "boxes" if plan.box is not None and p.face != "wgrad" else "NHWC" if p.channels_last else "NCHW"
    dtype = str(p.dtype).removeprefix("torch.")
    name = f"igemm.{p.face} {dtype} {p.precision} {how} {tile.rows}x{tile.columns} of {tile.depth} bytes"
    trips = product.steps(tile.steps(p.dtype.itemsize))
    made = recipe(p, plan, a.stride(), b.stride(), result.stride())
    return Specimen(name, tile, made.launch(a, b, bias, result), outputs, trips)
