"""cpu.separable on every instruction set: values against float64, memory, threads, and which problems it takes."""

import ctypes
import platform
import re
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from test_epilogues import TORCHS
from test_kernels import misaligned, sliced, strided

from convext.choice import separable as records
from convext.operators.separable import separable as operator
from convext.problem import layout, output_size
from convext.problem.epilogue import Epilogue
from convext.problem.separable import SeparableProblem
from convext.providers.cpu import library, separable

IDENTITY, RELU, SILU = Epilogue(), Epilogue("relu"), Epilogue("silu")
CONVS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}

# n, c, k, input, kernel, stride, padding, dilation; one value serves all axes
PROBLEMS = {
    "rows of 7": (2, 40, 24, (7, 7), (3, 3), 1, 1, 1),
    "rows in parts": (1, 17, 16, (2, 700), (3, 3), 1, 1, 1),
    "stride 2": (1, 24, 40, (15, 17), (3, 3), 2, 1, 1),
    "5x5, k of many tiles": (1, 16, 181, (9, 13), (5, 5), 1, 2, 1),
    "5x5 stride 2, no multiples": (2, 19, 37, (9, 31), (5, 5), 2, 2, 1),
    "7x7": (1, 16, 16, (12, 9), (7, 7), 1, 3, 1),
    "dilated": (1, 32, 48, (11, 12), (3, 3), 1, 4, 4),
    "4x2, steps (2, 3), (1, 2)": (2, 18, 20, (9, 14), (4, 2), (2, 3), (1, 2), (1, 2)),
    "rows of 1": (1, 33, 32, (37, 1), (3, 1), 1, (1, 0), 1),
    "1x1 images": (3, 16, 19, (3, 3), (3, 3), 1, 0, 1),
    "sums in parts": (1, 600, 20, (3, 5), (3, 3), 1, 1, 1),
    "1d": (2, 20, 24, (61,), (5,), 1, 4, 2),
    "3d": (1, 17, 33, (4, 5, 6), (3, 2, 3), (1, 1, 2), (1, 0, 1), 1),
    "no padding": (1, 16, 16, (6, 9), (3, 3), 1, 0, 1),
    "k of a few": (2, 20, 3, (6, 9), (3, 3), 1, 1, 1),
}


def problem(name, first=RELU, second=IDENTITY, adds=False):
    n, c, k, input, kernel, *steps = PROBLEMS[name]
    stride, pad, dilation = (v if isinstance(v, tuple) else (v,) * len(input) for v in steps)
    size = output_size(input, kernel, stride, pad, pad, dilation)
    shapes = (n, c, *input), (c, 1, *kernel), (k, c, *[1] * len(input))
    geometry = size, stride, pad, dilation
    return SeparableProblem.of(first, second, adds, *shapes, *geometry, torch.float32, (True, True))


def operands(p, biased=True):
    """x, w, bias, v, the second bias and a residual."""
    x, residual = (layout.dense(torch.randn(s), True) for s in (p.depthwise.x_shape, p.pointwise.y_shape))
    w, v = torch.randn(p.depthwise.w_shape), torch.randn(p.pointwise.w_shape)
    bias, second = (torch.randn(s) if biased else None for s in (p.depthwise.c, p.pointwise.k))
    return x, w, bias, v, second, residual if p.adds else None


def run(isa, p, x, w, bias, v, second_bias, residual):
    packed = torch.ops.convext_cpu.pack_pointwise(isa, v)
    return separable.convolve(isa, p, x, w, bias, packed, second_bias, residual)


def torchs(p, x, w, bias, v, second_bias, residual):
    d = p.depthwise
    conv = CONVS[d.rank]
    t = TORCHS[p.first](conv(x, w, bias, d.stride, d.pad, d.dilation, d.groups))
    y = TORCHS[p.second](conv(t, v, second_bias))
    return y if residual is None else y + residual


def assert_right(p, y, *tensors):
    """By the tolerance rule: twice the error of torch's composition, and two units in the last place."""
    exact = torchs(p, *(t if t is None else t.double() for t in tensors))
    allowed = 2 * (torchs(p, *tensors) - exact).abs().max() + 2 * torch.finfo(y.dtype).eps * exact.abs().max()
    assert y.shape == exact.shape
    assert y.movedim(1, -1).is_contiguous()
    assert (y - exact).abs().max() <= allowed, p


@pytest.mark.parametrize("name", PROBLEMS)
def test_agrees_with_float64(isa, name):
    for adds, biased in ((False, True), (True, False)):
        p = problem(name, SILU, RELU, adds)
        tensors = operands(p, biased)
        assert_right(p, run(isa, p, *tensors), *tensors)


@pytest.mark.parametrize("epilogue", TORCHS, ids=str)
def test_every_activation_in_both_places(isa, epilogue):
    for first, second in ((epilogue, IDENTITY), (IDENTITY, epilogue)):
        for adds in (False, True):
            p = problem("rows of 7", first, second, adds)
            tensors = operands(p)
            assert_right(p, run(isa, p, *tensors), *tensors)


