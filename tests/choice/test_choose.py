"""Which kernel runs, and what happens where a named one refuses."""

import dataclasses
import os
import subprocess
import sys

import pytest
import torch

import convext
from convext.choice import registry, remembered
from convext.problem import FACES, ConvProblem


def problem(**changes):
    made = ConvProblem.of("fprop", (2, 4, 9, 8), (6, 2, 3, 3), (7, 6), (1, 1), (0, 0), (1, 1), 2, torch.float32)
    return dataclasses.replace(made, **changes)


def test_names_are_one_grammar():
    names = [kernel.name for kernel in convext.kernels()]
    assert len(set(names)) == len(names)
    providers = ("aten", "triton", "cuda", "cpu", "plain")
    assert all(kernel.name.partition(".")[0] == kernel.provider in providers for kernel in convext.kernels())
    assert names[-1] == "aten.convolution"
    assert registry.names()[0] == "auto"


@pytest.mark.parametrize("face", FACES)
def test_aten_takes_every_face_and_auto_is_aten_off_cuda(face):
    assert registry.ATEN.why_not(problem(face=face)) is None
    for backend in ("auto", "aten", "aten.convolution"):
        assert registry.choose(problem(face=face), backend) is registry.ATEN


@pytest.mark.parametrize("name", ["", "Aten", "aten.", "triton.nothing", "cudnn"])
def test_unknown_names(name):
    with pytest.raises(ValueError, match="backend must be one of auto, ") as caught:
        registry.check_backend(name)
    assert repr(name) in str(caught.value)
    before = convext.choice.settings.BACKEND
    with pytest.raises(ValueError, match="backend must be one of"), convext.backend(name):
        pytest.fail("entered")
    assert before == convext.choice.settings.BACKEND


@pytest.fixture
def picky(monkeypatch):
    """A kernel record that refuses groups, and computes fprop by ATen otherwise."""

    def why_not(p):
        return f"takes one group, not {p.groups}" if p.groups > 1 else None

    record = registry.Kernel("cuda.picky", ("fprop",), why_not, lambda *args: registry.ATEN.run(*args) + 1000)
    monkeypatch.setattr(registry, "KERNELS", [record, *registry.KERNELS])
    monkeypatch.setattr(registry, "unavailable", lambda provider, problem: None)
    remembered.forget()
    yield record
    remembered.forget()


def test_a_named_kernel_that_refuses_says_why(picky):
    with pytest.raises(ValueError, match="takes one group, not 2") as caught:
        registry.choose(problem(), "cuda.picky")
    assert "'cuda.picky' does not take this problem" in str(caught.value)
    with pytest.raises(ValueError, match="computes fprop, not wgrad"):
        registry.choose(problem(face="wgrad"), "cuda.picky")


def test_a_named_kernel_that_refuses_never_falls_back(picky, device):
    layer, x = convext.Conv2d(4, 6, 3, groups=2, device=device), torch.randn(1, 4, 5, 5, device=device)
    with convext.backend("cuda.picky"), pytest.raises(ValueError, match="takes one group, not 2"):
        layer(x)
    assert layer(x).shape == (1, 6, 3, 3)


def test_a_named_kernel_runs(picky, device):
    layer, x = convext.Conv2d(4, 6, 3, device=device), torch.randn(1, 4, 5, 5, device=device)
    with torch.no_grad(), convext.backend("cuda.picky"):
        assert layer(x).min() > 900


def test_a_provider_gives_every_reason(picky):
    with pytest.raises(ValueError, match=r"cuda\.picky: takes one group, not 2"):
        registry.choose(problem(), "cuda")


def test_on_cuda_auto_takes_the_first_that_does_not_refuse(picky, monkeypatch):
    monkeypatch.setattr(registry, "KERNELS", [picky, registry.ATEN])
    monkeypatch.setattr(registry, "cudnns_best", lambda p: None)
    monkeypatch.setattr(registry.gpu_table, "nearest", lambda p: None)
    dense = ConvProblem.of(
        "fprop", (2, 4, 9), (6, 4, 3), (7,), (1,), (0,), (1,), 1, torch.float32, device="cuda", arch=90
    )
    assert registry.choose(dense) is picky
    assert registry.choose(dataclasses.replace(dense, face="dgrad")) is registry.ATEN


def test_who_computes_both_gradients_in_one_call():
    """Those records alone, and each of them can say of a problem whether it does."""
    pairs = {kernel.name: kernel.both for kernel in convext.kernels() if kernel.both is not None}
    assert pairs.keys() == {"cuda.stencil", "aten.convolution"}
    for both in pairs.values():
        reason = both.why_not(problem(face="dgrad"))
        assert reason is None or isinstance(reason, str)


