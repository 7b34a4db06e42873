"""What TMA is told about tensors keeps NVIDIA's rules (cuTensorMapEncodeTiled), along axes of size 1 too."""

from dataclasses import replace
from types import ModuleType

import pytest
import torch
from single_face import Case
from triton.tools.tensor_descriptor import TensorDescriptor

from convext.problem import OPERANDS, ConvProblem, layout
from convext.triton_kernels.grouped import record as grouped
from convext.triton_kernels.igemm import record as igemm
from convext.triton_kernels.igemm.tiles import BOX_TILES, planned
from convext.triton_kernels.launch import Launch, collecting

SIZES = {
    "an image": (2, 9, 7),
    "one image": (1, 9, 7),
    "one row": (2, 1, 7),
    "one column": (2, 9, 1),
    "one pixel": (1, 1, 1),
    "1-D": (2, 9),
    "1-D, one image of one pixel": (1, 1),
    "3-D, one plane": (3, 1, 5, 4),
}


def broken_rules(descriptor: TensorDescriptor) -> list[str]:
    """The rules of the driver's documentation that a descriptor breaks; strides and sizes from the inside out.

    That each stride be a multiple of the one before is asked of axes of size 1 alone, whose stride is free to choose:
    the driver takes tensors whose axes lie in any order, and weights [taps, k, c] lie as [k, taps, c].
    """
    size = descriptor.base.element_size()
    shape, strides = descriptor.shape[::-1], [stride * size for stride in descriptor.strides[::-1]]
    box = descriptor.block_shape[::-1]
    broken = ["elements of the last axis lie apart"] if strides[0] != size else []
    if not 3 <= len(shape) <= 5:
        broken.append(f"{len(shape)} axes")
    if box[0] * size % 16 or max(box) > 256:
        broken.append(f"a box of {box}")
    for axis in range(1, len(shape)):
        before = strides[axis - 1] if axis > 1 and shape[axis] == 1 else 16
        if strides[axis] % before or not 0 < strides[axis] < 1 << 40:
            broken.append(f"stride {strides[axis]} of axis {axis} is no multiple of {before}")
        if shape[axis] == 1 and strides[axis] < shape[axis - 1] * strides[axis - 1]:
            broken.append(f"stride {strides[axis]} of axis {axis} leads back into axis {axis - 1}")
    return broken


def launched(kernels: ModuleType, problem: ConvProblem) -> list[Launch]:
    """What a family launches for operands with channels innermost; igemm by its plan for boxes, liked or not."""
    a, b = (
        layout.empty(problem.shape(role), True, torch.empty((), dtype=problem.dtype, device="meta"))
        for role in OPERANDS[problem.face]
    )
    with collecting() as launches:
        if kernels is igemm:
            result = layout.empty(problem.open_shape, True, a)
            igemm.compute(problem, a, b, None, result, planned(problem, BOX_TILES[90][-1], 1, True))
        else:
            kernels.run(problem, a, b, None)
    return launches


@pytest.mark.parametrize("face", ["fprop", "dgrad"])
@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize(("kernels", "groups", "channels"), [(igemm, 1, 64), (igemm, 1, 8), (grouped, 8, 32)])
def test_rules_of_nvidia(kernels, groups, channels, size, face):
    n, *space = size
    case = Case("", tuple(space), n, channels, channels, groups, kernel=3, pad=1)
    problem = replace(case.problem(face, torch.bfloat16, True, "cpu"), device="cuda", arch=90)
    assert kernels.why_not(problem) is None
    descriptors = [a for launch in launched(kernels, problem) for a in launch.arguments if hasattr(a, "block_shape")]
    assert descriptors
    assert [broken_rules(descriptor) for descriptor in descriptors] == [[]] * len(descriptors)
