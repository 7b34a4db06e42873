"""Convolutions with what follows them, in the pass that stores them, against torch's one after the other in float64."""

from __future__ import annotations

import importlib
import zlib
from types import ModuleType

import endings
import pytest
import torch
import torch.nn.functional as F
from endings import STRIDED, TORCHS, residual_of
from single_face import Case, random_bias
from torch import Tensor

import convext
from convext.choice import remembered
from convext.commands import check
from convext.operators.activated import _runs, activated
from convext.problem import ConvProblem, Face, layout, reference
from convext.problem.epilogue import NAMES, Epilogue
from convext.triton_kernels.launch import collecting

EACH = 2  # activations and residuals of the sample, for each case, face and memory format

# By family: what decides how it stores.
CASES = {
    "stencil": (
        Case("whole chunks, two strips", (19, 16), 1, 3, 3, 3, 3, 1, 1),
        Case("single columns", (5, 7), 2, 5, 10, 5, 3, 2, 1),
        Case("a vector of channels", (4, 5), 1, 20, 20, 20, 3, 1, 1),
        Case("causal", (17,), 2, 4, 4, 4, 4, 1, 3, trim=3),
        Case("three axes", (4, 5, 4), 1, 2, 2, 2, 3, 1, 1),
    ),
    "pointwise": (
        Case("odd", (7, 5), 2, 17, 19),
        Case("groups in vectors", (4, 8), 1, 32, 64, 2),
        Case("pixels without a pair", (5, 6), 1, 5, 6, stride=2, pad=1),
    ),
    "igemm": (
        Case("dense", (6, 5), 2, 9, 7, 1, 3, 1, 1),
        Case("strided and dilated", (9, 8), 1, 8, 16, 1, 3, 2, 2, 3),
        Case("a sum in parts", (3, 3), 1, 300, 8, 1, 3, 1, 1),
        Case("one axis, causal", (11,), 2, 4, 6, 1, 3, 1, 4, 2, trim=4),
    ),
    "grouped": (
        Case("groups of 3 and 2", (6, 5), 2, 6, 4, 2, 3, 1, 1),
        Case("groups of 8, strided", (6, 8), 1, 16, 16, 2, 3, 2, 1),
    ),
    "banded": (
        Case("rows in vectors", (8, 16), 1, 2, 2, 2, 5, 1, 2),
        Case("odd rows", (7, 9), 2, 3, 3, 3, 7, 1, 3),
    ),
}  # fmt: skip
DTYPES = {"banded": (torch.bfloat16, torch.float16)}
each_face = pytest.mark.parametrize("face", ["fprop", "dgrad"])
each_layout = pytest.mark.parametrize("last", [False, True], ids=["NCHW", "NHWC"])
every_case = [pytest.param(family, case, id=f"{family} {case}") for family, cases in CASES.items() for case in cases]


def test_every_activation_is_tried():
    assert {epilogue.name for epilogue in TORCHS} == set(NAMES)


def record_of(family: str) -> ModuleType:
    return importlib.import_module(f"convext.triton_kernels.{family}.record")


def drawn(
    family: str, case: Case, face: Face, last: bool, device: str, turn: int
) -> list[tuple[ConvProblem, Epilogue, bool]]:
    """A sample of dtype x activation x residual, another one for each case: in all cases together, everything."""
    dtypes = DTYPES.get(family, (torch.float32, torch.bfloat16, torch.float16, torch.float64))
    first = zlib.crc32(f"{family} {case} {face} {last}".encode())
    names = list(TORCHS)
    return [
        (
            case.problem(face, dtypes[(first + i) % len(dtypes)], last, device),
            names[(first + 5 * i) % len(names)],
            i % 2 == 0,
        )
        for i in range(turn)
    ]


def assert_follows(
    record: ModuleType, problem: ConvProblem, epilogue: Epilogue, a: Tensor, b: Tensor, bias: Tensor | None,
    residual: Tensor | None,
) -> None:  # fmt: skip
    found = record.run_activated(problem, epilogue, a, b, bias, residual)
    endings.assert_follows(problem, epilogue, a, b, bias, residual, found)


def operands(problem: ConvProblem) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
    a, b = check.operands(problem)
    return a, b, random_bias(problem), residual_of(problem)


@pytest.mark.parametrize(("family", "case"), every_case)
@each_face
@each_layout
def test_values(family, case, face, last, device, bordered, poisoned):
    record = record_of(family)
    for problem, epilogue, adds in drawn(family, case, face, last, device, EACH):
        assert record.why_not(problem) is None
        a, b, bias, residual = (bordered(t) for t in operands(problem))
        assert_follows(record, problem, epilogue, a, b, bias, residual if adds else None)


@pytest.mark.parametrize(("family", "case"), [case for case in every_case if case.values[0] not in DTYPES])
@each_face
@each_layout
def test_a_large_bias_is_added_last(family, case, face, last, device):
    """In float32: float16 results have fewer digits than are lost."""
    problem = case.problem(face, torch.float32, last, device)
    a, b, bias, _ = operands(problem)
    found = record_of(family).run(problem, a, b, 1000 * bias)
    endings.assert_added_last(found, reference.compute(problem, a.double(), b.double(), None), 1000 * bias)


@pytest.mark.parametrize("family", CASES)
@pytest.mark.parametrize("epilogue", TORCHS, ids=str)
def test_every_activation(family, epilogue, device):
    """Each once in each family, without a bias: in float32, and where a family has none, in float16."""
    record, case = record_of(family), CASES[family][0]
    problem = case.problem("fprop", DTYPES.get(family, (torch.float32,))[-1], False, device)
    a, b, _, residual = operands(problem)
    assert_follows(record, problem, epilogue, a, b, None, residual)


