"""Banded products against float64: each face, layout and dtype, tile by tile, on problems chosen to be awkward."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from single_face import arch, assert_agrees, far_apart, random_bias
from torch import Tensor

import convext
from convext.choice import registry
from convext.commands import check
from convext.problem import FACES, ConvProblem, Face, layout, output_size
from convext.triton_kernels.banded import record as banded
from convext.triton_kernels.banded import tiles as banded_tiles
from convext.triton_kernels.banded.tiles import BandTile, Plan

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
EACH_FACE = pytest.mark.parametrize("face", FACES)
LAYOUTS = pytest.mark.parametrize("channels_last", [False, True], ids=["NCHW", "NHWC"])


def takes_float32() -> bool:
    """Whether the kernels compute float32 on the GPU under test."""
    return 90 <= arch("cuda") < 120


@dataclass(frozen=True)
class Case:
    """A depthwise convolution at stride 1, and why it is in the list."""

    reason: str
    n: int
    c: int
    input: tuple[int, int]
    kernel: tuple[int, int]
    pad: tuple[int, int]
    output: tuple[int, int] | None = None

    def problem(self, face: Face, dtype: torch.dtype, channels_last: bool, device: str) -> ConvProblem:
        """Of this dtype; in float16 on a GPU whose FMAs are the better float32 (`test_dtype` skips there)."""
        if dtype == torch.float32 and device == "cuda" and not takes_float32():
            dtype = torch.float16
        once = (1, 1)
        output = self.output or output_size(self.input, self.kernel, once, self.pad, self.pad, once)
        return ConvProblem(
            face, self.n, self.c, self.c, self.c, self.input, self.kernel, output, once, self.pad, once, dtype,
            channels_last, device, arch(device), "tf32",
        )  # fmt: skip


CASES = [
    Case("whole vectors and patches", 2, 3, (16, 32), (9, 9), (4, 4)),
    Case("odd sizes: no vectors, rests of patches on both axes", 1, 2, (11, 19), (9, 9), (4, 4)),
    Case("a kernel larger than the image: most taps meet padding only", 3, 2, (7, 7), (13, 13), (6, 6)),
    Case("even kernel, wider than high, vectors of 4 columns", 1, 2, (9, 12), (6, 11), (3, 5)),
    Case("higher than wide", 1, 2, (20, 6), (15, 5), (7, 2)),
    Case("31 x 31: windows of 64 columns", 1, 1, (9, 36), (31, 31), (15, 15)),
    Case("no padding: y is smaller than x, and dgrad pads with all of the kernel", 2, 2, (12, 20), (7, 9), (0, 0)),
    Case("padding beyond the kernel's reach: dgrad's is negative", 1, 2, (6, 8), (5, 5), (7, 13)),
    Case("causal rows, columns padded on one side", 2, 1, (10, 16), (7, 8), (6, 0), (10, 9)),
    Case("fewer outputs than fit: inputs that nothing reads", 1, 2, (14, 24), (5, 7), (2, 3), (9, 13)),
    Case("a window that is wider because it begins before the padding does", 1, 2, (6, 32), (5, 15), (2, 1)),
    Case("one row and one column of outputs", 1, 3, (5, 6), (5, 6), (0, 0)),
    Case("more images than a box holds, one column", 19, 1, (3, 1), (5, 5), (2, 2)),
]
SQUARE = Case("a kernel in the middle of an image", 2, 3, (10, 24), (9, 7), (4, 3))


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.reason)
@EACH_FACE
def test_case(case: Case, face: Face, device: str, bordered: Callable) -> None:
    turn = CASES.index(case) + FACES.index(face)  # each case in every dtype and in both layouts
    problem = case.problem(face, DTYPES[turn % 3], turn % 2 == 0, device)
    a, b = map(bordered, check.operands(problem))
    bias = random_bias(problem)
    assert_agrees(banded, problem, a, b, None if bias is None else bordered(bias))


@pytest.fixture
def _taken(dtype: torch.dtype, device: str) -> None:
    """Skips before memory is poisoned, which wants something to be allocated."""
    if dtype == torch.float32 and device == "cuda" and not takes_float32():
        pytest.skip(f"float32 is left to FMAs on compute capability {arch(device) / 10}")


@pytest.mark.usefixtures("_taken", "poisoned")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@EACH_FACE
@LAYOUTS
def test_dtype(dtype: torch.dtype, face: Face, channels_last: bool, device: str) -> None:
    problem = SQUARE.problem(face, dtype, channels_last, device)
    assert_agrees(banded, problem, *check.operands(problem), random_bias(problem))


def _tiles(kind: str) -> list[BandTile]:
    """Those of every architecture that compute differently: warps and stages are nothing to the interpreter."""
    tiles = (tile for table in banded_tiles.TILES.values() for name in table if kind in name for tile in table[name])
    return sorted({replace(tile, warps=8, stages=1) for tile in tiles}, key=str)


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("tile", _tiles("image"), ids=str)
def test_tile_of_images(tile: BandTile, device: str) -> None:
    problem = SQUARE.problem("dgrad", torch.float16, False, device)
    y, w = check.operands(problem)
    result = torch.empty_like(y)
    for launch in banded.image_launches(problem, y, w, None, result, Plan(problem, tile, 8)):
        launch()
    assert check.agreement(problem, y, w, None, result).ok


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("tile", _tiles("weight"), ids=str)
def test_tile_of_weights(tile: BandTile, device: str) -> None:
    problem = SQUARE.problem("wgrad", torch.float16, False, device)
    x, y = check.operands(problem)
    launch, sums = banded.weight_launch(problem, x, y, y.new_empty(problem.w_shape), Plan(problem, tile, 8))
    launch()
    result = sums.sum(0).view(problem.w_shape).half()
    assert check.agreement(problem, x, y, None, result).ok


# What a gradient looks like when it arrives: of y in dgrad and wgrad, of x in fprop.
VIEWS: dict[str, Callable[[Tensor], Tensor]] = {
    "stride 0, as from sum()": lambda t: t.flatten()[:1].expand(t.shape),
    "stride 0 along images and rows": lambda t: t[:1, :, :1].expand(t.shape),
    "a slice of channels, as from cat()": lambda t: torch.cat([t, t, t], 1)[:, t.shape[1] : 2 * t.shape[1]],
    "a slice of columns, at an odd offset of odd rows": lambda t: torch.cat([t, t[..., :3]], -1)[..., 3:],
    "every second column": lambda t: t.repeat_interleave(2, -1)[..., ::2],
    "every second row": lambda t: t.repeat_interleave(2, -2)[..., ::2, :],
    "the other layout": lambda t: layout.dense(t, t.is_contiguous()),
    "rows and columns swapped": lambda t: t.mT.contiguous().mT,
}


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
@EACH_FACE
def test_strided_operand(view: Callable, face: Face, device: str, bordered: Callable) -> None:
    problem = replace(SQUARE, input=(6, 8)).problem(face, torch.float32, False, device)
    a, b = check.operands(problem)
    a, b = (a, view(b)) if face == "wgrad" else (view(a), b)
    assert_agrees(banded, problem, bordered(a), bordered(b), random_bias(problem))


@pytest.mark.parametrize("face", ["fprop", "dgrad"])
def test_strided_weight_and_bias(face: Face, device: str) -> None:
    problem = SQUARE.problem(face, torch.float32, False, device)
    a, w = check.operands(problem)
    w = w.mT.contiguous().mT[:1].expand_as(w)
    assert_agrees(banded, problem, a, w, torch.randn(1, device=device).expand(3))


@settings(max_examples=20)
@given(data=st.data())
def test_any_problem(data: st.DataObject, device: str) -> None:
    def axes(low: int, high: int) -> tuple[int, int]:
        return data.draw(st.integers(low, high)), data.draw(st.integers(low, high))

    output, kernel, pad, end = axes(1, 20), axes(5, 12), axes(0, 13), axes(-2, 12)
    size = tuple(max(o + k - 1 - p - e, 1) for o, k, p, e in zip(output, kernel, pad, end, strict=True))
    case = Case("drawn", data.draw(st.integers(1, 3)), data.draw(st.integers(1, 2)), size, kernel, pad, output)
    problem = case.problem(data.draw(st.sampled_from(FACES)), torch.float32, data.draw(st.booleans()), device)
    torch.manual_seed(0)
    assert_agrees(banded, problem, *check.operands(problem), random_bias(problem))


@pytest.mark.parametrize("axis", [0, 1], ids=["images", "channels"])
@EACH_FACE
def test_offsets_past_32_bits(face: Face, axis: int, device: str) -> None:
    problem = replace(SQUARE, c=2, input=(6, 8)).problem(face, torch.float16, False, device)
    a, b = check.operands(problem)
    assert_agrees(banded, problem, far_apart(a, axis), b, random_bias(problem))


# ------------------------------------------------------------------------------------------------- the interface


def test_operators_and_their_gradients(device: str) -> None:
    """A layer's forward and backward are the three faces; the gradient that arrives is a slice, as after torch.cat."""
    case = replace(SQUARE, kernel=(9, 9), pad=(4, 4))
    fprop, dgrad, wgrad = (case.problem(face, torch.bfloat16, False, device) for face in FACES)
    x, w = check.operands(fprop)
    x, w = x.requires_grad_(), w.requires_grad_()
    seed = torch.randn(2, 6, 10, 24, device=device).bfloat16()
    with convext.backend("triton.banded"):
        y = convext.functional.conv2d(x, w, padding=4, groups=3)
        torch.cat([y, y.detach()], 1).backward(seed)
    assert torch.equal(y, banded.run(fprop, x, w, None))
    assert torch.equal(x.grad, banded.run(dgrad, seed[:, :3], w, None))
    assert torch.equal(w.grad, banded.run(wgrad, x, seed[:, :3], None))


