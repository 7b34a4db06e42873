"""A convolution with what follows it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from convext.choice import settings
from convext.conversion.fusion import chosen, onednn, pointwise, stencil
from convext.operators.autograd import reverse_mode
from convext.operators.plain import is_plain
from convext.problem.epilogue import Epilogue

PACKED = "_packed"
Packed = onednn.Packed | stencil.Packed | pointwise.Packed
_LAID_OUT: dict[str, type[Packed]] = {
    "onednn": onednn.Packed,
    "stencil": stencil.Packed,
    "pointwise": pointwise.Packed,
}
OURS = ("stencil", "pointwise")


class Fused(nn.Module):
    """epilogue(conv(x)) or epilogue(conv(x) + residual): a convolution of an inference, with what follows it.

    x and the result as of `conv`; `residual` of the result's shape, or of one that broadcasts with it. Four ways lead
    there, which agree within the tolerance rule:

    - "onednn", torch's fused operator for CPUs: one pass, the result is channels last. In float32 or bfloat16. To the
      results of several groups it adds a residual in a second pass, and in float32 alone.
    - "stencil", our own kernel of depthwise convolutions for CPUs: one pass, the result has the format of x.
    - "pointwise", our own of one tap, in float32: one pass, the result is channels last.
    - "conv", `conv` and torch's activation, in place where no gradient is asked for. `conv` runs whichever kernel is
      chosen for it.

    All but the last are for plain eager code on a CPU, where no gradient is asked for and "auto" chooses. On GPUs, and
    by kernels that are asked for by name, such code goes by `convext::activated`: what follows `conv` is computed at
    the store of the kernel that is chosen, if it can. Everywhere else it is the last: under torch.compile and
    torch.export too, where Inductor fuses the two.

    Attributes:
        conv: with the norm beside it folded into its weight.
        epilogue: the activation.
        adds: whether it is called with a residual.
        ways: those that it has.
        way: the first of `ways`, or the one that was measured to be faster on this machine.
        takes_chosen: whether `convext::activated` computes it.
    """

    def __init__(self, conv: nn.Module, epilogue: Epilogue, adds: bool) -> None:
        super().__init__()
        self.conv: Any = conv
        self.epilogue = epilogue
        self.adds = adds
        first = ("onednn", "conv") if onednn.takes(conv, epilogue, adds) else ("conv",)
        ours = {"stencil": stencil.takes(conv, epilogue, adds), "pointwise": pointwise.takes(conv)}
        self.ways = (*first, *(way for way, takes in ours.items() if takes))
        self.way = self.ways[0]
        self.takes_chosen = chosen.takes(conv, epilogue, adds)

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        plain = is_plain(x, residual)
        if plain and self.takes_chosen and chosen.goes_first(x.device.type):
            if not reverse_mode(x, residual, self.conv.weight, self.conv.bias):
                result = chosen.run(self.conv, self.epilogue, x, residual)
                if result is not None:
                    return result
        elif plain and self.way != "conv" and settings.BACKEND == "auto" and x.is_cpu:
            held = self._modules["conv"]._parameters  # type: ignore[union-attr]  # each self.conv takes half a microsecond
            weight, bias = held.get("weight"), held.get("bias")
            if weight is not None and weight.dtype is x.dtype and not reverse_mode(x, residual, weight, bias):
                laid_out = self._packed_for(weight)
                if laid_out.takes(x, residual):
                    return laid_out.run(x, bias, residual)
        y: Tensor = self.conv(x)
        in_place = plain and not reverse_mode(y, residual)
        if residual is not None:
            y = y.add_(residual) if in_place and _fits(residual, y.shape, y.dtype) else y + residual
        return self.epilogue.in_place(y) if in_place else self.epilogue(y)

    def _packed_for(self, weight: Tensor) -> Packed:
        kept: dict[str, Packed] = self.__dict__.setdefault(PACKED, {})
        laid_out = kept.get(self.way)
        if laid_out is None or not laid_out.is_of(weight):
            kept[self.way] = laid_out = _LAID_OUT[self.way](self.conv, self.epilogue)
        return laid_out

    def forget(self) -> None:
        """Frees the weights that are laid out, for each way that was gone: the next call makes its own anew."""
        self.__dict__.pop(PACKED, None)

    def __getstate__(self) -> dict[str, Any]:
        """Without the weight as it is laid out, which torch cannot copy or pickle: the next call makes it anew."""
        return {name: value for name, value in self.__dict__.items() if name != PACKED}

    def extra_repr(self) -> str:
        return f"epilogue={self.epilogue}{', with a residual' if self.adds else ''}, way={self.way}"


def _fits(residual: Tensor, shape: torch.Size, dtype: torch.dtype) -> bool:
    return residual.shape == shape and residual.dtype is dtype
