"""Whole networks before and after `convext.convert`: forward and training step, where torchvision or timm is installed.

Networks have random weights. `convert` must not change what a network says, so its output is checked first: it has to
agree with the unconverted network's about as closely as torch's two layouts agree with each other.
"""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

import convext
from convext.benchmarks import timing
from convext.benchmarks.gate import cudnn_benchmark
from convext.benchmarks.stats import Spread
from convext.benchmarks.table import Cell, microseconds, show
from convext.measuring.ratios import speedup

TORCHVISION = ("mobilenet_v2", "efficientnet_b0", "convnext_tiny", "resnext50_32x4d", "shufflenet_v2_x1_0", "resnet50")
TIMM = ("mobilenetv4_conv_medium", "xception41", "convnextv2_tiny", "mixnet_l", "regnety_016")
SIZE = 224
BATCH = {"cuda": 64, "cpu": 1}
SECONDS = 2.0  # of sampling for each network and kind of work


def builders() -> dict[str, Callable[[], torch.nn.Module]]:
    """The networks of the packages that are installed."""
    found: dict[str, Callable[[], torch.nn.Module]] = {}
    if importlib.util.find_spec("torchvision"):
        from torchvision import models

        found |= {f"torchvision {name}": partial(models.get_model, name) for name in TORCHVISION}
    if importlib.util.find_spec("timm"):
        import timm

        found |= {f"timm {name}": partial(timm.create_model, name) for name in TIMM}
    return found


def contenders(build: Callable[[], torch.nn.Module], device: str, dtype: torch.dtype) -> dict[str, torch.nn.Module]:
    """The network by torch and by convext, in both layouts, with the same weights."""
    network = build().to(device=device, dtype=dtype).eval()
    result = {}
    for layout in ("nc", "cl"):
        form = torch.channels_last if layout == "cl" else torch.contiguous_format
        # torch's hints of Module.to leave memory_format out.
        result[f"torch/{layout}"] = copy.deepcopy(network).to(memory_format=form)  # type: ignore[call-overload]
        result[f"convext/{layout}"] = convext.convert(copy.deepcopy(result[f"torch/{layout}"]))
    return result


def disagreement(networks: dict[str, torch.nn.Module], x: Tensor) -> str | None:
    """None, or how an output of convext's differs from torch's by more than torch's layouts, twice, and rounding."""
    with torch.no_grad():
        outputs = {name: network(x).double() for name, network in networks.items()}
    scale = outputs["torch/nc"].abs().max()
    between = (outputs["torch/nc"] - outputs["torch/cl"]).abs().max()
    bound = 2 * between + 16 * torch.finfo(x.dtype).eps * scale
    for layout in ("nc", "cl"):
        error = (outputs[f"convext/{layout}"] - outputs[f"torch/{layout}"]).abs().max()
        if not error <= bound:
            return f"convext/{layout} differs from torch by {error:.3g}, more than {bound:.3g}"
    return None


def compare(name: str, build: Callable[[], torch.nn.Module], device: str, dtype: torch.dtype) -> list[list[Cell]]:
    """Prints what was converted in one network, and returns the table's lines: forward and step, or a disagreement."""
    torch.manual_seed(0)
    networks = contenders(build, device, dtype)
    print(f"{name}: {convext.report(networks['convext/nc'])}")
    images = torch.randn(BATCH[device], 3, SIZE, SIZE, device=device, dtype=dtype)
    with cudnn_benchmark(True):
        reason = disagreement(networks, images)
        if reason is not None:
            return [[Cell(name), Cell("not timed"), Cell(reason, "failed")]]
        return [[Cell(name), Cell(work), *_measure(networks, images, work, device)] for work in ("forward", "step")]


def _measure(networks: dict[str, torch.nn.Module], images: Tensor, work: str, device: str) -> list[Cell]:
    """torch's and convext's time, each in its faster layout, and the speed of the second to the first."""

    def call(network: torch.nn.Module, x: Tensor) -> timing.Call:
        def forward(i: int) -> None:
            with torch.no_grad():
                network(x)

        def step(i: int) -> None:
            network.zero_grad(set_to_none=True)
            network(x).sum().backward()

        return forward if work == "forward" else step

    inputs = {"nc": images, "cl": images.to(memory_format=torch.channels_last)}
    calls = {name: call(network, inputs[name[-2:]]) for name, network in networks.items()}
    for warm in calls.values():
        warm(0)
    samples = timing.interleaved(calls, device, SECONDS)
    medians = {name: Spread.of(times).median for name, times in samples.items()}
    theirs, ours = (
        min((name for name in medians if name.startswith(who)), key=lambda name: medians[name])
        for who in ("torch", "convext")
    )
    ratio = speedup(samples[theirs], samples[ours])
    cells = [Cell(f"{microseconds(medians[name] * 1e6)} {name[-2:]}") for name in (theirs, ours)]
    return [*cells, Cell(f"{ratio.value:.2f}x", ratio.verdict)]


def main(device: str) -> int:
    """Prints a table; 1 where a network disagreed, or where no package with networks is installed."""
    found = builders()
    if not found:
        print("no networks: pip install torchvision timm")
        return 1
    if device == "cpu":
        torch.set_num_threads(1)
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    body: list[list[Cell]] = []
    for name, build in found.items():
        body += compare(name, build, device, dtype)
    show(("network", "work", "torch", "convext", "speed"), body, f"{BATCH[device]} x 3 x {SIZE} x {SIZE}, {dtype}")
    return int(any(line[-1].kind == "failed" for line in body))
