"""Layers on the CUDA kernels of the host build: a call is bound when it comes first, and made again."""

import gc
from pathlib import Path

import pytest
import torch

import convext
from convext.choice import remembered
from convext.providers.cuda import launches
from convext.replay.tape import record

LAYERS = {
    "cuda.stencil": {"kernel_size": 3, "padding": 1, "groups": 6},
    "cuda.stencil, general": {"kernel_size": (2, 5), "stride": 3, "groups": 6},
    "cuda.igemm": {"kernel_size": 3, "padding": 1},
    "cuda.igemm, groups": {"kernel_size": 3, "stride": 2, "groups": 2},
}
ORDERS = {"NCHW": torch.contiguous_format, "NHWC": torch.channels_last}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("name", LAYERS)
def test_a_call_that_comes_again(host_library: Path, name: str, order: str) -> None:
    """Outputs and all gradients of other values, and of two layers by turns, against torch.nn in float64."""
    layers = [convext.Conv2d(6, 6, **LAYERS[name]).bfloat16() for _ in range(2)]
    for _ in range(3):
        for layer in layers:
            x = torch.randn(2, 6, 9, 11).bfloat16().contiguous(memory_format=ORDERS[order]).requires_grad_()
            with convext.backend(name.partition(",")[0]):
                y = layer(x)
                gradient = torch.randn_like(y)
                found = torch.autograd.grad(y, (x, *layer.parameters()), gradient)
            reference = torch.nn.Conv2d(6, 6, **LAYERS[name]).double()
            reference.load_state_dict(layer.state_dict())
            x64 = x.detach().double().requires_grad_()
            y64 = reference(x64)
            expected = torch.autograd.grad(y64, (x64, *reference.parameters()), gradient.double())
            for ours, theirs in zip((y, *found), (y64, *expected), strict=True):
                torch.testing.assert_close(ours.double(), theirs, rtol=2**-7, atol=2**-6)


def test_calls_are_forgotten_with_what_remembers_them(host_library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forgotten = []
    monkeypatch.setattr(launches._Call, "__del__", lambda self: forgotten.append(self._number))
    remembered.forget()
    gc.collect()
    forgotten.clear()
    with convext.backend("cuda.stencil"), torch.no_grad():
        convext.Conv2d(4, 4, 3, groups=4)(torch.randn(1, 4, 5, 5))
    assert forgotten == []
    remembered.forget()
    gc.collect()
    assert len(forgotten) == 1


def test_a_bound_call_reads_the_tensors_that_it_is_given(host_library: Path) -> None:
    def run(x, w, bias):
        y = x.new_empty(1, 4, 3, 3)
        launches.Launch(
            "stencil", ("fprop",), (x, w, bias, None, y), ((1, 1), (0, 0), (1, 1), 4, "identity", 0.0, 0.0)
        )()
        return y

    w, bias = torch.randn(4, 1, 3, 3), torch.randn(4)
    first, again = (record(run, torch.randn(1, 4, 5, 5), w, b)[1] for b in (bias, None))
    for replay, given in ((first, bias), (again, None)):
        x = torch.randn(1, 4, 5, 5)
        expected = torch.nn.functional.conv2d(x, w, given, groups=4)
        torch.testing.assert_close(replay(x, w, given), expected, rtol=1e-5, atol=1e-5)
