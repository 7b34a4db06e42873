"""The tolerance rule, and ATen against the float64 reference on random problems."""

from dataclasses import replace
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from convext.commands import check
from convext.commands.check import nearest_tf32
from convext.problem import FACES, ConvProblem, output_size, reference
from convext.providers import aten


@st.composite
def problems(draw):
    """Any face of any small convolution: every rank, asymmetric, strided, dilated, grouped, empty batches included."""
    rank, groups = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    axes = st.integers(1, 3)

    def each(values):
        return tuple(draw(values) for _ in range(rank))

    n = draw(st.integers(0, 2))
    c, k = groups * draw(axes), groups * draw(axes)
    kernel, stride, dilation = each(axes), each(axes), each(axes)
    begin, end = each(st.integers(0, 4)), each(st.integers(0, 4))
    fit = [max(d * (t - 1) + 1 - b - e, 1) for d, t, b, e in zip(dilation, kernel, begin, end, strict=True)]
    input = tuple(least + draw(st.integers(0, 4)) for least in fit)
    output = output_size(input, kernel, stride, begin, end, dilation)
    dtype = draw(st.sampled_from([torch.float64, torch.float32, torch.bfloat16]))
    return ConvProblem(
        draw(st.sampled_from(FACES)), n, c, k, groups, input, kernel, output, stride, begin, dilation,
        dtype, draw(st.booleans()),
    )  # fmt: skip


@settings(max_examples=300, derandomize=True)
@given(problem=problems(), with_bias=st.booleans())
def test_aten_agrees_with_the_reference(problem, with_bias):
    a, b = check.operands(problem, torch.Generator().manual_seed(0))
    channels = {"fprop": problem.k, "dgrad": problem.c}.get(problem.face)
    bias = torch.randn(channels).to(problem.dtype) if with_bias and channels else None
    result = aten.run(problem, a, b, bias)
    oracle = reference.compute(problem, a, b, bias)
    assert result.shape == oracle.shape == problem.open_shape
    assert result.dtype == problem.dtype
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-4, torch.bfloat16: 5e-2}[problem.dtype]
    scale = 1 + oracle.abs().max().item() if oracle.numel() else 1
    torch.testing.assert_close(result.double(), oracle, rtol=0, atol=tolerance * scale)
    assert check.agreement(problem, a, b, bias, result).ok


def test_the_reference_is_the_index_equation():
    """y[n, k, o] = sum over c, t of x[n, c, o * stride + t * dilation - pad] * w[k, c, t], output by output."""
    n, c, k, i, taps, o, s, p, d = 2, 3, 2, 6, 3, 4, 2, 3, 2
    problem = ConvProblem.of("fprop", (n, c, i), (k, c, taps), (o,), (s,), (p,), (d,), 1, torch.float64)
    x, w = check.operands(problem)
    y = torch.zeros(n, k, o, dtype=torch.float64)
    for out in range(o):
        for t in range(taps):
            index = out * s + t * d - p
            if 0 <= index < i:
                y[:, :, out] += x[:, :, index] @ w[:, :, t].T
    torch.testing.assert_close(reference.compute(problem, x, w), y)


PROBLEM = ConvProblem.of("fprop", (2, 64, 9, 9), (8, 64, 3, 3), (7, 7), (1, 1), (0, 0), (1, 1), 1, torch.float32)


@pytest.mark.parametrize("scale", [1.0, 1e-9, 1e100])
def test_the_oracle_of_float64_is_the_sum_rounded_once(scale):
    """torch's own sums, which are float64 too, would have no error against themselves."""
    problem = ConvProblem.of("wgrad", (2, 1, 400), (2, 1, 400), (1,), (1,), (0,), (1,), 1, torch.float64)
    x, y = check.operands(problem, torch.Generator().manual_seed(0))
    x, y = x * scale, y * scale
    pairs = zip(x.flatten().tolist(), y.flatten().tolist(), strict=True)
    exact = float(sum(Fraction(a) * Fraction(b) for a, b in pairs))
    assert check._oracle(problem, x, y, None).item() == pytest.approx(exact, rel=2**-52, abs=0)


def test_a_slightly_wrong_result_is_refused():
    a, b = check.operands(PROBLEM)
    result = aten.run(PROBLEM, a, b, None)
    agreed = check.agreement(PROBLEM, a, b, None, result)
    assert agreed.ok
    wrong = result.clone()
    wrong[1, 3, 4, 5] += 2 * agreed.bound
    refused = check.agreement(PROBLEM, a, b, None, wrong)
    assert not refused.ok
    assert ">" in str(refused)


def test_one_missing_tap_at_a_corner_is_refused():
    a, b = check.operands(PROBLEM)
    result = aten.run(PROBLEM, a, b, None)
    result[0, 0, 0, 0] -= a[0, 0, 0, 0] * b[0, 0, 0, 0]
    assert not check.agreement(PROBLEM, a, b, None, result).ok


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_unwritten_values_are_refused(value):
    a, b = check.operands(PROBLEM)
    result = aten.run(PROBLEM, a, b, None)
    result[0, 0, 0, 0] = value
    assert not check.agreement(PROBLEM, a, b, None, result).ok


