"""The stencil kernels against float64: each face, layout and dtype, tile by tile, on problems chosen to be awkward."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from convext.commands.check import agreement
from convext.problem import FACES, OPERANDS, ConvProblem, Face, layout, output_size
from convext.triton_kernels.stencil import launch as stencil_launch
from convext.triton_kernels.stencil import plan as stencil_plan
from convext.triton_kernels.stencil import record as stencil

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
LAYOUTS = pytest.mark.parametrize("channels_last", [False, True], ids=["NCHW", "NHWC"])
EACH_FACE = pytest.mark.parametrize("face", FACES)


@dataclass(frozen=True)
class Case:
    """A depthwise convolution, and why it is in the list."""

    reason: str
    n: int
    c: int
    input: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    pad: tuple[int, ...]
    dilation: tuple[int, ...]
    multiplier: int = 1
    output: tuple[int, ...] | None = None

    def problem(self, face: Face, dtype: torch.dtype, channels_last: bool, device: str) -> ConvProblem:
        output = self.output or output_size(self.input, self.kernel, self.stride, self.pad, self.pad, self.dilation)
        arch = 0
        if device == "cuda":
            major, minor = torch.cuda.get_device_capability()
            arch = 10 * major + minor
        return ConvProblem(
            face, self.n, self.c, self.c * self.multiplier, self.c, self.input, self.kernel, output,
            self.stride, self.pad, self.dilation, dtype, channels_last, device, arch,
        )  # fmt: skip


CASES = [
    Case("whole chunks of 16 bytes, two strips", 2, 3, (19, 16), (3, 3), (1, 1), (1, 1), (1, 1)),
    Case("odd width: chunks are single columns", 1, 5, (5, 7), (3, 3), (1, 1), (1, 1), (1, 1)),
    Case("no padding: rows of x are aligned, rows of y are not", 1, 3, (6, 16), (3, 3), (1, 1), (0, 0), (1, 1)),
    Case("an even kernel, wider than high", 1, 2, (6, 12), (2, 4), (1, 1), (1, 2), (1, 1)),
    Case("stride 2 on an odd size: the last input is not read", 2, 3, (9, 16), (3, 3), (2, 2), (0, 1), (1, 1)),
    Case("strides that differ and divide nothing", 1, 3, (11, 13), (3, 3), (2, 3), (1, 1), (1, 1)),
    Case("stride beyond the kernel: inputs that no output reads", 1, 2, (9, 12), (2, 1), (3, 4), (0, 0), (1, 1)),
    Case("output_padding: x is longer than y reaches", 1, 2, (8, 8), (3, 3), (2, 2), (1, 1), (1, 1), 1, (3, 3)),
    Case("dilated rows: one residue class is shorter", 1, 2, (13, 16), (3, 3), (1, 1), (2, 4), (2, 4)),
    Case("dilation and stride without a common factor", 1, 2, (14, 16), (3, 3), (2, 2), (3, 3), (3, 3)),
    Case("dilation and stride with one: dgrad cannot slide", 1, 2, (12, 16), (3, 3), (2, 2), (2, 2), (2, 2)),
    Case("padding beyond the kernel's reach: outputs of padding only", 1, 2, (4, 8), (3, 3), (1, 1), (5, 4), (1, 1)),
    Case("taps that only a loop holds", 1, 2, (13, 8), (13, 12), (1, 1), (6, 6), (1, 1)),
    Case("channel multiplier", 2, 3, (5, 8), (3, 3), (1, 1), (1, 1), (1, 1), 3),
    Case("a window that a weight gradient does not roll", 2, 2, (40, 8), (33, 1), (1, 1), (0, 0), (1, 1), 2),
    Case("a row of more taps than one step reads in NHWC", 1, 2, (40,), (87,), (1,), (86,), (2,)),
    Case("one channel", 2, 1, (5, 8), (3, 3), (1, 1), (1, 1), (1, 1)),
    Case("more channels than a thread's vector, not a multiple of it", 1, 20, (4, 5), (3, 3), (1, 1), (1, 1), (1, 1)),
    Case("1-D", 2, 3, (17,), (5,), (2,), (2,), (1,)),
    Case("causal: padding at the beginning only", 2, 8, (24,), (4,), (1,), (3,), (1,), 1, (24,)),
    Case("causal and dilated, one channel multiplier", 1, 3, (18,), (2,), (1,), (4,), (4,), 2, (18,)),
    Case("1-D, more taps than inputs", 1, 2, (9,), (21,), (1,), (10,), (1,)),
    Case("3-D", 1, 2, (4, 5, 8), (3, 3, 3), (1, 1, 1), (1, 1, 1), (1, 1, 1)),
    Case("3-D, every axis different", 2, 2, (5, 4, 6), (2, 3, 1), (2, 1, 3), (1, 1, 0), (1, 2, 1)),
]  # fmt: skip


@pytest.fixture
def one_tile(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[stencil_plan.Tile], None]]:
    """`one_tile(tile)`: the only tile that there is."""
    caches = (stencil_launch.choose, stencil_launch.plan_gather, stencil_launch.plan_wgrad)

    def only(tile: stencil_plan.Tile) -> None:
        monkeypatch.setattr(stencil_plan, "TILES", {0: (tile,)})
        for cache in caches:
            cache.cache_clear()

    yield only
    for cache in caches:
        cache.cache_clear()


def operands(problem: ConvProblem) -> tuple[Tensor, Tensor, Tensor | None]:
    """Random operands in the problem's layout, and a bias for the faces that take one."""

    def draw(role: str) -> Tensor:
        t = torch.randn(problem.shape(role), device=problem.device).to(problem.dtype)
        return layout.dense(t, problem.channels_last and role != "w")

    a, b = (draw(role) for role in OPERANDS[problem.face])
    if problem.face == "wgrad":
        return a, b, None
    return a, b, torch.randn(problem.open_shape[1], device=problem.device).to(problem.dtype)


