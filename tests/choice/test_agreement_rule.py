"""The tolerance rule, and ATen against the float64 reference on random problems."""

from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from convext.commands import check
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
