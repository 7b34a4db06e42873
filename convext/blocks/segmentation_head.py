"""Context by dilation where a classifier would stride, so that the map keeps its resolution (arXiv 1511.07122)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import nn

from convext.layers import DilatedConv2d


class SegmentationHead(nn.Sequential):
    """3x3 convolutions, dilated where a classifier has stride 2, each with a ReLU.

    [N, C, H, W] -> [N, widths[-1], H, W], `out_channels` of them; the sum of 9ab + b over neighbouring widths a, b as
    parameters; receptive field 1 + 2 sum(dilations): 17 by default, every position read.

    Dilations 2, 4, 8 imitate three strides and reach 29, but alone they read every other position, 15 of 29 an axis.
    Behind a backbone that has mixed neighbours this does no harm; on raw input it does, and `convext.lint` says so.
    """

    def __init__(
        self, in_channels: int = 64, widths: Sequence[int] = (128, 256, 512), dilations: Sequence[int] = (1, 2, 5)
    ) -> None:
        layers: list[nn.Module] = []
        for (a, b), dilation in zip(pairwise((in_channels, *widths)), dilations, strict=True):
            layers += [DilatedConv2d(a, b, 3, dilation), nn.ReLU()]
        super().__init__(*layers)
        self.out_channels = widths[-1]