@pytest.mark.parametrize("family", CASES)
@pytest.mark.parametrize("how", STRIDED)
@each_layout
def test_residuals_of_other_strides(family, how, last, device):
    record, case = record_of(family), CASES[family][0]
    problem = case.problem("fprop", DTYPES.get(family, (torch.float32,))[-1], last, device)
    a, b, bias, residual = operands(problem)
    residual = STRIDED[how](residual)
    before = residual.clone()
    assert_follows(record, problem, Epilogue("hardswish"), a, b, bias, residual)
    assert torch.equal(residual, before)


@pytest.mark.parametrize("family", CASES)
@each_layout
def test_nothing_else_is_launched(family, last, device):
    """What follows comes with the launches that a bare convolution makes, and one where the residual is copied."""
    record, case = record_of(family), CASES[family][0]
    problem = case.problem("fprop", DTYPES.get(family, (torch.float32,))[-1], last, device)
    a, b, bias, residual = operands(problem)
    found = []
    for run in (
        lambda: record.run(problem, a, b, bias),
        lambda: record.run_activated(problem, Epilogue("silu"), a, b, bias, residual),
    ):
        with collecting() as launches:
            run()
        found.append([launch.kernel.__name__ for launch in launches])
    # Bands are products of channels-first images, packs of channels-last ones, and so are their residuals.
    copied = {"banded": last, "grouped": not last}.get(family, False)
    assert sorted(found[1]) == sorted(["_transpose"] * copied + found[0])


# ------------------------------------------------------------------------------------------------ through the operator


@pytest.fixture
def _nothing_remembered():
    remembered.forget()
    yield
    remembered.forget()


def call(family: str, problem: ConvProblem, epilogue: Epilogue, *tensors: Tensor | None) -> Tensor:
    p = problem
    size = p.open_shape[2:]
    geometry = size, p.stride, p.pad, p.dilation, p.groups, f"triton.{family}"
    return activated(p.face, *tensors, *geometry, epilogue.name, epilogue.scalars)


def torchs(
    problem: ConvProblem, epilogue: Epilogue, a: Tensor, b: Tensor, bias: Tensor, residual: Tensor | None
) -> Tensor:
    """By torch's functions, which autograd knows."""
    p = problem
    common = bias, p.stride, p.pad
    if p.face == "fprop":
        z = F.conv2d(a, b, *common, p.dilation, p.groups)
    else:
        extra = [i - (s * (o - 1) + d * (k - 1) + 1 - 2 * q) for i, s, o, d, k, q in zip(
            p.input, p.stride, p.output, p.dilation, p.kernel, p.pad, strict=True
        )]  # fmt: skip
        z = F.conv_transpose2d(a, b, *common, extra, p.groups, p.dilation)
    y = TORCHS[epilogue](z)
    return y if residual is None else y + residual


@pytest.mark.usefixtures("_nothing_remembered")
@pytest.mark.parametrize("family", CASES)
@each_layout
def test_calls_are_remembered(family, last, device):
    """Of other values, of a residual that is x, that lies elsewhere or otherwise, and without one: in any order."""
    dtype = DTYPES.get(family, (torch.float32,))[-1]
    channels = {"stencil": 4, "pointwise": 4, "igemm": 4, "grouped": 8, "banded": 2}[family]
    groups = {"stencil": 4, "banded": 2, "grouped": 2}.get(family, 1)
    taps = {"pointwise": 1, "banded": 5}.get(family, 3)
    case = Case("", (5, 8), 1, channels, channels, groups, taps, pad=taps // 2)
    problem, epilogue = case.problem("fprop", dtype, last, device), Epilogue("silu")
    for _ in range(2):
        a, b, bias, residual = operands(problem)
        beside = torch.randn(residual.numel() + 1, device=device).to(dtype)[1:]
        beside = beside.as_strided(residual.shape, residual.stride())
        for added in (residual, None, a, beside, layout.dense(residual, not last)):
            with convext.precision("ieee"):  # TF32's own errors are another matter
                found = call(family, problem, epilogue, a, b, bias, added)
            check.assert_described(problem, found)
            wanted = torchs(problem, epilogue, *(None if t is None else t.double() for t in (a, b, bias, added)))
            torch.testing.assert_close(found.double(), wanted, rtol=4e-3, atol=4e-3)
    kinds = [type(run.args[0] if hasattr(run, "args") else run).__name__ for run in _runs.values()]
    assert kinds == ["Replay"] * 5


@pytest.mark.parametrize("family", ["stencil", "pointwise", "igemm", "grouped"])
@pytest.mark.parametrize("epilogue", [Epilogue("silu"), Epilogue("relu"), Epilogue("clamp", (-0.5, 0.7))], ids=str)
@each_face
def test_gradients(family, epilogue, face, device):
    """By all four operands, and the second ones, against torch's autograd in float64."""
    case = CASES[family][1]
    problem = case.problem(face, torch.float64, False, device)
    leaves = [t.requires_grad_() for t in operands(problem)]
    seed = torch.randn(problem.open_shape, dtype=torch.float64, device=device)
    found = []
    for y in (call(family, problem, epilogue, *leaves), torchs(problem, epilogue, *leaves)):
        first = torch.autograd.grad(y, leaves, seed, create_graph=True)
        second = torch.autograd.grad(first[0].square().sum(), leaves[1], retain_graph=True)
        found.append([y, *first, *second])
    torch.testing.assert_close(*found)


def test_gradcheck(device):
    problem = Case("", (3, 4), 1, 2, 2, 2, 3, 1, 1).problem("fprop", torch.float64, False, device)
    leaves = [t.requires_grad_() for t in operands(problem)]
    assert torch.autograd.gradcheck(lambda *t: call("stencil", problem, Epilogue("tanh"), *t), leaves)
