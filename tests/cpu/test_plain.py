"""The records of plain torch operators against float64: every face, dtype and memory format that they take."""

from itertools import product

import pytest
import torch
from problems import bias_of

from convext.choice import registry
from convext.commands import check
from convext.problem import FACES, ConvProblem, output_size
from convext.providers.plain import shuffle, swap, taps, widened

# n, channels of x, of y, groups, input, kernel, stride, begin, end, dilation
PROBLEMS = [
    (2, 6, 6, 6, (17,), (4,), 1, 3, 0, 1),
    (2, 6, 4, 2, (9, 8), (3, 2), 1, (2, 1), (0, 1), (1, 2)),
    (1, 5, 7, 1, (11, 12), (3, 3), 1, 4, 4, 4),
    (2, 3, 4, 1, (5, 6, 7), (3, 3, 2), 1, (6, 2, 1), (6, 2, 0), (6, 2, 1)),
    (1, 4, 3, 1, (4, 5), (3, 3), 1, 9, 9, 9),
    (2, 5, 3, 1, (6, 8), (2, 2), 2, 0, 0, 1),
    (1, 4, 6, 1, (4, 6, 2), (2, 3, 1), (2, 3, 1), 0, 0, 1),
    (2, 4, 4, 1, (9,), (3,), 3, 0, 0, 1),
    (1, 4, 8, 4, (9, 9), (3, 3), 2, 1, 1, 1),
    (1, 8, 128, 1, (28, 28), (3, 3), 1, 1, 1, 1),  # sums of many products
    (1, 11, 64, 1, (128, 128), (3, 3), 1, 8, 8, 8),
    (1, 12, 5, 1, (64, 64), (3, 3), 1, 8, 8, 8),
]
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
MODULES = {"plain.swap": swap, "plain.taps": taps, "plain.shuffle": shuffle, "plain.widened": widened}


def problems():
    for face, (n, c, k, groups, input, kernel, *rest), dtype, last in product(FACES, PROBLEMS, DTYPES, (False, True)):
        stride, begin, end, dilation = (v if isinstance(v, tuple) else (v,) * len(input) for v in rest)
        output = output_size(input, kernel, stride, begin, end, dilation)
        yield ConvProblem(face, n, c, k, groups, input, kernel, output, stride, begin, dilation, dtype, last)


@pytest.mark.parametrize("name", MODULES)
def test_agrees_with_float64(name):
    record = next(kernel for kernel in registry.kernels() if kernel.name == name)
    taken = [p for p in problems() if registry.refusal(record, p) is None]
    assert len(taken) >= 4
    assert {p.face for p in taken} == set(record.faces)
    for p in taken:
        a, b, bias = *check.operands(p), bias_of(p)
        before = a.clone(), b.clone()
        found = check.agreement(p, a, b, bias, MODULES[name].run(p, a, b, bias))
        assert found.ok, f"{p}: {found}"
        assert torch.equal(a, before[0])
        assert torch.equal(b, before[1])
        assert all(text.split(":")[0] for text in record.copies(p))


# Whose other side is a forward that never returns.
HANGS = {
    "groups": 4, "input": (9, 9), "output": (9, 9), "kernel": (17, 17), "pad": (8, 8), "dtype": torch.bfloat16,
    "channels_last": True,
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "change", "reason"),
    [
        ("plain.swap", {"stride": (1, 2), "output": (4, 2)}, "stride of 1, but got (1, 2)"),
        ("plain.swap", {"pad": (3, 1), "output": (6, 4)}, "pads (-1, 1) on the other side"),
        ("plain.swap", {"n": 0}, "no elements"),
        ("plain.swap", HANGS, "hangs"),
        ("plain.swap", {"k": 17}, "sums of 17 channels x 9 taps"),
        ("plain.taps", {"face": "wgrad", "dilation": (2, 2), "output": (2, 2)}, "got 4 channels"),
        ("plain.taps", {}, "dilation=(1, 1)"),
        ("plain.taps", {"dilation": (2, 2), "output": (2, 2), "dtype": torch.bfloat16}, "not torch.bfloat16"),
        ("plain.shuffle", {}, "kernel=(3, 3), stride=(1, 1)"),
        ("plain.widened", {}, "not torch.float32"),
    ],
)
def test_refusals_name_the_numbers(name, change, reason):
    fields = {
        "face": "dgrad", "n": 1, "c": 4, "k": 4, "groups": 1, "input": (4, 4), "kernel": (3, 3), "output": (4, 4),
        "stride": (1, 1), "pad": (1, 1), "dilation": (1, 1), "dtype": torch.float32,
    }  # fmt: skip
    assert reason in MODULES[name].why_not(ConvProblem(**{**fields, **change}))


def test_other_devices_are_named():
    p = ConvProblem.of("fprop", (1, 2, 5), (2, 2, 3), (3,), (1,), (0,), (1,), 1, torch.float32, device="meta")
    assert registry.unavailable("plain", p) == "tensors are on meta; CPU kernels run on cpu"
