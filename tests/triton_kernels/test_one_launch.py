"""A depthwise and a pointwise convolution in one kernel, against torch's one after the other in float64."""

import re
from dataclasses import dataclass, replace

import pytest
import torch
import torch.nn.functional as F
from endings import assert_added_last
from single_face import arch, far_apart
from test_epilogue import TORCHS

from convext.operators.separable import separable as operator
from convext.problem import layout
from convext.problem.epilogue import Epilogue
from convext.problem.roofline import H100
from convext.problem.separable import SeparableProblem
from convext.triton_kernels.launch import collecting
from convext.triton_kernels.separable import cost, record
from convext.triton_kernels.separable.launch import separable_launch
from convext.triton_kernels.separable.tiles import TILES

SILU, RELU = Epilogue("silu"), Epilogue("relu")


@dataclass(frozen=True)
class Case:
    """A small problem, and what it is in the list for; `pad` is before an axis, `end` after it."""

    reason: str
    n: int
    c: int
    k: int
    input: tuple[int, int]
    kernel: tuple[int, int] = (3, 3)
    stride: tuple[int, int] = (1, 1)
    pad: tuple[int, int] = (1, 1)
    end: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)

    def __str__(self) -> str:
        return self.reason

    def problem(self, dtype, last, device, first=SILU, second=RELU, adds=True, precision="ieee"):
        axes = zip(self.input, self.kernel, self.stride, self.pad, self.end, self.dilation, strict=True)
        size = tuple((i + p + e - d * (t - 1) - 1) // s + 1 for i, t, s, p, e, d in axes)
        return SeparableProblem.of(
            first, second, adds, (self.n, self.c, *self.input), (self.c, 1, *self.kernel), (self.k, self.c, 1, 1),
            size, self.stride, self.pad, self.dilation, dtype, (last, last), (device, arch(device), precision),
        )  # fmt: skip


CASES = [
    Case("several tiles and a rest every way; images straddle tiles", 2, 35, 37, (5, 7)),
    Case("whole steps, in chunks of 8", 1, 16, 32, (4, 16)),
    Case("chunks of 4 and 2, which rows of x hold and lanes do not", 1, 24, 20, (5, 12)),
    Case("axes apart, other zeros after than before", 2, 18, 20, (9, 10), (2, 3), (2, 1), (0, 3), (2, 1), (1, 2)),
    Case("stride 2, and trailing pixels that nothing reads", 1, 17, 5, (8, 11), stride=(2, 2), end=(-1, -2)),
    Case("5 rows of taps, which are a loop", 1, 5, 18, (6, 9), (5, 3), pad=(2, 1), end=(2, 1)),
    Case("causal: all zeros before", 1, 4, 6, (5, 6), pad=(4, 4), end=(0, 0), dilation=(2, 2)),
    Case("images of a pixel", 3, 20, 7, (1, 1)),
    Case("outputs that read nothing", 1, 4, 4, (2, 2), (1, 1), (3, 3), (3, 3), (3, 3)),
]  # fmt: skip
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
each_layout = pytest.mark.parametrize("last", [False, True], ids=["NCHW", "NHWC"])


def operands(problem):
    """x, w, bias, v, second bias, and a residual or None."""
    p, y = problem.depthwise, problem.pointwise
    shapes = p.x_shape, p.w_shape, (p.c,), y.w_shape, (y.k,), y.y_shape
    x, w, bias, v, second, residual = (torch.randn(s, device=p.device).to(p.dtype) for s in shapes)
    images = layout.dense(x, p.channels_last), layout.dense(residual, p.channels_last)
    return images[0], w, bias, (v / p.c**0.5).to(p.dtype), second, images[1] if problem.adds else None


def torchs(problem, case, x, w, bias, v, second_bias, residual):
    x = F.pad(x, (case.pad[1], case.end[1], case.pad[0], case.end[0]))
    t = TORCHS[problem.first](F.conv2d(x, w, bias, case.stride, 0, case.dilation, x.shape[1]))
    y = TORCHS[problem.second](F.conv2d(t, v, second_bias))
    return y if residual is None else y + residual


def assert_right(problem, case, found, *tensors):
    """By the tolerance rule, with torch's composition, whose t is rounded as ours."""
    exact = torchs(problem, case, *(None if t is None else t.double() for t in tensors))
    y = problem.pointwise
    assert found.shape == exact.shape == y.y_shape
    assert found.dtype == y.dtype
    assert (found.movedim(1, -1) if y.channels_last else found).is_contiguous()
    floor = 2 * torch.finfo(y.dtype).eps * exact.abs().max()
    assert (found - exact).abs().max() <= 2 * (torchs(problem, case, *tensors) - exact).abs().max() + floor


@pytest.mark.usefixtures("poisoned")
@each_layout
@pytest.mark.parametrize("case", CASES, ids=str)
def test_values(case, last, device, bordered):
    """In one dtype after the other."""
    dtype = DTYPES[(CASES.index(case) + last) % 3]
    adds = dtype is not torch.float16  # and there without biases
    problem = case.problem(dtype, last, device, adds=adds)
    x, w, bias, v, second_bias, residual = (None if t is None else bordered(t) for t in operands(problem))
    if not adds:
        bias = second_bias = None
    assert record.why_not(problem) is None
    tensors = x, w, bias, v, second_bias, residual
    assert_right(problem, case, record.run(problem, *tensors), *tensors)


@each_layout
@pytest.mark.parametrize("case", CASES, ids=str)
def test_large_biases_are_added_last(case, last, device):
    """The first one to t, of which y has channels, each multiplied by one; then the second."""
    problem = case.problem(torch.float32, last, device, Epilogue("identity"), Epilogue("identity"), adds=False)
    x, w, bias, v, second_bias, _ = operands(problem)
    channel = torch.arange(case.k, device=device) % case.c
    v = F.one_hot(channel, case.c).to(v.dtype).view_as(v)
    none = torch.zeros_like(bias), torch.zeros_like(second_bias)
    sums = torchs(problem, case, *(t.double() for t in (x, w, none[0], v, none[1])), None)
    found = record.run(problem, x, w, 1000 * bias, v, none[1], None)
    assert_added_last(found, sums, 1000 * bias[channel])
    found = record.run(problem, x, w, none[0], v, 1000 * second_bias, None)
    assert_added_last(found, sums, 1000 * second_bias)


@pytest.mark.parametrize("epilogue", TORCHS, ids=str)
def test_every_activation_on_both_sides(epilogue, device):
    case = CASES[6]
    for named in ({"first": epilogue}, {"second": epilogue}):
        problem = case.problem(torch.float32, True, device, **named)
        tensors = operands(problem)
        assert_right(problem, case, record.run(problem, *tensors), *tensors)


@pytest.mark.parametrize("precision", ["tf32x3", "ieee"])
def test_float32_precisions(precision, device):
    """Both keep float32's accuracy; the depthwise sums are float32's in all."""
    case = CASES[1]
    problem = case.problem(torch.float32, False, device, precision=precision)
    tensors = operands(problem)
    assert_right(problem, case, record.run(problem, *tensors), *tensors)


@pytest.mark.usefixtures("poisoned")
@each_layout
def test_strides_of_any_kind(last, device, bordered):
    """A slice along channels, every other pixel, transposed space, stride 0, the other memory format."""
    case = Case("", 1, 9, 14, (6, 4))
    problem = case.problem(torch.float32, last, device)
    tensors = operands(problem)
    views = (
        lambda t: torch.cat([t, t, t], 1)[:, t.shape[1] : 2 * t.shape[1]],
        lambda t: t.repeat_interleave(2, -1)[..., 1::2],
        lambda t: t.mT.contiguous().mT,
        lambda t: t[:1, :1, ..., :1].expand_as(t),
        lambda t: layout.dense(t, not layout.is_channels_last(t)),
    )
    for turn in range(5):  # each operand in each of them, together with the others in others
        given = [t if t.dim() == 1 else bordered(views[(turn + i) % 5](t)) for i, t in enumerate(tensors)]
        assert_right(problem, case, record.run(problem, *given), *given)
    given = [t.new_ones(1).expand_as(t) if t.dim() == 1 else t for t in tensors]
    assert_right(problem, case, record.run(problem, *given), *given)


@pytest.mark.parametrize("axis", [0, 1], ids=["images", "channels"])
def test_offsets_past_32_bits(axis, device):
    case = Case("", 2, 2, 3, (3, 4))
    problem = case.problem(torch.float16, False, device)
    x, *others = operands(problem)
    assert_right(problem, case, record.run(problem, far_apart(x, axis), *others), x, *others)


def test_every_tile_of_the_tables(device):
    """Tiles that small problems do not get, those of other architectures too, in turns of both memory formats."""
    case = Case("", 1, 16, 17, (2, 16))
    tiles = sorted({t for table in TILES.values() for tiles in table.values() for t in tiles}, key=str)
    for i, tile in enumerate(tiles):
        problem = case.problem(torch.bfloat16, i % 2 == 0, device)
        tensors = operands(problem)
        y = torch.full_like(tensors[-1], float("nan"))
        separable_launch(problem, *tensors, y, tile)()
        assert_right(problem, case, y, *tensors)


def test_the_same_bits_every_time(device):
    problem = CASES[1].problem(torch.float32, True, device)
    tensors = operands(problem)
    assert torch.equal(*(record.run(problem, *tensors) for _ in range(2)))


@each_layout
def test_nothing_is_launched_between(last, device):
    """One launch, and where channels are last one that copies w, if they are not innermost there."""
    problem = CASES[0].problem(torch.bfloat16, last, device)
    x, w, *others = operands(problem)
    innermost = w.movedim(0, -1).contiguous().movedim(-1, 0)
    for given, copied in ((w, last), (innermost, False)):
        with collecting() as launches:
            record.run(problem, x, given, *others)
        assert [launch.kernel.__name__ for launch in launches] == ["_transpose"] * copied + ["separable"]
    assert len(record.copies(problem)) == int(last)


def test_through_the_operator(device):
    """By its name, with the derivatives of the two halves."""
    case = CASES[6]
    problem = case.problem(torch.float32, True, device)
    p, found = problem.depthwise, []
    tensors = [t.requires_grad_() for t in operands(problem)]
    geometry = p.output, p.stride, p.pad, p.dilation
    for y in (
        operator(*tensors, *geometry, "triton.separable", "silu", (), "relu", ()),
        torchs(problem, case, *tensors),
    ):
        found.append([y, *torch.autograd.grad(y.square().sum(), tensors)])
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-3)


