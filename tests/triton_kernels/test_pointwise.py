"""Pointwise kernels on every face, layout and dtype, against float64."""

from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from single_face import Case, assert_agrees, far_apart, random_bias

import convext
from convext.commands import check
from convext.problem import FACES, OPEN, OPERANDS, ConvProblem, layout
from convext.triton_kernels.pixels import Plane, coalesce
from convext.triton_kernels.pointwise import record as pointwise
from convext.triton_kernels.pointwise import tiles as pointwise_tiles
from convext.triton_kernels.pointwise.launch import channels_launch, pixels_launch
from convext.triton_kernels.tiles import legal

CASES = [
    Case("one pixel and one channel", (1,), 1, 1, 1),
    Case("1-D, less than a tile every way", (5,), 2, 3, 7),
    Case("several tiles and a rest every way; images straddle tiles", (5, 7), 2, 35, 37),
    Case("channels and pixels in vectors of 8, which 16 does not divide", (4, 6), 2, 24, 40),
    Case("3-D; one more than a tile", (3, 4, 3), 1, 33, 17),
    Case("groups of 16 channels and more, as many in as not out", (3, 5), 2, 48, 32, groups=2),
    Case("stride: pixels that nothing reads, and dgrad leaves at bias", (6, 7), 2, 18, 20, stride=2),
    Case("padding: outputs that read nothing", (4, 5), 1, 16, 5, pad=1),
    Case("stride, padding and fewer outputs than fit", (7, 6), 2, 5, 16, stride=3, pad=2, trim=1),
    Case("all outputs in the padding", (1, 1), 1, 4, 4, stride=4, pad=2),
]
DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("face", FACES)
def test_cases(face, case, channels_last, dtype, device, bordered):
    problem = case.problem(face, dtype, channels_last, device)
    a, b = map(bordered, check.operands(problem))
    bias = random_bias(problem)
    assert_agrees(pointwise, problem, a, b, None if bias is None else bordered(bias))


@pytest.mark.parametrize("precision", ["ieee", "tf32x3"])
@pytest.mark.parametrize("face", FACES)
def test_float32_precisions(face, precision, device):
    """Both keep float32's accuracy; TF32 itself is compared with torch's own where there is a GPU."""
    problem = CASES[2].problem(face, torch.float32, True, device, precision)
    assert_agrees(pointwise, problem, *check.operands(problem), random_bias(problem))


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("face", FACES)
def test_strides_of_any_kind(face, channels_last, device, bordered):
    """A slice along channels (what torch.cat's gradient is), every other pixel, transposed space, stride 0, NCHW."""
    problem = Case("", (6, 4), 2, 18, 20).problem(face, torch.float32, channels_last, device)
    a, b = check.operands(problem)
    for view in (
        lambda t: torch.cat([t, t, t], 1)[:, t.shape[1] : 2 * t.shape[1]],
        lambda t: t.repeat_interleave(2, -1)[..., 1::2],
        lambda t: t.mT.contiguous().mT,
        lambda t: t[:1, :1, ..., :1].expand_as(t),
        lambda t: t[:, :1].expand_as(t),
        lambda t: t.contiguous(),
    ):
        assert_agrees(pointwise, problem, bordered(view(a)), b, random_bias(problem))
        assert_agrees(pointwise, problem, a, bordered(view(b)), random_bias(problem))


@pytest.mark.parametrize("axis", [0, 1], ids=["images", "channels"])
@pytest.mark.parametrize("face", FACES)
def test_offsets_past_32_bits(face, axis, device):
    problem = Case("", (3, 4), 2, 2, 2).problem(face, torch.float16, False, device)
    a, b = check.operands(problem)
    assert_agrees(pointwise, problem, far_apart(a, axis), b, random_bias(problem))


def test_bias_with_stride_0(device):
    problem = CASES[1].problem("fprop", torch.float32, False, device)
    assert_agrees(pointwise, problem, *check.operands(problem), torch.randn(1, device=device).expand(problem.k))


def test_long_sums_are_split_and_repeatable(device):
    """wgrad over 700 pixels: partial sums in more than one part, the same bits every time."""
    problem = Case("", (350,), 2, 20, 18).problem("wgrad", torch.float32, True, device)
    a, b = check.operands(problem)
    _, partial = pixels_launch(problem, a, b, torch.empty(18, 20, 1, device=device))
    assert partial is not None
    assert partial.shape[0] > 1
    first = assert_agrees(pointwise, problem, a, b)
    assert torch.equal(first, pointwise.run(problem, a, b, None))


@pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("face", FACES)
def test_every_tile_of_the_tables(face, channels_last, device):
    """Tiles that small problems do not get; those of another architecture fit where they are legal."""
    problem = Case("", (9, 19), 1, 40, 35).problem(face, torch.bfloat16, channels_last, device)
    a, b = check.operands(problem)
    result = layout.empty(problem.open_shape, channels_last, a)
    tables = pointwise_tiles.TILES.values()
    for tile in {
        tile for table in tables for tiles in table.values() for tile in tiles if legal(tile, problem) is None
    }:
        result.fill_(float("nan"))
        if face == "wgrad":
            launch, partial = pixels_launch(problem, a, b, result, tile)
            launch()
            if partial is not None:
                result.copy_(partial.sum(0).view_as(result))
        else:
            channels_launch(problem, a, b, None, result, tile)()
        agreement = check.agreement(problem, a, b, None, result)
        assert agreement.ok, f"{tile}: {agreement}"


