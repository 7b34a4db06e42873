"""Packed groups on every face, layout and dtype, against float64."""

import itertools
import math

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from single_face import Case, assert_agrees, far_apart, random_bias

import convext
from convext.commands import check
from convext.problem import FACES, ConvProblem
from convext.triton_kernels.grouped import launch, tiles
from convext.triton_kernels.grouped import record as grouped
from convext.triton_kernels.launch import collecting
from convext.triton_kernels.passes.transpose import copied_bytes
from convext.triton_kernels.tiles import Tile, legal

CASES = [
    Case("1-D, two groups of two channels: less than a pack every way", (5,), 1, 4, 4, 2, kernel=3, pad=1),
    Case("more groups than a pack, in vectors of 4", (5, 7), 2, 44, 44, 11, kernel=3, pad=1),
    Case("8 channels in, 4 out; stride: phases with different taps", (7, 6), 1, 24, 12, 3, kernel=3, stride=2, pad=1),
    Case("3 and 5 channels: no power of two", (6, 5), 2, 9, 15, 3, kernel=2),
    Case("one channel out of each group of 4", (6, 5), 1, 24, 6, 6, kernel=(3), pad=2),
    Case("64 channels in and 8 out: the pack is wider than the tile", (3, 4), 1, 128, 16, 2, kernel=2),
    Case("dilation and stride share a factor: phases without taps", (9, 9), 1, 8, 8, 2, 3, stride=2, pad=2, dilation=2),
    Case("stride over the kernel: phases without taps", (7, 7), 2, 8, 16, 4, kernel=2, stride=3),
    Case("padding beyond the kernel, fewer outputs than fit", (4,), 2, 6, 6, 3, kernel=2, pad=3, trim=2),
    Case("3-D, causal on every axis", (3, 4, 2), 1, 8, 4, 2, kernel=2, pad=1, trim=1),
    Case("one tap", (3, 5), 2, 12, 12, 2),
]
TILES = tiles.TILES[80]
DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
FORMS = [*((dtype, "ieee") for dtype in DTYPES), (torch.float32, "tf32"), (torch.float32, "tf32x3")]


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("face", FACES)
def test_cases(face, case, channels_last, dtype, device, bordered):
    problem = case.problem(face, dtype, channels_last, device)
    a, b = map(bordered, check.operands(problem))
    bias = random_bias(problem)
    assert_agrees(grouped, problem, a, b, None if bias is None else bordered(bias))


@pytest.mark.parametrize("precision", ["ieee", "tf32x3"])
@pytest.mark.parametrize("face", FACES)
def test_float32_precisions(face, precision, device):
    """Both keep float32's accuracy."""
    problem = CASES[1].problem(face, torch.float32, True, device, precision)
    assert_agrees(grouped, problem, *check.operands(problem), random_bias(problem))


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("face", FACES)
def test_strides_of_any_kind(face, channels_last, device, bordered):
    """A slice along channels (what torch.cat's gradient is), every other pixel, transposed space, stride 0, NCHW."""
    problem = Case("", (3, 4), 1, 8, 4, 2, kernel=2, stride=2, pad=1).problem(
        face, torch.float32, channels_last, device
    )
    a, b = check.operands(problem)
    for view in (
        lambda t: torch.cat([t, t, t], 1)[:, t.shape[1] : 2 * t.shape[1]],
        lambda t: t.repeat_interleave(2, -1)[..., 1::2],
        lambda t: t.mT.contiguous().mT,
        lambda t: t[:1, :1, ..., :1].expand_as(t),
        lambda t: t[:, :1].expand_as(t),
        lambda t: t.contiguous(),
    ):
        assert_agrees(grouped, problem, bordered(view(a)), b, random_bias(problem))
        assert_agrees(grouped, problem, a, bordered(view(b)), random_bias(problem))


@pytest.mark.parametrize("face", FACES)
def test_offsets_past_32_bits(face, device):
    problem = Case("", (3, 4), 2, 4, 4, 2, kernel=2).problem(face, torch.float16, False, device)
    a, b = check.operands(problem)
    assert_agrees(grouped, problem, far_apart(a, 0), b, random_bias(problem))


