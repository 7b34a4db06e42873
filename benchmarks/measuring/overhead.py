"""Host time of a layer's call against torch.nn's, in microseconds, and where it goes.

The tensors are tiny and on the CPU, so that the kernel itself takes next to nothing and what is left is the way to it:

    auto      on the CPU that is torch's own function, past all checks of ours
    aten      through convext's operator, as every call on a GPU goes
    operator  convext.operators.convolve by itself, under aten: the layer's argument handling left out

Timed is the processor time of this thread, in which everything here runs: what else the machine does stays out.
"""

from __future__ import annotations

import time
import timeit
from collections.abc import Callable

import torch
from torch import Tensor

import convext
from convext.benchmarks.reporting.stats import Spread
from convext.benchmarks.reporting.table import Cell, show
from convext.choice import settings
from convext.operators import convolve, forward
from convext.problem import ConvProblem, Face
from convext.providers import aten

CALLS, ROUNDS = 200, 15
LAYERS: dict[str, tuple[str, tuple[int, ...], dict[str, int]]] = {
    "pointwise 8>8, 8x8": ("Conv2d", (1, 8, 8, 8), {"kernel_size": 1}),
    "depthwise 3x3, 8x8": ("Conv2d", (1, 8, 8, 8), {"kernel_size": 3, "padding": 1, "groups": 8}),
    "1-D k 3, 16": ("Conv1d", (1, 8, 16), {"kernel_size": 3, "padding": 1}),
    "transposed 2x2 s 2, 8x8": ("ConvTranspose2d", (1, 8, 8, 8), {"kernel_size": 2, "stride": 2}),
}


def microseconds(calls: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Median microseconds a call, the calls taking turns in `ROUNDS` rounds of `CALLS`."""
    timers = {name: timeit.Timer(call, timer=time.thread_time) for name, call in calls.items()}
    for timer in timers.values():
        timer.timeit(CALLS)
    samples: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(ROUNDS):
        for name, timer in timers.items():
            samples[name].append(timer.timeit(CALLS) / CALLS * 1e6)
    return {name: Spread.of(values).median for name, values in samples.items()}


def layer_calls(kind: str, shape: tuple[int, ...], arguments: dict[str, int]) -> dict[str, dict[str, float]]:
    """Microseconds by path, for {"forward", "forward and backward"} of one layer."""
    theirs = getattr(torch.nn, kind)(shape[1], shape[1], **arguments)
    ours = getattr(convext, kind)(shape[1], shape[1], **arguments)
    x = torch.randn(shape)
    inputs = x.clone().requires_grad_()

    def forward(layer: torch.nn.Module, backend: str) -> Callable[[], object]:
        def call() -> Tensor:
            with torch.no_grad():
                return layer(x)

        return _under(backend, call)

    def both(layer: torch.nn.Module, backend: str) -> Callable[[], object]:
        parameters = list(layer.parameters())
        gradient = torch.ones_like(layer(x))
        return _under(backend, lambda: torch.autograd.grad(layer(inputs), [inputs, *parameters], gradient))

    result = {}
    for title, build in (("forward", forward), ("forward and backward", both)):
        paths = {"torch.nn": build(theirs, "auto"), "auto": build(ours, "auto"), "aten": build(ours, "aten")}
        if title == "forward" and not ours.transposed:
            paths["operator"] = _operator(ours, x)
        result[title] = microseconds(paths)
    return result


def _under(backend: str, call: Callable[[], object]) -> Callable[[], object]:
    """`call` under a backend, by bare assignment: the context manager's own cost is no part of a layer's call."""

    def under() -> object:
        settings.BACKEND = backend
        return call()

    return under


def _operator(layer: convext.Conv1d | convext.Conv2d, x: Tensor) -> Callable[[], object]:
    weight, bias = (parameter.detach() for parameter in layer.parameters())
    size = layer(x).shape[2:]
    geometry = (tuple(size), layer.stride, layer.padding, layer.dilation, layer.groups, "aten")
    return lambda: convolve("fprop", x, weight, bias, *geometry)


def parts() -> dict[str, float]:
    """Where the microseconds of one depthwise forward through the operator go, from the inside out."""
    x, w, b = torch.randn(1, 8, 8, 8), torch.randn(8, 1, 3, 3), torch.randn(8)
    one = (1, 1)
    face: Face = "fprop"
    problem = ConvProblem.of(face, x.shape, w.shape, (8, 8), one, one, one, 8, x.dtype)
    arguments = (face, x, w, b, (8, 8), one, one, one, 8, "aten")
    layer = convext.Conv2d(8, 8, 3, padding=1, groups=8)
    return microseconds(
        {
            "torch.convolution": lambda: torch.convolution(x, w, b, one, one, one, False, (0, 0), 8),
            "+ the record's run": lambda: aten.run(problem, x, w, b),
            "+ plan and checks": lambda: forward.compute(*arguments),
            "+ is the dispatcher needed": lambda: convolve(*arguments),
            "+ layer and its arguments": _under("aten", lambda: layer(x)),
            "instead: the dispatcher": lambda: torch.ops.convext.fprop(*arguments[1:]),
        }
    )


def main() -> int:
    """Prints both tables, and with a GPU that of every Triton kernel on it; returns 0."""
    torch.set_num_threads(1)
    with convext.backend("auto"):  # put back at the end
        _print_tables()
    if torch.cuda.is_available():
        from convext.benchmarks.measuring import host_time

        host_time.main("cuda")
    return 0


def _print_tables() -> None:
    body = []
    for name, (kind, shape, arguments) in LAYERS.items():
        for title, times in layer_calls(kind, shape, arguments).items():
            base = times["torch.nn"]
            cells = [
                Cell(f"{times[p]:.1f} ({times[p] / base:.2f}x)" if p in times else "")
                for p in ("auto", "aten", "operator")
            ]
            body.append([Cell(name), Cell(title), Cell(f"{base:.1f}"), *cells])
    show(("layer", "call", "torch.nn", "auto", "aten", "operator"), body, "host microseconds a call (to torch.nn's)")
    with torch.no_grad():
        inside = parts()
    show(
        ("path", "us"), [[Cell(k), Cell(f"{v:.1f}")] for k, v in inside.items()], "where they go: depthwise 3x3 forward"
    )
