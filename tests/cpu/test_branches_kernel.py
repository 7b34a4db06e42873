"""cpu.branches on every instruction set: values against float64, memory, threads, and which problems "auto" takes."""

import ctypes
import platform
import re

import pytest
import torch
from test_kernels import constant, misaligned, sliced, strided

from convext.choice import branches as records
from convext.problem import layout, output_size
from convext.problem.branches import BranchesProblem
from convext.providers.cpu import branches, library

CONVS = {1: torch.conv1d, 2: torch.conv2d, 3: torch.conv3d}
# n, c, groups, input, stride, then of each branch: k, kernel, padding, dilation; one value serves all axes
PROBLEMS = {
    "dense": (2, 3, 1, (13, 21), 1, [(16, (3, 3), d, d) for d in (1, 2, 5)]),
    "dense, k of many kinds": (1, 5, 1, (9, 14), 1, [(1, (1, 1), 0, 1), (20, (3, 3), 2, 2), (37, (5, 5), 2, 1)]),
    "stride 2": (1, 4, 1, (9, 26), 2, [(17, (3, 3), 1, 1), (8, (3, 3), 2, 2), (3, (1, 1), 0, 1)]),
    "depthwise": (2, 19, 19, (11, 14), 1, [(19, (3, 3), d, d) for d in (1, 3, 6)]),
    "depthwise, multiplier": (1, 4, 4, (12, 9), 1, [(8, (3, 3), 1, 1), (4, (5, 5), 4, 2)]),
    "groups": (1, 8, 2, (9, 10), 1, [(6, (3, 3), 1, 1), (10, (3, 3), 3, 3)]),
    "1d": (2, 3, 1, (150,), 1, [(5, (3,), d, d) for d in (1, 8, 16)]),
    # the first branch is computed in parts, of every so many planes and rows (faces/atrous.h)
    "3d far taps": (1, 2, 1, (15, 16, 9), 1, [(4, (5, 3, 2), (16, 9, 0), (8, 9, 1)), (3, (1, 1, 2), 0, 1)]),
    "one branch": (1, 3, 1, (8, 9), 1, [(4, (3, 3), 2, 2)]),
}
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
FORMATS = pytest.mark.parametrize("last", [False, True], ids=["first", "last"])