REFUSALS = [  # provider, device, ROCm's version, TRITON_INTERPRET, what the sentence says
    ("aten", "xpu", "6.4", "0", None),
    ("cpu", "cuda", None, "0", "tensors are on cuda; CPU kernels run on cpu"),
    ("plain", "xpu", None, "0", "tensors are on xpu; CPU kernels run on cpu"),
    ("plain", "cpu", "6.4", "0", None),
    ("triton", "cuda", "6.4", "0", "this torch is built for ROCm 6.4; the kernels are written for NVIDIA GPUs"),
    ("cuda", "cuda", "6.4", "0", "this torch is built for ROCm 6.4; the kernels are written for NVIDIA GPUs"),
    ("triton", "cuda", None, "0", None),
    ("triton", "cpu", None, "1", None),
    (
        "triton",
        "cpu",
        None,
        "0",
        "tensors are on cpu; Triton kernels run on cuda, or anywhere under TRITON_INTERPRET=1",
    ),
    (
        "triton",
        "cpu",
        None,
        "2",
        "tensors are on cpu; Triton kernels run on cuda, or anywhere under TRITON_INTERPRET=1",
    ),
    ("triton", "xpu", None, "", "tensors are on xpu; Triton kernels run on cuda, or anywhere under TRITON_INTERPRET=1"),
]


@pytest.mark.parametrize(("provider", "device", "hip", "interpret", "reason"), REFUSALS)
def test_what_cannot_run_on_a_device_says_why(provider, device, hip, interpret, reason, monkeypatch):
    monkeypatch.setattr(torch.version, "hip", hip)
    monkeypatch.setenv("TRITON_INTERPRET", interpret)
    monkeypatch.setattr(registry, "_installed", lambda module: module == "triton")
    assert registry.unavailable(provider, problem(device=device)) == reason


def test_without_triton_its_kernels_say_so(monkeypatch):
    monkeypatch.setattr(registry, "_installed", lambda module: False)
    assert registry.unavailable("triton", problem(device="cuda")) == "Triton is not installed: pip install triton"
    assert registry.unavailable("plain", problem()) is None


def test_an_architecture_is_ten_times_the_capability(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: {0: (9, 0), 1: (8, 6)}[device.index])
    registry.arch.cache_clear()
    assert [registry.arch(torch.device("cuda", index)) for index in (0, 1)] == [90, 86]
    registry.arch.cache_clear()


GPU = {"groups": 1, "device": "cuda", "arch": 90}
CUDNNS = [
    ({}, True),
    ({"kernel": (1, 1)}, True),
    ({"stride": (2, 1)}, True),
    ({"face": "dgrad"}, True),
    ({"face": "dgrad", "stride": (1, 2)}, False),
    ({"face": "wgrad", "stride": (1, 2)}, True),
    ({"dilation": (2, 1)}, False),
    ({"groups": 2}, False),
    ({"groups": 4}, False),
    (
        {
            "input": (9,) * 3,
            "kernel": (3,) * 3,
            "output": (7,) * 3,
            "stride": (1,) * 3,
            "pad": (0,) * 3,
            "dilation": (1,) * 3,
        },
        False,
    ),
    ({"input": (9,), "kernel": (3,), "output": (7,), "stride": (1,), "pad": (0,), "dilation": (1,)}, False),
]


@pytest.mark.parametrize(("changes", "first"), CUDNNS, ids=str)
def test_where_nothing_was_measured_aten_goes_first_in_2d_dense_and_pointwise(changes, first, monkeypatch):
    monkeypatch.setattr(registry.gpu_table, "nearest", lambda p: None)
    unmeasured = problem(**{**GPU, **changes})
    assert (registry._preference(unmeasured)[0] is registry.ATEN) == first
    assert {*registry._preference(unmeasured)} == {*registry.kernels()}


@pytest.mark.parametrize(
    ("kernel", "changes", "banded_first"),
    [
        ((7, 7), {}, True),
        ((49, 1), {}, True),
        ((8, 6), {}, False),
        ((9, 9), {"channels_last": True}, True),
        ((10, 8), {"channels_last": True}, False),
        ((10, 8), {"face": "wgrad"}, False),
    ],
    ids=str,
)
def test_bands_stand_behind_fmas_for_few_taps(kernel, changes, banded_first):
    order = [kernel.name for kernel in registry._in_order(problem(kernel=kernel, input=(90, 90), **changes))]
    assert (order.index("triton.banded") < order.index("triton.stencil")) == banded_first
    order.remove("triton.banded")
    assert order == [kernel.name for kernel in registry.kernels() if kernel.name != "triton.banded"]