def check(problem: ConvProblem, a: Tensor, b: Tensor, bias: Tensor | None) -> None:
    found = agreement(problem, a, b, bias, stencil.run(problem, a, b, bias))
    assert found.ok, str(found)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.reason)
@EACH_FACE
@LAYOUTS
def test_case(case: Case, face: Face, channels_last: bool, device: str, poisoned: None, bordered: Callable) -> None:
    dtype = DTYPES[(CASES.index(case) + channels_last) % 4]
    problem = case.problem(face, dtype, channels_last, device)
    a, b, bias = operands(problem)
    assert stencil.why_not(problem) is None
    check(problem, bordered(a), bordered(b), None if bias is None else bordered(bias))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@EACH_FACE
@LAYOUTS
def test_dtype(dtype: torch.dtype, face: Face, channels_last: bool, device: str, poisoned: None) -> None:
    case = Case("every dtype", 2, 3, (5, 8), (3, 2), (2, 1), (1, 1), (1, 1))
    problem = case.problem(face, dtype, channels_last, device)
    check(problem, *operands(problem))


@pytest.mark.parametrize(
    ("tile", "face"),
    [
        (tile, face)
        for tile in stencil_plan.TILES[80]
        for face in FACES
        if face != "wgrad" or tile.channels == 0 or tile.columns <= stencil_plan.STRIDED
    ],
    ids=str,
)
def test_tile(tile: stencil_plan.Tile, face: Face, device: str, one_tile: Callable, poisoned: None) -> None:
    rows = (24, 1) if tile.columns == 1 else (6, 16)  # a row of one column is what tiles of one column are for
    one_tile(tile)
    case = Case("each tile", 1, 9, rows, (3, 1), (1, 1), (1, 0), (1, 1))
    problem = case.problem(face, torch.bfloat16, tile.channels > 0, device)
    assert stencil_launch.choose(problem, 8).tile == tile  # type: ignore[union-attr]
    check(problem, *operands(problem))


@pytest.mark.parametrize(("dtype", "vector"), [(torch.bfloat16, 1), (torch.float16, 1), (torch.float32, 2)])
def test_no_two_halves_in_one_load_of_a_strided_weight_gradient(dtype: torch.dtype, vector: int) -> None:
    """MobileNetV3's 5x5 on 14x14: LLVM in Triton 3.6 ends the process on a load of two elements of 16 bits there."""
    problem = Case("", 2, 8, (14, 14), (5, 5), (2, 2), (2, 2), (1, 1)).problem("wgrad", dtype, False, "cpu")
    problem = replace(problem, device="cuda", arch=90)
    x, y, w = (torch.empty(problem.shape(role), device="meta").stride() for role in "xyw")
    assert stencil_launch.plan_wgrad(problem, x, y, w).constants["X_V"] == vector


