"""WaveNet: causal dilated convolutions with gates, for raw sound (van den Oord et al., arXiv 1609.03499).

x ---+-- causal conv, k = 2, dilation d --+-- tanh ----+
     |                                    +-- sigmoid -*--- 1x1 --+--- skip
     +------------------------------------------------------------+--- + --- next x
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.jit import is_scripting

from convext.blocks.observed import is_observed
from convext.choice import settings
from convext.layers import CausalConv1d, PointwiseConv1d
from convext.operators.autograd import reverse_mode
from convext.operators.gated import gated
from convext.operators.plain import is_plain
from convext.providers.cpu import gated as native


class WaveNetBlock(nn.Module):
    """A gated causal convolution with a residual and a skip: [N, C, L] -> (x + z, z), both [N, C, L].

    5C^2 + 3C parameters for k = 2: filter and gate are one convolution to 2C channels; receptive field
    (k-1) dilation + 1, all of it past.

    The padding is on the left only. With `dilation` on both sides the result has L + dilation samples, cannot be added
    to x, and reads the future.
    """

    def __init__(self, channels: int, dilation: int = 1, kernel_size: int = 2) -> None:
        super().__init__()
        self.filter_and_gate = CausalConv1d(channels, 2 * channels, kernel_size, dilation=dilation)
        self.mix = PointwiseConv1d(channels, channels)

    def forward(self, input: Tensor, total: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Returns the input of the next block, and what this one contributes to the stack's output: added to `total`,
        that of the blocks before it, where it is given.

        Where it only answers, in float32 on a CPU, it is one pass over time (`torch.ops.convext.gated`).
        """
        if is_scripting():
            return self._layer_by_layer(input, total)
        else:
            first, second = self.filter_and_gate, self.mix
            if not _in_one_pass(first, second, input, total):
                return self._layer_by_layer(input, total)
            return gated(
                input, first.weight, first.bias, second.weight, second.bias, total, first.dilation[0], "auto"
            )  # fmt: skip

    def _layer_by_layer(self, input: Tensor, total: Tensor | None) -> tuple[Tensor, Tensor]:
        filtered, gate = self.filter_and_gate(input).chunk(2, dim=-2)
        skip = self.mix(torch.tanh(filtered) * torch.sigmoid(gate))
        return input + skip, skip if total is None else total + skip


def _in_one_pass(first: nn.Module, second: nn.Module, input: Tensor, total: Tensor | None) -> bool:
    """Whether nobody wants to see what is between the two layers, and the kernel is there that is faster than them."""
    if not is_plain(input, total) or settings.BACKEND != "auto" or input.dim() != 3:
        return False
    if type(first) is not CausalConv1d or type(second) is not PointwiseConv1d:
        return False
    for layer in (first, second):
        if layer.stride != (1,) or layer.groups != 1 or layer.padding_mode != "zeros" or is_observed(layer):
            return False
    tensors = input, first.weight, first.bias, second.weight, second.bias, total
    return is_plain(*tensors) and not reverse_mode(*tensors) and native.why_not(tensors) is None


class WaveNetStack(nn.Module):
    """`layers` blocks with dilation 1, 2, 4, ..., 2^(cycle-1), over and over; the sum of their skips.

    [N, C, L] -> [N, C, L]; layers * (5C^2 + 3C) parameters; receptive field 1 + the sum of the dilations: 3070 for 30
    layers in cycles of 10, every position read.
    """

    def __init__(self, channels: int = 256, layers: int = 30, cycle: int = 10) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(WaveNetBlock(channels, 2 ** (i % cycle)) for i in range(layers))
        self.receptive_field = 1 + sum(2 ** (i % cycle) for i in range(layers))

    def forward(self, input: Tensor) -> Tensor:
        total = torch.zeros_like(input)
        x = input
        for block in self.blocks:
            x, total = block(x, total)
        return total