@pytest.mark.parametrize("name", [kernel.name for kernel in registry.kernels()])
def test_what_was_measured_to_be_fastest_goes_first(name, monkeypatch):
    measured = registry.gpu_table.Choice("", (), name, 2.0)
    monkeypatch.setattr(registry.gpu_table, "nearest", lambda p: measured)
    monkeypatch.setattr(registry, "fastest_on_cpu", lambda p: (name, ()))
    for device in ("cuda", "cpu"):
        assert registry._preference(problem(device=device))[0].name == name


def test_installed_is_what_can_be_imported():
    assert registry._installed("torch")
    assert not registry._installed("convext_has_no_such_package")


def test_backends_nest_and_come_back():
    outer = convext.choice.settings.BACKEND
    with convext.backend("aten"):
        with convext.backend("auto"):
            assert convext.choice.settings.BACKEND == "auto"
        assert convext.choice.settings.BACKEND == "aten"
        with pytest.raises(KeyError), convext.backend("auto"):
            raise KeyError
        assert convext.choice.settings.BACKEND == "aten"
    assert outer == convext.choice.settings.BACKEND


@pytest.mark.parametrize("name", ["fp32", "TF32", ""])
def test_unknown_precisions(name):
    with pytest.raises(ValueError, match="precision must be None or one of"), convext.precision(name):
        pytest.fail("entered")


def python(code, **environment):
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **environment}, check=False
    )


def test_the_environment_sets_the_default():
    run = python("import convext; print(convext.choice.settings.BACKEND)", CONVEXT_BACKEND="aten.convolution")
    assert run.stdout.strip() == "aten.convolution", run.stderr


def test_an_unknown_name_in_the_environment_is_an_error_at_the_call():
    code = "import convext, torch; convext.Conv1d(1, 1, 1)(torch.zeros(1, 1, 1))"
    run = python(code, CONVEXT_BACKEND="nonsense")
    assert run.returncode != 0
    assert "ValueError: backend must be one of auto" in run.stderr
    assert "'nonsense'" in run.stderr


def test_explain_names_every_kernel_and_the_choice():
    text = convext.explain(problem())
    for kernel in convext.kernels():
        assert kernel.name in text
    layer = convext.Conv2d(4, 6, 3, groups=2)
    text = convext.explain(layer, (2, 4, 9, 8))
    assert all(face in text for face in FACES)
    with pytest.raises(ValueError, match="does not take an input of shape"):
        convext.explain(layer, (2, 5, 9, 8))


@pytest.mark.parametrize(
    ("layer", "last_line"),
    [
        (convext.Conv2d(4, 6, 3), "both gradients: together, by aten.convolution"),
        (convext.Conv1d(4, 6, 3, padding="causal"), "both gradients: one after the other"),
        (convext.ConvTranspose2d(4, 6, 3), "both gradients: one after the other"),
    ],
    ids=["ATen's", "asymmetric", "transposed"],
)
def test_explain_says_whether_the_gradients_are_one_call(layer, last_line):
    text = convext.explain(layer, (2, 4, *[9] * (layer.weight.dim() - 2)))
    assert text.splitlines()[-1] == last_line


@pytest.mark.parametrize("dtype", [torch.int64, torch.complex64])
def test_a_kernel_by_name_refuses_integers_and_complex_numbers(dtype: torch.dtype) -> None:
    x, w = torch.ones(1, 2, 5, 5).to(dtype), torch.ones(2, 2, 3, 3).to(dtype)
    expected = torch.nn.functional.conv2d(x, w)
    for backend in ("auto", "aten"):
        with convext.backend(backend):
            torch.testing.assert_close(convext.functional.conv2d(x, w), expected)
    with convext.backend("triton"), pytest.raises((ValueError, RuntimeError), match=r"int64|real tensors"):
        convext.functional.conv2d(x, w)


def test_a_kernel_by_name_refuses_what_only_torch_understands() -> None:
    x, w = torch.ones(1, 0, 6), torch.ones(2, 0, 3)
    expected = torch.nn.functional.conv1d(x, w)
    for backend in ("auto", "aten", "aten.convolution"):
        with convext.backend(backend):
            torch.testing.assert_close(convext.functional.conv1d(x, w), expected)
    for backend in ("cpu", "plain", "cuda", "triton"):
        with convext.backend(backend), pytest.raises(ValueError, match="only torch's own function understands"):
            convext.functional.conv1d(x, w)