# What a gradient looks like when it arrives: of y in dgrad and wgrad, of x in fprop.
VIEWS: dict[str, Callable[[Tensor], Tensor]] = {
    "stride 0, as from sum()": lambda t: t.flatten()[:1].expand(t.shape),
    "stride 0 on the spatial axes, as from mean()": lambda t: t[..., :1, :1].expand(t.shape),
    "a slice of channels, as from cat()": lambda t: torch.cat([t, t, t], 1)[:, t.shape[1] : 2 * t.shape[1]],
    "a slice of columns that starts at an odd offset": lambda t: torch.cat([t, t], -1)[..., 3 : 3 + t.shape[-1]],
    "every second column": lambda t: t.repeat_interleave(2, -1)[..., ::2],
    "the other layout": lambda t: layout.dense(t, t.is_contiguous()),
    "rows and columns swapped": lambda t: t.mT.contiguous().mT,
}


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
@EACH_FACE
@LAYOUTS
def test_strided_operand(
    view: Callable[[Tensor], Tensor], face: Face, channels_last: bool, device: str, poisoned: None, bordered: Callable
) -> None:
    case = Case("strides", 2, 3, (6, 8), (3, 3), (1, 1), (1, 1), (1, 1))
    problem = case.problem(face, torch.float32, channels_last, device)
    a, b, bias = operands(problem)
    a, b = (a, view(b)) if face == "wgrad" else (view(a), b)
    check(problem, bordered(a), bordered(b), bias)


def test_strided_weight_and_bias(device: str, poisoned: None) -> None:
    problem = Case("strides", 1, 3, (6, 8), (3, 3), (1, 1), (1, 1), (1, 1)).problem(
        "fprop", torch.float32, False, device
    )
    x, w, _ = operands(problem)
    w = w.mT.contiguous().mT[:1].expand(3, 1, 3, 3)
    check(problem, x, w, torch.randn(1, device=device).expand(3))


@settings(max_examples=30, derandomize=True)
@given(data=st.data())
def test_any_problem(data: st.DataObject, device: str) -> None:
    rank = data.draw(st.integers(1, 3))

    def axes(low: int, high: int) -> tuple[int, ...]:
        return tuple(data.draw(st.lists(st.integers(low, high), min_size=rank, max_size=rank)))

    output, kernel, stride, pad, dilation = axes(1, 7), axes(1, 4), axes(1, 3), axes(0, 3), axes(1, 3)
    end = axes(-2, 2)
    size = tuple(
        max((o - 1) * s + d * (k - 1) + 1 - p - e, 1)
        for o, k, s, p, d, e in zip(output, kernel, stride, pad, dilation, end, strict=True)
    )
    case = Case(
        "drawn", data.draw(st.integers(1, 2)), data.draw(st.integers(1, 5)), size, kernel, stride, pad, dilation,
        data.draw(st.integers(1, 2)), output,
    )  # fmt: skip
    face = data.draw(st.sampled_from(FACES))
    problem = case.problem(face, torch.float32, data.draw(st.booleans()), device)
    reason = stencil.why_not(problem)
    if reason is not None:
        assert face == "dgrad"
        assert "share a factor" in reason
        return
    torch.manual_seed(0)
    check(problem, *operands(problem))


# ------------------------------------------------------------------------------------------------- the interface


@LAYOUTS
def test_operators_and_their_gradients(channels_last: bool, device: str) -> None:
    x, w, b = (torch.randn(s, dtype=torch.float64, device=device) for s in ((2, 3, 6, 7), (6, 1, 3, 3), (6,)))
    x = layout.dense(x, channels_last)
    inputs = [t.requires_grad_() for t in (x, w, b)]
    y = torch.ops.convext.fprop(x, w, b, [6, 7], [1, 1], [1, 1], [1, 1], 3, "triton.stencil")
    expected = torch.nn.functional.conv2d(x, w, b, padding=1, groups=3)
    seed = torch.randn_like(y)
    torch.testing.assert_close(y, expected)
    for ours, theirs in zip(
        torch.autograd.grad(y, inputs, seed), torch.autograd.grad(expected, inputs, seed), strict=True
    ):
        torch.testing.assert_close(ours, theirs)


def test_transposed_depthwise(device: str) -> None:
    y, w = torch.randn(2, 3, 4, 5, device=device), torch.randn(3, 1, 4, 4, device=device)
    x = torch.ops.convext.dgrad(y, w, None, [8, 10], [2, 2], [1, 1], [1, 1], 3, "triton.stencil")
    expected = torch.nn.functional.conv_transpose2d(y.double(), w.double(), stride=2, padding=1, groups=3)
    torch.testing.assert_close(x.double(), expected, rtol=1e-5, atol=1e-5)