def test_half_precision_arithmetic_is_refused_as_float32():
    a, b = check.operands(PROBLEM)
    result = torch.conv2d(a.bfloat16(), b.bfloat16()).float()
    assert not check.agreement(PROBLEM, a, b, None, result).ok


def test_the_wrong_shape_or_type_is_refused():
    a, b = check.operands(PROBLEM)
    result = aten.run(PROBLEM, a, b, None)
    with pytest.raises(AssertionError, match="shape"):
        check.agreement(PROBLEM, a, b, None, result[..., 1:])
    with pytest.raises(AssertionError, match="float64"):
        check.agreement(PROBLEM, a, b, None, result.double())


# ---------------------------------------------------------------------------------------------------------------- TF32

IN_TF32 = replace(PROBLEM, precision="tf32")  # on a CPU, where torch multiplies in float32 all the same
UNIT = 2**-10  # TF32's last place, of 1


@pytest.mark.parametrize(
    ("number", "nearest"),
    [
        (0.0, 0.0),
        (1.0, 1.0),
        (-1 - 5 * UNIT, -1 - 5 * UNIT),
        (2.0**100 * (1 + UNIT), 2.0**100 * (1 + UNIT)),
        (1 + UNIT / 2, 1 + UNIT),  # a tie: to even it would be 1
        (-1 - UNIT / 2, -1 - UNIT),
        (1 + 3 * UNIT / 2, 1 + 2 * UNIT),
        (1 + UNIT / 2 - 2**-23, 1.0),
        (1 + UNIT / 2 + 2**-23, 1 + UNIT),
        (2 - 2**-23, 2.0),  # carries into the exponent
        (3 + UNIT, 3 + 2 * UNIT),  # beyond 2 the last place is twice as large
        (3 + 3 * UNIT / 4, 3.0),
    ],
)
def test_nearest_tf32(number, nearest):
    t = torch.tensor([number])
    assert t.item() == number, "no float32"
    assert nearest_tf32(t).item() == nearest


def in_tf32(a, b, rounded=nearest_tf32):
    """What a tensor core makes of PROBLEM, but for the rounding of its sums."""
    return torch.conv2d(rounded(a).double(), rounded(b).double()).float()


def test_products_in_tf32_are_held_to_the_rounding_of_their_operands():
    a, b = check.operands(PROBLEM)
    result, exact = in_tf32(a, b), torch.conv2d(a.double(), b.double())
    agreed = check.agreement(IN_TF32, a, b, None, result)
    assert agreed.ok
    assert agreed.bound == pytest.approx(2 * (result - exact).abs().max().item(), rel=1e-3)
    assert "(TF32's)" in str(agreed)


def test_torchs_error_counts_where_it_is_the_greater_one():
    a, b = (nearest_tf32(t) for t in check.operands(PROBLEM))
    a[0, 0, 0, 0] = 1 + 2**-23  # all that rounding would change
    agreed, as_float32 = (check.agreement(p, a, b, None, aten.run(p, a, b, None)) for p in (IN_TF32, PROBLEM))
    assert agreed == as_float32
    assert agreed.yardstick > 0


@pytest.mark.parametrize("precision", ["ieee", "tf32x3"])
def test_products_in_tf32_are_refused_where_they_were_not_allowed(precision):
    a, b = check.operands(PROBLEM)
    assert not check.agreement(replace(PROBLEM, precision=precision), a, b, None, in_tf32(a, b)).ok


def test_other_dtypes_are_not_rounded_to_tf32():
    problem = replace(IN_TF32, dtype=torch.float64)
    a, b = check.operands(problem)
    assert not check.agreement(problem, a, b, None, in_tf32(a.float(), b.float()).double()).ok


def test_a_product_left_out_is_refused_in_tf32():
    a, b = check.operands(PROBLEM)
    result = in_tf32(a, b)
    result[0, 0, 0, 0] -= a[0, 0, 0, 0] * b[0, 0, 0, 0]
    assert not check.agreement(IN_TF32, a, b, None, result).ok


def cut(t):
    """What a tensor core reads of operands that nobody has rounded: the upper 19 bits."""
    return (t.view(torch.int32) & ~0x1FFF).view(torch.float32)


@pytest.mark.parametrize("rounded", [torch.Tensor.bfloat16, torch.Tensor.half, cut])
def test_operands_of_fewer_bits_are_refused_in_tf32(rounded):
    """float16 has as many bits as TF32, but rounds large numbers to infinity and small ones to zero."""
    scale = 2.0**-20 if rounded is torch.Tensor.half else 1.0
    a, b = (scale * t for t in check.operands(PROBLEM))
    assert not check.agreement(IN_TF32, a, b, None, in_tf32(a, b, rounded)).ok


def test_nothing_errs_where_there_is_nothing():
    problem = replace(IN_TF32, n=0)
    a, b = check.operands(problem)
    assert check.agreement(problem, a, b, None, aten.run(problem, a, b, None)).ok