@EACH_FACE
@LAYOUTS
def test_nothing_to_add(face: Face, channels_last: bool, device: str) -> None:
    for case in (replace(SQUARE, n=0), replace(SQUARE, input=(0, 8), output=(4, 5))):
        problem = case.problem(face, torch.float16, channels_last, device)
        a, b = check.operands(problem)
        bias = random_bias(problem)
        result = banded.run(problem, a, b, bias)
        check.assert_described(problem, result)
        expected = torch.zeros_like(result) if bias is None else bias.view(-1, 1, 1).expand_as(result)
        assert torch.equal(result, expected)


def test_weight_gradients_repeat_bit_by_bit(device: str) -> None:
    problem = replace(SQUARE, n=64, c=1).problem("wgrad", torch.float32, False, device)
    x, y = check.operands(problem)
    launch, sums = banded.weight_launch(problem, x, y, torch.empty(problem.w_shape, device=device))
    assert sums.shape[0] > launch.constants["R"]  # so more than one program adds to a tap
    first = assert_agrees(banded, problem, x, y)
    assert torch.equal(first, banded.run(problem, x, y, None))


def test_a_nan_stays_within_the_windows_that_hold_it(device: str) -> None:
    """It meets zeros of bands, in windows of at most 64 columns and a patch's rows more than the kernel reaches."""
    problem = Case("", 1, 2, (40, 160), (9, 9), (4, 4)).problem("fprop", torch.float32, False, device)
    x, w = check.operands(problem)
    expected = banded.run(problem, x, w, None)
    x[0, 0, 20, 80] = float("nan")
    y = banded.run(problem, x, w, None)
    assert y[0, 0, 16:25, 76:85].isnan().all()
    y[0, 0, 20 - 8 : 20 + 8, 80 - 64 : 80 + 64] = expected[0, 0, 20 - 8 : 20 + 8, 80 - 64 : 80 + 64]
    assert torch.equal(y, expected)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"input": (4,), "kernel": (9,), "output": (4,)}, "1 spatial axes"),
        ({"k": 16}, "8 channels of x and 16 of y"),
        ({"groups": 4}, "groups=4"),
        ({"stride": (1, 2)}, "stride (1, 2)"),
        ({"dilation": (3, 3)}, "dilation (3, 3)"),
        ({"kernel": (9, 3)}, "a kernel of (9, 3)"),
        ({"kernel": (9, 4000)}, "a kernel of (9, 4000), and no tile"),
        ({"dtype": torch.float64}, "float64"),
        ({"precision": "ieee"}, "float32 in 'ieee'"),
        ({"arch": 75}, "7.5"),
        ({"arch": 80}, "float32 on compute capability 8.0"),
        ({"pad": (4, 1 << 30)}, "indices up to 1,073,74"),
    ],
)
def test_refusals_name_the_numbers(change: dict[str, object], reason: str) -> None:
    problem = ConvProblem(
        "fprop",
        1,
        8,
        8,
        8,
        (16, 16),
        (9, 9),
        (16, 16),
        (1, 1),
        (4, 4),
        (1, 1),
        torch.float32,
        False,
        "cuda",
        90,
        "tf32",
    )
    assert banded.why_not(problem) is None
    assert reason in (banded.why_not(replace(problem, **change)) or "takes it")


