"""cpu.stencil and cpu.grouped against float64, on every instruction set, face, dtype and memory format."""

import math
from dataclasses import replace

import pytest
import torch
from problems import PROBLEMS, bias_of, problem
from torch import Tensor

import convext
from convext.choice import registry
from convext.commands import check
from convext.problem import FACES, ConvProblem, output_size, reference
from convext.providers.cpu import native

DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def assert_agrees(isa: str, p: ConvProblem, a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
    result = native.convolve(isa, p, a, b, bias)
    found = check.agreement(p, a, b, bias, result)
    assert found.ok, f"{p}: {found}"
    return result


@pytest.mark.parametrize("channels_last", [False, True], ids=["first", "last"])
@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize("face", FACES)
def test_agrees_with_float64(isa, face, name, channels_last):
    for dtype in DTYPES:
        p = problem(face, name, dtype, channels_last)
        assert_agrees(isa, p, *check.operands(p), bias_of(p))


@pytest.mark.parametrize("channels_last", [False, True], ids=["first", "last"])
@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize("face", ["fprop", "dgrad"])
def test_a_large_bias_takes_no_digits_from_the_sums(isa, face, name, channels_last):
    """Each term that is added to it is rounded to its last place: it has to be the last one."""
    p = problem(face, name, torch.float32, channels_last)
    assert_agrees(isa, p, *check.operands(p), 100 * bias_of(p))


@pytest.mark.parametrize(
    ("input", "kernel", "stride"), [((150, 150), 3, 1), ((210, 210), 3, 2), ((22_000,), 4, 1)], ids=str
)
@pytest.mark.parametrize("face", FACES)
def test_tensors_beyond_the_caches(isa, face, input, kernel, stride):
    """More than 10 MiB: what is read next is asked for, beyond the last row too; weight gradients are cut otherwise."""
    ones = (1,) * len(input)
    taps, strides = (kernel,) * len(input), (stride,) * len(input)
    output = output_size(input, taps, strides, ones, ones, ones)
    p = ConvProblem(face, 1, 64, 64, 64, input, taps, output, strides, ones, ones, torch.float32, True)
    assert 64 * (math.prod(input) + math.prod(output)) * 4 > 10 * 2**20
    a, b = check.operands(p)
    assert_agrees(isa, p, a, b, bias_of(p))


@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize("face", FACES)
def test_float64_is_exact_on_integers(isa, face, name):
    """Rounding of the oracle's own would be most of a difference in float64; sums of small integers have none."""
    for channels_last in (False, True):
        p = problem(face, name, torch.float64, channels_last)
        a, b = (t.mul(4).round() for t in check.operands(p))
        assert torch.equal(native.convolve(isa, p, a, b, None), reference.compute(p, a, b, None))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_numbers_are_rounded_as_torch_rounds_them(isa, dtype):
    """A kernel of one tap, 1: every float16 or bfloat16 comes back, and every float32 would be rounded alike."""
    if dtype is torch.float32:
        bits = torch.randint(-(2**31), 2**31, (1, 1, 4096)).to(torch.int32)
    else:
        bits = torch.arange(-(2**15), 2**15).to(torch.int16).view(1, 1, -1)
    x = bits.view(dtype)
    p = ConvProblem.of("fprop", x.shape, (1, 1, 1), x.shape[2:], (1,), (0,), (1,), 1, dtype)
    result = native.convolve(isa, p, x, torch.ones(1, 1, 1, dtype=dtype), None)
    torch.testing.assert_close(result, x, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_results_are_rounded_to_nearest_even(isa, dtype):
    """One product a result: exact in float32, so that all rounding is the result's. Subnormal and infinite ones too."""
    x = torch.randn(1, 1, 5000).mul(torch.logspace(-5, 5, 5000)).to(dtype)
    w = torch.tensor([1.0 + 3 / 128]).to(dtype).view(1, 1, 1)
    p = ConvProblem.of("fprop", x.shape, (1, 1, 1), x.shape[2:], (1,), (0,), (1,), 1, dtype)
    assert torch.equal(native.convolve(isa, p, x, w, None), (x.float() * w.float()).to(dtype))


def strided(t: Tensor) -> Tensor:
    """`t`'s values, every second element of each axis of something larger that is NaN elsewhere."""
    large = torch.full([2 * s + 1 for s in t.shape], torch.nan, dtype=t.dtype)
    return large[tuple(slice(1, None, 2) for _ in t.shape)].copy_(t)


def sliced(t: Tensor) -> Tensor:
    """`t`'s values in the middle channels of something larger, as after torch.cat."""
    large = torch.full((t.shape[0], t.shape[1] + 2, *t.shape[2:]), torch.nan, dtype=t.dtype)
    return large[:, 1:-1].copy_(t)


def misaligned(t: Tensor) -> Tensor:
    """`t`'s values one element beyond an aligned address."""
    return torch.full((t.numel() + 1,), torch.nan, dtype=t.dtype)[1:].view(t.shape).copy_(t)


def constant(t: Tensor) -> Tensor:
    """Stride 0 along every axis."""
    return t.flatten()[0].expand(t.shape)


def channels_last(t: Tensor) -> Tensor:
    """`t`'s values with channels innermost, whatever the result's format is."""
    return t.movedim(1, -1).contiguous().movedim(-1, 1)


@pytest.mark.parametrize("change", [strided, sliced, misaligned, constant, channels_last])
@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("face", FACES)
def test_operands_are_read_where_they_lie(isa, face, which, change):
    for name in ("1d in place", "3x3", "3d", "grouped 3 to 5"):
        for dtype in (torch.float32, torch.bfloat16):
            p = problem(face, name, dtype)
            operands = list(check.operands(p))
            operands[which] = change(operands[which])
            before = [t.clone() for t in operands]
            assert_agrees(isa, p, *operands)
            assert all(map(torch.equal, operands, before)), "an operand was written to"


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize("face", FACES)
def test_what_is_not_finite_goes_where_it_is_read(isa, face, name, value):
    """In x (fprop, wgrad) or y (dgrad): the results whose sums hold it, by a convolution of ones, and no more."""
    for channels_last in (False, True):
        p = problem(face, name, channels_last=channels_last)
        a, b = check.operands(p)
        marks = torch.zeros_like(a).put_(torch.randint(a.numel(), (2,)), torch.ones(2))
        reached = reference.compute(p, marks, torch.ones_like(b), None) > 0
        result = native.convolve(isa, p, torch.where(marks > 0, value, a), b, None)
        assert torch.equal(~result.isfinite(), reached)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("name", [name for name in PROBLEMS if "long rows" in name or name == "3x3 of many channels"])
@pytest.mark.parametrize("face", ["fprop", "dgrad"])
def test_a_weight_that_is_not_finite_reads_nothing_beyond_an_edge(isa, face, name, value):
    """As in torch's own kernels for these: zeros beside a tensor would make NaN of it."""
    for channels_last in (False, True):
        p = problem(face, name, channels_last=channels_last)
        a, b = check.operands(p)
        some = torch.arange(0, b.numel(), b.numel() // 3)  # a first channel's first tap, others somewhere
        marks = torch.zeros_like(b).put_(some, torch.ones(len(some)))
        reached = reference.compute(p, torch.ones_like(a), marks, None) > 0
        result = native.convolve(isa, p, a, torch.where(marks > 0, value, b), None)
        assert torch.equal(~result.isfinite(), reached)


def test_an_unread_infinity_beyond_the_last_output_stays_there(isa):
    """Columns that no output reads lie in the same vectors as those that are."""
    p = ConvProblem.of("fprop", (1, 1, 9, 20), (1, 1, 3, 3), (4, 5), (2, 3), (0, 0), (1, 1), 1, torch.float32)
    for face in ("fprop", "wgrad"):
        q = replace(p, face=face)
        a, b = check.operands(q)
        a[..., 15:] = torch.inf
        assert native.convolve(isa, q, a, b, None).isfinite().all()


def test_more_than_two_billion_elements_apart(isa):
    """Strides beyond 2^31: rows of a tensor that would be larger than memory, all one row."""
    x = torch.randn(1, 1, 1, 16).expand(1, 1, 3, 16).as_strided((1, 1, 3, 16), (2**40, 2**36, 0, 1))
    p = ConvProblem.of("fprop", x.shape, (1, 1, 3, 3), (3, 16), (1, 1), (1, 1), (1, 1), 1, torch.float32)
    assert_agrees(isa, p, x, torch.randn(1, 1, 3, 3))


def test_random_problems(isa):
    """Drawn anew for each kernel of the grid: sizes, steps and paddings of any kind."""
    from hypothesis import given, settings
    from hypothesis import strategies as st

    small = st.integers(1, 3)

    @settings(max_examples=150, derandomize=True)
    @given(st.data())
    def drawn(data):
        rank, groups = data.draw(small), data.draw(st.integers(1, 18))
        c, k = data.draw(st.sampled_from([(1, 1), (1, 3), (2, 2), (3, 4), (8, 5)]))

        def each(values):
            return tuple(data.draw(values) for _ in range(rank))

        kernel, stride, dilation = each(st.integers(1, 8 if rank < 3 else 4)), each(small), each(small)
        begin, output = each(st.integers(0, 5)), each(st.integers(1, 40 if rank == 1 else 9))
        end = each(st.integers(0, 5))
        input = tuple(
            max((o - 1) * s + d * (t - 1) + 1 - b - e, 1)
            for o, s, d, t, b, e in zip(output, stride, dilation, kernel, begin, end, strict=True)
        )
        p = ConvProblem(
            data.draw(st.sampled_from(FACES)), data.draw(small), groups * c, groups * k, groups, input, kernel, output,
            stride, begin, dilation, data.draw(st.sampled_from(DTYPES)), data.draw(st.booleans()),
        )  # fmt: skip
        assert_agrees(isa, p, *check.operands(p), bias_of(p))

    drawn()


@pytest.mark.parametrize("kernel", ["cpu.stencil", "cpu.grouped"])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_through_the_layers(kernel, memory_format, isa):
    """Forward and both gradients by the named kernel; the gradient that arrives is a slice, as after torch.cat."""
    groups = 12 if kernel == "cpu.stencil" else 4
    x = torch.randn(2, 12, 9, 10, dtype=torch.float64).contiguous(memory_format=memory_format)
    ours = convext.Conv2d(12, 12, 3, padding=1, groups=groups, dtype=torch.float64)
    torchs = torch.nn.Conv2d(12, 12, 3, padding=1, groups=groups, dtype=torch.float64)
    torchs.load_state_dict(ours.state_dict())
    found = []
    for layer in (ours, torchs):
        leaf = x.clone().requires_grad_()
        with convext.backend(kernel):
            torch.cat([layer(leaf), layer(leaf)], 1).square().sum().backward()
        found.append((leaf.grad, *(parameter.grad for parameter in layer.parameters())))
    for mine, theirs in zip(*found, strict=True):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize(
    ("kernel", "change", "reason"),
    [
        ("cpu.stencil", {"groups": 2}, "depthwise: groups must be the channels of x, 4, but got groups=2"),
        ("cpu.grouped", {}, "groups of 2 to 8 channels, but got 1 of x and 1 of y"),
        ("cpu.grouped", {"groups": 1, "c": 9, "k": 4}, "9 of x and 4 of y"),
        ("cpu.stencil", {"dtype": torch.int32}, "not torch.int32"),
        ("cpu.stencil", {"n": 0}, "no elements"),
        ("cpu.stencil", {"dilation": (1 << 10, 1 << 10)}, "one result reads from 4,198,401"),
        ("cpu.stencil", {"device": "cuda", "arch": 90}, "tensors are on cuda; CPU kernels run on cpu"),
    ],
)
def test_refusals_name_the_numbers(kernel, change, reason):
    fields = {
        "face": "fprop", "n": 1, "c": 4, "k": 4, "groups": 4, "input": (4, 4), "kernel": (3, 3), "output": (4, 4),
        "stride": (1, 1), "pad": (1, 1), "dilation": (1, 1), "dtype": torch.float32,
    }  # fmt: skip
    record = next(k for k in registry.kernels() if k.name == kernel)
    p = ConvProblem(**{**fields, **change})
    given = registry.unavailable("cpu", p) if p.device != "cpu" else record.why_not(p)
    assert reason in given


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"isa": "sse9"}, "instruction set of this machine and library, but got sse9"),
        ({"face": "forward"}, "fprop, dgrad or wgrad, but got forward"),
        ({"stride": [0, 1]}, "values of stride of at least 1, but got \\[0, 1\\]"),
        ({"pad": [1]}, "pad to be a list of 2 values, but got \\[1\\]"),
        ({"groups": 3}, "channels of a fprop with groups=3"),
        ({"a": torch.zeros(1, 4, 5)}, "a to have 4 dimensions, but got shape \\[1, 4, 5\\]"),
        ({"b": torch.zeros(4, 1, 3, 3).double()}, "b to be Float, as a is, but got Double"),
        ({"activation": 11}, "an activation between 0 and 10, but got 11"),
        ({"face": "wgrad", "b": torch.zeros(1, 4, 5, 5), "size": [3, 3], "activation": 1}, "no activation for wgrad"),
        ({"residual": torch.zeros(1, 4, 5, 6)}, "a residual that lies as the result does, of shape \\[1, 4, 5, 5\\]"),
        ({"residual": torch.zeros(1, 4, 5, 5).mT}, "but got shape \\[1, 4, 5, 5\\] and stride 1 along axis 2"),
        ({"bias": torch.zeros(3)}, "bias of shape \\[4\\] and stride 1, but got shape \\[3\\]"),
    ],
)
def test_the_operator_names_the_mistake(isa, change, message):
    arguments = {
        "isa": isa, "face": "fprop", "a": torch.zeros(1, 4, 5, 5), "b": torch.zeros(4, 1, 3, 3), "bias": None,
        "size": [5, 5], "stride": [1, 1], "pad": [1, 1], "dilation": [1, 1], "groups": 4, "channels_last": False,
        "residual": None, "activation": 0, "first_scalar": 0.0, "second_scalar": 0.0,
    }  # fmt: skip
    with pytest.raises(RuntimeError, match=message):
        torch.ops.convext_cpu.convolve(*{**arguments, **change}.values())
