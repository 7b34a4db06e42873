"""cpu.pointwise on every instruction set: values against float64, memory, threads, and what it refuses."""

import ctypes
import platform

import pytest
import torch
import torch.nn.functional as F
from test_epilogues import TORCHS
from test_kernels import misaligned, sliced, strided

from convext.problem import layout
from convext.problem.epilogue import Epilogue
from convext.providers.cpu import pointwise

RELU, SILU = Epilogue("relu"), Epilogue("silu")
CONVS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}

# n, c, k, input, stride; one value serves all axes
PROBLEMS = {
    "rows of 7": (2, 40, 24, (7, 7), 1),
    "k of many columns": (1, 19, 181, (9, 13), 1),
    "k of a vector": (1, 17, 16, (2, 31), 1),
    "k of a few": (2, 20, 3, (9, 11), 1),
    "k of a few, one pixel": (1, 300, 14, (1, 1), 1),
    "k of a few, stride 2": (1, 19, 7, (9, 11), 2),
    "k of one": (2, 40, 1, (5, 6), 1),
    "blocks of a long line": (1, 33, 40, (41, 43), 1),
    "sums in parts": (1, 700, 37, (3, 5), 1),
    "one pixel": (1, 96, 150, (1, 1), 1),
    "a pixel of several images": (5, 24, 16, (1, 1), 1),
    "one channel": (2, 1, 19, (5, 6), 1),
    "stride 2": (2, 24, 40, (15, 17), 2),
    "stride 2 to rows of one": (2, 24, 40, (7, 2), 2),
    "strides (1, 3)": (1, 24, 33, (4, 20), (1, 3)),
    "1d": (2, 20, 24, (61,), 1),
    "1d stride 2": (2, 20, 24, (61,), 2),
    "3d": (1, 17, 33, (4, 5, 6), 1),
    "3d stride (2, 1, 2)": (2, 17, 33, (4, 5, 6), (2, 1, 2)),
}


