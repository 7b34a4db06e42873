"""The implicit GEMM: every face, in both layouts and every dtype, on small odd problems, against float64.

A problem is here because it once broke a kernel, or because a kernel takes another path for it; the reason is its name.
Each is computed by every plan that differs in kind: through pointers and through boxes, whole and in parts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from convext import precision
from convext.commands.check import agreement, operands
from convext.problem import FACES, OPERANDS, ConvProblem, Face, layout, output_size
from convext.triton_kernels.igemm import record as igemm
from convext.triton_kernels.igemm import tiles as igemm_tiles
from convext.triton_kernels.igemm.tiles import Plan, planned
from convext.triton_kernels.launch import collecting
from convext.triton_kernels.passes.transpose import copied_bytes
from convext.triton_kernels.tiles import Tile, legal

SMALL = Tile(32, 32, 64, 4, 2)  # one tile for every plan under test: few compilations, more than one block a problem


@dataclass(frozen=True)
class Case:
    """A convolution of x [n, c, *input] with k filters of `kernel`; symmetric padding where no `output` is given."""

    reason: str
    n: int
    c: int
    k: int
    input: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    pad: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int = 1
    output: tuple[int, ...] | None = None

    def problem(self, face: Face, dtype: torch.dtype, channels_last: bool, device: str) -> ConvProblem:
        arch = 10 * torch.cuda.get_device_capability()[0] if device == "cuda" else 0
        output = self.output or output_size(self.input, self.kernel, self.stride, self.pad, self.pad, self.dilation)
        return ConvProblem(
            face, self.n, self.c, self.k, self.groups, self.input, self.kernel, output, self.stride, self.pad,
            self.dilation, dtype, channels_last, device, arch, "ieee",
        )  # fmt: skip


CASES = (
    Case("dense 3x3, channels and pixels that fill no tile", 2, 24, 40, (5, 7), (3, 3), (1, 1), (1, 1), (1, 1)),
    Case("odd channels: every element loaded by itself", 1, 5, 3, (6, 5), (3, 2), (1, 1), (1, 0), (1, 1)),
    Case("1-D, even kernel, stride that leaves trailing input unread", 2, 8, 16, (19,), (4,), (3,), (2,), (1,)),
    Case("3-D, no two axes alike", 1, 4, 6, (4, 5, 6), (2, 3, 2), (2, 1, 2), (1, 0, 1), (1, 2, 3)),
    Case("stride 2: four phases with 4, 2, 2 and 1 taps", 1, 8, 8, (7, 6), (3, 3), (2, 2), (1, 1), (1, 1)),
    Case("k < s: phases without taps", 2, 8, 8, (7, 8), (1, 2), (3, 3), (0, 1), (1, 1)),
    Case("stride and dilation share a factor: phases between taps", 1, 8, 8, (9, 9), (3, 2), (2, 4), (1, 2), (2, 2)),
    Case("dilation beyond the map: only the middle tap reads inside", 1, 16, 8, (5, 5), (3, 3), (1, 1), (6, 6), (6, 6)),
    Case("nothing but padding is read", 1, 8, 8, (2, 2), (1, 1), (2, 2), (3, 3), (1, 1), output=(1, 1)),
    Case("causal: padding at the beginning only", 2, 8, 8, (9,), (3,), (1,), (4,), (2,), output=(9,)),
    Case("an output longer than the input reaches", 1, 8, 8, (4, 4), (3, 3), (1, 1), (1, 1), (1, 1), output=(7, 5)),
    Case("groups of 16 channels", 1, 32, 64, (5, 4), (3, 3), (1, 1), (1, 1), (1, 1), groups=2),
    Case("groups of 3 and 2 channels", 1, 12, 8, (5, 4), (3, 2), (2, 1), (1, 1), (1, 1), groups=4),
    Case("depthwise with a channel multiplier", 2, 3, 6, (6,), (3,), (1,), (1,), (2,), groups=3),
    Case("one pixel, many channels: the sum is split", 1, 200, 8, (1, 1), (1, 1), (1, 1), (0, 0), (1, 1)),
    Case("one channel each way", 1, 1, 1, (6, 6), (5, 5), (1, 1), (2, 2), (1, 1)),
)  # fmt: skip
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def draw(problem: ConvProblem, bordered: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor, Tensor | None]:
    """Operands between NaNs, and a bias for the faces that take one."""
    a, b = operands(problem)
    bias = None
    if problem.face != "wgrad":
        bias = torch.randn(problem.open_shape[1], device=problem.device).to(problem.dtype)
    return bordered(a), bordered(b), bias


def plans(problem: ConvProblem) -> Iterator[Plan]:
    """Plans of the kinds that `run` does not choose for so small a problem."""
    yield planned(problem, SMALL, 3, False)
    whole = problem.groups == 1 or igemm_tiles.product_of(problem).depth % SMALL.steps(2) == 0
    if whole and igemm_tiles.why_not_boxes(problem) is None:
        yield planned(problem, SMALL, 1, True)
        yield planned(problem, SMALL, 2, True)


def check(problem: ConvProblem, a: Tensor, b: Tensor, bias: Tensor | None, result: Tensor) -> None:
    found = agreement(problem, a, b, bias, result)
    assert found.ok, f"{problem}: {found}"
    assert result.stride() == layout.empty(problem.open_shape, problem.channels_last, a).stride()


@pytest.mark.parametrize("channels_last", [True, False], ids=["last", "first"])
@pytest.mark.parametrize("face", FACES)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.reason)
def test_face(
    case: Case, face: Face, channels_last: bool, device: str, poisoned: None, bordered: Callable[[Tensor], Tensor]
) -> None:
    """`run`, in a dtype that turns from case to case, so that each meets each face and layout."""
    dtype = DTYPES[(CASES.index(case) + FACES.index(face) + channels_last) % len(DTYPES)]
    problem = case.problem(face, dtype, channels_last, device)
    assert igemm.why_not(problem) is None
    a, b, bias = draw(problem, bordered)
    check(problem, a, b, bias, igemm.run(problem, a, b, bias))


@pytest.mark.long
@pytest.mark.parametrize("face", FACES)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.reason)
def test_plans(case: Case, face: Face, device: str, poisoned: None, bordered: Callable[[Tensor], Tensor]) -> None:
    """Sums in parts, and operands in boxes, give what the whole sum through pointers gives."""
    problem = case.problem(face, torch.bfloat16, (CASES.index(case) + FACES.index(face)) % 2 == 0, device)
    a, b, bias = draw(problem, bordered)
    a, b = layout.dense(a, channels_last=True), layout.dense(b, channels_last=True)
    for plan in plans(problem):
        result = layout.empty(problem.open_shape, problem.channels_last, a)
        check(problem, a, b, bias, igemm.compute(problem, a, b, bias, result, plan))


@st.composite
def problems(draw: st.DrawFn) -> ConvProblem:
    """Convolutions of up to three axes that are small enough to interpret, with every field drawn on its own."""
    rank = draw(st.integers(1, 3))

    def axes(low: int, high: int) -> tuple[int, ...]:
        return tuple(draw(st.integers(low, high)) for _ in range(rank))

    groups = draw(st.sampled_from((1, 1, 2, 3)))
    return ConvProblem(
        draw(st.sampled_from(FACES)), draw(st.integers(1, 2)),
        groups * draw(st.integers(1, 9)), groups * draw(st.integers(1, 9)), groups,
        axes(1, 6), axes(1, 3), axes(1, 6), axes(1, 3), axes(0, 3), axes(1, 3),
        draw(st.sampled_from(DTYPES)), draw(st.booleans()),
    )  # fmt: skip


@settings(max_examples=15, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(problem=problems())
def test_drawn_problems(problem: ConvProblem, device: str) -> None:
    """Any output size with any geometry: the equation has no illegal combination."""
    if device == "cuda":
        problem = replace(problem, device=device, arch=10 * torch.cuda.get_device_capability()[0])
    a, b = operands(problem)
    bias = None if problem.face == "wgrad" else torch.randn(problem.open_shape[1], device=device).to(problem.dtype)
    check(problem, a, b, bias, igemm.run(problem, a, b, bias))


FORMS: dict[str, Callable[[Tensor], Tensor]] = {
    "a slice of channels, as torch.cat hands back": lambda t: torch.cat([t, t], 1)[:, : t.shape[1]],
    "every other column": lambda t: t.repeat_interleave(2, -1)[..., ::2],
    "stride 0, as a sum's gradient": lambda t: t[:1, :1, :1, :1].expand(t.shape),
    "stride 0 on the batch only": lambda t: t[:1].expand(t.shape),
    "axes out of order": lambda t: t.permute(3, 0, 2, 1).contiguous().permute(1, 3, 2, 0),
    "storage offset that is no multiple of 16 bytes": lambda t: torch.cat([t.new_zeros(3), t.flatten()])[3:].view_as(t),
    "channels last": lambda t: t.contiguous(memory_format=torch.channels_last),
}  # fmt: skip


@pytest.mark.parametrize("face", FACES)
@pytest.mark.parametrize("form", FORMS)
def test_operands_as_they_come(form: str, face: Face, device: str, poisoned: None) -> None:
    """Strides are read, never assumed."""
    case = Case(form, 2, 8, 16, (4, 5), (3, 2), (1, 1), (1, 0), (1, 1))
    problem = case.problem(face, torch.bfloat16, False, device)
    a, b = operands(problem)
    for first, second in ((FORMS[form](a), b), (a, FORMS[form](b))):
        check(problem, first, second, None, igemm.run(problem, first, second, None))


@pytest.mark.parametrize(
    "strides", [(1 << 31, 1, 24, 8), (9, 1 << 28, 3, 1)], ids=["from image to image", "over the channels of one"]
)
@pytest.mark.parametrize("face", FACES)
def test_offsets_past_32_bits(face: Face, strides: tuple[int, ...], device: str) -> None:
    """Operands that span more than 2^31 elements; nothing in between is touched."""
    problem = Case("", 2, 9, 9, (3, 3), (2, 2), (1, 1), (0, 0), (1, 1)).problem(face, torch.float16, True, device)
    a, b = operands(problem)
    far = torch.empty((1 << 31) + (1 << 29), dtype=a.dtype, device=device).as_strided(a.shape, strides).copy_(a)
    check(problem, far, b, None, igemm.run(problem, far, b, None))


@pytest.mark.parametrize("channels_last", [True, False], ids=["last", "first"])
def test_through_the_operators(channels_last: bool, device: str) -> None:
    """By name through torch.ops, and back through autograd: a sliced gradient, and all three derivatives."""
    x = layout.dense(torch.randn(2, 6, 7, 5, device=device), channels_last).requires_grad_()
    w = torch.randn(4, 3, 3, 2, device=device, requires_grad=True)
    bias = torch.randn(4, device=device, requires_grad=True)

    def loss(x: Tensor, w: Tensor, bias: Tensor, kernel: str) -> Tensor:
        y = torch.ops.convext.fprop(x, w, bias, (4, 5), (2, 1), (1, 0), (1, 1), 2, kernel)
        return (torch.cat([y, y * y], 1) ** 2).mean()

    with precision("ieee"):
        found = torch.autograd.grad(loss(x, w, bias, "triton.igemm"), (x, w, bias))
    expected = torch.autograd.grad(loss(*(t.double() for t in (x, w, bias)), "aten"), (x, w, bias))
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("n", "c"), [(0, 4), (2, 0)])
@pytest.mark.parametrize("face", FACES)
def test_sums_over_nothing(face: Face, n: int, c: int, device: str) -> None:
    """A zero batch and no channels: an empty result, or the bias."""
    problem = Case("", n, c, 3, (4, 5), (3, 3), (1, 1), (1, 1), (1, 1)).problem(face, torch.float32, True, device)
    a, b = operands(problem)
    bias = None if face == "wgrad" else torch.randn(problem.open_shape[1], device=device)
    check(problem, a, b, bias, igemm.run(problem, a, b, bias))


def test_copies_are_named(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """`copies` names what `run` copies: operands that are read often enough, then the result as well, or nothing."""
    few = Case("", 1, 16, 16, (4, 4), (1, 1), (1, 1), (0, 0), (1, 1)).problem("fprop", torch.float32, False, device)
    many = Case("", 8, 512, 512, (28, 28), (3, 3), (1, 1), (1, 1), (1, 1)).problem(
        "fprop", torch.float32, False, device
    )
    assert igemm.copies(few) == []
    assert [line.split()[1] for line in igemm.copies(many)] == ["x", "w", "y"]
    assert igemm.copies(replace(many, channels_last=True)) == []
    copied: list[Tensor] = []
    dense = igemm.dense
    monkeypatch.setattr(igemm, "dense", lambda t, channels_last: copied.append(t) or dense(t, channels_last))
    monkeypatch.setattr(igemm, "compute", lambda problem, a, b, bias, result, plan, after: result)
    for problem in (few, many):
        copied.clear()
        a, b = operands(problem)
        igemm.run(problem, a, b, None)
        assert [t.shape for t in copied] == [problem.shape(line.split()[1]) for line in igemm.copies(problem)]


def test_refusals_have_their_numbers() -> None:
    problem = CASES[0].problem("fprop", torch.float32, True, "cpu")
    assert "torch.int32" in str(igemm.why_not(replace(problem, dtype=torch.int32)))
    assert "7.5" in str(igemm.why_not(replace(problem, device="cuda", arch=75)))
    assert "536,870,912" in str(igemm.why_not(replace(problem, input=(1 << 30, 1))))


@pytest.mark.parametrize(("unit", "size"), [(8, (256, 128)), (4, (128, 128)), (2, (128, 64))])
def test_narrow_copies_take_smaller_tiles(unit: int, size: tuple[int, int]) -> None:
    """Addresses of copies of 16, 8 and 4 bytes beside the sums of a tile, in a thread's registers."""
    problem = ConvProblem(
        "fprop", 32, 256, 256, 1, (56, 56), (3, 3), (56, 56), (1, 1), (1, 1), (1, 1), torch.bfloat16, True, "cuda", 90
    )
    tile = igemm_tiles.choose(problem, unit=unit).tile
    assert (tile.rows, tile.columns) == size