def test_long_sums_are_split_and_repeatable(device):
    """wgrad over 1,400 pixels: partial sums in more than one part, the same bits every time."""
    problem = Case("", (700,), 2, 4, 6, 2, kernel=3).problem("wgrad", torch.float32, True, device)
    a, b = check.operands(problem)
    _, partial = launch.weight_launch(problem, a, b, torch.empty(problem.open_shape, device=device))
    assert partial is not None
    assert partial.shape[0] > 1
    first = assert_agrees(grouped, problem, a, b)
    assert torch.equal(first, grouped.run(problem, a, b, None))


def product(problem, tile):
    """The product that one step of `tile` is, of the packs that a problem has where it has groups enough."""
    k, c = problem.k // problem.groups, problem.c // problem.groups
    groups, itemsize = tiles.groups_of(k, c, tile.width), problem.dtype.itemsize
    k, c = groups * tiles._padded(k), groups * tiles._padded(c)
    if problem.face == "wgrad":
        return Tile(k, c, tile.pixels * itemsize, tile.warps, tile.stages)
    rows, depth = (k, c) if problem.face == "fprop" else (c, k)
    return Tile(rows, tile.pixels, depth * itemsize, tile.warps, tile.stages)


@pytest.mark.parametrize("arch", [80, 86, 90, 120])
@pytest.mark.parametrize(("dtype", "precision"), FORMS)
def test_a_block_can_hold_every_pack(arch, dtype, precision):
    """Registers and shared memory, for groups of any size on either side; 8.6 has less of the latter than 8.0."""
    sizes = (1, 2, 3, 4, 5, 8, 9, 15, 16, 17, 33, 64, 65, 128)
    for face, c, k, scalar in itertools.product(FACES, sizes, sizes, (False, True)):
        problem = ConvProblem(
            face, 2, 32 * c, 32 * k, 32, (9, 9), (3, 3), (9, 9), (1, 1), (1, 1), (1, 1), dtype, True, "cuda", arch,
            precision,
        )  # fmt: skip
        if grouped.why_not(problem) is None:
            tile, _ = tiles.choose(problem, scalar)
            assert legal(product(problem, tile), problem) is None


@pytest.mark.parametrize(("face", "kind"), [(f, k) for f in FACES for k in TILES if ("weight" in k) == (f == "wgrad")])
def test_every_tile_of_the_tables(face, kind, device, monkeypatch):
    """The tiles of the GPUs, under the interpreter too."""
    for tile in TILES[kind]:
        monkeypatch.setattr(tiles, "TILES", {0: {"image": (tile, tile), "weight": (tile, tile)}})
        tiles.choose.cache_clear()
        problem = Case("", (3, 7), 2, 20, 40, 5, kernel=2, pad=1).problem(face, torch.float32, True, device)
        assert_agrees(grouped, problem, *check.operands(problem), random_bias(problem))
    tiles.choose.cache_clear()