def test_a_kernel_by_name_refuses_with_its_reason(device: str) -> None:
    x, w = torch.randn(1, 8, 8, 8, device=device).half(), torch.randn(8, 1, 3, 3, device=device).half()
    with convext.backend("triton.banded"), pytest.raises(ValueError, match=r"a kernel of \(3, 3\)"):
        convext.functional.conv2d(x, w, groups=8)


@pytest.mark.parametrize("backend", ["auto", "triton"])
@EACH_FACE
def test_preferred_from_7_by_7_taps_on(face: Face, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry.gpu_table, "nearest", lambda problem: None)
    at_seven = "triton.stencil" if face == "wgrad" else "triton.banded"
    for kernel, name in (((7, 7), at_seven), ((5, 51), "triton.banded"), ((5, 9), "triton.stencil")):
        case = Case("", 32, 64, (56, 56), kernel, (4, 4))
        problem = replace(case.problem(face, torch.bfloat16, False, "cpu"), device="cuda", arch=90)
        assert registry.choose(problem, backend).name == name
        assert registry.choose(problem, "triton.banded").name == "triton.banded"


def test_copies_are_confessed(device: str) -> None:
    def copies(face: Face, channels_last: bool) -> list[str]:
        return banded.copies(SQUARE.problem(face, torch.float16, channels_last, device))

    assert copies("wgrad", False) == []
    (bands,) = copies("fprop", False)
    problem = SQUARE.problem("fprop", torch.float16, False, device)
    x, w = check.operands(problem)
    written = banded.image_launches(problem, x, w, None, torch.empty_like(x))[0].arguments[1]
    assert bands == f"writes w as bands: {written.numel() * 2:,} bytes"
    image = f"{2 * 3 * 10 * 24 * 2:,} bytes"
    x_first, y_first = f"copies x to channels first: {image}", f"copies y to channels first: {image}"
    assert copies("fprop", True) == [bands, x_first, f"copies y to channels last again: {image}"]
    assert copies("dgrad", True) == [bands, f"copies x to channels last again: {image}", y_first]
    assert copies("wgrad", True) == [x_first, y_first]


