"""Other packages' kernels compete where they fit, through the calls that they document, and pass the same gate.

The packages need a GPU, so stand-ins with the same signatures take their place here.
"""

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.machinery import ModuleSpec
from types import ModuleType

import pytest
import torch
from torch import Tensor
from torch.nn.functional import conv1d, conv2d

from convext.benchmarks.cases.case import LAYOUTS, Case, ordered
from convext.benchmarks.cases.layers import Layer
from convext.benchmarks.cases.sweep import sweep_layers
from convext.benchmarks.measuring import others, providers
from convext.benchmarks.measuring.gate import Gate

CAUSAL = replace(next(layer for layer in sweep_layers("causal") if layer.weight[-1] == 4), input=(2, 768, 33))


def causal(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """[N, C, L] and [C, k] to [N, C, L], as causal_conv1d's README defines its result."""
    return conv1d(x, weight[:, None], bias, padding=weight.shape[1] - 1, groups=weight.shape[0])[..., : x.shape[-1]]


class ShortConvolution(torch.nn.Conv1d):
    def __init__(self, hidden_size: int, kernel_size: int, activation: str | None = "silu", **kwargs: object) -> None:
        assert activation is None
        super().__init__(hidden_size, hidden_size, kernel_size, groups=hidden_size, bias=False, **kwargs)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        assert x.is_contiguous()  # [N, L, C]
        return causal(x.transpose(1, 2), self.weight[:, 0]).transpose(1, 2), None


def install(monkeypatch: pytest.MonkeyPatch, name: str, **members: object) -> None:
    module = ModuleType(name)
    module.__spec__ = ModuleSpec(name, None)
    vars(module).update(members)
    monkeypatch.setitem(sys.modules, name, module)


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    for known in (others._installed, others._module):
        known.cache_clear()
    yield
    for known in (others._installed, others._module):
        known.cache_clear()


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, "causal_conv1d", causal_conv1d_fn=causal)
    install(monkeypatch, "fla")
    install(monkeypatch, "fla.modules", ShortConvolution=ShortConvolution)
    operators = ModuleType("cudnn.ops")
    operators.causal_conv1d = causal  # type: ignore[attr-defined]
    install(monkeypatch, "cudnn", ops=operators)
    install(monkeypatch, "cudnn.ops")
    install(monkeypatch, "flag_gems", conv2d=conv2d)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))


def offered(layer: Layer, work: str = "fprop", dtype: torch.dtype = torch.float32) -> list[tuple[str, str]]:
    return [(provider, where) for provider, where, _ in others.others(Case(layer, work, dtype, "cuda"))]  # type: ignore[arg-type]


@pytest.mark.usefixtures("installed")
def test_their_results_pass_the_gate_and_a_wrong_one_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case(CAUSAL, "fprop", torch.float32, "cpu")
    tensors = {name: ordered(case.draw(), name) for name in LAYOUTS}
    gate = Gate(case, tensors)
    found = others.others(replace(case, device="cuda"))
    assert [entry[:2] for entry in found] == [
        ("causal_conv1d", "nc"), ("causal_conv1d", "cl"), ("fla.ShortConvolution", "cl"),
    ]  # fmt: skip
    for _, where, call in found:
        assert gate.refusal(where, (call(tensors[where]),)) is None
    install(monkeypatch, "causal_conv1d", causal_conv1d_fn=lambda x, w: causal(x, w.flip(1)))
    call: Callable[..., Tensor] = found[0][2]
    assert "error" in (gate.refusal("nc", (call(tensors["nc"]),)) or "")


@pytest.mark.usefixtures("installed")
def test_they_compete_where_they_fit_only() -> None:
    assert len(offered(CAUSAL, dtype=torch.bfloat16)) == 3
    assert offered(CAUSAL, "wgrad") == offered(CAUSAL, dtype=torch.float64) == []
    assert offered(replace(CAUSAL, end=(3,))) == []  # longer than its input: not causal
    assert offered(replace(CAUSAL, begin=(4,), end=(0,))) == []
    assert offered(replace(CAUSAL, begin=(6,), dilation=(2,))) == []
    odd = replace(CAUSAL, input=(2, 5, 33), weight=(5, 1, 4), groups=5)
    assert offered(odd) == [("causal_conv1d", "nc"), ("fla.ShortConvolution", "cl")]
    long = replace(CAUSAL, weight=(768, 1, 5), begin=(4,))
    assert offered(long) == [("fla.ShortConvolution", "cl")]
    assert others.others(Case(CAUSAL, "fprop", torch.float32, "cpu")) == []


@pytest.mark.usefixtures("installed")
def test_cudnns_own_is_offered_on_blackwell(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case(CAUSAL, "fprop", torch.float32, "cpu")
    tensors = case.draw()
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (10, 0))
    provider, where, call = others.others(replace(case, device="cuda"))[-1]
    assert (provider, where) == ("cudnn.ops", "nc")
    assert Gate(case, {"nc": tensors}).refusal("nc", (call(tensors),)) is None


@pytest.mark.usefixtures("installed")
def test_what_tunes_itself_is_offered_with_compiled_only() -> None:
    layer = Layer("", "", "", (2, 4, 9, 8), (6, 2, 3, 2), (2, 1), (1, 0), (1, 0), (1, 2), (0, 0), 2, False)
    case = Case(layer, "fprop", torch.float32, "cpu")
    assert others.others(replace(case, device="cuda")) == []
    ((provider, where, call),) = others.others(replace(case, device="cuda"), compiled=True)
    assert (provider, where) == ("flag_gems", "nc")
    tensors = case.draw()
    assert Gate(case, {"nc": tensors}).refusal("nc", (call(tensors),)) is None
    padded = replace(layer, begin=(2, 0))
    assert others.others(Case(padded, "fprop", torch.float32, "cuda"), compiled=True) == []


def test_nothing_is_offered_where_nothing_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(others.importlib.util, "find_spec", lambda name: None)
    assert offered(CAUSAL) == []


@pytest.mark.usefixtures("installed")
def test_they_are_among_the_contenders_and_are_no_baseline(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case(CAUSAL, "fprop", torch.float32, "cpu")
    fitting = others.others(replace(case, device="cuda"))
    monkeypatch.setattr(providers, "others", lambda case, compiled: fitting)
    last = list(providers.contenders(case))[-3:]
    assert [c.name for c in last] == ["causal_conv1d/nc", "causal_conv1d/cl", "fla.ShortConvolution/cl"]
    assert not any(providers.is_baseline(c.name) for c in last)
    tensors = ordered(case.draw(), "cl")
    torch.testing.assert_close(last[1].call(tensors), last[2].call(tensors))