@EACH_FACE
@LAYOUTS
def test_nothing_to_add(face: Face, channels_last: bool, device: str) -> None:
    case = Case("no images", 0, 3, (5, 8), (3, 3), (1, 1), (1, 1), (1, 1))
    problem = case.problem(face, torch.float32, channels_last, device)
    a, b, bias = operands(problem)
    result = stencil.run(problem, a, b, bias)
    assert result.shape == problem.open_shape
    assert not result.any()


def test_weight_gradients_repeat_bit_by_bit(device: str) -> None:
    problem = Case("parts", 4, 2, (33, 24), (3, 3), (1, 1), (1, 1), (1, 1)).problem(
        "wgrad", torch.float32, False, device
    )
    x, y, _ = operands(problem)
    assert stencil_launch.plan_wgrad(problem, x.stride(), y.stride(), (9, 9, 3, 1)).parts > 1
    assert torch.equal(stencil.run(problem, x, y, None), stencil.run(problem, x, y, None))


def test_inputs_that_no_output_reads_do_not_matter(device: str) -> None:
    problem = Case("stride 2", 1, 2, (8, 8), (3, 3), (2, 2), (0, 0), (1, 1)).problem(
        "wgrad", torch.float32, False, device
    )
    x, y, _ = operands(problem)
    expected = stencil.run(problem, x, y, None)
    x[..., 7, :] = x[..., 7] = float("nan")
    assert torch.equal(stencil.run(problem, x, y, None), expected)


def test_refusals_have_the_numbers_in_them(device: str) -> None:
    case = Case("", 1, 4, (6, 6, 6), (3, 3, 3), (2, 2, 2), (2, 2, 2), (2, 2, 2))
    problem = case.problem("dgrad", torch.float32, False, device)
    assert stencil.why_not(problem) == "dilation 2 and stride 2 of axis 1 share a factor"
    grouped = replace(problem, groups=2)
    assert stencil.why_not(grouped) == "groups=2 differ from the 4 channels of x"


def test_copies_are_confessed(device: str) -> None:
    small = Case("", 1, 4, (8, 8), (3, 3), (1, 1), (1, 1), (1, 1))
    large = Case("", 1, 4, (8, 8), (31, 31), (1, 1), (15, 15), (1, 1))
    for channels_last in (False, True):
        assert stencil.copies(small.problem("fprop", torch.float32, channels_last, device)) == []
    assert stencil.copies(large.problem("fprop", torch.float32, False, device)) == []
    assert stencil.copies(large.problem("fprop", torch.float32, True, device)) == [
        "puts the channels of w last in a copy: 15,376 bytes"
    ]


def test_counts_beyond_32_bits() -> None:
    """Lanes are counted in 64 bits where there are that many, and the grid has one axis, of at most 2^31 - 1."""
    case = Case("", 1 << 20, 64, (63, 63), (3, 3), (1, 1), (1, 1), (1, 1))
    problem = case.problem("fprop", torch.bfloat16, False, "cpu")
    strides = (64 * 63 * 63, 63 * 63, 63, 1)
    plan = stencil_launch.plan_gather(problem, strides, (9, 9, 3, 1), strides)
    assert plan.constants["WIDE"]
    assert plan.programs < 2**31


def test_more_than_two_to_the_31_elements(device: str) -> None:
    if device != "cuda" or torch.cuda.get_device_properties(0).total_memory < 24 << 30:
        pytest.skip("needs a GPU with 24 GB: x and y have 2^31 + 2^21 elements each")
    case = Case("", 1, 1025, (1024, 2048), (3, 3), (1, 1), (1, 1), (1, 1))
    problem = case.problem("fprop", torch.float16, False, device)
    x = torch.randn(1, 1, 1024, 2048, device=device, dtype=torch.float16).expand(1, 1025, -1, -1).contiguous()
    w = torch.randn(1, 1, 3, 3, device=device, dtype=torch.float16).expand(1025, 1, 3, 3).contiguous()
    y = stencil.run(problem, x, w, None)
    assert torch.equal(y[:, 0], y[:, -1])


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs: one of them is not the current one")
@EACH_FACE
def test_device_that_is_not_current(face: Face) -> None:
    case = Case("", 1, 3, (5, 8), (3, 3), (1, 1), (1, 1), (1, 1))
    problem = case.problem(face, torch.float32, False, "cuda")
    a, b, bias = operands(problem)
    expected = stencil.run(problem, a, b, bias)
    moved = stencil.run(problem, a.to("cuda:1"), b.to("cuda:1"), None if bias is None else bias.to("cuda:1"))
    assert torch.equal(moved.to(expected.device), expected)
