"""What the compiled operators say to bad arguments: the argument's name, what was expected, what came."""

from pathlib import Path

import pytest
import torch

from convext.providers.cuda import native

GOOD = {
    "face": "fprop", "a": torch.randn(2, 4, 6, 8), "b": torch.randn(4, 1, 3, 3), "bias": torch.randn(4),
    "residual": torch.randn(2, 4, 6, 8), "result": torch.empty(2, 4, 6, 8), "stride": [1, 1], "pad": [1, 1],
    "dilation": [1, 1], "groups": 4,
    "activation": "clamp", "first_scalar": 0.0, "second_scalar": 6.0,
}  # fmt: skip

BAD = {
    "face": ({"face": "prop"}, "expected face to be fprop, dgrad or wgrad, but got prop"),
    "dtype": ({"a": GOOD["a"].double()}, "expected a to be float32, float16 or bfloat16, but got Double"),
    "other dtype": ({"b": GOOD["b"].half()}, "expected b to be Float, as a is, but got Half"),
    "rank of a": ({"a": torch.randn(4, 6, 8)}, r"expected a to have 4 dimensions, but got shape \[4, 6, 8\]"),
    "rank of b": ({"b": torch.randn(4, 1, 3)}, r"expected b to have 4 dimensions, but got shape \[4, 1, 3\]"),
    "rank of the result": (
        {"result": torch.empty(2, 4)}, r"expected result to have 3 to 5 dimensions, but got shape \[2, 4\]"
    ),
    "shape of the result": (
        {"result": torch.empty(2, 3, 6, 8)}, r"expected result of shape \[2, 4, 6, 8\], but got shape \[2, 3, 6, 8\]"
    ),
    "dtype of the result": ({"result": torch.empty(2, 4, 6, 8).half()}, "expected result to be Float, as a is"),
    "stride's length": ({"stride": [1]}, r"expected stride to be a list of 2 values, but got \[1\]"),
    "stride": ({"stride": [1, 0]}, r"expected values of stride of at least 1, but got \[1, 0\]"),
    "pad": ({"pad": [-1, 1]}, r"expected values of pad of at least 0, but got \[-1, 1\]"),
    "dilation": ({"dilation": [0, 1]}, r"expected values of dilation of at least 1, but got \[0, 1\]"),
    "groups": ({"groups": 0}, "expected groups of at least 1, but got 0"),
    "channels": ({"b": torch.randn(8, 2, 3, 3)}, r"expected channels of a fprop with groups=4, but got a of shape"),
    "bias": ({"bias": torch.randn(3)}, r"expected bias of shape \[4\] and stride 1, but got shape \[3\] and stride 1"),
    "bias's stride": ({"bias": torch.randn(8)[::2]}, r"but got shape \[4\] and stride 2"),
    "bias of wgrad": ({"face": "wgrad", "b": torch.randn(2, 4, 6, 8)}, "expected no bias for wgrad"),
    "activation of wgrad": (
        {
            "face": "wgrad", "b": torch.randn(2, 4, 6, 8), "bias": None, "residual": None,
            "result": torch.empty(4, 1, 3, 3),
        },
        "expected neither activation nor residual for wgrad",
    ),
    "activation": ({"activation": "selu"}, "expected an activation of convext.problem.epilogue, but got selu"),
    "shape of the residual": (
        {"residual": torch.randn(2, 4, 6, 9)},
        r"expected residual of shape \[2, 4, 6, 8\], but got shape \[2, 4, 6, 9\]",
    ),
    "dtype of the residual": ({"residual": GOOD["result"].half()}, "expected residual to be Float, as a is"),
    "strides of the residual": (
        {"residual": torch.randn(2, 4, 8, 6).mT}, "expected a residual with the strides of the result"
    ),
    "not depthwise": (
        {"groups": 2, "b": torch.randn(4, 2, 3, 3)}, "expected groups to be the channels of x, 4, but got 2"
    ),
    "far too large": ({"stride": [2**30, 1]}, r"expected indices below 2147483648, but size.* \[1073741824, 1\]"),
    "empty operand": (
        {"a": torch.randn(2, 4, 0, 8)},
        r"expected each size of a from 1 to 2147483647, but got shape \[2, 4, 0, 8\]",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_arguments_are_named(host_library: Path, name) -> None:
    change, message = BAD[name]
    with pytest.raises(RuntimeError, match=message):
        native.operators("cpu").stencil(*{**GOOD, **change}.values())


def test_good_arguments_are_bound_to_a_call(host_library: Path) -> None:
    number = native.operators("cpu").stencil(*GOOD.values())
    native.functions("cpu")[1](number)
    assert number != 0
