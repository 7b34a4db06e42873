"""What a type checker knows of convext: .ci/types runs mypy on this, and each `ignore` has to be needed."""

import torch
from torch import Tensor

import convext
from convext import lint

layer = convext.layers.DilatedConv2d(3, 4, 3, dilation=2, padding=((1, 2), 0))
y: Tensor = layer(torch.randn(1, 3, 9, 9))
net: torch.nn.Module = convext.blocks.ASPP(3, 4)
findings: list[convext.analysis.Finding] = convext.lint(net, torch.randn(1, 3, 9, 9))

unknown = convext.nosuch  # type: ignore[attr-defined]
unknown = convext.layers.NoSuch  # type: ignore[attr-defined]
number: int = lint(net, y)  # type: ignore[assignment]
number = convext.layers.CausalConv1d(1, 1, 3)  # type: ignore[assignment]
number = convext.blocks.HybridBlock(4)  # type: ignore[assignment]
convext.Conv1d(1, 1, 3, padding=1.5)  # type: ignore[arg-type]
convext.Conv1d(1, 1, 3, padding="casual")  # type: ignore[arg-type]
convext.Conv2d(1, 1, 3, padding_mode="mirror")  # type: ignore[arg-type]
convext.ConvTranspose2d(1, 1, 3, padding="same")  # type: ignore[arg-type]
