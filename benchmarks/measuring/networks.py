"""Whole networks before and after `convext.convert`: forward and training step, those of torchvision and timm too.

Networks have random weights. `convert` must not change what a network says, so its output is checked first: it has to
agree with the unconverted network's about as closely as torch's two layouts agree with each other. On a CPU, `convert`
measures: it converts for the work that is timed, an answer or a step, and leaves alone what is no faster. Under
autocast each answer is a region of its own, as in most training loops.
"""

from __future__ import annotations

import copy
import importlib.util
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

import convext
from convext.benchmarks.cases.small_networks import NETWORKS
from convext.benchmarks.measuring import timing
from convext.benchmarks.measuring.gate import cudnn_benchmark
from convext.benchmarks.reporting.stats import Spread
from convext.benchmarks.reporting.table import Cell, Progress, microseconds, show
from convext.measuring.allocator import keep_freed_memory
from convext.measuring.ratios import speedup

TORCHVISION = (
    "mobilenet_v2",
    "mobilenet_v3_large",
    "efficientnet_b0",
    "convnext_tiny",
    "resnext50_32x4d",
    "shufflenet_v2_x1_0",
    "resnet50",
)
SEGMENTATION = ("deeplabv3_mobilenet_v3_large",)  # torchvision's
TIMM = ("mobilenetv4_conv_medium", "xception41", "convnextv2_tiny", "mixnet_l", "regnety_016")
POOLED = {*SEGMENTATION, "mobilenetv4_conv_medium"}  # whose batch norm follows a pool to one pixel
SIZE = 224
BATCH = {"cuda": 64, "cpu": 1}
SECONDS = {"cuda": 2.0, "cpu": 10.0}  # of sampling for each network and kind of work: a step takes 0.2 s on a CPU


@dataclass(frozen=True)
class Network:
    """What builds a network, and the shape of what it reads after the batch.

    Attributes:
        trains_on_one: whether a step of one image is possible.
    """

    build: Callable[[], torch.nn.Module]
    shape: tuple[int, ...] = (3, SIZE, SIZE)
    trains_on_one: bool = True

    @property
    def formats(self) -> dict[str, torch.memory_format]:
        """Memory formats of its input by layout; sequences have one."""
        last = {3: torch.channels_last, 4: torch.channels_last_3d}.get(len(self.shape))
        return {"nc": torch.contiguous_format} | ({} if last is None else {"cl": last})


def builders() -> dict[str, Network]:
    """Our small networks, and those of the packages that are installed."""
    found = {name: Network(build, shape) for name, (build, shape) in NETWORKS.items()}
    if importlib.util.find_spec("torchvision"):
        from torchvision import models

        found |= {f"torchvision {name}": Network(partial(models.get_model, name)) for name in TORCHVISION}
        found |= {
            f"torchvision {name}": Network(partial(_segmentation, name), trains_on_one=name not in POOLED)
            for name in SEGMENTATION
        }
    if importlib.util.find_spec("timm"):
        import timm

        found |= {
            f"timm {name}": Network(partial(timm.create_model, name), trains_on_one=name not in POOLED) for name in TIMM
        }
    return found


def named(words: Sequence[str], autocast: str | None = None) -> dict[str, Network]:
    """The networks with one of `words` in their names, or all without words; `autocast`: a device's, in bfloat16."""
    found = {name: network for name, network in builders().items() if not words or any(word in name for word in words)}
    if autocast is None:
        return found
    return {
        name: replace(network, build=partial(_in_regions, network.build, autocast)) for name, network in found.items()
    }


def _in_regions(build: Callable[[], torch.nn.Module], device: str) -> torch.nn.Module:
    return _InRegions(build(), device)


class _InRegions(torch.nn.Module):
    """A model whose every call is an autocast region in bfloat16."""

    def __init__(self, model: torch.nn.Module, device: str) -> None:
        super().__init__()
        self.model, self.device = model, device

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(self.device, torch.bfloat16):
            out: Tensor = self.model(x)
        return out


def _segmentation(name: str) -> torch.nn.Module:
    """Which returns what it says of each pixel alone, and fetches no weights."""
    from torchvision import models

    return _Out(models.get_model(name, weights_backbone=None))


class _Out(torch.nn.Module):
    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.model(x)["out"]
        return out


def contenders(network: Network, inputs: dict[str, Tensor], training: bool) -> dict[str, torch.nn.Module]:
    """The network by torch and by convext, in each layout of `inputs`, with the same weights."""
    some = inputs["nc"]
    built = network.build().to(device=some.device, dtype=some.dtype).train(training)
    result: dict[str, torch.nn.Module] = {}
    for layout, form in network.formats.items():
        # torch's hints of Module.to leave memory_format out.
        theirs = copy.deepcopy(built).to(memory_format=form)  # type: ignore[call-overload]
        ours = convext.convert(copy.deepcopy(theirs), sample=inputs[layout], measure=some.device.type == "cpu")
        result |= {f"torch/{layout}": theirs, f"convext/{layout}": ours}
    return result


