"""A convolution with what follows it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from convext.choice import settings
from convext.conversion.fusion import onednn
from convext.conversion.fusion.epilogues import Epilogue
from convext.operators.plain import is_plain

_PACKED = "_packed"


class Fused(nn.Module):
    """epilogue(conv(x)) or epilogue(conv(x) + residual): a convolution of an inference, with what follows it.

    x and the result as of `conv`; `residual` of the result's shape, or of one that broadcasts with it. Two ways lead
    there, which agree within the tolerance rule:

    - torch's fused operator for CPUs (oneDNN): one pass, the result is channels last. In plain eager code, float32 or
      bfloat16, where no gradient is asked for and "auto" chooses.
    - `conv` and torch's activation, in place where no gradient is asked for: everywhere else, under torch.compile and
      torch.export too, where Inductor fuses the two. `conv` runs whichever kernel is chosen for it.

    Attributes:
        conv: with the norm beside it folded into its weight.
        epilogue: the activation.
        adds: whether it is called with a residual.
        way: "onednn", or "conv" where that was measured to be faster on this machine, or the only one.
    """

    def __init__(self, conv: nn.Module, epilogue: Epilogue, adds: bool) -> None:
        super().__init__()
        self.conv: Any = conv
        self.epilogue = epilogue
        self.adds = adds
        self.way = "onednn" if onednn.takes(conv, epilogue, adds) else "conv"
        if (
            self.way == "onednn"
        ):  # whose neighbours' results are channels last: so is this weight, and no call copies it
            onednn.lay_out(conv)

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        if self.way == "onednn" and self._runs_on_onednn(x, residual):
            return self._packed_for(x).run(x, self.conv.bias, residual, self.epilogue)
        y: Tensor = self.conv(x)
        in_place = not (torch.is_grad_enabled() and y.requires_grad) and is_plain(y, residual)
        if residual is not None:
            y = y.add_(residual) if in_place and _fits(residual, y.shape, y.dtype) else y + residual
        return self.epilogue.in_place(y) if in_place else self.epilogue(y)

    def _runs_on_onednn(self, x: Tensor, residual: Tensor | None) -> bool:
        conv = self.conv
        if settings.BACKEND != "auto" or not is_plain(x, residual):
            return False
        if not (x.is_cpu and x.dtype is conv.weight.dtype and x.dim() == conv.weight.dim() and onednn.has(x.dtype)):
            return False
        if torch.is_grad_enabled() and any(
            t is not None and t.requires_grad for t in (x, residual, conv.weight, conv.bias)
        ):
            return False
        if residual is not None and x.dtype is not torch.float32:  # torch adds no bfloat16 where it takes another way
            return False
        shape = self._result(x)
        return min(x.shape) > 0 and shape is not None and (residual is None or _fits(residual, shape, x.dtype))

    def _result(self, x: Tensor) -> torch.Size | None:
        """The result's shape; None for what torch's convolution refuses."""
        conv = self.conv
        per_axis = zip(x.shape[2:], conv.padding, conv.dilation, conv.kernel_size, conv.stride, strict=True)
        space = [(i + 2 * p - d * (k - 1) - 1) // s + 1 for i, p, d, k, s in per_axis]
        if x.shape[1] != conv.in_channels or min(space) < 1:
            return None
        return torch.Size((x.shape[0], conv.out_channels, *space))

    def _packed_for(self, x: Tensor) -> onednn.Packed:
        packed: onednn.Packed | None = self.__dict__.get(_PACKED)
        if packed is None or not packed.is_of(self.conv.weight):
            self.__dict__[_PACKED] = packed = onednn.Packed(self.conv, x)
        return packed

    def __getstate__(self) -> dict[str, Any]:
        """Without the weight in blocks: torch can neither copy nor pickle it, and the next call makes it anew."""
        return {name: value for name, value in self.__dict__.items() if name != _PACKED}

    def extra_repr(self) -> str:
        return f"epilogue={self.epilogue}{', with a residual' if self.adds else ''}, way={self.way}"


def _fits(residual: Tensor, shape: torch.Size, dtype: torch.dtype) -> bool:
    return residual.shape == shape and residual.dtype is dtype
