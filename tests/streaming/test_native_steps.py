"""Steps of float32 streams by the compiled library: what torch computes of the whole signal in float64."""

from __future__ import annotations

import copy
import ctypes
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from causal_networks import Apply, TorchWaveNet, batch_norm, gated, padded, residual, stepped, trimmed, upsampled
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm
from torch.utils.flop_counter import FlopCounterMode

import convext
from convext.blocks import WaveNetStack
from convext.providers.cpu import library
from convext.streams.native import step as native

C, LENGTH = 20, 80  # no whole number of vectors
SIZES = (3, 1, 1, 0, 2, 1, 7, 16, 17, 1, 5)
pytestmark = pytest.mark.skipif(library.unavailable() is not None, reason=f"{library.unavailable()}")


@pytest.fixture(autouse=True)
def no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def signal(batch: int = 2, length: int = LENGTH) -> Tensor:
    return torch.randn(batch, C, length)


def agree(y: Tensor, model: nn.Module, x: Tensor) -> None:
    """y is what the model gives in float64, but for a few times the error of float32's own whole signal."""
    whole = model(x)
    exact = copy.deepcopy(model).double()(x.double())
    allowed = 4 * (whole - exact).abs().max() + 1e-6 * exact.abs().max()
    assert (y - exact).abs().max() <= allowed