def test_more_than_two_to_the_31_elements(device: str) -> None:
    if device != "cuda" or torch.cuda.get_device_properties(0).total_memory < 24 << 30:
        pytest.skip("needs a GPU with 24 GB: x and y have 2^31 + 2^21 elements each")
    problem = Case("", 1, 1025, (1024, 2048), (9, 9), (4, 4)).problem("fprop", torch.float16, False, device)
    x = torch.randn(1, 1, 1024, 2048, device=device, dtype=torch.float16).expand(1, 1025, -1, -1).contiguous()
    w = torch.randn(1, 1, 9, 9, device=device, dtype=torch.float16).expand(1025, 1, 9, 9)
    y = banded.run(problem, x, w, None)
    assert torch.equal(y[:, 0], y[:, -1])


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs: one of them is not the current one")
@EACH_FACE
def test_device_that_is_not_current(face: Face) -> None:
    problem = SQUARE.problem(face, torch.float16, False, "cuda")
    a, b = check.operands(problem)
    bias = random_bias(problem)
    expected = banded.run(problem, a, b, bias)
    moved = banded.run(problem, a.to("cuda:1"), b.to("cuda:1"), None if bias is None else bias.to("cuda:1"))
    assert torch.equal(moved.to(expected.device), expected)


@pytest.mark.parametrize("known", banded_tiles.TILES)
def test_a_step_has_as_many_patches_as_its_tile(known: int) -> None:
    """Also where there is one patch a channel: a product of fewer than 16 does not compile."""
    tiles = [tile for row in banded_tiles.TILES[known].values() for tile in row]
    for tile, n, (rows, columns) in product(tiles, (1, 9, 64), [(1, 1), (3, 9), (4, 200), (70, 1), (40, 70)]):
        images, depth, *sides = banded_tiles._box((n, 1, -(-rows // tile.rows), -(-columns // tile.columns)), tile)
        assert depth == 1
        assert images * math.prod(sides) == tile.patches, (tile, n, rows, columns)
