"""A captured training step of a converted network is replayed with new data, and held to the step as it runs without.

    python -m convext.benchmarks.first_light.graphs

Every kernel for GPUs by name, in both memory formats. A launch from memory fills in addresses only, and those that a
graph captured are its own: so the step is captured after one that compiled, and reads its data from where it did.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import torch
from torch import Tensor, nn

import convext

LAYERS: dict[str, Callable[[], nn.Module]] = {
    "triton.stencil": lambda: nn.Conv2d(32, 32, 3, padding=1, groups=32),
    "triton.banded": lambda: nn.Conv2d(32, 32, 7, padding=3, groups=32),
    "triton.pointwise": lambda: nn.Conv2d(32, 32, 1),
    "triton.grouped": lambda: nn.Conv2d(32, 32, 3, padding=1, groups=8),
    "triton.igemm": lambda: nn.Conv2d(32, 32, 3, padding=1),
    "cuda.stencil": lambda: nn.Conv2d(32, 32, 3, padding=1, groups=32),
    "cuda.igemm": lambda: nn.Conv2d(32, 32, 3, padding=1),
    "aten": lambda: nn.Conv2d(32, 32, 3, padding=1),
}
FORMATS = {"NCHW": torch.contiguous_format, "NHWC": torch.channels_last}


def step(model: nn.Module, x: Tensor) -> list[Tensor]:
    """The loss of two layers and its gradients."""
    loss = model(x).float().square().mean()
    return [loss, *torch.autograd.grad(loss, list(model.parameters()))]


def difference(backend: str, memory_format: torch.memory_format) -> float:
    """The largest difference, relative to the largest value, of a replayed step from one that was not captured."""
    layers = nn.Sequential(LAYERS[backend](), nn.GELU(), LAYERS[backend]()).to("cuda", torch.bfloat16)
    model = convext.convert(layers)
    data = [torch.randn(4, 32, 28, 28, device="cuda", dtype=torch.bfloat16) for _ in range(3)]
    data = [x.contiguous(memory_format=memory_format) for x in data]
    read = data[0].clone()
    with convext.backend(backend):
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # compiles, and binds the launches
            for _ in range(3):
                step(model, read)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = step(model, read)
        worst = 0.0
        for x in data[1:]:
            read.copy_(x)
            graph.replay()
            for ours, theirs in zip(captured, step(model, x), strict=True):
                worst = max(worst, ((ours - theirs).abs().max() / theirs.abs().max()).item())
    return worst


def main() -> int:
    """Prints a line for each kernel; returns 1 where a replay differs."""
    if not torch.cuda.is_available():
        print("torch sees no CUDA device: nothing is captured")
        return 0
    failed = False
    for backend in LAYERS:
        for name, memory_format in FORMATS.items():
            try:
                worst = difference(backend, memory_format)
                said, right = f"differs by {worst:.2g} of the largest value", worst < 1e-2
            except Exception as error:  # what one kernel does is no reason not to try the next
                said, right = f"{type(error).__name__}: {error}", False
            print(f"{backend} {name}: {said}", flush=True)
            failed |= not right
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