@pytest.mark.parametrize("face", FACES)
def test_copies_are_confessed(face, device):
    """In NCHW all three tensors, in NHWC none: as many lines as launches that copy, and as many bytes."""
    for last in (False, True):
        problem = Case("", (5, 7), 2, 8, 8, 2, kernel=3, pad=1).problem(face, torch.float32, last, device)
        with collecting() as launches:
            grouped.run(problem, *check.operands(problem), None)
        copied = sorted(copied_bytes(launch) // 2 for launch in launches if copied_bytes(launch))
        tensors = [] if last else sorted(4 * math.prod(problem.shape(role)) for role in "xwy")
        assert copied == tensors
        assert sorted(int(line.split()[-2].replace(",", "")) for line in grouped.copies(problem)) == tensors


@pytest.mark.parametrize("face", FACES)
def test_nothing_to_multiply(face, device):
    for case in (Case("no images", (3, 4), 0, 6, 9, 3), Case("no pixels", (0, 4), 2, 6, 9, 3)):
        problem = case.problem(face, torch.float32, False, device)
        a, b = check.operands(problem)
        bias = random_bias(problem)
        result = grouped.run(problem, a, b, bias)
        expected = torch.zeros(problem.open_shape, device=device)
        if bias is not None:
            expected += bias.view(-1, 1, 1)
        torch.testing.assert_close(result, expected, rtol=0, atol=0)


@pytest.mark.parametrize("face", FACES)
def test_one_pixel_of_channels_that_fill_no_16_bytes(face, device):
    """Every axis but the channels' has size 1, and 4 channels are 8 bytes: TMA wants strides of 16 all the same."""
    problem = Case("one pixel", (1,), 1, 4, 2, 2, 1, 1, 0, 1).problem(face, torch.bfloat16, False, device)
    assert_agrees(grouped, problem, *check.operands(problem), random_bias(problem))


@pytest.mark.usefixtures("poisoned")
@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_drawn(data, device):
    small = st.integers(1, 3)
    groups = data.draw(st.integers(2, 9), "groups")
    case = Case(
        "drawn", tuple(data.draw(st.lists(st.integers(1, 8), min_size=1, max_size=3), "size")), data.draw(small, "n"),
        groups * data.draw(st.integers(2, 9), "c"), groups * data.draw(st.integers(1, 9), "k"), groups,
        data.draw(small, "kernel"), data.draw(small, "stride"), data.draw(st.integers(0, 3), "pad"),
        data.draw(small, "dilation"),
    )  # fmt: skip
    assume(all(i + 2 * case.pad > case.dilation * (case.kernel - 1) for i in case.size))
    face, dtype = data.draw(st.sampled_from(FACES), "face"), data.draw(st.sampled_from(DTYPES), "dtype")
    problem = case.problem(face, dtype, data.draw(st.booleans(), "channels_last"), device)
    assume(grouped.why_not(problem) is None)  # a side more than 8 times the other
    assert_agrees(grouped, problem, *check.operands(problem), random_bias(problem))


@pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "channels_last"])
def test_through_the_operators(channels_last, device):
    """Forward and both gradients by the named kernel; the gradient that arrives is a slice, as after torch.cat."""
    x = torch.randn(2, 12, 5, 6, device=device, dtype=torch.float64)
    x = x.to(memory_format=torch.channels_last) if channels_last else x
    w, bias = torch.randn(8, 3, 3, 3, device=device).double(), torch.randn(8, device=device).double()

    def run(convolve):
        leaves = [t.clone().requires_grad_() for t in (x, w, bias)]
        torch.cat([convolve(*leaves), convolve(*leaves)], 1).square().sum().backward()
        return [t.grad for t in leaves]

    geometry = ([3, 3], [2, 2], [1, 1], [1, 1], 4, "triton.grouped")
    ours = run(lambda x, w, bias: torch.ops.convext.fprop(x, w, bias, *geometry))
    torchs = run(lambda x, w, bias: torch.nn.functional.conv2d(x, w, bias, 2, 1, 1, 4))
    for mine, theirs in zip(ours, torchs, strict=True):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"groups": 1, "c": 8, "k": 8}, "one group"),
        ({"c": 2}, "depthwise"),
        ({"c": 32, "k": 64}, "16 channels"),
        ({"c": 4, "k": 1024}, "512 channels"),
        ({"dtype": torch.int32}, "int32"),
        ({"device": "cuda", "arch": 75}, "7.5"),
        ({"input": (1 << 30, 4)}, "1,073,741,825"),
    ],
)
def test_refusals_name_the_numbers(change, reason):
    fields = {
        "face": "fprop", "n": 1, "c": 8, "k": 8, "groups": 2, "input": (4, 4), "kernel": (3, 3), "output": (4, 4),
        "stride": (1, 1), "pad": (1, 1), "dilation": (1, 1), "dtype": torch.float32,
    }  # fmt: skip
    assert grouped.why_not(ConvProblem(**fields)) is None
    assert reason in grouped.why_not(ConvProblem(**{**fields, **change}))


def test_a_refusal_by_name_reaches_the_user(device):
    with pytest.raises(ValueError, match="one group"), convext.backend("triton.grouped"):
        convext.functional.conv2d(torch.randn(1, 8, 4, 4, device=device), torch.randn(8, 8, 3, 3, device=device))
