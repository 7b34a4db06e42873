"""Weight gradients that torch computes wrong on a CPU, or beyond its memory: layers of ours have the right ones."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest
import torch

import convext
from convext.choice import registry, remembered
from convext.choice.registry import ATEN, choose_both
from convext.functional import whose
from convext.problem import ConvProblem
from convext.providers import aten, onednn

# In a process of its own, which torch's kernels may end. name: (layer, its arguments, input, dtype, channels last)
LAYERS = """
import sys
import torch, convext

half, single = torch.bfloat16, torch.float32
CASES = {
    "strided 1x1": ("Conv2d", dict(kernel_size=1, stride=2), (2, 12, 112, 112), 16, single, True),
    "strided 1x1, small": ("Conv2d", dict(kernel_size=1, stride=2), (1, 3, 16, 16), 8, single, True),
    "strided 1x1, one axis": ("Conv2d", dict(kernel_size=1, stride=(1, 2)), (2, 5, 43, 92), 8, half, True),
    "strided 1x1, transposed": ("ConvTranspose2d", dict(kernel_size=1, stride=3, output_padding=2), (2, 8, 33, 52), 3,
                                single, True),
    "dilated": ("Conv2d", dict(kernel_size=3, padding=2, dilation=2), (2, 20, 56, 56), 20, half, True),
    "dilated, padded on one side": ("Conv2d", dict(kernel_size=3, padding=((2, 0), (2, 2)), dilation=2),
                                    (2, 20, 56, 56), 20, half, True),
    "dilated depthwise": ("Conv2d", dict(kernel_size=3, padding=2, dilation=2, groups=40), (2, 40, 33, 33), 40, half,
                          True),
    "dilated groups of 10": ("Conv2d", dict(kernel_size=3, padding=3, dilation=3, groups=4), (2, 40, 59, 59), 40, half,
                             True),
    "dilated one tap": ("Conv2d", dict(kernel_size=1, dilation=2, groups=17), (2, 17, 83, 83), 17, half, True),
    "dilated, autocast": ("Conv2d", dict(kernel_size=3, padding=2, dilation=2), (2, 20, 56, 56), 20, "autocast", True),
    "depth of 2": ("Conv3d", dict(kernel_size=3, padding=1), (1, 64, 2, 8, 8), 64, half, True),
    "depth of 2, channels first": ("Conv3d", dict(kernel_size=3, padding=1), (1, 64, 2, 8, 8), 64, half, False),
    "depth of 5, strided": ("Conv3d", dict(kernel_size=7, stride=2, padding=3), (2, 16, 5, 9, 9), 16, single, True),
    "depth of 5, strided, channels first": ("Conv3d", dict(kernel_size=7, stride=2, padding=3), (2, 16, 5, 9, 9), 16,
                                            single, False),
    "depth of 5, depthwise": ("Conv3d", dict(kernel_size=7, stride=2, padding=3, groups=20), (2, 20, 5, 9, 9), 20,
                              single, True),
}


def gradients(layer, x, y, around=None):
    padded = x if around is None else torch.nn.functional.pad(x, around)
    return torch.autograd.grad(layer(padded), [layer.weight, x], y)


for name, (kind, arguments, size, channels, dtype, channels_last) in CASES.items():
    torch.manual_seed(0)
    autocast = dtype == "autocast"
    if dtype is not single and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        continue  # no kernel of oneDNN's; torch's own loops round a bfloat16 sum at each tap
    dtype = single if autocast else dtype
    format = (torch.channels_last if len(size) == 4 else torch.channels_last_3d) if channels_last else None
    layer = getattr(convext, kind)(size[1], channels, bias=False, dtype=dtype, **arguments)
    x = torch.randn(size).bfloat16().to(dtype)  # and the weights: a cast changes nothing
    layer.weight.data.copy_(layer.weight.data.bfloat16())
    x = (x.to(memory_format=format) if format else x).requires_grad_()
    with convext.backend(sys.argv[1]), torch.autocast("cpu", enabled=autocast):
        y = torch.randn_like(layer(x))
        found = gradients(layer, x, y)
    # torch.nn's in float64, which oneDNN does not compute; where it has no such padding, of a padded input.
    sides, around = arguments.get("padding", 0), None
    if isinstance(sides, tuple) and isinstance(sides[0], tuple):
        arguments, around = {**arguments, "padding": 0}, [*sides[1], *sides[0]]
    theirs = getattr(torch.nn, kind)(size[1], channels, bias=False, dtype=torch.float64, **arguments)
    theirs.weight.data.copy_(layer.weight.data)
    wide = x.detach().double().requires_grad_()
    expected = gradients(theirs, wide, y.double(), around)
    theirs.weight.data.abs_()
    sizes = gradients(theirs, wide.detach().abs().requires_grad_(), y.double().abs(), around)
    bound = 2**-7 if y.dtype is half else 1e-5
    for gradient, right, largest in zip(found, expected, sizes):
        if not bool(((gradient.double() - right).abs() <= bound * largest).all()):
            print("wrong:", name)