@pytest.mark.parametrize("change", [strided, sliced, misaligned])
def test_operands_of_any_strides(isa, change):
    p = problem("stride 2", SILU, RELU, adds=True)
    x, w, bias, v, second_bias, residual = operands(p)
    tensors = change(x), change(w), strided(bias), v, strided(second_bias), change(residual)
    before = [t.clone() for t in tensors]
    assert_right(p, run(isa, p, *tensors), *tensors)
    assert all(map(torch.equal, tensors, before)), "an operand was written to"
    packed = separable.pack(change(v))
    assert torch.equal(packed, separable.pack(v.contiguous()))


def test_weights_whose_channels_are_innermost_are_read_in_place(isa):
    p = problem("stride 2")
    x, w, *others = operands(p)
    innermost = w.movedim(0, -1).contiguous().movedim(-1, 0)
    assert torch.equal(run(isa, p, x, innermost, *others), run(isa, p, x, w, *others))


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc fills what it allocates")
def test_what_was_not_written_is_not_read(isa):
    """All that is allocated is NaN: scratch, weights in the kernel's order, and the result."""
    mallopt, perturb = ctypes.CDLL(None).mallopt, -6
    for name in PROBLEMS:
        p = problem(name, SILU, adds=True)
        tensors = operands(p)
        mallopt(perturb, 0x100)  # of which the last byte's complement is 0xff
        try:
            assert torch.empty(100_000).isnan().all()
            y = run(isa, p, *tensors)
        finally:
            mallopt(perturb, 0)
        assert_right(p, y, *tensors)


@pytest.mark.parametrize("name", PROBLEMS)
def test_any_number_of_threads_gives_the_same_bits(isa, name, threads):
    p = problem(name, SILU, RELU, adds=True)
    tensors = operands(p)
    threads(1)
    expected = run(isa, p, *tensors)
    for count in (2, 7):
        threads(count)
        assert torch.equal(run(isa, p, *tensors), expected)


def test_what_it_refuses(isa):
    p = problem("stride 2")
    d = p.depthwise
    for changed, reason in (
        ({"depthwise": replace(d, dtype=torch.float64)}, "computes float32, not torch.float64"),
        ({"depthwise": replace(d, k=48)}, "takes one filter for each channel of x, but got 48 for 24"),
        ({"depthwise": replace(d, channels_last=False)}, "channels are innermost, but these are outermost"),
        ({"depthwise": replace(d, c=3, k=3, groups=3)}, "at least (4|8|16) channels of x, but got 3"),
        ({"depthwise": replace(d, n=0)}, "a tensor of the problem has no elements"),
    ):
        assert re.search(reason, separable.why_not(replace(p, **changed)))
    assert separable.why_not(p) is None
    x, w, bias, v, second_bias, _ = operands(p)
    for given, reason in (
        ((x.contiguous(), w, bias, v, second_bias, None), None),  # copied
        ((x[:, :3], w[:3], bias[:3], v[:, :3], second_bias, None), "at least a vector of .* channels of x, but got 3"),
        ((x, w, bias, v, second_bias[1:], None), r"second bias in float32 of shape \[40\]"),
        ((x[:, :2], w[:2], bias, v, second_bias, None), "bias of shape"),
        ((x, w, bias, v, second_bias, x), "residual that lies as the result does|residual to have"),
    ):
        if reason is None:
            assert_right(p, run(isa, p, *given), *given)
        else:
            with pytest.raises(RuntimeError, match=reason):
                run(isa, p, *given)


def sized(c, k, side, taps=3, n=1):
    """A layer of stride 1 on a square image."""
    shapes = (n, c, side, side), (c, 1, taps, taps), (k, c, 1, 1)
    geometry = (side, side), (1, 1), (taps // 2,) * 2, (1, 1)
    return SeparableProblem.of(RELU, IDENTITY, False, *shapes, *geometry, torch.float32, (True, True))


def test_auto_takes_what_was_measured_to_win(monkeypatch):
    """Measured gains, on one thread of an AMD EPYC, on both sides of 1.2."""
    if reason := library.unavailable():
        pytest.skip(reason)
    monkeypatch.setattr(library, "machine", lambda: separable.MEASURED)
    won = sized(32, 16, 112), sized(144, 24, 56), sized(384, 64, 14), sized(960, 160, 7), sized(240, 40, 28, taps=5)
    lost = sized(128, 128, 56), sized(512, 512, 14), sized(1024, 1024, 7), sized(728, 728, 19)
    for p in won:
        assert separable.slower(p) is None
        assert records.choose(p).name == "cpu.separable"
    for p in lost:
        assert re.match(r"is expected to be 1\.\d\d times as fast .* less than 1.2", separable.slower(p))
        assert records.choose(p) is None
        assert records.choose(p, "cpu").name == records.choose(p, "cpu.separable").name == "cpu.separable"
        assert records.choose(p, "aten") is None
        assert separable.slower(p) in records.told(p)
    monkeypatch.setattr(library, "machine", lambda: "intel-avx2")
    assert separable.slower(won[0]) == "was measured on amd-avx512 alone, and this is intel-avx2"


def test_the_operator_runs_it():
    if reason := library.unavailable():
        pytest.skip(reason)
    p = problem("stride 2", SILU, RELU, adds=True)
    tensors = operands(p)
    d = p.depthwise
    y = operator(*tensors, d.output, d.stride, d.pad, d.dilation, "cpu.separable", "silu", (), "relu", ())
    assert torch.equal(y, run(library.isa(), p, *tensors))