# ------------------------------------------------------------------------------------------------------ what it takes


def of_network(c, k, side, taps=3, stride=1, n=64, last=True, adds=False):
    """A layer of a mobile network on an H100, in bfloat16."""
    size = (side // stride,) * 2
    geometry = size, (stride,) * 2, (taps // 2,) * 2, (1, 1), torch.bfloat16, (last, last), ("cuda", 90, "ieee")
    shapes = (n, c, side, side), (c, 1, taps, taps), (k, c, 1, 1)
    return SeparableProblem.of(RELU, Epilogue(), adds, *shapes, *geometry)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"kernel": (9, 3)}, r"the kernel \(9, 3\) has more than 7 taps"),
        ({"k": 16}, "one filter for each channel of x, but got 16 for 8"),
        ({"dtype": torch.float64}, "torch.float64 is none of torch.float32, torch.bfloat16, torch.float16"),
        ({"input": (4,), "kernel": (3,), "output": (4,)}, "2 spatial axes, but the problem has 1"),
        ({"device": "cuda", "arch": 75}, "7.5"),
        ({"channels_last": True}, "one memory format"),
        ({"n": 0}, "no elements"),
        ({"n": 2**26}, "1,073,741,824 pixels"),
    ],
)
def test_refusals_name_the_numbers(change, reason):
    problem = Case("", 1, 8, 8, (4, 4)).problem(torch.float32, False, "cpu")
    assert record.why_not(problem) is None
    assert re.search(reason, record.why_not(replace(problem, depthwise=replace(problem.depthwise, **change))))


