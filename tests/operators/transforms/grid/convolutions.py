"""The convolutions of the grid: tiny, odd, and each with torch's own way to compute it beside convext's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call

import convext


@dataclass(frozen=True)
class Convolution:
    """One function of `convext.functional` on one geometry.

    Attributes:
        function: "conv1d" .. "conv_transpose3d".
        x, w: shapes of input and weight.
        arguments: what both take: stride, dilation, groups, ..
        padding: as convext takes it.
        zeros: where torch does not have that padding, the zeros (before, after) each axis that it stands for.
    """

    function: str
    x: tuple[int, ...]
    w: tuple[int, ...]
    arguments: dict[str, Any] = field(default_factory=dict)
    padding: Any = 0
    zeros: tuple[tuple[int, int], ...] = ()

    def draw(self, dtype: torch.dtype, device: str) -> dict[str, Tensor]:
        """Standard normal input, weight and bias."""
        channels = self.w[1] * self.arguments.get("groups", 1) if self.transposed else self.w[0]
        shapes = {"input": self.x, "weight": self.w, "bias": (channels,)}
        return {role: torch.randn(shape, dtype=dtype, device=device) for role, shape in shapes.items()}

    @property
    def transposed(self) -> bool:
        return "transpose" in self.function

    def convexts(self, call: str, like: Tensor) -> Callable[..., Tensor]:
        """convext's function of input, weight and bias; or where `call` is "layer", its layer's."""
        if call == "layer":
            return self._of_layer(convext, self.padding, like)
        return partial(getattr(convext.functional, self.function), padding=self.padding, **self.arguments)

    def torchs(self, call: str, like: Tensor) -> Callable[..., Tensor]:
        """The same by torch.nn, after torch's own `pad` where its convolution does not have the padding."""
        padding = 0 if self.zeros else self.padding
        if call == "layer":
            convolve = self._of_layer(torch.nn, padding, like)
        else:
            convolve = partial(getattr(F, self.function), padding=padding, **self.arguments)
        sides = [side for pair in reversed(self.zeros) for side in pair]
        return lambda input, weight, bias: convolve(F.pad(input, sides), weight, bias)

    def _of_layer(self, module: ModuleType, padding: Any, like: Tensor) -> Callable[..., Tensor]:
        """A layer of `module` as a function of its input and its parameters."""
        kind = self.function.replace("conv", "Conv").replace("_transpose", "Transpose")
        channels = (self.x[1], self.w[1] if self.transposed else self.w[0])
        layer = getattr(module, kind)(
            *channels, self.w[2:], padding=padding, dtype=like.dtype, device=like.device, **self.arguments
        )
        return lambda input, weight, bias: functional_call(layer, {"weight": weight, "bias": bias}, (input,))


CONVOLUTIONS = {
    "conv1d": Convolution("conv1d", (2, 2, 4), (1, 2, 2)),
    "conv2d": Convolution("conv2d", (1, 2, 3, 2), (2, 2, 2, 1), {"stride": (2, 1)}, padding=1),
    "conv3d": Convolution("conv3d", (1, 1, 2, 2, 3), (2, 1, 2, 1, 2)),
    "transposed 1d": Convolution("conv_transpose1d", (1, 2, 2), (2, 1, 3), {"stride": 2, "output_padding": 1}, 1),
    "transposed 2d": Convolution("conv_transpose2d", (1, 2, 2, 2), (2, 2, 2, 1), {"stride": 2}),
    "transposed 3d": Convolution("conv_transpose3d", (1, 1, 1, 2, 2), (1, 2, 2, 1, 2)),
    "depthwise": Convolution("conv2d", (1, 2, 3, 2), (2, 1, 3, 2), {"groups": 2}, padding=1),
    "grouped": Convolution("conv1d", (1, 4, 3), (4, 2, 2), {"groups": 2}),
    "dilated": Convolution("conv2d", (1, 1, 4, 3), (2, 1, 2, 2), {"dilation": (3, 2)}, padding=(0, 1)),
    "causal": Convolution("conv1d", (1, 2, 4), (2, 2, 2), {"dilation": 2}, "causal", ((2, 0),)),
    "strided same": Convolution("conv1d", (1, 2, 4), (2, 2, 3), {"stride": 2}, "same", ((0, 1),)),
    "asymmetric": Convolution("conv2d", (1, 1, 3, 2), (2, 1, 2, 2), {}, ((0, 2), (1, 0)), ((0, 2), (1, 0))),
}
