"""What ATen does on CUDA alone, run on the CPU: another way to a depthwise input gradient, and a setting of torch."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from convext.commands.check import agreement, operands
from convext.problem import ConvProblem, Face
from convext.problem.layout import dense
from convext.providers import aten


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("stride", [1, 2])
def test_input_gradient_of_a_depthwise_convolution(stride: int, channels_last: bool) -> None:
    size, s = ((9, 8), (5, 4)), (stride, stride)
    output = size[0] if stride == 1 else size[1]
    problem = ConvProblem("dgrad", 2, 6, 12, 6, (9, 8), (3, 3), output, s, (1, 1), (1, 1), torch.float32, channels_last)
    y, w = operands(problem)
    result = dense(aten._input_gradient(problem, y, w), channels_last)
    assert agreement(problem, y, w, None, result).ok


DEPTHWISE = ConvProblem.of("dgrad", (2, 12, 9), (12, 1, 3), (9,), (1,), (1,), (1,), 6, torch.float32)


@pytest.mark.parametrize(
    ("device", "groups", "with_bias", "taken"),
    [("cuda", 6, False, True), ("cuda", 6, True, False), ("cuda", 3, False, False), ("cpu", 6, False, False)],
)
def test_it_is_for_depthwise_on_cuda_without_bias(
    device: str, groups: int, with_bias: bool, taken: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CPU tensors, described as if they were on a GPU: torch's transposed convolution is what both ways compute."""
    called = []
    gradient = aten._input_gradient
    monkeypatch.setattr(aten, "_input_gradient", lambda *args: called.append(True) or gradient(*args))
    problem = replace(DEPTHWISE, device=device, groups=groups)
    y, w = torch.randn(problem.y_shape), torch.randn(problem.w_shape)
    bias = torch.randn(problem.c) if with_bias else None
    expected = torch.nn.functional.conv_transpose1d(y, w, bias, padding=1, groups=groups)
    torch.testing.assert_close(aten.run(problem, y, w, bias), expected)
    assert bool(called) == taken


@pytest.fixture
def cudnn() -> Iterator[Any]:
    """Where torch's TF32 setting lies, which is put back."""
    before = torch.backends.cudnn.conv.fp32_precision
    yield torch.backends.cudnn.conv
    torch.backends.cudnn.conv.fp32_precision = before


@pytest.mark.parametrize(
    ("device", "dtype", "precision", "torchs", "within"),
    [
        ("cuda", torch.float32, "tf32", "ieee", "tf32"),
        ("cuda", torch.float32, "tf32", "tf32", "tf32"),
        ("cuda", torch.float32, "ieee", "tf32", "ieee"),
        ("cuda", torch.float32, "tf32x3", "tf32", "ieee"),
        ("cuda", torch.bfloat16, "ieee", "tf32", "tf32"),
        ("cpu", torch.float32, "ieee", "tf32", "tf32"),
    ],
)
def test_products_are_formed_as_the_problem_says(
    device: str, dtype: torch.dtype, precision: str, torchs: str, within: str, cudnn: Any
) -> None:
    cudnn.fp32_precision = torchs
    with aten._products(replace(DEPTHWISE, device=device, dtype=dtype, precision=precision)):
        assert cudnn.fp32_precision == within
    assert cudnn.fp32_precision == torchs


def test_a_setting_comes_back_after_an_error(cudnn: Any) -> None:
    cudnn.fp32_precision = "ieee"
    with pytest.raises(KeyError), aten._products(replace(DEPTHWISE, device="cuda", precision="tf32")):
        raise KeyError
    assert cudnn.fp32_precision == "ieee"


@pytest.mark.parametrize(("face", "verb"), [("fprop", "pads"), ("wgrad", "pads"), ("dgrad", "crops")])
def test_the_copy_of_an_asymmetric_problem_is_named(face: Face, verb: str) -> None:
    symmetric = replace(DEPTHWISE, face=face)
    assert aten.copies(symmetric) == []
    padded = torch.nn.functional.pad(torch.zeros(symmetric.x_shape), (3, 2))
    asymmetric = replace(symmetric, pad=(3,), output=(padded.shape[-1] - 2,))
    assert aten.copies(asymmetric) == [f"{verb} a copy of x: {padded.numel() * padded.element_size():,} bytes"]