@pytest.mark.parametrize("groups", [1, 32])
@pytest.mark.parametrize("arch", igemm_tiles.TILES)
def test_long_sums_of_few_channels_are_shared_among_the_multiprocessors(arch: int, groups: int) -> None:
    """Also where every tile is larger than the product of a tap."""
    channels, space = 32, (64, 64, 64)
    problem = ConvProblem(
        "wgrad", 2, groups * channels, groups * channels, groups, space, (3, 3, 3), space, (1, 1, 1), (1, 1, 1),
        (1, 1, 1), torch.bfloat16, True, "cuda", arch,
    )  # fmt: skip
    plan = igemm_tiles.choose(problem)
    assert igemm_tiles.blocks(problem, plan) >= igemm_tiles.multiprocessors(problem)
    assert plan.parts > 1 or groups == 32


@pytest.mark.parametrize("arch", igemm_tiles.TILES)
@pytest.mark.parametrize("precision", ["ieee", "tf32", "tf32x3"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_problem_has_a_legal_tile(arch: int, precision: str, dtype: torch.dtype) -> None:
    for case in CASES:
        for face in FACES:
            problem = replace(case.problem(face, dtype, True, "cpu"), arch=arch, precision=precision)
            for scalar in (True, False):
                assert legal(igemm_tiles.choose(problem, scalar, boxes=True).tile, problem) is None


@pytest.mark.parametrize(("face", "channels"), [("fprop", (40, 80)), ("dgrad", (24, 48))])
def test_copies_are_read_in_vectors_whatever_the_result_is(face: Face, channels: tuple[int, int]) -> None:
    """Operands in NCHW are copied to channels last where that pays, and the result is copied back."""
    problem = ConvProblem(
        face, 32, *channels, 1, (112, 112), (3, 3), (56, 56), (2, 2), (1, 1), (1, 1), torch.bfloat16, False, "cuda", 90
    )
    assert len(igemm.copies(problem)) == 3
    like = torch.empty((), dtype=problem.dtype, device="meta")
    a, b = (layout.empty(problem.shape(role), False, like) for role in OPERANDS[face])
    with collecting() as launches:
        igemm.run(problem, a, b, None)
    (launch,) = (launch for launch in launches if not copied_bytes(launch))
    assert launch.constants["UNIT"] == 8


def test_weights_are_not_scattered_from_the_largest_tile() -> None:
    """A sum of 4x4 weights in NCHW that is not split is stored element by element, and its tile has 64 a thread."""
    problem = ConvProblem(
        "wgrad", 16, 512, 1024, 1, (16, 16), (4, 4), (8, 8), (2, 2), (1, 1), (1, 1), torch.bfloat16, False, "cuda", 90
    )
    plan, beside = igemm_tiles.choose(problem), igemm_tiles.choose(replace(problem, channels_last=True))
    assert (plan.parts, plan.tile.rows * plan.tile.columns) == (1, 128 * 128)
    assert (beside.parts, beside.tile.rows * beside.tile.columns) == (1, 256 * 128)
