"""triton.branches: parallel convolutions, each stored where it belongs in the concatenation, against float64."""

import re
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from single_face import arch

from convext.choice import branches as records
from convext.choice import registry
from convext.problem import layout, output_size
from convext.problem.branches import BranchesProblem
from convext.triton_kernels.branches import record
from convext.triton_kernels.launch import collecting

CONVS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
# x [N, C, *I], groups, stride, then of each branch: channels of y, taps, padding, dilation
CASES = {
    "depthwise": ((2, 5, 9, 7), 5, (1, 1), [(5, (3, 3), (d, d), (d, d)) for d in (1, 2, 4)]),
    "depthwise, multiplier, odd channels": ((1, 3, 6, 5), 3, (1, 1), [(k, (3, 3), (1, 1), (1, 1)) for k in (9, 3, 6)]),
    "depthwise, stride 2": ((2, 4, 9, 10), 4, (2, 2), [(4, (t, t), (t // 2, t // 2), (1, 1)) for t in (1, 3, 5)]),
    "depthwise 1-D": ((2, 6, 21), 6, (1,), [(6, (4,), (3 * d,), (2 * d,)) for d in (1, 2)]),
    "dense": ((2, 6, 7, 6), 1, (1, 1), [(5, (3, 3), (d, d), (d, d)) for d in (1, 2)] + [(4, (1, 1), (0, 0), (1, 1))]),
    "dense, whole vectors": ((1, 16, 8, 8), 1, (1, 1), [(16, (3, 3), (d, d), (d, d)) for d in (1, 3)]),
    "dense, images of a pixel": ((3, 8, 1, 1), 1, (1, 1), [(7, (1, 1), (0, 0), (1, 1)), (9, (3, 3), (1, 1), (1, 1))]),
    "groups, stride 2": ((1, 8, 9, 9), 2, (2, 2), [(6, (3, 3), (1, 1), (1, 1)), (4, (1, 1), (0, 0), (1, 1))]),
    "3-D": ((1, 4, 4, 5, 6), 1, (1, 1, 1), [(3, (3, 1, 3), (d, 0, d), (d, 1, d)) for d in (1, 2)]),
}  # fmt: skip


def problem(name, dtype, last, device, machine_arch=None):
    x, groups, stride, parts = CASES[name]
    w = [(k, x[1] // groups, *taps) for k, taps, *_ in parts]
    sizes = {output_size(x[2:], taps, stride, pad, pad, dilation) for _, taps, pad, dilation in parts}
    assert len(sizes) == 1
    pad, dilation = ([value for part in parts for value in part[i]] for i in (2, 3))
    machine = device, arch(device) if machine_arch is None else machine_arch, "ieee"
    return BranchesProblem.of(x, w, sizes.pop(), stride, pad, dilation, groups, dtype, last, machine)


def operands(p, device):
    """x in the problem's memory format, the weights, and a bias for every second branch."""
    first = p.parts[0]
    x = layout.dense(torch.randn(first.x_shape, device=device).to(first.dtype), first.channels_last)
    w = [torch.randn(part.w_shape, device=device).to(first.dtype) for part in p.parts]
    bias = [
        torch.randn(part.k, device=device).to(first.dtype) if i % 2 == 0 else None for i, part in enumerate(p.parts)
    ]
    return x, w, bias


def torchs(p, x, w, bias):
    return torch.cat(
        [
            CONVS[part.rank](x, weight, b, part.stride, part.pad, part.dilation, part.groups)
            for part, weight, b in zip(p.parts, w, bias, strict=True)
        ],
        1,
    )


def assert_right(p, y, x, w, bias):
    """By the tolerance rule: twice the error of torch's composition, and two units in the last place."""
    exact = torchs(p, x.double(), [t.double() for t in w], [b if b is None else b.double() for b in bias])
    allowed = 2 * (torchs(p, x, w, bias) - exact).abs().max() + 2 * torch.finfo(y.dtype).eps * exact.abs().max()
    if y.dtype is torch.float64:  # whose error the oracle has itself
        allowed = 1e-13 * exact.abs().max()
    assert y.dtype is x.dtype
    assert y.shape == exact.shape
    assert (y.movedim(1, -1) if p.parts[0].channels_last else y).is_contiguous()
    assert (y - exact).abs().max() <= allowed


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("last", [False, True], ids=["first", "last"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", CASES)
def test_agrees_with_float64(name, dtype, last, device):
    p = problem(name, dtype, last, device)
    tensors = operands(p, device)
    assert record.why_not(p) is None
    assert_right(p, record.run(p, *tensors), *tensors)


@pytest.mark.parametrize("last", [False, True], ids=["first", "last"])
@pytest.mark.parametrize("name", ["depthwise", "dense", "groups, stride 2"])
def test_operands_of_any_strides(name, last, device):
    p = problem(name, torch.float32, last, device)
    x, w, bias = operands(p, device)
    for given in (
        x.repeat_interleave(2, -1)[..., ::2],
        x[:1].expand_as(x),
        x.transpose(-1, -2).clone().transpose(-1, -2),
    ):
        apart = [b if b is None else b.repeat_interleave(2)[::2] for b in bias]
        tensors = given, [t.repeat_interleave(2, 0)[::2] for t in w], apart
        assert_right(p, record.run(p, *tensors), *tensors)


@pytest.mark.parametrize("name", ["depthwise", "depthwise 1-D"])
def test_a_launch_a_branch_and_no_copy(name, device):
    """Each writes into its channels of one tensor. (Dense ones too, but for sums that a small image splits.)"""
    p = problem(name, torch.float32, True, device)
    with collecting() as launches:
        y = record.run(p, *operands(p, device))
    assert len(launches) == len(p.parts)
    begin = 0
    for part, launch in zip(p.parts, launches, strict=True):
        there = y[:, begin : begin + part.k]
        places = [(t.data_ptr(), t.shape, t.stride()) for t in launch.arguments if isinstance(t, torch.Tensor)]
        assert (there.data_ptr(), there.shape, there.stride()) in places
        begin += part.k


def test_auto_takes_depthwise_branches(monkeypatch):
    monkeypatch.setattr(registry, "unavailable", lambda provider, p: None if provider in ("triton", "aten") else "no")
    p = problem("depthwise", torch.bfloat16, True, "cuda", 90)
    assert record.slower(p) is None
    assert records.choose(p).name == records.choose(p, "triton").name == "triton.branches"
    assert records.choose(p, "aten") is None
    interpreted = problem("depthwise", torch.bfloat16, True, "cpu")
    assert record.slower(interpreted) == "is for GPUs: elsewhere Triton interprets it"
    assert records.choose(interpreted) is None
    one = BranchesProblem(p.parts[:1])
    assert record.slower(one) == "is for two branches or more, but got 1"
    dense = problem("dense", torch.bfloat16, True, "cuda", 90)
    assert record.slower(dense) == "is for depthwise branches, but one has 1 groups of 6 channels of x"
    assert records.choose(dense) is None
    assert records.choose(dense, "triton.branches").name == "triton.branches"
    assert "triton.branches: is for depthwise branches" in records.told(dense)


def test_what_it_refuses():
    p = problem("depthwise", torch.float32, True, "cuda", 75)
    assert re.search(r"compute capability 7.5", record.why_not(p))
    parts = tuple(replace(part, dtype=torch.float8_e4m3fn) for part in p.parts)
    assert re.search("float8_e4m3fn is none of", record.why_not(BranchesProblem(parts)))
