"""What a problem says of itself: bytes, multiplications and families, by torch's tensors and by counting."""

from dataclasses import replace

import pytest
import torch

from convext.problem import FACES, ConvProblem, Face

# A strided convolution of rectangles, groups of 2 and 3 channels.
X, W = torch.randn(2, 4, 9, 8, dtype=torch.bfloat16), torch.randn(6, 2, 3, 2, dtype=torch.bfloat16)
Y = torch.nn.functional.conv2d(X, W, stride=(2, 1), padding=(1, 0), groups=2)
GROUPED = ConvProblem.of("fprop", X.shape, W.shape, Y.shape[2:], (2, 1), (1, 0), (1, 1), 2, torch.bfloat16)


@pytest.mark.parametrize("face", FACES)
def test_bytes_and_terms(face: Face) -> None:
    problem = replace(GROUPED, face=face)
    assert problem.ideal_bytes == sum(t.numel() * t.element_size() for t in (X, W, Y))
    # Each output of each filter is a sum over the filter, of a multiplication and an addition for each element.
    assert problem.flops == 2 * Y.numel() * W[0].numel()


def test_on_a_cpu_with_channels_first_unless_something_else_is_said() -> None:
    spelled_out = ConvProblem(
        "fprop", 2, 4, 6, 2, (9, 8), (3, 2), (5, 7), (2, 1), (1, 0), (1, 1), torch.bfloat16, False, "cpu", 0, "ieee"
    )
    assert spelled_out == GROUPED
    assert ConvProblem("fprop", 2, 4, 6, 2, (9, 8), (3, 2), (5, 7), (2, 1), (1, 0), (1, 1), torch.bfloat16) == GROUPED


@pytest.mark.parametrize(
    ("c", "groups", "kernel", "dilation", "family"),
    [
        (4, 4, (3, 3), (1, 1), "depthwise"),
        (4, 4, (1, 1), (2, 2), "depthwise"),
        (4, 2, (3, 3), (2, 2), "grouped"),
        (4, 2, (1, 1), (1, 1), "grouped"),
        (1, 1, (3, 3), (1, 1), "dense"),
        (4, 1, (1, 1), (2, 2), "pointwise"),
        (4, 1, (1, 3), (1, 2), "dilated"),
        (4, 1, (3, 1), (2, 1), "dilated"),
        (4, 1, (2, 1), (2, 1), "dilated"),
        (4, 1, (1, 3), (2, 1), "dense"),
        (4, 1, (2, 1), (1, 1), "dense"),
    ],
)
def test_families(c: int, groups: int, kernel: tuple[int, ...], dilation: tuple[int, ...], family: str) -> None:
    assert replace(GROUPED, c=c, k=8, groups=groups, kernel=kernel, dilation=dilation).family == family


@pytest.mark.parametrize("asymmetric", [{}, {"output": (4, 7)}, {"output": (6, 7)}, {"pad": (0, 1)}], ids=str)
def test_symmetric_is_what_torchs_padding_gives(asymmetric: dict[str, tuple[int, ...]]) -> None:
    problem = replace(GROUPED, **asymmetric)
    torchs = torch.nn.functional.conv2d(X, W, stride=problem.stride, padding=problem.pad, groups=2)
    assert problem.symmetric == (torchs.shape[2:] == problem.output)