def disagreement(networks: dict[str, torch.nn.Module], inputs: dict[str, Tensor]) -> str | None:
    """None, or how an output of convext's differs from torch's by more than torch's layouts, twice, and rounding."""
    modes = {name: network.training for name, network in networks.items()}
    with torch.no_grad():
        said = {name: network.eval()(inputs[name[-2:]]) for name, network in networks.items()}
    for name, training in modes.items():
        networks[name].train(training)
    eps = torch.finfo(said["torch/nc"].dtype).eps
    outputs = {name: output.double() for name, output in said.items()}
    first = outputs["torch/nc"]
    between = max((first - outputs[f"torch/{layout}"]).abs().max() for layout in inputs)
    bound = 2 * between + 16 * eps * first.abs().max()
    for layout in inputs:
        error = (outputs[f"convext/{layout}"] - outputs[f"torch/{layout}"]).abs().max()
        if not error <= bound:
            return f"convext/{layout} differs from torch by {error:.3g}, more than {bound:.3g}"
    return None


def compare(name: str, network: Network, device: str, dtype: torch.dtype) -> list[list[Cell]]:
    """Prints what was converted in one network, and returns the table's lines: forward and step, or a disagreement."""
    torch.manual_seed(0)
    images = torch.randn(BATCH[device], *network.shape, device=device, dtype=dtype)
    inputs = {layout: images.to(memory_format=form) for layout, form in network.formats.items()}
    lines = []
    with cudnn_benchmark(True):
        for work in ("forward", "step"):
            if work == "step" and BATCH[device] == 1 and not network.trains_on_one:
                continue
            networks = contenders(network, inputs, training=work == "step")
            for layout in inputs:
                said = str(convext.report(networks[f"convext/{layout}"]))
                print(f"{name}, {work}, {layout}: {said.splitlines()[0]}")
            reason = disagreement(networks, inputs)
            if reason is not None:
                return [[Cell(name), Cell("not timed"), Cell(reason, "failed")]]
            lines.append([Cell(name), Cell(work), *_measure(networks, inputs, work, device)])
    return lines


def _measure(networks: dict[str, torch.nn.Module], inputs: dict[str, Tensor], work: str, device: str) -> list[Cell]:
    """torch's and convext's time, each in its faster layout, how many layers are ours there, and the second's speed.

    A network without a layer of ours is torch's in both columns: its speed says how far apart two runs of one are.
    """

    def call(network: torch.nn.Module, x: Tensor) -> timing.Call:
        def forward(i: int) -> None:
            with torch.no_grad():
                network(x)

        def step(i: int) -> None:
            network.zero_grad(set_to_none=True)
            network(x).sum().backward()

        return forward if work == "forward" else step

    calls = {name: call(network, inputs[name[-2:]]) for name, network in networks.items()}
    for warm in calls.values():
        warm(0)
    samples = timing.interleaved(calls, device, SECONDS[device])
    medians = {name: Spread.of(times).median for name, times in samples.items()}
    theirs, ours = (
        min((name for name in medians if name.startswith(who)), key=lambda name: medians[name])
        for who in ("torch", "convext")
    )
    ratio = speedup(samples[theirs], samples[ours])
    cells = [Cell(f"{microseconds(medians[name] * 1e6)} {name[-2:]}") for name in (theirs, ours)]
    converted = len(convext.report(networks[ours]).converted)
    return [*cells, Cell(str(converted or "none")), Cell(f"{ratio.value:.2f}x", ratio.verdict)]


def main(device: str, minutes: float | None = None, words: Sequence[str] = (), autocast: bool = False) -> int:
    """Prints a table of the networks begun within `minutes`; 1 where a network disagreed, 130 after Ctrl-C."""
    found = named(words, device if autocast else None)
    if not (importlib.util.find_spec("torchvision") and importlib.util.find_spec("timm")):
        print("for more networks: pip install torchvision timm")
    if device == "cpu":
        torch.set_num_threads(1)
        keep_freed_memory()
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    body: list[list[Cell]] = []
    begin, left, interrupted = time.monotonic(), list(found), False
    with Progress(len(found), minutes) as progress:
        try:
            while left and (minutes is None or time.monotonic() < begin + 60 * minutes):
                name = left[0]
                progress.begin(name)
                try:
                    body += compare(name, found[name], device, dtype)
                except Exception as error:  # one network's: what was timed of the others is told
                    body.append([Cell(name), Cell("not timed"), Cell(str(error).partition("\n")[0], "failed")])
                progress.step(left.pop(0))
        except KeyboardInterrupt:
            interrupted = True
    title = f"batch {BATCH[device]}, {dtype}" + (", under bfloat16 autocast" if autocast else "")
    show(("network", "work", "torch", "convext", "its layers", "speed"), body, title)
    if left:
        print(f"{len(left)} of {len(found)} networks were not timed (--minutes gives more time): {', '.join(left)}")
    return 130 if interrupted else int(any(line[-1].kind == "failed" for line in body))