@pytest.mark.parametrize("arch", [80, 90, 120])
@pytest.mark.parametrize("face", FACES)
def test_what_moves_one_by_one_takes_smaller_tiles(face, arch):
    """Images of 57x57 pixels, channels apart: a thread keeps half as many sums as with the vectors of 56x56."""

    def sums(side: int) -> int:
        problem = Case("", (side, side), 64, 256, 512).problem(face, torch.bfloat16, False, "cpu")
        problem = replace(problem, arch=arch)
        tensors = {role: torch.empty(problem.shape(role), dtype=torch.bfloat16, device="meta") for role in "xwy"}
        if face == "wgrad":
            launch, _ = pixels_launch(problem, tensors["x"], tensors["y"], tensors["w"])
        else:
            a, b = (tensors[role] for role in OPERANDS[face])
            launch = channels_launch(problem, a, b, None, tensors[OPEN[face]])
        columns = launch.constants["BC" if face == "wgrad" else "BQ"]
        return launch.constants["BR"] * columns // (32 * launch.warps)

    assert sums(56) == 2 * sums(57) == 128


@pytest.mark.parametrize("face", FACES)
def test_nothing_to_multiply(face, device):
    for case in (
        Case("no images", (3, 4), 0, 5, 6),
        Case("no pixels", (0, 4), 2, 5, 6),
        Case("no channels in", (3, 4), 2, 0, 6),
        Case("no channels out", (3, 4), 2, 5, 0),
    ):
        problem = case.problem(face, torch.float32, False, device)
        a, b = check.operands(problem)
        bias = random_bias(problem)
        result = pointwise.run(problem, a, b, bias)
        expected = torch.zeros(problem.open_shape, device=device)
        if bias is not None:
            expected += bias.view(-1, 1, 1)
        torch.testing.assert_close(result, expected, rtol=0, atol=0)


@pytest.mark.usefixtures("poisoned")
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_drawn(data, device):
    small = st.integers(1, 9)
    groups = data.draw(st.sampled_from([1, 1, 2]), "groups")
    channels = small if groups == 1 else st.integers(16, 20)
    case = Case(
        "drawn", tuple(data.draw(st.lists(small, min_size=1, max_size=3), "size")), data.draw(st.integers(1, 3), "n"),
        groups * data.draw(channels, "c"), groups * data.draw(channels, "k"), groups,
        stride=data.draw(st.integers(1, 3), "stride"), pad=data.draw(st.integers(0, 3), "pad"),
    )  # fmt: skip
    face, dtype = data.draw(st.sampled_from(FACES), "face"), data.draw(st.sampled_from(DTYPES), "dtype")
    problem = case.problem(face, dtype, data.draw(st.booleans(), "channels_last"), device)
    assert_agrees(pointwise, problem, *check.operands(problem), random_bias(problem))


@pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "channels_last"])
def test_through_the_operators(channels_last, device):
    """Forward and both gradients by the named kernel; the gradient that arrives is a slice, as after torch.cat."""
    x = torch.randn(2, 20, 5, 6, device=device, dtype=torch.float64)
    x = x.to(memory_format=torch.channels_last) if channels_last else x
    w, bias = torch.randn(18, 20, 1, 1, device=device).double(), torch.randn(18, device=device).double()

    def run(convolve):
        leaves = [t.clone().requires_grad_() for t in (x, w, bias)]
        torch.cat([convolve(*leaves), convolve(*leaves)], 1).square().sum().backward()
        return [t.grad for t in leaves]

    geometry = ([5, 6], [1, 1], [0, 0], [1, 1], 1, "triton.pointwise")
    ours = run(lambda x, w, bias: torch.ops.convext.fprop(x, w, bias, *geometry))
    for mine, torchs in zip(ours, run(torch.nn.functional.conv2d), strict=True):
        torch.testing.assert_close(mine, torchs)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"kernel": (3, 3)}, "9 taps"),
        ({"groups": 4}, "channels in each of 4 groups"),
        ({"dtype": torch.int32}, "int32"),
        ({"device": "cuda", "arch": 75}, "7.5"),
        ({"n": 2**31}, "32 bits"),
    ],
)
def test_refusals_name_the_numbers(change, reason, device):
    fields = {
        "face": "fprop", "n": 1, "c": 8, "k": 8, "groups": 1, "input": (4, 4), "kernel": (1, 1), "output": (4, 4),
        "stride": (1, 1), "pad": (0, 0), "dilation": (1, 1), "dtype": torch.float32,
    }  # fmt: skip
    assert pointwise.why_not(ConvProblem(**fields)) is None
    assert reason in pointwise.why_not(ConvProblem(**{**fields, **change}))
    if "kernel" in change:
        with pytest.raises(ValueError, match="9 taps"), convext.backend("triton.pointwise"):
            convext.functional.conv2d(torch.randn(1, 8, 4, 4, device=device), torch.randn(8, 8, 3, 3, device=device))


def test_axes_that_every_tensor_steps_through_evenly_are_one():
    assert coalesce((2, 3, 4), (12, 4, 1), (24, 8, 2)) == ((24,), (1,), (2,))
    assert coalesce((2, 3, 4), (100, 4, 1), (24, 8, 2)) == ((2, 12), (100, 1), (24, 2))
    assert coalesce((1, 1), (7, 5)) == ((1,), (1,))
    assert Plane.of(1, (48, 24), 2).vector == 8
    assert Plane.of(196, (588, 1), 2) == Plane(4, 2, (49, 147, 1))