def operands(name, biased=True, adds=True):
    """x, v, a bias, a residual and the stride."""
    n, c, k, input, stride = PROBLEMS[name]
    stride = stride if isinstance(stride, tuple) else (stride,) * len(input)
    output = [(size - 1) // step + 1 for size, step in zip(input, stride, strict=True)]
    x, residual = (layout.dense(torch.randn(s), True) for s in ((n, c, *input), (n, k, *output)))
    v = torch.randn(k, c, *[1] * len(input))
    return x, v, torch.randn(k) if biased else None, residual if adds else None, stride


def run(isa, epilogue, x, v, bias, residual, stride):
    packed = torch.ops.convext_cpu.pack_pointwise(isa, v)
    return pointwise.convolve(isa, epilogue, x, packed, bias, len(v), stride, residual)


def torchs(epilogue, x, v, bias, residual, stride):
    z = CONVS[x.dim() - 2](x, v, bias, stride)
    return TORCHS[epilogue](z if residual is None else z + residual)


def assert_right(epilogue, y, *tensors, stride):
    """By the tolerance rule: twice the error of torch's composition, and two units in the last place."""
    exact = torchs(epilogue, *(t if t is None else t.double() for t in tensors), stride)
    allowed = 2 * (torchs(epilogue, *tensors, stride) - exact).abs().max() + 2 * torch.finfo(y.dtype).eps * (
        exact.abs().max()
    )
    assert y.shape == exact.shape
    assert y.movedim(1, -1).is_contiguous()
    assert (y - exact).abs().max() <= allowed


@pytest.mark.parametrize("name", PROBLEMS)
def test_agrees_with_float64(isa, name):
    for biased in (False, True):
        for adds in (False, True):
            *tensors, stride = operands(name, biased, adds)
            assert_right(RELU, run(isa, RELU, *tensors, stride), *tensors, stride=stride)


@pytest.mark.parametrize("name", PROBLEMS)
def test_what_is_added_takes_no_digits_from_the_sums(isa, name):
    x, v, bias, residual, stride = operands(name)
    for tensors in ((x, v, 100 * bias, None), (x, v, bias, 100 * residual)):
        assert_right(RELU, run(isa, RELU, *tensors, stride), *tensors, stride=stride)


@pytest.mark.parametrize("epilogue", TORCHS, ids=str)
def test_every_activation(isa, epilogue):
    for adds in (False, True):
        *tensors, stride = operands("rows of 7", adds=adds)
        assert_right(epilogue, run(isa, epilogue, *tensors, stride), *tensors, stride=stride)


@pytest.mark.parametrize("change", [strided, sliced, misaligned])
@pytest.mark.parametrize("name", ["rows of 7", "stride 2", "3d"])
def test_operands_of_any_strides(isa, change, name):
    x, v, bias, residual, stride = operands(name)
    innermost = change(x.movedim(1, -1).contiguous()).movedim(-1, 1)  # gaps, with the channels side by side or not
    for given in (change(x), innermost, x.contiguous(), x.transpose(-1, -2).contiguous().transpose(-1, -2)):
        tensors = given, v, strided(bias), change(residual)
        before = [t.clone() for t in tensors]
        assert_right(SILU, run(isa, SILU, *tensors, stride), *tensors, stride=stride)
        assert all(map(torch.equal, tensors, before)), "an operand was written to"
    assert torch.equal(pointwise.pack(change(v)), pointwise.pack(v.contiguous()))


def test_a_bias_of_one_element_has_any_stride(isa):
    x, v, bias, residual, stride = operands("k of one")
    tensors = x, v, bias.repeat(3)[1::5], residual
    assert tensors[2].stride() == (5,)
    assert_right(SILU, run(isa, SILU, *tensors, stride), *tensors, stride=stride)


@pytest.mark.parametrize("name", ["rows of 7", "one pixel", "3d"])
def test_images_that_lie_apart_or_backwards_in_memory(isa, name):
    """Dense images with gaps between them, one image seen several times, and rows that are cut out of wider ones."""
    x, v, bias, _, stride = operands(name)
    every_other = layout.dense(torch.randn(2 * len(x), *x.shape[1:]), True)[::2]
    cut = layout.dense(torch.randn(*x.shape[:-1], x.shape[-1] + 3), True)[..., 1:-2]
    for given in (every_other, x[:1].expand(3, *x.shape[1:]), cut):
        assert_right(RELU, run(isa, RELU, given, v, bias, None, stride), given, v, bias, None, stride=stride)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc fills what it allocates")
def test_what_was_not_written_is_not_read(isa):
    """All that is allocated is NaN: weights in the kernel's order, and the result."""
    mallopt, perturb = ctypes.CDLL(None).mallopt, -6
    for name in PROBLEMS:
        *tensors, stride = operands(name)
        mallopt(perturb, 0x100)  # of which the last byte's complement is 0xff
        try:
            assert torch.empty(100_000).isnan().all()
            y = run(isa, SILU, *tensors, stride)
        finally:
            mallopt(perturb, 0)
        assert_right(SILU, y, *tensors, stride=stride)


@pytest.mark.parametrize("name", PROBLEMS)
def test_any_number_of_threads_gives_the_same_bits(isa, name, threads):
    *tensors, stride = operands(name)
    threads(1)
    expected = run(isa, SILU, *tensors, stride)
    for count in (2, 7):
        threads(count)
        assert torch.equal(run(isa, SILU, *tensors, stride), expected)


def test_nan_and_infinity_go_where_torch_lets_them_go(isa):
    x, v, bias, residual, stride = operands("rows of 7")
    x[0, 3, 2, 2], x[1, 0, 0, 6], residual[0, 5, 6, 6] = torch.nan, torch.inf, torch.nan
    for epilogue in (Epilogue(), RELU, SILU):
        y, expected = run(isa, epilogue, x, v, bias, residual, stride), torchs(epilogue, x, v, bias, residual, stride)
        assert torch.equal(y.isnan(), expected.isnan())
        assert torch.equal(y.isinf(), expected.isinf())


def test_nothing_of_nothing(isa):
    for shape, out in (((0, 24, 5, 6), (0, 40, 5, 6)), ((2, 24, 0, 6), (2, 40, 0, 6))):
        y = run(isa, RELU, torch.randn(shape), torch.randn(40, 24, 1, 1), None, None, (1, 1))
        assert y.shape == out


def test_what_it_refuses(isa):
    x, v, bias, residual, stride = operands("stride 2")
    for given, reason in (
        ((x, v[:0], bias, residual, stride), r"a weight with elements, but got shape \[0, 24, 1, 1\]"),
        ((x, v.double(), bias, residual, stride), "a pointwise weight in float32 on the CPU, but got Double"),
        ((x.double(), v, bias, residual, stride), "x in float32 on the CPU, but got Double"),
        ((x, v.expand(40, 24, 1, 2), bias, residual, stride), r"a weight of one tap, but got shape \[40, 24, 1, 2\]"),
        ((x, v, bias[1:], residual, stride), r"bias in float32 of shape \[40\] and stride 1, but got shape \[39\]"),
        ((x[:, 1:], v, bias, residual, stride), "pack_pointwise made for 40 channels of y and 23 of x"),
        ((x, v, bias, residual[..., 1:], stride), "a residual that lies as the result does"),
        ((x, v, bias, residual, (2,)), r"stride to be a list of 2 values, but got \[2\]"),
        ((x, v, bias, residual, (2, 0)), r"values of stride of at least 1, but got \[2, 0\]"),
    ):
        with pytest.raises(RuntimeError, match=reason):
            run(isa, RELU, *given)