print("done")
"""


@pytest.mark.parametrize("backend", ["auto", "aten"])
def test_a_layers_gradients_are_right(backend: str) -> None:
    done = subprocess.run([sys.executable, "-c", LAYERS, backend], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout == "done\n", done.stdout


def of(
    x: tuple[int, ...], w: tuple[int, ...], y: tuple[int, ...], stride: int = 1, pad: int = 0, dilation: int = 1,
    groups: int = 1, dtype: torch.dtype = torch.float32, channels_last: bool = True,
) -> ConvProblem:  # fmt: skip
    rank = len(y)
    each = (stride,) * rank, (pad,) * rank, (dilation,) * rank
    return replace(ConvProblem.of("fprop", x, w, y, *each, groups, dtype, channels_last), face="wgrad")


HALF = torch.bfloat16
STRIDED = of((2, 12, 56, 56), (16, 12, 1, 1), (28, 28), stride=2)
DILATED = of((2, 20, 56, 56), (20, 20, 3, 3), (56, 56), pad=2, dilation=2, dtype=HALF)
SHALLOW = of((1, 64, 2, 8, 8), (64, 64, 3, 3, 3), (2, 8, 8), pad=1, dtype=HALF)
DEEP = of((1, 16, 7, 9, 9), (16, 16, 7, 7, 7), (4, 5, 5), stride=2, pad=3)


@pytest.fixture
def as_avx512(monkeypatch: pytest.MonkeyPatch):
    """What is said where oneDNN computes bfloat16, on whatever machine this is."""
    monkeypatch.setattr(onednn, "dtypes", lambda: frozenset({torch.float32, HALF}))
    monkeypatch.setattr(onednn, "_lanes", lambda: 16)
    remembered.forget()
    yield
    remembered.forget()


@pytest.mark.usefixtures("as_avx512")
@pytest.mark.parametrize(
    ("problem", "changes_that_are_right"),
    [
        (STRIDED, [{"channels_last": False}, {"c": 16}, {"input": (55, 55)}, {"face": "dgrad"}, {"face": "fprop"},
                   {"dtype": torch.float64}, {"device": "cuda"}, {"stride": (1, 1), "output": (56, 56)}]),
        (DILATED, [{"channels_last": False}, {"c": 16, "k": 32}, {"dilation": (1, 2), "pad": (1, 2)},
                   {"dtype": torch.float32}, {"input": (56, 28), "output": (56, 28)}]),
        (SHALLOW, [{"input": (3, 8, 8), "output": (3, 8, 8)}, {"dtype": torch.float32},
                   {"pad": (0, 1, 1), "kernel": (1, 3, 3)}]),
        (DEEP, [{"input": (9, 9, 9), "output": (5, 5, 5)}, {"dtype": HALF},
                {"stride": (1, 2, 2), "output": (7, 5, 5)}]),
    ],
    ids=["strided", "dilated", "shallow", "deep"],
)  # fmt: skip
def test_what_is_known_to_be_wrong(problem: ConvProblem, changes_that_are_right: list[dict]) -> None:
    """As seen on AVX-512, in pages that nobody may touch beyond a tensor, and against float64."""
    assert aten.fault(problem) is not None
    assert [copy for copy in aten.copies(problem) if copy.startswith("copies x") and aten.fault(problem) in copy]
    for change in changes_that_are_right:
        other = replace(problem, **change)
        assert aten.fault(other) is None, change
        assert aten.copies(other) == []


@pytest.mark.usefixtures("as_avx512")
@pytest.mark.parametrize("problem", [STRIDED, DILATED, SHALLOW, DEEP], ids=["strided", "dilated", "shallow", "deep"])
def test_it_is_never_torchs_own(problem: ConvProblem) -> None:
    """Whatever is saved by that; nor both gradients in one call of torch's."""
    assert whose.pays(replace(problem, face="fprop"), ("fprop", "wgrad"))
    assert choose_both(replace(problem, face="dgrad"), problem, "aten") is None
    first = replace(problem, device="meta")
    assert choose_both(replace(first, face="dgrad"), first, "aten") is not None


@pytest.mark.usefixtures("as_avx512")
def test_a_call_without_that_gradient_is_asked_nothing() -> None:
    x = torch.randn(STRIDED.x_shape).to(memory_format=torch.channels_last)
    w = torch.randn(STRIDED.w_shape, requires_grad=True)
    arguments = (2, 2), (0, 0), 0, (1, 1), 1
    assert whose.pays_on_cpu("fprop", x, w, *arguments)
    assert not whose.pays_on_cpu("fprop", x, w.detach(), *arguments)
    assert not whose.pays_on_cpu("fprop", x.contiguous(), w, *arguments)
    with torch.no_grad():
        assert not whose.pays_on_cpu("fprop", x, w, *arguments)


@pytest.mark.usefixtures("as_avx512")
def test_explain_says_why() -> None:
    x = torch.zeros(STRIDED.x_shape).to(memory_format=torch.channels_last)
    said = str(convext.explain(convext.Conv2d(12, 16, 1, stride=2), x))
    assert "ATen goes last: torch's weight gradient of a strided 1x1 on few channels writes beyond its memory" in said
    assert registry.choose(STRIDED) is ATEN
    assert "copies x and y, for torch's weight gradient" in said
