"""Launches of real layers, which benchmarks/inspect compiles."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import torch

from convext.problem import FACES, OPEN, OPERANDS, PRECISIONS, ConvProblem, layout
from convext.triton_kernels.launch import Specimen
from convext.triton_kernels.pointwise import record
from convext.triton_kernels.pointwise.launch import channels_launch, pixels_launch
from convext.triton_kernels.pointwise.tiles import tiles_for
from convext.triton_kernels.specimens import Layer, as_run, fused
from convext.triton_kernels.tiles import legal

# Strided, so that pixels lie on two axes or more: shortcuts of R3D, DeepLab and a dual-path network.
LAYERS = {
    "stride 2 on 4x14x14": Layer("wgrad", torch.bfloat16, "ieee", False, 8, 256, 512, (4, 14, 14), 1, 2),
    "stride 2 on 193x193": Layer("fprop", torch.float32, "tf32", True, 4, 256, 512, (193, 193), 1, 2),
    "stride 2 on 28x28": Layer("fprop", torch.float32, "tf32", True, 32, 832, 1088, (28, 28), 1, 2),
}
# In both memory formats, with what they are followed by.
FUSED = {"256 to 512": Layer("fprop", torch.bfloat16, "ieee", True, 64, 256, 512, (56, 56), 1, 1)}


def specimens(arch: int) -> Iterator[Specimen]:
    """Each tile in both layouts, every dtype and precision; bfloat16 stands for float16 too.

    In bfloat16 and TF32 also with an odd number of pixels, which NCHW moves one by one. And LAYERS.
    """
    forms = [(torch.bfloat16, "ieee"), (torch.float64, "ieee"), *((torch.float32, how) for how in PRECISIONS)]
    images = {"NHWC": (True, 56), "NCHW": (False, 56), "NCHW 57x57": (False, 57)}
    for (dtype, precision), (where, (channels_last, side)), face in product(forms, images.items(), FACES):
        if side % 2 == 1 and (dtype, precision) not in (forms[0], (torch.float32, "tf32")):
            continue
        sizes = {"x": (64, 256, side, side), "w": (512, 256, 1, 1), "y": (64, 512, side, side)}
        like = torch.empty((), dtype=dtype, device="meta")
        tensors = {role: layout.empty(size, channels_last, like) for role, size in sizes.items()}
        a, b = (tensors[role] for role in OPERANDS[face])
        problem = ConvProblem.of(
            face, a.shape, b.shape, sizes[OPEN[face]][2:], (1, 1), (0, 0), (1, 1), 1, dtype, channels_last, "cuda",
            arch, precision,
        )  # fmt: skip
        for tile in tiles_for(problem):
            if legal(tile, problem, narrow=side % 2 == 1) is not None:
                continue
            if face == "wgrad":
                launch, _ = pixels_launch(problem, tensors["x"], tensors["y"], tensors["w"], tile)
                trips = launch.argument("steps")
            else:
                launch = channels_launch(problem, a, b, None, tensors[OPEN[face]], tile)
                trips = b.shape[0 if face == "dgrad" else 1] // launch.constants["BD"]
            warps = "" if tile.warps == 4 else f" in {tile.warps} warps"
            name = f"pointwise.{face} {dtype} {precision} {where} {tile.rows}x{tile.columns}{warps}"
            yield Specimen(name.replace("torch.", ""), tile, launch, tile.rows * tile.columns, trips)
    for name, layer in LAYERS.items():
        yield as_run("pointwise", name, layer, arch, record.run)
    yield from fused("pointwise", FUSED, arch, record.run_activated)