def runs_directly(stream: convext.streams.Stream, chunk: Tensor, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the library makes a step of `chunk`, on a copy of the stream."""
    calls = []
    with monkeypatch.context() as patch:
        run = native.Direct.__call__
        patch.setattr(native.Direct, "__call__", lambda self, chunks: (calls.append(1), run(self, chunks))[1])
        copy.deepcopy(stream).step(chunk)
    return bool(calls)


DIRECT: dict[str, Callable[[], nn.Module]] = {
    "dense": lambda: padded(C, 3, d=2),
    "one tap": lambda: nn.Conv1d(C, 7, 1),
    "no bias": lambda: nn.Sequential(nn.ZeroPad1d((1, 0)), nn.Conv1d(C, 33, 2, bias=False)),
    "far": lambda: padded(C, 4, d=19),
    "depthwise": lambda: padded(C, 5, groups=C),
    "depthwise with a multiplier": lambda: padded(C, 3, groups=C, wider=2),
    "grouped": lambda: padded(C, 3, d=3, groups=2, wider=2),
    "trimmed": lambda: trimmed(C, 3, d=2),
    "residual": lambda: residual(padded(C, 3), nn.ReLU(), padded(C, 3, d=2)),
    "in place": lambda: residual(padded(C, 3), nn.ReLU(inplace=True), padded(C, 2), nn.LeakyReLU(0.3, inplace=True)),
    "split": lambda: Apply(lambda x, f: f(x).split([12, 8], dim=1)[1], padded(C, 3)),
    "gates": lambda: Apply(lambda x, f: (y := f(x).chunk(2, -2))[0].tanh() * y[1].sigmoid(), padded(C, 2, wider=2)),
    "numbers": lambda: Apply(lambda x, f: 0.5 * (f(x) - 1.0) + (2.0 - x), padded(C, 3)),
    "written over": lambda: Apply(lambda x, f: (y := f(x), y.mul_(2), y.add_(x), y)[-1], padded(C, 3)),
    "several": lambda: Apply(lambda x, f: f(f(x)), padded(C, 3)),
    **{
        kind.__name__: lambda kind=kind: nn.Sequential(padded(C, 3), kind(), padded(C, 2))
        for kind in (nn.ReLU, nn.SiLU, nn.GELU, nn.Hardswish, nn.Hardsigmoid, nn.Sigmoid, nn.Tanh, nn.LeakyReLU)
    },
    "GELU by tanh": lambda: nn.Sequential(padded(C, 3), nn.GELU(approximate="tanh")),
    "wavenet": lambda: TorchWaveNet(C, 7, 4),
    "convext's wavenet": lambda: WaveNetStack(C, 7, 4),
    "converted": lambda: convext.convert(nn.Sequential(padded(C, 3), nn.SiLU(), padded(C, 3, groups=C))),
}


@pytest.mark.parametrize("name", DIRECT)
def test_a_model_whose_steps_are_direct(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = DIRECT[name]().eval(), signal()
    stream = convext.streaming(model)
    y = stepped(stream, x.clone(), SIZES)
    assert runs_directly(stream, signal(length=1), monkeypatch)
    agree(y, model, x)


BY_TORCH: dict[str, Callable[[], nn.Module]] = {
    "strided": lambda: padded(C, 3, s=2),
    "transposed": lambda: upsampled(C, 4, 2),
    "batch norm": lambda: nn.Sequential(padded(C, 3), batch_norm(C)),
    "weights that are computed": lambda: nn.Sequential(nn.ZeroPad1d((2, 0)), weight_norm(nn.Conv1d(C, C, 3))),
    "channels that are broadcast": lambda: Apply(lambda x, f, g: f(x) * g(x), padded(C, 3), nn.Conv1d(C, 1, 1)),
    "a function without an instruction": lambda: nn.Sequential(padded(C, 3), nn.ELU()),
    "written over in part": lambda: Apply(lambda x, f: (y := f(x), y.chunk(2, 1)[0].relu_(), y)[-1], padded(C, 3)),
    "glu": lambda: gated(C, 3),
}


@pytest.mark.parametrize("name", BY_TORCH)
def test_a_model_whose_steps_are_torchs(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = BY_TORCH[name]().eval(), signal()
    stream = convext.streaming(model)
    y = stepped(stream, x, SIZES)
    assert not runs_directly(stream, signal(length=1), monkeypatch)
    agree(y, model, x)


@pytest.mark.parametrize("isa", library.ISAS)
@pytest.mark.parametrize("batch", [1, 3])
def test_each_instruction_set(isa: str, batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    if library.unavailable() is None and not torch.ops.convext_cpu.supports(isa):
        pytest.skip(f"this machine or this library has no {isa}")
    load = ctypes.CDLL(str(library.LIBRARY)).convext_stream_steps
    load.argtypes, load.restype = [ctypes.c_char_p], ctypes.c_void_p
    steps = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(load(isa.encode()))
    monkeypatch.setattr(native, "steps", lambda: steps)
    for model in (WaveNetStack(C, 5, 3), padded(C, 3, groups=4, wider=2), DIRECT["GELU by tanh"]()):
        x = signal(batch)
        agree(stepped(convext.streaming(model), x, SIZES), model, x)


def test_several_chunks_and_results() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.f, self.g = padded(C, 3), padded(C, 2, d=5)

        def forward(self, a: Tensor, b: Tensor) -> dict[str, Any]:
            y = self.f(a)
            return {"sum": y + b, "both": (self.g(b), y)}

    model, a, b = Two(), signal(), signal()
    stream, got = convext.streaming(model), []
    for begin in range(0, LENGTH, 4):
        y = stream.step(a[..., begin : begin + 4], b[..., begin : begin + 4])
        got.append((y["sum"], *y["both"]))
    assert stream._direct is not None
    expected = model(a, b)
    for y, whole in zip(zip(*got, strict=True), (expected["sum"], *expected["both"]), strict=True):
        torch.testing.assert_close(torch.cat(y, -1), whole, rtol=1e-4, atol=1e-5)


def changed_in_place(conv: nn.Conv1d) -> None:
    conv.weight.mul_(-2)


def changed_data(conv: nn.Conv1d) -> None:
    conv.weight.data = conv.weight.data * 3


def changed_strides(conv: nn.Conv1d) -> None:
    conv.weight.data = conv.weight.data.transpose(0, 1)


def changed_parameter(conv: nn.Conv1d) -> None:
    conv.bias = nn.Parameter(torch.randn(C))


def parametrized(conv: nn.Conv1d) -> None:
    weight_norm(conv)
    conv.parametrizations.weight.original0.mul_(0.5)


@pytest.mark.parametrize("change", [changed_in_place, changed_data, changed_strides, changed_parameter, parametrized])
def test_parameters_that_change_count_from_the_next_step_on(change: Callable[[nn.Conv1d], None]) -> None:
    """One tap: what comes does not depend on what was."""
    model, x = nn.Sequential(nn.Conv1d(C, C, 1), nn.ReLU()), signal(length=3)
    stream = convext.streaming(model)
    for _ in range(3):
        stream.step(signal(length=2))
    change(model[0])
    agree(stream.step(x), model, x)
    agree(stream.step(x), model, x)


def test_steps_by_torch_and_by_the_library_follow_each_other() -> None:
    """Gradients, an observer, a state that is read and set: each time the same signal goes on."""
    model, x = TorchWaveNet(C, 4, 2), signal(length=40)
    stream, y = convext.streaming(model), []
    for i in range(0, 40, 2):
        chunk = x[..., i : i + 2]
        if i % 8 == 2:
            with torch.enable_grad():
                given = chunk.clone().requires_grad_()
                y.append(stream.step(given))
                (by_x,) = torch.autograd.grad(y[-1].sum(), given)
                assert by_x.abs().sum() > 0
                y[-1] = y[-1].detach()
        elif i % 8 == 4:
            with FlopCounterMode(display=False) as seen:
                y.append(stream.step(chunk))
            assert seen.get_total_flops() > 0
        elif i % 8 == 6:
            another = convext.streaming(model)
            another.state = stream.state
            y.append(another.step(chunk))
            stream = copy.deepcopy(another)
            stream.model = model
        else:
            y.append(stream.step(chunk))
    agree(torch.cat(y, -1), model, x)


def test_two_streams_of_one_model() -> None:
    model, x, z = WaveNetStack(C, 4, 2), signal(), signal()
    streams = convext.streaming(model), convext.streaming(model)
    both = [(streams[0].step(x[..., i : i + 1]), streams[1].step(z[..., i : i + 1])) for i in range(LENGTH)]
    for y, given in zip(zip(*both, strict=True), (x, z), strict=True):
        agree(torch.cat(y, -1), model, given)


def test_a_new_signal_begins_with_zeros() -> None:
    model, x = padded(C, 3, d=4), signal()
    stream = convext.streaming(model)
    stepped(stream, signal(), SIZES)
    stream.reset()
    agree(stepped(stream, x, SIZES), model, x)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_dtypes_are_torchs(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = convext.streaming(padded(C, 3).to(dtype))
    stream.step(signal(length=2).to(dtype))
    assert not runs_directly(stream, signal(length=1).to(dtype), monkeypatch)


def test_a_stream_whose_chunks_do_not_fit_the_weights_is_torchs_mistake() -> None:
    with pytest.raises(RuntimeError, match="channels"):
        convext.streaming(padded(C, 3)).step(torch.randn(2, C + 1, 1))