def problem(name, dtype=torch.float32, last=False):
    n, c, groups, input, stride, parts = PROBLEMS[name]
    rank = len(input)
    axes = lambda value: value if isinstance(value, tuple) else (value,) * rank  # noqa: E731
    pad, dilation = ([v for part in parts for v in axes(part[i])] for i in (2, 3))
    _, kernel, begin, step = parts[0]
    size = output_size(input, kernel, axes(stride), axes(begin), axes(begin), axes(step))
    w = [(k, c // groups, *kernel) for k, kernel, *_ in parts]
    return BranchesProblem.of((n, c, *input), w, size, axes(stride), pad, dilation, groups, dtype, last)


def operands(p):
    """x in the problem's memory format, the weights, and a bias for every second branch."""
    dtype = p.parts[0].dtype
    x = layout.dense(torch.randn(p.parts[0].x_shape).to(dtype), p.parts[0].channels_last)
    w = [torch.randn(part.w_shape).to(dtype) for part in p.parts]
    return x, w, [torch.randn(part.k).to(dtype) if i % 2 == 0 else None for i, part in enumerate(p.parts)]


def torchs(p, x, w, bias):
    found = []
    for part, weight, b in zip(p.parts, w, bias, strict=True):
        pads = [side for pair in zip(reversed(part.pad), reversed(part.end), strict=True) for side in pair]
        padded = torch.nn.functional.pad(x, pads)
        found.append(CONVS[part.rank](padded, weight, b, part.stride, 0, part.dilation, part.groups))
    return torch.cat(found, 1)


def assert_right(p, y, x, w, bias):
    """By the tolerance rule: twice the error of torch's convolutions, and two units in the last place."""
    exact = torchs(p, x.double(), [t.double() for t in w], [b if b is None else b.double() for b in bias])
    allowed = 2 * (torchs(p, x, w, bias) - exact).abs().max() + 2 * torch.finfo(y.dtype).eps * exact.abs().max()
    assert y.shape == exact.shape
    assert y.dtype is x.dtype
    assert (y.movedim(1, -1) if p.parts[0].channels_last else y).is_contiguous()
    assert (y - exact).abs().max() <= allowed, p


@FORMATS
@pytest.mark.parametrize("name", PROBLEMS)
def test_agrees_with_float64(isa, name, last):
    for dtype in DTYPES:
        p = problem(name, dtype, last)
        tensors = operands(p)
        assert_right(p, branches.convolve(isa, p, *tensors), *tensors)


@pytest.mark.parametrize("name", PROBLEMS)
def test_float64_is_exact_on_integers(isa, name):
    p = problem(name, torch.float64)
    x, w, _ = operands(p)
    x, w, none = x.mul(4).round(), [t.mul(4).round() for t in w], [None] * len(w)
    assert torch.equal(branches.convolve(isa, p, x, w, none), torchs(p, x, w, none))


@pytest.mark.parametrize("change", [strided, sliced, misaligned, constant])
def test_operands_of_any_strides(isa, change):
    for name in ("dense", "stride 2", "depthwise", "3d far taps"):
        p = problem(name)
        x, w, bias = operands(p)
        tensors = change(x), [change(t) for t in w], [b if b is None else strided(b) for b in bias]
        before = [t.clone() for t in (tensors[0], *tensors[1])]
        assert_right(p, branches.convolve(isa, p, *tensors), *tensors)
        assert all(map(torch.equal, (tensors[0], *tensors[1]), before)), "an operand was written to"


@FORMATS
@pytest.mark.parametrize("name", PROBLEMS)
def test_any_number_of_threads_gives_the_same_bits(isa, name, last, threads):
    p = problem(name, last=last)
    tensors = operands(p)
    threads(1)
    expected = branches.convolve(isa, p, *tensors)
    for count in (2, 7):
        threads(count)
        assert torch.equal(branches.convolve(isa, p, *tensors), expected)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc fills what it allocates")
def test_what_was_not_written_is_not_read(isa):
    """All that is allocated is NaN: scratch, weights in the kernel's order, and the result."""
    mallopt, perturb = ctypes.CDLL(None).mallopt, -6
    for name in PROBLEMS:
        for last in (False, True):
            p = problem(name, last=last)
            tensors = operands(p)
            mallopt(perturb, 0x100)  # of which the last byte's complement is 0xff
            try:
                assert torch.empty(100_000).isnan().all()
                y = branches.convolve(isa, p, *tensors)
            finally:
                mallopt(perturb, 0)
            assert_right(p, y, *tensors)


def test_what_the_library_refuses(isa):
    p = problem("dense")
    x, w, _ = operands(p)
    size, geometry = (13, 21), ((1, 1), [1, 1, 2, 2, 5, 5], [1, 1, 2, 2, 5, 5], 1, False)
    b, op = torch.zeros(48), torch.ops.convext_cpu.branches
    for given, reason in (
        ((isa, x, [], b, size, *geometry), "a branch or more"),
        (
            (isa, x, w[:2], b, size, *geometry),
            r"pad to be a list of 2 values for each of 2 branches, but got \[1, 1, 2",
        ),
        ((isa, x, w, b[1:], size, *geometry), r"bias of shape \[48\] and stride 1, but got shape \[47\]"),
        ((isa, x, w, torch.zeros(96)[::2], size, *geometry), "and stride 2"),
        ((isa, x, [*w[:2], w[2].double()], b, size, *geometry), "b to be Float, as a is, but got Double"),
        (
            (isa, x[:, :2], w, b, size, *geometry),
            r"channels of a fprop with groups=1, but got a of shape \[2, 2, 13, 21\]",
        ),
        (("mmx", x, w, b, size, *geometry), "an instruction set of this machine and library, but got mmx"),
    ):
        with pytest.raises(RuntimeError, match=reason):
            op(*given)


def block(c, k, side, dilations=(1, 2, 4), taps=3, groups=1, n=1, last=False, **changed):
    """Branches of one size, at stride 1 and padded to the size of the map."""
    values = [d for d in dilations for _ in range(2)]
    pad = [d * (taps - 1) // 2 for d in values]
    w = [(k, c // groups, taps, taps)] * len(dilations)
    size, dtype = (side, side), changed.get("dtype", torch.float32)
    return BranchesProblem.of((n, c, *size), w, size, (1, 1), pad, values, groups, dtype, last)


def test_auto_takes_what_was_measured_to_win(monkeypatch):
    if reason := library.unavailable():
        pytest.skip(reason)
    monkeypatch.setattr(library, "machine", lambda: branches.MEASURED)
    for p in (
        block(3, 64, 224, (1, 2, 4, 8, 16)), block(3, 64, 32, last=True), block(8, 8, 64), block(12, 20, 64, taps=1),
        block(64, 64, 56, groups=64), block(256, 256, 14, groups=256, last=True),
    ):  # fmt: skip
        assert branches.slower(p) is None
        assert records.choose(p).name == "cpu.branches"
    for p, reason in (
        (block(16, 16, 64), "up to 12 channels of x and 75 products .* but got 16 and 144"),
        (block(12, 16, 64), "but got 12 and 108"),
        (block(3, 12, 64, last=True), "32 channels or more that come in eights, but got 12"),
        (block(3, 36, 64, last=True), "but got 36"),
        (block(64, 64, 14, groups=64), "two taps or more on 28 rows or more, but got 9 on 14"),
        (block(64, 64, 56, taps=1, groups=64), "but got 1 on 56"),
        (block(64, 64, 56, groups=32), "one filter for each channel, but got 32 groups of 64 channels to 64"),
        (block(3, 64, 32, (2,)), "two branches or more of 262,144 products, but got 1 of 1,769,472"),
        (block(3, 16, 8, (1, 2)), "but got 2 of 55,296"),
        (block(3, 64, 32, dtype=torch.bfloat16), "float32, in 2-D and at stride 1, not in torch.bfloat16"),
        (problem("1d"), "not in torch.float32, 1-D"),
        (problem("stride 2"), r"2-D and \(2, 2\)"),
    ):
        assert re.search(reason, branches.slower(p)), branches.slower(p)
        assert records.choose(p) is None
        assert records.choose(p, "cpu").name == records.choose(p, "cpu.branches").name == "cpu.branches"
        assert records.choose(p, "aten") is None
        assert branches.slower(p) in records.told(p)
    monkeypatch.setattr(library, "machine", lambda: "intel-avx2")
    assert branches.slower(block(3, 64, 224)) == "was measured on amd-avx512 alone, and this is intel-avx2"


def test_what_no_kernel_takes():
    p = problem("dense", torch.int32)
    assert branches.why_not(p) == "computes float32, float64, float16 and bfloat16, not torch.int32"
    assert branches.why_not(problem("dense")) is None
    assert "has no elements" in branches.why_not(block(3, 4, 8, n=0))
