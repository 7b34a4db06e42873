"""Host time of a layer's call by every family for GPUs, and by ATen asked for by name, beside torch.nn's smallest.

A GPU runs on while Python goes ahead, so a call's host time is what it takes to return: the tensors are small, and
nothing waits for what was launched. The base is `torch.nn.Conv2d(1, 1, 1)` on a CPU tensor of one element: torch's own
way to a kernel with next to no kernel at its end. ATen by name computes the same. A ratio is of interleaved times.

Without a GPU, `tests/device/host_time.py` measures the same over a libcuda on which launches do nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import convext
from convext.benchmarks.measuring.overhead import microseconds
from convext.benchmarks.reporting.table import Cell, show
from convext.choice import settings
from convext.providers.cuda import native


@dataclass(frozen=True)
class Call:
    """A layer that a family takes, on [1, channels, size, size], and, without `two_axes`, on [1, channels, size]."""

    backend: str
    channels: int
    size: int
    arguments: dict[str, Any]
    dtype: torch.dtype = torch.bfloat16
    two_axes: bool = False


CALLS = (
    Call("triton.stencil", 32, 8, {"kernel_size": 3, "padding": 1, "groups": 32}),
    Call("triton.banded", 32, 8, {"kernel_size": 7, "padding": 3, "groups": 32}, two_axes=True),
    Call("triton.pointwise", 32, 8, {"kernel_size": 1}),
    Call("triton.grouped", 32, 8, {"kernel_size": 3, "padding": 1, "groups": 8}),
    Call("triton.igemm", 32, 8, {"kernel_size": 3, "padding": 1}),
    Call("cuda.stencil", 32, 8, {"kernel_size": 3, "padding": 1, "groups": 32}),
    Call("cuda.igemm", 32, 8, {"kernel_size": 3, "padding": 1}),
    Call("aten", 1, 1, {"kernel_size": 1}, torch.float32),
)
LAYERS = {
    "NCHW": ("Conv2d", torch.contiguous_format), "NHWC": ("Conv2d", torch.channels_last),
    "transposed, NCHW": ("ConvTranspose2d", torch.contiguous_format),
    "transposed, NHWC": ("ConvTranspose2d", torch.channels_last), "NCL": ("Conv1d", torch.contiguous_format),
}  # fmt: skip
TITLES = ("forward", "forward and backward")


def paths(layer: torch.nn.Module, x: Tensor, backend: str) -> dict[str, Callable[[], object]]:
    """The layer's forward without gradients, and its forward with all its gradients, under `backend`."""
    inputs, parameters = x.clone().requires_grad_(), list(layer.parameters())
    settings.BACKEND = backend  # by bare assignment: the context manager's own cost is no part of a layer's call
    gradient = torch.ones_like(layer(x))

    def forward() -> object:
        settings.BACKEND = backend
        with torch.no_grad():
            return layer(x)

    def both() -> object:
        settings.BACKEND = backend
        return torch.autograd.grad(layer(inputs), [inputs, *parameters], gradient)

    return dict(zip(TITLES, (forward, both), strict=True))


def smallest() -> dict[str, Callable[[], object]]:
    """torch.nn's own call on a CPU tensor of one element."""
    return paths(torch.nn.Conv2d(1, 1, 1), torch.randn(1, 1, 1, 1), "auto")


def calls(device: str) -> Iterator[tuple[str, str, dict[str, Callable[[], object]]]]:
    """(backend, layer, its paths) of every call, but for kernels that were not built."""
    for call in CALLS:
        if call.backend.startswith("cuda.") and native.unavailable(device):
            continue
        for name, (kind, memory_format) in LAYERS.items():
            rank = int(kind[-2])
            if rank == 1 and call.two_axes:
                continue
            like: dict[str, Any] = {"device": device, "dtype": call.dtype}
            layer = getattr(convext, kind)(call.channels, call.channels, **call.arguments, **like)
            layer.weight.data = layer.weight.data.contiguous(memory_format=memory_format)
            x = torch.randn(1, call.channels, *[call.size] * rank, **like).contiguous(memory_format=memory_format)
            yield call.backend, name, paths(layer, x, call.backend)


def main(device: str) -> int:
    """Prints the table; returns 0."""
    with convext.backend("auto"):  # put back at the end
        rows = [_row(*call) for call in calls(device)]
    title = f"host microseconds a call (to torch.nn's smallest on a CPU), kernels on {device}"
    show(("kernel", "layer", *TITLES), rows, title)
    return 0


def _row(backend: str, layer: str, ours: dict[str, Callable[[], object]]) -> list[Cell]:
    cells = []
    for title, theirs in smallest().items():
        times = microseconds({"ours": ours[title], "base": theirs})
        cells.append(Cell(f"{times['ours']:.1f} ({times['ours'] / times['base']:.2f}x of {times['base']:.1f})"))
    return [Cell(backend), Cell(layer), *cells]
