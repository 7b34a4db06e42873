"""What torch runs for a layer: its forward, and the two gradients as autograd calls them.

Zeros that torch cannot take as symmetric padding are a padded copy, as a user would write it. The weight gradient finds
that copy ready, as it does in a training step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad as constant_pad

from convext.benchmarks.cases.case import Case, Tensors, Work
from convext.benchmarks.cases.layers import Layer

Modules = dict[int, Callable[..., torch.nn.Module]]  # by rank
CONV: Modules = {1: torch.nn.Conv1d, 2: torch.nn.Conv2d, 3: torch.nn.Conv3d}
CONV_TRANSPOSE: Modules = {1: torch.nn.ConvTranspose1d, 2: torch.nn.ConvTranspose2d, 3: torch.nn.ConvTranspose3d}
PAD: Modules = {1: torch.nn.ConstantPad1d, 2: torch.nn.ConstantPad2d, 3: torch.nn.ConstantPad3d}


def face(case: Case) -> Callable[[Tensors], Tensor]:
    """The case's face by torch's own operators."""
    layer, work = case.layer, case.work
    return _Calls(layer).by_work(work)


class _Calls:
    """torch.convolution and its backward with one layer's arguments, x, w and y by their roles in the problem."""

    def __init__(self, layer: Layer) -> None:
        self.transposed = layer.transposed
        self.pads = torch_pads(layer)
        padding = (0,) * len(layer.stride) if self.pads else layer.begin
        self.arguments: tuple[Any, ...] = (
            layer.stride, padding, layer.dilation, layer.transposed, layer.output_padding, layer.groups,
        )  # fmt: skip

    def by_work(self, work: Work) -> Callable[[Tensors], Tensor]:
        if work == "wgrad":
            return self.weight_gradient
        return self.forward if work == ("dgrad" if self.transposed else "fprop") else self.input_gradient

    def _input(self, t: Tensors) -> Tensor:
        return t["y"] if self.transposed else t["x"]

    def _output(self, t: Tensors) -> Tensor:
        return t["x"] if self.transposed else t["y"]

    def forward(self, t: Tensors) -> Tensor:
        input = self._input(t)
        if self.pads:
            input = constant_pad(input, self.pads)
        return torch.convolution(input, t["w"], None, *self.arguments)

    def _backward(self, t: Tensors, input: Tensor, which: tuple[bool, bool, bool]) -> tuple[Tensor, ...]:
        return torch.ops.aten.convolution_backward(self._output(t), input, t["w"], None, *self.arguments, which)

    def input_gradient(self, t: Tensors) -> Tensor:
        gradient = self._backward(t, self._padded(t), (True, False, False))[0]
        return constant_pad(gradient, [-p for p in self.pads]) if self.pads else gradient

    def weight_gradient(self, t: Tensors) -> Tensor:
        return self._backward(t, self._padded(t), (False, True, False))[1]

    def _padded(self, t: Tensors) -> Tensor:
        """The input as the forward's convolution saw it: made once, at the first call for these tensors."""
        if not self.pads:
            return self._input(t)
        if "padded" not in t:
            t["padded"] = constant_pad(self._input(t), self.pads)
        return t["padded"]


def torch_pads(layer: Layer) -> list[int]:
    """What torch.nn.functional.pad has to add around the input, last axis first; empty where `padding` says it all."""
    if layer.begin == layer.end:
        return []
    return [v for b, e in zip(reversed(layer.begin), reversed(layer.end), strict=True) for v in (b, e)]


def module(layer: Layer, dtype: torch.dtype, device: str) -> torch.nn.Module:
    """The layer as torch.nn's module, after a padding module where torch needs one."""
    rank = len(layer.stride)
    channels_in, channels_out = layer.input[1], layer.output[1]
    settings: dict[str, Any] = {
        "kernel_size": layer.weight[2:], "stride": layer.stride, "dilation": layer.dilation,
        "groups": layer.groups, "bias": layer.bias, "dtype": dtype, "device": device,
    }  # fmt: skip
    if layer.transposed:
        settings |= {"padding": layer.begin, "output_padding": layer.output_padding}
        return CONV_TRANSPOSE[rank](channels_in, channels_out, **settings)
    if pads := torch_pads(layer):
        return torch.nn.Sequential(PAD[rank](tuple(pads), 0.0), CONV[rank](channels_in, channels_out, **settings))
    return CONV[rank](channels_in, channels_out, padding=layer.begin, **settings)