def test_bytes_bound_both_where_little_is_computed():
    """96 to 24 channels at stride 2: x once, t twice more where two launches write and read it, y once."""
    x, t, y, w, v = 64 * 96 * 112**2, 64 * 96 * 56**2, 64 * 24 * 56**2, 96 * 9, 96 * 24
    found = cost.predicted(of_network(96, 24, 112, stride=2), 8)
    assert found.one == pytest.approx(2 * (x + y + w + v) / H100.bandwidth)
    assert found.two == pytest.approx(2 * (x + 2 * t + y + w + v) / H100.bandwidth)
    assert found.times == 1


def test_a_residual_is_read_by_both():
    one, two = (cost.predicted(of_network(96, 24, 112, stride=2, adds=adds), 8) for adds in (False, True))
    read = 2 * 64 * 24 * 56**2 / H100.bandwidth
    assert (two.one - one.one, two.two - one.two) == pytest.approx((read, read))


def test_where_it_should_be_slower():
    """More output channels than a program holds, for which t is computed again; or too few programs."""
    for layer in ((144, 24, 56), (128, 128, 56), (192, 32, 28), (256, 256, 28)):
        assert record.slower(of_network(*layer)) is None
    assert "computed 2 times" in record.slower(of_network(512, 512, 14))
    assert "computed 4 times" in record.slower(of_network(1024, 1024, 7))
    assert "two launches 0.2" in record.slower(of_network(960, 160, 7, n=1))


def test_few_tiles_for_all_batches():
    for layer in ((144, 24, 56), (576, 96, 14), (256, 256, 28), (960, 160, 7)):
        for last, vector in ((True, 1), (False, 8), (False, 1)):
            tiles = {cost.choose(of_network(*layer, n=n, last=last), vector) for n in range(1, 65)}
            assert 1 <= len(tiles) <= 3
